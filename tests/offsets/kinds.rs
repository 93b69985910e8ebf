//! Groups of all kinds that Kafka has: those that commit offsets are put back, unless somebody is in them; share groups, which
//! commit none, are named and left alone.

use serde_json::Value;

use super::{execute, group_name, run, write};
use crate::support::agent::Backup;
use crate::support::clients::{self, Application, Offsets, offsets, streams_group};
use crate::support::kafka::Kafka;
use crate::support::workload::Writer;

const KINDS: [&str; 4] = ["classic", "consumer", "streams", "share"];

/// Asserts what `plan` says of groups: the kind of each, and a part of why it is left alone.
#[track_caller]
fn assert_planned(backup: &Backup, kafka: &Kafka, groups: &[&str], wanted: &[(&str, Option<&str>)]) {
    let ended = run(&["offset-reset", "plan"], backup, kafka, groups, &["--format", "json"]);
    let plan: Value = serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended:?}"));
    let told = plan["groups"].as_array().expect("groups");
    for (name, (kind, refused)) in groups.iter().zip(wanted) {
        let group = told.iter().find(|group| group["group"] == **name).unwrap_or_else(|| panic!("{name} in {plan}"));
        let is_so = match (refused, group["refused"].as_str()) {
            (Some(word), Some(why)) => why.contains(word),
            (wanted, is) => wanted.is_none() && is.is_none(),
        };
        assert!(is_so && group["kind"] == **kind, "{name}: {group}");
    }
}

#[test]
fn groups_of_each_kind_are_put_back_but_share_groups_and_those_that_have_members() {
    let kafka = Kafka::shared();
    let topic = kafka.topic("kinds", 2, &[]);
    let _ = write(&Writer::new(kafka, &[]), &topic, 2, 50);
    let names = KINDS.map(|kind| group_name(&format!("kinds-{kind}")));
    let [classic, consumer, streams, share] = names.each_ref().map(String::as_str);
    let stops = [((topic.clone(), 0), 10), ((topic.clone(), 1), 20)].into_iter().collect();
    let application = |group, protocol| Application { kafka, group, protocol };
    for (group, protocol) in [(classic, "classic"), (consumer, "consumer")] {
        let _ = application(group, protocol).consume(&[&topic], &stops);
    }
    streams_group(kafka, streams, &topic, true);
    streams_group(kafka, streams, &topic, false);
    clients::commit(kafka, streams, &[(&topic, 0, 30)], 20);
    clients::share_group(kafka, share, &topic);
    let backup = Backup::of(kafka, &[&topic]).source_list("groups", &[classic, consumer, streams, share]);
    let _ = backup.backup().ok();
    let then = offsets(kafka, &[classic, consumer, streams]);
    assert_eq!(then.len(), 5);

    let go_on = || {
        for (group, protocol) in [(classic, "classic"), (consumer, "consumer")] {
            let _ = application(group, protocol).consume(&[&topic], &[].into());
        }
        clients::commit(kafka, streams, &[(&topic, 0, 40), (&topic, 1, 1)], 0);
        offsets(kafka, &[classic, consumer, streams])
    };
    let now = go_on();
    let groups = [classic, consumer, streams, share];
    let free = [("classic", None), ("consumer", None), ("streams", None), ("share", Some("share group"))];
    assert_planned(&backup, kafka, &groups, &free);
    let ended = execute(&backup, kafka, &groups, &[]);
    assert!(ended.code == Some(3) && (ended.stdout + &ended.stderr).contains(share), "it is named: {:?}", ended.code);
    // A streams group that had nothing committed for a partition then is not made to forget it.
    let is: Offsets = offsets(kafka, &[classic, consumer, streams]);
    let mut wanted = then;
    let _ = wanted.insert((streams.to_owned(), topic.clone(), 1), (1, String::new()));
    assert_eq!(is, wanted);
    assert_eq!(clients::groups(kafka)[share], "Share");

    assert_eq!(go_on(), now);
    let members = [application(classic, "classic").join(&topic), application(consumer, "consumer").join(&topic)];
    streams_group(kafka, streams, &topic, true);
    let active = Some("Consumer group has active members");
    assert_planned(&backup, kafka, &groups[..3], &[("classic", active), ("consumer", active), ("streams", active)]);
    execute(&backup, kafka, &groups[..3], &[]).fails_with(1, &["Consumer group has active members"]);
    assert_eq!(offsets(kafka, &groups[..3]), now, "nothing is changed");
    drop(members);
    streams_group(kafka, streams, &topic, false);
}
