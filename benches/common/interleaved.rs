//! Criterion measures one variant after the other. If the speed of the machine changes meanwhile, the ratio of two
//! figures reflects when they were taken. So variants can also be measured interleaved, by the same code: each variant
//! of a group runs for some milliseconds, then the next one, in rounds, and each ratio is computed within a round.
//!
//!     cargo bench -p benches --bench lookup -- --interleaved 15 3
//!
//! Each group is measured in this many rounds and in this many separate processes, because the addresses of a table's
//! workers are random. Each process builds the tables in another order. The processes print lines for the report:
//! `interleaved`, group, variant, and the nanoseconds of an operation in each round.

use std::process::{Command, Stdio};
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, SamplingMode, Throughput};

/// How long a variant runs in each round, after its warm-up.
const ROUND_TIME: Duration = Duration::from_millis(20);
const WARM_UP: Duration = Duration::from_millis(10);

/// Whether this is one of several interleaved processes.
pub(crate) fn is_interleaved() -> bool {
    std::env::args().any(|arg| arg == "--interleaved")
}

/// All measurements of a program.
pub(crate) struct Benches(How);

enum How {
    Criterion(Box<Criterion>),
    /// One process for each of these.
    Processes {
        rounds: String,
        processes: usize,
        groups: Vec<String>,
    },
    /// One group. `first` is the variant that is set up first.
    Child {
        rounds: usize,
        group: String,
        first: usize,
    },
}

impl Benches {
    /// From the command line: `--interleaved ROUNDS PROCESSES`, or `--interleaved ROUNDS GROUP FIRST` in a child
    /// process, or criterion's options.
    pub(crate) fn new(criterion: impl FnOnce() -> Criterion) -> Self {
        let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let number = |text: &str| text.parse().unwrap_or_else(|_| panic!("not a number: {text}"));
        Self(match args[..] {
            ["--interleaved", rounds, processes] => {
                How::Processes { rounds: rounds.to_owned(), processes: number(processes), groups: Vec::new() }
            }
            ["--interleaved", rounds, group, first] => {
                How::Child { rounds: number(rounds), group: group.to_owned(), first: number(first) }
            }
            _ => How::Criterion(Box::new(criterion())),
        })
    }

    pub(crate) fn benchmark_group(&mut self, name: impl Into<String>) -> Group<'_> {
        let name = name.into();
        Group(match &mut self.0 {
            How::Criterion(criterion) => Runs::Now(criterion.benchmark_group(name)),
            How::Processes { groups, .. } => {
                groups.push(name);
                Runs::Elsewhere
            }
            How::Child { group, .. } if *group != name => Runs::Elsewhere,
            &mut How::Child { rounds, first, .. } => {
                Runs::Interleaved { name, rounds, first, operations: 1, variants: Vec::new() }
            }
        })
    }

    pub(crate) fn final_summary(self) {
        match self.0 {
            How::Criterion(criterion) => criterion.final_summary(),
            How::Child { .. } => {}
            How::Processes { rounds, processes, groups } => {
                let program = std::env::current_exe().expect("this program has a name");
                // All groups once, then again, so that the processes of a group are minutes apart.
                for (process, group) in
                    (0..processes).flat_map(|process| groups.iter().map(move |group| (process, group)))
                {
                    let mut command = Command::new(&program);
                    command.args(["--interleaved", &rounds, group, &process.to_string()]).stdin(Stdio::null());
                    let status = command.status().expect("the child process runs");
                    assert!(status.success(), "{group}: {status}");
                }
            }
        }
    }
}

/// A group of variants that do the same.
pub(crate) struct Group<'g>(Runs<'g>);

enum Runs<'g> {
    Now(BenchmarkGroup<'g, WallTime>),
    /// Runs when all variants are known.
    Interleaved {
        name: String,
        rounds: usize,
        first: usize,
        operations: u64,
        variants: Vec<Variant<'g>>,
    },
    Elsewhere,
}

