//! [`serve`]: the service, from the first line it prints to the last.

use std::future::IntoFuture;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::api::router;
use crate::complaint_reader::{ComplaintReader, Row};
use crate::fault::Fault;
use crate::phone_number::PhoneNumber;
use crate::rule::Rule;
use crate::say::say;
use crate::service::{Residency, Service};
use crate::store::Store;
use crate::telemetry::Telemetry;

/// Made-up complaints about made-up callers: every number is of the range that is reserved for fiction.
const SAMPLE: &str = include_str!("../sample.csv");
/// The phone that has rules after the sample was imported, and a caller that they reject.
const SAMPLE_RECIPIENT: &str = "+12025550199";
const SAMPLE_CALLER: &str = "+12025550123";
/// How long the requests in hand may take once no more are accepted.
const LAST_REQUESTS: Duration = Duration::from_secs(11);

#[derive(Debug, clap::Args)]
pub(crate) struct ServeArgs {
    /// Where to listen; port 0 takes a free one and prints it
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// The database file; made if there is none
    #[arg(long, value_name = "FILE", default_value = "denylist.redb")]
    db: PathBuf,
    /// Do not import the sample of made-up complaints into a database that does not have it
    #[arg(long)]
    no_sample: bool,
    /// How long to go on serving after a signal, while /readyz says 503, so that a load balancer turns away first; a
    /// second signal cuts it short
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    drain_delay: u64,
    #[command(flatten)]
    residency: Residency,
    /// Serve POST /v1/workers/{number}/crash, to try alerts and dashboards with
    #[arg(long)]
    drills: bool,
}

pub(crate) async fn serve(args: ServeArgs) -> Result<(), Fault> {
    // The address first: a second service in the same place finds it taken, and leaves the database alone.
    let listener = TcpListener::bind(args.listen).await.map_err(|error| {
        Fault::unavailable(format!("cannot listen on {}: {error}; choose another with --listen", args.listen))
    })?;
    let address = listener.local_addr().map_err(Fault::other)?;
    let telemetry = Telemetry::install().map_err(Fault::other)?;

    // Nobody is served yet, so that it may block.
    let store = Store::open(&args.db)?;
    say(format_args!("opened {}", args.db.display()));
    if !args.no_sample {
        import_sample(&store)?;
    }
    let size = store.size()?;
    say(format_args!("it has {} rules, and {} complaints about {} callers", size.rules, size.complaints, size.callers));

    let service = Service::new(store.clone(), args.residency).map_err(Fault::other)?;
    let mut signals = Signals::new().map_err(Fault::other)?;
    let (stop, mut stopped) = watch::channel(());
    let server = axum::serve(listener, router(service.clone(), telemetry.clone(), args.drills))
        // The sender sends nothing: that it is gone is the sign.
        .with_graceful_shutdown(async move { _ = stopped.changed().await });
    let upkeep = tokio::spawn(telemetry.upkeep());
    let mut server = tokio::spawn(server.into_future());
    greet(address, !args.no_sample);

    let signal = tokio::select! {
        signal = signals.next() => signal,
        ended = &mut server => return Err(Fault::other(format!("the server ended by itself: {ended:?}"))),
    };
    service.start_draining();
    say(format_args!("{signal}: draining"));
    tokio::select! {
        () = tokio::time::sleep(Duration::from_secs(args.drain_delay)) => {}
        signal = signals.next() => say(format_args!("{signal}: without delay")),
    }
    drop(stop);
    if tokio::time::timeout(LAST_REQUESTS, &mut server).await.is_err() {
        say("some connections did not end in time");
        server.abort();
    }
    let (denylists, reputations) = service.shutdown().await;
    say(format_args!("denylist: {denylists:?}"));
    say(format_args!("reputation: {reputations:?}"));
    upkeep.abort();
    // The workers are gone, and with these so is everything that holds the database.
    drop(service);
    if !close(store).await {
        return Err(Fault::other("the database is still in use, and was not closed; what was acknowledged is on disk"));
    }
    say("closed the database");
    Ok(())
}

/// Closes the database once the tasks that were aborted have let go of it.
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

fn import_sample(store: &Store) -> Result<(), Fault> {
    let mut reader = ComplaintReader::new(SAMPLE.as_bytes()).map_err(Fault::other)?;
    let mut complaints = Vec::new();
    while let Some(row) = reader.next_row().map_err(Fault::other)? {
        if let Row::Complaint(complaint) = row {
            complaints.push(complaint);
        }
    }
    let recipient: PhoneNumber = SAMPLE_RECIPIENT.parse().map_err(Fault::other)?;
    let rules = [Rule::Anonymous, Rule::Complaints(5)].map(|rule| (recipient, rule));
    match store.seed(&complaints, &rules)? {
        Some(counted) => {
            say(format_args!("imported the sample: {} made-up complaints, and rules for {recipient}", counted.new))
        }
        None => say("the sample was imported before"),
    }
    Ok(())
}

fn greet(address: SocketAddr, has_sample: bool) {
    let url = format!("http://{address}");
    say(format_args!("listening on {url}"));
    say(format_args!("  {url}/v1/denylists/{SAMPLE_RECIPIENT}     the rules of a phone"));
    say(format_args!("  {url}/v1/reputations/{SAMPLE_CALLER}   what is said of a caller"));
    say(format_args!("  {url}/v1/workers                     who is awake"));
    say(format_args!("  {url}/metrics"));
    let outcome = if has_sample { "may this caller ring? (no)" } else { "may this caller ring?" };
    say(format_args!("try: {outcome}"));
    say(format_args!(
        "  curl -s {url}/v1/calls -H 'content-type: application/json' \
         -d '{{\"from\": \"{SAMPLE_CALLER}\", \"to\": \"{SAMPLE_RECIPIENT}\"}}'"
    ));
    say("end it with Ctrl-C or SIGTERM");
}

/// What asks the process to end.
struct Signals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    /// From here on the signals no longer end the process by themselves.
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
            // Without a handler, the signal ends the process by itself.
            Err(_) => std::future::pending().await,
        }
    }
}
