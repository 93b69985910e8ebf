//! What the savepoints of one backup cover: the topics and groups of all pipelines of the file that write it. Pure.
//!
//! A slot has one savepoint, whoever makes it: of two pipelines that made their own, each would leave out the other's
//! topics. What agents with other files have chosen is taken over from their savepoints ([`round`](super::round)).

use crate::config;
use crate::kafka::client::groups::Choice;
use crate::kafka::source::Selection;
use crate::store;

/// Topics and groups.
#[derive(Debug, Default)]
pub(super) struct Scope {
    topics: Vec<Selection>,
    groups: Vec<Choice>,
    /// The pipelines' own groups, which are left out: what they have committed is how far the archive is. Where another
    /// agent, which cannot know them, has put them into a savepoint, they stay: each would undo what the other has done.
    own: Vec<String>,
}

impl Scope {
    /// Makes the scope of pipelines that write one backup.
    pub(super) fn of(pipelines: &[config::Pipeline]) -> Self {
        let sources = || pipelines.iter().map(|pipeline| &pipeline.source);
        Self {
            topics: sources().map(|source| source.topics.clone()).collect(),
            groups: sources().map(|source| source.groups.clone()).collect(),
            own: sources().filter_map(|source| source.group_id.clone()).collect(),
        }
    }

    /// Returns the topics to ask the cluster for; `None` where only all of them tell what is covered.
    pub(super) fn topics_to_ask(&self) -> Option<Vec<String>> {
        let named = self.topics.iter().flat_map(|topics| topics.names().iter().cloned());
        (!self.topics.iter().any(Selection::has_pattern)).then(|| named.collect())
    }

    /// Returns whether the topic `name` is covered; `internal` is what the cluster says of it.
    pub(super) fn holds_topic(&self, name: &str, internal: bool) -> bool {
        self.topics.iter().any(|topics| topics.holds(name, internal))
    }

    /// Returns the groups that are covered by name.
    pub(super) fn named_groups(&self) -> impl Iterator<Item = &String> {
        self.groups.iter().flat_map(|groups| groups.names()).filter(|name| !self.own.contains(name))
    }

    /// Returns whether the group `name` is covered.
    pub(super) fn holds_group(&self, name: &str) -> bool {
        self.groups.iter().any(|groups| groups.holds(name)) && !self.own.iter().any(|own| own == name)
    }

    /// Returns whether only the cluster's list of groups can tell which are covered.
    pub(super) fn needs_listing(&self) -> bool {
        self.groups.iter().any(Choice::needs_listing)
    }
}

/// Where a backup is: what writes to the same one has the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    path: String,
    /// Its name.
    pub(crate) backup_id: String,
}

/// Returns where a pipeline's backup is.
pub(crate) fn place(pipeline: &config::Pipeline) -> Place {
    let path = store::place::place(&pipeline.sink.path);
    Place { path, backup_id: pipeline.sink.backup_id.clone() }
}

/// Sorts pipelines by the backups that they write; both in the order of the file.
pub(crate) fn by_backup(pipelines: &[config::Pipeline]) -> Vec<Vec<config::Pipeline>> {
    let mut backups: Vec<Vec<config::Pipeline>> = Vec::new();
    for pipeline in pipelines {
        match backups.iter_mut().find(|others| place(&others[0]) == place(pipeline)) {
            Some(others) => others.push(pipeline.clone()),
            None => backups.push(vec![pipeline.clone()]),
        }
    }
    backups
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipelines(each: &[(&str, &str, &str)]) -> Vec<config::Pipeline> {
        let pipeline = |(name, keys, backup_id): &(&str, &str, &str)| {
            format!(
                "[[pipeline]]\nname = \"{name}\"\n[pipeline.source]\ntype = \"kafka\"\n{keys}\n\
                 kafka = {{ \"bootstrap.servers\" = \"a:1\" }}\n\
                 [pipeline.sink]\ntype = \"archive\"\nbackup_id = \"{backup_id}\"\npath = \"/data\"\n"
            )
        };
        let text: String = each.iter().map(pipeline).collect();
        config::Config::parse("a.toml", &text, &|_| None).expect("valid").pipelines
    }

    #[test]
    fn pipelines_of_one_backup_have_one_scope() {
        let pipelines = pipelines(&[
            ("a", "topics = [\"x\"]\ngroup_id = \"own-a\"\ngroups = [\"g\", \"own-b\"]", "one"),
            ("b", "topics = [\"y\"]\ngroup_id = \"own-b\"\ngroups_regex = \"h.*|own-.*\"", "one"),
            ("c", "topics = [\"x\"]", "two"),
        ]);
        let backups = by_backup(&pipelines);
        let names =
            |pipelines: &Vec<config::Pipeline>| pipelines.iter().map(|one| one.name.clone()).collect::<String>();
        assert_eq!(backups.iter().map(names).collect::<Vec<_>>(), ["ab", "c"]);
        let scope = Scope::of(&backups[0]);
        assert_eq!(scope.topics_to_ask(), Some(vec!["x".to_owned(), "y".to_owned()]));
        assert!(scope.holds_topic("x", false) && scope.holds_topic("y", false) && !scope.holds_topic("z", false));
        assert!(scope.holds_group("g") && scope.holds_group("h1") && !scope.holds_group("other"));
        assert!(!scope.holds_group("own-a") && !scope.holds_group("own-b"), "nobody keeps the agents' own");
        assert_eq!(scope.named_groups().collect::<Vec<_>>(), ["g"]);
    }
}
