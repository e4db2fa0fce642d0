//! [`Record`]: what an inspected registry keeps of each worker beyond what any registry does.
//!
//! A registry that is not inspected has no records, and its workers have no field for one: where their
//! [`CellCore`](crate::worker::cell::CellCore) would have the time of their start, those of an inspected registry have
//! the number of their record, and the record has the time.
//!
//! The owner gives a worker its record before the worker is in the table, and takes it back when the worker leaves the
//! table. In between, the worker's task writes it. Any thread reads it.
//!
//! # Rules
//!
//! 1. **A record never moves.** [`Records`] grows by chunks of a bounded size, so that no start pays for more than one.
//! 2. **A reader checks the id after it has read.** A handle may outlive its worker, and the record may belong to
//!    another worker by then. The writer clears the id first and sets it last.
//! 3. **Records are reused oldest first.** A sender that was refused just when its worker left the table may count that
//!    for the record's next worker, which is harmless, and so becomes unlikely.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Arc, OnceLock};

use crate::lifecycle::exit::ExitReason;
use crate::lifecycle::id::{EntryId, WorkerId};
use crate::util::clock::nanos;
use crate::util::panics::CatchDropPanic;
use crate::util::sync::{Mutex, lock};
use crate::worker::restart::Intensity;

/// See the [module's documentation](self). All times are by the registry's clock.
///
/// One cache line: the tasks of two workers do not share one.
#[derive(Default)]
#[repr(align(64))]
pub(crate) struct Record {
    /// The id of the worker, or 0.
    worker: AtomicU64,
    /// The hash of its key, which finds it in the table.
    hash: AtomicU64,
    /// When the start was requested; once the worker is ready, when the current run was.
    started_at: AtomicU64,
    /// Since when the worker is at rest, or has the message in hand that it has: then with [`BUSY`].
    activity: AtomicU64,
    /// Messages that were undelivered for this worker.
    undelivered: AtomicU64,
    /// When it was last reported that the mailbox is full, plus 1. 0: never.
    full_reported: AtomicU64,
    /// Boxed on the first crash: most workers do not crash.
    troubles: Mutex<Option<Box<Troubles>>>,
}

/// A message is in hand.
const BUSY: u64 = 1 << 63;
/// It was reported that this message is in hand for long.
const REPORTED: u64 = 1 << 62;

/// The worker starts or is between two runs.
const NEITHER: u64 = REPORTED - 1;

/// The crashes and restarts of one worker.
#[derive(Default)]
struct Troubles {
    crash: Option<(CatchDropPanic<ExitReason>, u64)>,
    /// When it was restarted, oldest first. At most [`MAX_RESTARTS`].
    restarts: VecDeque<u64>,
}

/// How many restarts are counted for one worker.
const MAX_RESTARTS: usize = 64;

/// The least time between two reports that one mailbox is full, in nanoseconds: ten seconds.
const FULL_REPORTED_EVERY: u64 = 10_000_000_000;

/// The values of a record at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Glimpse {
    pub(crate) started_at: u64,
    /// Since when a message is in hand.
    pub(crate) busy_since: Option<u64>,
    /// Since when none is.
    pub(crate) idle_since: Option<u64>,
    pub(crate) undelivered: u64,
}

impl Record {
    /// Reads the record of this worker. `None`: it is that of another one. (rule 2)
    pub(crate) fn read(&self, worker: WorkerId) -> Option<Glimpse> {
        // Acquire pairs with the Release in `assign`: the values are not older than the id.
        if self.worker.load(Ordering::Acquire) != worker.0 {
            return None;
        }
        let activity = self.activity.load(Ordering::Relaxed);
        let (is_busy, since) = (activity & BUSY != 0, activity & !(BUSY | REPORTED));
        let glimpse = Glimpse {
            started_at: self.started_at(),
            busy_since: is_busy.then_some(since),
            idle_since: (!is_busy && since != NEITHER).then_some(since),
            undelivered: self.undelivered.load(Ordering::Relaxed),
        };
        // Pairs with the fence in `release`: had a value been that of a later worker, the id would be cleared.
        fence(Ordering::Acquire);
        (self.worker.load(Ordering::Relaxed) == worker.0).then_some(glimpse)
    }

    /// The worker that has the record. As for [`read`](Self::read), the hash is that of this worker.
    pub(crate) fn entry(&self) -> Option<EntryId> {
        let id = self.worker.load(Ordering::Acquire);
        let hash = self.hash.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        let is_same = id != 0 && self.worker.load(Ordering::Relaxed) == id;
        is_same.then_some(EntryId { id: WorkerId(id), hash })
    }

