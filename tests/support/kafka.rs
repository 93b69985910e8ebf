//! A real Apache Kafka: one KRaft node whose jars come from Maven Central once, with its own ports and data.
//!
//! Most tests share one ([`Kafka::shared`]) and keep apart by topic names; a test that kills or starts a broker has its
//! own ([`Kafka::start`]).

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{
    AdminClient, AdminOptions, ConfigSource, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::{Offset, TopicPartitionList};

use super::reaper::{self, Process};
use super::{block_on, target, wait_within};

const VERSION: &str = "4.2.1";

/// The memory of a test's broker.
const SHORT_LIVED: &[&str] = &["-Xmx512m"];

/// What Kafka's own scripts give a broker: both compilers, a collector with threads, a gigabyte. It stands behind what
/// [`java_of`] says, and so against it.
const LONG_LIVED: &[&str] =
    &["-XX:TieredStopAtLevel=4", "-XX:-UseSerialGC", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-Xms1g", "-Xmx1g"];

/// Kafka's numbers of resources, for rules.
pub(crate) const GROUP: i8 = 3;
pub(crate) const TRANSACTIONAL_ID: i8 = 5;

/// Kafka's numbers of operations, for rules.
pub(crate) const EVERYTHING: i8 = 2;
pub(crate) const DESCRIBE: i8 = 8;

/// The name of a broker's configuration in its folder.
const CONFIG: &str = "server.properties";

pub(super) const NEEDED: &str = "the tests start a real Apache Kafka: install a JDK (17 or newer) and Maven";

/// A cluster that a test may use.
pub(crate) struct Kafka {
    brokers: String,
    admin: AdminClient<DefaultClientContext>,
    node: Option<Node>,
}

/// A broker on this machine. Fields drop in order: the process before its data.
struct Node {
    /// `None` while it is stopped.
    process: Option<Process>,
    /// What its Java is told.
    options: &'static [&'static str],
    folder: Folder,
}

pub(super) struct Folder(pub(super) PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Kafka {
    /// Returns the cluster that most tests share: `KAFKA_BROKERS`, or a broker started with the first test.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: OnceLock<Kafka> = OnceLock::new();
        SHARED.get_or_init(|| match std::env::var("KAFKA_BROKERS") {
            Ok(brokers) => Self { admin: admin(&brokers), brokers, node: None },
            Err(_) => Self::start(),
        })
    }

    /// Returns the shared cluster for a test that also reads the broker's disk.
    pub(crate) fn shared_with_disk() -> &'static Self {
        assert!(
            std::env::var_os("KAFKA_BROKERS").is_none(),
            "this test compares with the broker's own files: unset KAFKA_BROKERS, and the tests start a Kafka here"
        );
        Self::shared()
    }

    /// Returns a cluster that others start and stop.
    pub(super) fn of_brokers(brokers: &str) -> Self {
        Self { admin: admin(brokers), brokers: brokers.to_owned(), node: None }
    }

    /// Starts a broker on a free port.
    pub(crate) fn start() -> Self {
        // Between finding a port and listening on it another process may take it.
        for _ in 0..2 {
            if let Ok(kafka) = Self::try_start(free_port(), SHORT_LIVED) {
                return kafka;
            }
        }
        Self::try_start(free_port(), SHORT_LIVED).unwrap_or_else(|log| panic!("Kafka did not start:\n{log}"))
    }

    /// Starts a broker that compiles and collects garbage as a broker does that lives long: dearer to start, and what it
    /// then takes for a record is what others' brokers take.
    #[allow(dead_code, reason = "only benches need it")]
    pub(crate) fn start_at_full_speed() -> Self {
        Self::try_start(free_port(), LONG_LIVED).unwrap_or_else(|log| panic!("Kafka did not start:\n{log}"))
    }

    /// Returns the id of the broker's process, where it is one of our own and runs.
    #[allow(dead_code, reason = "only benches need it")]
    pub(crate) fn process_id(&self) -> Option<u32> {
        self.node.as_ref()?.process.as_ref().map(Process::id)
    }

    /// Stops the broker as `kill -9` does; its data stay.
    pub(crate) fn stop(&mut self) {
        self.node.as_mut().expect("a broker of our own").process = None;
    }

    /// Starts the broker that was stopped.
    pub(crate) fn start_again(&mut self) {
        let node = self.node.as_mut().expect("a broker of our own");
        node.process = Some(
            launch(&node.folder.0, node.options, &self.admin)
                .unwrap_or_else(|log| panic!("Kafka did not return:\n{log}")),
        );
    }

    /// Puts another cluster in the place of this one: the same port, and nothing of what was there.
    pub(crate) fn replace(&mut self) {
        self.stop();
        let node = self.node.as_ref().expect("a broker of our own");
        fs::remove_dir_all(node.folder.0.join("data")).expect("the folder is writable");
        format(&node.folder.0.join(CONFIG));
        self.start_again();
    }

    /// Starts a broker with more in its configuration, made of its two ports; `formatted` is said to the tool that formats
    /// its folder.
    pub(super) fn start_with(more: impl Fn(u16, u16) -> String, formatted: &[&str]) -> Self {
        Self::try_start_with(free_port(), SHORT_LIVED, more, formatted)
            .unwrap_or_else(|log| panic!("Kafka did not start:\n{log}"))
    }

    fn try_start(port: u16, options: &'static [&'static str]) -> Result<Self, String> {
        Self::try_start_with(port, options, |_, _| String::new(), &[])
    }

    fn try_start_with(
        port: u16,
        options: &'static [&'static str],
        more: impl Fn(u16, u16) -> String,
        formatted: &[&str],
    ) -> Result<Self, String> {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let folder = target().join(format!("kafka/run-{}-{number}", std::process::id()));
        fs::create_dir_all(&folder).expect("the target folder is writable");
        reaper::remove_at_end(&folder);
        let folder = Folder(folder);
        let config = folder.0.join(CONFIG);
        let controller = free_port();
        let said = properties(port, controller, &folder.0.join("data")) + &more(port, controller);
        fs::write(&config, said).expect("the folder is writable");
        format_with(&config, formatted);
        let brokers = format!("127.0.0.1:{port}");
        let admin = admin(&brokers);
        let process = launch(&folder.0, options, &admin)?;
        Ok(Self { brokers, admin, node: Some(Node { process: Some(process), options, folder }) })
    }

    /// Returns `bootstrap.servers`.
    pub(crate) fn brokers(&self) -> &str {
        &self.brokers
    }

    /// Returns the properties of a client of this cluster.
    pub(crate) fn client(&self, properties: &[(&str, &str)]) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.brokers);
        for (name, value) in properties {
            config.set(*name, *value);
        }
        config
    }

    /// Makes a topic whose name begins with `theme` and that nobody else has; nothing in it expires.
    pub(crate) fn topic(&self, theme: &str, partitions: i32, configs: &[(&str, &str)]) -> String {
        let name = format!("{theme}-{:08x}", fastrand::u32(..));
        self.create(&name, partitions, configs);
        name
    }

    /// Makes the topic `name`.
    pub(crate) fn create(&self, name: &str, partitions: i32, configs: &[(&str, &str)]) {
        let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1)).set("retention.ms", "-1");
        for (key, value) in configs {
            topic = topic.set(key, value);
        }
        let made = block_on(self.admin.create_topics([&topic], &AdminOptions::new())).expect("the broker answers");
        assert!(made.iter().all(Result::is_ok), "topic {name}: {made:?}");
        self.wait_for_leaders(name, partitions as usize);
    }

    /// Waits until `topic` has leaders: the answer to its making comes before them.
    fn wait_for_leaders(&self, topic: &str, partitions: usize) {
        wait_within(Duration::from_secs(30), "the topic has leaders", || {
            let answer = self.admin.inner().fetch_metadata(Some(topic), Duration::from_secs(5)).ok()?;
            let led = answer.topics()[0].partitions().iter().filter(|partition| partition.leader() >= 0);
            (led.count() == partitions).then_some(())
        });
    }

    /// Deletes the topic `name`.
    pub(crate) fn delete(&self, name: &str) {
        let deleted = block_on(self.admin.delete_topics(&[name], &AdminOptions::new())).expect("the broker answers");
        assert!(deleted.iter().all(Result::is_ok), "topic {name}: {deleted:?}");
    }

    /// Gives `topic` more partitions, `count` in all.
    pub(crate) fn add_partitions(&self, topic: &str, count: usize) {
        let more = [NewPartitions::new(topic, count)];
        let made = block_on(self.admin.create_partitions(&more, &AdminOptions::new())).expect("the broker answers");
        assert!(made.iter().all(Result::is_ok), "topic {topic}: {made:?}");
        self.wait_for_leaders(topic, count);
    }

    /// Deletes the records of a partition before `first`.
    pub(crate) fn delete_records(&self, topic: &str, partition: i32, first: i64) {
        let mut before = TopicPartitionList::new();
        before.add_partition_offset(topic, partition, Offset::Offset(first)).expect("an offset");
        let deleted = block_on(self.admin.delete_records(&before, &AdminOptions::new())).expect("the broker answers");
        assert_eq!(deleted.elements()[0].offset(), Offset::Offset(first), "the log starts there now");
    }

    /// Commits `offset` of a partition for a consumer group that has no members.
    pub(crate) fn commit(&self, group: &str, topic: &str, partition: i32, offset: i64) {
        let consumer: BaseConsumer = self.client(&[("group.id", group)]).create().expect("a consumer");
        let mut offsets = TopicPartitionList::new();
        offsets.add_partition_offset(topic, partition, Offset::Offset(offset)).expect("an offset");
        consumer.commit(&offsets, CommitMode::Sync).expect("the coordinator answers");
    }

    /// Returns the offsets that a group has committed for partitions of `topic`.
    pub(crate) fn committed(&self, group: &str, topic: &str) -> BTreeMap<i32, i64> {
        let consumer: BaseConsumer = self.client(&[("group.id", group)]).create().expect("a consumer");
        let mut partitions = TopicPartitionList::new();
        partitions.add_partition_range(topic, 0, self.partitions(topic) - 1);
        let answer = consumer.committed_offsets(partitions, Duration::from_secs(30)).expect("the coordinator answers");
        let elements = answer.elements();
        let offset = |offset| if let Offset::Offset(offset) = offset { Some(offset) } else { None };
        elements.iter().filter_map(|it| Some((it.partition(), offset(it.offset())?))).collect()
    }

    /// Allows everybody an operation on a resource, or denies it, by Kafka's numbers for all of these. What has any rule is
    /// closed to all but those whom one allows.
    pub(crate) fn rule(&self, (resource, name): (i8, &str), operation: i8, allowed: bool) {
        use kafka_protocol::messages::create_acls_request::AclCreation;
        use kafka_protocol::messages::{CreateAclsRequest, RequestHeader};
        use kafka_protocol::protocol::{Encodable as _, StrBytes};
        use std::io::{Read as _, Write as _};
        let text = |text: &str| StrBytes::from_string(text.to_owned());
        // The name as it stands.
        let acl = AclCreation::default()
            .with_resource_type(resource)
            .with_resource_name(text(name))
            .with_resource_pattern_type(3)
            .with_principal(text("User:*"))
            .with_host(text("*"))
            .with_operation(operation)
            .with_permission_type(if allowed { 3 } else { 2 });
        let mut frame = Vec::new();
        let header = RequestHeader::default().with_request_api_key(30).with_request_api_version(3);
        header.encode(&mut frame, 2).expect("a header");
        CreateAclsRequest::default().with_creations(vec![acl]).encode(&mut frame, 3).expect("a request");
        let mut broker = std::net::TcpStream::connect(&self.brokers).expect("the broker listens");
        broker.write_all(&(frame.len() as u32).to_be_bytes()).expect("sent");
        broker.write_all(&frame).expect("sent");
        let mut length = [0; 4];
        broker.read_exact(&mut length).expect("an answer");
        let mut answer = vec![0; u32::from_be_bytes(length) as usize];
        broker.read_exact(&mut answer).expect("an answer");
        // Correlation, tags, throttling, one result: its code.
        assert_eq!(answer[10..12], [0, 0], "the broker takes the rule: {answer:?}");
    }

    /// Returns how many partitions `topic` has.
    pub(crate) fn partitions(&self, topic: &str) -> i32 {
        let answer = self.admin.inner().fetch_metadata(Some(topic), Duration::from_secs(10)).expect("metadata");
        answer.topics()[0].partitions().len() as i32
    }

    /// Returns the settings that were made on `topic` itself.
    pub(crate) fn settings(&self, topic: &str) -> BTreeMap<String, String> {
        let (asked, options) = ([ResourceSpecifier::Topic(topic)], AdminOptions::new());
        let told = block_on(self.admin.describe_configs(&asked, &options)).expect("the broker answers");
        let told = told.into_iter().next().expect("one topic").expect("it is there");
        let set = told.entries.into_iter().filter(|entry| entry.source == ConfigSource::DynamicTopic);
        set.map(|entry| (entry.name, entry.value.unwrap_or_default())).collect()
    }

    /// Returns the names of all topics.
    pub(crate) fn topics(&self) -> BTreeSet<String> {
        let answer = self.admin.inner().fetch_metadata(None, Duration::from_secs(10)).expect("metadata");
        answer.topics().iter().map(|topic| topic.name().to_owned()).collect()
    }

    /// Returns where each partition of `topic` ends.
    pub(crate) fn ends(&self, topic: &str) -> Vec<i64> {
        // A read-committed client is told the last stable offset instead.
        let properties = [("group.id", "ends"), ("isolation.level", "read_uncommitted")];
        let client: BaseConsumer = self.client(&properties).create().expect("a consumer");
        let end = |partition| {
            wait_within(Duration::from_secs(30), "the partition tells its end", || {
                client.fetch_watermarks(topic, partition, Duration::from_secs(5)).ok().map(|(_, end)| end)
            })
        };
        (0..self.partitions(topic)).map(end).collect()
    }

    /// Returns the broker's own log of a partition: its `.log` files in order of their base offsets.
    pub(crate) fn log_bytes(&self, topic: &str, partition: i32) -> Vec<u8> {
        self.logs(topic, partition)
            .iter()
            .map(|log| fs::read(log).expect("a log is readable"))
            .collect::<Vec<_>>()
            .concat()
    }

    /// Returns the broker's `.log` files of a partition, in order of their base offsets.
    pub(crate) fn logs(&self, topic: &str, partition: i32) -> Vec<PathBuf> {
        let node = self.node.as_ref().expect("a test that reads the broker's disk uses a broker of its own");
        let folder = node.folder.0.join(format!("data/{topic}-{partition}"));
        let files = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        let mut logs: Vec<_> = files.map(|file| file.expect("an entry").path()).filter(|path| is_log(path)).collect();
        logs.sort();
        logs
    }
}

