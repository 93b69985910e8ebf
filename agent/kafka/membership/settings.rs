//! librdkafka's settings for a member that only takes part in a group. Pure, but that files are read which hold secrets.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::Properties;
use crate::error::Result;

/// What the user may set, and what it is otherwise. The session's time-out is how long a killed agent's partitions stand
/// still: 6 s is the least that a broker takes by default (`group.min.session.timeout.ms`), and its heartbeats may miss
/// three in a row.
const SESSION_TIMEOUT_MS: u64 = 6_000;
const HEARTBEAT_INTERVAL_MS: u64 = 1_500;

/// A member that does not poll for so long is put out of the group; half of it is what closing a revoked partition may
/// take. With librdkafka's five minutes, an agent whose store hangs would keep the whole group from going on.
const MAX_POLL_INTERVAL_MS: u64 = 20_000;

/// How often statistics come: they say whether the membership is well, and that librdkafka fetches nothing. They name
/// each partition: of a thousand, a second's worth is a megabyte to write and to read.
const STATISTICS_INTERVAL_MS: u64 = 5_000;

/// Properties of a user that do not concern a member. Those of fetching are the wire client's; librdkafka would refuse
/// some of its values (as a `fetch.max.bytes` below `message.max.bytes`).
const NOT_OURS: [&str; 5] = [
    "auto.commit.enable",
    "fetch.message.max.bytes",
    "max.partition.fetch.bytes",
    "message.max.bytes",
    "receive.message.max.bytes",
];

/// Returns librdkafka's settings for a member of `group_id`, with what files hold now.
///
/// # Errors
/// As [`Properties::for_librdkafka`].
pub(super) fn settings(
    properties: &Properties,
    group_id: &str,
    metadata_interval: Duration,
) -> Result<BTreeMap<String, String>> {
    let mut settings = properties.for_librdkafka()?;
    settings.retain(|name, _| !NOT_OURS.contains(&name.as_str()) && !name.starts_with("fetch."));
    let given = |name: &str| properties.map().get(name).and_then(|value| value.trim().parse::<u64>().ok());
    let session_ms = given("session.timeout.ms").unwrap_or(SESSION_TIMEOUT_MS);
    // librdkafka refuses to be polled less often than the session times out.
    let max_poll_ms = MAX_POLL_INTERVAL_MS.max(session_ms);
    let refresh_ms = u64::try_from(metadata_interval.as_millis()).unwrap_or(u64::MAX).clamp(1, 3_600_000);
    let mut default = |name: &str, value: String| {
        settings.entry(name.to_owned()).or_insert(value);
    };
    default("max.poll.interval.ms", max_poll_ms.to_string());
    default("client.id", properties.client_id.clone());
    // New partitions and topics are found as often as the wire client looks.
    default("topic.metadata.refresh.interval.ms", refresh_ms.to_string());
    if !is_consumer_protocol(properties) {
        // In the newer protocol (KIP-848) these three are the broker's to say, and librdkafka refuses them.
        default("session.timeout.ms", session_ms.to_string());
        default("heartbeat.interval.ms", HEARTBEAT_INTERVAL_MS.min(session_ms / 3).max(1).to_string());
        // Only what moves stands still in a rebalance.
        default("partition.assignment.strategy", "cooperative-sticky".to_owned());
    }
    if given("statistics.interval.ms").is_none_or(|interval_ms| interval_ms == 0) {
        settings.insert("statistics.interval.ms".to_owned(), STATISTICS_INTERVAL_MS.to_string());
    }
    for (name, value) in [
        ("group.id", group_id),
        // Only what is durable in the archive is committed.
        ("enable.auto.commit", "false"),
        ("enable.auto.offset.store", "false"),
        // A partition without a committed offset is left alone: any other value asks its leader for one to begin at.
        ("auto.offset.reset", "error"),
        ("enable.partition.eof", "false"),
        // To subscribe to a topic must not make it.
        ("allow.auto.create.topics", "false"),
    ] {
        settings.insert(name.to_owned(), value.to_owned());
    }
    Ok(settings)
}

/// Returns how long closing a revoked partition may take: half of what a member may go without polling.
pub(super) fn release_within(settings: &BTreeMap<String, String>) -> Duration {
    let max_poll_ms = settings.get("max.poll.interval.ms").and_then(|value| value.trim().parse().ok());
    Duration::from_millis(max_poll_ms.unwrap_or(MAX_POLL_INTERVAL_MS) / 2)
}

fn is_consumer_protocol(properties: &Properties) -> bool {
    properties.map().get("group.protocol").is_some_and(|protocol| protocol.trim().eq_ignore_ascii_case("consumer"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let pairs = [&[("bootstrap.servers", "127.0.0.1:1")], pairs].concat();
        let map = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        settings(&Properties::new(map).expect("good properties"), "g", Duration::from_secs(30)).expect("read")
    }

    #[track_caller]
    fn assert_creates(settings: &BTreeMap<String, String>) {
        let mut config = rdkafka::ClientConfig::new();
        for (name, value) in settings {
            config.set(name, value);
        }
        let made = config.create::<rdkafka::consumer::BaseConsumer>();
        assert!(made.is_ok(), "{:?}", made.err());
    }

    #[test]
    fn a_killed_member_is_found_out_within_seconds_and_nothing_is_fetched_or_committed_by_itself() {
        let settings = of(&[]);
        for (name, value) in [
            ("group.id", "g"),
            ("session.timeout.ms", "6000"),
            ("heartbeat.interval.ms", "1500"),
            ("max.poll.interval.ms", "20000"),
            ("partition.assignment.strategy", "cooperative-sticky"),
            ("enable.auto.commit", "false"),
            ("auto.offset.reset", "error"),
            ("client.id", "kafka-backup"),
            ("topic.metadata.refresh.interval.ms", "30000"),
        ] {
            assert_eq!(settings.get(name).map(String::as_str), Some(value), "{name}");
        }
        assert_eq!(release_within(&settings), Duration::from_secs(10));
        assert_creates(&settings);
    }

    #[test]
    fn what_the_user_sets_is_kept_and_what_belongs_to_it_follows() {
        let settings = of(&[
            ("session.timeout.ms", "45000"),
            ("partition.assignment.strategy", "range"),
            ("fetch.max.bytes", "65536"),
            ("max.partition.fetch.bytes", "65536"),
            ("receive.message.max.bytes", "70000"),
            ("enable.auto.commit", "true"),
            ("group.id", "other"),
            ("statistics.interval.ms", "0"),
        ]);
        assert_eq!(settings["partition.assignment.strategy"], "range");
        assert_eq!(settings["max.poll.interval.ms"], "45000");
        assert_eq!((&*settings["group.id"], &*settings["enable.auto.commit"]), ("g", "false"));
        assert_ne!(settings["statistics.interval.ms"], "0");
        assert_creates(&settings);
    }

    #[test]
    fn the_newer_protocol_gets_none_of_the_settings_that_it_refuses() {
        let settings = of(&[("group.protocol", "consumer")]);
        for name in ["session.timeout.ms", "heartbeat.interval.ms", "partition.assignment.strategy"] {
            assert!(!settings.contains_key(name), "{name}");
        }
        assert_creates(&settings);
    }
}
