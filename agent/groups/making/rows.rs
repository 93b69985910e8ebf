//! Goals, and the rows of a plan that they become once it is known what the cluster has. Pure.

use std::sync::Arc;

use super::logs::Logs;
use crate::groups::places::{self, Exactness};
use crate::groups::plan::{Action, Row};
use crate::groups::positions::Committed;
use crate::record::{OffsetRange, TopicId};

/// What a group is to have for a partition of the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Goal {
    pub(super) topic: Arc<str>,
    /// Which topic of that name; [`TopicId::NONE`] for whichever is there.
    pub(super) topic_id: TopicId,
    pub(super) partition: i32,
    pub(super) to: To,
}

/// What that is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum To {
    /// This.
    At(Committed, Option<Exactness>),
    /// Nobody knows, for this reason: it stays as it is.
    Unknown(String),
    /// It is no partition of the target, for this reason: whatever has its name there is another one.
    Nowhere(String),
}

/// Makes the row of a goal; `current` is what the group has committed. An offset that the partition does not have is refused;
/// with `clamp` the nearest is taken.
pub(super) fn row(goal: &Goal, logs: &Logs, current: Option<&Committed>, clamp: bool) -> Row {
    let mut row = Row {
        topic: goal.topic.to_string(),
        topic_id: logs.topic_id(&goal.topic).to_string(),
        partition: goal.partition,
        current: current.cloned(),
        target: None,
        action: Action::Same,
        exactness: None,
    };
    match &goal.to {
        To::Unknown(why) | To::Nowhere(why) => row.action = Action::Skip(why.clone()),
        To::At(committed, exactness) => {
            let range = logs.find(&goal.topic, goal.topic_id, goal.partition);
            match range.and_then(|range| bounded(committed, *exactness, goal.partition, range, clamp)) {
                Ok((target, exactness)) => {
                    row.action = if current == Some(&target) { Action::Same } else { Action::Set };
                    (row.target, row.exactness) = (Some(target), exactness);
                }
                Err(why) => row.action = Action::Skip(why),
            }
        }
    }
    row
}

/// Says why the target of a row that sets one is no offset of its partition, if it is none.
pub(super) fn holds(row: &Row, logs: &Logs) -> Result<(), String> {
    let Some(target) = &row.target else { return Ok(()) };
    let topic_id = row.topic_id.parse().unwrap_or(TopicId::NONE);
    let range = logs.find(&row.topic, topic_id, row.partition)?;
    bounded(target, None, row.partition, range, false).map(drop)
}

/// Brings an offset into the range of its partition, or says why it is refused.
fn bounded(
    committed: &Committed,
    exactness: Option<Exactness>,
    partition: i32,
    range: OffsetRange,
    clamp: bool,
) -> Result<(Committed, Option<Exactness>), String> {
    match places::check(committed.offset, range, clamp) {
        Ok((offset, _)) if offset == committed.offset => Ok((committed.clone(), exactness)),
        Ok((offset, found)) => Ok((Committed { offset, metadata: committed.metadata.clone() }, Some(found))),
        Err(refusal) => {
            let why = refusal.why(committed.offset, partition);
            Err(format!("{why}; take the nearest with --clamp, or --to-earliest or --to-latest"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn goal(to: To) -> Goal {
        Goal { topic: "orders".into(), topic_id: TopicId::NONE, partition: 0, to }
    }

    fn at(offset: i64) -> Committed {
        Committed { offset, metadata: "m".into() }
    }

    /// Returns the row of a goal where the partition has `[5, 100]`.
    fn made(to: To, current: Option<&Committed>, clamp: bool) -> Row {
        row(&goal(to), &Logs::of(&[("orders", TopicId::NONE, &[OffsetRange { first: 5, next: 100 }])]), current, clamp)
    }

    fn skipped(row: &Row) -> &str {
        match &row.action {
            Action::Skip(why) if row.target.is_none() => why,
            _ => panic!("{row:?}"),
        }
    }

    #[test]
    fn what_is_so_already_is_left_and_a_difference_in_metadata_is_one() {
        let to = |committed| To::At(committed, Some(Exactness::Exact));
        assert_eq!(made(to(at(7)), Some(&at(7)), false).action, Action::Same);
        let other = Committed { metadata: String::new(), ..at(7) };
        let set = made(to(at(7)), Some(&other), false);
        assert_eq!((set.action, set.target, set.exactness), (Action::Set, Some(at(7)), Some(Exactness::Exact)));
        assert_eq!(made(to(at(7)), None, false).action, Action::Set);
    }

    #[test]
    fn the_ends_of_a_partition_are_in_range_and_what_lies_beyond_is_refused_or_clamped() {
        let to = |offset| To::At(at(offset), None);
        for offset in [5, 100] {
            assert_eq!(made(to(offset), None, false).action, Action::Set, "{offset}");
        }
        for (offset, nearest) in [(4, 5), (101, 100), (-3, 5)] {
            let refused = made(to(offset), None, false);
            let text = format!("Offset {offset} is out of range for partition 0 (current: 5-100); ");
            assert!(skipped(&refused).starts_with(&text), "{refused:?}");
            let clamped = made(to(offset), None, true);
            assert_eq!((clamped.target, clamped.exactness), (Some(at(nearest)), Some(Exactness::Clamped)));
        }
    }

    #[test]
    fn what_nobody_knows_stays_as_it_is() {
        let why = made(To::Unknown("so it is".into()), Some(&at(7)), true);
        assert_eq!((skipped(&why), &why.current), ("so it is", &Some(at(7))));
    }

    #[test]
    fn a_topic_that_is_not_there_or_was_made_anew_is_skipped() {
        let id: TopicId = "4u0fkXLXQ-Or5QvZq9JvUA".parse().expect("an id");
        let logs = Logs::of(&[("orders", id, &[OffsetRange { first: 0, next: 9 }])]);
        let of = |topic: &str, topic_id, partition| {
            let to = To::At(at(1), None);
            let goal = Goal { topic: topic.into(), topic_id, partition, to };
            row(&goal, &logs, None, false)
        };
        assert_eq!(of("orders", id, 0).action, Action::Set);
        assert_eq!(of("orders", TopicId::NONE, 0).topic_id, id.to_string());
        let other = TopicId(uuid::Uuid::from_u128(7));
        assert!(skipped(&of("orders", other, 0)).starts_with("topic \"orders\" was made anew"));
        assert!(skipped(&of("orders", id, 1)).starts_with("topic \"orders\" has only 1 partition on the cluster"));
        assert!(skipped(&of("pay", id, 0)).starts_with("topic \"pay\" is not on the cluster"));
    }
}
