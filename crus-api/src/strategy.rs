//! The strategy of a request: an object of options, each of which may be left out.
//!
//! What is left out is as the site's defaults have it; `null` switches a default off. What contradicts itself or goes
//! beyond the site's caps is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::num::{NonZeroU32, NonZeroU64};

use crus_core::names::InvalidName;
use crus_core::strategy::{
    Amount, CANARY_MAX, InvalidAmount, OnDrainTimeout, PARTITIONS_MAX, RETRIES_MAX, SECONDS_MAX,
};
use crus_core::window::{InvalidTimeOfDay, SPANS_MAX, Span, TimeOfDay, Weekday, Window};
use crus_core::{CheckName, PartitionName, Strategy};
use serde::de::IntoDeserializer as _;
use serde::de::value::{Error as NoSuchWord, StrDeserializer};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::json::{Form, Mistakes, Value, list};
use crate::request::MAX_STEP_SIZE;
use crate::site::Site;

/// What the object is called in a request.
pub(crate) const NAME: &str = "strategy";

/// Options that say nothing without another one, or against it.
const PARTNERS: [(&str, &str); 3] =
    [("soak_s", "canary"), ("on_drain_timeout", "drain_timeout_s"), ("max_per_domain", "order")];

/// Reads a strategy that is no request's: the defaults of a site, say.
///
/// # Errors
/// Everything that is wrong with it, in sentences.
pub fn parse(json: &str) -> Result<Strategy, String> {
    let raw: &RawValue = serde_json::from_str(json).map_err(|error| format!("It is not JSON: {error}."))?;
    let mut mistakes = Mistakes::default();
    match read(Some(raw), &Site::default(), &mut mistakes) {
        Some(strategy) => Ok(strategy),
        None => Err(mistakes.told(|_| true).0),
    }
}

/// Reads the strategy of a request to this site; `given` is `None` when it has none. `None` when it is not right, which
/// is noted.
pub(crate) fn read(given: Option<&RawValue>, site: &Site, mistakes: &mut Mistakes) -> Option<Strategy> {
    let form = match given.map(Value::of) {
        None => Form::default(),
        Some(value) => match value.object() {
            Some(object) => Form::new(NAME, object),
            None => {
                let rule = "must be an object of options, such as {\"canary\": [1], \"max_failed\": 0}, or be left out";
                mistakes.add(NAME, format!("is {value}; it {rule}"));
                return None;
            }
        },
    };
    let before = mistakes.count();
    let mut reader = Reader { form, given: BTreeSet::new(), wrong: BTreeSet::new(), site, mistakes };
    let mut strategy = site.defaults.clone();
    reader.read(&mut strategy);
    reader.give_way(&mut strategy);
    for (option, reason) in site.caps.apply(&mut strategy) {
        reader.mistakes.add(&format!("{NAME}.{option}"), reason);
    }
    reader.check_sense(&strategy);
    (mistakes.count() == before).then_some(strategy)
}

/// A strategy as far as it is read.
struct Reader<'a> {
    form: Form<'a>,
    /// The options that the request has.
    given: BTreeSet<&'static str>,
    /// Those that could not be read.
    wrong: BTreeSet<&'static str>,
    site: &'a Site,
    mistakes: &'a mut Mistakes,
}

impl<'a> Reader<'a> {
    fn read(&mut self, strategy: &mut Strategy) {
        let site = self.site;
        self.option("max_failed", &mut strategy.max_failed, |value| optional(value, amount));
        self.option("max_failed_step", &mut strategy.max_failed_step, |value| optional(value, amount));
        self.nested("canary", &mut strategy.canary, Reader::canary);
        self.option("soak_s", &mut strategy.soak_s, |value| optional(value, seconds));
        self.option("drain_timeout_s", &mut strategy.drain_timeout_s, |value| optional(value, seconds));
        self.option("on_drain_timeout", &mut strategy.on_drain_timeout, |value| {
            word(value, "must be wait, skip, requeue, cancel or later")
        });
        let order = "must be soonest_free, name, spread or pack";
        self.option("order", &mut strategy.order, |value| optional(value, |value| word(value, order)));
        self.option("domain", &mut strategy.domain, |value| {
            word(value, "must be cabinet, chassis, slot or board")
        });
        self.option("max_per_domain", &mut strategy.max_per_domain, |value| optional(value, node_count));
        self.nested("min_in_service", &mut strategy.min_in_service, Reader::floors);
        self.nested("window", &mut strategy.window, Reader::window);
        self.option("retries", &mut strategy.retries, retries);
        self.option("check_command", &mut strategy.check_command, |value| {
            optional(value, |value| check_command(value, site))
        });
        std::mem::take(&mut self.form).refuse_rest(&[], "is not an option of a strategy", self.mistakes);
    }

