//! How brokers are spoken to: in the clear or over TLS, and as whom.
//!
//! Everything comes from librdkafka's properties. They are checked when they are read, with the files that they name; and
//! what a file holds (`….location`, `${file:…}`, a token) is read again for each new connection, so that certificates,
//! keys, passwords and tokens may be changed while the program runs.
//!
//! Both clients agree: what rdkafka cannot do as we do, or does otherwise by itself, is put right in
//! [`Security::for_librdkafka`]; what we cannot do and rdkafka could is refused. Secrets are in no message.

mod java;
mod oauth;
mod scram;
mod tls;
mod token;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustls::ClientConfig;

pub(crate) use self::java::from_java;
pub(super) use self::oauth::first_message as bearer;
pub(super) use self::scram::{Hash, Scram};
use self::tls::Tls;
pub(super) use self::tls::broker_name;
pub(super) use self::token::Token;
use self::token::Tokens;
use super::given::{self, value};
use crate::error::{Error, Result};

/// What `security.protocol` may be.
const PROTOCOLS: &str = "it is one of plaintext, ssl, sasl_plaintext, sasl_ssl";

/// What `sasl.mechanism` may be.
const MECHANISMS: &str = "it is one of PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER";

/// Properties by which rdkafka would do what the wire client does not, with what to do instead. To take them and do
/// nothing would leave one of the clients less safe than it was told to be.
const UNSPOKEN: [(&str, &str); 9] = [
    ("ssl.keystore.location", PKCS12),
    ("ssl.keystore.password", PKCS12),
    ("ssl.crl.location", "lists of revoked certificates are not looked at: leave it out"),
    ("ssl.cipher.suites", "leave it out: the suites of TLS 1.2 and 1.3 that are held to be safe are offered"),
    ("ssl.curves.list", "leave it out"),
    ("ssl.sigalgs.list", "leave it out"),
    ("ssl.providers", "leave it out"),
    ("ssl.engine.location", "leave it out"),
    ("ssl.engine.id", "leave it out"),
];
const PKCS12: &str = "make PEM of it (openssl pkcs12 -in FILE -out client.pem), and name that in `ssl.certificate.location` \
                      and `ssl.key.location`";

/// The protocol of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Protocol {
    /// Whether TLS is spoken.
    pub has_tls: bool,
    /// Whether we say who we are, by SASL.
    pub has_sasl: bool,
}

/// A way of saying who we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    /// PLAIN: the password itself.
    Plain,
    /// SCRAM, by that hash.
    Scram(Hash),
    /// OAUTHBEARER: a token.
    OauthBearer,
}

/// Who we are, as read just now.
pub(super) enum Credentials {
    /// A user and a password.
    Password { user: String, password: String },
    /// A token, and the extensions beside it.
    Token { token: Arc<Token>, extensions: Vec<(String, String)> },
}

/// How brokers are spoken to. Clones share what was read.
#[derive(Clone)]
pub struct Security {
    /// The protocol of the listeners.
    pub protocol: Protocol,
    /// How we say who we are; `None` where we do not.
    pub mechanism: Option<Mechanism>,
    /// The properties as they were given, with their references.
    given: Arc<BTreeMap<String, String>>,
    tls: Arc<Tls>,
    tokens: Arc<Tokens>,
    /// Whether a broker has taken us for who we say we are.
    accepted: Arc<AtomicBool>,
}

impl Security {
    /// Reads what of these properties concerns security, and the files that they name.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) for what is wrong, missing, cannot be spoken, or cannot be read.
    pub(super) fn new(given: &BTreeMap<String, String>) -> Result<Self> {
        let mut given = given.clone();
        given.retain(|name, _| given::is_renewed(name) || name == "security.protocol");
        let read = resolved(&given).map_err(Error::usage)?;
        let protocol = protocol(&read)?;
        let mechanism = if protocol.has_sasl { Some(mechanism(&read)?) } else { None };
        let (tls, tokens) = (Arc::new(Tls::default()), Arc::new(Tokens::default()));
        if protocol.has_tls {
            for (name, instead) in UNSPOKEN {
                if value(&read, &[name]).is_some() {
                    return Err(Error::usage(format!("`{name}` is not supported")).hint(instead));
                }
            }
            drop(tls.config(&read)?);
        }
        match mechanism {
            Some(Mechanism::OauthBearer) => drop(oauth::Source::of(&read)?),
            Some(_) => drop(password_of(&read)?),
            None => {}
        }
        Ok(Self { protocol, mechanism, given: Arc::new(given), tls, tokens, accepted: Arc::default() })
    }

