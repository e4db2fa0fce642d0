//! [`picture`]: draws the dashboard with the data of a Prometheus as an SVG. It does not look like Grafana's, but shows
//! the same numbers at the same positions, which is enough to see whether each panel answers its question.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::Value;

use crate::grafana::dashboard::{Dashboard, list};
use crate::grafana::prometheus::{Prometheus, RATE_INTERVAL, Series};
use crate::grafana::promql::Query;

/// Pixels per column and row of the dashboard's grid.
const GRID: (f64, f64) = (64.0, 34.0);
const COLOURS: [&str; 8] = ["#3274d9", "#e0742f", "#3f9b4f", "#c4162a", "#8f3bb8", "#b5890f", "#1d9a9a", "#757575"];

/// The position of a panel.
struct Frame {
    x: f64,
    y: f64,
    width: f64,
    height: f64,
}

/// A result of a query: a legend and a line.
struct Line {
    legend: String,
    label: Option<f64>,
    points: Vec<f64>,
}

/// Draws the last `seconds` of every panel.
pub(crate) fn picture(dashboard: &Dashboard, prometheus: &Prometheus, seconds: u64) -> String {
    let number = |panel: &Value, side: &str| panel["gridPos"][side].as_f64().expect("a number");
    let bottom = dashboard.all_panels().iter().map(|panel| number(panel, "y") + number(panel, "h")).fold(0.0, f64::max);
    let (width, height) = (24.0 * GRID.0, bottom * GRID.1);
    let mut svg = String::new();
    put(
        &mut svg,
        format_args!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" font-family=\"DejaVu Sans, \
         sans-serif\" font-size=\"11\"><rect width=\"100%\" height=\"100%\" fill=\"#f4f5f5\"/>"
        ),
    );
    for panel in dashboard.all_panels() {
        let frame = Frame {
            x: number(panel, "x") * GRID.0 + 3.0,
            y: number(panel, "y") * GRID.1 + 3.0,
            width: number(panel, "w") * GRID.0 - 6.0,
            height: number(panel, "h") * GRID.1 - 6.0,
        };
        let title = panel["title"].as_str().unwrap_or_default();
        if panel["type"] == "row" {
            text(&mut svg, frame.x, frame.y + 18.0, 16, title);
            continue;
        }
        let Frame { x, y, width, height } = frame;
        put(
            &mut svg,
            format_args!(
                "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" fill=\"#fff\" stroke=\"#d8d9da\"/>"
            ),
        );
        text(&mut svg, x + 8.0, y + 16.0, 12, title);
        let unit = panel["fieldConfig"]["defaults"]["unit"].as_str().unwrap_or_default();
        let lines = lines(panel, prometheus, seconds);
        let inside = Frame { x: x + 8.0, y: y + 24.0, width: width - 16.0, height: height - 32.0 };
        match panel["type"].as_str() {
            Some("stat") => stat(&mut svg, &inside, unit, &lines),
            Some("bargauge") => bars(&mut svg, &inside, unit, &lines),
            Some("heatmap") => heatmap(&mut svg, &inside, unit, lines),
            _ => chart(&mut svg, &inside, unit, &lines, seconds),
        }
    }
    svg + "</svg>\n"
}

fn put(svg: &mut String, what: std::fmt::Arguments<'_>) {
    svg.write_fmt(what).expect("writing to a string cannot fail");
    svg.push('\n');
}

fn text(svg: &mut String, x: f64, y: f64, size: u32, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    put(svg, format_args!("<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"{size}\" fill=\"#24292e\">{text}</text>"));
}

