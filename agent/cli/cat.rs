//! `cat`: the records of a backup as JSON lines, as a read-committed consumer would get them.
//!
//! Order: topic by topic, partition by partition, by offset. Each batch's checksum is checked before it is opened.
//! At damage or a hole the partition's output ends, the others' go on, and the verb fails with what it met; offsets
//! outside the ones asked for are not looked at: the index says where to begin. Memory: the index, one chunk and one
//! decompressed batch.

mod dead_letters;
pub(super) mod line;

use std::collections::HashSet;
use std::fmt;

use bytes::Bytes;

use self::line::Line;
use super::table::Output;
use crate::archive::Archive;
use crate::archive::catalog::Row;
use crate::archive::index::Index;
use crate::archive::layout;
use crate::archive::source::chain::{Chain, Finding, Link, What};
use crate::archive::source::chunks::Segment;
use crate::archive::source::opened::Opened;
use crate::archive::source::way::{self, Branch, Part};
use crate::archive::source::{self, Fork, Place, Timeline};
use crate::batch::records::Records;
use crate::batch::{self, Header};
use crate::error::{Error, Kind, Result};
use crate::record::{Offset, OffsetRange, Partition, Timestamp, TopicId};

/// What the user typed after `cat`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where the archive is: a folder or a URL
    #[arg(long, value_name = "PATH|URL")]
    path: String,
    /// The name of the backup
    #[arg(long, value_name = "NAME", value_parser = super::backup_id)]
    backup_id: String,
    /// Only this topic, `topic@<topic-id>` for an older timeline of it; may be repeated
    #[arg(long, value_name = "TOPIC", allow_hyphen_values = true)]
    topic: Vec<String>,
    #[command(flatten)]
    choice: Choice,
    /// How to print: JSON, one record a line
    #[arg(long, short = 'o', value_enum, default_value_t)]
    format: Lines,
}

/// The one format of `cat`.
#[derive(Debug, Clone, Copy, Default, clap::ValueEnum)]
enum Lines {
    #[default]
    Json,
}

/// Which records of a topic.
#[derive(Debug, Default, clap::Args)]
struct Choice {
    /// Only this partition; may be repeated
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = whole::<i32>)]
    partition: Vec<i32>,
    /// Read this chain of a partition, as `describe` names it, instead of its newest fork: 3@7-150234 a fork with what
    /// it shares, 3 what the partition held before any fork; may be repeated
    #[arg(long, value_name = "CHAIN", value_parser = chain_name)]
    fork: Vec<(i32, Option<Fork>)>,
    /// The first offset to print
    #[arg(long, value_name = "OFFSET", allow_negative_numbers = true, value_parser = whole::<Offset>)]
    from_offset: Option<Offset>,
    /// The offset before which to stop (exclusive)
    #[arg(long, value_name = "OFFSET", allow_negative_numbers = true, value_parser = whole::<Offset>)]
    to_offset: Option<Offset>,
    /// Only records of this time or later: as 2026-11-22T10:00:00Z (RFC 3339), or in milliseconds since 1970
    #[arg(long, value_name = "TIME")]
    from_time: Option<Timestamp>,
    /// Only records before this time (exclusive): as 2026-11-22T11:00:00Z, or in milliseconds since 1970
    #[arg(long, value_name = "TIME")]
    to_time: Option<Timestamp>,
    /// Print the records of transactions of which nobody knows any more whether they were aborted, too
    #[arg(long)]
    undecided: bool,
    /// Print, instead of what is held, the records of the batches that a stage failed at and that were kept as they came
    #[arg(long)]
    dead_letters: bool,
    /// Print at most so many records, all partitions together
    #[arg(long, value_name = "COUNT", allow_negative_numbers = true, value_parser = whole::<u64>)]
    limit: Option<u64>,
}

/// Reads the name of a chain.
fn chain_name(text: &str) -> Result<(i32, Option<Fork>), String> {
    layout::parse_chain_name(text)
        .ok_or_else(|| "write it as `describe` does: 3@7-150234 for a fork of partition 3, 3 for itself".to_owned())
}

