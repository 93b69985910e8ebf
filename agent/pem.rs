//! Certificates and private keys in PEM, of the listener and of the clients alike. Pure.
//!
//! A key may be in PKCS#8 (encrypted too), PKCS#1 or SEC 1. What is not read, and why, is said in words for whoever made the
//! file; whose file it is, the caller says.

use pkcs8::{EncryptedPrivateKeyInfo, SecretDocument};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// The lines around an encrypted PKCS#8 key.
const ENCRYPTED: (&str, &str) = ("-----BEGIN ENCRYPTED PRIVATE KEY-----", "-----END ENCRYPTED PRIVATE KEY-----");

/// How to make a key that is read, of any that OpenSSL reads.
const CONVERT: &str = "convert it: openssl pkcs8 -topk8 -v2 aes-256-cbc -v2prf hmacWithSHA256 -in KEY";

/// Returns the certificates, of which there is one at least, in their order.
///
/// # Errors
/// The reason, without the name of the file.
pub(crate) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let read = read.map_err(|error| format!("it is not PEM: {error}"))?;
    if read.is_empty() { Err("it holds no certificate in PEM".to_owned()) } else { Ok(read) }
}

/// Returns the first private key, decrypted with `password` where it is encrypted.
///
/// # Errors
/// The reason, without the name of the file; nothing of the key or the password.
pub(crate) fn private_key(pem: &[u8], password: Option<&str>) -> Result<PrivateKeyDer<'static>, String> {
    let text = String::from_utf8_lossy(pem);
    if let Some(begin) = text.find(ENCRYPTED.0) {
        let end = text[begin..].find(ENCRYPTED.1).ok_or("it ends before the key does")? + begin + ENCRYPTED.1.len();
        let password = password.ok_or("the key is encrypted, and no password is given")?;
        return decrypt(&text[begin..end], password);
    }
    if text.contains("Proc-Type: 4,ENCRYPTED") {
        return Err(format!("the key is encrypted as OpenSSL did before PKCS#8; {CONVERT}"));
    }
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| match error {
        rustls::pki_types::pem::Error::NoItemsFound => "it holds no private key in PEM".to_owned(),
        error => format!("it is not PEM: {error}"),
    })
}

/// Decrypts a PKCS#8 key (PBES2, as OpenSSL and Java write it).
fn decrypt(pem: &str, password: &str) -> Result<PrivateKeyDer<'static>, String> {
    let (_, encrypted) = SecretDocument::from_pem(pem).map_err(|error| format!("it is not PEM: {error}"))?;
    let encrypted = EncryptedPrivateKeyInfo::try_from(encrypted.as_bytes())
        .map_err(|error| format!("the encryption of the key is not known ({error}); {CONVERT}"))?;
    let key = encrypted.decrypt(password).map_err(|error| match error {
        pkcs8::Error::EncryptedPrivateKey(pkcs8::pkcs5::Error::UnsupportedAlgorithm { oid }) => {
            format!("the encryption of the key ({oid}) is not known; {CONVERT}")
        }
        _ => "the password does not decrypt the key".to_owned(),
    })?;
    Ok(PrivatePkcs8KeyDer::from(key.as_bytes().to_vec()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An Ed25519 key, encrypted by `openssl pkcs8 -topk8 -v2 aes-256-cbc -v2prf hmacWithSHA256`; the password is `hush`.
    const KEY: &str = "-----BEGIN ENCRYPTED PRIVATE KEY-----
MIGbMFcGCSqGSIb3DQEFDTBKMCkGCSqGSIb3DQEFDDAcBAjWa5Vt7CjD3wICCAAw
DAYIKoZIhvcNAgkFADAdBglghkgBZQMEASoEEHdcAirjgz0bLlkM7AZQlyYEQCB2
YWN17Nyp6INKQAqRVJvj/RPtEhV8YtteItmW7k7qVMw5+iEpQWYKu7qBvyjoVnrM
dL91iAK4gH/kFQGMEYM=
-----END ENCRYPTED PRIVATE KEY-----";

    #[test]
    fn an_encrypted_key_is_read_with_its_password_alone() {
        assert!(private_key(KEY.as_bytes(), Some("hush")).is_ok());
        let wrong = private_key(KEY.as_bytes(), Some("rush")).expect_err("another password");
        assert_eq!(wrong, "the password does not decrypt the key");
        assert!(private_key(KEY.as_bytes(), None).expect_err("none").contains("no password is given"));
        // As Java's tools and OpenSSL write it: something in front, and other things behind.
        let among = format!("Bag Attributes\n{KEY}\n-----BEGIN CERTIFICATE-----\n");
        assert!(private_key(among.as_bytes(), Some("hush")).is_ok());
    }

    #[test]
    fn what_is_not_there_is_said() {
        assert_eq!(certificates(b"nothing"), Err("it holds no certificate in PEM".to_owned()));
        assert_eq!(private_key(b"nothing", None).expect_err("none"), "it holds no private key in PEM");
        let old = b"-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n";
        assert!(private_key(old, Some("hush")).expect_err("old").contains("openssl pkcs8"));
    }
}
