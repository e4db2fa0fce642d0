//! The HTTP interface: [`router`]. Each handler carries its description for [`crate::openapi`].

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{MethodRouter, delete, get, post};
use axum::{Extension, Json, Router};
use gen_registry_console::Console;
use serde::Serialize;
use utoipa::{IntoParams, ToSchema};

use crate::body::{Call, NewRules};
use crate::complaint::Record;
use crate::denylist::Decision;
use crate::openapi::{self, BadBody, BadPath, BadQuery, Failed, Missing, ShuttingDown};
use crate::phone_number::{Caller, PhoneNumber};
use crate::problem::Problem;
use crate::request::{MAX_BODY, Object, Parameters, Segments, parse};
use crate::rule::{Edit, Rule};
use crate::service::{Counters, Kind, Listed, Service, Stopped, WorkerName};
use crate::telemetry::Telemetry;

/// The timeout of a request, including its body. The workers have half of it.
const TIMEOUT: Duration = Duration::from_secs(10);
const LARGEST_PAGE: usize = 1_000;
const DEFAULT_PAGE: usize = 100;
const CONSOLE: &str = "/console";
/// Exists only with `--drills`.
const CRASH: &str = "/v1/workers/{number}/crash";

/// Every path and its methods.
pub(crate) fn routes() -> Vec<(&'static str, MethodRouter<Service>)> {
    vec![
        ("/v1/calls", post(decide)),
        ("/v1/denylists", get(denylists)),
        ("/v1/denylists/{number}", get(rules).put(replace_rules).delete(clear_rules)),
        ("/v1/denylists/{number}/rules/{rule}", get(rule).put(add_rule).delete(remove_rule)),
        ("/v1/reputations/{number}", get(reputation)),
        ("/v1/workers", get(workers)),
        ("/v1/workers/{number}", delete(stop_workers)),
        (CRASH, post(crash)),
        ("/metrics", get(metrics)),
        ("/healthz", get(health)),
        ("/readyz", get(ready)),
        ("/openapi.json", get(description)),
    ]
}

/// The service over HTTP, with the console beside it. Every path without a route returns a problem.
pub(crate) fn router(service: Service, telemetry: Telemetry, has_drills: bool, console: &Console) -> Router {
    let served = routes().into_iter().filter(|(path, _)| has_drills || *path != CRASH);
    served
        .fold(Router::new(), |router, (path, methods)| router.route(path, methods))
        .fallback(elsewhere)
        .method_not_allowed_fallback(|method: Method| async move {
            let detail = format!("this path does not support {method}; the header Allow has what it supports");
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail)
        })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(Extension(telemetry))
        .layer(from_fn(observe))
        .with_state(service)
        // Outside the layers: an open page is no request of a client that has a time limit and is measured.
        .nest_service(CONSOLE, console.router())
}

/// Sends a browser that asks for the root to the console. There is nothing else at paths without a route.
async fn elsewhere(method: Method, uri: Uri, headers: HeaderMap) -> Response {
    let accepts = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    if method == Method::GET && uri.path() == "/" && accepts.contains("text/html") {
        return Redirect::temporary(CONSOLE).into_response();
    }
    Problem::new(StatusCode::NOT_FOUND, "there is nothing at this path").into_response()
}

/// Limits and measures the time of a request.
async fn observe(request: Request, next: Next) -> Response {
    let started = Instant::now();
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    // The workers reply sooner, or fail. Only the body can take this long.
    let late = |_| Problem::new(StatusCode::REQUEST_TIMEOUT, "the request did not arrive in time").into_response();
    let response = tokio::time::timeout(TIMEOUT, next.run(request)).await.unwrap_or_else(late);
    let route = route.as_ref().map_or("other", MatchedPath::as_str);
    Telemetry::served(&method, route, response.status(), started.elapsed());
    response
}

/// A decision on a call.
#[derive(Debug, Serialize, ToSchema)]
struct Decided {
    from: Caller,
    to: PhoneNumber,
    #[serde(flatten)]
    decision: Decision,
}

/// Decides whether a caller may ring a phone
#[utoipa::path(post, path = "/v1/calls", tag = "calls", request_body = Call,
    responses((status = 200, description = "The decision.", body = Decided), BadBody, Failed))]