pub(super) fn is_log(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "log")
}

/// Runs one of Kafka's own tools and returns what it printed.
pub(crate) fn tool(class: &str, arguments: &[&str]) -> String {
    let output = java(&["-Xmx256m"], class, arguments).stdin(Stdio::null()).output().expect(NEEDED);
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{class}: {printed}{}", String::from_utf8_lossy(&output.stderr));
    printed
}

/// Returns a port of 127.0.0.1 that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("this machine has a free port");
    listener.local_addr().expect("a bound socket has an address").port()
}

fn admin(brokers: &str) -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", brokers).create().expect("an admin client")
}

/// Starts the broker of `folder` and waits until it answers; an error is its log.
fn launch(folder: &Path, options: &[&str], admin: &AdminClient<DefaultClientContext>) -> Result<Process, String> {
    let log = folder.join("kafka.log");
    let out = File::create(&log).expect("the folder is writable");
    let mut java = java(options, "kafka.Kafka", &[folder.join(CONFIG).to_str().expect("UTF-8")]);
    java.stdin(Stdio::null()).stdout(out.try_clone().expect("a file")).stderr(out);
    let mut process = Process::start(&mut java).expect(NEEDED);
    let started = wait_within(Duration::from_secs(120), "Kafka answers", || {
        if let Ok(Some(_)) = process.child().try_wait() {
            return Some(Err(fs::read_to_string(&log).unwrap_or_default()));
        }
        let answer = admin.inner().fetch_metadata(None, Duration::from_secs(1));
        answer.is_ok_and(|metadata| !metadata.brokers().is_empty()).then_some(Ok(()))
    });
    started.map(|()| process)
}

