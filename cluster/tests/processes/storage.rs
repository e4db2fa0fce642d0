//! A storage that compares tokens, in the test process, and its client in the node processes.
//!
//! Lines over TCP. It also records the lives of workers, for the check that no two of a key overlap.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gen_registry_cluster::Token;
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::{mpsc, oneshot};

/// The machine's monotonic clock, which all processes share, in nanoseconds.
pub(crate) fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

type Order = (u64, u64);

#[derive(Debug, Default, Clone)]
pub(crate) struct Cell {
    pub(crate) value: u64,
    token: Order,
    /// When each write was asked for that was refused.
    refused: Vec<u64>,
}

#[derive(Debug, Clone)]
pub(crate) struct Life {
    pub(crate) key: String,
    pub(crate) process: u32,
    token: Order,
    begin: u64,
    end: Option<u64>,
}

/// The workers of one process that run `init`: now, and the most at once.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Starts {
    now: u64,
    pub(crate) most: u64,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) cells: HashMap<String, Cell>,
    pub(crate) lives: Vec<Life>,
    pub(crate) starts: HashMap<u32, Starts>,
    /// When processes ended.
    dead: HashMap<u32, u64>,
    /// The times in which a process was stopped.
    pauses: Vec<(u32, u64, u64)>,
}

impl State {
    /// Whether the process ran at some moment between two. After a pause its workers have some time to end: what they do in it is
    /// the concern of the storage.
    fn ran(&self, process: u32, mut from: u64, to: u64) -> bool {
        for (paused, begin, end) in &self.pauses {
            if *paused == process && (*begin..=*end).contains(&from) {
                from = *end;
            }
        }
        from < to
    }
}

/// The storage. Its threads end with the connections.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
    /// In which the workers of a process that has lost its shards must end.
    reaction: Duration,
}

