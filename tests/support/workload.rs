//! What the tests write: records from a printed seed, by producers that fail the test when a delivery fails.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext};

use super::chain::headers;
use super::kafka::Kafka;
use super::reader::Record;
use super::{DEADLINE, wait_for};

/// Contents that look like data and can be had again: `SEED=n` repeats them.
pub(crate) struct Contents(fastrand::Rng);

impl Contents {
    /// Takes the seed from `SEED` or makes one, and prints it.
    pub(crate) fn new() -> Self {
        let given = std::env::var("SEED").ok().map(|seed| seed.parse().expect("SEED is a number"));
        let seed = given.unwrap_or_else(|| fastrand::u64(..));
        println!("contents: SEED={seed} repeats them");
        Self(fastrand::Rng::with_seed(seed))
    }

    /// Makes `count` records for each of `partitions`: keys, text values of about `bytes`, now and then a header.
    pub(crate) fn records(&mut self, partitions: i32, count: usize, bytes: usize) -> Vec<Record> {
        let numbers = 0..count * partitions as usize;
        numbers.map(|number| self.record(number as i32 % partitions, number, bytes)).collect()
    }

    /// Makes one record.
    pub(crate) fn record(&mut self, partition: i32, number: usize, bytes: usize) -> Record {
        let headers = match self.0.u8(0..4) {
            0 => vec![("trace".to_owned(), Some(self.text(16)))],
            _ => Vec::new(),
        };
        let length = self.0.usize(bytes / 2..=bytes + bytes / 2);
        Record {
            partition,
            timestamp: -1,
            key: Some(format!("key-{number}").into_bytes()),
            value: Some(self.text(length)),
            headers,
            ..Record::default()
        }
    }

    /// Makes text that compresses about as well as JSON does.
    pub(crate) fn text(&mut self, bytes: usize) -> Vec<u8> {
        const WORDS: [&str; 8] = ["order ", "paid ", "{\"id\":", "customer ", "Zürich ", "null, ", "\n", "€ "];
        let mut text = String::with_capacity(bytes + 16);
        while text.len() < bytes {
            match self.0.u8(0..3) {
                0 => text.push_str(&self.0.u32(..).to_string()),
                _ => text.push_str(WORDS[self.0.usize(0..WORDS.len())]),
            }
        }
        text.into_bytes()
    }

    /// Makes bytes that no codec shortens.
    pub(crate) fn noise(&mut self, bytes: usize) -> Vec<u8> {
        let mut noise = vec![0; bytes];
        self.0.fill(&mut noise);
        noise
    }
}

/// Partition and offset of a record that was delivered, or why it was not.
type Delivery = Result<(i32, i64), KafkaError>;

#[derive(Clone, Default)]
struct Deliveries(Arc<Mutex<Vec<Delivery>>>);

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, delivered: &DeliveryResult<'_>, (): ()) {
        let place = match delivered {
            Ok(message) => Ok((message.partition(), message.offset())),
            Err((error, _)) => Err(error.clone()),
        };
        self.0.lock().expect("nobody panics while holding it").push(place);
    }
}

/// A producer of a test.
pub(crate) struct Writer {
    producer: BaseProducer<Deliveries>,
    deliveries: Deliveries,
    transactional_id: String,
}

impl Writer {
    /// Makes a producer with librdkafka's `properties`.
    pub(crate) fn new(kafka: &Kafka, properties: &[(&str, &str)]) -> Self {
        let deliveries = Deliveries::default();
        let mut config = kafka.client(&[("message.max.bytes", "10000000")]);
        for (name, value) in properties {
            config.set(*name, *value);
        }
        let producer = config.create_with_context(deliveries.clone()).expect("a producer");
        Self { producer, deliveries, transactional_id: String::new() }
    }

    /// Makes a transactional producer of small batches; its transactional id begins with `name`.
    pub(crate) fn transactional(kafka: &Kafka, name: &str) -> Self {
        let id = format!("{name}-{:08x}", fastrand::u32(..));
        let properties =
            [("transactional.id", &*id), ("transaction.timeout.ms", "600000"), ("batch.num.messages", "50")];
        let writer = Self { transactional_id: id.clone(), ..Self::new(kafka, &properties) };
        writer.producer.init_transactions(DEADLINE).expect("the coordinator answers");
        writer
    }

