//! Where tokens of OAUTHBEARER come from, and how one is said to a broker
//! ([RFC 7628](https://www.rfc-editor.org/rfc/rfc7628)): an endpoint (OIDC client credentials), a file, or, for tests, made by
//! ourselves without a signature. The properties are librdkafka's; a file is named as Kafka's Java clients do, by a
//! `file://` URL for the endpoint.
//!
//! Retry: none here. Messages name the endpoint, never what is secret.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD as BASE64, URL_SAFE_NO_PAD as BASE64URL};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header;
use serde::Deserialize;
use xxhash_rust::xxh3::xxh3_128;

use super::tls;
use super::token::Token;
use crate::error::{Error, Result};
use crate::kafka::given::{self, value};

/// How long the endpoint may take: as long as a connection to a broker.
const WITHIN: Duration = Duration::from_secs(10);

/// What is shown of what an endpoint says of its refusal.
const SHOWN_CHARS: usize = 200;

const URL: &str = "sasl.oauthbearer.token.endpoint.url";
const CLIENT_ID: [&str; 2] = ["sasl.oauthbearer.client.id", "sasl.oauthbearer.client.credentials.client.id"];
const CLIENT_SECRET: [&str; 2] =
    ["sasl.oauthbearer.client.secret", "sasl.oauthbearer.client.credentials.client.secret"];

/// What is between the parts of a message.
const SEPARATOR: char = '\u{1}';

/// Where tokens come from.
pub(super) struct Source {
    kind: Kind,
    /// What is said beside the token.
    pub(super) extensions: Vec<(String, String)>,
}

enum Kind {
    /// Asked of an endpoint.
    Endpoint { url: reqwest::Url, client_id: String, secret: String, body: String, https: BTreeMap<String, String> },
    /// Read from a file.
    File(String),
    /// Made here.
    Unsecured(Unsecured),
}

/// A token that nobody has signed.
struct Unsecured {
    /// The claims, but for those about time.
    claims: serde_json::Map<String, serde_json::Value>,
    principal: String,
    life: Duration,
}

impl Source {
    /// Reads where tokens come from.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) for what is missing or cannot be done.
    pub(super) fn of(read: &BTreeMap<String, String>) -> Result<Self> {
        let mut extensions = extensions(value(read, &["sasl.oauthbearer.extensions"]).unwrap_or_default(), ',')?;
        if value(read, &["enable.sasl.oauthbearer.unsecure.jwt"]).is_some_and(|flag| flag.trim() == "true") {
            let config = value(read, &["sasl.oauthbearer.config"]).unwrap_or_default();
            let (unsecured, more) = Unsecured::of(config)?;
            extensions.extend(more);
            return Ok(Self { kind: Kind::Unsecured(unsecured), extensions });
        }
        for (name, default) in [
            ("sasl.oauthbearer.grant.type", "client_credentials"),
            ("sasl.oauthbearer.metadata.authentication.type", "none"),
        ] {
            if let Some(other) = value(read, &[name]).filter(|given| *given != default) {
                return Err(Error::usage(format!("`{name}` {other} is not supported")).hint(format!(
                    "for now it is {default}; a token may also come from a file: `{URL}` file:///path"
                )));
            }
        }
        let url = value(read, &[URL]).unwrap_or_default();
        let url = reqwest::Url::parse(url).map_err(|error| {
            Error::usage(format!("OAUTHBEARER needs a `{URL}`")).source(error).hint(format!(
                "it is the http or https URL of the endpoint, with `{}` and `{}`, or the file:// URL of a token",
                CLIENT_ID[0], CLIENT_SECRET[0]
            ))
        })?;
        if url.scheme() == "file" {
            let path = url.to_file_path().map_err(|()| Error::usage(format!("`{URL}` {url} names no file")))?;
            return Ok(Self { kind: Kind::File(path.display().to_string()), extensions });
        }
        if !matches!(url.scheme(), "http" | "https") {
            return Err(Error::usage(format!("`{URL}` is no http, https or file URL")));
        }
        let needed = |names: &[&str]| {
            let given = value(read, names).map(str::to_owned);
            given.ok_or_else(|| Error::usage(format!("`{}` is missing", names[0])).hint(format!("`{URL}` needs it")))
        };
        let (client_id, secret) = (needed(&CLIENT_ID)?, needed(&CLIENT_SECRET)?);
        let mut body = "grant_type=client_credentials".to_owned();
        if let Some(scope) = value(read, &["sasl.oauthbearer.scope"]).filter(|scope| !scope.is_empty()) {
            body.push_str(&format!("&scope={}", utf8_percent_encode(scope, NON_ALPHANUMERIC)));
        }
        let mut https = read.clone();
        https.retain(|name, _| name.starts_with("https."));
        if url.scheme() == "https" {
            drop(tls::of_https(&https)?);
        }
        Ok(Self { kind: Kind::Endpoint { url, client_id, secret, body, https }, extensions })
    }