fn lines(panel: &Value, prometheus: &Prometheus, seconds: u64) -> Vec<Line> {
    let mut lines = Vec::new();
    for target in list(&panel["targets"]) {
        let query = Query::new("picture", target["expr"].as_str().unwrap_or_default()).expect("the query parses");
        let expression = query.filled_in(RATE_INTERVAL);
        let series = if target["instant"] == true {
            prometheus.query(&expression)
        } else {
            prometheus.query_range(&expression, seconds)
        };
        let legend = target["legendFormat"].as_str().unwrap_or_default();
        lines.extend(series.into_iter().map(|Series { labels, values }| Line {
            legend: filled_in(legend, &labels),
            label: labels.get("le").and_then(|bound| bound.parse().ok()),
            points: values,
        }));
    }
    lines
}

fn filled_in(legend: &str, labels: &BTreeMap<String, String>) -> String {
    labels.iter().fold(legend.to_owned(), |legend, (name, value)| legend.replace(&format!("{{{{{name}}}}}"), value))
}

fn shown(value: f64, unit: &str) -> String {
    match unit {
        _ if !value.is_finite() => String::from("no data"),
        "s" if value == 0.0 => String::from("0 s"),
        "s" if value < 0.000_999_5 => format!("{} µs", rounded(value * 1e6)),
        "s" if value < 0.999_5 => format!("{} ms", rounded(value * 1e3)),
        "s" => format!("{} s", rounded(value)),
        "percentunit" => format!("{} %", rounded(value * 100.0)),
        "cps" => format!("{}/s", rounded(value)),
        _ => rounded(value),
    }
}

/// Three digits, without zeros behind the point.
fn rounded(value: f64) -> String {
    let decimals = match value.abs() {
        100.0.. => 0,
        10.0.. => 1,
        _ => 2,
    };
    let text = format!("{value:.decimals$}");
    if decimals == 0 { text } else { text.trim_end_matches('0').trim_end_matches('.').to_owned() }
}

/// The distance of the lines of a scale: 1, 2 or 5 times a power of ten, so that at most four reach the value.
fn step(most: f64) -> f64 {
    let power = 10.0_f64.powf((most / 4.0).log10().floor());
    [1.0, 2.0, 5.0, 10.0].map(|digit| digit * power).into_iter().find(|step| step * 4.0 >= most).unwrap_or(power)
}

fn last(line: &Line) -> f64 {
    line.points.last().copied().unwrap_or(f64::NAN)
}

fn stat(svg: &mut String, frame: &Frame, unit: &str, lines: &[Line]) {
    let shown = match lines {
        [] => String::from("no data"),
        [line, ..] if unit == "string" => line.legend.clone(),
        [line, ..] => shown(last(line), unit),
    };
    text(svg, frame.x, frame.y + 44.0, 28, &shown);
}

fn bars(svg: &mut String, frame: &Frame, unit: &str, lines: &[Line]) {
    let most = lines.iter().map(last).fold(f64::MIN_POSITIVE, f64::max);
    for (n, line) in lines.iter().enumerate() {
        let (y, width) = (frame.y + 34.0 * n as f64, frame.width * (last(line) / most).max(0.0));
        text(svg, frame.x, y + 10.0, 11, &format!("{}: {}", line.legend, shown(last(line), unit)));
        let (x, y, colour) = (frame.x, y + 14.0, COLOURS[n % COLOURS.len()]);
        put(svg, format_args!("<rect x=\"{x}\" y=\"{y}\" width=\"{width:.1}\" height=\"12\" fill=\"{colour}\"/>"));
    }
}

