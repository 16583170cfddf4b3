//! The binary `crus`.

fn main() {}
