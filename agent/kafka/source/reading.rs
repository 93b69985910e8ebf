//! What one fetcher reads, and what an answer to its Fetch comes to: batches, ends, partitions to give back.
//!
//! No I/O: [`Readings::look_through`] turns an answer into what is to be delivered, in order.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use kafka_protocol::messages as m;
use kafka_protocol::messages::fetch_response::{FetchableTopicResponse, PartitionData};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::flow::Flow;
use super::{Cause, Command, GIVE_UP_AFTER, Item, Returned};
use crate::budget::Permit;
use crate::error::Error;
use crate::kafka::UNKNOWN_TOPIC_ID;
use crate::kafka::fetch::{self, Bounds, Damage, LAST_FETCHED_EPOCH, Slice, Want};
use crate::pipeline::{Batch, Event, Log, Payload};
use crate::record::{AbortedTransaction, Offset, Partition, Timestamp, TopicId};

/// How often bytes that cannot be taken are asked for before it is told: a bit that flipped on its way, under TCP's
/// weak checksum, is right the next time.
const TRIES: u32 = 3;

/// A slice smaller than this, of a frame more than [`COPIED_SHARE`] times as large, is copied out, so that one quiet
/// partition does not keep a whole frame of its busy neighbours in memory.
const COPIED_BYTES: usize = 32 << 10;
const COPIED_SHARE: usize = 16;

const OFFSET_OUT_OF_RANGE: i16 = 1;

/// Errors that say "not here", "not yet" or "not any more": the newest metadata tells what to do. In order: unknown
/// topic or partition, leader not available, not leader or follower, request timed out, replica not available, network
/// exception, storage error, fenced and unknown leader epoch, offset not available, unknown and inconsistent topic id.
const MOVED: [i16; 12] = [3, 5, 6, 7, 9, 13, 56, 74, 75, 78, 100, 103];

/// A partition that is being read.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) partition: Partition,
    pub(super) generation: u32,
    /// The offset to read next.
    pub(super) position: Offset,
    /// The leader's epoch, −1 where unknown.
    pub(super) leader_epoch: i32,
    /// The leader epoch of the last batch held, −1 for none.
    pub(super) last_epoch: i32,
    /// Where a pass ends, exclusive.
    pub(super) end: Option<Offset>,
    /// Whether the watch waits to hear that it can be read again.
    pub(super) recovering: bool,
}

/// A reading and what was learnt of it here.
#[derive(Debug)]
struct State {
    reading: Reading,
    /// Log start, high watermark and last stable offset as last told.
    told: (Offset, Offset, Offset),
    /// Where an open transaction holds the last stable offset, as last told to the watch.
    held_at: Option<Offset>,
    /// Answers in a row whose first batch could not be taken.
    tries: u32,
    /// Since when the leader sends nothing, though it says that there is more and it was asked for that first.
    denied_since: Option<Instant>,
    flow: Arc<Flow>,
}

/// What one fetcher reads.
#[derive(Debug, Default)]
pub(super) struct Readings {
    states: HashMap<Partition, State>,
    /// The topics that are read, by id where they have one, by name too.
    by_id: HashMap<TopicId, Arc<str>>,
    by_name: HashMap<Arc<str>, TopicId>,
    /// Raised when a partition that had too much in flight has room again.
    wake: Arc<Notify>,
}

/// What an answer comes to.
#[derive(Debug, Default)]
pub(super) struct Yield {
    /// What is to be delivered, in order.
    pub(super) items: Vec<Item>,
    /// What the watch is to hear once that is delivered.
    pub(super) commands: Vec<Command>,
    /// The partitions that got data.
    pub(super) fed: HashSet<Partition>,
}

impl Readings {
    pub(super) fn is_empty(&self) -> bool {
        self.states.is_empty()
    }

    /// Raised when a partition that had too much in flight has room again.
    pub(super) fn wake(&self) -> Arc<Notify> {
        self.wake.clone()
    }

    /// Returns whether every topic has an id.
    pub(super) fn all_have_ids(&self) -> bool {
        self.states.keys().all(|partition| !partition.topic_id.is_none())
    }

    /// Reads a partition, in place of an older generation of it.
    pub(super) fn add(&mut self, reading: Reading) {
        let partition = reading.partition.clone();
        self.by_id.insert(partition.topic_id, partition.topic.clone());
        self.by_name.insert(partition.topic.clone(), partition.topic_id);
        let flow = match self.states.remove(&partition) {
            Some(old) => old.flow,
            None => Flow::new(self.wake.clone()),
        };
        let told = (-1, -1, -1);
        self.states.insert(partition, State { reading, told, held_at: None, tries: 0, denied_since: None, flow });
    }

