//! Aborted transactions that go on behind a segment, followed from log to log.
//!
//! Pure. Until its producer's next marker all that the producer wrote belongs to such a transaction: data that the
//! sidecar beside it does not list would be read as committed. Where offsets are missing the marker may have been: the
//! log cleaner took it, or it lies in a gap. What comes behind may then be of another transaction, so nothing is claimed
//! of it; nor of a transaction of which nothing comes any more, which a sidecar need not list.
//!
//! Memory: an offset for each of these transactions.

use std::collections::HashMap;

use crate::archive::sidecar::{Sidecar, Transaction};
use crate::batch::Header;
use crate::record::Offset;

/// The transactions that an audit takes along from one segment to the next of a chain.
#[derive(Debug, Default)]
pub struct Carried {
    /// By producer, the first offset of what it aborted and has no marker of yet.
    open: HashMap<i64, Offset>,
    /// Of the segment that is looked at: those that go on behind it.
    own: Vec<Transaction>,
    /// The offset behind the last batch.
    next: Offset,
}

impl Carried {
    /// Begins with the next segment.
    pub(super) fn begin(&mut self, sidecar: &Sidecar) {
        self.own = sidecar.aborted.iter().filter(|aborted| aborted.last.is_none()).copied().collect();
    }

    /// Takes the segment's next batch; returns what its sidecar does not say of it and must.
    pub(super) fn batch(&mut self, header: &Header, sidecar: &Sidecar) -> Option<String> {
        if header.base_offset > self.next || header.is_gap() {
            self.open.clear();
        }
        self.next = header.next_offset();
        let (producer_id, offset) = (header.producer_id, header.base_offset);
        if header.is_control() {
            let _ = self.open.remove(&producer_id);
            self.own.retain(|aborted| aborted.producer_id != producer_id || aborted.first > offset);
            return None;
        }
        let is_listed = || sidecar.is_aborted(producer_id, offset) || sidecar.is_undecided(producer_id, offset);
        if self.open.is_empty() || !header.is_transactional() || header.count == 0 || is_listed() {
            return None;
        }
        // Said once.
        let first = self.open.remove(&producer_id)?;
        Some(format!(
            "it does not have the aborted transaction of producer {producer_id} from offset {first}, which the segment before \
             says goes on: the batch at offset {offset} is of it, and would be read as committed"
        ))
    }

    /// Ends the segment; a log that is not all `sound` may have held any marker.
    pub(super) fn end(&mut self, sidecar: &Sidecar, sound: bool) {
        if !sound {
            self.open.clear();
        }
        self.open.extend(self.own.drain(..).map(|aborted| (aborted.producer_id, aborted.first)));
        self.next = sidecar.range.next;
    }
}
