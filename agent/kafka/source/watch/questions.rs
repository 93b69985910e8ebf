//! What leaders are asked of partitions: where to begin, and what it means that a position is out of range.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::super::{Agreement, Asked, Command, Item, Purpose, Start};
use super::Watch;
use super::runs::Stage;
use crate::budget::Permit;
use crate::error::{Error, Result};
use crate::kafka::client::{At, EpochAnswer, EpochQuery, Isolation, OffsetAnswer, OffsetQuery};
use crate::kafka::code_name;
use crate::pipeline::{Batch, Event, Payload};
use crate::record::{Offset, OffsetRange, Partition};

/// How long a leader may take to answer: one that is well takes milliseconds, and another may lead by now.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Times that a leader may say "out of range" of an offset that is in range, before it is told.
const RANGE_TRIES: u32 = 3;

/// Codes of a broker that does not tell us its epochs, whenever it is asked: TOPIC_AUTHORIZATION_FAILED,
/// CLUSTER_AUTHORIZATION_FAILED (old ones tell only brokers), UNSUPPORTED_VERSION.
const CANNOT_TELL: [i16; 3] = [29, 31, 35];

/// What a leader has told of a partition.
#[derive(Debug, Default)]
struct Told {
    code: i16,
    earliest: Option<Offset>,
    latest: Option<Offset>,
    time: Option<Offset>,
}

/// What a position out of range comes to.
#[derive(Debug, PartialEq, Eq)]
enum Range {
    /// The log starts later, here.
    Gap(Offset),
    /// The log ends earlier, here.
    Lost(Offset),
    /// It is in range.
    Within,
}

impl Watch {
    pub(super) fn ask(&mut self, leader: i32, purpose: Purpose, questions: Vec<(Asked, OffsetQuery)>) {
        let (client, commands) = (self.client.clone(), self.commands.clone());
        let (asked, queries): (Vec<_>, Vec<_>) = questions.into_iter().unzip();
        // What a pass ends at is what a reader may see; whether records were lost is a matter of the whole log.
        let isolation = match purpose {
            Purpose::Begin => Isolation::Committed,
            Purpose::Check => Isolation::Uncommitted,
        };
        self.tasks.spawn(async move {
            let answer = client.list_offsets(leader, &queries, isolation);
            // Looking for a time may read the index of every segment of a thousand partitions.
            let looks_for_time = queries.iter().any(|query| matches!(query.at, At::Time(_)));
            let answers = if looks_for_time { answer.await } else { in_time(answer).await };
            let _ = commands.send(Command::Offsets(purpose, asked, answers));
        });
    }

    /// Hears the answers to questions for offsets.
    pub(super) fn answered(&mut self, purpose: Purpose, asked: Vec<Asked>, answers: Result<Vec<OffsetAnswer>>) {
        let answers = match answers {
            Ok(answers) => answers,
            Err(error) => {
                let mut partitions: Vec<_> =
                    asked.into_iter().map(|asked| (asked.partition, asked.generation)).collect();
                partitions.dedup();
                for (partition, generation) in partitions {
                    self.try_again(&partition, generation, &error.to_string());
                }
                return;
            }
        };
        let mut told: BTreeMap<(Partition, u32), Told> = BTreeMap::new();
        for (asked, answer) in asked.into_iter().zip(answers) {
            told.entry((asked.partition, asked.generation)).or_default().add(asked.at, answer);
        }
        for ((partition, generation), told) in told {
            if told.code != 0 {
                let reason = format!("its leader does not tell its offsets: {}", code_name(told.code));
                self.try_again(&partition, generation, &reason);
                continue;
            }
            match purpose {
                Purpose::Begin => self.begin(&partition, generation, &told),
                Purpose::Check => self.checked(&partition, generation, &told),
            }
        }
    }

    fn begin(&mut self, partition: &Partition, generation: u32, told: &Told) {
        let start = self.options.start;
        let Some(held) = self.partitions.get_mut(partition) else { return };
        held.end = held.end.or(told.latest.filter(|_| self.options.one_pass));
        let Some(run) = held.run.as_mut().filter(|run| run.generation == generation) else { return };
        run.position = run.position.or(match start {
            Start::Earliest => told.earliest,
            Start::Latest => told.latest,
            Start::Time(_) => told.time.filter(|offset| *offset >= 0).or(told.latest),
        });
        run.stage = Stage::Waiting;
    }

    fn checked(&mut self, partition: &Partition, generation: u32, told: &Told) {
        let end = self.partitions.get(partition).and_then(|held| held.end);
        let Some(run) = self.current(partition, generation) else { return };
        let (Some(position), Some(earliest), Some(latest)) = (run.position, told.earliest, told.latest) else {
            run.stage = Stage::Waiting;
            return;
        };
        let beyond = end.is_some_and(|end| position > end);
        run.check = false;
        run.stage = Stage::Waiting;
        match range(position, earliest, latest) {
            Range::Gap(next) => {
                run.position = Some(next);
                // The batch that the epoch was of is gone on the leader too.
                run.last_epoch = -1;
                let reason = format!("the source's log starts at offset {next}: what was before was deleted there");
                let payload = Payload::Gap { reason };
                let range = OffsetRange { first: position, next };
                let gap = Batch::new(partition.clone(), generation, range, payload, Permit::default());
                self.outbox.push(Item::Event(Event::Batch(gap)));
            }
            // Where its log ends is not where ours and its part: it may have written since. The epochs tell.
            Range::Lost(end) if run.last_epoch >= 0 => (run.lost, run.agreed) = (Some(end), None),
            Range::Lost(end) => self.diverged(partition, generation, -1, end),
            Range::Within if beyond => run.beyond = true,
            Range::Within if run.range_tries < RANGE_TRIES => {
                run.range_tries += 1;
                run.put_off(Instant::now());
            }
            Range::Within => {
                let reason = format!(
                    "the leader refuses offset {position}, though its log is [{earliest}, {latest}): it does not know \
                     leader epoch {} of the last record that the archive holds",
                    run.last_epoch
                );
                self.give_up(partition, generation, &reason);
            }
        }
    }
}

