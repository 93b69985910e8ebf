//! A small archive in memory to read, and the laws of reading it.

use std::ops::Range;
use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;

use super::audit::{Carried, audit};
use super::chain::{Chain, Finding, Link, What};
use super::chunks::Segment;
use super::*;
use crate::archive::savepoint::Savepoint;
use crate::archive::segment::Builder;
use crate::archive::sidecar::{Kind as SegmentKind, Sidecar};
use crate::batch::records::{self, Record, Records};
use crate::batch::transactions::OpenTransactions;
use crate::batch::{self, Compression, Header};
use crate::pipeline::{Topic, TopicConfig};
use crate::record::{AbortedTransaction, DeadLetter, LeftOut, Offset, OffsetRange};
use crate::store::Creation;

mod ahead;
mod begins;

/// An archive in memory of its own.
pub(crate) struct Fixture {
    pub(crate) archive: Archive,
    pub(crate) root: Store,
    /// Each segment is sealed a second after the one before.
    clock: AtomicI64,
}

impl Fixture {
    pub(crate) async fn new(backup_id: &str) -> Self {
        Self::at(Store::open(&format!("memory://{}", uuid::Uuid::new_v4())).expect("memory"), backup_id).await
    }

    async fn at(root: Store, backup_id: &str) -> Self {
        let archive = Archive::create(&root, backup_id, Some("cluster")).await.expect("created");
        Self { archive, root, clock: AtomicI64::new(1_700_000_000_000) }
    }

    pub(crate) async fn topic(&self, name: &str, topic_id: &str, partitions: i32) {
        let config = |name: &str, value: &str, set| TopicConfig { name: name.into(), value: Some(value.into()), set };
        let topic = Topic {
            name: name.into(),
            topic_id: topic_id.into(),
            partitions,
            replication_factor: 1,
            configs: Some(vec![config("retention.ms", "1000", true), config("segment.bytes", "1", false)]),
        };
        self.archive.put_topic(&topic).await.expect("kept");
    }

    /// A batch of `count` records from `first` on; the time of each is its offset + 1000.
    pub(crate) fn batch(&self, first: Offset, count: i64) -> Bytes {
        self.batch_of(&records::template(first), count)
    }

    /// As [`batch`](Self::batch), in a transaction of `producer_id`.
    pub(crate) fn transactional(&self, first: Offset, count: i64, producer_id: i64) -> Bytes {
        self.batch_of(&Header { attributes: 0x10, producer_id, ..records::template(first) }, count)
    }

    /// The marker that ends a transaction of `producer_id`.
    pub(crate) fn marker(&self, offset: Offset, producer_id: i64, commit: bool) -> Bytes {
        let header = Header { attributes: 0x30, producer_id, ..records::template(offset) };
        let key = Some(Bytes::from(vec![0, 0, 0, u8::from(commit)]));
        let (timestamp, value) = (Timestamp(1000 + offset), Some(Bytes::from_static(&[0; 6])));
        let record = Record { offset, timestamp, key, value, headers: Vec::new() };
        records::encode(&header, &[record], Compression::None).expect("it fits")
    }

    pub(crate) fn batch_of(&self, template: &Header, count: i64) -> Bytes {
        let record = |offset| Record {
            offset,
            timestamp: Timestamp(1000 + offset),
            key: Some(Bytes::from(format!("k{offset}"))),
            value: Some(Bytes::from(format!("value {offset}"))),
            headers: Vec::new(),
        };
        let first = template.base_offset;
        let records: Vec<_> = (first..first + count).map(record).collect();
        records::encode(template, &records, Compression::Lz4).expect("they fit")
    }

    pub(crate) async fn segment(&self, topic: &str, index: i32, first: Offset, kind: SegmentKind, batches: &[Bytes]) {
        self.segment_of(topic, "_", index, first, kind, batches).await;
    }

    pub(crate) async fn segment_of(
        &self,
        topic: &str,
        topic_id: &str,
        index: i32,
        first: Offset,
        kind: SegmentKind,
        batches: &[Bytes],
    ) {
        let partition = partition(topic, topic_id, index);
        let mut builder = Builder::new(&partition, first, kind, OpenTransactions::default());
        let log = Bytes::from(batches.concat());
        builder.append(&log, &[], u64::MAX).expect("sound batches");
        self.put(&partition, log, &builder.seal().0).await;
    }

