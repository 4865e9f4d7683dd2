//! The `amphi` binary.
fn main() {}
