//! A restore from its configuration to its end: what earlier starts have kept of it, what it is bound to by that, what it needs to
//! go on, records that are sent and consumer groups that are put back. The command line, the agent's connectors and its API all
//! start restores here.
//!
//! Nothing here changes anything, neither the archive nor the cluster, before [`perform`](Prepared::perform) does. A restore that is
//! finished stays so, whoever starts it how often: that is looked at first. Its order of durable effects is that of
//! [`restore::perform`](crate::restore::perform), and then that of [`groups::restoring`](crate::groups::restoring): killed between
//! the two, the next start finds all restored, and goes on with the groups. Cancellation: dropped at any point until it is
//! performed.

pub mod named;
pub mod phases;
pub mod undoing;

use tokio::sync::watch;

use self::phases::{Phase, Preview};
use crate::archive::{Archive, source};
use crate::config::Restore;
use crate::error::{Error, Kind, Result};
use crate::kafka::Properties;
use crate::kafka::client::{Client, OPEN_WITHIN};
use crate::restore::perform::{self, Planned, Summary};
use crate::restore::plan::{Plan, making};
use crate::restore::state::{Seen, State};
use crate::stages::Stages;
use crate::stages::spread::Spread;
use crate::store::Store;
use crate::telemetry::Health;
use crate::telemetry::logging::counted;

/// Takes the lines that a restore says of itself.
pub type Say<'a> = &'a (dyn Fn(&str) + Send + Sync);

/// A restore, as earlier starts have left it.
pub struct Looked<'a> {
    restore: &'a Restore,
    archive: Archive,
    /// Where it keeps what it does, rooted at the backup.
    beside: Store,
    state: State,
    /// What was kept when it was looked at.
    seen: Seen,
    /// The plan that it is bound to, if there is one.
    before: Option<Plan>,
    properties: Properties,
}

/// A restore that is planned, of which this start has done nothing yet; or one that is done, but for its groups.
pub struct Prepared<'a> {
    restore: &'a Restore,
    archive: Archive,
    client: Client,
    state: State,
    /// What was kept when it was looked at.
    seen: Seen,
    plan: Plan,
    stages: Option<Stages>,
    is_done: bool,
    /// The consumer groups that are put back.
    groups: Option<Phase>,
}

/// Looks at what earlier starts have kept of a restore, before another plan is made, which would find in the targets what was
/// made and sent.
///
/// # Errors
/// [`Kind::Usage`] for what cannot be restored; as [`perform::before`].
pub async fn look(restore: &Restore) -> Result<Looked<'_>> {
    let properties = Properties::new(restore.sink.kafka.clone())?;
    let root = Store::open(&restore.source.path)?;
    let archive = source::open(&root, &restore.source.backup_id).await?;
    let beside = beside(restore)?;
    let state = State::new(&beside, &restore.id())?;
    let seen = state.look().await?;
    let before = perform::before(restore, state.restore_id(), &seen)?;
    Ok(Looked { restore, archive, beside, state, seen, before, properties })
}

/// Returns what a restore has kept, whether it can go on or not.
///
/// # Errors
/// Those of the store.
pub async fn seen(restore: &Restore) -> Result<Seen> {
    State::new(&beside(restore)?, &restore.id())?.look().await
}

/// Returns where a restore keeps what it does, rooted at the backup.
fn beside(restore: &Restore) -> Result<Store> {
    let place = restore.sink.state.as_ref().unwrap_or(&restore.source.path);
    Ok(Store::open(place)?.within(&restore.source.backup_id))
}

impl<'a> Looked<'a> {
    /// Returns whether all records are restored.
    pub fn is_done(&self) -> bool {
        self.seen.done.is_some()
    }

    /// Returns what it keeps.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Returns the plan that it is bound to, if there is one.
    pub fn before(&self) -> Option<&Plan> {
        self.before.as_ref()
    }

    /// Returns whether nothing is left to do, for its groups either; the cluster is not asked.
    ///
    /// # Errors
    /// As [`Phase::find`] and [`Phase::is_over`].
    pub async fn is_finished(&self) -> Result<bool> {
        let Some(plan) = self.before.as_ref().filter(|_| self.is_done()) else { return Ok(self.is_done()) };
        match Phase::find(self.restore, (&self.archive, &self.beside), (plan, &self.seen)).await? {
            Some(groups) => groups.is_over(&self.state).await,
            None => Ok(true),
        }
    }

    /// Connects, plans what is to be done, if that is not planned yet, and finds where the groups stood.
    ///
    /// # Errors
    /// [`Kind::Usage`] for what cannot be restored; `Consumer group '…' not found`.
    pub async fn plan(self, say: Say<'_>) -> Result<Prepared<'a>> {
        let is_done = self.is_done();
        let Self { restore, archive, beside, state, seen, before, properties } = self;
        let stages = if is_done { None } else { open_stages(restore).await? };
        let client = Client::open(properties, OPEN_WITHIN).await?;
        let plan = match before {
            Some(plan) => plan,
            None => {
                let made = making::make(restore, &archive, &client, stages.as_ref()).await;
                // Another start may have kept its plan meanwhile: what that one has made and sent is no danger.
                match perform::before(restore, state.restore_id(), &state.look().await?)? {
                    Some(plan) => plan,
                    None => made?,
                }
            }
        };
        if !is_done {
            plan.check_stages(stages.as_ref())?;
        }
        let groups = Phase::find(restore, (&archive, &beside), (&plan, &seen)).await?;
        groups.iter().for_each(|groups| groups.first(restore, say));
        Ok(Prepared { restore, archive, client, state, seen, plan, stages, is_done, groups })
    }
}

impl Prepared<'_> {
    /// Returns the pipeline's name.
    pub fn name(&self) -> &str {
        &self.restore.name
    }

