//! Requests, and what is wrong with them in the words of this API: [`Object`] is a body, [`Parameters`] is a query.
//!
//! serde's errors name Rust types and are written for programmers. A client reads these here.

use std::fmt::{self, Display};
use std::str::FromStr;

use axum::body::{Bytes, HttpBody};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use serde::de::{Deserialize, DeserializeOwned, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::error::Category;

use crate::problem::Problem;

/// Large enough for a thousand rules.
pub(crate) const MAX_BODY: usize = 64 << 10;

/// A body: the fields of a JSON object, in their order.
#[derive(Debug)]
pub struct Object(Vec<(String, Value)>);

impl Object {
    /// Reads a body.
    ///
    /// # Errors
    ///
    /// It is not JSON, or not an object.
    pub fn read(body: &[u8]) -> Result<Self, Problem> {
        serde_json::from_slice(body).map_err(|error| match error.classify() {
            Category::Data => Problem::unprocessable("the body must be a JSON object"),
            _ if body.is_empty() => Problem::bad_request("the body is empty; it must be a JSON object"),
            _ => {
                let (line, column) = (error.line(), error.column());
                Problem::bad_request(format!("the body is not valid JSON (line {line}, column {column})"))
            }
        })
    }

    /// The values of these fields, and none for those that are absent. Any other field is an error.
    pub(crate) fn fields<const N: usize>(self, names: [&str; N]) -> Result<[Option<Value>; N], Problem> {
        pick(self.0, names, "field").map_err(Problem::unprocessable)
    }
}

impl<S: Send + Sync> FromRequest<S> for Object {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            let detail = "the body must be JSON; set the header Content-Type to application/json";
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
        }
        // What announces itself as too large need not arrive first.
        if request.body().size_hint().lower() > MAX_BODY as u64 {
            return Err(too_large());
        }
        let body = Bytes::from_request(request, state).await.map_err(|rejection| match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => too_large(),
            _ => Problem::bad_request("the body did not arrive completely"),
        })?;
        Self::read(&body)
    }
}

fn too_large() -> Problem {
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the body exceeds {} KiB", MAX_BODY >> 10))
}

fn is_json(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// A map would hide a field that is given twice.
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Object(fields))
            }
        }

        deserializer.deserialize_map(Fields)
    }
}

/// The parameters of a query, in their order.
#[derive(Debug)]
pub(crate) struct Parameters(Vec<(String, String)>);

impl Parameters {
    /// The values of these parameters. Any other parameter is an error.
    pub(crate) fn named<const N: usize>(self, names: [&str; N]) -> Result<[Option<String>; N], Problem> {
        pick(self.0, names, "parameter").map_err(Problem::bad_request)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Parameters {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let query = Query::from_request_parts(parts, state).await;
        let Query(pairs) = query.map_err(|_| Problem::bad_request("the query is not a list of name=value"))?;
        Ok(Self(pairs))
    }
}

/// The parameters of a path.
#[derive(Debug)]
pub(crate) struct Segments<T>(pub(crate) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Segments<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = Path::from_request_parts(parts, state).await;
        let Path(segments) = path.map_err(|_| Problem::bad_request("the path is not percent-encoded UTF-8"))?;
        Ok(Self(segments))
    }
}

fn pick<T, const N: usize>(given: Vec<(String, T)>, names: [&str; N], what: &str) -> Result<[Option<T>; N], String> {
    let mut found = [const { None }; N];
    for (name, value) in given {
        let Some(index) = names.iter().position(|known| *known == name) else {
            let names = names.map(|name| format!("`{name}`")).join(" and ");
            return Err(format!("unknown {what} `{}`; this request takes {names}", shortened(&name)));
        };
        if found[index].replace(value).is_some() {
            return Err(format!("the {what} `{name}` is given twice"));
        }
    }
    Ok(found)
}

/// A client's text may be as long as a body.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The text of a field.
pub(crate) fn text(name: &str, value: Value) -> Result<String, Problem> {
    match value {
        Value::String(text) => Ok(text),
        other => Err(Problem::unprocessable(format!("`{name}` must be a string, and is {}", kind(&other)))),
    }
}

/// The items of a field.
pub(crate) fn list(name: &str, value: Value) -> Result<Vec<Value>, Problem> {
    match value {
        Value::Array(items) => Ok(items),
        other => Err(Problem::unprocessable(format!("`{name}` must be a list, and is {}", kind(&other)))),
    }
}

pub(crate) fn missing(name: &str) -> Problem {
    Problem::unprocessable(format!("missing field `{name}`"))
}

/// Parses the text of a field, a parameter or a segment. The reason follows its name.
pub(crate) fn parse<T: FromStr<Err: Display>>(name: &str, text: &str) -> Result<T, Problem> {
    text.parse().map_err(|reason| Problem::unprocessable(format!("`{name}`: {reason}")))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