    /// Reads a partition no longer.
    pub(super) fn remove(&mut self, partition: &Partition) {
        self.states.remove(partition);
    }

    /// Returns what to fetch: all that has room.
    pub(super) fn wants(&self) -> Vec<Want> {
        let open = self.states.values().filter(|state| !state.flow.is_full());
        let want = |state: &State| Want {
            partition: state.reading.partition.clone(),
            position: state.reading.position,
            leader_epoch: state.reading.leader_epoch,
            last_epoch: state.reading.last_epoch,
            behind: state.is_behind(),
        };
        open.map(want).collect()
    }

    /// Gives one partition back, if it is read here.
    pub(super) fn take_back(&mut self, partition: &Partition) -> Option<Command> {
        Some(self.states.remove(partition)?.returned(Cause::Led))
    }

    /// Gives the partitions of topics back that are not there any more, and forgets what an answer says of them.
    pub(super) fn disown(&mut self, topics: &[TopicId]) -> Vec<Command> {
        let gone = self.states.extract_if(|partition, _| topics.contains(&partition.topic_id));
        gone.map(|(_, state)| state.returned(Cause::Moved(UNKNOWN_TOPIC_ID, None))).collect()
    }

    /// Gives everything back.
    pub(super) fn give_back(&mut self, reason: &str) -> Vec<Command> {
        let states = std::mem::take(&mut self.states);
        states.into_values().map(|state| state.returned(Cause::Unreachable(reason.to_owned()))).collect()
    }

    /// Looks through an answer to a request for `wants` in that version of Fetch, of `frame_bytes` bytes that `permit`
    /// was paid for, and moves the positions on.
    pub(super) fn look_through(
        &mut self,
        answer: m::FetchResponse,
        (wants, version): (&[Want], i16),
        frame_bytes: usize,
        mut permit: Permit,
    ) -> Yield {
        let mut result = Yield::default();
        let asked: HashMap<&Partition, &Want> = wants.iter().map(|want| (&want.partition, want)).collect();
        for topic in answer.responses {
            let Some((name, id)) = self.topic(&topic) else { continue };
            for data in topic.partitions {
                let partition = Partition { topic: name.clone(), topic_id: id, index: data.partition_index };
                // What was stopped meanwhile is nobody's any more.
                let Some(state) = self.states.get_mut(&partition) else { continue };
                // Ordered since the request went out, perhaps from elsewhere: this answer is not for it.
                let Some(want) = asked.get(&partition).filter(|want| want.position == state.reading.position) else {
                    continue;
                };
                // Before that version a leader does not judge the epoch of what we hold, and its batches may have any.
                let leader_epoch = if version >= LAST_FETCHED_EPOCH { want.leader_epoch } else { -1 };
                if !state.take(data, leader_epoch, frame_bytes, &mut permit, &mut result) {
                    self.states.remove(&partition);
                }
            }
        }
        // A session's answer leaves out what has nothing new: those are well too, but for what should have something.
        for want in wants {
            let Some(state) = self.states.get_mut(&want.partition) else { continue };
            let well = state.tries == 0 && (result.fed.contains(&want.partition) || !state.is_behind());
            if state.reading.recovering && well {
                state.recover(&mut result);
                state.reading.recovering = false;
            }
        }
        result
    }

    /// Hears that the leader sent nothing of a partition that it was asked for first, though it says that there is more;
    /// gives it back when that has been so for [`GIVE_UP_AFTER`].
    pub(super) fn denied(&mut self, partition: &Partition, now: Instant, result: &mut Yield) {
        let state = self.states.get_mut(partition).filter(|state| state.is_behind() && state.tries == 0);
        let Some(state) = state else { return };
        if now - *state.denied_since.get_or_insert(now) < GIVE_UP_AFTER {
            return;
        }
        let (Partition { topic, index, .. }, position, end) = (partition, state.reading.position, state.told.2);
        let error = Error::failed(format!(
            "topic \"{topic}\" partition {index} offset {position}: the broker has sent nothing for {} s, though it says \
             that there is more, up to offset {end}: a batch on its disk may be damaged, or compaction took all there \
             was before an open transaction",
            GIVE_UP_AFTER.as_secs()
        ));
        result.commands.push(state.returned(Cause::Unusable(error)));
        self.states.remove(partition);
    }

