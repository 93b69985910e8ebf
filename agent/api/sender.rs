//! Who may send a request that changes something: a program of this machine, and no page of a browser on it.
//!
//! A page from anywhere may have a browser send a request to this machine, and may even bear a name that leads here (DNS
//! rebinding). A browser says so: in `Origin` and `Sec-Fetch-Site`, which a page cannot change, and in `Host`, the name
//! that it was told. Programs send neither of the first two. Pure; [`access`](super::access) says whom else it allows.

use std::net::{IpAddr, SocketAddr};

use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};

use super::Refused;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// What proxies say of whom they send a request for. Theirs come from this machine, whoever is behind them.
const PROXIES: [&str; 5] = ["forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip"];

/// Refuses a request to read that a browser on this machine sends for a page of another site, which has had its own name lead
/// here. It would have that page read what only this machine may.
pub(super) fn check_reader(peer: SocketAddr, headers: &HeaderMap) -> Result<(), Refused> {
    let is_local = peer.ip().to_canonical().is_loopback();
    if !is_local || !headers.contains_key(header::HOST) {
        return Ok(());
    }
    // An address is nobody's name, and the machine's own name is no page's.
    let is_right = |host: &str| is_this_machine(host) || is_address(host) || is_own_name(host);
    if host(headers).is_some_and(is_right) {
        return Ok(());
    }
    let message = "this machine has no such name: ask it as localhost, by an address or by its host name, or give the agent a \
                   token (agent.token)";
    Err(Refused::new(StatusCode::FORBIDDEN, message))
}

/// Returns whether `host` is an address, with or without a port.
fn is_address(host: &str) -> bool {
    let name = host.parse::<Authority>().map(|authority| authority.host().to_owned()).unwrap_or_default();
    name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok()
}

/// Returns whether `host` is the name of this machine, with or without its domain and a port.
fn is_own_name(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let own = nix::unistd::gethostname().ok().and_then(|own| own.into_string().ok()).unwrap_or_default();
    let short = own.split('.').next().unwrap_or_default();
    !own.is_empty() && [own.as_str(), short].iter().any(|own| authority.host().eq_ignore_ascii_case(own))
}

/// Refuses a request that does not come from a program of this machine; `scheme` is the one that is spoken.
pub(super) fn check(peer: SocketAddr, headers: &HeaderMap, scheme: &str) -> Result<(), Refused> {
    let forbidden = |message: &str| Err(Refused::new(StatusCode::FORBIDDEN, message));
    if !peer.ip().to_canonical().is_loopback() {
        return forbidden("only this machine may change anything: send the request from where the agent runs");
    }
    if let Some(name) = PROXIES.iter().find(|name| headers.contains_key(**name)) {
        return forbidden(&format!(
            "a proxy has sent this on ({name}), and nobody knows from where: give the agent a token (agent.token)"
        ));
    }
    if !host(headers).is_some_and(is_this_machine) {
        return forbidden(
            "only who asks this machine by its own name may change anything: localhost, 127.0.0.1 or [::1]",
        );
    }
    check_site(headers, scheme)
}

/// Refuses a request that a page of another site has a browser send; `scheme` is the one that is spoken.
pub(super) fn check_site(headers: &HeaderMap, scheme: &str) -> Result<(), Refused> {
    let ours = host(headers).map(|host| format!("{scheme}://{host}")).unwrap_or_default();
    let is_foreign =
        headers.get_all(header::ORIGIN).iter().any(|origin| !origin.as_bytes().eq_ignore_ascii_case(ours.as_bytes()))
            || headers.get_all(SEC_FETCH_SITE).iter().any(|site| site != "same-origin");
    if is_foreign {
        let message = "a page of another site may not change anything: send the request without a browser";
        return Err(Refused::new(StatusCode::FORBIDDEN, message));
    }
    Ok(())
}

/// Returns the name that was asked; `None` where there is none, or more than one.
fn host(headers: &HeaderMap) -> Option<&str> {
    let mut hosts = headers.get_all(header::HOST).iter();
    hosts.next().and_then(|host| host.to_str().ok()).filter(|_| hosts.next().is_none())
}

