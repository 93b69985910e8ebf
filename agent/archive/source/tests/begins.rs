//! Where chains begin and end, and what of it cannot be read.

use super::*;

#[tokio::test]
async fn a_chain_that_begins_behind_its_begin_has_a_hole_and_one_that_begins_before_is_told() {
    for (begin, findings) in [(5, vec![]), (2, vec![(What::Hole, Some((2, 5)))]), (9, vec![(What::EarlyBegin, None)])] {
        let fixture = Fixture::new("b").await;
        let partition = partition("t", "_", 0);
        assert_eq!(fixture.archive.keep_begin(&partition, begin).await.expect("kept"), begin);
        fixture.segment("t", 0, 5, SegmentKind::First, &[fixture.batch(5, 5)]).await;
        let (segments, found) = fixture.walk().await;
        assert_eq!((firsts(&segments), whats(&found)), (vec![5], findings), "begin {begin}");
    }
}

#[tokio::test]
async fn a_begin_without_segments_is_no_finding_and_a_damaged_one_is() {
    let fixture = Fixture::new("b").await;
    let _ = fixture.archive.keep_begin(&partition("t", "_", 0), 7).await.expect("kept");
    assert_eq!(fixture.walk().await.1, []);
    let cut = |_: &str, bytes: Bytes| Some(bytes.slice(..9));
    let broken = fixture.but(cut).await;
    assert_eq!(whats(&broken.walk().await.1), [(What::DamagedObject, None)]);
    let error = broken.archive.tip(&partition("t", "_", 0)).await.expect_err("nothing is begun elsewhere");
    assert!(error.to_string().contains("begin.json"), "{error}");
}

#[tokio::test]
async fn debris_two_deep_does_not_hide_the_tip() {
    let fixture = Fixture::new("b").await;
    fixture.segment("t", 0, 0, SegmentKind::First, &[fixture.batch(0, 5)]).await;
    fixture.segment("t", 0, 5, SegmentKind::Data, &[fixture.batch(5, 45)]).await;
    for stray in [12, 20, 30] {
        fixture.segment("t", 0, stray, SegmentKind::Data, &[fixture.batch(stray, 3)]).await;
    }
    let tip = fixture.archive.tip(&partition("t", "_", 0)).await.expect("a tip");
    assert_eq!((tip.next, tip.is_empty), (Some(50), false));
    let (segments, findings) = fixture.walk().await;
    assert_eq!((firsts(&segments), findings.len()), (vec![0, 5], 3));
}

#[tokio::test]
async fn a_hole_before_the_last_segment_does_not_move_the_tip() {
    let fixture = three().await.but(without("/t/", "010.log")).await;
    assert_eq!(fixture.archive.tip(&partition("t", "_", 0)).await.expect("a tip").next, Some(20));
}

#[tokio::test]
async fn an_unreadable_topic_is_told_beside_the_others() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = Store::open(folder.path().to_str().expect("UTF-8")).expect("opened");
    let archive = Archive::create(&root, "b", None).await.expect("created");
    std::fs::create_dir_all(folder.path().join("b/topics/sound/_/0")).expect("made");
    std::fs::create_dir_all(folder.path().join("b/topics/strange")).expect("made");
    // A link to nothing cannot be looked at.
    std::os::unix::fs::symlink("nowhere", folder.path().join("b/topics/strange/_")).expect("linked");
    let timelines = timelines(&archive).await.expect("the others are listed");
    let read: Vec<_> = timelines.iter().map(|timeline| (&*timeline.topic, timeline.object.is_ok())).collect();
    assert_eq!(read, [("sound", true), ("strange", false)]);
    let finding = Finding::of_object(&archive, &timelines[1]).expect("a finding");
    assert_eq!(finding.what, What::Unchecked);
}
