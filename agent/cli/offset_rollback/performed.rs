//! A plan performed by a verb: its connections, its progress, how to come back, and what came of it, printed.
//!
//! The line that says how to come back is written as soon as the snapshot is durable, before anything is changed: who is killed
//! after that has it on the screen.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::super::Format;
use super::super::cluster::ClusterArgs;
use super::super::table::{self, Output, Page};
use crate::error::{Error, Kind, Result};
use crate::groups::ACTIVE;
use crate::groups::perform::{self, Performing, Progress, Report, wait_until_empty};
use crate::groups::plan::Plan;
use crate::groups::snapshot::{Snapshot, Snapshots};
use crate::kafka::client::Client;
use crate::kafka::client::groups::Member;
use crate::telemetry::logging;

/// How often a line is written where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Groups that a table names; of more only those that failed.
const NAMED: usize = 50;

/// How a verb performs a plan.
#[derive(Clone, Copy)]
pub(in crate::cli) struct Performance<'a> {
    /// How the cluster was named, for the undo line.
    pub(in crate::cli) cluster: &'a ClusterArgs,
    /// Where the present is kept; `None` keeps nothing.
    pub(in crate::cli) snapshots: Option<&'a Snapshots>,
    /// Groups that are set at a time, at most.
    pub(in crate::cli) max_concurrent: usize,
    /// Whether nothing is changed where a group is refused.
    pub(in crate::cli) all_or_nothing: bool,
    /// How long groups with members are waited for.
    pub(in crate::cli) wait_until_empty: Option<Duration>,
}

/// Performs a plan; `client` is the one that it was made with. Members that keep a group from being set are said.
///
/// # Errors
/// As [`Performing::perform`].
pub(in crate::cli) async fn perform(
    client: &Client,
    plan: &Plan,
    how: &Performance<'_>,
    description: &str,
) -> Result<Report> {
    let clients = perform::connections(client, how.max_concurrent.min(plan.groups.len()));
    let watching = Watching { undo: how.snapshots.map(|snapshots| (snapshots, how.cluster)), ..Watching::default() };
    let performing = Performing {
        clients: &clients,
        snapshots: how.snapshots,
        max_concurrent: how.max_concurrent,
        all_or_nothing: how.all_or_nothing,
        wait_until_empty: how.wait_until_empty,
        progress: &watching,
    };
    let report = performing.perform(plan, description).await?;
    for group in report.groups.iter().filter(|group| !group.members.is_empty()) {
        say_members(&group.group, &group.members);
    }
    Ok(report)
}

/// Waits for the groups of a plan that have members; returns whether it has any. Such a plan is to be made anew, also where the
/// last of them has left by now.
///
/// # Errors
/// As [`wait_until_empty`].
pub(in crate::cli) async fn wait(client: &Client, plan: &Plan, within: Duration) -> Result<bool> {
    let active = plan.groups.iter().filter(|group| group.refused.as_deref().is_some_and(|why| why.starts_with(ACTIVE)));
    let active: Vec<String> = active.map(|group| group.group.clone()).collect();
    match active.is_empty() {
        true => Ok(false),
        false => wait_until_empty(client, &active, within, &Watching::default()).await.map(|_| true),
    }
}

/// Writes what came of a plan, and ends as it came.
///
/// # Errors
/// As [`Report::verdict`] and [`ended`].
pub(in crate::cli) fn end(title: &str, report: &Report, format: Format, mut output: Output) -> Result<()> {
    let printed = print(title, report, format, &mut output).and_then(|()| output.finish());
    ended(report.verdict(), printed)
}

/// Ends a verb that has changed something as `verdict` says, whether that could be printed or not.
///
/// # Errors
/// `verdict`'s; where it has none and what came of it could not be `printed`, [`Kind::Partial`]: as a failure it would pass
/// for nothing done.
pub(in crate::cli) fn ended(verdict: Result<()>, printed: Result<()>) -> Result<()> {
    match (verdict, printed) {
        (Ok(()), Err(error)) => Err(Error::new(Kind::Partial, "all is done, but what came of it could not be printed")
            .source(error)
            .hint("run again it finds all of it so already")),
        (Err(verdict), Err(error)) => {
            tracing::error!("{error}");
            Err(verdict)
        }
        (verdict, Ok(())) => verdict,
    }
}

/// Says how what was kept as `id` is brought back.
pub(in crate::cli) fn say_undo(snapshots: &Snapshots, id: &str, cluster: &ClusterArgs) {
    let cluster = cluster.named();
    logging::say(&table::shown(&snapshots.undo(id, cluster.words())));
    cluster.secrets().iter().for_each(|secrets| logging::say(&table::shown(secrets)));
}

