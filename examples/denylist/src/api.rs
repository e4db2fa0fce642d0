//! The HTTP interface: [`router`].

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, MatchedPath, Path, Query, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};

use crate::complaint::Record;
use crate::denylist::Decision;
use crate::phone_number::{Caller, PhoneNumber};
use crate::problem::Problem;
use crate::rule::{Edit, Rule};
use crate::service::{Counters, Kind, Listed, Service, Stopped, WorkerName};
use crate::telemetry::Telemetry;

/// Large enough for a thousand rules.
const MAX_BODY: usize = 64 << 10;
/// The timeout of a request, including its body. The workers have half of it.
const TIMEOUT: Duration = Duration::from_secs(10);
const LARGEST_PAGE: usize = 1_000;

/// All routes. Every other path returns a problem.
pub(crate) fn router(service: Service, telemetry: Telemetry, has_drills: bool) -> Router {
    let metrics = move |State(service): State<Service>| async move {
        let (denylists, reputations) = service.counts();
        ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], telemetry.render(denylists, reputations))
    };
    let drills = Router::new().route("/v1/workers/{number}/crash", post(crash));
    Router::new()
        .merge(if has_drills { drills } else { Router::new() })
        .route("/v1/calls", post(decide))
        .route("/v1/denylists/{number}", get(rules).put(replace_rules).delete(clear_rules))
        .route("/v1/denylists/{number}/rules/{rule}", get(rule).put(add_rule).delete(remove_rule))
        .route("/v1/reputations/{number}", get(reputation))
        .route("/v1/workers", get(workers))
        .route("/v1/workers/{number}", delete(stop_workers))
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .fallback(|| async { Problem::new(StatusCode::NOT_FOUND, "there is nothing at this path") })
        .method_not_allowed_fallback(|| async {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this path does not know the method; see Allow")
        })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(from_fn(observe))
        .with_state(service)
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

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Call {
    #[serde(default)]
    from: Caller,
    to: PhoneNumber,
}

#[derive(Debug, Serialize)]
struct Decided {
    from: Caller,
    to: PhoneNumber,
    #[serde(flatten)]
    decision: Decision,
}

async fn decide(
    State(service): State<Service>,
    call: Result<Json<Call>, JsonRejection>,
) -> Result<Json<Decided>, Problem> {
    let Json(Call { from, to }) = call?;
    let decision = service.decide(to, from).await?;
    Telemetry::decided(decision);
    Ok(Json(Decided { from, to, decision }))
}

#[derive(Debug, Serialize)]
struct Rules {
    number: PhoneNumber,
    rules: Vec<Rule>,
}

/// A path with a number.
type NumberPath = Result<Path<String>, PathRejection>;
/// A path with a number and a rule.
type RulePath = Result<Path<(String, String)>, PathRejection>;

fn number(path: NumberPath) -> Result<PhoneNumber, Problem> {
    let Path(text) = path?;
    text.parse().map_err(Problem::unprocessable)
}

fn number_and_rule(path: RulePath) -> Result<(PhoneNumber, Rule), Problem> {
    let Path((number, rule)) = path?;
    Ok((number.parse().map_err(Problem::unprocessable)?, rule.parse().map_err(Problem::unprocessable)?))
}

async fn rules(State(service): State<Service>, path: NumberPath) -> Result<Json<Rules>, Problem> {
    let number = number(path)?;
    Ok(Json(Rules { number, rules: service.rules(number).await? }))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewRules {
    rules: BTreeSet<Rule>,
}

async fn replace_rules(
    State(service): State<Service>,
    path: NumberPath,
    body: Result<Json<NewRules>, JsonRejection>,
) -> Result<Json<Rules>, Problem> {
    let number = number(path)?;
    let Json(NewRules { rules }) = body?;
    let edited = service.edit(number, Edit::Replace(rules)).await?;
    Ok(Json(Rules { number, rules: edited.rules }))
}

async fn clear_rules(State(service): State<Service>, path: NumberPath) -> Result<StatusCode, Problem> {
    service.edit(number(path)?, Edit::Replace(BTreeSet::new())).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, Serialize)]
