//! What is planned of an archive in memory, without a cluster.

use super::*;
use crate::archive::savepoint::{Archived, End, Name, Savepoint as Kept, State, Topic};
use crate::archive::sidecar::Kind as SegmentKind;
use crate::archive::source::tests::Fixture;
use crate::config::Config;
use crate::record::Timestamp;

fn restore(source: &str) -> Restore {
    let text = format!(
        "[[pipeline]]\nname = \"r\"\n[pipeline.source]\ntype = \"archive\"\nbackup_id = \"b\"\npath = \"memory://x\"\n\
         {source}\n[pipeline.sink]\ntype = \"kafka\"\nkafka = {{ \"bootstrap.servers\" = \"127.0.0.1:1\" }}\n"
    );
    let config = Config::parse("r.toml", &text, &|_| None).expect("a good configuration");
    config.restores.into_iter().next().expect("one restore")
}

/// Plans what is read, of all that is asked for.
async fn planned(fixture: &Fixture, source: &str) -> Result<(Vec<TopicPlan>, Vec<Hazard>)> {
    let restore = restore(source);
    let savepoint = Savepoint::find(&restore, &fixture.archive).await?;
    let cut = Cut::default();
    let mut making = Making { restore: &restore, archive: &fixture.archive, savepoint, cut, hazards: Vec::new() };
    let timelines = making.choose(source::timelines(&fixture.archive).await?)?;
    making.topics_lost(&timelines);
    let mut topics = Vec::new();
    for timeline in &timelines {
        topics.extend(making.topic(timeline).await?);
    }
    Ok((topics, making.hazards))
}

/// Keeps a savepoint at which the partitions of topics ended there, each on that chain.
async fn savepoint(fixture: &Fixture, ends: &[(&str, i32, Offset, &str)]) {
    let topics = ends.iter().map(|(topic, partition, high_watermark, chain)| Topic {
        topic: (*topic).to_owned(),
        topic_id: "_".to_owned(),
        partitions: vec![End {
            partition: *partition,
            high_watermark: *high_watermark,
            archived: Some(Archived { chain: (*chain).to_owned(), next: 0 }),
        }],
    });
    let state = State { topics: topics.collect(), ..State::default() };
    let time = Timestamp(1_700_000_000_000);
    fixture.savepoint(&Kept::full(Name::at(time), time, None, state)).await;
}

const NEWEST: &str = "savepoint = \"2030-01-01T00:00:00Z\"";

/// Returns the chains that are read of the first partition, with what is taken of each.
fn chains(topics: &[TopicPlan]) -> Vec<(&str, Offset, Offset)> {
    let of = &topics[0].partitions[0];
    of.chains.iter().map(|chain| (chain.chain.as_str(), chain.first, chain.next)).collect()
}

fn dangers(hazards: &[Hazard]) -> Vec<(Danger, &str)> {
    hazards.iter().map(|hazard| (hazard.danger, hazard.subject.as_str())).collect()
}

/// Offsets [0, 10) of a partition, of which the source then lost [5, 10): [5, 20) came in their place.
async fn forked() -> Fixture {
    let fixture = Fixture::new("b").await;
    fixture.topic("t", "_", 1).await;
    fixture.segment("t", 0, 0, SegmentKind::First, &[fixture.batch(0, 5), fixture.batch(5, 5)]).await;
    fixture.fork_segment(Fork { epoch: 3, end: 5 }, &[fixture.batch(5, 15)]).await;
    fixture
}

#[tokio::test]
async fn a_savepoint_from_before_a_fork_is_cut_on_the_chain_that_it_is_of() {
    let fixture = forked().await;
    savepoint(&fixture, &[("t", 0, 8, "0")]).await;
    let (topics, hazards) = planned(&fixture, NEWEST).await.expect("planned");
    assert_eq!((chains(&topics), dangers(&hazards)), (vec![("0", 0, 8)], vec![]));
    let fork = format!("{NEWEST}\nforks = [\"t-0@3-5\"]");
    let (_, hazards) = planned(&fixture, &fork).await.expect("planned");
    assert_eq!(dangers(&hazards), [(Danger::SavepointIncomplete, "t-0")], "the other one never was so then");
    let fixture = forked().await;
    savepoint(&fixture, &[("t", 0, 8, "0@3-5")]).await;
    let (topics, _) = planned(&fixture, NEWEST).await.expect("planned");
    assert_eq!(chains(&topics), [("0", 0, 5), ("0@3-5", 5, 8)]);
}

