//! The service itself.

use super::read::{integer, optional, path, put, seconds};
use super::{LONGEST_S, MOST_NODES, Setting};

const HEADING: &str = "Service";

pub(super) const SETTINGS: &[Setting] = &[
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
        help: "How many sessions there may be, completed ones included, until one must be deleted to create another. Must be \
               more than keep_finished",
        set: |c, v| put(&mut c.retention.max_sessions, integer(v, 1..=1_000_000)),
    },
    Setting {
        key: "keep_finished",
        value: "COUNT",
        default: "200",
        heading: HEADING,
        help: "How many finished sessions are kept, with their outcome and messages: the latest. Must be less than max_sessions",
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
