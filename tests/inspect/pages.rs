//! Pages of workers: order, filter, limits, and what happens while workers come and go.

use std::collections::BTreeSet;
use std::time::Duration;

use gen_registry::inspect::{Column, Inspect, Inspector, Query};
use gen_registry::{Eviction, Registry, Restart, WorkerState};
use test_support::{Ask, ClosureArgs, ClosureWorker, Gate, Plan, Step, run_in, until_idle, within};
use tokio::time::{advance, sleep};

use crate::{builder, by, keys, only, started};

fn descending(sort: Column) -> Query {
    Query { sort, descending: true, ..Query::default() }
}

/// The keys of one page, in order.
fn listed(shown: &dyn Inspect, query: &Query) -> String {
    keys(&shown.workers(query)).join(" ")
}

#[tokio::test(start_paused = true)]
async fn each_column_orders_workers() {
    let inspector = Inspector::new();
    let registry = builder(&inspector)
        .mailbox_capacity(3)
        .restart(Restart::Transient)
        .restart_intensity(9, Duration::from_secs(5))
        .build()
        .expect("valid options");
    let (b, a, c) = (started(&registry, "b").await, started(&registry, "a").await, started(&registry, "c").await);
    // `a` restarts twice, and then crashes later than `b`; `c` never does.
    for (worker, at) in [(&b, 1), (&a, 2), (&a, 3)] {
        sleep(Duration::from_secs(at)).await;
        worker.cast(Ask::Do(Step::Fail)).await.expect("it runs");
        until_idle().await;
    }
    // `b` has been busy for longer than `c`, and has more queued and one refused. `a` is at rest.
    for (worker, queued) in [(&b, 3), (&c, 1)] {
        sleep(Duration::from_secs(1)).await;
        worker.cast(Ask::Do(Step::Hang)).await.expect("it runs");
        until_idle().await;
        for note in 0..queued {
            worker.try_cast(Ask::Note(note)).expect("there is room");
        }
    }
    b.try_cast(Ask::Note(9)).expect_err("it is full");
    sleep(Duration::from_secs(1)).await;

    let shown = only(&inspector);
    let order = |sort| (listed(&*shown, &by(sort)), listed(&*shown, &descending(sort)));
    let is = |ascending: &str, descending: &str| (ascending.to_owned(), descending.to_owned());
    assert_eq!(order(Column::Id), is("b a c", "c a b"), "the order of the starts");
    assert_eq!(order(Column::Key), is("a b c", "c b a"));
    assert_eq!(order(Column::State), is("b a c", "b a c"), "equal values are in the order of the starts");
    assert_eq!(order(Column::Age), is("a b c", "c b a"), "since the current run is ready");
    assert_eq!(order(Column::Queued), is("a c b", "b c a"));
    assert_eq!(order(Column::Handled), is("c b a", "b a c"));
    assert_eq!(order(Column::Undelivered), is("a c b", "b a c"));
    assert_eq!(order(Column::Restarts), is("c b a", "a b c"));
    assert_eq!(order(Column::IdleFor), is("a b c", "a b c"), "the busy ones have none, and are last");
    assert_eq!(order(Column::BusyFor), is("c b a", "b c a"));
    assert_eq!(order(Column::LastCrash), is("a b c", "b a c"), "`c` has none, and is last");
    drop((a, c));
}

#[tokio::test(start_paused = true)]
async fn filter_selects_workers() {
    let (inspector, gate) = (Inspector::new(), Gate::new());
    let registry = builder(&inspector).build().expect("valid options");
    for key in ["Room-1", "room-2", "hall-1"] {
        started(&registry, key).await;
    }
    let starting = tokio::spawn({
        let (registry, gate) = (registry.clone(), gate.clone());
        async move { registry.start("room-3", Plan::init(Step::Wait(gate))).await }
    });
    gate.reached().await;
    let shown = only(&inspector);
    let query = |filter: &str, state| Query { filter: filter.to_owned(), state, ..by(Column::Key) };
    assert_eq!(listed(&*shown, &query("rOOm", None)), "Room-1 room-2 room-3", "regardless of case");
    assert_eq!(listed(&*shown, &query("-1", None)), "Room-1 hall-1", "anywhere in the key");
    assert_eq!(listed(&*shown, &query("room", Some(WorkerState::Starting))), "room-3");
    assert_eq!(listed(&*shown, &query("", Some(WorkerState::Running))), "Room-1 hall-1 room-2");
    assert_eq!(listed(&*shown, &query("none has this", None)), "");
    let page = shown.workers(&query("room", None));
    assert_eq!((page.matched, page.examined, page.total, page.is_complete), (3, 4, 4, true));
    gate.open();
    within(starting, "the start").await.expect("no panic").expect("the start succeeds");
}

