//! Where the chain of a partition begins: an object that is durable before anything of the chain is.
//!
//! The log start moves on, the end moves faster, and of two agents each would begin where it looked. So the first who
//! comes creates `begin.json`, if absent, and everybody begins there: an agent that was killed before its first segment,
//! one that does not know that its request had succeeded, and another one beside it.

use serde::{Deserialize, Serialize};

use super::{Archive, layout, sealed};
use crate::crash;
use crate::error::{Error, Kind, Result};
use crate::record::{Offset, Partition, Timestamp};
use crate::store::{Creation, Store};

/// What `begin.json` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begin {
    /// The topic's id, as Kafka writes it: an object that was moved to another partition's folder gives itself away.
    pub topic_id: String,
    /// The partition's index.
    pub partition: i32,
    /// The first offset of the chain.
    pub offset: Offset,
    /// When it was decided, RFC 3339.
    pub created: String,
    /// The program that made it.
    pub created_by: String,
}

impl Archive {
    /// Keeps that the partition's chain begins at `offset`, or finds where it begins already; returns that.
    ///
    /// # Errors
    /// [`Kind::Damaged`] when there is a begin that cannot be read: nothing begins
    /// elsewhere. After another error it is unknown whether the begin is kept: ask [`tip`](Self::tip).
    pub async fn keep_begin(&self, partition: &Partition, offset: Offset) -> Result<Offset> {
        let folder = layout::partition_folder(partition);
        let begin = Begin {
            topic_id: partition.topic_id.to_string(),
            partition: partition.index,
            offset,
            created: Timestamp::now().to_string(),
            created_by: concat!("kafka-backup ", env!("CARGO_PKG_VERSION")).to_owned(),
        };
        let store = self.store();
        if store.create(&format!("{folder}{}", layout::BEGIN), sealed::pretty(&begin)).await? == Creation::Created {
            crash::point("begin-created", partition);
            return Ok(offset);
        }
        store.settle(&folder).await?;
        let found = read(store, partition, &folder).await?;
        found.map(|begin| begin.offset).ok_or_else(|| {
            Error::transient("the store says that there is a begin and does not give it")
                .with("object", store.describe(&format!("{folder}{}", layout::BEGIN)))
        })
    }
}

/// Reads where the chain of `partition` in `folder` begins; `None` where nothing says it.
///
/// # Errors
/// [`Kind::Damaged`] when it cannot be read, [`Kind::Newer`] when a newer program wrote it.
pub async fn read(store: &Store, partition: &Partition, folder: &str) -> Result<Option<Begin>> {
    let key = format!("{folder}{}", layout::BEGIN);
    let Some(bytes) = store.read(&key).await? else { return Ok(None) };
    let unreadable = |kind| {
        Error::new(kind, "it cannot be read where the chain begins")
            .with("object", store.describe(&key))
            .hint("bring the object back from a copy; nothing is begun elsewhere")
    };
    let begin: Begin = sealed::read(&bytes).map_err(|error| unreadable(error.kind()).source(error))?;
    let is_ours = begin.topic_id == partition.topic_id.to_string() && begin.partition == partition.index;
    match begin {
        Begin { offset, .. } if offset < 0 => Err(unreadable(Kind::Damaged).with("offset", offset)),
        _ if !is_ours => Err(unreadable(Kind::Damaged).with("it is that of partition", begin.partition)),
        begin => Ok(Some(begin)),
    }
}
