//! A step of the wall clock moves no deadline: nothing that waits reads that clock.

use std::fs;
use std::path::{Path, PathBuf};

/// Reads it once for each registry, so that people can be shown times.
const SHOWN: &str = "src/util/clock.rs";

/// Everything below a directory.
fn sources(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

#[test]
fn no_deadline_reads_the_wall_clock() {
    let service = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (directory, least) in [(service.join("src"), 20), (service.join("../../src"), 80)] {
        let files = sources(&directory);
        assert!(files.len() >= least, "only {} files in {}", files.len(), directory.display());
        for file in files {
            if file.ends_with(SHOWN) {
                continue;
            }
            let text = fs::read_to_string(&file).expect("a source file is text");
            for (number, line) in text.lines().enumerate() {
                let reads = ["SystemTime::now", "UNIX_EPOCH", "CLOCK_REALTIME"].iter().any(|name| line.contains(name));
                assert!(!reads, "{}:{}: {line}", file.display(), number + 1);
            }
        }
    }
}
