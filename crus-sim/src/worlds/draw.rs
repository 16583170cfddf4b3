//! What a world is made of, drawn from its seed.

use std::collections::{BTreeMap, BTreeSet};
use std::num::{NonZeroU32, NonZeroU64};

use crus_core::batch::Order;
use crus_core::names::{CheckName, Domain, PartitionName};
use crus_core::strategy::{Amount, OnDrainTimeout};
use crus_core::window::{self, Weekday, Window};
use crus_core::{GroupLabel, Limits, NodeName, Spec, Strategy, Xname};

use crate::checks::CheckEnd;
use crate::config::{
    BootBehaviour, BosApi, BosConfig, ClusterConfig, GroupSpec, Held, NodeSpec, ReturnToService, SlurmConfig,
    Span, TemplateSpec,
};
use crate::faults::Fault;
use crate::rng::Rng;
use crate::workload::{Drawn, Workload};

pub(super) const SECOND: u64 = 1_000;
pub(super) const MINUTE: u64 = 60 * SECOND;
pub(super) const HOUR: u64 = 60 * MINUTE;

/// A world before it begins.
#[derive(Debug)]
pub(super) struct Drawing {
    pub(super) config: ClusterConfig,
    pub(super) limits: Limits,
    /// The sessions, in the order in which they are created.
    pub(super) specs: Vec<Spec>,
    /// How many calls in a thousand fail, and how.
    pub(super) per_mille: u32,
    pub(super) faults: Vec<Fault>,
    /// How many things the operator and fate do.
    pub(super) turns: u64,
    /// The longest job.
    pub(super) longest_job_ms: u64,
    /// Nodes whose check does not just pass.
    pub(super) checks: Vec<(Xname, CheckEnd)>,
}

impl Rng {
    /// One of these.
    pub(super) fn pick<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        of.get(self.between(0, of.len().saturating_sub(1) as u64) as usize).copied()
    }
}

fn one_of(rng: &mut Rng, of: &[u64]) -> u64 {
    rng.pick(of).unwrap_or_default()
}

fn xname(n: u64) -> Option<Xname> {
    Xname::new(&format!("x1000c0s{}b{}n0", n / 2, n % 2)).ok()
}

pub(super) fn drawing(seed: u64) -> Option<Drawing> {
    let mut rng = Rng::new(seed, 10);
    let rng = &mut rng;
    let size = match rng.between(0, 9) {
        0..=3 => rng.between(2, 5),
        4..=7 => rng.between(4, 12),
        _ => rng.between(12, 40),
    };
    // One healthy world in four.
    let troubled = rng.chance(750);
    let mut config = ClusterConfig::default();
    for n in 0..size {
        config.nodes.push(node(rng, n, troubled)?);
    }
    if troubled {
        for node in &config.nodes {
            match rng.between(0, 14) {
                0 => _ = config.held.insert(node.xname, Held::Drained("bad dimm".to_owned())),
                1 => _ = config.held.insert(node.xname, Held::Down("bad cable".to_owned())),
                _ => {}
            }
        }
    }
    let longest_job_ms = workload(rng, &mut config);
    config.slurm = SlurmConfig {
        return_to_service: rng.pick(&[
            ReturnToService::Never,
            ReturnToService::IfNotResponding,
            ReturnToService::Always,
        ])?,
        epilog: Span::new(0, one_of(rng, &[0, 5 * SECOND, 30 * SECOND])),
        ..SlurmConfig::default()
    };
    config.bos = BosConfig {
        boot: Span::new(MINUTE, one_of(rng, &[2, 5, 9]) * MINUTE),
        attempts: rng.between(1, 3) as u32,
        attempt_ms: 10 * MINUTE,
        forget_ms: one_of(rng, &[10 * MINUTE, HOUR, 7 * 24 * HOUR]),
        respects_locks: !rng.chance(200),
        ..BosConfig::default()
    };
    partitions(rng, &mut config)?;
    let specs = sessions(rng, &mut config)?;
    let checks = checks(rng, &config);
    if rng.chance(300) {
        config.bos.api = BosApi::V1;
        config.bos.says_complete = rng.chance(700);
    }
    Some(Drawing {
        checks,
        limits: Limits {
            poll_ms: one_of(rng, &[2, 5, 10, 10, 30]) * SECOND,
            retry_max_ms: one_of(rng, &[10, 60, 120]) * SECOND,
            drain_timeout_ms: match rng.between(0, 2) {
                0 => Some(one_of(rng, &[5, 20]) * MINUTE),
                _ => None,
            },
            boot_timeout_ms: one_of(rng, &[30, 90]) * MINUTE,
            return_timeout_ms: one_of(rng, &[5, 10]) * MINUTE,
            settle_ms: one_of(rng, &[30, 60]) * SECOND,
            order: rng.pick(&[Order::SoonestFree, Order::Name, Order::Spread, Order::Pack])?,
            ..Limits::default()
        },
        specs,
        per_mille: one_of(rng, &[0, 0, 10, 50, 150, 300]) as u32,
        faults: faults(rng),
        turns: rng.between(5, 50),
        longest_job_ms,
        config,
    })
}

