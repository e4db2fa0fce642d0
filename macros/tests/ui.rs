//! The errors of `#[worker]`: each says what to write, at the line of the user.
//!
//! Two of them are the compiler's own. If another version words them differently, look at them and accept them:
//! `TRYBUILD=overwrite cargo test -p gen-registry-macros --test ui`.

#[test]
fn errors_point_at_the_line_and_advise() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("tests/ui/*.rs");
}
