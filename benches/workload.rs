//! The topics that are read: believable records, written as a producer with a little patience writes them.

use std::time::Duration;

use rdkafka::error::RDKafkaErrorCode;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

use crate::tests::support::kafka::Kafka;

/// Partitions of each topic; the bound on peak memory is promised for so many.
pub(crate) const PARTITIONS: i32 = 4;

/// Records that go to one partition before the next: what a sticky partitioner does.
pub(crate) const STRETCH: u64 = 500;

/// A topic to be measured on.
pub(crate) struct Shape {
    /// Its name in the tables.
    pub(crate) name: &'static str,
    records: u64,
    pub(crate) value_bytes: usize,
    /// Whether the agent also runs against memory.
    #[allow(dead_code, reason = "only the bench of capture reads it")]
    pub(crate) in_memory_too: bool,
}

pub(crate) const SMALL: &str = "100 B";
#[allow(dead_code, reason = "only the tables of capture speak of it")]
pub(crate) const LARGE: &str = "1 KB";

pub(crate) const SHAPES: [Shape; 2] = [
    Shape { name: SMALL, records: 5_000_000, value_bytes: 100, in_memory_too: false },
    Shape { name: LARGE, records: 1_000_000, value_bytes: 1000, in_memory_too: true },
];

impl Shape {
    /// Returns how many records the topic gets.
    pub(crate) fn records(&self, percent: u64) -> u64 {
        self.records * percent / 100
    }
}

/// Returns `BENCH_RECORDS_PERCENT`, 100 where it is not set.
pub(crate) fn percent() -> u64 {
    let Ok(text) = std::env::var("BENCH_RECORDS_PERCENT") else { return 100 };
    let percent = text.parse().ok().filter(|percent| (1..=100).contains(percent));
    percent.unwrap_or_else(|| panic!("BENCH_RECORDS_PERCENT is `{text}`: it is a number from 1 to 100"))
}

/// Makes a topic of `shape` and fills it.
pub(crate) fn write(kafka: &Kafka, shape: &Shape, percent: u64) -> String {
    let topic = kafka.topic("bench", PARTITIONS, &[]);
    let records = shape.records(percent);
    eprintln!("writing {records} records of {} to {topic}", shape.name);
    let properties = [
        ("linger.ms", "10"),
        ("compression.type", "lz4"),
        // Before compression.
        ("batch.size", "65536"),
        ("enable.idempotence", "true"),
        ("queue.buffering.max.messages", "500000"),
    ];
    let producer: BaseProducer = kafka.client(&properties).create().expect("a producer");
    let mut contents = Contents::new(shape.value_bytes);
    for number in 0..records {
        let partition = (number / STRETCH % PARTITIONS as u64) as i32;
        send(&producer, BaseRecord::<(), _>::to(&topic).partition(partition).payload(contents.value(number)));
    }
    producer.flush(Duration::from_secs(120)).expect("the broker takes what was sent");
    topic
}

/// Writes the values of `records` records into a file, one behind the other: those of [`write`].
#[allow(dead_code, reason = "only a restore's bench needs them")]
pub(crate) fn keep(file: &std::path::Path, value_bytes: usize, records: u64) {
    use std::io::Write as _;
    let file = std::fs::File::create(file).expect("the target folder is writable");
    let mut file = std::io::BufWriter::new(file);
    let mut contents = Contents::new(value_bytes);
    for number in 0..records {
        file.write_all(contents.value(number)).expect("the target folder is writable");
    }
    file.flush().expect("the target folder is writable");
}

fn send(producer: &BaseProducer, mut record: BaseRecord<'_, (), [u8]>) {
    while let Err((error, back)) = producer.send(record) {
        assert_eq!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::QueueFull), "{error}");
        producer.poll(Duration::from_millis(10));
        record = back;
    }
}

/// Order events as text, of which lz4 leaves a little less than half: the words are common, the numbers are not.
struct Contents {
    random: fastrand::Rng,
    value_bytes: usize,
    value: Vec<u8>,
}

impl Contents {
    fn new(value_bytes: usize) -> Self {
        Self { random: fastrand::Rng::with_seed(7), value_bytes, value: Vec::new() }
    }

    fn value(&mut self, number: u64) -> &[u8] {
        use std::io::Write as _;
        let Self { random, value_bytes, value } = self;
        value.clear();
        write!(value, r#"{{"order":{number},"customer":"{:08x}","items":["#, random.u32(..))
            .expect("memory is writable");
        while value.len() < *value_bytes {
            let (item, price) = (random.u64(..) >> 16, random.u32(100..1_000_000));
            write!(value, r#"{{"sku":"{item:012x}","cents":{price},"vat":19}},"#).expect("memory is writable");
        }
        value.truncate(*value_bytes);
        value
    }
}
