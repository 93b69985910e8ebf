//! Transactions into a real Kafka: batches and progress are there together or not at all, whenever a process ends.

use std::collections::BTreeMap;
use std::time::Duration;

use kafka_backup::error::Error;
use kafka_backup::kafka::Client;
use kafka_backup::kafka::client::groups::CommittedOffset;
use kafka_backup::kafka::produce::{Answer, Places, Settings, Transactions, fence, hindrance, progress};
use kafka_backup::record::Partition;
use tokio::time::timeout;

use crate::produce::{assert_holds, batch, client, new_id, partitions};
use crate::support::kafka::Kafka;
use crate::support::reader::read_committed;
use crate::support::{DEADLINE, block_on};

/// Of each of these tests one source goes to all target partitions: transaction `n` has batch `n` for each of them, and
/// progress `n + 1`.
pub(crate) struct Sender {
    pub(crate) transactions: Transactions<u32>,
    pub(crate) partitions: Vec<Partition>,
    places: Places,
    /// The number of the next transaction.
    pub(crate) next: u32,
}

impl Sender {
    /// Takes the place of whoever sent before, and goes on from where that one has come to.
    pub(crate) async fn start(client: &Client, id: &str, topic: &str) -> Self {
        let partitions = partitions(client, topic).await;
        let places = Places::new(&partitions, 1).expect("a place");
        let identity = fence(client, id, &partitions).await.expect("a fence");
        let committed = progress(client, id).await.expect("it is told");
        let next = places.read(&committed).expect("ours")[0].unwrap_or(0) as u32;
        let transactions = Transactions::start(client, id, id, identity, Settings::default());
        Self { transactions, partitions, places, next }
    }

    /// Sends the batches of the next transaction.
    pub(crate) fn send(&mut self) {
        for partition in &self.partitions {
            self.transactions.send(partition, batch(self.next), self.next);
        }
    }

    /// Returns the progress behind the next transaction.
    pub(crate) fn progress(&self) -> Vec<CommittedOffset> {
        self.places.write(&[i64::from(self.next) + 1])
    }

    /// Commits what was sent.
    pub(crate) async fn commit(&mut self) -> Result<(), Error> {
        let progress = self.progress();
        self.transactions.commit(&progress, &mut assert_lands).await?;
        self.next += 1;
        Ok(())
    }
}

fn assert_lands(answer: Answer<u32>) {
    match answer {
        Answer::Landed { .. } => {}
        Answer::Trouble { subject, reason } => println!("{subject}: {reason:?}"),
        answer => panic!("{answer:?}"),
    }
}

/// Returns the values that a reader of committed data sees, by partition.
fn seen(kafka: &Kafka, topic: &str) -> BTreeMap<i32, Vec<u32>> {
    let mut seen: BTreeMap<i32, Vec<u32>> = BTreeMap::new();
    for record in read_committed(kafka, topic) {
        let value = u32::from_be_bytes(record.value.expect("a value").try_into().expect("four bytes"));
        let values = seen.entry(record.partition).or_default();
        // Each batch has its records of one number.
        if values.last() != Some(&value) {
            values.push(value);
        }
    }
    seen
}

#[test]
fn what_is_committed_is_seen_with_its_progress_and_what_is_aborted_never_is() {
    let kafka = Kafka::shared();
    let (topic, id) = (kafka.topic("transactions", 3, &[]), new_id());
    block_on(async {
        let client = client(kafka.brokers());
        let mut sender = Sender::start(&client, &id, &topic).await;
        assert_eq!(sender.next, 0);
        for _ in 0..3 {
            sender.send();
            sender.commit().await.expect("committed");
        }
        sender.send();
        sender.transactions.abort(&mut assert_lands).await.expect("aborted");
        assert_eq!(sender.transactions.outstanding(), 0);
        // Of one partition alone, and with the sequences that follow those of the aborted one.
        sender.transactions.send(&sender.partitions[1].clone(), batch(7), 7);
        sender.commit().await.expect("committed");
        assert_eq!(progress(&client, &id).await.expect("told"), sender.places.write(&[4]));
        sender.next -= 1;
        sender.commit().await.expect("nothing is new: nothing is done");
        let again = Sender::start(&client, &id, &topic).await;
        assert_eq!(again.next, 4, "the next process goes on from there");
    });
    assert_eq!(seen(kafka, &topic), [(0, vec![0, 1, 2]), (1, vec![0, 1, 2, 7]), (2, vec![0, 1, 2])].into());
}

#[test]
fn a_process_that_ends_at_any_moment_leaves_all_of_a_transaction_or_nothing() {
    let kafka = Kafka::shared();
    let (topic, id) = (kafka.topic("given-up", 2, &[]), new_id());
    const ALL: u32 = 60;
    let mut random = fastrand::Rng::new();
    let mut ended = 0;
    block_on(async {
        let client = client(kafka.brokers());
        loop {
            let mut sender = Sender::start(&client, &id, &topic).await;
            if sender.next >= ALL {
                break;
            }
            sender.send();
            sender.commit().await.expect("committed");
            // Cut off somewhere in the next ones: before a batch has gone out, or in any step of a commit.
            let going_on = async {
                while sender.next < ALL {
                    sender.send();
                    sender.commit().await.expect("committed");
                }
            };
            ended += u32::from(timeout(Duration::from_micros(random.u64(..25_000)), going_on).await.is_err());
        }
    });
    println!("{ended} ends");
    assert!(ended >= 5, "{ended} ends");
    assert_holds(kafka, &topic, 2, ALL);
}

