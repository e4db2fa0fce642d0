//! A gateway for devices that send lines over TCP: one worker per device.
//!
//! ```sh
//! cargo run -p gateway                          # plays the session below
//! cargo run -p gateway -- 127.0.0.1:7000 data   # serves, with its files in the directory `data`
//! nc 127.0.0.1 7000
//! ```
//!
//! A device sends `hello` with its id, and then readings. The session has a gateway with room for two devices:
//!
//! ```text
//! lamp  > hello lamp
//! lamp  < welcome, readings: 0
//! lamp  > 21.5
//! lamp  < ok 1
//! lamp  > warm
//! lamp  < error not a number
//! the operator sends: dim
//! lamp  < dim
//! the lamp connects again
//! lamp2 > hello lamp
//! lamp2 < welcome, readings: 1
//! lamp  < bye replaced
//! meter > hello meter
//! meter < welcome, readings: 0
//! fan   > hello fan
//! fan   < error full, try again later
//! the lamp disconnects, and its worker ends: idle
//! fan   > hello fan
//! fan   < welcome, readings: 0
//! the gateway shuts down
//! meter < bye shutdown
//! fan   < bye shutdown
//! workers that ended in time: 2
//! the gateway starts again
//! lamp  > hello lamp
//! lamp  < welcome, readings: 1
//! ```
//!
//! - The worker owns the connection. Its [`run`](Worker::run) selects over the socket and the mailbox.
//! - A second connection of a device replaces the first, in order with the readings: a worker does one thing at a time.
//! - A connected device keeps its worker active. After the connection ends, the worker stays for the idle timeout, so
//!   that a device which connects again finds its state in memory. Then it ends, and [`terminate`](Worker::terminate)
//!   writes the state to a file. The next worker of the device reads the file in `init`, after that write (G1).
//! - The number of workers is limited, and none is evicted. A device that finds no room is refused in its own protocol:
//!   the failed send returns the message, and with it the connection.
//!
//! Readings are written when a worker ends, so a panic, a kill or a power failure loses those since then. Write each
//! reading before its `ok` if that is too much.

mod session;

