//! Topic objects, all of them, and the names above the chains' folders.

use super::TopicReport;
use crate::archive::source::Timeline;
use crate::archive::source::chain::{Finding, What};
use crate::archive::{Archive, TopicObject, layout};
use crate::error::{Error, Result};
use crate::record::{Timestamp, TopicId};

/// Looks at every topic object of a timeline: each can be read, none is missing, and none is older than the one before.
/// And at what else lies in its folder.
pub(super) async fn check(archive: &Archive, timeline: &Timeline, report: &mut TopicReport) {
    let folder = layout::timeline_folder(&timeline.topic, timeline.topic_id);
    let listed = match archive.store().list(&folder).await {
        Ok(listed) => listed,
        Err(error) => {
            if timeline.object.is_ok() {
                report.findings.push((None, Finding::of_error(archive, &folder, &error)));
            }
            return;
        }
    };
    let mut numbers = Vec::new();
    for entry in listed {
        match layout::parse_topic_object(&entry.name) {
            Some(n) if !entry.is_folder => numbers.push(n),
            _ if entry.is_folder && layout::parse_chain_name(&entry.name).is_some() => {}
            _ => report.findings.push((None, Finding::unknown(archive, &format!("{folder}{}", entry.name)))),
        }
    }
    numbers.sort_unstable();
    let Some(&newest) = numbers.last() else { return };
    let mut seen_before: Option<Timestamp> = None;
    for n in 0..=newest {
        let key = format!("{folder}{}", layout::topic_object(n));
        let damaged = |detail: String| {
            let object = archive.store().describe(&key);
            (None, Finding { what: What::DamagedObject, object, range: None, detail })
        };
        if numbers.binary_search(&n).is_err() {
            report.findings.push(damaged("it is missing, though there is one of a higher number".to_owned()));
            continue;
        }
        match archive.topic_object(&timeline.topic, &timeline.topic_id.to_string(), n).await {
            Ok(object) => match seen_at(&object) {
                Ok(seen_at) => {
                    if let Some(before) = seen_before.filter(|before| *before > seen_at) {
                        let object = archive.store().describe(&key);
                        let detail = format!("it was seen at {seen_at}, and the one before at {before} already");
                        report.findings.push((None, Finding { what: What::ClockBack, object, range: None, detail }));
                    }
                    seen_before = Some(seen_at);
                }
                Err(error) => report.findings.push(damaged(error.to_string())),
            },
            // The timeline tells of the newest by itself.
            Err(error) if error.is_unreadable() && n == newest => {}
            Err(error) => report.findings.push((None, Finding::of_error(archive, &key, &error))),
        }
    }
}

fn seen_at(object: &TopicObject) -> Result<Timestamp> {
    let damaged = |error| Error::damaged(format!("`{}` is no time", object.seen_at)).source(error);
    object.seen_at.parse::<Timestamp>().map_err(|error: Error| damaged(error))
}

/// Finds the names in the backup's folder, and in those of topics, that nothing explains.
pub(super) async fn strange(archive: &Archive, findings: &mut Vec<Finding>) {
    if let Err(error) = look_for_strange(archive, findings).await {
        findings.push(Finding::of_error(archive, "", &error));
    }
}

async fn look_for_strange(archive: &Archive, findings: &mut Vec<Finding>) -> Result<()> {
    let mut unknown = |key: String| findings.push(Finding::unknown(archive, &key));
    for entry in archive.store().list("").await? {
        let is_known = match entry.is_folder {
            true => {
                let known = [layout::TOPICS, layout::SAVEPOINTS, layout::RESTORES, layout::SNAPSHOTS];
                known.contains(&format!("{}/", entry.name).as_str())
            }
            false => entry.name == layout::BACKUP,
        };
        if !is_known {
            unknown(entry.name);
        }
    }
    for topic in archive.store().list(layout::TOPICS).await? {
        let folder = format!("{}{}", layout::TOPICS, topic.name);
        if !topic.is_folder {
            unknown(folder);
            continue;
        }
        for entry in archive.store().list(&format!("{folder}/")).await? {
            let is_id = entry.name.parse::<TopicId>().is_ok_and(|id| id.to_string() == entry.name);
            if !(entry.is_folder && is_id) {
                unknown(format!("{folder}/{}", entry.name));
            }
        }
    }
    Ok(())
}
