//! What a restore's objects keep, who wins a race for one, and what is said of damaged ones.

use super::*;
use crate::record::{Offset, OffsetRange, Partition, TopicId};
use crate::restore::map::Pair;

const ASKED: OffsetRange = OffsetRange { first: 0, next: 1000 };

pub(crate) fn memory() -> Store {
    Store::open(&format!("memory://{}", uuid::Uuid::new_v4())).expect("memory").within("b")
}

fn state(store: &Store) -> State {
    State::new(store, "r1").expect("an id")
}

fn pair() -> Pair {
    let partition = |topic: &str| Partition { topic: topic.into(), topic_id: TopicId::NONE, index: 3 };
    Pair { source: partition("orders"), target: partition("orders-restored") }
}

fn plan() -> Plan {
    let target = Target { bootstrap_servers: "kafka-dr:9092".to_owned(), cluster_id: Some("dr".to_owned()) };
    Plan::new("r1", "b", target, &serde_json::json!({"until": null, "topics": ["orders"]})).expect("JSON")
}

pub(crate) fn attempt(producer_id: i64, epoch: i16) -> Attempt {
    let starts = vec![Start::new(pair(), 0, 1)];
    Attempt::new(&plan(), (producer_id, epoch), Process::this(), starts)
}

/// What of the map these runs, each (source, target, length), make.
fn piece(runs: &[(Offset, Offset, u64)]) -> OffsetMap {
    let mut map = OffsetMap::default();
    map.open(&pair(), ASKED, 1).expect("a range");
    for &(source, target, length) in runs {
        map.push(&pair(), source, target, length).expect("in order");
    }
    map
}

pub(crate) fn journal(runs: &[(Offset, Offset, u64)]) -> Journal {
    let map = piece(runs);
    let track = map.get(&pair()).expect("opened");
    let landed = Landed {
        pair: pair(),
        source_next: track.covered(),
        sequences: track.records(),
        target_next: track.target_next(),
        bytes: 100,
    };
    Journal::new("r1", Sum { records: track.records(), bytes: 100, left_out: 0 }, vec![landed], &map)
}

fn done(map_digest: &str) -> Done {
    let outcome = Outcome { pair: pair(), records: 10, end: 11, digest: None };
    Done {
        restore_id: "r1".to_owned(),
        finished_at: "2026-11-22T10:00:00.000Z".to_owned(),
        attempt: 0,
        records: 10,
        left_out: 0,
        bytes: 100,
        map_digest: map_digest.to_owned(),
        partitions: vec![outcome],
    }
}

/// The restore `r1`, of which there is only the plan.
pub(crate) async fn planned(store: &Store) -> State {
    let state = state(store);
    let _ = state.put_plan(&plan()).await.expect("kept");
    state
}

/// The restore `r1`, of which all has landed, and which lacks its last word.
pub(crate) async fn landed(store: &Store) -> State {
    let state = planned(store).await;
    let begun = state.begin(attempt(7, 0)).await.expect("the first");
    let mut journals = state.journals(&begun).await.expect("listed");
    let _ = journals.put(journal(&[(0, 1, 10)])).await.expect("kept");
    let _ = state.put_map(&piece(&[(0, 1, 10)])).await.expect("kept");
    state
}

/// The restore `r1`, which has every kind of object.
pub(crate) async fn whole(store: &Store) -> State {
    let state = landed(store).await;
    let (_, digest) = state.put_map(&piece(&[(0, 1, 10)])).await.expect("kept");
    let _ = state.finish(&done(&digest)).await.expect("kept");
    let _ = state.cancel(&Cancelled::now("r1", Process::this())).await.expect("kept");
    state
}

/// Groups that the restore `r1` puts back.
pub(crate) fn groups() -> Groups {
    let snapshot = KeptAt { place: "s3://state/b".to_owned(), id: "snapshot-20261122-100000".to_owned() };
    Groups::now("r1", Process::this(), snapshot, &serde_json::json!({ "groups": [] })).expect("JSON")
}

/// Keeps that the restore `r1` has put groups back, and is undone.
pub(crate) async fn undone(state: &State) -> Undone {
    let begun = state.begin_groups(0, groups()).await.expect("kept").expect("it is the first");
    let _ = state.end_groups(&GroupsDone::now(&begun, vec!["g".to_owned()], Default::default())).await.expect("kept");
    let topics = vec![UndoneTopic { topic: "orders-restored".to_owned(), topic_id: TopicId::NONE.to_string() }];
    state.undo(&Undone::now("r1", Process::this(), topics)).await.expect("kept").1
}

