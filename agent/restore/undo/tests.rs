//! What becomes of a topic, as far as what is kept and what the cluster tells of its id go.

use super::*;
use crate::kafka::client::PartitionMetadata;
use crate::restore::map::Pair;
use crate::restore::plan::{Cut, NewTopic, TopicPlan};
use crate::restore::state::{Start, tests as state};

fn id(number: u128) -> TopicId {
    TopicId(uuid::Uuid::from_u128(number))
}

fn topic_plan(target: &str, is_made: bool) -> TopicPlan {
    let create = is_made.then(|| NewTopic {
        partitions: 1,
        replication_factor: 1,
        configs: Vec::new(),
        meanwhile: Vec::new(),
        afterwards: Vec::new(),
    });
    let plan = serde_json::json!({
        "source": target, "topic_id": "_", "target": target, "create": create, "most_bytes": 1000, "partitions": [],
    });
    serde_json::from_value(plan).expect("a topic's plan")
}

/// A restore to `made`, which it made, and `old`; its attempts have met `made` by these ids.
fn kept(ids: &[TopicId]) -> Kept {
    let plan = Plan {
        request: String::new(),
        cut: Cut::default(),
        merge_below: 0,
        topics: vec![topic_plan("made", true), topic_plan("old", false)],
        stages: Vec::new(),
        keeps: Cut::default(),
        routed: Vec::new(),
        vacant: Vec::new(),
        hazards: Vec::new(),
    };
    let partition = |topic: &str, topic_id| Partition { topic: topic.into(), topic_id, index: 0 };
    let attempt = |topic_id: &TopicId| {
        let pair = Pair { source: partition("made", TopicId::NONE), target: partition("made", *topic_id) };
        let start = Start { pair, ..state::attempt(7, 0).starts[0].clone() };
        Attempt { starts: vec![start], ..state::attempt(7, 0) }
    };
    let attempts = ids.iter().map(attempt).collect();
    Kept { plan, attempts, is_done: true, is_transactional: false, undone: BTreeMap::new() }
}

fn told(name: &str, topic_id: TopicId, code: i16) -> TopicMetadata {
    let partitions = vec![PartitionMetadata::default()];
    TopicMetadata { name: name.to_owned(), topic_id, code, internal: false, partitions }
}

#[track_caller]
fn assert_fate(kept: &Kept, told: Option<TopicMetadata>, action: Action, words: &str) {
    let fate = kept.fate("made", told.as_ref());
    assert!(fate.action == action && fate.why.contains(words), "{fate:?}");
}

#[test]
fn only_the_topic_that_the_restore_made_is_deleted() {
    let once = kept(&[id(1), id(1)]);
    assert_fate(&once, Some(told("made", id(1), 0)), Action::Delete, "the restore made it");
    assert_fate(&once, Some(told("made", id(2), 0)), Action::Keep, "made anew since");
    assert!(!once.fate("made", Some(&told("made", id(2), 0))).is_left(), "the one that it made is gone");
    assert_fate(&once, Some(told("made", id(1), 3)), Action::Gone, "not there any more");
    assert_fate(&once, None, Action::Gone, "not there any more");
    assert_fate(&once, Some(told("made", id(1), 29)), Action::Keep, "TopicAuthorizationFailed");
    let old = once.fate("old", Some(&told("old", id(9), 0)));
    assert_eq!((old.action, old.why.as_str(), old.is_left()), (Action::Keep, "it was there before the restore", false));
    assert_eq!(once.topics(), ["made", "old"]);
}

#[test]
fn a_topic_of_which_no_id_is_known_or_several_are_stays() {
    assert_fate(&kept(&[]), Some(told("made", TopicId::NONE, 0)), Action::Keep, "no one id");
    assert_fate(&kept(&[TopicId::NONE]), Some(told("made", TopicId::NONE, 0)), Action::Keep, "no one id");
    let several = kept(&[id(1), id(2)]);
    assert_fate(&several, Some(told("made", id(2), 0)), Action::Keep, "no one id");
    assert!(several.fate("made", Some(&told("made", id(2), 0))).is_left());
}

#[test]
fn the_fence_is_set_in_all_partitions_that_attempts_name_and_that_are_still_there() {
    let twice = kept(&[id(1), id(1)]);
    let begun = |there: TopicMetadata| twice.begun(&[("made", &there)].into());
    let made = Partition { topic: "made".into(), topic_id: id(1), index: 0 };
    assert_eq!(begun(told("made", id(1), 0)), [made]);
    let none: [Partition; 0] = [];
    assert_eq!(begun(told("made", id(2), 0)), none, "it was made anew");
    assert_eq!(begun(told("made", id(1), 3)), none, "it is not there");
    assert_eq!(begun(TopicMetadata { partitions: Vec::new(), ..told("made", id(1), 0) }), none);
    assert_eq!(twice.begun(&HashMap::new()), none);
}

#[test]
fn a_restore_that_has_neither_landed_nor_was_cancelled_may_still_run_also_without_an_attempt() {
    let seen = |names: &[Name]| Seen {
        names: names.to_vec(),
        attempts: names.iter().filter(|name| matches!(name, Name::Attempt(_))).map(|_| 0).collect(),
        ..Seen::default()
    };
    for names in [&[Name::Plan][..], &[Name::Plan, Name::Attempt(0)], &[Name::Plan, Name::Attempt(0), Name::Journal(0)]]
    {
        let error = check_ended("r1", &seen(names)).expect_err("it may run");
        assert!(error.exit_code() == 2 && error.to_string().contains("may still run"), "{names:?}: {error}");
        let ended = [Name::Cancelled, Name::Map, Name::Done, Name::Undone];
        ended.iter().for_each(|last| check_ended("r1", &seen(&[names, &[*last]].concat())).expect("nobody goes on"));
    }
}

#[test]
fn nobody_goes_on_with_a_restore_that_was_undone() {
    let seen = |last| Seen { names: vec![Name::Plan, Name::Map, last], ..Seen::default() };
    let error = check_undone("r1", &seen(Name::Undone)).expect_err("its topics are deleted");
    assert!(error.exit_code() == 2 && error.to_string().contains("was undone"), "{error}");
    check_undone("r1", &seen(Name::Cancelled)).expect("its topics are there");
}

#[test]
fn a_topic_that_was_made_and_to_which_nothing_was_sent_is_deleted_and_not_the_one_that_came_after_it() {
    let unsent = kept(&[]);
    let fate = unsent.fate("made", Some(&told("made", id(1), 0)));
    assert_eq!((fate.action, fate.topic_id, fate.is_unsent), (Action::Delete, Some(id(1)), true));
    assert!(fate.why.contains("nothing was sent to it"), "{fate:?}");
    assert_fate(&unsent, None, Action::Gone, "not there any more");
    // An undoing before has deleted it.
    let again = Kept { undone: [("made".to_owned(), id(1))].into(), ..kept(&[]) };
    assert_fate(&again, Some(told("made", id(2), 0)), Action::Keep, "made anew since");
    assert_fate(&again, Some(told("made", id(1), 0)), Action::Delete, "nothing was sent to it");
    let old = unsent.fate("old", Some(&told("old", id(9), 0)));
    assert!(old.action == Action::Keep && !old.is_unsent, "{old:?}");
}
