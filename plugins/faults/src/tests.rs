use super::*;
use kafka_backup_transform::testing::{Host, Sample};

fn outcome(settings: &[(&str, &str)]) -> Result<usize> {
    let samples = [Sample::new(10).value("a"), Sample::new(11).value("b")];
    Host::<Faults>::new(settings)?.apply("orders", 0, &samples).map(|made| made.len())
}

fn problem(fault: &str) -> String {
    outcome(&[("fault", fault), ("bytes", "64")]).expect_err("a fault").message().to_owned()
}

#[test]
fn no_fault_changes_nothing() {
    assert_eq!(outcome(&[]), Ok(2));
    assert_eq!(outcome(&[("fault", "fail"), ("offset", "12")]), Ok(2));
}

#[test]
fn each_wrong_answer_is_wrong_in_its_own_way() {
    assert_eq!(problem("wrong-rows"), "wrong answer: source names record 2 of 2");
    assert_eq!(problem("wrong-order"), "wrong answer: source descends");
    assert_eq!(problem("wrong-lengths"), "wrong answer: values: 3 for 2 rows");
    assert_eq!(problem("wrong-ends"), "wrong answer: values: cells end at 4294967295, there are 8");
    assert_eq!(problem("wrong-nulls"), "wrong answer: values: row numbers do not ascend");
    assert_eq!(problem("invalid-utf8"), "wrong answer: the name of a header of row 0 is not UTF-8");
    assert_eq!(problem("undeclared"), "wrong answer: topic `undeclared`, which `targets` does not name");
}

#[test]
fn a_failure_blames_the_record_of_the_offset() {
    let failure = outcome(&[("fault", "fail-retriable"), ("offset", "11")]).expect_err("a fault");
    assert_eq!((failure.record(), failure.is_retriable()), (Some(1), true));
}

#[test]
fn a_large_answer_is_otherwise_right() {
    assert_eq!(outcome(&[("fault", "huge-output"), ("bytes", "64")]), Ok(2));
}

#[test]
#[should_panic(expected = "a fault on purpose, at record 1")]
fn a_panic_is_one() {
    outcome(&[("fault", "panic"), ("offset", "11")]).ok();
}

#[test]
#[should_panic(expected = "the value of record 4294967295 of 2 was asked for")]
fn a_record_that_is_not_there_cannot_be_asked_for() {
    outcome(&[("fault", "wrong-ask")]).ok();
}

#[test]
#[should_panic(expected = "values can only be asked for if `needs` names VALUES_ON_DEMAND")]
fn values_cannot_be_asked_for_without_a_word() {
    outcome(&[("fault", "undeclared-ask")]).ok();
}

#[test]
fn the_settings_can_meet_the_fault() {
    assert!(Host::<Faults>::new(&[("fault", "fail"), ("in", "configure")]).is_err());
}
