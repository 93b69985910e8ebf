//! The demo: a Kafka cluster, a shop that writes to it and the agent that archives it, in one process.
//!
//! Nothing but the cluster is pretended: the same source, sink and loop run here as in `run`. Each run makes a backup
//! of its own, since each run's cluster is another one. It ends by itself; SIGINT and SIGTERM end it early, and what was
//! read is archived then too. The cluster goes on as long as somebody holds what a run has made, for what comes back into
//! it. When all is archived a consumer group reads a part of the orders, and a savepoint keeps where it stands. What it leaves
//! to others: the restore, which puts the group back, and the tables that follow (`cli::demo`).

pub mod cluster;
mod progress;
mod reader;
mod shop;

use std::collections::BTreeMap;
use std::time::Duration;

use self::cluster::Cluster;
use self::progress::Progress;
use self::reader::Stops;
pub use self::reader::{GROUP, ReadOn};
use self::shop::TOPICS;
use crate::archive::source;
use crate::archive::source::opened::Opened;
use crate::backup::{self, Mode, savepoints};
use crate::budget::Budget;
use crate::config;
use crate::error::{Error, Kind, Result};
use crate::kafka::client::groups::Choice;
use crate::kafka::source::{METADATA_INTERVAL, Selection, Start, TRANSACTION_PATIENCE};
use crate::pipeline::{self, Control};
use crate::store::Store;

/// A segment closes at this size: small enough that a partition gets several in the demo.
const ROLL_BYTES: u64 = 512 * 1024;

/// A segment closes at this age, so that the durable lag can be watched.
const ROLL_INTERVAL: Duration = Duration::from_secs(3);

/// The topic that the orders are restored to.
pub const RESTORED: &str = "orders-restored";

/// What is restored of a partition, at most, as it lies in the archive: the mock brokers keep 5 MiB of each, whatever their
/// topics say.
const KEPT_BYTES: u64 = 4 << 20;

/// The agent's own default.
const MEMORY_BYTES: usize = 256 << 20;

/// What is shown how.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the archive goes: a folder or a URL.
    pub path: String,
    /// How many records are written.
    pub records: u64,
    /// Over which time they are written.
    pub time: Duration,
}

/// What a run has made.
pub struct Made {
    /// The backup.
    pub backup_id: String,
    /// The cluster, which ends with this.
    pub cluster: Cluster,
    /// Where the group has stopped.
    stops: Stops,
}

impl Made {
    /// Has the group read on in what was restored of the orders; returns where, in each partition.
    ///
    /// # Errors
    /// Those of the cluster, among them that the group was not put back.
    pub async fn read_on(&self) -> Result<Vec<ReadOn>> {
        let (servers, stops) = (self.cluster.bootstrap_servers.clone(), self.stops.clone());
        blocking(move || reader::read_on(&servers, &stops)).await
    }
}

/// Runs what blocks where nobody waits for the thread.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::failed("the demo's group ended early").source(error))?
}

/// Writes records to the in-process cluster, archives them, and has a group read a part.
///
/// # Errors
/// [`Kind::Usage`] when the path cannot be written, [`Kind::Interrupted`] after a signal.
pub async fn run(options: Options) -> Result<Made> {
    let (stop, stopped) = backup::stop_on_signals()?;
    let backup_id = format!("demo-{}", jiff::Zoned::now().strftime("%Y%m%d-%H%M%S"));
    let cluster = Cluster::start(options.records, options.time)?;
    let pipeline = pipeline(&options, &backup_id, &cluster);
    let budget = Budget::new(pipeline.sink.memory_bytes);
    let (mut source, mut sink) = backup::start(&pipeline, Mode::Agent, &budget).await?;
    let mut progress = Progress::new(options.records, cluster.tally.clone(), stop);
    let control = Control { budget, stop: stopped, shutdown_timeout: pipeline.sink.shutdown_timeout };
    let outcome = pipeline::run(&mut source, &mut sink, &mut progress, control).await;
    let complete = progress.finish();
    outcome?;
    if !complete {
        return Err(Error::new(Kind::Interrupted, "the demo was interrupted")
            .with("backup", backup_id)
            .hint("what it had read is in the archive"));
    }
    let servers = cluster.bootstrap_servers.clone();
    let stops = blocking(move || reader::read_part(&servers)).await?;
    let _ = savepoints::create(&[pipeline], false).await?;
    Ok(Made { backup_id, cluster, stops })
}

