//! TLS of the listener: its certificate, and whose certificates it takes of those who ask.
//!
//! Nobody has to show one: whoever may read without may go on to, and what a certificate allows is not decided here.
//! The files are read once, at start.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

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

/// What TLS is spoken with. Clones share it.
#[derive(Clone)]
pub struct Tls(TlsAcceptor);

/// A connection over TLS.
pub(super) struct Secured {
    pub(super) stream: TlsStream<TcpStream>,
    /// Whether its sender has shown a certificate that is right.
    pub(super) is_certified: bool,
}

impl Tls {
    /// Reads the certificate with those between it and its authority, its key, and the authorities whose certificates are
    /// taken of clients; all are PEM.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) for a file that cannot be read or does not hold what it should, by its key.
    pub fn open(certificate: &Path, key: &Path, client_ca: Option<&Path>) -> Result<Self> {
        let provider = Arc::new(ring::default_provider());
        let chain = certificates("agent.tls.certificate", certificate)?;
        let private = pem::private_key(&read("agent.tls.key", key)?, None);
        let private = private.map_err(|reason| unreadable("agent.tls.key", key).source(reason))?;
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::failed("TLS cannot be spoken").source(error))?;
        let builder = match client_ca {
            None => builder.with_no_client_auth(),
            Some(file) => builder.with_client_cert_verifier(verifier(file, provider)?),
        };
        let mut config = builder.with_single_cert(chain, private).map_err(|error| {
            Error::usage("agent.tls: the certificate and the key do not go together")
                .with("certificate", certificate.display())
                .with("key", key.display())
                .source(error)
        })?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self(TlsAcceptor::from(Arc::new(config))))
    }

    pub(super) async fn accept(&self, stream: TcpStream) -> std::io::Result<Secured> {
        let stream = self.0.accept(stream).await?;
        // One that is not right has ended the handshake.
        let is_certified = stream.get_ref().1.peer_certificates().is_some_and(|shown| !shown.is_empty());
        Ok(Secured { stream, is_certified })
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

fn verifier(file: &Path, provider: Arc<CryptoProvider>) -> Result<Arc<dyn ClientCertVerifier>> {
    const KEY: &str = "agent.tls.client_ca";
    let mut roots = RootCertStore::empty();
    for authority in certificates(KEY, file)? {
        roots.add(authority).map_err(|error| unreadable(KEY, file).source(error))?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .allow_unauthenticated()
        .build()
        .map_err(|error| unreadable(KEY, file).source(error))
}

/// Reads the certificates of a file, of which there is one at least.
fn certificates(key: &str, file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    pem::certificates(&read(key, file)?).map_err(|reason| unreadable(key, file).source(reason))
}

fn read(key: &str, file: &Path) -> Result<Vec<u8>> {
    std::fs::read(file).map_err(|error| unreadable(key, file).source(error))
}

fn unreadable(key: &str, file: &Path) -> Error {
    Error::usage(format!("{key}: cannot read {}", file.display()))
}
