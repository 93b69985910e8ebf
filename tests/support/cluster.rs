//! A real Kafka cluster of three nodes on this machine, each of them broker and controller, whose nodes a test kills,
//! freezes, ends and starts again.
//!
//! It fails over in seconds: sessions and elections are as short as they may be on a busy machine of two cores. Leaders
//! move only when a test says so. What is asked of it goes over the wire ([`admin`]), without code of the agent.

mod admin;

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

use super::kafka::{self, Folder, Kafka, NEEDED};
use super::reaper::{self, Process};
use super::{target, wait_within};

/// A node is named by its id, from 1 on.
pub(crate) type NodeId = i32;

/// How long a node may take to start while others do, on a machine that runs other tests besides.
const START_WITHIN: Duration = Duration::from_secs(120);

/// A cluster. Fields drop in order: the processes before their data.
pub(crate) struct Cluster {
    kafka: Kafka,
    nodes: Vec<Node>,
    _folder: Folder,
}

struct Node {
    id: NodeId,
    address: String,
    folder: PathBuf,
    /// `None` while it is down.
    process: Option<Process>,
    frozen: bool,
}

impl Cluster {
    /// Returns the cluster of three that several tests use, one after the other; whole, whatever the last one did.
    pub(crate) fn shared() -> MutexGuard<'static, Self> {
        static SHARED: OnceLock<Mutex<Cluster>> = OnceLock::new();
        let mut cluster =
            SHARED.get_or_init(|| Mutex::new(Self::start(3))).lock().unwrap_or_else(PoisonError::into_inner);
        cluster.heal();
        cluster
    }

    /// Starts `count` nodes.
    pub(crate) fn start(count: i32) -> Self {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let folder = target().join(format!("kafka/cluster-{}-{number}", std::process::id()));
        fs::create_dir_all(&folder).expect("the target folder is writable");
        reaper::remove_at_end(&folder);
        let ports: Vec<(u16, u16)> = (0..count).map(|_| (steady_port(), steady_port())).collect();
        let voters: Vec<String> =
            (1..).zip(&ports).map(|(id, (_, controller))| format!("{id}@127.0.0.1:{controller}")).collect();
        let mut nodes = Vec::new();
        for (id, (port, controller)) in (1..).zip(&ports) {
            let node = folder.join(id.to_string());
            fs::create_dir(&node).expect("the folder is writable");
            let config = properties(id, *port, *controller, &voters.join(","), &node.join("data"));
            fs::write(node.join(CONFIG), config).expect("the folder is writable");
            let address = format!("127.0.0.1:{port}");
            nodes.push(Node { id, address, folder: node, process: None, frozen: false });
        }
        format(&nodes);
        let brokers: Vec<&str> = nodes.iter().map(|node| node.address.as_str()).collect();
        let kafka = Kafka::of_brokers(&brokers.join(","));
        let mut cluster = Self { kafka, nodes, _folder: Folder(folder) };
        cluster.heal();
        cluster
    }

    /// Returns it as the clients of the other tests take it.
    pub(crate) fn kafka(&self) -> &Kafka {
        &self.kafka
    }

    /// Returns the ids of all nodes.
    pub(crate) fn nodes(&self) -> Vec<NodeId> {
        self.nodes.iter().map(|node| node.id).collect()
    }

    /// Ends a node as `kill -9` does.
    pub(crate) fn kill(&mut self, id: NodeId) {
        self.node(id).process = None;
    }

    /// Asks a node to end (SIGTERM): it gives its leaderships away first.
    pub(crate) fn terminate(&mut self, id: NodeId) {
        let node = self.node(id);
        let mut process = node.process.take().expect("it runs");
        signal::kill(Pid::from_raw(process.id() as i32), Signal::SIGTERM).expect("it runs");
        wait_within(START_WITHIN, "the node ends", || process.child().try_wait().expect("a child"));
    }

    /// Stops a node in mid-air (SIGSTOP): its connections stay open, and nobody answers.
    pub(crate) fn freeze(&mut self, id: NodeId) {
        self.node(id).signal(Signal::SIGSTOP);
        self.node(id).frozen = true;
    }

    /// Lets a frozen node go on.
    pub(crate) fn thaw(&mut self, id: NodeId) {
        self.node(id).signal(Signal::SIGCONT);
        self.node(id).frozen = false;
    }

    /// Starts a node that is down, and waits until it has joined.
    pub(crate) fn start_again(&mut self, id: NodeId) {
        self.node(id).launch();
        self.wait_joined(&[id]);
    }

    /// Brings back every node, and waits until every replica of every partition is in sync.
    pub(crate) fn heal(&mut self) {
        for node in &mut self.nodes {
            if node.frozen {
                node.signal(Signal::SIGCONT);
                node.frozen = false;
            }
            if node.process.is_none() {
                node.launch();
            }
        }
        self.wait_joined(&self.nodes());
        wait_within(START_WITHIN, "every replica is in sync", || {
            let led = self.all_led()?;
            led.iter().all(|led| led.leader > 0 && led.in_sync == led.replicas).then_some(())
        });
    }

    /// Returns the log of a partition on a node's disk: its `.log` files in order.
    pub(crate) fn log_bytes(&self, id: NodeId, topic: &str, partition: i32) -> Vec<u8> {
        let node = self.nodes.iter().find(|node| node.id == id).expect("a node");
        let folder = node.folder.join(format!("data/{topic}-{partition}"));
        let files = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        let mut logs: Vec<_> =
            files.map(|file| file.expect("an entry").path()).filter(|path| kafka::is_log(path)).collect();
        logs.sort();
        logs.iter().map(|log| fs::read(log).expect("a log is readable")).collect::<Vec<_>>().concat()
    }

    fn wait_joined(&mut self, ids: &[NodeId]) {
        wait_within(START_WITHIN, "the nodes have joined", || {
            for node in &mut self.nodes {
                let ended = node.process.as_mut().and_then(|process| process.child().try_wait().ok()?);
                assert!(ended.is_none(), "node {} has ended:\n{}", node.id, node.log());
            }
            // Each by itself: one that others know of may not answer yet.
            let joined = |id: &NodeId| self.joined(*id).then_some(());
            ids.iter().map(joined).collect::<Option<Vec<()>>>()
        });
    }

    fn node(&mut self, id: NodeId) -> &mut Node {
        self.nodes.iter_mut().find(|node| node.id == id).expect("a node")
    }

    /// Returns the addresses of the nodes that may answer.
    fn answering(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.process.is_some() && !node.frozen)
    }
}

