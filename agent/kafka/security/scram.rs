//! SCRAM ([RFC 5802](https://www.rfc-editor.org/rfc/rfc5802)), the client's part. Pure: messages in, messages out; the
//! cryptography is ring's.
//!
//! The server proves too that it knows the password: an answer without that proof is an error. As Kafka does it, user and
//! password are taken as they are written (no SASLprep), and a channel is not bound.

use std::num::NonZeroU32;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::{digest, hmac, pbkdf2};

/// Fewer iterations than this are no protection of the password against who listens (RFC 7677); Kafka has no fewer.
const LEAST_ITERATIONS: u32 = 4096;

/// More than this would have us compute for a broker that asks for nonsense. Kafka has at most 16,384.
const MOST_ITERATIONS: u32 = 1 << 18;

/// The random bytes of our nonce.
const NONCE_BYTES: usize = 24;

/// What begins our first message: no channel is bound, nobody else is authorized.
const HEADER: &str = "n,,";

/// The hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hash {
    /// SHA-256.
    Sha256,
    /// SHA-512.
    Sha512,
}

/// An exchange.
pub(in crate::kafka) struct Scram {
    hash: Hash,
    /// Our first message without its header.
    first: String,
    nonce: String,
    password: String,
    /// The server's key and what it has to sign with it, once that is known.
    expected: Option<(hmac::Key, String)>,
}

impl Scram {
    /// Begins an exchange.
    ///
    /// # Errors
    /// The reason, when this machine has no random numbers.
    pub(in crate::kafka) fn new(hash: Hash, user: &str, password: &str) -> Result<Self, String> {
        let mut random = [0; NONCE_BYTES];
        SystemRandom::new().fill(&mut random).map_err(|_| "this machine gives no random numbers")?;
        Ok(Self::with_nonce(hash, user, password, BASE64.encode(random)))
    }

    fn with_nonce(hash: Hash, user: &str, password: &str, nonce: String) -> Self {
        let first = format!("n={},r={nonce}", user.replace('=', "=3D").replace(',', "=2C"));
        Self { hash, first, nonce, password: password.to_owned(), expected: None }
    }

    /// Returns our first message.
    pub(in crate::kafka) fn first_message(&self) -> String {
        format!("{HEADER}{}", self.first)
    }

    /// Returns our last message, which proves that we know the password, for the server's first.
    ///
    /// # Errors
    /// Why the server's message cannot be taken.
    pub(in crate::kafka) fn last_message(&mut self, told: &[u8]) -> Result<String, String> {
        let told = std::str::from_utf8(told).map_err(|_| "its first message is no text")?;
        if let Some(reason) = told.strip_prefix("e=") {
            return Err(reason.to_owned());
        }
        let (nonce, salt, iterations) = self.parse(told).ok_or("its first message cannot be read")?;
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() {
            return Err("its nonce does not continue ours: somebody else answers".to_owned());
        }
        let range = LEAST_ITERATIONS..=MOST_ITERATIONS;
        let iterations = NonZeroU32::new(iterations).filter(|iterations| range.contains(&iterations.get()));
        let iterations = iterations.ok_or_else(|| format!("it asks for other than {range:?} iterations"))?;
        let (algorithm, mac, digest) = match self.hash {
            Hash::Sha256 => (pbkdf2::PBKDF2_HMAC_SHA256, hmac::HMAC_SHA256, &digest::SHA256),
            Hash::Sha512 => (pbkdf2::PBKDF2_HMAC_SHA512, hmac::HMAC_SHA512, &digest::SHA512),
        };
        let mut salted = vec![0; digest.output_len()];
        pbkdf2::derive(algorithm, iterations, &salt, self.password.as_bytes(), &mut salted);
        let sign = |key: &[u8], text: &[u8]| hmac::sign(&hmac::Key::new(mac, key), text);
        let client_key = sign(&salted, b"Client Key");
        let stored_key = digest::digest(digest, client_key.as_ref());
        let unproven = format!("c={},r={nonce}", BASE64.encode(HEADER));
        let exchanged = format!("{},{told},{unproven}", self.first);
        let signature = sign(stored_key.as_ref(), exchanged.as_bytes());
        let proof: Vec<u8> = client_key.as_ref().iter().zip(signature.as_ref()).map(|(key, sign)| key ^ sign).collect();
        let server_key = hmac::Key::new(mac, sign(&salted, b"Server Key").as_ref());
        self.expected = Some((server_key, exchanged));
        Ok(format!("{unproven},p={}", BASE64.encode(proof)))
    }

