//! Slurm's host lists: `nid[000001-000064,000070]` for the names it stands for.
//!
//! Padding matters: `nid[1-3]` and `nid[000001-000003]` are different nodes.

use std::collections::BTreeMap;

use crate::names::{InvalidName, NodeName};

/// The longest text of one host list, in bytes. One argument of a program may be 128 KiB; a name of another
/// kind of argument (`NodeName=`) must fit as well.
pub const TEXT_MAX: usize = 64 * 1024;

/// The most names that one host list is expanded to.
pub const NAMES_MAX: usize = 1 << 20;

/// The most names that Slurm takes in one range (`Too many hosts in range`); a list may hold several such.
const RANGE_MAX: usize = 65_536;

/// Why a text is not a host list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHostList {
    /// A bracket is not closed, not opened, or holds something else than numbers and ranges.
    #[error(
        "host list {0:?} has a bad bracket: must hold numbers and ranges, such as nid[000001-000064,000070]"
    )]
    Bracket(String),
    /// A range goes backwards.
    #[error("host list {list:?} has a bad range {range:?}: must go from a number to one that is not smaller")]
    Range {
        /// The list.
        list: String,
        /// The range.
        range: String,
    },
    /// It stands for more than [`NAMES_MAX`] names.
    #[error("host list {0:?} stands for more than {NAMES_MAX} nodes")]
    TooLong(String),
    /// It stands for something that is no node name.
    #[error(transparent)]
    Name(#[from] InvalidName),
}

/// How many digits surely fit a `u64`.
const DIGITS_MAX: usize = 18;

/// Folds names into as few host lists as fit into [`TEXT_MAX`] bytes each. Names given twice are taken once.
pub fn fold(names: &[NodeName]) -> Vec<String> {
    // A name is a prefix and the digits at its end; names of one prefix and one width share a bracket.
    let mut families: BTreeMap<(&str, usize), Vec<u64>> = BTreeMap::new();
    let mut items: Vec<String> = Vec::new();
    for name in names {
        let text = name.as_str();
        let digits = text.len() - text.trim_end_matches(|c: char| c.is_ascii_digit()).len();
        // Of more digits than surely fit a number, the first belong to the prefix.
        let (prefix, number) = text.split_at(text.len() - digits.min(DIGITS_MAX));
        match number.parse() {
            Ok(value) => families.entry((prefix, number.len())).or_default().push(value),
            Err(_) => items.push(text.to_owned()),
        }
    }
    items.sort_unstable();
    items.dedup();
    let mut lists = Lists { done: Vec::new(), current: String::new() };
    for item in items {
        lists.name(&item);
    }
    for ((prefix, width), mut numbers) in families {
        numbers.sort_unstable();
        numbers.dedup();
        if let [number] = numbers.as_slice() {
            lists.name(&format!("{prefix}{number:0width$}"));
            continue;
        }
        lists.open(prefix);
        for range in numbers.chunk_by(|a, b| a + 1 == *b).flat_map(|range| range.chunks(RANGE_MAX)) {
            let text = match range {
                [first, .., last] => format!("{first:0width$}-{last:0width$}"),
                [number] => format!("{number:0width$}"),
                [] => continue,
            };
            lists.range(prefix, &text);
        }
        lists.current.push(']');
    }
    lists.finish()
}

/// Host lists being written, each below the limit.
struct Lists {
    done: Vec<String>,
    current: String,
}

impl Lists {
    fn name(&mut self, name: &str) {
        self.make_room(name.len());
        self.current.push_str(name);
    }

    /// Begins the next part of a list, or another list if this one has no room for so many bytes.
    fn make_room(&mut self, bytes: usize) {
        if self.current.len() + bytes + 2 > TEXT_MAX {
            self.done.push(std::mem::take(&mut self.current));
        }
        if !self.current.is_empty() {
            self.current.push(',');
        }
    }

    fn open(&mut self, prefix: &str) {
        // The first range goes with it.
        self.make_room(prefix.len() + 48);
        self.current.extend([prefix, "["]);
    }

    /// A range in the bracket that is open.
    fn range(&mut self, prefix: &str, range: &str) {
        if self.current.len() + range.len() + 2 > TEXT_MAX {
            self.current.push(']');
            self.done.push(std::mem::take(&mut self.current));
            self.open(prefix);
        }
        if !self.current.ends_with('[') {
            self.current.push(',');
        }
        self.current.push_str(range);
    }

    fn finish(mut self) -> Vec<String> {
        if !self.current.is_empty() {
            self.done.push(self.current);
        }
        self.done
    }
}

/// The names that a host list stands for, in its order. An empty text stands for none.
///
/// # Errors
/// When it is not a host list, stands for something that is no node name, or for too many.
pub fn expand(list: &str) -> Result<Vec<NodeName>, InvalidHostList> {
    let mut names = Vec::new();
    for item in items(list)? {
        let mut texts = vec![String::new()];
        let mut rest = item;
        while let Some((plain, bracket)) = rest.split_once('[') {
            let (ranges, after) =
                bracket.split_once(']').ok_or_else(|| InvalidHostList::Bracket(short(list)))?;
            let numbers = numbers(list, ranges)?;
            if texts.len().saturating_mul(numbers.len()) + names.len() > NAMES_MAX {
                return Err(InvalidHostList::TooLong(short(list)));
            }
            texts = (texts.iter())
                .flat_map(|text| numbers.iter().map(move |number| format!("{text}{plain}{number}")))
                .collect();
            rest = after;
        }
        if rest.contains(']') {
            return Err(InvalidHostList::Bracket(short(list)));
        }
        for text in texts {
            names.push(NodeName::new(&format!("{text}{rest}"))?);
        }
        if names.len() > NAMES_MAX {
            return Err(InvalidHostList::TooLong(short(list)));
        }
    }
    Ok(names)
}

