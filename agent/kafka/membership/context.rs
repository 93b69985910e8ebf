//! What librdkafka calls: assignments, statistics, errors, outcomes of commits, its log.
//!
//! All of it runs in `poll` on the membership's thread. No lock is held while librdkafka or the owner is called.

use std::sync::{Arc, PoisonError};
use std::time::Instant;

use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext, RebalanceProtocol};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::RDKafkaRespErr;

use super::holdings::Name;
use super::standing::Statistics;
use super::{Phase, Shared, Told, commit};

/// What librdkafka calls.
pub(super) struct Context {
    shared: Arc<Shared>,
}

/// How a rebalance is to be gone through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// The owner closes what is revoked, and we wait for it.
    Orderly,
    /// The partitions are lost, or the consumer is broken: they are read on until the next assignment.
    Lost,
    /// The owner is gone: nobody is told.
    Leaving,
}

impl Context {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Takes partitions over: librdkafka is given them without offsets, and pauses them at once, so that it never
    /// fetches. Pausing before fails; offsets would let one Fetch out.
    fn assign(&self, consumer: &BaseConsumer<Self>, list: &TopicPartitionList) {
        let taken = match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => consumer.incremental_assign(list),
            _ => consumer.assign(list),
        };
        let taken = taken.and_then(|()| if list.count() > 0 { consumer.pause(list) } else { Ok(()) });
        if let Err(error) = taken {
            self.broken(&error);
            return;
        }
        let given = names(list);
        let (new, strays, owned) = {
            let mut state = self.shared.lock();
            let (new, strays) = state.holdings.assign(given);
            (new, strays, state.holdings.owned())
        };
        self.count_assignment(owned);
        let group = &self.shared.group_id;
        tracing::info!("group \"{group}\": {owned} partitions are ours, {} of them new", new.len());
        self.gone(strays);
        if !new.is_empty() {
            (self.shared.told)(Told::Assigned(new));
        }
    }

    /// Gives partitions back, closed and committed.
    fn revoke(&self, consumer: &BaseConsumer<Self>, list: &TopicPartitionList) {
        let lost = consumer.assignment_lost();
        let manner = match self.shared.lock().phase {
            Phase::Member if lost => Manner::Lost,
            Phase::Member => Manner::Orderly,
            Phase::Broken => Manner::Lost,
            Phase::Leaving | Phase::Left => Manner::Leaving,
        };
        let revoked = names(list);
        let group = &self.shared.group_id;
        match manner {
            Manner::Orderly if !revoked.is_empty() => {
                tracing::info!("group \"{group}\": {} partitions go to other members", revoked.len());
                self.close(&revoked);
            }
            Manner::Lost if !revoked.is_empty() => {
                tracing::warn!(
                    "group \"{group}\": the membership of {} partitions is lost; they are captured on until the group \
                     says who has them",
                    revoked.len()
                );
                self.shared.lock().holdings.lose(Some(&revoked));
            }
            _ => {}
        }
        let due = self.shared.lock().holdings.due(Some(&revoked));
        commit(consumer, &due);
        if manner != Manner::Lost {
            self.shared.lock().holdings.let_go(&revoked);
        }
        self.count_assignment(self.shared.lock().holdings.owned());
        let given_back = match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => consumer.incremental_unassign(list),
            _ => consumer.unassign(),
        };
        if let Err(error) = given_back {
            self.broken(&error);
        }
    }

    /// Has the owner close partitions, and waits for it as long as the group may.
    fn close(&self, revoked: &[Name]) {
        self.shared.lock().holdings.revoke(revoked);
        (self.shared.told)(Told::Revoked { partitions: revoked.to_vec(), lost: false });
        let within = self.shared.release_within;
        let closing = |state: &mut super::State| state.holdings.closing() > 0 && state.phase == Phase::Member;
        let waited = self.shared.changed.wait_timeout_while(self.shared.lock(), within, closing);
        let (state, late) = waited.unwrap_or_else(PoisonError::into_inner);
        if late.timed_out() {
            let (group, left, within_s) = (&self.shared.group_id, state.holdings.closing(), within.as_secs_f64());
            tracing::warn!(
                "group \"{group}\": {left} revoked partitions are not closed within {within_s} s (half of \
                 max.poll.interval.ms): they are given back all the same; the archive keeps two writers apart"
            );
        }
    }

    /// Tells of partitions that were lost and did not come back.
    fn gone(&self, strays: Vec<Name>) {
        if !strays.is_empty() {
            (self.shared.told)(Told::Revoked { partitions: strays, lost: true });
        }
    }

    fn broken(&self, error: &KafkaError) {
        self.shared.lock().phase.break_unless_leaving();
        self.shared.stand(|standing| standing.broken(&error.to_string()));
    }

    fn count_assignment(&self, owned: usize) {
        metrics::gauge!("kafka_backup_group_partitions", "group" => self.shared.group_id.clone()).set(owned as f64);
    }
}

