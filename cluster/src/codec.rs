//! Codecs: how messages and replies become bytes.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::remote::RemoteError;

/// How values of type `T` become bytes and are read from bytes.
///
/// [`Named`] is right for most messages. Implement this trait for a format of your own.
pub trait Codec<T>: 'static {
    /// Appends the bytes of the value.
    ///
    /// # Errors
    ///
    /// [`CodecError`] for a value that the format cannot express. The message is not sent then.
    fn encode(value: &T, to: &mut Vec<u8>) -> Result<(), CodecError>;

    /// Reads a value. All bytes belong to it.
    ///
    /// # Errors
    ///
    /// [`CodecError`] for bytes that are no value of this type.
    fn decode(from: &[u8]) -> Result<T, CodecError>;
}

/// MessagePack with the names of the fields, by serde. The default choice.
///
/// Two builds of a program understand each other while messages change: a field that the receiver does not know is
/// ignored, and a field that the sender does not know needs `#[serde(default)]` at the receiver. A field whose type
/// changed, or a variant that the receiver does not know, is a [`CodecError`].
#[derive(Debug, Clone, Copy)]
pub enum Named {}

impl<T: Serialize + DeserializeOwned> Codec<T> for Named {
    fn encode(value: &T, to: &mut Vec<u8>) -> Result<(), CodecError> {
        rmp_serde::encode::write_named(to, value).map_err(CodecError::new)
    }

    fn decode(from: &[u8]) -> Result<T, CodecError> {
        let mut rest = from;
        let mut reader = rmp_serde::Deserializer::new(&mut rest);
        let value = T::deserialize(&mut reader).map_err(CodecError::new)?;
        match rest.len() {
            0 => Ok(value),
            more => Err(CodecError::new(format!("{more} bytes after the value"))),
        }
    }
}

/// JSON by serde: larger and slower than [`Named`], and readable by other tools.
#[derive(Debug, Clone, Copy)]
pub enum Json {}

impl<T: Serialize + DeserializeOwned> Codec<T> for Json {
    fn encode(value: &T, to: &mut Vec<u8>) -> Result<(), CodecError> {
        serde_json::to_writer(to, value).map_err(CodecError::new)
    }

    fn decode(from: &[u8]) -> Result<T, CodecError> {
        serde_json::from_slice(from).map_err(CodecError::new)
    }
}

/// Protocol Buffers, for messages that derive or generate `prost::Message`.
#[derive(Debug, Clone, Copy)]
pub enum Prost {}

impl<T: prost::Message + Default> Codec<T> for Prost {
    fn encode(value: &T, to: &mut Vec<u8>) -> Result<(), CodecError> {
        value.encode(to).map_err(CodecError::new)
    }

    fn decode(from: &[u8]) -> Result<T, CodecError> {
        T::decode(from).map_err(CodecError::new)
    }
}

/// What a [`CodecError`] is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// The key. The message has not begun.
    Key,
    /// The message. It has not begun.
    Message,
    /// The reply: the message was handled.
    Reply,
}

/// A key, a message or a reply that does not become bytes, or bytes that are none.
#[derive(Debug, Clone)]
pub struct CodecError {
    pub(crate) part: Part,
    pub(crate) at_owner: bool,
    source: Arc<dyn Error + Send + Sync>,
}

impl CodecError {
    /// For implementations of [`Codec`] and [`ClusterKey`](crate::ClusterKey): from the error of a format, or from text.
    pub fn new(source: impl Into<Box<dyn Error + Send + Sync>>) -> CodecError {
        CodecError { part: Part::Message, at_owner: false, source: Arc::from(source.into()) }
    }

    /// Returns what could not be encoded or decoded.
    pub fn part(&self) -> Part {
        self.part
    }

    /// Returns whether the node that owns the key found the error, and not the node of the caller. Then the
    /// [source](Error::source) is text.
    pub fn at_owner(&self) -> bool {
        self.at_owner
    }

    pub(crate) fn of(self, part: Part) -> CodecError {
        CodecError { part, ..self }
    }

    /// The text of the source and of its sources, as it travels.
    pub(crate) fn chain(&self) -> Vec<String> {
        RemoteError::chain_of(&*self.source)
    }

    /// An error that the owner of the key found.
    pub(crate) fn remote(part: Part, chain: &[String]) -> CodecError {
        CodecError { part, at_owner: true, source: Arc::new(RemoteError::from_chain(chain)) }
    }
}

impl fmt::Display for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = match self.part {
            Part::Key => "key",
            Part::Message => "message",
            Part::Reply => "reply",
        };
        let place = if self.at_owner { " on the node that owns the key" } else { "" };
        write!(f, "the {part} cannot be encoded or decoded{place}")
    }
}

impl Error for CodecError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.source)
    }
}

#[cfg(test)]
mod tests;