#[tokio::test(start_paused = true)]
async fn pages_have_limits() {
    let inspector = Inspector::new();
    let registry = builder(&inspector).build().expect("valid options");
    for n in 0..1_200 {
        started(&registry, &format!("{n:04}")).await;
    }
    let shown = only(&inspector);
    let mut all = Vec::new();
    for offset in (0..1_300).step_by(100) {
        let page = shown.workers(&Query { offset, limit: 100, ..by(Column::Key) });
        all.extend(page.workers.into_iter().map(|worker| worker.key));
    }
    assert_eq!(all, (0..1_200).map(|n| format!("{n:04}")).collect::<Vec<_>>());
    let longest = shown.workers(&Query { limit: usize::MAX, ..Query::default() });
    assert_eq!((longest.workers.len(), longest.matched), (Query::MAX_LIMIT, 1_200));
    assert!(shown.workers(&Query { offset: usize::MAX, ..Query::default() }).workers.is_empty());
    assert!(shown.workers(&Query { limit: 0, ..Query::default() }).workers.is_empty());
}

#[tokio::test(start_paused = true)]
async fn reference_finds_the_successor() {
    let inspector = Inspector::new();
    let registry = builder(&inspector).build().expect("valid options");
    let first = started(&registry, "k").await;
    let shown = only(&inspector);
    let reference = shown.workers(&Query::default()).workers[0].worker;
    assert_eq!(reference.id(), first.id());
    assert_eq!(reference.to_string().parse(), Ok(reference), "it survives an address");
    for text in ["", "-", "1", "1-", "-1", "1-g", "x-1", "99999999999999999999999-1"] {
        assert!(text.parse::<gen_registry::inspect::WorkerRef>().is_err(), "{text}");
    }
    assert!(!reference.to_string().contains('k'), "it has no key");

    within(registry.stop("k"), "the stop").await.expect("it stops");
    assert!(shown.worker(&reference).is_none());
    let second = started(&registry, "k").await;
    let found = shown.worker(&reference).expect("the key has a worker");
    assert_eq!((found.worker.id(), &*found.key), (second.id(), "k"));
}

#[tokio::test(start_paused = true)]
async fn an_owned_registry_shows_the_workers_above_it() {
    // A name and a key are shown to the inspector that the registry of the owner is open to.
    let (inspector, other) = (Inspector::new(), Inspector::new());
    let top = |name: &str, inspector: &Inspector| {
        let builder = Registry::<ClosureWorker>::builder().name(name).inspect(inspector, ToString::to_string);
        builder.build().expect("valid options")
    };
    let owners = [top("shown_above", &inspector), top("hidden_above", &other)];
    let children = builder(&inspector).name("below").build().expect("valid options");
    for owner in &owners {
        let worker = within(owner.start("p", ClosureArgs::default()), "a start").await.expect("the start succeeds");
        let owned = children.clone();
        run_in(&worker, move |ctx| Box::pin(async move { ctx.own(&owned) })).await.expect("it runs");
    }
    let find = |name: &str| inspector.registries().into_iter().find(|shown| shown.name() == name).expect("it is shown");
    let (shown, below) = (find("shown_above"), find("below"));
    let parents = below.parents();
    assert_eq!(
        parents.iter().map(|parent| parent.registry_name.as_deref()).collect::<Vec<_>>(),
        [Some("shown_above"), None]
    );
    assert_eq!(parents.iter().map(|parent| parent.key.as_deref()).collect::<Vec<_>>(), [Some("p"), None]);
    assert_eq!(parents[0].registry, shown.id());
    let above = shown.worker(&parents[0].worker).expect("it runs");
    assert_eq!(above.worker.id(), owners[0].lookup("p").expect("it runs").id());

    within(owners[1].stop("p"), "a stop").await.expect("it stops");
    assert_eq!(below.parents().len(), 1, "an owner that has exited is above nothing");
}

