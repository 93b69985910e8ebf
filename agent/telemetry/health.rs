//! What is wrong right now, by subject: the body of `/readyz`.
//!
//! A subject is what a reason is about (`broker 3`, `orders-3`); at most one reason stands for each. Clones share the
//! same state; [`Health::of`] gives a part of it, so that a pipeline that starts again can take back all it said.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

/// Reasons why the agent is not ready, by (part, subject).
type Reasons = BTreeMap<(String, String), String>;

/// A handle to the health of the agent, or to that of a part of it.
#[derive(Debug, Clone, Default)]
pub struct Health {
    part: String,
    reasons: Arc<Mutex<Reasons>>,
}

impl Health {
    /// Makes the health of an agent that has nothing to complain of.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the health of a part, as of `pipeline orders`.
    pub fn of(&self, part: impl Into<String>) -> Self {
        Self { part: part.into(), reasons: self.reasons.clone() }
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
        before != reason
    }

    /// Takes back everything that was said of this part.
    pub fn clear(&self) {
        self.lock().retain(|(part, _), _| *part != self.part);
    }

    /// Returns what is wrong, one line for each subject of every part; empty when the agent is ready.
    pub fn reasons(&self) -> Vec<String> {
        let line = |((part, subject), reason): (&(String, String), &String)| {
            let names = [part.as_str(), subject.as_str(), reason.as_str()];
            let names = names.into_iter().filter(|name| !name.is_empty());
            names.collect::<Vec<_>>().join(": ").replace(['\n', '\r'], " ")
        };
        self.lock().iter().map(line).collect()
    }

    /// Returns how many things are wrong with this part.
    pub fn count(&self) -> usize {
        self.lock().keys().filter(|(part, _)| *part == self.part).count()
    }

    fn lock(&self) -> MutexGuard<'_, Reasons> {
        self.reasons.lock().expect("nobody panics while holding the reasons")
    }
}

#[cfg(test)]
mod tests {
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
        orders.clear();
        assert_eq!(health.reasons(), lines[2..]);
    }
}
