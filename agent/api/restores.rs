//! `/v1/restores`: the restores of a backup, how far each has come, and the wish that one end: what they have kept
//! ([`state`](crate::restore::state)), whichever process runs them. Those that this agent is asked to run ([`running`]); and one
//! taken back ([`undoing`]).

mod asked;
mod kept;
pub(super) mod running;

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Json, Response};
use serde::{Deserialize, Serialize};
use serde_json::json;

use self::asked::Request;
use self::kept::Key;
use self::running::{Entry, Restores, Task};
use super::access::Permitted;
use super::body::Sent;
use super::groups::refused;
use super::query::{self, Segments};
use super::{Api, Place, Refused, Registry, patiently};
use crate::archive::source::side_by_side;
use crate::error::{Error, Result as Outcome};
use crate::groups::snapshot::Snapshots;
use crate::kafka::client::Client;
use crate::recovery::{self, undoing};
use crate::restore::plan::Plan;
use crate::restore::state::{Listed, State as Kept, cancel as cancel_restore, restores};
use crate::restore::undo::Accept;
use crate::store::Store;

/// Restores that are read at a time, a few requests each.
const SIDE_BY_SIDE: usize = 8;

/// How long a cluster may take until it answers at all.
const OPEN_WITHIN: Duration = Duration::from_secs(10);

/// A restore that is to be planned or begun.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Start {
    restore: Request,
    #[serde(default)]
    dry_run: bool,
}

/// A restore that is to go on.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GoOn {
    restore: Option<Request>,
}

/// A restore that is to be taken back.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TakeBack {
    kafka: Option<BTreeMap<String, String>>,
    #[serde(default)]
    accept: Vec<String>,
    #[serde(default)]
    dry_run: bool,
}

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
    /// What this agent does for it; `None` where it was not asked to.
    task: Option<Task>,
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

/// Lists the restores that this agent was asked to run.
pub(super) async fn here(State(restores): State<Restores>) -> Json<Vec<Entry>> {
    Json(restores.entries())
}

/// Begins a restore, or says what it would do.
pub(super) async fn start(
    _: Permitted,
    State(api): State<Api>,
    Sent(Start { restore: request, dry_run }): Sent<Start>,
) -> Result<Response, Refused> {
    let restore = api.restores.read(&request)?;
    if !dry_run {
        return Ok(begun(&api.restores.start(request, &restore).await?));
    }
    let planned = api.apart(async move {
        let (id, looked) = (restore.id(), recovery::look(&restore).await?);
        if looked.is_done() && restore.groups.is_none() {
            return Ok(json!({ "restore_id": id, "plan": looked.before() }));
        }
        let prepared = looked.plan(&|_| {}).await?;
        let mut planned = json!({ "restore_id": id, "plan": prepared.plan() });
        if let Some(groups) = prepared.preview().await? {
            planned["groups"] = groups.json();
        }
        Ok(planned)
    });
    Ok(Json(planned.await?).into_response())
}

/// Goes on with a restore that is not finished.
pub(super) async fn resume(
    _: Permitted,
    State(api): State<Api>,
    Segments(key): Segments<Key>,
    Sent(GoOn { restore: request }): Sent<GoOn>,
) -> Result<Response, Refused> {
    let conflict = |message| Refused::new(StatusCode::CONFLICT, message);
    let unknown = || {
        let message = format!(
            "this agent does not know what the restore `{}` was asked for: send that along, as `restore`",
            key.1
        );
        conflict(message)
    };
    let request = request.or_else(|| api.restores.asked(&key)).ok_or_else(unknown)?;
    let restore = api.restores.read(&request)?;
    if kept::key(&restore) != key {
        let message = format!("this is the restore `{}` of backup `{}`", restore.id(), restore.source.backup_id);
        return Err(conflict(message));
    }
    Ok(begun(&api.restores.start(request, &restore).await?))
}

fn begun((backup, id): &Key) -> Response {
    let location = [(header::LOCATION, format!("/v1/restores/{backup}/{id}"))];
    (StatusCode::ACCEPTED, location, Json(json!({ "backup": backup, "restore_id": id }))).into_response()
}

