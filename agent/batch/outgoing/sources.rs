//! Where the records of an outgoing batch were: their offsets in the source.
//!
//! Pure. Nearly always they are one run, which costs no allocation.

use crate::record::Offset;

/// The source offsets of the records of one batch, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sources {
    first: (Offset, u32),
    more: Vec<(Offset, u32)>,
}

impl Sources {
    /// Makes those of `records` records from `first` on, without holes.
    pub fn dense(first: Offset, records: u32) -> Self {
        Self { first: (first, records), more: Vec::new() }
    }

    /// Returns the first one; `None` where there is no record.
    pub fn first(&self) -> Option<Offset> {
        (self.first.1 > 0).then_some(self.first.0)
    }

    /// Returns the last one; `None` where there is no record.
    pub fn last(&self) -> Option<Offset> {
        let (first, records) = self.more.last().unwrap_or(&self.first);
        (*records > 0).then(|| first + Offset::from(*records) - 1)
    }

    /// Returns the runs, as (first offset, number of records); no run is empty or begins where the one before it ends.
    pub fn iter(&self) -> impl Iterator<Item = (Offset, u32)> {
        std::iter::once(self.first).chain(self.more.iter().copied()).filter(|(_, records)| *records > 0)
    }

    /// Returns the offset of each record.
    pub fn offsets(&self) -> impl Iterator<Item = Offset> {
        self.iter().flat_map(|(first, records)| (0..records).map(move |at| first + Offset::from(at)))
    }

    /// Adds the next record.
    pub(super) fn push(&mut self, offset: Offset) {
        let (first, records) = self.more.last_mut().unwrap_or(&mut self.first);
        if *records == 0 {
            *first = offset;
        } else if *first + Offset::from(*records) != offset {
            return self.more.push((offset, 1));
        }
        *records += 1;
    }
}

impl FromIterator<Offset> for Sources {
    fn from_iter<T: IntoIterator<Item = Offset>>(offsets: T) -> Self {
        let mut sources = Self::default();
        offsets.into_iter().for_each(|offset| sources.push(offset));
        sources
    }
}

/// Tells for each record of a batch, in order, where it was: where its own offset says, unless there are `sources`.
pub(super) fn origins(sources: Option<&Sources>) -> impl FnMut(Offset) -> Offset {
    let mut told = sources.map(Sources::offsets);
    move |own| told.as_mut().map_or(own, |told| told.next().expect("each record has a source"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_come_back_in_as_few_runs_as_there_are_holes() {
        assert_eq!((Sources::default().iter().count(), Sources::default().first()), (0, None));
        assert_eq!(Sources::default().last(), None);
        let offsets = [7, 8, 9, 11, 12, 20];
        let sources: Sources = offsets.into_iter().collect();
        assert_eq!((sources.first(), sources.last()), (Some(7), Some(20)));
        assert_eq!(sources.iter().collect::<Vec<_>>(), [(7, 3), (11, 2), (20, 1)]);
        assert_eq!(sources.offsets().collect::<Vec<_>>(), offsets);
    }
}
