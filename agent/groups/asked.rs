//! What is asked for of consumer groups: which of them get which positions, on a cluster that is reached already. The command
//! line and the API ask the same.
//!
//! Positions are those of the backup, or of what [`Asked::positions`] names, translated to where their records are in the
//! cluster; a selector, as Kafka's own tool has it, says where instead. Nothing is changed here.

use std::collections::BTreeSet;

use super::headers;
use super::making::origin::{self, Found, Origin};
use super::making::{self, Groups, Wanted};
use super::not_found;
use super::places::{HeaderMap, Places};
use super::plan::Plan;
use super::positions::{Positions, group, savepoint, snapshot, source as running};
use super::present::{Now, Present};
use super::selector::{Selector, TopicChoice};
use super::snapshot::Snapshots;
use crate::archive::{Archive, source};
use crate::error::{Error, Result};
use crate::kafka::Properties;
use crate::kafka::client::{Client, OPEN_WITHIN};
use crate::store::Store;

/// Which groups get which positions.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// Where the archive is: a folder or a URL.
    pub path: Option<String>,
    /// The name of the backup.
    pub backup_id: Option<String>,
    /// Where restores and snapshots are kept, if not with the backup.
    pub state: Option<String>,
    /// The groups.
    pub groups: Vec<String>,
    /// Whether all groups that have positions are meant; with a selector, all of the cluster.
    pub all_groups: bool,
    /// The restore that says where the records are; else the newest of the backup into this cluster.
    pub restore_id: Option<String>,
    /// Where the positions are from, if not from the newest savepoint that fits.
    pub positions: Option<Whence>,
    /// How the cluster of [`Whence::Source`] is reached.
    pub source: Option<Properties>,
    /// Where the groups are to go instead of positions of the backup.
    pub selector: Option<Selector>,
    /// Topics of the cluster, or some partitions of them: `orders`, `orders:0,1`.
    pub topic: Vec<String>,
    /// With a selector: all topics that a group has committed something for.
    pub all_topics: bool,
    /// Whether the nearest offset that there is is taken where the one that is asked for is not.
    pub clamp: bool,
    /// With a selector or the positions of another group: whether groups are made that are not on the cluster.
    pub create_group: bool,
    /// Whether the headers are read where no restore says where the records are.
    pub scan_headers: bool,
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

impl Asked {
    /// Makes the plan.
    ///
    /// # Errors
    /// As [`check`](Self::check), and those of making plans.
    pub async fn plan(&self, client: &Client) -> Result<Plan> {
        self.check()?;
        let (wanted, selector) = (self.wanted()?, self.selector.as_ref());
        if let Some(selector) = selector.filter(|_| self.has_scope()) {
            return making::from_selector(client, &wanted, selector).await;
        }
        let (positions, places, is_here) = self.translated(client).await?;
        let mut plan = match selector {
            None => making::from_positions(client, &wanted, &positions, &places).await?,
            // The positions say which partitions are the groups', and the selector where in them.
            Some(selector) => making::from_selector_over(client, &wanted, selector, &positions, &places).await?,
        };
        if is_here {
            "this cluster".clone_into(&mut plan.places);
        }
        Ok(plan)
    }

    /// Opens the place of the snapshots: where restores are kept, else beside the backup; `None` where neither is named.
    ///
    /// # Errors
    /// As [`Snapshots::open`].
    pub fn snapshots(&self) -> Result<Option<Snapshots>> {
        let place = self.state.as_deref().or(self.path.as_deref());
        place.map(|place| Snapshots::open(place, self.backup_id.as_deref())).transpose()
    }

    /// Makes sure that what is asked for goes together.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage), which names what is missing by the flags of the command line.
    pub fn check(&self) -> Result<()> {
        let is_file = matches!(self.selector, Some(Selector::File(_)));
        if self.groups.is_empty() && !self.all_groups && !is_file {
            return Err(Error::usage("no group is named").hint("add --groups, --group or --all-groups"));
        }
        if self.selector.is_some() { self.check_selected() } else { self.check_translated() }
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
        !self.topic.is_empty() || self.all_topics || matches!(self.selector, Some(Selector::File(_)))
    }

    fn wanted(&self) -> Result<Wanted> {
        let topics = match self.topic.is_empty() {
            true => None,
            false => Some(TopicChoice::parse(self.topic.iter().map(String::as_str))?),
        };
        let groups = if self.groups.is_empty() { Groups::All } else { Groups::Named(self.groups.clone()) };
        Ok(Wanted { groups, topics, clamp: self.clamp, create_group: self.create_group })
    }

    /// Returns where the groups stood, where that is on the cluster, and whether they stood on this very one.
    async fn translated(&self, client: &Client) -> Result<(Positions, Places, bool)> {
        if let Some(Whence::Group(other)) = &self.positions {
            let positions = group::read(client, other, &self.groups).await?;
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
                let properties = match &self.source {
                    Some(properties) => properties.clone(),
                    None => Properties::new([("bootstrap.servers".to_owned(), servers.clone())].into())?,
                };
                let source = Client::open(properties, OPEN_WITHIN).await?;
                return running::read(&source, (!self.groups.is_empty()).then_some(self.groups.as_slice())).await;
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
            (Some(state), _) => Store::open(state)?.within(backup_id),
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
        source::open(&Store::open(path)?, backup_id).await.map(Some)
    }

    /// Makes sure that groups whose names no positions know are there, or are to be made.
    async fn check_created(&self, client: &Client) -> Result<()> {
        if self.create_group {
            return Ok(());
        }
        let present = Present::look(client, &self.groups).await?;
        let is_missing = |name: &&String| !present.groups.get(*name).is_some_and(Now::exists);
        match self.groups.iter().find(is_missing) {
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
