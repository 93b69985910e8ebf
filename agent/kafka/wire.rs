//! One connection to one broker: versions, requests, answers.
//!
//! Order: one request at a time, its answer before the next, unless the connection is split into its halves; the
//! correlation id of each answer is checked. Retry: none here; whatever goes wrong is an [`Error`] that names the broker, and the caller opens a new connection. Cancel: a
//! call dropped half-way leaves an answer on its way; the connection then refuses further calls instead of taking that
//! answer for another. Authentication: once, when it is opened, and again between two requests before it expires. Memory: the bytes of an answer are read once, into recycled memory, and sliced from there.
//!
//! Protocol: <https://kafka.apache.org/protocol>.

mod asked;
mod halves;
mod sasl;
mod throttle;
mod transport;

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut as _, BytesMut};
use kafka_protocol::messages::{
    ApiKey, ApiVersionsRequest, ApiVersionsResponse, RequestHeader, ResponseHeader, api_versions_response::ApiVersion,
};
use kafka_protocol::protocol::{Decodable as _, Encodable as _, Request, StrBytes};
use tokio::time::{Instant, timeout};

use crate::budget::{Budget, Permit, RateLimit};
use crate::error::{Error, Result};
use crate::frames::Frames;
use crate::kafka::security::Security;
use crate::kafka::{Properties, code_name};
use asked::Asked;
use halves::Quiet;
pub use halves::{Receiving, Sending};
pub use throttle::Throttled;

/// UNSUPPORTED_VERSION: the answer of a broker to a version that it does not know.
const UNSUPPORTED_VERSION: i16 = 35;

/// The version of ApiVersions to begin with; it carries our name and version
/// ([KIP-511](https://cwiki.apache.org/confluence/display/KAFKA/KIP-511)).
const API_VERSIONS_FIRST: i16 = 3;

/// What the bytes of an answer cost: memory, paid before they are read, and their share of the rate.
#[derive(Debug, Clone)]
pub struct Toll {
    /// The memory of the pipeline.
    pub budget: Budget,
    /// The bytes per second of the pipeline.
    pub rate: RateLimit,
}

/// An answer, with what was paid for it.
#[derive(Debug)]
pub struct Answer<T> {
    /// The answer. Its `Bytes` are slices of the frame.
    pub message: T,
    /// The memory that the frame costs; empty where no [`Toll`] was asked for.
    pub permit: Permit,
    /// The length of the frame in bytes.
    pub frame_bytes: usize,
}

/// A connection to a broker whose versions are known.
#[derive(Debug)]
pub struct Connection {
    sending: Sending,
    receiving: Receiving,
    client_id: StrBytes,
    versions: Vec<ApiVersion>,
    request: BytesMut,
    correlation: i32,
    /// Whether an answer is on its way.
    pending: bool,
    security: Security,
    /// When to say anew who we are; `None` where that is never.
    renewal: Option<Instant>,
    /// Whether the broker has answered a request that only those may make whom it takes.
    admitted: bool,
}

