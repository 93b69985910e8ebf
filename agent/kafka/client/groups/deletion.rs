//! Groups deleted, with all that they have committed.

use kafka_protocol::messages as m;
use kafka_protocol::protocol::StrBytes;
use tokio::time::{Instant, sleep};

use super::rounds::{Outcome, outcome_of};
use super::{Client, GIVE_UP_AFTER};
use crate::error::{Error, Result};

impl Client {
    /// Deletes a group, which must have no members; one that is not there is gone already.
    ///
    /// # Errors
    /// [`Kind::Failed`](crate::error::Kind::Failed), with the broker's own words, where it refuses, and where it cannot
    /// (before Kafka 1.1); [`Kind::Transient`](crate::error::Kind::Transient) when its coordinator does not get there in time.
    pub async fn delete_group(&self, group: &str) -> Result<()> {
        let deadline = Instant::now() + GIVE_UP_AFTER;
        let mut backoff = self.backoff();
        loop {
            let why = match self.try_delete(group).await {
                Outcome::Told(()) | Outcome::Gone => return Ok(()),
                Outcome::Refused(why) => {
                    return Err(Error::failed(format!("group \"{group}\" was not deleted: {why}"))
                        .hint("allow DELETE on it for this principal, and see that it has no members"));
                }
                Outcome::Again(why) => why,
            };
            if Instant::now() >= deadline {
                return Err(Error::transient(format!("group \"{group}\" is not deleted yet: {}", why?)));
            }
            self.forget_coordinator(group);
            sleep(backoff.wait()).await;
        }
    }

    async fn try_delete(&self, group: &str) -> Outcome<()> {
        let address = match self.coordinator(group).await {
            Ok(address) => address,
            Err(unfound) => return unfound.outcome(group),
        };
        let request =
            m::DeleteGroupsRequest::default().with_groups_names(vec![StrBytes::from_string(group.to_owned()).into()]);
        match self.ask(&address, 0..=2, &request).await {
            Err(error) => Outcome::Again(Err(error)),
            Ok(None) => Outcome::Refused(format!("broker {address} has no call that deletes groups")),
            Ok(Some(answer)) => match answer.results.first().map(|told| told.error_code) {
                Some(0) => Outcome::Told(()),
                Some(code) => outcome_of(code, || "its coordinator refuses".to_owned()),
                None => Outcome::Again(Ok("the coordinator did not answer for it".to_owned())),
            },
        }
    }
}
