//! Keeps topic objects: of each timeline one task at a time, which writes what was told last.
//!
//! The highest number holds, so two tasks in back-off must never race for it: the one with the older state could come
//! last. Retry: with back-off, each time with the newest state. Crash: what is lost is told again at the next start.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::mpsc;

use super::Failing;
use crate::archive::Archive;
use crate::pipeline::{Answer, Topic};

/// The timelines whose topic object is being kept, by name and id. Clones share them.
#[derive(Clone, Default)]
pub(super) struct Topics(Arc<Mutex<HashMap<(String, String), Asked>>>);

/// What shall be kept of a timeline.
struct Asked {
    latest: Topic,
    /// How many askers wait for an answer.
    times: usize,
}

impl Topics {
    /// Takes note of the newest state of a timeline; returns whether the caller has to [`Self::keep`] it, because
    /// nobody does yet.
    pub(super) fn ask(&self, topic: &Topic) -> bool {
        let mut asked = self.0.lock().expect("nobody panics while holding it");
        let Some(timeline) = asked.get_mut(&key(topic)) else {
            asked.insert(key(topic), Asked { latest: topic.clone(), times: 1 });
            return true;
        };
        let configs = topic.configs.clone().or_else(|| timeline.latest.configs.take());
        timeline.latest = Topic { configs, ..topic.clone() };
        timeline.times += 1;
        false
    }

    /// Writes the newest state of a timeline until it is kept, or hope is given up, and answers everybody who asked.
    pub(super) async fn keep(
        &self,
        archive: &Archive,
        mut topic: Topic,
        give_up_after: Option<Duration>,
        answers: &mpsc::UnboundedSender<Answer>,
    ) {
        let mut failing = Failing::default();
        let subject = format!("topic object of {}", topic.name);
        loop {
            let error = match archive.put_topic(&topic).await {
                Ok(()) => match self.end_unless_newer(&topic) {
                    Ok(times) => {
                        if failing.since.is_some() {
                            let _ = answers.send(Answer::Trouble { subject, reason: None });
                        }
                        return tell(answers, times);
                    }
                    Err(newer) => {
                        topic = newer;
                        continue;
                    }
                },
                Err(error) => error,
            };
            if give_up_after.is_some_and(|patience| !error.retryable() || failing.since().elapsed() >= patience) {
                tell(answers, self.end(&topic));
                let error = error.with("topic", &topic.name);
                let _ = answers.send(Answer::Failed { partition: None, error });
                return;
            }
            let _ = answers.send(Answer::Trouble { subject: subject.clone(), reason: Some(error.to_string()) });
            failing.since();
            tokio::time::sleep_until(failing.retry_at()).await;
            topic = self.latest(topic);
        }
    }

    /// Ends the keeping of a timeline, and returns how many wait for an answer; the newer state, where there is one. In
    /// one step: what is asked for after it finds nobody who keeps it.
    fn end_unless_newer(&self, kept: &Topic) -> Result<usize, Topic> {
        let mut asked = self.0.lock().expect("nobody panics while holding it");
        match asked.get(&key(kept)) {
            Some(timeline) if timeline.latest != *kept => Err(timeline.latest.clone()),
            _ => Ok(asked.remove(&key(kept)).map_or(0, |timeline| timeline.times)),
        }
    }

    /// Ends the keeping of a timeline whatever its state is, and returns how many wait for an answer.
    fn end(&self, topic: &Topic) -> usize {
        let ended = self.0.lock().expect("nobody panics while holding it").remove(&key(topic));
        ended.map_or(0, |timeline| timeline.times)
    }

    fn latest(&self, topic: Topic) -> Topic {
        let asked = self.0.lock().expect("nobody panics while holding it");
        asked.get(&key(&topic)).map_or(topic, |timeline| timeline.latest.clone())
    }
}

fn key(topic: &Topic) -> (String, String) {
    (topic.name.clone(), topic.topic_id.clone())
}

fn tell(answers: &mpsc::UnboundedSender<Answer>, times: usize) {
    for _ in 0..times {
        let _ = answers.send(Answer::TopicKept);
    }
}

#[cfg(test)]
mod tests {
    use crate::archive::sink::Sink;
    use crate::archive::sink::tests::{answer, archive, options};
    use crate::pipeline::{Answer, Sink as _, Topic};

    fn topic(partitions: i32) -> Topic {
        Topic { name: "orders".into(), topic_id: "_".into(), partitions, replication_factor: 1, configs: None }
    }

    #[tokio::test]
    async fn an_older_state_of_a_topic_never_comes_after_a_newer_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let (root, away) = (folder.path().join("mount"), folder.path().join("away"));
        let archive = archive(root.to_str().expect("UTF-8")).await;
        let mut sink = Sink::new(archive.clone(), options());
        std::fs::rename(&root, &away).expect("moved");
        sink.topic(topic(1));
        assert!(matches!(answer(&mut sink).await, Answer::Trouble { reason: Some(_), .. }));
        std::fs::rename(&away, &root).expect("moved");
        // The first one waits for its next try.
        sink.topic(topic(2));
        let mut kept = 0;
        while kept < 2 {
            match answer(&mut sink).await {
                Answer::TopicKept => kept += 1,
                Answer::Trouble { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        let (_, newest) = archive.topic("orders", "_").await.expect("read").expect("there");
        assert_eq!(newest.topic.partitions, 2);
        assert!(sink.topics.ask(&topic(3)), "nobody keeps it any more: the next state finds somebody");
    }
}
