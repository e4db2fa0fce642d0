//! [`CellCore`]: the part of a worker's cell that has no worker type.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

use crate::lifecycle::id::EntryId;
use crate::mailbox::Activity;
use crate::util::sync::{self, Mutex};
use crate::worker::cell::runs;
use crate::worker::record::NO_RECORD;
use crate::worker::watchers::ExitState;

/// What a [`WorkerCell`](super::WorkerCell) holds besides the key and the mailbox. It has no type parameter, so that
/// its functions are compiled once and not for each worker type.
pub(crate) struct CellCore {
    pub(crate) entry: EntryId,
    pub(crate) activity: Activity,
    /// The number of the current run, counted from 1.
    pub(super) incarnation: AtomicU32,
    /// How far the worker has come: a constant of [`runs`].
    pub(super) progress: AtomicU8,
    /// The last run is over and the next one is not ready.
    pub(super) is_restarting: AtomicBool,
    /// What the owner has yet to be notified of: bits of [`notices`](super::notices).
    pub(super) pending_notices: AtomicU8,
    /// Bits of [`flags`](super::flags), in one byte: a registry has many cells.
    pub(super) flags: sync::AtomicU8,
    /// When the start was requested; once the worker is ready, when the current run became ready. By the registry's
    /// clock. Written by the owner only, once the cell is shared. In an inspected registry, once the worker is in the
    /// table, the number of its [`Record`](crate::worker::record::Record), which has the time.
    started_at: AtomicU64,
    pub(crate) exit_state: Mutex<ExitState>,
}

impl CellCore {
    pub(super) fn new(entry: EntryId, activity: Activity) -> Self {
        Self {
            entry,
            activity,
            incarnation: AtomicU32::new(1),
            progress: AtomicU8::new(runs::STARTING),
            is_restarting: AtomicBool::new(false),
            pending_notices: AtomicU8::new(0),
            flags: sync::AtomicU8::new(0),
            started_at: AtomicU64::new(0),
            exit_state: Mutex::new(ExitState::default()),
        }
    }

    pub(crate) fn started_at(&self) -> u64 {
        self.started_at.load(Ordering::Relaxed)
    }

    pub(crate) fn set_started_at(&self, at: u64) {
        self.started_at.store(at, Ordering::Relaxed);
    }

    /// The number of the worker's record. For workers of an inspected registry.
    pub(crate) fn record_number(&self) -> u32 {
        u32::try_from(self.started_at()).unwrap_or(NO_RECORD)
    }

    pub(crate) fn set_record_number(&self, number: u32) {
        self.set_started_at(number.into());
    }
}
