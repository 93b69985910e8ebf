//! Which partitions are held for the group, and how far each is durable and committed. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::record::Offset;

/// A partition by its topic's name and its number, as the group knows it.
pub(super) type Name = (String, i32);

/// The partitions that are held.
#[derive(Debug, Default)]
pub(super) struct Holdings {
    held: BTreeMap<Name, Held>,
    /// Those that are being closed, for which the group waits.
    closing: BTreeSet<Name>,
}

#[derive(Debug, Default)]
struct Held {
    /// Whether the group says that it is ours; if not it was lost, and is read on until the next assignment.
    owned: bool,
    durable: Option<Offset>,
    committed: Option<Offset>,
}

impl Holdings {
    /// Takes what the group gives; returns what is new, and what was lost before and did not come back.
    pub(super) fn assign(&mut self, given: Vec<Name>) -> (Vec<Name>, Vec<Name>) {
        let mut new = Vec::new();
        for name in given {
            if !self.held.contains_key(&name) {
                new.push(name.clone());
            }
            let held = self.held.entry(name).or_default();
            held.owned = true;
            // Another member may have committed meanwhile.
            held.committed = None;
        }
        (new, self.strays())
    }

    /// Takes note that the group does not count on us for these any more (`None`: for any).
    pub(super) fn lose(&mut self, names: Option<&[Name]>) {
        for (name, held) in &mut self.held {
            if names.is_none_or(|names| names.contains(name)) {
                held.owned = false;
            }
        }
    }

    /// Lets go of what was lost and did not come back; returns it.
    pub(super) fn strays(&mut self) -> Vec<Name> {
        let lost = self.held.iter().filter(|(_, held)| !held.owned);
        let lost: Vec<Name> = lost.map(|(name, _)| name.clone()).collect();
        self.let_go(&lost);
        lost
    }

    /// Takes note that these are being closed.
    pub(super) fn revoke(&mut self, names: &[Name]) {
        self.closing.extend(names.iter().cloned());
    }

    /// Takes note that a partition is closed.
    pub(super) fn released(&mut self, topic: &str, partition: i32) {
        self.closing.remove(&(topic.to_owned(), partition));
    }

    /// Returns how many of those that are being closed are not closed yet.
    pub(super) fn closing(&self) -> usize {
        self.closing.len()
    }

    /// Forgets these.
    pub(super) fn let_go(&mut self, names: &[Name]) {
        for name in names {
            self.held.remove(name);
            self.closing.remove(name);
        }
    }

    /// Returns how many the group says are ours.
    pub(super) fn owned(&self) -> usize {
        self.held.values().filter(|held| held.owned).count()
    }

    /// Takes note of a durable position; one of a partition that is not held is nobody's to commit here.
    pub(super) fn durable(&mut self, topic: &str, partition: i32, next: Offset) {
        if let Some(held) = self.held.get_mut(&(topic.to_owned(), partition)) {
            held.durable = held.durable.max(Some(next));
        }
    }

    /// Returns the positions that are durable and not committed (of `names`; `None`: of all), as committed from now on.
    pub(super) fn due(&mut self, names: Option<&[Name]>) -> Vec<(Name, Offset)> {
        let mut due = Vec::new();
        for (name, held) in &mut self.held {
            let asked = names.is_none_or(|names| names.contains(name));
            if let Some(next) = held.durable.filter(|_| asked && held.owned && held.durable != held.committed) {
                held.committed = Some(next);
                due.push((name.clone(), next));
            }
        }
        due
    }

    /// Takes note that a position was not committed after all.
    pub(super) fn uncommitted(&mut self, topic: &str, partition: i32) {
        if let Some(held) = self.held.get_mut(&(topic.to_owned(), partition)) {
            held.committed = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(partitions: &[i32]) -> Vec<Name> {
        partitions.iter().map(|partition| ("orders".to_owned(), *partition)).collect()
    }

    #[test]
    fn what_is_lost_is_held_until_the_next_assignment_and_is_no_news_when_it_comes_back() {
        let mut holdings = Holdings::default();
        assert_eq!(holdings.assign(names(&[0, 1])), (names(&[0, 1]), vec![]));
        holdings.lose(None);
        assert_eq!(holdings.owned(), 0);
        assert_eq!(holdings.assign(names(&[1, 2])), (names(&[2]), names(&[0])));
        assert_eq!(holdings.owned(), 2);
        assert_eq!(holdings.strays(), vec![]);
    }

    #[test]
    fn a_position_is_due_once_and_only_while_the_partition_is_ours() {
        let mut holdings = Holdings::default();
        holdings.durable("orders", 0, 5);
        assert_eq!(holdings.due(None), vec![], "not held");
        holdings.assign(names(&[0, 1]));
        holdings.durable("orders", 0, 9);
        holdings.durable("orders", 0, 7);
        holdings.durable("orders", 1, 3);
        assert_eq!(holdings.due(Some(&names(&[1]))), vec![(("orders".to_owned(), 1), 3)]);
        assert_eq!(holdings.due(None), vec![(("orders".to_owned(), 0), 9)]);
        assert_eq!(holdings.due(None), vec![]);
        holdings.uncommitted("orders", 0);
        assert_eq!(holdings.due(None).len(), 1, "tried again");
        holdings.lose(None);
        holdings.durable("orders", 1, 4);
        assert_eq!(holdings.due(None), vec![], "another may have it");
    }

    #[test]
    fn a_revoked_partition_is_closing_until_it_is_released() {
        let mut holdings = Holdings::default();
        holdings.assign(names(&[0, 1, 2]));
        holdings.revoke(&names(&[0, 1]));
        holdings.released("orders", 1);
        holdings.released("orders", 2);
        assert_eq!(holdings.closing(), 1);
        holdings.let_go(&names(&[0, 1]));
        assert_eq!((holdings.closing(), holdings.owned()), (0, 1));
    }
}
