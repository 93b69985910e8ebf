//! Restores that put consumer groups back: where each reads on, held against what it had read of the source.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use nix::sys::signal::Signal;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};

use crate::crash::need_crash_points;
use crate::fidelity;
use crate::restore::{Restore, repartition};
use crate::savepoints::{group_name, savepoints};
use crate::support::agent::{Backup, Ended, program_with};
use crate::support::kafka::Kafka;
use crate::support::reader::{Record, read_all_committed, read_committed};
use crate::support::workload::{Contents, Writer};
use crate::support::{block_on, wait_for};

/// What a group has committed of a topic, by partition.
type Committed = BTreeMap<i32, i64>;

/// Commits for a group.
fn commit(kafka: &Kafka, group: &str, topic: &str, offsets: &[(i32, i64)]) {
    offsets.iter().for_each(|(partition, offset)| kafka.commit(group, topic, *partition, *offset));
}

/// Returns of each source record that a group had not read its value, by its target's partition as it is read there from
/// what the group has committed on; of one source partition that becomes one of the same number.
fn reads_on(held: &[Record], committed: &Committed) -> Vec<(i32, Option<Vec<u8>>)> {
    let is_left =
        |record: &&Record| committed.get(&record.partition).is_some_and(|committed| record.offset >= *committed);
    held.iter().filter(is_left).map(|record| (record.partition, record.value.clone())).collect()
}

/// Asserts that a group reads on in the target with the very records that it had not read in the source.
#[track_caller]
fn assert_reads_on(kafka: &Kafka, group: &str, (source, stood): (&str, &Committed), target: &str) {
    let read = read_all_committed(kafka, &[source, target]);
    let stands = kafka.committed(group, target);
    assert!(stands.keys().eq(stood.keys()), "{group}: {stands:?} in {target}, and it had {stood:?} in {source}");
    assert_eq!(reads_on(&read[target], &stands), reads_on(&read[source], stood), "{group} in {target}");
    let read_again = |(partition, at): (&i32, &i64)| {
        let of = |records: &[Record], from: i64| {
            records.iter().filter(|record| record.partition == *partition && record.offset < from).count()
        };
        assert_eq!(
            of(&read[target], *at),
            of(&read[source], stood[partition]),
            "{group}: read in {target}-{partition}"
        );
    };
    stands.iter().for_each(read_again);
}

/// Writes the YAML of a restore that puts groups back, and runs it.
fn three_phase(kafka: &Kafka, backup: &Backup, (from, to): (&str, &str), more: &str, arguments: &[&str]) -> Ended {
    let file = backup.folder().join(format!("{to}.yaml"));
    let text = format!(
        "mode: restore\nbackup_id: test\ntarget:\n  bootstrap_servers:\n    - {}\nstorage:\n  backend: filesystem\n  \
         path: {}\ntopic_mapping:\n  {from}: {to}\nrestore:\n  consumer_group_strategy: header-based\n  \
         reset_consumer_offsets: true\n{more}",
        kafka.brokers(),
        backup.archive(),
    );
    fs::write(&file, text).expect("the test's folder is writable");
    program_with(&[&["three-phase-restore", "--config", file.to_str().expect("UTF-8")], arguments].concat())
}

/// Makes a topic of two partitions with 60 records each, one a second, in which a group stands so; returns the topic and the
/// group.
fn stood(kafka: &Kafka, theme: &str, offsets: &[(i32, i64)]) -> (String, String) {
    let topic = kafka.topic(theme, 2, &[]);
    let (mut records, began) = (Contents::new().records(2, 60, 50), jiff::Timestamp::now().as_millisecond() - 600_000);
    records.iter_mut().zip(0..).for_each(|(record, number)| record.timestamp = began + number * 1000);
    // In the order of their times, also where a batch is sent again.
    let properties = [("batch.num.messages", "7"), ("enable.idempotence", "true")];
    let _ = Writer::new(kafka, &properties).write(&topic, &records);
    let group = group_name(theme);
    commit(kafka, &group, &topic, offsets);
    (topic, group)
}