use std::error::Error;
use std::future::{Future, pending};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use futures_util::{SinkExt, StreamExt};
use gen_registry::{
    ActiveGuard, BuildError, Context, ExitReason, Mailbox, Registry, Reply, ShutdownReport, StartError, Worker,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::codec::{Framed, LinesCodec, LinesCodecError};

type Lines = Framed<TcpStream, LinesCodec>;
type BoxError = Box<dyn Error + Send + Sync>;

const LONGEST_LINE: usize = 256;
/// How long a new connection may take to send `hello`.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a device may take to accept a line. Much shorter than the stop timeout of five seconds: a device that does
/// not read must not keep its worker from saving.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);
/// Connections that have not sent `hello` yet.
const MAX_HANDSHAKES: usize = 1_000;

#[derive(Debug, Clone)]
struct Settings {
    directory: PathBuf,
    max_devices: usize,
    /// How long a worker stays without a connection.
    idle_timeout: Duration,
    /// How long a connection may be silent.
    silence: Duration,
}

impl Settings {
    fn new() -> Self {
        Self {
            directory: "data".into(),
            max_devices: 10_000,
            idle_timeout: Duration::from_secs(60),
            silence: Duration::from_secs(300),
        }
    }
}

/// What is kept of a device.
#[derive(Debug, Clone, Copy, Default)]
struct Record {
    readings: u64,
    last: f64,
}

impl Record {
    fn load(path: &Path) -> io::Result<Self> {
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            text => text?,
        };
        let parse = |text: &str| {
            let (readings, last) = text.split_once(' ')?;
            Some(Self { readings: readings.parse().ok()?, last: last.parse().ok()? })
        };
        parse(&text).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Replaces the file in one step: a reader finds the old content or the new.
    fn save(&self, path: &Path) -> io::Result<()> {
        let new = path.with_extension("new");
        fs::write(&new, format!("{} {}", self.readings, self.last))?;
        fs::rename(new, path)
    }
}

/// The worker of a device.
struct Device {
    record: Record,
    is_changed: bool,
    path: PathBuf,
    silence: Duration,
    connection: Option<Connection>,
}

struct Connection {
    lines: Lines,
    silent_at: Instant,
    /// The worker does not idle while it has a connection.
    _active: ActiveGuard,
}

enum Message {
    /// The device has connected.
    Connect(Lines),
    /// Sends a line to the device. The reply is false if it is not connected.
    Push(String, Reply<bool>),
}

impl Worker for Device {
    type Key = String;
    type Args = Settings;
    type Message = Message;
    type Error = BoxError;

    async fn init(settings: Settings, ctx: &mut Context<Self>) -> Result<Self, BoxError> {
        let path = settings.directory.join(ctx.key());
        let file = path.clone();
        let record = ctx.spawn_blocking(move || Record::load(&file)).await??;
        Ok(Device { record, is_changed: false, path, silence: settings.silence, connection: None })
    }

    async fn run(&mut self, mailbox: &mut Mailbox<Message>, ctx: &mut Context<Self>) -> Result<(), BoxError> {
        loop {
            tokio::select! {
                message = mailbox.recv() => match message {
                    Some(message) => self.handle(message, ctx).await?,
                    None => return Ok(()),
                },
                line = self.next_line() => self.receive(line).await,
            }
        }
    }

    async fn handle(&mut self, message: Message, ctx: &mut Context<Self>) -> Result<(), BoxError> {
        match message {
            Message::Connect(lines) => {
                self.send("bye replaced").await; // if there is another connection
                let silent_at = Instant::now() + self.silence;
                self.connection = Some(Connection { lines, silent_at, _active: ctx.keep_active() });
                self.send(&format!("welcome, readings: {}", self.record.readings)).await;
            }
            Message::Push(line, reply) => reply.send(self.send(&line).await),
        }
        Ok(())
    }

    async fn terminate(mut self, reason: &ExitReason, ctx: &mut Context<Self>) {
        if self.is_changed {
            let (record, path) = (self.record, self.path.clone());
            // The key is not free before this has ended: the next worker of the device reads what it writes.
            ctx.spawn_blocking(move || {
                if let Err(error) = record.save(&path) {
                    eprintln!("could not save {}: {error}", path.display());
                }
            });
        }
        self.send(&format!("bye {reason}")).await;
    }
}

/// A line from a device. `None`: the device has disconnected.
type Received = Option<Result<String, LinesCodecError>>;

impl Device {
    /// Waits for a line from the device, and fails when it has been silent for too long. Cancel safe.
    async fn next_line(&mut self) -> Result<Received, Elapsed> {
        match &mut self.connection {
            Some(connection) => timeout_at(connection.silent_at, connection.lines.next()).await,
            None => pending().await,
        }
    }

    async fn receive(&mut self, line: Result<Received, Elapsed>) {
        let answer = match line {
            Ok(Some(Ok(line))) => match line.trim().parse::<f64>() {
                Ok(reading) if reading.is_finite() => {
                    self.record = Record { readings: self.record.readings + 1, last: reading };
                    self.is_changed = true;
                    format!("ok {}", self.record.readings)
                }
                _ => "error not a number".into(),
            },
            Ok(Some(Err(LinesCodecError::MaxLineLengthExceeded))) => "error line too long".into(),
            Ok(Some(Err(LinesCodecError::Io(_))) | None) => return self.connection = None,
            Err(_) => {
                self.send("bye silent").await;
                return self.connection = None;
            }
        };
        if let Some(connection) = &mut self.connection {
            connection.silent_at = Instant::now() + self.silence;
        }
        self.send(&answer).await;
    }

    /// Sends a line if the device is connected. A device that does not accept it is disconnected.
    async fn send(&mut self, line: &str) -> bool {
        let Some(connection) = &mut self.connection else { return false };
        let is_sent = matches!(timeout(SEND_TIMEOUT, connection.lines.send(line)).await, Ok(Ok(())));
        if !is_sent {
            self.connection = None;
        }
        is_sent
    }
}

fn devices(settings: &Settings) -> Result<Registry<Device>, BuildError> {
    // The default eviction is none: a device that is connected keeps its place.
    Registry::<Device>::builder().max_workers(settings.max_devices).idle_timeout(settings.idle_timeout).build()
}

/// Serves until the future `stop` completes. Then the workers send `bye` and save.
async fn serve(
    listener: TcpListener,
    devices: Registry<Device>,
    settings: Settings,
    stop: impl Future<Output = ()>,
) -> ShutdownReport {
    let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    let mut stop = pin!(stop);
    loop {
        let accepted = async {
            let permit = Arc::clone(&handshakes).acquire_owned().await;
            (listener.accept().await, permit)
        };
        let (accepted, permit) = tokio::select! {
            accepted = accepted => accepted,
            () = &mut stop => return devices.shutdown().await,
        };
        match accepted {
            Ok((stream, _)) => {
                let (devices, settings) = (devices.clone(), settings.clone());
                tokio::spawn(async move {
                    admit(Framed::new(stream, LinesCodec::new_with_max_length(LONGEST_LINE)), &devices, settings).await;
                    drop(permit);
                });
            }
            Err(error) => {
                // For example too many open files. Trying again at once would not help.
                eprintln!("could not accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Passes a connection to the worker of its device, or refuses it.
async fn admit(mut lines: Lines, devices: &Registry<Device>, settings: Settings) {
    let hello = timeout(HELLO_TIMEOUT, lines.next()).await;
    let id = match &hello {
        Ok(Some(Ok(line))) => line.strip_prefix("hello ").filter(|id| is_valid(id)),
        _ => None,
    };
    let Some(id) = id else { return refuse(lines, "error expected: hello and an id").await };
    let Err(error) = devices.via_or_start(id, settings).cast(Message::Connect(lines)).await else { return };
    let why = match error.start_error() {
        Some(StartError::AtCapacity) => "error full, try again later",
        Some(StartError::Shutdown) => "error shutting down",
        // The device need not know that its file cannot be read.
        _ => "error unavailable",
    };
    eprintln!("refused {id}: {}", error.start_error().map_or_else(|| error.to_string(), ToString::to_string));
    if let Message::Connect(lines) = error.into_message() {
        refuse(lines, why).await;
    }
}

/// An id is the name of a file.
fn is_valid(id: &str) -> bool {
    (1..=32).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

async fn refuse(mut lines: Lines, why: &str) {
    // If it fails, the connection has ended already.
    let _ = timeout(SEND_TIMEOUT, lines.send(why)).await;
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let mut arguments = std::env::args().skip(1);
    let Some(address) = arguments.next() else {
        session::play().await?.iter().for_each(|line| println!("{line}"));
        return Ok(());
    };
    let directory = PathBuf::from(arguments.next().ok_or("usage: gateway [ADDRESS DIRECTORY]")?);
    fs::create_dir_all(&directory)?;
    let settings = Settings { directory, ..Settings::new() };
    let listener = TcpListener::bind(address).await?;
    println!("listening on {}", listener.local_addr()?);
    let interrupt = async {
        if let Err(error) = tokio::signal::ctrl_c().await {
            eprintln!("Ctrl-C will not save: {error}");
            pending().await
        }
    };
    let report = serve(listener, devices(&settings)?, settings, interrupt).await;
    println!("{report:?}");
    Ok(())
}
