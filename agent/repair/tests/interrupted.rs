//! Repairs that were killed between two steps: replacements of a log, and the copies that they leave; catalogs.

use super::*;
use crate::archive::catalogs::End;
use crate::archive::catalogs::upkeep::Upkeep;
use crate::archive::source;
use crate::archive::source::opened::Opened;

/// One durable step of a replacement: what an object is after it.
type Effect = (String, Option<Bytes>);

/// Returns the steps in which the log at `first`, whose sound beginning ends at `end`, is replaced, told by how it is before
/// and after.
fn effects(before: &BTreeMap<String, Bytes>, after: &BTreeMap<String, Bytes>, first: i64, end: i64) -> Vec<Effect> {
    let new = |offset: i64| {
        let begins = format!("{FOLDER}{offset:020}.");
        let mut new = after.iter().filter(move |(key, _)| key.starts_with(&begins) && !before.contains_key(*key));
        new.find(|(key, _)| key.ends_with(".index")).map(|(key, bytes)| (key.clone(), Some(bytes.clone())))
    };
    let (log, gap) = (format!("{FOLDER}{}", layout::log(first)), format!("{FOLDER}{}", layout::log(end)));
    let own = new(first).expect("it was made");
    let sidecar = Sidecar::decode(own.1.as_ref().expect("a sidecar")).expect("sound");
    let copy = format!("{FOLDER}{}", survey::copy_name(&Row::of(&sidecar)));
    let old = before.keys().filter(|key| !after.contains_key(*key)).map(|key| (key.clone(), None));
    let mut effects = vec![new(end).expect("a gap"), (gap.clone(), Some(after[&gap].clone())), own];
    effects.push((copy.clone(), Some(after[&log].clone())));
    effects.push((log.clone(), None));
    effects.push((log.clone(), Some(after[&log].clone())));
    effects.push((copy, None));
    effects.extend(old);
    effects
}

/// Returns a copy of an archive to which these steps were done.
async fn after(fixture: &Fixture, effects: &[Effect]) -> Fixture {
    let after = fixture.but(|_, bytes| Some(bytes)).await;
    for (key, bytes) in effects {
        match bytes {
            Some(bytes) => after.create(key, bytes.clone()).await,
            None => after.archive.store().delete(key).await.expect("deleted"),
        }
    }
    after
}

/// Repairs `damaged`, whose log at `first` is sound up to `end`, killed after each step; returns how many there are.
async fn killed_everywhere(damaged: &Fixture, first: i64, end: i64) -> usize {
    let whole = damaged.but(|_, bytes| Some(bytes)).await;
    assert_eq!(does(&repaired(&whole, ACCEPTING).await), ["replace log"]);
    let (before, after) = (objects(&damaged.archive).await, objects(&whole.archive).await);
    let effects = effects(&before, &after, first, end);
    for killed_after in 0..=effects.len() {
        let killed = self::after(damaged, &effects[..killed_after]).await;
        let plan = repaired(&killed, ACCEPTING).await;
        assert!(plan.remaining.is_empty() && verdict(&killed).await == 0, "{killed_after}: {plan:?}");
        // What a resumed one has left over goes with the next.
        let _ = repaired(&killed, ACCEPTING).await;
        let left = objects(&killed.archive).await;
        assert!(left.keys().eq(after.keys()), "{killed_after}: {:?}", left.keys());
        let logs = |objects: &BTreeMap<String, Bytes>| {
            objects.iter().filter(|(key, _)| key.ends_with(".log")).map(|(_, bytes)| bytes.clone()).collect::<Vec<_>>()
        };
        assert_eq!(logs(&left), logs(&after), "{killed_after}");
        let own = &effects[2].0;
        let sidecars = [&after[own], &left[own]].map(|bytes| Sidecar::decode(bytes).expect("sound"));
        assert!(sidecars[0].says_the_same(&sidecars[1]), "{killed_after}: {sidecars:?}");
        assert_eq!(sidecars[0].kind == SegmentKind::First, first == 0);
    }
    effects.len()
}

/// Returns an archive of three segments, whose log at `first` is sound up to the offset `first + 4`.
async fn harmed(first: i64, is_cut: bool, loses_sidecar: bool) -> Fixture {
    let fixture = Fixture::new("b").await;
    for (n, kind) in [(0, SegmentKind::First), (10, SegmentKind::Data), (20, SegmentKind::Data)] {
        fixture.segment("t", 0, n, kind, &[fixture.batch(n, 4), fixture.batch(n + 4, 6)]).await;
    }
    let (log, begins) = (layout::log(first), format!("{first:020}."));
    let harm = |key: &str, bytes: Bytes| {
        let last = bytes.len() - 1;
        if !key.ends_with(&log) {
            return (!loses_sidecar || !key.contains(&begins)).then_some(bytes);
        }
        let mut bytes = bytes.to_vec();
        if is_cut {
            bytes.truncate(last)
        } else {
            bytes[last] ^= 1
        }
        Some(bytes.into())
    };
    fixture.but(harm).await
}

