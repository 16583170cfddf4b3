//! Random worlds: whatever happens in them, the promises hold. `cargo xtask sim` runs many more.

use crus_core::driver::Next;
use crus_core::ports::Peer;
use crus_sim::journal::Kind;
use crus_sim::worlds::{Deed, Report, run, run_prepared};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

/// P1–P8 are checked by each world after every event; P9: once faults stop, it ends. `CRUS_TEST_SEED` replays one
/// world, `CRUS_TEST_WORLDS` says how many there are.
#[test]
fn p1_to_p9_hold_whatever_fails_whoever_meddles_and_the_sessions_end() {
    let (first, seeds) = match number("CRUS_TEST_SEED") {
        Some(seed) => (seed, 1),
        None => (0, number("CRUS_TEST_WORLDS").unwrap_or(2_000)),
    };
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let report = Report::of(first, seeds, threads);
    if let Some(failed) = &report.failed {
        let tail: Vec<&str> = failed.trace.lines().rev().take(60).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        panic!("{failed}; CRUS_TEST_SEED={} replays it\n{}", failed.seed, tail.join("\n"));
    }
    if seeds < 1_000 {
        return;
    }
    // A world in which nothing goes wrong proves nothing.
    for kind in Kind::ALL {
        assert!(report.sum.events_of(kind) > 0, "no {}", kind.name());
    }
    for peer in [Peer::Hsm, Peer::Bos, Peer::Wlm] {
        assert_eq!(report.sum.faults.keys().filter(|(of, _)| *of == peer).count(), 6, "faults of {peer}");
    }
    for deed in [Deed::CrashBeforeStoring, Deed::TakenOver, Deed::WokenUp, Deed::BootedBySomebody] {
        assert!(report.sum.deeds.contains_key(&deed), "{}", deed.name());
    }
    for deed in [Deed::SessionPaused, Deed::SessionResumed, Deed::SessionRetried, Deed::GivenUp] {
        assert!(report.sum.deeds.contains_key(&deed), "{}", deed.name());
    }
    for (option, count) in &report.sum.options {
        assert!(*count > 0, "no session of {option}");
    }
    assert!(report.sum.sessions.len() == 2 && report.sum.nodes.len() == 3, "{report}");
}

#[test]
fn a_seed_gives_the_same_trace_byte_for_byte() {
    let mut traces = std::collections::BTreeSet::new();
    for seed in 0..20 {
        let once = run(seed, true).unwrap();
        assert!(!once.trace.is_empty());
        assert_eq!(once.trace, run(seed, true).unwrap().trace, "seed {seed}");
        assert_eq!(once.counts, run(seed, false).unwrap().counts, "writing seed {seed} down changes it");
        traces.insert(once.trace);
    }
    assert_eq!(traces.len(), 20, "each seed is a world of its own");
}

/// P9: a service that leaves its sessions before they end is seen, by a seed that shows it again.
#[test]
fn p9_the_seed_of_a_failure_replays_it() {
    let broken = |seed| {
        run_prepared(seed, true, |world| {
            world.tamper(|session, next| match next {
                Next::At(_) if session.head.step > 0 => Next::Finished,
                next => next,
            });
        })
    };
    let first = (0..100).find_map(|seed| broken(seed).err()).unwrap();
    let again = broken(first.seed).unwrap_err();
    assert_eq!((&first.stuck, &first.trace), (&again.stuck, &again.trace));
    assert!(first.to_string().starts_with(&format!("seed {}: ", first.seed)), "{first}");
    assert!(run(first.seed, false).is_ok(), "unbroken, it ends well");
}
