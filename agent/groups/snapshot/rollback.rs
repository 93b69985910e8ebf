//! The plan of a rollback: groups back to what a snapshot says of them, absence too.
//!
//! A snapshot is of whole groups, so what a group has committed since on partitions that it had nothing for is deleted,
//! wherever that is. An offset is set as it was, in range or not: the state that was is what is wanted, and nothing else.

use std::collections::BTreeMap;

use super::{Group, Snapshot};
use crate::error::{Error, Result};
use crate::groups::ACTIVE;
use crate::groups::plan::{Action, GroupPlan, Plan, Row};
use crate::groups::positions::Committed;
use crate::groups::present::{Now, Present};
use crate::kafka::client::Client;

/// Makes the plan of a rollback to `snapshot`. A group that is refused has its rows nevertheless: they say how it differs.
///
/// # Errors
/// [`Kind::Failed`](crate::error::Kind::Failed) for a snapshot of another cluster, and as [`Present::look`].
pub async fn rollback(client: &Client, snapshot: &Snapshot) -> Result<Plan> {
    let names: Vec<String> = snapshot.groups.iter().map(|group| group.group.clone()).collect();
    let present = Present::look(client, &names).await?;
    if let (Some(was), Some(is)) = (&snapshot.cluster_id, &present.cluster_id)
        && was != is
    {
        return Err(Error::failed(format!("snapshot {} is of another cluster", snapshot.id))
            .with("taken of", was)
            .with("this is", is)
            .hint("name the brokers of that one with --bootstrap-servers"));
    }
    Ok(plan(snapshot, &present))
}

fn plan(snapshot: &Snapshot, present: &Present) -> Plan {
    let groups =
        snapshot.groups.iter().filter_map(|group| Some(group_plan(group, present.groups.get(&group.group)?, present)));
    Plan {
        cluster_id: present.cluster_id.clone(),
        positions: format!("snapshot {}", snapshot.id),
        places: "this cluster".to_owned(),
        groups: groups.collect(),
    }
}

fn group_plan(group: &Group, now: &Now, present: &Present) -> GroupPlan {
    let (rows, unread) = match (&group.error, &now.offsets) {
        (Some(why), _) => (Vec::new(), Some(why.clone())),
        (None, Err(why)) => (Vec::new(), Some(format!("what it has committed cannot be read: {why}"))),
        (None, Ok(committed)) => (rows(group, committed, present), None),
    };
    // Who reads does not matter where nothing is to be done.
    let is_read = now.is_active() && rows.iter().any(|row| row.action.is_change());
    GroupPlan {
        group: group.group.clone(),
        kind: now.kind.clone(),
        state: now.state.clone(),
        refused: unread.or_else(|| is_read.then(|| ACTIVE.to_owned())),
        rows,
        ..GroupPlan::default()
    }
}

fn rows(group: &Group, committed: &BTreeMap<(String, i32), Committed>, present: &Present) -> Vec<Row> {
    let mut wanted: BTreeMap<(String, i32), (Option<Committed>, &str)> = BTreeMap::new();
    for (topic, kept) in group.kept() {
        wanted.insert((topic.topic.clone(), kept.0), (kept.committed(), topic.topic_id.as_str()));
    }
    for partition in committed.keys() {
        wanted.entry(partition.clone()).or_insert((None, "_"));
    }
    let row = |((topic, partition), (target, was)): ((String, i32), (Option<Committed>, &str))| {
        let current = committed.get(&(topic.clone(), partition)).cloned();
        let is = present.topic_id(&topic);
        let action = match (&current, &target) {
            (None, None) => return None,
            // Also where the number is the same.
            (_, Some(_)) if was != "_" && is != "_" && was != is => {
                Action::Skip("the topic was made anew since: the offset is one of other records".to_owned())
            }
            (current, target) if current == target => Action::Same,
            (_, Some(_)) if !present.has(&topic, partition) => {
                Action::Skip("the cluster has no such partition any more, or does not tell of it".to_owned())
            }
            (_, Some(_)) => Action::Set,
            (_, None) => Action::Delete,
        };
        Some(Row { topic_id: is, topic, partition, current, target, action, exactness: None })
    };
    wanted.into_iter().filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::groups::present::tests::{group, present};

    fn actions(before: &Now, after: &Now, partitions: i32) -> Vec<(i32, String)> {
        let taken = Snapshot::of(&present(partitions, &[("g", before.clone())]), &[], "").expect("all is told");
        let plan = plan(&taken, &present(2, &[("g", after.clone())]));
        plan.groups[0].rows.iter().map(|row| (row.partition, row.action.to_string())).collect()
    }

    #[test]
    fn what_was_comes_back_and_what_was_not_goes() {
        let before = group("Empty", 0, &[(0, 7)]);
        assert_eq!(
            actions(&before, &group("Empty", 0, &[(0, 9), (1, 3)]), 2),
            [(0, "SET".into()), (1, "DELETE".into())]
        );
        assert_eq!(actions(&before, &before, 2), [(0, "SAME".into())]);
        assert_eq!(actions(&before, &group("Dead", 0, &[]), 2), [(0, "SET".into())], "a group that was deleted");
        let none = group("Dead", 0, &[]);
        assert_eq!(actions(&none, &group("Empty", 0, &[(1, 3)]), 2), [(1, "DELETE".into())], "one that was not there");
    }

    #[test]
    fn a_partition_that_is_gone_is_skipped_and_an_active_group_is_refused_with_its_rows() {
        let before = group("Empty", 0, &[(2, 7)]);
        let told = actions(&before, &group("Empty", 0, &[]), 3);
        assert!(told.len() == 1 && told[0].1.starts_with("SKIP: the cluster has no such partition"), "{told:?}");
        let taken = Snapshot::of(&present(2, &[("g", group("Empty", 0, &[(0, 7)]))]), &[], "").expect("all is told");
        let plan = plan(&taken, &present(2, &[("g", group("Stable", 1, &[(0, 9)]))]));
        assert_eq!(plan.groups[0].refused.as_deref(), Some(ACTIVE));
        assert_eq!((plan.groups[0].rows.len(), plan.changes()), (1, 0));
        let stands = super::plan(&taken, &present(2, &[("g", group("Stable", 1, &[(0, 7)]))]));
        assert_eq!(stands.groups[0].refused, None, "it is read, and stands where it stood");
    }

    #[test]
    fn of_a_topic_that_was_made_anew_no_offset_comes_back_and_what_was_absent_goes() {
        use crate::groups::present::Topic;
        let id = |number| crate::record::TopicId(uuid::Uuid::from_u128(number));
        let cluster = |topic_id, offsets: &[(i32, i64)]| {
            let mut present = present(2, &[("g", group("Empty", 0, offsets))]);
            let _ = present.topics.insert("t".to_owned(), Topic { id: topic_id, partitions: 2 });
            present
        };
        let also = [("g".to_owned(), "t".to_owned(), 1)];
        let taken = Snapshot::of(&cluster(id(1), &[(0, 7)]), &also, "").expect("all is told");
        let plan = plan(&taken, &cluster(id(2), &[(0, 7), (1, 3)]));
        let actions: Vec<String> = plan.groups[0].rows.iter().map(|row| row.action.to_string()).collect();
        assert!(actions[0].starts_with("SKIP: the topic was made anew"), "{actions:?}");
        assert_eq!(actions[1], "DELETE");
    }
}
