//! TLS to brokers, and to where tokens come from: whose certificates we believe, and the one that we show.
//!
//! It is made of PEM that is read each time; what is the same as the last time is not made again. Sessions are not
//! resumed: connections are few and last long, and a certificate that is not right any more is found out by the next one.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    AlertDescription as Alert, CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use xxhash_rust::xxh3::Xxh3;

use super::Security;
use crate::error::{Error, Result};
use crate::kafka::given::{self, value};
use crate::pem;

/// What TLS was spoken with last, and the number that stands for what it was made of.
#[derive(Debug, Default)]
pub(super) struct Tls(Mutex<Option<(u128, Arc<ClientConfig>)>>);

/// How much of a broker's certificate is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    /// That it is signed by an authority that we trust, and for the name that we connected to.
    Name,
    /// That it is signed by an authority that we trust.
    Authority,
    /// Nothing.
    Nothing,
}

/// What the properties and the files that they name hold.
struct Material {
    /// `None`: those of this machine.
    authorities: Option<Vec<CertificateDer<'static>>>,
    /// Our certificate and its key, each with the name of its property.
    shown: Option<[(&'static str, Vec<u8>); 2]>,
    password: Option<String>,
    check: Check,
}

impl Tls {
    /// Returns what TLS to brokers is spoken with.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) naming the property and the file.
    pub(super) fn config(&self, read: &BTreeMap<String, String>) -> Result<Arc<ClientConfig>> {
        let material = Material::read(read)?;
        let stamp = material.stamp();
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((made_of, config)) = last.as_ref()
            && *made_of == stamp
        {
            return Ok(config.clone());
        }
        let config = Arc::new(material.config()?);
        *last = Some((stamp, config.clone()));
        Ok(config)
    }
}

/// Returns a number that stands for what the files hold; `None` where they cannot be read.
pub(super) fn stamp(read: &BTreeMap<String, String>) -> Option<u128> {
    Material::read(read).ok().map(|material| material.stamp())
}

/// Returns what HTTPS to the endpoint of tokens is spoken with, by `https.ca.location` and `https.ca.pem`.
///
/// # Errors
/// As [`Tls::config`].
pub(super) fn of_https(read: &BTreeMap<String, String>) -> Result<ClientConfig> {
    let authorities = authorities(read, "https.ca.location", "https.ca.pem")?;
    Material { authorities, shown: None, password: None, check: Check::Name }.config()
}

/// Returns what is given to a client of HTTP that speaks no TLS, and wants it all the same.
///
/// # Errors
/// None that can be met.
pub(super) fn of_http() -> Result<ClientConfig> {
    Material { authorities: Some(Vec::new()), shown: None, password: None, check: Check::Name }.config()
}

/// Returns the name in a broker's certificate, of its `host:port`.
///
/// # Errors
/// [`Kind::Failed`](crate::error::Kind::Failed) for what is neither a name nor an address.
pub(in crate::kafka) fn broker_name(broker: &str) -> Result<ServerName<'static>> {
    let host = broker.rsplit_once(':').map_or(broker, |(host, _)| host);
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    ServerName::try_from(host.to_owned())
        .map_err(|error| Error::failed(format!("`{host}` cannot be the name of a broker in TLS")).source(error))
}

impl Security {
    /// Makes words of what has gone wrong with TLS to a broker; `None` for what has nothing to do with it.
    pub(in crate::kafka) fn explained(&self, broker: &str, error: &io::Error) -> Option<Error> {
        let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
        let (what, hint) = match error {
            rustls::Error::InvalidCertificate(wrong) => of_broker(broker, wrong),
            rustls::Error::AlertReceived(alert) => of_ours(broker, *alert, self.shows_certificate()),
            rustls::Error::InvalidMessage(_) => (
                format!("broker {broker} does not speak TLS on that port"),
                "name a TLS listener, or correct `security.protocol`".to_owned(),
            ),
            other => (format!("TLS with broker {broker} failed: {other}"), String::new()),
        };
        let error = self.refused(what);
        Some(if hint.is_empty() { error } else { error.hint(hint) })
    }

