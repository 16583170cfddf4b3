//! Webhooks: who wants to be told what happens in sessions is told by a signed request, in order.
//!
//! Each entry of a session's history that belongs to a class that is asked for is posted as JSON, as
//! `GET /session/{id}/events` shows it and with the session's `upgrade_id`. Headers and signature are those of the
//! [Standard Webhooks] specification, so that receivers can use its libraries:
//!
//! | header | |
//! |---|---|
//! | `webhook-id` | the session's id and the entry's number, `-` between: the same for every attempt |
//! | `webhook-timestamp` | when this attempt was made, in seconds since 1970 |
//! | `webhook-signature` | `v1,` and the HMAC-SHA256 of `ID.TIMESTAMP.BODY`, as Base64 |
//! | `crus-event` | the class |
//!
//! # Guarantees
//!
//! - At least once, across restarts and takeovers: what was delivered is noted in the store once a receiver has taken it.
//!   One that sees a `webhook-id` again has seen the entry before.
//! - In order within a session. An entry that is not taken holds up those after it, and nothing else. One that the receiver
//!   itself refuses again and again is given up, so that it does not hold them up for ever; the log tells which.
//! - No upgrade waits for a receiver. A session that is to be deleted waits one time-out at most.
//!
//! # Caveats
//!
//! - A receiver that is away for longer than a history or a session is kept misses what was dropped by then, and of a
//!   session that was deleted meanwhile everything since.
//!
//! [Standard Webhooks]: https://www.standardwebhooks.com

mod courier;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use crus_clients::http::{HttpClient, HttpSettings, TlsFiles};
use crus_core::UpgradeId;
use crus_core::history::{Entry, Happening};
use reqwest::header::{CONTENT_TYPE, HeaderName};
use reqwest::{StatusCode, Url};
use serde_json::json;
use tokio::sync::Semaphore;

use crate::config::Misconfigured;

pub(crate) use courier::{Courier, Start};

/// How many requests are under way at a time: one for each of so many sessions.
const AT_A_TIME: usize = 8;

/// How a secret begins that is Base64, as the specification has it. Any other is taken as it is.
const BASE64_PREFIX: &str = "whsec_";

const ID: HeaderName = HeaderName::from_static("webhook-id");
const TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
const EVENT: HeaderName = HeaderName::from_static("crus-event");

/// What a receiver may want to be told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// A session began to work.
    Started,
    /// It starts no other step.
    Paused,
    /// A step ended.
    StepDone,
    /// Nodes failed, or were skipped.
    NodeFailed,
    /// A session is done.
    Finished,
    /// A paused session goes on.
    Resumed,
    /// Failed nodes are taken again, on an operator's order.
    Retried,
    /// A session's deletion was ordered.
    Deleted,
}

impl Class {
    /// All of them.
    pub const ALL: [Class; 8] = [
        Class::Started,
        Class::Paused,
        Class::Resumed,
        Class::Retried,
        Class::StepDone,
        Class::NodeFailed,
        Class::Finished,
        Class::Deleted,
    ];

    /// Its name, as in the configuration and in the header `crus-event`.
    pub fn name(self) -> &'static str {
        match self {
            Class::Started => "started",
            Class::Paused => "paused",
            Class::StepDone => "step_done",
            Class::NodeFailed => "node_failed",
            Class::Finished => "finished",
            Class::Resumed => "resumed",
            Class::Retried => "retried",
            Class::Deleted => "deleted",
        }
    }

    /// The class that an entry belongs to, if any.
    pub fn of(entry: &Entry) -> Option<Class> {
        match &entry.what {
            Happening::Started { .. } => Some(Class::Started),
            Happening::Paused { .. } => Some(Class::Paused),
            Happening::StepDone { .. } => Some(Class::StepDone),
            Happening::Nodes { failure: Some(_), .. } => Some(Class::NodeFailed),
            Happening::Finished { .. } => Some(Class::Finished),
            Happening::Resumed { .. } => Some(Class::Resumed),
            Happening::Retried { .. } => Some(Class::Retried),
            Happening::DeletionOrdered { .. } => Some(Class::Deleted),
            Happening::Nodes { failure: None, .. } | Happening::Stage { .. } | Happening::Message { .. } => {
                None
            }
        }
    }
}

