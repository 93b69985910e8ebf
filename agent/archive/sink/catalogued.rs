//! Tests of the catalogs of chains: that writers make them, in their order, and that nobody is misled by what is left of
//! them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::tests::{answer, archive, batch, closed, opened, options, partition};
use super::*;
use crate::archive::catalog::{FAN_OUT, Name, Notes, Row};
use crate::archive::layout::{self, Fork};
use crate::archive::source::Place;
use crate::archive::source::chain::{Chain, Link, What};
use crate::archive::source::opened::Opened;
use crate::budget::Permit;
use crate::pipeline::{Payload, Sink as _, Tip};
use crate::record::OffsetRange;

/// A segment a batch.
fn short() -> Options {
    Options { roll_bytes: 1, ..options() }
}

/// An archive in a folder, which can be damaged.
struct Fixture {
    folder: tempfile::TempDir,
    archive: Archive,
}

impl Fixture {
    async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let archive = archive(folder.path().to_str().expect("UTF-8")).await;
        Self { folder, archive }
    }

    /// Makes one of a chain of `count` segments.
    async fn of(count: Offset) -> Self {
        let fixture = Self::new().await;
        fixture.write_to(count).await;
        fixture
    }

    /// Goes on with a new writer up to `next`, a segment an offset.
    async fn write_to(&self, next: Offset) {
        write_to(&self.archive, next).await;
    }

    fn path(&self, name: impl std::fmt::Display) -> PathBuf {
        self.folder.path().join("backup").join(layout::partition_folder(&partition())).join(name.to_string())
    }

    /// Returns the names of all catalogs, the lower levels first.
    fn catalogs(&self) -> Vec<Name> {
        let mut found = Vec::new();
        for level in 1..=9 {
            let Ok(entries) = std::fs::read_dir(self.path(Name::folder(level))) else { continue };
            let names = entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"));
            let mut names: Vec<_> = names.map(|name| Name::parse(level, &name).expect("a name")).collect();
            names.sort_unstable_by_key(|name| name.range.first);
            found.extend(names);
        }
        found
    }

    async fn tip(&self) -> Option<Offset> {
        self.archive.tip(&partition()).await.expect("a tip").next
    }
}

fn place() -> Place {
    Place::new(partition(), None)
}

async fn write_to(archive: &Archive, next: Offset) {
    let mut sink = Sink::new(archive.clone(), short());
    let tip = opened(&mut sink).await;
    sink.put(batch(tip.generation, tip.next.unwrap_or(0), next));
    assert_eq!(closed(&mut sink, tip).await.last(), Some(&next));
}

/// Returns the index and what was found on the way.
async fn index(archive: &Archive, place: &Place) -> (Vec<Row>, Notes, Vec<What>) {
    let opened = Opened::read(archive, place).await.expect("opened");
    let notes = opened.index.len();
    let notes = (0..notes).filter_map(|at| opened.index.note(at).map(|note| (at as u32, note))).collect();
    let rows: Vec<Row> = opened.index.iter().collect();
    assert_eq!(opened.reach.is_held, !rows.is_empty());
    (rows, notes, opened.findings.iter().map(|finding| finding.what).collect())
}

/// Returns the same by its sidecars.
async fn walked(archive: &Archive, place: &Place) -> (Vec<Row>, Notes, Vec<What>) {
    let mut chain = Chain::open(archive, place).await.expect("listed");
    let (mut rows, mut notes, mut found) = (Vec::new(), Notes::new(), Vec::new());
    while let Some(link) = chain.next().await.expect("read") {
        match link {
            Link::Segment(segment) => {
                let is_gap = segment.sidecar.kind == crate::archive::sidecar::Kind::Gap;
                notes.extend(is_gap.then(|| (rows.len() as u32, segment.sidecar.note.as_str().into())));
                rows.push(Row::of(&segment.sidecar));
            }
            Link::Finding(finding) => found.push(finding.what),
        }
    }
    (rows, notes, found)
}

fn name(level: u8, first: Offset, next: Offset) -> Name {
    Name { level, range: OffsetRange { first, next } }
}

/// The catalogs of a chain of `count` segments of one offset.
fn expected(count: Offset) -> Vec<Name> {
    let mut expected = Vec::new();
    let (mut level, mut size) = (1, FAN_OUT as Offset);
    while size <= count {
        expected.extend((0..count / size).map(|n| name(level, n * size, (n + 1) * size)));
        (level, size) = (level + 1, size * FAN_OUT as Offset);
    }
    expected
}

