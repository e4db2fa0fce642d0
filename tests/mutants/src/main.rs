//! `mutants-switch LIST SOURCE OUT SKIPPED`: writes a copy of a source tree that has every mutant of a list, each behind a switch.
//!
//! LIST is what `cargo mutants --list --json` prints. The number of a mutant is its index. SKIPPED has the numbers that do not
//! compile, one a line. `OUT.json` gets the bytes of OUT that belong to each mutant, so that an error of the compiler can be
//! attributed to it, and the mutants that no switch can express.
//!
//! A switch is an expression that is the changed code if `crate::mutation::on(number)`, and otherwise the original.

mod edits;
mod nodes;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::{env, fs};

use edits::Output;
use serde_json::{Value, json};

/// One mutant of the list.
#[derive(Debug)]
struct Mutant {
    number: usize,
    genre: String,
    replacement: String,
    /// Where the replaced text begins.
    line: usize,
    column: usize,
}

/// The mutants of each file that is compiled into OUT.
fn read_list(path: &str, skipped: &BTreeSet<usize>) -> BTreeMap<PathBuf, Vec<Mutant>> {
    let list: Value = serde_json::from_str(&fs::read_to_string(path).expect("LIST can be read")).expect("LIST is JSON");
    let mut files = BTreeMap::<_, Vec<_>>::new();
    for (number, mutant) in list.as_array().expect("LIST is an array").iter().enumerate() {
        if skipped.contains(&number) {
            continue;
        }
        let text = |name: &str| mutant[name].as_str().expect("a text").to_owned();
        let at = |name: &str| mutant["span"]["start"][name].as_u64().expect("a number") as usize;
        files.entry(PathBuf::from(text("file"))).or_default().push(Mutant {
            number,
            genre: text("genre"),
            replacement: text("replacement"),
            line: at("line"),
            column: at("column"),
        });
    }
    files
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("OUT can be written");
    for entry in fs::read_dir(from).expect("SOURCE can be read") {
        let path = entry.expect("SOURCE can be read").path();
        let target = to.join(path.file_name().expect("it has a name"));
        if path.is_dir() {
            copy(&path, &target);
        } else {
            write_if_new(&target, &fs::read(&path).expect("SOURCE can be read"));
        }
    }
}

/// A file that does not change is not compiled again.
fn write_if_new(path: &Path, content: &[u8]) {
    if fs::read(path).ok().as_deref() != Some(content) {
        fs::write(path, content).expect("OUT can be written");
    }
}

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [list, source, out, skipped] = &arguments[..] else { panic!("usage: mutants-switch LIST SOURCE OUT SKIPPED") };
    let skipped = fs::read_to_string(skipped).expect("SKIPPED can be read");
    let skipped = skipped.lines().map(|line| line.parse().expect("a number")).collect();
    let (source, out) = (Path::new(source), Path::new(out));
    let root = source.parent().expect("SOURCE is in a package");

    copy(source, out);
    let (mut pieces, mut inexpressible) = (Vec::new(), Vec::new());
    for (file, mutants) in read_list(list, &skipped) {
        let path = root.join(&file);
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let (nodes, missed) = nodes::find(&text, &mutants);
        inexpressible.extend(missed);
        let target = out.join(path.strip_prefix(source).expect("a mutant is in SOURCE"));
        let mut output = Output::default();
        edits::render(&text, &nodes, &mut output);
        write_if_new(&target, output.text.as_bytes());
        pieces.extend(output.pieces.iter().map(|piece| json!([target, piece.start, piece.end, piece.number])));
    }
    let library = out.join("lib.rs");
    let text = fs::read_to_string(&library).expect("OUT has lib.rs") + include_str!("mutation.rs.txt");
    fs::write(&library, text).expect("OUT can be written");
    let found = json!({ "pieces": pieces, "inexpressible": inexpressible });
    fs::write(out.with_extension("json"), found.to_string()).expect("OUT.json can be written");
}