impl Node {
    fn launch(&mut self) {
        let log = File::options().create(true).append(true).open(self.folder.join(LOG)).expect("a writable folder");
        let config = self.folder.join(CONFIG);
        let mut java = kafka::java(&["-Xmx384m"], "kafka.Kafka", &[config.to_str().expect("UTF-8")]);
        java.stdin(Stdio::null()).stdout(log.try_clone().expect("a file")).stderr(log);
        self.process = Some(Process::start(&mut java).expect(NEEDED));
    }

    fn signal(&self, signal: Signal) {
        let process = self.process.as_ref().expect("it runs");
        signal::kill(Pid::from_raw(process.id() as i32), signal).expect("it runs");
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join(LOG)).unwrap_or_default()
    }
}

/// The names of a node's configuration and of what it prints, in its folder.
const CONFIG: &str = "server.properties";
const LOG: &str = "kafka.log";

/// Formats the data folders: one by Kafka's tool, the others as copies of it with ids of their own, since each run of the
/// tool costs two seconds.
fn format(nodes: &[Node]) {
    let data = |node: &Node| node.folder.join("data");
    let (first, others) = nodes.split_first().expect("a node");
    let config = first.folder.join(CONFIG);
    let id = format!("--cluster-id={}", kafka::new_id());
    kafka::tool("kafka.tools.StorageTool", &["format", &id, "-c", config.to_str().expect("UTF-8")]);
    for node in others {
        fs::create_dir(data(node)).expect("the folder is writable");
        for file in fs::read_dir(data(first)).expect("it was formatted") {
            let file = file.expect("an entry");
            let text = fs::read(file.path()).expect("a readable file");
            let own = if file.file_name() == "meta.properties" { own_ids(&text, node.id) } else { text };
            fs::write(data(node).join(file.file_name()), own).expect("the folder is writable");
        }
    }
}

fn own_ids(meta: &[u8], id: NodeId) -> Vec<u8> {
    let own = |line: &str| match line.split('=').next() {
        Some("node.id") => format!("node.id={id}\n"),
        Some("directory.id") => format!("directory.id={}\n", kafka::new_id()),
        _ => format!("{line}\n"),
    };
    String::from_utf8_lossy(meta).lines().map(own).collect::<String>().into_bytes()
}

/// Returns a free port below those that the system gives to outgoing connections: a node that is down for a moment must
/// find its port free when it returns.
fn steady_port() -> u16 {
    std::iter::repeat_with(|| fastrand::u16(10_000..32_000))
        .take(1000)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("this machine has a free port")
}

fn properties(id: NodeId, port: u16, controller: u16, voters: &str, data: &Path) -> String {
    format!(
        "process.roles=broker,controller
node.id={id}
controller.quorum.voters={voters}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
log.dirs={data}
auto.create.topics.enable=false
auto.leader.rebalance.enable=false
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
replica.fetch.wait.max.ms=200
replica.fetch.backoff.ms=200
num.network.threads=2
num.io.threads=4
background.threads=2
num.recovery.threads.per.data.dir=1
offsets.topic.replication.factor=3
offsets.topic.num.partitions=3
transaction.state.log.replication.factor=3
transaction.state.log.min.isr=2
transaction.state.log.num.partitions=3
share.coordinator.state.topic.replication.factor=3
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
log.initial.task.delay.ms=1000
log.cleaner.dedupe.buffer.size=8000000
",
        data = data.display()
    )
}
