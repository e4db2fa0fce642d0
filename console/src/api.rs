#![doc = include_str!("API.md")]

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, FromRequestParts, OriginalUri, Path, Request, State as Shared};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use axum::{Json, Router};
use futures_util::Stream;
use gen_registry::inspect::{ActError, Action, Inspect, Query, WorkerRef};

use crate::failure::Failure;
use crate::history::SECONDS;
use crate::parameters::Parameters;
use crate::state::{MOST_STREAMS, State};
use crate::stream::{Focus, follow};
use crate::{assets, convert, guard, json, workers};

const MOST_EVENTS: usize = 1_000;
const LARGEST_BODY: usize = 16 * 1_024;
/// How long an action may keep its request.
const ACTING: Duration = Duration::from_secs(10);
/// Registries below registries that the tree follows.
const DEEPEST: usize = 16;

type Answer<T> = Result<Json<T>, Failure>;

pub(crate) fn router(state: Arc<State>) -> Router {
    let api = Router::new()
        .route("/registries", get(registries))
        .route("/registries/{id}", get(registry))
        .route("/registries/{id}/workers", get(list))
        .route("/registries/{id}/worker", get(worker))
        .route("/registries/{id}/actions", post(action))
        .route("/events", get(events))
        .route("/tree", get(tree))
        .route("/cluster", get(cluster))
        .route("/stream", get(stream))
        // A route and no fallback: the fallback of a router that is nested is outside of its layers.
        .route(
            "/{*rest}",
            any(async || Failure::new(StatusCode::NOT_FOUND, "no_route", "there is nothing at this address")),
        )
        .method_not_allowed_fallback(async || {
            Failure::new(StatusCode::METHOD_NOT_ALLOWED, "no_method", "this address does not support the method")
        })
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .layer(from_fn(guard::own_site));
    Router::new()
        .route("/", get(assets::page))
        .route("/console.css", get(assets::style))
        .route("/console.js", get(assets::script))
        .nest("/api", api)
        .layer(from_fn_with_state(Arc::clone(&state), sampling))
        .layer(from_fn(guard::harden))
        .with_state(state)
}

/// A router that was made without a runtime samples from its first request on.
async fn sampling(Shared(state): Shared<Arc<State>>, request: Request, next: Next) -> Response {
    state.start_sampling();
    next.run(request).await
}

fn points(parameters: &mut Parameters) -> Result<Option<usize>, Failure> {
    parameters.number("points", 1..=SECONDS)
}

async fn registries(Shared(state): Shared<Arc<State>>, mut parameters: Parameters) -> Answer<json::Overview> {
    let points = points(&mut parameters)?;
    parameters.end()?;
    let mut overview = state.overview().overview.clone();
    if let Some(points) = points {
        for registry in &mut overview.registries {
            registry.history = state.history(registry.id, points);
        }
    }
    Ok(Json(overview))
}

fn number(id: &str) -> Result<u64, Failure> {
    id.parse().map_err(|_| Failure::bad_parameter("the id of a registry is a number"))
}

/// The id of a registry in an address, where a client may have written anything.
struct RegistryId(u64);

impl<S: Send + Sync> FromRequestParts<S> for RegistryId {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        // An error: it is no text.
        let id = Path::<String>::from_request_parts(parts, state).await.map(|Path(id)| id).unwrap_or_default();
        number(&id).map(Self)
    }
}

/// The registry of an address.
fn find(state: &State, id: u64) -> Result<Arc<dyn Inspect>, Failure> {
    state.inspector.registry(id).ok_or_else(Failure::no_registry)
}

async fn registry(
    Shared(state): Shared<Arc<State>>,
    RegistryId(id): RegistryId,
    mut parameters: Parameters,
) -> Answer<json::Registry> {
    let points = points(&mut parameters)?;
    parameters.end()?;
    let found = find(&state, id)?;
    let mut registry = convert::registry(found.as_ref());
    let sampled = state.overview();
    let sample = sampled.overview.registries.iter().find(|sample| sample.id == registry.id);
    registry.rates = sample.map(|sample| sample.rates).unwrap_or_default();
    registry.options = convert::options(found.as_ref());
    registry.history = points.and_then(|points| state.history(registry.id, points));
    Ok(Json(registry))
}

async fn list(
    Shared(state): Shared<Arc<State>>,
    RegistryId(id): RegistryId,
    mut parameters: Parameters,
) -> Answer<json::Page> {
    let query = workers::query(&mut parameters)?;
    parameters.end()?;
    let registry = find(&state, id)?;
    Ok(Json(workers::page(&state, registry, query).await?))
}

/// The reference of a worker, where there is one.
fn reference(text: Option<String>) -> Result<Option<WorkerRef>, Failure> {
    let parsed = text.map(|text| text.parse()).transpose();
    parsed.map_err(|error| Failure::bad_parameter(format!("ref is {error}")))
}

async fn worker(
    Shared(state): Shared<Arc<State>>,
    RegistryId(id): RegistryId,
    mut parameters: Parameters,
) -> Answer<json::Worker> {
    let reference = reference(parameters.text("ref"))?;
    let key = parameters.text("key");
    parameters.end()?;
    if reference.is_none() && key.is_none() {
        return Err(Failure::bad_parameter("either ref or key is needed"));
    }
    let registry = find(&state, id)?;
    let found = workers::find(&state, &registry, reference, key).await?.ok_or_else(Failure::no_worker)?;
    Ok(Json(workers::detail(&state, registry.id(), &found)))
}