    fn topic(&self, topic: &FetchableTopicResponse) -> Option<(Arc<str>, TopicId)> {
        if topic.topic_id.is_nil() {
            return self.by_name.get_key_value(topic.topic.as_str()).map(|(name, id)| (name.clone(), *id));
        }
        let id = TopicId(topic.topic_id);
        self.by_id.get(&id).map(|name| (name.clone(), id))
    }
}

impl State {
    /// Returns whether the leader has said that there is more to read.
    fn is_behind(&self) -> bool {
        self.told.2 > self.reading.position
    }

    /// Takes what an answer holds of the partition; returns whether it is read on here.
    fn take(
        &mut self,
        mut data: PartitionData,
        leader_epoch: i32,
        frame_bytes: usize,
        permit: &mut Permit,
        result: &mut Yield,
    ) -> bool {
        if let Some(cause) = refusal(&data) {
            result.commands.push(self.returned(cause));
            return false;
        }
        let records = data.records.take().unwrap_or_default();
        let Reading { position, end, last_epoch, .. } = self.reading;
        // An append between the broker's look at its end and its read goes beyond it; not when it is fetched again.
        let stable_end = Some(data.last_stable_offset).filter(|end| *end >= 0);
        let bounds = Bounds { stable_end, leader_epoch, last_epoch, again: self.tries > 0 };
        let fetch::Sliced { data: slice, at_end, damage } = fetch::slice(&records, position, end, &bounds);
        if let Some(slice) = slice {
            self.tries = 0;
            let aborted = aborted(&data);
            self.deliver(slice, aborted, frame_bytes, permit, result);
        }
        let (start, last_stable) = (data.log_start_offset, data.last_stable_offset);
        self.observe(Log { start, last_stable, high_watermark: data.high_watermark, at: Timestamp::now() }, result);
        self.watch_stable_end(data.high_watermark, last_stable, result);
        if at_end || end.is_some_and(|end| self.reading.position >= end) {
            let Reading { partition, generation, position, .. } = &self.reading;
            self.recover(result);
            result.items.push(Item::Finished {
                partition: partition.clone(),
                generation: *generation,
                next: *position,
            });
            return false;
        }
        match damage {
            None => true,
            Some(damage) => self.doubt(damage, result),
        }
    }

    fn deliver(
        &mut self,
        slice: Slice,
        aborted: Vec<AbortedTransaction>,
        frame_bytes: usize,
        permit: &mut Permit,
        result: &mut Yield,
    ) {
        let Slice { range, bytes, last_epoch } = slice;
        let few = bytes.len() < COPIED_BYTES && bytes.len() * COPIED_SHARE < frame_bytes;
        let bytes = if few { Bytes::copy_from_slice(&bytes) } else { bytes };
        let permit = permit.split(bytes.len());
        let in_flight = self.flow.count(bytes.len());
        let payload = Payload::Encoded { bytes, aborted };
        let reading = &mut self.reading;
        reading.position = range.next;
        reading.last_epoch = last_epoch;
        self.denied_since = None;
        let batch = Batch::new(reading.partition.clone(), reading.generation, range, payload, permit);
        let batch = batch.in_flight(in_flight);
        result.fed.insert(reading.partition.clone());
        result.items.push(Item::Event(Event::Batch(batch)));
    }

    /// Tells where the partition's log begins and ends, when that is news.
    fn observe(&mut self, log: Log, result: &mut Yield) {
        let news = (log.start, log.high_watermark, log.last_stable);
        if self.told == news || log.high_watermark < 0 {
            return;
        }
        self.told = news;
        let partition = self.reading.partition.clone();
        result.items.push(Item::Event(Event::Observed { partition, log }));
    }

    /// Tells the watch when a transaction begins to hold the last stable offset at another place, or holds it no more.
    fn watch_stable_end(&mut self, high_watermark: Offset, last_stable: Offset, result: &mut Yield) {
        let held_at = (last_stable >= 0 && last_stable < high_watermark).then_some(last_stable);
        if held_at != self.held_at {
            self.held_at = held_at;
            result.commands.push(Command::Stable(self.reading.partition.clone(), held_at));
        }
    }

    /// Has bytes that cannot be taken fetched again, and gives the partition back when that does not help.
    fn doubt(&mut self, damage: Damage, result: &mut Yield) -> bool {
        self.tries += 1;
        if self.tries < TRIES {
            return true;
        }
        let (Partition { topic, index, .. }, Damage { offset, what }) = (&self.reading.partition, damage);
        let error = Error::damaged(format!(
            "topic \"{topic}\" partition {index} offset {offset}: the broker sends a damaged batch, {TRIES} times: {what}"
        ));
        result.commands.push(self.returned(Cause::Unusable(error)));
        false
    }