/// Backs topics up, with a savepoint of these groups.
fn backed_up(kafka: &Kafka, topics: &[&str], groups: &[&str]) -> Backup {
    let backup = Backup::of(kafka, topics).sink("roll_bytes", "4KiB").source_list("groups", groups);
    let _ = backup.backup().ok();
    backup
}

/// Returns the lines of a phase.
fn phase(ended: &Ended, number: u32) -> Vec<&str> {
    let start = format!("Phase {number}: ");
    ended.stderr.lines().filter_map(|line| line.strip_prefix(start.as_str())).collect()
}

#[test]
fn groups_of_every_kind_of_topic_read_on_with_the_very_record() {
    let kafka = Kafka::shared_with_disk();
    let (transactions, compacted) = (fidelity::transactions(kafka), fidelity::compacted(kafka));
    let (plain, group) = stood(kafka, "phases-plain", &[(0, 23), (1, 60)]);
    let idle = kafka.topic("phases-idle", 3, &[]);
    let _ = Writer::new(kafka, &[]).write(&idle, &Contents::new().records(1, 9, 50));
    // Two of its partitions never had a record.
    commit(kafka, &group, &idle, &[(0, 4), (1, 0), (2, 0)]);
    let mut topics = vec![plain.clone(), transactions, compacted];
    for topic in &topics[1..] {
        for (end, partition) in kafka.ends(topic).into_iter().zip(0..) {
            kafka.commit(&group, topic, partition, end / 3 + i64::from(partition));
        }
    }
    topics.push(idle);
    let names: Vec<&str> = topics.iter().map(String::as_str).collect();
    let backup = backed_up(kafka, &names, &[&group]);
    // What it reads of the source since is not restored, and says nothing.
    kafka.commit(&group, &plain, 0, 55);
    let restore = Restore::of(kafka, &backup, &names).groups("reset = true");
    let shown = restore.run_with(&["--dry-run"]);
    assert!(shown.stdout.contains("Consumer groups, as they stood at savepoint"), "{shown:?}");
    assert!(shown.stdout.contains(&format!("{plain}-0")) && shown.stdout.contains("Goes To"), "{shown:?}");
    let ended = restore.run();
    let said = phase(&ended, 3);
    assert!(
        said.iter().any(|line| line.starts_with(&format!("group {group}: ")) && line.contains(" set")),
        "{ended:?}"
    );
    assert!(ended.stderr.contains("undo with: kafka-backup restores undo --path "), "{ended:?}");
    let _ = ended.ok();
    for topic in &topics {
        let mut stood = kafka.committed(&group, topic);
        if *topic == plain {
            let _ = stood.insert(0, 23);
        }
        assert_reads_on(kafka, &group, (topic, &stood), &format!("{topic}-restored"));
    }
    let _ = backup.command("verify", &[]).ok();
}

