//! Who may use the service: bearer tokens, and what is noted of those who did.
//!
//! A token is good when it is in the file of tokens ([`tokens`]), or a JWT of the site's issuer ([`jwt`], with the keys of
//! [`jwks`]). What it may do is a role of `crus-api`; that also says which request needs which. What was changed, and what was
//! refused, goes to the audit log ([`audit`]).
//!
//! # Guarantees
//!
//! - No token is in a log, an error or an answer, nor is any part of one. What is kept of it in memory is its SHA-256; the
//!   token itself only as long as its request takes, or its client follows a session.
//! - A request waits for an issuer only when its token names a key that is not known, never longer than the time-out of
//!   one fetch, and whatever is sent, the issuer is asked no more often than configured.
//! - Nothing that the issuer does or fails to do stops upgrades, and none of it ends the service.

pub mod audit;
mod claims;
pub(crate) mod command;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
pub mod jwks;
pub mod jwt;
pub mod tokens;

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use async_trait::async_trait;
use aws_lc_rs::digest;
use crus_api::access::{Access, Caller, Open, Refused};
use hyper::http::HeaderValue;
use tracing::warn;

use crate::config::Misconfigured;
use audit::AuditLog;
use jwks::Jwks;
use jwt::{Algorithm, ClaimPath};
use tokens::TokenFile;

/// The longest token, in bytes: those of an issuer that lists every group of a user take a few thousand.
/// The head of a request, which holds it, may have 16384 unless configured otherwise.
const TOKEN_MAX: usize = 12 * 1024;

/// Whether callers are asked who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AuthMode {
    /// They are, and must have a role.
    #[default]
    On,
    /// Whoever reaches the service may do everything.
    Off,
    /// The same, and nobody needs to be warned: what can be reached is a simulated cluster, from this machine alone.
    Demo,
}

impl FromStr for AuthMode {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "on" => Ok(AuthMode::On),
            "off" => Ok(AuthMode::Off),
            _ => Err(()),
        }
    }
}

/// Whom a JWT must be for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Audience {
    /// It was not said.
    #[default]
    Unset,
    /// Whoever: the tokens of this site name none.
    Any,
    /// One of these.
    OneOf(Vec<String>),
}

/// Where the keys of an issuer are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JwksPlace {
    /// At this URL, without a user and a password.
    Url(reqwest::Url),
    /// In this file.
    File(PathBuf),
}

/// Who may use the service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthOptions {
    /// Whether callers are asked at all.
    pub mode: AuthMode,
    /// The file with the hashes of tokens.
    pub token_file: Option<PathBuf>,
    /// Where the keys are by which JWTs are signed.
    pub jwks: Option<JwksPlace>,
    /// Whether they may be fetched by `http` from elsewhere than this machine.
    pub jwks_http_anywhere: bool,
    /// The file with the certificates of the authorities to trust for that, instead of the system's own.
    pub jwks_ca_file: Option<PathBuf>,
    /// How often the keys are fetched anew, in milliseconds.
    pub jwks_refresh_ms: u64,
    /// The shortest time between two fetches, however many tokens name a key that is not known, in milliseconds.
    pub jwks_pause_ms: u64,
    /// How long one fetch may take, in milliseconds.
    pub jwks_timeout_ms: u64,
    /// Who must have issued a JWT.
    pub issuer: Option<String>,
    /// Whom it must be for.
    pub audience: Audience,
    /// How it may be signed.
    pub algorithms: Vec<Algorithm>,
    /// By how much clocks may differ, in seconds.
    pub leeway_s: u64,
    /// The claim with the roles of a caller.
    pub role_claim: ClaimPath,
    /// Who has one of these may read.
    pub read_roles: Vec<String>,
    /// Who has one of these may change sessions, and read.
    pub operate_roles: Vec<String>,
    /// The claim with the name of a caller; `sub` when a token does not have it.
    pub name_claim: ClaimPath,
    /// The file that the audit log is appended to.
    pub audit_file: Option<PathBuf>,
}

impl Default for AuthOptions {
    fn default() -> Self {
        AuthOptions {
            mode: AuthMode::On,
            token_file: None,
            jwks: None,
            jwks_http_anywhere: false,
            jwks_ca_file: None,
            jwks_refresh_ms: 300_000,
            jwks_pause_ms: 10_000,
            jwks_timeout_ms: 5_000,
            issuer: None,
            audience: Audience::Unset,
            algorithms: Algorithm::ALL.to_vec(),
            leeway_s: 60,
            role_claim: ClaimPath::dotted(&["realm_access", "roles"]),
            read_roles: vec!["crus-read".to_owned()],
            operate_roles: vec!["crus-operate".to_owned()],
            name_claim: ClaimPath::dotted(&["preferred_username"]),
            audit_file: None,
        }
    }
}

/// Who asks callers, and who notes what they did.
pub struct Auth {
    /// Tells who a caller is.
    pub access: Arc<dyn Access>,
    /// Notes what changes something, and what was refused.
    pub audit: Arc<AuditLog>,
}

