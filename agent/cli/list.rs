//! `list`: the backups below a path or, with `--backup-id`, the topics of one.

use serde::Serialize;

use super::Format;
use super::table::{self, Output, Page};
use crate::archive::source::chain::{self, Finding};
use crate::archive::source::opened::Opened;
use crate::archive::source::{Place, Timeline, side_by_side, summary};
use crate::archive::{Archive, layout, source};
use crate::config::value::shown_path;
use crate::error::{Error, Kind, Result};
use crate::record::Offset;
use crate::store::Store;

/// What the user typed after `list`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where the archive is: a folder or a URL
    #[arg(long, value_name = "PATH|URL")]
    pub path: String,
    /// List the topics of this backup
    #[arg(long, value_name = "NAME", value_parser = super::backup_id)]
    pub backup_id: Option<String>,
    /// How to print
    #[arg(long, short = 'o', value_enum, default_value_t)]
    pub format: Format,
}

/// A backup, as listed.
#[derive(Debug, Serialize)]
struct BackupRow {
    backup_id: String,
    created: Option<String>,
    cluster_id: Option<String>,
    topics: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// A timeline of a topic, as listed.
#[derive(Debug, Serialize)]
struct TopicRow {
    topic: String,
    topic_id: String,
    newest: bool,
    partitions: usize,
    /// With those of the forks.
    segments: usize,
    bytes: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    forks: Vec<ForkRow>,
    /// Why it, or a part of it, cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// A fork of a partition, as listed.
#[derive(Debug, Serialize)]
struct ForkRow {
    partition: i32,
    fork: String,
    covers_from: Offset,
    /// The end of what it holds, exclusive; `None` where it cannot be read.
    covers_to: Option<Offset>,
    segments: usize,
    bytes: u64,
}

/// Lists what there is.
///
/// # Errors
/// [`Kind::NoBackup`] for a backup that is not there, [`Kind::Usage`] for a folder that is not there. After all others
/// are printed: the worst reason why a backup could not be opened, or the kind of the worst finding in its topics.
pub async fn run(args: Args) -> Result<()> {
    let root = super::open(&args.path)?;
    let mut output = Output::stdout()?;
    let result = match &args.backup_id {
        Some(backup_id) => list_topics(&source::open(&root, backup_id).await?, args.format, &mut output).await,
        None => list_backups(&root, &args.path, args.format, &mut output).await,
    };
    output.finish()?;
    result
}

async fn list_backups(root: &Store, path: &str, format: Format, output: &mut Output) -> Result<()> {
    if super::folder_of(path).is_some_and(|folder| std::fs::exists(folder).is_ok_and(|there| !there)) {
        return Err(Error::usage(format!("there is no folder `{}`", shown_path(path))));
    }
    let (mut rows, mut errors) = (Vec::new(), Vec::new());
    // Into `lost+found` of a disk nobody may look, and no backup has such a name.
    let may_be = |name: &String| super::backup_id(name).is_ok();
    for backup_id in source::backups(root).await?.into_iter().filter(may_be) {
        rows.push(backup_row(root, &backup_id).await.unwrap_or_else(|error| {
            let told = Some(error.to_string());
            errors.push(error);
            BackupRow { backup_id, created: None, cluster_id: None, topics: None, error: told }
        }));
    }
    if rows.is_empty() && root.exists(layout::BACKUP).await? {
        return Err(Error::usage(format!("`{}` is a backup itself", shown_path(path)))
            .hint("--path is the folder in which it lies, --backup-id its name"));
    }
    if rows.is_empty() {
        tracing::warn!("there is no backup below `{}`", shown_path(path));
    }
    match format {
        Format::Json => output.json(&rows)?,
        Format::Csv => {
            output.write(b"backup_id,created,cluster_id,topics\n")?;
            for row in &rows {
                output.write(table::csv(&row.cells().map(Option::unwrap_or_default)).as_bytes())?;
            }
        }
        Format::Table => {
            let rows: Vec<_> = rows.iter().map(BackupRow::shown).collect();
            let mut page = Page::new(format_args!("Backups: {}", shown_path(path)));
            page.table(&["Backup", "Created", "Cluster", "Topics"], &rows);
            output.write(page.text().as_bytes())?;
        }
    }
    worst(errors)
}

/// Opens a backup for its row.
async fn backup_row(root: &Store, backup_id: &str) -> Result<BackupRow> {
    let archive = Archive::open(root, backup_id).await?;
    let topics = archive.store().list(layout::TOPICS).await?;
    let topics = topics.iter().filter(|entry| entry.is_folder).count();
    let backup = archive.backup().clone();
    Ok(BackupRow {
        backup_id: backup_id.to_owned(),
        created: Some(backup.created),
        cluster_id: backup.cluster_id,
        topics: Some(topics),
        error: None,
    })
}

impl BackupRow {
    fn cells(&self) -> [Option<String>; 4] {
        let topics = self.topics.map(|n| n.to_string());
        [Some(self.backup_id.clone()), self.created.clone(), self.cluster_id.clone(), topics]
    }

