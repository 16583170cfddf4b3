//! Every option of the service: its name, what it means, its unit, its default, and what values are right.
//!
//! An option is described once, in [`SETTINGS`]. Its key in the configuration file (`poll_interval_s`), its flag
//! (`--poll-interval-s`) and its environment variable (`CRUS_POLL_INTERVAL_S`) follow from one name; the help
//! text, the defaults and the messages about wrong values all come from here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

use crus_api::Caps;
use crus_clients::http::BaseUrl;
use crus_core::batch::Order;
use crus_core::names::CheckName;
use crus_core::{Limits, NodeNameFormat, Strategy};
use toml::Value;

use crate::checks::CheckOptions;
use crate::controller::Retention;
use crate::logging::{LogFilter, LogFormat};
use crate::webhook::{Class, WebhookOptions};

/// What the service runs with.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Where to listen; port 0 picks a free one.
    pub listen: SocketAddr,
    /// The file that holds the sessions.
    pub store: PathBuf,
    /// The etcd that holds the sessions instead, shared by several replicas.
    pub etcd: EtcdOptions,
    /// How many sessions there may be, and for how long those that are done are kept.
    pub retention: Retention,
    /// Connections served at a time; more wait to be accepted.
    pub max_connections: usize,
    /// How many clients may follow the events of sessions at a time.
    pub max_streams: usize,
    /// How long one request may take, in milliseconds.
    pub request_timeout_ms: u64,
    /// How long a shutdown waits for what is under way, in milliseconds.
    pub shutdown_timeout_ms: u64,
    /// The root of the Hardware State Manager's API.
    pub hsm_url: String,
    /// The root of the Boot Orchestration Service's API.
    pub bos_url: String,
    /// The file with the bearer token for both; its content is a secret.
    pub token_file: Option<PathBuf>,
    /// The file with the certificates of the authorities to trust, instead of the system's own.
    pub ca_file: Option<PathBuf>,
    /// `scontrol`: the program and its leading arguments. Never empty.
    pub scontrol: Vec<String>,
    /// `squeue`: the program and its leading arguments. Never empty.
    pub squeue: Vec<String>,
    /// `scancel`: the program and its leading arguments. Never empty.
    pub scancel: Vec<String>,
    /// How long one call to a peer may take, in milliseconds.
    pub call_timeout_ms: u64,
    /// How many requests to HSM may be under way at a time.
    pub max_calls_hsm: usize,
    /// How many requests to BOS may be under way at a time.
    pub max_calls_bos: usize,
    /// How many of Slurm's programs may run at a time.
    pub max_calls_slurm: usize,
    /// The check commands, and how they are run.
    pub checks: CheckOptions,
    /// Paces and patience of the sessions.
    pub limits: Limits,
    /// What holds for options of a strategy that a request leaves out.
    pub strategy: Strategy,
    /// What no request may exceed.
    pub caps: Caps,
    /// Who is told what happens.
    pub webhook: WebhookOptions,
    /// How logs are written.
    pub log_format: LogFormat,
    /// What is logged.
    pub log: LogFilter,
}

/// The etcd that holds the sessions, when there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdOptions {
    /// Where its members are. None: sessions are kept in a file.
    pub endpoints: Vec<String>,
    /// What all our keys begin with.
    pub prefix: String,
    /// Within what time another replica takes over from one that is not heard of any more, in seconds.
    pub lease_s: u64,
    /// Who we are.
    pub user: Option<String>,
    /// The file with that user's password; its content is a secret.
    pub password_file: Option<PathBuf>,
    /// The file with the certificates of the authorities to trust, instead of the system's own.
    pub ca_file: Option<PathBuf>,
    /// The file with our own certificate.
    pub cert_file: Option<PathBuf>,
    /// The file with its key; its content is a secret.
    pub key_file: Option<PathBuf>,
}

impl Default for EtcdOptions {
    fn default() -> Self {
        EtcdOptions {
            endpoints: Vec::new(),
            prefix: "/crus/".to_owned(),
            lease_s: 10,
            user: None,
            password_file: None,
            ca_file: None,
            cert_file: None,
            key_file: None,
        }
    }
}

impl Default for Config {
    /// What holds where nothing was set; [`SETTINGS`] says the same, for people.
    fn default() -> Self {
        Config {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            store: PathBuf::from("/var/lib/crus/crus.redb"),
            etcd: EtcdOptions::default(),
            retention: Retention { max_sessions: 1000, count: 200, max_age_ms: Some(90 * 86_400_000) },
            max_connections: 256,
            max_streams: 64,
            request_timeout_ms: 30_000,
            shutdown_timeout_ms: 20_000,
            hsm_url: "https://api-gw-service-nmn.local/apis/smd/hsm/v2".to_owned(),
            bos_url: "https://api-gw-service-nmn.local/apis/bos/v2".to_owned(),
            token_file: None,
            ca_file: None,
            scontrol: vec!["scontrol".to_owned()],
            squeue: vec!["squeue".to_owned()],
            scancel: vec!["scancel".to_owned()],
            call_timeout_ms: 30_000,
            max_calls_hsm: 16,
            max_calls_bos: 16,
            max_calls_slurm: 4,
            checks: CheckOptions::default(),
            limits: Limits::default(),
            strategy: Strategy::default(),
            caps: Caps::default(),
            webhook: WebhookOptions::default(),
            log_format: LogFormat::default(),
            log: LogFilter::default(),
        }
    }
}

