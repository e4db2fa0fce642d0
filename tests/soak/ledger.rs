//! [`Ledger`]: what happens to each message and each key.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering::SeqCst};

use crate::SENDERS;

// The fate of a message.
pub(crate) const UNSEEN: u8 = 0;
pub(crate) const BEGUN: u8 = 1;
pub(crate) const HANDLED: u8 = 2;
/// The handler failed or panicked, as requested.
pub(crate) const CRASHED: u8 = 3;
/// The worker was killed while it handled the message.
pub(crate) const CUT_OFF: u8 = 4;
/// The registry passed it to `on_undelivered`.
pub(crate) const UNDELIVERED: u8 = 5;

/// What is recorded of every message of a lap and of every key.
pub(crate) struct Ledger {
    fates: Vec<AtomicU8>,
    /// Live states by key, and in total.
    alive: Vec<AtomicU8>,
    all_alive: AtomicUsize,
    pub(crate) most_alive: AtomicUsize,
    /// The last message of the lap that began, by key and sender, counted from 1.
    last_begun: Vec<AtomicU32>,
    /// Arguments that addresses built for starts, because there was no worker or it was stopping.
    pub(crate) asked: AtomicU64,
    faults: Mutex<Vec<String>>,
}

impl Ledger {
    pub(crate) fn new(keys: usize, messages: usize) -> Self {
        // Written one by one, so that all of its memory is in use before any is measured.
        Self {
            fates: (0..messages).map(|_| AtomicU8::new(UNSEEN)).collect(),
            alive: (0..keys).map(|_| AtomicU8::new(0)).collect(),
            all_alive: AtomicUsize::new(0),
            most_alive: AtomicUsize::new(0),
            last_begun: (0..keys * SENDERS).map(|_| AtomicU32::new(0)).collect(),
            asked: AtomicU64::new(0),
            faults: Mutex::new(Vec::new()),
        }
    }

    fn fault(&self, what: String) {
        self.faults.lock().expect("no code panics while holding the lock").push(what);
    }

    #[track_caller]
    pub(crate) fn check(&self) {
        let faults = self.faults.lock().expect("no code panics while holding the lock");
        assert!(faults.is_empty(), "{} faults, the first: {:?}", faults.len(), &faults[..faults.len().min(10)]);
    }

    pub(crate) fn turn(&self, number: usize, from: u8, to: u8) {
        if let Err(found) = self.fates[number].compare_exchange(from, to, SeqCst, SeqCst) {
            self.fault(format!("message {number} became {to} from {found} instead of {from}"));
        }
    }

    pub(crate) fn fate(&self, number: usize) -> u8 {
        self.fates[number].load(SeqCst)
    }

    pub(crate) fn begin(&self, key: usize, number: usize) {
        self.turn(number, UNSEEN, BEGUN);
        let (sender, nth) = (number % SENDERS, u32::try_from(number / SENDERS + 1).expect("a number of messages"));
        let before = self.last_begun[key * SENDERS + sender].swap(nth, SeqCst);
        if before >= nth {
            self.fault(format!("key {key} began message {nth} of sender {sender} after message {before} (G8)"));
        }
    }

    pub(crate) fn is_born(&self, key: usize) {
        if self.alive[key].fetch_add(1, SeqCst) > 0 {
            self.fault(format!("two states of key {key} (G1)"));
        }
        let all = self.all_alive.fetch_add(1, SeqCst) + 1;
        self.most_alive.fetch_max(all, SeqCst);
    }

    pub(crate) fn dies(&self, key: usize) {
        self.alive[key].fetch_sub(1, SeqCst);
        self.all_alive.fetch_sub(1, SeqCst);
    }

    pub(crate) fn all_alive(&self) -> usize {
        self.all_alive.load(SeqCst)
    }

    /// Live states of keys that idle.
    pub(crate) fn idling(&self) -> usize {
        self.alive.iter().skip(1).step_by(2).filter(|alive| alive.load(SeqCst) > 0).count()
    }

    /// How many messages of the lap have each fate. The next lap begins anew.
    pub(crate) fn close_lap(&self) -> [u64; 6] {
        let mut fates = [0; 6];
        for fate in &self.fates {
            fates[usize::from(fate.swap(UNSEEN, SeqCst))] += 1;
        }
        self.last_begun.iter().for_each(|begun| begun.store(0, SeqCst));
        fates
    }
}
