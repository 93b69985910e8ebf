//! `restores undo`: the consumer groups that a restore has put back, put to where they stood before; the topics that it made,
//! deleted. What of that may be done is [`restoring::undo`](crate::groups::restoring::undo)'s and
//! [`undo`](crate::restore::undo)'s; here it is asked for and printed.
//!
//! Order: that the restore is undone, where groups are to be put back; the groups; the topics. Deleting a topic deletes what
//! groups have committed for it: whether one has moved on could not be told any more.

use serde::Serialize;

use super::super::Format;
use super::super::cluster::ClusterArgs;
use super::super::table::{self, Output, Page};
use super::RestoreArgs;
use crate::error::{Error, Result};
use crate::groups::restoring::undo::{GroupFate, Undoing};
use crate::groups::snapshot::Snapshots;
use crate::kafka::client::{Client, OPEN_WITHIN};
use crate::restore::undo::{Accept, Action, Fate, Fates, Group, Undo};

/// What the user typed after `restores undo`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    restore: RestoreArgs,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Say which groups would be put back and which topics deleted, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Delete topics though this may be so; may be given again
    #[arg(long, value_name = "WHAT")]
    accept: Vec<Accept>,
    /// How to print
    #[arg(long, short = 'o', value_enum, default_value_t)]
    format: Format,
}

/// What becomes of the topics; its JSON is stable.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    restore_id: &'a str,
    dry_run: bool,
    topics: &'a [Fate],
    /// The group that says how far it has come, where there is one.
    group: Option<&'a Group>,
    /// The consumer groups that it has put back.
    groups: &'a [GroupFate],
    /// The snapshot of what they had committed before they were put back again.
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshot: Option<&'a str>,
}

/// Puts back and deletes, or says what would be, and prints that.
///
/// # Errors
/// As [`Undo::perform`] and [`Undoing::perform`]; after printing, [`Kind::Failed`](crate::error::Kind::Failed) where a topic
/// that the restore made was not deleted, or a group that stands where it has put it was not put back.
pub(super) async fn run(args: Args) -> Result<()> {
    let properties = args.cluster.properties()?;
    let state = args.restore.open().await?;
    let client = Client::open(properties, OPEN_WITHIN).await?;
    let undo = Undo { client: &client, state: &state, accept: &args.accept };
    let mut fates = undo.plan().await?;
    let mut undoing = Undoing::look(&client, &state).await?;
    if !args.dry_run {
        if undoing.is_begun() {
            undo.mark(&fates.topics).await?;
            undoing.perform(&client, &snapshots(&args.restore)?).await?;
        }
        fates = undo.perform().await?;
    }
    let mut output = Output::stdout()?;
    let Fates { topics, group } = &fates;
    let (groups, snapshot) = (undoing.groups.as_slice(), undoing.snapshot.as_deref());
    let (restore_id, dry_run, group) = (state.restore_id(), args.dry_run, group.as_ref());
    let shown = Shown { restore_id, dry_run, topics, group, groups, snapshot };
    shown.print(args.format, &mut output)?;
    output.finish()?;
    if args.dry_run { Ok(()) } else { verdict(&fates, groups) }
}

/// Opens the place of the snapshots that are made unasked: beside what the restores keep.
fn snapshots(args: &RestoreArgs) -> Result<Snapshots> {
    let place = args.state.state.as_deref().or(args.state.path.as_deref()).unwrap_or_default();
    Snapshots::open(place, Some(&args.state.backup_id))
}

/// Refuses to call it undone where something that the restore made or set is left.
fn verdict(fates: &Fates, groups: &[GroupFate]) -> Result<()> {
    if let Some(GroupFate { group, why, .. }) = groups.iter().find(|group| group.is_left) {
        return Err(Error::failed(format!("group \"{group}\", which the restore has set, was not put back: {why}")));
    }
    let left: Vec<_> = fates.topics.iter().filter(|fate| fate.is_left()).collect();
    let Some(first) = left.first() else {
        return match fates.group.as_ref().filter(|group| group.is_left()) {
            None => Ok(()),
            Some(Group { group, why, .. }) => Err(Error::failed(format!(
                "group \"{group}\", to which the restore has committed, was not deleted: {why}"
            ))),
        };
    };
    let others = match left.len() {
        1 => String::new(),
        more => format!("; nor were {} more", more - 1),
    };
    // No attempt names it: another restore may have made it.
    let made = if first.is_unsent { "may have made" } else { "made" };
    Err(Error::failed(format!(
        "topic \"{}\", which the restore {made}, was not deleted: {}{others}",
        first.topic, first.why
    )))
}

impl Shown<'_> {
    fn print(&self, format: Format, output: &mut Output) -> Result<()> {
        match format {
            Format::Json => output.json(self),
            Format::Csv => {
                output.write(b"topic,topic_id,action,why\n")?;
                for fate in self.topics {
                    output.write(table::csv(&cells(fate).map(Option::unwrap_or_default)).as_bytes())?;
                }
                Ok(())
            }
            Format::Table => output.write(self.page().text().as_bytes()),
        }
    }

    fn page(&self) -> Page {
        let mut page = Page::new(format_args!("Undo: {}", self.restore_id));
        let rows: Vec<_> = self.topics.iter().map(|fate| cells(fate).map(table::or_dash).to_vec()).collect();
        page.table(&["Topic", "Id", "Action", "Why"], &rows);
        if let Some(Group { group, action, why }) = self.group {
            page.line(format_args!("Group {group}: {action}: {why}"));
        }
        for GroupFate { group, action, why, .. } in self.groups {
            page.line(format_args!("Group {group}: {action}: {why}"));
        }
        if let Some(snapshot) = self.snapshot {
            page.line(format_args!("What the groups had committed till now is kept as {snapshot}"));
        }
        let of = |action| self.topics.iter().filter(|fate| fate.action == action).count() as u64;
        match self.dry_run {
            true => page.line(format_args!("{} would be deleted", table::counted(of(Action::Delete), "topic"))),
            false => page.line(format_args!("{} deleted", table::counted(of(Action::Deleted), "topic"))),
        }
        page
    }
}

