//! What each path does. A node's calls block, so that they run on the runtime's blocking threads.

use super::{
    DiskName, EVENTS_MAX, ErrorBody, ErrorText, Host, NewVolume, NodeInfo, VolumeChange,
    WAIT_MS_MAX,
};
use crate::config::{check_iqn, check_name, check_nqn};
use crate::metrics;
use crate::plane::Node;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use dataplane::node::{Answer, Command, CommandError, Redirect};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// Largest request body in bytes.
const BODY_MAX: usize = 64 << 10;
/// How often waiting requests look for events.
const EVENT_POLL: Duration = Duration::from_millis(100);

#[derive(Clone)]
struct Context {
    node: Arc<dyn Node>,
    info: Arc<NodeInfo>,
}

/// Everything: for the Unix socket.
pub fn router(node: Arc<dyn Node>, info: NodeInfo) -> Router {
    let context = Context { node: Arc::clone(&node), info: Arc::new(info) };
    Router::new()
        .route("/v1/node", get(async |State(this): State<Context>| json(&*this.info)))
        .route("/v1/volumes", get(list_volumes).post(create_volume))
        .route("/v1/volumes/{name}", get(show_volume).patch(change_volume).delete(delete_volume))
        .route("/v1/hosts", get(list_hosts).post(allow_host).delete(deny_host))
        .route("/v1/disks", get(list_disks))
        .route("/v1/disks/online", post(online_disk))
        .route("/v1/disks/offline", post(offline_disk))
        .route("/v1/connections", get(list_connections))
        .route("/v1/iscsi/redirect", get(show_redirect).put(set_redirect).delete(remove_redirect))
        .route("/v1/counters", get(counters))
        .route("/v1/events", get(events))
        .with_state(context)
        .merge(metrics_router(node))
        .fallback(async || fail("not_found", "no such path".to_owned()))
        .layer(DefaultBodyLimit::max(BODY_MAX))
}

/// `/metrics` alone: for TCP.
pub fn metrics_router(node: Arc<dyn Node>) -> Router {
    let scrape = async |State(node): State<Arc<dyn Node>>| {
        let text = tokio::task::spawn_blocking(move || metrics::text(&node.counters())).await;
        match text {
            Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
            Err(_) => fail("unavailable", "the counters could not be read".to_owned()),
        }
    };
    Router::new().route("/metrics", get(scrape)).with_state(node)
}

async fn list_volumes(State(this): State<Context>) -> Response {
    this.answer(Command::ListVolumes).await
}

async fn create_volume(State(this): State<Context>, body: Bytes) -> Response {
    let new: NewVolume = match read(&body) {
        Ok(new) => new,
        Err(why) => return fail("invalid", why),
    };
    if let Err(why) = check_name(&new.name) {
        return fail("invalid", why);
    }
    if !matches!(new.block_size, 512 | 4096) {
        return fail("invalid", format!("a block size is 512 or 4096, not {}", new.block_size));
    }
    if new.size == 0 || !new.size.is_multiple_of(4096) {
        return fail(
            "invalid",
            "a volume's size is a multiple of 4096 bytes, and not 0".to_owned(),
        );
    }
    let command = Command::CreateVolume {
        name: new.name,
        size: new.size,
        block_size: new.block_size,
        uuid: new.uuid.unwrap_or_else(Uuid::new_v4),
        disk: new.disk,
    };
    this.created(command).await
}

async fn show_volume(State(this): State<Context>, Path(name): Path<String>) -> Response {
    this.answer(Command::ShowVolume { name }).await
}

async fn change_volume(
    State(this): State<Context>,
    Path(name): Path<String>,
    body: Bytes,
) -> Response {
    let change: VolumeChange = match read(&body) {
        Ok(change) => change,
        Err(why) => return fail("invalid", why),
    };
    let command = match (change.size, change.name, change.exports) {
        (Some(size), None, None) if size > 0 && size.is_multiple_of(4096) => {
            Command::ResizeVolume { name: name.clone(), size }
        }
        (Some(_), None, None) => {
            return fail("invalid", "a volume's size is a multiple of 4096 bytes".to_owned());
        }
        (None, None, Some(exports)) => Command::ExportVolume { name: name.clone(), exports },
        (None, Some(to), None) => match check_name(&to) {
            Ok(()) => Command::RenameVolume { name: name.clone(), to },
            Err(why) => return fail("invalid", why),
        },
        _ => {
            return fail(
                "invalid",
                "change the size, the name or the exports, one at a time".to_owned(),
            );
        }
    };
    let now = match &command {
        Command::RenameVolume { to, .. } => to.clone(),
        _ => name,
    };
    match this.call(command).await {
        Ok(Answer::Done) => this.answer(Command::ShowVolume { name: now }).await,
        other => respond(other, StatusCode::OK),
    }
}

async fn delete_volume(State(this): State<Context>, Path(name): Path<String>) -> Response {
    this.answer(Command::DeleteVolume { name }).await
}

async fn list_hosts(State(this): State<Context>) -> Response {
    this.answer(Command::ListHosts).await
}

