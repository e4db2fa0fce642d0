//! [`document`]: the OpenAPI description, which `GET /openapi.json` returns.
//!
//! The handlers in [`crate::api`] describe themselves. Here is what they share: how a number is written, what a path
//! has, and which problems a request meets.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::LazyLock;

use utoipa::openapi::header::Header;
use utoipa::openapi::response::{Response, ResponseBuilder};
use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, Schema, SchemaFormat, Type};
use utoipa::openapi::{Content, InfoBuilder, OpenApi, Ref, RefOr};
use utoipa::{IntoParams, IntoResponses, OpenApi as _, PartialSchema, ToSchema};

use crate::api::Handlers;
use crate::complaint::Timestamp;
use crate::phone_number::{Caller, PhoneNumber};
use crate::problem;
use crate::rule::Rule;

/// The description of the interface.
pub(crate) fn document() -> &'static OpenApi {
    static DOCUMENT: LazyLock<OpenApi> = LazyLock::new(|| {
        let mut document = Handlers::openapi();
        document.info = InfoBuilder::new()
            .title("denylist")
            .version(env!("CARGO_PKG_VERSION"))
            .description(Some(
                "Decides whether a caller may ring a phone. Every error is a problem of RFC 9457. Any request may be \
                 repeated after any response.",
            ))
            .build();
        let components = document.components.get_or_insert_default();
        components.schemas.insert(problem::Body::name().into_owned(), problem::Body::schema());
        document
    });
    &DOCUMENT
}

/// A phone number in a path.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "describes a path")]
pub(crate) struct Number {
    /// A number in any common notation. Without a country code it is a US number.
    #[param(min_length = 1, example = "+12025550100")]
    number: String,
}

/// A phone number and a rule in a path.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "describes a path")]
pub(crate) struct NumberAndRule {
    /// A number in any common notation. Without a country code it is a US number.
    #[param(min_length = 1, example = "+12025550100")]
    number: String,
    /// A rule in its text form.
    #[param(min_length = 1, example = "+1900*")]
    rule: String,
}

macro_rules! text {
    ($($type:ident: $description:literal, $example:literal;)+) => {
        $(impl PartialSchema for $type {
            fn schema() -> RefOr<Schema> {
                let text = ObjectBuilder::new().schema_type(Type::String).min_length(Some(1));
                text.description(Some($description)).examples([$example]).into()
            }
        }

        impl ToSchema for $type {
            fn name() -> Cow<'static, str> {
                stringify!($type).into()
            }
        })+
    };
}

text! {
    PhoneNumber: "A phone number. Responses have it in E.164; requests may use any common notation.", "+12025550123";
    Caller: "A phone number, or `anonymous`.", "+12025550123";
    Rule: "A reason to reject a caller: a number, a prefix like `+1900*`, `anonymous`, or `complaints:5`.", "+1900*";
    Timestamp: "A date and time without a time zone.", "2021-07-07 00:01:15";
}

macro_rules! problems {
    ($($(#[$doc:meta])* $name:ident: $($status:literal)+;)+) => {
        $($(#[$doc])*
        pub(crate) struct $name;

        impl IntoResponses for $name {
            fn responses() -> BTreeMap<String, RefOr<Response>> {
                [$($status),+].map(|status: u16| (status.to_string(), problem_response(status).into())).into()
            }
        })+
    };
}

problems! {
    /// The path is not UTF-8, or a number or a rule in it is invalid.
    BadPath: 400 422;
    /// A parameter is unknown or invalid.
    BadQuery: 400 422;
    /// The body is not what the request needs.
    BadBody: 400 408 413 415 422;
    /// What the path names does not exist.
    Missing: 404;
    /// The database or a worker failed.
    Failed: 500 503;
    /// The service is shutting down, or a worker does not stop.
    ShuttingDown: 503;
}

fn problem_response(status: u16) -> Response {
    let description = match status {
        400 => "The path, the query or the body is malformed.",
        404 => "What the path names does not exist.",
        408 => "The body did not arrive within 10 s.",
        413 => "The body exceeds 64 KiB.",
        415 => "The content type is not JSON.",
        422 => "A number, a rule, a parameter or a field is invalid, or the phone would have too many rules.",
        500 => "The database failed.",
        _ => {
            "The service is shutting down, a worker did not reply in time, the limit of workers is reached, or the \
             worker has crashed too often."
        }
    };
    let response = ResponseBuilder::new()
        .description(description)
        .content("application/problem+json", Content::new(Some(Ref::from_schema_name(problem::Body::name()))));
    if status != 503 {
        return response.build();
    }
    let seconds =
        ObjectBuilder::new().schema_type(Type::Integer).format(Some(SchemaFormat::KnownFormat(KnownFormat::Int64)));
    let mut header = Header::new(seconds);
    header.description = Some(String::from("Seconds to wait before the next attempt."));
    response.header("Retry-After", header).build()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::api::routes;

    #[test]
    fn every_route_is_described_and_served() {
        let served: BTreeSet<_> = routes().into_iter().map(|(path, _)| path.to_owned()).collect();
        let described: BTreeSet<_> = document().paths.paths.keys().cloned().collect();
        assert_eq!(served, described);
    }

    #[test]
    fn no_text_of_a_request_may_be_empty() {
        let document = serde_json::to_value(document()).expect("it is JSON");
        let schemas = ["PhoneNumber", "Caller", "Rule"].map(|name| &document["components"]["schemas"][name]);
        let operations = document["paths"].as_object().into_iter().flatten().flat_map(|(_, path)| path.as_object());
        let parameters = operations.flatten().filter_map(|(_, operation)| operation["parameters"].as_array()).flatten();
        let mut texts = 0;
        for text in parameters.map(|parameter| &parameter["schema"]).chain(schemas) {
            if text["type"] == "string" {
                assert_eq!(text["minLength"], 1, "{text}");
                texts += 1;
            }
        }
        assert!(texts > 3, "no parameter is a text");
    }
}