    /// Returns what TLS is spoken with, read again; `None` where it is not spoken.
    ///
    /// # Errors
    /// [`Kind::Transient`](crate::error::Kind::Transient) when a file cannot be read or does not hold what it should: it
    /// could before, and is perhaps being replaced.
    pub(super) fn tls(&self) -> Result<Option<Arc<ClientConfig>>> {
        if !self.protocol.has_tls {
            return Ok(None);
        }
        self.resolved().and_then(|read| self.tls.config(&read)).map(Some).map_err(changing)
    }

    /// Returns who we are, read again; where that is a token, one that is good for a while.
    ///
    /// # Errors
    /// As [`Security::tls`]; those of the token's endpoint.
    pub(super) async fn credentials(&self) -> Result<Credentials> {
        let read = self.resolved().map_err(changing)?;
        if self.mechanism != Some(Mechanism::OauthBearer) {
            let (user, password) = password_of(&read).map_err(changing)?;
            return Ok(Credentials::Password { user, password });
        }
        let source = oauth::Source::of(&read).map_err(changing)?;
        let token = self.tokens.get(&source).await?;
        Ok(Credentials::Token { token, extensions: source.extensions })
    }

    /// Takes note that a broker has taken us for who we say we are.
    pub(super) fn accept(&self) {
        self.accepted.store(true, Ordering::Relaxed);
    }

    /// Makes the error of a broker that refuses us, and forgets the token that it has refused. Who was accepted before
    /// may be again: passwords are changed here and there, one after the other.
    pub(super) fn refused(&self, what: String) -> Error {
        self.tokens.forget();
        match self.accepted.load(Ordering::Relaxed) {
            true => Error::transient(what),
            false => Error::failed(what),
        }
    }

    /// Returns a number that stands for all that is read from files, and is another when something of it has changed; `None`
    /// while it cannot be read. Tokens do not count.
    pub(super) fn stamp(&self) -> Option<u128> {
        let read = self.resolved().ok()?;
        let mut digest = xxhash_rust::xxh3::Xxh3::new();
        for (name, text) in &read {
            digest.update(name.as_bytes());
            digest.update(text.as_bytes());
        }
        if self.protocol.has_tls {
            digest.update(&tls::stamp(&read)?.to_le_bytes());
        }
        Some(digest.digest128())
    }

    /// Puts into rdkafka's `settings`, which hold the properties as they were given, what has to be there for it to do as we
    /// do: what references stand for, where the system's authorities lie, and no source of tokens, which we are
    /// ([`Security::token_now`]).
    ///
    /// # Errors
    /// As [`Security::tls`]; [`Kind::Usage`](crate::error::Kind::Usage) for what rdkafka cannot say.
    pub(super) fn for_librdkafka(&self, settings: &mut BTreeMap<String, String>) -> Result<()> {
        let read = self.resolved().map_err(changing)?;
        if self.protocol.has_tls && value(&read, &["ssl.ca.location", "ssl.ca.pem"]).is_none() {
            settings.insert("ssl.ca.location".to_owned(), "probe".to_owned());
        }
        settings.extend(read);
        let Some(mechanism) = self.mechanism else { return Ok(()) };
        settings.remove("sasl.mechanism");
        settings.insert("sasl.mechanisms".to_owned(), mechanism.to_string());
        if mechanism == Mechanism::OauthBearer {
            if !oauth::Source::of(settings).map_err(changing)?.extensions.is_empty() {
                return Err(Error::usage("a member of a group cannot send SASL extensions")
                    .hint("leave out `sasl.oauthbearer.extensions`, or group_id"));
            }
            let ours = ["sasl.oauthbearer.", "enable.sasl.oauthbearer.", "https."];
            settings.retain(|name, _| !ours.iter().any(|prefix| name.starts_with(prefix)));
        }
        Ok(())
    }

