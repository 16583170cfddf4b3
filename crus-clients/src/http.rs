//! What the clients of HSM and BOS share: where the peer is, how long to wait for it, and what its answer means.
//!
//! # Guarantees
//!
//! - Every request ends within its time-outs, and no body is read beyond its limit. Before that it may wait as long
//!   again for a place among those under way.
//! - Redirects are not followed: a token must not travel to wherever an answer points.
//! - No error holds the token, even when the peer repeats it.
//!
//! # How answers are classed
//!
//! | | a read | a write |
//! |---|---|---|
//! | no connection (name, TCP, TLS) | unreachable | unreachable |
//! | time is up, the connection broke, the answer makes no sense | unreachable | may have acted |
//! | 5xx | unreachable | may have acted |
//! | 3xx | refused | may have acted |
//! | 4xx | refused | refused |
//!
//! Proxies of the environment are not used: both peers are in the system's own network.

#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;

use std::error::Error as _;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant, SystemTime};
use std::{fmt, io};

use crus_core::ports::{Peer, PortError};
use reqwest::header::{AUTHORIZATION, HeaderValue};
use reqwest::{Certificate, Client, Method, RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::Mutex;

use crate::places::Places;

/// An error's text is cut here: it ends up in messages that people read.
const DETAIL_MAX_CHARS: usize = 240;
/// Problems are small; what is beyond this is some page of a gateway.
const PROBLEM_MAX_BYTES: usize = 64 * 1024;
/// Shorter than any peer keeps an idle connection open, so that no request is sent into one that is closing.
const IDLE_CONNECTION: Duration = Duration::from_secs(1);

/// A text that is shown nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<str>);

impl Secret {
    /// Hides a text, without the white space around it.
    pub fn new(text: &str) -> Self {
        Secret(text.trim().into())
    }

    fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

const HIDDEN: &str = "[hidden]";

/// How we prove who we are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Credentials {
    /// Not at all.
    #[default]
    None,
    /// By a bearer token that does not change.
    Token(Secret),
    /// By a bearer token in a file, which is read again when it has changed.
    TokenFile(PathBuf),
}

/// Why a peer's settings cannot be used. Never repeats what may be a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The base URL is none.
    #[error("failed to read the base URL: {0}")]
    BaseUrl(String),
    /// The certificates are none.
    #[error("failed to read the CA certificates: {0}")]
    Ca(String),
    /// The token cannot be sent.
    #[error("failed to use the token: it holds characters that a header cannot")]
    Token,
    /// The HTTP client could not be made of it.
    #[error("failed to set up the HTTP client: {0}")]
    Client(String),
}

/// Where a service is, such as `http://cray-smd/hsm/v2` or `https://api-gw/apis/bos/v2`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseUrl(Url);

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
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// The only CAs to trust, as PEM; without, those of the operating system.
    pub ca_pem: Option<Vec<u8>>,
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
            ca_pem: None,
        }
    }
}

/// Whether a request may change anything at the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

/// A connection to one peer.
pub(crate) struct Http {
    peer: Peer,
    config: PeerConfig,
    client: Client,
    places: Places,
    /// The token of the file as it was last read.
    token: Mutex<Option<FileToken>>,
}

#[derive(Clone)]
struct FileToken {
    /// Changes with the file.
    version: (Option<SystemTime>, u64),
    token: Secret,
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http").field("peer", &self.peer).field("config", &self.config).finish()
    }
}

impl Http {
    pub(crate) fn new(peer: Peer, config: PeerConfig) -> Result<Self, ConfigError> {
        if let Credentials::Token(token) = &config.credentials {
            bearer(token).ok_or(ConfigError::Token)?;
        }
        let mut client = Client::builder()
            .connect_timeout(config.connect_timeout)
            .timeout(config.total_timeout)
            .redirect(reqwest::redirect::Policy::none())
            .pool_idle_timeout(IDLE_CONNECTION)
            .no_proxy();
        if let Some(pem) = &config.ca_pem {
            let certificates =
                Certificate::from_pem_bundle(pem).map_err(|error| ConfigError::Ca(innermost(&error)))?;
            if certificates.is_empty() {
                return Err(ConfigError::Ca("there is no PEM certificate in it".to_owned()));
            }
            client = client.tls_certs_only(certificates);
        } else if config.base.0.scheme() == "http" {
            // The system's CAs would be loaded for nothing, and must be there.
            client = client.tls_certs_only([]);
        }
        let client = client.build().map_err(|error| ConfigError::Client(innermost(&error)))?;
        let places = Places::new(config.max_calls);
        Ok(Http { peer, config, client, places, token: Mutex::new(None) })
    }