    /// Gives the record to a worker. For the owner.
    fn assign(&self, worker: EntryId, requested_at: u64) {
        self.hash.store(worker.hash, Ordering::Relaxed);
        self.started_at.store(requested_at, Ordering::Relaxed);
        self.activity.store(NEITHER, Ordering::Relaxed);
        self.undelivered.store(0, Ordering::Relaxed);
        self.full_reported.store(0, Ordering::Relaxed);
        // Release pairs with the Acquire in `read`.
        self.worker.store(worker.id.0, Ordering::Release);
    }

    /// Takes the record back. For the owner.
    fn release(&self) {
        self.worker.store(0, Ordering::Relaxed);
        // Pairs with the fence in `read`: the values that `assign` stores next come after the cleared id.
        fence(Ordering::Release);
        let troubles = lock(&self.troubles).take();
        // An error's `Drop` is user code, and runs outside the lock.
        drop(troubles);
    }

    pub(crate) fn started_at(&self) -> u64 {
        self.started_at.load(Ordering::Relaxed)
    }

    pub(crate) fn set_started_at(&self, at: u64) {
        self.started_at.store(at, Ordering::Relaxed);
    }

    /// Whether a message is in hand. For the worker's task.
    pub(crate) fn is_busy(&self) -> bool {
        self.activity.load(Ordering::Relaxed) & BUSY != 0
    }

    /// The worker receives a message. Returns since when it had the one before, if it had one. For the worker's task.
    pub(crate) fn begin_message(&self, now: u64) -> Option<u64> {
        self.replace_activity(now | BUSY)
    }

    /// The worker is at rest. Returns as [`begin_message`](Self::begin_message). For the worker's task.
    pub(crate) fn rest(&self, now: u64) -> Option<u64> {
        self.replace_activity(now)
    }

    /// A run is over: there is neither a message in hand nor rest. For the worker's task.
    pub(crate) fn end_run(&self) {
        self.activity.store(NEITHER, Ordering::Relaxed);
    }

    fn replace_activity(&self, next: u64) -> Option<u64> {
        // A load and a store: besides the worker's task only `report_slow` writes, and its mark may be lost.
        let before = self.activity.load(Ordering::Relaxed);
        self.activity.store(next, Ordering::Relaxed);
        (before & BUSY != 0).then_some(before & !(BUSY | REPORTED))
    }

