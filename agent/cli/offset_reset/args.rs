//! What the verbs that reset offsets have in common: which groups, on which cluster, and which positions they get.
//!
//! What the flags come to is an [`Asked`], which makes the plan.

use std::path::PathBuf;
use std::time::Duration;

use super::super::cluster::ClusterArgs;
use super::super::groups::GroupArgs;
use super::super::offset_rollback::performed;
use super::super::{Format, open, restores};
use super::selectors::SelectorArgs;
use crate::config::value;
use crate::error::{Error, Result};
use crate::groups::asked::{Asked, Whence};
use crate::groups::plan::Plan;
use crate::groups::snapshot::Snapshots;
use crate::kafka::client::{Client, OPEN_WITHIN};

/// Which groups get which positions, on which cluster.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ResetArgs {
    /// Where the archive is: a folder or a URL
    #[arg(long, value_name = "PATH|URL")]
    pub path: Option<String>,
    /// The name of the backup
    #[arg(long, value_name = "NAME", value_parser = super::super::backup_id)]
    pub backup_id: Option<String>,
    /// Where restores and snapshots are kept, if not with the backup: a folder or a URL
    #[arg(long, value_name = "PATH|URL")]
    pub state: Option<String>,
    /// The groups.
    #[command(flatten)]
    pub groups: GroupArgs,
    /// All groups that have positions; with a selector, all of the cluster
    #[arg(long, conflicts_with = "GroupArgs")]
    pub all_groups: bool,
    /// The cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// The restore that says where the records are; else the newest of the backup into this cluster
    #[arg(long, value_name = "ID", value_parser = restores::restore_id)]
    pub restore_id: Option<String>,
    /// Where the positions are from, if not from the newest savepoint that fits: savepoint:<id or time>, snapshot:<id>,
    /// source:<bootstrap servers>, group:<another group of the cluster>
    #[arg(long, value_name = "FROM")]
    pub positions: Option<Whence>,
    /// A file of properties of the Kafka client for the cluster of --positions source:…, one a line
    #[arg(long, value_name = "FILE")]
    pub source_config: Option<PathBuf>,
    /// Where the groups are to go instead of positions of the backup.
    #[command(flatten)]
    pub selector: SelectorArgs,
    /// A topic of the cluster, or some partitions of it: orders or orders:0,1; may be given again
    #[arg(long, value_name = "TOPIC[:0,1]")]
    pub topic: Vec<String>,
    /// With a selector: all topics that a group has committed something for
    #[arg(long, conflicts_with = "topic")]
    pub all_topics: bool,
    /// Take the nearest offset that there is where the one that is asked for is not
    #[arg(long)]
    pub clamp: bool,
    /// With a selector or the positions of another group: make groups that are not on the cluster
    #[arg(long)]
    pub create_group: bool,
    /// Where no restore says where the records are: read the headers that header-injector has given them
    #[arg(long)]
    pub scan_headers: bool,
    /// Wait until the groups have no members, 5m unless told otherwise
    #[arg(
        long, value_name = "DURATION", num_args = 0..=1, default_missing_value = "5m",
        value_parser = value::duration
    )]
    pub wait_until_empty: Option<Duration>,
    /// How to print
    #[arg(long, short = 'o', value_enum, default_value_t)]
    pub format: Format,
}

impl ResetArgs {
    /// Makes the plan; returns it with a client of the cluster.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) for what does not go together; those of making plans.
    pub async fn plan(&self) -> Result<(Client, Plan)> {
        let asked = self.asked()?;
        if let Some(path) = &self.path {
            drop(open(path)?);
        }
        if let Some(state) = &self.state {
            drop(restores::beside(state, self.backup_id.as_deref().unwrap_or_default())?);
        }
        let client = Client::open(self.cluster.properties()?, OPEN_WITHIN).await?;
        let mut plan = asked.plan(&client).await?;
        if let Some(within) = self.wait_until_empty {
            // A consumer that ends commits once more: what was planned may not be so any longer.
            if performed::wait(&client, &plan, within).await? {
                plan = asked.plan(&client).await?;
            }
        }
        Ok((client, plan))
    }

    /// Opens the place of the snapshots: `--state`, else beside the backup; `None` where neither is named.
    ///
    /// # Errors
    /// As [`Snapshots::open`].
    pub fn snapshots(&self) -> Result<Option<Snapshots>> {
        let place = self.state.as_deref().or(self.path.as_deref());
        place.map(|place| Snapshots::open(place, self.backup_id.as_deref())).transpose()
    }

    /// As [`snapshots`](Self::snapshots), for who keeps the present there before it is changed.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) where no place is named.
    pub fn keeping(&self) -> Result<Snapshots> {
        self.snapshots()?.ok_or_else(|| {
            Error::usage("what the groups have now can be kept nowhere")
                .hint("add --state, or --path and --backup-id; or --no-snapshot, and it cannot be brought back")
        })
    }

