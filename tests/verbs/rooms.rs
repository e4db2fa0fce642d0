//! The rooms of the crates: which there are, which may import which, that files import in no circle, and how long a file
//! and a function may be. See `ARCHITECTURE.md`, whose file names are checked as well.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A crate, and its rooms from the top down. A room imports from the rooms below it only.
struct House {
    /// Its folder, from the top of the repository.
    src: &'static str,
    rooms: &'static [&'static str],
}

static HOUSES: [House; 4] = [
    House {
        src: "src",
        rooms: &[
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
        ],
    },
    House {
        src: "cluster/src",
        rooms: &[
            "builder",
            "cluster",
            "host",
            "registry",
            "via",
            "serve",
            "send",
            "kind",
            "node",
            "metrics",
            "fence",
            "clock",
            "machine",
            "engine",
            "transport",
            "events",
            "health",
            "exit",
            "message",
            "error",
            "key",
            "codec",
            "remote",
            "id",
        ],
    },
    House {
        src: "console/src",
        rooms: &[
            "api",
            "stream",
            "workers",
            "state",
            "cluster",
            "log",
            "history",
            "guard",
            "parameters",
            "convert",
            "failure",
            "json",
            "assets",
        ],
    },
    House { src: "console/src/bin/gen-registry-console", rooms: &["client", "view", "app", "text"] },
];

/// A longer file must consist of documentation for the most part.
const MAX_FILE_LINES: usize = 500;
const MIN_DOC_PERCENT: usize = 60;
const MAX_FUNCTION_LINES: usize = 60;

struct Source {
    house: &'static House,
    /// Relative to the folder of the house.
    path: PathBuf,
    text: String,
}

impl Source {
    /// The room that the file belongs to. `None` for the root of the crate and for its guide.
    fn room(&self) -> Option<&str> {
        let first = self.path.iter().next()?.to_str()?;
        Some(first.trim_end_matches(".rs")).filter(|room| !["lib", "main", "guide"].contains(room))
    }

    /// Unit tests, models and simulators build what stands above them, so they may import from there.
    fn is_test(&self) -> bool {
        let names = self.path.iter().filter_map(|part| part.to_str());
        names
            .map(|part| part.trim_end_matches(".rs"))
            .any(|name| matches!(name, "tests" | "models" | "test_worker" | "simulator"))
    }

    /// `src/path:line`, as a terminal links it.
    fn at(&self, line: usize) -> String {
        format!("{}/{}:{line}", self.house.src, self.path.display())
    }
}

fn sources() -> Vec<Source> {
    fn visit(dir: &Path, house: &'static House, root: &Path, found: &mut Vec<Source>) {
        // A program beside a library is a crate, and a house, of its own.
        for entry in fs::read_dir(dir).expect("the folder exists").filter(|_| !dir.ends_with("src/bin")) {
            let path = entry.expect("the folder is readable").path();
            if path.is_dir() {
                visit(&path, house, root, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("a source file is UTF-8");
                let path = path.strip_prefix(root).expect("the path is below the root").to_owned();
                found.push(Source { house, path, text });
            }
        }
    }
    let mut found = Vec::new();
    for house in &HOUSES {
        let (root, before) = (Path::new(env!("CARGO_MANIFEST_DIR")).join(house.src), found.len());
        visit(&root, house, &root, &mut found);
        let files = found.len() - before;
        assert!(files > house.rooms.len(), "{} has only {files} source files", house.src);
    }
    found.sort_by(|a, b| (a.house.src, &a.path).cmp(&(b.house.src, &b.path)));
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
    fn name(path: &str) -> &str {
        let end = path.find(|char: char| !char.is_alphanumeric() && char != '_').unwrap_or(path.len());
        &path[..end]
    }
    line.match_indices("crate::").filter(|(at, _)| !line[..*at].ends_with('$')).flat_map(|(at, prefix)| {
        let rest = &line[at + prefix.len()..];
        let group = rest.strip_prefix('{').and_then(|group| group.split_once('}'));
        match group {
            Some((group, _)) => group.split(", ").map(name).collect(),
            None => vec![name(rest)],
        }
    })
}

fn floor(house: &House, room: &str) -> Option<usize> {
    house.rooms.iter().position(|known| *known == room)
}

#[test]
fn every_room_is_in_the_list() {
    for source in sources() {
        let Some(room) = source.room() else { continue };
        assert!(floor(source.house, room).is_some(), "{}: `{room}` is not a room; see ARCHITECTURE.md", source.at(1));
    }
}

#[test]
fn every_listed_room_exists() {
    let sources = sources();
    for house in &HOUSES {
        for room in house.rooms {
            let is_there = |source: &Source| source.house.src == house.src && source.room() == Some(*room);
            assert!(sources.iter().any(is_there), "{} has no room `{room}`", house.src);
        }
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
                match floor(source.house, path) {
                    None => upward.push(format!("{at}: `crate::{path}` does not name the room that it imports from")),
                    Some(to) if Some(to) < floor(source.house, room) => {
                        upward.push(format!("{at}: `{room}` imports from `{path}`, a room above it"));
                    }
                    Some(_) => {}
                }
            }
        }
    }
    assert!(upward.is_empty(), "imports against the order of rooms:\n{}", upward.join("\n"));
}

