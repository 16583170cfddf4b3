//! Where the service is and who we are: flags over environment over the client's file over defaults.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read as _;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crus_clients::http::BaseUrl;
use crus_clients::http::Secret;
use crus_core::TenantName;
use reqwest::Url;
use reqwest::header::HeaderValue;
use serde::Deserialize;

use super::args::Connection;
use super::error::ClientError;

const DEFAULT_URL: &str = "http://127.0.0.1:8080";
const URL: &str = "CRUS_URL";
// Not those of the service: its token is for HSM and BOS, and must not go to whatever URL the client is given.
const TOKEN: &str = "CRUS_CLIENT_TOKEN";
const TOKEN_FILE: &str = "CRUS_CLIENT_TOKEN_FILE";
const CA_FILE: &str = "CRUS_CLIENT_CA_FILE";
const CONFIG: &str = "CRUS_CLIENT_CONFIG";

/// Everything that may be in the file.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Stored {
    url: Option<String>,
    token: Option<String>,
    token_file: Option<PathBuf>,
    ca_file: Option<PathBuf>,
    tenant: Option<TenantName>,
}

/// Where the service is, and how to be let in.
#[derive(Debug, Clone)]
pub(crate) struct Profile {
    /// The root of its API.
    pub(crate) url: Url,
    /// Who said so.
    pub(crate) url_from: String,
    pub(crate) token: TokenSource,
    /// The authorities to trust, as PEM.
    pub(crate) ca_file: Option<PathBuf>,
    /// For whom upgrades are asked for, where it is not said.
    pub(crate) tenant: Option<TenantName>,
}

/// Where the token is. Its text is in no debug output and in no message.
#[derive(Debug, Clone)]
pub(crate) enum TokenSource {
    /// None was given; why one that is there is not used.
    None(Option<String>),
    /// This one, and who said so.
    Given(HeaderValue, String),
    /// In this file, which may be renewed meanwhile.
    File(PathBuf),
}

impl TokenSource {
    /// The header to send.
    pub(crate) fn header(&self) -> Result<Option<HeaderValue>, ClientError> {
        match self {
            TokenSource::None(_) => Ok(None),
            TokenSource::Given(header, _) => Ok(Some(header.clone())),
            TokenSource::File(path) => {
                let text = std::fs::read_to_string(path).map_err(|error| {
                    ClientError::usage(format!(
                        "failed to read the token file {}: {error}; check the path and the file's permissions",
                        path.display()
                    ))
                })?;
                bearer(&text, &path.display().to_string()).map(Some)
            }
        }
    }

    /// The token that is sent, to be taken out of what is shown.
    pub(crate) fn secret(&self) -> Secret {
        let header = self.header().ok().flatten();
        let token = header.as_ref().and_then(|header| header.to_str().ok()?.strip_prefix("Bearer "));
        Secret::new(token.unwrap_or_default())
    }

    /// Where it came from, for people.
    pub(crate) fn from(&self) -> Option<String> {
        match self {
            TokenSource::None(_) => None,
            TokenSource::Given(_, from) => Some(from.clone()),
            TokenSource::File(path) => Some(path.display().to_string()),
        }
    }
}

fn bearer(text: &str, from: &str) -> Result<HeaderValue, ClientError> {
    let text = text.trim();
    if text.is_empty() {
        return Err(ClientError::usage(format!("the token from {from} is empty; put the token there")));
    }
    let mut header = HeaderValue::from_str(&format!("Bearer {text}")).map_err(|_| {
        ClientError::usage(format!(
            "the token from {from} holds characters that cannot be sent; put the token there, and nothing else"
        ))
    })?;
    header.set_sensitive(true);
    Ok(header)
}

