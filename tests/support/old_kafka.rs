//! A Kafka of the days of the older record formats: one broker of 2.8 with its ZooKeeper, whose jars come from Maven
//! Central once. It takes `message.format.version` for each topic, which Kafka 4 no longer knows, and it has no Fetch
//! by topic id.
//!
//! All tests share one; a JDK 17 runs it as it is.

use std::fs::{self, File};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};

use super::kafka::{self, Folder, Kafka, NEEDED, free_port, is_log, java_of};
use super::reaper::{self, Process};
use super::{block_on, target, wait_for, wait_within};

const VERSION: &str = "2.8.2";

/// The broker and its ZooKeeper. Fields drop in order: the processes before their data.
pub(crate) struct OldKafka {
    kafka: Kafka,
    _broker: Process,
    _zookeeper: Process,
    folder: Folder,
}

impl OldKafka {
    /// Returns the one that the tests share.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: OnceLock<OldKafka> = OnceLock::new();
        SHARED.get_or_init(|| {
            // Between finding a port and listening on it another process may take it.
            Self::start()
                .or_else(|_| Self::start())
                .unwrap_or_else(|log| panic!("Kafka {VERSION} did not start:\n{log}"))
        })
    }

    fn start() -> Result<Self, String> {
        let folder = target().join(format!("kafka/old-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("the target folder is writable");
        reaper::remove_at_end(&folder);
        let (zookeeper_port, port) = (free_port(), free_port());
        let zookeeper = format!(
            "dataDir={}\nclientPort={zookeeper_port}\nclientPortAddress=127.0.0.1\nadmin.enableServer=false\ntickTime=500\n",
            folder.join("zookeeper").display()
        );
        let zookeeper_log = folder.join("zookeeper.log");
        let class = "org.apache.zookeeper.server.quorum.QuorumPeerMain";
        let mut zookeeper = launch(&folder, "zookeeper.properties", &zookeeper, class, &zookeeper_log);
        wait_within(Duration::from_secs(60), "ZooKeeper listens", || {
            ended(&mut zookeeper, &zookeeper_log).or_else(|| listens(zookeeper_port).then_some(Ok(())))
        })?;
        let (config, log) = (properties(port, zookeeper_port, &folder.join("data")), folder.join("kafka.log"));
        let mut broker = launch(&folder, "server.properties", &config, "kafka.Kafka", &log);
        // It listens before it belongs to its cluster; a client that comes in between hears of no broker and stays so.
        let address = format!("127.0.0.1:{port}");
        let first: BaseConsumer = ClientConfig::new().set("bootstrap.servers", &address).create().expect("a client");
        wait_within(Duration::from_secs(120), "Kafka answers", || {
            let answer = || first.fetch_metadata(None, Duration::from_secs(1)).ok();
            ended(&mut broker, &log).or_else(|| (!answer()?.brokers().is_empty()).then_some(Ok(())))
        })?;
        let kafka = Kafka::of_brokers(&address);
        Ok(Self { kafka, _broker: broker, _zookeeper: zookeeper, folder: Folder(folder) })
    }

    /// Returns the cluster.
    pub(crate) fn kafka(&self) -> &Kafka {
        &self.kafka
    }

    /// Sets all settings of a topic, from now on.
    pub(crate) fn configure(&self, topic: &str, configs: &[(&str, &str)]) {
        let admin: AdminClient<DefaultClientContext> = self.kafka.client(&[]).create().expect("an admin client");
        let config = AlterConfig::new(ResourceSpecifier::Topic(topic)).set("retention.ms", "-1");
        let config = configs.iter().fold(config, |config, (key, value)| config.set(key, value));
        let done = block_on(admin.alter_configs([&config], &AdminOptions::new())).expect("the broker answers");
        assert!(done.iter().all(Result::is_ok), "topic {topic}: {done:?}");
    }

    /// Deletes a topic and makes it again with one partition.
    pub(crate) fn make_again(&self, topic: &str, configs: &[(&str, &str)]) {
        self.kafka.delete(topic);
        let admin: AdminClient<DefaultClientContext> = self.kafka.client(&[]).create().expect("an admin client");
        let made = NewTopic::new(topic, 1, TopicReplication::Fixed(1)).set("retention.ms", "-1");
        let made = configs.iter().fold(made, |made, (key, value)| made.set(key, value));
        // ZooKeeper has the old one for a moment after its deletion is answered.
        wait_for("the topic is made again", || {
            let answer = block_on(admin.create_topics([&made], &AdminOptions::new())).expect("the broker answers");
            answer.iter().all(Result::is_ok).then_some(())
        });
    }

    /// Returns the broker's `.log` files of a partition, in order of their base offsets.
    pub(crate) fn logs(&self, topic: &str, partition: i32) -> Vec<PathBuf> {
        let files = fs::read_dir(self.folder.0.join(format!("data/{topic}-{partition}"))).expect("the broker's folder");
        let mut logs: Vec<_> = files.map(|file| file.expect("an entry").path()).filter(|path| is_log(path)).collect();
        logs.sort();
        logs
    }

    /// Waits until the cleaner has gone over all that it may of a compacted partition: what is not in the active segment.
    pub(crate) fn wait_cleaned(&self, topic: &str, partition: i32) {
        wait_for("the cleaner has been there", || {
            let active = self.logs(topic, partition).pop()?.file_stem()?.to_str()?.parse::<i64>().ok()?;
            let reached = fs::read_to_string(self.folder.0.join("data/cleaner-offset-checkpoint")).ok()?;
            let prefix = format!("{topic} {partition} ");
            let reached = reached.lines().find_map(|line| line.strip_prefix(&prefix)?.parse::<i64>().ok())?;
            (active > 0 && reached >= active).then_some(())
        });
    }

    /// Has this Kafka's own tool print every record of `logs`.
    pub(crate) fn dump(&self, logs: &[PathBuf]) -> String {
        dump_with(
            |arguments| {
                let mut java = java_of(libs(), &["-Xmx256m", QUIET], "kafka.tools.DumpLogSegments", arguments);
                let output = java.stdin(Stdio::null()).output().expect(NEEDED);
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                String::from_utf8_lossy(&output.stdout).into_owned()
            },
            logs,
        )
    }
}

/// Has the newest Kafka's own tool print every record of `logs`.
pub(crate) fn dump(logs: &[PathBuf]) -> String {
    dump_with(|arguments| kafka::tool("kafka.tools.DumpLogSegments", arguments), logs)
}

fn dump_with(tool: impl FnOnce(&[&str]) -> String, logs: &[PathBuf]) -> String {
    let files: Vec<_> = logs.iter().map(|log| log.to_str().expect("UTF-8")).collect();
    tool(&["--deep-iteration", "--print-data-log", "--files", &files.join(",")])
}

/// What is logged besides warnings is megabytes.
const QUIET: &str = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn";

fn libs() -> &'static Path {
    static LIBS: OnceLock<PathBuf> = OnceLock::new();
    let dependencies = [("org.apache.kafka", "kafka_2.13", VERSION), ("org.slf4j", "slf4j-simple", "1.7.36")];
    LIBS.get_or_init(|| kafka::jars_of(VERSION, &dependencies))
}