/// Returns the configuration of a restore of the orders, as a file would have it.
///
/// # Errors
/// Those of the store.
pub async fn restore(made: &Made, path: &str) -> Result<String> {
    let archive = source::open(&Store::open(path)?, &made.backup_id).await?;
    let mut offsets = Vec::new();
    for timeline in source::timelines(&archive).await?.iter().filter(|timeline| &*timeline.topic == TOPICS[0].0) {
        for place in &timeline.places {
            let index = Opened::read(&archive, place).await?.index;
            let Some(held) = index.range() else { continue };
            let rows: Vec<_> = index.iter().collect();
            let mut bytes = 0;
            let kept = rows.iter().rev().take_while(|row| {
                bytes += row.length_bytes;
                bytes <= KEPT_BYTES
            });
            let first = kept.last().map_or(held.next, |row| row.range.first);
            if first > held.first {
                offsets.push(format!("{}-{}:{first}..{}", timeline.topic, place.partition.index, held.next));
            }
        }
    }
    let offsets = if offsets.is_empty() { String::new() } else { format!("offsets = {offsets:?}\n") };
    Ok(format!(
        "[[pipeline]]
name = \"{RESTORED}\"
[pipeline.source]
type = \"archive\"
path = {path:?}
backup_id = \"{}\"
topics = [\"{orders}\"]
{offsets}[pipeline.sink]
type = \"kafka\"
restore_id = \"{RESTORED}\"
accept = [\"active-groups\"]   # the mock brokers tell of no groups
topics = {{ {orders} = \"{RESTORED}\" }}
kafka = {{ \"bootstrap.servers\" = \"{servers}\", \"fetch.wait.max.ms\" = \"50\" }}
[pipeline.groups]
reset = true
groups = [\"{GROUP}\"]
",
        made.backup_id,
        orders = TOPICS[0].0,
        servers = made.cluster.bootstrap_servers,
    ))
}

/// Returns the pipeline as `run` would read it from a file.
fn pipeline(options: &Options, backup_id: &str, cluster: &Cluster) -> config::Pipeline {
    let kafka = [
        ("bootstrap.servers", cluster.bootstrap_servers.as_str()),
        // The mock brokers answer a waiting Fetch when its time is over, not when there is something new.
        ("fetch.wait.max.ms", "50"),
    ];
    config::Pipeline {
        name: "demo".to_owned(),
        max_bytes_per_second: None,
        objectives: config::Objectives::default(),
        source: config::Source {
            topics: Selection::named(shop::TOPICS.map(|(topic, _)| topic)),
            group_id: None,
            start: Start::Earliest,
            metadata_interval: METADATA_INTERVAL,
            transaction_patience: TRANSACTION_PATIENCE,
            // One is made when the group has read.
            savepoint_interval: None,
            // The mock brokers list no groups: only one that is named is asked for.
            groups: Choice::new(vec![GROUP.to_owned()], None, &[]).expect("there is no pattern"),
            kafka: BTreeMap::from(kafka.map(|(name, value)| (name.to_owned(), value.to_owned()))),
        },
        stages: Vec::new(),
        verify: config::Verify::default(),
        sink: config::Sink {
            backup_id: backup_id.to_owned(),
            path: options.path.clone(),
            roll_bytes: ROLL_BYTES,
            roll_interval: ROLL_INTERVAL,
            memory_bytes: MEMORY_BYTES,
            shutdown_timeout: Duration::from_secs(10),
        },
    }
}
