//! Checks that the cost of no operation grows faster than the logarithm of the number of workers.
//!
//! The program fails otherwise. It uses a current-thread runtime, so that it times the work and not the scheduling over
//! threads.

mod common;

use std::hint::black_box;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use common::baselines::Papaya;
use common::{Begin, Counter, Counts, Key, Probes, Threads, Variant, fill, quiet, thousands};
use gen_registry::Registry;

/// This many random workers exit and start again.
const CHURN: usize = 1_000;

/// For disturbances on the machine.
const MARGIN: f64 = 2.0;

/// The baseline: a map of senders, whose lookup slows down only because of the caches.
const FLOOR: &str = "papaya: lookup";

/// How many uncached memory accesses an operation may need, each as expensive as the growth of the baseline. `None` is
/// not judged.
fn misses(operation: &str) -> Option<f64> {
    match operation {
        "count" => Some(0.0),
        FLOOR | "lookup" | "sample" | "reduce, for each worker" => Some(2.0),
        // Depends on the largest number of workers so far, because the table does not shrink.
        LAST_TEN => None,
        _ => Some(8.0),
    }
}

const LAST_TEN: &str = "sample, of the last ten";

/// An operation and its nanoseconds for each number of workers.
type Row = (&'static str, Vec<f64>);

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let (sizes, rounds): (&[usize], usize) = match args.first().map(String::as_str) {
        Some("--test") => (&[100, 1_000], 1),
        Some("--quick") => (&[1_000, 10_000, 100_000, 1_000_000], 3),
        None => (&[1_000, 10_000, 100_000, 1_000_000], 7),
        Some(_) => {
            eprintln!("usage: growth [--quick | --test]");
            return ExitCode::FAILURE;
        }
    };
    let mut rows: Vec<Row> = Vec::new();
    for &workers in sizes {
        let measured = hand_written(workers, rounds).into_iter().chain(gen_registry(workers, rounds));
        for (n, (name, cost)) in measured.enumerate() {
            if rows.len() == n {
                rows.push((name, Vec::new()));
            }
            rows[n].1.push(cost);
        }
    }
    let is_logarithmic = print(sizes, &rows);
    // A smoke run only shows that the bench runs. A hundred workers are too few for a verdict.
    if is_logarithmic || args.first().is_some_and(|arg| arg == "--test") {
        ExitCode::SUCCESS
    } else {
        eprintln!("something grows worse than logarithmically: see above");
        ExitCode::FAILURE
    }
}

/// The minimum of some rounds: the cost without disturbances.
fn least(rounds: usize, mut round: impl FnMut() -> f64) -> f64 {
    (0..rounds).map(|_| round()).fold(f64::INFINITY, f64::min)
}

fn each(elapsed: Duration, operations: usize) -> f64 {
    elapsed.as_secs_f64() * 1e9 / operations as f64
}

/// The time of an operation, repeated this many times.
fn repeat(operations: usize, mut operation: impl FnMut()) -> f64 {
    let begun = Instant::now();
    for _ in 0..operations {
        operation();
    }
    each(begun.elapsed(), operations)
}

