//! The files that run the service with Prometheus, Alertmanager and Grafana agree with each other and with the service.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::grafana::dashboard::list;
use crate::grafana::paths;
use crate::grafana::rules::Rules;

const COMPOSE: &str = "grafana/compose.yml";
const CONTAINER: &str = "examples/denylist/Containerfile";
const PROMETHEUS: &str = "grafana/prometheus/prometheus.yml";
const LOCAL: &str = "grafana/prometheus/local.yml";
const ALERTMANAGER: &str = "grafana/alertmanager/alertmanager.yml";

/// The port that each program listens on in its container, and the one that is published.
const PORTS: [(&str, u16); 4] = [("denylist", 8080), ("prometheus", 9090), ("alertmanager", 9093), ("grafana", 3000)];

fn service<'a>(compose: &'a Value, name: &str) -> &'a Value {
    let service = &compose["services"][name];
    assert!(service.is_object(), "there is no service {name}");
    service
}

fn texts(value: &Value) -> Vec<&str> {
    list(value).iter().map(|item| item.as_str().expect("a text")).collect()
}

/// The path of one of our directories inside a container.
fn mounted<'a>(service: &'a Value, directory: &str) -> &'a str {
    let mount = texts(&service["volumes"])
        .into_iter()
        .find_map(|volume| volume.strip_prefix(directory)?.strip_prefix(':')?.strip_suffix(":ro"));
    mount.unwrap_or_else(|| panic!("{directory} is not mounted, or not read-only"))
}

