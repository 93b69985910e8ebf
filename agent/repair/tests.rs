//! Damaged archives in memory: what is planned, what comes of it, and that nothing else is touched.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::perform::perform;
use super::*;
use crate::archive::savepoint::tests::durable;
use crate::archive::sidecar::{Kind as SegmentKind, Sidecar};
use crate::archive::source::tests::{Fixture, three};
use crate::archive::{Archive, catalog, layout};
use crate::error::Kind;
use crate::verify::{self, Mode};

mod altered;
mod changed;
mod cut;
mod inside;
mod interrupted;
mod letters;
mod staged;

const FOLDER: &str = "topics/t/_/0/";

/// Returns every object below the backup's folder.
async fn objects(archive: &Archive) -> BTreeMap<String, Bytes> {
    let (store, mut found, mut folders) = (archive.store(), BTreeMap::new(), vec![String::new()]);
    while let Some(folder) = folders.pop() {
        for entry in store.list(&folder).await.expect("listed") {
            let key = format!("{folder}{}", entry.name);
            if entry.is_folder {
                folders.push(format!("{key}/"));
            } else {
                let bytes = store.read(&key).await.expect("read").expect("it is there");
                let _ = found.insert(key, bytes);
            }
        }
    }
    found
}

async fn planned(fixture: &Fixture, options: Options<'_>) -> Plan {
    plan(&fixture.root, "b", options).await.expect("planned").1
}

/// Repairs, and returns the plan that was performed.
async fn repaired(fixture: &Fixture, options: Options<'_>) -> Plan {
    let (archive, plan) = super::plan(&fixture.root, "b", options).await.expect("planned");
    perform(&archive, &plan, |_| {}).await.expect("performed");
    plan
}

/// Returns what a check of every byte comes to: an exit code.
async fn verdict(fixture: &Fixture) -> u8 {
    let archive = Archive::open(&fixture.root, "b").await.expect("opened");
    let report = verify::check(&archive, Mode::Deep).await.expect("checked");
    report.verdict().map_or_else(|error| error.exit_code(), |()| 0)
}

fn does(plan: &Plan) -> Vec<String> {
    plan.lines().iter().map(|line| line.act.to_string()).collect()
}

const ACCEPTING: Options<'static> = Options { accept_loss: true, deep: true, cluster_id: None, source: None };
const DEEP: Options<'static> = Options { accept_loss: false, ..ACCEPTING };

/// Returns every object of the topics.
async fn chains(archive: &Archive) -> BTreeMap<String, Bytes> {
    let mut objects = objects(archive).await;
    objects.retain(|key, _| key.starts_with(layout::TOPICS));
    objects
}

/// An archive of 43 segments with their catalogs, a gap among them.
async fn many() -> Fixture {
    catalogued(43).await
}

/// An archive of as many segments with their catalogs, the eighth a gap.
async fn catalogued(segments: i64) -> Fixture {
    let fixture = Fixture::new("b").await;
    fixture.topic("t", "_", 1).await;
    for n in 0..segments {
        let kind = if n == 0 { SegmentKind::First } else { SegmentKind::Data };
        match n {
            7 => fixture.gap_of("t", "_", 0, 70..80).await,
            _ => fixture.segment("t", 0, n * 10, kind, &[fixture.batch(n * 10, 4), fixture.batch(n * 10 + 4, 6)]).await,
        }
    }
    let _ = repaired(&fixture, Options::default()).await;
    fixture
}

#[tokio::test]
async fn a_sound_backup_is_left_alone() {
    let fixture = three().await;
    let plan = planned(&fixture, DEEP).await;
    assert!(plan.is_empty() && plan.remaining.is_empty(), "{plan:?}");
    let fixture = many().await;
    let plan = planned(&fixture, DEEP).await;
    assert!(plan.is_empty() && plan.remaining.is_empty(), "{plan:?}");
}

#[tokio::test]
async fn catalogs_are_made_anew_to_the_byte() {
    let fixture = many().await;
    let before = chains(&fixture.archive).await;
    assert_eq!(before.keys().filter(|key| key.contains(catalog::FOLDER)).count(), 8);
    let stripped = fixture.but(|key, bytes| (!key.contains(catalog::FOLDER)).then_some(bytes)).await;
    let _ = repaired(&stripped, Options::default()).await;
    let damaged = fixture.but(|key, bytes| match key {
        key if key.ends_with("1/00000000000000000060-00000000000000000120") => Some(bytes.slice(1..)),
        key if key.contains("catalog/2/") => None,
        _ => Some(bytes),
    });
    let damaged = damaged.await;
    let plan = repaired(&damaged, Options::default()).await;
    assert_eq!(does(&plan), ["delete catalogs", "make catalogs"]);
    for other in [&stripped, &damaged] {
        assert_eq!(before, chains(&other.archive).await);
    }
}

