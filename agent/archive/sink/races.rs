//! Tests of the loop with real writers: lost races, stale batches, ends that come at the wrong moment.

use std::collections::VecDeque;
use std::sync::atomic::AtomicBool;

use tokio::sync::{Notify, watch};

use super::tests::{PATIENCE, archive, batch, batches, closed, opened, options, partition};
use super::*;
use crate::budget::Budget;
use crate::error::Result;
use crate::pipeline::{Control, Event, Log, Observer, Sink as _, Source, Tip};
use crate::record::OffsetRange;

struct Nobody;

impl Observer for Nobody {
    fn received(&mut self, _: &Batch) {}
    fn topic(&mut self, _: &Topic) {}
    fn observed(&mut self, _: &Partition, _: &Log) {}
    fn diverged(&mut self, _: &Partition, _: Offset) {}
    fn opened(&mut self, _: &Partition, _: Option<Offset>) {}
    fn durable(&mut self, _: &Partition, _: Offset, _: u64, _: u64, _: Duration) {}
    fn dropped(&mut self, _: &Partition, _: OffsetRange) {}
    fn closed(&mut self, _: &Partition) {}
    fn trouble(&mut self, _: &str, _: Option<&str>) {}
    fn tick(&mut self) {}
}

/// Offsets `[0, 100)` of a partition; before the first of them is read, a rival archives `[0, 30)`.
struct Raced {
    events: VecDeque<(u32, Event)>,
    generation: u32,
    unfinished: bool,
    rival: Archive,
    rival_done: Arc<AtomicBool>,
    wake: Arc<Notify>,
    /// An agent's source: it has no end, and the agent is stopped when the last batch has been read.
    stop: Option<watch::Sender<bool>>,
    /// Whether a batch of the first generation still arrives after the second start.
    stale: bool,
}

impl Source for Raced {
    async fn next(&mut self) -> Result<Option<Event>> {
        loop {
            let held_back = self.generation == 1 && !self.rival_done.load(Ordering::SeqCst);
            while let Some((generation, event)) = if held_back { None } else { self.events.pop_front() } {
                if matches!(event, Event::Finished { .. }) {
                    if generation != self.generation {
                        continue;
                    }
                    self.unfinished = false;
                }
                if let (Event::Batch(batch), Some(stop)) = (&event, &self.stop)
                    && batch.range.next == 100
                {
                    stop.send_replace(true);
                }
                return Ok(Some(event));
            }
            if !self.unfinished && self.stop.is_none() {
                return Ok(None);
            }
            self.wake.notified().await;
        }
    }

    fn start(&mut self, _: &Partition, tip: Tip) {
        self.generation = tip.generation;
        self.unfinished = true;
        if tip.generation == 1 {
            let (rival, done, wake) = (self.rival.clone(), self.rival_done.clone(), self.wake.clone());
            tokio::spawn(async move {
                let mut sink = Sink::new(rival, options());
                let tip = opened(&mut sink).await;
                sink.put(batch(tip.generation, 0, 30));
                closed(&mut sink, tip).await;
                done.store(true, Ordering::SeqCst);
                wake.notify_one();
            });
        } else if self.stale {
            self.events.push_back((1, Event::Batch(batch(1, 90, 100))));
        }
        for at in (tip.next.unwrap_or(0)..100).step_by(10) {
            self.events.push_back((tip.generation, Event::Batch(batch(tip.generation, at, at + 10))));
        }
        if self.stop.is_none() {
            self.events.push_back((tip.generation, Event::Finished { partition: partition(), next: 100 }));
        }
        self.wake.notify_one();
    }

    fn stop(&mut self, _: &Partition) {
        self.unfinished = false;
    }

    fn durable(&mut self, _: &Partition, _: Offset) {}

    fn closed(&mut self, _: &Partition) {}
}

/// Runs a pass, or an agent that is stopped, whose first segment loses its race; all of it must be archived.
async fn everything_is_archived(agent: bool, stale: bool, roll_early: bool) {
    let folder = tempfile::tempdir().expect("a folder");
    let archive = archive(folder.path().to_str().expect("UTF-8")).await;
    let (stopper, stop) = watch::channel(false);
    let mut source = Raced {
        events: [(0, Event::Assigned(partition()))].into(),
        generation: 0,
        unfinished: true,
        rival: archive.clone(),
        rival_done: Arc::default(),
        wake: Arc::default(),
        stop: agent.then(|| stopper.clone()),
        stale,
    };
    let roll_bytes = if roll_early { batches(0, 50).len() as u64 } else { u64::MAX };
    let mut sink = Sink::new(archive.clone(), Options { roll_bytes, ..options() });
    let control = Control { budget: Budget::new(1 << 20), stop, shutdown_timeout: PATIENCE };
    pipeline::run(&mut source, &mut sink, &mut Nobody, control).await.expect("all is well");
    assert_eq!(archive.tip(&partition()).await.expect("a tip").next, Some(100));
}

