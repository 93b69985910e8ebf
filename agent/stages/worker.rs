//! One worker of the stages: batches in, batches out, with the instances of plugins that are its own.
//!
//! It has no I/O but the plugins' own calls, and decides batch by batch: what passes as it is, what has to be decoded, what
//! becomes of what a plugin failed at.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use xxhash_rust::xxh3::xxh3_128;

use super::{OnError, Passed};
use crate::batch::records::encode_rows;
use crate::batch::records::rows::Rows;
use crate::batch::transactions::OpenTransactions;
use crate::batch::{self, Compression, Header};
use crate::error::{Error, Result};
use crate::plugin::Instance;
use crate::plugin::columns::Answer;
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

/// Whoever works on a large batch holds this: there is one at a time in the process.
static LARGE: Mutex<()> = Mutex::new(());

/// The stages of one worker, in order.
pub(super) struct Worker {
    stages: Vec<(Instance, OnError)>,
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
    pub(super) fn new(stages: Vec<(Instance, OnError)>) -> Self {
        Self { stages, generations: HashMap::new() }
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
        if self.drops_all(header) {
            return Ok(Made::New(emptied(header)));
        }
        let (before, _large) = match decoded(header, bytes) {
            Ok(decoded) => decoded,
            Err(error) => return self.decided(self.strictest(), header, bytes, error, left_out),
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
                Err(error) => return self.decided(self.strictest(), header, bytes, error, left_out),
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

    /// Returns whether the first stage drops each record of a batch by its time, as far as the header alone proves it.
    fn drops_all(&self, header: &Header) -> bool {
        let Some((first, _)) = self.stages.first() else { return false };
        let keeps = first.plan().keeps;
        let is_before = keeps.from.is_some_and(|from| header.max_timestamp.0 < from);
        let is_behind = header.proven_min_time().zip(keeps.until).is_some_and(|(least, until)| least.0 >= until);
        is_before || is_behind
    }
}

/// Takes a batch apart; one that is large when decoded only while no other is.
fn decoded(header: &Header, bytes: &Bytes) -> Result<(Rows, Option<MutexGuard<'static, ()>>)> {
    if header.count <= LARGE_COUNT
        && let Ok(rows) = Rows::of_at_most(header, bytes, LARGE_BYTES)
    {
        return Ok((rows, None));
    }
    let alone = LARGE.lock().unwrap_or_else(PoisonError::into_inner);
    Ok((Rows::of_at_most(header, bytes, MOST_DECODED_BYTES)?, Some(alone)))
}

/// What a stage makes of one batch, bounded.
struct Making {
    rows: Rows,
    bytes: usize,
    most_bytes: usize,
}

impl Making {
    fn of(given: &Rows) -> Self {
        let bytes: usize = given.rows().iter().map(|row| given.size_bytes(row)).sum();
        Self { rows: given.derive().finish(Vec::new()), bytes: 0, most_bytes: bytes.saturating_add(MOST_ADDED_BYTES) }
    }

    fn take(&mut self, stage: &str, answer: Answer) -> Result<()> {
        self.bytes = self.bytes.saturating_add(answer.bytes);
        if self.bytes > self.most_bytes {
            return Err(Error::failed(format!("{stage} makes more than {} bytes of one batch", self.most_bytes)));
        }
        self.rows.append(answer.rows);
        Ok(())
    }
}

/// Passes rows through one stage; all of them, or none.
fn whole(instance: &mut Instance, partition: &Partition, rows: &Rows) -> Result<Rows> {
    let (stage, mut making) = (instance.named(), Making::of(rows));
    instance.apply(partition, rows, |_, answer| making.take(&stage, answer))?;
    Ok(making.rows)
}

/// Passes rows through one stage; `skipped` is told how many were left out because the plugin failed at them.
fn skipping(instance: &mut Instance, partition: &Partition, rows: &Rows, mut skipped: impl FnMut(u32)) -> Result<Rows> {
    let (stage, mut making) = (instance.named(), Making::of(rows));
    let (mut count, mut first) = (0, None);
    instance.apply_past_failures(
        partition,
        rows,
        |_, answer| making.take(&stage, answer),
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
