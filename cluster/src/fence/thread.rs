//! The thread that fences a node whose runtime is stuck.
//!
//! It is a thread of its own and not a task. It waits for nothing but the clock: what it notifies runs in a second thread, and
//! so does the output of its last words. Neither a registry that is stuck nor a pipe that is full holds up the end of the
//! process.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::{self, Thread};
use std::time::Duration;

use crate::clock::Clock;
use crate::fence::{FencePolicy, NOT_YET, REVOKED, Validity};
use crate::machine::Instant;

/// How often the thread looks at the clock.
const LOOK: Duration = Duration::from_millis(10);

/// How long the output of the last words may take.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// What is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Alarm {
    /// The deadline has passed, and all shards are revoked. Workers must be aborted now.
    Passed {
        /// How long after the deadline the thread looked.
        late: Duration,
    },
    /// Something still runs, after all the time that it may take.
    Overdue {
        /// Since the deadline.
        after: Duration,
    },
}

/// The thread. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct FenceThread {
    watched: Arc<Mutex<Option<Arc<Validity>>>>,
    thread: Thread,
}

impl Drop for FenceThread {
    fn drop(&mut self) {
        // The thread finds that `watched` is dropped. It is not joined: it may be the one that runs this.
        self.thread.unpark();
    }
}

impl FenceThread {
    /// Starts the thread. `reaction` is how long workers may run after the deadline: half of `take - valid`. `alarm` runs in a
    /// thread of its own, and may wait.
    ///
    /// # Errors
    ///
    /// The system has no thread left.
    pub(crate) fn spawn(
        clock: Clock,
        reaction: Duration,
        policy: FencePolicy,
        alarm: impl FnMut(Alarm) + Send + 'static,
    ) -> io::Result<FenceThread> {
        let (alarms, receiver) = channel();
        thread::Builder::new().name("gen-registry-alarm".into()).spawn(move || deliver(receiver, alarm))?;
        let watched = Arc::default();
        let send = move |alarm| {
            // The thread of the alarms ends after this one only.
            let _ = alarms.send(alarm);
        };
        let mut guard = Guard::new(Arc::downgrade(&watched), clock, reaction, policy, send);
        let run = move || {
            while guard.look() {
                thread::park_timeout(LOOK);
            }
        };
        let thread = thread::Builder::new().name("gen-registry-fence".into()).spawn(run)?.thread().clone();
        Ok(FenceThread { watched, thread })
    }

    /// Watches this membership from now on, and not the one before.
    pub(crate) fn watch(&self, validity: Arc<Validity>) {
        *self.watched.lock().unwrap_or_else(PoisonError::into_inner) = Some(validity);
    }
}

fn deliver(alarms: Receiver<Alarm>, mut alarm: impl FnMut(Alarm)) {
    for next in alarms {
        // A panic must not hide the alarms that follow.
        let _ = catch_unwind(AssertUnwindSafe(|| alarm(next)));
    }
}

/// What the thread does at each look.
pub(super) struct Guard<A> {
    watched: Weak<Mutex<Option<Arc<Validity>>>>,
    clock: Clock,
    reaction: Duration,
    policy: FencePolicy,
    alarm: A,
    /// The membership that was found to be revoked last, and when that was.
    noticed: (Weak<Validity>, Instant),
    /// The membership whose workers were overdue, which is reported once.
    reported: Weak<Validity>,
}

impl<A: FnMut(Alarm)> Guard<A> {
    pub(super) fn new(
        watched: Weak<Mutex<Option<Arc<Validity>>>>,
        clock: Clock,
        reaction: Duration,
        policy: FencePolicy,
        alarm: A,
    ) -> Guard<A> {
        let noticed = (Weak::new(), Instant::default());
        Guard { watched, clock, reaction, policy, alarm, noticed, reported: Weak::new() }
    }

    /// False: there is nothing to watch any more.
    pub(super) fn look(&mut self) -> bool {
        self.clock.refresh();
        let Some(watched) = self.watched.upgrade() else { return false };
        let watched = watched.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(validity) = watched {
            self.look_at(&validity);
        }
        true
    }

    fn look_at(&mut self, validity: &Arc<Validity>) {
        let now = self.clock.now();
        match validity.deadline.load(Ordering::SeqCst) {
            NOT_YET => return,
            REVOKED => {}
            deadline if now < Instant(deadline) => return,
            deadline if validity.revoke_at(deadline) => {
                (self.alarm)(Alarm::Passed { late: now.since(Instant(deadline)) });
            }
            // Another thread has extended it in time, or is about to revoke it.
            _ => return,
        }
        let ended = validity.ended.load(Ordering::SeqCst);
        // 0: another thread has struck out the deadline, and says when in a moment.
        if ended == 0 || validity.is_at_rest.load(Ordering::SeqCst) {
            return;
        }
        let is_due = now >= self.due(validity, now, Instant(ended));
        if is_due && !std::ptr::eq(self.reported.as_ptr(), Arc::as_ptr(validity)) {
            self.reported = Arc::downgrade(validity);
            self.overdue(now.since(Instant(ended)));
        }
    }

    /// When the workers of a membership must have ended.
    fn due(&mut self, validity: &Arc<Validity>, now: Instant, ended: Instant) -> Instant {
        if !std::ptr::eq(self.noticed.0.as_ptr(), Arc::as_ptr(validity)) {
            self.noticed = (Arc::downgrade(validity), now);
        }
        let noticed = self.noticed.1;
        // A thread that has missed so much was stopped with its process, and the workers were, too. They have their time from
        // now on. To abort the process for it would end each that was suspended.
        let was_stopped = noticed.since(ended) > self.reaction / 2;
        (if was_stopped { noticed } else { ended }) + self.reaction
    }

    fn overdue(&mut self, after: Duration) {
        if self.policy == FencePolicy::AbortProcess {
            abort(after);
        }
        (self.alarm)(Alarm::Overdue { after });
    }
}

/// Aborts the process, and says why if that can be said in time.
fn abort(after: Duration) -> ! {
    let (written, wait) = channel();
    // A failure: the system has no thread left. Then nothing is said.
    let _ = thread::Builder::new().spawn(move || {
        eprintln!(
            "gen-registry-cluster: workers still run {after:?} after the node's ownership ended, and other nodes may begin \
             theirs. The process is aborted (FencePolicy::AbortProcess)."
        );
        let _ = written.send(());
    });
    let _ = wait.recv_timeout(LAST_WORDS);
    std::process::abort()
}
