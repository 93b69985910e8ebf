//! Whether a pipeline's topics exist, asked before anything is made of its backup.

use std::collections::BTreeSet;

use super::Mode;
use crate::archive::{Archive, layout};
use crate::error::{Error, Result};
use crate::kafka::Client;
use crate::kafka::client::Metadata;
use crate::kafka::source::{Selection, no_such_topics};

/// Kafka's error code for a topic that does not exist.
const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;

/// Refuses a topic that the cluster does not have: a typing error, which an agent would wait on for ever.
///
/// An agent waits for one that the archive knows: it was deleted and may come back, and the others must not wait for
/// it. A pass cannot wait, and one whose pattern matches nothing would succeed without a backup; an agent waits for what
/// the pattern will match, and says so. `metadata` is that of the topics that are named.
///
/// # Errors
/// [`Kind::Usage`](crate::error::Kind::Usage), with the names that are near.
pub(super) async fn check(
    wanted: &Selection,
    metadata: &Metadata,
    client: &Client,
    mode: Mode,
    held: Option<&Archive>,
) -> Result<()> {
    let told = metadata.topics.iter().filter(|topic| topic.code != UNKNOWN_TOPIC_OR_PARTITION);
    let there: BTreeSet<&str> = told.map(|topic| topic.name.as_str()).collect();
    let mut missing = Vec::new();
    for name in wanted.names().iter().filter(|name| !there.contains(name.as_str())) {
        let waits = match held.filter(|_| mode == Mode::Agent) {
            Some(archive) => !archive.store().list(&format!("{}{name}/", layout::TOPICS)).await?.is_empty(),
            None => false,
        };
        if !waits {
            missing.push(name.as_str());
        }
    }
    if missing.is_empty() {
        return check_pattern(wanted, client, mode).await;
    }
    // The names only help; without them the error stands all the same.
    let all = client.metadata(None).await.map(|all| all.topics).unwrap_or_default();
    let names: Vec<&str> = all.iter().filter(|topic| topic.code == 0).map(|topic| topic.name.as_str()).collect();
    Err(no_such_topics(&missing, &names))
}

async fn check_pattern(wanted: &Selection, client: &Client, mode: Mode) -> Result<()> {
    if !wanted.has_pattern() {
        return Ok(());
    }
    let all = client.metadata(None).await?.topics;
    if all.iter().any(|topic| wanted.matches(&topic.name, topic.internal)) {
        return Ok(());
    }
    let what = format!("no topic of the cluster matches the pattern of {wanted}");
    if mode == Mode::Once {
        return Err(Error::usage(what).hint(
            "pipeline.source.topics_regex matches whole names, as \"shop[.].*\", and never those that begin with __",
        ));
    }
    tracing::warn!("{what} yet; topics that appear are captured from then on");
    Ok(())
}
