//! A plan, printed: as on the user's page, as CSV, as JSON, which can be performed later.

use std::collections::BTreeMap;

use super::super::Format;
use super::super::table::{self, Output, Page};
use crate::error::{Error, Result};
use crate::groups::ACTIVE;
use crate::groups::plan::{Action, GroupPlan, Plan, Row};
use crate::groups::positions::Committed;
use crate::groups::present::Present;
use crate::kafka::client::Client;
use crate::kafka::client::groups::Member;
use crate::telemetry::logging;

/// The members of groups, for people.
pub(in crate::cli) type Shown = BTreeMap<String, Vec<String>>;

/// Asks who the members of those groups are that are refused because they have any.
///
/// # Errors
/// Those of the client.
pub(in crate::cli) async fn members(client: &Client, plan: &Plan) -> Result<Shown> {
    let is_active = |group: &&GroupPlan| group.refused.as_deref() == Some(ACTIVE);
    let names: Vec<String> = plan.groups.iter().filter(is_active).map(|group| group.group.clone()).collect();
    if names.is_empty() {
        return Ok(Shown::new());
    }
    let present = Present::look(client, &names).await?;
    let told =
        present.groups.iter().map(|(name, now)| (name.clone(), now.known_members().iter().map(member).collect()));
    Ok(told.collect())
}

/// Returns a member for people: client id, host, instance id.
pub(in crate::cli) fn member(member: &Member) -> String {
    let instance = member.instance_id.as_ref().map(|id| format!(" (instance {id})")).unwrap_or_default();
    format!("{} on {}{instance}", member.client_id, member.host)
}

/// Prints a plan; what people are to know besides goes to stderr.
///
/// # Errors
/// As [`Output::write`].
pub(in crate::cli) fn print(plan: &Plan, members: &Shown, format: Format, output: &mut Output) -> Result<()> {
    match format {
        Format::Json => output.json(plan),
        Format::Csv => output.write(lines(plan).as_bytes()),
        Format::Table => {
            for (what, of) in [("positions", &plan.positions), ("places", &plan.places)] {
                if !of.is_empty() {
                    logging::say(&format!("{what}: {}", table::shown(of)));
                }
            }
            output.write(page(plan, members).text().as_bytes())
        }
    }
}

fn page(plan: &Plan, members: &Shown) -> Page {
    let mut page = Page::new("Offset Reset Plan");
    for group in &plan.groups {
        page.line(format_args!("\nConsumer Group: {}", group.group));
        put_group(&mut page, group);
        put_notes(&mut page, group, members);
    }
    let set = plan.groups.iter().flat_map(GroupPlan::changes).filter(|row| row.action == Action::Set).count();
    page.line(format_args!("\nTotal partitions to reset: {set}"));
    page
}

/// Adds the table of a group: the user's page's columns and widths, then ours.
fn put_group(page: &mut Page, group: &GroupPlan) {
    if group.rows.is_empty() {
        return;
    }
    let has_why = group.rows.iter().any(|row| why(row).is_some());
    let mut heads =
        vec![("Topic", 9), ("Partition", 9), ("Current", 7), ("Target", 7), ("Action", 6), ("Exactness", 9)];
    if has_why {
        heads.push(("Why", 0));
    }
    let rows: Vec<Vec<String>> = group.rows.iter().map(|row| cells(row, "-").into()).collect();
    page.table_of(&heads, &rows);
}

/// Adds what of a group is not to be had.
fn put_notes(page: &mut Page, group: &GroupPlan, members: &Shown) {
    for member in members.get(&group.group).into_iter().flatten() {
        page.line(format_args!("Member: {member}"));
    }
    for (what, of) in [("Refused", &group.refused), ("Missing", &group.lacks)] {
        if let Some(why) = of {
            page.line(format_args!("{what}: {why}"));
        }
    }
}

/// Returns what is in a row, with `none` for what is not there; the last is why nothing is done.
fn cells(row: &Row, none: &str) -> [String; 7] {
    let offset = |committed: &Option<Committed>| {
        committed.as_ref().map_or_else(|| none.to_owned(), |committed| committed.offset.to_string())
    };
    [
        row.topic.clone(),
        row.partition.to_string(),
        offset(&row.current),
        offset(&row.target),
        word(&row.action).to_owned(),
        row.exactness.map_or_else(|| none.to_owned(), |exactness| exactness.to_string()),
        why(row).unwrap_or_default().to_owned(),
    ]
}

