//! Every public future takes part in the cooperative budget, whichever way it completes: a loop of it yields to other
//! tasks, can be aborted, and can be killed.
//!
//! [`cases`] has a case for each way in which a future completes. A test compares the list with the public futures in
//! `src`. The same futures are dropped after each number of polls in `tests/reliability/futures`.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::future::pending;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::Poll;
use std::time::Duration;

use gen_registry::{
    Aliases, CallError, Context, Events, ExitReason, Groups, Mailbox, Registry, Reply, ReserveError, Retry, SendError,
    StartError, StopError, StopMode, TaskError, Worker, WorkerHandle, spawn,
};
use test_support::public_futures::public_futures;
use test_support::{BoxFuture, PollCounter, poll_once, until, until_idle, within};
use tokio::runtime::Builder;
use tokio::sync::Mutex;
use tokio::task::coop::{consume_budget, has_budget_remaining};
use tokio::time::timeout;

/// What `init` does.
#[derive(Clone, Copy)]
enum Plan {
    Serve,
    Fail,
    /// Exits right after its start.
    End,
}

enum Ask {
    Answer(Reply<u32>),
    DropReply(Reply<u32>),
    Nothing,
    /// Hangs, so that the mailbox fills up.
    Hang,
    Run(Code),
}

type Code = Box<dyn for<'a> FnOnce(&'a mut Inside<'_>) -> BoxFuture<'a, ()> + Send>;

/// What a closure can use that runs in a worker's own task.
struct Inside<'r> {
    ctx: &'r mut Context<Subject>,
    mailbox: &'r mut Mailbox<Ask>,
}

struct Subject;

impl Worker for Subject {
    type Key = u32;
    type Args = Plan;
    type Message = Ask;
    type Error = String;

    async fn init(plan: Plan, ctx: &mut Context<Self>) -> Result<Self, String> {
        match plan {
            Plan::Serve => {}
            Plan::Fail => return Err("a start that fails".into()),
            Plan::End => ctx.stop(),
        }
        Ok(Self)
    }

    async fn handle(&mut self, _: Ask, _: &mut Context<Self>) -> Result<(), String> {
        unreachable!("`run` handles all messages")
    }

    async fn run(&mut self, mailbox: &mut Mailbox<Ask>, ctx: &mut Context<Self>) -> Result<(), String> {
        while let Some(ask) = mailbox.recv().await {
            match ask {
                Ask::Answer(reply) => reply.send(7),
                Ask::DropReply(reply) => drop(reply),
                Ask::Nothing => {}
                Ask::Hang => pending().await,
                Ask::Run(code) => code(&mut Inside { ctx, mailbox }).await,
            }
        }
        Ok(())
    }
}

const SELF: u32 = 0;
const IDLE: u32 = 1;
const FULL: u32 = 2;
const VACANT: u32 = 3;

/// The registries and workers that the cases use.
struct Fixture {
    /// Has the workers `SELF`, `IDLE` and `FULL`. The mailbox of `FULL` is full.
    registry: Registry<Subject>,
    /// Runs the cases that need a worker's own task.
    own: WorkerHandle<Subject>,
    idle: WorkerHandle<Subject>,
    full: WorkerHandle<Subject>,
    ended: WorkerHandle<Subject>,
    /// Has `max_workers` workers.
    crowded: Registry<Subject>,
    forgiving: Registry<Subject>,
    /// Accepts no key.
    picky: Registry<Subject>,
    shut: Registry<Subject>,
    /// The runtime of this registry has been shut down.
    cut_off: Registry<Subject>,
    cut_off_worker: WorkerHandle<Subject>,
    aliases: Aliases<&'static str, Subject>,
    groups: Groups<&'static str, Subject>,
    /// Events of `shut`, subscribed before its shutdown.
    events: Mutex<Events<Subject>>,
    fresh: AtomicU32,
}

fn small() -> Registry<Subject> {
    Registry::builder().mailbox_capacity(1).build().expect("the test has a runtime")
}

