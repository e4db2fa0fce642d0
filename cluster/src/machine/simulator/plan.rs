//! What happens in one run: settings, noise of the network, and faults. All of it follows from a seed.

use std::time::Duration;

use test_support::Random;

use crate::machine::mutation::Mutation;

pub(super) const MS: u64 = 1_000_000;

/// One run.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) seed: u64,
    pub(super) nodes: usize,
    /// The first is not zero.
    pub(super) weights: Vec<u32>,
    pub(super) shards: u16,
    pub(super) timing: Timing,
    pub(super) noise: Noise,
    /// When the faults end, in nanoseconds. The liveness is checked afterwards.
    pub(super) calm: u64,
    pub(super) faults: Vec<(u64, Fault)>,
    pub(super) breaks: Breaks,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Timing {
    pub(super) beat: Duration,
    pub(super) valid: Duration,
    pub(super) take: Duration,
    pub(super) settle: Duration,
    pub(super) attempt: Duration,
    pub(super) lanes: usize,
    pub(super) batch: usize,
    /// The clocks run faster or slower than the true time by at most this many millionths.
    pub(super) drift: u64,
}

/// Chances in a thousand, for each message between a node and the store.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Noise {
    pub(super) lose: u64,
    pub(super) double: u64,
    /// Takes up to about the timeout of an attempt.
    pub(super) slow: u64,
    /// Takes up to twice `take`: the node gave it up long ago.
    pub(super) very_slow: u64,
    /// A drain that does not keep its timeouts.
    pub(super) stuck: u64,
    /// A later deadline that is seen too late.
    pub(super) early_fences: u64,
    /// An abort that does not take effect in time.
    pub(super) never_yields: u64,
}

/// What is broken on purpose.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Breaks {
    /// A mistake in the machine.
    pub(super) mutation: Option<Mutation>,
    /// Each node's clock stops while it is suspended, as those of tokio and of the standard library do.
    pub(super) clock_stops: bool,
    /// The rates of clocks differ by more than A2 allows. Then two nodes may hold a shard, but epochs must still grow.
    pub(super) beyond_a2: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Fault {
    /// SIGSTOP, and SIGCONT after the time.
    Pause {
        node: usize,
        time: u64,
    },
    /// The system of the node is suspended.
    Suspend {
        node: usize,
        time: u64,
    },
    Crash {
        node: usize,
        down: u64,
        version: u64,
    },
    Leave {
        node: usize,
        down: u64,
        version: u64,
    },
    /// The node is cut off from the store, one way or both ways.
    Cut {
        node: usize,
        time: u64,
        to: bool,
        from: bool,
    },
    /// The store has no majority.
    Away {
        time: u64,
    },
    /// The watch breaks with an error.
    DropWatch {
        node: usize,
    },
    /// The watch stays open and says nothing more.
    MuteWatch {
        node: usize,
    },
    /// What the store sends to the node is late.
    Slow {
        node: usize,
        time: u64,
    },
    Compact,
    /// The clock of the node has another rate from here on.
    Drift {
        node: usize,
        millionths: u64,
    },
}

impl Plan {
    pub(super) fn new(seed: u64, breaks: Breaks) -> Plan {
        let mut random = Random::new(seed);
        let nodes = random.between(3, 6) as usize;
        let weights = (0..nodes).map(|node| if node == 0 { 1 } else { *random.pick(&[1, 1, 1, 3, 0]) }).collect();
        let timing = Timing::new(&mut random, breaks.beyond_a2);
        let noise = Noise::new(&mut random);
        let calm = timing.take.as_nanos() as u64 * random.between(4, 12);
        let mut faults = Vec::new();
        for _ in 0..random.between(0, 16) {
            let (at, node) = (random.between(0, calm), random.between(0, nodes as u64) as usize);
            let fault = Fault::new(&mut random, node, &timing);
            faults.push((at, fault));
            // A link that degrades often fails next.
            if let Fault::Slow { time, .. } = fault
                && random.is(500)
            {
                let cut = Fault::Cut { node, time: 2 * timing.take.as_nanos() as u64, to: true, from: true };
                faults.push((at + random.between(0, time), cut));
            }
            // Faults seldom come alone.
            while random.is(400) {
                let at = at + random.between(0, timing.take.as_nanos() as u64);
                faults.push((at, Fault::new(&mut random, node, &timing)));
            }
        }
        // A suspend is rare in nature, and alone shows a clock that stops.
        if breaks.clock_stops {
            let (at, node) = (random.between(0, calm), random.between(0, nodes as u64) as usize);
            faults.push((at, Fault::Suspend { node, time: 2 * timing.take.as_nanos() as u64 }));
        }
        faults.retain(|(at, _)| *at < calm);
        faults.sort_by_key(|(at, _)| *at);
        Plan { seed, nodes, weights, shards: random.between(3, 20) as u16, timing, noise, calm, faults, breaks }
    }

