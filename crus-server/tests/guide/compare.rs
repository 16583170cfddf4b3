//! What may differ between a page and what its commands print, all of it.
//!
//! - `…` alone on a line stands for any lines, also for none; `…` within a line for any text.
//! - How much white space there is between words: columns are as wide as what they hold.
//! - What is new each time: see [`Rules::new`]. But two ids that are the same on a page must be the same in what is
//!   printed, and two that are not must not be: a page tells one story.

use std::collections::BTreeMap;

use regex_lite::Regex;

const ANY: char = '…';

/// The kind of what is new each time that says which session is meant.
const ID: usize = 0;

/// The kind of it that is of no interest to a reader: the page keeps its own.
const ADDRESS: usize = 1;

/// Stands for what is new each time, of the first kind; the others follow.
const FIRST_KIND: u32 = 0xE000;

/// What is new each time.
pub(crate) struct Rules(Regex);

/// Which ids of a page are which of those that are printed.
#[derive(Default)]
pub(crate) struct Ids {
    of_told: BTreeMap<String, String>,
    of_seen: BTreeMap<String, String>,
}

/// A line: with a character for each thing that is new each time, and these things.
struct Line {
    shape: String,
    new: Vec<(usize, String)>,
}

impl Rules {
    pub(crate) fn new() -> Self {
        let kinds = [
            // Upgrade ids.
            r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
            // Ports are free ones.
            r"127\.0\.0\.1:[0-9]+",
            // Moments.
            r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?Z?|\b[0-9]{2}:[0-9]{2}:[0-9]{2}\b",
            // How long something took, or will take: one or several numbers with units.
            r"\b[0-9]+(?:\.[0-9]+)? (?:ms|s|min|h|d)\b(?: [0-9]+ (?:s|min|h)\b)*",
            // What a store's file, or an answer, takes.
            r"\b[0-9]+(?:\.[0-9]+)? (?:bytes|KiB|MiB)\b",
        ];
        let kinds: Vec<String> = kinds.iter().map(|kind| format!("({kind})")).collect();
        Rules(Regex::new(&kinds.join("|")).unwrap())
    }

    fn read(&self, line: &str) -> Line {
        let (mut shape, mut new, mut at) = (String::new(), Vec::new(), 0);
        for found in self.0.captures_iter(line) {
            let all = found.get(0).unwrap();
            let kind = (1..found.len()).position(|kind| found.get(kind).is_some()).unwrap();
            shape += &line[at..all.start()];
            shape.extend(char::from_u32(FIRST_KIND + u32::try_from(kind).unwrap()));
            new.push((kind, all.as_str().to_owned()));
            at = all.end();
        }
        Line { shape: shape + &line[at..], new }
    }

    /// Whether a command printed what the page tells; else both, and why they differ. And the lines that the page should
    /// have: what it tells, with what is new as it was printed, or what was printed, if that is something else.
    pub(crate) fn compare(
        &self,
        told: &[&str],
        printed: &[String],
        ids: &mut Ids,
    ) -> (Result<(), String>, Vec<String>) {
        let read = |line: &str| self.read(&line.split_whitespace().collect::<Vec<_>>().join(" "));
        let expected: Vec<Line> = told.iter().map(|line| read(line)).collect();
        let seen: Vec<Line> = printed.iter().map(|line| read(line)).collect();
        let differ = |why: &str| {
            let marked = |mark: &str, line: &str| format!("{mark} {line}\n");
            let told: String = told.iter().map(|line| marked("  page:   ", line)).collect();
            let printed: String = printed.iter().map(|line| marked("  printed:", line)).collect();
            format!("{told}{printed}{why}")
        };
        let Some(pairs) = align(&expected, &seen) else { return (Err(differ("")), printed.to_vec()) };
        let mut same = Ok(());
        let mut now: Vec<String> = told.iter().map(|line| (*line).to_owned()).collect();
        for (at, other) in pairs {
            let new = of_seen(&expected[at].shape, &seen[other]);
            let mut line =
                if told[at].contains(ANY) { self.renewed(told[at], &new) } else { printed[other].clone() };
            for ((kind, told), (_, seen)) in expected[at].new.iter().zip(&new) {
                match *kind {
                    ID => same = same.and(ids.learn(told, seen)),
                    ADDRESS => line = line.replace(seen, told),
                    _ => {}
                }
            }
            now[at] = line;
        }
        (same.map_err(|why| differ(&why)), now)
    }

    /// The line, with these instead of what is new in it.
    fn renewed(&self, line: &str, new: &[(usize, String)]) -> String {
        let Line { shape, new: old } = self.read(line);
        if old.len() != new.len() {
            return line.to_owned();
        }
        let mut new = new.iter();
        shape.chars().map(|c| if is_new(c) { new.next().unwrap().1.clone() } else { c.to_string() }).collect()
    }
}

