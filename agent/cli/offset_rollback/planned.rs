//! A plan of a rollback, printed.

use super::super::Format;
use super::super::table::{self, Output, Page};
use crate::error::{Error, Kind, Result};
use crate::groups::plan::{Plan, Row};
use crate::groups::positions::Committed;

/// Prints a plan with a title; JSON is the plan as it can be kept.
///
/// # Errors
/// As [`Output::write`].
pub(super) fn print(title: &str, plan: &Plan, format: Format, output: &mut Output) -> Result<()> {
    match format {
        Format::Json => output.json(plan),
        Format::Csv => {
            output.write(b"group,topic,partition,current,target,action\n")?;
            for group in &plan.groups {
                for row in &group.rows {
                    let offset =
                        |of: &Option<Committed>| of.as_ref().map(|of| of.offset.to_string()).unwrap_or_default();
                    let action =
                        group.refused.as_ref().map_or_else(|| row.action.to_string(), |why| format!("SKIP: {why}"));
                    let (name, topic) = (group.group.clone(), row.topic.clone());
                    let cells =
                        [name, topic, row.partition.to_string(), offset(&row.current), offset(&row.target), action];
                    output.write(table::csv(&cells).as_bytes())?;
                }
            }
            Ok(())
        }
        Format::Table => output.write(page(title, plan).text().as_bytes()),
    }
}

/// Says of a plan that is not performed whether it could be.
///
/// # Errors
/// [`Kind::Failed`] where a group is refused for `refusal`, [`Kind::Partial`] where a partition would be skipped.
pub(super) fn verdict(plan: &Plan, refusal: &str) -> Result<()> {
    match plan.groups.iter().find(|group| group.refused.as_deref() == Some(refusal)) {
        Some(group) => Err(Error::failed(refusal).hint(format!("stop the consumers of group '{}'", group.group))),
        None => match plan.lacking() {
            0 => Ok(()),
            _ => Err(Error::new(
                Kind::Partial,
                "not all of it would be as it was: the plan says what is skipped, and why",
            )),
        },
    }
}

fn page(title: &str, plan: &Plan) -> Page {
    let mut page = Page::new(title);
    for group in &plan.groups {
        page.line(format_args!("\nConsumer Group: {}", group.group));
        let rows: Vec<_> = group.rows.iter().map(cells).collect();
        if !rows.is_empty() {
            let heads = [("Topic", 9), ("Partition", 9), ("Current", 7), ("Target", 7), ("Action", 0)];
            page.table_of(&heads, &rows);
        }
        if let Some(why) = &group.refused {
            page.line(format_args!("Nothing of it is touched: {why}"));
        }
    }
    page.line(format_args!("\nTotal partitions to change: {}", plan.changes()));
    page
}

fn cells(row: &Row) -> Vec<String> {
    let offset = |of: &Option<Committed>| table::or_dash(of.as_ref().map(|of| of.offset));
    let (topic, partition) = (row.topic.clone(), row.partition.to_string());
    vec![topic, partition, offset(&row.current), offset(&row.target), row.action.to_string()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::groups::plan::{Action, GroupPlan};

    #[test]
    fn each_partition_has_where_it_is_and_where_it_is_to_be() {
        let committed = |offset: i64| Some(Committed { offset, metadata: String::new() });
        let row = Row {
            topic: "orders".to_owned(),
            topic_id: "_".to_owned(),
            partition: 2,
            current: committed(9),
            target: None,
            action: Action::Delete,
            exactness: None,
        };
        let mut plan = Plan::default();
        plan.groups.push(GroupPlan { group: "g".to_owned(), rows: vec![row], ..GroupPlan::default() });
        let text = page("Offset Rollback Plan: s", &plan).text().to_owned();
        assert!(text.contains("\norders     2          9        -        DELETE\n"), "{text}");
        assert!(text.ends_with("\nTotal partitions to change: 1\n"), "{text}");
        verdict(&plan, "why").expect("it can be done");
        plan.groups[0].refused = Some("why".to_owned());
        assert_eq!(verdict(&plan, "why").expect_err("it cannot").exit_code(), 1);
        assert!(page("", &plan).text().ends_with("\nNothing of it is touched: why\n\nTotal partitions to change: 0\n"));
    }
}
