//! Objects of a service that OpenDAL reaches: the operator with its layers, and what its errors mean to a person.
//!
//! **Layers**, from the inside out. OpenDAL's documentation of both demands that a time-out is inside a retry: it ends
//! an attempt by dropping it, and a retry that is dropped has lost its writer's state.
//! 1. `TimeoutLayer`: each attempt has the store's time-out, so that a connection that says nothing ends;
//! 2. `RetryLayer`: few and soon, for what passes by itself. Callers start again on their own, with their own waits, and
//!    say in `/readyz` what is wrong, which nobody hears of while we retry here;
//! 3. `ConcurrentLimitLayer`: outermost, so that the wait for one's turn does not count as the store's time. Streaming
//!    uploads go without it: it lends a turn to a writer until that is dropped, and one that held its turn while its
//!    sidecar waits for another would wait for ever. Their bound is [`Remote::may_send`].
//!
//! **Denials.** What the user must change (no such bucket, no permission, wrong keys) is [`Kind::Usage`] as long as
//! nothing of its sort has ever worked through this store: it was never right. Later it is [`Kind::Failed`]: somebody
//! changed something, and may change it back. That no credentials were found is always that: a token service or the
//! machine's own may be down, and OpenDAL does not say which source it had hoped for.
//!
//! **Credentials that change.** OpenDAL keeps those without a known end (a profile's) for the operator's life. An answer
//! that bad ones get makes the operators anew, which reads them again.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, Once};
use std::time::{Duration, Instant};

use bytes::Bytes;
use opendal::layers::{ConcurrentLimitLayer, RetryEvent, RetryLayer, TimeoutLayer};
use opendal::{Buffer, Entry, ErrorKind, Operator};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::answer::{blames_credentials, cause, code, hint_for_unsigned, is_bare, is_unsigned};
use super::location::Location;
use super::{Creation, Listed};
use crate::error::{Error, Kind, Result};

/// Attempts after the first. With the pauses a store that refuses is told of within two seconds, one that is silent
/// within three time-outs.
const RETRIES: usize = 2;

/// The pause before the first of them, doubled before the next, with as much jitter.
const RETRY_PAUSE: Duration = Duration::from_millis(300);

/// Small requests at once. A thousand partitions that roll at the same second ask some thousand; with half of it they
/// take longer, with the double stores begin to throttle (S3: 3,500 writes a second and prefix).
const REQUESTS_AT_ONCE: usize = 64;

/// Bytes that may be under way to a store at once, for each pipeline: one store that is silent keeps its pipeline's turns
/// for some time-outs, and shall not keep another's. It sets the slowest link that the time-out allows for: with 10 s
/// half of it is 20 Mbit/s, at the price of what one fast link could carry.
const SENT_AT_ONCE_BYTES: usize = 48 * 1024 * 1024;

/// The pause between two readings of the credentials: a permission that is missing looks like bad credentials to some
/// requests, and each reading may ask a token service.
const RENEWAL_PAUSE: Duration = Duration::from_secs(5);

/// A service, reached through OpenDAL.
pub(super) struct Remote {
    operators: Mutex<Operators>,
    /// How to make them anew; memory has nothing to renew.
    location: Option<Location>,
    sending: Arc<Semaphore>,
    /// What has worked: a bit for each [`Action`].
    worked: AtomicU8,
    scheme: &'static str,
}

/// The service as it is reached with one reading of the credentials.
struct Operators {
    /// For everything that is one short call.
    calls: Operator,
    /// For uploads that stay open.
    streams: Operator,
    made: Instant,
}

impl Operators {
    fn of(location: &Location) -> opendal::Result<Self> {
        let bare = Operator::via_iter(location.scheme, location.options.clone())?;
        let time_out = TimeoutLayer::new().with_timeout(location.time_out).with_io_timeout(location.time_out);
        let retry = RetryLayer::new().with_max_times(RETRIES).with_min_delay(RETRY_PAUSE).with_jitter();
        let streams = bare.layer(time_out).layer(retry.with_notify(say_retry));
        let calls = streams.clone().layer(ConcurrentLimitLayer::new(REQUESTS_AT_ONCE));
        Ok(Self { calls, streams, made: Instant::now() })
    }
}

