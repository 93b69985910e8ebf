//! The store of the tests is one: it creates an object once, and fails as it is told.

use bytes::Bytes;
use kafka_backup::error::Result;
use kafka_backup::store::{Creation, Store};

use crate::support::block_on;
use crate::support::s3::{Fault, Lasting, Object, S3};

fn store(prefix: &str) -> Store {
    Store::open(&S3::shared().url(prefix)).expect("a URL")
}

/// Races `writers` for one key; each uploads `bytes`. Returns who won.
fn race(store: &Store, key: &str, writers: usize, bytes: usize) -> Vec<usize> {
    let write = |number: usize| {
        let (store, key) = (store.clone(), key.to_owned());
        async move {
            let mut upload = store.upload(&key).await?;
            upload.write(vec![number as u8; bytes].into()).await?;
            upload.finish().await
        }
    };
    block_on(async {
        let writes: Vec<_> = (0..writers).map(|number| tokio::spawn(write(number))).collect();
        let mut won = Vec::new();
        for (number, write) in writes.into_iter().enumerate() {
            match write.await.expect("a writer ends").expect("the store answers") {
                Creation::Created => won.push(number),
                Creation::Exists => {}
            }
        }
        won
    })
}

#[test]
fn of_many_writers_that_create_an_object_of_the_test_store_one_wins() {
    let (s3, prefix) = (S3::shared(), "race");
    let store = store(prefix);
    for (key, writers, bytes) in [("small.log", 32, 1000), ("large.log", 4, 11 << 20)] {
        let won = race(&store, key, writers, bytes);
        assert_eq!(won.len(), 1, "{key}: {won:?}");
        let held = std::fs::read(s3.folder(prefix).join(key)).expect("the object is a file");
        assert!(held.len() == bytes && held.iter().all(|byte| usize::from(*byte) == won[0]), "the winner's bytes");
        assert_eq!(race(&store, key, 2, bytes), [] as [usize; 0], "it is there");
    }
    let requests = s3.requests(prefix);
    let count = |method: &str, object| requests.get(&(method.to_owned(), object)).copied().unwrap_or(0);
    assert_eq!((count("PUT", Object::Log), count("PUT", Object::Part), count("POST", Object::Log)), (34, 12, 6));
}

#[test]
fn the_test_store_fails_as_told_and_only_where_told() {
    let (s3, prefix) = (S3::shared(), "faulty");
    let store = store(prefix);
    let put = |key: &str| -> Result<Creation> { block_on(store.create(key, Bytes::from(vec![7; 1000]))) };
    s3.fail("faulty-not", Object::Log, Fault::Cut, Lasting::Ever);
    assert_eq!(put("1.log").expect("no fault there"), Creation::Created);
    s3.fail(prefix, Object::Sidecar, Fault::Unavailable, Lasting::Times(2));
    assert_eq!(put("1.index").expect("tried until it passed"), Creation::Created);
    assert_eq!(s3.hits(prefix), 2);
    s3.fail(prefix, Object::Topic, Fault::Lost, Lasting::Times(1));
    assert_eq!(put("topic-0.json").expect("the second answer comes"), Creation::Exists);
    s3.fail(prefix, Object::Log, Fault::Cut, Lasting::Ever);
    assert!(put("2.log").is_err());
    s3.heal(prefix);
    assert!(!s3.folder(prefix).join("2.log").exists());
    let made = s3.folder(prefix).join("1.log").metadata().and_then(|meta| meta.modified()).expect("a file");
    s3.fail(prefix, Object::Log, Fault::Stale(made), Lasting::Times(1));
    let list = || -> Vec<_> {
        let listed = block_on(store.list("")).expect("a listing");
        listed.into_iter().map(|entry| entry.name).collect()
    };
    assert_eq!(list(), ["1.index", "topic-0.json"]);
    assert_eq!(list(), ["1.index", "1.log", "topic-0.json"]);
}