    fn shown(&self) -> Vec<String> {
        match self.error {
            Some(_) => vec![self.backup_id.clone(), "unreadable".to_owned(), "-".to_owned(), "-".to_owned()],
            None => self.cells().map(table::or_dash).to_vec(),
        }
    }
}

/// Returns the worst of the errors, as [`chain::verdict`] ranks them, and logs the others: each is told once.
fn worst(mut errors: Vec<Error>) -> Result<()> {
    errors.sort_by_key(|error| match error.kind() {
        Kind::Damaged => 2,
        Kind::Usage => 0,
        _ => 1,
    });
    let Some(worst) = errors.pop() else { return Ok(()) };
    for error in errors {
        tracing::error!("{error}");
    }
    Err(worst)
}

async fn list_topics(archive: &Archive, format: Format, output: &mut Output) -> Result<()> {
    let (mut rows, mut findings) = (Vec::new(), Vec::new());
    let timelines = source::timelines(archive).await?;
    let places: Vec<_> = timelines.iter().flat_map(|timeline| timeline.places.iter().cloned()).collect();
    let sizes = side_by_side::each(places, summary::AT_ONCE, |place| {
        let archive = archive.clone();
        async move { Size::read(&archive, &place).await }
    });
    let mut sizes = sizes.await?.into_iter();
    for timeline in timelines {
        let before = findings.len();
        let mut row = topic_row(archive, &timeline, &mut sizes, &mut findings);
        for finding in &findings[before..] {
            tracing::error!("{}: {finding}", row.topic);
        }
        row.error = findings.get(before).map(Finding::to_string);
        rows.push(row);
    }
    let backup_id = &archive.backup().backup_id;
    match format {
        Format::Json => output.json(&rows)?,
        Format::Csv => {
            output.write(b"topic,topic_id,newest,partitions,segments,bytes,fork,covers_from,covers_to\n")?;
            for line in rows.iter().flat_map(TopicRow::lines) {
                output.write(line.as_bytes())?;
            }
        }
        Format::Table => {
            let mut page = Page::new(format_args!("Topics: {backup_id}"));
            let rows: Vec<_> = rows.iter().flat_map(TopicRow::shown).collect();
            page.table(&["Topic", "Partitions", "Segments", "Bytes", "Topic Id"], &rows);
            output.write(page.text().as_bytes())?;
        }
    }
    chain::verdict(backup_id, &findings)
}

/// What `list` shows of a chain.
struct Size {
    segments: usize,
    bytes: u64,
    /// The end of what it holds, exclusive.
    covers_to: Option<Offset>,
    /// What is not as it should be.
    findings: Vec<Finding>,
}

impl Size {
    /// Adds up the chain at `place`; what cannot be read is a finding.
    async fn read(archive: &Archive, place: &Place) -> Self {
        match Opened::read(archive, place).await {
            Ok(Opened { index, mut findings, .. }) => {
                // What harms nothing is for `describe` and `verify` to tell.
                findings.retain(|finding| finding.what.exit_kind().is_some());
                let (segments, bytes) = (index.len(), index.iter().map(|row| row.length_bytes).sum());
                Self { segments, bytes, covers_to: index.range().map(|range| range.next), findings }
            }
            Err(error) => {
                let findings = vec![Finding::of_end(archive, place, &error)];
                Self { segments: 0, bytes: 0, covers_to: None, findings }
            }
        }
    }
}

/// Adds up one timeline, of whose places `sizes` come next.
fn topic_row(
    archive: &Archive,
    timeline: &Timeline,
    sizes: &mut impl Iterator<Item = Size>,
    findings: &mut Vec<Finding>,
) -> TopicRow {
    let mut row = TopicRow {
        topic: timeline.topic.to_string(),
        topic_id: timeline.topic_id.to_string(),
        newest: timeline.is_newest,
        partitions: timeline.places.iter().filter(|place| place.fork.is_none()).count(),
        segments: 0,
        bytes: 0,
        forks: Vec::new(),
        error: None,
    };
    findings.extend(Finding::of_object(archive, timeline));
    for (place, Size { segments, bytes, covers_to, findings: found }) in timeline.places.iter().zip(sizes) {
        findings.extend(found);
        row.segments += segments;
        row.bytes += bytes;
        // A folder without segments is no fork: a writer stopped before its first commit.
        if let Some(fork) = place.fork.filter(|_| segments > 0) {
            let (partition, covers_from) = (place.partition.index, fork.end);
            row.forks.push(ForkRow { partition, fork: fork.to_string(), covers_from, covers_to, segments, bytes });
        }
    }
    row
}

impl TopicRow {
    /// Returns the lines of CSV: the topic's, then one for each fork.
    fn lines(&self) -> Vec<String> {
        let cells = |partitions: String, segments: usize, bytes: u64, fork: [String; 3]| {
            let (topic, id, newest) = (self.topic.clone(), self.topic_id.clone(), self.newest.to_string());
            let mut cells = vec![topic, id, newest, partitions, segments.to_string(), bytes.to_string()];
            cells.extend(fork);
            table::csv(&cells)
        };
        let mut lines = vec![cells(self.partitions.to_string(), self.segments, self.bytes, Default::default())];
        for fork in &self.forks {
            let to = fork.covers_to.map(|to| to.to_string()).unwrap_or_default();
            let named = [fork.name(), fork.covers_from.to_string(), to];
            lines.push(cells(String::new(), fork.segments, fork.bytes, named));
        }
        lines
    }

