//! Each public future: how it is made on a [`Stage`], and what its output means.

use std::fmt::Debug;
use std::future::Future;
use std::sync::atomic::Ordering;

use gen_registry::{CallError, Retry, SendError, StartError, StopMode, WorkerHandle, spawn};
use test_support::BoxFuture;

use super::stage::{Answer, LONG, Own, Stage};
use super::worker::{Ask, Key, Subject};

/// A future of the library. That it can be boxed like this shows that it is `Send`, although arguments, messages and
/// errors are not `Sync`.
pub(crate) struct Made<'a> {
    pub(crate) bytes: usize,
    pub(crate) future: BoxFuture<'a, Answer>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Ends no worker.
    Plain,
    /// Ends a worker, or its run.
    Ends,
    /// Ends all workers for good.
    Shuts,
    /// Completes only if another party acts.
    Waits,
}

pub(crate) struct Verb {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    /// `None`: the situation has no such future.
    pub(crate) make: for<'a> fn(&'a Stage, &'a mut Own) -> Option<Made<'a>>,
}

fn made<'a, F>(future: F, answer: impl FnOnce(F::Output) -> Answer + Send + 'a) -> Option<Made<'a>>
where
    F: Future + Send + 'a,
{
    let bytes = size_of_val(&future);
    Some(Made { bytes, future: Box::pin(async move { answer(future.await) }) })
}

fn any<T: Debug, E: Debug>(result: Result<T, E>) -> Answer {
    result.map_or_else(|error| format!("{error:?}"), |_| "ok".to_owned())
}

fn started(result: Result<WorkerHandle<Subject>, StartError<Subject>>) -> Answer {
    match result {
        Ok(_) | Err(StartError::AlreadyStarted { .. }) => "worker".to_owned(),
        Err(error) => format!("{error:?}"),
    }
}

fn sent(stage: &Stage, id: usize, result: Result<(), SendError<Subject>>) -> Answer {
    if result.is_ok() {
        stage.shared.ledger.accept(id);
    }
    any(result)
}

/// A call has an answer only if its handler has begun, and says so if it has not. (G6)
fn called(stage: &Stage, id: usize, result: Result<u32, CallError<Subject>>) -> Answer {
    let has_begun = stage.shared.ledger.has_begun(id);
    match &result {
        Ok(_) => assert!(has_begun, "an answer without a handler"),
        Err(error) => assert!(error.may_have_run() || !has_begun, "{error:?}, but the handler ran"),
    }
    any(result)
}

fn joined<T>(_: T) -> Answer {
    "ok".to_owned()
}

macro_rules! cast {
    ($name:literal, |$s:ident, $message:ident| $future:expr) => {
        Verb {
            name: $name,
            kind: Kind::Plain,
            make: |$s, _| {
                let (id, note) = $s.note();
                let $message = Ask::Note(note);
                made($future, move |result| sent($s, id, result))
            },
        }
    };
}

macro_rules! call {
    ($name:literal, |$s:ident, $message:ident| $future:expr) => {
        Verb {
            name: $name,
            kind: Kind::Plain,
            make: |$s, _| {
                let (id, note) = $s.note();
                let $message = |reply| Ask::Value(note, reply);
                made($future, move |result| called($s, id, result))
            },
        }
    };
}

macro_rules! verb {
    ($name:literal, $kind:ident, |$s:ident| $future:expr, $answer:expr) => {
        Verb { name: $name, kind: Kind::$kind, make: |$s, _| made($future, $answer) }
    };
    ($name:literal, $kind:ident, |$s:ident, $own:ident| $made:expr) => {
        Verb {
            name: $name,
            kind: Kind::$kind,
            make: |$s, $own| {
                let _ = $s;
                $made
            },
        }
    };
}

pub(crate) fn verbs() -> Vec<Verb> {
    let mut all = Vec::new();
    all.extend(starts());
    all.extend(ends());
    all.extend(sends());
    all.extend(calls());
    all.extend(waits());
    all
}

fn starts() -> Vec<Verb> {
    vec![
        verb!("Registry::lookup_or_start", Plain, |s| s.registry.lookup_or_start(&s.key, s.args()), started),
        verb!(
            "Registry::lookup_or_start_with",
            Plain,
            |s| s.registry.lookup_or_start_with(&s.key, || s.args()),
            started
        ),
        verb!("Registry::start", Plain, |s| s.registry.start(&s.key, s.args()), started),
        verb!("spawn", Plain, |s, _own| {
            let future = spawn::<Subject>(Key(2, s.shared.token.clone()), s.args());
            let bytes = size_of_val(&future);
            let ended = async move {
                match future.await {
                    Ok(worker) => any(worker.stop().await),
                    Err(error) => format!("{error:?}"),
                }
            };
            Some(Made { bytes, future: Box::pin(ended) })
        }),
    ]
}