/// Reads a whole number that is not negative.
pub(super) fn whole<T: std::str::FromStr + Default + PartialOrd>(text: &str) -> Result<T, String> {
    let number = text.parse().ok().filter(|number| *number >= T::default());
    number.ok_or_else(|| "write a whole number from 0 on, and not too large a one".to_owned())
}

impl Choice {
    /// Refuses what no record can be: an end before its beginning.
    fn check(&self) -> Result<()> {
        let wrong = |what, from: &dyn fmt::Display, to: &dyn fmt::Display| {
            Err(Error::usage(format!("--from-{what} {from} is after --to-{what} {to}")))
        };
        match (self.from_offset.zip(self.to_offset), self.from_time.zip(self.to_time)) {
            (Some((from, to)), _) if from > to => wrong("offset", &from, &to),
            (_, Some((from, to))) if from > to => wrong("time", &from, &to),
            _ => Ok(()),
        }
    }
}

/// Prints the records.
///
/// # Errors
/// [`Kind::NoBackup`](crate::error::Kind::NoBackup); [`Kind::Usage`](crate::error::Kind::Usage) for a topic or
/// partition that is not there; the first damage or hole that was met, after everything else is printed.
pub async fn run(args: Args) -> Result<()> {
    let Lines::Json = args.format;
    args.choice.check()?;
    let root = super::open(&args.path)?;
    let archive = source::open(&root, &args.backup_id).await?;
    let chosen = choose(source::timelines(&archive).await?, &args.topic, &args.choice)?;
    print(&archive, &chosen, Printer::new(args.choice, Output::stdout()?)).await
}

/// Prints what was chosen.
async fn print(archive: &Archive, chosen: &[(Partition, Branch)], mut printer: Printer) -> Result<()> {
    let mut failed = None;
    for (partition, branch) in chosen {
        let printed = match printer.choice.dead_letters {
            false => printer.partition(archive, partition, *branch).await,
            true => printer.dead_letters(archive, partition, *branch).await,
        };
        match printed {
            Ok(()) if printer.is_done() => break,
            Ok(()) => {}
            // The output's own: the archive has nothing to do with it.
            Err(error) if printer.output.is_closed() => return Err(error),
            Err(error) => {
                let error = error.with("topic", &partition.topic).with("partition", partition.index);
                match &failed {
                    None => failed = Some(error),
                    Some(_) => tracing::error!("{error}"),
                }
            }
        }
    }
    printer.output.finish()?;
    match failed {
        Some(error) => Err(error),
        None if printer.left_out.is_empty() => Ok(()),
        None => {
            let what =
                "records were left out, of transactions of which nobody knows any more whether they were aborted";
            Err(Error::new(Kind::Partial, what)
                .with("transactions", printer.left_out.len())
                .hint("--undecided prints them; `repair --against-cluster` asks the source"))
        }
    }
}

