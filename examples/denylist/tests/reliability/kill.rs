//! SIGKILL with writes in flight: what was acknowledged is on disk, and nothing else is.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use crate::clients::Raw;
use crate::harness::{Service, TestDir, eventually};
use crate::scaled;

const CLIENTS: usize = 8;

/// A client that adds and removes rules of its own, one after the other.
#[derive(Debug, Default)]
struct Client {
    number: String,
    /// Its rules begin with this.
    prefix: usize,
    next: usize,
    acknowledged: BTreeSet<String>,
    /// Sent and not acknowledged: it may or may not be on disk.
    unknown: Option<String>,
}

impl Client {
    fn new(index: usize) -> Self {
        // Two clients per phone, so that its worker has more than one write in its mailbox.
        Self { number: format!("+1202555010{}", index / 2), prefix: (index + 1) * 10_000_000, ..Self::default() }
    }

    /// Writes until the service is killed. Returns the number of acknowledged writes.
    fn write(&mut self, to: SocketAddr, count: &AtomicUsize, is_over: &AtomicBool) {
        let mut connection = Raw::connect(to);
        loop {
            // Two rules are added for each that is removed, and there are never many.
            let removed =
                if self.next % 3 == 2 || self.acknowledged.len() > 60 { self.acknowledged.pop_first() } else { None };
            let method = if removed.is_some() { "DELETE" } else { "PUT" };
            let rule = removed.unwrap_or_else(|| format!("complaints:{}", self.prefix + self.next));
            self.next += 1;
            let path = format!("/v1/denylists/{}/rules/{rule}", self.number);
            self.unknown = Some(rule);
            connection.send(format!("{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n"));
            match connection.response() {
                Some(response) if response.status == 201 && method == "PUT" => {
                    self.acknowledged.extend(self.unknown.take());
                }
                Some(response) if response.status == 204 && method == "DELETE" => self.unknown = None,
                Some(response) => panic!("{method} {path}: {response:?}"),
                None => {
                    assert!(is_over.load(Ordering::SeqCst), "no response from a service that was not killed");
                    return;
                }
            }
            count.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Asserts that the disk has what was acknowledged, and nothing that was not sent.
    #[track_caller]
    fn check(&mut self, service: &Service) {
        let all = service.rules(&self.number);
        let prefix = (self.prefix / 10_000_000).to_string();
        let own = |rule: &&String| {
            let digits = rule.strip_prefix("complaints:").expect("only thresholds are written");
            digits.len() == 8 && digits.starts_with(&prefix)
        };
        let mut found: BTreeSet<String> = all.iter().filter(own).cloned().collect();
        let lost: Vec<_> = self.acknowledged.difference(&found).collect();
        assert!(lost.is_empty(), "{} lost the acknowledged rules {lost:?} of {}", self.number, self.acknowledged.len());
        if let Some(unknown) = self.unknown.take() {
            // From here on it is known.
            if found.take(&unknown).is_some() {
                self.acknowledged.insert(unknown.clone());
                found.insert(unknown);
            }
        }
        let extra: Vec<_> = found.difference(&self.acknowledged).collect();
        assert!(extra.is_empty(), "{} has rules again whose removal was acknowledged: {extra:?}", self.number);
    }
}

#[test]
fn acknowledged_writes_survive_sigkill() {
    let dir = TestDir::new();
    let rounds = scaled(3, 50);
    let mut clients: Vec<_> = (0..CLIENTS).map(Client::new).collect();
    let mut written = 0;
    for round in 0..rounds {
        let service = dir.serve_with(&["--no-sample"]);
        clients.iter_mut().for_each(|client| client.check(&service));
        let (count, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
        thread::scope(|scope| {
            for client in &mut clients {
                let (count, is_over, address) = (&count, &is_over, service.address);
                scope.spawn(move || client.write(address, count, is_over));
            }
            // Each round kills it at another moment.
            eventually("some writes are acknowledged", || count.load(Ordering::SeqCst) >= 100 + round * 17 % 83);
            is_over.store(true, Ordering::SeqCst);
            service.kill();
        });
        written += count.into_inner();
    }
    let service = dir.serve_with(&["--no-sample"]);
    clients.iter_mut().for_each(|client| client.check(&service));
    println!("{rounds} kills, {written} acknowledged writes, none lost");
}
