//! Plugins that misbehave on capture: what is at fault is named, the agent lives, other pipelines do not notice, and what
//! `on_error` says holds whenever the agent is killed.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use kafka_backup::archive::sidecar::Sidecar;

use crate::golden::{python, read_by_python};
use crate::support::agent::{Backup, program_with};
use crate::support::chain::{assert_same, check_with_kafka, headers, up_to};
use crate::support::kafka::Kafka;
use crate::support::reader::{Record, read_committed};
use crate::support::workload::{Contents, Writer};

pub(crate) const INJECT: &str = "plugin = \"header-injector\"\n";

pub(crate) fn built(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("plugins/{name}/{name}.wasm"))
}

/// Returns the keys of a stage that meets `fault` at the record of `offset`.
pub(crate) fn faults(fault: &str, offset: i64, on_error: &str) -> String {
    format!(
        "plugin = {:?}\nsettings = {{ fault = {fault:?}, offset = \"{offset}\", routes = \"false\" }}\n\
         on_error = {on_error:?}\ndeadline = \"300ms\"\nmemory_bytes = \"16MiB\"\n",
        built("faults")
    )
}

/// Returns the backup's configuration with these stages.
pub(crate) fn staged(backup: &Backup, stages: &[&str]) -> String {
    let stages: String = stages.iter().map(|stage| format!("[[pipeline.stage]]\n{stage}\n")).collect();
    backup.config().replace("[pipeline.sink]", &format!("{stages}[pipeline.sink]"))
}

/// Returns the pipeline of such a configuration, called `name`.
pub(crate) fn pipeline(config: &str, name: &str) -> String {
    let (_, pipeline) = config.split_once("[[pipeline]]").expect("a pipeline");
    format!("\n[[pipeline]]{}\n", pipeline.replace("name = \"test\"", &format!("name = {name:?}")))
}

/// Returns what the injector makes of records.
pub(crate) fn injected(mut records: Vec<Record>) -> Vec<Record> {
    for record in &mut records {
        let named =
            [("offset", record.offset), ("timestamp", record.timestamp), ("partition", record.partition.into())];
        let named = named.map(|(name, value)| (format!("x-kafka-backup-{name}"), Some(value.to_string().into_bytes())));
        record.headers.extend(named);
    }
    records
}

#[track_caller]
pub(crate) fn assert_records(what: &str, held: &[Record], wanted: &[Record]) {
    let differs = held.iter().zip(wanted).find(|(held, wanted)| held != wanted);
    assert!(differs.is_none(), "{what}: held and wanted: {differs:#?}");
    assert_eq!(held.len(), wanted.len(), "{what}: records");
}

/// How far all partitions are, together.
fn next(backup: &Backup, topic: &str) -> i64 {
    (0..PARTITIONS).map(|partition| backup.chain(topic, partition).next()).sum()
}

/// The files below `folder`, at any depth.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().map(|entry| entry.expect("an entry").path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

const FAULTS: [(&str, &str); 8] = [
    ("endless-loop", "took longer than 0.3 s"),
    ("memory-bomb", "needs more memory than it may have"),
    ("deep-recursion", "calls itself too deeply"),
    ("panic", "a fault on purpose"),
    ("wrong-rows", "its answer is wrong: `source` names record"),
    ("wrong-lengths", "its answer is wrong: `values` has"),
    ("invalid-utf8", "its answer is wrong: the name of header"),
    ("huge-output", "needs more memory than it may have"),
];

