//! [`DeferredQueue`]: what is done when whoever served has left the desk.

use crate::util::panics::catch_panic;

/// What need not be done at the desk, since it changes nothing there. Whoever serves there next may do so before it is run.
pub(crate) trait Deferred {
    /// Where it is run, as the desk was told.
    type Place;

    fn run(self, place: &Self::Place);
}

/// DeferredQueue in the order in which they arose. Almost always one: it takes no allocation.
pub(crate) struct DeferredQueue<E> {
    first: Option<E>,
    more: Vec<E>,
}

impl<E> DeferredQueue<E> {
    pub(crate) fn new() -> Self {
        Self { first: None, more: Vec::new() }
    }

    #[inline]
    pub(crate) fn push(&mut self, errand: E) {
        if self.first.is_none() {
            self.first = Some(errand);
        } else {
            self.more.push(errand);
        }
    }

    /// Takes those of others behind its own.
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
    /// Runs them one by one: code of others that panics in one of them (the waker of a caller on another executor) does not
    /// keep the next from being run. (G5)
    #[inline]
    pub(crate) fn run(&mut self, place: &E::Place) {
        if let Some(first) = self.first.take() {
            catch_panic(|| first.run(place));
            if !self.more.is_empty() {
                for errand in self.more.drain(..) {
                    catch_panic(|| errand.run(place));
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
        assert!(ran.lock().unwrap().is_empty(), "they were taken");
        mine.run(&());
        assert_eq!(*ran.lock().unwrap(), [1, 2, 3, 4]);
        mine.run(&());
        assert_eq!(ran.lock().unwrap().len(), 4, "once");
    }
}
