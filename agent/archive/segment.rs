//! A segment while it grows: what its sidecar will say, kept up batch by batch from headers alone.
//!
//! Pure: the bytes themselves go to the store (`archive::sink`). Nothing is decoded, but where offsets are missing
//! from a batch (compaction) and the first or last record must be named, or where a chain begins inside a batch.

use bytes::Bytes;
use xxhash_rust::xxh3::Xxh3;

use super::sidecar::{Entry, Epoch, Kind, Sidecar, Transaction};
use crate::batch::transactions::OpenTransactions;
use crate::batch::{self, Header, records};
use crate::error::{Error, Result};
use crate::record::{AbortedTransaction, LeftOut, Offset, OffsetRange, Partition, Timestamp};

/// Bytes of log between two sparse entries. Half of it doubles the sidecar and saves a reader 32 KiB a look-up; double
/// of it makes a reader of one record fetch 128 KiB.
const ENTRY_EVERY_BYTES: u64 = 64 * 1024;

/// A segment that grows.
pub struct Builder {
    sidecar: Sidecar,
    digest: Xxh3,
    open: OpenTransactions,
    next_entry_at: u64,
    leader_epoch: i32,
    /// Each data batch so far has proven its least time.
    proven: bool,
    /// The sidecar's lists of transactions are given, and not to be found.
    is_decided: bool,
}

impl Builder {
    /// Begins the segment of `partition` that covers offsets from `first` on.
    pub fn new(partition: &Partition, first: Offset, kind: Kind, open: OpenTransactions) -> Self {
        let sidecar = Sidecar {
            topic_id: partition.topic_id,
            partition: partition.index,
            range: OffsetRange { first, next: first },
            length_bytes: 0,
            digest: 0,
            sealed_at: Timestamp::NONE,
            kind,
            batches: 0,
            converted: 0,
            records: 0,
            first_record: None,
            last_record: None,
            max_time: None,
            min_time: None,
            entries: Vec::new(),
            epochs: Vec::new(),
            aborted: Vec::new(),
            undecided: Vec::new(),
            note: if kind == Kind::First { format!("the chain begins at offset {first}") } else { String::new() },
            stages: Vec::new(),
            left_out: Vec::new(),
        };
        let digest = Xxh3::new();
        Self { sidecar, digest, open, next_entry_at: 0, leader_epoch: -1, proven: true, is_decided: false }
    }

    /// Begins a segment of which it is known from elsewhere which transactions were aborted, and which of them nobody
    /// knows any more: a sidecar that is made anew.
    pub fn decided(
        partition: &Partition,
        first: Offset,
        kind: Kind,
        aborted: Vec<Transaction>,
        undecided: Vec<Transaction>,
    ) -> Self {
        let mut builder = Self::new(partition, first, kind, OpenTransactions::default());
        (builder.sidecar.aborted, builder.sidecar.undecided, builder.is_decided) = (aborted, undecided, true);
        builder
    }

    /// Adds a note for people in place of the one that its kind has.
    pub fn noted(mut self, note: String) -> Self {
        self.sidecar.note = note;
        self
    }

    /// Says which stages its records go through.
    pub fn staged(mut self, stages: &[String]) -> Self {
        self.sidecar.stages = stages.to_vec();
        self
    }

    /// Adds what stages failed at, batch by batch, of the batches that were appended; neighbours are told together.
    pub fn leave_out(&mut self, left_out: impl IntoIterator<Item = LeftOut>) {
        let told = &mut self.sidecar.left_out;
        for more in left_out {
            match told.last_mut().filter(|last| last.goes_on_with(&more)) {
                Some(last) => {
                    last.range.next = more.range.next;
                    last.records = last.records.saturating_add(more.records);
                }
                None => told.push(more),
            }
        }
    }

