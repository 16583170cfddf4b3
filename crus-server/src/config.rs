//! The configuration: flags over environment over file over defaults.

#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};
use toml::{Table, Value};

use crate::settings::{self, Config, NONE, Setting};
use crate::webhook::HookUrl;

/// Names the configuration file, when no flag does.
const CONFIG_VARIABLE: &str = "CRUS_CONFIG";

/// What was given on the command line, as it was written.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    config: Option<PathBuf>,
    values: BTreeMap<&'static str, String>,
}

impl Flags {
    fn given(matches: &ArgMatches, has: impl Fn(&Setting) -> bool) -> Self {
        let given = |setting: &Setting| Some((setting.key, matches.get_one::<String>(setting.key)?.clone()));
        Flags {
            config: matches.get_one("config").cloned(),
            values: settings::all().filter(|setting| has(setting)).filter_map(given).collect(),
        }
    }
}

fn config_flag() -> Arg {
    Arg::new("config").long("config").value_name("PATH").value_parser(clap::value_parser!(PathBuf)).help(format!(
        "TOML file with any of the options of `crus serve`, each under its name with _ for -\n[env: {CONFIG_VARIABLE}]"
    ))
}

fn with_flag(command: Command, setting: &Setting) -> Command {
    command.arg(
        Arg::new(setting.key)
            .long(setting.flag())
            .value_name(setting.value)
            .allow_hyphen_values(true)
            .help_heading(setting.heading)
            .help(format!("{}\n[default: {}] [env: {}]", setting.help, setting.default, setting.variable())),
    )
}

impl Args for Flags {
    fn augment_args(command: Command) -> Command {
        settings::all().fold(command.arg(config_flag()), with_flag)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Flags::augment_args(command)
    }
}

impl FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Flags::given(matches, |_| true))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Flags::from_arg_matches(matches)?;
        Ok(())
    }
}

/// The same options, those alone that say where the store is.
#[derive(Debug, Clone, Default)]
pub struct StoreFlags(pub Flags);

impl StoreFlags {
    fn has(setting: &Setting) -> bool {
        setting.key == "store" || setting.key.starts_with("etcd_")
    }
}

impl Args for StoreFlags {
    fn augment_args(command: Command) -> Command {
        settings::all().filter(|setting| StoreFlags::has(setting)).fold(command.arg(config_flag()), with_flag)
    }

    fn augment_args_for_update(command: Command) -> Command {
        StoreFlags::augment_args(command)
    }
}

impl FromArgMatches for StoreFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(StoreFlags(Flags::given(matches, StoreFlags::has)))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = StoreFlags::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The command line.
    Flag,
    /// An environment variable.
    Environment,
    /// The configuration file.
    File(PathBuf),
    /// It was not set.
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Flag => f.write_str("the command line"),
            Source::Environment => f.write_str("the environment"),
            Source::File(path) => write!(f, "{}", path.display()),
            Source::Default => f.write_str("the default"),
        }
    }
}

/// Why there is no configuration. Each names the option, where it was set, and what would be right; a cause is told in
/// the text itself.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error(
        "failed to read the configuration file {path}: {error}; check --config and the file's permissions"
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// The file is not TOML.
    #[error("failed to read the configuration file {path}: it is not TOML: {detail}")]
    NotToml {
        /// The file.
        path: PathBuf,
        /// Where and why.
        detail: String,
    },
    /// The file holds a key that is no option.
    #[error("unknown option {key} in {path}{hint}; `crus serve --help` lists all")]
    Unknown {
        /// The key.
        key: String,
        /// The file.
        path: PathBuf,
        /// The option that may have been meant.
        hint: String,
    },
    /// A value is not right.
    #[error("{option} has the wrong value {value} in {from}: it {right}")]
    Wrong {
        /// The option as it is called there.
        option: String,
        /// The value.
        value: String,
        /// Where it was set.
        from: Source,
        /// What would be right.
        right: String,
    },
}

/// Options each of which is right, and that do not fit together or this service.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Misconfigured(String);

impl Misconfigured {
    /// Why, as a sentence with its remedy.
    pub(crate) fn error(why: impl Into<String>) -> anyhow::Error {
        Misconfigured(why.into()).into()
    }
}

/// The configuration, and where each value of it came from.
#[derive(Debug)]
pub struct Loaded {
    /// What to run with.
    pub config: Config,
    chosen: Vec<(&'static Setting, Value, Source)>,
}

impl Loaded {
    /// Puts the configuration together. `environment` answers for a variable's name.
    ///
    /// # Errors
    /// See [`ConfigError`]. Values that are overridden are not looked at.
    pub fn new(flags: &Flags, environment: impl Fn(&str) -> Option<OsString>) -> Result<Self, ConfigError> {
        Loaded::with_defaults(flags, environment, &[])
    }

