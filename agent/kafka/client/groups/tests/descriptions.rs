//! Groups described, as whatever they are.

use super::broker::{CLASSIC, CONSUMER, SHARE, STREAMS, Script, scripted};
use super::*;

/// Returns kind, state, and what the first member calls itself; `-` where there is none, `?` where nobody knows.
fn short(described: &Described) -> (&str, &str, &str) {
    let member = match &described.members {
        Members::Known(members) => members.first().map_or("-", |member| &member.client_id),
        Members::Unknown(_) => "?",
    };
    (&described.kind, &described.state, member)
}

#[tokio::test]
async fn groups_are_described_as_what_they_are_whatever_they_were_listed_as() {
    let described = vec![
        (CLASSIC, "c", 0, "Stable"),
        (CLASSIC, "empty", 0, "Empty"),
        (CLASSIC, "forbidden", 30, ""),
        (CONSUMER, "k", 0, "Stable"),
        (STREAMS, "s", 0, "Stable"),
        (SHARE, "h", 0, "Stable"),
    ];
    let (client, _) = scripted(Script { described, ..Script::default() }).await;
    let names = ["c", "empty", "forbidden", "k", "s", "h", "never"];
    let expected = [
        ("c", ("classic", "Stable", "classic")),
        ("empty", ("classic", "Empty", "-")),
        ("k", ("consumer", "Stable", "consumer")),
        ("s", ("streams", "Stable", "streams")),
        ("h", ("share", "Stable", "?")),
        ("never", ("unknown", "Dead", "-")),
    ];
    for kind in ["unknown", "classic", "consumer", "streams"] {
        let groups = names.map(|name| ListedGroup { kind: kind.to_owned(), ..ListedGroup::named(name) });
        let told = client.describe_groups(&groups).await.expect("told");
        for (name, expected) in expected {
            assert_eq!(short(told[name].as_ref().expect("told")), expected, "{name} listed as {kind}");
        }
        let why = told["forbidden"].clone().expect_err("forbidden");
        assert_eq!(why, "it cannot be described: GroupAuthorizationFailed (30)");
    }
    let told = client.describe_groups(&[ListedGroup::named("c")]).await.expect("told");
    let Ok(Described { members: Members::Known(members), .. }) = &told["c"] else { panic!("{told:?}") };
    assert_eq!((&*members[0].host, members[0].instance_id.as_deref()), ("/127.0.0.1", Some("static")));
}

#[tokio::test]
async fn members_that_nobody_can_tell_are_said_to_be_unknown() {
    let (client, script) = scripted(Script { lacks: vec![STREAMS, SHARE], ..Script::default() }).await;
    let listed = |name: &str, kind: &str| ListedGroup {
        kind: kind.to_owned(),
        state: "Stable".to_owned(),
        ..ListedGroup::named(name)
    };
    let told = client.describe_groups(&[listed("s", "streams"), listed("h", "share")]).await.expect("told");
    for (name, kind, why) in [("s", "streams", "has no call"), ("h", "share", "commit no offsets")] {
        let described = told[name].as_ref().expect("told");
        assert_eq!(short(described), (kind, "Stable", "?"));
        assert!(matches!(&described.members, Members::Unknown(told) if told.contains(why)), "{described:?}");
    }
    assert_eq!(script.lock().expect("nobody panics").found, 1, "a share group is not even looked for");
}