/// The parts between the commas that are in no bracket.
fn items(list: &str) -> Result<Vec<&str>, InvalidHostList> {
    let mut items = Vec::new();
    let mut start = 0;
    let mut open = false;
    for (i, c) in list.char_indices() {
        match c {
            '[' if open => return Err(InvalidHostList::Bracket(short(list))),
            '[' => open = true,
            ']' => open = false,
            ',' if !open => {
                items.push(&list[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    if !list.is_empty() {
        items.push(&list[start..]);
    }
    Ok(items)
}

/// The numbers in a bracket, padded as they are there.
fn numbers(list: &str, ranges: &str) -> Result<Vec<String>, InvalidHostList> {
    let mut numbers = Vec::new();
    for range in ranges.split(',') {
        let bad_range = || InvalidHostList::Range { list: short(list), range: short(range) };
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let is_number =
            |text: &str| (1..=DIGITS_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        if !is_number(first) || !is_number(last) {
            return Err(InvalidHostList::Bracket(short(list)));
        }
        let width = first.len();
        let (first, last): (u64, u64) =
            (first.parse().map_err(|_| bad_range())?, last.parse().map_err(|_| bad_range())?);
        if first > last {
            return Err(bad_range());
        }
        if last - first >= (NAMES_MAX - numbers.len().min(NAMES_MAX)) as u64 {
            return Err(InvalidHostList::TooLong(short(list)));
        }
        numbers.extend((first..=last).map(|number| format!("{number:0width$}")));
    }
    Ok(numbers)
}

/// Enough of a text to know it again.
fn short(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(texts: &[&str]) -> Vec<NodeName> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn folds_as_slurm_does() {
        let folded = |texts: &[&str]| fold(&names(texts)).join(" ");
        assert_eq!(folded(&[]), "");
        assert_eq!(folded(&["nid000007"]), "nid000007");
        assert_eq!(
            folded(&["nid000003", "nid000001", "nid000002", "nid000070"]),
            "nid[000001-000003,000070]"
        );
        assert_eq!(folded(&["nid1", "nid01", "nid2", "login"]), "login,nid[1-2],nid01");
        assert_eq!(folded(&["a9", "a10", "a9"]), "a9,a10", "another width is another bracket");
        let twenty = ["n00000000000000000001", "n00000000000000000002"];
        assert_eq!(folded(&twenty), "n00[000000000000000001-000000000000000002]");
    }

    #[test]
    fn no_range_is_longer_than_slurm_takes() {
        let many: Vec<NodeName> = (1..=65_537).map(|n| format!("nid{n:06}").parse().unwrap()).collect();
        assert_eq!(fold(&many), ["nid[000001-065536,065537]"]);
    }

    #[test]
    fn expands_what_squeue_prints() {
        let expanded =
            |text| expand(text).map(|names| names.iter().map(NodeName::to_string).collect::<Vec<_>>());
        assert_eq!(expanded(""), Ok(vec![]));
        assert_eq!(expanded("nid[000009-000011]").unwrap(), ["nid000009", "nid000010", "nid000011"]);
        assert_eq!(expanded("a[1,3-4],login").unwrap(), ["a1", "a3", "a4", "login"]);
        assert_eq!(expanded("r[1-2]n[08-09]").unwrap(), ["r1n08", "r1n09", "r2n08", "r2n09"]);
        assert_eq!(expanded("a[9-11]").unwrap(), ["a9", "a10", "a11"]);
        assert_eq!(expanded("a[09-10,100,99]").unwrap(), ["a09", "a10", "a100", "a99"]);
        for bad in
            ["nid[1-3", "nid1]", "nid[3-1]", "nid[a]", "nid[]", "nid[1-]", "a,,b", "ALL", "n[1[2]]", ","]
        {
            assert!(expand(bad).is_err(), "{bad}");
        }
        for huge in ["n[0-99999999]", "n[0-99999][0-99999]", "n[1-999999999999999999]"] {
            assert!(matches!(expand(huge), Err(InvalidHostList::TooLong(_))), "{huge}");
        }
    }

    #[test]
    fn long_lists_are_split_below_the_limit() {
        let odd: Vec<NodeName> =
            (0..50_000u32).map(|n| format!("nid{:06}", 2 * n).parse().unwrap()).collect();
        let lists = fold(&odd);
        assert!(lists.len() > 1 && lists.iter().all(|list| list.len() <= TEXT_MAX));
        let back: Vec<NodeName> = lists.iter().flat_map(|list| expand(list).unwrap()).collect();
        assert_eq!(back, odd);
    }

    proptest! {
        #[test]
        fn expanding_what_was_folded_gives_the_same_names(texts in prop::collection::vec("[a-c]{1,2}[0-9]{0,3}", 0..80)) {
            let mut names: Vec<NodeName> = texts.iter().map(|text| text.parse().unwrap()).collect();
            let mut back: Vec<NodeName> = fold(&names).iter().flat_map(|list| expand(list).unwrap()).collect();
            names.sort();
            names.dedup();
            back.sort();
            prop_assert_eq!(back, names);
        }

        #[test]
        fn any_text_is_a_host_list_or_an_error(text in "[a-z0-9\\[\\],-]{0,40}|\\PC{0,40}") {
            if let Ok(names) = expand(&text) {
                prop_assert!(names.len() <= NAMES_MAX);
            }
        }
    }
}