    /// A dead letter of partition 0 of topic `t`.
    pub(crate) async fn dead_letter(&self, batch: &Bytes) -> DeadLetter {
        let first = Header::read(batch).expect("sound").base_offset;
        let digest = xxhash_rust::xxh3::xxh3_128(batch);
        let key = layout::dead_letter(&partition("t", "_", 0), first, batch.len() as u64, digest);
        self.create(&key, batch.clone()).await;
        DeadLetter { length_bytes: batch.len() as u64, digest }
    }

    /// A segment of partition 0 of topic `t` whose records went through a stage, which has left these out.
    pub(crate) async fn staged_segment(&self, first: Offset, batches: &[Bytes], left_out: &[LeftOut]) {
        self.segment_through(&["mask 00"], first, batches, left_out).await;
    }

    pub(crate) async fn segment_through(
        &self,
        stages: &[&str],
        first: Offset,
        batches: &[Bytes],
        left_out: &[LeftOut],
    ) {
        let partition = partition("t", "_", 0);
        let kind = if first == 0 { SegmentKind::First } else { SegmentKind::Data };
        let builder = Builder::new(&partition, first, kind, OpenTransactions::default());
        let mut builder = builder.staged(&stages.iter().map(|stage| (*stage).to_owned()).collect::<Vec<_>>());
        let log = Bytes::from(batches.concat());
        builder.append(&log, &[], u64::MAX).expect("sound batches");
        builder.leave_out(left_out.iter().copied());
        self.put(&partition, log, &builder.seal().0).await;
    }

    /// The first segment of a fork of partition 0 of topic `t`.
    pub(crate) async fn fork_segment(&self, fork: Fork, batches: &[Bytes]) {
        self.fork_segment_at(fork, fork.end, batches).await;
    }

    pub(crate) async fn fork_segment_at(&self, fork: Fork, first: Offset, batches: &[Bytes]) {
        let partition = partition("t", "_", 0);
        let mut builder = Builder::new(&partition, first, SegmentKind::First, OpenTransactions::default());
        let log = Bytes::from(batches.concat());
        builder.append(&log, &[], u64::MAX).expect("sound batches");
        self.put_into(&layout::chain_folder(&partition, Some(fork)), log, &builder.seal().0).await;
    }

    /// A segment during whose capture `aborted` was reported; returns the transactions that go on behind it.
    pub(crate) async fn segment_aborting(
        &self,
        first: Offset,
        batches: &[Bytes],
        aborted: &[AbortedTransaction],
        open: OpenTransactions,
    ) -> OpenTransactions {
        let kind = if first == 0 { SegmentKind::First } else { SegmentKind::Data };
        let mut builder = Builder::new(&partition("t", "_", 0), first, kind, open);
        let log = Bytes::from(batches.concat());
        builder.append(&log, aborted, u64::MAX).expect("sound batches");
        let (sidecar, open) = builder.seal();
        self.put(&partition("t", "_", 0), log, &sidecar).await;
        open
    }

    pub(crate) async fn gap_of(&self, topic: &str, topic_id: &str, index: i32, range: Range<Offset>) {
        let partition = partition(topic, topic_id, index);
        let range = OffsetRange { first: range.start, next: range.end };
        let (log, sidecar) = Builder::gap(&partition, range, 0, "retention".to_owned());
        self.put(&partition, log, &sidecar).await;
    }

    async fn put(&self, partition: &Partition, log: Bytes, sidecar: &Sidecar) {
        self.put_into(&layout::partition_folder(partition), log, sidecar).await;
    }

    async fn put_into(&self, folder: &str, log: Bytes, sidecar: &Sidecar) {
        let sealed_at = Timestamp(self.clock.fetch_add(1000, Ordering::Relaxed));
        let sidecar = Sidecar { sealed_at, ..sidecar.clone() };
        let name = layout::sidecar(sidecar.range.first, sidecar.length_bytes, sidecar.digest);
        self.create(&format!("{folder}{name}"), sidecar.encode()).await;
        self.create(&format!("{folder}{}", layout::log(sidecar.range.first)), log).await;
    }

