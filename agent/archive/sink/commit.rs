//! Publishes a segment: the order of durable effects, and what to do when another was first.
//!
//! The order is the archive's law, and is said in the parent. After an error nothing is known of what was done; the
//! writer drops the segment and asks the store.

use tokio::time::Instant;

use super::writer::{Detour, Writer};
use crate::archive::catalog::Row;
use crate::archive::catalogs::upkeep::Upkeep;
use crate::archive::sidecar::{Kind as SegmentKind, Sidecar};
use crate::archive::source::Place;
use crate::archive::tip::Held;
use crate::archive::{Segments, layout};
use crate::batch::transactions::OpenTransactions;
use crate::crash;
use crate::error::{Error, Result};
use crate::pipeline::Answer;
use crate::store::{Creation, Upload};

impl Writer {
    /// Publishes a sealed segment. The order is the archive's law: what describes a log must be there before the log
    /// is, because the log's name is the commit, and part of what the sidecar says exists nowhere else.
    pub(super) async fn publish(
        &mut self,
        upload: Upload,
        sidecar: Sidecar,
        transactions: OpenTransactions,
        started: Instant,
    ) -> Result<()> {
        self.check_chain().await?;
        if self.has_moved().await? {
            return self.adopt_winner(&sidecar).await;
        }
        // What is counted is what was done, whoever's sidecar tells of it.
        let left_out = sidecar.left_out.clone();
        let sidecar = self.put_sidecar(sidecar).await?;
        crash::point("sidecar-created", &self.partition);
        match upload.finish().await {
            Ok(Creation::Created) => {}
            // Also after an error it may be there, and be mine: only the store knows.
            outcome => {
                if !self.is_mine(&sidecar, outcome.err()).await? {
                    return self.adopt_winner(&sidecar).await;
                }
                self.archive.store().settle(&self.folder()).await?;
            }
        }
        crash::point("log-created", &self.partition);
        if let Some(stages) = self.stages() {
            stages.count(&left_out);
        }
        let reason = (sidecar.kind == SegmentKind::Gap).then(|| sidecar.note.as_str().into());
        self.archive.live().committed(&self.partition, self.fork.or(self.chain.fork), &Row::of(&sidecar), reason);
        let mut upkeep = std::mem::take(&mut self.chain.upkeep);
        if self.fork.is_some() {
            upkeep = Upkeep::default();
        }
        upkeep.add(&sidecar);
        self.chain = Held {
            folder: self.folder(),
            fork: self.fork.take().or(self.chain.fork),
            next: Some(sidecar.range.next),
            leader_epoch: sidecar.epochs.last().map_or(self.chain.leader_epoch, |epoch| epoch.epoch),
            is_empty: false,
            upkeep,
        };
        self.cut = None;
        self.last = Some(sidecar.range.first);
        self.transactions = transactions;
        self.detour = None;
        self.recovered();
        self.answer(Answer::Durable {
            partition: self.partition.clone(),
            next: sidecar.range.next,
            records: sidecar.records,
            bytes: sidecar.length_bytes,
            took: started.elapsed(),
        });
        crash::point("reported", &self.partition);
        self.catalog().await
    }

    /// Makes the catalogs that are due: before the next segment is published, or the source is started.
    ///
    /// # Errors
    /// Those of the store: what was committed stands, and what was not made is due again at the tip.
    pub(super) async fn catalog(&mut self) -> Result<()> {
        let place = Place::new(self.partition.clone(), self.chain.fork);
        self.chain.upkeep.make(&self.archive, &place).await?;
        self.tell_reached();
        if self.chain.upkeep.is_broken() && !std::mem::replace(&mut self.told_broken, true) {
            tracing::warn!(
                partition = %self.partition, folder = self.chain.folder,
                "going on without catalogs: many segments are in none, or one is missing; run `repair`"
            );
        }
        Ok(())
    }

    /// Makes sure that what we are about to follow on is there: a folder that was unmounted, or came back older, must
    /// not get a segment behind a hole.
    pub(super) async fn check_chain(&self) -> Result<()> {
        let key = match self.last {
            Some(first) => format!("{}{}", self.chain.folder, layout::log(first)),
            None => layout::BACKUP.to_owned(),
        };
        if self.archive.store().exists(&key).await? {
            return Ok(());
        }
        Err(Error::transient("the archive is not where it was")
            .with("missing", self.archive.store().describe(&key))
            .hint("is its folder mounted?"))
    }