/// A store like this one, with `change` done to each object of the restore (`None`: it is left out).
async fn but(store: &Store, change: impl Fn(&str, Bytes) -> Option<Bytes>) -> State {
    let other = memory();
    let folder = layout::restore_folder("r1");
    for entry in store.list(&folder).await.expect("listed") {
        let key = format!("{folder}{}", entry.name);
        if let Some(bytes) = change(&entry.name, store.read(&key).await.expect("read").expect("it is")) {
            assert_eq!(other.create(&key, bytes).await.expect("created"), Creation::Created);
        }
    }
    state(&other)
}

#[tokio::test]
async fn what_is_kept_is_read_back_from_memory_and_from_a_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = Store::open(folder.path().to_str().expect("UTF-8")).expect("opened");
    for store in [memory(), root.within("b")] {
        let state = whole(&store).await;
        let seen = state.look().await.expect("read");
        assert_eq!((seen.damaged.len(), seen.strange.len(), seen.phase()), (0, 0, Phase::Done));
        let kept = seen.plan.expect("kept");
        assert_eq!((&kept.digest, &kept.plan), (&plan().digest, &plan().plan));
        let begun = seen.attempt.expect("kept");
        assert_eq!((begun.number, &begun.plan_digest, &begun.starts[0].pair), (0, &kept.digest, &pair()));
        let journal = seen.journal.expect("kept");
        assert_eq!(journal.map().expect("sound"), piece(&[(0, 1, 10)]));
        let landed = Landed { pair: pair(), source_next: 10, sequences: 10, target_next: 11, bytes: 100 };
        assert_eq!((journal.records, journal.landed), (10, vec![landed]));
        assert_eq!(seen.done.map(|done| done.partitions[0].end), Some(11));
        assert!(seen.cancelled.is_some() && state.is_cancelled().await.expect("asked"));
        assert_eq!(restores(&store).await.expect("listed"), ["r1"]);
    }
}

#[tokio::test]
async fn a_plan_that_is_there_holds() {
    let state = state(&memory());
    let first = plan();
    assert_eq!(state.put_plan(&first).await.expect("kept").0, Creation::Created);
    // The answer was lost, and the same one is asked for again.
    assert_eq!(state.put_plan(&first).await.expect("kept").0, Creation::Created);
    let other = Plan::new("r1", "b", first.target.clone(), &serde_json::json!({"until": 5})).expect("JSON");
    let (creation, holds) = state.put_plan(&other).await.expect("read");
    assert_eq!((creation, holds.digest), (Creation::Exists, first.digest));
}

#[tokio::test]
async fn a_plan_reads_back_as_what_it_was_made_of_and_another_is_of_a_newer_program() {
    assert_eq!(plan().read::<serde_json::Value>().expect("a value")["topics"][0], "orders");
    assert_eq!(plan().read::<Vec<u8>>().expect_err("no list").kind(), Kind::Newer);
}

#[tokio::test]
async fn attempts_are_numbered_and_the_older_process_hears_that_it_is_fenced() {
    let state = state(&memory());
    let (older, younger) = (attempt(7, 4), attempt(7, 5));
    let first = state.begin(older.clone()).await.expect("the first");
    assert_eq!(state.begin(younger.clone()).await.expect("a younger one").number, 1);
    let again = state.begin(younger.clone()).await.expect("its own, whose answer was lost");
    assert_eq!((first.number, again.number), (0, 1));
    let error = state.begin(Attempt { process: Process::this(), ..older }).await.expect_err("an older one");
    assert_eq!((error.kind(), error.exit_code()), (Kind::Fenced, 11));
    assert!(error.to_string().contains(&format!("by process {} on ", std::process::id())), "{error}");
    // Producer ids tell nothing of age: an id that has expired is followed by any other.
    assert_eq!(state.begin(attempt(3, 0)).await.expect("a new producer").number, 2);
}