    /// The same with other defaults for some options, by their keys.
    ///
    /// # Errors
    /// As [`Loaded::new`].
    pub fn with_defaults(
        flags: &Flags,
        environment: impl Fn(&str) -> Option<OsString>,
        defaults: &[(&str, &str)],
    ) -> Result<Self, ConfigError> {
        // An empty variable is how many launchers say "not set".
        let environment = |name: &str| environment(name).filter(|value| !value.is_empty());
        let path = flags.config.clone().or_else(|| environment(CONFIG_VARIABLE).map(PathBuf::from));
        let file = match &path {
            Some(path) => read(path)?,
            None => Table::new(),
        };
        Loaded::of(flags, environment, defaults, file, path.as_ref())
    }

    /// The same with a file that was read.
    fn of(
        flags: &Flags,
        environment: impl Fn(&str) -> Option<OsString>,
        defaults: &[(&str, &str)],
        mut file: Table,
        path: Option<&PathBuf>,
    ) -> Result<Self, ConfigError> {
        let environment = |name: &str| environment(name).filter(|value| !value.is_empty());
        let mut config = Config::default();
        let mut chosen = Vec::new();
        for setting in settings::all() {
            let from_file = file.remove(setting.key);
            let (value, from) = if let Some(flag) = flags.values.get(setting.key) {
                (Value::String(flag.clone()), Source::Flag)
            } else if let Some(variable) = environment(&setting.variable()) {
                (Value::String(variable.to_string_lossy().into_owned()), Source::Environment)
            } else if let (Some(value), Some(path)) = (from_file, path) {
                (value, Source::File(path.clone()))
            } else {
                let other = defaults.iter().find(|(key, _)| *key == setting.key);
                let default = other.map_or(setting.default, |(_, default)| default);
                (Value::String(default.to_owned()), Source::Default)
            };
            if let Err(right) = (setting.set)(&mut config, &value) {
                let option = match from {
                    Source::Flag => format!("--{}", setting.flag()),
                    Source::Environment => setting.variable(),
                    Source::File(_) | Source::Default => setting.key.to_owned(),
                };
                return Err(ConfigError::Wrong { option, value: told(setting, &value), from, right });
            }
            chosen.push((setting, value, from));
        }
        match (file.keys().next(), path) {
            (Some(key), Some(path)) => {
                Err(ConfigError::Unknown { key: key.clone(), hint: nearest(key), path: path.clone() })
            }
            _ => Ok(Loaded { config, chosen }),
        }
    }

    /// Whether somebody set this option.
    pub fn is_set(&self, key: &str) -> bool {
        self.chosen.iter().any(|(setting, _, from)| setting.key == key && *from != Source::Default)
    }

    /// The values in force as a configuration file, each with its source.
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        for (setting, value, from) in &self.chosen {
            let comment = if value.as_str() == Some(NONE) { "# " } else { "" };
            let value = match is_secret(setting) && comment.is_empty() {
                true => format!("{}  # its path is not shown;", told(setting, value)),
                false => format!("{value}  #"),
            };
            text += &format!("{comment}{} = {value} from {from}\n", setting.key);
        }
        text
    }
}

/// Whether more than the origin of a URL may be a secret.
fn is_secret(setting: &Setting) -> bool {
    setting.key == "webhook_url"
}

/// The value of an option as it may be shown.
fn told(setting: &Setting, value: &Value) -> String {
    if !is_secret(setting) {
        return shown(value);
    }
    let url = value.as_str().and_then(|text| text.parse::<HookUrl>().ok());
    Value::String(url.map_or_else(|| "[hidden]".to_owned(), |url| url.to_string())).to_string()
}

/// A value as it may be shown: what a URL holds before its `@` may be a password, and its query a token.
fn shown(value: &Value) -> String {
    match value {
        Value::Array(values) => {
            format!("[{}]", values.iter().map(shown).collect::<Vec<_>>().join(", "))
        }
        Value::String(text) => {
            // Those of a list are divided by commas; a password may hold any.
            let hidden = text.split_once("://").map(|(scheme, rest)| {
                let (user, rest) = match rest.rsplit_once('@') {
                    Some((_, host)) => ("[hidden]@", host),
                    None => ("", rest),
                };
                let end = rest.find(['?', '#']);
                let (rest, query) = end.map_or((rest, ""), |end| (&rest[..end], "?[hidden]"));
                Value::String(format!("{scheme}://{user}{rest}{query}"))
            });
            hidden.as_ref().unwrap_or(value).to_string()
        }
        value => value.to_string(),
    }
}

