//! Who may change something: one rule for all routes, which every request passes before it reaches one ([`guard`]).
//!
//! Whoever reaches the listener may read, but for a page of another site in a browser on this machine. What may change something,
//! which is every request but `GET` and `HEAD` and a list of exceptions, needs a bearer token or a client certificate, where the
//! agent has been given either (`agent.token`, `agent.tls.client_ca`); where it has not, only a program of this machine may
//! ([`sender`]), and beyond it nobody. A route that changes something takes [`Permitted`], which only this file gives out: one that is served unguarded changes nothing.
//!
//! A token is compared in a time that tells nothing of it, and is neither shown nor logged.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use axum::extract::{ConnectInfo, FromRequestParts, MatchedPath, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use subtle::ConstantTimeEq as _;

use super::{Refused, sender};
use crate::config::Agent;
use crate::error::Result as Outcome;
use crate::telemetry::http::{Certified, Tls};

/// Routes that change nothing, whatever their method says.
const HARMLESS: [&str; 1] = ["/connector-plugins/{class}/config/validate"];

/// What allows a change. Clones share it.
#[derive(Clone, Default)]
pub struct Access {
    token: Option<Arc<str>>,
    /// Whether a certificate allows it.
    takes_certificates: bool,
    /// Whether TLS is spoken.
    is_secured: bool,
}

/// Proof that a request may change something: what does takes it as an argument.
#[derive(Debug, Clone)]
pub(crate) struct Permitted(());

impl Access {
    /// Reads what the configuration says of it.
    pub fn new(agent: &Agent) -> Self {
        let takes_certificates = agent.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
        Self { token: agent.token.as_deref().map(Arc::from), takes_certificates, is_secured: agent.tls.is_some() }
    }

    /// Returns whether a request may change something.
    fn check(&self, peer: Option<SocketAddr>, is_certified: bool, headers: &HeaderMap) -> Result<(), Denied> {
        if is_certified && self.takes_certificates {
            // A browser shows its certificate for any page that has it send a request.
            return sender::check_site(headers, self.scheme()).map_err(Denied::Forbidden);
        }
        if let Some(token) = &self.token {
            return match bearer(headers) {
                Some(shown) if bool::from(shown.ct_eq(token.as_bytes())) => Ok(()),
                Some(_) => Err(Denied::Unauthorized("this token is not the agent's (agent.token)")),
                None => Err(Denied::Unauthorized(
                    "whoever changes something shows the agent's token: Authorization: Bearer <agent.token>",
                )),
            };
        }
        let forbidden = |why: &str| Err(Denied::Forbidden(Refused::new(StatusCode::FORBIDDEN, why)));
        if self.takes_certificates {
            return forbidden(
                "whoever changes something shows a certificate that an authority of agent.tls.client_ca has signed",
            );
        }
        match peer {
            Some(peer) => sender::check(peer, headers, self.scheme()).map_err(Denied::Forbidden),
            None => forbidden("nobody knows where the request comes from"),
        }
    }

    /// Refuses what only looks where it is a page of another site that does.
    fn check_reader(&self, peer: Option<SocketAddr>, headers: &HeaderMap) -> Result<(), Refused> {
        // Where there is a token or an authority, whoever reaches the listener is meant to read, by whatever name.
        let is_open = self.token.is_some() || self.takes_certificates;
        peer.filter(|_| !is_open).map_or(Ok(()), |peer| sender::check_reader(peer, headers))
    }

    fn scheme(&self) -> &'static str {
        if self.is_secured { "https" } else { "http" }
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access")
            .field("has_token", &self.token.is_some())
            .field("takes_certificates", &self.takes_certificates)
            .finish_non_exhaustive()
    }
}

/// Opens what the listener speaks TLS with; `None` where it does not.
///
/// # Errors
/// As [`Tls::open`].
pub fn tls(agent: &Agent) -> Outcome<Option<Tls>> {
    let Some(tls) = &agent.tls else { return Ok(None) };
    Tls::open(&tls.certificate, &tls.key, tls.client_ca.as_deref().map(Path::new)).map(Some)
}

/// Says what is dangerous about the way in, `address` being where it is.
pub fn warn(agent: &Agent, address: SocketAddr) {
    if agent.token.is_some() && agent.tls.is_none() && !address.ip().is_loopback() {
        tracing::warn!(
            "agent.token is sent in the clear to {address}: whoever sees the traffic has it; agent.tls hides it"
        );
    }
}

/// Lets a request through that reads, or that may change something, which it is marked with.
pub(super) async fn guard(State(access): State<Access>, mut request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| *peer);
    if changes(request.method(), path.unwrap_or_default()) {
        let is_certified = request.extensions().get::<Certified>().is_some();
        if let Err(denied) = access.check(peer, is_certified, request.headers()) {
            return denied.into_response();
        }
        request.extensions_mut().insert(Permitted(()));
    } else if let Err(refused) = access.check_reader(peer, request.headers()) {
        return refused.into_response();
    }
    next.run(request).await
}

/// Returns whether a request may change something.
pub(super) fn changes(method: &Method, route: &str) -> bool {
    let is_harmless = || HARMLESS.iter().any(|harmless| route.strip_suffix('/').unwrap_or(route) == *harmless);
    !matches!(*method, Method::GET | Method::HEAD) && !is_harmless()
}

