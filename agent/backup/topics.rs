//! Whether a pipeline's topics exist, asked before anything is made of its backup.

use std::collections::BTreeSet;

use super::Mode;
use crate::archive::{Archive, layout};
use crate::error::Result;
use crate::kafka::Client;
use crate::kafka::client::Metadata;
use crate::kafka::source::no_such_topics;

/// Kafka's error code for a topic that does not exist.
const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;

/// Refuses a topic that the cluster does not have: a typing error, which an agent would wait on for ever.
///
/// An agent waits for one that the archive knows: it was deleted and may come back, and the others must not wait for
/// it. A pass cannot wait.
///
/// # Errors
/// [`Kind::Usage`](crate::error::Kind::Usage), with the names that are near.
pub(super) async fn check(
    wanted: &[String],
    metadata: &Metadata,
    client: &Client,
    mode: Mode,
    held: Option<&Archive>,
) -> Result<()> {
    let told = metadata.topics.iter().filter(|topic| topic.code != UNKNOWN_TOPIC_OR_PARTITION);
    let there: BTreeSet<&str> = told.map(|topic| topic.name.as_str()).collect();
    let mut missing = Vec::new();
    for name in wanted.iter().filter(|name| !there.contains(name.as_str())) {
        let waits = match held.filter(|_| mode == Mode::Agent) {
            Some(archive) => !archive.store().list(&format!("{}{name}/", layout::TOPICS)).await?.is_empty(),
            None => false,
        };
        if !waits {
            missing.push(name.as_str());
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    // The names only help; without them the error stands all the same.
    let all = client.metadata(None).await.map(|all| all.topics).unwrap_or_default();
    let names: Vec<&str> = all.iter().filter(|topic| topic.code == 0).map(|topic| topic.name.as_str()).collect();
    Err(no_such_topics(&missing, &names))
}