    /// Returns the rows of the table: the topic's, then one for each fork.
    fn shown(&self) -> Vec<Vec<String>> {
        let mut id = if self.newest { self.topic_id.clone() } else { format!("{} (older timeline)", self.topic_id) };
        if self.error.is_some() {
            id.push_str(" (not all can be read)");
        }
        let size = table::size(self.bytes);
        let mut rows = vec![vec![self.topic.clone(), self.partitions.to_string(), self.segments.to_string(), size, id]];
        for fork in &self.forks {
            let to = fork.covers_to.map_or_else(|| "?".to_owned(), |to| to.to_string());
            let holds = format!("fork: offsets [{}, {to})", fork.covers_from);
            let name = format!("  {}", fork.name());
            rows.push(vec![name, "-".to_owned(), fork.segments.to_string(), table::size(fork.bytes), holds]);
        }
        rows
    }
}

impl ForkRow {
    /// Returns the name of its chain, as `describe` shows it.
    fn name(&self) -> String {
        format!("{}@{}", self.partition, self.fork)
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::tests::Written;
    use super::*;
    use crate::archive::sealed;
    use crate::archive::source::Fork;
    use crate::archive::source::tests::{Fixture, three};

    /// Lists the backups below `root`; returns the table and how it ended.
    async fn listed(root: &Store, path: &str) -> (String, Result<()>) {
        let (mut output, written) = Written::output();
        let result = list_backups(root, path, Format::Table, &mut output).await;
        output.finish().expect("written");
        (written.text(), result)
    }

    #[tokio::test]
    async fn a_newer_backup_is_a_row_and_a_matter_of_the_program_not_damage() {
        let fixture = Fixture::new("a").await;
        let newer = sealed::pretty(&serde_json::json!({ "format": 99 }));
        let _ = fixture.root.within("b").create(layout::BACKUP, newer).await.expect("created");
        let (text, result) = listed(&fixture.root, "memory://me:pw@x").await;
        let error = result.expect_err("not all can be read");
        assert_eq!((error.exit_code(), error.to_string().contains("format 99")), (2, true), "{error}");
        let lines: Vec<_> = text.lines().collect();
        assert_eq!((lines.len(), lines[0]), (6, "Backups: memory://********@x"), "{text}");
        assert!(lines[4].starts_with("a       2"), "{text}");
        assert_eq!(lines[5].split_whitespace().collect::<Vec<_>>(), ["b", "unreadable", "-", "-"]);
    }

    #[tokio::test]
    async fn damage_is_worse_than_a_newer_format() {
        let errors = vec![Error::damaged("d"), Error::usage("u"), Error::failed("f")];
        assert_eq!(worst(errors).expect_err("three").kind(), Kind::Damaged);
    }

    #[tokio::test]
    async fn a_folder_that_is_not_there_is_a_mistake_and_an_empty_one_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().to_str().expect("UTF-8");
        let root = Store::open(path).expect("opened");
        listed(&root, path).await.1.expect("it holds nothing");
        let typo = format!("{path}/typo");
        assert_eq!(listed(&root, &typo).await.1.expect_err("not there").kind(), Kind::Usage);
    }

