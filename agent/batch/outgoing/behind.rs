//! The rest of a batch of which the first records are in the target already. Pure.

use super::piece::Piece;
use super::{Fitted, Identity};
use crate::batch::records::transfer::{each, unpack_in};
use crate::batch::{Header, codec};
use crate::error::Result;

/// A batch that is only taken apart again is nobody's.
const NOBODY: Identity = Identity { producer_id: -1, epoch: -1 };

impl Fitted {
    /// Returns the records behind the first `count`, as batches of at most `most_bytes`: none, where there are no more.
    ///
    /// # Errors
    /// As [`Refit::put`](super::Refit::put).
    pub fn behind(&self, count: u32, most_bytes: usize) -> Result<Vec<Self>> {
        let bytes = [&self.batch.seal(NOBODY, -1, false)[..], self.batch.payload()].concat();
        let (header, mut scratch) = (Header::read(&bytes)?, Vec::new());
        let plain = unpack_in(&header, &bytes, codec::LIMIT_BYTES, &mut scratch)?;
        let (mut piece, mut out, mut before) = (Piece::new(), Vec::new(), count);
        let mut sources = self.sources.offsets();
        let form = (header.compression()?, most_bytes);
        each(&header, plain, |_, time, fields| {
            let source = sources.next().expect("each record has a source");
            if before > 0 {
                before -= 1;
                return Ok(());
            }
            piece.put((source, time, fields), form, &mut out)
        })?;
        piece.fit(form.0, most_bytes, &mut out)?;
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::batch::outgoing::{Limits, Refit, Window};
    use crate::batch::records::{Record, Records, encode, template};
    use crate::batch::{Compression, Header};
    use crate::record::{Offset, Timestamp};

    /// Returns the records of batches, at the offsets where they were.
    fn records(fitted: &[Fitted]) -> Vec<(Offset, Timestamp, Option<Bytes>)> {
        let mut all = Vec::new();
        for Fitted { batch, sources } in fitted {
            let bytes = [&batch.seal(NOBODY, -1, false)[..], batch.payload()].concat();
            let read: Vec<Record> = Records::read(&Bytes::from(bytes)).and_then(Iterator::collect).expect("sound");
            all.extend(read.into_iter().zip(sources.offsets()).map(|(of, at)| (at, of.timestamp, of.value)));
        }
        all
    }

    #[test]
    fn what_is_behind_the_first_records_keeps_times_values_and_where_it_was() {
        let record = |offset: Offset| Record {
            offset,
            timestamp: Timestamp(1000 - offset),
            key: None,
            value: Some(Bytes::from(format!("value {offset}"))),
            headers: Vec::new(),
        };
        for compression in [Compression::None, Compression::Lz4, Compression::Zstd] {
            let all: Vec<_> = (40..50).map(record).collect();
            let batch = encode(&template(40), &all, compression).expect("they fit");
            let limits = Limits { most_bytes: 1 << 20, merge_below: 0, merge_to: 0 };
            let (mut refit, mut out) = (Refit::new(limits), Vec::new());
            let header = Header::read(&batch).expect("our own");
            refit.put(&header, &batch, &Window::EVERYTHING, &mut out).expect("sound");
            let whole = records(&out);
            for count in 0..=10 {
                let rest = out[0].behind(count, 1 << 20).expect("sound");
                assert_eq!(records(&rest), whole[count as usize..], "{compression:?}, behind {count}");
                let small = out[0].behind(count, 100).expect("each fits");
                assert_eq!(records(&small), whole[count as usize..], "as small as the target takes");
            }
            assert!(out[0].behind(10, 1 << 20).expect("sound").is_empty());
        }
    }
}
