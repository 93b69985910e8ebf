//! Small archives that hold every kind of object there is, written by the program's own writers.
//!
//! They stand in `tests/golden` as they once were written; [`write`] makes them anew (`WRITE_GOLDEN=1`). Offsets and
//! what lies there are told beside each step, since tests name them.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use kafka_backup::archive::Archive;
use kafka_backup::archive::layout::{self, Fork};
use kafka_backup::archive::savepoint::{Archived, Committed, End, Group, Name, Savepoint, State, Topic as PerTopic};
use kafka_backup::archive::segment::Builder;
use kafka_backup::archive::sidecar::{Kind, Sidecar, Transaction};
use kafka_backup::archive::sink::{Options, Sink};
use kafka_backup::batch::records::{self, Record};
use kafka_backup::batch::transactions::OpenTransactions;
use kafka_backup::batch::{CONVERTED_SEQUENCE, Compression, Header};
use kafka_backup::budget::Permit;
use kafka_backup::pipeline::{Answer, Batch, Payload, Sink as _, Tip, Topic, TopicConfig};
use kafka_backup::record::{AbortedTransaction, Offset, OffsetRange, Partition, Timestamp};
use kafka_backup::store::{Creation, Store};

/// The topic ids in the samples.
pub(crate) const ORDERS: &str = "4u0fkXLXQ-Or5QvZq9JvUA";
pub(crate) const OLD_PAYMENTS: &str = "Zt3aSrZHQbmZkHkWbXl2Fg";
pub(crate) const PAYMENTS: &str = "kHn0mGbbS6aH1fTzYwqv3Q";

/// Writes all samples below `root`, which must not hold them.
pub(crate) async fn write(root: &Path) {
    let store = Store::open(root.to_str().expect("a path of this repository")).expect("a folder");
    main(&store).await;
    tip(&store).await;
    rebuilt(&store).await;
    std::fs::remove_dir_all(root.join(".tmp")).expect("the writers' temporary files");
}

/// Every kind of object; the newest savepoint covers all of it.
async fn main(store: &Store) {
    let archive = Archive::create(store, "main", Some("pL0TLSnNTEuC4yqAoCfSQw")).await.expect("created");
    put_topic(&archive, "orders", ORDERS, 3, "604800000").await;
    put_topic(&archive, "orders", ORDERS, 4, "86400000").await;
    long_chain(&archive, &partition("orders", ORDERS, 0)).await;
    forks(&archive, &partition("orders", ORDERS, 1)).await;
    // Nothing was read of this one yet; partition 3 was not even looked at.
    let mut pen = Pen::open(&archive, &partition("orders", ORDERS, 2), u64::MAX).await;
    pen.begin(1000).await;
    pen.close().await;
    for (topic_id, value) in [(OLD_PAYMENTS, "of the deleted topic"), (PAYMENTS, "of the topic made after it")] {
        put_topic(&archive, "payments", topic_id, 1, "-1").await;
        let mut pen = Pen::open(&archive, &partition("payments", topic_id, 0), u64::MAX).await;
        pen.begin(0).await;
        pen.put(0, &[batch(records::template(0), &[record(0, Some("k"), Some(value))], Compression::None)], &[]);
        pen.close().await;
    }
    savepoints(&archive).await;
}