#[test]
fn a_plugin_that_misbehaves_stops_its_partition_and_no_other_pipeline() {
    let kafka = Kafka::shared_with_disk();
    let writer = Writer::new(kafka, &[("batch.num.messages", "10")]);
    let mut contents = Contents::new();
    let (sick, well) = (kafka.topic("stage-sick", 1, &[]), kafka.topic("stage-well", 1, &[]));
    let _ = writer.write(&sick, &contents.records(1, 100, 100));
    let healthy = Backup::of(kafka, &[&well]);
    let backups = FAULTS.map(|_| Backup::of(kafka, &[&sick]));
    let mut config = staged(&healthy, &[INJECT]);
    for ((fault, _), backup) in FAULTS.iter().zip(&backups) {
        config += &pipeline(&staged(backup, &[&faults(fault, 55, "fail")]), fault);
    }
    // One that does not come back for as long as this test lasts: who shared its worker would not either.
    let hanging = Backup::of(kafka, &[&sick]);
    config += &pipeline(&staged(&hanging, &[&faults("endless-loop", 55, "fail").replace("300ms", "10m")]), "hanging");
    let mut agent = healthy.run_config(&config, &[]);
    for (fault, why) in FAULTS {
        let named = format!("plugin `faults` (stage 1 of pipeline `{fault}`, faults.wasm) failed at {sick}-0 offset");
        agent.wait_until(&format!("{fault} is named"), |agent| {
            let (code, told) = agent.get("/readyz")?;
            let line = told.lines().find(|line| line.contains(&named) && line.contains(why))?;
            // Records of one that was late are not told apart.
            let one = line.contains("offset 55: ") || (fault == "endless-loop" && line.contains("offsets ["));
            (code == 503 && one).then_some(())
        });
    }
    let _ = writer.write(&well, &contents.records(1, 500, 100));
    agent.wait_until("the other pipeline has all", |_| (healthy.chain(&well, 0).next() == 500).then_some(()));
    let log = kafka.log_bytes(&sick, 0);
    for ((fault, _), backup) in FAULTS.iter().zip(&backups) {
        assert_same(fault, &backup.chain(&sick, 0).bytes(), up_to(&log, 55));
    }
    agent.kill();
    assert_records("the other pipeline", &healthy.cat(&well), &injected(read_committed(kafka, &well)));
    for ((fault, _), backup) in FAULTS.iter().zip(&backups) {
        let _ = backup.backup().ok();
        assert_same(fault, &backup.chain(&sick, 0).bytes(), &log);
        let _ = backup.command("verify", &["--deep"]).ok();
    }
}

#[test]
fn each_fault_leaves_out_what_the_policy_says() {
    let kafka = Kafka::shared_with_disk();
    let topic = kafka.topic("stage-faults", 1, &[]);
    let writer = Writer::new(kafka, &[("batch.num.messages", "10")]);
    let _ = writer.write(&topic, &Contents::new().records(1, 30, 100));
    let (all, log) = (read_committed(kafka, &topic), kafka.log_bytes(&topic, 0));
    let batch = headers(&log).into_iter().find(|batch| batch.last_offset >= 15).expect("there are 30 records");
    let (mut config, mut backups) = ("[agent]\nlisten = \"127.0.0.1:0\"\n".to_owned(), Vec::new());
    for (fault, _) in FAULTS {
        for policy in ["skip", "dead-letter"] {
            // Only what never ends is to be late, however busy the machine is.
            let deadline = if fault == "endless-loop" { "1s" } else { "30s" };
            let backup = Backup::of(kafka, &[&topic]);
            let stage = faults(fault, 15, policy).replace("300ms", deadline);
            config += &pipeline(&staged(&backup, &[&stage]), &format!("{fault}-{policy}"));
            backups.push((fault, policy, backup));
        }
    }
    let mut pass = backups[0].2.start_config("backup", &config, &[]);
    assert_eq!(pass.wait().code(), Some(0), "{}", pass.log());
    for (fault, policy, backup) in &backups {
        // Of a call that took too long no record is searched for.
        let is_alone = *policy == "skip" && *fault != "endless-loop";
        let range = if is_alone { 15..=15 } else { batch.base_offset..=batch.last_offset };
        let (left_out, kept): (Vec<_>, Vec<_>) = all.iter().cloned().partition(|record| range.contains(&record.offset));
        assert_records(&format!("{fault}, {policy}"), &backup.cat(&topic), &kept);
        let letters = if *policy == "skip" { Vec::new() } else { left_out };
        assert_records(&format!("letters of {fault}"), &backup.cat_with(&topic, &["--dead-letters"]), &letters);
        let _ = backup.command("verify", &["--deep"]).ok();
    }
    assert_read_by_another(&backups[1].2, &[&topic]);
}

/// Asserts that the reader that shares no code with the program reads the same, where there is an interpreter for it.
fn assert_read_by_another(backup: &Backup, topics: &[&str]) {
    let Some(python) = python() else { return };
    let mut topics = topics.to_vec();
    topics.sort_unstable();
    let printed: String = topics.iter().map(|topic| backup.command("cat", &["--topic", topic]).ok()).collect();
    let read = read_by_python(&python, Path::new(backup.archive()), "test", &[]).ok();
    assert!(!read.is_empty() && read == printed, "{} lines of {}", read.lines().count(), printed.lines().count());
}