    /// A run without noise, whose faults are those of the test.
    pub(super) fn quiet(nodes: usize, shards: u16, calm: Duration, faults: Vec<(Duration, Fault)>) -> Plan {
        let timing = Timing {
            beat: Duration::from_secs(1),
            valid: Duration::from_secs(8),
            take: Duration::from_secs(10),
            settle: Duration::from_secs(10),
            attempt: Duration::from_secs(1),
            lanes: 8,
            batch: 100,
            drift: 0,
        };
        let faults = faults.into_iter().map(|(at, fault)| (at.as_nanos() as u64, fault)).collect();
        let (noise, breaks, calm) = (Noise::default(), Breaks::default(), calm.as_nanos() as u64);
        Plan { seed: 1, nodes, weights: vec![1; nodes], shards, timing, noise, calm, faults, breaks }
    }
}

impl Timing {
    fn new(random: &mut Random, beyond_a2: bool) -> Timing {
        let ms = Duration::from_millis;
        let (beat, valid, take) = *random.pick(&[
            (ms(1000), ms(8000), ms(10_000)),
            (ms(1000), ms(4000), ms(5000)),
            (ms(500), ms(2000), ms(2500)),
            (ms(500), ms(1500), ms(1900)),
            (ms(500), ms(1500), ms(1900)),
        ]);
        // valid (1 + drift) + half of (take - valid) + 10 ms for the wake-up <= take (1 - drift)
        let slack = (take - valid) / 2 - ms(20);
        let most = slack.as_micros() as u64 * 1_000_000 / (take + valid).as_micros() as u64;
        let drift = *random.pick(&[0, 500, most / 2, most]);
        Timing {
            beat,
            valid,
            take,
            settle: *random.pick(&[ms(200), ms(2000), ms(10_000)]),
            attempt: beat.mul_f64(*random.pick(&[0.3, 0.5, 1.0, 2.0])),
            lanes: *random.pick(&[1, 3, 8]),
            batch: *random.pick(&[8, 16, 100]),
            drift: if beyond_a2 { 400_000 } else { drift },
        }
    }
}

impl Noise {
    fn new(random: &mut Random) -> Noise {
        let mut level = |levels: &[u64]| *random.pick(levels);
        Noise {
            lose: level(&[0, 5, 50, 200]),
            double: level(&[0, 20, 200]),
            slow: level(&[0, 20, 200]),
            very_slow: level(&[0, 5, 50]),
            stuck: level(&[0, 50, 300]),
            early_fences: level(&[0, 0, 10]),
            never_yields: level(&[0, 0, 20]),
        }
    }
}

impl Fault {
    fn new(random: &mut Random, node: usize, timing: &Timing) -> Fault {
        let (valid, take) = (timing.valid.as_nanos() as u64, timing.take.as_nanos() as u64);
        let time = match random.between(0, 3) {
            0 => random.between(1, valid),
            1 => random.between(valid - valid / 4, take),
            _ => random.between(take, 2 * take),
        };
        let down = random.between(MS, take);
        let version = random.between(0, 2);
        let is = |x: u64| x > 0;
        match random.between(0, 16) {
            0 | 1 => Fault::Pause { node, time },
            2 => Fault::Suspend { node, time },
            3 | 4 => Fault::Crash { node, down, version },
            5 | 6 => Fault::Leave { node, down, version },
            7 => Fault::Cut { node, time, to: true, from: true },
            8 => Fault::Cut { node, time, to: is(random.between(0, 2)), from: true },
            9 => Fault::Cut { node, time, to: true, from: is(random.between(0, 2)) },
            10 => Fault::Away { time },
            11 => Fault::DropWatch { node },
            12 => Fault::MuteWatch { node },
            13 => Fault::Slow { node, time: time + valid },
            14 => Fault::Compact,
            _ => {
                let drift = timing.drift;
                Fault::Drift { node, millionths: random.between(1_000_000 - drift, 1_000_001 + drift) }
            }
        }
    }
}
