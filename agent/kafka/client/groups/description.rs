//! Who is in a group: DescribeGroups for classic ones, ConsumerGroupDescribe (Kafka 3.7) for those of KIP-848,
//! StreamsGroupDescribe (Kafka 4.1) for those of KIP-1071. Share groups are only named: they commit no offsets.
//!
//! A group is asked for as what it was listed as, then as the other kinds: one that nobody listed may be any, and one may
//! change its kind when its members do.

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages as m;
use kafka_protocol::messages::{consumer_group_describe_response, describe_groups_response};

use super::rounds::{Outcome, Question, outcome_of};
use super::{Client, DEAD, ListedGroup, UNKNOWN, group_id, streams};
use crate::error::Result;

/// Why nothing is known of a share group's members.
const SHARE: &str = "share groups commit no offsets, so nobody asks who is in them";

/// A group, as its coordinator describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// `classic`, `consumer`, `streams` or `share`; `unknown` for one that is not there.
    pub kind: String,
    /// As the broker calls it: `Stable`, `Empty`; `Dead` for one that is not there.
    pub state: String,
    /// Who is in it.
    pub members: Members,
}

/// Who is in a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Members {
    /// All of them.
    Known(Vec<Member>),
    /// Nobody tells, for this reason.
    Unknown(String),
}

/// A member of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its id, which the coordinator or it has made up.
    pub member_id: String,
    /// What it calls itself: `client.id`.
    pub client_id: String,
    /// Where it is: an address, with a slash in front as brokers have it.
    pub host: String,
    /// The name it keeps when it is started anew, where it is static: `group.instance.id`.
    pub instance_id: Option<String>,
}

/// What a group may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Classic,
    Consumer,
    Streams,
    Share,
}

/// What is told of a group, where the broker has a call that tells of such.
type Answer = Option<Described>;

impl Kind {
    const ALL: [Self; 4] = [Self::Classic, Self::Consumer, Self::Streams, Self::Share];

    fn name(self) -> &'static str {
        match self {
            Self::Classic => "classic",
            Self::Consumer => "consumer",
            Self::Streams => "streams",
            Self::Share => "share",
        }
    }

    /// Returns the kinds to ask for: that of the listing first.
    fn in_turn(listed: &str) -> [Self; 4] {
        let mut kinds = Self::ALL;
        kinds.sort_by_key(|kind| kind.name() != listed);
        kinds
    }
}

impl Client {
    /// Describes groups, by their names: each, or why it cannot be. One that is not there is `Dead`, and has no members.
    ///
    /// # Errors
    /// [`Kind::Transient`](crate::error::Kind::Transient) when a coordinator cannot be reached.
    pub async fn describe_groups(
        &self,
        groups: &[ListedGroup],
    ) -> Result<BTreeMap<String, std::result::Result<Described, String>>> {
        let mut described = BTreeMap::new();
        let mut left: BTreeMap<&str, &ListedGroup> = BTreeMap::new();
        for group in groups {
            if group.kind == Kind::Share.name() {
                let members = Members::Unknown(SHARE.to_owned());
                let told = Described { kind: group.kind.clone(), state: group.state.clone(), members };
                described.insert(group.group.clone(), Ok(told));
            } else {
                left.insert(&group.group, group);
            }
        }
        let mut lacking = BTreeSet::new();
        for turn in 0..Kind::ALL.len() {
            for (kind, now) in in_turn(turn, &left) {
                for (group, told) in self.ask_groups(&kind, now).await? {
                    if let Some(told) = told.transpose() {
                        let _ = left.remove(&*group);
                        described.insert(group, told);
                    } else if turn == 0 {
                        lacking.insert(group);
                    }
                }
            }
        }
        let rest = left.into_values().map(|group| (group.group.clone(), Ok(undescribed(group, &lacking))));
        described.extend(rest);
        Ok(described)
    }

    /// Asks the broker at `address` to describe classic groups; `None` where it has no such call.
    pub(super) async fn describe_classic(
        &self,
        address: &str,
        groups: &[String],
    ) -> Result<Option<Vec<describe_groups_response::DescribedGroup>>> {
        let request = m::DescribeGroupsRequest::default().with_groups(ids(groups));
        Ok(self.ask(address, 0..=5, &request).await?.map(|answer| answer.groups))
    }

    /// Asks the broker at `address` to describe groups of KIP-848; `None` where it has no such call.
    pub(super) async fn describe_consumer(
        &self,
        address: &str,
        groups: &[String],
    ) -> Result<Option<Vec<consumer_group_describe_response::DescribedGroup>>> {
        let request = m::ConsumerGroupDescribeRequest::default().with_group_ids(ids(groups));
        Ok(self.ask(address, 0..=1, &request).await?.map(|answer| answer.groups))
    }
}

impl Question for Kind {
    type Told = Answer;

