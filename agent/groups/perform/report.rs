//! What came of performing a plan. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::ReadBack;
use super::looking::{Found, Job, Rest};
use crate::error::{Error, Kind, Result};
use crate::groups::ACTIVE;
use crate::groups::positions::Committed;
use crate::kafka::client::groups::{Change, Member, Requests};

/// Codes with which a coordinator says that somebody reads: UNKNOWN_MEMBER_ID, NON_EMPTY_GROUP, GROUP_SUBSCRIBED_TO_TOPIC.
const SOMEBODY_READS: [i16; 3] = [25, 68, 86];

/// Why nothing was done to a group that could have been set.
const NOT_BEGUN: &str = "nothing was changed, because another group cannot be";

/// How many reasons an error names; the report has them all.
const NAMED: usize = 3;

/// What came of it. Its JSON is stable.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// The snapshot of what was before; `None` where nothing was to change, or nothing was kept.
    pub snapshot: Option<String>,
    /// The groups, in the plan's order.
    pub groups: Vec<GroupReport>,
    /// Partitions that were changed and read back as they are to be.
    pub set: u64,
    /// Partitions that were so already.
    pub same: u64,
    /// Partitions that are not as they are to be, by reason.
    pub failed: BTreeMap<String, u64>,
    /// How it went.
    pub metrics: Metrics,
    /// How the cluster was reached, for the next command.
    #[serde(skip)]
    pub servers: String,
}

/// What came of one group.
#[derive(Debug, Clone, Default, Serialize)]
pub struct GroupReport {
    /// The group.
    pub group: String,
    /// Partitions that were changed and read back as they are to be.
    pub set: u64,
    /// Partitions that were so already.
    pub same: u64,
    /// Why nothing of it was touched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// Who reads, where that is why.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "members")]
    pub members: Vec<Member>,
    /// Why further partitions of it may not be as they are to be: not all of its positions could be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lacks: Option<String>,
    /// Partitions that are not as they are to be.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<Failed>,
}

/// A partition that is not as it is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failed {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// Why.
    pub why: String,
}

/// How the requests that changed something went.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Metrics {
    /// How many there were.
    pub requests: u64,
    /// How often something was asked again.
    pub retries: u64,
    /// How often, by reason.
    pub retried: BTreeMap<String, u64>,
    /// Half of them were answered within so many milliseconds.
    pub p50_ms: f64,
    /// Of a hundred ninety-nine were.
    pub p99_ms: f64,
    /// How many partitions a second were set, reading back apart.
    pub partitions_per_second: f64,
    /// How long the look took, in milliseconds.
    pub look_ms: f64,
    /// How long it took to keep what was, in milliseconds.
    pub keep_ms: f64,
    /// How long setting took, in milliseconds.
    pub set_ms: f64,
    /// How long reading back took, in milliseconds.
    pub read_back_ms: f64,
    /// How long all of it took, with the look, the snapshot and the reading back, in milliseconds.
    pub took_ms: f64,
}

impl Report {
    /// Begins that of groups as they were found.
    pub(super) fn new(found: &[Found], servers: String) -> Self {
        let mut report = Self { servers, ..Self::default() };
        for found in found {
            report.same += found.same;
            let mut group = GroupReport { group: found.group.clone(), same: found.same, ..GroupReport::default() };
            if let Rest::Refused { why, partitions, members } = &found.rest {
                *report.failed.entry(why.clone()).or_default() += partitions;
                group.refused = Some(why.clone());
                group.members.clone_from(members);
            }
            for (topic, partition, why) in &found.skipped {
                *report.failed.entry(why.clone()).or_default() += 1;
                group.failed.push(Failed { topic: topic.clone(), partition: *partition, why: why.clone() });
            }
            // How many partitions that are nobody knows.
            if let Some(why) = &found.lacks {
                *report.failed.entry(why.clone()).or_default() += 1;
                group.lacks = Some(why.clone());
            }
            report.groups.push(group);
        }
        report
    }

    /// Nothing was changed: there was nothing to do, or, `for_others`, because one of the groups is refused.
    pub(super) fn left_alone(&mut self, for_others: bool) {
        if !for_others {
            return;
        }
        // What is so already is no success of a run that was refused.
        self.same = 0;
        for group in self.groups.iter_mut().filter(|group| group.refused.is_none()) {
            group.refused = Some(NOT_BEGUN.to_owned());
        }
    }

