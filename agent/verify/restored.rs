//! An archive compared with what a restore made of it: what the restore's plan takes of the archive, record by record,
//! against what its target holds where the offset map says that it is.
//!
//! A pass of the pipeline as in [`cluster`], of the target's partitions from where each ended before the first record up to
//! the restored end. [`lockstep`] holds the two sides of a pair against each other: the archive's is read anew along the
//! plan's chains, by what the batches say and not by what the restore had made of them. Both sides are decoded once, and
//! where a batch came back as it was, one of them.
//!
//! What cannot be compared (a restore that is not finished, went through stages or was spread by key, a topic that was made
//! anew, records that the target has deleted) is [`What::Unchecked`]. Memory: as of a comparison with a source, and the
//! offset map.

mod lockstep;
mod tally;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use serde::Serialize;

use self::lockstep::{Lane, Lockstep};
use super::cluster::comparer::{Counted, Outcome, Sides};
use super::cluster::held::Held;
use super::cluster::pass;
use super::{Report, TopicReport, summed_up};
use crate::archive::source::chain::{Finding, What};
use crate::archive::{Archive, layout};
use crate::batch::outgoing::Window;
use crate::error::{Error, Result};
use crate::kafka::client::{self, Client, TopicMetadata};
use crate::kafka::{Properties, code_name};
use crate::record::{OffsetRange, Partition};
use crate::restore::ends;
use crate::restore::map::{OffsetMap, Pair};
use crate::restore::plan::{PartitionPlan, Plan, TopicPlan};
use crate::restore::state::{self, Name, Phase, Seen, State};

const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;

/// What the archive and what was restored of it come to.
#[derive(Debug, Clone, Serialize)]
pub struct Restored {
    /// The restore.
    pub restore_id: String,
    /// Of each pair of partitions.
    pub pairs: Vec<PairReport>,
}

/// What the two sides of a pair come to.
#[derive(Debug, Clone, Serialize)]
pub struct PairReport {
    /// The pair.
    #[serde(flatten)]
    pub pair: Pair,
    /// Records of the archive that the plan takes; `None` where not all was compared.
    pub archive_records: Option<u64>,
    /// Their digest.
    pub archive_digest: Option<String>,
    /// Records of the target; `None` where not all was compared.
    pub target_records: Option<u64>,
    /// Their digest.
    pub target_digest: Option<String>,
    /// In a word or two.
    pub result: String,
}

/// Compares the archive with what the restore made of it, in the cluster that `properties` lead to; what is found is added
/// to `report`.
pub async fn compare(archive: &Archive, state: &State, properties: Properties, report: &mut Report) {
    report.restored = Some(Restored { restore_id: state.restore_id().to_owned(), pairs: Vec::new() });
    if let Err(error) = try_compare(archive, state, properties, report).await {
        report.findings.push(unchecked(state, Name::Plan, format!("the restore could not be compared with: {error}")));
    }
}

/// Makes the finding that something of a restore was not compared.
fn unchecked(state: &State, of: Name, detail: String) -> Finding {
    Finding { what: What::Unchecked, object: state.describe(of), range: None, detail }
}

async fn try_compare(archive: &Archive, state: &State, properties: Properties, report: &mut Report) -> Result<()> {
    let seen = state.look().await?;
    let plan = planned(archive, state, &seen)?;
    if seen.phase() != Phase::Done {
        let detail = match seen.phase() {
            Phase::Undone => "the restore was undone: the topics that it made are deleted".to_owned(),
            phase => format!("the restore is {phase}: what it has not finished cannot be compared"),
        };
        report.findings.push(unchecked(state, Name::Done, detail));
        return Ok(());
    }
    if has_stages(plan) {
        let detail = "the records went through stages of plugins, and are not what the archive holds".to_owned();
        report.findings.push(unchecked(state, Name::Plan, detail));
        return Ok(());
    }
    if is_spread(plan) {
        let detail =
            "the records were spread over partitions by key, and are not where the archive holds them".to_owned();
        report.findings.push(unchecked(state, Name::Plan, detail));
        return Ok(());
    }
    let target = plan.target.cluster_id.clone();
    let plan: Plan = plan.read()?;
    let map = state.offset_map(&seen).await?.ok_or_else(|| Error::damaged("its offset map is gone"))?;
    let client = Client::open(properties.clone(), client::OPEN_WITHIN).await?;
    let look = Look { archive, state, plan: &plan, map: Arc::new(map), client: &client };
    let lanes = look.lanes(target.as_deref(), report).await?;
    drop(client);
    if lanes.is_empty() {
        return Ok(());
    }
    let mut wanted: BTreeMap<Partition, Option<Outcome>> = lanes.keys().map(|target| (target.clone(), None)).collect();
    let lanes = Arc::new(Lanes { archive: archive.clone(), lanes });
    pass(lanes.clone(), properties, &mut wanted).await?;
    take_over(&lanes, report, wanted);
    Ok(())
}

