//! `plugin check` and `plugin run`: an author's loop, without a cluster and without an archive.
//!
//! `check` says whether a file is a plugin for this agent, and what it says of itself. `run` passes records through it:
//! JSON lines as `cat` prints them in, the same out, with what one record costs at the end, on stderr.

mod lines;

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Subcommand;
use serde::Serialize;

use self::lines::{Batches, Piece};
use super::Format;
use super::cat::line::Line;
use super::table::{Output, Page, csv, size};
use crate::config::value;
use crate::error::{Error, Result};
use crate::plugin::columns::Answer;
use crate::plugin::{Instance, Limits, Plugin, shown, wit};
use crate::record::Partition;
use crate::telemetry::logging;

/// The verbs of `plugin`.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Check whether a file is a plugin for this agent, and show what it needs and does
    Check {
        /// The plugin: a .wasm file, or the name of one that ships with the program
        file: PathBuf,
        /// Its settings and limits
        #[command(flatten)]
        settings: Settings,
        /// How to print
        #[arg(long, short = 'o', value_enum, default_value_t)]
        format: Format,
    },
    /// Pass records through a plugin: JSON lines as `cat` prints them, in and out
    Run {
        /// The plugin: a .wasm file, or the name of one that ships with the program
        file: PathBuf,
        /// The records, one a line; `-` for stdin
        #[arg(long, value_name = "FILE", default_value = "-")]
        input: PathBuf,
        /// Its settings and limits
        #[command(flatten)]
        settings: Settings,
    },
}

/// What a plugin is given.
#[derive(Debug, clap::Args)]
pub struct Settings {
    /// A setting of the plugin; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = setting)]
    set: Vec<(String, String)>,
    /// How long one call may take
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = value::duration)]
    deadline: Duration,
    /// How much memory the plugin may have
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = value::size)]
    memory: u64,
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write it as key=value")?;
    Ok((key.trim().to_owned(), value.to_owned()))
}

impl Settings {
    fn start(&self, plugin: &Plugin) -> Result<Instance> {
        plugin.start(&self.set, self.limits())
    }

    fn limits(&self) -> Limits {
        let memory_bytes = usize::try_from(self.memory).unwrap_or(usize::MAX);
        Limits { deadline: self.deadline, memory_bytes }
    }
}

/// Runs the verb.
pub async fn run(verb: Verb) -> Result<()> {
    // A plugin computes, and waits for nothing.
    let work = tokio::task::spawn_blocking(move || match verb {
        Verb::Check { file, settings, format } => check(&found(&file)?, &settings, format),
        Verb::Run { file, input, settings } => {
            let instance = settings.start(&found(&file)?)?;
            pass(instance, opened(&input)?)
        }
    });
    work.await.map_err(|error| Error::failed("the work ended early").source(error))?
}

/// Opens a file, or a plugin that is part of the agent where there is no file of that name. A folder is none: its plugin's
/// sources may lie in one.
fn found(file: &Path) -> Result<Plugin> {
    match file.to_str().filter(|_| !file.is_file()) {
        Some(name) => Plugin::find(name),
        None => Plugin::open(file),
    }
}

/// What `check` tells: of the file, and what the plugin says of itself if it takes the settings.
#[derive(Serialize)]
struct Checked {
    kind: &'static str,
    bytes: u64,
    interface: String,
    imports: Vec<String>,
    compile_ms: u64,
    needs_settings: Option<String>,
    needs: Option<Vec<&'static str>>,
    touches: Option<Vec<&'static str>>,
    targets: Option<Vec<String>>,
    keeps_from_ms: Option<i64>,
    keeps_until_ms: Option<i64>,
    pure: Option<bool>,
}

/// Tells what is known of a plugin. One that wants settings where none are given is sound; whatever else it cannot be
/// configured for is the error, after what is known of the file.
fn check(plugin: &Plugin, settings: &Settings, format: Format) -> Result<()> {
    let (plan, wants, failure) = match plugin.plan(&settings.set, settings.limits()) {
        Ok(Ok(plan)) => (Some(plan), None, None),
        Ok(Err(refusal)) if settings.set.is_empty() => {
            (None, std::error::Error::source(&refusal).map(ToString::to_string), None)
        }
        Ok(Err(error)) | Err(error) => (None, None, Some(error)),
    };
    let checked = Checked::of(plugin, plan.as_ref(), wants);
    let mut output = Output::stdout()?;
    match format {
        Format::Json => output.json(&checked)?,
        Format::Table => output.write(checked.page(plugin.name()).text().as_bytes())?,
        Format::Csv => {
            let (heads, cells): (Vec<_>, Vec<_>) =
                checked.rows().into_iter().map(|[key, value]| (key.to_lowercase(), value)).unzip();
            output.write((csv(&heads) + &csv(&cells)).as_bytes())?;
        }
    }
    output.finish()?;
    failure.map_or(Ok(()), Err)
}

