//! [`Storage`]: the rules of all numbers behind a service that compares tokens, so that no two processes ever write for one
//! number at the same time.
//!
//! The cluster keeps two workers of a number from running at once as long as clocks can be trusted. The storage needs no clock: it
//! keeps the highest token for each number and refuses every lower one. So a process that was stopped for minutes between a look
//! at its clock and a write changes nothing.
//!
//! A request and a response are a line of JSON each.

use std::collections::{BTreeSet, HashMap};
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader as StdBufReader, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gen_registry_cluster::Token;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::Failed;

/// How long a request to the storage may take.
const WITHIN: Duration = Duration::from_secs(5);
/// How long to wait if no connection can be accepted.
const RETRY: Duration = Duration::from_millis(20);

/// The epoch and the start of a worker: greater for each later worker of a number.
type Order = (u64, u64);

fn order(token: Token) -> Order {
    (token.epoch.get(), token.start)
}

#[derive(Debug, Serialize, Deserialize)]
struct Request {
    number: String,
    token: Order,
    /// The caller to add. Without one, the rules are read.
    add: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
enum Response {
    Blocked(BTreeSet<String>),
    Added,
    /// A later worker has read or written.
    Refused(Order),
}

/// One change, as the file has it.
#[derive(Debug, Serialize, Deserialize)]
struct Change {
    number: String,
    token: Order,
    caller: Option<String>,
}

#[derive(Debug, Default, Clone)]
struct Entry {
    token: Order,
    blocked: BTreeSet<String>,
}

/// Why the storage did not do what was asked.
#[derive(Debug, Error)]
pub enum StorageError {
    #[error("another node has this number: the storage has seen token {0:?}")]
    Refused(Order),
    #[error("the storage cannot be reached: {0}")]
    Io(#[from] io::Error),
    #[error("the storage did not answer in time")]
    Late,
    #[error("the storage sent something else than a response: {0}")]
    Garbled(#[from] serde_json::Error),
}

/// The client of a storage, in a node. Clones share the connections that are idle.
#[derive(Clone)]
pub struct Storage {
    address: Arc<str>,
    idle: Arc<Mutex<Vec<BufReader<TcpStream>>>>,
}

impl Storage {
    pub fn at(address: &str) -> Storage {
        Storage { address: address.into(), idle: Arc::default() }
    }

    /// Opens the storage itself.
    pub fn open(file: &Path) -> Result<Service, Failed> {
        Service::open(file)
    }

    /// Reads the rules of a number for the worker that has this token.
    pub async fn load(&self, number: &str, token: Token) -> Result<BTreeSet<String>, StorageError> {
        let request = Request { number: number.to_owned(), token: order(token), add: None };
        match self.ask(&request).await? {
            Response::Blocked(blocked) => Ok(blocked),
            Response::Refused(highest) => Err(StorageError::Refused(highest)),
            Response::Added => Err(io::Error::from(io::ErrorKind::InvalidData).into()),
        }
    }

    /// Adds a caller, unless a later worker of the number has asked for anything.
    pub async fn add(&self, number: &str, token: Token, caller: &str) -> Result<(), StorageError> {
        let request = Request { number: number.to_owned(), token: order(token), add: Some(caller.to_owned()) };
        match self.ask(&request).await? {
            Response::Added => Ok(()),
            Response::Refused(highest) => Err(StorageError::Refused(highest)),
            Response::Blocked(_) => Err(io::Error::from(io::ErrorKind::InvalidData).into()),
        }
    }

    async fn ask(&self, request: &Request) -> Result<Response, StorageError> {
        let mut line = serde_json::to_string(request)?;
        line.push('\n');
        let exchange = async {
            loop {
                let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
                let was_idle = idle.is_some();
                let mut stream = match idle {
                    Some(stream) => stream,
                    None => BufReader::new(TcpStream::connect(&*self.address).await?),
                };
                match exchange(&mut stream, &line).await {
                    Ok(answer) => {
                        let response = serde_json::from_str(&answer)?;
                        // A stream whose exchange was not completed is dropped, and not used again.
                        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(stream);
                        return Ok(response);
                    }
                    // The storage has closed it: it was started anew. To ask twice is as to ask once.
                    Err(_) if was_idle => {}
                    Err(error) => return Err(error.into()),
                }
            }
        };
        timeout(WITHIN, exchange).await.unwrap_or(Err(StorageError::Late))
    }
}

/// Sends a line and reads the next one.
async fn exchange(stream: &mut BufReader<TcpStream>, line: &str) -> io::Result<String> {
    stream.get_mut().write_all(line.as_bytes()).await?;
    let mut answer = String::new();
    match stream.read_line(&mut answer).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(answer),
    }
}

/// The storage itself.
#[derive(Clone)]
pub struct Service(Arc<Mutex<Kept>>);

struct Kept {
    numbers: HashMap<String, Entry>,
    file: File,
    /// Of the file, in bytes: all of its lines are whole.
    length: u64,
    refused: u64,
}

impl Kept {
    /// Writes a line to the file. What a full disk has taken of it is removed: the next line would be part of it.
    fn write(&mut self, line: &str) -> io::Result<()> {
        let written = self.file.write_all(line.as_bytes());
        match &written {
            Ok(()) => self.length += line.len() as u64,
            // Of two errors the first says more. If the second one stays, the next start finds the line.
            Err(_) => drop(self.file.set_len(self.length)),
        }
        written
    }
}

impl Service {
    /// Reads the file, or creates it.
    pub fn open(path: &Path) -> Result<Service, Failed> {
        let failed = |error: io::Error| format!("{} cannot be opened: {error}", path.display());
        let file = OpenOptions::new().create(true).read(true).append(true).open(path).map_err(failed)?;
        let (mut numbers, mut length) = (HashMap::<String, Entry>::new(), 0);
        let mut lines = StdBufReader::new(&file);
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            lines.read_until(b'\n', &mut line).map_err(failed)?;
            // The last line is cut off if the process ended while it was written. It was not acknowledged.
            if line.last() != Some(&b'\n') {
                break;
            }
            let change: Change = serde_json::from_slice(&line)
                .map_err(|error| format!("line {number} of {} is no change: {error}", path.display()))?;
            let entry = numbers.entry(change.number).or_default();
            entry.token = entry.token.max(change.token);
            entry.blocked.extend(change.caller);
            length += line.len() as u64;
        }
        // Otherwise the next change would be written behind what is left of that line.
        file.set_len(length).map_err(failed)?;
        Ok(Service(Arc::new(Mutex::new(Kept { numbers, file, length, refused: 0 }))))
    }

