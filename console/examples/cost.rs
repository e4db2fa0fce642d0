//! What a console costs a service, in processor time: of a registry with many workers that rest.
//!
//! ```sh
//! cargo run --release -p gen-registry-console --example cost -- 1000000
//! ```
//!
//! Processor time, not time on the clock: other processes of the machine change it little.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use axum::Router;
use gen_registry::inspect::Inspector;
use gen_registry::{Context, Registry, Worker};
use gen_registry_console::Console;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::sleep;

type Error = Box<dyn std::error::Error + Send + Sync>;

struct Room;

impl Worker for Room {
    type Key = u64;
    type Args = ();
    type Message = ();
    type Error = Infallible;

    async fn init(_: (), _: &mut Context<Self>) -> Result<Self, Infallible> {
        Ok(Self)
    }

    async fn handle(&mut self, _: (), _: &mut Context<Self>) -> Result<(), Infallible> {
        Ok(())
    }
}

/// The processor time of this process. Linux counts it in hundredths of a second.
fn used() -> Result<Duration, Error> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = stat.rsplit_once(") ").ok_or("no fields")?;
    // The first field here is the third of the manual.
    let ticks: Vec<u64> = fields.split(' ').skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
    Ok(Duration::from_millis(ticks.iter().sum::<u64>() * 10))
}

/// The processor time for each second of a while.
async fn per_second(what: &str) -> Result<f64, Error> {
    const WHILE: Duration = Duration::from_secs(20);
    sleep(Duration::from_secs(3)).await;
    let (began, before) = (Instant::now(), used()?);
    sleep(WHILE).await;
    let milliseconds = (used()? - before).as_secs_f64() * 1_000.0 / began.elapsed().as_secs_f64();
    println!("{what}: {milliseconds:.1} ms of processor time a second, {:.2} % of a core", milliseconds / 10.0);
    Ok(milliseconds)
}

async fn ask(address: &str, path: &str) -> Result<TcpStream, Error> {
    let mut stream = TcpStream::connect(address).await?;
    stream
        .write_all(format!("GET /api/{path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").as_bytes())
        .await?;
    Ok(stream)
}

/// Reads as long as the service sends.
async fn drain(mut stream: TcpStream) -> Result<usize, Error> {
    let (mut buffer, mut all) = ([0; 65_536], 0);
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Ok(all),
            read => all += read,
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let workers: u64 = std::env::args().nth(1).map_or(Ok(1_000_000), |text| text.parse())?;
    let inspector = Inspector::new();
    let rooms =
        Registry::<Room>::builder().name("rooms").inspect(&inspector, |room| format!("room {room:08}")).build()?;
    for room in 0..workers {
        rooms.start(&room, ()).await?;
    }
    println!("{workers} workers");
    let without = per_second("without a console").await?;

    let console = Console::new(&inspector);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    let app: Router = console.router();
    tokio::spawn(async move { axum::serve(listener, app).await });
    let with = per_second("a console, no page open").await?;

    let mut pages = JoinSet::new();
    for _ in 0..10 {
        pages.spawn(drain(ask(&address, "stream").await?));
    }
    let overview = per_second("ten pages of all registries").await?;
    pages.shutdown().await;

    let mut pages = JoinSet::new();
    for sort in ["key", "queued", "age", "handled", "restarts", "idle_for", "state", "id", "busy_for", "undelivered"] {
        pages.spawn(drain(ask(&address, &format!("stream?registry=1&limit=50&sort={sort}&order=descending")).await?));
    }
    let lists = per_second("ten pages of lists, each in another order").await?;
    pages.shutdown().await;
    println!(
        "more than without: {:.1} ms for the console, {:.1} ms for ten overviews, {:.1} ms for ten lists",
        with - without,
        overview - without,
        lists - without
    );

    for path in [
        "registries/1/workers?sort=queued&order=descending",
        "registries/1/workers?filter=77&sort=key",
        "registries/1/worker?key=room%2000000077",
    ] {
        const TIMES: u32 = 30;
        let before = used()?;
        let began = Instant::now();
        for _ in 0..TIMES {
            drain(ask(&address, path).await?).await?;
        }
        println!(
            "{path}: {:?} of processor time, {:?} on the clock",
            (used()? - before) / TIMES,
            began.elapsed() / TIMES
        );
    }
    Ok(())
}