    /// Returns a number that stands for whom is asked and as whom.
    pub(super) fn stamp(&self) -> u128 {
        match &self.kind {
            Kind::Endpoint { url, client_id, secret, body, .. } => {
                xxh3_128(format!("{url}\0{client_id}\0{secret}\0{body}").as_bytes())
            }
            Kind::File(path) => xxh3_128(path.as_bytes()),
            Kind::Unsecured(unsecured) => xxh3_128(unsecured.principal.as_bytes()),
        }
    }

    /// Returns whether a token costs a question to somebody, and is kept therefore.
    pub(super) fn is_asked(&self) -> bool {
        matches!(self.kind, Kind::Endpoint { .. })
    }

    /// Gets a new token.
    ///
    /// # Errors
    /// [`Kind::Transient`](crate::error::Kind::Transient) when the endpoint or the file is away,
    /// [`Kind::Failed`](crate::error::Kind::Failed) when the endpoint refuses us.
    pub(super) async fn fetch(&self) -> Result<Token> {
        match &self.kind {
            Kind::Endpoint { url, client_id, secret, body, https } => ask(url, (client_id, secret), body, https).await,
            Kind::File(path) => {
                let read = given::read(path);
                let text = read.map_err(|reason| Error::transient("there is no token").source(reason))?;
                match text.trim() {
                    "" => Err(Error::transient(format!("there is no token in {path}"))),
                    text => Ok(Token::new(text.to_owned(), None, "unknown")),
                }
            }
            Kind::Unsecured(unsecured) => Ok(unsecured.token()),
        }
    }
}

/// Returns what is said to a broker.
pub(in crate::kafka) fn first_message(token: &Token, extensions: &[(String, String)]) -> String {
    let mut message = format!("n,,{SEPARATOR}auth=Bearer {}{SEPARATOR}", token.text);
    for (name, value) in extensions {
        message.push_str(&format!("{name}={value}{SEPARATOR}"));
    }
    message.push(SEPARATOR);
    message
}

