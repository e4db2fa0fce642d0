//! Installs the Prometheus exporter with the buckets of the [catalogue](super).
//!
//! It is that of the crate `metrics-exporter-prometheus`, made the process's recorder: whatever else the program tells the
//! `metrics` facade is exported too.
//!
//! - A program without an HTTP server: [`listen`].
//! - A program with one: [`install`], and a route that gives out [`Scrape::render`].
//! - A program with settings of its own for the exporter: [`builder`], and take care of its upkeep.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use thiserror::Error;
use tokio::runtime::Handle;

use crate::metrics::{ALL, Kind};

/// The content type of what [`Scrape::render`] gives.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The recorder keeps every value of a histogram until it is told to put them into the buckets.
const UPKEEP: Duration = Duration::from_secs(5);

/// Why the exporter was not installed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum InstallError {
    /// Called outside a tokio runtime, so there is nowhere to run its upkeep and its listener.
    #[error("no tokio runtime is running here; install the exporter inside one")]
    NoRuntime,
    /// The process has a recorder already. There is one for all of its life.
    #[error("the process has a metrics recorder already; install only one, or use `Builder::recorder`")]
    AlreadyInstalled,
    /// The address is not to be had.
    #[error("the exporter cannot listen")]
    Listen(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl InstallError {
    fn new(error: BuildError) -> Self {
        match error {
            BuildError::FailedToSetGlobalRecorder(_) => Self::AlreadyInstalled,
            error => Self::Listen(error.into()),
        }
    }
}

/// The exporter's own builder, with the buckets of the catalogue set.
///
/// Its `install` has upkeep. Whoever takes its `install_recorder` or `build_recorder` is to call `run_upkeep` on the handle
/// every few seconds: until then each value of a histogram is kept.
pub fn builder() -> PrometheusBuilder {
    ALL.iter().fold(PrometheusBuilder::new(), |builder, metric| match metric.kind {
        Kind::Histogram { buckets } => builder
            .set_buckets_for_metric(Matcher::Full(metric.name.into()), buckets)
            .expect("no histogram of the catalogue is without buckets"),
        _ => builder,
    })
}

/// Installs the exporter with an HTTP listener of its own, which answers to every path. It listens, and does its upkeep, on
/// the current runtime, for as long as that runs.
///
/// There is no access control: listen on the loopback address (`127.0.0.1:9000`), or on one that only Prometheus reaches.
///
/// # Errors
///
/// All of [`InstallError`].
///
/// # Examples
///
/// ```no_run
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// gen_registry::metrics::prometheus::listen(([127, 0, 0, 1], 9000))?;
/// # Ok(())
/// # }
/// ```
pub fn listen(address: impl Into<SocketAddr>) -> Result<(), InstallError> {
    Handle::try_current().map_err(|_| InstallError::NoRuntime)?;
    builder().with_http_listener(address).upkeep_timeout(UPKEEP).install().map_err(InstallError::new)
}

/// Installs the exporter for a program that has an HTTP server: it is to give out what [`Scrape::render`] returns. Its upkeep
/// runs on the current runtime until the last clone of the [`Scrape`] is dropped.
///
/// # Errors
///
/// [`InstallError::NoRuntime`], [`InstallError::AlreadyInstalled`].
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// let scrape = gen_registry::metrics::prometheus::install()?;
/// metrics::counter!("visits_total").increment(1);
/// // In the handler of `GET /metrics`:
/// assert!(scrape.render().contains("visits_total 1"));
/// # Ok(())
/// # }
/// ```
pub fn install() -> Result<Scrape, InstallError> {
    let runtime = Handle::try_current().map_err(|_| InstallError::NoRuntime)?;
    let handle = Arc::new(builder().install_recorder().map_err(InstallError::new)?);
    let kept = Arc::downgrade(&handle);
    runtime.spawn(async move {
        loop {
            tokio::time::sleep(UPKEEP).await;
            match kept.upgrade() {
                Some(handle) => handle.run_upkeep(),
                None => return,
            }
        }
    });
    Ok(Scrape(handle))
}

/// Gives what Prometheus asks for. A cheap clone.
#[derive(Debug, Clone)]
pub struct Scrape(Arc<PrometheusHandle>);

impl Scrape {
    /// Everything that was recorded so far, in Prometheus' text format.
    pub fn render(&self) -> String {
        self.0.render()
    }
}
