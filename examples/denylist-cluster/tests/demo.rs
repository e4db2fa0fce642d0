//! The demo in its short form, with the real etcd.

use std::process::{Command, Stdio};

/// Without etcd the test prints a note and passes, but not in CI.
fn is_etcd_installed() -> bool {
    let found = Command::new("etcd").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    let is_installed = found.is_ok_and(|status| status.success());
    if !is_installed {
        assert!(std::env::var_os("CI").is_none(), "etcd is missing (Debian: apt-get install etcd-server)");
        eprintln!("\n*** NOT TESTED: etcd is not installed (Debian: apt-get install etcd-server) ***\n");
    }
    is_installed
}

#[test]
fn one_of_three_nodes_is_killed_and_nothing_is_lost() {
    if !is_etcd_installed() {
        return;
    }
    let ran = Command::new(env!("CARGO_BIN_EXE_denylist-cluster")).args(["demo", "--short"]).output();
    let ran = ran.expect("the demo starts");
    let (printed, errors) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    println!("{printed}");
    assert!(ran.status.success(), "{printed}\n{errors}");
    assert!(printed.contains("Acknowledged and not stored: 0."), "{printed}");
    let row = |name: &str| -> Vec<u64> {
        let line = printed.lines().find(|line| line.starts_with(&format!("| {name} |"))).expect("a row for each group");
        line.split('|').skip(2).filter_map(|cell| cell.trim().trim_end_matches(" ms").parse().ok()).collect()
    };
    let (killed, others) = (row("the killed node"), row("the other nodes"));
    assert!(killed[0] > 0 && others[0] > 0, "each node has some of the numbers: {printed}");
    // Its numbers were away for about `take`, 4 s. The others lost no call.
    assert!(killed[4] > 2_500, "the killed node's numbers were never away: {printed}");
    assert_eq!((others[2], others[3]), (0, 0), "callers of the other nodes noticed: {printed}");
}

#[test]
fn node_without_an_engine_serves_itself_and_leaves() {
    let mut node = Command::new(env!("CARGO_BIN_EXE_denylist-cluster")).arg("node").stdout(Stdio::piped()).spawn();
    let node = node.as_mut().expect("it starts");
    let mut output = std::io::BufReader::new(node.stdout.take().expect("it is piped"));
    let mut line = String::new();
    std::io::BufRead::read_line(&mut output, &mut line).expect("it prints");
    assert!(line.starts_with("node ") && line.ends_with(" serves\n"), "{line}");
    let ended = Command::new("kill").args(["-TERM", &node.id().to_string()]).status().expect("it can be asked to end");
    assert!(ended.success());
    assert!(node.wait().expect("it ends").success());
}

#[test]
fn options_that_cannot_work_are_one_line() {
    for (arguments, message) in [
        (&["node", "--cluster", "a/b"][..], "a name is not empty"),
        (&["node", "--cluster", ""], "a name is not empty"),
        (&["node", "--beat", "0"], "0 is not in 1..=60000"),
        (&["node", "--loads", "0"], "0 is not in 1..=65535"),
        (&["node", "--engine", "etcd"], "it begins with http:// or https://"),
        (&["node", "--engine", "http://127.0.0.1:1", "--advertise", "0.0.0.0:1"], "unspecified"),
        (&["allows", "1", "2"], "--engine"),
        (&["storage", "--file", "no/such/directory"], "cannot be opened"),
    ] {
        let ran = Command::new(env!("CARGO_BIN_EXE_denylist-cluster")).args(arguments).output().expect("it starts");
        let errors = String::from_utf8_lossy(&ran.stderr);
        assert!(matches!(ran.status.code(), Some(1 | 2)) && errors.contains(message), "{arguments:?}: {errors}");
        assert!(!errors.contains("panicked"), "{arguments:?}: {errors}");
    }
}