    /// Makes the log and sidecar of a gap: empty batches over `range`, with `reason` for people.
    pub fn gap(partition: &Partition, range: OffsetRange, leader_epoch: i32, reason: String) -> (Bytes, Sidecar) {
        let log = batch::gap(range, leader_epoch);
        let mut builder = Self::new(partition, range.first, Kind::Gap, OpenTransactions::default());
        let taken = builder.append(&log, &[], u64::MAX).expect("batches that we made are sound");
        debug_assert_eq!(taken, log.len());
        builder.sidecar.note = reason;
        (log, builder.seal().0)
    }

    /// Takes whole batches from the front of `bytes` until the segment has at least `limit_bytes`; returns how many
    /// bytes it took. `aborted` is what the broker reported with these bytes.
    ///
    /// # Errors
    /// [`Kind::Damaged`](crate::error::Kind::Damaged) when a batch is no v2 batch, or goes back in offsets; the
    /// builder is void then.
    pub fn append(&mut self, bytes: &Bytes, aborted: &[AbortedTransaction], limit_bytes: u64) -> Result<usize> {
        self.open.report(aborted);
        let mut taken = 0;
        let mut last_data = None;
        for item in batch::walk(bytes) {
            let (at, header) = item?;
            self.add(&bytes[at..at + header.total_bytes], &header, &mut last_data, at)?;
            taken = at + header.total_bytes;
            if self.sidecar.length_bytes >= limit_bytes {
                break;
            }
        }
        if let Some((at, header)) = last_data {
            self.name_last_record(&bytes[at..at + header.total_bytes], &header)?;
        }
        self.digest.update(&bytes[..taken]);
        Ok(taken)
    }

    /// Returns whether to append these batches may mean to decode one: where offsets are missing from it, or it begins
    /// before the segment.
    pub fn must_look_into(&self, bytes: &[u8]) -> bool {
        let first = self.sidecar.range.first;
        batch::walk(bytes).filter_map(Result::ok).any(|(_, header)| {
            header.count > 0 && !header.is_control() && !(header.is_dense() && header.base_offset >= first)
        })
    }

    /// Ends the segment: its sidecar, and the transactions that go on in the next one.
    pub fn seal(mut self) -> (Sidecar, OpenTransactions) {
        self.sidecar.digest = self.digest.digest128();
        self.sidecar.sealed_at = Timestamp::now();
        let next = self.sidecar.range.next;
        self.sidecar.aborted.extend(self.open.begun_before(next).map(|open| Transaction {
            producer_id: open.producer_id,
            first: open.first,
            last: None,
        }));
        self.sidecar.min_time = (self.proven && self.sidecar.max_time.is_some())
            .then(|| self.sidecar.entries.iter().filter_map(|entry| entry.min_time).min())
            .flatten();
        for entry in &mut self.sidecar.entries {
            entry.min_time = entry.min_time.filter(|least| least.0 != i64::MAX);
        }
        (self.sidecar, self.open)
    }

    /// Returns the offsets that the segment covers so far, `[first, next)`.
    pub fn range(&self) -> OffsetRange {
        self.sidecar.range
    }

    /// Returns the bytes of log so far.
    pub fn length_bytes(&self) -> u64 {
        self.sidecar.length_bytes
    }

    /// Returns how many batches the segment has so far.
    pub fn batches(&self) -> u64 {
        self.sidecar.batches
    }

    /// Returns the leader epoch of the last batch, −1 when there is none.
    pub fn leader_epoch(&self) -> i32 {
        self.leader_epoch
    }

    fn add(&mut self, bytes: &[u8], header: &Header, last_data: &mut Option<(usize, Header)>, at: usize) -> Result<()> {
        let range = &mut self.sidecar.range;
        if header.next_offset() <= range.next || (self.sidecar.batches > 0 && header.base_offset < range.next) {
            return Err(Error::damaged("record batches go back in offsets")
                .with("offset", header.base_offset)
                .with("expected", range.next));
        }
        range.next = header.next_offset();
        self.note_place(header);
        self.sidecar.length_bytes += bytes.len() as u64;
        self.sidecar.batches += 1;
        self.sidecar.converted += u64::from(header.is_converted());
        if header.is_control() {
            let (producer_id, last) = (header.producer_id, Some(header.base_offset));
            let ended = self.open.end(producer_id, header.base_offset);
            self.sidecar.aborted.extend(ended.map(|open| Transaction { producer_id, first: open.first, last }));
        } else if header.count > 0 {
            self.note_times(header);
            if !(header.is_transactional() && self.leaves_out(header.producer_id, header.base_offset)) {
                self.count(bytes, header)?;
                *last_data = Some((at, *header));
            }
        }
        Ok(())
    }

