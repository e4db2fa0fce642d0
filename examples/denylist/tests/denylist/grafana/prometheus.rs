//! [`Prometheus`]: a real one, on a port of its own, that scrapes one target each second and has the rules.
//!
//! It does not know what it scrapes: a test gives it an address.

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
use crate::grafana::place;

/// Longer than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);
/// How often another port is tried: between the choice of one and its use it may be taken.
const PORTS: usize = 5;
/// What Grafana would put in for `$__rate_interval`: four times the scrape interval at least.
pub(crate) const RATE_INTERVAL: &str = "10s";

pub(crate) struct Prometheus {
    /// Ended first, then its files are removed.
    _child: EndOnDrop,
    address: SocketAddr,
    _directory: TempDir,
}

/// A time series of a result.
#[derive(Debug)]
pub(crate) struct Series {
    pub(crate) labels: BTreeMap<String, String>,
    /// The values, the latest last. An instant query gives one.
    pub(crate) values: Vec<f64>,
}

/// What a rule came to.
#[derive(Debug)]
pub(crate) struct RuleHealth {
    pub(crate) name: String,
    /// `ok`, `err`, or `unknown` before the first time.
    pub(crate) health: String,
    pub(crate) error: String,
}

/// A child that does not outlive its test, however that ends.
struct EndOnDrop(Child);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        // It may have ended; either way it is to be gone.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Prometheus {
    /// Starts one that scrapes `/metrics` of the target, and waits until it has done so. `None` where it is not installed.
    #[track_caller]
    pub(crate) fn scraping(job: &str, target: SocketAddr) -> Option<Self> {
        let program = place::program("prometheus")?;
        for _ in 0..PORTS {
            if let Some(prometheus) = Self::start(&program, job, target) {
                eventually(&format!("{target} is scraped"), || {
                    let up = prometheus.query(&format!("up{{job=\"{job}\"}}"));
                    up.iter().any(|series| series.values == [1.0])
                });
                return Some(prometheus);
            }
        }
        panic!("prometheus did not start on any of {PORTS} ports");
    }

    /// Starts one and waits until it answers; `None` if it ended, as it does when somebody else has its port.
    fn start(program: &Path, job: &str, target: SocketAddr) -> Option<Self> {
        let directory = tempfile::tempdir().expect("there is room for a directory");
        let rules = place::path(crate::grafana::rules::FILE);
        let config = serde_json::json!({
            "global": { "scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s" },
            "rule_files": [rules],
            "scrape_configs": [{ "job_name": job, "static_configs": [{ "targets": [target.to_string()] }] }],
        });
        let file = directory.path().join("prometheus.yml");
        // JSON is YAML.
        std::fs::write(&file, config.to_string()).expect("there is room for a file");

        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there is a free port");
        let address = listener.local_addr().expect("it is bound");
        drop(listener);
        let mut command = Command::new(program);
        let file_name = file.display().to_string();
        command.arg(format!("--config.file={file_name}"));
        command.arg(format!("--storage.tsdb.path={}", directory.path().join("data").display()));
        command.arg(format!("--web.listen-address={address}")).arg("--log.level=warn");
        let log = File::create(directory.path().join("log")).expect("there is room for a file");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let mut child = EndOnDrop(command.spawn().expect("prometheus starts"));
        let (mut is_ready, mut is_over) = (false, false);
        eventually("prometheus answers", || {
            // Another one may have the port: ours is the one that was given our file.
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

    /// What an expression is at this moment.
    #[track_caller]
    pub(crate) fn query(&self, expression: &str) -> Vec<Series> {
        let data = self.ask(&format!("/api/v1/query?query={}", encoded(expression)));
        assert_eq!(data["resultType"], "vector", "{expression}");
        list(&data["result"]).iter().map(|series| Series::new(series, std::slice::from_ref(&series["value"]))).collect()
    }

    /// What an expression was each second of the last `seconds`.
    #[track_caller]
    pub(crate) fn query_range(&self, expression: &str, seconds: u64) -> Vec<Series> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("it is past 1970").as_secs();
        let (query, start) = (encoded(expression), now - seconds);
        let data = self.ask(&format!("/api/v1/query_range?query={query}&start={start}&end={now}&step=1"));
        list(&data["result"]).iter().map(|series| Series::new(series, list(&series["values"]))).collect()
    }

    /// How each rule fares, recorded ones and alerts.
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

    /// What the help texts and types are that the targets gave: name, type, help.
    #[track_caller]
    pub(crate) fn metadata(&self) -> BTreeMap<String, (String, String)> {
        let data = self.ask("/api/v1/metadata");
        let families = data.as_object().into_iter().flatten();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        families.map(|(name, said)| (name.clone(), (text(&said[0]["type"]), text(&said[0]["help"])))).collect()
    }

    #[track_caller]
    fn ask(&self, path: &str) -> Value {
        let (status, body) = get(self.address, path).unwrap_or_else(|| panic!("prometheus does not answer {path}"));
        let mut answer: Value = serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {status} {body}"));
        assert!(status == 200 && answer["status"] == "success", "{path}: {status} {answer}");
        answer["data"].take()
    }
}

impl Series {
    fn new(series: &Value, points: &[Value]) -> Self {
        let labels = series["metric"].as_object().into_iter().flatten();
        let labels = labels.map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned()));
        // A number comes as text, for it may be `NaN` or `+Inf`.
        let number = |point: &Value| point[1].as_str().and_then(|text| text.parse().ok()).expect("a number");
        Self { labels: labels.collect(), values: points.iter().map(number).collect() }
    }
}

/// Waits until something is so.
#[track_caller]
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "it never came that {what}");
        thread::park_timeout(Duration::from_millis(50));
    }
}

/// One request on a connection of its own: status and body, or `None` if there is no whole answer.
fn get(from: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&from, PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    // HTTP/1.0: the answer ends with the connection, and is never in chunks.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {from}\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// Text as a part of a query string.
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