impl Fixture {
    async fn new() -> Self {
        let registry = small();
        let own = registry.start(&SELF, Plan::Serve).await.unwrap();
        let idle = registry.start(&IDLE, Plan::Serve).await.unwrap();
        let full = registry.start(&FULL, Plan::Serve).await.unwrap();
        full.cast(Ask::Hang).await.unwrap();
        // Gets its permit when the worker takes the first message.
        full.cast(Ask::Nothing).await.unwrap();
        let ended = registry.start(&VACANT, Plan::Serve).await.unwrap();
        ended.stop().await.unwrap();
        let crowded = Registry::builder().max_workers(1).build().unwrap();
        crowded.start(&IDLE, Plan::Serve).await.unwrap();
        let forgiving = Registry::builder().remember_failed_starts(Duration::from_secs(3_600)).build().unwrap();
        assert!(forgiving.start(&VACANT, Plan::Fail).await.is_err());
        let picky = Registry::builder().accepts(|_| false).build().unwrap();
        let shut = small();
        let events = Mutex::new(shut.subscribe());
        assert_eq!(shut.shutdown().await.stuck, 0);
        let (cut_off, cut_off_worker) = std::thread::spawn(|| {
            let runtime = Builder::new_current_thread().enable_time().build().unwrap();
            runtime.block_on(async {
                let registry = small();
                let worker = registry.start(&IDLE, Plan::Serve).await.unwrap();
                (registry, worker)
            })
        })
        .join()
        .unwrap();
        let (aliases, groups) = (Aliases::new(), Groups::new());
        for (name, worker) in [("own", &own), ("idle", &idle), ("full", &full)] {
            aliases.register(name, worker).unwrap();
        }
        groups.join("idle", &idle).unwrap();
        groups.join("own", &own).unwrap();
        let fresh = AtomicU32::new(1_000);
        Self {
            registry,
            own,
            idle,
            full,
            ended,
            crowded,
            forgiving,
            picky,
            shut,
            cut_off,
            cut_off_worker,
            aliases,
            groups,
            events,
            fresh,
        }
    }

    /// A key that has never had a worker.
    fn fresh(&self) -> u32 {
        self.fresh.fetch_add(1, Ordering::Relaxed)
    }
}

type Attempt = for<'a> fn(&'a Fixture, Option<&'a mut Inside<'_>>) -> BoxFuture<'a, ()>;

struct Case {
    verb: &'static str,
    completion: &'static str,
    attempt: Attempt,
    /// Completes this way only in a worker's own task.
    is_inside: bool,
}

/// A case that runs both in a plain task and in a worker's own task, or only in the latter.
macro_rules! case {
    ($verb:literal, $completion:literal, |$fixture:ident| $attempt:expr) => {
        Case {
            verb: $verb,
            completion: $completion,
            attempt: |$fixture, _| Box::pin(async move { $attempt }),
            is_inside: false,
        }
    };
    ($verb:literal, $completion:literal, |$fixture:ident, $inside:ident| $attempt:expr) => {
        Case {
            verb: $verb,
            completion: $completion,
            attempt: |$fixture, inside| {
                let $inside = inside.expect("the case runs in the worker `SELF`");
                Box::pin(async move {
                    let _ = $fixture;
                    $attempt
                })
            },
            is_inside: true,
        }
    };
}

macro_rules! gives {
    ($future:expr, $($pattern:tt)+) => {{
        match $future.await {
            $($pattern)+ => {}
            other => panic!("{other:?}"),
        }
    }};
}

const LONG: Duration = Duration::from_secs(600);

fn fill(inside: &Inside<'_>) {
    while inside.ctx.handle().try_cast(Ask::Nothing).is_ok() {}
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    cases.extend(starts());
    cases.extend(ends());
    cases.extend(sends());
    cases.extend(calls());
    cases.extend(others());
    cases
}

fn starts() -> Vec<Case> {
    use Plan::{Fail, Serve};
    vec![
        case!("Registry::lookup_or_start", "hit", |s| gives!(s.registry.lookup_or_start(&IDLE, Serve), Ok(_))),
        case!("Registry::lookup_or_start", "start", |s| gives!(s.registry.lookup_or_start(&s.fresh(), Serve), Ok(_))),
        case!("Registry::lookup_or_start", "failed", |s| {
            gives!(s.registry.lookup_or_start(&VACANT, Fail), Err(StartError::Init(_)))
        }),
        case!("Registry::lookup_or_start", "refused", |s| {
            gives!(s.crowded.lookup_or_start(&VACANT, Serve), Err(StartError::AtCapacity))
        }),
        case!("Registry::lookup_or_start", "after a shutdown", |s| {
            gives!(s.shut.lookup_or_start(&VACANT, Serve), Err(StartError::Shutdown))
        }),
        case!("Registry::lookup_or_start", "after the runtime's shutdown", |s| {
            gives!(s.cut_off.lookup_or_start(&VACANT, Serve), Err(StartError::RuntimeShutdown))
        }),
        case!("Registry::lookup_or_start", "would deadlock", |s, inside| {
            inside.ctx.stop();
            gives!(s.registry.lookup_or_start(&SELF, Serve), Err(StartError::WouldDeadlock))
        }),
        case!("Registry::lookup_or_start_with", "hit", |s| {
            gives!(s.registry.lookup_or_start_with(&IDLE, || unreachable!()), Ok(_))
        }),
        case!("Registry::lookup_or_start_with", "start", |s| {
            gives!(s.registry.lookup_or_start_with(&s.fresh(), || Serve), Ok(_))
        }),
        case!("Registry::lookup_or_start_with", "refused", |s| {
            gives!(s.forgiving.lookup_or_start_with(&VACANT, || Serve), Err(StartError::RecentlyFailed(_)))
        }),
        case!("Registry::lookup_or_start_with", "after a shutdown", |s| {
            gives!(s.shut.lookup_or_start_with(&VACANT, || Serve), Err(StartError::Shutdown))
        }),
        case!("Registry::lookup_or_start_with", "after the runtime's shutdown", |s| {
            gives!(s.cut_off.lookup_or_start_with(&VACANT, || Serve), Err(StartError::RuntimeShutdown))
        }),
        case!("Registry::lookup_or_start_with", "would deadlock", |s, inside| {
            inside.ctx.stop();
            gives!(s.registry.lookup_or_start_with(&SELF, || Serve), Err(StartError::WouldDeadlock))
        }),
        case!("Registry::start", "start", |s| gives!(s.registry.start(&s.fresh(), Serve), Ok(_))),
        case!("Registry::start", "already started", |s| {
            gives!(s.registry.start(&IDLE, Serve), Err(StartError::AlreadyStarted { .. }))
        }),
        case!("Registry::start", "failed", |s| gives!(s.registry.start(&VACANT, Fail), Err(StartError::Init(_)))),
        case!("Registry::start", "refused", |s| {
            gives!(s.crowded.start(&VACANT, Serve), Err(StartError::AtCapacity))
        }),
        case!("Registry::start", "of a refused key", |s| {
            gives!(s.picky.start(&VACANT, Plan::Serve), Err(StartError::Refused))
        }),
        case!("Registry::start", "after a shutdown", |s| {
            gives!(s.shut.start(&VACANT, Serve), Err(StartError::Shutdown))
        }),
        case!("Registry::start", "after the runtime's shutdown", |s| {
            gives!(s.cut_off.start(&VACANT, Serve), Err(StartError::RuntimeShutdown))
        }),
        case!("Registry::start", "would deadlock", |s, inside| {
            inside.ctx.stop();
            gives!(s.registry.start(&SELF, Serve), Err(StartError::WouldDeadlock))
        }),
        case!("spawn", "start", |s| {
            let worker = spawn::<Subject>(s.fresh(), Serve).await.unwrap();
            drop(worker.kill().await);
        }),
        case!("spawn", "failed", |s| gives!(spawn::<Subject>(s.fresh(), Fail), Err(StartError::Init(_)))),
    ]
}

