//! What `restore` brings back, held against what an independent read-committed consumer sees of source and target.
//!
//! Each test backs up topics of its own and restores them beside, as `<name>-restored`. The offset map is the one that
//! the restore has kept, read with the library.

mod cuts;
mod dangers;
mod hazards;
mod rates;
mod refusals;
pub(crate) mod repartition;
mod resume;
mod savepoint;
mod shapes;
mod stages;
mod undo;
mod verified;
mod yaml;

use std::collections::BTreeMap;
use std::path::PathBuf;

use kafka_backup::restore::map::{Exact, OffsetMap, Position, Track};
use kafka_backup::restore::state::{Done, State};
use kafka_backup::store::Store;

use crate::fidelity;
use crate::support::agent::{Agent, Backup, Ended, program_watched, program_with};
use crate::support::block_on;
use crate::support::chain::headers;
use crate::support::kafka::Kafka;
use crate::support::reader::{Record, read_all_committed};

/// A pipeline that restores, of which a test changes what it is about.
pub(crate) struct Restore<'a> {
    backup: &'a Backup,
    backup_id: &'static str,
    brokers: String,
    name: String,
    /// Its own: of two restores of one id the younger one fences the other.
    id: String,
    /// Source topics with the topics that they are restored to.
    topics: Vec<(String, String)>,
    pipeline: String,
    source: String,
    stages: String,
    sink: String,
    /// `[pipeline.groups]`, whole.
    groups: String,
}

impl<'a> Restore<'a> {
    /// Configures a restore of `topics` into new ones whose names end with `-restored`.
    pub(crate) fn of(kafka: &Kafka, backup: &'a Backup, topics: &[&str]) -> Self {
        Self::named(kafka, backup, topics, "restored")
    }

    /// Configures a restore into new topics whose names end with `name`.
    pub(crate) fn named(kafka: &Kafka, backup: &'a Backup, topics: &[&str], name: &str) -> Self {
        Self {
            backup,
            backup_id: "test",
            brokers: kafka.brokers().to_owned(),
            name: name.to_owned(),
            id: format!("{name}-{:08x}", crc32c::crc32c(backup.archive().as_bytes())),
            topics: topics.iter().map(|topic| ((*topic).to_owned(), format!("{topic}-{name}"))).collect(),
            pipeline: String::new(),
            source: String::new(),
            stages: String::new(),
            sink: String::new(),
            groups: String::new(),
        }
    }

    /// Adds a line to `[[pipeline]]`.
    pub(crate) fn pipeline(mut self, line: &str) -> Self {
        self.pipeline += &format!("{line}\n");
        self
    }

    /// Adds a line to `[pipeline.source]`.
    pub(crate) fn source(mut self, line: &str) -> Self {
        self.source += &format!("{line}\n");
        self
    }

    /// Adds a stage, of these keys.
    pub(crate) fn stage(mut self, keys: &str) -> Self {
        self.stages += &format!("[[pipeline.stage]]\n{keys}\n");
        self
    }

    /// Adds a line to `[pipeline.sink]`.
    pub(crate) fn sink(mut self, line: &str) -> Self {
        self.sink += &format!("{line}\n");
        self
    }

    /// Writes `[pipeline.groups]`.
    pub(crate) fn groups(self, lines: &str) -> Self {
        Self { groups: format!("[pipeline.groups]\n{lines}\n"), ..self }
    }

    /// Restores a backup of that name.
    pub(crate) fn backup_id(self, backup_id: &'static str) -> Self {
        Self { backup_id, ..self }
    }

    /// Accepts hazards.
    pub(crate) fn accept(self, names: &[&str]) -> Self {
        self.sink(&format!("accept = {names:?}"))
    }

    /// Restores a topic to another one than that of its name.
    pub(crate) fn to(mut self, topic: &str, target: &str) -> Self {
        self.topics.iter_mut().filter(|(source, _)| source == topic).for_each(|(_, to)| *to = target.to_owned());
        self
    }

    /// Returns the topic that the first one is restored to.
    pub(crate) fn target(&self) -> &str {
        &self.topics[0].1
    }