/// What one may or may not be allowed to do.
#[derive(Debug, Clone, Copy)]
pub(super) enum Action {
    /// Read an object, or look for one.
    Read = 1,
    /// List a folder.
    List = 2,
    /// Create an object.
    Create = 4,
    /// Delete an object.
    Delete = 8,
}

impl Remote {
    /// Makes the operator; nothing is sent.
    pub(super) fn open(location: Location) -> Result<Self> {
        install();
        let wrong = |error: opendal::Error| {
            Error::usage(format!("cannot open the store `{}`", location.shown)).source(cause(&error))
        };
        let operators = Operators::of(&location).map_err(wrong)?;
        let scheme = location.scheme;
        Self::new(operators, Some(location), scheme)
    }

    /// Returns this process's memory store of that name: two pipelines, or a test's writer and reader, share it.
    pub(super) fn memory(name: &str) -> Result<Self> {
        static STORES: LazyLock<Mutex<HashMap<String, Operator>>> = LazyLock::new(Mutex::default);
        let mut stores = STORES.lock().expect("nobody panics while holding the map");
        if !stores.contains_key(name) {
            let made = Operator::new(opendal::services::Memory::default());
            let made = made.map_err(|error| Error::usage("cannot open a store in memory").source(cause(&error)))?;
            stores.insert(name.to_owned(), made);
        }
        let calls = stores[name].clone();
        Self::new(Operators { streams: calls.clone(), calls, made: Instant::now() }, None, "memory")
    }

    fn new(operators: Operators, location: Option<Location>, scheme: &'static str) -> Result<Self> {
        if !operators.calls.info().capability().write_with_if_not_exists {
            return Err(Error::usage(format!(
                "stores of type `{scheme}` cannot create an object only if it is absent"
            ))
            .hint("without that two agents would overwrite each other; use another store"));
        }
        let sending = Arc::new(Semaphore::new(SENT_AT_ONCE_BYTES));
        Ok(Self { operators: Mutex::new(operators), location, sending, worked: AtomicU8::new(0), scheme })
    }

