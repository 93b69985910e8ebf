//! What is being tried again, and whether that has lasted long enough to be told. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

/// What passes sooner is not worth a word: leaders move every day.
const TELL_AFTER: Duration = Duration::from_secs(1);

/// The troubles there are, by what they are about: `broker 3`, `orders-3`.
#[derive(Debug, Default)]
pub(super) struct Troubles(BTreeMap<String, Trouble>);

#[derive(Debug)]
struct Trouble {
    since: Instant,
    reason: String,
    /// The reason that was told last.
    told: Option<String>,
}

impl Troubles {
    /// Notes that something goes wrong.
    pub(super) fn note(&mut self, subject: String, reason: String, now: Instant) {
        match self.0.get_mut(&subject) {
            Some(trouble) => trouble.reason = reason,
            None => drop(self.0.insert(subject, Trouble { since: now, reason, told: None })),
        }
    }

    /// Forgets a trouble; returns whether its end must be told.
    pub(super) fn clear(&mut self, subject: &str) -> bool {
        self.0.remove(subject).is_some_and(|trouble| trouble.told.is_some())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns when the next trouble is to be told.
    pub(super) fn due(&self) -> Option<Instant> {
        self.0.values().filter(|trouble| trouble.is_new()).map(|trouble| trouble.since + TELL_AFTER).min()
    }

    /// Takes what is to be told by now, as (subject, reason).
    pub(super) fn tell(&mut self, now: Instant) -> Vec<(String, String)> {
        let due = self.0.iter_mut().filter(|(_, trouble)| trouble.is_new() && trouble.since + TELL_AFTER <= now);
        let tell = |(subject, trouble): (&String, &mut Trouble)| {
            trouble.told = Some(trouble.reason.clone());
            (subject.clone(), trouble.reason.clone())
        };
        due.map(tell).collect()
    }
}

impl Trouble {
    fn is_new(&self) -> bool {
        self.told.as_ref() != Some(&self.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_lasts_is_told_and_its_end_too() {
        let mut troubles = Troubles::default();
        let now = Instant::now();
        troubles.note("a-0".into(), "x".into(), now);
        assert!(!troubles.clear("a-0"), "it was never told");
        troubles.note("a-0".into(), "x".into(), now);
        assert_eq!((troubles.due(), troubles.tell(now)), (Some(now + TELL_AFTER), Vec::new()));
        let later = now + TELL_AFTER;
        assert_eq!(troubles.tell(later), [("a-0".to_owned(), "x".to_owned())]);
        assert!(troubles.tell(later).is_empty() && troubles.due().is_none(), "once");
        troubles.note("a-0".into(), "y".into(), later);
        assert_eq!(troubles.tell(later).len(), 1, "for another reason again");
        assert!(troubles.clear("a-0") && troubles.is_empty());
    }
}
