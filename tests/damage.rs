//! Damage, all of it: in a small archive that has every kind of object each byte is changed, each object cut at each
//! length, removed, and swapped with its neighbour. `verify --deep` must find every case but those that the page on the
//! format says nothing protects; and what it does not find must not change what a reader gets.
//!
//! `DAMAGE=all` tries them all; without it every third byte and length is tried, from a random one on, and every removal and swap.
//!
//! That a reader gets the same is judged by one that shares no code with the program, where `PYTHON` names an interpreter
//! that has what it needs; without it that part is not tested, aloud.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use bytes::Bytes;
use kafka_backup::archive::Archive;
use kafka_backup::store::{Creation, Store};
use kafka_backup::verify::{self, Mode};

use crate::golden::{FOLDER, files_below, python, read_by_python};
use crate::support::alone;

/// Of so many bytes one is changed unless all are asked for: all take both processors for minutes. It and 8 have no divisor in
/// common, so that each bit has its turn.
const STEP: usize = 3;

/// Exit codes.
const DAMAGE: u8 = 4;
const HOLE: u8 = 5;

/// What can happen to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    /// One bit of the byte at this position.
    Flip(usize),
    /// It ends here.
    Cut(usize),
    Remove,
    /// It has the bytes of the next one in the order of keys, and that one its.
    Swap,
}

/// A change of the object of that number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Case {
    object: usize,
    change: Change,
}

/// What was made of a changed archive: the exit code of `verify --deep`, and what it found.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    code: u8,
    findings: Vec<&'static str>,
}

/// Which changes one of the entries below is about.
type Is = fn(&Sample, Case) -> bool;

/// What nothing protects, in the words of the page, which argues each.
const UNPROTECTED: [(&str, Is); 4] = [
    ("The newest savepoint, removed", |sample, case| {
        case.change == Change::Remove
            && sample.key(case).starts_with("savepoints/")
            && !sample.keys().skip(case.object + 1).any(|key| key.starts_with("savepoints/"))
    }),
    ("The newest topic object of a timeline, removed", |sample, case| {
        case.change == Change::Remove && sample.key(case).contains("/topic-") && !sample.has_next_topic_object(case)
    }),
    ("`begin.json`, removed", |sample, case| {
        case.change == Change::Remove && sample.key(case).ends_with("/begin.json")
    }),
    ("A catalog that the very last segment of a chain completed, removed", |sample, case| {
        case.change == Change::Remove && sample.key(case).contains("/catalog/") && sample.is_last_catalog(case)
    }),
];

#[test]
fn every_damage_is_found_but_what_is_said_to_be_unprotected() {
    let sample = Sample::read("main");
    let cases = sample.cases();
    // It takes all processors for minutes.
    let _alone = alone();
    let began = Instant::now();
    let told = sample.check_all(&cases);
    let by_kind = |wanted: fn(Change) -> bool| cases.iter().filter(|case| wanted(case.change)).count();
    let unfound: Vec<Case> =
        cases.iter().zip(&told).filter(|(_, told)| told.code == 0).map(|(case, _)| *case).collect();
    println!(
        "{} objects, {} bytes: {} flips, {} truncations, {} removals, {} swaps; {} found, {} not, in {:.1?}",
        sample.objects.len(),
        sample.objects.iter().map(|(_, bytes)| bytes.len()).sum::<usize>(),
        by_kind(|change| matches!(change, Change::Flip(_))),
        by_kind(|change| matches!(change, Change::Cut(_))),
        by_kind(|change| change == Change::Remove),
        by_kind(|change| change == Change::Swap),
        cases.len() - unfound.len(),
        unfound.len(),
        began.elapsed(),
    );
    let mut declared: BTreeMap<&str, usize> = BTreeMap::new();
    let mut undeclared = Vec::new();
    for case in &unfound {
        match UNPROTECTED.iter().find(|(_, is)| is(&sample, *case)) {
            Some((reason, _)) => *declared.entry(reason).or_default() += 1,
            None => undeclared.push(format!("{:?} of {}", case.change, sample.key(*case))),
        }
    }
    println!("declared unprotected: {declared:?}");
    assert!(undeclared.is_empty(), "{} cases were not found:\n{}", undeclared.len(), undeclared.join("\n"));
    // What is found and what is not, by a reader of another make: one of some hundred of the one, all of the other.
    let found: Vec<Case> = cases.into_iter().filter(|case| !unfound.contains(case)).collect();
    let some = found.chunks(found.len() / 50).map(|chunk| chunk[chunk.len() / 3]);
    sample.read_by_python(&unfound, true);
    sample.read_by_python(&some.collect::<Vec<_>>(), false);
}

#[test]
fn the_page_argues_what_is_unprotected() {
    let page = std::fs::read_to_string("docs/archive-format.md").expect("the page");
    UNPROTECTED.iter().for_each(|(reason, _)| assert!(page.contains(&format!("\n- **{reason}.** ")), "{reason}"));
}