#[tokio::test]
async fn of_processes_that_begin_at_once_each_number_has_one_and_the_youngest_is_never_fenced() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::open(folder.path().to_str().expect("UTF-8")).expect("opened").within("b");
    let begun = (0..8).map(|epoch| {
        let state = state(&store);
        tokio::spawn(async move { state.begin(attempt(7, epoch)).await })
    });
    let mut numbers = Vec::new();
    for (epoch, begun) in begun.collect::<Vec<_>>().into_iter().enumerate() {
        match begun.await.expect("it ends") {
            Ok(attempt) => numbers.push((attempt.number, attempt.epoch)),
            Err(error) => assert!(error.kind() == Kind::Fenced && epoch < 7, "{epoch}: {error}"),
        }
    }
    numbers.sort_unstable();
    assert!(numbers.is_sorted_by(|a, b| a.0 < b.0 && a.1 < b.1), "{numbers:?}");
    assert_eq!(numbers.last().map(|last| last.1), Some(7));
}

#[tokio::test]
async fn journals_pass_over_those_of_an_older_process_and_that_hears_of_the_younger() {
    let state = state(&memory());
    let older = state.begin(attempt(7, 0)).await.expect("the first");
    let mut late = state.journals(&older).await.expect("listed");
    let younger = state.begin(attempt(7, 1)).await.expect("the second");
    let mut journals = state.journals(&younger).await.expect("listed");
    // The older one had not heard yet that it was fenced.
    assert_eq!(late.put(journal(&[(0, 1, 10)])).await.expect("kept").number, 0);
    let kept = journals.put(journal(&[(10, 12, 5)])).await.expect("kept");
    assert_eq!((kept.number, kept.attempt), (1, 1));
    let error = late.put(journal(&[(0, 1, 20)])).await.expect_err("fenced");
    assert!(error.kind() == Kind::Fenced && error.to_string().contains("(attempt 1, "), "{error}");
    let seen = state.look().await.expect("read");
    assert_eq!(seen.resumed_from().map(|journal| journal.number), Some(1));
}

#[tokio::test]
async fn a_journal_whose_answer_was_lost_is_kept_once() {
    let state = state(&memory());
    let begun = state.begin(attempt(7, 0)).await.expect("the first");
    let journal = journal(&[(0, 1, 10)]);
    let again = state.journals(&begun).await.expect("listed").put(journal.clone()).await.expect("kept");
    let mut journals = Journals::new(state.clone(), 0, 0);
    assert_eq!(journals.put(journal).await.expect("it is its own"), again);
    assert_eq!(state.look().await.expect("read").journals, [0]);
}

#[tokio::test]
async fn an_attempt_without_a_journal_goes_on_from_its_own_beginning() {
    let state = state(&memory());
    let older = state.begin(attempt(7, 0)).await.expect("the first");
    let _ = state.journals(&older).await.expect("listed").put(journal(&[(0, 1, 10)])).await.expect("kept");
    let _ = state.begin(attempt(7, 1)).await.expect("the second");
    let seen = state.look().await.expect("read");
    assert_eq!((seen.resumed_from(), seen.journal.as_ref().map(|journal| journal.attempt)), (None, Some(0)));
}

#[tokio::test]
async fn the_map_of_a_restore_that_goes_on_is_what_its_journals_say_together() {
    let state = state(&memory());
    let older = state.begin(attempt(7, 0)).await.expect("the first");
    let mut late = state.journals(&older).await.expect("listed");
    let _ = late.put(journal(&[(0, 1, 10)])).await.expect("kept");
    let younger = state.begin(attempt(7, 1)).await.expect("the second");
    let mut journals = state.journals(&younger).await.expect("listed");
    // Late, of the older one; the younger found the same and more in the target, and goes on behind its marker.
    let _ = late.put(journal(&[(10, 11, 5)])).await.expect("kept");
    let _ = journals.put(journal(&[(10, 11, 8), (20, 20, 5)])).await.expect("kept");
    let seen = state.look().await.expect("read");
    let map = state.offset_map(&seen).await.expect("sound").expect("there are journals");
    assert_eq!(map, piece(&[(0, 1, 18), (20, 20, 5)]));
}