impl ClientContext for Context {
    /// Only asked where tokens are said at all.
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    /// Gives librdkafka the tokens that the wire client has: they come from one place. It asks again some seconds after an
    /// error.
    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        let token = self.shared.security.token_now()?;
        let life = token.expires.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Ok(OAuthToken {
            token: token.text.clone(),
            principal_name: token.subject.clone(),
            lifetime_ms: i64::try_from(life.as_millis()).unwrap_or(i64::MAX),
        })
    }

    /// Says what librdkafka logs only to who asks for it: what matters of it is told as trouble, and that a broker is
    /// away the wire client says too.
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(target: "librdkafka", ?level, "{facility}: {message}");
    }

    fn stats_raw(&self, statistics: &[u8]) {
        let statistics: Statistics = match serde_json::from_slice(statistics) {
            Ok(statistics) => statistics,
            Err(error) => return tracing::debug!("statistics of librdkafka cannot be read: {error}"),
        };
        self.shared.stand(|standing| standing.hear(&statistics, Instant::now()));
        self.shared.lock().unwell = !statistics.is_well();
        // An assignment ends what is lost; should none be told although the group has agreed, this does.
        if statistics.is_well() && self.shared.lock().phase == Phase::Member {
            let strays = self.shared.lock().holdings.strays();
            self.gone(strays);
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", "{error}: {reason}");
        self.shared.lock().unwell = true;
        if let Some(code) = error.rdkafka_error_code() {
            self.shared.stand(|standing| standing.error(code, reason));
        }
    }
}

impl ConsumerContext for Context {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, event: RDKafkaRespErr, list: &mut TopicPartitionList) {
        match event {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => self.assign(consumer, list),
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__REVOKE_PARTITIONS => self.revoke(consumer, list),
            // rdkafka hands over no others.
            _ => tracing::warn!("group \"{}\": an unknown rebalance event", self.shared.group_id),
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, offsets: &TopicPartitionList) {
        let mut state = self.shared.lock();
        for element in offsets.elements() {
            let failed = element.error().err().or_else(|| result.as_ref().err().cloned());
            if let Some(error) = failed {
                let (topic, partition) = (element.topic(), element.partition());
                tracing::debug!("the offset of {topic}-{partition} is not committed, a hint only: {error}");
                state.holdings.uncommitted(topic, partition);
            }
        }
    }
}

/// Returns how much librdkafka shall log: what is not written need not be made.
pub(super) fn log_level() -> RDKafkaLogLevel {
    if tracing::enabled!(target: "librdkafka", tracing::Level::DEBUG) {
        RDKafkaLogLevel::Debug
    } else {
        RDKafkaLogLevel::Emerg
    }
}

fn names(list: &TopicPartitionList) -> Vec<Name> {
    list.elements().iter().map(|element| (element.topic().to_owned(), element.partition())).collect()
}