/// Returns the partitions that were asked for, of the newest timelines where none is named, and which chain of each.
fn choose(timelines: Vec<Timeline>, topics: &[String], choice: &Choice) -> Result<Vec<(Partition, Branch)>> {
    let mut wanted = Vec::new();
    for topic in topics {
        let (name, topic_id) = match topic.split_once('@') {
            Some((name, topic_id)) => (name, Some(topic_id.parse::<TopicId>()?)),
            None => (topic.as_str(), None),
        };
        wanted.push((name, topic_id));
        if !timelines.iter().any(|timeline| is_wanted(timeline, name, topic_id)) {
            return Err(Error::usage(format!("the backup holds no topic `{topic}`"))
                .hint(format!("it holds: {}", held(&timelines))));
        }
    }
    let chosen = timelines.into_iter().filter(|timeline| {
        if wanted.is_empty() {
            timeline.is_newest
        } else {
            wanted.iter().any(|&(name, topic_id)| is_wanted(timeline, name, topic_id))
        }
    });
    let mut chosen: Vec<_> = chosen.collect();
    if let Some(at) = chosen.iter().position(|timeline| timeline.places.is_empty() && timeline.object.is_err()) {
        let Timeline { topic, object, .. } = chosen.swap_remove(at);
        return object.err().map_or(Ok(Vec::new()), |error| Err(error.with("topic", topic)));
    }
    let places: Vec<_> = chosen.into_iter().flat_map(|timeline| timeline.places).collect();
    if let Some(missing) = choice.partition.iter().find(|&&n| !places.iter().any(|place| place.partition.index == n)) {
        return Err(Error::usage(format!("none of the topics has a partition {missing}")));
    }
    for &(index, fork) in &choice.fork {
        if !places.iter().any(|place| (place.partition.index, place.fork) == (index, fork)) {
            let forks: Vec<_> = places.iter().filter(|place| place.fork.is_some()).map(Place::name).collect();
            let held = if forks.is_empty() { "no forks".to_owned() } else { forks.join(", ") };
            return Err(Error::usage(format!("none of the topics has `{}`", layout::chain_name(index, fork)))
                .hint(format!("there is: {held}")));
        }
    }
    let is_chosen = |index| choice.partition.is_empty() || choice.partition.contains(&index);
    let branch = |partition: &Partition, forks: &[Option<Fork>]| {
        let named = choice.fork.iter().find(|(index, fork)| *index == partition.index && forks.contains(fork));
        named.map_or(Branch::Newest, |&(_, fork)| fork.map_or(Branch::Own, Branch::Fork))
    };
    let of_one = places.chunk_by(|a, b| a.partition == b.partition);
    let of_one = of_one.filter(|chains| is_chosen(chains[0].partition.index));
    let chosen = of_one.map(|chains| {
        let forks: Vec<_> = chains.iter().map(|place| place.fork).collect();
        // Without forks there is nothing to look for.
        let branch = if forks == [None] { Branch::Own } else { branch(&chains[0].partition, &forks) };
        (chains[0].partition.clone(), branch)
    });
    Ok(chosen.collect())
}

/// Returns the names of what is held, the first few of many.
fn held(timelines: &[Timeline]) -> String {
    // More do not help a person to see the typo; `list` shows all.
    const SHOWN: usize = 10;
    let named = timelines.iter().take(SHOWN).map(|timeline| format!("{}@{}", timeline.topic, timeline.topic_id));
    let named = named.collect::<Vec<_>>().join(", ");
    match timelines.len() {
        0 => "none".to_owned(),
        1..=SHOWN => named,
        all => format!("{named} and {} more", all - SHOWN),
    }
}

fn is_wanted(timeline: &Timeline, name: &str, topic_id: Option<TopicId>) -> bool {
    &*timeline.topic == name && topic_id.map_or(timeline.is_newest, |topic_id| topic_id == timeline.topic_id)
}

struct Printer {
    choice: Choice,
    left: u64,
    /// The offset behind the last record that was printed of the chain in work.
    passed: Offset,
    output: Output,
    /// The line in work; kept for its memory.
    line: Vec<u8>,
    /// The undecided transactions that were left out: chain, producer, first offset.
    left_out: HashSet<(String, i64, Offset)>,
}

impl Printer {
    fn new(choice: Choice, output: Output) -> Self {
        Self {
            left: choice.limit.unwrap_or(u64::MAX),
            passed: 0,
            choice,
            output,
            line: Vec::new(),
            left_out: HashSet::new(),
        }
    }

    fn is_done(&self) -> bool {
        self.left == 0 || self.output.is_closed()
    }

    /// Prints a partition along the way of `branch`.
    async fn partition(&mut self, archive: &Archive, partition: &Partition, branch: Branch) -> Result<()> {
        for part in way::way(archive, partition, branch).await? {
            self.part(archive, &part).await?;
        }
        Ok(())
    }

