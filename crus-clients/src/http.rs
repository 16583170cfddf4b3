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

mod config;
mod files;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod issuer;
mod secret;
mod tls;
mod token;

use std::error::Error as _;
use std::sync::Arc;
use std::time::Instant;
use std::{fmt, io};

use crus_core::ports::{Peer, PortError};
use reqwest::header::AUTHORIZATION;
use reqwest::{Method, Request, RequestBuilder, Response, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;

pub use self::config::{BaseUrl, ConfigError, PeerConfig};
pub use self::issuer::{ClientAuth, IssuerConfig, TokenIssuer};
pub use self::secret::Secret;
pub use self::tls::{HttpClient, HttpSettings, IdentityFiles, TlsFiles};
pub use self::token::Credentials;
use self::token::Tokens;
use crate::places::Places;

/// An error's text is cut here: it ends up in messages that people read.
const DETAIL_MAX_CHARS: usize = 240;
/// Problems are small; what is beyond this is some page of a gateway.
const PROBLEM_MAX_BYTES: usize = 64 * 1024;

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
    client: Arc<HttpClient>,
    places: Places,
    tokens: Tokens,
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http").field("peer", &self.peer).field("config", &self.config).finish()
    }
}

impl Http {
    pub(crate) fn new(peer: Peer, config: PeerConfig) -> Result<Self, ConfigError> {
        let PeerConfig { connect_timeout, total_timeout, .. } = config;
        let tokens = Tokens::new(config.credentials.clone(), total_timeout)?;
        let settings = HttpSettings { connect_timeout, total_timeout, is_tls: config.base.is_https() };
        let client = HttpClient::new(config.tls.clone(), settings)?;
        let places = Places::new(config.max_calls);
        Ok(Http { peer, config, client, places, tokens })
    }

    /// A request for the resource at these segments below the base URL. Each is percent-encoded. One that would mean
    /// another resource (empty, `.` or `..`) makes a request that is not sent; the types of names see to that before.
    pub(crate) fn request(&self, method: Method, segments: &[&str]) -> RequestBuilder {
        let client = self.client.in_use();
        if segments.iter().any(|segment| matches!(*segment, "" | "." | "..")) {
            // No URL: it cannot be built.
            return client.request(method, "");
        }
        let mut url = self.config.base.0.clone();
        // Fails only for URLs that are no base, and http ones always are.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        client.request(method, url)
    }

