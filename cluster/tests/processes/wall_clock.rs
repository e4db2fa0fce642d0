//! The wall clock of one process, which a test can set: by libfaketime, between the process and its C library.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Removes its file when it is dropped.
#[derive(Debug)]
pub(crate) struct WallClock {
    file: PathBuf,
    library: String,
}

/// The seconds of the wall clock of this process.
pub(crate) fn wall_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

impl WallClock {
    /// `None`: libfaketime is not installed.
    pub(crate) fn new() -> Option<WallClock> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        // The command knows where its library is: `-m` is the one for programs with threads.
        let mut command = Command::new("faketime");
        command.args(["-m", "-f", "+0", "printenv", "LD_PRELOAD"]).stderr(Stdio::null());
        let found = command.output().ok().filter(|output| output.status.success())?;
        let library = String::from_utf8(found.stdout).expect("a path of text").trim().to_owned();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let file = std::env::temp_dir().join(format!("gen-registry-clock-{}-{number}", std::process::id()));
        let clock = WallClock { file, library };
        clock.set(0);
        Some(clock)
    }

    /// Sets it this many seconds ahead of the machine's.
    pub(crate) fn set(&self, ahead: i64) {
        let next = self.file.with_extension("next");
        std::fs::write(&next, format!("{ahead:+}\n")).expect("a file for the clock");
        // At once: the process reads the file at each look at its clock.
        std::fs::rename(next, &self.file).expect("a file for the clock");
    }

    /// The process that this starts has this clock.
    pub(crate) fn give_to(&self, command: &mut Command) {
        command.env("LD_PRELOAD", &self.library).env("FAKETIME_TIMESTAMP_FILE", &self.file);
        command.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    }
}

impl Drop for WallClock {
    fn drop(&mut self) {
        // What cannot be removed is left in the system's directory for such files.
        let _ = std::fs::remove_file(&self.file);
    }
}
