//! [`corpus`]: the kept inputs of a target. [`Generator`]: further inputs, made from them.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use test_support::Random;

use crate::Target;

/// Longer inputs find nothing that shorter ones do not.
const MAX_LENGTH: usize = 4096;
/// How many inputs of new kinds are kept in memory.
const MAX_KEPT: usize = 2_000;

/// The kept inputs of a target with their names, in the order of the names.
///
/// # Panics
///
/// Panics if there is none: then the directory has moved.
pub fn corpus(target: Target) -> Vec<(String, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
    let entries = fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut inputs: Vec<_> = entries
        .map(|entry| {
            let path = entry.expect("the directory can be read").path();
            let name = path.file_name().expect("an entry has a name").to_string_lossy().into_owned();
            (name, fs::read(path).expect("the corpus can be read"))
        })
        .collect();
    assert!(!inputs.is_empty(), "{} has no input", directory.display());
    inputs.sort();
    inputs
}

/// Makes inputs by changing kept ones. The same seed makes the same inputs.
#[derive(Debug)]
pub struct Generator {
    random: Random,
    words: &'static [&'static str],
    kept: Vec<Vec<u8>>,
    kinds: HashSet<u64>,
}

impl Generator {
    /// Begins with the corpus of a target.
    pub fn new(target: Target, seed: u64) -> Self {
        let kept = corpus(target).into_iter().map(|(_, input)| input).collect();
        Self { random: Random::new(seed), words: target.words, kept, kinds: HashSet::new() }
    }

    /// The next input.
    pub fn next_input(&mut self) -> Vec<u8> {
        let mut input = match self.random.index(16) {
            0 => Vec::new(),
            _ => self.any_kept().to_vec(),
        };
        for _ in 0..=self.random.index(6) {
            self.change(&mut input);
        }
        input.truncate(MAX_LENGTH);
        input
    }

    /// Keeps an input if it is the first of its kind. Returns whether it is.
    pub fn keep(&mut self, input: &[u8], kind: u64) -> bool {
        let is_new = self.kinds.insert(kind);
        if is_new && self.kept.len() < MAX_KEPT {
            self.kept.push(input.to_vec());
        }
        is_new
    }

    /// How many kinds of inputs were met.
    pub fn kinds(&self) -> usize {
        self.kinds.len()
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let at = self.random.index(input.len() + 1);
        let length = self.random.index(16).min(input.len() - at);
        match self.random.index(10) {
            0 if at < input.len() => input[at] ^= 1 << self.random.index(8),
            1 if at < input.len() => input[at] = self.random.index(256) as u8,
            2 => drop(input.drain(at..at + length)),
            3 => {
                let part = input[at..at + length].to_vec();
                input.splice(at..at, part);
            }
            4 => {
                // The end of another input.
                let from = self.random.index(self.kept.len());
                let cut = self.random.index(self.kept[from].len() + 1);
                input.truncate(at);
                input.extend_from_slice(&self.kept[from][cut..]);
            }
            5 | 6 if !self.words.is_empty() => {
                let word = self.words[self.random.index(self.words.len())];
                input.splice(at..at + length.min(self.random.index(2) * length), word.bytes());
            }
            7 => {
                let count = self.random.index(9);
                let random: Vec<u8> = (0..count).map(|_| self.random.index(256) as u8).collect();
                input.splice(at..at, random);
            }
            8 if at < input.len() => input[at] = input[at].wrapping_add(1),
            _ => {
                let digits: Vec<u8> = (0..self.random.index(12)).map(|_| b'0' + self.random.index(10) as u8).collect();
                input.splice(at..at, digits);
            }
        }
    }

    fn any_kept(&mut self) -> &[u8] {
        let index = self.random.index(self.kept.len());
        &self.kept[index]
    }
}
