//! What must hold of every input that comes from elsewhere, tried on the seeds of the fuzz targets, and on what becomes of
//! these and of nothing by chance. `cargo xtask fuzz` tries longer, and learns from what it tries.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use crus_core::fuzzing::Property;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

/// Inputs that were found to matter, in a folder for each property.
fn seeds() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../xtask/fuzz/seeds")
}

fn files_in(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn properties() -> Vec<Property> {
    crus_server::fuzzing::properties().collect()
}

#[test]
fn every_property_has_seeds_and_every_seed_a_property() {
    let names: BTreeSet<String> = properties().iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names.len(), properties().len(), "names are unique");
    let folders: BTreeSet<String> = files_in(&seeds())
        .iter()
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    assert_eq!(folders, names);
    for folder in files_in(&seeds()) {
        assert!(!files_in(&folder).is_empty(), "{}", folder.display());
    }
}

#[test]
fn every_seed_has_its_property() {
    for (name, check) in properties() {
        for seed in files_in(&seeds().join(name)) {
            let data = fs::read(&seed).unwrap();
            if catch_unwind(AssertUnwindSafe(|| check(&data))).is_err() {
                panic!("{name} does not hold of {}", seed.display());
            }
        }
    }
}

/// A change to some bytes.
#[derive(Debug, Clone)]
enum Edit {
    Set(Index, u8),
    Remove(Index, usize),
    Insert(Index, Vec<u8>),
    Repeat(Index, usize),
}

/// Bytes, shown as a literal.
#[derive(Clone)]
struct Input(Vec<u8>);

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b\"{}\"", self.0.escape_ascii())
    }
}

/// What parsers look for.
const WORDS: [&str; 24] = [
    "\n",
    "[",
    "]",
    "-",
    ",",
    "=",
    "|",
    "{",
    "}",
    "\"",
    "\\u0000",
    "null",
    "0",
    "00",
    "18446744073709551616",
    "1e2",
    "%",
    "+",
    " Reason=",
    "State=",
    "ALL",
    "..",
    "é\u{202e}",
    "\u{feff}",
];

fn edit() -> impl Strategy<Value = Edit> {
    let word = prop::sample::select(&WORDS[..]).prop_map(|word| word.as_bytes().to_vec());
    prop_oneof![
        3 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Edit::Set(at, byte)),
        2 => (any::<Index>(), 1..40usize).prop_map(|(at, length)| Edit::Remove(at, length)),
        3 => (any::<Index>(), word).prop_map(|(at, word)| Edit::Insert(at, word)),
        1 => (any::<Index>(), prop::collection::vec(any::<u8>(), 1..8)).prop_map(|(at, word)| Edit::Insert(at, word)),
        1 => (any::<Index>(), 1..40usize).prop_map(|(at, length)| Edit::Repeat(at, length)),
    ]
}

fn edited(seed: &[u8], edits: &[Edit]) -> Vec<u8> {
    let mut data = seed.to_vec();
    for edit in edits {
        let place = |at: &Index| at.index(data.len() + 1);
        match edit {
            Edit::Set(at, byte) => {
                let at = place(at);
                if let Some(old) = data.get_mut(at) {
                    *old = *byte;
                }
            }
            Edit::Remove(at, length) => {
                let at = place(at);
                data.drain(at..data.len().min(at + length));
            }
            Edit::Insert(at, word) => {
                let at = place(at);
                data.splice(at..at, word.iter().copied());
            }
            Edit::Repeat(at, length) => {
                let at = place(at);
                let part = data[at..data.len().min(at + length)].to_vec();
                data.splice(at..at, part);
            }
        }
    }
    data
}

/// Runs a property on inputs that are made up. A failure is told with the input, as small as could be.
fn check_by_chance(name: &str, check: fn(&[u8]), cases: u32) -> Result<(), String> {
    let seeds: Vec<Vec<u8>> =
        files_in(&seeds().join(name)).iter().map(|path| fs::read(path).unwrap()).collect();
    let of_seed = (prop::sample::select(seeds), prop::collection::vec(edit(), 0..6))
        .prop_map(|(seed, edits)| edited(&seed, &edits));
    let of_nothing = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..200),
        any::<String>().prop_map(String::into_bytes),
        "[ -~]{0,100}".prop_map(String::into_bytes),
    ];
    let input = prop_oneof![3 => of_seed, 1 => of_nothing].prop_map(Input);
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new(config);
    let result = runner.run(&input, |Input(data)| {
        let held = catch_unwind(AssertUnwindSafe(|| check(&data)));
        held.map_err(|_| TestCaseError::fail("it does not hold"))
    });
    result.map_err(|error| format!("{name}: {error}\nkeep the bytes below xtask/fuzz/seeds/{name}"))
}

#[test]
fn properties_hold_of_inputs_made_up_by_chance() {
    let of = |(name, check): Property| {
        // A file each time.
        let cases = if name == "store_file" { 40 } else { 400 };
        check_by_chance(name, check, cases).err()
    };
    let failures: Vec<String> = properties().into_iter().filter_map(of).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
