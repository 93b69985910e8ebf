use super::*;
use kafka_backup_transform::testing::{Host, Made, Sample, assert_pure, batch, random};
use kafka_backup_transform::{Plugin, wit};
use proptest::prelude::*;

fn kept(settings: &[(&str, &str)], times: &[i64]) -> Vec<i64> {
    let samples: Vec<Sample> = (0..).zip(times).map(|(offset, time)| Sample::new(offset).timestamp(*time)).collect();
    let mut host = Host::<PitrFilter>::new(settings).expect("valid settings");
    host.apply("orders", 0, &samples).expect("it cannot fail").iter().map(|made| made.timestamp).collect()
}

fn refused(settings: &[(&str, &str)]) -> String {
    Host::<PitrFilter>::new(settings).map(|_| ()).expect_err("wrong settings").message().to_owned()
}

#[test]
fn from_is_in_and_until_is_out_whatever_the_order() {
    assert_eq!(kept(&[("from", "10"), ("until", "20")], &[20, 10, 9, 19, 25, 10]), [10, 19, 10]);
    assert_eq!(kept(&[("until", "20")], &[20, 19, -1]), [19, -1]);
    assert_eq!(kept(&[("from", "10")], &[9, -1, 10]), [10]);
}

#[test]
fn a_bound_is_rfc_3339_too() {
    let until = ("until", "1970-01-01T01:00:00.010+01:00");
    assert_eq!(kept(&[until], &[9, 10, 11]), [9]);
}

#[test]
fn wrong_settings_are_told_by_name() {
    assert_eq!(refused(&[]), "neither setting `from` nor `until` is there: one of them is needed");
    assert_eq!(refused(&[("untl", "1")]), "unknown setting `untl`: did you mean `until`?");
    assert_eq!(
        refused(&[("from", "2"), ("until", "2")]),
        "setting `from` is not before `until`: no record can be between"
    );
    let told = refused(&[("until", "2026-11-22T10:00:00")]);
    let advice = "write it as 2026-11-22T10:00:00Z, with a Z or an offset from UTC, or in milliseconds since 1970";
    assert_eq!(told, format!("setting `until` cannot be `2026-11-22T10:00:00`: {advice}"));
}

#[test]
fn the_agent_learns_the_span_and_that_nothing_else_is_touched() {
    let host = Host::<PitrFilter>::new(&[("from", "10")]).expect("valid settings");
    assert_eq!(host.plan().keeps, Window { from: Some(10), until: None });
    assert_eq!((host.plan().needs, host.plan().touches), (Columns::empty(), Touches::DROPS));
}

#[test]
fn a_batch_that_is_kept_whole_is_answered_with_nothing() {
    let (mut filter, plan) = PitrFilter::configure(vec![("from".into(), "10".into())]).expect("valid settings");
    let batch = batch("orders", 0, &[Sample::new(1).timestamp(10), Sample::new(2).timestamp(11)], plan.needs);
    let nothing = wit::Output {
        source: None,
        topics: None,
        partitions: None,
        timestamps: None,
        keys: None,
        values: None,
        headers: None,
    };
    assert_eq!(filter.apply(&batch), Ok(nothing));
}

proptest! {
    #[test]
    fn it_does_what_the_model_does(
        samples in random::samples(),
        from in proptest::option::of(995i64..1_015),
        length in proptest::option::of(1i64..12),
    ) {
        let until = length.map(|length| from.unwrap_or(1_000) + length);
        let texts = [("from", from.map(|from| from.to_string())), ("until", until.map(|until| until.to_string()))];
        let settings: Vec<(&str, &str)> =
            texts.iter().filter_map(|(name, text)| Some((*name, text.as_deref()?))).collect();
        prop_assume!(!settings.is_empty());
        let made = Host::<PitrFilter>::new(&settings).expect("valid").apply("orders", 0, &samples).expect("it cannot fail");
        let inside = (from.unwrap_or(i64::MIN))..(until.unwrap_or(i64::MAX));
        let expected: Vec<Made> = samples
            .iter()
            .filter(|sample| inside.contains(&sample.timestamp) || (until.is_none() && sample.timestamp == i64::MAX))
            .map(Made::unchanged)
            .collect();
        prop_assert_eq!(made, expected);
        assert_pure::<PitrFilter>(&settings, &samples);
    }
}