/// A core module that imports a function of WASI, and nothing else.
fn module_of_wasi() -> Vec<u8> {
    let named = |name: &str| [&[name.len() as u8], name.as_bytes()].concat();
    let import = [&[1][..], &named("wasi_snapshot_preview1"), &named("sched_yield"), &[0, 0]].concat();
    let types = [1, 4, 1, 0x60, 0, 0];
    [b"\0asm\x01\0\0\0", &types[..], &[2, import.len() as u8], &import].concat()
}

/// A component that imports an instance of WASI, which has nothing.
fn component_of_wasi() -> Vec<u8> {
    let name = "wasi:cli/environment@0.2.0";
    let import = [&[1, 0, name.len() as u8], name.as_bytes(), &[5, 0]].concat();
    [b"\0asm\x0d\0\x01\0", &[7, 3, 1, 0x42, 0, 10, import.len() as u8][..], &import].concat()
}

#[test]
fn a_file_that_is_no_plugin_is_refused_before_anything_is_made() {
    let kafka = Kafka::shared();
    let topic = kafka.topic("stage-refused", 1, &[]);
    let backup = Backup::of(kafka, &[&topic]);
    let sound = fs::read(built("faults")).expect("it is there");
    let replaced = |from: &[u8], to: &[u8]| {
        let mut bytes = sound.clone();
        for at in 0..bytes.len() - from.len() {
            if bytes[at..].starts_with(from) {
                bytes[at..at + to.len()].copy_from_slice(to);
            }
        }
        bytes
    };
    let files_and_faults = [
        ("other", Some(replaced(b"@0.1.0", b"@0.2.0")), "needs interface 0.2, this agent speaks 0.1"),
        (
            "module",
            Some(module_of_wasi()),
            "imports `wasi_snapshot_preview1`, which no plugin gets; build it for wasm32",
        ),
        ("component", Some(component_of_wasi()), "imports `wasi:cli/environment@0.2.0`, which no plugin gets"),
        ("cut", Some(sound[..sound.len() / 2].to_vec()), "the file is damaged, or cut off"),
        ("text", Some(b"(module)\n".to_vec()), "is no WebAssembly"),
        ("empty", Some(Vec::new()), "the file is empty"),
        ("missing", None, "there is no plugin"),
    ];
    for (name, bytes, why) in files_and_faults {
        let file = backup.folder().join(format!("{name}.wasm"));
        if let Some(bytes) = bytes {
            fs::write(&file, bytes).expect("writable");
        }
        let file = file.display().to_string();
        assert_refused(&backup, &format!("plugin = {file:?}\n"), "plugin", &[why, &file, "(stage 2"]);
    }
    let unknown = format!("{INJECT}settings = {{ ofset = \"true\" }}\n");
    let at = "(stage 2 of pipeline `test`, header-injector.wasm)";
    assert_refused(&backup, &unknown, "settings", &[at, "cannot be configured", "`ofset`"]);
    let routing = "plugin = \"restore-fanout\"\nsettings = { by = \"topic\", to.here = \"elsewhere\" }\n";
    let at = "stage 2 of pipeline `test`";
    assert_refused(&backup, routing, "plugin", &[at, "`restore-fanout` sends records elsewhere"]);
    assert_eq!(files(Path::new(backup.archive())), Vec::<PathBuf>::new(), "nothing is made");
}

/// Asserts that a second stage is refused whoever looks at it: when it is to run, and, by its key, when it is validated.
#[track_caller]
fn assert_refused(backup: &Backup, stage: &str, key: &str, words: &[&str]) {
    let config = backup.write_config(&staged(backup, &[INJECT, stage]));
    let config = config.to_str().expect("UTF-8");
    for verb in ["backup", "run"] {
        program_with(&[verb, "--config", config]).fails_with(2, &[words, &["pipeline test)"]].concat());
    }
    let at = format!("{config}: pipeline[0].stage[1].{key}: ");
    program_with(&["config", "validate", "--config", config]).fails_with(2, &[words, &[&at]].concat());
}

/// A topic with transactions, an archive of it as it is, and a record that is to fail.
struct Case {
    topic: String,
    plain: Backup,
    consumed: Vec<Record>,
    failing: i64,
}

const PARTITIONS: i32 = 2;

