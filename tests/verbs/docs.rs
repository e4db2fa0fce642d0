//! What a reader of the documentation needs and the compiler does not check: search words, the order of the guide,
//! examples that fit their column, the variables that tests read, and how many tests are named after a guarantee.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The words of OTP, of tokio and of other actor crates, each with an item that a search for it must find.
const SEARCH_WORDS: [(&str, &str); 24] = [
    ("actor", "Worker"),
    ("actorref", "WorkerHandle"),
    ("address", "Via"),
    ("ask", "call"),
    ("evict", "eviction"),
    ("gen_server", "Worker"),
    ("genserver", "Worker"),
    ("get", "lookup"),
    ("insert", "start"),
    ("link", "own"),
    ("link", "monitor"),
    ("lru", "Eviction"),
    ("mailbox", "mailbox_capacity"),
    ("monitor", "monitor"),
    ("pid", "WorkerHandle"),
    ("remove", "stop"),
    ("send", "cast"),
    ("spawn", "start"),
    ("spawn", "spawn"),
    ("supervisor", "restart"),
    ("tell", "cast"),
    ("timeout", "idle_timeout"),
    ("ttl", "idle_timeout"),
    ("whereis", "lookup"),
];

/// At 1,280 pixels rustdoc shows lines of code up to this length without a scroll bar.
const MAX_CODE_COLUMNS: usize = 94;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn source_files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("the folder exists") {
        let path = entry.expect("the folder is readable").path();
        if path.is_dir() {
            source_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Each public item with its name and its `#[doc(alias)]`es, in lower case, as rustdoc compares them.
///
/// rustdoc drops the aliases of an item that is re-exported from a private module, so those of types count only where
/// `lib.rs` re-exports them.
fn search_index() -> BTreeSet<(String, String)> {
    let mut files = Vec::new();
    source_files(&root().join("src"), &mut files);
    let mut index = BTreeSet::new();
    for file in files {
        let text = read(&file);
        let is_root = file.ends_with("src/lib.rs");
        let mut aliases: Vec<String> = Vec::new();
        for line in text.lines() {
            let is_method = line.starts_with(' ');
            let line = line.trim();
            if let Some(list) = line.strip_prefix("#[doc(alias(") {
                aliases.extend(list.split('"').skip(1).step_by(2).map(str::to_lowercase));
            } else if let Some(item) = item_name(line) {
                index.insert((item.to_lowercase(), item.to_string()));
                let aliases = aliases.drain(..).map(|alias| (alias, item.to_string()));
                assert!(is_method || is_root || aliases.len() == 0, "put the aliases of `{item}` on its `pub use`");
                index.extend(aliases);
            }
        }
    }
    index
}

/// The name of the item that this line begins.
fn item_name(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("pub ").unwrap_or(line);
    let rest = rest.strip_prefix("async ").unwrap_or(rest);
    if let Some(path) = rest.strip_prefix("use crate::") {
        return path.strip_suffix(';')?.rsplit("::").next();
    }
    let rest = ["fn ", "struct ", "enum ", "trait "].iter().find_map(|kind| rest.strip_prefix(kind))?;
    rest.split(|char: char| !char.is_alphanumeric() && char != '_').next()
}

#[test]
fn searches_for_words_of_peers_find_an_item() {
    let index = search_index();
    let finds = |word: &str, item: &str| {
        // By an alias, or by a name that contains the word.
        index.contains(&(word.into(), item.into()))
            || index.iter().any(|(name, found)| found == item && *name == item.to_lowercase() && name.contains(word))
    };
    let lost: Vec<_> = SEARCH_WORDS.iter().filter(|(word, item)| !finds(word, item)).collect();
    assert!(lost.is_empty(), "add `#[doc(alias(..))]`, or correct this list: {lost:?}");
}

/// The modules of the guide, in the order of `src/lib.rs`.
fn guide_pages() -> Vec<String> {
    let text = read("src/lib.rs");
    let start = text.find("\npub mod guide {").expect("the guide is an inline module");
    let guide = text[start..].split("\n}\n").next().unwrap_or_default();
    let modules = guide.lines().filter_map(|line| line.strip_prefix("    pub mod ")?.strip_suffix(" {"));
    modules.map(str::to_string).collect()
}

#[test]
fn guide_lists_its_pages_in_order() {
    let pages = guide_pages();
    assert!(pages.len() > 10, "found only {pages:?}");
    let index = read("guide/guide.md");
    let numbered = index.lines().filter(|line| line.starts_with(|first: char| first.is_ascii_digit()));
    let listed: Vec<&str> = numbered.filter_map(|line| line.split_once("](")?.1.split(')').next()).collect();
    assert_eq!(listed, pages);
    let files = fs::read_dir(root().join("guide")).expect("the guide has a folder");
    let files = files.filter_map(|file| Some(file.ok()?.path())).filter(|path| path.extension() == Some("md".as_ref()));
    assert_eq!(files.count(), pages.len() + 1, "each page of the guide is a module, and guide.md lists them");
}

#[test]
fn guide_pages_link_to_their_neighbours() {
    let pages = guide_pages();
    for (at, page) in pages.iter().enumerate() {
        let text = read(format!("guide/{page}.md"));
        let last = text.trim_end().lines().last().unwrap_or_default();
        for (arrow, neighbour) in [("[← ", at.checked_sub(1).and_then(|at| pages.get(at))), (" →]", pages.get(at + 1))]
        {
            let expected = neighbour.map(|page| format!("](super::{page})"));
            assert_eq!(last.contains(arrow), expected.is_some(), "guide/{page}.md: {last}");
            assert!(expected.is_none_or(|link| last.contains(&link)), "guide/{page}.md: {last}");
        }
    }
}

/// The visible lines of the blocks of code in a page that are too long.
fn long_code_lines(text: &str) -> Vec<String> {
    let mut in_block = false;
    let mut long = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
        } else if in_block && !line.starts_with("# ") && line.chars().count() > MAX_CODE_COLUMNS {
            long.push(format!("{}: {line}", number + 1));
        }
    }
    long
}

