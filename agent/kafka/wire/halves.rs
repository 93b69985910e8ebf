//! The two halves of a connection, for those who have several requests on their way: one writes them, the other reads
//! the answers, which come in the order of the requests.
//!
//! Cancel: a call dropped half-way leaves bytes on their way; the halves are then of no more use, and who dropped it
//! drops them. Quota: what an answer asks for delays the next request, whichever half is used by whom.

use std::io::IoSlice;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::ResponseHeader;
use kafka_protocol::protocol::{Decodable as _, HeaderVersion as _, Request};
use tokio::time::{Instant, timeout};

use super::asked::Asked;
use super::throttle::{self, Throttled};
use super::transport::{Reading, Writing};
use super::{Answer, Toll, request_name};
use crate::budget::Permit;
use crate::error::{Error, Result};
use crate::frames::Frames;
use crate::kafka::security::Security;

/// A broker that takes less than this within the time for an answer is taken for dead. A bound on a whole request would
/// end large ones on slow lines, again and again.
const PROGRESS_BYTES: usize = 256 << 10;

/// How what TLS says of something that is not TLS begins: the length of an answer would be 352 MB.
const TLS_ALERT: [u8; 2] = [0x15, 0x03];

/// The most slices that the kernel takes at once.
const MOST_SLICES: usize = 1024;

/// The half that writes requests.
#[derive(Debug)]
pub struct Sending {
    pub(super) broker: Arc<str>,
    pub(super) writing: Writing,
    pub(super) quiet: Quiet,
    pub(super) asked: Asked,
    pub(super) request_timeout: Duration,
    pub(super) security: Security,
}

/// The half that reads answers.
#[derive(Debug)]
pub struct Receiving {
    pub(super) broker: Arc<str>,
    pub(super) reading: Reading,
    pub(super) frames: Frames,
    pub(super) quiet: Quiet,
    pub(super) asked: Asked,
    pub(super) request_timeout: Duration,
    pub(super) receive_max_bytes: usize,
    pub(super) security: Security,
}

/// What is still to be written of a request.
struct Rest<'a, P> {
    pieces: &'a [P],
    /// How much of the first of them is written.
    at: usize,
}

/// Until when the broker asked us to be quiet.
#[derive(Debug, Clone, Default)]
pub(super) struct Quiet(Arc<Mutex<Option<Instant>>>);

impl Quiet {
    /// Returns until when the next request must wait.
    pub(super) fn until(&self) -> Option<Instant> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).filter(|until| *until > Instant::now())
    }

    fn keep(&self, until: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
    }
}

impl Sending {
    /// Writes a whole request, its length in front. Waits first for as long as the broker asked us to be quiet
    /// ([KIP-219](https://cwiki.apache.org/confluence/display/KAFKA/KIP-219)).
    ///
    /// # Errors
    /// [`Kind::Transient`](crate::error::Kind::Transient), naming the broker, when the connection is lost or takes
    /// nothing any more.
    pub async fn send(&mut self, request: &[u8]) -> Result<()> {
        self.send_all(&[request]).await
    }

    /// Writes a whole request that lies in pieces, its length in front of the first, in which its head is whole; else as
    /// [`Sending::send`].
    ///
    /// # Errors
    /// As [`Sending::send`].
    pub async fn send_all(&mut self, pieces: &[impl AsRef<[u8]>]) -> Result<()> {
        while let Some(until) = self.quiet.until() {
            tokio::time::sleep_until(until).await;
        }
        self.asked.ask();
        let mut rest = Rest { pieces, at: 0 };
        loop {
            let mut slices = rest.take();
            if slices.is_empty() {
                return Ok(());
            }
            match timeout(self.request_timeout, self.writing.write_all(&mut slices)).await {
                Ok(written) => written.map_err(|error| lost(&self.broker, &self.security, error))?,
                Err(_) => {
                    let head = pieces.first().map_or(&[][..], AsRef::as_ref);
                    let number = |at: usize| head.get(at..at + 2).map_or(0, |it| i16::from_be_bytes([it[0], it[1]]));
                    return Err(late(&self.broker, number(4), number(6), self.request_timeout));
                }
            }
        }
    }
}

impl Receiving {
    /// Waits for the answer to request number `correlation`, which is the next to come; `wait` is how long the request
    /// itself lets the broker wait. With a `toll`, the frame is paid for after its length is known and before its body
    /// is read, so that backpressure reaches the socket.
    ///
    /// # Errors
    /// [`Kind::Transient`](crate::error::Kind::Transient) when the connection is lost or the answer is late;
    /// [`Kind::Failed`](crate::error::Kind::Failed) for an answer longer than `receive.message.max.bytes`.
    pub async fn receive<R: Request>(
        &mut self,
        (version, correlation): (i16, i32),
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
        if header.correlation_id != correlation {
            let got = header.correlation_id;
            return Err(Error::transient(format!("broker {} answered request {got}, not {correlation}", self.broker)));
        }
        let message = <R::Response as kafka_protocol::protocol::Decodable>::decode(&mut frame, version);
        let message = message.map_err(unreadable)?;
        if let Some(quiet) = throttle::told(message.throttle_time_ms()) {
            self.quiet.keep(Instant::now() + quiet);
        }
        Ok(Answer { message, permit, frame_bytes: length })
    }

