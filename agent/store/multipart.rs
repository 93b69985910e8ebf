//! An object that streams to a service while it grows: parts under no name, whose completion alone carries the
//! condition. What is smaller than a part goes out as one conditional request at the end.
//!
//! Incoming slices are copied, so that none keeps the fetched frame that it is a piece of in memory. What is in memory is
//! counted to the byte, also what OpenDAL still holds: of the parts that it was given it keeps the newest back until it
//! gets the next (the last one may be short).
//!
//! One part is sent while the next is filled, in a task of ours: OpenDAL's own tasks would go on holding what they failed
//! to send until somebody asks, and with it their place on the link.
//!
//! Cancel, crash: parts that were sent stay with the service, unseen, until it clears them (S3 and GCS: a lifecycle rule
//! of the bucket; Azure: after a week). After any error the upload is of no use any more.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use opendal::{Buffer, Writer};
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use super::Creation;
use super::remote::{Action, Remote};
use crate::error::{Error, Result};

/// The size of a part. Services take no less than 5 MiB and 10,000 parts: double of it doubles the memory of a segment,
/// half of it is refused.
const PART_BYTES: usize = 8 * 1024 * 1024;

/// Copies are kept in pieces that grow up to this size: a trickling partition costs about what it holds, and a part is
/// some dozen pieces.
const PIECE_BYTES: usize = 256 * 1024;

/// The first piece.
const PIECE_BYTES_FIRST: usize = 4 * 1024;

/// How long the end of an upload that is given up may take.
const ABORT_PATIENCE: Duration = Duration::from_secs(5);

/// An upload on its way.
pub(super) struct Multipart {
    remote: Arc<Remote>,
    key: String,
    filling: Pieces,
    /// Bytes of parts that are no longer ours to fill, and still in memory.
    handed_on: Arc<AtomicUsize>,
    /// Made with the first part; away while `sending` has it.
    writer: Option<Box<Writer>>,
    /// At most one task: what it gives back, and whether all went well. Dropped, it ends.
    sending: JoinSet<(Box<Writer>, opendal::Result<()>)>,
}

impl Multipart {
    /// Plans an upload; nothing is sent yet.
    pub(super) fn new(remote: Arc<Remote>, key: String) -> Self {
        let (filling, handed_on) = (Pieces::default(), Arc::default());
        Self { remote, key, filling, handed_on, writer: None, sending: JoinSet::new() }
    }

    /// Appends a copy of `bytes`.
    pub(super) async fn write(&mut self, bytes: Bytes) -> Result<()> {
        let mut full = Vec::new();
        let mut rest = &*bytes;
        while !rest.is_empty() {
            rest = self.filling.fill(rest);
            if self.filling.length == PART_BYTES {
                full.push(self.take_part());
            }
        }
        // Before anything is waited for: that may take long, and these bytes are paid for once.
        drop(bytes);
        for part in full {
            self.send(part).await?;
        }
        Ok(())
    }

    /// Returns how many bytes are in memory, here and in OpenDAL.
    pub(super) fn held_bytes(&self) -> usize {
        self.filling.length + self.handed_on.load(Ordering::Relaxed)
    }

    /// Makes the object appear, if there is none of its key.
    pub(super) async fn finish(mut self) -> Result<Creation> {
        if self.sending.is_empty() && self.writer.is_none() {
            let whole = std::mem::take(&mut self.filling);
            return self.remote.create(&self.key, whole.into_buffer(Bytes::from)).await;
        }
        if self.filling.length > 0 {
            let last = self.take_part();
            self.send(last).await?;
        }
        let mut writer = self.sent().await?;
        // It still has a part to send.
        let _sending = self.remote.may_send(PART_BYTES).await;
        let finished = self.remote.created("cannot complete an upload", writer.close().await);
        if !matches!(finished, Ok(Creation::Created)) {
            // Nobody waits for it: the parts of a lost race are only space, but those of a store that fails every
            // completion would have no bound. Had the completion landed, there is no such upload any more.
            tokio::spawn(give_up(writer));
        }
        finished
    }

    /// Ends the upload without an object.
    pub(super) async fn abort(mut self) {
        let ended = tokio::time::timeout(ABORT_PATIENCE, self.sent()).await;
        if let Some(writer) = ended.ok().and_then(Result::ok).or_else(|| self.writer.take()) {
            give_up(writer).await;
        }
    }

    fn take_part(&mut self) -> Buffer {
        let pieces = std::mem::take(&mut self.filling);
        self.handed_on.fetch_add(pieces.length, Ordering::Relaxed);
        pieces.into_buffer(|bytes| Bytes::from_owner(Piece { bytes, handed_on: self.handed_on.clone() }))
    }

    /// Sends a part when the one before it was.
    async fn send(&mut self, part: Buffer) -> Result<()> {
        let mut writer = match self.sending.is_empty() && self.writer.is_none() {
            true => Box::new(self.remote.stream(&self.key).await?),
            false => self.sent().await?,
        };
        let remote = self.remote.clone();
        self.sending.spawn(async move {
            // For the part before, of the same size, which this one pushes out.
            let _sending = remote.may_send(PART_BYTES).await;
            let written = writer.write(part).await;
            (writer, written)
        });
        Ok(())
    }

