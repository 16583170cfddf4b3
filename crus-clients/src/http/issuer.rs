//! Tokens that are fetched: OAuth 2.0 client credentials (RFC 6749, section 4.4), as the gateways of these systems want
//! them.
//!
//! # Guarantees
//!
//! - All callers share one token, and wait for one request together when there is none.
//! - A token is renewed before it expires, and no call waits for that. While the issuer is away, the old one is used as
//!   long as it is good.
//! - After a failure the issuer is left alone for a while, which doubles up to [`PAUSE_MAX`]; calls fail meanwhile, with
//!   what it said.
//! - Tokens that are refused make for a new one at most every [`REFUSAL_PACE`]: a peer that takes none does not become
//!   the issuer's trouble.
//! - Neither the client's secret nor a token is in any error.

#[cfg(feature = "fuzzing")]
pub(super) mod fuzzing;

use std::path::PathBuf;
use std::sync::{Arc, Mutex as StdMutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::AUTHORIZATION;
use reqwest::{Response, StatusCode};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Mutex;

use super::config::{BaseUrl, ConfigError};
use super::secret::Secret;
use super::tls::{HttpClient, HttpSettings, TlsFiles};
use super::{clean, innermost, read_up_to, tls_advice};

/// Tokens take a few KiB, errors less.
const ANSWER_MAX_BYTES: usize = 256 * 1024;
/// For how long a token is good whose issuer does not say so. That of Keycloak, unless it is told otherwise.
const LIFETIME_DEFAULT: Duration = Duration::from_secs(300);
/// No token is used for longer than this, whatever its issuer says.
const LIFETIME_MAX: Duration = Duration::from_secs(86_400);
/// A token is renewed this long before it expires, or for the last quarter of a shorter life.
const RENEWAL_MAX: Duration = Duration::from_secs(300);
/// A token is not used for this long before it expires, or the last tenth of a shorter life: it must still be good when
/// it arrives.
const LEEWAY_MAX: Duration = Duration::from_secs(10);
/// The pause after the first failure.
const PAUSE_FIRST: Duration = Duration::from_millis(500);
/// The longest pause after a failure.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How often a refused token is replaced at most.
const REFUSAL_PACE: Duration = Duration::from_secs(30);

/// What a form and the parts of a `Basic` header are encoded by. The marks that ids are made of stay, since some issuers
/// do not decode the header.
const FORM: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'*');

/// How we prove to the issuer that we are the client. Both are those of RFC 6749, section 2.3.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClientAuth {
    /// Id and secret go with the form.
    #[default]
    SecretPost,
    /// Id and secret go in a header.
    SecretBasic,
}

/// Where tokens come from, and for whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuerConfig {
    /// The token endpoint.
    pub url: BaseUrl,
    /// The client's id.
    pub client_id: String,
    /// The file with the client's secret, read for each token. Its content is a secret.
    pub client_secret_file: PathBuf,
    /// How they are sent.
    pub client_auth: ClientAuth,
    /// What the token shall be good for, as the issuer has it.
    pub scope: Option<String>,
    /// How long to wait for a connection.
    pub connect_timeout: Duration,
    /// How long a request may take altogether.
    pub total_timeout: Duration,
    /// Whom we trust, and the certificate that we show.
    pub tls: TlsFiles,
}

/// Fetches tokens and keeps the current one.
#[derive(Debug)]
pub struct TokenIssuer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: IssuerConfig,
    client: Arc<HttpClient>,
    held: StdMutex<Held>,
    /// Held by whoever fetches a token.
    fetching: Mutex<()>,
}

#[derive(Debug, Default)]
struct Held {
    issued: Option<Issued>,
    failure: Option<Failure>,
    /// A task renews the token.
    renewing: bool,
    /// When a token was last replaced since a peer did not take it.
    replaced: Option<Instant>,
}

#[derive(Debug)]
struct Issued {
    token: Secret,
    renew: Instant,
    end: Instant,
}

#[derive(Debug)]
struct Failure {
    why: String,
    pause: Duration,
    until: Instant,
}

impl Held {
    fn good(&self) -> Option<&Issued> {
        self.issued.as_ref().filter(|issued| Instant::now() < issued.end)
    }

    /// Why nothing is to be asked of the issuer now.
    fn pause(&self) -> Option<&Failure> {
        self.failure.as_ref().filter(|failure| Instant::now() < failure.until)
    }
}