async fn events(Shared(state): Shared<Arc<State>>, mut parameters: Parameters) -> Answer<json::Feed> {
    let after = parameters.number("after", 0..=u64::MAX)?.unwrap_or_default();
    let limit = parameters.number("limit", 1..=MOST_EVENTS)?.unwrap_or(MOST_EVENTS);
    parameters.end()?;
    Ok(Json(state.events(after, limit)))
}

async fn tree(Shared(state): Shared<Arc<State>>, parameters: Parameters) -> Answer<json::Tree> {
    parameters.end()?;
    let sampled = state.overview();
    let registries = &sampled.overview.registries;
    let mut owned: HashMap<Option<u64>, Vec<&json::Registry>> = HashMap::new();
    for registry in registries {
        // A registry whose owner is not listed is a root: it would otherwise be nowhere.
        let parent = registry.parent.as_ref().map(|parent| parent.registry);
        let parent = parent.filter(|parent| registries.iter().any(|listed| listed.id == *parent));
        owned.entry(parent).or_default().push(registry);
    }
    let roots = owned.get(&None).into_iter().flatten().map(|root| node(root, &owned, DEEPEST)).collect();
    Ok(Json(json::Tree { roots }))
}

/// A registry with what its workers own.
fn node(registry: &json::Registry, owned: &HashMap<Option<u64>, Vec<&json::Registry>>, depth: usize) -> json::Node {
    let mut owners: Vec<json::Owner> = Vec::new();
    for child in owned.get(&Some(registry.id)).into_iter().flatten().filter(|_| depth > 0) {
        let Some(parent) = &child.parent else { continue };
        let below = node(child, owned, depth - 1);
        if let Some(owner) = owners.iter_mut().find(|owner| owner.worker == parent.worker) {
            owner.registries.push(below);
        } else {
            let key = parent.key.clone().unwrap_or_default();
            owners.push(json::Owner { worker: parent.worker.clone(), key, registries: vec![below] });
        }
    }
    json::Node { registry: registry.id, name: registry.name.clone(), workers: registry.workers.total(), owners }
}

async fn cluster(Shared(state): Shared<Arc<State>>, parameters: Parameters) -> Answer<json::Cluster> {
    parameters.end()?;
    let cluster = state.cluster().ok_or_else(|| {
        Failure::new(StatusCode::NOT_FOUND, "no_cluster", "the program shows no cluster; see `Console::cluster`")
    })?;
    Ok(Json(cluster.view()))
}

async fn stream(
    Shared(state): Shared<Arc<State>>,
    mut parameters: Parameters,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Failure> {
    let after = parameters.number("after", 0..=u64::MAX)?.unwrap_or_default();
    let registry =
        parameters.text("registry").map(|id| find(&state, number(&id)?)).transpose()?.map(|found| found.id());
    let worker = reference(parameters.text("ref"))?;
    let query: Query = workers::query(&mut parameters)?;
    parameters.end()?;
    let focus = match (registry, worker) {
        (None, None) => Focus::Nothing,
        (Some(registry), None) => Focus::List { registry, query },
        (Some(registry), Some(worker)) => Focus::Worker { registry, worker },
        (None, Some(_)) => return Err(Failure::bad_parameter("ref needs a registry")),
    };
    let permit = Arc::clone(&state.streams).try_acquire_owned();
    let permit = permit.map_err(|_| Failure::busy(format!("{MOST_STREAMS} pages are open; close one of them")))?;
    Ok(Sse::new(follow(state, focus, after, permit)).keep_alive(KeepAlive::new().interval(Duration::from_secs(15))))
}

async fn action(
    Shared(state): Shared<Arc<State>>,
    OriginalUri(uri): OriginalUri,
    RegistryId(id): RegistryId,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Failure> {
    // First: another site does not even learn which registries there are. (rule 9)
    guard::check_action(&headers, &uri)?;
    let body = body.map_err(|error| match error.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            Failure::new(error.status(), "too_large", format!("a body has at most {LARGEST_BODY} bytes"))
        }
        status => Failure::new(status, "bad_parameter", format!("the body cannot be read: {error}")),
    })?;
    let action: json::Action = serde_json::from_slice(&body)
        .map_err(|error| Failure::bad_parameter(format!("the body is no action: {error}")))?;
    let what: Action = action.action.parse().map_err(|error| Failure::bad_parameter(format!("{error}")))?;
    let worker: WorkerRef =
        action.worker.parse().map_err(|error| Failure::bad_parameter(format!("worker is {error}")))?;
    let registry = find(&state, id)?;
    let acting = registry.act(&worker, what);
    match tokio::time::timeout(ACTING, acting).await {
        Ok(Ok(reason)) => {
            Ok(Json(json::Acted { outcome: format!("its run has ended: {}", convert::text_of(&reason)) })
                .into_response())
        }
        Ok(Err(error)) => Err(refusal(error)),
        // The action has begun, and has its effect without this request.
        Err(_) => {
            let outcome = "it has begun, and the worker has not ended yet".to_owned();
            Ok((StatusCode::ACCEPTED, Json(json::Acted { outcome })).into_response())
        }
    }
}

fn refusal(error: ActError) -> Failure {
    let (status, code) = match error {
        ActError::NotAllowed => (StatusCode::FORBIDDEN, "not_allowed"),
        ActError::NotFound => (StatusCode::NOT_FOUND, "no_worker"),
        ActError::NoRestart => (StatusCode::CONFLICT, "no_restart"),
        ActError::WouldDeadlock => (StatusCode::CONFLICT, "would_deadlock"),
        _ => (StatusCode::CONFLICT, "stuck"),
    };
    Failure::new(status, code, error.to_string())
}
