//! The client's methods are found after those of handles and addresses, so `#[worker]` refuses their names.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The names that `check_name` refuses, without those of the prelude's traits.
fn reserved() -> BTreeSet<String> {
    let source = include_str!("../src/message.rs");
    let list = source.split("const RESERVED").nth(1).and_then(|rest| rest.split("];").next()).expect("the list");
    list.split('"').skip(1).step_by(2).map(ToOwned::to_owned).collect()
}

/// The methods in the `impl` blocks of a type in a file of the library.
fn methods(file: &Path, ty: &str) -> BTreeSet<String> {
    let source = fs::read_to_string(file).expect("the file is readable");
    let mut names = BTreeSet::new();
    let mut is_inside = false;
    for line in source.lines() {
        match line {
            _ if line.starts_with("impl") => is_inside = line.contains(&format!("impl<W: Worker> {ty}<W> {{")),
            "}" => is_inside = false,
            _ if is_inside => {
                let method = line.strip_prefix("    pub fn ").or_else(|| line.strip_prefix("    pub async fn "));
                names.extend(method.and_then(|method| method.split(['(', '<']).next()).map(ToOwned::to_owned));
            }
            _ => {}
        }
    }
    names
}

fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).expect("the folder is readable").map(|entry| entry.expect("an entry").path());
    let (folders, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    files.into_iter().chain(folders.iter().flat_map(|folder| self::files(folder))).collect()
}

#[test]
fn every_method_of_handles_and_addresses_is_reserved() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("../src");
    let rust = files(&src).into_iter().filter(|file| file.extension().is_some_and(|extension| extension == "rs"));
    let found: BTreeSet<String> =
        rust.flat_map(|file| methods(&file, "WorkerHandle").into_iter().chain(methods(&file, "Via"))).collect();
    assert!(found.contains("try_call") && found.contains("call_with_retry"), "{found:?}");
    assert_eq!(reserved(), found);
}
