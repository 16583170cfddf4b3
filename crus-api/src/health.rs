//! What the service says of itself, to who watches it: a load balancer, a supervisor, Prometheus.

use serde::Serialize;

use crate::views::Stamp;

/// The service as those see it who watch it. Every call answers at once, from what is known.
pub trait Health: Send + Sync + 'static {
    /// Why the service is of no use any more and should be started anew, in words; `None` while it is alive. What is
    /// wrong with its peers or its store is no reason: a new start would not mend it.
    fn deaf(&self) -> Option<String>;

    /// Whether it can serve, and how the store and each peer stand.
    fn readiness(&self) -> Readiness;

    /// All that is counted and measured, in this form.
    fn metrics(&self, form: Exposition) -> String;
}

/// Alive, ready, and nothing is known of it.
impl Health for () {
    fn deaf(&self) -> Option<String> {
        None
    }

    fn readiness(&self) -> Readiness {
        Readiness { checks: Vec::new(), ready: true }
    }

    fn metrics(&self, form: Exposition) -> String {
        match form {
            Exposition::Prometheus => String::new(),
            Exposition::OpenMetrics => "# EOF\n".to_owned(),
        }
    }
}

/// Whether the service can serve.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Readiness {
    /// What was looked at, one by one.
    pub checks: Vec<Check>,
    /// Whether requests may be sent here: the store can be used, and the service is not stopping. A peer that is away
    /// does not count: no other replica would reach it, and sessions wait for it (P9).
    pub ready: bool,
}

/// One thing that the service needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What is wrong with it; `None` while nothing is. Not everybody is shown it.
    pub detail: Option<String>,
    /// What it is: `store`, `lease`, `hsm`, `bos`, `slurm`.
    pub name: &'static str,
    /// Since when it stands so.
    pub since: Stamp,
    /// How it stands.
    pub state: CheckState,
}

/// How something that the service needs stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckState {
    /// What was asked of it last was done.
    Ok,
    /// It was not.
    Failing,
    /// Nothing was asked of it yet.
    Unknown,
}

/// A form in which metrics are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exposition {
    /// The text format of Prometheus, 0.0.4.
    Prometheus,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Exposition {
    /// The form that a client wants, by its header `Accept`: that of Prometheus unless it names the other.
    pub(crate) fn wanted(accept: Option<&str>) -> Self {
        let names = |accept: &str| {
            accept.split(',').any(|form| {
                let mut parts = form.split(';').map(str::trim);
                let is_it = parts
                    .next()
                    .is_some_and(|kind| kind.eq_ignore_ascii_case("application/openmetrics-text"));
                let is_refused =
                    |part: &str| part.strip_prefix("q=").is_some_and(|q| q.parse() == Ok(0.0_f32));
                is_it && !parts.any(is_refused)
            })
        };
        if accept.is_some_and(names) { Exposition::OpenMetrics } else { Exposition::Prometheus }
    }

    /// The media type of this form.
    pub fn content_type(self) -> &'static str {
        match self {
            Exposition::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Exposition::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrape_gets_the_form_that_it_asks_for() {
        let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                          text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert_eq!(Exposition::wanted(Some(prometheus)), Exposition::OpenMetrics);
        for other in [
            None,
            Some("*/*"),
            Some("text/plain"),
            Some("application/openmetrics-text;q=0, text/plain"),
            Some(""),
        ] {
            assert_eq!(Exposition::wanted(other), Exposition::Prometheus, "{other:?}");
        }
    }
}
