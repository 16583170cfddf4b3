//! How etcd is asked: every request ends in bounded time, and is made again while that may help.

use std::error::Error as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fmt, fs, io};

use crus_core::ports::StoreError;
use etcd_client::{Certificate, Client, ConnectOptions, Identity, TlsOptions};
use tokio::sync::Mutex;
use tonic::Code;
use tracing::debug;

use crate::settings::EtcdOptions;

/// How long a connection may take to come about, and one attempt at a request altogether.
const CONNECT: Duration = Duration::from_secs(2);
pub(super) const ATTEMPT: Duration = Duration::from_secs(5);

/// For how long a request is made again.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// How often a connection in use is looked at for life, and how long an answer may take. etcd's servers close
/// connections that ask more often than every 5 seconds.
const PING: Duration = Duration::from_secs(10);
const PONG: Duration = Duration::from_secs(3);

/// The pause before the second attempt at a request; it doubles, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// How often it is tried at most to be let in by an etcd that does not: to check a password costs it much.
const KNOCK: Duration = Duration::from_secs(1);

/// Why etcd did not do it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// No usable answer came. What was asked may have been done.
    Away(String),
    /// It answered, and did not do it.
    Refused(String),
    /// It does not let us in, or at this: what we say of ourselves may be old.
    Denied(String),
    /// What was asked for was of a revision that is not kept any more.
    Compacted,
    /// There is no such lease.
    NoLease,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Away(why) => write!(f, "etcd cannot be reached: {why}"),
            Trouble::Refused(why) | Trouble::Denied(why) => write!(f, "etcd refused: {why}"),
            Trouble::Compacted => f.write_str("etcd removed old revisions faster than they could be read"),
            Trouble::NoLease => f.write_str("our lease in etcd has ended"),
        }
    }
}

impl From<Trouble> for StoreError {
    fn from(trouble: Trouble) -> Self {
        StoreError::Failed(trouble.to_string())
    }
}

/// A file that the configuration names and that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("failed to read {path} (set by {option}): {error}")]
pub(super) struct UnreadableFile {
    option: &'static str,
    path: PathBuf,
    error: io::Error,
}

/// The way to etcd: to one of its members. A request that got no answer makes for a new connection, to the next one: an
/// old connection may be dead without anybody knowing, and a member down or cut off. So does one that was denied: the
/// files that say who we are are read anew with each connection.
pub(super) struct Connection {
    options: EtcdOptions,
    held: Mutex<Held>,
}

struct Held {
    client: Option<Client>,
    /// How many connections there were.
    generation: usize,
    /// When it was last tried to be let in, and why that failed if it did.
    knocked: Option<(Instant, Option<Trouble>)>,
}

impl Held {
    /// Whether it was tried to be let in a moment ago.
    fn has_just_knocked(&self) -> bool {
        self.knocked.as_ref().is_some_and(|(knocked, _)| knocked.elapsed() < KNOCK)
    }
}

impl Connection {
    pub(super) fn new(options: EtcdOptions) -> Self {
        // Replicas need not all use the same member.
        let generation = usize::try_from(std::process::id()).unwrap_or_default();
        Connection { options, held: Mutex::new(Held { client: None, generation, knocked: None }) }
    }