fn node(rng: &mut Rng, n: u64, troubled: bool) -> Option<NodeSpec> {
    let mut node = NodeSpec::new(xname(n)?, n as u32 + 1);
    node.cpus = 4;
    if !troubled {
        return Some(node);
    }
    node.boot = match rng.between(0, 19) {
        0 => BootBehaviour::Fails,
        1 => BootBehaviour::Hangs,
        2 => BootBehaviour::NeverRegisters,
        3 => BootBehaviour::DidNotReboot,
        4 => BootBehaviour::OnHold { error: "no power service".to_owned() },
        5 => BootBehaviour::Takes { ms: rng.between(MINUTE, 15 * MINUTE) },
        _ => BootBehaviour::Normal,
    };
    match rng.between(0, 39) {
        0 => node.locked = true,
        1 => node.enabled = false,
        2 => node.role = "Management".to_owned(),
        3 => node.nid = None,
        4 => node.arch = "ARM".to_owned(),
        5 => node.in_hsm = false,
        6 => node.name = None,
        _ => {}
    }
    Some(node)
}

/// Gives the cluster its jobs; returns the length of the longest.
fn workload(rng: &mut Rng, config: &mut ClusterConfig) -> u64 {
    let longest = match rng.between(0, 5) {
        0 => return 0,
        1 => 2 * HOUR,
        2 => 30 * MINUTE,
        3 => 10 * MINUTE,
        _ => 3 * MINUTE,
    };
    config.workload = Workload::Drawn(Drawn {
        busy_per_mille: one_of(rng, &[500, 900, 1000]) as u32,
        length: Span::new(10 * SECOND, longest),
        sizes: vec![1, 1, 2, 3],
        unlimited_per_mille: 100,
        waiting: 4,
        ..Drawn::default()
    });
    longest
}

/// One to three sessions, with their groups and templates. Some share a group, some share nodes.
fn sessions(rng: &mut Rng, config: &mut ClusterConfig) -> Option<Vec<Spec>> {
    let count = rng.pick(&[1u64, 1, 1, 2, 2, 3])?;
    // A node at the end belongs to nobody: a bystander.
    let nodes: Vec<Xname> = config.nodes.iter().map(|node| node.xname).collect();
    let taken = nodes.len() - usize::from(nodes.len() > 2);
    let share = taken.div_ceil(count as usize);
    let mut specs = Vec::new();
    let group = |config: &mut ClusterConfig, label: String, members: Vec<Xname>| {
        let label = GroupLabel::new(&label).ok()?;
        config.groups.insert(label.clone(), GroupSpec { members, ..GroupSpec::default() });
        Some(label)
    };
    let mut templates = BTreeMap::new();
    for n in 0..count {
        // An overlap with the session before.
        let overlap = if n > 0 && rng.chance(300) { 1 } else { 0 };
        let from = (n as usize * share).saturating_sub(overlap).min(taken);
        let to = ((n as usize + 1) * share).min(taken);
        let starting = group(config, format!("all-{n}"), nodes.get(from..to).unwrap_or_default().to_vec())?;
        let upgrading = if n > 0 && rng.chance(400) { 0 } else { n };
        let failed = if n > 0 && rng.chance(400) { 0 } else { n };
        let left_over = if rng.chance(100) { nodes.get(from..from + 1).unwrap_or_default() } else { &[] };
        let upgrading = match upgrading == n {
            true => group(config, format!("up-{n}"), left_over.to_vec())?,
            false => GroupLabel::new(&format!("up-{upgrading}")).ok()?,
        };
        let failed = match failed == n {
            true => group(config, format!("failed-{n}"), left_over.to_vec())?,
            false => GroupLabel::new(&format!("failed-{failed}")).ok()?,
        };
        let template = format!("image-{upgrading}").parse().ok()?;
        templates.insert(template, TemplateSpec::of_group(upgrading.as_str()));
        specs.push(Spec {
            starting,
            template: format!("image-{upgrading}").parse().ok()?,
            tenant: None,
            upgrading,
            failed,
            step_size: NonZeroU32::new(rng.between(1, 6) as u32)?,
            strategy: strategy(rng, config)?,
        });
    }
    config.templates = templates;
    Some(specs)
}

/// No partitions but the usual one, or two, of which one may hold nodes of the other.
fn partitions(rng: &mut Rng, config: &mut ClusterConfig) -> Option<()> {
    let names: Vec<NodeName> = config.nodes.iter().filter_map(|node| node.name.clone()).collect();
    if rng.chance(600) || names.len() < 2 {
        return Some(());
    }
    let half = names.len() / 2;
    let from = if rng.chance(500) { half } else { half / 2 };
    config.partitions = BTreeMap::from([
        (PartitionName::new("batch").ok()?, names[..half].to_vec()),
        (PartitionName::new("debug").ok()?, names[from..].to_vec()),
    ]);
    Some(())
}