#[tokio::test]
async fn a_journal_that_is_missing_or_damaged_is_no_map_with_a_hole() {
    let store = memory();
    let begun = state(&store).begin(attempt(7, 0)).await.expect("the first");
    let mut journals = state(&store).journals(&begun).await.expect("listed");
    for n in 0..3 {
        let _ = journals.put(journal(&[(n * 10, n * 10 + 1, 10)])).await.expect("kept");
    }
    let missing = but(&store, |name, bytes| (name != "journal-1").then_some(bytes)).await;
    let cut = but(&store, |name, bytes| Some(if name == "journal-1" { bytes.slice(9..) } else { bytes })).await;
    for state in [missing, cut] {
        let seen = state.look().await.expect("read");
        assert_eq!(seen.journal.as_ref().map(|journal| journal.number), Some(2), "the newest can be read");
        let error = state.offset_map(&seen).await.expect_err("a hole");
        assert!(error.kind() == Kind::Damaged && error.to_string().contains("restores/r1/journal-1"), "{error}");
    }
}

#[tokio::test]
async fn the_newest_that_can_be_read_is_taken_and_the_damaged_ones_are_named() {
    let store = memory();
    let state = state(&store);
    let _ = state.begin(attempt(7, 0)).await.expect("the first");
    let _ = state.begin(attempt(7, 1)).await.expect("the second");
    let broken = but(&store, |name, bytes| Some(if name == "attempt-1" { bytes.slice(1..) } else { bytes })).await;
    let seen = broken.look().await.expect("read");
    assert_eq!((seen.attempt.as_ref().map(|attempt| attempt.number), seen.damaged.len()), (Some(0), 1));
    assert!(seen.damaged[0].to_string().contains("restores/r1/attempt-1"), "{}", seen.damaged[0]);
    assert_eq!(broken.begin(attempt(7, 2)).await.expect("it goes on behind it").number, 2);
}

#[tokio::test]
async fn a_restore_is_planned_then_running_then_done_or_cancelled() {
    let state = state(&memory());
    let phase = || async { state.look().await.expect("read").phase() };
    let _ = state.put_plan(&plan()).await.expect("kept");
    assert_eq!(phase().await, Phase::Planned);
    let _ = state.begin(attempt(7, 0)).await.expect("the first");
    assert_eq!(phase().await, Phase::Running);
    let _ = state.cancel(&Cancelled::now("r1", Process::this())).await.expect("kept");
    assert_eq!(phase().await, Phase::Cancelled);
    let _ = state.put_map(&piece(&[(0, 1, 10)])).await.expect("kept");
    assert_eq!(phase().await, Phase::Running, "all has landed: it lacks its last word alone");
    let _ = state.finish(&done("")).await.expect("kept");
    assert_eq!(phase().await, Phase::Done);
}

#[tokio::test]
async fn an_object_in_another_ones_place_gives_itself_away() {
    let store = memory();
    let _ = whole(&store).await;
    let plan = store.read("restores/r1/plan").await.expect("read").expect("it is");
    let journal = store.read("restores/r1/journal-0").await.expect("read").expect("it is");
    let other = memory();
    for (key, bytes) in [("restores/r2/plan", plan), ("restores/r2/journal-1", journal)] {
        let _ = other.create(key, bytes).await.expect("created");
    }
    let seen = State::new(&other, "r2").expect("an id").look().await.expect("read");
    assert_eq!(seen.damaged.len(), 2);
    assert!(seen.damaged[0].to_string().contains("it is the plan of the restore `r1`"), "{}", seen.damaged[0]);
}

#[tokio::test]
async fn a_map_that_is_not_the_one_that_was_finished_is_damage() {
    let store = memory();
    let _ = whole(&store).await;
    let other = piece(&[(0, 2, 10)]).encode();
    let state = but(&store, |name, bytes| Some(if name == "map" { other.clone() } else { bytes })).await;
    let seen = state.look().await.expect("read");
    assert_eq!(state.offset_map(&seen).await.expect_err("another").kind(), Kind::Damaged);
}

#[tokio::test]
async fn a_restore_that_is_not_there_is_told_with_those_that_are() {
    let store = memory();
    let error = State::open(&store, "r1").await.err().expect("none is there");
    assert!(error.to_string().ends_with("there is no restore of that backup at all"), "{error}");
    let _ = whole(&store).await;
    let error = State::open(&store, "r2").await.err().expect("it is not there");
    assert!(error.exit_code() == 10 && error.to_string().ends_with("there is: r1"), "{error}");
    assert_eq!(State::new(&store, "../r1").err().map(|error| error.kind()), Some(Kind::Usage));
    let _ = State::open(&store, "r1").await.expect("it is there");
}