/// Asks the endpoint, with the client's id and secret as its user and password.
async fn ask(
    url: &reqwest::Url,
    (client_id, secret): (&str, &str),
    body: &str,
    https: &BTreeMap<String, String>,
) -> Result<Token> {
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Said {
        access_token: Option<String>,
        expires_in: Option<f64>,
        error: Option<String>,
        error_description: Option<String>,
    }
    let shown = shown(url);
    let away = |error: reqwest::Error| {
        let mut cause: &dyn std::error::Error = &error;
        while let Some(under) = cause.source() {
            cause = under;
        }
        Error::transient(format!("cannot get a token from {shown}")).source(cause.to_string()).hint(format!(
            "check `{URL}` and that something answers there; an https one is trusted by `https.ca.location` or `https.ca.pem`"
        ))
    };
    let tls = if url.scheme() == "https" { tls::of_https(https)? } else { tls::of_http()? };
    let client = reqwest::Client::builder().no_proxy().timeout(WITHIN).tls_backend_preconfigured(tls);
    let basic = format!("Basic {}", BASE64.encode(format!("{client_id}:{secret}")));
    let asked = client
        .build()
        .map_err(away)?
        .post(url.clone())
        .header(header::AUTHORIZATION, basic)
        .header(header::ACCEPT, "application/json")
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(body.to_owned());
    let answer = asked.send().await.map_err(|error| away(error.without_url()))?;
    let status = answer.status();
    let said = answer.bytes().await.map_err(|error| away(error.without_url()))?;
    let said: Said = serde_json::from_slice(&said).unwrap_or_default();
    if let Some(text) = said.access_token.filter(|_| status.is_success()) {
        let life = said.expires_in.filter(|seconds| (0.0..1e9).contains(seconds)).map(Duration::from_secs_f64);
        return Ok(Token::new(text, life, client_id));
    }
    let why: Vec<String> = [said.error, said.error_description].into_iter().flatten().collect();
    let why: String = why.join(": ").chars().take(SHOWN_CHARS).collect();
    let why = if why.is_empty() { String::new() } else { format!(" ({why})") };
    if status.is_client_error() && status.as_u16() != 429 {
        let hint = format!("correct `{}`, `{}` or `sasl.oauthbearer.scope`", CLIENT_ID[0], CLIENT_SECRET[0]);
        return Err(Error::failed(format!("{shown} gives us no token: {status}{why}")).hint(hint));
    }
    let hint = format!("check `{URL}`");
    Err(Error::transient(format!("{shown} has not answered with a token: {status}{why}")).hint(hint))
}

/// Returns a URL without what may be secret in it.
fn shown(url: &reqwest::Url) -> String {
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{}{port}{}", url.scheme(), url.host_str().unwrap_or_default(), url.path())
}

/// Reads `name=value` pairs.
fn extensions(text: &str, between: char) -> Result<Vec<(String, String)>> {
    let pairs = text.split(between).map(str::trim).filter(|pair| !pair.is_empty());
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=')?;
        let is_right = !name.is_empty()
            && name.chars().all(|c| c.is_ascii_alphabetic())
            && name != "auth"
            && value.chars().all(|c| c.is_ascii_graphic() || matches!(c, ' ' | '\t' | '\r' | '\n'));
        is_right.then(|| (name.to_owned(), value.to_owned()))
    };
    let pairs: Option<Vec<_>> = pairs.map(pair).collect();
    pairs.ok_or_else(|| {
        Error::usage("`sasl.oauthbearer.extensions` cannot be read")
            .hint("it is name=value, …; names are letters, and not auth")
    })
}

impl Unsecured {
    /// Reads librdkafka's `sasl.oauthbearer.config`, and the extensions in it.
    fn of(config: &str) -> Result<(Self, Vec<(String, String)>)> {
        const NAME: &str = "sasl.oauthbearer.config";
        let wrong = |reason: String| {
            let form = "principal=NAME scope=a,b lifeSeconds=3600 extension_NAME=VALUE";
            Error::usage(format!("`{NAME}`: {reason}")).hint(format!("it is written {form}"))
        };
        let mut given = BTreeMap::new();
        let mut extended = Vec::new();
        for part in config.split_whitespace() {
            let (name, value) = part.split_once('=').ok_or_else(|| wrong(format!("`{part}` is no name=value")))?;
            match name {
                "principalClaimName" | "principal" | "scopeClaimName" | "scope" | "lifeSeconds" => {
                    given.insert(name, value);
                }
                _ => match name.strip_prefix("extension_") {
                    Some(name) => extended.push(format!("{name}={value}")),
                    None => return Err(wrong(format!("`{name}` is not known"))),
                },
            }
        }
        let principal = given.get("principal").ok_or_else(|| wrong("a principal is missing".to_owned()))?;
        let seconds = given.get("lifeSeconds").map_or(Ok(3600), |seconds| seconds.parse::<u32>());
        let seconds = seconds.map_err(|_| wrong("lifeSeconds is no number".to_owned()))?;
        let mut claims = serde_json::Map::new();
        let claim = |name: &str, default: &str| given.get(name).map_or(default, |name| name).to_owned();
        claims.insert(claim("principalClaimName", "sub"), (*principal).into());
        if let Some(scope) = given.get("scope") {
            let scopes: Vec<_> = scope.split(',').collect();
            claims.insert(claim("scopeClaimName", "scope"), scopes.into());
        }
        let made = Self { claims, principal: (*principal).to_owned(), life: Duration::from_secs(seconds.into()) };
        Ok((made, extensions(&extended.join(","), ',')?))
    }

