//! Random logs with random cuts, from an archive through plan and reading to what is sent, held against a model that looks
//! at each record by itself. `CASES=n` tries more than a thousand, `FUZZ_SEED=n` is the first of them.

use std::collections::BTreeMap;

use bytes::Bytes;
use fastrand::Rng;

use super::plan::making::tests::of_archive;
use super::reading::{Limits as Bounds, Reading, Task};
use crate::archive::savepoint::tests::durable;
use crate::archive::source::Fork;
use crate::archive::source::tests::Fixture;
use crate::batch::outgoing::{Fitted, Identity, Limits, Refit, Window};
use crate::batch::records::tests::ALL;
use crate::batch::records::{self, Record, Records};
use crate::batch::transactions::OpenTransactions;
use crate::batch::{self, Header};
use crate::budget::{Budget, RateLimit};
use crate::config::Config;
use crate::pipeline::{Event, Payload, Source as _, Tip};
use crate::record::{AbortedTransaction, Offset, OffsetRange, Partition, Timestamp};

const CASES: u64 = 1000;

/// The time of the first record, about.
const BEGAN: i64 = 1_000_000;

/// A record, and which transaction it is of.
#[derive(Debug, Clone)]
struct Known {
    record: Record,
    transaction: Option<usize>,
}

#[derive(Debug, Clone, Copy)]
struct Transaction {
    producer_id: i64,
    first: Offset,
    last: Offset,
    /// Where its marker is.
    marker: Offset,
    is_aborted: bool,
}

/// A log of one partition.
#[derive(Debug, Default)]
struct Log {
    next: Offset,
    batches: Vec<Bytes>,
    known: Vec<Known>,
    transactions: Vec<Transaction>,
    /// By producer, the transaction that it has not ended.
    open: BTreeMap<i64, usize>,
    has_stamped: bool,
}

/// What of a log is taken.
#[derive(Debug, Default)]
struct Cut {
    from: Option<i64>,
    until: Option<i64>,
    offsets: Option<(Offset, Offset)>,
    savepoint: Option<Offset>,
}

/// How often something was met.
#[derive(Debug, Default)]
struct Met {
    forks: usize,
    /// Forks behind a savepoint.
    before: usize,
    aborted: usize,
    torn: usize,
    stamped: usize,
    skipped: usize,
    empty: usize,
    behind: usize,
}

impl Log {
    fn record(random: &mut Rng, offset: Offset) -> Record {
        let field = |random: &mut Rng| match random.u8(..8) {
            0 => None,
            1 => Some(Bytes::new()),
            n => Some(Bytes::from(vec![n; random.usize(..30)])),
        };
        let headers = vec![(Bytes::from_static(b"h"), field(random)); random.usize(..3).saturating_sub(1)];
        let timestamp = Timestamp(BEGAN + offset * 10 + random.i64(-300..300));
        Record { offset, timestamp, key: field(random), value: field(random), headers }
    }

    /// Appends a batch whose first offset is the log's end, or `before` it.
    fn batch(&mut self, random: &mut Rng, producer_id: Option<i64>, before: Offset) {
        let first = self.next - before;
        let has_holes = random.u8(..3) == 0;
        let count = if random.u8(..12) == 0 && before == 0 { 0 } else { random.i64(1..7) + before };
        let (mut offset, mut records) = (first, Vec::new());
        for _ in 0..count {
            records.push(Self::record(random, offset));
            offset += if has_holes { random.i64(1..4) } else { 1 };
        }
        let stamped = random.u8(..6) == 0;
        let last_offset_delta = if has_holes { random.i32(0..12) } else { 0 };
        let transactional = if producer_id.is_some() { 0x10 } else { 0 };
        let header = Header {
            attributes: transactional | if stamped { 0x08 } else { 0 },
            producer_id: producer_id.unwrap_or(-1),
            last_offset_delta,
            ..records::template(first)
        };
        let batch = records::encode(&header, &records, ALL[random.usize(..5)]).expect("they fit");
        let most = records.iter().map(|record| record.timestamp).max();
        if let (true, Some(most)) = (stamped, most) {
            self.has_stamped = true;
            records.iter_mut().for_each(|record| record.timestamp = most);
        }
        let transaction = producer_id.filter(|_| !records.is_empty()).map(|producer_id| {
            let new = self.transactions.len();
            let transaction = *self.open.entry(producer_id).or_insert(new);
            if transaction == new {
                let (last, marker) = (first, Offset::MAX);
                self.transactions.push(Transaction { producer_id, first, last, marker, is_aborted: false });
            }
            self.transactions[transaction].last = records[records.len() - 1].offset;
            transaction
        });
        let from = self.next;
        self.next = Header::read(&batch).expect("our own header").next_offset();
        self.batches.push(batch);
        let known = records.into_iter().filter(|record| record.offset >= from);
        self.known.extend(known.map(|record| Known { record, transaction }));
    }

