//! Saying who we are, over a connection, before anything else and again before the broker's patience is over
//! ([KIP-43](https://cwiki.apache.org/confluence/display/KAFKA/KIP-43+Kafka+SASL+enhancements),
//! [KIP-152](https://cwiki.apache.org/confluence/display/KAFKA/KIP-152+-+Improve+diagnostics+for+SASL+authentication+failures),
//! [KIP-368](https://cwiki.apache.org/confluence/display/KAFKA/KIP-368%3A+Allow+SASL+Connections+to+Periodically+Re-Authenticate)).
//!
//! Order: nothing else is on its way meanwhile. Retry: none here. A refusal ends the connection, with the broker's words.

use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::{SaslAuthenticateRequest, SaslHandshakeRequest};
use kafka_protocol::protocol::{Request, StrBytes};
use tokio::time::Instant;

use super::{Connection, Throttled};
use crate::error::{Error, Result};
use crate::kafka::code_name;
use crate::kafka::security::{Credentials, Mechanism, Scram, Security, bearer};

/// UNSUPPORTED_SASL_MECHANISM.
const OTHER_MECHANISM: i16 = 33;

/// ILLEGAL_SASL_STATE: what a listener without SASL answers.
const NO_SASL: i16 = 34;

/// The share of a session after which we say anew who we are. Kafka's own clients do so between 85 and 95 %; a Fetch that
/// waits for data is on its way for half a second besides.
const RENEWED_AFTER: f64 = 0.8;

/// What ends a refused OAUTHBEARER exchange, so that the broker says why.
const GIVEN_UP: &[u8] = &[1];

impl Connection {
    /// Says who we are; does nothing where nobody asks.
    ///
    /// # Errors
    /// Those of [`Security::credentials`]; what the broker says of a refusal, as [`Security::refused`] makes it.
    pub(super) async fn authenticate(&mut self, credentials: &Credentials) -> Result<()> {
        let security = self.security.clone();
        let Some(mechanism) = security.mechanism else { return Ok(()) };
        self.shake_hands(&security, mechanism).await?;
        let session = match (mechanism, credentials) {
            (Mechanism::Scram(hash), Credentials::Password { user, password }) => {
                let cannot = |reason| Error::failed(format!("SCRAM cannot be spoken: {reason}"));
                let mut scram = Scram::new(hash, user, password).map_err(cannot)?;
                let (told, _) = self.say(&security, mechanism, scram.first_message()).await?;
                let last =
                    scram.last_message(&told).map_err(|reason| self.distrusted(&security, mechanism, &reason))?;
                let (told, session) = self.say(&security, mechanism, last).await?;
                scram.finish(&told).map_err(|reason| self.distrusted(&security, mechanism, &reason))?;
                session
            }
            (_, Credentials::Password { user, password }) => {
                self.say(&security, mechanism, format!("\0{user}\0{password}")).await?.1
            }
            (_, Credentials::Token { token, extensions }) => {
                let (told, session) = self.say(&security, mechanism, bearer(token, extensions)).await?;
                if !told.is_empty() {
                    // It says what is wrong in JSON, and refuses us when we have heard it.
                    let refused = self.say(&security, mechanism, Bytes::from_static(GIVEN_UP)).await;
                    let told = String::from_utf8_lossy(&told).into_owned();
                    return Err(refused.err().unwrap_or_else(|| self.refused(&security, mechanism, &told)));
                }
                session
            }
        };
        security.accept();
        self.renewal = session.map(|session| Instant::now() + session.mul_f64(RENEWED_AFTER));
        Ok(())
    }

    /// Says anew who we are, where it is time for that.
    ///
    /// # Errors
    /// As [`Connection::open`].
    pub async fn renew(&mut self) -> Result<()> {
        if self.renewal.is_none_or(|renewal| renewal > Instant::now()) {
            return Ok(());
        }
        let credentials = self.security.credentials().await?;
        self.authenticate(&credentials).await?;
        tracing::debug!("broker {}: said anew who we are", self.broker());
        Ok(())
    }

    /// Returns when it is time to say anew who we are; `None` where that is never.
    pub fn renewal(&self) -> Option<Instant> {
        self.renewal
    }

    /// Agrees on how.
    async fn shake_hands(&mut self, security: &Security, mechanism: Mechanism) -> Result<()> {
        let protocol = security.protocol;
        let asked = SaslHandshakeRequest::default().with_mechanism(StrBytes::from_string(mechanism.to_string()));
        // In version 0 the messages to come would be without the frame of a request.
        let version = self.version::<SaslHandshakeRequest>(1..=1);
        let Some(version) = version else {
            return Err(Error::failed(format!("broker {} is too old for SASL as we speak it", self.broker()))
                .hint("Kafka 1.0 at least"));
        };
        let answer = self.ask(&asked, version).await.map_err(|error| {
            // So a listener does that has no SASL.
            error.hint(format!("has that listener SASL? `security.protocol` is {protocol}"))
        })?;
        match answer.error_code {
            0 => Ok(()),
            OTHER_MECHANISM => {
                let theirs: Vec<_> = answer.mechanisms.iter().map(|name| name.as_str()).collect();
                let what = format!("broker {} does not take `sasl.mechanism` {mechanism}", self.broker());
                Err(security.refused(what).hint(format!("it takes {}", theirs.join(", "))))
            }
            NO_SASL => {
                let without = if protocol.has_tls { "ssl" } else { "plaintext" };
                Err(security
                    .refused(format!("that listener of broker {} has no SASL", self.broker()))
                    .hint(format!("set `security.protocol` to {without}, or name a listener with SASL")))
            }
            code => Err(self.refused(security, mechanism, &code_name(code))),
        }
    }

    /// Sends a message of the mechanism; returns the broker's and how long we are believed for, where that is bounded.
    async fn say(
        &mut self,
        security: &Security,
        mechanism: Mechanism,
        message: impl Into<Bytes>,
    ) -> Result<(Bytes, Option<Duration>)> {
        let version = self.version::<SaslAuthenticateRequest>(0..=2).unwrap_or(0);
        let asked = SaslAuthenticateRequest::default().with_auth_bytes(message.into());
        let answer = self.ask(&asked, version).await?;
        if answer.error_code != 0 {
            let said = answer.error_message.map(|said| said.to_string()).filter(|said| !said.is_empty());
            let said = said.unwrap_or_else(|| code_name(answer.error_code));
            return Err(self.refused(security, mechanism, &said));
        }
        let session = u64::try_from(answer.session_lifetime_ms).ok().filter(|ms| *ms > 0).map(Duration::from_millis);
        Ok((answer.auth_bytes, session))
    }

    async fn ask<R: Request>(&mut self, request: &R, version: i16) -> Result<R::Response>
    where
        R::Response: Throttled,
    {
        self.send_now(request, version).await?;
        Ok(self.receive::<R>(version, Duration::ZERO, None).await?.message)
    }

    fn refused(&self, security: &Security, mechanism: Mechanism, said: &str) -> Error {
        let hint = match mechanism {
            Mechanism::OauthBearer => "correct `sasl.oauthbearer.…` or the broker's validation of tokens",
            _ => "correct `sasl.username` and `sasl.password`",
        };
        security.refused(format!("broker {} refuses our {mechanism} authentication: {said}", self.broker())).hint(hint)
    }

    /// It is not the broker that refuses us.
    fn distrusted(&self, security: &Security, mechanism: Mechanism, reason: &str) -> Error {
        security.refused(format!("{mechanism} authentication with broker {} failed: {reason}", self.broker()))
    }
}