fn chart(svg: &mut String, frame: &Frame, unit: &str, lines: &[Line], seconds: u64) {
    let values = || lines.iter().flat_map(|line| &line.points).copied().filter(|value| value.is_finite());
    let most = values().fold(0.0, f64::max);
    let step = step(if most > 0.0 { most } else { 1.0 });
    let count = (most / step).ceil().max(1.0);
    let top = step * count;
    // The legends are below, the scale is to the left.
    let (left, bottom) = (56.0, 12.0 * lines.len().div_ceil(2) as f64 + 18.0);
    let (width, height) = (frame.width - left, frame.height - bottom);
    for line in 0..=count as u32 {
        let value = step * f64::from(line);
        let (y, x) = (frame.y + height * (1.0 - value / top), frame.x + left);
        let right = x + width;
        put(svg, format_args!("<line x1=\"{x}\" y1=\"{y:.1}\" x2=\"{right}\" y2=\"{y:.1}\" stroke=\"#e8e8e8\"/>"));
        text(svg, frame.x, y + 4.0, 10, &shown(value, unit));
    }
    text(svg, frame.x + left, frame.y + height + 12.0, 9, &format!("{seconds} s ago"));
    text(svg, frame.x + frame.width - 18.0, frame.y + height + 12.0, 9, "now");
    // Series may begin later, and all end now.
    let longest = lines.iter().map(|line| line.points.len()).max().unwrap_or_default().max(2);
    for (n, line) in lines.iter().enumerate() {
        let first = longest - line.points.len();
        let mut path = String::new();
        let mut pen_is_up = true;
        for (at, value) in line.points.iter().enumerate() {
            if !value.is_finite() {
                pen_is_up = true;
                continue;
            }
            let x = frame.x + left + width * (first + at) as f64 / (longest - 1) as f64;
            let y = frame.y + height * (1.0 - value / top);
            write!(path, "{}{x:.1} {y:.1} ", if pen_is_up { 'M' } else { 'L' })
                .expect("writing to a string cannot fail");
            pen_is_up = false;
        }
        let colour = COLOURS[n % COLOURS.len()];
        put(svg, format_args!("<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.6\"/>"));
        let (x, y) = (frame.x + frame.width / 2.0 * (n % 2) as f64, frame.y + height + 26.0 + 12.0 * (n / 2) as f64);
        let square = y - 8.0;
        put(svg, format_args!("<rect x=\"{x}\" y=\"{square}\" width=\"8\" height=\"8\" fill=\"{colour}\"/>"));
        text(svg, x + 12.0, y, 10, &format!("{}: {}", line.legend, shown(last(line), unit)));
    }
    if values().next().is_none() {
        text(svg, frame.x + frame.width / 2.0, frame.y + frame.height / 2.0, 14, "no data");
    }
}

/// The counts of classic buckets are cumulative.
fn heatmap(svg: &mut String, frame: &Frame, unit: &str, mut lines: Vec<Line>) {
    lines.sort_by(|one, other| one.label.partial_cmp(&other.label).expect("no bound is NaN"));
    let columns = lines.iter().map(|line| line.points.len()).min().unwrap_or_default();
    let cell = |row: usize, column: usize| {
        let below = if row == 0 { 0.0 } else { lines[row - 1].points[column] };
        (lines[row].points[column] - below).max(0.0)
    };
    let most = (0..lines.len()).flat_map(|row| (0..columns).map(move |column| (row, column)));
    let most = most.map(|(row, column)| cell(row, column)).fold(f64::MIN_POSITIVE, f64::max);
    let left = 62.0;
    let (height, width) = (frame.height / lines.len().max(1) as f64, (frame.width - left) / columns.max(1) as f64);
    put(svg, format_args!("<g fill=\"#e0742f\">"));
    for (row, line) in lines.iter().enumerate() {
        let y = frame.y + frame.height - height * (row + 1) as f64;
        let bound = line.label.filter(|bound| bound.is_finite());
        let bound = bound.map_or_else(|| String::from("more"), |bound| shown(bound, unit));
        text(svg, frame.x, y + height - 2.0, 9, &bound);
        for column in 0..columns {
            let share = (cell(row, column) / most).sqrt();
            if share > 0.01 {
                let x = frame.x + left + width * column as f64;
                put(
                    svg,
                    format_args!(
                        "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.2}\" height=\"{height:.1}\" \
                         fill-opacity=\"{share:.2}\"/>"
                    ),
                );
            }
        }
    }
    put(svg, format_args!("</g>"));
}
