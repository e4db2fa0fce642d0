//! [`ToKey`]: borrowed forms of a key.

use std::borrow::{Borrow, Cow};
use std::ffi::{OsStr, OsString};
use std::hash::Hash;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use equivalent::Equivalent;

/// A value that a key can be looked up by and made from: the key itself, or a borrowed form of it, such as `str` for
/// `String`.
///
/// Its `Hash` must agree with the key's, as [`Borrow`] requires. Implement this trait, and [`Equivalent`], for the
/// borrowed form of your own key type.
///
/// # Examples
///
/// ```
/// use equivalent::Equivalent;
/// use gen_registry::ToKey;
///
/// /// Tenant and room.
/// #[derive(Clone, PartialEq, Eq, Hash)]
/// struct Room(String, u32);
///
/// #[derive(Hash)]
/// struct RoomRef<'a>(&'a str, u32);
///
/// impl Equivalent<Room> for RoomRef<'_> {
///     fn equivalent(&self, room: &Room) -> bool {
///         self.0 == room.0 && self.1 == room.1
///     }
/// }
///
/// impl ToKey<Room> for RoomRef<'_> {
///     fn to_key(&self) -> Room {
///         Room(self.0.to_owned(), self.1)
///     }
/// }
/// assert!(RoomRef("acme", 7).to_key() == Room("acme".into(), 7));
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a key of type `{K}`, nor a borrowed form of one",
    label = "a `{K}` cannot be made from a `{Self}`",
    note = "pass a reference to a `{K}`, or to its borrowed form, such as a `&str` for a `String`",
    note = "an item of `[\"a\", \"b\"].iter()` is a `&&str`: pass `*item`",
    note = "for keys of type `&'static str` pass `&\"a\"`: a `&str` of another lifetime cannot be kept as a key",
    note = "for your own borrowed form implement `ToKey` and `Equivalent`"
)]
pub trait ToKey<K>: Hash + Equivalent<K> {
    /// Makes the key of a worker that is about to start.
    fn to_key(&self) -> K;
}

impl<K: Clone + Eq + Hash> ToKey<K> for K {
    fn to_key(&self) -> K {
        self.clone()
    }
}

macro_rules! borrowed_form {
    ($($borrowed:ty => $key:ty;)+) => {
        $(impl ToKey<$key> for $borrowed {
            fn to_key(&self) -> $key {
                self.into()
            }
        })+
    };
}

borrowed_form! {
    str => String;
    str => Box<str>;
    str => Arc<str>;
    Path => PathBuf;
    Path => Box<Path>;
    Path => Arc<Path>;
    OsStr => OsString;
    OsStr => Box<OsStr>;
    OsStr => Arc<OsStr>;
}

impl<B: ?Sized + ToOwned + Eq + Hash> ToKey<Cow<'static, B>> for B
where
    Cow<'static, B>: Borrow<B>,
{
    fn to_key(&self) -> Cow<'static, B> {
        Cow::Owned(self.to_owned())
    }
}

impl<T: Clone + Eq + Hash> ToKey<Vec<T>> for [T] {
    fn to_key(&self) -> Vec<T> {
        self.to_vec()
    }
}

impl<T: Clone + Eq + Hash> ToKey<Box<[T]>> for [T] {
    fn to_key(&self) -> Box<[T]> {
        self.into()
    }
}

impl<T: Clone + Eq + Hash> ToKey<Arc<[T]>> for [T] {
    fn to_key(&self) -> Arc<[T]> {
        self.into()
    }
}
