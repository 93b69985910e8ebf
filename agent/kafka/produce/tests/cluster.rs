//! A cluster of a few lines that knows a producer's batches as Kafka does: by epoch and sequence, the last five again.
//! What a test wants to go wrong goes wrong there.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use kafka_protocol::messages as m;
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
use kafka_protocol::protocol::{Decodable as _, Encodable, Request as _, StrBytes};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use uuid::Uuid;

use crate::batch::{self, Header};
use crate::record::{Partition, TopicId};

/// The one topic.
pub(super) const TOPIC: &str = "orders";

/// The code of a FindCoordinator that is not answered: its connection ends.
pub(super) const CUT: i16 = -1;

/// What goes wrong with a Produce request.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fault {
    /// Nothing.
    None,
    /// All its batches are answered with this code, and not appended.
    Code(i16),
    /// They are appended first.
    AppendedCode(i16),
    /// The connection ends, nothing is appended.
    Cut,
    /// They are appended first.
    AppendedCut,
}

/// A partition's log.
#[derive(Debug, Default)]
pub(super) struct Log {
    pub(super) leader: i32,
    pub(super) end: i64,
    /// Sequence and bytes of each batch.
    pub(super) batches: Vec<(i32, Bytes)>,
    /// What a batch of that sequence is answered with, whenever it comes.
    pub(super) refused: HashMap<i32, i16>,
    pub(super) next_sequence: Option<i32>,
    last: VecDeque<(i32, i32, i64)>,
    outstanding: usize,
    /// The most batches that were sent and not answered.
    pub(super) most_outstanding: usize,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) logs: BTreeMap<i32, Log>,
    pub(super) topic_id: Uuid,
    pub(super) cluster_id: &'static str,
    /// What goes wrong with the next requests.
    pub(super) faults: VecDeque<Fault>,
    /// Producers of older epochs are fenced off.
    pub(super) epoch: i16,
    /// What FindCoordinator is answered with; `None` where the brokers have no such call.
    pub(super) coordinates: Option<i16>,
    /// What the next answer asks for.
    pub(super) throttle_ms: i32,
    /// Brokers that take connections and answer nothing.
    pub(super) frozen: Vec<i32>,
    pub(super) connections: usize,
    /// The partitions of each Produce request.
    pub(super) requests: Vec<usize>,
    addresses: Vec<u16>,
}

/// The cluster; its brokers are 1, 2, ….
pub(super) struct Cluster {
    state: Arc<Mutex<State>>,
    answers: Arc<Semaphore>,
    most_version: i16,
}

impl Cluster {
    /// Starts `brokers`, who lead `partitions` in turn and know Produce up to `most_version`.
    pub(super) async fn start(brokers: i32, partitions: i32, most_version: i16) -> Self {
        let log = |index| (index, Log { leader: index % brokers + 1, ..Log::default() });
        let state = State {
            logs: (0..partitions).map(log).collect(),
            topic_id: Uuid::new_v4(),
            cluster_id: "small",
            ..State::default()
        };
        let cluster = Self {
            state: Arc::new(Mutex::new(state)),
            answers: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
            most_version,
        };
        for broker in 1..=brokers {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            cluster.state().addresses.push(listener.local_addr().expect("bound").port());
            let (state, answers) = (cluster.state.clone(), cluster.answers.clone());
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    state.lock().expect("unpoisoned").connections += 1;
                    let node = Node { broker, most_version, state: state.clone(), answers: answers.clone() };
                    tokio::spawn(async move {
                        node.serve(stream).await;
                        node.state().connections -= 1;
                    });
                }
            });
        }
        cluster
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("unpoisoned")
    }

    pub(super) fn servers(&self) -> String {
        format!("127.0.0.1:{}", self.state().addresses[0])
    }

    pub(super) fn partition(&self, index: i32) -> Partition {
        let topic_id = if self.most_version >= 13 { TopicId(self.state().topic_id) } else { TopicId::NONE };
        Partition { topic: TOPIC.into(), topic_id, index }
    }

    /// Answers no Produce request until [`Cluster::release`].
    pub(super) fn hold(&self) {
        self.answers.forget_permits(Semaphore::MAX_PERMITS);
    }

    pub(super) fn release(&self) {
        self.answers.add_permits(Semaphore::MAX_PERMITS / 2);
    }
}

