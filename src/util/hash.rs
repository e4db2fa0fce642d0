//! [`SipBuilder`]: the keyed hash of registry keys and names, with a fast path for a single string. [`PassHash`]: for maps whose
//! keys are such hashes. [`Bucket`]: the elements of a map that share one.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::iter;
use std::mem;

use siphasher::sip::SipHasher13;

/// SipHash-1-3 with a secret key of its own: an attacker who chooses keys cannot make many of them collide.
#[derive(Clone)]
pub(crate) struct SipBuilder {
    key: SipKey,
}

type SipKey = (u64, u64);

impl SipBuilder {
    /// Each has another secret key.
    pub(crate) fn new() -> Self {
        // `RandomState` is keyed by the operating system. Its hashes of two constants serve as a key: they reveal
        // nothing of its own.
        let random = RandomState::new();
        Self { key: (random.hash_one(0_u8), random.hash_one(1_u8)) }
    }
}

impl BuildHasher for SipBuilder {
    type Hasher = KeyHasher;

    #[inline]
    fn build_hasher(&self) -> KeyHasher {
        KeyHasher { key: self.key, state: HashState::Nothing }
    }
}

/// The hasher of one key.
///
/// Most keys are one string, which writes its bytes and then a terminator. The first bytes are hashed at once, without
/// the buffering of a stream. If anything but the terminator follows, a stream continues from the keyed hash of these
/// bytes, which is as collision-resistant as the bytes themselves to an attacker without the key.
#[derive(Clone)]
pub(crate) struct KeyHasher {
    key: SipKey,
    state: HashState,
}

/// What was written so far.
#[derive(Clone)]
enum HashState {
    Nothing,
    /// Bytes with this hash.
    Bytes(u64),
    /// Bytes with this hash, and the terminator of a string.
    Text(u64),
    Stream(SipHasher13),
}

/// The terminator that `str` writes after its bytes.
const TERMINATOR: u8 = 0xff;

fn sip((first, second): SipKey) -> SipHasher13 {
    SipHasher13::new_with_keys(first, second)
}

/// Not inlined, so that it is compiled once, as a whole, for all types of keys.
#[inline(never)]
fn hash_bytes(key: SipKey, bytes: &[u8]) -> u64 {
    sip(key).hash(bytes)
}

impl KeyHasher {
    /// Switches to the stream: there is more to hash than one string.
    #[inline]
    fn stream(&mut self) -> &mut SipHasher13 {
        if !matches!(self.state, HashState::Stream(_)) {
            let mut stream = sip(self.key);
            match self.state {
                HashState::Bytes(hash) => stream.write_u64(hash),
                HashState::Text(hash) => {
                    stream.write_u64(hash);
                    stream.write_u8(TERMINATOR);
                }
                HashState::Nothing | HashState::Stream(_) => {}
            }
            self.state = HashState::Stream(stream);
        }
        match &mut self.state {
            HashState::Stream(stream) => stream,
            _ => unreachable!("the state is a stream now"),
        }
    }
}

impl Hasher for KeyHasher {
    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        match self.state {
            HashState::Nothing => self.state = HashState::Bytes(hash_bytes(self.key, bytes)),
            _ => self.stream().write(bytes),
        }
    }

    #[inline]
    fn write_u8(&mut self, number: u8) {
        match self.state {
            HashState::Bytes(hash) if number == TERMINATOR => self.state = HashState::Text(hash),
            _ => self.stream().write_u8(number),
        }
    }

    #[inline]
    fn write_u16(&mut self, number: u16) {
        self.stream().write_u16(number);
    }

    #[inline]
    fn write_u32(&mut self, number: u32) {
        self.stream().write_u32(number);
    }

    #[inline]
    fn write_u64(&mut self, number: u64) {
        self.stream().write_u64(number);
    }

    #[inline]
    fn write_usize(&mut self, number: usize) {
        self.stream().write_usize(number);
    }

    #[inline]
    fn finish(&self) -> u64 {
        match &self.state {
            HashState::Text(hash) => *hash,
            // Inverted, so that bytes differ from the string of the same bytes.
            HashState::Bytes(hash) => !hash,
            HashState::Stream(stream) => stream.finish(),
            HashState::Nothing => sip(self.key).finish(),
        }
    }
}

/// Returns the hash that it is given.
#[derive(Clone, Default)]
pub(crate) struct Prehashed(u64);

impl Hasher for Prehashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only keys that write one `u64` are hashed");
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct PassHash;

impl BuildHasher for PassHash {
    type Hasher = Prehashed;

    fn build_hasher(&self) -> Prehashed {
        Prehashed::default()
    }
}

/// The elements of one hash: almost always one.
#[derive(Debug)]
pub(crate) struct Bucket<T> {
    pub(crate) first: Option<T>,
    /// Boxed: two elements share a hash once in 2^64, or by a bad `Hash`.
    #[allow(clippy::box_collection, reason = "a word in every bucket instead of three")]
    pub(crate) others: Option<Box<Vec<T>>>,
}

impl<T> Default for Bucket<T> {
    fn default() -> Self {
        Self { first: None, others: None }
    }
}

impl<T> Bucket<T> {
    pub(crate) fn of(element: T) -> Self {
        Self { first: Some(element), others: None }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.first.iter().chain(self.others.as_deref().map_or(&[][..], Vec::as_slice))
    }

