//! A Kafka with a listener of each kind, the certificates of it and of its clients, and who gives tokens.
//!
//! Its listener in the clear is for those who write and look; each other one lets in only whom it should. Sessions are short,
//! so that whoever is connected for some seconds has to say anew who they are.

use std::fs;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose, date_time_ymd,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use tempfile::TempDir;

use super::kafka::{self, Kafka, free_port};
use super::reaper;

/// Who the clients are.
pub(crate) const USER: &str = "agent";

/// Their password, which nobody may print.
pub(crate) const PASSWORD: &str = "hush-7c1f";

/// A user whose password a test changes.
pub(crate) const CHANGED: &str = "changed";

/// How long a broker believes who a client has said it is.
const SESSION_MS: u32 = 5_000;

/// How long a token is good, seconds.
const TOKEN_SECONDS: u64 = 20;

/// The listeners besides the one in the clear: name, protocol, mechanism.
const LISTENERS: [(&str, &str, &str); 11] = [
    ("TLS", "SSL", ""),
    ("MTLS", "SSL", ""),
    ("PLAIN", "SASL_PLAINTEXT", "PLAIN"),
    ("SCRAM256", "SASL_PLAINTEXT", "SCRAM-SHA-256"),
    ("SCRAM512", "SASL_PLAINTEXT", "SCRAM-SHA-512"),
    ("OAUTH", "SASL_PLAINTEXT", "OAUTHBEARER"),
    ("TLSPLAIN", "SASL_SSL", "PLAIN"),
    ("TLSSCRAM256", "SASL_SSL", "SCRAM-SHA-256"),
    ("TLSSCRAM512", "SASL_SSL", "SCRAM-SHA-512"),
    ("TLSOAUTH", "SASL_SSL", "OAUTHBEARER"),
    // Its certificate is over.
    ("EXPIRED", "SSL", ""),
];

/// Names of properties with their values.
pub(crate) type Properties = Vec<(String, String)>;

/// The broker, and what belongs to it. Fields drop in order.
pub(crate) struct Secure {
    kafka: Kafka,
    tokens: Tokens,
    ports: Vec<(&'static str, u16)>,
    authority: Authority,
    folder: TempDir,
}

impl Secure {
    /// Starts one.
    pub(crate) fn start() -> Self {
        let folder = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("the target folder is writable");
        reaper::remove_at_end(folder.path());
        let authority = Authority::new("tests");
        let file = |name: &str| folder.path().join(name);
        authority.write(&file("ca.pem"));
        fs::copy(file("ca.pem"), file("clients-ca.pem")).expect("written");
        authority.sign("broker", 2100).write_store(&file("broker.pem"));
        authority.sign("broker", 2020).write_store(&file("expired.pem"));
        authority.sign("client", 2100).write(&file("client"));
        authority.sign("client", 2020).write(&file("expired-client"));
        let ports: Vec<_> = LISTENERS.iter().map(|(name, ..)| (*name, free_port())).collect();
        let scram = |mechanism: &str, user: &str| format!("{mechanism}=[name={user},password={PASSWORD}]");
        let users = [scram("SCRAM-SHA-256", USER), scram("SCRAM-SHA-512", USER), scram("SCRAM-SHA-256", CHANGED)];
        let formatted: Vec<&str> = users.iter().flat_map(|user| ["--add-scram", user]).collect();
        let kafka = Kafka::start_with(|plain, controller| config(folder.path(), &ports, plain, controller), &formatted);
        let tokens = Tokens::start(&authority.sign("tokens", 2100));
        Self { kafka, tokens, ports, authority, folder }
    }

    /// Returns the broker, in the clear.
    pub(crate) fn kafka(&self) -> &Kafka {
        &self.kafka
    }

    /// Returns the broker, to stop it and start it again.
    pub(crate) fn kafka_mut(&mut self) -> &mut Kafka {
        &mut self.kafka
    }

    /// Returns who gives tokens.
    pub(crate) fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// Returns who signs.
    pub(crate) fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Returns a file, as `ca.pem`, `client.crt`, `client.key`.
    pub(crate) fn file(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// Returns the names of the listeners that let somebody in, the one in the clear first.
    pub(crate) fn listeners() -> impl Iterator<Item = &'static str> {
        ["CLEAR"].into_iter().chain(LISTENERS.iter().map(|(name, ..)| *name).filter(|name| *name != "EXPIRED"))
    }

    /// Returns the address of a listener.
    pub(crate) fn address(&self, listener: &str) -> String {
        let port = self.ports.iter().find(|(name, _)| *name == listener).map(|(_, port)| *port);
        port.map_or_else(|| self.kafka.brokers().to_owned(), |port| format!("127.0.0.1:{port}"))
    }

