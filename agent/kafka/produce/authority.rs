//! What transactions with progress need to be allowed, asked before anything is done: else it would be found when topics are
//! made, and records sent. Nothing is changed by asking.

use kafka_protocol::messages as m;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::protocol::StrBytes;

use super::coordinator::{Coordinator, Of, STEP_WITHIN, worst};
use crate::error::{Error, Result};
use crate::kafka::Client;

/// The bits of "read" and "write" in what a broker says one may do (`AclOperation`).
const READ: i32 = 1 << 3;
const WRITE: i32 = 1 << 4;

/// What a broker says that does not tell what one may do.
const NOT_TOLD: i32 = i32::MIN;

/// Makes sure that [`Transactions`](super::Transactions) to `topics` may commit how far they are to `group`. What topics that
/// are missing will allow nobody can tell.
///
/// # Errors
/// [`Kind::Failed`](crate::error::Kind::Failed), which names what is to be allowed, where they may not, and before Kafka 2.5;
/// those of the cluster.
pub async fn check_authority(client: &Client, group: &str, topics: &[String]) -> Result<()> {
    let mut coordinator = Coordinator::new(client, Of::Group(group.to_owned()), STEP_WITHIN);
    let request = m::DescribeGroupsRequest::default()
        .with_groups(vec![coordinator.group_id()])
        .with_include_authorized_operations(true);
    let check = |answer: &m::DescribeGroupsResponse| worst(answer.groups.iter().map(|group| group.error_code));
    // Later ones have an error for a group that is not there yet.
    let answer = coordinator.step("DescribeGroups", 3..=5, &request, check).await?;
    if answer.groups.iter().any(|told| lacks(told.authorized_operations, READ)) {
        return Err(missing("READ", "group", group));
    }
    let named =
        |name: &String| MetadataRequestTopic::default().with_name(Some(StrBytes::from_string(name.clone()).into()));
    let request = m::MetadataRequest::default()
        .with_topics(Some(topics.iter().map(named).collect()))
        .with_allow_auto_topic_creation(false)
        .with_include_topic_authorized_operations(true);
    let Some(answer) = client.ask_any(8..=12, &request).await? else { return Ok(()) };
    for told in answer.topics.iter().filter(|told| told.error_code == 0) {
        for (bit, operation) in [(READ, "READ"), (WRITE, "WRITE")] {
            if lacks(told.topic_authorized_operations, bit) {
                let name = told.name.as_ref().map(|name| name.to_string()).unwrap_or_default();
                return Err(missing(operation, "topic", &name));
            }
        }
    }
    Ok(())
}

fn lacks(told: i32, bit: i32) -> bool {
    told != NOT_TOLD && told & bit == 0
}

fn missing(operation: &str, what: &str, name: &str) -> Error {
    let why = "records go in transactions, which commit how far they are";
    Error::failed(format!("{what} \"{name}\" may not be used: {operation} is missing, and {why}"))
        .hint(format!("allow {operation} on {what} \"{name}\" for this principal"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_told_is_not_missing() {
        assert!(lacks(0, READ) && lacks(WRITE, READ) && !lacks(READ | WRITE, READ) && !lacks(NOT_TOLD, READ));
        let error = missing("READ", "group", "g").to_string();
        assert!(
            error.contains("READ is missing") && error.ends_with("allow READ on group \"g\" for this principal"),
            "{error}"
        );
    }
}