impl FromStr for Class {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        Class::ALL.into_iter().find(|class| class.name() == name).ok_or(())
    }
}

/// Where to tell what, as it is configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookOptions {
    /// Where; `None`: nobody is told.
    pub url: Option<HookUrl>,
    /// The file with the secret to sign by.
    pub secret_file: Option<PathBuf>,
    /// The file with the certificates of the authorities to trust, instead of the system's own.
    pub ca_file: Option<PathBuf>,
    /// What.
    pub events: BTreeSet<Class>,
    /// How long one attempt may take, in milliseconds.
    pub timeout_ms: u64,
    /// The longest pause between two attempts, in milliseconds.
    pub retry_max_ms: u64,
}

impl Default for WebhookOptions {
    fn default() -> Self {
        WebhookOptions {
            url: None,
            secret_file: None,
            ca_file: None,
            events: Class::ALL.into(),
            timeout_ms: 10_000,
            retry_max_ms: 60_000,
        }
    }
}

/// A URL that is shown without what may be a secret in it: its path and query.
#[derive(Clone, PartialEq, Eq)]
pub struct HookUrl(Url);

impl FromStr for HookUrl {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let url = Url::parse(text).map_err(|_| ())?;
        let is_right = matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && url.username().is_empty()
            && url.password().is_none()
            && url.fragment().is_none();
        is_right.then_some(HookUrl(url)).ok_or(())
    }
}

impl fmt::Display for HookUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.origin().ascii_serialization())
    }
}

impl fmt::Debug for HookUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A receiver.
pub struct Webhook {
    client: Arc<HttpClient>,
    url: HookUrl,
    secret_file: PathBuf,
    events: BTreeSet<Class>,
    timeout: Duration,
    retry_max: Duration,
    places: Semaphore,
}

impl Webhook {
    /// The receiver that is configured, if one is.
    ///
    /// # Errors
    /// When options do not go together, or a file cannot be read.
    pub fn new(options: &WebhookOptions) -> anyhow::Result<Option<Self>> {
        let (url, secret_file) = match (&options.url, &options.secret_file) {
            (None, None) => return Ok(None),
            (Some(url), Some(secret_file)) => (url.clone(), secret_file.clone()),
            _ => {
                let why = "webhook_url and webhook_secret_file go together: set both, or none";
                return Err(Misconfigured::error(why));
            }
        };
        secret(&secret_file).with_context(|| {
            format!("failed to read {} (set by webhook_secret_file)", secret_file.display())
        })?;
        let timeout = Duration::from_millis(options.timeout_ms);
        let is_tls = url.0.scheme() == "https";
        let settings = HttpSettings { connect_timeout: timeout, total_timeout: timeout, is_tls };
        let files = TlsFiles { ca_file: options.ca_file.clone(), ..TlsFiles::default() };
        let client = HttpClient::new(files, settings).context(match options.ca_file {
            Some(_) => "failed to use webhook_ca_file",
            None => "failed to set up the client of the webhook",
        })?;
        Ok(Some(Webhook {
            client,
            url,
            secret_file,
            events: options.events.clone(),
            timeout,
            retry_max: Duration::from_millis(options.retry_max_ms),
            places: Semaphore::new(AT_A_TIME),
        }))
    }

    /// The class of an entry, if it is asked for.
    fn wants(&self, entry: &Entry) -> Option<Class> {
        Class::of(entry).filter(|class| self.events.contains(class))
    }