    /// Returns what a client of a listener has to be told, but for its address.
    pub(crate) fn properties(&self, listener: &str) -> Properties {
        let Some((_, protocol, mechanism)) = LISTENERS.iter().find(|(name, ..)| *name == listener) else {
            return Vec::new();
        };
        let mut said = vec![("security.protocol", (*protocol).to_owned())];
        if protocol.ends_with("SSL") {
            said.push(("ssl.ca.location", self.file("ca.pem")));
        }
        if listener == "MTLS" {
            said.push(("ssl.certificate.location", self.file("client.crt")));
            said.push(("ssl.key.location", self.file("client.key")));
        }
        match *mechanism {
            "" => {}
            "OAUTHBEARER" => said.extend([
                ("https.ca.location", self.file("ca.pem")),
                ("sasl.mechanism", (*mechanism).to_owned()),
                ("sasl.oauthbearer.method", "oidc".to_owned()),
                ("sasl.oauthbearer.client.id", USER.to_owned()),
                ("sasl.oauthbearer.client.secret", PASSWORD.to_owned()),
                ("sasl.oauthbearer.scope", "kafka".to_owned()),
                ("sasl.oauthbearer.token.endpoint.url", self.tokens.url(protocol.ends_with("SSL"))),
            ]),
            _ => said.extend([
                ("sasl.mechanism", (*mechanism).to_owned()),
                ("sasl.username", USER.to_owned()),
                ("sasl.password", PASSWORD.to_owned()),
            ]),
        }
        said.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// Changes the password of a user of SCRAM-SHA-256.
    pub(crate) fn change_password(&self, user: &str, password: &str) {
        let config = format!("SCRAM-SHA-256=[password={password}]");
        let whose = ["--entity-type", "users", "--entity-name", user];
        let change = ["--bootstrap-server", self.kafka.brokers(), "--alter", "--add-config", &config];
        let _ = kafka::tool("kafka.admin.ConfigCommand", &[&change[..], &whose].concat());
    }
}

/// Returns what the broker is told of its listeners.
fn config(folder: &Path, ports: &[(&str, u16)], plain: u16, controller: u16) -> String {
    let mut listeners = vec![("PLAINTEXT", plain)];
    listeners.extend_from_slice(ports);
    let addresses: Vec<_> = listeners.iter().map(|(name, port)| format!("{name}://127.0.0.1:{port}")).collect();
    let protocols: Vec<_> = LISTENERS.iter().map(|(name, protocol, _)| format!("{name}:{protocol}")).collect();
    let store = |name: &str| folder.join(name).display().to_string();
    let mut said = format!(
        "listeners={addresses},CONTROLLER://127.0.0.1:{controller}
advertised.listeners={addresses}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,{protocols}
inter.broker.listener.name=PLAINTEXT
connections.max.reauth.ms={SESSION_MS}
ssl.keystore.type=PEM
ssl.keystore.location={}
ssl.truststore.type=PEM
ssl.truststore.location={}
listener.name.mtls.ssl.client.auth=required
listener.name.mtls.ssl.truststore.type=PEM
listener.name.mtls.ssl.truststore.location={}
listener.name.expired.ssl.keystore.type=PEM
listener.name.expired.ssl.keystore.location={}
",
        store("broker.pem"),
        store("ca.pem"),
        store("clients-ca.pem"),
        store("expired.pem"),
        addresses = addresses.join(","),
        protocols = protocols.join(","),
    );
    let modules = "org.apache.kafka.common.security";
    for (name, _, mechanism) in LISTENERS.iter().filter(|(.., mechanism)| !mechanism.is_empty()) {
        let login = match *mechanism {
            "PLAIN" => format!("{modules}.plain.PlainLoginModule required user_{USER}=\"{PASSWORD}\";"),
            "OAUTHBEARER" => {
                format!(
                    "{modules}.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub=\"broker\";"
                )
            }
            _ => format!("{modules}.scram.ScramLoginModule required;"),
        };
        let (listener, lower) = (format!("listener.name.{}", name.to_lowercase()), mechanism.to_lowercase());
        said +=
            &format!("{listener}.sasl.enabled.mechanisms={mechanism}\n{listener}.{lower}.sasl.jaas.config={login}\n");
    }
    said
}

/// Who signs certificates.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, in PEM.
pub(crate) struct Certified {
    certificate: String,
    key: String,
}

impl Authority {
    /// Makes one.
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a certificate"))
    }

    /// Writes its own certificate.
    pub(crate) fn write(&self, file: &Path) {
        fs::write(file, self.0.pem()).expect("the folder is writable");
    }

