//! Two agents that write the same backup on S3: whoever creates a segment first wins it, whatever is stopped, woken up
//! or not answered meanwhile.
//!
//! The server is the one in this process, or that of `S3_URL` (a URL as for `path`, whose endpoint is plain HTTP). Some
//! answers to what creates an object get lost (`support::lossy`). `DUELS=n` sets how many lost races are waited for.

use std::fs;
use std::time::Duration;

use bytes::Bytes;
use kafka_backup::store::{Creation, Store};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::support::agent::{Agent, Backup};
use crate::support::chain::{Chain, assert_same};
use crate::support::kafka::Kafka;
use crate::support::lossy::Lossy;
use crate::support::reader::Record;
use crate::support::s3::S3;
use crate::support::workload::{Contents, Load, Writer};
use crate::support::{alone, block_on, wait_for};

/// The size of a part of an upload, or a little more.
const PART: usize = 8 * 1024 * 1024 + 1;

/// As many duels may be under way at once.
const PARTITIONS: i32 = 4;

/// Segments that an agent has made durable.
const SEGMENTS: &str = "kafka_backup_captured_segments_total";

/// A store of its own, below a new prefix.
struct Place {
    /// How the agents reach it: some answers get lost.
    lossy: &'static Lossy,
    url: String,
    /// How the test reaches it.
    direct: String,
    /// What was read of it: an object never changes.
    copies: TempDir,
}

