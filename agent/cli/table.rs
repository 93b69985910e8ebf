//! What the read-side verbs print: tables as on the user's page, CSV, JSON, and the one buffered way to stdout.
//!
//! What is for people goes through [`shown`]: whoever can write to a store can name an object as a terminal's commands are
//! written. Data is exact.
//!
//! A reader that goes away (`| head`) ends the output quietly and leaves the verb its own verdict: `verify | head -1`
//! must not turn damage into success.

use std::borrow::Cow;
use std::fmt::Display;
use std::fs::File;
use std::io::{BufWriter, ErrorKind, Write};
use std::os::fd::AsFd as _;

use serde::Serialize;

use crate::error::{Error, Result};
pub use crate::telemetry::logging::counted;

/// Bytes gathered before a write: a quarter costs `cat` a system call for each few records, more gains nothing.
const BUFFER_BYTES: usize = 256 << 10;

/// Stdout for data.
pub struct Output {
    writer: BufWriter<Box<dyn Write + Send>>,
    closed: bool,
}

impl Output {
    /// Opens stdout, past the line buffer that the standard library puts before it.
    ///
    /// # Errors
    /// [`Kind::Failed`](crate::error::Kind::Failed) when the process has none.
    pub fn stdout() -> Result<Self> {
        let owned = std::io::stdout().as_fd().try_clone_to_owned();
        let file = File::from(owned.map_err(|error| Error::failed("there is no stdout").source(error))?);
        Ok(Self::to(Box::new(file)))
    }

    /// Writes to `writer` instead.
    pub fn to(writer: Box<dyn Write + Send>) -> Self {
        Self { writer: BufWriter::with_capacity(BUFFER_BYTES, writer), closed: false }
    }

    /// Writes `bytes` as they are.
    ///
    /// # Errors
    /// [`Kind::Failed`](crate::error::Kind::Failed), as when the disk behind it is full; not when nobody reads.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let written = if self.closed { Ok(()) } else { self.writer.write_all(bytes) };
        self.check(written)
    }

    /// Writes `value` as indented JSON with a line end.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn json(&mut self, value: &impl Serialize) -> Result<()> {
        let mut text = serde_json::to_vec_pretty(value).expect("plain values have a JSON form");
        text.push(b'\n');
        self.write(&text)
    }

    /// Returns whether nothing more can be written: nobody reads any more, or a write has failed.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Brings everything written to its reader.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn finish(mut self) -> Result<()> {
        let flushed = if self.closed { Ok(()) } else { self.writer.flush() };
        self.check(flushed)
    }

    fn check(&mut self, written: std::io::Result<()>) -> Result<()> {
        match written {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                self.closed = true;
                Ok(())
            }
            Err(error) => {
                // What is left in the buffer would fail again, with the same words.
                self.closed = true;
                Err(Error::failed("cannot write to stdout").source(error))
            }
            Ok(()) => Ok(()),
        }
    }
}

/// A page for people: titles, rules, tables.
#[derive(Debug, Default)]
pub struct Page {
    text: String,
}

impl Page {
    /// Begins a page with a title and the double rule below it.
    pub fn new(title: impl Display) -> Self {
        Self { text: format!("{}\n{}\n", shown(&title.to_string()), "═".repeat(62)) }
    }

    /// Adds a line; one that begins with a line end has an empty one before it.
    pub fn line(&mut self, line: impl Display) {
        let line = line.to_string();
        let rest = line.strip_prefix('\n');
        self.text.extend(rest.map(|_| '\n'));
        self.text.push_str(&shown(rest.unwrap_or(&line)));
        self.text.push('\n');
    }

    /// Adds a table: rule (but for the title's, where it follows that), column heads, rule, rows. Columns are as wide as
    /// their widest cell, two spaces apart; the rules are the user's page's, or as wide as the table where that is wider.
    pub fn table(&mut self, heads: &[&str], rows: &[Vec<String>]) {
        self.table_of(&heads.iter().map(|head| (*head, 0)).collect::<Vec<_>>(), rows);
    }

    /// As [`table`](Self::table), with the least width of each column beside its head.
    pub fn table_of(&mut self, heads: &[(&str, usize)], rows: &[Vec<String>]) {
        let mut widths: Vec<usize> = heads.iter().map(|(head, least)| head.chars().count().max(*least)).collect();
        let heads: Vec<&str> = heads.iter().map(|(head, _)| *head).collect();
        let rows: Vec<Vec<_>> = rows.iter().map(|row| row.iter().map(|cell| shown(cell)).collect()).collect();
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let rule = "─".repeat((widths.iter().sum::<usize>() + 2 * widths.len().saturating_sub(1)).max(61));
        if !self.text.ends_with("═\n") {
            self.line(&rule);
        }
        self.cells(&heads, &widths);
        self.line(&rule);
        for row in &rows {
            self.cells(row, &widths);
        }
    }

