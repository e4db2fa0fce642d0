//! The dashboard and the alerts of a cluster match its catalogue, and a real Prometheus accepts them.
//!
//! The nodes run in this process, on an engine in memory.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};

use axum::Router;
use axum::routing::get;
use gen_registry::{Context, Reply, Worker};
use gen_registry_cluster::engine::Memory;
use gen_registry_cluster::metrics::{ALL, Kind, Metric};
use gen_registry_cluster::{Answers, Call, Cluster, Named};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use serde_json::Value;
use tokio::net::TcpListener;

use crate::grafana::dashboard::{Dashboard, list};
use crate::grafana::prometheus::{Prometheus, RATE_INTERVAL, eventually};
use crate::grafana::promql::{Query, named_values};
use crate::grafana::{layout, paths, promtool, schema};

const DASHBOARD: &str = "grafana/dashboards/gen-registry-cluster.json";
const RULES: &str = "grafana/prometheus/cluster_rules.yml";
const TESTS: &str = "grafana/prometheus/cluster_rules_test.yml";
const RUNBOOK: &str = "grafana/RUNBOOK-cluster.md";

fn dashboard() -> Dashboard {
    Dashboard(paths::json(DASHBOARD))
}

fn queries(dashboard: &Dashboard) -> Vec<Query> {
    let targets = dashboard.targets().expect("the queries parse");
    let variables = dashboard.variable_queries().expect("the variables parse");
    let annotations = dashboard.annotation_queries().expect("the annotations parse");
    let targets = targets.into_iter().map(|target| target.query);
    targets.chain(variables.into_iter().map(|(_, query)| query)).chain(annotations).collect()
}

fn rules() -> Vec<Value> {
    let rules = paths::yaml(RULES);
    list(&rules["groups"]).iter().flat_map(|group| list(&group["rules"]).to_vec()).collect()
}

fn rule_queries() -> Vec<Query> {
    let query = |rule: &Value| Query::new(rule["alert"].to_string(), rule["expr"].as_str().expect("a text"));
    rules().iter().map(|rule| query(rule).expect("the rules parse")).collect()
}

/// The metric that a series belongs to, and whether it is read by rates.
fn metric_of(name: &str) -> Option<(&'static Metric, bool)> {
    ALL.iter().find_map(|metric| match (metric.kind, name.strip_prefix(metric.name)?) {
        (Kind::Counter, "") | (Kind::Histogram { .. }, "_bucket" | "_sum" | "_count") => Some((metric, true)),
        (Kind::Gauge, "") => Some((metric, false)),
        _ => None,
    })
}

/// What an expression reads that the catalogue does not have.
fn problems(query: &Query) -> Vec<String> {
    let mut problems = Vec::new();
    for reading in query.readings().iter().filter(|reading| reading.metric != "ALERTS") {
        let name = reading.metric;
        let Some((metric, has_rates)) = metric_of(name) else {
            problems.push(format!("{}: {name} is not a metric", query.location));
            continue;
        };
        if has_rates != matches!(reading.over_time, Some("rate" | "irate" | "increase")) {
            problems.push(format!("{}: rates are read of counters and of nothing else: {name}", query.location));
        }
        for matcher in reading.matchers {
            if ["job", "instance", "cluster"].contains(&&*matcher.name) {
                continue;
            }
            let Some(label) = metric.labels.iter().find(|label| label.name == matcher.name) else {
                problems.push(format!("{}: {name} has no label {}", query.location, matcher.name));
                continue;
            };
            let unknown = named_values(matcher).into_iter().find(|value| !label.values.contains(value));
            problems
                .extend(unknown.map(|value| format!("{}: {name}: {} is never {value}", query.location, label.name)));
        }
    }
    problems
}

#[test]
fn cluster_dashboard_is_complete() {
    let dashboard = dashboard();
    assert_eq!(layout::problems_of(&dashboard, "cluster"), [""; 0]);
    assert_eq!(schema::problems(&dashboard), [""; 0]);
    let rows: Vec<_> = dashboard.all_panels().into_iter().filter(|panel| panel["type"] == "row").collect();
    assert_eq!(rows.len(), 4);
}