    /// Tells the watch, if it waits to hear it, that the partition can be read.
    fn recover(&self, result: &mut Yield) {
        if self.reading.recovering {
            result.commands.push(Command::Recovered(self.reading.partition.clone(), self.reading.generation));
        }
    }

    fn returned(&self, cause: Cause) -> Command {
        let Reading { partition, generation, position, last_epoch, .. } = &self.reading;
        Command::Returned(Returned {
            partition: partition.clone(),
            generation: *generation,
            position: *position,
            last_epoch: *last_epoch,
            cause,
        })
    }
}

/// Returns why the leader sends nothing of a partition; `None` when it does.
fn refusal(data: &PartitionData) -> Option<Cause> {
    let leader = &data.current_leader;
    let hint = (leader.leader_id.0 >= 0).then_some((leader.leader_id.0, leader.leader_epoch));
    match data.error_code {
        0 if data.diverging_epoch.epoch >= 0 => {
            Some(Cause::Diverged(data.diverging_epoch.epoch, data.diverging_epoch.end_offset))
        }
        0 => None,
        OFFSET_OUT_OF_RANGE => Some(Cause::OutOfRange),
        code if MOVED.contains(&code) => Some(Cause::Moved(code, hint)),
        code => Some(Cause::Refused(code)),
    }
}

