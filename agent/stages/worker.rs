//! One worker of the stages: batches in, batches out, with the instances of plugins that are its own.
//!
//! It has no I/O but the plugins' own calls, and decides batch by batch: what passes as it is, what has to be decoded, what
//! becomes of what a plugin failed at, to which partitions what came of it is spread. What it makes of a batch is one batch where it captures, and one for each target
//! that gets records of it where it restores.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use metrics::Histogram;
use xxhash_rust::xxh3::xxh3_128;

use super::making::{Flow, Routes, skipping, whole};
use super::onward::{Onward, Piece, What, archived, pieces};
use super::spread::Spread;
use super::{OnError, Passed, is_routing};
use crate::batch::outgoing::{Taken, proven as proven_bytes};
use crate::batch::records::encode_rows;
use crate::batch::records::rows::Rows;
use crate::batch::transactions::OpenTransactions;
use crate::batch::{self, Compression, Header};
use crate::error::{Error, Result};
use crate::plugin::columns::is_window;
use crate::plugin::{Instance, wit};
use crate::record::{DeadLetter, LeftOut, OffsetRange, Partition};

/// Bytes of batches made anew with which a run is handed back: a segment takes them, and pays for them.
const MOST_MADE_BYTES: usize = 4 << 20;

/// Bytes of decoded records, and their number, beyond which a batch is large; a producer's has a megabyte and some
/// thousands.
const LARGE_BYTES: usize = 16 << 20;
const LARGE_COUNT: i32 = 250_000;

/// The most bytes of decoded records of one batch.
const MOST_DECODED_BYTES: usize = 128 << 20;

/// Whoever works on a large batch holds this, which the workers of a pipeline share. A plugin may use up its time meanwhile:
/// those of other pipelines must not wait for it.
pub(super) type Large = Arc<Mutex<()>>;

/// The stages of one worker, in order.
pub(super) struct Worker {
    stages: Vec<(Instance, OnError)>,
    /// What becomes of what has gone through them.
    spread: Spread,
    large: Large,
    /// The start of each partition after which it was last seen.
    generations: HashMap<Partition, u32>,
    /// What each stage took of the run that is passed now, and where that is told; empty where nobody asks.
    times: Vec<(Duration, Histogram)>,
}

/// What became of one batch.
enum Made {
    /// It keeps its bytes.
    Same,
    /// It was made anew.
    New(Bytes),
    /// A restore sends this of it, and covers it.
    Sent(Vec<Piece>),
    /// A stage failed at it, and it is to be kept beside.
    Dead,
}

/// A batch, and what is to become of it where a restore passes it.
struct Given<'a> {
    partition: &'a Partition,
    onward: Option<&'a Onward>,
    header: &'a Header,
    bytes: &'a Bytes,
}

impl Given<'_> {
    /// Makes what it is where no plugin looks at it.
    fn same(&self, what: What) -> Made {
        match self.onward {
            Some(_) => Made::Sent(vec![archived(self.header, self.bytes, what)]),
            None => Made::Same,
        }
    }

    /// Makes what is left where all of its records are gone.
    fn none(&self) -> Made {
        if self.onward.is_some() { Made::Sent(Vec::new()) } else { Made::New(emptied(self.header)) }
    }

    /// Takes it apart, and leaves out what a restore does not want; says what the batch is then, as it was archived.
    fn decoded<'a>(&self, large: &'a Mutex<()>) -> Result<(Rows, What, Option<MutexGuard<'a, ()>>)> {
        let (rows, alone) = decoded(self.header, self.bytes, large)?;
        let Some(Onward { window, .. }) = self.onward else { return Ok((rows, What::Whole, alone)) };
        let inside: Vec<_> =
            rows.rows().iter().filter(|row| window.contains(row.offset, row.timestamp)).copied().collect();
        match inside.len() == rows.len() {
            true => Ok((rows, What::Whole, alone)),
            false => Ok((rows.derive().finish(inside), What::Cut, alone)),
        }
    }
}

