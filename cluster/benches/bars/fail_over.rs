//! A node that is killed.

use std::time::{Duration, Instant};

use crate::bed::{Bed, Node, balanced, owned};
use crate::moves::key_of;
use crate::probes::Probes;
use crate::{Form, Row};

pub(crate) fn rows(form: Form) -> Vec<Row> {
    let bed = Bed::new(form, 3);
    let (shards, take) = (bed.shards(), bed.timing().take);
    let (mut away, mut others) = (Vec::new(), Duration::ZERO);
    let mut nodes: Vec<Node> = (0..3).map(|_| bed.join("death")).collect();
    for _ in 0..form.pick(3, 1) {
        balanced(&nodes, shards);
        let probes = Probes::start(&nodes[0].runtime, &nodes[0].cells, (0..300).map(key_of).collect());
        std::thread::sleep(Duration::from_secs(1));
        let victim = nodes.pop().expect("three nodes");
        let owned_by_victim: Vec<String> = (0..300).map(key_of).filter(|key| victim.owns(key)).collect();
        assert!(!owned_by_victim.is_empty(), "the node owns none of 300 keys");
        let killed = Instant::now();
        victim.kill();
        owned(&nodes, shards);
        std::thread::sleep(Duration::from_millis(500));
        for (key, seen) in probes.end(&nodes[0].runtime) {
            if owned_by_victim.contains(&key) {
                away.push(seen.next_answer(killed).expect("the key answers again") - killed);
            } else {
                others = others.max(seen.longest_gap());
            }
        }
        nodes.push(bed.join("death"));
    }
    away.sort();
    let (p50, worst) = (away[away.len() / 2], away[away.len() - 1]);
    let limit = take + Duration::from_millis(500);
    vec![
        Row::new(
            format!("fail-over: {} keys of killed nodes, until they answer ({})", away.len(), bed.engine()),
            format!("≤ `take` + 0.5 s = {:.1} s, p50 ≤ `take`", limit.as_secs_f64()),
            format!("worst {:.2} s, p50 {:.2} s", worst.as_secs_f64(), p50.as_secs_f64()),
            worst <= limit && p50 <= take,
        ),
        Row::new(
            "all other keys, the longest time without an answer",
            "≤ 250 ms",
            format!("{} ms", others.as_millis()),
            others <= Duration::from_millis(250),
        ),
    ]
}
