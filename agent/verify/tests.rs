//! What a check says of sound and of damaged archives.

use bytes::Bytes;

use super::*;
use crate::archive::catalog::{Catalog, Due, FAN_OUT, Levels, Notes, Row, Rows};
use crate::archive::layout;
use crate::archive::savepoint::tests::{at_minute, durable};
use crate::archive::sidecar::Kind;
use crate::archive::source::Fork;
use crate::archive::source::chain::Chain;
use crate::archive::source::chain::Link;
use crate::archive::source::tests::{Fixture, three};
use crate::pipeline::Topic;
use crate::record::Offset;
use crate::store::Store;

async fn verified(fixture: &Fixture, mode: Mode) -> (Report, Result<()>) {
    let report = check(&fixture.archive, mode).await.expect("looked at");
    let verdict = report.verdict();
    (report, verdict)
}

/// The exit codes of a plain and of a deep check.
async fn exit_codes(fixture: &Fixture) -> (u8, u8) {
    let mut codes = [Mode::Plain, Mode::Deep].map(|_| 0);
    for (code, mode) in codes.iter_mut().zip([Mode::Plain, Mode::Deep]) {
        *code = verified(fixture, mode).await.1.map_or_else(|error| error.exit_code(), |()| 0);
    }
    (codes[0], codes[1])
}

fn told(report: &Report) -> String {
    report.findings().map(|found| format!("{found}\n")).collect()
}

#[tokio::test]
async fn a_sound_archive_is_success_in_both_modes() {
    for mode in [Mode::Plain, Mode::Deep] {
        let (report, verdict) = verified(&three().await, mode).await;
        verdict.expect("sound");
        let count = Count { segments: 3, batches: 4, records: 20, ..report.topics[0].count };
        assert_eq!((report.topics[0].count, report.topics[0].result()), (count, "sound".to_owned()));
        assert_eq!(told(&report), "");
    }
}

#[tokio::test]
async fn a_flipped_bit_of_a_log_is_found_by_a_deep_check_alone() {
    let flip = |key: &str, bytes: Bytes| {
        let mut bytes = bytes.to_vec();
        if key.ends_with("0010.log") {
            bytes[70] ^= 1;
        }
        Some(Bytes::from(bytes))
    };
    let fixture = three().await.but(flip).await;
    assert_eq!(exit_codes(&fixture).await, (0, 4));
    let line = told(&verified(&fixture, Mode::Deep).await.0);
    assert!(line.starts_with("t: partition 0: damaged log: offsets [10, 15): "), "{line}");
    assert!(line.ends_with("00000000000000000010.log)\n"), "{line}");
}

#[tokio::test]
async fn a_hole_exits_with_5_and_damage_beside_it_with_4() {
    let holed = three().await.but(|key, bytes| (!key.ends_with("0010.log")).then_some(bytes)).await;
    assert_eq!(exit_codes(&holed).await, (5, 5));
    let both = holed.but(|key, bytes| (!key.contains("0000.") || key.ends_with(".log")).then_some(bytes)).await;
    assert_eq!(exit_codes(&both).await, (4, 4));
}

#[tokio::test]
async fn unfinished_work_at_the_tip_is_success_and_is_said() {
    let fixture = three().await.but(|key, bytes| (!key.ends_with("0015.log")).then_some(bytes)).await;
    let (report, verdict) = verified(&fixture, Mode::Plain).await;
    verdict.expect("no harm");
    assert_eq!(report.topics[0].result(), "sound, unfinished");
}

#[tokio::test]
async fn every_topic_object_is_looked_at() {
    let fixture = Fixture::new("b").await;
    for partitions in 1..=3 {
        fixture.topic("t", "_", partitions).await;
    }
    assert_eq!(exit_codes(&fixture).await, (0, 0));
    let last = layout::topic_object(2);
    for n in 0..3 {
        let name = format!("/{}", layout::topic_object(n));
        let broken =
            |key: &str, bytes: Bytes| Some(if key.ends_with(&name) { bytes.slice(..bytes.len() / 2) } else { bytes });
        let broken = fixture.but(broken).await;
        let (report, verdict) = verified(&broken, Mode::Plain).await;
        assert_eq!((verdict.expect_err("damage").exit_code(), report.findings().count()), (4, 1), "{}", told(&report));
        let gone = fixture.but(|key, bytes| (!key.ends_with(&name)).then_some(bytes)).await;
        let expected = if name.ends_with(&last) { 0 } else { 4 };
        assert_eq!(exit_codes(&gone).await.0, expected, "without {name}");
    }
}