impl Server {
    pub(crate) fn start(reaction: Duration) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("the listener is bound");
        let state: Arc<Mutex<State>> = Arc::default();
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = shared.clone();
                std::thread::spawn(move || serve(stream, &shared));
            }
        });
        Server { address, state, reaction }
    }

    pub(crate) fn with<T>(&self, with: impl FnOnce(&mut State) -> T) -> T {
        with(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A process is stopped until the end of the pause that is returned.
    pub(crate) fn paused(&self, process: u32) -> Pause {
        Pause { server: self.clone(), process, begin: now() }
    }

    /// The workers of a process that was killed do not run any more.
    pub(crate) fn killed(&self, process: u32) {
        let at = now();
        self.with(|state| {
            let at = *state.dead.entry(process).or_insert(at);
            for life in state.lives.iter_mut().filter(|life| life.process == process && life.end.is_none()) {
                life.end = Some(at);
            }
        });
    }

    /// How often two workers of a key have lived at the same time.
    pub(crate) fn overlaps(&self) -> u64 {
        self.with(|state| {
            let mut by_key: HashMap<&str, Vec<&Life>> = HashMap::new();
            for life in &state.lives {
                by_key.entry(&life.key).or_default().push(life);
            }
            let mut overlaps = 0;
            for lives in by_key.values_mut() {
                lives.sort_by_key(|life| life.begin);
                for pair in lives.windows(2) {
                    let end = pair[0].end.unwrap_or(u64::MAX);
                    if end > pair[1].begin && state.ran(pair[0].process, pair[1].begin, end) {
                        eprintln!("overlap: {pair:?}");
                        overlaps += 1;
                    }
                }
            }
            overlaps
        })
    }

    /// The writes of keys with this prefix that were refused.
    pub(crate) fn refused(&self, prefix: &str) -> u64 {
        self.refused_since(prefix, 0)
    }

    /// Those that were asked for at this moment or later.
    pub(crate) fn refused_since(&self, prefix: &str, moment: u64) -> u64 {
        self.with(|state| {
            let cells = state.cells.iter().filter(|(key, _)| key.starts_with(prefix));
            cells.flat_map(|(_, cell)| &cell.refused).filter(|at| **at >= moment).count() as u64
        })
    }
}

/// A process is stopped.
pub(crate) struct Pause {
    server: Server,
    process: u32,
    begin: u64,
}

impl Pause {
    /// The process goes on, from the moment that is returned.
    pub(crate) fn end(self) -> u64 {
        let end = now();
        let reacted = end + self.server.reaction.as_nanos() as u64;
        self.server.with(|state| state.pauses.push((self.process, self.begin, reacted)));
        end
    }
}

fn serve(stream: TcpStream, state: &Mutex<State>) {
    let Ok(mut answers) = stream.try_clone() else { return };
    let _ = stream.set_nodelay(true); // it only costs time
    for line in BufReader::new(stream).lines() {
        let Ok(line) = line else { return };
        let answer = perform(&line, &mut state.lock().unwrap_or_else(PoisonError::into_inner));
        if writeln!(answers, "{answer}").is_err() {
            return;
        }
    }
}

fn perform(line: &str, state: &mut State) -> u64 {
    let words: Vec<&str> = line.split(' ').collect();
    let number = |index: usize| -> u64 { words[index].parse().expect("a number of the protocol") };
    let key = words[1].to_owned();
    match words[0] {
        "read" => state.cells.entry(key).or_default().value,
        "write" => {
            let cell = state.cells.entry(key).or_default();
            let token = (number(2), number(3));
            if token < cell.token {
                cell.refused.push(number(5));
                return 0;
            }
            (cell.token, cell.value) = (token, number(4));
            1
        }
        "began" => {
            let token = (number(2), number(3));
            let process = number(5) as u32;
            // What it has sent may arrive after its end was seen.
            let end = state.dead.get(&process).copied();
            state.lives.push(Life { key, process, token, begin: number(4), end });
            1
        }
        "starting" => {
            let starts = state.starts.entry(number(2) as u32).or_default();
            starts.now += 1;
            starts.most = starts.most.max(starts.now);
            1
        }
        "started" => {
            state.starts.entry(number(2) as u32).or_default().now -= 1;
            1
        }
        "ended" => {
            let (token, end) = ((number(2), number(3)), number(4));
            let life = state.lives.iter_mut().rev().find(|life| life.key == key && life.token == token);
            if let Some(life) = life {
                life.end.get_or_insert(end);
            }
            1
        }
        other => panic!("no verb of the protocol: {other}"),
    }
}

/// The client: one connection, whose answers arrive in the order of the requests.
#[derive(Debug)]
pub(crate) struct Storage {
    requests: mpsc::UnboundedSender<(String, Option<oneshot::Sender<u64>>)>,
    /// By how many nanoseconds the monotonic clock of this process is ahead of the machine's.
    clock_ahead: i64,
}

impl Storage {
    /// Connects. Its two threads end with it.
    pub(crate) fn connect(address: &str, clock_ahead: i64) -> Arc<Storage> {
        let stream = TcpStream::connect(address).expect("the storage listens");
        stream.set_nodelay(true).expect("the option exists");
        let answers = BufReader::new(stream.try_clone().expect("a second handle of the socket"));
        let (sender, mut requests) = mpsc::unbounded_channel::<(String, Option<oneshot::Sender<u64>>)>();
        let (waiting, expected) = std::sync::mpsc::channel::<Option<oneshot::Sender<u64>>>();
        std::thread::spawn(move || {
            let mut stream = stream;
            while let Some((line, answer)) = requests.blocking_recv() {
                if waiting.send(answer).is_err() || writeln!(stream, "{line}").is_err() {
                    return;
                }
            }
        });
        std::thread::spawn(move || {
            for line in answers.lines() {
                let (Ok(line), Ok(answer)) = (line, expected.recv()) else { return };
                if let Some(answer) = answer {
                    // The worker may have been aborted meanwhile.
                    let _ = answer.send(line.parse().expect("a number of the protocol"));
                }
            }
        });
        Arc::new(Storage { requests: sender, clock_ahead })
    }

    async fn ask(&self, line: String) -> Option<u64> {
        let (sender, answer) = oneshot::channel();
        self.requests.send((line, Some(sender))).ok()?;
        answer.await.ok()
    }

    pub(crate) async fn read(&self, key: &str) -> Option<u64> {
        self.ask(format!("read {key}")).await
    }

    /// False: the storage has refused it.
    pub(crate) async fn write(&self, key: &str, token: Token, value: u64) -> bool {
        self.write_asked_at(self.now(), key, token, value).await
    }

    /// As [`write`](Self::write), of a worker that has looked at its fence after this moment.
    pub(crate) async fn write_asked_at(&self, at: u64, key: &str, token: Token, value: u64) -> bool {
        self.ask(format!("write {key} {} {} {value} {at}", token.epoch.get(), token.start)).await == Some(1)
    }

    /// A line without an answer. An error: the process ends.
    fn note(&self, line: String) {
        let _ = self.requests.send((line, None));
    }

    pub(crate) fn began(&self, key: &str, token: Token) {
        let (at, process) = (self.now(), std::process::id());
        self.note(format!("began {key} {} {} {at} {process}", token.epoch.get(), token.start));
    }

    pub(crate) fn ended(&self, key: &str, token: Token) {
        self.note(format!("ended {key} {} {} {}", token.epoch.get(), token.start, self.now()));
    }

    /// A worker runs `init` until this is dropped.
    pub(crate) fn starting(self: &Arc<Self>, key: &str) -> Starting {
        self.note(format!("starting {key} {}", std::process::id()));
        Starting(self.clone(), key.to_owned())
    }

    /// The machine's monotonic clock, whatever the clock of this process is.
    pub(crate) fn now(&self) -> u64 {
        now().saturating_add_signed(-self.clock_ahead)
    }
}

/// A worker runs `init`.
pub(crate) struct Starting(Arc<Storage>, String);

impl Drop for Starting {
    fn drop(&mut self) {
        self.0.note(format!("started {} {}", self.1, std::process::id()));
    }
}
