//! A job runner with retries: one worker per job, each attempt is a run of the worker.
//!
//! ```sh
//! cargo run -p jobs              # plays the session below
//! cargo run -p jobs -- scripts   # runs each file of the directory `scripts` with `sh`; Ctrl-C cancels them
//! ```
//!
//! The session has a script that succeeds, one that succeeds at the third attempt, one that always fails, and one that
//! does not end:
//!
//! ```text
//! report: done, attempts: 1
//! upload: attempt 1 failed: exit status: 1
//! upload: attempt 2 failed: exit status: 1
//! upload: done, attempts: 3
//! import: attempt 1 failed: exit status: 7
//! import: attempt 2 failed: exit status: 7
//! import: attempt 3 failed: exit status: 7
//! import: attempt 4 failed: exit status: 7
//! import: gave up, attempts: 4
//! import: refused: it gave up a short time ago
//! absent: refused: cannot read the job: No such file or directory (os error 2)
//! export: running, attempt 1
//! export: refused: it runs already
//! export: cancelled (stopped)
//! ```
//!
//! | what | how |
//! |---|---|
//! | a job runs once at a time | its id is the key of the worker |
//! | an attempt that fails is repeated | [`Restart::Transient`] |
//! | the delay grows | [`Builder::restart_backoff`](gen_registry::Builder::restart_backoff) |
//! | the number of attempts is limited | [`Builder::restart_intensity`](gen_registry::Builder::restart_intensity) |
//! | a job that gives up is reported | [`Event::GaveUp`], through [`Registry::subscribe`] |
//! | the status of a job | the handle's [`state`](gen_registry::WorkerHandle::state) and [`incarnation`](gen_registry::WorkerHandle::incarnation), without a message |
//! | a job is cancelled | [`Registry::stop`]: `mailbox.recv()` returns `None`, and `run` drops the attempt |
//! | the store of jobs is not overloaded | [`Builder::max_concurrent_starts`](gen_registry::Builder::max_concurrent_starts) limits concurrent `init`s, those of retries included |
//! | jobs are refused when there are too many | [`Builder::max_workers`](gen_registry::Builder::max_workers) |
//!
//! An intensity is a number of restarts in a period, so the period must be longer than all attempts together. That is
//! why an attempt has a time limit. Until the period has passed, a job that gave up is not accepted again.
//!
//! Jobs are only in memory here: a job that must survive the process belongs in a database or a queue first.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::error::Error;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use std::{fs, io};

use gen_registry::{
    BuildError, Context, Event, Events, ExitReason, Lagged, Mailbox, Registry, Restart, StartError, Worker, WorkerState,
};
use tokio::process::Command;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

type BoxError = Box<dyn Error + Send + Sync>;

const RETRIES: u32 = 3;
const FIRST_DELAY: Duration = Duration::from_secs(1);
const LONGEST_DELAY: Duration = Duration::from_secs(60);
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(600);
const PERIOD: Duration = Duration::from_secs(3600);
// Otherwise a slow job would never spend its retries.
const _: () = assert!(PERIOD.as_secs() > RETRIES as u64 * (ATTEMPT_TIMEOUT.as_secs() + LONGEST_DELAY.as_secs()));
const MAX_JOBS: usize = 1_000;
/// How many jobs are loaded concurrently.
const MAX_LOADS: usize = 4;
/// How many outcomes are kept.
const HISTORY: usize = 1_000;

/// Where jobs come from, and how they are done. [`Scripts`] in the program, a fake in the tests.
trait Backend: Clone + Send + Sync + 'static {
    fn load(&self, id: &str) -> impl Future<Output = Result<String, JobError>> + Send;
    /// One attempt, counted from 1. It is dropped if the job is cancelled.
    fn execute(&self, job: &str, attempt: u64) -> impl Future<Output = Result<(), JobError>> + Send;
}

#[derive(Debug, thiserror::Error)]
enum JobError {
    #[error("cannot read the job: {0}")]
    Load(io::Error),
    #[error("cannot start the job: {0}")]
    Start(io::Error),
    #[error("{0}")]
    Exit(ExitStatus),
    #[error("no result after {ATTEMPT_TIMEOUT:?}")]
    TimedOut,
}

// --- core
/// One attempt of a job.
struct Job<B> {
    backend: B,
    job: String,
}

impl<B: Backend> Worker for Job<B> {
    type Key = String;
    type Args = B;
    type Message = Infallible;
    type Error = JobError;

    async fn init(backend: B, ctx: &mut Context<Self>) -> Result<Self, JobError> {
        let job = backend.load(ctx.key()).await?;
        Ok(Job { backend, job })
    }

