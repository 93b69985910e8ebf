//! TLS of the listener: its certificate, and whose certificates it takes of those who ask.
//!
//! Nobody has to show one: whoever may read without may go on to, and what a certificate allows is not decided here.
//!
//! The files are read at start, and again when they are told to be or have changed ([`Tls::renew`]): what they say holds for
//! connections from then on. Files that are wrong, or do not go together, change nothing, and the log says so.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{fmt, fs};

use rustls::RootCertStore;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::CertificateDer;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ServerConfig, WebPkiClientVerifier};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::error::{Error, Result};
use crate::pem;

/// The keys that name the files.
const CERTIFICATE: &str = "agent.tls.certificate";
const KEY: &str = "agent.tls.key";
const CLIENT_CA: &str = "agent.tls.client_ca";

/// How often it is looked whether the files have changed: whoever renews a certificate does so days before it ends.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// What TLS is spoken with. Clones share it.
#[derive(Clone)]
pub struct Tls(Arc<Inner>);

struct Inner {
    files: Files,
    held: Mutex<Held>,
}

/// What holds.
struct Held {
    acceptor: TlsAcceptor,
    /// The digest of what the files said.
    digest: u128,
}

/// Where it is read.
struct Files {
    certificate: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
}

/// What the files say.
struct Texts {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

/// A connection over TLS.
pub(super) struct Secured {
    pub(super) stream: TlsStream<TcpStream>,
    /// Whether its sender has shown a certificate that is right.
    pub(super) is_certified: bool,
}

impl Tls {
    /// Reads the certificate with those between it and its authority, its key, and the authorities whose certificates are
    /// taken of clients; all are PEM. It blocks.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) for a file that cannot be read or does not hold what it should, by its key.
    pub fn open(certificate: &Path, key: &Path, client_ca: Option<&Path>) -> Result<Self> {
        let files = Files {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            client_ca: client_ca.map(Path::to_owned),
        };
        let texts = files.read()?;
        let held = Held { acceptor: files.acceptor(&texts)?, digest: texts.digest() };
        Ok(Self(Arc::new(Inner { files, held: Mutex::new(held) })))
    }

    /// Reads the files again; returns whether they say something else, which then holds. It blocks.
    ///
    /// # Errors
    /// As [`open`](Self::open); what held before does so still.
    pub fn read_again(&self) -> Result<bool> {
        let texts = self.0.files.read()?;
        let digest = texts.digest();
        if self.held().digest == digest {
            return Ok(false);
        }
        let acceptor = self.0.files.acceptor(&texts)?;
        *self.held() = Held { acceptor, digest };
        Ok(true)
    }

    /// Reads the files again whenever they have changed, for ever.
    pub async fn renew(self) {
        let mut said = String::new();
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let tls = self.clone();
            let read = tokio::task::spawn_blocking(move || tls.read_again()).await;
            match read {
                Ok(Ok(is_new)) => {
                    if is_new {
                        tracing::info!("agent.tls: the certificates have changed, and hold from now on");
                    }
                    said.clear();
                }
                Ok(Err(error)) => {
                    let error = error.to_string();
                    // They may be written one after the other, and wrong for long.
                    if error != said {
                        tracing::error!("the certificates have changed, and those from before are kept: {error}");
                        said = error;
                    }
                }
                Err(error) => tracing::error!("reading the certificates again ended by a defect: {error}"),
            }
        }
    }

    pub(super) async fn accept(&self, stream: TcpStream) -> std::io::Result<Secured> {
        let acceptor = self.held().acceptor.clone();
        let stream = acceptor.accept(stream).await?;
        // One that is not right has ended the handshake.
        let is_certified = stream.get_ref().1.peer_certificates().is_some_and(|shown| !shown.is_empty());
        Ok(Secured { stream, is_certified })
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        // Whole after each change.
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Files {
    fn read(&self) -> Result<Texts> {
        let read = |key: &str, file: &Path| fs::read(file).map_err(|error| unreadable(key, file).source(error));
        Ok(Texts {
            certificate: read(CERTIFICATE, &self.certificate)?,
            key: read(KEY, &self.key)?,
            client_ca: self.client_ca.as_deref().map(|file| read(CLIENT_CA, file)).transpose()?,
        })
    }

    fn acceptor(&self, texts: &Texts) -> Result<TlsAcceptor> {
        let provider = Arc::new(ring::default_provider());
        let chain = certificates(CERTIFICATE, &self.certificate, &texts.certificate)?;
        let private = pem::private_key(&texts.key, None);
        let private = private.map_err(|reason| unreadable(KEY, &self.key).source(reason))?;
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::failed("TLS cannot be spoken").source(error))?;
        let builder = match self.client_ca.as_deref().zip(texts.client_ca.as_deref()) {
            None => builder.with_no_client_auth(),
            Some((file, text)) => builder.with_client_cert_verifier(verifier(file, text, provider)?),
        };
        let mut config = builder.with_single_cert(chain, private).map_err(|error| {
            Error::usage("agent.tls: the certificate and the key do not go together")
                .with("certificate", self.certificate.display())
                .with("key", self.key.display())
                .source(error)
        })?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

impl Texts {
    fn digest(&self) -> u128 {
        let client_ca = self.client_ca.as_deref().unwrap_or_default();
        let mut hasher = xxhash_rust::xxh3::Xxh3::new();
        for text in [&self.certificate, &self.key, client_ca] {
            hasher.update(&text.len().to_le_bytes());
            hasher.update(text);
        }
        hasher.digest128()
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

fn verifier(file: &Path, text: &[u8], provider: Arc<CryptoProvider>) -> Result<Arc<dyn ClientCertVerifier>> {
    let mut roots = RootCertStore::empty();
    for authority in certificates(CLIENT_CA, file, text)? {
        roots.add(authority).map_err(|error| unreadable(CLIENT_CA, file).source(error))?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .allow_unauthenticated()
        .build()
        .map_err(|error| unreadable(CLIENT_CA, file).source(error))
}

/// Reads the certificates of a file that says `text`, of which there is one at least.
fn certificates(key: &str, file: &Path, text: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    pem::certificates(text).map_err(|reason| unreadable(key, file).source(reason))
}

fn unreadable(key: &str, file: &Path) -> Error {
    Error::usage(format!("{key}: cannot read {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pem(name: &str) -> Vec<u8> {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/api").join(name);
        fs::read(file).expect("a file of the tests")
    }

    #[test]
    fn new_files_hold_and_wrong_ones_change_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        let write = |name: &str, text: &[u8]| fs::write(at(name), text).expect("written");
        write("crt", &pem("agent.crt"));
        write("key", &pem("agent.key"));
        write("ca", &pem("ca.crt"));
        let tls = Tls::open(&at("crt"), &at("key"), Some(&at("ca"))).expect("they go together");
        assert!(!tls.read_again().expect("they are as they were"));
        let held = || tls.held().digest;
        let first = held();
        write("key", &pem("client.key"));
        let error = tls.read_again().expect_err("another key").to_string();
        assert!(error.contains("do not go together"), "{error}");
        write("key", b"nothing");
        assert!(tls.read_again().expect_err("no key").to_string().starts_with("agent.tls.key: cannot read"));
        assert_eq!(held(), first, "what held before does so still");
        write("key", &pem("client.key"));
        write("crt", &pem("client.crt"));
        assert!(tls.read_again().expect("they go together") && held() != first);
    }
}
