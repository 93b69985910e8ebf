//! Offsets as Kafka's `kafka-consumer-groups` writes them with `--export` and reads them with `--from-file`: CSV without a head,
//! a line a partition, `group,topic,partition,offset`, or `topic,partition,offset` where one group is meant.
//!
//! What is written is what that tool writes, quotes included; what it has written is read. Stricter than that tool: a number
//! that is missing is an error and not 0, and so is a partition that is named twice with different offsets. Pure.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::groups::plan::Plan;
use crate::record::Offset;

/// Offsets of groups: by group, then by topic and partition.
pub type Offsets = BTreeMap<String, BTreeMap<(String, i32), Offset>>;

/// Longer values are quoted whatever they hold: how Kafka's CSV library saves itself the look. In UTF-16 units.
const MOST_UNQUOTED: usize = 24;

/// Characters up to this one, the comma, are quoted: how that library looks.
const LAST_UNSAFE: char = ',';

/// Reads offsets; `group` is the one whose they are where the lines name none.
///
/// # Errors
/// [`Kind::Usage`](crate::error::Kind::Usage), with the number of the line, for what is no such file; for lines that name no
/// group where no group, or several, are meant.
pub fn read(text: &str, group: Option<&str>) -> Result<Offsets> {
    // Spreadsheets write a mark of the byte order before the first line.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut offsets = Offsets::new();
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    for (at, line) in lines {
        let wrong = |what: String| {
            Error::usage(format!("line {} `{line}` {what}", at + 1))
                .hint("each line is group,topic,partition,offset, or for one group topic,partition,offset")
        };
        let cells = cells(line).ok_or_else(|| wrong("has quotes that do not match".to_owned()))?;
        let (of, topic, partition, offset) = match (cells.as_slice(), group) {
            ([of, topic, partition, offset], _) => (of.as_str(), topic, partition, offset),
            ([topic, partition, offset], Some(group)) => (group, topic, partition, offset),
            ([_, _, _], None) => return Err(wrong("names no group, and it is not one group that is meant".to_owned())),
            _ => return Err(wrong(format!("has {} columns", cells.len()))),
        };
        if of.is_empty() || topic.is_empty() {
            return Err(wrong(format!("has no {}", if of.is_empty() { "group" } else { "topic" })));
        }
        let number = |text: &str| text.trim().parse::<i64>().ok().filter(|number| *number >= 0);
        let partition = number(partition).and_then(|number| i32::try_from(number).ok());
        let partition = partition.ok_or_else(|| wrong("has no number as the partition".to_owned()))?;
        let offset = number(offset).ok_or_else(|| wrong("has no number as the offset".to_owned()))?;
        let before = offsets.entry(of.to_owned()).or_default().insert((topic.clone(), partition), offset);
        if before.is_some_and(|before| before != offset) {
            return Err(wrong(format!("names {topic}-{partition} again, with another offset")));
        }
    }
    Ok(offsets)
}

/// Writes offsets; without the group where `is_single`, as Kafka does where one group is named.
pub fn write(offsets: &Offsets, is_single: bool) -> String {
    let mut text = String::new();
    for (group, offsets) in offsets {
        for ((topic, partition), offset) in offsets {
            if !is_single {
                text.push_str(&quoted(group));
                text.push(',');
            }
            text.push_str(&format!("{},{partition},{offset}\n", quoted(topic)));
        }
    }
    text
}

/// Returns the offsets that groups have when a plan is done: of the partitions that it sets, and those that are so already.
pub fn of_plan(plan: &Plan) -> Offsets {
    let groups = plan.groups.iter().filter(|group| group.refused.is_none());
    let offsets = groups.map(|group| {
        let rows = group.rows.iter().filter_map(|row| {
            let target = row.target.as_ref()?;
            Some(((row.topic.clone(), row.partition), target.offset))
        });
        (group.group.clone(), rows.collect())
    });
    offsets.collect()
}

fn quoted(value: &str) -> String {
    let is_long = value.encode_utf16().count() > MOST_UNQUOTED;
    match is_long || value.chars().any(|char| char <= LAST_UNSAFE) {
        true => format!("\"{}\"", value.replace('"', "\"\"")),
        false => value.to_owned(),
    }
}

/// Returns the cells of a line; `None` where quotes do not match.
fn cells(line: &str) -> Option<Vec<String>> {
    let mut cells = Vec::new();
    let mut rest = line;
    loop {
        let (cell, behind) = match rest.strip_prefix('"') {
            Some(inside) => quoted_cell(inside)?,
            None => {
                let (cell, behind) = rest.split_at(rest.find(',').unwrap_or(rest.len()));
                (cell.to_owned(), behind)
            }
        };
        cells.push(cell);
        match behind.strip_prefix(',') {
            Some(next) => rest = next,
            None => return behind.trim().is_empty().then_some(cells),
        }
    }
}

