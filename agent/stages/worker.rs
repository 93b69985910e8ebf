//! One worker of the stages: batches in, batches out, with the instances of plugins that are its own.
//!
//! It has no I/O but the plugins' own calls, and decides batch by batch: what passes as it is, what has to be decoded, what
//! becomes of what a plugin failed at.

use bytes::{Bytes, BytesMut};

use super::{OnError, Passed};
use crate::batch::records::encode_rows;
use crate::batch::records::rows::Rows;
use crate::batch::transactions::OpenTransactions;
use crate::batch::{self, Compression, Header};
use crate::error::{Error, Result};
use crate::plugin::Instance;
use crate::record::{LeftOut, OffsetRange, Partition};

/// The stages of one worker, in order.
pub(super) struct Worker {
    stages: Vec<(Instance, OnError)>,
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
        Self { stages }
    }

    /// Passes whole batches through the stages, up to one that a stage failed at for which that is the policy.
    pub(super) fn pass(&mut self, partition: &Partition, bytes: &Bytes, open: OpenTransactions) -> Passed {
        let mut passed =
            Passed { bytes: Bytes::new(), open, left_out: Vec::new(), dead_letters: Vec::new(), failure: None };
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
                    passed.failure = Some(error);
                    break;
                }
            };
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
        let before = match Rows::of(header, bytes) {
            Ok(rows) => rows,
            Err(error) => return self.decided(0, header, error, left_out),
        };
        let (mut rows, mut skipped) = (None, Vec::new());
        for (stage, (instance, on_error)) in self.stages.iter_mut().enumerate() {
            let given = rows.as_ref().unwrap_or(&before);
            let made = match on_error {
                _ if given.is_empty() => break,
                OnError::Fail | OnError::DeadLetter => whole(instance, partition, given),
                OnError::Skip => skipping(instance, partition, given, |records| {
                    skipped.push(LeftOut { range: range_of(header), records, stage: stage as u8, is_kept: false });
                }),
            };
            match made {
                Ok(made) => rows = Some(made),
                Err(error) => return self.decided(stage, header, error, left_out),
            }
        }
        let made = match rows {
            Some(rows) if !rows.is_same(&before) => match encode_rows(header, &rows, header.compression()?) {
                Ok(made) => Made::New(made),
                Err(error) => return self.decided(self.stages.len() - 1, header, error, left_out),
            },
            _ => Made::Same,
        };
        left_out.extend(skipped);
        Ok(made)
    }

    /// Decides by the policy of a stage what becomes of a batch that came to nothing there.
    fn decided(&self, stage: usize, header: &Header, error: Error, left_out: &mut Vec<LeftOut>) -> Result<Made> {
        let records = header.count.cast_unsigned();
        let (policy, offsets) = (self.stages[stage].1, range_of(header));
        match policy {
            _ if error.retryable() => Err(error),
            OnError::Fail => Err(error),
            OnError::Skip => {
                tracing::warn!(%offsets, records, "{error}; left out its batch");
                left_out.push(LeftOut { range: offsets, records, stage: stage as u8, is_kept: false });
                Ok(Made::New(emptied(header)))
            }
            OnError::DeadLetter => {
                tracing::warn!(%offsets, records, "{error}; its batch is kept as a dead letter");
                left_out.push(LeftOut { range: offsets, records, stage: stage as u8, is_kept: true });
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

/// Passes rows through one stage; all of them, or none.
fn whole(instance: &mut Instance, partition: &Partition, rows: &Rows) -> Result<Rows> {
    let mut made = rows.derive().finish(Vec::new());
    instance.apply(partition, rows, |_, answer| {
        made.append(answer.rows);
        Ok(())
    })?;
    Ok(made)
}

/// Passes rows through one stage; `skipped` is told how many were left out because the plugin failed at them.
fn skipping(instance: &mut Instance, partition: &Partition, rows: &Rows, mut skipped: impl FnMut(u32)) -> Result<Rows> {
    let mut made = rows.derive().finish(Vec::new());
    let (mut count, mut first) = (0, None);
    instance.apply_past_failures(
        partition,
        rows,
        |_, answer| {
            made.append(answer.rows);
            Ok(())
        },
        |range, error| {
            count += range.len();
            first.get_or_insert(error);
        },
    )?;
    if let Some(error) = first {
        tracing::warn!(records = count, "{error}; left out what it failed at");
        skipped(count as u32);
    }
    Ok(made)
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