/// Two full savepoints, each with one that differs from it; together they know of the end of every chain.
async fn savepoints(archive: &Archive) {
    let end = |partition, high_watermark, archived: Option<(&str, Offset)>| End {
        partition,
        high_watermark,
        archived: archived.map(|(chain, next)| Archived { chain: chain.into(), next }),
    };
    let topic = |topic: &str, id: &str, partitions| PerTopic { topic: topic.into(), topic_id: id.into(), partitions };
    let committed = |offset, metadata: &str| vec![Committed(0, offset, metadata.into())];
    let group = |name: &str, kind: &str, offset| Group {
        group: name.into(),
        kind: kind.into(),
        state: "Stable".into(),
        error: None,
        offsets: vec![PerTopic {
            topic: "orders".into(),
            topic_id: ORDERS.into(),
            partitions: committed(offset, "by hand"),
        }],
    };
    let state = |orders: Vec<End>, payments: &str, groups| State {
        cluster_id: archive.backup().cluster_id.clone(),
        topics: vec![topic("orders", ORDERS, orders), topic("payments", payments, vec![end(0, 1, Some(("0", 1)))])],
        topics_unread: Vec::new(),
        groups,
        groups_unread: None,
        hanging: Vec::new(),
    };
    let rest = || [end(2, 1000, None), end(3, 0, None)];
    let ends = |first, second: (&str, Offset)| {
        let ends = [end(0, first, Some(("0", first))), end(1, second.1, Some(second))];
        ends.into_iter().chain(rest()).collect::<Vec<_>>()
    };
    let states = [
        state(ends(41, ("1", 8)), OLD_PAYMENTS, vec![group("audit", "classic", 10), group("shippers", "consumer", 12)]),
        state(ends(50, ("1@1-5", 8)), PAYMENTS, vec![group("shippers", "consumer", 40)]),
        state(ends(60, ("1@1-5", 8)), PAYMENTS, vec![group("shippers", "consumer", 55)]),
        state(ends(67, ("1@4-3", 6)), PAYMENTS, vec![group("shippers", "consumer", 55)]),
    ];
    let names = ["20261122T100000.000Z", "20261122T100100.000Z", "20261122T110000.000Z", "20261122T110100.000Z"];
    let names = names.map(|name| name.parse::<Name>().expect("a name"));
    let mut previous = None;
    for (at, (name, state)) in names.into_iter().zip(&states).enumerate() {
        let full = Savepoint::full(name, name.time(), previous, state.clone());
        let savepoint = if at % 2 == 0 { full } else { full.relative_to(names[at - 1], &states[at - 1]) };
        let created = archive.create_savepoint(name, savepoint.encode()).await.expect("created");
        assert_eq!(created, Creation::Created);
        previous = Some(name);
    }
}

/// 38 segments of partition 0 of `orders`: catalogs of level 1 and one of level 2.
async fn long_chain(archive: &Archive, partition: &Partition) {
    // [3, 11): the chain begins inside its first batch; each codec; null, empty, binary, several of one name.
    let mut pen = Pen::open(archive, partition, u64::MAX).await;
    pen.begin(3).await;
    let odd = Record {
        headers: vec![
            (Bytes::from_static(b"trace"), Some(Bytes::from_static(b"1"))),
            (Bytes::from_static(b"trace"), Some(Bytes::from_static(b"\xff\x00"))),
            (Bytes::from_static(b""), None),
        ],
        ..record(5, None, Some(""))
    };
    pen.put(
        3,
        &[
            batch(records::template(0), &[0, 1, 2, 3, 4].map(plain), Compression::Gzip),
            batch(records::template(5), &[odd, record(6, Some("ключ \"\n"), None)], Compression::Snappy),
            batch(records::template(7), &[7, 8].map(plain), Compression::Lz4),
            batch(records::template(9), &[9, 10].map(plain), Compression::Zstd),
        ],
        &[],
    );
    pen.close().await;
    // [11, 22), a segment each: producer 7 aborts over several segments, 8 commits, the marker of 9 comes much later.
    let mut pen = Pen::open(archive, partition, 1).await;
    let of = |first, count, producer| transactional(first, count, producer);
    pen.put(
        11,
        &[
            of(11, 2, 7),
            batch(records::template(13), &[plain(13)], Compression::None),
            of(14, 1, 7),
            marker(15, 7, false),
            of(16, 2, 8),
            marker(18, 8, true),
            of(19, 1, 9),
            batch(records::template(20), &[plain(20)], Compression::None),
            marker(21, 9, false),
        ],
        &[AbortedTransaction { producer_id: 7, first: 11 }, AbortedTransaction { producer_id: 9, first: 19 }],
    );
    // [22, 30): gone before the agent came.
    pen.gap(22..30);
    pen.close().await;
    // [30, 41): stamped by the broker; once of format v1; compacted, at both ends; idempotent; emptied by the cleaner.
    let mut pen = Pen::open(archive, partition, u64::MAX).await;
    let epoch = |first| Header { leader_epoch: 5, ..records::template(first) };
    let idempotent = Header { producer_id: 4000, producer_epoch: 2, base_sequence: 17, ..epoch(38) };
    pen.put(
        30,
        &[
            batch(Header { attributes: 8, ..epoch(30) }, &[30, 31].map(plain), Compression::None),
            batch(
                Header { base_sequence: CONVERTED_SEQUENCE, ..records::template(32) },
                &[32, 33].map(plain),
                Compression::Gzip,
            ),
            batch(Header { last_offset_delta: 3, ..epoch(34) }, &[35, 36].map(plain), Compression::Lz4),
            batch(idempotent, &[plain(38)], Compression::None),
            batch(Header { last_offset_delta: 1, ..epoch(39) }, &[], Compression::None),
        ],
        &[],
    );
    pen.close().await;
    // [41, 67): a record a segment.
    let mut pen = Pen::open(archive, partition, 1).await;
    let rest: Vec<_> = (41..67).map(|offset| batch(epoch(offset), &[plain(offset)], Compression::None)).collect();
    pen.put(41, &rest, &[]);
    pen.close().await;
}

