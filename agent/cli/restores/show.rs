//! `restores show`: all that one restore has kept.

use serde::Serialize;

use super::super::Format;
use super::super::offset_map::{PairRow, pair_lines, pair_table};
use super::super::table::{self, Output, Page};
use super::{RestoreArgs, verdict};
use crate::error::{Error, Result};
use crate::restore::state::{
    Attempt, Cancelled, Done, Groups, GroupsDone, KeptAt, Phase, Plan, Seen, State, Undone, came_to,
};

/// What the user typed after `restores show`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    restore: RestoreArgs,
    /// How to print; CSV has the pairs of partitions
    #[arg(long, short = 'o', value_enum, default_value_t)]
    format: Format,
}

/// All of a restore; its JSON is stable.
#[derive(Debug, Serialize)]
struct Shown {
    restore_id: String,
    state: Phase,
    #[serde(skip)]
    has_landed: bool,
    records: Option<u64>,
    bytes: Option<u64>,
    plan: Option<Plan>,
    attempts: Vec<Attempt>,
    journals: usize,
    /// The newest, without its piece of the map.
    journal: Option<serde_json::Value>,
    /// The offset map, pair by pair.
    partitions: Vec<PairRow>,
    done: Option<Done>,
    cancelled: Option<Cancelled>,
    undone: Option<Undone>,
    /// The consumer groups that were put back, each time with what became of it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    groups: Vec<(Groups, Option<GroupsDone>)>,
    damaged: Vec<String>,
}

/// Prints it.
///
/// # Errors
/// [`Kind::NoBackup`](crate::error::Kind::NoBackup) for one that is not there; after printing,
/// [`Kind::Damaged`](crate::error::Kind::Damaged) when something of it cannot be read.
pub(super) async fn run(args: Args) -> Result<()> {
    let state = args.restore.open().await?;
    let mut output = Output::stdout()?;
    let result = show(&state, args.format, &mut output).await;
    output.finish()?;
    result
}

async fn show(state: &State, format: Format, output: &mut Output) -> Result<()> {
    let (shown, damaged) = Shown::read(state).await?;
    match format {
        Format::Json => output.json(&shown)?,
        Format::Csv => output.write(pair_lines(&shown.partitions).as_bytes())?,
        Format::Table => output.write(shown.page().text().as_bytes())?,
    }
    verdict(damaged)
}

impl Shown {
    async fn read(state: &State) -> Result<(Self, Vec<Error>)> {
        let mut seen = state.look().await?;
        let attempts = attempts(state, &mut seen).await?;
        let partitions = match state.offset_map(&seen).await {
            Ok(map) => map.iter().flat_map(|map| map.iter()).map(|(pair, track)| PairRow::of(pair, track)).collect(),
            Err(error) if error.is_unreadable() => {
                seen.damaged.push(error);
                Vec::new()
            }
            Err(error) => return Err(error),
        };
        let mut journal = seen.journal.as_ref().and_then(|journal| serde_json::to_value(journal).ok());
        if let Some(journal) = journal.as_mut().and_then(serde_json::Value::as_object_mut) {
            let _ = journal.shift_remove("map");
        }
        let groups = match state.groups().await {
            Ok(groups) => groups,
            Err(error) if error.is_unreadable() => {
                seen.damaged.push(error);
                Vec::new()
            }
            Err(error) => return Err(error),
        };
        let (records, bytes) = came_to(&seen).unzip();
        let shown = Self {
            restore_id: state.restore_id().to_owned(),
            state: seen.phase(),
            has_landed: seen.has_landed(),
            records,
            bytes,
            attempts,
            journals: seen.journals.len(),
            journal,
            partitions,
            damaged: seen.damaged.iter().map(ToString::to_string).collect(),
            plan: seen.plan,
            done: seen.done,
            cancelled: seen.cancelled,
            undone: seen.undone,
            groups,
        };
        Ok((shown, seen.damaged))
    }

    fn page(&self) -> Page {
        let mut page = Page::new(format_args!("Restore: {}", self.restore_id));
        page.line(format_args!("State: {}", self.state));
        if let Some(plan) = &self.plan {
            let cluster = plan.target.cluster_id.as_deref().unwrap_or("without an id");
            page.line(format_args!("Target: {} (cluster {cluster})", plan.target.bootstrap_servers));
            page.line(format_args!("Planned: {} by {}, plan {}", plan.made_at, plan.created_by, plan.digest));
        }
        for attempt in &self.attempts {
            page.line(format_args!(
                "Attempt {}: {} by {}, producer {} epoch {}",
                attempt.number, attempt.started_at, attempt.process, attempt.producer_id, attempt.epoch
            ));
        }
        if let Some(at) = self.journal.as_ref().and_then(|journal| journal["written_at"].as_str()) {
            page.line(format_args!("Journals: {}, the newest of {at}", self.journals));
        }
        if let Some((records, bytes)) = self.records.zip(self.bytes) {
            page.line(format_args!("Restored: {}, {}", table::counted(records, "record"), table::size(bytes)));
        }
        if let Some(cancelled) = &self.cancelled {
            page.line(format_args!("Cancelled: {} by {}", cancelled.cancelled_at, cancelled.process));
        }
        if let Some(done) = &self.done {
            page.line(format_args!("Done: {} by attempt {}", done.finished_at, done.attempt));
        }
        for (begun, done) in &self.groups {
            let set = match done {
                Some(done) => format!("{} set, {} not", done.set.len(), done.failed.len()),
                None => "how that ended is not known: start the restore again".to_owned(),
            };
            let KeptAt { place, id } = &begun.snapshot;
            page.line(format_args!("Groups: {} by {}: {set}; before: {id} in {place}", begun.begun_at, begun.process));
        }
        if self.has_landed && self.state == Phase::Running {
            page.line("Landed: all of it; started again, it gives its topics their last settings, and is done");
        }
        if let Some(undone) = &self.undone {
            let topics: Vec<&str> = undone.topics.iter().map(|topic| topic.topic.as_str()).collect();
            page.line(format_args!("Undone: {} by {}: {}", undone.undone_at, undone.process, topics.join(", ")));
        }
        for damaged in &self.damaged {
            page.line(format_args!("Damaged: {damaged}"));
        }
        if !self.partitions.is_empty() {
            page.line("");
            pair_table(&mut page, &self.partitions);
        }
        if let Some(plan) = &self.plan {
            let text = serde_json::to_string_pretty(&plan.plan).unwrap_or_default();
            page.line("\nPlan:");
            text.lines().for_each(|line| page.line(line));
        }
        page
    }
}

