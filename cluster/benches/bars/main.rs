//! The bars of the cluster crate, as one table: what each demands, what was measured, and a verdict.
//!
//! ```sh
//! cargo bench -p gen-registry-cluster --bench bars             # all, about four minutes
//! cargo bench -p gen-registry-cluster --bench bars -- there    # one group: here, there, fences, start, moves, fail_over, load
//! cargo bench -p gen-registry-cluster --bench bars -- --test   # all, in seconds: the figures mean nothing then
//! ```
//!
//! All nodes are in one process, each with a runtime and one thread of its own, so that a runtime that is shut down is a node
//! that is killed. They reach each other through sockets on loopback. The engine is etcd where it is installed, and `Memory`
//! otherwise; the table says which. What a row is compared with runs in turns with it.

#[allow(dead_code, unreachable_pub, missing_debug_implementations, reason = "the tests use more of it")]
#[path = "../../tests/support/etcd.rs"]
mod etcd;

mod bare;
mod bed;
mod cell;
mod fail_over;
mod fences;
mod here;
mod load;
mod moves;
mod probes;
mod there;

use std::process::ExitCode;

/// How long it measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Full,
    /// Each row once, on little data.
    Tiny,
}

impl Form {
    /// One of two values.
    pub(crate) fn pick<T>(self, full: T, tiny: T) -> T {
        match self {
            Form::Full => full,
            Form::Tiny => tiny,
        }
    }
}

/// One line of the table.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) demand: String,
    pub(crate) measured: String,
    /// `None`: there is no demand.
    pub(crate) is_met: Option<bool>,
}

impl Row {
    pub(crate) fn new(
        what: impl Into<String>,
        demand: impl Into<String>,
        measured: impl Into<String>,
        is_met: bool,
    ) -> Row {
        Row { what: what.into(), demand: demand.into(), measured: measured.into(), is_met: Some(is_met) }
    }

    pub(crate) fn beside(what: impl Into<String>, measured: impl Into<String>) -> Row {
        Row { what: what.into(), demand: String::new(), measured: measured.into(), is_met: None }
    }

    fn print(&self) {
        let verdict = match self.is_met {
            Some(true) => "met",
            Some(false) => "**not met**",
            None => "",
        };
        println!("| {} | {} | {} | {verdict} |", self.what, self.demand, self.measured);
    }
}

/// The middle of the sorted values.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

type Group = (&'static str, fn(Form) -> Vec<Row>);

const GROUPS: [Group; 7] = [
    ("here", here::rows),
    ("there", there::rows),
    ("fences", fences::rows),
    ("start", moves::start_rows),
    ("moves", moves::rows),
    ("fail_over", fail_over::rows),
    ("load", load::rows),
];

fn main() -> ExitCode {
    let (mut form, mut wanted) = (Form::Full, Vec::new());
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            // Of cargo.
            "--bench" => {}
            "--test" => form = Form::Tiny,
            name if GROUPS.iter().any(|(group, _)| *group == name) => wanted.push(argument),
            _ => {
                eprintln!("usage: bars [--test] [{}]..", GROUPS.map(|(group, _)| group).join(" | "));
                return ExitCode::FAILURE;
            }
        }
    }
    println!("| what | demand | measured | verdict |\n|---|---|---|---|");
    for (group, rows) in GROUPS {
        if wanted.is_empty() || wanted.iter().any(|wanted| wanted == group) {
            rows(form).iter().for_each(Row::print);
        }
    }
    ExitCode::SUCCESS
}
