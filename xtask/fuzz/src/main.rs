//! Checks one property of foreign input, that which `CRUS_FUZZ_TARGET` names, on whatever libFuzzer thinks of.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

static CHECK: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let wanted = std::env::var("CRUS_FUZZ_TARGET").expect("CRUS_FUZZ_TARGET names a property");
    let known = crus_server::fuzzing::properties().find(|(name, _)| *name == wanted);
    known.expect("CRUS_FUZZ_TARGET names a property that there is").1
});

fuzz_target!(|data: &[u8]| (*CHECK)(data));
