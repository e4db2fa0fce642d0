//! Keys with equal hashes.

use std::hash::{Hash, Hasher};
use std::time::Instant;

use gen_registry::{Aliases, Context, Groups, Registry, Reply, Worker};
use test_support::{Idle, assert_at_rest, within};

/// A key whose `Hash` is the same for all keys, as an attacker would like it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Colliding(u32);

impl Hash for Colliding {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u8(0);
    }
}

struct Echo(u32);

impl Worker for Echo {
    type Key = Colliding;
    type Args = ();
    type Message = Reply<u32>;
    type Error = std::convert::Infallible;

    async fn init((): (), ctx: &mut Context<Self>) -> Result<Self, Self::Error> {
        Ok(Self(ctx.key().0))
    }

    async fn handle(&mut self, reply: Reply<u32>, _: &mut Context<Self>) -> Result<(), Self::Error> {
        reply.send(self.0);
        Ok(())
    }
}

#[tokio::test]
async fn colliding_keys_stay_separate() {
    const KEYS: u32 = 1_000;
    let registry = Registry::<Echo>::new();
    let (aliases, groups) = (Aliases::<Colliding, Echo>::new(), Groups::<Colliding, Echo>::new());
    let started = Instant::now();
    for key in (0..KEYS).map(Colliding) {
        let worker = within(registry.start(&key, ()), "a start").await.unwrap();
        aliases.register(key.clone(), &worker).unwrap();
        groups.join(key, &worker).unwrap();
    }
    assert_eq!((registry.count(), aliases.len(), groups.len()), (1_000, 1_000, 1_000));
    for key in (0..KEYS).map(Colliding) {
        let worker = registry.lookup(&key).expect("it runs");
        assert_eq!(within(worker.call(|reply| reply), "the answer").await.unwrap(), key.0);
        assert_eq!(aliases.whereis(&key).as_ref(), Some(&worker));
        assert_eq!(groups.members(&key), [worker]);
    }
    println!(
        "{KEYS} keys of one hash: {:?} for a start, a lookup, a call and two directories each",
        started.elapsed() / KEYS
    );
    for key in (0..KEYS).step_by(2).map(Colliding) {
        within(registry.stop(&key), "a stop").await.unwrap();
        assert!(registry.lookup(&key).is_none() && aliases.whereis(&key).is_none() && groups.members(&key).is_empty());
        assert!(registry.lookup(&Colliding(key.0 + 1)).is_some());
    }
    assert_eq!(registry.count(), 500);
    assert_at_rest(&registry);
}

/// Records what the registry's hasher makes of a key: the order of a fold over many keys.
async fn order_of(keys: u32) -> Vec<u32> {
    let registry = Registry::<Idle<u32>>::new();
    for key in 0..keys {
        registry.start(&key, ()).await.unwrap();
    }
    registry.to_list().iter().map(|worker| *worker.key()).collect()
}

#[tokio::test]
async fn registries_hash_with_different_secrets() {
    // With one secret for all, both orders would be the same.
    assert_ne!(order_of(64).await, order_of(64).await);
}
