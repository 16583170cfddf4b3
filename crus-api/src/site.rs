//! What a site adds to every session: defaults for what a request leaves out, and caps that none may exceed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;

use crus_core::batch::Order;
use crus_core::strategy::{Amount, OnDrainTimeout};
use crus_core::window::Window;
use crus_core::{CheckName, Domain, PartitionName, Strategy};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::json::list;
use crate::strategy::word_of;

/// What a site adds to every session. [`Default`]: nothing; every check command and time zone is taken for known.
#[derive(Clone)]
pub struct Site {
    /// What holds for options that a request leaves out.
    pub defaults: Strategy,
    /// What no request may exceed.
    pub caps: Caps,
    /// The check commands that the service knows; `None`: not looked at.
    pub check_commands: Option<BTreeSet<CheckName>>,
    /// The service's own time-out of drains, in milliseconds: it holds where a strategy has none, and gives nodes back.
    pub drain_timeout_ms: Option<u64>,
    /// The order of nodes where a strategy has none; `None`: not told.
    pub order: Option<Order>,
    /// Whether BOS knows tenants: version 1 of its API does not.
    pub tenants: bool,
    /// Whether the service knows a time zone of this name.
    pub knows_zone: Arc<dyn Fn(&str) -> bool + Send + Sync>,
}

impl Default for Site {
    fn default() -> Self {
        Site {
            defaults: Strategy::default(),
            caps: Caps::default(),
            check_commands: None,
            drain_timeout_ms: None,
            order: None,
            tenants: true,
            knows_zone: Arc::new(|_| true),
        }
    }
}

impl fmt::Debug for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Site { defaults, caps, check_commands, .. } = self;
        let mut site = f.debug_struct("Site");
        site.field("defaults", defaults).field("caps", caps).field("check_commands", check_commands);
        site.finish_non_exhaustive()
    }
}

impl Site {
    /// What is in force for a session of this strategy: where it says nothing, the service's own options hold. As a
    /// value it has its properties in alphabetical order, as all answers do.
    pub(crate) fn in_force(&self, strategy: &Strategy) -> Value {
        let mut shown = json!(strategy);
        if let (None, Some(order)) = (strategy.order, self.order) {
            shown["order"] = json!(order);
        }
        if let (None, Some(timeout_ms)) = (strategy.drain_timeout_s, self.drain_timeout_ms) {
            shown["drain_timeout_s"] = json!(timeout_ms.div_ceil(1000));
            shown["on_drain_timeout"] = json!(OnDrainTimeout::Skip);
        }
        shown
    }
}

/// What no request may exceed, whatever it asks for. A cap that is not set caps nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Caps {
    /// The largest `upgrade_step_size`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_step_size: Option<NonZeroU32>,
    /// The largest `max_failed`; it holds where a request has none. A percentage caps percentages, a number numbers: how
    /// many nodes there will be is not known when a request is looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_failed: Option<Amount>,
    /// How many nodes of a partition stay in service at least; a request may ask for more. Numbers and percentages as
    /// above.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub min_in_service: BTreeMap<PartitionName, Amount>,
    /// What `on_drain_timeout` may be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_drain_timeout: Option<Vec<OnDrainTimeout>>,
    /// The most `retries`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_retries: Option<u32>,
    /// The largest `max_per_domain`; it holds where a request has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_per_domain: Option<NonZeroU32>,
    /// The failure domain that this is about: a request may name a larger one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<Domain>,
    /// The `window` that holds where a request has none; that of a request must lie within it, in the same time zone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<Window>,
}

impl Caps {
    /// What is wrong with the caps themselves, or with the strategy that they make of the site's defaults, as a clause.
    pub fn problem(&self, defaults: &Strategy) -> Option<String> {
        let as_strategy = Strategy {
            min_in_service: self.min_in_service.clone(),
            window: self.window.clone(),
            ..Strategy::default()
        };
        if let Some(problem) = as_strategy.problems().first() {
            return Some(format!("strategy_caps.{} {}", problem.option, problem.reason));
        }
        if self.domain.is_some() && self.max_per_domain.is_none() {
            return Some("strategy_caps.domain needs strategy_caps.max_per_domain".to_owned());
        }
        let mut capped = defaults.clone();
        if let Some((option, reason)) = self.apply(&mut capped).first() {
            return Some(format!("strategy.{option}, which holds where a request says nothing, {reason}"));
        }
        let problems = capped.problems();
        problems.first().map(|problem| format!("strategy.{} {}", problem.option, problem.reason))
    }

    /// Why a step of this size is too large; `None`: it is not.
    pub(crate) fn refuse_step_size(&self, size: NonZeroU32) -> Option<String> {
        let max = self.max_step_size.filter(|max| size > *max)?;
        Some(format!("is {size}; {} (strategy_caps.max_step_size)", allows(&format!("at most {max}"))))
    }

