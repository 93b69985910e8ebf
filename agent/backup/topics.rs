//! Whether a pipeline's topics exist, asked before anything is made of its backup.

use std::collections::BTreeSet;

use super::Mode;
use crate::archive::{Archive, layout};
use crate::error::{Error, Result};
use crate::kafka::Client;
use crate::kafka::client::Metadata;

/// Kafka's error code for a topic that does not exist.
const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;

/// Names as near as this to a missing one are offered (Jaro-Winkler, 0 to 1): with 0.95 `order` does not find `orders`,
/// with 0.75 everything looks alike.
const NEAR: f64 = 0.85;

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

fn no_such_topics(missing: &[&str], names: &[&str]) -> Error {
    let near = |wanted: &&str| {
        let ranked = names.iter().map(|name| (strsim::jaro_winkler(name, wanted), name));
        ranked.filter(|(rank, _)| *rank >= NEAR).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, name)| name)
    };
    let near: Vec<String> = missing.iter().filter_map(near).map(|name| format!("\"{name}\"")).collect();
    let error = match missing {
        [name] => Error::usage(format!("topic \"{name}\" does not exist on the cluster")),
        names => Error::usage(format!("topics \"{}\" do not exist on the cluster", names.join("\", \""))),
    };
    if near.is_empty() {
        return error.hint("create it, or correct pipeline.source.topics");
    }
    error.hint(format!("did you mean {}?", near.join(", ")))
}