#[tokio::test]
async fn sidecars_are_made_anew_from_their_logs() {
    let fixture = many().await;
    // Without catalogs the reason of the gap and the times are lost; with them nothing is.
    for keeps in [true, false] {
        let stripped = fixture
            .but(|key, bytes| (!key.ends_with(".index") && (keeps || !key.contains(catalog::FOLDER))).then_some(bytes))
            .await;
        let plan = repaired(&stripped, Options::default()).await;
        assert_eq!(does(&plan).iter().filter(|act| *act == "make sidecar").count(), 43);
        assert!(plan.remaining.is_empty() && verdict(&stripped).await == 0);
        let (before, after) = (objects(&fixture.archive).await, objects(&stripped.archive).await);
        for (key, bytes) in before.iter().filter(|(key, _)| key.ends_with(".index")) {
            let sidecars = [bytes, &after[key]].map(|bytes| Sidecar::decode(bytes).expect("sound"));
            let [was, is] = sidecars.map(|sidecar| Sidecar { note: String::new(), ..sidecar });
            // The last one is in no catalog.
            if keeps && was.range.first < 420 {
                assert_eq!(was, is);
            }
            assert_eq!(Sidecar { sealed_at: is.sealed_at, ..was }, is);
        }
        let gap = after.iter().find(|(key, _)| key.contains("00000070.") && key.ends_with(".index")).expect("a gap");
        let note = Sidecar::decode(gap.1).expect("sound").note;
        assert_eq!(note == "retention", keeps, "{note}");
    }
}

#[tokio::test]
async fn a_lost_log_becomes_a_gap_only_when_the_loss_is_accepted() {
    let fixture = many().await;
    let lost = fixture.but(|key, bytes| (!key.ends_with("00000100.log")).then_some(bytes)).await;
    let plan = planned(&lost, Options::default()).await;
    assert_eq!(does(&plan), ["remains: hole"]);
    assert!(plan.lines()[0].detail.contains("they were 10 records"), "{:?}", plan.lines());
    let plan = repaired(&lost, ACCEPTING).await;
    assert_eq!(does(&plan), ["declare gap", "delete catalogs", "make catalogs"]);
    assert_eq!(verdict(&lost).await, 0);
    assert!(planned(&lost, DEEP).await.is_empty());
}

#[tokio::test]
async fn what_a_restore_keeps_is_left_alone() {
    let fixture = many().await;
    let _ = crate::restore::state::tests::whole(fixture.archive.store()).await;
    let lost = fixture.but(|key, bytes| (!key.ends_with("00000100.log")).then_some(bytes)).await;
    let kept = |objects: BTreeMap<String, Bytes>| -> BTreeMap<_, _> {
        objects.into_iter().filter(|(key, _)| key.starts_with(layout::RESTORES)).collect()
    };
    let before = kept(objects(&lost.archive).await);
    let _ = repaired(&lost, ACCEPTING).await;
    assert_eq!((before.len(), kept(objects(&lost.archive).await)), (6, before));
}

#[tokio::test]
async fn what_catalogs_alone_tell_stays_until_all_that_is_made_of_it_is_there() {
    let fixture = many().await;
    let harmed =
        fixture.but(|key, bytes| (!key.ends_with(".index") && !key.ends_with("00000100.log")).then_some(bytes)).await;
    let acts = does(&planned(&harmed, ACCEPTING).await);
    let dropped = acts.iter().position(|act| act == "delete catalogs").expect("some say what is no more");
    assert!(acts[..dropped].iter().filter(|act| *act == "make sidecar").count() > 40, "{acts:?}");
    assert_eq!(acts[dropped..], ["delete catalogs", "make catalogs"]);
}

