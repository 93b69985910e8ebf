//! A restore to a Kafka of 2.8, which is killed and goes on there as elsewhere.

use super::COUNT;
use super::paths::{Path, kill_midway};
use crate::support::old_kafka::OldKafka;

#[test]
fn a_killed_restore_goes_on_in_a_cluster_of_2_8_over_each_path() {
    let kafka = OldKafka::shared().kafka();
    let paths = Path::all(kafka, COUNT, |theme, partitions| kafka.topic(theme, partitions, &[]));
    kill_midway(kafka, &paths, "old", |restore| restore);
}
