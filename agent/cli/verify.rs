//! `verify`: reads every byte of a backup and says whether it is what was written.
//!
//! Looked at: the topic objects, each chain from its beginning (holes, sidecars), each batch's checksum, each log's
//! digest, each sidecar against its log, and whether each fork has a parent that holds what lies before it. Partitions are checked side by side, one per processor; memory is a few
//! MiB for each. What could not be read is a finding too: not to have looked is no success.

use serde::Serialize;
use tokio::task::JoinSet;

use super::table::{self, Output, Page};
use super::{ArchiveArgs, Format};
use crate::archive::Archive;
use crate::archive::source::audit::audit;
use crate::archive::source::chain::{self, Chain, Finding, Link, What};
use crate::archive::source::way::{self, Reach};
use crate::archive::source::{self, Place, Timeline};
use crate::error::{Error, Result};

/// What the user typed after `verify`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 sound (forks, and work that a writer left unfinished at the end of a chain, included), \
    4 damage, 5 a hole that nothing declares, 1 something could not be looked at, 10 no such backup"
)]
pub struct Args {
    #[command(flatten)]
    pub(super) archive: ArchiveArgs,
}

/// Checks the backup.
///
/// # Errors
/// [`Kind::NoBackup`](crate::error::Kind::NoBackup); after printing, the kind of the worst finding.
pub async fn run(args: Args) -> Result<()> {
    let root = super::open(&args.archive.path)?;
    let archive = source::open(&root, &args.archive.backup_id).await?;
    let report = check(&archive).await?;
    if report.topics.is_empty() {
        tracing::warn!("the backup `{}` holds no topic", report.backup_id);
    }
    let mut output = Output::stdout()?;
    match args.archive.format {
        Format::Table => output.write(page(&report).text().as_bytes())?,
        Format::Csv => output.write(lines(&report).as_bytes())?,
        Format::Json => output.json(&data(&report))?,
    }
    output.finish()?;
    chain::verdict(&report.backup_id, report.topics.iter().flat_map(|topic| &topic.findings).map(|(_, found)| found))
}

/// What `verify` found.
struct Report {
    backup_id: String,
    topics: Vec<TopicReport>,
}

/// What it found of one timeline.
struct TopicReport {
    topic: String,
    topic_id: String,
    newest: bool,
    partitions: u64,
    count: Count,
    /// With the partition, where it is one's.
    findings: Vec<(Option<String>, Finding)>,
}

/// What was looked at.
#[derive(Debug, Default, Clone, Copy, Serialize)]
struct Count {
    segments: u64,
    batches: u64,
    records: u64,
    bytes: u64,
}

impl TopicReport {
    fn new(archive: &Archive, timeline: &Timeline) -> Self {
        Self {
            topic: timeline.topic.to_string(),
            topic_id: timeline.topic_id.to_string(),
            newest: timeline.is_newest,
            partitions: timeline.places.iter().filter(|place| place.fork.is_none()).count() as u64,
            count: Count::default(),
            findings: Finding::of_object(archive, timeline).map(|finding| (None, finding)).into_iter().collect(),
        }
    }

    fn add(&mut self, place: &Place, count: Count, findings: Vec<Finding>) {
        self.count.segments += count.segments;
        self.count.batches += count.batches;
        self.count.records += count.records;
        self.count.bytes += count.bytes;
        let name = place.name();
        self.findings.extend(findings.into_iter().map(|finding| (Some(name.clone()), finding)));
    }

    /// Returns the topic's result in a word or two: the worst of what was found.
    fn result(&self) -> String {
        let worst_first = [
            What::DamagedLog,
            What::NoSidecar,
            What::DamagedSidecar,
            What::DamagedObject,
            What::Hole,
            What::Unchecked,
            What::Unfinished,
            What::EarlyBegin,
            What::Fork,
        ];
        let count = |what: What| self.findings.iter().filter(|(_, finding)| finding.what == what).count() as u64;
        let told: Vec<_> =
            worst_first.into_iter().filter(|what| count(*what) > 0).map(|what| (what, count(what))).collect();
        match told.as_slice() {
            [] => "sound".to_owned(),
            told => {
                let sound = told.iter().all(|(what, _)| what.exit_kind().is_none());
                let told = told.iter().map(|&(what, n)| counted(what, n));
                let words = sound.then(|| "sound".to_owned()).into_iter().chain(told);
                words.collect::<Vec<_>>().join(", ")
            }
        }
    }
}