#[tokio::test]
async fn names_that_nothing_explains_are_told_and_harm_nothing() {
    let fixture = three().await;
    let strange =
        ["x", "topics/y", "topics/t/z", "topics/t/_/note.txt", "topics/t/_/0/0.log", "topics/t/_/0/catalog/1/0-9"];
    for key in strange.into_iter().chain(["savepoints/yesterday", "topics/t/_/catalog/x", "other/x"]) {
        fixture.create(key, Bytes::new()).await;
    }
    let (report, verdict) = verified(&fixture, Mode::Deep).await;
    verdict.expect("no harm");
    let told = told(&report);
    assert_eq!((told.lines().count(), told.matches("unknown object: ").count()), (9, 9), "{told}");
    assert!(strange.iter().all(|key| told.contains(&format!("/b/{key})"))), "{told}");
}

#[tokio::test]
async fn the_only_copy_that_an_interrupted_repair_left_is_damage_and_is_named() {
    let copy = format!("topics/t/_/0/{}", layout::copy(10, 80, 7));
    for (lost, code) in [("no log", 0), ("00000010.log", 4)] {
        let fixture = three().await.but(|key, bytes| (!key.ends_with(lost)).then_some(bytes)).await;
        fixture.create(&copy, Bytes::new()).await;
        assert_eq!(exit_codes(&fixture).await, (code, code));
        let told = told(&verified(&fixture, Mode::Plain).await.0);
        assert_eq!(told.contains("left the only copy of 00000000000000000010.log"), code == 4, "{told}");
        assert!(told.contains("run `repair` again") && !told.contains("unknown object"), "{told}");
    }
}

#[tokio::test]
async fn what_cannot_be_looked_at_is_no_success() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = Store::open(folder.path().to_str().expect("UTF-8")).expect("opened");
    let archive = Archive::create(&root, "b", None).await.expect("created");
    let topic = Topic {
        name: "t".into(),
        topic_id: "_".into(),
        partitions: 1,
        replication_factor: 1,
        configs: Some(Vec::new()),
    };
    archive.put_topic(&topic).await.expect("kept");
    // A file where the partition's folder should be: listing it fails.
    std::fs::write(folder.path().join("b/topics/t/_/0"), "").expect("written");
    let report = check(&archive, Mode::Plain).await.expect("the others are looked at");
    assert_eq!(report.topics[0].result(), "1 unchecked, 1 unknown object");
    assert_eq!(report.verdict().expect_err("not a success").exit_code(), 1);
}

/// Three segments, [0, 20), and a fork that goes on from offset 12.
async fn forked() -> Fixture {
    let fixture = three().await;
    fixture.fork_segment(Fork { epoch: 7, end: 12 }, &[fixture.batch(12, 3)]).await;
    fixture
}

#[tokio::test]
async fn a_fork_is_sound_and_says_what_the_source_had_lost() {
    let (report, verdict) = verified(&forked().await, Mode::Deep).await;
    verdict.expect("sound");
    assert_eq!((report.topics[0].result(), report.topics[0].partitions), ("sound, 1 fork".to_owned(), 1));
    let expected = "t: partition 0@7-12: fork: offsets [12, 20): the source had lost them; `0` holds them, `0@7-12` goes on \
                    from offset 12 with leader epoch 7 (";
    assert!(told(&report).starts_with(expected), "{}", told(&report));
}

#[tokio::test]
async fn a_fork_whose_parent_does_not_hold_what_it_shares_has_a_hole() {
    let short = forked().await.but(|key, bytes| (!key.contains("/0/00000000000000000010")).then_some(bytes)).await;
    let short = short.but(|key, bytes| (!key.contains("/0/00000000000000000015")).then_some(bytes)).await;
    let (report, verdict) = verified(&short, Mode::Plain).await;
    assert_eq!(verdict.expect_err("a hole").exit_code(), 5);
    assert!(told(&report).contains("0@7-12: hole: offsets [10, 12): the fork goes on from `0`"));
    let gone = forked().await.but(|key, bytes| (!key.contains("/0/")).then_some(bytes)).await;
    assert_eq!(exit_codes(&gone).await, (5, 5), "all of the parent is lost");
}

#[tokio::test]
async fn a_fork_that_does_not_begin_at_its_end_has_a_hole() {
    let fixture = three().await;
    let fork = Fork { epoch: 7, end: 12 };
    fixture.fork_segment_at(fork, 14, &[fixture.batch(14, 3)]).await;
    assert_eq!(exit_codes(&fixture).await, (5, 5));
}