impl TokenIssuer {
    /// An issuer that nothing is asked of yet.
    ///
    /// # Errors
    /// When the certificates cannot be used. A secret that is not there yet is no error: it is read when it is needed.
    pub fn new(config: IssuerConfig) -> Result<Self, ConfigError> {
        let IssuerConfig { connect_timeout, total_timeout, .. } = config;
        let settings = HttpSettings { connect_timeout, total_timeout, is_tls: config.url.is_https() };
        let client = HttpClient::new(config.tls.clone(), settings)?;
        let (held, fetching) = (StdMutex::default(), Mutex::default());
        Ok(TokenIssuer { shared: Arc::new(Shared { config, client, held, fetching }) })
    }

    /// The current token, or why there is none.
    pub(super) async fn token(&self) -> Result<Secret, String> {
        let shared = &self.shared;
        {
            let mut held = shared.held();
            if let Some(issued) = held.good() {
                let token = issued.token.clone();
                if Instant::now() >= issued.renew && !held.renewing && held.pause().is_none() {
                    held.renewing = true;
                    let shared = Arc::clone(shared);
                    tokio::spawn(async move { shared.renew().await });
                }
                return Ok(token);
            }
        }
        let _alone = shared.fetching.lock().await;
        {
            // Somebody else may have fetched one meanwhile, or found that there is none.
            let held = shared.held();
            if let Some(issued) = held.good() {
                return Ok(issued.token.clone());
            }
            if let Some(failure) = held.pause() {
                return Err(failure.why.clone());
            }
        }
        shared.fetch().await
    }

    /// Another token, since a peer did not take this one. Until there is one, the old one stays: the other peer may take
    /// it.
    pub(super) async fn instead_of(&self, refused: &Secret) -> Result<Secret, String> {
        let shared = &self.shared;
        let alone = shared.fetching.lock().await;
        let is_to_be_replaced = {
            let held = shared.held();
            let is_current = held.issued.as_ref().is_some_and(|issued| issued.token == *refused);
            let is_due = held.replaced.is_none_or(|replaced| replaced.elapsed() >= REFUSAL_PACE);
            is_current && is_due && held.pause().is_none()
        };
        if is_to_be_replaced {
            let token = shared.fetch().await?;
            // Only now: a call that is given up, or finds the issuer away, has replaced nothing.
            shared.held().replaced = Some(Instant::now());
            return Ok(token);
        }
        drop(alone);
        self.token().await
    }
}

impl Shared {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn renew(&self) {
        let _alone = self.fetching.lock().await;
        let fetched = self.fetch().await;
        self.held().renewing = false;
        if let Err(why) = fetched {
            tracing::warn!(%why, "the token could not be renewed; the old one is used while it is good");
        }
    }

    /// Fetches a token, and keeps what came of it. For one caller at a time.
    async fn fetch(&self) -> Result<Secret, String> {
        // The issuer counts from when it made the token, which is after this.
        let begun = Instant::now();
        let asked = tokio::time::timeout(self.config.total_timeout, self.ask()).await;
        let asked = asked
            .unwrap_or_else(|_| Err(format!("no complete answer within {:?}", self.config.total_timeout)));
        let mut held = self.held();
        match asked {
            Ok(Answer { token, lifetime }) => {
                if held.failure.take().is_some() {
                    tracing::info!(issuer = %self.config.url, "tokens are issued again");
                }
                let (renew, end) = (begun + renewed_after(lifetime), begun + used_for(lifetime));
                held.issued = Some(Issued { token: token.clone(), renew, end });
                tracing::debug!(issuer = %self.config.url, lifetime_s = lifetime.as_secs(), "a token was issued");
                Ok(token)
            }
            Err(why) => {
                let why = format!("failed to get a token from {}: {}", self.config.url, clean(&why));
                let pause =
                    held.failure.as_ref().map_or(PAUSE_FIRST, |failure| (failure.pause * 2).min(PAUSE_MAX));
                held.failure = Some(Failure { why: why.clone(), pause, until: Instant::now() + pause });
                Err(why)
            }
        }
    }

