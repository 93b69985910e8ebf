//! The properties of a connection to a cluster, by librdkafka's names
//! (<https://github.com/confluentinc/librdkafka/blob/v2.12.1/CONFIGURATION.md>).
//!
//! Everything is checked when the map is read, so that a typing error ends the program before it has done anything.
//! What concerns only rdkafka (groups, its producer) is accepted and passed on with [`Properties::map`].

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

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
    /// a value out of range, no `bootstrap.servers`, or a `security.protocol` that the wire client cannot speak yet.
    pub fn new(map: BTreeMap<String, String>) -> Result<Self> {
        for name in map.keys() {
            check_name(name)?;
        }
        check_security(&map)?;
        let servers = value(&map, &["bootstrap.servers", "metadata.broker.list"]).unwrap_or_default();
        let partition_max = ["max.partition.fetch.bytes", "fetch.message.max.bytes"];
        let fetch_max_bytes = number(&map, &["fetch.max.bytes"], FETCH_MAX_BYTES, 1..=i64::from(i32::MAX) - 512)?;
        let receive_max_bytes = number(&map, &["receive.message.max.bytes"], 100_000_000, 1000..=i64::from(i32::MAX))?;
        Ok(Self {
            bootstrap_servers: addresses(servers)?,
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
            map,
        })
    }

    /// Returns the map as it was given, for rdkafka.
    pub fn map(&self) -> &BTreeMap<String, String> {
        &self.map
    }
}

fn value<'a>(map: &'a BTreeMap<String, String>, names: &[&str]) -> Option<&'a str> {
    names.iter().find_map(|name| map.get(*name)).map(String::as_str)
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

fn check_name(name: &str) -> Result<()> {
    if KNOWN.split_whitespace().any(|known| known == name) {
        return Ok(());
    }
    let nearest = KNOWN.split_whitespace().max_by(|a, b| {
        let (a, b) = (strsim::jaro_winkler(a, name), strsim::jaro_winkler(b, name));
        a.total_cmp(&b)
    });
    let error = Error::usage(format!("unknown Kafka property `{name}`"));
    Err(match nearest {
        Some(nearest) => error.hint(format!("the nearest known one is `{nearest}`")),
        None => error,
    })
}

fn check_security(map: &BTreeMap<String, String>) -> Result<()> {
    let protocol = value(map, &["security.protocol"]).unwrap_or("plaintext");
    match protocol.to_ascii_lowercase().as_str() {
        "plaintext" => Ok(()),
        "ssl" | "sasl_plaintext" | "sasl_ssl" => {
            Err(Error::usage(format!("`security.protocol` {protocol} is not supported yet by the wire client"))
                .hint("use a plaintext listener for now"))
        }
        _ => Err(Error::usage(format!("`security.protocol` is `{protocol}`"))
            .hint("it is one of plaintext, ssl, sasl_plaintext, sasl_ssl")),
    }
}

/// Reads a list of addresses as librdkafka does: `host`, `host:port`, `[::1]:port`, each with an optional
/// `PLAINTEXT://` before it.
fn addresses(list: &str) -> Result<Vec<String>> {
    let parts = list.split(',').map(str::trim).filter(|part| !part.is_empty());
    let addresses: Vec<String> = parts.map(address).collect::<Result<_>>()?;
    if addresses.is_empty() {
        return Err(Error::usage("`bootstrap.servers` is missing").hint("name at least one broker as host:port"));
    }
    Ok(addresses)
}

