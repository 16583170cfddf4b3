//! Draws that can be repeated.

/// Set to repeat the draws of a run; its timing is that of real processes and is not repeated.
const SEED: &str = "CRUS_TEST_SEED";

/// The seed of this run, which it prints.
pub(crate) fn seed() -> u64 {
    let seed = match std::env::var(SEED) {
        Ok(text) => text.parse().unwrap(),
        Err(_) => uuid::Uuid::new_v4().as_u64_pair().0,
    };
    println!("{SEED}={seed}");
    seed
}

/// The next random number: splitmix64.
pub(crate) fn draw(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
