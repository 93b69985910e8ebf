//! Plugins on the way of a restore: what they change, what they leave as it was, and where they send records.

use std::collections::BTreeMap;

use kafka_backup::restore::map::{Exact, OffsetMap};
use serde_json::Value;

use super::{assert_leads, assert_same_cells};
use crate::fidelity;
use crate::restore::{Restore, run_all};
use crate::stages::{INJECT, built, injected};
use crate::support::agent::Backup;
use crate::support::chain::headers;
use crate::support::kafka::Kafka;
use crate::support::reader::{Record, read_all_committed, read_committed};
use crate::support::workload::{Contents, Writer};

/// Returns the keys of a stage of the plugin for faults.
fn faults(settings: &str, on_error: &str) -> String {
    format!("plugin = {:?}\nsettings = {{ {settings} }}\non_error = {on_error:?}", built("faults"))
}

/// Makes a topic of so many records in each partition, and one more in the last, with keys `k0` to `k3` and a header `region` that is `eu`, `us` or missing, and a backup.
fn backed_up(kafka: &Kafka, theme: &str, partitions: i32, count: usize) -> (String, Backup) {
    let (topic, mut contents) = (kafka.topic(theme, partitions, &[]), Contents::new());
    let mut records = contents.records(partitions, count, 100);
    records.push(contents.record(partitions - 1, records.len(), 100));
    let began = jiff::Timestamp::now().as_millisecond() - 3_600_000;
    for (number, record) in records.iter_mut().enumerate() {
        record.timestamp = began + number as i64 * 1_000;
        record.key = Some(format!("k{}", number / partitions as usize % 4).into_bytes());
        let region = [Some("eu"), Some("us"), None][number % 3];
        record.headers.extend(region.map(|region| ("region".to_owned(), Some(region.as_bytes().to_vec()))));
    }
    let _ = Writer::new(kafka, &[("batch.num.messages", "10"), ("compression.type", "lz4")]).write(&topic, &records);
    let backup = Backup::of(kafka, &[&topic]).sink("roll_bytes", "4KiB");
    let _ = backup.backup().ok();
    (topic, backup)
}

/// Asserts that a topic holds these records of `source` in order, but for their offsets, and that the map leads there from
/// each; of several copies of one that stand side by side, to the first.
#[track_caller]
fn assert_sent(map: &OffsetMap, source: &str, (target, brought): (&str, &[Record]), wanted: &[Record]) {
    assert_same_cells(target, brought, wanted);
    let of: BTreeMap<_, _> = map
        .iter()
        .filter(|(pair, _)| (&*pair.source.topic, &*pair.target.topic) == (source, target))
        .map(|(pair, track)| ((pair.source.index, pair.target.index), track))
        .collect();
    let mut last = None;
    for (from, to) in wanted.iter().zip(brought) {
        if last.replace((from.partition, from.offset)) != Some((from.partition, from.offset)) {
            let track = of[&(from.partition, to.partition)];
            assert_eq!(track.exact(from.offset), Exact::At(to.offset), "{target}: {}-{}", from.partition, from.offset);
        }
    }
}

/// The records of each data batch of a log, as they are compressed.
fn payloads(log: &[u8]) -> Vec<&[u8]> {
    let batches = headers(log).into_iter().filter(|batch| !batch.control());
    batches.map(|batch| &log[batch.position + 61..batch.position + batch.bytes]).collect()
}

#[test]
fn the_injector_writes_where_each_record_was_and_changes_nothing_else() {
    let kafka = Kafka::shared_with_disk();
    let odd = fidelity::odd_cells(kafka).0;
    let [stamped, disorder] = fidelity::odd_times(kafka);
    let transactions = fidelity::transactions(kafka);
    let names = [&*odd, &stamped, &disorder, &transactions];
    let backup = Backup::of(kafka, &names);
    let _ = backup.backup().ok();
    let restore = Restore::of(kafka, &backup, &names).stage(INJECT);
    let _ = restore.run().ok();
    let read = read_all_committed(kafka, &restore.names());
    let (_, map) = restore.done();
    for (source, target) in &restore.topics {
        let held = injected(read[source].clone());
        assert_same_cells(target, &read[target], &held);
        assert_leads(&map, (source, &held), (target, &read[target]), false);
    }
}