fn ends() -> Vec<Verb> {
    vec![
        verb!("Registry::stop", Ends, |s| s.registry.stop(&s.key), any),
        verb!("Registry::stop_with", Ends, |s| s.registry.stop_with(&s.key, StopMode::Discard), any),
        verb!("Registry::kill", Ends, |s| s.registry.kill(&s.key), any),
        verb!("Registry::crash", Ends, |s| s.registry.crash(&s.key), any),
        verb!("Registry::shutdown", Shuts, |s| s.registry.shutdown(), joined),
        verb!("Registry::abort", Shuts, |s| s.registry.abort(), joined),
        verb!("WorkerHandle::stop", Ends, |s| s.worker.stop(), any),
        verb!("WorkerHandle::stop_with", Ends, |s| s.worker.stop_with(StopMode::Discard), any),
        verb!("WorkerHandle::kill", Ends, |s| s.worker.kill(), any),
        verb!("WorkerHandle::crash", Ends, |s| s.worker.crash(), any),
    ]
}

fn sends() -> Vec<Verb> {
    vec![
        cast!("WorkerHandle::cast", |s, message| s.worker.cast(message)),
        cast!("WorkerHandle::cast_timeout", |s, message| s.worker.cast_timeout(LONG, message)),
        cast!("Via::cast", |s, message| s.via_or_start.cast(message)),
        cast!("Via::cast_timeout", |s, message| s.via_or_start.cast_timeout(LONG, message)),
        cast!("Aliases::cast", |s, message| s.aliases.cast(&"name", message)),
        cast!("Aliases::cast_timeout", |s, message| s.aliases.cast_timeout(&"name", LONG, message)),
        verb!("WorkerHandle::reserve", Plain, |s| s.worker.reserve(), any),
        verb!("Via::reserve", Plain, |s| s.via_or_start.reserve(), any),
        verb!("Aliases::reserve", Plain, |s| s.aliases.reserve(&"name"), any),
        verb!("Groups::broadcast", Plain, |s| s.groups.broadcast(&"group", |_| Ask::Note(s.note().1)), |sent| format!(
            "taken {}",
            sent.taken
        )),
    ]
}

fn calls() -> Vec<Verb> {
    vec![
        call!("WorkerHandle::call", |s, message| s.worker.call(message)),
        call!("WorkerHandle::call_timeout", |s, message| s.worker.call_timeout(LONG, message)),
        call!("Via::call", |s, message| s.via_or_start.call(message)),
        call!("Via::call_timeout", |s, message| s.via.call_timeout(LONG, message)),
        call!("Aliases::call", |s, message| s.aliases.call(&"name", message)),
        call!("Aliases::call_timeout", |s, message| s.aliases.call_timeout(&"name", LONG, message)),
        verb!(
            "Via::call_with_retry",
            Plain,
            |s| s.via_or_start.call_with_retry(Retry::new(), |reply| Ask::Value(s.note().1, reply)),
            any
        ),
        verb!(
            "Aliases::call_with_retry",
            Plain,
            |s| s.aliases.call_with_retry(&"name", Retry::new(), |reply| Ask::Value(s.note().1, reply)),
            any
        ),
        Verb {
            name: "PendingReply",
            kind: Kind::Plain,
            make: |s, own| {
                let (id, pending) = own.pending.take()?;
                made(pending, move |result| called(s, id, result))
            },
        },
    ]
}

fn waits() -> Vec<Verb> {
    vec![
        verb!("Registry::gone", Waits, |s| s.registry.gone(), joined),
        verb!("WorkerHandle::closed", Waits, |s| s.worker.closed(), joined),
        verb!("WorkerHandle::run_ended", Waits, |s| s.worker.run_ended(), joined),
        verb!("Aliases::await_registration", Plain, |s| s.aliases.await_registration(&"name", LONG), any),
        verb!("Events::recv", Waits, |s, own| made(own.events.recv(), joined)),
        verb!("Reply::closed", Plain, |s, own| made(own.reply.as_mut()?.closed(), joined)),
        verb!("Context::stopping", Waits, |s, own| {
            let (bytes, stopping) = own.stopping.take()?;
            Some(Made { bytes, ..made(stopping, joined)? })
        }),
        verb!("Task", Plain, |s, own| made(own.task.take()?, joined)),
        // The worker drops the future. See `receive` in `worker.rs`.
        verb!("Mailbox::recv", Plain, |s, _own| {
            let (id, note) = s.note();
            let bytes = s.shared.recv_bytes.load(Ordering::Relaxed);
            let cast = s.via_or_start.cast(Ask::Note(note));
            Some(Made { bytes, ..made(cast, move |result| sent(s, id, result))? })
        }),
    ]
}