    /// Makes one attempt.
    async fn post(&self, id: UpgradeId, class: Class, entry: &Entry) -> Result<(), NotTaken> {
        let _place = self.places.acquire().await.map_err(|error| error.to_string())?;
        let delivery = format!("{id}-{}", entry.number);
        let mut body = crus_api::events::event(entry);
        body["upgrade_id"] = json!(id);
        let body = body.to_string();
        let file = self.secret_file.clone();
        // Read anew each time: it may be replaced while the service runs.
        let secret =
            tokio::task::spawn_blocking(move || secret(&file)).await.map_err(|error| error.to_string())?;
        let secret = secret.map_err(|error| format!("the secret cannot be read: {error:#}"))?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let request = self
            .client
            .current()
            .await
            .post(self.url.0.clone())
            .header(CONTENT_TYPE, "application/json")
            .header(EVENT, class.name())
            .header(SIGNATURE, format!("v1,{}", signature(&secret, &delivery, now, &body)))
            .header(ID, delivery)
            .header(TIMESTAMP, now)
            .body(body);
        match request.send().await {
            Ok(answer) if answer.status().is_success() => Ok(()),
            Ok(answer) => {
                let status = answer.status();
                Err(NotTaken { why: format!("it answered {status}"), refused: is_refusal(status) })
            }
            Err(error) => Err(why(error).into()),
        }
    }
}

/// Why a receiver did not take an entry.
struct NotTaken {
    /// In words that hold no secret.
    why: String,
    /// It does not want this one; otherwise it may take it later.
    refused: bool,
}

impl From<String> for NotTaken {
    fn from(why: String) -> Self {
        NotTaken { why, refused: false }
    }
}

/// Whether it is the request that a receiver has something against, and not the moment.
fn is_refusal(status: StatusCode) -> bool {
    use StatusCode as S;
    status.is_client_error() && ![S::REQUEST_TIMEOUT, S::TOO_EARLY, S::TOO_MANY_REQUESTS].contains(&status)
}

/// Without the URL, which may hold a secret, and with what lies below.
fn why(error: reqwest::Error) -> String {
    format!("{:#}", anyhow::Error::from(error.without_url()))
}

/// The secret in a file, without the white space around it.
fn secret(file: &Path) -> anyhow::Result<hmac::Key> {
    let text = std::fs::read(file)?;
    let text = text.trim_ascii();
    anyhow::ensure!(!text.is_empty(), "it is empty");
    let bytes = match text.strip_prefix(BASE64_PREFIX.as_bytes()) {
        // What is wrong with it is not told: that would show parts of it.
        Some(encoded) => BASE64_STANDARD.decode(encoded).map_err(|_| anyhow::anyhow!("it is no Base64"))?,
        None => text.to_vec(),
    };
    Ok(hmac::Key::new(hmac::HMAC_SHA256, &bytes))
}

fn signature(secret: &hmac::Key, delivery: &str, timestamp: u64, body: &str) -> String {
    let tag = hmac::sign(secret, format!("{delivery}.{timestamp}.{body}").as_bytes());
    BASE64_STANDARD.encode(tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification.
    #[test]
    fn a_signature_is_that_of_the_specification() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        std::fs::write(&file, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n").unwrap();
        let body = r#"{"test": 2432232314}"#;
        let signed = signature(&secret(&file).unwrap(), "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body);
        assert_eq!(signed, "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        for wrong in ["", " \n", "whsec_%"] {
            std::fs::write(&file, wrong).unwrap();
            assert!(secret(&file).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_url_is_shown_without_what_may_be_a_secret() {
        let url: HookUrl =
            "https://hooks.example.com:8443/services/T0/B0/s3cret?token=s3cret".parse().unwrap();
        assert_eq!(format!("{url} {url:?}"), "https://hooks.example.com:8443 https://hooks.example.com:8443");
        for wrong in ["hooks.example.com", "ftp://a/b", "https://user:pass@a/b", "https://a/b#c", ""] {
            assert!(wrong.parse::<HookUrl>().is_err(), "{wrong}");
        }
    }
}
