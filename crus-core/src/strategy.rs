//! How an upgrade goes about its nodes: what an operator may ask for beside the group and the image.
//!
//! Everything is off by default. One JSON form serves the API and the store; who takes it from people checks it with
//! [`Strategy::problems`].

use std::collections::BTreeMap;
use std::fmt;
use std::num::{NonZeroU32, NonZeroU64};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::batch::Order;
use crate::names::{CheckName, Domain, PartitionName};
use crate::window::Window;

/// The most steps that [`Strategy::canary`] may list.
pub const CANARY_MAX: usize = 16;
/// The most retries of a node.
pub const RETRIES_MAX: u32 = 10;
/// The longest time-out or soak, in seconds: 30 days.
pub const SECONDS_MAX: u64 = 30 * 86_400;
/// The most partitions that [`Strategy::min_in_service`] may name.
pub const PARTITIONS_MAX: usize = 64;

/// What an operator may ask for. [`Default`]: nothing of it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Strategy {
    /// How many nodes of the session may fail. With one more it pauses before another node is touched. A percentage is
    /// one of all nodes, rounded down. Nodes that were skipped do not count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_failed: Option<Amount>,
    /// Likewise of one step; a percentage is one of the nodes of the step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_failed_step: Option<Amount>,
    /// The sizes of the first steps. The next size is tried once a node of the step before was upgraded.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub canary: Vec<NonZeroU32>,
    /// How long the nodes of a canary step must stay up and in service before the session goes on, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub soak_s: Option<NonZeroU64>,
    /// How long a node may take to run nothing, once it was seen drained, in seconds. A restart of the service begins
    /// anew.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain_timeout_s: Option<NonZeroU64>,
    /// What happens to one that takes longer.
    #[serde(skip_serializing_if = "is_default")]
    pub on_drain_timeout: OnDrainTimeout,
    /// In which order nodes are taken; `None`: as the service is configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order: Option<Order>,
    /// What shares a fate: what [`Order::Spread`], [`Order::Pack`] and `max_per_domain` go by.
    #[serde(skip_serializing_if = "is_default")]
    pub domain: Domain,
    /// How many nodes of one failure domain this session may have in flight. With [`Order::Spread`] one, unless said otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_per_domain: Option<NonZeroU32>,
    /// How many nodes of a partition must stay in service: a step shrinks, or waits, rather than take more. A
    /// percentage is one of all nodes of the partition, rounded up. Sessions that name the same partition take turns; one
    /// that does not name it goes by no floor.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub min_in_service: BTreeMap<PartitionName, Amount>,
    /// When steps may start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<Window>,
    /// How often a node that failed to boot is tried again, in steps at the end.
    #[serde(skip_serializing_if = "is_default")]
    pub retries: u32,
    /// The program that judges each node before it returns to service, by its name in the service's configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub check_command: Option<CheckName>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Something wrong with a strategy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StrategyProblem {
    /// The option, such as `max_failed`.
    pub option: &'static str,
    /// What is wrong and what would be right, as a clause: "must be …".
    pub reason: String,
}

impl Strategy {
    /// Whether nothing is asked for.
    pub fn is_default(&self) -> bool {
        is_default(self)
    }

    /// Everything that its types do not rule out and that makes no sense.
    pub fn problems(&self) -> Vec<StrategyProblem> {
        let mut problems = Vec::new();
        let mut wrong = |option, reason: String| problems.push(StrategyProblem { option, reason });
        if self.canary.len() > CANARY_MAX {
            wrong("canary", format!("lists {} steps; it may list {CANARY_MAX}", self.canary.len()));
        }
        if self.soak_s.is_some() && self.canary.is_empty() {
            wrong("soak_s", "needs canary: only canary steps are soaked".to_owned());
        }
        for (option, seconds) in [("soak_s", self.soak_s), ("drain_timeout_s", self.drain_timeout_s)] {
            if seconds.is_some_and(|seconds| seconds.get() > SECONDS_MAX) {
                wrong(option, format!("must be at most {SECONDS_MAX} (30 days)"));
            }
        }
        if self.on_drain_timeout != OnDrainTimeout::Wait && self.drain_timeout_s.is_none() {
            wrong("on_drain_timeout", "needs drain_timeout_s: without it a drain is never late".to_owned());
        }
        if self.max_per_domain.is_some() && self.order == Some(Order::Pack) {
            wrong("max_per_domain", "contradicts order \"pack\", which takes whole domains".to_owned());
        }
        if self.min_in_service.len() > PARTITIONS_MAX {
            let count = self.min_in_service.len();
            wrong("min_in_service", format!("names {count} partitions; it may name {PARTITIONS_MAX}"));
        }
        if self.retries > RETRIES_MAX {
            wrong(
                "retries",
                format!("is {}; it must be a whole number from 0 to {RETRIES_MAX}", self.retries),
            );
        }
        if let Some(reason) = self.window.as_ref().and_then(Window::problem) {
            wrong("window", reason);
        }
        problems
    }

