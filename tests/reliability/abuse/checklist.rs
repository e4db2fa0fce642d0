//! The guide's checklist and these tests agree: each attack of the table has its tests, and each of those exists.

use std::collections::BTreeSet;

const GUIDE: &str = include_str!("../../../guide/security.md");

/// The sources of these tests.
const SOURCES: [&str; 6] = [
    include_str!("hashes.rs"),
    include_str!("labels.rs"),
    include_str!("logs.rs"),
    include_str!("messages.rs"),
    include_str!("slow.rs"),
    include_str!("starts.rs"),
];

/// Each row of the checklist, what its last column must name, and its tests.
const CHECKED: &[(&str, &str, &[&str])] = &[
    (
        "many different keys",
        "max_workers",
        &["keys_without_bound_stop_at_max_workers", "walk_through_keys_evicts_only_idle_workers"],
    ),
    ("long keys, large messages", "check the size", &["size_of_a_key_is_the_programs_to_limit"]),
    ("many starts at once", "max_concurrent_starts", &["start_storm_runs_as_many_inits_as_there_are_permits"]),
    ("many callers of one vacant key", "none needed", &["callers_of_one_key_share_one_init"]),
    (
        "starts of keys that do not exist",
        "remember_failed_starts",
        &["unknown_key_costs_one_init_while_it_is_remembered"],
    ),
    (
        "a message that crashes the worker, repeated",
        "restart_backoff",
        &["crash_loop_spends_the_budget_of_its_own_key"],
    ),
    ("a flood of messages to one key", "mailbox_capacity", &["flooded_mailbox_holds_its_capacity_and_no_more"]),
    ("an `init` that hangs", "init_timeout", &["hung_init_ends_at_the_default_of_30_s"]),
    ("a handler that hangs", "call_timeout", &["hung_handler_delays_its_own_key_only"]),
    ("a `terminate` that hangs", "stop_timeout", &["hung_terminate_is_aborted_after_the_default_of_5_s"]),
    ("a peer that sends nothing, or reads nothing", "idle_timeout", &["silent_peer_ends_by_the_idle_timeout"]),
    (
        "keys chosen to collide in the map",
        "none needed",
        &["colliding_keys_stay_separate", "registries_hash_with_different_secrets"],
    ),
    ("keys as labels of metrics", "none needed", &["exposition_survives_any_registry_name", "no_series_has_a_key"]),
    ("keys in logs", "trace_keys", &["keys_arguments_and_messages_are_not_logged", "logged_key_is_escaped"]),
];

/// The cells of the checklist's rows. It is the first table.
fn rows() -> Vec<[String; 3]> {
    let is_row = |line: &&str| line.starts_with('|');
    let lines = GUIDE.lines().skip_while(|line| !is_row(line)).take_while(is_row).skip(2);
    lines
        .map(|line| {
            let cells: Vec<_> = line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect();
            cells.try_into().unwrap_or_else(|cells| panic!("not three cells: {cells:?}"))
        })
        .collect()
}

#[test]
fn each_attack_of_the_guide_has_its_tests() {
    let rows = rows();
    let attacks: BTreeSet<_> = rows.iter().map(|[attack, ..]| attack.as_str()).collect();
    let checked: BTreeSet<_> = CHECKED.iter().map(|(attack, ..)| *attack).collect();
    assert_eq!(attacks, checked);
    for (attack, option, tests) in CHECKED {
        let row = rows.iter().find(|[row, ..]| row == attack).expect("the row exists");
        assert!(row[2].contains(option) || row[1].contains(option), "{attack}: the guide does not name {option}");
        for test in *tests {
            let test = format!("fn {test}()");
            assert!(SOURCES.iter().any(|source| source.contains(&test)), "{attack}: there is no {test}");
        }
    }
}