    pub(crate) async fn savepoint(&self, savepoint: &Savepoint) {
        self.create(&layout::savepoint(savepoint.name), savepoint.encode()).await;
    }

    pub(crate) async fn create(&self, key: &str, bytes: Bytes) {
        assert_eq!(self.archive.store().create(key, bytes).await.expect("created"), Creation::Created);
    }

    /// Returns an archive like this one, with `change` done to each of its objects (`None`: it is left out).
    pub(crate) async fn but(&self, change: impl Fn(&str, Bytes) -> Option<Bytes>) -> Self {
        self.put_all_into(Self::new(&self.archive.backup().backup_id).await, change).await
    }

    async fn put_all_into(&self, other: Self, change: impl Fn(&str, Bytes) -> Option<Bytes>) -> Self {
        let mut folders = [layout::TOPICS, layout::SAVEPOINTS, layout::RESTORES].map(str::to_owned).to_vec();
        while let Some(folder) = folders.pop() {
            for entry in self.archive.store().list(&folder).await.expect("listed") {
                let key = format!("{folder}{}", entry.name);
                if entry.is_folder {
                    folders.push(format!("{key}/"));
                } else if let Some(bytes) =
                    change(&key, self.archive.store().read(&key).await.expect("read").expect("it is"))
                {
                    other.create(&key, bytes).await;
                }
            }
        }
        other
    }

    /// Walks the chain of partition 0 of topic `t`.
    async fn walk(&self) -> (Vec<Segment>, Vec<Finding>) {
        let folder = layout::partition_folder(&partition("t", "_", 0));
        let place = Place { partition: partition("t", "_", 0), fork: None, folder };
        let mut chain = Chain::open(&self.archive, &place).await.expect("listed");
        let (mut segments, mut findings) = (Vec::new(), Vec::new());
        while let Some(link) = chain.next().await.expect("read") {
            match link {
                Link::Segment(segment) => segments.push(*segment),
                Link::Finding(finding) => findings.push(finding),
            }
        }
        (segments, findings)
    }
}

fn partition(topic: &str, topic_id: &str, index: i32) -> Partition {
    Partition { topic: topic.into(), topic_id: topic_id.parse().expect("an id"), index }
}

/// Three segments of partition 0 of topic `t`: offsets [0, 10), [10, 15), [15, 20).
pub(crate) async fn three() -> Fixture {
    let fixture = Fixture::new("b").await;
    let two = [fixture.batch(0, 5), fixture.batch(5, 5)];
    fixture.segment("t", 0, 0, SegmentKind::First, &two).await;
    fixture.segment("t", 0, 10, SegmentKind::Data, &[fixture.batch(10, 5)]).await;
    fixture.segment("t", 0, 15, SegmentKind::Data, &[fixture.batch(15, 5)]).await;
    fixture
}

/// Keeps all objects but those whose key has both parts.
fn without<'a>(first: &'a str, second: &'a str) -> impl Fn(&str, Bytes) -> Option<Bytes> + 'a {
    move |key, bytes| (!(key.contains(first) && key.contains(second))).then_some(bytes)
}

fn firsts(segments: &[Segment]) -> Vec<Offset> {
    segments.iter().map(|segment| segment.sidecar.range.first).collect()
}

fn whats(findings: &[Finding]) -> Vec<(What, Option<(Offset, Offset)>)> {
    findings.iter().map(|found| (found.what, found.range.map(|range| (range.first, range.next)))).collect()
}

#[tokio::test]
async fn a_chain_is_walked_by_next() {
    let (segments, findings) = three().await.walk().await;
    assert_eq!(firsts(&segments), [0, 10, 15]);
    assert_eq!(findings, []);
}