struct OneRule {
    number: PhoneNumber,
    rule: Rule,
}

fn no_such_rule() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "this phone has no such rule")
}

async fn rule(State(service): State<Service>, path: RulePath) -> Result<Json<OneRule>, Problem> {
    let (number, rule) = number_and_rule(path)?;
    let has_it = service.rules(number).await?.contains(&rule);
    if has_it { Ok(Json(OneRule { number, rule })) } else { Err(no_such_rule()) }
}

async fn add_rule(State(service): State<Service>, path: RulePath) -> Result<(StatusCode, Json<OneRule>), Problem> {
    let (number, rule) = number_and_rule(path)?;
    let edited = service.edit(number, Edit::Add(rule)).await?;
    let status = if edited.is_change { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(OneRule { number, rule })))
}

async fn remove_rule(State(service): State<Service>, path: RulePath) -> Result<StatusCode, Problem> {
    let (number, rule) = number_and_rule(path)?;
    let edited = service.edit(number, Edit::Remove(rule)).await?;
    if edited.is_change { Ok(StatusCode::NO_CONTENT) } else { Err(no_such_rule()) }
}

#[derive(Debug, Serialize)]
struct ReputationOf {
    number: PhoneNumber,
    #[serde(flatten)]
    record: Record,
}

async fn reputation(State(service): State<Service>, path: NumberPath) -> Result<Json<ReputationOf>, Problem> {
    let number = number(path)?;
    Ok(Json(ReputationOf { number, record: service.record(number).await? }))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PageQuery {
    #[serde(default = "PageQuery::default_limit")]
    limit: usize,
    /// The last worker of the previous page: `denylist:12025550123`.
    after: Option<String>,
}

impl PageQuery {
    fn default_limit() -> usize {
        100
    }

    fn after(&self) -> Result<Option<WorkerName>, Problem> {
        let bad = || Problem::unprocessable("`after` must be the `next` of the previous page");
        let Some(text) = &self.after else { return Ok(None) };
        let (registry, digits) = text.split_once(':').ok_or_else(bad)?;
        let registry = match registry {
            "denylist" => Kind::Denylist,
            "reputation" => Kind::Reputation,
            _ => return Err(bad()),
        };
        let number = PhoneNumber::from_digits(digits.parse().map_err(|_| bad())?);
        Ok(Some(WorkerName { registry, number }))
    }
}

#[derive(Debug, Serialize)]
struct Page {
    /// How many workers run, on all pages.
    denylists: usize,
    reputations: usize,
    registries: Registries,
    /// How many crashes were requested.
    drills: u64,
    workers: BTreeSet<Listed>,
    /// The path of the next page, if this one is full.
    next: Option<String>,
}

#[derive(Debug, Serialize)]
struct Registries {
    denylist: Counters,
    reputation: Counters,
}

async fn workers(
    State(service): State<Service>,
    query: Result<Query<PageQuery>, QueryRejection>,
) -> Result<Json<Page>, Problem> {
    let Query(query) = query?;
    let limit = query.limit;
    if !(1..=LARGEST_PAGE).contains(&limit) {
        return Err(Problem::unprocessable(format!("`limit` is from 1 to {LARGEST_PAGE}")));
    }
    let (denylists, reputations) = service.counts();
    let workers = service.workers(query.after()?, limit);
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

#[derive(Debug, Serialize)]
struct StoppedWorkers {
    stopped: Vec<Stopped>,
}

async fn stop_workers(State(service): State<Service>, path: NumberPath) -> Result<Json<StoppedWorkers>, Problem> {
    let stopped = service.stop(number(path)?).await?;
    if stopped.is_empty() {
        return Err(Problem::new(StatusCode::NOT_FOUND, "no worker of this number is running"));
    }
    Ok(Json(StoppedWorkers { stopped }))
}

async fn crash(State(service): State<Service>, path: NumberPath) -> Result<StatusCode, Problem> {
    service.crash(number(path)?).await?;
    Ok(StatusCode::ACCEPTED)
}

async fn ready(State(service): State<Service>) -> Result<&'static str, Problem> {
    if service.is_draining() {
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the service is shutting down"));
    }
    Ok("ready\n")
}