    /// Waits until what was given to the writer is sent, but for what it keeps back.
    async fn sent(&mut self) -> Result<Box<Writer>> {
        let (writer, written) = match self.sending.join_next().await {
            Some(Ok(ended)) => ended,
            Some(Err(error)) => return Err(Error::failed("an upload ended by a defect").source(error)),
            None => return self.writer.take().ok_or_else(|| Error::transient("the upload has failed before")),
        };
        match written {
            Ok(()) => Ok(writer),
            Err(error) => {
                // For `abort`.
                self.writer = Some(writer);
                Err(self.remote.failed(Action::Create, "cannot upload", &error))
            }
        }
    }
}

impl Drop for Multipart {
    fn drop(&mut self) {
        // What lost its race before its end leaves no parts behind, if nothing is on its way.
        let idle = self.sending.try_join_next().and_then(Result::ok).map(|(writer, _)| writer);
        if let (Some(writer), Ok(runtime)) = (idle.or_else(|| self.writer.take()), Handle::try_current()) {
            runtime.spawn(give_up(writer));
        }
    }
}

/// Tells the service to forget the parts; what cannot be reached is left to its lifecycle rule.
async fn give_up(mut writer: Box<Writer>) {
    let _ = tokio::time::timeout(ABORT_PATIENCE, writer.abort()).await;
}

/// Copied bytes, in pieces.
#[derive(Default)]
struct Pieces {
    full: Vec<Vec<u8>>,
    /// The piece that grows, never beyond what was reserved for it.
    open: Vec<u8>,
    length: usize,
}

impl Pieces {
    /// Takes bytes from the front of `bytes` until there is a part; returns the rest.
    fn fill<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        if self.open.len() == self.open.capacity() {
            let wanted = self.length.max(bytes.len().min(PIECE_BYTES)).clamp(PIECE_BYTES_FIRST, PIECE_BYTES);
            let open = Vec::with_capacity(wanted.min(PART_BYTES - self.length));
            let full = std::mem::replace(&mut self.open, open);
            if !full.is_empty() {
                self.full.push(full);
            }
        }
        let room = (self.open.capacity() - self.open.len()).min(PART_BYTES - self.length);
        let (taken, rest) = bytes.split_at(room.min(bytes.len()));
        self.open.extend_from_slice(taken);
        self.length += taken.len();
        rest
    }

    fn into_buffer(self, as_bytes: impl Fn(Vec<u8>) -> Bytes) -> Buffer {
        let open = (!self.open.is_empty()).then_some(self.open);
        self.full.into_iter().chain(open).map(as_bytes).collect()
    }
}

/// A piece of a part that is no longer ours; dropped when it was sent, or given up.
struct Piece {
    bytes: Vec<u8>,
    handed_on: Arc<AtomicUsize>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.handed_on.fetch_sub(self.bytes.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_hold_what_was_copied_and_reserve_about_as_much() {
        let mut pieces = Pieces::default();
        let bytes: Vec<u8> = (0..PART_BYTES + 5).map(|at| (at % 251) as u8).collect();
        let mut rest = &bytes[..];
        for chunk in [100, 1, 70_000, 5] {
            let (copied, left) = rest.split_at(chunk);
            let mut copied = copied;
            while !copied.is_empty() {
                copied = pieces.fill(copied);
            }
            let reserved = pieces.open.capacity() + pieces.full.iter().map(Vec::capacity).sum::<usize>();
            assert!(reserved <= (2 * pieces.length).max(PIECE_BYTES_FIRST), "{reserved} for {}", pieces.length);
            rest = left;
        }
        while pieces.length < PART_BYTES {
            rest = pieces.fill(rest);
        }
        assert_eq!((rest, pieces.fill(b"")), (&bytes[PART_BYTES..], &b""[..]));
        assert_eq!(pieces.into_buffer(Bytes::from).to_vec(), &bytes[..PART_BYTES]);
    }

    #[tokio::test]
    async fn a_large_object_is_the_parts_in_their_order() {
        let remote = Arc::new(Remote::memory("multipart").expect("opened"));
        let bytes: Vec<u8> = (0..4 * PART_BYTES + 1000).map(|at| (at % 249) as u8).collect();
        let mut upload = Multipart::new(remote.clone(), "large".into());
        for chunk in bytes.chunks(3_000_000) {
            upload.write(Bytes::copy_from_slice(chunk)).await.expect("written");
        }
        assert_eq!(upload.finish().await.expect("finished"), Creation::Created);
        assert_eq!(remote.read("large").await.expect("read").expect("there"), bytes);
    }

    #[tokio::test]
    async fn a_small_object_is_one_request_and_a_given_up_one_is_none() {
        let remote = Arc::new(Remote::memory("multipart-small").expect("opened"));
        let mut upload = Multipart::new(remote.clone(), "small".into());
        upload.write(Bytes::from_static(b"small")).await.expect("written");
        assert!(upload.writer.is_none() && upload.sending.is_empty());
        assert_eq!(upload.finish().await.expect("finished"), Creation::Created);
        let mut given_up = Multipart::new(remote.clone(), "none".into());
        given_up.write(Bytes::from(vec![0; 2 * PART_BYTES])).await.expect("written");
        given_up.abort().await;
        assert_eq!(remote.read("none").await.expect("read"), None);
    }
}