impl Worker {
    /// Makes a worker of configured instances; what has gone through them is spread by key where a restore wants that.
    pub(super) fn new(stages: Vec<(Instance, OnError)>, spread: Spread, large: Large) -> Self {
        Self { stages, spread, large, generations: HashMap::new(), times: Vec::new() }
    }

    /// Has the time that each stage takes for a run told to these.
    pub(super) fn timed(self, times: Vec<Histogram>) -> Self {
        Self { times: times.into_iter().map(|time| (Duration::ZERO, time)).collect(), ..self }
    }

    /// Takes note of the start after which a partition is read.
    pub(super) fn begin(&mut self, partition: &Partition, generation: u32) {
        if self.generations.insert(partition.clone(), generation).is_some_and(|before| before != generation) {
            self.forget();
        }
    }

    /// Gives up what plugins remember of records.
    fn forget(&mut self) {
        self.stages.iter_mut().filter(|(instance, _)| !instance.plan().pure).for_each(|(instance, _)| instance.renew());
    }

    /// Gives up all instances.
    pub(super) fn forget_all(&mut self) {
        self.stages.iter_mut().for_each(|(instance, _)| instance.renew());
    }

    /// Passes whole batches through the stages, up to one that a stage failed at for which that is the policy, until
    /// enough was made for once, or until the run `is_void`.
    pub(super) fn pass(
        &mut self,
        partition: &Partition,
        bytes: &Bytes,
        open: OpenTransactions,
        onward: Option<&Onward>,
        is_void: &dyn Fn() -> bool,
    ) -> Passed {
        let mut passed = Passed { open, ..Passed::default() };
        let mut out = Out { from: bytes, same: 0..0, made: BytesMut::new() };
        let (mut sent_bytes, mut behind) = (0, 0);
        for item in batch::walk(bytes) {
            let made = item.and_then(|(at, header)| {
                let batch = bytes.slice(at..at + header.total_bytes);
                let given = Given { partition, onward, header: &header, bytes: &batch };
                let made = self.batch(&given, &passed.open, &mut passed.left_out)?;
                Ok((at, header, batch, made))
            });
            let (at, header, batch, made) = match made {
                Ok(made) => made,
                Err(error) => {
                    self.forget();
                    passed.failure = Some(error);
                    passed.rest = bytes.slice(behind..);
                    break;
                }
            };
            passed.next = Some(header.next_offset());
            behind = at + header.total_bytes;
            if header.is_control() {
                let _ended = passed.open.end(header.producer_id, header.base_offset).count();
            }
            match made {
                Made::Same => out.keep(at, header.total_bytes),
                Made::New(made) => out.put(&made, at..at + header.total_bytes),
                Made::Sent(pieces) => {
                    let is_made = |piece: &&Piece| matches!(piece.what, What::Made(_));
                    sent_bytes += pieces.iter().filter(is_made).map(|piece| piece.bytes.len()).sum::<usize>();
                    passed.pieces.extend(pieces);
                }
                Made::Dead => {
                    passed.dead_letters.push(batch);
                    out.put(&emptied(&header), at..at + header.total_bytes);
                }
            }
            if out.made.len() + sent_bytes >= MOST_MADE_BYTES || is_void() {
                passed.rest = bytes.slice(behind..);
                break;
            }
        }
        for (took, time) in &mut self.times {
            // Not for each batch: one may have a single record.
            let took = std::mem::take(took);
            if !took.is_zero() {
                time.record(took);
            }
        }
        passed.made_bytes = sent_bytes;
        passed.bytes = out.finish();
        passed
    }