    async fn ask(
        &self,
        client: &Client,
        address: &str,
        groups: &[String],
    ) -> Result<BTreeMap<String, Outcome<Answer>>> {
        let outcomes = match self {
            Self::Classic => {
                client.describe_classic(address, groups).await?.map(|told| told.into_iter().map(classic).collect())
            }
            Self::Consumer => {
                client.describe_consumer(address, groups).await?.map(|told| told.into_iter().map(consumer).collect())
            }
            Self::Streams => {
                let request = streams::StreamsGroupDescribeRequest::new(groups);
                client
                    .ask(address, 0..=0, &request)
                    .await?
                    .map(|answer| answer.groups.into_iter().map(streaming).collect())
            }
            Self::Share => {
                let request = m::ShareGroupDescribeRequest::default().with_group_ids(ids(groups));
                client
                    .ask(address, 1..=1, &request)
                    .await?
                    .map(|answer| answer.groups.into_iter().map(sharing).collect())
            }
        };
        // A broker without the call has no such groups, or cannot tell.
        Ok(outcomes.unwrap_or_else(|| groups.iter().map(|group| (group.clone(), Outcome::Told(None))).collect()))
    }
}

/// Sorts groups, with the addresses of their coordinators where these are told, by the kind to ask for in this turn.
fn in_turn(turn: usize, groups: &BTreeMap<&str, &ListedGroup>) -> BTreeMap<Kind, BTreeMap<String, Option<String>>> {
    let mut by_kind: BTreeMap<Kind, BTreeMap<String, Option<String>>> = BTreeMap::new();
    for group in groups.values() {
        let kind = Kind::in_turn(&group.kind)[turn];
        by_kind.entry(kind).or_default().insert(group.group.clone(), group.coordinator.clone());
    }
    by_kind
}

/// Says what is left to say of a group that nobody has described; `lacking` are those whose brokers lack the call for what
/// they were listed as.
fn undescribed(group: &ListedGroup, lacking: &BTreeSet<String>) -> Described {
    let (kind, state) = (group.kind.clone(), group.state.clone());
    if group.kind != UNKNOWN && lacking.contains(&group.group) {
        let why = format!("its broker has no call that we know to describe {kind} groups");
        return Described { kind, state, members: Members::Unknown(why) };
    }
    Described { kind: UNKNOWN.to_owned(), state: DEAD.to_owned(), members: Members::Known(Vec::new()) }
}

fn classic(group: describe_groups_response::DescribedGroup) -> (String, Outcome<Answer>) {
    let member = |member: describe_groups_response::DescribedGroupMember| Member {
        member_id: member.member_id.to_string(),
        client_id: member.client_id.to_string(),
        host: member.client_host.to_string(),
        instance_id: member.group_instance_id.map(|id| id.to_string()),
    };
    let outcome = match group.error_code {
        // A broker says so of whatever is no classic group.
        0 if group.group_state.as_str() == DEAD => Outcome::Gone,
        code => told(Kind::Classic, code, &group.group_state, group.members.into_iter().map(member)),
    };
    (group.group_id.to_string(), outcome)
}

fn consumer(group: consumer_group_describe_response::DescribedGroup) -> (String, Outcome<Answer>) {
    let members = group.members.into_iter().map(|member| Member {
        member_id: member.member_id.to_string(),
        client_id: member.client_id.to_string(),
        host: member.client_host.to_string(),
        instance_id: member.instance_id.map(|id| id.to_string()),
    });
    (group.group_id.to_string(), told(Kind::Consumer, group.error_code, &group.group_state, members))
}

fn streaming(group: streams::DescribedGroup) -> (String, Outcome<Answer>) {
    let members = group.members.into_iter().map(|member| Member {
        member_id: member.member_id.to_string(),
        client_id: member.client_id.to_string(),
        host: member.client_host.to_string(),
        instance_id: member.instance_id.map(|id| id.to_string()),
    });
    (group.group_id.to_string(), told(Kind::Streams, group.error_code, &group.group_state, members))
}

fn sharing(group: m::share_group_describe_response::DescribedGroup) -> (String, Outcome<Answer>) {
    let outcome = match told(Kind::Share, group.error_code, &group.group_state, std::iter::empty()) {
        Outcome::Told(Some(told)) => {
            Outcome::Told(Some(Described { members: Members::Unknown(SHARE.to_owned()), ..told }))
        }
        other => other,
    };
    (group.group_id.to_string(), outcome)
}

fn told(kind: Kind, code: i16, state: &str, members: impl Iterator<Item = Member>) -> Outcome<Answer> {
    if ResponseError::try_from_code(code).is_some() {
        return outcome_of(code, || "it cannot be described".to_owned());
    }
    let mut members: Vec<Member> = members.collect();
    members.sort_by(|a, b| (&a.client_id, &a.member_id).cmp(&(&b.client_id, &b.member_id)));
    let (kind, state) = (kind.name().to_owned(), state.to_owned());
    Outcome::Told(Some(Described { kind, state, members: Members::Known(members) }))
}

fn ids(groups: &[String]) -> Vec<m::GroupId> {
    groups.iter().map(|group| group_id(group)).collect()
}