#[test]
fn a_removed_log_is_a_hole_and_a_removed_sidecar_damage_below_a_savepoint() {
    let sample = Sample::read("main");
    for (end, code) in [(".log", HOLE), (".index", DAMAGE)] {
        let cases = sample.removals(end);
        assert!(cases.len() > 40);
        for (case, told) in cases.iter().zip(sample.check_all(&cases)) {
            assert_eq!(told.code, code, "{}: {told:?}", sample.key(*case));
        }
    }
}

#[test]
fn a_log_removed_at_the_bare_tip_leaves_unfinished_work() {
    let sample = Sample::read("tip");
    assert_eq!(sample.check(None), Told { code: 0, findings: vec!["unfinished"] });
    // The sidecar behind the last segment of partition 0 tells that it was there, as does the catalog that the last one of
    // partition 1 completed; nothing does of the last one of partition 2 but its own sidecar.
    let logs = sample.removals(".log");
    for (case, told) in logs.iter().zip(sample.check_all(&logs)) {
        let key = sample.key(*case);
        let is_named = !key.ends_with("/2/00000000000000000001.log");
        let code = if is_named { HOLE } else { 0 };
        assert_eq!(told.code, code, "{key}: {told:?}");
        assert!(is_named || told.findings.contains(&"unfinished"), "{told:?}");
    }
    let sidecars = sample.removals(".index");
    for (case, told) in sidecars.iter().zip(sample.check_all(&sidecars)) {
        let is_unfinished = sample.key(*case).contains("/00000000000000000008.");
        let code = if is_unfinished { 0 } else { DAMAGE };
        assert_eq!(told.code, code, "{}: {told:?}", sample.key(*case));
    }
}

#[test]
fn only_the_catalog_that_a_chains_last_segment_completed_may_be_missing() {
    let sample = Sample::read("tip");
    let cases = sample.removals("/catalog/");
    let missed: Vec<_> = sample.check_all(&cases).iter().map(|told| told.code == 0).collect();
    let declared: Vec<_> = cases.iter().map(|case| sample.is_last_catalog(*case)).collect();
    assert_eq!(missed, declared);
    assert!(missed.contains(&true) && missed.contains(&false), "there is one of each");
}

/// An archive as it lies in the repository.
struct Sample {
    name: &'static str,
    /// By key below the backup's folder, in order.
    objects: Vec<(String, Bytes)>,
}

impl Sample {
    fn read(name: &'static str) -> Self {
        let (folder, mut files) = (Path::new(FOLDER).join(name), Vec::new());
        files_below(&folder, &mut files);
        let object = |file: &std::path::PathBuf| {
            let key = file.strip_prefix(&folder).expect("it is below").to_str().expect("a key").to_owned();
            (key, Bytes::from(std::fs::read(file).expect("a file")))
        };
        let mut objects: Vec<_> = files.iter().map(object).collect();
        objects.sort();
        Self { name, objects }
    }

    fn keys(&self) -> impl Iterator<Item = &str> {
        self.objects.iter().map(|(key, _)| key.as_str())
    }

    fn key(&self, case: Case) -> &str {
        &self.objects[case.object].0
    }

    /// Every change there is, or of the bytes and lengths one in [`STEP`]: over the bytes each bit has its turn.
    fn cases(&self) -> Vec<Case> {
        let step = if std::env::var("DAMAGE").is_ok_and(|wanted| wanted == "all") { 1 } else { STEP };
        let first = fastrand::usize(..step);
        let mut cases = Vec::new();
        for (object, (_, bytes)) in self.objects.iter().enumerate() {
            let of = |change| Case { object, change };
            cases.extend((first..bytes.len()).step_by(step).map(Change::Flip).map(of));
            cases.extend((first..bytes.len()).step_by(step).map(Change::Cut).map(of));
            cases.push(of(Change::Remove));
            if self.objects.get(object + 1).is_some_and(|(_, next)| next != bytes) {
                cases.push(of(Change::Swap));
            }
        }
        cases
    }

    fn removals(&self, part: &str) -> Vec<Case> {
        let of = self.keys().enumerate().filter(|(_, key)| key.contains(part));
        of.map(|(object, _)| Case { object, change: Change::Remove }).collect()
    }

    /// Returns the objects that `case` changes, as they are then; `None` is one that is not there any more.
    fn changed(&self, Case { object, change }: Case) -> Vec<(usize, Option<Bytes>)> {
        let bytes = &self.objects[object].1;
        match change {
            Change::Flip(at) => {
                let mut flipped = bytes.to_vec();
                flipped[at] ^= 1 << ((at + object) % 8);
                vec![(object, Some(flipped.into()))]
            }
            Change::Cut(length) => vec![(object, Some(bytes.slice(..length)))],
            Change::Remove => vec![(object, None)],
            Change::Swap => {
                vec![(object, Some(self.objects[object + 1].1.clone())), (object + 1, Some(bytes.clone()))]
            }
        }
    }

