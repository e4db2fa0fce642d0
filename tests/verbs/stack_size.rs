//! Large states, arguments and messages on threads with 2 MiB of stack, in debug builds. Each function that passes such
//! a value on has copies of it in its frame. What works with a plain task and channel must work here.
//!
//! A stack overflow ends the process. So each case runs in a child process: this test binary, with the case in a
//! variable.

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
    let worker = registry.start(&1, [1; A]).await.expect("the start succeeds");
    worker.cast(Message::Put([2; M])).await.expect("the worker accepts the message");
    assert_eq!(worker.call(Message::Get).await.expect("the worker replies"), 3);
    worker.stop().await.expect("the worker exits");
}

async fn by_address<const S: usize, const A: usize, const M: usize>() {
    let registry = Registry::<Large<S, A, M>>::new();
    let via = registry.via_or_start(&1, [1; A]);
    assert_eq!(via.call(Message::Get).await.expect("the worker replies"), 2);
    via.cast(Message::Put([2; M])).await.expect("the worker accepts the message");
    assert_eq!(via.call(Message::Get).await.expect("the worker replies"), 3);
    registry.kill(&1).await.expect("the worker exits");
}

async fn by_restart<const S: usize, const A: usize, const M: usize>() {
    let builder = Registry::<Large<S, A, M>>::builder().max_concurrent_starts(1).restart(Restart::Permanent);
    let registry = builder.build().expect("a runtime");
    let worker = registry.lookup_or_start(&1, [1; A]).await.expect("the start succeeds");
    worker.try_cast(Message::Put([2; M])).expect("the worker accepts the message");
    worker.cast(Message::Crash).await.expect("the worker accepts the message");
    assert_eq!(worker.call(Message::Get).await.expect("the next run replies"), 2);
    registry.stop(&1).await.expect("the worker exits");
}

enum BaselineMessage<const MESSAGE: usize> {
    Put([u8; MESSAGE]),
    Get(oneshot::Sender<u8>),
}

struct Baseline<const STATE: usize>([u8; STATE]);

impl<const STATE: usize> Baseline<STATE> {
    async fn init<const ARGS: usize>(args: [u8; ARGS]) -> Result<Self, Infallible> {
        Ok(Self([args[0]; STATE]))
    }

    async fn handle<const MESSAGE: usize>(&mut self, message: BaselineMessage<MESSAGE>) -> Result<(), Infallible> {
        match message {
            BaselineMessage::Put(bytes) => self.0[1] = bytes[0],
            BaselineMessage::Get(reply) => drop(reply.send(self.0[0] + self.0[1])),
        }
        Ok(())
    }
}

async fn baseline<const S: usize, const A: usize, const M: usize>() {
    let (sender, mut mailbox) = mpsc::channel::<BaselineMessage<M>>(64);
    let args = [1; A];
    let task = tokio::spawn(async move {
        let Ok(mut worker) = Baseline::<S>::init(args).await;
        while let Some(message) = mailbox.recv().await {
            let Ok(()) = worker.handle(message).await;
        }
    });
    sender.send(BaselineMessage::Put([2; M])).await.expect("the worker accepts the message");
    let (reply, answer) = oneshot::channel();
    sender.send(BaselineMessage::Get(reply)).await.expect("the worker accepts the message");
    assert_eq!(answer.await.expect("the worker replies"), 3);
    drop(sender);
    task.await.expect("the worker exits");
}

// Each variant has its own function, because the future is on the stack of the function that builds it.

#[inline(never)]
fn boxed<F: Future<Output = ()> + Send + 'static>(future: impl FnOnce() -> F) -> Boxed {
    Box::pin(future())
}

fn variant<const S: usize, const A: usize, const M: usize>(variant: &str) -> Boxed {
    match variant {
        "start" => boxed(by_start::<S, A, M>),
        "address" => boxed(by_address::<S, A, M>),
        "restart" => boxed(by_restart::<S, A, M>),
        _ => boxed(baseline::<S, A, M>),
    }
}

fn case(what: &str, name: &str) -> Boxed {
    match what {
        "a state of 256 KiB" => variant::<{ 256 * KIB }, 1, 1>(name),
        "arguments of 384 KiB" => variant::<2, { 384 * KIB }, 1>(name),
        "a message of 32 KiB" => variant::<2, 1, { 32 * KIB }>(name),
        "a message of 48 KiB" => variant::<2, 1, { 48 * KIB }>(name),
        _ => unreachable!("{what}"),
    }
}

fn run(code: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new().stack_size(STACK).spawn(code).expect("a thread").join().expect("the case passes");
}

/// Does nothing unless the variable names a case.
#[test]
fn case_in_child_process() {
    let Ok(variable) = std::env::var(VARIABLE) else { return };
    let [flavour, variant, what] = variable.split('/').collect::<Vec<_>>()[..] else { panic!("{variable}") };
    let future = case(what, variant);
    if flavour == "current-thread" {
        run(|| {
            Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(within(future, "the case"))
        });
    } else {
        let runtime = Builder::new_multi_thread().worker_threads(1).thread_stack_size(STACK).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let task = runtime.spawn(future);
        runtime.block_on(within(task, "the case")).expect("the case passes");
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

fn all_run(what: &str, variants: &[&str]) {
    for flavour in ["current-thread", "multi-thread"] {
        for variant in variants {
            assert!(runs(&format!("{flavour}/{variant}/{what}")), "{what} overflows: {flavour}, {variant}");
        }
    }
}

#[test]
fn large_state_fits_on_the_stack() {
    all_run("a state of 256 KiB", &["baseline", "start", "address", "restart"]);
}

#[test]
fn large_arguments_fit_on_the_stack() {
    all_run("arguments of 384 KiB", &["baseline", "start", "address", "restart"]);
}

#[test]
fn large_message_fits_on_the_stack() {
    all_run("a message of 32 KiB", &["baseline", "start", "address", "restart"]);
    all_run("a message of 48 KiB", &["baseline", "start"]);
}
