//! `restores undo`: what a restore made is deleted, and nothing that anybody else has a part in.

use nix::sys::signal::Signal;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use serde_json::Value;

use crate::crash::need_crash_points;
use crate::restore::Restore;
use crate::support::agent::{Backup, Ended, program_in};
use crate::support::kafka::Kafka;
use crate::support::reader::read_committed;
use crate::support::wait_for;
use crate::support::workload::{Contents, Writer};

impl Restore<'_> {
    /// Runs a verb of `restores` on it.
    fn verb(&self, verb: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Ended {
        let of = ["--path", self.backup.archive(), "--backup-id", "test", "--restore-id", &self.id];
        program_in(&[&["restores", verb], &of[..], arguments].concat(), environment)
    }

    /// Takes it back.
    pub(crate) fn undo(&self, arguments: &[&str]) -> Ended {
        self.undo_in(arguments, &[])
    }

    pub(crate) fn undo_in(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Ended {
        self.verb("undo", &[&["--bootstrap-servers", &self.brokers], arguments].concat(), environment)
    }
}

/// Makes topics of two partitions, whose names begin with `theme`, and a backup.
fn backed_up(kafka: &Kafka, theme: &str, topics: usize) -> (Vec<String>, Backup) {
    let (writer, mut contents) = (Writer::new(kafka, &[("batch.num.messages", "10")]), Contents::new());
    let topics: Vec<String> = (0..topics).map(|at| kafka.topic(&format!("{theme}-{at}"), 2, &[])).collect();
    topics.iter().for_each(|topic| drop(writer.write(topic, &contents.records(2, 100, 200))));
    let names: Vec<&str> = topics.iter().map(String::as_str).collect();
    let backup = Backup::of(kafka, &names);
    let _ = backup.backup().ok();
    (topics, backup)
}

/// Returns (topic, action, why) of each row.
fn rows(ended: &Ended) -> Vec<(String, String, String)> {
    let json: Value = serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended:?}"));
    let text = |row: &Value, key: &str| row[key].as_str().expect("text").to_owned();
    let row = |row: &Value| (text(row, "topic"), text(row, "action"), text(row, "why"));
    json["topics"].as_array().expect("topics").iter().map(row).collect()
}

/// Asserts what becomes of topics, in order of their names, each with a word of why.
#[track_caller]
fn assert_rows(ended: &Ended, wanted: &[(&str, &str, &str)]) {
    let rows = rows(ended);
    let is_so = |((topic, action, why), wanted): (&(String, String, String), &(&str, &str, &str))| {
        (topic.as_str(), action.as_str()) == (wanted.0, wanted.1) && why.contains(wanted.2)
    };
    let mut sorted = wanted.to_vec();
    sorted.sort_unstable();
    assert!(rows.len() == sorted.len() && rows.iter().zip(&sorted).all(is_so), "{rows:#?}\nwanted {sorted:#?}");
}

/// Waits until the brokers do not tell of a topic any more.
fn wait_deleted(kafka: &Kafka, topic: &str) {
    wait_for("the topic is gone", || (!kafka.topics().contains(topic)).then_some(()));
}

#[test]
fn what_a_restore_made_is_deleted_and_what_was_there_stays() {
    let kafka = Kafka::shared();
    let (topics, backup) = backed_up(kafka, "undo", 2);
    let restore = Restore::of(kafka, &backup, &[&topics[0], &topics[1]]);
    let [made, old] = [&restore.topics[0].1, &restore.topics[1].1].map(String::as_str);
    kafka.create(old, 2, &[]);
    let _ = restore.run().ok();
    let planned = restore.undo(&["--dry-run", "-o", "json"]);
    let stays = (old, "keep", "there before the restore");
    assert_rows(&planned, &[(made, "delete", "nobody else has written"), stays]);
    assert!(planned.code == Some(0) && !restore.state_names().contains(&"undone".to_owned()));
    restore.assert_brought(kafka, |_| true);

    let undone = restore.undo(&["-o", "json"]);
    assert_rows(&undone, &[(made, "deleted", ""), stays]);
    assert_eq!(undone.code, Some(0), "{undone:?}");
    wait_deleted(kafka, made);
    assert_eq!(read_committed(kafka, old).len(), 200);
    restore.run().fails_with(2, &[restore.id(), "was undone", "another restore_id"]);
    restore.run_with(&["--dry-run"]).fails_with(2, &["was undone"]);
    assert!(restore.verb("show", &[], &[]).ok().contains("\nState: undone\n"));
    restore.verb("cancel", &[], &[]).fails_with(2, &["was undone"]);
    assert!(restore.verify(&[]).stdout.contains("the restore was undone"));
    let _ = backup.command("verify", &[]).ok();

    assert_rows(&restore.undo(&["-o", "json"]), &[(made, "gone", "not there any more"), stays]);
    kafka.create(made, 2, &[]);
    let again = restore.undo(&["-o", "json"]);
    assert_rows(&again, &[(made, "keep", "made anew since"), stays]);
    assert!(again.code == Some(0) && kafka.topics().contains(made), "{again:?}");
}