    /// Ends a transaction.
    fn end(&mut self, random: &mut Rng, fixture: &Fixture, producer_id: i64) {
        let Some(transaction) = self.open.remove(&producer_id) else { return };
        let is_aborted = random.u8(..3) == 0;
        let of = &mut self.transactions[transaction];
        (of.marker, of.is_aborted) = (self.next, is_aborted);
        self.batches.push(fixture.marker(self.next, producer_id, !is_aborted));
        self.next += 1;
    }

    fn random(random: &mut Rng, fixture: &Fixture, has_transactions: bool) -> Self {
        let mut log = Self::default();
        log.batch(random, None, 0);
        for _ in 0..random.usize(3..20) {
            let producer_id = random.i64(7..10);
            match random.u8(..10) {
                0..=3 if has_transactions => log.batch(random, Some(producer_id), 0),
                4..=5 if has_transactions => log.end(random, fixture, producer_id),
                _ => log.batch(random, None, 0),
            }
            // The log cleaner takes whole batches too.
            log.next += [0, 0, 0, 3][random.usize(..4)];
        }
        for producer_id in 7..10 {
            log.end(random, fixture, producer_id);
        }
        log
    }

    /// Archives the first batches in segments of random size; returns where the archive ends.
    async fn archive(&self, random: &mut Rng, fixture: &Fixture, count: usize) -> Offset {
        let (mut first, mut open, mut at) = (0, OpenTransactions::default(), 0);
        while at < count {
            let of = random.usize(1..6).min(count - at);
            let batches = &self.batches[at..at + of];
            let next = Header::read(&batches[of - 1]).expect("our own header").next_offset();
            let touches = |of: &&Transaction| of.is_aborted && of.first < next && of.marker >= first;
            let aborted = self.transactions.iter().filter(touches);
            let aborted: Vec<_> =
                aborted.map(|of| AbortedTransaction { producer_id: of.producer_id, first: of.first }).collect();
            open = fixture.segment_aborting(first, batches, &aborted, open).await;
            (first, at) = (next, at + of);
        }
        first
    }
}

impl Cut {
    fn random(random: &mut Rng, log: &Log) -> Self {
        let next = log.next;
        let mut of = |is: u8, most: i64| (random.u8(..4) < is).then(|| random.i64(0..most));
        let offsets = of(1, next).map(|first| (first, first));
        let from = of(1, next * 10).map(|time| BEGAN + time - 200);
        let until = of(1, next * 10).map(|time| BEGAN + time + 200);
        // What is replicated ends where a batch does.
        let ends =
            |at: i64| Header::read(&log.batches[at.unsigned_abs() as usize]).expect("our own header").next_offset();
        let savepoint = of(2, log.batches.len() as i64).map(ends);
        let offsets = offsets.map(|(first, _)| (first, first + random.i64(1..next + 1)));
        Self { from, until: until.map(|until| until.max(from.unwrap_or(0) + 1)), offsets, savepoint }
    }

    /// Returns whether a record is taken, by itself.
    fn takes(&self, known: &Known, transactions: &[Transaction]) -> bool {
        let (offset, time) = (known.record.offset, known.record.timestamp.0);
        let of = known.transaction.map(|transaction| &transactions[transaction]);
        let is_whole = |end: Offset| offset < end && of.is_none_or(|of| of.last < end);
        of.is_none_or(|of| !of.is_aborted)
            && self.from.is_none_or(|from| time >= from)
            && self.until.is_none_or(|until| time < until)
            && self.offsets.is_none_or(|(first, next)| (first..next).contains(&offset))
            && self.savepoint.is_none_or(is_whole)
    }

