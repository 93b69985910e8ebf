//! What a restore in transactions needs, asked before anything is made.

use std::collections::BTreeSet;

use super::transactional_id;
use crate::error::{Error, Result};
use crate::kafka::client::Client;
use crate::kafka::produce;
use crate::record::Partition;

/// Makes sure that records may go to these targets in transactions, which are needed for a reason; `hindrance` is why there
/// can be none.
///
/// # Errors
/// [`Kind::Failed`](crate::error::Kind::Failed), which names what is to be allowed, where they may not; those of the cluster.
pub(in crate::restore) async fn check(
    client: &Client,
    restore_id: &str,
    (why, hindrance): (&str, Option<&str>),
    targets: &[Partition],
) -> Result<()> {
    if let Some(hindrance) = hindrance {
        return Err(Error::failed(format!("{why}: that needs transactions, and there can be none: {hindrance}")));
    }
    let topics: BTreeSet<String> = targets.iter().map(|target| target.topic.to_string()).collect();
    let topics: Vec<String> = topics.into_iter().collect();
    produce::check_authority(client, &transactional_id(restore_id), &topics).await
}