    /// Passes one batch through the stages; what they left out of it goes to `left_out`.
    fn batch(&mut self, given: &Given<'_>, open: &OpenTransactions, left_out: &mut Vec<LeftOut>) -> Result<Made> {
        let Given { partition, onward, header, bytes } = *given;
        let is_aborted = header.is_transactional() && open.covers(header.producer_id, header.base_offset);
        let is_outside = onward.is_some_and(|onward| onward.window.takes(header) == Taken::None);
        if header.count == 0 || header.is_control() || is_aborted || is_outside {
            return Ok(given.same(What::Cut));
        }
        let proven = self.proven(header);
        // Of one partition all of them are sent there.
        let is_spread = onward.and_then(|onward| self.spread.over(onward.targets.topic())).is_some_and(|of| of > 1);
        if proven == Proven::Keeps && !is_spread {
            return Ok(given.same(What::Cut));
        }
        if onward.is_some() {
            // What a fetch brought was looked at when it came; of what was archived nobody has yet.
            proven_bytes(header, bytes)?;
        }
        if proven == Proven::Drops {
            return Ok(given.none());
        }
        let large = self.large.clone();
        let (before, what, _large) = match given.decoded(&large) {
            Ok(decoded) => decoded,
            Err(error) => {
                let Some(stage) = self.strictest() else { return Err(error.with("partition", partition)) };
                let offsets = range_of(header);
                let what = format!("{} cannot be given the batch of {partition} offsets {offsets}", self.named(stage));
                // How many of them the window takes is not known.
                let records = header.count.cast_unsigned();
                return self.decided(stage, (given, records), Error::new(error.kind(), what).source(error), left_out);
            }
        };
        let (records, mut skipped) = (before.len() as u32, Vec::new());
        let made = match self.through(given, &before, &mut skipped) {
            Ok(made) => made,
            Err((stage, error)) => return self.decided(stage, (given, records), error, left_out),
        };
        let made = match made {
            None => Ok(given.same(what)),
            Some(flow) => match onward {
                Some(onward) => pieces(&onward.targets, (header, bytes, &what), &before, flow).map(Made::Sent),
                None if flow.rows.is_same(&before) => Ok(Made::Same),
                None => header.compression().and_then(|codec| encode_rows(header, &flow.rows, codec)).map(Made::New),
            },
        };
        match made {
            Ok(made) => {
                left_out.extend(skipped);
                Ok(made)
            }
            Err(error) => {
                let Some(stage) = self.strictest() else { return Err(error.with("partition", partition)) };
                let offsets = range_of(header);
                let named = self.named(stage);
                let what =
                    format!("what the stages made of {partition} offsets {offsets} is no batch, {named} decides on it");
                self.decided(stage, (given, records), Error::new(error.kind(), what).source(error), left_out)
            }
        }
    }

    /// Passes the rows of a batch through the stages, and spreads them; `None` where there is no row that a stage could see,
    /// and nothing to be spread. An error comes with the stage that it is of.
    fn through(
        &mut self,
        given: &Given<'_>,
        before: &Rows,
        skipped: &mut Vec<LeftOut>,
    ) -> Result<Option<Flow>, (usize, Error)> {
        // Before the last one that sends rows elsewhere a route is not complete yet.
        let last = self.stages.iter().rposition(|(instance, _)| is_routing(instance.plan()));
        let (mut flow, unsent): (Option<Flow>, _) = (None, Routes::new(self.spread.clone()));
        for (stage, (instance, on_error)) in self.stages.iter_mut().enumerate() {
            let (rows, routes) = flow.as_ref().map_or((before, &unsent), |flow| (&flow.rows, &flow.routes));
            if rows.is_empty() {
                break;
            }
            let targets = given.onward.filter(|_| last == Some(stage)).map(|onward| &*onward.targets);
            let began = Instant::now();
            let made = match on_error {
                OnError::Fail | OnError::DeadLetter => whole(instance, given.partition, (rows, routes), targets),
                OnError::Skip => skipping(instance, given.partition, (rows, routes), targets, |records| {
                    let (range, stage) = (range_of(given.header), stage as u8);
                    skipped.push(LeftOut { range, records, stage, dead_letter: None });
                }),
            };
            if let Some((took, _)) = self.times.get_mut(stage) {
                *took += began.elapsed();
            }
            flow = Some(made.map_err(|error| (stage, error))?);
        }
        let Some(onward) = given.onward.filter(|_| !self.spread.is_empty() && !before.is_empty()) else {
            return Ok(flow);
        };
        let whole = || Flow { rows: before.derive().finish(before.rows().to_vec()), routes: unsent };
        let mut flow = flow.unwrap_or_else(whole);
        flow.routes.spread(&flow.rows, &onward.targets, given.partition.index);
        Ok(Some(flow))
    }

