//! Large states, arguments and messages on threads with 2 MiB of stack, in debug builds: each function that passes one on has copies of
//! it in its frame. What runs by hand runs here.
//!
//! An overflow ends the process. So each case runs in a child process: this test binary, told by a variable what to run.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::process::Command;

use gen_registry::{Context, Registry, Reply, Restart, Worker};
use test_support::within;
use tokio::runtime::Builder;
use tokio::sync::{mpsc, oneshot};

const STACK: usize = 2 << 20;
const KIB: usize = 1024;
const VARIABLE: &str = "GEN_REGISTRY_STACK_CASE";

type Boxed = Pin<Box<dyn Future<Output = ()> + Send>>;

struct Large<const STATE: usize, const ARGS: usize, const MESSAGE: usize>([u8; STATE]);

enum Message<const MESSAGE: usize> {
    Put([u8; MESSAGE]),
    Get(Reply<u8>),
    Crash,
}

impl<const STATE: usize, const ARGS: usize, const MESSAGE: usize> Worker for Large<STATE, ARGS, MESSAGE> {
    type Key = u32;
    type Args = [u8; ARGS];
    type Message = Message<MESSAGE>;
    type Error = Infallible;

    async fn init(args: [u8; ARGS], _: &mut Context<Self>) -> Result<Self, Infallible> {
        Ok(Self([args[0]; STATE]))
    }

    async fn handle(&mut self, message: Message<MESSAGE>, _: &mut Context<Self>) -> Result<(), Infallible> {
        match message {
            Message::Put(bytes) => self.0[1] = bytes[0],
            Message::Get(reply) => reply.send(self.0[0] + self.0[1]),
            Message::Crash => panic!("as asked"),
        }
        Ok(())
    }
}

async fn by_start<const S: usize, const A: usize, const M: usize>() {
    let registry = Registry::<Large<S, A, M>>::new();
    let worker = registry.start(&1, [1; A]).await.expect("it starts");
    worker.cast(Message::Put([2; M])).await.expect("it takes it");
    assert_eq!(worker.call(Message::Get).await.expect("it answers"), 3);
    worker.stop().await.expect("it ends");
}

async fn by_address<const S: usize, const A: usize, const M: usize>() {
    let registry = Registry::<Large<S, A, M>>::new();
    let via = registry.via_or_start(&1, [1; A]);
    assert_eq!(via.call(Message::Get).await.expect("it answers"), 2);
    via.cast(Message::Put([2; M])).await.expect("it takes it");
    assert_eq!(via.call(Message::Get).await.expect("it answers"), 3);
    registry.kill(&1).await.expect("it ends");
}

async fn in_turn_and_again<const S: usize, const A: usize, const M: usize>() {
    let builder = Registry::<Large<S, A, M>>::builder().max_concurrent_starts(1).restart(Restart::Permanent);
    let registry = builder.build().expect("a runtime");
    let worker = registry.lookup_or_start(&1, [1; A]).await.expect("it starts");
    worker.try_cast(Message::Put([2; M])).expect("it takes it");
    worker.cast(Message::Crash).await.expect("it takes it");
    assert_eq!(worker.call(Message::Get).await.expect("the next run answers"), 2);
    registry.stop(&1).await.expect("it ends");
}

enum ByHand<const MESSAGE: usize> {
    Put([u8; MESSAGE]),
    Get(oneshot::Sender<u8>),
}

struct Hand<const STATE: usize>([u8; STATE]);

impl<const STATE: usize> Hand<STATE> {
    async fn init<const ARGS: usize>(args: [u8; ARGS]) -> Result<Self, Infallible> {
        Ok(Self([args[0]; STATE]))
    }

    async fn handle<const MESSAGE: usize>(&mut self, message: ByHand<MESSAGE>) -> Result<(), Infallible> {
        match message {
            ByHand::Put(bytes) => self.0[1] = bytes[0],
            ByHand::Get(reply) => drop(reply.send(self.0[0] + self.0[1])),
        }
        Ok(())
    }
}

async fn by_hand<const S: usize, const A: usize, const M: usize>() {
    let (sender, mut mailbox) = mpsc::channel::<ByHand<M>>(64);
    let args = [1; A];
    let task = tokio::spawn(async move {
        let Ok(mut worker) = Hand::<S>::init(args).await;
        while let Some(message) = mailbox.recv().await {
            let Ok(()) = worker.handle(message).await;
        }
    });
    sender.send(ByHand::Put([2; M])).await.expect("it takes it");
    let (reply, answer) = oneshot::channel();
    sender.send(ByHand::Get(reply)).await.expect("it takes it");
    assert_eq!(answer.await.expect("it answers"), 3);
    drop(sender);
    task.await.expect("it ends");
}

// Each in a function of its own: the future is on the stack of what makes it.

#[inline(never)]
fn make<F: Future<Output = ()> + Send + 'static>(future: impl FnOnce() -> F) -> Boxed {
    Box::pin(future())
}

fn way<const S: usize, const A: usize, const M: usize>(way: &str) -> Boxed {
    match way {
        "start" => make(by_start::<S, A, M>),
        "address" => make(by_address::<S, A, M>),
        "again" => make(in_turn_and_again::<S, A, M>),
        _ => make(by_hand::<S, A, M>),
    }
}

fn case(what: &str, name: &str) -> Boxed {
    match what {
        "a state of 256 KiB" => way::<{ 256 * KIB }, 1, 1>(name),
        "arguments of 96 KiB" => way::<2, { 96 * KIB }, 1>(name),
        "a message of 32 KiB" => way::<2, 1, { 32 * KIB }>(name),
        "a message of 48 KiB" => way::<2, 1, { 48 * KIB }>(name),
        _ => unreachable!("{what}"),
    }
}

fn run(code: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new().stack_size(STACK).spawn(code).expect("a thread").join().expect("it passes");
}

/// Does nothing unless it is told what to run.
#[test]
fn case_in_child_process() {
    let Ok(told) = std::env::var(VARIABLE) else { return };
    let [flavour, way, what] = told.split('/').collect::<Vec<_>>()[..] else { panic!("{told}") };
    let future = case(what, way);
    if flavour == "current-thread" {
        run(|| {
            Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(within(future, "the case"))
        });
    } else {
        let runtime = Builder::new_multi_thread().worker_threads(1).thread_stack_size(STACK).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let task = runtime.spawn(future);
        runtime.block_on(within(task, "the case")).expect("it passes");
    }
}

fn runs(case: &str) -> bool {
    let mut child = Command::new(std::env::current_exe().expect("this binary"));
    child.args(["--exact", "stack_size::case_in_child_process"]).env(VARIABLE, case);
    let output = child.output().expect("a child process");
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success() || printed.contains("1 passed"), "{case:?} was not run: {printed}");
    output.status.success()
}

fn all_run(what: &str, ways: &[&str]) {
    for flavour in ["current-thread", "multi-thread"] {
        for way in ways {
            assert!(runs(&format!("{flavour}/{way}/{what}")), "{what} overflows: {flavour}, {way}");
        }
    }
}

#[test]
fn large_state_needs_no_more_stack() {
    all_run("a state of 256 KiB", &["hand", "start", "address", "again"]);
}

/// By hand it is more: there no caller gets arguments back, as it does in `StartError::AlreadyStarted`.
#[test]
fn large_arguments_fit_on_the_stack() {
    all_run("arguments of 96 KiB", &["hand", "start", "address"]);
}

#[test]
fn large_message_needs_no_more_stack() {
    all_run("a message of 32 KiB", &["hand", "start", "address", "again"]);
    all_run("a message of 48 KiB", &["hand", "start"]);
}
