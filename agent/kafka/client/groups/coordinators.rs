//! Who coordinates a group: FindCoordinator, for many groups in one request where the broker can (v4, Kafka 3.0).
//!
//! What was told is kept, so that who commits for a group that was listed asks nobody first. It is forgotten when it
//! proves wrong.

use std::collections::BTreeMap;

use kafka_protocol::messages as m;
use kafka_protocol::protocol::StrBytes;

use super::rounds::{Outcome, outcome_of};
use super::{Client, GROUPS_PER_REQUEST, ListedGroup};
use crate::error::{Error, Result};

/// Why the coordinator of a group is not known.
#[derive(Debug)]
pub(super) enum Unfound {
    /// The cluster says this code.
    Said(i16),
    /// Nobody answers.
    Silent(Error),
}

/// A group, and the address of its coordinator.
type Found = (String, std::result::Result<String, Unfound>);

impl Unfound {
    /// Returns what that means for who wants something of `group`.
    pub(super) fn outcome<T>(self, group: &str) -> Outcome<T> {
        match self {
            Self::Said(code) => outcome_of(code, || format!("the coordinator of group \"{group}\" is not told")),
            Self::Silent(error) => Outcome::Again(Err(error)),
        }
    }
}

impl Client {
    /// Takes note of who coordinates groups, as brokers have listed them.
    pub(super) fn know_coordinators<'a>(&self, groups: impl IntoIterator<Item = &'a ListedGroup>) {
        let mut known = self.coordinators_known();
        for group in groups {
            if let Some(address) = &group.coordinator {
                let _ = known.insert(group.group.clone(), address.clone());
            }
        }
    }

    /// Forgets who coordinates `group`: the cluster knows better.
    pub(super) fn forget_coordinator(&self, group: &str) {
        let _ = self.coordinators_known().remove(group);
    }

    /// Finds the coordinator of `group`.
    pub(super) async fn coordinator(&self, group: &str) -> std::result::Result<String, Unfound> {
        let (mut by_address, mut unfound) = self.by_coordinator([(group.to_owned(), None)].into()).await;
        match (by_address.pop_first(), unfound.pop()) {
            (Some((address, _)), _) => Ok(address),
            (None, Some((_, why))) => Err(why),
            (None, None) => Err(Unfound::Silent(Error::transient(format!("nobody coordinates group \"{group}\"")))),
        }
    }

    /// Sorts groups by the addresses of their coordinators: those given, those known, and for the others the cluster is
    /// asked. Those whose coordinator is not known stand apart; none is missing.
    pub(super) async fn by_coordinator(
        &self,
        groups: BTreeMap<String, Option<String>>,
    ) -> (BTreeMap<String, Vec<String>>, Vec<(String, Unfound)>) {
        let mut by_address: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let (mut lost, mut unfound) = (Vec::new(), Vec::new());
        for (group, address) in groups {
            let address = address.or_else(|| self.coordinators_known().get(&group).cloned());
            match address {
                Some(address) => by_address.entry(address).or_default().push(group),
                None => lost.push(group),
            }
        }
        for (group, found) in self.find_coordinators(lost).await {
            match found {
                Ok(address) => {
                    let _ = self.coordinators_known().insert(group.clone(), address.clone());
                    by_address.entry(address).or_default().push(group);
                }
                Err(why) => unfound.push((group, why)),
            }
        }
        (by_address, unfound)
    }

    async fn find_coordinators(&self, groups: Vec<String>) -> Vec<Found> {
        let mut found = Vec::with_capacity(groups.len());
        for piece in groups.chunks(GROUPS_PER_REQUEST) {
            match self.coordinators_of(piece).await {
                Ok(mut told) => found.extend(piece.iter().map(|group| {
                    let untold = || Err(Unfound::Silent(Error::transient("the broker does not tell the coordinator")));
                    (group.clone(), told.remove(group).unwrap_or_else(untold))
                })),
                Err(error) => {
                    let silent = || Unfound::Silent(Error::new(error.kind(), error.to_string()));
                    found.extend(piece.iter().map(|group| (group.clone(), Err(silent()))));
                }
            }
        }
        found
    }

    async fn coordinators_of(
        &self,
        groups: &[String],
    ) -> Result<BTreeMap<String, std::result::Result<String, Unfound>>> {
        let keys = groups.iter().map(|group| StrBytes::from_string(group.clone())).collect();
        let request = m::FindCoordinatorRequest::default().with_coordinator_keys(keys);
        if let Some(answer) = self.ask_any(4..=6, &request).await? {
            let told = |told: m::find_coordinator_response::Coordinator| {
                (told.key.to_string(), found(told.error_code, &told.host, told.port))
            };
            return Ok(answer.coordinators.into_iter().map(told).collect());
        }
        let mut all = BTreeMap::new();
        for group in groups {
            let request = m::FindCoordinatorRequest::default().with_key(StrBytes::from_string(group.clone()));
            let Some(answer) = self.ask_any(0..=3, &request).await? else {
                return Err(Error::failed("the cluster has no version of FindCoordinator that we know"));
            };
            all.insert(group.clone(), found(answer.error_code, &answer.host, answer.port));
        }
        Ok(all)
    }
}

fn found(code: i16, host: &str, port: i32) -> std::result::Result<String, Unfound> {
    if code != 0 {
        return Err(Unfound::Said(code));
    }
    // An IPv6 address needs its brackets back.
    Ok(if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") })
}