    /// Returns whether the records of a transactional data batch are not counted.
    fn leaves_out(&self, producer_id: i64, offset: Offset) -> bool {
        if self.is_decided {
            self.sidecar.is_aborted(producer_id, offset) || self.sidecar.is_undecided(producer_id, offset)
        } else {
            self.open.covers(producer_id, offset)
        }
    }

    /// Keeps leader epochs and sparse entries.
    fn note_place(&mut self, header: &Header) {
        if self.sidecar.epochs.last().is_none_or(|last| last.epoch != header.leader_epoch) {
            self.sidecar.epochs.push(Epoch { epoch: header.leader_epoch, first: header.base_offset });
        }
        self.leader_epoch = header.leader_epoch;
        if self.sidecar.length_bytes >= self.next_entry_at {
            self.sidecar.entries.push(Entry {
                offset: header.base_offset,
                position: self.sidecar.length_bytes,
                first_time: header.first_time(),
                max_time: header.max_timestamp,
                // The greatest value is the neutral one for a minimum; `None` once a batch did not prove its own.
                min_time: Some(Timestamp(i64::MAX)),
            });
            self.next_entry_at = self.sidecar.length_bytes + ENTRY_EVERY_BYTES;
        }
    }

    /// Keeps the greatest times, and the least where the header proves it.
    fn note_times(&mut self, header: &Header) {
        let entry = self.sidecar.entries.last_mut().expect("the first batch of a segment begins an entry");
        entry.max_time = entry.max_time.max(header.max_timestamp);
        let proven = header.proven_min_time();
        entry.min_time = entry.min_time.zip(proven).map(|(least, time)| least.min(time));
        self.proven &= proven.is_some();
        self.sidecar.max_time = self.sidecar.max_time.max(Some(header.max_timestamp));
    }

    /// Counts a batch's records and names the segment's first.
    fn count(&mut self, bytes: &[u8], header: &Header) -> Result<()> {
        let first = self.sidecar.range.first;
        if header.base_offset >= first && (header.is_dense() || self.sidecar.first_record.is_some()) {
            self.sidecar.records += header.count as u64;
            self.sidecar.first_record.get_or_insert(header.base_offset);
            return Ok(());
        }
        let survey = records::survey(bytes, header, first)?;
        self.sidecar.records += survey.count as u64;
        self.sidecar.first_record = self.sidecar.first_record.or(survey.first);
        Ok(())
    }

