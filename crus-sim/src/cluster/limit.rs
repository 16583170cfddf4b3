//! The `limit` of a BOS session, with its traps.
//!
//! BOS reads it as text between commas, in order: a name adds its nodes, `&name` keeps only its nodes, `!name` takes
//! its nodes away, and what comes out narrows the nodes of the session template. Nothing is trimmed and nothing
//! unknown is reported.

use std::collections::BTreeSet;

use crus_core::Xname;

/// What Python says of an empty name between commas.
const EMPTY_NAME: &str = "IndexError: string index out of range";

/// The nodes that a limit leaves of `nodes`. `inventory` has the nodes of a group or role.
///
/// # Errors
/// The text that the session ends with.
pub(super) fn narrow(
    limit: &str,
    nodes: BTreeSet<Xname>,
    inventory: impl Fn(&str) -> Option<BTreeSet<Xname>>,
) -> Result<BTreeSet<Xname>, &'static str> {
    if limit.is_empty() {
        return Ok(nodes);
    }
    let mut kept = BTreeSet::new();
    for name in limit.split(',') {
        let mut chars = name.chars();
        let (operator, name) = match chars.next().ok_or(EMPTY_NAME)? {
            operator @ ('&' | '!') => (operator, chars.as_str()),
            _ => ('+', name),
        };
        let named = match name {
            "all" | "*" => nodes.clone(),
            _ => inventory(name).unwrap_or_else(|| exact_xname(name).into_iter().collect()),
        };
        kept = match operator {
            '&' => &kept & &named,
            '!' => &kept - &named,
            _ => &kept | &named,
        };
    }
    Ok(&kept & &nodes)
}

/// The node of an xname that is written just as HSM writes it: BOS compares texts.
pub(super) fn exact_xname(text: &str) -> Option<Xname> {
    Xname::new(text).ok().filter(|xname| xname.to_string() == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn x(n: u32) -> Xname {
        Xname::new(&format!("x1c0s{n}b0n0")).unwrap()
    }

    fn narrowed(limit: &str) -> Result<Vec<Xname>, &'static str> {
        let inventory = |name: &str| match name {
            "blue" => Some([x(1), x(2), x(9)].into()),
            "Compute" => Some((0..4).map(x).collect()),
            "nobody" => Some(BTreeSet::new()),
            _ => None,
        };
        narrow(limit, (0..4).map(x).collect(), inventory).map(|kept| kept.into_iter().collect())
    }

    #[test]
    fn an_empty_limit_a_star_and_all_mean_every_node() {
        for limit in ["", "*", "all", "Compute"] {
            assert_eq!(narrowed(limit), Ok((0..4).map(x).collect()), "{limit:?}");
        }
    }

    #[test]
    fn names_add_and_operators_narrow_in_order() {
        assert_eq!(narrowed("x1c0s0b0n0,x1c0s3b0n0"), Ok(vec![x(0), x(3)]));
        assert_eq!(narrowed("blue"), Ok(vec![x(1), x(2)]));
        assert_eq!(narrowed("Compute,!blue"), Ok(vec![x(0), x(3)]));
        assert_eq!(narrowed("Compute,&blue"), Ok(vec![x(1), x(2)]));
        assert_eq!(narrowed("!blue"), Ok(vec![]), "nothing was there to take away from");
        assert_eq!(narrowed("blue,!x1c0s1b0n0,x1c0s0b0n0"), Ok(vec![x(0), x(2)]));
    }

    #[test]
    fn what_is_unknown_is_dropped_in_silence() {
        assert_eq!(narrowed("x1c0s0b0n0,x1c0s77b0n0,ghost"), Ok(vec![x(0)]));
        assert_eq!(narrowed("nobody"), Ok(vec![]));
        assert_eq!(narrowed("X1C0S0B0N0"), Ok(vec![]), "upper case is unknown");
    }

    #[test]
    fn a_space_hides_a_node_and_a_trailing_comma_ends_the_session() {
        assert_eq!(narrowed("x1c0s0b0n0, x1c0s1b0n0"), Ok(vec![x(0)]));
        assert_eq!(narrowed("x1c0s0b0n0,"), Err(EMPTY_NAME));
    }
}
