//! The whole process is killed in the middle of writes.

use std::path::Path;
use std::process::Stdio;

use test_support::within;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::Command;

fn todo(dir: &Path, verb: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_todo"));
    command.arg(dir).args([verb, "Bob's list", "2016-10-01"]).kill_on_drop(true);
    command
}

#[tokio::test]
async fn acknowledged_entries_survive_a_kill_of_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = Vec::new();
    for round in 0..5 {
        let mut child = todo(dir.path(), "add").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (mut stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        // There is always a further entry to write, until the process is killed.
        let titles = tokio::spawn(async move {
            for n in 0.. {
                if stdin.write_all(format!("{round}: {n}\n").as_bytes()).await.is_err() {
                    return;
                }
            }
        });
        let mut printed = BufReader::new(stdout).lines();
        let begin = acknowledged.len();
        while let Some(line) = within(printed.next_line(), "what the process prints").await.unwrap() {
            acknowledged.push(line);
            if acknowledged.len() == begin + 20 {
                child.start_kill().unwrap();
            }
        }
        within(child.wait(), "the end of the process").await.unwrap();
        within(titles, "the end of the input").await.unwrap();
        assert!(acknowledged.len() >= begin + 20, "the process ended before it was killed");
    }

    let shown = within(todo(dir.path(), "show").output(), "the entries").await.unwrap();
    assert!(shown.status.success(), "{}", String::from_utf8_lossy(&shown.stderr));
    let shown = String::from_utf8(shown.stdout).unwrap();
    let on_disk: Vec<&str> = shown.lines().collect();
    for entry in &acknowledged {
        assert!(on_disk.contains(&entry.as_str()), "{entry:?} was acknowledged");
    }
    // A round has at most one entry that is on disk and was not acknowledged.
    assert!(on_disk.len() <= acknowledged.len() + 5, "{on_disk:?}");
}
