//! What can go wrong with a restore that is planned: each danger has a name, and is waved through only by it.
//!
//! Pure: facts in, hazards out.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A danger, by its name in `accept`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
#[value(rename_all = "kebab-case")]
pub enum Danger {
    /// A target partition holds records already: what is restored stands behind them.
    TargetNotEmpty,
    /// The target topic is there and lacks a partition.
    PartitionMissing,
    /// Records are older than the target keeps them.
    OlderThanRetention,
    /// Records have times that the target refuses.
    TimestampLimits,
    /// The target stamps records with the time of the restore.
    LogAppendTime,
    /// The target compresses anew: its batches differ from the archive's, its records do not.
    Recompressed,
    /// The target wants more replicas in sync than its partitions have.
    MinInsyncReplicas,
    /// Nobody knows any more whether transactions were aborted: they are left out.
    UndecidedTransactions,
    /// Transactions were in flight at the savepoint: they may be in for one partition and out for another.
    TransactionsInFlight,
    /// The savepoint is not complete: the archive does not hold all that was there.
    SavepointIncomplete,
    /// The archive lacks offsets that it does not declare as a gap, or holds damage there.
    ChainBreak,
    /// Records have no key, and the target is compacted: it refuses them.
    NullKeys,
    /// A record is larger than the target takes a batch.
    RecordTooLarge,
    /// The cluster does not take settings that the archived topic had, or gives a topic those of another one.
    SettingsLeftOut,
    /// Members of consumer groups read the target while it is restored.
    ActiveGroups,
    /// Nobody can be fenced off: an older process of the restore, if there is one, goes on sending.
    NoFence,
    /// So many partitions come together in so few that how far each has come has no place.
    TooManySources,
}

impl Danger {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::TargetNotEmpty,
        Self::PartitionMissing,
        Self::OlderThanRetention,
        Self::TimestampLimits,
        Self::LogAppendTime,
        Self::Recompressed,
        Self::MinInsyncReplicas,
        Self::UndecidedTransactions,
        Self::TransactionsInFlight,
        Self::SavepointIncomplete,
        Self::ChainBreak,
        Self::NullKeys,
        Self::RecordTooLarge,
        Self::SettingsLeftOut,
        Self::ActiveGroups,
        Self::NoFence,
        Self::TooManySources,
    ];

    /// Returns whether nothing waves it through, because the restore cannot be done so.
    pub fn is_final(self) -> bool {
        self == Self::TooManySources
    }
}

impl fmt::Display for Danger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = serde_json::to_value(self).ok();
        f.write_str(name.as_ref().and_then(serde_json::Value::as_str).unwrap_or_default())
    }
}

/// A danger of one restore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hazard {
    /// Which.
    pub danger: Danger,
    /// The topic, or the partition as `orders-3`, that it is about.
    pub subject: String,
    /// What would happen.
    pub detail: String,
    /// Whether it was waved through.
    pub accepted: bool,
}

impl Hazard {
    /// Makes one that nobody has accepted yet.
    pub(in crate::restore) fn new(danger: Danger, subject: impl ToString, detail: impl Into<String>) -> Self {
        Self { danger, subject: subject.to_string(), detail: detail.into(), accepted: false }
    }
}

/// Reads the names of accepted dangers.
///
/// # Errors
/// [`Kind::Usage`](crate::error::Kind::Usage) for a name that none has, and for one that nothing waves through.
pub fn accepted(names: &[String]) -> Result<BTreeSet<Danger>> {
    let read = |name: &String| {
        let known = Danger::ALL.into_iter().find(|danger| danger.to_string() == *name);
        if known.is_some_and(Danger::is_final) {
            return Err(Error::usage(format!(
                "sink.accept: nothing waves `{name}` through: the restore cannot be done so"
            )));
        }
        known.ok_or_else(|| {
            let all = Danger::ALL.iter().filter(|danger| !danger.is_final()).map(Danger::to_string);
            Error::usage(format!("sink.accept: there is no hazard `{name}`"))
                .hint(format!("there are {}", all.collect::<Vec<_>>().join(", ")))
        })
    };
    names.iter().map(read).collect()
}

/// Refuses a restore with hazards that were not accepted.
///
/// # Errors
/// [`Kind::Usage`](crate::error::Kind::Usage), which names them.
pub fn check(hazards: &[Hazard]) -> Result<()> {
    let open: Vec<_> = hazards.iter().filter(|hazard| !hazard.accepted).collect();
    let Some(first) = open.first() else { return Ok(()) };
    let more = match open.len() {
        1 => String::new(),
        all => format!(", and {} more", all - 1),
    };
    let names = |is_final: bool| -> Vec<String> {
        let of = open.iter().map(|hazard| hazard.danger).filter(|danger| danger.is_final() == is_final);
        let names: BTreeSet<_> = of.map(|danger| format!("\"{danger}\"")).collect();
        names.into_iter().collect()
    };
    let way_out = match &names(true)[..] {
        [] => format!("accept = [{}] waves them through", names(false).join(", ")),
        names => format!("nothing waves {} through", names.join(", ")),
    };
    Err(Error::usage(format!("{}: {}: {}{more}", first.subject, first.danger, first.detail))
        .hint(format!("nothing was changed; `--dry-run` shows all; {way_out}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_danger_is_accepted_by_its_own_name_alone() {
        let names: Vec<_> = Danger::ALL.iter().filter(|it| !it.is_final()).map(Danger::to_string).collect();
        assert_eq!(accepted(&names).expect("all known").len(), Danger::ALL.len() - 1);
        let error = accepted(&["too-many-sources".to_owned()]).expect_err("the restore cannot be done").to_string();
        assert!(error.starts_with("sink.accept: nothing waves `too-many-sources` through"), "{error}");
        let error = accepted(&["target-not-emtpy".to_owned()]).expect_err("a typing error").to_string();
        assert!(error.starts_with("sink.accept: there is no hazard `target-not-emtpy`; there are target-not-empty, "));
    }

    #[test]
    fn hazards_are_told_before_anything_is_done() {
        let hazard = |danger, accepted| Hazard { danger, subject: "orders-0".into(), detail: "d".into(), accepted };
        check(&[hazard(Danger::TargetNotEmpty, true)]).expect("accepted");
        let hazards = [hazard(Danger::TargetNotEmpty, false), hazard(Danger::Recompressed, false)];
        let error = check(&hazards).expect_err("not accepted").to_string();
        assert!(error.starts_with("orders-0: target-not-empty: d, and 1 more; nothing was changed"), "{error}");
        assert!(error.contains("accept = [\"recompressed\", \"target-not-empty\"]"), "{error}");
    }
}
