//! Key types and their borrowed forms.

use std::convert::Infallible;
use std::fmt::Debug;
use std::hash::Hash;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gen_registry::{Context, Equivalent, Registry, Reply, ToKey, Worker};
use test_support::within;

/// A worker that replies with its key.
struct Named<K>(PhantomData<K>);

impl<K: Clone + Eq + Hash + Send + Sync + 'static> Worker for Named<K> {
    type Key = K;
    type Args = ();
    type Message = Reply<K>;
    type Error = Infallible;

    async fn init((): (), _: &mut Context<Self>) -> Result<Self, Infallible> {
        Ok(Self(PhantomData))
    }

    async fn handle(&mut self, reply: Reply<K>, ctx: &mut Context<Self>) -> Result<(), Infallible> {
        reply.send(ctx.key().clone());
        Ok(())
    }
}

/// Starts, finds, counts and stops the worker with `one`, which equals `key`. Nothing is found under `other`.
async fn names_its_worker<K, Q>(one: &Q, key: K, other: &Q)
where
    K: Clone + Eq + Hash + Debug + Send + Sync + 'static,
    Q: ?Sized + ToKey<K>,
{
    let registry = Registry::<Named<K>>::new();
    let started = within(registry.lookup_or_start(one, ()), "the start").await.unwrap();
    assert_eq!(started.key(), &key);
    assert_eq!(within(started.call(|reply| reply), "the key").await.unwrap(), key);
    assert_eq!(registry.lookup(one), Some(started.clone()));
    assert_eq!(registry.lookup(&key), Some(started.clone()));
    assert!(registry.lookup(other).is_none());
    let error = within(registry.start(&key, ()), "the refusal").await.unwrap_err();
    assert_eq!(error.already_started(), Some(&started));
    assert_eq!(within(registry.via(one).call(|reply| reply), "the key").await.unwrap(), key);
    within(registry.start(other, ()), "the start of another").await.unwrap();
    assert_eq!(registry.count(), 2);
    within(registry.stop(one), "the stop").await.unwrap();
    assert!(registry.lookup(&key).is_none() && registry.lookup(other).is_some());
}

#[tokio::test(start_paused = true)]
async fn string_key_by_str() {
    names_its_worker::<String, str>("shopping", "shopping".to_owned(), "chores").await;
    names_its_worker::<String, String>(&"shopping".to_owned(), "shopping".to_owned(), &String::new()).await;
}

#[tokio::test(start_paused = true)]
async fn arc_and_box_str_key_by_str() {
    names_its_worker::<Arc<str>, str>("shopping", "shopping".into(), "chores").await;
    names_its_worker::<Box<str>, str>("shopping", "shopping".into(), "chores").await;
}

#[tokio::test(start_paused = true)]
async fn static_str_key_by_itself() {
    names_its_worker::<&'static str, &'static str>(&"shopping", "shopping", &"chores").await;
}

#[tokio::test(start_paused = true)]
async fn number_keys() {
    names_its_worker(&7_u64, 7, &8).await;
    names_its_worker(&u128::MAX, u128::MAX, &0).await;
    names_its_worker(&'x', 'x', &'y').await;
}

#[tokio::test(start_paused = true)]
async fn unit_key_has_one_worker() {
    let registry = Registry::<Named<()>>::new();
    let only = within(registry.start(&(), ()), "the start").await.unwrap();
    assert_eq!(registry.lookup(&()), Some(only));
}

#[tokio::test(start_paused = true)]
async fn tuple_keys() {
    let (one, other) = (("acme".to_owned(), 7), ("acme".to_owned(), 8));
    names_its_worker(&one, one.clone(), &other).await;
}

#[tokio::test(start_paused = true)]
async fn newtype_and_enum_keys() {
    #[derive(Debug, Clone, PartialEq, Eq, Hash)]
    struct UserId(u64);
    #[derive(Debug, Clone, PartialEq, Eq, Hash)]
    enum Device {
        Phone { number: String },
        Browser(UserId),
    }
    names_its_worker(&UserId(1), UserId(1), &UserId(2)).await;
    let (one, other) = (Device::Phone { number: "+41 44".to_owned() }, Device::Browser(UserId(1)));
    names_its_worker(&one, one.clone(), &other).await;
}