    /// Asks for a token; or says why there is none, without a secret.
    async fn ask(&self) -> Result<Answer, String> {
        let IssuerConfig { url, client_id, client_secret_file, client_auth, scope, .. } = &self.config;
        let secret = tokio::fs::read_to_string(client_secret_file).await.map_err(|error| {
            format!(
                "the client's secret in {} cannot be read: {}",
                client_secret_file.display(),
                error.kind()
            )
        })?;
        let secret = Secret::new(&secret);
        if secret.is_empty() {
            return Err(format!("the client's secret in {} is empty", client_secret_file.display()));
        }
        let encoded = |text: &str| utf8_percent_encode(text, FORM).to_string();
        let mut form = vec![("grant_type", "client_credentials")];
        form.extend(scope.as_deref().map(|scope| ("scope", scope)));
        let mut request = self.client.in_use().post(url.0.clone());
        request = match client_auth {
            ClientAuth::SecretPost => {
                form.extend([("client_id", client_id.as_str()), ("client_secret", secret.reveal())]);
                request
            }
            ClientAuth::SecretBasic => request.basic_auth(encoded(client_id), Some(encoded(secret.reveal()))),
        };
        let request = request.form(&form).header("accept", "application/json").build();
        let request = request.map_err(|error| self.no_answer(&error))?;
        let header = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        // Whoever refuses us may repeat what we sent.
        let forms = [
            secret.clone(),
            Secret::new(&encoded(secret.reveal())),
            Secret::new(&encoded(secret.reveal()).replace("%20", "+")),
            Secret::new(header.and_then(|value| value.strip_prefix("Basic ")).unwrap_or_default()),
        ];
        let answer = self.client.current().await.execute(request).await;
        let mut response = answer.map_err(|error| self.no_answer(&error))?;
        let status = response.status();
        let body = self.body(&mut response).await?;
        if status.is_success() {
            return Answer::of(&body);
        }
        let said = said(&body);
        let said = said.map(|said| forms.iter().fold(said, |said, form| form.hidden_in(&said).into_owned()));
        Err(refusal(status, said.as_deref()))
    }

    async fn body(&self, response: &mut Response) -> Result<Vec<u8>, String> {
        let body = read_up_to(response, ANSWER_MAX_BYTES).await.map_err(|error| self.no_answer(&error))?;
        match body.len() > ANSWER_MAX_BYTES {
            true => Err(format!("the answer is longer than {ANSWER_MAX_BYTES} bytes")),
            false => Ok(body),
        }
    }

    fn no_answer(&self, error: &reqwest::Error) -> String {
        let why = innermost(error);
        if error.is_timeout() && error.is_connect() {
            format!("no connection within {:?}", self.config.connect_timeout)
        } else if error.is_timeout() {
            format!("no complete answer within {:?}", self.config.total_timeout)
        } else if error.is_dns() {
            "the host's name is not known".to_owned()
        } else {
            tls_advice(&why).unwrap_or(why)
        }
    }
}

/// For how long a token is used before a new one is asked for.
fn renewed_after(lifetime: Duration) -> Duration {
    lifetime.saturating_sub((lifetime / 4).min(RENEWAL_MAX))
}

/// For how long a token is used.
fn used_for(lifetime: Duration) -> Duration {
    lifetime.saturating_sub((lifetime / 10).min(LEEWAY_MAX))
}

/// A token, and for how long it is good.
#[derive(Debug)]
struct Answer {
    token: Secret,
    lifetime: Duration,
}

impl Answer {
    fn of(body: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Wire {
            access_token: String,
            token_type: Option<String>,
            #[serde(default)]
            expires_in: Value,
        }
        // The parser's words would repeat parts of the answer, which may hold the token.
        let wire: Wire = serde_json::from_slice(body)
            .map_err(|_| "its answer holds no access_token; is it the URL of a token endpoint?".to_owned())?;
        let token = Secret::new(&wire.access_token);
        if token.is_empty() || token.bearer().is_none() {
            return Err("its access_token is empty, or holds characters that a header cannot".to_owned());
        }
        match wire.token_type {
            Some(kind) if !kind.eq_ignore_ascii_case("bearer") => {
                Err(format!("its token is of the type {}; it must be Bearer", clean(&kind)))
            }
            Some(_) | None => Ok(Answer { token, lifetime: lifetime(&wire.expires_in) }),
        }
    }
}

/// For how long a token is good: seconds, as a number or, with some issuers, a text.
fn lifetime(expires_in: &Value) -> Duration {
    let seconds = match expires_in {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    let said =
        seconds.filter(|seconds| *seconds > 0.0).map(|seconds| seconds.min(LIFETIME_MAX.as_secs_f64()));
    said.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).unwrap_or(LIFETIME_DEFAULT)
}

/// What an error of RFC 6749, section 5.2, says.
fn said(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Wire {
        error: String,
        error_description: Option<String>,
    }
    let wire: Wire = serde_json::from_slice(body).ok()?;
    Some(match wire.error_description {
        Some(description) => format!("{}: {description}", wire.error),
        None => wire.error,
    })
}

