//! A plan tells what a check does, and goes on where it cannot look.

use bytes::Bytes;

use super::*;
use crate::archive::TopicObject;
use crate::archive::catalog::{Catalog, FOLDER as CATALOGS};
use crate::archive::savepoint::tests::durable;
use crate::archive::sidecar::{Kind as SegmentKind, Sidecar};
use crate::archive::source::tests::{Fixture, three};
use crate::archive::{begin, sealed};
use crate::batch::Compression;
use crate::batch::records::{self, Record};
use crate::pipeline::Topic;
use crate::repair::perform::perform;

async fn planned(fixture: &Fixture, options: Options<'_>) -> Plan {
    plan(&fixture.root, "b", options).await.expect("planned").1
}

/// The exit codes of a plan and of a check, each plain and deep.
async fn codes(fixture: &Fixture) -> [(u8, u8); 2] {
    let code = |verdict: Result<()>| verdict.map_or_else(|error| error.exit_code(), |()| 0);
    let mut codes = [(0, 0); 2];
    for (at, deep) in [false, true].into_iter().enumerate() {
        let plan = planned(fixture, Options { deep, ..Options::default() }).await;
        let told = source::chain::verdict("b", plan.remaining.iter().map(|remaining| &remaining.finding));
        let mode = if deep { Mode::Deep } else { Mode::Plain };
        let checked = verify::check(&fixture.archive, mode).await.expect("checked");
        codes[at] = (code(told), code(checked.verdict()));
    }
    codes
}

fn told(plan: &Plan) -> Vec<String> {
    plan.lines().iter().map(|line| line.act.to_string()).collect()
}

/// Three segments, two topic objects, and two savepoints, the older of which knows of more.
async fn whole() -> Fixture {
    let fixture = three().await;
    fixture.topic("t", "_", 1).await;
    fixture.topic("t", "_", 2).await;
    fixture.savepoint(&durable(0, None, &[("0", 20)])).await;
    fixture.savepoint(&durable(1, None, &[("0", 15)])).await;
    fixture
}

#[tokio::test]
async fn a_plan_without_actions_calls_a_backup_whole_only_where_a_check_does() {
    let fixture = whole().await;
    assert_eq!(codes(&fixture).await, [(0, 0); 2]);
    let names = fixture.archive.savepoints().await.expect("listed");
    let (older, newer) = (layout::savepoint(names[0]), layout::savepoint(names[1]));
    let loses = |lost: &'static str, code: u8| (lost.to_owned(), code);
    let losses = [
        loses("topics/t/", 5),
        loses("topics/t/_/0/", 5),
        loses("topics/t/_/topic-0.json", 4),
        loses("topics/t/_/0/00000000000000000015", 5),
    ];
    for (lost, code) in losses {
        let without = fixture.but(|key, bytes| (!key.starts_with(&lost)).then_some(bytes)).await;
        assert_eq!(codes(&without).await, [(code, code); 2], "without {lost}");
        let plan = planned(&without, Options::default()).await;
        assert!(plan.is_empty() && plan.remaining.len() == 1, "without {lost}: {:#?}", plan.remaining);
    }
    for cut in [older, newer] {
        let cut = fixture.but(|key, bytes| Some(if *key == *cut { bytes.slice(1..) } else { bytes })).await;
        assert_eq!(codes(&cut).await, [(4, 4); 2]);
        assert_eq!(told(&planned(&cut, Options::default()).await), ["remains: damaged object"]);
    }
}

#[tokio::test]
async fn what_an_action_mends_does_not_remain_and_what_is_found_afterwards_does() {
    let fixture = whole().await;
    let bare = fixture.but(|key, bytes| (!key.ends_with(".index")).then_some(bytes)).await;
    let (archive, mut plan) = super::plan(&bare.root, "b", Options::default()).await.expect("planned");
    assert_eq!(told(&plan), ["make sidecar"; 3]);
    let report = verify::check(&archive, Mode::Plain).await.expect("checked");
    plan.check_again(&archive, &report);
    assert_eq!(plan.remaining.len(), 3, "nothing was done yet: {:#?}", plan.remaining);
    perform(&archive, &plan, |_| {}).await.expect("performed");
    let archive = Archive::open(&bare.root, "b").await.expect("opened");
    plan.check_again(&archive, &verify::check(&archive, Mode::Plain).await.expect("checked"));
    assert!(plan.remaining.is_empty(), "{:#?}", plan.remaining);
}