#[tokio::test(start_paused = true)]
async fn an_ended_registry_leaves_the_list() {
    let inspector = Inspector::new();
    let registry = builder(&inspector).name("ends").build().expect("valid options");
    started(&registry, "k").await;
    let shown = only(&inspector);
    let _report = within(registry.shutdown(), "the shutdown").await;
    assert!(inspector.registries().iter().all(|other| other.id() == shown.id()), "no other is there");
    // A reader that holds it sees what is left: nothing.
    assert_eq!((shown.name(), shown.stats().exits.shutdown), ("ends", 1));
    let page = shown.workers(&by(Column::Key));
    assert_eq!((page.workers.len(), page.total), (0, 0));
    assert!(shown.events(0).is_empty() && shown.parents().is_empty());
    drop(shown);
    assert!(inspector.registries().is_empty(), "only a reader kept it");
}

#[tokio::test(start_paused = true)]
async fn registries_are_listed_in_order() {
    let inspector = Inspector::new();
    let built: Vec<_> =
        (0..3).map(|_| builder(&inspector).max_workers(5).eviction(Eviction::Reject).build().expect("ok")).collect();
    let ids: Vec<u64> = inspector.registries().iter().map(|registry| registry.id()).collect();
    assert_eq!(ids.len(), 3);
    assert!(ids.is_sorted() && ids.iter().collect::<BTreeSet<_>>().len() == 3, "{ids:?}");
    assert_eq!(inspector.registry(ids[1]).map(|registry| registry.id()), Some(ids[1]));
    let options = inspector.registries()[0].options();
    assert!(options.contains(&("max_workers", "5".to_owned())), "{options:?}");
    assert!(options.contains(&("restart", "Temporary".to_owned())), "{options:?}");
    drop(built);
}

#[tokio::test(start_paused = true)]
async fn ended_registries_leave_the_order_of_the_others() {
    let inspector = Inspector::new();
    let mut built: Vec<_> = (0..300).map(|_| builder(&inspector).build().expect("valid options")).collect();
    let ids: Vec<u64> = inspector.registries().iter().map(|registry| registry.id()).collect();
    // Every third stays. Then as many more are built, so that those that have ended are removed more than once.
    let mut number = 0;
    for registry in built.extract_if(.., |_| {
        number += 1;
        number % 3 != 0
    }) {
        let _report = within(registry.shutdown(), "the shutdown").await;
    }
    built.extend((0..300).map(|_| builder(&inspector).build().expect("valid options")));
    let left: Vec<u64> = inspector.registries().iter().map(|registry| registry.id()).collect();
    assert_eq!(left.len(), 400);
    assert!(left.is_sorted());
    for (place, id) in ids.iter().enumerate() {
        let is_there = inspector.registry(*id).map(|registry| registry.id()) == Some(*id);
        assert_eq!((is_there, left.contains(id)), (place % 3 == 2, place % 3 == 2), "{place}");
    }
    drop(built);
}

#[tokio::test(start_paused = true)]
async fn values_of_a_page_are_those_of_now() {
    let inspector = Inspector::new();
    let registry = builder(&inspector).build().expect("valid options");
    let worker = started(&registry, "k").await;
    let shown = only(&inspector);
    for handled in 0..3 {
        let page = shown.workers(&by(Column::Handled));
        assert_eq!(page.workers[0].info.handled, handled);
        assert_eq!(page.workers[0].info.age, Some(Duration::from_secs(handled)));
        within(worker.call(Ask::Value), "the value").await.expect("it runs");
        advance(Duration::from_secs(1)).await;
    }
}
