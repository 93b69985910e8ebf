//! What a check tells of dead letters that no segment names.

use bytes::Bytes;

use super::super::{Mode, check};
use crate::archive::layout;
use crate::archive::segment::Builder;
use crate::archive::sidecar::Kind;
use crate::archive::source::Fork;
use crate::archive::source::chain::What;
use crate::archive::source::dead_letters::tests::emptied;
use crate::archive::source::tests::Fixture;
use crate::batch::Header;
use crate::batch::records::template;
use crate::batch::transactions::OpenTransactions;
use crate::record::{LeftOut, OffsetRange, Partition, TopicId};

type Told = (What, Option<(i64, i64)>, String);

/// Returns what is told of dead letters; nothing of it harms.
async fn told(fixture: &Fixture) -> Vec<Told> {
    let mut told: Vec<Vec<Told>> = Vec::new();
    for mode in [Mode::Plain, Mode::Deep] {
        let report = check(&fixture.archive, mode).await.expect("looked at");
        report.verdict().expect("sound");
        let of_letters = report.findings().filter(|found| found.finding.object.contains(layout::DEAD_LETTERS));
        let of_letters = of_letters.map(|found| {
            let range = found.finding.range.map(|range| (range.first, range.next));
            (found.finding.what, range, found.finding.detail.clone())
        });
        told.push(of_letters.collect());
    }
    assert_eq!(told[0], told[1], "a deep check tells the same");
    told.remove(0)
}

fn kept(batch: &Bytes, records: u32, dead_letter: crate::record::DeadLetter) -> LeftOut {
    let header = Header::read(batch).expect("sound");
    let range = OffsetRange { first: header.base_offset, next: header.next_offset() };
    LeftOut { range, records, stage: 0, dead_letter: Some(dead_letter) }
}

#[tokio::test]
async fn a_letter_that_no_segment_names_is_told_by_what_its_chain_has_in_its_place() {
    let fixture = Fixture::new("b").await;
    let fewer = fixture.batch_of(&Header { last_offset_delta: 4, ..template(15) }, 3);
    fixture.staged_segment(0, &[fixture.batch(0, 10)], &[]).await;
    fixture.staged_segment(10, &[emptied(&fixture.batch(10, 5)), fewer], &[]).await;
    for (first, count) in [(0, 10), (10, 5), (15, 5), (20, 5)] {
        let _ = fixture.dead_letter(&fixture.batch(first, count)).await;
    }
    fixture.create(&format!("topics/t/_/0/{}x", layout::DEAD_LETTERS), Bytes::new()).await;
    let told = told(&fixture).await;
    let (whats, details): (Vec<_>, Vec<_>) =
        told.into_iter().map(|(what, range, detail)| ((what, range), detail)).unzip();
    assert_eq!(
        whats,
        [
            (What::UnknownObject, None),
            (What::Debris, Some((0, 10))),
            (What::UnnamedLetter, Some((10, 15))),
            (What::UnnamedLetter, Some((15, 20))),
            (What::Unfinished, Some((20, 25))),
        ]
    );
    let parts = ["nothing explains", "may be deleted", "its 5 records are nowhere else; keep it", "3 of its 5 records"];
    for (detail, part) in details.iter().zip(parts) {
        assert!(detail.contains(part), "{part} in {detail}");
    }
}

#[tokio::test]
async fn a_letter_that_a_fork_names_is_nobodys_leftover() {
    let fixture = Fixture::new("b").await;
    fixture.staged_segment(0, &[fixture.batch(0, 10), fixture.batch(10, 5)], &[]).await;
    let batch = fixture.batch(12, 3);
    let left_out = kept(&batch, 3, fixture.dead_letter(&batch).await);
    let partition = Partition { topic: "t".into(), topic_id: TopicId::NONE, index: 0 };
    let folder = layout::chain_folder(&partition, Some(Fork { epoch: 7, end: 12 }));
    let builder = Builder::new(&partition, 12, Kind::First, OpenTransactions::default());
    let mut builder = builder.staged(&["mask 00".to_owned()]);
    let log = emptied(&batch);
    let _ = builder.append(&log, &[], u64::MAX).expect("sound batches");
    builder.leave_out([left_out]);
    let (sidecar, _) = builder.seal();
    let name = layout::sidecar(12, sidecar.length_bytes, sidecar.digest);
    fixture.create(&format!("{folder}{name}"), sidecar.encode()).await;
    fixture.create(&format!("{folder}{}", layout::log(12)), log).await;
    assert_eq!(told(&fixture).await, []);
}

#[tokio::test]
async fn of_two_letters_of_a_batch_the_one_that_is_not_named_is_told_with_the_other() {
    let fixture = Fixture::new("b").await;
    let (before, after) = (fixture.batch(0, 5), fixture.batch_of(&Header { last_offset_delta: 4, ..template(0) }, 4));
    let _ = fixture.dead_letter(&before).await;
    let left_out = kept(&after, 4, fixture.dead_letter(&after).await);
    fixture.staged_segment(0, &[emptied(&after)], &[left_out]).await;
    let told = told(&fixture).await;
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].0 == What::UnnamedLetter && told[0].2.contains("as another dead letter"), "{told:?}");
}