fn read(path: &Path) -> Result<Table, ConfigError> {
    let text =
        std::fs::read_to_string(path).map_err(|error| ConfigError::Read { path: path.to_owned(), error })?;
    parse(path, &text)
}

fn parse(path: &Path, text: &str) -> Result<Table, ConfigError> {
    text.parse::<Table>().map_err(|error| {
        let line = error.span().map(|span| text[..span.start].matches('\n').count() + 1);
        let place = line.map(|line| format!("line {line}: ")).unwrap_or_default();
        ConfigError::NotToml { path: path.to_owned(), detail: format!("{place}{}", error.message()) }
    })
}

/// The option that a misspelt key may have meant: one that it contains, or that contains it.
fn nearest(key: &str) -> String {
    let plain = key.to_ascii_lowercase().replace('-', "_");
    let meant = settings::all().find(|setting| {
        let stem = setting.key.strip_suffix("_s").unwrap_or(setting.key);
        !plain.is_empty() && (plain.contains(stem) || setting.key.contains(&plain))
    });
    meant.map(|setting| format!(" (is {} meant?)", setting.key)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn flags(arguments: &[&str]) -> Flags {
        let command = Flags::augment_args(Command::new("serve").no_binary_name(true));
        Flags::from_arg_matches(&command.try_get_matches_from(arguments).unwrap()).unwrap()
    }

    fn file(text: &str) -> (tempfile::NamedTempFile, String) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let path = file.path().to_str().unwrap().to_owned();
        (file, path)
    }

    fn load(arguments: &[&str], variables: &[(&str, &str)]) -> Result<Loaded, String> {
        Loaded::new(&flags(arguments), |name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value))
        })
        .map_err(|error| error.to_string())
    }

    #[test]
    fn flags_win_over_environment_over_file_over_defaults() {
        let (_file, path) = file(
            "poll_interval_s = 1\nretry_max_s = 1.5\nsettle_s = '2'\nscontrol = ['a b', 'c']\nlisten = '[::1]:0'",
        );
        let loaded = load(
            &["--config", &path, "--poll-interval-s", "3"],
            &[("CRUS_POLL_INTERVAL_S", "2"), ("CRUS_RETRY_MAX_S", "2"), ("CRUS_SETTLE_S", "")],
        )
        .unwrap();
        let limits = &loaded.config.limits;
        assert_eq!(limits.poll_ms, 3000, "flag");
        assert_eq!(limits.retry_max_ms, 2000, "environment");
        assert_eq!(limits.settle_ms, 2000, "file: an empty variable is none");
        assert_eq!(limits.boot_timeout_ms, Config::default().limits.boot_timeout_ms, "default");
        assert_eq!(loaded.config.scontrol, ["a b", "c"]);
        assert!(loaded.config.listen.is_ipv6());
    }

    #[test]
    fn the_file_can_be_named_by_the_environment() {
        let (_file, path) = file("node_order = 'name'");
        let loaded = load(&[], &[("CRUS_CONFIG", &path)]).unwrap();
        assert_eq!(loaded.config.limits.order, crus_core::batch::Order::Name);
    }

    #[test]
    fn a_wrong_value_is_named_with_its_source_and_what_would_be_right() {
        let (_file, path) = file("listen = 8080");
        assert_eq!(
            load(&["--poll-interval-s", "soon"], &[]).unwrap_err(),
            "--poll-interval-s has the wrong value \"soon\" in the command line: it must be a number of seconds \
             from 0.01 to 3600"
        );
        assert_eq!(
            load(&[], &[("CRUS_LOG_FORMAT", "xml")]).unwrap_err(),
            "CRUS_LOG_FORMAT has the wrong value \"xml\" in the environment: it must be text or json"
        );
        let error = load(&["--hsm-url", "https://me:p@ss@hsm/v2"], &[]).unwrap_err();
        assert!(error.starts_with("--hsm-url has the wrong value \"https://[hidden]@hsm/v2\""), "{error}");
        let error = load(&["--bos-url", "https://bos/v2?key=s3cret"], &[]).unwrap_err();
        assert!(error.starts_with("--bos-url has the wrong value \"https://bos/v2?[hidden]\""), "{error}");
        let (_members, path_of_members) = file("etcd_endpoints = ['http://a:1', 'http://me:p@ss@b:1']");
        let error = load(&["--config", &path_of_members], &[]).unwrap_err();
        assert!(error.contains("[\"http://a:1\", \"http://[hidden]@b:1\"]"), "{error}");
        assert_eq!(
            load(&["--config", &path], &[]).unwrap_err(),
            format!(
                "listen has the wrong value 8080 in {path}: it must be an address and a port, such as \
                 127.0.0.1:8080 or [::1]:0"
            )
        );
    }

    #[test]
    fn of_the_url_of_a_webhook_the_origin_alone_is_shown() {
        let printed =
            load(&["--webhook-url", "https://a.example:8443/T0/s3cret?t=s3cret"], &[]).unwrap().to_toml();
        assert!(
            printed.contains("webhook_url = \"https://a.example:8443\"  # its path is not shown; from"),
            "{printed}"
        );
        assert!(!printed.contains("s3cret"), "{printed}");
        assert!(load(&[], &[]).unwrap().to_toml().contains("# webhook_url = \"none\"  # from the default"));
        let error = load(&["--webhook-url", "https://a.example/s3cret#c"], &[]).unwrap_err();
        assert!(error.contains("wrong value \"[hidden]\"") && !error.contains("s3cret"), "{error}");
    }

    #[test]
    fn an_unknown_key_a_missing_file_and_one_that_is_not_toml_are_said_so() {
        let (_unknown, path) = file("poll_interval = 1");
        assert_eq!(
            load(&["--config", &path], &[]).unwrap_err(),
            format!(
                "unknown option poll_interval in {path} (is poll_interval_s meant?); `crus serve --help` lists all"
            )
        );
        let (_broken, path) = file("listen = '127.0.0.1:0'\npoll_interval_s = ");
        let error = load(&["--config", &path], &[]).unwrap_err();
        assert!(error.contains("it is not TOML: line 2: "), "{error}");
        let error = load(&["--config", "/nowhere/crus.toml"], &[]).unwrap_err();
        assert!(error.starts_with("failed to read the configuration file /nowhere/crus.toml: "), "{error}");
    }

    #[test]
    fn defaults_and_caps_of_strategies_are_tables_and_printed() {
        let text = "[strategy]\ncanary = [1, 5]\nmax_failed = '2%'\n[strategy.window]\ntime_zone = 'UTC'\n\
                    open = [{ days = ['sat'], from = '22:00', to = '06:00' }]\n[strategy_caps]\nmax_step_size = 50\n\
                    max_failed = '5%'\non_drain_timeout = ['wait', 'skip']\nmin_in_service = { batch = '80%' }";
        let (_file, path) = file(text);
        let loaded = load(&["--config", &path], &[]).unwrap();
        assert_eq!(loaded.config.strategy.canary.len(), 2);
        assert_eq!(loaded.config.caps.max_step_size.unwrap().get(), 50);
        let printed = loaded.to_toml();
        assert!(printed.contains("canary = [1, 5], max_failed = \"2%\""), "{printed}");
        let (_printed, path) = file(&printed);
        assert_eq!(load(&["--config", &path], &[]).unwrap().config, loaded.config);
        let in_a_line =
            load(&["--strategy", "{ retries = 1 }"], &[("CRUS_STRATEGY_CAPS", "{ max_retries = 2 }")]);
        let config = in_a_line.unwrap().config;
        assert_eq!((config.strategy.retries, config.caps.max_retries), (1, Some(2)));
    }

    #[test]
    fn wrong_defaults_and_caps_of_strategies_are_told() {
        for (text, told) in [
            (
                "[strategy]\nmax_failed = 'x'\nretry = 1",
                "strategy.max_failed is a string; it must be a whole number",
            ),
            ("[strategy]\nsoak_s = 5", "strategy.soak_s needs canary"),
            ("strategy = 3", "it must be a table of options of a strategy"),
            ("[strategy_caps]\nmax_steps = 3", "unknown field `max_steps`"),
            ("[strategy_caps]\nmax_failed = '500%'", "must be a whole number of nodes from 0"),
            (
                "[strategy]\nretries = 3\n[strategy_caps]\nmax_retries = 1",
                "strategy.retries, which holds where a request",
            ),
        ] {
            let (_file, path) = file(text);
            let error = load(&["--config", &path], &[]).unwrap_err();
            assert!(error.contains(told), "{error}");
        }
    }

    #[test]
    fn the_printed_configuration_is_one_that_can_be_loaded() {
        let printed = load(&["--scontrol", "nice scontrol", "--drain-timeout-s", "7.5"], &[]).unwrap();
        let (_file, path) = file(&printed.to_toml());
        let again = load(&["--config", &path], &[]).unwrap();
        assert_eq!(again.config, printed.config);
    }
}