    /// Returns its id.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Returns the configuration.
    pub(crate) fn config(&self) -> String {
        let names: Vec<&str> = self.topics.iter().map(|(source, _)| source.as_str()).collect();
        let plain = |name: &&str| name.split('@').next().unwrap_or_default().to_owned();
        let to = names.iter().map(plain).zip(&self.topics).map(|(name, (_, to))| format!("{name:?} = {to:?}"));
        let to: Vec<String> = to.collect();
        format!(
            "[[pipeline]]\nname = {:?}\n{}[pipeline.source]\ntype = \"archive\"\nbackup_id = {:?}\npath = {:?}\n\
             topics = {names:?}\n{}{}[pipeline.sink]\ntype = \"kafka\"\nrestore_id = {:?}\ntopics = {{ {} }}\n{}\
             kafka = {{ \"bootstrap.servers\" = {:?} }}\n{}",
            self.name,
            self.pipeline,
            self.backup_id,
            self.backup.archive(),
            self.source,
            self.stages,
            self.id,
            to.join(", "),
            self.sink,
            self.brokers,
            self.groups,
        )
    }

    fn file(&self) -> PathBuf {
        self.backup.write_config(&self.config())
    }

    /// Runs it to its end.
    pub(crate) fn run(&self) -> Ended {
        self.run_with(&[])
    }

    /// Runs it to its end, with more arguments.
    pub(crate) fn run_with(&self, arguments: &[&str]) -> Ended {
        let file = self.file();
        program_with(&[&["restore", "--config", file.to_str().expect("UTF-8")], arguments].concat())
    }

    /// Runs it to its end with so much memory for what is on its way, above which it may take 100 MiB.
    #[track_caller]
    pub(crate) fn run_within(&self, mebibytes: u64) -> Ended {
        let config = self.config();
        let (before, after) = config.split_once("[pipeline.sink]\n").expect("a sink");
        let within = format!("{before}[pipeline.sink]\nmemory_bytes = \"{mebibytes}MiB\"\n{after}");
        let file = self.backup.write_config(&within);
        let (ended, peak) = program_watched(&["restore", "--config", file.to_str().expect("UTF-8")]);
        println!("{}: a peak of {} MiB with {mebibytes} MiB", self.id, peak >> 20);
        assert!(peak > 0 && peak <= (mebibytes + 100) << 20, "a peak of {} MiB with {mebibytes} MiB", peak >> 20);
        ended
    }

    /// Starts it.
    pub(crate) fn start(&self, environment: &[(&str, &str)]) -> Agent {
        self.backup.start_config("restore", &self.config(), environment)
    }

    /// Starts it with a listener of its own.
    pub(crate) fn start_to_be_watched(&self) -> Agent {
        self.backup.start_with(&["restore", "--listen", "127.0.0.1:0"], &self.config(), &[])
    }

    /// Returns the objects that it keeps.
    fn state(&self) -> State {
        let store = Store::open(self.backup.archive()).expect("a store").within(self.backup_id);
        State::new(&store, &self.id).expect("an id")
    }

    /// Returns the names of the objects that it keeps.
    pub(crate) fn state_names(&self) -> Vec<String> {
        let seen = block_on(async { self.state().look().await.expect("it can be read") });
        seen.names.iter().map(ToString::to_string).collect()
    }

    /// Returns what it says now that it is done, and its offset map.
    pub(crate) fn done(&self) -> (Done, OffsetMap) {
        let state = self.state();
        block_on(async {
            let seen = state.look().await.expect("it can be read");
            let map = state.offset_map(&seen).await.expect("sound").expect("there is one");
            (seen.done.expect("it is done"), map)
        })
    }

    /// Has `verify` compare the archive with what was restored.
    pub(crate) fn verify(&self, arguments: &[&str]) -> Ended {
        let against = ["--against-restore", &self.id, "--bootstrap-servers", &self.brokers];
        let archive = ["verify", "--path", self.backup.archive(), "--backup-id", self.backup_id];
        program_with(&[&archive, &against[..], arguments].concat())
    }