/// One option.
#[derive(Debug)]
pub struct Setting {
    /// Its key in the configuration file; flag and variable are made of it.
    pub key: &'static str,
    /// What its value is called in the help: the unit, where there is one.
    pub value: &'static str,
    /// Its default, as it would be written.
    pub default: &'static str,
    /// The section of the help that it belongs to.
    pub heading: &'static str,
    /// What it means.
    pub help: &'static str,
    /// Takes the value over, or says what would be right.
    pub set: fn(&mut Config, &Value) -> Result<(), String>,
}

impl Setting {
    /// `--poll-interval-s`
    pub fn flag(&self) -> String {
        self.key.replace('_', "-")
    }

    /// `CRUS_POLL_INTERVAL_S`
    pub fn variable(&self) -> String {
        format!("CRUS_{}", self.key.to_ascii_uppercase())
    }
}

const SERVICE: &str = "Service";
const ETCD: &str = "Several replicas";
const PEERS: &str = "Peers";
const PACE: &str = "Paces and patience";
const STRATEGY: &str = "Strategies";
const WEBHOOK: &str = "Webhook";
const LOGS: &str = "Logs";

/// The default of an option that has no value unless it is set.
pub const NONE: &str = "none";

/// A day: nothing that is waited for with a deadline is waited for longer by mistake.
const LONGEST_S: f64 = 86_400.0;

/// The most nodes of one session: a name takes about 8 bytes in a claim, and 10 at worst.
const MOST_NODES: usize = 150_000;

