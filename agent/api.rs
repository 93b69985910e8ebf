//! The agent's API over HTTP, `/v1`: what it writes, where an offset or a time is, its savepoints, consumer groups and restores
//! (`docs/api.md`).
//!
//! It answers with JSON; an error is an object of `error_code` and `message`, as Kafka Connect's REST API has it. Who may change
//! something, [`access`] says, for the routes of Kafka Connect's too ([`guarded`]). A request never touches
//! capture: it asks [`Live`](crate::archive::live::Live), the store and the cluster. Cancellation: a dropped request leaves nothing
//! half done; what has begun to change something goes on to its end ([`Api::apart`]).

pub mod access;
mod body;
mod groups;
mod index;
mod openapi;
pub(crate) mod query;
mod restores;
mod savepoints;
mod sender;

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, FromRef, State};
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Router, middleware};
use serde::Serialize;
use tokio::sync::Semaphore;

use self::access::Access;
pub use self::restores::running::Restores;
use crate::archive::{Archive, layout};
use crate::config::{self, value};
use crate::error::{Error, Kind, Result as Outcome};
use crate::store::place;

/// How long a store may take to answer a request. It retries by itself for less; a load balancer waits longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Requests at a time that ask a cluster, or change one: each may hold the positions of thousands of groups.
const MOST_WORK: usize = 4;

/// Requests at a time that read from a store: anybody may send them, and each may read thousands of objects. Half would let a few
/// slow ones hold up a dashboard; with twice as many, capture would notice.
static READS: Semaphore = Semaphore::const_new(16);

/// When whoever was told to try again may, in seconds: a pipeline starts in less, and a store that is away is not asked
/// more often.
const RETRY_AFTER: &str = "5";

/// Makes a savepoint of a pipeline now, and returns its name.
pub type MakeSavepoint = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Outcome<String>> + Send>> + Send + Sync>;

/// The pipelines that the agent runs, as far as the API asks. Clones share it.
#[derive(Clone, Default)]
pub struct Registry(Arc<Mutex<Vec<Registered>>>);

struct Registered {
    pipeline: String,
    backup_id: String,
    /// Where the backup is, without secrets.
    path: String,
    /// Where it is, and how its source is reached; both may hold secrets.
    place: Place,
    /// What it writes; `None` while it is starting.
    archive: Option<Archive>,
    savepoints: Option<MakeSavepoint>,
}

impl Registered {
    fn new(pipeline: &config::Pipeline) -> Self {
        Self {
            pipeline: pipeline.name.clone(),
            backup_id: pipeline.sink.backup_id.clone(),
            path: value::shown_path(&pipeline.sink.path),
            place: Place::new(pipeline),
            archive: None,
            savepoints: None,
        }
    }
}

/// A backup and a cluster: what a request about groups or restores is about. It holds secrets, and is not printed.
#[derive(Clone)]
struct Place {
    backup_id: String,
    path: String,
    /// How the cluster is reached; empty where nobody said it.
    kafka: BTreeMap<String, String>,
}

impl Place {
    fn new(pipeline: &config::Pipeline) -> Self {
        Self {
            backup_id: pipeline.sink.backup_id.clone(),
            path: pipeline.sink.path.clone(),
            kafka: pipeline.source.kafka.clone(),
        }
    }

    /// Finds the backup of that name that this agent writes, or takes one at `path`; the cluster is that of its pipeline, unless
    /// `kafka` says another.
    ///
    /// # Errors
    /// 404 where the agent writes none of that name, 409 where it writes several.
    fn of(
        registry: &Registry,
        backup_id: &str,
        path: Option<&str>,
        kafka: Option<&BTreeMap<String, String>>,
    ) -> Result<Self, Refused> {
        let mut place = match path {
            None => registry.place(backup_id)?,
            Some(path) => {
                value::check_backup_id(backup_id).map_err(Refused::bad)?;
                Self { backup_id: backup_id.to_owned(), path: path.to_owned(), kafka: BTreeMap::new() }
            }
        };
        if let Some(kafka) = kafka {
            place.kafka.clone_from(kafka);
        }
        Ok(place)
    }
}

/// A pipeline that runs.
struct Running {
    archive: Archive,
    savepoints: Option<MakeSavepoint>,
}

/// What writes the backups of one name.
struct Writers {
    /// Those that run, at least one.
    running: Vec<Running>,
    /// Whether one that is starting writes to a place that none of these writes to.
    is_one_starting: bool,
}

impl Registry {
    /// Adds the pipelines of a configuration, none of which runs yet.
    pub fn new(pipelines: &[config::Pipeline]) -> Self {
        Self(Arc::new(Mutex::new(pipelines.iter().map(Registered::new).collect())))
    }

    /// Adds a pipeline that does not run yet, instead of another of its name.
    pub fn add(&self, pipeline: &config::Pipeline) {
        let added = Registered::new(pipeline);
        let mut registered = self.lock();
        match registered.iter_mut().find(|other| other.pipeline == added.pipeline) {
            Some(place) => *place = added,
            None => registered.push(added),
        }
    }

