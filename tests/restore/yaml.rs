//! Restores that are written in YAML.

use std::fs;

use crate::restore::assert_same_cells;
use crate::support::agent::{Backup, program_with};
use crate::support::kafka::Kafka;
use crate::support::reader::{Record, read_committed};
use crate::support::workload::{Contents, Writer};

#[test]
fn each_strategy_does_what_its_page_says_and_groups_are_not_forgotten_in_silence() {
    let kafka = Kafka::shared();
    let (mut contents, topic) = (Contents::new(), kafka.topic("yaml", 2, &[]));
    let _ = Writer::new(kafka, &[]).write(&topic, &contents.records(2, 30, 40));
    let backup = Backup::of(kafka, &[&topic]);
    let _ = backup.backup().ok();
    let restore = |name: &str, strategy: &str| {
        let file = backup.folder().join(format!("{name}.yaml"));
        let text = format!(
            "mode: restore\nbackup_id: test\ntarget:\n  bootstrap_servers:\n    - {}\nstorage:\n  backend: filesystem\n  \
             path: {}\ntopic_mapping:\n  {topic}: {topic}-{name}\nrestore:\n{strategy}",
            kafka.brokers(),
            backup.archive(),
        );
        fs::write(&file, text).expect("the test's folder is writable");
        (program_with(&["restore", "--config", file.to_str().expect("UTF-8")]), format!("{topic}-{name}"))
    };
    let held = read_committed(kafka, &topic);
    let (ended, target) = restore("plain", "  consumer_group_strategy: skip\n");
    let _ = ended.ok();
    assert_same_cells(&target, &read_committed(kafka, &target), &held);

    let (ended, target) = restore("headed", "  consumer_group_strategy: header-based\n");
    let _ = ended.ok();
    let headed = held.iter().map(|record| {
        let texts = [record.offset.to_string(), record.timestamp.to_string(), record.partition.to_string()];
        let names = ["x-kafka-backup-offset", "x-kafka-backup-timestamp", "x-kafka-backup-partition"];
        let added = names.into_iter().zip(texts).map(|(name, text)| (name.to_owned(), Some(text.into_bytes())));
        Record { headers: record.headers.iter().cloned().chain(added).collect(), ..record.clone() }
    });
    let headed: Vec<Record> = headed.collect();
    assert_same_cells(&target, &read_committed(kafka, &target), &headed);

    for (strategy, code, words) in [
        ("  consumer_group_strategy: skip\n  reset_consumer_offsets: true\n", 2, "restore.reset_consumer_offsets"),
        ("  consumer_group_strategy: headers\n", 2, "there is no strategy `headers`"),
    ] {
        let (ended, target) = restore("refused", strategy);
        ended.fails_with(code, &[words]);
        assert!(!kafka.topics().contains(&target), "nothing was made");
    }
}