#[tokio::test]
async fn a_close_that_was_sent_before_a_lost_race_does_not_end_a_pass() {
    everything_is_archived(false, false, true).await;
}

#[tokio::test]
async fn a_close_that_was_sent_before_a_lost_race_does_not_end_an_agent() {
    everything_is_archived(true, false, true).await;
}

#[tokio::test]
async fn a_stale_batch_is_not_taken_for_what_is_read_again() {
    everything_is_archived(true, true, false).await;
}

#[tokio::test]
async fn a_race_lost_by_the_closing_segment_is_made_good() {
    everything_is_archived(true, false, false).await;
}

/// A source that tells of some things and then ends, well or not.
struct Told(VecDeque<Event>, Option<Error>);

impl Source for Told {
    async fn next(&mut self) -> Result<Option<Event>> {
        match self.0.pop_front() {
            Some(event) => Ok(Some(event)),
            None => self.1.take().map_or(Ok(None), Err),
        }
    }

    fn start(&mut self, _: &Partition, tip: Tip) {
        self.0.push_back(Event::Batch(batch(tip.generation, 0, 5)));
        if self.1.is_none() {
            self.0.push_back(Event::Finished { partition: partition(), next: 5 });
        }
    }

    fn stop(&mut self, _: &Partition) {}

    fn durable(&mut self, _: &Partition, _: Offset) {}

    fn closed(&mut self, _: &Partition) {}
}

fn topic() -> Topic {
    Topic { name: "orders".into(), topic_id: "_".into(), partitions: 1, replication_factor: 1, configs: None }
}

#[tokio::test]
async fn a_pass_ends_only_when_topic_objects_are_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let archive = archive(folder.path().to_str().expect("UTF-8")).await;
    let (_stopper, stop) = watch::channel(false);
    let mut sink = Sink::new(archive.clone(), options());
    let control = Control { budget: Budget::new(1 << 20), stop, shutdown_timeout: PATIENCE };
    let mut source = Told([Event::Topic(topic())].into(), None);
    pipeline::run(&mut source, &mut sink, &mut Nobody, control).await.expect("all is well");
    assert!(archive.topic("orders", "_").await.expect("read").is_some());
}

#[tokio::test]
async fn what_was_read_before_a_source_fails_is_archived() {
    let archive = archive("memory://sink-source-fails").await;
    let (_stopper, stop) = watch::channel(false);
    let control = Control { budget: Budget::new(1 << 20), stop, shutdown_timeout: PATIENCE };
    let mut sink = Sink::new(archive.clone(), options());
    let events = [Event::Assigned(partition())].into();
    let mut source = Waits(Told(events, Some(Error::damaged("the broker sends a damaged batch"))), Arc::default());
    let error = pipeline::run(&mut source, &mut sink, &mut Nobody, control).await.expect_err("it failed");
    assert_eq!(error.exit_code(), 4);
    assert_eq!(archive.tip(&partition()).await.expect("a tip").next, Some(5));
}

/// As [`Told`], but it fails only after it was started.
struct Waits(Told, Arc<Notify>);

impl Source for Waits {
    async fn next(&mut self) -> Result<Option<Event>> {
        if self.0.0.is_empty() {
            self.1.notified().await;
        }
        let next = self.0.next().await;
        if self.0.0.is_empty() && matches!(next, Ok(Some(Event::Batch(_)))) {
            self.1.notify_one();
        }
        next
    }

    fn start(&mut self, partition: &Partition, tip: Tip) {
        self.0.start(partition, tip);
        self.1.notify_one();
    }

    fn stop(&mut self, _: &Partition) {}

    fn durable(&mut self, _: &Partition, _: Offset) {}

    fn closed(&mut self, _: &Partition) {}
}

/// A source that holds `[0, 15)` of what is archived and goes on otherwise up to 30; it says so when it is started
/// beyond, and brings the rest of an earlier generation after that.
struct Truncated(VecDeque<Event>);

impl Source for Truncated {
    async fn next(&mut self) -> Result<Option<Event>> {
        Ok(self.0.pop_front())
    }

    fn start(&mut self, _: &Partition, tip: Tip) {
        let (generation, partition) = (tip.generation, partition());
        match tip.next {
            Some(20) => self.0.push_back(Event::Diverged { partition, generation, epoch: -1, end: 15 }),
            next => {
                assert_eq!(next, Some(15));
                self.0.push_back(Event::Batch(batch(generation - 1, 20, 25)));
                self.0.push_back(Event::Batch(batch(generation, 15, 30)));
                self.0.push_back(Event::Finished { partition, next: 30 });
            }
        }
    }

    fn stop(&mut self, _: &Partition) {}

