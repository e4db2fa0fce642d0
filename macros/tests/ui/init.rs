#![allow(unused)]

use gen_registry::{Context, worker};

struct Method;

#[worker(key = String)]
impl Method {
    fn init(&self) -> Self {
        Method
    }
}

struct Nothing;

#[worker(key = String)]
impl Nothing {
    fn init() {}
}

struct Associated;

#[worker(key = String)]
impl Associated {
    async fn init(_: Self::Args, _: &mut Context<Self>) -> Result<Self, Self::Error> {
        Ok(Associated)
    }
}

struct AssociatedError;

#[worker(key = String)]
impl AssociatedError {
    async fn init() -> Result<Self, Self::Error> {
        Ok(AssociatedError)
    }
}

type LoadResult<T> = Result<T, std::io::Error>;
struct Alias;

#[worker(key = String)]
impl Alias {
    async fn init() -> LoadResult<Self> {
        Ok(Alias)
    }
}

struct NamedError;

#[worker(key = String, error = std::io::Error)]
impl NamedError {
    async fn init() -> LoadResult<Self> {
        Ok(NamedError)
    }
}

fn main() {}
