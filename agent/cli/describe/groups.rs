//! `describe --groups`: the consumer groups of a backup as a savepoint has them, and how far each is behind what is archived.
//!
//! How many records lie behind a committed offset the index tells, but for the segment that it is in, if that has holes: then
//! there are at most so many. Memory: the savepoint, and the indexes of a few partitions at a time.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use crate::archive::Archive;
use crate::archive::index::Index;
use crate::archive::savepoint::{Committed, Group, Name, SHARE, State, Topic};
use crate::archive::source::opened::Opened;
use crate::archive::source::summary::AT_ONCE;
use crate::archive::source::{Place, side_by_side};
use crate::cli::Format;
use crate::cli::table::{self, Output, Page};
use crate::error::{Error, Result};
use crate::groups::positions::savepoint::{self, Which};
use crate::record::{Offset, Partition, TopicId};

/// Prints the groups of the newest savepoint, or of that of a name or a time.
///
/// # Errors
/// [`Kind::Usage`](crate::error::Kind::Usage) for a savepoint that is not there; [`Kind::Failed`](crate::error::Kind::Failed)
/// where there is none at all; [`Kind::Damaged`](crate::error::Kind::Damaged) when it cannot be read.
pub(super) async fn show(archive: &Archive, wanted: Option<&str>, format: Format, output: &mut Output) -> Result<()> {
    let name = find(archive, wanted).await?;
    let gone = || Error::failed(format!("savepoint {name} was pruned meanwhile")).hint("ask again");
    let (taken, state) = archive.resolved_savepoint(name).await?.ok_or_else(gone)?;
    let behind = Behind::of(archive, &state).await?;
    let groups = Groups {
        backup_id: archive.backup().backup_id.clone(),
        savepoint: name,
        taken_at: taken.taken_at,
        groups_unread: state.groups_unread.clone(),
        groups: state.groups.iter().map(|group| GroupData::new(group, &behind)).collect(),
    };
    match format {
        Format::Json => output.json(&groups),
        Format::Csv => output.write(groups.csv().as_bytes()),
        Format::Table => output.write(groups.page().text().as_bytes()),
    }
}

/// Finds the savepoint that is meant.
async fn find(archive: &Archive, wanted: Option<&str>) -> Result<Name> {
    match wanted.map(|text| (text, text.parse())) {
        None => savepoint::find(archive, Which::Newest).await,
        Some((_, Ok(which))) => savepoint::find(archive, which).await,
        // What is neither a name nor a time is no savepoint either.
        Some((text, Err(_))) => Err(savepoint::missing(text, savepoint::find(archive, Which::Newest).await?)),
    }
}

/// So many records are archived that a group has not read; at most so many where that is not exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Unread {
    records: u64,
    is_exact: bool,
}

impl Unread {
    /// Counts the records at `committed` and behind.
    fn of(index: &Index, committed: Offset) -> Self {
        let Some(at) = index.at_offset(committed) else { return Self { records: 0, is_exact: true } };
        let rest: u64 = index.iter_from(at + 1).map(|row| row.records).sum();
        let Some(row) = index.get(at) else { return Self { records: rest, is_exact: true } };
        let Some((first, last)) = row.first_record.zip(row.last_record).filter(|(_, last)| committed <= *last) else {
            return Self { records: rest, is_exact: true };
        };
        let offsets = (last + 1 - committed.max(first)).unsigned_abs();
        // Without holes each offset is a record; from the first one on, all are counted.
        let is_exact = committed <= first || row.records == (last + 1 - first).unsigned_abs();
        Self { records: rest + offsets.min(row.records), is_exact }
    }
}

/// What groups have not read, by partition and committed offset.
#[derive(Debug, Default)]
struct Behind(HashMap<(Partition, Offset), Unread>);

impl Behind {
    /// Looks at the partitions of which groups have committed offsets.
    ///
    /// # Errors
    /// Those of the store.
    async fn of(archive: &Archive, state: &State) -> Result<Self> {
        let mut wanted: BTreeMap<Partition, Vec<Offset>> = BTreeMap::new();
        for topic in state.groups.iter().flat_map(|group| &group.offsets) {
            for Committed(index, offset, _) in &topic.partitions {
                wanted.entry(partition(topic, *index)).or_default().push(*offset);
            }
        }
        let told = side_by_side::each(wanted, AT_ONCE, |(partition, offsets)| {
            let archive = archive.clone();
            async move { unread(&archive, partition, offsets).await }
        });
        let mut behind = Self::default();
        for told in told.await? {
            behind.0.extend(told?);
        }
        Ok(behind)
    }

