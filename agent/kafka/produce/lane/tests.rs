//! A partition's state, step by step.

use super::*;
use crate::kafka::produce::tests::batches::batch;
use crate::record::TopicId;

fn lane(batches: u32) -> Lane<u32> {
    let partition = Partition { topic: "t".into(), topic_id: TopicId::NONE, index: 0 };
    let backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(10));
    let mut lane = Lane::new(partition, 0, backoff, Instant::now());
    (0..batches).for_each(|number| lane.put(batch(1, &[]), number));
    (lane.state, lane.known) = (State::Led(Way { broker: 1, number: 0 }), true);
    lane
}

fn depart_all(lane: &mut Lane<u32>) -> Vec<i32> {
    std::iter::from_fn(|| lane.depart()).collect()
}

fn answer(lane: &mut Lane<u32>, sequence: i32, code: i16, offset: Offset) -> Verdict {
    lane.answered(sequence, (code, offset), None, Instant::now()).0
}

#[test]
fn what_lands_behind_a_failed_batch_waits_for_it_and_does_not_go_out_again() {
    let mut lane = lane(9);
    assert_eq!(depart_all(&mut lane), [0, 1, 2, 3, 4]);
    assert_eq!(answer(&mut lane, 0, 20, -1), Verdict::Again);
    assert_eq!(answer(&mut lane, 1, 0, 1), Verdict::Landed);
    assert!(lane.land().is_none() && lane.depart().is_none(), "nothing goes out while something is on its way");
    for sequence in 2..5 {
        assert!(lane.settle(None, Instant::now()).is_none() && matches!(lane.state, State::Draining(..)));
        assert_eq!(answer(&mut lane, sequence, 45, -1), Verdict::Again, "it is behind a failed one");
    }
    assert!(lane.settle(None, Instant::now()).is_none() && matches!(lane.state, State::Seeking(_)));
    lane.state = State::Led(Way { broker: 2, number: 0 });
    assert_eq!(depart_all(&mut lane), [0, 2, 3, 4], "the same again, in order, and no more than five");
    assert_eq!(answer(&mut lane, 0, 0, 0), Verdict::Landed);
    let landed: Vec<_> = std::iter::from_fn(|| lane.land()).map(|landed| (landed.token, landed.first)).collect();
    assert_eq!(landed, [(0, 0), (1, 1)]);
    assert_eq!(depart_all(&mut lane), [5, 6]);
}

#[test]
fn after_failures_in_a_row_only_the_first_batch_is_tried_until_it_lands() {
    let mut lane = lane(9);
    for round in 0..3 {
        let sent = depart_all(&mut lane);
        assert_eq!(sent.len(), if round < 2 { 5 } else { 1 });
        for sequence in sent {
            answer(&mut lane, sequence, 19, -1);
        }
        assert!(lane.settle(None, Instant::now()).is_none());
        lane.state = State::Led(Way { broker: 1, number: 0 });
    }
    assert_eq!(depart_all(&mut lane), [0]);
    answer(&mut lane, 0, 0, 0);
    assert!(lane.land().is_some() && depart_all(&mut lane).len() == 5);
}

#[test]
fn the_same_bytes_go_out_again() {
    let mut lane = lane(1);
    let identity = Identity { producer_id: 1, epoch: 1 };
    let sequence = lane.depart().expect("a batch");
    let first = lane.seal(sequence, identity, false).expect("it is on its way");
    lane.unanswered(sequence);
    let again = lane.seal(sequence, Identity { producer_id: 2, epoch: 2 }, false).expect("it is to go again");
    assert_eq!((first.head, first.payload), (again.head, again.payload));
}

#[test]
fn a_refusal_waits_for_what_is_on_its_way_and_gives_back_all_that_did_not_land() {
    let mut lane = lane(7);
    depart_all(&mut lane);
    answer(&mut lane, 0, 0, 0);
    assert_eq!(answer(&mut lane, 1, 87, -1), Verdict::Refused);
    assert!(lane.land().is_some() && lane.settle(None, Instant::now()).is_none());
    for sequence in 2..4 {
        answer(&mut lane, sequence, 45, -1);
    }
    lane.unanswered(4);
    let (refusal, returned) = lane.settle(None, Instant::now()).expect("it is over");
    let tokens: Vec<_> = returned.batches.iter().map(|(_, token)| *token).collect();
    assert_eq!((refusal.code, returned.sequence, tokens), (87, 1, vec![1, 2, 3, 4, 5, 6]));
    assert!(matches!(lane.state, State::Over(87)) && lane.is_empty() && !lane.has_sent());
}

#[test]
fn the_first_batch_goes_alone_since_a_broker_that_knows_nothing_takes_any_sequence() {
    let mut lane = lane(9);
    lane.known = false;
    assert_eq!(depart_all(&mut lane), [0]);
    answer(&mut lane, 0, 0, 0);
    assert!(lane.land().is_some());
    assert_eq!(depart_all(&mut lane).len(), WINDOW);
}