impl Watch {
    /// Asks a leader whether its logs agree with what is held.
    pub(super) fn ask_epochs(&mut self, leader: i32, questions: Vec<(Agreement, EpochQuery)>) {
        let (client, commands) = (self.client.clone(), self.commands.clone());
        let (asked, queries): (Vec<_>, Vec<_>) = questions.into_iter().unzip();
        self.tasks.spawn(async move {
            let answers = in_time(client.epoch_ends(leader, &queries)).await;
            let _ = commands.send(Command::Epochs(asked, answers));
        });
    }

    /// Hears whether a leader's logs agree with what is held.
    pub(super) fn agreed(&mut self, asked: Vec<Agreement>, answers: Result<Vec<EpochAnswer>>) {
        let answers = match answers {
            Ok(answers) => answers,
            Err(error) => {
                for Agreement { partition, generation, .. } in asked {
                    self.try_again(&partition, generation, &error.to_string());
                }
                return;
            }
        };
        for (Agreement { partition, generation, leader_epoch }, answer) in asked.into_iter().zip(answers) {
            if answer.code != 0 && !CANNOT_TELL.contains(&answer.code) {
                let reason = format!("its leader does not tell its epochs: {}", code_name(answer.code));
                self.try_again(&partition, generation, &reason);
                continue;
            }
            let Some(run) = self.current(&partition, generation) else { continue };
            run.agreed = Some(leader_epoch);
            run.stage = Stage::Waiting;
            let Some(position) = run.position else { continue };
            let lost = run.lost.take().map(|end| (-1, end));
            let parted = match answer {
                EpochAnswer { code: 0, epoch, end } if epoch >= 0 && end >= 0 => {
                    parting(position, run.last_epoch, epoch, end)
                }
                _ => lost,
            };
            if let Some((epoch, end)) = parted {
                self.diverged(&partition, generation, epoch, end);
            }
        }
    }
}

/// Says where a log parts from what is held up to `position`, the last of it of `last_epoch`, when the newest of its
/// epochs that is not above that one is `epoch` and ends at `end`; `None` where it does not part. As brokers judge it.
fn parting(position: Offset, last_epoch: i32, epoch: i32, end: Offset) -> Option<(i32, Offset)> {
    (epoch < last_epoch || end < position).then_some((epoch, end))
}

impl Told {
    fn add(&mut self, at: At, answer: OffsetAnswer) {
        if answer.code != 0 {
            self.code = answer.code;
            return;
        }
        match at {
            At::Earliest => self.earliest = Some(answer.offset),
            At::Latest => self.latest = Some(answer.offset),
            At::Time(_) => self.time = Some(answer.offset),
        }
    }
}

/// Waits for the answer of a leader, but not for as long as for one that nobody else could give.
async fn in_time<T>(answer: impl Future<Output = Result<T>>) -> Result<T> {
    let late = || Error::transient(format!("its leader does not answer within {} s", ANSWER_WITHIN.as_secs()));
    timeout(ANSWER_WITHIN, answer).await.unwrap_or_else(|_| Err(late()))
}

/// Says what it means that a leader with the log `[earliest, latest)` has nothing at `position`. Only a later start
/// is a gap: an end before the position means that the source lost what the archive holds.
fn range(position: Offset, earliest: Offset, latest: Offset) -> Range {
    if earliest > position {
        Range::Gap(earliest)
    } else if latest < position {
        Range::Lost(latest)
    } else {
        Range::Within
    }
}

/// Makes the question whether a leader's log agrees with what is held, the last of it of `epoch`.
pub(super) fn agreement(
    partition: &Partition,
    generation: u32,
    leader_epoch: i32,
    epoch: i32,
) -> (Agreement, EpochQuery) {
    let asked = Agreement { partition: partition.clone(), generation, leader_epoch };
    (asked, EpochQuery { partition: partition.clone(), leader_epoch, epoch })
}

/// Makes a question of a partition, and what is kept of it until it is answered.
pub(super) fn question(partition: &Partition, generation: u32, leader_epoch: i32, at: At) -> (Asked, OffsetQuery) {
    let asked = Asked { partition: partition.clone(), generation, at };
    (asked, OffsetQuery { partition: partition.clone(), leader_epoch, at })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_parts_where_the_newest_epoch_that_both_have_ends() {
        assert_eq!(parting(160, 0, 0, 160), None);
        assert_eq!(parting(160, 3, 3, 900), None);
        assert_eq!(parting(160, 0, 0, 100), Some((0, 100)), "it has gone on since in a newer epoch, however far");
        assert_eq!(parting(160, 3, 2, 900), Some((2, 900)), "it never had epoch 3");
    }

    #[test]
    fn only_a_later_log_start_makes_a_gap() {
        assert_eq!(range(5, 9, 20), Range::Gap(9));
        assert_eq!(range(5, 0, 4), Range::Lost(4));
        assert_eq!(range(5, 0, 5), Range::Within);
        assert_eq!(range(5, 5, 5), Range::Within);
    }
}