/// Returns how many findings there are: `1 hole`, `2 holes`, `3 unchecked`.
fn counted(what: What, count: u64) -> String {
    match what {
        What::NoSidecar => format!("{} without a sidecar", table::counted(count, "segment")),
        What::Unfinished => what.name().to_owned(),
        What::Unchecked | What::Debris => format!("{count} {}", what.name()),
        What::EarlyBegin | What::Fork | What::Hole | What::DamagedSidecar | What::DamagedLog | What::DamagedObject => {
            table::counted(count, what.name())
        }
    }
}

/// Checks every partition, one per processor at a time; the report is in the order of the timelines.
async fn check(archive: &Archive) -> Result<Report> {
    let timelines = source::timelines(archive).await?;
    let mut topics: Vec<_> = timelines.iter().map(|timeline| TopicReport::new(archive, timeline)).collect();
    let mut waiting = timelines
        .into_iter()
        .enumerate()
        .flat_map(|(topic, timeline)| timeline.places.into_iter().map(move |place| (topic, place)))
        .enumerate();
    let side_by_side = std::thread::available_parallelism().map_or(1, usize::from);
    let mut running = JoinSet::new();
    let mut done = Vec::new();
    loop {
        while running.len() < side_by_side
            && let Some((n, (topic, place))) = waiting.next()
        {
            let archive = archive.clone();
            let _ = running.spawn(async move {
                let checked = check_place(&archive, &place).await;
                (n, topic, place, checked)
            });
        }
        match running.join_next().await {
            Some(Ok(checked)) => done.push(checked),
            Some(Err(error)) => return Err(Error::failed("a check ended early").source(error)),
            None => break,
        }
    }
    done.sort_unstable_by_key(|&(n, ..)| n);
    let mut of_topics: Vec<Vec<(Place, Checked)>> = topics.iter().map(|_| Vec::new()).collect();
    for (_, topic, place, checked) in done {
        of_topics[topic].push((place, checked));
    }
    for (topic, mut places) in topics.iter_mut().zip(of_topics) {
        check_forks(archive, &mut places);
        for (place, checked) in places {
            topic.add(&place, checked.count, checked.findings);
        }
    }
    Ok(Report { backup_id: archive.backup().backup_id.clone(), topics })
}

/// What was found of one chain.
#[derive(Default)]
struct Checked {
    count: Count,
    findings: Vec<Finding>,
    reach: Reach,
}

/// Says which forks there are, and finds those whose parent does not hold what lies before them.
fn check_forks(archive: &Archive, places: &mut [(Place, Checked)]) {
    let chains: Vec<_> = places.iter().map(|(place, checked)| (place, checked.reach)).collect();
    for (at, left, missing) in way::forks(archive, &chains) {
        let (place, checked) = &mut places[at];
        let object = archive.store().describe(&place.folder);
        let (range, detail) = (Some(left.lost).filter(|lost| !lost.is_empty()), left.describe(place));
        checked.findings.extend(missing);
        checked.findings.push(Finding { what: What::Fork, object, range, detail });
    }
}

/// Checks one chain; what could not be read ends it with a finding.
async fn check_place(archive: &Archive, place: &Place) -> Checked {
    let mut checked = Checked::default();
    if let Err(error) = walk(archive, place, &mut checked).await {
        checked.findings.push(Finding::of_end(archive, place, &error));
    }
    checked
}