    /// Serves until the process ends.
    pub async fn serve(self, listen: SocketAddr) -> Result<(), Failed> {
        let listener =
            TcpListener::bind(listen).await.map_err(|error| format!("cannot listen on {listen}: {error}"))?;
        println!("storage on {}", listener.local_addr()?);
        self.accept(listener).await
    }

    pub async fn accept(self, listener: TcpListener) -> Result<(), Failed> {
        // Dropped with this future, and so are its tasks.
        let mut connections = JoinSet::new();
        loop {
            // Those that have ended.
            while connections.try_join_next().is_some() {}
            let Ok((stream, _)) = listener.accept().await else {
                // A connection that was reset, or no file descriptors: those that are open may be closed meanwhile.
                sleep(RETRY).await;
                continue;
            };
            let service = self.clone();
            connections.spawn(async move {
                let Err(error) = service.answer(stream).await else { return };
                // A node that is killed resets its connections.
                let is_reset =
                    error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::ConnectionReset);
                if !is_reset {
                    eprintln!("denylist-cluster: a connection to the storage failed: {error}");
                }
            });
        }
    }

    async fn answer(self, stream: TcpStream) -> Result<(), Failed> {
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        while stream.read_line(&mut line).await? > 0 {
            let response = self.respond(serde_json::from_str(&line)?)?;
            let mut answer = serde_json::to_string(&response)?;
            answer.push('\n');
            stream.get_mut().write_all(answer.as_bytes()).await?;
            line.clear();
        }
        Ok(())
    }

    /// Compares the token, and writes before it answers. A service for more than an example would write to a database.
    fn respond(&self, Request { number, token, add }: Request) -> Result<Response, Failed> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let highest = kept.numbers.get(&number).map_or((0, 0), |entry| entry.token);
        if token < highest {
            kept.refused += 1;
            return Ok(Response::Refused(highest));
        }
        // A read raises the token too: the writes of the worker before are refused from now on.
        if token > highest || add.is_some() {
            let change = Change { number: number.clone(), token, caller: add.clone() };
            let mut line = serde_json::to_string(&change)?;
            line.push('\n');
            kept.write(&line)?;
        }
        let entry = kept.numbers.entry(number).or_default();
        entry.token = token;
        Ok(match add {
            Some(caller) => {
                entry.blocked.insert(caller);
                Response::Added
            }
            None => Response::Blocked(entry.blocked.clone()),
        })
    }

    /// The callers that a number blocks, for the demo.
    pub fn blocked(&self, number: &str) -> BTreeSet<String> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.numbers.get(number).map(|entry| entry.blocked.clone()).unwrap_or_default()
    }

    /// How many requests of earlier workers were refused.
    pub fn refused(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).refused
    }
}

