//! Brings the records of topics to the mapping: a pass of the pipeline whose sink looks at headers and keeps nothing else.
//!
//! Order: the records of a partition come in their order. Batches are opened on one thread of its own, so that no runtime thread
//! is kept; what waits for it is paid for from the source's budget. Records of aborted transactions are left out, as consumers
//! that read committed do. Retry: the source's. Cancel: dropped, the thread ends with the batch that it has.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::mapping::Mapping;
use crate::batch::records::rows::Rows;
use crate::batch::transactions::OpenTransactions;
use crate::batch::walk;
use crate::budget::{Budget, RateLimit};
use crate::error::{Error, Result};
use crate::kafka::client::{Client, TopicMetadata};
use crate::kafka::source::{METADATA_INTERVAL, Options, Selection, Source, Start, TRANSACTION_PATIENCE};
use crate::pipeline::{self, Answer, Batch, Control, Log, Observer, Payload, Sink, Tip, Topic};
use crate::record::{Offset, OffsetRange, Partition};
use crate::restore::ends;

/// Fetched bytes that wait to be looked at. Half of it makes brokers wait for the thread more often; double is memory without
/// more speed.
const MEMORY_BYTES: usize = 64 << 20;

/// How long the pass may take to end when something broke.
const END_WITHIN: Duration = Duration::from_secs(10);

/// How often a line says how far the pass is.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Reads topics up to their present ends, and returns the mapping that has seen all their records.
pub(super) async fn read(client: &Client, topics: &[String], mut mapping: Mapping) -> Result<Mapping> {
    let logs = logs(client, topics).await?;
    for (partition, log) in &logs {
        mapping.begin(partition, log.first);
    }
    let budget = Budget::new(MEMORY_BYTES);
    let mut source = Source::open(Options {
        properties: client.properties().clone(),
        topics: Selection::named(topics),
        group_id: None,
        start: Start::Earliest,
        metadata_interval: METADATA_INTERVAL,
        transaction_patience: TRANSACTION_PATIENCE,
        one_pass: true,
        budget: budget.clone(),
        rate: RateLimit::new(None),
    })
    .await?;
    let (orders, ordered) = mpsc::channel();
    let (told, heard) = unbounded_channel();
    let worker = Worker { mapping, told: told.clone(), transactions: HashMap::new(), failed: HashSet::new() };
    let worker = tokio::task::spawn_blocking(move || worker.run(&ordered));
    let mut reader = Reader { left: logs, orders, told, heard };
    let mut listener = Listener { bytes: 0, open: 0, line_at: Instant::now() + LINE_EVERY };
    // Nobody stops it: a signal ends the process.
    let (_stop, stopped) = tokio::sync::watch::channel(false);
    let control = Control { budget, stop: stopped, shutdown_timeout: END_WITHIN };
    let outcome = pipeline::run(&mut source, &mut reader, &mut listener, control).await;
    source.close().await;
    let unread = reader.left.into_keys().next();
    drop(reader.orders);
    outcome?;
    if let Some(partition) = unread {
        let error = Error::failed(format!("{partition} was made anew while its headers were to be read"));
        return Err(error.hint("scan again"));
    }
    worker.await.map_err(|error| Error::failed("the headers could not be looked at").source(error))
}

/// Returns what the partitions of topics hold; the source tells of topics that are not there.
async fn logs(client: &Client, topics: &[String]) -> Result<HashMap<Partition, OffsetRange>> {
    let metadata = client.metadata(Some(topics)).await?;
    let of = |topic: &TopicMetadata| {
        let (name, topic_id): (Arc<str>, _) = (topic.name.as_str().into(), topic.topic_id);
        let partition = move |index| Partition { topic: name.clone(), topic_id, index };
        topic.partitions.iter().map(|met| met.index).map(partition).collect::<Vec<_>>()
    };
    let partitions: Vec<Partition> = metadata.topics.iter().filter(|topic| topic.code == 0).flat_map(of).collect();
    ends::of(client, &partitions).await
}

/// The sink.
struct Reader {
    /// The partitions that are not read to their ends yet, each with where it begins.
    left: HashMap<Partition, OffsetRange>,
    /// Bounded by the budget that batches are paid from.
    orders: mpsc::Sender<Order>,
    told: UnboundedSender<Answer>,
    heard: UnboundedReceiver<Answer>,
}

/// What the thread is told.
enum Order {
    Put(Batch),
    Close(Partition),
}

impl Reader {
    fn tell(&self, answer: Answer) {
        // We hold the other end.
        let _ = self.told.send(answer);
    }

    fn order(&self, order: Order) {
        // The thread ends only when we are gone.
        let _ = self.orders.send(order);
    }
}

impl Sink for Reader {
    fn topic(&mut self, _topic: Topic) {
        self.tell(Answer::TopicKept);
    }