#[tokio::test]
async fn a_chain_that_cannot_be_looked_at_keeps_no_other_from_being_planned_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = Store::open(folder.path().to_str().expect("UTF-8")).expect("opened");
    let archive = Archive::create(&root, "b", None).await.expect("created");
    let topic = Topic {
        name: "t".into(),
        topic_id: "_".into(),
        partitions: 2,
        replication_factor: 1,
        configs: Some(Vec::new()),
    };
    archive.put_topic(&topic).await.expect("kept");
    let log = Fixture::new("b").await.batch(0, 5);
    let _ = archive.store().create(&format!("topics/t/_/1/{}", layout::log(0)), log).await.expect("created");
    // A file where the partition's folder should be: listing it fails.
    std::fs::write(folder.path().join("b/topics/t/_/0"), "").expect("written");
    let plan = super::plan(&root, "b", Options::default()).await.expect("planned").1;
    assert_eq!(told(&plan), ["make sidecar", "remains: unchecked"]);
    let error = source::chain::verdict("b", plan.remaining.iter().map(|remaining| &remaining.finding));
    assert_eq!(error.expect_err("not looked at").exit_code(), 1);
}

#[tokio::test]
async fn what_a_newer_release_wrote_is_left_alone() {
    let fixture = Fixture::new("b").await;
    fixture.topic("t", "_", 1).await;
    for n in 0..8 {
        let kind = if n == 0 { SegmentKind::First } else { SegmentKind::Data };
        fixture.segment("t", 0, n * 10, kind, &[fixture.batch(n * 10, 10)]).await;
    }
    let (archive, plan) = super::plan(&fixture.root, "b", Options::default()).await.expect("planned");
    perform(&archive, &plan, |_| {}).await.expect("performed");
    fixture.savepoint(&durable(0, None, &[("0", 80)])).await;
    assert_eq!(codes(&fixture).await, [(0, 0); 2]);
    for newer in ["00000010.", "catalog/1/", "topic-0.json", "savepoints/", "topics/t/_/0/begin.json"] {
        let begin = begin::Begin {
            topic_id: "_".into(),
            partition: 0,
            offset: 0,
            created: String::new(),
            created_by: String::new(),
        };
        fixture.archive.store().delete("topics/t/_/0/begin.json").await.expect("deleted");
        fixture.create("topics/t/_/0/begin.json", sealed::pretty(&begin)).await;
        let written =
            fixture.but(|key, bytes| Some(if key.contains(newer) { of_next_version(key, bytes) } else { bytes }));
        let written = written.await;
        assert_eq!(codes(&written).await, [(1, 1); 2], "{newer}");
        let plan = planned(&written, Options { accept_loss: true, deep: true, ..Options::default() }).await;
        assert_eq!(told(&plan), ["remains: unchecked"], "{newer}: {plan:#?}");
        assert!(plan.remaining[0].finding.detail.contains("newer kafka-backup"), "{:?}", plan.remaining);
    }
}

/// Returns an object as a later version might write it: whole, and with another magic or other values.
fn of_next_version(key: &str, bytes: Bytes) -> Bytes {
    if key.ends_with(".log") {
        return bytes;
    }
    if !(key.ends_with(".index") || key.contains(CATALOGS)) {
        return sealed::pretty(&serde_json::json!({"number": {"major": 0}, "name": ["t"], "offset": "0"}));
    }
    let mut bytes = bytes.to_vec();
    bytes[7] = b'9';
    let body = bytes.len() - 4;
    let crc = crc32c::crc32c(&bytes[..body]).to_be_bytes();
    bytes[body..].copy_from_slice(&crc);
    bytes.into()
}

