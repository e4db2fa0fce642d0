//! Messages that record how they end, and the check that none is lost or handled twice. (G6)

use std::sync::{Arc, Mutex};

/// How a message ended.
#[derive(Debug, Default, Clone, Copy)]
struct Fate {
    begun: u32,
    undelivered: u32,
    dropped: u32,
    is_accepted: bool,
}

#[derive(Default)]
pub(crate) struct Ledger(Mutex<Vec<Fate>>);

impl Ledger {
    fn update<T>(&self, id: usize, update: impl FnOnce(&mut Fate) -> T) -> T {
        update(&mut self.0.lock().expect("no code panics while holding the lock")[id])
    }

    /// Records that the library has accepted the message.
    pub(crate) fn accept(&self, id: usize) {
        self.update(id, |fate| fate.is_accepted = true);
    }

    /// Records that the library has returned the message, or has reported that it was not delivered.
    pub(crate) fn undelivered(&self, id: usize) {
        self.update(id, |fate| fate.undelivered += 1);
    }

    pub(crate) fn has_begun(&self, id: usize) -> bool {
        self.update(id, |fate| fate.begun > 0)
    }

    /// The number of messages whose handling began.
    pub(crate) fn begun(&self) -> u64 {
        self.0.lock().expect("no code panics while holding the lock").iter().map(|fate| u64::from(fate.begun)).sum()
    }

    /// Every message was dropped once and handled at most once. An accepted one was handled or undelivered.
    pub(crate) fn check(&self, cell: &str) {
        let fates = self.0.lock().expect("no code panics while holding the lock");
        for (id, fate) in fates.iter().enumerate() {
            assert_eq!(fate.dropped, 1, "{cell}: message {id} was not dropped once: {fate:?}");
            let ends = fate.begun + fate.undelivered;
            assert!(ends <= 1, "{cell}: message {id} has several ends: {fate:?}");
            assert!(!fate.is_accepted || ends == 1, "{cell}: message {id} was accepted and lost: {fate:?}");
        }
    }
}

/// A message.
pub(crate) struct Note {
    pub(crate) id: usize,
    ledger: Arc<Ledger>,
}

impl Note {
    pub(crate) fn new(ledger: &Arc<Ledger>) -> Self {
        let mut fates = ledger.0.lock().expect("no code panics while holding the lock");
        fates.push(Fate::default());
        Self { id: fates.len() - 1, ledger: Arc::clone(ledger) }
    }

    pub(crate) fn begin(&self) {
        self.ledger.update(self.id, |fate| fate.begun += 1);
    }

    pub(crate) fn undelivered(&self) {
        self.ledger.undelivered(self.id);
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        self.ledger.update(self.id, |fate| fate.dropped += 1);
    }
}