fn print(title: &str, report: &Report, format: Format, output: &mut Output) -> Result<()> {
    match format {
        Format::Json => output.json(report),
        Format::Csv => {
            output.write(b"group,set,same,failed,note\n")?;
            for group in &report.groups {
                output.write(table::csv(&cells(group)).as_bytes())?;
            }
            Ok(())
        }
        Format::Table => output.write(page(title, report).text().as_bytes()),
    }
}

fn page(title: &str, report: &Report) -> Page {
    let mut page = Page::new(title);
    let fails =
        |group: &&perform::GroupReport| group.refused.is_some() || group.lacks.is_some() || !group.failed.is_empty();
    let is_long = report.groups.len() > NAMED;
    let rows: Vec<Vec<String>> =
        report.groups.iter().filter(|group| !is_long || fails(group)).map(|group| cells(group).to_vec()).collect();
    if !rows.is_empty() {
        page.table(&["Consumer Group", "Set", "Same", "Failed", "Note"], &rows);
        page.line("");
    }
    page.line(format_args!(
        "Partitions set: {} in {} (so already: {}, failed: {})",
        report.set,
        table::counted(report.groups.len() as u64, "group"),
        report.same,
        report.failures()
    ));
    if report.metrics.requests > 0 {
        page.line(metrics(report));
    }
    for (why, count) in &report.failed {
        page.line(format_args!("Failed: {}: {why}", table::counted(*count, "partition")));
    }
    if let Some(id) = &report.snapshot {
        page.line(format_args!("What was before: {id}"));
    }
    page
}

/// Says how requests went, where it is not on the page.
pub(in crate::cli) fn say_metrics(report: &Report) {
    logging::say(&metrics(report));
}

fn metrics(report: &Report) -> String {
    let metrics = &report.metrics;
    format!(
        "Took {:.2} s: {:.0} partitions/s; {}, p50 {:.1} ms, p99 {:.1} ms; {}",
        metrics.took_ms / 1000.0,
        metrics.partitions_per_second,
        table::counted(metrics.requests, "request"),
        metrics.p50_ms,
        metrics.p99_ms,
        retries(report),
    )
}

fn retries(report: &Report) -> String {
    let retries = match report.metrics.retries {
        1 => "1 retry".to_owned(),
        more => format!("{more} retries"),
    };
    let reasons: Vec<_> = report.metrics.retried.iter().map(|(why, count)| format!("{why}: {count}")).collect();
    if reasons.is_empty() { retries } else { format!("{retries} ({})", reasons.join(", ")) }
}

fn cells(group: &perform::GroupReport) -> [String; 5] {
    let failed = group.failed.first().map(|first| {
        let more = group.failed.len() - 1;
        let more = if more > 0 { format!(" (and {more} more)") } else { String::new() };
        format!("{}-{}: {}{more}", first.topic, first.partition, first.why)
    });
    let note = group.refused.clone().or(failed).or_else(|| group.lacks.clone()).unwrap_or_default();
    let (set, same, failed) = (group.set.to_string(), group.same.to_string(), group.failed.len().to_string());
    [group.group.clone(), set, same, failed, note]
}

/// Says who keeps a group from being set.
fn say_members(group: &str, members: &[Member]) {
    for member in members {
        let instance = member.instance_id.as_deref().unwrap_or("-");
        let line = format!(
            "group {group} has a member: client id {}, host {}, instance id {instance}",
            member.client_id, member.host
        );
        logging::say(&table::shown(&line));
    }
}

/// How far it is: a bar on a terminal, a line now and then elsewhere.
#[derive(Default)]
struct Watching<'a> {
    /// Where the present is kept, and how the cluster is named: what the undo line is made of.
    undo: Option<(&'a Snapshots, &'a ClusterArgs)>,
    way: Mutex<Option<Way>>,
}

/// How far setting is.
struct Way {
    bar: Option<ProgressBar>,
    began: Instant,
    line_at: Instant,
    all: u64,
    done: u64,
}