#[test]
fn the_users_yaml_puts_the_groups_back_that_it_names_in_a_topic_of_another_name() {
    let kafka = Kafka::shared();
    let (topic, group) = stood(kafka, "phases-yaml", &[(0, 17), (1, 3)]);
    let other = group_name("phases-other");
    kafka.commit(&other, &topic, 0, 30);
    let late = group_name("phases-late");
    kafka.commit(&late, &topic, 0, 31);
    let backup = backed_up(kafka, &[&topic], &[&group, &other, &late]);
    let target = format!("{topic}-dr");
    let named = format!("  consumer_groups:\n    - {group}\n");
    let ended = three_phase(kafka, &backup, (&topic, &target), &named, &[]);
    assert!(phase(&ended, 1)[0].contains("1 group of savepoint"), "{ended:?}");
    assert!(phase(&ended, 2)[0].contains("120 records"), "{ended:?}");
    assert_eq!(phase(&ended, 3), [format!("group {group}: 2 partitions set")]);
    let _ = ended.ok();
    assert_reads_on(kafka, &group, (&topic, &[(0, 17), (1, 3)].into()), &target);
    assert!(kafka.committed(&other, &target).is_empty(), "it is not named");
    // What is done is done: the group is its own from now on.
    kafka.commit(&group, &target, 0, 40);
    let again = three_phase(kafka, &backup, (&topic, &target), &named, &[]);
    assert!(phase(&again, 2)[0].ends_with("is finished already"), "{again:?}");
    assert!(phase(&again, 3)[0].contains("put it back before"), "{again:?}");
    let _ = again.ok();
    assert_eq!(kafka.committed(&group, &target)[&0], 40);
    // Another group may be put back now.
    let both = format!("  consumer_groups:\n    - {group}\n    - {other}\n");
    let shown = three_phase(kafka, &backup, (&topic, &target), &both, &["--dry-run", "--format", "json"]).ok();
    let shown: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
    assert_eq!(shown["groups"]["plan"]["groups"][0]["group"], other.as_str(), "{shown}");
    let _ = three_phase(kafka, &backup, (&topic, &target), &both, &[]).ok();
    assert_reads_on(kafka, &other, (&topic, &[(0, 30)].into()), &target);
    // What is in the way is said in words that fit this command.
    kafka.delete(&target);
    wait_for("the topic is gone", || (!kafka.topics().contains(&target)).then_some(()));
    let lacking = three_phase(kafka, &backup, (&topic, &target), &format!("{both}    - {late}\n"), &[]);
    lacking.fails_with(3, &["all is restored", "is not on the cluster"]);
    assert!(!lacking.stderr.contains("--topic"), "{lacking:?}");
}

#[test]
fn a_group_that_nobody_knows_is_refused_before_anything_is_changed() {
    let kafka = Kafka::shared();
    let (topic, group) = stood(kafka, "phases-unknown", &[(0, 17)]);
    let backup = backed_up(kafka, &[&topic], &[&group]);
    let target = format!("{topic}-dr");
    let named = format!("  consumer_groups:\n    - {group}\n    - my-group\n");
    let ended = three_phase(kafka, &backup, (&topic, &target), &named, &[]);
    ended.fails_with(1, &["Consumer group 'my-group' not found", &group, "nothing was changed"]);
    assert!(!kafka.topics().contains(&target) && !backup.file("restores").exists(), "{ended:?}");
    let none = Restore::of(kafka, &backup, &[&topic]);
    let file = backup.write_config(&none.config());
    let refused = program_with(&["three-phase-restore", "--config", file.to_str().expect("UTF-8")]);
    refused.fails_with(2, &["puts no consumer groups back", "reset = true"]);
}

#[test]
fn a_group_that_had_read_what_a_cut_leaves_out_is_put_to_the_restored_end_and_that_is_said() {
    let kafka = Kafka::shared();
    let (topic, group) = stood(kafka, "phases-cut", &[(0, 50), (1, 10)]);
    let backup = backed_up(kafka, &[&topic], &[&group]);
    let times = read_committed(kafka, &topic);
    let until =
        times.iter().find(|record| record.partition == 0 && record.offset == 30).expect("it is there").timestamp;
    let restore = |name, more: &str| {
        let restore = Restore::named(kafka, &backup, &[&topic], name).source(&format!("until = \"{until}\""));
        restore.groups(&format!("reset = true\n{more}"))
    };
    // Of that time there is no savepoint.
    let refused = restore("early", "").run();
    refused.fails_with(2, &["there is no savepoint", "the newest is"]);
    let savepoint = savepoints(&backup).pop().expect("there is one").name;
    let cut = restore("cut", &format!("positions = \"savepoint:{savepoint}\""));
    let ended = cut.run();
    assert!(
        ended.stderr.contains(&format!("at the restored end of {}-0: what it had read", cut.target())),
        "{ended:?}"
    );
    let _ = ended.ok();
    let brought = read_committed(kafka, cut.target());
    let end = |partition| brought.iter().filter(|of| of.partition == partition).map(|of| of.offset + 1).max();
    let stands = kafka.committed(&group, cut.target());
    assert_eq!(stands.get(&0).copied(), end(0), "at the end of what was restored");
    let next = brought.iter().find(|of| of.partition == 1 && of.offset >= stands[&1]).expect("there is more");
    let wanted = times.iter().find(|of| of.partition == 1 && of.offset == 10).expect("it is there");
    assert_eq!(next.value, wanted.value);
}