fn address(text: &str) -> Result<String> {
    let wrong = || Error::usage(format!("`{text}` in `bootstrap.servers` is no address")).hint("write it as host:port");
    let plain = match text.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("plaintext") => rest,
        Some(_) => return Err(wrong().hint("only plaintext listeners are supported yet by the wire client")),
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

/// librdkafka's properties, but for those whose value is a function.
const KNOWN: &str = "
    acks allow.auto.create.topics api.version.fallback.ms api.version.request api.version.request.timeout.ms
    auto.commit.enable auto.commit.interval.ms auto.offset.reset batch.num.messages batch.size
    bootstrap.servers broker.address.family broker.address.ttl broker.version.fallback builtin.features
    check.crcs client.dns.lookup client.id client.rack compression.codec compression.level compression.type
    connections.max.idle.ms consume.callback.max.messages coordinator.query.interval.ms debug
    delivery.report.only.error delivery.timeout.ms enable.auto.commit enable.auto.offset.store
    enable.gapless.guarantee enable.idempotence enable.metrics.push enable.partition.eof enable.random.seed
    enable.sasl.oauthbearer.unsecure.jwt enable.ssl.certificate.verification fetch.error.backoff.ms
    fetch.max.bytes fetch.message.max.bytes fetch.min.bytes fetch.queue.backoff.ms fetch.wait.max.ms group.id
    group.instance.id group.protocol group.protocol.type group.remote.assignor heartbeat.interval.ms
    https.ca.location https.ca.pem internal.termination.signal isolation.level linger.ms log.connection.close
    log.queue log.thread.name log_level max.in.flight max.in.flight.requests.per.connection
    max.partition.fetch.bytes max.poll.interval.ms message.copy.max.bytes message.max.bytes
    message.send.max.retries message.timeout.ms metadata.broker.list metadata.max.age.ms
    metadata.recovery.rebootstrap.trigger.ms metadata.recovery.strategy offset.store.method offset.store.path
    offset.store.sync.interval.ms partition.assignment.strategy partitioner plugin.library.paths
    produce.offset.report queue.buffering.backpressure.threshold queue.buffering.max.kbytes
    queue.buffering.max.messages queue.buffering.max.ms queued.max.messages.kbytes queued.min.messages
    queuing.strategy receive.message.max.bytes reconnect.backoff.jitter.ms reconnect.backoff.max.ms
    reconnect.backoff.ms request.required.acks request.timeout.ms retries retry.backoff.max.ms retry.backoff.ms
    sasl.kerberos.keytab sasl.kerberos.kinit.cmd sasl.kerberos.min.time.before.relogin sasl.kerberos.principal
    sasl.kerberos.service.name sasl.mechanism sasl.mechanisms sasl.oauthbearer.assertion.algorithm
    sasl.oauthbearer.assertion.claim.aud sasl.oauthbearer.assertion.claim.exp.seconds
    sasl.oauthbearer.assertion.claim.iss sasl.oauthbearer.assertion.claim.jti.include
    sasl.oauthbearer.assertion.claim.nbf.seconds sasl.oauthbearer.assertion.claim.sub
    sasl.oauthbearer.assertion.file sasl.oauthbearer.assertion.jwt.template.file
    sasl.oauthbearer.assertion.private.key.file sasl.oauthbearer.assertion.private.key.passphrase
    sasl.oauthbearer.assertion.private.key.pem sasl.oauthbearer.client.credentials.client.id
    sasl.oauthbearer.client.credentials.client.secret sasl.oauthbearer.client.id sasl.oauthbearer.client.secret
    sasl.oauthbearer.config sasl.oauthbearer.extensions sasl.oauthbearer.grant.type
    sasl.oauthbearer.metadata.authentication.type sasl.oauthbearer.method sasl.oauthbearer.scope
    sasl.oauthbearer.token.endpoint.url sasl.password sasl.username security.protocol session.timeout.ms
    socket.blocking.max.ms socket.connection.setup.timeout.ms socket.keepalive.enable socket.max.fails
    socket.nagle.disable socket.receive.buffer.bytes socket.send.buffer.bytes socket.timeout.ms
    ssl.ca.certificate.stores ssl.ca.location ssl.ca.pem ssl.certificate.location ssl.certificate.pem
    ssl.cipher.suites ssl.crl.location ssl.curves.list ssl.endpoint.identification.algorithm ssl.engine.id
    ssl.engine.location ssl.key.location ssl.key.password ssl.key.pem ssl.keystore.location
    ssl.keystore.password ssl.providers ssl.sigalgs.list statistics.interval.ms sticky.partitioning.linger.ms
    topic.blacklist topic.metadata.propagation.max.ms topic.metadata.refresh.fast.cnt
    topic.metadata.refresh.fast.interval.ms topic.metadata.refresh.interval.ms topic.metadata.refresh.sparse
    transaction.timeout.ms transactional.id
";

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
    fn security_that_the_wire_client_cannot_speak_is_refused() {
        let error = properties(&[("bootstrap.servers", "a"), ("security.protocol", "SASL_SSL")]).expect_err("refused");
        assert!(error.to_string().contains("not supported yet by the wire client"), "{error}");
        assert!(properties(&[("bootstrap.servers", "a"), ("security.protocol", "plaintext")]).is_ok());
        assert!(properties(&[("bootstrap.servers", "a"), ("security.protocol", "tls")]).is_err());
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