    /// Makes a request, again and again while no usable answer comes, until `patience` ends. What is asked must be
    /// harmless when done twice.
    pub(super) async fn ask<T, F>(
        &self,
        what: &str,
        patience: Duration,
        mut request: impl FnMut(Client) -> F,
    ) -> Result<T, Trouble>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let end = Instant::now() + patience;
        let mut pause = FIRST_PAUSE;
        loop {
            let limit = ATTEMPT.min(end.saturating_duration_since(Instant::now()));
            let trouble = match self.attempt(limit, &mut request).await {
                Ok(answer) => return Ok(answer),
                Err(trouble) => trouble,
            };
            debug!("failed to {what}: {trouble:?}");
            let Trouble::Away(_) = trouble else { return Err(trouble) };
            if Instant::now() + pause >= end {
                return Err(trouble);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Makes a request once.
    pub(super) async fn attempt<T, F>(
        &self,
        limit: Duration,
        request: impl FnOnce(Client) -> F,
    ) -> Result<T, Trouble>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let mut used = None;
        let answer = tokio::time::timeout(limit, async {
            let (client, generation) = self.client().await?;
            used = Some(generation);
            request(client).await.map_err(|error| read(&error))
        });
        let answer = answer.await;
        let answer = answer.unwrap_or_else(|_| Err(Trouble::Away("it does not answer".to_owned())));
        if let (Err(trouble @ (Trouble::Away(_) | Trouble::Denied(_))), Some(generation)) = (&answer, used) {
            self.give_up(generation, trouble);
        }
        answer
    }

    /// The client in use, or a new one.
    async fn client(&self) -> Result<(Client, usize), Trouble> {
        let mut held = self.held.lock().await;
        let client = match held.client.take() {
            Some(client) => client,
            None => {
                if let Some((_, Some(trouble))) = held.knocked.as_ref().filter(|_| held.has_just_knocked()) {
                    return Err(trouble.clone());
                }
                // Read anew each time, as they are replaced while the service runs.
                let options = self.connect_options().map_err(|error| Trouble::Refused(error.to_string()))?;
                held.generation = held.generation.wrapping_add(1);
                let endpoints = &self.options.endpoints;
                let next = endpoints.get(held.generation % endpoints.len().max(1)).into_iter();
                let next: Vec<&String> = next.collect();
                let connected = Client::connect(next, Some(options)).await.map_err(|error| read(&error));
                let denied = connected.as_ref().err().filter(|trouble| matches!(trouble, Trouble::Denied(_)));
                held.knocked = Some((Instant::now(), denied.cloned()));
                connected?
            }
        };
        Ok((held.client.insert(client).clone(), held.generation))
    }

    /// The next request makes a new connection; after one that was denied, not right after it was made.
    fn give_up(&self, generation: usize, trouble: &Trouble) {
        // Whoever holds the lock is making a new one.
        if let Ok(mut held) = self.held.try_lock()
            && held.generation == generation
            && !(matches!(trouble, Trouble::Denied(_)) && held.has_just_knocked())
        {
            held.client = None;
        }
    }

    /// What connections are made with.
    pub(super) fn connect_options(&self) -> Result<ConnectOptions, UnreadableFile> {
        let EtcdOptions { endpoints, user, password_file, ca_file, cert_file, key_file, .. } = &self.options;
        let mut options = ConnectOptions::new()
            .with_connect_timeout(CONNECT)
            .with_keep_alive(PING, PONG)
            .with_keep_alive_while_idle(false)
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if let (Some(user), Some(path)) = (user, password_file) {
            let password = contents("etcd_password_file", path)?;
            let password = String::from_utf8_lossy(&password);
            options = options.with_user(user, password.trim_end_matches(['\r', '\n']));
        }
        if endpoints.iter().any(|url| url.starts_with("https://")) {
            let mut tls = TlsOptions::new();
            tls = match ca_file {
                Some(path) => tls.ca_certificate(Certificate::from_pem(contents("etcd_ca_file", path)?)),
                None => tls.with_native_roots(),
            };
            if let (Some(cert), Some(key)) = (cert_file, key_file) {
                let (cert, key) = (contents("etcd_cert_file", cert)?, contents("etcd_key_file", key)?);
                tls = tls.identity(Identity::from_pem(cert, key));
            }
            options = options.with_tls(tls);
        }
        Ok(options)
    }
}

fn contents(option: &'static str, path: &Path) -> Result<Vec<u8>, UnreadableFile> {
    fs::read(path).map_err(|error| UnreadableFile { option, path: path.to_owned(), error })
}

/// What an error of the client means. The text is for people, and the same each time the same thing goes wrong.
pub(super) fn read(error: &etcd_client::Error) -> Trouble {
    use etcd_client::Error;
    match error {
        Error::GRpcStatus(status) => match status.code() {
            Code::OutOfRange if status.message().contains("compacted") => Trouble::Compacted,
            Code::NotFound if status.message().contains("lease not found") => Trouble::NoLease,
            Code::Unavailable | Code::Cancelled | Code::DeadlineExceeded | Code::Unknown | Code::Internal => {
                let cause = status.source().and_then(|source| anyhow::Chain::new(source).last());
                Trouble::Away(cause.map_or_else(|| status.message().to_owned(), ToString::to_string))
            }
            // Users were changed a moment ago: what we know of ourselves is read anew with the next attempt.
            _ if status.message().contains("revision of auth store is old") => {
                Trouble::Away(status.message().to_owned())
            }
            Code::Unauthenticated | Code::PermissionDenied => Trouble::Denied(status.message().to_owned()),
            // It tells of a wrong password, and of a user that it does not know, as of any bad argument.
            Code::InvalidArgument | Code::FailedPrecondition
                if ["authentication", "user name", "password"]
                    .iter()
                    .any(|word| status.message().contains(word)) =>
            {
                Trouble::Denied(status.message().to_owned())
            }
            _ => Trouble::Refused(status.message().to_owned()),
        },
        Error::LeaseKeepAliveError(why) if why.contains("not found") => Trouble::NoLease,
        Error::TransportError(error) => {
            Trouble::Away(anyhow::Chain::new(error).last().unwrap_or(error).to_string())
        }
        Error::InvalidArgs(_)
        | Error::InvalidUri(_)
        | Error::InvalidMetadataValue(_)
        | Error::EndpointError(_) => Trouble::Refused(error.to_string()),
        other => Trouble::Away(other.to_string()),
    }
}
