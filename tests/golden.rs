//! Archives as they were once written, in `tests/golden`: what lies there must be read for ever, and read the same by a
//! reader that knows only the page on the format.
//!
//! `WRITE_GOLDEN=1` writes them and what is expected of them anew, `WRITE_GOLDEN=expected` only that, for a program that
//! prints otherwise than it did; look at it and commit it. `PYTHON` names an interpreter that has what
//! `docs/read_archive.py` needs; without it what concerns that reader is not tested, aloud.

use std::path::{Path, PathBuf};
use std::process::Command;

use kafka_backup::archive::savepoint::{Committed, End, Group, Name, Savepoint, State, Topic};
use kafka_backup::archive::{Archive, source};
use kafka_backup::store::Store;
use serde_json::Value;

use crate::support::agent::{Backup, Ended, ended, program_with};
use crate::support::kafka::Kafka;
use crate::support::workload::{Contents, Writer};
use crate::support::{block_on, sample};

/// The samples, and the exit code of whoever reads them.
const SAMPLES: [(&str, i32); 3] = [("main", 0), ("tip", 0), ("rebuilt", 3)];

/// Where they lie, for the program too: relative to the repository, where tests run.
pub(crate) const FOLDER: &str = "tests/golden";

#[test]
fn archives_of_this_format_read_as_they_did() {
    let anew = std::env::var("WRITE_GOLDEN").ok();
    if anew.as_deref() == Some("1") {
        // Whoever reads them meanwhile, in a test beside this one, fails: run this one alone.
        SAMPLES.iter().for_each(|(name, _)| drop(std::fs::remove_dir_all(Path::new(FOLDER).join(name))));
        block_on(sample::write(Path::new(FOLDER)));
    }
    let check = |file: String, words: &[&str], code| {
        let ended = program_with(&[words, &["--path", FOLDER]].concat());
        assert_eq!(ended.code, Some(code), "{words:?}: {ended:#?}");
        let path = Path::new(FOLDER).join(&file);
        if anew.is_some() {
            std::fs::write(&path, &ended.stdout).expect("the repository is writable");
        }
        let expected = std::fs::read_to_string(&path).expect("it is committed");
        assert!(ended.stdout == expected, "{file}:\n{}\ninstead of\n{expected}", ended.stdout);
    };
    check("list.json".to_owned(), &["list", "--format", "json"], 0);
    check("main.savepoints.json".to_owned(), &["savepoints", "--format", "json", "--backup-id", "main"], 0);
    for (name, code) in SAMPLES {
        check(format!("{name}.jsonl"), &["cat", "--backup-id", name], code);
        check(format!("{name}.describe.json"), &["describe", "--format", "json", "--backup-id", name], code);
        check(format!("{name}.verify.csv"), &["verify", "--deep", "--format", "csv", "--backup-id", name], code);
    }
}

#[test]
fn the_main_sample_is_small_and_has_every_kind_of_object() {
    let mut files = Vec::new();
    files_below(&Path::new(FOLDER).join("main"), &mut files);
    let bytes: u64 = files.iter().map(|file| file.metadata().expect("a file").len()).sum();
    assert!(bytes <= 48 << 10, "{bytes} bytes are too many to change each of them in a test");
    let names: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
    for part in [
        "backup.json",
        "topic-0.json",
        "topic-1.json",
        "begin.json",
        ".log",
        ".index",
        "/catalog/1/",
        "/catalog/2/",
        "/1@",
        "/2/begin.json",
        "/savepoints/",
        sample::OLD_PAYMENTS,
        sample::PAYMENTS,
    ] {
        assert!(names.iter().any(|name| name.contains(part)), "no {part}");
    }
}

#[test]
fn a_reader_that_knows_only_the_page_reads_the_samples_alike() {
    let Some(python) = python() else { return };
    for (name, code) in SAMPLES {
        let read = read_by_python(&python, Path::new(FOLDER), name, &[]);
        let expected =
            std::fs::read_to_string(Path::new(FOLDER).join(format!("{name}.jsonl"))).expect("it is committed");
        assert!(read.stdout == expected && read.code == Some(code), "{name}: {read:#?}");
    }
    for chain in ["orders 1 --fork 1-5", "orders 1 --fork 4-3", &format!("payments@{} 0", sample::OLD_PAYMENTS)] {
        let mut words = chain.split(' ');
        let (topic, partition) = (words.next().expect("a topic"), words.next().expect("a partition"));
        let (mut ours, mut theirs) = (vec!["--topic", topic, "--partition", partition], Vec::new());
        theirs.extend_from_slice(&ours);
        let fork = words.nth(1).map(|fork| (fork, format!("{partition}@{fork}")));
        if let Some((fork, name)) = &fork {
            ours.extend(["--fork", name]);
            theirs.extend(["--fork", fork]);
        }
        let printed = program_with(&[&["cat", "--path", FOLDER, "--backup-id", "main"], &ours[..]].concat()).ok();
        let read = read_by_python(&python, Path::new(FOLDER), "main", &theirs);
        assert!(!printed.is_empty() && read.stdout == printed, "{chain}: {read:#?}");
    }
}

