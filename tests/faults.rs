//! Stores that fail: whatever goes wrong, however long, nothing is lost and nothing comes twice, memory stays bounded,
//! `/readyz` says what is wrong, and the agent recovers by itself.
//!
//! The matrix is each fault × what it strikes × how long it lasts, an agent for each cell: 162 of them, most of whose
//! time is waiting. `FAULTS=word` tries those whose name holds the word, as `silent` or `part-ever`. What was seen is
//! printed as a table. `disk` has the same for a folder, `memory` watches what an agent takes while much waits, `server`
//! shows that the store of the tests is one.

mod disk;
mod memory;
mod server;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::Signal;

use crate::support::agent::{Agent, Backup};
use crate::support::chain::{assert_prefix, assert_same};
use crate::support::kafka::Kafka;
use crate::support::reader::Record;
use crate::support::s3::{Fault, Lasting, Object, S3};
use crate::support::workload::{Contents, Writer};
use crate::support::{alone, wait_within};

/// The bound on what an agent holds; and what the program may take besides, which is the promise.
const MEMORY_BYTES: u64 = 32 << 20;
const ABOVE_BYTES: u64 = 100 << 20;

/// How long an agent may take to recover, on a machine that runs many.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a fault lasts that lasts for a while: longer than one request is tried within the store's client, which gives
/// up on a refusal within two seconds and on silence within five.
const WHILE: Duration = Duration::from_millis(2500);
const WHILE_SILENT: Duration = Duration::from_millis(5500);

/// How long an agent may try to make durable what it holds when it is told to stop; and what a busy machine may add.
const SHUTDOWN: Duration = Duration::from_secs(2);
const SLACK: Duration = Duration::from_secs(20);

/// Agents at a time: most of their time they wait.
const AT_A_TIME: usize = 12;

/// What the URL says of the client: a time-out that the tests need not wait for, and that slow answers do not reach.
const CLIENT: &str = "&timeout=3s";
const CLIENT_OF_SILENT: &str = "&timeout=1s";

const FAULTS: [Fault; 9] = [
    Fault::Unavailable,
    Fault::TooMany,
    Fault::Silent,
    Fault::Lost,
    Fault::Slow,
    Fault::Cut,
    Fault::Stale(SystemTime::UNIX_EPOCH),
    Fault::Forbidden,
    Fault::Full,
];

const OBJECTS: [Object; 6] =
    [Object::Sidecar, Object::Part, Object::Log, Object::Topic, Object::Catalog, Object::Savepoint];

const LASTING: [Lasting; 3] = [Lasting::Times(1), Lasting::For(WHILE), Lasting::Ever];

/// One try.
#[derive(Clone, Copy)]
struct Cell {
    fault: Fault,
    object: Object,
    lasting: Lasting,
    /// Where it stands in the matrix.
    number: usize,
}

impl Cell {
    fn all() -> Vec<Self> {
        let wanted = std::env::var("FAULTS").unwrap_or_default();
        let mut cells = Vec::new();
        for (f, fault) in FAULTS.into_iter().enumerate() {
            for (o, object) in OBJECTS.into_iter().enumerate() {
                for (l, lasting) in LASTING.into_iter().enumerate() {
                    let lasting = match lasting {
                        Lasting::For(_) if fault == Fault::Silent => Lasting::For(WHILE_SILENT),
                        lasting => lasting,
                    };
                    let cell = Self { fault, object, lasting, number: f + o + l };
                    cells.extend(cell.name().contains(&wanted).then_some(cell));
                }
            }
        }
        cells
    }

    /// Returns what names the cell, and its archive.
    fn name(&self) -> String {
        let fault = match self.fault {
            Fault::Stale(_) => "stale".to_owned(),
            fault => format!("{fault:?}").to_lowercase(),
        };
        let lasting = match self.lasting {
            Lasting::Times(_) => "once",
            Lasting::For(_) => "while",
            Lasting::Ever => "ever",
        };
        format!("{fault}-{:?}-{lasting}", self.object).to_lowercase()
    }

    fn is_stale(&self) -> bool {
        matches!(self.fault, Fault::Stale(_))
    }

    /// Returns whether the topic must be large enough for parts: they are struck, or the completion of an upload.
    fn is_large(&self) -> bool {
        let by_turns = self.object == Object::Log && self.number.is_multiple_of(2);
        !self.is_stale() && (self.object == Object::Part || by_turns)
    }

    /// Returns whether an agent gets through although the fault never ends.
    fn passes(&self) -> bool {
        match self.fault {
            Fault::Slow => true,
            // What was done is found by asking the store.
            Fault::Lost => !matches!(self.object, Object::Sidecar | Object::Part),
            // Catalogs spare requests; without them all segments are looked at.
            Fault::Stale(_) => matches!(self.object, Object::Catalog | Object::Savepoint),
            _ => false,
        }
    }

