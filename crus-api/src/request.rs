//! What a request must hold to become a session.
//!
//! Every property is looked at, so that all that is wrong with a request is told at once. Nothing is guessed:
//! `"30"`, `3.5` and `true` are not step sizes. Nothing is silently ignored either, but for the read-only
//! properties of a session that was answered before, so that it can be sent back as a new one.

use std::fmt;
use std::num::NonZeroU32;

use crus_core::names::InvalidName;
use crus_core::{GroupLabel, Spec, Strategy, TemplateName};
use http::StatusCode;
use serde_json::value::RawValue;

use crate::json::{Form, Mistakes, Object, Value, list};
use crate::problem::{Errors, Problem};
use crate::site::Site;
use crate::strategy;

/// The largest `upgrade_step_size`: more nodes than any machine has. A larger one is a slip of the hand, and
/// means "all at once".
pub const MAX_STEP_SIZE: u32 = 100_000;

/// The properties that a request must have.
const PROPERTIES: [&str; 6] = [
    "failed_label",
    "starting_label",
    "upgrade_step_size",
    "upgrade_template_id",
    "upgrading_label",
    "workload_manager_type",
];

/// What a session that was answered has beside them.
const READ_ONLY: [&str; 6] = ["api_version", "completed", "kind", "messages", "state", "upgrade_id"];

/// Reads the body of a request for a session of this site.
///
/// # Errors
/// 400 when it is not JSON, 422 when it is not a session.
pub fn spec(body: &[u8], site: &Site) -> Result<Spec, Problem> {
    let not_json = |why: &dyn fmt::Display| {
        let detail = format!(
            "Input is not JSON: {why}. Send a JSON object with the properties {}.",
            list(&PROPERTIES)
        );
        Problem::new(StatusCode::BAD_REQUEST, detail)
    };
    let text = std::str::from_utf8(body).map_err(|error| not_json(&error))?;
    let document: &RawValue = serde_json::from_str(text).map_err(|error| not_json(&error))?;
    if !document.get().starts_with('{') {
        let reason = format!("must be a JSON object with the properties {}", list(&PROPERTIES));
        let detail = format!("The body {reason}; it is {}.", Value::of(document));
        return Err(invalid(&detail, Errors::from([("body".to_owned(), vec![reason])])));
    }
    let object: Object<'_> = serde_json::from_str(document.get()).map_err(|error| not_json(&error))?;
    Reader { form: Form::new("", object), mistakes: Mistakes::default(), site }.read()
}

/// A request as far as it is read.
struct Reader<'a> {
    form: Form<'a>,
    mistakes: Mistakes,
    site: &'a Site,
}

impl Reader<'_> {
    fn read(mut self) -> Result<Spec, Problem> {
        let starting = self.label("starting_label", "of the nodes to upgrade");
        let upgrading = self.label("upgrading_label", "that will hold the nodes in flight");
        let failed = self.label("failed_label", "that will receive the nodes that fail");
        self.check_labels_differ([
            ("starting_label", &starting),
            ("upgrading_label", &upgrading),
            ("failed_label", &failed),
        ]);
        let step_size = self.step_size();
        let template = self.text(
            "upgrade_template_id",
            "must be the name of a BOS session template",
            name_of(TemplateName::new),
        );
        let slurm = "must be \"slurm\", the only workload manager supported";
        let wlm = self.text("workload_manager_type", slurm, |text| match text {
            "slurm" => Ok(()),
            _ => Err(slurm.to_owned()),
        });
        let strategy = self.strategy();
        self.form.refuse_rest(&READ_ONLY, "is not a property of a session", &mut self.mistakes);
        match (starting, upgrading, failed, step_size, template, wlm, strategy) {
            (
                Some(starting),
                Some(upgrading),
                Some(failed),
                Some(step_size),
                Some(template),
                Some(()),
                Some(strategy),
            ) if self.mistakes.is_empty() => {
                Ok(Spec { starting, upgrading, failed, step_size, template, tenant: None, strategy })
            }
            _ => Err(problem(self.mistakes)),
        }
    }

    /// Reads a required property. `None` when it is not right, which is noted.
    fn property<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&Value<'_>) -> Result<T, String>,
    ) -> Option<T> {
        let value = self.form.take(name, &mut self.mistakes)?.map_or(Value::Missing, Value::of);
        match read(&value) {
            Ok(value) => Some(value),
            Err(reason) => {
                self.mistakes.add(name, reason);
                None
            }
        }
    }

    /// Reads a required text; `rule` says what it must be.
    fn text<T>(
        &mut self,
        name: &'static str,
        rule: &str,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        self.property(name, |value| match value {
            Value::Text(text) if !text.is_empty() => read(text),
            _ => Err(format!("is {value}; it {rule}")),
        })
    }

    fn label(&mut self, name: &'static str, of: &str) -> Option<GroupLabel> {
        self.text(name, &format!("must be the label of the HSM group {of}"), name_of(GroupLabel::new))
    }

    /// A group that were two of the three would be emptied of the nodes that it is there to hold. Labels are
    /// compared in lower case, as HSM does.
    fn check_labels_differ(&mut self, labels: [(&'static str, &Option<GroupLabel>); 3]) {
        for (name, label) in labels {
            let same = |(other, value): &(&str, &Option<GroupLabel>)| *other != name && *value == label;
            let others: Vec<&str> =
                labels.iter().filter(|other| same(other)).map(|(other, _)| *other).collect();
            if label.is_some() && !others.is_empty() {
                self.mistakes.add(name, format!("must differ from {}", list(&others)));
            }
        }
    }

    fn step_size(&mut self) -> Option<NonZeroU32> {
        const NAME: &str = "upgrade_step_size";
        let size = self.property(NAME, |value| {
            let number = value.whole_number(1, MAX_STEP_SIZE).and_then(NonZeroU32::new);
            number.ok_or_else(|| format!("is {value}; it must be a whole number from 1 to {MAX_STEP_SIZE}"))
        })?;
        match self.site.caps.refuse_step_size(size) {
            Some(reason) => {
                self.mistakes.add(NAME, reason);
                None
            }
            None => Some(size),
        }
    }

    fn strategy(&mut self) -> Option<Strategy> {
        let given = self.form.take(strategy::NAME, &mut self.mistakes)?;
        strategy::read(given, self.site, &mut self.mistakes)
    }
}

fn problem(mistakes: Mistakes) -> Problem {
    let is_plain = |name: &str| name.chars().all(|c| c.is_ascii_alphanumeric() || "_-.[]".contains(c));
    let (sentences, errors) = mistakes.told(|name| {
        let of_strategy =
            name.strip_prefix(strategy::NAME).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        PROPERTIES.contains(&name) || READ_ONLY.contains(&name) || (of_strategy && is_plain(name))
    });
    invalid(&sentences, errors)
}

fn invalid(detail: &str, errors: Errors) -> Problem {
    let detail = format!("Input data was understood, but failed validation. {detail}");
    Problem { errors: Some(errors), ..Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail) }
}

/// Reads a name, telling its rule when it is not one.
fn name_of<T>(new: fn(&str) -> Result<T, InvalidName>) -> impl FnOnce(&str) -> Result<T, String> {
    move |text| new(text).map_err(|error| error.rule().to_owned())
}