    fn operators(&self) -> MutexGuard<'_, Operators> {
        self.operators.lock().expect("nobody panics while holding the operators")
    }

    /// Returns the operator for short calls.
    fn calls(&self) -> Operator {
        self.operators().calls.clone()
    }

    /// Makes the operators anew if `error` may come from credentials that are good no more; the next call has them.
    fn renew(&self, error: &opendal::Error) {
        let Some(location) = self.location.as_ref().filter(|_| blames_credentials(error)) else { return };
        let mut operators = self.operators();
        if operators.made.elapsed() < RENEWAL_PAUSE {
            return;
        }
        match Operators::of(location) {
            Ok(made) => *operators = made,
            Err(error) => tracing::warn!("cannot read the credentials of the store again: {}", cause(&error)),
        }
    }

    /// Lists what is directly below `folder` and has a name that begins with `prefix`.
    pub(super) async fn list(&self, folder: &str, prefix: &str) -> Result<Vec<Listed>> {
        // Without a slash at its end a path is a prefix to OpenDAL, and goes into the request.
        let listed = self.calls().list(&format!("{folder}{prefix}")).await;
        self.children(folder, listed, |name| name.starts_with(prefix))
    }

    /// Lists what is directly below `folder` and has a name greater than `name`; `None` where the service lists from
    /// the beginning whatever it is told.
    pub(super) async fn list_after(&self, folder: &str, name: &str) -> Result<Option<Vec<Listed>>> {
        let calls = self.calls();
        if !calls.info().capability().list_with_start_after {
            return Ok(None);
        }
        let listed = calls.list_with(folder).start_after(&format!("{folder}{name}")).await;
        self.children(folder, listed, |child| child > name).map(Some)
    }

    /// Returns what a listing has directly below `folder` that is `asked` for.
    fn children(
        &self,
        folder: &str,
        listed: opendal::Result<Vec<Entry>>,
        asked: impl Fn(&str) -> bool,
    ) -> Result<Vec<Listed>> {
        let entries = self.told(Action::List, "cannot list", listed)?;
        let children = entries.into_iter().filter_map(|entry| {
            let name = entry.path().strip_prefix(folder)?.trim_end_matches('/');
            let is_child = !name.is_empty() && !name.contains('/') && asked(name);
            is_child.then(|| Listed {
                name: name.to_owned(),
                size_bytes: entry.metadata().content_length(),
                is_folder: entry.metadata().is_dir(),
            })
        });
        Ok(children.collect())
    }

    /// Returns whether there is an object of that key.
    pub(super) async fn exists(&self, key: &str) -> Result<bool> {
        self.told(Action::Read, "cannot look for", self.calls().exists(key).await)
    }

    /// Deletes an object, if it is there.
    pub(super) async fn delete(&self, key: &str) -> Result<()> {
        self.told(Action::Delete, "cannot delete", self.calls().delete(key).await)
    }

    /// Reads an object; `None` when there is none.
    pub(super) async fn read(&self, key: &str) -> Result<Option<Bytes>> {
        match self.calls().read(key).await {
            Err(error) if error.kind() == ErrorKind::NotFound => self.told(Action::Read, "cannot read", Ok(None)),
            read => self.told(Action::Read, "cannot read", read.map(|buffer| Some(buffer.to_bytes()))),
        }
    }

    /// Reads the bytes `range` of an object, fewer where it ends before.
    pub(super) async fn read_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        let calls = self.calls();
        let mut read = calls.read_with(key).range(range.clone()).await;
        // To OpenDAL an end beyond the object's is an error.
        if read.is_err()
            && let Ok(found) = calls.stat(key).await
            && found.content_length() < range.end
        {
            let end = found.content_length().max(range.start);
            read = calls.read_with(key).range(range.start..end).await;
        }
        self.told(Action::Read, "cannot read", read.map(|buffer| buffer.to_bytes()))
    }

    /// Creates an object by one request, if there is none of that key.
    pub(super) async fn create(&self, key: &str, bytes: Buffer) -> Result<Creation> {
        let _sending = self.may_send(bytes.len()).await;
        let created = self.calls().write_with(key, bytes).if_not_exists(true).await;
        self.created("cannot create", created)
    }

    /// Begins an upload of parts, one at a time. Each must be at least of the size that the service wants: what is
    /// smaller OpenDAL would merge.
    pub(super) async fn stream(&self, key: &str) -> Result<opendal::Writer> {
        let streams = self.operators().streams.clone();
        let begun = streams.writer_with(key).if_not_exists(true).await;
        begun.map_err(|error| self.failed(Action::Create, "cannot begin an upload", &error))
    }

    /// Waits until that many bytes may be sent, and holds the place for them.
    ///
    /// Without this all segments of a catch-up would share the link at once, each too slow for the time-out, each sent
    /// again and again.
    pub(super) async fn may_send(&self, bytes: usize) -> OwnedSemaphorePermit {
        let wanted = bytes.min(SENT_AT_ONCE_BYTES) as u32;
        let permit = self.sending.clone().acquire_many_owned(wanted).await;
        permit.expect("the semaphore of a store is never closed")
    }

    /// Returns what the store's answer to a conditional creation says.
    pub(super) fn created<T>(&self, what: &'static str, answer: opendal::Result<T>) -> Result<Creation> {
        match answer {
            Err(error) if error.kind() == ErrorKind::ConditionNotMatch => Ok(Creation::Exists),
            answer => self.told(Action::Create, what, answer).map(|_| Creation::Created),
        }
    }

    /// Takes note of what works, and says what does not.
    fn told<T>(&self, action: Action, what: &'static str, answer: opendal::Result<T>) -> Result<T> {
        let value = answer.map_err(|error| self.failed(action, what, &error))?;
        self.worked.fetch_or(action as u8, Ordering::Relaxed);
        Ok(value)
    }

    /// Returns what a failure is to the caller and to a person.
    pub(super) fn failed(&self, action: Action, what: &'static str, error: &opendal::Error) -> Error {
        self.renew(error);
        let Some(hint) = self.denial(action, error) else {
            let kind = if error.kind() == ErrorKind::Unsupported { Kind::Failed } else { Kind::Transient };
            let told = Error::new(kind, what).source(cause(error));
            return match is_bare(error) {
                true => told.hint("expired credentials are answered like this; renew them if they are"),
                false => told,
            };
        };
        if is_unsigned(error) {
            return Error::failed(what).source(cause(error)).hint(hint);
        }
        let worked = self.worked.load(Ordering::Relaxed) & action as u8 != 0;
        Error::new(if worked { Kind::Failed } else { Kind::Usage }, what).source(cause(error)).hint(hint)
    }

    /// Returns what somebody must change, if it is that; what passes by itself is none.
    fn denial(&self, action: Action, error: &opendal::Error) -> Option<String> {
        let code = code(error.message()).unwrap_or_default();
        let container = if self.scheme == "azblob" { "container" } else { "bucket" };
        match code {
            "ExpiredToken" | "TokenRefreshRequired" | "RequestTimeTooSkewed" => return None,
            "NoSuchBucket" | "ContainerNotFound" => {
                return Some(format!("create the {container}, or correct its name in the URL"));
            }
            "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "AuthenticationFailed" => {
                return Some("correct the credentials, in the URL or where the service's own tools look".into());
            }
            "PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException" => {
                return Some("set `region` to that of the bucket".into());
            }
            _ => {}
        }
        match error.kind() {
            ErrorKind::PermissionDenied => {
                let mut hint = format!("allow `{}` on the {container}", self.permission(action));
                if matches!((self.scheme, action), ("s3", Action::Read)) {
                    hint.push_str("; without `s3:ListBucket` an object that is not there is denied, too");
                }
                if is_bare(error) {
                    hint.push_str("; expired credentials are answered like this, too");
                }
                Some(hint)
            }
            ErrorKind::ConfigInvalid => Some("correct the URL of the store or its credentials".into()),
            _ if is_unsigned(error) => Some(hint_for_unsigned(|name| std::env::var_os(name).is_some())),
            _ => None,
        }
    }

    fn permission(&self, action: Action) -> &'static str {
        match (self.scheme, action) {
            ("gcs", Action::Read) => "storage.objects.get",
            ("gcs", Action::List) => "storage.objects.list",
            ("gcs", Action::Create) => "storage.objects.create",
            ("gcs", Action::Delete) => "storage.objects.delete",
            ("azblob", Action::Read) => "read",
            ("azblob", Action::List) => "list",
            ("azblob", Action::Create) => "create",
            ("azblob", Action::Delete) => "delete",
            (_, Action::Read) => "s3:GetObject",
            (_, Action::List) => "s3:ListBucket",
            (_, Action::Create) => "s3:PutObject",
            (_, Action::Delete) => "s3:DeleteObject",
        }
    }
}

