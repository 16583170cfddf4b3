//! Tells the service manager how far we are, as `sd_notify(3)` of systemd has it: a datagram to the socket that
//! `NOTIFY_SOCKET` names. Without that variable nobody asked, and nothing is told.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use tracing::{debug, warn};

/// What the manager is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Requests are answered.
    Ready,
    /// The end has begun.
    Stopping,
}

impl State {
    fn words(self) -> &'static str {
        match self {
            State::Ready => "READY=1",
            State::Stopping => "STOPPING=1",
        }
    }
}

/// Tells it. That nobody takes it stops nothing: the manager has its own time-out.
pub(crate) fn tell(state: State) {
    let Some(place) = env::var_os("NOTIFY_SOCKET").filter(|place| !place.is_empty()) else { return };
    match send(&place, state.words()) {
        Ok(()) => debug!("the service manager was told {}", state.words()),
        Err(error) => warn!(%error, "failed to tell the service manager {}", state.words()),
    }
}

fn send(place: &OsString, words: &str) -> io::Result<()> {
    let address = address(place)?;
    let socket = UnixDatagram::unbound()?;
    // A manager that does not read must not hold us up.
    socket.set_nonblocking(true)?;
    socket.send_to_addr(words.as_bytes(), &address).map(|_| ())
}

/// A path, or, behind an `@`, a name that is in no file system.
fn address(place: &OsStr) -> io::Result<SocketAddr> {
    match place.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        [b'/', ..] => SocketAddr::from_pathname(place),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "NOTIFY_SOCKET is neither a path nor a name behind an @",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_and_a_name_in_no_file_system_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify").into_os_string();
        let name: OsString = format!("@crus-notify-{}", std::process::id()).into();
        for place in [path, name] {
            let manager = UnixDatagram::bind_addr(&address(&place).unwrap()).unwrap();
            send(&place, State::Ready.words()).unwrap();
            let mut heard = [0; 64];
            let length = manager.recv(&mut heard).unwrap();
            assert_eq!(&heard[..length], b"READY=1");
        }
    }

    #[test]
    fn a_place_that_is_none_is_said_so() {
        assert!(address(OsStr::new("vsock:2:1")).is_err());
        assert!(send(&"/nowhere/notify".into(), "READY=1").is_err());
    }
}