/// Returns the plan of a restore of that archive.
fn planned<'a>(archive: &Archive, state: &State, seen: &'a Seen) -> Result<&'a state::Plan> {
    let plan = seen.plan.as_ref().ok_or_else(|| {
        let told = seen.damaged.first().map_or("it is not there".to_owned(), ToString::to_string);
        Error::damaged(format!("its plan cannot be read: {told}"))
    })?;
    let backup_id = &archive.backup().backup_id;
    if plan.backup_id != *backup_id {
        return Err(Error::usage(format!("`{}` restored the backup `{}`", state.restore_id(), plan.backup_id)));
    }
    Ok(plan)
}

/// Returns whether the records of a restore went through stages.
fn has_stages(plan: &state::Plan) -> bool {
    let stages = plan.plan.get("stages");
    stages.is_some_and(|stages| !stages.is_null() && stages.as_array().is_none_or(|stages| !stages.is_empty()))
}

/// Returns whether records of a restore were spread over partitions by key.
fn is_spread(plan: &state::Plan) -> bool {
    let topics = plan.plan.get("topics").and_then(|topics| topics.as_array());
    topics.into_iter().flatten().any(|topic| topic.get("repartition").is_some_and(|count| !count.is_null()))
}

/// The look at what there is to compare.
struct Look<'a> {
    archive: &'a Archive,
    state: &'a State,
    plan: &'a Plan,
    map: Arc<OffsetMap>,
    client: &'a Client,
}

impl Look<'_> {
    /// Returns what is compared, by the target's partition; says of the rest why it is not.
    async fn lanes(&self, target: Option<&str>, report: &mut Report) -> Result<HashMap<Partition, Arc<Lane>>> {
        let mut names: Vec<String> = self.plan.topics.iter().map(|topic| topic.target.clone()).collect();
        names.sort_unstable();
        names.dedup();
        let metadata = self.client.metadata(Some(&names)).await?;
        match (target, &metadata.cluster_id) {
            (Some(meant), Some(met)) if meant != met => {
                return Err(Error::usage(format!("it went to cluster {meant}, this cluster is {met}")));
            }
            _ => {}
        }
        let told: HashMap<&str, &TopicMetadata> =
            metadata.topics.iter().map(|topic| (topic.name.as_str(), topic)).collect();
        let mut pairs = Vec::new();
        let mut taken = HashSet::new();
        for (topic, of) in self.plan.partitions().filter(|(_, of)| !of.range().is_empty()) {
            let pair = match self.pair(topic, of) {
                Some(pair) => pair,
                None => {
                    let what = format!("the offset map does not tell of {}-{}", topic.source, of.source);
                    report.findings.push(unchecked(self.state, Name::Map, what));
                    continue;
                }
            };
            let why_not = why_not(&pair, told.get(topic.target.as_str()).copied())
                .or_else(|| (!taken.insert(pair.target.clone())).then(|| "several partitions went there".to_owned()));
            match why_not {
                None => pairs.push((pair, of)),
                Some(why) => {
                    let finding = unchecked(self.state, Name::Map, format!("{}: {why}", pair.target));
                    add(report, &pair, None, vec![finding]);
                }
            }
        }
        self.open(pairs, names).await
    }

    /// Returns the pair of a partition of the plan, as the map has it.
    fn pair(&self, topic: &TopicPlan, of: &PartitionPlan) -> Option<Pair> {
        let is_meant = |pair: &&Pair| {
            (&*pair.source.topic, pair.source.index) == (topic.source.as_str(), of.source)
                && (&*pair.target.topic, pair.target.index) == (topic.target.as_str(), of.target)
                && pair.source.topic_id.to_string() == topic.topic_id
        };
        self.map.iter().map(|(pair, _)| pair).find(is_meant).cloned()
    }

    async fn open(
        &self,
        pairs: Vec<(Pair, &PartitionPlan)>,
        names: Vec<String>,
    ) -> Result<HashMap<Partition, Arc<Lane>>> {
        if pairs.is_empty() {
            return Ok(HashMap::new());
        }
        let targets: Vec<_> = pairs.iter().map(|(pair, _)| pair.target.clone()).collect();
        let logs = ends::of(self.client, &targets).await?;
        let settings = self.client.topic_configs(&names).await?;
        let is_compacted = |topic: &str| {
            let configs = settings.get(topic).and_then(|configs| configs.as_ref().ok());
            let policy = configs.into_iter().flatten().find(|config| config.name == "cleanup.policy");
            policy.and_then(|policy| policy.value.as_deref()).is_some_and(|policy| policy.contains("compact"))
        };
        let mut lanes = HashMap::new();
        for (pair, of) in pairs {
            let window = Window { offsets: of.range(), from: self.plan.cut.from(), until: self.plan.cut.until() };
            let lane = Lane {
                map: self.map.clone(),
                parts: of.way(&pair.source)?,
                window,
                torn: of.torn.clone(),
                log: logs.get(&pair.target).copied().unwrap_or(OffsetRange { first: 0, next: 0 }),
                is_compacted: is_compacted(&pair.target.topic),
                folder: self.archive.store().describe(&layout::partition_folder(&pair.source)),
                pair,
            };
            lanes.insert(lane.pair.target.clone(), Arc::new(lane));
        }
        Ok(lanes)
    }
}