#[tokio::test]
async fn forty_segments_have_six_catalogs_and_one_of_those() {
    let fixture = Fixture::of(40).await;
    assert_eq!((fixture.catalogs().len(), fixture.catalogs()), (7, expected(40)));
    assert_eq!(fixture.tip().await, Some(40));
    let (rows, notes, findings) = index(&fixture.archive, &place()).await;
    assert_eq!((rows.len(), &notes, &findings), (40, &Notes::new(), &vec![]));
    assert_eq!((rows, notes, findings), walked(&fixture.archive, &place()).await);
}

#[tokio::test]
async fn a_store_that_cannot_list_from_the_middle_gives_the_same() {
    let archive = archive("memory://catalogued-prefix").await;
    for count in [3, 6, 35, 36, 37, 79, 217] {
        write_to(&archive, count).await;
        assert_eq!(archive.tip(&partition()).await.expect("a tip").next, Some(count));
        assert_eq!(archive.end_of(&partition(), None).await.expect("an end"), Some(count));
        let read = index(&archive, &place()).await;
        assert_eq!(read.0.len(), count as usize);
        assert_eq!(read, walked(&archive, &place()).await);
    }
}

#[tokio::test]
async fn what_a_crash_left_out_is_made_before_the_source_starts() {
    // Each as a crash leaves it that came after so many of the last commit's three catalogs.
    for made in 0..3 {
        let fixture = Fixture::of(216).await;
        let last = [name(1, 210, 216), name(2, 180, 216), name(3, 0, 216)];
        for name in &last[made..] {
            std::fs::remove_file(fixture.path(name)).expect("it was made");
        }
        assert_eq!(fixture.tip().await, Some(216));
        assert_eq!(index(&fixture.archive, &place()).await.0.len(), 216);
        let mut sink = Sink::new(fixture.archive.clone(), short());
        assert_eq!(opened(&mut sink).await.next, Some(216));
        assert_eq!(fixture.catalogs(), expected(216), "{made} were made");
    }
}