    async fn run(&mut self, mailbox: &mut Mailbox<Infallible>, ctx: &mut Context<Self>) -> Result<(), JobError> {
        let attempt = self.backend.execute(&self.job, ctx.incarnation());
        tokio::select! {
            result = timeout(ATTEMPT_TIMEOUT, attempt) => result.unwrap_or(Err(JobError::TimedOut)),
            None = mailbox.recv() => Ok(()), // cancelled
        }
    }

    async fn handle(&mut self, message: Infallible, _: &mut Context<Self>) -> Result<(), JobError> {
        match message {} // a job has no messages
    }
}

fn registry<B: Backend>(first_delay: Duration) -> Result<Registry<Job<B>>, BuildError> {
    Registry::<Job<B>>::builder()
        .restart(Restart::Transient)
        .restart_backoff(first_delay, LONGEST_DELAY)
        .restart_intensity(RETRIES as usize, PERIOD)
        .max_concurrent_starts(MAX_LOADS)
        .max_workers(MAX_JOBS)
        .build()
}
// --- end of core

#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    Done { attempts: u64 },
    GaveUp { attempts: u64 },
    Cancelled,
}

#[derive(Debug, PartialEq, Eq)]
enum Status {
    Running {
        attempt: u64,
    },
    /// The last attempt has failed, and the next one waits for its delay.
    Waiting {
        attempts: u64,
    },
    Finished(Outcome),
    /// Never submitted, or finished long ago.
    Unknown,
}

/// The last outcomes, the latest at the end.
type History = VecDeque<(String, Outcome)>;

fn latest(history: &History, id: &str) -> Option<Outcome> {
    history.iter().rev().find(|(of, _)| of == id).map(|(_, outcome)| outcome.clone())
}

struct Runner<B: Backend> {
    jobs: Registry<Job<B>>,
    backend: B,
    history: watch::Receiver<History>,
}

impl<B: Backend> Runner<B> {
    /// Builds the registry. Each failed attempt and each outcome is sent to `lines`.
    fn new(backend: B, first_delay: Duration, lines: mpsc::UnboundedSender<String>) -> Result<Self, BuildError> {
        let jobs = registry(first_delay)?;
        let (outcomes, history) = watch::channel(History::new());
        tokio::spawn(record(jobs.subscribe(), outcomes, lines));
        Ok(Self { jobs, backend, history })
    }

