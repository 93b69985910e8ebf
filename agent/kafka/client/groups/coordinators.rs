//! Who coordinates a group: FindCoordinator, for many groups in one request where the broker can (v4, Kafka 3.0).

use kafka_protocol::messages as m;
use kafka_protocol::protocol::StrBytes;

use super::offsets::{Outcome, outcome_of};
use super::{Client, GROUPS_PER_REQUEST};
use crate::error::{Error, Result};

/// A group, and the address of its coordinator, or what came of asking.
type Found = (String, std::result::Result<String, Outcome>);

impl Client {
    /// Finds the coordinators of `groups`, in any order; none of them is missing in the answer.
    pub(super) async fn coordinators(&self, groups: Vec<String>) -> Vec<Found> {
        let mut found = Vec::with_capacity(groups.len());
        for piece in groups.chunks(GROUPS_PER_REQUEST) {
            match self.coordinators_of(piece).await {
                Ok(piece) => found.extend(piece),
                Err(error) => {
                    // The error is told once; of the others only that there is one.
                    let mut error = Some(error);
                    let again = |error: Option<Error>| error.unwrap_or_else(|| Error::transient("no broker answers"));
                    found.extend(
                        piece.iter().map(|group| (group.clone(), Err(Outcome::Again(Err(again(error.take())))))),
                    );
                }
            }
        }
        found
    }

    async fn coordinators_of(&self, groups: &[String]) -> Result<Vec<Found>> {
        let keys = groups.iter().map(|group| StrBytes::from_string(group.clone())).collect();
        let request = m::FindCoordinatorRequest::default().with_coordinator_keys(keys);
        if let Some(answer) = self.ask_any(4..=6, &request).await? {
            let told = |told: m::find_coordinator_response::Coordinator| {
                let group = told.key.to_string();
                let found = found(&group, told.error_code, &told.host, told.port);
                (group, found)
            };
            return Ok(answer.coordinators.into_iter().map(told).collect());
        }
        let mut all = Vec::with_capacity(groups.len());
        for group in groups {
            let request = m::FindCoordinatorRequest::default().with_key(StrBytes::from_string(group.clone()));
            let Some(answer) = self.ask_any(0..=3, &request).await? else {
                return Err(Error::failed("the cluster has no version of FindCoordinator that we know"));
            };
            all.push((group.clone(), found(group, answer.error_code, &answer.host, answer.port)));
        }
        Ok(all)
    }
}

fn found(group: &str, code: i16, host: &str, port: i32) -> std::result::Result<String, Outcome> {
    if code != 0 {
        return Err(outcome_of(code, || format!("the coordinator of group \"{group}\" is not told")));
    }
    // An IPv6 address needs its brackets back.
    Ok(if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") })
}
