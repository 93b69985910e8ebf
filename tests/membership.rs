//! Members of a consumer group, without the rest of an agent, on a real Kafka: who has which partition when.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use kafka_backup::kafka::Properties;
use kafka_backup::kafka::membership::{LEAVE_WITHIN, Membership, Told};

use crate::support::kafka::Kafka;
use crate::support::{DEADLINE, wait_for};

type Name = (String, i32);

/// A group that nobody else is in.
fn new_group(theme: &str) -> String {
    format!("{theme}-{:08x}", fastrand::u32(..))
}

/// A member, and what it was told.
struct Member {
    membership: Membership,
    told: mpsc::Receiver<Told>,
    ours: BTreeSet<Name>,
}

impl Member {
    fn join(kafka: &Kafka, group: &str, topic: &str, properties: &[(&str, &str)]) -> Self {
        let fixed = [("bootstrap.servers", kafka.brokers()), ("statistics.interval.ms", "100")];
        let all = fixed.iter().chain(properties);
        let map = all.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let properties = Properties::new(map).expect("good properties");
        let (tell, told) = mpsc::channel();
        let tell = move |what| drop(tell.send(what));
        let membership = Membership::join(&properties, group, Duration::from_secs(1), tell).expect("joined");
        membership.subscribe(&[topic.to_owned(), "not-there".to_owned()]);
        Self { membership, told, ours: BTreeSet::new() }
    }

    /// Hears until `done`; keeps count of what is ours.
    #[track_caller]
    fn hear(&mut self, what: &str, mut done: impl FnMut(&Told, &BTreeSet<Name>) -> bool) -> Told {
        let began = Instant::now();
        loop {
            let left = DEADLINE.saturating_sub(began.elapsed());
            let told =
                self.told.recv_timeout(left).unwrap_or_else(|_| panic!("never told: {what}; has {:?}", self.ours));
            match &told {
                Told::Assigned(new) => {
                    assert!(new.iter().all(|name| self.ours.insert(name.clone())), "told once: {told:?}");
                }
                Told::Revoked { partitions, .. } => {
                    assert!(partitions.iter().all(|name| self.ours.remove(name)), "it was ours: {told:?}");
                }
                Told::Trouble(trouble) => assert_eq!(*trouble, None, "nothing is wrong here"),
            }
            if done(&told, &self.ours) {
                return told;
            }
        }
    }

    #[track_caller]
    fn hear_ours(&mut self, count: usize) {
        self.hear(&format!("{count} partitions"), |_, ours| ours.len() == count);
    }

    #[track_caller]
    fn hear_revoked(&mut self) -> Vec<Name> {
        match self.hear("something is revoked", |told, _| matches!(told, Told::Revoked { .. })) {
            Told::Revoked { partitions, lost: false } => partitions,
            told => panic!("{told:?}"),
        }
    }

    fn release(&self, partitions: &[Name]) {
        partitions.iter().for_each(|(topic, partition)| self.membership.released(topic, *partition));
    }
}

#[test]
fn a_member_is_given_partitions_and_commits_what_is_durable_within_seconds_and_when_it_leaves() {
    let kafka = Kafka::shared();
    let (topic, group) = (kafka.topic("membership", 3, &[]), new_group("commits"));
    let mut member = Member::join(kafka, &group, &topic, &[]);
    member.hear_ours(3);
    member.membership.durable(&topic, 0, 40);
    member.membership.durable(&topic, 2, 7);
    let expected = BTreeMap::from([(0, 40), (2, 7)]);
    wait_for("positions are committed", || (kafka.committed(&group, &topic) == expected).then_some(()));
    member.membership.durable(&topic, 0, 41);
    member.membership.durable(&topic, 1, 1);
    let began = Instant::now();
    drop(member.membership);
    assert!(began.elapsed() < LEAVE_WITHIN, "left, not given up");
    assert_eq!(kafka.committed(&group, &topic), BTreeMap::from([(0, 41), (1, 1), (2, 7)]));
    // Were the first still a member, this would take a session's time-out.
    let mut next = Member::join(kafka, &group, &topic, &[("session.timeout.ms", "300000")]);
    next.hear_ours(3);
}

/// Has a second member join, and asserts that it gets its part only when the first has let it go.
fn share(group: &str, properties: &[(&str, &str)]) {
    let kafka = Kafka::shared();
    let (topic, group) = (kafka.topic("membership", 4, &[]), new_group(group));
    let mut first = Member::join(kafka, &group, &topic, properties);
    first.hear_ours(4);
    (0..4).for_each(|partition| first.membership.durable(&topic, partition, 5));
    let mut second = Member::join(kafka, &group, &topic, properties);
    let partitions = first.hear_revoked();
    assert_eq!(partitions.len(), 2);
    for (topic, partition) in &partitions {
        assert!(second.told.try_recv().is_err(), "the second has nothing before the first has let go");
        first.membership.durable(topic, *partition, 9);
        first.membership.released(topic, *partition);
    }
    second.hear_ours(2);
    assert_eq!(second.ours, partitions.iter().cloned().collect());
    let committed = kafka.committed(&group, &topic);
    assert!(partitions.iter().all(|(_, partition)| committed[partition] == 9), "{committed:?}");
    kafka.add_partitions(&topic, 6);
    wait_for("the new partitions are shared", || {
        for member in [&mut first, &mut second] {
            while let Ok(told) = member.told.try_recv() {
                let Told::Assigned(new) = told else { continue };
                member.ours.extend(new);
            }
        }
        (first.ours.len() + second.ours.len() == 6).then_some(())
    });
    drop(first);
    second.hear_ours(6);
}

#[test]
fn a_revoked_partition_goes_to_another_only_when_it_is_released_and_committed() {
    share("shared", &[]);
}

#[test]
fn the_newer_protocol_shares_as_well() {
    share("newer", &[("group.protocol", "consumer")]);
}

#[test]
fn a_protocol_that_revokes_everything_at_each_rebalance_is_gone_through_too() {
    let kafka = Kafka::shared();
    let (topic, group) = (kafka.topic("membership", 2, &[]), new_group("eager"));
    let eager = [("partition.assignment.strategy", "range")];
    let mut first = Member::join(kafka, &group, &topic, &eager);
    first.hear_ours(2);
    let mut second = Member::join(kafka, &group, &topic, &eager);
    let revoked = first.hear_revoked();
    assert_eq!(revoked.len(), 2);
    first.release(&revoked);
    first.hear_ours(1);
    second.hear_ours(1);
    assert!(first.ours.is_disjoint(&second.ours));
}

#[test]
fn a_member_that_does_not_close_in_time_does_not_hold_up_the_others() {
    let kafka = Kafka::shared();
    let (topic, group) = (kafka.topic("membership", 2, &[]), new_group("slow"));
    let slow = [("max.poll.interval.ms", "6000")];
    let mut first = Member::join(kafka, &group, &topic, &slow);
    first.hear_ours(2);
    let mut second = Member::join(kafka, &group, &topic, &slow);
    assert_eq!(first.hear_revoked().len(), 1);
    second.hear_ours(1);
}