impl Auth {
    /// Reads what is configured, and keeps it up to date as long as the result lives. An issuer that is away is no error.
    ///
    /// # Errors
    /// When options are missing or do not go together, or a file cannot be read.
    pub async fn start(options: &AuthOptions) -> anyhow::Result<Self> {
        let access: Arc<dyn Access> = match options.mode {
            AuthMode::Demo => Arc::new(Open),
            AuthMode::Off => {
                warn!(
                    "authentication is off (auth): whoever reaches this service can reboot nodes, and nobody can tell who \
                     did. Let only a gateway reach it that asks callers who they are, or set auth_token_file or \
                     auth_jwks, and auth to on"
                );
                Arc::new(Open)
            }
            AuthMode::On => Arc::new(Bearers::start(options).await?),
        };
        Ok(Auth { access, audit: Arc::new(AuditLog::start(options.audit_file.as_deref())?) })
    }
}

/// Asks callers for a bearer token.
#[derive(Debug)]
struct Bearers {
    tokens: Option<TokenFile>,
    jwks: Option<Jwks>,
}

impl Bearers {
    async fn start(options: &AuthOptions) -> anyhow::Result<Self> {
        if options.token_file.is_none() && options.jwks.is_none() {
            return Err(Misconfigured::error(
                "nobody could use the service: auth is on, and nothing says which tokens are good. Make a token with `crus \
                 token new --name NAME --role operate` and name the file with its hash by auth_token_file, or name the keys of \
                 your site's issuer by auth_jwks. With auth = \"off\" whoever reaches the service may do everything",
            ));
        }
        let tokens = options.token_file.as_deref().map(TokenFile::start).transpose()?;
        let jwks = match &options.jwks {
            Some(place) => Some(Jwks::start(place, jwt::Policy::of(options)?, options).await?),
            None => None,
        };
        Ok(Bearers { tokens, jwks })
    }
}

#[async_trait]
impl Access for Bearers {
    async fn caller(&self, authorization: Option<&HeaderValue>) -> Result<Option<Arc<Caller>>, Refused> {
        let token = bearer(authorization)?;
        let hash = TokenHash::of(token.as_bytes());
        if let Some(tokens) = &self.tokens {
            match tokens.caller(&hash) {
                Ok(Some(caller)) => return Ok(Some(caller)),
                Ok(None) => {}
                Err(flaw) => return Err(Refused::BadToken(flaw)),
            }
        }
        match &self.jwks {
            Some(jwks) => jwks.caller(token, &hash).await.map(Some),
            None => Err(Refused::BadToken("is not known")),
        }
    }
}

/// The token of a header `Authorization: Bearer TOKEN` (RFC 6750, section 2.1).
fn bearer(authorization: Option<&HeaderValue>) -> Result<&str, Refused> {
    const UNREADABLE: Refused = Refused::BadToken("is not written as a bearer token");
    let Some(sent) = authorization else { return Err(Refused::NoToken) };
    let Some((scheme, token)) = split_scheme(sent.as_bytes()) else { return Err(Refused::NoToken) };
    if !scheme.eq_ignore_ascii_case(b"bearer") {
        return Err(Refused::NoToken);
    }
    if token.len() > TOKEN_MAX {
        return Err(Refused::BadToken("is too long"));
    }
    let body = token.trim_ascii_end();
    let plain = body.strip_suffix(b"==").or_else(|| body.strip_suffix(b"=")).unwrap_or(body);
    let is_token68 = |b: &u8| b.is_ascii_alphanumeric() || b"-._~+/".contains(b);
    if plain.is_empty() || !plain.iter().all(is_token68) {
        return Err(UNREADABLE);
    }
    std::str::from_utf8(body).map_err(|_| UNREADABLE)
}

fn split_scheme(sent: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = sent.iter().position(|b| *b == b' ')?;
    let (scheme, rest) = sent.split_at_checked(at)?;
    Some((scheme, rest.trim_ascii_start()))
}

/// What is kept of a token: its SHA-256.
///
/// A password is hashed slowly, for it can be guessed. A token has 256 random bits, or an issuer's signature: nobody guesses
/// one, however fast a guess is, and every request needs a hash.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct TokenHash([u8; 32]);

impl TokenHash {
    fn of(token: &[u8]) -> Self {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest::digest(&digest::SHA256, token).as_ref());
        TokenHash(hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<&'static str, Refused> {
        let header = Box::leak(Box::new(HeaderValue::from_bytes(text.as_bytes()).unwrap()));
        bearer(Some(header))
    }

    #[test]
    fn a_token_is_found_behind_its_scheme() {
        assert_eq!(read("Bearer abc"), Ok("abc"));
        assert_eq!(read("bearer   a.b-c_~+/d=="), Ok("a.b-c_~+/d=="));
        assert_eq!(bearer(None), Err(Refused::NoToken));
        for other in ["", "Bearer", "Basic YTpi", "abc", " Bearer abc", "Bearerabc x"] {
            assert_eq!(read(other), Err(Refused::NoToken), "{other:?}");
        }
        for bad in
            ["Bearer ", "Bearer a b", "Bearer a,b", "Bearer ä", "Bearer a===", "Bearer =", "Bearer \"a\""]
        {
            assert!(matches!(read(bad), Err(Refused::BadToken(_))), "{bad:?}");
        }
        let longest = format!("Bearer {}", "a".repeat(TOKEN_MAX));
        assert!(read(&longest).is_ok());
        assert_eq!(read(&(longest + "a")), Err(Refused::BadToken("is too long")));
    }
}
