//! [`Deferred`] actions, which run after the combiner has released the lock.

use crate::util::panics::catch_panic;

/// An action that changes nothing in the sequential object, so that it needs no lock. The next combiner may run before
/// it does.
pub(crate) trait Deferred {
    /// Where actions run. Given to [`Combiner::set`](crate::combiner::Combiner::set).
    type Place;

    fn run(self, place: &Self::Place);
}

/// Actions in the order in which they were pushed. One action, the usual number, needs no allocation.
pub(crate) struct DeferredQueue<E> {
    first: Option<E>,
    more: Vec<E>,
}

impl<E> DeferredQueue<E> {
    pub(crate) fn new() -> Self {
        Self { first: None, more: Vec::new() }
    }

    #[inline]
    pub(crate) fn push(&mut self, action: E) {
        if self.first.is_none() {
            self.first = Some(action);
        } else {
            self.more.push(action);
        }
    }

    /// Moves the actions of `others` to the end.
    #[inline]
    pub(crate) fn append(&mut self, others: &mut Self) {
        if let Some(first) = others.first.take() {
            self.push(first);
            if !others.more.is_empty() {
                self.more.append(&mut others.more);
            }
        }
    }
}

impl<E: Deferred> DeferredQueue<E> {
    /// Runs the actions one by one. A panic of user code in one of them (the waker of a caller on another executor)
    /// does not keep the next from running. (G5)
    #[inline]
    pub(crate) fn run(&mut self, place: &E::Place) {
        if let Some(first) = self.first.take() {
            catch_panic(|| first.run(place));
            if !self.more.is_empty() {
                for action in self.more.drain(..) {
                    catch_panic(|| action.run(place));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    struct Op<'n>(u32, &'n Mutex<Vec<u32>>);

    impl Deferred for Op<'_> {
        type Place = ();

        fn run(self, (): &()) {
            self.1.lock().unwrap().push(self.0);
            assert_ne!(self.0, 2, "the second fails");
        }
    }

    #[test]
    fn deferred_actions_run_in_order_despite_panics() {
        let ran = Mutex::default();
        let note = |n| Op(n, &ran);
        let (mut mine, mut others) = (DeferredQueue::new(), DeferredQueue::new());
        others.push(note(1));
        mine.append(&mut others);
        others.push(note(2));
        others.push(note(3));
        mine.append(&mut others);
        mine.append(&mut others);
        mine.push(note(4));
        others.run(&());
        assert!(ran.lock().unwrap().is_empty(), "the actions were moved");
        mine.run(&());
        assert_eq!(*ran.lock().unwrap(), [1, 2, 3, 4]);
        mine.run(&());
        assert_eq!(ran.lock().unwrap().len(), 4, "each action runs once");
    }
}
