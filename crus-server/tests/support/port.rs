//! A port that stays ours while nobody listens on it.

use std::net::SocketAddr;

use socket2::{Domain, Socket, Type};

/// Keeps a port of loopback until it is dropped: it is given to nobody who asks for any, who connects there is refused,
/// and whoever names it may listen on it.
pub(crate) struct Port {
    _socket: Socket,
    pub(crate) address: SocketAddr,
}

impl Port {
    pub(crate) fn new() -> Port {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        // With this set on both, a socket that does not listen is no hindrance to one that does.
        socket.set_reuse_address(true).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        Port { _socket: socket, address }
    }
}
