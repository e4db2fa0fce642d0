//! Methods that are no message.

use gen_registry::worker;

struct Counter(u64);

#[worker(key = String)]
impl Counter {
    fn init() -> Self {
        Counter(0)
    }

    #[cast]
    fn without_state(n: u64) {
        let _ = n;
    }

    #[call]
    fn consume(self) -> u64 {
        self.0
    }

    #[call]
    fn boxed(self: Box<Self>) -> u64 {
        self.0
    }

    #[cast]
    fn add<N: Into<u64>>(&mut self, n: N) {
        self.0 += n.into();
    }

    #[cast]
    fn add_where(&mut self, n: u64)
    where
        u64: Copy,
    {
        self.0 += n;
    }

    #[cast]
    unsafe fn reset(&mut self) {
        self.0 = 0;
    }

    #[cast]
    fn increment(&mut self) -> u64 {
        self.0 += 1;
        self.0
    }

    #[call]
    fn later(&mut self, reply: gen_registry::Reply<u64>) -> u64 {
        reply.send(self.0);
        self.0
    }

    #[call]
    #[cast]
    fn both(&self) {}

    #[call(timeout)]
    fn unknown_option(&self) {}

    #[call]
    fn stop(&mut self) {}

    #[call]
    fn clone(&self) -> u64 {
        self.0
    }

    #[call]
    fn get(&self) -> u64 {
        self.0
    }

    #[cast]
    fn get_timeout(&mut self) {}

    #[cast]
    fn fine(&mut self) {
        self.0 += 1;
    }
}

fn main() {
    // A refused method does not take the others with it.
    let _ = (CounterMessage::Fine, CounterMessage::Get);
}
