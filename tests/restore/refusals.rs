//! What is refused before anything is sent, and what ends a restore that runs.

use kafka_backup::restore::state::{Cancelled, Process};

use crate::restore::Restore;
use crate::savepoints::savepoints;
use crate::support::agent::{Backup, program_with};
use crate::support::kafka::Kafka;
use crate::support::reader::read_committed;
use crate::support::workload::{Contents, Writer};
use crate::support::{block_on, wait_for};

/// Makes a topic of 200 records of 1 KB of noise in batches of ten, and a backup of it.
fn backed_up(kafka: &Kafka, theme: &str) -> (String, Backup) {
    let (topic, mut contents) = (kafka.topic(theme, 1, &[]), Contents::new());
    let mut records = contents.records(1, 200, 10);
    records.iter_mut().for_each(|record| record.value = Some(contents.noise(1_000)));
    let _ = Writer::new(kafka, &[("batch.num.messages", "10")]).write(&topic, &records);
    let backup = Backup::of(kafka, &[&topic]);
    let _ = backup.backup().ok();
    (topic, backup)
}

#[test]
fn what_the_backup_does_not_hold_is_named() {
    let kafka = Kafka::shared();
    let (topic, backup) = backed_up(kafka, "refused");
    let restore = || Restore::of(kafka, &backup, &[&topic]);
    Restore::of(kafka, &backup, &["nobody"]).run().fails_with(2, &["no topic `nobody`", &topic]);
    restore().backup_id("nobody").run().fails_with(10, &["nobody", "test"]);
    let newest = savepoints(&backup).pop().expect("a pass makes one").name;
    for savepoint in ["20200101T000000.000Z", "2020-01-01T00:00:00Z", "yesterday"] {
        let ended = restore().source(&format!("savepoint = {savepoint:?}")).run();
        ended.fails_with(2, &[&format!("no savepoint `{savepoint}`"), &newest]);
    }
    let older = format!("{topic}@AAAAAAAAAAAAAAAAAAAAAQ");
    let before = Restore::of(kafka, &backup, &[&older]).to(&older, "older");
    before.run().fails_with(2, &[&format!("no topic `{older}`")]);
    restore()
        .source(&format!("partitions = [\"{topic}-7\"]"))
        .run()
        .fails_with(2, &["source.partitions", &format!("`{topic}-7`")]);
    restore()
        .source(&format!("forks = [\"{topic}-0@7-3\"]"))
        .run()
        .fails_with(2, &["source.forks", "`0@7-3`", "describe"]);
    // A rename of what is not restored is a slip of the pen: the topic meant would keep its name.
    let wrong = restore().config().replace(&format!("{{ {topic:?} = "), &format!("{{ \"{topic}-x\" = "));
    let file = backup.write_config(&wrong);
    let ended = program_with(&["restore", "--config", file.to_str().expect("UTF-8")]);
    ended.fails_with(2, &["sink.topics", &format!("`{topic}-x`")]);
    assert!(!kafka.topics().contains(restore().target()));
}

#[test]
fn two_sources_of_one_target_partition_are_refused() {
    let kafka = Kafka::shared();
    let topics = [kafka.topic("refused-a", 2, &[]), kafka.topic("refused-b", 2, &[])];
    let topics = topics.each_ref().map(String::as_str);
    topics.iter().for_each(|topic| drop(Writer::new(kafka, &[]).write(topic, &Contents::new().records(2, 5, 100))));
    let backup = Backup::of(kafka, &topics);
    let _ = backup.backup().ok();
    let [a, b] = topics;
    let target = format!("{a}-both");
    let restore = || Restore::named(kafka, &backup, &topics, "both").to(b, &target);
    let words = [&*format!("`{a}-0`"), &format!("`{b}-0`"), &format!("`{target}-0`"), "sink.partitions"];
    restore().run().fails_with(2, &words);
    let folded = restore().sink(&format!("partitions = [\"{b}-0:2\", \"{b}-1:1\"]"));
    folded.run().fails_with(2, &[&format!("`{a}-1`"), &format!("`{b}-1`")]);
    assert!(!kafka.topics().contains(&target));
    let beside = restore().sink(&format!("partitions = [\"{b}-0:2\", \"{b}-1:3\"]"));
    let _ = beside.run().ok();
    let mut wanted = read_committed(kafka, a);
    wanted.extend(read_committed(kafka, b).into_iter().map(|mut record| {
        record.partition += 2;
        record
    }));
    super::assert_same_cells(&target, &read_committed(kafka, &target), &wanted);
}

