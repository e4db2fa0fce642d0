//! What `#[worker]` makes of an impl block, as its users see it.

#![deny(missing_docs, missing_debug_implementations, unreachable_pub, clippy::all, clippy::pedantic)]

#[path = "worker/forms.rs"]
mod forms;

use std::collections::HashMap;
use std::convert::Infallible;
use std::hash::Hash;
use std::io;
use std::time::Duration;

use gen_registry::{CallError, Context, ExitReason, Mailbox, Registry, Reply, SendError, Worker, WorkerState, worker};
use test_support::within;

/// A counter with every form of a call and of a cast.
struct Counter {
    count: u64,
    waiting: Vec<Reply<u64>>,
}

#[worker(key = &'static str)]
impl Counter {
    fn init(count: u64) -> Self {
        Counter { count, waiting: Vec::new() }
    }

    /// Adds to the count.
    #[cast]
    fn add(&mut self, n: u64) {
        self.count += n;
        for reply in self.waiting.drain(..) {
            reply.send(self.count);
        }
    }

    #[cast]
    async fn add_later(&mut self, n: u64, ctx: &mut Context<Self>) {
        ctx.send_after(Duration::from_secs(1), CounterMessage::Add { n });
        tokio::task::yield_now().await;
    }

    #[call]
    fn get(&self) -> u64 {
        self.count
    }

    #[call]
    async fn scaled(&mut self, factor: u64, mut offset: u64) -> u64 {
        tokio::task::yield_now().await;
        offset += 1;
        self.count * factor + offset
    }

    #[call]
    fn checked_sub(&mut self, n: u64) -> Result<u64, String> {
        self.count = self.count.checked_sub(n).ok_or_else(|| format!("{} is less than {n}", self.count))?;
        Ok(self.count)
    }

    #[call]
    fn reset(&mut self) {
        self.count = 0;
    }

    #[call]
    fn key_of(&self, ctx: &Context<Self>) -> &'static str {
        ctx.key()
    }

    /// Answers at the next change.
    #[call]
    fn next_change(&mut self, reply: Reply<u64>) {
        self.waiting.push(reply);
    }

    #[call]
    #[allow(clippy::many_single_char_names, clippy::too_many_arguments)]
    fn many(&self, a: u8, b: u8, c: u8, d: u8, e: u8, f: u8, timeout: u8) -> u8 {
        a + b + c + d + e + f + timeout
    }

    #[cfg(any())]
    #[call]
    fn never_compiled(&self) -> Missing {
        Missing
    }
}

async fn counter(count: u64) -> (gen_registry::WorkerHandle<Counter>, Registry<Counter>) {
    let counters = Registry::<Counter>::new();
    (within(counters.start(&"visits", count), "the start").await.expect("init cannot fail"), counters)
}

#[tokio::test]
async fn call_returns_what_the_method_returns() {
    let (visits, _counters) = counter(20).await;
    assert_eq!(within(visits.get(), "the reply").await.unwrap(), 20);
    assert_eq!(within(visits.scaled(2, 1), "the reply").await.unwrap(), 42);
    assert_eq!(within(visits.key_of(), "the reply").await.unwrap(), "visits");
    assert_eq!(within(visits.many(1, 2, 3, 4, 5, 6, 7), "the reply").await.unwrap(), 28);
    let () = within(visits.reset(), "the reply").await.unwrap();
    assert_eq!(within(visits.get(), "the reply").await.unwrap(), 0);
}

#[tokio::test]
async fn call_that_returns_a_result_replies_with_it() {
    let (visits, _counters) = counter(2).await;
    assert_eq!(within(visits.checked_sub(1), "the reply").await.unwrap(), Ok(1));
    assert_eq!(within(visits.checked_sub(5), "the reply").await.unwrap(), Err("1 is less than 5".to_owned()));
    assert_eq!(visits.state(), WorkerState::Running);
}

