//! The listener: where it is, TLS, and what clients may take.

use super::read::{integer, optional, parsed, path, put, seconds};
use super::{NONE, Setting};

const HEADING: &str = "HTTP";

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        key: "listen",
        value: "ADDR:PORT",
        default: "127.0.0.1:8080",
        heading: HEADING,
        help: "Address and port to listen on; port 0 picks a free one",
        set: |c, v| put(&mut c.listen, parsed(v, "an address and a port, such as 127.0.0.1:8080 or [::1]:0")),
    },
    Setting {
        key: "tls_cert_file",
        value: "PATH",
        default: NONE,
        heading: HEADING,
        help: "PEM file with the service's certificate, followed by those that lead to one that clients know. With it and \
               tls_key_file TLS (1.2 or newer) is spoken, and nothing else. Both are read again when they change",
        set: |c, v| put(&mut c.http.tls.cert, optional(v, path)),
    },
    Setting {
        key: "tls_key_file",
        value: "PATH",
        default: NONE,
        heading: HEADING,
        help: "PEM file with the key of that certificate. Keep it readable by the service alone",
        set: |c, v| put(&mut c.http.tls.key, optional(v, path)),
    },
    Setting {
        key: "tls_client_ca_file",
        value: "PATH",
        default: NONE,
        heading: HEADING,
        help: "PEM file with certificate authorities: with it every client, probes and gateways too, must show a certificate \
               of one of them. Read again when it changes",
        set: |c, v| put(&mut c.http.tls.client_ca, optional(v, path)),
    },
    Setting {
        key: "max_connections",
        value: "COUNT",
        default: "1024",
        heading: HEADING,
        help: "Connections served at a time. When there are more, those that have waited longest for their clients are closed. \
               Must be more than max_streams",
        set: |c, v| put(&mut c.http.max_connections, integer(v, 1..=100_000)),
    },
    Setting {
        key: "max_connections_per_client",
        value: "COUNT",
        default: "256",
        heading: HEADING,
        help: "Of these, connections of one address (of IPv6, of 64 bits of it). none: as many as there may be, for where all \
               clients come through one gateway",
        set: |c, v| put(&mut c.http.max_connections_per_client, optional(v, |v| integer(v, 1..=100_000))),
    },
    Setting {
        key: "requests_per_second_per_client",
        value: "COUNT",
        default: "1000",
        heading: HEADING,
        help: "Requests of one address in a second, and twice as many at once after a silence; more are answered with 429. X-\
               Forwarded-For is not looked at. none: any number, for where all clients come through one gateway",
        set: |c, v| {
            put(&mut c.http.requests_per_second_per_client, optional(v, |v| integer(v, 1..=1_000_000)))
        },
    },
    Setting {
        key: "max_streams",
        value: "COUNT",
        default: "64",
        heading: HEADING,
        help: "Clients that may follow the events of sessions at a time, half of them by one caller; each takes one of the \
               connections. Must be less than max_connections",
        set: |c, v| put(&mut c.max_streams, integer(v, 0..=100_000)),
    },
    Setting {
        key: "max_header_bytes",
        value: "BYTES",
        default: "16384",
        heading: HEADING,
        help: "The longest head of a request: its first line and headers, of which there may be 100",
        set: |c, v| put(&mut c.http.max_header_bytes, integer(v, 1024..=1_048_576)),
    },
    Setting {
        key: "max_body_bytes",
        value: "BYTES",
        default: "65536",
        heading: HEADING,
        help: "The longest body of a request. A request for a session takes less than 2000",
        set: |c, v| put(&mut c.http.max_body_bytes, integer(v, 1024..=16_777_216)),
    },
    Setting {
        key: "head_timeout_s",
        value: "SECONDS",
        default: "10",
        heading: HEADING,
        help: "How long a TLS handshake may take, then the head of the first request, and that of each other from its first \
               byte on",
        set: |c, v| put(&mut c.http.head_timeout_ms, seconds(v, 0.05..=3600.0)),
    },
    Setting {
        key: "body_timeout_s",
        value: "SECONDS",
        default: "10",
        heading: HEADING,
        help: "How long the body of a request may take, after its head",
        set: |c, v| put(&mut c.http.body_timeout_ms, seconds(v, 0.05..=3600.0)),
    },
    Setting {
        key: "request_timeout_s",
        value: "SECONDS",
        default: "30",
        heading: HEADING,
        help: "How long a request to the service may take, its body included",
        set: |c, v| put(&mut c.http.request_timeout_ms, seconds(v, 0.1..=3600.0)),
    },
    Setting {
        key: "stall_timeout_s",
        value: "SECONDS",
        default: "30",
        heading: HEADING,
        help: "How long a client may take in nothing of an answer that it was sent, or less of it than 4 KiB/s",
        set: |c, v| put(&mut c.http.stall_timeout_ms, seconds(v, 0.05..=3600.0)),
    },
    Setting {
        key: "idle_timeout_s",
        value: "SECONDS",
        default: "60",
        heading: HEADING,
        help: "How long a connection is kept open between two requests",
        set: |c, v| put(&mut c.http.idle_timeout_ms, seconds(v, 0.05..=3600.0)),
    },
];
