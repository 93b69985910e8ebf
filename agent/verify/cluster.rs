//! An archive compared with what its source still has: a pass of the pipeline whose sink compares instead of writing.
//!
//! The source reads each partition from where its newest chain begins, or from where the source's log does, up to where
//! the archive ends; beyond that nothing is compared. [`comparer`] is the sink, [`held`] the archive's side of it,
//! [`comparison`] what two sides come to.
//!
//! Every topic of which the source is to be asked and cannot, every partition that could not be read to the archive's
//! end, is [`What::Unchecked`]: only what was compared is sound. Memory: fetched bytes within a budget, and for
//! [`comparer::SIDE_BY_SIDE`] partitions a chunk of their segment.

pub(super) mod comparer;
mod comparison;
pub(super) mod held;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use self::comparer::{Comparer, Outcome, Sides};
use self::comparison::Comparison;
use self::held::Held;
use super::{Report, TopicReport};
use crate::archive::source::chain::{Finding, What};
use crate::archive::source::{self, Timeline};
use crate::archive::{Archive, layout};
use crate::budget::{Budget, RateLimit};
use crate::error::{Error, Result};
use crate::kafka::client::TopicMetadata;
use crate::kafka::source::{METADATA_INTERVAL, Options, Selection, Source, Start, TRANSACTION_PATIENCE};
use crate::kafka::{Client, Properties, client, code_name};
use crate::pipeline::{self, Batch, Control, Log, Observer, Payload, Topic};
use crate::record::{Offset, OffsetRange, Partition, TopicId};

/// Fetched bytes that wait to be compared. Half of it makes brokers wait for the archive's store more often; double is
/// memory without more speed.
const MEMORY_BYTES: usize = 64 << 20;

/// How long the pass may take to end when something broke.
const END_WITHIN: Duration = Duration::from_secs(10);

/// How often a line says how far the pass is.
const LINE_EVERY: Duration = Duration::from_secs(10);

const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;

/// How much was compared.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Compared {
    /// Partitions of which anything was.
    pub partitions: u64,
    /// Offsets of the archive that the source still covers.
    pub offsets: u64,
    /// Bytes that the source sent of them.
    pub bytes: u64,
}

/// Compares the archive with the cluster that `properties` lead to; what is found is added to `report`.
pub async fn compare(archive: &Archive, properties: Properties, report: &mut Report) {
    report.compared = Some(Compared::default());
    if let Err(error) = try_compare(archive, properties, report).await {
        let detail = format!("the source could not be compared with: {error}");
        let object = archive.store().describe("");
        report.findings.push(Finding { what: What::Unchecked, object, range: None, detail });
    }
}

async fn try_compare(archive: &Archive, properties: Properties, report: &mut Report) -> Result<()> {
    let client = Client::open(properties.clone(), client::OPEN_WITHIN).await?;
    let names: Vec<String> = report.topics.iter().map(|topic| topic.topic.clone()).collect();
    if names.is_empty() {
        return Ok(());
    }
    let metadata = client.metadata(Some(&names)).await?;
    match (&archive.backup().cluster_id, &metadata.cluster_id) {
        (Some(held), Some(met)) if held != met => {
            return Err(Error::usage(format!("the backup is of cluster {held}, this cluster is {met}")));
        }
        _ => {}
    }
    drop(client);
    let told: HashMap<&str, &TopicMetadata> =
        metadata.topics.iter().map(|topic| (topic.name.as_str(), topic)).collect();
    let mut wanted = BTreeMap::new();
    for timeline in source::timelines(archive).await? {
        let id = timeline.topic_id.to_string();
        let of_timeline = |topic: &&mut TopicReport| *topic.topic == *timeline.topic && topic.topic_id == id;
        let Some(topic) = report.topics.iter_mut().find(of_timeline) else { continue };
        match why_not(&timeline, told.get(&*timeline.topic).copied()) {
            None => wanted.extend(places(&timeline).map(|partition| (partition, None))),
            Some((what, detail)) => {
                let object = archive.store().describe(&layout::timeline_folder(&timeline.topic, timeline.topic_id));
                topic.findings.push((None, Finding { what, object, range: None, detail }));
            }
        }
    }
    if wanted.is_empty() {
        return Ok(());
    }
    pass(Arc::new(Newest(archive.clone())), properties, &mut wanted).await?;
    take_over(archive, report, wanted);
    Ok(())
}

/// Says why a timeline is not compared; `None` where the source has that very topic.
fn why_not(timeline: &Timeline, told: Option<&TopicMetadata>) -> Option<(What, String)> {
    let there = told.filter(|told| told.code != UNKNOWN_TOPIC_OR_PARTITION);
    match there {
        Some(told) if told.code == 0 && told.topic_id == timeline.topic_id => None,
        // The archive itself tells what became of it.
        _ if !timeline.is_newest => {
            Some((What::NoLongerThere, "the source has had another topic of that name since".to_owned()))
        }
        None => Some((What::Unchecked, "the source does not have the topic any more".to_owned())),
        Some(told) if told.code != 0 => {
            Some((What::Unchecked, format!("the source does not tell of the topic: {}", code_name(told.code))))
        }
        Some(told) => {
            let id = |id: TopicId| if id.is_none() { "none".to_owned() } else { id.to_string() };
            let (held, met) = (id(timeline.topic_id), id(told.topic_id));
            Some((What::Unchecked, format!("the source has another topic of that name: its id is {met}, not {held}")))
        }
    }
}

/// Returns the partitions of a timeline, each once.
fn places(timeline: &Timeline) -> impl Iterator<Item = Partition> + '_ {
    timeline.places.iter().filter(|place| place.fork.is_none()).map(|place| place.partition.clone())
}

