//! Places of random groups in random restores, held against a table of every record. `CASES=n` tries more than a thousand.

use proptest::prelude::*;

use super::*;
use crate::restore::map::Track;

const TOPICS: [(&str, i32); 2] = [("orders", 3), ("payments", 2)];
const SOURCES: usize = 5;
const TARGETS: usize = 3;

/// One record of a source: offsets before it that are no records of the log (markers, compaction), the targets that it goes
/// to, none where it is dropped, and offsets of others in those before it.
#[derive(Debug, Clone)]
struct Step {
    source: usize,
    hole: Offset,
    targets: [bool; TARGETS],
    others: Offset,
}

/// What of a source was asked for, whether it is done, and what the group had committed, in parts of its log.
#[derive(Debug, Clone)]
struct Asked {
    cut: Option<(u8, u8)>,
    is_finished: bool,
    committed: Option<(u8, bool)>,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let rarely = || prop_oneof![4 => Just(0), 1 => 1..4_i64];
    let step = (0..SOURCES, rarely(), prop::array::uniform3(any::<bool>()), rarely());
    let step = step.prop_map(|(source, hole, targets, others)| Step { source, hole, targets, others });
    prop::collection::vec(step, 0..120)
}

fn asked() -> impl Strategy<Value = Vec<Asked>> {
    let cut = prop::option::weighted(0.3, any::<(u8, u8)>());
    let committed = prop::option::weighted(0.7, (any::<u8>(), prop::bool::weighted(0.15)));
    let asked = (cut, prop::bool::weighted(0.85), committed);
    let asked = asked.prop_map(|(cut, is_finished, committed)| Asked { cut, is_finished, committed });
    prop::collection::vec(asked, SOURCES..=SOURCES)
}

fn source(number: usize) -> Partition {
    let mut left = number as i32;
    for (topic, partitions) in TOPICS {
        if left < partitions {
            return Partition { topic: topic.into(), topic_id: TopicId::NONE, index: left };
        }
        left -= partitions;
    }
    unreachable!("there are {SOURCES}")
}

fn target(number: usize) -> Partition {
    Partition { topic: "merged".into(), topic_id: TopicId::NONE, index: number as i32 }
}

/// A record in a target: its place, and which record of which source it is.
#[derive(Debug, Clone, Copy)]
struct Record {
    at: Offset,
    source: usize,
    offset: Offset,
}

/// A restore, as its map and as a table.
struct World {
    places: Places,
    table: [Vec<Record>; TARGETS],
    asked: Vec<OffsetRange>,
    finished: Vec<bool>,
    committed: Vec<Option<Offset>>,
    firsts: [Offset; TARGETS],
    ends: [Offset; TARGETS],
}

impl World {
    /// Makes it; `firsts` are where the targets ended before.
    fn of(steps: &[Step], asked: &[Asked], firsts: [Offset; TARGETS]) -> Self {
        let mut lengths = [0; SOURCES];
        for step in steps {
            lengths[step.source] += step.hole + 1;
        }
        let part = |of: u8, number: usize| lengths[number] * Offset::from(of) / 255;
        let ranges = asked.iter().enumerate().map(|(number, asked)| match asked.cut {
            Some((a, b)) => OffsetRange { first: part(a.min(b), number), next: part(a.max(b), number) },
            None => OffsetRange { first: 0, next: lengths[number] },
        });
        let ranges: Vec<_> = ranges.collect();
        let committed = asked.iter().enumerate().map(|(number, asked)| {
            asked.committed.map(|(at, is_beyond)| part(at, number) + if is_beyond { lengths[number] } else { 0 })
        });
        let committed = committed.collect();
        let finished: Vec<_> = asked.iter().map(|asked| asked.is_finished).collect();
        let (map, table, ends) = restored(steps, &ranges, &finished, firsts);
        let places = Places::Restored(Restored::new("r", map, []));
        Self { places, table, asked: ranges, finished, committed, firsts, ends }
    }

    /// Returns the first offset of a source that the group had not read; `None` where it is not the group's concern.
    fn unread(&self, number: usize) -> Option<Offset> {
        let topic = source(number).topic;
        let is_read = (0..SOURCES).any(|other| source(other).topic == topic && self.committed[other].is_some());
        self.committed[number].or(is_read.then_some(0))
    }

    /// Returns what a look at each record says of the group's place in a target.
    fn expected(&self, target: usize, clamp: bool) -> Result<(Offset, Exactness), &'static str> {
        let records = &self.table[target];
        let (mut is_clamped, mut still_to_come) = (false, Vec::new());
        for number in 0..SOURCES {
            let Some(next) = self.unread(number) else { continue };
            if records.iter().any(|record| record.source == number && record.offset >= next) {
                continue;
            }
            if !self.finished[number] {
                let of_it = records.iter().filter(|record| record.source == number);
                still_to_come.push(of_it.map(|record| record.at + 1).max().unwrap_or(self.firsts[target]));
                is_clamped = true;
            } else if next > self.asked[number].next {
                is_clamped = true;
            }
        }
        if is_clamped && !clamp {
            return Err("refused");
        }
        let is_unread = |record: &&Record| self.unread(record.source).is_some_and(|next| record.offset >= next);
        let unread = records.iter().filter(is_unread).map(|record| record.at).chain(still_to_come).min();
        let offset = unread.unwrap_or(self.ends[target]);
        let again = records.iter().filter(|record| {
            record.at >= offset && self.committed[record.source].is_some_and(|committed| record.offset < committed)
        });
        let exactness = match again.count() {
            _ if is_clamped => Exactness::Clamped,
            0 => Exactness::Exact,
            records => Exactness::Again(records as u64),
        };
        Ok((offset, exactness))
    }
}

