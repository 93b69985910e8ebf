//! `/v1/restores`: the restores of a backup, how far each has come, and the wish that one end. All of that is what they have kept
//! ([`state`](crate::restore::state)), whichever process runs them.

use axum::extract::{RawQuery, State};
use axum::response::Json;
use serde::{Deserialize, Serialize};

use super::access::Permitted;
use super::body::Sent;
use super::groups::refused;
use super::query::{self, Segments};
use super::{Api, Place, Refused, Registry, patiently};
use crate::archive::source::side_by_side;
use crate::error::{Error, Result as Outcome};
use crate::restore::plan::Plan;
use crate::restore::state::{Listed, State as Kept, cancel as cancel_restore, restores};
use crate::store::Store;

/// Restores that are read at a time, a few requests each.
const SIDE_BY_SIDE: usize = 8;

/// All that a restore has kept.
#[derive(Serialize)]
pub(super) struct Shown {
    #[serde(flatten)]
    listed: Listed,
    /// Up to how many records there are to restore, and their bytes.
    planned: Option<Size>,
    plan: Option<Plan>,
    /// When what was kept last was.
    journal_at: Option<String>,
    finished_at: Option<String>,
    cancelled_at: Option<String>,
    undone_at: Option<String>,
}

#[derive(Serialize)]
struct Size {
    records: u64,
    bytes: u64,
}

/// The wish that a restore end.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wish {
    #[serde(default)]
    dry_run: bool,
}

/// What a wish means.
#[derive(Serialize)]
pub(super) struct Meaning {
    restore_id: String,
    dry_run: bool,
    message: String,
}

/// Lists the restores of a backup, in order of their ids.
pub(super) async fn list(
    State(registry): State<Registry>,
    Segments(backup): Segments<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<Vec<Listed>>, Refused> {
    let limit = query::limit(query.as_deref().unwrap_or_default())?;
    let store = Place::of(&registry, &backup, None, None)?.store()?;
    let listed = patiently(async {
        let mut ids = restores(&store).await?;
        ids.truncate(limit);
        let rows = side_by_side::each(ids, SIDE_BY_SIDE, |id| {
            let store = store.clone();
            async move { Listed::read(&store, &id).await }
        });
        // What cannot be read of one is said in its place.
        rows.await?.into_iter().map(|row| row.map(|(listed, _)| listed)).collect::<Outcome<Vec<_>>>()
    });
    Ok(Json(listed.await?))
}

/// Shows how far a restore has come.
pub(super) async fn show(
    State(registry): State<Registry>,
    Segments((backup, id)): Segments<(String, String)>,
) -> Result<Json<Shown>, Refused> {
    let store = Place::of(&registry, &backup, None, None)?.store()?;
    Ok(Json(patiently(async { Shown::read(&store, &id).await.map_err(refused) }).await?))
}

/// Asks a restore to end.
pub(super) async fn cancel(
    _: Permitted,
    State(api): State<Api>,
    Segments((backup, id)): Segments<(String, String)>,
    Sent(wish): Sent<Wish>,
) -> Result<Json<Meaning>, Refused> {
    let store = Place::of(&api.registry, &backup, None, None)?.store()?;
    let dry_run = wish.dry_run;
    let cancelled = api.apart(async move {
        let state = Kept::open(&store, &id).await?;
        let message = cancel_restore(&state, dry_run).await?;
        Ok(Meaning { restore_id: id, dry_run, message })
    });
    Ok(Json(cancelled.await?))
}

impl Shown {
    async fn read(store: &Store, id: &str) -> Outcome<Self> {
        let state = Kept::open(store, id).await?;
        let (listed, _) = Listed::read(store, id).await?;
        let seen = state.look().await?;
        // One that cannot be read is among what is damaged, or a newer program's.
        let plan: Option<Plan> = seen.plan.as_ref().and_then(|kept| kept.read().ok());
        let planned = plan.as_ref().map(Plan::size).map(|(records, bytes)| Size { records, bytes });
        Ok(Self {
            planned,
            plan,
            journal_at: seen.journal.map(|of| of.written_at),
            finished_at: seen.done.map(|of| of.finished_at),
            cancelled_at: seen.cancelled.map(|of| of.cancelled_at),
            undone_at: seen.undone.map(|of| of.undone_at),
            listed,
        })
    }
}

impl Place {
    /// Opens the store of the backup's restores, rooted at its folder.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub(super) fn store(&self) -> Result<Store, Error> {
        Ok(Store::open(&self.path)?.within(&self.backup_id))
    }
}
