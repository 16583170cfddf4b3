//! How the service looks after itself and its peers.

use super::read::{optional, put, seconds};
use super::{LONGEST_S, Setting};

const HEADING: &str = "Watching";

pub(super) const SETTINGS: &[Setting] = &[Setting {
    key: "probe_interval_s",
    value: "SECONDS",
    default: "60",
    heading: HEADING,
    help: "A peer or a store that was not asked anything for so long is asked something small, so that /readyz and /metrics \
           tell how it stands; never more often than that. none: never",
    set: |c, v| put(&mut c.probe.interval_ms, optional(v, |v| seconds(v, 0.01..=LONGEST_S))),
}];
