use super::*;
use crate::restore::plan::made::tests::{configs, topic};

#[test]
fn records_that_the_target_deletes_soon_are_told() {
    let told = |set: &[(&str, &str)], age_ms: i64| {
        let configs = configs(set);
        let time = Timestamp::now().0 - age_ms;
        keeps(&configs, &topic(Some((time, time))), Timestamp::now().0)
    };
    let text = told(&[("retention.ms", "60000")], 120_000).expect("they are older");
    assert!(text.starts_with("retention.ms is 60000, and records are as old as 20"), "{text}");
    assert_eq!(told(&[("retention.ms", "60000")], 30_000), None);
    assert_eq!(told(&[("retention.ms", "-1")], 120_000), None);
    assert_eq!(told(&[("retention.ms", "60000"), ("cleanup.policy", "compact")], 120_000), None);
    assert!(told(&[("retention.ms", "60000"), ("cleanup.policy", "compact,delete")], 120_000).is_some());
    assert_eq!(keeps(&configs(&[("retention.ms", "60000")]), &topic(None), 0), None, "nothing has a time");
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

#[test]
fn a_plan_says_the_same_of_the_same_records_at_any_moment() {
    let (configs, topic) = (configs(&[("retention.ms", "1000")]), topic(Some((5, 9))));
    let said = keeps(&configs, &topic, 1_000_000);
    assert!(said.is_some() && said == keeps(&configs, &topic, 2_000_000), "{said:?}");
}

#[test]
fn more_than_a_target_keeps_of_a_partition_is_told() {
    let mut topic = topic(None);
    topic.partitions[0].bytes = 1_000;
    let told = |set: &[(&str, &str)]| keeps_bytes(&configs(set), &topic);
    assert!(told(&[("retention.bytes", "999")]).expect("it is less").contains("partition 4 gets 1000"));
    assert_eq!(told(&[("retention.bytes", "1000")]), None);
    assert_eq!(told(&[("retention.bytes", "-1")]), None);
    assert_eq!(told(&[("retention.bytes", "1"), ("cleanup.policy", "compact")]), None);
}

#[test]
fn settings_that_nobody_may_read_are_an_error_and_not_no_danger() {
    let refused = Error::failed("the settings of topic \"t\" cannot be read: TopicAuthorizationFailed");
    let text = told_of("t", Some(Err(refused))).expect_err("nobody knows").to_string();
    assert!(text.contains("TopicAuthorizationFailed") && text.contains("DESCRIBE_CONFIGS"), "{text}");
    assert!(told_of("t", None).is_err());
    assert!(told_of("t", Some(Ok(Vec::new()))).is_ok(), "a broker without the call has none");
}
