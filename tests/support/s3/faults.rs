//! What goes wrong with a store, at the level of its HTTP: refusals, silence, answers that get lost, connections that
//! break, listings that lag behind.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use http_body_util::BodyExt as _;
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response};

use super::{Asked, Object, Server, is_below};

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// 500 and 503 in turn.
    Unavailable,
    /// 429.
    TooMany,
    /// The request is taken in and never answered.
    Silent,
    /// The request is performed; then the connection breaks, or an error is answered.
    Lost,
    /// Bytes come slowly and the answer late, but within any time-out.
    Slow,
    /// The connection breaks in the middle of the request.
    Cut,
    /// Listings omit what was created at that time or later.
    Stale(SystemTime),
    /// 403.
    Forbidden,
    /// 507: no space left.
    Full,
}

/// For how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lasting {
    /// For so many requests.
    Times(usize),
    /// From the first request that meets it on.
    For(Duration),
    /// Until it is taken away.
    Ever,
}

/// The answer is that the connection breaks.
#[derive(Debug)]
pub(super) struct Cut;

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the connection is cut")
    }
}

impl std::error::Error for Cut {}

#[derive(Debug)]
struct Rule {
    number: usize,
    prefix: String,
    object: Object,
    fault: Fault,
    lasting: Lasting,
    first_hit: Option<Instant>,
    hits: usize,
}

impl Rule {
    /// Returns whether the request meets the fault.
    fn meets(&self, asked: &Asked) -> bool {
        let about = match self.fault {
            Fault::Stale(_) => asked.object == Object::List,
            _ if asked.object == Object::List => self.object == Object::List,
            _ => asked.object == self.object && !matches!(asked.method, Method::GET | Method::HEAD),
        };
        let lasts = match self.lasting {
            Lasting::Times(times) => self.hits < times,
            Lasting::For(duration) => self.first_hit.is_none_or(|hit| hit.elapsed() < duration),
            Lasting::Ever => true,
        };
        about && lasts && is_below(&asked.key, &self.prefix)
    }

    fn hit(&mut self) {
        self.first_hit.get_or_insert_with(Instant::now);
        self.hits += 1;
    }
}

/// The faults that are set.
#[derive(Debug, Default)]
pub(super) struct Rules(Mutex<Vec<Rule>>);

/// A fault that a request meets.
pub(super) struct Met {
    fault: Fault,
    object: Object,
    number: usize,
    /// How many requests had met it before.
    before: usize,
}

impl Rules {
    pub(super) fn add(&self, prefix: &str, object: Object, fault: Fault, lasting: Lasting) {
        static NUMBERS: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let rule = Rule { number, prefix: prefix.to_owned(), object, fault, lasting, first_hit: None, hits: 0 };
        self.0.lock().expect("nobody panics while holding it").push(rule);
    }

    pub(super) fn clear(&self, prefix: &str) {
        self.0.lock().expect("nobody panics while holding it").retain(|rule| rule.prefix != prefix);
    }

    pub(super) fn hits(&self, prefix: &str) -> usize {
        let rules = self.0.lock().expect("nobody panics while holding it");
        rules.iter().filter(|rule| rule.prefix == prefix).map(|rule| rule.hits).sum()
    }

    pub(super) fn fault(&self, asked: &Asked) -> Option<Met> {
        let mut rules = self.0.lock().expect("nobody panics while holding it");
        let rule = rules.iter_mut().find(|rule| rule.meets(asked))?;
        let met = Met { fault: rule.fault, object: rule.object, number: rule.number, before: rule.hits };
        // A listing meets a fault only where it has something to omit.
        if !matches!(rule.fault, Fault::Stale(_)) {
            rule.hit();
        }
        Some(met)
    }

    fn hit(&self, met: &Met) {
        let mut rules = self.0.lock().expect("nobody panics while holding it");
        // It may have been taken away meanwhile.
        if let Some(rule) = rules.iter_mut().find(|rule| rule.number == met.number) {
            rule.hit();
        }
    }
}

/// Returns a store's refusal.
pub(super) fn refuse(status: u16, code: &str, key: &str) -> Response<s3s::Body> {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>a fault of the test</Message>\
         <Resource>/{key}</Resource><RequestId>0</RequestId></Error>"
    );
    let answer = Response::builder().status(status).header("content-type", "application/xml");
    answer.body(body.into()).expect("a plain answer")
}

