//! The enum of a public worker is as private as its methods.

use gen_registry::worker;

pub struct Exported;

#[worker(key = String)]
impl Exported {
    fn init() -> Self {
        Exported
    }

    #[cast]
    fn private(&mut self) {}
}

fn main() {}
