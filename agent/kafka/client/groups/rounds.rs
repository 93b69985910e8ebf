//! Questions about groups, asked of their coordinators in rounds until each group is told.
//!
//! A round asks all coordinators at once, each for its groups, in pieces of [`GROUPS_PER_REQUEST`]. Retry: the groups whose
//! trouble passes are asked for again in the next round, after a back-off, wherever they are coordinated by then; for
//! [`GIVE_UP_AFTER`]. Cancel: safe at any point.

use std::collections::BTreeMap;

use kafka_protocol::error::ResponseError;
use tokio::time::{Instant, sleep};

use super::{Client, GIVE_UP_AFTER, GROUPS_PER_REQUEST, passes};
use crate::error::{Error, Result};
use crate::kafka::client::race::Race;
use crate::kafka::code_name;

/// What came of asking for a group.
#[derive(Debug)]
pub(super) enum Outcome<T> {
    /// What was asked for.
    Told(T),
    /// Why it is not told, for good.
    Refused(String),
    /// There is no such group any more.
    Gone,
    /// It passes: what the broker said, or why it said nothing.
    Again(Result<String>),
}

/// Something to ask about groups.
pub(super) trait Question: Sync {
    /// What is told of a group.
    type Told;

    /// Asks the broker at `address` once for `groups`, which fit into one request.
    ///
    /// # Errors
    /// What keeps it from answering; an outcome for each group that it tells of, else.
    fn ask(
        &self,
        client: &Client,
        address: &str,
        groups: &[String],
    ) -> impl Future<Output = Result<BTreeMap<String, Outcome<Self::Told>>>> + Send;
}

impl Client {
    /// Asks for `groups`, which have the addresses of their coordinators where these were told, and returns what is told of
    /// them, or why it is not, by their names; of a group that is not there, nothing.
    ///
    /// # Errors
    /// [`Kind::Transient`](crate::error::Kind::Transient) when a coordinator cannot be reached.
    pub(super) async fn ask_groups<Q: Question>(
        &self,
        question: &Q,
        groups: BTreeMap<String, Option<String>>,
    ) -> Result<BTreeMap<String, std::result::Result<Q::Told, String>>> {
        let (mut told, mut left) = (BTreeMap::new(), groups);
        let deadline = Instant::now() + GIVE_UP_AFTER;
        let mut backoff = self.backoff();
        loop {
            let again = self.ask_round(question, std::mem::take(&mut left), &mut told).await;
            if again.is_empty() {
                return Ok(told);
            }
            if Instant::now() >= deadline {
                for (group, why) in again {
                    let why = why.map_err(|error| error.with("group", &group))?;
                    told.insert(group, Err(why));
                }
                return Ok(told);
            }
            // Whoever it was has sent us away: the cluster knows better.
            again.keys().for_each(|group| self.forget_coordinator(group));
            left = again.into_keys().map(|group| (group, None)).collect();
            sleep(backoff.wait()).await;
        }
    }

    /// Asks once for each of `groups`. Returns those to be asked for again, with what the broker said, or why it said nothing.
    async fn ask_round<Q: Question>(
        &self,
        question: &Q,
        groups: BTreeMap<String, Option<String>>,
        told: &mut BTreeMap<String, std::result::Result<Q::Told, String>>,
    ) -> BTreeMap<String, Result<String>> {
        let (by_address, unfound) = self.by_coordinator(groups).await;
        let mut outcomes: Vec<(String, Outcome<Q::Told>)> = Vec::new();
        for (group, why) in unfound {
            let outcome = why.outcome(&group);
            outcomes.push((group, outcome));
        }
        let mut race = Race::default();
        for (address, groups) in &by_address {
            race.enter(self.ask_coordinator(question, address, groups));
        }
        while !race.is_empty() {
            outcomes.extend(race.next().await);
        }
        let mut again = BTreeMap::new();
        for (group, outcome) in outcomes {
            match outcome {
                Outcome::Told(what) => drop(told.insert(group, Ok(what))),
                Outcome::Refused(why) => drop(told.insert(group, Err(why))),
                Outcome::Gone => {}
                Outcome::Again(why) => drop(again.insert(group, why)),
            }
        }
        again
    }

    /// Asks the broker at `address` for `groups`; each of them has its outcome.
    async fn ask_coordinator<Q: Question>(
        &self,
        question: &Q,
        address: &str,
        groups: &[String],
    ) -> Vec<(String, Outcome<Q::Told>)> {
        let mut outcomes = Vec::with_capacity(groups.len());
        for piece in groups.chunks(GROUPS_PER_REQUEST) {
            match question.ask(self, address, piece).await {
                Ok(mut told) => {
                    let outcome = |group: &String| {
                        let unanswered = || Outcome::Again(Ok("the coordinator did not answer for it".to_owned()));
                        (group.clone(), told.remove(group).unwrap_or_else(unanswered))
                    };
                    outcomes.extend(piece.iter().map(outcome));
                }
                Err(error) => {
                    let again = |group: &String| {
                        let why = Error::new(error.kind(), error.to_string());
                        (group.clone(), Outcome::Again(Err(why)))
                    };
                    // It is away: the pieces that follow would only wait for the same.
                    outcomes.extend(groups[outcomes.len()..].iter().map(again));
                    break;
                }
            }
        }
        outcomes
    }
}

/// Returns what an error code of a coordinator means; `what` says what it is about.
pub(super) fn outcome_of<T>(code: i16, what: impl Fn() -> String) -> Outcome<T> {
    let why = || format!("{}: {}", what(), code_name(code));
    match ResponseError::try_from_code(code) {
        Some(ResponseError::GroupIdNotFound) => Outcome::Gone,
        Some(error) if passes(error) => Outcome::Again(Ok(why())),
        _ => Outcome::Refused(why()),
    }
}
