//! What is in `grafana/` fits the catalogue of metrics, and a real Prometheus takes it.
//!
//! All but [`promtool`], [`end_to_end`] and [`denylist`] need nothing but this repository. Those say so and pass where Debian's
//! package `prometheus` is not installed; with `CI=true` in the environment they fail there.

mod catalogue;
mod dashboard;
#[cfg(unix)]
mod denylist;
mod end_to_end;
mod exporter;
mod layout;
mod mistakes;
mod names;
#[cfg(unix)]
mod picture;
mod place;
mod prometheus;
mod promql;
mod promtool;
mod provisioning;
mod rules;
mod schema;