#[cfg(test)]
mod tests {
    use gen_registry_cluster::Epoch;

    use super::*;

    fn ask(service: &Service, token: Order, add: Option<&str>) -> Response {
        service.respond(Request { number: "1".into(), token, add: add.map(str::to_owned) }).expect("it can write")
    }

    #[test]
    fn earlier_worker_cannot_write_after_a_later_one_has_read() {
        let path = std::env::temp_dir().join(format!("denylist-cluster-storage-{}", std::process::id()));
        let service = Service::open(&path).expect("it can be created");
        assert!(matches!(ask(&service, (1, 1), None), Response::Blocked(_)));
        assert!(matches!(ask(&service, (1, 1), Some("a")), Response::Added));
        // Another worker in the same ownership, and then one of another node.
        for later in [(1, 2), (2, 1)] {
            let Response::Blocked(blocked) = ask(&service, later, None) else { panic!("it was refused") };
            assert!(blocked.contains("a"));
            assert!(matches!(ask(&service, (1, 1), Some("b")), Response::Refused(highest) if highest == later));
        }
        drop(service);
        // The tokens outlive the process.
        let service = Service::open(&path).expect("it can be read");
        assert!(matches!(ask(&service, (1, 2), Some("b")), Response::Refused((2, 1))));
        assert_eq!((service.blocked("1").len(), service.refused()), (1, 1));
        std::fs::remove_file(path).expect("it is there");
    }

    /// A file of its own, which is removed in the end.
    struct Scratch(std::path::PathBuf);

    impl Scratch {
        fn new(name: &str) -> Scratch {
            Scratch(std::env::temp_dir().join(format!("denylist-cluster-{name}-{}", std::process::id())))
        }

        fn open(&self) -> Service {
            Service::open(&self.0).expect("it can be read")
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    #[test]
    fn line_that_was_cut_off_costs_no_later_one() {
        let file = Scratch::new("cut-off");
        ask(&file.open(), (1, 1), Some("a"));
        let whole = std::fs::read(&file.0).expect("it is there");
        ask(&file.open(), (1, 1), Some("\u{e9}"));
        let all = std::fs::read(&file.0).expect("it is there");
        for end in whole.len()..all.len() {
            std::fs::write(&file.0, &all[..end]).expect("it is writable");
            assert_eq!(file.open().blocked("1").len(), 1, "{end} bytes");
            ask(&file.open(), (1, 2), Some("b"));
            let after = file.open();
            assert_eq!(after.blocked("1").into_iter().collect::<Vec<_>>(), ["a", "b"], "{end} bytes");
            assert!(matches!(ask(&after, (1, 1), None), Response::Refused((1, 2))), "{end} bytes");
        }
        // In the middle of a file it is no end of a process.
        std::fs::write(&file.0, [b"{\n", &all[..]].concat()).expect("it is writable");
        let damaged = Service::open(&file.0).err().expect("a line is no change").to_string();
        assert!(damaged.contains("line 1 of"), "{damaged}");
    }

    #[tokio::test]
    async fn storage_that_starts_anew_is_asked_again() {
        let file = Scratch::new("anew");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("it is bound");
        let storage = Storage::at(&address.to_string());
        let token = Token { epoch: Epoch::default(), start: 1 };
        let mut listening = Some(listener);
        for turn in 0..3 {
            let listener = match listening.take() {
                Some(listener) => listener,
                None => TcpListener::bind(address).await.expect("the port is free"),
            };
            let mut serving = JoinSet::new();
            serving.spawn(file.open().accept(listener));
            for caller in 0..3 {
                let added = storage.add("1", token, &format!("{turn}-{caller}")).await;
                added.expect("it is added");
            }
            assert_eq!(storage.load("1", token).await.expect("it is read").len(), 3 * (turn + 1));
            // What it has accepted ends with it, as with its process.
            serving.shutdown().await;
        }
    }
}