    /// Returns a token, as rdkafka asks for it: on a thread of its own, which waits.
    ///
    /// # Errors
    /// As [`Security::credentials`].
    pub(super) fn token_now(&self) -> Result<Arc<Token>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Error::failed("cannot wait for a token").source(error))?;
        match runtime.block_on(self.credentials())? {
            Credentials::Token { token, .. } => Ok(token),
            Credentials::Password { .. } => Err(Error::failed("a token is asked for where there is none")),
        }
    }

    /// Returns the properties that say who we are and how brokers are spoken to, with what references stand for now.
    fn resolved(&self) -> Result<BTreeMap<String, String>> {
        resolved(&self.given).map_err(Error::usage)
    }
}

impl std::fmt::Debug for Credentials {
    /// Never writes what is secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Security {
    /// Never writes a value: some are secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Security").field("protocol", &self.protocol).finish_non_exhaustive()
    }
}

impl std::fmt::Display for Mechanism {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Plain => "PLAIN",
            Self::Scram(Hash::Sha256) => "SCRAM-SHA-256",
            Self::Scram(Hash::Sha512) => "SCRAM-SHA-512",
            Self::OauthBearer => "OAUTHBEARER",
        })
    }
}

impl std::fmt::Display for Protocol {
    /// Writes librdkafka's name.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match (self.has_sasl, self.has_tls) {
            (false, false) => "plaintext",
            (false, true) => "ssl",
            (true, false) => "sasl_plaintext",
            (true, true) => "sasl_ssl",
        })
    }
}

/// Replaces references to files; the error is whole.
fn resolved(given: &BTreeMap<String, String>) -> std::result::Result<BTreeMap<String, String>, String> {
    let resolve = |(name, text): (&String, &String)| match given::resolve(text) {
        Ok(text) => Ok((name.clone(), text.into_owned())),
        Err(reason) => Err(format!("Kafka property `{name}`: {reason}")),
    };
    given.iter().map(resolve).collect()
}

/// What was right when the program began is wrong now: it may be right again.
fn changing(error: Error) -> Error {
    Error::transient(error.to_string())
}

fn protocol(read: &BTreeMap<String, String>) -> Result<Protocol> {
    let given = value(read, &["security.protocol"]).unwrap_or("plaintext").trim();
    let known = [(false, false), (false, true), (true, false), (true, true)];
    let known = known.map(|(has_sasl, has_tls)| Protocol { has_tls, has_sasl });
    let found = known.into_iter().find(|known| known.to_string().eq_ignore_ascii_case(given));
    found.ok_or_else(|| Error::usage(format!("`security.protocol` is `{given}`")).hint(PROTOCOLS))
}

fn mechanism(read: &BTreeMap<String, String>) -> Result<Mechanism> {
    let Some(given) = value(read, &["sasl.mechanisms", "sasl.mechanism"]).map(str::trim) else {
        return Err(Error::usage("`sasl.mechanism` is missing").hint(MECHANISMS));
    };
    let known =
        [Mechanism::Plain, Mechanism::Scram(Hash::Sha256), Mechanism::Scram(Hash::Sha512), Mechanism::OauthBearer];
    let found = known.into_iter().find(|known| known.to_string().eq_ignore_ascii_case(given));
    found.ok_or_else(|| {
        let what = format!("`sasl.mechanism` {given} is not supported");
        Error::usage(what).hint(format!("for now {MECHANISMS}; use a listener that has one of these"))
    })
}

fn password_of(read: &BTreeMap<String, String>) -> Result<(String, String)> {
    let needed = |name| {
        let given = value(read, &[name]).filter(|given| !given.is_empty());
        given.map(str::to_owned).ok_or_else(|| {
            Error::usage(format!("`{name}` is missing"))
                .hint("PLAIN and SCRAM need `sasl.username` and `sasl.password`")
        })
    };
    Ok((needed("sasl.username")?, needed("sasl.password")?))
}

#[cfg(test)]
mod tests;
