//! A restore that is killed is started again with the same file, and goes on: nothing is lost, nothing is there twice.
//!
//! On three ways, since each counts sequences otherwise: batches as they were archived, small ones merged, and through
//! stages. `KILLS=n` sets how often restores are killed on each (5): a quarter between two durable effects, the others at
//! any moment, several times before one may end. What is there in the end is read by consumers of both isolation levels.

mod cluster;
mod meddling;
mod old;
mod paths;
mod races;
mod together;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use kafka_backup::restore::map::{Exact, OffsetMap};
use nix::sys::signal::Signal;

use crate::crash::{need_crash_points, report};
use crate::restore::Restore;
use crate::stages::{INJECT, injected};
use crate::support::agent::{Agent, Backup, program_with};
use crate::support::block_on;
use crate::support::kafka::Kafka;
use crate::support::reader::{Record, read_all, read_committed};
use crate::support::workload::{Contents, Writer};
use crate::support::{wait_for, wait_paced};

const PARTITIONS: i32 = 2;

/// Records of a partition.
const COUNT: i64 = 600;

/// How many records of all partitions a slow restore sends in a second: it takes two, in which there are moments.
const A_SECOND: i64 = 600;

/// How records come to the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Each batch as it was.
    Verbatim,
    /// Batches of one record, many in one.
    Merged,
    /// Through plugins that change each record and send it to a second topic as well.
    Staged,
}

/// A topic with holes, a backup of it, and the way it is restored.
struct Case {
    way: Way,
    topic: String,
    backup: Backup,
    /// What is to be in each target, with its offset in the source.
    wanted: Vec<Record>,
}

/// What may have become of restored records that are looked for in a target.
struct Change<'a> {
    /// Whether a record that was at this target offset may be gone.
    loses: &'a dyn Fn(&Record, i64) -> bool,
    /// Whether the target has stamped records with times of its own.
    stamps: bool,
}

const UNCHANGED: Change<'_> = Change { loses: &|_, _| false, stamps: false };

impl Case {
    fn new(kafka: &Kafka, theme: &str, way: Way) -> Self {
        Self::written(kafka, kafka.topic(theme, PARTITIONS, &[]), way, COUNT)
    }

    /// Makes the case of a topic that is empty, and gets so many records in each partition.
    fn written(kafka: &Kafka, topic: String, way: Way, count: i64) -> Self {
        let batch = match way {
            Way::Verbatim => "25",
            Way::Merged => "1",
            Way::Staged => "7",
        };
        let properties = [("batch.num.messages", batch), ("linger.ms", "20"), ("compression.type", "lz4")];
        let (plain, aborting) = (Writer::new(kafka, &properties), Writer::transactional(kafka, &topic));
        let mut contents = Contents::new();
        for _ in 0..3 {
            let _ = plain.write(&topic, &contents.records(PARTITIONS, count as usize / 3, 300));
            let _ = aborting.abort_records(&topic, &contents.records(PARTITIONS, 20, 100));
        }
        Self::of(kafka, topic, way, count)
    }

    /// Makes the case of a topic that has so many records in each partition.
    fn of(kafka: &Kafka, topic: String, way: Way, count: i64) -> Self {
        let backup = Backup::of(kafka, &[&topic]).sink("roll_bytes", "64KiB");
        let _ = backup.backup().ok();
        let held = read_committed(kafka, &topic);
        let wanted = if way == Way::Staged { injected(held) } else { held };
        assert_eq!(wanted.len() as i64, count * i64::from(kafka.partitions(&topic)));
        Self { way, topic, backup, wanted }
    }