impl Server {
    pub(super) async fn fail(
        &self,
        asked: &Asked,
        request: Request<Incoming>,
        met: Met,
    ) -> Result<Response<s3s::Body>, Cut> {
        if let Fault::Stale(since) = met.fault {
            let listed = self.perform(asked, request.map(s3s::Body::from)).await?;
            return self.omit(listed, &met, since).await;
        }
        if met.fault == Fault::Cut {
            return Err(read_half(request).await);
        }
        let slow = met.fault == Fault::Slow;
        let (head, body) = request.into_parts();
        let body = if slow { trickle(body).await? } else { body.collect().await.map_err(|_| Cut)?.to_bytes() };
        let request = Request::from_parts(head, body.into());
        match met.fault {
            Fault::Unavailable if met.before.is_multiple_of(2) => Ok(refuse(503, "ServiceUnavailable", &asked.key)),
            Fault::Unavailable => Ok(refuse(500, "InternalError", &asked.key)),
            Fault::TooMany => Ok(refuse(429, "TooManyRequests", &asked.key)),
            Fault::Forbidden => Ok(refuse(403, "AccessDenied", &asked.key)),
            Fault::Full => Ok(refuse(507, "XMinioStorageFull", &asked.key)),
            Fault::Silent => std::future::pending().await,
            Fault::Lost => {
                self.perform(asked, request).await?;
                if met.before.is_multiple_of(2) { Err(Cut) } else { Ok(refuse(500, "InternalError", &asked.key)) }
            }
            Fault::Slow => self.perform(asked, request).await,
            Fault::Cut | Fault::Stale(_) => unreachable!("answered above"),
        }
    }

    /// Returns a listing without objects of that kind that were created at `since` or later.
    async fn omit(
        &self,
        listed: Response<s3s::Body>,
        met: &Met,
        since: SystemTime,
    ) -> Result<Response<s3s::Body>, Cut> {
        let (mut head, body) = listed.into_parts();
        let body = body.collect().await.map_err(|_| Cut)?.to_bytes();
        let text = String::from_utf8_lossy(&body);
        let mut pieces = text.split("<Contents>");
        let mut kept = pieces.next().unwrap_or_default().to_owned();
        let mut omitted = 0;
        for piece in pieces {
            let (entry, rest) = piece.split_once("</Contents>").expect("a listing of s3s");
            let key = entry.split_once("<Key>").and_then(|(_, key)| key.split_once("</Key>")).expect("a key").0;
            let made = self.folder.path().join(super::BUCKET).join(key).metadata().and_then(|meta| meta.modified());
            if Object::of(key) == met.object && made.is_ok_and(|made| made >= since) {
                omitted += 1;
            } else {
                kept += &format!("<Contents>{entry}</Contents>");
            }
            kept += rest;
        }
        if omitted > 0 {
            self.rules.hit(met);
        }
        head.headers.remove("content-length");
        Ok(Response::from_parts(head, kept.into()))
    }
}

/// Takes in half of what the request says it brings.
async fn read_half(request: Request<Incoming>) -> Cut {
    let length = request.headers().get("content-length").and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    let mut body = request.into_body();
    let mut read = 0;
    while read <= length.unwrap_or(0) / 2 {
        let Some(Ok(frame)) = body.frame().await else { break };
        read += frame.data_ref().map_or(0, Bytes::len);
    }
    Cut
}

/// Takes a body in slowly.
async fn trickle(mut body: Incoming) -> Result<Bytes, Cut> {
    let mut taken = Vec::new();
    // So that the smallest body, of one frame, is late as well; the largest, of some MiB, by no more than a second.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut rest_until = 0;
    while let Some(frame) = body.frame().await {
        taken.extend_from_slice(frame.map_err(|_| Cut)?.data_ref().map_or(&[], |data| data));
        if taken.len() >= rest_until {
            tokio::time::sleep(Duration::from_millis(60)).await;
            rest_until = taken.len() + (1 << 20);
        }
    }
    Ok(taken.into())
}