    /// How many nodes of a domain may be in flight when nodes are taken in this order.
    pub(crate) fn domain_cap(&self, order: Order) -> Option<usize> {
        let cap = self.max_per_domain.or((order == Order::Spread).then_some(NonZeroU32::MIN));
        cap.map(|cap| usize::try_from(cap.get()).unwrap_or(usize::MAX))
    }
}

/// A number of nodes, or a percentage of some.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawAmount", into = "RawAmount")]
pub enum Amount {
    /// So many.
    Count(u32),
    /// So many of a hundred: at most 100.
    Percent(u8),
}

impl Amount {
    /// How many of `total` at most: a percentage is rounded down.
    pub fn at_most(self, total: usize) -> usize {
        match self {
            Amount::Count(count) => usize::try_from(count).unwrap_or(usize::MAX),
            Amount::Percent(percent) => total * usize::from(percent) / 100,
        }
    }

    /// How many of `total` at least: a percentage is rounded up.
    pub fn at_least(self, total: usize) -> usize {
        match self {
            Amount::Count(count) => usize::try_from(count).unwrap_or(usize::MAX),
            Amount::Percent(percent) => (total * usize::from(percent)).div_ceil(100),
        }
    }
}

/// Not an amount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be a whole number of nodes from 0, such as 3, or a percentage from 0% to 100%, such as \"5%\"")]
pub struct InvalidAmount;

impl FromStr for Amount {
    type Err = InvalidAmount;

    fn from_str(text: &str) -> Result<Self, InvalidAmount> {
        let number =
            |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok());
        match text.strip_suffix('%') {
            Some(percent) => {
                let percent: u32 = number(percent).flatten().ok_or(InvalidAmount)?;
                u8::try_from(percent).ok().filter(|p| *p <= 100).map(Amount::Percent).ok_or(InvalidAmount)
            }
            None => number(text).flatten().map(Amount::Count).ok_or(InvalidAmount),
        }
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Amount::Count(count) => write!(f, "{count}"),
            Amount::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum RawAmount {
    Count(u32),
    Text(String),
}

impl TryFrom<RawAmount> for Amount {
    type Error = InvalidAmount;

    fn try_from(raw: RawAmount) -> Result<Self, InvalidAmount> {
        match raw {
            RawAmount::Count(count) => Ok(Amount::Count(count)),
            RawAmount::Text(text) if text.ends_with('%') => text.parse(),
            RawAmount::Text(_) => Err(InvalidAmount),
        }
    }
}

impl From<Amount> for RawAmount {
    fn from(amount: Amount) -> Self {
        match amount {
            Amount::Count(count) => RawAmount::Count(count),
            Amount::Percent(_) => RawAmount::Text(amount.to_string()),
        }
    }
}

/// What happens to a node that runs jobs for longer than a drain may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDrainTimeout {
    /// It is said, and waited on.
    #[default]
    Wait,
    /// It is given back untouched, and listed in the failed group.
    Skip,
    /// Its jobs are requeued.
    Requeue,
    /// Its jobs are cancelled.
    Cancel,
    /// It is given back, and tried once more in a step at the end; if it is late again, it is skipped.
    Later,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_numbers_or_percentages_and_nothing_else() {
        let read = |json: &str| serde_json::from_str::<Amount>(json).ok();
        assert_eq!(read("3"), Some(Amount::Count(3)));
        assert_eq!(read("0"), Some(Amount::Count(0)));
        assert_eq!(read("\"5%\""), Some(Amount::Percent(5)));
        for wrong in ["-1", "1.5", "\"3\"", "\"101%\"", "\"+5%\"", "\"%\"", "\" 5%\"", "null", "true", "\"\""]
        {
            assert_eq!(read(wrong), None, "{wrong}");
        }
        assert_eq!(serde_json::to_string(&Amount::Percent(7)).unwrap(), "\"7%\"");
        assert_eq!(Amount::Percent(10).at_most(19), 1);
        assert_eq!(Amount::Percent(10).at_least(19), 2);
        assert_eq!("4".parse(), Ok(Amount::Count(4)));
    }

    #[test]
    fn what_is_not_asked_for_is_not_stored() {
        assert_eq!(serde_json::to_string(&Strategy::default()).unwrap(), "{}");
        let json = r#"{"max_failed":"2%","canary":[1,5],"soak_s":60,"drain_timeout_s":3600,"on_drain_timeout":"later","order":"spread","domain":"cabinet","max_per_domain":2,"min_in_service":{"batch":"90%"},"window":{"time_zone":"Europe/Zurich","open":[{"days":["mon","fri"],"from":"22:00","to":"06:00"}]},"retries":1,"check_command":"health"}"#;
        let strategy: Strategy = serde_json::from_str(json).unwrap();
        assert_eq!(strategy.problems(), []);
        assert_eq!(serde_json::to_string(&strategy).unwrap(), json);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let json =
            r#"{"soak_s":60,"on_drain_timeout":"skip","order":"pack","max_per_domain":2,"retries":11}"#;
        let strategy: Strategy = serde_json::from_str(json).unwrap();
        let options: Vec<_> = strategy.problems().iter().map(|problem| problem.option).collect();
        assert_eq!(options, ["soak_s", "on_drain_timeout", "max_per_domain", "retries"]);
    }
}