fn properties(port: u16, controller: u16, data: &Path) -> String {
    format!(
        "process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
log.dirs={data}
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
allow.everyone.if.no.acl.found=true
super.users=User:nobody
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
log.initial.task.delay.ms=1000
log.cleaner.backoff.ms=200
log.cleaner.dedupe.buffer.size=8000000
log.segment.delete.delay.ms=1000
",
        data = data.display()
    )
}

/// Makes an id as Kafka's clusters and folders have one.
pub(super) fn new_id() -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(uuid::Uuid::new_v4().as_bytes())
}

fn format(config: &Path) {
    format_with(config, &[]);
}

fn format_with(config: &Path, more: &[&str]) {
    let id = new_id();
    let config = config.to_str().expect("UTF-8");
    // The id may begin with a dash, which only the form with `=` survives.
    let id = format!("--cluster-id={id}");
    tool("kafka.tools.StorageTool", &[&["format", &id, "-c", config, "--standalone"], more].concat());
}

/// Returns a command that runs `class` from Kafka's jars.
pub(super) fn java(options: &[&str], class: &str, arguments: &[&str]) -> Command {
    java_of(jars(), options, class, arguments)
}

/// Returns a command that runs `class` from the jars in `libs`.
pub(super) fn java_of(libs: &Path, options: &[&str], class: &str, arguments: &[&str]) -> Command {
    let mut java = Command::new("java");
    // A short life on a shared machine: no profiling compiler, no threads for collecting garbage.
    java.args(["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]).args(options);
    java.arg("-cp").arg(libs.join("*")).arg(class).args(arguments);
    java
}

/// Returns the folder of Kafka's jars; fetches them when they are not there.
fn jars() -> &'static Path {
    static JARS: OnceLock<PathBuf> = OnceLock::new();
    JARS.get_or_init(|| {
        let kafka = ["kafka_2.13", "kafka-tools"].map(|artifact| ("org.apache.kafka", artifact, VERSION));
        jars_of(VERSION, &[&kafka[..], &[("org.apache.logging.log4j", "log4j-slf4j2-impl", "2.24.3")]].concat())
    })
}

/// Returns the folder of the jars of Kafka `version`, which are those of `dependencies` (group, artifact, version);
/// fetches them when they are not there. Other tests and processes wait meanwhile.
pub(super) fn jars_of(version: &str, dependencies: &[(&str, &str, &str)]) -> PathBuf {
    let folder = target().join("kafka").join(version);
    fs::create_dir_all(&folder).expect("the target folder is writable");
    let lock = File::create(folder.join("lock")).expect("the target folder is writable");
    lock.lock().expect("a lock on a file");
    let (libs, complete) = (folder.join("libs"), folder.join("complete"));
    require("java");
    if !complete.exists() {
        require("mvn");
        fetch_jars(&folder, version, dependencies);
        File::create(complete).expect("the target folder is writable");
    }
    libs
}

fn require(program: &str) {
    let answer = Command::new(program).arg("-version").output();
    assert!(answer.as_ref().is_ok_and(|output| output.status.success()), "`{program}` is missing; {NEEDED}");
    if program == "java" {
        let printed = String::from_utf8_lossy(&answer.expect("it answered").stderr).into_owned();
        let number = printed.split('"').nth(1).and_then(|version| version.split('.').next()?.parse::<u32>().ok());
        assert!(number >= Some(17), "`java` is too old ({}); {NEEDED}", printed.lines().next().unwrap_or("?"));
    }
}

fn fetch_jars(folder: &Path, kafka: &str, dependencies: &[(&str, &str, &str)]) {
    let dependency = |(group, artifact, version): &(&str, &str, &str)| {
        format!(
            "<dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId><version>{version}</version></dependency>"
        )
    };
    let pom = format!(
        "<project xmlns=\"http://maven.apache.org/POM/4.0.0\"><modelVersion>4.0.0</modelVersion><groupId>tests</groupId>\
         <artifactId>kafka</artifactId><version>1</version><packaging>pom</packaging><dependencies>{}</dependencies></project>",
        dependencies.iter().map(dependency).collect::<String>()
    );
    fs::write(folder.join("pom.xml"), pom).expect("the target folder is writable");
    let mut maven = Command::new("mvn");
    maven.args(["-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory=libs"]).current_dir(folder);
    let output = maven.stdin(Stdio::null()).output().expect(NEEDED);
    assert!(
        output.status.success(),
        "Maven could not fetch Kafka {kafka}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
