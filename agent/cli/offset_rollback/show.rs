//! `offset-rollback show`: all that a snapshot holds.

use super::super::Format;
use super::super::table::{self, Output, Page};
use crate::error::Result;
use crate::groups::snapshot::Snapshot;

/// Prints it to stdout.
///
/// # Errors
/// As [`Output::write`].
pub(super) fn run(snapshot: &Snapshot, format: Format) -> Result<()> {
    let mut output = Output::stdout()?;
    print(snapshot, format, &mut output)?;
    output.finish()
}

/// Prints it; JSON is what its object says.
///
/// # Errors
/// As [`Output::write`].
pub(super) fn print(snapshot: &Snapshot, format: Format, output: &mut Output) -> Result<()> {
    match format {
        Format::Json => output.json(snapshot),
        Format::Csv => {
            output.write(b"group,topic,partition,offset,metadata\n")?;
            for group in &snapshot.groups {
                for (topic, kept) in group.kept() {
                    let offset = kept.1.map(|offset| offset.to_string()).unwrap_or_default();
                    let cells = [group.group.clone(), topic.topic.clone(), kept.0.to_string(), offset, kept.2.clone()];
                    output.write(table::csv(&cells).as_bytes())?;
                }
            }
            Ok(())
        }
        Format::Table => output.write(page(snapshot).text().as_bytes()),
    }
}

fn page(snapshot: &Snapshot) -> Page {
    let id = if snapshot.id.is_empty() { "not kept" } else { &snapshot.id };
    let mut page = Page::new(format_args!("Offset Snapshot: {id}"));
    page.line(format_args!("Created: {} by {}", snapshot.created_at, snapshot.created_by));
    page.line(format_args!("Cluster: {}", table::or_dash(snapshot.cluster_id.as_ref())));
    if !snapshot.description.is_empty() {
        page.line(format_args!("Description: {}", snapshot.description));
    }
    for group in &snapshot.groups {
        page.line(format_args!("\nConsumer Group: {} ({}, {})", group.group, group.kind, group.state));
        if let Some(why) = &group.error {
            page.line(format_args!("No offsets: {why}"));
            continue;
        }
        let rows: Vec<Vec<String>> = group
            .kept()
            .map(|(topic, kept)| vec![topic.topic.clone(), kept.0.to_string(), table::or_dash(kept.1), kept.2.clone()])
            .collect();
        match rows.is_empty() {
            true => page.line("It had committed nothing"),
            false => page.table_of(&[("Topic", 9), ("Partition", 9), ("Offset", 7), ("Metadata", 0)], &rows),
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::savepoint::Topic;
    use crate::groups::snapshot::{Group, Kept};

    #[test]
    fn each_group_has_its_offsets_its_metadata_and_what_it_had_not() {
        let partitions = vec![Kept(0, Some(7), "mine".to_owned()), Kept(1, None, String::new())];
        let offsets = vec![Topic { topic: "orders".to_owned(), topic_id: "_".to_owned(), partitions }];
        let group = |name: &str, offsets| Group {
            group: name.to_owned(),
            kind: "classic".to_owned(),
            state: "Empty".to_owned(),
            error: None,
            offsets,
        };
        let snapshot = Snapshot {
            id: "snapshot-20241203-100000".to_owned(),
            created_at: "2024-12-03T10:00:00Z".to_owned(),
            created_by: "kafka-backup 1".to_owned(),
            process: crate::restore::state::Process::this(),
            cluster_id: None,
            description: "why".to_owned(),
            groups: vec![group("g", offsets), group("h", Vec::new())],
        };
        let page = page(&snapshot);
        let lines: Vec<&str> = page.text().lines().collect();
        assert!(
            lines.contains(&"Consumer Group: g (classic, Empty)") && lines.contains(&"Description: why"),
            "{lines:?}"
        );
        assert!(
            lines.contains(&"orders     0          7        mine") && lines.contains(&"orders     1          -"),
            "{lines:?}"
        );
        assert_eq!(lines.last(), Some(&"It had committed nothing"));
    }
}