#[test]
fn a_topic_that_others_write_to_or_read_or_that_has_lost_records_stays() {
    let kafka = Kafka::shared();
    let (topics, backup) = backed_up(kafka, "undo-others", 4);
    let names: Vec<&str> = topics.iter().map(String::as_str).collect();
    let restore = Restore::of(kafka, &backup, &names);
    let _ = restore.run().ok();
    let targets: Vec<&str> = restore.topics.iter().map(|(_, target)| target.as_str()).collect();
    let [written, read, shortened, own] = targets[..] else { panic!("four topics") };
    let place =
        Writer::transactional(kafka, "stranger").commit_records(written, &[Contents::new().record(1, 0, 50)])[0];
    kafka.delete_records(shortened, 0, 7);
    let group = format!("{read}-readers");
    let consumer: BaseConsumer = kafka.client(&[("group.id", &group)]).create().expect("a consumer");
    consumer.subscribe(&[read]).expect("subscribed");
    wait_for("the group is active", || {
        let _ = consumer.poll(std::time::Duration::from_millis(50));
        consumer.assignment().is_ok_and(|assigned| assigned.count() > 0).then_some(())
    });
    let other = format!("at offset {}", place.1);
    let [read_by, lost] = [(read, "keep", &*group), (shortened, "keep", "before offset 7 is gone")];
    let undone = restore.undo(&["-o", "json"]);
    assert_rows(&undone, &[(written, "keep", &other), read_by, lost, (own, "deleted", "")]);
    undone.fails_with(1, &["which the restore made, was not deleted", "nor were 2 more"]);

    let accepted = restore.undo(&["-o", "json", "--accept", "records-gone", "--accept", "active-groups"]);
    let (read_by, lost) = ((read, "deleted", ""), (shortened, "deleted", ""));
    assert_rows(&accepted, &[(written, "keep", &other), read_by, lost, (own, "gone", "")]);
    accepted.fails_with(1, &[written, "records of producer ", &other]);
    assert_eq!(read_committed(kafka, written).len(), 201);
}

#[test]
fn an_undoing_that_is_killed_is_ended_by_the_next_one() {
    need_crash_points();
    let kafka = Kafka::shared();
    let (topics, backup) = backed_up(kafka, "undo-killed", 3);
    let names: Vec<&str> = topics.iter().map(String::as_str).collect();
    let restore = Restore::of(kafka, &backup, &names);
    let _ = restore.run().ok();
    let left = || restore.topics.iter().filter(|(_, target)| kafka.topics().contains(target)).count();
    for (point, deleted) in [("restore-undone", 0), ("restore-topic-deleted", 1), ("restore-topic-deleted", 2)] {
        let killed = restore.undo_in(&[], &[("KAFKA_BACKUP_CRASH_AT", point)]);
        assert_eq!(killed.signal, Some(9), "{killed:?}");
        wait_for("what was deleted is gone", || (left() == 3 - deleted).then_some(()));
        restore.run().fails_with(2, &["was undone"]);
    }
    let table = restore.undo(&[]).ok();
    assert!(table.contains("\n1 topic deleted\n") && table.matches("not there any more").count() == 2, "{table}");
    wait_for("all are gone", || (left() == 0).then_some(()));
}

#[test]
fn a_restore_that_may_still_run_is_undone_only_when_it_was_cancelled_and_sends_nothing_more() {
    let kafka = Kafka::shared();
    let (topics, backup) = backed_up(kafka, "undo-running", 1);
    let restore = Restore::of(kafka, &backup, &[&topics[0]]).pipeline("max_records_per_second = 40");
    let restore = restore.sink("shutdown_timeout = \"1s\"");
    let mut running = restore.start(&[]);
    wait_for("some records have landed", || {
        let is_there = kafka.topics().contains(restore.target());
        is_there.then(|| kafka.ends(restore.target())[0]).filter(|end| *end > 10)
    });
    running.signal(Signal::SIGSTOP);
    for arguments in [&["--dry-run"][..], &[]] {
        restore.undo(arguments).fails_with(2, &[restore.id(), "may still run", "restores cancel"]);
    }
    let _ = restore.verb("cancel", &[], &[]).ok();
    let undone = restore.undo(&["-o", "json"]);
    assert_rows(&undone, &[(restore.target(), "deleted", "")]);
    wait_deleted(kafka, restore.target());
    running.signal(Signal::SIGCONT);
    assert!(running.wait().code().is_some_and(|code| code != 0), "{}", running.log());
    assert!(!kafka.topics().contains(restore.target()), "it is not made again");
    restore.run().fails_with(2, &["was undone"]);
}