#[test]
fn a_group_loses_nothing_where_records_are_spread_over_other_partitions_by_key() {
    let kafka = Kafka::shared();
    let topic = repartition::written(kafka, "phases-six", 6, 40);
    let group = group_name("phases-six");
    let stood: Committed = (0..6).map(|partition| (partition, 7 * i64::from(partition))).collect();
    stood.iter().for_each(|(partition, offset)| kafka.commit(&group, &topic, *partition, *offset));
    let backup = backed_up(kafka, &[&topic], &[&group]);
    let restore = Restore::of(kafka, &backup, &[&topic]);
    let spread = format!("repartition = [\"{}:3\"]", restore.target());
    let restore = restore.sink(&spread).groups("reset = true");
    let ended = restore.run();
    let read = read_all_committed(kafka, &[&topic, restore.target()]);
    let was_read: BTreeMap<&[u8], bool> = read[&topic]
        .iter()
        .map(|record| (record.value.as_deref().expect("a value"), record.offset < stood[&record.partition]))
        .collect();
    let stands = kafka.committed(&group, restore.target());
    assert_eq!(stands.len(), 3, "each target partition has a position: {stands:?}");
    let mut again = 0;
    for record in &read[restore.target()] {
        let was_read = was_read[record.value.as_deref().expect("a value")];
        let is_ahead = record.offset >= stands[&record.partition];
        assert!(was_read || is_ahead, "a record that it had not read lies behind it: {record:?}");
        again += u64::from(was_read && is_ahead);
    }
    assert!(again > 0 && ended.stderr.contains(&format!("reads {again} records again")), "{again}: {ended:?}");
    let _ = ended.ok();
}

#[test]
fn a_group_has_a_place_in_partitions_to_which_no_key_leads_and_of_which_nothing_came() {
    let kafka = Kafka::shared();
    let topic = kafka.topic("phases-vacant", 6, &[]);
    let mut records = Contents::new().records(5, 12, 50);
    // All lead to one partition, and the last of the source's is empty.
    records.iter_mut().for_each(|record| record.key = Some(b"one".to_vec()));
    let _ = Writer::new(kafka, &[]).write(&topic, &records);
    let group = group_name("phases-vacant");
    let stood: Committed = (0..6).map(|partition| (partition, if partition < 5 { 12 } else { 0 })).collect();
    stood.iter().for_each(|(partition, offset)| kafka.commit(&group, &topic, *partition, *offset));
    let backup = backed_up(kafka, &[&topic], &[&group]);
    let restore = Restore::of(kafka, &backup, &[&topic]);
    let spread = format!("repartition = [\"{}:3\"]", restore.target());
    let restore = restore.sink(&spread).groups("reset = true");
    let _ = restore.run().ok();
    let (stands, ends) = (kafka.committed(&group, restore.target()), kafka.ends(restore.target()));
    assert_eq!(read_committed(kafka, restore.target()).len(), 60);
    // It had read everything: what comes from now on is what it reads, wherever that is.
    assert!(stands.keys().copied().eq(0..3), "each target partition has a position: {stands:?} of {ends:?}");
    let _ = Writer::new(kafka, &[]).write(restore.target(), &Contents::new().records(3, 2, 50));
    let read = read_committed(kafka, restore.target());
    let ahead = read.iter().filter(|record| record.offset >= stands[&record.partition]).count();
    assert_eq!(ahead, 6, "{stands:?} of {ends:?}");
}

