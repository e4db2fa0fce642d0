//! [`Query`]: a parsed expression and what it reads.

use std::collections::BTreeSet;

use regex::Regex;
use rusty_promql_parser::parser::function::{ValueType, get_function};
use rusty_promql_parser::{BinaryExpr, Call, Expr, GroupingAction, LabelMatcher, VectorSelector};

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
    pub(crate) matchers: &'a [LabelMatcher],
    /// The function that takes a range of it, as in `rate(metric[5m])`.
    pub(crate) over_time: Option<&'a str>,
}

impl Query {
    pub(crate) fn new(location: impl Into<String>, text: &str) -> Result<Self, String> {
        let location = location.into();
        // The other variables are inside strings, where they parse like any value.
        match parse(&text.replace(RATE_INTERVAL, "1m")) {
            Ok(expression) => Ok(Self { location, text: text.to_owned(), expression }),
            Err(error) => Err(format!("{location}: does not parse: {error}: {text}")),
        }
    }

    /// The expression as Grafana sends it, with all jobs, instances and registries selected.
    pub(crate) fn filled_in(&self, rate_interval: &str) -> String {
        let mut text = self.text.replace(RATE_INTERVAL, rate_interval);
        for variable in ["$job", "$instance", "$registry", "$cluster"] {
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
                Expr::Aggregation(aggregation) => aggregation.grouping.as_ref().map(|grouping| &grouping.labels),
                Expr::Binary(binary) => {
                    let matching = binary.modifier.as_ref().and_then(|modifier| modifier.matching.as_ref());
                    matching.map(|matching| &matching.labels)
                }
                _ => None,
            };
            labels.extend(modifier.into_iter().flatten().map(String::as_str));
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
pub(crate) fn named_values(matcher: &LabelMatcher) -> Vec<&str> {
    if matcher.op.is_regex() { matcher.value.split('|').collect() } else { vec![&matcher.value] }
}

/// Whether a matcher selects a series with this value of the label.
pub(crate) fn selects(matcher: &LabelMatcher, value: &str) -> bool {
    let is_match = if matcher.op.is_regex() {
        pattern(matcher).is_ok_and(|pattern| pattern.is_match(value))
    } else {
        matcher.value == value
    };
    is_match != matcher.op.is_negative()
}

/// The regular expression of a matcher, anchored as Prometheus anchors it.
fn pattern(matcher: &LabelMatcher) -> Result<Regex, String> {
    Regex::new(&format!("^(?:{})$", matcher.value)).map_err(|error| format!("{matcher}: {error}"))
}

fn parse(text: &str) -> Result<Expr, String> {
    let (rest, expression) = rusty_promql_parser::expr(text).map_err(|error| error.to_string())?;
    if !rest.trim().is_empty() {
        return Err(format!("unexpected {rest:?}"));
    }
    // Neither a panel nor a rule can use a range vector or a string.
    typed(&expression, &[ValueType::Scalar, ValueType::Vector])?;
    Ok(expression)
}

/// Checks the types within an expression, which the parser does not, and that its own is one of these.
fn typed(expression: &Expr, allowed: &[ValueType]) -> Result<ValueType, String> {
    let found = match expression {
        Expr::Number(_) => ValueType::Scalar,
        Expr::String(_) => ValueType::String,
        Expr::VectorSelector(selector) => with_patterns(selector, ValueType::Vector)?,
        Expr::MatrixSelector(matrix) => with_patterns(&matrix.selector, ValueType::Matrix)?,
        Expr::Subquery(subquery) => typed(&subquery.expr, &[ValueType::Vector]).map(|_| ValueType::Matrix)?,
        Expr::Paren(inner) => typed(inner, allowed)?,
        Expr::Unary(unary) => typed(&unary.expr, &[ValueType::Scalar, ValueType::Vector])?,
        Expr::Binary(binary) => type_of_binary(binary)?,
        Expr::Aggregation(aggregation) => {
            let parameter = if aggregation.op == "count_values" { ValueType::String } else { ValueType::Scalar };
            aggregation.param.iter().try_for_each(|given| typed(given, &[parameter]).map(drop))?;
            typed(&aggregation.expr, &[ValueType::Vector])?
        }
        Expr::Call(call) => type_of_call(call)?,
    };
    if allowed.contains(&found) { Ok(found) } else { Err(format!("unexpected {found}: {expression}")) }
}

fn with_patterns(selector: &VectorSelector, found: ValueType) -> Result<ValueType, String> {
    let patterns = selector.matchers.iter().filter(|matcher| matcher.op.is_regex());
    patterns.map(pattern).try_for_each(|compiled| compiled.map(drop))?;
    Ok(found)
}

fn type_of_binary(binary: &BinaryExpr) -> Result<ValueType, String> {
    let is_matching = binary.modifier.as_ref().is_some_and(|modifier| modifier.matching.is_some());
    let allowed: &[_] = if binary.op.is_set_operator() || is_matching {
        &[ValueType::Vector]
    } else {
        &[ValueType::Scalar, ValueType::Vector]
    };
    let sides = [typed(&binary.lhs, allowed)?, typed(&binary.rhs, allowed)?];
    Ok(if sides.contains(&ValueType::Vector) { ValueType::Vector } else { ValueType::Scalar })
}

fn type_of_call(call: &Call) -> Result<ValueType, String> {
    let function = get_function(&call.name).ok_or_else(|| format!("unknown function {}", call.name))?;
    let (given, most) = (call.args.len(), function.max_args().unwrap_or(usize::MAX));
    if !(function.min_args()..=most).contains(&given) {
        return Err(format!("{given} arguments: {call}"));
    }
    // A variadic function repeats its last type.
    let types = function.arg_types.iter().chain(function.arg_types.last().into_iter().cycle());
    for (argument, &expected) in call.args.iter().zip(types) {
        typed(argument, &[expected])?;
    }
    Ok(function.return_type)
}

fn children(expression: &Expr) -> Vec<&Expr> {
    match expression {
        Expr::Aggregation(aggregation) => aggregation.param.iter().chain([&aggregation.expr]).collect(),
        Expr::Unary(unary) => vec![&unary.expr],
        Expr::Binary(binary) => vec![&binary.lhs, &binary.rhs],
        Expr::Paren(inner) => vec![inner],
        Expr::Subquery(subquery) => vec![&subquery.expr],
        Expr::Call(call) => call.args.iter().collect(),
        Expr::Number(_) | Expr::String(_) | Expr::VectorSelector(_) | Expr::MatrixSelector(_) => vec![],
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
        matchers: &selector.matchers,
        over_time,
    };
    match expression {
        Expr::VectorSelector(selector) => readings.push(reading(selector, None)),
        Expr::MatrixSelector(matrix) => readings.push(reading(&matrix.selector, Some(function.unwrap_or("nothing")))),
        Expr::Call(call) => {
            for argument in &call.args {
                collect(argument, Some(&call.name), readings);
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
        Expr::MatrixSelector(matrix) => labels_of(matrix.name().unwrap_or_default()),
        Expr::Aggregation(aggregation) => {
            let labels = inner(&aggregation.expr);
            match &aggregation.grouping {
                Some(by) if by.action == GroupingAction::By => by.labels.iter().cloned().collect(),
                Some(without) => labels.into_iter().filter(|label| !without.labels.contains(label)).collect(),
                // These operators select series and keep their labels.
                None if matches!(aggregation.op.as_str(), "topk" | "bottomk") => labels,
                None => BTreeSet::new(),
            }
        }
        Expr::Call(call) => {
            let mut labels = call.args.last().map_or_else(BTreeSet::new, inner);
            if call.name == "histogram_quantile" {
                labels.remove("le");
            }
            labels
        }
        Expr::Unary(unary) => inner(&unary.expr),
        Expr::Paren(expression) => inner(expression),
        Expr::Subquery(subquery) => inner(&subquery.expr),
        // None of our expressions takes labels from the right side.
        Expr::Binary(binary) => inner(&binary.lhs),
        Expr::Number(_) | Expr::String(_) => BTreeSet::new(),
    }
}

/// What Prometheus refuses too, as a test of [`promtool`](super::promtool) shows.
pub(crate) const INVALID: [&str; 19] = [
    "",
    "sum(",
    "a b",
    "a)",
    "a orb",
    "a{state=\"x\"",
    "a{state=~\"(\"}",
    "topk(a)",
    "sum by (job) (a) by (job)",
    "rate(a)",
    "rate(sum(a)[5m])",
    "rat(a[5m])",
    "rate(a[5m], 1)",
    "sum(a[5m])",
    "sum((a{state=\"x\"}[5m]))",
    "a[5m] > 1",
    "histogram_quantile(a, b)",
    "a or 1",
    "a / on (job) 1",
];

#[test]
fn invalid_promql_is_rejected() {
    for text in INVALID {
        let refused = Query::new("here", text).expect_err(text);
        assert!(refused.starts_with("here: does not parse"), "{refused}");
    }
    for text in ["a[5m]", "\"a\""] {
        Query::new("here", text).expect_err("no panel shows a range or a string");
    }
}

#[test]
fn valid_promql_is_accepted() {
    for text in
        ["-(a + 1) ^ 2", "max_over_time(rate(a[1h30m])[5m:1m])", "label_join(a, \"b\", \",\", \"c\", \"d\")", "time()"]
    {
        Query::new("here", text).expect("it parses");
    }
}

#[test]
fn matcher_selects_whole_values() {
    let selected = |text: &str| {
        let query = Query::new("here", text).expect("it parses");
        ["xy", "x", "z"].map(|value| selects(&query.readings()[0].matchers[0], value))
    };
    assert_eq!(selected("a{b=\"x\"}"), [false, true, false]);
    assert_eq!(selected("a{b!=\"x\"}"), [true, false, true]);
    assert_eq!(selected("a{b=~\"x|z\"}"), [false, true, true]);
    assert_eq!(selected("a{b!~\"x.*\"}"), [false, false, true]);
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
