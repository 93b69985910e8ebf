//! What the markers in a log prove of the aborted transactions that its sidecar names.
//!
//! Pure. An entry that ends in the segment must have its ABORT marker there, and one that goes on none. The other way
//! about, an ABORT marker must have its entry if data of its producer lies before it with nothing missing between: else
//! the log cleaner may have taken what stood there, and a marker without data was never reported by the broker.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;

use crate::archive::sidecar::Sidecar;
use crate::batch::Header;
use crate::batch::records::{ControlType, Records, control_type};
use crate::error::Result;
use crate::record::Offset;

/// The transactions of one segment, followed batch by batch.
#[derive(Debug, Default)]
pub(super) struct Markers {
    /// The last data batch of each producer since its last marker, nothing missing behind it.
    data: HashMap<i64, Offset>,
    next: Option<Offset>,
    /// Whether anything is missing before what comes next: the cleaner was here, or a gap is.
    has_missing: bool,
    /// The (producer, offset) of each marker that ends an entry.
    met: HashSet<(i64, Offset)>,
}

impl Markers {
    /// Takes the next batch; returns what the sidecar says wrongly of it, if anything.
    ///
    /// # Errors
    /// [`Kind::Damaged`](crate::error::Kind::Damaged) for a marker that cannot be read.
    pub(super) fn batch(&mut self, header: &Header, bytes: &Bytes, sidecar: &Sidecar) -> Result<Option<String>> {
        if self.next.is_some_and(|next| next != header.base_offset) {
            self.data.clear();
            self.has_missing = true;
        }
        self.next = Some(header.next_offset());
        if header.is_control() {
            return self.marker(header, bytes, sidecar);
        }
        if header.is_transactional() && header.count > 0 {
            self.data.insert(header.producer_id, header.base_offset);
        }
        Ok(None)
    }

    fn marker(&mut self, header: &Header, bytes: &Bytes, sidecar: &Sidecar) -> Result<Option<String>> {
        let (producer_id, offset) = (header.producer_id, header.base_offset);
        let data = self.data.remove(&producer_id);
        // An emptied one, which the cleaner leaves of a producer's last, does not tell any more.
        let Some(record) = Records::of(header, bytes)?.next().transpose()? else {
            self.met.insert((producer_id, offset));
            return Ok(None);
        };
        let told = control_type(&record);
        if told == ControlType::Other {
            return Ok(None);
        }
        let of_producer = |list: &'_ [crate::archive::sidecar::Transaction]| {
            list.iter()
                .filter(|entry| entry.producer_id == producer_id && entry.first < offset)
                .copied()
                .collect::<Vec<_>>()
        };
        let aborted = of_producer(&sidecar.aborted);
        if let Some(entry) = aborted.iter().find(|entry| entry.last.is_none_or(|last| last > offset)) {
            return Ok(Some(format!(
                "it says that the aborted transaction of producer {producer_id} from offset {} goes on behind that \
                 producer's marker at offset {offset}",
                entry.first
            )));
        }
        let ends_here = aborted.iter().any(|entry| entry.last == Some(offset));
        if ends_here {
            self.met.insert((producer_id, offset));
        }
        if ends_here && told == ControlType::Commit {
            return Ok(Some(format!(
                "it says that producer {producer_id} aborted a transaction at offset {offset}: the marker there is a COMMIT"
            )));
        }
        let is_undecided = of_producer(&sidecar.undecided)
            .iter()
            .any(|entry| entry.last.is_none_or(|last| last >= data.unwrap_or(offset)));
        if told == ControlType::Abort
            && !ends_here
            && !is_undecided
            && data.is_some_and(|data| data >= sidecar.range.first)
        {
            return Ok(Some(format!(
                "it does not say that producer {producer_id} aborted a transaction with the marker at offset {offset}"
            )));
        }
        Ok(None)
    }

    /// Returns what the sidecar says of markers that were not met. Where batches are missing, one may have been there: an
    /// entry that was made anew from such a log ends with the last offset that is known.
    pub(super) fn unmet(&self, sidecar: &Sidecar) -> Vec<String> {
        let ended = sidecar.aborted.iter().filter_map(|entry| entry.last.map(|last| (entry, last)));
        let unmet = ended.filter(|(entry, last)| !self.has_missing && !self.met.contains(&(entry.producer_id, *last)));
        unmet
            .map(|(entry, last)| {
                let producer_id = entry.producer_id;
                format!("it says that producer {producer_id} aborted a transaction at offset {last}: no marker of it is there")
            })
            .collect()
    }
}
