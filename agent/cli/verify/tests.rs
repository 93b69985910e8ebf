//! What `verify` says of sound and of damaged archives.

use bytes::Bytes;

use super::*;
use crate::archive::source::Fork;
use crate::archive::source::tests::{Fixture, three};
use crate::pipeline::Topic;
use crate::store::Store;

async fn verified(fixture: &Fixture) -> (Report, Result<()>) {
    let report = check(&fixture.archive).await.expect("looked at");
    let findings = report.topics.iter().flat_map(|topic| &topic.findings).map(|(_, finding)| finding);
    let verdict = chain::verdict(&report.backup_id, findings);
    (report, verdict)
}

async fn exit_code(fixture: &Fixture) -> u8 {
    verified(fixture).await.1.map_or_else(|error| error.exit_code(), |()| 0)
}

#[tokio::test]
async fn a_sound_archive_is_success_with_a_line_for_each_topic() {
    let (report, verdict) = verified(&three().await).await;
    verdict.expect("sound");
    let page = page(&report);
    let row = page.text().lines().last().expect("a row");
    assert!(row.starts_with("t      1           3         4        20       "), "{row}");
    assert!(row.ends_with("sound"), "{row}");
}

#[tokio::test]
async fn damage_exits_with_4_and_names_object_partition_and_offsets() {
    let flip = |key: &str, bytes: Bytes| {
        let mut bytes = bytes.to_vec();
        if key.ends_with("0010.log") {
            bytes[70] ^= 1;
        }
        Some(Bytes::from(bytes))
    };
    let fixture = three().await.but(flip).await;
    let (report, verdict) = verified(&fixture).await;
    assert_eq!(verdict.expect_err("damage").exit_code(), 4);
    let page = page(&report);
    let line = page.text().lines().last().expect("a finding");
    assert!(line.starts_with("t: partition 0: damaged log: offsets [10, 15): "), "{line}");
    assert!(line.ends_with("00000000000000000010.log)"), "{line}");
    assert_eq!(lines(&report).lines().count(), 2);
    assert_eq!(serde_json::to_value(data(&report)).expect("data")["findings"][0]["first_offset"], 10);
}

#[tokio::test]
async fn a_hole_exits_with_5_and_damage_beside_it_with_4() {
    let holed = three().await.but(|key, bytes| (!key.ends_with("0010.log")).then_some(bytes)).await;
    assert_eq!(exit_code(&holed).await, 5);
    let both = holed.but(|key, bytes| (!key.contains("0000.") || key.ends_with(".log")).then_some(bytes)).await;
    assert_eq!(exit_code(&both).await, 4);
}

#[test]
fn a_result_reads_well_in_the_plural() {
    let told = [(What::Hole, 3), (What::DamagedLog, 1), (What::NoSidecar, 2), (What::Unchecked, 2)];
    let told = told.map(|(what, count)| counted(what, count));
    assert_eq!(told, ["3 holes", "1 damaged log", "2 segments without a sidecar", "2 unchecked"]);
}

#[tokio::test]
async fn unfinished_work_at_the_tip_is_success_and_is_said() {
    let fixture = three().await.but(|key, bytes| (!key.ends_with("0015.log")).then_some(bytes)).await;
    let (report, verdict) = verified(&fixture).await;
    verdict.expect("no harm");
    assert!(page(&report).text().contains("sound, unfinished"));
}

#[tokio::test]
async fn a_damaged_topic_object_is_damage() {
    let fixture = Fixture::new("b").await;
    fixture.topic("t", "_", 1).await;
    let broken = fixture.but(|_, bytes| Some(bytes.slice(..bytes.len() / 2))).await;
    assert_eq!(exit_code(&broken).await, 4);
}

#[tokio::test]
async fn what_cannot_be_looked_at_is_no_success() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = Store::open(folder.path().to_str().expect("UTF-8")).expect("opened");
    let archive = Archive::create(&root, "b", None).await.expect("created");
    let topic = Topic {
        name: "t".into(),
        topic_id: "_".into(),
        partitions: 1,
        replication_factor: 1,
        configs: Some(Vec::new()),
    };
    archive.put_topic(&topic).await.expect("kept");
    // A file where the partition's folder should be: listing it fails.
    std::fs::write(folder.path().join("b/topics/t/_/0"), "").expect("written");
    let report = check(&archive).await.expect("the others are looked at");
    assert_eq!(report.topics[0].result(), "1 unchecked");
    let verdict = chain::verdict("b", report.topics[0].findings.iter().map(|(_, finding)| finding));
    assert_eq!(verdict.expect_err("not a success").exit_code(), 1);
}

/// Three segments, [0, 20), and a fork that goes on from offset 12.
async fn forked() -> Fixture {
    let fixture = three().await;
    fixture.fork_segment(Fork { epoch: 7, end: 12 }, &[fixture.batch(12, 3)]).await;
    fixture
}

#[tokio::test]
async fn a_fork_is_sound_and_says_what_the_source_had_lost() {
    let fixture = forked().await;
    let (report, verdict) = verified(&fixture).await;
    verdict.expect("sound");
    assert_eq!(report.topics[0].result(), "sound, 1 fork");
    let page = page(&report);
    let expected = "t: partition 0@7-12: fork: offsets [12, 20): the source had lost them; `0` holds them, `0@7-12` goes on \
                    from offset 12 with leader epoch 7 (";
    assert!(page.text().lines().last().is_some_and(|line| line.starts_with(expected)), "{}", page.text());
    let data = serde_json::to_value(data(&report)).expect("data");
    assert_eq!((&data["sound"], &data["topics"][0]["partitions"]), (&true.into(), &1.into()));
    assert_eq!(data["findings"][0]["partition"], "0@7-12");
}

#[tokio::test]
async fn a_fork_whose_parent_does_not_hold_what_it_shares_has_a_hole() {
    let short = forked().await.but(|key, bytes| (!key.contains("/0/00000000000000000010")).then_some(bytes)).await;
    let short = short.but(|key, bytes| (!key.contains("/0/00000000000000000015")).then_some(bytes)).await;
    let (report, verdict) = verified(&short).await;
    assert_eq!(verdict.expect_err("a hole").exit_code(), 5);
    assert!(page(&report).text().contains("0@7-12: hole: offsets [10, 12): the fork goes on from `0`"));
    let gone = forked().await.but(|key, bytes| (!key.contains("/0/")).then_some(bytes)).await;
    assert_eq!(exit_code(&gone).await, 5, "all of the parent is lost");
}

#[tokio::test]
async fn a_fork_that_does_not_begin_at_its_end_has_a_hole() {
    let fixture = three().await;
    let fork = Fork { epoch: 7, end: 12 };
    fixture.fork_segment_at(fork, 14, &[fixture.batch(14, 3)]).await;
    assert_eq!(exit_code(&fixture).await, 5);
}

#[tokio::test]
async fn a_fork_without_a_commit_is_unfinished_work() {
    let fixture =
        forked().await.but(|key, bytes| (!key.contains("@") || key.ends_with(".index")).then_some(bytes)).await;
    let (report, verdict) = verified(&fixture).await;
    verdict.expect("no harm");
    assert_eq!(report.topics[0].result(), "sound, unfinished");
}