    async fn part(&mut self, archive: &Archive, Part { place, range }: &Part) -> Result<()> {
        let from = self.choice.from_offset.unwrap_or(0).max(range.first);
        let to = self.choice.to_offset.unwrap_or(Offset::MAX).min(range.next);
        if from >= to {
            return Ok(());
        }
        let wanted = OffsetRange { first: from, next: to };
        let Opened { index, findings, reach, .. } = Opened::read(archive, place).await?;
        let harmful: Vec<_> = findings.iter().filter(|finding| is_harmful(finding, wanted)).collect();
        let mut reached = reach.next;
        if !harmful.is_empty() {
            // What has no place in the chain is told where a walk from its beginning comes to it.
            let start = start_before(&index, from).filter(|_| harmful.iter().all(|finding| finding.range.is_some()));
            reached = self.walk(archive, place, start, wanted).await?;
        } else if let Some(at) = self.indexed(archive, place, &index, wanted).await? {
            let left = OffsetRange { first: from.max(self.passed), next: to };
            reached = self.walk(archive, place, Some(at), left).await?;
        }
        if self.is_done() {
            return Ok(());
        }
        let reached = reached.unwrap_or(0);
        if range.next < Offset::MAX && reached < to {
            let missing = OffsetRange { first: reached.max(from), next: to };
            return Err(Error::new(Kind::Hole, format!("`{}` does not hold what a fork goes on from", place.name()))
                .with("offsets", missing)
                .hint(format!("--from-offset {} reads on behind it", range.next)));
        }
        Ok(())
    }

    /// Prints what the index knows, from the first segment that may hold something that is asked for; where a segment is
    /// not as the index says, returns where it begins.
    async fn indexed(
        &mut self,
        archive: &Archive,
        place: &Place,
        index: &Index,
        wanted: OffsetRange,
    ) -> Result<Option<Offset>> {
        self.passed = wanted.first;
        let by_time = self.choice.from_time.map_or(Some(0), |time| index.at_time(time));
        let Some((by_offset, by_time)) = index.at_offset(wanted.first).zip(by_time) else { return Ok(None) };
        for row in index.iter_from(by_offset.max(by_time)) {
            if row.range.first >= wanted.next || self.is_done() {
                break;
            }
            if self.is_outside(&row) {
                continue;
            }
            let first = row.range.first;
            let segment = match Segment::open(archive, place, &row).await {
                Err(error) if error.kind() == Kind::Damaged => return Ok(Some(first)),
                opened => opened?,
            };
            if let Err(error) = self.segment(&segment, place, wanted).await {
                if self.output.is_closed() {
                    return Err(error);
                }
                let name = layout::log(first);
                let listed = archive.store().list_from(&place.folder, &name).await?;
                let is_whole = listed.iter().any(|log| log.name == name && log.size_bytes == row.length_bytes);
                return if is_whole { Err(error) } else { Ok(Some(first)) };
            }
        }
        Ok(None)
    }

    /// Prints along the chain itself, where something is wrong with it, from the segment at `start` on or from its
    /// beginning; returns where it has come to.
    async fn walk(
        &mut self,
        archive: &Archive,
        place: &Place,
        start: Option<Offset>,
        wanted: OffsetRange,
    ) -> Result<Option<Offset>> {
        let mut chain = match start {
            Some(start) => Chain::open_from(archive, place, start).await?,
            None => Chain::open(archive, place).await?,
        };
        while let Some(link) = chain.next().await? {
            match link {
                _ if self.is_done() => break,
                Link::Finding(finding) => {
                    let Some(kind) = finding.what.exit_kind().filter(|_| is_harmful(&finding, wanted)) else {
                        continue;
                    };
                    let error = Error::new(kind, finding.to_string());
                    return Err(match finding.range {
                        Some(range) => error.hint(format!("--from-offset {} reads on behind it", range.next)),
                        None => error,
                    });
                }
                Link::Segment(segment) if segment.sidecar.range.first >= wanted.next => break,
                Link::Segment(segment) if segment.sidecar.range.next <= wanted.first => {}
                Link::Segment(segment) if self.is_outside(&Row::of(&segment.sidecar)) => {}
                Link::Segment(segment) => self.segment(&segment, place, wanted).await?,
            }
        }
        Ok(chain.reached())
    }