    /// Configures a restore that is as fast as it can be.
    fn fast(&self, kafka: &Kafka, name: &str) -> Restore<'_> {
        let restore = Restore::named(kafka, &self.backup, &[&self.topic], name);
        match self.way {
            Way::Verbatim => restore.sink("merge_below = \"0\""),
            Way::Merged => restore,
            Way::Staged => restore.stage(INJECT).stage(&format!(
                "plugin = \"restore-fanout\"\nsettings = {{ by = \"topic\", to = {{ \"{}\" = \"{}-{name}-copy\" }} }}",
                self.topic, self.topic
            )),
        }
    }

    /// Configures the same one so that it takes its time.
    fn slow(&self, kafka: &Kafka, name: &str) -> Restore<'_> {
        self.fast(kafka, name).pipeline(&format!("max_records_per_second = {A_SECOND}"))
    }

    /// Configures one that is killed long before its end, however late the kill comes.
    fn endless(&self, kafka: &Kafka, name: &str) -> Restore<'_> {
        let a_second = COUNT * i64::from(kafka.partitions(&self.topic)) / 8;
        self.fast(kafka, name).pipeline(&format!("max_records_per_second = {a_second}"))
    }

    /// Configures a slow one that keeps journals all the time.
    fn journaling(&self, kafka: &Kafka, name: &str) -> Restore<'_> {
        self.slow(kafka, name).sink("journal_interval = \"100ms\"")
    }

    fn targets(&self, restore: &Restore<'_>) -> Vec<String> {
        let own = restore.target().to_owned();
        match self.way {
            Way::Staged => vec![format!("{own}-copy"), own],
            _ => vec![own],
        }
    }

    /// Returns what a restore that nobody disturbs takes from its start to its end.
    fn undisturbed(&self, kafka: &Kafka) -> Duration {
        let (restore, began) = (self.slow(kafka, "undisturbed"), Instant::now());
        let _ = restore.run().ok();
        let whole = began.elapsed();
        self.assert_right(kafka, &restore);
        whole
    }

    /// Waits until so many records of each partition are in the target, and returns where its partitions end.
    fn wait_for_some(&self, kafka: &Kafka, restore: &Restore<'_>, records: i64) -> Vec<i64> {
        wait_paced(crate::support::DEADLINE, Duration::from_millis(50), "some records have landed", || {
            let is_there = kafka.topics().contains(restore.target());
            let ends = is_there.then(|| kafka.ends(restore.target()))?;
            ends.iter().all(|end| *end > records).then_some(ends)
        })
    }

    /// Starts an [`endless`](Self::endless) restore and kills it when some of its records have landed; returns where the
    /// target ended then.
    fn kill_midway(&self, kafka: &Kafka, restore: &Restore<'_>) -> Vec<i64> {
        let running = restore.start(&[]);
        let _ = self.wait_for_some(kafka, restore, COUNT / 4);
        running.kill();
        kafka.ends(restore.target())
    }

    /// Asserts that each target holds what is wanted, and nothing else, and that the map leads to it.
    #[track_caller]
    fn assert_right(&self, kafka: &Kafka, restore: &Restore<'_>) {
        self.assert_right_but(kafka, restore, &UNCHANGED);
    }

    /// As [`assert_right`](Self::assert_right), but for what has changed.
    #[track_caller]
    fn assert_right_but(&self, kafka: &Kafka, restore: &Restore<'_>, change: &Change<'_>) {
        let (done, map) = restore.done();
        assert!(map.is_finished());
        let targets = self.targets(restore);
        let names: Vec<&str> = targets.iter().map(String::as_str).collect();
        for isolation in ["read_committed", "read_uncommitted"] {
            let read = read_all(kafka, &names, isolation);
            names.iter().for_each(|target| self.assert_mapped(kafka, &map, (target, &read[*target]), change));
        }
        assert_eq!(done.records as usize, names.len() * self.wanted.len(), "what the restore says that it restored");
    }

    /// Asserts that the map leads from each record to the one that was made of it, in order, from nowhere else, and that
    /// nothing is in the target to which it does not lead.
    #[track_caller]
    fn assert_mapped(&self, kafka: &Kafka, map: &OffsetMap, target: (&str, &[Record]), change: &Change<'_>) {
        let ((name, brought), ends) = (target, kafka.ends(target.0));
        let cells = |record: &Record| {
            let timestamp = if change.stamps { 0 } else { record.timestamp };
            Record { offset: 0, timestamp, ..record.clone() }
        };
        let of = |records: &'_ [Record], partition: i32| -> BTreeMap<i64, Record> {
            let of = records.iter().filter(|record| record.partition == partition);
            of.map(|record| (record.offset, record.clone())).collect()
        };
        for partition in 0..kafka.partitions(&self.topic) {
            let (from, mut to) = (of(&self.wanted, partition), of(brought, partition));
            let is_of = |pair: &kafka_backup::restore::map::Pair| {
                (pair.source.index, &*pair.target.topic, pair.target.index) == (partition, name, partition)
            };
            let track = map.iter().find(|(pair, _)| is_of(pair)).map(|(_, track)| track).expect("it is in the map");
            let (asked, mut last) = (track.asked(), -1);
            assert!(from.keys().all(|offset| asked.contains(*offset)));
            for offset in asked.first..asked.next {
                let what = format!("{name}-{partition}, of source offset {offset}");
                match (track.exact(offset), from.get(&offset)) {
                    (Exact::Absent, None) => {}
                    (Exact::At(at), Some(record)) => {
                        assert!(at > last, "{what}: at {at}, behind {last}");
                        last = at;
                        match to.remove(&at) {
                            Some(met) => assert_eq!(cells(&met), cells(record), "{what}: at {at}"),
                            None => assert!((change.loses)(record, at), "{what}: nothing is at {at}"),
                        }
                    }
                    (led, record) => panic!("{what}: the map says {led:?} of {record:?}"),
                }
            }
            assert!(to.is_empty(), "{name}-{partition}: {} too many, as {:?}", to.len(), to.first_key_value());
            let end = track.end().expect("it is finished");
            assert!((last + 1..=ends[partition as usize]).contains(&end), "{name}-{partition}: {last}, {end}");
            assert_eq!(track.records(), from.len() as u64, "{name}-{partition}");
        }
    }
}

