//! A message to a worker of this node, beside the local `Via`.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gen_registry::Registry;
use gen_registry_cluster::Cluster;
use tokio::runtime::Builder;

use crate::cell::{Cell, Get, Lives, Message, Put, host};
use crate::{Form, Row, median};

pub(crate) fn rows(form: Form) -> Vec<Row> {
    let mut rows = Vec::new();
    for (name, mut runtime) in
        [("on one thread", Builder::new_current_thread()), ("on two threads", Builder::new_multi_thread())]
    {
        let runtime = runtime.worker_threads(2).enable_all().build().expect("a runtime");
        let measured = runtime.block_on(async move { tokio::spawn(here(name, form)).await });
        rows.extend(measured.expect("the measurement does not panic"));
    }
    rows
}

async fn each<F: Future>(times: u32, mut run: impl FnMut() -> F) -> f64 {
    let begin = Instant::now();
    for _ in 0..times {
        run().await;
    }
    begin.elapsed().as_nanos() as f64 / f64::from(times)
}

async fn here(name: &str, form: Form) -> Vec<Row> {
    let lives = Arc::<Lives>::default();
    let local = Registry::<Cell>::builder().mailbox_capacity(4096).build().expect("the options work");
    let local = local.via_or_start("k", lives.clone());
    let cluster = Cluster::solo("bars");
    let cells = host(&cluster, &lives);
    let via = cells.via("k");
    let within = Duration::from_secs(10);
    let get = || Get([7; 32]);
    let mut times: [Vec<f64>; 5] = Default::default();
    for _ in 0..form.pick(101, 2) {
        let call = || async { local.call(|reply| Message::Get(get(), reply)).await.is_ok() };
        let timed = || async { local.call_timeout(within, |reply| Message::Get(get(), reply)).await.is_ok() };
        times[0].push(each(2_000, call).await);
        times[1].push(each(2_000, || async { via.call(get()).await.is_ok() }).await);
        times[2].push(each(2_000, timed).await);
        // Fewer than a mailbox has room for. The call after them empties it.
        times[3].push(each(4_000, || async { local.cast(Message::Put(Put(1))).await.is_ok() }).await);
        local.call(|reply| Message::Get(get(), reply)).await.expect("it is answered");
        times[4].push(each(4_000, || async { via.cast(Put(1)).await.is_ok() }).await);
        via.call(get()).await.expect("it is answered");
    }
    cluster.leave().await;
    // Within a round: what else the machine does concerns both alike.
    let over = |row: usize, base: usize| -> (f64, f64) {
        let pairs = || times[row].iter().zip(&times[base]);
        let mut ratios: Vec<f64> = pairs().map(|(row, base)| row / base).collect();
        let mut more: Vec<f64> = pairs().map(|(row, base)| row - base).collect();
        (median(&mut ratios), median(&mut more))
    };
    let (call, timed, cast) = (over(1, 0), over(1, 2), over(4, 3));
    let [mut local_call, mut here, mut local_timed, mut local_cast, mut here_cast] = times;
    let (local_call, here) = (median(&mut local_call), median(&mut here));
    vec![
        Row::new(
            format!("a call, shard here, over the local `Via::call`, {name}"),
            "≤ 1.05× and ≤ +60 ns",
            format!("{:.2}×, {:+.0} ns ({here:.0} over {local_call:.0} ns)", call.0, call.1),
            call.0 <= 1.05 && call.1 <= 60.0,
        ),
        Row::beside(
            format!("… over the local `Via::call_timeout`, which has a deadline as well, {name}"),
            format!("{:.2}×, {:+.0} ns (over {:.0} ns)", timed.0, timed.1, median(&mut local_timed)),
        ),
        Row::new(
            format!("a cast, shard here, over the local `Via::cast`, {name}"),
            "≤ +60 ns",
            format!("{:+.0} ns ({:.0} over {:.0} ns)", cast.1, median(&mut here_cast), median(&mut local_cast)),
            cast.1 <= 60.0,
        ),
    ]
}
