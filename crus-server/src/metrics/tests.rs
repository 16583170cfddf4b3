//! What is registered, what is documented, and what dashboards and alerts use must be the same.

mod exposition;
mod recorded;
mod shipped;
mod table;

use crus_api::health::Exposition;
use crus_core::Time;
use crus_core::model::{Head, Pause, PauseReason, Phase, Stage};

use self::exposition::{Described, described};
use super::*;

/// One sample at least of each metric, with all of its labels.
fn all() -> BTreeMap<String, Described> {
    let metrics = recorded::everything();
    described(&metrics.expose(Exposition::Prometheus, &recorded::census(), Time(60_000)))
}

#[test]
fn names_are_those_of_a_service_in_base_units() {
    for (name, described) in all() {
        assert!(name.starts_with("crus_"), "{name}");
        assert_eq!(name.ends_with("_total"), described.kind == "counter", "{name}");
        let word = |word: &str| name.split('_').any(|part| part == word);
        for other in ["ms", "milliseconds", "minutes", "kb", "mb", "percent", "count", "sum", "bucket"] {
            assert!(!word(other), "{name}");
        }
        let says = described.help.strip_suffix('.').unwrap();
        assert!(says.len() > 5 && says.starts_with(|c: char| c.is_uppercase()), "{name}: {says}");
    }
}

#[test]
fn every_metric_has_a_sample_with_all_labels_once_something_happened() {
    for (name, described) in all() {
        assert!(described.samples > 0, "{name}: record one in `recorded::everything`");
    }
}

#[test]
fn both_forms_hold_the_same_samples() {
    let metrics = recorded::everything();
    let lines = |form| {
        let text = metrics.expose(form, &recorded::census(), Time(60_000));
        // The service measures itself anew each time; the forms write 1 and 1.0, and the name of an info, as they like.
        let of_now = |line: &&str| !line.starts_with('#') && !line.starts_with("crus_process_");
        let sample = |line: &str| {
            let (series, value) = line.rsplit_once(' ').unwrap();
            (series.replace("le=\"", "le=\"0"), value.parse::<f64>().unwrap().to_bits())
        };
        text.lines().filter(of_now).map(sample).count()
    };
    assert_eq!(lines(Exposition::Prometheus), lines(Exposition::OpenMetrics));
    let open = metrics.expose(Exposition::OpenMetrics, &recorded::census(), Time(60_000));
    assert!(open.ends_with("# EOF\n"), "{}", &open[open.len() - 60..]);
}

#[test]
fn values_of_labels_are_words_and_templates() {
    let metrics = recorded::everything();
    let text = metrics.expose(Exposition::Prometheus, &recorded::census(), Time(60_000));
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.starts_with("crus_build_info")) {
        for (label, value) in exposition::labels(line) {
            let is_word =
                |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            let fits = match &*label {
                "le" => value == "+Inf" || value.parse::<f64>().is_ok(),
                "route" => value == "none" || value.starts_with('/'),
                _ => is_word(&value),
            };
            assert!(fits, "{label}={value} in {line}");
        }
    }
}

#[test]
fn the_table_in_the_docs_is_what_is_registered() {
    table::check(&all());
}

/// 1000 sessions: what is written does not grow with them.
#[test]
fn a_scrape_is_as_long_for_a_thousand_sessions_as_for_one() {
    let metrics = recorded::everything();
    let length = |sessions: u64| {
        let mut census = recorded::census();
        census.sessions[1] = sessions;
        metrics.expose(Exposition::Prometheus, &census, Time(60_000)).lines().count()
    };
    assert_eq!(length(1), length(1000));
}

/// A step of two nodes, each thing a second after the one before, as a store tells it to who takes the session up.
#[test]
fn what_happens_in_a_step_is_measured_by_its_own_times() {
    use crus_core::driver::Observer as _;

    let metrics = std::sync::Arc::new(Metrics::new());
    let watch = SessionWatch::new(std::sync::Arc::clone(&metrics), None);
    let session = recorded::session();
    watch.taken_up(&session);
    watch.changed(&session, &recorded::story(recorded::step()));
    let seen = |series: &str| {
        let text = metrics.expose(Exposition::Prometheus, &Census::default(), Time(60_000));
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse::<f64>().unwrap())
    };
    let of = |name: &str, labels: &str| {
        ["count", "sum"].map(|part| seen(&format!("crus_{name}_duration_seconds_{part}{labels}")))
    };
    // Drained at 4 s, quiet at 5 and 6, rebooting at 8, booted at 10, back at 14; the step began at 3 and ended at 15.
    assert_eq!(of("node_drain", ""), [2.0, 1.0 + 2.0]);
    assert_eq!(of("node_boot", ""), [1.0, 2.0]);
    assert_eq!(of("node_return", ""), [1.0, 4.0]);
    assert_eq!(of("step", ""), [1.0, 12.0]);
    let stage = |word: &str| of("stage", &format!("{{stage=\"{word}\"}}"));
    assert_eq!(stage("STARTING"), [1.0, 1.0]);
    assert_eq!(stage("QUIESCING"), [1.0, 4.0]);
    assert_eq!(stage("BOOTING"), [1.0, 3.0]);
    assert_eq!(stage("CLEANUP"), [1.0, 1.0]);

    watch.left(session.head.id);
    watch.changed(&session, &recorded::story(recorded::step()));
    assert_eq!(of("step", ""), [1.0, 12.0], "it runs elsewhere");
}

/// What an operator ordered to be waited for is no stage that is stuck.
#[test]
fn a_stage_does_not_age_while_it_is_soaked_or_its_session_is_paused() {
    const HOUR: u64 = 3_600_000;
    let mut head = recorded::session().head;
    head.stage = Stage::WlmWaiting;
    head.stage_since = Time(HOUR);
    let age_ms = |head: &Head, hours: u64| {
        let mut census = Census::default();
        census.count(head, false, Time(hours * HOUR));
        let place = Census::STAGES.into_iter().position(|stage| stage == Stage::WlmWaiting).unwrap();
        census.stage_age_ms[place]
    };
    assert_eq!(age_ms(&head, 9), 0, "it works on no nodes yet");
    head.phase = Phase::Rolling;
    assert_eq!(age_ms(&head, 3), 2 * HOUR);
    head.soak_until = Some(Time(7 * HOUR));
    assert_eq!((age_ms(&head, 3), age_ms(&head, 7)), (0, 0));
    assert_eq!(age_ms(&head, 9), 2 * HOUR, "a soak that does not end is stuck");
    head.pause = Some(Pause { since: Time(8 * HOUR), why: PauseReason::Command, by: None });
    assert_eq!(age_ms(&head, 9), 0);
}
