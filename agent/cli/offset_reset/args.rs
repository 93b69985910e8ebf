//! What the verbs that reset offsets have in common: which groups, on which cluster, and which positions they get.
//!
//! Positions are those of the backup, or of what `--positions` names, translated to where their records are in the cluster; a
//! selector, as Kafka's own tool has it, says where instead. [`ResetArgs::plan`] makes the plan of either.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use super::super::cluster::ClusterArgs;
use super::super::groups::{self, GroupArgs};
use super::super::offset_rollback::performed;
use super::super::{Format, open, restores};
use super::selectors::SelectorArgs;
use crate::archive::{Archive, source};
use crate::config::value;
use crate::error::{Error, Result};
use crate::groups::headers;
use crate::groups::making::origin::{self, Found, Origin};
use crate::groups::making::{self, Groups, Wanted};
use crate::groups::not_found;
use crate::groups::places::{HeaderMap, Places};
use crate::groups::plan::Plan;
use crate::groups::positions::{Positions, group, savepoint, snapshot, source as running};
use crate::groups::present::{Now, Present};
use crate::groups::selector::TopicChoice;
use crate::groups::snapshot::Snapshots;
use crate::kafka::client::{Client, OPEN_WITHIN};
use crate::store::Store;

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

/// Where positions are from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whence {
    /// A savepoint of the backup.
    Savepoint(savepoint::Which),
    /// A snapshot, by its id.
    Snapshot(String),
    /// The running cluster that these brokers are of.
    Source(String),
    /// Another group of the target.
    Group(String),
}

impl std::str::FromStr for Whence {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            Error::usage(format!("`{text}` says not where positions are from"))
                .hint("savepoint:<id or time>, snapshot:<id>, source:<host:port,…> or group:<name>")
        };
        match text.split_once(':').filter(|(_, of)| !of.is_empty()).ok_or_else(wrong)? {
            ("savepoint", which) => which.parse().map(Self::Savepoint),
            ("snapshot", id) => Ok(Self::Snapshot(id.to_owned())),
            ("source", servers) => Ok(Self::Source(servers.to_owned())),
            ("group", group) => Ok(Self::Group(group.to_owned())),
            _ => Err(wrong()),
        }
    }
}

