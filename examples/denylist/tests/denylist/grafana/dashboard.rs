//! [`Dashboard`]: `gen-registry.json` and its queries.

use serde_json::Value;

use crate::grafana::paths;
use crate::grafana::promql::Query;

pub(crate) const FILE: &str = "grafana/dashboards/gen-registry.json";

pub(crate) struct Dashboard(pub(crate) Value);

/// A target of a panel.
pub(crate) struct Target {
    pub(crate) query: Query,
    /// Whether the query is for one moment and not for the range shown.
    pub(crate) is_instant: bool,
    pub(crate) legend: String,
}

impl Dashboard {
    pub(crate) fn read() -> Self {
        Self(paths::json(FILE))
    }

    /// The panels that show data, including those in collapsed rows.
    pub(crate) fn panels(&self) -> Vec<&Value> {
        self.all_panels().into_iter().filter(|panel| panel["type"] != "row").collect()
    }

    pub(crate) fn all_panels(&self) -> Vec<&Value> {
        let top = list(&self.0["panels"]);
        top.iter().flat_map(|panel| std::iter::once(panel).chain(list(&panel["panels"]))).collect()
    }

    pub(crate) fn variables(&self) -> &[Value] {
        list(&self.0["templating"]["list"])
    }

    /// All annotations but the one that every dashboard has.
    pub(crate) fn annotations(&self) -> impl Iterator<Item = &Value> {
        list(&self.0["annotations"]["list"]).iter().filter(|annotation| annotation["builtIn"] != 1)
    }

    /// The queries of the panels, or the parse errors.
    pub(crate) fn targets(&self) -> Result<Vec<Target>, Vec<String>> {
        let parsed = self.panels().into_iter().flat_map(|panel| {
            list(&panel["targets"]).iter().map(|target| {
                let location = format!("panel {} {}", panel["title"], target["refId"]);
                Ok(Target {
                    query: Query::new(location, target["expr"].as_str().unwrap_or_default())?,
                    is_instant: target["instant"] == true,
                    legend: target["legendFormat"].as_str().unwrap_or_default().to_owned(),
                })
            })
        });
        all_or_errors(parsed)
    }

    /// The queries of the annotations, or the parse errors.
    pub(crate) fn annotation_queries(&self) -> Result<Vec<Query>, Vec<String>> {
        all_or_errors(self.annotations().map(|annotation| {
            let expression = annotation["target"]["expr"].as_str().unwrap_or_default();
            Query::new(format!("annotation {}", annotation["name"]), expression)
        }))
    }

    /// The queries of the variables: the label, and the selector as an expression.
    pub(crate) fn variable_queries(&self) -> Result<Vec<(String, Query)>, Vec<String>> {
        let asking = self.variables().iter().filter(|variable| variable["type"] == "query");
        all_or_errors(asking.map(|variable| {
            let location = format!("variable {}", variable["name"]);
            let text = variable["query"].as_str().unwrap_or_default();
            let inside = text.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')'));
            let (selector, label) = inside
                .and_then(|inside| inside.rsplit_once(", "))
                .ok_or_else(|| format!("{location}: is not label_values(metric, label): {text}"))?;
            Ok((label.to_owned(), Query::new(location, selector)?))
        }))
    }
}

pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// All errors and not only the first, so that they can be fixed together.
pub(crate) fn all_or_errors<T>(results: impl Iterator<Item = Result<T, String>>) -> Result<Vec<T>, Vec<String>> {
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for result in results {
        match result {
            Ok(value) => good.push(value),
            Err(error) => bad.push(error),
        }
    }
    if bad.is_empty() { Ok(good) } else { Err(bad) }
}
