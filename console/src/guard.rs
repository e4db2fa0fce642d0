//! What keeps other sites out: headers on every answer, and a check of where a request comes from.
//!
//! # The rules
//!
//! 1. A request whose `Sec-Fetch-Site` names another site is refused on each route of `api/`. Browsers set that header and no
//!    page can. So another site's page neither acts nor occupies streams.
//! 2. An action needs the header `gen-registry-console: 1`. A page of another site can send it only after a preflight, which no
//!    route answers: an older browser without `Sec-Fetch-Site` sends no action either. A form cannot send it at all.
//! 3. If there is no `Sec-Fetch-Site` but an `Origin`, the origin's authority must be that of `Host`.
//! 4. A client that is no browser sends neither header. It passes with rule 2 alone: it acts with the rights that the service
//!    has given it, not with those of a user that it misleads.
//!
//! A page that reaches the service under a name of its own (DNS rebinding) is of the same origin for the browser. The service
//! that checks who asks also answers that.

use std::panic::AssertUnwindSafe;

use axum::extract::Request;
use axum::http::header::{
    CONTENT_SECURITY_POLICY, HOST, HeaderName, HeaderValue, ORIGIN, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;

use crate::failure::Failure;

/// The header of an action.
pub(crate) const ACTION_HEADER: HeaderName = HeaderName::from_static("gen-registry-console");
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// No script, style or connection but the service's own, none of them inline, and no frame around the page.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Adds the headers to an answer, also to that of a request in which code of the program has panicked: a
/// [view of a cluster](crate::ClusterView).
pub(crate) async fn harden(request: Request, next: Next) -> Response {
    let answered = AssertUnwindSafe(next.run(request)).catch_unwind().await;
    let mut response = answered.unwrap_or_else(|_| {
        let message = "code of the program that the console uses has panicked";
        Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "panicked", message).into_response()
    });
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    for (name, value) in [
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
        ("cache-control", "no-store"),
    ] {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

/// Refuses requests of other sites. (rule 1)
pub(crate) async fn own_site(request: Request, next: Next) -> Response {
    match request.headers().get(SEC_FETCH_SITE).map(HeaderValue::as_bytes) {
        None | Some(b"same-origin" | b"none") => next.run(request).await,
        Some(_) => refused("a page of another site cannot use the console").into_response(),
    }
}

/// Whether a request may act. (rules 2 to 4)
pub(crate) fn check_action(headers: &HeaderMap, uri: &Uri) -> Result<(), Failure> {
    if headers.get(ACTION_HEADER).is_none_or(|value| value != "1") {
        return Err(refused("an action needs the header `gen-registry-console: 1`"));
    }
    match headers.get(SEC_FETCH_SITE) {
        Some(site) if site == "same-origin" => return Ok(()),
        Some(_) => return Err(refused("a page of another site cannot act")),
        None => {}
    }
    let Some(origin) = headers.get(ORIGIN) else { return Ok(()) };
    let origin: Option<Uri> = origin.to_str().ok().and_then(|origin| origin.parse().ok());
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).or(uri.authority().map(|host| host.as_str()));
    match (origin.as_ref().and_then(Uri::authority), host) {
        (Some(origin), Some(host)) if origin.as_str() == host => Ok(()),
        // `null` too: the origin of a sandboxed frame.
        _ => Err(refused("a page of another origin cannot act")),
    }
}

fn refused(message: &str) -> Failure {
    Failure::new(StatusCode::FORBIDDEN, "cross_site", message)
}