    /// Takes what became of a job: `answers` in the order of its partitions, and what the group has after all.
    pub(super) fn compare(&mut self, job: &Job, answers: &[Change], read: ReadBack) {
        let Some(group) = self.groups.iter_mut().find(|group| group.group == job.group) else { return };
        for (at, ((_, topic, partition), target)) in job.names().zip(job.targets()).enumerate() {
            let has = read.as_ref().map(|read| read.get(&(topic.clone(), partition)));
            let why = match (has, answers.get(at)) {
                (Ok(has), _) if has == target.as_ref() => {
                    group.set += 1;
                    self.set += 1;
                    continue;
                }
                (_, Some(Change::Refused { code, .. })) if SOMEBODY_READS.contains(code) => ACTIVE.to_owned(),
                (_, Some(Change::Refused { why, .. })) => why.clone(),
                (Err(why), _) => format!("it could not be read back: {why}"),
                (Ok(has), _) => otherwise(has, target.as_ref()),
            };
            *self.failed.entry(why.clone()).or_default() += 1;
            group.failed.push(Failed { topic, partition, why });
        }
    }

    /// Returns how many partitions are not as they are to be.
    pub fn failures(&self) -> u64 {
        self.failed.values().sum()
    }

    /// Says whether it came as it was wanted.
    ///
    /// # Errors
    /// [`Kind::Partial`] where some of it did, [`Kind::Failed`] where nothing did; with the reasons, in the words of the
    /// user's page where it has some, and the next command.
    pub fn verdict(&self) -> Result<()> {
        let (failed, done) = (self.failures(), self.set + self.same);
        if failed == 0 {
            return Ok(());
        }
        let mut reasons: Vec<(&String, &u64)> = self.failed.iter().collect();
        reasons.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let what = match &reasons[..] {
            [(why, _)] if done == 0 => (*why).clone(),
            _ => {
                let named = reasons.iter().take(NAMED).map(|(why, count)| format!("{why} ({count})"));
                let more = if reasons.len() > NAMED { ", and others" } else { "" };
                let all = done + failed;
                format!("{failed} of {all} partitions are not set: {}{more}", named.collect::<Vec<_>>().join(", "))
            }
        };
        let kind = if done == 0 { Kind::Failed } else { Kind::Partial };
        Err(Error::new(kind, what).hint(self.next()))
    }

    /// Says what to do next.
    fn next(&self) -> String {
        let active = self.groups.iter().find(|group| {
            group.refused.as_deref() == Some(ACTIVE) || group.failed.iter().any(|failed| failed.why == ACTIVE)
        });
        match active {
            Some(group) => format!(
                "stop its consumers, or add --wait-until-empty 60s; to see them: kafka-consumer-groups --bootstrap-server {} \
                 --group {} --describe --members",
                self.servers,
                crate::groups::snapshot::quoted(&group.group)
            ),
            None if self.failed.keys().any(|why| why.starts_with("the cluster is no longer")) => {
                "plan again".to_owned()
            }
            None if self.set > 0 => "run it again: what is set stays so".to_owned(),
            None => "nothing was changed".to_owned(),
        }
    }
}

impl Metrics {
    /// Counts `partitions` that were set by `requests`, with how long each step took: the look, keeping, setting, reading back.
    pub(super) fn of(requests: &Requests, partitions: u64, [look, keep, set, read_back]: [Duration; 4]) -> Self {
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        Self {
            requests: requests.count(),
            retries: requests.retries(),
            retried: requests.reasons(),
            p50_ms: ms(requests.percentile(0.5)),
            p99_ms: ms(requests.percentile(0.99)),
            partitions_per_second: partitions as f64 / set.as_secs_f64().max(0.000_001),
            look_ms: ms(look),
            keep_ms: ms(keep),
            set_ms: ms(set),
            read_back_ms: ms(read_back),
            took_ms: ms(look + keep + set + read_back),
        }
    }
}

/// Says how a partition was read back that nobody refused to change.
fn otherwise(has: Option<&Committed>, target: Option<&Committed>) -> String {
    let said = |what: Option<&Committed>| what.map_or_else(|| "nothing".to_owned(), |told| told.offset.to_string());
    match (has, target) {
        (Some(has), Some(target)) if has.offset == target.offset => "it was read back with other metadata".to_owned(),
        _ => format!("it was read back as {} instead of {}", said(has), said(target)),
    }
}

fn members<S: serde::Serializer>(members: &[Member], serializer: S) -> std::result::Result<S::Ok, S::Error> {
    let member = |member: &Member| {
        serde_json::json!({
            "member_id": member.member_id, "client_id": member.client_id, "host": member.host,
            "instance_id": member.instance_id,
        })
    };
    serializer.collect_seq(members.iter().map(member))
}