/// Returns what is quoted, and what follows on the quotes.
fn quoted_cell(inside: &str) -> Option<(String, &str)> {
    let (mut cell, mut rest) = (String::new(), inside);
    loop {
        let (part, behind) = rest.split_once('"')?;
        cell.push_str(part);
        match behind.strip_prefix('"') {
            Some(more) => {
                cell.push('"');
                rest = more;
            }
            None => return Some((cell, behind)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::groups::plan::{Action, GroupPlan, Row};
    use crate::groups::positions::Committed;

    fn offsets(rows: &[(&str, &str, i32, Offset)]) -> Offsets {
        let mut offsets = Offsets::new();
        for (group, topic, partition, offset) in rows {
            let _ = offsets.entry((*group).to_owned()).or_default().insert(((*topic).to_owned(), *partition), *offset);
        }
        offsets
    }

    #[test]
    fn both_forms_are_kafkas() {
        let two = offsets(&[("g", "orders", 0, 5), ("order processor", "orders", 1, 7)]);
        assert_eq!(write(&two, false), "g,orders,0,5\n\"order processor\",orders,1,7\n");
        let one = offsets(&[("g", "orders", 0, 5), ("g", "orders", 1, 7)]);
        assert_eq!(write(&one, true), "orders,0,5\norders,1,7\n");
        assert_eq!(read("orders,0,5\r\norders,1,7\n\n", Some("g")).expect("right"), one);
        assert_eq!(read("g,orders,0,5\n\"g\",orders,1,7", None).expect("right"), one);
        assert_eq!(read("\u{feff}g,orders,0,5\r\ng,orders,1,7\r\n", None).expect("a spreadsheet wrote it"), one);
    }

    #[test]
    fn values_are_quoted_as_jackson_does() {
        let long = "a-group-with-a-name-of-25";
        assert_eq!((long.len(), quoted(long), quoted(&long[1..])), (25, format!("\"{long}\""), long[1..].to_owned()));
        for (value, text) in [
            ("a.b-c_d", "a.b-c_d"),
            ("a b", "\"a b\""),
            ("a\"b", "\"a\"\"b\""),
            ("a,b", "\"a,b\""),
            ("#a", "\"#a\""),
            ("ä:b", "ä:b"),
        ] {
            assert_eq!(quoted(value), text);
        }
    }

    #[test]
    fn what_is_no_such_file_is_refused_with_its_line() {
        for (text, group, what) in [
            ("orders,0,5", None, "line 1 `orders,0,5` names no group, and it is not one group that is meant"),
            ("g,orders,0,5\ng,orders,x,5", None, "line 2 `g,orders,x,5` has no number as the partition"),
            ("g,orders,0,", None, "line 1 `g,orders,0,` has no number as the offset"),
            ("g,orders,0,-1", None, "line 1 `g,orders,0,-1` has no number as the offset"),
            ("g,orders,0,5,6", None, "line 1 `g,orders,0,5,6` has 5 columns"),
            ("topic,partition,offset", Some("g"), "line 1 `topic,partition,offset` has no number as the partition"),
            ("\"g,orders,0,5", None, "line 1 `\"g,orders,0,5` has quotes that do not match"),
            (",orders,0,5", None, "line 1 `,orders,0,5` has no group"),
            ("g,o,0,5\ng,o,0,6", None, "line 2 `g,o,0,6` names o-0 again, with another offset"),
        ] {
            let error = read(text, group).expect_err(text);
            assert!(error.to_string().starts_with(what) && error.exit_code() == 2, "{error}");
        }
    }

    #[test]
    fn a_plan_is_exported_with_what_is_so_already_and_without_what_is_not_set() {
        let row = |partition, target: Option<Offset>, action| Row {
            topic: "orders".into(),
            topic_id: "_".into(),
            partition,
            current: None,
            target: target.map(|offset| Committed { offset, metadata: String::new() }),
            action,
            exactness: None,
        };
        let rows =
            vec![row(0, Some(5), Action::Set), row(1, Some(6), Action::Same), row(2, None, Action::Skip("why".into()))];
        let group = GroupPlan { group: "g".into(), rows, ..GroupPlan::default() };
        let refused = GroupPlan { group: "h".into(), refused: Some("active".into()), ..group.clone() };
        let plan = Plan { groups: vec![group, refused], ..Plan::default() };
        assert_eq!(write(&of_plan(&plan), true), "orders,0,5\norders,1,6\n");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(rows in prop::collection::vec(("[ -~ä€😀]{1,30}", "[a-zA-Z0-9._-]{1,30}", 0..i32::MAX, 0..i64::MAX), 0..9)) {
            let rows: Vec<_> = rows.iter().map(|(group, topic, partition, offset)| (group.as_str(), topic.as_str(), *partition, *offset)).collect();
            let offsets = offsets(&rows);
            prop_assert_eq!(&read(&write(&offsets, false), None).expect("right"), &offsets);
            for (group, of) in &offsets {
                let one = Offsets::from([(group.clone(), of.clone())]);
                prop_assert_eq!(&read(&write(&one, true), Some(group)).expect("right"), &one);
            }
        }
    }
}
