//! How the membership stands: what is wrong with it, in words for a person, from librdkafka's errors and statistics.
//!
//! Errors come when something happens, statistics every few seconds: they say that it is well again, and that the
//! coordinator is away, which librdkafka tells as no error. A topic that does not exist and a broker that is away are
//! not told here: the wire client's watch does.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rdkafka::error::RDKafkaErrorCode as Code;
use serde::Deserialize;

/// How long the coordinator may be away before it is told: a coordinator moves within seconds.
const COORDINATOR_PATIENCE: Duration = Duration::from_secs(10);

/// How long the members may take to agree before it is told: twice what closing may take, and a session's time-out.
const REBALANCE_PATIENCE: Duration = Duration::from_secs(30);

/// What a person must know of any trouble with the group.
const CAPTURED_ON: &str = "what is assigned is captured on, the archive itself keeps two writers apart";

/// What we read of librdkafka's statistics
/// (<https://github.com/confluentinc/librdkafka/blob/v2.12.1/STATISTICS.md>).
#[derive(Debug, Default, Deserialize)]
pub(super) struct Statistics {
    #[serde(default)]
    brokers: HashMap<String, Broker>,
    cgrp: Option<Group>,
}

#[derive(Debug, Default, Deserialize)]
struct Broker {
    /// Requests sent, by name.
    #[serde(default)]
    req: HashMap<String, i64>,
}

#[derive(Debug, Default, Deserialize)]
struct Group {
    state: String,
    join_state: String,
    #[serde(default)]
    rebalance_reason: String,
}

impl Statistics {
    /// Returns whether we are a member, and the members have agreed on who has what.
    pub(super) fn is_well(&self) -> bool {
        self.cgrp.as_ref().is_some_and(|group| group.state == "up" && group.join_state == "steady")
    }

    /// Returns how often this consumer has fetched.
    fn fetches(&self) -> i64 {
        self.brokers.values().filter_map(|broker| broker.req.get("Fetch")).sum()
    }
}

/// How the membership stands.
#[derive(Debug)]
pub(super) struct Standing {
    group_id: String,
    /// What librdkafka has complained of last, until it is well again.
    complaint: Option<String>,
    /// What statistics show to be wrong, as long as they do.
    symptom: Option<String>,
    /// When it was well last.
    well: Instant,
    /// When the coordinator was there last.
    coordinated: Instant,
    /// Fetches of this consumer, and of those before it.
    fetches: (i64, i64),
    told: Option<String>,
}

impl Standing {
    pub(super) fn new(group_id: &str, now: Instant) -> Self {
        let labels = || group_id.to_owned();
        // There from the beginning, so that a test or an alert that finds 0 has looked at something.
        metrics::counter!("kafka_backup_group_statistics_total", "group" => labels()).increment(0);
        metrics::gauge!("kafka_backup_group_fetches", "group" => labels()).set(0.0);
        Self {
            group_id: group_id.to_owned(),
            complaint: None,
            symptom: None,
            well: now,
            coordinated: now,
            fetches: (0, 0),
            told: None,
        }
    }

    /// Returns what is wrong (`Some(None)`: nothing any more), if that is news.
    pub(super) fn news(&mut self) -> Option<Option<String>> {
        let now = self.complaint.clone().or_else(|| self.symptom.clone());
        if now == self.told {
            return None;
        }
        self.told.clone_from(&now);
        Some(now)
    }

    /// Takes note of an error of librdkafka's.
    pub(super) fn error(&mut self, code: Code, reason: &str) {
        if let Some(advice) = advice(code) {
            self.complain(reason, advice);
        }
    }

    /// Takes note of an error after which librdkafka does nothing any more.
    pub(super) fn fatal(&mut self, code: Code) {
        // The context has heard the same error, mostly with more words: that stands.
        let advice = advice(code).filter(|advice| !advice.is_empty()).unwrap_or("it is joined anew");
        if self.complaint.is_none() {
            self.complain(&code.to_string(), advice);
        }
        self.renewed();
    }

    /// Takes note that the consumer cannot be used, or not be made.
    pub(super) fn broken(&mut self, reason: &str) {
        // What came before is its cause.
        if self.complaint.is_none() {
            self.complain(reason, "it is joined anew");
        }
        self.renewed();
    }

    /// Takes note of statistics.
    pub(super) fn hear(&mut self, statistics: &Statistics, now: Instant) {
        let fetches = statistics.fetches();
        let has_fetched = fetches > self.fetches.0;
        self.fetches.0 = fetches;
        let labels = || self.group_id.clone();
        metrics::counter!("kafka_backup_group_statistics_total", "group" => labels()).increment(1);
        metrics::gauge!("kafka_backup_group_fetches", "group" => labels())
            .set((self.fetches.0 + self.fetches.1) as f64);
        let Some(group) = &statistics.cgrp else { return };
        if group.state == "up" {
            self.coordinated = now;
        }
        if statistics.is_well() {
            self.well = now;
            self.complaint = None;
        }
        self.symptom = self.symptom(group, now);
        if has_fetched && self.symptom.is_none() {
            let what = "librdkafka fetches records besides taking part in the group, which costs traffic and nothing \
                        else; please report it";
            self.symptom = Some(what.to_owned());
        }
    }