fn hand_written(workers: usize, rounds: usize) -> [(&'static str, f64); 1] {
    let runtime = Threads::Current.runtime();
    let map = runtime.block_on(async { Papaya::<String>::empty() });
    runtime.block_on(fill(map.clone(), workers));
    let lookups = workers.max(100_000);
    let mut probes = Probes::<String>::all(workers);
    let lookup = least(rounds, || repeat(lookups, || drop(black_box(map.lookup(probes.next())))));
    runtime.block_on(map.end());
    quiet(&runtime);
    [(FLOOR, lookup)]
}

fn gen_registry(workers: usize, rounds: usize) -> Vec<(&'static str, f64)> {
    let runtime = Threads::Current.runtime();
    let mut costs = Vec::new();

    // From empty, including every resize of the table. As many registries as reach the largest number of workers.
    let fills = rounds.min(1_000_000 / workers).max(1);
    let mut registry = None;
    costs.push((
        "start, from none",
        least(fills, || {
            if let Some(registry) = registry.take() {
                runtime.block_on(Variant::<String>::end(registry));
                quiet(&runtime);
            }
            let new = runtime.block_on(async { Registry::<Counter<String>>::new() });
            let begun = Instant::now();
            runtime.block_on(fill(new.clone(), workers));
            registry = Some(new);
            each(begun.elapsed(), workers)
        }),
    ));
    let registry = registry.expect("the registry is filled at least once");

    let operations = workers.max(100_000);
    let mut probes = Probes::<String>::all(workers);
    costs.push(("lookup", least(rounds, || repeat(operations, || drop(black_box(registry.lookup(probes.next())))))));
    let mut calls = || {
        runtime.block_on(async {
            let begun = Instant::now();
            for _ in 0..operations {
                black_box(Counts::call(&registry.lookup(probes.next()).expect("the worker is running")).await);
            }
            each(begun.elapsed(), operations)
        })
    };
    costs.push(("lookup and call", least(rounds.min(3), &mut calls)));
    costs.push(("count", least(rounds, || repeat(100_000, || assert_eq!(black_box(&registry).count(), workers)))));
    costs.push(("sample", least(rounds, || repeat(10_000, || drop(black_box(registry.sample()))))));
    costs.push(("reduce, for each worker", {
        least(rounds, || {
            let begun = Instant::now();
            black_box(registry.reduce(0, |sum, key, _| sum + key.len()));
            each(begun.elapsed(), workers)
        })
    }));

    // Some workers exit and start again.
    let churn = CHURN.min(workers);
    let (mut stop, mut start, mut kill) = (f64::INFINITY, f64::INFINITY, f64::INFINITY);
    for _ in 0..rounds {
        let keys: Vec<String> = (0..churn).map(|_| probes.next().clone()).collect();
        runtime.block_on(async {
            let begun = Instant::now();
            for key in &keys {
                registry.stop(key).await.expect("the worker is running");
            }
            stop = stop.min(each(begun.elapsed(), churn));
            let begun = Instant::now();
            for key in &keys {
                drop(registry.start(key, Begin::AtOnce).await.expect("the key is vacant"));
            }
            start = start.min(each(begun.elapsed(), churn));
            let begun = Instant::now();
            for key in &keys {
                registry.kill(key).await.expect("the worker is running");
            }
            kill = kill.min(each(begun.elapsed(), churn));
            for key in &keys {
                drop(registry.start(key, Begin::AtOnce).await.expect("the key is vacant"));
            }
        });
    }
    costs.extend([("start", start), ("stop", stop), ("kill", kill)]);

    // The table has had many workers and now has ten.
    runtime.block_on(async {
        for n in 10..workers {
            registry.stop(&String::nth(n)).await.expect("the worker is running");
        }
    });
    costs.push((LAST_TEN, least(rounds, || repeat(10, || drop(black_box(registry.sample()))))));
    runtime.block_on(Variant::<String>::end(registry));
    quiet(&runtime);
    costs
}

/// Prints a table, and lines for the report. Returns whether nothing grows too fast.
fn print(sizes: &[usize], rows: &[Row]) -> bool {
    let floor = &rows[0].1;
    let mut is_logarithmic = true;
    print!("{:<28}", "ns for each, workers:");
    for &size in sizes {
        print!("{:>12}", thousands(size));
    }
    println!("{:>12}", "at most");
    for (name, costs) in rows {
        print!("{name:<28}");
        let misses = misses(name);
        let mut most = f64::INFINITY;
        let mut fits = true;
        for (n, (&size, &cost)) in sizes.iter().zip(costs).enumerate() {
            let logarithm = (size as f64).ln() / (sizes[0] as f64).ln();
            if let Some(misses) = misses {
                most = MARGIN * (costs[0] * logarithm + misses * (floor[n] - floor[0]).max(0.0));
                fits &= cost <= most;
            }
            print!("{cost:>12.1}");
        }
        match (misses, fits) {
            (None, _) => println!("  not judged"),
            (_, true) => println!("{most:>12.1}"),
            (_, false) => println!("{most:>12.1}  WORSE THAN LOGARITHMIC"),
        }
        is_logarithmic &= fits;
    }
    for (name, costs) in rows {
        for (&size, cost) in sizes.iter().zip(costs) {
            println!("figure\tgrowth/{name}\t{} workers\t{cost:.3}\tns", thousands(size));
        }
    }
    println!("figure\tgrowth/logarithmic\tgen-registry\t{}\t", u8::from(is_logarithmic));
    is_logarithmic
}
