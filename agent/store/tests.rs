//! The suite that every kind of store passes; on S3 it runs with the integration tests.

use super::*;

/// Every kind of store passes the same suite.
async fn creates_once_and_whole(store: Store) {
    store.prepare().await.expect("a writable store");
    assert_eq!(store.create("a/b/x", Bytes::from_static(b"one")).await.expect("created"), Creation::Created);
    assert_eq!(store.create("a/b/x", Bytes::from_static(b"two")).await.expect("refused"), Creation::Exists);
    assert_eq!(store.read("a/b/x").await.expect("read").as_deref(), Some(&b"one"[..]));
    assert_eq!(store.read_range("a/b/x", 1..3).await.expect("read"), &b"ne"[..]);
    assert_eq!(store.read("a/none").await.expect("read"), None);
    let mut dropped = store.upload("a/b/y").await.expect("begun");
    dropped.write(Bytes::from_static(b"half")).await.expect("written");
    drop(dropped);
    let names = |listed: Vec<Listed>| listed.into_iter().map(|entry| entry.name).collect::<Vec<_>>();
    assert_eq!(names(store.list("a/b/").await.expect("listed")), ["x"]);
    assert_eq!(names(store.list("a/").await.expect("listed")), ["b"]);
    assert!(store.list("none/").await.expect("listed").is_empty());
    let _ = store.create("a/b@c/z", Bytes::new()).await.expect("created");
    assert_eq!(names(store.list_from("a/", "b@").await.expect("listed")), ["b@c"]);
    assert_eq!(names(store.within("a").list("b/").await.expect("listed")), ["x"]);
    if let Some(listed) = store.list_after("a/", "b").await.expect("listed") {
        assert_eq!(names(listed), ["b@c"]);
        assert_eq!(names(store.list_after("a/", "a").await.expect("listed").expect("as before")), ["b", "b@c"]);
        assert!(store.list_after("none/", "").await.expect("listed").expect("as before").is_empty());
    }
}

#[tokio::test]
async fn a_folder_creates_once_and_whole() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::open(folder.path().to_str().expect("UTF-8")).expect("opened");
    creates_once_and_whole(store).await;
    assert_eq!(std::fs::read_dir(folder.path().join(".tmp")).expect("listed").count(), 0);
}

#[tokio::test]
async fn memory_creates_once_and_whole() {
    creates_once_and_whole(Store::open("memory://store-suite").expect("opened")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_32_writers_of_one_key_one_wins() {
    let folder = tempfile::tempdir().expect("a folder");
    for path in [folder.path().to_str().expect("UTF-8"), "memory://store-race"] {
        let store = Store::open(path).expect("opened");
        let writers: Vec<_> = (0..32_u8)
            .map(|n| {
                let store = store.clone();
                tokio::spawn(async move { (n, store.create("key", Bytes::from(vec![n; 1000])).await) })
            })
            .collect();
        let mut winners = Vec::new();
        for writer in writers {
            let (n, creation) = writer.await.expect("no panic");
            if creation.expect("an answer") == Creation::Created {
                winners.push(n);
            }
        }
        assert_eq!(winners.len(), 1, "{path}");
        assert_eq!(store.read("key").await.expect("read").as_deref(), Some(&vec![winners[0]; 1000][..]));
    }
}

#[test]
fn a_folder_and_a_memory_take_no_parameters() {
    for path in ["file:///backups?secret_key=hidden", "memory://name?x=y", "s3:/bucket/p?secret_key=hidden"] {
        let error = Store::open(path).err().unwrap_or_else(|| panic!("{path} is taken"));
        assert_eq!(error.exit_code(), 2);
        assert!(!error.to_string().contains("hidden"), "{error}");
    }
}
