use super::*;
use kafka_backup_transform::testing::{Host, Made, Sample, assert_pure, random};
use proptest::prelude::*;

fn inject(settings: &[(&str, &str)], samples: &[Sample]) -> Vec<Made> {
    Host::<HeaderInjector>::new(settings).expect("valid settings").apply("orders", 3, samples).expect("it cannot fail")
}

fn refused(settings: &[(&str, &str)]) -> String {
    Host::<HeaderInjector>::new(settings).map(|_| ()).expect_err("wrong settings").message().to_owned()
}

/// What the headers must be, said plainly: the old ones but those of the names, then the new ones.
fn model(names: &[(&str, Vec<u8>)], sample: &Sample) -> Made {
    let mut made = Made::unchanged(sample);
    made.headers.retain(|(name, _)| names.iter().all(|(known, _)| known.as_bytes() != name));
    made.headers.extend(names.iter().map(|(name, value)| (name.as_bytes().to_vec(), Some(value.clone()))));
    made
}

#[test]
fn a_record_tells_where_it_was() {
    let made = inject(&[], &[Sample::new(1001).timestamp(1_795_364_067_343)]);
    assert_eq!(made[0].header("x-kafka-backup-offset"), Some("1001"));
    assert_eq!(made[0].header("x-kafka-backup-timestamp"), Some("1795364067343"));
    assert_eq!(made[0].header("x-kafka-backup-partition"), Some("3"));
    assert_eq!(made[0].headers.len(), 3);
}

#[test]
fn a_header_of_the_name_is_replaced_and_others_stay() {
    let sample =
        Sample::new(7).header("x-kafka-backup-offset", "1").header("a", "b").header("x-kafka-backup-offset", "2");
    let made = inject(&[("timestamp", "false"), ("partition", "false")], &[sample]);
    let text = |name: &str, value: &str| (name.as_bytes().to_vec(), Some(value.as_bytes().to_vec()));
    assert_eq!(made[0].headers, [text("a", "b"), text("x-kafka-backup-offset", "7")]);
}

#[test]
fn names_topic_and_constants_can_be_set() {
    let settings = [("offset", "o"), ("topic", "true"), ("headers.cluster", "eu-1"), ("headers.a.b", "")];
    let made = inject(&settings, &[Sample::new(7)]);
    assert_eq!(made[0].header("o"), Some("7"));
    assert_eq!(made[0].header("x-kafka-backup-topic"), Some("orders"));
    assert_eq!(made[0].header("cluster"), Some("eu-1"));
    assert_eq!(made[0].header("a.b"), Some(""));
}

#[test]
fn wrong_settings_are_told_by_name() {
    assert_eq!(refused(&[("ofset", "x")]), "unknown setting `ofset`: did you mean `offset`?");
    assert_eq!(
        refused(&[("offset", "")]),
        "setting `offset` is empty: give the header a name, or `false` for no such header"
    );
    let told = refused(&[("offset", "x"), ("headers.x", "1")]);
    assert_eq!(told, "settings `offset` and `headers.x` name one header, `x`: give one of them another name");
    assert_eq!(refused(&[("headers.x", "1"), ("headers.x", "2")]), "setting `headers.x` takes one value");
    assert_eq!(refused(&[("offset", "a"), ("offset", "b")]), "setting `offset` takes one value, and has 2");
}

#[test]
fn more_headers_than_an_answer_can_replace_are_refused_with_the_settings() {
    let names: Vec<_> = (0..254).map(|number| format!("headers.{number}")).collect();
    let settings: Vec<_> = names.iter().map(|name| (name.as_str(), "x")).collect();
    assert_eq!(inject(&settings[..253], &[Sample::new(7)])[0].headers.len(), 256, "three are there by default");
    assert_eq!(refused(&settings), "the settings inject 257 headers, the most is 256: leave some out");
}

#[test]
fn nothing_is_asked_for_and_only_headers_are_touched() {
    let host = Host::<HeaderInjector>::new(&[]).expect("valid settings");
    assert_eq!((host.plan().needs, host.plan().touches), (Columns::empty(), Touches::HEADERS));
    assert!(host.plan().pure);
}

proptest! {
    #[test]
    fn it_does_what_the_model_does(samples in random::samples(), topic: bool, constant in "[a-c]{0,2}") {
        let names = [("topic", if topic { "region" } else { "false" }), ("headers.a", constant.as_str())];
        let made = inject(&names, &samples);
        let expected = samples.iter().map(|sample| {
            let mut names = vec![
                ("x-kafka-backup-offset", sample.offset.to_string().into_bytes()),
                ("x-kafka-backup-timestamp", sample.timestamp.to_string().into_bytes()),
                ("x-kafka-backup-partition", b"3".to_vec()),
            ];
            if topic {
                names.push(("region", b"orders".to_vec()));
            }
            names.push(("a", constant.clone().into_bytes()));
            model(&names, sample)
        });
        prop_assert_eq!(made, expected.collect::<Vec<_>>());
    }

    #[test]
    fn it_is_pure(samples in random::samples()) {
        assert_pure::<HeaderInjector>(&[("topic", "true")], &samples);
    }
}
