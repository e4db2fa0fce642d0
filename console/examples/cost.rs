//! What open pages cost a service: their processor time, and calls per second of it with and without ten pages.
//!
//! ```sh
//! cargo run --release -p gen-registry-console --example cost -- [WORKERS] [PAGES] [ROUNDS]
//! ```
//!
//! The pages are streams of a list of workers, read by another process over TCP. The service counts its calls and the processor
//! time of all its threads, so that what else runs on the machine does not count. First there are no calls: then all of that time is
//! the console's. Then rounds of calls with and without pages alternate. Their difference is below the noise of a busy machine.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use gen_registry::inspect::Inspector;
use gen_registry::{Context, Registry, Reply, Worker};

struct Counter(u64);

impl Worker for Counter {
    type Key = u64;
    type Args = ();
    type Message = Reply<u64>;
    type Error = std::convert::Infallible;

    async fn init((): (), _: &mut Context<Self>) -> Result<Self, Self::Error> {
        Ok(Self(0))
    }

    async fn handle(&mut self, reply: Reply<u64>, _: &mut Context<Self>) -> Result<(), Self::Error> {
        self.0 += 1;
        reply.send(self.0);
        Ok(())
    }
}

const CALLERS: u64 = 8;
const ROUND: Duration = Duration::from_secs(3);

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [first, address, path, pages] = &args[..]
        && first == "read"
    {
        return read_pages(address.parse()?, path, pages.parse()?);
    }
    let number = |at: usize, default: u64| args.get(at).map_or(Ok(default), |text| text.parse());
    let (workers, pages, rounds) = (number(0, 10_000)?, number(1, 10)?, number(2, 7)?);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(measure(workers, pages, rounds))
}

/// Reads streams until it is killed.
fn read_pages(address: SocketAddr, path: &str, pages: u64) -> Result<(), Failure> {
    let mut readers = Vec::new();
    for _ in 0..pages {
        let mut stream = TcpStream::connect(address)?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: {address}\r\n\r\n")?;
        readers.push(std::thread::spawn(move || {
            let mut buffer = [0; 64 << 10];
            let first = stream.read(&mut buffer).expect("an answer");
            assert!(buffer[..first].starts_with(b"HTTP/1.1 200"), "the stream was refused");
            while stream.read(&mut buffer).is_ok_and(|read| read > 0) {}
        }));
    }
    readers.into_iter().for_each(|reader| drop(reader.join()));
    Ok(())
}

async fn measure(workers: u64, pages: u64, rounds: u64) -> Result<(), Failure> {
    let inspector = Inspector::new();
    let registry = Registry::<Counter>::builder().name("counters").inspect(&inspector, u64::to_string).build()?;
    for key in 0..workers {
        registry.start(&key, ()).await?;
    }
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let service = Router::new().nest_service("/console", gen_registry_console::router(&inspector));
    tokio::spawn(async move { axum::serve(listener, service).await });

    let id = inspector.registries()[0].id();
    let path = format!("/console/api/stream?registry={id}&sort=handled&order=descending&limit=50");
    let open = || -> Result<Readers, Failure> {
        let mut program = Command::new(std::env::current_exe()?);
        program.args(["read", &address.to_string(), &path, &pages.to_string()]).stdout(Stdio::null());
        Ok(Readers(program.spawn()?))
    };
    let alone = busy(rounds).await?;
    let readers = open()?;
    let watched = busy(rounds).await?;
    drop(readers);
    println!("{workers} workers, {pages} pages, no calls, in {ROUND:?} times {rounds}:");
    println!("  {alone:6.2} ms of processor time a second without pages, {watched:6.2} ms with them");

    let (calls, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| tokio::spawn(call(registry.clone(), caller, workers, Arc::clone(&calls), Arc::clone(&stop))))
        .collect();
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        without.push(rate(&calls).await?);
        let readers = open()?;
        with.push(rate(&calls).await?);
        drop(readers);
    }
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await?;
    }
    let (without, with) = (median(without), median(with));
    println!("the same under calls, median of {rounds} rounds, by second of processor time:");
    println!("  {without:9.0} calls without pages");
    println!("  {with:9.0} calls with pages: {:+.2} %", (with / without - 1.0) * 100.0);
    Ok(())
}

/// The process that reads the pages. Killed when dropped.
struct Readers(Child);

impl Drop for Readers {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Calls one worker after the other.
async fn call(registry: Registry<Counter>, caller: u64, workers: u64, calls: Arc<AtomicU64>, stop: Arc<AtomicBool>) {
    let mut key = caller;
    while !stop.load(Ordering::Relaxed) {
        let Some(worker) = registry.lookup(&(key % workers)) else { return };
        if worker.call(|reply| reply).await.is_err() {
            return;
        }
        calls.fetch_add(1, Ordering::Relaxed);
        key = key.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    }
}

/// Calls in one round, by second of processor time.
async fn rate(calls: &AtomicU64) -> Result<f64, Failure> {
    // Streams open, and samples settle.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (before, used) = (calls.load(Ordering::Relaxed), processor_time()?);
    tokio::time::sleep(ROUND).await;
    let (after, now) = (calls.load(Ordering::Relaxed), processor_time()?);
    Ok((after - before) as f64 / (now - used).as_secs_f64())
}

/// The processor time of this process in milliseconds a second.
async fn busy(rounds: u64) -> Result<f64, Failure> {
    tokio::time::sleep(ROUND).await;
    let (began, used) = (std::time::Instant::now(), processor_time()?);
    for _ in 0..rounds {
        tokio::time::sleep(ROUND).await;
    }
    Ok((processor_time()? - used).as_secs_f64() * 1e3 / began.elapsed().as_secs_f64())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The processor time of all threads of this process. Linux only.
fn processor_time() -> Result<Duration, Failure> {
    let mut nanos = 0;
    for thread in std::fs::read_dir("/proc/self/task")? {
        // A thread may end meanwhile.
        let Ok(text) = std::fs::read_to_string(thread?.path().join("schedstat")) else { continue };
        nanos += text.split_whitespace().next().and_then(|nanos| nanos.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(Duration::from_nanos(nanos))
}