#[test]
fn cluster_queries_read_what_the_catalogue_has() {
    let queries: Vec<_> = queries(&dashboard()).into_iter().chain(rule_queries()).collect();
    assert_eq!(queries.iter().flat_map(problems).collect::<Vec<_>>(), [""; 0]);
    for broken in [
        "gen_registry_cluster_beats",
        "rate(gen_registry_cluster_members[1m])",
        "gen_registry_cluster_shards{state=\"lost\"}",
    ] {
        let query = Query::new("a mistake", broken).expect("it parses");
        assert_eq!(problems(&query).len(), 1, "{broken} is accepted");
    }
    let used: BTreeSet<_> = queries
        .iter()
        .flat_map(Query::readings)
        .filter_map(|reading| metric_of(reading.metric))
        .map(|(metric, _)| metric.name)
        .collect();
    let unused: Vec<_> = ALL.iter().map(|metric| metric.name).filter(|name| !used.contains(name)).collect();
    assert_eq!(unused, [""; 0], "no panel and no rule has them");
}

#[test]
fn cluster_alerts_have_severity_runbook_and_cases() {
    let (runbook, tests) = (paths::text(RUNBOOK), paths::yaml(TESTS));
    let chapters: BTreeSet<_> = runbook.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    let rules = rules();
    let alerts: BTreeSet<_> = rules.iter().map(|rule| rule["alert"].as_str().expect("a name")).collect();
    assert_eq!(alerts, chapters);
    for rule in &rules {
        let name = rule["alert"].as_str().expect("a name");
        assert!(name.starts_with("GenRegistryCluster"), "{name}: the dashboard counts these");
        assert!(["warning", "critical"].contains(&rule["labels"]["severity"].as_str().unwrap_or_default()), "{name}");
        let url = rule["annotations"]["runbook_url"].as_str().unwrap_or_default();
        assert!(url.ends_with(&format!("/{RUNBOOK}#{}", name.to_lowercase())), "{name}: {url}");
        for text in ["summary", "description"] {
            let text = rule["annotations"][text].as_str().unwrap_or_default();
            assert!(text.contains("{{ $labels.cluster }}"), "{name} names no cluster: {text}");
        }
        let cases = list(&tests["tests"]).iter().flat_map(|test| list(&test["alert_rule_test"]));
        let of_alert: Vec<_> = cases.filter(|case| case["alertname"] == name).collect();
        assert!(of_alert.iter().any(|case| list(&case["exp_alerts"]).len() == 1), "{name}: no case fires");
        assert!(of_alert.iter().any(|case| list(&case["exp_alerts"]).is_empty()), "{name}: no case is silent");
    }
}

#[test]
fn cluster_rules_pass_lint_and_their_tests() {
    for arguments in [&["check", "rules", "--lint=all", "--lint-fatal", RULES][..], &["test", "rules", TESTS]] {
        if let Some(output) = promtool::promtool(arguments, "") {
            promtool::is_content(&output);
        }
    }
}

/// Each change makes an alert fire in one of the cases in which it must not.
#[test]
fn loosened_cluster_alert_fails_its_tests() {
    const LOOSENED: [(&str, &str); 7] = [
        ("< 0.5 * gen_registry_cluster_valid_limit", "< gen_registry_cluster_valid_limit"),
        ("fences_total[10m]) > 0", "fences_total[10m]) >= 0"),
        ("min_over_time", "max_over_time"),
        ("state=\"stuck\"", "state=~\"stuck|moving\""),
        ("gen_registry_cluster_members > 0)", "gen_registry_cluster_members)"),
        ("> 0.05 * sum", "> 0.001 * sum"),
        ("[5m]))) > 0.5", "[5m]))) > 0.001"),
    ];
    let (rules, tests) = (paths::text(RULES), paths::text(TESTS));
    for (from, to) in LOOSENED {
        assert!(rules.contains(from), "there is no {from:?} to replace");
        let directory = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(directory.path().join("cluster_rules.yml"), rules.replace(from, to)).expect("it is written");
        let file = directory.path().join("cluster_rules_test.yml");
        std::fs::write(&file, &tests).expect("it is written");
        let Some(output) = promtool::promtool(&["test", "rules", file.to_str().expect("a text")], "") else { return };
        assert!(!output.status.success(), "no case fails with {to:?}");
    }
}