#[test]
fn a_window_of_a_stage_is_one_of_the_restore_and_no_more_is_read_than_there() {
    let kafka = Kafka::shared();
    let (topic, backup) = backed_up(kafka, "stage-window", 1, 300);
    let held = read_committed(kafka, &topic);
    let (from, until) = (held[70].timestamp, held[201].timestamp);
    let settings = format!("plugin = \"pitr-filter\"\nsettings = {{ from = {from}, until = {until} }}");
    let staged = Restore::named(kafka, &backup, &[&topic], "staged").stage(&settings);
    let cut = Restore::named(kafka, &backup, &[&topic], "cut")
        .source(&format!("from = \"{from}\""))
        .source(&format!("until = \"{until}\""));
    let planned = |restore: &Restore<'_>| {
        let printed: Value = serde_json::from_str(&restore.run_with(&["--dry-run", "-o", "json"]).ok()).expect("JSON");
        let of = &printed["plan"]["topics"][0]["partitions"][0];
        [&of["segments"], &of["records"], &of["bytes"], &of["times_ms"]].map(Clone::clone)
    };
    let plans = [planned(&staged), planned(&cut)];
    assert_eq!(plans[0], plans[1]);
    assert!(plans[0][1].as_u64().is_some_and(|records| records < 300), "what ends before it is not read: {plans:?}");
    run_all(&[staged, cut]);
    for name in ["staged", "cut"] {
        let restore = Restore::named(kafka, &backup, &[&topic], name);
        restore.assert_brought(kafka, |record| (70..201).contains(&record.offset));
    }
}

#[test]
fn a_stage_that_changes_nothing_leaves_every_byte_of_records_as_it_was() {
    let kafka = Kafka::shared_with_disk();
    let (topic, backup) = backed_up(kafka, "stage-verbatim", 1, 300);
    let elsewhere = format!("{topic}-elsewhere");
    let plain = Restore::named(kafka, &backup, &[&topic], "plain").sink("merge_below = \"0\"");
    let staged =
        Restore::named(kafka, &backup, &[&topic], "same").stage(&faults("", "fail")).sink("merge_below = \"0\"");
    let moved = format!(
        "plugin = \"restore-fanout\"\nsettings = {{ by = \"topic\", mode = \"move\", to = {{ \"{topic}\" = \"{elsewhere}\" }} }}"
    );
    let moved = Restore::named(kafka, &backup, &[&topic], "moved").stage(&moved).sink("merge_below = \"0\"");
    let targets = [plain.target().to_owned(), staged.target().to_owned(), elsewhere.clone()];
    let (left, merged) = (moved.target().to_owned(), Restore::named(kafka, &backup, &[&topic], "merged"));
    run_all(&[plain, staged, moved, merged.stage(&faults("", "fail"))]);
    let source = kafka.log_bytes(&topic, 0);
    for target in targets {
        let log = kafka.log_bytes(&target, 0);
        assert!(payloads(&log) == payloads(&source) && payloads(&log).len() > 10, "{target}");
    }
    assert_eq!(read_committed(kafka, &left), [], "all of it was moved");
    Restore::named(kafka, &backup, &[&topic], "merged").assert_brought(kafka, |_| true);
}

