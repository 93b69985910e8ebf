//! For tests of the agent only: a plugin that misbehaves as its setting `fault` says, and otherwise changes nothing.
//!
//! Without `offset` every batch meets the fault; with it only a batch that holds the record of that offset, so that a
//! test can see the agent find the record. With `in = "configure"` the settings meet it. Each fault is one that the
//! sandbox or the check of answers must stop; what it does is in the table of the README.

use std::hint::black_box;

use kafka_backup_transform::wit::{
    Batch, Column, Columns, HeaderColumn, HeaderEdit, Output, Patch, Plan, Removal, Route, Touches, Window,
};
use kafka_backup_transform::{Error, Plugin, Result, Settings, export, log, values};

/// All faults.
const FAULTS: [&str; 18] = [
    "none",
    "once",
    "endless-loop",
    "memory-bomb",
    "deep-recursion",
    "panic",
    "wrong-ask",
    "undeclared-ask",
    "wrong-rows",
    "wrong-order",
    "wrong-lengths",
    "wrong-ends",
    "wrong-nulls",
    "invalid-utf8",
    "undeclared",
    "huge-output",
    "fail",
    "fail-retriable",
];

/// The plugin.
pub struct Faults {
    fault: String,
    offset: Option<i64>,
    /// The greatest offset that was seen.
    seen: i64,
    /// Bytes of the answer of `huge-output`: by default far more than a batch has, and less than a limit of memory.
    bytes: usize,
    /// The partition that all records go to, where there is no fault.
    partition: Option<i32>,
}

impl Plugin for Faults {
    fn configure(settings: Vec<(String, String)>) -> Result<(Self, Plan)> {
        let settings = Settings::new(settings);
        settings.only(&["fault", "offset", "in", "bytes", "pure", "routes", "targets", "partition"])?;
        let fault = settings.choice("fault", &FAULTS)?.unwrap_or("none").to_owned();
        let offset = settings.number("offset")?;
        let bytes = settings.number("bytes")?.unwrap_or(64 << 20);
        let routes = match settings.flag("routes")?.unwrap_or(true) {
            true => Touches::empty(),
            false => Touches::TOPICS | Touches::PARTITIONS | Touches::COPIES,
        };
        let on_demand = if fault == "wrong-ask" { Columns::VALUES_ON_DEMAND } else { Columns::empty() };
        let plan = Plan {
            needs: Columns::VALUES | on_demand,
            touches: Touches::all() - Touches::TIMESTAMPS - routes,
            targets: settings.flag("targets")?.unwrap_or(true).then(Vec::new),
            keeps: Window { from: None, until: None },
            pure: settings.flag("pure")?.unwrap_or(true),
        };
        let partition = settings.number("partition")?;
        let plugin = Self { fault, offset, seen: -1, bytes, partition };
        if settings.choice("in", &["apply", "configure"])? == Some("configure") {
            plugin.misbehave(0)?;
        }
        Ok((plugin, plan))
    }

    fn apply(&mut self, batch: &Batch) -> Result<Output> {
        let at = match self.offset {
            None => 0,
            Some(offset) => match batch.offsets.iter().position(|known| *known == offset) {
                Some(at) => at as u32,
                None => return Ok(unchanged()),
            },
        };
        self.misbehave(at)?;
        if self.fault == "once" {
            return Ok(self.unseen(batch));
        }
        Ok(self.wrong_answer(batch))
    }
}

impl Faults {
    /// Does the faults that end a call.
    fn misbehave(&self, record: u32) -> Result<()> {
        match self.fault.as_str() {
            "endless-loop" => loop {
                black_box(record);
            },
            "memory-bomb" => {
                let mut bomb: Vec<Vec<u8>> = Vec::new();
                loop {
                    bomb.push(black_box(vec![1; 1 << 20]));
                }
            }
            "deep-recursion" => {
                log::debug(format!("{}", recurse(u64::from(record))));
                Ok(())
            }
            "panic" => panic!("a fault on purpose, at record {record}"),
            "wrong-ask" => {
                black_box(values::whole(u32::MAX));
                Ok(())
            }
            "undeclared-ask" => {
                black_box(values::heads(1));
                Ok(())
            }
            "fail" => Err(Error::new("a failure on purpose").at(record)),
            "fail-retriable" => Err(Error::new("a failure on purpose, for now").at(record).retriable()),
            _ => Ok(()),
        }
    }

    /// Drops what was seen before, as a plugin does that removes duplicates.
    fn unseen(&mut self, batch: &Batch) -> Output {
        let mut answer = unchanged();
        let is_new = |at: &u32| batch.offsets[*at as usize] > self.seen;
        answer.source = Some((0..batch.offsets.len() as u32).filter(is_new).collect());
        self.seen = batch.offsets.last().map_or(self.seen, |last| self.seen.max(*last));
        answer
    }

    /// Does the faults that are in an answer.
    fn wrong_answer(&self, batch: &Batch) -> Output {
        let rows = batch.offsets.len();
        let mut answer = unchanged();
        match self.fault.as_str() {
            "wrong-rows" => answer.source = Some(vec![0, rows as u32]),
            "wrong-order" => answer.source = Some((0..rows as u32).rev().chain([0, 1]).collect()),
            "wrong-lengths" => answer.values = values(vec![0; rows + 1], Vec::new(), Vec::new()),
            "wrong-ends" => answer.values = values(vec![u32::MAX; rows], Vec::new(), vec![0; 8]),
            "wrong-nulls" => answer.values = values(vec![1; rows], vec![0, 0, u32::MAX], vec![0]),
            "invalid-utf8" => answer.headers = Some(invalid_utf8(rows)),
            "undeclared" => {
                answer.topics = Some(Route { names: vec!["undeclared".to_owned()], indexes: vec![1; rows] });
                answer.timestamps = Some(vec![0; rows]);
            }
            "huge-output" => {
                // One large cell, the others empty: the size is wrong, nothing else is.
                answer.values = values(vec![self.bytes as u32; rows], Vec::new(), vec![b'x'; self.bytes]);
            }
            _ => answer.partitions = self.partition.map(|partition| vec![partition; rows]),
        }
        answer
    }
}

fn unchanged() -> Output {
    Output { source: None, topics: None, partitions: None, timestamps: None, keys: None, values: None, headers: None }
}

fn values(ends: Vec<u32>, nulls: Vec<u32>, data: Vec<u8>) -> Option<Patch> {
    Some(Patch { rows: None, cells: Column { ends, nulls, data } })
}

fn invalid_utf8(rows: usize) -> HeaderEdit {
    let name = Column { ends: vec![2], nulls: Vec::new(), data: vec![0xff, 0xfe] };
    let empty = Column { ends: vec![0; rows], nulls: Vec::new(), data: Vec::new() };
    let add = HeaderColumn { row_ends: None, names: name, name_indexes: vec![0], values: empty };
    HeaderEdit { remove: vec![Removal { name: Some(vec![0xff]), rows: None }], add: Some(add) }
}

/// Recurses until the stack ends; the array and what is done after the call keep it from being made a loop.
#[allow(unconditional_recursion, reason = "it is the fault")]
fn recurse(depth: u64) -> u64 {
    let frame = black_box([depth; 16]);
    recurse(depth + 1) + frame[(depth % 16) as usize]
}

export!(Faults);

#[cfg(test)]
mod tests;
