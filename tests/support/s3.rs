//! An S3 server in the test process: s3s over a temporary folder, with the conditional creation of real stores, counters
//! of what was asked of it, and faults in front of it (`faults`).
//!
//! s3s-fs honours `If-None-Match: *` by looking and then renaming, which two writers at once would both pass: here
//! each creation of a key waits for the one before it. One server serves all tests of a process; they keep apart by
//! prefixes, and so do counters and faults. An object of `s3://bucket/a/b` is the file `a/b` of [`S3::folder`].

mod faults;

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};

use http_body_util::BodyExt as _;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use tempfile::TempDir;
use tokio::net::TcpListener;

use faults::{Cut, Rules};
pub(crate) use faults::{Fault, Lasting};

use super::reaper;

const BUCKET: &str = "bucket";

/// What a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Object {
    /// A sidecar, `*.index`.
    Sidecar,
    /// The beginning of a multipart upload.
    Begin,
    /// A part of a log, of a multipart upload.
    Part,
    /// What makes a log appear: the completion of its upload, or the one PUT of a small one.
    Log,
    /// `topic-<n>.json`.
    Topic,
    /// A catalog of any level.
    Catalog,
    /// A savepoint.
    Savepoint,
    /// The end of an upload that gave up.
    Abort,
    /// A listing.
    List,
    /// Anything else, as `backup.json`.
    Other,
}

impl Object {
    /// Returns what a key is, for one who reads or creates it in one request.
    fn of(key: &str) -> Self {
        let name = key.rsplit('/').next().unwrap_or_default();
        match name {
            name if name.ends_with(".index") => Self::Sidecar,
            name if name.ends_with(".log") => Self::Log,
            name if name.starts_with("topic-") && name.ends_with(".json") => Self::Topic,
            _ if key.contains("/catalog/") => Self::Catalog,
            _ if key.contains("/savepoints/") => Self::Savepoint,
            _ => Self::Other,
        }
    }
}

/// A request, as far as counters and faults look at it.
#[derive(Debug, Clone)]
struct Asked {
    method: Method,
    object: Object,
    /// The key in the bucket; of a listing, its prefix.
    key: String,
}

impl Asked {
    fn of(request: &Request<Incoming>) -> Self {
        let path = request.uri().path().trim_start_matches('/');
        let key = path.strip_prefix(BUCKET).unwrap_or(path).trim_start_matches('/').to_owned();
        let whole = format!("http://server/?{}", request.uri().query().unwrap_or_default());
        let query: HashMap<_, _> = reqwest::Url::parse(&whole).expect("a query").query_pairs().into_owned().collect();
        let method = request.method().clone();
        let object = match method {
            Method::PUT if query.contains_key("partNumber") => Object::Part,
            Method::POST if query.contains_key("uploads") => Object::Begin,
            Method::DELETE if query.contains_key("uploadId") => Object::Abort,
            Method::GET if key.is_empty() => Object::List,
            _ => Object::of(&key),
        };
        let key = if object == Object::List { query.get("prefix").cloned().unwrap_or_default() } else { key };
        Self { method, object, key }
    }

    /// Returns whether the request makes an object appear.
    fn creates(&self) -> bool {
        matches!(self.method, Method::PUT | Method::POST) && !matches!(self.object, Object::Part | Object::Begin)
    }
}

/// The server. It ends with the process.
pub(crate) struct S3 {
    address: SocketAddr,
    server: Arc<Server>,
}

