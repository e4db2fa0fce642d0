//! Charts as SVG: a few kilobytes each, for light and dark pages.

use std::fmt::Write as _;

use crate::figures::{Figure, quantity};

const WIDTH: f64 = 760.0;
/// The width of names and numbers.
const LEFT: f64 = 200.0;
const RIGHT: f64 = 100.0;
const ROW: f64 = 22.0;

/// If the minimum and the maximum differ by more than this factor, the chart has points on a logarithmic scale instead
/// of bars.
const LINEAR: f64 = 20.0;

const STYLE: &str = "\
text{font:13px system-ui,sans-serif;fill:#1f2328}.t{font-size:16px;font-weight:600}.h{font-weight:600}\
.n{fill:#59636e;font-size:12px}.bg{fill:#fff}.ours{fill:#0969da}.other{fill:#8c959f}.rule{stroke:#d1d9e0}\
.l{fill:none;stroke-width:2}.c0{stroke:#0969da}.c1{stroke:#bc4c00}.c2{stroke:#1a7f37}.c3{stroke:#8250df}\
.c4{stroke:#bf3989}.c5{stroke:#9a6700}.c6{stroke:#8c959f;stroke-dasharray:5 4}\
@media(prefers-color-scheme:dark){text{fill:#f0f6fc}.n{fill:#9198a1}.bg{fill:#0d1117}.ours{fill:#4493f8}\
.other{fill:#656c76}.rule{stroke:#3d444d}.c0{stroke:#4493f8}.c1{stroke:#db6d28}.c2{stroke:#3fb950}\
.c3{stroke:#ab7df8}.c4{stroke:#db61a2}.c5{stroke:#d29922}.c6{stroke:#9198a1}}";