/// All options, in the order of the help.
pub const SETTINGS: &[Setting] = &[
    Setting {
        key: "listen",
        value: "ADDR:PORT",
        default: "127.0.0.1:8080",
        heading: SERVICE,
        help: "Address and port to listen on; port 0 picks a free one. The API has no authentication of its own: \
               listen on loopback, or behind a gateway that has",
        set: |c, v| put(&mut c.listen, parsed(v, "an address and a port, such as 127.0.0.1:8080 or [::1]:0")),
    },
    Setting {
        key: "store",
        value: "PATH",
        default: "/var/lib/crus/crus.redb",
        heading: SERVICE,
        help: "File that holds the sessions. Created when it is not there; its directory must be",
        set: |c, v| put(&mut c.store, path(v)),
    },
    Setting {
        key: "etcd_endpoints",
        value: "URLS",
        default: NONE,
        heading: ETCD,
        help: "Members of the etcd (3.4 or newer) that holds the sessions instead of the file, divided by commas or \
               as an array: then several replicas may run, and one takes over from another. Needs a crus built with \
               etcd",
        set: |c, v| put(&mut c.etcd.endpoints, optional(v, urls).map(Option::unwrap_or_default)),
    },
    Setting {
        key: "etcd_prefix",
        value: "KEY",
        default: "/crus/",
        heading: ETCD,
        help: "What all our keys in etcd begin with, up to a '/'. Replicas that share sessions share it; nobody else may",
        set: |c, v| put(&mut c.etcd.prefix, prefix(v)),
    },
    Setting {
        key: "etcd_lease_s",
        value: "SECONDS",
        default: "10",
        heading: ETCD,
        help: "Within what time, in whole seconds, another replica takes over from one that is not heard of any more; \
               the same for all replicas. A replica that cannot reach etcd for almost as long stops what it does",
        set: |c, v| put(&mut c.etcd.lease_s, integer(v, 3..=600)),
    },
    Setting {
        key: "etcd_user",
        value: "NAME",
        default: NONE,
        heading: ETCD,
        help: "User of etcd to act as, where it asks for one",
        set: |c, v| put(&mut c.etcd.user, optional(v, |v| parsed(v, "the name of a user of etcd"))),
    },
    Setting {
        key: "etcd_password_file",
        value: "PATH",
        default: NONE,
        heading: ETCD,
        help: "File with the password of that user. Keep it readable by the service alone",
        set: |c, v| put(&mut c.etcd.password_file, optional(v, path)),
    },
    Setting {
        key: "etcd_ca_file",
        value: "PATH",
        default: NONE,
        heading: ETCD,
        help: "PEM file with the certificate authorities to trust for etcd, instead of the system's",
        set: |c, v| put(&mut c.etcd.ca_file, optional(v, path)),
    },
    Setting {
        key: "etcd_cert_file",
        value: "PATH",
        default: NONE,
        heading: ETCD,
        help: "PEM file with the certificate to show to etcd",
        set: |c, v| put(&mut c.etcd.cert_file, optional(v, path)),
    },
    Setting {
        key: "etcd_key_file",
        value: "PATH",
        default: NONE,
        heading: ETCD,
        help: "PEM file with the key of that certificate. Keep it readable by the service alone",
        set: |c, v| put(&mut c.etcd.key_file, optional(v, path)),
    },
    Setting {
        key: "max_sessions",
        value: "COUNT",
        default: "1000",
        heading: SERVICE,
        help: "How many sessions there may be, completed ones included, until one must be deleted to create another",
        set: |c, v| put(&mut c.retention.max_sessions, integer(v, 1..=1_000_000)),
    },
    Setting {
        key: "keep_finished",
        value: "COUNT",
        default: "200",
        heading: SERVICE,
        help: "How many finished sessions are kept, with their outcome and messages: the latest",
        set: |c, v| put(&mut c.retention.count, integer(v, 0..=1_000_000)),
    },
    Setting {
        key: "keep_finished_s",
        value: "SECONDS",
        default: "7776000",
        heading: SERVICE,
        help: "For how long a finished session is kept (90 days); none: for ever",
        set: |c, v| put(&mut c.retention.max_age_ms, optional(v, |v| seconds(v, 1.0..=LONGEST_S * 36_500.0))),
    },
    Setting {
        key: "max_connections",
        value: "COUNT",
        default: "256",
        heading: SERVICE,
        help: "Connections served at a time; more wait until one ends",
        set: |c, v| put(&mut c.max_connections, integer(v, 1..=100_000)),
    },
    Setting {
        key: "max_streams",
        value: "COUNT",
        default: "64",
        heading: SERVICE,
        help: "Clients that may follow the events of sessions at a time; each takes one of the connections",
        set: |c, v| put(&mut c.max_streams, integer(v, 0..=100_000)),
    },
    Setting {
        key: "request_timeout_s",
        value: "SECONDS",
        default: "30",
        heading: SERVICE,
        help: "How long a request to the service may take, its body included",
        set: |c, v| put(&mut c.request_timeout_ms, seconds(v, 0.1..=3600.0)),
    },
    Setting {
        key: "shutdown_timeout_s",
        value: "SECONDS",
        default: "20",
        heading: SERVICE,
        help: "How long a shutdown waits for the calls under way. What is cut off is found out at the next start",
        set: |c, v| put(&mut c.shutdown_timeout_ms, seconds(v, 0.1..=3600.0)),
    },
    Setting {
        key: "hsm_url",
        value: "URL",
        default: "https://api-gw-service-nmn.local/apis/smd/hsm/v2",
        heading: PEERS,
        help: "Root of the Hardware State Manager's API, version 2",
        set: |c, v| put(&mut c.hsm_url, url(v)),
    },
    Setting {
        key: "bos_url",
        value: "URL",
        default: "https://api-gw-service-nmn.local/apis/bos/v2",
        heading: PEERS,
        help: "Root of the Boot Orchestration Service's API, version 2",
        set: |c, v| put(&mut c.bos_url, url(v)),
    },
    Setting {
        key: "token_file",
        value: "PATH",
        default: NONE,
        heading: PEERS,
        help: "File with the bearer token to send to both. Keep it readable by the service alone",
        set: |c, v| put(&mut c.token_file, optional(v, path)),
    },
    Setting {
        key: "ca_file",
        value: "PATH",
        default: NONE,
        heading: PEERS,
        help: "PEM file with the certificate authorities to trust for both, instead of the system's",
        set: |c, v| put(&mut c.ca_file, optional(v, path)),
    },
    Setting {
        key: "scontrol",
        value: "COMMAND",
        default: "scontrol",
        heading: PEERS,
        help: "Slurm's scontrol: the program and leading arguments, divided by spaces, or as an array: \
               [\"/opt/slurm/bin/scontrol\", \"-M\", \"blue\"]. It must take arguments as they are and run scontrol \
               itself: not by ssh, which hands them to a shell elsewhere",
        set: |c, v| put(&mut c.scontrol, command(v)),
    },
    Setting {
        key: "squeue",
        value: "COMMAND",
        default: "squeue",
        heading: PEERS,
        help: "Slurm's squeue, likewise",
        set: |c, v| put(&mut c.squeue, command(v)),
    },
    Setting {
        key: "scancel",
        value: "COMMAND",
        default: "scancel",
        heading: PEERS,
        help: "Slurm's scancel, likewise. Only sessions that ask to cancel jobs by name call it",
        set: |c, v| put(&mut c.scancel, command(v)),
    },
    Setting {
        key: "call_timeout_s",
        value: "SECONDS",
        default: "30",
        heading: PEERS,
        help: "How long one call to a peer may take. scontrol itself needs 9 seconds to say that its controller \
               is down",
        set: |c, v| put(&mut c.call_timeout_ms, seconds(v, 0.1..=3600.0)),
    },
    Setting {
        key: "max_calls_hsm",
        value: "COUNT",
        default: "16",
        heading: PEERS,
        help: "Requests to HSM under way at a time, for all sessions together. A session adds 8 nodes to a group at a \
               time. More requests wait for a place, at most for call_timeout_s, and fail then",
        set: |c, v| put(&mut c.max_calls_hsm, integer(v, 1..=1000)),
    },
    Setting {
        key: "max_calls_bos",
        value: "COUNT",
        default: "16",
        heading: PEERS,
        help: "Requests to BOS under way at a time, likewise",
        set: |c, v| put(&mut c.max_calls_bos, integer(v, 1..=1000)),
    },
    Setting {
        key: "max_calls_slurm",
        value: "COUNT",
        default: "4",
        heading: PEERS,
        help: "Programs of Slurm (scontrol, squeue) that run at a time, likewise",
        set: |c, v| put(&mut c.max_calls_slurm, integer(v, 1..=1000)),
    },
    Setting {
        key: "max_nodes",
        value: "COUNT",
        default: "100000",
        heading: SERVICE,
        help: "Nodes of one session. One whose starting group holds more waits until the group is smaller, or this is \
               larger: up to 150000, as the names of all must fit into one request to etcd (1.5 MiB)",
        set: |c, v| put(&mut c.limits.max_nodes, integer(v, 1..=MOST_NODES)),
    },
    Setting {
        key: "poll_interval_s",
        value: "SECONDS",
        default: "10",
        heading: PACE,
        help: "How often a fact that is waited for is looked at",
        set: |c, v| put(&mut c.limits.poll_ms, seconds(v, 0.01..=3600.0)),
    },
    Setting {
        key: "retry_max_s",
        value: "SECONDS",
        default: "60",
        heading: PACE,
        help: "The longest pause between two attempts at something that fails",
        set: |c, v| put(&mut c.limits.retry_max_ms, seconds(v, 0.01..=LONGEST_S)),
    },
    Setting {
        key: "drain_timeout_s",
        value: "SECONDS",
        default: NONE,
        heading: PACE,
        help: "How long a node may go on running jobs, once it was seen drained, before it is given back and \
               failed; none: as long as its jobs run",
        set: |c, v| {
            put(&mut c.limits.drain_timeout_ms, optional(v, |v| seconds(v, 0.01..=LONGEST_S * 365.0)))
        },
    },
    Setting {
        key: "boot_timeout_s",
        value: "SECONDS",
        default: "5400",
        heading: PACE,
        help: "How long a boot session may take, not counting time in which BOS could not be reached. BOS's own defaults try three times, 20 minutes each: a shorter \
               time fails nodes that it would still bring up",
        set: |c, v| put(&mut c.limits.boot_timeout_ms, seconds(v, 0.01..=LONGEST_S)),
    },
    Setting {
        key: "return_timeout_s",
        value: "SECONDS",
        default: "600",
        heading: PACE,
        help: "How long a node may take to be back in service once BOS is done with it, not counting time in which \
               Slurm could not be reached",
        set: |c, v| put(&mut c.limits.return_timeout_ms, seconds(v, 0.01..=LONGEST_S)),
    },
    Setting {
        key: "settle_s",
        value: "SECONDS",
        default: "60",
        heading: PACE,
        help: "How long a request without an answer may still take effect at the peer, and how long a boot \
               session must be gone before it is believed to be",
        set: |c, v| put(&mut c.limits.settle_ms, seconds(v, 0.01..=LONGEST_S)),
    },
    Setting {
        key: "last_look_s",
        value: "SECONDS",
        default: "20",
        heading: PACE,
        help: "How old a look at nodes may be when the one at their jobs begins, and that one when their reboot is \
               asked for. What the calls themselves take does not count",
        set: |c, v| put(&mut c.limits.last_look_ms, seconds(v, 0.1..=600.0)),
    },
    Setting {
        key: "boot_margin_s",
        value: "SECONDS",
        default: "3",
        heading: PACE,
        help: "How much later, in whole seconds, a node's boot time must be to be another boot",
        set: |c, v| put(&mut c.limits.boot_margin_s, integer(v, 1..=3600)),
    },
    Setting {
        key: "boot_estimate_low_s",
        value: "SECONDS",
        default: "300",
        heading: PACE,
        help: "How long a node takes at least from the request of its reboot to its return: what plans and expected ends go by, \
               until sessions tell",
        set: |c, v| put(&mut c.limits.boot_low_ms, seconds(v, 0.01..=LONGEST_S)),
    },
    Setting {
        key: "boot_estimate_high_s",
        value: "SECONDS",
        default: "900",
        heading: PACE,
        help: "How long it takes at most, if it boots at all",
        set: |c, v| put(&mut c.limits.boot_high_ms, seconds(v, 0.01..=LONGEST_S)),
    },
    Setting {
        key: "job_used_percent",
        value: "PERCENT",
        default: "60",
        heading: PACE,
        help: "What part of its time limit a job runs, as a rule: what plans and expected ends go by, until sessions tell",
        set: |c, v| put(&mut c.limits.job_used_percent, integer(v, 1..=100)),
    },
    Setting {
        key: "node_order",
        value: "ORDER",
        default: "soonest_free",
        heading: PACE,
        help: "Which nodes a step takes first: soonest_free (idle ones, then by the end of their jobs) or name",
        set: |c, v| put(&mut c.limits.order, order(v)),
    },
    Setting {
        key: "node_name_format",
        value: "FORMAT",
        default: "nid%06d",
        heading: PEERS,
        help: "How a NID makes the name of a node in the workload manager",
        set: |c, v| put(&mut c.limits.node_name_format, node_name_format(v)),
    },
    Setting {
        key: "check_commands",
        value: "TABLE",
        default: NONE,
        heading: STRATEGY,
        help: "Programs that may judge a node before it returns to service: a table of names, each with a program and its \
               leading arguments, in the file [check_commands], elsewhere such as '{ smoke = [\"/opt/site/smoke\", \
               \"--quick\"] }'. Behind these come the node's xname and its name in Slurm. Sessions choose one by its name \
               (check_command)",
        set: |c, v| put(&mut c.checks.commands, optional(v, check_commands).map(Option::unwrap_or_default)),
    },
    Setting {
        key: "check_timeout_s",
        value: "SECONDS",
        default: "300",
        heading: STRATEGY,
        help: "How long the check of one node may take; then it is killed, and the node fails",
        set: |c, v| put(&mut c.checks.timeout_ms, seconds(v, 0.1..=LONGEST_S)),
    },
    Setting {
        key: "max_checks",
        value: "COUNT",
        default: "8",
        heading: STRATEGY,
        help: "Check commands that run at a time; more wait",
        set: |c, v| put(&mut c.checks.max_checks, integer(v, 1..=1000)),
    },
    Setting {
        key: "strategy",
        value: "TABLE",
        default: NONE,
        heading: STRATEGY,
        help: "What holds for the options of a strategy that a request leaves out: a table of these options, in the \
               file [strategy], elsewhere such as '{ canary = [1], max_failed = \"2%\" }'",
        set: |c, v| put(&mut c.strategy, optional(v, strategy).map(Option::unwrap_or_default)),
    },
    Setting {
        key: "strategy_caps",
        value: "TABLE",
        default: NONE,
        heading: STRATEGY,
        help: "What no request may exceed, whatever it asks for: a table, likewise, of any of max_step_size, \
               max_failed, max_retries, max_per_domain (of a domain), min_in_service of partitions (at least), \
               on_drain_timeout (a list of what it may be), and a window that every session keeps to",
        set: |c, v| {
            let caps = optional(v, |v| caps(v, &c.strategy)).map(Option::unwrap_or_default);
            put(&mut c.caps, caps)
        },
    },
    Setting {
        key: "webhook_url",
        value: "URL",
        default: NONE,
        heading: WEBHOOK,
        help: "Where to post what happens in sessions, as JSON, signed as the Standard Webhooks specification has it. Its \
               path and query are not shown anywhere",
        set: |c, v| {
            put(
                &mut c.webhook.url,
                optional(v, |v| parsed(v, "a URL with http:// or https://, without a user")),
            )
        },
    },
    Setting {
        key: "webhook_secret_file",
        value: "PATH",
        default: NONE,
        heading: WEBHOOK,
        help: "File with the secret to sign by, as it is or as whsec_ and Base64; needed with webhook_url. Keep it readable \
               by the service alone",
        set: |c, v| put(&mut c.webhook.secret_file, optional(v, path)),
    },
    Setting {
        key: "webhook_ca_file",
        value: "PATH",
        default: NONE,
        heading: WEBHOOK,
        help: "PEM file with the certificate authorities to trust for it, instead of the system's",
        set: |c, v| put(&mut c.webhook.ca_file, optional(v, path)),
    },
    Setting {
        key: "webhook_events",
        value: "CLASSES",
        default: "started,paused,resumed,retried,step_done,node_failed,finished,deleted",
        heading: WEBHOOK,
        help: "What to post, divided by commas or as an array: any of these",
        set: |c, v| put(&mut c.webhook.events, classes(v)),
    },
    Setting {
        key: "webhook_timeout_s",
        value: "SECONDS",
        default: "10",
        heading: WEBHOOK,
        help: "How long one attempt may take. A session that is to be deleted waits no longer than that until all was posted",
        set: |c, v| put(&mut c.webhook.timeout_ms, seconds(v, 0.1..=600.0)),
    },
    Setting {
        key: "webhook_retry_max_s",
        value: "SECONDS",
        default: "60",
        heading: WEBHOOK,
        help: "The longest pause between two attempts. An entry is tried until it is taken, as long as its session is kept; one \
               that is refused again and again (a status of 400 to 499 but 408, 425 and 429) is given up",
        set: |c, v| put(&mut c.webhook.retry_max_ms, seconds(v, 0.01..=LONGEST_S)),
    },
    Setting {
        key: "log",
        value: "FILTER",
        default: "info",
        heading: LOGS,
        help: "What is logged, to stderr: a level (error, warn, info, debug, trace, off), or levels for parts, \
               such as info,crus_clients=debug",
        set: |c, v| put(&mut c.log, log_filter(v)),
    },
    Setting {
        key: "log_format",
        value: "FORMAT",
        default: "text",
        heading: LOGS,
        help: "text, or json for one object a line",
        set: |c, v| put(&mut c.log_format, parsed(v, "text or json")),
    },
];