    /// Lets the caps hold in a strategy that says nothing about what they are about, and tells what in it goes beyond
    /// them: the option and a clause.
    pub(crate) fn apply(&self, strategy: &mut Strategy) -> Vec<(String, String)> {
        let mut beyond = Vec::new();
        let mut refuse = |option: &str, reason: String| beyond.push((option.to_owned(), reason));
        if let Some(cap) = self.max_failed {
            let asked = *strategy.max_failed.get_or_insert(cap);
            if !is_at_most(asked, cap) {
                let right = allows(&right_amount(asked, "at most", cap));
                refuse("max_failed", format!("is {asked}; {right} (strategy_caps.max_failed)"));
            }
        }
        for (partition, &floor) in &self.min_in_service {
            let asked = *strategy.min_in_service.entry(partition.clone()).or_insert(floor);
            if !is_at_least(asked, floor) {
                let right = allows(&right_amount(asked, "at least", floor));
                let option = format!("min_in_service.{partition}");
                refuse(&option, format!("is {asked}; {right} (strategy_caps.min_in_service)"));
            }
        }
        if let Some(allowed) = &self.on_drain_timeout
            && !allowed.contains(&strategy.on_drain_timeout)
        {
            let words: Vec<String> = allowed.iter().map(word_of).collect();
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let right = allows(&match words.as_slice() {
                [] => "none".to_owned(),
                words => list(words),
            });
            let asked = word_of(strategy.on_drain_timeout);
            refuse("on_drain_timeout", format!("is {asked}; {right} (strategy_caps.on_drain_timeout)"));
        }
        if let Some(max) = self.max_retries.filter(|max| strategy.retries > *max) {
            let right = allows(&format!("at most {max}"));
            refuse("retries", format!("is {}; {right} (strategy_caps.max_retries)", strategy.retries));
        }
        if let Some(max) = self.max_per_domain {
            self.apply_per_domain(max, strategy, &mut refuse);
        }
        if let Some(window) = &self.window {
            let asked = strategy.window.get_or_insert_with(|| window.clone());
            if asked.time_zone != window.time_zone {
                let right = allows(&format!("{} alone", window.time_zone));
                refuse("window.time_zone", format!("is {}; {right} (strategy_caps.window)", asked.time_zone));
            } else if !asked.is_within(window) {
                let right = allows("no time outside its own window");
                refuse("window.open", format!("goes beyond it; {right} (strategy_caps.window)"));
            }
        }
        beyond
    }

    fn apply_per_domain(
        &self,
        max: NonZeroU32,
        strategy: &mut Strategy,
        refuse: &mut impl FnMut(&str, String),
    ) {
        let right = |what: &str| format!("{} (strategy_caps.max_per_domain)", allows(what));
        let domain = self.domain.unwrap_or_default();
        if strategy.order == Some(Order::Pack) {
            let what = format!("at most {max} nodes of a {} at a time", word_of(domain));
            return refuse("order", format!("is pack, which takes whole domains; {}", right(&what)));
        }
        if width(strategy.domain) < width(domain) {
            // As long as nothing goes by the domain, nobody asked for it.
            let nothing_goes_by_it =
                strategy.max_per_domain.is_none() && strategy.order != Some(Order::Spread);
            if nothing_goes_by_it {
                strategy.domain = domain;
            } else {
                let what = format!("{} or larger ones", word_of(domain));
                refuse("domain", format!("is {}; {}", word_of(strategy.domain), right(&what)));
            }
        }
        match strategy.max_per_domain {
            Some(asked) if asked > max => {
                refuse("max_per_domain", format!("is {asked}; {}", right(&format!("at most {max}"))));
            }
            // Spreading takes one of a domain, unless said otherwise.
            None if strategy.order != Some(Order::Spread) => strategy.max_per_domain = Some(max),
            _ => {}
        }
    }
}

fn allows(what: &str) -> String {
    format!("the service's configuration allows {what}")
}

/// How much of the machine a domain is.
fn width(domain: Domain) -> u8 {
    match domain {
        Domain::Cabinet => 4,
        Domain::Chassis => 3,
        Domain::Slot => 2,
        Domain::Board => 1,
    }
}

/// Amounts of two kinds cannot be compared before it is known how many nodes there are: the kind of the bound is wanted.
fn right_amount(asked: Amount, how: &str, bound: Amount) -> String {
    let kind = kind_of(bound);
    match kind == kind_of(asked) {
        true => format!("{kind} of {how} {bound}"),
        false => format!("{kind} of {how} {bound}, and not {}", kind_of(asked)),
    }
}

fn kind_of(amount: Amount) -> &'static str {
    match amount {
        Amount::Count(_) => "a number",
        Amount::Percent(_) => "a percentage",
    }
}

/// Whether an amount is surely not more than a cap, of however many nodes.
fn is_at_most(asked: Amount, cap: Amount) -> bool {
    match (asked, cap) {
        (Amount::Count(asked), Amount::Count(cap)) => asked <= cap,
        (Amount::Percent(asked), Amount::Percent(cap)) => asked <= cap,
        (Amount::Count(0) | Amount::Percent(0), _) | (_, Amount::Percent(100)) => true,
        _ => false,
    }
}

/// Whether an amount is surely not less than a floor, of however many nodes.
fn is_at_least(asked: Amount, floor: Amount) -> bool {
    match (asked, floor) {
        (Amount::Count(asked), Amount::Count(floor)) => asked >= floor,
        (Amount::Percent(asked), Amount::Percent(floor)) => asked >= floor,
        (_, Amount::Count(0) | Amount::Percent(0)) | (Amount::Percent(100), _) => true,
        _ => false,
    }
}
