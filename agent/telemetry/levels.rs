//! How much is logged, changed while the process runs: by logger, as Kafka Connect calls what here is a target of the log,
//! as `kafka_backup::kafka`; what lies below one follows it, unless it has a level of its own.
//!
//! The log begins with the filter of the command line or `RUST_LOG`; what is set here stands behind it until the process
//! ends. A change holds for the lines that are written after it.

use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock, PoisonError};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::record::Timestamp;

/// The logger above all others.
pub const ROOT: &str = "root";

/// Puts a filter in the place of the log's; returns whether it did.
type Reload = Box<dyn Fn(EnvFilter) -> bool + Send + Sync>;

static LEVELS: OnceLock<Levels> = OnceLock::new();

/// The levels of the log of this process.
pub struct Levels {
    /// The filter that the log began with.
    base: String,
    set: Mutex<BTreeMap<String, Level>>,
    reload: Reload,
}

/// The level of a logger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level {
    /// The most that is logged.
    pub level: LevelFilter,
    /// When it was set; `None` since the start.
    pub modified: Option<Timestamp>,
}

impl Levels {
    /// Returns those of the log of this process, if it has one.
    pub fn get() -> Option<&'static Self> {
        LEVELS.get()
    }

    /// Makes those of a log that began with the filter `base`.
    pub(super) fn new(base: &str, reload: Reload) -> Self {
        Self { base: base.to_owned(), set: Mutex::default(), reload }
    }

    /// Makes these the levels of the log of this process; the first ones stay.
    pub(super) fn install(self) {
        let _ = LEVELS.set(self);
    }

    /// Returns every logger that has a level of its own, the root among them.
    pub fn all(&self) -> BTreeMap<String, Level> {
        // What an `EnvFilter` without a level of its own takes.
        let of_base = |level| Level { level, modified: None };
        let mut all = BTreeMap::from([(ROOT.to_owned(), of_base(LevelFilter::ERROR))]);
        for directive in self.base.split(',') {
            let (name, level) = directive.rsplit_once('=').unwrap_or((ROOT, directive));
            if let Ok(level) = level.trim().parse() {
                all.insert(name.trim().to_owned(), of_base(level));
            }
        }
        all.extend(self.set.lock().unwrap_or_else(PoisonError::into_inner).clone());
        all
    }

    /// Sets the level of a logger; returns whether it could be.
    pub fn set(&self, logger: &str, level: LevelFilter) -> bool {
        let is_name = |name: &str| name.chars().all(|c| c.is_ascii_alphanumeric() || "_-:".contains(c));
        if logger.is_empty() || logger.len() > 200 || !is_name(logger) {
            return false;
        }
        // One change at a time: the filter that holds is that of all of them.
        let mut set = self.set.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = set.clone();
        changed.insert(logger.to_owned(), Level { level, modified: Some(Timestamp::now()) });
        let directives = changed.iter().map(|(name, set)| match name.as_str() {
            ROOT => set.level.to_string(),
            name => format!("{name}={}", set.level),
        });
        let filter = directives.fold(self.base.clone(), |filter, directive| format!("{filter},{directive}"));
        let is_set = EnvFilter::try_new(filter).is_ok_and(|filter| (self.reload)(filter));
        if is_set {
            *set = changed;
        }
        is_set
    }
}

/// Reads a level by Kafka Connect's name for it, in any case; `None` where there is none of that name here.
pub fn level_of(name: &str) -> Option<LevelFilter> {
    // A number would be read as a level too.
    name.parse().ok().filter(|_| name.chars().all(|c| c.is_ascii_alphabetic()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// Returns the levels of a log that began with `base`, and what its filter became.
    fn levels(base: &str) -> (Levels, Arc<Mutex<String>>) {
        let filter = Arc::new(Mutex::new(String::new()));
        let reloaded = filter.clone();
        let reload = move |filter: EnvFilter| {
            *reloaded.lock().expect("a lock") = filter.to_string();
            true
        };
        (Levels::new(base, Box::new(reload)), filter)
    }

    fn names(levels: &Levels) -> Vec<(String, LevelFilter)> {
        levels.all().into_iter().map(|(name, level)| (name, level.level)).collect()
    }

    #[test]
    fn the_levels_that_the_log_began_with_are_told() {
        let (levels, _) = levels("info,kafka_backup::kafka=debug");
        let expected = [("kafka_backup::kafka", LevelFilter::DEBUG), (ROOT, LevelFilter::INFO)];
        assert_eq!(names(&levels), expected.map(|(name, level)| (name.to_owned(), level)));
        assert!(levels.all().values().all(|level| level.modified.is_none()));
    }

    #[test]
    fn what_is_set_stands_behind_what_the_log_began_with() {
        let (levels, filter) = levels("info,opendal=error");
        assert!(levels.set("opendal", LevelFilter::TRACE) && levels.set(ROOT, LevelFilter::WARN));
        let filter = filter.lock().expect("a lock").clone();
        let mut directives: Vec<_> = filter.split(',').collect();
        directives.sort_unstable();
        assert_eq!(directives, ["opendal=trace", "warn"]);
        assert_eq!(levels.all()[ROOT].level, LevelFilter::WARN);
        assert!(levels.all()["opendal"].modified.is_some());
    }

    #[test]
    fn a_name_cannot_become_a_filter_of_its_own() {
        let (levels, _) = levels("info");
        for name in ["", "a,b", "a=trace", "[span]", "a b"] {
            assert!(!levels.set(name, LevelFilter::TRACE), "{name}");
        }
        assert_eq!((level_of("debug"), level_of("LOUD"), level_of("5")), (Some(LevelFilter::DEBUG), None, None));
    }
}