/// Points that each start of a restore passes which has a plan, and no map.
const BEGUN: &[&str] =
    &["restore-fence", "restore-attempt", "object-linked:1", "restore-journal", "restore-map", "restore-done"];

/// When a restore is killed.
#[derive(Debug)]
enum Moment {
    /// At a crash point.
    At(&'static str),
    /// So long after its start.
    After(Duration),
}

impl Moment {
    /// Chooses a crash point that a restore passes which has kept these objects; `None` where it passes none.
    fn at(random: &mut fastrand::Rng, kept: &[String], begun: &[&'static str]) -> Option<Self> {
        let has = |name: &str| kept.iter().any(|kept| kept == name);
        let points: &[_] = match () {
            () if has("done") => &[],
            () if has("map") => &["restore-done", "object-linked"],
            () if has("plan") => begun,
            () => &["restore-plan", "object-linked:1", "restore-topics", "restore-fence", "restore-attempt"],
        };
        random.choice(points).map(|point| Self::At(point))
    }

    /// Starts a restore and kills it then; returns whether it was still there.
    #[track_caller]
    fn kill(&self, restore: &Restore<'_>) -> bool {
        let mut running = match self {
            Self::At(point) => restore.start(&[("KAFKA_BACKUP_CRASH_AT", point)]),
            Self::After(delay) => {
                let running = restore.start(&[]);
                std::thread::sleep(*delay);
                running.signal(Signal::SIGKILL);
                running
            }
        };
        was_killed(&mut running)
    }
}

/// Waits until a restore has ended; returns whether it was killed; else it has ended well.
#[track_caller]
fn was_killed(running: &mut Agent) -> bool {
    use std::os::unix::process::ExitStatusExt as _;
    let status = running.wait();
    let is_killed = status.signal() == Some(9);
    assert!(is_killed || status.success(), "{status}:\n{}", running.log());
    is_killed
}

/// Returns the number that a variable sets.
fn number(variable: &str, default: u32) -> u32 {
    std::env::var(variable).map_or(default, |number| number.parse().expect("a number"))
}

/// Returns what chooses moments, from a seed that is printed.
fn random(what: &str) -> fastrand::Rng {
    let seed = fastrand::u64(..);
    println!("{what}: seed {seed}");
    fastrand::Rng::with_seed(seed)
}

/// Kills restores at random moments, and lets each end.
fn kill_at_random_moments(theme: &str, way: Way) {
    need_crash_points();
    let (kafka, kills) = (Kafka::shared(), number("KILLS", 5));
    let case = Case::new(kafka, theme, way);
    let slow = |name: &str, keeps| if keeps { case.journaling(kafka, name) } else { case.slow(kafka, name) };
    let check = |restore: &Restore<'_>| case.assert_right(kafka, restore);
    let killing = Killing { theme, kills, whole: case.undisturbed(kafka), begun: BEGUN };
    killing.run(slow, |name| case.fast(kafka, name), check);
}

/// Restores that are killed.
struct Killing<'a> {
    theme: &'a str,
    kills: u32,
    /// How long a slow one takes that is not.
    whole: Duration,
    /// The points that each start passes of one that has begun.
    begun: &'a [&'static str],
}