impl Profile {
    /// Puts it together. `environment` answers for a variable's name.
    ///
    /// # Errors
    /// When a value is not right, or a secret can be read by others: each says what to do.
    pub(crate) fn read(
        given: &Connection,
        environment: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, ClientError> {
        let variable = |name: &str| environment(name).filter(|value| !value.is_empty());
        let (path, stored) = stored(given, &variable)?;
        Profile::of(given, &variable, path.as_deref(), stored)
    }

    /// The same with a file that was read.
    pub(super) fn of(
        given: &Connection,
        variable: &impl Fn(&str) -> Option<OsString>,
        path: Option<&Path>,
        stored: Stored,
    ) -> Result<Self, ClientError> {
        let in_file = path.map(|path| path.display().to_string()).unwrap_or_default();
        let beside = |name: PathBuf| path.and_then(Path::parent).unwrap_or(Path::new("")).join(name);
        let (url, url_from) = if let Some(url) = &given.url {
            (url.clone(), "--url".to_owned())
        } else if let Some(url) = variable(URL) {
            (url.to_string_lossy().into_owned(), URL.to_owned())
        } else if let Some(url) = &stored.url {
            (url.clone(), in_file.clone())
        } else {
            (DEFAULT_URL.to_owned(), "the default".to_owned())
        };
        let url = base(&url, &url_from)?;
        let of_file = match &stored.url {
            Some(own) => base(own, &in_file)?.origin() == url.origin(),
            None => true,
        };
        let token = if let Some(path) = &given.token_file {
            TokenSource::File(path.clone())
        } else {
            match (variable(TOKEN_FILE), variable(TOKEN)) {
                (Some(_), Some(_)) => {
                    return Err(ClientError::usage(format!(
                        "{TOKEN_FILE} and {TOKEN} are both set; unset one of them"
                    )));
                }
                (Some(path), None) => TokenSource::File(path.into()),
                (None, Some(token)) => {
                    TokenSource::Given(bearer(&token.to_string_lossy(), TOKEN)?, TOKEN.to_owned())
                }
                (None, None) => match (stored.token, stored.token_file) {
                    (None, None) => TokenSource::None(None),
                    (Some(_), Some(_)) => {
                        return Err(ClientError::usage(format!(
                            "{in_file} holds both token and token_file; remove one of them"
                        )));
                    }
                    _ if stored.url.is_none() => {
                        return Err(ClientError::usage(format!(
                            "{in_file} holds a token and does not say whose; add the url of the service that it is for"
                        )));
                    }
                    // It was written down for another service: this one may not see it.
                    _ if !of_file => TokenSource::None(Some(format!(
                        "the one in {in_file} is for the url that is there, and was not sent to another"
                    ))),
                    (Some(token), None) => TokenSource::Given(bearer(&token, &in_file)?, in_file.clone()),
                    (None, Some(name)) => TokenSource::File(beside(name)),
                },
            }
        };
        if let Some(from) = token.from()
            && !is_private(&url)
        {
            return Err(ClientError::usage(format!(
                "the token from {from} would go to {} (from {url_from}) without TLS, where others may read it; give an \
                 https:// URL, or do without the token",
                url.origin().ascii_serialization()
            )));
        }
        let ca_file = given.ca_file.clone().or_else(|| variable(CA_FILE).map(PathBuf::from));
        let ca_file = ca_file.or_else(|| stored.ca_file.map(beside));
        Ok(Profile { url, url_from, token, ca_file, tenant: stored.tenant })
    }
}

/// Whether what is sent there can be read by nobody else.
fn is_private(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    url.scheme() == "https" || host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

fn base(text: &str, from: &str) -> Result<Url, ClientError> {
    // What a URL holds before its `@` may be a password, so that the text itself is not repeated.
    let wrong = |why: &dyn std::fmt::Display| {
        ClientError::usage(format!(
            "the URL from {from} is not right: {why}; give one such as https://api-gw-service-nmn.local/apis/crus"
        ))
    };
    let scheme = |scheme: &str| {
        text.trim().get(..scheme.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(scheme))
    };
    if !scheme("http://") && !scheme("https://") {
        return Err(wrong(&"it must begin with http:// or https://"));
    }
    text.parse::<BaseUrl>().map_err(|error| wrong(&error))?;
    Url::parse(text.trim()).map_err(|error| wrong(&error))
}

/// The file, and what is in it.
fn stored(
    given: &Connection,
    variable: &impl Fn(&str) -> Option<OsString>,
) -> Result<(Option<PathBuf>, Stored), ClientError> {
    let asked = given.client_config.clone().or_else(|| variable(CONFIG).map(PathBuf::from));
    let (path, must_be) = match asked {
        Some(path) => (path, true),
        None => {
            let folder = variable("XDG_CONFIG_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
            let folder = folder.or_else(|| variable("HOME").map(|home| Path::new(&home).join(".config")));
            match folder {
                Some(folder) => (folder.join("crus/client.toml"), false),
                None => return Ok((None, Stored::default())),
            }
        }
    };
    let shown = path.display().to_string();
    let unreadable = |error: std::io::Error| {
        ClientError::usage(format!(
            "failed to read {shown}: {error}; check the path and the file's permissions"
        ))
    };
    let mut file = match File::open(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !must_be => {
            return Ok((None, Stored::default()));
        }
        opened => opened.map_err(unreadable)?,
    };
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(unreadable)?;
    let stored = parse(&shown, &text)?;
    let mode = file.metadata().map_err(unreadable)?.permissions().mode();
    if stored.token.is_some() && mode & 0o077 != 0 {
        return Err(ClientError::usage(format!(
            "{shown} holds a token, and others may read it (mode {:03o}); run: chmod 600 {shown}",
            mode & 0o777
        )));
    }
    Ok((Some(path), stored))
}

/// What is in the text of a file.
pub(super) fn parse(shown: &str, text: &str) -> Result<Stored, ClientError> {
    toml::from_str(text).map_err(|error| {
        // The message alone: the line itself may hold the token.
        let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
        let why =
            if error.message().starts_with("unknown field") { error.message() } else { "it is not right" };
        ClientError::usage(format!(
            "{shown}, line {line}: {why}; it may hold url, token, token_file, ca_file and tenant"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        connection: Connection,
    }

    struct Home(tempfile::TempDir);

    impl Home {
        fn with(text: &str, mode: u32) -> Home {
            let folder = tempfile::tempdir().unwrap();
            std::fs::create_dir_all(folder.path().join(".config/crus")).unwrap();
            let path = folder.path().join(".config/crus/client.toml");
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            Home(folder)
        }

        fn read(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Result<Profile, String> {
            let line = Line::try_parse_from(std::iter::once(&"crus").chain(arguments)).unwrap();
            let home = self.0.path().as_os_str().to_owned();
            Profile::read(&line.connection, |name| match name {
                "HOME" => Some(home.clone()),
                _ => variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into()),
            })
            .map_err(|error| error.to_string())
        }
    }

    fn sent(profile: &Profile) -> Option<String> {
        profile.token.header().unwrap().map(|header| header.to_str().unwrap().to_owned())
    }

    #[test]
    fn flags_win_over_environment_over_file_over_defaults() {
        let nothing = Home::with("", 0o644).read(&[], &[]).unwrap();
        assert_eq!((nothing.url.as_str(), sent(&nothing)), ("http://127.0.0.1:8080/", None));
        let home = Home::with("url = 'https://file'\nca_file = 'ca.pem'\ntoken = 'of the file'", 0o600);
        let file = home.read(&[], &[("CRUS_URL", "")]).unwrap();
        assert_eq!(file.url.as_str(), "https://file/");
        assert_eq!(sent(&file).as_deref(), Some("Bearer of the file"));
        assert!(file.ca_file.unwrap().ends_with(".config/crus/ca.pem"), "beside the file");
        let variables =
            [("CRUS_URL", "https://variable"), ("CRUS_CLIENT_TOKEN", "t"), ("CRUS_CLIENT_CA_FILE", "/ca")];
        let environment = home.read(&[], &variables).unwrap();
        assert_eq!(environment.url.as_str(), "https://variable/");
        assert_eq!(sent(&environment).as_deref(), Some("Bearer t"));
        assert_eq!(environment.ca_file.unwrap(), Path::new("/ca"));
        let token = home.0.path().join("token");
        std::fs::write(&token, "of the flag\n").unwrap();
        let token = token.to_str().unwrap();
        let flags = home.read(&["--url", "https://flag", "--token-file", token], &variables).unwrap();
        assert_eq!(flags.url.as_str(), "https://flag/");
        assert_eq!(sent(&flags).as_deref(), Some("Bearer of the flag"));
    }

    #[test]
    fn the_token_of_the_file_goes_to_the_service_of_the_file_alone() {
        let home = Home::with("url = 'https://file/apis/crus'\ntoken = 'secret'", 0o600);
        assert!(sent(&home.read(&["--url", "https://file/other"], &[]).unwrap()).is_some());
        for other in ["https://other/apis/crus", "http://file/apis/crus", "https://file:444/apis/crus"] {
            assert_eq!(sent(&home.read(&["--url", other], &[]).unwrap()), None, "{other}");
        }
    }

    #[test]
    fn a_token_that_others_may_read_is_refused_with_what_to_run() {
        for mode in [0o640, 0o604, 0o666] {
            let home = Home::with("token = 'hunter2'", mode);
            let error = home.read(&[], &[]).unwrap_err();
            let path = home.0.path().join(".config/crus/client.toml");
            assert!(error.ends_with(&format!("run: chmod 600 {}", path.display())), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
        assert!(Home::with("url = 'http://a'", 0o644).read(&[], &[]).is_ok(), "no secret, no matter");
    }

    #[test]
    fn no_token_is_shown() {
        for text in ["token = 'hunter2", "token = ['hunter2']", "tokens = 'hunter2'", "token = 'hun\\nter2'"]
        {
            let error = Home::with(text, 0o600).read(&[], &[]).map(|profile| format!("{profile:?}"));
            let text = error.unwrap_or_else(|error| error);
            assert!(!text.contains("hunter2"), "{text}");
        }
        let error = Home::with("", 0o600).read(&["--url", "https://me:hunter2@host"], &[]).unwrap_err();
        assert!(
            error.starts_with("the URL from --url is not right") && !error.contains("hunter2"),
            "{error}"
        );
    }

    #[test]
    fn a_token_goes_over_tls_or_stays_on_this_host() {
        let home = Home::with("", 0o644);
        let token = [("CRUS_CLIENT_TOKEN", "hunter2")];
        for url in ["http://localhost:1", "http://127.9.9.9", "http://[::1]:1", "https://elsewhere"] {
            assert!(sent(&home.read(&["--url", url], &token).unwrap()).is_some(), "{url}");
        }
        for url in ["http://elsewhere", "http://10.0.0.1", "http://localhost.elsewhere", "http://[::2]"] {
            let error = home.read(&["--url", url], &token).unwrap_err();
            assert!(error.contains("without TLS") && !error.contains("hunter2"), "{error}");
            assert!(home.read(&["--url", url], &[]).is_ok(), "{url}: there is nothing to read");
        }
    }

    /// The service's own token is for HSM and BOS.
    #[test]
    fn what_the_service_is_configured_with_is_not_sent() {
        let variables = [("CRUS_TOKEN_FILE", "/token"), ("CRUS_CA_FILE", "/ca")];
        let profile = Home::with("", 0o644).read(&["--url", "https://elsewhere"], &variables).unwrap();
        assert_eq!((sent(&profile), profile.ca_file), (None, None));
    }

    #[test]
    fn a_token_in_the_file_needs_the_url_that_it_is_for() {
        for text in ["token = 'hunter2'", "token_file = 'token'"] {
            let error = Home::with(text, 0o600).read(&["--url", "https://elsewhere"], &[]).unwrap_err();
            assert!(error.ends_with("add the url of the service that it is for"), "{error}");
        }
    }

    #[test]
    fn a_url_without_a_scheme_is_said_to_have_none() {
        for url in ["127.0.0.1:8080", "api-gw.local/apis/crus", "ftp://host", "localhost:8080"] {
            let error = Home::with("", 0o644).read(&["--url", url], &[]).unwrap_err();
            assert!(error.contains("it must begin with http:// or https://"), "{error}");
        }
    }

    #[test]
    fn two_tokens_are_one_too_many() {
        let home = Home::with("", 0o600);
        let error =
            home.read(&[], &[("CRUS_CLIENT_TOKEN", "a"), ("CRUS_CLIENT_TOKEN_FILE", "b")]).unwrap_err();
        assert_eq!(error, "CRUS_CLIENT_TOKEN_FILE and CRUS_CLIENT_TOKEN are both set; unset one of them");
    }

    #[test]
    fn a_file_that_was_asked_for_must_be_there() {
        let home = Home::with("", 0o600);
        let error = home.read(&["--client-config", "/nowhere/client.toml"], &[]).unwrap_err();
        assert!(error.starts_with("failed to read /nowhere/client.toml: No such file"), "{error}");
    }
}
