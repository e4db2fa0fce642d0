//! Blocks that come from macros, parameters that are not `Sized`, and names that are no names of variants.

use std::sync::Arc;

use gen_registry::{Registry, Reply, worker};
use test_support::within;

macro_rules! counter {
    ($worker:ty, $key:ty, $count:ty, $message:ident, $client:ident) => {
        #[worker(key = $key, message = $message, client = $client)]
        impl $worker {
            fn init(start: $count) -> Self {
                Self(start)
            }

            #[cast]
            fn add(&mut self, n: $count) {
                self.0 += n;
            }

            #[call]
            fn get(&self) -> $count {
                self.0
            }
        }
    };
}

struct Small(u8);
struct Large(u64);

counter!(Small, u32, u8, SmallMessage, SmallClient);
counter!(Large, &'static str, u64, LargeMessage, LargeClient);

#[tokio::test]
async fn block_may_come_from_a_macro() {
    let (small, large) = (Registry::<Small>::new(), Registry::<Large>::new());
    within(small.via_or_start(&1, 1).add(2), "the cast").await.unwrap();
    assert_eq!(within(small.via(&1).get(), "the reply").await.unwrap(), 3);
    assert_eq!(within(large.via_or_start(&"a", 5).get(), "the reply").await.unwrap(), 5);
}

trait Store: Send + Sync + 'static {
    fn name(&self) -> &'static str;
}

impl Store for () {
    fn name(&self) -> &'static str {
        "none"
    }
}

/// `S` is in no message.
struct Reader<S: ?Sized>(Arc<S>);

#[worker(key = u32)]
impl<S: Store + ?Sized> Reader<S> {
    fn init(store: Arc<S>) -> Self {
        Self(store)
    }

    #[call]
    fn store(&self) -> &'static str {
        self.0.name()
    }
}

#[tokio::test]
async fn parameter_need_not_be_sized() {
    let readers = Registry::<Reader<dyn Store>>::new();
    let reader = readers.via_or_start(&1, Arc::new(()));
    assert_eq!(within(reader.store(), "the reply").await.unwrap(), "none");
}

/// The parameter is in no message, and there is none.
struct Silent<S>(S);

#[worker(key = u32)]
impl<S: Send + 'static> Silent<S> {
    fn init(state: S) -> Self {
        Self(state)
    }

    fn terminate(self) {
        drop(self.0);
    }
}

#[tokio::test]
async fn parameter_may_be_in_no_message() {
    let silent = Registry::<Silent<String>>::new();
    let worker = within(silent.start(&1, String::new()), "the start").await.unwrap();
    within(worker.stop(), "the stop").await.unwrap();
    assert_eq!(format!("{:?}", ReaderMessage::<()>::Store(Reply::from(tokio::sync::oneshot::channel().0))), "Store");
}

struct Login;

#[worker(key = u32)]
impl Login {
    fn init() -> Self {
        Self
    }

    #[call]
    fn _2fa(&self, code: u32) -> bool {
        code == 7
    }

    #[cast(internal)]
    fn __(&self) {}
}

#[tokio::test]
async fn method_may_begin_with_an_underscore_and_a_digit() {
    let logins = Registry::<Login>::new();
    let login = logins.via_or_start(&1, ());
    assert!(within(login._2fa(7), "the reply").await.unwrap());
    assert_eq!(format!("{:?} {:?}", LoginMessage::__, LoginMessage::__), "__ __");
}
