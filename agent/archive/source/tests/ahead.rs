//! A walk along more segments than are read ahead.

use super::*;

/// Sixty segments of five offsets; the sidecar of the 21st is cut, the log of the 31st lost, and one lies inside the 41st.
async fn long(folder: &std::path::Path) -> Fixture {
    let fixture = Fixture::new("b").await;
    for first in (0..300).step_by(5) {
        let kind = if first == 0 { SegmentKind::First } else { SegmentKind::Data };
        fixture.segment("t", 0, first, kind, &[fixture.batch(first, 5)]).await;
    }
    fixture.segment("t", 0, 202, SegmentKind::Data, &[fixture.batch(202, 2)]).await;
    let change = |key: &str, bytes: Bytes| match key {
        key if key.contains("0100.") && key.ends_with(".index") => Some(bytes.slice(..bytes.len() - 1)),
        key if key.ends_with("0150.log") => None,
        _ => Some(bytes),
    };
    // In memory nothing is read ahead.
    let root = Store::open(folder.to_str().expect("UTF-8")).expect("opened");
    fixture.put_all_into(Fixture::at(root, "b").await, change).await
}

#[tokio::test]
async fn what_is_read_ahead_changes_neither_steps_nor_their_order() {
    let folder = tempfile::tempdir().expect("a folder");
    let fixture = long(folder.path()).await;
    let place = Place::new(partition("t", "_", 0), None);
    let mut chain = Chain::open(&fixture.archive, &place).await.expect("listed");
    let mut steps = Vec::new();
    while let Some(link) = chain.next().await.expect("read") {
        steps.push(match link {
            Link::Segment(segment) => (None, segment.sidecar.range.first),
            Link::Finding(finding) => (Some(finding.what), finding.range.map_or(-1, |range| range.first)),
        });
    }
    let mut expected = Vec::new();
    for first in (0..300).step_by(5) {
        expected.push((
            match first {
                100 => Some(What::DamagedSidecar),
                150 => Some(What::Hole),
                _ => None,
            },
            first,
        ));
        expected.extend((first == 200).then_some((Some(What::Debris), -1)));
    }
    assert_eq!(steps, expected);
}