#[tokio::test]
async fn of_a_damaged_log_what_is_sound_is_kept() {
    let fixture = many().await;
    for (position, kept, pieces) in [(70, 6, 2), (0, 6, 2), (200, 4, 2)] {
        let damaged = fixture
            .but(|key, bytes| {
                let mut bytes = bytes.to_vec();
                if key.ends_with("00000100.log") {
                    let at = if position == 200 { bytes.len() - 5 } else { position };
                    bytes[at] ^= 1;
                }
                Some(bytes.into())
            })
            .await;
        let plan = planned(&damaged, DEEP).await;
        assert_eq!(does(&plan), ["remains: damaged log"]);
        let plan = repaired(&damaged, ACCEPTING).await;
        assert_eq!(does(&plan), ["replace log", "delete catalogs", "make catalogs"]);
        let Task::Replace(replacement) = &plan.actions[0].task else { panic!("{plan:?}") };
        assert_eq!(replacement.parts.len(), pieces);
        assert_eq!(replacement.parts.iter().map(|part| part.row.records).sum::<u64>(), kept);
        assert_eq!(verdict(&damaged).await, 0);
        assert!(planned(&damaged, DEEP).await.is_empty());
        assert!(!objects(&damaged.archive).await.keys().any(|key| key.contains(survey::COPIES)));
    }
}

#[tokio::test]
async fn a_log_that_lost_its_end_keeps_its_beginning() {
    let fixture = many().await;
    let cut = fixture.but(|key, bytes| {
        let first = crate::batch::entry_bytes(&bytes).unwrap_or(0);
        Some(if key.ends_with("00000100.log") { bytes.slice(..first) } else { bytes })
    });
    let cut = cut.await;
    assert_eq!(does(&planned(&cut, Options::default()).await), ["remains: damaged log"]);
    let _ = repaired(&cut, ACCEPTING).await;
    assert_eq!(verdict(&cut).await, 0);
    let log = cut.archive.store().read(&format!("{FOLDER}{}", layout::log(104))).await.expect("read").expect("a gap");
    assert!(crate::batch::Header::read(&log).expect("sound").is_gap());
}

#[tokio::test]
async fn the_end_of_a_chain_is_left_alone() {
    let fixture = three().await;
    let damaged = fixture.but(|key, bytes| {
        let mut bytes = bytes.to_vec();
        if key.ends_with("00000015.log") {
            bytes[70] ^= 1;
        }
        Some(bytes.into())
    });
    let plan = planned(&damaged.await, ACCEPTING).await;
    assert_eq!(does(&plan), ["remains: damaged log"]);
}

#[tokio::test]
async fn a_last_log_that_lost_its_end_gets_a_sidecar_only_when_the_loss_is_accepted() {
    let fixture = Fixture::new("b").await;
    fixture.segment("t", 0, 0, SegmentKind::First, &[fixture.batch(0, 5), fixture.batch(5, 5)]).await;
    let first = crate::batch::entry_bytes(&fixture.batch(0, 5)).expect("a batch");
    let cut = fixture.but(|key, bytes| Some(if key.ends_with(".log") { bytes.slice(..first) } else { bytes })).await;
    let plan = planned(&cut, DEEP).await;
    assert_eq!(does(&plan), ["remains: damaged log"]);
    assert!(plan.lines()[0].detail.contains("5 of 10 records"), "{:?}", plan.lines());
    assert_eq!(does(&repaired(&cut, ACCEPTING).await), ["make sidecar"]);
    assert_eq!(verdict(&cut).await, 0);
}

#[tokio::test]
async fn debris_goes_only_where_it_is_proven() {
    let fixture = three().await;
    fixture.segment("t", 0, 4, SegmentKind::Data, &[fixture.batch(4, 3)]).await;
    let unfinished = Fixture::new("b").await;
    unfinished.segment("t", 0, 20, SegmentKind::Data, &[unfinished.batch(20, 5)]).await;
    for (key, bytes) in objects(&unfinished.archive).await.into_iter().filter(|(key, _)| key.ends_with(".index")) {
        fixture.create(&key, bytes.clone()).await;
        // A loser's, of another length.
        let sidecar = Sidecar::decode(&bytes).expect("sound");
        let loser = Sidecar { range: OffsetRange { first: 10, next: 12 }, ..sidecar };
        fixture
            .create(&format!("{FOLDER}{}", layout::sidecar(10, loser.length_bytes, loser.digest)), loser.encode())
            .await;
    }
    let plan = repaired(&fixture, Options::default()).await;
    assert_eq!(does(&plan), ["delete debris", "delete debris", "delete debris"]);
    let left = objects(&fixture.archive).await;
    assert_eq!(left.keys().filter(|key| key.starts_with(layout::TOPICS)).count(), 6, "{:?}", left.keys());
    assert_eq!(verdict(&fixture).await, 0);
    // Beside a damaged segment nothing inside its range is proven to be debris.
    let fixture = three().await;
    fixture.segment("t", 0, 4, SegmentKind::Data, &[fixture.batch(4, 3)]).await;
    let damaged = fixture.but(|key, bytes| {
        let mut bytes = bytes.to_vec();
        if key.ends_with("00000000.log") {
            bytes[70] ^= 1;
        }
        Some(bytes.into())
    });
    assert!(planned(&damaged.await, Options::default()).await.is_empty());
}