    /// Creates the sidecar, or takes the one that is there: the same name describes the same log. Returns the one that is
    /// there, whose time of sealing is what catalogs keep.
    ///
    /// One that is damaged is not taken, nor one that tells of other stages, or of other records that they left out: a
    /// batch that is emptied has the same bytes whatever the policy was. Then the segment ends elsewhere. A single batch
    /// cannot end elsewhere before another follows; where none does, the sidecar is taken that is there, and a dead letter
    /// that it does not name is told of by whoever looks at the dead letters themselves.
    async fn put_sidecar(&mut self, sidecar: Sidecar) -> Result<Sidecar> {
        let key =
            format!("{}{}", self.folder(), layout::sidecar(sidecar.range.first, sidecar.length_bytes, sidecar.digest));
        let store = self.archive.store();
        if store.create(&key, sidecar.encode()).await? == Creation::Created {
            return Ok(sidecar);
        }
        let Some(held) = store.read(&key).await? else {
            let gone = "the store says that a sidecar exists and does not give it";
            return Err(Error::transient(gone).with("object", store.describe(&key)));
        };
        let blocked_bytes = sidecar.length_bytes;
        let is_again = self.detour.is_some_and(|detour| detour.blocked_bytes == blocked_bytes);
        let held = Sidecar::decode(&held).ok().filter(|held| held.is_of_the_same_log(&sidecar));
        let what = match held {
            Some(held) if held.says_the_same(&sidecar) => return Ok(held),
            Some(held) if sidecar.batches == 1 && is_again => {
                tracing::warn!(
                    partition = %self.partition, offsets = %sidecar.range, object = store.describe(&key),
                    "taking a sidecar that was written under other stages, or another policy: no batch follows with which \
                     the segment could end elsewhere"
                );
                return Ok(held);
            }
            Some(_) => "a sidecar that tells of other stages, or of other records that they left out",
            None => "a damaged sidecar",
        };
        let roll_bytes = match sidecar.batches {
            ..=1 => blocked_bytes + 1,
            // The second half may be one batch.
            _ if is_again => 1,
            _ => blocked_bytes / 2,
        };
        self.detour = Some(Detour { roll_bytes, blocked_bytes });
        Err(Error::transient(format!("{what} stands where ours would go: ending the segment elsewhere"))
            .with("object", store.describe(&key)))
    }

    /// Returns whether the log of that name holds the bytes that `sidecar` describes; `error` is why we have to ask,
    /// and is returned when there is no log at all.
    async fn is_mine(&self, sidecar: &Sidecar, error: Option<Error>) -> Result<bool> {
        let first = sidecar.range.first;
        let listed = self.archive.store().list_from(&self.folder(), &format!("{first:020}.")).await?;
        let segments = Segments::new(listed);
        let Some(&(_, length_bytes)) = segments.logs.iter().find(|(offset, _)| *offset == first) else {
            let unlisted = || Error::transient("the store says that a log exists and does not list it");
            let key = format!("{}{}", self.folder(), layout::log(first));
            return Err(error.unwrap_or_else(|| unlisted().with("object", self.archive.store().describe(&key))));
        };
        if length_bytes != sidecar.length_bytes {
            return Ok(false);
        }
        // Whoever created the log created its sidecar before. If mine is the only one that fits, the log is mine.
        if segments.sidecars(first, length_bytes).eq([sidecar.digest]) {
            return Ok(true);
        }
        let log = self.archive.store().read(&format!("{}{}", self.folder(), layout::log(first))).await?;
        Ok(log.is_some_and(|log| xxhash_rust::xxh3::xxh3_128(&log) == sidecar.digest))
    }

    /// Another writer took the key: go on behind what it wrote.
    async fn adopt_winner(&mut self, mine: &Sidecar) -> Result<()> {
        let held = self.archive.tip(&self.partition).await?;
        let next = held.next.filter(|_| !held.is_empty);
        let next = next.ok_or_else(|| Error::transient("the winner's segment is not listed yet"))?;
        tracing::warn!(
            partition = %self.partition, mine = %mine.range, next,
            "another writer was ahead: dropping my segment and going on behind its"
        );
        self.recovered();
        self.start_from(held).await
    }
}
