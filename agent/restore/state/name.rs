//! Names of a restore's objects. Pure.

use std::fmt;

/// What the name of an object in a restore's folder says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Name {
    /// What is to be done.
    Plan,
    /// A process has begun.
    Attempt(u32),
    /// How far it has come.
    Journal(u32),
    /// The offset map.
    Map,
    /// It is finished.
    Done,
    /// Somebody wants it to end.
    Cancelled,
    /// What it made is deleted.
    Undone,
    /// Consumer groups are going to be put back.
    Groups(u32),
    /// What became of those of that number.
    GroupsDone(u32),
}

impl Name {
    /// Reads a name; `None` when it is none.
    pub fn parse(name: &str) -> Option<Self> {
        let parsed = match name {
            "plan" => Self::Plan,
            "map" => Self::Map,
            "done" => Self::Done,
            "cancelled" => Self::Cancelled,
            "undone" => Self::Undone,
            _ => match name.split_once('-')? {
                ("attempt", n) => Self::Attempt(n.parse().ok()?),
                ("journal", n) => Self::Journal(n.parse().ok()?),
                ("groups", n) => match n.strip_prefix("done-") {
                    Some(n) => Self::GroupsDone(n.parse().ok()?),
                    None => Self::Groups(n.parse().ok()?),
                },
                _ => return None,
            },
        };
        // Only the canonical spelling: `attempt-+1` and `attempt-01` also parse as numbers.
        (parsed.to_string() == name).then_some(parsed)
    }

    /// Returns the number of an attempt.
    pub(super) fn attempt(&self) -> Option<u32> {
        if let Self::Attempt(n) = self { Some(*n) } else { None }
    }

    /// Returns the number of a journal.
    pub(super) fn journal(&self) -> Option<u32> {
        if let Self::Journal(n) = self { Some(*n) } else { None }
    }

    /// Returns the number of groups that are put back.
    pub(super) fn groups(&self) -> Option<u32> {
        if let Self::Groups(n) = self { Some(*n) } else { None }
    }

    /// Returns the number that it has among others of its kind, of which none is missing.
    pub(super) fn number(&self) -> Option<u32> {
        self.attempt().or(self.journal()).or(self.groups())
    }

    /// Returns the crash point behind the creation of such an object.
    pub(super) fn crash_point(self) -> &'static str {
        match self {
            Self::Plan => "restore-plan",
            Self::Attempt(_) => "restore-attempt",
            Self::Journal(_) => "restore-journal",
            Self::Map => "restore-map",
            Self::Done => "restore-done",
            Self::Cancelled => "restore-cancelled",
            Self::Undone => "restore-undone",
            Self::Groups(_) => "restore-groups",
            Self::GroupsDone(_) => "restore-groups-done",
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plan => f.write_str("plan"),
            Self::Attempt(n) => write!(f, "attempt-{n}"),
            Self::Journal(n) => write!(f, "journal-{n}"),
            Self::Map => f.write_str("map"),
            Self::Done => f.write_str("done"),
            Self::Cancelled => f.write_str("cancelled"),
            Self::Undone => f.write_str("undone"),
            Self::Groups(n) => write!(f, "groups-{n}"),
            Self::GroupsDone(n) => write!(f, "groups-done-{n}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_and_nothing_else_is_a_name() {
        let words = [Name::Plan, Name::Map, Name::Done, Name::Cancelled, Name::Undone];
        for name in
            words.into_iter().chain([Name::Attempt(0), Name::Journal(120), Name::Groups(7), Name::GroupsDone(0)])
        {
            assert_eq!(Name::parse(&name.to_string()), Some(name));
        }
        let others = ["", "plan-0", "attempt", "attempt-", "attempt-01", "attempt-+1", "journal--1", "maps", "x-1"];
        for other in others.into_iter().chain(["groups", "groups-", "groups-done", "groups-done-01", "groups-done--1"])
        {
            assert_eq!(Name::parse(other), None, "{other}");
        }
    }
}