async fn decide(State(service): State<Service>, body: Object) -> Result<Json<Decided>, Problem> {
    let Call { from, to } = body.try_into()?;
    let decision = service.decide(to, from).await?;
    Telemetry::decided(decision);
    Ok(Json(Decided { from, to, decision }))
}

/// A part of a long list.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
struct PageQuery {
    /// How many items a page has.
    #[param(minimum = 1, maximum = 1000, default = 100, required = false)]
    limit: usize,
    /// Where the previous page ended. The `next` of a page has it.
    #[param(min_length = 1)]
    after: Option<String>,
}

impl TryFrom<Parameters> for PageQuery {
    type Error = Problem;

    fn try_from(parameters: Parameters) -> Result<Self, Problem> {
        let [limit, after] = parameters.named(["limit", "after"])?;
        let limit = match limit.map(|limit| limit.parse::<usize>()) {
            None => DEFAULT_PAGE,
            Some(Ok(limit @ 1..=LARGEST_PAGE)) => limit,
            Some(Ok(_)) => return Err(Problem::unprocessable(format!("`limit` is from 1 to {LARGEST_PAGE}"))),
            Some(Err(_)) => return Err(Problem::bad_request(format!("`limit` is a number from 1 to {LARGEST_PAGE}"))),
        };
        Ok(Self { limit, after })
    }
}

fn bad_after() -> Problem {
    Problem::unprocessable("`after` must be that of the `next` of a page")
}

fn digits(text: &str) -> Result<PhoneNumber, Problem> {
    // A plus sign in a query is a space.
    let digits = text.trim_start_matches(['+', ' ']).parse().map_err(|_| bad_after())?;
    PhoneNumber::from_digits(digits).ok_or_else(bad_after)
}

/// A page of the phones that have rules, in the order of their numbers.
#[derive(Debug, Serialize, ToSchema)]
struct Denylists {
    denylists: Vec<PhoneNumber>,
    /// The path of the next page, if this one is full.
    next: Option<String>,
}

/// Lists the phones that have rules
///
/// A page costs one look-up on disk for each of its phones, and starts no worker.
#[utoipa::path(get, path = "/v1/denylists", tag = "denylists", params(PageQuery),
    responses((status = 200, description = "A page.", body = Denylists), BadQuery, Failed))]
async fn denylists(State(service): State<Service>, query: Parameters) -> Result<Json<Denylists>, Problem> {
    let PageQuery { limit, after } = query.try_into()?;
    let after = after.as_deref().map(digits).transpose()?;
    let denylists = service.phones(after, limit).await?;
    let last = denylists.last().filter(|_| denylists.len() == limit);
    let next = last.map(|last| format!("/v1/denylists?limit={limit}&after={}", last.digits()));
    Ok(Json(Denylists { denylists, next }))
}

/// The rules of a phone.
#[derive(Debug, Serialize, ToSchema)]
struct Rules {
    number: PhoneNumber,
    rules: Vec<Rule>,
}

/// Returns the rules of a phone
///
/// A phone has none until some are added.
#[utoipa::path(get, path = "/v1/denylists/{number}", tag = "denylists", params(openapi::Number),
    responses((status = 200, description = "The rules.", body = Rules), BadPath, Failed))]
async fn rules(State(service): State<Service>, Segments(number): Segments<String>) -> Result<Json<Rules>, Problem> {
    let number = parse("number", &number)?;
    Ok(Json(Rules { number, rules: service.rules(number).await? }))
}

/// Replaces the rules of a phone
#[utoipa::path(put, path = "/v1/denylists/{number}", tag = "denylists", params(openapi::Number),
    request_body = NewRules,
    responses((status = 200, description = "The rules after the change.", body = Rules), BadPath, BadBody, Failed))]
async fn replace_rules(
    State(service): State<Service>,
    Segments(number): Segments<String>,
    body: Object,
) -> Result<Json<Rules>, Problem> {
    let number = parse("number", &number)?;
    let NewRules { rules } = body.try_into()?;
    let edited = service.edit(number, Edit::Replace(rules)).await?;
    Ok(Json(Rules { number, rules: edited.rules }))
}

/// Removes the rules of a phone
#[utoipa::path(delete, path = "/v1/denylists/{number}", tag = "denylists", params(openapi::Number),
    responses((status = 204, description = "The phone has no rules."), BadPath, Failed))]
