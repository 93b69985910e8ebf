//! Consumer groups: which there are, who is in them, what each has committed, offsets set and deleted, and a group deleted.
//!
//! Every broker lists the groups that it coordinates, so all of them are asked, and who listed a group is asked for what
//! it knows of it; FindCoordinator is for groups that nobody listed, and for those that have moved. Many groups go in one
//! request where the broker can (OffsetFetch v8, Kafka 3.0), in pieces of [`GROUPS_PER_REQUEST`]; else one each. All that
//! a group has committed is asked for; a broker older than Kafka 2.5 is asked for the partitions that are wanted.
//!
//! Retry: what passes (a coordinator that moves or loads) is asked again with back-off, for [`GIVE_UP_AFTER`]. What is
//! wrong with a single group costs that group, and is said in its place; a broker that cannot be reached fails the
//! whole question, since nobody knows which groups it has. Cancel: safe at any point.
//!
//! **Who may see what.** A broker lists all its groups to whoever may describe the cluster; to others it lists those that
//! they may describe, without a word. So the brokers are asked for that authority too (Metadata v8, Kafka 2.3), and a
//! listing that may be a part says so. Brokers that do not tell leave it open: a listing of theirs says nothing.
//!
//! Answers go by topics' names: who asks makes sure that a name stood for one topic all the while.

mod changes;
mod choice;
mod commit;
mod coordinators;
mod deletion;
mod description;
mod offset_deletion;
mod offsets;
mod readers;
mod requests;
mod rounds;
mod streams;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages as m;
use kafka_protocol::protocol::StrBytes;

use super::Client;
use super::race::Race;
use crate::error::{Error, Result};
use crate::kafka::code_name;
use crate::record::Offset;
pub use changes::Change;
pub use choice::Choice;
pub use description::{Described, Member, Members};
pub use readers::Readers;
pub use requests::Requests;

/// Why a group is not touched, as the user's page has it.
pub const ACTIVE: &str = "Consumer group has active members";

/// How many groups one request asks for. With half, a cluster of a thousand groups takes twice the round trips; with
/// ten times as many, groups of a thousand partitions would make an answer of a hundred megabytes.
const GROUPS_PER_REQUEST: usize = 100;

/// How long a coordinator may move or load before its groups are given up for this time: longer than an election.
const GIVE_UP_AFTER: Duration = Duration::from_secs(15);

/// The versions of Metadata that tell what we may do with the cluster; later ones leave it to DescribeCluster.
const TELLS_AUTHORITY: RangeInclusive<i16> = 8..=10;

/// The bit of "describe" in what a broker says one may do (`AclOperation`).
const DESCRIBE: i32 = 1 << 8;

/// What a broker says that does not tell what one may do.
const NOT_TOLD: i32 = i32::MIN;

/// Why a listing may be a part without anybody having said so.
const A_PART: &str = "the agent may not describe the cluster, so brokers list only the groups that it may describe: \
                      others are missing; allow it Describe on the cluster";

/// What is said where nobody told.
const UNKNOWN: &str = "unknown";

/// The state of a group without members.
const EMPTY: &str = "Empty";

/// The state of a group that is not there.
const DEAD: &str = "Dead";

/// A consumer group, as its coordinator lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedGroup {
    /// Its name.
    pub group: String,
    /// `classic`, `consumer`, `streams` or `share`. A broker that tells no types (before Kafka 3.8) knows only classic ones.
    pub kind: String,
    /// As the broker calls it: `Stable`, `Empty`; `unknown` before Kafka 2.6.
    pub state: String,
    /// The address of the broker that coordinates it.
    coordinator: Option<String>,
}

/// The groups of a cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// Those that were told, by name.
    pub groups: BTreeMap<String, ListedGroup>,
    /// Why there may be more; `None` when every broker has told all that it has, or is too old to tell that it has not.
    pub unread: Option<String>,
}

/// What a group has committed for a partition.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct CommittedOffset {
    /// The topic's name.
    pub topic: String,
    /// The partition's index.
    pub partition: i32,
    /// The next record to read.
    pub offset: Offset,
    /// What the group keeps beside it.
    pub metadata: String,
}

/// Topics by name, with the indexes of their partitions.
pub type Partitions = BTreeMap<String, Vec<i32>>;

/// What was told of a group's offsets: all of them, or why they cannot be read.
pub type Told = std::result::Result<Vec<CommittedOffset>, String>;