#[test]
fn records_are_copied_and_moved_to_topics_that_are_planned_made_and_mapped() {
    let kafka = Kafka::shared();
    let (topic, backup) = backed_up(kafka, "stage-fanout", 2, 200);
    let [eu, us, rest, again] = ["eu", "us", "rest", "again"].map(|name| format!("{topic}-{name}"));
    let by_header = format!(
        "plugin = \"restore-fanout\"\nsettings = {{ by = \"header\", header = \"region\", mode = \"move\", \
         otherwise = \"{rest}\", to = {{ eu = \"{eu}\", us = [\"{us}\", \"{eu}\"] }} }}"
    );
    let moving = Restore::named(kafka, &backup, &[&topic], "moving").stage(&by_header).stage(INJECT);
    let table = moving.run_with(&["--dry-run"]).ok();
    for line in [
        format!("Stage 1: restore-fanout, sends records to {eu}, {rest}, {us}"),
        "Stage 2: header-injector".to_owned(),
        format!("Stages send records to {rest}"),
        format!("Topic {eu} is made: 2 partitions, 1-fold"),
    ] {
        assert!(table.lines().any(|shown| shown.starts_with(&line)), "{line}\n{table}");
    }
    let printed: Value = serde_json::from_str(&moving.run_with(&["--dry-run", "-o", "json"]).ok()).expect("JSON");
    assert_eq!(printed["plan"]["stages"][0]["topics"], serde_json::json!([eu, rest, us]));
    assert_eq!(printed["plan"]["routed"][2]["topic"], us.as_str());
    assert!(!kafka.topics().contains(&eu), "nothing is made");
    let _ = moving.run().ok();

    let own = format!("{topic}-copying");
    let by_key =
        format!("plugin = \"restore-fanout\"\nsettings = {{ by = \"key\", to = {{ k1 = [\"{own}\", \"{again}\"] }} }}");
    let copying = Restore::named(kafka, &backup, &[&topic], "copying").stage(&by_key);
    let _ = copying.run().ok();

    let read = read_all_committed(kafka, &[&topic, &eu, &us, &rest, &again, &own, moving.target()]);
    let held = &read[&topic];
    let region = |record: &Record| {
        let region = record.headers.iter().rev().find(|(name, _)| name == "region");
        region.and_then(|(_, value)| value.clone()).map(|value| String::from_utf8(value).expect("text"))
    };
    let (done, map) = moving.done();
    let wanted = |of: &dyn Fn(Option<&str>) -> bool| -> Vec<Record> {
        injected(held.iter().filter(|record| of(region(record).as_deref())).cloned().collect())
    };
    assert_sent(&map, &topic, (&eu, &read[&eu]), &wanted(&|region| region.is_some()));
    assert_sent(&map, &topic, (&us, &read[&us]), &wanted(&|region| region == Some("us")));
    assert_sent(&map, &topic, (&rest, &read[&rest]), &wanted(&|region| region.is_none()));
    assert_eq!(read[moving.target()], [], "nothing is left where it would have gone");
    assert_eq!(done.records as usize, [&eu, &us, &rest].map(|topic| read[topic].len()).iter().sum::<usize>());

    let (done, map) = copying.done();
    let is_one = |record: &&Record| record.key.as_deref() == Some(b"k1");
    let ones: Vec<_> = held.iter().filter(is_one).cloned().collect();
    assert_sent(&map, &topic, (&again, &read[&again]), &ones);
    let twice: Vec<_> = held.iter().flat_map(|record| vec![record.clone(); 1 + usize::from(is_one(&record))]).collect();
    assert_sent(&map, &topic, (&own, &read[&own]), &twice);
    assert_eq!(done.records as usize, held.len() + 2 * ones.len(), "all that landed");
    let once: u64 = done.partitions.iter().map(|of| of.records).sum();
    assert_eq!(once as usize, held.len() + ones.len(), "copies count once in each pair");

    let one = &ones[3];
    let (partition, offset) = (one.partition.to_string(), one.offset.to_string());
    let arguments = ["--restore-id", copying.id(), "--topic", &topic, "--partition", &partition, "--offset", &offset];
    let shown: Value =
        serde_json::from_str(&backup.command("offset-map", &[&arguments[..], &["-o", "json"]].concat()).ok())
            .expect("JSON");
    let shown: Vec<_> =
        shown.as_array().expect("pairs").iter().map(|found| (&found["target_topic"], &found["how"])).collect();
    assert_eq!(shown, [(&again.as_str().into(), &"record".into()), (&own.as_str().into(), &"record".into())]);
}

#[test]
fn what_is_cut_away_comes_to_no_stage_and_what_is_left_is_changed() {
    let kafka = Kafka::shared();
    let (topic, backup) = backed_up(kafka, "stage-cut", 1, 200);
    let held = read_committed(kafka, &topic);
    let (from, until) = (held[33].timestamp, held[150].timestamp);
    let fails = |offset: i64| faults(&format!("fault = \"panic\", offset = {offset}"), "fail");
    let restore = Restore::of(kafka, &backup, &[&topic])
        .stage(&fails(32))
        .stage(&fails(150))
        .stage(&fails(40))
        .stage(INJECT)
        .source(&format!("from = \"{from}\""))
        .source(&format!("until = \"{until}\""))
        .source(&format!("offsets = [\"{topic}-0:41..180\"]"));
    let _ = restore.run().ok();
    let wanted = injected(held[41..150].to_vec());
    let brought = read_committed(kafka, restore.target());
    assert_same_cells(restore.target(), &brought, &wanted);
    assert_leads(&restore.done().1, (&topic, &wanted), (restore.target(), &brought), false);
}