#[tokio::test]
async fn no_segment_is_committed_before_the_catalogs_that_are_due() {
    let fixture = Fixture::of(5).await;
    // A file where the folder should be: nothing can be made in it.
    std::fs::create_dir_all(fixture.path("catalog")).expect("made");
    std::fs::write(fixture.path("catalog/1"), b"").expect("written");
    let mut sink = Sink::new(fixture.archive.clone(), short());
    let tip = opened(&mut sink).await;
    sink.put(batch(tip.generation, 5, 8));
    assert!(matches!(answer(&mut sink).await, Answer::Durable { next: 6, .. }), "the commit stands");
    assert!(matches!(answer(&mut sink).await, Answer::Suspended { .. }));
    assert!(!fixture.path(layout::log(6)).exists());
    std::fs::remove_file(fixture.path("catalog/1")).expect("removed");
    let tip = loop {
        match answer(&mut sink).await {
            Answer::Restart { tip, .. } => break tip,
            Answer::Trouble { .. } | Answer::Suspended { .. } => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((tip.next, fixture.catalogs()), (Some(6), expected(6)));
    sink.put(batch(tip.generation, 6, 8));
    assert_eq!(closed_in_peace(&mut sink, tip).await, [7, 8]);
}

/// As [`closed`], with what is told of trouble that has ended.
async fn closed_in_peace(sink: &mut Sink, tip: Tip) -> Vec<Offset> {
    sink.close(&partition(), tip.generation);
    let mut durable = Vec::new();
    loop {
        match answer(sink).await {
            Answer::Durable { next, .. } => durable.push(next),
            Answer::Trouble { reason: None, .. } => {}
            Answer::Closed { .. } => return durable,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn two_writers_make_the_same_catalogs() {
    let fixture = Fixture::new().await;
    let mut writers = [(); 2].map(|()| Sink::new(fixture.archive.clone(), short()));
    let mut tips = Vec::new();
    for sink in &mut writers {
        tips.push(opened(sink).await);
    }
    // Each goes on where it believes the end to be, and hears that the other was there.
    for round in 0..20 {
        let (sink, tip) = (&mut writers[round % 2], &mut tips[round % 2]);
        let first = tip.next.unwrap_or(0);
        sink.put(batch(tip.generation, first, first + 3));
        loop {
            match answer(sink).await {
                Answer::Durable { next, .. } if next == first + 3 => {
                    *tip = Tip { next: Some(next), ..*tip };
                    break;
                }
                Answer::Durable { .. } => {}
                Answer::Restart { tip: again, .. } => {
                    *tip = again;
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
    }
    drop(writers);
    let mut sink = Sink::new(fixture.archive.clone(), short());
    let count = opened(&mut sink).await.next.expect("something is held");
    assert!(count >= 12, "{count}");
    assert_eq!(fixture.catalogs(), expected(count));
    let (rows, _, findings) = index(&fixture.archive, &place()).await;
    assert_eq!((rows.len(), findings), (count as usize, vec![]));
}

/// What can become of a file.
fn spoil(path: &Path, how: usize) {
    let mut bytes = std::fs::read(path).expect("it is there");
    match how {
        0 => return std::fs::remove_file(path).expect("removed"),
        1 => bytes.truncate(bytes.len() / 2),
        2 => {
            let at = bytes.len() - 60;
            bytes[at] ^= 1;
        }
        // A sound catalog, but of another partition.
        _ => {
            bytes[8 + 16 + 3] ^= 1;
            let end = bytes.len() - 4;
            let crc = crc32c::crc32c(&bytes[..end]);
            bytes[end..].copy_from_slice(&crc.to_be_bytes());
        }
    }
    std::fs::write(path, bytes).expect("written");
}

#[tokio::test]
async fn a_spoiled_catalog_of_any_level_misleads_nobody() {
    for count in [220, 222, 252] {
        let fixture = Fixture::of(count).await;
        let sound = walked(&fixture.archive, &place()).await;
        for spoiled in expected(count) {
            let path = fixture.path(spoiled);
            let kept = std::fs::read(&path).expect("it is there");
            for how in 0..4 {
                spoil(&path, how);
                assert_eq!(fixture.tip().await, Some(count), "{spoiled} {how}");
                let read = index(&fixture.archive, &place()).await;
                assert_eq!((&read.0, &read.1), (&sound.0, &sound.1), "{spoiled} {how}");
                assert!(read.2.iter().all(|what| *what == What::DamagedCatalog), "{spoiled} {how}: {:?}", read.2);
                std::fs::write(&path, &kept).expect("written");
            }
        }
    }
}

#[tokio::test]
async fn a_catalog_is_made_of_spoiled_parts_all_the_same() {
    let fixture = Fixture::of(200).await;
    let mut sink = Sink::new(fixture.archive.clone(), short());
    let tip = opened(&mut sink).await;
    let kept: BTreeMap<_, _> =
        fixture.catalogs().into_iter().map(|name| (name.to_string(), std::fs::read(fixture.path(name)))).collect();
    // Of one part of level 2 nothing is left, of another it is damaged, of a third only parts are damaged.
    let lost = [name(2, 36, 72), name(1, 36, 42), name(1, 42, 48)];
    lost.iter().for_each(|name| spoil(&fixture.path(name), 0));
    [name(2, 72, 108), name(1, 108, 114)].iter().for_each(|name| spoil(&fixture.path(name), 2));
    sink.put(batch(tip.generation, 200, 216));
    assert_eq!(closed(&mut sink, tip).await.last(), Some(&216));
    assert_eq!(fixture.catalogs(), expected(216), "what was lost is there again");
    for name in lost {
        let made = std::fs::read(fixture.path(name)).expect("made again");
        assert_eq!(made, *kept[&name.to_string()].as_ref().expect("it was there"), "{name}");
    }
    let top = std::fs::read(fixture.path(name(3, 0, 216))).expect("made");
    let whole = Fixture::of(216).await;
    assert_eq!(index(&fixture.archive, &place()).await.0, walked(&fixture.archive, &place()).await.0);
    assert_eq!(top.len(), std::fs::metadata(whole.path(name(3, 0, 216))).expect("made").len() as usize);
}

#[tokio::test]
async fn a_name_alone_moves_no_end() {
    let strays = [
        name(1, 40, 46),
        name(1, 36, 43),
        name(1, 38, 44),
        name(2, 36, 72),
        name(3, 0, 216),
        name(9, 0, 1_000_000),
        name(9, 100, 200),
        name(4, 0, 37),
        name(2, 0, 30),
    ];
    for stray in strays {
        let fixture = Fixture::of(40).await;
        std::fs::create_dir_all(fixture.path(Name::folder(stray.level))).expect("made");
        // Its content is that of a sound one, of another range.
        std::fs::copy(fixture.path(name(2, 0, 36)), fixture.path(stray)).expect("copied");
        assert_eq!(fixture.tip().await, Some(40), "{stray}");
        assert_eq!(index(&fixture.archive, &place()).await.0, walked(&fixture.archive, &place()).await.0, "{stray}");
        fixture.write_to(44).await;
        assert_eq!(fixture.tip().await, Some(44), "{stray}");
        assert_eq!(index(&fixture.archive, &place()).await.0.len(), 44, "{stray}");
    }
}

#[tokio::test]
async fn nothing_is_written_behind_segments_that_only_a_catalog_remembers() {
    for lost in [1, 4, 6] {
        let fixture = Fixture::of(36).await;
        for first in 36 - lost..36 {
            std::fs::remove_file(fixture.path(layout::log(first))).expect("removed");
        }
        assert_eq!(fixture.tip().await, Some(36 - lost), "{lost} are lost");
        fixture.write_to(38).await;
        let (rows, _, findings) = walked(&fixture.archive, &place()).await;
        assert_eq!((rows.len(), findings), (38, vec![]));
    }
}

#[tokio::test]
async fn a_chain_without_catalogs_goes_on_without_them() {
    let fixture = Fixture::of(80).await;
    std::fs::remove_dir_all(fixture.path("catalog")).expect("removed");
    fixture.write_to(90).await;
    assert_eq!(fixture.catalogs(), []);
    assert_eq!(index(&fixture.archive, &place()).await, walked(&fixture.archive, &place()).await);
    // A short one catches up.
    let fixture = Fixture::of(36).await;
    std::fs::remove_dir_all(fixture.path("catalog")).expect("removed");
    fixture.write_to(37).await;
    assert_eq!(fixture.catalogs(), expected(37));
}

#[tokio::test]
async fn a_catalog_holds_what_the_sidecars_say_that_were_there_before() {
    let fixture = Fixture::of(6).await;
    let before = walked(&fixture.archive, &place()).await;
    // What a crash leaves before the commit: a sidecar, sealed at another time than when the segment is written again.
    std::fs::remove_file(fixture.path(layout::log(5))).expect("removed");
    std::fs::remove_dir_all(fixture.path("catalog")).expect("removed");
    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    fixture.write_to(6).await;
    assert_eq!(fixture.catalogs(), expected(6));
    assert_eq!(index(&fixture.archive, &place()).await, before);
    assert_eq!(walked(&fixture.archive, &place()).await, before);
}

#[tokio::test]
async fn a_lost_log_behind_the_catalogs_hides_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let whole = archive(folder.path().to_str().expect("UTF-8")).await;
    write_to(&whole, 40).await;
    // A store that cannot list from the middle, without the log at offset 37.
    let other = archive("memory://catalogued-lost").await;
    copy(&whole, &other, &layout::partition_folder(&partition()), &layout::log(37)).await;
    let (read, walked) = (index(&other, &place()).await, walked(&other, &place()).await);
    assert_eq!((read.0.len(), &read.2), (39, &vec![What::Hole]));
    assert_eq!(read, walked);
    assert_eq!(other.tip(&partition()).await.expect("a tip").next, Some(40));
}

/// Copies a folder, but for what has a name.
async fn copy(from: &Archive, to: &Archive, folder: &str, but: &str) {
    for entry in from.store().list(folder).await.expect("listed") {
        let key = format!("{folder}{}", entry.name);
        if entry.is_folder {
            Box::pin(copy(from, to, &format!("{key}/"), but)).await;
        } else if entry.name != but {
            let bytes = from.store().read(&key).await.expect("read").expect("it is there");
            let _ = to.store().create(&key, bytes).await.expect("created");
        }
    }
}

#[tokio::test]
async fn a_hole_behind_the_catalogs_ends_them() {
    let fixture = Fixture::of(40).await;
    std::fs::remove_file(fixture.path(layout::log(37))).expect("removed");
    assert_eq!(fixture.tip().await, Some(40));
    fixture.write_to(60).await;
    assert_eq!(fixture.catalogs(), expected(40));
    assert_eq!(index(&fixture.archive, &place()).await, walked(&fixture.archive, &place()).await);
}

#[tokio::test]
async fn what_was_added_since_is_taken_in() {
    for path in ["memory://catalogued-refresh", ""] {
        let fixture = Fixture::new().await;
        let archive = if path.is_empty() { fixture.archive.clone() } else { archive(path).await };
        let mut opened = Opened::read(&archive, &place()).await.expect("opened");
        for next in [1, 5, 6, 40, 41, 100] {
            write_to(&archive, next).await;
            opened.refresh(&archive, &place()).await.expect("refreshed");
            assert_eq!((opened.index.len(), opened.reach.next), (next as usize, Some(next)));
            assert_eq!(opened.index.iter().collect::<Vec<_>>(), index(&archive, &place()).await.0);
        }
    }
}

/// One batch of leader epoch `epoch` with offset `first`.
fn of_epoch(generation: u32, epoch: i32, first: Offset) -> Batch {
    let mut bytes = super::tests::batches(first, first + 1).to_vec();
    bytes[12..16].copy_from_slice(&epoch.to_be_bytes());
    let payload = Payload::Encoded { bytes: bytes.into(), aborted: Vec::new() };
    Batch::new(partition(), generation, OffsetRange { first, next: first + 1 }, payload, Permit::default())
}

#[tokio::test]
async fn what_is_shared_with_a_source_is_found_through_catalogs() {
    let fixture = Fixture::new().await;
    let mut sink = Sink::new(fixture.archive.clone(), short());
    let tip = opened(&mut sink).await;
    // An epoch each ten offsets, a segment each offset.
    (0..100).for_each(|offset| sink.put(of_epoch(tip.generation, offset as i32 / 10, offset)));
    closed(&mut sink, tip).await;
    let held = fixture.archive.tip(&partition()).await.expect("a tip");
    assert_eq!((held.next, held.leader_epoch), (Some(100), 9));
    for (epoch, end, next, of) in [
        (9, 100, 100, 9),
        (9, 97, 97, 9),
        (4, 45, 45, 4),
        (4, 60, 50, 4),
        (3, 31, 31, 3),
        (0, 3, 3, 0),
        (0, 0, 0, -1),
        (-1, 55, 55, 5),
        (6, 200, 70, 6),
    ] {
        let shared = fixture.archive.shared(&partition(), &held, 100, (epoch, end)).await.expect("found");
        assert_eq!((shared.next, shared.leader_epoch), (next, of), "epoch {epoch} to {end}");
    }
}

/// A step in the life of a chain.
#[derive(Debug, Clone)]
enum Step {
    Data(Offset),
    Gap(Offset),
    Fork(Offset),
    Restart,
    Spoil(usize, usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1_i64..30).prop_map(Step::Data),
        2 => (1_i64..9).prop_map(Step::Gap),
        1 => (0_i64..40).prop_map(Step::Fork),
        1 => Just(Step::Restart),
        3 => (0_usize..1000, 0_usize..4).prop_map(|(which, how)| Step::Spoil(which, how)),
    ]
}

/// Lives the steps, and holds each chain's index against its sidecars after each.
async fn live(steps: Vec<Step>) {
    let fixture = Fixture::new().await;
    let mut chains: Vec<Option<Fork>> = vec![None];
    let mut sink = Sink::new(fixture.archive.clone(), short());
    let mut tip = opened(&mut sink).await;
    let mut next = 0;
    for step in steps {
        match step {
            Step::Data(count) => {
                sink.put(batch(tip.generation, next, next + count));
                next += count;
            }
            Step::Gap(count) => {
                let payload = Payload::Gap { reason: format!("lost at {next}") };
                let range = OffsetRange { first: next, next: next + count };
                sink.put(Batch::new(partition(), tip.generation, range, payload, Permit::default()));
                next += count;
            }
            Step::Fork(back) => {
                let end = (next - back).max(0);
                sink.diverge(&partition(), tip.generation, -1, end);
                tip = restarted(&mut sink).await;
                assert_eq!(tip.next.unwrap_or(0), end);
                next = end;
            }
            Step::Restart => {
                closed(&mut sink, tip).await;
                sink = Sink::new(fixture.archive.clone(), short());
                tip = opened(&mut sink).await;
                next = tip.next.unwrap_or(0);
            }
            Step::Spoil(which, how) => {
                let names = fixture.catalogs();
                if let Some(name) = names.get(which % names.len().max(1)) {
                    spoil(&fixture.path(name), how);
                }
            }
        }
    }
    closed(&mut sink, tip).await;
    chains.extend(fixture.archive.forks(&partition()).await.expect("listed").into_iter().map(Some));
    for fork in chains {
        let place = Place::new(partition(), fork);
        let (read, walked) = (index(&fixture.archive, &place).await, walked(&fixture.archive, &place).await);
        assert_eq!((read.0, read.1), (walked.0, walked.1), "{}", place.name());
        assert!(read.2.iter().all(|what| *what == What::DamagedCatalog), "{:?}", read.2);
    }
}

/// Waits for the next restart, whatever becomes durable before.
async fn restarted(sink: &mut Sink) -> Tip {
    loop {
        match answer(sink).await {
            Answer::Restart { tip, .. } => return tip,
            Answer::Durable { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn an_index_is_that_of_the_sidecars_whatever_has_happened(steps in prop::collection::vec(step(), 1..14)) {
        tokio::runtime::Runtime::new().expect("a runtime").block_on(live(steps));
    }
}
