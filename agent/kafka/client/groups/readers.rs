//! Which topics the members of consumer groups read, classic ones and those of KIP-848. What a group has committed does not
//! tell: a new one has committed nothing yet.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Buf;
use kafka_protocol::messages as m;

use super::{Client, GROUPS_PER_REQUEST, ListedGroup, passes};
use crate::error::{Error, Result};
use crate::kafka::code_name;
use kafka_protocol::error::ResponseError;

/// What the members of a group read, or why nobody tells.
pub type Readers = std::result::Result<BTreeSet<String>, String>;

impl Client {
    /// Returns which topics the members of listed groups have subscribed to, by the groups' names; of a group that is there
    /// no more, nothing.
    ///
    /// # Errors
    /// [`Kind::Transient`](crate::error::Kind::Transient) when a coordinator does not answer, has moved or loads.
    pub async fn subscriptions(&self, groups: &[ListedGroup]) -> Result<BTreeMap<String, Readers>> {
        let mut by_coordinator: BTreeMap<(&str, bool), Vec<String>> = BTreeMap::new();
        for group in groups {
            let Some(coordinator) = group.coordinator.as_deref() else { continue };
            by_coordinator.entry((coordinator, group.kind == "consumer")).or_default().push(group.group.clone());
        }
        let mut told = BTreeMap::new();
        for ((address, is_newer), names) in by_coordinator {
            for piece in names.chunks(GROUPS_PER_REQUEST) {
                match is_newer {
                    true => self.newer(address, piece, &mut told).await?,
                    false => self.classic(address, piece, &mut told).await?,
                }
            }
        }
        Ok(told)
    }

    async fn newer(&self, address: &str, groups: &[String], told: &mut BTreeMap<String, Readers>) -> Result<()> {
        for group in self.describe_consumer(address, groups).await?.ok_or_else(|| unknown(address))? {
            let members = group.members.iter().flat_map(|member| {
                let assigned = member.assignment.topic_partitions.iter().map(|of| &of.topic_name);
                member.subscribed_topic_names.iter().chain(assigned).map(|name| name.to_string())
            });
            keep(told, &group.group_id, group.error_code, members.collect())?;
        }
        Ok(())
    }

    async fn classic(&self, address: &str, groups: &[String], told: &mut BTreeMap<String, Readers>) -> Result<()> {
        for group in self.describe_classic(address, groups).await?.ok_or_else(|| unknown(address))? {
            // Others, as Connect's workers, read no topics by their membership.
            let is_consumer = group.protocol_type.as_str() == "consumer";
            let members = group.members.iter().filter(|_| is_consumer);
            let topics = members.flat_map(|member| subscribed(&member.member_metadata)).collect();
            keep(told, &group.group_id, group.error_code, topics)?;
        }
        Ok(())
    }
}

fn keep(told: &mut BTreeMap<String, Readers>, id: &m::GroupId, code: i16, topics: BTreeSet<String>) -> Result<()> {
    let readers = match ResponseError::try_from_code(code) {
        None => Ok(topics),
        Some(ResponseError::GroupIdNotFound) => return Ok(()),
        Some(error) if passes(error) => {
            return Err(Error::transient(format!("group \"{}\" is not told of: {}", id.as_str(), code_name(code))));
        }
        Some(_) => Err(code_name(code)),
    };
    told.insert(id.to_string(), readers);
    Ok(())
}

/// Reads the topics of a classic member's subscription: a version, then the names.
fn subscribed(mut metadata: &[u8]) -> Vec<String> {
    let mut topics = Vec::new();
    if metadata.len() < 6 {
        return topics;
    }
    metadata.advance(2);
    for _ in 0..metadata.get_i32() {
        if metadata.len() < 2 {
            break;
        }
        let length = usize::from(metadata.get_u16());
        let Some(name) = metadata.get(..length) else { break };
        topics.push(String::from_utf8_lossy(name).into_owned());
        metadata.advance(length);
    }
    topics
}

fn unknown(address: &str) -> Error {
    Error::failed(format!("broker {address} has no call that we know to describe its groups"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subscription_names_its_topics_and_a_torn_one_as_many_as_it_has() {
        let mut bytes = vec![0, 3, 0, 0, 0, 2, 0, 1, b'a', 0, 2, b'b', b'c', 0xff];
        assert_eq!(subscribed(&bytes), ["a", "bc"]);
        bytes.truncate(11);
        assert_eq!(subscribed(&bytes), ["a"]);
        assert!(subscribed(&[0, 3]).is_empty());
    }
}
