//! The watch's view of what is ours: all partitions of our topics, or, in a consumer group, those it gives us.
//!
//! A partition is assigned to the pipeline and revoked from it, one after the other: while the sink still closes it, it
//! is nobody's. The group only shares the work out. What it says late, wrongly or not at all costs work done twice, never
//! a record: the archive's chain is the fence. So a member that captures without its group closes nothing for it, and the
//! group does not wait for that.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

use super::super::{Command, Item};
use super::Watch;
use crate::kafka::membership::{Membership, Told};
use crate::pipeline::Event;
use crate::record::{Offset, Partition};

/// How long the group may be in trouble, without having given us partitions, until everything is captured alone:
/// longer than a coordinator takes to move, short enough that a backup does not wait for somebody to wake up.
const PATIENCE: Duration = Duration::from_secs(15);

/// As [`PATIENCE`], for a member that has been given partitions. Longer: the others read theirs, and a rebalance may wait
/// for a member's time-out; but new partitions, and those of members that died, are nobody's while it lasts.
const PATIENCE_OF_MEMBER: Duration = Duration::from_secs(75);

/// Whose a partition is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tenure {
    /// Not the pipeline's.
    Free,
    /// The pipeline's.
    Ours,
    /// The sink closes it.
    Leaving,
    /// The sink has closed it of its own: its pass is over.
    Done,
}

/// The consumer group that shares the partitions out.
pub(super) struct Group {
    id: String,
    /// `None` until the cluster has told which topics there are.
    membership: Option<Membership>,
    /// The topics that the membership was last told of.
    topics: Vec<String>,
    given: HashSet<(String, i32)>,
    /// Whether the group has given us what it has for us, and not taken it all away since.
    joined: bool,
    /// Since when it is in trouble.
    trouble_since: Option<Instant>,
    /// Whether everything is captured, because the group cannot be used.
    alone: bool,
}

/// What is borne of a group in trouble.
enum Borne {
    /// Nothing: it is well, or done without already.
    Well,
    /// It is waited for so long.
    Until(Instant),
    /// It is done without from now on.
    Ended,
}

impl Group {
    pub(super) fn new(id: String) -> Self {
        Self {
            id,
            membership: None,
            topics: Vec::new(),
            given: HashSet::new(),
            joined: false,
            trouble_since: None,
            alone: false,
        }
    }

    fn gives(&self, partition: &Partition) -> bool {
        self.alone || self.given.contains(&(partition.topic.to_string(), partition.index))
    }

    /// Captures everything where it has been of no use for too long.
    fn bear(&mut self, now: Instant) -> Borne {
        let patience = if self.joined { PATIENCE_OF_MEMBER } else { PATIENCE };
        match self.trouble_since.filter(|_| !self.alone).map(|since| since + patience) {
            None => Borne::Well,
            Some(at) if now < at => Borne::Until(at),
            Some(_) => {
                self.alone = true;
                Borne::Ended
            }
        }
    }

    /// Takes note of partitions that it gives us.
    fn give(&mut self, partitions: Vec<(String, i32)>, now: Instant) {
        self.joined = true;
        self.alone = false;
        // It shares out again: what it still lacks gets its time anew.
        self.trouble_since = self.trouble_since.map(|_| now);
        self.given.extend(partitions);
    }

    /// Takes note that it is in trouble, or well again.
    fn suffer(&mut self, trouble: bool, now: Instant) {
        if trouble {
            self.trouble_since.get_or_insert(now);
        } else {
            // A member that is well and has nothing shall capture nothing.
            (self.trouble_since, self.alone) = (None, false);
        }
    }

    fn subject(&self) -> String {
        format!("consumer group \"{}\"", self.id)
    }
}

impl Watch {
    /// Assigns and revokes what has become ours or is it no longer; returns when to look again.
    pub(super) fn share_out(&mut self, now: Instant) -> Instant {
        let wake = self.bear_with_group(now);
        if !std::mem::take(&mut self.unsettled) {
            return wake;
        }
        let mut revoked = Vec::new();
        for (partition, held) in &mut self.partitions {
            let wanted = !held.gone && self.group.as_ref().is_none_or(|group| group.gives(partition));
            match held.tenure {
                Tenure::Free if wanted => {
                    held.tenure = Tenure::Ours;
                    self.outbox.push(Item::Event(Event::Assigned(partition.clone())));
                }
                Tenure::Ours if !wanted => {
                    held.tenure = Tenure::Leaving;
                    revoked.push(partition.clone());
                }
                _ => {}
            }
        }
        for partition in revoked {
            self.stop(&partition);
            self.stable(&partition, None);
            self.outbox.push(Item::Event(Event::Revoked(partition)));
        }
        self.partitions.retain(|_, held| !(held.gone && matches!(held.tenure, Tenure::Free | Tenure::Done)));
        wake
    }