/// What the source is compared with: the archive along the newest way of each partition.
struct Newest(Archive);

impl Sides for Newest {
    type Side = Comparison;

    async fn open(&self, partition: &Partition) -> Result<Option<Comparison>> {
        Comparison::begin(Held::open(&self.0, partition).await?).await
    }

    fn archive(&self) -> &Archive {
        &self.0
    }

    fn folder(&self, partition: &Partition) -> String {
        layout::partition_folder(partition)
    }

    fn role(&self) -> &'static str {
        "source"
    }
}

/// Reads what is wanted and compares it; what became of each partition is put beside it.
pub(super) async fn pass<S: Sides>(
    sides: Arc<S>,
    properties: Properties,
    wanted: &mut BTreeMap<Partition, Option<Outcome>>,
) -> Result<()> {
    let mut topics: Vec<&str> = wanted.keys().map(|partition| &*partition.topic).collect();
    topics.dedup();
    let budget = Budget::new(MEMORY_BYTES);
    let mut source = Source::open(Options {
        properties,
        topics: Selection::named(topics),
        group_id: None,
        start: Start::Earliest,
        metadata_interval: METADATA_INTERVAL,
        transaction_patience: TRANSACTION_PATIENCE,
        one_pass: true,
        budget: budget.clone(),
        rate: RateLimit::new(None),
    })
    .await?;
    let mut comparer = Comparer::new(sides.clone(), wanted.keys().cloned());
    let mut listener = Listener::new();
    // Nobody stops it: a signal ends the process.
    let (_stop, stopped) = tokio::sync::watch::channel(false);
    let control = Control { budget, stop: stopped, shutdown_timeout: END_WITHIN };
    let outcome = pipeline::run(&mut source, &mut comparer, &mut listener, control).await;
    source.close().await;
    let failure = outcome.err().map(|error| error.to_string());
    for (partition, outcome) in comparer.finish() {
        let _ = wanted.insert(partition, Some(outcome));
    }
    for (partition, outcome) in wanted.iter_mut() {
        let why = listener
            .reasons
            .get(&partition.to_string())
            .or(failure.as_ref())
            .map_or("nothing told why", String::as_str);
        let outcome = outcome.get_or_insert_with(|| Outcome::nothing(None));
        if let Some(left) = outcome.left {
            outcome.findings.push(unread(&*sides, partition, left, why));
        }
    }
    Ok(())
}

/// Returns the finding that a partition could not be read.
fn unread(sides: &impl Sides, partition: &Partition, left: Option<OffsetRange>, why: &str) -> Finding {
    let object = sides.archive().store().describe(&sides.folder(partition));
    let detail = format!("they could not be compared with the {}: {why}", sides.role());
    Finding { what: What::Unchecked, object, range: left, detail }
}

/// Adds what became of the partitions to the report.
fn take_over(archive: &Archive, report: &mut Report, outcomes: BTreeMap<Partition, Option<Outcome>>) {
    let mut sum = Compared::default();
    for (partition, outcome) in outcomes {
        let outcome = outcome.unwrap_or_else(|| Outcome::nothing(None));
        sum.partitions += u64::from(outcome.offsets > 0);
        sum.offsets += outcome.offsets;
        sum.bytes += outcome.bytes;
        let id = partition.topic_id.to_string();
        let of_partition = |topic: &&mut TopicReport| *topic.topic == *partition.topic && topic.topic_id == id;
        let name = layout::chain_name(partition.index, None);
        let found = outcome.findings.into_iter().map(|finding| (Some(name.clone()), finding));
        match report.topics.iter_mut().find(of_partition) {
            Some(topic) => topic.findings.extend(found),
            None => report.findings.extend(found.map(|(_, finding)| finding)),
        }
    }
    tracing::debug!(backup = archive.backup().backup_id, ?sum, "compared with the source");
    report.compared = Some(sum);
}

/// Keeps why partitions could not be read, by subject, and says now and then how far the pass is.
struct Listener {
    reasons: HashMap<String, String>,
    bytes: u64,
    line_at: Instant,
}

impl Listener {
    fn new() -> Self {
        Self { reasons: HashMap::new(), bytes: 0, line_at: Instant::now() + LINE_EVERY }
    }
}

impl Observer for Listener {
    fn received(&mut self, batch: &Batch) {
        if let Payload::Encoded { bytes, .. } = &batch.payload {
            self.bytes += bytes.len() as u64;
        }
    }
    fn topic(&mut self, _topic: &Topic) {}
    fn observed(&mut self, _partition: &Partition, _log: &Log) {}
    fn diverged(&mut self, partition: &Partition, end: Offset) {
        let reason = format!("its log ends at offset {end}, before what is compared begins");
        self.reasons.insert(partition.to_string(), reason);
    }
    fn opened(&mut self, _partition: &Partition, _next: Option<Offset>) {}
    fn durable(&mut self, _partition: &Partition, _next: Offset, _records: u64, _bytes: u64, _took: Duration) {}
    fn dropped(&mut self, _partition: &Partition, _range: OffsetRange) {}
    fn closed(&mut self, _partition: &Partition) {}
    fn trouble(&mut self, subject: &str, reason: Option<&str>) {
        // Kept when it is right again: what was not read in the meantime stays unread.
        if let Some(reason) = reason {
            tracing::warn!("{subject}: {reason}");
            self.reasons.insert(subject.to_owned(), reason.to_owned());
        }
    }
    fn tick(&mut self) {
        if Instant::now() >= self.line_at {
            self.line_at = Instant::now() + LINE_EVERY;
            tracing::info!("comparing: {} MiB read", self.bytes >> 20);
        }
    }
}

#[cfg(test)]
mod tests;