fn put<T>(place: &mut T, value: Result<T, String>) -> Result<(), String> {
    value.map(|value| *place = value)
}

/// "…" is not right; it must be this.
fn must_be(what: &str) -> String {
    format!("must be {what}")
}

fn text(value: &Value) -> Option<&str> {
    value.as_str().map(str::trim).filter(|text| !text.is_empty())
}

fn parsed<T: FromStr>(value: &Value, right: &str) -> Result<T, String> {
    text(value).and_then(|text| text.parse().ok()).ok_or_else(|| must_be(right))
}

fn path(value: &Value) -> Result<PathBuf, String> {
    text(value).map(PathBuf::from).ok_or_else(|| must_be("the path of a file"))
}

fn optional<T>(value: &Value, read: impl Fn(&Value) -> Result<T, String>) -> Result<Option<T>, String> {
    if text(value) == Some(NONE) {
        return Ok(None);
    }
    read(value).map(Some).map_err(|right| format!("{right}, or {NONE}"))
}

fn integer<T>(value: &Value, range: RangeInclusive<T>) -> Result<T, String>
where
    T: TryFrom<i64> + PartialOrd + std::fmt::Display,
{
    let number = match value {
        Value::Integer(number) => Some(*number),
        other => text(other).and_then(|text| text.parse().ok()),
    };
    number
        .and_then(|number| T::try_from(number).ok())
        .filter(|number| range.contains(number))
        .ok_or_else(|| must_be(&format!("a whole number from {} to {}", range.start(), range.end())))
}