#[test]
fn a_finished_restore_stays_finished_and_one_that_was_stopped_goes_on() {
    let kafka = Kafka::shared();
    let (topic, backup) = backed_up(kafka, "refused-twice");
    let restore = Restore::named(kafka, &backup, &[&topic], "once");
    let _ = restore.run().ok();
    let (done, ends) = (restore.done().0, kafka.ends(restore.target()));
    let again = restore.run();
    let told = format!("restore `{}` is finished already", restore.id());
    assert!(again.stderr.contains(&told), "{}", again.stderr);
    let _ = again.ok();
    assert_eq!((restore.done().0, kafka.ends(restore.target())), (done, ends));
    let other = Restore::named(kafka, &backup, &[&topic], "once").to(&topic, "elsewhere");
    other.run().fails_with(2, &[restore.id(), "was planned before, and otherwise"]);

    let stopped = Restore::named(kafka, &backup, &[&topic], "stopped");
    let slow = Restore::named(kafka, &backup, &[&topic], "stopped").pipeline("max_bytes_per_second = \"50KiB\"");
    let mut running = slow.start(&[]);
    let sent = wait_for("some records have landed", || {
        let is_there = kafka.topics().contains(slow.target());
        is_there.then(|| kafka.ends(slow.target())[0]).filter(|end| *end > 20)
    });
    assert!(sent < 200);
    running.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(running.wait().code(), Some(130), "{}", running.log());
    let (log, told) = (running.log(), ["interrupted: the restore is not finished", "start it again to go on"]);
    assert!(told.iter().all(|told| log.contains(told)), "{log}");
    assert!(stopped.state_names().contains(&"journal-0".to_owned()), "it has kept how far it has come");
    let ended = stopped.run();
    assert!(ended.stderr.contains("goes on"), "{}", ended.stderr);
    let _ = ended.ok();
    stopped.assert_brought(kafka, |_| true);
}

#[test]
fn somebody_else_who_writes_to_the_target_ends_the_restore() {
    let kafka = Kafka::shared();
    let (topic, backup) = backed_up(kafka, "refused-foreign");
    let restore = Restore::of(kafka, &backup, &[&topic]).pipeline("max_bytes_per_second = \"50KiB\"");
    let mut running = restore.start(&[]);
    wait_for("some records have landed", || {
        let is_there = kafka.topics().contains(restore.target());
        is_there.then(|| kafka.ends(restore.target())[0]).filter(|end| *end > 20)
    });
    let foreign = Contents::new().record(0, 0, 100);
    let (_, offset) = Writer::new(kafka, &[]).write(restore.target(), &[foreign])[0];
    assert_eq!(running.wait().code(), Some(1), "{}", running.log());
    let (log, target) = (running.log(), restore.target());
    let line = log.trim_end().lines().last().unwrap_or_default();
    let words = ["somebody else writes", &*format!("{target}-0"), &format!("offset {offset}")];
    assert!(words.iter().all(|word| line.contains(word)), "{words:?} in {line}");
}

#[test]
fn what_a_restore_cannot_have_and_what_does_not_run_it_are_told() {
    let kafka = Kafka::shared();
    let (topic, backup) = backed_up(kafka, "refused-verbs");
    let restore = Restore::of(kafka, &backup, &[&topic]);
    let letters = "plugin = \"header-injector\"\non_error = \"dead-letter\"";
    let staged = Restore::of(kafka, &backup, &[&topic]).stage(letters).config();
    let verb = |verb: &str, config: &str| {
        let file = backup.write_config(config);
        program_with(&[verb, "--config", file.to_str().expect("UTF-8")])
    };
    verb("restore", &staged).fails_with(2, &["stage[0].on_error", "the archive keeps the record", "`skip`"]);
    verb("restore", &backup.config()).fails_with(2, &["no pipeline restores"]);
    let both = format!("{}\n{}", backup.config(), restore.config());
    for (name, config) in [("run", restore.config()), ("run", both), ("backup", restore.config())] {
        verb(name, &config).fails_with(2, &["`restored`", "kafka-backup restore --config"]);
    }
    assert!(!kafka.topics().contains(restore.target()));
}