    /// A request for the resource at these segments below the base URL. Each is percent-encoded; none may be `.`
    /// or `..`, which the types of names see to.
    pub(crate) fn request(&self, method: Method, segments: &[&str]) -> RequestBuilder {
        let mut url = self.config.base.0.clone();
        // Fails only for URLs that are no base, and http ones always are.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        self.client.request(method, url)
    }

    /// Sends a request. What comes back is an answer with a code of 2xx, or one of 4xx that is about what was asked
    /// for rather than about who asked.
    pub(crate) async fn send(&self, access: Access, request: RequestBuilder) -> Result<Reply, PortError> {
        let place = self.places.take(self.config.total_timeout).await;
        let _place = place.map_err(|error| self.unreachable(error.to_string()))?;
        let token = self.current_token().await.map_err(|detail| self.unreachable(detail))?;
        let mut request = request;
        if let Some(token) = &token {
            let header = bearer(token).ok_or_else(|| self.unreachable(ConfigError::Token.to_string()))?;
            request = request.header(AUTHORIZATION, header);
        }
        let begun = Instant::now();
        let mut response = request.send().await.map_err(|error| self.failed(access, &error))?;
        let status = response.status();
        let (path, ms) = (response.url().path(), begun.elapsed().as_millis());
        tracing::debug!(peer = %self.peer, ?access, path, status = status.as_u16(), ms, "answered");
        if status.is_success() {
            let body = self.body(&mut response).await.map_err(|detail| self.lost(access, detail))?;
            return Ok(Reply { peer: self.peer, access, status, body, detail: None });
        }
        // The code alone says what happened: a body that cannot be read to its end takes nothing from that.
        let body = read_up_to(&mut response, PROBLEM_MAX_BYTES).await.unwrap_or_default();
        let detail = problem(&body).map(|detail| match &token {
            Some(token) if !token.reveal().is_empty() => detail.replace(token.reveal(), HIDDEN),
            _ => detail,
        });
        let reply = Reply { peer: self.peer, access, status, body, detail: detail.map(|text| clean(&text)) };
        if status.is_client_error() && !matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return Ok(reply);
        }
        if status == StatusCode::UNAUTHORIZED {
            // Whatever the file's date says: look again.
            *self.token.lock().await = None;
        }
        Err(reply.unexpected())
    }

    async fn current_token(&self) -> Result<Option<Secret>, String> {
        let path = match &self.config.credentials {
            Credentials::None => return Ok(None),
            Credentials::Token(token) => return Ok(Some(token.clone())),
            Credentials::TokenFile(path) => path,
        };
        let failed = |error: io::Error| format!("failed to read the token file: {}", error.kind());
        let reading = async {
            let metadata = tokio::fs::metadata(path).await.map_err(failed)?;
            let version = (metadata.modified().ok(), metadata.len());
            let mut known = self.token.lock().await;
            if let Some(known) = known.as_ref().filter(|known| known.version == version) {
                return Ok(known.token.clone());
            }
            let token = Secret::new(&tokio::fs::read_to_string(path).await.map_err(failed)?);
            if token.reveal().is_empty() {
                return Err("failed to read the token file: it is empty".to_owned());
            }
            *known = Some(FileToken { version, token: token.clone() });
            Ok(token)
        };
        match tokio::time::timeout(self.config.total_timeout, reading).await {
            Ok(token) => token.map(Some),
            Err(_) => Err("failed to read the token file in time".to_owned()),
        }
    }

    async fn body(&self, response: &mut Response) -> Result<Vec<u8>, String> {
        let limit = self.config.body_max_bytes;
        let body = read_up_to(response, limit).await.map_err(|error| self.broken(&error))?;
        if body.len() > limit {
            return Err(format!("the answer is longer than {limit} bytes"));
        }
        Ok(body)
    }

    fn failed(&self, access: Access, error: &reqwest::Error) -> PortError {
        if !error.is_connect() && !error.is_builder() {
            return self.lost(access, self.broken(error));
        }
        let why = if error.is_timeout() {
            format!("no connection within {:?}", self.config.connect_timeout)
        } else if error.is_dns() {
            "the host's name is not known".to_owned()
        } else {
            innermost(error)
        };
        let host = self.config.base.0.host_str().unwrap_or_default();
        self.unreachable(clean(&format!("failed to connect to {host}: {why}")))
    }

    fn broken(&self, error: &reqwest::Error) -> String {
        if error.is_timeout() {
            format!("no complete answer within {:?}", self.config.total_timeout)
        } else {
            "the connection broke before the answer was complete".to_owned()
        }
    }

    fn unreachable(&self, detail: String) -> PortError {
        PortError::Unreachable { peer: self.peer, detail }
    }

    fn lost(&self, access: Access, detail: String) -> PortError {
        lost(self.peer, access, detail)
    }
}

