//! Host lists as Slurm's programs read and print them.

use crus_core::{NodeName, hostlist};

/// The names in a list, valid or not: unknown ones are complained of by name, so each must come out. A list whose
/// brackets cannot be read becomes one name that nobody has, as Slurm's own parser makes one (`nid[000001-` is the
/// host `nid]`).
pub(super) fn expand(list: &str) -> Vec<String> {
    match (hostlist::expand(list), list.split_once('[')) {
        (Ok(names), _) => names.into_iter().map(String::from).collect(),
        (Err(_), Some((before, _))) => vec![format!("{before}]")],
        (Err(_), None) => list.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect(),
    }
}

/// `nid[000001-000003]`
pub(super) fn fold(names: &[NodeName]) -> String {
    hostlist::fold(names).join(",")
}
