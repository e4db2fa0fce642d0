//! [`Problem`]: an error as the client sees it.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tracing::error;
use utoipa::ToSchema;

use crate::failure::Failure;

/// An `application/problem+json` of RFC 9457. The type is `about:blank`: the status identifies the problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    status: StatusCode,
    detail: String,
    /// Seconds, for status 503.
    retry_after: u64,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), retry_after: 1 }
    }

    /// The request is malformed.
    pub(crate) fn bad_request(detail: impl ToString) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail.to_string())
    }

    /// The request is well-formed but invalid.
    pub(crate) fn unprocessable(detail: impl ToString) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail.to_string())
    }
}

/// An error.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub(crate) struct Body {
    #[schema(example = "about:blank")]
    r#type: &'static str,
    /// The name of the status.
    #[schema(example = "Unprocessable Entity")]
    title: &'static str,
    #[schema(example = 422)]
    status: u16,
    /// What is wrong, in words.
    #[schema(example = "`to`: phone number too short")]
    detail: String,
}

impl Problem {
    /// The status of the response.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// What is wrong, in words.
    pub fn detail(&self) -> &str {
        &self.detail
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let title = self.status.canonical_reason().unwrap_or("Error");
        let body = Body { r#type: "about:blank", title, status: self.status.as_u16(), detail: self.detail };
        let mut response = (self.status, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(self.retry_after));
        }
        response
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        let status = match failure {
            Failure::Store(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Failure::TooManyRules => StatusCode::UNPROCESSABLE_ENTITY,
            Failure::ShuttingDown
            | Failure::NotHandled
            | Failure::NotRead
            | Failure::MayHaveRun
            | Failure::NoRoom
            | Failure::GivenUp(_)
            | Failure::NotStopped => StatusCode::SERVICE_UNAVAILABLE,
        };
        if let Failure::Store(error) = &failure {
            error!(%error, "a request failed in the database");
        }
        let mut problem = Self::new(status, failure.to_string());
        if let Failure::GivenUp(retry_after) = failure {
            // Round up to whole seconds.
            problem.retry_after = retry_after.as_secs() + 1;
        }
        problem
    }
}