    /// Whether a message is in hand since before `limit`, and that was not reported. Marks it as reported.
    pub(crate) fn report_slow(&self, limit: u64) -> bool {
        let activity = self.activity.load(Ordering::Relaxed);
        let is_due = activity & BUSY != 0 && activity & REPORTED == 0 && activity & !BUSY < limit;
        // Fails if the worker has received its next message, or another reader reports it.
        let marked = activity | REPORTED;
        is_due && self.activity.compare_exchange(activity, marked, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Whether it may be reported that the mailbox is full. Marks it as reported.
    pub(crate) fn report_full(&self, now: u64) -> bool {
        let last = self.full_reported.load(Ordering::Relaxed);
        let is_due = last == 0 || now >= last.saturating_add(FULL_REPORTED_EVERY);
        is_due && self.full_reported.compare_exchange(last, now + 1, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    pub(crate) fn count_undelivered(&self, messages: u64) -> u64 {
        self.undelivered.fetch_add(messages, Ordering::Relaxed) + messages
    }

    pub(crate) fn record_crash(&self, reason: ExitReason, at: u64) {
        let crash = Some((CatchDropPanic::new(reason), at));
        let before = std::mem::replace(&mut lock(&self.troubles).get_or_insert_default().crash, crash);
        // Outside the lock, as in `release`.
        drop(before);
    }

    pub(crate) fn record_restart(&self, at: u64) {
        let mut troubles = lock(&self.troubles);
        let restarts = &mut troubles.get_or_insert_default().restarts;
        if restarts.len() == MAX_RESTARTS {
            restarts.pop_front();
        }
        restarts.push_back(at);
    }

    /// The last crash of this worker, and when it was.
    pub(crate) fn crash(&self, worker: WorkerId) -> Option<(ExitReason, u64)> {
        self.with_troubles(worker, |troubles| troubles.crash.as_ref().map(|(reason, at)| ((**reason).clone(), *at)))?
    }

    pub(crate) fn crashed_at(&self, worker: WorkerId) -> Option<u64> {
        self.with_troubles(worker, |troubles| troubles.crash.as_ref().map(|(_, at)| *at))?
    }

    /// How many restarts were within the last period.
    pub(crate) fn restarts_used(&self, worker: WorkerId, intensity: Intensity, now: u64) -> usize {
        let period = nanos(intensity.period);
        self.with_troubles(worker, |troubles| {
            troubles.restarts.iter().filter(|&&at| now.saturating_sub(at) < period).count()
        })
        .unwrap_or(0)
    }

    fn with_troubles<T>(&self, worker: WorkerId, read: impl FnOnce(&Troubles) -> T) -> Option<T> {
        let troubles = lock(&self.troubles);
        // Under the lock: `release` clears the id before it takes the troubles out. (rule 2)
        let is_same = self.worker.load(Ordering::Relaxed) == worker.0;
        troubles.as_ref().filter(|_| is_same).map(|troubles| read(troubles))
    }
}

/// How many records are allocated at once.
const CHUNK: usize = 1_024;

/// How many records are visited before the time is read again.
const VISITED_AT_ONCE: usize = 128;

/// The chunks of one row. An `Arc`, because a worker's task keeps its chunk.
type Row = Box<[OnceLock<Arc<[Record]>>]>;

/// The records of one registry. There are as many as it had workers at the same time.
///
/// The chunk with number `n` is in row `log2(n + 1)`, and row `r` has `2^r` chunks.
pub(crate) struct Records {
    rows: [OnceLock<Row>; 22],
    /// The number of the first record that was never used. Written by the owner only.
    next: AtomicU32,
    /// Records that were given back, oldest first. (rule 3) For the owner: no reader takes this lock.
    released: Mutex<VecDeque<u32>>,
}

/// The number of a worker without a record.
pub(crate) const NO_RECORD: u32 = u32::MAX;

impl Records {
    pub(crate) fn new() -> Self {
        Self { rows: [const { OnceLock::new() }; 22], next: AtomicU32::new(0), released: Mutex::default() }
    }

    /// Gives a record to a worker, and returns the record's number. For the owner.
    pub(crate) fn assign(&self, worker: EntryId, requested_at: u64) -> u32 {
        let next = self.next.load(Ordering::Relaxed);
        let number = lock(&self.released).pop_front().unwrap_or(next);
        let (row, place, offset) = place_of(number);
        // Beyond four billion records: the worker has none.
        let Some(row_chunks) = self.rows.get(row) else { return NO_RECORD };
        let row_chunks = row_chunks.get_or_init(|| (0..1_usize << row).map(|_| OnceLock::new()).collect());
        let chunk = row_chunks[place].get_or_init(|| (0..CHUNK).map(|_| Record::default()).collect());
        chunk[offset].assign(worker, requested_at);
        if number == next {
            self.next.store(next + 1, Ordering::Relaxed);
        }
        number
    }

    /// Takes a record back. For the owner.
    pub(crate) fn release(&self, number: u32) {
        if let Some(record) = self.get(number) {
            record.release();
            lock(&self.released).push_back(number);
        }
    }

    /// Calls `visit` with the records from this number on, as long as `goes_on` returns true; it is asked now and then.
    /// Returns the number to go on with, or `None` at the end.
    ///
    /// A worker has one record for its whole life, so that one that is present throughout is met exactly once.
    pub(crate) fn visit(
        &self,
        from: u32,
        visit: &mut dyn FnMut(&Record),
        goes_on: &mut dyn FnMut() -> bool,
    ) -> Option<u32> {
        let mut from = from as usize;
        loop {
            let end = self.next.load(Ordering::Relaxed) as usize;
            if from >= end {
                return None;
            }
            let (chunk, offset) = self.chunk(u32::try_from(from).ok()?)?;
            let most = VISITED_AT_ONCE.min(end - from).min(CHUNK - offset);
            chunk[offset..offset + most].iter().for_each(&mut *visit);
            from += most;
            if !goes_on() {
                return u32::try_from(from).ok();
            }
        }
    }

    pub(crate) fn get(&self, number: u32) -> Option<&Record> {
        let (chunk, offset) = self.chunk(number)?;
        chunk.get(offset)
    }

    /// The chunk of a record, and the record's place in it. A worker's task keeps them.
    pub(crate) fn chunk(&self, number: u32) -> Option<(&Arc<[Record]>, usize)> {
        let (row, place, offset) = place_of(number);
        Some((self.rows.get(row)?.get()?.get(place)?.get()?, offset))
    }
}

/// The row of a record's chunk, the chunk's place in the row, and the record's in the chunk.
fn place_of(number: u32) -> (usize, usize, usize) {
    let number = number as usize;
    let nth = number / CHUNK + 1;
    let row = nth.ilog2() as usize;
    (row, nth - (1 << row), number % CHUNK)
}

#[cfg(all(test, not(gen_registry_loom)))]
mod tests {
    use std::time::Duration;

    use super::*;

    fn entry(id: u64) -> EntryId {
        EntryId { id: WorkerId(id), hash: id }
    }

    #[test]
    fn every_record_has_its_own_place() {
        let records = Records::new();
        let numbers: Vec<u32> = (1..=5_000).map(|id| records.assign(entry(id), id)).collect();
        for (id, &number) in (1..).zip(&numbers) {
            let read = records.get(number).and_then(|record| record.read(WorkerId(id)));
            assert_eq!(read.map(|glimpse| glimpse.started_at), Some(id));
        }
        assert!(records.get(5_001 + CHUNK as u32 * 8).is_none(), "it was not allocated");
        assert!(records.get(NO_RECORD).is_none());
        assert_eq!(place_of(u32::MAX - CHUNK as u32).0, 21, "the rows reach the last record but one chunk");
    }

    #[test]
    fn each_worker_is_visited_once() {
        let records = Records::new();
        let numbers: Vec<u32> = (1..=3_000).map(|id| records.assign(entry(id), 0)).collect();
        numbers.iter().skip(1).step_by(2).for_each(|&number| records.release(number));
        let (mut seen, mut visited, mut from, mut rounds) = (Vec::new(), 0, 0, 0);
        loop {
            rounds += 1;
            let mut visit = |record: &Record| {
                visited += 1;
                seen.extend(record.entry());
            };
            match records.visit(from, &mut visit, &mut || false) {
                Some(next) => from = next,
                None => break,
            }
        }
        let expected: Vec<EntryId> = (1..=3_000).step_by(2).map(entry).collect();
        assert!(seen == expected && rounds > 3_000 / VISITED_AT_ONCE, "{} in {rounds} rounds", seen.len());
        assert_eq!(visited, 3_000, "records that were never used are visited");
        assert_eq!(records.visit(1_000, &mut |_| {}, &mut || false), Some(CHUNK as u32), "across two chunks");
    }

    #[test]
    fn released_record_shows_nothing() {
        let records = Records::new();
        let (old, new) = (WorkerId(1), WorkerId(2));
        let number = records.assign(entry(1), 10);
        let record = records.get(number).expect("it was assigned");
        record.count_undelivered(3);
        record.record_crash(ExitReason::Crashed, 11);
        records.release(number);
        assert!(record.read(old).is_none() && record.crash(old).is_none());

        assert_eq!(records.assign(entry(2), 20), number, "it is reused");
        assert!(record.read(old).is_none() && record.crash(new).is_none());
        assert_eq!(record.read(new).map(|glimpse| glimpse.undelivered), Some(0));
    }

    #[test]
    fn restarts_leave_the_budget() {
        let record = Record::default();
        record.assign(entry(1), 0);
        let intensity = Intensity { max: 3, period: Duration::from_nanos(100) };
        for at in [0, 50, 90] {
            record.record_restart(at);
        }
        let used = |now| record.restarts_used(WorkerId(1), intensity, now);
        assert_eq!((used(90), used(120), used(149), used(190)), (3, 2, 2, 0));
        for at in 0..200 {
            record.record_restart(at);
        }
        assert_eq!(used(199), MAX_RESTARTS, "it counts a bounded number");
    }

    #[test]
    fn slow_message_is_reported_once() {
        let record = Record::default();
        record.assign(entry(1), 0);
        assert!(!record.report_slow(50) && !record.is_busy(), "nothing is in hand");
        assert_eq!(record.begin_message(10), None);
        assert!(record.is_busy());
        assert!(!record.report_slow(10));
        assert!(record.report_slow(11) && !record.report_slow(12));
        assert_eq!(record.begin_message(30), Some(10), "the mark is not part of the time");
        assert!(record.report_slow(31), "the next message is reported too");
        assert_eq!(record.rest(40), Some(30));
        assert!(!record.report_slow(50) && !record.is_busy(), "it is at rest");
        assert_eq!(record.read(WorkerId(1)).and_then(|glimpse| glimpse.idle_since), Some(40));
    }

    #[test]
    fn full_mailbox_is_reported_seldom() {
        let record = Record::default();
        assert!(record.report_full(0) && !record.report_full(1));
        assert!(!record.report_full(FULL_REPORTED_EVERY) && record.report_full(FULL_REPORTED_EVERY + 1));
    }
}
