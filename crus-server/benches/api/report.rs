//! The printed tables, and the judgement of what is in them.

use crate::load::{Durations, Load};

/// The highest accepted ratio of the service's p99 to that of the trivial server.
pub(crate) const MAX_RATIO: f64 = 1.5;

/// Prints the heads of the columns that [`row`] prints.
pub(crate) fn heads() {
    println!(
        "{:<33}{:>8}{:>27}{:>27}{:>19}",
        "", "answers", "from the due moment, ms", "from the send, ms", "run queue, ms/s"
    );
    println!(
        "{:<33}{:>8}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}{:>11}{:>8}{:>9}{:>8}",
        "",
        "/s",
        "median",
        "p99",
        "worst",
        "median",
        "p99",
        "worst",
        "generator",
        "server",
        "stolen",
        "B each"
    );
}

/// Prints one load.
pub(crate) fn row(name: &str, load: &Load) {
    let due = load.from_due.as_ref().map_or_else(|| format!("{:>9}{:>9}{:>9}", "-", "-", "-"), columns);
    println!(
        "{name:<33}{:>8.0}{due}{}{}{:>8}",
        load.per_second,
        columns(&load.from_send),
        load.waits,
        load.bytes / load.answers,
    );
}

fn columns(durations: &Durations) -> String {
    let ms = |per_mille| format!("{:>9.2}", durations.percentile_ms(per_mille));
    [500, 990, 1000].map(ms).concat()
}

/// Judges a load without a rate by its throughput. Returns what it missed.
pub(crate) fn judge_throughput(name: &str, load: &Load, per_second: u32) -> Option<String> {
    let missed = load.per_second < f64::from(per_second);
    missed.then(|| format!("{name}: {:.0} answers/s (target: at least {per_second}).", load.per_second))
}

/// The ratio of the service's p99 to that of the trivial server, from the due moment.
pub(crate) fn ratio(service: &Load, trivial: &Load) -> f64 {
    let p99_ms = |load: &Load| load.from_due.as_ref().unwrap().percentile_ms(990);
    p99_ms(service) / p99_ms(trivial)
}

/// Prints the ratios of all pairs, and judges their median. Returns what it missed.
pub(crate) fn judge_ratios(name: &str, mut ratios: Vec<f64>) -> Option<String> {
    let list: Vec<String> = ratios.iter().map(|ratio| format!("{ratio:.2}")).collect();
    ratios.sort_unstable_by(f64::total_cmp);
    let median = ratios[ratios.len() / 2];
    println!(
        " p99 of the service / p99 of the trivial server, from the due moment: {}; median {median:.2} (target: at most {MAX_RATIO})",
        list.join(", ")
    );
    (median > MAX_RATIO).then(|| {
        format!("{name}: p99 is {median:.2} times that of the trivial server (target: at most {MAX_RATIO}).")
    })
}