    /// Returns the page.
    pub fn text(&self) -> &str {
        &self.text
    }

    fn cells(&mut self, cells: &[impl AsRef<str>], widths: &[usize]) {
        let mut line = String::new();
        for (cell, width) in cells.iter().zip(widths) {
            line.push_str(&format!("{:<width$}  ", cell.as_ref()));
        }
        self.line(line.trim_end());
    }
}

/// Returns a text as people may see it: what would move a terminal's cursor, change its colours or turn the order of
/// letters round is spelt out.
pub fn shown(text: &str) -> Cow<'_, str> {
    let is_command = |c: char| {
        // Marks and overrides of direction, and line ends that are no control characters.
        c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(is_command) {
        return Cow::Borrowed(text);
    }
    let spelt = |c: char| if is_command(c) { c.escape_default().to_string() } else { c.to_string() };
    Cow::Owned(text.chars().map(spelt).collect())
}

/// Returns a line of CSV ([RFC 4180](https://www.rfc-editor.org/rfc/rfc4180)) with its line end.
pub fn csv(cells: &[String]) -> String {
    let quoted = |cell: &String| {
        if cell.contains(['"', ',', '\n', '\r']) { format!("\"{}\"", cell.replace('"', "\"\"")) } else { cell.clone() }
    };
    let mut line = cells.iter().map(quoted).collect::<Vec<_>>().join(",");
    line.push('\n');
    line
}

/// Returns a value for people, `-` where there is none.
pub fn or_dash(value: Option<impl Display>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// Returns a size for people: `812 B`, `1.5 MiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in UNITS {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// What an output has written to memory.
    #[derive(Clone, Default)]
    pub(in crate::cli) struct Written(Arc<Mutex<Vec<u8>>>);

    impl Written {
        /// Returns an output, and what it will have written.
        pub(in crate::cli) fn output() -> (Output, Self) {
            let written = Self::default();
            (Output::to(Box::new(written.clone())), written)
        }

        pub(in crate::cli) fn text(&self) -> String {
            String::from_utf8(self.0.lock().expect("nobody panics").clone()).expect("UTF-8")
        }
    }

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("nobody panics").write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_table_is_as_wide_as_its_widest_cell() {
        let mut page = Page::new("T");
        page.table(&["Partition", "Last"], &[vec!["0".into(), "12345678".into()], vec!["11".into(), "-".into()]]);
        let lines: Vec<_> = page.text().lines().collect();
        assert_eq!(lines[2], "Partition  Last");
        assert_eq!(lines[4], "0          12345678");
        assert_eq!(lines[5], "11         -");
        assert_eq!((lines[1].chars().count(), lines[3].chars().count()), (62, 61));
    }

    #[test]
    fn a_table_has_a_rule_of_its_own_unless_the_titles_is_above_it() {
        let mut page = Page::new("T");
        page.table(&["A"], &[]);
        page.table(&["B"], &[]);
        let first = |line: &str| line.chars().next().expect("no line is empty");
        assert_eq!(page.text().lines().map(first).collect::<String>(), "T═A──B─");
    }

    #[test]
    fn what_is_for_people_holds_no_commands_to_a_terminal() {
        let name = "a\u{1b}[2J\rb\u{202e}c\nd";
        let mut page = Page::new(name);
        page.line(format_args!("\nTopic: {name}"));
        page.table(&["Name", "B"], &[vec![name.into(), "ä".into()]]);
        let spelt = r"a\u{1b}[2J\rb\u{202e}c\nd";
        let lines: Vec<_> = page.text().lines().collect();
        assert_eq!((lines[0], lines[2], lines[3]), (spelt, "", format!("Topic: {spelt}").as_str()));
        assert_eq!(lines[7], format!("{spelt}  ä"), "{lines:?}");
        assert_eq!(csv(&["\u{1b}".into()]), "\u{1b}\n", "data is exact");
    }

    #[test]
    fn a_cell_with_a_comma_or_a_quote_is_quoted() {
        assert_eq!(csv(&["a".into(), "b,c".into(), "d\"e".into()]), "a,\"b,c\",\"d\"\"e\"\n");
    }

    #[test]
    fn a_reader_that_goes_away_is_no_error() {
        struct Gone;
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                Err(ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let mut output = Output::to(Box::new(Gone));
        output.write(&[b'x'; BUFFER_BYTES + 1]).expect("quiet");
        assert!(output.is_closed());
        output.finish().expect("quiet");
    }

    #[test]
    fn sizes_and_counts_read_well() {
        assert_eq!([size(812), size(1536 << 10), size(0)], ["812 B", "1.5 MiB", "0 B"]);
        assert_eq!([counted(1, "batch"), counted(2, "hole")], ["1 batch", "2 holes"]);
    }
}
