//! The agent's own HTTP listener: `/metrics`, `/livez`, `/readyz`, and the API that it is given; over TLS where it is told so.
//!
//! Crash: it holds nothing. Cancellation: dropping [`Listener::serve`] closes it, and all of its connections. A request never
//! touches capture: it reads atomics and one short lock. Bounds: so many connections, each with so many bytes of headers, and
//! so long to send them and to read what is answered; further ones wait, and of one address they are closed. What a body may have
//! is the API's to say.

mod timed;
mod tls;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::http::{Request, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use self::timed::Timed;
use self::tls::Secured;
pub use self::tls::Tls;
use super::health::Health;
use super::metrics::Series;
use crate::error::{Error, Result};

/// Connections at a time. Half is what a busy dashboard with its scrapers may come to; with twice as many, bodies could take
/// twice the memory, which is this many times what one may have.
const MOST_CONNECTIONS: usize = 256;

/// Those of them that one address may have. With half, a hundred slow ones of a gateway, or of this machine, would keep out the
/// rest of it; with twice as many, one address would take every place.
const MOST_OF_PEER: usize = 128;

/// How long whoever asks may take to read an answer: half may be too short for a page of metrics of 10,000 partitions over a slow
/// line, with double who reads nothing keeps its place for twice as long.
const READ_WITHIN: Duration = Duration::from_secs(30);

/// How long whoever has connected may take to send the head of a request, the next one too. Half would close connections that
/// scrapers keep for later; twice as long lets whoever sends nothing hold its place twice as long.
const HEAD_WITHIN: Duration = Duration::from_secs(30);

/// How long the handshake of TLS may take.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);

/// The most bytes of a request's head: tokens and certificates' names have a few hundred.
const MOST_HEAD_BYTES: usize = 64 << 10;

/// The wait after a connection that could not be taken: there may be no descriptor left for one.
const TAKE_AGAIN_AFTER: Duration = Duration::from_millis(200);

/// Marks requests whose sender has shown a certificate that the listener's authority has signed.
#[derive(Debug, Clone, Copy)]
pub struct Certified;

/// A listener that is bound and not yet serving.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    tls: Option<Tls>,
}

impl Listener {
    /// Binds `address` (`host:port`, port 0 for any free one) and logs where it listens; without `tls` in the clear.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) when the address is taken or is not this machine's.
    pub async fn bind(address: &str, tls: Option<Tls>) -> Result<Self> {
        let refused = |error: std::io::Error| {
            Error::usage(format!("cannot listen on {address}"))
                .source(error)
                .hint("agent.listen, or --listen, must be a free address of this machine")
        };
        let socket = TcpListener::bind(address).await.map_err(refused)?;
        let address = socket.local_addr().map_err(refused)?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        tracing::info!("listening on {scheme}://{address}");
        Ok(Self { socket, address, tls })
    }

    /// Returns the address that is bound.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until it is dropped; `api` has all other routes, and what is said where there is none. Requests have the
    /// sender's address as connection information, and [`Certified`] among their extensions where that is so.
    pub async fn serve(self, metrics: Series, health: Health, api: Router) {
        self.take(routes(metrics, health).merge(api)).await;
    }

    /// Takes connections, for ever.
    async fn take(self, routes: Router) {
        let (places, peers) = (Arc::new(Semaphore::new(MOST_CONNECTIONS)), Peers::default());
        // Dropped, it ends them all.
        let mut connections = JoinSet::new();
        loop {
            let place = places.clone().acquire_owned().await.expect("nobody closes it");
            while connections.try_join_next().is_some() {}
            match self.socket.accept().await {
                Ok((stream, peer)) => match peers.enter(peer.ip()) {
                    Some(own) => {
                        let places = (place, own);
                        connections.spawn(converse(stream, peer, self.tls.clone(), routes.clone(), places));
                    }
                    None => tracing::debug!(%peer, "closed: it has {MOST_OF_PEER} connections already"),
                },
                Err(error) => {
                    tracing::debug!(%error, "a connection could not be taken");
                    tokio::time::sleep(TAKE_AGAIN_AFTER).await;
                }
            }
        }
    }
}

