//! [`RemoteError`]: an error of another node.

use std::error::Error;
use std::fmt;
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
    pub(crate) fn chain_of(error: &(dyn Error + 'static)) -> Vec<String> {
        std::iter::successors(Some(error), |&error| error.source())
            .take(MOST_SOURCES)
            .map(|error| truncated(&error.to_string()).to_owned())
            .collect()
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

fn truncated(text: &str) -> &str {
    let end = (0..=MOST_TEXT.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
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
