//! Ports that no two labs share.

use std::net::{Ipv4Addr, TcpListener};

use super::LabError;

/// A block of ports that are this lab's: the first is held as a claim for as long as the lab lives, so that
/// two labs never share a block; the second is the controller's; the others are the nodes'.
#[derive(Debug)]
pub(super) struct Ports {
    first: u16,
    _claim: TcpListener,
}

/// Below the range from which the kernel gives ports to anybody who asks for any.
const FIRST_PORT: u16 = 10_240;
const BLOCK: u16 = 128;
const BLOCKS: u16 = 160;
/// The claim, the controller, and one to spare.
pub(super) const MAX_NODES: usize = BLOCK as usize - 3;

impl Ports {
    pub(super) fn claim(nodes: usize) -> Result<Ports, LabError> {
        let bind = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
        let start = std::process::id() % u32::from(BLOCKS);
        for block in 0..u32::from(BLOCKS) {
            let block = u16::try_from((start + block) % u32::from(BLOCKS)).unwrap_or_default();
            let first = FIRST_PORT + BLOCK * block;
            let Ok(claim) = bind(first) else { continue };
            if (1..).take(nodes + 1).all(|offset| bind(first + offset).is_ok()) {
                return Ok(Ports { first, _claim: claim });
            }
        }
        Err(LabError::NoPorts(nodes + 2))
    }

    pub(super) fn controller(&self) -> u16 {
        self.first + 1
    }

    pub(super) fn nodes(&self, count: usize) -> String {
        let first = usize::from(self.first) + 2;
        format!("[{first}-{}]", first + count - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_labs_never_share_a_port() {
        let one = Ports::claim(3).unwrap();
        let other = Ports::claim(3).unwrap();
        assert!(one.first.abs_diff(other.first) >= BLOCK);
        assert_eq!(one.nodes(3), format!("[{}-{}]", one.first + 2, one.first + 4));
    }
}
