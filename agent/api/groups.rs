//! `/v1/groups`: where consumer groups would be put, and having them put there; `/v1/snapshots`: what they had committed before,
//! and the way back to it.
//!
//! What is asked for is [`asked`](crate::groups::asked)'s, as on the command line, what is done [`perform`](crate::groups::perform)'s,
//! with its order of durable effects. Two requests do it: the first answers with a plan and changes nothing, the second is sent
//! that plan, and refuses it when the cluster is no longer as the plan saw it. Cancellation: what has begun to change groups goes
//! on to its end when its request is dropped; the end of the process is as a crash.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use serde::{Deserialize, Serialize};

use super::access::Permitted;
use super::body::Sent;
use super::query::{self, Segments};
use super::{Api, Place, Refused, Registry, patiently};
use crate::error::{Error, Kind, Result as Outcome};
use crate::groups::asked::{Asked, Whence};
use crate::groups::making;
use crate::groups::perform::{CONNECTIONS, Performing, Report, connections};
use crate::groups::plan::Plan;
use crate::groups::selector::Selector;
use crate::groups::snapshot::{self, Snapshot, Snapshots, Summary};
use crate::kafka::Properties;
use crate::kafka::client::Client;

/// How long a cluster may take until it answers at all: whoever waits for the request waits for it too.
const OPEN_WITHIN: Duration = Duration::from_secs(10);

/// Which groups get which positions.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ask {
    backup: String,
    path: Option<String>,
    kafka: Option<BTreeMap<String, String>>,
    #[serde(default)]
    groups: Vec<String>,
    #[serde(default)]
    all_groups: bool,
    restore_id: Option<String>,
    positions: Option<String>,
    to: Option<String>,
    #[serde(default)]
    topics: Vec<String>,
    #[serde(default)]
    all_topics: bool,
    #[serde(default)]
    clamp: bool,
    #[serde(default)]
    create_group: bool,
    #[serde(default)]
    scan_headers: bool,
}

/// A plan that is to be performed.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Execute {
    backup: String,
    path: Option<String>,
    kafka: Option<BTreeMap<String, String>>,
    plan: Plan,
    #[serde(default)]
    description: Option<String>,
}

/// The way back to a snapshot.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Back {
    kafka: Option<BTreeMap<String, String>>,
    #[serde(default)]
    dry_run: bool,
}

/// Answers with what would become of groups.
pub(super) async fn plan(_: Permitted, State(api): State<Api>, Sent(ask): Sent<Ask>) -> Result<Json<Plan>, Refused> {
    let place = Place::of(&api.registry, &ask.backup, ask.path.as_deref(), ask.kafka.as_ref())?;
    let (properties, asked) = (place.properties()?, ask.asked(&place)?);
    let plan = api.apart(async move {
        let client = open(properties).await?;
        asked.plan(&client).await
    });
    Ok(Json(plan.await?))
}

/// Performs a plan.
pub(super) async fn execute(
    _: Permitted,
    State(api): State<Api>,
    Sent(sent): Sent<Execute>,
) -> Result<Response, Refused> {
    let place = Place::of(&api.registry, &sent.backup, sent.path.as_deref(), sent.kafka.as_ref())?;
    let (properties, snapshots) = (place.properties()?, place.snapshots()?);
    let description = sent.description.unwrap_or_else(|| format!("Before reset: {}", sent.plan.positions));
    let report = api.apart(async move {
        let client = open(properties).await?;
        making::still_holds(&client, &sent.plan).await?;
        perform(&client, &sent.plan, &snapshots, &description).await
    });
    Ok(performed(&report.await?))
}