#[tokio::test]
async fn a_missing_segment_is_a_hole_and_the_walk_goes_on_behind_it() {
    for (log, hole) in [("010.log", (10, 15)), ("000.log", (0, 10))] {
        let (segments, findings) = three().await.but(without("/t/", log)).await.walk().await;
        assert_eq!(whats(&findings), [(What::Hole, Some(hole))]);
        assert!(findings[0].detail.contains("its sidecar is there, its log is not"), "{}", findings[0]);
        assert_eq!(segments.len(), 2);
    }
    let (_, findings) = three().await.but(without("/t/", "00000010.")).await.walk().await;
    assert_eq!(whats(&findings), [(What::Hole, Some((10, 15)))]);
    let (_, findings) = three().await.but(without("/t/", "00000000.")).await.walk().await;
    assert_eq!(whats(&findings), [(What::Hole, Some((0, 10)))], "a chain does not begin with a later segment");
}

#[tokio::test]
async fn a_sidecar_at_the_tip_without_its_log_is_unfinished_and_one_beyond_is_a_hole() {
    let (segments, findings) = three().await.but(without("/t/", "015.log")).await.walk().await;
    assert_eq!((firsts(&segments), whats(&findings)), (vec![0, 10], vec![(What::Unfinished, None)]));
    let fixture = three().await.but(without("/t/", "015.log")).await;
    let (_, findings) = fixture.but(without("/t/", "00000010.")).await.walk().await;
    assert_eq!(whats(&findings), [(What::Hole, Some((10, 15)))], "somebody had seen what lay before offset 15");
    let (segments, findings) = three().await.but(without("/t/", ".log")).await.walk().await;
    assert!(segments.is_empty());
    assert_eq!(whats(&findings), [(What::Unfinished, None), (What::Hole, Some((0, 10))), (What::Hole, Some((10, 15)))]);
}

#[tokio::test]
async fn a_log_inside_anothers_range_is_debris() {
    let fixture = three().await;
    fixture.segment("t", 0, 4, SegmentKind::Data, &[fixture.batch(4, 3)]).await;
    let (segments, findings) = fixture.walk().await;
    assert_eq!(firsts(&segments), [0, 10, 15]);
    assert_eq!(whats(&findings), [(What::Debris, None)]);
}

#[tokio::test]
async fn a_segment_without_its_sidecar_is_damage_and_still_tells_where_the_next_begins() {
    let (segments, findings) = three().await.but(without("00000010.", ".index")).await.walk().await;
    assert_eq!(firsts(&segments), [0, 15]);
    assert_eq!(whats(&findings), [(What::NoSidecar, Some((10, 15)))]);
    let flip = |key: &str, bytes: Bytes| {
        let mut bytes = bytes.to_vec();
        if key.contains("00000010.") && key.ends_with(".index") {
            bytes[30] ^= 1;
        }
        Some(Bytes::from(bytes))
    };
    let (_, findings) = three().await.but(flip).await.walk().await;
    assert_eq!(whats(&findings), [(What::DamagedSidecar, Some((10, 15)))]);
}

#[tokio::test]
async fn a_cut_log_is_damage_and_its_sidecar_tells_what_is_lost() {
    let cut = |key: &str, bytes: Bytes| Some(if key.ends_with("0010.log") { bytes.slice(..80) } else { bytes });
    let (segments, findings) = three().await.but(cut).await.walk().await;
    assert_eq!(firsts(&segments), [0, 15]);
    assert_eq!(whats(&findings), [(What::DamagedLog, Some((10, 15)))]);
}

#[tokio::test]
async fn a_segment_that_a_listing_missed_is_looked_for_again() {
    for missed in ["00000010.", "00000015."] {
        let (whole, early) = (three().await, three().await.but(without("/t/", missed)).await);
        let place = timelines(&early.archive).await.expect("listed").remove(0).places.remove(0);
        let mut chain = Chain::open(&early.archive, &place).await.expect("listed");
        for entry in whole.archive.store().list(&place.folder).await.expect("listed") {
            let key = format!("{}{}", place.folder, entry.name);
            let bytes = whole.archive.store().read(&key).await.expect("read").expect("it is");
            let _ = early.archive.store().create(&key, bytes).await.expect("created or there");
        }
        let mut steps = 0;
        while let Some(link) = chain.next().await.expect("read") {
            assert!(matches!(link, Link::Segment(_)));
            steps += 1;
        }
        // What comes after the tip that was listed is for the next reader.
        assert_eq!(steps, if missed == "00000010." { 3 } else { 2 });
    }
}