#[test]
fn a_restore_that_is_killed_goes_on_with_its_groups_wherever_it_was() {
    need_crash_points();
    let kafka = Kafka::shared();
    let (topic, first) = stood(kafka, "phases-killed", &[(0, 23), (1, 41)]);
    let second = group_name("phases-killed-2");
    commit(kafka, &second, &topic, &[(0, 5)]);
    let backup = backed_up(kafka, &[&topic], &[&first, &second]);
    let points = ["restore-done", "groups-snapshot", "restore-groups", "groups-commit", "groups-commit:2"];
    let points = points.into_iter().chain(["groups-read-back", "restore-groups-done"]);
    for (number, point) in points.enumerate() {
        let restore = Restore::named(kafka, &backup, &[&topic], &format!("killed-{number}")).groups("reset = true");
        let status = restore.start(&[("KAFKA_BACKUP_CRASH_AT", point)]).wait();
        let was_killed = std::os::unix::process::ExitStatusExt::signal(&status) == Some(Signal::SIGKILL as i32);
        assert!(was_killed || point == "groups-read-back", "{point}: {status}");
        // Producers do not wait for groups.
        let _ = Writer::new(kafka, &[]).write(restore.target(), &Contents::new().records(2, 3, 50));
        let ended = restore.run();
        assert_eq!(ended.code, Some(0), "{point}: {ended:?}");
        let held = read_committed(kafka, &topic);
        let brought = read_committed(kafka, restore.target());
        for (group, stood) in [(&first, [(0, 23), (1, 41)].to_vec()), (&second, vec![(0, 5)])] {
            let stood: Committed = stood.into_iter().collect();
            let stands = kafka.committed(group, restore.target());
            assert!(stands.keys().eq(stood.keys()), "{point}: {group}: {stands:?}");
            for (partition, at) in &stands {
                let next = brought.iter().find(|of| of.partition == *partition && of.offset >= *at).expect("more");
                let wanted = held.iter().find(|of| of.partition == *partition && of.offset >= stood[partition]);
                assert_eq!(Some(&next.value), wanted.map(|of| &of.value), "{point}: {group} in {partition}");
            }
        }
        let again = restore.run();
        assert!(
            again.code == Some(0) && phase(&again, 3).iter().all(|line| line.contains("before")),
            "{point}: {again:?}"
        );
    }
    let _ = backup.command("verify", &[]).ok();
}

#[test]
fn a_group_that_is_read_is_left_and_put_back_when_it_is_not() {
    let kafka = Kafka::shared();
    let (topic, group) = stood(kafka, "phases-active", &[(0, 23)]);
    let backup = backed_up(kafka, &[&topic], &[&group]);
    let restore = Restore::of(kafka, &backup, &[&topic]).groups(&format!("reset = true\ngroups = [{group:?}]"));
    let consumer: BaseConsumer = kafka.client(&[("group.id", group.as_str())]).create().expect("a consumer");
    consumer.subscribe(&[&topic]).expect("subscribed");
    wait_for("it is a member", || {
        let _ = consumer.poll(Duration::from_millis(100));
        (consumer.assignment().expect("told").count() > 0).then_some(())
    });
    let ended = restore.run();
    ended.fails_with(3, &["all is restored", "Consumer group has active members", "run the same again"]);
    assert!(phase(&ended, 3)[0].contains("not put back: Consumer group has active members"), "{ended:?}");
    assert!(kafka.committed(&group, restore.target()).is_empty());
    drop(consumer);
    let again = wait_for("the group is empty", || Some(restore.run()).filter(|ended| ended.code == Some(0)));
    assert_eq!(phase(&again, 3), [format!("group {group}: 1 partition set")]);
    assert_reads_on(kafka, &group, (&topic, &[(0, 23)].into()), restore.target());
    // What an undo could not put back, its dry run does not call done.
    let properties = [("group.id", group.as_str()), ("enable.auto.commit", "false")];
    let consumer: BaseConsumer = kafka.client(&properties).create().expect("a consumer");
    consumer.subscribe(&[restore.target()]).expect("subscribed");
    wait_for("it is a member", || {
        let _ = consumer.poll(Duration::from_millis(100));
        (consumer.assignment().expect("told").count() > 0).then_some(())
    });
    restore.undo(&["--dry-run"]).fails_with(1, &[&group, "would not be put back", "active members"]);
}

