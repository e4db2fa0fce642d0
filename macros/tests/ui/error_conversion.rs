//! The compiler finds this out, and reports it at the user's line.

use gen_registry::worker;

struct Counter(u64);

#[worker(key = String)]
impl Counter {
    fn init() -> Self {
        Counter(0)
    }

    #[cast]
    fn parse(&mut self, n: String) -> Result<(), std::num::ParseIntError> {
        self.0 = n.parse()?;
        Ok(())
    }
}

fn main() {}