#[cfg(test)]
mod tests {
    use super::super::looking::found;
    use super::super::looking::tests::{plan, row};
    use super::*;
    use crate::groups::plan::Action;
    use crate::groups::present::tests::{group, present};

    fn jobs(rows: Vec<crate::groups::plan::Row>, offsets: &[(i32, i64)]) -> (Report, Job) {
        let found = found(&plan(rows), &present(4, &[("g", group("Empty", 0, offsets))]));
        let report = Report::new(&found, "k:9092".to_owned());
        (report, found.into_iter().find_map(Found::job).expect("something is left"))
    }

    fn read(offsets: &[(i32, i64)]) -> ReadBack {
        Ok(group("Empty", 0, offsets).offsets.expect("offsets"))
    }

    #[test]
    fn what_is_read_back_as_wanted_is_set_whatever_the_answer_was() {
        let (mut report, job) =
            jobs(vec![row(0, None, Some(5), Action::Set), row(1, Some(2), None, Action::Delete)], &[(1, 2)]);
        let lost = Change::Refused { code: -1, why: "the connection was lost".to_owned() };
        report.compare(&job, &[lost, Change::Done], read(&[(0, 5)]));
        report.verdict().expect("all is set");
        assert_eq!((report.set, report.groups[0].set, report.failures()), (2, 2, 0));
    }

    #[test]
    fn what_is_read_back_otherwise_is_no_success() {
        let rows = vec![row(0, None, Some(5), Action::Set), row(1, None, Some(6), Action::Set)];
        let (mut report, job) = jobs(rows.clone(), &[]);
        report.compare(&job, &[Change::Done, Change::Done], read(&[(0, 5), (1, 7)]));
        let error = report.verdict().expect_err("one is otherwise");
        assert_eq!(error.exit_code(), 3);
        assert!(
            error.to_string().starts_with("1 of 2 partitions are not set: it was read back as 7 instead of 6 (1)"),
            "{error}"
        );
        let (mut unread, job) = jobs(rows, &[]);
        unread.compare(&job, &[Change::Done, Change::Done], Err("away".to_owned()));
        let error = unread.verdict().expect_err("nobody knows");
        assert!(
            error.exit_code() == 1 && error.to_string().starts_with("it could not be read back: away; "),
            "{error}"
        );
    }

    #[test]
    fn somebody_who_reads_is_told_in_the_words_of_the_page_with_a_command() {
        let (mut report, job) = jobs(vec![row(0, None, Some(5), Action::Set)], &[]);
        report.compare(&job, &[Change::Refused { code: 25, why: "UNKNOWN_MEMBER_ID".to_owned() }], read(&[]));
        let error = report.verdict().expect_err("active");
        assert_eq!(error.exit_code(), 1);
        let line = error.to_string();
        assert!(line.starts_with("Consumer group has active members; stop its consumers"), "{line}");
        assert!(
            line.ends_with("kafka-consumer-groups --bootstrap-server k:9092 --group g --describe --members"),
            "{line}"
        );
    }

    #[test]
    fn what_a_plan_skips_is_not_done() {
        let skip = || Action::Skip("not restored".to_owned());
        let (mut report, job) = jobs(vec![row(0, None, Some(5), Action::Set), row(1, None, None, skip())], &[]);
        report.compare(&job, &[Change::Done], read(&[(0, 5)]));
        assert_eq!(report.failed, [("not restored".to_owned(), 1)].into());
        assert_eq!(report.verdict().expect_err("one is not set").exit_code(), 3);
    }

    #[test]
    fn where_all_or_nothing_is_done_one_refusal_leaves_nothing_done() {
        let mut two = plan(vec![row(0, Some(1), Some(1), Action::Same)]);
        let mut active = two.groups[0].clone();
        active.group = "h".to_owned();
        active.refused = Some(ACTIVE.to_owned());
        two.groups.push(active);
        let now = [("g", group("Empty", 0, &[(0, 1)])), ("h", group("Stable", 1, &[(0, 1)]))];
        let mut report = Report::new(&found(&two, &present(1, &now)), "k:1".to_owned());
        report.left_alone(true);
        assert_eq!(report.verdict().expect_err("refused").exit_code(), 1);
        assert_eq!((report.groups[0].refused.as_deref(), report.groups[1].members.len()), (Some(NOT_BEGUN), 1));
        let json = serde_json::to_value(&report).expect("JSON");
        assert_eq!(json["groups"][1]["members"][0]["client_id"], "c-0");
    }
}