/// Returns the token that a request shows.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let mut shown = headers.get_all(header::AUTHORIZATION).iter();
    let only = shown.next().filter(|_| shown.next().is_none())?.as_bytes();
    let (scheme, token) = only.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

/// A change that is not allowed.
enum Denied {
    /// It would be to who says who it is.
    Unauthorized(&'static str),
    /// Nothing that this request could show would allow it.
    Forbidden(Refused),
}

impl Denied {
    fn into_response(self) -> Response {
        match self {
            Self::Forbidden(refused) => refused.into_response(),
            Self::Unauthorized(why) => {
                let mut response = Refused::new(StatusCode::UNAUTHORIZED, why).into_response();
                let _ = response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
                response
            }
        }
    }
}

impl<S: Sync> FromRequestParts<S> for Permitted {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refused> {
        let unguarded = || Refused::new(StatusCode::FORBIDDEN, "nothing says that this may change something");
        parts.extensions.get::<Self>().cloned().ok_or_else(unguarded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(given: &[(header::HeaderName, &str)]) -> HeaderMap {
        given.iter().map(|(name, value)| (name.clone(), value.parse().expect("a value"))).collect()
    }

    fn status(access: &Access, peer: &str, is_certified: bool, given: &[(header::HeaderName, &str)]) -> u16 {
        let peer = peer.parse().expect("an address");
        match access.check(Some(peer), is_certified, &headers(given)) {
            Ok(()) => 200,
            Err(denied) => denied.into_response().status().as_u16(),
        }
    }

    const HERE: &str = "127.0.0.1:9";
    const AWAY: &str = "10.0.0.1:9";

    #[test]
    fn with_a_token_it_alone_allows_a_change_wherever_it_is_asked_for() {
        let access = Access { token: Some("0123456789abcdef".into()), ..Access::default() };
        for (shown, answer) in [
            ("Bearer 0123456789abcdef", 200),
            ("bearer 0123456789abcdef", 200),
            ("Bearer  0123456789abcdef", 200),
            ("Bearer 0123456789abcdeF", 401),
            ("Bearer 0123456789abcde", 401),
            ("Bearer 0123456789abcdef0", 401),
            ("Bearer ", 401),
            ("Basic 0123456789abcdef", 401),
            ("0123456789abcdef", 401),
        ] {
            for peer in [HERE, AWAY] {
                assert_eq!(status(&access, peer, false, &[(header::AUTHORIZATION, shown)]), answer, "{peer}: {shown}");
            }
        }
        assert_eq!(status(&access, HERE, false, &[(header::HOST, "localhost")]), 401);
        assert_eq!(status(&access, HERE, true, &[]), 401, "a certificate that was not asked for allows nothing");
        let mut twice = headers(&[(header::AUTHORIZATION, "Bearer 0123456789abcdef")]);
        let _ = twice.append(header::AUTHORIZATION, HeaderValue::from_static("Bearer x"));
        let denied = access.check(HERE.parse().ok(), false, &twice).expect_err("which of them is meant");
        assert_eq!(denied.into_response().headers()[header::WWW_AUTHENTICATE], "Bearer");
    }

    #[test]
    fn a_certificate_allows_a_change_but_not_to_a_page_of_another_site() {
        let access = Access { token: None, takes_certificates: true, is_secured: true };
        let host = (header::HOST, "agent.example:8083");
        assert_eq!(status(&access, AWAY, true, std::slice::from_ref(&host)), 200);
        assert_eq!(status(&access, HERE, false, &[(header::HOST, "localhost")]), 403);
        for (origin, answer) in [("https://agent.example:8083", 200), ("https://evil.example", 403), ("null", 403)] {
            assert_eq!(status(&access, AWAY, true, &[host.clone(), (header::ORIGIN, origin)]), answer, "{origin}");
        }
        let both = Access { token: Some("0123456789abcdef".into()), ..access };
        assert_eq!(status(&both, AWAY, true, &[host]), 200);
        assert_eq!(status(&both, AWAY, false, &[(header::AUTHORIZATION, "Bearer 0123456789abcdef")]), 200);
        assert_eq!(status(&both, AWAY, false, &[]), 401);
    }

    #[test]
    fn without_either_a_program_of_this_machine_may_and_nobody_beyond() {
        let access = Access::default();
        assert_eq!(status(&access, HERE, false, &[(header::HOST, "localhost")]), 200);
        assert_eq!(status(&access, AWAY, false, &[(header::HOST, "localhost")]), 403);
        assert_eq!(status(&access, AWAY, false, &[(header::AUTHORIZATION, "Bearer x")]), 403);
        assert!(access.check(None, false, &HeaderMap::new()).is_err(), "nobody knows who it is");
    }

    #[test]
    fn what_only_looks_is_not_held_up() {
        assert!(!changes(&Method::GET, "/connectors") && !changes(&Method::HEAD, "/connectors"));
        for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS, Method::TRACE] {
            assert!(changes(&method, "/connectors") && changes(&method, ""), "{method}");
        }
        assert!(!changes(&Method::PUT, "/connector-plugins/{class}/config/validate/"));
        assert!(changes(&Method::PUT, "/connector-plugins/x/config/validate"), "no route is so called");
    }

    #[test]
    fn a_token_is_not_shown() {
        let access = Access { token: Some("0123456789abcdef".into()), ..Access::default() };
        assert_eq!(format!("{access:?}"), "Access { has_token: true, takes_certificates: false, .. }");
    }
}
