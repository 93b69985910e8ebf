//! One worker of the stages: batches in, batches out, with the instances of plugins that are its own.
//!
//! It has no I/O but the plugins' own calls, and decides batch by batch: what passes as it is, what has to be decoded, what
//! becomes of what a plugin failed at.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use xxhash_rust::xxh3::xxh3_128;

use super::{OnError, Passed};
use crate::batch::records::encode_rows;
use crate::batch::records::rows::Rows;
use crate::batch::transactions::OpenTransactions;
use crate::batch::{self, Compression, Header};
use crate::error::{Error, Result};
use crate::plugin::columns::{Answer, is_window};
use crate::plugin::{Instance, Untaken, wit};
use crate::record::{DeadLetter, LeftOut, OffsetRange, Partition};

/// Bytes of batches made anew with which a run is handed back: a segment takes them, and pays for them.
const MOST_MADE_BYTES: usize = 4 << 20;

/// Bytes of decoded records, and their number, beyond which a batch is large; a producer's has a megabyte and some
/// thousands.
const LARGE_BYTES: usize = 16 << 20;
const LARGE_COUNT: i32 = 250_000;

/// The most bytes of decoded records of one batch.
const MOST_DECODED_BYTES: usize = 128 << 20;

/// The most bytes that a stage may make of one batch, beyond those that it was given.
const MOST_ADDED_BYTES: usize = 64 << 20;

/// Whoever works on a large batch holds this, which the workers of a pipeline share. A plugin may use up its time meanwhile:
/// those of other pipelines must not wait for it.
pub(super) type Large = Arc<Mutex<()>>;

/// The stages of one worker, in order.
pub(super) struct Worker {
    stages: Vec<(Instance, OnError)>,
    large: Large,
    /// The start of each partition after which it was last seen.
    generations: HashMap<Partition, u32>,
}

/// What became of one batch.
enum Made {
    /// It keeps its bytes.
    Same,
    /// It was made anew.
    New(Bytes),
    /// A stage failed at it, and it is to be kept beside.
    Dead,
}

impl Worker {
    /// Makes a worker of configured instances.
    pub(super) fn new(stages: Vec<(Instance, OnError)>, large: Large) -> Self {
        Self { stages, large, generations: HashMap::new() }
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
        is_void: &dyn Fn() -> bool,
    ) -> Passed {
        let mut passed = Passed { open, ..Passed::default() };
        let mut out = Out { from: bytes, same: 0..0, made: BytesMut::new() };
        for item in batch::walk(bytes) {
            let made = item.and_then(|(at, header)| {
                let batch = bytes.slice(at..at + header.total_bytes);
                let made = self.batch(partition, &header, &batch, &passed.open, &mut passed.left_out)?;
                Ok((at, header, batch, made))
            });
            let (at, header, batch, made) = match made {
                Ok(made) => made,
                Err(error) => {
                    self.forget();
                    passed.failure = Some(error);
                    break;
                }
            };
            passed.next = Some(header.next_offset());
            if header.is_control() {
                let _ended = passed.open.end(header.producer_id, header.base_offset).count();
            }
            match made {
                Made::Same => out.keep(at, header.total_bytes),
                Made::New(made) => out.put(&made),
                Made::Dead => {
                    passed.dead_letters.push(batch);
                    out.put(&emptied(&header));
                }
            }
            if out.made.len() >= MOST_MADE_BYTES || is_void() {
                passed.rest = bytes.slice(at + header.total_bytes..);
                break;
            }
        }
        passed.bytes = out.finish();
        passed
    }

    /// Passes one batch through the stages; what they left out of it goes to `left_out`.
    fn batch(
        &mut self,
        partition: &Partition,
        header: &Header,
        bytes: &Bytes,
        open: &OpenTransactions,
        left_out: &mut Vec<LeftOut>,
    ) -> Result<Made> {
        let is_aborted = header.is_transactional() && open.covers(header.producer_id, header.base_offset);
        if header.count == 0 || header.is_control() || is_aborted {
            return Ok(Made::Same);
        }
        match self.proven(header) {
            Proven::Keeps => return Ok(Made::Same),
            Proven::Drops => return Ok(Made::New(emptied(header))),
            Proven::Nothing => {}
        }
        let large = self.large.clone();
        let (before, _large) = match decoded(header, bytes, &large) {
            Ok(decoded) => decoded,
            Err(error) => {
                let stage = self.strictest();
                let (named, offsets) = (self.stages[stage].0.named(), range_of(header));
                let what = format!("{named} cannot be given the batch of {partition} offsets {offsets}");
                return self.decided(stage, header, bytes, Error::new(error.kind(), what).source(error), left_out);
            }
        };
        let (mut rows, mut skipped) = (None, Vec::new());
        for (stage, (instance, on_error)) in self.stages.iter_mut().enumerate() {
            let given = rows.as_ref().unwrap_or(&before);
            let made = match on_error {
                _ if given.is_empty() => break,
                OnError::Fail | OnError::DeadLetter => whole(instance, partition, given),
                OnError::Skip => skipping(instance, partition, given, |records| {
                    skipped.push(LeftOut { range: range_of(header), records, stage: stage as u8, dead_letter: None });
                }),
            };
            match made {
                Ok(made) => rows = Some(made),
                Err(error) => return self.decided(stage, header, bytes, error, left_out),
            }
        }
        let made = match rows {
            Some(rows) if !rows.is_same(&before) => match encode_rows(header, &rows, header.compression()?) {
                Ok(made) => Made::New(made),
                Err(error) => {
                    let stage = self.strictest();
                    let (named, offsets) = (self.stages[stage].0.named(), range_of(header));
                    let what = format!(
                        "what the stages made of {partition} offsets {offsets} is no batch, {named} decides on it"
                    );
                    return self.decided(stage, header, bytes, Error::new(error.kind(), what).source(error), left_out);
                }
            },
            _ => Made::Same,
        };
        left_out.extend(skipped);
        Ok(made)
    }

