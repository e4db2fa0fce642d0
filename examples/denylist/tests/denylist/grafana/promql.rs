//! [`Query`]: a parsed expression and what it reads.

use std::collections::BTreeSet;

use promql_parser::label::{MatchOp, Matcher};
use promql_parser::parser::{self, Expr, LabelModifier, VectorSelector};

/// Grafana replaces `$__rate_interval`. The value does not matter for parsing.
const RATE_INTERVAL: &str = "$__rate_interval";

/// An expression of the dashboard or of the rules.
#[derive(Debug)]
pub(crate) struct Query {
    /// Where the expression is, for error messages.
    pub(crate) location: String,
    /// The original text.
    pub(crate) text: String,
    expression: Expr,
}

/// A metric that an expression reads.
#[derive(Debug)]
pub(crate) struct Reading<'a> {
    pub(crate) metric: &'a str,
    pub(crate) matchers: &'a [Matcher],
    /// The function that takes a range of it, as in `rate(metric[5m])`.
    pub(crate) over_time: Option<&'a str>,
}

impl Query {
    pub(crate) fn new(location: impl Into<String>, text: &str) -> Result<Self, String> {
        let location = location.into();
        // The other variables are inside strings, where they parse like any value.
        match parser::parse(&text.replace(RATE_INTERVAL, "1m")) {
            Ok(expression) => Ok(Self { location, text: text.to_owned(), expression }),
            Err(error) => Err(format!("{location}: does not parse: {error}: {text}")),
        }
    }

    /// The expression as Grafana sends it, with all jobs, instances and registries selected.
    pub(crate) fn filled_in(&self, rate_interval: &str) -> String {
        let mut text = self.text.replace(RATE_INTERVAL, rate_interval);
        for variable in ["$job", "$instance", "$registry"] {
            text = text.replace(variable, ".+");
        }
        text
    }

    pub(crate) fn readings(&self) -> Vec<Reading<'_>> {
        let mut readings = Vec::new();
        collect(&self.expression, None, &mut readings);
        readings
    }

    /// The labels in `by`, `without`, `on` and `ignoring`.
    pub(crate) fn grouping_labels(&self) -> BTreeSet<&str> {
        let mut labels = BTreeSet::new();
        walk(&self.expression, &mut |expression| {
            let modifier = match expression {
                Expr::Aggregate(aggregate) => aggregate.modifier.as_ref(),
                Expr::Binary(binary) => binary.modifier.as_ref().and_then(|modifier| modifier.matching.as_ref()),
                _ => None,
            };
            labels.extend(modifier.into_iter().flat_map(|modifier| &modifier.labels().labels).map(String::as_str));
        });
        labels
    }

    /// The ranges, as written.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = &str> {
        self.text.split('[').skip(1).filter_map(|rest| rest.split(']').next())
    }

    /// The labels of the result. `labels_of` returns those of a metric.
    pub(crate) fn result_labels(&self, labels_of: &dyn Fn(&str) -> BTreeSet<String>) -> BTreeSet<String> {
        result_labels(&self.expression, labels_of)
    }
}

/// The values that a matcher names: one, or the alternatives of a regular expression.
pub(crate) fn named_values(matcher: &Matcher) -> Vec<&str> {
    match matcher.op {
        MatchOp::Equal | MatchOp::NotEqual => vec![&matcher.value],
        MatchOp::Re(_) | MatchOp::NotRe(_) => matcher.value.split('|').collect(),
    }
}

fn children(expression: &Expr) -> Vec<&Expr> {
    match expression {
        Expr::Aggregate(aggregate) => aggregate.param.iter().chain([&aggregate.expr]).map(Box::as_ref).collect(),
        Expr::Unary(unary) => vec![&unary.expr],
        Expr::Binary(binary) => vec![&binary.lhs, &binary.rhs],
        Expr::Paren(paren) => vec![&paren.expr],
        Expr::Subquery(subquery) => vec![&subquery.expr],
        Expr::Call(call) => call.args.args.iter().map(Box::as_ref).collect(),
        Expr::Extension(extension) => extension.expr.children().iter().collect(),
        Expr::NumberLiteral(_) | Expr::StringLiteral(_) | Expr::VectorSelector(_) | Expr::MatrixSelector(_) => vec![],
    }
}

