//! What a broker's answer to a batch means: an error code becomes one of six verdicts. Pure.

use crate::error::{Error, Kind};
use crate::kafka::{UNKNOWN_TOPIC_ID, code_name};
use crate::record::{Offset, Partition};

/// MESSAGE_TOO_LARGE: also our own answer to what no broker takes.
pub(super) const MESSAGE_TOO_LARGE: i16 = 10;
/// TOPIC_AUTHORIZATION_FAILED.
pub(super) const TOPIC_AUTHORIZATION_FAILED: i16 = 29;
/// UNKNOWN_TOPIC_OR_PARTITION.
pub(super) const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
/// Our own code where no broker gave one.
pub(super) const NO_CODE: i16 = -1;

const DUPLICATE_SEQUENCE_NUMBER: i16 = 46;

/// What is to be done about a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is in the log.
    Landed,
    /// The same bytes again, after a look at who leads.
    Again,
    /// As [`Verdict::Again`]; it may as well be that the topic has gone.
    Unsettled,
    /// A batch before it is missing: one that failed, or one that the log has lost.
    OutOfOrder,
    /// A younger process has the producer's id.
    Fenced,
    /// It will never be taken.
    Refused,
}

/// Judges an answer.
pub(super) fn judge(code: i16, base_offset: Offset) -> Verdict {
    match code {
        0 => Verdict::Landed,
        // One that landed before; where its offset is not told any more, what follows cannot be placed.
        DUPLICATE_SEQUENCE_NUMBER if base_offset >= 0 => Verdict::Landed,
        // LEADER_NOT_AVAILABLE, NOT_LEADER_OR_FOLLOWER, REQUEST_TIMED_OUT, BROKER_NOT_AVAILABLE, REPLICA_NOT_AVAILABLE,
        // NETWORK_EXCEPTION, NOT_ENOUGH_REPLICAS, the same AFTER_APPEND, KAFKA_STORAGE_ERROR, FENCED_LEADER_EPOCH,
        // UNKNOWN_LEADER_EPOCH, THROTTLING_QUOTA_EXCEEDED.
        5..=9 | 13 | 19 | 20 | 56 | 74 | 75 | 89 => Verdict::Again,
        // INCONSISTENT_TOPIC_ID.
        UNKNOWN_TOPIC_OR_PARTITION | UNKNOWN_TOPIC_ID | 103 => Verdict::Unsettled,
        // OUT_OF_ORDER_SEQUENCE_NUMBER, UNKNOWN_PRODUCER_ID.
        45 | 59 => Verdict::OutOfOrder,
        // INVALID_PRODUCER_EPOCH, PRODUCER_FENCED.
        47 | 90 => Verdict::Fenced,
        _ => Verdict::Refused,
    }
}

/// Makes the error of a process that another one has taken the place of.
pub(in crate::kafka) fn fenced(what: &str, code: i16) -> Error {
    Error::new(Kind::Fenced, format!("{what} answers {}: another process has taken over", code_name(code)))
        .hint("nothing more is sent from here; one process of a restore is enough")
}

/// Makes the error of a batch that is refused; `said` is the broker's own text.
pub(super) fn refused(partition: &Partition, code: i16, said: Option<&str>) -> Error {
    let (topic, index) = (&partition.topic, partition.index);
    let what = format!("topic \"{topic}\" partition {index} takes a batch no more: {}", code_name(code));
    let error = match said {
        Some(said) => Error::failed(format!("{what}, {said}")),
        None => Error::failed(what),
    };
    match hint(code, topic) {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// Makes the error of a topic that is not the one that was opened.
pub(super) fn gone(partition: &Partition, why: &str) -> Error {
    let Partition { topic, topic_id, index } = partition;
    Error::failed(format!("topic \"{topic}\" partition {index} of id {topic_id} cannot be written: {why}"))
        .hint("nothing more is sent to it; start anew when the topic is as it should be")
}

fn hint(code: i16, topic: &str) -> Option<String> {
    Some(match code {
        2 => "the batch was damaged on its way, or has a null key in a compacted topic".to_owned(),
        10 => format!("raise `max.message.bytes` of topic \"{topic}\""),
        18 => format!("raise `segment.bytes` of topic \"{topic}\""),
        29 => format!("allow WRITE on topic \"{topic}\" for this principal"),
        31 => "allow IDEMPOTENT_WRITE on the cluster for this principal".to_owned(),
        32 => format!(
            "widen `message.timestamp.before.max.ms` and `message.timestamp.after.max.ms` of topic \"{topic}\", and \
             set `message.timestamp.type` to CreateTime"
        ),
        44 => "the cluster has a policy that forbids it".to_owned(),
        45 | 46 | 59 => {
            "the target has lost what it had acknowledged, or forgotten who sent it: start again, so that the target's \
             tail is read"
                .to_owned()
        }
        76 => "the broker is too old for the batch's compression".to_owned(),
        87 => format!("the broker finds a record invalid; where topic \"{topic}\" is compacted, each needs a key"),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::TopicId;

    #[test]
    fn what_passes_is_tried_again_and_what_does_not_is_refused() {
        assert!([6, 7, 13, 19, 20, 56, 74].iter().all(|code| judge(*code, -1) == Verdict::Again));
        assert!([3, 100].iter().all(|code| judge(*code, -1) == Verdict::Unsettled));
        assert!([87, 32, 10, 18, 2, 76, 29, 53, 48, -1].iter().all(|code| judge(*code, -1) == Verdict::Refused));
        assert!([47, 90].iter().all(|code| judge(*code, -1) == Verdict::Fenced));
    }

    #[test]
    fn a_duplicate_has_landed_where_its_offset_is_told() {
        assert_eq!((judge(0, 7), judge(46, 7), judge(46, -1)), (Verdict::Landed, Verdict::Landed, Verdict::Refused));
    }

    #[test]
    fn a_refusal_names_the_partition_and_what_to_do() {
        let partition = Partition { topic: "orders".into(), topic_id: TopicId::NONE, index: 3 };
        let text = refused(&partition, 29, None).to_string();
        assert!(text.contains("\"orders\" partition 3") && text.contains("allow WRITE"), "{text}");
        assert_eq!(fenced("broker 3", 47).exit_code(), 11);
    }
}
