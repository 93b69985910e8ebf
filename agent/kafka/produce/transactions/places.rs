//! Under which keys a group keeps how far each source has come.
//!
//! Pure. A broker takes offsets only for partitions that are there: before Kafka 3.0 it looked at each one too, and 4.2 does
//! so again (UNKNOWN_TOPIC_OR_PARTITION for a number beyond the topic's). The sources' topics need not be on the target at
//! all. So the keys are target partitions, and what each says of several sources stands in the metadata beside its offset,
//! which a broker keeps up to 4096 bytes of (`offset.metadata.max.bytes`): sources go by their number in the plan, as many
//! one after the other under a key as that needs to have them all. Metadata are `1:<first source>:<offset>,<offset>,…`, where
//! an offset is the next one to be read; the committed offset itself is the least of them.

use crate::error::{Error, Result};
use crate::kafka::client::groups::CommittedOffset;
use crate::record::{Offset, Partition};

/// What stands in front: the version of what follows.
const VERSION: &str = "1";

/// The most sources under one key: with all of them at the longest offsets that there are, their text stays below 4096
/// bytes.
const MOST_PER_KEY: usize = 200;

/// Where progress is kept.
#[derive(Debug, Clone)]
pub struct Places {
    /// By name and number.
    keys: Vec<(String, i32)>,
    sources: usize,
    /// How many sources each key has, but for the last ones.
    per_key: usize,
}

impl Places {
    /// Finds places for so many sources under the names of target partitions. The same for the same, in any order.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) for more sources than there are places.
    pub fn new(targets: &[Partition], sources: usize) -> Result<Self> {
        let mut keys: Vec<_> = targets.iter().map(|target| (target.topic.to_string(), target.index)).collect();
        keys.sort_unstable();
        keys.dedup();
        let per_key = sources.div_ceil(keys.len().max(1)).max(1);
        if per_key > MOST_PER_KEY || (keys.is_empty() && sources > 0) {
            let what = format!("{sources} partitions cannot go into {} in one restore", keys.len());
            let hint = format!("{MOST_PER_KEY} to a target partition at most: restore some topics after the others");
            return Err(Error::usage(what).hint(hint));
        }
        Ok(Self { keys, sources, per_key })
    }

    /// Writes how far sources have come, by number; under every key that has one.
    ///
    /// # Panics
    /// When it is not one offset for each source.
    pub fn write(&self, next: &[Offset]) -> Vec<CommittedOffset> {
        assert_eq!(next.len(), self.sources, "one offset for each source");
        let pieces = self.keys.iter().zip(next.chunks(self.per_key)).enumerate();
        let write = |(number, ((topic, partition), piece)): (usize, (&(String, i32), &[Offset]))| {
            let offsets: Vec<String> = piece.iter().map(ToString::to_string).collect();
            CommittedOffset {
                topic: topic.clone(),
                partition: *partition,
                offset: piece.iter().copied().min().unwrap_or_default().max(0),
                metadata: format!("{VERSION}:{}:{}", number * self.per_key, offsets.join(",")),
            }
        };
        pieces.map(write).collect()
    }

    /// Returns whether something that was committed is how far some sources have come.
    pub fn is_progress(of: &CommittedOffset) -> bool {
        let mut parts = of.metadata.splitn(3, ':');
        let [version, first, offsets] = [parts.next(), parts.next(), parts.next()].map(Option::unwrap_or_default);
        let is_number = |text: &str| text.parse::<Offset>().is_ok();
        version == VERSION && is_number(first) && offsets.split(',').all(is_number)
    }

    /// Reads how far sources have come, by number; `None` for those of which nothing was committed.
    ///
    /// # Errors
    /// [`Kind::Failed`](crate::error::Kind::Failed) for what was not written so: the group is somebody else's, or the restore
    /// was planned otherwise.
    pub fn read(&self, committed: &[CommittedOffset]) -> Result<Vec<Option<Offset>>> {
        let mut next = vec![None; self.sources];
        for of in committed {
            let place = self.keys.binary_search_by(|(topic, index)| (&**topic, *index).cmp(&(&of.topic, of.partition)));
            let first = place.ok().map(|number| number * self.per_key).filter(|first| *first < self.sources);
            let read = first.and_then(|first| {
                let last = (first + self.per_key).min(self.sources);
                parse(&of.metadata, first, last - first).map(|offsets| (first..last).zip(offsets))
            });
            let Some(read) = read else {
                let what =
                    format!("progress at {}-{} is not of this restore: `{}`", of.topic, of.partition, of.metadata);
                return Err(
                    Error::failed(what).hint("another program has committed to its group; give it another restore_id")
                );
            };
            read.for_each(|(source, offset)| next[source] = Some(offset));
        }
        Ok(next)
    }
}