/// Returns what is done in one word.
pub(in crate::cli) fn word(action: &Action) -> &'static str {
    match action {
        Action::Set => "SET",
        Action::Delete => "DELETE",
        Action::Same => "SAME",
        Action::Skip(_) => "SKIP",
    }
}

fn why(row: &Row) -> Option<&str> {
    match &row.action {
        Action::Skip(why) => Some(why),
        Action::Set | Action::Delete | Action::Same => None,
    }
}

fn lines(plan: &Plan) -> String {
    let mut lines = "group,topic,partition,current,target,action,exactness,why\n".to_owned();
    for group in &plan.groups {
        let refused = group.refused.clone().or_else(|| group.lacks.clone().filter(|_| group.rows.is_empty()));
        for row in &group.rows {
            let mut cells = cells(row, "").to_vec();
            // A group that is refused stays as it is, whatever would be done with its partitions.
            if let Some(why) = &refused {
                (cells[4], cells[6]) = ("SKIP".to_owned(), why.clone());
            }
            cells.insert(0, group.group.clone());
            lines.push_str(&table::csv(&cells));
        }
        if let Some(why) = refused.filter(|_| group.rows.is_empty()) {
            let none = String::new();
            let cells = [
                group.group.clone(),
                none.clone(),
                none.clone(),
                none.clone(),
                none.clone(),
                "SKIP".to_owned(),
                none,
                why,
            ];
            lines.push_str(&table::csv(&cells));
        }
    }
    lines
}

/// Refuses a plan by which no partition is set or is so already.
///
/// # Errors
/// [`Kind::Failed`](crate::error::Kind::Failed) with the first reason, in the words of the user's page where it has some.
pub(in crate::cli) fn verdict(plan: &Plan) -> Result<()> {
    let open = plan.groups.iter().filter(|group| group.refused.is_none());
    if open.flat_map(|group| &group.rows).any(|row| why(row).is_none()) {
        return Ok(());
    }
    let reason = |group: &GroupPlan| -> Option<Error> {
        if group.refused.as_deref() == Some(ACTIVE) {
            let hint = format!("stop the consumers of '{}', or add --wait-until-empty", group.group);
            return Some(Error::failed(ACTIVE).hint(hint));
        }
        let skipped = group.rows.iter().find_map(why);
        let (name, refused) = (&group.group, group.refused.as_deref().or(group.lacks.as_deref()));
        skipped.map(Error::failed).or_else(|| refused.map(|why| Error::failed(format!("group '{name}': {why}"))))
    };
    let none =
        || Error::failed("there is nothing to reset").hint("no group has a position there: --positions says others");
    Err(plan.groups.iter().find_map(reason).unwrap_or_else(none))
}

#[cfg(test)]
mod tests {
    use super::super::super::table::tests::Written;
    use super::*;
    use crate::groups::places::Exactness;

    fn row(topic: &str, partition: i32, current: Option<i64>, target: i64, action: Action) -> Row {
        let committed = |offset| Committed { offset, metadata: String::new() };
        let is_skipped = matches!(action, Action::Skip(_));
        Row {
            topic: topic.into(),
            topic_id: "_".into(),
            partition,
            current: current.map(committed),
            target: (!is_skipped).then(|| committed(target)),
            exactness: (!is_skipped).then_some(Exactness::Exact),
            action,
        }
    }

    fn group(group: &str, rows: Vec<Row>) -> GroupPlan {
        GroupPlan { group: group.into(), kind: "classic".into(), state: "Empty".into(), rows, ..GroupPlan::default() }
    }

    fn printed(groups: &[GroupPlan], format: Format) -> String {
        let (mut output, written) = Written::output();
        let plan = Plan { groups: groups.to_vec(), ..Plan::default() };
        let members = Shown::from([("a".to_owned(), vec!["c-1 on /127.0.0.1".to_owned()])]);
        print(&plan, &members, format, &mut output).expect("written");
        output.finish().expect("written");
        written.text()
    }