#[tokio::test]
async fn a_fork_without_a_commit_is_unfinished_work() {
    let fixture =
        forked().await.but(|key, bytes| (!key.contains("@") || key.ends_with(".index")).then_some(bytes)).await;
    let (report, verdict) = verified(&fixture, Mode::Plain).await;
    verdict.expect("no harm");
    assert_eq!(report.topics[0].result(), "sound, unfinished");
}

#[tokio::test]
async fn a_segment_that_does_not_fit_the_one_before_is_found() {
    let first_again = Fixture::new("b").await;
    first_again.segment("t", 0, 0, Kind::First, &[first_again.batch(0, 5)]).await;
    first_again.segment("t", 0, 5, Kind::First, &[first_again.batch(5, 5)]).await;
    let back = Fixture::new("b").await;
    let of_epoch = |first: Offset, leader_epoch| {
        let template = crate::batch::Header { leader_epoch, ..crate::batch::records::template(first) };
        back.batch_of(&template, 5)
    };
    back.segment("t", 0, 0, Kind::First, &[of_epoch(0, 4)]).await;
    back.segment("t", 0, 5, Kind::Data, &[of_epoch(5, 3)]).await;
    for (fixture, says) in [(first_again, "its kind"), (back, "leader epoch 3")] {
        let (report, verdict) = verified(&fixture, Mode::Plain).await;
        assert_eq!((verdict.expect_err("damage").exit_code(), report.findings().count()), (4, 1), "{}", told(&report));
        assert!(told(&report).contains(says), "{}", told(&report));
    }
}

/// A chain that begins with three records of a transaction of producer 7 which is aborted further on; no sidecar of
/// `rest`, the batches of the segments that follow, has it.
async fn forgotten(rest: impl Fn(&Fixture) -> Vec<(Offset, Vec<Bytes>)>) -> Fixture {
    let fixture = Fixture::new("b").await;
    let aborted = [crate::record::AbortedTransaction { producer_id: 7, first: 0 }];
    let _ = fixture.segment_aborting(0, &[fixture.transactional(0, 3, 7)], &aborted, Default::default()).await;
    for (first, batches) in rest(&fixture) {
        let _ = fixture.segment_aborting(first, &batches, &[], Default::default()).await;
    }
    fixture
}

#[tokio::test]
async fn data_of_an_aborted_transaction_that_no_sidecar_lists_is_found_by_a_deep_check_alone() {
    let at_once = forgotten(|with| vec![(3, vec![with.batch(3, 1), with.transactional(4, 2, 7)])]).await;
    let later = forgotten(|with| {
        vec![(3, vec![with.batch(3, 3)]), (6, vec![with.marker(6, 8, true), with.transactional(7, 2, 7)])]
    })
    .await;
    for (fixture, offset) in [(at_once, 4), (later, 7)] {
        assert_eq!(exit_codes(&fixture).await, (0, 4));
        let (report, _) = verified(&fixture, Mode::Deep).await;
        let expected = format!(
            "it does not have the aborted transaction of producer 7 from offset 0, which the segment before says goes on: the \
             batch at offset {offset} is of it"
        );
        assert!(told(&report).contains(&expected) && report.findings().count() == 1, "{}", told(&report));
    }
}

#[tokio::test]
async fn nothing_is_claimed_of_an_aborted_transaction_that_ended_or_whose_end_may_be_missing() {
    let ended = forgotten(|with| vec![(3, vec![with.marker(3, 7, false), with.transactional(4, 2, 7)])]).await;
    let cleaned = forgotten(|with| vec![(3, vec![with.batch(3, 3)])]).await;
    let of_others = forgotten(|with| vec![(3, vec![with.transactional(3, 2, 8), with.marker(5, 8, true)])]).await;
    let marker_cleaned = forgotten(|with| vec![(3, vec![with.transactional(4, 2, 7), with.marker(6, 7, true)])]).await;
    let behind_a_gap = forgotten(|_| Vec::new()).await;
    behind_a_gap.gap_of("t", "_", 0, 3..9).await;
    behind_a_gap.segment("t", 0, 9, Kind::Data, &[behind_a_gap.transactional(9, 2, 7)]).await;
    for fixture in [ended, cleaned, of_others, marker_cleaned, behind_a_gap] {
        let (report, _) = verified(&fixture, Mode::Deep).await;
        assert_eq!(told(&report), "");
        assert_eq!(exit_codes(&fixture).await, (0, 0));
    }
}

