//! A step of the wall clock moves no deadline: nothing that waits reads that clock.

use std::fs;
use std::path::{Path, PathBuf};

/// What shows times to people, and computes with none.
const SHOWN: [&str; 3] = ["src/inspect.rs", "src/util/clock.rs", "src/worker/info.rs"];

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
            if SHOWN.iter().any(|shown| file.ends_with(shown)) {
                continue;
            }
            let text = fs::read_to_string(&file).expect("a source file is text");
            for (number, line) in text.lines().enumerate() {
                let reads = ["SystemTime", "UNIX_EPOCH", "CLOCK_REALTIME"].iter().any(|name| line.contains(name));
                assert!(!reads, "{}:{}: {line}", file.display(), number + 1);
            }
        }
    }
}