fn ends() -> Vec<Case> {
    vec![
        case!("Registry::stop", "end", |s| {
            s.crowded.lookup_or_start(&IDLE, Plan::Serve).await.unwrap();
            gives!(s.crowded.stop(&IDLE), Ok(ExitReason::Stopped))
        }),
        case!("Registry::stop", "vacant", |s| gives!(s.registry.stop(&VACANT), Err(StopError::NotFound))),
        case!("Registry::stop", "after a shutdown", |s| gives!(s.shut.stop(&IDLE), Err(StopError::NotFound))),
        case!("Registry::stop", "after the runtime's shutdown", |s| {
            gives!(s.cut_off.stop(&IDLE), Err(StopError::NotFound))
        }),
        case!("Registry::stop", "would deadlock", |s, _inside| {
            gives!(s.registry.stop(&SELF), Err(StopError::WouldDeadlock))
        }),
        case!("WorkerHandle::run_ended", "ended", |s| gives!(s.ended.run_ended(), ExitReason::Stopped)),
        case!("Registry::kill", "end", |s| {
            s.crowded.lookup_or_start(&IDLE, Plan::Serve).await.unwrap();
            gives!(s.crowded.kill(&IDLE), Ok(ExitReason::Killed))
        }),
        case!("Registry::kill", "vacant", |s| gives!(s.registry.kill(&VACANT), Err(StopError::NotFound))),
        case!("Registry::kill", "after a shutdown", |s| gives!(s.shut.kill(&IDLE), Err(StopError::NotFound))),
        case!("Registry::kill", "would deadlock", |s, _inside| {
            gives!(s.registry.kill(&SELF), Err(StopError::WouldDeadlock))
        }),
        case!("Registry::crash", "end", |s| {
            s.crowded.lookup_or_start(&IDLE, Plan::Serve).await.unwrap();
            gives!(s.crowded.crash(&IDLE), Ok(ExitReason::Crashed))
        }),
        case!("Registry::crash", "vacant", |s| gives!(s.registry.crash(&VACANT), Err(StopError::NotFound))),
        case!("Registry::crash", "after a shutdown", |s| gives!(s.shut.crash(&IDLE), Err(StopError::NotFound))),
        case!("Registry::crash", "would deadlock", |s, _inside| {
            gives!(s.registry.crash(&SELF), Err(StopError::WouldDeadlock))
        }),
        case!("WorkerHandle::crash", "ended", |s| gives!(s.ended.crash(), Err(StopError::NotFound))),
        case!("WorkerHandle::crash", "after the runtime's shutdown", |s| {
            gives!(s.cut_off_worker.crash(), Err(StopError::NotFound))
        }),
        case!("WorkerHandle::crash", "would deadlock", |s, _inside| {
            gives!(s.own.crash(), Err(StopError::WouldDeadlock))
        }),
        case!("Registry::stop_with", "end", |s| {
            s.crowded.lookup_or_start(&IDLE, Plan::Serve).await.unwrap();
            gives!(s.crowded.stop_with(&IDLE, StopMode::Discard), Ok(ExitReason::Stopped))
        }),
        case!("Registry::stop_with", "vacant", |s| {
            gives!(s.registry.stop_with(&VACANT, StopMode::Discard), Err(StopError::NotFound))
        }),
        case!("WorkerHandle::stop_with", "ended", |s| {
            gives!(s.ended.stop_with(StopMode::Discard), Err(StopError::NotFound))
        }),
        case!("WorkerHandle::stop_with", "would deadlock", |s, _inside| {
            gives!(s.own.stop_with(StopMode::Discard), Err(StopError::WouldDeadlock))
        }),
        case!("WorkerHandle::stop", "ended", |s| gives!(s.ended.stop(), Err(StopError::NotFound))),
        case!("WorkerHandle::stop", "after the runtime's shutdown", |s| {
            gives!(s.cut_off_worker.stop(), Err(StopError::NotFound))
        }),
        case!("WorkerHandle::stop", "would deadlock", |s, _inside| gives!(s.own.stop(), Err(StopError::WouldDeadlock))),
        case!("WorkerHandle::kill", "ended", |s| gives!(s.ended.kill(), Err(StopError::NotFound))),
        case!("WorkerHandle::kill", "after the runtime's shutdown", |s| {
            gives!(s.cut_off_worker.kill(), Err(StopError::NotFound))
        }),
        case!("WorkerHandle::kill", "would deadlock", |s, _inside| gives!(s.own.kill(), Err(StopError::WouldDeadlock))),
        case!("WorkerHandle::closed", "ended", |s| gives!(s.ended.closed(), ExitReason::Stopped)),
        case!("WorkerHandle::closed", "after the runtime's shutdown", |s| {
            gives!(s.cut_off_worker.closed(), ExitReason::Killed)
        }),
        case!("Registry::shutdown", "end", |_s| assert!(!small().shutdown().await.would_deadlock)),
        case!("Registry::shutdown", "over", |s| assert!(!s.shut.shutdown().await.would_deadlock)),
        case!("Registry::shutdown", "after the runtime's shutdown", |s| {
            assert_eq!(s.cut_off.shutdown().await.stuck, 0)
        }),
        case!("Registry::abort", "end", |_s| assert!(!small().abort().await.would_deadlock)),
        case!("Registry::abort", "over", |s| assert!(!s.shut.abort().await.would_deadlock)),
        case!("Registry::abort", "would deadlock", |s, _inside| assert!(s.registry.abort().await.would_deadlock)),
        case!("Registry::gone", "over", |s| s.shut.gone().await),
        case!("Registry::gone", "after the runtime's shutdown", |s| s.cut_off.gone().await),
        case!("Registry::shutdown", "would deadlock", |s, _inside| {
            assert!(s.registry.shutdown().await.would_deadlock)
        }),
    ]
}

