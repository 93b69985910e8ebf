//! What is written of what was read: nothing, a full savepoint, or a delta.
//!
//! Nothing, when nothing has changed. Full ones are the first of an hour, so that whoever reads one reads at most one
//! besides, and those of which a delta would be more than half as large: the deltas behind it would say the same again.
//! Pure but for [`Newest::load`].

use std::sync::Arc;

use bytes::Bytes;

use crate::archive::Archive;
use crate::archive::savepoint::{Name, Savepoint, State};
use crate::error::{Error, Result};
use crate::record::Timestamp;

/// The newest savepoint that we know.
#[derive(Debug, Clone)]
pub(super) struct Newest {
    pub(super) name: Name,
    /// What it says; `None` where that cannot be read: it is followed all the same, by a full one.
    pub(super) state: Option<Arc<State>>,
    /// The full one that the next delta may differ from, and what it says: this one, or the one that this differs from.
    pub(super) base: Option<(Name, Arc<State>)>,
}

/// What to do.
#[derive(Debug)]
pub(super) enum Plan {
    /// Nothing: this one says the same.
    Unchanged(Name),
    /// Create these bytes, which are what is the newest then.
    Write(Bytes, Newest),
}

/// Decides what is written under `name` of `state`, which was read from `taken_at` on; `newest` is the one before.
pub(super) fn plan(name: Name, taken_at: Timestamp, state: &Arc<State>, newest: Option<&Newest>) -> Plan {
    if let Some(newest) = newest
        && newest.state.as_ref() == Some(state)
    {
        return Plan::Unchanged(newest.name);
    }
    let full = Savepoint::full(name, taken_at, newest.map(|newest| newest.name), State::clone(state));
    let bytes = full.encode();
    let base = newest.and_then(|newest| newest.base.as_ref()).filter(|(base, _)| *base < name && base.same_hour(name));
    if let Some((base, held)) = base {
        let delta = full.relative_to(*base, held).encode();
        if delta.len() <= bytes.len() / 2 {
            let base = Some((*base, held.clone()));
            return Plan::Write(delta, Newest { name, state: Some(state.clone()), base });
        }
    }
    Plan::Write(bytes, Newest { name, state: Some(state.clone()), base: Some((name, state.clone())) })
}

impl Newest {
    /// Reads the savepoint `name`, which another agent has made, or an earlier one of ours; `known` may hold the full one
    /// that it differs from.
    ///
    /// # Errors
    /// Those of the store. A savepoint that cannot be read is none: it is told, and the next one is full.
    pub(super) async fn load(archive: &Archive, name: Name, known: Option<Self>) -> Result<Self> {
        let unreadable = |error: Error| {
            tracing::error!("{error}; the next savepoint will be a full one");
            Self { name, state: None, base: None }
        };
        match Self::read(archive, name, known).await {
            Err(error) if error.is_unreadable() => Ok(unreadable(error)),
            other => other,
        }
    }

    async fn read(archive: &Archive, name: Name, known: Option<Self>) -> Result<Self> {
        let gone = |name| Error::damaged(format!("savepoint {name} is missing"));
        let savepoint = archive.savepoint(name).await?.ok_or_else(|| gone(name))?;
        let Some(base) = savepoint.full else {
            let state = Arc::new(savepoint.state);
            return Ok(Self { name, state: Some(state.clone()), base: Some((name, state)) });
        };
        let held = known.and_then(|known| known.base).filter(|(known, _)| *known == base);
        let (state, held) = match held {
            Some((_, held)) => {
                let full = Savepoint::full(base, Timestamp::NONE, None, State::clone(&held));
                (savepoint.resolve(Some(&full))?, held)
            }
            None => {
                let full = archive.savepoint(base).await?.ok_or_else(|| gone(base))?;
                (savepoint.resolve(Some(&full))?, Arc::new(full.state))
            }
        };
        Ok(Self { name, state: Some(Arc::new(state)), base: Some((base, held)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::savepoint::tests::{name, state};
    use crate::archive::source::tests::Fixture;

    fn next(at: &str, state: &Arc<State>, newest: Option<&Newest>) -> (Savepoint, Newest) {
        let Plan::Write(bytes, written) = plan(name(at), Timestamp(0), state, newest) else { panic!("it has changed") };
        (Savepoint::decode(name(at), &bytes).expect("sound"), written)
    }

    /// A state whose delta is much smaller than itself.
    fn wide(last: i64) -> Arc<State> {
        let mut ends = vec![7; 50];
        ends[49] = last;
        Arc::new(state(&ends))
    }

    #[test]
    fn the_first_of_an_hour_is_full_and_those_behind_it_differ_from_it() {
        let (first, newest) = next("20261122T105800.000Z", &wide(1), None);
        assert_eq!((first.full, first.previous), (None, None));
        let (second, newest) = next("20261122T105900.000Z", &wide(2), Some(&newest));
        assert_eq!((second.full, second.previous), (Some(first.name), Some(first.name)));
        let (third, newest) = next("20261122T110000.000Z", &wide(3), Some(&newest));
        assert_eq!((third.full, third.previous), (None, Some(second.name)));
        let (fourth, _) = next("20261122T110100.000Z", &wide(4), Some(&newest));
        assert_eq!((fourth.full, fourth.previous), (Some(third.name), Some(third.name)));
        assert_eq!(fourth.resolve(Some(&third)).expect("resolved"), *wide(4));
    }

    #[test]
    fn nothing_is_written_of_what_is_the_same_and_no_delta_that_saves_little() {
        let (first, newest) = next("20261122T105800.000Z", &Arc::new(state(&[1])), None);
        let same = Arc::new(state(&[1]));
        let Plan::Unchanged(told) = plan(name("20261122T105900.000Z"), Timestamp(0), &same, Some(&newest)) else {
            panic!("nothing has changed")
        };
        assert_eq!(told, first.name);
        let (other, _) = next("20261122T105900.000Z", &Arc::new(state(&[2])), Some(&newest));
        assert_eq!(other.full, None, "all of it has changed");
    }

    #[tokio::test]
    async fn what_another_agent_wrote_is_taken_over_and_damage_is_followed_by_a_full_one() {
        let archive = Fixture::new("b").await.archive;
        let (first, known) = next("20261122T105800.000Z", &wide(1), None);
        let (second, _) = next("20261122T105900.000Z", &wide(2), Some(&known));
        for savepoint in [&first, &second] {
            let _ = archive.create_savepoint(savepoint.name, savepoint.encode()).await.expect("created");
        }
        for known in [None, Some(known)] {
            let newest = Newest::load(&archive, second.name, known).await.expect("read");
            assert_eq!((newest.name, newest.state), (second.name, Some(wide(2))));
            assert_eq!(newest.base, Some((first.name, wide(1))));
        }
        let third = name("20261122T105930.000Z");
        let _ = archive.create_savepoint(third, second.encode()).await.expect("created");
        let newest = Newest::load(&archive, third, None).await.expect("damage is told, not returned");
        let (fourth, _) = next("20261122T105940.000Z", &wide(2), Some(&newest));
        assert_eq!((fourth.full, fourth.previous), (None, Some(third)));
    }
}
