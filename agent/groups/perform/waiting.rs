//! Waits until groups have no members.
//!
//! Asks now and then; a static member that closed counts until its session ends, as Kafka has it. Cancel: safe.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::Progress;
use crate::backoff::Backoff;
use crate::error::Result;
use crate::groups::present::{Now, Present};
use crate::kafka::client::Client;

/// Waits up to `within` until none of `groups` has members; who still has them is told to `progress`, each time that it is
/// somebody else. Returns whether anybody was waited for; who is active when the time is up stays so.
///
/// # Errors
/// As [`Present::look`].
pub async fn wait_until_empty(
    client: &Client,
    groups: &[String],
    within: Duration,
    progress: &dyn Progress,
) -> Result<bool> {
    let deadline = Instant::now() + within;
    // Half a second at first: sessions last for seconds, and each look costs the coordinators a request.
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(2));
    let (mut said, mut has_waited) = (Vec::new(), false);
    loop {
        let present = Present::look(client, groups).await?;
        let active: Vec<(&String, &Now)> =
            present.groups.iter().filter(|(_, now)| now.is_active() && !now.is_share()).collect();
        let left = deadline.saturating_duration_since(Instant::now());
        if active.is_empty() || left.is_zero() {
            return Ok(has_waited);
        }
        let names = |(group, now): &(&String, &Now)| {
            let members = now.known_members().iter().map(|member| member.member_id.clone());
            ((*group).clone(), members.collect::<Vec<_>>())
        };
        let now: Vec<_> = active.iter().map(names).collect();
        if now != said {
            active.iter().for_each(|(group, now)| progress.waiting(group, now.known_members()));
            said = now;
        }
        has_waited = true;
        sleep(backoff.wait().min(left)).await;
    }
}