fn sends() -> Vec<Case> {
    use SendError::{Closed, NotFound, NotStarted, WouldDeadlock};
    vec![
        case!("WorkerHandle::cast", "taken", |s| gives!(s.idle.cast(Ask::Nothing), Ok(()))),
        case!("WorkerHandle::cast", "closed", |s| gives!(s.ended.cast(Ask::Nothing), Err(Closed(_)))),
        case!("WorkerHandle::cast", "would deadlock", |s, inside| {
            fill(inside);
            gives!(s.own.cast(Ask::Nothing), Err(WouldDeadlock(_)))
        }),
        case!("Via::cast", "taken", |s| gives!(s.registry.via(&IDLE).cast(Ask::Nothing), Ok(()))),
        case!("Via::cast", "not found", |s| gives!(s.registry.via(&VACANT).cast(Ask::Nothing), Err(NotFound(_)))),
        case!("Via::cast", "closed", |s| {
            gives!(s.registry.via_or_start(&s.fresh(), Plan::End).cast(Ask::Nothing), Err(Closed(_)))
        }),
        case!("Via::cast", "not started", |s| {
            gives!(s.shut.via_or_start(&VACANT, Plan::Serve).cast(Ask::Nothing), Err(NotStarted { .. }))
        }),
        case!("Via::cast", "would deadlock", |s, inside| {
            fill(inside);
            gives!(s.registry.via(&SELF).cast(Ask::Nothing), Err(WouldDeadlock(_)))
        }),
        case!("Aliases::cast", "taken", |s| gives!(s.aliases.cast(&"idle", Ask::Nothing), Ok(()))),
        case!("Aliases::cast", "not found", |s| gives!(s.aliases.cast(&"none", Ask::Nothing), Err(NotFound(_)))),
        case!("Aliases::cast", "would deadlock", |s, inside| {
            fill(inside);
            gives!(s.aliases.cast(&"own", Ask::Nothing), Err(WouldDeadlock(_)))
        }),
        case!("WorkerHandle::cast_timeout", "taken", |s| gives!(s.idle.cast_timeout(LONG, Ask::Nothing), Ok(()))),
        case!("WorkerHandle::cast_timeout", "closed", |s| {
            gives!(s.ended.cast_timeout(LONG, Ask::Nothing), Err(Closed(_)))
        }),
        case!("WorkerHandle::cast_timeout", "timeout", |s| {
            gives!(s.full.cast_timeout(Duration::ZERO, Ask::Nothing), Err(SendError::TimedOut(_)))
        }),
        case!("WorkerHandle::cast_timeout", "would deadlock", |s, inside| {
            fill(inside);
            gives!(s.own.cast_timeout(LONG, Ask::Nothing), Err(WouldDeadlock(_)))
        }),
        case!("Via::cast_timeout", "taken", |s| {
            gives!(s.registry.via(&IDLE).cast_timeout(LONG, Ask::Nothing), Ok(()))
        }),
        case!("Via::cast_timeout", "not found", |s| {
            gives!(s.registry.via(&VACANT).cast_timeout(LONG, Ask::Nothing), Err(NotFound(_)))
        }),
        case!("Via::cast_timeout", "timeout", |s| {
            gives!(s.registry.via(&FULL).cast_timeout(Duration::ZERO, Ask::Nothing), Err(SendError::TimedOut(_)))
        }),
        case!("Via::cast_timeout", "closed", |s| {
            gives!(s.registry.via_or_start(&s.fresh(), Plan::End).cast_timeout(LONG, Ask::Nothing), Err(Closed(_)))
        }),
        case!("Via::cast_timeout", "not started", |s| {
            gives!(s.shut.via_or_start(&VACANT, Plan::Serve).cast_timeout(LONG, Ask::Nothing), Err(NotStarted { .. }))
        }),
        case!("Via::cast_timeout", "would deadlock", |s, inside| {
            fill(inside);
            gives!(s.registry.via(&SELF).cast_timeout(LONG, Ask::Nothing), Err(WouldDeadlock(_)))
        }),
        case!("Aliases::cast_timeout", "taken", |s| {
            gives!(s.aliases.cast_timeout(&"idle", LONG, Ask::Nothing), Ok(()))
        }),
        case!("Aliases::cast_timeout", "not found", |s| {
            gives!(s.aliases.cast_timeout(&"none", LONG, Ask::Nothing), Err(NotFound(_)))
        }),
        case!("Aliases::cast_timeout", "timeout", |s| {
            gives!(s.aliases.cast_timeout(&"full", Duration::ZERO, Ask::Nothing), Err(SendError::TimedOut(_)))
        }),
        case!("Aliases::cast_timeout", "would deadlock", |s, inside| {
            fill(inside);
            gives!(s.aliases.cast_timeout(&"own", LONG, Ask::Nothing), Err(WouldDeadlock(_)))
        }),
        case!("WorkerHandle::reserve", "permit", |s| gives!(s.idle.reserve(), Ok(_))),
        case!("WorkerHandle::reserve", "closed", |s| gives!(s.ended.reserve(), Err(ReserveError::Closed))),
        case!("WorkerHandle::reserve", "would deadlock", |s, inside| {
            fill(inside);
            gives!(s.own.reserve(), Err(ReserveError::WouldDeadlock))
        }),
        case!("Via::reserve", "permit", |s| gives!(s.registry.via(&IDLE).reserve(), Ok(_))),
        case!("Via::reserve", "not found", |s| {
            gives!(s.registry.via(&VACANT).reserve(), Err(ReserveError::NotFound))
        }),
        case!("Via::reserve", "not started", |s| {
            gives!(s.shut.via_or_start(&VACANT, Plan::Serve).reserve(), Err(ReserveError::NotStarted(_)))
        }),
        case!("Via::reserve", "closed", |s| {
            gives!(s.registry.via_or_start(&s.fresh(), Plan::End).reserve(), Err(ReserveError::Closed))
        }),
        case!("Via::reserve", "would deadlock", |s, inside| {
            fill(inside);
            gives!(s.registry.via(&SELF).reserve(), Err(ReserveError::WouldDeadlock))
        }),
        case!("Aliases::reserve", "permit", |s| gives!(s.aliases.reserve(&"idle"), Ok(_))),
        case!("Aliases::reserve", "not found", |s| gives!(s.aliases.reserve(&"none"), Err(ReserveError::NotFound))),
        case!("Aliases::reserve", "would deadlock", |s, inside| {
            fill(inside);
            gives!(s.aliases.reserve(&"own"), Err(ReserveError::WouldDeadlock))
        }),
        case!("Groups::broadcast", "taken", |s| {
            assert!(s.groups.broadcast(&"idle", |_| Ask::Nothing).await.refused.is_empty())
        }),
        case!("Groups::broadcast", "without members", |s| {
            assert_eq!(s.groups.broadcast(&"none", |_| Ask::Nothing).await.taken, 0)
        }),
        case!("Groups::broadcast", "would deadlock", |s, inside| {
            fill(inside);
            assert_eq!(s.groups.broadcast(&"own", |_| Ask::Nothing).await.refused.len(), 1)
        }),
    ]
}