impl Connection {
    /// Connects to `broker` (`host:port`), asks for the versions it knows, and says who we are.
    ///
    /// # Errors
    /// [`Kind::Transient`](crate::error::Kind::Transient), naming the broker, when that fails or takes longer than
    /// `socket.connection.setup.timeout.ms`; [`Kind::Failed`](crate::error::Kind::Failed) when the broker refuses us or its
    /// certificate is not right, unless we were accepted before.
    pub async fn open(broker: &str, properties: &Properties) -> Result<Self> {
        let security = &properties.security;
        // Before anybody waits for us: who gives tokens may be slow.
        let credentials = if security.protocol.has_sasl { Some(security.credentials().await?) } else { None };
        let opening = async {
            let (reading, writing) = transport::open(broker, properties).await?;
            let (broker, quiet, asked): (Arc<str>, _, _) = (broker.into(), Quiet::default(), Asked::default());
            let request_timeout = properties.request_timeout;
            let (told, counted) = (quiet.clone(), asked.clone());
            let sending = Sending {
                broker: broker.clone(),
                writing,
                quiet: told,
                asked: counted,
                request_timeout,
                security: security.clone(),
            };
            let receiving = Receiving {
                broker,
                reading,
                security: security.clone(),
                frames: Frames::default(),
                quiet,
                asked,
                request_timeout,
                receive_max_bytes: properties.receive_max_bytes,
            };
            let mut connection = Self {
                sending,
                receiving,
                client_id: StrBytes::from_string(properties.client_id.clone()),
                versions: Vec::new(),
                request: BytesMut::new(),
                correlation: 0,
                pending: false,
                security: security.clone(),
                renewal: None,
                admitted: false,
            };
            connection.negotiate().await?;
            match &credentials {
                Some(credentials) => connection.authenticate(credentials).await?,
                None => security.accept(),
            }
            Ok(connection)
        };
        timeout(properties.setup_timeout, opening).await.unwrap_or_else(|_| {
            let waited = properties.setup_timeout.as_millis();
            Err(Error::transient(format!("broker {broker} did not answer within {waited} ms")))
        })
    }

    /// Returns the broker's `host:port`.
    pub fn broker(&self) -> &str {
        &self.sending.broker
    }

    /// Returns whether the next request would wait, because the broker asked us to be quiet.
    pub fn is_quiet(&self) -> bool {
        self.sending.quiet.until().is_some()
    }

    /// Returns its halves, for several requests on their way at once, which are numbered by who writes them. When nothing is
    /// on its way it may be used as one again.
    pub fn halves(&mut self) -> (&mut Sending, &mut Receiving) {
        debug_assert!(!self.pending, "an answer to nobody would come first");
        (&mut self.sending, &mut self.receiving)
    }

    /// Returns the highest version of `R` that the broker, the message definitions and `ours` have in common; `None`
    /// when there is none.
    pub fn version<R: Request>(&self, ours: RangeInclusive<i16>) -> Option<i16> {
        let theirs = self.versions.iter().find(|api| api.api_key == R::KEY)?;
        let least = theirs.min_version.max(R::VERSIONS.min).max(*ours.start());
        let most = theirs.max_version.min(R::VERSIONS.max).min(*ours.end());
        (least <= most).then_some(most)
    }

    /// Sends `request` and waits for its answer.
    ///
    /// # Errors
    /// [`Kind::Transient`](crate::error::Kind::Transient) when the connection is lost or the answer is late.
    pub async fn call<R: Request>(&mut self, request: &R, version: i16) -> Result<R::Response>
    where
        R::Response: Throttled,
    {
        self.send(request, version).await?;
        Ok(self.receive::<R>(version, Duration::ZERO, None).await?.message)
    }

    /// Sends `request`; [`Connection::receive`] takes the answer. Waits first for as long as the broker asked us to be
    /// quiet ([KIP-219](https://cwiki.apache.org/confluence/display/KAFKA/KIP-219)), and says anew who we are where it is time
    /// for that.
    ///
    /// # Errors
    /// As [`Connection::call`]; those of [`Connection::renew`].
    pub async fn send<R: Request>(&mut self, request: &R, version: i16) -> Result<()> {
        if self.renewal.is_some() && !self.pending {
            self.renew().await?;
        }
        self.send_now(request, version).await
    }

    async fn send_now<R: Request>(&mut self, request: &R, version: i16) -> Result<()> {
        if self.pending {
            return Err(Error::transient(format!("connection to broker {} was left in mid-answer", self.broker())));
        }
        self.correlation = self.correlation.wrapping_add(1);
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(self.correlation)
            .with_client_id(Some(self.client_id.clone()));
        self.request.clear();
        self.request.put_i32(0);
        header
            .encode(&mut self.request, R::header_version(version))
            .and_then(|()| request.encode(&mut self.request, version))
            .map_err(|error| Error::failed(format!("cannot write {}", request_name(R::KEY, version))).source(error))?;
        let length = (self.request.len() - 4) as i32;
        self.request[..4].copy_from_slice(&length.to_be_bytes());
        self.pending = true;
        tracing::trace!(broker = %self.broker(), bytes = length, "asking {}", request_name(R::KEY, version));
        self.sending.send(&self.request).await
    }

