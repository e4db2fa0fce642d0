//! Actions on workers: refused unless the program allows them.

use std::time::Duration;

use gen_registry::inspect::{ActError, Action, Inspect, Inspector, Query, WorkerRef};
use gen_registry::{ExitReason, Registry, Restart};
use test_support::{ClosureArgs, ClosureWorker, run_in, until_idle, within};

use crate::{builder, only, started};

fn reference(shown: &dyn Inspect) -> WorkerRef {
    shown.workers(&Query::default()).workers[0].worker
}

async fn act(shown: &dyn Inspect, action: Action) -> Result<ExitReason, ActError> {
    let worker = reference(shown);
    within(shown.act(&worker, action), "the action").await
}

#[tokio::test(start_paused = true)]
async fn actions_are_refused_unless_allowed() {
    let inspector = Inspector::new();
    let registry = builder(&inspector).build().expect("valid options");
    let worker = started(&registry, "k").await;
    let shown = only(&inspector);
    assert!(!shown.allows_actions());
    for action in Action::ALL {
        assert_eq!(act(&*shown, action).await, Err(ActError::NotAllowed), "{action}");
    }
    until_idle().await;
    assert_eq!(registry.lookup("k"), Some(worker), "nothing happened");
    // For registries that are there already, too.
    let _allowing = inspector.clone().allow_actions();
    assert!(shown.allows_actions());
    assert_eq!(act(&*shown, Action::Stop).await, Ok(ExitReason::Stopped));
}

#[tokio::test(start_paused = true)]
async fn each_action_has_its_effect() {
    let inspector = Inspector::new().allow_actions();
    let registry = builder(&inspector)
        .restart(Restart::Transient)
        .restart_intensity(9, Duration::from_secs(5))
        .build()
        .expect("valid options");
    let worker = started(&registry, "k").await;
    let shown = only(&inspector);
    assert_eq!(act(&*shown, Action::Crash).await, Ok(ExitReason::Crashed));
    until_idle().await;
    assert_eq!(worker.incarnation(), 2);
    assert_eq!(act(&*shown, Action::Restart).await, Ok(ExitReason::Crashed));
    until_idle().await;
    assert_eq!((worker.incarnation(), registry.lookup("k")), (3, Some(worker.clone())));
    assert_eq!(act(&*shown, Action::Kill).await, Ok(ExitReason::Killed));
    assert!(registry.lookup("k").is_none());
}

#[tokio::test(start_paused = true)]
async fn restart_needs_a_policy() {
    let inspector = Inspector::new().allow_actions();
    let registry = builder(&inspector).build().expect("valid options");
    started(&registry, "k").await;
    let shown = only(&inspector);
    assert_eq!(act(&*shown, Action::Restart).await, Err(ActError::NoRestart));
    assert!(registry.lookup("k").is_some());
    assert_eq!(act(&*shown, Action::Crash).await, Ok(ExitReason::Crashed), "a crash is not refused");
}

#[tokio::test(start_paused = true)]
async fn action_means_the_very_worker() {
    let inspector = Inspector::new().allow_actions();
    let registry = builder(&inspector).build().expect("valid options");
    started(&registry, "k").await;
    let shown = only(&inspector);
    let old = reference(&*shown);
    within(registry.stop("k"), "the stop").await.expect("it stops");
    let next = started(&registry, "k").await;
    for action in [Action::Stop, Action::Kill, Action::Crash] {
        assert_eq!(within(shown.act(&old, action), "the action").await, Err(ActError::NotFound), "{action}");
    }
    assert_eq!(registry.lookup("k"), Some(next));
}

#[tokio::test(start_paused = true)]
async fn worker_cannot_act_on_itself() {
    let inspector = Inspector::new().allow_actions();
    let registry =
        Registry::<ClosureWorker>::builder().inspect(&inspector, String::clone).build().expect("valid options");
    let worker = within(registry.start("k", ClosureArgs::default()), "a start").await.expect("the start succeeds");
    let shown = only(&inspector);
    let ended = run_in(&worker, move |_| Box::pin(async move { act(&*shown, Action::Stop).await })).await;
    assert_eq!(ended.expect("it runs"), Err(ActError::WouldDeadlock));
}

#[test]
fn action_texts_are_read_back() {
    for action in Action::ALL {
        assert_eq!(action.to_string().parse(), Ok(action));
    }
    assert!("Stop".parse::<Action>().is_err() && "".parse::<Action>().is_err());
    for column in gen_registry::inspect::Column::ALL {
        assert_eq!(column.to_string().parse(), Ok(column));
    }
}