fn calls() -> Vec<Case> {
    use CallError::{NoReply, NotDelivered, NotFound, NotSent, NotStarted, WouldDeadlock};
    vec![
        case!("WorkerHandle::call", "answer", |s| gives!(s.idle.call(Ask::Answer), Ok(7))),
        case!("WorkerHandle::call", "no reply", |s| gives!(s.idle.call(Ask::DropReply), Err(NoReply))),
        case!("WorkerHandle::call", "ended", |s| gives!(s.ended.call(Ask::Answer), Err(NotDelivered))),
        case!("WorkerHandle::call", "would deadlock", |s, _inside| {
            gives!(s.own.call(Ask::Answer), Err(WouldDeadlock))
        }),
        case!("WorkerHandle::call_timeout", "answer", |s| gives!(s.idle.call_timeout(LONG, Ask::Answer), Ok(7))),
        case!("WorkerHandle::call_timeout", "ended", |s| {
            gives!(s.ended.call_timeout(LONG, Ask::Answer), Err(NotDelivered))
        }),
        case!("WorkerHandle::call_timeout", "timeout", |s| {
            assert!(s.full.call_timeout(Duration::ZERO, Ask::Answer).await.is_err())
        }),
        case!("WorkerHandle::call_timeout", "would deadlock", |s, _inside| {
            gives!(s.own.call_timeout(LONG, Ask::Answer), Err(WouldDeadlock))
        }),
        case!("Via::call", "answer", |s| gives!(s.registry.via(&IDLE).call(Ask::Answer), Ok(7))),
        case!("Via::call", "not found", |s| gives!(s.registry.via(&VACANT).call(Ask::Answer), Err(NotFound))),
        case!("Via::call", "not delivered", |s| {
            gives!(s.registry.via_or_start(&s.fresh(), Plan::End).call(Ask::Answer), Err(NotDelivered))
        }),
        case!("Via::call", "not started", |s| {
            gives!(s.shut.via_or_start(&VACANT, Plan::Serve).call(Ask::Answer), Err(NotStarted(_)))
        }),
        case!("Via::call", "would deadlock", |s, _inside| {
            gives!(s.registry.via(&SELF).call(Ask::Answer), Err(WouldDeadlock))
        }),
        case!("Via::call_timeout", "not found", |s| {
            gives!(s.registry.via(&VACANT).call_timeout(LONG, Ask::Answer), Err(NotFound))
        }),
        case!("Via::call_timeout", "timeout", |s| {
            assert!(s.registry.via(&FULL).call_timeout(Duration::ZERO, Ask::Answer).await.is_err())
        }),
        case!("Via::call_with_retry", "answer", |s| {
            gives!(s.registry.via(&IDLE).call_with_retry(Retry::new(), Ask::Answer), Ok(7))
        }),
        case!("Via::call_with_retry", "not found", |s| {
            gives!(s.registry.via(&VACANT).call_with_retry(Retry::new(), Ask::Answer), Err(NotFound))
        }),
        case!("Via::call_with_retry", "without a pause", |s| {
            let retry = Retry::new().attempts(10).backoff(Duration::ZERO, Duration::ZERO);
            gives!(s.crowded.via_or_start(&VACANT, Plan::Serve).call_with_retry(retry, Ask::Answer), Err(NotStarted(_)))
        }),
        case!("Aliases::call_with_retry", "answer", |s| {
            gives!(s.aliases.call_with_retry(&"idle", Retry::new(), Ask::Answer), Ok(7))
        }),
        case!("Aliases::call_with_retry", "not found", |s| {
            gives!(s.aliases.call_with_retry(&"none", Retry::new(), Ask::Answer), Err(NotFound))
        }),
        case!("Aliases::call_with_retry", "retries exhausted", |s| {
            let retry = Retry::new().backoff(Duration::ZERO, Duration::ZERO).even_if_it_may_have_run();
            gives!(s.aliases.call_with_retry(&"idle", retry, Ask::DropReply), Err(NoReply))
        }),
        case!("Aliases::call_with_retry", "would deadlock", |s, _inside| {
            gives!(s.aliases.call_with_retry(&"own", Retry::new(), Ask::Answer), Err(WouldDeadlock))
        }),
        case!("PendingReply", "answer", |s| match s.idle.try_call(Ask::Answer) {
            Ok(reply) => gives!(reply, Ok(7)),
            Err(error) => panic!("{error}"),
        }),
        case!("Reply::closed", "without a caller", |_s| {
            let (sender, _) = tokio::sync::oneshot::channel::<u32>();
            Reply::from(sender).closed().await
        }),
        case!("Reply::closed", "of a dropped call", |s, inside| {
            let own = s.own.clone();
            // A spawned task may call the worker.
            tokio::spawn(async move { drop(own.try_call(Ask::Answer)) }).await.unwrap();
            if let Some(Ask::Answer(mut reply)) = inside.mailbox.recv().await {
                reply.closed().await;
            }
        }),
        case!("Aliases::call", "answer", |s| gives!(s.aliases.call(&"idle", Ask::Answer), Ok(7))),
        case!("Aliases::call", "not found", |s| gives!(s.aliases.call(&"none", Ask::Answer), Err(NotFound))),
        case!("Aliases::call", "would deadlock", |s, _inside| {
            gives!(s.aliases.call(&"own", Ask::Answer), Err(WouldDeadlock))
        }),
        case!("Aliases::call_timeout", "not found", |s| {
            gives!(s.aliases.call_timeout(&"none", LONG, Ask::Answer), Err(NotFound))
        }),
        case!("Aliases::call_timeout", "timeout", |s| {
            gives!(s.aliases.call_timeout(&"full", Duration::ZERO, Ask::Answer), Err(NotSent))
        }),
    ]
}