fn aborted(data: &PartitionData) -> Vec<AbortedTransaction> {
    let aborted = data.aborted_transactions.iter().flatten();
    aborted.map(|entry| AbortedTransaction { producer_id: entry.producer_id.0, first: entry.first_offset }).collect()
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::fetch_response as wire;

    use super::*;
    use crate::batch;
    use crate::record::OffsetRange;

    fn partition() -> Partition {
        Partition { topic: "orders".into(), topic_id: TopicId(uuid::Uuid::from_u128(7)), index: 3 }
    }

    fn readings(end: Option<Offset>) -> Readings {
        let mut readings = Readings::default();
        let (partition, leader_epoch, last_epoch) = (partition(), 5, -1);
        readings.add(Reading {
            partition,
            generation: 1,
            position: 0,
            leader_epoch,
            last_epoch,
            end,
            recovering: true,
        });
        readings
    }

    fn records(first: Offset, next: Offset) -> Bytes {
        batch::gap(OffsetRange { first, next }, 5)
    }

    fn answer(data: PartitionData) -> m::FetchResponse {
        let topic = FetchableTopicResponse::default().with_topic_id(uuid::Uuid::from_u128(7));
        m::FetchResponse::default().with_responses(vec![topic.with_partitions(vec![data.with_partition_index(3)])])
    }

    fn look(readings: &mut Readings, data: PartitionData) -> Yield {
        let wants = readings.wants();
        readings.look_through(answer(data), (&wants, 12), 1000, Permit::default())
    }

    #[test]
    fn a_base_offset_that_flips_on_its_way_is_fetched_again_and_loses_nothing() {
        let mut readings = readings(None);
        let mut flipped = records(0, 10).to_vec();
        flipped[1] ^= 1;
        let data = PartitionData::default().with_last_stable_offset(20);
        let result = look(&mut readings, data.clone().with_records(Some(flipped.into())));
        assert!(result.fed.is_empty() && result.commands.is_empty(), "{result:?}");
        assert_eq!(readings.wants()[0].position, 0);
        look(&mut readings, data.with_records(Some(records(0, 10))));
        assert_eq!(readings.wants()[0].position, 10);
    }

    #[test]
    fn where_the_leader_does_not_judge_epochs_its_batches_may_have_any() {
        for (version, position) in [(11, 10), (12, 0)] {
            let mut readings = readings(None);
            let (wants, data) = (readings.wants(), PartitionData::default().with_last_stable_offset(10));
            let newer = batch::gap(OffsetRange { first: 0, next: 10 }, 6);
            let answer = answer(data.with_records(Some(newer)));
            readings.look_through(answer, (&wants, version), 1000, Permit::default());
            assert_eq!(readings.wants()[0].position, position);
        }
    }

    #[test]
    fn batches_come_with_their_aborted_transactions_and_move_the_position() {
        let mut readings = readings(None);
        let aborted = wire::AbortedTransaction::default().with_producer_id(m::ProducerId(9)).with_first_offset(2);
        let data = PartitionData::default().with_records(Some(records(0, 10))).with_last_stable_offset(20);
        let result = look(&mut readings, data.with_aborted_transactions(Some(vec![aborted])));
        let Some(Item::Event(Event::Batch(batch))) = result.items.first() else { panic!("no batch") };
        let Payload::Encoded { aborted, .. } = &batch.payload else { panic!("a gap") };
        assert_eq!(aborted, &[AbortedTransaction { producer_id: 9, first: 2 }]);
        let want = &readings.wants()[0];
        assert_eq!((want.position, want.last_epoch, want.behind), (10, 5, true));
        assert!(matches!(result.commands[..], [Command::Recovered(_, 1)]));
    }

    #[test]
    fn a_damaged_batch_is_asked_for_three_times_and_then_named() {
        let mut readings = readings(None);
        let mut damaged = records(0, 10).to_vec();
        damaged[30] ^= 1;
        let data = PartitionData::default().with_records(Some(damaged.into()));
        for _ in 1..TRIES {
            assert!(look(&mut readings, data.clone()).commands.is_empty());
        }
        let result = look(&mut readings, data);
        let [Command::Returned(Returned { cause: Cause::Unusable(error), .. })] = &result.commands[..] else {
            panic!("not given back")
        };
        assert_eq!(error.kind(), crate::error::Kind::Damaged);
        assert!(error.to_string().starts_with("topic \"orders\" partition 3 offset 0"), "{error}");
        assert!(readings.is_empty());
    }

    #[test]
    fn what_an_answer_brings_of_a_topic_that_is_gone_does_not_count() {
        let mut readings = readings(None);
        let wants = readings.wants();
        let commands = readings.disown(&[partition().topic_id]);
        let [Command::Returned(Returned { position: 0, cause: Cause::Moved(100, None), .. })] = &commands[..] else {
            panic!("{commands:?}")
        };
        let data = PartitionData::default().with_records(Some(records(0, 10)));
        let result = readings.look_through(answer(data), (&wants, 12), 1000, Permit::default());
        assert!(result.items.is_empty() && result.commands.is_empty(), "{result:?}");
    }

    #[test]
    fn a_partition_that_gets_nothing_though_there_is_more_is_given_back_and_named() {
        let mut readings = readings(None);
        let began = Instant::now();
        let nothing = PartitionData::default().with_last_stable_offset(20).with_high_watermark(20);
        let deny = |readings: &mut Readings, at: std::time::Duration| {
            let mut result = look(readings, nothing.clone());
            readings.denied(&partition(), began + at, &mut result);
            result.commands
        };
        let second = std::time::Duration::from_secs(1);
        assert!(deny(&mut readings, second).is_empty(), "it has not recovered");
        look(&mut readings, nothing.clone().with_records(Some(records(0, 10))));
        assert!(deny(&mut readings, GIVE_UP_AFTER + second).is_empty(), "it has got something since");
        assert!(deny(&mut readings, GIVE_UP_AFTER + 2 * second).is_empty());
        let commands = deny(&mut readings, 2 * GIVE_UP_AFTER + second);
        let [Command::Returned(Returned { position: 10, cause: Cause::Unusable(error), .. })] = &commands[..] else {
            panic!("{commands:?}")
        };
        assert!(error.to_string().contains("up to offset 20"), "{error}");
        assert!(readings.is_empty());
    }

    #[test]
    fn a_pass_finishes_at_its_end_with_where_it_came_to() {
        let mut readings = readings(Some(10));
        let data = PartitionData::default().with_records(Some(records(0, 10))).with_last_stable_offset(20);
        let result = look(&mut readings, data);
        assert!(matches!(result.items.last(), Some(Item::Finished { generation: 1, next: 10, .. })));
        assert!(readings.is_empty());
    }

    #[test]
    fn what_the_leader_refuses_is_given_back_with_the_position_reached() {
        let leader = wire::LeaderIdAndEpoch::default().with_leader_id(m::BrokerId(2)).with_leader_epoch(5);
        let moved = PartitionData::default().with_error_code(6).with_current_leader(leader);
        let end = wire::EpochEndOffset::default().with_epoch(3).with_end_offset(8);
        let cases = [
            (moved, "Moved(6, Some((2, 5)))"),
            (PartitionData::default().with_error_code(1), "OutOfRange"),
            (PartitionData::default().with_error_code(29), "Refused(29)"),
            (PartitionData::default().with_diverging_epoch(end), "Diverged(3, 8)"),
        ];
        for (data, expected) in cases {
            let mut readings = readings(None);
            look(&mut readings, PartitionData::default().with_records(Some(records(0, 10))));
            let result = look(&mut readings, data);
            let [Command::Returned(returned)] = &result.commands[..] else { panic!("not given back") };
            assert_eq!((returned.position, format!("{:?}", returned.cause)), (10, expected.to_owned()));
        }
    }
}
