//! A full disk at the start, and one that cannot be written.

use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use crate::harness::{Service, TestDir, binary};
use crate::scaled;

const NUMBER: &str = "+12025550100";
const SERVE: [&str; 4] = ["--listen", "127.0.0.1:0", "--db", "disk/denylist.redb"];

/// The service with a limit on the size of its files, in units of 512 bytes. The signal of the limit must be ignored, or
/// it would end the process.
fn limited(dir: &TestDir, blocks: u64) -> Command {
    let mut shell = dir.command_of("sh");
    let program = binary().display();
    shell.args(["-c", &format!("trap '' XFSZ; ulimit -f {blocks}; exec '{program}' \"$@\"",), "sh"]).args(SERVE);
    shell
}

fn plain(dir: &TestDir) -> Command {
    let mut command = dir.command();
    command.args(SERVE);
    command
}

/// A file system in memory of some pages, which root can mount. `None` for others.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    fn mount(at: &'a Path, pages: usize) -> Option<Self> {
        let size = format!("size={}k", 4 * pages);
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(at).output();
        mount.is_ok_and(|output| output.status.success()).then_some(Self(at))
    }

    /// Leaves no page free.
    fn fill(&self) {
        let mut content = vec![1; 4096];
        while fs::write(self.0.join("other"), &content).is_ok() {
            content.resize(content.len() + 4096, 1);
        }
    }

    fn make_room(&self) {
        // A filling that did not fit.
        let _ = fs::remove_file(self.0.join("other"));
        let grown = Command::new("mount").args(["-o", "remount,size=64m"]).arg(self.0).status();
        assert!(grown.expect("mount runs").success(), "the disk was not made larger");
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        // Lazily: a service that is being killed may still have the file.
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

/// Starts a service that may fail, and only because of the disk. Returns whether it started.
#[track_caller]
fn start_on_full_disk(what: &str, command: &mut Command) -> bool {
    match Service::attempt(command) {
        Ok(service) => {
            service.kill();
            true
        }
        Err(ran) => {
            assert!(ran.stderr.contains("disk/denylist.redb"), "{what}: the file is not named: {ran:?}");
            ran.failed(74, "make room on the disk");
            false
        }
    }
}

/// Starts a service on a disk with room, and asserts that it has what was acknowledged before.
#[track_caller]
fn start_with_room(dir: &TestDir, what: &str, rules: &[&str]) {
    let service = Service::attempt(&mut plain(dir)).unwrap_or_else(|ran| panic!("{what}: refused later: {ran:?}"));
    assert_eq!(service.rules(NUMBER), rules, "{what}: acknowledged rules are lost");
    assert!(!service.rules("+12025550199").is_empty(), "{what}: the sample was not imported");
    let left: Vec<_> =
        fs::read_dir(dir.path("disk")).expect("it exists").map(|entry| entry.expect("an entry")).collect();
    assert_eq!(left.len(), 1, "{what}: files are left: {left:?}");
    service.kill();
}

#[test]
fn creation_on_full_disk_leaves_nothing_behind() {
    let mut starts = [0, 0];
    let dir = TestDir::new();
    fs::create_dir(dir.path("disk")).expect("a directory");
    for blocks in [1, 8, 16, 1_024, 2_048, 2_064, 4_096] {
        starts[usize::from(start_on_full_disk(&format!("{blocks} blocks"), &mut limited(&dir, blocks)))] += 1;
        start_with_room(&dir, &format!("after {blocks} blocks"), &[]);
        fs::remove_dir_all(dir.path("disk")).expect("it exists");
        fs::create_dir(dir.path("disk")).expect("a directory");
    }
    assert!(starts.iter().all(|count| *count > 0), "no limit between failure and success: {starts:?}");
    let mut starts = [0, 0];
    for pages in 1..=scaled(12, 40) {
        let path = dir.path("disk");
        let Some(disk) = SmallDisk::mount(&path, pages) else {
            println!("NOT CHECKED: only root can mount a small disk");
            return;
        };
        if pages == 1 {
            disk.fill();
        }
        starts[usize::from(start_on_full_disk(&format!("{pages} pages"), &mut plain(&dir)))] += 1;
        disk.make_room();
        start_with_room(&dir, &format!("after {pages} pages"), &[]);
    }
    assert!(starts.iter().all(|count| *count > 0), "no size between failure and success: {starts:?}");
}

#[test]
fn full_disk_keeps_a_database_that_was_killed() {
    let dir = TestDir::new();
    fs::create_dir(dir.path("disk")).expect("a directory");
    let service = Service::start(&mut plain(&dir));
    service.put(&format!("/v1/denylists/{NUMBER}/rules/anonymous")).json(201);
    // Killed, so that the next start must repair the file, which writes to it.
    service.kill();
    let killed = fs::read(dir.path("disk/denylist.redb")).expect("the file exists");
    let full = killed.len() as u64 / 512;
    for blocks in [1, 8, full / 2, full, full + 8] {
        fs::write(dir.path("disk/denylist.redb"), &killed).expect("room");
        start_on_full_disk(&format!("{blocks} blocks"), &mut limited(&dir, blocks));
        start_with_room(&dir, &format!("after {blocks} blocks"), &["anonymous"]);
    }
    let needed = killed.len() / 4096 + 1;
    for free in 0..scaled(3, 12) {
        let path = dir.path("disk");
        let Some(disk) = SmallDisk::mount(&path, needed + free) else { return };
        fs::write(dir.path("disk/denylist.redb"), &killed).expect("room");
        disk.fill();
        start_on_full_disk(&format!("{free} pages free"), &mut plain(&dir));
        disk.make_room();
        start_with_room(&dir, &format!("after {free} pages free"), &["anonymous"]);
    }
}

/// Runs a command as a user without rights. For root, nothing is read-only.
fn without_rights(dir: &TestDir, command: &mut Command) {
    if fs::metadata("/proc/self").is_ok_and(|process| std::os::unix::fs::MetadataExt::uid(&process) == 0) {
        chown(dir.path("."), Some(65_534), Some(65_534)).expect("root may give a directory away");
        command.uid(65_534).gid(65_534);
    }
}

#[test]
fn read_only_database_is_a_clear_error() {
    let dir = TestDir::new();
    dir.serve().terminate();
    // A copy that any user may run, wherever the build directory is.
    let program = dir.path("program");
    fs::copy(binary(), &program).expect("room for a copy");
    let before = fs::read(dir.path("denylist.redb")).expect("the file exists");
    let set_mode = |name: &str, mode: &str| {
        let set = Command::new("chmod").arg(mode).arg(dir.path(name)).status();
        assert!(set.expect("chmod runs").success(), "the mode was not set");
    };
    let run = |db: &str| {
        let mut command = dir.command_of(program.to_str().expect("a temporary path is text"));
        without_rights(&dir, command.args(["--listen", "127.0.0.1:0", "--db", db]));
        Service::attempt(&mut command).err().unwrap_or_else(|| panic!("{db}: it serves what it cannot write"))
    };
    set_mode("denylist.redb", "0444");
    run("denylist.redb")
        .failed(74, "denylist.redb: Permission denied (os error 13); the program must be able to write");
    set_mode("denylist.redb", "0000");
    run("denylist.redb")
        .failed(74, "denylist.redb: Permission denied (os error 13); the program must be able to write");
    fs::create_dir(dir.path("closed")).expect("a directory");
    set_mode("closed", "0555");
    run("closed/new.redb").failed(74, "closed/new.redb: Permission denied (os error 13); the program must be able to");
    set_mode("denylist.redb", "0600");
    assert!(
        fs::read(dir.path("denylist.redb")).expect("the file exists") == before,
        "a refused start wrote to the file"
    );
}