    /// Returns what the line of `/readyz` must hold besides the topic's name.
    fn word(&self) -> &'static str {
        match self.object {
            Object::Sidecar if self.is_stale() => "sidecar",
            Object::Sidecar => ".index",
            Object::Topic => "topic-",
            Object::Catalog => "catalog",
            Object::Savepoint => "savepoint",
            _ => ".log",
        }
    }

    /// Returns whether a line of `/readyz` tells of the fault.
    fn is_told(&self, line: &str, topic: &str) -> bool {
        // A savepoint is of all topics.
        line.contains(self.word()) && (self.object == Object::Savepoint || line.contains(topic))
    }

    /// Returns whether the records wait until the fault is over: a savepoint says of them only where they end.
    fn holds_back(&self) -> bool {
        self.object != Object::Savepoint
    }
}

/// What was seen of a cell.
struct Seen {
    cell: Cell,
    /// Requests that met the fault.
    hits: usize,
    /// What `/readyz` said, in the order in which it was heard.
    said: Vec<String>,
    took: Duration,
    peak_bytes: u64,
    how: &'static str,
}

/// The topics that the cells read.
struct Ground {
    kafka: &'static Kafka,
    s3: &'static S3,
    small: String,
    large: String,
    /// Of a segment a batch.
    many: String,
}

