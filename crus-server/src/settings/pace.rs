//! How often is looked, and how long is waited.

use crus_core::batch::Order;
use toml::Value;

use super::read::{integer, must_be, optional, put, seconds, text};
use super::{LONGEST_S, NONE, Setting};

const HEADING: &str = "Paces and patience";

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        key: "poll_interval_s",
        value: "SECONDS",
        default: "10",
        heading: HEADING,
        help: "How often a fact that is waited for is looked at",
        set: |c, v| put(&mut c.limits.poll_ms, seconds(v, 0.01..=3600.0)),
    },
    Setting {
        key: "retry_max_s",
        value: "SECONDS",
        default: "60",
        heading: HEADING,
        help: "The longest pause between two attempts at something that fails",
        set: |c, v| put(&mut c.limits.retry_max_ms, seconds(v, 0.01..=LONGEST_S)),
    },
    Setting {
        key: "drain_timeout_s",
        value: "SECONDS",
        default: NONE,
        heading: HEADING,
        help: "How long a node may go on running jobs, once it was seen drained, before it is given back and \
               failed; none: as long as its jobs run",
        set: |c, v| {
            put(&mut c.limits.drain_timeout_ms, optional(v, |v| seconds(v, 0.01..=LONGEST_S * 365.0)))
        },
    },
    Setting {
        key: "boot_timeout_s",
        value: "SECONDS",
        default: "5400",
        heading: HEADING,
        help: "How long a boot session may take, not counting time in which BOS could not be reached. BOS's own defaults try three times, 20 minutes each: a shorter \
               time fails nodes that it would still bring up",
        set: |c, v| put(&mut c.limits.boot_timeout_ms, seconds(v, 0.01..=LONGEST_S)),
    },
    Setting {
        key: "return_timeout_s",
        value: "SECONDS",
        default: "600",
        heading: HEADING,
        help: "How long a node may take to be back in service once BOS is done with it, not counting time in which \
               Slurm could not be reached",
        set: |c, v| put(&mut c.limits.return_timeout_ms, seconds(v, 0.01..=LONGEST_S)),
    },
    Setting {
        key: "settle_s",
        value: "SECONDS",
        default: "60",
        heading: HEADING,
        help: "How long a request without an answer may still take effect at the peer, and how long a boot \
               session must be gone before it is believed to be",
        set: |c, v| put(&mut c.limits.settle_ms, seconds(v, 0.01..=LONGEST_S)),
    },
    Setting {
        key: "last_look_s",
        value: "SECONDS",
        default: "20",
        heading: HEADING,
        help: "How old a look at nodes may be when the one at their jobs begins, and that one when their reboot is \
               asked for. What the calls themselves take does not count",
        set: |c, v| put(&mut c.limits.last_look_ms, seconds(v, 0.1..=600.0)),
    },
    Setting {
        key: "boot_margin_s",
        value: "SECONDS",
        default: "3",
        heading: HEADING,
        help: "How much later, in whole seconds, a node's boot time must be to be another boot",
        set: |c, v| put(&mut c.limits.boot_margin_s, integer(v, 1..=3600)),
    },
    Setting {
        key: "boot_estimate_low_s",
        value: "SECONDS",
        default: "300",
        heading: HEADING,
        help: "How long a node takes at least from the request of its reboot to its return: what plans and expected ends go by, \
               until sessions tell",
        set: |c, v| put(&mut c.limits.boot_low_ms, seconds(v, 0.01..=LONGEST_S)),
    },
    Setting {
        key: "boot_estimate_high_s",
        value: "SECONDS",
        default: "900",
        heading: HEADING,
        help: "How long it takes at most, if it boots at all",
        set: |c, v| put(&mut c.limits.boot_high_ms, seconds(v, 0.01..=LONGEST_S)),
    },
    Setting {
        key: "job_used_percent",
        value: "PERCENT",
        default: "60",
        heading: HEADING,
        help: "What part of its time limit a job runs, as a rule: what plans and expected ends go by, until sessions tell",
        set: |c, v| put(&mut c.limits.job_used_percent, integer(v, 1..=100)),
    },
    Setting {
        key: "node_order",
        value: "ORDER",
        default: "soonest_free",
        heading: HEADING,
        help: "Which nodes a step takes first: soonest_free (idle ones, then by the end of their jobs) or name",
        set: |c, v| put(&mut c.limits.order, order(v)),
    },
];

fn order(value: &Value) -> Result<Order, String> {
    match text(value) {
        Some("soonest_free") => Ok(Order::SoonestFree),
        Some("name") => Ok(Order::Name),
        _ => Err(must_be("soonest_free or name")),
    }
}
