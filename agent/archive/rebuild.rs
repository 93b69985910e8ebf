//! Sidecars made anew from logs: which transactions were aborted, as far as what is left proves it.
//!
//! Pure: headers of batches and sound neighbours' sidecars in, transactions out. Everything else in a sidecar is what
//! [`Builder`] makes of the log. Which transactions were aborted, Kafka had told with the bytes; from
//! the bytes alone it follows from the markers, but the log cleaner takes markers away, and between two captures it may
//! have taken them out of what the archive holds of a producer.
//!
//! **Proof.** Data of one producer between two of its markers, with no batch missing between, is one transaction (a
//! *run* here): its fate is one. A run is decided by
//! - the marker behind it, if no whole batch is missing between the two: another marker may have stood in such a hole.
//!   Records that are missing *inside* a batch hide nothing, since a marker is a batch of its own;
//! - holes or not, a marker whose epoch is the data's + 1, of a producer that is known to use transaction version 2,
//!   where each transaction has an epoch of its own: one that committed right behind its data with such a marker;
//! - a sound sidecar, or a catalog's row that says that nothing was aborted, of a segment that holds data of the run;
//! - an aborted transaction in a sound sidecar that began at or before the run, and goes on behind it;
//! - the source, where somebody asked it.
//!
//! What is left is *undecided*. A run without a marker up to the chain's end is: capture ends at the last stable offset,
//! so it was decided, but nothing here says how.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;

use super::segment::Builder;
use super::sidecar::{Kind, Sidecar, Transaction};
use crate::batch::records::Records;
use crate::batch::{self, Header};
use crate::error::Result;
use crate::record::{LeftOut, Offset, OffsetRange, Partition, Timestamp};

/// What became of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It was committed.
    Committed,
    /// It was aborted.
    Aborted,
    /// Nothing that is left tells.
    Undecided,
}

/// What is known of a segment without its log.
#[derive(Debug, Clone, Copy)]
pub enum Known<'a> {
    /// Everything: its sidecar is sound.
    Sidecar(&'a Sidecar),
    /// That no transaction in it was aborted: a catalog says so.
    NoneAborted,
    /// Nothing.
    Nothing,
}

/// Data of one producer since its last marker, without a missing batch inside.
#[derive(Debug, Clone, Copy)]
struct Run {
    first: Offset,
    last: Offset,
    epoch: i16,
    /// How many holes there were before its last batch.
    holes: u64,
    has_records: bool,
    fate: Option<Fate>,
}

/// A transaction that was not committed, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Settled {
    producer_id: i64,
    first: Offset,
    /// The marker's offset, or the last offset that is known to belong to it; `None` up to the end of what was read.
    end: Option<Offset>,
    is_aborted: bool,
}

/// Decides the transactions of one chain, segment by segment and batch by batch in offset order.
#[derive(Debug, Default)]
pub struct Decider {
    /// The runs of each producer since its last marker, in order.
    runs: HashMap<i64, Vec<Run>>,
    settled: Vec<Settled>,
    /// The offset behind the last batch.
    next: Option<Offset>,
    /// Places so far where a whole batch, and so a marker, may be missing.
    holes: u64,
    /// Producers each of whose transactions has an epoch of its own.
    of_version_2: HashSet<i64>,
}

impl Decider {
    /// Begins a segment; `known` is what is known of it without reading it.
    pub fn segment(&mut self, range: OffsetRange, known: Known<'_>) {
        self.reach(range.first);
        let Known::Sidecar(sidecar) = known else { return };
        for entry in sidecar.aborted.iter().filter(|entry| entry.first < range.first) {
            let runs = self.runs.entry(entry.producer_id).or_default();
            let within = runs.partition_point(|run| run.first < entry.first);
            if within < runs.len() {
                // What it began with may lie before what was read, or have gone since.
                runs[within].first = entry.first;
                runs[within..].iter_mut().for_each(|run| run.fate = run.fate.or(Some(Fate::Aborted)));
            } else if runs.last().is_none_or(|run| run.last < entry.first) {
                let (last, holes, fate) = (range.first - 1, self.holes, Some(Fate::Aborted));
                runs.push(Run { first: entry.first, last, epoch: -1, holes, has_records: true, fate });
            }
        }
    }

    /// Takes the next batch, of which `bytes` are the bytes.
    ///
    /// # Errors
    /// [`Kind::Damaged`](crate::error::Kind::Damaged) for a marker that cannot be read.
    pub fn batch(&mut self, header: &Header, bytes: &Bytes, known: Known<'_>) -> Result<()> {
        self.reach(header.base_offset);
        self.next = Some(header.next_offset());
        if header.is_gap() {
            self.holes += 1;
        } else if header.is_control() {
            let marker = marker(header, bytes)?;
            self.end(header, marker);
        } else if header.is_transactional() {
            self.data(header, known);
        }
        Ok(())
    }