#[tokio::test]
async fn a_replacement_is_finished_from_wherever_it_was_killed_also_of_the_first_log() {
    for first in [0, 10] {
        for (is_cut, loses_sidecar) in [(true, false), (false, false), (false, true)] {
            let steps = killed_everywhere(&harmed(first, is_cut, loses_sidecar).await, first, first + 4).await;
            assert_eq!(steps, if loses_sidecar { 7 } else { 8 });
        }
    }
}

#[tokio::test]
async fn what_is_left_of_a_first_log_begins_the_chain_also_if_its_sidecar_is_lost() {
    let harmed = harmed(0, false, true).await;
    assert_eq!(does(&repaired(&harmed, ACCEPTING).await), ["replace log"]);
    let left = objects(&harmed.archive).await;
    let own = left.iter().find(|(key, _)| key.contains("00000000.") && key.ends_with(".index")).expect("it was made");
    assert_eq!(Sidecar::decode(own.1).expect("sound").kind, SegmentKind::First);
}

#[tokio::test]
async fn a_cut_first_log_is_replaced_though_the_sidecar_of_its_beginning_is_there() {
    let killed = harmed(0, true, false).await;
    let whole = killed.but(|_, bytes| Some(bytes)).await;
    let _ = repaired(&whole, ACCEPTING).await;
    let before = objects(&killed.archive).await;
    let after = objects(&whole.archive).await;
    for (key, bytes) in after.into_iter().filter(|(key, _)| !before.contains_key(key)) {
        killed.create(&key, bytes).await;
    }
    assert_eq!(does(&repaired(&killed, ACCEPTING).await), ["replace log"]);
    assert_eq!(verdict(&killed).await, 0);
}

#[tokio::test]
async fn a_first_log_that_was_deleted_comes_from_its_copy_though_no_begin_tells_of_it() {
    let killed = harmed(0, false, false).await;
    let _ = repaired(&killed, ACCEPTING).await;
    let key = format!("{FOLDER}{}", layout::log(0));
    let log = objects(&killed.archive).await[&key].clone();
    let name = layout::sidecar(0, log.len() as u64, xxhash_rust::xxh3::xxh3_128(&log)).replace(".index", ".log");
    killed.create(&format!("{FOLDER}{}{name}", survey::COPIES), log.clone()).await;
    killed.archive.store().delete(&key).await.expect("deleted");
    assert_eq!(does(&repaired(&killed, ACCEPTING).await), ["finish repair"]);
    let left = objects(&killed.archive).await;
    assert_eq!((left.get(&key), verdict(&killed).await), (Some(&log), 0));
    assert!(!left.keys().any(|key| key.contains(survey::COPIES)));
}

#[tokio::test]
async fn a_copy_without_its_sidecar_is_taken_and_gets_one_with_the_next_run() {
    let fixture = Fixture::new("b").await;
    fixture.segment("t", 0, 0, SegmentKind::First, &[fixture.batch(0, 5)]).await;
    fixture.segment("t", 0, 5, SegmentKind::Data, &[fixture.batch(5, 5)]).await;
    let before = objects(&fixture.archive).await;
    let log = before[&format!("{FOLDER}{}", layout::log(0))].clone();
    let killed = fixture.but(|key, bytes| (!key.contains("00000000.")).then_some(bytes)).await;
    let name = layout::sidecar(0, log.len() as u64, xxhash_rust::xxh3::xxh3_128(&log)).replace(".index", ".log");
    killed.create(&format!("{FOLDER}{}{name}", survey::COPIES), log).await;
    assert_eq!(does(&repaired(&killed, ACCEPTING).await), ["finish repair", "remains: no sidecar"]);
    assert_eq!(does(&repaired(&killed, ACCEPTING).await), ["make sidecar"]);
    assert!(objects(&killed.archive).await.keys().eq(before.keys()) && verdict(&killed).await == 0);
}

#[tokio::test]
async fn a_copy_goes_when_its_log_holds_it_and_is_named_when_nothing_does() {
    let fixture = three().await;
    let log = objects(&fixture.archive).await[&format!("{FOLDER}{}", layout::log(0))].clone();
    let first = log.slice(..crate::batch::entry_bytes(&log).expect("a batch"));
    // The log was brought back whole; of the others one is of no log, one of bytes that its log has not, one of nothing.
    for (offset, bytes) in [(0, first), (7, fixture.batch(7, 3)), (10, fixture.batch(10, 2))] {
        let name = layout::sidecar(offset, bytes.len() as u64, xxhash_rust::xxh3::xxh3_128(&bytes));
        fixture.create(&format!("{FOLDER}{}{}", survey::COPIES, name.replace(".index", ".log")), bytes).await;
    }
    fixture.create(&format!("{FOLDER}{}x", survey::COPIES), Bytes::new()).await;
    let plan = repaired(&fixture, ACCEPTING).await;
    let named = ["remains: damaged object", "remains: damaged object", "remains: unknown object"];
    assert_eq!(does(&plan)[0], "delete debris");
    assert_eq!(does(&plan)[1..], named);
    let left = objects(&fixture.archive).await;
    assert_eq!(left.keys().filter(|key| key.contains(survey::COPIES)).count(), 3);
}

