//! `offset-rollback verify`: where groups stand otherwise than a snapshot says.

use serde::Serialize;

use super::super::Format;
use super::super::table::{self, Output, Page};
use crate::error::{Error, Result};
use crate::groups::plan::{Action, Plan, Row};
use crate::groups::positions::Committed;
use crate::groups::snapshot::Snapshot;

/// What differs; its JSON is stable.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    snapshot_id: &'a str,
    /// Partitions of which something was committed, then or now.
    partitions: usize,
    differences: Vec<Difference<'a>>,
    /// Groups that could not be compared, with why.
    unread: Vec<(&'a str, &'a str)>,
}

/// A partition that is not as it was.
#[derive(Debug, Serialize)]
struct Difference<'a> {
    group: &'a str,
    topic: &'a str,
    partition: i32,
    snapshot: Option<&'a Committed>,
    now: Option<&'a Committed>,
    /// Why it cannot be brought back.
    #[serde(skip_serializing_if = "Option::is_none")]
    lost: Option<&'a str>,
}

/// Prints the differences; `plan` is that of a rollback to `snapshot`.
///
/// # Errors
/// [`Kind::Damaged`](crate::error::Kind::Damaged) where there are any; [`Kind::Failed`](crate::error::Kind::Failed) where a
/// group could not be compared, and the others do not differ.
pub(super) fn run(snapshot: &Snapshot, plan: &Plan, format: Format) -> Result<()> {
    let shown = Shown::of(snapshot, plan);
    let mut output = Output::stdout()?;
    shown.print(plan, format, &mut output)?;
    output.finish()?;
    shown.verdict()
}

impl<'a> Shown<'a> {
    fn of(snapshot: &'a Snapshot, plan: &'a Plan) -> Self {
        let mut shown = Self { snapshot_id: &snapshot.id, partitions: 0, differences: Vec::new(), unread: Vec::new() };
        for group in &plan.groups {
            let is_share = snapshot.groups.iter().any(|of| of.group == group.group && of.error.is_some());
            shown.partitions += group.rows.len();
            let differs = group.rows.iter().filter(|row| row.action != Action::Same);
            shown.differences.extend(differs.map(|row| Difference::of(&group.group, row)));
            // One that has members can be compared all the same, and has rows; one that cannot be read has none.
            if let Some(why) = group.refused.as_deref().filter(|why| *why != crate::groups::ACTIVE && !is_share) {
                shown.unread.push((&group.group, why));
            }
        }
        shown
    }

    fn print(&self, plan: &Plan, format: Format, output: &mut Output) -> Result<()> {
        match format {
            Format::Json => output.json(self),
            Format::Csv => {
                output.write(b"group,topic,partition,snapshot,now,snapshot_metadata,now_metadata\n")?;
                for of in &self.differences {
                    let [was, is] = [of.snapshot, of.now];
                    let offset = |of: Option<&Committed>| of.map(|of| of.offset.to_string()).unwrap_or_default();
                    let metadata = |of: Option<&Committed>| of.map(|of| of.metadata.clone()).unwrap_or_default();
                    let (group, topic) = (of.group.to_owned(), of.topic.to_owned());
                    let cells =
                        [group, topic, of.partition.to_string(), offset(was), offset(is), metadata(was), metadata(is)];
                    output.write(table::csv(&cells).as_bytes())?;
                }
                Ok(())
            }
            Format::Table => output.write(self.page(plan).text().as_bytes()),
        }
    }

    fn page(&self, plan: &Plan) -> Page {
        let mut page = Page::new(format_args!("Offset Verification: {}", self.snapshot_id));
        if !self.differences.is_empty() {
            let heads =
                [("Consumer Group", 0), ("Topic", 9), ("Partition", 9), ("Snapshot", 7), ("Now", 7), ("Note", 0)];
            let rows: Vec<_> = self.differences.iter().map(Difference::cells).collect();
            page.table_of(&heads, &rows);
            page.line("");
        }
        for (group, why) in &self.unread {
            page.line(format_args!("Group {group} was not compared: {why}"));
        }
        page.line(format_args!(
            "{} of {} in {} differ{}",
            self.differences.len(),
            table::counted(self.partitions as u64, "partition"),
            table::counted(plan.groups.len() as u64, "group"),
            if self.differences.len() == 1 { "s" } else { "" },
        ));
        page
    }

