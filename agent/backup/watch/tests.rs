//! What a pipeline shows of itself over its attempts.

use serde_json::Map;

use super::*;
use crate::config::Config;
use crate::connect::Target;
use crate::record::TopicId;

/// Returns the watch of a pipeline `p` with these keys, the health of its agent, and its connector.
fn watch(keys: &str) -> (Watch, Health, Arc<Connector>) {
    let text = format!(
        "[[pipeline]]\nname = \"p\"\n{keys}\n[pipeline.source]\ntype = \"kafka\"\ntopics = [\"orders\"]\n\
         kafka = {{ \"bootstrap.servers\" = \"nobody:1\" }}\n\
         [pipeline.sink]\ntype = \"archive\"\nbackup_id = \"b\"\npath = \"/nowhere\"\n"
    );
    let config = Config::parse("a.toml", &text, &|_| None).expect("valid");
    let (health, connector) =
        (Health::new(), Arc::new(Connector::of_file(config.pipelines[0].clone(), Map::new(), Target::Started)));
    let mut watch = Watch::new(&config.pipelines[0], Budget::new(1 << 20), health.of("pipeline p"), None);
    watch.connector = Some(connector.clone());
    (watch, health, connector)
}

fn partition() -> Partition {
    Partition { topic: "orders".into(), topic_id: TopicId::NONE, index: 3 }
}

const LONG: Duration = Duration::from_secs(60);

#[test]
fn a_pipeline_that_fails_after_each_start_is_well_in_none_of_them() {
    let (mut watch, health, connector) = watch("");
    watch.running(None);
    assert_eq!((health.reasons(), connector.phase()), (Vec::new(), Phase::Running));
    for _ in 0..3 {
        watch.failed(&Error::failed("no such cluster"), LONG);
        assert_eq!(health.reasons(), ["pipeline p: no such cluster"]);
        watch.running(None);
        watch.tick();
        let reasons = health.reasons();
        assert!(reasons[0].starts_with("pipeline p: no such cluster; it had failed"), "{reasons:?}");
        assert_eq!(connector.phase(), Phase::Failed("no such cluster".into()));
    }
    watch.rests(Phase::Paused);
    assert_eq!((health.reasons(), connector.phase()), (Vec::new(), Phase::Paused), "it does what it was told to");
}

#[test]
fn a_lag_that_began_before_a_failure_counts_on_and_ends_when_it_is_made_good() {
    let (mut watch, health, _) = watch("max_lag = \"1ms\"");
    watch.running(None);
    watch.opened(&partition(), Some(10));
    let log = Log { start: 0, last_stable: 15, high_watermark: 15, at: Timestamp::now() };
    watch.observed(&partition(), &log);
    std::thread::sleep(Duration::from_millis(5));
    watch.tick();
    let late = |health: &Health| {
        health.reasons().iter().any(|reason| reason.starts_with("pipeline p: lag of orders-3: 5 off"))
    };
    assert!(late(&health), "{:?}", health.reasons());
    watch.failed(&Error::failed("no broker answers"), LONG);
    assert!(late(&health), "{:?}", health.reasons());
    watch.running(None);
    assert!(late(&health), "{:?}", health.reasons());
    watch.durable(&partition(), 15, 5, 100, Duration::ZERO);
    watch.tick();
    assert!(!late(&health), "{:?}", health.reasons());
}

#[test]
fn a_partition_that_is_no_longer_ours_has_no_lag() {
    let (mut watch, health, _) = watch("max_lag = \"1ms\"");
    watch.running(None);
    watch.opened(&partition(), Some(10));
    watch.observed(&partition(), &Log { start: 0, last_stable: 15, high_watermark: 15, at: Timestamp::now() });
    std::thread::sleep(Duration::from_millis(5));
    watch.tick();
    assert_eq!(health.reasons().len(), 1);
    watch.closed(&partition());
    watch.tick();
    assert_eq!(health.reasons(), [""; 0]);
}

#[test]
fn what_was_lost_is_no_failure_of_the_task_and_stands_while_it_starts_again() {
    let (mut watch, health, connector) = watch("");
    watch.running(None);
    watch.opened(&partition(), Some(10));
    watch.diverged(&partition(), 7);
    watch.running(None);
    assert!(health.reasons()[0].starts_with("pipeline p: fork of orders-3: "), "{:?}", health.reasons());
    assert_eq!(connector.phase(), Phase::Running);
}
