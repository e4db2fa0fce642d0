//! The dashboard conforms to the types that Grafana publishes. `grafana/schema/README.md` says where they come from.

use jsonschema::Validator;
use serde_json::{Value, json};

use crate::grafana::dashboard::{Dashboard, list};
use crate::grafana::paths;

/// Grafana's own data source for annotations has another `target` than the published type, and Prometheus' has these on
/// the annotation itself. `layout` checks them.
const OF_PROMETHEUS_ANNOTATIONS: [&str; 4] = ["target", "titleFormat", "textFormat", "tagKeys"];

fn schema(name: &str) -> Value {
    paths::json(&format!("grafana/schema/{name}.json"))
}

fn validator(schema: &Value) -> Validator {
    jsonschema::draft7::new(schema).expect("the schemas are made by a generator")
}

/// The schema of one type in a file.
fn of_type(mut schema: Value, name: &str) -> Validator {
    assert!(schema["definitions"][name].is_object(), "there is no type {name}");
    schema["$ref"] = json!(format!("#/definitions/{name}"));
    validator(&schema)
}

fn errors(validator: &Validator, value: &Value, location: &str) -> Vec<String> {
    validator.iter_errors(value).map(|error| format!("{location}{}: {error}", error.instance_path())).collect()
}

pub(crate) fn problems(dashboard: &Dashboard) -> Vec<String> {
    let mut json = dashboard.0.clone();
    // For the import dialogue. `layout` checks it.
    json.as_object_mut().map(|fields| fields.remove("__requires"));
    for annotation in json["annotations"]["list"].as_array_mut().into_iter().flatten() {
        if let Some(fields) = annotation.as_object_mut().filter(|fields| !fields.contains_key("builtIn")) {
            fields.retain(|name, _| !OF_PROMETHEUS_ANNOTATIONS.contains(&name.as_str()));
        }
    }
    // A panel is a Panel or a RowPanel. The error of such a choice is useless, so each panel is validated against one
    // type.
    let panels = json["panels"].as_array_mut().map(std::mem::take).unwrap_or_default();
    let mut problems = errors(&validator(&schema("dashboard")), &json, "dashboard");
    let (panel_type, row_type) = (of_type(schema("dashboard"), "Panel"), of_type(schema("dashboard"), "RowPanel"));
    for panel in &panels {
        let location = format!("panel {}", panel["title"]);
        let kind = panel["type"].as_str().unwrap_or_default();
        if kind == "row" {
            problems.extend(errors(&row_type, panel, &location));
            continue;
        }
        problems.extend(errors(&panel_type, panel, &location));
        if !paths::path(&format!("grafana/schema/{kind}.json")).is_file() {
            problems.push(format!("{location}: there is no schema for panels of the type {kind:?}"));
            continue;
        }
        let schema = schema(kind);
        problems.extend(errors(&of_type(schema.clone(), "Options"), &panel["options"], &location));
        if schema["definitions"]["FieldConfig"].is_object() {
            let custom = &panel["fieldConfig"]["defaults"]["custom"];
            problems.extend(errors(&of_type(schema, "FieldConfig"), custom, &location));
        }
    }
    problems
}

#[test]
fn dashboard_matches_grafana_schema() {
    let dashboard = Dashboard::read();
    assert!(list(&dashboard.0["panels"]).len() > 5, "there is something to check");
    assert_eq!(problems(&dashboard), [""; 0]);
}