/// How many connections each address has. Clones share it.
#[derive(Clone, Default)]
struct Peers(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// A connection of an address, until it is dropped.
struct Own {
    peers: Peers,
    address: IpAddr,
}

impl Peers {
    /// Takes note of one more; `None` where there are as many as may be.
    fn enter(&self, address: IpAddr) -> Option<Own> {
        let mut all = self.lock();
        let count = all.entry(address).or_default();
        if *count >= MOST_OF_PEER {
            return None;
        }
        *count += 1;
        Some(Own { peers: self.clone(), address })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        // Numbers, right after each change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let mut all = self.peers.lock();
        if let Some(count) = all.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                let _ = all.remove(&self.address);
            }
        }
    }
}

/// Serves one connection to its end. What goes wrong with it is its sender's: nobody else is told above debug.
async fn converse(
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<Tls>,
    routes: Router,
    _places: (OwnedSemaphorePermit, Own),
) {
    let _ = stream.set_nodelay(true);
    let Some(tls) = tls else { return speak(stream, peer, false, routes).await };
    match tokio::time::timeout(HANDSHAKE_WITHIN, tls.accept(stream)).await {
        Ok(Ok(Secured { stream, is_certified })) => speak(stream, peer, is_certified, routes).await,
        Ok(Err(error)) => tracing::debug!(%peer, %error, "no TLS comes about"),
        Err(_) => tracing::debug!(%peer, "the handshake of TLS takes too long"),
    }
}

async fn speak<S>(stream: S, peer: SocketAddr, is_certified: bool, routes: Router)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let routes = TowerToHyperService::new(routes);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        if is_certified {
            request.extensions_mut().insert(Certified);
        }
        routes.call(request)
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN).max_buf_size(MOST_HEAD_BYTES);
    if let Err(error) = http.serve_connection(TokioIo::new(Timed::new(stream, READ_WITHIN)), service).await {
        tracing::debug!(%peer, %error, "a connection ended");
    }
}

fn routes(metrics: Series, health: Health) -> Router {
    // The content type of Prometheus's text format.
    let text = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    Router::new()
        .route("/metrics", get(move || async move { (text, metrics.render()) }))
        .route("/livez", get(|| async { "live\n" }))
        .route("/readyz", get(move || async move { ready(&health) }))
        .method_not_allowed_fallback(|| async {
            let body = axum::Json(serde_json::json!({ "error_code": 405, "message": "HTTP 405 Method Not Allowed" }));
            (StatusCode::METHOD_NOT_ALLOWED, body)
        })
}

fn ready(health: &Health) -> impl IntoResponse + use<> {
    let reasons = health.reasons();
    if reasons.is_empty() {
        return (StatusCode::OK, "ready\n".to_owned());
    }
    (StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics;

    async fn get(address: SocketAddr, path: &str) -> (u16, String) {
        // reqwest is built for the store's TLS, and asks for its cryptography even where none is spoken.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let response = reqwest::get(format!("http://{address}{path}")).await.expect("an answer");
        (response.status().as_u16(), response.text().await.expect("a body"))
    }

    #[tokio::test]
    async fn it_is_ready_when_nothing_is_wrong_and_else_says_what() {
        let listener = Listener::bind("127.0.0.1:0", None).await.expect("bound");
        let (address, health) = (listener.address(), Health::new());
        let server = tokio::spawn(listener.serve(metrics::install().expect("metrics"), health.clone(), Router::new()));
        assert_eq!(get(address, "/livez").await, (200, "live\n".into()));
        assert_eq!(get(address, "/readyz").await, (200, "ready\n".into()));
        health.of("pipeline orders").set("", Some("starting".into()));
        assert_eq!(get(address, "/readyz").await, (503, "pipeline orders: starting\n".into()));
        assert!(get(address, "/metrics").await.1.contains("kafka_backup_build_info"));
        server.abort();
    }

    #[test]
    fn one_address_does_not_take_every_place() {
        let (peers, one) = (Peers::default(), "10.0.0.1".parse().expect("an address"));
        let mut held: Vec<_> = (0..MOST_OF_PEER).map(|_| peers.enter(one).expect("a place")).collect();
        assert!(peers.enter(one).is_none());
        assert!(peers.enter("10.0.0.2".parse().expect("an address")).is_some(), "others have theirs");
        drop(held.pop());
        held.push(peers.enter(one).expect("one is free again"));
        drop(held);
        assert!(peers.lock().is_empty(), "nothing is left of who is gone");
    }

    #[tokio::test]
    async fn an_address_in_use_is_the_users_to_change() {
        let first = Listener::bind("127.0.0.1:0", None).await.expect("bound");
        let error = Listener::bind(&first.address().to_string(), None).await.expect_err("taken");
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("in use"), "{error}");
    }
}
