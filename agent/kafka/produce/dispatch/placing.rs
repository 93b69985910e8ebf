//! Who leads: a look at the cluster for all partitions that seek their leader, and what follows from it.

use std::collections::HashMap;

use tokio::time::Instant;

use super::{Dispatch, NO_CODE};
use crate::error::{Error, Result};
use crate::kafka::client::{Metadata, TopicMetadata};
use crate::kafka::code_name;
use crate::kafka::produce::lane::State;
use crate::kafka::produce::link::{Told, Way};
use crate::kafka::produce::verdict::{self, TOPIC_AUTHORIZATION_FAILED, UNKNOWN_TOPIC_OR_PARTITION};
use crate::record::Partition;

/// What the cluster's metadata say of a partition.
enum Place {
    Led(i32),
    /// Nobody leads it now, and why.
    Nobody(String),
    /// It does not seem to be there, and why.
    Nowhere(String),
    Refused(i16),
}

impl<T: Send + 'static> Dispatch<T> {
    /// Begins a look at the cluster where one is due.
    pub(super) fn look_up(&mut self, now: Instant) {
        if self.looking || self.look_not_before.is_some_and(|at| at > now) {
            return;
        }
        let is_due = |at: &usize| matches!(self.lanes[*at].state, State::Seeking(at) if at <= now);
        if !self.look_due && !self.seeking.iter().any(is_due) {
            return;
        }
        (self.looking, self.look_due) = (true, false);
        let open = self.lanes.iter().filter(|lane| !matches!(lane.state, State::Over(_)));
        let mut topics: Vec<String> = open.map(|lane| lane.partition.topic.to_string()).collect();
        topics.sort_unstable();
        topics.dedup();
        let (client, tell) = (self.client.clone(), self.tell.clone());
        self.tasks.spawn(async move {
            let answer = client.metadata(Some(&topics)).await;
            let _ = tell.send(Told::Looked(now, answer));
        });
    }

    /// Hears what a look at the cluster that began then has found.
    pub(super) fn looked(&mut self, began: Instant, found: Result<Metadata>) {
        self.looking = false;
        let now = Instant::now();
        let metadata = match found {
            Ok(metadata) => metadata,
            Err(error) => return self.cannot_look(&error, now),
        };
        self.looks.reset();
        self.look_not_before = None;
        self.right_again("cluster");
        let topics: HashMap<&str, &TopicMetadata> =
            metadata.topics.iter().map(|topic| (topic.name.as_str(), topic)).collect();
        self.leave_the_late(&topics);
        let due = |at: &usize| matches!(self.lanes[*at].state, State::Seeking(at) if at <= began);
        let due: Vec<usize> = self.seeking.iter().copied().filter(due).collect();
        for at in due {
            let place = place(&self.lanes[at].partition, &topics);
            self.place(at, place, now);
        }
        self.forget_links();
    }

    fn cannot_look(&mut self, error: &Error, now: Instant) {
        if error.retryable() {
            self.look_not_before = Some(now + self.looks.wait());
            self.troubles.note("cluster".to_owned(), error.to_string(), now);
            return;
        }
        // The cluster is another one, or too old: nothing is sent there.
        for at in std::mem::take(&mut self.seeking) {
            self.refuse(at, NO_CODE, Error::failed(error.to_string()), now);
        }
    }

    fn place(&mut self, at: usize, place: Place, now: Instant) {
        let lane = &mut self.lanes[at];
        let why = match place {
            Place::Led(broker) => {
                // Nothing of it is on its way: it may get another connection than before.
                let dealt = self.dealt.entry(broker).or_default();
                lane.state = State::Led(Way { broker, number: *dealt % self.settings.connections.max(1) });
                *dealt += 1;
                self.seeking.remove(&at);
                self.queue(at);
                return;
            }
            Place::Refused(code) => {
                let error = verdict::refused(&lane.partition, code, None);
                return self.refuse(at, code, error, now);
            }
            Place::Nowhere(why) => {
                if lane.unsettled(now) >= self.settings.settle {
                    let error = verdict::gone(&lane.partition, &why);
                    return self.refuse(at, UNKNOWN_TOPIC_OR_PARTITION, error, now);
                }
                why
            }
            Place::Nobody(why) => {
                lane.seek_later(now);
                why
            }
        };
        // What nobody waits for is no trouble.
        if !lane.is_empty() {
            let subject = lane.partition.to_string();
            self.troubles.note(subject, why, now);
        }
    }

    /// Gives up connections on which an answer is late, where another broker leads by now what is on its way there.
    fn leave_the_late(&mut self, topics: &HashMap<&str, &TopicMetadata>) {
        let moved = |way: Way, lane: usize| matches!(place(&self.lanes[lane].partition, topics), Place::Led(leader) if leader != way.broker);
        let left: Vec<Way> = self
            .links
            .iter()
            .filter(|(way, link)| link.late_lanes().any(|lane| moved(**way, lane)))
            .map(|(way, _)| *way)
            .collect();
        for way in left {
            let error = format!("{way} does not answer, and another one leads what it was sent");
            self.lost(way, &Error::transient(error));
        }
    }
}

/// Finds a partition's place.
fn place(partition: &Partition, topics: &HashMap<&str, &TopicMetadata>) -> Place {
    let Some(topic) = topics.get(&*partition.topic) else { return Place::Nowhere("there is no such topic".into()) };
    match topic.code {
        0 => {}
        UNKNOWN_TOPIC_OR_PARTITION => return Place::Nowhere("there is no such topic".into()),
        TOPIC_AUTHORIZATION_FAILED => return Place::Refused(TOPIC_AUTHORIZATION_FAILED),
        code => return Place::Nobody(code_name(code)),
    }
    if !partition.topic_id.is_none() && topic.topic_id != partition.topic_id {
        return Place::Nowhere(format!("the topic of that name has the id {} now", topic.topic_id));
    }
    let Some(told) = topic.partitions.iter().find(|told| told.index == partition.index) else {
        return Place::Nowhere(format!("the topic has {} partitions", topic.partitions.len()));
    };
    match told.leader {
        leader if leader >= 0 => Place::Led(leader),
        _ => Place::Nobody("it has no leader".into()),
    }
}
