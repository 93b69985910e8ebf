//! Dead letters: each batch that a segment leaves out, and says it was kept, is there as it came; and what of them no
//! segment names is told.
//!
//! A letter that no segment names is what a writer that was killed left, or the only place of its records: the chain tells
//! which. It belongs to a partition, whichever chain leaves it out, so that all chains are looked at before it is judged.

use std::collections::HashSet;

use super::Mode;
use super::place::Checked;
use crate::archive::source::Place;
use crate::archive::source::chain::{Finding, What};
use crate::archive::source::chunks::Segment;
use crate::archive::source::dead_letters::{self, Letter, batches_of, is_emptied, within};
use crate::archive::{Archive, layout, sidecar};
use crate::batch::Header;
use crate::error::{Kind, Result};
use crate::record::{OffsetRange, Partition};

/// What a walk along a chain met of its partition's dead letters.
#[derive(Debug, Default)]
pub(super) struct Met {
    /// All of the partition, in order.
    all: Vec<Letter>,
    named: HashSet<Letter>,
    /// Those whose segment was read and does not name them, with what it has in their place.
    unnamed: Vec<(Letter, Instead)>,
}

/// What a segment has in the place of a dead letter that it does not name.
#[derive(Debug, Clone, Copy)]
struct Instead {
    /// The batch that begins where the letter does, if one does.
    batch: Option<Header>,
    /// Whether the segment names another letter there.
    has_other: bool,
}

impl Met {
    /// Lists the dead letters of the partition of `place`.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) async fn list(archive: &Archive, place: &Place, findings: &mut Vec<Finding>) -> Result<Self> {
        let (all, strange) = dead_letters::list(archive.store(), &place.partition).await?;
        if place.fork.is_none() {
            let key = |name| format!("{}{}{name}", place.folder, layout::DEAD_LETTERS);
            findings.extend(strange.into_iter().map(|name| Finding::unknown(archive, &key(name))));
        }
        Ok(Self { all, ..Self::default() })
    }

    /// Takes the next segment of the chain: which of the letters it names, and what it has in the place of others.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) async fn segment(&mut self, segment: &Segment) -> Result<()> {
        self.named.extend(segment.sidecar.left_out.iter().filter_map(Letter::of));
        let is_first = segment.sidecar.kind == sidecar::Kind::First;
        let others = within(&self.all, segment.sidecar.range, is_first).iter();
        let others: Vec<_> = others.filter(|letter| !self.named.contains(letter)).copied().collect();
        let Some(first) = others.first() else { return Ok(()) };
        let batches = match batches_of(segment.chunks(segment.position_of(first.first)), &others).await {
            // A deep check says what is wrong with the log.
            Err(error) if error.kind() == Kind::Damaged => return Ok(()),
            batches => batches?,
        };
        let named = |first| segment.sidecar.left_out.iter().filter_map(Letter::of).any(|named| named.first == first);
        let instead = |letter: Letter| {
            let batch = batches.iter().find(|(of, _)| *of == letter).map(|(_, header)| *header);
            (letter, Instead { batch, has_other: named(letter.first) })
        };
        self.unnamed.extend(others.into_iter().map(instead));
        Ok(())
    }
}

/// Looks for those that a segment names: at their headers, or in a deep check at every byte.
pub(super) async fn check(
    archive: &Archive,
    partition: &Partition,
    segment: &Segment,
    mode: Mode,
    findings: &mut Vec<Finding>,
) {
    for left_out in &segment.sidecar.left_out {
        let Some(letter) = Letter::of(left_out) else { continue };
        let looked = match mode {
            Mode::Plain => dead_letters::look_at(archive, partition, left_out).await,
            Mode::Deep => dead_letters::read(archive, partition, left_out).await.map(drop),
        };
        if let Err(error) = looked {
            let finding = Finding::of_error(archive, &letter.key(partition), &error);
            findings.push(Finding { range: Some(left_out.range), ..finding });
        }
    }
}

