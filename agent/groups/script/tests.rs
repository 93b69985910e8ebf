//! Scripts, run with `bash` and a tool that only says what Kafka's says.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use super::*;
use crate::groups::positions::Committed;
use crate::record::Offset;

const PAGE: &str = "\
#!/bin/bash
# Offset reset script for backup: production-backup-001
# Generated: 2024-12-03T10:00:00Z

# Stop consumers before running this script!

kafka-consumer-groups --bootstrap-server kafka:9092 \\
  --group order-processor \\
  --topic orders:0 \\
  --reset-offsets --to-offset 150233 --execute

kafka-consumer-groups --bootstrap-server kafka:9092 \\
  --group order-processor \\
  --topic orders:1 \\
  --reset-offsets --to-offset 148891 --execute
";

/// A tool that notes its arguments and prints what Kafka's does; what of partition 1 is a file of its own to say.
const FAKE: &str = r#"#!/bin/bash
here=$(dirname "$0")
printf '%s\n' "$@" -- >>"$here/called"
group='' topic='' offset='' delete=''
while [ "$#" -gt 0 ]; do
  case "$1" in
    --group) group=$2 ;;
    --topic) topic=$2 ;;
    --to-offset) offset=$2 ;;
    --delete-offsets) delete=yes ;;
  esac
  shift
done
if [ -e "$here/fails" ] && [ "${topic##*:}" = 1 ]; then
  source "$here/fails"
  exit
fi
if [ -n "$delete" ]; then
  echo "Request succeeded for deleting offsets from group $group."
  printf '\n%-15s %-10s %-15s' TOPIC PARTITION STATUS
  printf '\n%-15s %-10s %-15s\n' "${topic%:*}" "${topic##*:}" Successful
  exit
fi
printf '\n%-15s %-15s %-10s %s' GROUP TOPIC PARTITION NEW-OFFSET
printf '\n%-15s %-15s %-10s %s\n' "$group" "${topic%:*}" "${topic##*:}" "$offset"
"#;

fn options() -> Script<'static> {
    Script {
        backup_id: "production-backup-001",
        generated: "2024-12-03T10:00:00.250Z".parse().expect("a time"),
        bootstrap_servers: "kafka:9092",
        command_config: None,
    }
}

fn row(topic: &str, partition: i32, target: Option<Offset>, action: Action) -> Row {
    let target = target.map(|offset| Committed { offset, metadata: String::new() });
    Row { topic: topic.into(), topic_id: "_".into(), partition, current: None, target, action, exactness: None }
}

fn plan(group: &str, rows: Vec<Row>) -> Plan {
    let group =
        GroupPlan { group: group.into(), kind: "classic".into(), state: "Empty".into(), rows, ..GroupPlan::default() };
    Plan { groups: vec![group], ..Plan::default() }
}

fn of_the_page() -> Plan {
    let set = |partition, offset| row("orders", partition, Some(offset), Action::Set);
    plan("order-processor", vec![set(0, 150_233), set(1, 148_891), set(2, 152_456)])
}

/// A folder with a tool of that name.
fn with_tool(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(name);
    fs::write(&path, FAKE).expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("made to run");
    folder
}

fn run(script: &str, folder: &Path) -> Output {
    let path = folder.join("script.sh");
    fs::write(&path, script).expect("written");
    let search = format!("{}:/usr/bin:/bin", folder.display());
    Command::new("bash").arg(&path).env_clear().env("PATH", search).output().expect("bash is there")
}

/// Returns the arguments of each call.
fn calls(folder: &Path) -> Vec<Vec<String>> {
    let noted = fs::read_to_string(folder.join("called")).unwrap_or_default();
    noted.split_terminator("--\n").map(|call| call.lines().map(str::to_owned).collect()).collect()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_word_is_quoted_where_a_shell_would_read_another() {
    for (word, shown) in [("", "''"), ("it's", r"'it'\''s'"), ("s3://b/p", "s3://b/p"), ("a b", "'a b'"), ("ä", "'ä'")]
    {
        assert_eq!(quoted(word), shown);
    }
}

#[test]
fn every_line_of_the_page_is_there_in_its_order() {
    let script = script(&of_the_page(), &options());
    let mut lines = script.lines();
    for line in PAGE.lines() {
        assert!(lines.any(|ours| ours == line), "`{line}` is missing, or not in its place:\n{script}");
    }
    assert!(script.starts_with(&PAGE[..PAGE.find("kafka-consumer").expect("there")]), "{script}");
}

#[test]
fn a_script_sets_every_partition_with_either_name_of_the_tool() {
    for name in ["kafka-consumer-groups", "kafka-consumer-groups.sh"] {
        let folder = with_tool(name);
        let output = run(&script(&of_the_page(), &options()), folder.path());
        assert!(output.status.success(), "{output:?}");
        let calls = calls(folder.path());
        assert_eq!(calls.len(), 3);
        let first = "--bootstrap-server kafka:9092 --group order-processor --topic orders:0 --reset-offsets --to-offset 150233 --execute";
        assert_eq!(calls[0].join(" "), first);
        assert!(String::from_utf8_lossy(&output.stdout).contains("NEW-OFFSET"), "what the tool says is shown");
    }
}

#[test]
fn without_the_tool_nothing_is_set_and_it_says_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = run(&script(&of_the_page(), &options()), folder.path());
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("neither kafka-consumer-groups nor kafka-consumer-groups.sh is on the PATH"));
}