/// Seconds, fractions allowed, as milliseconds.
fn seconds(value: &Value, range: RangeInclusive<f64>) -> Result<u64, String> {
    let number = match value {
        Value::Integer(number) => number.to_string().parse().ok(),
        Value::Float(number) => Some(*number),
        other => text(other).and_then(|text| text.parse::<f64>().ok()),
    };
    number
        .filter(|number| range.contains(number))
        .and_then(|number| std::time::Duration::try_from_secs_f64(number).ok())
        .and_then(|duration| u64::try_from(duration.as_millis()).ok())
        .ok_or_else(|| must_be(&format!("a number of seconds from {} to {}", range.start(), range.end())))
}

fn classes(value: &Value) -> Result<BTreeSet<Class>, String> {
    let names: Option<Vec<String>> = match value {
        Value::Array(names) => names.iter().map(|name| text(name).map(str::to_owned)).collect(),
        other => text(other).map(|text| text.split(',').map(|name| name.trim().to_owned()).collect()),
    };
    let classes =
        names.and_then(|names| names.iter().map(|name| name.parse().ok()).collect::<Option<BTreeSet<_>>>());
    let all = || Class::ALL.map(Class::name).join(", ");
    classes.filter(|classes| !classes.is_empty()).ok_or_else(|| must_be(&format!("some of {}", all())))
}