struct Server {
    service: S3Service,
    folder: TempDir,
    asked: Mutex<Vec<Asked>>,
    /// Of each object that was read, by key, the bytes that were sent.
    sent: Mutex<Vec<(String, u64)>>,
    rules: Rules,
    /// Held by who creates the object of that key.
    creating: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl S3 {
    /// Returns the server that the tests of this process share.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: OnceLock<S3> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// Starts a server on a free port, with threads of its own.
    fn start() -> Self {
        let folder = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("the target folder is writable");
        reaper::remove_at_end(folder.path());
        std::fs::create_dir(folder.path().join(BUCKET)).expect("the folder is writable");
        let mut service = S3ServiceBuilder::new(s3s_fs::FileSystem::new(folder.path()).expect("a folder"));
        service.set_auth(SimpleAuth::from_single("test", "testtest"));
        let server = Arc::new(Server {
            service: service.build(),
            folder,
            asked: Mutex::default(),
            sent: Mutex::default(),
            rules: Rules::default(),
            creating: Mutex::default(),
        });
        let (sender, receiver) = std::sync::mpsc::channel();
        let serving = server.clone();
        std::thread::spawn(move || {
            let mut runtime = tokio::runtime::Builder::new_multi_thread();
            let runtime = runtime.worker_threads(2).enable_all().build().expect("a runtime starts");
            runtime.block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.expect("this machine has a free port");
                sender.send(listener.local_addr().expect("a bound socket has an address")).expect("it is waited for");
                serving.listen(listener).await
            });
        });
        Self { address: receiver.recv().expect("the server starts"), server }
    }

    /// Returns the URL of the store below `prefix`.
    pub(crate) fn url(&self, prefix: &str) -> String {
        format!(
            "s3://{BUCKET}/{prefix}?endpoint=http://{}&region=us-east-1&path_style=true&access_key=test&secret_key=testtest",
            self.address
        )
    }

    /// Returns the folder whose files are the objects below `prefix`.
    pub(crate) fn folder(&self, prefix: &str) -> PathBuf {
        self.server.folder.path().join(BUCKET).join(prefix)
    }

    /// Returns how many requests of each kind, by method, were made below `prefix`.
    pub(crate) fn requests(&self, prefix: &str) -> BTreeMap<(String, Object), usize> {
        let asked = self.server.asked.lock().expect("nobody panics while holding it");
        let mut requests = BTreeMap::new();
        for asked in asked.iter().filter(|asked| is_below(&asked.key, prefix)) {
            *requests.entry((asked.method.to_string(), asked.object)).or_default() += 1;
        }
        requests
    }

    /// Returns how many bytes of objects of a kind below `prefix` were sent to who read them.
    pub(crate) fn downloaded(&self, prefix: &str, object: Object) -> u64 {
        let sent = self.server.sent.lock().expect("nobody panics while holding it");
        let of = sent.iter().filter(|(key, _)| is_below(key, prefix) && Object::of(key) == object);
        of.map(|(_, bytes)| bytes).sum()
    }

    /// Has the requests about `object` below `prefix` meet `fault`; of a stale listing, `object` is what it omits.
    pub(crate) fn fail(&self, prefix: &str, object: Object, fault: Fault, lasting: Lasting) {
        self.server.rules.add(prefix, object, fault, lasting);
    }

    /// Takes all faults away below `prefix`.
    pub(crate) fn heal(&self, prefix: &str) {
        self.server.rules.clear(prefix);
    }

    /// Returns how many requests below `prefix` have met a fault.
    pub(crate) fn hits(&self, prefix: &str) -> usize {
        self.server.rules.hits(prefix)
    }
}

/// Returns whether `key` is below `prefix`, a whole number of its parts.
fn is_below(key: &str, prefix: &str) -> bool {
    key.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl Server {
    async fn listen(self: Arc<Self>, listener: TcpListener) -> Infallible {
        loop {
            let (socket, _) = listener.accept().await.expect("a connection");
            let server = self.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request| server.clone().answer(request));
                // An error is a client that went, or a fault that cut the connection.
                let _ =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service).await;
            });
        }
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<s3s::Body>, Cut> {
        let asked = Asked::of(&request);
        self.asked.lock().expect("nobody panics while holding it").push(asked.clone());
        match self.rules.fault(&asked) {
            Some(fault) => self.fail(&asked, request, fault).await,
            None => self.perform(&asked, request.map(s3s::Body::from)).await,
        }
    }

    async fn perform(&self, asked: &Asked, request: Request<s3s::Body>) -> Result<Response<s3s::Body>, Cut> {
        if !asked.creates() {
            let answer = self.call(asked, request).await?;
            if asked.method == Method::GET && answer.status().is_success() {
                let bytes =
                    answer.headers().get("content-length").and_then(|length| length.to_str().ok()?.parse().ok());
                let sent = (asked.key.clone(), bytes.unwrap_or_default());
                self.sent.lock().expect("nobody panics while holding it").push(sent);
            }
            return Ok(answer);
        }
        // Taken in first: a client that trickles must not keep others from the key.
        let (head, body) = request.into_parts();
        let body: Bytes = body.collect().await.map_err(|_| Cut)?.to_bytes();
        let key =
            self.creating.lock().expect("nobody panics while holding it").entry(asked.key.clone()).or_default().clone();
        let _creating = key.lock().await;
        let answer = self.call(asked, Request::from_parts(head, body.into())).await?;
        // The answer to a completion is sent before the work is done; here it is done before the next one begins.
        let (head, body) = answer.into_parts();
        let body = body.collect().await.map_err(|_| Cut)?.to_bytes();
        Ok(Response::from_parts(head, body.into()))
    }

    async fn call(&self, asked: &Asked, request: Request<s3s::Body>) -> Result<Response<s3s::Body>, Cut> {
        let of_upload = request.uri().query().is_some_and(|query| query.contains("uploadId="));
        let answer = self.service.call(request).await.map_err(|_| Cut)?;
        // Real stores say so of an upload that was completed or aborted; s3s-fs takes it for somebody else's.
        if of_upload && answer.status() == StatusCode::FORBIDDEN {
            return Ok(faults::refuse(404, "NoSuchUpload", &asked.key));
        }
        Ok(answer)
    }
}