fn others() -> Vec<Case> {
    vec![
        case!("Aliases::await_registration", "found", |s| {
            gives!(s.aliases.await_registration(&"idle", Duration::MAX), Ok(_))
        }),
        case!("Aliases::await_registration", "in time", |s| {
            gives!(s.aliases.await_registration(&"idle", Duration::from_secs(600)), Ok(_))
        }),
        case!("Aliases::await_registration", "timeout", |s| {
            gives!(s.aliases.await_registration(&"none", Duration::ZERO), Err(_))
        }),
        case!("Events::recv", "event", |s| {
            let mut events = s.registry.subscribe();
            s.registry.start(&s.fresh(), Plan::Serve).await.unwrap();
            gives!(events.recv(), Some(Ok(_)))
        }),
        case!("Events::recv", "after a shutdown", |s| gives!(s.shut.subscribe().recv(), None)),
        case!("Events::recv", "after the last", |s| gives!(s.events.lock().await.recv(), None)),
        case!("Events::recv", "after the runtime's shutdown", |s| gives!(s.cut_off.subscribe().recv(), None)),
        case!("Mailbox::recv", "message", |s, inside| {
            s.own.try_cast(Ask::Nothing).unwrap();
            assert!(inside.mailbox.recv().await.is_some())
        }),
        case!("Mailbox::recv", "end", |s, inside| {
            inside.ctx.stop();
            assert!(inside.mailbox.recv().await.is_none());
        }),
        case!("Context::stopping", "asked to end", |s, inside| {
            inside.ctx.stop();
            inside.ctx.stopping().await;
        }),
        case!("Task", "result", |s, inside| gives!(inside.ctx.spawn(async { 7 }), Ok(7))),
        case!("Task", "aborted", |s, inside| {
            let task = inside.ctx.spawn(pending::<Infallible>());
            task.abort();
            gives!(task, Err(TaskError::Aborted))
        }),
    ]
}

