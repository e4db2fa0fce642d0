//! [`Failure`]: an answer that is not what was asked for.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use crate::json;

/// A failed request: its status, a word for programs and a sentence for people.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Failure {
    status: StatusCode,
    code: &'static str,
    message: String,
}

impl Failure {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
    }

    pub(crate) fn bad_parameter(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_parameter", message)
    }

    pub(crate) fn no_registry() -> Self {
        Self::new(StatusCode::NOT_FOUND, "no_registry", "there is no registry of this id; it may have been dropped")
    }

    pub(crate) fn no_worker() -> Self {
        Self::new(StatusCode::NOT_FOUND, "no_worker", "no worker of this key runs in this registry")
    }

    pub(crate) fn busy(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", message)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let body = json::Failure { code: self.code.to_owned(), message: self.message };
        (self.status, Json(body)).into_response()
    }
}