    /// Returns how long the broker will not look at what it was sent already, because of a quota.
    pub fn quiet_for(&self) -> Duration {
        self.quiet.until().map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()))
    }

    pub(super) async fn length(&mut self, key: i16, version: i16, wait: Duration) -> Result<usize> {
        let mut prefix = [0; 4];
        match timeout(self.request_timeout + wait, self.reading.read_exact(&mut prefix)).await {
            Ok(read) => read.map_err(|error| self.lost(error))?,
            Err(_) => return Err(late(&self.broker, key, version, self.request_timeout)),
        }
        self.asked.answered(key);
        if prefix[..2] == TLS_ALERT && !self.security.protocol.has_tls {
            let what = format!("broker {} speaks TLS on that port", self.broker);
            let hint = "set `security.protocol` to ssl or sasl_ssl, or name a plaintext listener";
            return Err(self.security.refused(what).hint(hint));
        }
        let length = i32::from_be_bytes(prefix);
        usize::try_from(length).ok().filter(|length| (4..=self.receive_max_bytes).contains(length)).ok_or_else(|| {
            Error::failed(format!("broker {} announced an answer of {length} bytes", self.broker)).hint(format!(
                "it must be 4 to {} (`receive.message.max.bytes`); {}",
                self.receive_max_bytes,
                is_listener(&self.security)
            ))
        })
    }

    pub(super) async fn body(&mut self, key: i16, version: i16, length: usize) -> Result<Bytes> {
        let mut frame = self.frames.take(length);
        let mut rest = frame.bytes_mut();
        while !rest.is_empty() {
            match timeout(self.request_timeout, self.reading.read_buf(&mut rest)).await {
                Ok(Ok(0)) => return Err(self.lost(std::io::ErrorKind::UnexpectedEof.into())),
                Ok(read) => read.map_err(|error| self.lost(error))?,
                Err(_) => return Err(late(&self.broker, key, version, self.request_timeout)),
            };
        }
        Ok(frame.freeze())
    }

    fn lost(&self, error: std::io::Error) -> Error {
        lost(&self.broker, &self.security, error)
    }
}

impl<'a, P: AsRef<[u8]>> Rest<'a, P> {
    /// Takes what is written at once: [`PROGRESS_BYTES`], or less. Nothing is left behind an empty one.
    fn take(&mut self) -> Vec<IoSlice<'a>> {
        let (mut slices, mut left) = (Vec::new(), PROGRESS_BYTES);
        while left > 0
            && slices.len() < MOST_SLICES
            && let Some((first, others)) = self.pieces.split_first()
        {
            let piece = &first.as_ref()[self.at..];
            let now = piece.len().min(left);
            if now > 0 {
                slices.push(IoSlice::new(&piece[..now]));
            }
            (left, self.at) = (left - now, self.at + now);
            if now == piece.len() {
                (self.pieces, self.at) = (others, 0);
            }
        }
        slices
    }
}

/// Asks what may be the cause where a broker answers what cannot be.
pub(super) fn is_listener(security: &Security) -> String {
    format!("is that port a listener of Kafka whose protocol is {}?", security.protocol)
}

fn lost(broker: &str, security: &Security, error: std::io::Error) -> Error {
    if let Some(explained) = security.explained(broker, &error) {
        return explained;
    }
    Error::transient(format!("connection to broker {broker} was lost")).source(error)
}

fn late(broker: &str, key: i16, version: i16, waited: Duration) -> Error {
    let (what, waited) = (request_name(key, version), waited.as_millis());
    Error::transient(format!("broker {broker} did not answer {what} within {waited} ms"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_in_pieces_is_written_whole_and_in_turn() {
        let pieces: [&[u8]; 5] = [&[1; 70], &[2; 2 * PROGRESS_BYTES], &[], &[3; PROGRESS_BYTES], &[4; 5]];
        let many = vec![&[5_u8][..]; 2 * MOST_SLICES + 3];
        for pieces in [&pieces[..], &many[..], &[], &[&[]]] {
            let mut rest = Rest { pieces, at: 0 };
            let mut written = Vec::new();
            loop {
                let slices = rest.take();
                let bytes = slices.iter().map(|slice| slice.len()).sum::<usize>();
                assert!(bytes <= PROGRESS_BYTES && slices.len() <= MOST_SLICES);
                assert!(slices.iter().all(|slice| !slice.is_empty()), "the kernel would say that it took nothing");
                if slices.is_empty() {
                    break;
                }
                slices.iter().for_each(|slice| written.extend_from_slice(slice));
            }
            assert!(written == pieces.concat());
        }
    }
}