/// Restores what is asked for: every record goes to the targets that its step names, behind the records of all others.
fn restored(
    steps: &[Step],
    asked: &[OffsetRange],
    finished: &[bool],
    firsts: [Offset; TARGETS],
) -> (OffsetMap, [Vec<Record>; TARGETS], [Offset; TARGETS]) {
    let (mut map, mut table, mut ends) = (OffsetMap::default(), <[Vec<Record>; TARGETS]>::default(), firsts);
    let pair = |from, to| Pair { source: source(from), target: target(to) };
    for (number, asked) in asked.iter().enumerate() {
        for (to, first) in firsts.into_iter().enumerate() {
            map.open(&pair(number, to), *asked, first).expect("a range");
        }
    }
    let mut nexts = [0; SOURCES];
    let half = steps.len() / 2;
    for (n, step) in steps.iter().enumerate() {
        let number = step.source;
        let offset = nexts[number] + step.hole;
        nexts[number] = offset + 1;
        if !asked[number].contains(offset) || (!finished[number] && n >= half) {
            continue;
        }
        for to in (0..TARGETS).filter(|to| step.targets[*to]) {
            let at = ends[to] + step.others;
            map.push(&pair(number, to), offset, at, 1).expect("in order");
            table[to].push(Record { at, source: number, offset });
            ends[to] = at + 1;
        }
    }
    for number in (0..SOURCES).filter(|number| finished[*number]) {
        for (to, end) in ends.into_iter().enumerate() {
            map.finish(&pair(number, to), end).expect("behind the last");
        }
    }
    (map, table, ends)
}

fn cases() -> u32 {
    std::env::var("CASES").map_or(1000, |text| text.parse().expect("it is a number"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn a_place_is_exact_or_the_smallest_that_loses_nothing(
        steps in steps(), asked in asked(), firsts in prop::array::uniform3(prop_oneof![Just(0), 1..50_i64]),
        clamp in any::<bool>(),
    ) {
        let world = World::of(&steps, &asked, firsts);
        let committed = |offset| Committed { offset, metadata: String::new() };
        let offsets = (0..SOURCES).map(|number| (source(number), world.committed[number].map(committed)));
        let placed = world.places.all(&offsets.collect(), clamp);
        if world.committed.iter().all(Option::is_none) {
            prop_assert_eq!(&placed, &Placed::default());
        }
        for (at, result) in &placed.targets {
            let number = at.index as usize;
            let expected = world.expected(number, clamp);
            match result {
                Ok(place) => prop_assert_eq!(Ok((place.offset, place.exactness)), expected, "{}", at),
                Err(_) => prop_assert_eq!(Err("refused"), expected, "{}", at),
            }
            let Ok(place) = result else { continue };
            prop_assert!((world.firsts[number]..=world.ends[number]).contains(&place.offset), "{}", place.offset);
            let lost = world.table[number].iter().filter(|record| {
                record.at < place.offset && world.unread(record.source).is_some_and(|next| record.offset >= next)
            });
            prop_assert_eq!(lost.count(), 0);
        }
    }

    /// A target of one source is exact, whatever was dropped on the way; and one source alone is looked up as the group is.
    #[test]
    fn one_source_alone_is_exact_in_each_of_its_targets(steps in steps(), asked in asked(), at in any::<u8>()) {
        let world = World::of(&steps, &asked, [0; TARGETS]);
        let Places::Restored(restored) = &world.places else { unreachable!("it is one") };
        for number in 0..SOURCES {
            let committed = world.asked[number].next * Offset::from(at) / 255;
            let places = world.places.of(&source(number), committed, false);
            let tracks: Vec<&Track> = (0..TARGETS)
                .filter_map(|to| restored.map().get(&Pair { source: source(number), target: target(to) }))
                .collect();
            match places {
                Ok(places) => for (place, track) in places.iter().zip(tracks) {
                    prop_assert_eq!(place.exactness, Exactness::Exact);
                    let first = track.runs().find(|run| run.source_next() > committed);
                    let first = first.map(|run| run.target + (committed - run.source).max(0));
                    prop_assert_eq!(Some(place.offset), first.or(track.end()));
                },
                Err(refusal) => prop_assert!(!world.finished[number], "{}", refusal),
            }
        }
    }

    /// Headers say the same as the map of a restore that is finished and was asked for all.
    #[test]
    fn headers_say_what_a_map_says(steps in steps(), mut asked in asked()) {
        for asked in &mut asked {
            (asked.cut, asked.is_finished) = (None, true);
        }
        let world = World::of(&steps, &asked, [0; TARGETS]);
        let mut scan = Scan::default();
        for (number, records) in world.table.iter().enumerate() {
            for record in records {
                let from = source(record.source);
                let pair = Scan::pair(&from.topic, from.index, &target(number));
                scan.note(&pair, record.offset, record.at).expect("in order");
            }
        }
        let scanned = Places::Scanned(scan.finish().expect("behind the last"));
        for (number, committed) in world.committed.iter().enumerate() {
            let Some(committed) = *committed else { continue };
            let known = Partition { topic_id: "4u0fkXLXQ-Or5QvZq9JvUA".parse().expect("an id"), ..source(number) };
            let told = scanned.of(&known, committed, false).unwrap_or_default();
            for place in &told {
                let records = &world.table[place.target.index as usize];
                let of_it = || records.iter().filter(|record| record.source == number);
                let first = of_it().find(|record| record.offset >= committed).map(|record| record.at);
                let end = of_it().next_back().map(|record| record.at + 1);
                prop_assert_eq!((Some(place.offset), place.exactness), (first.or(end), Exactness::Exact));
            }
        }
    }
}
