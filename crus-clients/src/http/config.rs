//! Where a peer is, and how it is talked to.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use reqwest::Url;

use super::tls::TlsFiles;
use super::token::Credentials;

/// Why a peer's settings cannot be used. Never repeats what may be a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The base URL is none.
    #[error("failed to read the base URL: {0}")]
    BaseUrl(String),
    /// The certificates are none.
    #[error("failed to read the CA certificates in {path}: {why}")]
    Ca {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Our own certificate or its key is of no use.
    #[error("failed to use the certificate in {cert} with the key in {key}: {why}")]
    Identity {
        /// The file of the certificate.
        cert: PathBuf,
        /// The file of the key.
        key: PathBuf,
        /// What is wrong with them.
        why: String,
    },
    /// The token cannot be sent.
    #[error("failed to use the token: it holds characters that a header cannot")]
    Token,
    /// The HTTP client could not be made of it.
    #[error("failed to set up the HTTP client: {0}")]
    Client(String),
}

/// Where a service is, such as `http://cray-smd/hsm/v2` or `https://api-gw/apis/bos/v2`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseUrl(pub(super) Url);

impl BaseUrl {
    /// Whether what is sent there is encrypted.
    pub fn is_https(&self) -> bool {
        self.0.scheme() == "https"
    }

    /// Whether it is on this machine, where nobody listens in.
    pub fn is_loopback(&self) -> bool {
        let host = self.0.host_str().unwrap_or_default();
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
        host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    }

    pub(super) fn host(&self) -> &str {
        self.0.host_str().unwrap_or_default()
    }
}

impl FromStr for BaseUrl {
    type Err = ConfigError;

    /// Takes an `http` or `https` URL of a host and a path alone. Credentials have their own place, since URLs are
    /// shown.
    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let wrong = |why: &str| Err(ConfigError::BaseUrl(why.to_owned()));
        let url = Url::parse(text.trim()).map_err(|e| ConfigError::BaseUrl(e.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return wrong("it must begin with http:// or https:// and a host");
        }
        if !url.username().is_empty() || url.password().is_some() {
            return wrong("it must not hold a user or a password; use a token");
        }
        if url.query().is_some() || url.fragment().is_some() {
            return wrong("it must end with the path, without '?' and '#'");
        }
        Ok(BaseUrl(url))
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where a peer is, and how to talk to it.
#[derive(Debug, Clone)]
pub struct PeerConfig {
    /// Where it is.
    pub base: BaseUrl,
    /// How long to wait for a connection.
    pub connect_timeout: Duration,
    /// How long a request may take altogether, from the connection to the last byte of the answer.
    pub total_timeout: Duration,
    /// How long an answer may be, in bytes.
    pub body_max_bytes: usize,
    /// How many requests may be under way at a time. More wait for a place, at most for `total_timeout` each.
    pub max_calls: usize,
    /// How we prove who we are.
    pub credentials: Credentials,
    /// Whom we trust, and the certificate that we show.
    pub tls: TlsFiles,
}

impl PeerConfig {
    /// The peer at this URL, with the default limits (5 s to connect, 30 s altogether, 64 MiB, 16 requests at a
    /// time) and without credentials.
    pub fn new(base: BaseUrl) -> Self {
        PeerConfig {
            base,
            connect_timeout: Duration::from_secs(5),
            total_timeout: Duration::from_secs(30),
            body_max_bytes: 64 * 1024 * 1024,
            max_calls: 16,
            credentials: Credentials::None,
            tls: TlsFiles::default(),
        }
    }
}
