//! The program under test, as a process: configured, started, stopped, killed, listened to.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::chain::Chain;
use super::kafka::Kafka;
use super::reader::Record;
use super::reaper::{self, Process};
use super::s3::S3;
use super::{DEADLINE, block_on, wait_for, wait_within};

/// Returns the program under test, with nothing of the caller's surroundings that could change what it does.
fn program() -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_kafka-backup"));
    program.stdin(Stdio::null()).env("NO_COLOR", "1").env_remove("RUST_LOG");
    program
}

/// A backup that a test makes: what to tail, where to, and how. Its folder goes when it is dropped.
pub(crate) struct Backup {
    folder: TempDir,
    brokers: String,
    topics: Vec<String>,
    /// Keys of the tables with their values, as TOML.
    pipeline: Vec<(String, String)>,
    source: Vec<(String, String)>,
    sink: Vec<(String, String)>,
    verify: Vec<(String, String)>,
    /// Lines of `[pipeline.source]` whose values are lists.
    lists: Vec<String>,
    kafka: Vec<(String, String)>,
    path: String,
    /// The folder whose files are the objects below `path`.
    objects: PathBuf,
}

impl Backup {
    /// Configures a backup of `topics` into a folder of its own; a segment closes at 1 MiB.
    pub(crate) fn of(kafka: &Kafka, topics: &[&str]) -> Self {
        Self::of_brokers(kafka.brokers(), topics)
    }

    /// Configures a backup of a cluster that may not be there.
    pub(crate) fn of_brokers(brokers: &str, topics: &[&str]) -> Self {
        let folder = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("the target folder is writable");
        reaper::remove_at_end(folder.path());
        let backup = Self {
            path: folder.path().join("archive").display().to_string(),
            objects: folder.path().join("archive"),
            folder,
            brokers: brokers.into(),
            topics: topics.iter().map(|topic| (*topic).to_owned()).collect(),
            pipeline: Vec::new(),
            source: Vec::new(),
            sink: Vec::new(),
            verify: Vec::new(),
            lists: Vec::new(),
            kafka: Vec::new(),
        };
        backup.sink("roll_bytes", "1MiB").sink("roll_interval", "1s")
    }

    /// Sets a key of `[[pipeline]]`.
    pub(crate) fn pipeline(mut self, key: &str, value: &str) -> Self {
        set(&mut self.pipeline, key, value);
        self
    }

    /// Sets a key of `[pipeline.source]`.
    pub(crate) fn source(mut self, key: &str, value: &str) -> Self {
        set(&mut self.source, key, value);
        self
    }

    /// Sets a key of `[pipeline.source]` to a list.
    pub(crate) fn source_list(mut self, key: &str, values: &[&str]) -> Self {
        self.lists.push(format!("{key} = {values:?}\n"));
        self
    }

    /// Sets a key of `[pipeline.sink]`.
    pub(crate) fn sink(mut self, key: &str, value: &str) -> Self {
        set(&mut self.sink, key, value);
        self
    }

    /// Sets a key of `[pipeline.verify]`.
    pub(crate) fn verify(mut self, key: &str, value: &str) -> Self {
        set(&mut self.verify, key, value);
        self
    }

    /// Sets a property of the Kafka client.
    pub(crate) fn kafka(mut self, key: &str, value: &str) -> Self {
        set(&mut self.kafka, key, value);
        self
    }

    /// Writes to `path`, a folder or a URL, instead of a folder of its own.
    pub(crate) fn path(mut self, path: &str) -> Self {
        self.path = path.into();
        self.objects = path.into();
        self
    }

    /// Writes to `s3` below `prefix`; `parameters` are added to the URL.
    pub(crate) fn on(self, s3: &S3, prefix: &str, parameters: &str) -> Self {
        let backup = self.path(&format!("{}{parameters}", s3.url(prefix)));
        Self { objects: s3.folder(prefix), ..backup }
    }

    /// Returns the topics that it is of.
    pub(crate) fn topics(&self) -> &[String] {
        &self.topics
    }

    /// Returns the folder of the whole test.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Returns where the archive is.
    pub(crate) fn archive(&self) -> &str {
        &self.path
    }

    /// Returns the configuration.
    pub(crate) fn config(&self) -> String {
        let kafka: String = self.kafka.iter().map(|(key, value)| format!(", {key:?} = {value:?}")).collect();
        format!(
            r#"[agent]
listen = "127.0.0.1:0"

[[pipeline]]
name = "test"
{}
[pipeline.source]
type = "kafka"
{}kafka = {{ "bootstrap.servers" = {:?}{kafka} }}
{}
[pipeline.sink]
type = "archive"
backup_id = "test"
path = {:?}
{}
[pipeline.verify]
{}"#,
            lines(&self.pipeline),
            if self.topics.is_empty() { String::new() } else { format!("topics = {:?}\n", self.topics) },
            self.brokers,
            lines(&self.source) + &self.lists.concat(),
            self.path,
            lines(&self.sink),
            lines(&self.verify),
        )
    }

