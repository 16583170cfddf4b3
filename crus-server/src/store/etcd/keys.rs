//! What the keys are called, and how many parts are packed into one value.

use crus_core::model::UpgradeId;
use crus_core::ports::StoreError;

/// The most bytes of parts in one value of a staged set.
const CHUNK_BYTES: usize = 512 << 10;

/// Builds the keys. Every range that is read, watched or deleted as a whole ends with a `/`.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    prefix: String,
}

/// What a session has many of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Node,
    Message,
    /// An entry of the history, under its place in the ring.
    Entry,
}

impl Kind {
    pub(super) const ALL: [Kind; 3] = [Kind::Node, Kind::Message, Kind::Entry];

    /// Those of which none may be missing before the last.
    pub(super) const WHOLE: [Kind; 2] = [Kind::Node, Kind::Message];

    fn name(self) -> &'static str {
        match self {
            Kind::Node => "node",
            Kind::Message => "message",
            Kind::Entry => "history",
        }
    }
}

/// What a key in the watched range is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Live {
    Head(UpgradeId),
    Order(UpgradeId),
    Command(UpgradeId),
    Owner(UpgradeId),
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        Keys { prefix: prefix.to_owned() }
    }

    pub(super) fn all(&self) -> &str {
        &self.prefix
    }

    pub(super) fn format(&self) -> String {
        format!("{}format", self.prefix)
    }

    /// Changes with every change of a claim that decides about others.
    pub(super) fn turn(&self) -> String {
        format!("{}turn", self.prefix)
    }

    pub(super) fn claims(&self) -> String {
        format!("{}claims/", self.prefix)
    }

    pub(super) fn claim(&self, id: UpgradeId) -> String {
        format!("{}{id}", self.claims())
    }

    /// Everything of a session but what is watched and its claim.
    pub(super) fn session(&self, id: UpgradeId) -> String {
        format!("{}sessions/{id}/", self.prefix)
    }

    pub(super) fn revision(&self, id: UpgradeId) -> String {
        format!("{}revision", self.session(id))
    }

    pub(super) fn parts(&self, id: UpgradeId, kind: Kind) -> String {
        format!("{}{}/", self.session(id), kind.name())
    }

    pub(super) fn part(&self, id: UpgradeId, kind: Kind, position: u32) -> String {
        format!("{}{}", self.parts(id, kind), padded(position))
    }

    pub(super) fn delivered(&self, id: UpgradeId) -> String {
        format!("{}delivered", self.session(id))
    }

    pub(super) fn pending(&self, id: UpgradeId) -> String {
        format!("{}pending", self.session(id))
    }

    /// All staged sets of a session.
    pub(super) fn staged(&self, id: UpgradeId) -> String {
        format!("{}staged/", self.session(id))
    }

    pub(super) fn chunks(&self, id: UpgradeId, token: &str, kind: Kind) -> String {
        format!("{}{token}/{}/", self.staged(id), kind.name())
    }

    pub(super) fn chunk(&self, id: UpgradeId, token: &str, kind: Kind, position: u32) -> String {
        format!("{}{}", self.chunks(id, token, kind), padded(position))
    }

    /// What is watched: small, and of interest to every replica.
    pub(super) fn live(&self) -> String {
        format!("{}live/", self.prefix)
    }

    pub(super) fn heads(&self) -> String {
        format!("{}heads/", self.live())
    }

    pub(super) fn head(&self, id: UpgradeId) -> String {
        format!("{}{id}", self.heads())
    }

    pub(super) fn order(&self, id: UpgradeId) -> String {
        format!("{}orders/{id}", self.live())
    }

    /// The commands that are noted for a session.
    pub(super) fn commands(&self, id: UpgradeId) -> String {
        format!("{}commands/{id}/", self.live())
    }

    pub(super) fn command(&self, id: UpgradeId, name: &str) -> String {
        format!("{}{name}", self.commands(id))
    }

    pub(super) fn owners(&self) -> String {
        format!("{}owners/", self.live())
    }

    pub(super) fn owner(&self, id: UpgradeId) -> String {
        format!("{}{id}", self.owners())
    }

    /// What a key in the watched range is about; `None` when it is not one of ours.
    pub(super) fn read_live(&self, key: &[u8]) -> Option<Live> {
        let key = std::str::from_utf8(key).ok()?.strip_prefix(&self.live())?;
        let (what, id) = key.split_once('/')?;
        if let Some((id, _)) = id.split_once('/') {
            return (what == "commands").then_some(Live::Command(id.parse().ok()?));
        }
        let id = id.parse().ok()?;
        match what {
            "heads" => Some(Live::Head(id)),
            "orders" => Some(Live::Order(id)),
            "owners" => Some(Live::Owner(id)),
            _ => None,
        }
    }
}