    /// Returns what is asked for, after making sure that what was typed goes together.
    fn asked(&self) -> Result<Asked> {
        let source = match (&self.positions, &self.source_config) {
            (Some(Whence::Source(servers)), command_config) => {
                let (bootstrap_servers, command_config) = (Some(servers.clone()), command_config.clone());
                Some(ClusterArgs { bootstrap_servers, command_config, property: Vec::new() })
            }
            (_, None) => None,
            (_, Some(_)) => {
                return Err(Error::usage("--source-config is for --positions source:…, which is not given"));
            }
        };
        let mut asked = Asked {
            path: self.path.clone(),
            backup_id: self.backup_id.clone(),
            state: self.state.clone(),
            groups: self.groups.names(),
            all_groups: self.all_groups,
            restore_id: self.restore_id.clone(),
            positions: self.positions.clone(),
            source: None,
            selector: self.selector.selector(),
            topic: self.topic.clone(),
            all_topics: self.all_topics,
            clamp: self.clamp,
            create_group: self.create_group,
            scan_headers: self.scan_headers,
        };
        asked.check()?;
        asked.source = source.map(|source| source.properties()).transpose()?;
        Ok(asked)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::groups::positions::savepoint;

    #[derive(Debug, clap::Parser)]
    struct Typed {
        #[command(flatten)]
        reset: ResetArgs,
    }

    fn typed(arguments: &str) -> ResetArgs {
        let words = std::iter::once("k").chain(arguments.split_whitespace());
        Typed::try_parse_from(words).expect("it can be read").reset
    }

    fn refused(arguments: &str) -> String {
        let error = typed(arguments).asked().expect_err("it does not go together");
        assert_eq!(error.exit_code(), 2, "{error}");
        error.to_string()
    }

    #[test]
    fn what_the_users_page_types_goes_together() {
        let page = typed(
            "--path /data/backups --backup-id production-backup-001 --groups order-processor,payment-service \
             --bootstrap-servers kafka:9092",
        );
        let _ = page.asked().expect("it does");
        assert_eq!(page.groups.names(), ["order-processor", "payment-service"]);
        for more in [
            "--to-earliest --topic orders:0,1 --topic payments",
            "--to-latest --all-topics",
            "--shift-by -7 --all-topics",
            "--by-duration -PT1H --all-topics",
            "--by-duration PT-1H --all-topics",
        ] {
            let typed = typed(&format!("-b kafka:9092 --group g {more}"));
            assert!(typed.asked().expect("with a selector no backup is needed").selector.is_some());
        }
        let _ = typed("--from-file offsets.csv").asked().expect("the file names the groups");
        let _ = typed("--groups g --positions group:other").asked().expect("the cluster is asked alone");
        let _ = typed("--groups g --positions snapshot:snapshot-20241203-100000 --path /snapshots")
            .asked()
            .expect("they lie there");
        let _ = typed("--groups g --backup-id b --state /s --positions source:kafka:9092")
            .asked()
            .expect("the archive is not read");
    }

    #[test]
    fn what_does_not_go_together_is_refused_with_what_is_missing() {
        for (arguments, words) in [
            ("--path p --backup-id b", "--all-groups"),
            ("--groups g", "--path is missing"),
            ("--groups g --path p", "--backup-id is missing"),
            ("--groups g --to-earliest", "--all-topics"),
            ("--groups g --to-earliest --all-topics --scan-headers", "leave one out"),
            ("--all-groups --positions group:other", "are to be named"),
            ("--groups g --positions group:other --restore-id zzz", "is of this cluster"),
            ("--groups g --positions group:other --path p --backup-id b --scan-headers", "is of this cluster"),
            ("--groups g --positions group:other --path p --backup-id b --restore-id z --to-latest", "leave them out"),
            ("--groups g --path p --backup-id b --source-config f", "--positions source:"),
        ] {
            let error = refused(arguments);
            assert!(error.contains(words), "{arguments}: {error}");
        }
    }

    #[test]
    fn of_several_selectors_one_is_too_many() {
        for wrong in [
            "--to-earliest --to-latest",
            "--to-offset 5 --shift-by 1",
            "--to-datetime x",
            "--by-duration 1h",
            "--by-duration --all-topics",
            "--all-groups",
            "--group x --all-groups",
        ] {
            let words = ["k", "--groups", "g"].into_iter().chain(wrong.split_whitespace());
            assert!(Typed::try_parse_from(words).is_err(), "{wrong}");
        }
    }

    #[test]
    fn positions_are_named_by_where_they_are_from() {
        let time = "2026-11-22T10:00:00Z";
        for (text, whence) in [
            ("savepoint:20261122T100000.000Z", Whence::Savepoint("20261122T100000.000Z".parse().expect("a name"))),
            (
                "savepoint:2026-11-22T10:00:00Z",
                Whence::Savepoint(savepoint::Which::AtOrBefore(time.parse().expect("a time"))),
            ),
            ("snapshot:s", Whence::Snapshot("s".into())),
            ("source:a:9092,b:9092", Whence::Source("a:9092,b:9092".into())),
            ("group:a:b", Whence::Group("a:b".into())),
        ] {
            assert_eq!(text.parse::<Whence>().expect("it is one"), whence);
        }
        for wrong in ["savepoint:yesterday", "snapshot:", "group", "kafka:9092"] {
            assert!(wrong.parse::<Whence>().is_err(), "{wrong}");
        }
    }
}