async fn clear_rules(
    State(service): State<Service>,
    Segments(number): Segments<String>,
) -> Result<StatusCode, Problem> {
    service.edit(parse("number", &number)?, Edit::Replace(BTreeSet::new())).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A rule of a phone.
#[derive(Debug, Serialize, ToSchema)]
struct OneRule {
    number: PhoneNumber,
    rule: Rule,
}

type NumberAndRule = Segments<(String, String)>;

fn number_and_rule(Segments((number, rule)): NumberAndRule) -> Result<(PhoneNumber, Rule), Problem> {
    Ok((parse("number", &number)?, parse("rule", &rule)?))
}

fn no_such_rule() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "this phone has no such rule")
}

/// Returns a rule of a phone
#[utoipa::path(get, path = "/v1/denylists/{number}/rules/{rule}", tag = "denylists", params(openapi::NumberAndRule),
    responses((status = 200, description = "The phone has the rule.", body = OneRule), BadPath, Missing, Failed))]
async fn rule(State(service): State<Service>, path: NumberAndRule) -> Result<Json<OneRule>, Problem> {
    let (number, rule) = number_and_rule(path)?;
    let has_it = service.rules(number).await?.contains(&rule);
    if has_it { Ok(Json(OneRule { number, rule })) } else { Err(no_such_rule()) }
}

/// Adds a rule to a phone
#[utoipa::path(put, path = "/v1/denylists/{number}/rules/{rule}", tag = "denylists", params(openapi::NumberAndRule),
    responses(
        (status = 200, description = "The phone had the rule.", body = OneRule),
        (status = 201, description = "The rule is new.", body = OneRule),
        BadPath, Failed))]
async fn add_rule(State(service): State<Service>, path: NumberAndRule) -> Result<(StatusCode, Json<OneRule>), Problem> {
    let (number, rule) = number_and_rule(path)?;
    let edited = service.edit(number, Edit::Add(rule)).await?;
    let status = if edited.is_change { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(OneRule { number, rule })))
}

/// Removes a rule of a phone
#[utoipa::path(delete, path = "/v1/denylists/{number}/rules/{rule}", tag = "denylists",
    params(openapi::NumberAndRule),
    responses((status = 204, description = "The rule is removed."), BadPath, Missing, Failed))]
async fn remove_rule(State(service): State<Service>, path: NumberAndRule) -> Result<StatusCode, Problem> {
    let (number, rule) = number_and_rule(path)?;
    let edited = service.edit(number, Edit::Remove(rule)).await?;
    if edited.is_change { Ok(StatusCode::NO_CONTENT) } else { Err(no_such_rule()) }
}

/// What is known about a caller.
#[derive(Debug, Serialize, ToSchema)]
struct ReputationOf {
    number: PhoneNumber,
    #[serde(flatten)]
    record: Record,
}

/// Returns the complaints about a caller
#[utoipa::path(get, path = "/v1/reputations/{number}", tag = "reputations", params(openapi::Number),
    responses((status = 200, description = "The complaints.", body = ReputationOf), BadPath, Failed))]
async fn reputation(
    State(service): State<Service>,
    Segments(number): Segments<String>,
) -> Result<Json<ReputationOf>, Problem> {
    let number = parse("number", &number)?;
    Ok(Json(ReputationOf { number, record: service.record(number).await? }))
}

/// A page of the workers, in the order of their registries and numbers.
#[derive(Debug, Serialize, ToSchema)]
struct Page {
    /// How many workers of phones run, on all pages.
    denylists: usize,
    /// How many workers of callers run, on all pages.
    reputations: usize,
    registries: Registries,
    /// How many crashes were requested.
    drills: u64,
    #[schema(value_type = Vec<Listed>)]
    workers: BTreeSet<Listed>,
    /// The path of the next page, if this one is full.
    next: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
struct Registries {
    denylist: Counters,
    reputation: Counters,
}

fn worker_name(text: &str) -> Result<WorkerName, Problem> {
    let (registry, number) = text.split_once(':').ok_or_else(bad_after)?;
    let registry = match registry {
        "denylist" => Kind::Denylist,
        "reputation" => Kind::Reputation,
        _ => return Err(bad_after()),
    };
    Ok(WorkerName { registry, number: digits(number)? })
}

/// Lists the running workers
///
/// Also counts them by state, and what happened since the start of the service.
#[utoipa::path(get, path = "/v1/workers", tag = "operation", params(PageQuery),
    responses((status = 200, description = "A page.", body = Page), BadQuery))]
