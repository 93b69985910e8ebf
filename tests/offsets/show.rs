//! What is shown of groups and mappings, and what the headers of restored records tell.

use std::collections::BTreeMap;

use kafka_backup::archive::source;
use kafka_backup::groups::headers::{Names, Scan, scan};
use kafka_backup::kafka::client::OPEN_WITHIN;
use kafka_backup::kafka::{Client, Properties};
use kafka_backup::restore::map::{OffsetMap, Position};
use kafka_backup::store::Store;

use crate::restore::Restore;
use crate::support::agent::Backup;
use crate::support::block_on;
use crate::support::kafka::Kafka;
use crate::support::reader::read_committed;
use crate::support::workload::{Contents, Writer};

/// Scans a topic of the cluster for records of a backup.
fn scanned(kafka: &Kafka, backup: &Backup, topic: &str) -> Result<Scan, String> {
    block_on(async {
        let servers = BTreeMap::from([("bootstrap.servers".to_owned(), kafka.brokers().to_owned())]);
        let client = Client::open(Properties::new(servers).expect("right"), OPEN_WITHIN).await.expect("it is there");
        let root = Store::open(backup.archive()).expect("a folder");
        let archive = source::open(&root, "test").await.expect("a backup");
        scan(&client, &[topic.to_owned()], &archive, &Names::default()).await.map_err(|error| error.to_string())
    })
}

/// Asserts that a scan leads from every offset to where the map of the restore does.
#[track_caller]
fn assert_same_places(restored: &OffsetMap, scanned: &OffsetMap) {
    for (pair, track) in restored.iter() {
        let found = scanned.get(pair).unwrap_or_else(|| panic!("nothing of {pair} was found"));
        let of_target = restored.iter().filter(|(other, _)| other.target == pair.target);
        let end = of_target.map(|(_, track)| track.target_next()).max().expect("this one");
        for committed in 0..=track.asked().next + 1 {
            match (track.translate(committed), found.translate(committed)) {
                (Position::End { .. }, Position::End { target }) => assert_eq!(target, end, "{pair}"),
                (Position::Beyond { .. }, Position::Beyond { .. }) => {}
                (right, met) => assert_eq!(met, right, "{pair} offset {committed}"),
            }
        }
    }
}

/// Writes transactions, of which some are aborted, to the first two of three partitions.
fn transactions(kafka: &Kafka, topic: &str) {
    let (mut contents, writer) = (Contents::new(), Writer::transactional(kafka, topic));
    for round in 0..6 {
        let records = contents.records(2, 7, 60);
        let _ =
            if round % 3 == 1 { writer.abort_records(topic, &records) } else { writer.commit_records(topic, &records) };
    }
}

#[test]
fn headers_lead_where_the_map_of_the_restore_leads() {
    let kafka = Kafka::shared();
    let topic = kafka.topic("headers", 3, &[]);
    transactions(kafka, &topic);
    let backup = Backup::of(kafka, &[&topic]);
    let _ = backup.backup().ok();
    let restore = Restore::named(kafka, &backup, &[&topic], "headed").stage("plugin = \"header-injector\"");
    let _ = restore.run().ok();
    let target = restore.target();
    let _ = Writer::new(kafka, &[]).write(target, &Contents::new().records(1, 3, 40));

    let scan = scanned(kafka, &backup, target).expect("records tell");
    let (done, map) = restore.done();
    assert_same_places(&map, &scan.map);
    let told = &scan.topics[0];
    assert_eq!((told.placed, told.without, told.among), (done.records, 3, 0), "{told:?}");
    assert_eq!((told.records, told.notes().len()), (done.records + 3, 1), "{told:?}");
    let empty = scan.map.iter().find(|(pair, _)| pair.source.index == 2).expect("of it there was nothing to restore");
    assert_eq!((empty.1.translate(0), empty.1.records()), (Position::End { target: 0 }, 0));
}

#[test]
fn headers_tell_the_sources_of_partitions_that_came_together_and_where_a_cut_was() {
    let kafka = Kafka::shared();
    let topic = kafka.topic("together", 2, &[]);
    let _ = Writer::new(kafka, &[]).write(&topic, &Contents::new().records(2, 50, 40));
    let backup = Backup::of(kafka, &[&topic]);
    let _ = backup.backup().ok();
    let restore = Restore::named(kafka, &backup, &[&topic], "one")
        .stage("plugin = \"header-injector\"")
        .source(&format!("offsets = [\"{topic}-1:0..30\"]"))
        .sink(&format!("repartition = [\"{topic}-one:1\"]"));
    let _ = restore.run().ok();
    let scan = scanned(kafka, &backup, restore.target()).expect("records tell");
    assert_same_places(&restore.done().1, &scan.map);
    assert_eq!((scan.map.iter().count(), scan.topics[0].placed), (2, 80));
}

