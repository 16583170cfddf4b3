//! What can be asked of the service on the command line.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum, ValueHint};
use crus_core::model::NodeState;

use super::strategy_args::{StrategyArgs, step_size};

const URL_HELP: &str = "\
Root of the service's API, such as https://api-gw-service-nmn.local/apis/crus. Proxies of the environment are not used, \
since the service is in the system's own network; redirects are not followed, since they could carry the token elsewhere
[default: http://127.0.0.1:8080] [env: CRUS_URL] [file: url]";

const TOKEN_HELP: &str = "\
File with the bearer token to send; it is read anew for each request. CRUS_CLIENT_TOKEN, or token in the client's file, \
may hold the token itself. Without TLS a token is sent to this host alone
[env: CRUS_CLIENT_TOKEN_FILE] [file: token_file]";

const CA_HELP: &str = "\
PEM file with the certificate authorities to trust, instead of the system's
[env: CRUS_CLIENT_CA_FILE] [file: ca_file]";

const CONFIG_HELP: &str = "\
The client's file: TOML with url, ca_file, and token_file or token. One with a token must be readable by you alone, and \
have a url: its token is sent to that alone
[default: client.toml in $XDG_CONFIG_HOME/crus or ~/.config/crus] [env: CRUS_CLIENT_CONFIG]";

/// Where the service is, and how answers are shown.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Connection and output")]
pub(crate) struct Connection {
    /// Root of the service's API.
    #[arg(long, global = true, value_name = "URL", value_hint = ValueHint::Url, help = URL_HELP)]
    pub(crate) url: Option<String>,
    /// File with the bearer token to send.
    #[arg(long, global = true, value_name = "PATH", value_hint = ValueHint::FilePath, help = TOKEN_HELP)]
    pub(crate) token_file: Option<PathBuf>,
    /// Authorities to trust.
    #[arg(long, global = true, value_name = "PATH", value_hint = ValueHint::FilePath, help = CA_HELP)]
    pub(crate) ca_file: Option<PathBuf>,
    /// The client's file.
    #[arg(long, global = true, value_name = "PATH", value_hint = ValueHint::FilePath, help = CONFIG_HELP)]
    pub(crate) client_config: Option<PathBuf>,
    /// How long one request may take.
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) timeout_s: u64,
    /// How answers are printed. Without it: tables on a terminal, and JSON as the service answers it elsewhere.
    #[arg(long, short = 'o', global = true, value_name = "FORMAT")]
    pub(crate) format: Option<Format>,
}

/// How answers are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// As the service answers.
    Json,
    /// The same as TOML; a list is in `results`, and what is null is left out.
    Toml,
}

/// Options of `crus session`.
#[derive(Debug, Clone, Args)]
pub(crate) struct SessionArgs {
    #[command(flatten)]
    pub(crate) connection: Connection,
    #[command(subcommand)]
    pub(crate) verb: SessionVerb,
}