    /// Returns the first stage of the strictest policy, which decides where no plugin is to blame.
    fn strictest(&self) -> usize {
        let of = |policy| self.stages.iter().position(|(_, on_error)| *on_error == policy);
        of(OnError::Fail).or_else(|| of(OnError::DeadLetter)).unwrap_or(0)
    }

    /// Decides by the policy of a stage what becomes of a batch that came to nothing there.
    fn decided(
        &self,
        stage: usize,
        header: &Header,
        bytes: &Bytes,
        error: Error,
        left_out: &mut Vec<LeftOut>,
    ) -> Result<Made> {
        let records = header.count.cast_unsigned();
        let (policy, offsets) = (self.stages[stage].1, range_of(header));
        match policy {
            _ if error.retryable() => Err(error),
            OnError::Fail => Err(error),
            OnError::Skip => {
                tracing::warn!(%offsets, records, "{error}; left out its batch");
                left_out.push(LeftOut { range: offsets, records, stage: stage as u8, dead_letter: None });
                Ok(Made::New(emptied(header)))
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

/// What a stage makes of one batch, bounded.
struct Making {
    rows: Rows,
    bytes: usize,
    most_bytes: usize,
}

impl Making {
    fn of(given: &Rows, most_added_bytes: usize) -> Self {
        let bytes: usize = given.rows().iter().map(|row| given.size_bytes(row)).sum();
        Self { rows: given.derive().finish(Vec::new()), bytes: 0, most_bytes: bytes.saturating_add(most_added_bytes) }
    }

    fn take(&mut self, answer: Answer) -> Result<(), Untaken> {
        let bytes = self.bytes.saturating_add(answer.bytes);
        if bytes > self.most_bytes {
            return Err(Untaken::TooMuch(format!("it makes more than {} bytes of one batch", self.most_bytes)));
        }
        self.bytes = bytes;
        self.rows.append(answer.rows);
        Ok(())
    }
}

/// Passes rows through one stage; all of them, or none.
fn whole(instance: &mut Instance, partition: &Partition, rows: &Rows) -> Result<Rows> {
    let mut making = Making::of(rows, MOST_ADDED_BYTES);
    instance.apply(partition, rows, |_, answer| making.take(answer))?;
    Ok(making.rows)
}

/// Passes rows through one stage; `skipped` is told how many were left out because the plugin failed at them.
fn skipping(instance: &mut Instance, partition: &Partition, rows: &Rows, skipped: impl FnMut(u32)) -> Result<Rows> {
    bounded(instance, partition, rows, MOST_ADDED_BYTES, skipped)
}

fn bounded(
    instance: &mut Instance,
    partition: &Partition,
    rows: &Rows,
    most_added_bytes: usize,
    mut skipped: impl FnMut(u32),
) -> Result<Rows> {
    let mut making = Making::of(rows, most_added_bytes);
    let (mut count, mut first) = (0, None);
    instance.apply_past_failures(
        partition,
        rows,
        |_, answer| making.take(answer),
        |range, error| {
            count += range.len();
            first.get_or_insert(error);
        },
    )?;
    if let Some(error) = first {
        tracing::warn!(records = count, "{error}; left out what it failed at");
        skipped(count as u32);
    }
    Ok(making.rows)
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

    fn put(&mut self, batch: &[u8]) {
        self.copy();
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
    use crate::batch::records::{Record, template};
    use crate::plugin::{Limits, Plugin};
    use crate::record::{Timestamp, TopicId};

    fn instance(plugin: &str, settings: &[(&str, &str)]) -> Instance {
        let settings: Vec<_> = settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Plugin::find(plugin).and_then(|plugin| plugin.start(&settings, Limits::default())).expect("it starts")
    }

    fn partition() -> Partition {
        Partition { topic: "orders".into(), topic_id: TopicId::NONE, index: 3 }
    }

    #[test]
    fn only_what_is_too_much_of_a_batch_is_skipped() {
        let record = |offset| Record { offset, timestamp: Timestamp(0), key: None, value: None, headers: Vec::new() };
        let rows = Rows::from_records(&(0..100).map(record).collect::<Vec<_>>()).expect("small");
        let text = "x".repeat(990);
        let off = [("offset", "false"), ("timestamp", "false"), ("partition", "false"), ("headers.name", &text)];
        let mut instance = instance("header-injector", &off);
        let mut skipped = 0;
        let made = bounded(&mut instance, &partition(), &rows, 40_500, |records| skipped += records).expect("it lives");
        assert_eq!((made.len(), skipped), (40, 60), "a record is a thousand bytes with its header");
        assert!(made.rows().iter().map(|row| row.offset).eq(0..40));
    }

    #[test]
    fn what_is_too_much_of_a_batch_names_who_made_it_and_of_what() {
        let record = |offset| Record { offset, timestamp: Timestamp(0), key: None, value: None, headers: Vec::new() };
        let rows = Rows::from_records(&(7..9).map(record).collect::<Vec<_>>()).expect("small");
        let mut making = Making::of(&rows, 10);
        let mut instance = instance("header-injector", &[]);
        let said = instance.apply(&partition(), &rows, |_, answer| making.take(answer)).expect_err("too much");
        let wanted = "plugin `header-injector` (header-injector.wasm) failed at orders-3 offsets [7, 9): \
                      it makes more than 10 bytes of one batch";
        assert_eq!(said.to_string(), wanted);
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
    }
}