/// An archive that was repaired but for its catalogs, with the steps in which wrong ones are deleted, and those in which
/// new ones are made, which go side by side within a level: in the order of their names, and the other way round.
async fn repaired_but_for_catalogs() -> (Fixture, Vec<Effect>, [Vec<Effect>; 2]) {
    let flip = |key: &str, bytes: Bytes| {
        let mut bytes = bytes.to_vec();
        if key.ends_with("00000100.log") {
            bytes[70] ^= 1;
        }
        Some(bytes.into())
    };
    let fixture = catalogued(38).await;
    let partition = source::timelines(&fixture.archive).await.expect("listed")[0].places[0].partition.clone();
    let _ = fixture.archive.keep_begin(&partition, 0).await.expect("kept");
    let damaged = fixture.but(flip).await;
    let (archive, mut plan) = super::plan(&damaged.root, "b", ACCEPTING).await.expect("planned");
    assert_eq!(does(&plan), ["replace log", "delete catalogs", "make catalogs"]);
    let (Some(Task::MakeCatalogs(made)), Some(Task::DropCatalogs(dropped))) =
        (plan.actions.pop().map(|action| action.task), plan.actions.pop().map(|action| action.task))
    else {
        panic!("{plan:?}")
    };
    perform(&archive, &plan, |_| {}).await.expect("performed");
    let key = |name: &str| format!("{FOLDER}{name}");
    let dropped = dropped.iter().map(|object| (key(&object.name), None)).collect();
    let mut backwards: Vec<_> = made.iter().rev().collect();
    backwards.sort_by_key(|catalog| catalog.level);
    let making = |catalog: &Catalog| (key(&catalog.name().to_string()), Some(catalog.encode()));
    let made = [made.iter().map(making).collect(), backwards.into_iter().map(making).collect()];
    (damaged, dropped, made)
}

#[tokio::test]
async fn catalogs_that_a_killed_repair_has_deleted_are_missed_by_a_check_and_no_reader_and_made_by_the_next() {
    let (fixture, dropped, [made, backwards]) = repaired_but_for_catalogs().await;
    assert_eq!((dropped.len(), made.len()), (6, 6), "the first one of seven is right");
    let whole = after(&fixture, &[&dropped[..], &made].concat()).await;
    let place = source::timelines(&whole.archive).await.expect("listed").remove(0).places.remove(0);
    let read = async |fixture: &Fixture| Opened::read(&fixture.archive, &place).await.expect("opened");
    let (held, rows) = (chains(&whole.archive).await, read(&whole).await.index.iter().collect::<Vec<_>>());
    for effects in [[&dropped[..], &made].concat(), [&dropped[..], &backwards].concat()] {
        for killed_after in 0..=effects.len() {
            let killed = after(&fixture, &effects[..killed_after]).await;
            let is_done = killed_after == effects.len();
            let due = match killed_after {
                _ if is_done => &[][..],
                killed_after if killed_after < dropped.len() => &["delete catalogs", "make catalogs"],
                _ => &["make catalogs"],
            };
            assert_eq!(verdict(&killed).await, if is_done { 0 } else { 4 }, "{killed_after}");
            let tip = killed.archive.tip(&place.partition).await.expect("read");
            assert_eq!(tip.next, Some(380), "{killed_after}");
            if killed_after >= dropped.len() {
                let opened = read(&killed).await;
                assert!(opened.findings.is_empty() && opened.index.iter().eq(rows.iter().copied()), "{killed_after}");
            }
            let plan = repaired(&killed, DEEP).await;
            assert_eq!(does(&plan), due, "{killed_after}");
            assert_eq!(chains(&killed.archive).await, held, "{killed_after}");
        }
    }
}

#[tokio::test]
async fn catalogs_that_a_killed_repair_has_deleted_are_made_by_the_next_writer() {
    let (fixture, dropped, made) = repaired_but_for_catalogs().await;
    let whole = chains(&after(&fixture, &[&dropped[..], &made[0]].concat()).await.archive).await;
    let place = source::timelines(&fixture.archive).await.expect("listed").remove(0).places.remove(0);
    for made in made {
        for killed_after in 0..=made.len() {
            let killed = after(&fixture, &[&dropped[..], &made[..killed_after]].concat()).await;
            let end = End::find(&killed.archive, &place).await.expect("found");
            let (mut upkeep, last) = Upkeep::take_up(&killed.archive, &place, &end).await.expect("taken up");
            assert_eq!(last.map(|last| last.range.next), Some(380), "{killed_after}");
            upkeep.make(&killed.archive, &place).await.expect("made");
            assert_eq!(chains(&killed.archive).await, whole, "{killed_after}");
        }
    }
}