    /// Captures everything where the group has been of no use for too long.
    fn bear_with_group(&mut self, now: Instant) -> Instant {
        let never = now + PATIENCE;
        let Some(group) = &mut self.group else { return never };
        match group.bear(now) {
            Borne::Until(at) => at,
            Borne::Well => never,
            Borne::Ended => {
                self.unsettled = true;
                let id = &group.id;
                tracing::warn!(group = id, "the group cannot be used: capturing every partition; the archive fences");
                let is_taken = |held: &Partition| !group.given.contains(&(held.topic.to_string(), held.index));
                let ours = self.partitions.iter().filter(|(_, held)| held.tenure == Tenure::Ours);
                let taken: Vec<_> = ours.map(|(held, _)| held).filter(|held| is_taken(held)).cloned().collect();
                // They were to be closed, and are captured on now.
                for partition in taken {
                    self.release(&partition.topic, partition.index);
                }
                never
            }
        }
    }

    /// Joins the group, or tells it of topics that came or went.
    pub(super) fn subscribe(&mut self) {
        let there = self.topics.iter().filter(|(_, seen)| seen.is_there()).map(|(name, _)| name.clone());
        let there: Vec<String> = there.collect();
        let Some(group) = &mut self.group else { return };
        if there.is_empty() || group.topics == there {
            return;
        }
        if group.membership.is_none() {
            let commands = self.commands.clone();
            let told = move |told| {
                // The watch hears nothing more only when it has ended.
                let _ = commands.send(Command::Group(told));
            };
            let interval = self.options.metadata_interval;
            match Membership::join(self.client.properties(), &group.id, interval, told) {
                Ok(membership) => group.membership = Some(membership),
                Err(error) => {
                    group.trouble_since.get_or_insert_with(Instant::now);
                    let (subject, reason) = (group.subject(), error.to_string());
                    self.trouble(subject, Some(reason));
                    return;
                }
            }
        }
        if let Some(membership) = &group.membership {
            membership.subscribe(&there);
            group.topics = there;
        }
    }

    /// Hears from the group.
    pub(super) fn group_told(&mut self, told: Told) {
        self.unsettled = true;
        let Some(group) = &mut self.group else { return };
        match told {
            Told::Assigned(partitions) => {
                group.give(partitions, Instant::now());
                // What the group gives may be newer than what we know of the cluster.
                let known: HashSet<_> =
                    self.partitions.keys().map(|known| (known.topic.to_string(), known.index)).collect();
                if !group.given.is_subset(&known) {
                    self.look_soon(Instant::now());
                }
            }
            Told::Revoked { partitions, lost } => {
                for partition in &partitions {
                    group.given.remove(partition);
                }
                group.joined &= !lost || !group.given.is_empty();
                for (topic, index) in partitions {
                    self.release(&topic, index);
                }
            }
            Told::Trouble(reason) => {
                group.suffer(reason.is_some(), Instant::now());
                let subject = group.subject();
                self.trouble(subject, reason);
            }
        }
    }

    /// Hears that the sink has let a partition go.
    pub(super) fn closed(&mut self, partition: &Partition) {
        self.unsettled = true;
        let Some(held) = self.partitions.get_mut(partition) else { return };
        held.tenure = if held.tenure == Tenure::Leaving { Tenure::Free } else { Tenure::Done };
        self.release(&partition.topic, partition.index);
    }

    /// Tells the group that it need not wait for a partition which it has taken away, once that is so.
    fn release(&self, topic: &str, index: i32) {
        let membership = self.group.as_ref().and_then(|group| group.membership.as_ref());
        if let Some(membership) = membership.filter(|_| !self.is_closing(topic, index)) {
            membership.released(topic, index);
        }
    }

    /// Returns whether a partition that the group has taken away is yet to be closed.
    fn is_closing(&self, topic: &str, index: i32) -> bool {
        let alone = self.group.as_ref().is_some_and(|group| group.alone);
        let mut timelines = self.partitions.iter().filter(|(held, _)| &*held.topic == topic && held.index == index);
        timelines.any(|(_, held)| match held.tenure {
            // Alone it is captured on: to wait for its end would only hold up the others.
            Tenure::Ours => !alone,
            Tenure::Leaving => true,
            Tenure::Free | Tenure::Done => false,
        })
    }