/// Takes back what a restore has made and set.
pub(super) async fn undo(
    _: Permitted,
    State(api): State<Api>,
    Segments(key): Segments<Key>,
    Sent(TakeBack { kafka, accept, dry_run }): Sent<TakeBack>,
) -> Result<Response, Refused> {
    let mut place = place_of(&api, &key)?;
    match (kafka, api.restores.asked(&key)) {
        (Some(kafka), _) => place.kafka = kafka,
        (None, Some(_)) => {}
        (None, None) => {
            return Err(Refused::bad("`kafka` is missing: the properties for the cluster that the restore went to"));
        }
    }
    let accept: Vec<Accept> = accept.iter().map(|name| accepted(name)).collect::<Result<_, _>>()?;
    if !dry_run {
        api.restores.check_rests(&key)?;
    }
    let (properties, store, id) = (place.properties()?, place.store()?, key.1.clone());
    let undone = api.apart(async move {
        let state = Kept::open(&store, &id).await?;
        let client = Client::open(properties, OPEN_WITHIN).await?;
        let told = |snapshot: &str| {
            tracing::info!(restore = id, snapshot, "what its groups had committed till now is kept");
        };
        match dry_run {
            true => undoing::preview(&client, &state, &accept).await,
            false => undoing::undo(&client, &state, &accept, &Snapshots::of(&store), told).await,
        }
    });
    let undone = undone.await?;
    if !dry_run {
        api.restores.give_up(&key, "the restore was undone");
    }
    let report = json!({
        "restore_id": key.1, "dry_run": dry_run, "topics": undone.fates.topics, "group": undone.fates.group,
        "groups": undone.undoing.groups, "snapshot": undone.undoing.snapshot,
    });
    match undone.verdict(dry_run) {
        Err(error) if !dry_run => {
            let status = StatusCode::CONFLICT;
            let body = json!({ "error_code": status.as_u16(), "message": error.to_string(), "report": report });
            Ok((status, Json(body)).into_response())
        }
        _ => Ok(Json(report).into_response()),
    }
}

fn accepted(name: &str) -> Result<Accept, Refused> {
    let unknown = |_| {
        let names: Vec<_> = <Accept as clap::ValueEnum>::value_variants()
            .iter()
            .filter_map(clap::ValueEnum::to_possible_value)
            .map(|value| value.get_name().to_owned())
            .collect();
        Refused::bad(format!("`{}` is nothing that can be accepted: {}", name.escape_debug(), names.join(", ")))
    };
    <Accept as clap::ValueEnum>::from_str(name, false).map_err(unknown)
}

/// Returns where a restore keeps its objects: where it was told to, if this agent was asked to run it, else with the backup.
fn place_of(api: &Api, key: &Key) -> Result<Place, Refused> {
    match api.restores.asked(key) {
        Some(request) => {
            let restore = api.restores.read(&request)?;
            let path = restore.sink.state.unwrap_or(restore.source.path);
            Ok(Place { backup_id: key.0.clone(), path, kafka: restore.sink.kafka })
        }
        None => Place::of(&api.registry, &key.0, None, None),
    }
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
pub(super) async fn show(State(api): State<Api>, Segments(key): Segments<Key>) -> Result<Json<Shown>, Refused> {
    let store = place_of(&api, &key)?.store()?;
    let mut shown = patiently(async { Shown::read(&store, &key.1).await.map_err(refused) }).await?;
    shown.task = api.restores.task(&key);
    Ok(Json(shown))
}

/// Asks a restore to end.
pub(super) async fn cancel(
    _: Permitted,
    State(api): State<Api>,
    Segments(key): Segments<Key>,
    Sent(Wish { dry_run }): Sent<Wish>,
) -> Result<Json<Meaning>, Refused> {
    let (store, id) = (place_of(&api, &key)?.store()?, key.1.clone());
    let cancelled = api.apart(async move {
        let state = Kept::open(&store, &id).await?;
        cancel_restore(&state, dry_run).await
    });
    let message = match cancelled.await {
        Ok(message) => message,
        Err(missing) if missing.status == StatusCode::NOT_FOUND && !dry_run => match api.restores.forget(&key) {
            true => format!("the restore `{}` had not begun, and is forgotten", key.1),
            false => return Err(missing),
        },
        Err(refused) => return Err(refused),
    };
    if !dry_run {
        api.restores.give_up(&key, "the restore was cancelled");
    }
    Ok(Json(Meaning { restore_id: key.1, dry_run, message }))
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
            task: None,
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
