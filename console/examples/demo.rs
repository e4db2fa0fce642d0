//! A service that does nothing but work: registries that start, crash, idle, evict, own each other and fill mailboxes.
//!
//! ```sh
//! cargo run -p gen-registry-console --example demo -- [--actions] [--workers 2000] [--listen 127.0.0.1:8090]
//! ```

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use gen_registry::inspect::Inspector;
use gen_registry::{Context, Eviction, Registry, Reply, Restart, Worker};
use gen_registry_console::Console;
use tokio::time::sleep;

/// Small numbers that look random and are the same in each run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        // xorshift64
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// What a phone rejects. A call takes a moment; some fail.
struct Phone;

enum Ring {
    Call { takes: Duration, reply: Reply<bool> },
    Break(String),
    Panic,
}

impl Worker for Phone {
    type Key = String;
    type Args = ();
    type Message = Ring;
    type Error = String;

    async fn init(_: (), ctx: &mut Context<Self>) -> Result<Self, String> {
        sleep(Duration::from_millis(8)).await;
        if ctx.key().ends_with("0713") { Err("the store has no such phone".to_owned()) } else { Ok(Self) }
    }

    async fn handle(&mut self, ring: Ring, _: &mut Context<Self>) -> Result<(), String> {
        match ring {
            Ring::Call { takes, reply } => {
                sleep(takes).await;
                reply.send(true);
                Ok(())
            }
            Ring::Break(why) => Err(why),
            Ring::Panic => panic!("index out of bounds: the len is 3 but the index is 3"),
        }
    }
}

/// A tenant owns a registry of sessions.
struct Tenant {
    sessions: Registry<Session>,
}

impl Worker for Tenant {
    type Key = String;
    type Args = Inspector;
    type Message = u64;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    async fn init(inspector: Inspector, ctx: &mut Context<Self>) -> Result<Self, Self::Error> {
        let name = format!("sessions of {}", ctx.key());
        let sessions = Registry::<Session>::builder().name(name).inspect(&inspector, u64::to_string);
        let sessions = sessions.idle_timeout(Duration::from_secs(20)).build()?;
        ctx.own(&sessions);
        Ok(Self { sessions })
    }

    async fn handle(&mut self, session: u64, _: &mut Context<Self>) -> Result<(), Self::Error> {
        self.sessions.via_or_start(&session, ()).cast(()).await.map_err(|error| error.to_string().into())
    }
}

struct Session;

impl Worker for Session {
    type Key = u64;
    type Args = ();
    type Message = ();
    type Error = std::convert::Infallible;

    async fn init(_: (), _: &mut Context<Self>) -> Result<Self, Self::Error> {
        Ok(Self)
    }

    async fn handle(&mut self, _: (), _: &mut Context<Self>) -> Result<(), Self::Error> {
        Ok(())
    }
}

/// Calls phones, some of them far more often than others, and has a few fail.
async fn ring(phones: Registry<Phone>, keys: u64, seed: u64) {
    static FAILED: AtomicU64 = AtomicU64::new(0);
    let mut dice = Dice(seed);
    loop {
        let most = if dice.below(3) == 0 { keys } else { keys.min(40) };
        let key = format!("+1202555{:04}", dice.below(most));
        let takes = Duration::from_millis(if dice.below(900) == 0 { 1_500 } else { dice.below(4) });
        let call = phones
            .via_or_start(&key, ())
            .call_timeout(Duration::from_secs(3), |reply| Ring::Call { takes, reply })
            .await;
        if call.is_err() {
            FAILED.fetch_add(1, Ordering::Relaxed);
        }
        if dice.below(700) == 0 {
            let broken = if dice.below(2) == 0 {
                Ring::Panic
            } else {
                Ring::Break("the store answered 503: overloaded".to_owned())
            };
            let _ = phones.via(&key).try_cast(broken); // What is not delivered breaks nothing, which is as well.
        }
        sleep(Duration::from_millis(dice.below(12))).await;
    }
}

/// Now and then more calls to one phone than its mailbox holds.
async fn flood(phones: Registry<Phone>) {
    let mut dice = Dice(99);
    loop {
        let key = format!("+120255500{:02}", dice.below(12));
        for _ in 0..dice.below(70) {
            let takes = Duration::from_millis(30 + dice.below(60));
            drop(phones.via(&key).try_call(|reply| Ring::Call { takes, reply }));
        }
        sleep(Duration::from_millis(700 + dice.below(1_500))).await;
    }
}

async fn visit(tenants: Registry<Tenant>, inspector: Inspector) {
    let mut dice = Dice(7);
    for tenant in [
        "acme",
        "initech",
        "umbrella corporation of the outer and the inner northern territories",
        "<b>bold</b> & sons",
    ]
    .iter()
    .cycle()
    {
        let _ = tenants.via_or_start(*tenant, inspector.clone()).cast(dice.below(60)).await; // A tenant that stops loses a visit.
        sleep(Duration::from_millis(40)).await;
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let arguments: Vec<String> = std::env::args().collect();
    let value = |name: &str| arguments.iter().position(|found| found == name).and_then(|at| arguments.get(at + 1));
    let keys = value("--workers").map_or(Ok(2_000), |text| text.parse())?;
    let inspector = Inspector::new();
    let inspector =
        if arguments.iter().any(|found| found == "--actions") { inspector.allow_actions() } else { inspector };

    let phones = Registry::<Phone>::builder()
        .name("phones")
        .inspect(&inspector, |phone| phone.clone())
        .inspect_labels(|phone| vec![format!("area {}", &phone.key()[2..5])])
        .mailbox_capacity(64)
        .max_workers(usize::try_from(keys)? * 3 / 4)
        .eviction(Eviction::LeastRecentlyActive)
        .idle_timeout(Duration::from_secs(90))
        .max_concurrent_starts(8)
        .restart(Restart::Transient)
        .build()?;
    let tenants = Registry::<Tenant>::builder()
        .name("tenants")
        .inspect(&inspector, |tenant| tenant.clone())
        .restart(Restart::Permanent)
        .build()?;
    for seed in 1..=24 {
        tokio::spawn(ring(phones.clone(), keys, seed * 7_919));
    }
    tokio::spawn(flood(phones.clone()));
    tokio::spawn(visit(tenants.clone(), inspector.clone()));

    let console = Console::new(&inspector);
    let service = Router::new().nest("/console", console.router());
    let listener = tokio::net::TcpListener::bind(value("--listen").map_or("127.0.0.1:8090", |address| address)).await?;
    println!("http://{}/console", listener.local_addr()?);
    axum::serve(listener, service).await?;
    Ok(())
}