    /// Has a pipeline show this as the path of its backup: with its references as they were given.
    pub fn shows(&self, pipeline: &str, path: &str) {
        self.change(pipeline, |registered| path.clone_into(&mut registered.path));
    }

    /// Forgets the pipeline of that name.
    pub fn remove(&self, pipeline: &str) {
        self.lock().retain(|registered| registered.pipeline != pipeline);
    }

    /// Says how savepoints of a pipeline are made.
    pub fn makes_savepoints(&self, pipeline: &str, make: MakeSavepoint) {
        self.change(pipeline, |registered| registered.savepoints = Some(make));
    }

    /// Takes note that a pipeline runs and writes `archive`, until what is returned is dropped.
    pub fn runs(&self, pipeline: &str, archive: Archive) -> Entry {
        self.change(pipeline, |registered| registered.archive = Some(archive));
        Entry { registry: self.clone(), pipeline: pipeline.to_owned() }
    }

    fn change(&self, pipeline: &str, change: impl FnOnce(&mut Registered)) {
        if let Some(registered) = self.lock().iter_mut().find(|registered| registered.pipeline == pipeline) {
            change(registered);
        }
    }

    /// Returns what writes the backup of that name: several pipelines may, also into several places.
    fn writers(&self, backup_id: &str) -> Result<Writers, Refused> {
        let registered = self.lock();
        let of_backup: Vec<_> = registered.iter().filter(|registered| registered.backup_id == backup_id).collect();
        if of_backup.is_empty() {
            return Err(Refused::no_backup(backup_id));
        }
        let running = of_backup.iter().filter_map(|registered| {
            Some(Running { archive: registered.archive.clone()?, savepoints: registered.savepoints.clone() })
        });
        let running: Vec<_> = running.collect();
        if running.is_empty() {
            return Err(Refused::starting(backup_id));
        }
        let runs_at = |path: &str| of_backup.iter().any(|other| other.archive.is_some() && other.path == path);
        let is_one_starting = of_backup.iter().any(|registered| !runs_at(&registered.path));
        Ok(Writers { running, is_one_starting })
    }

    /// Returns whether a pipeline has that name.
    fn has(&self, pipeline: &str) -> bool {
        self.lock().iter().any(|registered| registered.pipeline == pipeline)
    }