    /// Returns what the plugin of a stage is called.
    fn named(&self, stage: usize) -> String {
        self.stages[stage].0.named()
    }

    /// Returns the first stage of the strictest policy, which decides where no plugin is to blame; `None` where there is no
    /// stage.
    fn strictest(&self) -> Option<usize> {
        let of = |policy| self.stages.iter().position(|(_, on_error)| *on_error == policy);
        of(OnError::Fail).or_else(|| of(OnError::DeadLetter)).or_else(|| of(OnError::Skip))
    }

    /// Decides by the policy of a stage what becomes of a batch that came to nothing there, and of so many records of it.
    fn decided(
        &self,
        stage: usize,
        (given, records): (&Given<'_>, u32),
        error: Error,
        left_out: &mut Vec<LeftOut>,
    ) -> Result<Made> {
        let Given { header, bytes, .. } = given;
        let (policy, offsets) = (self.stages[stage].1, range_of(header));
        match policy {
            _ if error.retryable() => Err(error),
            OnError::Fail => Err(error),
            OnError::Skip => {
                tracing::warn!(%offsets, records, "{error}; left out its batch");
                left_out.push(LeftOut { range: offsets, records, stage: stage as u8, dead_letter: None });
                Ok(given.none())
            }
            OnError::DeadLetter => {
                tracing::warn!(%offsets, records, "{error}; its batch is kept as a dead letter");
                let letter = DeadLetter { length_bytes: bytes.len() as u64, digest: xxh3_128(bytes) };
                left_out.push(LeftOut { range: offsets, records, stage: stage as u8, dead_letter: Some(letter) });
                Ok(Made::Dead)
            }
        }
    }

    /// Returns what becomes of all records of a batch, as far as its header alone proves it.
    fn proven(&self, header: &Header) -> Proven {
        let mut each = self.stages.iter().map(|(instance, _)| proven(instance.plan(), header));
        each.find(|proven| *proven != Proven::Keeps).unwrap_or(Proven::Keeps)
    }
}

/// What a batch's header alone proves of a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Proven {
    /// It passes on each record as it is.
    Keeps,
    /// It drops each record.
    Drops,
    Nothing,
}

fn proven(plan: &wit::Plan, header: &Header) -> Proven {
    if !plan.pure {
        // It remembers also what it drops.
        return Proven::Nothing;
    }
    let wit::Window { from, until } = plan.keeps;
    let (least, most) = (header.proven_min_time().map(|time| time.0), header.max_timestamp.0);
    let is_before = from.is_some_and(|from| most < from);
    let is_behind = least.zip(until).is_some_and(|(least, until)| least >= until);
    let begins_inside = from.is_none_or(|from| least.is_some_and(|least| least >= from));
    let ends_inside = until.is_none_or(|until| most < until);
    if is_before || is_behind {
        Proven::Drops
    } else if begins_inside && ends_inside && is_window(plan) {
        Proven::Keeps
    } else {
        Proven::Nothing
    }
}

/// Takes a batch apart; one that is large when decoded only while no other of the pipeline is.
fn decoded<'a>(header: &Header, bytes: &Bytes, large: &'a Mutex<()>) -> Result<(Rows, Option<MutexGuard<'a, ()>>)> {
    if header.count <= LARGE_COUNT
        && let Ok(rows) = Rows::of_at_most(header, bytes, LARGE_BYTES)
    {
        return Ok((rows, None));
    }
    let alone = large.lock().unwrap_or_else(PoisonError::into_inner);
    Ok((Rows::of_at_most(header, bytes, MOST_DECODED_BYTES)?, Some(alone)))
}

