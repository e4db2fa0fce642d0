//! [`Client`]: asks the service for its JSON.

use std::time::Duration;

use axum::http::{Request, Uri, header};
use gen_registry_console::json::{Failure, Feed, Overview, Page, VERSION, Worker};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;

use crate::app::{Answer, Question, Screen};

/// An answer that takes longer is none.
const PATIENCE: Duration = Duration::from_secs(5);
/// The largest answer: 256 registries with a line of 60 points have about half of it.
const LARGEST: usize = 8 * 1_024 * 1_024;

/// Where the console of a service is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Client {
    host: String,
    port: u16,
    /// The path of the console, without a slash at its end.
    path: String,
}

impl Client {
    /// Reads an address: `http://HOST:PORT/PATH`, where all but the host may be left out.
    pub(crate) fn new(address: &str) -> Result<Self, String> {
        let address = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
        let uri: Uri = address.parse().map_err(|error| format!("{address} is no address: {error}"))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some(scheme) => {
                return Err(format!("{scheme} is not supported, only http; use a tunnel, such as `ssh -L`"));
            }
            None => return Err(format!("{address} is no address")),
        }
        let host = uri.host().ok_or_else(|| format!("{address} has no host"))?;
        Ok(Self {
            host: host.to_owned(),
            port: uri.port_u16().unwrap_or(80),
            path: uri.path().trim_end_matches('/').to_owned(),
        })
    }

    pub(crate) async fn overview(&self) -> Result<Overview, String> {
        let overview: Overview = self.get("registries?points=60").await?;
        if overview.version == VERSION {
            return Ok(overview);
        }
        Err(format!(
            "the console has version {} of its JSON, and this program reads version {VERSION}",
            overview.version
        ))
    }

    /// Asks for what a screen shows.
    pub(crate) async fn ask(&self, question: Question) -> Result<Answer, String> {
        let Question { screen, after } = question;
        let overview = self.overview().await?;
        let feed: Feed = self.get(&format!("events?after={after}&limit=500")).await?;
        let mut answer = Answer { overview, feed, screen: screen.clone(), page: None, worker: None };
        match screen {
            Screen::Registries | Screen::Events => {}
            Screen::Workers(list) => {
                let path = format!("registries/{}/workers?{}", list.registry, list.parameters());
                answer.page = Some(self.get::<Page>(&path).await?);
            }
            Screen::Worker { registry, worker, .. } => {
                let found = self.get::<Worker>(&format!("registries/{registry}/worker?ref={worker}")).await;
                answer.worker = match found {
                    Err(message) if message.starts_with("no worker") => None,
                    found => Some(found?),
                };
            }
        }
        Ok(answer)
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, String> {
        let at = format!("http://{}:{}{}", self.host, self.port, self.path);
        let answered = tokio::time::timeout(PATIENCE, self.fetch(path)).await;
        let (is_success, body) = answered
            .map_err(|_| format!("{at} does not answer within {} s", PATIENCE.as_secs()))?
            .map_err(|error| format!("{at}: {error}"))?;
        if is_success {
            return serde_json::from_slice(&body).map_err(|error| format!("{at} is no console: {error}"));
        }
        let failure = serde_json::from_slice(&body).ok().filter(|failure: &Failure| !failure.message.is_empty());
        Err(failure.map_or_else(|| format!("{at} is no console"), |failure| failure.message))
    }

    /// One connection for each request: a proxy or a restart of the service in between does not matter.
    async fn fetch(&self, path: &str) -> Result<(bool, Vec<u8>), Box<dyn std::error::Error + Send + Sync>> {
        let host = self.host.trim_matches(['[', ']']);
        let stream = TcpStream::connect((host, self.port)).await?;
        let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request = Request::get(format!("{}/api/{path}", self.path))
            .header(header::HOST, format!("{}:{}", self.host, self.port))
            .body(Empty::<&[u8]>::new())?;
        let response = sender.send_request(request).await?;
        let is_success = response.status().is_success();
        let mut body = response.into_body();
        let mut bytes = Vec::new();
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame?.into_data() {
                if bytes.len() + data.len() > LARGEST {
                    return Err("the answer is too large".into());
                }
                bytes.extend_from_slice(&data);
            }
        }
        Ok((is_success, bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_may_leave_out_what_is_usual() {
        let client = |host: &str, port, path: &str| Client { host: host.to_owned(), port, path: path.to_owned() };
        assert_eq!(Client::new("http://a:8080/x/console/"), Ok(client("a", 8080, "/x/console")));
        assert_eq!(Client::new("127.0.0.1:9"), Ok(client("127.0.0.1", 9, "")));
        assert_eq!(Client::new("http://[::1]/console"), Ok(client("[::1]", 80, "/console")));
        for bad in ["https://a/console", "ftp://a", "http://", "a b"] {
            assert!(Client::new(bad).is_err(), "{bad}");
        }
    }
}