/// Installs, once, what HTTP needs: OpenDAL's transport, and for TLS the ring cryptography, which rustls would not
/// choose by itself.
fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // An error is that somebody else has installed one already, which does as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        opendal::install_default();
        // That installs the services; a transport only together with aws-lc.
        let transport = opendal_http_transport_reqwest::ReqwestTransport::default();
        opendal::HttpTransporter::install_default(transport);
    });
}

fn say_retry(event: RetryEvent<'_>) {
    let (attempt, pause_ms) = (event.attempt, event.retry_after.as_millis());
    tracing::debug!(operation = ?event.op, attempt, pause_ms, "asking the store again: {}", cause(event.err));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote() -> Remote {
        Remote { scheme: "s3", ..Remote::memory("remote-errors").expect("opened") }
    }

    fn refused(kind: ErrorKind, code: &str) -> opendal::Error {
        opendal::Error::new(kind, format!("S3Error {{ code: \"{code}\", message: \"no\", resource: \"/x\" }}"))
            .with_context("response", "Parts { headers: authorization }")
    }

    #[test]
    fn a_denial_names_the_permission_and_ends_only_who_never_had_it() {
        let remote = remote();
        let denied = || Err::<(), _>(refused(ErrorKind::PermissionDenied, "AccessDenied"));
        let error = remote.told(Action::Create, "cannot create", denied()).expect_err("denied");
        assert_eq!(error.to_string(), "cannot create: AccessDenied: no; allow `s3:PutObject` on the bucket");
        assert_eq!(error.kind(), Kind::Usage);
        remote.told(Action::Create, "cannot create", Ok(())).expect("it works");
        assert_eq!(remote.told(Action::Create, "", denied()).expect_err("denied").kind(), Kind::Failed);
        assert_eq!(remote.told(Action::List, "", denied()).expect_err("denied").kind(), Kind::Usage);
    }

    #[test]
    fn what_passes_by_itself_is_tried_again() {
        for (kind, code) in [(ErrorKind::Unexpected, "ExpiredToken"), (ErrorKind::RateLimited, "SlowDown")] {
            let error = remote().told::<()>(Action::Read, "cannot read", Err(refused(kind, code)));
            assert!(error.expect_err("refused").retryable(), "{code}");
        }
    }

    #[test]
    fn missing_credentials_end_nobody() {
        let error = opendal::Error::new(ErrorKind::Unexpected, "signing http request")
            .set_source(std::io::Error::other("the token service is down"));
        let error = remote().told::<()>(Action::Read, "cannot read", Err(error)).expect_err("unsigned");
        assert_eq!(error.kind(), Kind::Failed);
        assert!(error.to_string().contains("the token service is down; "), "{error}");
    }

    #[test]
    fn a_refusal_without_a_body_tells_its_status_and_what_it_may_be() {
        for (kind, status) in [(ErrorKind::PermissionDenied, "403"), (ErrorKind::Unexpected, "400")] {
            let response = format!("Parts {{ status: {status}, version: HTTP/1.1, headers: authorization }}");
            let error = opendal::Error::new(kind, "").with_context("response", response);
            assert!(blames_credentials(&error));
            let error = remote().told::<()>(Action::Read, "cannot look for", Err(error)).expect_err("refused");
            let told = error.to_string();
            assert!(told.starts_with(&format!("cannot look for: HTTP status {status} (")), "{told}");
            assert!(told.contains("expired credentials") && !told.contains("headers"), "{told}");
            assert_eq!(error.retryable(), status == "400");
        }
    }

    #[test]
    fn only_what_bad_credentials_get_reads_them_again() {
        let (scheme, rest) = ("s3", "b?region=x&access_key=a&secret_key=b");
        let remote = Remote::open(Location::parse(scheme, rest).expect("read")).expect("opened");
        let long_ago = Instant::now().checked_sub(2 * RENEWAL_PAUSE).expect("the machine is up for longer");
        for (code, renewed) in [("AccessDenied", false), ("ExpiredToken", true), ("InvalidAccessKeyId", true)] {
            remote.operators().made = long_ago;
            let _ = remote.failed(Action::Read, "cannot read", &refused(ErrorKind::Unexpected, code));
            assert_eq!(remote.operators().made != long_ago, renewed, "{code}");
        }
        let made = remote.operators().made;
        let _ = remote.failed(Action::Read, "cannot read", &refused(ErrorKind::Unexpected, "ExpiredToken"));
        assert_eq!(remote.operators().made, made, "not twice within seconds");
    }

    #[test]
    fn only_an_unmet_condition_means_that_an_object_is_there() {
        let met = |kind| remote().created("cannot create", Err::<(), _>(opendal::Error::new(kind, "answer")));
        assert_eq!(met(ErrorKind::ConditionNotMatch).expect("told"), Creation::Exists);
        for kind in [ErrorKind::Conflict, ErrorKind::NotFound, ErrorKind::Unexpected, ErrorKind::AlreadyExists] {
            assert!(met(kind).expect_err("unknown").retryable(), "{kind:?}");
        }
    }
}