impl Case {
    fn new(theme: &str) -> Self {
        let kafka = Kafka::shared_with_disk();
        let topic = kafka.topic(theme, PARTITIONS, &[]);
        let writer = Writer::transactional(kafka, theme);
        let mut contents = Contents::new();
        for round in 0..10 {
            let records = contents.records(PARTITIONS, 150, 100);
            let write = if round % 3 == 1 { Writer::abort_records } else { Writer::commit_records };
            let _ = write(&writer, &topic, &records);
        }
        let plain = Backup::of(kafka, &[&topic]);
        let _ = plain.backup().ok();
        let consumed = read_committed(kafka, &topic);
        assert!(consumed.len() > 1500);
        let of = |partition| consumed.iter().filter(move |record| record.partition == partition);
        let others: HashSet<_> = of(1).map(|record| record.offset).collect();
        let failing = of(0).skip(300).find(|record| others.contains(&record.offset)).expect("committed in both").offset;
        Self { topic, plain, consumed, failing }
    }

    fn backup(&self) -> Backup {
        Backup::of(Kafka::shared(), &[&self.topic]).sink("roll_bytes", "16KiB").sink("roll_interval", "100ms")
    }

    fn config(&self, backup: &Backup, policy: &str) -> String {
        staged(backup, &[INJECT, &faults("fail", self.failing, policy)])
    }

    /// The batch of the failing offset in each partition: its range, and its bytes.
    fn batches(&self) -> Vec<(i64, i64, Vec<u8>)> {
        let of = |partition| {
            let log = self.plain.chain(&self.topic, partition).bytes();
            let header =
                headers(&log).into_iter().find(|header| header.last_offset >= self.failing).expect("it is there");
            let batch = log[header.position..header.position + header.bytes].to_vec();
            (header.base_offset, header.last_offset, batch)
        };
        (0..PARTITIONS).map(of).collect()
    }

    /// Returns how the path of the sidecar begins, from partition 0 on, whose segment covers the failing offset.
    fn segment_of_batch(&self, backup: &Backup) -> String {
        let segments = backup.chain(&self.topic, 0).0;
        let segment = segments.iter().find(|segment| segment.next > self.failing).expect("it is covered");
        format!("/0/{:020}.", segment.first)
    }

    /// Asserts that a backup holds all but what the policy leaves out, and tells what that is.
    fn assert_whole(&self, backup: &Backup, policy: &str, when: &str) {
        let batches = self.batches();
        let leaves = |record: &Record| match policy {
            "skip" => record.offset == self.failing,
            _ => {
                let (first, last, _) = batches[record.partition as usize];
                (first..=last).contains(&record.offset)
            }
        };
        let wanted = self.consumed.iter().filter(|record| !leaves(record)).cloned().collect();
        assert_records(when, &backup.cat(&self.topic), &injected(wanted));
        let _ = backup.command("verify", &["--deep"]).ok();
        let mut kept: Vec<_> = files(&backup.file("topics"))
            .iter()
            .filter(|file| file.to_string_lossy().contains("/dead-letter/"))
            .map(|file| fs::read(file).expect("it is there"))
            .collect();
        let mut dead: Vec<_> =
            batches.iter().map(|(_, _, bytes)| bytes.clone()).filter(|_| policy == "dead-letter").collect();
        kept.sort();
        dead.sort();
        assert!(kept == dead, "{when}: {} dead letters, {} wanted", kept.len(), dead.len());
        let letters = backup.command("cat", &["--topic", &self.topic, "--dead-letters"]).ok();
        let plain = self.plain.command("cat", &["--topic", &self.topic]).ok();
        let is_dead = |line: &&str| policy == "dead-letter" && letters.lines().any(|dead| dead == *line);
        assert_eq!(plain.lines().filter(is_dead).count(), letters.lines().count(), "{when}: as they came, once");
        let mut left = 0;
        for file in files(&backup.file("topics")).iter().filter(|file| file.extension().is_some_and(|it| it == "index"))
        {
            let sidecar = Sidecar::decode(&fs::read(file).expect("it is there")).expect("sound");
            assert_eq!(sidecar.stages.len(), 2, "{when}");
            for left_out in sidecar.left_out {
                assert_eq!((left_out.stage, left_out.dead_letter.is_some()), (1, policy == "dead-letter"), "{when}");
                assert!((left_out.range.first..left_out.range.next).contains(&self.failing), "{when}");
                left += left_out.records as usize;
            }
        }
        assert_eq!(left, self.consumed.iter().filter(|record| leaves(record)).count(), "{when}: told as left out");
    }
}