    fn durable(&mut self, _: &Partition, _: Offset) {}

    fn closed(&mut self, _: &Partition) {}
}

#[tokio::test]
async fn a_pass_over_a_truncated_source_ends_with_a_fork() {
    let archive = archive("memory://sink-truncated").await;
    let mut before = Sink::new(archive.clone(), options());
    let tip = opened(&mut before).await;
    before.put(batch(tip.generation, 0, 20));
    assert_eq!(closed(&mut before, tip).await, [20]);
    let (_stopper, stop) = watch::channel(false);
    let control = Control { budget: Budget::new(1 << 20), stop, shutdown_timeout: PATIENCE };
    let mut source = Truncated([Event::Assigned(partition())].into());
    pipeline::run(&mut source, &mut Sink::new(archive.clone(), options()), &mut Nobody, control)
        .await
        .expect("all is well");
    let held = archive.tip(&partition()).await.expect("a tip");
    assert_eq!((held.fork.map(|fork| fork.end), held.next), (Some(15), Some(30)));
    assert_eq!(archive.end_of(&partition(), None).await.expect("read"), Some(20));
}

/// A source whose partition is revoked while what was read of it cannot be written; the store comes back after that.
struct Revoked {
    events: VecDeque<Event>,
    folder: std::path::PathBuf,
    suspended: bool,
    closed: bool,
    wake: Arc<Notify>,
}

impl Revoked {
    fn swap(&self, names: [&str; 2]) {
        let [mount, aside, back] = ["mount", names[0], names[1]].map(|name| self.folder.join(name));
        std::fs::rename(&mount, aside).expect("moved");
        if back.exists() { std::fs::rename(back, mount) } else { std::fs::create_dir(mount) }.expect("mounted");
    }
}

impl Source for Revoked {
    async fn next(&mut self) -> Result<Option<Event>> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            if self.closed {
                return Ok(None);
            }
            if self.suspended && self.folder.join("away").exists() {
                self.swap(["shadow", "away"]);
            }
            self.wake.notified().await;
        }
    }

    fn start(&mut self, _: &Partition, tip: Tip) {
        assert_eq!(tip.next, None, "it is started once");
        self.swap(["away", "nothing"]);
        self.events.push_back(Event::Batch(batch(tip.generation, 5, 10)));
        self.events.push_back(Event::Batch(batch(tip.generation, 10, 12)));
        self.events.push_back(Event::Revoked(partition()));
        self.wake.notify_one();
    }

    fn stop(&mut self, _: &Partition) {
        self.suspended = true;
        self.wake.notify_one();
    }

    fn durable(&mut self, _: &Partition, next: Offset) {
        panic!("nothing was written, and not up to {next}");
    }

    fn closed(&mut self, _: &Partition) {
        self.closed = true;
        self.wake.notify_one();
    }
}

/// Keeps what was dropped, and what is wrong.
#[derive(Default)]
struct Keeps(Vec<OffsetRange>, Vec<String>);

impl Observer for Keeps {
    fn received(&mut self, _: &Batch) {}
    fn topic(&mut self, _: &Topic) {}
    fn observed(&mut self, _: &Partition, _: &Log) {}
    fn diverged(&mut self, _: &Partition, _: Offset) {}
    fn opened(&mut self, _: &Partition, _: Option<Offset>) {}
    fn durable(&mut self, _: &Partition, _: Offset, _: u64, _: u64, _: Duration) {}
    fn dropped(&mut self, dropped: &Partition, range: OffsetRange) {
        assert_eq!(*dropped, partition());
        self.0.push(range);
    }
    fn closed(&mut self, _: &Partition) {}
    fn trouble(&mut self, subject: &str, reason: Option<&str>) {
        self.1.retain(|wrong| wrong != subject);
        self.1.extend(reason.map(|_| subject.to_owned()));
    }
    fn tick(&mut self) {}
}

#[tokio::test]
async fn what_was_read_and_not_durable_when_it_was_revoked_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let archive = archive(folder.path().join("mount").to_str().expect("UTF-8")).await;
    let (_stopper, stop) = watch::channel(false);
    let control = Control { budget: Budget::new(1 << 20), stop, shutdown_timeout: PATIENCE };
    let (events, folder) = ([Event::Assigned(partition())].into(), folder.path().to_owned());
    let mut source = Revoked { events, folder, suspended: false, closed: false, wake: Arc::default() };
    let (mut sink, mut told) = (Sink::new(archive, options()), Keeps::default());
    let run = pipeline::run(&mut source, &mut sink, &mut told, control);
    tokio::time::timeout(PATIENCE, run).await.expect("in time").expect("all is well");
    assert_eq!(told.0, [OffsetRange { first: 5, next: 12 }]);
    assert!(told.1.is_empty(), "nobody has it any more: {:?}", told.1);
}