#[test]
fn a_plan_that_was_kept_binds_the_next_starts_also_when_one_has_begun() {
    let kafka = Kafka::shared();
    let (topic, backup) = backed_up(kafka, "refused-half");
    let restore = Restore::of(kafka, &backup, &[&topic]);
    assert_killed(&restore, "restore-plan");
    assert_eq!(restore.state_names(), ["plan"]);
    let other = Restore::of(kafka, &backup, &[&topic]).source("until = \"2020-01-01T00:00:00Z\"");
    other.run().fails_with(2, &["was planned before, and otherwise", restore.id()]);
    assert_killed(&restore, "restore-attempt");
    other.run().fails_with(2, &["was planned before, and otherwise", restore.id()]);
    // Its target has a marker by now, and no record.
    assert!(kafka.ends(restore.target())[0] > 0);
    let instead = Restore::named(kafka, &backup, &[&topic], "instead").to(&topic, restore.target());
    let _ = instead.run().ok();
    instead.assert_brought(kafka, |_| true);
    // The one that has begun knows its target no more.
    restore.run().fails_with(1, &["somebody else has written to", restore.target()]);
}

/// Kills a restore at a crash point.
#[track_caller]
fn assert_killed(restore: &Restore<'_>, point: &str) {
    let mut running = restore.start(&[("KAFKA_BACKUP_CRASH_AT", point)]);
    assert!(!running.wait().success(), "{}", running.log());
}

#[test]
fn a_second_start_runs_the_stored_plan_and_takes_the_topics_that_the_first_one_made() {
    let kafka = Kafka::shared();
    let (topic, backup) = backed_up(kafka, "refused-again");
    let restore = Restore::of(kafka, &backup, &[&topic]);
    assert_killed(&restore, "restore-topics");
    assert!(kafka.topics().contains(restore.target()));
    assert_eq!(restore.state_names(), ["plan"]);
    let planned = restore.run_with(&["--dry-run", "-o", "json"]).ok();
    assert!(planned.contains("\"meanwhile\""), "the topics are its own: {planned}");
    let _ = restore.run().ok();
    restore.assert_brought(kafka, |_| true);
    super::assert_made_alike(kafka, &topic, restore.target());

    // With the map kept, only the settings and the last word are missing.
    let last = Restore::named(kafka, &backup, &[&topic], "last");
    assert_killed(&last, "restore-map");
    let ends = kafka.ends(last.target());
    // There is nothing to cancel any more, and a wish that came at the same moment keeps nobody from its last word.
    let of = ["--path", backup.archive(), "--backup-id", "test", "--restore-id", last.id()];
    program_with(&[&["restores", "cancel"], &of[..]].concat()).fails_with(2, &["has landed", "`restores undo`"]);
    let wish = Cancelled::now(last.id(), Process::this());
    let _ = block_on(last.state().cancel(&wish)).expect("kept");
    assert!(
        program_with(&[&["restores", "show"], &of[..]].concat()).ok().contains("\nLanded: all of it; started again")
    );
    let _ = last.run().ok();
    assert_eq!(kafka.ends(last.target()), ends, "nothing is sent again");
    last.assert_brought(kafka, |_| true);
    super::assert_made_alike(kafka, &topic, last.target());
}

#[test]
fn records_that_came_to_a_target_after_the_plan_are_told() {
    let kafka = Kafka::shared();
    let (topic, backup) = backed_up(kafka, "refused-late");
    let restore = Restore::of(kafka, &backup, &[&topic]);
    assert_killed(&restore, "restore-topics");
    let _ = Writer::new(kafka, &[]).write(restore.target(), &[Contents::new().record(0, 0, 100)]);
    restore.run().fails_with(1, &["target-not-empty", restore.target(), "after the plan was made"]);
}

#[test]
fn a_process_whose_place_another_one_takes_ends_with_its_own_code() {
    let kafka = Kafka::shared();
    let (topic, backup) = backed_up(kafka, "refused-fenced");
    let restore = Restore::of(kafka, &backup, &[&topic]).pipeline("max_bytes_per_second = \"50KiB\"");
    let mut running = restore.start(&[]);
    wait_for("some records have landed", || {
        let is_there = kafka.topics().contains(restore.target());
        is_there.then(|| kafka.ends(restore.target())[0]).filter(|end| *end > 20)
    });
    let other = restore.start(&[]);
    assert_eq!(running.wait().code(), Some(11), "{}", running.log());
    let told = running.log().lines().filter(|line| line.contains("another process has taken over")).count();
    assert_eq!(told, 1, "{}", running.log());
    other.kill();
}
