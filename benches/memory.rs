//! The memory of an idle worker, and the time to start and to end very many.
//!
//! This is a program. Each variant runs in separate processes: one counts every allocation, the other measures time and
//! resident memory.

mod common;

use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use allocation_counter::measure;
use anyhow::{Context as _, ensure};
use common::baselines::{Dash, DashOnce, Joined, Locked, Moka, Papaya};
use common::peers::{Kameo, Ractor};
use common::{Counter, Key, Threads, Variant, fill, quiet, thousands, time};
use futures_util::FutureExt as _;
use gen_registry::{Builder, Eviction, Registry};

/// A variant to measure, with or without options.
struct Measured {
    name: &'static str,
    weigh: fn(How, usize) -> anyhow::Result<()>,
}

const fn variant(name: &'static str, weigh: fn(How, usize) -> anyhow::Result<()>) -> Measured {
    Measured { name, weigh }
}

/// Names that begin with "gen-registry" are also measured with a million workers in a quick run.
const VARIANTS: &[Measured] = &[
    variant("gen-registry", |how, workers| weigh(how, workers, Registry::<Counter<String>>::new)),
    variant("gen-registry, idle timeout", |how, workers| weigh(how, workers, || built(with_idle_timeout))),
    variant("gen-registry, eviction", |how, workers| weigh(how, workers, || built(with_eviction))),
    variant("gen-registry, idle timeout and metrics", |how, workers| {
        weigh(how, workers, || built(|builder| with_idle_timeout(builder).name("weighed")))
    }),
    variant(Papaya::<String>::NAME, |how, workers| weigh(how, workers, Papaya::<String>::empty)),
    variant(Dash::<String>::NAME, |how, workers| weigh(how, workers, Dash::<String>::empty)),
    variant(Joined::NAME, |how, workers| weigh(how, workers, Joined::empty)),
    variant(DashOnce::<String>::NAME, |how, workers| weigh(how, workers, DashOnce::<String>::empty)),
    variant(Locked::<String>::NAME, |how, workers| weigh(how, workers, Locked::<String>::empty)),
    variant(Moka::<String>::NAME, |how, workers| weigh(how, workers, Moka::<String>::empty)),
    variant(Kameo::NAME, |how, workers| weigh(how, workers, Kameo::empty)),
    variant(Ractor::NAME, |how, workers| weigh(how, workers, Ractor::empty)),
];

type Options = Builder<Counter<String>>;

fn built(options: fn(Options) -> Options) -> Registry<Counter<String>> {
    options(Registry::builder()).build().expect("the options are valid")
}

/// Longer than the measurement takes.
fn with_idle_timeout(options: Options) -> Options {
    options.idle_timeout(Duration::from_secs(3_600))
}

/// With a limit that is never reached.
fn with_eviction(options: Options) -> Options {
    options.max_workers(10_000_000).eviction(Eviction::LeastRecentlyActive)
}

/// The number of tasks that start workers in the timed process.
const CALLERS: usize = 64;

#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    /// Counts every allocation, on a single thread.
    Counted,
    /// Measures time and resident memory, on two threads.
    Resident,
}

