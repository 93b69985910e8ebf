//! Catalogs on an object store: how many requests it takes to open a chain and to find its end.

use std::time::Duration;

use bytes::Bytes;
use kafka_backup::archive::Archive;
use kafka_backup::archive::sink::{Options, Sink};
use kafka_backup::archive::source::Place;
use kafka_backup::archive::source::chain::{Chain, Link};
use kafka_backup::archive::source::opened::Opened;
use kafka_backup::archive::{catalog::Row, layout};
use kafka_backup::batch::Compression;
use kafka_backup::batch::records::{Record, encode, template};
use kafka_backup::budget::Permit;
use kafka_backup::pipeline::{Answer, Batch, Payload, Sink as _};
use kafka_backup::record::{Offset, OffsetRange, Partition, Timestamp, TopicId};
use kafka_backup::store::Store;

use crate::support::block_on;
use crate::support::s3::S3;

fn partition() -> Partition {
    Partition { topic: "orders".into(), topic_id: TopicId::NONE, index: 0 }
}

/// Archives one segment for each offset up to `next`.
async fn write_to(archive: &Archive, next: Offset) {
    let options = Options { roll_bytes: 1, roll_interval: Duration::from_secs(3600), give_up_after: None };
    let mut sink = Sink::new(archive.clone(), options);
    sink.open(&partition());
    let Answer::Restart { tip, .. } = sink.answer().await else { panic!("it does not start") };
    let range = OffsetRange { first: tip.next.unwrap_or(0), next };
    let batches = (range.first..next).map(|offset| {
        let (timestamp, value) = (Timestamp(offset), Some(Bytes::from_static(b"a record")));
        let record = Record { offset, timestamp, key: None, value, headers: Vec::new() };
        encode(&template(offset), &[record], Compression::None).expect("it fits")
    });
    let bytes = Bytes::from(batches.collect::<Vec<_>>().concat());
    let payload = Payload::Encoded { bytes, aborted: Vec::new() };
    sink.put(Batch::new(partition(), tip.generation, range, payload, Permit::default()));
    sink.close(&partition(), tip.generation);
    while !matches!(sink.answer().await, Answer::Closed { .. }) {}
}

#[test]
fn a_chain_on_s3_opens_and_goes_on_with_few_requests() {
    let (s3, prefix) = (S3::shared(), "catalogs");
    let requests = || s3.requests(prefix).values().sum::<usize>();
    block_on(async {
        let archive =
            Archive::create(&Store::open(&s3.url(prefix)).expect("opened"), "b", None).await.expect("created");
        let place = Place::new(partition(), None);
        // Of each level as many as there can be without the next one.
        write_to(&archive, 215).await;
        let before = requests();
        let opened = Opened::read(&archive, &place).await.expect("opened");
        // The levels, the begin, a listing of each level and of the rest; three times five objects.
        assert_eq!((opened.index.len(), requests() - before), (215, 2 + 2 + 1 + 15));
        let mut chain = Chain::open(&archive, &place).await.expect("listed");
        let mut rows = Vec::new();
        while let Some(link) = chain.next().await.expect("read") {
            let Link::Segment(segment) = link else { panic!("a finding") };
            rows.push(Row::of(&segment.sidecar));
        }
        assert_eq!(opened.index.iter().collect::<Vec<_>>(), rows);
        // A seventh of level 1 and what it completes.
        write_to(&archive, 216).await;
        let before = requests();
        assert_eq!(archive.tip(&partition()).await.expect("a tip").next, Some(216));
        // The backup, forks, begin, levels, three of them, the rest; then what proves the last row.
        assert_eq!(requests() - before, 4 + 3 + 1 + 4);
        let top = format!("{}catalog/3", layout::partition_folder(&partition()));
        assert_eq!(std::fs::read_dir(s3.folder(prefix).join("b").join(top)).expect("made").count(), 1);
    });
}
