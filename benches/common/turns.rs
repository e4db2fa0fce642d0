//! Criterion measures one way after the other. On a machine whose speed changes meanwhile, a ratio of two figures says when they
//! were taken. So what is compared can also be measured in turns, by the same code: each way of a group for some milliseconds,
//! then the next, round and round, and each ratio is made within a round.
//!
//!     cargo bench -p benches --bench lookup -- --turns 15 3
//!
//! Each group is measured in so many rounds, and in so many processes of its own, for where in memory the workers of a table come
//! to lie is luck. Each makes the tables in another order. What they print is for the report: `turns`, group, way, and
//! nanoseconds for one operation by round.

use std::process::{Command, Stdio};
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, SamplingMode, Throughput};

/// How long a way is measured in its turn, and before that warmed up.
const TURN: Duration = Duration::from_millis(20);
const WARM_UP: Duration = Duration::from_millis(10);

/// Whether this is one process of several.
pub(crate) fn is_in_turns() -> bool {
    std::env::args().any(|arg| arg == "--turns")
}

/// All that one program measures.
pub(crate) struct Benches(How);

enum How {
    Criterion(Box<Criterion>),
    /// One process for each of these.
    Processes {
        rounds: String,
        processes: usize,
        groups: Vec<String>,
    },
    /// One group. Its ways are set up from this one on.
    Turns {
        rounds: usize,
        group: String,
        first: usize,
    },
}

impl Benches {
    /// By the command line: `--turns ROUNDS PROCESSES`, or `--turns ROUNDS GROUP FIRST` in one of these, or what criterion takes.
    pub(crate) fn new(criterion: impl FnOnce() -> Criterion) -> Self {
        let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let number = |text: &str| text.parse().unwrap_or_else(|_| panic!("not a number: {text}"));
        Self(match args[..] {
            ["--turns", rounds, processes] => {
                How::Processes { rounds: rounds.to_owned(), processes: number(processes), groups: Vec::new() }
            }
            ["--turns", rounds, group, first] => {
                How::Turns { rounds: number(rounds), group: group.to_owned(), first: number(first) }
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
            How::Turns { group, .. } if *group != name => Runs::Elsewhere,
            &mut How::Turns { rounds, first, .. } => {
                Runs::InTurns { name, rounds, first, operations: 1, ways: Vec::new() }
            }
        })
    }

    pub(crate) fn final_summary(self) {
        match self.0 {
            How::Criterion(criterion) => criterion.final_summary(),
            How::Turns { .. } => {}
            How::Processes { rounds, processes, groups } => {
                let program = std::env::current_exe().expect("this program has a name");
                // All groups once, and then again: the processes of one group are minutes apart.
                for (process, group) in
                    (0..processes).flat_map(|process| groups.iter().map(move |group| (process, group)))
                {
                    let mut command = Command::new(&program);
                    command.args(["--turns", &rounds, group, &process.to_string()]).stdin(Stdio::null());
                    let status = command.status().expect("it can be run again");
                    assert!(status.success(), "{group}: {status}");
                }
            }
        }
    }
}

/// What does the same, in several ways.
pub(crate) struct Group<'g>(Runs<'g>);

enum Runs<'g> {
    Now(BenchmarkGroup<'g, WallTime>),
    /// When all of them are known.
    InTurns {
        name: String,
        rounds: usize,
        first: usize,
        operations: u64,
        ways: Vec<Way<'g>>,
    },
    Elsewhere,
}

impl<'g> Group<'g> {
    /// How many operations an iteration is.
    pub(crate) fn operations(&mut self, number: usize) {
        match &mut self.0 {
            Runs::Now(group) => _ = group.throughput(Throughput::Elements(number as u64)),
            Runs::InTurns { operations, .. } => *operations = number as u64,
            Runs::Elsewhere => {}
        }
    }

    /// An iteration takes long: few samples are all that there is time for.
    pub(crate) fn is_slow(&mut self) {
        if let Runs::Now(group) = &mut self.0 {
            group.sample_size(10).sampling_mode(SamplingMode::Flat);
        }
    }

    /// What `measure` needs it makes when it is first called, and keeps.
    pub(crate) fn bench_function(&mut self, name: &str, measure: impl FnMut(&mut Bencher<'_, '_>) + 'g) {
        match &mut self.0 {
            Runs::Now(group) => {
                let mut measure = measure;
                group.bench_function(name, |bencher| measure(&mut Bencher::Criterion(bencher)));
            }
            Runs::InTurns { ways, .. } => {
                let (measure, name) = (Box::new(measure), name.to_owned());
                ways.push(Way { name, measure, iterations: 1, rounds: Vec::new() });
            }
            Runs::Elsewhere => {}
        }
    }

    pub(crate) fn finish(self) {}
}

impl Drop for Group<'_> {
    fn drop(&mut self) {
        let Runs::InTurns { name, rounds, first, operations, ways } = &mut self.0 else { return };
        if std::thread::panicking() {
            return;
        }
        let number = ways.len();
        for n in 0..number {
            ways[(*first + n) % number].get_ready();
        }
        for round in 0..*rounds {
            // Each comes after each other one once in a while.
            for n in 0..number {
                ways[(round + n * if round % 2 == 0 { 1 } else { number - 1 }) % number].take_turn();
            }
        }
        for way in ways {
            let rounds = way.rounds.iter().map(|nanoseconds| (nanoseconds / *operations as f64).to_string());
            println!("turns\t{name}\t{}\t{}", way.name, rounds.collect::<Vec<_>>().join(" "));
        }
    }
}

struct Way<'g> {
    name: String,
    measure: Box<dyn FnMut(&mut Bencher<'_, '_>) + 'g>,
    /// In one turn.
    iterations: u64,
    /// Nanoseconds for an iteration.
    rounds: Vec<f64>,
}

impl Way<'_> {
    fn run(&mut self, iterations: u64) -> Duration {
        let mut bencher = Bencher::Turn { iterations, elapsed: None };
        (self.measure)(&mut bencher);
        match bencher {
            Bencher::Turn { elapsed: Some(elapsed), .. } => elapsed,
            _ => panic!("{} has measured nothing", self.name),
        }
    }

    /// Makes what it needs, and finds out how much it can do in a turn.
    fn get_ready(&mut self) {
        let mut iterations = 1;
        let elapsed = loop {
            let elapsed = self.run(iterations);
            if elapsed >= TURN / 4 {
                break elapsed;
            }
            iterations *= 2;
        };
        let turns = TURN.as_secs_f64() / elapsed.as_secs_f64();
        self.iterations = ((iterations as f64 * turns) as u64).max(1);
    }

    fn take_turn(&mut self) {
        let warm_up = self.iterations as f64 * WARM_UP.as_secs_f64() / TURN.as_secs_f64();
        if warm_up >= 1.0 {
            self.run(warm_up as u64);
        }
        let elapsed = self.run(self.iterations);
        self.rounds.push(elapsed.as_secs_f64() * 1e9 / self.iterations as f64);
    }
}

/// Takes the time of some iterations.
pub(crate) enum Bencher<'b, 'c> {
    Criterion(&'b mut criterion::Bencher<'c>),
    Turn { iterations: u64, elapsed: Option<Duration> },
}

impl Bencher<'_, '_> {
    /// Does so many iterations, and says how long they took.
    pub(crate) fn iter_custom(&mut self, mut routine: impl FnMut(u64) -> Duration) {
        match self {
            Self::Criterion(bencher) => bencher.iter_custom(routine),
            Self::Turn { iterations, elapsed } => *elapsed = Some(routine(*iterations)),
        }
    }
}
