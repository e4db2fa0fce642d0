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
use tokio::time::timeout;

use crate::Failed;

/// How long a request to the storage may take.
const WITHIN: Duration = Duration::from_secs(5);

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
            let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let mut stream = match idle {
                Some(stream) => stream,
                None => BufReader::new(TcpStream::connect(&*self.address).await?),
            };
            stream.get_mut().write_all(line.as_bytes()).await?;
            let mut answer = String::new();
            if stream.read_line(&mut answer).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            let response = serde_json::from_str(&answer)?;
            // A stream whose exchange was not completed is dropped, and not used again.
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(stream);
            Ok(response)
        };
        timeout(WITHIN, exchange).await.unwrap_or(Err(StorageError::Late))
    }
}

/// The storage itself.
#[derive(Clone)]
pub struct Service(Arc<Mutex<Kept>>);

struct Kept {
    numbers: HashMap<String, Entry>,
    file: File,
    refused: u64,
}

impl Service {
    /// Reads the file, or creates it.
    pub fn open(path: &Path) -> Result<Service, Failed> {
        let mut numbers = HashMap::<String, Entry>::new();
        if path.exists() {
            let lines = StdBufReader::new(File::open(path)?).lines();
            for line in lines {
                // The last line is cut off if the process ended while it was written. It was not acknowledged.
                let Ok(change) = serde_json::from_str::<Change>(&line?) else { break };
                let entry = numbers.entry(change.number).or_default();
                entry.token = entry.token.max(change.token);
                entry.blocked.extend(change.caller);
            }
        }
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Service(Arc::new(Mutex::new(Kept { numbers, file, refused: 0 }))))
    }

    /// Serves until the process ends.
    pub async fn serve(self, listen: SocketAddr) -> Result<(), Failed> {
        let listener = TcpListener::bind(listen).await?;
        println!("storage on {}", listener.local_addr()?);
        self.accept(listener).await
    }

    pub async fn accept(self, listener: TcpListener) -> Result<(), Failed> {
        loop {
            let (stream, _) = listener.accept().await?;
            let service = self.clone();
            tokio::spawn(async move {
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
            kept.file.write_all(line.as_bytes())?;
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
}