#[test]
fn a_script_stops_at_the_first_partition_that_was_not_set() {
    for fails in [
        // As Kafka's tool does it: it prints the error and ends with 0.
        "printf \"\\nError: Assignments can only be reset if the group is inactive, but the current state is Stable.\\n\"",
        "printf '\\n%-15s %-15s %-10s %s\\n' order-processor orders 1 100",
        "exit 1",
        "true",
    ] {
        let folder = with_tool("kafka-consumer-groups");
        fs::write(folder.path().join("fails"), fails).expect("written");
        let output = run(&script(&of_the_page(), &options()), folder.path());
        assert_eq!((output.status.code(), calls(folder.path()).len()), (Some(1), 2), "{fails}: {output:?}");
        assert!(
            stderr(&output).contains("Error: partition 1 of orders was not set for group order-processor"),
            "{fails}"
        );
    }
}

#[test]
fn names_stay_names_whatever_they_hold() {
    let group = "it's $(touch hacked)\n# & `x`";
    let plan = plan(group, vec![row("orders", 0, Some(5), Action::Set), row("orders", 1, None, Action::Delete)]);
    let folder = with_tool("kafka-consumer-groups");
    let options = Script { command_config: Some("/etc/my client.properties"), backup_id: "a\nexit 7", ..options() };
    let output = run(&script(&plan, &options), folder.path());
    assert!(output.status.success(), "{output:?}");
    let calls = calls(folder.path());
    let arguments = |call: &[String]| call.join("\n");
    let begin =
        format!("--bootstrap-server\nkafka:9092\n--command-config\n/etc/my client.properties\n--group\n{group}\n");
    assert_eq!(arguments(&calls[0]), format!("{begin}--topic\norders:0\n--reset-offsets\n--to-offset\n5\n--execute"));
    assert_eq!(arguments(&calls[1]), format!("{begin}--topic\norders:1\n--delete-offsets"));
}

#[test]
fn what_is_left_out_is_said_and_no_success() {
    let rows = vec![
        row("orders", 0, Some(5), Action::Set),
        row("orders", 1, Some(6), Action::Same),
        row("orders", 2, None, Action::Skip("it was not restored\nrm x".into())),
    ];
    let mut plan = plan("g", rows);
    plan.groups[0].rows[0].target.as_mut().expect("set").metadata = "m".into();
    plan.groups.push(GroupPlan {
        group: "h".into(),
        refused: Some("it is a share group".into()),
        ..GroupPlan::default()
    });
    plan.groups.push(GroupPlan { group: "s".into(), kind: "streams".into(), ..plan.groups[0].clone() });
    let script = script(&plan, &options());
    for line in [
        "# SAME orders:1: it is at 6",
        "# SKIP orders:2: it was not restored\\nrm x",
        "# SKIP: it is a share group",
        "# SKIP: Kafka's tool does not set offsets of streams groups",
        "# Partitions that lose metadata by this script: 1",
    ] {
        assert!(script.lines().any(|ours| ours == line), "`{line}` is missing:\n{script}");
    }
    let folder = with_tool("kafka-consumer-groups");
    let output = run(&script, folder.path());
    assert_eq!((output.status.code(), calls(folder.path()).len()), (Some(3), 1), "{output:?}");
    assert!(stderr(&output).contains("Warning: 3 of what was asked for was left out"), "{output:?}");
}

#[test]
fn an_active_group_is_in_the_script_as_its_members_may_be_stopped_before() {
    let mut plan = of_the_page();
    plan.groups[0].refused = Some(format!("{ACTIVE}: c-1"));
    let script = script(&plan, &options());
    assert!(script.contains("  --topic orders:2 \\\n"), "{script}");
    assert!(
        script.contains("# Consumer group has active members: Kafka's tool refuses it until they are stopped"),
        "{script}"
    );
}
