use gen_registry::worker;

struct Counter(u64);

#[worker]
impl Counter {
    fn init() -> Self {
        Counter(0)
    }
}

fn main() {}