fn url(value: &Value) -> Result<String, String> {
    let good = text(value).filter(|text| text.parse::<BaseUrl>().is_ok());
    good.map(|text| text.trim_end_matches('/').to_owned()).ok_or_else(|| {
        must_be("a URL of http:// or https://, a host and a path, without a user, a password, '?' and '#'")
    })
}

/// The members of a cluster: all of one scheme, each a host and a port.
fn urls(value: &Value) -> Result<Vec<String>, String> {
    let words: Option<Vec<&str>> = match value {
        Value::Array(words) => words.iter().map(Value::as_str).collect(),
        other => text(other).map(|text| text.split(',').collect()),
    };
    let good = |text: &&str| url(&Value::String((*text).to_owned())).ok();
    let urls: Option<Vec<String>> = words.and_then(|words| words.iter().map(good).collect());
    let is_https = |url: &String| url.starts_with("https://");
    urls.filter(|urls| !urls.is_empty() && urls.iter().all(|url| is_https(url) == is_https(&urls[0]))).ok_or_else(
        || {
            must_be(
                "URLs of hosts and ports, all of http:// or all of https://, divided by commas or as an array, \
                 without users, passwords, '?' and '#'",
            )
        },
    )
}

fn prefix(value: &Value) -> Result<String, String> {
    let stem = text(value).map(|text| text.trim_end_matches('/')).filter(|stem| !stem.is_empty());
    stem.map(|stem| format!("{stem}/")).ok_or_else(|| must_be("what keys begin with, such as /crus/"))
}

/// A program and its leading arguments. Nothing here goes through a shell, so nothing is quoted.
fn command(value: &Value) -> Result<Vec<String>, String> {
    let words = match value {
        Value::Array(words) => words.iter().map(|word| word.as_str().map(str::to_owned)).collect(),
        other => text(other).and_then(|text| match text.starts_with('[') {
            true => toml::from_str::<toml::Table>(&format!("words = {text}"))
                .ok()
                .and_then(|table| table.get("words")?.clone().try_into::<Vec<String>>().ok()),
            false => Some(text.split_whitespace().map(str::to_owned).collect()),
        }),
    };
    words.filter(|words: &Vec<String>| words.first().is_some_and(|program| !program.is_empty())).ok_or_else(
        || must_be("a program and its leading arguments, divided by spaces or as an array of strings"),
    )
}

fn check_commands(value: &Value) -> Result<BTreeMap<CheckName, Vec<String>>, String> {
    let right = "a table of names, each with a program and its leading arguments, such as { smoke = [\"/opt/site/smoke\"] }";
    let table = table(value).ok_or_else(|| must_be(right))?;
    let entry = |(name, value): (String, Value)| {
        let name = CheckName::new(&name).map_err(|error| must_be(&format!("{right}: {error}")))?;
        let words = command(&value).map_err(|rule| must_be(&format!("{right}: {name} {rule}")))?;
        Ok((name, words))
    };
    table.into_iter().map(entry).collect()
}

fn order(value: &Value) -> Result<Order, String> {
    match text(value) {
        Some("soonest_free") => Ok(Order::SoonestFree),
        Some("name") => Ok(Order::Name),
        _ => Err(must_be("soonest_free or name")),
    }
}

