//! The newest savepoints of a backup, without a listing of all: after a year there are half a million.
//!
//! Their names are moments. A store that can begin a listing in the middle is asked for those of the last hours, and for
//! those of a longer time as long as they are too few; where it cannot, all are listed.

use super::Name;
use crate::archive::{Archive, layout};
use crate::error::Result;
use crate::record::Timestamp;
use crate::store::Listed;

/// The time that is looked at first. It holds the hundred newest of one a minute; half of it would not.
const FIRST_LOOK_MS: i64 = 4 * 3_600_000;

/// How much longer each further look is: it finds a savepoint of ten years ago in ten requests. Less takes more of them,
/// more lists names that nobody wants.
const LONGER: i64 = 4;

impl Archive {
    /// Returns the names of the newest savepoints, at most `count`, oldest first, and whether there are older ones.
    pub async fn newest_savepoints(&self, count: usize) -> Result<(Vec<Name>, bool)> {
        let now = Timestamp::now().0;
        let mut back_ms = FIRST_LOOK_MS;
        let mut names = loop {
            // What is made ahead of our clock is among them: a listing has no end.
            let from = Name::at(Timestamp(now - back_ms));
            if from.time().0 == 0 {
                break self.savepoints().await?;
            }
            let Some(listed) = self.store().list_after(layout::SAVEPOINTS, &from.to_string()).await? else {
                break self.savepoints().await?;
            };
            let names = names(&listed);
            // With one more than wanted it is known that there are older ones.
            if names.len() > count {
                break names;
            }
            back_ms = back_ms.saturating_mul(LONGER);
        };
        let older = names.len().saturating_sub(count);
        Ok((names.split_off(older), older > 0))
    }
}

fn names(listed: &[Listed]) -> Vec<Name> {
    let mut names: Vec<Name> =
        listed.iter().filter(|entry| !entry.is_folder).filter_map(|entry| entry.name.parse().ok()).collect();
    names.sort_unstable();
    names
}