    /// Signs a certificate of that name, for 127.0.0.1, that is good until that year begins.
    pub(crate) fn sign(&self, name: &str, until: i32) -> Certified {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("an address");
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_before = date_time_ymd(2019, 1, 1);
        params.not_after = date_time_ymd(until, 1, 1);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.0).expect("a certificate").pem();
        Certified { certificate, key: key.serialize_pem() }
    }
}

impl Certified {
    /// Writes `<file>.crt` and `<file>.key`.
    pub(crate) fn write(&self, file: &Path) {
        for (ending, pem) in [("crt", &self.certificate), ("key", &self.key)] {
            fs::write(file.with_extension(ending), pem).expect("the folder is writable");
        }
    }

    /// Returns both as they are given by themselves, the key encrypted.
    pub(crate) fn given(&self, password: &str) -> (String, String) {
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).expect("a key");
        let key = pkcs8::PrivateKeyInfo::try_from(key.secret_der()).expect("PKCS#8");
        let encryption = pkcs8::pkcs5::pbes2::Parameters::pbkdf2_sha256_aes256cbc(2048, b"saltsalt", &[7; 16]);
        let key = key.encrypt_with_params(encryption.expect("parameters"), password).expect("encrypted");
        let key = key.to_pem("ENCRYPTED PRIVATE KEY", pkcs8::LineEnding::LF).expect("PEM");
        (self.certificate.clone(), key.to_string())
    }

    /// Returns how a server speaks TLS that shows it.
    fn server(&self) -> ServerConfig {
        let chain = vec![CertificateDer::from_pem_slice(self.certificate.as_bytes()).expect("a certificate")];
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).expect("a key");
        let builder = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().expect("TLS");
        builder.with_no_client_auth().with_single_cert(chain, key).expect("they go together")
    }

    /// Writes both into one file, as Kafka has its stores of PEM.
    fn write_store(&self, file: &Path) {
        fs::write(file, format!("{}{}", self.key, self.certificate)).expect("the folder is writable");
    }
}

/// Gives tokens over HTTP and HTTPS, unsigned ones, to whom shows the client's secret.
pub(crate) struct Tokens {
    plain: String,
    ciphered: String,
    given: Arc<AtomicUsize>,
}

impl Tokens {
    fn start(shown: &Certified) -> Self {
        let given = Arc::new(AtomicUsize::new(0));
        let serve = |tls: Option<Arc<ServerConfig>>| {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
            let address = listener.local_addr().expect("bound").to_string();
            let given = given.clone();
            // It ends with the process.
            let _ = std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    // Who goes away in the middle has no answer.
                    let _ = match &tls {
                        None => answer(stream, &given),
                        Some(tls) => ServerConnection::new(tls.clone())
                            .map_err(std::io::Error::other)
                            .and_then(|tls| answer(StreamOwned::new(tls, stream), &given)),
                    };
                }
            });
            address
        };
        let (plain, ciphered) = (serve(None), serve(Some(Arc::new(shown.server()))));
        Self { plain, ciphered, given }
    }

    /// Returns where it is.
    pub(crate) fn url(&self, is_ciphered: bool) -> String {
        match is_ciphered {
            true => format!("https://{}/oauth2/token", self.ciphered),
            false => format!("http://{}/oauth2/token", self.plain),
        }
    }

    /// Returns how many tokens it has given.
    pub(crate) fn given(&self) -> usize {
        self.given.load(Ordering::Relaxed)
    }
}

fn answer(stream: impl Read + Write, given: &AtomicUsize) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        if let Some(bytes) = line.to_lowercase().strip_prefix("content-length:") {
            length = bytes.trim().parse().unwrap_or(0);
        }
        head += &line;
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let body = String::from_utf8_lossy(&body).into_owned();
    let basic = format!("Basic {}", STANDARD.encode(format!("{USER}:{PASSWORD}")));
    let is_right = head.starts_with("POST /oauth2/token")
        && head.contains(&basic)
        && body == "grant_type=client_credentials&scope=kafka";
    let (status, said) = match is_right {
        true => {
            given.fetch_add(1, Ordering::Relaxed);
            ("200 OK", format!(r#"{{"access_token": "{}", "expires_in": {TOKEN_SECONDS}}}"#, token(TOKEN_SECONDS)))
        }
        false => ("401 Unauthorized", r#"{"error": "invalid_client"}"#.to_owned()),
    };
    let stream = reader.get_mut();
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{said}", said.len())?;
    stream.flush()
}

/// Returns a token that is good for so long, as Kafka takes it where it is not told whose signatures to trust.
pub(crate) fn token(seconds: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let claims = format!(r#"{{"sub": "{USER}", "iat": {now}, "exp": {}}}"#, now + seconds);
    format!("{}.{}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#), URL_SAFE_NO_PAD.encode(claims))
}
