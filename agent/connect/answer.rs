//! What is answered, in Kafka Connect's shapes. Pure.

use std::collections::BTreeMap;

use serde::Serialize;

use super::connector::Connector;
use super::flat::Class;
use super::state::Phase;
use super::{Flat, VERSION};
use crate::record::Offset;

/// The only task of a pipeline on this agent.
pub(super) const TASK: u32 = 0;

/// What a worker is.
#[derive(Debug, Serialize)]
pub(super) struct Root {
    pub(super) version: &'static str,
    /// Not known: what is built from a package has none.
    pub(super) commit: Option<&'static str>,
    pub(super) kafka_cluster_id: Option<String>,
}

/// A connector as it is configured.
#[derive(Debug, Serialize)]
pub(super) struct Info {
    name: String,
    config: Flat,
    tasks: Vec<TaskId>,
    #[serde(rename = "type")]
    kind: &'static str,
}

#[derive(Debug, Serialize)]
pub(super) struct TaskId {
    connector: String,
    task: u32,
}

/// A task as it is configured.
#[derive(Debug, Serialize)]
pub(super) struct TaskInfo {
    id: TaskId,
    config: Flat,
}

/// What a connector does.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Status {
    name: String,
    connector: ConnectorStatus,
    tasks: Vec<TaskStatus>,
    #[serde(rename = "type")]
    kind: &'static str,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct ConnectorStatus {
    state: &'static str,
    worker_id: String,
    version: &'static str,
}

/// What a task does.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct TaskStatus {
    id: u32,
    state: &'static str,
    worker_id: String,
    version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace: Option<String>,
}

impl Info {
    pub(super) fn new(connector: &Connector) -> Self {
        let (name, config) = (connector.name().to_owned(), connector.flat().clone());
        let tasks = task_of(&name, &connector.phase()).into_iter().collect();
        Self { name, config, tasks, kind: connector.class().kind() }
    }
}

/// Returns the tasks of a connector as they are configured.
pub(super) fn tasks(name: &str, config: &Flat, phase: &Phase) -> Vec<TaskInfo> {
    task_of(name, phase).into_iter().map(|id| TaskInfo { id, config: config.clone() }).collect()
}

fn task_of(name: &str, phase: &Phase) -> Option<TaskId> {
    phase.of_task().map(|_| TaskId { connector: name.to_owned(), task: TASK })
}

impl Status {
    /// Returns what a connector of this worker does.
    pub(super) fn new((name, class): (&str, Class), phase: &Phase, worker: &str) -> Self {
        let connector = ConnectorStatus { state: phase.of_connector(), worker_id: worker.to_owned(), version: VERSION };
        let tasks = TaskStatus::new(phase, worker).into_iter().collect();
        Self { name: name.to_owned(), connector, tasks, kind: class.kind() }
    }

    /// Says which parts are about to begin anew.
    pub(super) fn restarting(mut self, connector: bool, task: bool) -> Self {
        if connector {
            self.connector.state = "RESTARTING";
        }
        for status in self.tasks.iter_mut().filter(|_| task) {
            status.state = "RESTARTING";
        }
        self
    }
}

impl TaskStatus {
    /// Returns what the task of a connector of this worker does; `None` where it has none.
    pub(super) fn new(phase: &Phase, worker: &str) -> Option<Self> {
        let trace = phase.trace().map(str::to_owned);
        let state = phase.of_task()?;
        Some(Self { id: TASK, state, worker_id: worker.to_owned(), version: VERSION, trace })
    }
}

/// Where a connector goes on.
#[derive(Debug, Serialize)]
pub(super) struct Offsets {
    offsets: Vec<PartitionOffset>,
}

#[derive(Debug, Serialize)]
struct PartitionOffset {
    partition: KafkaPartition,
    offset: KafkaOffset,
}

#[derive(Debug, Serialize)]
struct KafkaPartition {
    kafka_partition: i32,
    kafka_topic: String,
}

#[derive(Debug, Serialize)]
struct KafkaOffset {
    kafka_offset: Offset,
}

impl Offsets {
    pub(super) fn new(offsets: BTreeMap<(String, i32), Offset>) -> Self {
        let offsets = offsets.into_iter().map(|((kafka_topic, kafka_partition), kafka_offset)| PartitionOffset {
            partition: KafkaPartition { kafka_partition, kafka_topic },
            offset: KafkaOffset { kafka_offset },
        });
        Self { offsets: offsets.collect() }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_status_has_the_shape_that_connect_gives_it() {
        let status = json!(Status::new(
            ("orders", Class::ArchiveSink),
            &Phase::Failed("no broker answers".into()),
            "127.0.0.1:8083"
        ));
        let expected = json!({
            "name": "orders",
            "connector": {"state": "RUNNING", "worker_id": "127.0.0.1:8083", "version": VERSION},
            "tasks": [{
                "id": 0, "state": "FAILED", "worker_id": "127.0.0.1:8083", "version": VERSION,
                "trace": "no broker answers",
            }],
            "type": "sink",
        });
        assert_eq!(status, expected);
        let stopped = json!(Status::new(("orders", Class::ArchiveSink), &Phase::Stopped, "w").restarting(true, true));
        assert_eq!((&stopped["connector"]["state"], &stopped["tasks"]), (&"RESTARTING".into(), &json!([])));
    }

    #[test]
    fn offsets_have_the_shape_of_a_sink_connectors() {
        let offsets = json!(Offsets::new(BTreeMap::from([(("orders".into(), 1), 7)])));
        let partition = json!({"kafka_partition": 1, "kafka_topic": "orders"});
        assert_eq!(offsets, json!({"offsets": [{"partition": partition, "offset": {"kafka_offset": 7}}]}));
    }
}
