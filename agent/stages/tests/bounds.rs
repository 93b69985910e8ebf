//! What stages hold, what they hold up, and what they leave alone.

use super::*;

/// A batch whose records are more bytes than one that is not large may have.
fn large() -> Bytes {
    let value = Some(Bytes::from(vec![0; 1 << 20]));
    let record =
        |offset| Record { offset, timestamp: Timestamp(0), key: None, value: value.clone(), headers: Vec::new() };
    encode(&template(0), &(0..18).map(record).collect::<Vec<_>>(), Compression::Zstd).expect("they fit")
}

#[tokio::test]
async fn a_plugin_that_hangs_over_a_large_batch_does_not_hold_up_those_of_other_pipelines() {
    let bytes = large();
    let mut hanging = faults(&[("fault", "endless-loop")], OnError::Fail);
    hanging.limits.deadline = Duration::from_secs(3);
    let hanging = Stages::start("hanging", &[hanging], 1).expect("it is opened");
    let healthy = stage("header-injector", &[], OnError::Fail);
    let healthy = Stages::start("healthy", &[healthy], 1).expect("it is opened");
    let hung = tokio::spawn({
        let bytes = bytes.clone();
        async move { hanging.pass(&partition(), 1, bytes, OpenTransactions::default(), &[]).await.expect("it lives") }
    });
    // During the first of them the other has begun, if it had not before.
    for _ in 0..3 {
        let (partition, open) = (partition(), OpenTransactions::default());
        let made = healthy.pass(&partition, 1, bytes.clone(), open, &[]).await.expect("it lives");
        assert!(made.failure.is_none() && read(&made.bytes).1.iter().all(|record| record.headers.len() == 3));
        assert!(!hung.is_finished(), "it waited for the one that hangs");
    }
    let said = hung.await.expect("it ends").failure.expect("its time is up").to_string();
    assert!(said.ends_with("took longer than 3 s"), "{said}");
}

/// A batch with a sound header and a body that is none.
fn undecodable() -> Bytes {
    let mut broken = batch(&template(10), 10).to_vec();
    let body = crate::batch::HEADER_BYTES;
    broken.truncate(body + 3);
    broken[8..12].copy_from_slice(&((body + 3 - 12) as i32).to_be_bytes());
    crate::batch::put_crc(&mut broken);
    broken.into()
}

#[tokio::test]
async fn a_batch_that_lies_inside_a_window_is_not_even_decoded() {
    let bytes = undecodable();
    let window = |until: &str| stage("pitr-filter", &[("until", until)], OnError::Fail);
    let passed_on = passed(&[window("19001"), window("50000")], bytes.clone(), &[]).await;
    assert_eq!(passed_on.bytes.as_ptr_range(), bytes.as_ptr_range());
    let both = [window("50000"), stage("pitr-filter", &[("from", "19001")], OnError::Fail)];
    let dropped = read(&passed(&both, bytes.clone(), &[]).await.bytes);
    assert_eq!(dropped, (vec![COVERED[1]], Vec::new()), "the second one drops what the first one keeps");
    let decoded = passed(&[window("19000")], bytes, &[]).await;
    assert!(decoded.failure.is_some(), "its last record is not inside");
}

#[tokio::test]
async fn what_no_plugin_is_to_blame_for_names_who_decides_and_where_it_was() {
    let stages = [stage("header-injector", &[], OnError::Skip), stage("header-injector", &[], OnError::Fail)];
    let said = passed(&stages, undecodable(), &[]).await.failure.expect("it cannot be decoded").to_string();
    let wanted = "plugin `header-injector` (stage 2 of pipeline `p`, header-injector.wasm) cannot be given the batch of \
                  orders-3 offsets [10, 20): ";
    assert!(said.starts_with(wanted), "{said}");
}

#[test]
fn less_memory_than_a_plugin_begins_with_is_a_usage_error() {
    let mut starved = stage("header-injector", &[], OnError::Fail);
    starved.limits.memory_bytes = 1 << 10;
    let error = Stages::start("p", &[starved], 1).expect_err("it cannot be started");
    assert_eq!(error.kind(), Kind::Usage);
    let said = error.to_string();
    let start = "plugin `header-injector` (stage 1 of pipeline `p`, header-injector.wasm) cannot be configured: \
                 needs more memory than it may have: ";
    assert!(said.starts_with(start), "{said}");
    assert!(said.contains(" KiB, the limit is 1 KiB; give it more: `memory_bytes`"), "{said}");
}
