//! Which chain holds which offsets of a fork: what a fork shares with what it was made beside.
//!
//! Pure: the names of forks in, ranges out. The law that it rests on is the writer's: a fork is made beside the newest
//! chain of its partition, and its name is greater than that chain's ([`Fork`]). So the names alone tell the lineage:
//! the parent of a fork is, among the partition itself and the forks of a smaller epoch that begin at or before its end,
//! the newest. A fork that goes back before the beginning of the one it was made beside has that one's parent, or an
//! older one: it shares with it what lies before its end.

use super::layout::Fork;
use crate::record::{Offset, OffsetRange};

/// A chain, and the offsets that a reader takes from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// The fork; `None` is the partition itself.
    pub fork: Option<Fork>,
    /// The offsets, `[first, next)`; `next` is [`Offset::MAX`] for the chain that is read to its end.
    pub range: OffsetRange,
}

/// Returns the chain that `fork` goes on from, out of the forks that hold anything; `None` is the partition itself.
pub fn parent(fork: Fork, forks: &[Fork]) -> Option<Fork> {
    forks.iter().copied().filter(|other| other.epoch < fork.epoch && other.end <= fork.end).max()
}

/// Returns the chain beside which `fork` was made: the newest before it, which holds what the source had lost.
pub fn left(fork: Fork, forks: &[Fork]) -> Option<Fork> {
    forks.iter().copied().filter(|other| other.epoch < fork.epoch).max()
}

/// Returns the way along a chain from its root: the prefix that it shares with its parents, then its own offsets.
pub fn stretches(fork: Option<Fork>, forks: &[Fork]) -> Vec<Stretch> {
    let (mut at, mut next) = (fork, Offset::MAX);
    let mut stretches = Vec::new();
    loop {
        let first = at.map_or(0, |fork| fork.end);
        let range = OffsetRange { first, next };
        if !range.is_empty() {
            stretches.push(Stretch { fork: at, range });
        }
        let Some(fork) = at else { break };
        next = fork.end;
        at = parent(fork, forks);
    }
    stretches.reverse();
    stretches
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fork(epoch: i32, end: Offset) -> Fork {
        Fork { epoch, end }
    }

    fn told(of: Option<Fork>, forks: &[Fork]) -> Vec<(Option<Fork>, Offset, Offset)> {
        stretches(of, forks).into_iter().map(|part| (part.fork, part.range.first, part.range.next)).collect()
    }

    #[test]
    fn a_partition_without_forks_is_read_alone() {
        assert_eq!(told(None, &[fork(7, 100)]), [(None, 0, Offset::MAX)]);
    }

    #[test]
    fn a_fork_of_a_fork_shares_with_both() {
        let forks = [fork(5, 100), fork(9, 150)];
        let expected = [(None, 0, 100), (Some(forks[0]), 100, 150), (Some(forks[1]), 150, Offset::MAX)];
        assert_eq!(told(Some(forks[1]), &forks), expected);
        assert_eq!(told(Some(forks[0]), &forks), [(None, 0, 100), (Some(forks[0]), 100, Offset::MAX)]);
    }

    #[test]
    fn a_fork_that_goes_back_before_an_earlier_one_shares_with_its_parent() {
        let forks = [fork(5, 100), fork(7, 80), fork(9, 90)];
        assert_eq!(told(Some(forks[1]), &forks), [(None, 0, 80), (Some(forks[1]), 80, Offset::MAX)]);
        let expected = [(None, 0, 80), (Some(forks[1]), 80, 90), (Some(forks[2]), 90, Offset::MAX)];
        assert_eq!(told(Some(forks[2]), &forks), expected);
        assert_eq!((parent(forks[1], &forks), left(forks[1], &forks)), (None, Some(forks[0])));
    }

    #[test]
    fn a_fork_of_everything_shares_nothing() {
        assert_eq!(told(Some(fork(3, 0)), &[fork(3, 0)]), [(Some(fork(3, 0)), 0, Offset::MAX)]);
        // Two forks at one offset: the first holds nothing of the second's prefix.
        let forks = [fork(3, 50), fork(4, 50)];
        assert_eq!(told(Some(forks[1]), &forks), [(None, 0, 50), (Some(forks[1]), 50, Offset::MAX)]);
    }

    proptest! {
        /// Against the history itself: each fork cuts the newest chain, and keeps what lay before.
        #[test]
        fn the_names_alone_tell_what_was_shared(cuts in prop::collection::vec((0_i64..60, 1_i64..60), 0..8)) {
            // The newest chain as the origin of each offset; it grows, is cut, and goes on as a fork.
            let mut origin: Vec<Option<Fork>> = vec![None; 60];
            let mut forks = Vec::new();
            for (n, (end, grown)) in cuts.into_iter().enumerate() {
                let made = fork(n as i32, end.min(origin.len() as i64));
                origin.truncate(made.end as usize);
                origin.extend((0..grown).map(|_| Some(made)));
                forks.push(made);
            }
            let newest = forks.iter().copied().max();
            let read = stretches(newest, &forks);
            for (offset, origin) in origin.iter().enumerate() {
                let holder = read.iter().find(|part| part.range.contains(offset as Offset));
                prop_assert_eq!(holder.map(|part| part.fork), Some(*origin));
            }
        }
    }
}
