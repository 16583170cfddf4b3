//! The service itself.

use super::read::{integer, optional, parsed, path, put, seconds};
use super::{LONGEST_S, MOST_NODES, Setting};

const HEADING: &str = "Service";

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
        key: "store",
        value: "PATH",
        default: "/var/lib/crus/crus.redb",
        heading: HEADING,
        help: "File that holds the sessions. Created when it is not there; its directory must be",
        set: |c, v| put(&mut c.store, path(v)),
    },
    Setting {
        key: "max_sessions",
        value: "COUNT",
        default: "1000",
        heading: HEADING,
        help: "How many sessions there may be, completed ones included, until one must be deleted to create another",
        set: |c, v| put(&mut c.retention.max_sessions, integer(v, 1..=1_000_000)),
    },
    Setting {
        key: "keep_finished",
        value: "COUNT",
        default: "200",
        heading: HEADING,
        help: "How many finished sessions are kept, with their outcome and messages: the latest",
        set: |c, v| put(&mut c.retention.count, integer(v, 0..=1_000_000)),
    },
    Setting {
        key: "keep_finished_s",
        value: "SECONDS",
        default: "7776000",
        heading: HEADING,
        help: "For how long a finished session is kept (90 days); none: for ever",
        set: |c, v| put(&mut c.retention.max_age_ms, optional(v, |v| seconds(v, 1.0..=LONGEST_S * 36_500.0))),
    },
    Setting {
        key: "max_connections",
        value: "COUNT",
        default: "256",
        heading: HEADING,
        help: "Connections served at a time; more wait until one ends",
        set: |c, v| put(&mut c.max_connections, integer(v, 1..=100_000)),
    },
    Setting {
        key: "max_streams",
        value: "COUNT",
        default: "64",
        heading: HEADING,
        help: "Clients that may follow the events of sessions at a time; each takes one of the connections",
        set: |c, v| put(&mut c.max_streams, integer(v, 0..=100_000)),
    },
    Setting {
        key: "request_timeout_s",
        value: "SECONDS",
        default: "30",
        heading: HEADING,
        help: "How long a request to the service may take, its body included",
        set: |c, v| put(&mut c.request_timeout_ms, seconds(v, 0.1..=3600.0)),
    },
    Setting {
        key: "shutdown_timeout_s",
        value: "SECONDS",
        default: "20",
        heading: HEADING,
        help: "How long a shutdown waits for the calls under way. What is cut off is found out at the next start",
        set: |c, v| put(&mut c.shutdown_timeout_ms, seconds(v, 0.1..=3600.0)),
    },
    Setting {
        key: "max_nodes",
        value: "COUNT",
        default: "100000",
        heading: HEADING,
        help: "Nodes of one session. One whose starting group holds more waits until the group is smaller, or this is \
               larger: up to 150000, as the names of all must fit into one request to etcd (1.5 MiB)",
        set: |c, v| put(&mut c.limits.max_nodes, integer(v, 1..=MOST_NODES)),
    },
];
