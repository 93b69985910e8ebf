//! Where another group of the target stands: groups are put beside it.

use super::{Positions, source};
use crate::archive::savepoint::SHARE;
use crate::error::{Error, Result};
use crate::groups::not_found;
use crate::kafka::client::Client;

/// Reads where the group `other` stands, as the positions of each of `groups`.
///
/// # Errors
/// `Consumer group '…' not found` where `other` is not there; those of [`source::read`].
pub async fn read(client: &Client, other: &str, groups: &[String]) -> Result<Positions> {
    let mut told = source::read(client, Some(&[other.to_owned()])).await?;
    let standing = told.groups.remove(other).ok_or_else(|| {
        let servers = client.properties().bootstrap_servers.join(",");
        not_found(other)
            .hint(format!("list those that there are: kafka-consumer-groups --bootstrap-server {servers} --list"))
    })?;
    if standing.kind == SHARE {
        return Err(Error::usage(format!(
            "group '{other}' is a share group: it has no offsets that another could take"
        )));
    }
    let groups = groups.iter().map(|group| (group.clone(), standing.clone())).collect();
    Ok(Positions { from: format!("group {other}"), groups })
}
