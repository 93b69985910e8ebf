//! The demo: a Kafka cluster, a shop that writes to it and the agent that archives it, in one process.
//!
//! Nothing but the cluster is pretended: the same source, sink and loop run here as in `run`. Each run makes a backup
//! of its own, since each run's cluster is another one. It ends by itself; SIGINT and SIGTERM end it early, and what was
//! read is archived then too. What it leaves to others: the tables that follow (`cli::demo`).

mod cluster;
mod progress;
mod shop;

use std::collections::BTreeMap;
use std::time::Duration;

use self::cluster::Cluster;
use self::progress::Progress;
use crate::backup::{self, Mode};
use crate::budget::Budget;
use crate::config;
use crate::error::{Error, Kind, Result};
use crate::kafka::client::groups::Choice;
use crate::kafka::source::{METADATA_INTERVAL, Selection, Start, TRANSACTION_PATIENCE};
use crate::pipeline::{self, Control};

/// A segment closes at this size: small enough that a partition gets several in the demo.
const ROLL_BYTES: u64 = 512 * 1024;

/// A segment closes at this age, so that the durable lag can be watched.
const ROLL_INTERVAL: Duration = Duration::from_secs(3);

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

/// Writes records to the in-process cluster, archives them, and returns the backup's id.
///
/// # Errors
/// [`Kind::Usage`] when the path cannot be written, [`Kind::Interrupted`] after a signal.
pub async fn run(options: Options) -> Result<String> {
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
    if complete {
        return Ok(backup_id);
    }
    Err(Error::new(Kind::Interrupted, "the demo was interrupted")
        .with("backup", backup_id)
        .hint("what it had read is in the archive"))
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
        source: config::Source {
            topics: Selection::named(shop::TOPICS.map(|(topic, _)| topic)),
            group_id: None,
            start: Start::Earliest,
            metadata_interval: METADATA_INTERVAL,
            transaction_patience: TRANSACTION_PATIENCE,
            // The mock brokers list no groups, and the demo has none.
            savepoint_interval: None,
            groups: Choice::default(),
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
