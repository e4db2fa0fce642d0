//! The runs. Names of the design's list come first.

mod clocks;
mod crowds;
mod cuts;
mod deaths;
mod deploys;
mod engines;
mod registers;
mod secured;
mod slow_peer;

use std::time::Instant;

use rustix::process::Signal;
use tokio::time::sleep;

use crate::bed::{Bed, SECOND, keys, timing};
use crate::messages::Block;
use crate::support::proxy::Flow;
use crate::support::within;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn j1_killed_node_is_replaced() {
    let Some(mut bed) = Bed::start(1, false).await else { return };
    let keys = keys("k", 120);
    let load = bed.load(&keys);
    sleep(SECOND).await;
    let killed = bed.nodes.remove(0);
    let concerned = bed.owned_by(killed.address, &keys);
    load.mark();
    killed.signal(Signal::KILL);
    bed.storage.killed(killed.pid());
    drop(killed);
    sleep(timing().take + 2 * SECOND).await;
    let report = bed.report("J1, SIGKILL of one of three", &load.end().await, &concerned);
    // A connection that breaks may have had a call in it. What was not sent is not lost.
    assert_eq!((report.all.not_delivered, report.all.timed_out, report.refused), (0, 0, 0));
    assert!(report.all.no_reply <= concerned.len() as u64);
    // The design's bars are `take` + 0.5 s and 250 ms, on a machine that does nothing else.
    assert!(report.hit.worst() < timing().take + 2 * SECOND, "{:?}", report.hit.worst());
    assert!(report.others.worst() < 2 * SECOND, "{:?}", report.others.worst());
    assert!(report.owned.is_some_and(|owned| owned < timing().take + 2 * SECOND), "{:?}", report.owned);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn j2_stopped_node_that_wakes_writes_nothing() {
    let Some(mut bed) = Bed::start(1, false).await else { return };
    let (mut all, work) = (keys("k", 90), keys("work-fenced", 15));
    all.extend(work);
    all.extend(keys("work-blind", 15));
    let load = bed.load(&all);
    sleep(SECOND).await;
    let stopped = bed.nodes.remove(0);
    let concerned = bed.owned_by(stopped.address, &all);

    // Shorter than `valid`: nothing but the pause itself.
    load.mark();
    stopped.signal(Signal::STOP);
    sleep(timing().valid / 2).await;
    stopped.signal(Signal::CONT);
    sleep(2 * SECOND).await;
    let report = bed.report("J2, SIGSTOP for half of `valid`", &load.end().await, &concerned);
    assert_eq!((report.all.not_delivered, report.all.no_reply, report.refused), (0, 0, 0), "it is still the owner");
    let load = bed.load_again(&all);
    sleep(SECOND).await;
    assert_eq!(bed.owned_by(stopped.address, &all), concerned);

    // Longer than `take`: others are the owners when it wakes.
    load.mark();
    let pause = bed.storage.paused(stopped.pid());
    stopped.signal(Signal::STOP);
    sleep(timing().take + 3 * SECOND).await;
    let woken = pause.end();
    stopped.signal(Signal::CONT);
    let (_, late) = stopped.line("fenced").await;
    stopped.line("rejoined").await;
    sleep(2 * SECOND).await;
    let report = bed.report("J2, SIGSTOP for `take` and 3 s", &load.end().await, &concerned);
    let (fenced, blind) = (bed.storage.refused("work-fenced"), bed.storage.refused("work-blind"));
    println!("    it woke {late} µs after its deadline; refused work: {fenced} with `holds`, {blind} without");
    // A write that was on its way when the process was stopped arrives when it wakes.
    assert_eq!(bed.storage.refused_since("work-fenced", woken), 0, "a fence that was looked at");
    assert_eq!(report.all.not_delivered, 0);
    assert!(report.hit.worst() < timing().take + 3 * SECOND, "{:?}", report.hit.worst());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn j5_node_cut_off_from_the_engine_stops_in_time() {
    let Some(bed) = Bed::start(1, true).await else { return };
    let keys = keys("k", 120);
    let load = bed.load(&keys);
    sleep(SECOND).await;
    let concerned = bed.owned_by(bed.nodes[0].address, &keys);
    load.mark();
    let proxy = bed.nodes[0].proxies.to_engine.as_ref().expect("the run has proxies");
    proxy.both(Flow::Swallow);
    bed.nodes[0].line("fenced").await;
    sleep(3 * SECOND).await;
    proxy.both(Flow::Pass);
    proxy.reset();
    bed.nodes[0].line("rejoined").await;
    bed.balanced(3).await;
    let report = bed.report("J5, one node cut off from the engine", &load.end().await, &concerned);
    assert_eq!((report.all.not_delivered, report.all.timed_out, report.refused), (0, 0, 0));
    // Only handlers that were aborted leave their callers without a reply.
    assert!(report.all.errors.keys().all(|error| error.starts_with("the worker sent no reply")));
    // Its peers reach it until its deadline, so its keys are away for `take - valid` and a beat.
    assert!(report.hit.worst() < timing().take, "{:?}", report.hit.worst());
    assert!(report.others.worst() < 2 * SECOND, "{:?}", report.others.worst());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn j8_code_that_never_yields_costs_the_process_in_time() {
    let Some(mut bed) = Bed::start(1, true).await else { return };
    let keys = keys("k", 120);
    let load = bed.load(&keys);
    sleep(SECOND).await;
    let mut node = bed.nodes.remove(0);
    let concerned = bed.owned_by(node.address, &keys);
    let key = concerned.first().expect("the node owns some key").clone();
    let via = bed.counters.via(&key);
    let blocked = tokio::spawn(async move { via.call(Block(60)).await });
    sleep(SECOND / 2).await;
    load.mark();
    let cut = Instant::now();
    node.proxies.to_engine.as_ref().expect("the run has proxies").both(Flow::Swallow);
    assert!(node.aborted().await, "the default policy");
    bed.storage.killed(node.pid());
    let aborted = cut.elapsed();
    sleep((cut + timing().take + 3 * SECOND).saturating_duration_since(Instant::now())).await;
    let lost = within(blocked, "the end of the blocked call").await.expect("it does not panic");
    assert!(lost.is_err_and(|error| error.may_have_run()));
    let report = bed.report("J8, code that never yields in a fence", &load.end().await, &concerned);
    println!("    aborted {aborted:?} after the cut; `valid` {:?}, `take` {:?}", timing().valid, timing().take);
    let reaction = (timing().take - timing().valid) / 2;
    assert!(aborted < timing().valid + reaction + SECOND / 4, "before others may take over: {aborted:?}");
    assert_eq!((report.all.not_delivered, report.refused), (0, 0));
}