#[test]
fn examples_of_the_guide_fit_their_column() {
    for page in guide_pages() {
        let long = long_code_lines(&read(format!("guide/{page}.md")));
        assert!(
            long.is_empty(),
            "guide/{page}.md has lines of more than {MAX_CODE_COLUMNS} columns:\n{}",
            long.join("\n")
        );
    }
    let landing = read("src/lib.rs");
    let landing: Vec<&str> = landing.lines().filter_map(|line| line.strip_prefix("//!")).collect();
    let landing = landing.iter().map(|line| line.strip_prefix(' ').unwrap_or(line)).collect::<Vec<_>>().join("\n");
    let long = long_code_lines(&landing);
    assert!(long.is_empty(), "src/lib.rs has lines of more than {MAX_CODE_COLUMNS} columns:\n{}", long.join("\n"));
}

/// The variables of the environment that a test sets for a process of its own.
const INTERNAL_VARIABLES: [&str; 4] = [
    "GEN_REGISTRY_CLUSTER_NODE",
    "GEN_REGISTRY_STACK_CASE",
    "GEN_REGISTRY_TEST_IN_OWN_PROCESS",
    "GEN_REGISTRY_TEST_OVERDUE",
];

#[test]
fn variables_of_the_tests_are_described() {
    let mut files = Vec::new();
    for folder in ["src", "tests", "cluster", "console", "examples"] {
        source_files(&root().join(folder), &mut files);
    }
    let mut variables = BTreeSet::new();
    for text in files.iter().map(read) {
        // In quotes: the name as a text, and nothing else.
        let texts =
            text.split('"').filter(|text| text.strip_prefix("GEN_REGISTRY_").is_some_and(|name| !name.is_empty()));
        let names = texts.filter(|text| text.chars().all(|char| char.is_ascii_uppercase() || char == '_'));
        variables.extend(names.map(str::to_owned));
    }
    assert!(variables.len() > 15, "found only {variables:?}");
    let page = read("tests/README.md");
    let is_described = |name: &String| page.contains(&format!("`{name}`"));
    let missing: Vec<_> =
        variables.iter().filter(|name| !INTERNAL_VARIABLES.contains(&name.as_str()) && !is_described(name)).collect();
    assert!(missing.is_empty(), "tests/README.md does not describe {missing:?}");
}

/// The names of the tests below these folders.
fn test_names(folders: &[&str]) -> Vec<String> {
    let mut files = Vec::new();
    folders.iter().for_each(|folder| source_files(&root().join(folder), &mut files));
    let (mut names, mut is_test) = (Vec::new(), false);
    for text in files.iter().map(read) {
        for line in text.lines().map(str::trim_start).filter(|line| !line.starts_with("//")) {
            if line.starts_with("#[") {
                is_test |= line.contains("test");
                continue;
            }
            let name = line.split_once("fn ").map(|(_, rest)| rest.split(['(', '<']).next().unwrap_or(rest));
            names.extend(name.filter(|_| is_test).map(str::to_owned));
            is_test = false;
        }
    }
    names
}

#[test]
fn each_guarantee_has_the_tests_that_are_listed() {
    let (names, page) = (test_names(&["src", "tests", "macros", "examples"]), read("tests/README.md"));
    for number in 1..=11 {
        let row = page.lines().find(|line| line.starts_with(&format!("| G{number} "))).expect("a row of the table");
        let listed: usize = row.split('|').nth(2).expect("a second cell").trim().parse().expect("a number");
        let named = names.iter().filter(|name| name.starts_with(&format!("g{number}_"))).count();
        assert!(named >= listed, "G{number}: {named} tests are named after it, and tests/README.md lists {listed}");
    }
}
