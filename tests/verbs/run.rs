//! Overridden `Worker::run`: a worker that also reads a socket, and one that receives its messages in batches.
//!
//! The sockets are real, on loopback, so the clock is not paused.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gen_registry::{Context, ExitReason, Mailbox, Registry, Reply, Worker, WorkerHandle};
use test_support::{until, within};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};

/// One connection: lines arrive from the peer, commands from the mailbox, and both are logged in one list.
struct Session {
    lines: Lines<BufReader<TcpStream>>,
    log: Vec<String>,
    /// Replies to send once the log has this many entries.
    waiting: Vec<(usize, Reply<Vec<String>>)>,
    exit_report: oneshot::Sender<(Vec<String>, String)>,
}

enum Command {
    Say(String),
    LogOf(usize, Reply<Vec<String>>),
}

impl Session {
    fn write(&mut self, entry: String) {
        self.log.push(entry);
        let (log, waiting) = (&self.log, std::mem::take(&mut self.waiting));
        for (entries, reply) in waiting {
            if log.len() >= entries { reply.send(log.clone()) } else { self.waiting.push((entries, reply)) }
        }
    }
}

impl Worker for Session {
    type Key = u32;
    type Args = (TcpStream, oneshot::Sender<(Vec<String>, String)>);
    type Message = Command;
    type Error = io::Error;

    async fn init((stream, exit_report): Self::Args, _: &mut Context<Self>) -> io::Result<Self> {
        Ok(Self { lines: BufReader::new(stream).lines(), log: Vec::new(), waiting: Vec::new(), exit_report })
    }

    async fn handle(&mut self, command: Command, _: &mut Context<Self>) -> io::Result<()> {
        match command {
            Command::Say(text) => self.write(format!("command {text}")),
            Command::LogOf(entries, reply) if self.log.len() >= entries => reply.send(self.log.clone()),
            Command::LogOf(entries, reply) => self.waiting.push((entries, reply)),
        }
        Ok(())
    }

    async fn run(&mut self, mailbox: &mut Mailbox<Command>, ctx: &mut Context<Self>) -> io::Result<()> {
        loop {
            tokio::select! {
                command = mailbox.recv() => match command {
                    Some(command) => self.handle(command, ctx).await?,
                    None => return Ok(()),
                },
                line = self.lines.next_line() => match line? {
                    Some(line) => self.write(format!("line {line}")),
                    None => return Ok(()),
                },
            }
        }
    }

    async fn terminate(self, reason: &ExitReason, _: &mut Context<Self>) {
        // The test may have dropped the receiver.
        let _ = self.exit_report.send((self.log, reason.to_string()));
    }
}

type ExitReport = oneshot::Receiver<(Vec<String>, String)>;

async fn connected() -> (Registry<Session>, WorkerHandle<Session>, TcpStream, ExitReport) {
    let listener = within(TcpListener::bind("127.0.0.1:0"), "a port").await.unwrap();
    let address = listener.local_addr().unwrap();
    let both = async { tokio::join!(TcpStream::connect(address), listener.accept()) };
    let (peer, accepted) = within(both, "the connection").await;
    let (exit_report, heard) = oneshot::channel();
    let registry = Registry::new();
    let worker = within(registry.start(&1, (accepted.unwrap().0, exit_report)), "the start").await.unwrap();
    (registry, worker, peer.unwrap(), heard)
}

#[tokio::test]
async fn socket_and_mailbox_share_one_state() {
    let (_registry, worker, mut peer, _heard) = connected().await;
    let log_of = |entries| within(worker.call(move |reply| Command::LogOf(entries, reply)), "the log");
    peer.write_all(b"one\ntwo\n").await.unwrap();
    assert_eq!(log_of(2).await.unwrap(), ["line one", "line two"]);
    worker.cast(Command::Say("three".to_owned())).await.unwrap();
    assert_eq!(log_of(3).await.unwrap()[2], "command three");
    // A line in two parts. The message between them cancels the first read.
    peer.write_all(b"fo").await.unwrap();
    worker.cast(Command::Say("between".to_owned())).await.unwrap();
    assert_eq!(log_of(4).await.unwrap()[3], "command between");
    peer.write_all(b"ur\n").await.unwrap();
    assert_eq!(log_of(5).await.unwrap()[4], "line four");
}

