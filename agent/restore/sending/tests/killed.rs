//! Restores whose processes are killed at random moments, one after the other, held against what is to be in the targets.
//! The targets are lists of batches; all else is what a restore does. `CASES=n` tries another number than [`CASES`], `FUZZ_SEED=n`
//! is the first of them.

use fastrand::Rng;

use super::*;
use crate::batch::outgoing::Outgoing;
use crate::batch::records::Records;
use crate::restore::resume::Tails;
use crate::restore::state::{self, Attempt, Process, Start, State};

const CASES: u64 = 400;

/// The producer of all processes.
const PRODUCER: i64 = 7;

/// A target partition: its batches, and what their records are; a marker is `None`.
#[derive(Default)]
struct Log {
    batches: Vec<Header>,
    records: Vec<Option<Bytes>>,
}

impl Log {
    fn end(&self) -> Offset {
        self.records.len() as Offset
    }

    fn mark(&mut self, epoch: i16) {
        let template = template(self.end());
        let marker = Header { attributes: 0x30, producer_id: PRODUCER, producer_epoch: epoch, count: 1, ..template };
        self.batches.push(marker);
        self.records.push(None);
    }

    /// Takes a batch as a broker does.
    fn append(&mut self, batch: &Outgoing, identity: Identity, sequence: i32) -> Offset {
        let bytes = [&batch.seal(identity, sequence, false)[..], batch.payload()].concat();
        let (header, first) = (Header::read(&bytes).expect("our own header"), self.end());
        let values = Records::read(&Bytes::from(bytes)).expect("sound").map(|record| record.expect("sound").value);
        self.records.extend(values);
        self.batches.push(Header { base_offset: first, ..header });
        first
    }
}

/// What is restored.
struct Case {
    random: Rng,
    lane: Lane,
    seed: u64,
    next: Offset,
    is_staged: bool,
}

/// A batch that was sent, of a target.
struct Flying {
    batch: Outgoing,
    token: Token,
}

impl Case {
    fn new(seed: u64) -> Self {
        let mut random = Rng::with_seed(seed);
        let is_staged = random.bool();
        let next = random.i64(1..120);
        let merge_below = [0, 1 << 14][random.usize(..2)];
        let mut lane = if is_staged { forked(next, merge_below) } else { lane(next, merge_below) };
        lane.is_paced = random.u8(..4) == 0;
        for target in &mut lane.targets {
            target.limits.merge_to = random.usize(40..400);
            target.limits.most_bytes = [1 << 20, HEADER_BYTES + random.usize(60..200)][random.usize(..2)];
        }
        Self { random, lane, seed, next, is_staged }
    }

    /// Returns how many copies of a record a target gets: the same in every process.
    fn copies(&self, source: Offset, target: usize) -> usize {
        if !self.is_staged {
            return 1;
        }
        Rng::with_seed(self.seed ^ (source as u64) << 20 ^ (target as u64) << 10).usize(..4).saturating_sub(1)
    }

    /// Returns the source offsets of all that a target gets of these.
    fn made(&self, of: OffsetRange, target: usize) -> Vec<Offset> {
        (of.first..of.next).flat_map(|offset| std::iter::repeat_n(offset, self.copies(offset, target))).collect()
    }

    /// Returns what is to be fitted of these offsets.
    fn work(&mut self, of: OffsetRange) -> Work {
        if !self.is_staged {
            // Batches begin where they will: what is before the range was handed on.
            let first = (of.first - self.random.i64(0..3)).max(0);
            return Work::Archived(of, batch_of(first, of.next - first));
        }
        let piece = |target: usize| {
            let offsets = self.made(of, target);
            (!offsets.is_empty()).then(|| valued(target, &offsets))
        };
        Work::Staged(of, (0..self.lane.targets.len()).filter_map(piece).collect())
    }
}

/// What stages made for a target: records that say where they were.
fn valued(target: usize, offsets: &[Offset]) -> Piece {
    let record = |(at, source): (usize, &Offset)| Record {
        offset: at as Offset,
        timestamp: Timestamp(1000),
        key: None,
        value: Some(Bytes::from(format!("value {source}"))),
        headers: Vec::new(),
    };
    let records: Vec<_> = offsets.iter().enumerate().map(record).collect();
    let bytes = records::encode(&template(0), &records, Compression::None).expect("they fit");
    let header = Header::read(&bytes).expect("our own header");
    Piece { target, header, bytes, what: What::Made(offsets.iter().copied().collect()) }
}

