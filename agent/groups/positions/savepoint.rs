//! Where groups stood at a savepoint of a backup.
//!
//! Only the newest names are listed, unless an older one is wanted; one savepoint is read, and the full one that it differs
//! from. What it could not read of a group is said with the group ([`Standing::error`]).

use super::{Committed, Positions, Standing};
use crate::archive::Archive;
use crate::archive::savepoint::{Group, Name, State};
use crate::error::{Error, Result};
use crate::record::{Partition, Timestamp};

/// How many of the newest names are looked at before all are listed: a restore begins soon after its cut, mostly.
const LOOKED_AT: usize = 100;

/// Which savepoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// The newest.
    Newest,
    /// The newest of this time or before.
    AtOrBefore(Timestamp),
    /// As [`AtOrBefore`](Self::AtOrBefore); the newest where there is none so old.
    Around(Timestamp),
    /// The one of this name.
    Named(Name),
}

impl std::str::FromStr for Which {
    type Err = Error;

    /// Reads a savepoint's name, or a time: the newest at or before it.
    fn from_str(text: &str) -> Result<Self> {
        let time = || text.parse().map(Self::AtOrBefore);
        text.parse().map(Self::Named).or_else(|error: Error| time().map_err(|_| error))
    }
}

/// Reads where groups stood.
///
/// # Errors
/// [`Kind::Usage`](crate::error::Kind::Usage) when there is no such savepoint, naming the newest;
/// [`Kind::Failed`](crate::error::Kind::Failed) when there is none at all;
/// [`Kind::Damaged`](crate::error::Kind::Damaged) when it cannot be read.
pub async fn read(archive: &Archive, which: Which) -> Result<Positions> {
    let name = find(archive, which).await?;
    let gone = || missing(&name.to_string(), name);
    let (_, state) = archive.resolved_savepoint(name).await?.ok_or_else(gone)?;
    positions(name, state)
}

/// Finds the name of a savepoint.
///
/// # Errors
/// As [`read`].
pub async fn find(archive: &Archive, which: Which) -> Result<Name> {
    let (mut names, has_older) = archive.newest_savepoints(LOOKED_AT).await?;
    let Some(&newest) = names.last() else {
        return Err(Error::failed(format!("the backup `{}` has no savepoint", archive.backup().backup_id)).hint(
            "an agent makes one each `savepoint_interval`, `savepoints create --config` makes one now; `offset-reset \
                 --positions source:HOST:PORT` needs none",
        ));
    };
    let is_it = |name: &Name| match which {
        Which::Newest => true,
        Which::AtOrBefore(time) | Which::Around(time) => name.time() <= time,
        Which::Named(wanted) => *name == wanted,
    };
    if has_older && !names.iter().any(is_it) {
        names = archive.savepoints().await?;
    }
    let found = names.iter().rev().find(|name| is_it(name));
    match (found, which) {
        (Some(found), _) => Ok(*found),
        (None, Which::Newest | Which::Around(_)) => Ok(newest),
        (None, Which::AtOrBefore(time)) => Err(missing(&time.to_string(), newest)),
        (None, Which::Named(name)) => Err(missing(&name.to_string(), newest)),
    }
}

/// Makes the error of who finds no savepoint `wanted`.
pub fn missing(wanted: &str, newest: Name) -> Error {
    Error::usage(format!("there is no savepoint `{wanted}`"))
        .hint(format!("the newest is {newest}; `kafka-backup savepoints` lists all"))
}

/// Takes over what a savepoint says.
fn positions(name: Name, state: State) -> Result<Positions> {
    let mut positions = Positions { from: format!("savepoint {name}"), ..Positions::default() };
    if let Some(why) = &state.groups_unread {
        tracing::warn!("savepoint {name} may lack groups: {why}");
    }
    for group in state.groups {
        let (of, standing) = standing(group)?;
        let _ = positions.groups.insert(of, standing);
    }
    Ok(positions)
}