fn frame(title: &str, height: f64, body: &str) -> String {
    let title = escape(title);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" role=\"img\" \
         aria-label=\"{title}\"><title>{title}</title><style>{STYLE}</style>\
         <rect class=\"bg\" width=\"{WIDTH}\" height=\"{height}\" rx=\"6\"/>\
         <text class=\"t\" x=\"16\" y=\"28\">{title}</text>\n{body}</svg>\n"
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// One section per group, with one bar per variant, the smallest first. `None` if no group was measured.
pub(crate) fn bars(title: &str, parts: &[(&str, Option<&[Figure]>)]) -> Option<String> {
    let mut body = String::new();
    let mut y = 44.0;
    for (name, figures) in parts {
        let Some(figures) = figures.filter(|figures| !figures.is_empty()) else { continue };
        let numbers = || figures.iter().map(|figure| figure.number);
        let most = numbers().fold(f64::MIN_POSITIVE, f64::max);
        let least = numbers().fold(f64::INFINITY, f64::min).max(f64::MIN_POSITIVE);
        let is_linear = most / least <= LINEAR;
        y += 14.0;
        let scale = if is_linear { "" } else { " · logarithmic scale" };
        let _ = write!(
            body,
            "<text class=\"h\" x=\"16\" y=\"{y}\">{}<tspan class=\"n\">{scale}</tspan></text>",
            escape(name)
        );
        y += 10.0;
        // From the power of ten below the minimum to the one above the maximum.
        let (low, high) = (least.log10().floor(), most.log10().ceil());
        let room = WIDTH - LEFT - RIGHT;
        let place = |number: f64| {
            let part = if is_linear { number / most } else { (number.max(least).log10() - low) / (high - low) };
            part * room
        };
        if !is_linear {
            let bottom = y + ROW * figures.len() as f64;
            for power in low as i32..=high as i32 {
                let x = LEFT + place(10_f64.powi(power).max(least)).max(0.0);
                let x = if f64::from(power) <= low { LEFT } else { x };
                let _ = write!(body, "<path class=\"rule\" d=\"M{x:.0} {y:.0}V{bottom:.0}\"/>");
            }
        }
        for figure in figures {
            let class = if figure.variant.starts_with("gen-registry") { "ours" } else { "other" };
            let (middle, x) = (y + ROW / 2.0, LEFT + place(figure.number));
            let _ = write!(
                body,
                "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{}</text>",
                LEFT - 8.0,
                middle + 4.5,
                escape(&figure.variant)
            );
            let _ = if is_linear {
                let width = (x - LEFT).max(1.0);
                write!(
                    body,
                    "<rect class=\"{class}\" x=\"{LEFT:.0}\" y=\"{:.0}\" width=\"{width:.1}\" height=\"14\" rx=\"2\"/>",
                    middle - 7.0
                )
            } else {
                write!(body, "<cycle class=\"{class}\" cx=\"{x:.1}\" cy=\"{middle:.0}\" r=\"5\"/>")
            };
            let _ = writeln!(
                body,
                "<text class=\"n\" x=\"{:.0}\" y=\"{:.0}\">{}</text>",
                x + 8.0,
                middle + 4.0,
                figure.text()
            );
            y += ROW;
        }
        y += 10.0;
    }
    (!body.is_empty()).then(|| frame(title, y + 6.0, &body))
}

/// One line per operation, with logarithmic scales. The last one is the baseline, and dashed.
pub(crate) fn lines(title: &str, lines: &[(&str, Vec<(f64, f64)>)]) -> Option<String> {
    const HEIGHT: f64 = 400.0;
    const TOP: f64 = 50.0;
    let bottom = HEIGHT - 46.0;
    let (left, right) = (70.0, WIDTH - 170.0);
    let points = || lines.iter().flat_map(|(_, points)| points);
    let bounds = |of: fn(&(f64, f64)) -> f64| {
        let logarithms = points().map(of).map(|number| number.max(0.1).log10());
        logarithms
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), number| (least.min(number), most.max(number)))
    };
    let ((x0, x1), (y0, y1)) = (bounds(|point| point.0), bounds(|point| point.1));
    let (y0, y1) = (y0.floor(), y1.ceil());
    if !(x1 > x0 && y1 > y0) {
        return None;
    }
    let x = |number: f64| left + (number.log10() - x0) / (x1 - x0) * (right - left);
    let y = |number: f64| bottom - (number.max(0.1).log10() - y0) / (y1 - y0) * (bottom - TOP);

    let mut body = String::new();
    for power in y0 as i32..=y1 as i32 {
        let number = 10_f64.powi(power);
        let _ = writeln!(
            body,
            "<path class=\"rule\" d=\"M{left:.0} {0:.1}H{right:.0}\"/><text class=\"n\" x=\"{1:.0}\" y=\"{2:.1}\" \
             text-anchor=\"end\">{3}</text>",
            y(number),
            left - 8.0,
            y(number) + 4.0,
            quantity(number, "ns")
        );
    }
    let mut sizes: Vec<f64> = points().map(|point| point.0).collect();
    sizes.sort_by(f64::total_cmp);
    sizes.dedup();
    for size in sizes {
        let _ = writeln!(
            body,
            "<text class=\"n\" x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"middle\">{}</text>",
            x(size),
            bottom + 20.0,
            crate::common::thousands(size as usize)
        );
    }
    let _ = write!(body, "<text class=\"n\" x=\"{left:.0}\" y=\"{:.0}\">workers</text>", bottom + 38.0);

    // The names are at the ends of their lines and do not overlap.
    let mut names = Vec::new();
    for (n, (name, points)) in lines.iter().enumerate() {
        let class = if n + 1 == lines.len() { 6 } else { n % 6 };
        let path: Vec<String> = points.iter().map(|&(size, cost)| format!("{:.1} {:.1}", x(size), y(cost))).collect();
        let _ = writeln!(body, "<path class=\"l c{class}\" d=\"M{}\"/>", path.join("L"));
        if let Some(&(_, cost)) = points.last() {
            names.push((y(cost), format!("{name}, {}", quantity(cost, "ns"))));
        }
    }
    names.sort_by(|one, other| one.0.total_cmp(&other.0));
    let mut free = f64::NEG_INFINITY;
    for (at, name) in names {
        let at = at.max(free);
        free = at + 15.0;
        let _ =
            writeln!(body, "<text class=\"n\" x=\"{:.0}\" y=\"{:.1}\">{}</text>", right + 8.0, at + 4.0, escape(&name));
    }
    Some(frame(title, HEIGHT, &body))
}
