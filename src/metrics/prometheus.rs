//! Installs the Prometheus exporter with the buckets of the [catalogue](super).
//!
//! The exporter is that of the crate `metrics-exporter-prometheus`, installed as the recorder of the process:
//! everything else that the program records through the `metrics` facade is exported too.
//!
//! - A program without an HTTP server calls [`listen`].
//! - A program with an HTTP server calls [`install`], and serves [`Scrape::render`] on a route.
//! - A program with its own settings for the exporter uses [`builder`], and takes care of the upkeep.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use thiserror::Error;
use tokio::runtime::Handle;

use crate::metrics::{ALL, Kind};

/// The content type of [`Scrape::render`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// How often the recorder moves buffered histogram values into their buckets. It keeps every value until then.
const UPKEEP: Duration = Duration::from_secs(5);

/// Why the exporter was not installed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum InstallError {
    /// Called outside a tokio runtime, which must run the upkeep and the listener.
    #[error("no tokio runtime is running here; install the exporter inside one")]
    NoRuntime,
    /// The process has a recorder already. It cannot be replaced.
    #[error("the process has a metrics recorder already; install only one, or use `Builder::recorder`")]
    AlreadyInstalled,
    /// The listen address could not be bound.
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

/// Returns the exporter's own builder, with the buckets of the catalogue set.
///
/// Its `install` runs the upkeep. With `install_recorder` or `build_recorder`, call `run_upkeep` on the handle every
/// few seconds: the recorder keeps each value of a histogram until then.
pub fn builder() -> PrometheusBuilder {
    ALL.iter().fold(PrometheusBuilder::new(), |builder, metric| match metric.kind {
        Kind::Histogram { buckets } => builder
            .set_buckets_for_metric(Matcher::Full(metric.name.into()), buckets)
            .expect("no histogram of the catalogue is without buckets"),
        _ => builder,
    })
}

/// Installs the exporter with its own HTTP listener, which serves the metrics on every path. The listener and the
/// upkeep run on the current runtime until it shuts down.
///
/// There is no access control: listen on the loopback address (`127.0.0.1:9000`), or on one that only Prometheus can
/// reach.
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

/// Installs the exporter for a program with an HTTP server, which serves [`Scrape::render`]. The upkeep runs on the
/// current runtime until the last clone of the [`Scrape`] is dropped.
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
    let weak = Arc::downgrade(&handle);
    runtime.spawn(async move {
        loop {
            tokio::time::sleep(UPKEEP).await;
            match weak.upgrade() {
                Some(handle) => handle.run_upkeep(),
                None => return,
            }
        }
    });
    Ok(Scrape(handle))
}

/// Renders the metrics for a scrape. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Scrape(Arc<PrometheusHandle>);

impl Scrape {
    /// Returns everything that was recorded so far, in Prometheus' text format.
    pub fn render(&self) -> String {
        self.0.render()
    }
}