    fn shows_certificate(&self) -> bool {
        value(&self.given, &["ssl.certificate.location", "ssl.certificate.pem"]).is_some()
    }
}

/// Says what is wrong with a broker's certificate, and what to do.
fn of_broker(broker: &str, wrong: &CertificateError) -> (String, String) {
    match wrong {
        CertificateError::UnknownIssuer => (
            format!("the certificate of broker {broker} is signed by an authority that is not trusted"),
            "name the authority's certificate in `ssl.ca.location` or `ssl.ca.pem`".to_owned(),
        ),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => (
            format!("the certificate of broker {broker} has expired"),
            "give the broker a new one, or correct this machine's clock".to_owned(),
        ),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => (
            format!("the certificate of broker {broker} is not valid yet"),
            "correct this machine's clock, or the broker's certificate".to_owned(),
        ),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            let names = match wrong {
                CertificateError::NotValidForNameContext { presented, .. } if !presented.is_empty() => {
                    let names: Vec<&str> = presented.iter().map(|name| name_in(name)).collect();
                    format!("other names ({})", names.join(", "))
                }
                _ => "other names".to_owned(),
            };
            let hint = "connect by a name that is in its subjectAltName, have this one added there, or set \
                        `ssl.endpoint.identification.algorithm` to none";
            (format!("the certificate of broker {broker} is for {names}"), hint.to_owned())
        }
        other => (
            format!("the certificate of broker {broker} cannot be verified: {other}"),
            "correct the broker's certificate, or `ssl.ca.location`".to_owned(),
        ),
    }
}

/// Returns the name itself of one that is written with its kind, as `DnsName("a")`.
fn name_in(shown: &str) -> &str {
    let inside = shown.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    inside.unwrap_or(shown).trim_matches('"')
}

/// Says what the broker has against us.
fn of_ours(broker: &str, alert: Alert, shows: bool) -> (String, String) {
    const OURS: &str =
        "correct `ssl.certificate.location` and `ssl.key.location`, or have the broker trust its authority";
    const NONE: &str = "give one in `ssl.certificate.location` and `ssl.key.location` (or `….pem`)";
    match alert {
        Alert::CertificateExpired => {
            (format!("broker {broker} says that our certificate has expired"), "renew it".to_owned())
        }
        Alert::CertificateRequired
        | Alert::BadCertificate
        | Alert::CertificateUnknown
        | Alert::UnknownCA
        | Alert::UnsupportedCertificate
        | Alert::CertificateRevoked
        | Alert::AccessDenied
        | Alert::DecryptError => match shows {
            true => (format!("broker {broker} does not take our certificate ({alert:?})"), OURS.to_owned()),
            false => (format!("broker {broker} wants a certificate of ours ({alert:?})"), NONE.to_owned()),
        },
        Alert::HandshakeFailure | Alert::ProtocolVersion | Alert::InsufficientSecurity => (
            format!("broker {broker} and we have no version or suite of TLS in common, or no kind of key ({alert:?})"),
            "allow TLS 1.2 or 1.3 there (`ssl.enabled.protocols`)".to_owned(),
        ),
        other => (format!("broker {broker} has ended TLS ({other:?})"), String::new()),
    }
}

impl Material {
    fn read(read: &BTreeMap<String, String>) -> Result<Self> {
        let authorities = authorities(read, "ssl.ca.location", "ssl.ca.pem")?;
        let certificate = of_either(read, "ssl.certificate.location", "ssl.certificate.pem")?;
        let key = of_either(read, "ssl.key.location", "ssl.key.pem")?;
        let shown = match (certificate, key) {
            (Some(certificate), Some(key)) => Some([certificate, key]),
            (None, None) => None,
            (Some((name, _)), None) => {
                return Err(Error::usage(format!("`{name}` is set, and no key for it"))
                    .hint("add `ssl.key.location` or `ssl.key.pem`"));
            }
            (None, Some((name, _))) => {
                return Err(Error::usage(format!("`{name}` is set, and no certificate for it"))
                    .hint("add `ssl.certificate.location` or `ssl.certificate.pem`"));
            }
        };
        let password = value(read, &["ssl.key.password"]).map(str::to_owned);
        Ok(Self { authorities, shown, password, check: check(read)? })
    }