impl<'g> Group<'g> {
    /// The number of operations per iteration.
    pub(crate) fn operations(&mut self, number: usize) {
        match &mut self.0 {
            Runs::Now(group) => _ = group.throughput(Throughput::Elements(number as u64)),
            Runs::Interleaved { operations, .. } => *operations = number as u64,
            Runs::Elsewhere => {}
        }
    }

    /// For long iterations: few samples fit into the time.
    pub(crate) fn is_slow(&mut self) {
        if let Runs::Now(group) = &mut self.0 {
            group.sample_size(10).sampling_mode(SamplingMode::Flat);
        }
    }

    /// `measure` sets itself up on its first call.
    pub(crate) fn bench_function(&mut self, name: &str, measure: impl FnMut(&mut Bencher<'_, '_>) + 'g) {
        match &mut self.0 {
            Runs::Now(group) => {
                let mut measure = measure;
                group.bench_function(name, |bencher| measure(&mut Bencher::Criterion(bencher)));
            }
            Runs::Interleaved { variants, .. } => {
                let (measure, name) = (Box::new(measure), name.to_owned());
                variants.push(Variant { name, measure, iterations: 1, rounds: Vec::new() });
            }
            Runs::Elsewhere => {}
        }
    }

    pub(crate) fn finish(self) {}
}

impl Drop for Group<'_> {
    fn drop(&mut self) {
        let Runs::Interleaved { name, rounds, first, operations, variants } = &mut self.0 else { return };
        if std::thread::panicking() {
            return;
        }
        let number = variants.len();
        for n in 0..number {
            variants[(*first + n) % number].calibrate();
        }
        for round in 0..*rounds {
            // Reverse every second round, so that each variant follows each of its neighbours.
            for n in 0..number {
                variants[(round + n * if round % 2 == 0 { 1 } else { number - 1 }) % number].run_round();
            }
        }
        for variant in variants {
            let rounds = variant.rounds.iter().map(|nanoseconds| (nanoseconds / *operations as f64).to_string());
            println!("interleaved\t{name}\t{}\t{}", variant.name, rounds.collect::<Vec<_>>().join(" "));
        }
    }
}

struct Variant<'g> {
    name: String,
    measure: Box<dyn FnMut(&mut Bencher<'_, '_>) + 'g>,
    /// Per round.
    iterations: u64,
    /// Nanoseconds per iteration.
    rounds: Vec<f64>,
}

impl Variant<'_> {
    fn run(&mut self, iterations: u64) -> Duration {
        let mut bencher = Bencher::Round { iterations, elapsed: None };
        (self.measure)(&mut bencher);
        match bencher {
            Bencher::Round { elapsed: Some(elapsed), .. } => elapsed,
            _ => panic!("{} has measured nothing", self.name),
        }
    }

    /// Sets up the variant and determines how many iterations fit into a round.
    fn calibrate(&mut self) {
        let mut iterations = 1;
        let elapsed = loop {
            let elapsed = self.run(iterations);
            if elapsed >= ROUND_TIME / 4 {
                break elapsed;
            }
            iterations *= 2;
        };
        let factor = ROUND_TIME.as_secs_f64() / elapsed.as_secs_f64();
        self.iterations = ((iterations as f64 * factor) as u64).max(1);
    }

    fn run_round(&mut self) {
        let warm_up = self.iterations as f64 * WARM_UP.as_secs_f64() / ROUND_TIME.as_secs_f64();
        if warm_up >= 1.0 {
            self.run(warm_up as u64);
        }
        let elapsed = self.run(self.iterations);
        self.rounds.push(elapsed.as_secs_f64() * 1e9 / self.iterations as f64);
    }
}

/// Times a number of iterations.
pub(crate) enum Bencher<'b, 'c> {
    Criterion(&'b mut criterion::Bencher<'c>),
    Round { iterations: u64, elapsed: Option<Duration> },
}

impl Bencher<'_, '_> {
    /// Runs this many iterations and returns the elapsed time.
    pub(crate) fn iter_custom(&mut self, mut routine: impl FnMut(u64) -> Duration) {
        match self {
            Self::Criterion(bencher) => bencher.iter_custom(routine),
            Self::Round { iterations, elapsed } => *elapsed = Some(routine(*iterations)),
        }
    }
}