    /// Names the last record, from the last data batch of a run; only a batch with holes must be decoded for it.
    fn name_last_record(&mut self, bytes: &[u8], header: &Header) -> Result<()> {
        let last = if header.is_dense() {
            Some(header.last_offset())
        } else {
            records::survey(bytes, header, self.sidecar.range.first)?.last
        };
        self.sidecar.last_record = last.or(self.sidecar.last_record);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARTITION: i32 = 0;

    fn partition() -> Partition {
        Partition { topic: "t".into(), topic_id: crate::record::TopicId::NONE, index: PARTITION }
    }

    /// A batch without payload bytes: enough for everything that reads headers only.
    fn batch(base: Offset, count: i32, producer: Option<i64>, control: bool) -> Vec<u8> {
        let mut bytes = batch::gap(OffsetRange { first: base, next: base + i64::from(count) }, 4).to_vec();
        let attributes: i16 = if producer.is_some() { 0x10 } else { 0 } | if control { 0x20 } else { 0 };
        bytes[21..23].copy_from_slice(&attributes.to_be_bytes());
        bytes[43..51].copy_from_slice(&producer.unwrap_or(-1).to_be_bytes());
        bytes[57..61].copy_from_slice(&count.to_be_bytes());
        batch::put_crc(&mut bytes);
        bytes
    }

    fn built(
        batches: &[Vec<u8>],
        aborted: &[AbortedTransaction],
        open: OpenTransactions,
    ) -> (Sidecar, OpenTransactions) {
        let first = batch::Header::read(&batches[0]).expect("sound").base_offset;
        let mut builder = Builder::new(&partition(), first, Kind::Data, open);
        let bytes = Bytes::from(batches.concat());
        assert_eq!(builder.append(&bytes, aborted, u64::MAX).expect("sound"), bytes.len());
        builder.seal()
    }

    #[test]
    fn an_aborted_transaction_is_known_though_its_marker_lies_beyond_the_end() {
        let aborted = [AbortedTransaction { producer_id: 7, first: 0 }];
        let batches = [batch(0, 3, Some(7), false), batch(3, 2, None, false)];
        let (sidecar, open) = built(&batches, &aborted, OpenTransactions::default());
        assert_eq!((sidecar.records, sidecar.first_record, sidecar.last_record), (2, Some(3), Some(4)));
        assert!(sidecar.is_aborted(7, 0));
        let (next, _) = built(&[batch(5, 4, Some(7), false), batch(9, 1, None, false)], &[], open);
        assert_eq!(next.records, 1, "the transaction goes on in the next segment");
        assert_eq!(next.aborted, [Transaction { producer_id: 7, first: 0, last: None }]);
    }

    #[test]
    fn a_commit_before_the_transaction_does_not_end_it() {
        let aborted = [AbortedTransaction { producer_id: 7, first: 3 }];
        let batches = [
            batch(0, 2, Some(7), false),
            batch(2, 1, Some(7), true),
            batch(3, 2, Some(7), false),
            batch(5, 1, Some(7), true),
            batch(6, 1, Some(7), false),
        ];
        let (sidecar, open) = built(&batches, &aborted, OpenTransactions::default());
        assert_eq!(sidecar.aborted, [Transaction { producer_id: 7, first: 3, last: Some(5) }]);
        assert_eq!((sidecar.records, sidecar.first_record, sidecar.last_record), (3, Some(0), Some(6)));
        assert!(open.is_empty());
    }

    #[test]
    fn a_segment_stops_at_its_limit_and_never_goes_back() {
        let one = batch(0, 2, None, false);
        let bytes = Bytes::from([one.clone(), batch(2, 2, None, false)].concat());
        let mut builder = Builder::new(&partition(), 0, Kind::First, OpenTransactions::default());
        assert_eq!(builder.append(&bytes, &[], 1).expect("sound"), one.len());
        assert!(builder.append(&Bytes::from(one), &[], u64::MAX).is_err());
    }

    #[test]
    fn batches_made_of_older_formats_are_counted_by_their_mark() {
        let old = Bytes::from_static(include_bytes!("../batch/legacy/v1.log"));
        let converted = batch::legacy::convert(&old, 0, None).bytes.to_vec();
        let (sidecar, _) = built(&[converted, batch(12, 3, None, false)], &[], OpenTransactions::default());
        assert_eq!((sidecar.batches, sidecar.converted, sidecar.records), (5, 4, 15));
        assert_eq!(sidecar.epochs.iter().map(|epoch| epoch.epoch).collect::<Vec<_>>(), [-1, 4]);
    }

    #[test]
    fn a_gap_covers_its_range_and_says_why() {
        let range = OffsetRange { first: 4, next: 4_000_000_000 };
        let (log, sidecar) = Builder::gap(&partition(), range, 1, "retention".into());
        assert_eq!((sidecar.range, sidecar.length_bytes, sidecar.records), (range, log.len() as u64, 0));
        assert_eq!((sidecar.kind, sidecar.note.as_str()), (Kind::Gap, "retention"));
        assert_eq!(sidecar.digest, xxhash_rust::xxh3::xxh3_128(&log));
    }
}