    fn token(&self) -> Token {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut claims = self.claims.clone();
        claims.insert("iat".to_owned(), now.as_secs_f64().into());
        claims.insert("exp".to_owned(), (now + self.life).as_secs_f64().into());
        let encode = |json: &str| BASE64URL.encode(json);
        let claims = serde_json::Value::Object(claims).to_string();
        Token::new(format!("{}.{}.", encode(r#"{"alg":"none"}"#), encode(&claims)), Some(self.life), &self.principal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(pairs: &[(&str, &str)]) -> Result<Source> {
        Source::of(&pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect())
    }

    #[test]
    fn what_tokens_need_is_named_when_it_is_missing() {
        let (id, secret) = ((CLIENT_ID[1], "me"), (CLIENT_SECRET[0], "hush"));
        for (pairs, named) in [
            (&[][..], URL),
            (&[(URL, "http://a/t")], CLIENT_ID[0]),
            (&[(URL, "http://a/t"), id], CLIENT_SECRET[0]),
            (&[(URL, "ftp://a/t"), id, secret], URL),
            (&[(URL, "http://a/t"), id, secret, ("sasl.oauthbearer.grant.type", "other")], "grant.type"),
            (&[(URL, "http://a/t"), id, secret, ("sasl.oauthbearer.extensions", "auth=x")], "extensions"),
            (&[("enable.sasl.oauthbearer.unsecure.jwt", "true")], "sasl.oauthbearer.config"),
        ] {
            let error = source(pairs).err().expect("wrong").to_string();
            assert!(error.contains(named) && !error.contains("hush"), "{error}");
        }
        assert!(source(&[(URL, "http://a/t"), id, secret]).is_ok());
    }

    #[tokio::test]
    async fn a_token_in_a_file_is_read_each_time() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let source = source(&[(URL, &format!("file://{}", file.path().display()))]).expect("a file's");
        assert!(source.fetch().await.expect_err("empty").retryable());
        for text in ["one", "two"] {
            std::fs::write(file.path(), format!("{text}\n")).expect("written");
            assert_eq!(source.fetch().await.expect("a token").text, text);
        }
    }

    #[tokio::test]
    async fn a_token_of_our_own_says_what_it_is_told_to() {
        let config = "principal=me scope=a,b lifeSeconds=60 extension_tenant=x";
        let made = source(&[("enable.sasl.oauthbearer.unsecure.jwt", "true"), ("sasl.oauthbearer.config", config)]);
        let made = made.expect("right");
        let token = made.fetch().await.expect("made");
        assert_eq!(token.subject, "me");
        assert!(token.expires <= SystemTime::now() + Duration::from_secs(60));
        let message = first_message(&token, &made.extensions);
        let wanted = format!("n,,\u{1}auth=Bearer {}\u{1}tenant=x\u{1}\u{1}", token.text);
        assert_eq!(message, wanted);
    }

    #[tokio::test]
    async fn an_endpoint_that_is_away_is_named_without_what_is_secret() {
        let url = "http://user:hush@127.0.0.1:1/token?key=hush";
        let away = source(&[(URL, url), (CLIENT_ID[0], "me"), (CLIENT_SECRET[0], "hush")]).expect("right");
        let error = away.fetch().await.expect_err("nobody is there");
        let text = error.to_string();
        assert!(error.retryable() && text.contains("http://127.0.0.1:1/token") && !text.contains("hush"), "{text}");
    }
}