    /// Returns what it keeps.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Returns what is going to be done.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Returns the id of the cluster that it restores to, if that says one.
    pub fn cluster_id(&self) -> Option<String> {
        self.client.cluster_id()
    }

    /// Refuses what was cancelled, and what is dangerous about the plan and is not accepted, before anything is changed.
    ///
    /// # Errors
    /// As [`perform::check_cancelled`] and [`Planned::check`].
    pub fn check(&self) -> Result<()> {
        if self.is_done {
            return Ok(());
        }
        // A wish that came when all had landed keeps nobody from its last word.
        if !self.seen.has_landed() {
            perform::check_cancelled(self.state.restore_id(), &self.seen)?;
        }
        self.planned(&Health::new()).check()
    }

    /// Returns what would become of consumer groups; `None` where none are put back.
    ///
    /// # Errors
    /// As [`Phase::preview`].
    pub async fn preview(&self) -> Result<Option<Preview>> {
        let Some(groups) = &self.groups else { return Ok(None) };
        groups.preview((self.restore, &self.plan, self.is_done), &self.client, &self.state).await.map(Some)
    }

    fn planned<'b>(&'b self, health: &'b Health) -> Planned<'b> {
        Planned {
            restore: self.restore,
            archive: &self.archive,
            client: &self.client,
            state: &self.state,
            plan: &self.plan,
            stages: self.stages.as_ref(),
            health,
        }
    }

    /// Does it, and says what came of it; returns what was restored, `None` where that was so before. `health` is where it says
    /// what is wrong. Told to stop it does so before it begins with groups, or when it is through with them.
    ///
    /// # Errors
    /// As [`Planned::perform`]; [`Kind::Partial`] where all is restored and groups could not be put back.
    pub async fn perform(&self, health: &Health, stop: watch::Receiver<bool>, say: Say<'_>) -> Result<Option<Summary>> {
        let (name, id) = (&self.restore.name, self.state.restore_id());
        let phase = if self.groups.is_some() { "Phase 2: " } else { "" };
        let summary = match self.is_done {
            true => {
                say(&format!("{phase}{name}: restore `{id}` is finished already"));
                None
            }
            false => {
                let summary = self.planned(health).perform(stop.clone()).await?;
                say(&format!("{phase}{name}: {}; restore `{id}`", told(&summary)));
                Some(summary)
            }
        };
        let Some(groups) = &self.groups else { return Ok(summary) };
        if *stop.borrow() {
            return Err(Error::new(
                Kind::Interrupted,
                "interrupted: all is restored, and no consumer group is put back",
            )
            .with("restore", id)
            .hint("start it again to go on with them"));
        }
        groups.third(self.restore, &self.client, &self.state, say).await?;
        Ok(summary)
    }
}

/// Says what was restored.
fn told(summary: &Summary) -> String {
    let left_out = match summary.left_out {
        0 => String::new(),
        records => format!(", {} left out because stages failed at them", counted(records, "record")),
    };
    format!(
        "{} records ({}) restored to {}{left_out}",
        indicatif::HumanCount(summary.records),
        indicatif::HumanBytes(summary.bytes),
        counted(summary.partitions as u64, "partition")
    )
}

/// What came of a start that went well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Nothing was left to do.
    Before,
    /// It came to the end, having restored that; `None` where only consumer groups were left.
    Now(Option<Summary>),
}

/// Restores from wherever earlier starts have come to, to the end, consumer groups too. `begins` is told when both ends are open and nothing forbids it, with the id of the target's cluster; it is
/// not told where nothing is left to do.
///
/// # Errors
/// As [`look`], [`Looked::plan`], [`Prepared::check`] and [`Prepared::perform`].
pub async fn run(
    restore: &Restore,
    health: &Health,
    mut stop: watch::Receiver<bool>,
    begins: impl FnOnce(Option<&str>),
    say: Say<'_>,
) -> Result<Ended> {
    let prepared = async {
        let looked = look(restore).await?;
        if looked.is_finished().await? { Ok(None) } else { looked.plan(say).await.map(Some) }
    };
    let prepared = tokio::select! {
        prepared = prepared => prepared?,
        _ = stop.wait_for(|stop| *stop) => {
            return Err(Error::new(Kind::Interrupted, "interrupted before anything was restored"));
        }
    };
    let Some(prepared) = prepared else { return Ok(Ended::Before) };
    prepared.check()?;
    begins(prepared.cluster_id().as_deref());
    prepared.perform(health, stop, say).await.map(Ended::Now)
}

/// Opens the stages that a restore goes through, which compiles their plugins; `None` where it has none, and spreads nothing
/// by key.
async fn open_stages(restore: &Restore) -> Result<Option<Stages>> {
    let spread = Spread::new(&restore.sink.repartition);
    if restore.stages.is_empty() && spread.is_empty() {
        return Ok(None);
    }
    let (name, stages) = (restore.name.clone(), restore.stages.clone());
    let opened = tokio::task::spawn_blocking(move || Stages::of_restore(&name, &stages, &spread)).await;
    opened.map_err(|error| Error::failed("the stages could not be opened").source(error))?.map(Some)
}