    /// Waits for the answer to what was sent last; `wait` is how long the request itself lets the broker wait. With a
    /// `toll`, the frame is paid for after its length is known and before its body is read, so that backpressure
    /// reaches the socket.
    ///
    /// # Errors
    /// As [`Connection::call`]; [`Kind::Failed`](crate::error::Kind::Failed) for an answer longer than
    /// `receive.message.max.bytes`.
    pub async fn receive<R: Request>(
        &mut self,
        version: i16,
        wait: Duration,
        toll: Option<&Toll>,
    ) -> Result<Answer<R::Response>>
    where
        R::Response: Throttled,
    {
        let answer = self.receiving.receive::<R>((version, self.correlation), wait, toll).await;
        let answer = answer.map_err(|error| self.unadmitted(error, R::KEY))?;
        self.pending = false;
        self.admitted |= R::KEY != ApiKey::SaslHandshake as i16;
        Ok(answer)
    }

    /// Adds what may be the cause where the first request after the versions is not answered: a listener with SASL closes
    /// the connection of who does not say who they are.
    fn unadmitted(&self, error: Error, key: i16) -> Error {
        let protocol = self.security.protocol;
        let may_be = !self.admitted && !protocol.has_sasl && key != ApiKey::ApiVersions as i16 && error.retryable();
        if may_be { error.hint(format!("wants that listener SASL? `security.protocol` is {protocol}")) } else { error }
    }

    /// Asks for the broker's versions. One that does not know our version of the question answers in version 0,
    /// whatever was asked, and names what it knows.
    async fn negotiate(&mut self) -> Result<()> {
        let request = ApiVersionsRequest::default()
            .with_client_software_name(StrBytes::from_static_str(env!("CARGO_PKG_NAME")))
            .with_client_software_version(StrBytes::from_static_str(env!("CARGO_PKG_VERSION")));
        let mut answer = self.ask_versions(&request, API_VERSIONS_FIRST).await?;
        if answer.error_code == UNSUPPORTED_VERSION {
            answer = self.ask_versions(&ApiVersionsRequest::default(), 0).await?;
        }
        if answer.error_code != 0 {
            let code = code_name(answer.error_code);
            return Err(Error::transient(format!("broker {} refused ApiVersions: {code}", self.broker())));
        }
        self.versions = answer.api_keys;
        Ok(())
    }

    async fn ask_versions(&mut self, request: &ApiVersionsRequest, version: i16) -> Result<ApiVersionsResponse> {
        self.send(request, version).await?;
        let length = self.receiving.length(ApiVersionsRequest::KEY, version, Duration::ZERO).await?;
        let mut frame = self.receiving.body(ApiVersionsRequest::KEY, version, length).await?;
        // The header of this one answer is version 0 always, so that any client can read it.
        let correlation = ResponseHeader::decode(&mut frame, 0).ok().map(|header| header.correlation_id);
        if correlation != Some(self.correlation) {
            return Err(self.unreadable_versions());
        }
        self.pending = false;
        // Of a refusal only the code counts: Kafka writes what follows in version 0, librdkafka's mock in a mixture.
        if frame.first_chunk() == Some(&UNSUPPORTED_VERSION.to_be_bytes()) {
            return Ok(ApiVersionsResponse::default().with_error_code(UNSUPPORTED_VERSION));
        }
        ApiVersionsResponse::decode(&mut frame, version).map_err(|_| self.unreadable_versions())
    }

    fn unreadable_versions(&self) -> Error {
        Error::transient(format!("answer of broker {} to ApiVersions cannot be read", self.broker()))
            .hint(halves::is_listener(&self.security))
    }
}

fn request_name(key: i16, version: i16) -> String {
    match ApiKey::try_from(key) {
        Ok(api) => format!("{api:?} v{version}"),
        Err(()) => format!("request {key} v{version}"),
    }
}

#[cfg(test)]
mod tests;
