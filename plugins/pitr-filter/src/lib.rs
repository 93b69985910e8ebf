//! Keeps the records whose effective time is in a span, `from` in and `until` out, in whatever order they come.
//!
//! The effective time is what a consumer sees: the broker's time in a topic of log-append time. The span is also told
//! to the agent, which then leaves out what cannot have a record inside without asking.

use kafka_backup_transform::{Columns, Error, Output, Record, Result, Settings, Touches, Transform, Window, export};

/// The transform.
pub struct PitrFilter {
    from_ms: Option<i64>,
    until_ms: Option<i64>,
}

impl Transform for PitrFilter {
    fn new(settings: &Settings) -> Result<Self> {
        settings.only(&["from", "until"])?;
        let (from_ms, until_ms) = (settings.time("from")?, settings.time("until")?);
        match (from_ms, until_ms) {
            (None, None) => Err(Error::new("neither setting `from` nor `until` is there: one of them is needed")),
            (Some(from), Some(until)) if from >= until => {
                Err(Error::new("setting `from` is not before `until`: no record can be between"))
            }
            _ => Ok(Self { from_ms, until_ms }),
        }
    }

    fn needs(&self) -> Columns {
        Columns::empty()
    }

    fn touches(&self) -> Touches {
        Touches::DROPS
    }

    fn keeps(&self) -> Window {
        Window { from: self.from_ms, until: self.until_ms }
    }

    fn record(&mut self, record: Record<'_>, out: &mut Output) -> Result<()> {
        let time = record.timestamp();
        if self.from_ms.is_none_or(|from| time >= from) && self.until_ms.is_none_or(|until| time < until) {
            out.emit(record);
        }
        Ok(())
    }
}

export!(PitrFilter);

#[cfg(test)]
mod tests;