#[tokio::test]
async fn a_lost_backup_json_is_made_with_what_is_known() {
    let fixture = three().await;
    fixture.archive.store().delete(layout::BACKUP).await.expect("deleted");
    let plan = planned(&fixture, Options::default()).await;
    assert!(
        does(&plan) == ["make backup.json"] && plan.notes.iter().any(|note| note.contains("--cluster-id")),
        "{plan:?}"
    );
    let _ = repaired(&fixture, Options { cluster_id: Some("c"), ..Options::default() }).await;
    let archive = Archive::open(&fixture.root, "b").await.expect("opened");
    assert_eq!(archive.backup().cluster_id.as_deref(), Some("c"));
    let nothing = super::plan(&fixture.root, "other", Options::default()).await.err().expect("nothing is there");
    assert_eq!(nothing.kind(), Kind::NoBackup);
}

#[tokio::test]
async fn what_changed_since_the_plan_is_not_deleted() {
    let fixture = three().await;
    let name = format!("{FOLDER}{}", layout::sidecar(5, 9, 1));
    fixture.create(&name, Bytes::from_static(b"debris")).await;
    let (archive, plan) = super::plan(&fixture.root, "b", Options::default()).await.expect("planned");
    assert_eq!(does(&plan), ["delete debris"]);
    archive.store().delete(&name).await.expect("deleted");
    fixture.create(&name, Bytes::from_static(b"something else")).await;
    let error = perform(&archive, &plan, |_| {}).await.expect_err("changed");
    assert!(error.kind() == Kind::Fenced && error.to_string().contains("0000005.9-"), "{error}");
    assert!(archive.store().exists(&name).await.expect("asked"));
}

#[tokio::test]
async fn a_damaged_sidecar_and_a_damaged_begin_are_replaced() {
    let fixture = three().await;
    let begin = crate::archive::begin::Begin {
        topic_id: "_".into(),
        partition: 0,
        offset: 0,
        created: String::new(),
        created_by: String::new(),
    };
    fixture.create(&format!("{FOLDER}{}", layout::BEGIN), crate::archive::sealed::pretty(&begin)).await;
    let damaged = fixture.but(|key, bytes| {
        let is_one = key.ends_with(layout::BEGIN) || (key.contains("00000010.") && key.ends_with(".index"));
        Some(if is_one { bytes.slice(..bytes.len() - 1) } else { bytes })
    });
    let damaged = damaged.await;
    let plan = repaired(&damaged, Options::default()).await;
    assert_eq!(does(&plan), ["make begin.json", "make sidecar"]);
    assert_eq!(verdict(&damaged).await, 0);
}

/// An archive whose third producer aborts across segments, and whose other two commit, in segments of two batches.
async fn transactions() -> Fixture {
    use crate::batch::transactions::OpenTransactions;
    use crate::record::AbortedTransaction;

    let fixture = Fixture::new("b").await;
    let batches = [
        fixture.transactional(0, 2, 7),
        fixture.transactional(2, 2, 9),
        fixture.transactional(4, 2, 8),
        fixture.batch(6, 2),
        fixture.transactional(8, 2, 9),
        fixture.marker(10, 7, true),
        fixture.transactional(11, 2, 9),
        fixture.transactional(13, 2, 7),
        fixture.marker(15, 9, false),
        fixture.marker(16, 8, true),
        fixture.transactional(17, 2, 9),
        fixture.marker(19, 7, false),
        fixture.marker(20, 9, true),
        fixture.batch(21, 3),
    ];
    let aborted = [AbortedTransaction { producer_id: 9, first: 2 }, AbortedTransaction { producer_id: 7, first: 13 }];
    let mut open = OpenTransactions::default();
    for pair in batches.chunks(2) {
        let first = crate::batch::Header::read(&pair[0]).expect("sound").base_offset;
        let last = crate::batch::Header::read(&pair[1]).expect("sound").last_offset();
        let told = |aborted: &&AbortedTransaction| {
            let marker = if aborted.producer_id == 9 { 15 } else { 19 };
            aborted.first <= last && marker >= first
        };
        let told: Vec<_> = aborted.iter().filter(told).copied().collect();
        open = fixture.segment_aborting(first, pair, &told, open).await;
    }
    fixture
}

