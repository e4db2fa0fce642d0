//! Tries each target with its corpus, and with inputs that are generated from it.
//!
//! `GEN_REGISTRY_FUZZ_SECONDS` is the time of all targets together, and `GEN_REGISTRY_FUZZ_SEED` what is generated.

use std::panic::{self, AssertUnwindSafe};
use std::time::{Duration, Instant};

use fuzz_tests::{Generator, TARGETS, Target, corpus, target};

/// Runs an input. A failure prints it, so that it can be kept.
fn attempt(target: Target, what: &str, input: &[u8]) -> u64 {
    panic::catch_unwind(AssertUnwindSafe(|| (target.run)(input))).unwrap_or_else(|failure| {
        eprintln!("{}: {what} fails: b\"{}\"", target.name, input.escape_ascii());
        panic::resume_unwind(failure)
    })
}

fn setting(name: &str, default: f64) -> f64 {
    let set = std::env::var(name).ok();
    set.map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name} must be a number, not {value:?}")))
}

fn fuzz(name: &str) {
    let target = target(name).expect("a target of this name");
    let seed = setting("GEN_REGISTRY_FUZZ_SEED", 1.0) as u64;
    let time = Duration::from_secs_f64(setting("GEN_REGISTRY_FUZZ_SECONDS", 3.0) / TARGETS.len() as f64);
    let mut generator = Generator::new(target, seed);
    let kept = corpus(target);
    for (file, input) in &kept {
        let kind = attempt(target, file, input);
        generator.keep(input, kind);
    }
    let (began, known) = (Instant::now(), generator.kinds());
    let mut count = 0_u64;
    // At least some, on a machine of any speed.
    while count < 200 || began.elapsed() < time {
        let input = generator.next_input();
        let kind = attempt(target, &format!("input {count} of seed {seed}"), &input);
        generator.keep(&input, kind);
        count += 1;
    }
    println!(
        "{name}: {} inputs of the corpus with {known} kinds, {count} generated, {} kinds",
        kept.len(),
        generator.kinds()
    );
    assert!(known > 1, "the corpus of {name} has one kind of input");
}

#[test]
fn body() {
    fuzz("body");
}

#[test]
fn complaint_file() {
    fuzz("complaint_file");
}

#[test]
fn phone_number() {
    fuzz("phone_number");
}

#[test]
fn registry() {
    fuzz("registry");
}

#[test]
fn rule() {
    fuzz("rule");
}
