//! A front before a Kafka broker that names itself in the broker's place and passes everything on, but cuts connections
//! now and then (in the middle of a request that changes something, or when the broker has answered one and nobody has heard
//! it), keeps back for a while what the coordinators of transactions and their groups answer, or has commits of groups
//! answered with a failure that passes.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages as m;
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request as _, StrBytes};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

/// The requests that change something: batches, topics and their settings, and all that belongs to transactions.
const CHANGES: [i16; 8] = [
    m::ProduceRequest::KEY,
    m::CreateTopicsRequest::KEY,
    m::IncrementalAlterConfigsRequest::KEY,
    m::InitProducerIdRequest::KEY,
    m::AddPartitionsToTxnRequest::KEY,
    m::AddOffsetsToTxnRequest::KEY,
    m::TxnOffsetCommitRequest::KEY,
    m::EndTxnRequest::KEY,
];

/// What coordinators of transactions and their groups are asked.
const COORDINATED: [i16; 5] = [
    m::InitProducerIdRequest::KEY,
    m::AddPartitionsToTxnRequest::KEY,
    m::AddOffsetsToTxnRequest::KEY,
    m::TxnOffsetCommitRequest::KEY,
    m::EndTxnRequest::KEY,
];

/// What groups have committed is asked with this.
const OFFSETS: [i16; 1] = [m::OffsetFetchRequest::KEY];

/// Kafka's code of a coordinator that is asked too early.
const COORDINATOR_LOAD_IN_PROGRESS: i16 = 14;

/// The front. It ends with the process.
pub(crate) struct Cutting {
    broker: String,
    address: String,
    /// How long it keeps back what coordinators answer.
    delay: Duration,
    /// The requests that are cut, and one in how many.
    keys: &'static [i16],
    one_in: usize,
    /// Of how many commits of groups one is answered with a failure; 0 for none.
    refused_one_in: usize,
    requests: AtomicUsize,
    cuts: AtomicUsize,
}

/// What is on its way over a connection.
#[derive(Default)]
struct Passing {
    /// The requests whose answers name brokers, with their versions, by their numbers.
    naming: HashMap<i32, (i16, i16)>,
    /// The numbers of those whose answers are kept back.
    slow: HashSet<i32>,
    /// The commits whose answers become failures, with their versions.
    refused: HashMap<i32, i16>,
    /// The number of the request whose answer nobody hears.
    unheard: Option<i32>,
}

