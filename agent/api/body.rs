//! The body of a request, taken in whole before it reaches its route: with a bound on its bytes, and on the time that it takes;
//! and what it says ([`Sent`]).
//!
//! Memory: [`COMMON_BYTES`] for each connection, and for a few at a time [`MOST_BYTES`]; who sends as much when they all do is told to
//! try again. What is more than that is left where it is; for a moment it is read and thrown away, so that whoever still sends
//! hears the answer before the connection ends.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use serde::de::DeserializeOwned;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::Refused;

/// The most bytes of a body that anybody may send at any time: a connector's configuration has a few hundred.
const COMMON_BYTES: usize = 256 << 10;

/// The most bytes of a body: the plan of a thousand groups has as many.
pub(super) const MOST_BYTES: usize = 4 << 20;

/// Bodies at a time that have more than [`COMMON_BYTES`].
const MOST_LARGE: usize = 16;

/// How long a body may take to come: half would refuse the largest one over a slow line.
const WITHIN: Duration = Duration::from_secs(20);

/// How long the rest of a body is thrown away that has too many bytes.
const LINGER: Duration = Duration::from_secs(1);

/// What bodies may have at a time. Clones share it.
#[derive(Clone)]
pub(super) struct Bodies(Arc<Semaphore>);

impl Default for Bodies {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MOST_LARGE)))
    }
}

/// Hands a request on whose body is whole.
pub(super) async fn whole(State(bodies): State<Bodies>, request: Request, next: Next) -> Response {
    let (parts, mut body) = request.into_parts();
    match timeout(WITHIN, bodies.read(&mut body)).await {
        // What a large one is allowed, it is until it is answered.
        Ok(Ok((bytes, _place))) => next.run(Request::from_parts(parts, Body::from(bytes))).await,
        Ok(Err(refused)) => {
            let _ = timeout(LINGER, async { while let Some(Ok(_)) = body.frame().await {} }).await;
            refused.into_response()
        }
        Err(_) => Refused::new(StatusCode::REQUEST_TIMEOUT, "the body of the request does not come").into_response(),
    }
}

impl Bodies {
    async fn read(&self, body: &mut Body) -> Result<(Bytes, Option<OwnedSemaphorePermit>), Refused> {
        let (mut bytes, mut place) = (BytesMut::new(), None);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| Refused::bad(format!("the body cannot be read: {error}")))?;
            let Some(data) = frame.data_ref() else { continue };
            let come = bytes.len() + data.len();
            if come > MOST_BYTES {
                let message = format!("the body of a request has at most {MOST_BYTES} bytes");
                return Err(Refused::new(StatusCode::PAYLOAD_TOO_LARGE, message));
            }
            if come > COMMON_BYTES && place.is_none() {
                let busy = |_| Refused::unavailable("others send as large requests now");
                place = Some(self.0.clone().try_acquire_owned().map_err(busy)?);
            }
            bytes.extend_from_slice(data);
        }
        Ok((bytes.freeze(), place))
    }
}

/// What the body of a request says, in JSON. One that is empty is an object without anything in it.
pub(super) struct Sent<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Sent<T> {
    type Rejection = Refused;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refused> {
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let kind = kind.unwrap_or_default().split(';').next().unwrap_or_default().trim().to_owned();
        let bytes = Bytes::from_request(request, state).await;
        let bytes = bytes.map_err(|rejection| Refused::new(rejection.status(), rejection.body_text()))?;
        if !bytes.is_empty() && !kind.eq_ignore_ascii_case("application/json") {
            let message = "the body of the request is JSON: Content-Type: application/json";
            return Err(Refused::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
        }
        let said = if bytes.is_empty() { &b"{}"[..] } else { &bytes };
        let said = serde_json::from_slice(said);
        said.map(Self)
            .map_err(|error| Refused::bad(format!("the body of the request is not what is asked for: {error}")))
    }
}