impl ListedGroup {
    /// Returns whether it has members, as far as anybody knows.
    pub fn is_active(&self) -> bool {
        !matches!(self.state.as_str(), EMPTY | DEAD)
    }

    /// Returns whether its coordinator has listed it as one without members.
    pub fn is_empty(&self) -> bool {
        self.state == EMPTY
    }

    /// Returns a group of which only the name is known.
    pub fn named(group: &str) -> Self {
        Self { group: group.to_owned(), kind: UNKNOWN.to_owned(), state: UNKNOWN.to_owned(), coordinator: None }
    }
}

impl Listing {
    /// Takes note of why there may be more. Of several reasons one is kept, the same whoever answered first: a savepoint
    /// says it, and must not change for nothing.
    fn may_lack(&mut self, why: String) {
        self.unread = Some(self.unread.take().map_or(why.clone(), |before| before.min(why)));
    }
}

impl Client {
    /// Asks all brokers for their groups; brokers are those of the newest metadata. Where they lack the call, where it is
    /// forbidden, and where they list only some of their groups to us, the listing says so.
    ///
    /// # Errors
    /// [`Kind::Transient`](crate::error::Kind::Transient) when a broker does not answer, or its groups are still being
    /// loaded: what it coordinates would seem gone.
    pub async fn list_groups(&self) -> Result<Listing> {
        let (listing, may_describe) = tokio::join!(self.listed_groups(), self.may_describe_cluster());
        let mut listing = listing?;
        if may_describe? == Some(false) {
            listing.may_lack(A_PART.to_owned());
        }
        Ok(listing)
    }

    /// Returns whether we may describe the cluster, and so are listed all groups; `None` where the broker does not tell.
    async fn may_describe_cluster(&self) -> Result<Option<bool>> {
        let request = m::MetadataRequest::default()
            .with_topics(Some(Vec::new()))
            .with_allow_auto_topic_creation(false)
            .with_include_cluster_authorized_operations(true);
        let answer = self.ask_any(TELLS_AUTHORITY, &request).await?;
        let told = answer.map(|answer| answer.cluster_authorized_operations).filter(|told| *told != NOT_TOLD);
        Ok(told.map(|operations| operations & DESCRIBE != 0))
    }

    async fn listed_groups(&self) -> Result<Listing> {
        let addresses: Vec<String> = self.known().brokers.values().cloned().collect();
        if addresses.is_empty() {
            return Err(Error::transient("no broker is known"));
        }
        let request = m::ListGroupsRequest::default();
        let mut race = Race::default();
        for address in &addresses {
            let ask = self.ask(address, 0..=5, &request);
            race.enter(async move { (address, ask.await) });
        }
        let mut listing = Listing::default();
        while !race.is_empty() {
            let (address, answer) = race.next().await;
            let Some(answer) = answer? else {
                listing.may_lack(format!("broker {address} cannot list groups"));
                continue;
            };
            match ResponseError::try_from_code(answer.error_code) {
                None => {}
                Some(error) if passes(error) => return Err(refused(address, answer.error_code)),
                Some(_) => listing.may_lack(refused(address, answer.error_code).to_string()),
            }
            for told in answer.groups {
                let listed = listed(told, address);
                listing.groups.insert(listed.group.clone(), listed);
            }
        }
        self.know_coordinators(listing.groups.values());
        Ok(listing)
    }
}

/// Returns whether an error of a coordinator passes by itself.
fn passes(error: ResponseError) -> bool {
    use ResponseError as E;
    matches!(
        error,
        E::CoordinatorLoadInProgress
            | E::CoordinatorNotAvailable
            | E::NotCoordinator
            | E::UnstableOffsetCommit
            | E::RequestTimedOut
            | E::NetworkException
    )
}

fn group_id(group: &str) -> m::GroupId {
    StrBytes::from_string(group.to_owned()).into()
}

fn refused(address: &str, code: i16) -> Error {
    Error::transient(format!("broker {address} does not list its groups: {}", code_name(code)))
}

fn listed(told: m::list_groups_response::ListedGroup, address: &str) -> ListedGroup {
    let or = |text: StrBytes, other: &str| if text.is_empty() { other.to_owned() } else { text.to_string() };
    ListedGroup {
        group: told.group_id.to_string(),
        kind: or(told.group_type, "classic").to_ascii_lowercase(),
        state: or(told.group_state, UNKNOWN),
        coordinator: Some(address.to_owned()),
    }
}

#[cfg(test)]
mod tests;