/// Lists the newest snapshots of groups, the newest first.
pub(super) async fn snapshots(
    State(registry): State<Registry>,
    Segments(backup): Segments<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<Vec<Summary>>, Refused> {
    let limit = query::limit(query.as_deref().unwrap_or_default())?;
    let snapshots = Place::of(&registry, &backup, None, None)?.snapshots()?;
    let listed = patiently(snapshots.newest(limit)).await?;
    Ok(Json(listed.iter().map(Summary::of).collect()))
}

/// Shows all that a snapshot holds.
pub(super) async fn snapshot(
    State(registry): State<Registry>,
    Segments((backup, id)): Segments<(String, String)>,
) -> Result<Json<Snapshot>, Refused> {
    let snapshots = Place::of(&registry, &backup, None, None)?.snapshots()?;
    Ok(Json(patiently(async { snapshots.read(&id).await.map_err(refused) }).await?))
}

/// Brings groups back to what a snapshot says of them, or says what that would be.
pub(super) async fn roll_back(
    _: Permitted,
    State(api): State<Api>,
    Segments((backup, id)): Segments<(String, String)>,
    Sent(back): Sent<Back>,
) -> Result<Response, Refused> {
    let place = Place::of(&api.registry, &backup, None, back.kafka.as_ref())?;
    let (properties, snapshots) = (place.properties()?, place.snapshots()?);
    snapshot::id::check(&id).map_err(Refused::bad)?;
    let done = api.apart(async move {
        let wanted = snapshots.read(&id).await?;
        let client = open(properties).await?;
        let mut plan = snapshot::rollback(&client, &wanted).await?;
        wanted.leave_out_unkept(&mut plan);
        if back.dry_run {
            return Ok((plan, None));
        }
        let description = format!("Before rollback to {}", wanted.id);
        let report = perform(&client, &plan, &snapshots, &description).await?;
        Ok((plan, Some(report)))
    });
    Ok(match done.await? {
        (_, Some(report)) => performed(&report),
        (plan, None) => Json(plan).into_response(),
    })
}

/// Connects with a cluster. That it does not answer passes: whoever asks may ask again.
async fn open(properties: Properties) -> Outcome<Client> {
    Client::open(properties, OPEN_WITHIN).await.map_err(|error| match error.kind() {
        Kind::Failed => Error::new(Kind::Transient, error.to_string()),
        _ => error,
    })
}

/// Performs a plan as a whole, after what there is is kept. Who has looked at a plan wants that plan, and not a part of it.
async fn perform(client: &Client, plan: &Plan, snapshots: &Snapshots, description: &str) -> Outcome<Report> {
    let clients = connections(client, plan.groups.len());
    let performing = Performing {
        clients: &clients,
        snapshots: Some(snapshots),
        max_concurrent: CONNECTIONS,
        all_or_nothing: true,
        wait_until_empty: None,
        progress: &(),
    };
    performing.perform(plan, description).await
}

/// Answers with what came of a plan: what is not all as it is to be is no success.
fn performed(report: &Report) -> Response {
    #[derive(Serialize)]
    struct Body<'a> {
        error_code: u16,
        message: String,
        report: &'a Report,
    }
    match report.verdict() {
        Ok(()) => Json(report).into_response(),
        Err(error) => {
            let status = StatusCode::CONFLICT;
            (status, Json(Body { error_code: status.as_u16(), message: error.to_string(), report })).into_response()
        }
    }
}

/// Refuses with what went wrong on a cluster, or with what is kept for it.
pub(super) fn refused(error: Error) -> Refused {
    let status = match error.kind() {
        Kind::Usage => StatusCode::BAD_REQUEST,
        Kind::NoBackup => StatusCode::NOT_FOUND,
        Kind::Failed | Kind::Partial | Kind::Fenced => StatusCode::CONFLICT,
        Kind::Damaged | Kind::Newer | Kind::Hole => return Refused::damaged(&error),
        Kind::Transient | Kind::Interrupted => StatusCode::SERVICE_UNAVAILABLE,
    };
    Refused::new(status, in_words_of_api(&error.to_string()))
}

/// What the command line calls what a request has fields for: hints are the same for both.
const WORDS: [(&str, &str); 13] = [
    ("--to-earliest, --to-latest, …", "\"to\""),
    ("--create-group", "\"create_group\": true"),
    ("--clamp", "\"clamp\": true"),
    ("--all-groups", "\"all_groups\": true"),
    ("--all-topics", "\"all_topics\": true"),
    ("--groups", "\"groups\""),
    ("--group", "\"groups\""),
    ("--topic", "\"topics\""),
    ("--restore-id", "\"restore_id\""),
    ("--positions", "\"positions\""),
    ("--scan-headers", "\"scan_headers\": true"),
    ("--backup-id", "\"backup\""),
    ("--path", "\"path\""),
];

/// Names fields of a request where a message names flags. What is to be typed at another tool stays as it is.
fn in_words_of_api(message: &str) -> String {
    if message.contains("kafka-") {
        return message.to_owned();
    }
    let words = |message: String, (flag, field): &(&str, &str)| replace_whole(&message, flag, field);
    WORDS.iter().fold(message.to_owned(), words)
}

/// Replaces a flag where no longer one begins with it.
fn replace_whole(text: &str, flag: &str, field: &str) -> String {
    let mut parts = text.split(flag);
    let mut replaced = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let is_longer = part.starts_with(|c: char| c == '-' || c.is_ascii_alphanumeric());
        replaced += if is_longer { flag } else { field };
        replaced += part;
    }
    replaced
}