async fn allow_host(State(this): State<Context>, body: Bytes) -> Response {
    let host: Host = match read(&body) {
        Ok(host) => host,
        Err(why) => return fail("invalid", why),
    };
    if host.nqn != "*"
        && check_iqn(&host.nqn).is_err()
        && let Err(why) = check_nqn(&host.nqn)
    {
        return fail("invalid", why);
    }
    let command = match host.chap {
        None => Command::AllowHost { nqn: host.nqn },
        Some(chap) => Command::AllowInitiator { name: host.nqn, chap },
    };
    this.created(command).await
}

async fn deny_host(State(this): State<Context>, Query(host): Query<NamedHost>) -> Response {
    this.answer(Command::DenyHost { nqn: host.nqn }).await
}

/// A host by its name.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NamedHost {
    nqn: String,
}

async fn list_disks(State(this): State<Context>) -> Response {
    this.answer(Command::ListDisks).await
}

async fn online_disk(State(this): State<Context>, body: Bytes) -> Response {
    match read::<DiskName>(&body) {
        Ok(DiskName { disk }) => this.answer(Command::OnlineDisk { disk }).await,
        Err(why) => fail("invalid", why),
    }
}

async fn offline_disk(State(this): State<Context>, body: Bytes) -> Response {
    match read::<DiskName>(&body) {
        Ok(DiskName { disk }) => this.answer(Command::OfflineDisk { disk }).await,
        Err(why) => fail("invalid", why),
    }
}

async fn list_connections(State(this): State<Context>) -> Response {
    this.answer(Command::ListConnections).await
}

async fn show_redirect(State(this): State<Context>) -> Response {
    this.answer(Command::ShowRedirect).await
}

async fn set_redirect(State(this): State<Context>, body: Bytes) -> Response {
    match read::<Redirect>(&body) {
        Ok(to) => this.answer(Command::RedirectInitiators { to: Some(to) }).await,
        Err(why) => fail("invalid", why),
    }
}

async fn remove_redirect(State(this): State<Context>) -> Response {
    this.answer(Command::RedirectInitiators { to: None }).await
}

async fn counters(State(this): State<Context>) -> Response {
    match tokio::task::spawn_blocking(move || this.node.counters()).await {
        Ok(snapshot) => json(&snapshot),
        Err(_) => fail("unavailable", "the counters could not be read".to_owned()),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EventQuery {
    #[serde(default)]
    since: u64,
    #[serde(default)]
    wait_ms: u64,
}

async fn events(State(this): State<Context>, Query(query): Query<EventQuery>) -> Response {
    let wait = Duration::from_millis(query.wait_ms.min(WAIT_MS_MAX));
    let deadline = tokio::time::Instant::now() + wait;
    loop {
        let mut events = this.node.events_since(query.since);
        if !events.is_empty() || tokio::time::Instant::now() >= deadline {
            events.truncate(EVENTS_MAX);
            return json(&events);
        }
        tokio::time::sleep(EVENT_POLL).await;
    }
}

impl Context {
    async fn call(&self, command: Command) -> Result<Answer, CommandError> {
        let node = Arc::clone(&self.node);
        let ended = tokio::task::spawn_blocking(move || node.call(command)).await;
        ended.unwrap_or_else(|_| Err(CommandError::Unavailable("the call was lost".to_owned())))
    }

    async fn answer(&self, command: Command) -> Response {
        respond(self.call(command).await, StatusCode::OK)
    }

    async fn created(&self, command: Command) -> Response {
        respond(self.call(command).await, StatusCode::CREATED)
    }
}

fn respond(result: Result<Answer, CommandError>, status: StatusCode) -> Response {
    let body = match &result {
        Ok(Answer::Done) => json(&serde_json::Map::new()),
        Ok(Answer::Volume(volume)) => json(volume),
        Ok(Answer::Volumes(volumes)) => json(volumes),
        Ok(Answer::Hosts(hosts)) => json(hosts),
        Ok(Answer::Disks(disks)) => json(disks),
        Ok(Answer::Connections(connections)) => json(connections),
        Ok(Answer::Redirect(redirect)) => json(redirect),
        Err(error) => {
            let kind = match error {
                CommandError::NotFound(_) => "not_found",
                CommandError::Exists(_) => "exists",
                CommandError::Invalid(_) => "invalid",
                CommandError::Disk(_) => "disk",
                CommandError::Unavailable(_) => "unavailable",
            };
            return fail(kind, error.to_string());
        }
    };
    (status, body).into_response()
}

fn json<T: Serialize + ?Sized>(value: &T) -> Response {
    axum::Json(value).into_response()
}

fn fail(kind: &str, message: String) -> Response {
    let status = match kind {
        "not_found" => StatusCode::NOT_FOUND,
        "exists" => StatusCode::CONFLICT,
        "invalid" => StatusCode::BAD_REQUEST,
        "disk" => StatusCode::INSUFFICIENT_STORAGE,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    let body = ErrorBody { error: ErrorText { kind: kind.to_owned(), message } };
    (status, axum::Json(body)).into_response()
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|error| format!("body: {error}"))
}
