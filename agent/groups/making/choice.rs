//! What of groups and partitions a plan is wanted for. Pure.

use crate::groups::selector::TopicChoice;

/// How alike two names are that are taken for one another: with less, all of a long list would be.
const ALIKE: f64 = 0.8;

/// Names that are told.
const TOLD: usize = 3;

/// What a plan is wanted for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The groups.
    pub groups: Groups,
    /// The topics, by their names on the target; `None` for all.
    pub topics: Option<TopicChoice>,
    /// Take the nearest offset that there is where the one that is asked for is not.
    pub clamp: bool,
    /// A selector may be for groups that are not on the cluster: they are made by the commit.
    pub create_group: bool,
}

/// Which groups.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Groups {
    /// These.
    Named(Vec<String>),
    /// All that there are where positions are from.
    #[default]
    All,
}

impl Wanted {
    /// Returns whether a partition of the target is wanted.
    pub(super) fn holds(&self, topic: &str, partition: i32) -> bool {
        self.topics.as_ref().is_none_or(|topics| topics.contains(topic, partition))
    }
}

/// Returns, as the end of a sentence, the names that may have been meant; nothing where none is alike.
pub(super) fn near<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let likeness = |known: &'a str| (strsim::jaro_winkler(&known.to_lowercase(), &name.to_lowercase()), known);
    let mut alike: Vec<(f64, &str)> = known.map(likeness).filter(|(likeness, _)| *likeness >= ALIKE).collect();
    alike.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    let names: Vec<String> = alike.iter().take(TOLD).map(|(_, name)| format!("'{name}'")).collect();
    if names.is_empty() { String::new() } else { format!("; did you mean {}?", names.join(" or ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_may_have_been_meant_are_told_the_nearest_first() {
        let known = ["order-processor", "Order-Processors", "payments"];
        assert_eq!(
            near("order-procesor", known.into_iter()),
            "; did you mean 'order-processor' or 'Order-Processors'?"
        );
        assert_eq!(near("zzz", known.into_iter()), "");
    }
}