impl Killing<'_> {
    /// Kills restores that are made slow, of which some keep journals all the time, and lets each end that is made fast.
    fn run<'a>(
        &self,
        slow: impl Fn(&str, bool) -> Restore<'a>,
        fast: impl Fn(&str) -> Restore<'a>,
        assert_right: impl Fn(&Restore<'_>),
    ) {
        let Self { theme, kills, whole, begun } = *self;
        let mut random = random(theme);
        let (mut killed, mut at_points, mut restores) = (0, 0, 0);
        while killed < kills {
            let name = format!("killed-{restores}");
            // Of every other one where it has come to is only in the target.
            let slow = slow(&name, restores % 2 == 0);
            for _ in 0..random.u32(1..=4).min(kills - killed) {
                let point = (killed % 4 == 0).then(|| Moment::at(&mut random, &slow.state_names(), begun)).flatten();
                let moment = point.unwrap_or_else(|| Moment::After(whole.mul_f64(random.f64())));
                if !moment.kill(&slow) {
                    break;
                }
                killed += 1;
                at_points += u32::from(matches!(moment, Moment::At(_)));
                report(&format!("{theme}, kill {killed:3} {moment:?}: it has kept {:?}", slow.state_names()));
            }
            let _ = fast(&name).run().ok();
            assert_right(&slow);
            restores += 1;
        }
        report(&format!(
            "{theme}: {killed} kills of {restores} restores, {at_points} of them between two durable effects"
        ));
        assert!(at_points * 4 >= kills, "{at_points} of {kills} kills between two durable effects");
    }
}

#[test]
fn killed_at_random_moments_a_restore_of_batches_as_they_are_loses_nothing_and_brings_nothing_twice() {
    kill_at_random_moments("kill-verbatim", Way::Verbatim);
}

#[test]
fn killed_at_random_moments_a_restore_that_merges_loses_nothing_and_brings_nothing_twice() {
    kill_at_random_moments("kill-merged", Way::Merged);
}

#[test]
fn killed_at_random_moments_a_restore_through_stages_loses_nothing_and_brings_nothing_twice() {
    kill_at_random_moments("kill-staged", Way::Staged);
}

#[test]
fn a_restore_goes_on_from_its_last_journal() {
    let kafka = Kafka::shared();
    let case = Case::new(kafka, "resume-journal", Way::Merged);
    let slow = case.journaling(kafka, "slow");
    let running = slow.start(&[]);
    wait_for("it keeps journals", || slow.state_names().contains(&"journal-3".to_owned()).then_some(()));
    running.kill();
    let _ = case.fast(kafka, "slow").run().ok();
    let attempt = block_on(slow.state().attempt(1)).expect("it can be read").expect("there is a second one");
    assert!(attempt.starts.iter().any(|start| start.source_first > 0), "what was read again: {:?}", attempt.starts);
    case.assert_right(kafka, &slow);
    slow.assert_agrees();
}

#[test]
fn a_killed_restore_that_was_cancelled_is_not_gone_on_with() {
    let kafka = Kafka::shared();
    let case = Case::new(kafka, "resume-cancelled", Way::Verbatim);
    let slow = case.endless(kafka, "slow");
    let ends = case.kill_midway(kafka, &slow);
    let archive = ["--path", case.backup.archive(), "--backup-id", "test", "--restore-id", slow.id()];
    let _ = program_with(&[&["restores", "cancel"], &archive[..]].concat()).ok();
    let kept = slow.state_names();
    slow.run().fails_with(2, &[slow.id(), "was cancelled", "another restore_id"]);
    assert_eq!((kafka.ends(slow.target()), slow.state_names()), (ends, kept), "nothing is sent or kept");
}
