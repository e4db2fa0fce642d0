//! Which public types may cross `catch_unwind`: all that callers hold.
//!
//! No panic leaves a half-done change behind them. Code of users runs outside the locks of the crate, and its panics are
//! contained; what a handle leads to is changed by other tasks anyway, so that no caller relies on what it saw before.

use std::panic::{RefUnwindSafe, UnwindSafe};

use crate::context::Task;
use crate::directory::{Aliases, Broadcast, Groups, JoinError, RegisterError};
use crate::error::{CallError, ReserveError, Returned, SendError, StartError};
use crate::events::{Event, Events};
use crate::handle::{Permit, WorkerHandle};
use crate::registry::{Registry, WeakRegistry};
use crate::reply::{PendingReply, Reply};
use crate::timer::{Monitor, Timer};
use crate::via::Via;
use crate::worker::{ExitReason, Worker};

macro_rules! unwind_safe {
    ($([$($parameters:tt)*] $type:ty;)+) => {
        $(
            impl<$($parameters)*> UnwindSafe for $type {}
            impl<$($parameters)*> RefUnwindSafe for $type {}
        )+
    };
}

unwind_safe! {
    [W: Worker] Registry<W>;
    [W: Worker] WeakRegistry<W>;
    [W: Worker] WorkerHandle<W>;
    [W: Worker] Via<W>;
    [W: Worker] Events<W>;
    [W: Worker] Event<W>;
    [W: Worker] Broadcast<W>;
    [W: Worker] StartError<W>;
    [W: Worker] SendError<W>;
    [W: Worker] CallError<W>;
    [W: Worker] ReserveError<W>;
    [W: Worker] Permit<W>;
    [W: Worker, T] PendingReply<W, T>;
    [N, W: Worker] RegisterError<N, W>;
    [N, W: Worker] Aliases<N, W>;
    [P, W: Worker] Groups<P, W>;
    [P] JoinError<P>;
    [T] Returned<T>;
    [T] Reply<T>;
    [T] Task<T>;
    [] Timer;
    [] Monitor;
    [] ExitReason;
}