impl Ids {
    fn learn(&mut self, told: &str, seen: &str) -> Result<(), String> {
        let known = self.of_told.entry(told.to_owned()).or_insert_with(|| seen.to_owned());
        if known.as_str() != seen {
            return Err(format!("  {told} of the page was {known} before, and is {seen} now\n"));
        }
        let known = self.of_seen.entry(seen.to_owned()).or_insert_with(|| told.to_owned());
        if known.as_str() != told {
            return Err(format!("  {seen} was called {known} before, and the page calls it {told} now\n"));
        }
        Ok(())
    }
}

/// Which lines are those of which lines of the pattern; `None`, when they are not.
fn align(pattern: &[Line], lines: &[Line]) -> Option<Vec<(usize, usize)>> {
    // For each place in the pattern, whether the lines up to there fit so far.
    let mut fits = vec![vec![false; lines.len() + 1]; pattern.len() + 1];
    fits[0][0] = true;
    for (part, line) in pattern.iter().enumerate() {
        if is_any(line) {
            let first = fits[part].iter().position(|fit| *fit).unwrap_or(lines.len() + 1);
            fits[part + 1][first..].fill(true);
        } else {
            for at in 0..lines.len() {
                fits[part + 1][at + 1] = fits[part][at] && pieces(&line.shape, &lines[at].shape).is_some();
            }
        }
    }
    let mut at = lines.len();
    if !fits[pattern.len()][at] {
        return None;
    }
    let mut pairs = Vec::new();
    for part in (0..pattern.len()).rev() {
        if is_any(&pattern[part]) {
            at = (0..=at).rev().find(|before| fits[part][*before])?;
        } else {
            at -= 1;
            pairs.push((part, at));
        }
    }
    pairs.reverse();
    Some(pairs)
}

fn is_any(line: &Line) -> bool {
    line.shape.chars().eq([ANY])
}

/// Whether it stands for something that is new each time.
fn is_new(c: char) -> bool {
    (FIRST_KIND..FIRST_KIND + 8).contains(&u32::from(c))
}

/// Where in the line each piece of the pattern is.
fn pieces(pattern: &str, line: &str) -> Option<Vec<std::ops::Range<usize>>> {
    let pieces: Vec<&str> = pattern.split(ANY).collect();
    let [first, middle @ .., last] = pieces.as_slice() else {
        return (pattern == line).then(|| std::iter::once(0..line.len()).collect());
    };
    let end = line.strip_prefix(first)?.strip_suffix(last)?.len() + first.len();
    let mut at = first.len();
    let mut found: Vec<_> = std::iter::once(0..at).collect();
    for piece in middle {
        let begin = at + line[at..end].find(piece)?;
        at = begin + piece.len();
        found.push(begin..at);
    }
    found.push(end..line.len());
    Some(found)
}

/// What is new in a line that fits, as far as the pattern tells of it.
fn of_seen(pattern: &str, line: &Line) -> Vec<(usize, String)> {
    let count = |text: &str| text.chars().filter(|c| is_new(*c)).count();
    let told = pieces(pattern, &line.shape).into_iter().flatten().flat_map(|piece| {
        let before = count(&line.shape[..piece.start]);
        line.new[before..before + count(&line.shape[piece])].to_vec()
    });
    told.collect()
}

#[test]
fn only_what_may_differ_may_differ() {
    let equal = |told: &str, seen: &str| compared(told, seen, &mut Ids::default()).0.is_ok();
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
}

#[test]
fn a_page_tells_one_story() {
    let [a, b, c] =
        ['a', 'b', 'c'].map(|c| [8, 4, 4, 4, 12].map(|count| c.to_string().repeat(count)).join("-"));
    let mut ids = Ids::default();
    let mut fits = |told: &str, seen: &str| compared(told, seen, &mut ids).0.is_ok();
    assert!(fits(&format!("… is {a}\n…\n{b}"), &format!("{c} is {b}\n{c}\n{a}")), "a is b now, and b is a");
    assert!(fits(&format!("{b}, {a}"), &format!("{a}, {b}")));
    assert!(!fits(&a, &a), "it was another");
    assert!(!fits(&c, &b), "two of the page are one");
}

#[test]
fn a_page_is_renewed_as_a_whole() {
    let told = "took 3 s …  at 10:31:07\n…\nsize  1 KiB at 127.0.0.1:8080";
    let seen = "took 1 min 4 s and 5 s at 11:00:00\nmore 3 s\nsize 12 KiB at 127.0.0.1:41";
    let (same, now) = compared(told, seen, &mut Ids::default());
    assert_eq!(now, ["took 1 min 4 s …  at 11:00:00", "…", "size 12 KiB at 127.0.0.1:8080"]);
    same.unwrap();
}

fn compared(told: &str, seen: &str, ids: &mut Ids) -> (Result<(), String>, Vec<String>) {
    let printed: Vec<String> = seen.lines().map(str::to_owned).collect();
    Rules::new().compare(&told.lines().collect::<Vec<_>>(), &printed, ids)
}