    /// Asserts that `verify` finds what was restored to be what the archive holds, as many records as the restore says.
    #[track_caller]
    pub(crate) fn assert_agrees(&self) {
        let json = self.verify(&["-o", "json"]).ok();
        let data: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        let (done, _) = self.done();
        let pairs = data["restored"]["pairs"].as_array().expect("pairs");
        assert_eq!(pairs.len(), done.partitions.len());
        for pair in pairs {
            let [archive, target] = ["archive", "target"].map(|side| {
                (pair[format!("{side}_records")].as_u64().expect("all"), pair[format!("{side}_digest")].to_string())
            });
            assert_eq!((&archive, pair["result"].as_str()), (&target, Some("the same")), "{pair}");
        }
        let records: u64 = pairs.iter().filter_map(|pair| pair["archive_records"].as_u64()).sum();
        assert_eq!(records, done.records);
    }

    /// Asserts that each target holds what `wanted` picks of its source, cell by cell and in order, and that the map
    /// leads from each record to where the consumer finds it.
    #[track_caller]
    pub(crate) fn assert_brought(&self, kafka: &Kafka, wanted: impl Fn(&Record) -> bool) {
        self.assert_read(&read_all_committed(kafka, &self.names()), wanted);
    }

    /// Returns whether its records went in transactions, whose ends are markers.
    fn marks(&self) -> bool {
        let seen = block_on(async { self.state().look().await.expect("it can be read") });
        seen.journal.is_some_and(|journal| journal.is_transactional)
    }

    /// Returns the names of sources and targets.
    pub(crate) fn names(&self) -> Vec<&str> {
        self.topics.iter().flat_map(|(source, target)| [source.as_str(), target]).collect()
    }

    /// As [`assert_brought`](Self::assert_brought), of topics that were read.
    #[track_caller]
    pub(crate) fn assert_read(&self, read: &BTreeMap<String, Vec<Record>>, wanted: impl Fn(&Record) -> bool) {
        let (done, map) = self.done();
        assert!(map.is_finished());
        let mut records = 0;
        for (source, target) in &self.topics {
            let held: Vec<Record> = read[source].iter().filter(|record| wanted(record)).cloned().collect();
            let brought = &read[target];
            assert_same_cells(target, brought, &held);
            assert_leads(&map, (source, &held), (target, brought), self.marks());
            records += brought.len() as u64;
        }
        assert_eq!(done.records, records, "what the restore says that it restored");
        assert_eq!(done.partitions.iter().map(|of| of.records).sum::<u64>(), records);
    }
}

/// Runs several restores as the pipelines of one file.
#[track_caller]
pub(crate) fn run_all(restores: &[Restore<'_>]) {
    let config: Vec<String> = restores.iter().map(Restore::config).collect();
    let file = restores[0].backup.write_config(&config.join("\n"));
    let _ = program_with(&["restore", "--config", file.to_str().expect("UTF-8")]).ok();
}

/// Asserts that records are the same but for their offsets.
#[track_caller]
pub(crate) fn assert_same_cells(topic: &str, brought: &[Record], wanted: &[Record]) {
    let cells = |record: &Record| Record { offset: 0, ..record.clone() };
    let differs = brought.iter().zip(wanted).find(|(brought, wanted)| cells(brought) != cells(wanted));
    assert!(differs.is_none(), "{topic}: brought, and wanted: {differs:?}");
    assert_eq!(brought.len(), wanted.len(), "{topic}: records brought, and wanted");
}

/// Returns what the map knows of each source partition of `source`.
pub(crate) fn tracks<'m>(map: &'m OffsetMap, source: &str) -> BTreeMap<i32, &'m Track> {
    let of = map.iter().filter(|(pair, _)| *pair.source.topic == *source);
    of.map(|(pair, track)| (pair.source.index, track)).collect()
}

