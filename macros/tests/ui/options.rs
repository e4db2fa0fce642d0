mod unknown {
    struct Counter;

    #[gen_registry::worker(key = String, mesage = Command)]
    impl Counter {}
}

mod twice {
    struct Counter;

    #[gen_registry::worker(key = String, key = u32)]
    impl Counter {}
}

mod no_value {
    struct Counter;

    #[gen_registry::worker(key)]
    impl Counter {}
}

fn main() {}
