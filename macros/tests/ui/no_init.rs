use gen_registry::worker;

struct Counter(u64);

#[worker(key = String)]
impl Counter {
    #[call]
    fn get(&self) -> u64 {
        self.0
    }
}

fn main() {}