/// Repeats one case until `is_over` is set.
struct Loop {
    case: Case,
    fixture: Arc<Fixture>,
    iterations: AtomicU32,
    is_over: AtomicBool,
}

/// Many more iterations than a loop needs to exhaust the budget several times.
const MAX_ITERATIONS: u32 = 3_000;

impl Loop {
    fn new(case: Case, fixture: &Arc<Fixture>) -> Arc<Self> {
        let (iterations, is_over) = (AtomicU32::new(0), AtomicBool::new(false));
        Arc::new(Self { case, fixture: Arc::clone(fixture), iterations, is_over })
    }

    async fn run(&self, mut inside: Option<&mut Inside<'_>>) {
        while !self.is_over.load(Ordering::Relaxed) {
            self.iterate(&mut inside).await;
        }
    }

    async fn iterate(&self, inside: &mut Option<&mut Inside<'_>>) {
        self.iterations.fetch_add(1, Ordering::Relaxed);
        (self.case.attempt)(&self.fixture, inside.as_deref_mut()).await;
    }

    /// Repeats the case until another task has been polled several times.
    async fn run_beside(&self, other: &PollCounter, mut inside: Option<&mut Inside<'_>>) {
        while other.polls() < 5 && self.iterations.load(Ordering::Relaxed) < MAX_ITERATIONS {
            self.iterate(&mut inside).await;
        }
    }

    fn name(&self) -> String {
        format!("{}, {}", self.case.verb, self.case.completion)
    }

    async fn begun(&self) {
        until(&format!("the start of {}", self.name()), || self.iterations.load(Ordering::Relaxed) >= 2).await;
    }
}

/// Runs a closure in the task of the worker `SELF`.
async fn inside(
    fixture: &Fixture,
    code: impl for<'a> FnOnce(&'a mut Inside<'_>) -> BoxFuture<'a, ()> + Send + 'static,
) {
    fixture.own.cast(Ask::Run(Box::new(code))).await.unwrap();
}