    #[tokio::test]
    async fn a_backup_in_the_place_of_the_folder_of_backups_is_a_mistake() {
        let fixture = three().await;
        let error = listed(&fixture.root.within("b"), "memory://x/b").await.1.expect_err("it has no backups");
        assert_eq!((error.exit_code(), error.to_string().contains("is a backup itself")), (2, true), "{error}");
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_folder_that_cannot_be_looked_into_keeps_no_backup_from_being_listed() {
        use std::os::unix::fs::symlink;
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().to_str().expect("UTF-8");
        let root = Store::open(path).expect("opened");
        let _ = Archive::create(&root, "a", None).await.expect("created");
        for (name, inside) in [("lost+found", layout::BACKUP), ("other", "x"), ("secret", layout::BACKUP)] {
            std::fs::create_dir(folder.path().join(name)).expect("made");
            // Nobody can follow a link to itself, not even root, whom no mode keeps out.
            symlink(inside, folder.path().join(name).join(inside)).expect("linked");
        }
        let (text, result) = listed(&root, path).await;
        assert_eq!(result.expect_err("not all could be looked at").exit_code(), 1);
        let rows: Vec<_> =
            text.lines().skip(4).map(|line| line.split_whitespace().next().unwrap_or_default()).collect();
        assert_eq!(rows, ["a", "secret"], "{text}");
    }

    /// Lists the topics of the backup in `format`.
    async fn topics(fixture: &Fixture, format: Format) -> String {
        let (mut output, written) = Written::output();
        list_topics(&fixture.archive, format, &mut output).await.expect("sound");
        output.finish().expect("written");
        written.text()
    }

    #[tokio::test]
    async fn a_fork_is_a_row_below_its_topic_with_the_offsets_it_holds() {
        let fixture = three().await;
        fixture.fork_segment(Fork { epoch: 7, end: 12 }, &[fixture.batch(12, 3)]).await;
        let text = topics(&fixture, Format::Table).await;
        let cells = |line: Option<&str>| line.map(|line| line.split("  ").map(str::trim).map(str::to_owned).collect());
        let row: Vec<String> = cells(text.lines().last()).expect("a row");
        let row: Vec<_> = row.iter().filter(|cell| !cell.is_empty()).collect();
        assert_eq!((row[0].as_str(), row[2].as_str()), ("0@7-12", "1"), "{text}");
        assert_eq!(row[4], "fork: offsets [12, 15)");
        let csv = topics(&fixture, Format::Csv).await;
        assert!(csv.lines().nth(2).is_some_and(|line| line.ends_with(",0@7-12,12,15")), "{csv}");
        let json: serde_json::Value = serde_json::from_str(&topics(&fixture, Format::Json).await).expect("JSON");
        assert_eq!((&json[0]["segments"], &json[0]["forks"][0]["covers_to"]), (&4.into(), &15.into()));
    }

    #[tokio::test]
    async fn a_damaged_topic_object_is_damage() {
        let fixture = Fixture::new("b").await;
        fixture.topic("t", "_", 1).await;
        let broken = fixture.but(|_, bytes| Some(bytes.slice(..9))).await;
        let (mut output, _) = Written::output();
        let result = list_topics(&broken.archive, Format::Table, &mut output).await;
        assert_eq!(result.expect_err("damage").exit_code(), 4);
    }
}
