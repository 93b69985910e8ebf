//! `GET /v1/index/{backup}/{topic}/{partition}`: where an offset or a time is, or what the partition holds.

use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Json, Response};
use serde::Serialize;

use super::query::{self, Query, Segments};
use super::{Refused, Registry, Writers, patiently, still_there};
use crate::archive::live::lookup::{Extent, Found, Wanted, Way};
use crate::archive::sidecar::Kind;
use crate::archive::{Archive, layout, source};
use crate::error::Error;
use crate::record::{Offset, Partition, Timestamp, TopicId};

/// The partition that is asked about.
#[derive(Debug, Serialize)]
struct Asked {
    backup: String,
    topic: String,
    topic_id: String,
    /// Whether no newer topic of that name is held.
    newest: bool,
    partition: i32,
}

/// A place in a log, as data.
#[derive(Debug, Serialize)]
struct PlaceData {
    #[serde(flatten)]
    asked: Asked,
    /// The fork that holds the segment.
    fork: Option<String>,
    kind: &'static str,
    /// The key of the log below the path, and that of its sidecar.
    segment: String,
    sidecar: String,
    first_offset: Offset,
    next_offset: Offset,
    length_bytes: u64,
    records: u64,
    position: u64,
    position_offset: Offset,
    min_time: Option<String>,
    max_time: Option<String>,
    sealed_at: String,
    end_offset: Option<Offset>,
}

/// What a partition holds, as data.
#[derive(Debug, Serialize)]
struct ExtentData {
    #[serde(flatten)]
    asked: Asked,
    /// The fork whose way it is.
    fork: Option<String>,
    first_offset: Option<Offset>,
    end_offset: Option<Offset>,
    segments: usize,
    length_bytes: u64,
    max_time: Option<String>,
    sealed_at: Option<String>,
}

pub(super) async fn look_up(
    State(registry): State<Registry>,
    Segments((backup, topic, partition)): Segments<(String, String, String)>,
    RawQuery(query): RawQuery,
) -> Result<Response, Refused> {
    let query = Query::read(query.as_deref().unwrap_or_default())?;
    let (name, topic_id) = query::topic(&topic)?;
    let index = query::partition(&partition)?;
    let Writers { running, is_one_starting } = registry.writers(&backup)?;
    let mut archives: Vec<_> = running.into_iter().map(|running| running.archive).collect();
    // The one that writes the topic knows its segments without asking the store.
    archives.sort_by_key(|archive| archive.live().written_ids(name).is_empty());
    let mut missing = None;
    for archive in archives {
        match patiently(answer(&archive, name, topic_id, index, &query)).await {
            Err(refused) if refused.status == 404 => {
                patiently(still_there(&archive)).await?;
                missing = missing.or(Some(refused));
            }
            answered => return answered,
        }
    }
    if is_one_starting {
        // It may be the one that holds it.
        return Err(Refused::starting(&backup));
    }
    Err(missing.unwrap_or_else(|| Refused::not_found("there is no such partition")))
}

async fn answer(
    archive: &Archive,
    topic: &str,
    topic_id: Option<TopicId>,
    index: i32,
    query: &Query,
) -> Result<Response, Refused> {
    let (partition, newest) = resolve(archive, topic, topic_id, index).await?;
    let Some(way) = Way::open(archive, &partition, query.branch).await? else {
        return Err(Refused::not_found(format!("partition {index} of `{topic}` has no such fork")));
    };
    let backup = archive.backup().backup_id.clone();
    let topic_id = partition.topic_id.to_string();
    let asked = Asked { backup, topic: topic.to_owned(), topic_id, newest, partition: index };
    let Some(wanted) = query.wanted else {
        let fork = way.fork().map(|fork| fork.to_string());
        // A million rows take long enough to keep others of this thread waiting.
        let added = tokio::task::spawn_blocking(move || way.extent()).await;
        let extent = added.map_err(|error| Error::failed("adding up ended early").source(error))?;
        return Ok(Json(ExtentData::new(asked, fork, extent)).into_response());
    };
    match way.find(archive, wanted).await? {
        Some(found) => Ok(Json(PlaceData::new(asked, &found, way.end())).into_response()),
        None => Err(Refused::not_found(nothing(topic, index, wanted, way.end()))),
    }
}