/// Segments of 10 offsets each, with the catalogs that all of them complete but for those of the last.
async fn cataloged(segments: usize) -> Fixture {
    let fixture = Fixture::new("b").await;
    for n in 0..segments {
        let first = n as Offset * 10;
        let kind = if n == 0 { Kind::First } else { Kind::Data };
        if n == 4 {
            fixture.gap_of("t", "_", 0, first..first + 10).await;
        } else {
            fixture.segment("t", 0, first, kind, &[fixture.batch(first, 10)]).await;
        }
    }
    let place = source::timelines(&fixture.archive).await.expect("listed").remove(0).places.remove(0);
    let mut chain = Chain::open(&fixture.archive, &place).await.expect("listed");
    let (mut rows, mut levels) = (Vec::new(), Levels::default());
    let mut due: Vec<Due> = Vec::new();
    while let Some(Link::Segment(segment)) = chain.next().await.expect("read") {
        for Due { name, .. } in due.drain(..) {
            let below: Vec<_> =
                rows.iter().filter(|(row, _): &&(Row, Notes)| name.range.contains(row.range.first)).collect();
            let parts: Vec<_> = below.iter().map(|(row, notes)| (Rows::new([row]), notes.clone())).collect();
            let catalog = Catalog::join(place.partition.topic_id, 0, name.level, &parts);
            fixture.create(&format!("{}{name}", place.folder), catalog.encode()).await;
        }
        let sidecar = &segment.sidecar;
        let notes = if sidecar.kind == Kind::Gap { vec![(0, sidecar.note.as_str().into())] } else { Notes::new() };
        rows.push((Row::of(sidecar), notes));
        due = levels.add(sidecar.range);
    }
    fixture
}

#[tokio::test]
async fn every_catalog_is_what_its_sidecars_give() {
    let fixture = cataloged(FAN_OUT * FAN_OUT + 1).await;
    assert_eq!(exit_codes(&fixture).await, (0, 0));
    let level_2 = "catalog/2/00000000000000000000-00000000000000000360";
    let level_1 = "catalog/1/00000000000000000060-00000000000000000120";
    for name in [level_1, level_2] {
        let gone = fixture.but(|key, bytes| (!key.ends_with(name)).then_some(bytes)).await;
        let (report, verdict) = verified(&gone, Mode::Plain).await;
        assert_eq!(verdict.expect_err("missing").exit_code(), 4);
        assert!(told(&report).contains("missing catalog: offsets"), "{}", told(&report));
        let flip = |key: &str, bytes: Bytes| {
            let mut bytes = bytes.to_vec();
            if key.ends_with(name) {
                bytes[100] ^= 1;
            }
            Some(Bytes::from(bytes))
        };
        assert_eq!(exit_codes(&fixture.but(flip).await).await, (4, 4), "{name} flipped");
    }
    // Whole in itself, and not what the sidecars give.
    let resealed = |key: &str, bytes: Bytes| {
        if !key.ends_with(level_1) {
            return Some(bytes);
        }
        let catalog = Catalog::decode(&bytes).expect("sound");
        let rows: Vec<_> = catalog.rows.iter().map(|row| Row { records: row.records + 1, ..row }).collect();
        Some(Catalog { rows: Rows::new(&rows), ..catalog }.encode())
    };
    let (report, _) = verified(&fixture.but(resealed).await, Mode::Plain).await;
    assert!(told(&report).contains("it does not hold what its sidecars say"), "{}", told(&report));
}

#[tokio::test]
async fn a_catalog_that_the_last_segment_completes_may_still_be_missing() {
    assert_eq!(exit_codes(&cataloged(FAN_OUT).await).await, (0, 0));
}

#[tokio::test]
async fn segments_that_a_catalog_names_were_there() {
    let fixture = cataloged(FAN_OUT + 1).await;
    let cut = |key: &str, bytes| {
        (key.contains("/catalog/") || !key.contains("000000005") && !key.contains("000000006")).then_some(bytes)
    };
    let (report, verdict) = verified(&fixture.but(cut).await, Mode::Plain).await;
    assert_eq!(verdict.expect_err("a hole").exit_code(), 5);
    assert!(
        told(&report).contains("hole: offsets [50, 60): they were archived, as a catalog says"),
        "{}",
        told(&report)
    );
}