/// What is wrong, and what to look at.
fn refusal(status: StatusCode, said: Option<&str>) -> String {
    let code = said.map(|said| said.split(':').next().unwrap_or_default());
    let advice = match (code, status) {
        (Some("invalid_client" | "unauthorized_client"), _)
        | (_, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
            "check the client's id, its secret, how they are sent, and whether the client may use service accounts"
        }
        (Some("invalid_scope"), _) => "check the scope",
        (Some("unsupported_grant_type"), _) => "the client must be allowed the grant client_credentials",
        (_, StatusCode::NOT_FOUND) => "check the URL of the token endpoint",
        (_, status) if status.is_redirection() => "it points elsewhere; check the URL of the token endpoint",
        (_, status) if status.is_server_error() => "it is the issuer's trouble",
        _ => "check the URL of the token endpoint, the client's id and its secret",
    };
    // Cut before it is joined, so that the advice is seen.
    let said = said.map(|said| said.chars().take(SAID_MAX_CHARS).collect::<String>());
    match said {
        Some(said) => format!("{said} ({}); {advice}", status.as_u16()),
        None => format!("{status}; {advice}"),
    }
}

const SAID_MAX_CHARS: usize = 80;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_lifetime_is_seconds_and_bounded_whatever_is_said() {
        let default = LIFETIME_DEFAULT.as_secs();
        for (said, seconds) in [
            (json!(60), 60),
            (json!("3600"), 3600),
            (json!(1e300), 86_400),
            (json!(null), default),
            (json!(0), default),
            (json!(-5), default),
            (json!("soon"), default),
            (json!("NaN"), default),
            (json!([1]), default),
        ] {
            assert_eq!(lifetime(&said), Duration::from_secs(seconds), "{said}");
        }
    }

    proptest! {
        #[test]
        fn a_token_is_renewed_before_its_use_ends_and_that_before_it_expires(seconds in 0.001f64..1e9) {
            let lifetime = lifetime(&json!(seconds));
            prop_assert!(renewed_after(lifetime) < used_for(lifetime));
            prop_assert!(used_for(lifetime) < lifetime);
            prop_assert!(renewed_after(lifetime) >= lifetime / 2, "not all the time");
        }

        #[test]
        fn any_answer_is_taken_or_refused_in_one_line(body in any::<Vec<u8>>()) {
            if let Err(why) = Answer::of(&body) {
                prop_assert!(!why.contains('\n'));
            }
            said(&body);
        }
    }

    #[test]
    fn an_answer_that_is_no_token_says_so_and_repeats_nothing_of_it() {
        for (body, why) in [
            (json!({"access_token": ["hunter2"]}), "holds no access_token"),
            (json!("hunter2"), "holds no access_token"),
            (json!({"access_token": " "}), "is empty"),
            (json!({"access_token": "hunter2\n1"}), "characters that a header cannot"),
            (json!({"access_token": "hunter2", "token_type": "mac"}), "of the type mac; it must be Bearer"),
        ] {
            let told = Answer::of(body.to_string().as_bytes()).unwrap_err();
            assert!(told.contains(why) && !told.contains("hunter2"), "{told}");
        }
        let good = json!({"access_token": "hunter2", "token_type": "bearer", "expires_in": 60});
        let answer = Answer::of(good.to_string().as_bytes()).unwrap();
        assert_eq!((answer.token.reveal(), answer.lifetime.as_secs()), ("hunter2", 60));
        assert!(!format!("{answer:?}").contains("hunter2"));
    }

    #[test]
    fn a_refusal_says_what_to_look_at() {
        let told = |status: u16, body: Value| {
            let body = body.to_string();
            refusal(StatusCode::from_u16(status).unwrap(), said(body.as_bytes()).as_deref())
        };
        let wrong = json!({"error": "invalid_client", "error_description": "Invalid client or Invalid client credentials"});
        assert_eq!(
            told(401, wrong),
            "invalid_client: Invalid client or Invalid client credentials (401); check the client's id, its secret, how \
             they are sent, and whether the client may use service accounts"
        );
        assert_eq!(told(404, json!({})), "404 Not Found; check the URL of the token endpoint");
        assert!(told(400, json!({"error": "invalid_scope"})).ends_with("check the scope"));
        assert!(told(503, json!("x")).ends_with("it is the issuer's trouble"));
    }
}