impl Cutting {
    /// Starts a front before `broker` (`host:port`) that cuts one Produce request in 60.
    pub(crate) fn start(broker: &str) -> &'static Self {
        Self::start_with(broker, (&CHANGES[..1], 60), Duration::ZERO)
    }

    /// Starts a front that cuts one in five of all requests that change something.
    pub(crate) fn often(broker: &str) -> &'static Self {
        Self::start_with(broker, (&CHANGES, 5), Duration::ZERO)
    }

    /// Starts a front that cuts nothing and whose coordinators are slow.
    pub(crate) fn slow(broker: &str, delay: Duration) -> &'static Self {
        Self::start_with(broker, (&[], 1), delay)
    }

    /// Starts a front that cuts nothing, and has one in so many commits of groups answered as by a coordinator that loads.
    pub(crate) fn refusing_commits(broker: &str, one_in: usize) -> &'static Self {
        Self::start_as(broker, (&[], 1), Duration::ZERO, one_in)
    }

    /// Starts a front that cuts every second question of what groups have committed, the first one too.
    pub(crate) fn of_offsets(broker: &str) -> &'static Self {
        Self::start_with(broker, (&OFFSETS, 2), Duration::ZERO)
    }

    fn start_with(broker: &str, cuts: (&'static [i16], usize), delay: Duration) -> &'static Self {
        Self::start_as(broker, cuts, delay, 0)
    }

    fn start_as(
        broker: &str,
        (keys, one_in): (&'static [i16], usize),
        delay: Duration,
        refused_one_in: usize,
    ) -> &'static Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("this machine has a free port");
        listener.set_nonblocking(true).expect("a socket");
        let front: &'static Self = Box::leak(Box::new(Self {
            broker: broker.to_owned(),
            address: listener.local_addr().expect("bound").to_string(),
            delay,
            keys,
            one_in,
            refused_one_in,
            requests: AtomicUsize::new(0),
            cuts: AtomicUsize::new(0),
        }));
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).expect("a listener");
                while let Ok((client, _)) = listener.accept().await {
                    // An error is a side that went, or a cut.
                    tokio::spawn(async move { drop(front.pass(client).await) });
                }
            });
        });
        front
    }

    /// Returns its own `host:port`.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Returns how many connections it has cut, and answers it has made failures.
    pub(crate) fn cuts(&self) -> usize {
        self.cuts.load(Ordering::Relaxed)
    }

    async fn pass(&self, client: TcpStream) -> io::Result<()> {
        let broker = TcpStream::connect(&self.broker).await?;
        client.set_nodelay(true)?;
        broker.set_nodelay(true)?;
        let (from_client, to_client) = client.into_split();
        let (from_broker, to_broker) = broker.into_split();
        let passing = Mutex::new(Passing::default());
        tokio::select! {
            ended = self.requests(from_client, to_broker, &passing) => ended,
            ended = self.answers(from_broker, to_client, &passing) => ended,
        }
    }

    async fn requests(
        &self,
        mut from: OwnedReadHalf,
        mut to: OwnedWriteHalf,
        passing: &Mutex<Passing>,
    ) -> io::Result<()> {
        loop {
            let frame = frame(&mut from).await?;
            let number = |at: usize| i16::from_be_bytes([frame[at], frame[at + 1]]);
            let (key, version, correlation) = (number(4), number(6), correlation(&frame[8..]));
            if [m::MetadataRequest::KEY, m::FindCoordinatorRequest::KEY].contains(&key) {
                passing.lock().expect("unpoisoned").naming.insert(correlation, (key, version));
            }
            if !self.delay.is_zero() && COORDINATED.contains(&key) {
                passing.lock().expect("unpoisoned").slow.insert(correlation);
            }
            if key == m::OffsetCommitRequest::KEY
                && self.refused_one_in > 0
                && self.requests.fetch_add(1, Ordering::Relaxed) % self.refused_one_in == self.refused_one_in / 2
            {
                passing.lock().expect("unpoisoned").refused.insert(correlation, version);
            }
            if self.keys.contains(&key) {
                let (number, first) = (self.requests.fetch_add(1, Ordering::Relaxed), self.one_in / 8);
                if number % (2 * self.one_in) == first {
                    self.cuts.fetch_add(1, Ordering::Relaxed);
                    return to.write_all(&frame[..frame.len() / 2]).await;
                }
                if number % (2 * self.one_in) == self.one_in + first {
                    passing.lock().expect("unpoisoned").unheard = Some(correlation);
                }
            }
            to.write_all(&frame).await?;
        }
    }

    async fn answers(
        &self,
        mut from: OwnedReadHalf,
        mut to: OwnedWriteHalf,
        passing: &Mutex<Passing>,
    ) -> io::Result<()> {
        loop {
            let mut frame = frame(&mut from).await?;
            let correlation = correlation(&frame[4..]);
            let (naming, unheard, is_slow, refused) = {
                let mut passing = passing.lock().expect("unpoisoned");
                let (naming, is_slow) = (passing.naming.remove(&correlation), passing.slow.remove(&correlation));
                (naming, passing.unheard, is_slow, passing.refused.remove(&correlation))
            };
            if let Some(version) = refused {
                self.cuts.fetch_add(1, Ordering::Relaxed);
                frame = rewritten(&frame, version, refuse);
            }
            if is_slow {
                tokio::time::sleep(self.delay).await;
            }
            if let Some((key, version)) = naming {
                frame = match key {
                    m::MetadataRequest::KEY => rewritten(&frame, version, |answer| self.lead(answer)),
                    _ => rewritten(&frame, version, |answer| self.coordinate(answer)),
                };
            } else if unheard == Some(correlation) {
                self.cuts.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            }
            to.write_all(&frame).await?;
        }
    }

    /// Names this front where an answer names the brokers.
    fn lead(&self, answer: &mut m::MetadataResponse) {
        for broker in &mut answer.brokers {
            (broker.host, broker.port) = self.place();
        }
    }

    /// Names this front where an answer names the coordinator, in one of its forms.
    fn coordinate(&self, answer: &mut m::FindCoordinatorResponse) {
        if !answer.host.is_empty() {
            (answer.host, answer.port) = self.place();
        }
        for coordinator in &mut answer.coordinators {
            (coordinator.host, coordinator.port) = self.place();
        }
    }

    fn place(&self) -> (StrBytes, i32) {
        let (host, port) = self.address.rsplit_once(':').expect("an address");
        (StrBytes::from_string(host.to_owned()), port.parse().expect("a port"))
    }
}

/// Has a commit answered as by a coordinator that loads: nobody knows whether it landed.
fn refuse(answer: &mut m::OffsetCommitResponse) {
    for partition in answer.topics.iter_mut().flat_map(|topic| &mut topic.partitions) {
        partition.error_code = COORDINATOR_LOAD_IN_PROGRESS;
    }
}

/// Changes what an answer says.
fn rewritten<A: Decodable + Encodable + HeaderVersion>(
    frame: &BytesMut,
    version: i16,
    change: impl FnOnce(&mut A),
) -> BytesMut {
    let mut rest = Bytes::copy_from_slice(&frame[4..]);
    let header_version = A::header_version(version);
    let header = m::ResponseHeader::decode(&mut rest, header_version).expect("a header");
    let mut answer = A::decode(&mut rest, version).expect("an answer");
    change(&mut answer);
    let mut out = BytesMut::from(&[0; 4][..]);
    header.encode(&mut out, header_version).expect("encodes");
    answer.encode(&mut out, version).expect("encodes");
    let length = (out.len() - 4) as u32;
    out[..4].copy_from_slice(&length.to_be_bytes());
    out
}

/// Reads a request or an answer, its length in front.
async fn frame(from: &mut OwnedReadHalf) -> io::Result<BytesMut> {
    let length = from.read_u32().await?;
    let mut frame = BytesMut::zeroed(length as usize + 4);
    frame[..4].copy_from_slice(&length.to_be_bytes());
    from.read_exact(&mut frame[4..]).await?;
    Ok(frame)
}

fn correlation(bytes: &[u8]) -> i32 {
    i32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}
