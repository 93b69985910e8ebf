//! A segment on its way: what its sidecar will say, and the upload of its log.

use bytes::Bytes;
use tokio::time::Instant;

use crate::archive::segment::Builder;
use crate::budget::Permit;
use crate::error::{Error, Result};
use crate::record::AbortedTransaction;
use crate::store::Upload;

/// A segment on its way.
pub(super) struct Growing {
    pub(super) upload: Upload,
    pub(super) builder: Builder,
    /// What is paid for bytes that are still in memory.
    pub(super) permit: Permit,
    pub(super) roll_at: Instant,
}

impl Growing {
    /// Has the builder take whole batches, as [`Builder::append`]; the upload gets them afterwards. Hands itself back,
    /// unless a defect has ended it.
    pub(super) async fn append(
        self,
        bytes: &Bytes,
        aborted: &[AbortedTransaction],
        limit_bytes: u64,
    ) -> (Option<Self>, Result<usize>) {
        let Self { upload, builder, permit, roll_at } = self;
        match append(builder, bytes, aborted, limit_bytes).await {
            Ok((builder, taken)) => (Some(Self { upload, builder, permit, roll_at }), taken),
            Err(error) => {
                upload.abort().await;
                (None, Err(error))
            }
        }
    }

    /// Hands bytes to the upload, and keeps paying for what that holds in memory.
    pub(super) async fn write(&mut self, bytes: Bytes, permit: Permit) -> Result<()> {
        self.permit.merge(permit);
        self.upload.write(bytes).await?;
        self.permit.keep(self.upload.held_bytes());
        Ok(())
    }
}

/// Has a builder take whole batches. Where it must look into one, which means to decompress it, that is done on a thread
/// that may compute: on those of the runtime everybody else would wait.
async fn append(
    mut builder: Builder,
    bytes: &Bytes,
    aborted: &[AbortedTransaction],
    limit_bytes: u64,
) -> Result<(Builder, Result<usize>)> {
    if !builder.must_look_into(bytes) {
        let taken = builder.append(bytes, aborted, limit_bytes);
        return Ok((builder, taken));
    }
    let (bytes, aborted) = (bytes.clone(), aborted.to_vec());
    let appended = tokio::task::spawn_blocking(move || {
        let taken = builder.append(&bytes, &aborted, limit_bytes);
        (builder, taken)
    });
    appended.await.map_err(|error| Error::transient("looking into batches ended by a defect").source(error))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::archive::sidecar::Kind;
    use crate::batch::records::{Record, encode, template};
    use crate::batch::transactions::OpenTransactions;
    use crate::batch::{Compression, Header};
    use crate::record::{Offset, Partition, Timestamp, TopicId};

    /// A batch of these records, as the log cleaner leaves one whose last offset was `last`.
    fn batch(offsets: &[Offset], last: Offset) -> Bytes {
        let record = |&offset| Record { offset, timestamp: Timestamp(0), key: None, value: None, headers: Vec::new() };
        let records: Vec<_> = offsets.iter().map(record).collect();
        let template = Header { last_offset_delta: (last - offsets[0]) as i32, ..template(offsets[0]) };
        encode(&template, &records, Compression::Lz4).expect("they fit")
    }

    fn builder() -> Builder {
        let partition = Partition { topic: "t".into(), topic_id: TopicId::NONE, index: 0 };
        Builder::new(&partition, 0, Kind::First, OpenTransactions::default())
    }

    #[test]
    fn no_batch_is_looked_into_on_a_thread_of_the_runtime() {
        // Others than the runtime's own threads there is one, and that one is busy.
        let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build().expect("a runtime");
        let (free, busy) = mpsc::channel::<()>();
        let _busy = runtime.spawn_blocking(move || busy.recv());
        let _entered = runtime.enter();
        let mut context = Context::from_waker(Waker::noop());
        let dense = Bytes::from([batch(&[0, 1, 2], 2), batch(&[3, 4], 4)].concat());
        let Poll::Ready(Ok((builder, Ok(taken)))) =
            Box::pin(append(builder(), &dense, &[], u64::MAX)).as_mut().poll(&mut context)
        else {
            panic!("headers tell all of a batch without holes")
        };
        assert_eq!(taken, dense.len());
        let sparse = Bytes::from([batch(&[5, 6], 6), batch(&[7, 9, 12], 14)].concat());
        let mut looking = Box::pin(append(builder, &sparse, &[], u64::MAX));
        assert!(looking.as_mut().poll(&mut context).is_pending(), "it waits for a thread that may compute");
        free.send(()).expect("it waits");
        let (builder, taken) = runtime.block_on(looking).expect("no defect");
        let (sidecar, _) = builder.seal();
        assert_eq!((taken.expect("sound"), sidecar.range.next), (sparse.len(), 15));
        assert_eq!((sidecar.records, sidecar.first_record, sidecar.last_record), (10, Some(0), Some(12)));
    }
}
