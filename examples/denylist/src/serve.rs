//! [`serve`]: runs the service.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::FalseyValueParser;
use gen_registry::ShutdownReport;
use gen_registry::inspect::Inspector;
use gen_registry_console::Console;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tracing::info;

use crate::api::router;
use crate::cli_error::CliError;
use crate::complaint_reader::{ComplaintReader, Row};
use crate::database::OpenError;
use crate::demo;
use crate::log::LogArgs;
use crate::phone_number::PhoneNumber;
use crate::println_lossy::println_lossy;
use crate::rule::Rule;
use crate::server::{ConnectionArgs, Server};
use crate::service::{Residency, Service};
use crate::store::{Store, StoreError};
use crate::telemetry::Telemetry;
use crate::words;

/// Fictitious complaints. Every number is reserved for fiction.
const SAMPLE: &str = include_str!("../sample.csv");
/// The phone that has rules after the sample import, and a caller that they reject.
const SAMPLE_RECIPIENT: &str = "+12025550199";
const SAMPLE_CALLER: &str = "+12025550123";
/// How long accepted requests may take during a shutdown.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(11);

#[derive(Debug, clap::Args)]
pub(crate) struct ServeArgs {
    /// The address to listen on; port 0 picks a free port and prints it
    #[arg(long, env = "DENYLIST_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// The database file; created if it does not exist
    #[arg(long, env = "DENYLIST_DB", value_name = "FILE", default_value = "denylist.redb")]
    db: PathBuf,
    /// Do not import the sample of fictitious complaints into a new database
    #[arg(long, env = "DENYLIST_NO_SAMPLE", value_parser = FalseyValueParser::new())]
    no_sample: bool,
    /// How long to keep serving after a signal while /readyz returns 503, so that a load balancer stops sending
    /// requests; a second signal ends the delay
    #[arg(long, env = "DENYLIST_DRAIN_DELAY", value_name = "SECONDS", default_value_t = 0)]
    drain_delay: u64,
    #[command(flatten)]
    connections: ConnectionArgs,
    #[command(flatten)]
    residency: Residency,
    /// Serve POST /v1/workers/{number}/crash, for testing alerts and dashboards
    #[arg(long, env = "DENYLIST_DRILLS", value_parser = FalseyValueParser::new())]
    drills: bool,
    /// Let the console at /console stop, kill, crash and restart workers
    #[arg(long, env = "DENYLIST_CONSOLE_ACTIONS", value_parser = FalseyValueParser::new())]
    console_actions: bool,
    /// Place calls, crash workers and evict others, so that the console has something to show. Keeps at most 400 workers,
    /// and changes no rules
    #[arg(long, env = "DENYLIST_DEMO", value_parser = FalseyValueParser::new())]
    demo: bool,
    #[command(flatten)]
    log: LogArgs,
}

pub(crate) async fn serve(args: ServeArgs) -> Result<(), CliError> {
    let has_numbers = args.log.log_numbers;
    args.log.install().map_err(CliError::other)?;
    // Bind first: a second service at the same address fails before it opens the database.
    let listener = TcpListener::bind(args.listen).await.map_err(|error| {
        CliError::unavailable(format!("cannot listen on {}: {error}; choose another with --listen", args.listen))
    })?;
    let address = listener.local_addr().map_err(CliError::other)?;
    let telemetry = Telemetry::install().map_err(CliError::other)?;

    // No request is served yet, so this may block.
    let store = Store::open(&args.db)?;
    println_lossy(format_args!("opened {}", args.db.display()));
    let failed = |error| OpenError::store(&args.db, error);
    if !args.no_sample {
        import_sample(&store, failed)?;
    }
    let size = store.size().map_err(failed)?;
    println_lossy(format_args!(
        "it has {} and {} about {}",
        words::count(size.rules, "rule"),
        words::count(size.complaints, "complaint"),
        words::count(size.callers, "caller")
    ));

    // The first number makes its parser compile patterns. On a busy machine that takes longer than a request may.
    SAMPLE_RECIPIENT.parse::<PhoneNumber>().map_err(CliError::other)?;
    let inspector = Inspector::new();
    let inspector = if args.console_actions { inspector.allow_actions() } else { inspector };
    let residency = if args.demo { args.residency.for_demo() } else { args.residency };
    let service = Service::new(store.clone(), residency, has_numbers, &inspector).map_err(CliError::other)?;
    let console = Console::new(&inspector);
    let mut signals = Signals::new().map_err(CliError::other)?;
    // The sender sends nothing. Dropping it is the signal.
    let (stop, stopped) = watch::channel(());
    let router = router(service.clone(), telemetry.clone(), args.drills, &console);
    let server = Server::new(listener, router, args.connections);
    let upkeep = tokio::spawn(telemetry.upkeep());
    let mut server = tokio::spawn(server.run(stopped));
    info!(%address, "listening");
    let demo = args.demo.then(|| tokio::spawn(demo::run(service.clone())));
    greet(address, !args.no_sample, args.demo);

    let signal = tokio::select! {
        signal = signals.next() => signal,
        ended = &mut server => return Err(CliError::other(format!("the server stopped unexpectedly: {ended:?}"))),
    };
    service.start_draining();
    info!(signal, "draining");
    println_lossy(format_args!("{signal}: draining"));
    tokio::select! {
        () = tokio::time::sleep(Duration::from_secs(args.drain_delay)) => {}
        signal = signals.next() => println_lossy(format_args!("{signal}: without delay")),
    }
    if let Some(demo) = demo {
        demo.abort();
    }
    // The server waits for open pages otherwise.
    console.close();
    drop(stop);
    if tokio::time::timeout(SHUTDOWN_TIMEOUT, &mut server).await.is_err() {
        println_lossy("some connections did not close in time");
        server.abort();
    }
    let (denylists, reputations) = service.shutdown().await;
    report("denylist", &denylists);
    report("reputation", &reputations);
    upkeep.abort();
    // The workers have exited and released the database.
    drop(service);
    if !close(store).await {
        return Err(CliError::other(
            "the database is still in use and was not closed; acknowledged changes are on disk",
        ));
    }
    println_lossy("closed the database");
    Ok(())
}