/// Reads all attempts that can be read.
async fn attempts(state: &State, seen: &mut Seen) -> Result<Vec<Attempt>> {
    let mut attempts = Vec::new();
    let newest = seen.attempt.as_ref().map(|attempt| attempt.number);
    for &n in &seen.attempts {
        match state.attempt(n).await {
            Ok(attempt) => attempts.extend(attempt),
            Err(error) if error.is_unreadable() => {
                // Newer ones than the newest that can be read are told already.
                if newest.is_some_and(|newest| n < newest) {
                    seen.damaged.push(error);
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(attempts)
}

#[cfg(test)]
mod tests {
    use super::super::super::table::tests::Written;
    use super::*;
    use crate::restore::state::Process;
    use crate::restore::state::tests::{attempt, landed, memory, planned, undone, whole};

    async fn shown(state: &State, format: Format) -> (String, Result<()>) {
        let (mut output, written) = Written::output();
        let result = show(state, format, &mut output).await;
        output.finish().expect("written");
        (written.text(), result)
    }

    #[tokio::test]
    async fn all_of_a_restore_is_shown() {
        let state = whole(&memory()).await;
        let (text, result) = shown(&state, Format::Table).await;
        result.expect("sound");
        for line in [
            "Restore: r1",
            "State: done",
            "Target: kafka-dr:9092 (cluster dr)",
            "Restored: 10 records, 100 B",
            "Done: 2026-11-22T10:00:00.000Z by attempt 0",
            "orders-3  orders-restored-3  [0, 1000)  10       10       1     -",
            "    \"orders\"",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line}\n{text}");
        }
        let (json, _) = shown(&state, Format::Json).await;
        let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!((&json["attempts"][0]["producer_id"], &json["partitions"][0]["records"]), (&7.into(), &10.into()));
        assert_eq!(
            (&json["journal"]["landed"][0]["sequences"], &json["journal"]["map"]),
            (&10.into(), &serde_json::Value::Null)
        );
        let (csv, _) = shown(&state, Format::Csv).await;
        assert_eq!(csv.lines().count(), 2, "{csv}");
    }

    #[tokio::test]
    async fn that_all_of_a_restore_has_landed_is_shown_also_when_it_was_cancelled_then() {
        let state = landed(&memory()).await;
        let _ = state.cancel(&Cancelled::now("r1", Process::this())).await.expect("kept");
        let (text, result) = shown(&state, Format::Table).await;
        result.expect("sound");
        assert!(text.contains("\nState: running\n") && text.contains("\nLanded: all of it; started again, "), "{text}");
    }

    #[tokio::test]
    async fn that_a_restore_was_undone_is_shown_with_its_topics() {
        let state = whole(&memory()).await;
        let kept = undone(&state).await;
        let (text, _) = shown(&state, Format::Table).await;
        let line = format!("Undone: {} by {}: orders-restored", kept.undone_at, kept.process);
        assert!(text.contains("\nState: undone\n") && text.lines().any(|shown| shown == line), "{text}");
        assert!(text.contains(": 1 set, 0 not; before: snapshot-20261122-100000 in s3://state/b\n"), "{text}");
        let (json, _) = shown(&state, Format::Json).await;
        let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(json["groups"][0][1]["set"][0], "g");
        assert_eq!((&json["state"], &json["undone"]["topics"][0]["topic_id"]), (&"undone".into(), &"_".into()));
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_named_beside_the_rest() {
        let store = memory();
        let state = planned(&store).await;
        let _ = store.create("restores/r1/attempt-0", "{}".into()).await.expect("created");
        let _ = state.begin(attempt(7, 0)).await.expect("behind the damaged one");
        let _ = store.create("restores/r1/map", "x".into()).await.expect("created");
        let (text, result) = shown(&state, Format::Table).await;
        assert_eq!(result.expect_err("damage").exit_code(), 4);
        assert_eq!(text.lines().filter(|line| line.starts_with("Damaged: ")).count(), 2, "{text}");
        assert!(text.contains("\nAttempt 1: "), "{text}");
    }
}