/// Asserts that the map leads from each record of a source to its record in the target, and from nowhere else; that the
/// restored end is behind the last record, and behind the marker of its transaction where it has one.
#[track_caller]
fn assert_leads(
    map: &OffsetMap,
    (source, held): (&str, &[Record]),
    (target, brought): (&str, &[Record]),
    has_markers: bool,
) {
    let tracks = tracks(map, source);
    let mut next: BTreeMap<i32, i64> = tracks.iter().map(|(index, track)| (*index, track.asked().first)).collect();
    for (from, to) in held.iter().zip(brought) {
        let track = tracks.get(&from.partition).unwrap_or_else(|| panic!("{source}-{} is in the map", from.partition));
        assert_eq!(track.exact(from.offset), Exact::At(to.offset), "{source}-{} at {}", from.partition, from.offset);
        let next = next.get_mut(&from.partition).expect("one for each track");
        for missing in *next..from.offset {
            assert_eq!(track.exact(missing), Exact::Absent, "{source}-{} at {missing}", from.partition);
            let (source, target) = (from.offset, to.offset);
            assert_eq!(track.translate(missing), Position::Record { source, target });
        }
        *next = from.offset + 1;
    }
    for (index, track) in tracks {
        let of = brought.iter().filter(|record| record.partition == index);
        assert_eq!(track.records(), of.clone().count() as u64, "{source}-{index}");
        let end = of.map(|record| record.offset + 1 + i64::from(has_markers)).max().unwrap_or(track.target_first());
        let position = track.translate(track.asked().next);
        assert_eq!((position, track.end()), (Position::End { target: end }, Some(end)), "{target}-{index}");
    }
}

/// Asserts that topics have as many partitions, and the settings, of those that they were restored from.
#[track_caller]
fn assert_made_alike(kafka: &Kafka, source: &str, target: &str) {
    assert_eq!(kafka.partitions(target), kafka.partitions(source), "partitions of {target}");
    assert_eq!(kafka.settings(target), kafka.settings(source), "settings of {target}");
}

#[test]
fn everything_comes_back_cell_by_cell_also_from_a_backup_of_what_came_back() {
    let kafka = Kafka::shared_with_disk();
    let (mut topics, appended) = std::thread::scope(|scope| {
        let codecs = scope.spawn(|| fidelity::every_codec(kafka));
        let transactions = scope.spawn(|| fidelity::transactions(kafka));
        let compacted = scope.spawn(|| fidelity::compacted(kafka));
        let [appended, disorder] = fidelity::odd_times(kafka);
        let mut topics = vec![fidelity::odd_cells(kafka).0, appended.clone(), disorder];
        topics.extend(codecs.join().expect("written"));
        topics.extend([transactions, compacted].map(|writing| writing.join().expect("written")));
        (topics, appended)
    });
    topics.push(kafka.topic("empty", 3, &[("max.message.bytes", "2000000"), ("segment.bytes", "10000000")]));
    let names: Vec<&str> = topics.iter().map(String::as_str).collect();
    let backup = Backup::of(kafka, &names).sink("roll_bytes", "64KiB");
    let _ = backup.backup().ok();
    let restore = Restore::of(kafka, &backup, &names);
    let said = restore.run_within(16);
    assert!(said.stderr.contains(" records ("), "{}", said.stderr);
    let _ = said.ok();
    restore.assert_brought(kafka, |_| true);
    restore.assert_agrees();
    for (source, target) in &restore.topics {
        assert_made_alike(kafka, source, target);
    }
    // A record's own time, though the topic now stamps those that come.
    let stamped = headers(&kafka.log_bytes(&format!("{appended}-restored"), 0));
    assert!(stamped.iter().filter(|batch| !batch.control()).all(|batch| batch.attributes & 8 == 0));
    let _ = backup.command("verify", &["--deep"]).ok();

    let brought: Vec<&str> = restore.topics.iter().map(|(_, target)| target.as_str()).collect();
    let second = Backup::of(kafka, &brought);
    let _ = second.backup().ok();
    let again = Restore::named(kafka, &second, &brought, "again");
    let _ = again.run().ok();
    again.assert_brought(kafka, |_| true);
    let last: Vec<&str> = again.topics.iter().map(|(_, target)| target.as_str()).collect();
    let read = read_all_committed(kafka, &[&names[..], &last].concat());
    for (first, last) in names.iter().zip(last) {
        assert_same_cells(last, &read[last], &read[*first]);
        assert_made_alike(kafka, first, last);
    }
}