/// Runs one process, until it ends or is killed; returns the offset map when it has ended.
async fn run(case: &mut Case, state: &State, plan: &state::Plan, logs: &mut [Log], number: i16) -> Option<OffsetMap> {
    let identity = Identity { producer_id: PRODUCER, epoch: 2 * number + 1 };
    // A start that dies behind its fence leaves a marker too.
    for _ in 0..=case.random.usize(..2) {
        logs.iter_mut().for_each(|log| log.mark(2 * number));
    }
    let pairs: Vec<Pair> = case.lane.targets.iter().map(|target| target.pair.clone()).collect();
    let ranges = pairs.iter().zip(&*logs).map(|(pair, log)| (pair.target.clone(), range(0, log.end()))).collect();
    let seen = state.look().await.expect("read");
    let (starts, map, sum) = if seen.attempts.is_empty() {
        let start = |(pair, log): (&Pair, &Log)| Start::new(pair.clone(), 0, log.end());
        (pairs.iter().zip(&*logs).map(start).collect(), OffsetMap::default(), Sum::default())
    } else {
        let map = state.offset_map(&seen).await.expect("read").unwrap_or_default();
        let mut tails =
            Tails::new(&seen, &pairs, &ranges, (vec![identity.producer_id], &map)).expect("it was begun with these");
        for (pair, log) in pairs.iter().zip(&*logs) {
            log.batches.iter().for_each(|header| {
                let goes_on = tails.see(&pair.target, Some(header)).expect("its own");
                assert!(goes_on, "all is looked at");
            });
        }
        let starts: Vec<Start> = tails.starts(true).expect("it tells");
        let sum = Sum { records: starts.iter().map(|start| start.records).sum(), ..Sum::default() };
        (starts, map, sum)
    };
    let attempt = Attempt::new(plan, (identity.producer_id, identity.epoch), Process::this(), starts);
    let attempt = state.begin(attempt).await.expect("the youngest");
    for target in &mut case.lane.targets {
        let start = attempt.starts.iter().find(|start| start.pair == target.pair).expect("each has one");
        (target.from, target.bytes, target.found) = (start.source_first, start.bytes, start.found.clone());
    }
    let journals = state.journals(&attempt).await.expect("listed");
    let journaling = Journaling::new(journals, std::time::Duration::from_secs(3600), &map);
    let ends = attempt.starts.iter().map(|start| (start.pair.target.clone(), start.target_next)).collect();
    let begun = Begun { restore_id: "r1".to_owned(), ends, map, sum };
    let mut sink = sink_from(case.lane.clone(), begun, journaling);
    let (lane, source) = (Arc::new(case.lane.clone()), case.lane.source.clone());
    let mut fits = Fits::of(&lane);
    let mut at = lane.targets.iter().map(|target| target.from).min().expect("there is one");
    let mut flying: Vec<VecDeque<Flying>> = logs.iter().map(|_| VecDeque::new()).collect();
    let mut unheard: Vec<VecDeque<(Offset, u32, Token)>> = logs.iter().map(|_| VecDeque::new()).collect();
    let mut sequences = vec![0; logs.len()];
    let is_mortal = number < 6;
    loop {
        if is_mortal && case.random.u8(..24) == 0 {
            return None;
        }
        let target = case.random.usize(..logs.len());
        match case.random.u8(..7) {
            0 | 1 if !sink.open.get(&source).is_none_or(|open| open.is_closing) => {
                let is_close = at == case.next;
                let next = (at + case.random.i64(1..20)).min(case.next);
                let work = if is_close { Work::End } else { case.work(range(at, next)) };
                let outcome = fits.take(&lane, work, next).expect("sound");
                let open = sink.open.get_mut(&source).expect("open");
                let chunk = open.sent;
                open.reached = next;
                for (to, Fitted { batch, sources }) in outcome.send.iter().cloned() {
                    let token = Token { target: to, ..token(chunk, sources) };
                    flying[to].push_back(Flying { batch, token });
                }
                let (paid, outcome, left_out) = (Paid::default(), Ok(outcome), Vec::new());
                sink.on_made(Made { source: source.clone(), outcome, paid, next, left_out, is_close });
                at = next;
            }
            2 | 3 => {
                if let Some(Flying { batch, token }) = flying[target].pop_front() {
                    let first = logs[target].append(&batch, identity, sequences[target]);
                    sequences[target] += batch.records() as i32;
                    unheard[target].push_back((first, batch.records(), token));
                }
            }
            4 | 5 => {
                if let Some((first, records, token)) = unheard[target].pop_front() {
                    sink.on_landed(&lane.targets[target].pair.target, first, records, token);
                }
            }
            6 => {
                let mut journaling = sink.journaling.take().expect("it keeps journals");
                journaling.landed(1);
                journaling.close(|journaling| sink.journal(journaling), &sink.map).await.expect("kept");
                sink.journaling = Some(journaling);
            }
            _ => {}
        }
        while let Some(answer) = sink.answers.pop_front() {
            assert!(!matches!(answer, Answer::Failed { .. }), "FUZZ_SEED={}: {answer:?}", case.seed);
            if matches!(answer, Answer::Closed { .. }) {
                let (map, sum, kept) = sink.finish().await;
                kept.expect("the last journal is kept");
                assert!(map.is_finished(), "FUZZ_SEED={}", case.seed);
                let all = logs.iter().map(|log| log.records.iter().flatten().count() as u64).sum::<u64>();
                assert_eq!(sum.records, all, "FUZZ_SEED={}: all attempts together", case.seed);
                // Were it killed now, the next start would have this alone to tell what was restored.
                let last = state.look().await.expect("read").journal.map_or(0, |journal| journal.records);
                assert_eq!(last, all, "FUZZ_SEED={}: the last journal", case.seed);
                return Some(map);
            }
        }
    }
}

