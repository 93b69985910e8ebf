//! What positions make of groups: a goal for each partition of the target. Pure.

use super::Wanted;
use super::rows::{Goal, To};
use crate::archive::savepoint::SHARE;
use crate::groups::SHARE_GROUP;
use crate::groups::places::{Place, Places, Refusal};
use crate::groups::positions::{Committed, Standing};
use crate::kafka::client::groups::Partitions;
use crate::record::{Partition, TopicId};

/// The goals of one group.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct GroupGoals {
    pub(super) group: String,
    /// Why nothing of it is to be touched.
    pub(super) refused: Option<String>,
    /// Why goals may be missing.
    pub(super) lacks: Option<String>,
    pub(super) goals: Vec<Goal>,
}

/// Returns the partitions of the target that goals are of.
pub(super) fn partitions(goals: &[GroupGoals]) -> Partitions {
    let mut partitions = Partitions::new();
    for goal in goals.iter().flat_map(|of| &of.goals) {
        partitions.entry(goal.topic.to_string()).or_default().push(goal.partition);
    }
    for of in partitions.values_mut() {
        of.sort_unstable();
        of.dedup();
    }
    partitions
}

impl GroupGoals {
    /// Makes those of a group that stood so; `goals` are what that comes to.
    fn of(group: &str, standing: &Standing, goals: Vec<Goal>) -> Self {
        let share = (standing.kind == SHARE).then(|| SHARE_GROUP.to_owned());
        let told = standing.error.as_ref().map(|why| format!("its positions could not all be read: {why}"));
        // Of what nothing is known nothing can be set.
        let (refused, lacks) = match standing.offsets.is_empty() {
            true => (share.or(told), None),
            false => (share, told),
        };
        Self { group: group.to_owned(), refused, lacks, goals }
    }
}

/// Makes those of a group that is to get what it had, where that is in the target.
pub(super) fn of(group: &str, standing: &Standing, places: &Places, wanted: &Wanted) -> GroupGoals {
    let placed = places.all(&standing.offsets, wanted.clamp);
    let target = |(target, place): (Partition, Result<Place, Refusal>)| {
        let to = match place {
            Ok(place) => {
                let committed = Committed { offset: place.offset, metadata: place.metadata };
                To::At(committed, Some(place.exactness))
            }
            Err(refusal) => To::Unknown(refused(&refusal)),
        };
        goal(target, to)
    };
    let nowhere = |source: Partition| {
        // It is a name of the source: of the target's topic of that name nothing is known.
        let source = Partition { topic_id: TopicId::NONE, ..source };
        goal(source, To::Nowhere(refused(&Refusal::NotRestored)))
    };
    let goals = placed.targets.into_iter().map(target).chain(placed.nowhere.into_iter().map(nowhere));
    let goals = goals.filter(|goal| wanted.holds(&goal.topic, goal.partition)).collect();
    GroupGoals::of(group, standing, goals)
}

fn goal(target: Partition, to: To) -> Goal {
    Goal { topic: target.topic, topic_id: target.topic_id, partition: target.index, to }
}

/// Returns why there is no place, with what can be done about it.
fn refused(refusal: &Refusal) -> String {
    let way_out = match refusal {
        Refusal::Unfinished { .. } => "; finish the restore, or take the nearest with --clamp",
        Refusal::Beyond { .. } => "; take the nearest with --clamp",
        Refusal::NotRestored => "; restore it, or leave it out with --topic",
        Refusal::OutOfRange { .. } => "",
    };
    format!("{refusal}{way_out}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(topic: &str, index: i32) -> Partition {
        Partition { topic: topic.into(), topic_id: TopicId(uuid::Uuid::from_u128(1)), index }
    }

    fn standing(offsets: &[(Partition, Option<i64>)]) -> Standing {
        let committed = |offset| Committed { offset, metadata: "m".to_owned() };
        let offsets = offsets.iter().map(|(at, offset)| (at.clone(), offset.map(committed))).collect();
        Standing { kind: "classic".into(), error: None, offsets }
    }

    #[test]
    fn on_the_same_cluster_each_offset_stays_with_its_metadata_and_absence_is_left_alone() {
        let standing = standing(&[(at("a", 0), Some(7)), (at("a", 1), None), (at("b", 0), Some(1))]);
        let topics = crate::groups::selector::TopicChoice::parse(["a"]).expect("a topic");
        let wanted = Wanted { topics: Some(topics), ..Wanted::default() };
        let made = of("g", &standing, &Places::Same, &wanted);
        let committed = Committed { offset: 7, metadata: "m".into() };
        let exact = Some(crate::groups::places::Exactness::Exact);
        assert_eq!(made.goals, [goal(at("a", 0), To::At(committed, exact))]);
        assert_eq!((made.refused, made.lacks), (None, None));
    }

    #[test]
    fn a_share_group_and_one_that_could_not_be_read_are_refused_and_one_read_in_part_says_so() {
        let made = |standing: Standing| of("g", &standing, &Places::Same, &Wanted::default());
        let share = made(Standing { kind: SHARE.into(), ..Standing::default() });
        assert_eq!(share.refused.as_deref(), Some(SHARE_GROUP));
        let error = Some("not told".to_owned());
        let unread = made(Standing { error: error.clone(), ..Standing::default() });
        assert!(unread.refused.is_some_and(|why| why.ends_with(": not told")));
        let part = made(Standing { error, ..standing(&[(at("a", 0), Some(7))]) });
        assert!(part.refused.is_none() && part.lacks.is_some() && part.goals.len() == 1);
    }
}
