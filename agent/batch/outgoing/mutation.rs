//! What is sent of batches that are no longer what they were: the records that can be read of one whose checksum holds.

use fastrand::Rng;

use super::*;
use crate::batch::records::{Record, Records};
use crate::error::Kind;
use crate::mutation::Tally;

const EVERYTHING: Window = Window { offsets: OffsetRange { first: 0, next: Offset::MAX }, from: None, until: None };

/// Holds [`Refit`] to its laws; `records` is what can be read of the batch, if it can be.
pub(in crate::batch) fn judge(
    header: &Header,
    batch: &Bytes,
    records: Option<&[Record]>,
    random: &mut Rng,
    tally: &mut Tally,
) {
    let merge_below = if random.bool() { 1 << 14 } else { 0 };
    let mut refit = Refit::new(Limits { most_bytes: usize::MAX, merge_below, merge_to: 1 << 18 });
    let mut fitted = Vec::new();
    let done = refit.put(header, batch, &EVERYTHING, &mut fitted).and_then(|()| refit.flush(&mut fitted));
    let is_proven = batch.get(..header.total_bytes).is_some_and(crc_matches);
    if let Err(error) = done {
        assert_eq!(error.kind(), Kind::Damaged, "{error}");
        assert!(!is_proven || records.is_none(), "its records can be read: {error}");
        return tally.note("a batch is not sent");
    }
    assert!(is_proven, "nothing proves what is sent");
    let payload = &batch[HEADER_BYTES..header.total_bytes];
    let is_same = fitted.iter().all(|fitted| fitted.batch.payload == payload);
    tally.note(if is_same { "a batch is sent as it is" } else { "a batch is sent as another" });
    // Nobody looks into what is sent as it is.
    let Some(records) = records else { return assert!(is_same) };
    let mut expected = records.iter();
    for Fitted { batch, sources } in fitted {
        let head = batch.seal(Identity { producer_id: 1, epoch: 0 }, 0, false);
        let bytes = [&head[..], batch.payload()].concat();
        assert!(crc_matches(&bytes));
        let sent = Records::read(&bytes.into()).expect("our own header");
        for (record, offset) in sent.zip(sources.offsets()) {
            let record = Record { offset, ..record.expect("it could be read") };
            assert_eq!(Some(&record), expected.next());
        }
    }
    assert_eq!(expected.next(), None, "all of them are sent");
}