/// Closes the database once aborted tasks have released it.
async fn close(store: Store) -> bool {
    let mut store = store;
    for _ in 0..100 {
        match store.close() {
            Ok(()) => return true,
            Err(used) => store = used,
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    false
}

/// Reports how the workers of a registry ended. What did not happen is not listed.
fn report(registry: &str, report: &ShutdownReport) {
    let ShutdownReport { drained, crashed, aborted, cancelled, stuck, .. } = *report;
    info!(registry, drained, crashed, aborted, cancelled, stuck, "shut down");
    let mut line = format!("{registry}: {} drained", words::count(drained as u64, "worker"));
    for (workers, what) in [
        (crashed, "crashed while stopping"),
        (aborted, "aborted after the stop timeout"),
        (cancelled, "cancelled while starting"),
        (stuck, "still running code that never yields"),
    ] {
        if workers > 0 {
            line += &format!(", {} {what}", words::number(workers as u64));
        }
    }
    println_lossy(line);
}

fn import_sample(store: &Store, failed: impl Fn(StoreError) -> OpenError) -> Result<(), CliError> {
    let mut reader = ComplaintReader::new(SAMPLE.as_bytes()).map_err(CliError::other)?;
    let mut complaints = Vec::new();
    while let Some(row) = reader.next_row().map_err(CliError::other)? {
        if let Row::Complaint(complaint) = row {
            complaints.push(complaint);
        }
    }
    let recipient: PhoneNumber = SAMPLE_RECIPIENT.parse().map_err(CliError::other)?;
    let rules = [Rule::Anonymous, Rule::Complaints(5)].map(|rule| (recipient, rule));
    match store.seed(&complaints, &rules).map_err(failed)? {
        Some(counted) => println_lossy(format_args!(
            "imported the sample: {}, and rules for {recipient}",
            words::count(counted.new, "made-up complaint")
        )),
        None => println_lossy("the sample was imported before"),
    }
    Ok(())
}

fn greet(address: SocketAddr, has_sample: bool, is_demo: bool) {
    let url = format!("http://{address}");
    println_lossy(format_args!("listening on {url}"));
    println_lossy(format_args!("  {url}/v1/denylists/{SAMPLE_RECIPIENT}     the rules of a phone"));
    println_lossy(format_args!("  {url}/v1/reputations/{SAMPLE_CALLER}   the complaints about a caller"));
    println_lossy(format_args!("  {url}/v1/workers                     the running workers"));
    println_lossy(format_args!("  {url}/metrics"));
    let demo = if is_demo { "" } else { "; start it with --demo to see it move" };
    println_lossy(format_args!("open {url}/console in a browser to see what runs{demo}"));
    let outcome = if has_sample { "may this caller ring? (no)" } else { "may this caller ring?" };
    println_lossy(format_args!("try: {outcome}"));
    println_lossy(format_args!(
        "  curl -s {url}/v1/calls -H 'content-type: application/json' \
         -d '{{\"from\": \"{SAMPLE_CALLER}\", \"to\": \"{SAMPLE_RECIPIENT}\"}}'"
    ));
    println_lossy("stop it with Ctrl-C or SIGTERM");
}

/// The signals that end the process.
struct Signals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    /// From here on, the signals no longer end the process directly.
    fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

#[cfg(not(unix))]
impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {})
    }

    async fn next(&mut self) -> &'static str {
        match tokio::signal::ctrl_c().await {
            Ok(()) => "Ctrl-C",
            // Without a handler, the signal ends the process directly.
            Err(_) => std::future::pending().await,
        }
    }
}
