//! The list of the library's public futures, read from its source. Tests that try each of them compare their own list
//! with it, so that a new verb cannot be forgotten.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Names each public async function, each public function that returns a future, and each public type that is one.
pub fn public_futures(src: &Path) -> BTreeSet<String> {
    let mut found = Found::default();
    found.read(src);
    let public = found.futures();
    assert!(public.len() > 20, "the source was not parsed: {public:#?}");
    public
}

/// Names each public function that takes a duration.
pub fn public_durations(src: &Path) -> BTreeSet<String> {
    let mut found = Found::default();
    found.read(src);
    let public = found.durations.iter().filter(|(of, _)| found.public_types.contains(of));
    let public: BTreeSet<_> = public.map(|(of, name)| format!("{of}::{name}")).collect();
    assert!(public.len() > 10, "the source was not parsed: {public:#?}");
    public
}

/// The public items found in the source. The parser relies on rustfmt's layout and on public items not being in macros.
#[derive(Default)]
struct Found {
    public_types: BTreeSet<String>,
    /// Function names, with the type that they belong to.
    functions: BTreeSet<(Option<String>, String)>,
    future_types: BTreeSet<String>,
    /// Functions that take a duration.
    durations: BTreeSet<(String, String)>,
}

impl Found {
    fn read(&mut self, path: &Path) {
        if path.is_dir() {
            for entry in fs::read_dir(path).expect("the source is there") {
                self.read(&entry.expect("the entry is readable").path());
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            self.read_source(&fs::read_to_string(path).expect("a source file is UTF-8"));
        }
    }

    fn read_source(&mut self, source: &str) {
        let mut block: Option<String> = None;
        let mut lines = source.lines().filter(|line| !line.trim_start().starts_with("//")).peekable();
        while let Some(line) = lines.next() {
            let mut item = line.to_owned();
            // Join the lines of a multi-line item head.
            let is_head = |start: &str| line.trim_start().starts_with(start);
            if ["impl", "pub fn", "pub async fn", "pub const fn", "pub struct", "pub enum"].into_iter().any(is_head) {
                while !item.ends_with(['{', ';', '}']) && !item.ends_with("where") {
                    let Some(next) = lines.next() else { break };
                    item = format!("{item} {}", next.trim());
                }
            }
            if let Some(head) = item.strip_prefix("impl") {
                let (of, to) = match head.split_once(" for ") {
                    Some((of, to)) => (Some(of), to),
                    None => (None, head),
                };
                let name = type_name(to, of.is_none());
                if of.is_some_and(|of| of.ends_with("Future")) {
                    self.future_types.insert(name.clone());
                }
                block = of.is_none().then_some(name);
            } else if let Some(rest) = item.strip_prefix("pub struct ").or_else(|| item.strip_prefix("pub enum ")) {
                self.public_types.insert(identifier(rest));
            } else if !item.starts_with([' ', '#']) && !item.is_empty() && item != "where" {
                if let Some(rest) = item.strip_prefix("pub async fn ") {
                    self.functions.insert((None, identifier(rest)));
                }
                if item.starts_with('}') {
                    block = None;
                }
            } else if let Some(of) = &block {
                let name = item.strip_prefix("    pub async fn ").or_else(|| item.strip_prefix("    pub fn "));
                let name = name.or_else(|| item.strip_prefix("    pub const fn "));
                let takes = item.split_once(" -> ").map_or(&*item, |(takes, _)| takes);
                if let Some(name) = name.filter(|_| takes.contains("Duration")) {
                    self.durations.insert((of.clone(), identifier(name)));
                }
                let returns = item.split_once(" -> ").map_or("", |(_, returns)| returns);
                let name = match item.strip_prefix("    pub async fn ") {
                    Some(rest) => Some(rest),
                    None => item.strip_prefix("    pub fn ").filter(|_| returns.contains("Future<")),
                };
                if let Some(name) = name {
                    self.functions.insert((Some(of.clone()), identifier(name)));
                }
            }
        }
    }

    fn futures(&self) -> BTreeSet<String> {
        let methods = self.functions.iter().filter_map(|(of, name)| match of {
            Some(of) => self.public_types.contains(of).then(|| format!("{of}::{name}")),
            None => Some(name.clone()),
        });
        methods.chain(self.future_types.intersection(&self.public_types).cloned()).collect()
    }
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|&char| char.is_alphanumeric() || char == '_').collect()
}

/// The type that an `impl` head names, after its generic parameters.
fn type_name(head: &str, has_parameters: bool) -> String {
    let mut depth = 0;
    let is_in_parameters = |char: char| {
        depth += match char {
            '<' => 1,
            '>' => -1,
            _ => 0,
        };
        depth > 0 || char == '>' || char == ' '
    };
    let name = if has_parameters { head.trim_start_matches(is_in_parameters) } else { head };
    identifier(name.trim_start_matches("dyn ").rsplit("::").next().unwrap_or_default().trim_start())
}