fn sink_from(lane: Lane, begun: Begun, journaling: Journaling) -> Sending {
    let map: BTreeMap<String, String> = [("bootstrap.servers".to_owned(), "127.0.0.1:1".to_owned())].into();
    let client = Client::new(Properties::new(map).expect("good properties"));
    let producer = Producer::start(&client, Identity { producer_id: 1, epoch: 0 }, produce::Settings::default());
    let source = lane.source.clone();
    let outlet = Outlet::Plain(producer);
    let mut sink = Sending::new(outlet, vec![lane], begun, None, Some(journaling)).expect("sound lanes");
    sink.open(&source);
    sink.answers.clear();
    sink
}

async fn try_case(seed: u64) -> (i16, usize) {
    let mut case = Case::new(seed);
    let store = state::tests::memory();
    let state = State::new(&store, "r1").expect("an id");
    let target = state::Target { bootstrap_servers: "kafka-dr:9092".to_owned(), cluster_id: None };
    let plan = state::Plan::new("r1", "b", target, &serde_json::json!({})).expect("JSON");
    let _ = state.put_plan(&plan).await.expect("kept");
    let mut logs: Vec<Log> = case.lane.targets.iter().map(|_| Log::default()).collect();
    let mut number = 0;
    let map = loop {
        if let Some(map) = run(&mut case, &state, &plan, &mut logs, number).await {
            break map;
        }
        number += 1;
    };
    for (at, log) in logs.iter().enumerate() {
        let pair = &case.lane.targets[at].pair;
        let wanted = case.made(range(0, case.next), at);
        let text = |value: &Bytes| String::from_utf8(value.to_vec()).expect("UTF-8");
        let sent: Vec<String> = log.records.iter().flatten().map(text).collect();
        let wanted: Vec<String> = wanted.iter().map(|offset| format!("value {offset}")).collect();
        assert_eq!(sent, wanted, "FUZZ_SEED={seed}: {}", pair.target);
        let track = map.get(pair).expect("it is there");
        for offset in 0..case.next {
            let value = format!("value {offset}");
            let place = log.records.iter().position(|of| of.as_ref().is_some_and(|of| *of == value.as_bytes()));
            let place = place.map_or(Exact::Absent, |place| Exact::At(place as Offset));
            assert_eq!(track.exact(offset), place, "FUZZ_SEED={seed}: {offset} in {}", pair.target);
        }
    }
    (number, state.look().await.expect("read").journals.len())
}

#[tokio::test]
async fn however_often_it_is_killed_each_record_is_there_once_and_the_map_leads_to_it() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("it is a number"));
    let seed = number("FUZZ_SEED").unwrap_or_else(|| fastrand::u64(..u64::MAX / 2));
    let cases = number("CASES").unwrap_or(CASES);
    let (mut kills, mut journals) = (0, 0);
    for case in seed..seed + cases {
        let (killed, kept) = try_case(case).await;
        (kills, journals) = (kills + u64::from(killed.unsigned_abs()), journals + kept as u64);
    }
    println!("{kills} kills, {journals} journals");
    assert!(
        (kills >= cases && journals >= cases) || cases < CASES,
        "FUZZ_SEED={seed}: {kills} kills, {journals} journals"
    );
}
