//! The owner: one task per registry, the only writer of its table, which orders the starts, stops and exits of every
//! key. The logic is in [`Lifecycle`]; here is the shell that feeds it events and performs its effects.
//!
//! It awaits nothing but its own channels and timer, and runs no user code but a key's `Eq` and `Drop` (G4): arguments
//! that were not used go back to the callers, `init` runs in the worker's task.

#[cfg(test)]
mod tests;

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::deadline::{Deadlines, Due};
use crate::handle::WorkerHandle;
use crate::lifecycle::{Effect, Event, Holder, Lifecycle, ShutdownReport, StartFailure, StartOutcome, Starter};
use crate::mailbox::Gate;
use crate::panics::{self, contain};
use crate::request::{Notice, Seed, StartAnswer, StartReply, StartRequest, Started, Wire};
use crate::slot::{Link, Slot};
use crate::supervise::{ExitGuard, Launch, supervise};
use crate::sync::cooperate;
use crate::table::TableWriter;
use crate::worker::{CloseReason, EntryId, Worker, WorkerId};

pub(crate) struct Owner<W: Worker> {
    table: TableWriter<W>,
    link: Arc<Link<W>>,
    lifecycle: Lifecycle<Wire<W>>,
    /// Kept for its memory; empty between steps.
    effects: Vec<Effect<Wire<W>>>,
    deadlines: Deadlines,
    report: watch::Sender<Option<ShutdownReport>>,
}

enum Input<W: Worker> {
    Notice(Notice<W>),
    Start(StartRequest<W>),
    Passed(Due),
}

impl<W: Worker> Owner<W> {
    pub(crate) fn new(
        table: TableWriter<W>,
        link: Arc<Link<W>>,
        report: watch::Sender<Option<ShutdownReport>>,
    ) -> Self {
        let deadlines = Deadlines::new(link.config.init_timeout, link.config.stop_timeout);
        Self { table, link, lifecycle: Lifecycle::new(), effects: Vec::new(), deadlines, report }
    }

    /// Serves until a shutdown is over.
    pub(crate) async fn run(mut self) {
        while self.report.borrow().is_none() {
            poll_fn(|cx| self.poll_turn(cx)).await;
        }
    }