    fn get(&self, partition: Partition, committed: Offset) -> Option<Unread> {
        self.0.get(&(partition, committed)).copied()
    }
}

/// Counts what lies behind committed offsets of one partition; nothing where the backup does not hold it.
async fn unread(
    archive: &Archive,
    partition: Partition,
    offsets: Vec<Offset>,
) -> Result<Vec<((Partition, Offset), Unread)>> {
    let mut unread = Vec::new();
    let newest = archive.forks(&partition).await?.last().copied();
    let opened = Opened::read(archive, &Place::new(partition.clone(), newest)).await?;
    let Some(held) = opened.index.range() else { return Ok(unread) };
    for offset in offsets {
        let told = match newest {
            // What lies before a fork is in other chains: the offsets are as many as there can be.
            Some(_) if offset < held.first => {
                let records = (held.next - offset).unsigned_abs();
                Unread { records, is_exact: false }
            }
            _ => Unread::of(&opened.index, offset),
        };
        unread.push(((partition.clone(), offset), told));
    }
    Ok(unread)
}

fn partition<P>(topic: &Topic<P>, index: i32) -> Partition {
    let topic_id = topic.topic_id.parse().unwrap_or(TopicId::NONE);
    Partition { topic: topic.topic.as_str().into(), topic_id, index }
}

/// The groups as data; their JSON is stable.
#[derive(Debug, Serialize)]
struct Groups {
    backup_id: String,
    savepoint: Name,
    taken_at: String,
    /// Why groups may be missing.
    groups_unread: Option<String>,
    groups: Vec<GroupData>,
}

#[derive(Debug, Serialize)]
struct GroupData {
    group: String,
    #[serde(rename = "type")]
    kind: String,
    state: String,
    /// Why its offsets, or some of them, could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    offsets: Vec<OffsetData>,
}

#[derive(Debug, Serialize)]
struct OffsetData {
    topic: String,
    topic_id: String,
    partition: i32,
    /// The next record to read.
    committed_offset: Offset,
    metadata: String,
    metadata_bytes: usize,
    /// Archived records that the group has not read; `None` where the backup does not hold the partition.
    behind_records: Option<u64>,
    /// Whether there are exactly so many, or at most.
    behind_exact: Option<bool>,
}

impl GroupData {
    fn new(group: &Group, behind: &Behind) -> Self {
        let offsets = group.offsets.iter().flat_map(|topic| {
            topic.partitions.iter().map(|Committed(index, offset, metadata)| {
                let unread = behind.get(partition(topic, *index), *offset);
                OffsetData {
                    topic: topic.topic.clone(),
                    topic_id: topic.topic_id.clone(),
                    partition: *index,
                    committed_offset: *offset,
                    metadata: metadata.clone(),
                    metadata_bytes: metadata.len(),
                    behind_records: unread.map(|unread| unread.records),
                    behind_exact: unread.map(|unread| unread.is_exact),
                }
            })
        });
        Self {
            group: group.group.clone(),
            kind: group.kind.clone(),
            state: group.state.clone(),
            error: group.error.clone(),
            offsets: offsets.collect(),
        }
    }
}

impl OffsetData {
    fn row(&self) -> Vec<String> {
        let most = if self.behind_exact == Some(false) { "at most " } else { "" };
        vec![
            self.topic.clone(),
            self.partition.to_string(),
            self.committed_offset.to_string(),
            table::or_dash(self.behind_records.map(|records| format!("{most}{records}"))),
            match self.metadata_bytes {
                0 => "-".to_owned(),
                bytes => table::size(bytes as u64),
            },
        ]
    }
}