#[tokio::test]
async fn of_two_sidecars_of_one_length_the_one_with_the_logs_digest_is_read() {
    let fixture = three().await;
    let (segments, _) = fixture.walk().await;
    for digest in [0, u128::MAX] {
        let loser = Sidecar { digest, records: 99, ..segments[1].sidecar.clone() };
        let name = layout::sidecar(10, loser.length_bytes, digest);
        fixture.create(&format!("topics/t/_/0/{name}"), loser.encode()).await;
    }
    let (segments, findings) = fixture.walk().await;
    assert_eq!((segments[1].sidecar.records, findings), (5, vec![]));
}

#[tokio::test]
async fn a_sidecar_of_another_partition_is_not_believed() {
    let fixture = Fixture::new("b").await;
    fixture.segment("t", 1, 0, SegmentKind::First, &[fixture.batch(0, 5)]).await;
    for entry in fixture.archive.store().list("topics/t/_/1/").await.expect("listed") {
        let bytes = fixture.archive.store().read(&format!("topics/t/_/1/{}", entry.name)).await.expect("read");
        fixture.create(&format!("topics/t/_/0/{}", entry.name), bytes.expect("it is")).await;
    }
    assert_eq!(whats(&fixture.walk().await.1), [(What::DamagedSidecar, Some((0, 5)))]);
}

#[tokio::test]
async fn a_sound_segment_passes_its_audit() {
    let (segments, _) = three().await.walk().await;
    for segment in &segments {
        let audit = audit(segment, &mut Carried::default()).await.expect("read");
        assert_eq!((audit.findings, audit.records), (vec![], segment.sidecar.records));
    }
}

#[tokio::test]
async fn every_flipped_byte_of_a_log_is_found() {
    let sound = three().await;
    let length = sound.walk().await.0[0].sidecar.length_bytes as usize;
    for at in 0..length {
        let flip = |key: &str, bytes: Bytes| {
            let mut bytes = bytes.to_vec();
            if key.ends_with("00000000.log") {
                bytes[at] ^= 0x10;
            }
            Some(Bytes::from(bytes))
        };
        let (segments, _) = sound.but(flip).await.walk().await;
        let findings = audit(&segments[0], &mut Carried::default()).await.expect("read").findings;
        assert!(!findings.is_empty(), "byte {at}");
        assert!(findings.iter().all(|found| found.what == What::DamagedLog && found.range.is_some()), "byte {at}");
    }
}

#[tokio::test]
async fn a_sidecar_that_lies_about_its_log_is_found() {
    let (segments, _) = three().await.walk().await;
    let truth = segments[0].sidecar.clone();
    let mut entries = truth.entries.clone();
    entries[0].offset += 1;
    let lies = [
        Sidecar { records: 9, ..truth.clone() },
        Sidecar { batches: 3, ..truth.clone() },
        Sidecar { converted: 1, ..truth.clone() },
        Sidecar { range: OffsetRange { first: 0, next: 11 }, ..truth.clone() },
        Sidecar { last_record: None, ..truth.clone() },
        Sidecar { max_time: Some(Timestamp(5)), ..truth.clone() },
        Sidecar { entries, ..truth },
    ];
    for sidecar in lies {
        let mut segment = segments[0].clone();
        segment.sidecar = sidecar;
        let findings = audit(&segment, &mut Carried::default()).await.expect("read").findings;
        let lie = (What::DamagedSidecar, Some((0, segment.sidecar.range.next)));
        assert!(!findings.is_empty() && whats(&findings).iter().all(|found| *found == lie), "{findings:?}");
    }
}