    fn verdict(&self) -> Result<()> {
        if let Some(first) = self.differences.first() {
            return Err(Error::damaged(format!("{} not as in {}", are(self.differences.len()), self.snapshot_id))
                .with("as group", first.group)
                .with("topic", first.topic)
                .with("partition", first.partition)
                .hint("`offset-rollback rollback --dry-run` says what would bring them back"));
        }
        match self.unread.first() {
            Some((group, why)) => Err(Error::failed(format!("group '{group}' was not compared: {why}"))),
            None => Ok(()),
        }
    }
}

fn are(partitions: usize) -> String {
    let be = if partitions == 1 { "is" } else { "are" };
    format!("{} {be}", table::counted(partitions as u64, "partition"))
}

impl<'a> Difference<'a> {
    fn of(group: &'a str, row: &'a Row) -> Self {
        let lost = match &row.action {
            Action::Skip(why) => Some(why.as_str()),
            _ => None,
        };
        let (snapshot, now) = (row.target.as_ref(), row.current.as_ref());
        Self { group, topic: &row.topic, partition: row.partition, snapshot, now, lost }
    }

    fn cells(&self) -> Vec<String> {
        let offset = |of: Option<&Committed>| table::or_dash(of.map(|of| of.offset));
        let metadata = match (self.snapshot, self.now) {
            (Some(was), Some(is)) if was.metadata != is.metadata => Some("other metadata".to_owned()),
            _ => None,
        };
        let note = metadata.into_iter().chain(self.lost.map(|why| format!("cannot be brought back: {why}")));
        let (group, topic, partition) = (self.group.to_owned(), self.topic.to_owned(), self.partition.to_string());
        vec![group, topic, partition, offset(self.snapshot), offset(self.now), note.collect::<Vec<_>>().join("; ")]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::groups::plan::GroupPlan;

    fn plan(target: Option<i64>, current: Option<i64>, metadata: &str) -> Plan {
        let committed = |offset: i64| Committed { offset, metadata: metadata.to_owned() };
        let action = if target == current && metadata.is_empty() { Action::Same } else { Action::Set };
        let (target, current) =
            (target.map(committed), current.map(|offset| Committed { offset, metadata: String::new() }));
        let (topic, topic_id) = ("t".to_owned(), "_".to_owned());
        let row = Row { topic, topic_id, partition: 1, current, target, action, exactness: None };
        let group = GroupPlan { group: "g".to_owned(), rows: vec![row], ..GroupPlan::default() };
        Plan { groups: vec![group], ..Plan::default() }
    }

    fn snapshot() -> Snapshot {
        Snapshot {
            id: "snapshot-20241203-100000".to_owned(),
            created_at: String::new(),
            created_by: String::new(),
            process: crate::restore::state::Process::this(),
            cluster_id: None,
            description: String::new(),
            groups: Vec::new(),
        }
    }

    #[test]
    fn what_differs_is_a_row_and_exit_code_4() {
        let (snapshot, plan) = (snapshot(), plan(Some(7), None, ""));
        let shown = Shown::of(&snapshot, &plan);
        let page = shown.page(&plan);
        let line = page.text().lines().find(|line| line.starts_with("g ")).map(str::to_owned);
        assert_eq!(line.as_deref(), Some("g               t          1          7         -"));
        assert!(page.text().ends_with("\n1 of 1 partition in 1 group differs\n"), "{}", page.text());
        let error = shown.verdict().expect_err("it differs");
        assert!(
            error.exit_code() == 4 && error.to_string().starts_with("1 partition is not as in snapshot-"),
            "{error}"
        );
    }

    #[test]
    fn metadata_counts_and_what_is_as_it_was_is_no_difference() {
        let (snapshot, other) = (snapshot(), plan(Some(7), Some(7), "mine"));
        let page = Shown::of(&snapshot, &other).page(&other);
        assert!(page.text().contains("other metadata"), "{}", page.text());
        let same = plan(Some(7), Some(7), "");
        let shown = Shown::of(&snapshot, &same);
        shown.verdict().expect("as it was");
        assert!(shown.page(&same).text().ends_with("\n0 of 1 partition in 1 group differ\n"));
    }

    #[test]
    fn a_group_that_cannot_be_read_is_no_success() {
        let (snapshot, mut plan) = (snapshot(), plan(Some(7), Some(7), ""));
        plan.groups[0].rows.clear();
        plan.groups[0].refused = Some("no authority".to_owned());
        let error = Shown::of(&snapshot, &plan).verdict().expect_err("not compared");
        assert!(error.exit_code() == 1 && error.to_string().contains("no authority"), "{error}");
    }
}
