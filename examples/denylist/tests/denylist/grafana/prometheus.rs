//! [`Prometheus`]: a real one with its own port, which scrapes one target each second and has the rules.
//!
//! The target is any address that a test passes.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;
use tempfile::TempDir;

use crate::grafana::dashboard::list;
use crate::grafana::paths;

/// Longer than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);
/// How often to try another port: a chosen port may be taken before it is used.
const PORTS: usize = 5;
/// The value of `$__rate_interval` in Grafana: at least four times the scrape interval.
pub(crate) const RATE_INTERVAL: &str = "10s";

pub(crate) struct Prometheus {
    /// Dropped before the files are removed.
    _child: EndOnDrop,
    address: SocketAddr,
    _directory: TempDir,
}

/// A time series of a result.
#[derive(Debug)]
pub(crate) struct Series {
    pub(crate) labels: BTreeMap<String, String>,
    /// The values, the latest last. An instant query returns one.
    pub(crate) values: Vec<f64>,
}

/// The health of a rule.
#[derive(Debug)]
pub(crate) struct RuleHealth {
    pub(crate) name: String,
    /// `ok`, `err`, or `unknown` before the first evaluation.
    pub(crate) health: String,
    pub(crate) error: String,
}

/// A child process that is killed when the test ends, however it ends.
struct EndOnDrop(Child);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        // The process may have exited already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Prometheus {
    /// Starts a Prometheus that scrapes `/metrics` of the target, and waits for the first scrape. `None` if it is not
    /// installed.
    #[track_caller]
    pub(crate) fn scraping(job: &str, target: SocketAddr) -> Option<Self> {
        Self::scraping_with(crate::grafana::rules::FILE, job, target)
    }

    /// As [`scraping`](Self::scraping), with these rules.
    #[track_caller]
    pub(crate) fn scraping_with(rules: &str, job: &str, target: SocketAddr) -> Option<Self> {
        let program = paths::program("prometheus")?;
        for _ in 0..PORTS {
            if let Some(prometheus) = Self::start(&program, rules, job, target) {
                eventually(&format!("{target} is scraped"), || {
                    let up = prometheus.query(&format!("up{{job=\"{job}\"}}"));
                    up.iter().any(|series| series.values == [1.0])
                });
                return Some(prometheus);
            }
        }
        panic!("prometheus did not start on any of {PORTS} ports");
    }

    /// Starts a process and waits until it responds. `None` if it exits, which it does if its port is taken.
    fn start(program: &Path, rules: &str, job: &str, target: SocketAddr) -> Option<Self> {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let rules = paths::path(rules);
        let config = serde_json::json!({
            "global": { "scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s" },
            "rule_files": [rules],
            "scrape_configs": [{ "job_name": job, "static_configs": [{ "targets": [target.to_string()] }] }],
        });
        let file = directory.path().join("prometheus.yml");
        // JSON is YAML.
        std::fs::write(&file, config.to_string()).expect("the file is written");

        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there is a free port");
        let address = listener.local_addr().expect("the listener is bound");
        drop(listener);
        let mut command = Command::new(program);
        let file_name = file.display().to_string();
        command.arg(format!("--config.file={file_name}"));
        command.arg(format!("--storage.tsdb.path={}", directory.path().join("data").display()));
        command.arg(format!("--web.listen-address={address}")).arg("--log.level=warn");
        let log = File::create(directory.path().join("log")).expect("the file is written");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let mut child = EndOnDrop(command.spawn().expect("prometheus starts"));
        let (mut is_ready, mut is_over) = (false, false);
        eventually("prometheus responds", || {
            // Another process may have the port. Ours is the one with our file.
            is_ready = get(address, "/-/ready").is_some_and(|(status, _)| status == 200)
                && get(address, "/api/v1/status/flags").is_some_and(|(_, flags)| flags.contains(&file_name));
            is_over = child.0.try_wait().expect("a child can be waited for").is_some();
            is_ready || is_over
        });
        if !is_ready {
            let said = std::fs::read_to_string(directory.path().join("log"));
            println!("prometheus did not start on {address}: {said:?}");
            return None;
        }
        Some(Self { _child: child, address, _directory: directory })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The value of an expression now.
    #[track_caller]
    pub(crate) fn query(&self, expression: &str) -> Vec<Series> {
        let data = self.ask(&format!("/api/v1/query?query={}", encoded(expression)));
        assert_eq!(data["resultType"], "vector", "{expression}");
        list(&data["result"]).iter().map(|series| Series::new(series, std::slice::from_ref(&series["value"]))).collect()
    }

    /// The values of an expression, one for each of the last `seconds`.
    #[track_caller]
    pub(crate) fn query_range(&self, expression: &str, seconds: u64) -> Vec<Series> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("the clock is past 1970").as_secs();
        let (query, start) = (encoded(expression), now - seconds);
        let data = self.ask(&format!("/api/v1/query_range?query={query}&start={start}&end={now}&step=1"));
        list(&data["result"]).iter().map(|series| Series::new(series, list(&series["values"]))).collect()
    }

    /// The health of each recording rule and each alert.
    #[track_caller]
    pub(crate) fn rules(&self) -> Vec<RuleHealth> {
        let data = self.ask("/api/v1/rules");
        let rules = list(&data["groups"]).iter().flat_map(|group| list(&group["rules"]));
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let rule = |rule: &Value| RuleHealth {
            name: text(&rule["name"]),
            health: text(&rule["health"]),
            error: text(&rule["lastError"]),
        };
        rules.map(rule).collect()
    }

    /// The metadata of the targets: name, type and help text.
    #[track_caller]
    pub(crate) fn metadata(&self) -> BTreeMap<String, (String, String)> {
        let data = self.ask("/api/v1/metadata");
        let families = data.as_object().into_iter().flatten();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        families.map(|(name, said)| (name.clone(), (text(&said[0]["type"]), text(&said[0]["help"])))).collect()
    }

    #[track_caller]
    fn ask(&self, path: &str) -> Value {
        let (status, body) = get(self.address, path).unwrap_or_else(|| panic!("prometheus does not respond to {path}"));
        let mut answer: Value = serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {status} {body}"));
        assert!(status == 200 && answer["status"] == "success", "{path}: {status} {answer}");
        answer["data"].take()
    }
}

impl Series {
    fn new(series: &Value, points: &[Value]) -> Self {
        let labels = series["metric"].as_object().into_iter().flatten();
        let labels = labels.map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned()));
        // A number is a string, because it may be `NaN` or `+Inf`.
        let number = |point: &Value| point[1].as_str().and_then(|text| text.parse().ok()).expect("a number");
        Self { labels: labels.collect(), values: points.iter().map(number).collect() }
    }
}

/// Waits until a condition holds.
#[track_caller]
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "timed out before {what}");
        thread::park_timeout(Duration::from_millis(50));
    }
}

/// A request on a new connection: status and body. `None` if the response is incomplete.
fn get(from: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&from, PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    // With HTTP/1.0, the response ends with the connection and is not chunked.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {from}\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// Encodes a text for a query string.
fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() {
            encoded.push(char::from(byte));
        } else {
            write!(encoded, "%{byte:02X}").expect("writing to a string cannot fail");
        }
        encoded
    })
}