impl How {
    fn name(self) -> &'static str {
        match self {
            Self::Counted => "counted",
            Self::Resident => "resident",
        }
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).filter(|arg| *arg != "--bench").collect();
    let done = match args[..] {
        ["--child", name, how, workers] => child(name, how, workers),
        ["--test"] => all(&[1_000], |_, _| Some(1)),
        ["--quick"] => all(&[100_000, 1_000_000], |name, workers| {
            (workers <= 100_000 || name.starts_with("gen-registry")).then_some(1)
        }),
        [] => all(&[100_000, 1_000_000], |name, _| Some(if name.starts_with("gen-registry") { 3 } else { 1 })),
        _ => Err(anyhow::anyhow!("usage: memory [--quick | --test]")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Measures every variant with this many workers. Each figure is the median of `runs` runs.
fn all(sizes: &[usize], runs: impl Fn(&str, usize) -> Option<usize>) -> anyhow::Result<()> {
    allocations_of_a_hit();
    for &workers in sizes {
        for variant in VARIANTS {
            let Some(runs) = runs(variant.name, workers) else { continue };
            for (how, runs) in [(How::Counted, 1), (How::Resident, runs)] {
                let runs: anyhow::Result<Vec<_>> = (0..runs).map(|_| run(variant.name, how, workers)).collect();
                let runs = match runs {
                    Ok(runs) => runs,
                    // A million actors of a peer may not fit into memory.
                    Err(error) if !variant.name.starts_with("gen-registry") => {
                        eprintln!("left out: {error:#}");
                        continue;
                    }
                    Err(error) => return Err(error),
                };
                for (n, (what, _, unit)) in runs[0].iter().enumerate() {
                    let mut numbers: Vec<f64> = runs.iter().map(|run| run[n].1).collect();
                    numbers.sort_by(f64::total_cmp);
                    let number = numbers[numbers.len() / 2];
                    let name = variant.name;
                    println!("figure\tmemory/{} workers, {what}\t{name}\t{number:.3}\t{unit}", thousands(workers));
                }
            }
        }
    }
    Ok(())
}

/// A figure's name, number and unit.
type Figure = (String, f64, String);

/// Measures in a separate process.
fn run(name: &str, how: How, workers: usize) -> anyhow::Result<Vec<Figure>> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--child", name, how.name(), &workers.to_string()]);
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success(),
        "{name} with {workers} workers, {}: {}\n{}",
        how.name(),
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    let figure = |line: &str| {
        let mut fields = line.split('\t').map(str::to_owned);
        let (what, number, unit) = (fields.next()?, fields.next()?.parse().ok()?, fields.next()?);
        Some((what, number, unit))
    };
    said.lines().map(|line| figure(line).with_context(|| format!("not a figure: {line:?}"))).collect()
}

fn child(name: &str, how: &str, workers: &str) -> anyhow::Result<()> {
    let variant = VARIANTS.iter().find(|variant| variant.name == name).context("no such variant")?;
    let how = [How::Counted, How::Resident].into_iter().find(|one| one.name() == how).context("no such manner")?;
    (variant.weigh)(how, workers.parse()?)
}

fn weigh<W: Variant<String>>(how: How, workers: usize, make: fn() -> W) -> anyhow::Result<()> {
    match how {
        How::Counted => {
            let runtime = Threads::Current.runtime();
            let mut table = None;
            let counted = measure(|| {
                table = Some(runtime.block_on(async {
                    let table = make();
                    fill(table.clone(), workers).await;
                    table
                }));
            });
            println!("allocated\t{}\tB", counted.bytes_current as f64 / workers as f64);
            println!("allocations of a start\t{}\t", counted.count_total as f64 / workers as f64);
            // The end is not measured, and the process exits here.
            std::mem::forget(table);
        }
        How::Resident => {
            let runtime = common::runtime();
            let table = runtime.block_on(async { make() });
            let before = resident("VmRSS:")?;
            let started = time(&runtime, CALLERS, |caller| {
                let table = table.clone();
                async move {
                    for n in (caller..workers).step_by(CALLERS) {
                        table.start(&String::nth(n)).await;
                    }
                }
            });
            // Wait for the work that the last starts have left.
            std::thread::sleep(Duration::from_millis(200));
            let after = resident("VmRSS:")?;
            let begun = Instant::now();
            runtime.block_on(table.end());
            quiet(&runtime);
            let ended = begun.elapsed();
            println!("RSS\t{}\tB", after.saturating_sub(before) as f64 / workers as f64);
            println!("RSS of the process\t{}\tMiB", after as f64 / 1_048_576.0);
            println!("start\t{}\ts", started.as_secs_f64());
            println!("shut down\t{}\ts", ended.as_secs_f64());
            println!(
                "peak RSS of the process, the shutdown included\t{}\tMiB",
                resident("VmHWM:")? as f64 / 1_048_576.0
            );
        }
    }
    Ok(())
}

/// A field of the memory status of this process.
fn resident(field: &str) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status").context("this needs Linux")?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)).with_context(|| format!("no {field}"))?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1024)
}

/// The allocations of a hit in a registry with a worker.
fn allocations_of_a_hit() {
    let runtime = Threads::Current.runtime();
    let (registry, key) = (runtime.block_on(async { Registry::<Counter<String>>::new() }), String::nth(0));
    runtime.block_on(async {
        Variant::start(&registry, &key).await;
        // A thread's first read allocates its guard of the table.
        assert!(registry.lookup(&key).is_some());
        for (what, hit) in [
            ("lookup", measure(|| drop(registry.lookup(&key)))),
            ("lookup_or_start", measure(|| drop(Variant::start(&registry, &key).now_or_never().expect("a hit")))),
        ] {
            println!("figure\tallocations of a hit/{what}\tgen-registry\t{}\t", hit.count_total);
        }
    });
}
