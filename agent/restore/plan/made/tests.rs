use super::*;
use crate::restore::plan::PartitionPlan;

/// Plans partition 2 of a topic, of these times, to become partition 4.
pub(in crate::restore::plan) fn topic(times_ms: Option<(i64, i64)>) -> TopicPlan {
    let partition = PartitionPlan { next: 10, times_ms, ..PartitionPlan::of(2, 4, 0) };
    let (source, topic_id, target) = ("orders".into(), "_".into(), "orders".into());
    TopicPlan {
        source,
        topic_id,
        target,
        create: None,
        most_bytes: 1_000_000,
        compacts: false,
        repartition: None,
        only_routed: false,
        partitions: vec![partition],
    }
}

/// Returns settings that were made on a topic itself.
pub(in crate::restore::plan) fn configs(set: &[(&str, &str)]) -> Vec<TopicConfig> {
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

fn sorted(names: &[String]) -> Vec<&str> {
    let mut names: Vec<_> = names.iter().map(String::as_str).collect();
    names.sort_unstable();
    names
}

fn of(topic: &TopicPlan, object: Option<&Topic>, brokers: usize) -> NewTopic {
    new_topic(&[(topic, object)], brokers).0
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
    let new = of(&topic(None), Some(&archived(3, 3, &set)), 2);
    assert_eq!((new.partitions, new.replication_factor), (5, 2), "a partition 4 is wanted, and there are two brokers");
    let meanwhile = ["cleanup.policy", "compression.type", "message.timestamp.type", "retention.bytes", "retention.ms"];
    assert_eq!(sorted(&new.meanwhile), meanwhile);
    let kept = ["min.insync.replicas"];
    let mut made = [&kept[..], &meanwhile].concat();
    made.sort_unstable();
    assert_eq!(names(&new.configs), made);
    let late = ["cleanup.policy", "compression.type", "delete.retention.ms", "message.timestamp.type", "retention.ms"];
    assert_eq!(names(&new.afterwards), late);
    // More replicas than it gets would have it take nothing.
    let new = of(&topic(None), Some(&archived(3, 3, &set)), 1);
    assert!(
        names(&new.afterwards).contains(&"min.insync.replicas")
            && !names(&new.configs).contains(&"min.insync.replicas")
    );
    let new = of(&topic(None), None, 3);
    assert_eq!((new.partitions, new.replication_factor, names(&new.configs)), (5, 1, meanwhile.to_vec()));
}

#[test]
fn a_topic_that_is_made_takes_records_that_are_ahead_of_its_clock() {
    let late = Timestamp::now().0 + 2 * AHEAD_MS;
    let new = of(&topic(Some((0, late))), Some(&archived(1, 1, &[(AHEAD, "60000")])), 1);
    assert!(new.configs.contains(&(AHEAD.to_owned(), i64::MAX.to_string())));
    assert_eq!(new.afterwards, [(AHEAD.to_owned(), "60000".to_owned())]);
    assert!(new.meanwhile.contains(&AHEAD.to_owned()), "it is taken back");
    let now = Timestamp::now().0;
    assert!(!names(&of(&topic(Some((0, now))), None, 1).configs).contains(&AHEAD), "old brokers do not know it");
}

#[test]
fn of_two_topics_that_become_one_the_first_says_how_it_is_and_the_other_what_it_lacks() {
    let (first, second) = (archived(2, 1, &[("retention.ms", "5")]), archived(7, 1, &[("max.message.bytes", "9")]));
    let topics = [topic(None), TopicPlan { source: "pay".into(), ..topic(None) }];
    let (new, hazards) = new_topic(&[(&topics[0], Some(&first)), (&topics[1], Some(&second))], 1);
    assert_eq!(new.partitions, 7);
    assert_eq!(new.afterwards, [("retention.ms".to_owned(), "5".to_owned())]);
    assert!(!names(&new.configs).contains(&"max.message.bytes"));
    assert_eq!((hazards.len(), hazards[0].danger), (1, Danger::SettingsLeftOut));
    let detail = &hazards[0].detail;
    assert!(detail.contains("`pay` had max.message.bytes=9, no retention.ms"), "{detail}");
    let spread = topics.each_ref().map(|topic| TopicPlan { repartition: Some(3), ..topic.clone() });
    let (new, _) = new_topic(&[(&spread[0], Some(&first)), (&spread[1], Some(&second))], 1);
    assert_eq!(new.partitions, 3, "as many as are asked for, whatever they had");
    let (_, hazards) = new_topic(&[(&topics[0], Some(&first)), (&topics[1], Some(&first))], 1);
    assert!(hazards.is_empty(), "they are alike");
}