/// The modules that a file of the library imports from, by name, as in `worker::cell`. Re-exports are no imports.
fn imports(text: &str) -> Vec<String> {
    let code: Vec<&str> = code_lines(text).into_iter().map(|(_, line)| line).collect();
    let code = code.join("\n");
    let statements = code.split("\nuse crate::").skip(1).filter_map(|rest| rest.split_once(';'));
    let paths = statements.flat_map(|(path, _)| {
        let (module, names) = path.split_once("::{").unwrap_or((path, ""));
        names.trim_end_matches('}').split(',').map(move |name| match name.trim() {
            "" | "self" => module.to_owned(),
            name => format!("{module}::{name}"),
        })
    });
    paths.collect()
}

#[test]
fn only_files_of_a_worker_import_in_a_circle() {
    // `Worker` names `Context`, which holds a handle, whose cell is of a `Worker`: the public types tie this knot.
    const KNOT: &str = "worker";
    let sources: Vec<Source> =
        sources().into_iter().filter(|source| source.house.src == "src" && !source.is_test()).collect();
    let name = |source: &Source| {
        source.path.with_extension("").iter().filter_map(|part| part.to_str()).collect::<Vec<_>>().join("::")
    };
    let mut files: BTreeMap<String, Vec<String>> =
        sources.iter().map(|source| (name(source), imports(&source.text))).collect();
    let all: BTreeSet<String> = files.keys().cloned().collect();
    for (file, imports) in &mut files {
        // A path ends with the names of items: the longest beginning that is a file is meant.
        let beginning = |path: &String| {
            let ends = path.match_indices("::").map(|(at, _)| at).chain([path.len()]);
            ends.map(|end| path[..end].to_owned()).filter(|name| all.contains(name)).last()
        };
        *imports = imports.iter().filter_map(beginning).filter(|to| to != file).collect();
    }
    assert!(files.values().map(Vec::len).sum::<usize>() > 300, "found only some of the imports: {files:?}");
    // Take away what imports from no file that is left, until nothing changes.
    loop {
        let before = files.len();
        let left: BTreeSet<String> = files.keys().cloned().collect();
        files.retain(|_, imports| imports.iter().any(|to| left.contains(to)));
        let imported: BTreeSet<String> = files.values().flatten().cloned().collect();
        files.retain(|file, _| imported.contains(file));
        if files.len() == before {
            break;
        }
    }
    files.retain(|file, _| file.split("::").next() != Some(KNOT));
    assert!(files.is_empty(), "these files import in a circle, or lie between two: {files:#?}");
}

#[test]
fn architecture_names_files_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("ARCHITECTURE.md")).expect("the page is at the top");
    let is_file = |name: &&str| {
        let ends = [".rs", ".md", ".json", ".yml", ".sh", ".js"];
        !name.contains(char::is_whitespace) && ends.iter().any(|end| name.ends_with(end))
    };
    let (mut folder, mut seen, mut lost) = (root.to_owned(), 0, Vec::new());
    for line in text.lines() {
        // A name is below the folder of its part of the page, or begins at the top of the repository.
        match line {
            "# The library" => folder = root.join("src"),
            "# The cluster" => folder = root.join("cluster/src"),
            "# The console" => folder = root.join("console/src"),
            line if line.starts_with("# ") => folder = root.join("macros/src"),
            _ => {}
        }
        // In backticks or as the target of a link.
        for name in line.split(['`', '(', ')']).filter(is_file) {
            seen += 1;
            if !root.join(name).exists() && !folder.join(name).exists() {
                lost.push(name);
            }
        }
    }
    assert!(seen > 300, "found only {seen} names of files");
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
