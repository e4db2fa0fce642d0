//! [`Subject`]: the worker of the scenarios, and its [`Book`].

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gen_registry::{Context, ExitReason, Reply, Worker};

use crate::exec::yield_now;

/// What happened to all workers and messages of a scenario. Its lock is no place where shuttle switches.
#[derive(Clone, Default)]
pub(crate) struct Book(Arc<Mutex<Records>>);

#[derive(Default)]
pub(crate) struct Records {
    /// How many states of a key are alive.
    alive: HashMap<u32, usize>,
    pub(crate) most_alive: usize,
    pub(crate) inits: usize,
    /// The messages that were accepted, by number.
    accepted: Vec<u32>,
    handled: Vec<u32>,
    undelivered: Vec<u32>,
}

impl Book {
    pub(crate) fn records(&self) -> MutexGuard<'_, Records> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, key: u32) -> Life {
        let mut records = self.records();
        records.inits += 1;
        let alive = records.alive.entry(key).or_default();
        *alive += 1;
        records.most_alive = records.most_alive.max(records.alive[&key]);
        Life { book: self.clone(), key }
    }

    pub(crate) fn alive(&self) -> usize {
        self.records().alive.values().sum()
    }

    pub(crate) fn accept(&self, note: u32) {
        self.records().accepted.push(note);
    }

    pub(crate) fn undelivered(&self, note: u32) {
        self.records().undelivered.push(note);
    }

    /// How many messages were accepted and not handled.
    pub(crate) fn undelivered_notes(&self) -> usize {
        self.records().undelivered.len()
    }

    /// Each accepted message was handled or was reported as undelivered, once. (G6) No other one was handled twice, and
    /// the messages of one sender were handled in order. (G8)
    pub(crate) fn check(&self) {
        let records = self.records();
        for note in &records.accepted {
            let ends = [&records.handled, &records.undelivered].map(|list| list.iter().filter(|n| *n == note).count());
            assert_eq!(ends.iter().sum::<usize>(), 1, "message {note} was accepted: handled, undelivered {ends:?}");
        }
        for (place, note) in records.handled.iter().enumerate() {
            let later = &records.handled[place + 1..];
            assert!(!later.contains(note), "message {note} was handled twice");
            // The sender is the hundreds of the number.
            let overtaken = later.iter().find(|other| *other / 100 == note / 100 && *other < note);
            assert!(overtaken.is_none(), "message {note} was handled before {overtaken:?}");
        }
        assert!(records.most_alive <= 1, "{} workers of one key at once", records.most_alive);
    }
}

/// A state that is alive.
struct Life {
    book: Book,
    key: u32,
}

impl Drop for Life {
    fn drop(&mut self) {
        if let Some(alive) = self.book.records().alive.get_mut(&self.key) {
            *alive -= 1;
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Init {
    Ready,
    /// Yields before it returns.
    Slow,
    Fail,
    Panic,
}

#[derive(Clone)]
pub(crate) struct Plan {
    pub(crate) init: Init,
    pub(crate) book: Book,
}

pub(crate) enum Ask {
    Echo(Reply<u32>),
    Note(u32),
    Crash,
    /// Never returns.
    Hang,
}

pub(crate) struct Subject {
    key: u32,
    book: Book,
    _life: Life,
}

impl Worker for Subject {
    type Key = u32;
    type Args = Plan;
    type Message = Ask;
    type Error = String;

    async fn init(plan: Plan, ctx: &mut Context<Self>) -> Result<Self, String> {
        let key = *ctx.key();
        let life = plan.book.enter(key);
        match plan.init {
            Init::Ready => {}
            Init::Slow => yield_now().await,
            Init::Fail => return Err("a scripted failure".into()),
            Init::Panic => std::panic::resume_unwind(Box::new("a scripted panic")),
        }
        Ok(Self { key, book: plan.book, _life: life })
    }

    async fn handle(&mut self, ask: Ask, _: &mut Context<Self>) -> Result<(), String> {
        match ask {
            Ask::Echo(reply) => reply.send(self.key),
            Ask::Note(note) => {
                self.book.records().handled.push(note);
                yield_now().await;
            }
            Ask::Crash => return Err("a scripted crash".into()),
            Ask::Hang => std::future::pending().await,
        }
        Ok(())
    }

    async fn terminate(self, _: &ExitReason, _: &mut Context<Self>) {
        yield_now().await;
    }
}