/// Partition 1 of `orders`: a chain of two epochs, a fork that goes on at 4, and one that goes back to 3.
async fn forks(archive: &Archive, partition: &Partition) {
    let mut pen = Pen::open(archive, partition, 1).await;
    let of = |first, epoch| {
        batch(
            Header { leader_epoch: epoch, ..records::template(first) },
            &[0, 1].map(|n| plain(first + n)),
            Compression::Lz4,
        )
    };
    pen.begin(0).await;
    pen.put(0, &[of(0, 0), of(2, 0), of(4, 0), of(6, 0)], &[]);
    pen.diverge(0, 5).await;
    pen.put(5, &[of(4, 1), of(6, 1)], &[]);
    pen.diverge(0, 3).await;
    // A transaction that was aborted; its marker is not archived yet.
    let aborted = Header { leader_epoch: 4, producer_id: 9, attributes: 0x10, ..records::template(5) };
    let reported = [AbortedTransaction { producer_id: 9, first: 5 }];
    pen.put(3, &[of(3, 4), batch(aborted, &[plain(5)], Compression::None)], &reported);
    pen.close().await;
}

/// A cluster without topic ids and epochs, no savepoint, and a writer that stopped before a commit.
async fn tip(store: &Store) {
    let archive = Archive::create(store, "tip", None).await.expect("created");
    put_topic(&archive, "clicks", "_", 3, "-1").await;
    let one = |offset| batch(records::template(offset), &[plain(offset)], Compression::None);
    for (index, count) in [(0, 8), (1, 6), (2, 2)] {
        let mut pen = Pen::open(&archive, &partition("clicks", "_", index), 1).await;
        pen.begin(0).await;
        pen.put(0, &(0..count).map(one).collect::<Vec<_>>(), &[]);
        pen.close().await;
    }
    let unfinished = partition("clicks", "_", 0);
    let (_, sidecar) = built(&unfinished, 8, &[one(8)]);
    create(&archive, &unfinished, &sidecar).await;
}

/// A sidecar that `repair` has rebuilt: nobody knows any more whether producer 7 aborted.
async fn rebuilt(store: &Store) {
    let archive = Archive::create(store, "rebuilt", None).await.expect("created");
    put_topic(&archive, "orders", ORDERS, 1, "-1").await;
    let partition = partition("orders", ORDERS, 0);
    let log = [transactional(0, 2, 7), batch(records::template(2), &[plain(2)], Compression::None)];
    let (log, mut sidecar) = built(&partition, 0, &log);
    sidecar.undecided = vec![Transaction { producer_id: 7, first: 0, last: None }];
    (sidecar.records, sidecar.first_record) = (1, Some(2));
    create(&archive, &partition, &sidecar).await;
    let key = format!("{}{}", layout::partition_folder(&partition), layout::log(0));
    assert_eq!(archive.store().create(&key, log).await.expect("created"), Creation::Created);
}

/// A writer of one partition.
struct Pen {
    partition: Partition,
    sink: Sink,
    tip: Tip,
}

impl Pen {
    /// Opens the partition; a segment ends when it has `roll_bytes`.
    async fn open(archive: &Archive, partition: &Partition, roll_bytes: u64) -> Self {
        let (roll_interval, give_up_after) = (Duration::from_secs(3600), Some(Duration::ZERO));
        let mut sink = Sink::new(archive.clone(), Options { roll_bytes, roll_interval, give_up_after });
        sink.open(partition);
        let tip = restarted(&mut sink).await;
        Self { partition: partition.clone(), sink, tip }
    }

    async fn begin(&mut self, offset: Offset) {
        self.sink.begin(&self.partition, self.tip.generation, offset);
        self.tip = restarted(&mut self.sink).await;
    }