#[tokio::test]
async fn a_read_committed_reader_sees_no_aborted_records_no_markers_and_none_before_the_segment() {
    let fixture = Fixture::new("b").await;
    let batches = [
        fixture.transactional(0, 3, 7),
        fixture.transactional(3, 2, 8),
        fixture.batch(5, 2),
        fixture.marker(7, 8, true),
        fixture.marker(8, 7, false),
        fixture.transactional(9, 2, 7),
        fixture.marker(11, 7, true),
    ];
    let aborted = [AbortedTransaction { producer_id: 7, first: 0 }];
    let open = fixture.segment_aborting(0, &batches, &aborted, OpenTransactions::default()).await;
    fixture.segment_aborting(12, &[fixture.batch(10, 5)], &[], open).await;
    let (segments, findings) = fixture.walk().await;
    assert_eq!(findings, []);
    let mut offsets = Vec::new();
    for segment in &segments {
        assert_eq!(audit(segment, &mut Carried::default()).await.expect("read").findings, []);
        let chunk = segment.chunks(0).next().await.expect("read").expect("a chunk");
        for item in batch::walk(&chunk.bytes) {
            let (at, header) = item.expect("sound");
            if segment.is_visible(&header) {
                let records = Records::of(&header, &chunk.bytes.slice(at..)).expect("sound");
                offsets.extend(records.map(|record| record.expect("sound").offset));
            }
        }
    }
    // The last batch is cut by its reader: `cat` leaves out offsets 10 and 11.
    assert_eq!(offsets, [3, 4, 5, 6, 9, 10, 10, 11, 12, 13, 14]);
    assert_eq!(segments.iter().map(|segment| segment.sidecar.records).collect::<Vec<_>>(), [6, 3]);
}

#[tokio::test]
async fn chunks_are_whole_batches_whatever_their_size() {
    let fixture = Fixture::new("b").await;
    let large = |first: Offset, bytes: usize| {
        let value = Some(Bytes::from(vec![b'x'; bytes]));
        let record = Record { offset: first, timestamp: Timestamp(0), key: None, value, headers: Vec::new() };
        records::encode(&records::template(first), &[record], Compression::None).expect("it fits")
    };
    let batches = [large(0, 3 << 20), large(1, 3 << 20), large(2, 9 << 20), large(3, 10)];
    fixture.segment("t", 0, 0, SegmentKind::First, &batches).await;
    let (segments, _) = fixture.walk().await;
    let mut chunks = segments[0].chunks(segments[0].position_of(1));
    let mut seen = Vec::new();
    while let Some(chunk) = chunks.next().await.expect("read") {
        seen.extend(batch::walk(&chunk.bytes).map(|item| item.expect("sound").1.base_offset));
    }
    assert_eq!(seen, [1, 2, 3]);
    assert_eq!(audit(&segments[0], &mut Carried::default()).await.expect("read").findings, []);
}

#[tokio::test]
async fn a_backup_that_is_not_there_is_answered_with_those_that_are() {
    let fixture = Fixture::new("orders-backup").await;
    let error = open(&fixture.root, "order-backup").await.err().expect("there is none");
    assert_eq!(error.kind(), Kind::NoBackup);
    assert!(error.to_string().ends_with("there is: orders-backup"), "{error}");
    assert_eq!(backups(&fixture.root).await.expect("listed"), ["orders-backup"]);
}

#[tokio::test]
async fn partitions_without_records_and_forks_are_places() {
    let fixture = Fixture::new("b").await;
    fixture.topic("t", "_", 3).await;
    fixture.segment("t", 1, 0, SegmentKind::First, &[fixture.batch(0, 1)]).await;
    fixture.create("topics/t/_/1@7-500/x", Bytes::new()).await;
    fixture.create("topics/t/_/catalog/x", Bytes::new()).await;
    let timelines = timelines(&fixture.archive).await.expect("listed");
    let places: Vec<_> = timelines[0].places.iter().map(|place| (place.partition.index, place.fork)).collect();
    let fork = Some(Fork { epoch: 7, end: 500 });
    assert_eq!(places, [(0, None), (1, None), (1, fork), (2, None)]);
}

#[tokio::test]
async fn a_walk_ends_though_a_segment_does_not_tell_its_end_and_another_lacks_its_sidecar() {
    let change = |key: &str, bytes: Bytes| match key {
        key if key.contains("00000010.log") => Some(bytes.slice(..bytes.len() / 2)),
        // Listed again before this one, the walk must not come to the first again.
        key if key.ends_with(".index") && !key.contains("00000000.") => None,
        _ => Some(bytes),
    };
    let (segments, findings) = three().await.but(change).await.walk().await;
    assert_eq!(firsts(&segments), [0]);
    assert_eq!(whats(&findings), [(What::NoSidecar, None), (What::NoSidecar, Some((15, 20)))]);
}
