//! A `tracing` subscriber that records everything and panics in a chosen method.

#![allow(clippy::async_yields_async, reason = "the worker returns the handle of a task that it spawned")]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use gen_registry::Registry;
use test_support::{RestartableArgs, RestartableWorker, run_in_restartable, within};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_core::span::Current;

pub(crate) type Fields = BTreeMap<&'static str, String>;

#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Records>>);

#[derive(Default)]
struct Records {
    spans: Vec<(&'static Metadata<'static>, Fields)>,
    events: Vec<(Level, Fields)>,
    /// The method that panics, and how often it has panicked.
    panicking: Option<&'static str>,
    panics: usize,
    /// The number of references to all spans.
    references: usize,
}

thread_local! {
    /// The spans that this thread has entered, innermost last.
    static ENTERED: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

struct FieldVisitor<'f>(&'f mut Fields);

impl Visit for FieldVisitor<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name(), format!("{value:?}").trim_matches('"').to_owned());
    }
}

impl Log {
    /// Sets a log for this thread, after a span and the events of the crate have been used once. Otherwise, a callsite
    /// that a thread without a subscriber registers while this thread sets its own may be cached as disabled.
    pub(crate) async fn set() -> (Self, tracing::subscriber::DefaultGuard) {
        let log = Self::default();
        let guard = tracing::subscriber::set_default(log.clone());
        let registry = Registry::<RestartableWorker>::new();
        let worker =
            within(registry.start("k", RestartableArgs::default()), "a start").await.expect("the start succeeds");
        let panics =
            run_in_restartable(&worker, |ctx| Box::pin(async move { ctx.spawn(async { panic!("a scripted panic") }) }));
        let panicked: Result<(), _> = within(panics.await.expect("the worker is running"), "the task").await;
        assert!(panicked.is_err());
        assert_eq!(within(registry.shutdown(), "the shutdown").await.stuck, 0);
        tracing::callsite::rebuild_interest_cache();
        log.with(|records| *records = Records::default());
        (log, guard)
    }

    fn with<T>(&self, look: impl FnOnce(&mut Records) -> T) -> T {
        look(&mut self.0.lock().expect("no code panics while holding the lock"))
    }

    /// Makes one of the methods panic from now on, or none.
    pub(crate) fn set_panicking(&self, method: Option<&'static str>) {
        self.with(|records| records.panicking = method);
    }

    pub(crate) fn panics(&self) -> usize {
        self.with(|records| records.panics)
    }

    pub(crate) fn references(&self) -> usize {
        self.with(|records| records.references)
    }

    /// The events with this message. The field `in span of` is the id of the worker whose span is current.
    pub(crate) fn events(&self, message: &str) -> Vec<(Level, Fields)> {
        self.with(|records| {
            records
                .events
                .iter()
                .filter(|(_, fields)| fields.get("message").is_some_and(|is| is == message))
                .cloned()
                .collect()
        })
    }

    fn called(&self, method: &str) {
        let must_panic = self.with(|records| {
            let must_panic = records.panicking == Some(method);
            records.panics += usize::from(must_panic);
            must_panic
        });
        assert!(!must_panic, "a scripted panic of the subscriber");
    }
}

impl Subscriber for Log {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        Interest::sometimes()
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Ignore tokio's own spans.
        let is_ours = metadata.target().starts_with("gen_registry") || metadata.target().starts_with("user_code");
        if is_ours {
            self.called("enabled");
        }
        is_ours
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        self.called("new_span");
        let mut fields = Fields::new();
        span.record(&mut FieldVisitor(&mut fields));
        self.with(|records| {
            records.references += 1;
            records.spans.push((span.metadata(), fields));
            Id::from_u64(records.spans.len() as u64)
        })
    }

    fn record(&self, span: &Id, values: &Record<'_>) {
        self.called("record");
        let mut fields = Fields::new();
        values.record(&mut FieldVisitor(&mut fields));
        self.with(|records| records.spans[span.into_u64() as usize - 1].1.extend(fields));
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        self.called("event");
        let mut fields = Fields::new();
        event.record(&mut FieldVisitor(&mut fields));
        fields.insert("target", event.metadata().target().to_owned());
        let span = ENTERED.with_borrow(|entered| entered.last().copied());
        self.with(|records| {
            if let Some(id) = span.and_then(|span| records.spans[span as usize - 1].1.get("id").cloned()) {
                fields.insert("in span of", id);
            }
            records.events.push((*event.metadata().level(), fields));
        });
    }

    fn enter(&self, span: &Id) {
        self.called("enter");
        ENTERED.with_borrow_mut(|entered| entered.push(span.into_u64()));
    }

    fn exit(&self, _: &Id) {
        ENTERED.with_borrow_mut(|entered| entered.pop());
        self.called("exit");
    }

    fn clone_span(&self, span: &Id) -> Id {
        self.called("clone_span");
        self.with(|records| records.references += 1);
        span.clone()
    }

    fn try_close(&self, _: Id) -> bool {
        self.with(|records| records.references -= 1);
        self.called("try_close");
        false
    }

    fn current_span(&self) -> Current {
        self.called("current_span");
        match ENTERED.with_borrow(|entered| entered.last().copied()) {
            Some(span) => self.with(|records| Current::new(Id::from_u64(span), records.spans[span as usize - 1].0)),
            None => Current::none(),
        }
    }
}
