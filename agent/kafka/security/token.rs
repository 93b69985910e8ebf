//! A token of OAUTHBEARER, and the one that is held until it is time for the next.
//!
//! Whoever needs one waits for the same fetch. A token is used for four fifths of its life; when no new one can be had it is
//! used to its end, which is logged, unless a broker has refused it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use serde::Deserialize;
use tokio::sync::Mutex;

use super::oauth::Source;
use crate::error::Result;

/// How long a token is taken to be good that says nothing about it.
const UNSAID: Duration = Duration::from_secs(300);

/// A token. It is a secret.
pub(in crate::kafka) struct Token {
    /// As it is sent.
    pub(in crate::kafka) text: String,
    /// Whom it names, or who has asked for it.
    pub(in crate::kafka) subject: String,
    /// When it is over.
    pub(in crate::kafka) expires: SystemTime,
    fetched: SystemTime,
}

/// What we read of a JSON Web Token.
#[derive(Debug, Default, Deserialize)]
struct Claims {
    sub: Option<String>,
    exp: Option<f64>,
}

impl Token {
    /// Makes one of what was read or answered; `life` is what was said beside it. Signatures are the broker's to check.
    pub(super) fn new(text: String, life: Option<Duration>, asked_by: &str) -> Self {
        let fetched = SystemTime::now();
        let claims = text.split('.').nth(1).and_then(|claims| BASE64URL.decode(claims.trim_end_matches('=')).ok());
        let claims = claims.and_then(|claims| serde_json::from_slice::<Claims>(&claims).ok()).unwrap_or_default();
        let seconds = claims.exp.filter(|seconds| seconds.is_finite());
        let said = seconds.map(|seconds| UNIX_EPOCH + Duration::from_secs(seconds.clamp(0.0, 1e11) as u64));
        let expires = said.unwrap_or_else(|| fetched + life.unwrap_or(UNSAID));
        Self { text, subject: claims.sub.unwrap_or_else(|| asked_by.to_owned()), expires, fetched }
    }

    /// Returns whether it is in the first four fifths of its life.
    fn is_fresh(&self, now: SystemTime) -> bool {
        let life = self.expires.duration_since(self.fetched).unwrap_or_default();
        now < self.fetched + life.mul_f64(0.8)
    }

    fn is_over(&self, now: SystemTime) -> bool {
        self.expires <= now
    }
}

impl std::fmt::Debug for Token {
    /// Never writes the token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("expires", &self.expires).finish_non_exhaustive()
    }
}

/// The token that is held.
#[derive(Default)]
pub(super) struct Tokens {
    held: Mutex<Option<(u128, Arc<Token>)>>,
    /// Whether a broker has refused it.
    refused: AtomicBool,
}

impl Tokens {
    /// Returns a token of that source which is good for a while.
    ///
    /// # Errors
    /// Those of [`Source::fetch`].
    pub(super) async fn get(&self, source: &Source) -> Result<Arc<Token>> {
        let mut held = self.held.lock().await;
        let stamp = source.stamp();
        let last = held.as_ref().filter(|(made_by, _)| *made_by == stamp).map(|(_, token)| token.clone());
        let last = last.filter(|_| !self.refused.swap(false, Ordering::Relaxed) && source.is_asked());
        if let Some(last) = &last
            && last.is_fresh(SystemTime::now())
        {
            return Ok(last.clone());
        }
        match (source.fetch().await, last) {
            (Ok(token), _) => {
                let token = Arc::new(token);
                *held = Some((stamp, token.clone()));
                Ok(token)
            }
            (Err(error), Some(last)) if !last.is_over(SystemTime::now()) => {
                tracing::warn!("{error}; the last token is used to its end");
                Ok(last)
            }
            (Err(error), _) => Err(error),
        }
    }

    /// Takes note that a broker has refused the token.
    pub(super) fn forget(&self) {
        self.refused.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_says_whom_it_names_and_how_long_it_is_good() {
        let claims = BASE64URL.encode(r#"{"sub": "me", "exp": 4102444800, "scope": ["a"]}"#);
        let token = Token::new(format!("e30.{claims}."), Some(Duration::from_secs(1)), "client");
        assert_eq!((token.subject.as_str(), token.expires), ("me", UNIX_EPOCH + Duration::from_secs(4_102_444_800)));
        let opaque = Token::new("opaque".to_owned(), Some(Duration::from_secs(100)), "client");
        assert_eq!(opaque.subject, "client");
        let after = |seconds| opaque.fetched + Duration::from_secs(seconds);
        assert!(opaque.is_fresh(after(79)) && !opaque.is_fresh(after(81)));
        assert!(!opaque.is_over(after(99)) && opaque.is_over(after(100)));
    }
}