fn range_of(header: &Header) -> OffsetRange {
    OffsetRange { first: header.base_offset, next: header.next_offset() }
}

/// Makes what is left of a batch without its records: the offsets that it covers, and its producer.
fn emptied(header: &Header) -> Bytes {
    let mut none = Rows::default();
    none.is_log_append_time = header.is_log_append_time();
    encode_rows(header, &none, Compression::None).expect("a batch without records has none that cannot be encoded")
}

/// Batches on their way out: as long as all are the same, no byte of them is copied.
struct Out<'a> {
    from: &'a Bytes,
    /// What was kept as it is and not copied yet.
    same: std::ops::Range<usize>,
    made: BytesMut,
}

impl Out<'_> {
    fn keep(&mut self, at: usize, total_bytes: usize) {
        if self.same.end != at {
            self.copy();
            self.same.start = at;
        }
        self.same.end = at + total_bytes;
    }

    /// Adds a batch that was made of that `at` a place.
    fn put(&mut self, batch: &[u8], at: std::ops::Range<usize>) {
        self.copy();
        if self.made.capacity() - self.made.len() < batch.len() {
            // What is left will most likely grow as much as this one has; it is not made more than is handed back at once.
            let left = self.from.len() - at.end;
            let more = left.saturating_mul(batch.len()) / at.len().max(1);
            self.made.reserve(batch.len() + more.min(MOST_MADE_BYTES));
        }
        self.made.extend_from_slice(batch);
    }

    fn copy(&mut self) {
        self.made.extend_from_slice(&self.from[self.same.clone()]);
        self.same = self.same.end..self.same.end;
    }

    fn finish(mut self) -> Bytes {
        if self.made.is_empty() {
            return self.from.slice(self.same);
        }
        self.copy();
        self.made.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::records::template;
    use crate::plugin::{Limits, Plugin};
    use crate::record::Timestamp;

    fn instance(plugin: &str, settings: &[(&str, &str)]) -> Instance {
        let settings: Vec<_> = settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Plugin::find(plugin).and_then(|plugin| plugin.start(&settings, Limits::default())).expect("it starts")
    }

    #[test]
    fn a_header_proves_what_a_window_keeps_and_drops_as_far_as_its_times_are_bounds() {
        let proven = |settings: &[(&str, &str)], log_append: bool, most: i64| {
            let attributes = if log_append { 0x08 } else { 0 };
            let header = Header { attributes, max_timestamp: Timestamp(most), count: 5, ..template(0) };
            super::proven(instance("pitr-filter", settings).plan(), &header)
        };
        let until = [("until", "1000")];
        assert_eq!([999, 1000].map(|most| proven(&until, false, most)), [Proven::Keeps, Proven::Nothing]);
        assert_eq!([999, 1000].map(|most| proven(&until, true, most)), [Proven::Keeps, Proven::Drops]);
        let from = [("from", "1000")];
        assert_eq!([999, 1000].map(|most| proven(&from, false, most)), [Proven::Drops, Proven::Nothing]);
        assert_eq!([999, 1000].map(|most| proven(&from, true, most)), [Proven::Drops, Proven::Keeps]);
        let injects = instance("header-injector", &[]);
        assert_eq!(super::proven(injects.plan(), &template(0)), Proven::Nothing);
        let remembers = wit::Plan { pure: false, ..instance("pitr-filter", &until).plan().clone() };
        for most in [999, 1000] {
            let header = Header { attributes: 0x08, max_timestamp: Timestamp(most), count: 5, ..template(0) };
            assert_eq!(super::proven(&remembers, &header), Proven::Nothing, "it is sent all that comes to it");
        }
    }
}
