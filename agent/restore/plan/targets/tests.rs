use super::*;

fn topic(times_ms: Option<(i64, i64)>) -> TopicPlan {
    let partition = PartitionPlan { next: 10, times_ms, ..PartitionPlan::of(2, 4, 0) };
    let (source, topic_id, target) = ("orders".into(), "_".into(), "orders".into());
    TopicPlan { source, topic_id, target, create: None, most_bytes: MOST_BYTES, partitions: vec![partition] }
}

fn configs(set: &[(&str, &str)]) -> Vec<TopicConfig> {
    let config =
        |(name, value): &(&str, &str)| TopicConfig { name: (*name).into(), value: Some((*value).into()), set: true };
    set.iter().map(config).collect()
}

fn archived(partitions: i32, replication_factor: i16, set: &[(&str, &str)]) -> Topic {
    let mut configs = configs(set);
    configs.push(TopicConfig { name: "segment.bytes".into(), value: Some("1000".into()), set: false });
    Topic { name: "orders".into(), topic_id: "_".into(), partitions, replication_factor, configs: Some(configs) }
}

fn names(configs: &[(String, String)]) -> Vec<&str> {
    configs.iter().map(|(name, _)| name.as_str()).collect()
}

#[test]
fn a_topic_is_made_as_it_was_but_for_what_would_take_or_change_records_meanwhile() {
    let set = [
        ("cleanup.policy", "compact"),
        ("compression.type", "lz4"),
        ("delete.retention.ms", "5"),
        ("follower.replication.throttled.replicas", "0:1"),
        ("message.timestamp.type", "LogAppendTime"),
        ("min.insync.replicas", "2"),
        ("retention.ms", "1000"),
    ];
    let new = new_topic(&topic(None), Some(&archived(3, 3, &set)), 2);
    assert_eq!((new.partitions, new.replication_factor), (5, 2), "a partition 4 is wanted, and there are two brokers");
    let meanwhile = ["cleanup.policy", "message.timestamp.type", "retention.bytes", "retention.ms"];
    assert!(meanwhile.iter().all(|name| is_meanwhile(name)));
    let kept = ["compression.type", "min.insync.replicas"];
    let mut made = [&kept[..], &meanwhile].concat();
    made.sort_unstable();
    assert_eq!(names(&new.configs), made);
    let late = ["cleanup.policy", "delete.retention.ms", "message.timestamp.type", "retention.ms"];
    assert_eq!(names(&new.afterwards), late);
    // More replicas than it gets would have it take nothing.
    let new = new_topic(&topic(None), Some(&archived(3, 3, &set)), 1);
    assert!(
        names(&new.afterwards).contains(&"min.insync.replicas")
            && !names(&new.configs).contains(&"min.insync.replicas")
    );
    let new = new_topic(&topic(None), None, 3);
    assert_eq!((new.partitions, new.replication_factor, names(&new.configs)), (5, 1, meanwhile.to_vec()));
}

#[test]
fn a_topic_that_is_made_takes_records_that_are_ahead_of_its_clock() {
    let late = Timestamp::now().0 + 2 * AHEAD_MS;
    let new = new_topic(&topic(Some((0, late))), Some(&archived(1, 1, &[(AHEAD, "60000")])), 1);
    assert!(new.configs.contains(&(AHEAD.to_owned(), i64::MAX.to_string())));
    assert_eq!(new.afterwards, [(AHEAD.to_owned(), "60000".to_owned())]);
    assert!(is_meanwhile(AHEAD), "it is taken back");
    let now = Timestamp::now().0;
    assert!(!names(&new_topic(&topic(Some((0, now))), None, 1).configs).contains(&AHEAD), "old brokers do not know it");
}

#[test]
fn records_that_the_target_deletes_soon_are_told() {
    let told = |set: &[(&str, &str)], age_ms: i64| {
        let configs = configs(set);
        let time = Timestamp::now().0 - age_ms;
        keeps(|name| value(&configs, name), &topic(Some((time, time))))
    };
    let text = told(&[("retention.ms", "60000")], 120_000).expect("they are older");
    assert!(text.starts_with("retention.ms is 60000: records older than 20"), "{text}");
    assert_eq!(told(&[("retention.ms", "60000")], 30_000), None);
    assert_eq!(told(&[("retention.ms", "-1")], 120_000), None);
    assert_eq!(told(&[("retention.ms", "60000"), ("cleanup.policy", "compact")], 120_000), None);
    assert!(told(&[("retention.ms", "60000"), ("cleanup.policy", "compact,delete")], 120_000).is_some());
    assert_eq!(keeps(|_| Some("60000"), &topic(None)), None, "nothing has a time");
}

#[test]
fn times_beyond_each_limit_of_the_target_are_told() {
    let told =
        |set: &[(&str, &str)], least: i64, most: i64| refusal(&configs(set), &topic(Some((least, most))), 10_000_000);
    let (before, difference) = ("message.timestamp.before.max.ms", "message.timestamp.difference.max.ms");
    let limits = [(AHEAD, "1000"), (before, "2000")];
    assert_eq!(told(&limits, 9_998_000, 10_001_000), None, "at the limits");
    let text = told(&limits, 9_998_000, 10_001_001).expect("ahead");
    assert!(
        text.starts_with(
            "message.timestamp.after.max.ms is 1000: the topic refuses records of 1970-01-01T02:46:41.001Z"
        )
    );
    assert!(
        told(&limits, 9_997_999, 10_000_000).expect("behind").starts_with("message.timestamp.before.max.ms is 2000")
    );
    for (least, most) in [(9_998_999, 9_999_999), (10_000_000, 10_001_001)] {
        assert!(told(&[(difference, "1000")], least, most).expect("too far").starts_with(difference));
    }
    assert_eq!(told(&[(difference, "1000")], 9_999_000, 10_001_000), None);
    // Whose settings nobody may read has Kafka's defaults.
    assert!(told(&[], 0, 10_000_000 + AHEAD_MS + 1).expect("ahead").starts_with(AHEAD));
    assert_eq!(told(&[], 0, 10_000_000 + AHEAD_MS), None);
}