impl Groups {
    fn page(&self) -> Page {
        let mut page = Page::new(format_args!("Consumer Groups: {}", self.backup_id));
        page.line(format_args!("Savepoint: {}, taken {}", self.savepoint, self.taken_at));
        if let Some(why) = &self.groups_unread {
            page.line(format_args!("Groups unread: {why}"));
        }
        if self.groups.is_empty() {
            page.line("No groups");
        }
        for group in &self.groups {
            page.line(format_args!("\nConsumer Group: {} ({}, {})", group.group, group.kind, group.state));
            if !group.offsets.is_empty() {
                let rows: Vec<_> = group.offsets.iter().map(OffsetData::row).collect();
                let heads = [("Topic", 9), ("Partition", 9), ("Committed", 9), ("Behind", 7), ("Metadata", 8)];
                page.table_of(&heads, &rows);
            } else if group.kind == SHARE {
                page.line("A share group has no committed offset of a partition: it is named, and not restored");
            } else if group.error.is_none() {
                page.line("It has committed nothing on topics of the backup");
            }
            if let Some(error) = &group.error {
                page.line(format_args!("Unread: {error}"));
            }
        }
        page
    }

    fn csv(&self) -> String {
        let mut lines = "group,type,state,topic,topic_id,partition,committed_offset,metadata_bytes,behind_records,\
                         behind_exact,error\n"
            .to_owned();
        for group in &self.groups {
            let own = [group.group.clone(), group.kind.clone(), group.state.clone()];
            let error = group.error.clone().unwrap_or_default();
            for of in &group.offsets {
                let behind = of.behind_records.map(|records| records.to_string()).unwrap_or_default();
                let cells = [
                    of.topic.clone(),
                    of.topic_id.clone(),
                    of.partition.to_string(),
                    of.committed_offset.to_string(),
                    of.metadata_bytes.to_string(),
                    behind,
                    of.behind_exact.map(|is_exact| is_exact.to_string()).unwrap_or_default(),
                    error.clone(),
                ];
                lines.push_str(&table::csv(&[&own[..], &cells].concat()));
            }
            if group.offsets.is_empty() {
                let cells = [vec![String::new(); 7], vec![error]].concat();
                lines.push_str(&table::csv(&[&own[..], &cells].concat()));
            }
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::savepoint::Savepoint;
    use crate::archive::savepoint::tests::name;
    use crate::archive::sidecar::Kind;
    use crate::archive::source::Fork;
    use crate::archive::source::tests::{Fixture, three};
    use crate::cli::table::tests::Written;

    fn on(topic: &str, partitions: Vec<Committed>) -> Vec<Topic<Committed>> {
        vec![Topic { topic: topic.to_owned(), topic_id: "_".to_owned(), partitions }]
    }

    fn group(name: &str, kind: &str, offsets: Vec<Topic<Committed>>) -> Group {
        let (group, kind, state) = (name.to_owned(), kind.to_owned(), "Empty".to_owned());
        Group { group, kind, state, error: None, offsets }
    }

    async fn keep(fixture: &Fixture, at: &str, groups: Vec<Group>, unread: Option<&str>) {
        let state = State { groups, groups_unread: unread.map(str::to_owned), ..State::default() };
        fixture.savepoint(&Savepoint::full(name(at), name(at).time(), None, state)).await;
    }

    async fn shown(fixture: &Fixture, savepoint: Option<&str>, format: Format) -> Result<String> {
        let (mut output, written) = Written::output();
        show(&fixture.archive, savepoint, format, &mut output).await?;
        output.finish()?;
        Ok(written.text())
    }

    #[tokio::test]
    async fn groups_are_shown_with_what_they_have_not_read() {
        let fixture = three().await;
        let offsets = vec![Committed(0, 12, "a note".to_owned()), Committed(5, 3, String::new())];
        let mut lost = group("lost", "classic", Vec::new());
        lost.error = Some("GROUP_AUTHORIZATION_FAILED".to_owned());
        let groups = vec![group("app", "consumer", on("t", offsets)), lost, group("shared", SHARE, Vec::new())];
        keep(&fixture, "20261122T100000.000Z", groups, Some("forbidden")).await;
        let page = shown(&fixture, None, Format::Table).await.expect("shown");
        let lines: Vec<_> = page.lines().collect();
        assert_eq!(lines[0], "Consumer Groups: b");
        assert!(lines[2].starts_with("Savepoint: 20261122T100000.000Z, taken 2026-11-22T10:00:00"), "{page}");
        assert_eq!(&lines[3..6], ["Groups unread: forbidden", "", "Consumer Group: app (consumer, Empty)"]);
        assert_eq!(lines[7], "Topic      Partition  Committed  Behind   Metadata");
        assert_eq!(lines[9], "t          0          12         8        6 B");
        assert_eq!(lines[10], "t          5          3          -        -");
        assert_eq!(lines[13], "Unread: GROUP_AUTHORIZATION_FAILED");
        assert!(lines[16].starts_with("A share group has no committed offset"), "{page}");
        let csv = shown(&fixture, None, Format::Csv).await.expect("shown");
        assert_eq!(csv.lines().nth(1), Some("app,consumer,Empty,t,_,0,12,6,8,true,"));
        assert_eq!(csv.lines().nth(3), Some("lost,classic,Empty,,,,,,,,GROUP_AUTHORIZATION_FAILED"));
        let json = shown(&fixture, None, Format::Json).await.expect("shown");
        let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        let first = &json["groups"][0]["offsets"][0];
        assert_eq!((&first["committed_offset"], &first["behind_records"]), (&12.into(), &8.into()));
        assert_eq!(json["groups_unread"], "forbidden");
    }

    #[tokio::test]
    async fn the_savepoint_is_the_newest_or_that_of_a_name_or_a_time() {
        let fixture = three().await;
        let none = shown(&fixture, None, Format::Table).await.expect_err("there is none");
        assert!(none.exit_code() == 1 && none.to_string().contains("`savepoints create"), "{none}");
        for (at, committed) in [("20261122T100000.000Z", 5), ("20261122T110000.000Z", 10)] {
            let offsets = on("t", vec![Committed(0, committed, String::new())]);
            keep(&fixture, at, vec![group("app", "classic", offsets)], None).await;
        }
        for (wanted, behind) in [
            (None, "10"),
            (Some("20261122T100000.000Z"), "15"),
            (Some("2026-11-22T10:30:00Z"), "15"),
            (Some("2026-11-22T11:00:00Z"), "10"),
        ] {
            let csv = shown(&fixture, wanted, Format::Csv).await.expect("shown");
            assert_eq!(csv.lines().nth(1).and_then(|line| line.split(',').nth(8)), Some(behind), "{wanted:?}");
        }
        for wanted in ["20261122T100001.000Z", "2026-11-22T09:00:00Z", "yesterday"] {
            let error = shown(&fixture, Some(wanted), Format::Csv).await.expect_err("there is none");
            assert!(error.exit_code() == 2 && error.to_string().contains("the newest is 20261122T110000"), "{error}");
        }
    }

    #[tokio::test]
    async fn where_offsets_hold_no_record_it_is_at_most_so_many() {
        let fixture = Fixture::new("b").await;
        fixture.topic("t", "_", 1).await;
        fixture.segment("t", 0, 0, Kind::First, &[fixture.batch(0, 5), fixture.batch(10, 5)]).await;
        fixture.segment("t", 0, 15, Kind::Data, &[fixture.batch(15, 5)]).await;
        let place = Place::new(Partition { topic: "t".into(), topic_id: TopicId::NONE, index: 0 }, None);
        let index = Opened::read(&fixture.archive, &place).await.expect("sound").index;
        let unread = |committed| {
            let Unread { records, is_exact } = Unread::of(&index, committed);
            (records, is_exact)
        };
        assert_eq!((unread(0), unread(1), unread(8)), ((15, true), (15, false), (12, false)));
        assert_eq!((unread(15), unread(17), unread(20), unread(99)), ((5, true), (3, true), (0, true), (0, true)));
        let fork = Fork { epoch: 7, end: 12 };
        fixture.fork_segment(fork, &[fixture.batch(12, 2)]).await;
        let counted = super::unread(&fixture.archive, place.partition, vec![3, 13]).await.expect("read");
        let counted: Vec<_> = counted.iter().map(|(_, unread)| (unread.records, unread.is_exact)).collect();
        assert_eq!(counted, [(11, false), (1, true)]);
    }
}