/// Says of the dead letters that none of a partition's chains names what they are; `chains` in the order of their forks.
pub(super) async fn unnamed(archive: &Archive, chains: &[(Place, Checked)]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let Some((Place { partition, .. }, _)) = chains.first() else { return findings };
    if chains.iter().any(|(_, checked)| !checked.reach.is_whole) {
        // One that could not be walked to its end may name any; that is told.
        return findings;
    }
    let mut all: Vec<_> = chains.iter().flat_map(|(_, checked)| &checked.letters.all).copied().collect();
    all.sort_unstable();
    all.dedup();
    let newest = chains.iter().rev().find(|(_, checked)| checked.reach.is_held);
    let end = newest.and_then(|(_, checked)| checked.reach.next).unwrap_or(0);
    for letter in all {
        if chains.iter().any(|(_, checked)| checked.letters.named.contains(&letter)) {
            continue;
        }
        let of_it = chains.iter().flat_map(|(_, checked)| &checked.letters.unnamed).filter(|(of, _)| *of == letter);
        let instead: Vec<_> = of_it.map(|(_, instead)| *instead).collect();
        let key = letter.key(partition);
        let header = match dead_letters::header(archive.store(), partition, &letter).await {
            Ok(header) => header,
            // Whatever it was, the batch was read again.
            Err(_) if instead.iter().filter_map(|instead| instead.batch).any(|batch| batch.count > 0) => continue,
            Err(error) => {
                findings.push(Finding::of_error(archive, &key, &error));
                continue;
            }
        };
        let (what, detail) = judged(&header, &instead, letter.first >= end);
        let range = Some(OffsetRange { first: letter.first, next: header.next_offset() });
        findings.push(Finding { what, object: archive.store().describe(&key), range, detail });
    }
    findings
}

/// Says what a dead letter is that nothing names; `instead` is what the sound segments over its offsets have, `is_to_come`
/// says whether the newest chain has not reached it.
fn judged(letter: &Header, instead: &[Instead], is_to_come: bool) -> (What, String) {
    let batches = || instead.iter().filter_map(|instead| instead.batch);
    let is_same = |batch: &Header| batch.last_offset_delta == letter.last_offset_delta;
    let most = batches().filter(is_same).map(|batch| batch.count).max().unwrap_or(0);
    let all = letter.count;
    let (s, are) = if all == 1 { ("", "is") } else { ("s", "are") };
    let maybe = format!("its {all} record{s} may be nowhere else");
    let has_other = instead.iter().any(|instead| instead.has_other);
    let is_emptied = batches().any(|batch| is_emptied(&batch, letter));
    let keep = "keep it, or delete it when its records are not needed: `kafka-dump-log.sh` reads it";
    match () {
        () if most >= all => {
            let why = "a writer that was killed left it, and the chain has all its records: it may be deleted";
            (What::Debris, why.to_owned())
        }
        () if is_to_come => {
            let why = "no segment has its batch yet: a writer stopped before it, or is still writing";
            (What::Unfinished, why.to_owned())
        }
        () if most > 0 => {
            let why = "stages dropped or skipped the others when the batch was read again";
            (What::UnnamedLetter, format!("the chain has {most} of its {all} records: {why}; {keep}"))
        }
        () if has_other => {
            let why = "its batch is empty in the chain, and was kept as another dead letter when it was read again";
            (What::UnnamedLetter, format!("{why}; {keep}"))
        }
        () if is_emptied => {
            let why = "its batch is empty in the chain, and no sidecar says that it was kept";
            let todo = "keep it: `cat --dead-letters` prints them";
            (What::UnnamedLetter, format!("{why}: its {all} record{s} {are} nowhere else; {todo}"))
        }
        () if instead.is_empty() => {
            let why = "no sound segment has these offsets, and no sidecar names it";
            (What::UnnamedLetter, format!("{why}: {maybe}; run `repair`, and {keep}"))
        }
        () => {
            let why = "the chain has no batch of these offsets any more, and no sidecar names it";
            (What::UnnamedLetter, format!("{why}: {maybe}; {keep}"))
        }
    }
}

#[cfg(test)]
mod tests;
