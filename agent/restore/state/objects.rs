//! What a restore's objects say, as JSON has it (`docs/archive-format.md`, "Restores"). Pure.
//!
//! Each says whose it is, so that an object in another one's place gives itself away.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use super::Name;
use crate::error::{Error, Result};
use crate::record::{Offset, Timestamp};
use crate::restore::map::{OffsetMap, Pair};

const CREATED_BY: &str = concat!("kafka-backup ", env!("CARGO_PKG_VERSION"));

/// An object that says whose it is.
pub(super) trait Owned: Clone + Serialize + DeserializeOwned {
    /// Returns the restore's id, and the name of the object.
    fn owner(&self) -> (&str, Name);
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The restore.
    pub restore_id: String,
    /// The backup that it reads.
    pub backup_id: String,
    /// When it was made, RFC 3339.
    pub made_at: String,
    /// The program that made it.
    pub created_by: String,
    /// Where the records go.
    pub target: Target,
    /// XXH3-128 of `plan`, as JSON without spaces: what attempts name it by.
    pub digest: String,
    /// All the rest. Nothing of it is a secret.
    pub plan: serde_json::Value,
}

/// The cluster that records go to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// How it was reached.
    pub bootstrap_servers: String,
    /// Its id; `None` where it has none.
    pub cluster_id: Option<String>,
}

impl Plan {
    /// Makes the plan of a restore.
    ///
    /// # Errors
    /// [`Kind::Failed`](crate::error::Kind::Failed) for a value that JSON cannot say.
    pub fn new(restore_id: &str, backup_id: &str, target: Target, plan: &impl Serialize) -> Result<Self> {
        let cannot = |error: serde_json::Error| Error::failed("the plan has no JSON form").source(error);
        let plan = serde_json::to_value(plan).map_err(cannot)?;
        Ok(Self {
            restore_id: restore_id.to_owned(),
            backup_id: backup_id.to_owned(),
            made_at: Timestamp::now().to_string(),
            created_by: CREATED_BY.to_owned(),
            target,
            digest: digest(&serde_json::to_vec(&plan).map_err(cannot)?),
            plan,
        })
    }

    /// Returns the rest as the value that it was made of.
    ///
    /// # Errors
    /// [`Kind::Newer`](crate::error::Kind::Newer) when it was made of another one.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T> {
        T::deserialize(&self.plan).map_err(|error| Error::newer("the plan of the restore").source(error))
    }
}

/// A process, for people, and told apart from every other one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// The name of its machine.
    pub host: String,
    /// Its number there.
    pub pid: u32,
    /// An id that no other process has.
    pub instance: uuid::Uuid,
}

impl Process {
    /// Returns this one, in an instance of its own: kept, it tells who asks again from who is another.
    pub fn this() -> Self {
        let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
        let instance = uuid::Uuid::new_v4();
        Self { host: host.unwrap_or_else(|| "unknown".to_owned()), pid: std::process::id(), instance }
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} on {}", self.pid, self.host)
    }
}

/// A process has begun, and its fence stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// The restore.
    pub restore_id: String,
    /// Its number, which its name says too.
    pub number: u32,
    /// When, RFC 3339.
    pub started_at: String,
    /// The digest of the plan that it follows.
    pub plan_digest: String,
    /// Its producer's id.
    pub producer_id: i64,
    /// Its producer's epoch.
    pub epoch: i16,
    /// Who.
    pub process: Process,
    /// Journals of this number and greater may be its own; smaller ones are of attempts before.
    pub first_journal: u32,
    /// Journals of transactions that were aborted, by number: what they say of records is not so.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub void: Vec<u32>,
    /// Records that stages failed at before what each start says that it goes on with.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub left_out: u64,
    /// Where it begins, pair by pair.
    pub starts: Vec<Start>,
}

/// Where an attempt begins with one pair of partitions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// The pair.
    #[serde(flatten)]
    pub pair: Pair,
    /// Of what is made of the source offsets before this one everything has landed, and of those from here on what
    /// `found` says: sequence 0 stands for the first record behind.
    pub source_first: Offset,
    /// Where the target ended after the fence.
    pub target_next: Offset,
    /// Records that were sent of the source offsets before `source_first`, of all attempts.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub records: u64,
    /// Bytes of their batches.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub bytes: u64,
    /// Where the first records are in the target that were made of `source_first` and the offsets behind it, in order:
    /// earlier attempts have sent them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub found: Vec<Found>,
}

impl Start {
    /// Makes that of a pair of which nothing was sent yet.
    pub fn new(pair: Pair, source_first: Offset, target_next: Offset) -> Self {
        Self { pair, source_first, target_next, records: 0, bytes: 0, found: Vec::new() }
    }
}

/// Records of one attempt in a target, one behind the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// The target offset of the first.
    pub target: Offset,
    /// How many, at least one.
    pub records: u64,
}

impl Attempt {
    /// Makes the attempt of a producer; its numbers are given when it is kept.
    pub fn new(plan: &Plan, (producer_id, epoch): (i64, i16), process: Process, starts: Vec<Start>) -> Self {
        Self {
            restore_id: plan.restore_id.clone(),
            number: 0,
            started_at: Timestamp::now().to_string(),
            plan_digest: plan.digest.clone(),
            producer_id,
            epoch,
            process,
            first_journal: 0,
            void: Vec::new(),
            left_out: 0,
            starts,
        }
    }
}

/// What came of all partitions, of all attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sum {
    /// Records that have landed, copies among them.
    pub records: u64,
    /// Bytes of their batches.
    pub bytes: u64,
    /// Records that were left out because a stage failed at them.
    pub left_out: u64,
}