    /// Returns whether anything before `offset` waits for a decision.
    pub fn is_open_before(&self, offset: Offset) -> bool {
        let waits = |run: &Run| run.first < offset && run.has_records && run.fate.is_none();
        self.runs.values().flatten().any(waits)
    }

    /// Ends the reading; what has not been decided stays undecided.
    pub fn finish(mut self) -> Transactions {
        for (producer_id, runs) in std::mem::take(&mut self.runs) {
            self.settle(producer_id, &runs, None);
        }
        self.settled.sort_unstable_by_key(|settled| (settled.first, settled.producer_id));
        Transactions { waiting: self.settled, at: 0, current: Vec::new() }
    }

    /// Comes to `offset`; what lies before and was not seen is a hole.
    fn reach(&mut self, offset: Offset) {
        if self.next.is_some_and(|next| offset > next) {
            self.holes += 1;
        }
        self.next = self.next.max(Some(offset));
    }

    fn data(&mut self, header: &Header, known: Known<'_>) {
        let (producer_id, offset) = (header.producer_id, header.base_offset);
        let fate = match known {
            Known::Sidecar(sidecar) if sidecar.is_aborted(producer_id, offset) => Some(Fate::Aborted),
            Known::Sidecar(sidecar) if sidecar.is_undecided(producer_id, offset) => None,
            Known::Sidecar(_) | Known::NoneAborted => Some(Fate::Committed),
            Known::Nothing => None,
        };
        let runs = self.runs.entry(producer_id).or_default();
        let epoch = header.producer_epoch;
        let (last, has_records, holes) = (header.last_offset(), header.count > 0, self.holes);
        // An epoch of −1 is of a transaction of which only a sidecar told so far.
        let goes_on = |run: &&mut Run| run.holes == holes && (run.epoch == epoch || run.epoch < 0);
        match runs.last_mut().filter(goes_on) {
            Some(run) => {
                (run.last, run.epoch) = (last, epoch);
                run.has_records |= has_records;
                run.fate = run.fate.or(fate);
            }
            None => runs.push(Run { first: offset, last, epoch, holes, has_records, fate }),
        }
    }

    /// Ends what the producer has open with its control batch.
    fn end(&mut self, header: &Header, marker: Option<Fate>) {
        let Some(mut runs) = self.runs.remove(&header.producer_id) else { return };
        for run in &mut runs {
            let follows = run.holes == self.holes;
            let is_next = run.epoch >= 0 && header.producer_epoch == run.epoch.wrapping_add(1);
            if follows && is_next && marker == Some(Fate::Committed) {
                // With version 1 a commit has the epoch of its data; only an abort by time-out has a later one.
                let _ = self.of_version_2.insert(header.producer_id);
            }
            let is_its_own = is_next && self.of_version_2.contains(&header.producer_id);
            run.fate = run.fate.or(marker.filter(|_| follows || is_its_own));
        }
        self.settle(header.producer_id, &runs, Some(header.base_offset));
    }

    /// Keeps what of a producer's runs was not committed; neighbours that were aborted are one transaction to a reader.
    fn settle(&mut self, producer_id: i64, runs: &[Run], marker: Option<Offset>) {
        // An empty batch, which the cleaner leaves of a producer's last, has nothing to lose or to show.
        let fate = |run: &Run| run.fate.unwrap_or(if run.has_records { Fate::Undecided } else { Fate::Committed });
        let one = |a: &Run, b: &Run| fate(a) == Fate::Aborted && fate(b) == Fate::Aborted;
        let mut groups = runs.chunk_by(one).peekable();
        while let Some(group) = groups.next() {
            let fate = fate(&group[0]);
            if fate == Fate::Committed {
                continue;
            }
            // Up to what is another's, as capture would have it: nothing of the producer lies between.
            let end = groups.peek().map(|next| next[0].first - 1).or(marker);
            let (first, is_aborted) = (group[0].first, fate == Fate::Aborted);
            self.settled.push(Settled { producer_id, first, end, is_aborted });
        }
    }
}

/// Reads what a transaction's marker says: `None` where the cleaner has emptied it, or it is none of a transaction.
fn marker(header: &Header, bytes: &Bytes) -> Result<Option<Fate>> {
    let Some(record) = Records::of(header, bytes)?.next().transpose()? else { return Ok(None) };
    // The key of a control record: version and type, 16 bits each.
    Ok(match record.key.as_deref().and_then(|key| key.get(2..4)) {
        Some([0, 0]) => Some(Fate::Aborted),
        Some([0, 1]) => Some(Fate::Committed),
        _ => None,
    })
}

/// The transactions of a chain that were not committed, as far as is known; taken segment by segment.
#[derive(Debug, Clone, Default)]
pub struct Transactions {
    waiting: Vec<Settled>,
    at: usize,
    current: Vec<Settled>,
}