    /// Starts a job, or says why not.
    async fn submit(&self, id: &str) -> Result<(), String> {
        match self.jobs.start(id, self.backend.clone()).await {
            Ok(_) => Ok(()),
            Err(StartError::AlreadyStarted { .. }) => Err("it runs already".into()),
            Err(StartError::RestartLimit { .. }) => Err("it gave up a short time ago".into()),
            Err(StartError::AtCapacity) => Err("there are too many jobs".into()),
            Err(StartError::Init(error)) => Err(error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn status(&self, id: &str) -> Status {
        match self.jobs.lookup(id) {
            Some(job) if job.state() == WorkerState::Restarting => Status::Waiting { attempts: job.incarnation() },
            Some(job) => Status::Running { attempt: job.incarnation() },
            None => latest(&self.history.borrow(), id).map_or(Status::Unknown, Status::Finished),
        }
    }

    /// Cancels a job, also while it waits for its next attempt.
    async fn cancel(&self, id: &str) -> Result<ExitReason, gen_registry::StopError> {
        self.jobs.stop(id).await
    }

    /// Waits for the outcome of a job that was submitted once.
    async fn outcome(&self, id: &str) -> Option<Outcome> {
        let mut history = self.history.clone();
        let history = history.wait_for(|history| latest(history, id).is_some()).await.ok()?;
        latest(&history, id)
    }
}

/// Records outcomes until the registry has shut down.
async fn record<B: Backend>(
    mut events: Events<Job<B>>,
    outcomes: watch::Sender<History>,
    lines: mpsc::UnboundedSender<String>,
) {
    while let Some(event) = events.recv().await {
        let (job, outcome, line) = match event {
            Ok(Event::Exited { worker, incarnation, reason }) if reason.is_crash() => {
                // It failed or panicked. `Restarted`, `GaveUp` or `NotRestarted` follows.
                report(&lines, format!("{}: attempt {incarnation} {reason}", worker.key()));
                continue;
            }
            Ok(Event::Exited { worker, incarnation: attempts, reason: ExitReason::Normal }) => {
                (worker, Outcome::Done { attempts }, format!("done, attempts: {attempts}"))
            }
            Ok(Event::GaveUp { worker, incarnation: attempts, .. }) => {
                (worker, Outcome::GaveUp { attempts }, format!("gave up, attempts: {attempts}"))
            }
            Ok(Event::Exited { worker, reason, .. } | Event::NotRestarted { worker, reason, .. }) => {
                (worker, Outcome::Cancelled, format!("cancelled ({reason})"))
            }
            Ok(_) => continue,
            Err(Lagged(lost)) => {
                report(&lines, format!("{lost} events are lost, and the outcomes in them"));
                continue;
            }
        };
        report(&lines, format!("{}: {line}", job.key()));
        outcomes.send_modify(|history| {
            history.push_back((job.key().clone(), outcome));
            if history.len() > HISTORY {
                history.pop_front();
            }
        });
    }
}

fn report(lines: &mpsc::UnboundedSender<String>, line: String) {
    // It fails if nothing reads the lines any more.
    let _ = lines.send(line);
}

/// The files of a directory, as shell scripts. They get the number of the attempt as `$ATTEMPT`.
#[derive(Debug, Clone)]
struct Scripts(PathBuf);

impl Backend for Scripts {
    async fn load(&self, id: &str) -> Result<String, JobError> {
        tokio::fs::read_to_string(self.0.join(id)).await.map_err(JobError::Load)
    }

    async fn execute(&self, script: &str, attempt: u64) -> Result<(), JobError> {
        let mut command = Command::new("sh");
        command.arg("-c").arg(script).env("ATTEMPT", attempt.to_string()).stdin(Stdio::null()).kill_on_drop(true);
        let status = command.status().await.map_err(JobError::Start)?;
        if status.success() { Ok(()) } else { Err(JobError::Exit(status)) }
    }
}

/// Runs every script of a directory. Returns whether all of them are done.
async fn run_all(directory: &Path) -> Result<bool, BoxError> {
    let (lines, mut printed) = mpsc::unbounded_channel();
    let runner = Runner::new(Scripts(directory.into()), FIRST_DELAY, lines.clone())?;
    let print = tokio::spawn(async move {
        while let Some(line) = printed.recv().await {
            println!("{line}");
        }
    });
    let (mut submitted, mut is_done) = (Vec::new(), true);
    for file in fs::read_dir(directory)? {
        let id = file?.file_name().into_string().map_err(|name| format!("{} is not UTF-8", name.display()))?;
        match runner.submit(&id).await {
            Ok(()) => submitted.push(id),
            Err(why) => {
                report(&lines, format!("{id}: refused: {why}"));
                is_done = false;
            }
        }
    }
    let all = async {
        for id in &submitted {
            is_done &= matches!(runner.outcome(id).await, Some(Outcome::Done { .. }));
        }
        Ok(())
    };
    let ended = tokio::select! {
        ended = all => ended,
        signal = tokio::signal::ctrl_c() => Err(signal.map_or_else(BoxError::from, |()| "interrupted".into())),
    };
    let _ = runner.jobs.shutdown().await; // cancels what still runs, and ends `record`
    drop(lines);
    print.await?;
    ended?;
    Ok(is_done)
}

/// Plays the session of the documentation, and returns what it prints.
async fn session() -> Result<Vec<String>, BoxError> {
    let directory = tempfile::tempdir()?;
    for (id, script) in [
        ("report", "exit 0"),
        ("upload", r#"test "$ATTEMPT" -ge 3"#),
        ("import", "exit 7"),
        ("export", "exec sleep 1000"),
    ] {
        fs::write(directory.path().join(id), script)?;
    }
    let (lines, mut printed) = mpsc::unbounded_channel();
    let runner = Runner::new(Scripts(directory.path().into()), Duration::from_millis(50), lines.clone())?;
    for id in ["report", "upload", "import"] {
        runner.submit(id).await?;
        runner.outcome(id).await.ok_or("the runner has ended")?;
    }
    for id in ["import", "absent"] {
        let why = runner.submit(id).await.err().ok_or("the job is accepted")?;
        report(&lines, format!("{id}: refused: {why}"));
    }
    runner.submit("export").await?;
    if let Status::Running { attempt } = runner.status("export") {
        report(&lines, format!("export: running, attempt {attempt}"));
    }
    report(&lines, format!("export: refused: {}", runner.submit("export").await.err().ok_or("it runs twice")?));
    runner.cancel("export").await?;
    let _ = runner.jobs.shutdown().await; // ends `record`, and with it the lines
    drop(lines);
    let mut all = Vec::new();
    while let Some(line) = printed.recv().await {
        all.push(line);
    }
    Ok(all)
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    match std::env::args().nth(1) {
        Some(directory) if !run_all(Path::new(&directory)).await? => Err("not all jobs are done".into()),
        Some(_) => Ok(()),
        None => {
            session().await?.iter().for_each(|line| println!("{line}"));
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use test_support::within;
    use tokio::task::JoinSet;
    use tokio::time::{Instant, sleep};

    use super::*;

    /// Loading takes a second. What an attempt does depends on the job's id. Each attempt is reported with its time.
    #[derive(Clone)]
    struct Fake {
        loading: Arc<AtomicUsize>,
        most_loading: Arc<AtomicUsize>,
        attempts: mpsc::UnboundedSender<Instant>,
    }

    impl Backend for Fake {
        async fn load(&self, id: &str) -> Result<String, JobError> {
            let loading = self.loading.fetch_add(1, Ordering::Relaxed) + 1;
            self.most_loading.fetch_max(loading, Ordering::Relaxed);
            sleep(Duration::from_secs(1)).await;
            self.loading.fetch_sub(1, Ordering::Relaxed);
            Ok(id.into())
        }

        async fn execute(&self, id: &str, _: u64) -> Result<(), JobError> {
            self.attempts.send(Instant::now()).expect("the test receives");
            match id {
                "fails" => Err(JobError::Exit(ExitStatus::default())),
                "hangs" => pending().await,
                _ => Ok(()),
            }
        }
    }

    struct Rig {
        runner: Runner<Fake>,
        backend: Fake,
        attempts: mpsc::UnboundedReceiver<Instant>,
        lines: mpsc::UnboundedReceiver<String>,
    }

    fn rig() -> Rig {
        let (sender, attempts) = mpsc::unbounded_channel();
        let backend = Fake { loading: Arc::default(), most_loading: Arc::default(), attempts: sender };
        let (sender, lines) = mpsc::unbounded_channel();
        let runner = Runner::new(backend.clone(), FIRST_DELAY, sender).expect("the options are valid");
        Rig { runner, backend, attempts, lines }
    }

    #[tokio::test]
    async fn session_prints_the_documented_lines() {
        let printed = within(session(), "the session").await.expect("the session has no errors");
        let (_, block) = include_str!("main.rs").split_once("//! ```text\n").expect("there is a session");
        let documented = block.lines().take_while(|line| *line != "//! ```").map(|line| &line[4..]);
        assert_eq!(printed, documented.collect::<Vec<_>>());
    }

    #[tokio::test(start_paused = true)]
    async fn delays_grow_until_the_job_gives_up() {
        let mut rig = rig();
        within(rig.runner.submit("fails"), "the start").await.expect("the job is accepted");
        let outcome = within(rig.runner.outcome("fails"), "the outcome").await;
        assert_eq!(outcome, Some(Outcome::GaveUp { attempts: 4 }));
        assert_eq!(rig.runner.status("fails"), Status::Finished(Outcome::GaveUp { attempts: 4 }));
        let mut last = rig.attempts.try_recv().expect("the first attempt");
        for full in [1, 2, 4] {
            let next = rig.attempts.try_recv().expect("one more attempt");
            // A delay is at least half of the full one. The next attempt then loads for a second.
            let delay = (next - last - Duration::from_secs(1)).as_millis();
            assert!((500 * full..=1000 * full + 2).contains(&delay), "{delay} ms of {full} s");
            last = next;
        }
        assert!(rig.attempts.try_recv().is_err(), "there are four attempts");
        assert_eq!(rig.runner.submit("fails").await, Err("it gave up a short time ago".into()));
    }

    #[tokio::test(start_paused = true)]
    async fn four_jobs_load_at_once() {
        let rig = rig();
        let began = Instant::now();
        let mut starts = JoinSet::new();
        for id in 0..10 {
            let (jobs, backend) = (rig.runner.jobs.clone(), rig.backend.clone());
            starts.spawn(async move { jobs.start(&id.to_string(), backend).await.is_ok() });
        }
        assert!(within(starts.join_all(), "the starts").await.iter().all(|is_ok| *is_ok));
        assert_eq!(rig.backend.most_loading.load(Ordering::Relaxed), MAX_LOADS);
        assert_eq!(began.elapsed().as_secs(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_job_can_be_cancelled() {
        let mut rig = rig();
        within(rig.runner.submit("fails"), "the start").await.expect("the job is accepted");
        let line = within(rig.lines.recv(), "a failed attempt").await;
        assert!(line.is_some_and(|line| line.starts_with("fails: attempt 1 failed")));
        assert_eq!(rig.runner.status("fails"), Status::Waiting { attempts: 1 });
        within(rig.runner.cancel("fails"), "the stop").await.expect("the job waits");
        assert_eq!(within(rig.runner.outcome("fails"), "the outcome").await, Some(Outcome::Cancelled));
    }

    #[tokio::test(start_paused = true)]
    async fn attempt_without_result_times_out() {
        let mut rig = rig();
        assert_eq!(rig.runner.status("hangs"), Status::Unknown);
        within(rig.runner.submit("hangs"), "the start").await.expect("the job is accepted");
        let began = within(rig.attempts.recv(), "the first attempt").await.expect("an attempt");
        assert_eq!(rig.runner.status("hangs"), Status::Running { attempt: 1 });
        // `within` would expire on the paused clock.
        let again = timeout(PERIOD, rig.attempts.recv()).await.expect("a second attempt").expect("an attempt");
        assert!((600..=602).contains(&(again - began).as_secs()), "{:?}", again - began);
    }
}
