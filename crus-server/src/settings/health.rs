//! How the service looks after itself and its peers.

use super::read::{optional, path, put, seconds, url};
use super::{LONGEST_S, NONE, Setting};

const HEADING: &str = "Watching";

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        key: "otlp_endpoint",
        value: "URL",
        default: NONE,
        heading: HEADING,
        help: "Collector of traces that speaks OTLP over HTTP, such as http://127.0.0.1:4318: what sessions did is sent to \
               /v1/traces there, as JSON. Needs a build with the feature otlp",
        set: |c, v| put(&mut c.otlp.endpoint, optional(v, url)),
    },
    Setting {
        key: "otlp_headers_file",
        value: "PATH",
        default: NONE,
        heading: HEADING,
        help: "File with headers for the collector, one a line as 'Name: value', such as those of an API key. Read at the start; \
               keep it readable by the service alone",
        set: |c, v| put(&mut c.otlp.headers_file, optional(v, path)),
    },
    Setting {
        key: "probe_interval_s",
        value: "SECONDS",
        default: "60",
        heading: HEADING,
        help: "A peer or a store that was not asked anything for so long is asked something small, so that /readyz and /metrics \
           tell how it stands; never more often than that. none: never",
        set: |c, v| put(&mut c.probe.interval_ms, optional(v, |v| seconds(v, 0.01..=LONGEST_S))),
    },
];