/// Sorts as the number does.
fn padded(position: u32) -> String {
    format!("{position:010}")
}

/// What stands behind the last `/` of a key.
pub(super) fn last<T: std::str::FromStr>(key: &[u8]) -> Result<T, StoreError> {
    let last = std::str::from_utf8(key).ok().and_then(|key| key.rsplit('/').next()?.parse().ok());
    last.ok_or_else(|| {
        StoreError::Unreadable(format!("the key {} is none of ours", String::from_utf8_lossy(key)))
    })
}

/// The first key behind all that begin with this one, which ends with a `/`.
pub(super) fn end_of(range: &str) -> String {
    debug_assert!(range.ends_with('/'));
    format!("{}0", range.trim_end_matches('/'))
}

/// Packs parts, each as a line `0000000007 {…}`, into as few values as may be; each with its first position. JSON as it
/// is stored holds no line breaks.
pub(super) fn pack(rows: &[(u32, Vec<u8>)]) -> Vec<(u32, Vec<u8>)> {
    let mut chunks: Vec<(u32, Vec<u8>)> = Vec::new();
    for (position, value) in rows {
        let line = [padded(*position).as_bytes(), b" ", value, b"\n"].concat();
        match chunks.last_mut() {
            Some((_, chunk)) if chunk.len() + line.len() <= CHUNK_BYTES => chunk.extend(line),
            _ => chunks.push((*position, line)),
        }
    }
    chunks
}

/// The parts in a value that [`pack`] made.
pub(super) fn unpack(id: UpgradeId, chunk: &[u8]) -> Result<Vec<(u32, Vec<u8>)>, StoreError> {
    let lines = chunk.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let row = |line: &[u8]| {
        let space = line.iter().position(|byte| *byte == b' ')?;
        let position = std::str::from_utf8(&line[..space]).ok()?.parse().ok()?;
        Some((position, line[space + 1..].to_vec()))
    };
    let rows: Option<Vec<_>> = lines.map(row).collect();
    rows.ok_or_else(|| StoreError::Unreadable(format!("a staged part of session {id} has no position")))
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn what_was_packed_unpacks_in_order_and_in_pieces_that_fit() {
        let rows: Vec<(u32, Vec<u8>)> = (0..5_000)
            .map(|i| (i * 3, format!("{{\"text\":\"a b {}\"}}", "x".repeat(300)).into_bytes()))
            .collect();
        let chunks = pack(&rows);
        assert!(chunks.len() > 1 && chunks.iter().all(|(_, chunk)| chunk.len() <= CHUNK_BYTES));
        let id = UpgradeId(Uuid::from_u128(1));
        let unpacked: Vec<_> = chunks.iter().flat_map(|(_, chunk)| unpack(id, chunk).unwrap()).collect();
        assert_eq!(unpacked, rows);
        assert!(matches!(unpack(id, b"x {}\n"), Err(StoreError::Unreadable(_))));
    }

    #[test]
    fn a_part_larger_than_a_piece_has_one_of_its_own() {
        let rows = [(0, vec![b'1'; 10]), (1, vec![b'2'; 2 * CHUNK_BYTES]), (2, vec![b'3'; 10])];
        let positions: Vec<u32> = pack(&rows).iter().map(|(position, _)| *position).collect();
        assert_eq!(positions, [0, 1, 2]);
    }

    #[test]
    fn keys_are_read_as_they_are_written() {
        let keys = Keys::new("/crus/");
        let id = UpgradeId(Uuid::from_u128(7));
        assert_eq!(keys.read_live(keys.head(id).as_bytes()), Some(Live::Head(id)));
        assert_eq!(keys.read_live(keys.order(id).as_bytes()), Some(Live::Order(id)));
        assert_eq!(keys.read_live(keys.owner(id).as_bytes()), Some(Live::Owner(id)));
        assert_eq!(keys.read_live(keys.command(id, "a").as_bytes()), Some(Live::Command(id)));
        assert_eq!(keys.read_live(b"/crus/live/heads/x"), None);
        assert_eq!(keys.read_live(format!("{}/x", keys.head(id)).as_bytes()), None);
        assert_eq!(keys.read_live(keys.revision(id).as_bytes()), None);
        let part = keys.part(id, Kind::Node, 12);
        assert_eq!(last::<u32>(part.as_bytes()), Ok(12));
        let (range, end) = (keys.parts(id, Kind::Node), end_of(&keys.parts(id, Kind::Node)));
        assert!(part.starts_with(&range) && part < end && end < keys.revision(id));
    }
}
