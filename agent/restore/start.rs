//! A start of a restore from its configuration: what earlier starts have kept of it, what it is bound to by that, and what it
//! needs to go on.
//!
//! Nothing here changes anything, neither the archive nor the cluster, before [`perform`] does. A restore that is finished stays
//! so, whoever starts it how often: that is looked at first. Cancellation: dropped at any point until it is performed.

use tokio::sync::watch;

use super::perform::{self, Planned, Summary};
use super::plan::{Plan, making};
use super::state::{Seen, State};
use crate::archive::{Archive, source};
use crate::config::Restore;
use crate::error::{Error, Kind, Result};
use crate::kafka::Properties;
use crate::kafka::client::{Client, OPEN_WITHIN};
use crate::stages::Stages;
use crate::stages::spread::Spread;
use crate::store::Store;
use crate::telemetry::Health;

/// A restore, as earlier starts have left it.
pub struct Looked {
    /// What it reads.
    pub archive: Archive,
    /// Where it keeps what it does, rooted at the backup.
    pub beside: Store,
    /// What it keeps.
    pub state: State,
    /// What was kept when it was looked at.
    pub seen: Seen,
    /// The plan that it is bound to, if there is one.
    pub before: Option<Plan>,
    properties: Properties,
}

/// A restore that is planned, of which this start has done nothing yet.
pub struct Ready {
    /// What it reads.
    pub archive: Archive,
    /// Where it keeps what it does, rooted at the backup.
    pub beside: Store,
    /// What it keeps.
    pub state: State,
    /// What was kept when it was looked at.
    pub seen: Seen,
    /// The cluster that it restores to.
    pub client: Client,
    /// What is going to be done.
    pub plan: Plan,
    /// The stages that records go through.
    pub stages: Option<Stages>,
}

/// Looks at what earlier starts have kept of a restore, before another plan is made, which would find in the targets what was
/// made and sent.
///
/// # Errors
/// [`Kind::Usage`] for what cannot be restored; as [`perform::before`].
pub async fn look(restore: &Restore) -> Result<Looked> {
    let properties = Properties::new(restore.sink.kafka.clone())?;
    let root = Store::open(&restore.source.path)?;
    let archive = source::open(&root, &restore.source.backup_id).await?;
    let beside = match &restore.sink.state {
        Some(state) => Store::open(state)?.within(&restore.source.backup_id),
        None => archive.store().clone(),
    };
    let state = State::new(&beside, &restore.id())?;
    let seen = state.look().await?;
    let before = perform::before(restore, state.restore_id(), &seen)?;
    Ok(Looked { archive, beside, state, seen, before, properties })
}

impl Looked {
    /// Returns whether everything is done.
    pub fn is_done(&self) -> bool {
        self.seen.done.is_some()
    }

    /// Connects, and plans what is to be done, if that is not planned yet.
    ///
    /// # Errors
    /// [`Kind::Usage`] for what cannot be restored.
    pub async fn plan(self, restore: &Restore) -> Result<Ready> {
        let is_done = self.is_done();
        let Self { archive, beside, state, seen, before, properties } = self;
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
        Ok(Ready { archive, beside, state, seen, client, plan, stages })
    }
}

impl Ready {
    /// Returns what performs it; `health` is where it says what is wrong.
    pub fn planned<'a>(&'a self, restore: &'a Restore, health: &'a Health) -> Planned<'a> {
        Planned {
            restore,
            archive: &self.archive,
            client: &self.client,
            state: &self.state,
            plan: &self.plan,
            stages: self.stages.as_ref(),
            health,
        }
    }
}

/// Restores from wherever earlier starts have come to, to the end; `None` for a restore that was finished before. `begins` is
/// told when both ends are open, with the id of the target's cluster. Consumer groups are not put back.
///
/// # Errors
/// As [`look`], [`Looked::plan`] and [`Planned::perform`].
pub async fn run(
    restore: &Restore,
    health: &Health,
    mut stop: watch::Receiver<bool>,
    begins: impl FnOnce(Option<&str>),
) -> Result<Option<Summary>> {
    let ready = async {
        let looked = look(restore).await?;
        if looked.is_done() { Ok(None) } else { looked.plan(restore).await.map(Some) }
    };
    let ready = tokio::select! {
        ready = ready => ready?,
        _ = stop.wait_for(|stop| *stop) => {
            return Err(Error::new(Kind::Interrupted, "interrupted before anything was restored"));
        }
    };
    let Some(ready) = ready else { return Ok(None) };
    let planned = ready.planned(restore, health);
    planned.check()?;
    begins(ready.client.cluster_id().as_deref());
    planned.perform(stop).await.map(Some)
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
