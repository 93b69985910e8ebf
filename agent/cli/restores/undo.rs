//! `restores undo`: the consumer groups that a restore has put back, put to where they stood before; the topics that it made,
//! deleted. That is [`undoing`](crate::recovery::undoing)'s; here it is asked for and printed.

use serde::Serialize;

use super::super::Format;
use super::super::cluster::ClusterArgs;
use super::super::offset_rollback::performed::{ended, say_undo};
use super::super::table::{self, Output, Page};
use super::RestoreArgs;
use crate::error::Result;
use crate::groups::restoring::undo::GroupFate;
use crate::groups::snapshot::Snapshots;
use crate::kafka::client::{Client, OPEN_WITHIN};
use crate::recovery::undoing;
use crate::restore::undo::{Accept, Action, Fate, Fates, Group};

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
/// As [`undoing::undo`] and [`ended`]; after printing, [`Kind::Failed`](crate::error::Kind::Failed) where a topic
/// that the restore made was not deleted, or a group that stands where it has put it was not put back; or would not be, as
/// far as a dry run can tell.
pub(super) async fn run(args: Args) -> Result<()> {
    let properties = args.cluster.properties()?;
    let state = args.restore.open().await?;
    let client = Client::open(properties, OPEN_WITHIN).await?;
    let accept = &args.accept;
    let outcome = match args.dry_run {
        true => undoing::preview(&client, &state, accept).await?,
        false => {
            let snapshots = snapshots(&args.restore)?;
            let kept = |id: &str| say_undo(&snapshots, id, &args.cluster);
            undoing::undo(&client, &state, accept, &snapshots, kept).await?
        }
    };
    let Fates { topics, group } = &outcome.fates;
    let (groups, snapshot) = (outcome.undoing.groups.as_slice(), outcome.undoing.snapshot.as_deref());
    let (restore_id, dry_run, group) = (state.restore_id(), args.dry_run, group.as_ref());
    let shown = Shown { restore_id, dry_run, topics, group, groups, snapshot };
    let printed = Output::stdout().and_then(|mut output| {
        shown.print(args.format, &mut output)?;
        output.finish()
    });
    match args.dry_run {
        true => printed.and_then(|()| outcome.verdict(true)),
        false => ended(outcome.verdict(false), printed),
    }
}

/// Opens the place of the snapshots that are made unasked: beside what the restores keep.
fn snapshots(args: &RestoreArgs) -> Result<Snapshots> {
    let place = args.state.state.as_deref().or(args.state.path.as_deref()).unwrap_or_default();
    Snapshots::open(place, Some(&args.state.backup_id))
}

impl Shown<'_> {
    fn print(&self, format: Format, output: &mut Output) -> Result<()> {
        match format {
            Format::Json => output.json(self),
            Format::Csv => {
                output.write(b"kind,name,topic_id,action,why\n")?;
                self.rows().iter().try_for_each(|row| output.write(table::csv(row).as_bytes()))
            }
            Format::Table => output.write(self.page().text().as_bytes()),
        }
    }

    /// Returns all of it as rows: what it is, its name, its id, what becomes of it, why.
    fn rows(&self) -> Vec<Vec<String>> {
        let row = |kind: &str, name: &str, action: String, why: &str| {
            vec![kind.to_owned(), name.to_owned(), String::new(), action, why.to_owned()]
        };
        let topic = |fate: &Fate| {
            let cells = cells(fate).map(Option::unwrap_or_default);
            std::iter::once("topic".to_owned()).chain(cells).collect()
        };
        let mut rows: Vec<Vec<String>> = self.topics.iter().map(topic).collect();
        rows.extend(self.group.map(|of| row("restore-group", &of.group, of.action.to_string(), &of.why)));
        rows.extend(self.groups.iter().map(|of| row("group", &of.group, of.action.to_string(), &of.why)));
        let why = "what the groups had committed till now";
        rows.extend(self.snapshot.map(|id| row("snapshot", id, "kept".to_owned(), why)));
        rows
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
    use crate::groups::restoring::undo::{Fate as GroupAction, Undoing};
    use crate::record::TopicId;
    use crate::recovery::undoing::Outcome;

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

    fn verdict(fates: Fates, groups: &[GroupFate], dry_run: bool) -> Result<()> {
        let mut undoing = Undoing::default();
        undoing.groups.extend_from_slice(groups);
        Outcome { fates, undoing }.verdict(dry_run)
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
        let wanted = "\
kind,name,topic_id,action,why
topic,a,AAAAAAAAAAAAAAAAAAAAAQ,deleted,so it is
topic,b,,keep,so it is
restore-group,kafka-backup-restore-r1,,delete,it is so
group,g,,put back,so it stands
snapshot,s-1,,kept,what the groups had committed till now
";
        assert_eq!(csv, wanted);
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
        let of = |topics: &[Fate], group: Option<Group>| verdict(Fates { topics: topics.to_vec(), group }, &[], false);
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
        verdict(nothing.clone(), &groups[..1], false).expect("it has moved on: nothing of it is the restore's");
        let error = verdict(nothing.clone(), &groups, false).expect_err("it is read").to_string();
        assert!(error.contains("group \"g\", which the restore has set, was not put back: so it stands"), "{error}");
        let error = verdict(nothing.clone(), &groups, true).expect_err("it would be the same").to_string();
        assert!(error.contains("which the restore has set, would not be put back: so it stands"), "{error}");
        let both = Fates { topics: left.to_vec(), group: None };
        let error = verdict(both, &[], true).expect_err("two would be left").to_string();
        assert!(error.contains("would not be deleted: so it is; nor would 1 more"), "{error}");
        let unsent = Fate { is_unsent: true, ..fate("c", true, Action::Keep) };
        let error = of(&[unsent], None).expect_err("it is left");
        assert!(error.to_string().contains("\"c\", which the restore may have made"), "{error}");
    }
}