    /// Hands on what is durable: the group's committed offsets are hints for people and their lag tools.
    pub(super) fn durable(&self, partition: &Partition, next: Offset) {
        if let Some(membership) = self.group.as_ref().and_then(|group| group.membership.as_ref()) {
            membership.durable(&partition.topic, partition.index, next);
        }
    }

    /// Leaves the group, off the runtime's threads: it waits for the coordinator.
    pub(super) async fn leave(&mut self) {
        if let Some(membership) = self.group.take().and_then(|group| group.membership) {
            // It ends without a word only by a panic, and then there is nothing left to leave.
            let _ = tokio::task::spawn_blocking(move || drop(membership)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::super::Held;
    use super::*;
    use crate::kafka::Client;
    use crate::kafka::source::Options;
    use crate::kafka::source::tests::options;
    use crate::kafka::wire::Toll;
    use crate::record::TopicId;

    /// A watch whose group has given it partition 0, which it captures.
    fn watch(now: Instant) -> Watch {
        // Port 1 is nobody's.
        let options = Options { group_id: Some("backup".to_owned()), ..options("127.0.0.1:1", &["orders"], false) };
        let client = Client::new(options.properties.clone());
        let toll = Toll { budget: options.budget.clone(), rate: options.rate.clone() };
        let ((items, _), (commands, heard)) = (mpsc::channel(1), mpsc::unbounded_channel());
        let mut watch = Watch::new(client, options, toll, items, commands, heard);
        watch.partitions.extend([0, 1].map(|index| (partition(index), Held::new(1, 0, false))));
        watch.group_told(Told::Assigned(vec![("orders".to_owned(), 0)]));
        watch.share_out(now);
        assert_eq!([0, 1].map(|index| watch.partitions[&partition(index)].tenure), [Tenure::Ours, Tenure::Free]);
        watch
    }

    fn revoke(watch: &mut Watch) {
        watch.group_told(Told::Revoked { partitions: vec![("orders".to_owned(), 0)], lost: false });
    }

    #[tokio::test]
    async fn a_group_waits_until_what_it_revokes_is_closed_but_for_nobody_who_captures_alone() {
        let began = Instant::now();
        let tenure = |watch: &Watch| watch.partitions[&partition(0)].tenure;
        let mut watch = self::watch(began);
        revoke(&mut watch);
        assert!(watch.is_closing("orders", 0));
        watch.share_out(began);
        assert_eq!((tenure(&watch), watch.is_closing("orders", 0)), (Tenure::Leaving, true));
        watch.closed(&partition(0));
        assert!(!watch.is_closing("orders", 0));

        // It has begun to do without its group before, or only then.
        for is_late in [false, true] {
            let mut watch = self::watch(began);
            watch.group_told(Told::Trouble(Some("its members do not agree".to_owned())));
            let given_up = Instant::now() + PATIENCE_OF_MEMBER;
            watch.share_out(if is_late { began } else { given_up });
            revoke(&mut watch);
            assert_eq!(watch.is_closing("orders", 0), is_late);
            watch.share_out(given_up);
            assert_eq!((tenure(&watch), watch.is_closing("orders", 0)), (Tenure::Ours, false), "{is_late}");
        }
    }

    fn partition(index: i32) -> Partition {
        Partition { topic: "orders".into(), topic_id: TopicId::NONE, index }
    }

    #[test]
    fn a_member_whose_group_stays_away_captures_what_nobody_does() {
        let (mut group, began) = (Group::new("backup".to_owned()), Instant::now());
        group.give(vec![("orders".to_owned(), 0)], began);
        group.suffer(true, began);
        group.bear(began + PATIENCE);
        assert!(!group.gives(&partition(1)), "the others may have it");
        group.bear(began + PATIENCE_OF_MEMBER);
        assert!(group.gives(&partition(1)));
        group.suffer(false, began + PATIENCE_OF_MEMBER);
        assert!(group.gives(&partition(0)));
        assert!(!group.gives(&partition(1)), "the group is well again, and gives it to another");
    }

    #[test]
    fn a_group_that_shares_out_again_is_waited_for_anew() {
        let (mut group, began) = (Group::new("backup".to_owned()), Instant::now());
        group.give(vec![("orders".to_owned(), 0)], began);
        group.suffer(true, began);
        group.bear(began + PATIENCE_OF_MEMBER);
        let again = began + 2 * PATIENCE_OF_MEMBER;
        group.give(Vec::new(), again);
        group.bear(again + PATIENCE);
        assert!(!group.gives(&partition(1)));
    }
}