fn node_name_format(value: &Value) -> Result<NodeNameFormat, String> {
    let text = text(value).unwrap_or_default();
    NodeNameFormat::new(text).map_err(|error| error.rule().to_owned())
}

/// A table, as it stands in the file or written into one line.
fn table(value: &Value) -> Option<toml::Table> {
    match value {
        Value::Table(table) => Some(table.clone()),
        other => {
            text(other).and_then(|text| match toml::from_str::<toml::Table>(&format!("table = {text}")) {
                Ok(mut line) => match line.remove("table") {
                    Some(Value::Table(table)) if line.is_empty() => Some(table),
                    _ => None,
                },
                Err(_) => None,
            })
        }
    }
}

fn strategy(value: &Value) -> Result<Strategy, String> {
    let right = || must_be("a table of options of a strategy, such as { canary = [1], max_failed = \"2%\" }");
    let table = table(value).ok_or_else(right)?;
    let json = serde_json::to_string(&table).map_err(|_| right())?;
    crus_api::strategy::parse(&json).map_err(|mistakes| {
        let mistakes = mistakes.trim_end_matches('.');
        must_be(&format!("a table of options of a strategy, each of them right: {mistakes}"))
    })
}

fn caps(value: &Value, defaults: &Strategy) -> Result<Caps, String> {
    let table = table(value).ok_or_else(|| must_be("a table of caps, such as { max_failed = \"5%\" }"))?;
    let caps: Caps = table.try_into().map_err(|error: toml::de::Error| {
        let why: Vec<&str> = error.message().lines().collect();
        must_be(&format!("a table of caps, each of them right: {}", why.join("; ")))
    })?;
    match caps.problem(defaults) {
        Some(problem) => Err(must_be(&format!("a table of caps that the defaults keep to: {problem}"))),
        None => Ok(caps),
    }
}