#[test]
fn a_failing_stage_ends_its_partition_or_leaves_the_record_out_and_says_which() {
    let kafka = Kafka::shared();
    let (topic, backup) = backed_up(kafka, "stage-failing", 2, 200);
    let held = read_committed(kafka, &topic);
    // The last record of the longer partition: the other one has no such offset.
    let last = held.iter().max_by_key(|record| record.offset).expect("there are records");
    let (partition, offset) = (last.partition, last.offset);
    assert_eq!(held.iter().filter(|record| record.offset == offset).count(), 1);
    let failing = |policy: &str| faults(&format!("fault = \"fail\", offset = {offset}, routes = false"), policy);
    let named = format!("failed at {topic}-{partition} offset {offset}");
    let fail = Restore::named(kafka, &backup, &[&topic], "fail").stage(&failing("fail"));
    let unfinished = format!("`{}` is not finished", fail.id());
    fail.run().fails_with(1, &[&unfinished, "plugin `faults` (stage 1 of pipeline `fail`", &named]);
    let of_other = |records: Vec<Record>| records.into_iter().filter(|record| record.partition != partition).count();
    assert_eq!(of_other(read_committed(kafka, fail.target())), of_other(held), "the other one is restored");

    let skip = Restore::named(kafka, &backup, &[&topic], "skip").stage(&failing("skip"));
    let ended = skip.run();
    for words in [named.as_str(), "left out of the restore", "1 record left out because stages failed at them"] {
        assert!(ended.stderr.contains(words), "{words} in {}", ended.stderr);
    }
    let _ = ended.ok();
    skip.assert_brought(kafka, |record| record.offset != offset);
    assert_eq!(skip.done().0.left_out, 1);
}

#[test]
fn a_stage_that_does_not_name_its_topics_is_refused_before_anything_is_made() {
    let kafka = Kafka::shared();
    let (topic, backup) = backed_up(kafka, "stage-unnamed", 1, 20);
    let restore = Restore::of(kafka, &backup, &[&topic]).stage(&faults("targets = false", "fail"));
    let words = ["plugin `faults` does not say which topics it sends records to", "transactions", "restored"];
    for arguments in [&["--dry-run"][..], &[]] {
        restore.run_with(arguments).fails_with(2, &words);
    }
    assert!(!kafka.topics().contains(restore.target()) && restore.state_names().is_empty());
}

#[test]
fn a_stage_may_send_several_partitions_into_one_and_topics_that_are_there_are_looked_at() {
    let kafka = Kafka::shared();
    let (topic, backup) = backed_up(kafka, "stage-one", 3, 150);
    let restore = || Restore::named(kafka, &backup, &[&topic], "one").stage(&faults("partition = 1", "fail"));
    kafka.create(restore().target(), 3, &[]);
    let one = restore();
    let table = one.run_with(&["--dry-run"]).ok();
    assert!(table.contains("records of several partitions come together, in no order among them"), "{table}");
    let _ = one.run().ok();
    let (held, brought) = (read_committed(kafka, &topic), read_committed(kafka, one.target()));
    assert!(brought.iter().all(|record| record.partition == 1) && brought.len() == held.len());
    let (_, map) = one.done();
    let by_offset: BTreeMap<i64, &Record> = brought.iter().map(|record| (record.offset, record)).collect();
    for record in &held {
        let found = map.iter().filter(|(pair, _)| pair.source.index == record.partition).find_map(|(_, track)| {
            match track.exact(record.offset) {
                Exact::At(target) => Some(target),
                _ => None,
            }
        });
        let to = by_offset[&found.expect("it is mapped")];
        assert_eq!((&to.value, to.timestamp), (&record.value, record.timestamp));
    }
    // A topic that stages send to is looked at as each other target.
    let copied = format!(
        "plugin = \"restore-fanout\"\nsettings = {{ by = \"topic\", to = {{ \"{topic}\" = \"{}\" }} }}",
        one.target()
    );
    let again = Restore::named(kafka, &backup, &[&topic], "again").stage(&copied);
    again.run().fails_with(2, &["target-not-empty", &format!("{}-1", one.target())]);
    let missing = Restore::named(kafka, &backup, &[&topic], "missing").stage(&faults("partition = 7", "fail"));
    missing.run().fails_with(1, &["`", "-7`, a partition that the target does not have"]);
}