/// Reads the offsets of so many sources from that number on.
fn parse(metadata: &str, first: usize, count: usize) -> Option<Vec<Offset>> {
    let mut parts = metadata.splitn(3, ':');
    let (version, number, offsets) = (parts.next()?, parts.next()?, parts.next()?);
    let offsets: Vec<Offset> = offsets.split(',').map(str::parse).collect::<Result<_, _>>().ok()?;
    (version == VERSION && number.parse() == Ok(first) && offsets.len() == count).then_some(offsets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::TopicId;

    fn targets(topics: &[(&str, i32)]) -> Vec<Partition> {
        let all = topics.iter().flat_map(|(topic, count)| (0..*count).map(move |index| (*topic, index)));
        all.map(|(topic, index)| Partition { topic: topic.into(), topic_id: TopicId::NONE, index }).collect()
    }

    #[test]
    fn what_is_written_is_read_back_for_any_number_of_sources_and_targets() {
        for (keys, sources) in [(1, 1), (1, 200), (3, 7), (4, 5), (5, 4), (20, 3), (7, 1400)] {
            let mut targets = targets(&[("b", keys - keys / 2), ("a", keys / 2)]);
            let places = Places::new(&targets, sources).expect("room");
            let next: Vec<Offset> = (0..sources as i64).map(|number| number * 7_000_000_001).collect();
            let written = places.write(&next);
            assert!(written.iter().all(|of| of.metadata.len() < 4096), "{written:?}");
            targets.reverse();
            let read = Places::new(&targets, sources).and_then(|places| places.read(&written)).expect("ours");
            assert!(read.into_iter().eq(next.into_iter().map(Some)), "{sources} into {keys}");
        }
    }

    #[test]
    fn the_longest_offsets_stay_below_what_a_broker_keeps() {
        let places = Places::new(&targets(&[("a", 1)]), MOST_PER_KEY).expect("room");
        assert!(places.write(&[i64::MAX; MOST_PER_KEY])[0].metadata.len() <= 4096);
        let error = Places::new(&targets(&[("a", 1)]), MOST_PER_KEY + 1).expect_err("no room");
        assert_eq!(error.exit_code(), 2, "{error}");
    }

    #[test]
    fn what_was_committed_for_some_is_of_those_alone_and_what_others_committed_is_an_error() {
        let places = Places::new(&targets(&[("a", 2)]), 3).expect("room");
        let written = places.write(&[5, 7, 9]);
        assert_eq!((written[0].offset, &*written[0].metadata, written.len()), (5, "1:0:5,7", 2));
        assert_eq!(places.read(&written[1..]).expect("ours"), [None, None, Some(9)]);
        assert_eq!(places.read(&[]).expect("ours"), [None; 3]);
        for metadata in ["", "1:0:5", "1:1:5,7", "2:0:5,7", "1:0:5,x"] {
            let other = CommittedOffset { metadata: metadata.to_owned(), ..written[0].clone() };
            assert!(places.read(&[other]).is_err(), "{metadata}");
        }
        assert!(written.iter().all(Places::is_progress));
        for metadata in ["", "1:0:", "2:0:5", "1:x:5", "1:0:5,x", "1:0"] {
            assert!(
                !Places::is_progress(&CommittedOffset { metadata: metadata.to_owned(), ..written[0].clone() }),
                "{metadata}"
            );
        }
        let elsewhere = CommittedOffset { topic: "c".to_owned(), ..written[0].clone() };
        assert!(places.read(&[elsewhere]).expect_err("not ours").to_string().contains("c-0"));
    }
}