/// No usable answer came to a request that may have arrived.
fn lost(peer: Peer, access: Access, detail: String) -> PortError {
    match access {
        Access::Read => PortError::Unreachable { peer, detail },
        Access::Write => PortError::MayHaveActed { peer, detail },
    }
}

/// An answer.
pub(crate) struct Reply {
    peer: Peer,
    access: Access,
    status: StatusCode,
    body: Vec<u8>,
    /// What went wrong, in the peer's words.
    detail: Option<String>,
}

impl Reply {
    pub(crate) fn status(&self) -> u16 {
        self.status.as_u16()
    }

    /// What went wrong, in the peer's words: empty when it says nothing that we understand.
    pub(crate) fn detail(&self) -> &str {
        self.detail.as_deref().unwrap_or_default()
    }

    /// Whether this is that code, and the peer's words hold these, whatever their case.
    pub(crate) fn says(&self, status: u16, words: &str) -> bool {
        self.status() == status
            && self.detail().to_ascii_lowercase().contains(words.to_ascii_lowercase().as_str())
    }

    /// The body of a good answer.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T, PortError> {
        if !self.status.is_success() {
            return Err(self.unexpected());
        }
        // What exactly is wrong with it may differ each time; that it is wrong does not.
        serde_json::from_slice(&self.body).map_err(|error| {
            tracing::debug!(peer = %self.peer, %error, "an answer could not be decoded");
            self.unusable("the answer is not what was expected; is the base URL right?")
        })
    }

    /// That the request was carried out: a good answer by the service itself, not by something in front of it.
    pub(crate) fn done(&self) -> Result<(), PortError> {
        if self.status == StatusCode::NO_CONTENT {
            return Ok(());
        }
        self.json::<serde_json::Value>().map(drop)
    }

    /// A good code with a content of no use.
    pub(crate) fn unusable(&self, detail: &str) -> PortError {
        lost(self.peer, self.access, detail.to_owned())
    }

    /// The error that this answer is, when the caller has no other use for it.
    pub(crate) fn unexpected(&self) -> PortError {
        let (peer, status) = (self.peer, self.status);
        let detail = match (status, &self.detail) {
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => format!("bad credentials ({status})"),
            (StatusCode::NOT_FOUND, None) => format!("{status}: the base URL may be wrong"),
            (StatusCode::NOT_FOUND, Some(detail)) => format!("{detail} (404: the base URL may be wrong)"),
            (_, Some(detail)) => format!("{detail} ({})", status.as_u16()),
            (_, None) if status.is_redirection() => {
                format!("{status}: it points elsewhere; the base URL may be wrong")
            }
            (_, None) => status.to_string(),
        };
        if status.is_client_error() || (status.is_redirection() && self.access == Access::Read) {
            return PortError::Refused { peer, detail };
        }
        lost(peer, self.access, detail)
    }
}

/// Reads a body until it ends or is longer than the limit.
async fn read_up_to(response: &mut Response, limit: usize) -> Result<Vec<u8>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        body.extend_from_slice(&chunk);
        if body.len() > limit {
            break;
        }
    }
    Ok(body)
}