/// What can be done with sessions.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum SessionVerb {
    /// Start an upgrade.
    ///
    /// The nodes of the starting group are drained, rebooted and put back to work, some at a time. The session goes on
    /// in the service, whatever becomes of this command.
    #[command(after_help = super::exit::HELP)]
    Create(Box<CreateArgs>),
    /// List the sessions, in the order of their creation.
    #[command(after_help = super::exit::HELP)]
    List,
    /// Show a session: what was asked for, how far it is, and what it said.
    #[command(after_help = super::exit::HELP)]
    Describe {
        #[command(flatten)]
        id: Id,
    },
    /// Show the nodes of a session, and what each waits for.
    #[command(after_help = super::exit::HELP)]
    Nodes {
        #[command(flatten)]
        id: Id,
        /// Only nodes in these states, divided by commas.
        #[arg(long, value_name = "STATES", value_delimiter = ',', value_parser = NodeState::WORDS)]
        state: Vec<String>,
        /// No more than so many nodes.
        #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
        limit: Option<u64>,
    },
    /// Follow a session until it is done, deleted, or Ctrl-C is pressed; the session itself goes on.
    ///
    /// On a terminal: a picture that moves. Elsewhere, or with --format: each event from the first on, one a line. When
    /// the service is away, this waits until it is back, and misses nothing.
    #[command(after_help = super::exit::HELP)]
    Watch {
        #[command(flatten)]
        id: Id,
        #[command(flatten)]
        follow: FollowArgs,
    },
    /// Show what happened in a session, up to now. The service keeps the latest 10000 events of each.
    #[command(after_help = super::exit::HELP)]
    Events {
        #[command(flatten)]
        id: Id,
        /// Only events with a higher number.
        #[arg(long, value_name = "NUMBER", default_value_t = 0)]
        after: u64,
        /// No more than so many events.
        #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
        limit: Option<u64>,
    },
    /// Let a session finish the step in flight and start no other.
    #[command(after_help = super::exit::HELP)]
    Pause {
        #[command(flatten)]
        id: Id,
    },
    /// Let a paused session go on.
    #[command(after_help = super::exit::HELP)]
    Resume {
        #[command(flatten)]
        id: Id,
    },
    /// Try the failed and skipped nodes of a paused or finished session again, in the same session. Each is rebooted
    /// once more at most. A paused session stays paused until it is resumed.
    #[command(after_help = super::exit::HELP)]
    Retry {
        #[command(flatten)]
        id: Id,
    },
    /// Stop a session and delete it: nodes not yet touched stay as they are, drained ones go back to work, those being
    /// rebooted are followed to their end.
    #[command(after_help = super::exit::HELP)]
    Delete {
        #[command(flatten)]
        id: Id,
        /// Do not ask whether that is meant. Needed where there is no terminal to ask on.
        #[arg(long, short = 'y')]
        yes: bool,
        /// Wait until the session is gone.
        #[arg(long)]
        wait: bool,
        /// With --wait: end with 1 when the service cannot be reached for so long.
        #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
        give_up_s: u64,
    },
}

/// Options of `crus session create`.
#[derive(Debug, Clone, Args)]
pub(crate) struct CreateArgs {
    /// Follow the upgrade to its end, as `crus session watch` does.
    #[arg(long)]
    pub(crate) wait: bool,
    #[command(flatten)]
    pub(crate) follow: FollowArgs,
    // Last, since its headings hold for what comes after it.
    #[command(flatten)]
    pub(crate) upgrade: UpgradeArgs,
}

/// Which session.
#[derive(Debug, Clone, Args)]
pub(crate) struct Id {
    /// Upgrade id of the session, or its first characters: at least 4, and no other session's may begin so.
    #[arg(value_name = "ID")]
    pub(crate) id: String,
}

/// How a session is followed.
#[derive(Debug, Clone, Args)]
pub(crate) struct FollowArgs {
    /// End with 5 once the session is paused and its step in flight is finished.
    #[arg(long)]
    pub(crate) exit_on_pause: bool,
    /// End with 1 when the service cannot be reached for so long while the session is followed.
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    pub(crate) give_up_s: u64,
}

/// Options of `crus plan`.
#[derive(Debug, Clone, Args)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    pub(crate) connection: Connection,
    #[command(flatten)]
    pub(crate) upgrade: UpgradeArgs,
}

/// What an upgrade is to be.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Upgrade")]
pub(crate) struct UpgradeArgs {
    /// HSM group of the nodes to upgrade.
    #[arg(long, value_name = "LABEL")]
    pub(crate) starting_label: String,
    /// HSM group that will hold the nodes in flight; empty, and booted by the session template.
    #[arg(long, value_name = "LABEL")]
    pub(crate) upgrading_label: String,
    /// HSM group that will receive the nodes that fail; empty.
    #[arg(long, value_name = "LABEL")]
    pub(crate) failed_label: String,
    /// How many nodes a step has at most.
    #[arg(long, value_name = "COUNT", allow_negative_numbers = true, value_parser = step_size)]
    pub(crate) upgrade_step_size: u32,
    /// BOS session template to boot from.
    #[arg(long, value_name = "NAME")]
    pub(crate) upgrade_template_id: String,
    /// Workload manager that runs jobs on the nodes.
    #[arg(long, value_name = "TYPE", default_value = "slurm")]
    pub(crate) workload_manager_type: String,
    /// Tenant for whom the nodes are booted: BOS shows each its own templates and sessions. The default is `tenant` in
    /// the client's file, if it is there.
    #[arg(long, value_name = "NAME")]
    pub(crate) tenant: Option<crus_core::TenantName>,
    #[command(flatten)]
    pub(crate) strategy: StrategyArgs,
}