    /// Sends a request. What comes back is an answer with a code of 2xx, or one of 4xx that is about what was asked
    /// for rather than about who asked.
    pub(crate) async fn send(&self, access: Access, request: RequestBuilder) -> Result<Reply, PortError> {
        let place = self.places.take(self.config.total_timeout).await;
        let _place = place.map_err(|error| self.unreachable(error.to_string()))?;
        let request = request.build().map_err(|_| PortError::Refused {
            peer: self.peer,
            detail: "no request can be made of this name".to_owned(),
        })?;
        let again = request.try_clone();
        let token = self.tokens.current().await.map_err(|detail| self.unreachable(detail))?;
        let mut reply = self.attempt(access, request, token.as_ref()).await?;
        // Who is not known has done nothing. Once more, then, if there is another token: the one may have expired.
        if reply.status == StatusCode::UNAUTHORIZED
            && let (Some(refused), Some(again)) = (&token, again)
            && let Some(other) = self.tokens.instead_of(refused).await
        {
            tracing::debug!(peer = %self.peer, "it did not take our token, and is asked again with another");
            reply = self.attempt(access, again, Some(&other)).await?;
        }
        let is_about_us = matches!(reply.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
        match reply.status.is_success() || (reply.status.is_client_error() && !is_about_us) {
            true => Ok(reply),
            false => Err(reply.unexpected()),
        }
    }

    /// Sends a request once, and reads the answer, whatever it is.
    async fn attempt(
        &self,
        access: Access,
        mut request: Request,
        token: Option<&Secret>,
    ) -> Result<Reply, PortError> {
        if let Some(token) = token {
            let header = token.bearer().ok_or_else(|| self.unreachable(ConfigError::Token.to_string()))?;
            request.headers_mut().insert(AUTHORIZATION, header);
        }
        let client = self.client.current().await;
        let begun = Instant::now();
        let mut response = client.execute(request).await.map_err(|error| self.failed(access, &error))?;
        let status = response.status();
        let (path, ms) = (response.url().path(), begun.elapsed().as_millis());
        tracing::debug!(peer = %self.peer, ?access, path, status = status.as_u16(), ms, "answered");
        let without_token = |body| match token {
            Some(token) => token.hidden_in_body(body),
            None => body,
        };
        if status.is_success() {
            let body = self.body(&mut response).await.map_err(|detail| self.lost(access, detail))?;
            return Ok(Reply { peer: self.peer, access, status, body: without_token(body), detail: None });
        }
        // The code alone says what happened: a body that cannot be read to its end takes nothing from that.
        let body = read_up_to(&mut response, PROBLEM_MAX_BYTES).await.unwrap_or_default();
        // Before and after it is decoded: JSON may spell a token in other ways.
        let detail = problem(&without_token(body)).map(|detail| match token {
            Some(token) => clean(&token.hidden_in(&detail)),
            None => clean(&detail),
        });
        Ok(Reply { peer: self.peer, access, status, body: Vec::new(), detail })
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
            // With TLS 1.3 a peer that does not want our certificate says so after the handshake was done for us. It has
            // read no request then.
            return match tls_advice(&innermost(error)) {
                Some(why) if !error.is_timeout() => self
                    .unreachable(clean(&format!("failed to connect to {}: {why}", self.config.base.host()))),
                _ => self.lost(access, self.broken(error)),
            };
        }
        let why = if error.is_timeout() {
            format!("no connection within {:?}", self.config.connect_timeout)
        } else if error.is_dns() {
            "the host's name is not known".to_owned()
        } else {
            let why = innermost(error);
            tls_advice(&why).unwrap_or(why)
        };
        self.unreachable(clean(&format!("failed to connect to {}: {why}", self.config.base.host())))
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
            // Where, and not what: the parser's words repeat what it found.
            let (kind, line, column) = (error.classify(), error.line(), error.column());
            tracing::debug!(peer = %self.peer, ?kind, line, column, "an answer could not be decoded");
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

/// What an RFC 7807 problem says, or a text alone.
fn problem(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Problem {
        detail: Option<String>,
        title: Option<String>,
    }
    let said = |text: &String| !text.trim().is_empty();
    // BOS v1 says some things in a bare JSON string.
    if let Ok(text) = serde_json::from_slice::<String>(body) {
        return Some(text).filter(said);
    }
    let problem: Problem = serde_json::from_slice(body).ok()?;
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

/// What to look at when a handshake failed, for those failures that certificates are to blame for.
fn tls_advice(why: &str) -> Option<String> {
    let advice = if why.starts_with("invalid peer certificate: ") {
        match why.trim_start_matches("invalid peer certificate: ") {
            what if what.starts_with("UnknownIssuer") || what.starts_with("BadSignature") => {
                "its certificate is of no CA that we trust; check the file of CA certificates"
            }
            what if what.starts_with("NotValidForName")
                || what.starts_with("certificate not valid for name") =>
            {
                "its certificate is that of another host; check the URL"
            }
            what if what.starts_with("Expired") || what.starts_with("certificate expired") => {
                "its certificate has expired; renew it there, or check the clock here"
            }
            _ => "check its certificate, and the file of CA certificates",
        }
    } else if let Some(alert) = why.strip_prefix("received fatal alert: ") {
        match alert {
            "CertificateRequired" => "it asks for a certificate of ours, and none is configured",
            "BadCertificate"
            | "UnsupportedCertificate"
            | "CertificateRevoked"
            | "CertificateExpired"
            | "CertificateUnknown"
            | "UnknownCA"
            | "UnknownCa"
            | "AccessDenied"
            | "DecryptError" => {
                "it does not take our certificate; check whether it has expired, and whether the peer trusts its CA"
            }
            _ => return None,
        }
    } else {
        return None;
    };
    Some(format!("{why}: {advice}"))
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
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pem");
        let tls = |ca_file, identity| TlsFiles { ca_file, identity, ..TlsFiles::default() };
        let refused = |tls| Http::new(Peer::Hsm, PeerConfig { tls, ..base.clone() }).unwrap_err();
        let identity = IdentityFiles { cert_file: file.clone(), key_file: file.clone() };
        for pem in ["", "garbage", "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n"] {
            std::fs::write(&file, pem).unwrap();
            assert!(matches!(refused(tls(Some(file.clone()), None)), ConfigError::Ca { .. }), "{pem}");
            assert!(
                matches!(refused(tls(None, Some(identity.clone()))), ConfigError::Identity { .. }),
                "{pem}"
            );
        }
        std::fs::remove_file(&file).unwrap();
        let told = refused(tls(Some(file), None)).to_string();
        assert!(told.ends_with("/pem: entity not found"), "{told}");
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

    #[test]
    fn a_segment_that_would_mean_another_resource_makes_no_request() {
        let http = Http::new(Peer::Hsm, config("http://h/hsm/v2")).unwrap();
        for odd in ["", ".", ".."] {
            assert!(http.request(Method::DELETE, &["groups", odd, "members"]).build().is_err(), "{odd:?}");
        }
        for even in ["...", "%2e%2e", "..%2f"] {
            let request = http.request(Method::GET, &["groups", even]).build().unwrap();
            assert!(request.url().path().starts_with("/hsm/v2/groups/"), "{}", request.url());
        }
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
