//! Savepoints: each can be read, those that it names are there, what it differs from is a full one, and the chains hold
//! what it says was durable.
//!
//! Each object is read once. Memory: the names, eight bytes each, a claim for each chain, and the few that are being read.

use std::collections::{BTreeMap, HashMap, HashSet};

use tokio::task::JoinSet;

use crate::archive::savepoint::{Name, Savepoint};
use crate::archive::source::Place;
use crate::archive::source::chain::{Finding, What};
use crate::archive::{Archive, layout};
use crate::error::{Error, Result};
use crate::record::{Offset, OffsetRange};

/// Savepoints that are read at a time: a year of them are half a million, and a store answers in tens of milliseconds.
const SIDE_BY_SIDE: usize = 8;

/// The farthest end of each chain that a savepoint has called durable.
#[derive(Debug, Default)]
pub(super) struct Claims(HashMap<Chain, Claim>);

/// A chain by its topic, topic id and name within the topic.
type Chain = (String, String, String);

/// What a savepoint says of a chain.
#[derive(Debug, Clone)]
pub(super) struct Claim {
    /// The end of what was durable, exclusive.
    pub(super) next: Offset,
    /// The savepoint's object, for people.
    object: String,
}

/// Looks at all savepoints; returns how many there are and what they say of the chains.
pub(super) async fn check(archive: &Archive, findings: &mut Vec<Finding>) -> (u64, Claims) {
    let mut claims = Claims::default();
    let listed = match archive.store().list(layout::SAVEPOINTS).await {
        Ok(listed) => listed,
        Err(error) => {
            findings.push(Finding::of_error(archive, layout::SAVEPOINTS, &error));
            return (0, claims);
        }
    };
    let mut names: Vec<Name> = Vec::new();
    for entry in listed {
        match entry.name.parse() {
            Ok(name) if !entry.is_folder => names.push(name),
            _ => findings.push(Finding::unknown(archive, &layout::savepoint(&entry.name))),
        }
    }
    names.sort_unstable();
    let mut links = Links::default();
    let mut names_left = names.iter().copied();
    let mut reading = JoinSet::new();
    loop {
        while reading.len() < SIDE_BY_SIDE
            && let Some(name) = names_left.next()
        {
            let archive = archive.clone();
            reading.spawn(async move { (name, archive.savepoint(name).await) });
        }
        let (name, read) = match reading.join_next().await {
            Some(Ok(read)) => read,
            Some(Err(error)) => {
                let error = Error::failed("reading a savepoint ended early").source(error);
                findings.push(Finding::of_error(archive, layout::SAVEPOINTS, &error));
                continue;
            }
            None => break,
        };
        match taken(archive, name, read, findings) {
            Some(savepoint) => {
                links.add(&names, &savepoint);
                claims.add(archive, &savepoint);
            }
            None => drop(links.unread.insert(name)),
        }
    }
    links.broken(archive, findings);
    (names.len() as u64, claims)
}

/// What savepoints say of each other.
#[derive(Default)]
struct Links {
    /// Those that are not there, each with the first that names it and why.
    missing: BTreeMap<Name, (Name, &'static str)>,
    /// Those from which others differ, each with the first of these.
    bases: BTreeMap<Name, Name>,
    /// The full ones: one an hour.
    fulls: HashSet<Name>,
    /// Those that could not be read.
    unread: HashSet<Name>,
}

impl Links {
    /// Takes what a savepoint says of others; `there` are all names, in order.
    fn add(&mut self, there: &[Name], savepoint: &Savepoint) {
        let name = savepoint.name;
        let links = [(savepoint.full, "it differs from that one"), (savepoint.previous, "it follows on that one")];
        for (link, why) in links {
            let Some(link) = link.filter(|link| there.binary_search(link).is_err()) else { continue };
            let by = self.missing.entry(link).or_insert((name, why));
            *by = (*by).min((name, why));
        }
        match savepoint.full {
            Some(base) => {
                let by = self.bases.entry(base).or_insert(name);
                *by = name.min(*by);
            }
            None => drop(self.fulls.insert(name)),
        }
    }

