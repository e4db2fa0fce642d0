use std::collections::HashSet as Keys;
use std::ops::ControlFlow;

use super::*;
use crate::builder::Builder;
use crate::context::Context;
use crate::slot::{Link, Slot};
use crate::worker::WorkerId;

struct Idle;

impl Worker for Idle {
    type Key = u32;
    type Args = ();
    type Message = ();
    type Error = std::convert::Infallible;

    async fn init((): (), _: &mut Context<Self>) -> Result<Self, Self::Error> {
        Ok(Self)
    }

    async fn handle(&mut self, (): (), _: &mut Context<Self>) -> Result<(), Self::Error> {
        Ok(())
    }
}

/// A table, and the means to make workers for it.
struct Rig {
    writer: TableWriter<Idle>,
    link: Arc<Link<Idle>>,
}

impl Rig {
    fn new() -> Self {
        let (registry, _owner) = Builder::new().assemble();
        let link = Arc::clone(registry.link());
        Self { writer: table().0, link }
    }

    fn insert(&mut self, key: u32, hash: u64) -> EntryId {
        let entry = EntryId { id: WorkerId::fresh(), hash };
        self.writer.insert(WorkerHandle::new(Arc::new(Slot::new(key, entry, Arc::clone(&self.link)))));
        entry
    }

    fn holder(&self, key: u32, hash: u64) -> Option<EntryId> {
        self.writer.read().with(&key, hash, WorkerHandle::entry_id)
    }

    fn keys(&self) -> Keys<u32> {
        let ControlFlow::Continue(keys) =
            self.writer.read().try_fold(Keys::new(), |mut keys, worker| -> ControlFlow<(), _> {
                assert!(keys.insert(*worker.key()), "a worker is seen twice");
                ControlFlow::Continue(keys)
            })
        else {
            unreachable!("it never breaks off")
        };
        keys
    }

    fn places(&self) -> usize {
        self.writer.entries().len()
    }
}

#[tokio::test]
async fn a_key_that_comes_again_takes_the_place_that_it_had() {
    let mut rig = Rig::new();
    let mut place = None;
    for _ in 0..10_000 {
        let entry = rig.insert(1, 7);
        assert_eq!(rig.holder(1, 7), Some(entry));
        assert_eq!(rig.places(), 1);
        rig.writer.remove(entry);
        let (taken, _) = rig.writer.free[&7];
        assert_eq!(*place.get_or_insert(taken), taken, "it was given up for another one");
        assert_eq!(rig.holder(1, 7), None);
        assert!(rig.writer.read().with_entry(entry, |_| ()).is_none());
        assert!(rig.keys().is_empty());
    }
    assert!(rig.writer.freed.len() <= FREE_PLACES);
}

#[tokio::test]
async fn keys_of_one_hash_are_kept_apart_and_each_is_removed_alone() {
    let mut rig = Rig::new();
    let [one, two, three] = [1, 2, 3].map(|key| rig.insert(key, 7));
    rig.writer.remove(two);
    assert_eq!((rig.holder(1, 7), rig.holder(2, 7), rig.holder(3, 7)), (Some(one), None, Some(three)));
    rig.writer.remove(one);
    // A stale removal finds nobody, also if somebody else has the place by now.
    let four = rig.insert(4, 7);
    rig.writer.remove(two);
    rig.writer.remove(one);
    assert_eq!((rig.holder(4, 7), rig.holder(3, 7)), (Some(four), Some(three)));
    assert_eq!(rig.keys(), Keys::from([3, 4]));
}

#[tokio::test]
async fn only_so_many_free_places_are_kept_and_the_oldest_go_first() {
    let mut rig = Rig::new();
    let many = 3 * FREE_PLACES as u32;
    let entries: Vec<EntryId> = (0..many).map(|key| rig.insert(key, u64::from(key))).collect();
    for entry in entries {
        rig.writer.remove(entry);
    }
    assert!(rig.keys().is_empty());
    assert!(rig.places() <= FREE_PLACES, "{} places are kept", rig.places());
    assert!(rig.writer.free.len() <= FREE_PLACES && rig.writer.freed.len() <= FREE_PLACES);
    // One of the last to go is still there to be taken again.
    let places = rig.places();
    rig.insert(many - 1, u64::from(many - 1));
    assert_eq!(rig.places(), places);
    rig.writer.clear();
    assert_eq!((rig.places(), rig.writer.free.len(), rig.writer.freed.len()), (0, 0, 0));
}
