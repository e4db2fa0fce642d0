//! [`Raw`]: a client that may send anything, in any pace.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::harness::{PATIENCE, Response};

/// A connection. Reads wait for at most [`PATIENCE`].
pub(crate) struct Raw {
    stream: TcpStream,
    /// Read, and not yet returned.
    unread: Vec<u8>,
}

impl Raw {
    #[track_caller]
    pub(crate) fn connect(to: SocketAddr) -> Self {
        Self::try_connect(to).expect("a connection")
    }

    /// `None` if the service accepts no connections.
    pub(crate) fn try_connect(to: SocketAddr) -> Option<Self> {
        let stream = TcpStream::connect_timeout(&to, PATIENCE).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
        Some(Self { stream, unread: Vec::new() })
    }

    /// Sends bytes. Returns whether the service still reads them.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).is_ok()
    }

    /// Sends as much as the service takes before it has read nothing for a while.
    pub(crate) fn stuff(&mut self, bytes: &[u8]) {
        self.stream.set_write_timeout(Some(Duration::from_millis(200))).expect("a timeout");
        while self.stream.write_all(bytes).is_ok() {}
    }

    /// The next response. `None` if the connection ends before it is complete.
    pub(crate) fn response(&mut self) -> Option<Response> {
        let mut buffer = [0; 4096];
        loop {
            if let Some(end) = find(&self.unread, b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&self.unread[..end]).into_owned();
                let whole = end + 4 + content_length(&head);
                if self.unread.len() >= whole {
                    let text = String::from_utf8_lossy(&self.unread[..whole]).into_owned();
                    self.unread.drain(..whole);
                    return Response::parse(&text);
                }
            }
            match self.stream.read(&mut buffer) {
                Ok(read @ 1..) => self.unread.extend_from_slice(&buffer[..read]),
                Ok(0) | Err(_) => return None,
            }
        }
    }

    /// Whether a part of a response was received, of which the rest is missing.
    pub(crate) fn is_cut_off(&self) -> bool {
        !self.unread.is_empty()
    }

    /// Whether nothing arrives for a while.
    pub(crate) fn is_silent(&mut self, during: Duration) -> bool {
        self.stream.set_read_timeout(Some(during)).expect("a timeout");
        let read = self.stream.read(&mut [0; 1]);
        self.stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        read.is_err_and(|error| matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut))
    }

    /// Sends a byte now and then until the service closes the connection. Returns how long that took, and what it sent.
    #[track_caller]
    pub(crate) fn trickle(&mut self, byte: Option<u8>) -> (Duration, String) {
        let began = Instant::now();
        self.stream.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
        let mut buffer = [0; 4096];
        loop {
            assert!(began.elapsed() < PATIENCE, "a client that sends {byte:?} now and then is never cut off");
            if let Some(byte) = byte {
                // Fails when the connection is closed, which the read reports.
                let _ = self.stream.write_all(&[byte]);
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => self.unread.extend_from_slice(&buffer[..read]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => break,
            }
        }
        (began.elapsed(), String::from_utf8_lossy(&self.unread).into_owned())
    }
}

fn find(bytes: &[u8], pattern: &[u8]) -> Option<usize> {
    bytes.windows(pattern.len()).position(|window| window == pattern)
}

fn content_length(head: &str) -> usize {
    let mut fields = head.lines().filter_map(|line| line.split_once(": "));
    let length = fields.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    length.map_or(0, |(_, length)| length.parse().expect("a length is a number"))
}

/// The resident memory of a process in KiB.
pub(crate) fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs on Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("the kernel reports it");
    line.trim().strip_suffix(" kB").and_then(|number| number.trim().parse().ok()).expect("a number")
}