    /// Reads an option whose value is not made of others.
    fn option<T>(
        &mut self,
        name: &'static str,
        place: &mut T,
        read: impl FnOnce(&Value<'_>) -> Result<T, String>,
    ) {
        self.nested(name, place, |reader, path, value| match read(value) {
            Ok(value) => Some(value),
            Err(reason) => {
                reader.mistakes.add(path, reason);
                None
            }
        });
    }

    /// Reads any option; `read` notes what is wrong.
    fn nested<T>(
        &mut self,
        name: &'static str,
        place: &mut T,
        read: impl FnOnce(&mut Self, &str, &Value<'a>) -> Option<T>,
    ) {
        let value = match self.form.take(name, self.mistakes) {
            Some(None) => return,
            Some(Some(raw)) => read(self, &self.form.path(name), &Value::of(raw)),
            None => None,
        };
        self.given.insert(name);
        match value {
            Some(value) => *place = value,
            None => _ = self.wrong.insert(name),
        }
    }

    fn refuse<T>(&mut self, path: &str, reason: impl Into<String>) -> Option<T> {
        self.mistakes.add(path, reason);
        None
    }

    fn canary(&mut self, path: &str, value: &Value<'a>) -> Option<Vec<NonZeroU32>> {
        let rule = format!("must be an array of at most {CANARY_MAX} step sizes, such as [1, 5]");
        let Some(elements) = value.elements() else {
            return self.refuse(path, format!("is {value}; it {rule}"));
        };
        if elements.len() > CANARY_MAX {
            return self.refuse(path, format!("lists {} steps; it {rule}", elements.len()));
        }
        let mut sizes = Vec::new();
        for (i, element) in elements.iter().enumerate() {
            match node_count(&Value::of(element)) {
                Ok(size) => sizes.push(size),
                Err(reason) => self.mistakes.add(&format!("{path}[{i}]"), reason),
            }
        }
        (sizes.len() == elements.len()).then_some(sizes)
    }

    fn floors(&mut self, path: &str, value: &Value<'a>) -> Option<BTreeMap<PartitionName, Amount>> {
        let rule = "must be an object of partitions, such as {\"batch\": \"90%\"}";
        let Some(object) = value.object() else { return self.refuse(path, format!("is {value}; it {rule}")) };
        let mut form = Form::new(path, object);
        let count = form.left();
        if count > PARTITIONS_MAX {
            return self.refuse(path, format!("names {count} partitions; it may name {PARTITIONS_MAX}"));
        }
        let mut floors = BTreeMap::new();
        for (name, raw) in form.entries(self.mistakes) {
            let path = form.path(&name);
            match (name.parse::<PartitionName>(), amount(&Value::of(raw))) {
                (Ok(partition), Ok(floor)) => _ = floors.insert(partition, floor),
                (partition, floor) => {
                    let misnamed =
                        partition.err().map(|error| format!("is no partition: the name {}", error.rule()));
                    for reason in misnamed.into_iter().chain(floor.err()) {
                        self.mistakes.add(&path, reason);
                    }
                }
            }
        }
        (floors.len() == count).then_some(floors)
    }

    fn window(&mut self, path: &str, value: &Value<'a>) -> Option<Option<Window>> {
        if let Value::Null = value {
            return Some(None);
        }
        let rule = "must be an object of a time_zone and the spans in which it is open";
        let Some(object) = value.object() else { return self.refuse(path, format!("is {value}; it {rule}")) };
        let mut form = Form::new(path, object);
        let time_zone = self.part(&mut form, "time_zone", Reader::time_zone);
        let open = self.part(&mut form, "open", Reader::spans);
        let is_whole = self.has_no_more(form, "is not a property of a window");
        Some(Some(Window { time_zone: time_zone?, open: open? })).filter(|_| is_whole)
    }

    /// Reads a property of an object within the strategy.
    fn part<T>(
        &mut self,
        form: &mut Form<'a>,
        name: &str,
        read: impl FnOnce(&mut Self, &str, &Value<'a>) -> Option<T>,
    ) -> Option<T> {
        let value = form.take(name, self.mistakes)?.map_or(Value::Missing, Value::of);
        read(self, &form.path(name), &value)
    }

    fn has_no_more(&mut self, form: Form<'a>, reason: &str) -> bool {
        let has_no_more = form.left() == 0;
        form.refuse_rest(&[], reason, self.mistakes);
        has_no_more
    }

    fn time_zone(&mut self, path: &str, value: &Value<'a>) -> Option<String> {
        let rule = "must be a name of the IANA time zone database, such as Europe/Zurich or UTC";
        match value {
            Value::Text(zone) if !zone.is_empty() => match (self.site.knows_zone)(zone) {
                true => Some(zone.clone()),
                false => self.refuse(path, format!("is not a time zone that is known here; it {rule}")),
            },
            _ => self.refuse(path, format!("is {value}; it {rule}")),
        }
    }

    fn spans(&mut self, path: &str, value: &Value<'a>) -> Option<Vec<Span>> {
        let rule = format!(
            "must be an array of 1 to {SPANS_MAX} spans, such as [{{\"from\": \"22:00\", \"to\": \"06:00\"}}]"
        );
        let Some(elements) = value.elements() else {
            return self.refuse(path, format!("is {value}; it {rule}"));
        };
        if elements.is_empty() || elements.len() > SPANS_MAX {
            return self.refuse(path, format!("lists {} spans; it {rule}", elements.len()));
        }
        let mut spans = Vec::new();
        for (i, element) in elements.iter().enumerate() {
            spans.extend(self.span(&format!("{path}[{i}]"), &Value::of(element)));
        }
        (spans.len() == elements.len()).then_some(spans)
    }

    fn span(&mut self, path: &str, value: &Value<'a>) -> Option<Span> {
        let rule = "must be a span, such as {\"days\": [\"fri\"], \"from\": \"22:00\", \"to\": \"06:00\"}";
        let Some(object) = value.object() else { return self.refuse(path, format!("is {value}; it {rule}")) };
        let mut form = Form::new(path, object);
        let days = self.part(&mut form, "days", Reader::days);
        let from = self.part(&mut form, "from", |reader, path, value| match time_of_day(value) {
            Ok(from) if from.to_string() == "24:00" => {
                reader.refuse(path, "is 24:00; it must be 00:00, of the next day")
            }
            Ok(from) => Some(from),
            Err(reason) => reader.refuse(path, reason),
        });
        let to = self.part(&mut form, "to", |reader, path, value| match time_of_day(value) {
            Ok(to) => Some(to),
            Err(reason) => reader.refuse(path, reason),
        });
        let is_whole = self.has_no_more(form, "is not a property of a span");
        Some(Span { days: days?, from: from?, to: to? }).filter(|_| is_whole)
    }

    /// Those on which a span begins; left out: each.
    fn days(&mut self, path: &str, value: &Value<'a>) -> Option<BTreeSet<Weekday>> {
        let rule = "must be an array of days of the week, such as [\"mon\", \"tue\"]";
        if let Value::Missing = value {
            return Some(BTreeSet::new());
        }
        let Some(elements) = value.elements() else {
            return self.refuse(path, format!("is {value}; it {rule}"));
        };
        if elements.len() > 7 {
            return self.refuse(path, format!("lists {} days; it {rule}", elements.len()));
        }
        let mut days = BTreeSet::new();
        let mut are_right = true;
        for (i, element) in elements.iter().enumerate() {
            match word(&Value::of(element), "must be mon, tue, wed, thu, fri, sat or sun") {
                Ok(day) => _ = days.insert(day),
                Err(reason) => {
                    are_right = false;
                    self.mistakes.add(&format!("{path}[{i}]"), reason);
                }
            }
        }
        are_right.then_some(days)
    }

    /// A default that contradicts what was asked for gives way to it.
    fn give_way(&self, strategy: &mut Strategy) {
        let asked = |option| self.given.contains(option);
        for problem in strategy.problems() {
            match problem.option {
                "soak_s" if !asked("soak_s") => strategy.soak_s = None,
                "on_drain_timeout" if !asked("on_drain_timeout") => {
                    strategy.on_drain_timeout = OnDrainTimeout::Wait;
                }
                "max_per_domain" if !asked("max_per_domain") => strategy.max_per_domain = None,
                "max_per_domain" if !asked("order") => strategy.order = None,
                _ => {}
            }
        }
    }

    /// What contradicts itself. Of an option that could not be read nothing follows for others.
    fn check_sense(&mut self, strategy: &Strategy) {
        for problem in strategy.problems() {
            let partner =
                PARTNERS.iter().find(|(option, _)| *option == problem.option).map(|(_, partner)| partner);
            if partner.is_none_or(|partner| !self.wrong.contains(partner)) {
                self.mistakes.add(&format!("{NAME}.{}", problem.option), problem.reason);
            }
        }
    }
}

/// `null` switches an option off.
fn optional<T>(
    value: &Value<'_>,
    read: impl FnOnce(&Value<'_>) -> Result<T, String>,
) -> Result<Option<T>, String> {
    match value {
        Value::Null => Ok(None),
        value => read(value).map(Some),
    }
}

fn amount(value: &Value<'_>) -> Result<Amount, String> {
    let amount = match value {
        Value::Number(_) => value.whole_number(0, u32::MAX).map(Amount::Count),
        Value::Text(text) if text.ends_with('%') => text.parse().ok(),
        _ => None,
    };
    amount.ok_or_else(|| format!("is {value}; it {InvalidAmount}"))
}

fn node_count(value: &Value<'_>) -> Result<NonZeroU32, String> {
    let count = value.whole_number(1, MAX_STEP_SIZE).and_then(NonZeroU32::new);
    count.ok_or_else(|| format!("is {value}; it must be a whole number from 1 to {MAX_STEP_SIZE}"))
}

fn seconds(value: &Value<'_>) -> Result<NonZeroU64, String> {
    let most = u32::try_from(SECONDS_MAX).unwrap_or(u32::MAX);
    let seconds = value.whole_number(1, most).map(u64::from).and_then(NonZeroU64::new);
    seconds
        .ok_or_else(|| format!("is {value}; it must be a whole number of seconds from 1 to {most} (30 days)"))
}

fn retries(value: &Value<'_>) -> Result<u32, String> {
    let rule = format!("must be a whole number from 0 to {RETRIES_MAX}");
    value.whole_number(0, RETRIES_MAX).ok_or_else(|| format!("is {value}; it {rule}"))
}

fn time_of_day(value: &Value<'_>) -> Result<TimeOfDay, String> {
    match value {
        Value::Text(text) if !text.is_empty() => {
            text.parse().map_err(|error: InvalidTimeOfDay| error.to_string())
        }
        _ => Err(format!("is {value}; it {InvalidTimeOfDay}")),
    }
}

/// One of a few words, which `rule` lists.
fn word<T: for<'de> Deserialize<'de>>(value: &Value<'_>, rule: &str) -> Result<T, String> {
    let Value::Text(text) = value else { return Err(format!("is {value}; it {rule}")) };
    let word: StrDeserializer<'_, NoSuchWord> = text.as_str().into_deserializer();
    T::deserialize(word).map_err(|_| rule.to_owned())
}

/// The word that stands for a value of a few.
pub(crate) fn word_of(value: impl Serialize) -> String {
    let word = serde_json::to_value(value).unwrap_or_default();
    word.as_str().unwrap_or_default().to_owned()
}

fn check_command(value: &Value<'_>, site: &Site) -> Result<CheckName, String> {
    let name = match value {
        Value::Text(text) if !text.is_empty() => {
            text.parse().map_err(|error: InvalidName| error.rule().to_owned())?
        }
        _ => return Err(format!("is {value}; it must be the name of a check command of the service")),
    };
    match &site.check_commands {
        Some(known) if !known.contains(&name) => {
            let known: Vec<&str> = known.iter().map(CheckName::as_str).collect();
            let there_are = match known.as_slice() {
                [] => "it has none".to_owned(),
                known => format!("it has {}", list(known)),
            };
            Err(format!("is not the name of a check command in the service's configuration: {there_are}"))
        }
        _ => Ok(name),
    }
}