impl Ground {
    fn shared() -> &'static Self {
        static SHARED: LazyLock<Ground> = LazyLock::new(Ground::new);
        &SHARED
    }

    fn new() -> Self {
        let kafka = Kafka::shared_with_disk();
        let [small, large, many] = ["faults", "faults-large", "faults-many"].map(|name| kafka.topic(name, 1, &[]));
        let mut contents = Contents::new();
        let writer = Writer::new(kafka, &[]);
        let _ = writer.write(&small, &contents.records(1, 40, 500));
        for _ in 0..24 {
            let value = Some(contents.noise(900_000));
            let _ = writer.write(&large, &[Record { timestamp: -1, value, ..Record::default() }]);
        }
        let _ = writer_of_tens(kafka).write(&many, &contents.records(1, 100, 500));
        Self { kafka, s3: S3::shared(), small, large, many }
    }

    fn backup(&self, cell: &Cell, topic: &str) -> Backup {
        let client = if cell.fault == Fault::Silent { CLIENT_OF_SILENT } else { CLIENT };
        let backup = Backup::of(self.kafka, &[topic]).on(self.s3, &cell.name(), client);
        let backup = backup.sink("memory_bytes", "32MiB").sink("shutdown_timeout", &format!("{}s", SHUTDOWN.as_secs()));
        let backup = match cell.object {
            Object::Savepoint => backup.source("savepoint_interval", "1s"),
            _ => backup.source("savepoint_interval", "1h"),
        };
        match (cell.is_large(), cell.is_stale() || cell.object == Object::Catalog) {
            // Two parts and a rest in the first segment.
            (true, _) => backup.sink("roll_bytes", "18MiB").sink("roll_interval", "3s"),
            (_, true) => backup.sink("roll_bytes", "4KiB").sink("roll_interval", "300ms"),
            _ => backup.sink("roll_bytes", "1MiB").sink("roll_interval", "300ms"),
        }
    }

    /// Sets the cell's fault.
    fn strike(&self, cell: &Cell, backup: &Backup, topic: &str) {
        let prefix = cell.name();
        if !cell.is_stale() {
            return self.s3.fail(&prefix, cell.object, cell.fault, cell.lasting);
        }
        match cell.object {
            // The answer to the creation is lost, and listings omit what was created.
            Object::Log => {
                self.s3.fail(&prefix, Object::Log, Fault::Lost, Lasting::Times(1));
                self.s3.fail(&prefix, Object::Log, Fault::Stale(SystemTime::now()), cell.lasting);
            }
            Object::Topic | Object::Catalog => self.s3.fail(&prefix, cell.object, cell.fault, cell.lasting),
            // What it has made itself an agent knows.
            Object::Savepoint => self.s3.fail(&prefix, cell.object, Fault::Stale(SystemTime::now()), cell.lasting),
            object => {
                let (object, extension) = match object {
                    Object::Sidecar => (Object::Sidecar, "index"),
                    _ => (Object::Log, "log"),
                };
                self.s3.fail(&prefix, object, Fault::Stale(newest(backup, topic, extension)), cell.lasting);
            }
        }
    }

    /// Tries a cell.
    fn try_cell(&self, cell: &Cell) -> Seen {
        let topic = match (cell.is_stale(), cell.is_large()) {
            (true, _) => self.kafka.topic("faults-stale", 1, &[]),
            (_, true) => self.large.clone(),
            _ if cell.object == Object::Catalog => self.many.clone(),
            _ => self.small.clone(),
        };
        let backup = self.backup(cell, &topic);
        if cell.is_stale() {
            let writer = writer_of_tens(self.kafka);
            let mut contents = Contents::new();
            let _ = writer.write(&topic, &contents.records(1, 100, 500));
            if cell.object != Object::Log {
                let _ = backup.backup().ok();
                let _ = writer.write(&topic, &contents.records(1, 20, 500));
            }
        }
        self.strike(cell, &backup, &topic);
        let began = Instant::now();
        let agent = backup.run();
        let mut seen = if cell.lasting == Lasting::Ever && !cell.passes() {
            self.endure(cell, &backup, &topic, agent)
        } else {
            self.recover(cell, &backup, &topic, agent)
        };
        self.s3.heal(&cell.name());
        if seen.how == ENDED {
            let _ = backup.backup().ok();
        }
        assert_same(&topic, &backup.chain(&topic, 0).bytes(), &self.kafka.log_bytes(&topic, 0));
        let _ = backup.command("verify", &["--deep"]).ok();
        let said = seen.said.iter().any(|line| cell.is_told(line, &topic));
        assert!(said || !self.must_say(cell), "no line of /readyz names {} and {topic}: {:?}", cell.word(), seen.said);
        // The disk is not the test's to fill.
        let _ = fs::remove_dir_all(self.s3.folder(&cell.name()));
        seen.took = began.elapsed();
        seen
    }

    /// Returns whether the archive of a cell holds an object whose key has this in it.
    fn holds(&self, cell: &Cell, part: &str) -> bool {
        let mut folders = vec![self.s3.folder(&cell.name())];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten() {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.to_str().is_some_and(|key| key.contains(part)) {
                    return true;
                }
            }
        }
        false
    }

    /// Returns the agent's peak of memory, which is bounded.
    fn assert_small(&self, agent: &Agent) -> u64 {
        let (peak_bytes, limit) = (agent.peak_bytes(), MEMORY_BYTES + ABOVE_BYTES);
        assert!(peak_bytes <= limit, "{peak_bytes} bytes of memory, {limit} are allowed");
        peak_bytes
    }

    /// Asserts that the agent does not call durable what is not in the archive.
    fn assert_honest(&self, agent: &Agent, backup: &Backup, topic: &str) {
        let claimed = agent.metric("kafka_backup_captured_bytes_total");
        let held = archived(backup, topic);
        assert!(claimed <= held as f64, "{claimed} bytes are said to be durable, {held} are in the archive");
    }

    /// Returns whether `/readyz` must have told of the fault: one that the client's own retry passes over, or that is
    /// no failure, need not be told.
    fn must_say(&self, cell: &Cell) -> bool {
        let ever = matches!(cell.lasting, Lasting::Ever);
        // A savepoint that comes a little late is nobody's trouble.
        !cell.passes() && (ever || cell.holds_back() && !matches!(cell.lasting, Lasting::Times(_)))
    }

    /// Waits until the agent has everything in the archive and is well, by itself; then it ends well.
    fn recover(&self, cell: &Cell, backup: &Backup, topic: &str, mut agent: Agent) -> Seen {
        let whole = self.kafka.log_bytes(topic, 0).len() as u64;
        let mut said = Vec::new();
        wait_within(PATIENCE, &format!("{} is over: {said:?}", cell.name()), || {
            assert!(agent.runs(), "the agent ended");
            let ready = listen(&agent, &mut said);
            if !ready {
                self.assert_honest(&agent, backup, topic);
            }
            let kept = backup.timelines(topic).iter().any(|timeline| timeline.join("topic-0.json").exists());
            let known = match cell.object {
                Object::Catalog => self.holds(cell, "/catalog/1/"),
                Object::Savepoint => self.holds(cell, "/savepoints/"),
                _ => true,
            };
            let done = ready && kept && known && self.s3.hits(&cell.name()) > 0 && archived(backup, topic) >= whole;
            done.then_some(())
        });
        let peak_bytes = self.assert_small(&agent);
        let hits = self.s3.hits(&cell.name());
        agent.terminate();
        Seen { cell: *cell, hits, said, took: Duration::ZERO, peak_bytes, how: "recovered" }
    }

    /// Waits until the agent says what is wrong, and tells it to stop: it says what is not durable.
    fn endure(&self, cell: &Cell, backup: &Backup, topic: &str, mut agent: Agent) -> Seen {
        let mut said = Vec::new();
        wait_within(PATIENCE, &format!("{} is told in /readyz", cell.name()), || {
            assert!(agent.runs(), "the agent ended");
            let ready = listen(&agent, &mut said);
            let told = said.iter().any(|line: &String| cell.is_told(line, topic));
            self.assert_honest(&agent, backup, topic);
            (!ready && told && self.s3.hits(&cell.name()) >= 4).then_some(())
        });
        let peak_bytes = self.assert_small(&agent);
        if !cell.holds_back() {
            let hits = self.s3.hits(&cell.name());
            agent.terminate();
            return Seen { cell: *cell, hits, said, took: Duration::ZERO, peak_bytes, how: "ended well without" };
        }
        agent.signal(Signal::SIGTERM);
        let told = Instant::now();
        assert_eq!(agent.wait().code(), Some(1), "an agent that could not write all ends so");
        assert!(told.elapsed() < SHUTDOWN + SLACK, "it took {:?} to end", told.elapsed());
        let log = agent.log();
        let last = log.trim_end().lines().last().unwrap_or_default();
        let what = if cell.object == Object::Topic { "settings of topics" } else { topic };
        assert!(last.contains("durable") && last.contains(what), "the last line names {what}:\n{last}");
        let held = backup.chain(topic, 0).bytes();
        assert_prefix(&format!("{topic} while it fails"), &held, &self.kafka.log_bytes(topic, 0));
        Seen { cell: *cell, hits: self.s3.hits(&cell.name()), said, took: Duration::ZERO, peak_bytes, how: ENDED }
    }
}

