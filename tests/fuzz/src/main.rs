//! `fuzz TARGET FILE..` tries files, such as an input that libFuzzer has found. `tests/fuzz/run` builds the same program
//! with libFuzzer in it.

#![cfg_attr(gen_registry_fuzz, no_main)]

#[cfg(gen_registry_fuzz)]
mod guided {
    #![allow(unsafe_code, reason = "exports the entry point of libFuzzer")]

    use std::sync::LazyLock;

    static TARGET: LazyLock<fuzz_tests::Target> = LazyLock::new(|| {
        let name = std::env::var("GEN_REGISTRY_FUZZ_TARGET").expect("GEN_REGISTRY_FUZZ_TARGET names the target");
        fuzz_tests::target(&name).unwrap_or_else(|| panic!("there is no target {name}"))
    });

    libfuzzer_sys::fuzz_target!(|data: &[u8]| {
        (TARGET.run)(data);
    });
}

#[cfg(not(gen_registry_fuzz))]
fn main() -> std::process::ExitCode {
    let mut arguments = std::env::args().skip(1);
    let Some(target) = arguments.next().and_then(|name| fuzz_tests::target(&name)) else {
        let names = fuzz_tests::TARGETS.map(|target| target.name).join(", ");
        eprintln!("usage: fuzz TARGET FILE..; the targets are {names}");
        return std::process::ExitCode::from(2);
    };
    for path in arguments {
        match std::fs::read(&path) {
            Ok(input) => println!("{path}: kind {:016x}", (target.run)(&input)),
            Err(error) => {
                eprintln!("fuzz: cannot read {path}: {error}");
                return std::process::ExitCode::FAILURE;
            }
        }
    }
    std::process::ExitCode::SUCCESS
}
