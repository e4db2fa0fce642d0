//! [`Description`]: the OpenAPI document of the service. Every response in these tests is held against it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::OnceLock;

use jsonschema::Validator;
use serde_json::{Map, Value, json};

use crate::harness::{Response, exchange};

const METHODS: [&str; 5] = ["get", "put", "post", "delete", "patch"];

/// A response as the document identifies it: method, path and status.
pub(crate) type Described = (String, String, u16);

pub(crate) struct Description(Value);

impl Description {
    /// The document, which the service at this address is asked for once.
    pub(crate) fn of(address: SocketAddr) -> &'static Self {
        static DESCRIPTION: OnceLock<Description> = OnceLock::new();
        DESCRIPTION.get_or_init(|| {
            let response = exchange(address, "GET", "/openapi.json", None).expect("a reply");
            Self(response.json(200))
        })
    }

    pub(crate) fn document(&self) -> &Value {
        &self.0
    }

    pub(crate) fn paths(&self) -> &Map<String, Value> {
        self.0["paths"].as_object().expect("paths")
    }

    /// The methods of a path, in upper case.
    pub(crate) fn methods(&self, path: &str) -> BTreeSet<String> {
        let item = &self.paths()[path];
        METHODS.iter().filter(|method| item[**method].is_object()).map(|method| method.to_uppercase()).collect()
    }

    pub(crate) fn all(&self) -> BTreeSet<Described> {
        let mut all = BTreeSet::new();
        for path in self.paths().keys() {
            for method in self.methods(path) {
                let responses = self.operation(&method, path)["responses"].as_object().expect("responses");
                all.extend(
                    responses
                        .keys()
                        .map(|status| (method.clone(), path.clone(), status.parse().expect("a status is a number"))),
                );
            }
        }
        all
    }

    fn operation(&self, method: &str, path: &str) -> &Value {
        &self.paths()[path][method.to_lowercase()]
    }

    /// The path of the document that a requested path belongs to.
    fn template(&self, requested: &str) -> Option<&str> {
        let requested = requested.split('?').next().unwrap_or_default();
        let fits = |template: &&String| {
            let (mut expected, mut given) = (template.split('/'), requested.split('/'));
            let all = expected.by_ref().zip(given.by_ref());
            all.fold(true, |fits, (expected, given)| fits && fits_segment(expected, given))
                && template.split('/').count() == requested.split('/').count()
        };
        self.paths().keys().find(fits).map(String::as_str)
    }

    /// Asserts that a response is described. `None` if there is no such path or method: then it is a problem.
    #[track_caller]
    pub(crate) fn check(&self, method: &str, path: &str, body: Option<&str>, response: &Response) -> Option<Described> {
        let template = self.template(path);
        let Some(template) = template.filter(|template| self.methods(template).contains(method)) else {
            let status = if template.is_some() { 405 } else { 404 };
            assert_eq!(response.status, status, "{method} {path} is not described: {response:?}");
            let problem = json!({ "$ref": "#/components/schemas/Problem" });
            self.assert_content(&json!({ "application/problem+json": { "schema": problem } }), response);
            return None;
        };
        let operation = self.operation(method, template);
        let described = &operation["responses"][response.status.to_string()];
        assert!(described.is_object(), "{method} {template} does not describe this status: {response:?}");
        for header in described["headers"].as_object().into_iter().flat_map(Map::keys) {
            assert!(response.header(header).is_some(), "{method} {template}: no {header}: {response:?}");
        }
        self.assert_content(&described["content"], response);
        if let Some(body) = body {
            self.check_body(&operation["requestBody"], body, response);
        }
        Some((method.to_owned(), template.to_owned(), response.status))
    }

    /// Asserts that a body has the described type and schema.
    #[track_caller]
    fn assert_content(&self, content: &Value, response: &Response) {
        let Some(content) = content.as_object() else {
            assert_eq!((response.body.as_str(), response.header("content-type")), ("", None), "{response:?}");
            return;
        };
        let given = response.header("content-type").expect("a content type").split(';').next().unwrap_or_default();
        let described = content.get(given).unwrap_or_else(|| panic!("{given} is not described: {response:?}"));
        if given == "text/plain" {
            return;
        }
        let body = serde_json::from_str(&response.body).expect("JSON");
        let errors: Vec<_> =
            self.validator(&described["schema"]).iter_errors(&body).map(|error| error.to_string()).collect();
        assert_eq!(errors, [""; 0], "{response:?}");
    }

    /// Asserts that the service accepts only described bodies, and that what it rejects for its form is not described.
    #[track_caller]
    fn check_body(&self, described: &Value, body: &str, response: &Response) {
        let Ok(body) = serde_json::from_str(body) else { return };
        let schema = &described["content"]["application/json"]["schema"];
        if schema.is_null() {
            return;
        }
        let is_described = self.validator(schema).is_valid(&body);
        let is_form = ["unknown field", "missing field", " must be a "].iter().any(|text| response.body.contains(text));
        match response.status {
            200..300 => assert!(is_described, "accepted, and not described: {body}"),
            422 if is_form => assert!(!is_described, "rejected for its form, and described: {body}"),
            _ => {}
        }
    }

    /// Validates against a schema of the document. Unlike for a client, a field that is not described is an error.
    fn validator(&self, schema: &Value) -> Validator {
        let mut schema = json!({ "allOf": [schema], "components": self.0["components"] });
        close(&mut schema["components"], false);
        // The empty schema describes any value.
        if schema["allOf"] != json!([{}]) {
            schema["unevaluatedProperties"] = json!(false);
        }
        jsonschema::draft202012::new(&schema).expect("the document has JSON schemas")
    }
}

fn fits_segment(expected: &str, given: &str) -> bool {
    expected == given || (expected.starts_with('{') && !given.is_empty())
}

/// Forbids unknown fields in every object that is a field or an item. A part of `allOf` cannot forbid those of another.
fn close(schema: &mut Value, is_inner: bool) {
    match schema {
        Value::Object(fields) => {
            for (name, inner) in fields.iter_mut() {
                match name.as_str() {
                    "properties" => {
                        inner.as_object_mut().into_iter().flatten().for_each(|(_, inner)| close(inner, true))
                    }
                    "items" => close(inner, true),
                    _ => close(inner, false),
                }
            }
            let is_object = fields.contains_key("$ref") || fields.contains_key("properties");
            if is_inner && is_object {
                fields.insert(String::from("unevaluatedProperties"), json!(false));
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| close(item, false)),
        _ => {}
    }
}