#[test]
fn what_could_not_be_set_of_a_group_stays_unset_until_it_is_and_what_was_set_is_its_own() {
    let kafka = Kafka::shared();
    let ((topic, group), other) = (stood(kafka, "phases-part", &[(0, 23)]), kafka.topic("phases-part-b", 1, &[]));
    let _ = Writer::new(kafka, &[]).write(&other, &Contents::new().records(1, 9, 50));
    kafka.commit(&group, &other, 0, 4);
    let backup = backed_up(kafka, &[&topic, &other], &[&group]);
    let restore = Restore::of(kafka, &backup, &[&topic, &other]);
    let _ = restore.run().ok();
    let gone = format!("{other}-restored");
    kafka.delete(&gone);
    wait_for("the topic is gone", || (!kafka.topics().contains(&gone)).then_some(()));
    let restore = restore.groups("reset = true");
    for time in 0..2 {
        let ended = restore.run();
        ended.fails_with(3, &["all is restored", &gone, "is not on the cluster"]);
        assert_eq!(kafka.committed(&group, restore.target()).len(), 1, "{ended:?}");
        if time == 0 {
            assert_reads_on(kafka, &group, (&topic, &[(0, 23)].into()), restore.target());
            kafka.commit(&group, restore.target(), 0, 40);
        }
    }
    assert_eq!(kafka.committed(&group, restore.target())[&0], 40, "it has read on by itself");
}

#[test]
fn what_is_taken_back_takes_its_groups_along_and_leaves_those_that_moved_on() {
    let kafka = Kafka::shared();
    let (topic, stays) = stood(kafka, "phases-undo", &[(0, 23), (1, 41)]);
    let [made, moved] = ["phases-undo-made", "phases-undo-moved"].map(group_name);
    for group in [&made, &moved] {
        commit(kafka, group, &topic, &[(0, 5), (1, 6)]);
    }
    let backup = backed_up(kafka, &[&topic], &[&stays, &made, &moved]);
    // It is not on the target then.
    let admin: AdminClient<DefaultClientContext> = kafka.client(&[]).create().expect("an admin client");
    let deleted = block_on(admin.delete_groups(&[&made], &AdminOptions::new())).expect("the broker answers");
    assert!(deleted.iter().all(Result::is_ok), "{deleted:?}");
    let restore = Restore::of(kafka, &backup, &[&topic]).accept(&["target-not-empty"]).groups("reset = true");
    kafka.create(restore.target(), 2, &[]);
    let _ = Writer::new(kafka, &[]).write(restore.target(), &Contents::new().records(2, 10, 50));
    kafka.commit(&stays, restore.target(), 0, 7);
    let _ = restore.run().ok();
    assert_eq!(kafka.committed(&made, restore.target()).len(), 2);
    kafka.commit(&moved, restore.target(), 0, 30);
    let planned = restore.undo(&["--dry-run", "-o", "json"]);
    let fates = |ended: &Ended| -> BTreeMap<String, String> {
        let json: serde_json::Value = serde_json::from_str(&ended.stdout).expect("JSON");
        let groups = json["groups"].as_array().expect("groups").iter();
        let text = |value: &serde_json::Value| value.as_str().expect("text").to_owned();
        groups.map(|group| (text(&group["group"]), text(&group["action"]))).collect()
    };
    let put_back = "put-back".to_owned();
    let wanted = [(stays.clone(), put_back.clone()), (made.clone(), put_back), (moved.clone(), "keep".to_owned())];
    assert_eq!(fates(&planned), wanted.into());
    assert_eq!(kafka.committed(&made, restore.target()).len(), 2, "nothing was changed");
    let rows = restore.undo(&["--dry-run", "-o", "csv"]).ok();
    assert!(rows.contains(&format!("\ngroup,{made},,put back,")), "{rows}");
    let undone = restore.undo(&["-o", "json"]);
    assert_eq!(undone.code, Some(0), "{undone:?}");
    assert!(undone.stderr.contains("undo with: kafka-backup offset-rollback rollback --path "), "{undone:?}");
    assert_eq!(fates(&undone)[&stays], "done");
    assert_eq!(kafka.committed(&stays, restore.target()), [(0, 7)].into(), "and nothing in the other");
    assert_eq!(kafka.committed(&moved, restore.target())[&0], 30);
    assert!(kafka.committed(&made, restore.target()).is_empty());
    let listed = admin.inner().fetch_group_list(Some(&made), Duration::from_secs(10)).expect("the broker answers");
    assert!(listed.groups().iter().all(|group| group.state() == "Dead"), "it is gone");
    restore.run().fails_with(2, &["was undone"]);
    // Again it finds nothing to do.
    let again = restore.undo(&["-o", "json"]);
    assert_eq!((again.code, &*fates(&again)[&stays], &*fates(&again)[&made]), (Some(0), "same", "same"));
}