#[tokio::test]
async fn a_catalog_that_nobody_expects_is_found() {
    let fixture = cataloged(FAN_OUT + 1).await;
    let catalog =
        fixture.archive.store().read("topics/t/_/0/catalog/1/00000000000000000000-00000000000000000060").await;
    let catalog = Catalog::decode(&catalog.expect("read").expect("it is")).expect("sound");
    let rows: Vec<_> = catalog.rows.iter().skip(1).take(3).collect();
    let other = Catalog { rows: Rows::new(&rows), notes: Notes::new(), ..catalog };
    fixture.create(&format!("topics/t/_/0/{}", other.name()), other.encode()).await;
    let (report, verdict) = verified(&fixture, Mode::Plain).await;
    assert_eq!(verdict.expect_err("damage").exit_code(), 4);
    assert!(told(&report).contains("the chain's segments do not give it"), "{}", told(&report));
}

/// [`three`] with a full savepoint, one that differs from it, and one that follows on that.
async fn saved() -> Fixture {
    let fixture = three().await;
    let first = durable(0, None, &[("0", 10)]);
    let later = durable(1, Some(0), &[("0", 15)]);
    fixture.savepoint(&first).await;
    fixture.savepoint(&later.relative_to(first.name, &first.state)).await;
    fixture.savepoint(&durable(2, Some(1), &[("0", 20)])).await;
    fixture
}

#[tokio::test]
async fn what_savepoints_name_must_be_there() {
    let fixture = saved().await;
    let (report, verdict) = verified(&fixture, Mode::Plain).await;
    verdict.expect("sound");
    assert_eq!(report.savepoints, 3);
    for (minute, code) in [(0, 4), (1, 4), (2, 0)] {
        let key_of = layout::savepoint(at_minute(minute));
        let gone = fixture.but(|key, bytes| (*key != *key_of).then_some(bytes)).await;
        assert_eq!(exit_codes(&gone).await.0, code, "without {key_of}");
        let cut = |key: &str, bytes: Bytes| Some(if *key == *key_of { bytes.slice(1..) } else { bytes });
        assert_eq!(exit_codes(&fixture.but(cut).await).await.0, 4, "{key_of} cut");
    }
}

#[tokio::test]
async fn a_savepoint_that_differs_from_one_that_is_not_full_says_nothing() {
    let fixture = saved().await;
    let (first, second) = (durable(0, None, &[("0", 10)]), durable(1, Some(0), &[("0", 15)]));
    let delta = durable(3, Some(2), &[("0", 20)]).relative_to(second.name, &second.state);
    fixture.savepoint(&delta).await;
    let (report, verdict) = verified(&fixture, Mode::Plain).await;
    assert_eq!((verdict.expect_err("damage").exit_code(), report.findings().count()), (4, 1), "{}", told(&report));
    assert!(told(&report).contains(&format!("{}, which is no full savepoint", at_minute(1))), "{}", told(&report));
    let sound = durable(3, Some(2), &[("0", 20)]).relative_to(first.name, &first.state);
    let key = layout::savepoint(sound.name);
    let mended = |at: &str, bytes: Bytes| Some(if *at == *key { sound.encode() } else { bytes });
    assert_eq!(exit_codes(&fixture.but(mended).await).await, (0, 0));
}

#[tokio::test]
async fn what_a_savepoint_calls_durable_is_a_hole_when_it_is_gone() {
    for left_out in ["0015.log", "000015"] {
        let fixture = saved().await.but(|key, bytes| (!key.contains(left_out)).then_some(bytes)).await;
        let (report, verdict) = verified(&fixture, Mode::Plain).await;
        assert_eq!(verdict.expect_err("a hole").exit_code(), 5, "{}", told(&report));
        let told = told(&report);
        assert!(
            told.contains("partition 0: hole: offsets [15, 20): they were archived") && !told.contains("unfinished"),
            "{told}"
        );
    }
    let gone = saved().await.but(|key, bytes| (!key.contains("/_/0/")).then_some(bytes)).await;
    let (report, verdict) = verified(&gone, Mode::Plain).await;
    assert_eq!(verdict.expect_err("a hole").exit_code(), 5);
    assert!(told(&report).contains("nothing of the chain is there"), "{}", told(&report));
}

#[tokio::test]
async fn a_savepoint_says_so_of_forks_too() {
    let fixture = forked().await;
    fixture.savepoint(&durable(0, None, &[("0@7-12", 15)])).await;
    assert_eq!(exit_codes(&fixture).await, (0, 0));
    fixture.savepoint(&durable(1, Some(0), &[("0@7-12", 16)])).await;
    assert_eq!(exit_codes(&fixture).await, (5, 5));
}