    /// Hands one record over; [`Self::flush`] makes sure of it.
    pub(crate) fn send(&self, topic: &str, record: &Record) {
        let headers = record
            .headers
            .iter()
            .fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value: value.as_deref() }));
        let mut message = BaseRecord::<[u8], [u8]>::to(topic).partition(record.partition).headers(headers);
        message.key = record.key.as_deref();
        message.payload = record.value.as_deref();
        if record.timestamp >= 0 {
            message.timestamp = Some(record.timestamp);
        }
        while let Err((error, back)) = self.producer.send(message) {
            assert_eq!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::QueueFull), "sending to {topic}: {error}");
            self.producer.poll(Duration::from_millis(10));
            message = back;
        }
        self.producer.poll(Duration::ZERO);
    }

    /// Hands records over and waits until the broker has them; returns their partitions and offsets.
    pub(crate) fn write(&self, topic: &str, records: &[Record]) -> Vec<(i32, i64)> {
        for record in records {
            self.send(topic, record);
        }
        self.flush()
    }

    /// Waits until the broker has everything; returns partitions and offsets of what it got since the last time.
    pub(crate) fn flush(&self) -> Vec<(i32, i64)> {
        // rdkafka's own `flush` looks every 100 ms whether it is done.
        let began = Instant::now();
        while self.producer.in_flight_count() > 0 {
            assert!(began.elapsed() < DEADLINE, "{} records are not taken", self.producer.in_flight_count());
            self.producer.poll(Duration::from_millis(5));
        }
        self.delivered()
    }

    /// Returns partitions and offsets of what the broker got since the last time.
    fn delivered(&self) -> Vec<(i32, i64)> {
        self.producer.poll(Duration::ZERO);
        let delivered = std::mem::take(&mut *self.deliveries.0.lock().expect("nobody panics while holding it"));
        delivered.into_iter().map(|place| place.expect("the broker takes what was sent")).collect()
    }

    /// Returns the transactional id of a transactional producer.
    pub(crate) fn transactional_id(&self) -> &str {
        &self.transactional_id
    }

    /// Begins a transaction.
    pub(crate) fn begin(&self) {
        self.producer.begin_transaction().expect("no transaction is open");
    }

    /// Commits the transaction.
    pub(crate) fn commit(&self) {
        self.producer.commit_transaction(DEADLINE).expect("the coordinator answers");
        let _ = self.flush();
    }

    /// Aborts the transaction; what was written is in the log already, or it would not be there to be aborted.
    pub(crate) fn abort(&self) {
        let _ = self.flush();
        self.producer.abort_transaction(DEADLINE).expect("the coordinator answers");
    }

    /// Writes `records` in a transaction of their own and commits it.
    pub(crate) fn commit_records(&self, topic: &str, records: &[Record]) -> Vec<(i32, i64)> {
        self.begin();
        let places = self.write(topic, records);
        self.commit();
        places
    }

    /// Writes `records` in a transaction of their own and aborts it.
    pub(crate) fn abort_records(&self, topic: &str, records: &[Record]) -> Vec<(i32, i64)> {
        self.begin();
        let places = self.write(topic, records);
        self.abort();
        places
    }
}

/// A producer that goes on writing to every partition of a topic until it is ended.
pub(crate) struct Load {
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Load {
    /// Starts to write a batch of `count` records of about 500 bytes to each partition, `pause` after the one before.
    pub(crate) fn start(kafka: &Kafka, topic: &str, count: usize, pause: Duration) -> Self {
        let (topic, partitions) = (topic.to_owned(), kafka.partitions(topic));
        let writer = Writer::new(kafka, &[("linger.ms", "1")]);
        let mut contents = Contents::new();
        Self::spawn(move |ended| {
            while !ended.load(Ordering::Relaxed) {
                contents.records(partitions, count, 500).iter().for_each(|record| writer.send(&topic, record));
                let _ = writer.delivered();
                std::thread::sleep(pause);
            }
            let _ = writer.flush();
        })
    }

    /// Starts to write transactions of two producers that interleave and are aborted as often as committed.
    pub(crate) fn transactions(kafka: &Kafka, topic: &str) -> Self {
        let (topic, partitions) = (topic.to_owned(), kafka.partitions(topic));
        let writers = ["a", "b"].map(|name| Writer::transactional(kafka, name));
        let mut contents = Contents::new();
        Self::spawn(move |ended| {
            while !ended.load(Ordering::Relaxed) {
                writers.iter().for_each(Writer::begin);
                for _ in 0..contents.0.usize(1..4) {
                    for writer in &writers {
                        let _ = writer.write(&topic, &contents.records(partitions, 3, 300));
                    }
                }
                let mut order = [0, 1];
                contents.0.shuffle(&mut order);
                for writer in order {
                    if contents.0.bool() { writers[writer].commit() } else { writers[writer].abort() }
                }
            }
        })
    }

    fn spawn(write: impl FnOnce(&AtomicBool) + Send + 'static) -> Self {
        let end = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&end);
        Self { end, thread: Some(std::thread::spawn(move || write(&ended))) }
    }

    /// Ends the writing; everything written is at the broker then.
    pub(crate) fn end(mut self) {
        self.end.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("it ends once");
        thread.join().expect("the broker takes what was sent");
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
    }
}

/// Waits until the cleaner has gone over a compacted topic: outside of markers its log holds exactly `records`.
pub(crate) fn wait_compacted(kafka: &Kafka, topic: &str, records: i32) {
    wait_for(&format!("the cleaner leaves {records} records of {topic}"), || {
        let batches = headers(&kafka.log_bytes(topic, 0));
        let held = batches.iter().filter(|batch| !batch.control()).map(|batch| batch.count);
        (held.sum::<i32>() == records).then_some(())
    });
}