/// How far an attempt has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    /// The restore.
    pub restore_id: String,
    /// Its number, which its name says too.
    pub number: u32,
    /// The attempt.
    pub attempt: u32,
    /// When, RFC 3339.
    pub written_at: String,
    /// It is of a transaction, and was written before that was committed: whether it was, the restore's group tells.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_transactional: bool,
    /// Records that have landed, of all attempts.
    pub records: u64,
    /// Bytes of their batches.
    pub bytes: u64,
    /// Records that stages failed at, before what a later attempt goes on with.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub left_out: u64,
    /// What has landed, pair by pair. Of a pair that is not here a later attempt goes on where this one has begun.
    pub landed: Vec<Landed>,
    /// What of the offset map no journal before has, in base64.
    map: String,
}

/// How far an attempt has come with one pair of partitions: what is made of the source offsets before `source_next`, all of
/// it and nothing else, is in the target before `target_next`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Landed {
    /// The pair.
    #[serde(flatten)]
    pub pair: Pair,
    /// The source offset before which everything is done.
    pub source_next: Offset,
    /// Sequences of this attempt among that.
    pub sequences: u64,
    /// The target offset after the last of them; where there is none, where the attempt found the end.
    pub target_next: Offset,
    /// Bytes of their batches, those of earlier attempts among them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub bytes: u64,
}

impl Journal {
    /// Makes a journal; its numbers are given when it is kept. `map` is what no journal before has
    /// ([`OffsetMap::after`]).
    pub fn new(restore_id: &str, sum: Sum, landed: Vec<Landed>, map: &OffsetMap) -> Self {
        let Sum { records, bytes, left_out } = sum;
        Self {
            restore_id: restore_id.to_owned(),
            number: 0,
            attempt: 0,
            written_at: Timestamp::now().to_string(),
            is_transactional: false,
            records,
            bytes,
            left_out,
            landed,
            map: STANDARD.encode(map.encode()),
        }
    }

    /// Gives it its numbers.
    pub(super) fn numbered(self, number: u32, attempt: u32) -> Self {
        Self { number, attempt, ..self }
    }

    /// Returns what of the offset map no journal before has.
    ///
    /// # Errors
    /// [`Kind::Damaged`](crate::error::Kind::Damaged) for what is none.
    pub fn map(&self) -> Result<OffsetMap> {
        let bytes = STANDARD.decode(&self.map).map_err(|error| Error::damaged("it is no base64").source(error))?;
        OffsetMap::decode(&bytes)
    }
}

/// The restore is finished.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// The restore.
    pub restore_id: String,
    /// When, RFC 3339.
    pub finished_at: String,
    /// The attempt that finished it.
    pub attempt: u32,
    /// Records that were restored, copies that stages made among them.
    pub records: u64,
    /// Bytes of their batches.
    pub bytes: u64,
    /// Records that were left out because a stage failed at them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub left_out: u64,
    /// XXH3-128 of the offset map's object.
    pub map_digest: String,
    /// What became of each pair.
    pub partitions: Vec<Outcome>,
}

/// What became of one pair of partitions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The pair.
    #[serde(flatten)]
    pub pair: Pair,
    /// Records that were restored; several copies of one count once.
    pub records: u64,
    /// The target offset behind them.
    pub end: Offset,
    /// The digest of the records, where it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

/// Somebody wants the restore to end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cancelled {
    /// The restore.
    pub restore_id: String,
    /// When, RFC 3339.
    pub cancelled_at: String,
    /// Who.
    pub process: Process,
}

impl Cancelled {
    /// Makes one of this moment.
    pub fn now(restore_id: &str, process: Process) -> Self {
        Self { restore_id: restore_id.to_owned(), cancelled_at: Timestamp::now().to_string(), process }
    }
}

/// What the restore made is deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Undone {
    /// The restore.
    pub restore_id: String,
    /// When that began, RFC 3339.
    pub undone_at: String,
    /// Who.
    pub process: Process,
    /// The topics that were to be deleted then.
    pub topics: Vec<UndoneTopic>,
}

/// A topic that is deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UndoneTopic {
    /// Its name.
    pub topic: String,
    /// Its id, as Kafka writes it.
    pub topic_id: String,
}

impl Undone {
    /// Makes one of this moment.
    pub fn now(restore_id: &str, process: Process, topics: Vec<UndoneTopic>) -> Self {
        Self { restore_id: restore_id.to_owned(), undone_at: Timestamp::now().to_string(), process, topics }
    }
}

impl Owned for Plan {
    fn owner(&self) -> (&str, Name) {
        (&self.restore_id, Name::Plan)
    }
}

impl Owned for Attempt {
    fn owner(&self) -> (&str, Name) {
        (&self.restore_id, Name::Attempt(self.number))
    }
}

impl Owned for Journal {
    fn owner(&self) -> (&str, Name) {
        (&self.restore_id, Name::Journal(self.number))
    }
}

impl Owned for Done {
    fn owner(&self) -> (&str, Name) {
        (&self.restore_id, Name::Done)
    }
}

impl Owned for Cancelled {
    fn owner(&self) -> (&str, Name) {
        (&self.restore_id, Name::Cancelled)
    }
}

impl Owned for Undone {
    fn owner(&self) -> (&str, Name) {
        (&self.restore_id, Name::Undone)
    }
}

/// Most restores leave nothing out, and say nothing of it.
fn is_zero(records: &u64) -> bool {
    *records == 0
}

/// Returns XXH3-128 as the objects write it.
pub(super) fn digest(bytes: &[u8]) -> String {
    format!("{:032x}", xxh3_128(bytes))
}