#[test]
fn an_undo_that_is_killed_among_its_groups_ends_the_same_when_it_is_run_again() {
    need_crash_points();
    let kafka = Kafka::shared();
    let (topic, stays) = stood(kafka, "phases-undone", &[(0, 23), (1, 41)]);
    let made = group_name("phases-undone-made");
    commit(kafka, &made, &topic, &[(0, 5), (1, 6)]);
    let backup = backed_up(kafka, &[&topic], &[&stays, &made]);
    let admin: AdminClient<DefaultClientContext> = kafka.client(&[]).create().expect("an admin client");
    let state = |group: &str| {
        let listed = admin.inner().fetch_group_list(Some(group), Duration::from_secs(10)).expect("the broker answers");
        listed.groups().first().map_or_else(|| "Dead".to_owned(), |group| group.state().to_owned())
    };
    let points = ["groups-snapshot", "groups-commit", "groups-delete", "groups-delete:2", "groups-read-back"];
    for (number, point) in points.into_iter().chain(["groups-made-deleted"]).enumerate() {
        if state(&made) != "Dead" {
            let deleted = block_on(admin.delete_groups(&[&made], &AdminOptions::new())).expect("the broker answers");
            assert!(deleted.iter().all(Result::is_ok), "{deleted:?}");
        }
        let restore = Restore::named(kafka, &backup, &[&topic], &format!("undone-{number}"));
        let restore = restore.accept(&["target-not-empty"]).groups("reset = true");
        kafka.create(restore.target(), 2, &[]);
        let _ = Writer::new(kafka, &[]).write(restore.target(), &Contents::new().records(2, 10, 50));
        kafka.commit(&stays, restore.target(), 0, 7);
        let _ = restore.run().ok();
        assert_eq!(kafka.committed(&made, restore.target()).len(), 2, "{point}");
        let died = restore.undo_in(&[], &[("KAFKA_BACKUP_CRASH_AT", point)]);
        assert_eq!(died.signal, Some(9), "{point}: {died:?}");
        // To go on with it would set them again.
        restore.run().fails_with(2, &["was undone"]);
        let undone = restore.undo(&[]);
        assert_eq!(undone.code, Some(0), "{point}: {undone:?}");
        assert_eq!(kafka.committed(&stays, restore.target()), [(0, 7)].into(), "{point}");
        assert!(kafka.committed(&made, restore.target()).is_empty(), "{point}");
        assert_eq!(state(&made), "Dead", "{point}: {undone:?}");
    }
}

#[test]
fn what_was_restored_can_be_backed_up_and_restored_again_with_its_groups() {
    let kafka = Kafka::shared();
    let (topic, group) = stood(kafka, "phases-back", &[(0, 23), (1, 41)]);
    let first = backed_up(kafka, &[&topic], &[&group]);
    let over = Restore::named(kafka, &first, &[&topic], "over").groups("reset = true");
    let _ = over.run().ok();
    let over = over.target().to_owned();
    let _ = Writer::new(kafka, &[]).write(&over, &Contents::new().records(2, 20, 50));
    let moved: Committed = kafka.committed(&group, &over).into_iter().map(|(of, at)| (of, at + 5)).collect();
    moved.iter().for_each(|(partition, offset)| kafka.commit(&group, &over, *partition, *offset));
    let second = backed_up(kafka, &[&over], &[&group]);
    let back = Restore::named(kafka, &second, &[&over], "back").groups("reset = true");
    let _ = back.run().ok();
    assert_reads_on(kafka, &group, (&over, &moved), back.target());
}