fn launch(folder: &Path, name: &str, config: &str, class: &str, log: &Path) -> Process {
    let file = folder.join(name);
    fs::write(&file, config).expect("the folder is writable");
    let out = File::create(log).expect("the folder is writable");
    let mut java = java_of(libs(), &["-Xmx256m", QUIET], class, &[file.to_str().expect("UTF-8")]);
    java.stdin(Stdio::null()).stdout(out.try_clone().expect("a file")).stderr(out);
    Process::start(&mut java).expect(NEEDED)
}

/// Returns the log of a process that has ended already.
fn ended(process: &mut Process, log: &Path) -> Option<Result<(), String>> {
    let status = process.child().try_wait().expect("a child");
    status.map(|status| Err(format!("{status}: {}", fs::read_to_string(log).unwrap_or_default())))
}

fn listens(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_ok()
}

fn properties(port: u16, zookeeper: u16, data: &Path) -> String {
    format!(
        "broker.id=1
zookeeper.connect=127.0.0.1:{zookeeper}
listeners=PLAINTEXT://127.0.0.1:{port}
log.dirs={data}
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
group.initial.rebalance.delay.ms=0
log.cleaner.backoff.ms=200
log.cleaner.dedupe.buffer.size=8000000
log.segment.delete.delay.ms=1000
",
        data = data.display()
    )
}