    /// The first element that matches. Not `iter().find()`, which is several times the code to compile.
    pub(crate) fn find(&self, matches: impl Fn(&T) -> bool) -> Option<&T> {
        if let Some(first) = self.first.as_ref().filter(|first| matches(first)) {
            return Some(first);
        }
        self.others.as_deref()?.iter().find(|other| matches(other))
    }

    pub(crate) fn push(&mut self, element: T) {
        match &mut self.first {
            None => self.first = Some(element),
            Some(_) => self.others.get_or_insert_default().push(element),
        }
    }

    /// A copy without the elements that match.
    pub(crate) fn without(&self, matches: impl Fn(&T) -> bool) -> Self
    where
        T: Clone,
    {
        let mut kept = Self::default();
        for element in self.iter() {
            if !matches(element) {
                kept.push(element.clone());
            }
        }
        kept
    }

    /// Removes the element that matches.
    pub(crate) fn remove(&mut self, matches: impl Fn(&T) -> bool) -> Option<T> {
        let others = self.others.as_deref_mut();
        if self.first.as_ref().is_some_and(&matches) {
            let next = others.and_then(Vec::pop);
            return mem::replace(&mut self.first, next);
        }
        let others = others?;
        let place = others.iter().position(matches)?;
        Some(others.swap_remove(place))
    }
}

impl<T> IntoIterator for Bucket<T> {
    type Item = T;
    type IntoIter = iter::Chain<std::option::IntoIter<T>, std::vec::IntoIter<T>>;

    fn into_iter(self) -> Self::IntoIter {
        let others = self.others.map(|others| *others).unwrap_or_default();
        self.first.into_iter().chain(others)
    }
}

impl<T: Clone> Clone for Bucket<T> {
    fn clone(&self) -> Self {
        Self { first: self.first.clone(), others: self.others.clone() }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};
    use std::fmt::Debug;
    use std::hash::Hash;

    use super::*;

    #[test]
    fn each_hasher_has_its_own_key() {
        let hashes: HashSet<u64> = (0..1_000).map(|_| SipBuilder::new().hash_one("+15551234567")).collect();
        assert_eq!(hashes.len(), 1_000);
    }

    #[test]
    fn borrowed_key_hashes_like_owned() {
        let builder = SipBuilder::new();
        assert_eq!(builder.hash_one("+15551234567"), builder.hash_one(String::from("+15551234567")));
        assert_eq!(builder.hash_one([1_u32, 2].as_slice()), builder.hash_one(vec![1_u32, 2]));
        assert_eq!(builder.hash_one(b"+1555".as_slice()), builder.hash_one(b"+1555".to_vec()));
    }

    #[test]
    fn text_hash_matches_siphash_1_3() {
        let builder = SipBuilder::new();
        for len in 0..40 {
            let text = &"+1555123456789 and more, up to forty bytes"[..len];
            assert_eq!(builder.hash_one(text), sip(builder.key).hash(text.as_bytes()), "{text:?}");
        }
    }

    /// Writes its parts without terminators or lengths.
    #[derive(Debug)]
    struct Raw(&'static str, &'static [u8]);

    impl Hash for Raw {
        fn hash<H: Hasher>(&self, state: &mut H) {
            state.write(self.0.as_bytes());
            self.1.iter().for_each(|level| state.write_u8(*level));
        }
    }

    /// The keys have one type, like those of a registry.
    fn assert_all_differ<K: Hash + Debug>(keys: impl IntoIterator<Item = K>) {
        let builder = SipBuilder::new();
        let mut seen = HashMap::new();
        for key in keys {
            if let Some(other) = seen.insert(builder.hash_one(&key), format!("{key:?}")) {
                panic!("{key:?} has the hash of {other}");
            }
        }
    }

    #[test]
    fn different_keys_hash_differently() {
        let texts = ["", "a", "ab", "abcdefg", "abcdefgh", "abcdefgh\0", "a\u{ff}"];
        let numbers = [0, 1, 0xff, 0xffff, u64::MAX];
        let pairs = || texts.iter().flat_map(|first| texts.iter().map(move |second| (*first, *second)));
        assert_all_differ(texts);
        assert_all_differ(pairs());
        assert_all_differ(pairs().map(|(first, second)| (first, second, 7_u8)));
        assert_all_differ(pairs().map(|(first, second)| (7_u16, first, second)));
        assert_all_differ(pairs().map(|(first, second)| vec![first, second, first]));
        assert_all_differ(texts.iter().flat_map(|text| numbers.map(|number| (*text, number))));
        assert_all_differ(texts.iter().flat_map(|text| numbers.map(|number| (number, *text))));
        assert_all_differ(texts.iter().flat_map(|text| (0..=u8::MAX).map(move |number| (*text, number))));
        assert_all_differ(texts.iter().flat_map(|text| (0..=u8::MAX).map(move |number| (*text, number, 0xff_u8))));
        assert_all_differ((0..=u8::MAX).map(|first| [first, 0xff, 0xff]));
        assert_all_differ(0..10_000_u64);
        let levels = [&[][..], &[7], &[0xff], &[0xff, 7], &[7, 0xff], &[0xff, 0xff]];
        assert_all_differ(texts.iter().flat_map(|name| levels.map(|levels| Raw(name, levels))));
        assert_all_differ((0..10_000_u64).map(|number| (number, i128::from(number))));
    }
}
