//! The random numbers of the model: SplitMix64, which needs one word of state and no crate.

use serde::{Deserialize, Serialize};

/// A stream of numbers that its seed determines.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Rng(u64);

impl Rng {
    /// The stream of this seed and purpose. Each purpose has its own, so that (say) the jobs stay the same
    /// when an upgrade boots other nodes.
    pub(crate) fn new(seed: u64, purpose: u64) -> Self {
        let mut rng = Rng(seed ^ purpose.wrapping_mul(0xA076_1D64_78BD_642F));
        rng.next();
        rng
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number from `min` to `max`, both included; `min` when they are the wrong way round.
    pub(crate) fn between(&mut self, min: u64, max: u64) -> u64 {
        match max.checked_sub(min) {
            None | Some(0) => min,
            Some(u64::MAX) => self.next(),
            // The high half of a product with the width: no division, and a bias far below notice.
            Some(width) => min + ((u128::from(self.next()) * u128::from(width + 1)) >> 64) as u64,
        }
    }

    /// Whether something of this chance happens, in parts of a thousand.
    pub(crate) fn chance(&mut self, per_mille: u32) -> bool {
        self.between(0, 999) < u64::from(per_mille)
    }
}
