//! The runs of one pair, in as little memory as their bytes take, and still found quickly.
//!
//! Each closed run is three varints: how far its source and its target lie behind the end of the run before, and its
//! length; the same bytes are in the map's object. Every [`BLOCK`]th has a head that says where it begins. A look-up
//! searches the heads and reads through one block. The last run is open: what follows on it makes it longer.

use crate::record::Offset;

/// Runs behind one head. With half as many, heads take as much as a third of the runs; with twice as many a look-up reads
/// up to two hundred varints, a fifth of the microsecond that it may take.
const BLOCK: u64 = 32;

/// Records that follow each other in the source and in the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The source offset of the first.
    pub source: Offset,
    /// The target offset of the first.
    pub target: Offset,
    /// How many, at least one.
    pub length: u64,
}

impl Run {
    /// Returns the source offset after the last.
    pub fn source_next(self) -> Offset {
        self.source + self.length as Offset
    }

    /// Returns the target offset after the last.
    pub fn target_next(self) -> Offset {
        self.target + self.length as Offset
    }

    /// Returns what of it lies at the source offset `first` and behind, which is not beyond its last.
    pub(super) fn since(self, first: Offset) -> Self {
        let skipped = (first - self.source).max(0);
        Self {
            source: self.source + skipped,
            target: self.target + skipped,
            length: self.length - skipped.unsigned_abs(),
        }
    }
}

/// The runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Runs {
    heads: Vec<Head>,
    /// The closed runs.
    bytes: Vec<u8>,
    closed: u64,
    /// The end of the last closed run.
    edge: Edge,
    /// The last run; `None` where there is none at all.
    open: Option<Run>,
}

/// Where a run ends, in the source and in the target.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Edge {
    source: Offset,
    target: Offset,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Head {
    /// The end of the run before.
    before: Edge,
    /// Where in the bytes the block begins.
    at: usize,
}

impl Runs {
    /// Adds a run that lies behind the last one, in the source and in the target.
    pub(super) fn push(&mut self, run: Run) {
        if let Some(open) = &mut self.open {
            debug_assert!(run.source >= open.source_next());
            debug_assert!(run.target >= open.target_next());
            if (run.source, run.target) == (open.source_next(), open.target_next()) {
                open.length += run.length;
                return;
            }
        }
        let Some(closed) = self.open.replace(run) else { return };
        if self.closed.is_multiple_of(BLOCK) {
            self.heads.push(Head { before: self.edge, at: self.bytes.len() });
        }
        self.edge = put(&mut self.bytes, self.edge, closed);
        self.closed += 1;
    }

    /// Returns how many there are.
    pub(super) fn len(&self) -> u64 {
        self.closed + u64::from(self.open.is_some())
    }

    /// Returns the last one.
    pub(super) fn last(&self) -> Option<Run> {
        self.open
    }