async fn workers(State(service): State<Service>, query: Parameters) -> Result<Json<Page>, Problem> {
    let PageQuery { limit, after } = query.try_into()?;
    let after = after.as_deref().map(worker_name).transpose()?;
    let (denylists, reputations) = service.counts();
    let workers = service.workers(after, limit);
    let next = workers.last().filter(|_| workers.len() == limit).map(|last| {
        let registry = match last.name.registry {
            Kind::Denylist => "denylist",
            Kind::Reputation => "reputation",
        };
        format!("/v1/workers?limit={limit}&after={registry}:{}", last.name.number.digits())
    });
    let (denylist, reputation) = service.counters();
    let registries = Registries { denylist, reputation };
    Ok(Json(Page { denylists, reputations, registries, drills: service.drills(), workers, next }))
}

/// The stopped workers of a number: one or two.
#[derive(Debug, Serialize, ToSchema)]
struct StoppedWorkers {
    stopped: Vec<Stopped>,
}

/// Stops the workers of a number and waits until they have exited
///
/// The rules and the complaints stay on disk, and the next request starts a worker again.
#[utoipa::path(delete, path = "/v1/workers/{number}", tag = "operation", params(openapi::Number),
    responses((status = 200, description = "The stopped workers.", body = StoppedWorkers), BadPath, Missing,
        ShuttingDown))]
async fn stop_workers(
    State(service): State<Service>,
    Segments(number): Segments<String>,
) -> Result<Json<StoppedWorkers>, Problem> {
    let stopped = service.stop(parse("number", &number)?).await?;
    if stopped.is_empty() {
        return Err(Problem::new(StatusCode::NOT_FOUND, "no worker of this number is running"));
    }
    Ok(Json(StoppedWorkers { stopped }))
}

/// Makes the worker of a phone panic, to test alerts and dashboards
///
/// Exists only if the service runs with `--drills`.
#[utoipa::path(post, path = "/v1/workers/{number}/crash", tag = "operation", params(openapi::Number),
    responses((status = 202, description = "The worker will panic."), BadPath, Missing, Failed))]
async fn crash(State(service): State<Service>, Segments(number): Segments<String>) -> Result<StatusCode, Problem> {
    service.crash(parse("number", &number)?).await?;
    Ok(StatusCode::ACCEPTED)
}

/// Returns the metrics of the service and of its registries for Prometheus
#[utoipa::path(get, path = "/metrics", tag = "operation",
    responses((status = 200, description = "Prometheus text.", body = String, content_type = "text/plain")))]
async fn metrics(State(service): State<Service>, Extension(telemetry): Extension<Telemetry>) -> impl IntoResponse {
    let (denylists, reputations) = service.counts();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], telemetry.render(denylists, reputations))
}

/// Responds while the process runs
#[utoipa::path(get, path = "/healthz", tag = "operation",
    responses((status = 200, description = "The process runs.", body = String, content_type = "text/plain")))]
async fn health() -> &'static str {
    "ok\n"
}

/// Whether to send requests here
#[utoipa::path(get, path = "/readyz", tag = "operation",
    responses((status = 200, description = "Yes.", body = String, content_type = "text/plain"), ShuttingDown))]
async fn ready(State(service): State<Service>) -> Result<&'static str, Problem> {
    if service.is_draining() {
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the service is shutting down"));
    }
    Ok("ready\n")
}

/// Returns this description
#[utoipa::path(get, path = "/openapi.json", tag = "operation",
    responses((status = 200, description = "An OpenAPI 3.1 document.", body = serde_json::Value)))]
async fn description() -> Json<&'static utoipa::openapi::OpenApi> {
    Json(openapi::document())
}

/// The descriptions of all handlers.
#[derive(utoipa::OpenApi)]
#[openapi(paths(
    decide,
    denylists,
    rules,
    replace_rules,
    clear_rules,
    rule,
    add_rule,
    remove_rule,
    reputation,
    workers,
    stop_workers,
    crash,
    metrics,
    health,
    ready,
    description
))]
pub(crate) struct Handlers;
