//! A node whose engine is away for longer than `valid`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use gen_registry_cluster::engine::Memory;
use gen_registry_cluster::{Cluster, FencePolicy, Timing};

use crate::bed::runtime;
use crate::cell::{Get, Lives, host, wait};
use crate::moves::key_of;
use crate::{Form, Row};

const WORKERS: usize = 1_000;

pub(crate) fn rows(form: Form) -> Vec<Row> {
    let millis = Duration::from_millis;
    let (beat, valid, take) = form.pick((300, 1_500, 3_500), (100, 400, 1_400));
    let timing = Timing { beat: millis(beat), valid: millis(valid), take: millis(take) };
    let (runtime, engine, lives) = (runtime(), Memory::new(), Arc::<Lives>::default());
    let options = Cluster::builder("fences").engine(engine.clone()).listen(([127, 0, 0, 1], 0).into()).timing(timing);
    // How late the workers end is what is measured.
    let options = options.fence_policy(FencePolicy::Report);
    let cluster = runtime.block_on(options.join()).expect("the node joins");
    let cells = {
        let _entered = runtime.enter();
        host(&cluster, &lives)
    };
    let (mut served, mut gone, mut back) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    let rounds = form.pick(7, 1);
    for _ in 0..rounds {
        runtime.block_on(async {
            for key in 0..WORKERS {
                cells.via(&key_of(key)).call(Get([7; 32])).await.expect("the worker starts and answers");
            }
        });
        assert_eq!(lives.alive(), WORKERS);
        let (last_answer, ends) = (Arc::new(Mutex::new(None)), Arc::new(AtomicBool::new(false)));
        let callers = (0..4).map(|caller| {
            let (via, last_answer, ends) = (cells.via(&key_of(caller)), last_answer.clone(), ends.clone());
            runtime.spawn(async move {
                while !ends.load(Ordering::Relaxed) {
                    if via.call_timeout(Duration::from_millis(50), Get([7; 32])).await.is_ok() {
                        *last_answer.lock().expect("nothing panics under the lock") = Some(Instant::now());
                    }
                }
            })
        });
        let callers: Vec<_> = callers.collect();
        engine.pause();
        // A beat that was under way has been answered by then.
        std::thread::sleep(timing.beat / 2);
        let deadline = Instant::now() + cluster.health().valid_for;
        wait("the end of the workers", || lives.alive() == 0);
        ends.store(true, Ordering::Relaxed);
        for caller in callers {
            runtime.block_on(caller).expect("a caller does not panic");
        }
        let last_answer = last_answer.lock().expect("nothing panics under the lock").expect("it served");
        served = served.max(last_answer.saturating_duration_since(deadline));
        gone = gone.max(lives.last_end().expect("workers have ended").saturating_duration_since(deadline));
        engine.resume();
        let resumed = Instant::now();
        wait("the next membership", || cluster.health().is_ok());
        back = back.max(resumed.elapsed());
    }
    let limit = 2 * timing.beat + Duration::from_secs(1);
    vec![
        Row::new(
            format!("fence, the worst of {rounds}: after `valid` to the last answer"),
            "≤ 20 ms",
            format!("{:.1} ms", served.as_secs_f64() * 1e3),
            served <= Duration::from_millis(20),
        ),
        Row::new(
            format!("… to the end of all {WORKERS} workers"),
            "≤ 100 ms",
            format!("{:.1} ms", gone.as_secs_f64() * 1e3),
            gone <= Duration::from_millis(100),
        ),
        Row::new(
            "… a member again, after the engine is back",
            format!("≤ 2 `beat` + 1 s = {:.1} s", limit.as_secs_f64()),
            format!("{:.2} s", back.as_secs_f64()),
            back <= limit,
        ),
    ]
}
