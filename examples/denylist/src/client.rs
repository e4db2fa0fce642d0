//! [`Client`]: HTTP/1.1 with kept-alive connections.

use std::fmt;
use std::str::FromStr;

use axum::body::Body;
use axum::http::{Method, Request, Uri, header};
use http_body_util::BodyExt;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;

/// The URL of a service: `http://127.0.0.1:8080`.
#[derive(Debug, Clone)]
pub(crate) struct ServiceUrl(String);

impl FromStr for ServiceUrl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let uri: Uri = text.parse().map_err(|_| "not a URL")?;
        match (uri.scheme_str(), uri.authority(), uri.path_and_query().map(|path| path.as_str())) {
            (Some("http"), Some(authority), None | Some("/")) => Ok(Self(format!("http://{authority}"))),
            (Some("https"), ..) => Err("the service speaks http, not https"),
            _ => Err("a service's URL is like http://127.0.0.1:8080"),
        }
    }
}

impl fmt::Display for ServiceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A status and a body, or a one-line error.
pub(crate) type Answer = Result<(u16, Vec<u8>), String>;

/// A client of one service.
#[derive(Debug)]
pub(crate) struct Client {
    http: HttpClient<HttpConnector, Body>,
    url: ServiceUrl,
}

impl Client {
    pub(crate) fn new(url: ServiceUrl) -> Self {
        let mut connector = HttpConnector::new();
        // Requests are small, and each one awaits its response.
        connector.set_nodelay(true);
        Self { http: HttpClient::builder(TokioExecutor::new()).build(connector), url }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, Body::empty()).await
    }

    pub(crate) async fn put(&self, path: &str) -> Answer {
        self.send(Method::PUT, path, Body::empty()).await
    }

    pub(crate) async fn post(&self, path: &str, json: String) -> Answer {
        self.send(Method::POST, path, Body::from(json)).await
    }

    async fn send(&self, method: Method, path: &str, body: Body) -> Answer {
        let request = Request::builder().method(method).uri(format!("{}{path}", self.url));
        let request = request.header(header::CONTENT_TYPE, "application/json").body(body);
        let response = self.http.request(request.map_err(root)?).await.map_err(root)?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.map_err(root)?;
        Ok((status, body.to_bytes().into()))
    }
}

/// The reason that the service gives: `status 503: the service is shutting down`.
pub(crate) fn refusal((status, body): &(u16, Vec<u8>)) -> String {
    #[derive(Deserialize)]
    struct Problem {
        detail: String,
    }
    match serde_json::from_slice(body) {
        Ok(Problem { detail }) => format!("status {status}: {detail}"),
        // Something else answers at this address, such as a proxy.
        Err(_) => format!("status {status}"),
    }
}

/// The innermost cause. The outer ones only say that a request failed.
fn root(error: impl std::error::Error) -> String {
    let mut reason = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        reason = error.to_string();
        source = error.source();
    }
    reason
}
