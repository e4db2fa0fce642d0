//! A call to a worker of another node, beside a bare tonic service.

use std::future::Future;
use std::time::{Duration, Instant};

use gen_registry_cluster::engine::Memory;
use gen_registry_cluster::{Cluster, ClusterRegistry, ClusterVia, NodeTls};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::runtime::Runtime;

use crate::bare::{self, Pair};
use crate::bed::runtime;
use crate::cell::{Cell, Get, host, wait};
use crate::{Form, Row, median};

const AT_ONCE: usize = 64;

struct Times {
    calls: usize,
    span: Duration,
}

/// What one kind of call has shown, by round.
#[derive(Default)]
struct Shown {
    /// The median of calls that follow each other, in µs.
    alone: Vec<f64>,
    /// Calls a second, of 64 at once.
    together: Vec<f64>,
}

async fn alone<F: Future>(calls: usize, mut call: impl FnMut() -> F) -> f64 {
    let mut times = Vec::with_capacity(calls);
    for _ in 0..calls {
        let begin = Instant::now();
        call().await;
        times.push(begin.elapsed().as_secs_f64() * 1e6);
    }
    median(&mut times)
}

/// Calls in 64 tasks for a while. Returns the calls a second.
async fn together<F: Future<Output = ()> + Send + 'static>(
    span: Duration,
    call: impl Fn() -> F + Clone + Send + 'static,
) -> f64 {
    let begin = Instant::now();
    let tasks: Vec<_> = (0..AT_ONCE)
        .map(|_| {
            let call = call.clone();
            tokio::spawn(async move {
                let mut calls = 0_u64;
                while begin.elapsed() < span {
                    call().await;
                    calls += 1;
                }
                calls
            })
        })
        .collect();
    let mut calls = 0;
    for task in tasks {
        calls += task.await.expect("a caller does not panic");
    }
    calls as f64 / begin.elapsed().as_secs_f64()
}

/// Two nodes, and the address of a key of the second one.
struct Pairing {
    via: ClusterVia<Cell>,
    _nodes: [(Cluster, ClusterRegistry<Cell>); 2],
}

impl Pairing {
    fn new(near: &Runtime, far: &Runtime, tls: Option<&Authority>) -> Pairing {
        let engine = Memory::new();
        let join = |runtime: &Runtime| {
            let options = Cluster::builder("bars").engine(engine.clone()).shards(64).settle(Duration::from_millis(10));
            let options = options.listen(([127, 0, 0, 1], 0).into());
            let options = match tls {
                Some(authority) => options.tls(authority.node()),
                None => options,
            };
            let cluster = runtime.block_on(options.join()).expect("the node joins");
            let _entered = runtime.enter();
            let cells = host(&cluster, &Default::default());
            (cluster, cells)
        };
        let nodes = [join(near), join(far)];
        let keys = || (0..1_000).map(crate::moves::key_of);
        let (near, far) = (&nodes[0].0, &nodes[1].0);
        // As the sender sees it, too.
        let is_far = |key: &String| {
            [near, far].iter().all(|node| node.owner_of(key.as_bytes()).is_some_and(|(owner, _)| owner == far.id()))
        };
        wait("a shard for the second node", || keys().any(|key| is_far(&key)) && far.health().shards.here > 20);
        let key = keys().find(is_far).expect("it was there just now");
        Pairing { via: nodes[0].1.via(&key), _nodes: nodes }
    }

    async fn measure(&self, times: &Times, shown: &mut Shown) {
        let via = self.via.clone();
        let call = move || {
            let via = via.clone();
            async move {
                via.call(Get([7; 32])).await.expect("it is answered");
            }
        };
        shown.alone.push(alone(times.calls, &call).await);
        shown.together.push(together(times.span, call).await);
    }
}

/// Signs the certificates of the nodes.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Authority {
        let mut parameters = CertificateParams::new(Vec::new()).expect("no names");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Authority(CertifiedIssuer::self_signed(parameters, key).expect("a certificate"))
    }

    fn node(&self) -> NodeTls {
        let key = KeyPair::generate().expect("a key");
        let parameters = CertificateParams::new(["bars.gen-registry".to_owned()]).expect("a name");
        let certificate = parameters.signed_by(&key, &self.0).expect("a certificate");
        NodeTls::from_pem(self.0.pem(), certificate.pem(), key.serialize_pem())
    }
}