fn bearer(token: &Secret) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {}", token.reveal())).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// What an RFC 7807 problem says.
fn problem(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Problem {
        detail: Option<String>,
        title: Option<String>,
    }
    let problem: Problem = serde_json::from_slice(body).ok()?;
    let said = |text: &String| !text.trim().is_empty();
    problem.detail.filter(said).or(problem.title.filter(said))
}

/// One short line, whatever the peer sent.
pub(crate) fn clean(text: &str) -> String {
    let spaced: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let mut line = spaced.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((end, _)) = line.char_indices().nth(DETAIL_MAX_CHARS) {
        line.truncate(end);
        line.push('…');
    }
    line
}

/// Why, at the bottom of it: the same words each time the same thing goes wrong.
fn innermost(error: &reqwest::Error) -> String {
    let mut source = error.source();
    let mut text = "no reason given".to_owned();
    while let Some(cause) = source {
        text = match cause.downcast_ref::<io::Error>() {
            Some(io) if io.raw_os_error().is_some() => return io.kind().to_string(),
            _ => cause.to_string(),
        };
        source = cause.source();
    }
    // TLS names the kind first, then moments and certificates.
    clean(&text.split(": ").take(2).collect::<Vec<_>>().join(": "))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn config(base: &str) -> PeerConfig {
        PeerConfig::new(base.parse().unwrap())
    }

    #[test]
    fn a_base_url_is_checked_and_its_password_not_repeated() {
        for good in ["http://h/hsm/v2", "https://api-gw/apis/smd/hsm/v2/", "http://127.0.0.1:1"] {
            assert!(good.parse::<BaseUrl>().is_ok(), "{good}");
        }
        for bad in
            ["", "h/v2", "ftp://h", "unix:/x", "http://u:hunter2@h/", "http://h/?a=hunter2", "http://h/#x"]
        {
            let error = bad.parse::<BaseUrl>().unwrap_err();
            assert!(error.to_string().starts_with("failed to read the base URL: "), "{bad}: {error}");
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_secret_shows_nothing() {
        let secret = Secret::new(" hunter2\n");
        assert_eq!(secret.reveal(), "hunter2");
        let config = PeerConfig { credentials: Credentials::Token(secret.clone()), ..config("http://h") };
        let http = Http::new(Peer::Hsm, config.clone()).unwrap();
        let shown = format!("{secret} {secret:?} {config:?} {http:?}");
        assert!(!shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn what_cannot_work_is_refused_before_the_first_request() {
        let base = config("https://h");
        let bad_token = Credentials::Token(Secret::new("a\nb"));
        let config = PeerConfig { credentials: bad_token, ..base.clone() };
        assert_eq!(Http::new(Peer::Hsm, config).unwrap_err(), ConfigError::Token);
        for pem in ["", "garbage", "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n"] {
            let config = PeerConfig { ca_pem: Some(pem.into()), ..base.clone() };
            assert!(Http::new(Peer::Hsm, config).is_err(), "{pem}");
        }
    }

    #[test]
    fn segments_are_encoded_below_the_base() {
        let url = |base: &str| {
            let http = Http::new(Peer::Hsm, config(base)).unwrap();
            let request = http.request(Method::GET, &["groups", "a:b/c?d e"]).build().unwrap();
            request.url().to_string()
        };
        assert_eq!(url("http://h/hsm/v2"), "http://h/hsm/v2/groups/a:b%2Fc%3Fd%20e");
        assert_eq!(url("http://h/hsm/v2/"), "http://h/hsm/v2/groups/a:b%2Fc%3Fd%20e");
        assert_eq!(url("http://h"), "http://h/groups/a:b%2Fc%3Fd%20e");
    }

    proptest! {
        #[test]
        fn whatever_is_said_becomes_one_short_line(text in any::<String>(), times in 1usize..100) {
            let line = clean(&text.repeat(times));
            prop_assert!(line.chars().count() <= DETAIL_MAX_CHARS + 1);
            prop_assert!(!line.chars().any(char::is_control));
        }

        #[test]
        fn a_problem_is_read_out_of_anything(body in any::<Vec<u8>>()) {
            prop_assert!(problem(&body).is_none_or(|text| !text.trim().is_empty()));
        }
    }
}