/// Finds the timeline and the partition that are meant; returns also whether the timeline is the newest.
async fn resolve(
    archive: &Archive,
    topic: &str,
    topic_id: Option<TopicId>,
    index: i32,
) -> Result<(Partition, bool), Refused> {
    let partition = |topic_id| Partition { topic: topic.into(), topic_id, index };
    // What is written now is the newest; while a topic is made again, two may be.
    if let &[written] = archive.live().written_ids(topic).as_slice() {
        let named = partition(topic_id.unwrap_or(written));
        if archive.live().writes(&named) {
            return Ok((named, true));
        }
    }
    let timelines = source::timelines_of(archive, topic).await?;
    let meant = timelines.into_iter().find(|timeline| topic_id.is_none_or(|topic_id| topic_id == timeline.topic_id));
    let Some(timeline) = meant else {
        let name = topic_id.map_or_else(|| topic.to_owned(), |topic_id| format!("{topic}@{topic_id}"));
        return Err(Refused::not_found(format!("the backup holds no topic `{name}`")));
    };
    if !timeline.places.iter().any(|place| place.partition.index == index) {
        // What could not be looked at is not known to be missing.
        timeline.object?;
        return Err(Refused::not_found(format!("`{topic}` has no partition {index}")));
    }
    Ok((partition(timeline.topic_id), timeline.is_newest))
}

/// Says that nothing covers what is wanted.
fn nothing(topic: &str, index: i32, wanted: Wanted, end: Option<Offset>) -> String {
    let what = match wanted {
        Wanted::Offset(offset) => format!("offset {offset}"),
        Wanted::Time(time) => format!("a record of {time} or later"),
    };
    let held = match (end, wanted) {
        (None, _) => "it holds nothing yet".to_owned(),
        (Some(end), Wanted::Offset(offset)) if offset < end => {
            format!("no segment covers it, though the partition is held up to offset {end} (exclusive)")
        }
        (Some(end), _) => format!("it is held up to offset {end} (exclusive)"),
    };
    format!("partition {index} of `{topic}` does not hold {what}: {held}")
}

impl PlaceData {
    fn new(asked: Asked, Found { place, row, position, position_offset }: &Found, end_offset: Option<Offset>) -> Self {
        let backup = &asked.backup;
        let first = row.range.first;
        let sidecar = layout::sidecar(first, row.length_bytes, row.digest);
        Self {
            fork: place.fork.map(|fork| fork.to_string()),
            kind: match row.kind {
                Kind::Data => "data",
                Kind::First => "first",
                Kind::Gap => "gap",
            },
            segment: format!("{backup}/{}{}", place.folder, layout::log(first)),
            sidecar: format!("{backup}/{}{sidecar}", place.folder),
            first_offset: first,
            next_offset: row.range.next,
            length_bytes: row.length_bytes,
            records: row.records,
            position: *position,
            position_offset: *position_offset,
            min_time: shown(row.min_time),
            max_time: shown(row.max_time),
            sealed_at: row.sealed_at.to_string(),
            end_offset,
            asked,
        }
    }
}

impl ExtentData {
    fn new(asked: Asked, fork: Option<String>, extent: Extent) -> Self {
        Self {
            asked,
            fork,
            first_offset: extent.range.map(|range| range.first),
            end_offset: extent.range.map(|range| range.next),
            segments: extent.segments,
            length_bytes: extent.bytes,
            max_time: shown(extent.max_time),
            sealed_at: shown(extent.sealed_at),
        }
    }
}

/// Returns a time as text, unless it is Kafka's "none".
fn shown(time: Option<Timestamp>) -> Option<String> {
    time.filter(|time| *time != Timestamp::NONE).map(|time| time.to_string())
}
