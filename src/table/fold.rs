//! Reads of the whole table.

use std::ops::ControlFlow;

use crate::metrics::stats::Backlog;
use crate::table::{Entry, TableReader};
use crate::worker::Worker;
use crate::worker::handle::WorkerHandle;

/// How many entries a fold reads together.
pub(super) const BATCH: usize = 128;

impl<W: Worker> TableReader<W> {
    /// Folds over every worker, whatever the state of its gate, until `f` breaks. For folds that break early;
    /// [`fold`](Self::fold) is faster for the others.
    pub(crate) fn try_fold<A, B>(
        &self,
        init: A,
        f: impl FnMut(A, &WorkerHandle<W>) -> ControlFlow<B, A>,
    ) -> ControlFlow<B, A> {
        self.0.entries.pin().iter().flat_map(|entry| entry.workers.iter()).try_fold(init, f)
    }

    /// Folds over the workers for which `look` returns `Some`. `look` is evaluated again right before `f`, so a worker
    /// that began to stop during the fold, even because of `f`, is skipped. (G3)
    ///
    /// The fold works in batches, and each batch in short loops: collect the entries, read where their workers are,
    /// look at the workers, fold. Reading an entry and then its worker are two dependent loads that usually miss the
    /// caches. The processor overlaps only those misses that lie within its out-of-order window, and a shorter loop
    /// puts more of them there. The second `look` then reads cached memory. A list of all workers takes a fifth of the
    /// time.
    pub(crate) fn fold<A, T>(
        &self,
        init: A,
        look: impl Fn(&WorkerHandle<W>) -> Option<T>,
        mut f: impl FnMut(A, &WorkerHandle<W>, T) -> A,
    ) -> A {
        let pinned = self.0.entries.pin();
        let mut entries = pinned.iter();
        let mut batch: [Option<&Entry<W>>; BATCH] = [None; BATCH];
        let mut firsts: [Option<&WorkerHandle<W>>; BATCH] = [None; BATCH];
        let mut folded = init;
        loop {
            let mut len = 0;
            for (place, entry) in batch.iter_mut().zip(&mut entries) {
                *place = Some(entry);
                len += 1;
            }
            let (batch, firsts) = (&batch[..len], &mut firsts[..len]);
            for (first, entry) in firsts.iter_mut().zip(batch) {
                *first = entry.and_then(|entry| entry.workers.first.as_ref());
            }
            for first in firsts.iter_mut() {
                *first = first.filter(|worker| look(worker).is_some());
            }
            let mut fold = |folded, worker| match look(worker) {
                Some(seen) => f(folded, worker, seen),
                None => folded,
            };
            folded = firsts.iter().copied().flatten().fold(folded, &mut fold);
            let others = batch.iter().flatten().filter_map(|entry| entry.workers.others.as_ref());
            folded = others.flat_map(|others| others.iter()).fold(folded, &mut fold);
            if len < BATCH {
                return folded;
            }
        }
    }

    /// How many messages are queued, out of a registry of this many workers. In a large registry this extrapolates from
    /// a sample of at most this size, and at least one worker: the first workers in table order, which is the order of
    /// the hashes and so independent of the keys.
    pub(crate) fn backlog(&self, workers: usize, sample: usize) -> Backlog {
        let (mut sampled, mut queued, mut fullest) = (0, 0, 0);
        let _: ControlFlow<()> = self.try_fold((), |(), handle| {
            let len = handle.cell.queue.len();
            sampled += 1;
            queued += len;
            fullest = fullest.max(len);
            if sampled < sample { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        // Workers start and exit during the fold, so the sample may exceed the count.
        let all = workers.max(sampled);
        let queued = if sampled < sample { queued } else { (queued as f64 * all as f64 / sampled as f64) as usize };
        Backlog { queued, fullest }
    }
}