    /// Finds those that are missing, and those that differ from what is no full one.
    fn broken(self, archive: &Archive, findings: &mut Vec<Finding>) {
        let mut damaged = |name: Name, detail: String| {
            let object = archive.store().describe(&layout::savepoint(name));
            findings.push(Finding { what: What::DamagedObject, object, range: None, detail });
        };
        for (&name, (by, why)) in &self.missing {
            damaged(name, format!("the savepoint is missing: {by} names it, since {why}"));
        }
        for (base, by) in self.bases {
            // What is missing or could not be read is told already.
            if !self.fulls.contains(&base) && !self.missing.contains_key(&base) && !self.unread.contains(&base) {
                damaged(
                    by,
                    format!("it differs from {base}, which is no full savepoint: nobody can tell what it says"),
                );
            }
        }
    }
}

/// Returns a savepoint that could be read; else says why not.
fn taken(
    archive: &Archive,
    name: Name,
    read: Result<Option<Savepoint>>,
    findings: &mut Vec<Finding>,
) -> Option<Savepoint> {
    let key = layout::savepoint(name);
    match read {
        Ok(Some(savepoint)) => Some(savepoint),
        Ok(None) => {
            let (object, detail) = (archive.store().describe(&key), "it went while we looked".to_owned());
            findings.push(Finding { what: What::Unchecked, object, range: None, detail });
            None
        }
        Err(error) => {
            findings.push(Finding::of_error(archive, &key, &error));
            None
        }
    }
}

impl Claims {
    fn add(&mut self, archive: &Archive, savepoint: &Savepoint) {
        for topic in &savepoint.state.topics {
            for archived in topic.partitions.iter().filter_map(|end| end.archived.as_ref()) {
                let chain = (topic.topic.clone(), topic.topic_id.clone(), archived.chain.clone());
                let next = archived.next;
                if self.0.get(&chain).is_none_or(|claim| claim.next < next) {
                    let object = archive.store().describe(&layout::savepoint(savepoint.name));
                    self.0.insert(chain, Claim { next, object });
                }
            }
        }
    }

    /// Returns what is said of the chain at `place`.
    pub(super) fn of(&self, place: &Place) -> Option<Claim> {
        self.0.get(&chain_of(place)).cloned()
    }

    /// Finds the chains that are not there at all.
    pub(super) fn unmet<'a>(&self, archive: &Archive, places: impl Iterator<Item = &'a Place>) -> Vec<Finding> {
        let there: HashSet<Chain> = places.map(chain_of).collect();
        let mut gone: Vec<_> = self.0.iter().filter(|(chain, _)| !there.contains(*chain)).collect();
        gone.sort_unstable_by_key(|(chain, _)| *chain);
        let lost = |((topic, topic_id, chain), claim): (&Chain, &Claim)| {
            let folder = format!("{}{chain}/", layout::timeline_folder(topic, topic_id));
            let detail = format!(
                "nothing of the chain is there, and it was archived up to offset {}: {}",
                claim.next, claim.object
            );
            Finding { what: What::Hole, object: archive.store().describe(&folder), range: None, detail }
        };
        gone.into_iter().map(lost).collect()
    }
}

fn chain_of(place: &Place) -> Chain {
    (place.partition.topic.to_string(), place.partition.topic_id.to_string(), place.name())
}

impl Claim {
    /// Returns what is missing of a chain that ends at `reached`, if anything is.
    pub(super) fn missing(&self, archive: &Archive, place: &Place, reached: Option<Offset>) -> Option<Finding> {
        if reached.is_some_and(|reached| reached >= self.next) {
            return None;
        }
        let range = reached.map(|first| OffsetRange { first, next: self.next });
        let detail = format!("they were archived up to offset {}, as a savepoint says: {}", self.next, self.object);
        Some(Finding { what: What::Hole, object: archive.store().describe(&place.folder), range, detail })
    }
}
