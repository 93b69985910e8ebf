//! What the newest savepoint covers besides what this agent captures: topics that the backup holds. Another agent of the
//! backup captures them, and does the same for ours.
//!
//! One that nobody captures any more is left out again: every savepoint would want of it what never comes, and none
//! would ever be complete. The archive tells: it has not reached what the cluster had a day ago, and nothing of the topic
//! was sealed since. An agent that was away for longer, or a topic behind a transaction that hangs, seems the same; as
//! soon as its agent runs it is in the savepoints again. One that this agent may not look at is named for as long as that
//! lasts: nobody can tell it whether the topic goes on.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::scope::Scope;
use crate::archive::savepoint::{End, Name, State, Topic};
use crate::archive::source::Place;
use crate::archive::{Archive, layout};
use crate::error::{Kind, Result};
use crate::record::{Partition, Timestamp, TopicId};

/// For how long nothing may come of a topic that goes on before it is left out. An agent that is away for a night must not
/// lose its topics; a week of savepoints that are not complete would be of no use to a restore.
const PATIENCE_MS: i64 = 24 * 3_600_000;

/// How often the archive is asked for that: it takes a few requests for each partition.
const WEIGH_EVERY: Duration = Duration::from_secs(3600);

/// How long that may take: a savepoint must not wait for long, and nothing is lost where it is not known.
const WEIGH_WITHIN: Duration = Duration::from_secs(30);

/// A topic by name and id.
pub(super) type Timeline = (String, TopicId);

/// What is known of the topics that others capture.
#[derive(Debug, Default)]
pub(super) struct Beside {
    /// Those that the archive is known to hold: it was asked for each of them once.
    held: BTreeSet<Timeline>,
    weighed: Option<Instant>,
}

impl Beside {
    /// Returns the topics of `state`, the newest savepoint's, that are not chosen by `scope` and that the backup holds and
    /// goes on with.
    pub(super) async fn topics(
        &mut self,
        archive: &Archive,
        scope: &Scope,
        state: &State,
    ) -> Result<BTreeSet<Timeline>> {
        let mut beside = BTreeSet::new();
        // Kafka's own topics are never captured but by name, so that it does not matter here which of them are.
        for timeline in timelines(state).filter(|(name, _)| !scope.holds_topic(name, false)) {
            if self.is_held(archive, &timeline).await? {
                beside.insert(timeline);
            }
        }
        // One of which everything is durable needs no question.
        let mut doubtful = beside.clone();
        doubtful.retain(|timeline| {
            state.topics.iter().any(|topic| is_behind(topic) && timeline_of(topic).as_ref() == Some(timeline))
        });
        if !doubtful.is_empty() && self.weighed.is_none_or(|weighed| weighed.elapsed() >= WEIGH_EVERY) {
            // Before it is asked: what fails or takes too long must not be asked again each time.
            self.weighed = Some(Instant::now());
            let asked = timeout(WEIGH_WITHIN, abandoned(archive, &doubtful, Timestamp::now()));
            for timeline in asked.await.unwrap_or(Ok(Vec::new()))? {
                tracing::info!(
                    topic = timeline.0,
                    "savepoints leave out a topic that no agent has archived anything of for a day, though it goes on"
                );
                beside.remove(&timeline);
            }
        }
        Ok(beside)
    }

    /// Returns whether the backup holds a topic.
    pub(super) async fn is_held(&mut self, archive: &Archive, timeline: &Timeline) -> Result<bool> {
        if !self.held.contains(timeline) {
            let folder = layout::timeline_folder(&timeline.0, timeline.1);
            if archive.store().list(&folder).await?.is_empty() {
                return Ok(false);
            }
            self.held.insert(timeline.clone());
        }
        Ok(true)
    }
}

/// Returns the topics that a savepoint tells of, with those that its maker might not look at.
pub(super) fn timelines(state: &State) -> impl Iterator<Item = Timeline> + '_ {
    let unread = state.topics_unread.iter().map(|topic| (&topic.topic, &topic.topic_id));
    let named = state.topics.iter().map(|topic| (&topic.topic, &topic.topic_id)).chain(unread);
    named.filter_map(|(name, topic_id)| Some((name.clone(), topic_id.parse().ok()?)))
}