    /// Writes `config` to a file of its own.
    pub(crate) fn write_config(&self, config: &str) -> PathBuf {
        static WRITTEN: AtomicU32 = AtomicU32::new(0);
        let number = WRITTEN.fetch_add(1, Ordering::Relaxed);
        let file = self.folder.path().join(format!("agent-{number}.toml"));
        fs::write(&file, config).expect("the test's folder is writable");
        file
    }

    /// Makes one pass to the end of the topics; `ok` the result, or look at why not.
    pub(crate) fn backup(&self) -> Ended {
        self.backup_with(&[])
    }

    /// Makes one pass with environment variables.
    pub(crate) fn backup_with(&self, environment: &[(&str, &str)]) -> Ended {
        let config = self.write_config(&self.config());
        ended(program().arg("backup").arg("--config").arg(config).envs(environment.iter().copied()))
    }

    /// Starts the agent.
    pub(crate) fn run(&self) -> Agent {
        self.run_with(&[])
    }

    /// Starts the agent with environment variables.
    pub(crate) fn run_with(&self, environment: &[(&str, &str)]) -> Agent {
        self.start("run", environment)
    }

    /// Starts `run` or `backup` with environment variables.
    pub(crate) fn start(&self, verb: &str, environment: &[(&str, &str)]) -> Agent {
        self.start_config(verb, &self.config(), environment)
    }

    /// Starts the agent with a configuration of its own.
    pub(crate) fn run_config(&self, config: &str, environment: &[(&str, &str)]) -> Agent {
        self.start_config("run", config, environment)
    }

    /// Starts `run` or `backup` with a configuration of its own.
    pub(crate) fn start_config(&self, verb: &str, config: &str, environment: &[(&str, &str)]) -> Agent {
        self.start_with(&[verb], config, environment)
    }

    /// Starts a verb with further arguments and a configuration of its own.
    pub(crate) fn start_with(&self, verb: &[&str], config: &str, environment: &[(&str, &str)]) -> Agent {
        let config = self.write_config(config);
        let stderr = config.with_extension("stderr");
        let mut command = program();
        command.args(verb).arg("--config").arg(config).envs(environment.iter().copied());
        command.stdout(Stdio::null()).stderr(File::create(&stderr).expect("the test's folder is writable"));
        Agent { process: Process::start(&mut command).expect("the program starts"), stderr }
    }

    /// Runs a command that reads the archive, as `verify` or `cat`.
    pub(crate) fn command(&self, verb: &str, arguments: &[&str]) -> Ended {
        ended(program().arg(verb).args(["--path", &self.path, "--backup-id", "test"]).args(arguments))
    }

    /// Runs such a command with environment variables.
    pub(crate) fn command_with(&self, verb: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Ended {
        let mut command = program();
        command.arg(verb).args(["--path", &self.path, "--backup-id", "test"]).args(arguments);
        ended(command.envs(environment.iter().copied()))
    }

    /// Returns the records that `cat` prints, in order of partition and offset.
    pub(crate) fn cat(&self, topic: &str) -> Vec<Record> {
        self.cat_with(topic, &[])
    }

    /// Returns the records that `cat` prints with `arguments`, in order of partition and offset.
    pub(crate) fn cat_with(&self, topic: &str, arguments: &[&str]) -> Vec<Record> {
        let printed = self.command("cat", &[&["--topic", topic], arguments].concat()).ok();
        let mut records: Vec<_> = printed.lines().map(read_line).collect();
        records.sort_by_key(|record| (record.partition, record.offset));
        records
    }

    /// Returns the records in each partition of `topic`, as `show-offset-mapping` counts them.
    pub(crate) fn counts(&self, topic: &str) -> Vec<(i32, usize)> {
        let csv = self.command("show-offset-mapping", &["--format", "csv"]).ok();
        let rows = csv.lines().map(|line| line.split(',').collect::<Vec<_>>()).filter(|row| row[0] == topic);
        rows.map(|row| (row[1].parse().expect("a partition"), row[4].parse().expect("a count"))).collect()
    }

    /// Returns the chain of a partition of a topic that has one timeline, read without the agent's code.
    pub(crate) fn chain(&self, topic: &str, partition: i32) -> Chain {
        match &self.timelines(topic)[..] {
            [] => Chain(Vec::new()),
            [timeline] => Chain::read(&timeline.join(partition.to_string())),
            several => panic!("{topic} has {} timelines", several.len()),
        }
    }

    /// Returns the folders of a topic's timelines.
    pub(crate) fn timelines(&self, topic: &str) -> Vec<PathBuf> {
        let folders = fs::read_dir(self.objects.join("test/topics").join(topic)).into_iter().flatten();
        folders.map(|folder| folder.expect("an entry").path()).collect()
    }

    /// Returns a file of the backup, as `backup.json`.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.objects.join("test").join(name)
    }
}