#[tokio::test]
async fn whichever_sidecars_are_lost_the_same_transactions_are_known_again() {
    let fixture = transactions().await;
    let before = objects(&fixture.archive).await;
    let sidecars: Vec<_> = before.keys().filter(|key| key.ends_with(".index")).cloned().collect();
    assert_eq!(sidecars.len(), 7);
    for lost in 1_u32..1 << sidecars.len() {
        let is_lost = |key: &str| sidecars.iter().position(|one| one == key).is_some_and(|at| lost & (1 << at) != 0);
        let stripped = fixture.but(|key, bytes| (!is_lost(key)).then_some(bytes)).await;
        let plan = repaired(&stripped, Options::default()).await;
        assert!(plan.remaining.is_empty() && verdict(&stripped).await == 0, "{lost:b}: {plan:?}");
        let after = objects(&stripped.archive).await;
        for name in &sidecars {
            let [was, is] = [&before[name], &after[name]].map(|bytes| Sidecar::decode(bytes).expect("sound"));
            assert!(was.says_the_same(&is), "{lost:b}: {was:?} {is:?}");
            assert_eq!((was.records, was.first_record, was.last_record), (is.records, is.first_record, is.last_record));
        }
    }
}

#[tokio::test]
async fn a_fork_is_repaired_as_its_own_chain() {
    let fixture = three().await;
    let fork = crate::archive::layout::Fork { epoch: 3, end: 12 };
    fixture.fork_segment(fork, &[fixture.batch(10, 5)]).await;
    fixture.fork_segment_at(fork, 15, &[fixture.batch(15, 2)]).await;
    let stripped = fixture.but(|key, bytes| (!(key.contains("0@3-12/") && key.ends_with("index"))).then_some(bytes));
    let stripped = stripped.await;
    assert_eq!(does(&repaired(&stripped, Options::default()).await), ["make sidecar", "make sidecar"]);
    let of_fork = |key: &&String| key.contains("0@3-12/") && key.ends_with("12.index");
    assert_eq!(verdict(&stripped).await, 0);
    let (before, after) = (objects(&fixture.archive).await, objects(&stripped.archive).await);
    assert_eq!(before.keys().filter(of_fork).count(), after.keys().filter(of_fork).count());
    // A fork that never came to a commit is debris after a day.
    let begun = fixture.but(|key, bytes| (!(key.contains("0@3-12/") && key.ends_with("log"))).then_some(bytes)).await;
    let plan = planned(&begun, Options::default()).await;
    assert_eq!(does(&plan), ["remains: hole"], "the second one was seen behind the first");
    let begun = begun.but(|key, bytes| (!key.contains("0@3-12/00000000000000000015")).then_some(bytes)).await;
    assert_eq!(does(&repaired(&begun, Options::default()).await), ["delete debris"]);
}

#[tokio::test]
async fn a_savepoint_knows_the_cluster_and_that_an_end_is_lost() {
    let fixture = three().await;
    let mut savepoint = durable(0, None, &[("0", 20)]);
    savepoint.state.cluster_id = Some("of-savepoint".into());
    fixture.savepoint(&savepoint).await;
    fixture.archive.store().delete(layout::BACKUP).await.expect("deleted");
    fixture.archive.store().delete(&format!("{FOLDER}{}", layout::log(15))).await.expect("deleted");
    let plan = planned(&fixture, ACCEPTING).await;
    assert_eq!(does(&plan), ["make backup.json", "remains: hole"], "its sidecar is no debris");
    assert_eq!(plan.remaining[0].finding.range, Some(OffsetRange { first: 15, next: 20 }));
    let _ = repaired(&fixture, ACCEPTING).await;
    let archive = Archive::open(&fixture.root, "b").await.expect("opened");
    assert_eq!(archive.backup().cluster_id.as_deref(), Some("of-savepoint"));
    assert_eq!(verdict(&fixture).await, 5);
}
