//! Whose a batch in a target is. Pure.
//!
//! A process of the restore sends with the producer id that its attempt names, which Kafka gives to its transactional id
//! alone. The epoch is the attempt's, or a later one: transactions raise it, and fences leave markers with theirs.

use std::collections::BTreeSet;

use crate::batch::Header;
use crate::restore::state::Attempt;

/// The producers of a restore.
#[derive(Debug, Default)]
pub(super) struct Owners {
    /// Who sent.
    senders: BTreeSet<i64>,
    /// Whose markers there may be.
    fences: BTreeSet<i64>,
    /// Whether the restore's place is not taken yet: nobody has told as whom its fences were set.
    is_before_fence: bool,
}

impl Owners {
    /// Returns the producers that attempts name.
    pub(super) fn of(attempts: &[Attempt]) -> Self {
        let senders: BTreeSet<_> = attempts.iter().map(|attempt| attempt.producer_id).collect();
        Self { fences: senders.clone(), senders, is_before_fence: false }
    }

    /// Makes them those of a restore whose place is not taken.
    pub(super) fn before_fence(self) -> Self {
        Self { is_before_fence: true, ..self }
    }

    /// Returns whether its place is not taken.
    pub(super) fn are_before_fence(&self) -> bool {
        self.is_before_fence
    }

    /// Adds those of fences.
    pub(super) fn extend(&mut self, producer_id: Option<i64>) {
        self.fences.extend(producer_id);
    }

    /// Returns whose a batch is that is not the restore's, in words; `None` for its own. No header is one of an old format.
    pub(super) fn stranger(&self, header: Option<&Header>) -> Option<String> {
        let Some(header) = header else { return Some("batches of an old format, of nobody known".to_owned()) };
        let (id, epoch) = (header.producer_id, header.producer_epoch);
        let known = if header.is_control() { &self.fences } else { &self.senders };
        if known.contains(&id) {
            return None;
        }
        let what = if header.is_control() { "a marker" } else { "records" };
        let whose = match id {
            ..0 => "a producer without an id".to_owned(),
            id => format!("producer {id} (epoch {epoch})"),
        };
        Some(format!("{what} of {whose} at offset {}", header.base_offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::records::template;
    use crate::restore::state::tests::attempt;

    const CONTROL: i16 = 0x30;

    fn batch(producer_id: i64, producer_epoch: i16, attributes: i16) -> Header {
        Header { producer_id, producer_epoch, attributes, ..template(40) }
    }

    #[test]
    fn what_an_attempt_sent_and_the_markers_of_its_producer_are_the_restores() {
        let owners = Owners::of(&[attempt(7, 1), attempt(7, 3)]);
        for own in [batch(7, 1, 0), batch(7, 3, 0), batch(7, 4, 0), batch(7, 2, CONTROL), batch(7, 9, CONTROL)] {
            assert_eq!(owners.stranger(Some(&own)), None, "{own:?}");
        }
        let strangers = [
            (batch(8, 1, 0), "records of producer 8 (epoch 1) at offset 40"),
            (batch(8, 1, CONTROL), "a marker of producer 8 (epoch 1) at offset 40"),
            (batch(-1, -1, 0), "records of a producer without an id at offset 40"),
        ];
        for (stranger, words) in strangers {
            assert_eq!(owners.stranger(Some(&stranger)).as_deref(), Some(words));
        }
        assert!(owners.stranger(None).is_some_and(|whose| whose.contains("old format")));
    }

    #[test]
    fn the_marker_of_a_later_fence_is_the_restores_once_it_is_known() {
        let mut owners = Owners::of(&[attempt(7, 1)]);
        let marker = batch(12, 0, CONTROL);
        assert!(owners.stranger(Some(&marker)).is_some());
        owners.extend(Some(12));
        assert_eq!(owners.stranger(Some(&marker)), None);
        assert!(owners.stranger(Some(&batch(12, 0, 0))).is_some(), "it has sent nothing");
    }
}