fn set(table: &mut Vec<(String, String)>, key: &str, value: &str) {
    table.retain(|(name, _)| name != key);
    table.push((key.to_owned(), value.to_owned()));
}

fn lines(table: &[(String, String)]) -> String {
    table.iter().map(|(key, value)| format!("{key} = {value:?}\n")).collect()
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    /// The signal that ended it.
    pub(crate) signal: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    /// Returns what was printed; panics unless the exit code is 0.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self.stdout
    }

    /// Asserts the exit code and that the last line on stderr, the only one that is an error, holds all of `words`.
    #[track_caller]
    pub(crate) fn fails_with(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        let line = self.stderr.trim_end().lines().last().unwrap_or_default();
        let missing: Vec<_> = words.iter().filter(|word| !line.contains(**word)).collect();
        assert!(missing.is_empty(), "{missing:?} not in the last line of:\n{}", self.stderr);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
    }
}

/// Runs a command to its end, which must come within the deadline.
pub(crate) fn ended(command: &mut Command) -> Ended {
    ended_while(command, |_| {})
}

/// As [`ended`], looking at the process now and then by its id.
fn ended_while(command: &mut Command, mut look: impl FnMut(u32)) -> Ended {
    let stderr = tempfile::NamedTempFile::new().expect("a temporary file");
    let stdout = tempfile::NamedTempFile::new().expect("a temporary file");
    command.stdout(stdout.reopen().expect("a file")).stderr(stderr.reopen().expect("a file"));
    let mut process = Process::start(command).expect("the program starts");
    let read = |file: &tempfile::NamedTempFile| {
        String::from_utf8_lossy(&fs::read(file.path()).expect("a readable file")).into_owned()
    };
    let status = wait_for(&format!("{command:?} ends"), || {
        look(process.id());
        process.child().try_wait().expect("a child")
    });
    Ended { code: status.code(), signal: status.signal(), stdout: read(&stdout), stderr: read(&stderr) }
}

/// Runs the program with `arguments` alone.
pub(crate) fn program_with(arguments: &[&str]) -> Ended {
    ended(program().args(arguments))
}

/// As [`program_with`], with environment variables.
pub(crate) fn program_in(arguments: &[&str], environment: &[(&str, &str)]) -> Ended {
    ended(program().args(arguments).envs(environment.iter().copied()))
}

/// As [`program_with`], killed after so long, unless it has ended by then.
pub(crate) fn program_killed(arguments: &[&str], after: Duration) -> Ended {
    let (began, mut is_killed) = (std::time::Instant::now(), false);
    ended_while(program().args(arguments), |id| {
        if !is_killed && began.elapsed() >= after {
            is_killed = true;
            // A child that has ended is not waited for yet: its id is nobody else's.
            let _ = signal::kill(Pid::from_raw(id as i32), Signal::SIGKILL);
        }
    })
}

/// As [`program_with`]; returns the most memory that it has had, too.
pub(crate) fn program_watched(arguments: &[&str]) -> (Ended, u64) {
    let mut peak = 0;
    let ended = ended_while(program().args(arguments), |id| peak = peak_bytes(id).unwrap_or(0).max(peak));
    (ended, peak)
}

/// Returns the most memory that a process has had, as the kernel counts it (`VmHWM`); `None` when it has ended.
fn peak_bytes(id: u32) -> Option<u64> {
    status_bytes(id, "VmHWM:")
}

/// Returns what the kernel counts of a process's memory under that name; `None` when it has ended.
fn status_bytes(id: u32, name: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let count = status.lines().find_map(|line| line.strip_prefix(name))?;
    Some(count.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10)
}

/// A running agent. Dropping it kills it; when the test fails its log is shown.
pub(crate) struct Agent {
    process: Process,
    stderr: PathBuf,
}