impl Ask {
    /// Returns what is asked for, if it goes together.
    fn asked(self, place: &Place) -> Result<Asked, Refused> {
        if self.groups.is_empty() && !self.all_groups {
            return Err(Refused::bad("no group is named: groups has their names, or all_groups is true"));
        }
        if self.all_groups && !self.groups.is_empty() {
            return Err(Refused::bad("groups names some, and all_groups is true: leave one out"));
        }
        let asked = Asked {
            path: Some(place.path.clone()),
            backup_id: Some(place.backup_id.clone()),
            state: None,
            groups: self.groups,
            all_groups: self.all_groups,
            restore_id: self.restore_id,
            positions: self.positions.map(|text| text.parse::<Whence>()).transpose()?,
            source: None,
            selector: self.to.as_deref().map(selector).transpose()?,
            topic: self.topics,
            all_topics: self.all_topics,
            clamp: self.clamp,
            create_group: self.create_group,
            scan_headers: self.scan_headers,
        };
        asked.check()?;
        Ok(asked)
    }
}

/// Reads where groups are to go: `earliest`, `latest`, `current`, `datetime:…`, `duration:…`, `offset:…`, `shift:…`.
fn selector(text: &str) -> Result<Selector, Refused> {
    let wrong = || {
        Refused::bad(format!(
            "`{}` says not where to: earliest, latest, current, datetime:<time>, duration:<PnDTnHnMnS>, offset:<n> or shift:<n>",
            text.escape_debug()
        ))
    };
    let count = |text: &str| text.parse::<i64>().map_err(|_| wrong());
    Ok(match text.split_once(':').unwrap_or((text, "")) {
        ("earliest", "") => Selector::Earliest,
        ("latest", "") => Selector::Latest,
        ("current", "") => Selector::Current,
        ("datetime", time) => Selector::datetime(time)?,
        ("duration", duration) => Selector::duration(duration)?,
        ("offset", offset) => Selector::Offset(count(offset)?),
        ("shift", by) => Selector::Shift(count(by)?),
        _ => return Err(wrong()),
    })
}

impl Place {
    /// Returns how its cluster is reached.
    pub(super) fn properties(&self) -> Result<Properties, Refused> {
        Ok(Properties::new(self.kafka.clone())?)
    }

    fn snapshots(&self) -> Result<Snapshots, Refused> {
        Ok(Snapshots::open(&self.path, Some(&self.backup_id))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_groups_are_to_go_is_read_as_kafkas_tool_has_it() {
        for (text, wanted) in [
            ("earliest", Selector::Earliest),
            ("latest", Selector::Latest),
            ("current", Selector::Current),
            ("offset:7", Selector::Offset(7)),
            ("shift:-7", Selector::Shift(-7)),
        ] {
            assert_eq!(selector(text).expect(text), wanted);
        }
        assert!(matches!(selector("datetime:2026-11-22T10:00:00.000Z"), Ok(Selector::Datetime(_))));
        assert!(matches!(selector("duration:PT1H"), Ok(Selector::Duration(3_600_000))));
        for wrong in ["", "first", "earliest:1", "offset:", "offset:x", "shift:1.5", "datetime:now", "file:/etc/passwd"]
        {
            assert_eq!(selector(wrong).expect_err(wrong).status(), 400, "{wrong}");
        }
    }

    #[tokio::test]
    async fn a_cluster_that_does_not_answer_may_be_asked_again() {
        let properties = [("bootstrap.servers".to_owned(), "127.0.0.1:1".to_owned())];
        let error = open(Properties::new(properties.into()).expect("right")).await.expect_err("nobody is there");
        let answer = refused(error).into_response();
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(answer.headers().contains_key("retry-after"));
    }

    #[test]
    fn hints_name_fields_of_the_request() {
        for (line, said) in [
            ("to make it, add --create-group", "to make it, add \"create_group\": true"),
            ("add --topic, or --all-topics", "add \"topics\", or \"all_topics\": true"),
            ("add --topics-exclude, --to-earliest, --to-latest, …", "add --topics-exclude, \"to\""),
            ("kafka-consumer-groups --group g", "kafka-consumer-groups --group g"),
        ] {
            assert_eq!(in_words_of_api(line), said);
        }
    }

    #[test]
    fn what_went_wrong_says_whose_it_is_to_change() {
        for (kind, status) in [
            (Kind::Usage, 400),
            (Kind::NoBackup, 404),
            (Kind::Failed, 409),
            (Kind::Fenced, 409),
            (Kind::Damaged, 503),
            (Kind::Transient, 503),
        ] {
            assert_eq!(refused(Error::new(kind, "so it is")).status(), status, "{kind:?}");
        }
    }
}
