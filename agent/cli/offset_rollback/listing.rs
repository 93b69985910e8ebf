//! `offset-rollback list`: the snapshots of a place, as on the user's page.

use super::super::Format;
use super::super::table::{self, Output, Page};
use crate::error::{Error, Result};
use crate::groups::snapshot::{Snapshots, Summary as Row};

/// The columns of the user's page with their widths; the last is as wide as it is.
const WIDTHS: [usize; 3] = [26, 20, 6];

/// The user's rule above and below the heads of columns, which is not wider where a description is.
const RULE: usize = 62;

/// Prints them, the newest first.
///
/// # Errors
/// After all are printed: [`Kind::Damaged`](crate::error::Kind::Damaged) when one cannot be read.
pub(super) async fn run(snapshots: &Snapshots, format: Format) -> Result<()> {
    let listed = snapshots.list().await?;
    let rows: Vec<Row> = listed.iter().map(Row::of).collect();
    let mut output = Output::stdout()?;
    print(&rows, format, &mut output)?;
    output.finish()?;
    verdict(listed.into_iter().filter_map(|listed| listed.snapshot.err()).collect())
}

/// Returns one of what cannot be read; the others are logged.
fn verdict(mut unreadable: Vec<Error>) -> Result<()> {
    let Some(one) = unreadable.pop() else { return Ok(()) };
    for error in &unreadable {
        tracing::error!("{error}");
    }
    Err(one.hint(match unreadable.len() {
        0 => "`offset-rollback delete` removes it; the others are sound".to_owned(),
        1 => "one other cannot be read either; `offset-rollback delete` removes each".to_owned(),
        others => format!("{others} others cannot be read either; `offset-rollback delete` removes each"),
    }))
}

fn print(rows: &[Row], format: Format, output: &mut Output) -> Result<()> {
    match format {
        Format::Json => output.json(&rows),
        Format::Csv => {
            output.write(b"id,created_at,groups,offsets,description,cluster_id,error\n")?;
            for row in rows {
                let count = |count: Option<usize>| count.map(|count| count.to_string());
                let text = Option::clone;
                let cells = [
                    Some(row.id.clone()),
                    text(&row.created_at),
                    count(row.groups),
                    count(row.offsets),
                    text(&row.description),
                    text(&row.cluster_id),
                    text(&row.error),
                ];
                output.write(table::csv(&cells.map(Option::unwrap_or_default)).as_bytes())?;
            }
            Ok(())
        }
        Format::Table => output.write(page(rows).text().as_bytes()),
    }
}

fn page(rows: &[Row]) -> Page {
    let mut page = Page::new("Offset Snapshots");
    let line = |cells: [&str; 4]| {
        let mut line = String::new();
        for (cell, width) in cells.iter().zip(WIDTHS) {
            let cell = table::shown(cell);
            line.push_str(&format!("{cell:<width$}  "));
        }
        line + &table::shown(cells[3])
    };
    page.line(line(["ID", "Created", "Groups", "Description"]));
    page.line("─".repeat(RULE));
    for row in rows {
        let damaged = row.error.as_ref().map(|why| format!("damaged: {why}"));
        let description = damaged.or_else(|| row.description.clone());
        let (created, groups) = (table::or_dash(row.created_at.as_ref()), table::or_dash(row.groups));
        let cells = [row.id.as_str(), &created, &groups, description.as_deref().unwrap_or_default()];
        page.line(line(cells).trim_end());
    }
    page
}

#[cfg(test)]
mod tests {
    use super::super::super::table::tests::Written;
    use super::*;
    use crate::groups::snapshot::Listed;

    fn row(id: &str, created_at: &str, description: &str) -> Row {
        Row {
            id: id.to_owned(),
            created_at: Some(created_at.to_owned()),
            groups: Some(2),
            offsets: Some(5),
            description: Some(description.to_owned()),
            cluster_id: None,
            error: None,
        }
    }

    #[test]
    fn the_list_is_that_of_the_users_page() {
        let rows = [
            row("snapshot-20241203-100000", "2024-12-03T10:00:00Z", "Before restore"),
            row("snapshot-20241203-090000", "2024-12-03T09:00:00Z", "Before migration"),
        ];
        let wanted = "\
Offset Snapshots
══════════════════════════════════════════════════════════════
ID                          Created               Groups  Description
──────────────────────────────────────────────────────────────
snapshot-20241203-100000    2024-12-03T10:00:00Z  2       Before restore
snapshot-20241203-090000    2024-12-03T09:00:00Z  2       Before migration
";
        assert_eq!(page(&rows).text(), wanted);
    }

    #[test]
    fn a_damaged_one_is_listed_with_why() {
        let listed = Listed { id: "snapshot-20241203-100000".to_owned(), snapshot: Err(Error::damaged("it is torn")) };
        let rows = [Row::of(&listed)];
        let line = page(&rows).text().lines().last().map(str::to_owned);
        let wanted = "snapshot-20241203-100000    -                     -       damaged: it is torn";
        assert_eq!(line.as_deref(), Some(wanted));
        let (mut output, written) = Written::output();
        print(&rows, Format::Json, &mut output).expect("written");
        output.finish().expect("written");
        let json: serde_json::Value = serde_json::from_str(&written.text()).expect("JSON");
        assert_eq!((&json[0]["error"], &json[0]["groups"]), (&"it is torn".into(), &serde_json::Value::Null));
    }

    #[test]
    fn the_others_are_called_sound_only_where_they_are() {
        verdict(Vec::new()).expect("all can be read");
        let said = |count| {
            let unreadable = (0..count).map(|n| Error::damaged(format!("snapshot {n} is torn"))).collect();
            let error = verdict(unreadable).expect_err("damage");
            assert_eq!(error.exit_code(), 4);
            error.to_string()
        };
        assert!(said(1).ends_with("; the others are sound"), "{}", said(1));
        assert!(said(2).contains("one other cannot be read") && !said(2).contains("sound"), "{}", said(2));
        assert!(said(3).contains("2 others cannot be read"), "{}", said(3));
    }
}