async fn unary(address: std::net::SocketAddr, times: &Times, shown: &mut Shown) {
    let client = bare::connect(address).await;
    let call = move || {
        let mut client = client.clone();
        async move { bare::unary(&mut client).await }
    };
    shown.alone.push(alone(times.calls, &call).await);
    shown.together.push(together(times.span, call).await);
}

async fn streamed(address: std::net::SocketAddr, times: &Times, shown: &mut Shown) {
    let mut client = bare::connect(address).await;
    let mut pair = Pair::open(&mut client, AT_ONCE).await;
    let mut alone = Vec::with_capacity(times.calls);
    for _ in 0..times.calls {
        let begin = Instant::now();
        pair.send().await;
        pair.receive().await;
        alone.push(begin.elapsed().as_secs_f64() * 1e6);
    }
    shown.alone.push(median(&mut alone));
    let begin = Instant::now();
    let echoes = pair.pump(AT_ONCE, begin + times.span).await;
    shown.together.push(echoes as f64 / begin.elapsed().as_secs_f64());
}

pub(crate) fn rows(form: Form) -> Vec<Row> {
    let (near, far) = (runtime(), runtime());
    let bare = far.block_on(bare::listen());
    let authority = Authority::new();
    let (plain, secured) = (Pairing::new(&near, &far, None), Pairing::new(&near, &far, Some(&authority)));
    let times = Times { calls: form.pick(2_000, 50), span: Duration::from_millis(form.pick(500, 50)) };
    let mut shown: [Shown; 4] = Default::default();
    for _ in 0..form.pick(21, 1) {
        let [one, two, three, four] = &mut shown;
        near.block_on(async {
            // As tasks run, and not in the thread that waits.
            unary(bare, &times, one).await;
            streamed(bare, &times, two).await;
            plain.measure(&times, three).await;
            secured.measure(&times, four).await;
        });
    }
    table(shown)
}

fn table(shown: [Shown; 4]) -> Vec<Row> {
    let [mut unary, mut streamed, mut plain, mut secured] = shown;
    // Within a round, as everywhere.
    let over =
        |row: &[f64], base: &[f64]| median(&mut row.iter().zip(base).map(|(row, base)| row / base).collect::<Vec<_>>());
    let over_unary = over(&plain.alone, &unary.alone);
    let over_stream = over(&plain.alone, &streamed.alone);
    let tls_alone = over(&secured.alone, &plain.alone);
    let tls_together = over(&plain.together, &secured.together);
    let (rate, slowest) = (median(&mut plain.together), plain.together[0]);
    let stream_rate = median(&mut streamed.together);
    vec![
        Row::new(
            "a call to another node, one at a time, p50, over a bare tonic unary call",
            "≤ 1.5×",
            format!("{over_unary:.2}× ({:.0} over {:.0} µs)", median(&mut plain.alone), median(&mut unary.alone)),
            over_unary <= 1.5,
        ),
        Row::new(
            "… over a message and its echo in a bare tonic stream",
            "≤ 3×",
            format!("{over_stream:.2}× (over {:.0} µs)", median(&mut streamed.alone)),
            over_stream <= 3.0,
        ),
        Row::new(
            "calls to another node, 64 at once, on 2 cores",
            "≥ 100,000/s",
            format!("{rate:.0}/s, in the slowest round {slowest:.0}/s"),
            rate >= 100_000.0,
        ),
        Row::beside(
            "… the bare stream; bare unary calls",
            format!(
                "{stream_rate:.0}/s, in the slowest round {:.0}/s; {:.0}/s",
                streamed.together[0],
                median(&mut unary.together)
            ),
        ),
        Row::new(
            "mTLS over plain: one at a time; 64 at once",
            "≤ 1.3×",
            format!(
                "{tls_alone:.2}× ({:.0} µs); {tls_together:.2}× ({:.0}/s)",
                median(&mut secured.alone),
                median(&mut secured.together)
            ),
            tls_alone <= 1.3 && tls_together <= 1.3,
        ),
    ]
}
