//! The spans and events of a registry.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gen_registry::{Builder, Registry, Restart};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use test_support::{
    Ask, ClosureArgs, ClosureWorker, Plan, Probe, Step, in_own_process, run_in, until_idle, value_of, within,
};

type Fields = BTreeMap<&'static str, String>;

/// Records everything.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Records>>);

#[derive(Default)]
struct Records {
    spans: Vec<(&'static str, Fields)>,
    events: Vec<(Level, Fields)>,
    /// The spans that the thread has entered, innermost last.
    entered: Vec<usize>,
    /// How often the subscriber has panicked.
    panics: usize,
}

struct FieldVisitor<'f>(&'f mut Fields);

impl Visit for FieldVisitor<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name(), format!("{value:?}").trim_matches('"').to_owned());
    }
}

impl Log {
    fn with<T>(&self, look: impl FnOnce(&mut Records) -> T) -> T {
        look(&mut self.0.lock().expect("no code panics while holding the lock"))
    }

    fn spans(&self) -> Vec<(&'static str, Fields)> {
        self.with(|records| records.spans.clone())
    }

    fn events(&self) -> Vec<(Level, Fields)> {
        self.with(|records| records.events.clone())
    }

    fn messages(&self) -> Vec<(Level, String)> {
        self.events().into_iter().map(|(level, fields)| (level, fields["message"].clone())).collect()
    }
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Ignore tokio's own spans.
        metadata.target().starts_with("gen_registry") || metadata.target().starts_with("tracing")
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        if self.with(|records| std::mem::take(&mut records.panics)) > 0 {
            panic!("a panicking subscriber");
        }
        let mut fields = Fields::new();
        span.record(&mut FieldVisitor(&mut fields));
        self.with(|records| {
            records.spans.push((span.metadata().name(), fields));
            Id::from_u64(records.spans.len() as u64)
        })
    }

    fn record(&self, span: &Id, values: &Record<'_>) {
        self.with(|records| values.record(&mut FieldVisitor(&mut records.spans[span.into_u64() as usize - 1].1)));
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields::new();
        event.record(&mut FieldVisitor(&mut fields));
        self.with(|records| {
            if let Some(&span) = records.entered.last() {
                fields.insert("in span of", records.spans[span - 1].1["id"].clone());
            }
            records.events.push((*event.metadata().level(), fields));
        });
    }

    fn enter(&self, span: &Id) {
        self.with(|records| records.entered.push(span.into_u64() as usize));
    }

    fn exit(&self, _: &Id) {
        self.with(|records| records.entered.pop());
    }
}

/// A registry whose workers use this log on this thread.
async fn logged(builder: Builder<Probe>) -> (Log, tracing::subscriber::DefaultGuard, Registry<Probe>) {
    let log = Log::default();
    let guard = tracing::subscriber::set_default(log.clone());
    (log, guard, builder.build().unwrap())
}

#[tokio::test(start_paused = true)]
async fn span_has_registry_and_id_but_no_key() {
    if !in_own_process(module_path!(), "span_has_registry_and_id_but_no_key") {
        return;
    }
    let (log, _guard, registry) = logged(Registry::builder().name("spans")).await;
    let worker = within(registry.start("a secret", Plan::default()), "a start").await.unwrap();
    value_of(&worker).await;
    within(registry.stop("a secret"), "a stop").await.unwrap();
    let [(name, fields)] = &*log.spans() else { panic!("{:?}", log.spans()) };
    assert_eq!((*name, &*fields["registry"], &fields["id"]), ("worker", "spans", &worker.id().to_string()));
    assert_eq!(fields.len(), 2, "{fields:?}");
    assert!(log.events().is_empty(), "unexpected events: {:?}", log.events());
}

#[tokio::test(start_paused = true)]
async fn trace_keys_adds_the_key() {
    if !in_own_process(module_path!(), "trace_keys_adds_the_key") {
        return;
    }
    let (log, _guard, registry) = logged(Registry::builder().name("keys").trace_keys()).await;
    within(registry.start("known", Plan::default()), "a start").await.unwrap();
    assert!(log.spans()[0].1["key"].contains("known"), "{:?}", log.spans());
}

#[tokio::test(start_paused = true)]
async fn worker_events_are_in_its_span() {
    if !in_own_process(module_path!(), "worker_events_are_in_its_span") {
        return;
    }
    let log = Log::default();
    let _guard = tracing::subscriber::set_default(log.clone());
    let registry = Registry::<ClosureWorker>::builder().name("speaking").build().unwrap();
    let say = |word: &'static str| {
        ClosureArgs::init(move |_| {
            Box::pin(async move {
                tokio::task::yield_now().await;
                tracing::info!(target: "gen_registry::test", "{word}");
            })
        })
    };
    let (one, other) = tokio::join!(registry.start("a", say("one")), registry.start("b", say("other")));
    let (one, other) = (one.unwrap(), other.unwrap());
    run_in(&one, |_| Box::pin(async { tracing::info!(target: "gen_registry::test", "again") })).await.unwrap();
    tracing::info!(target: "gen_registry::test", "outside");
    let of = |message: &str| {
        let events = log.events();
        let (_, fields) =
            events.iter().find(|(_, fields)| fields["message"] == message).expect("the event was recorded").clone();
        fields.get("in span of").cloned()
    };
    assert_eq!((of("one"), of("other")), (Some(one.id().to_string()), Some(other.id().to_string())));
    assert_eq!((of("again"), of("outside")), (Some(one.id().to_string()), None));
}

