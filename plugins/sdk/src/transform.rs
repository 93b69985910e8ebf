//! What an author writes: [`Transform`], a record at a time; or [`Plugin`], a batch at a time.

use crate::wit::{self, Batch, Columns, Plan, Touches, Window};
use crate::{Output, Record, Result, Settings, values};

/// A transform that looks at one record at a time.
///
/// `new` and `record` must be written; each of the others says something about the transform that the agent relies on,
/// and its default is right for one that changes records in place and keeps nothing from record to record.
pub trait Transform: Sized + 'static {
    /// Makes the transform. Refuse here what is wrong with the settings: no record has moved yet.
    ///
    /// # Errors
    /// Unknown, missing and wrong settings.
    fn new(settings: &Settings) -> Result<Self>;

    /// Looks at a record and emits it: not at all (it is dropped), once, or several times.
    ///
    /// # Errors
    /// What makes the record impossible to transform; the stage's `on_error` says what becomes of it.
    fn record(&mut self, record: Record<'_>, out: &mut Output) -> Result<()>;

    /// Returns the columns that `record` reads. What is not named here does not come, and reading it panics.
    fn needs(&self) -> Columns {
        Columns::empty()
    }

    /// Returns how many bytes of each value come as [`Record::value_head`]: for a transform that looks at the beginnings of
    /// values, and asks for those of which that is not enough ([`Record::whole_value`]). `None`: none comes.
    fn value_head(&self) -> Option<u32> {
        None
    }

    /// Returns what `record` may do; the agent refuses an answer that does more. Default: all but routing.
    fn touches(&self) -> Touches {
        Touches::all() - Touches::TOPICS - Touches::PARTITIONS
    }

    /// Returns every topic that `record` may route to; `None` when they are not known beforehand.
    fn targets(&self) -> Option<Vec<String>> {
        Some(Vec::new())
    }

    /// Returns a span of time outside of which every record is dropped, so that the agent need not ask. Of a pure transform
    /// that needs no column and does nothing but drop it also means that every record inside is kept.
    fn keeps(&self) -> Window {
        Window { from: None, until: None }
    }

    /// Returns whether the rows are the same however records are split into batches; `false` for a transform that
    /// carries something from record to record. A wrong `true` makes a resumed restore lose or repeat records.
    fn pure(&self) -> bool {
        true
    }

    /// Looks at a batch before its records come: for what depends on topic and partition only.
    ///
    /// # Errors
    /// What makes the batch impossible to transform.
    fn begin(&mut self, batch: &Batch) -> Result<()> {
        let _ = batch;
        Ok(())
    }
}

/// A transform that looks at whole batches, as they cross the boundary. Every [`Transform`] is one.
pub trait Plugin: Sized + 'static {
    /// Reads the settings and makes the plugin.
    ///
    /// # Errors
    /// Unknown, missing and wrong settings.
    fn configure(settings: Vec<(String, String)>) -> Result<(Self, Plan)>;

    /// Answers a batch.
    ///
    /// # Errors
    /// What makes the batch impossible to transform.
    fn apply(&mut self, batch: &Batch) -> Result<wit::Output>;
}

impl<T: Transform> Plugin for T {
    fn configure(settings: Vec<(String, String)>) -> Result<(Self, Plan)> {
        let transform = T::new(&Settings::new(settings))?;
        let on_demand = transform.value_head().map_or(Columns::empty(), |_| Columns::VALUES_ON_DEMAND);
        let plan = Plan {
            needs: transform.needs() | on_demand,
            touches: transform.touches(),
            targets: transform.targets(),
            keeps: transform.keeps(),
            pure: transform.pure(),
        };
        Ok((transform, plan))
    }

    fn apply(&mut self, batch: &Batch) -> Result<wit::Output> {
        self.begin(batch)?;
        let heads = self.value_head().map(values::heads);
        let mut out = Output::new(batch);
        for index in 0..batch.len() {
            let record = Record::new(batch, index);
            let record = heads.as_ref().map_or(record, |heads| record.with_heads(heads));
            self.record(record, &mut out).map_err(|error| error.at(index))?;
        }
        Ok(out.finish())
    }
}