#[test]
fn a_commit_that_was_given_up_is_gone_on_with() {
    let kafka = Kafka::shared();
    let (topic, id) = (kafka.topic("gone-on", 2, &[]), new_id());
    const ALL: u32 = 60;
    let mut random = fastrand::Rng::new();
    block_on(async {
        let client = client(kafka.brokers());
        let mut sender = Sender::start(&client, &id, &topic).await;
        while sender.next < ALL {
            sender.send();
            let progress = sender.progress();
            loop {
                let wait = Duration::from_micros(random.u64(..12_000));
                let mut heard = assert_lands;
                let committed = sender.transactions.commit(&progress, &mut heard);
                if let Ok(committed) = timeout(wait, committed).await {
                    break committed.expect("committed");
                }
            }
            sender.next += 1;
        }
        assert_eq!(progress(&client, &id).await.expect("told"), sender.places.write(&[i64::from(ALL)]));
    });
    assert_holds(kafka, &topic, 2, ALL);
}

#[test]
fn a_younger_process_ends_the_transaction_of_an_older_one() {
    let kafka = Kafka::shared();
    let (topic, id) = (kafka.topic("older", 2, &[]), new_id());
    block_on(async {
        let client = client(kafka.brokers());
        let mut old = Sender::start(&client, &id, &topic).await;
        old.send();
        while old.transactions.outstanding() > 0 {
            assert_lands(timeout(DEADLINE, old.transactions.answer()).await.expect("in time"));
        }
        let mut new = Sender::start(&client, &id, &topic).await;
        let error = old.commit().await.expect_err("it is fenced off");
        assert_eq!((error.exit_code(), new.next), (11, 0), "{error}");
        new.send();
        new.commit().await.expect("committed");
        old.send();
        let told = loop {
            match timeout(DEADLINE, old.transactions.answer()).await.expect("in time") {
                Answer::Trouble { .. } => {}
                told => break told,
            }
        };
        assert!(matches!(&told, Answer::Fenced(error) if error.exit_code() == 11), "{told:?}");
    });
    assert_eq!(seen(kafka, &topic), [(0, vec![0]), (1, vec![0])].into());
}

#[test]
fn who_asks_whether_a_place_may_be_taken_leaves_it_and_its_transaction_to_who_has_it() {
    let kafka = Kafka::shared();
    let (topic, id) = (kafka.topic("asked", 2, &[]), new_id());
    block_on(async {
        let client = client(kafka.brokers());
        for _ in 0..2 {
            assert_eq!(hindrance(&client, &id, true).await.expect("asked"), None, "nobody has it");
        }
        let mut old = Sender::start(&client, &id, &topic).await;
        for _ in 0..2 {
            old.send();
            while old.transactions.outstanding() > 0 {
                assert_lands(timeout(DEADLINE, old.transactions.answer()).await.expect("in time"));
            }
            assert_eq!(hindrance(&client, &id, true).await.expect("asked"), None);
            old.commit().await.expect("it goes on");
        }
        assert_eq!(hindrance(&client, &id, true).await.expect("asked"), None, "no transaction runs");
        old.send();
        old.commit().await.expect("it goes on");
    });
    assert_holds(kafka, &topic, 2, 3);
}

#[test]
fn a_batch_that_is_refused_ends_its_transaction_and_the_next_one_goes_on() {
    let kafka = Kafka::shared();
    let (topic, id) = (kafka.topic("refused", 2, &[]), new_id());
    // Markers have the time of now.
    let narrow = kafka.topic("narrow", 1, &[("message.timestamp.before.max.ms", "3600000")]);
    block_on(async {
        let client = client(kafka.brokers());
        let mut sender = Sender::start(&client, &id, &topic).await;
        sender.send();
        sender.transactions.send(&partitions(&client, &narrow).await[0], batch(0), 0);
        let (mut refused, progress) = (0, sender.progress());
        let mut hear = |answer| refused += u32::from(matches!(answer, Answer::Refused { .. }));
        let error = sender.transactions.commit(&progress, &mut hear).await.expect_err("too old");
        assert!(error.to_string().contains("InvalidTimestamp (32)"), "{error}");
        sender.transactions.abort(&mut hear).await.expect("aborted");
        assert_eq!(refused, 1);
        for _ in 0..2 {
            sender.send();
            sender.commit().await.expect("it goes on, from sequence 0 of the next epoch");
        }
    });
    assert_holds(kafka, &topic, 2, 2);
    assert!(seen(kafka, &narrow).is_empty());
}

#[test]
fn a_key_is_a_partition_that_is_there() {
    let kafka = Kafka::shared();
    let (topic, id) = (kafka.topic("keys", 2, &[]), new_id());
    block_on(async {
        let client = client(kafka.brokers());
        let mut sender = Sender::start(&client, &id, &topic).await;
        sender.send();
        let mut progress = sender.progress();
        progress[0].partition = 2;
        let (told, mut tell) = (tokio::sync::Notify::new(), String::new());
        let mut hear = |answer| {
            if let Answer::Trouble { reason: Some(reason), .. } = answer {
                tell = reason;
                told.notify_one();
            }
        };
        tokio::select! {
            done = sender.transactions.commit(&progress, &mut hear) => panic!("{done:?}"),
            () = told.notified() => {}
        }
        assert!(tell.contains("TxnOffsetCommit") && tell.contains("UnknownTopicOrPartition (3)"), "{tell}");
    });
}
