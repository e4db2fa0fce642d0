//! Where the tasks of a scenario run, and the clock.

pub(crate) use flavor::{check, pass, spawn, yield_now};

/// How many schedules a scenario gets.
fn schedules(default: usize) -> usize {
    let set = std::env::var("GEN_REGISTRY_SCHEDULES").ok();
    set.map_or(default, |number| number.parse().expect("a number of schedules"))
}

#[cfg(gen_registry_shuttle)]
mod flavor {
    use std::cell::Cell;
    use std::future::Future;
    use std::time::Duration;

    use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
    use shuttle::{Config, Runner};
    use tokio::runtime::{Builder, Runtime};

    thread_local! {
        /// Has the clock and its timers. It runs no task. Shuttle's tasks share one thread.
        static CLOCK: Cell<Option<&'static Runtime>> = const { Cell::new(None) };
    }

    pub(crate) fn check<F: Future<Output = ()> + Send + 'static>(scenario: fn() -> F) {
        let half = super::schedules(2_000) / 2;
        run(RandomScheduler::new(half), scenario);
        run(PctScheduler::new(3, half), scenario);
    }

    fn run<F: Future<Output = ()> + Send + 'static>(scheduler: impl Scheduler + 'static, scenario: fn() -> F) {
        let mut config = Config::new();
        // Of each task.
        config.stack_size = 512 * 1_024;
        // One clock for all schedules, and leaked: the last tasks of one may outlive its scenario, and their wakers shuttle.
        let clock = Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
        let clock: &'static Runtime = Box::leak(Box::new(clock));
        CLOCK.set(Some(clock));
        let _entered = clock.enter();
        Runner::new(scheduler, config).run(move || shuttle::future::block_on(scenario()));
    }

    /// Time passes: timers fire, and their tasks may run.
    pub(crate) async fn pass(time: Duration) {
        advance(time);
        yield_now().await;
    }

    fn advance(time: Duration) {
        let clock = CLOCK.get().expect("a scenario runs");
        clock.block_on(tokio::time::advance(time));
    }

    pub(crate) async fn yield_now() {
        shuttle::future::yield_now().await;
    }

    /// Spawns a task, and returns the future of its result.
    pub(crate) fn spawn<T: Send + 'static>(task: impl Future<Output = T> + Send + 'static) -> impl Future<Output = T> {
        let task = shuttle::future::spawn(task);
        async move { task.await.expect("the task is not aborted") }
    }
}

#[cfg(not(gen_registry_shuttle))]
mod flavor {
    use std::future::Future;
    use std::time::Duration;

    use tokio::runtime::Builder;
    use tokio::time::timeout;

    pub(crate) fn check<F: Future<Output = ()> + Send + 'static>(scenario: fn() -> F) {
        let runtime = Builder::new_multi_thread().worker_threads(4).enable_time().build().expect("a runtime");
        for _ in 0..super::schedules(50) {
            let ended = runtime.block_on(async { timeout(Duration::from_secs(60), runtime.spawn(scenario())).await });
            ended.expect("the scenario does not end").expect("the scenario fails");
        }
    }

    pub(crate) async fn pass(time: Duration) {
        tokio::time::sleep(time).await;
    }

    pub(crate) async fn yield_now() {
        tokio::task::yield_now().await;
    }

    pub(crate) fn spawn<T: Send + 'static>(task: impl Future<Output = T> + Send + 'static) -> impl Future<Output = T> {
        let task = tokio::spawn(task);
        async move { task.await.expect("the task fails") }
    }
}