    async fn diverge(&mut self, epoch: i32, end: Offset) {
        self.sink.diverge(&self.partition, self.tip.generation, epoch, end);
        self.tip = restarted(&mut self.sink).await;
        assert_eq!(self.tip.next, Some(end));
    }

    fn put(&mut self, first: Offset, batches: &[Bytes], aborted: &[AbortedTransaction]) {
        let next = Header::read(batches.last().expect("some")).expect("sound").next_offset();
        let payload = Payload::Encoded { bytes: batches.concat().into(), aborted: aborted.to_vec() };
        self.send(OffsetRange { first, next }, payload);
    }

    fn gap(&mut self, range: std::ops::Range<Offset>) {
        let reason = "retention had deleted them before they were read".to_owned();
        self.send(OffsetRange { first: range.start, next: range.end }, Payload::Gap { reason });
    }

    fn send(&mut self, range: OffsetRange, payload: Payload) {
        self.sink.put(Batch::new(self.partition.clone(), self.tip.generation, range, payload, Permit::default()));
    }

    async fn close(mut self) {
        self.sink.close(&self.partition, self.tip.generation);
        loop {
            match self.sink.answer().await {
                Answer::Closed { .. } => return,
                Answer::Durable { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

async fn restarted(sink: &mut Sink) -> Tip {
    loop {
        match sink.answer().await {
            Answer::Restart { tip, .. } => return tip,
            Answer::Durable { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

fn built(partition: &Partition, first: Offset, batches: &[Bytes]) -> (Bytes, Sidecar) {
    let kind = if first == 0 { Kind::First } else { Kind::Data };
    let mut builder = Builder::new(partition, first, kind, OpenTransactions::default());
    let log = Bytes::from(batches.concat());
    assert_eq!(builder.append(&log, &[], u64::MAX).expect("sound batches"), log.len());
    (log, builder.seal().0)
}

async fn create(archive: &Archive, partition: &Partition, sidecar: &Sidecar) {
    let name = layout::sidecar(sidecar.range.first, sidecar.length_bytes, sidecar.digest);
    let key = format!("{}{name}", layout::chain_folder(partition, None::<Fork>));
    assert_eq!(archive.store().create(&key, sidecar.encode()).await.expect("created"), Creation::Created);
}

async fn put_topic(archive: &Archive, name: &str, topic_id: &str, partitions: i32, retention: &str) {
    let config = |name: &str, value: &str, set| TopicConfig { name: name.into(), value: Some(value.into()), set };
    let topic = Topic {
        name: name.into(),
        topic_id: topic_id.into(),
        partitions,
        replication_factor: 1,
        configs: Some(vec![config("retention.ms", retention, true), config("cleanup.policy", "delete", false)]),
    };
    archive.put_topic(&topic).await.expect("kept");
}

pub(crate) fn partition(topic: &str, topic_id: &str, index: i32) -> Partition {
    Partition { topic: topic.into(), topic_id: topic_id.parse().expect("an id"), index }
}

fn plain(offset: Offset) -> Record {
    record(offset, Some(&format!("k{}", offset % 3)), Some(&format!("value {offset}")))
}

fn record(offset: Offset, key: Option<&str>, value: Option<&str>) -> Record {
    let bytes = |text: &str| Bytes::from(text.to_owned());
    // Times go back now and then.
    let timestamp = Timestamp(1_795_000_000_000 + 1000 * (offset ^ 1));
    Record { offset, timestamp, key: key.map(bytes), value: value.map(bytes), headers: Vec::new() }
}

fn batch(template: Header, records: &[Record], compression: Compression) -> Bytes {
    records::encode(&template, records, compression).expect("they fit")
}

fn transactional(first: Offset, count: i64, producer_id: i64) -> Bytes {
    let template =
        Header { attributes: 0x10, producer_id, producer_epoch: 0, base_sequence: 0, ..records::template(first) };
    batch(template, &(first..first + count).map(plain).collect::<Vec<_>>(), Compression::None)
}

fn marker(offset: Offset, producer_id: i64, commit: bool) -> Bytes {
    let template = Header { attributes: 0x30, producer_id, producer_epoch: 1, ..records::template(offset) };
    let key = Some(Bytes::from(vec![0, 0, 0, u8::from(commit)]));
    batch(template, &[Record { key, value: Some(Bytes::from_static(&[0; 6])), ..plain(offset) }], Compression::None)
}