#[tokio::test]
async fn cast_is_handled_before_a_later_call() {
    let (visits, _counters) = counter(0).await;
    within(visits.add(1), "the cast").await.unwrap();
    assert_eq!(within(visits.get(), "the reply").await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn cast_reaches_the_context() {
    let (visits, _counters) = counter(0).await;
    within(visits.add_later(1), "the cast").await.unwrap();
    assert_eq!(within(visits.next_change(), "the reply").await.unwrap(), 1);
}

#[tokio::test]
async fn taken_reply_is_answered_later() {
    let (visits, _counters) = counter(0).await;
    let change = visits.try_call(CounterMessage::NextChange).unwrap();
    within(visits.add(7), "the cast").await.unwrap();
    assert_eq!(within(change, "the reply").await.unwrap(), 7);
}

#[tokio::test(start_paused = true)]
async fn timeout_method_times_out() {
    let (visits, _counters) = counter(0).await;
    let error = within(visits.next_change_timeout(Duration::from_secs(1)), "the timeout").await.unwrap_err();
    assert!(matches!(error, CallError::TimedOut), "{error}");
    assert_eq!(within(visits.scaled_timeout(Duration::from_secs(1), 1, 1), "the reply").await.unwrap(), 2);
}

#[tokio::test]
async fn address_has_the_same_methods() {
    let (visits, counters) = counter(1).await;
    within(visits.stop(), "the stop").await.unwrap();
    let address = counters.via_or_start(&"visits", 5);
    within(address.add(1), "the cast").await.unwrap();
    assert_eq!(within(address.get(), "the reply").await.unwrap(), 6);

    let error = within(counters.via(&"none").add(1), "the cast").await.unwrap_err();
    assert!(matches!(error, SendError::NotFound(_)), "{error}");
    let CounterMessage::Add { n } = error.into_message() else { panic!("another message") };
    assert_eq!(n, 1);
}

#[tokio::test]
async fn client_methods_can_be_spawned() {
    let (visits, _counters) = counter(3).await;
    let call = tokio::spawn(async move { visits.get_timeout(Duration::from_secs(5)).await });
    assert_eq!(within(call, "the task").await.unwrap().unwrap(), 3);
}

#[test]
fn debug_prints_the_name_without_arguments() {
    assert_eq!(format!("{:?}", CounterMessage::Add { n: 1 }), "Add");
}

/// The methods of the trait in the block, errors that end the worker, and messages that the client cannot send.
mod lifecycle {
    use super::*;

    #[derive(Debug)]
    pub(crate) struct Failed(pub(crate) &'static str);

    impl From<Failed> for io::Error {
        fn from(failed: Failed) -> Self {
            io::Error::other(failed.0)
        }
    }

    pub(crate) struct Journal {
        pub(crate) lines: Vec<String>,
        pub(crate) ends: tokio::sync::mpsc::UnboundedSender<(Vec<String>, bool)>,
        pub(crate) turns: u32,
    }

    #[worker(key = String, message = pub(crate) Entry, client = pub(crate) WriteJournal)]
    impl Journal {
        async fn init(
            first: String,
            ctx: &mut Context<Self>,
            ends: tokio::sync::mpsc::UnboundedSender<(Vec<String>, bool)>,
        ) -> io::Result<Self> {
            if first.is_empty() {
                return Err(io::Error::other("an empty first line"));
            }
            ctx.send_after(Duration::from_secs(60), Entry::Tick);
            Ok(Journal { lines: vec![first], ends, turns: 0 })
        }

        async fn run(&mut self, mailbox: &mut Mailbox<Entry>, ctx: &mut Context<Self>) -> io::Result<()> {
            while let Some(message) = mailbox.recv().await {
                self.turns += 1;
                self.handle(message, ctx).await?;
            }
            Ok(())
        }

        fn terminate(self, reason: &ExitReason) {
            let failed = matches!(reason, ExitReason::Failed(_));
            self.ends.send((self.lines, failed)).expect("the test waits for it");
        }

        #[cast(internal)]
        fn tick(&mut self) {
            self.lines.push("tick".into());
        }

        #[cast]
        fn write(&mut self, line: String) -> Result<(), Failed> {
            if line.is_empty() {
                return Err(Failed("an empty line"));
            }
            self.lines.push(line);
            Ok(())
        }

        #[call]
        async fn seal(&mut self, reply: Reply<usize>) -> Result<(), Self::Error> {
            reply.send(self.lines.len());
            Err(io::Error::other("sealed"))
        }

        #[call]
        fn turns(&self) -> u32 {
            self.turns
        }

        #[call(internal)]
        fn stop(&self) -> usize {
            self.lines.len()
        }
    }
}

use lifecycle::{Entry, Journal, WriteJournal as _};

#[tokio::test]
async fn init_error_fails_the_start() {
    let (ends, _lines) = tokio::sync::mpsc::unbounded_channel();
    let journals = Registry::<Journal>::new();
    let error = within(journals.start("a", (String::new(), ends)), "the start").await.unwrap_err();
    assert_eq!(error.init_error::<io::Error>().unwrap().to_string(), "an empty first line");
}

#[tokio::test]
async fn err_of_a_cast_ends_the_worker() {
    let (ends, mut lines) = tokio::sync::mpsc::unbounded_channel();
    let journals = Registry::<Journal>::new();
    let journal = within(journals.start("a", ("first".into(), ends)), "the start").await.unwrap();
    within(journal.write("second".into()), "the cast").await.unwrap();
    assert_eq!(within(journal.turns(), "the reply").await.unwrap(), 2);
    within(journal.write(String::new()), "the cast").await.unwrap();
    let reason = within(journal.closed(), "the exit").await;
    assert!(matches!(&reason, ExitReason::Failed(error) if error.to_string().contains("an empty line")), "{reason:?}");
    let end = within(lines.recv(), "terminate").await.unwrap();
    assert_eq!(end, (vec!["first".to_owned(), "second".to_owned()], true));
}

#[tokio::test]
async fn err_beside_a_taken_reply_ends_the_worker() {
    let (ends, _lines) = tokio::sync::mpsc::unbounded_channel();
    let journals = Registry::<Journal>::new();
    let journal = within(journals.start("a", ("first".into(), ends)), "the start").await.unwrap();
    assert_eq!(within(journal.seal(), "the reply").await.unwrap(), 1);
    assert!(matches!(within(journal.closed(), "the exit").await, ExitReason::Failed(_)));
}

#[tokio::test(start_paused = true)]
async fn internal_messages_are_variants_only() {
    let (ends, mut lines) = tokio::sync::mpsc::unbounded_channel();
    let journals = Registry::<Journal>::new();
    let journal = within(journals.start("a", ("first".into(), ends)), "the start").await.unwrap();
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert_eq!(within(journal.call(Entry::Stop), "the reply").await.unwrap(), 2);
    // Of the handle, and not the message of this name.
    assert!(matches!(within(journal.stop(), "the stop").await, Ok(ExitReason::Stopped)));
    assert_eq!(within(lines.recv(), "terminate").await.unwrap().0, ["first", "tick"]);
}

/// A worker with parameters. `M` is in no message.
mod generic {
    use std::marker::PhantomData;

    use super::*;

    pub(crate) struct Cache<K, V, M, const LIMIT: usize> {
        pub(crate) entries: HashMap<K, V>,
        marker: PhantomData<fn() -> M>,
    }

    #[worker(key = u32)]
    impl<K, V, M: 'static, const LIMIT: usize> Cache<K, V, M, LIMIT>
    where
        K: Hash + Eq + Send + 'static,
        V: Clone + Send + 'static,
        Self: Sized,
    {
        pub(crate) fn init() -> Self {
            Cache { entries: HashMap::new(), marker: PhantomData }
        }

        /// Refuses a pair beyond the limit.
        #[call]
        pub(crate) fn insert(&mut self, key: K, value: V) -> Result<Option<V>, (K, V)> {
            if self.entries.len() == LIMIT {
                return Err((key, value));
            }
            Ok(self.entries.insert(key, value))
        }

        #[call]
        pub(crate) async fn find(&mut self, key: K) -> Option<V> {
            self.entries.get(&key).cloned()
        }

        #[call]
        pub(crate) fn merge(&mut self, others: Vec<Self>) -> usize {
            self.entries.extend(others.into_iter().flat_map(|other| other.entries));
            self.entries.len()
        }
    }
}

use generic::{Cache, CacheClient as _};

#[tokio::test]
async fn generic_worker_has_a_generic_client() {
    type Words = Cache<String, u64, (), 1>;
    let caches = Registry::<Words>::new();
    let words = within(caches.start(&1, ()), "the start").await.unwrap();
    assert_eq!(within(words.insert("one".into(), 1), "the reply").await.unwrap(), Ok(None));
    assert_eq!(within(words.insert("two".into(), 2), "the reply").await.unwrap(), Err(("two".into(), 2)));
    assert_eq!(within(caches.via(&1).find("one".into()), "the reply").await.unwrap(), Some(1));
    let other = vec![Words::init()];
    assert_eq!(within(words.merge(other), "the reply").await.unwrap(), 1);
}

/// `handle` is written, and reaches the messages through `dispatch`.
struct Logged {
    log: Vec<String>,
    sum: u64,
}

#[worker(key = u32)]
impl Logged {
    fn init() -> Self {
        Logged { log: Vec::new(), sum: 0 }
    }

    async fn handle(&mut self, message: LoggedMessage, ctx: &mut Context<Self>) -> Result<(), Infallible> {
        self.log.push(format!("{message:?}"));
        self.dispatch(message, ctx).await
    }

    #[cast]
    fn add(&mut self, n: u64) {
        self.sum += n;
    }

    #[call]
    fn log(&self) -> (Vec<String>, u64) {
        (self.log.clone(), self.sum)
    }
}

#[tokio::test]
async fn written_handle_runs_around_the_dispatch() {
    let registry = Registry::<Logged>::new();
    let logged = within(registry.start(&1, ()), "the start").await.unwrap();
    within(logged.add(4), "the cast").await.unwrap();
    assert_eq!(within(logged.log(), "the reply").await.unwrap(), (vec!["Add".into(), "Log".into()], 4));
}

/// The library under another path, and names that the generated code uses itself.
mod hygiene {
    pub(crate) mod elsewhere {
        pub(crate) use ::gen_registry as registry;
    }
    #[allow(dead_code, non_camel_case_types)]
    mod traps {
        pub(crate) struct Result;
        pub(crate) struct Option;
        pub(crate) struct Future;
        pub(crate) struct Send;
        pub(crate) struct Ok;
    }
    #[allow(unused_imports)]
    use traps::{Future, Ok, Option, Result, Send};

    pub(crate) struct Plain(u64);

    #[elsewhere::registry::worker(key = u32, crate = elsewhere::registry)]
    impl Plain {
        async fn init(ctx: u64, message: u64) -> Self {
            Plain(ctx + message)
        }

        #[cast]
        pub(crate) fn r#type(&mut self, ctx: u64, message: u64, this: u64) {
            self.0 += ctx + message + this;
        }

        #[call]
        pub(crate) fn sum(&self, message: u64, result: u64, callback: fn(&u64) -> u64) -> u64 {
            callback(&(self.0 + message + result))
        }
    }
}

#[tokio::test]
async fn names_of_the_user_do_not_collide() {
    use hygiene::PlainClient as _;
    let registry = Registry::<hygiene::Plain>::new();
    let plain = within(registry.start(&1, (1, 2)), "the start").await.unwrap();
    within(plain.r#type(3, 4, 5), "the cast").await.unwrap();
    assert_eq!(within(plain.sum(1, 1, |sum| *sum), "the reply").await.unwrap(), 17);
}

/// What a library exports: the lints for exported items hold for the generated ones.
pub mod exported {
    use super::{Context, Infallible, Reply, worker};

    /// A bill.
    #[derive(Debug, Clone, Copy)]
    pub struct Bill(u64);

    #[worker(key = u32)]
    impl Bill {
        async fn init(cents: u64, _: &mut Context<Self>) -> Result<Self, Infallible> {
            Ok(Bill(cents))
        }

        /// Adds an item.
        ///
        /// # Errors
        ///
        /// None.
        #[cast]
        pub fn add(
            &mut self,
            name: String,
            /** What it costs. */
            cents: u64,
        ) -> Result<(), Infallible> {
            self.0 += if name.is_empty() { 0 } else { cents };
            Ok(())
        }

        /// The sum of all items.
        ///
        /// # Errors
        ///
        /// There is nothing to pay.
        #[call]
        pub fn sum(&self, currency: String) -> Result<String, String> {
            if self.0 == 0 { Err(currency) } else { Ok(format!("{} {currency}", self.0)) }
        }

        /// Answers when the bill is paid.
        #[call]
        #[deprecated(note = "pay at the counter")]
        pub async fn paid(&mut self, reply: Reply<()>) {
            reply.send(());
        }
    }
}

#[tokio::test]
async fn exported_worker_is_used_through_its_client() {
    use exported::{Bill, BillClient as _};
    let bills = Registry::<Bill>::new();
    let bill = bills.via_or_start(&1, 0);
    assert_eq!(within(bill.sum("EUR".into()), "the reply").await.unwrap(), Err("EUR".to_owned()));
    within(bill.add("tea".into(), 3), "the cast").await.unwrap();
    assert_eq!(within(bill.sum("EUR".into()), "the reply").await.unwrap(), Ok("3 EUR".to_owned()));
}

/// A worker that only runs.
struct Silent;

#[worker(key = u32)]
impl Silent {
    fn init() -> Self {
        Silent
    }

    async fn run(&mut self, _: &mut Mailbox<SilentMessage>, _: &mut Context<Self>) -> Result<(), Infallible> {
        Ok(())
    }
}

#[tokio::test]
async fn worker_without_messages_runs() {
    let registry = Registry::<Silent>::new();
    let silent = within(registry.start(&1, ()), "the start").await.unwrap();
    assert!(matches!(within(silent.closed(), "the exit").await, ExitReason::Normal));
}