    fn stamp(&self) -> u128 {
        let mut digest = Xxh3::new();
        let mut add = |bytes: &[u8]| {
            digest.update(&bytes.len().to_le_bytes());
            digest.update(bytes);
        };
        add(&[self.check as u8, self.authorities.is_some().into(), self.password.is_some().into()]);
        self.authorities.iter().flatten().for_each(|authority| add(authority));
        self.shown.iter().flatten().for_each(|(_, pem)| add(pem));
        add(self.password.as_deref().unwrap_or_default().as_bytes());
        digest.digest128()
    }

    fn config(&self) -> Result<ClientConfig> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::failed("TLS cannot be spoken").source(error))?;
        let roots = match (&self.authorities, self.check) {
            (_, Check::Nothing) => RootCertStore::empty(),
            (Some(authorities), _) => roots(authorities)?,
            (None, _) => roots_of_machine()?,
        };
        let builder = match self.check {
            Check::Name => builder.with_root_certificates(roots),
            check => builder.dangerous().with_custom_certificate_verifier(Lenient::new(check, roots, &provider)),
        };
        let mut config = match &self.shown {
            None => builder.with_no_client_auth(),
            Some([(certificate, chain), (key, private)]) => {
                let chain = pem::certificates(chain).map_err(|reason| wrong(certificate, reason))?;
                let private =
                    pem::private_key(private, self.password.as_deref()).map_err(|reason| wrong_key(key, reason))?;
                builder.with_client_auth_cert(chain, private).map_err(|error| {
                    Error::usage(format!("`{certificate}` and `{key}` do not go together")).source(error)
                })?
            }
        };
        config.resumption = Resumption::disabled();
        Ok(config)
    }
}

fn check(read: &BTreeMap<String, String>) -> Result<Check> {
    const VERIFICATION: &str = "enable.ssl.certificate.verification";
    const NAME: &str = "ssl.endpoint.identification.algorithm";
    let is_verified = match value(read, &[VERIFICATION]).map(str::trim) {
        None | Some("true" | "t" | "1") => true,
        Some("false" | "f" | "0") => false,
        Some(other) => return Err(Error::usage(format!("`{VERIFICATION}` is `{other}`")).hint("it is true or false")),
    };
    let has_name = match value(read, &[NAME]).map(str::trim) {
        None | Some("https") => true,
        Some("none") => false,
        Some(other) => return Err(Error::usage(format!("`{NAME}` is `{other}`")).hint("it is https or none")),
    };
    Ok(match (is_verified, has_name) {
        (true, true) => Check::Name,
        (true, false) => Check::Authority,
        (false, _) => Check::Nothing,
    })
}

/// Reads PEM that is given by itself or lies in a file.
fn of_either(
    read: &BTreeMap<String, String>,
    location: &'static str,
    inline: &'static str,
) -> Result<Option<(&'static str, Vec<u8>)>> {
    if let Some(pem) = value(read, &[inline]) {
        return Ok(Some((inline, pem.as_bytes().to_vec())));
    }
    let Some(path) = value(read, &[location]) else { return Ok(None) };
    Ok(Some((location, file(location, path)?)))
}