fn standing(group: Group) -> Result<(String, Standing)> {
    let mut standing = Standing { kind: group.kind, error: group.error, ..Standing::default() };
    for topic in group.offsets {
        let topic_id = topic.topic_id.parse()?;
        let name: std::sync::Arc<str> = topic.topic.into();
        for of in topic.partitions {
            let partition = Partition { topic: name.clone(), topic_id, index: of.0 };
            let _ = standing.offsets.insert(partition, Some(Committed { offset: of.1, metadata: of.2 }));
        }
    }
    Ok((group.group, standing))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::savepoint::{Committed as Kept, Savepoint, Topic};
    use crate::store::Store;

    const ID: &str = "4u0fkXLXQ-Or5QvZq9JvUA";

    fn name(text: &str) -> Name {
        text.parse().expect("a name")
    }

    fn group(group: &str, error: Option<&str>) -> Group {
        let partitions = vec![Kept(0, 12, "m".into()), Kept(3, 0, String::new())];
        let offsets = vec![Topic { topic: "orders".into(), topic_id: ID.into(), partitions }];
        let (kind, state) = ("classic".into(), "Empty".into());
        Group { group: group.into(), kind, state, error: error.map(Into::into), offsets }
    }

    /// Makes a backup with savepoints of these names; each has a group of its own name.
    async fn archive(names: &[&str]) -> Archive {
        let root = Store::open("memory://").expect("a store");
        let archive = Archive::create(&root, "b", None).await.expect("made");
        for text in names {
            let state = State { groups: vec![group(text, None)], ..State::default() };
            let savepoint = Savepoint::full(name(text), name(text).time(), None, state);
            let _ = archive.create_savepoint(name(text), savepoint.encode()).await.expect("created");
        }
        archive
    }

    async fn found(archive: &Archive, which: &str) -> Result<Name> {
        find(archive, which.parse().expect("one")).await
    }

    #[tokio::test]
    async fn the_newest_at_or_before_a_time_is_found_and_none_behind_it() {
        let [first, second] = ["20261122T100000.000Z", "20261122T110000.000Z"];
        let archive = archive(&[first, second]).await;
        for (which, wanted) in [
            (first, first),
            ("2026-11-22T10:00:00Z", first),
            ("2026-11-22T10:59:59.999Z", first),
            ("2027-01-01T00:00:00Z", second),
        ] {
            assert_eq!(found(&archive, which).await.expect("there is one"), name(wanted), "{which}");
        }
        assert_eq!(find(&archive, Which::Newest).await.expect("there is one"), name(second));
        let early = "2026-11-22T09:00:00Z".parse().expect("a time");
        assert_eq!(find(&archive, Which::Around(early)).await.expect("the newest"), name(second));
        for none in ["2026-11-22T09:59:59Z", "20261122T100000.001Z"] {
            let error = found(&archive, none).await.expect_err("there is none");
            assert!(error.exit_code() == 2 && error.to_string().contains(second), "{error}");
        }
    }

    #[tokio::test]
    async fn a_savepoint_says_of_each_group_what_it_had_committed() {
        let archive = archive(&["20261122T100000.000Z"]).await;
        let positions = read(&archive, Which::Newest).await.expect("there is one");
        assert_eq!(positions.from, "savepoint 20261122T100000.000Z");
        let standing = &positions.groups["20261122T100000.000Z"];
        let at = |index| Partition { topic: "orders".into(), topic_id: ID.parse().expect("an id"), index };
        let had = |offset, metadata: &str| Some(Committed { offset, metadata: metadata.into() });
        assert_eq!(standing.offsets, [(at(0), had(12, "m")), (at(3), had(0, ""))].into());
    }

    #[tokio::test]
    async fn a_backup_without_savepoints_says_so() {
        let error = read(&archive(&[]).await, Which::Newest).await.expect_err("there is none");
        assert!(error.exit_code() == 1 && error.to_string().contains("the backup `b` has no savepoint"), "{error}");
    }

    #[test]
    fn what_a_savepoint_could_not_read_of_a_group_is_kept_with_it() {
        let (_, standing) = standing(group("g", Some("not told"))).expect("good ids");
        assert_eq!((standing.error.as_deref(), standing.offsets.len()), (Some("not told"), 2));
    }
}