#[test]
fn a_restore_in_transactions_leaves_no_group_behind_when_it_is_taken_back() {
    need_crash_points();
    let kafka = Kafka::shared();
    let (topics, backup) = backed_up(kafka, "undo-group", 1);
    let restore = Restore::of(kafka, &backup, &[&topics[0]]);
    let restore = restore.sink(&format!("repartition = [\"{}-restored:1\"]", topics[0]));
    // A topic that stays: with one that is deleted goes what is committed for it.
    kafka.create(restore.target(), 1, &[]);
    let mut running = restore.start(&[("KAFKA_BACKUP_CRASH_AT", "transaction-committed")]);
    assert!(!running.wait().success(), "{}", running.log());
    let group = format!("kafka-backup-restore-{}", restore.id());
    let committed = || kafka.committed(&group, restore.target()).len();
    assert_eq!(committed(), 1);
    let _ = restore.verb("cancel", &[], &[]).ok();
    let planned = restore.undo(&["--dry-run"]).ok();
    assert!(planned.contains(&format!("\nGroup {group}: delete: how far the restore had come")), "{planned}");
    assert_eq!(committed(), 1, "nothing is changed");
    let undone = restore.undo(&["-o", "json"]);
    assert_rows(&undone, &[(restore.target(), "keep", "there before the restore")]);
    let json: Value = serde_json::from_str(&undone.stdout).expect("JSON");
    assert_eq!((&json["group"]["group"], &json["group"]["action"]), (&group.as_str().into(), &"deleted".into()));
    assert_eq!(committed(), 0);
    let again: Value = serde_json::from_str(&restore.undo(&["-o", "json"]).ok()).expect("JSON");
    assert_eq!(again["group"], Value::Null, "there is none any more");
}

#[test]
fn a_topic_that_a_restore_made_and_sent_nothing_to_is_deleted_where_that_is_accepted_and_it_is_nobody_elses() {
    need_crash_points();
    let kafka = Kafka::shared();
    let (topics, backup) = backed_up(kafka, "undo-unsent", 3);
    let names: Vec<&str> = topics.iter().map(String::as_str).collect();
    let restore = Restore::of(kafka, &backup, &names);
    // Behind the fence, whose markers are the restore's own.
    let mut running = restore.start(&[("KAFKA_BACKUP_CRASH_AT", "restore-fence")]);
    assert!(!running.wait().success(), "{}", running.log());
    let targets: Vec<&str> = restore.topics.iter().map(|(_, target)| target.as_str()).collect();
    let [empty, written, anew] = targets[..] else { panic!("three topics") };
    let _ = Writer::new(kafka, &[]).write(written, &[Contents::new().record(1, 0, 50)]);
    kafka.delete(anew);
    wait_deleted(kafka, anew);
    kafka.create(anew, 2, &[("retention.bytes", "1000000")]);
    restore.undo(&["--accept", "unsent"]).fails_with(2, &[restore.id(), "may still run", "restores cancel"]);
    let _ = restore.verb("cancel", &[], &[]).ok();
    let stays = [(written, "keep", "records of"), (anew, "keep", "not as the restore makes it")];
    let unaccepted = (empty, "keep", "another restore may have done (--accept unsent)");
    for arguments in [&["--dry-run", "-o", "json"][..], &["-o", "json"]] {
        assert_rows(&restore.undo(arguments), &[unaccepted, stays[0], stays[1]]);
    }
    let planned = restore.undo(&["--dry-run", "-o", "json", "--accept", "unsent"]);
    assert_rows(&planned, &[(empty, "delete", "nothing was sent to it"), stays[0], stays[1]]);
    let undone = restore.undo(&["-o", "json", "--accept", "unsent"]);
    assert_rows(&undone, &[(empty, "deleted", "nothing was sent to it"), stays[0], stays[1]]);
    undone.fails_with(1, &["was not deleted"]);
    wait_deleted(kafka, empty);
    assert_eq!(kafka.ends(anew), [0, 0], "nobody was fenced off there");
}