    /// Returns whether it is proven of a segment that no record's time is asked for.
    fn is_outside(&self, row: &Row) -> bool {
        (row.records == 0 && !row.has_undecided)
            || row.max_time.zip(self.choice.from_time).is_some_and(|(max, from)| max < from)
            || row.min_time.zip(self.choice.to_time).is_some_and(|(min, to)| min >= to)
    }

    async fn segment(&mut self, segment: &Segment, place: &Place, wanted: OffsetRange) -> Result<()> {
        let (from, to) = (wanted.first.max(segment.sidecar.range.first), wanted.next);
        let by_time = self.choice.from_time.map_or(0, |time| segment.position_of_time(time));
        let mut chunks = segment.chunks(segment.position_of(from).max(by_time));
        while let Some(chunk) = chunks.next().await? {
            for item in batch::walk(&chunk.bytes) {
                let (at, header) = item.map_err(|error| error.with("object", segment.describe()))?;
                if header.base_offset >= to || self.is_done() {
                    return Ok(());
                }
                let stale = self.choice.from_time.is_some_and(|from| header.max_timestamp < from);
                if header.next_offset() <= from || stale || !self.is_shown(segment, place, &header) {
                    continue;
                }
                let bytes = chunk.bytes.slice(at..at + header.total_bytes);
                self.batch(&header, &bytes, place, from, to).map_err(|error| match self.output.is_closed() {
                    true => error,
                    false => error.with("object", segment.describe()).with("position", chunk.position + at as u64),
                })?;
            }
        }
        Ok(())
    }

    /// Returns whether records of a batch are printed; says, once for each, which undecided transactions are not.
    fn is_shown(&mut self, segment: &Segment, place: &Place, header: &Header) -> bool {
        let Some(entry) = segment.undecided(header) else { return segment.is_visible(header) };
        if !self.choice.undecided && self.left_out.insert((place.folder.clone(), entry.producer_id, entry.first)) {
            let end = entry.last.unwrap_or(segment.sidecar.range.next - 1);
            tracing::warn!(
                topic = &*place.partition.topic,
                partition = place.name(),
                producer_id = entry.producer_id,
                offsets = format!("{} to {end}", entry.first),
                "leaving out a transaction: nobody knows any more whether it was aborted; --undecided prints it"
            );
        }
        self.choice.undecided
    }

    fn batch(&mut self, header: &Header, bytes: &Bytes, place: &Place, from: Offset, to: Offset) -> Result<()> {
        if !batch::crc_matches(bytes) {
            return Err(Error::damaged("record batch does not match its checksum")
                .with("offset", header.base_offset)
                .hint(format!("--from-offset {} reads on behind it", header.next_offset())));
        }
        for record in Records::of(header, bytes)? {
            let record = record?;
            let in_time = self.choice.from_time.is_none_or(|from| record.timestamp >= from)
                && self.choice.to_time.is_none_or(|to| record.timestamp < to);
            if self.left > 0 && record.offset >= from && record.offset < to && in_time {
                self.left -= 1;
                self.passed = record.offset + 1;
                self.line.clear();
                serde_json::to_writer(&mut self.line, &Line { partition: &place.partition, record: &record })
                    .expect("a vector takes it");
                self.line.push(b'\n');
                self.output.write(&self.line)?;
            }
        }
        Ok(())
    }
}

/// Returns whether a finding ends the output of these offsets. What a lost catalog says the sidecars say too.
fn is_harmful(finding: &Finding, wanted: OffsetRange) -> bool {
    let concerns = finding.range.is_none_or(|range| range.next > wanted.first && range.first < wanted.next);
    let of_records = !matches!(finding.what, What::DamagedCatalog | What::MissingCatalog | What::Undecided);
    finding.what.exit_kind().is_some() && concerns && of_records
}

/// Returns where the last segment ends that ends at or before `offset`.
fn start_before(index: &Index, offset: Offset) -> Option<Offset> {
    let before = index.at_offset(offset).unwrap_or(index.len()).checked_sub(1)?;
    index.get(before).map(|row| row.range.next)
}

#[cfg(test)]
mod tests;