    /// Returns where the backup of that name is, whether its pipeline runs or not.
    fn place(&self, backup_id: &str) -> Result<Place, Refused> {
        let registered = self.lock();
        let mut of_backup = registered.iter().filter(|registered| registered.backup_id == backup_id);
        let first = of_backup.next().ok_or_else(|| Refused::no_backup(backup_id))?;
        let is_elsewhere = |other: &Registered| place::place(&other.place.path) != place::place(&first.place.path);
        match of_backup.any(is_elsewhere) {
            true => Err(Refused::several(backup_id)),
            false => Ok(first.place.clone()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Registered>> {
        // A list of names, whole after each change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps a pipeline in the registry while it runs.
#[must_use]
pub struct Entry {
    registry: Registry,
    pipeline: String,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.registry.change(&self.pipeline, |registered| registered.archive = None);
    }
}

/// Has every request pass what all have to, before it reaches one of `routes`: whether it may change something, then its body.
/// Serve them with the sender's [`SocketAddr`](std::net::SocketAddr) as connection information.
pub fn guarded(routes: Router, access: Access) -> Router {
    // What is added last is passed first.
    let bodies = middleware::from_fn_with_state(body::Bodies::default(), body::whole);
    routes.layer(bodies).layer(middleware::from_fn_with_state(access, access::guard))
}

/// What the routes of the API share. Clones share it.
#[derive(Clone)]
struct Api {
    registry: Registry,
    restores: Restores,
    work: Arc<Semaphore>,
}

impl FromRef<Api> for Registry {
    fn from_ref(api: &Api) -> Self {
        api.registry.clone()
    }
}

impl FromRef<Api> for Restores {
    fn from_ref(api: &Api) -> Self {
        api.restores.clone()
    }
}

impl Api {
    fn new(registry: Registry, restores: Restores) -> Self {
        Self { registry, restores, work: Arc::new(Semaphore::new(MOST_WORK)) }
    }

    /// Does what a request asks for apart from it: it goes on to its end when the request is dropped.
    ///
    /// # Errors
    /// 503 where as much is done already as may be at a time; else as [`groups::refused`].
    async fn apart<T: Send + 'static>(
        &self,
        work: impl Future<Output = Outcome<T>> + Send + 'static,
    ) -> Result<T, Refused> {
        let busy = |_| Refused::unavailable("as much is asked of clusters already as may be at a time");
        let place = self.work.clone().try_acquire_owned().map_err(busy)?;
        let done = tokio::spawn(async move {
            let done = work.await;
            drop(place);
            done
        });
        match done.await {
            Ok(done) => done.map_err(groups::refused),
            Err(_) => Err(Refused::unavailable("it ended by a defect: the agent's log says more")),
        }
    }
}

/// Returns the routes of the API with their paths.
fn table() -> Vec<(&'static str, MethodRouter<Api>)> {
    vec![
        ("/v1/backups", get(backups)),
        ("/v1/index/{backup}/{topic}/{partition}", get(index::look_up)),
        ("/v1/savepoints/{backup}", get(savepoints::list).post(savepoints::make)),
        ("/v1/groups/plan", post(groups::plan)),
        ("/v1/groups/execute", post(groups::execute)),
        ("/v1/snapshots/{backup}", get(groups::snapshots)),
        ("/v1/snapshots/{backup}/{snapshot}", get(groups::snapshot)),
        ("/v1/snapshots/{backup}/{snapshot}/rollback", post(groups::roll_back)),
        ("/v1/restores", get(restores::here).post(restores::start)),
        ("/v1/restores/{backup}", get(restores::list)),
        ("/v1/restores/{backup}/{restore}", get(restores::show)),
        ("/v1/restores/{backup}/{restore}/cancel", post(restores::cancel)),
        ("/v1/restores/{backup}/{restore}/resume", post(restores::resume)),
        ("/v1/restores/{backup}/{restore}/undo", post(restores::undo)),
        ("/v1/openapi.json", get(openapi::answer)),
    ]
}

/// Returns the routes of the API, which are to be [`guarded`].
pub fn routes(registry: Registry, restores: Restores) -> Router {
    let routes = table().into_iter().fold(Router::new(), |routes, (path, methods)| routes.route(path, methods));
    routes
        .fallback(|uri: Uri| async move { Refused::not_found(format!("there is no `{}` here", uri.path())) })
        .method_not_allowed_fallback(|| async { Refused::new(StatusCode::METHOD_NOT_ALLOWED, "no such method here") })
        .layer(DefaultBodyLimit::max(body::MOST_BYTES))
        .with_state(Api::new(registry, restores))
}

#[derive(Serialize)]
struct BackupData {
    backup: String,
    path: String,
    pipeline: String,
    running: bool,
}

async fn backups(State(registry): State<Registry>) -> Json<Vec<BackupData>> {
    let data = |registered: &Registered| BackupData {
        backup: registered.backup_id.clone(),
        path: registered.path.clone(),
        pipeline: registered.pipeline.clone(),
        running: registered.archive.is_some(),
    };
    Json(registry.lock().iter().map(data).collect())
}

/// A request that is refused, or could not be answered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    status: StatusCode,
    message: String,
    /// Whether it is worth to be asked again soon, where it cannot be answered now.
    may_pass: bool,
}

impl Refused {
    /// Refuses with a status of HTTP; `message` says why, and what to do.
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), may_pass: true }
    }

    /// Refuses since something of the archive cannot be read, which the error names: it stays so until somebody mends that.
    fn damaged(error: &Error) -> Self {
        Self { may_pass: false, ..Self::unavailable(error.to_string()) }
    }

    /// Refuses since what is asked for is not there.
    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    /// Refuses since it cannot be meant.
    pub(crate) fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// Returns the status of HTTP.
    #[cfg(test)]
    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    /// Refuses since it cannot be answered now.
    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, message)
    }

    fn no_backup(backup_id: &str) -> Self {
        Self::not_found(format!("this agent writes no backup `{backup_id}`: GET /v1/backups lists them"))
    }

    fn several(backup_id: &str) -> Self {
        let message =
            format!("this agent writes several backups of the name `{backup_id}`: GET /v1/backups lists them");
        Self::new(StatusCode::CONFLICT, message)
    }

    fn starting(backup_id: &str) -> Self {
        Self::unavailable(format!(
            "the pipeline of backup `{backup_id}` does not run now; /readyz and /connectors?expand=status say why"
        ))
    }
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        let status = match error.kind() {
            Kind::Usage => StatusCode::BAD_REQUEST,
            Kind::Damaged | Kind::Newer | Kind::Hole => return Self::damaged(&error),
            // Also that there is no backup: it is one that this agent writes, so it is not yet there, or out of reach.
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, error.to_string())
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        #[derive(Serialize)]
        struct Body {
            error_code: u16,
            message: String,
        }
        let body = Body { error_code: self.status.as_u16(), message: self.message };
        let mut response = (self.status, Json(body)).into_response();
        if self.status == StatusCode::SERVICE_UNAVAILABLE && self.may_pass {
            let _ = response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static(RETRY_AFTER));
        }
        response
    }
}

/// Waits for what asks a store, but not for ever, and few at a time.
async fn patiently<T, E: Into<Refused>>(work: impl Future<Output = Result<T, E>>) -> Result<T, Refused> {
    let in_turn = async {
        let _turn = READS.acquire().await;
        work.await
    };
    match tokio::time::timeout(PATIENCE, in_turn).await {
        Ok(done) => done.map_err(Into::into),
        Err(_) => Err(Refused::unavailable("the store does not answer")),
    }
}

/// Refuses where the archive is not where it was: a folder that is not mounted holds nothing, and says nothing.
async fn still_there(archive: &Archive) -> Result<(), Refused> {
    if archive.store().exists(layout::BACKUP).await? {
        return Ok(());
    }
    let missing = archive.store().describe(layout::BACKUP);
    Err(Refused::unavailable(format!("the archive is not where it was: there is no {missing}")))
}

#[cfg(test)]
mod tests;
