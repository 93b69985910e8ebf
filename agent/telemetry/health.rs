//! What is wrong right now, by subject: the body of `/readyz`.
//!
//! A subject is what a reason is about (`broker 3`, `orders-3`); at most one reason stands for each. Clones share the
//! same state; [`Health::of`] gives a part of it, so that a pipeline that starts again can take back all it said.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use super::metrics::PipelineMetrics;

/// Reasons why the agent is not ready, by (part, subject).
type Reasons = BTreeMap<(String, String), String>;

/// The most lines of one part. Whoever reads them needs to know what kind of thing is wrong and how much of it there is; a
/// part of 10,000 partitions would hide the other parts behind its own.
const MOST_LINES: usize = 20;

/// A handle to the health of the agent, or to that of a part of it.
#[derive(Debug, Clone, Default)]
pub struct Health {
    part: String,
    reasons: Arc<Mutex<Reasons>>,
    /// Shows how much is wrong with the part, if it is a pipeline.
    shown: Option<PipelineMetrics>,
}

impl Health {
    /// Makes the health of an agent that has nothing to complain of.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the health of a part, as of `pipeline orders`.
    pub fn of(&self, part: impl Into<String>) -> Self {
        Self { part: part.into(), reasons: self.reasons.clone(), shown: None }
    }

    /// Returns the health of a pipeline; whatever is said of it, its metrics say too, at once.
    pub fn of_pipeline(&self, name: &str) -> Self {
        let shown = Some(PipelineMetrics::new(name));
        Self { part: format!("pipeline {name}"), reasons: self.reasons.clone(), shown }
    }

    /// Says what is wrong with `subject` (empty: with the part itself), or with `None` that nothing is any more;
    /// returns whether that is news.
    pub fn set(&self, subject: &str, reason: Option<String>) -> bool {
        let key = (self.part.clone(), subject.to_owned());
        let mut reasons = self.lock();
        let before = match reason.clone() {
            Some(reason) => reasons.insert(key, reason),
            None => reasons.remove(&key),
        };
        self.show(&reasons);
        before != reason
    }

    /// Takes back everything that was said of this part.
    pub fn clear(&self) {
        self.replace([]);
    }

    /// Takes back everything that was said of this part, and says `reasons`, by subject, instead: in one step, so that
    /// nobody finds it well in between.
    pub fn replace(&self, reasons: impl IntoIterator<Item = (String, String)>) {
        let mut standing = self.lock();
        standing.retain(|(part, _), _| *part != self.part);
        standing.extend(reasons.into_iter().map(|(subject, reason)| ((self.part.clone(), subject), reason)));
        self.show(&standing);
    }

    /// Returns what is wrong, one line for each subject of every part, of each part [`MOST_LINES`] and how many there are
    /// besides; empty when the agent is ready.
    pub fn reasons(&self) -> Vec<String> {
        let (mut lines, mut of_part, mut part_before) = (Vec::new(), 0, None);
        let line = |names: &[&str]| {
            let names = names.iter().copied().filter(|name| !name.is_empty());
            names.collect::<Vec<_>>().join(": ").replace(['\n', '\r'], " ")
        };
        let and_more = |part: Option<&String>, count: usize| {
            let more = count.checked_sub(MOST_LINES).filter(|more| *more > 0)?;
            Some(line(&[part?, &format!("and {more} more")]))
        };
        let reasons = self.lock();
        for ((part, subject), reason) in reasons.iter() {
            if part_before != Some(part) {
                lines.extend(and_more(part_before, of_part));
                (of_part, part_before) = (0, Some(part));
            }
            of_part += 1;
            if of_part <= MOST_LINES {
                lines.push(line(&[part, subject, reason]));
            }
        }
        lines.extend(and_more(part_before, of_part));
        lines
    }

    /// Returns how many things are wrong with this part.
    pub fn count(&self) -> usize {
        self.count_in(&self.lock())
    }

    fn count_in(&self, reasons: &Reasons) -> usize {
        let of_part = reasons.range((self.part.clone(), String::new())..);
        of_part.take_while(|((part, _), _)| *part == self.part).count()
    }

    fn show(&self, reasons: &Reasons) {
        if let Some(metrics) = &self.shown {
            metrics.show(self.count_in(reasons));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Reasons> {
        self.reasons.lock().expect("nobody panics while holding the reasons")
    }
}

#[cfg(test)]
mod tests {
    use super::super::metrics::Series;
    use super::*;

    #[test]
    fn a_reason_stands_until_it_is_taken_back() {
        let health = Health::new();
        let orders = health.of("pipeline orders");
        orders.set("", Some("starting".into()));
        assert!(orders.set("broker 3", Some("connection\nrefused".into())));
        assert!(!orders.set("broker 3", Some("connection\nrefused".into())));
        health.of("pipeline payments").set("", Some("starting".into()));
        let lines = [
            "pipeline orders: starting",
            "pipeline orders: broker 3: connection refused",
            "pipeline payments: starting",
        ];
        assert_eq!(health.reasons(), lines);
        assert_eq!((orders.count(), health.of("pipeline payments").count()), (2, 1));
        orders.set("", None);
        assert_eq!(health.reasons(), lines[1..]);
        orders.replace([]);
        assert_eq!(health.reasons(), lines[2..]);
    }

    #[test]
    fn what_is_said_of_a_pipeline_its_metrics_say_too() {
        let series = Series::default();
        metrics::with_local_recorder(&series, || {
            let orders = Health::new().of_pipeline("orders");
            let shown = |ready: u8, troubles: usize| {
                let line = |name: &str, value: String| format!("kafka_backup_{name}{{pipeline=\"orders\"}} {value}\n");
                let page = series.render();
                page.contains(&line("ready", ready.to_string()))
                    && page.contains(&line("troubles", troubles.to_string()))
            };
            orders.set("", Some("starting".into()));
            assert!(shown(0, 1));
            orders.set("broker 3", Some("away".into()));
            assert!(shown(0, 2));
            orders.clear();
            assert!(shown(1, 0));
        });
    }

    #[test]
    fn what_is_replaced_is_of_the_part_alone() {
        let health = Health::new();
        let (orders, payments) = (health.of("orders"), health.of("payments"));
        payments.set("", Some("starting".into()));
        orders.set("broker 3", Some("away".into()));
        orders.replace([(String::new(), "failed".to_owned())]);
        assert_eq!(health.reasons(), ["orders: failed", "payments: starting"]);
    }

    #[test]
    fn a_part_with_many_reasons_does_not_hide_the_others() {
        let health = Health::new();
        let of = |part: &str, count: usize| {
            health.of(part).replace((0..count).map(|n| (format!("lag of t-{n:02}"), "late".to_owned())));
        };
        of("orders", MOST_LINES + 3);
        of("payments", MOST_LINES);
        let lines = health.reasons();
        assert_eq!(lines.len(), 2 * MOST_LINES + 1);
        assert_eq!(lines[MOST_LINES], "orders: and 3 more");
        assert!(lines[MOST_LINES + 1..].iter().all(|line| line.starts_with("payments: lag of t-")), "{lines:?}");
        assert_eq!(health.of("orders").count(), MOST_LINES + 3, "all of them count");
    }
}