    /// Returns all, in order.
    pub(super) fn iter(&self) -> Iter<'_> {
        Iter { bytes: &self.bytes, edge: Edge::default(), open: self.open, first: Offset::MIN }
    }

    /// Returns what lies at the source offset `first` and behind, in order.
    pub(super) fn since(&self, first: Offset) -> Iter<'_> {
        if first >= self.edge.source {
            return Iter { bytes: &[], edge: self.edge, open: self.open, first };
        }
        // The block before whose end `first` lies: that of the last head whose run before ends at or before it.
        let at = self.heads.partition_point(|head| head.before.source <= first).saturating_sub(1);
        let head = self.heads.get(at).copied().unwrap_or(Head { before: Edge::default(), at: 0 });
        Iter { bytes: &self.bytes[head.at..], edge: head.before, open: self.open, first }
    }

    /// Returns what lies at the target offset `first` and behind, in order.
    pub(super) fn since_target(&self, first: Offset) -> impl Iterator<Item = Run> {
        let from = if first >= self.edge.target {
            Iter { bytes: &[], edge: self.edge, open: self.open, first: Offset::MIN }
        } else {
            let at = self.heads.partition_point(|head| head.before.target <= first).saturating_sub(1);
            let head = self.heads.get(at).copied().unwrap_or(Head { before: Edge::default(), at: 0 });
            Iter { bytes: &self.bytes[head.at..], edge: head.before, open: self.open, first: Offset::MIN }
        };
        let behind = from.skip_while(move |run| run.target_next() <= first);
        behind.map(move |run| run.since(run.source + (first - run.target).max(0)))
    }

    /// Returns how much memory they take.
    pub(super) fn memory_bytes(&self) -> usize {
        self.heads.capacity() * size_of::<Head>() + self.bytes.capacity()
    }

    /// Appends their bytes.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.bytes);
        if let Some(open) = self.open {
            let _ = put(out, self.edge, open);
        }
    }

    /// Reads runs that are all of `bytes`, with no more memory than those take; `None` where they are none.
    pub(super) fn decode(mut bytes: &[u8]) -> Option<Self> {
        let mut runs = Self { bytes: Vec::with_capacity(bytes.len()), ..Self::default() };
        let mut edge = Edge::default();
        while !bytes.is_empty() {
            let run = take(&mut bytes, edge)?;
            let (source, target) = (run.source, run.target);
            // One that goes on with the one before would have been a part of it.
            if !(runs.open.is_none() || source > edge.source || target > edge.target) {
                return None;
            }
            edge = Edge { source: run.source_next(), target: run.target_next() };
            runs.push(run);
        }
        Some(runs)
    }
}

/// A way through runs.
pub(super) struct Iter<'a> {
    bytes: &'a [u8],
    edge: Edge,
    /// The run behind the bytes.
    open: Option<Run>,
    /// What lies before this source offset is left out.
    first: Offset,
}

impl Iterator for Iter<'_> {
    type Item = Run;

    fn next(&mut self) -> Option<Run> {
        loop {
            let run = match take(&mut self.bytes, self.edge) {
                Some(run) => run,
                None => self.open.take()?,
            };
            self.edge = Edge { source: run.source_next(), target: run.target_next() };
            if self.edge.source > self.first {
                return Some(if self.first > run.source { run.since(self.first) } else { run });
            }
        }
    }
}

/// Appends a run behind `edge`; returns its end.
fn put(out: &mut Vec<u8>, edge: Edge, run: Run) -> Edge {
    for number in [(run.source - edge.source).unsigned_abs(), (run.target - edge.target).unsigned_abs(), run.length] {
        put_varint(out, number);
    }
    Edge { source: run.source_next(), target: run.target_next() }
}

/// Reads a run behind `edge`; `None` where there is none.
#[inline]
fn take(bytes: &mut &[u8], edge: Edge) -> Option<Run> {
    if bytes.is_empty() {
        return None;
    }
    let source = edge.source.checked_add_unsigned(varint(bytes)?)?;
    let target = edge.target.checked_add_unsigned(varint(bytes)?)?;
    let length = varint(bytes)?;
    // Its ends are offsets too.
    let _ = source.checked_add_unsigned(length)?;
    let _ = target.checked_add_unsigned(length)?;
    (length > 0).then_some(Run { source, target, length })
}

/// Appends a number in groups of seven bits, the lowest first; all but the last have the highest bit set.
pub(super) fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Reads such a number; `None` where there is none, or it is not in its shortest form.
#[inline]
pub(super) fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for (at, &byte) in bytes.iter().take(10).enumerate() {
        let low = u64::from(byte & 0x7f);
        // The tenth group has room for one bit.
        if at == 9 && byte > 1 {
            return None;
        }
        number |= low << (7 * at);
        if byte & 0x80 == 0 {
            *bytes = &bytes[at + 1..];
            return (byte != 0 || at == 0).then_some(number);
        }
    }
    None
}