#[tokio::test(start_paused = true)]
async fn crash_is_an_error_with_its_reason() {
    if !in_own_process(module_path!(), "crash_is_an_error_with_its_reason") {
        return;
    }
    let (log, _guard, registry) = logged(Registry::builder().name("crashes")).await;
    for (key, step, reason) in
        [("a", Step::Panic, "panicked: a scripted panic"), ("b", Step::Fail, "failed: a scripted failure")]
    {
        let worker = within(registry.start(key, Plan::default()), "a start").await.unwrap();
        within(worker.cast(Ask::Do(step)), "a send").await.unwrap();
        within(worker.closed(), "its exit").await;
        let (level, fields) = log.events().pop().expect("the worker crashed");
        assert_eq!((level, &*fields["reason"]), (Level::ERROR, reason));
        assert_eq!((&*fields["registry"], &fields["id"]), ("crashes", &worker.id().to_string()));
        assert_eq!(fields["in span of"], worker.id().to_string());
        assert!(!format!("{fields:?}").contains(&format!("{key:?}")), "the key is recorded: {fields:?}");
    }
    assert_eq!(log.events().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn restarts_and_giving_up_are_warnings() {
    if !in_own_process(module_path!(), "restarts_and_giving_up_are_warnings") {
        return;
    }
    let builder = Registry::builder().name("restarts").restart(Restart::Transient);
    let (log, _guard, registry) = logged(builder.restart_intensity(1, Duration::from_secs(60))).await;
    let worker = within(registry.start("a", Plan::default()), "a start").await.unwrap();
    for _ in 0..2 {
        within(worker.cast(Ask::Do(Step::Fail)), "a send").await.unwrap();
        until_idle().await;
    }
    within(worker.closed(), "its exit").await;
    let expected = [
        (Level::ERROR, "the worker crashed"),
        (Level::WARN, "the worker is restarted"),
        (Level::ERROR, "the worker crashed"),
        (Level::WARN, "the worker has spent its restarts"),
    ];
    assert_eq!(log.messages(), expected.map(|(level, message)| (level, message.to_owned())));
}

#[tokio::test(start_paused = true)]
async fn failed_start_is_logged() {
    if !in_own_process(module_path!(), "failed_start_is_logged") {
        return;
    }
    let (log, _guard, registry) = logged(Registry::builder().name("starts")).await;
    within(registry.start("a", Plan::init(Step::Fail)), "a start").await.unwrap_err();
    within(registry.start("a", Plan::init(Step::Panic)), "a start").await.unwrap_err();
    let expected =
        [(Level::WARN, "the worker could not be started"), (Level::ERROR, "the worker panicked while it started")];
    assert_eq!(log.messages(), expected.map(|(level, message)| (level, message.to_owned())));
}

#[tokio::test(start_paused = true)]
async fn expected_exits_are_not_logged() {
    if !in_own_process(module_path!(), "expected_exits_are_not_logged") {
        return;
    }
    let (log, _guard, registry) = logged(Registry::builder().idle_timeout(Duration::from_secs(1))).await;
    for key in ["stopped", "killed", "idle", "shut down"] {
        within(registry.start(key, Plan::default()), "a start").await.unwrap();
    }
    within(registry.stop("stopped"), "a stop").await.unwrap();
    within(registry.kill("killed"), "a kill").await.unwrap();
    let idle = registry.lookup("idle").unwrap();
    within(idle.closed(), "its exit").await;
    let _ = within(registry.shutdown(), "the shutdown").await;
    assert_eq!((log.messages(), log.spans().len()), (vec![], 4));
}

#[tokio::test(start_paused = true)]
async fn panicking_subscriber_loses_only_its_span() {
    if !in_own_process(module_path!(), "panicking_subscriber_loses_only_its_span") {
        return;
    }
    let (log, _guard, registry) = logged(Registry::builder().name("panicking")).await;
    log.with(|records| records.panics = 1);
    let worker = within(registry.start("a", Plan::value(3)), "a start").await.unwrap();
    assert_eq!(value_of(&worker).await, 3);
    within(registry.stop("a"), "a stop").await.unwrap();
    assert!(log.spans().is_empty());
}

/// Without any subscriber.
#[tokio::test(start_paused = true)]
async fn works_without_a_subscriber() {
    if !in_own_process(module_path!(), "works_without_a_subscriber") {
        return;
    }
    let registry = Registry::<Probe>::builder().name("silent").build().unwrap();
    let worker = within(registry.start("a", Plan::value(3)), "a start").await.unwrap();
    assert_eq!(value_of(&worker).await, 3);
}