fn cells(fate: &Fate) -> [Option<String>; 4] {
    let id = fate.topic_id.map(|id| id.to_string());
    [Some(fate.topic.clone()), id, Some(fate.action.to_string()), Some(fate.why.clone())]
}

#[cfg(test)]
mod tests {
    use super::super::super::table::tests::Written;
    use super::*;
    use crate::groups::restoring::undo::Fate as GroupAction;
    use crate::record::TopicId;

    fn fate(topic: &str, made: bool, action: Action) -> Fate {
        let topic_id = made.then(|| TopicId(uuid::Uuid::from_u128(1)));
        Fate { topic: topic.to_owned(), topic_id, made, action, why: "so it is".to_owned(), is_unsent: false }
    }

    fn group(action: Action) -> Group {
        Group { group: "kafka-backup-restore-r1".to_owned(), action, why: "it is so".to_owned() }
    }

    fn group_fate(action: GroupAction, is_left: bool) -> GroupFate {
        GroupFate { group: "g".to_owned(), action, why: "so it stands".to_owned(), is_left, is_made: false }
    }

    fn printed(topics: &[Fate], dry_run: bool, format: Format) -> String {
        let (mut output, written) = Written::output();
        let group = group(Action::Delete);
        let groups = [group_fate(GroupAction::PutBack, false)];
        let shown =
            Shown { restore_id: "r1", dry_run, topics, group: Some(&group), groups: &groups, snapshot: Some("s-1") };
        shown.print(format, &mut output).expect("written");
        output.finish().expect("written");
        written.text()
    }

    #[test]
    fn each_topic_is_a_row_with_what_becomes_of_it_and_why() {
        let fates = [fate("a", true, Action::Deleted), fate("b", false, Action::Keep)];
        let table = printed(&fates, false, Format::Table);
        assert!(table.starts_with("Undo: r1\n") && table.ends_with("\n1 topic deleted\n"), "{table}");
        assert!(table.contains("\nb      -                       keep     so it is\n"), "{table}");
        assert!(table.contains("\nGroup kafka-backup-restore-r1: delete: it is so\n"), "{table}");
        assert!(table.contains("\nGroup g: put back: so it stands\nWhat the groups"), "{table}");
        let csv = printed(&fates, false, Format::Csv);
        assert_eq!(csv.lines().nth(1), Some("a,AAAAAAAAAAAAAAAAAAAAAQ,deleted,so it is"));
        let json: serde_json::Value = serde_json::from_str(&printed(&fates, true, Format::Json)).expect("JSON");
        assert_eq!((&json["group"]["action"], &json["groups"][0]["action"]), (&"delete".into(), &"put-back".into()));
        assert_eq!((&json["dry_run"], &json["topics"][1]["action"]), (&true.into(), &"keep".into()));
        assert_eq!(
            (&json["topics"][0]["topic_id"], &json["topics"][1]["topic_id"]),
            (&"AAAAAAAAAAAAAAAAAAAAAQ".into(), &serde_json::Value::Null)
        );
    }

    #[test]
    fn what_the_restore_made_and_is_left_is_no_success() {
        let of = |topics: &[Fate], group: Option<Group>| verdict(&Fates { topics: topics.to_vec(), group }, &[]);
        let sound = [fate("a", true, Action::Deleted), fate("b", false, Action::Keep), fate("c", true, Action::Gone)];
        of(&sound, None).expect("all that it made is gone");
        of(&sound, Some(group(Action::Deleted))).expect("and so is its group");
        let error = of(&sound, Some(group(Action::Keep))).expect_err("it is left");
        assert!(error.exit_code() == 1 && error.to_string().contains("restore-r1\", to which"), "{error}");
        let left = [fate("a", true, Action::Keep), fate("b", true, Action::Keep)];
        let error = of(&left, None).expect_err("two are left");
        assert!(error.exit_code() == 1 && error.to_string().contains("\"a\", which the restore made"), "{error}");
        assert!(error.to_string().contains("1 more"), "{error}");
        let groups = [group_fate(GroupAction::Keep, false), group_fate(GroupAction::Keep, true)];
        let nothing = Fates { topics: Vec::new(), group: None };
        verdict(&nothing, &groups[..1]).expect("it has moved on: nothing of it is the restore's");
        let error = verdict(&nothing, &groups).expect_err("it is read").to_string();
        assert!(error.contains("group \"g\", which the restore has set, was not put back: so it stands"), "{error}");
        let unsent = Fate { is_unsent: true, ..fate("c", true, Action::Keep) };
        let error = of(&[unsent], None).expect_err("it is left");
        assert!(error.to_string().contains("\"c\", which the restore may have made"), "{error}");
    }
}