    fn config(&self) -> Config {
        let mut source = String::new();
        for (key, time) in [("from", self.from), ("until", self.until)] {
            source += &time.map(|time| format!("{key} = \"{time}\"\n")).unwrap_or_default();
        }
        if let Some((first, next)) = self.offsets {
            source += &format!("offsets = [\"t-0:{first}..{next}\"]\n");
        }
        if self.savepoint.is_some() {
            source += &format!("savepoint = \"{}\"\n", durable(1, None, &[]).name);
        }
        let text = format!(
            "[[pipeline]]\nname = \"r\"\n[pipeline.source]\ntype = \"archive\"\nbackup_id = \"b\"\n\
             path = \"memory://m\"\ntopics = [\"t\"]\n{source}[pipeline.sink]\ntype = \"kafka\"\n\
             kafka = {{ \"bootstrap.servers\" = \"h:1\" }}\n"
        );
        Config::parse("test", &text, &|_| None).expect("right")
    }
}

/// Reads what is planned; returns what is sent.
async fn sent(random: &mut Rng, fixture: &Fixture, task: Task) -> Vec<Fitted> {
    let none = RateLimit::new(None);
    let piece = ([1, 200, usize::MAX][random.usize(..3)], [1, u64::MAX][random.usize(..2)]);
    let bounds = Bounds { budget: Budget::new(64 << 20), bytes: none.clone(), records: none, piece };
    let limits = Limits {
        most_bytes: [500, 2000, 1 << 20][random.usize(..3)],
        merge_below: [0, 200, 16 << 10][random.usize(..3)],
        merge_to: [300, 256 << 10][random.usize(..2)],
    };
    let wanted = task.window;
    let mut source = Reading::new(&fixture.archive, vec![task], bounds);
    let (mut refit, mut out) = (Refit::new(limits), Vec::new());
    let mut reached = None;
    loop {
        match source.next().await.expect("errors are told at the end") {
            Some(Event::Assigned(partition)) => {
                let next = Some(wanted.offsets.first);
                source.start(&partition, Tip { next, leader_epoch: -1, generation: 1 });
            }
            Some(Event::Batch(batch)) => {
                let (range, payload, ..) = batch.into_parts();
                reached = Some(range.next);
                let Payload::Encoded { bytes, .. } = payload else { continue };
                // Of a batch that reaches beyond its run, the rest is not meant.
                let OffsetRange { first, next } = wanted.offsets;
                let offsets = OffsetRange { first: first.max(range.first), next: next.min(range.next) };
                let window = Window { offsets, ..wanted };
                for item in batch::walk(&bytes) {
                    let (at, header) = item.expect("whole");
                    let bytes = bytes.slice(at..at + header.total_bytes);
                    refit.put(&header, &bytes, &window, &mut out).expect("sound");
                }
            }
            Some(Event::Finished { partition, .. }) => source.closed(&partition),
            None => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(source.failure().is_none());
    assert_eq!(reached, Some(wanted.offsets.next), "all that is asked for is covered");
    refit.flush(&mut out).expect("sound");
    out
}

/// Returns the records of what is sent, at the offsets that they came from.
fn records_of(fitted: &[Fitted]) -> Vec<Record> {
    let mut all = Vec::new();
    for Fitted { batch, sources } in fitted {
        let head = batch.seal(Identity { producer_id: 1, epoch: 0 }, 0, false);
        let bytes = [&head[..], batch.payload()].concat();
        let records: Vec<Record> =
            Records::read(&Bytes::from(bytes)).and_then(Iterator::collect).expect("it can be read");
        all.extend(records.into_iter().zip(sources.offsets()).map(|(record, offset)| Record { offset, ..record }));
    }
    all
}

/// Tries one log and cut.
async fn try_case(case: u64, met: &mut Met) {
    let random = &mut Rng::with_seed(case);
    let fixture = Fixture::new("b").await;
    let is_forked = random.u8(..4) == 0;
    let mut log = Log::random(random, &fixture, !is_forked);
    let mut cut = Cut::random(random, &log);
    // A log that is captured on has everything that was there at a savepoint.
    let is_whole = is_forked || cut.savepoint.is_some() || random.u8(..3) > 0;
    let count = if is_whole { log.batches.len() } else { random.usize(1..=log.batches.len()) };
    let archived = log.archive(random, &fixture, count).await;
    log.known.retain(|known| known.record.offset < archived);
    let (mut chain, mut held) = ("0".to_owned(), archived);
    if is_forked {
        let end = random.i64(1..=archived);
        let mut fork = Log { next: end, ..Log::default() };
        let before = random.i64(0..3).min(end);
        for n in 0..random.usize(1..5) {
            fork.batch(random, None, if n == 0 { before } else { 0 });
        }
        // A savepoint is of the chain that it was made of: before the fork, or since.
        let is_before = cut.savepoint.is_some() && random.bool();
        if fork.next > end {
            fixture.fork_segment(Fork { epoch: 3, end }, &fork.batches).await;
            met.forks += 1;
            met.before += usize::from(is_before);
            if !is_before {
                (chain, held) = (format!("0@3-{end}"), fork.next);
                cut.savepoint = cut.savepoint.map(|_| fork.next);
                log.known.retain(|known| known.record.offset < end);
                log.known.extend(fork.known);
            }
        } else {
            cut.savepoint = None;
        }
    }
    // What is not held is not asked for.
    cut.offsets = cut.offsets.map(|(first, next)| (first, next.min(held))).filter(|(first, next)| first < next);
    // Nor what was not there at the savepoint.
    cut.offsets = cut.offsets.filter(|(first, _)| cut.savepoint.is_none_or(|end| *first < end));
    if let Some(end) = cut.savepoint {
        fixture.savepoint(&durable(1, None, &[(&chain, end)])).await;
    }
    let config = cut.config();
    let (planned_cut, topics) = of_archive(&config.restores[0], &fixture.archive).await;
    let partitions = || topics.iter().flat_map(|topic| topic.partitions.iter().map(move |of| (topic, of)));
    let expected: Vec<Record> = (log.known.iter().filter(|known| cut.takes(known, &log.transactions)))
        .map(|known| known.record.clone())
        .collect();
    let mut fitted = Vec::new();
    for (topic, of) in partitions().filter(|(_, of)| !of.range().is_empty()) {
        assert_eq!((topic.source.as_str(), of.source), ("t", 0), "FUZZ_SEED={case}");
        let partition = Partition { topic: "t".into(), topic_id: "_".parse().expect("an id"), index: 0 };
        let window = Window { offsets: of.range(), from: planned_cut.from(), until: planned_cut.until() };
        let way = of.way(&partition).expect("chains");
        let task = Task { partition, way, window, torn: of.torn.clone(), over_breaks: false };
        fitted.extend(sent(random, &fixture, task).await);
        met.torn += of.torn.len();
    }
    assert_eq!(records_of(&fitted), expected, "FUZZ_SEED={case}: {cut:?} of {:?}", log.transactions);
    met.aborted += log.transactions.iter().filter(|of| of.is_aborted && of.first < archived).count();
    met.stamped += usize::from(log.has_stamped);
    met.empty += usize::from(expected.is_empty());
    met.skipped += usize::from(partitions().any(|(_, of)| of.segments == 0));
    let is_behind = |of: &Transaction| cut.savepoint.is_some_and(|end| of.last < end && of.marker >= end);
    met.behind += log.transactions.iter().filter(|of| is_behind(of)).count();
}

#[tokio::test]
async fn a_thousand_logs_and_cuts_are_sent_as_a_model_takes_them() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("it is a number"));
    let seed = number("FUZZ_SEED").unwrap_or_else(|| fastrand::u64(..u64::MAX / 2));
    let cases = number("CASES").unwrap_or(CASES);
    let mut met = Met::default();
    for case in seed..seed + cases {
        try_case(case, &mut met).await;
    }
    println!("{met:?}");
    let Met { forks, before, aborted, torn, stamped, skipped, empty, behind } = met;
    let met = [forks, before, aborted, torn, stamped, skipped, empty, behind];
    assert!(met.iter().all(|times| *times >= 5) || cases < CASES, "FUZZ_SEED={seed}: too little was met: {met:?}");
}
