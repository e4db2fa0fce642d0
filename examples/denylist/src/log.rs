//! [`LogArgs`]: what the service logs, where and how.
//!
//! The registries emit an event when a worker crashes, is restarted, has spent its restarts or does not start. Without a
//! subscriber, nothing shows them.

use std::io;
use std::panic;

use clap::builder::FalseyValueParser;
use tracing::level_filters::LevelFilter;
use tracing::{Level, error};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, fmt};

#[derive(Debug, clap::Args)]
pub(crate) struct LogArgs {
    /// What to log to standard error: a level (off, error, warn, info, debug, trace), or levels by target, such as
    /// warn,denylist=info
    #[arg(long, env = "RUST_LOG", value_name = "FILTER", default_value = "warn", value_parser = filter)]
    log: Targets,
    /// How to write the log: as text, or as one JSON object per line
    #[arg(long, env = "DENYLIST_LOG_FORMAT", value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    /// Log the phone number of a worker beside its id. Numbers are personal data
    #[arg(long, env = "DENYLIST_LOG_NUMBERS", value_parser = FalseyValueParser::new())]
    pub(crate) log_numbers: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

/// An empty filter is what a shell makes of an unset variable: the default.
fn filter(text: &str) -> Result<Targets, String> {
    if text.trim().is_empty() {
        return Ok(Targets::new().with_default(LevelFilter::WARN));
    }
    text.parse().map_err(|_| String::from("a filter is a level, or pairs like target=level, separated by commas"))
}

impl LogArgs {
    /// Installs the subscriber of the process, and logs panics as events.
    pub(crate) fn install(self) -> Result<(), TryInitError> {
        let mut filter = self.log;
        if self.log_numbers {
            // The number is in the span of a worker, and spans are at this level.
            filter = filter.with_target("gen_registry", Level::INFO);
        }
        let lines = fmt::layer().with_writer(io::stderr);
        let lines = match self.log_format {
            LogFormat::Text => lines.boxed(),
            LogFormat::Json => lines.json().flatten_event(true).with_span_list(false).boxed(),
        };
        tracing_subscriber::registry().with(lines.with_filter(filter)).try_init()?;
        // Otherwise a panic is several lines of text, also in a log of JSON.
        panic::set_hook(Box::new(|panic| {
            let location = panic.location().map(ToString::to_string);
            error!(panic = panic.payload_as_str().unwrap_or("not text"), location, "a task panicked");
        }));
        Ok(())
    }
}
