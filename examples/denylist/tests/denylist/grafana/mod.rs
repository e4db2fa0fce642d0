//! The files in `grafana/` match the catalogue of metrics, and a real Prometheus accepts them.
//!
//! Only [`promtool`], [`end_to_end`] and [`denylist`] need more than this repository. Without Debian's package
//! `prometheus`, they print a note and pass. With `CI=true` in the environment, they fail instead.

mod catalogue;
mod cluster;
mod dashboard;
#[cfg(unix)]
mod denylist;
mod end_to_end;
mod exporter;
mod layout;
mod mistakes;
mod names;
mod paths;
#[cfg(unix)]
mod picture;
mod prometheus;
mod promql;
mod promtool;
mod provisioning;
mod rules;
mod schema;
