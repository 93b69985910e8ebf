//! A shell script that does what a plan says, with Kafka's own tool.
//!
//! The script holds the lines of the user's page in their order, and ours between. It runs as it is: with `kafka-consumer-groups`,
//! or `kafka-consumer-groups.sh` where only that is on the PATH. It stops at the first partition that was not set as the plan
//! says; Kafka's tool ends with 0 then too, so that what it prints is looked at. Run again it sets the same. Whatever names
//! hold, a shell reads them as names. It ends with 0 when all is set, 1 when a partition could not be set, 3 when all is set but
//! what the plan skips. Pure.

use std::fmt::Write as _;

use super::ACTIVE;
use super::plan::{Action, GroupPlan, Plan, Row};
use crate::record::Timestamp;

/// What a script is made of besides a plan.
#[derive(Debug, Clone, Copy)]
pub struct Script<'a> {
    /// The backup.
    pub backup_id: &'a str,
    /// When it is made.
    pub generated: Timestamp,
    /// The servers, as Kafka's tool takes them.
    pub bootstrap_servers: &'a str,
    /// The file of settings for Kafka's tool.
    pub command_config: Option<&'a str>,
}

/// The tool, and what makes its failures the script's.
const TOOL: &str = r#"set -euo pipefail

tool=$(type -P kafka-consumer-groups || type -P kafka-consumer-groups.sh || true)
if [ -z "$tool" ]; then
  echo 'Error: neither kafka-consumer-groups nor kafka-consumer-groups.sh is on the PATH; nothing was set' >&2
  exit 1
fi

# Kafka's tool also ends with 0 when it could not set an offset, or has set another one: what it prints is looked at.
kafka-consumer-groups() {
  local arguments=("$@") group='' topic='' partition='' offset='' output line is_set=''
  while [ "$#" -gt 0 ]; do
    case "$1" in
      --bootstrap-server | --command-config) shift ;;
      --group) group=$2; shift ;;
      --topic) topic=${2%:*} partition=${2##*:}; shift ;;
      --to-offset) offset=$2; shift ;;
    esac
    shift
  done
  if ! output=$("$tool" "${arguments[@]}"); then
    printf '%s\n' "$output"
    echo "Error: partition $partition of $topic was not set for group $group; what follows in this script was not done" >&2
    exit 1
  fi
  printf '%s\n' "$output"
  while IFS= read -r line; do
    case "$line" in
      Error:*) is_set=''; break ;;
      'Request succeeded for deleting offsets'*) [ -n "$offset" ] || is_set=yes ;;
    esac
    if [ -n "$offset" ] && [[ "$line" =~ [[:space:]]"$topic"[[:space:]]+"$partition"[[:space:]]+"$offset"[[:space:]]*$ ]]; then
      is_set=yes
    fi
  done <<<"$output"
  if [ -z "$is_set" ]; then
    echo "Error: partition $partition of $topic was not set for group $group as planned; what follows in this script was not done" >&2
    exit 1
  fi
}
"#;

/// Returns the script that does what the plan says.
pub fn script(plan: &Plan, options: &Script<'_>) -> String {
    let mut text = format!(
        "#!/bin/bash\n# Offset reset script for backup: {}\n# Generated: {}\n\n# Stop consumers before running this script!\n\n",
        plainly(options.backup_id),
        seconds(options.generated),
    );
    put_notes(&mut text, plan);
    text.push_str(TOOL);
    let mut command = format!("kafka-consumer-groups --bootstrap-server {}", quoted(options.bootstrap_servers));
    if let Some(file) = options.command_config {
        command.push_str(&format!(" --command-config {}", quoted(file)));
    }
    let mut missing = 0;
    for group in &plan.groups {
        missing += put_group(&mut text, group, &command);
    }
    if missing > 0 {
        let what =
            format!("Warning: {missing} of what was asked for was left out: see the lines with SKIP in this script");
        put(&mut text, format_args!("\necho {} >&2\nexit 3\n", quoted(&what)));
    }
    text
}