#[tokio::test]
async fn recv_is_cancel_safe_in_select() {
    let (_registry, worker, mut peer, _heard) = connected().await;
    let lines = async {
        for n in 0..500 {
            peer.write_all(format!("{n}\n").as_bytes()).await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    let commands = async {
        for n in 0..500 {
            worker.cast(Command::Say(n.to_string())).await.unwrap();
        }
    };
    within(async { tokio::join!(lines, commands) }, "the senders").await;
    let log = within(worker.call(|reply| Command::LogOf(1_000, reply)), "the whole log").await.unwrap();
    for source in ["line ", "command "] {
        let of_source: Vec<_> = log.iter().filter_map(|entry| entry.strip_prefix(source)).collect();
        assert_eq!(of_source, (0..500).map(|n| n.to_string()).collect::<Vec<_>>(), "{source}");
    }
}

#[tokio::test]
async fn stop_drains_mailbox_and_ends_run() {
    let (registry, worker, _peer, heard) = connected().await;
    for n in 0..10 {
        worker.cast(Command::Say(n.to_string())).await.unwrap();
    }
    assert!(matches!(within(registry.stop(&1), "the stop").await, Ok(ExitReason::Stopped)));
    let (log, reason) = within(heard, "the last words").await.unwrap();
    assert_eq!(log, (0..10).map(|n| format!("command {n}")).collect::<Vec<_>>());
    assert_eq!(reason, "stopped");
}

#[tokio::test]
async fn returning_ok_exits_normal() {
    let (registry, worker, mut peer, heard) = connected().await;
    peer.write_all(b"bye\n").await.unwrap();
    drop(peer);
    assert!(matches!(within(worker.closed(), "the end").await, ExitReason::Normal));
    assert_eq!(within(heard, "the last words").await.unwrap(), (vec!["line bye".to_owned()], "normal".to_owned()));
    assert!(registry.lookup(&1).is_none());
    let (refused, _) = (worker.cast(Command::Say("late".to_owned())).await, registry);
    assert!(refused.is_err());
}

#[tokio::test]
async fn returning_an_error_exits_failed() {
    let (_registry, worker, mut peer, heard) = connected().await;
    peer.write_all(&[0xff, 0xfe, b'\n']).await.unwrap();
    match within(worker.closed(), "the end").await {
        ExitReason::Failed(error) => {
            assert_eq!(error.downcast_ref::<io::Error>().unwrap().kind(), io::ErrorKind::InvalidData);
        }
        other => panic!("{other:?}"),
    }
    assert!(within(heard, "the last words").await.unwrap().1.starts_with("failed: "));
}

/// Receives all queued messages at once and reports each batch.
struct Batches {
    sizes: mpsc::UnboundedSender<Vec<u32>>,
    hold: Option<oneshot::Receiver<()>>,
}

impl Worker for Batches {
    type Key = u32;
    type Args = (mpsc::UnboundedSender<Vec<u32>>, oneshot::Receiver<()>);
    type Message = u32;
    type Error = Infallible;

    async fn init((sizes, hold): Self::Args, _: &mut Context<Self>) -> Result<Self, Infallible> {
        Ok(Self { sizes, hold: Some(hold) })
    }

    async fn handle(&mut self, _: u32, _: &mut Context<Self>) -> Result<(), Infallible> {
        unreachable!("`run` handles every message");
    }

    async fn run(&mut self, mailbox: &mut Mailbox<u32>, _: &mut Context<Self>) -> Result<(), Infallible> {
        while let Some(first) = mailbox.recv().await {
            if let Some(hold) = self.hold.take() {
                hold.await.expect("the test holds the sender");
            }
            let mut batch = vec![first];
            while let Some(next) = mailbox.try_recv() {
                batch.push(next);
            }
            self.sizes.send(batch).expect("the test holds the receiver");
        }
        assert!(mailbox.recv().await.is_none() && mailbox.try_recv().is_none(), "`recv` returns `None` from now on");
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn messages_can_be_taken_in_batches() {
    let ((sizes, mut batches), (open, hold)) = (mpsc::unbounded_channel(), oneshot::channel());
    let registry = Registry::<Batches>::new();
    let worker = within(registry.start(&1, (sizes, hold)), "the start").await.unwrap();
    for n in 0..64 {
        worker.cast(n).await.unwrap();
    }
    open.send(()).unwrap();
    assert_eq!(within(batches.recv(), "a batch").await.unwrap(), (0..64).collect::<Vec<_>>());
    worker.cast(64).await.unwrap();
    assert_eq!(within(batches.recv(), "a batch").await.unwrap(), [64]);
    for n in 65..70 {
        worker.cast(n).await.unwrap();
    }
    assert!(matches!(within(registry.stop(&1), "the stop").await, Ok(ExitReason::Stopped)));
    assert_eq!(within(batches.recv(), "the batch that the stop drained").await.unwrap(), [65, 66, 67, 68, 69]);
}

#[tokio::test(start_paused = true)]
async fn early_return_leaves_mailbox_undelivered() {
    struct TakesOne;
    impl Worker for TakesOne {
        type Key = u32;
        type Args = ();
        type Message = u32;
        type Error = Infallible;

        async fn init((): (), _: &mut Context<Self>) -> Result<Self, Infallible> {
            Ok(Self)
        }

        async fn handle(&mut self, _: u32, _: &mut Context<Self>) -> Result<(), Infallible> {
            Ok(())
        }

        async fn run(&mut self, mailbox: &mut Mailbox<u32>, _: &mut Context<Self>) -> Result<(), Infallible> {
            mailbox.recv().await;
            Ok(())
        }
    }
    let (lost, mut received) = mpsc::unbounded_channel();
    let hook = move |&key: &u32, message| lost.send((key, message)).expect("the test holds the receiver");
    let registry = Registry::<TakesOne>::builder().on_undelivered(hook).build().unwrap();
    let worker = within(registry.start(&7, ()), "the start").await.unwrap();
    for n in 0..3 {
        worker.try_cast(n).unwrap();
    }
    assert!(matches!(within(worker.closed(), "the end").await, ExitReason::Normal));
    assert_eq!((received.try_recv(), received.try_recv()), (Ok((7, 1)), Ok((7, 2))));
    assert!(received.try_recv().is_err());
}

/// Looks itself up when `run` begins, then blocks its thread until the test drops the sender.
struct Blocks(Option<(oneshot::Sender<bool>, std::sync::mpsc::Receiver<()>)>);

impl Worker for Blocks {
    type Key = u32;
    type Args = (oneshot::Sender<bool>, std::sync::mpsc::Receiver<()>);
    type Message = ();
    type Error = Infallible;

    async fn init(args: Self::Args, _: &mut Context<Self>) -> Result<Self, Infallible> {
        Ok(Self(Some(args)))
    }

    async fn handle(&mut self, (): (), _: &mut Context<Self>) -> Result<(), Infallible> {
        Ok(())
    }

    async fn run(&mut self, mailbox: &mut Mailbox<()>, ctx: &mut Context<Self>) -> Result<(), Infallible> {
        if let Some((found, hold)) = self.0.take() {
            let registry = ctx.registry().upgrade().expect("the test holds the registry");
            // The test may have dropped the receiver.
            let _ = found.send(registry.lookup(ctx.key()).is_some());
            // An error means that the test has dropped the sender.
            let _ = hold.recv_timeout(Duration::from_secs(120));
        }
        while mailbox.recv().await.is_some() {}
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocking_run_does_not_delay_start() {
    let registry = Registry::<Blocks>::builder().init_timeout(Duration::from_secs(20)).build().unwrap();
    for key in 0..50 {
        let ((found, _), (release, hold)) = (oneshot::channel(), std::sync::mpsc::channel());
        let started = within(registry.start(&key, (found, hold)), "a start whose run blocks").await;
        // `run` blocks until here.
        drop(release);
        assert!(started.is_ok(), "{started:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn worker_is_registered_before_run() {
    let registry = Registry::<Blocks>::new();
    let ((found, was_found), (_, hold)) = (oneshot::channel(), std::sync::mpsc::channel());
    within(registry.start(&1, (found, hold)), "the start").await.unwrap();
    assert_eq!(within(was_found, "what the worker found").await, Ok(true));
}

/// Ignores the end of its mailbox.
struct IgnoresEnd(Arc<AtomicBool>);

impl Worker for IgnoresEnd {
    type Key = u32;
    type Args = Arc<AtomicBool>;
    type Message = ();
    type Error = Infallible;

    async fn init(did_not_yield: Arc<AtomicBool>, _: &mut Context<Self>) -> Result<Self, Infallible> {
        Ok(Self(did_not_yield))
    }

    async fn handle(&mut self, (): (), _: &mut Context<Self>) -> Result<(), Infallible> {
        Ok(())
    }

    async fn run(&mut self, mailbox: &mut Mailbox<()>, _: &mut Context<Self>) -> Result<(), Infallible> {
        for _ in 0..1_000_000 {
            mailbox.recv().await;
        }
        // The loop was not killed.
        self.0.store(true, Ordering::Relaxed);
        Ok(())
    }
}

#[tokio::test]
async fn recv_loop_after_close_yields_and_is_killable() {
    let did_not_yield = Arc::new(AtomicBool::new(false));
    let registry = Registry::<IgnoresEnd>::new();
    let worker = within(registry.start(&1, Arc::clone(&did_not_yield)), "the start").await.unwrap();
    let stopping = tokio::spawn({
        let worker = worker.clone();
        async move { worker.stop().await }
    });
    // Wait until the gate closes. From then on `recv` returns `None`.
    until("the close of the gate", || registry.lookup(&1).is_none()).await;
    let killed = within(worker.kill(), "the kill").await.unwrap();
    assert!(!did_not_yield.load(Ordering::Relaxed), "the loop did not yield");
    assert!(matches!(killed, ExitReason::Killed), "{killed}");
    within(stopping, "the stop").await.unwrap().unwrap();
}
