//! Every option of the service: its name, what it means, its unit, its default, and what values are right.
//!
//! An option is described once, in the module of its part; [`all`] lists them. Its key in the configuration file
//! (`poll_interval_s`), its flag (`--poll-interval-s`) and its environment variable (`CRUS_POLL_INTERVAL_S`) follow
//! from one name; the help text, the defaults and the messages about wrong values all come from here.

mod access;
mod auth;
mod example;
mod health;
mod http;
mod logs;
mod pace;
mod peers;
mod read;
mod replicas;
mod service;
mod strategy;
mod webhook;

use std::net::SocketAddr;
use std::path::PathBuf;

use crus_api::Caps;
use crus_core::{Limits, Strategy};
use toml::Value;

use crate::auth::AuthOptions;
use crate::checks::CheckOptions;
use crate::controller::Retention;
use crate::health::ProbeOptions;
use crate::http::HttpOptions;
use crate::logging::{LogFilter, LogFormat};
use crate::otlp::OtlpOptions;
use crate::peers::{AccessOptions, BosApi};
use crate::webhook::WebhookOptions;

pub use example::example;

/// What the service runs with.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Where to listen; port 0 picks a free one.
    pub listen: SocketAddr,
    /// Who may use the service.
    pub auth: AuthOptions,
    /// The file that holds the sessions.
    pub store: PathBuf,
    /// The etcd that holds the sessions instead, shared by several replicas.
    pub etcd: EtcdOptions,
    /// How many sessions there may be, and for how long those that are done are kept.
    pub retention: Retention,
    /// The listener, and what clients may take.
    pub http: HttpOptions,
    /// How many clients may follow the events of sessions at a time.
    pub max_streams: usize,
    /// How long a shutdown waits for what is under way, in milliseconds.
    pub shutdown_timeout_ms: u64,
    /// The root of the Hardware State Manager's API.
    pub hsm_url: String,
    /// The root of the Boot Orchestration Service's API.
    pub bos_url: String,
    /// Which version of its API it speaks.
    pub bos_api: BosApi,
    /// How we prove to both who we are, and whom we trust.
    pub access: AccessOptions,
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
    /// How often the peers and the store are looked at, besides the calls that are made anyway.
    pub probe: ProbeOptions,
    /// Where traces go.
    pub otlp: OtlpOptions,
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
    /// What holds where nothing was set; [`all`] says the same, for people.
    fn default() -> Self {
        Config {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            auth: AuthOptions::default(),
            store: PathBuf::from("/var/lib/crus/crus.redb"),
            etcd: EtcdOptions::default(),
            retention: Retention { max_sessions: 1000, count: 200, max_age_ms: Some(90 * 86_400_000) },
            http: HttpOptions::default(),
            max_streams: 64,
            shutdown_timeout_ms: 20_000,
            hsm_url: "https://api-gw-service-nmn.local/apis/smd/hsm/v2".to_owned(),
            bos_url: "https://api-gw-service-nmn.local/apis/bos/v2".to_owned(),
            bos_api: BosApi::V2,
            access: AccessOptions::default(),
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
            probe: ProbeOptions::default(),
            otlp: OtlpOptions::default(),
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

/// The default of an option that has no value unless it is set.
pub const NONE: &str = "none";

/// A day: nothing that is waited for with a deadline is waited for longer by mistake.
const LONGEST_S: f64 = 86_400.0;

/// The most nodes of one session: a name takes about 8 bytes in a claim, and 10 at worst.
const MOST_NODES: usize = 150_000;

const PARTS: &[&[Setting]] = &[
    service::SETTINGS,
    auth::SETTINGS,
    http::SETTINGS,
    replicas::SETTINGS,
    peers::SETTINGS,
    access::SETTINGS,
    pace::SETTINGS,
    strategy::SETTINGS,
    webhook::SETTINGS,
    health::SETTINGS,
    logs::SETTINGS,
];

/// All options, in the order of the help.
pub fn all() -> impl Iterator<Item = &'static Setting> {
    PARTS.iter().copied().flatten()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use crus_clients::http::ClientAuth;
    use crus_core::batch::Order;
    use toml::Value;

    use super::*;
    use crate::auth::{Audience, AuthMode, JwksPlace};
    use crate::http::TlsFiles;
    use crate::peers::{OauthOptions, OwnFiles};
    use crate::webhook::Class;

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
        let own_files = OwnFiles {
            token_file: Some(other().into()),
            ca_file: Some(other().into()),
            cert_file: Some(other().into()),
            key_file: Some(other().into()),
        };
        // Something else everywhere, so that each default must really be set.
        let mut config = Config {
            listen: "[::1]:1".parse().unwrap(),
            auth: AuthOptions {
                mode: AuthMode::Off,
                token_file: Some(other().into()),
                jwks: Some(JwksPlace::File(other().into())),
                jwks_http_anywhere: true,
                jwks_ca_file: Some(other().into()),
                jwks_refresh_ms: 1,
                jwks_pause_ms: 1,
                jwks_timeout_ms: 1,
                issuer: Some(other()),
                audience: Audience::Any,
                algorithms: Vec::new(),
                leeway_s: 1,
                role_claim: other().parse().unwrap(),
                read_roles: vec![other()],
                operate_roles: vec![other()],
                name_claim: other().parse().unwrap(),
                audit_file: Some(other().into()),
            },
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
            http: HttpOptions {
                tls: TlsFiles {
                    cert: Some(other().into()),
                    key: Some(other().into()),
                    client_ca: Some(other().into()),
                },
                max_connections: 1,
                max_connections_per_client: None,
                requests_per_second_per_client: None,
                max_header_bytes: 1,
                max_body_bytes: 1,
                head_timeout_ms: 1,
                body_timeout_ms: 1,
                request_timeout_ms: 1,
                stall_timeout_ms: 1,
                idle_timeout_ms: 1,
            },
            max_streams: 1,
            shutdown_timeout_ms: 1,
            hsm_url: other(),
            bos_url: other(),
            bos_api: BosApi::V1,
            access: AccessOptions {
                token_file: Some(other().into()),
                ca_file: Some(other().into()),
                hsm: own_files.clone(),
                bos: own_files,
                oauth: OauthOptions {
                    token_url: Some(other()),
                    client_id: Some(other()),
                    client_secret_file: Some(other().into()),
                    client_auth: ClientAuth::SecretBasic,
                    scope: Some(other()),
                    ca_file: Some(other().into()),
                    cert_file: Some(other().into()),
                    key_file: Some(other().into()),
                },
            },
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
                names_boots: false,
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
            probe: ProbeOptions { interval_ms: None },
            otlp: OtlpOptions { endpoint: Some(other()), headers_file: Some(other().into()) },
            log_format: LogFormat::Json,
            log: "off".parse().unwrap(),
        };
        for setting in all() {
            (setting.set)(&mut config, &Value::String(setting.default.to_owned()))
                .unwrap_or_else(|error| panic!("{}: {error}", setting.key));
        }
        assert_eq!(config, Config::default());
    }

    #[test]
    fn names_carry_their_units() {
        for setting in all() {
            assert_eq!(setting.value == "SECONDS", setting.key.ends_with("_s"), "{}", setting.key);
            assert_eq!(all().filter(|other| other.key == setting.key).count(), 1, "{}", setting.key);
        }
    }
}