#[test]
fn a_reader_that_knows_only_the_page_reads_a_fresh_archive() {
    let Some(python) = python() else { return };
    let (kafka, mut contents) = (Kafka::shared(), Contents::new());
    let topic = kafka.topic("foreign-reader", 2, &[]);
    let (a, b) = (Writer::transactional(kafka, "a"), Writer::transactional(kafka, "b"));
    for _ in 0..30 {
        let records = contents.records(2, 40, 300);
        let _ = a.commit_records(&topic, &records);
        let _ = b.abort_records(&topic, &records[..20]);
    }
    let backup = Backup::of(kafka, &[&topic]).sink("roll_bytes", "4KiB");
    let _ = backup.backup().ok();
    assert!(backup.chain(&topic, 0).0.len() > 12, "there are catalogs");
    let read = read_by_python(&python, Path::new(backup.archive()), "test", &[]);
    assert!(read.code == Some(0) && read.stderr.is_empty(), "{}", read.stderr);
    assert!(read.stdout == backup.command("cat", &[]).ok());
}

#[test]
fn a_reader_that_knows_only_the_page_resolves_savepoints_alike() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let root = |path: &Path| Store::open(path.to_str().expect("UTF-8")).expect("a folder");
    block_on(changing(&root(folder.path())));
    for (path, name, deltas) in [(Path::new(FOLDER), "main", 2), (folder.path(), "changing", 2)] {
        let read = read_by_python(&python, path, name, &["--savepoints"]);
        let told: Vec<Value> = read.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let meant = block_on(async {
            let archive = source::open(&root(path), name).await.expect("a backup");
            let mut states = Vec::new();
            for name in archive.savepoints().await.expect("listed") {
                let (savepoint, state) = archive.resolved_savepoint(name).await.expect("sound").expect("there");
                states.push((savepoint.full, serde_json::to_value(state).expect("data")));
            }
            states
        });
        assert!(read.code == Some(0) && told.len() == meant.len(), "{name}: {read:#?}");
        assert_eq!(meant.iter().filter(|(full, _)| full.is_some()).count(), deltas, "{name}");
        for (told, (_, meant)) in told.iter().zip(&meant) {
            for (key, meant) in meant.as_object().expect("an object") {
                assert_eq!(&told[key], meant, "{name}: {key} of {}", told["name"]);
            }
        }
    }
}

/// A full savepoint, and two in which something has come, has changed and has gone, each kind of thing once.
async fn changing(root: &Store) {
    let archive = Archive::create(root, "changing", Some("cluster")).await.expect("created");
    let ends = |ends: &[(i32, i64)]| {
        ends.iter().map(|&(partition, high_watermark)| End { partition, high_watermark, archived: None }).collect()
    };
    let topic = |topic: &str, partitions| Topic { topic: topic.into(), topic_id: "_".into(), partitions };
    let offsets = |name: &str, offsets: &[(i32, i64)]| Topic {
        topic: name.into(),
        topic_id: "_".into(),
        partitions: offsets.iter().map(|&(index, offset)| Committed(index, offset, String::new())).collect(),
    };
    let group = |name: &str, state: &str, offsets| {
        let (group, kind, state) = (name.into(), "classic".into(), state.into());
        Group { group, kind, state, error: None, offsets }
    };
    let state = |topics, groups| State { topics, groups, ..State::default() };
    let states = [
        state(
            vec![topic("a", ends(&[(0, 1), (1, 2), (9, 3), (10, 4)])), topic("b", ends(&[(0, 5)]))],
            vec![
                group("g", "Empty", vec![offsets("a", &[(0, 1), (1, 2), (10, 3)]), offsets("b", &[(0, 5)])]),
                group("h", "Empty", vec![offsets("a", &[(0, 1)])]),
                group("same", "Stable", vec![offsets("a", &[(1, 1)])]),
            ],
        ),
        state(
            vec![topic("a", ends(&[(0, 1), (1, 7), (10, 4)])), topic("c", ends(&[(0, 1)]))],
            vec![
                group("f", "Empty", vec![offsets("c", &[(0, 1)])]),
                group("g", "Stable", vec![offsets("a", &[(0, 1), (1, 4)]), offsets("c", &[(0, 1)])]),
                group("same", "Stable", vec![offsets("a", &[(1, 1)])]),
            ],
        ),
        state(vec![], vec![]),
    ];
    let names = ["20261122T100000.000Z", "20261122T100100.000Z", "20261122T100200.000Z"];
    let names = names.map(|name| name.parse::<Name>().expect("a name"));
    for (at, state) in states.iter().enumerate() {
        let previous = at.checked_sub(1).map(|before| names[before]);
        let whole = Savepoint::full(names[at], names[at].time(), previous, state.clone());
        let savepoint = if at == 0 { whole } else { whole.relative_to(names[0], &states[0]) };
        let _ = archive.create_savepoint(names[at], savepoint.encode()).await.expect("created");
    }
}

/// Returns the interpreter that the reader in `docs` is tested with, if one is named.
pub(crate) fn python() -> Option<String> {
    let python = std::env::var("PYTHON").ok();
    if python.is_none() {
        println!(
            "not tested: docs/read_archive.py. PYTHON names no interpreter that has its packages; .ci/run makes one"
        );
    }
    python
}

/// Runs the reader in `docs`.
pub(crate) fn read_by_python(python: &str, path: &Path, backup_id: &str, arguments: &[&str]) -> Ended {
    ended(Command::new(python).arg("docs/read_archive.py").arg(path).arg(backup_id).args(arguments))
}

/// Finds the files below `folder`.
pub(crate) fn files_below(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { files_below(&path, files) } else { files.push(path) }
    }
}