#[tokio::test]
async fn what_a_savepoint_names_and_the_archive_lacks_is_told() {
    let fixture = Fixture::new("b").await;
    fixture.topic("t", "_", 1).await;
    fixture.segment("t", 0, 0, SegmentKind::First, &[fixture.batch(0, 5)]).await;
    savepoint(&fixture, &[("gone", 0, 7, "0"), ("t", 3, 7, "3")]).await;
    let (_, hazards) = planned(&fixture, NEWEST).await.expect("planned");
    let told = [(Danger::SavepointIncomplete, "gone"), (Danger::SavepointIncomplete, "t-3")];
    assert_eq!(dangers(&hazards), told);
}

#[tokio::test]
async fn a_fork_whose_parent_is_lost_does_not_hide_that() {
    let whole = forked().await;
    let fixture = whole.but(|key, bytes| (!key.contains("/0/")).then_some(bytes)).await;
    // The partition is still named, by what nobody could read.
    fixture.create("topics/t/_/0/leftover", bytes::Bytes::from_static(b"x")).await;
    let (topics, hazards) = planned(&fixture, "").await.expect("planned");
    assert_eq!(chains(&topics), [("0@3-5", 5, 20)]);
    let details: Vec<_> = hazards.iter().filter(|hazard| hazard.danger == Danger::ChainBreak).collect();
    assert!(details.iter().any(|hazard| hazard.detail.contains("[0, 5)")), "{hazards:?}");
}

#[tokio::test]
async fn offsets_that_are_named_are_held_or_it_is_an_error() {
    let fixture = crate::archive::source::tests::three().await;
    fixture.topic("t", "_", 1).await;
    for (asked, is_held) in [("5..20", true), ("..20", true), ("5..", true), ("5..21", false), ("30..40", false)] {
        let planned = planned(&fixture, &format!("offsets = [\"t-0:{asked}\"]")).await;
        assert_eq!(planned.is_ok(), is_held, "{asked}");
        if let Err(error) = planned {
            let text = error.to_string();
            assert!(text.contains("source.offsets") && text.contains("t-0"), "{text}");
        }
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_told_also_where_nothing_that_can_lies_before_it() {
    let whole = Fixture::new("b").await;
    whole.topic("t", "_", 1).await;
    whole.segment("t", 0, 0, SegmentKind::First, &[whole.batch(0, 5)]).await;
    whole.segment("t", 0, 5, SegmentKind::Data, &[whole.batch(5, 5)]).await;
    let (topics, hazards) = planned(&whole, "").await.expect("planned");
    assert_eq!((chains(&topics), dangers(&hazards)), (vec![("0", 0, 10)], vec![]));
    let first = |key: &str| key.contains("00000000000000000000.") && key.ends_with(".index");
    let headless = whole.but(|key, bytes| (!first(key)).then_some(bytes)).await;
    let (_, hazards) = planned(&headless, "").await.expect("planned");
    assert!(dangers(&hazards).contains(&(Danger::ChainBreak, "t-0")), "{hazards:?}");
    let nothing = whole.but(|key, bytes| (!key.ends_with(".index")).then_some(bytes)).await;
    let (topics, hazards) = planned(&nothing, "").await.expect("planned");
    assert!(topics[0].partitions[0].range().is_empty());
    assert!(dangers(&hazards).contains(&(Danger::ChainBreak, "t-0")), "{hazards:?}");
    let (_, hazards) = planned(&headless, "offsets = [\"t-0:5..10\"]").await.expect("planned");
    assert_eq!(dangers(&hazards), [], "it is not asked for");
}

#[tokio::test]
async fn offsets_behind_the_end_of_a_savepoint_are_refused() {
    let fixture = forked().await;
    savepoint(&fixture, &[("t", 0, 8, "0")]).await;
    let error = planned(&fixture, &format!("{NEWEST}\noffsets = [\"t-0:8..9\"]")).await.expect_err("it ends at 8");
    assert!(error.to_string().contains("nothing was there at the savepoint: it ends at 8"), "{error}");
}