#[tokio::test]
async fn a_cluster_that_contradicts_a_sound_backup_json_is_refused() {
    let fixture = three().await;
    let refused = super::plan(&fixture.root, "b", Options { cluster_id: Some("other"), ..Options::default() }).await;
    let error = refused.err().expect("of another cluster");
    assert!(error.kind() == Kind::Usage && error.to_string().contains("other"), "{error}");
    let same = Options { cluster_id: Some("cluster"), ..Options::default() };
    assert!(planned(&fixture, same).await.is_empty());
}

#[tokio::test]
async fn planned_catalogs_share_the_rows_of_their_chain() {
    let fixture = Fixture::new("b").await;
    for n in 0..37 {
        let kind = if n == 0 { SegmentKind::First } else { SegmentKind::Data };
        fixture.segment("t", 0, n, kind, &[fixture.batch(n, 1)]).await;
    }
    let plan = planned(&fixture, Options::default()).await;
    let Task::MakeCatalogs(catalogs) = &plan.actions[0].task else { panic!("{plan:?}") };
    let begins = |catalog: &Catalog| catalog.rows.as_bytes().as_ptr();
    let levels: Vec<_> = catalogs.iter().map(|catalog| catalog.level).collect();
    assert_eq!(levels, [1, 1, 1, 1, 1, 1, 2]);
    assert_eq!(begins(&catalogs[0]), begins(&catalogs[6]));
    // A few of many are not worth all rows.
    perform(&fixture.archive, &plan, |_| {}).await.expect("performed");
    let one_less = fixture.but(|key, bytes| (!key.contains("catalog/1/00000000000000000006")).then_some(bytes)).await;
    let plan = planned(&one_less, Options::default()).await;
    assert_eq!(told(&plan), ["make catalogs"]);
}

/// A batch of one record at `offset` and `time`.
fn at_time(offset: Offset, time: Timestamp) -> Bytes {
    let record = Record { offset, timestamp: time, key: None, value: None, headers: Vec::new() };
    records::encode(&records::template(offset), &[record], Compression::None).expect("it fits")
}

/// Keeps that topic `t` was seen with this id at `seen_at`.
async fn seen(fixture: &Fixture, topic_id: &str, seen_at: &str) {
    let topic =
        Topic { name: "t".into(), topic_id: topic_id.into(), partitions: 1, replication_factor: 1, configs: None };
    let object = TopicObject { number: 0, seen_at: seen_at.into(), topic };
    let key = format!("{}{}", layout::timeline_folder("t", topic_id), layout::topic_object(0));
    fixture.create(&key, sealed::pretty(&object)).await;
}

const DELETED: &str = "4u0fkXLXQ-Or5QvZq9JvUA";
const LIVING: &str = "Zt3aSrZHQbmZkHkWbXl2Fg";

async fn newest(fixture: &Fixture) -> String {
    source::timelines(&fixture.archive).await.expect("listed")[0].topic_id.to_string()
}

#[tokio::test]
async fn the_newest_of_a_name_is_the_one_seen_last_whatever_was_sealed_when() {
    let fixture = Fixture::new("b").await;
    seen(&fixture, DELETED, "2020-01-01T00:00:00Z").await;
    seen(&fixture, LIVING, "2020-02-01T00:00:00Z").await;
    for id in [LIVING, DELETED] {
        fixture.segment_of("t", id, 0, 0, SegmentKind::First, &[fixture.batch(0, 1)]).await;
    }
    assert_eq!(newest(&fixture).await, LIVING, "what was held of the other was sealed after it was deleted");
    // A topic object that cannot be read leaves those before it.
    let key = format!("{}{}", layout::timeline_folder("t", LIVING), layout::topic_object(1));
    fixture.create(&key, Bytes::from_static(b"damaged")).await;
    assert_eq!(newest(&fixture).await, LIVING);
}