/// A producer whose batches hold ten records each.
fn writer_of_tens(kafka: &Kafka) -> Writer {
    Writer::new(kafka, &[("batch.num.messages", "10"), ("linger.ms", "5")])
}

/// What a new agent has to do.
const ENDED: &str = "ended, completed by the next";

/// Hears what `/readyz` says, keeps what is new, and returns whether the agent is ready.
fn listen(agent: &Agent, said: &mut Vec<String>) -> bool {
    let Some((status, body)) = agent.get("/readyz") else { return false };
    if status != 200 {
        for line in body.lines().filter(|line| !line.trim().is_empty()) {
            if !said.iter().any(|heard| heard == line) {
                said.push(line.to_owned());
            }
        }
    }
    status == 200
}

/// Returns the files of a topic's partition 0 in the archive that have this extension.
fn files(backup: &Backup, topic: &str, extension: &str) -> Vec<PathBuf> {
    let folders = backup.timelines(topic).into_iter().map(|timeline| timeline.join("0"));
    let files = folders.filter_map(|folder| fs::read_dir(folder).ok()).flatten();
    let paths = files.map(|file| file.expect("an entry").path());
    paths.filter(|path| path.extension().is_some_and(|found| found == extension)).collect()
}

/// Returns how many bytes of logs there are.
fn archived(backup: &Backup, topic: &str) -> u64 {
    files(backup, topic, "log").iter().map(|log| log.metadata().map_or(0, |meta| meta.len())).sum()
}

/// Returns when the newest file with this extension was made.
fn newest(backup: &Backup, topic: &str, extension: &str) -> SystemTime {
    let made = files(backup, topic, extension).into_iter();
    made.map(|file| file.metadata().and_then(|meta| meta.modified()).expect("a file")).max().expect("a file")
}

#[test]
fn whatever_the_store_does_nothing_is_lost_and_nothing_comes_twice() {
    let _alone = alone();
    let ground = Ground::shared();
    let cells = Cell::all();
    assert!(!cells.is_empty(), "no cell's name holds the word of FAULTS");
    let began = Instant::now();
    let next = AtomicUsize::new(0);
    let (seen, failed) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                while let Some(cell) = cells.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match catch_unwind(AssertUnwindSafe(|| ground.try_cell(cell))) {
                        Ok(line) => seen.lock().expect("nobody panics while holding it").push(line),
                        Err(_) => failed.lock().expect("nobody panics while holding it").push(cell.name()),
                    }
                }
            });
        }
    });
    let seen = seen.into_inner().expect("nobody panicked while holding it");
    print(&seen, began.elapsed());
    let failed = failed.into_inner().expect("nobody panicked while holding it");
    assert!(failed.is_empty(), "{} of {} cells failed (see above): {failed:?}", failed.len(), cells.len());
}

/// Prints what was seen, past the capture of the test runner.
fn print(seen: &[Seen], took: Duration) {
    use std::io::Write as _;
    let mut table = String::from("fault, object, lasting          hits   took  peak MiB  readyz told  in the end\n");
    let mut seen: Vec<_> = seen.iter().collect();
    seen.sort_by_key(|seen| seen.cell.name());
    for Seen { cell, hits, said, took, peak_bytes, how } in &seen {
        let (seconds, told) =
            (took.as_secs_f64(), if said.iter().any(|l| l.contains(cell.word())) { "yes" } else { "no" });
        table += &format!("{:<30} {hits:>5} {seconds:>5.1}s {:>9}  {told:<11}  {how}\n", cell.name(), peak_bytes >> 20);
    }
    let _ = writeln!(std::io::stderr(), "{table}{} cells in {:.1} s", seen.len(), took.as_secs_f64());
}