/// Reads the certificates of authorities, from a file, a folder of files, and what is given by itself; `None` where nothing
/// is said.
fn authorities(
    read: &BTreeMap<String, String>,
    location: &'static str,
    inline: &'static str,
) -> Result<Option<Vec<CertificateDer<'static>>>> {
    let path = value(read, &[location]).filter(|path| *path != "probe");
    let mut found = Vec::new();
    match path.map(Path::new) {
        Some(folder) if folder.is_dir() => {
            let loaded = rustls_native_certs::load_certs_from_paths(None, Some(folder));
            if loaded.certs.is_empty() {
                let reason = loaded.errors.first().map_or("it holds no certificate".to_owned(), ToString::to_string);
                return Err(wrong(location, format!("{}: {reason}", folder.display())));
            }
            found.extend(loaded.certs);
        }
        Some(path) => {
            let pem = file(location, &path.display().to_string())?;
            let read = pem::certificates(&pem);
            found.extend(read.map_err(|reason| wrong(location, format!("{}: {reason}", path.display())))?);
        }
        None => {}
    }
    if let Some(pem) = value(read, &[inline]) {
        found.extend(pem::certificates(pem.as_bytes()).map_err(|reason| wrong(inline, reason))?);
    }
    Ok((!found.is_empty()).then_some(found))
}

fn file(name: &str, path: &str) -> Result<Vec<u8>> {
    given::read_bytes(path).map_err(|error| Error::usage(format!("`{name}`: cannot read {path}")).source(error))
}

fn roots(authorities: &[CertificateDer<'static>]) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        let added = roots.add(authority.clone());
        added.map_err(|error| Error::usage("a certificate of an authority cannot be used").source(error))?;
    }
    Ok(roots)
}

/// Returns the authorities that this machine trusts, read once.
fn roots_of_machine() -> Result<RootCertStore> {
    static MACHINE: OnceLock<RootCertStore> = OnceLock::new();
    let roots = MACHINE.get_or_init(|| {
        let mut roots = RootCertStore::empty();
        let _ = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        roots
    });
    if roots.is_empty() {
        return Err(Error::usage("this machine has no certificates of authorities")
            .hint("install them (ca-certificates), or name yours in `ssl.ca.location` or `ssl.ca.pem`"));
    }
    Ok(roots.clone())
}

fn wrong(name: &str, reason: String) -> Error {
    Error::usage(format!("`{name}`: {reason}"))
}

fn wrong_key(name: &str, reason: String) -> Error {
    wrong(name, reason).hint("its password is `ssl.key.password`")
}

/// Believes a broker's certificate by less than all that could be checked, as it was told.
#[derive(Debug)]
struct Lenient {
    check: Check,
    roots: RootCertStore,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Lenient {
    fn new(check: Check, roots: RootCertStore, provider: &CryptoProvider) -> Arc<Self> {
        Arc::new(Self { check, roots, algorithms: provider.signature_verification_algorithms })
    }
}

impl ServerCertVerifier for Lenient {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.check != Check::Nothing {
            let shown = ParsedCertificate::try_from(shown)?;
            verify_server_cert_signed_by_trust_anchor(&shown, &self.roots, between, now, self.algorithms.all)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, shown, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, shown, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_is_named_as_its_certificate_names_it() {
        for (broker, name) in
            [("kafka-1.example:9093", "kafka-1.example"), ("127.0.0.1:1", "127.0.0.1"), ("[::1]:1", "::1")]
        {
            assert_eq!(broker_name(broker).expect("a name").to_str(), name);
        }
        assert!(broker_name("a b:1").is_err());
    }

    #[test]
    fn the_names_in_a_certificate_are_shown_as_they_are() {
        let shown = ["DnsName(\"a.example\")", "IpAddress(127.0.0.1)", "a.example"].map(name_in);
        assert_eq!(shown, ["a.example", "127.0.0.1", "a.example"]);
    }

    #[test]
    fn what_is_checked_is_what_librdkafkas_properties_say() {
        let of = |pairs: &[(&str, &str)]| {
            check(&pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect())
        };
        let (verify, name) = ("enable.ssl.certificate.verification", "ssl.endpoint.identification.algorithm");
        assert_eq!(of(&[]).expect("the default"), Check::Name);
        assert_eq!(of(&[(name, "none")]).expect("librdkafka's"), Check::Authority);
        assert_eq!(of(&[(verify, "false")]).expect("librdkafka's"), Check::Nothing);
        assert!(of(&[(name, "http")]).is_err() && of(&[(verify, "no")]).is_err());
    }
}
