//! What an answer of the source decides, and what it does not.

use kafka_protocol::messages::fetch_response::{AbortedTransaction, FetchableTopicResponse, PartitionData};
use kafka_protocol::messages::{FetchResponse, ProducerId};

use super::*;
use crate::archive::source::tests::Fixture;

/// An answer with these bytes that says that producer 7 aborted what it began at offset 10.
fn answer(code: i16, records: bytes::Bytes) -> FetchResponse {
    let aborted = AbortedTransaction::default().with_producer_id(ProducerId(7)).with_first_offset(10);
    let data = PartitionData::default().with_error_code(code).with_records(Some(records));
    let data = data.with_aborted_transactions(Some(vec![aborted]));
    FetchResponse::default().with_responses(vec![FetchableTopicResponse::default().with_partitions(vec![data])])
}

fn entry(producer_id: i64, first: Offset, last: Option<Offset>) -> Transaction {
    Transaction { producer_id, first, last }
}

#[tokio::test]
async fn a_transaction_is_decided_only_by_the_very_batch_that_is_held() {
    let fixture = Fixture::new("b").await;
    let (held, other) = (fixture.transactional(10, 3, 7), fixture.transactional(10, 2, 7));
    let crc = Header::read(&held).expect("sound").crc;
    let told = |records: &bytes::Bytes| fate(answer(0, records.clone()), &entry(7, 10, None), crc).expect("no refusal");
    assert_eq!(told(&held), Some(true));
    assert_eq!(told(&other), None, "a topic that was cut, or made anew, has another batch of the producer there");
    assert_eq!(fate(answer(1, held.clone()), &entry(7, 10, None), crc).expect("out of range"), None);
    let of_other = fixture.transactional(10, 3, 8);
    let crc = Header::read(&of_other).expect("sound").crc;
    assert_eq!(fate(answer(0, of_other), &entry(8, 10, None), crc).expect("told"), Some(false));
    let refused = fate(answer(29, held), &entry(7, 10, None), crc).expect_err("not authorized");
    assert!(refused.to_string().contains("refuses"), "{refused}");
}

#[test]
fn what_the_source_went_on_from_otherwise_is_not_asked_about() {
    let shared = OffsetRange { first: 0, next: 12 };
    assert!(is_within(&entry(7, 3, Some(11)), shared));
    assert!(!is_within(&entry(7, 3, Some(12)), shared), "its marker was lost by the source");
    assert!(!is_within(&entry(7, 3, None), shared) && !is_within(&entry(7, 13, Some(14)), shared));
    assert!(is_within(&entry(7, 13, None), OffsetRange { first: 12, next: Offset::MAX }));
}

#[tokio::test]
async fn the_checksum_of_a_first_batch_is_read_from_its_log() {
    let fixture = Fixture::new("b").await;
    let batches = [fixture.batch(0, 3), fixture.transactional(3, 2, 7)];
    fixture.segment("t", 0, 0, crate::archive::sidecar::Kind::First, &batches).await;
    let place = crate::archive::source::timelines(&fixture.archive).await.expect("listed").remove(0).places.remove(0);
    let survey = Survey::of(&fixture.archive, &place, false).await.expect("read");
    let found = checksums(&fixture.archive, &survey, &[entry(7, 3, None), entry(8, 3, None)]).await.expect("read");
    let crc = Header::read(&batches[1]).expect("sound").crc;
    assert_eq!(found, HashMap::from([((7, 3), crc)]));
}