impl Checked {
    fn of(plugin: &Plugin, plan: Option<&wit::Plan>, needs_settings: Option<String>) -> Self {
        let about = plugin.about();
        Self {
            kind: if about.is_module { "core module" } else { "component" },
            bytes: about.bytes,
            interface: shown(&about.interface),
            imports: about.imports.iter().map(|import| shown(import)).collect(),
            compile_ms: u64::try_from(about.compile.as_millis()).unwrap_or(u64::MAX),
            needs_settings,
            needs: plan.map(|plan| needs(plan.needs)),
            touches: plan.map(|plan| touches(plan.touches)),
            targets: plan.and_then(|plan| plan.targets.clone()),
            keeps_from_ms: plan.and_then(|plan| plan.keeps.from),
            keeps_until_ms: plan.and_then(|plan| plan.keeps.until),
            pure: plan.map(|plan| plan.pure),
        }
    }

    fn page(&self, name: &str) -> Page {
        let mut page = Page::new(format!("Plugin: {name}"));
        let rows: Vec<_> = self.rows().into_iter().map(|[key, value]| vec![key, value]).collect();
        page.table(&["", ""], &rows);
        page
    }

    fn rows(&self) -> Vec<[String; 2]> {
        let listed = |names: &[&str]| if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
        let time = |ms: Option<i64>, none: &str| {
            ms.map_or_else(|| none.to_owned(), |ms| crate::record::Timestamp(ms).to_string())
        };
        let mut rows = vec![
            ["Form".to_owned(), self.kind.to_owned()],
            ["Size".to_owned(), size(self.bytes)],
            ["Interface".to_owned(), self.interface.clone()],
            ["Imports".to_owned(), self.imports.join(", ")],
            ["Compiled in".to_owned(), format!("{} ms", self.compile_ms)],
        ];
        let mut row = |key: &str, value: Option<String>| rows.extend(value.map(|value| [key.to_owned(), value]));
        row("Needs settings", self.needs_settings.clone());
        row("Needs", self.needs.as_deref().map(listed));
        row("Touches", self.touches.as_deref().map(listed));
        row("Pure", self.pure.map(|pure| if pure { "yes" } else { "no" }.to_owned()));
        if let Some(targets) = &self.targets {
            rows.push(["Targets".to_owned(), listed(&targets.iter().map(String::as_str).collect::<Vec<_>>())]);
        }
        if self.keeps_from_ms.is_some() || self.keeps_until_ms.is_some() {
            let window =
                format!("[{}, {})", time(self.keeps_from_ms, "the beginning"), time(self.keeps_until_ms, "the end"));
            rows.push(["Keeps".to_owned(), window]);
        }
        rows
    }
}

fn needs(needs: wit::Columns) -> Vec<&'static str> {
    use wit::Columns as C;
    let all =
        [(C::KEYS, "keys"), (C::VALUES, "values"), (C::HEADERS, "headers"), (C::VALUES_ON_DEMAND, "values-on-demand")];
    all.into_iter().filter(|(flag, _)| needs.contains(*flag)).map(|(_, name)| name).collect()
}

fn touches(touches: wit::Touches) -> Vec<&'static str> {
    use wit::Touches as T;
    let all = [
        (T::DROPS, "drops"),
        (T::COPIES, "copies"),
        (T::KEYS, "keys"),
        (T::VALUES, "values"),
        (T::HEADERS, "headers"),
        (T::TIMESTAMPS, "timestamps"),
        (T::TOPICS, "topics"),
        (T::PARTITIONS, "partitions"),
    ];
    all.into_iter().filter(|(flag, _)| touches.contains(*flag)).map(|(_, name)| name).collect()
}

