//! What may differ between a page and what its commands print, all of it.
//!
//! - `…` alone on a line stands for any lines, also for none; `…` within a line for any text.
//! - How much white space there is between words: columns are as wide as what they hold.
//! - What is new each time: see [`Rules::new`].

use libtest_mimic::Trial;
use regex_lite::Regex;

const ANY: char = '…';

/// What is replaced before lines are compared, in this order.
pub(crate) struct Rules(Vec<(Regex, &'static str)>);

impl Rules {
    pub(crate) fn new() -> Self {
        let rules = [
            // Upgrade ids, ids of events' streams.
            (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "ID"),
            // Ports are free ones.
            (r"127\.0\.0\.1:[0-9]+", "ADDRESS"),
            // Moments.
            (r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?Z?", "TIME"),
            (r"\b[0-9]{2}:[0-9]{2}:[0-9]{2}\b", "TIME"),
            // How long something took, or will take: one or several numbers with units.
            (r"\b[0-9]+(\.[0-9]+)? (ms|s|min|h|d)\b( [0-9]+ (s|min|h)\b)*", "SPAN"),
            // What a store's file, or an answer, takes.
            (r"\b[0-9]+(\.[0-9]+)? (bytes|KiB|MiB)\b", "SIZE"),
        ];
        Rules(rules.map(|(pattern, with)| (Regex::new(pattern).unwrap(), with)).into())
    }

    fn apply(&self, line: &str) -> String {
        let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
        self.0.iter().fold(line, |line, (rule, with)| rule.replace_all(&line, *with).into_owned())
    }

    /// # Errors
    /// When a command printed something else than the page says: both.
    pub(crate) fn compare(&self, told: &[&str], printed: &[String]) -> Result<(), String> {
        let expected: Vec<String> = told.iter().map(|line| self.apply(line)).collect();
        let seen: Vec<String> = printed.iter().map(|line| self.apply(line)).collect();
        if all_match(&expected, &seen) {
            return Ok(());
        }
        let marked = |mark: &str, line: &str| format!("{mark} {line}\n");
        let told: String = told.iter().map(|line| marked("  page:   ", line)).collect();
        let printed: String = printed.iter().map(|line| marked("  printed:", line)).collect();
        Err(format!("{told}{printed}"))
    }
}

/// Whether the lines are those of the pattern.
fn all_match(pattern: &[String], lines: &[String]) -> bool {
    // For each place in the pattern, whether the lines up to there fit so far.
    let mut fits = vec![false; lines.len() + 1];
    fits[0] = true;
    for part in pattern {
        let mut next = vec![false; lines.len() + 1];
        if part.chars().eq([ANY]) {
            let first = fits.iter().position(|fit| *fit).unwrap_or(fits.len());
            next[first..].fill(true);
        } else {
            for (at, line) in lines.iter().enumerate() {
                next[at + 1] = fits[at] && line_matches(part, line);
            }
        }
        fits = next;
    }
    fits[lines.len()]
}

fn line_matches(pattern: &str, line: &str) -> bool {
    let pieces: Vec<&str> = pattern.split(ANY).collect();
    let [first, .., last] = pieces.as_slice() else { return pattern == line };
    let Some(mut rest) = line.strip_prefix(first).and_then(|rest| rest.strip_suffix(last)) else {
        return false;
    };
    for piece in &pieces[1..pieces.len() - 1] {
        match rest.split_once(piece) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    true
}

/// What this module promises.
pub(crate) fn trials() -> Vec<Trial> {
    let trial = Trial::test("only_what_may_differ_may_differ", || {
        let rules = Rules::new();
        let printed = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        let equal =
            |told: &str, seen: &str| rules.compare(&told.lines().collect::<Vec<_>>(), &printed(seen)).is_ok();
        for (told, seen) in [
            ("", ""),
            ("…", ""),
            ("…", "a\nb"),
            ("a\n…\nd", "a\nb\nc\nd"),
            ("a\n…\nd", "a\nd"),
            ("the … one …", "the second one of all"),
            ("took  3 s", "took 1 min 20 s"),
            ("at 10:31:07, 2026-01-01T00:00:00Z", "at 09:00:00, 2027-12-31T10:00:00.5Z"),
            ("id 00000000-0000-0000-0000-000000000000", "id ffffffff-ffff-ffff-ffff-ffffffffffff"),
        ] {
            assert!(equal(told, seen), "{told:?} {seen:?}");
        }
        for (told, seen) in [
            ("", "a"),
            ("a", ""),
            ("a\n…\nd", "a\nb\nc"),
            ("8 nodes", "9 nodes"),
            ("the … one", "the second two"),
            ("a…a", "a"),
            ("at 10:31:07", "at noon"),
            ("a\nb", "b\na"),
        ] {
            assert!(!equal(told, seen), "{told:?} {seen:?}");
        }
        Ok(())
    });
    vec![trial]
}
