//! Random clusters as sites may have them.

use crus_core::batch::Order;
use crus_core::{Limits, Spec};
use crus_sim::ClusterConfig;
use crus_sim::config::{BootBehaviour, BosConfig, Span};
use crus_sim::workload::{Drawn, Workload};

use crate::common::{MINUTE, cluster, spec};

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn between(&mut self, min: u64, max: u64) -> u64 {
        min + self.next() % (max - min + 1)
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::try_from(self.between(0, of.len() as u64 - 1)).unwrap()]
    }
}

/// A cluster, an upgrade of it, and what its operator knows.
pub(crate) struct Site {
    pub(crate) config: ClusterConfig,
    pub(crate) limits: Limits,
    pub(crate) spec: Spec,
    /// Whether it was upgraded before; if not, the operator has configured how long things take there.
    pub(crate) upgraded_before: bool,
    /// For people.
    pub(crate) what: String,
}

/// The site of this seed: busy or not, with jobs of minutes or of hours that use much or little of their limits, slow or
/// fast boots; in one of eight there is a node that will not boot.
pub(crate) fn site(seed: u64) -> Site {
    let dice = &mut Dice(seed);
    let size = u32::try_from(dice.between(16, 120)).unwrap();
    let step = (size / u32::try_from(dice.between(2, 20)).unwrap()).max(1);
    let busy = dice.pick(&[300, 600, 800, 900, 950]);
    let longest = dice.pick(&[10, 30, 60, 120, 240]);
    let shortest = dice.pick(&[1, 5, 10]);
    let percent = dice.pick(&[110, 150, 150, 200, 300]);
    let unlimited = dice.pick(&[0, 0, 20]);
    let (low, high) = dice.pick(&[(2, 4), (4, 12), (8, 15)]);
    let order = dice.pick(&[Order::SoonestFree, Order::SoonestFree, Order::SoonestFree, Order::Name]);
    let broken = dice.between(0, 7) == 0;
    let upgraded_before = dice.between(0, 1) == 0;
    let mut config = cluster(size);
    config.workload = Workload::Drawn(Drawn {
        busy_per_mille: busy,
        length: Span::new(shortest * MINUTE, longest * MINUTE),
        limit_percent: percent,
        unlimited_per_mille: unlimited,
        ..Drawn::default()
    });
    config.bos = BosConfig { boot: Span::new(low * MINUTE, high * MINUTE), ..BosConfig::default() };
    if broken {
        let node = usize::try_from(dice.between(0, u64::from(size) - 1)).unwrap();
        config.nodes[node].boot = BootBehaviour::Fails;
    }
    let mut limits = Limits { order, ..Limits::default() };
    if !upgraded_before {
        limits.boot_low_ms = low * MINUTE + MINUTE / 2;
        limits.boot_high_ms = high * MINUTE + 3 * MINUTE / 2;
        limits.job_used_percent = 10_000 / percent;
    }
    let what = format!(
        "{size} nodes by {step}, {busy} of 1000 busy, jobs of {shortest} to {longest} min, limits of {percent}%, {unlimited} of \
         1000 without, boots of {low} to {high} min, {order:?}{}{}",
        if broken { ", one is broken" } else { "" },
        if upgraded_before { ", upgraded before" } else { "" }
    );
    Site { config, limits, spec: spec(step), upgraded_before, what }
}