struct Node {
    broker: i32,
    most_version: i16,
    state: Arc<Mutex<State>>,
    answers: Arc<Semaphore>,
}

/// An answer, and the partitions whose batches it answers.
type Reply = (BytesMut, Vec<i32>);

impl Node {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("unpoisoned")
    }

    /// Reads requests as they come; answers them in order, Produce only when it may.
    async fn serve(&self, stream: TcpStream) {
        let (mut reading, mut writing) = stream.into_split();
        let (reply, mut replies) = mpsc::unbounded_channel::<Reply>();
        let read = async {
            while let Ok(length) = reading.read_i32().await {
                let mut request = vec![0; length as usize];
                if reading.read_exact(&mut request).await.is_err() {
                    return;
                }
                if self.state().frozen.contains(&self.broker) {
                    std::future::pending::<()>().await;
                }
                let Some(made) = self.answer(Bytes::from(request)) else { return };
                let _ = reply.send(made);
            }
        };
        let write = async {
            while let Some((bytes, partitions)) = replies.recv().await {
                if !partitions.is_empty() {
                    self.answers.acquire().await.expect("never closed").forget();
                }
                for index in partitions {
                    self.state().logs.get_mut(&index).expect("a partition").outstanding -= 1;
                }
                if writing.write_all(&bytes).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! { () = read => {}, () = write => {} }
        // What was on its way when the connection ended is so no more.
        replies.close();
        while let Ok((_, partitions)) = replies.try_recv() {
            for index in partitions {
                self.state().logs.get_mut(&index).expect("a partition").outstanding -= 1;
            }
        }
    }

    /// Answers a request; `None` ends the connection.
    fn answer(&self, mut request: Bytes) -> Option<Reply> {
        let (key, version) = ((&request[..2]).get_i16(), (&request[2..4]).get_i16());
        let api = m::ApiKey::try_from(key).expect("a known key");
        let header = m::RequestHeader::decode(&mut request, api.request_header_version(version)).expect("a header");
        let mut body = BytesMut::new();
        let mut partitions = Vec::new();
        match api {
            m::ApiKey::ApiVersions => self.versions().encode(&mut body, version).expect("encodes"),
            m::ApiKey::Metadata => self.metadata().encode(&mut body, version).expect("encodes"),
            m::ApiKey::Produce => {
                let request = m::ProduceRequest::decode(&mut request, version).expect("a request");
                assert_eq!((request.acks, request.transactional_id.is_none()), (-1, true));
                let (answer, indexes) = self.produce(request, version)?;
                answer.encode(&mut body, version).expect("encodes");
                partitions = indexes;
            }
            m::ApiKey::FindCoordinator => self.coordinator()?.encode(&mut body, version).expect("encodes"),
            other => panic!("{other:?} is not asked for here"),
        }
        let mut reply = BytesMut::new();
        let flexible = usize::from(api.response_header_version(version) == 1);
        reply.put_i32((body.len() + 4 + flexible) as i32);
        reply.put_i32(header.correlation_id);
        reply.put_bytes(0, flexible);
        reply.extend_from_slice(&body);
        Some((reply, partitions))
    }

    fn versions(&self) -> m::ApiVersionsResponse {
        let keys = [(18, 0, 3), (m::MetadataRequest::KEY, 4, 12), (m::ProduceRequest::KEY, 3, self.most_version)];
        let coordinates = self.state().coordinates.map(|_| (m::FindCoordinatorRequest::KEY, 4, 4));
        let keys = keys.into_iter().chain(coordinates).map(|(key, least, most)| {
            ApiVersion::default().with_api_key(key).with_min_version(least).with_max_version(most)
        });
        m::ApiVersionsResponse::default().with_api_keys(keys.collect())
    }

    fn coordinator(&self) -> Option<m::FindCoordinatorResponse> {
        let code = self.state().coordinates.filter(|code| *code != CUT)?;
        Some(
            m::FindCoordinatorResponse::default().with_coordinators(vec![Coordinator::default().with_error_code(code)]),
        )
    }

    fn metadata(&self) -> m::MetadataResponse {
        let state = self.state();
        let broker = |(id, port): (i32, &u16)| {
            let host = StrBytes::from_static_str("127.0.0.1");
            MetadataResponseBroker::default().with_node_id(id.into()).with_host(host).with_port(i32::from(*port))
        };
        let partition = |(index, log): (&i32, &Log)| {
            MetadataResponsePartition::default().with_partition_index(*index).with_leader_id(log.leader.into())
        };
        let topic = MetadataResponseTopic::default()
            .with_name(Some(StrBytes::from_static_str(TOPIC).into()))
            .with_topic_id(state.topic_id)
            .with_partitions(state.logs.iter().map(partition).collect());
        m::MetadataResponse::default()
            .with_cluster_id(Some(StrBytes::from_static_str(state.cluster_id)))
            .with_brokers((1..).zip(&state.addresses).map(broker).collect())
            .with_topics(vec![topic])
    }

    fn produce(&self, request: m::ProduceRequest, version: i16) -> Option<(m::ProduceResponse, Vec<i32>)> {
        let mut state = self.state();
        let fault = state.faults.pop_front().unwrap_or(Fault::None);
        if matches!(fault, Fault::Cut) {
            return None;
        }
        let (mut topics, mut indexes) = (Vec::new(), Vec::new());
        for topic in request.topic_data {
            let known = if version >= 13 { topic.topic_id == state.topic_id } else { &**topic.name == TOPIC };
            let epoch = state.epoch;
            let mut told = Vec::new();
            for data in topic.partition_data {
                indexes.push(data.index);
                let log = state.logs.get_mut(&data.index).expect("a partition");
                log.outstanding += 1;
                log.most_outstanding = log.most_outstanding.max(log.outstanding);
                let (code, offset) = match fault {
                    _ if !known => (100, -1),
                    _ if log.leader != self.broker => (6, -1),
                    Fault::Code(code) => (code, -1),
                    _ => log.append(&data.records.expect("records"), epoch),
                };
                let code = if let (0, Fault::AppendedCode(code)) = (code, fault) { code } else { code };
                let answer = PartitionProduceResponse::default().with_index(data.index).with_error_code(code);
                told.push(answer.with_base_offset(offset));
            }
            let answer = TopicProduceResponse::default().with_partition_responses(told);
            topics.push(if version >= 13 {
                answer.with_topic_id(topic.topic_id)
            } else {
                answer.with_name(topic.name)
            });
        }
        state.requests.push(indexes.len());
        let throttle = std::mem::take(&mut state.throttle_ms);
        let answer = m::ProduceResponse::default().with_responses(topics).with_throttle_time_ms(throttle);
        if matches!(fault, Fault::AppendedCut) {
            for index in indexes {
                state.logs.get_mut(&index).expect("a partition").outstanding -= 1;
            }
            return None;
        }
        Some((answer, indexes))
    }
}

impl Log {
    /// Appends a batch, or not; as Kafka judges it.
    fn append(&mut self, records: &Bytes, epoch: i16) -> (i16, i64) {
        let header = Header::read(records).expect("a batch");
        assert!(batch::crc_matches(records) && header.total_bytes == records.len(), "a sound batch");
        assert_eq!((header.base_offset, header.leader_epoch), (0, -1));
        let (sequence, count) = (header.base_sequence, header.count);
        if header.producer_epoch < epoch {
            return (47, -1);
        }
        if let Some(code) = self.refused.get(&sequence) {
            return (*code, -1);
        }
        if let Some((.., offset)) = self.last.iter().find(|(first, records, _)| (*first, *records) == (sequence, count))
        {
            return (0, *offset);
        }
        if self.next_sequence.is_some_and(|next| next != sequence) {
            return (45, -1);
        }
        let offset = self.end;
        self.end += i64::from(count);
        self.next_sequence = Some((sequence as u32).wrapping_add(count as u32) as i32 & i32::MAX);
        self.last.push_back((sequence, count, offset));
        if self.last.len() > 5 {
            self.last.pop_front();
        }
        self.batches.push((sequence, records.clone()));
        (0, offset)
    }
}
