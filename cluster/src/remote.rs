//! [`RemoteError`]: an error of another node.

use std::error::Error;
use std::fmt::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// Sources beyond this many are dropped, and so is text beyond this many bytes of each.
const MOST_SOURCES: usize = 16;
const MOST_TEXT: usize = 4096;

/// An error of the node that owns the key: the text of the error and of its sources.
///
/// If the owner is this node it has the error itself, for [`init_error`](Self::init_error).
#[derive(Clone)]
pub struct RemoteError(Kind);

#[derive(Clone)]
enum Kind {
    Here(Arc<dyn Error + Send + Sync>),
    Text { text: Arc<str>, source: Option<Arc<RemoteError>> },
}

impl RemoteError {
    /// An error of this node.
    pub(crate) fn here(error: impl Into<Box<dyn Error + Send + Sync>>) -> RemoteError {
        RemoteError(Kind::Here(Arc::from(error.into())))
    }

    /// The error that has the text of `chain`: an error, its source, the source of that.
    pub(crate) fn from_chain(chain: &[String]) -> RemoteError {
        let mut source = None;
        for text in chain.iter().take(MOST_SOURCES).rev() {
            source = Some(Arc::new(RemoteError(Kind::Text { text: truncated(text).into(), source })));
        }
        match source {
            Some(error) => (*error).clone(),
            None => RemoteError(Kind::Text { text: "an error without text".into(), source: None }),
        }
    }

    /// The text of the error and of its sources, as it travels.
    pub(crate) fn chain(&self) -> Vec<String> {
        match &self.0 {
            Kind::Here(error) => RemoteError::chain_of(&**error),
            Kind::Text { .. } => RemoteError::chain_of(self),
        }
    }

    /// The text of an error and of its sources, as it travels.
    ///
    /// Both are made by code of the user: a panic is contained, and a text without end is cut off while it is written.
    pub(crate) fn chain_of(error: &(dyn Error + 'static)) -> Vec<String> {
        let all = std::iter::successors(Some(error), |&error| contained(|| error.source()).flatten());
        all.take(MOST_SOURCES).map(text_of).collect()
    }
}

impl RemoteError {
    /// Returns the error of type `E` among the error and its sources, if the owner of the key is this node.
    pub fn init_error<E: Error + 'static>(&self) -> Option<&E> {
        let Kind::Here(error) = &self.0 else { return None };
        let first: &(dyn Error + 'static) = &**error;
        std::iter::successors(Some(first), |&error| error.source()).find_map(|error| error.downcast_ref())
    }
}

/// `None`: the code of the user has panicked.
fn contained<T>(code: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(code)).ok()
}

fn text_of(error: &(dyn Error + 'static)) -> String {
    let mut text = Bounded(String::new());
    match contained(|| write!(text, "{error}")) {
        // An error: the text is cut off.
        Some(_) => text.0,
        None => "an error whose text has panicked".to_owned(),
    }
}

/// A text of at most [`MOST_TEXT`] bytes. What is longer is an error.
struct Bounded(String);

impl Write for Bounded {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        let room = MOST_TEXT - self.0.len();
        self.0.push_str(beginning(more, room));
        if more.len() > room { Err(fmt::Error) } else { Ok(()) }
    }
}

fn truncated(text: &str) -> &str {
    beginning(text, MOST_TEXT)
}

/// At most the first `most` bytes of a text.
fn beginning(text: &str, most: usize) -> &str {
    let end = (0..=most.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(0)]
}

impl fmt::Display for RemoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Here(error) => error.fmt(f),
            Kind::Text { text, .. } => f.write_str(text),
        }
    }
}

impl fmt::Debug for RemoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Here(error) => error.fmt(f),
            Kind::Text { .. } => f.debug_tuple("RemoteError").field(&self.chain()).finish(),
        }
    }
}

impl Error for RemoteError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.0 {
            Kind::Here(error) => error.source(),
            Kind::Text { source, .. } => source.as_deref().map(|error| error as _),
        }
    }
}