impl Place {
    fn new(theme: &str) -> Self {
        let prefix = format!("{theme}-{:08x}", fastrand::u32(..));
        let direct = match std::env::var("S3_URL") {
            Ok(url) => {
                let (place, parameters) = url.split_once('?').expect("S3_URL has parameters");
                format!("{}/{prefix}?{parameters}", place.trim_end_matches('/'))
            }
            Err(_) => S3::shared().url(&prefix),
        };
        let endpoint = direct.split(['?', '&']).find_map(|part| part.strip_prefix("endpoint=")).expect("an endpoint");
        let (lossy, front) = Lossy::start(endpoint);
        let url = direct.replace(endpoint, &front);
        Self { lossy, url, direct, copies: TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder") }
    }

    fn store(&self) -> Store {
        Store::open(&self.direct).expect("the URL is right")
    }

    /// Returns the chain of a partition, of which nothing is read twice.
    fn chain(&self, topic: &str, partition: i32) -> Chain {
        let copies = self.copies.path().join(partition.to_string());
        fs::create_dir_all(&copies).expect("a writable folder");
        let store = self.store().within("test").within("topics").within(topic);
        block_on(async {
            let timelines = store.list("").await.expect("listed");
            let Some(timeline) = timelines.first() else { return };
            let store = store.within(&timeline.name).within(&partition.to_string());
            for entry in store.list("").await.expect("listed") {
                let copy = copies.join(&entry.name);
                if entry.name.ends_with(".log") && !copy.exists() {
                    let bytes = store.read(&entry.name).await.expect("read").expect("it was listed");
                    assert_eq!(bytes.len() as u64, entry.size_bytes, "{}", entry.name);
                    fs::write(&copy, bytes).expect("a writable folder");
                }
            }
        });
        Chain::read(&copies)
    }

    /// Waits until the archive holds all of the topic; its bytes are the broker's, and sound.
    fn wait_until_whole(&self, kafka: &Kafka, backup: &Backup, topic: &str) {
        for partition in 0..kafka.partitions(topic) {
            let log = kafka.log_bytes(topic, partition);
            let held = wait_for("the archive has caught up", || {
                let bytes = self.chain(topic, partition).bytes();
                (bytes.len() >= log.len()).then_some(bytes)
            });
            assert_same(&format!("{topic}-{partition}"), &held, &log);
        }
        let _ = backup.command("verify", &["--deep"]).ok();
    }
}

/// Returns how many duels the agents have lost: races for one segment that another writer had won.
fn duels(agents: &[Agent]) -> usize {
    agents.iter().map(|agent| agent.log().matches("another writer was ahead").count()).sum()
}

#[test]
fn a_hundred_duels_with_pauses_and_lost_answers_leave_one_whole_chain() {
    let _alone = alone();
    let wanted = std::env::var("DUELS").map_or(100, |duels| duels.parse().expect("DUELS is a number"));
    let kafka = Kafka::shared_with_disk();
    let topic = kafka.topic("duel-s3", PARTITIONS, &[]);
    let place = Place::new("duels");
    let load = Load::start(kafka, &topic, 10, Duration::from_millis(100));
    let first = Backup::of(kafka, &[&topic]).sink("roll_bytes", "24KiB").sink("roll_interval", "400ms");
    let first = first.path(&place.url);
    let second = Backup::of(kafka, &[&topic]).sink("roll_bytes", "40KiB").sink("roll_interval", "550ms");
    let second = second.path(&place.url);
    let mut agents = [first.run(), second.run()];
    let mut stops = 0;
    while duels(&agents) < wanted || stops < 6 {
        let (stopped, other) = (stops % 2, (stops + 1) % 2);
        let more = duels(&agents) + 16;
        wait_for("duels", || (duels(&agents) >= more).then_some(()));
        agents[stopped].signal(Signal::SIGSTOP);
        let won = agents[other].metric(SEGMENTS) + f64::from(PARTITIONS);
        agents[other].wait_until("the other rolls", |other| (other.metric(SEGMENTS) >= won).then_some(()));
        agents[stopped].signal(Signal::SIGCONT);
        stops += 1;
        assert!(agents.iter_mut().all(Agent::runs), "both still run");
    }
    load.end();
    println!("{} duels, {stops} stops, {} answers lost", duels(&agents), place.lossy.lost());
    assert!(place.lossy.lost() >= stops, "answers get lost");
    place.wait_until_whole(kafka, &first, &topic);
    agents.into_iter().for_each(Agent::terminate);
    place.wait_until_whole(kafka, &first, &topic);
}

#[test]
fn two_passes_race_with_segments_of_many_parts() {
    let kafka = Kafka::shared_with_disk();
    let topic = kafka.topic("duel-s3-parts", 1, &[]);
    let mut contents = Contents::new();
    let record = |_| Record { timestamp: -1, value: Some(contents.noise(200_000)), ..Record::default() };
    let _ = Writer::new(kafka, &[("linger.ms", "2")]).write(&topic, &(0..200).map(record).collect::<Vec<_>>());
    // One pass may be through before the other begins; then they race again, elsewhere.
    wait_for("a duel", || {
        let place = Place::new("parts");
        let pass = |roll| Backup::of(kafka, &[&topic]).sink("roll_bytes", roll).sink("roll_interval", "1h");
        let (first, second) = (pass("9MiB").path(&place.url), pass("18MiB").path(&place.url));
        let mut passes = [first.start("backup", &[]), second.start("backup", &[])];
        for pass in &mut passes {
            assert_eq!(pass.wait().code(), Some(0), "{}", pass.log());
        }
        println!("{} duels, {} answers lost", duels(&passes), place.lossy.lost());
        place.wait_until_whole(kafka, &first, &topic);
        (duels(&passes) > 0).then_some(())
    });
}

/// Has 32 writers, of which each writes another byte, race for one key; one wins.
fn race(store: &Store, key: &'static str, writers: u8, bytes: usize) {
    block_on(async {
        let writers: Vec<_> = (0..writers)
            .map(|n| {
                let store = store.clone();
                tokio::spawn(async move { (n, store.create(key, Bytes::from(vec![n; bytes])).await) })
            })
            .collect();
        let mut winners = Vec::new();
        for writer in writers {
            let (n, creation) = writer.await.expect("no panic");
            // A service may also refuse one of two completions at once, which then must not be the winner's.
            if matches!(creation, Ok(Creation::Created)) {
                winners.push(n);
            }
        }
        let held = store.read(key).await.expect("read").expect("it was created");
        assert!(winners == [held[0]], "{winners:?} won, and what is there is that of {}", held[0]);
        assert!(held.len() == bytes && held.iter().all(|byte| *byte == held[0]), "it is whole");
    });
}

#[test]
fn of_32_writers_of_one_key_one_wins_on_s3() {
    race(&Place::new("race").store(), "small", 32, 1000);
}

#[test]
fn of_writers_of_many_parts_one_wins_on_s3() {
    race(&Place::new("race-parts").store(), "large", 4, 2 * PART);
}

#[test]
fn s3_creates_once_and_whole() {
    let place = Place::new("suite");
    block_on(async {
        let store = place.store();
        store.prepare().await.expect("nothing is asked");
        assert_eq!(store.create("a/b/x", Bytes::from_static(b"one")).await.expect("created"), Creation::Created);
        assert_eq!(store.create("a/b/x", Bytes::from_static(b"two")).await.expect("refused"), Creation::Exists);
        assert_eq!(store.read("a/b/x").await.expect("read").as_deref(), Some(&b"one"[..]));
        assert_eq!(store.read_range("a/b/x", 1..100).await.expect("read"), &b"ne"[..]);
        assert_eq!(store.read("a/none").await.expect("read"), None);
        assert!(store.exists("a/b/x").await.expect("asked") && !store.exists("a/b/y").await.expect("asked"));
        let mut dropped = store.upload("a/b/y").await.expect("begun");
        dropped.write(Bytes::from(vec![1; 2 * PART])).await.expect("written");
        drop(dropped);
        for name in ["a/b@1-2/x", "a/b@3-4/x", "a/c/x"] {
            let _ = store.create(name, Bytes::new()).await.expect("created");
        }
        let names = |listed: Vec<kafka_backup::store::Listed>| {
            listed.into_iter().map(|entry| (entry.name, entry.size_bytes, entry.is_folder)).collect::<Vec<_>>()
        };
        assert_eq!(names(store.list("a/b/").await.expect("listed")), [("x".to_owned(), 3, false)]);
        assert!(store.list("none/").await.expect("listed").is_empty());
        let folders = ["b", "b@1-2", "b@3-4", "c"].map(|name| (name.to_owned(), 0, true));
        assert_eq!(names(store.list("a/").await.expect("listed")), folders);
        assert_eq!(names(store.list_from("a/", "b@").await.expect("listed")), folders[1..3]);
        assert_eq!(names(store.within("a").list_from("b/", "x").await.expect("listed"))[0].0, "x");
        let store = &store;
        let after = |name| async move { store.list_after("a/", name).await.expect("listed").expect("S3 can") };
        assert_eq!(names(after("b@1-2").await), folders[2..]);
        assert_eq!(names(after("a").await), folders);
        assert!(after("c").await.is_empty());
    });
}

#[test]
fn an_upload_tells_what_it_holds_in_memory() {
    let place = Place::new("memory");
    block_on(async {
        let mut upload = place.store().upload("large").await.expect("begun");
        upload.write(Bytes::from(vec![7; 1000])).await.expect("written");
        assert_eq!(upload.held_bytes(), 1000);
        upload.write(Bytes::from(vec![7; 5 * PART])).await.expect("written");
        // The newest part may have been the last: it waits for the next one.
        let rest = 1000 + 5 * PART - 5 * (PART - 1);
        wait_for("the parts are sent", || (upload.held_bytes() < PART + rest).then_some(()));
        assert_eq!(upload.finish().await.expect("finished"), Creation::Created);
    });
}

#[test]
fn what_the_user_must_change_ends_the_agent_in_one_line() {
    let kafka = Kafka::shared();
    let topic = kafka.topic("s3-refused", 1, &[]);
    let right = Place::new("refused").direct;
    let endpoint = right.split(['?', '&']).find_map(|part| part.strip_prefix("endpoint=")).expect("an endpoint");
    for (url, words) in [
        (right.replace("s3://", "s3://no-such-"), ["NoSuchBucket", "create the bucket"]),
        (right.replace("secret_key=", "secret_key=x"), ["SignatureDoesNotMatch", "correct the credentials"]),
        (right.replace("region=", "regoin="), ["no parameter `regoin`", "did you mean `region`"]),
        (format!("s3://b/p?endpoint={endpoint}&secret_key=x"), ["`secret_key` needs `access_key`", "s3://b/p"]),
    ] {
        let backup = Backup::of(kafka, &[&topic]).path(&url);
        for verb in ["run", "backup"] {
            let mut agent = backup.start(verb, &[]);
            assert_eq!(agent.wait().code(), Some(2), "{url}: {}", agent.log());
            let log = agent.log();
            let line = log.lines().last().unwrap_or_default();
            assert!(words.iter().all(|word| line.contains(word)) && !line.contains("testtest"), "{words:?}: {log}");
        }
    }
}