#[tokio::test]
async fn a_sidecar_made_anew_makes_no_deleted_topic_the_newest() {
    let ahead = Timestamp(4_000_000_000_000);
    for has_objects in [true, false] {
        let fixture = Fixture::new("b").await;
        if has_objects {
            seen(&fixture, DELETED, "2020-01-01T00:00:00Z").await;
            seen(&fixture, LIVING, "2020-02-01T00:00:00Z").await;
        }
        let batches = [fixture.batch(0, 1), fixture.batch(1, 1), at_time(2, ahead)];
        for (first, batch) in (0..).zip(batches) {
            let kind = if first == 0 { SegmentKind::First } else { SegmentKind::Data };
            fixture.segment_of("t", DELETED, 0, first, kind, &[batch]).await;
        }
        fixture.segment_of("t", LIVING, 0, 0, SegmentKind::First, &[fixture.batch(0, 1)]).await;
        assert_eq!(newest(&fixture).await, LIVING);
        // The sidecar of its last segment is lost, and with it the time; before it a gap will be declared just now.
        let damaged = fixture.but(|key, bytes| {
            let is_lost = key.contains("0001.") || (key.contains("0002.") && key.ends_with(".index"));
            (!(key.contains(DELETED) && is_lost)).then_some(bytes)
        });
        let damaged = damaged.await;
        let options = Options { accept_loss: true, ..Options::default() };
        let (archive, plan) = super::plan(&damaged.root, "b", options).await.expect("planned");
        assert_eq!(told(&plan), ["declare gap", "make sidecar"]);
        perform(&archive, &plan, |_| {}).await.expect("performed");
        assert_eq!(newest(&damaged).await, LIVING, "with topic objects: {has_objects}");
        assert!(!plan.notes.iter().any(|note| note.contains("not certain")), "{:?}", plan.notes);
    }
}

#[tokio::test]
async fn a_sidecar_made_anew_was_sealed_between_the_topics_first_sight_and_now() {
    for time in [1000, 1_650_000_000_000, 4_000_000_000_000].map(Timestamp) {
        let fixture = Fixture::new("b").await;
        seen(&fixture, DELETED, "2020-01-01T00:00:00Z").await;
        fixture.segment_of("t", DELETED, 0, 0, SegmentKind::First, &[at_time(0, time)]).await;
        let bare = fixture.but(|key, bytes| (!key.ends_with(".index")).then_some(bytes)).await;
        let (archive, plan) = super::plan(&bare.root, "b", Options::default()).await.expect("planned");
        perform(&archive, &plan, |_| {}).await.expect("performed");
        let folder = format!("{}0/", layout::timeline_folder("t", DELETED));
        let listed = archive.store().list(&folder).await.expect("listed");
        let name = listed.iter().find(|entry| entry.name.ends_with(".index")).expect("made").name.clone();
        let bytes = archive.store().read(&format!("{folder}{name}")).await.expect("read").expect("it is");
        let sealed_at = Sidecar::decode(&bytes).expect("sound").sealed_at;
        let first_seen: Timestamp = "2020-01-01T00:00:00Z".parse().expect("a time");
        let is_likely = time == Timestamp(1_650_000_000_000);
        assert_eq!(sealed_at, if is_likely { time } else { first_seen });
    }
}

#[tokio::test]
async fn where_nothing_tells_which_topic_of_a_name_is_the_newest_a_plan_says_so() {
    let fixture = Fixture::new("b").await;
    for id in [DELETED, LIVING] {
        fixture.segment_of("t", id, 0, 0, SegmentKind::First, &[fixture.batch(0, 1)]).await;
    }
    let bare = fixture.but(|key, bytes| (!(key.contains(DELETED) && key.ends_with(".index"))).then_some(bytes)).await;
    let plan = planned(&bare, Options::default()).await;
    let notes = plan.notes.iter().filter(|note| note.contains("not certain"));
    assert!(notes.clone().count() == 1 && notes.clone().all(|note| note.contains(DELETED)), "{:?}", plan.notes);
}