/// Returns those of `topics` that nobody archives any more.
async fn abandoned(archive: &Archive, topics: &BTreeSet<Timeline>, now: Timestamp) -> Result<Vec<Timeline>> {
    let since = Timestamp(now.0.saturating_sub(PATIENCE_MS));
    let then = archive.savepoints().await?.into_iter().rfind(|name| *name <= Name::at(since));
    let Some(then) = then else { return Ok(Vec::new()) };
    let state = match archive.resolved_savepoint(then).await {
        Ok(Some((_, state))) => state,
        Ok(None) => return Ok(Vec::new()),
        // Whoever verifies tells of it; nothing is left out for it.
        Err(error) if error.kind() == Kind::Damaged => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut abandoned = Vec::new();
    for topic in &state.topics {
        let Some(timeline) = timeline_of(topic).filter(|timeline| topics.contains(timeline)) else { continue };
        if is_abandoned(archive, &timeline, &topic.partitions, since).await? {
            abandoned.push(timeline);
        }
    }
    Ok(abandoned)
}

/// Returns whether the archive has not reached `ends`, and nothing of the topic was sealed `since` then.
async fn is_abandoned(archive: &Archive, timeline: &Timeline, ends: &[End], since: Timestamp) -> Result<bool> {
    let mut is_behind = false;
    for end in ends {
        let partition = Partition { topic: timeline.0.as_str().into(), topic_id: timeline.1, index: end.partition };
        let held = match archive.tip(&partition).await {
            Ok(held) => held,
            // It tells nothing of who archives; its agent tells what is wrong with it.
            Err(error) if error.kind() == Kind::Damaged => return Ok(false),
            Err(error) => return Err(error),
        };
        if archive.last_sealed(&Place::new(partition, held.fork)).await?.is_some_and(|sealed| sealed >= since) {
            return Ok(false);
        }
        is_behind |= held.next.unwrap_or(0) < end.high_watermark;
    }
    Ok(is_behind)
}

/// Returns whether something of the topic was not durable when the savepoint was made, as far as was known.
fn is_behind(topic: &Topic<End>) -> bool {
    topic.partitions.iter().any(|end| end.archived.as_ref().map_or(0, |archived| archived.next) < end.high_watermark)
}

fn timeline_of(topic: &Topic<End>) -> Option<Timeline> {
    topic.topic_id.parse().ok().map(|topic_id| (topic.topic.clone(), topic_id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::savepoint::Savepoint;
    use crate::archive::savepoint::tests::{state, topic};
    use crate::archive::sidecar::Kind as SegmentKind;
    use crate::archive::source::tests::Fixture;

    /// When the fixture's first segment is sealed.
    const SEALED: i64 = 1_700_000_000_000;
    const HOUR: i64 = 3_600_000;

    /// An archive that holds ten records of the topic, of which a savepoint says that it had `end`.
    async fn archive(at: i64, end: i64) -> Fixture {
        let fixture = Fixture::new("b").await;
        fixture.topic("t", "_", 1).await;
        fixture.segment("t", 0, 0, SegmentKind::First, &[fixture.batch(0, 10)]).await;
        let state = State { topics: vec![topic("t", state(&[end]).topics.remove(0).partitions)], ..State::default() };
        let savepoint = Savepoint::full(Name::at(Timestamp(at)), Timestamp(at), None, state);
        let _ = fixture.archive.create_savepoint(savepoint.name, savepoint.encode()).await.expect("created");
        fixture
    }

    async fn is_left_out(fixture: &Fixture, now: i64) -> bool {
        let topics = BTreeSet::from([("t".to_owned(), TopicId::NONE)]);
        !abandoned(&fixture.archive, &topics, Timestamp(now)).await.expect("asked").is_empty()
    }

    #[tokio::test]
    async fn a_topic_that_goes_on_and_that_nobody_has_archived_for_a_day_is_left_out() {
        let fixture = archive(SEALED + HOUR, 20).await;
        assert!(!is_left_out(&fixture, SEALED + 24 * HOUR).await, "what was there a day ago nobody knows");
        assert!(is_left_out(&fixture, SEALED + 26 * HOUR).await);
        fixture.segment("t", 0, 10, SegmentKind::Data, &[fixture.batch(10, 10)]).await;
        assert!(!is_left_out(&fixture, SEALED + 26 * HOUR).await, "it has come to what was there");
    }

    #[tokio::test]
    async fn a_topic_that_is_idle_or_caught_up_with_slowly_stays() {
        assert!(!is_left_out(&archive(SEALED + HOUR, 10).await, SEALED + 90 * HOUR).await, "idle");
        assert!(!is_left_out(&archive(SEALED - 2 * HOUR, 99).await, SEALED + 23 * HOUR).await, "sealed lately");
    }
}