/// Adds up.
struct Sum(u64);

#[derive(serde::Serialize, serde::Deserialize)]
struct Add(u64);

impl Call for Add {
    const NAME: &'static str = "add";
    type Codec = Named;
    type Reply = u64;
}

impl Answers<Add> for Sum {
    fn message(Add(number): Add, reply: Reply<u64>) -> (u64, Reply<u64>) {
        (number, reply)
    }
}

impl Worker for Sum {
    type Key = String;
    type Args = ();
    type Message = (u64, Reply<u64>);
    type Error = std::convert::Infallible;

    async fn init((): (), _: &mut Context<Self>) -> Result<Self, Self::Error> {
        Ok(Self(0))
    }

    async fn handle(&mut self, (number, reply): Self::Message, _: &mut Context<Self>) -> Result<(), Self::Error> {
        self.0 += number;
        reply.send(self.0);
        Ok(())
    }
}

/// A node that is scraped, and another one, which both get calls.
async fn serve(listener: TcpListener) {
    let buckets = |builder: PrometheusBuilder, metric: &Metric| match metric.kind {
        Kind::Histogram { buckets } => {
            builder.set_buckets_for_metric(Matcher::Full(metric.name.into()), buckets).expect("it has buckets")
        }
        _ => builder,
    };
    let recorder = ALL.iter().fold(PrometheusBuilder::new(), buckets).build_recorder();
    let handle = recorder.handle();
    let router = Router::new().route("/metrics", get(move || std::future::ready(handle.render())));
    tokio::spawn(async { axum::serve(listener, router).await });
    let engine = Memory::new();
    let node = |name: &str| {
        let listen = "127.0.0.1:0".parse().expect("an address");
        Cluster::builder("sums").engine(engine.client(name)).listen(listen).shards(64)
    };
    let first = node("first").recorder(std::sync::Arc::new(recorder)).join().await.expect("the node joins");
    let other_recorder = std::sync::Arc::new(PrometheusBuilder::new().build_recorder());
    let second = node("second").recorder(other_recorder).join().await.expect("the node joins");
    let host = |cluster: &Cluster| cluster.host::<Sum>("sum", |_, _| ()).call::<Add>().start().expect("it is hosted");
    let (sums, _others) = (host(&first), host(&second));
    loop {
        for key in 0..64_u32 {
            // A call fails while shards move. That is in the metrics.
            let _ = sums.via(&key.to_string()).call(Add(1)).await;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[test]
fn prometheus_evaluates_the_cluster_dashboard() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).expect("a free port");
    let address: SocketAddr = listener.local_addr().expect("it is bound");
    runtime.spawn(serve(listener));
    let Some(prometheus) = Prometheus::scraping_with(RULES, "sums", address) else { return };
    // What stays empty without a failure or a move.
    let is_quiet = |title: &str| ["Time of a move", "Fences"].contains(&title);
    for panel in dashboard().panels() {
        let title = panel["title"].as_str().expect("a title");
        for target in list(&panel["targets"]) {
            let query = Query::new(title, target["expr"].as_str().expect("a text")).expect("it parses");
            let expression = query.filled_in(RATE_INTERVAL);
            eventually(&format!("{title} shows data: {expression}"), || {
                let values: Vec<f64> = prometheus.query(&expression).iter().flat_map(|s| s.values.clone()).collect();
                is_quiet(title) || values.iter().any(|value| value.is_finite())
            });
        }
    }
    eventually("all rules are evaluated", || {
        let rules = prometheus.rules();
        let broken: Vec<_> = rules.iter().filter(|rule| !rule.error.is_empty()).collect();
        assert!(broken.is_empty(), "{broken:?}");
        !rules.is_empty() && rules.iter().all(|rule| rule.health == "ok")
    });
    let served = prometheus.query("sum(gen_registry_cluster_shards{state=\"here\"})");
    assert!(served.iter().any(|series| series.values[0] > 0.0), "{served:?}");
}