/// Returns whether `host`, a name or an address with or without a port, is how this machine calls itself.
fn is_this_machine(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    if authority.as_str().contains('@') {
        return false;
    }
    let name = authority.host();
    match name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        Ok(address) => address.to_canonical().is_loopback(),
        Err(_) => name.eq_ignore_ascii_case("localhost"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(peer: &str, headers: &[(HeaderName, &str)]) -> u16 {
        let headers = headers.iter().map(|(name, value)| (name.clone(), value.parse().expect("a value"))).collect();
        check(peer.parse().expect("an address"), &headers, "http")
            .map_or_else(|refused| refused.status.as_u16(), |()| 200)
    }

    #[test]
    fn only_this_machine_is_local() {
        for (peer, answer) in
            [("127.0.0.1:9", 200), ("[::1]:9", 200), ("[::ffff:127.0.0.1]:9", 200), ("10.0.0.1:9", 403)]
        {
            assert_eq!(status(peer, &[(header::HOST, "localhost:8083")]), answer, "{peer}");
        }
    }

    #[test]
    fn a_name_that_only_leads_here_is_refused() {
        for host in ["127.0.0.1:8083", "localhost", "LocalHost:1", "[::1]:8083", "[::ffff:127.0.0.1]:8083", "127.9.9.9"]
        {
            assert_eq!(status("127.0.0.1:9", &[(header::HOST, host)]), 200, "{host}");
        }
        for host in
            ["evil.example:8083", "localhost.evil.example", "x@localhost", "10.0.0.1:8083", "", "127.0.0.1.nip.io"]
        {
            assert_eq!(status("127.0.0.1:9", &[(header::HOST, host)]), 403, "{host}");
        }
        assert_eq!(status("127.0.0.1:9", &[]), 403, "whoever speaks HTTP/1.1 names the host");
        let two = [(header::HOST, "localhost"), (header::HOST, "evil.example")];
        let mut headers = HeaderMap::new();
        for (name, value) in two {
            let _ = headers.append(name, value.parse().expect("a value"));
        }
        assert!(check("127.0.0.1:9".parse().expect("an address"), &headers, "http").is_err());
    }

    #[test]
    fn whom_a_proxy_sends_something_for_is_not_this_machine() {
        let host = (header::HOST, "localhost:8083");
        for name in PROXIES {
            let name = HeaderName::from_static(name);
            assert_eq!(status("127.0.0.1:9", &[host.clone(), (name.clone(), "10.0.0.1")]), 403, "{name}");
        }
    }

    #[test]
    fn a_page_whose_name_only_leads_here_reads_nothing() {
        let reads = |peer: &str, hosts: &[&str]| {
            let mut headers = HeaderMap::new();
            for host in hosts {
                let _ = headers.append(header::HOST, host.parse().expect("a value"));
            }
            check_reader(peer.parse().expect("an address"), &headers).is_ok()
        };
        let own = nix::unistd::gethostname().expect("it has one").into_string().expect("UTF-8");
        for host in ["localhost:8083", "127.0.0.1:8083", "[::1]", "10.0.0.1:8083", &format!("{own}:8083")] {
            assert!(reads("127.0.0.1:9", &[host]), "{host}");
        }
        for host in ["evil.example", "evil.example:8083", "127.0.0.1.nip.io", "x@localhost", ""] {
            assert!(!reads("127.0.0.1:9", &[host]), "{host}");
        }
        assert!(!reads("127.0.0.1:9", &["localhost", "evil.example"]));
        assert!(
            reads("127.0.0.1:9", &[]) && reads("10.0.0.1:9", &["agent.example"]),
            "no browser, or not of this machine"
        );
    }

    #[test]
    fn a_page_of_another_site_is_refused() {
        let host = (header::HOST, "localhost:8083");
        for (name, value, answer) in [
            (header::ORIGIN, "http://localhost:8083", 200),
            (header::ORIGIN, "http://localhost:3000", 403),
            (header::ORIGIN, "https://evil.example", 403),
            (header::ORIGIN, "null", 403),
            (SEC_FETCH_SITE, "same-origin", 200),
            (SEC_FETCH_SITE, "same-site", 403),
            (SEC_FETCH_SITE, "cross-site", 403),
            (SEC_FETCH_SITE, "none", 403),
        ] {
            assert_eq!(status("127.0.0.1:9", &[host.clone(), (name.clone(), value)]), answer, "{name}: {value}");
        }
    }
}
