//! One connection to one broker: versions, requests, answers.
//!
//! Order: one request at a time, its answer before the next; the correlation id of each answer is checked. Retry: none
//! here; whatever goes wrong is an [`Error`] that names the broker, and the caller opens a new connection. Cancel: a
//! call dropped half-way leaves an answer on its way; the connection then refuses further calls instead of taking that
//! answer for another. Memory: the bytes of an answer are read once, into recycled memory, and sliced from there.
//!
//! Protocol: <https://kafka.apache.org/protocol>.

mod frames;
mod throttle;
mod transport;

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use kafka_protocol::messages::{
    ApiKey, ApiVersionsRequest, ApiVersionsResponse, RequestHeader, ResponseHeader, api_versions_response::ApiVersion,
};
use kafka_protocol::protocol::{Decodable as _, Encodable as _, HeaderVersion as _, Request, StrBytes};
use tokio::time::{Instant, timeout};

use crate::budget::{Budget, Permit, RateLimit};
use crate::error::{Error, Result};
use crate::kafka::{Properties, code_name};
use frames::Frames;
pub use throttle::Throttled;
use transport::Transport;

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
    broker: Arc<str>,
    transport: Transport,
    client_id: StrBytes,
    versions: Vec<ApiVersion>,
    request: BytesMut,
    frames: Frames,
    correlation: i32,
    /// Whether an answer is on its way.
    pending: bool,
    /// Until when the broker asked us to be quiet.
    quiet_until: Option<Instant>,
    request_timeout: Duration,
    receive_max_bytes: usize,
}

impl Connection {
    /// Connects to `broker` (`host:port`) and asks for the versions it knows.
    ///
    /// # Errors
    /// [`Kind::Transient`](crate::error::Kind::Transient), naming the broker, when that fails or takes longer than
    /// `socket.connection.setup.timeout.ms`.
    pub async fn open(broker: &str, properties: &Properties) -> Result<Self> {
        let opening = async {
            let mut connection = Self {
                broker: broker.into(),
                transport: Transport::open(broker, properties).await?,
                client_id: StrBytes::from_string(properties.client_id.clone()),
                versions: Vec::new(),
                request: BytesMut::new(),
                frames: Frames::default(),
                correlation: 0,
                pending: false,
                quiet_until: None,
                request_timeout: properties.request_timeout,
                receive_max_bytes: properties.receive_max_bytes,
            };
            connection.negotiate().await?;
            Ok(connection)
        };
        timeout(properties.setup_timeout, opening).await.unwrap_or_else(|_| {
            let waited = properties.setup_timeout.as_millis();
            Err(Error::transient(format!("broker {broker} did not answer within {waited} ms")))
        })
    }

    /// Returns the broker's `host:port`.
    pub fn broker(&self) -> &str {
        &self.broker
    }

    /// Returns whether the next request would wait, because the broker asked us to be quiet.
    pub fn is_quiet(&self) -> bool {
        self.quiet_until.is_some_and(|until| until > Instant::now())
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
    /// quiet ([KIP-219](https://cwiki.apache.org/confluence/display/KAFKA/KIP-219)).
    ///
    /// # Errors
    /// As [`Connection::call`].
    pub async fn send<R: Request>(&mut self, request: &R, version: i16) -> Result<()> {
        if self.pending {
            return Err(Error::transient(format!("connection to broker {} was left in mid-answer", self.broker)));
        }
        if let Some(until) = self.quiet_until.take() {
            tokio::time::sleep_until(until).await;
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
        tracing::trace!(broker = %self.broker, bytes = length, "asking {}", request_name(R::KEY, version));
        match timeout(self.request_timeout, self.transport.write_all(&self.request)).await {
            Ok(written) => written.map_err(|error| self.lost(error)),
            Err(_) => Err(self.late(R::KEY, version)),
        }
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
        let length = self.length(R::KEY, version, wait).await?;
        let mut permit = Permit::default();
        if let Some(toll) = toll {
            permit = toll.budget.acquire(length).await;
            toll.rate.pass(length).await;
        }
        let mut frame = self.body(R::KEY, version, length).await?;
        let unreadable = |error| {
            let what = request_name(R::KEY, version);
            Error::transient(format!("answer of broker {} to {what} cannot be read", self.broker)).source(error)
        };
        let header_version = R::Response::header_version(version);
        let header = ResponseHeader::decode(&mut frame, header_version).map_err(unreadable)?;
        if header.correlation_id != self.correlation {
            let (got, want) = (header.correlation_id, self.correlation);
            return Err(Error::transient(format!("broker {} answered request {got}, not {want}", self.broker)));
        }
        let message = R::Response::decode(&mut frame, version).map_err(unreadable)?;
        self.pending = false;
        if let Some(quiet) = throttle::told(message.throttle_time_ms()) {
            self.quiet_until = Some(Instant::now() + quiet);
        }
        Ok(Answer { message, permit, frame_bytes: length })
    }

    async fn length(&mut self, key: i16, version: i16, wait: Duration) -> Result<usize> {
        let mut prefix = [0; 4];
        match timeout(self.request_timeout + wait, self.transport.read_exact(&mut prefix)).await {
            Ok(read) => read.map_err(|error| self.lost(error))?,
            Err(_) => return Err(self.late(key, version)),
        }
        let length = i32::from_be_bytes(prefix);
        usize::try_from(length).ok().filter(|length| (4..=self.receive_max_bytes).contains(length)).ok_or_else(|| {
            Error::failed(format!("broker {} announced an answer of {length} bytes", self.broker)).hint(format!(
                "it must be 4 to {} (`receive.message.max.bytes`); is that port a plaintext listener of Kafka?",
                self.receive_max_bytes
            ))
        })
    }

    async fn body(&mut self, key: i16, version: i16, length: usize) -> Result<Bytes> {
        let mut frame = self.frames.take(length);
        let mut rest = frame.bytes_mut();
        while !rest.is_empty() {
            match timeout(self.request_timeout, self.transport.read_buf(&mut rest)).await {
                Ok(Ok(0)) => return Err(self.lost(std::io::ErrorKind::UnexpectedEof.into())),
                Ok(read) => read.map_err(|error| self.lost(error))?,
                Err(_) => return Err(self.late(key, version)),
            };
        }
        Ok(frame.freeze())
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
            return Err(Error::transient(format!("broker {} refused ApiVersions: {code}", self.broker)));
        }
        self.versions = answer.api_keys;
        Ok(())
    }

    async fn ask_versions(&mut self, request: &ApiVersionsRequest, version: i16) -> Result<ApiVersionsResponse> {
        self.send(request, version).await?;
        let length = self.length(ApiVersionsRequest::KEY, version, Duration::ZERO).await?;
        let mut frame = self.body(ApiVersionsRequest::KEY, version, length).await?;
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
        Error::transient(format!("answer of broker {} to ApiVersions cannot be read", self.broker))
            .hint("is that port a plaintext listener of Kafka?")
    }

    fn lost(&self, error: std::io::Error) -> Error {
        Error::transient(format!("connection to broker {} was lost", self.broker)).source(error)
    }

    fn late(&self, key: i16, version: i16) -> Error {
        let (broker, what, waited) = (&self.broker, request_name(key, version), self.request_timeout.as_millis());
        Error::transient(format!("broker {broker} did not answer {what} within {waited} ms"))
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
