//! The properties of a connection to a cluster, by librdkafka's names
//! (<https://github.com/confluentinc/librdkafka/blob/v2.12.1/CONFIGURATION.md>).
//!
//! Everything is checked when the map is read, so that a typing error ends the program before it has done anything.
//! What concerns only rdkafka (groups, its producer) is accepted and passed on with [`Properties::for_librdkafka`].

mod known;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::given::value;
use super::security::Security;
use crate::error::{Error, Result};

/// A frame of so many bytes and its headers fits four mebibytes, in whole steps of pooled memory.
const FETCH_MAX_BYTES: i64 = (4 << 20) - (64 << 10);

/// Kafka's port where an address names none.
const DEFAULT_PORT: u16 = 9092;

/// The properties of a connection to a cluster, checked.
#[derive(Clone)]
pub struct Properties {
    map: BTreeMap<String, String>,
    /// The brokers to begin with, as `host:port`; at least one. From `bootstrap.servers`.
    pub bootstrap_servers: Vec<String>,
    /// How we name ourselves in the brokers' logs and quotas. From `client.id`.
    pub client_id: String,
    /// How long an answer may take (a Fetch: beyond its own wait). From `socket.timeout.ms`, 30 s.
    pub request_timeout: Duration,
    /// How long a connection may take until it can be used. From `socket.connection.setup.timeout.ms`, 10 s; librdkafka's
    /// 30 s would use up the whole wait of a one-shot command on the first broker that drops packets.
    pub setup_timeout: Duration,
    /// The first wait before connecting again. From `reconnect.backoff.ms`, 100 ms.
    pub backoff: Duration,
    /// The longest wait before connecting again. From `reconnect.backoff.max.ms`, 10 s.
    pub backoff_max: Duration,
    /// How long a broker may wait for data before it answers a Fetch, ms. From `fetch.wait.max.ms`, 500.
    pub fetch_wait_ms: i32,
    /// The bytes for which a broker ends that wait. From `fetch.min.bytes`, 1.
    pub fetch_min_bytes: i32,
    /// The bytes of one Fetch answer, but for a larger first batch. From `fetch.max.bytes`, 4 MiB − 64 KiB.
    pub fetch_max_bytes: i32,
    /// The bytes of one partition in a Fetch answer. From `max.partition.fetch.bytes`, 1 MiB.
    pub partition_max_bytes: i32,
    /// The longest answer that we take for one, bytes. From `receive.message.max.bytes`, 100 MB as in librdkafka.
    pub receive_max_bytes: usize,
    /// The size of the socket's receive buffer, bytes; 0 leaves it to the system. From `socket.receive.buffer.bytes`.
    pub socket_receive_bytes: u32,
    /// How brokers are spoken to, and as whom.
    pub security: Security,
}

impl std::fmt::Debug for Properties {
    /// Writes the names of what is set, never the values: some are secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.map.keys()).finish()
    }
}

impl Properties {
    /// Reads a map of properties.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) for a property that librdkafka does not know (naming the nearest),
    /// a value out of range, no `bootstrap.servers`, or what is wrong or cannot be spoken of `security.protocol` and what
    /// belongs to it.
    pub fn new(map: BTreeMap<String, String>) -> Result<Self> {
        for name in map.keys() {
            known::check(name)?;
        }
        let security = Security::new(&map)?;
        let servers = value(&map, &["bootstrap.servers", "metadata.broker.list"]).unwrap_or_default();
        let partition_max = ["max.partition.fetch.bytes", "fetch.message.max.bytes"];
        let fetch_max_bytes = number(&map, &["fetch.max.bytes"], FETCH_MAX_BYTES, 1..=i64::from(i32::MAX) - 512)?;
        let receive_max_bytes = number(&map, &["receive.message.max.bytes"], 100_000_000, 1000..=i64::from(i32::MAX))?;
        Ok(Self {
            bootstrap_servers: addresses(servers, &security.protocol.to_string())?,
            client_id: value(&map, &["client.id"]).unwrap_or("kafka-backup").to_owned(),
            request_timeout: millis(&map, "socket.timeout.ms", 30_000, 10..=300_000)?,
            setup_timeout: millis(&map, "socket.connection.setup.timeout.ms", 10_000, 10..=300_000)?,
            backoff: millis(&map, "reconnect.backoff.ms", 100, 1..=3_600_000)?,
            backoff_max: millis(&map, "reconnect.backoff.max.ms", 10_000, 1..=3_600_000)?,
            fetch_wait_ms: number(&map, &["fetch.wait.max.ms"], 500, 0..=300_000)? as i32,
            fetch_min_bytes: number(&map, &["fetch.min.bytes"], 1, 1..=100_000_000)? as i32,
            fetch_max_bytes: fetch_max_bytes as i32,
            partition_max_bytes: number(&map, &partition_max, 1 << 20, 1..=1_000_000_000)? as i32,
            receive_max_bytes: receive_max_bytes.max(fetch_max_bytes + 512) as usize,
            socket_receive_bytes: number(&map, &["socket.receive.buffer.bytes"], 0, 0..=100_000_000)? as u32,
            security,
            map,
        })
    }