    /// Takes one thing that the owner is told, and does what follows from it.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let input = ready!(self.poll_input(cx));
        if let Some(event) = self.event(input) {
            self.lifecycle.step(event, &mut self.effects);
        }
        self.perform_all();
        Poll::Ready(())
    }

    /// Notices first: a worker that was ready before its deadline passed has kept it, though the owner comes late to
    /// both. Requests last, which others could keep waiting, but not be kept waiting by.
    fn poll_input(&mut self, cx: &mut Context<'_>) -> Poll<Input<W>> {
        let (link, lifecycle) = (&self.link, &self.lifecycle);
        let deadlines = &mut self.deadlines;
        cooperate!(cx, {
            if let Poll::Ready(Some(notice)) = link.notices.poll_recv(cx) {
                Input::Notice(notice)
            } else if let Poll::Ready(due) = deadlines.poll_passed(cx, |due| is_awaited(lifecycle, due)) {
                Input::Passed(due)
            } else if let Poll::Ready(Some(request)) = link.requests.poll_recv(cx) {
                Input::Start(request)
            } else {
                return Poll::Pending;
            }
        } => input => Poll::Ready(input))
    }

    /// Looks up what the state machine has to know of the table.
    fn event(&mut self, input: Input<W>) -> Option<Event<Wire<W>>> {
        Some(match input {
            Input::Start(StartRequest { verb, seed, hash, waits_in, reply }) => {
                let table = self.table.read();
                // The key's `Eq` is user code. Whatever it does, nobody else is harmed. (G5)
                let looked_up = catch_unwind(AssertUnwindSafe(|| {
                    table.with(&seed.key, hash, |handle| Holder {
                        entry: handle.entry_id(),
                        is_closed: handle.slot.queue.gate() >= Gate::Closed,
                    })
                }));
                match looked_up {
                    Ok(holder) => {
                        let starter = Starter { verb, waits_in, seed: Some(seed), reply };
                        let fresh = EntryId { id: WorkerId::fresh(), hash };
                        Event::Start { starter, holder, fresh }
                    }
                    Err(payload) => {
                        let failure = StartFailure::Panicked(panics::message(payload));
                        answer(reply, Some(seed), Started::Failed(failure));
                        return None;
                    }
                }
            }
            Input::Notice(Notice::Stop { entry, stopper }) => {
                let exists = self.table.read().with_entry(entry, |_| ()).is_some();
                Event::Stop { entry, exists, stopper }
            }
            Input::Notice(Notice::Ready(entry)) => Event::Ready(entry),
            Input::Notice(Notice::Closing(entry)) => Event::Closing(entry),
            Input::Notice(Notice::Exited(entry, exit)) => Event::Exited(entry, exit),
            Input::Notice(Notice::Shutdown) => Event::Shutdown,
            Input::Passed(Due::Entry(entry, deadline)) => Event::Passed(entry, deadline),
            Input::Passed(Due::Shutdown | Due::ShutdownAbort) => Event::ShutdownPassed,
        })
    }

    /// Performs what there is to do, one by one: code of others that panics in one of them (the waker of a caller on
    /// another executor, the `Drop` of a key) does not keep the owner from the next. (G5)
    fn perform_all(&mut self) {
        let mut effects = std::mem::take(&mut self.effects);
        for effect in effects.drain(..) {
            contain(|| self.perform(effect));
        }
        self.effects = effects;
    }

    fn perform(&mut self, effect: Effect<Wire<W>>) {
        match effect {
            Effect::Launch(entry, seed) => self.launch(entry, seed),
            Effect::Open(entry) => self.with_slot(entry, |slot| slot.open()),
            Effect::Close(entry, reason) => self.with_slot(entry, |slot| {
                slot.close(reason);
            }),
            Effect::Kill(entry) => self.with_slot(entry, |slot| slot.kill()),
            Effect::GiveUp(entry) => self.with_slot(entry, |slot| {
                let slot = Arc::clone(slot);
                // Messages are user code when they are dropped. (G4)
                tokio::spawn(async move { slot.undeliver() });
            }),
            Effect::Remove(entry) => self.table.remove(entry),
            Effect::Arm(entry, deadline) => self.arm(Due::Entry(entry, deadline)),
            Effect::ReplyStart(reply, seed, outcome) => {
                let outcome = self.started(outcome);
                answer(reply, seed, outcome);
            }
            Effect::ReplyStop(reply, outcome) => {
                // The caller may have gone away.
                let _ = reply.0.send(outcome);
            }
            Effect::CloseAll => {
                // Starts are not closed here: each is cancelled by an effect of its own.
                self.each_slot(|slot| {
                    if slot.queue.gate() == Gate::Open {
                        slot.close(CloseReason::Shutdown);
                    }
                });
                self.arm(Due::Shutdown);
            }
            Effect::KillAll => {
                self.each_slot(|slot| slot.kill());
                self.arm(Due::ShutdownAbort);
            }
            Effect::Report(report) => {
                self.report.send_replace(Some(report));
            }
        }
    }

    fn launch(&mut self, entry: EntryId, Seed { key, args }: Seed<W>) {
        let slot = Arc::new(Slot::new(key, entry, Arc::clone(&self.link)));
        // Before the spawn: a worker must find itself in the table, so that it knows a wait for itself.
        self.table.insert(WorkerHandle::new(Arc::clone(&slot)));
        // The guard before the spawn: a runtime that shuts down drops the task unpolled. (G5)
        let launch = Launch { args, guard: ExitGuard::new(slot) };
        tokio::spawn(supervise(launch));
    }

    fn started(&self, outcome: StartOutcome) -> Started<W> {
        let handle = |entry| self.table.read().with_entry(entry, WorkerHandle::clone);
        match outcome {
            StartOutcome::Worker(entry) => handle(entry).map(Started::Worker),
            StartOutcome::AlreadyStarted(entry) => handle(entry).map(Started::Taken),
            StartOutcome::Failed(failure) => Some(Started::Failed(failure)),
        }
        .expect("an entry is in the table until `Remove`, and nobody is given it after that")
    }

    fn arm(&mut self, due: Due) {
        let lifecycle = &self.lifecycle;
        self.deadlines.arm(due, |due| is_awaited(lifecycle, due));
    }

    fn with_slot(&self, entry: EntryId, act: impl FnOnce(&Arc<Slot<W>>)) {
        // Always there: see `started`.
        self.table.read().with_entry(entry, |handle| act(&handle.slot));
    }

    fn to_list(&self) -> Vec<Arc<Slot<W>>> {
        let listed = self.table.read().try_fold(Vec::new(), |mut list, handle| {
            list.push(Arc::clone(&handle.slot));
            std::ops::ControlFlow::<std::convert::Infallible, _>::Continue(list)
        });
        match listed {
            std::ops::ControlFlow::Continue(list) => list,
            std::ops::ControlFlow::Break(never) => match never {},
        }
    }

    fn each_slot(&self, act: impl Fn(&Slot<W>)) {
        let _: std::ops::ControlFlow<(), ()> = self.table.read().try_fold((), |(), handle| {
            act(&handle.slot);
            std::ops::ControlFlow::Continue(())
        });
    }
}

fn is_awaited<W: Worker>(lifecycle: &Lifecycle<Wire<W>>, due: Due) -> bool {
    match due {
        Due::Entry(entry, deadline) => lifecycle.awaits(entry, deadline),
        Due::Shutdown | Due::ShutdownAbort => true,
    }
}

/// Tells a caller what became of its start, and gives back its arguments if they were not used.
fn answer<W: Worker>(reply: StartReply<W>, seed: Option<Seed<W>>, outcome: Started<W>) {
    let unused = seed.map(|seed| seed.args);
    let Err(StartAnswer { unused: Some(args), .. }) = reply.0.send(StartAnswer { outcome, unused }) else { return };
    // The caller went away: the arguments' `Drop`, which is user code, runs elsewhere. (G4)
    match Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn(async move { contain(|| drop(args)) })),
        // The owner is being dropped with its runtime, and nobody waits for it any more.
        Err(_) => contain(|| drop(args)),
    }
}

impl<W: Worker> Drop for Owner<W> {
    /// After a shutdown this lets go of what is stuck. When the runtime was dropped in the middle, it ends everything.
    fn drop(&mut self) {
        // Whoever asked is told: by a reply, or by the drop of one. What is dropped here is user code, one by one.
        for request in self.link.requests.drain(&self.link.live) {
            contain(|| drop(request));
        }
        drop(self.link.notices.drain(&self.link.live));
        self.link.requests.forget_task();
        self.link.notices.forget_task();
        self.lifecycle.abandon(&mut self.effects);
        self.perform_all();
        for slot in self.to_list() {
            slot.kill();
            // Its own task does the same, unless it never yields: nobody is to wait behind what is stuck. (G6)
            slot.undeliver();
        }
        let aborted = self.lifecycle.entries();
        self.report.send_if_modified(|report| {
            let is_cut_off = report.is_none();
            report.get_or_insert(ShutdownReport { aborted, ..ShutdownReport::default() });
            is_cut_off
        });
        self.table.clear();
    }
}