    /// The plan of the user's page.
    const PAGE: &str = "\
Offset Reset Plan
══════════════════════════════════════════════════════════════

Consumer Group: order-processor
─────────────────────────────────────────────────────────────
Topic      Partition  Current  Target   Action
─────────────────────────────────────────────────────────────
orders     0          -        150233   SET
orders     1          -        148891   SET
orders     2          -        152456   SET

Consumer Group: payment-service
─────────────────────────────────────────────────────────────
payments   0          -        78234    SET
payments   1          -        76543    SET

Total partitions to reset: 5
";

    #[test]
    fn a_plan_is_printed_as_on_the_users_page_with_columns_behind_its_own() {
        let set = |topic, partition, target| row(topic, partition, None, target, Action::Set);
        let orders = vec![set("orders", 0, 150_233), set("orders", 1, 148_891), set("orders", 2, 152_456)];
        let payments = vec![set("payments", 0, 78_234), set("payments", 1, 76_543)];
        let printed = printed(&[group("order-processor", orders), group("payment-service", payments)], Format::Table);
        let mut ours: Vec<&str> = printed.lines().collect();
        // The heads of later groups, with the rule below them.
        let _ = ours.drain(12..14);
        assert_eq!(ours.len(), PAGE.lines().count(), "{printed}");
        for (ours, theirs) in ours.iter().zip(PAGE.lines()) {
            assert!(ours.starts_with(theirs), "{ours}\n{theirs}");
        }
        assert_eq!(ours[7], "orders     0          -        150233   SET     exact");
    }

    #[test]
    fn what_is_not_set_says_why_and_the_total_counts_what_is() {
        let why = "Offset 9 is out of range for partition 1 (current: 0-5); so it is";
        let rows = vec![row("t", 0, Some(3), 3, Action::Same), row("t", 1, Some(3), 9, Action::Skip(why.into()))];
        let active = GroupPlan { refused: Some(ACTIVE.into()), ..group("a", vec![row("t", 0, None, 3, Action::Set)]) };
        let lacking = GroupPlan { lacks: Some("not told".into()), ..group("b", rows) };
        let table = printed(&[active.clone(), lacking.clone()], Format::Table);
        assert!(table.contains("\nt          0          3        3        SAME    exact\n"), "{table}");
        assert!(
            table.contains(&format!("\nt          1          3        -        SKIP    -          {why}\n")),
            "{table}"
        );
        assert!(table.contains("\nMember: c-1 on /127.0.0.1\nRefused: Consumer group has active members\n"), "{table}");
        assert!(table.ends_with("\nMissing: not told\n\nTotal partitions to reset: 0\n"), "{table}");
        let csv = printed(&[active, lacking], Format::Csv);
        let lines: Vec<_> = csv.lines().collect();
        assert_eq!(lines[1], "a,t,0,,3,SKIP,exact,Consumer group has active members");
        assert_eq!(lines[2..], ["b,t,0,3,3,SAME,exact,".to_owned(), format!("b,t,1,3,,SKIP,,{why}")]);
    }

    #[test]
    fn a_plan_that_is_printed_as_json_reads_back() {
        let groups =
            [group("g", vec![row("t", 0, Some(3), 4, Action::Set), row("t", 1, None, 0, Action::Skip("x".into()))])];
        let read: Plan = serde_json::from_str(&printed(&groups, Format::Json)).expect("JSON");
        assert_eq!(read.groups, groups);
    }

    #[test]
    fn a_plan_by_which_nothing_is_as_wanted_ends_with_the_first_reason() {
        let verdict = |groups: Vec<GroupPlan>| verdict(&Plan { groups, ..Plan::default() });
        let skip = || row("t", 0, None, 0, Action::Skip("so it is".into()));
        verdict(vec![group("g", vec![skip(), row("t", 1, Some(1), 1, Action::Same)])]).expect("one is so already");
        let error = verdict(vec![group("g", vec![skip()])]).expect_err("nothing is");
        assert_eq!((error.exit_code(), error.to_string()), (1, "so it is".to_owned()));
        let active = GroupPlan { refused: Some(ACTIVE.into()), ..group("g", vec![row("t", 1, None, 1, Action::Set)]) };
        let error = verdict(vec![active]).expect_err("it is active");
        assert!(error.to_string().starts_with("Consumer group has active members; stop"), "{error}");
        assert!(verdict(Vec::new()).is_err_and(|error| error.to_string().starts_with("there is nothing to reset")));
    }
}