impl Progress for Watching<'_> {
    fn kept(&self, snapshot: &Snapshot) {
        logging::say(&format!("what there was is kept as {}", snapshot.id));
        if let Some((snapshots, cluster)) = self.undo {
            say_undo(snapshots, &snapshot.id, cluster);
        }
    }

    fn waiting(&self, group: &str, members: &[Member]) {
        logging::say(&format!("waiting for group {} to be left by its members", table::shown(group)));
        say_members(group, members);
    }

    fn begun(&self, partitions: u64) {
        let began = Instant::now();
        let way = Way { bar: bar(partitions), began, line_at: began + LINE_EVERY, all: partitions, done: 0 };
        *self.way.lock().expect("nobody panics while it holds it") = Some(way);
    }

    fn answered(&self, partitions: u64) {
        if let Some(way) = self.way.lock().expect("nobody panics while it holds it").as_mut() {
            way.advance(partitions);
        }
    }

    fn ended(&self) {
        if let Some(Way { bar: Some(bar), .. }) = self.way.lock().expect("nobody panics while it holds it").take() {
            bar.finish_and_clear();
        }
    }
}

impl Way {
    fn advance(&mut self, partitions: u64) {
        self.done += partitions;
        let rate = self.done as f64 / self.began.elapsed().as_secs_f64().max(0.001);
        let (done, all, rate) = (HumanCount(self.done), HumanCount(self.all), HumanCount(rate as u64));
        let status = format!("{done} of {all} partitions, {rate}/s");
        if let Some(bar) = &self.bar {
            bar.set_position(self.done.min(self.all));
            bar.set_message(status);
        } else if Instant::now() >= self.line_at {
            self.line_at = Instant::now() + LINE_EVERY;
            logging::say(&status);
        }
    }
}

/// Makes a bar on stderr if that is a terminal.
fn bar(all: u64) -> Option<ProgressBar> {
    if !std::io::IsTerminal::is_terminal(&std::io::stderr()) {
        return None;
    }
    let bar = ProgressBar::with_draw_target(Some(all), ProgressDrawTarget::hidden());
    let colour = if logging::colour() { ".cyan" } else { "" };
    let template = format!("[{{bar:30{colour}}}] {{msg}}");
    bar.set_style(ProgressStyle::with_template(&template).expect("the template is ours").progress_chars("=> "));
    Some(logging::BARS.add(bar))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::groups::perform::{Failed, GroupReport};

    fn report() -> Report {
        let failed = vec![Failed { topic: "t".to_owned(), partition: 3, why: "no authority".to_owned() }];
        let bad = GroupReport { group: "bad".to_owned(), failed, ..GroupReport::default() };
        let good = GroupReport { group: "good".to_owned(), set: 5, same: 1, ..GroupReport::default() };
        let mut report = Report { groups: vec![bad, good], set: 5, same: 1, ..Report::default() };
        report.failed = [("no authority".to_owned(), 1)].into();
        report.metrics.requests = 2;
        report.metrics.retries = 1;
        report.metrics.retried = [("NOT_COORDINATOR".to_owned(), 1)].into();
        report
    }

    #[test]
    fn what_came_of_each_group_is_a_row_and_reasons_and_retries_are_told() {
        let text = page("Offset Reset", &report()).text().to_owned();
        assert!(text.contains("\nbad             0    0     1       t-3: no authority\n"), "{text}");
        assert!(text.contains("\nPartitions set: 5 in 2 groups (so already: 1, failed: 1)\n"), "{text}");
        assert!(text.contains("2 requests, p50 0.0 ms, p99 0.0 ms; 1 retry (NOT_COORDINATOR: 1)\n"), "{text}");
        assert!(text.contains("\nFailed: 1 partition: no authority\n"), "{text}");
        let mut long = report();
        long.groups.extend((0..NAMED).map(|n| GroupReport { group: format!("more-{n}"), ..GroupReport::default() }));
        let text = page("", &long).text().to_owned();
        assert!(text.contains("\nbad ") && !text.contains("more-"), "{text}");
    }

    #[test]
    fn what_was_done_and_could_not_be_printed_is_no_failure_of_it() {
        struct Full;
        impl std::io::Write for Full {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                Err(std::io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let done = |report: &Report, format| {
            end("Offset Reset", report, format, Output::to(Box::new(Full))).expect_err("it is full")
        };
        let sound = Report { set: 5, ..Report::default() };
        for format in [Format::Table, Format::Json, Format::Csv] {
            let error = done(&sound, format);
            assert!(error.exit_code() == 3 && error.to_string().starts_with("all is done, but what"), "{error}");
        }
        let error = done(&report(), Format::Table);
        assert!(error.exit_code() == 3 && error.to_string().starts_with("1 of 7 partitions are not set"), "{error}");
        let nothing = Report { set: 0, same: 0, ..report() };
        assert_eq!(done(&nothing, Format::Json).exit_code(), 1);
    }
}