impl Agent {
    /// Returns the process id.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        signal::kill(Pid::from_raw(self.process.id() as i32), signal).expect("the agent is there");
    }

    /// Kills the agent as `kill -9` does.
    pub(crate) fn kill(mut self) {
        self.process.child().kill().expect("the agent is there");
        let status = self.process.child().wait().expect("a child");
        assert_eq!(status.signal(), Some(9), "the agent ended by itself ({status}):\n{}", self.log());
    }

    /// Asks the agent to end (SIGTERM), which it must do well.
    #[track_caller]
    pub(crate) fn terminate(mut self) {
        self.signal(Signal::SIGTERM);
        let status = self.wait();
        assert_eq!(status.code(), Some(0), "{status}");
    }

    /// Waits until the agent ends by itself.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        wait_for("the agent ends", || self.process.child().try_wait().expect("a child"))
    }

    /// Returns whether the agent runs.
    pub(crate) fn runs(&mut self) -> bool {
        self.process.child().try_wait().expect("a child").is_none()
    }

    /// Has its file say something else, which it is not told.
    pub(crate) fn rewrite(&self, config: &str) {
        fs::write(self.stderr.with_extension("toml"), config).expect("the test's folder is writable");
    }

    /// Returns what the agent has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.stderr).unwrap_or_default()
    }

    /// Returns the agent's answer to a request, status and body; `None` while nobody listens.
    pub(crate) fn get(&self, path: &str) -> Option<(u16, String)> {
        self.ask(reqwest::Method::GET, path)
    }

    /// Returns the agent's answer to a request that changes something.
    pub(crate) fn post(&self, path: &str) -> Option<(u16, String)> {
        self.ask(reqwest::Method::POST, path)
    }

    /// Returns where the agent listens; `None` while it does not.
    pub(crate) fn address(&self) -> Option<String> {
        let log = self.log();
        let address = log.split("listening on http://").nth(1)?;
        Some(address.chars().take_while(|c| c.is_ascii_digit() || ".:".contains(*c)).collect())
    }

    fn ask(&self, method: reqwest::Method, path: &str) -> Option<(u16, String)> {
        let address = self.address()?;
        block_on(async {
            // Made once: with all that belongs to TLS it takes longer than the request.
            static CLIENT: LazyLock<reqwest::Client> = LazyLock::new(|| {
                let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5));
                client.pool_max_idle_per_host(0).build().expect("a client")
            });
            let answer = CLIENT.request(method, format!("http://{address}{path}")).send().await.ok()?;
            Some((answer.status().as_u16(), answer.text().await.ok()?))
        })
    }

    /// Returns the sum of a metric over its labels; 0 while it is not there.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let (_, page) = self.get("/metrics").unwrap_or_default();
        let values = page.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let value = if rest.starts_with('{') { rest.rsplit_once("} ")?.1 } else { rest.strip_prefix(' ')? };
            value.parse::<f64>().ok()
        });
        values.sum()
    }

    /// Returns the most memory that the agent has had, as the kernel counts it (`VmHWM`).
    pub(crate) fn peak_bytes(&self) -> u64 {
        peak_bytes(self.id()).expect("the agent is there")
    }

    /// Returns the same without the pages of the program's own file: how many of those are mapped is the kernel's choice, 2 MiB
    /// at once where the file lies in huge pages, and it takes them back when memory is short.
    pub(crate) fn peak_held_bytes(&self) -> u64 {
        let mapped = status_bytes(self.id(), "RssFile:").expect("the agent is there");
        self.peak_bytes().saturating_sub(mapped)
    }

    /// Waits for a condition as long as the agent runs.
    #[track_caller]
    pub(crate) fn wait_until<T>(&mut self, what: &str, mut condition: impl FnMut(&Self) -> Option<T>) -> T {
        wait_within(DEADLINE, what, || {
            assert!(self.runs(), "the agent ended before {what}");
            condition(self)
        })
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- {}:\n{}", self.stderr.display(), self.log());
        }
    }
}

/// Reads a line of `cat`.
fn read_line(line: &str) -> Record {
    let line: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    let header =
        |header: &serde_json::Value| (header["key"].as_str().expect("a key").to_owned(), bytes(&header["value"]));
    Record {
        partition: line["partition"].as_i64().expect("a partition") as i32,
        offset: line["offset"].as_i64().expect("an offset"),
        timestamp: line["timestamp"].as_i64().expect("a time"),
        key: bytes(&line["key"]),
        value: bytes(&line["value"]),
        headers: line["headers"].as_array().expect("headers").iter().map(header).collect(),
    }
}

/// Reads a value of `cat`: null, text, or base64 where it is no text.
fn bytes(value: &serde_json::Value) -> Option<Vec<u8>> {
    use base64::Engine as _;
    match value {
        serde_json::Value::Null => None,
        serde_json::Value::String(text) => Some(text.clone().into_bytes()),
        other => {
            let text = other["base64"].as_str().unwrap_or_else(|| panic!("{other} is no value"));
            Some(base64::engine::general_purpose::STANDARD.decode(text).expect("base64"))
        }
    }
}