/// Puts what is to be known of the whole.
fn put_notes(text: &mut String, plan: &Plan) {
    for (what, of) in [("Positions", &plan.positions), ("Places", &plan.places)] {
        if !of.is_empty() {
            put(text, format_args!("# {what}: {}\n", plainly(of)));
        }
    }
    let groups = plan.groups.iter().filter(|group| skipped(group).is_none());
    let rows = groups.flat_map(|group| &group.rows).filter(|row| row.action == Action::Set);
    let kept = rows.filter(|row| row.target.as_ref().is_some_and(|target| !target.metadata.is_empty())).count();
    if kept > 0 {
        let what = "Kafka's tool sets offsets without metadata; kafka-backup offset-reset execute carries it";
        put(text, format_args!("# {what}\n# Partitions that lose metadata by this script: {kept}\n"));
    }
}

/// Puts what is done with a group; returns how much of what was asked for is not.
fn put_group(text: &mut String, group: &GroupPlan, command: &str) -> usize {
    put(text, format_args!("\n# Consumer group: {}\n", plainly(&group.group)));
    if let Some(why) = skipped(group) {
        put(text, format_args!("# SKIP: {}\n", plainly(why)));
        return 1;
    }
    if group.refused.is_some() {
        put(text, format_args!("# {ACTIVE}: Kafka's tool refuses it until they are stopped\n"));
    }
    let lacks = group.lacks.as_deref().map(|why| put(text, format_args!("# SKIP: {}\n", plainly(why))));
    let skipped = group.rows.iter().filter(|row| put_row(text, &group.group, row, command).is_none()).count();
    skipped + usize::from(lacks.is_some())
}

/// Returns why nothing of a group is in the script.
fn skipped(group: &GroupPlan) -> Option<&str> {
    // The members may be gone when the script is run; Kafka's tool looks, too.
    let is_active = |why: &str| why.starts_with(ACTIVE) && !group.rows.is_empty();
    let refused = group.refused.as_deref().filter(|why| !is_active(why));
    // Since Kafka 4.1 it refuses to; before, there are none.
    refused.or((group.kind == "streams").then_some("Kafka's tool does not set offsets of streams groups"))
}

/// Puts what is done with a partition; `None` where nothing is, though it was asked for.
fn put_row(text: &mut String, group: &str, row: &Row, command: &str) -> Option<()> {
    let of = plainly(&format!("{}:{}", row.topic, row.partition));
    let offset = row.target.as_ref().map(|target| target.offset);
    match (&row.action, offset) {
        (Action::Set, Some(offset)) => {
            put_command(text, command, group, row, &format!("--reset-offsets --to-offset {offset} --execute"));
        }
        (Action::Delete, _) => put_command(text, command, group, row, "--delete-offsets"),
        (Action::Same, Some(offset)) => put(text, format_args!("\n# SAME {of}: it is at {offset}\n")),
        (Action::Same, None) => put(text, format_args!("\n# SAME {of}: it has no offset\n")),
        (Action::Skip(why), _) => {
            put(text, format_args!("\n# SKIP {of}: {}\n", plainly(why)));
            return None;
        }
        (Action::Set, None) => {
            put(text, format_args!("\n# SKIP {of}: the plan has no offset for it\n"));
            return None;
        }
    }
    Some(())
}

fn put_command(text: &mut String, command: &str, group: &str, row: &Row, what: &str) {
    let (group, topic) = (quoted(group), quoted(&format!("{}:{}", row.topic, row.partition)));
    put(text, format_args!("\n{command} \\\n  --group {group} \\\n  --topic {topic} \\\n  {what}\n"));
}

fn put(text: &mut String, what: std::fmt::Arguments<'_>) {
    text.write_fmt(what).expect("a string takes everything");
}

/// Returns a word as a POSIX shell reads it, in quotes if it needs any.
pub fn quoted(word: &str) -> String {
    let is_safe = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./:,@%+=".contains(&byte);
    match !word.is_empty() && word.bytes().all(is_safe) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

/// Returns text for a comment: a line that breaks would be run.
fn plainly(text: &str) -> String {
    let breaks = |char: char| char.is_control() || matches!(char, '\u{2028}' | '\u{2029}');
    text.chars().map(|char| if breaks(char) { char.escape_default().to_string() } else { char.to_string() }).collect()
}

/// Returns a time as RFC 3339 in whole seconds.
fn seconds(time: Timestamp) -> String {
    let text = time.to_string();
    text.split_once('.').map_or(text.clone(), |(seconds, _)| format!("{seconds}Z"))
}

#[cfg(test)]
mod tests;