/// The instructions of the container file, each on one line.
fn instructions() -> Vec<(String, String)> {
    let text = paths::text(CONTAINER).replace("\\\n", " ");
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let split = |line: &str| {
        let (name, rest) = line.split_once(' ').expect("an instruction has arguments");
        (name.to_owned(), rest.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    lines.map(split).collect()
}

/// The variables that the image sets.
fn image_environment() -> BTreeMap<String, String> {
    let instructions = instructions();
    let pairs = instructions.iter().filter(|(name, _)| name == "ENV").flat_map(|(_, rest)| rest.split(' '));
    pairs.filter_map(|pair| pair.split_once('=')).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// The variables that the flags of the service read.
fn known_variables() -> BTreeSet<String> {
    let mut known = BTreeSet::new();
    for file in ["serve", "service", "log", "ready"] {
        let source = paths::text(&format!("examples/denylist/src/{file}.rs"));
        let found = source.split("env = \"").skip(1).filter_map(|rest| rest.split('"').next());
        known.extend(found.map(String::from));
    }
    assert!(known.len() > 8, "{known:?}");
    known
}

#[test]
fn mounted_volumes_exist() {
    let compose = paths::yaml(COMPOSE);
    let services = compose["services"].as_object().expect("services");
    assert_eq!(
        services.keys().map(String::as_str).collect::<BTreeSet<_>>(),
        PORTS.iter().map(|(name, _)| *name).collect::<BTreeSet<_>>()
    );
    let mut used = BTreeSet::new();
    for (name, service) in services {
        for volume in texts(&service["volumes"]) {
            let source = volume.split(':').next().unwrap_or_default();
            match source.strip_prefix("./") {
                Some(directory) => assert!(paths::path(&format!("grafana/{directory}")).is_dir(), "{volume}"),
                None => assert!(compose["volumes"].get(source).is_some() && used.insert(source), "{volume}"),
            }
        }
        for other in texts(&service["depends_on"]) {
            assert!(services.contains_key(other), "{name} depends on {other}");
        }
        let Some(image) = service["image"].as_str() else { continue };
        assert!(image.rsplit(':').next().is_some_and(|tag| tag.contains('.')), "{image} is no certain version");
        assert!(image.starts_with("docker.io/"), "{image}: podman asks which registry");
    }
    let declared: BTreeSet<_> = compose["volumes"].as_object().expect("volumes").keys().map(String::as_str).collect();
    assert_eq!(used, declared);
}

#[test]
fn only_loopback_is_published() {
    let compose = paths::yaml(COMPOSE);
    for (name, port) in PORTS {
        assert_eq!(texts(&service(&compose, name)["ports"]), [format!("127.0.0.1:{port}:{port}")], "{name}");
        assert!(service(&compose, name)["network_mode"].is_null(), "{name} is in another network");
    }
}

#[test]
fn container_file_runs_the_service() {
    let instructions = instructions();
    let last = |name: &str| {
        let found = instructions.iter().rev().find(|(instruction, _)| instruction == name);
        found.map(|(_, rest)| rest.as_str()).unwrap_or_else(|| panic!("no {name}"))
    };
    let environment = image_environment();
    for name in environment.keys() {
        assert!(known_variables().contains(name), "no flag reads {name}");
    }
    let (_, port) = PORTS[0];
    assert_eq!(environment["DENYLIST_LISTEN"], format!("0.0.0.0:{port}"), "the published port would reach nothing");
    assert_eq!(last("EXPOSE"), port.to_string());
    let database = environment["DENYLIST_DB"].as_str();
    assert!(database.starts_with(&format!("{}/", last("VOLUME"))), "{database} is not in the volume");
    assert_ne!(last("USER"), "root");
    assert_eq!(last("ENTRYPOINT"), r#"["denylist"]"#);
    assert!(last("HEALTHCHECK").ends_with(r#"CMD ["denylist", "ready"]"#));
    // The health check takes the address at which the service listens by default.
    let ready = paths::text("examples/denylist/src/ready.rs");
    assert!(ready.contains(&format!("default_value = \"http://127.0.0.1:{port}\"")));
    // The context is the repository. What the second stage copies, the first has made.
    let copies: Vec<_> =
        instructions.iter().filter(|(name, _)| name == "COPY").map(|(_, rest)| rest.as_str()).collect();
    assert_eq!(copies, [". .", "--from=build /usr/local/bin/denylist /usr/local/bin/denylist"]);
    let build = instructions.iter().find(|(name, rest)| name == "RUN" && rest.contains("cargo")).expect("a build");
    assert!(
        build.1.contains("cargo build --locked --release -p denylist && cp target/release/denylist /usr/local/bin")
    );
    for ignored in paths::text(&format!("{CONTAINER}.dockerignore")).lines() {
        let is_of_the_build =
            ["src", "macros", "examples", "Cargo", "tests"].iter().any(|kept| ignored.starts_with(kept));
        assert!(!is_of_the_build, "{ignored} is needed by the build");
    }
}

#[test]
fn compose_builds_and_sets_up_the_service() {
    let compose = paths::yaml(COMPOSE);
    let denylist = service(&compose, "denylist");
    let context = denylist["build"]["context"].as_str().expect("a context");
    let file = denylist["build"]["dockerfile"].as_str().expect("a container file");
    assert!(paths::path("grafana").join(context).join(file).is_file(), "{context}/{file}");
    for name in denylist["environment"].as_object().expect("variables").keys() {
        assert!(known_variables().contains(name), "no flag reads {name}");
    }
    let volume = texts(&denylist["volumes"])[0].split_once(':').expect("a volume").1.to_owned();
    assert!(image_environment()["DENYLIST_DB"].starts_with(&format!("{volume}/")), "the database is not in {volume}");
    assert_eq!(texts(&denylist["healthcheck"]["test"]), ["CMD", "denylist", "ready"]);
}

#[test]
fn grafana_is_provisioned() {
    let compose = paths::yaml(COMPOSE);
    let grafana = service(&compose, "grafana");
    for (name, port) in [PORTS[1], PORTS[2]] {
        let sources = paths::yaml(&format!("grafana/provisioning/datasources/{name}.yml"));
        let source = &sources["datasources"][0];
        assert_eq!((&source["type"], &source["uid"]), (&name.into(), &name.into()));
        assert_eq!(source["url"], format!("http://{name}:{port}"));
    }
    let source = &paths::yaml("grafana/provisioning/datasources/prometheus.yml")["datasources"][0];
    let interval = &paths::yaml(PROMETHEUS)["global"]["scrape_interval"];
    assert_eq!(source["jsonData"]["timeInterval"], *interval, "$__rate_interval would be wrong");

    assert_eq!(mounted(grafana, "./provisioning"), "/etc/grafana/provisioning");
    let providers = paths::yaml("grafana/provisioning/dashboards/gen-registry.yml");
    let dashboards = mounted(grafana, "./dashboards");
    assert_eq!(providers["providers"][0]["options"]["path"], dashboards);
    let home = format!("{dashboards}/gen-registry.json");
    assert_eq!(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"], home);
}

#[test]
fn configurations_are_mounted_and_read() {
    let compose = paths::yaml(COMPOSE);
    for (name, file) in [("prometheus", "prometheus.yml"), ("alertmanager", "alertmanager.yml")] {
        let service = service(&compose, name);
        let command = texts(&service["command"]);
        let config = format!("--config.file={}/{file}", mounted(service, &format!("./{name}")));
        assert!(command.contains(&config.as_str()), "{command:?}");
        assert!(paths::path(&format!("grafana/{name}/{file}")).is_file());
        let port = PORTS.iter().find(|(known, _)| *known == name).expect("a port").1;
        assert!(command.contains(&format!("--web.external-url=http://127.0.0.1:{port}").as_str()), "{command:?}");
        // Where the program stores its data is a volume.
        let stored =
            command.iter().find_map(|flag| flag.strip_prefix("--storage.")?.split_once("path=")).expect("a path").1;
        assert!(texts(&service["volumes"]).contains(&format!("{name}:{stored}").as_str()), "{stored}");
    }
}

#[test]
fn prometheus_scrapes_service_and_loads_rules() {
    let (containers, local) = (paths::yaml(PROMETHEUS), paths::yaml(LOCAL));
    let target = |config: &Value| config["scrape_configs"][0]["static_configs"][0]["targets"][0].clone();
    assert_eq!(target(&containers), format!("denylist:{}", PORTS[0].1));
    let alertmanagers = &containers["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"];
    assert_eq!(texts(alertmanagers), [format!("alertmanager:{}", PORTS[2].1)]);
    let address = target(&local);
    let address = address.as_str().expect("an address");
    let source = paths::text("examples/denylist/src/serve.rs");
    assert!(source.contains(&format!("default_value = \"{address}\"")), "the service does not listen on {address}");
    for key in ["global", "rule_files"] {
        assert_eq!(containers[key], local[key], "the two configurations differ in more than the addresses");
    }
    assert_eq!(texts(&containers["rule_files"]), ["rules.yml"]);
    assert!(paths::path("grafana/prometheus/rules.yml").is_file());
}

#[test]
fn alertmanager_routes_every_severity() {
    let config = paths::yaml(ALERTMANAGER);
    let receivers: BTreeSet<_> =
        list(&config["receivers"]).iter().filter_map(|receiver| receiver["name"].as_str()).collect();
    let routes = list(&config["route"]["routes"]);
    let named = routes.iter().chain([&config["route"]]).map(|route| route["receiver"].as_str().expect("a receiver"));
    assert_eq!(named.collect::<BTreeSet<_>>(), receivers);
    let rules = Rules::read();
    let critical = rules.alerts().filter(|alert| alert["labels"]["severity"] == "critical").count();
    assert!(critical > 0 && texts(&routes[0]["matchers"]) == ["severity=\"critical\""]);
    let names: BTreeSet<_> = rules.alerts().filter_map(|alert| alert["alert"].as_str()).collect();
    for inhibition in list(&config["inhibit_rules"]) {
        for matcher in [&inhibition["source_matchers"], &inhibition["target_matchers"]].into_iter().flat_map(texts) {
            let name = matcher.strip_prefix("alertname=\"").and_then(|rest| rest.strip_suffix('"'));
            assert!(name.is_some_and(|name| names.contains(name)), "{matcher} matches no alert");
        }
    }
}