fn walk<'a>(expression: &'a Expr, visit: &mut dyn FnMut(&'a Expr)) {
    visit(expression);
    for child in children(expression) {
        walk(child, visit);
    }
}

fn collect<'a>(expression: &'a Expr, function: Option<&'a str>, readings: &mut Vec<Reading<'a>>) {
    let reading = |selector: &'a VectorSelector, over_time| Reading {
        metric: selector.name.as_deref().unwrap_or_default(),
        matchers: &selector.matchers.matchers,
        over_time,
    };
    match expression {
        Expr::VectorSelector(selector) => readings.push(reading(selector, None)),
        Expr::MatrixSelector(matrix) => readings.push(reading(&matrix.vs, Some(function.unwrap_or("nothing")))),
        Expr::Call(call) => {
            for argument in &call.args.args {
                collect(argument, Some(call.func.name), readings);
            }
        }
        other => {
            for child in children(other) {
                collect(child, None, readings);
            }
        }
    }
}

fn result_labels(expression: &Expr, labels_of: &dyn Fn(&str) -> BTreeSet<String>) -> BTreeSet<String> {
    let inner = |expression: &Expr| result_labels(expression, labels_of);
    match expression {
        Expr::VectorSelector(selector) => labels_of(selector.name.as_deref().unwrap_or_default()),
        Expr::MatrixSelector(matrix) => labels_of(matrix.vs.name.as_deref().unwrap_or_default()),
        Expr::Aggregate(aggregate) => {
            let labels = inner(&aggregate.expr);
            match &aggregate.modifier {
                Some(LabelModifier::Include(by)) => by.labels.iter().cloned().collect(),
                Some(LabelModifier::Exclude(without)) => {
                    labels.into_iter().filter(|label| !without.labels.contains(label)).collect()
                }
                // These operators select series and keep their labels.
                None if matches!(aggregate.op.to_string().as_str(), "topk" | "bottomk") => labels,
                None => BTreeSet::new(),
            }
        }
        Expr::Call(call) => {
            let mut labels = call.args.args.last().map_or_else(BTreeSet::new, |argument| inner(argument));
            if call.func.name == "histogram_quantile" {
                labels.remove("le");
            }
            labels
        }
        Expr::Unary(unary) => inner(&unary.expr),
        Expr::Paren(paren) => inner(&paren.expr),
        Expr::Subquery(subquery) => inner(&subquery.expr),
        // None of our expressions takes labels from the right side.
        Expr::Binary(binary) => inner(&binary.lhs),
        Expr::NumberLiteral(_) | Expr::StringLiteral(_) | Expr::Extension(_) => BTreeSet::new(),
    }
}

#[test]
fn invalid_promql_is_rejected() {
    for text in ["", "sum(", "rate(gen_registry_lookups_total)", "gen_registry_workers{state=~\"(\"}", "a b"] {
        let refused = Query::new("here", text).expect_err(text);
        assert!(refused.starts_with("here: does not parse"), "{refused}");
    }
}

#[test]
fn query_lists_its_metrics_and_labels() {
    let text = "topk(3, sum without (state) (rate(a{state=\"x\"}[$__rate_interval]))) / on (job) max by (job, le) (b)";
    let query = Query::new("here", text).expect("the query parses");
    let readings = query.readings();
    let read: Vec<_> = readings.iter().map(|reading| (reading.metric, reading.over_time)).collect();
    assert_eq!(read, [("a", Some("rate")), ("b", None)]);
    assert_eq!(query.grouping_labels(), BTreeSet::from(["state", "job", "le"]));
    assert_eq!(query.ranges().collect::<Vec<_>>(), ["$__rate_interval"]);
    let labels = query.result_labels(&|_| ["job", "state", "registry"].map(String::from).into());
    assert_eq!(labels, ["job", "registry"].map(String::from).into());
}
