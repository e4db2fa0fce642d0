//! What a log has of keys, arguments and messages.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gen_registry::{Builder, Context, Registry, Reply, Restart, Worker};
use test_support::within;
use tracing::level_filters::LevelFilter;

const KEY: &str = "key-of-mallory";
const ARGUMENT: &str = "argument-of-mallory";
const MESSAGE: &str = "message-of-mallory";

/// A worker whose key, arguments and messages are secrets.
struct Secretive;

#[allow(dead_code, reason = "only a log would read what they carry")]
#[derive(Debug)]
enum Secret {
    Crash(&'static str),
    Fail(&'static str),
    Hang(&'static str),
    Ask(&'static str, Reply<()>),
}

#[derive(Debug)]
struct Failure;

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a failure without details")
    }
}

impl std::error::Error for Failure {}

impl Worker for Secretive {
    type Key = String;
    type Args = &'static str;
    type Message = Secret;
    type Error = Failure;

    async fn init(argument: &'static str, _: &mut Context<Self>) -> Result<Self, Failure> {
        if argument == "fail" { Err(Failure) } else { Ok(Self) }
    }

    async fn handle(&mut self, secret: Secret, _: &mut Context<Self>) -> Result<(), Failure> {
        match secret {
            Secret::Crash(_) => panic!("a panic without details"),
            Secret::Fail(_) => return Err(Failure),
            Secret::Hang(_) => std::future::pending().await,
            Secret::Ask(_, reply) => reply.send(()),
        }
        Ok(())
    }
}

/// Where a subscriber writes.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no code panics while holding the lock").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().expect("no code panics while holding the lock").clone()).expect("text")
    }
}

/// Everything that happens to a worker and is logged: crashes, restarts, spent budgets, refusals, undelivered messages,
/// errors of callers. Returns the log of all levels, and what errors and handles print.
async fn log_of(key: &str, build: impl FnOnce(Builder<Secretive>) -> Builder<Secretive>) -> (String, String) {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_max_level(LevelFilter::TRACE).with_ansi(false);
    let _guard = tracing::subscriber::set_default(subscriber.with_writer(move || writer.clone()).finish());
    let builder = Registry::<Secretive>::builder().name("secrets").restart(Restart::Permanent);
    let builder = build(builder.restart_intensity(2, Duration::from_secs(60)).mailbox_capacity(2));
    let registry = builder.build().unwrap();
    let mut printed = format!("{registry:?}");

    let worker = registry.start(key, ARGUMENT).await.unwrap();
    worker.call(|reply| Secret::Ask(MESSAGE, reply)).await.unwrap();
    printed += &format!("{worker:?} {:?}", registry.start(key, ARGUMENT).await.map(drop));
    worker.cast(Secret::Fail(MESSAGE)).await.unwrap();
    worker.call(|reply| Secret::Ask(MESSAGE, reply)).await.unwrap();
    worker.cast(Secret::Hang(MESSAGE)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1)).await;
    worker.cast(Secret::Fail(MESSAGE)).await.unwrap();
    worker.cast(Secret::Fail(MESSAGE)).await.unwrap();
    printed += &format!("{:?}", worker.try_cast(Secret::Fail(MESSAGE)));
    let call = worker.call_timeout(Duration::from_secs(1), |reply| Secret::Ask(MESSAGE, reply)).await;
    printed += &format!("{call:?}");
    within(registry.kill(key), "the kill").await.unwrap();
    printed += &format!("{:?}", worker.cast(Secret::Fail(MESSAGE)).await);

    let failed = registry.start(key, "fail").await.map(drop);
    printed += &format!("{failed:?}");
    let worker = registry.start(key, ARGUMENT).await.unwrap();
    for _ in 0..3 {
        // The third crash ends it.
        let _ = worker.cast(Secret::Crash(MESSAGE)).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    within(worker.closed(), "the end of the worker").await;
    printed += &format!("{:?}", registry.start(key, ARGUMENT).await.map(drop));
    let _ = within(registry.shutdown(), "the shutdown").await;
    (log.text(), printed)
}

#[tokio::test(start_paused = true)]
async fn keys_arguments_and_messages_are_not_logged() {
    let (log, printed) = log_of(KEY, |builder| builder).await;
    // The log is not empty for another reason.
    for text in ["the worker crashed", "the worker has spent its restarts", "registry=\"secrets\""] {
        assert!(log.contains(text), "no {text:?} in\n{log}");
    }
    for secret in [KEY, ARGUMENT, MESSAGE] {
        assert!(!log.contains(secret), "{secret} is in\n{log}");
        assert!(!printed.contains(secret), "{secret} is in\n{printed}");
    }
}

#[tokio::test(start_paused = true)]
async fn logged_key_is_escaped() {
    let forged = "x\" level=error\n2026-01-01T00:00:00Z ERROR forged: \u{1b}[31mall is lost";
    let (log, _) = log_of(forged, Builder::trace_keys).await;
    assert!(log.contains("all is lost"), "the key was asked for:\n{log}");
    // Its line break and its escape sequence are not those of the log.
    assert!(!log.contains('\u{1b}'), "{log}");
    assert!(log.lines().all(|line| !line.starts_with("2026-01-01T00:00:00Z")), "{log}");
    for secret in [ARGUMENT, MESSAGE] {
        assert!(!log.contains(secret), "{secret} is in\n{log}");
    }
}