    fn open(&mut self, partition: &Partition) {
        let partition = partition.clone();
        self.tell(match self.left.get(&partition) {
            Some(log) => {
                let tip = Tip { next: Some(log.first), leader_epoch: -1, generation: 1 };
                Answer::Restart { partition, tip }
            }
            None => Answer::Enough { partition },
        });
    }

    fn begin(&mut self, _partition: &Partition, _generation: u32, _offset: Offset) {}

    fn diverge(&mut self, partition: &Partition, _generation: u32, _epoch: i32, end: Offset) {
        let error = Error::failed(format!("{partition} has lost records while its headers were read"))
            .with("its log ends at", end)
            .hint("see to the brokers, and scan again");
        self.tell(Answer::Failed { partition: Some(partition.clone()), error });
    }

    fn put(&mut self, batch: Batch) {
        self.order(Order::Put(batch));
    }

    fn close(&mut self, partition: &Partition, _generation: u32) {
        let _ = self.left.remove(partition);
        self.order(Order::Close(partition.clone()));
    }

    fn relieve(&mut self) {}

    async fn answer(&mut self) -> Answer {
        match self.heard.recv().await {
            Some(answer) => answer,
            // We hold a sender.
            None => std::future::pending().await,
        }
    }
}

/// What the thread has.
struct Worker {
    mapping: Mapping,
    told: UnboundedSender<Answer>,
    transactions: HashMap<Partition, OpenTransactions>,
    failed: HashSet<Partition>,
}

impl Worker {
    /// Looks at what comes until the sink is gone.
    fn run(mut self, ordered: &mpsc::Receiver<Order>) -> Mapping {
        while let Ok(order) = ordered.recv() {
            match order {
                Order::Put(batch) => self.put(batch),
                Order::Close(partition) => drop(self.told.send(Answer::Closed { partition })),
            }
        }
        self.mapping
    }

    fn put(&mut self, batch: Batch) {
        let partition = batch.partition().clone();
        if self.failed.contains(&partition) {
            return;
        }
        let (range, payload, permit, in_flight) = batch.into_parts();
        drop(in_flight);
        // What the target has deleted meanwhile is no record of it.
        if let Payload::Encoded { bytes, aborted } = payload {
            self.transactions.entry(partition.clone()).or_default().report(&aborted);
            if let Err(error) = self.look(&partition, range, &bytes) {
                let error = error.with("partition", &partition);
                let _ = self.told.send(Answer::Failed { partition: Some(partition.clone()), error });
                let _ = self.failed.insert(partition);
            }
        }
        drop(permit);
    }

    fn look(&mut self, partition: &Partition, range: OffsetRange, bytes: &bytes::Bytes) -> Result<()> {
        let transactions = self.transactions.entry(partition.clone()).or_default();
        for item in walk(bytes) {
            let (at, header) = item?;
            if header.is_control() {
                transactions.end(header.producer_id, header.base_offset).for_each(drop);
                continue;
            }
            let is_aborted = header.is_transactional() && transactions.covers(header.producer_id, header.base_offset);
            if is_aborted || header.count == 0 {
                continue;
            }
            let rows = Rows::of(&header, &bytes.slice(at..at + header.total_bytes))?;
            for row in rows.rows().iter().filter(|row| range.contains(row.offset)) {
                self.mapping.see(partition, row.offset, rows.headers(row.headers))?;
            }
        }
        Ok(())
    }
}

/// Says now and then how far the pass is, and what is wrong.
struct Listener {
    bytes: u64,
    /// Partitions that are being read.
    open: usize,
    line_at: Instant,
}

impl Observer for Listener {
    fn received(&mut self, batch: &Batch) {
        if let Payload::Encoded { bytes, .. } = &batch.payload {
            self.bytes += bytes.len() as u64;
        }
    }
    fn topic(&mut self, _topic: &Topic) {}
    fn observed(&mut self, _partition: &Partition, _log: &Log) {}
    fn diverged(&mut self, _partition: &Partition, _end: Offset) {}
    fn opened(&mut self, _partition: &Partition, _next: Option<Offset>) {
        self.open += 1;
    }
    fn durable(&mut self, _partition: &Partition, _next: Offset, _records: u64, _bytes: u64, _took: Duration) {}
    fn dropped(&mut self, _partition: &Partition, _range: OffsetRange) {}
    fn closed(&mut self, _partition: &Partition) {
        self.open = self.open.saturating_sub(1);
    }
    fn trouble(&mut self, subject: &str, reason: Option<&str>) {
        match reason {
            Some(reason) => tracing::warn!("{subject}: {reason}"),
            None => tracing::info!("{subject} is right again"),
        }
    }
    fn tick(&mut self) {
        if Instant::now() >= self.line_at {
            self.line_at = Instant::now() + LINE_EVERY;
            tracing::info!("scanning headers: {} MiB read, {} partitions to go", self.bytes >> 20, self.open);
        }
    }
}