#[test]
fn loop_of_any_public_future_yields() {
    let mut not_yielding = Vec::new();
    for case in cases() {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let looped = Loop::new(case, &Arc::new(Fixture::new().await));
            let other = Arc::new(PollCounter::new());
            if looped.case.is_inside {
                let (sender, over) = tokio::sync::oneshot::channel::<()>();
                let (running, beside) = (Arc::clone(&looped), Arc::clone(&other));
                inside(&looped.fixture, move |inside| {
                    Box::pin(async move {
                        running.run_beside(&beside, Some(inside)).await;
                        drop(sender);
                    })
                })
                .await;
                // The end of the loop closes the channel.
                let _ = over.await;
            } else {
                looped.run_beside(&other, None).await;
            }
            if other.polls() < 5 {
                not_yielding.push(looped.name());
            }
        });
    }
    assert!(not_yielding.is_empty(), "these do not yield: {not_yielding:#?}");
}

/// Bounds an abort. A loop that cannot be aborted never ends.
const SOON: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn loop_of_any_public_future_is_abortable() {
    let mut failed = Vec::new();
    for case in cases().into_iter().filter(|case| !case.is_inside) {
        let looped = Loop::new(case, &Arc::new(Fixture::new().await));
        let running = Arc::clone(&looped);
        let mut task = tokio::spawn(async move { running.run(None).await });
        looped.begun().await;
        task.abort();
        match timeout(SOON, &mut task).await {
            Ok(ended) => assert!(ended.unwrap_err().is_cancelled(), "{}", looped.name()),
            Err(_) => failed.push(looped.name()),
        }
        looped.is_over.store(true, Ordering::Relaxed);
    }
    assert!(failed.is_empty(), "these cannot be aborted: {failed:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn loop_of_any_public_future_is_killable() {
    let mut failed = Vec::new();
    for case in cases() {
        let looped = Loop::new(case, &Arc::new(Fixture::new().await));
        let running = Arc::clone(&looped);
        inside(&looped.fixture, move |inside| Box::pin(async move { running.run(Some(inside)).await })).await;
        looped.begun().await;
        match within(looped.fixture.own.kill(), "a kill, which has a deadline").await {
            // An attempt that finds the worker's own gate closed has another result and panics.
            Ok(ExitReason::Killed | ExitReason::Panicked(_)) => {}
            other => failed.push((looped.name(), other)),
        }
        looped.is_over.store(true, Ordering::Relaxed);
    }
    assert!(failed.is_empty(), "these cannot be killed: {failed:#?}");
}

/// Consumes the rest of the task's budget.
async fn spend_all() {
    while has_budget_remaining() {
        consume_budget().await;
    }
}

#[tokio::test(start_paused = true)]
async fn first_poll_without_budget_starts_the_verb() {
    let registry = small();
    for key in 0..3 {
        spend_all().await;
        let mut start: BoxFuture<'_, bool> = match key {
            0 => Box::pin(async { registry.start(&key, Plan::Serve).await.is_ok() }),
            1 => Box::pin(async { registry.lookup_or_start(&key, Plan::Serve).await.is_ok() }),
            _ => Box::pin(async { registry.lookup_or_start_with(&key, || Plan::Serve).await.is_ok() }),
        };
        assert!(poll_once(start.as_mut()).await.is_pending());
        drop(start);
        until_idle().await;
        assert!(registry.lookup(&key).is_some(), "the start of {key} was not requested");
    }
    spend_all().await;
    let mut shutdown = Box::pin(registry.shutdown());
    assert!(poll_once(shutdown.as_mut()).await.is_pending());
    drop(shutdown);
    until_idle().await;
    assert_eq!(registry.count(), 0, "the shutdown was not asked for");
}

#[tokio::test(start_paused = true)]
async fn hit_waiting_for_budget_counts_once() {
    let registry = small();
    let worker = registry.start(&IDLE, Plan::Serve).await.unwrap();
    let before = registry.stats().lookups.hit;
    let (hits, mut pending) = (2_000, 0);
    for _ in 0..hits {
        let mut hit = Box::pin(registry.lookup_or_start(&IDLE, Plan::Serve));
        spend_all().await;
        let polled = poll_once(hit.as_mut()).await;
        pending += u64::from(polled.is_pending());
        let found = match polled {
            Poll::Ready(found) => found,
            Poll::Pending => within(hit, "a hit").await,
        };
        assert_eq!(found.unwrap(), worker);
    }
    assert!(pending > hits / 50, "{pending} of {hits} hits were pending");
    assert_eq!(registry.stats().lookups.hit, before + hits);
}

#[test]
fn every_public_future_has_a_case() {
    let public = public_futures(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    let tried: BTreeSet<String> = cases().into_iter().map(|case| case.verb.to_owned()).collect();
    let (missing, unknown): (Vec<_>, Vec<_>) =
        (public.difference(&tried).collect(), tried.difference(&public).collect());
    assert!(missing.is_empty(), "these public futures have no case above: {missing:#?}");
    assert!(unknown.is_empty(), "these are no public futures: {unknown:#?}");
}
