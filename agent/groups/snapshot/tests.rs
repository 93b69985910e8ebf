use super::super::present::tests::{group, present};
use super::*;

/// Returns a snapshot of one group with an offset and an absence.
pub(in crate::groups) fn snapshot(description: &str) -> Snapshot {
    let present = present(2, &[("g", group("Empty", 0, &[(0, 7)]))]);
    let taken = Snapshot::of(&present, &[], description).expect("all is told");
    Snapshot { created_at: "2024-12-03T10:00:00Z".to_owned(), ..taken }
}

fn kept(snapshot: &Snapshot, at: usize) -> Vec<(String, i32, Option<Offset>)> {
    snapshot.groups[at].kept().map(|(topic, kept)| (topic.topic.clone(), kept.0, kept.1)).collect()
}

#[test]
fn offsets_metadata_and_absence_are_kept_and_read_back() {
    let mut now = group("Empty", 0, &[(1, 5)]);
    now.offsets.as_mut().expect("offsets").get_mut(&("t".to_owned(), 1)).expect("one").metadata = "mine".to_owned();
    let present = present(3, &[("a", group("Dead", 0, &[])), ("g", now)]);
    let also = [("a".to_owned(), "t".to_owned(), 2), ("g".to_owned(), "u".to_owned(), 0)];
    let mut taken = Snapshot::of(&present, &also, "before").expect("all is told");
    taken.id = "snapshot-20241203-100000".to_owned();
    assert_eq!(kept(&taken, 0), [("t".to_owned(), 2, None)], "a group that is not there");
    let absent = |topic: &str, partition| (topic.to_owned(), partition, None);
    let wanted = [absent("t", 0), ("t".to_owned(), 1, Some(5)), absent("t", 2), absent("u", 0)];
    assert_eq!(kept(&taken, 1), wanted);
    let read = Snapshot::decode(&taken.id, &taken.encode()).expect("sound");
    assert_eq!(read, taken);
    assert_eq!((read.offsets(), read.positions().groups["g"].offsets.len()), (1, 4));
    let committed: Vec<_> = read.positions().groups["g"].offsets.values().flatten().cloned().collect();
    assert_eq!((committed[0].offset, committed[0].metadata.as_str()), (5, "mine"));
    let error = Snapshot::decode("snapshot-20241203-100000-2", &taken.encode()).expect_err("another one's bytes");
    assert_eq!(error.exit_code(), 4, "{error}");
}

#[test]
fn a_group_that_cannot_be_read_fails_the_snapshot_and_a_share_group_is_named() {
    let unread = Now { offsets: Err("no authority".to_owned()), ..group("Empty", 0, &[]) };
    let error = Snapshot::of(&present(1, &[("g", unread)]), &[], "").expect_err("not all is told");
    assert!(error.exit_code() == 1 && error.to_string().contains("'g'"), "{error}");
    let share = Now { kind: "share".to_owned(), ..group("Stable", 1, &[]) };
    let taken = Snapshot::of(&present(1, &[("s", share)]), &[], "").expect("named");
    assert!(taken.groups[0].error.as_deref() == Some(SHARED) && taken.groups[0].offsets.is_empty());
}