    /// Looks at the server's last message: whether it knows the password too.
    ///
    /// # Errors
    /// Why it is not believed.
    pub(in crate::kafka) fn finish(&self, told: &[u8]) -> Result<(), String> {
        let told = std::str::from_utf8(told).map_err(|_| "its last message is no text")?;
        if let Some(reason) = told.strip_prefix("e=") {
            return Err(reason.to_owned());
        }
        let proof = told.split(',').next().and_then(|first| first.strip_prefix("v="));
        let proof = proof.and_then(|proof| BASE64.decode(proof).ok()).ok_or("its last message cannot be read")?;
        let proven =
            self.expected.as_ref().is_some_and(|(key, text)| hmac::verify(key, text.as_bytes(), &proof).is_ok());
        match proven {
            true => Ok(()),
            false => Err("it does not prove that it knows the password: somebody else answers".to_owned()),
        }
    }

    /// Reads `r=…,s=…,i=…`, behind which there may be more.
    fn parse<'a>(&self, told: &'a str) -> Option<(&'a str, Vec<u8>, u32)> {
        let mut parts = told.split(',');
        let nonce = parts.next()?.strip_prefix("r=")?;
        let salt = BASE64.decode(parts.next()?.strip_prefix("s=")?).ok()?;
        let iterations = parts.next()?.strip_prefix("i=")?.parse().ok()?;
        Some((nonce, salt, iterations))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 7677, 3.
    fn example() -> Scram {
        Scram::with_nonce(Hash::Sha256, "user", "pencil", "rOprNGfwEbeRWgbNEkqO".to_owned())
    }
    const TOLD: &[u8] = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";

    #[test]
    fn the_example_of_the_standard_is_spoken() {
        let mut scram = example();
        assert_eq!(scram.first_message(), "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let last = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                    p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        assert_eq!(scram.last_message(TOLD).as_deref(), Ok(last));
        assert_eq!(scram.finish(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="), Ok(()));
    }

    #[test]
    fn a_server_that_does_not_know_the_password_is_not_believed() {
        let mut scram = example();
        scram.last_message(TOLD).expect("a proof");
        assert!(scram.finish(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G5=").is_err());
        assert!(scram.finish(b"v=").is_err() && scram.finish(b"").is_err());
        assert_eq!(scram.finish(b"e=invalid-proof"), Err("invalid-proof".to_owned()));
        assert!(example().finish(b"v=").is_err(), "before it could be known");
    }

    #[test]
    fn what_a_server_must_not_say_is_refused() {
        for told in [
            // Another's nonce, ours alone, too few iterations, too many, no salt, nothing.
            "r=other%hvYD,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
            "r=rOprNGfwEbeRWgbNEkqO,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
            "r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=1",
            "r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4000000000",
            "r=rOprNGfwEbeRWgbNEkqOx,s=?,i=4096",
            "m=ext,r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
            "",
        ] {
            assert!(example().last_message(told.as_bytes()).is_err(), "{told}");
        }
    }

    #[test]
    fn a_users_name_is_quoted_and_nonces_differ() {
        let one = Scram::new(Hash::Sha512, "a,b=c", "x").expect("random numbers");
        assert!(one.first_message().starts_with("n,,n=a=2Cb=3Dc,r="));
        let other = Scram::new(Hash::Sha512, "a,b=c", "x").expect("random numbers");
        assert_ne!(one.first_message(), other.first_message());
    }
}
