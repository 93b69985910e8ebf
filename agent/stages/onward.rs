//! Where a restore sends what goes through stages, and what it sends.
//!
//! Pure. A row that no stage routes goes where the pipeline sends its partition; of one that is routed, what the stages
//! leave open is the pipeline's: the topic, or the source's number of the partition, or the one of its key where a topic is
//! spread by key ([`Spread`](super::spread::Spread)). Where rows go is told by number: the
//! restore knows all of its targets beforehand.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;

use super::making::Flow;
use crate::batch::outgoing::{Sources, Window};
use crate::batch::records::encode_dense;
use crate::batch::records::rows::{Row, Rows};
use crate::batch::{Compression, Header};
use crate::error::Result;
use crate::record::Partition;

/// The target partitions that records of one source partition can go to.
#[derive(Debug)]
pub struct Targets {
    /// The topic that they go to where no stage says so.
    topic: Arc<str>,
    /// The partition there.
    partition: i32,
    /// The partition's number at the source.
    source: i32,
    numbers: HashMap<Arc<str>, HashMap<i32, usize>>,
}

impl Targets {
    /// Numbers the targets of the partition whose number at the source is `source`; the first one is where records go that
    /// no stage routes.
    pub fn new<'a>(source: i32, targets: impl IntoIterator<Item = &'a Partition>) -> Self {
        let mut numbers: HashMap<Arc<str>, HashMap<i32, usize>> = HashMap::new();
        let mut first = None;
        for (number, target) in targets.into_iter().enumerate() {
            first = first.or(Some(target));
            numbers.entry(target.topic.clone()).or_default().entry(target.index).or_insert(number);
        }
        let (topic, partition) = first.map_or((Arc::from(""), source), |first| (first.topic.clone(), first.index));
        Self { topic, partition, source, numbers }
    }

    /// Returns the topic that rows go to where no stage says so.
    pub(super) fn topic(&self) -> &str {
        &self.topic
    }

    /// Returns the number of the target that a row goes to whose topic and partition stages have set, or not.
    ///
    /// # Errors
    /// What it would be, where there is no such partition.
    pub(super) fn number(&self, topic: Option<&str>, partition: Option<i32>) -> Result<usize, String> {
        let number = partition.unwrap_or(if topic.is_some() { self.source } else { self.partition });
        let name = topic.unwrap_or(&self.topic);
        let known = self.numbers.get(name).and_then(|partitions| partitions.get(&number));
        known.copied().ok_or_else(|| format!("`{name}-{number}`, a partition that the target does not have"))
    }
}

/// What of a partition is passed through stages, and where it goes.
#[derive(Debug, Clone)]
pub struct Onward {
    /// Which records; no stage sees others.
    pub window: Window,
    /// Where they can go.
    pub targets: Arc<Targets>,
}

/// A batch on its way to a target.
#[derive(Debug)]
pub struct Piece {
    /// The number of the target.
    pub target: usize,
    /// Its header.
    pub header: Header,
    /// Its bytes.
    pub bytes: Bytes,
    /// What it is.
    pub what: What,
}

/// What a batch on its way is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// The archived one, of which what the window takes is meant. Its checksum was not looked at.
    Cut,
    /// The archived one, all of which is meant. Its checksum was not looked at.
    Whole,
    /// One that was made anew, at offset 0 and without holes, of the records that were there.
    Made(Sources),
}

/// Returns an archived batch on its way to where no stage has sent it elsewhere.
pub(super) fn archived(header: &Header, bytes: &Bytes, what: What) -> Piece {
    Piece { target: 0, header: *header, bytes: bytes.clone(), what }
}

/// Makes of what stages made of a batch one for each target that gets records of it; the archived one, which is `what`,
/// goes on where all of `before` does, as it was.
///
/// # Errors
/// [`Kind::Failed`](crate::error::Kind::Failed) for rows that are no batch.
pub(super) fn pieces(
    targets: &Targets,
    (header, bytes, what): (&Header, &Bytes, &What),
    before: &Rows,
    made: Flow,
) -> Result<Vec<Piece>> {
    let compression = header.compression()?;
    let mut pieces = Vec::new();
    for (target, rows) in by_target(targets, made)? {
        if rows.is_same(before) {
            pieces.push(Piece { target, ..archived(header, bytes, what.clone()) });
        } else if !rows.is_empty() {
            pieces.push(dense(target, &rows, compression)?);
        }
    }
    Ok(pieces)
}

fn dense(target: usize, rows: &Rows, compression: Compression) -> Result<Piece> {
    let bytes = encode_dense(rows, compression)?;
    let sources = rows.rows().iter().map(|row| row.offset).collect();
    Ok(Piece { target, header: Header::read(&bytes)?, bytes, what: What::Made(sources) })
}

/// Parts rows by where they go; of each target they stay in order.
fn by_target(targets: &Targets, Flow { rows, routes }: Flow) -> Result<Vec<(usize, Rows)>> {
    if routes.is_empty() {
        return Ok(vec![(0, rows)]);
    }
    let mut numbers = HashMap::new();
    let mut parts: BTreeMap<usize, Vec<Row>> = BTreeMap::new();
    for (at, row) in rows.rows().iter().enumerate() {
        let route = routes.of(at);
        let number = match numbers.get(&route) {
            Some(number) => *number,
            None => {
                let number = routes.number(route, targets).map_err(crate::error::Error::failed)?;
                *numbers.entry(route).or_insert(number)
            }
        };
        parts.entry(number).or_default().push(*row);
    }
    Ok(parts.into_iter().map(|(number, part)| (number, rows.derive().finish(part))).collect())
}