/// Opens the records.
fn opened(input: &Path) -> Result<Box<dyn Read>> {
    if input.as_os_str() == "-" {
        return Ok(Box::new(std::io::stdin()));
    }
    let wrong = || Error::usage(format!("cannot read the records in {}", input.display()));
    let file = File::open(input).map_err(|error| wrong().source(error))?;
    match file.metadata().map_err(|error| wrong().source(error))?.is_dir() {
        true => Err(wrong().source("it is a folder")),
        false => Ok(Box::new(file)),
    }
}

/// Passes records through a plugin. What came out before an error stands; a person sees how far it got.
fn pass(mut instance: Instance, reader: Box<dyn Read>) -> Result<()> {
    let mut run = Run { output: Output::stdout()?, tally: Tally::default(), line: Vec::new() };
    let passed = run.pass(&mut instance, Batches::new(BufReader::new(reader)));
    let Run { output, tally, .. } = run;
    let is_closed = output.is_closed();
    let written = output.finish();
    passed.and(written)?;
    if !is_closed {
        let each = tally.took.as_nanos() / u128::from(tally.records.max(1));
        logging::say(&format!("{} records in, {} out, {each} ns a record", tally.records, tally.rows));
    }
    Ok(())
}

/// What a run has come to.
#[derive(Default)]
struct Tally {
    records: u64,
    rows: u64,
    took: Duration,
}

/// Records on their way through a plugin to stdout.
struct Run {
    output: Output,
    tally: Tally,
    line: Vec<u8>,
}

impl Run {
    fn pass(&mut self, instance: &mut Instance, batches: Batches<impl BufRead>) -> Result<()> {
        for piece in batches {
            let Piece { partition, rows } = piece?;
            let mut began = Instant::now();
            instance.apply(&partition, &rows, |sent, answer| {
                self.tally.took += began.elapsed();
                self.tally.records += sent.len() as u64;
                self.write(&partition, &answer)?;
                // What is written is not the plugin's time.
                began = Instant::now();
                Ok(())
            })?;
            if self.output.is_closed() {
                break;
            }
        }
        Ok(())
    }

    fn write(&mut self, partition: &Partition, answer: &Answer) -> Result<()> {
        self.tally.rows += answer.rows.len() as u64;
        for (at, row) in answer.rows.rows().iter().enumerate() {
            let topic = answer.topics.as_ref().and_then(|topics| topics.of(at));
            let index = answer.partitions.as_ref().map_or(-1, |partitions| partitions[at]);
            let partition = Partition {
                topic: topic.map_or_else(|| partition.topic.clone(), Arc::from),
                index: if index < 0 { partition.index } else { index },
                topic_id: partition.topic_id,
            };
            self.line.clear();
            let record = answer.rows.record(row);
            serde_json::to_writer(&mut self.line, &Line { partition: &partition, record: &record })
                .expect("a vector takes it");
            self.line.push(b'\n');
            self.output.write(&self.line)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(name: &str) -> Vec<[String; 2]> {
        let plugin = Plugin::find(name).expect("it ships");
        let refusal = plugin.plan(&[], Limits::default()).expect("it lives").err();
        let wants = refusal.as_ref().and_then(std::error::Error::source).map(ToString::to_string);
        Checked::of(&plugin, None, wants).rows()
    }

    #[test]
    fn a_plugin_that_wants_settings_is_sound_and_says_which() {
        for (name, wants) in [("pitr-filter", "neither setting `from`"), ("restore-fanout", "no setting says where")] {
            let rows = rows(name);
            assert!(rows.contains(&["Interface".to_owned(), "0.1.0".to_owned()]), "{rows:?}");
            let [key, value] = rows.last().expect("rows");
            assert!(key == "Needs settings" && value.starts_with(wants), "{rows:?}");
        }
        assert!(rows("header-injector").iter().all(|[key, _]| key != "Needs settings"));
    }

    #[test]
    fn a_plugin_that_ships_is_found_beside_a_folder_of_its_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let inside = folder.path().join("header-injector");
        std::fs::create_dir(&inside).expect("made");
        let said = found(&inside).expect_err("a folder").to_string();
        assert!(said.contains("is no file"), "{said}");
        // The tests' own folder is the sources': `plugins` is there, and no plugin.
        assert!(Path::new("plugins").is_dir());
        assert!(found(Path::new("plugins")).expect_err("none").to_string().contains("there is no plugin `plugins`"));
    }
}
