//! Which source partitions become which target partitions, and where a group is in each of these.
//!
//! Pure. Time: of each target the look-ups of its sources, and a way through the runs that lie between the group's place and
//! what it had read behind it, none where a target has one source.

use std::collections::{BTreeMap, BTreeSet};

use super::{Exactness, Place, Refusal};
use crate::groups::positions::Committed;
use crate::record::{Offset, Partition};
use crate::restore::map::{OffsetMap, Pair, Position, Track};

/// Sources, targets, and what is known of each pair of them.
#[derive(Debug)]
pub(super) struct Links {
    map: OffsetMap,
    /// The pairs of which there was nothing to restore, with the restored end of the target.
    vacant: BTreeMap<Pair, Offset>,
    /// The targets of each source.
    targets: BTreeMap<Partition, Vec<Partition>>,
    /// The sources of each target.
    sources: BTreeMap<Partition, Vec<Partition>>,
}

/// A source partition of a target, and what the group had committed there.
struct Origin<'a> {
    pair: Pair,
    committed: Option<&'a Committed>,
}

impl Origin<'_> {
    /// Returns the first source offset that the group has not read.
    fn next(&self) -> Offset {
        self.committed.map_or(0, |committed| committed.offset)
    }
}

impl Links {
    pub(super) fn new(map: OffsetMap, vacant: BTreeMap<Pair, Offset>) -> Self {
        let (mut targets, mut sources) = (BTreeMap::<_, Vec<_>>::new(), BTreeMap::<_, Vec<_>>::new());
        // A pair that is in the map has more to say than that it is vacant.
        let pairs: BTreeSet<&Pair> = map.iter().map(|(pair, _)| pair).chain(vacant.keys()).collect();
        for Pair { source, target } in pairs {
            targets.entry(source.clone()).or_default().push(target.clone());
            sources.entry(target.clone()).or_default().push(source.clone());
        }
        Self { map, vacant, targets, sources }
    }

    pub(super) fn map(&self) -> &OffsetMap {
        &self.map
    }

    /// Returns whether a source partition has a target.
    pub(super) fn has(&self, source: &Partition) -> bool {
        self.targets.contains_key(source)
    }

    /// Returns all target partitions.
    pub(super) fn targets(&self) -> impl Iterator<Item = &Partition> {
        self.sources.keys()
    }

    /// Returns where a group is in each target of what it has `read`; sources that it has committed nothing for are not
    /// read at all where `is_read` says that their topics are the group's, else they are not its concern.
    pub(super) fn places(
        &self,
        read: &BTreeMap<Partition, &Committed>,
        is_read: impl Fn(&Partition) -> bool,
        clamp: bool,
    ) -> BTreeMap<Partition, Result<Place, Refusal>> {
        let targets: BTreeSet<&Partition> =
            read.keys().filter_map(|source| self.targets.get(source)).flatten().collect();
        let place = |target: &Partition| {
            let origin = |source: &Partition| {
                let committed = read.get(source).copied();
                let pair = Pair { source: source.clone(), target: target.clone() };
                (committed.is_some() || is_read(source)).then_some(Origin { pair, committed })
            };
            let origins: Vec<_> = self.sources.get(target).into_iter().flatten().filter_map(origin).collect();
            (target.clone(), self.place(target, &origins, clamp))
        };
        targets.into_iter().map(place).collect()
    }

    /// Returns where a group is in a target of which these are its sources.
    fn place(&self, target: &Partition, origins: &[Origin<'_>], clamp: bool) -> Result<Place, Refusal> {
        let (mut unread, mut end, mut is_clamped) = (None::<Offset>, 0, false);
        let mut begins = |at: Offset| unread = Some(unread.map_or(at, |first| first.min(at)));
        for origin in origins {
            let source = &origin.pair.source;
            match self.position(origin) {
                Position::Record { target, .. } => begins(target),
                Position::End { target } => end = end.max(target),
                Position::Unfinished { covered, .. } if !clamp => {
                    return Err(Refusal::Unfinished { source: source.clone(), covered });
                }
                Position::Beyond { next, .. } if !clamp => {
                    return Err(Refusal::Beyond { source: source.clone(), committed: origin.next(), next });
                }
                // What is still to come of it comes behind what there is.
                Position::Unfinished { target, .. } => {
                    is_clamped = true;
                    begins(target);
                }
                Position::Beyond { target, .. } => {
                    is_clamped = true;
                    end = end.max(target);
                }
            }
        }
        let offset = unread.unwrap_or(end);
        let exactness = match self.again(origins, offset) {
            _ if is_clamped => Exactness::Clamped,
            0 => Exactness::Exact,
            records => Exactness::Again(records),
        };
        Ok(Place { target: target.clone(), offset, exactness, metadata: metadata(origins) })
    }

    fn position(&self, origin: &Origin<'_>) -> Position {
        match (self.map.get(&origin.pair), self.vacant.get(&origin.pair)) {
            (Some(track), _) => track.translate(origin.next()),
            (None, end) => Position::End { target: end.copied().unwrap_or(0) },
        }
    }

    /// Returns how many records at `offset` and behind the group had read.
    fn again(&self, origins: &[Origin<'_>], offset: Offset) -> u64 {
        let of = |origin: &Origin<'_>| {
            let committed = origin.committed?;
            self.map.get(&origin.pair).map(|track: &Track| track.records_between(offset, committed.offset))
        };
        origins.iter().filter_map(of).fold(0, u64::saturating_add)
    }
}

/// Returns what the group kept beside its offsets, where that is the same for all of them.
fn metadata(origins: &[Origin<'_>]) -> String {
    let mut kept = origins.iter().filter_map(|origin| Some(&origin.committed?.metadata));
    match kept.next() {
        Some(first) if kept.all(|other| other == first) => first.clone(),
        _ => String::new(),
    }
}
