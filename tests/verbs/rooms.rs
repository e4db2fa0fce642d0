//! The rooms of `src/`: which there are, which may import which, and how long a file and a function may be. See
//! `ARCHITECTURE.md`, whose file names are checked as well.

use std::fs;
use std::path::{Path, PathBuf};

/// The rooms, from the top down. A room imports from the rooms below it only.
const ROOMS: [&str; 11] = [
    "inspect",
    "directory",
    "registry",
    "owner",
    "table",
    "worker",
    "combiner",
    "mailbox",
    "metrics",
    "lifecycle",
    "util",
];

/// A longer file must consist of documentation for the most part.
const MAX_FILE_LINES: usize = 500;
const MIN_DOC_PERCENT: usize = 60;
const MAX_FUNCTION_LINES: usize = 60;

struct Source {
    /// Relative to `src`.
    path: PathBuf,
    text: String,
}

impl Source {
    /// The room that the file belongs to. `None` for `lib.rs`.
    fn room(&self) -> Option<&str> {
        let first = self.path.iter().next()?.to_str()?;
        Some(first.trim_end_matches(".rs")).filter(|room| *room != "lib")
    }

    /// Unit tests and models build whole registries, so they may import from the rooms above.
    fn is_test(&self) -> bool {
        let name = self.path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
        matches!(name, "tests" | "models" | "test_worker")
    }

    /// `src/path:line`, as a terminal links it.
    fn at(&self, line: usize) -> String {
        format!("src/{}:{line}", self.path.display())
    }
}

fn sources() -> Vec<Source> {
    fn visit(dir: &Path, root: &Path, found: &mut Vec<Source>) {
        for entry in fs::read_dir(dir).expect("the folder exists") {
            let path = entry.expect("the folder is readable").path();
            if path.is_dir() {
                visit(&path, root, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("a source file is UTF-8");
                let path = path.strip_prefix(root).expect("the path is below the root").to_owned();
                found.push(Source { path, text });
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    visit(&root, &root, &mut found);
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(found.len() > ROOMS.len(), "found only {} source files", found.len());
    found
}

/// The numbered lines of a file without comments and without items that only tests compile.
fn code_lines(text: &str) -> Vec<(usize, &str)> {
    let mut code = Vec::new();
    let mut lines = text.lines().enumerate().map(|(index, line)| (index + 1, line));
    while let Some((number, line)) = lines.next() {
        if line.starts_with("#[cfg(test)]") || line.starts_with("#[cfg(all(test") {
            // The item ends with its first line (`mod tests;`) or with the brace in the first column.
            for (_, line) in lines.by_ref() {
                if line.ends_with(';') && !line.starts_with(' ') || line.starts_with('}') {
                    break;
                }
            }
        } else if !line.trim_start().starts_with("//") {
            code.push((number, line));
        }
    }
    code
}

/// The first segment of each `crate::` path in a line.
fn crate_paths(line: &str) -> impl Iterator<Item = &str> {
    line.match_indices("crate::").filter(|(at, _)| !line[..*at].ends_with('$')).map(|(at, prefix)| {
        let rest = &line[at + prefix.len()..];
        let end = rest.find(|char: char| !char.is_alphanumeric() && char != '_').unwrap_or(rest.len());
        &rest[..end]
    })
}

fn floor(room: &str) -> Option<usize> {
    ROOMS.iter().position(|known| *known == room)
}

#[test]
fn every_room_is_in_the_list() {
    for source in sources() {
        let Some(room) = source.room() else { continue };
        assert!(floor(room).is_some(), "{}: `{room}` is not a room; see ARCHITECTURE.md", source.at(1));
    }
}

#[test]
fn rooms_import_only_from_rooms_below() {
    let mut upward = Vec::new();
    for source in sources().into_iter().filter(|source| !source.is_test()) {
        let Some(room) = source.room() else { continue };
        for (number, line) in code_lines(&source.text) {
            for path in crate_paths(line) {
                let at = source.at(number);
                match floor(path) {
                    None => upward.push(format!("{at}: `crate::{path}` does not name the room that it imports from")),
                    Some(to) if Some(to) < floor(room) => {
                        upward.push(format!("{at}: `{room}` imports from `{path}`, a room above it"));
                    }
                    Some(_) => {}
                }
            }
        }
    }
    assert!(upward.is_empty(), "imports against the order of rooms:\n{}", upward.join("\n"));
}

#[test]
fn architecture_names_files_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("ARCHITECTURE.md")).expect("the page is at the top");
    let is_file = |name: &&str| {
        let ends = [".rs", ".md", ".json", ".yml", ".sh"];
        !name.contains(char::is_whitespace) && ends.iter().any(|end| name.ends_with(end))
    };
    // In backticks or as the target of a link. A name without a folder at the top is below `src`.
    let names = text.split(['`', '(', ')']).filter(is_file);
    let lost: Vec<&str> =
        names.filter(|name| !root.join(name).exists() && !root.join("src").join(name).exists()).collect();
    assert!(lost.is_empty(), "ARCHITECTURE.md names files that do not exist: {lost:?}");
}

#[test]
fn long_files_are_mostly_documentation() {
    let mut long = Vec::new();
    for source in sources() {
        let lines = source.text.lines().count();
        let is_doc = |line: &&str| line.trim_start().starts_with("///") || line.trim_start().starts_with("//!");
        let percent = source.text.lines().filter(is_doc).count() * 100 / lines.max(1);
        if lines > MAX_FILE_LINES && percent < MIN_DOC_PERCENT {
            long.push(format!("{}: {lines} lines, {percent} % documentation", source.at(1)));
        }
    }
    assert!(long.is_empty(), "split these files by concept:\n{}", long.join("\n"));
}

#[test]
fn functions_have_at_most_sixty_lines() {
    let mut long = Vec::new();
    for source in sources() {
        let lines: Vec<&str> = source.text.lines().collect();
        for (index, line) in lines.iter().enumerate() {
            let code = line.trim_start();
            if code.starts_with("//") || code.ends_with(';') || !code.contains("fn ") {
                continue;
            }
            let indent = &line[..line.len() - code.len()];
            // rustfmt closes a function, or the parameters of one without a body, at the indent of its first line.
            let last = lines[index + 1..].iter().position(|line| {
                let rest = line.strip_prefix(indent).unwrap_or(" ");
                rest.starts_with('}') || rest.starts_with(')') && rest.ends_with(';')
            });
            let length = last.map_or(1, |last| last + 2);
            if !code.ends_with('}') && length > MAX_FUNCTION_LINES {
                long.push(format!("{}: {length} lines", source.at(index + 1)));
            }
        }
    }
    assert!(long.is_empty(), "split these functions:\n{}", long.join("\n"));
}
