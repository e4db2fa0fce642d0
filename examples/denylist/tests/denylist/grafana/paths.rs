//! Paths of files, and programs that may be installed.

use std::path::{Path, PathBuf};

use serde_json::Value;

/// The root of the repository, two levels above this package.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A path from the root of the repository.
pub(crate) fn path(relative: &str) -> PathBuf {
    root().join(relative)
}

#[track_caller]
pub(crate) fn text(relative: &str) -> String {
    std::fs::read_to_string(path(relative)).unwrap_or_else(|error| panic!("{relative}: {error}"))
}

#[track_caller]
pub(crate) fn json(relative: &str) -> Value {
    serde_json::from_str(&text(relative)).unwrap_or_else(|error| panic!("{relative}: {error}"))
}

#[track_caller]
pub(crate) fn yaml(relative: &str) -> Value {
    yaml_serde::from_str(&text(relative)).unwrap_or_else(|error| panic!("{relative}: {error}"))
}

/// A program of Debian's packages `prometheus` and `prometheus-alertmanager`.
///
/// `None` where it is not installed. Some tests are then skipped with a note. With `CI=true`, nothing is skipped.
#[track_caller]
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let directories = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&directories).map(|directory| directory.join(name)).find(|file| file.is_file());
    if found.is_none() {
        let is_ci = std::env::var_os("CI").is_some_and(|value| value == "true");
        let package = if name == "amtool" { "prometheus-alertmanager" } else { "prometheus" };
        assert!(!is_ci, "{name} is not installed: apt-get install {package}");
        println!("SKIPPED: {name} is not installed (Debian: apt-get install {package})");
    }
    found
}