    fn has_next_topic_object(&self, case: Case) -> bool {
        let (folder, name) = self.key(case).rsplit_once('/').expect("a key in a folder");
        let number: u32 = name["topic-".len()..name.len() - ".json".len()].parse().expect("a number");
        self.keys().any(|key| key == format!("{folder}/topic-{}.json", number + 1))
    }

    /// Returns whether no segment follows on what the catalog stands for.
    fn is_last_catalog(&self, case: Case) -> bool {
        let (folder, name) = self.key(case).split_once("/catalog/").expect("a catalog");
        let next = name.rsplit_once('-').expect("a range").1;
        !self.keys().any(|key| key == format!("{folder}/{next}.log"))
    }

    fn check(&self, case: Option<Case>) -> Told {
        runtime().block_on(async { Copy::of(self).await.told(self, case).await })
    }

    /// Checks the archive with each of the changes, on all processors.
    fn check_all(&self, cases: &[Case]) -> Vec<Told> {
        let next = AtomicUsize::new(0);
        let work = || {
            runtime().block_on(async {
                let (copy, mut told) = (Copy::of(self).await, Vec::new());
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(case) = cases.get(at) else { return told };
                    told.push((at, copy.told(self, Some(*case)).await));
                }
            })
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let mut told: Vec<_> = std::thread::scope(|scope| {
            let running: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            running.into_iter().flat_map(|thread| thread.join().expect("no check panics")).collect()
        });
        told.sort_by_key(|(at, _)| *at);
        told.into_iter().map(|(_, told)| told).collect()
    }

    /// Has the other reader read the archive with each of the changes. Where `verify` found nothing it gets what it gets
    /// of the whole archive and finds nothing either; else it gets that, or finds something.
    fn read_by_python(&self, cases: &[Case], must_be_sound: bool) {
        let Some(python) = python() else { return };
        let whole = read_by_python(&python, Path::new(FOLDER), self.name, &[]);
        for case in cases {
            let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
            let changed: BTreeMap<_, _> = self.changed(*case).into_iter().collect();
            for (object, (key, bytes)) in self.objects.iter().enumerate() {
                let Some(bytes) = changed.get(&object).map_or(Some(bytes), Option::as_ref) else { continue };
                let file = folder.path().join(self.name).join(key);
                std::fs::create_dir_all(file.parent().expect("it has one")).expect("a folder");
                std::fs::write(file, bytes).expect("written");
            }
            let read = read_by_python(&python, folder.path(), self.name, &[]);
            let is_same = read.stdout == whole.stdout;
            let of = format!("{:?} of {}: {:?} {}", case.change, self.key(*case), read.code, read.stderr);
            assert!(is_same || !must_be_sound, "another reader gets something else: {of}");
            assert!((read.code == Some(0)) == must_be_sound, "another reader judges otherwise: {of}");
        }
        println!("{} changed archives were read by {python}", cases.len());
    }
}

/// An archive in memory whose objects can be changed.
struct Copy {
    root: Store,
    store: Store,
    backup_id: &'static str,
}

impl Copy {
    async fn of(sample: &Sample) -> Self {
        let root = Store::open(&format!("memory://{}", uuid::Uuid::new_v4())).expect("memory");
        let copy = Self { store: root.within(sample.name), root, backup_id: sample.name };
        for (key, bytes) in &sample.objects {
            copy.put(key, Some(bytes)).await;
        }
        copy
    }

    async fn put(&self, key: &str, bytes: Option<&Bytes>) {
        self.store.delete(key).await.expect("deleted");
        if let Some(bytes) = bytes {
            assert_eq!(self.store.create(key, bytes.clone()).await.expect("created"), Creation::Created);
        }
    }

    /// Checks the archive with a change, and undoes it.
    async fn told(&self, sample: &Sample, case: Option<Case>) -> Told {
        let changed = case.map(|case| sample.changed(case)).unwrap_or_default();
        for (object, bytes) in &changed {
            self.put(&sample.objects[*object].0, bytes.as_ref()).await;
        }
        let told = self.verified().await;
        for (object, _) in &changed {
            let (key, bytes) = &sample.objects[*object];
            self.put(key, Some(bytes)).await;
        }
        told
    }

    async fn verified(&self) -> Told {
        let archive = match Archive::open(&self.root, self.backup_id).await {
            Ok(archive) => archive,
            Err(error) => return Told { code: error.exit_code(), findings: Vec::new() },
        };
        let report = verify::check_some(&archive, Mode::Deep, 1).await.expect("a store in memory answers");
        let findings = report.findings().map(|found| found.finding.what.name()).collect();
        Told { code: report.verdict().map_or_else(|error| error.exit_code(), |()| 0), findings }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime starts")
}
