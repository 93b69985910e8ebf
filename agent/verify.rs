//! Whether a backup is what was written: everything that is there is looked at, and what is missing is named.
//!
//! A *plain* check reads every object but the logs: topic objects, savepoints, sidecars, catalogs, what restores keep, and
//! the listings that tie them together. A *deep* check reads every byte besides, and holds each sidecar against its log. What is looked
//! at in which file: [`chain`](crate::archive::source::chain) walks segment by segment, [`place`] holds neighbours
//! together, [`catalogs`], [`copies`], [`dead_letters`], [`restores`], [`savepoints`], [`snapshots`] and [`topics`] look at what their
//! names say. [`cluster`] compares an archive with what its source still has, [`restored`] with what a restore made of it;
//! [`periodic`] does it all beside a running pipeline.
//!
//! Guarantees: nothing is written. Everything found is a [`Finding`] in one [`Report`]; what could not be looked at is one
//! too, since not to have looked is no success. Memory: some MiB for each partition that is looked at, and for each
//! catalog what it holds.
//!
//! Order, beside an agent that writes: what points at segments (savepoints, catalogs) is listed before the segments are,
//! so that nothing that is written meanwhile looks like a loss.

mod catalogs;
pub mod cluster;
mod copies;
mod dead_letters;
pub mod periodic;
mod place;
mod report;
pub mod restored;
mod restores;
mod savepoints;
mod snapshots;
mod topics;

use std::sync::Arc;

use serde::Serialize;

use crate::archive::Archive;
use crate::archive::source::chain::{Finding, What};
use crate::archive::source::{self, Place, side_by_side, way};
use crate::error::Result;
use place::Checked;
pub use report::{Count, Found, Report, Stretch, TopicReport, summed_up};

/// How closely to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// At every object but the logs.
    #[default]
    Plain,
    /// At every byte.
    Deep,
}

/// Checks a backup, as many partitions at a time as there are processors.
///
/// # Errors
/// Those of the store while it lists the topics; everything else is in the report.
pub async fn check(archive: &Archive, mode: Mode) -> Result<Report> {
    check_some(archive, mode, std::thread::available_parallelism().map_or(1, usize::from)).await
}

/// Checks a backup, `side_by_side` partitions at a time; the report is in the order of the timelines.
///
/// # Errors
/// As [`check`].
pub async fn check_some(archive: &Archive, mode: Mode, side_by_side: usize) -> Result<Report> {
    let mut findings = Vec::new();
    // What savepoints claim was durable before the chains are listed.
    let (savepoints, claims) = savepoints::check(archive, &mut findings).await;
    let claims = Arc::new(claims);
    let timelines = source::timelines(archive).await?;
    topics::strange(archive, &mut findings).await;
    restores::check(archive, &mut findings).await;
    snapshots::check(archive, &mut findings).await;
    let mut topics: Vec<_> = timelines.iter().map(|timeline| TopicReport::new(archive, timeline)).collect();
    for (report, timeline) in topics.iter_mut().zip(&timelines) {
        topics::check(archive, timeline, report).await;
    }
    let mut places: Vec<Vec<(Place, Checked)>> = topics.iter().map(|_| Vec::new()).collect();
    let all = timelines.into_iter().enumerate();
    let all = all.flat_map(|(topic, timeline)| timeline.places.into_iter().map(move |place| (topic, place)));
    let checked = side_by_side::each(all, side_by_side, |(topic, place)| {
        let (archive, claims) = (archive.clone(), claims.clone());
        async move {
            let checked = place::check(&archive, &place, mode, claims.of(&place)).await;
            (topic, place, checked)
        }
    });
    for (topic, place, checked) in checked.await? {
        places[topic].push((place, checked));
    }
    findings.extend(claims.unmet(archive, places.iter().flatten().map(|(place, _)| place)));
    for (topic, mut places) in topics.iter_mut().zip(places) {
        check_forks(archive, &mut places);
        for chains in places.chunk_by_mut(|(one, _), (other, _)| one.partition == other.partition) {
            let unnamed = dead_letters::unnamed(archive, chains).await;
            chains[0].1.findings.extend(unnamed);
        }
        for (place, checked) in places {
            topic.add(&place, checked);
        }
    }
    let backup_id = archive.backup().backup_id.clone();
    Ok(Report { backup_id, mode, topics, savepoints, findings, compared: None, restored: None })
}

/// Says which forks there are, and finds those whose parent does not hold what lies before them.
fn check_forks(archive: &Archive, places: &mut [(Place, Checked)]) {
    let chains: Vec<_> = places.iter().map(|(place, checked)| (place, checked.reach)).collect();
    for (at, left, missing) in way::forks(archive, &chains) {
        let (place, checked) = &mut places[at];
        let object = archive.store().describe(&place.folder);
        let (range, detail) = (Some(left.lost).filter(|lost| !lost.is_empty()), left.describe(place));
        checked.findings.extend(missing);
        checked.findings.push(Finding { what: What::Fork, object, range, detail });
    }
}

#[cfg(test)]
mod tests;
