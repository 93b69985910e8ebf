//! What somebody brings back from a copy between the plan and its performance.

use super::*;

/// Replaces an object by one of the same size, then performs `plan`; it must fail, and leave the object.
async fn refused(archive: &Archive, plan: &Plan, key: &str, bytes: Bytes) {
    let store = archive.store();
    assert_eq!(store.read(key).await.expect("read").map(|held| held.len()), Some(bytes.len()));
    store.delete(key).await.expect("deleted");
    let _ = store.create(key, bytes.clone()).await.expect("created");
    let error = perform(archive, plan, |_| {}).await.expect_err("it changed");
    assert!(error.kind() == Kind::Fenced && error.to_string().contains(key), "{error}");
    assert_eq!(store.read(key).await.expect("read"), Some(bytes));
}

fn flipped(bytes: &Bytes, at: usize) -> Bytes {
    let mut bytes = bytes.to_vec();
    bytes[at] ^= 1;
    bytes.into()
}

#[tokio::test]
async fn debris_that_has_other_bytes_than_were_planned_is_not_deleted() {
    for end in [".log", ".index"] {
        let fixture = three().await;
        fixture.segment("t", 0, 4, SegmentKind::Data, &[fixture.batch(4, 3)]).await;
        let (archive, plan) = super::super::plan(&fixture.root, "b", Options::default()).await.expect("planned");
        assert_eq!(does(&plan), ["delete debris"]);
        let objects = objects(&archive).await;
        let is_it = |key: &&String| key.contains("00000004.") && key.ends_with(end);
        let key = objects.keys().find(is_it).expect("it is there");
        refused(&archive, &plan, key, flipped(&objects[key], 15)).await;
    }
}

#[tokio::test]
async fn a_damaged_sidecar_or_catalog_that_was_brought_back_is_not_deleted() {
    let fixture = many().await;
    for name in ["00000100.", "1/00000000000000000060-"] {
        let key = objects(&fixture.archive).await.into_keys().find(|key| key.contains(name) && !key.ends_with(".log"));
        let key = key.expect("it is there");
        let damaged = fixture.but(|one, bytes| Some(if one == key { flipped(&bytes, 20) } else { bytes })).await;
        let (archive, plan) = super::super::plan(&damaged.root, "b", Options::default()).await.expect("planned");
        let sound = objects(&fixture.archive).await[&key].clone();
        refused(&archive, &plan, &key, sound).await;
        assert_eq!(verdict(&damaged).await, 0);
    }
}

#[tokio::test]
async fn a_log_that_was_brought_back_is_not_replaced_and_what_was_made_for_it_goes() {
    let fixture = three().await;
    let key = format!("{FOLDER}{}", layout::log(0));
    let sound = objects(&fixture.archive).await[&key].clone();
    let damaged = fixture.but(|one, bytes| {
        let last = bytes.len() - 1;
        Some(if one == key { flipped(&bytes, last) } else { bytes })
    });
    let damaged = damaged.await;
    let (archive, plan) = super::super::plan(&damaged.root, "b", ACCEPTING).await.expect("planned");
    assert_eq!(does(&plan), ["replace log"]);
    refused(&archive, &plan, &key, sound).await;
    let _ = repaired(&damaged, DEEP).await;
    let [before, after] = [objects(&fixture.archive).await, objects(&damaged.archive).await];
    let of_topics = |(key, _): &(&String, &Bytes)| key.starts_with(layout::TOPICS);
    assert!(before.iter().filter(of_topics).eq(after.iter().filter(of_topics)), "{:?}", after.keys());
}
