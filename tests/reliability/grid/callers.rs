//! The callers of a cell. The test polls them itself, so that they outlive the runtime of the workers.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll};

use test_support::BoxFuture;
use tokio::task::AbortHandle;

/// What a caller got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// `ok`, or the error.
    Answered(String),
    /// The caller was dropped before it got an answer.
    Dropped,
}

struct Caller {
    name: &'static str,
    future: Option<BoxFuture<'static, String>>,
    abort: Option<AbortHandle>,
    answer: Option<Answer>,
}

#[derive(Default)]
pub(crate) struct Callers(Vec<Caller>);

impl Callers {
    /// Adds a caller, and polls it once.
    pub(crate) async fn add(&mut self, name: &'static str, future: impl Future<Output = String> + Send + 'static) {
        self.push(name, Box::pin(future), None);
        poll_fn(|cx| {
            self.poll(cx);
            Poll::Ready(())
        })
        .await;
    }

    /// Adds a caller that is a task of its own, which can be aborted.
    pub(crate) fn spawn(&mut self, name: &'static str, future: impl Future<Output = String> + Send + 'static) {
        let task = tokio::spawn(future);
        let abort = task.abort_handle();
        self.push(name, Box::pin(async move { task.await.unwrap_or_else(|_| "aborted".to_owned()) }), Some(abort));
    }

    fn push(&mut self, name: &'static str, future: BoxFuture<'static, String>, abort: Option<AbortHandle>) {
        self.0.push(Caller { name, future: Some(future), abort, answer: None });
    }

    /// Drops the caller's future, or aborts its task.
    pub(crate) fn cancel(&mut self, name: &str) {
        let caller = self.0.iter_mut().find(|caller| caller.name == name).expect("the cell has this caller");
        match &caller.abort {
            Some(abort) => abort.abort(),
            None => {
                caller.future = None;
                caller.answer.get_or_insert(Answer::Dropped);
            }
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) {
        for caller in &mut self.0 {
            let Some(future) = &mut caller.future else { continue };
            if let Poll::Ready(answer) = future.as_mut().poll(cx) {
                caller.future = None;
                assert_eq!(caller.answer, None, "{} has two answers", caller.name);
                caller.answer = Some(Answer::Answered(answer));
            }
        }
    }

    /// Polls the callers until the other future is ready.
    pub(crate) async fn until<F: Future>(&mut self, other: F) -> F::Output {
        let mut other = pin!(other);
        poll_fn(|cx| {
            self.poll(cx);
            other.as_mut().poll(cx)
        })
        .await
    }

    /// Waits until each caller has its answer.
    pub(crate) async fn all(&mut self) {
        poll_fn(|cx| {
            self.poll(cx);
            if self.waiting().is_empty() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// The callers without an answer.
    pub(crate) fn waiting(&self) -> Vec<&'static str> {
        self.0.iter().filter(|caller| caller.answer.is_none()).map(|caller| caller.name).collect()
    }

    pub(crate) fn answers(&self) -> impl Iterator<Item = (&'static str, &Answer)> {
        self.0.iter().filter_map(|caller| Some((caller.name, caller.answer.as_ref()?)))
    }
}