    /// Says what a group's state comes to.
    fn symptom(&self, group: &Group, now: Instant) -> Option<String> {
        let away = now.duration_since(self.coordinated);
        if away >= COORDINATOR_PATIENCE {
            return Some(format!(
                "its coordinator has not been reached for {COORDINATOR_PATIENCE:?} ({}); {CAPTURED_ON}, \
                 but new partitions are given to nobody",
                group.state
            ));
        }
        if now.duration_since(self.well) >= REBALANCE_PATIENCE {
            let reason = Some(group.rebalance_reason.as_str()).filter(|reason| !reason.is_empty());
            let reason = reason.unwrap_or("no reason is told");
            return Some(format!(
                "its members have not agreed on the partitions for {REBALANCE_PATIENCE:?} ({}: {reason}); \
                 {CAPTURED_ON}",
                group.join_state
            ));
        }
        None
    }

    fn complain(&mut self, reason: &str, advice: &str) {
        let advice = if advice.is_empty() { String::new() } else { format!("; {advice}") };
        self.complaint = Some(format!("{reason}; {CAPTURED_ON}{advice}"));
    }

    /// Another consumer takes the place of this one, and counts from 0.
    fn renewed(&mut self) {
        self.fetches = (0, self.fetches.0 + self.fetches.1);
    }
}

/// Returns what to do about an error (empty: nothing but wait); `None` for one that is not told here.
fn advice(code: Code) -> Option<&'static str> {
    Some(match code {
        Code::GroupAuthorizationFailed => "grant READ on the group to the agent's user",
        Code::FencedInstanceId | Code::UnreleasedInstanceId => {
            "another member has the same group.instance.id: give each agent one of its own"
        }
        Code::InconsistentGroupProtocol => {
            "the members of the group share no partition.assignment.strategy or group.protocol: set the same for all, or \
             choose a group_id that nothing else uses"
        }
        Code::InvalidSessionTimeout => {
            "set session.timeout.ms between the brokers' group.min.session.timeout.ms and group.max.session.timeout.ms"
        }
        Code::GroupMaxSizeReached => "the brokers' group.max.size is reached: run fewer agents, or raise it",
        Code::UnsupportedVersion | Code::UnsupportedFeature | Code::UnsupportedAssignor => {
            "the brokers do not know this group.protocol or group.remote.assignor: leave it out"
        }
        Code::PartitionEOF
        | Code::AutoOffsetReset
        | Code::NoOffset
        | Code::UnknownTopic
        | Code::UnknownPartition
        | Code::UnknownTopicOrPartition
        | Code::TopicAuthorizationFailed
        | Code::InvalidTopic
        | Code::LeaderNotAvailable
        | Code::BrokerTransportFailure
        | Code::AllBrokersDown
        | Code::Resolve
        | Code::OperationTimedOut
        | Code::RequestTimedOut
        | Code::CoordinatorNotAvailable
        | Code::CoordinatorLoadInProgress
        | Code::NotCoordinator
        | Code::Fatal => return None,
        _ => "",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statistics(state: &str, join_state: &str, fetches: i64) -> Statistics {
        let text = format!(
            r#"{{"name": "x", "brokers": {{"a": {{"req": {{"Fetch": {fetches}, "Heartbeat": 7}}}}, "b": {{}}}},
                "cgrp": {{"state": "{state}", "join_state": "{join_state}", "rebalance_reason": ""}}}}"#
        );
        serde_json::from_str(&text).expect("statistics")
    }

    #[test]
    fn an_error_stands_until_the_membership_is_well_and_says_what_to_do() {
        let now = Instant::now();
        let mut standing = Standing::new("g", now);
        assert_eq!(standing.news(), None);
        standing.error(Code::GroupAuthorizationFailed, "JoinGroup failed: not authorized");
        let line = standing.news().flatten().expect("told");
        assert!(line.contains("grant READ") && line.contains("captured on"), "{line}");
        standing.hear(&statistics("up", "wait-join", 0), now);
        assert_eq!(standing.news(), None, "no news");
        standing.hear(&statistics("up", "steady", 0), now);
        assert_eq!(standing.news(), Some(None));
    }

    #[test]
    fn what_the_watch_tells_is_not_told_twice() {
        let mut standing = Standing::new("g", Instant::now());
        for code in [Code::UnknownTopicOrPartition, Code::AllBrokersDown, Code::AutoOffsetReset] {
            standing.error(code, "reason");
        }
        assert_eq!(standing.news(), None);
    }

    #[test]
    fn a_coordinator_that_stays_away_is_told_and_passes() {
        let now = Instant::now();
        let mut standing = Standing::new("g", now);
        standing.hear(&statistics("up", "steady", 0), now);
        standing.hear(&statistics("query-coord", "init", 0), now + Duration::from_secs(9));
        assert_eq!(standing.news(), None, "coordinators move");
        standing.hear(&statistics("query-coord", "init", 0), now + Duration::from_secs(11));
        let line = standing.news().flatten().expect("told");
        assert!(line.contains("coordinator"), "{line}");
        standing.hear(&statistics("up", "steady", 0), now + Duration::from_secs(12));
        assert_eq!(standing.news(), Some(None));
    }

    #[test]
    fn a_fetch_of_librdkafkas_own_is_told() {
        let now = Instant::now();
        let mut standing = Standing::new("g", now);
        standing.hear(&statistics("up", "steady", 0), now);
        assert_eq!(standing.news(), None);
        standing.hear(&statistics("up", "steady", 1), now);
        assert!(standing.news().flatten().is_some_and(|line| line.contains("fetches")));
        standing.hear(&statistics("up", "steady", 1), now);
        assert_eq!(standing.news(), Some(None), "it fetches no more");
    }
}