/// Returns which passing of `point` is that of the segment whose sidecar's path holds `sidecar`. Partitions commit beside
/// each other: in another pass it may be one that is near.
fn passing_around(trace: &str, point: &str, sidecar: &str) -> usize {
    let is_it = |line: &&str| line.starts_with("sidecar-linked ") && line.contains(sidecar);
    assert!(trace.lines().any(|line| is_it(&line)), "{sidecar} in {trace}");
    let before = trace.lines().take_while(|line| !is_it(line));
    let passings = before.filter(|line| line.split(' ').next() == Some(point)).count();
    let lies_before = point == "log-synced" || point.starts_with("dead-letter");
    (passings + usize::from(!lies_before)).max(1)
}

#[test]
fn what_a_policy_leaves_out_is_exact_however_the_agent_is_killed() {
    let case = Case::new("stage-policy");
    let points = ["dead-letter-due", "dead-letter-kept", "log-synced", "sidecar-created", "log-created", "reported"];
    for policy in ["skip", "dead-letter"] {
        let undisturbed = case.backup();
        let trace = undisturbed.folder().join("trace");
        let traced = [("KAFKA_BACKUP_CRASH_TRACE", trace.to_str().expect("UTF-8"))];
        let ended = undisturbed.start_config("backup", &case.config(&undisturbed, policy), &traced).wait();
        assert_eq!(ended.code(), Some(0), "{policy}");
        case.assert_whole(&undisturbed, policy, policy);
        let trace = fs::read_to_string(trace).expect("a trace");
        for point in points.iter().filter(|point| policy == "dead-letter" || !point.starts_with("dead")) {
            for n in HashSet::from([1, passing_around(&trace, point, &case.segment_of_batch(&undisturbed))]) {
                let (backup, at) = (case.backup(), format!("{point}:{n}"));
                let config = case.config(&backup, policy);
                let died = backup.start_config("backup", &config, &[("KAFKA_BACKUP_CRASH_AT", &at)]).wait();
                assert_eq!(std::os::unix::process::ExitStatusExt::signal(&died), Some(9), "{policy}, {at}: {died}");
                let _ = backup.command("verify", &["--deep"]).ok();
                let ended = backup.start_config("backup", &config, &[]).wait();
                assert_eq!(ended.code(), Some(0), "{policy}, {at}");
                case.assert_whole(&backup, policy, &format!("{policy}, killed at {at}"));
            }
        }
    }
}

#[test]
fn what_a_policy_leaves_out_is_exact_after_kills_at_random_moments() {
    let kills: u32 = std::env::var("KILLS").map_or(5, |kills| kills.parse().expect("KILLS is a number"));
    let case = Case::new("stage-kills");
    for kill in 1..=kills {
        for policy in ["skip", "dead-letter"] {
            let backup = case.backup();
            let config = case.config(&backup, policy);
            let mut agent = backup.run_config(&config, &[]);
            // Between the first segment and the last there is a moment for each kill.
            let reached = fastrand::i64(1..next(&case.plain, &case.topic));
            agent.wait_until("it has come so far", |_| (next(&backup, &case.topic) >= reached).then_some(()));
            agent.kill();
            let ended = backup.start_config("backup", &config, &[]).wait();
            assert_eq!(ended.code(), Some(0), "{policy}, kill {kill}");
            case.assert_whole(&backup, policy, &format!("{policy}, kill {kill}"));
        }
    }
}

#[test]
fn a_failing_stage_never_skips_and_goes_on_at_the_record_once_mended() {
    let case = Case::new("stage-fail");
    let backup = case.backup();
    let config = case.config(&backup, "fail");
    let batches = case.batches();
    for is_killed in [true, false] {
        let mut agent = backup.run_config(&config, &[]);
        agent.wait_until("both partitions stand before the record", |agent| {
            let (_, told) = agent.get("/readyz")?;
            (0..PARTITIONS)
                .all(|at| told.contains(&format!("{}-{at} offset {}: ", case.topic, case.failing)))
                .then_some(())
        });
        if is_killed {
            agent.kill()
        } else {
            agent.terminate()
        }
        for (partition, (first, _, _)) in (0..).zip(&batches) {
            assert_eq!(backup.chain(&case.topic, partition).next(), *first, "all before its batch is durable");
        }
    }
    let mut pass = backup.start_config("backup", &config, &[]);
    assert_eq!(pass.wait().code(), Some(1), "{}", pass.log());
    assert!(pass.log().contains(&format!("offset {}: a failure on purpose", case.failing)), "{}", pass.log());
    let ended = backup.start_config("backup", &staged(&backup, &[INJECT]), &[]).wait();
    assert_eq!(ended.code(), Some(0));
    assert_records("mended", &backup.cat(&case.topic), &injected(case.consumed.clone()));
    let _ = backup.command("verify", &["--deep"]).ok();
}