async fn walk(archive: &Archive, place: &Place, checked: &mut Checked) -> Result<()> {
    let mut chain = Chain::open(archive, place).await?;
    checked.reach.is_held = chain.size().0 > 0;
    while let Some(link) = chain.next().await? {
        match link {
            Link::Finding(finding) => checked.findings.push(finding),
            Link::Segment(segment) => {
                let audit = audit(&segment).await?;
                checked.count.segments += 1;
                checked.count.batches += audit.batches;
                checked.count.records += audit.records;
                checked.count.bytes += segment.sidecar.length_bytes;
                checked.findings.extend(audit.findings);
            }
        }
        checked.reach.next = chain.reached();
    }
    checked.reach = Reach { next: chain.reached(), is_whole: true, ..checked.reach };
    Ok(())
}

fn page(report: &Report) -> Page {
    let mut page = Page::new(format_args!("Verify: {}", report.backup_id));
    let row = |topic: &TopicReport| {
        let older = if topic.newest { "" } else { "@" };
        let id = if topic.newest { "" } else { &topic.topic_id };
        vec![
            format!("{}{older}{id}", topic.topic),
            topic.partitions.to_string(),
            topic.count.segments.to_string(),
            topic.count.batches.to_string(),
            topic.count.records.to_string(),
            table::size(topic.count.bytes),
            topic.result(),
        ]
    };
    let rows: Vec<_> = report.topics.iter().map(row).collect();
    page.table(&["Topic", "Partitions", "Segments", "Batches", "Records", "Bytes", "Result"], &rows);
    for topic in &report.topics {
        for (partition, finding) in &topic.findings {
            let partition = partition.as_ref().map(|name| format!(" partition {name}:")).unwrap_or_default();
            page.line(format_args!("{}:{partition} {finding}", topic.topic));
        }
    }
    page
}

/// The report as data; its JSON is stable.
#[derive(Debug, Serialize)]
struct Data {
    backup_id: String,
    sound: bool,
    topics: Vec<TopicData>,
    findings: Vec<FindingData>,
}

#[derive(Debug, Serialize)]
struct TopicData {
    topic: String,
    topic_id: String,
    newest: bool,
    partitions: u64,
    #[serde(flatten)]
    count: Count,
    result: String,
}

#[derive(Debug, Serialize)]
struct FindingData {
    topic: String,
    topic_id: String,
    partition: Option<String>,
    what: &'static str,
    first_offset: Option<i64>,
    next_offset: Option<i64>,
    object: String,
    detail: String,
}

fn data(report: &Report) -> Data {
    let topic = |topic: &TopicReport| TopicData {
        topic: topic.topic.clone(),
        topic_id: topic.topic_id.clone(),
        newest: topic.newest,
        partitions: topic.partitions,
        count: topic.count,
        result: topic.result(),
    };
    let findings = findings(report);
    let harms = |(_, finding): &(Option<String>, Finding)| finding.what.exit_kind().is_some();
    Data {
        backup_id: report.backup_id.clone(),
        sound: !report.topics.iter().flat_map(|topic| &topic.findings).any(harms),
        topics: report.topics.iter().map(topic).collect(),
        findings,
    }
}

fn findings(report: &Report) -> Vec<FindingData> {
    let mut findings = Vec::new();
    for topic in &report.topics {
        findings.extend(topic.findings.iter().map(|(partition, finding)| FindingData {
            topic: topic.topic.clone(),
            topic_id: topic.topic_id.clone(),
            partition: partition.clone(),
            what: finding.what.name(),
            first_offset: finding.range.map(|range| range.first),
            next_offset: finding.range.map(|range| range.next),
            object: finding.object.clone(),
            detail: finding.detail.clone(),
        }));
    }
    findings
}

/// Returns the findings as CSV: only the head where the archive is sound.
fn lines(report: &Report) -> String {
    let mut lines = "topic,topic_id,partition,finding,first_offset,next_offset,object,detail\n".to_owned();
    let offset = |offset: Option<i64>| offset.map(|offset| offset.to_string()).unwrap_or_default();
    for finding in findings(report) {
        lines.push_str(&table::csv(&[
            finding.topic,
            finding.topic_id,
            finding.partition.unwrap_or_default(),
            finding.what.to_owned(),
            offset(finding.first_offset),
            offset(finding.next_offset),
            finding.object,
            finding.detail,
        ]));
    }
    lines
}

#[cfg(test)]
mod tests;