impl Transactions {
    /// Returns those that nothing has decided; `last` is the last offset, of a marker perhaps, that may belong to it.
    pub fn undecided(&self) -> impl Iterator<Item = Transaction> + '_ {
        let open = self.waiting.iter().filter(|settled| !settled.is_aborted);
        open.map(|settled| Transaction { producer_id: settled.producer_id, first: settled.first, last: settled.end })
    }

    /// Says what became of the undecided transaction of `producer_id` that begins at `first`, as the source tells it.
    pub fn tell(&mut self, producer_id: i64, first: Offset, was_aborted: bool) {
        let told =
            |settled: &Settled| !settled.is_aborted && (settled.producer_id, settled.first) == (producer_id, first);
        if was_aborted {
            self.waiting.iter_mut().filter(|settled| told(settled)).for_each(|settled| settled.is_aborted = true);
        } else {
            self.waiting.retain(|settled| !told(settled));
        }
    }

    /// Returns the aborted and the undecided transactions for the sidecar of the segment of `range`. Segments must come
    /// in order; some may be left out.
    pub fn of(&mut self, range: OffsetRange) -> (Vec<Transaction>, Vec<Transaction>) {
        while let Some(settled) = self.waiting.get(self.at).filter(|settled| settled.first < range.next) {
            self.current.push(*settled);
            self.at += 1;
        }
        self.current.retain(|settled| settled.end.is_none_or(|end| end >= range.first));
        let of = |aborted| {
            let chosen = self.current.iter().filter(move |settled| settled.is_aborted == aborted);
            let entry = |settled: &Settled| Transaction {
                producer_id: settled.producer_id,
                first: settled.first,
                last: settled.end.filter(|end| *end < range.next),
            };
            chosen.map(entry).collect()
        };
        (of(true), of(false))
    }
}

/// What a sidecar says that its log does not.
#[derive(Debug, Clone)]
pub struct Beyond {
    /// What kind of segment it is, if it is no gap.
    pub kind: Kind,
    /// The aborted transactions that touch it.
    pub aborted: Vec<Transaction>,
    /// The undecided ones.
    pub undecided: Vec<Transaction>,
    /// When it was sealed, if that is known.
    pub sealed_at: Option<Timestamp>,
    /// When the one before it was, or when the topic was first seen; it was sealed no earlier.
    pub sealed_after: Timestamp,
    /// Its note, if that is known.
    pub note: Option<String>,
    /// The stages that its records went through, as far as that is known.
    pub stages: Vec<String>,
    /// What those left out, of it and of its neighbours.
    pub left_out: Vec<LeftOut>,
}

/// Makes a sidecar of a log, chunk by chunk.
pub struct Rebuild {
    builder: Builder,
    beyond: Beyond,
    only_gaps: bool,
}

impl Rebuild {
    /// Begins with the segment at `first`.
    pub fn new(partition: &Partition, first: Offset, mut beyond: Beyond) -> Self {
        let aborted = std::mem::take(&mut beyond.aborted);
        let undecided = std::mem::take(&mut beyond.undecided);
        let builder = Builder::decided(partition, first, beyond.kind, aborted, undecided).staged(&beyond.stages);
        Self { builder, beyond, only_gaps: true }
    }

    /// Takes whole batches.
    ///
    /// # Errors
    /// [`Kind::Damaged`](crate::error::Kind::Damaged) for bytes that are no log's.
    pub fn append(&mut self, bytes: &Bytes) -> Result<()> {
        for item in batch::walk(bytes) {
            self.only_gaps &= item?.1.is_gap();
        }
        let _ = self.builder.append(bytes, &[], u64::MAX)?;
        Ok(())
    }

    /// Returns the sidecar.
    pub fn finish(self) -> Sidecar {
        let Self { mut builder, beyond, only_gaps } = self;
        let range = builder.range();
        let is_within = |left_out: &&LeftOut| left_out.range.first < range.next && left_out.range.next > range.first;
        builder.leave_out(beyond.left_out.iter().filter(is_within).copied());
        let (mut sidecar, _) = builder.seal();
        if only_gaps {
            // Its neighbours' stages are not its.
            (sidecar.kind, sidecar.stages, sidecar.left_out) = (Kind::Gap, Vec::new(), Vec::new());
        }
        let from = if sidecar.stages.is_empty() {
            "rebuilt from the log"
        } else {
            "rebuilt from the log; what its stages left out is not known any more"
        };
        // Only a gap says more than its log: its reason. A chain's beginning is where it is.
        sidecar.note = beyond.note.unwrap_or_else(|| match sidecar.kind {
            Kind::Gap => "the reason was lost with the sidecar that said it; rebuilt from the log".to_owned(),
            _ if sidecar.note.is_empty() => from.to_owned(),
            _ => format!("{}; {from}", sidecar.note),
        });
        // A time far from the truth may make an old topic the newest of its name; producers make up times to come.
        let of_records = sidecar.max_time.filter(|time| *time <= Timestamp::now()).unwrap_or(Timestamp::NONE);
        let since = of_records.max(beyond.sealed_after);
        sidecar.sealed_at = beyond.sealed_at.unwrap_or(since);
        sidecar
    }
}

#[cfg(test)]
mod tests;