#[test]
fn kafkas_own_tool_reads_what_stages_made() {
    let kafka = Kafka::shared_with_disk();
    let mut contents = Contents::new();
    let topics = ["none", "gzip", "snappy", "lz4", "zstd", "appended"].map(|codec| {
        let kind = if codec == "appended" { "LogAppendTime" } else { "CreateTime" };
        let topic = kafka.topic(&format!("stage-{codec}"), 1, &[("message.timestamp.type", kind)]);
        let codec = if codec == "appended" { "zstd" } else { codec };
        let properties = [("compression.type", codec), ("batch.num.messages", "20"), ("enable.idempotence", "true")];
        let _ = Writer::new(kafka, &properties).write(&topic, &contents.records(1, 200, 300));
        topic
    });
    let names = topics.each_ref().map(String::as_str);
    let backup = Backup::of(kafka, &names).sink("roll_bytes", "16KiB");
    assert_eq!(backup.start_config("backup", &staged(&backup, &[INJECT]), &[]).wait().code(), Some(0));
    for topic in &topics {
        assert_records(topic, &backup.cat(topic), &injected(read_committed(kafka, topic)));
        let told = |bytes: &[u8]| -> Vec<_> {
            headers(bytes)
                .iter()
                .map(|it| (it.attributes & 7, it.producer_id, it.base_sequence, it.last_offset))
                .collect()
        };
        assert_eq!(told(&backup.chain(topic, 0).bytes()), told(&kafka.log_bytes(topic, 0)), "{topic}");
    }
    check_with_kafka(kafka, &backup, &names);
    assert_read_by_another(&backup, &names);
    let compared = backup.command("verify", &["--against-cluster", "-b", kafka.brokers()]);
    assert_eq!(compared.code, Some(1), "not to have compared is no success:\n{}", compared.stderr);
    assert_eq!(
        compared.stdout.matches("they went through stages of plugins").count(),
        topics.len(),
        "{}",
        compared.stdout
    );
    let emptied = Backup::of(kafka, &names);
    let filter = "plugin = \"pitr-filter\"\nsettings = { until = \"1000\" }\n";
    assert_eq!(emptied.start_config("backup", &staged(&emptied, &[filter]), &[]).wait().code(), Some(0));
    for topic in &topics {
        assert_eq!((emptied.chain(topic, 0).next(), emptied.cat(topic).len()), (200, 0), "{topic}");
    }
    check_with_kafka(kafka, &emptied, &names);
    let _ = (backup.command("verify", &["--deep"]).ok(), emptied.command("verify", &["--deep"]).ok());
}

#[test]
fn what_a_stage_makes_larger_stays_within_memory() {
    const RECORDS: usize = 60_000;
    let kafka = Kafka::shared();
    let topic = kafka.topic("stage-memory", 2, &[]);
    let writer = Writer::new(kafka, &[("compression.type", "zstd"), ("batch.num.messages", "1000")]);
    let _ = writer.write(&topic, &Contents::new().records(2, RECORDS / 2, 20));
    let backup = Backup::of(kafka, &[&topic]).sink("memory_bytes", "32MiB").sink("roll_bytes", "8MiB");
    let stage = format!("{INJECT}settings = {{ headers = {{ x = {:?} }} }}\n", "x".repeat(4000));
    let mut agent = backup.run_config(&staged(&backup, &[&stage]), &[]);
    agent.wait_until("all arrives", |_| {
        ((0..2).map(|partition| backup.chain(&topic, partition).next()).sum::<i64>() == RECORDS as i64).then_some(())
    });
    let peak = agent.peak_bytes();
    println!("a peak of {} MiB", peak >> 20);
    agent.terminate();
    assert!(peak < 160 << 20, "a peak of {} MiB for {} MiB of records", peak >> 20, (RECORDS * 4000) >> 20);
    let _ = backup.command("verify", &["--deep"]).ok();
}