impl ResetArgs {
    /// Makes the plan; returns it with a client of the cluster.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) for what does not go together; those of making plans.
    pub async fn plan(&self) -> Result<(Client, Plan)> {
        self.check()?;
        let client = Client::open(self.cluster.properties()?, OPEN_WITHIN).await?;
        let mut plan = self.make(&client).await?;
        if let Some(within) = self.wait_until_empty {
            // A consumer that ends commits once more: what was planned may not be so any longer.
            if performed::wait(&client, &plan, within).await? {
                plan = self.make(&client).await?;
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

    /// Returns whether a selector says where the groups go.
    pub fn is_selected(&self) -> bool {
        self.selector.selector().is_some()
    }

    /// Makes sure that what was typed goes together.
    fn check(&self) -> Result<()> {
        let is_file = self.selector.from_file.is_some();
        if self.groups.is_empty() && !self.all_groups && !is_file {
            return Err(groups::none_named());
        }
        let has_source = matches!(self.positions, Some(Whence::Source(_)));
        if self.source_config.is_some() && !has_source {
            return Err(Error::usage("--source-config is for --positions source:…, which is not given"));
        }
        if self.is_selected() { self.check_selected() } else { self.check_translated() }
    }

    fn check_selected(&self) -> Result<()> {
        let is_translated = self.positions.is_some() || self.restore_id.is_some() || self.scan_headers;
        let has_scope = self.has_scope();
        if is_translated && has_scope {
            return Err(Error::usage(
                "a selector says where the groups go, and so do --positions, --restore-id and --scan-headers",
            )
            .hint("leave one out"));
        }
        if matches!(self.positions, Some(Whence::Group(_))) {
            return self.check_beside();
        }
        if !has_scope && self.backup_id.is_none() {
            return Err(Error::usage("no topic is named")
                .hint("add --topic, or --all-topics for all that a group has committed something for"));
        }
        Ok(())
    }

    fn check_translated(&self) -> Result<()> {
        if matches!(self.positions, Some(Whence::Group(_))) {
            return self.check_beside();
        }
        // Whose snapshots lie in a folder of their own has no backup.
        let has_snapshot = matches!(self.positions, Some(Whence::Snapshot(_)));
        let needs_archive = matches!(self.positions, None | Some(Whence::Savepoint(_))) || self.scan_headers;
        let missing = match (&self.path, &self.state, &self.backup_id) {
            (None, _, _) if needs_archive => "--path",
            (None, None, _) => "--path",
            (_, _, None) if !has_snapshot => "--backup-id",
            _ => return Ok(()),
        };
        Err(Error::usage(format!("{missing} is missing"))
            .hint("say --path and --backup-id, or where the groups are to go: --to-earliest, --to-latest, …"))
    }

    /// Makes sure that groups can be put beside another one.
    fn check_beside(&self) -> Result<()> {
        if self.all_groups {
            return Err(Error::usage("the groups that are put beside another are to be named").hint("--groups"));
        }
        if self.restore_id.is_some() || self.scan_headers {
            return Err(Error::usage(
                "--positions group:… is of this cluster: --restore-id and --scan-headers have nothing to say there",
            )
            .hint("leave them out"));
        }
        Ok(())
    }

    /// Returns whether partitions are named for a selector.
    fn has_scope(&self) -> bool {
        !self.topic.is_empty() || self.all_topics || self.selector.from_file.is_some()
    }

    fn wanted(&self) -> Result<Wanted> {
        let topics = match self.topic.is_empty() {
            true => None,
            false => Some(TopicChoice::parse(self.topic.iter().map(String::as_str))?),
        };
        let groups = if self.groups.is_empty() { Groups::All } else { Groups::Named(self.groups.names()) };
        Ok(Wanted { groups, topics, clamp: self.clamp, create_group: self.create_group })
    }

    async fn make(&self, client: &Client) -> Result<Plan> {
        let (wanted, selector) = (self.wanted()?, self.selector.selector());
        if let Some(selector) = selector.as_ref().filter(|_| self.has_scope()) {
            return making::from_selector(client, &wanted, selector).await;
        }
        let (positions, places, is_here) = self.translated(client).await?;
        let mut plan = match selector {
            None => making::from_positions(client, &wanted, &positions, &places).await?,
            // The positions say which partitions are the groups', and the selector where in them.
            Some(selector) => making::from_selector_over(client, &wanted, &selector, &positions, &places).await?,
        };
        if is_here {
            "this cluster".clone_into(&mut plan.places);
        }
        Ok(plan)
    }

    /// Returns where the groups stood, where that is on the cluster, and whether they stood on this very one.
    async fn translated(&self, client: &Client) -> Result<(Positions, Places, bool)> {
        if let Some(Whence::Group(other)) = &self.positions {
            let positions = group::read(client, other, &self.groups.names()).await?;
            self.check_created(client).await?;
            return Ok((positions, Places::Same, true));
        }
        if let Some(Whence::Snapshot(id)) = &self.positions {
            let snapshots =
                self.snapshots()?.ok_or_else(|| Error::usage("no place of snapshots is named").hint("--path"))?;
            let (snapshot, positions) = snapshot::read(&snapshots, id).await?;
            let is_here = snapshot.cluster_id.is_some() && snapshot.cluster_id == client.cluster_id();
            if self.restore_id.is_none() && is_here {
                return Ok((positions, Places::Same, true));
            }
            let clusters = (snapshot.cluster_id.as_deref(), client.cluster_id());
            if self.backup_id.is_none() {
                return Err(elsewhere(id, clusters));
            }
            let places = self.found(client).await?.places;
            // That the backup is of this cluster says nothing of offsets of another one.
            if !is_here && matches!(places, Places::Same) {
                return Err(elsewhere(id, clusters));
            }
            return Ok((positions, places, false));
        }
        let found = self.found(client).await?;
        Ok((self.read(&found).await?, found.places, false))
    }

    /// Reads the positions of a savepoint or of a running cluster.
    async fn read(&self, found: &Found) -> Result<Positions> {
        let which = match &self.positions {
            Some(Whence::Savepoint(which)) => *which,
            Some(Whence::Source(servers)) => {
                let (bootstrap_servers, command_config) = (Some(servers.clone()), self.source_config.clone());
                let args = ClusterArgs { bootstrap_servers, command_config, property: Vec::new() };
                let source = Client::open(args.properties()?, OPEN_WITHIN).await?;
                let names = self.groups.names();
                return running::read(&source, (!names.is_empty()).then_some(names.as_slice())).await;
            }
            _ => found.savepoint,
        };
        let archive = self.archive().await?.ok_or_else(|| Error::usage("--path is missing"))?;
        savepoint::read(&archive, which).await
    }

    /// Finds where the places in the target are from.
    async fn found(&self, client: &Client) -> Result<Found> {
        let backup_id = self.backup_id.as_deref().ok_or_else(|| Error::usage("--backup-id is missing"))?;
        let archive = self.archive().await?;
        let state: Store = match (&self.state, &archive) {
            (Some(state), _) => restores::beside(state, backup_id)?,
            (None, Some(archive)) => archive.store().clone(),
            (None, None) => return Err(Error::usage("--path is missing")),
        };
        let origin = Origin {
            state: &state,
            backup_id,
            source_cluster: archive.as_ref().and_then(|archive| archive.backup().cluster_id.as_deref()),
            restore_id: self.restore_id.as_deref(),
        };
        let cluster_id = client.cluster_id();
        match (origin::find(origin, cluster_id.as_deref()).await?, &archive) {
            (Some(found), _) => Ok(found),
            (None, Some(archive)) if self.scan_headers => self.scanned(client, archive).await,
            (None, _) => Err(origin::unknown(origin, cluster_id.as_deref())),
        }
    }

    /// Reads from the headers of the records where they are: of the topics that are named, or of those of the archive.
    async fn scanned(&self, client: &Client, archive: &Archive) -> Result<Found> {
        let topics: BTreeSet<String> = match self.wanted()?.topics {
            Some(topics) => topics.iter().map(|(topic, _)| topic.to_owned()).collect(),
            None => {
                let held: BTreeSet<String> =
                    source::timelines(archive).await?.iter().map(|timeline| timeline.topic.to_string()).collect();
                let told = client.metadata(Some(&Vec::from_iter(held))).await?.topics;
                told.into_iter().filter(|topic| topic.code == 0).map(|topic| topic.name).collect()
            }
        };
        if topics.is_empty() {
            return Err(Error::usage("the cluster has no topic of the backup whose headers could be read")
                .hint("say which topics its records are in: --topic"));
        }
        let scan = headers::scan(client, &Vec::from_iter(topics), archive, &headers::Names::default()).await?;
        Ok(Found { places: Places::Scanned(HeaderMap::of(scan.map)), savepoint: savepoint::Which::Newest })
    }

    async fn archive(&self) -> Result<Option<Archive>> {
        let (Some(path), Some(backup_id)) = (&self.path, &self.backup_id) else { return Ok(None) };
        source::open(&open(path)?, backup_id).await.map(Some)
    }

    /// Makes sure that groups whose names no positions know are there, or are to be made.
    async fn check_created(&self, client: &Client) -> Result<()> {
        if self.create_group {
            return Ok(());
        }
        let names = self.groups.names();
        let present = Present::look(client, &names).await?;
        let is_missing = |name: &&String| !present.groups.get(*name).is_some_and(Now::exists);
        match names.iter().find(is_missing) {
            None => Ok(()),
            Some(name) => {
                Err(not_found(name).hint("the cluster has none of that name; to make it, add --create-group"))
            }
        }
    }
}

/// Makes the error of who wants the positions of a snapshot of another cluster, and nothing says where they are in this one.
fn elsewhere(id: &str, (was, is): (Option<&str>, Option<String>)) -> Error {
    let unknown = "a cluster without an id";
    Error::usage(format!("snapshot {id} is of another cluster, where the same offsets are other records"))
        .with("taken of", was.unwrap_or(unknown))
        .with("this is", is.as_deref().unwrap_or(unknown))
        .hint(
            "name the brokers of that one with --bootstrap-servers; or say what has brought its records here: --path and \
             --backup-id, whose newest restore into this cluster is taken, and --restore-id for another",
        )
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

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
        let error = typed(arguments).check().expect_err("it does not go together");
        assert_eq!(error.exit_code(), 2, "{error}");
        error.to_string()
    }

    #[test]
    fn what_the_users_page_types_goes_together() {
        let page = typed(
            "--path /data/backups --backup-id production-backup-001 --groups order-processor,payment-service \
             --bootstrap-servers kafka:9092",
        );
        page.check().expect("it does");
        assert_eq!(page.groups.names(), ["order-processor", "payment-service"]);
        for more in [
            "--to-earliest --topic orders:0,1 --topic payments",
            "--to-latest --all-topics",
            "--shift-by -7 --all-topics",
            "--by-duration -PT1H --all-topics",
            "--by-duration PT-1H --all-topics",
        ] {
            let typed = typed(&format!("-b kafka:9092 --group g {more}"));
            typed.check().expect("with a selector no backup is needed");
            assert!(typed.is_selected());
        }
        typed("--from-file offsets.csv").check().expect("the file names the groups");
        typed("--groups g --positions group:other").check().expect("the cluster is asked alone");
        typed("--groups g --positions snapshot:snapshot-20241203-100000 --path /snapshots")
            .check()
            .expect("they lie there");
        typed("--groups g --backup-id b --state /s --positions source:kafka:9092")
            .check()
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
