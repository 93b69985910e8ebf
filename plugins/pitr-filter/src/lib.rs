//! Keeps the records whose effective time is in a span, `from` in and `until` out, in whatever order they come.
//!
//! The effective time is what a consumer sees: the broker's time in a topic of log-append time. The span is also told
//! to the agent, which then leaves out what cannot have a record inside without asking.

use kafka_backup_transform::wit::{Batch, Output};
use kafka_backup_transform::{Columns, Error, Plan, Plugin, Result, Settings, Touches, Window, export};

/// The transform. It looks at the column of times and at nothing else.
pub struct PitrFilter {
    from_ms: i64,
    until_ms: Option<i64>,
}

impl Plugin for PitrFilter {
    fn configure(settings: Vec<(String, String)>) -> Result<(Self, Plan)> {
        let settings = Settings::new(settings);
        settings.only(&["from", "until"])?;
        let (from, until) = (settings.time("from")?, settings.time("until")?);
        match (from, until) {
            (None, None) => {
                return Err(Error::new("neither setting `from` nor `until` is there: one of them is needed"));
            }
            (Some(from), Some(until)) if from >= until => {
                return Err(Error::new("setting `from` is not before `until`: no record can be between"));
            }
            _ => {}
        }
        let plan = Plan {
            needs: Columns::empty(),
            touches: Touches::DROPS,
            targets: Some(Vec::new()),
            keeps: Window { from, until },
            pure: true,
        };
        Ok((Self { from_ms: from.unwrap_or(i64::MIN), until_ms: until }, plan))
    }

    fn apply(&mut self, batch: &Batch) -> Result<Output> {
        Ok(Output {
            source: self.kept(&batch.timestamps),
            topics: None,
            partitions: None,
            timestamps: None,
            keys: None,
            values: None,
            headers: None,
        })
    }
}

impl PitrFilter {
    /// Returns the numbers of the records that are kept; `None` for all of them.
    fn kept(&self, times: &[i64]) -> Option<Vec<u32>> {
        // The last time that is kept, so that there is one also where nothing bounds it.
        let (from, last) = (self.from_ms, self.until_ms.map_or(i64::MAX, |until| until.saturating_sub(1)));
        if times.iter().all(|time| *time >= from && *time <= last) {
            return None;
        }
        // Each number is written, and only counted where its record is kept: no branch that nobody can foresee.
        let (mut kept, mut count) = (vec![0; times.len()], 0);
        for (record, time) in (0..).zip(times) {
            kept[count] = record;
            count += usize::from(*time >= from && *time <= last);
        }
        kept.truncate(count);
        Some(kept)
    }
}

export!(PitrFilter);

#[cfg(test)]
mod tests;