#[test]
fn groups_are_planned_by_headers_where_what_the_restore_kept_is_gone() {
    let (kafka, second) = (Kafka::shared(), super::second());
    let topic = kafka.topic("lost", 2, &[]);
    let _ = Writer::new(kafka, &[]).write(&topic, &Contents::new().records(2, 20, 40));
    let group = super::group_name("lost");
    kafka.commit(&group, &topic, 1, 12);
    let backup = Backup::of(kafka, &[&topic]).source_list("groups", &[&group]);
    let _ = backup.backup().ok();
    let elsewhere = backup.folder().join("state").display().to_string();
    let restore = Restore::of(second, &backup, &[&topic]).to(&topic, &topic).stage("plugin = \"header-injector\"");
    let _ = restore.sink(&format!("state = {elsewhere:?}")).run().ok();

    let refused = super::run(&["offset-reset", "plan"], &backup, second, &[&group], &[]);
    refused.fails_with(2, &["nothing says where in this cluster", "--scan-headers"]);
    let planned = super::planned(&backup, second, &group, &["--scan-headers"]);
    let target = planned[&(topic.clone(), 1)]["target"]["offset"].as_i64().expect("it has a place");
    let records = read_committed(second, &topic);
    let next = records.iter().find(|record| (record.partition, record.offset) == (1, target)).expect("a record");
    let tells = ("x-kafka-backup-offset".to_owned(), Some(b"12".to_vec()));
    assert!(next.headers.contains(&tells), "{next:?}");
    assert_eq!(planned.len(), 1);
}

#[test]
fn records_without_headers_lead_nowhere_and_that_is_said() {
    let kafka = Kafka::shared();
    let topic = kafka.topic("headless", 1, &[]);
    let _ = Writer::new(kafka, &[]).write(&topic, &Contents::new().records(1, 5, 40));
    let backup = Backup::of(kafka, &[&topic]);
    let _ = backup.backup().ok();
    let error = scanned(kafka, &backup, &topic).expect_err("they have none");
    assert!(error.contains(&format!("no record of topic \"{topic}\" tells where it was")), "{error}");
    assert!(error.contains("--restore-id"), "{error}");
    let error = scanned(kafka, &backup, "nobodys").expect_err("there is none");
    assert!(error.contains("topic \"nobodys\" does not exist"), "{error}");
}

#[test]
fn groups_and_targets_are_shown_beside_what_is_held() {
    let kafka = Kafka::shared();
    let topic = kafka.topic("shown", 2, &[]);
    let _ = Writer::new(kafka, &[]).write(&topic, &Contents::new().records(2, 20, 40));
    let group = format!("{topic}-group");
    kafka.commit(&group, &topic, 1, 12);
    let backup = Backup::of(kafka, &[&topic]);
    let _ = backup.backup().ok();
    let restore = Restore::of(kafka, &backup, &[&topic]);
    let _ = restore.run().ok();
    let groups = backup.command("describe", &["--groups", "-o", "csv"]).ok();
    let row = groups.lines().find(|line| line.starts_with(&format!("{group},classic,Empty,{topic},")));
    assert!(row.is_some_and(|row| row.ends_with(",1,12,0,8,true,")), "{groups}");
    let mapping = |arguments: &[&str]| -> Vec<String> {
        let csv = backup.command("show-offset-mapping", &[arguments, &["-o", "csv"]].concat()).ok();
        csv.lines().map(str::to_owned).collect()
    };
    let (plain, with) = (mapping(&[]), mapping(&["--restore-id", restore.id()]));
    for (line, plain) in with.iter().zip(&plain).skip(1) {
        let behind = line.strip_prefix(&format!("{plain},{},", restore.target())).unwrap_or_else(|| panic!("{line}"));
        let cells: Vec<_> = behind.split(',').skip(1).collect();
        assert_eq!((cells[3], cells[2]), ("20", cells[4]), "{line}");
    }
    assert_eq!((with.len(), plain.len()), (3, 3));
}