/// What an operator asks for beside the group and the image: nothing, or any of the options.
fn strategy(rng: &mut Rng, config: &ClusterConfig) -> Option<Strategy> {
    let mut strategy = Strategy::default();
    if rng.chance(300) {
        return Some(strategy);
    }
    if rng.chance(300) {
        strategy.max_failed = Some(amount(rng, &[0, 1, 2]));
    }
    if rng.chance(250) {
        strategy.max_failed_step = Some(amount(rng, &[0, 1]));
    }
    if rng.chance(300) {
        let sizes = rng.pick(&[&[1u32][..], &[1, 3], &[2, 2, 9]])?;
        strategy.canary = sizes.iter().filter_map(|size| NonZeroU32::new(*size)).collect();
        if rng.chance(500) {
            strategy.soak_s = NonZeroU64::new(one_of(rng, &[30, 600, 1800]));
        }
    }
    if rng.chance(400) {
        strategy.drain_timeout_s = NonZeroU64::new(one_of(rng, &[30, 300, 1200]));
        strategy.on_drain_timeout = rng.pick(&[
            OnDrainTimeout::Wait,
            OnDrainTimeout::Skip,
            OnDrainTimeout::Requeue,
            OnDrainTimeout::Cancel,
            OnDrainTimeout::Later,
            OnDrainTimeout::Later,
        ])?;
    }
    if rng.chance(400) {
        strategy.order = rng.pick(&[Order::SoonestFree, Order::Name, Order::Spread, Order::Pack]);
        strategy.domain = rng.pick(&[Domain::Cabinet, Domain::Chassis, Domain::Slot, Domain::Board])?;
    }
    if strategy.order != Some(Order::Pack) && rng.chance(200) {
        strategy.max_per_domain = NonZeroU32::new(one_of(rng, &[1, 2, 3]) as u32);
    }
    if rng.chance(250) {
        let partitions: Vec<PartitionName> = match config.partitions.is_empty() {
            true => vec![PartitionName::new("batch").ok()?],
            false => config.partitions.keys().cloned().collect(),
        };
        for name in partitions {
            if rng.chance(700) {
                strategy.min_in_service.insert(name, amount(rng, &[0, 1, 2]));
            }
        }
        if rng.chance(50) {
            strategy.min_in_service.insert(PartitionName::new("nowhere").ok()?, Amount::Count(1));
        }
    }
    if rng.chance(200) {
        strategy.window = Some(window(rng)?);
    }
    if rng.chance(300) {
        strategy.retries = one_of(rng, &[1, 2]) as u32;
    }
    if rng.chance(250) {
        strategy.check_command = Some(CheckName::new(CHECK).ok()?);
    }
    Some(strategy)
}

/// The only check command of any world.
pub(super) const CHECK: &str = "health";

fn amount(rng: &mut Rng, counts: &[u64]) -> Amount {
    if rng.chance(500) {
        return Amount::Percent(one_of(rng, &[0, 10, 30, 50]) as u8);
    }
    Amount::Count(one_of(rng, counts) as u32)
}

/// Open for some hours of each day, or most of it.
fn window(rng: &mut Rng) -> Option<Window> {
    let hour =
        |rng: &mut Rng| format!("{:02}:{:02}", rng.between(0, 23), 15 * rng.between(0, 3)).parse().ok();
    let mut open = vec![window::Span { days: BTreeSet::new(), from: hour(rng)?, to: hour(rng)? }];
    if rng.chance(300) {
        let days = [Weekday::Mon, Weekday::Thu, Weekday::Sat].into();
        open.push(window::Span { days, from: hour(rng)?, to: hour(rng)? });
    }
    Some(Window { time_zone: rng.pick(&["UTC", "Europe/Zurich"])?.to_owned(), open })
}

/// How long a window may be closed.
pub(super) const CLOSED_MAX: u64 = 24 * HOUR;

fn checks(rng: &mut Rng, config: &ClusterConfig) -> Vec<(Xname, CheckEnd)> {
    let mut checks = Vec::new();
    for node in &config.nodes {
        let end = match rng.between(0, 9) {
            0 => CheckEnd::Fails { after_ms: rng.between(0, MINUTE), words: "bad memory".to_owned() },
            1 => CheckEnd::Hangs,
            2..=4 => CheckEnd::Passes { after_ms: rng.between(0, 2 * MINUTE) },
            _ => continue,
        };
        checks.push((node.xname, end));
    }
    checks
}

/// The ways in which calls fail: all, or some.
fn faults(rng: &mut Rng) -> Vec<Fault> {
    let all = [
        Fault::Refused,
        Fault::Unreachable,
        Fault::ReplyLost,
        Fault::Stale,
        Fault::Slow { ms: one_of(rng, &[500, 4_000, 15_000]) },
        Fault::Restarted { ms: one_of(rng, &[5_000, 60_000]) },
    ];
    let some: Vec<Fault> = all.into_iter().filter(|_| rng.chance(600)).collect();
    if some.is_empty() { all.to_vec() } else { some }
}