/// Says why a pair is not compared; `None` where the target is the one that was restored to.
fn why_not(pair: &Pair, told: Option<&TopicMetadata>) -> Option<String> {
    match told.filter(|told| told.code != UNKNOWN_TOPIC_OR_PARTITION) {
        None => Some("the target does not have the topic any more".to_owned()),
        Some(told) if told.code != 0 => Some(format!("the target does not tell of it: {}", code_name(told.code))),
        Some(told) if told.topic_id != pair.target.topic_id => {
            let (met, held) = (told.topic_id, pair.target.topic_id);
            Some(format!("the topic was made anew since: its id is {met}, and was {held}"))
        }
        Some(told) if !told.partitions.iter().any(|met| met.index == pair.target.index) => {
            Some("the target does not have the partition any more".to_owned())
        }
        Some(_) => None,
    }
}

/// What target partitions are compared with.
struct Lanes {
    archive: Archive,
    lanes: HashMap<Partition, Arc<Lane>>,
}

impl Sides for Lanes {
    type Side = Lockstep;

    async fn open(&self, target: &Partition) -> Result<Option<Lockstep>> {
        let Some(lane) = self.lanes.get(target) else { return Ok(None) };
        let held = Held::along(&self.archive, lane.parts.clone(), lane.window);
        Ok(Lockstep::new(held, lane.clone()))
    }

    fn archive(&self) -> &Archive {
        &self.archive
    }

    fn folder(&self, target: &Partition) -> String {
        let source = self.lanes.get(target).map(|lane| &lane.pair.source);
        source.map(layout::partition_folder).unwrap_or_default()
    }

    fn role(&self) -> &'static str {
        "target"
    }
}

/// Adds what became of the pairs to the report, in their order.
fn take_over(lanes: &Lanes, report: &mut Report, outcomes: BTreeMap<Partition, Option<Outcome>>) {
    let mut outcomes: Vec<_> =
        outcomes.into_iter().filter_map(|(target, outcome)| Some((&lanes.lanes.get(&target)?.pair, outcome))).collect();
    outcomes.sort_by_key(|(pair, _)| *pair);
    for (pair, outcome) in outcomes {
        let outcome = outcome.unwrap_or_else(|| Outcome::nothing(None));
        add(report, pair, outcome.records, outcome.findings);
    }
}

/// Adds what became of a pair to the report.
fn add(report: &mut Report, pair: &Pair, records: Option<[Counted; 2]>, findings: Vec<Finding>) {
    let [archive, target] = records.map_or([None, None], |sides| sides.map(Some));
    let split = |side: Option<Counted>| side.map_or((None, None), |side| (Some(side.records), Some(side.digest)));
    let ((archive_records, archive_digest), (target_records, target_digest)) = (split(archive), split(target));
    let result = if findings.is_empty() { "the same".to_owned() } else { summed_up(&findings) };
    let pair_report =
        PairReport { pair: pair.clone(), archive_records, archive_digest, target_records, target_digest, result };
    report.restored.iter_mut().for_each(|restored| restored.pairs.push(pair_report.clone()));
    let id = pair.source.topic_id.to_string();
    let of_pair = |topic: &&mut TopicReport| *topic.topic == *pair.source.topic && topic.topic_id == id;
    let name = layout::chain_name(pair.source.index, None);
    let found = findings.into_iter().map(|finding| (Some(name.clone()), finding));
    match report.topics.iter_mut().find(of_pair) {
        Some(topic) => topic.findings.extend(found),
        None => report.findings.extend(found.map(|(_, finding)| finding)),
    }
}

#[cfg(test)]
mod tests;