#[tokio::test(start_paused = true)]
async fn bytes_key_by_slice() {
    names_its_worker::<Vec<u8>, [u8]>(&[1, 2, 3], vec![1, 2, 3], &[]).await;
    names_its_worker::<Box<[u8]>, [u8]>(&[1, 2, 3], [1, 2, 3].into(), &[]).await;
    names_its_worker::<Arc<[String]>, [String]>(&["a".to_owned()], ["a".to_owned()].into(), &[]).await;
}

#[tokio::test(start_paused = true)]
async fn path_key_by_path() {
    let (one, other) = (Path::new("/var/lib"), Path::new("/var"));
    names_its_worker::<PathBuf, Path>(one, one.to_owned(), other).await;
    names_its_worker::<Arc<Path>, Path>(one, one.into(), other).await;
}

#[tokio::test(start_paused = true)]
async fn custom_borrowed_key() {
    #[derive(Debug, Clone, PartialEq, Eq, Hash)]
    struct Room {
        tenant: String,
        number: u32,
    }
    /// Hashes as [`Room`] does: the same fields in the same order.
    #[derive(Hash)]
    struct RoomRef<'a> {
        tenant: &'a str,
        number: u32,
    }
    impl Equivalent<Room> for RoomRef<'_> {
        fn equivalent(&self, room: &Room) -> bool {
            self.tenant == room.tenant && self.number == room.number
        }
    }
    impl ToKey<Room> for RoomRef<'_> {
        fn to_key(&self) -> Room {
            Room { tenant: self.tenant.to_owned(), number: self.number }
        }
    }
    let tenant = String::from("acme");
    let (one, other) = (RoomRef { tenant: &tenant, number: 7 }, RoomRef { tenant: &tenant, number: 8 });
    names_its_worker(&one, Room { tenant: tenant.clone(), number: 7 }, &other).await;
}

#[tokio::test(start_paused = true)]
async fn colliding_keys_stay_distinct() {
    #[derive(Debug, Clone, PartialEq, Eq)]
    struct Colliding(u32);
    impl Hash for Colliding {
        fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
            state.write_u8(0);
        }
    }
    names_its_worker(&Colliding(1), Colliding(1), &Colliding(2)).await;
    let registry = Registry::<Named<Colliding>>::new();
    for n in 0..50 {
        within(registry.start(&Colliding(n), ()), "a start").await.unwrap();
    }
    for n in 0..50 {
        assert_eq!(registry.lookup(&Colliding(n)).unwrap().key(), &Colliding(n));
        within(registry.stop(&Colliding(n)), "a stop").await.unwrap();
        assert_eq!(registry.count() as u32, 49 - n);
    }
}

#[tokio::test(start_paused = true)]
async fn g5_panicking_eq_affects_no_other_key() {
    #[derive(Debug, Clone)]
    struct PanickingEq(bool);
    impl PartialEq for PanickingEq {
        fn eq(&self, other: &Self) -> bool {
            assert!(!self.0 && !other.0, "a scripted panic");
            true
        }
    }
    impl Eq for PanickingEq {}
    impl Hash for PanickingEq {
        fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
            state.write_u8(0);
        }
    }
    let registry = Registry::<Named<PanickingEq>>::new();
    let worker = within(registry.start(&PanickingEq(false), ()), "the start").await.unwrap();
    let looking = tokio::spawn({
        let registry = registry.clone();
        async move { registry.lookup(&PanickingEq(true)) }
    });
    assert!(within(looking, "the panic").await.unwrap_err().is_panic(), "the caller panics");
    assert_eq!(registry.lookup(&PanickingEq(false)), Some(worker));
    within(registry.stop(&PanickingEq(false)), "the stop").await.unwrap();
    within(registry.start(&PanickingEq(false), ()), "the next start").await.unwrap();
}
