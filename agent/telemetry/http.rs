//! The agent's own HTTP listener: `/metrics`, `/livez`, `/readyz`, and the API that it is given.
//!
//! Crash: it holds nothing. Cancellation: dropping [`Listener::serve`] closes it. A request never touches capture: it
//! reads atomics and one short lock.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;

use super::health::Health;
use crate::error::{Error, Result};

/// How often histograms are drained; without it they would grow until the next scrape. The exporter's own default.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// A listener that is bound and not yet serving.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Binds `address` (`host:port`, port 0 for any free one) and logs where it listens.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) when the address is taken or is not this machine's.
    pub async fn bind(address: &str) -> Result<Self> {
        let refused = |error: std::io::Error| {
            Error::usage(format!("cannot listen on {address}"))
                .source(error)
                .hint("agent.listen, or --listen, must be a free address of this machine")
        };
        let socket = TcpListener::bind(address).await.map_err(refused)?;
        let address = socket.local_addr().map_err(refused)?;
        tracing::info!("listening on http://{address}");
        Ok(Self { socket, address })
    }

    /// Returns the address that is bound.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until it is dropped; `api` has all other routes, and what is said where there is none.
    pub async fn serve(self, metrics: PrometheusHandle, health: Health, api: Router) {
        let upkeep = metrics.clone();
        let upkeep = async move {
            loop {
                tokio::time::sleep(UPKEEP_INTERVAL).await;
                upkeep.run_upkeep();
            }
        };
        let routes = routes(metrics, health).merge(api).into_make_service_with_connect_info::<SocketAddr>();
        let serving = axum::serve(self.socket, routes);
        tokio::select! {
            () = upkeep => {}
            served = serving => if let Err(error) = served {
                tracing::error!(%error, "the HTTP listener ended; metrics and health are no longer served");
            },
        }
    }
}

fn routes(metrics: PrometheusHandle, health: Health) -> Router {
    // The content type of Prometheus's text format.
    let text = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    Router::new()
        .route("/metrics", get(move || async move { (text, metrics.render()) }))
        .route("/livez", get(|| async { "live\n" }))
        .route("/readyz", get(move || async move { ready(&health) }))
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
        let listener = Listener::bind("127.0.0.1:0").await.expect("bound");
        let (address, health) = (listener.address(), Health::new());
        let server = tokio::spawn(listener.serve(metrics::install().expect("metrics"), health.clone(), Router::new()));
        assert_eq!(get(address, "/livez").await, (200, "live\n".into()));
        assert_eq!(get(address, "/readyz").await, (200, "ready\n".into()));
        health.of("pipeline orders").set("", Some("starting".into()));
        assert_eq!(get(address, "/readyz").await, (503, "pipeline orders: starting\n".into()));
        assert!(get(address, "/metrics").await.1.contains("kafka_backup_build_info"));
        server.abort();
    }

    #[tokio::test]
    async fn an_address_in_use_is_the_users_to_change() {
        let first = Listener::bind("127.0.0.1:0").await.expect("bound");
        let error = Listener::bind(&first.address().to_string()).await.expect_err("taken");
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("in use"), "{error}");
    }
}
