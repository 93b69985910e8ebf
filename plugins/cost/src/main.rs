//! `cargo run --release -p cost`: nanoseconds a record of each shipped plugin, natively, against the same transform
//! written plainly over records.
//!
//! The plugin's figure is what its own code costs, from columns to edits; what the agent adds (making columns, checking
//! and applying edits, crossing into WebAssembly) is measured by the agent's bench. Of several runs the least counts.

#![allow(clippy::print_stdout, reason = "it is what the program is for")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kafka_backup_transform::testing::{Sample, batch, offering};
use kafka_backup_transform::{Plugin, Result};

const RECORDS: usize = 500;

/// A record as the agent has it.
#[derive(Clone)]
struct Plain {
    /// Where it goes; only ever set, as by a stage whose sink is elsewhere.
    #[allow(dead_code, reason = "the sink that reads it is not here")]
    topic: Option<&'static str>,
    offset: i64,
    timestamp: i64,
    key: Option<Bytes>,
    value: Option<Bytes>,
    headers: Vec<(Bytes, Option<Bytes>)>,
}

fn main() -> std::process::ExitCode {
    match run() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            println!("{error}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    println!("{:<34} {:>6} {:>10} {:>10}", "ns a record, batches of 500", "bytes", "plugin", "plain");
    for size in [100, 1024] {
        let samples = samples(size);
        let all = [("from", "0")];
        row::<header_injector::HeaderInjector>("header-injector", &[], &samples, inject)?;
        row::<pitr_filter::PitrFilter>("pitr-filter, all kept", &all, &samples, |records| filter(records, i64::MAX))?;
        let half = [("until", "250")];
        row::<pitr_filter::PitrFilter>("pitr-filter, half kept", &half, &samples, |records| filter(records, 250))?;
        let key = [("by", "key"), ("to.key-1", "a"), ("to.key-2", "a"), ("to.key-2", "b")];
        row::<restore_fanout::RestoreFanout>("restore-fanout, by key", &key, &samples, |records| {
            fan_out(records, by_key)
        })?;
        let json = [("by", "json"), ("field", "id"), ("to.key-1", "a"), ("to.key-2", "a"), ("to.key-2", "b")];
        row::<restore_fanout::RestoreFanout>("restore-fanout, by JSON", &json, &samples, |records| {
            fan_out(records, by_json)
        })?;
    }
    Ok(())
}

/// Measures a plugin and its plain counterpart, and prints a line.
fn row<P: Plugin>(
    name: &str,
    settings: &[(&str, &str)],
    samples: &[Sample],
    plain: impl Fn(Vec<Plain>) -> Vec<Plain>,
) -> Result<()> {
    let owned = settings.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    let (mut plugin, plan) = P::configure(owned)?;
    let columns = batch("orders", 3, samples, plan.needs);
    let records: Vec<Plain> = samples.iter().map(to_plain).collect();
    let ours = offering(samples, plan.needs, || least(|| (), |()| plugin.apply(&columns)))?;
    let theirs = least(|| records.clone(), |records| Ok(plain(records)))?;
    let size = samples[0].value.as_ref().map_or(0, Vec::len);
    println!("{name:<34} {size:>6} {ours:>10.1} {theirs:>10.1}");
    Ok(())
}

/// Returns the least nanoseconds a record of many runs; what is prepared and what is dropped do not count.
fn least<I, O>(prepare: impl Fn() -> I, mut work: impl FnMut(I) -> Result<O>) -> Result<f64> {
    let (began, mut best) = (Instant::now(), Duration::MAX);
    while began.elapsed() < Duration::from_millis(300) {
        let input = prepare();
        let start = Instant::now();
        let output = black_box(work(black_box(input)));
        best = best.min(start.elapsed());
        output?;
    }
    Ok(best.as_nanos() as f64 / RECORDS as f64)
}

fn samples(size: usize) -> Vec<Sample> {
    let sample = |at: usize| {
        let id = format!("key-{}", at % 4);
        let mut value = format!("{{\"id\":\"{id}\",\"total\":{at},\"note\":\"");
        value.extend(std::iter::repeat_n('x', size - value.len() - 2));
        value.push_str("\"}");
        Sample::new(1_000_000 + at as i64).timestamp(at as i64).key(id).value(value).header("trace", "0123456789abcdef")
    };
    (0..RECORDS).map(sample).collect()
}

fn to_plain(sample: &Sample) -> Plain {
    let bytes = |cell: &Option<Vec<u8>>| cell.clone().map(Bytes::from);
    Plain {
        topic: None,
        offset: sample.offset,
        timestamp: sample.timestamp,
        key: bytes(&sample.key),
        value: bytes(&sample.value),
        headers: sample.headers.iter().map(|(name, value)| (Bytes::from(name.clone()), bytes(value))).collect(),
    }
}

fn inject(mut records: Vec<Plain>) -> Vec<Plain> {
    for record in &mut records {
        let fields = [
            ("x-kafka-backup-offset", record.offset.to_string()),
            ("x-kafka-backup-timestamp", record.timestamp.to_string()),
            ("x-kafka-backup-partition", 3.to_string()),
        ];
        record.headers.retain(|(name, _)| fields.iter().all(|(known, _)| name != known));
        record
            .headers
            .extend(fields.map(|(name, value)| (Bytes::from_static(name.as_bytes()), Some(Bytes::from(value)))));
    }
    records
}

fn filter(mut records: Vec<Plain>, until: i64) -> Vec<Plain> {
    records.retain(|record| (0..until).contains(&record.timestamp));
    records
}

fn fan_out(records: Vec<Plain>, by: impl Fn(&Plain) -> Option<Bytes>) -> Vec<Plain> {
    let mut rows = Vec::with_capacity(2 * records.len());
    for record in records {
        let topics: &[&str] = match by(&record).as_deref() {
            Some(b"key-1") => &["a"],
            Some(b"key-2") => &["a", "b"],
            _ => &[],
        };
        rows.extend(topics.iter().map(|topic| Plain { topic: Some(*topic), ..record.clone() }));
        rows.push(record);
    }
    rows
}

fn by_key(record: &Plain) -> Option<Bytes> {
    record.key.clone()
}

fn by_json(record: &Plain) -> Option<Bytes> {
    let value: serde_json::Value = serde_json::from_slice(record.value.as_ref()?).ok()?;
    Some(Bytes::copy_from_slice(value.get("id")?.as_str()?.as_bytes()))
}
