//! What a connector is to do and what it does, in Kafka Connect's words. Pure.

use serde::{Deserialize, Serialize};

/// What a connector is to do: Kafka Connect's target state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Target {
    /// It runs.
    #[default]
    Started,
    /// It rests, and keeps its task.
    Paused,
    /// It rests, without a task.
    Stopped,
}

/// What a connector is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Order {
    /// What it is to do.
    pub(super) target: Target,
    /// How often it was told to begin anew.
    pub(super) restarts: u64,
}

/// What a connector does.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Phase {
    /// It starts, and has not run since the agent or its rest.
    #[default]
    Unassigned,
    /// Both of its ends are open.
    Running,
    /// It failed, for this reason, and has not run since; it starts again by itself.
    Failed(String),
    /// It closes what it holds, or opens its ends, because it was told to begin anew.
    Restarting,
    /// It rests, and holds nothing.
    Paused,
    /// It rests, and holds nothing, not even a task.
    Stopped,
}

impl Phase {
    /// Returns the state of the connector itself. What fails in it is its task, which has all that it does.
    pub(super) fn of_connector(&self) -> &'static str {
        match self {
            Self::Unassigned => "UNASSIGNED",
            Self::Running | Self::Failed(_) | Self::Restarting => "RUNNING",
            Self::Paused => "PAUSED",
            Self::Stopped => "STOPPED",
        }
    }

    /// Returns the state of its task; `None` where it has none.
    pub(super) fn of_task(&self) -> Option<&'static str> {
        match self {
            Self::Unassigned => Some("UNASSIGNED"),
            Self::Running => Some("RUNNING"),
            Self::Failed(_) => Some("FAILED"),
            Self::Restarting => Some("RESTARTING"),
            Self::Paused => Some("PAUSED"),
            Self::Stopped => None,
        }
    }

    /// Returns why its task failed, if it did.
    pub(super) fn trace(&self) -> Option<&str> {
        match self {
            Self::Failed(trace) => Some(trace),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_task_is_one_of_a_running_connector() {
        let failed = Phase::Failed("no broker answers".into());
        assert_eq!((failed.of_connector(), failed.of_task()), ("RUNNING", Some("FAILED")));
        assert_eq!(failed.trace(), Some("no broker answers"));
        assert_eq!((Phase::Stopped.of_connector(), Phase::Stopped.of_task()), ("STOPPED", None));
    }

    #[test]
    fn targets_are_written_in_connects_words() {
        let words = [Target::Started, Target::Paused, Target::Stopped].map(|target| serde_json::json!(target));
        assert_eq!(words, ["STARTED", "PAUSED", "STOPPED"]);
    }
}