    /// Returns the map as it was given, with its references to files.
    pub fn map(&self) -> &BTreeMap<String, String> {
        &self.map
    }

    /// Returns the map for rdkafka, so that it does as the wire client does; files are read again.
    ///
    /// # Errors
    /// [`Kind::Transient`](crate::error::Kind::Transient) for a file that cannot be read now;
    /// [`Kind::Usage`](crate::error::Kind::Usage) for what rdkafka cannot say.
    pub fn for_librdkafka(&self) -> Result<BTreeMap<String, String>> {
        let mut settings = self.map.clone();
        self.security.for_librdkafka(&mut settings)?;
        Ok(settings)
    }
}

fn number(map: &BTreeMap<String, String>, names: &[&str], default: i64, range: RangeInclusive<i64>) -> Result<i64> {
    let Some(text) = value(map, names) else { return Ok(default) };
    text.trim().parse().ok().filter(|number| range.contains(number)).ok_or_else(|| {
        let (least, most) = (range.start(), range.end());
        Error::usage(format!("Kafka property `{}` is `{text}`", names[0]))
            .hint(format!("it is a number from {least} to {most}"))
    })
}

fn millis(map: &BTreeMap<String, String>, name: &str, default: i64, range: RangeInclusive<i64>) -> Result<Duration> {
    Ok(Duration::from_millis(number(map, &[name], default, range)? as u64))
}

/// Reads a list of addresses as librdkafka does: `host`, `host:port`, `[::1]:port`, each with an optional
/// `PLAINTEXT://` before it, or whatever the protocol is.
fn addresses(list: &str, protocol: &str) -> Result<Vec<String>> {
    let parts = list.split(',').map(str::trim).filter(|part| !part.is_empty());
    let addresses: Vec<String> = parts.map(|part| address(part, protocol)).collect::<Result<_>>()?;
    if addresses.is_empty() {
        return Err(Error::usage("`bootstrap.servers` is missing").hint("name at least one broker as host:port"));
    }
    Ok(addresses)
}

fn address(text: &str, protocol: &str) -> Result<String> {
    let wrong = || Error::usage(format!("`{text}` in `bootstrap.servers` is no address")).hint("write it as host:port");
    let plain = match text.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case(protocol) => rest,
        Some(_) => return Err(wrong().hint(format!("`security.protocol` is {protocol}"))),
        None => text,
    };
    // The colons of an IPv6 address stand in brackets; only one after them divides host and port.
    let host_end = plain.rfind(']').map_or(0, |at| at + 1);
    let (host, port) = match plain[host_end..].rfind(':') {
        Some(colon) => {
            let port = plain[host_end + colon + 1..].parse::<u16>().map_err(|_| wrong())?;
            (&plain[..host_end + colon], port)
        }
        None => (plain, DEFAULT_PORT),
    };
    if host.is_empty() || (host_end == 0 && host.contains(':')) || host.contains(char::is_whitespace) {
        return Err(wrong());
    }
    Ok(format!("{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn properties(pairs: &[(&str, &str)]) -> Result<Properties> {
        Properties::new(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn an_unknown_property_names_the_nearest_known_one() {
        let error = properties(&[("bootstrap.server", "a:1")]).expect_err("unknown");
        assert_eq!(error.kind(), crate::error::Kind::Usage);
        assert!(error.to_string().contains("`bootstrap.servers`"), "{error}");
    }

    #[test]
    fn addresses_are_read_as_librdkafka_reads_them() {
        let read = properties(&[("bootstrap.servers", "a, b:19092,PLAINTEXT://c:1,[::1]:9093,[::1]")]).expect("good");
        assert_eq!(read.bootstrap_servers, ["a:9092", "b:19092", "c:1", "[::1]:9093", "[::1]:9092"]);
        for wrong in ["", ",", "a:x", ":9092", "::1", "SSL://a:1", "a b:1"] {
            assert!(properties(&[("bootstrap.servers", wrong)]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_address_may_name_the_protocol_that_is_set() {
        let of = |server: &str| properties(&[("bootstrap.servers", server), ("security.protocol", "ssl")]);
        assert_eq!(of("SSL://a:1").expect("the same").bootstrap_servers, ["a:1"]);
        assert!(of("SASL_SSL://a:1").expect_err("another").to_string().contains("`security.protocol` is ssl"));
    }

    #[test]
    fn numbers_have_defaults_ranges_and_aliases() {
        let read = properties(&[("bootstrap.servers", "a"), ("fetch.message.max.bytes", "77"), ("group.id", "g")]);
        let read = read.expect("good");
        assert_eq!((read.partition_max_bytes, read.fetch_wait_ms), (77, 500));
        assert!(properties(&[("bootstrap.servers", "a"), ("socket.timeout.ms", "soon")]).is_err());
        assert!(properties(&[("bootstrap.servers", "a"), ("fetch.wait.max.ms", "-1")]).is_err());
    }
}
