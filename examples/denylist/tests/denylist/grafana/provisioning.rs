//! The files that set up Prometheus and Grafana agree with each other and with the service.

use serde_json::Value;

use crate::grafana::dashboard::list;
use crate::grafana::paths;

const COMPOSE: &str = "grafana/docker-compose.yml";
const PROMETHEUS: &str = "grafana/prometheus/prometheus.yml";

/// The path of one of our files inside a container.
fn mounted<'a>(service: &'a Value, directory: &str) -> &'a str {
    let mount = list(&service["volumes"])
        .iter()
        .filter_map(Value::as_str)
        .find_map(|volume| volume.strip_prefix(directory)?.strip_prefix(':')?.strip_suffix(":ro"));
    mount.unwrap_or_else(|| panic!("{directory} is not mounted, or not read-only"))
}

#[test]
fn mounted_volumes_exist() {
    let compose = paths::yaml(COMPOSE);
    for service in ["prometheus", "grafana"] {
        for volume in list(&compose["services"][service]["volumes"]).iter().filter_map(Value::as_str) {
            let source = volume.split(':').next().unwrap_or_default();
            match source.strip_prefix("./") {
                Some(directory) => assert!(paths::path(&format!("grafana/{directory}")).is_dir(), "{volume}"),
                None => assert!(compose["volumes"].get(source).is_some(), "{volume}"),
            }
        }
        let image = compose["services"][service]["image"].as_str().expect("an image");
        assert!(image.rsplit(':').next().is_some_and(|tag| tag.contains('.')), "{image} is no certain version");
    }
}

#[test]
fn grafana_is_provisioned() {
    let compose = paths::yaml(COMPOSE);
    let (prometheus, grafana) = (&compose["services"]["prometheus"], &compose["services"]["grafana"]);
    let command: Vec<_> = list(&prometheus["command"]).iter().filter_map(Value::as_str).collect();
    let sources = paths::yaml("grafana/provisioning/datasources/prometheus.yml");
    let source = &sources["datasources"][0];
    let address = source["url"].as_str().and_then(|url| url.strip_prefix("http://")).expect("an address");
    assert!(command.contains(&format!("--web.listen-address={address}").as_str()), "{command:?}");
    let config = format!("--config.file={}/prometheus.yml", mounted(prometheus, "./prometheus"));
    assert!(command.contains(&config.as_str()), "{command:?}");
    assert_eq!(source["type"], "prometheus");
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
fn only_loopback_is_bound() {
    let compose = paths::yaml(COMPOSE);
    let services = &compose["services"];
    assert!(services.as_object().is_some_and(|services| services.len() == 2), "check the additional service here too");
    for service in ["prometheus", "grafana"] {
        // They use the host's network, so the listen addresses are the exposed ones.
        assert_eq!(services[service]["network_mode"], "host");
    }
    let command: Vec<_> = list(&services["prometheus"]["command"]).iter().filter_map(Value::as_str).collect();
    assert!(command.iter().any(|flag| flag.starts_with("--web.listen-address=127.0.0.1:")), "{command:?}");
    assert_eq!(services["grafana"]["environment"]["GF_SERVER_HTTP_ADDR"], "127.0.0.1");
}

#[test]
fn prometheus_scrapes_service_and_loads_rules() {
    let prometheus = paths::yaml(PROMETHEUS);
    let target = prometheus["scrape_configs"][0]["static_configs"][0]["targets"][0].as_str().expect("a target");
    let service = paths::text("examples/denylist/src/serve.rs");
    assert!(service.contains(&format!("default_value = \"{target}\"")), "the service does not listen on {target}");
    for file in list(&prometheus["rule_files"]).iter().filter_map(Value::as_str) {
        assert!(paths::path(&format!("grafana/prometheus/{file}")).is_file(), "{file}");
    }
    assert_eq!(list(&prometheus["rule_files"]), ["rules.yml"]);
}