fn log_filter(value: &Value) -> Result<LogFilter, String> {
    parsed(value, "a level (error, warn, info, debug, trace, off) or a list such as info,crus_clients=debug")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However the nodes are spread: a claim takes most where few of them are in one place.
    #[test]
    fn the_names_of_as_many_nodes_as_a_session_may_have_fit_into_one_request_to_etcd() {
        const REQUEST: usize = 3 << 19;
        let count = u32::try_from(MOST_NODES).unwrap();
        // Of a cabinet: chassis, slots of each, boards of each, nodes of each.
        for [chassis, slots, boards, nodes] in
            [[8, 8, 2, 2], [8, 8, 1, 2], [8, 8, 1, 1], [1, 64, 1, 1], [8, 4, 1, 1]]
        {
            let name = |i: u32| {
                let (n, i) = (i % nodes, i / nodes);
                let (b, i) = (i % boards, i / boards);
                let (s, i) = (i % slots, i / slots);
                let text = format!("x{}c{}s{s}b{b}n{n}", 1000 + i / chassis, i % chassis);
                text.parse::<crus_core::Xname>().unwrap()
            };
            let claim = crus_core::claims::Claim {
                order: u64::MAX,
                starting: "s".repeat(64).parse().unwrap(),
                upgrading: "u".repeat(64).parse().unwrap(),
                failed: "f".repeat(64).parse().unwrap(),
                partitions: (0..crus_core::strategy::PARTITIONS_MAX)
                    .map(|n| format!("{n:0>64}").parse().unwrap())
                    .collect(),
                granted: true,
                nodes: (0..count).map(name).collect(),
            };
            assert_eq!(claim.nodes.len(), MOST_NODES);
            let bytes = serde_json::to_vec(&claim).unwrap().len();
            assert!(bytes + 1024 < REQUEST, "{bytes} bytes");
        }
    }

    #[test]
    fn every_documented_default_is_the_real_one() {
        let other = || "other".to_owned();
        // Something else everywhere, so that each default must really be set.
        let mut config = Config {
            listen: "[::1]:1".parse().unwrap(),
            store: other().into(),
            etcd: EtcdOptions {
                endpoints: vec![other()],
                prefix: other(),
                lease_s: 3,
                user: Some(other()),
                password_file: Some(other().into()),
                ca_file: Some(other().into()),
                cert_file: Some(other().into()),
                key_file: Some(other().into()),
            },
            retention: Retention { max_sessions: 1, count: 1, max_age_ms: None },
            max_connections: 1,
            max_streams: 1,
            request_timeout_ms: 1,
            shutdown_timeout_ms: 1,
            hsm_url: other(),
            bos_url: other(),
            token_file: Some(other().into()),
            ca_file: Some(other().into()),
            scontrol: vec![other()],
            squeue: vec![other()],
            scancel: vec![other()],
            call_timeout_ms: 1,
            max_calls_hsm: 1,
            max_calls_bos: 1,
            max_calls_slurm: 1,
            checks: CheckOptions {
                commands: BTreeMap::from([("other".parse().unwrap(), vec![other()])]),
                timeout_ms: 1,
                max_checks: 1,
            },
            limits: Limits {
                poll_ms: 1,
                retry_max_ms: 1,
                drain_timeout_ms: Some(1),
                boot_timeout_ms: 1,
                return_timeout_ms: 1,
                settle_ms: 1,
                last_look_ms: 1,
                boot_low_ms: 1,
                boot_high_ms: 1,
                job_used_percent: 1,
                boot_margin_s: 1,
                max_nodes: 1,
                order: Order::Name,
                node_name_format: "n%d".parse().unwrap(),
            },
            strategy: Strategy { retries: 1, ..Strategy::default() },
            caps: Caps { max_retries: Some(1), ..Caps::default() },
            webhook: WebhookOptions {
                url: Some("http://other".parse().unwrap()),
                secret_file: Some(other().into()),
                ca_file: Some(other().into()),
                events: [Class::Paused].into(),
                timeout_ms: 1,
                retry_max_ms: 1,
            },
            log_format: LogFormat::Json,
            log: "off".parse().unwrap(),
        };
        for setting in SETTINGS {
            (setting.set)(&mut config, &Value::String(setting.default.to_owned()))
                .unwrap_or_else(|error| panic!("{}: {error}", setting.key));
        }
        assert_eq!(config, Config::default());
    }

    #[test]
    fn names_carry_their_units() {
        for setting in SETTINGS {
            assert_eq!(setting.value == "SECONDS", setting.key.ends_with("_s"), "{}", setting.key);
            assert_eq!(
                SETTINGS.iter().filter(|other| other.key == setting.key).count(),
                1,
                "{}",
                setting.key
            );
        }
    }

    #[test]
    fn seconds_may_have_fractions_and_are_bounded() {
        let read = |value: Value| seconds(&value, 0.01..=10.0);
        assert_eq!(read(Value::Float(0.05)), Ok(50));
        assert_eq!(read(Value::Integer(2)), Ok(2000));
        assert_eq!(read(Value::String("1.5".into())), Ok(1500));
        for bad in ["", "0", "-1", "11", "NaN", "inf", "5s", "1e-9"] {
            let error = read(Value::String(bad.into())).unwrap_err();
            assert_eq!(error, "must be a number of seconds from 0.01 to 10", "{bad}");
        }
        assert!(read(Value::Boolean(true)).is_err());
    }

    #[test]
    fn a_command_is_words_or_an_array() {
        let read = |text: &str| command(&Value::String(text.into()));
        assert_eq!(read("nice -n5  scontrol"), Ok(vec!["nice".into(), "-n5".into(), "scontrol".into()]));
        assert_eq!(
            read("['/my tools/scontrol', \"-M\"]"),
            Ok(vec!["/my tools/scontrol".into(), "-M".into()])
        );
        for bad in ["", "  ", "[]", "[1]", "['a'"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn check_commands_are_a_table_of_names_and_programs() {
        let expected: BTreeMap<CheckName, Vec<String>> = [
            ("quick".parse().unwrap(), vec!["/a b".into()]),
            ("smoke".parse().unwrap(), vec!["x".into(), "-y".into()]),
        ]
        .into();
        let line = Value::String("{ smoke = [\"x\", \"-y\"], quick = [\"/a b\"] }".into());
        assert_eq!(check_commands(&line), Ok(expected.clone()));
        let file: toml::Table = toml::from_str("quick = [\"/a b\"]\nsmoke = \"x -y\"").unwrap();
        assert_eq!(check_commands(&Value::Table(file)), Ok(expected));
        for bad in ["x", "[]", "{ smoke = [] }", "{ smoke = 7 }", "{ \"a b\" = [\"x\"] }", "{ smoke = \"\" }"]
        {
            assert!(check_commands(&Value::String(bad.into())).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_misspelt_level_does_not_silence_the_log() {
        let read = |text: &str| log_filter(&Value::String(text.into())).is_ok();
        for good in ["info", "OFF", "warn,crus_clients=debug", "crus_core=trace"] {
            assert!(read(good), "{good}");
        }
        for bad in ["inof", "info,crus_clients", "crus_core=loud", ""] {
            assert!(!read(bad), "{bad}");
        }
    }

    #[test]
    fn a_url_is_of_the_web_and_without_secrets() {
        let read = |text: &str| url(&Value::String(text.into()));
        assert_eq!(read("https://api/apis/bos/v2/").unwrap(), "https://api/apis/bos/v2");
        for bad in
            ["", "api/v2", "ftp://api", "https://me:secret@api", "https://api?x=1", "http://api#x", "http://"]
        {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn members_of_etcd_are_urls_of_one_kind_without_secrets() {
        let read = |text: &str| urls(&Value::String(text.into()));
        assert_eq!(read("http://a:2379, http://b:2379/").unwrap(), ["http://a:2379", "http://b:2379"]);
        let array = Value::Array(vec![Value::String("https://a:2379".into())]);
        assert_eq!(urls(&array).unwrap(), ["https://a:2379"]);
        for bad in ["", ",", "a:2379", "http://a:2379,https://b:2379", "http://me:secret@a:2379"] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert!(urls(&Value::Array(Vec::new())).is_err());
    }

    #[test]
    fn a_prefix_ends_with_a_slash() {
        let read = |text: &str| prefix(&Value::String(text.into()));
        assert_eq!(read("/crus").unwrap(), "/crus/");
        assert_eq!(read("blue/crus//").unwrap(), "blue/crus/");
        assert!(read("/").is_err(), "that would be all of etcd");
    }
}
