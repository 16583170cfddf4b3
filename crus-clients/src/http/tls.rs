//! HTTP clients with certificates of files that change: those of a platform are renewed while we run.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{fs, io};

use reqwest::{Certificate, Client, Identity};

use super::config::ConfigError;
use super::files::Version;
use super::innermost;

/// Shorter than any peer keeps an idle connection open, so that no request is sent into one that is closing.
const IDLE_CONNECTION: Duration = Duration::from_secs(1);

/// Whom we trust and who we are: PEM files, which are read again when they change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificates of the only CAs to trust; without, those of the operating system.
    pub ca_file: Option<PathBuf>,
    /// What we show when we are asked who we are.
    pub identity: Option<IdentityFiles>,
    /// How often the files are looked at, at most. Between two requests only.
    pub check_interval: Duration,
}

impl Default for TlsFiles {
    /// The system's CAs and no certificate of our own; a look every 5 seconds.
    fn default() -> Self {
        TlsFiles { ca_file: None, identity: None, check_interval: Duration::from_secs(5) }
    }
}

/// A certificate of our own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityFiles {
    /// The certificate, and behind it those between it and its CA.
    pub cert_file: PathBuf,
    /// Its key; its content is a secret.
    pub key_file: PathBuf,
}

impl TlsFiles {
    fn paths(&self) -> impl Iterator<Item = &Path> {
        let own = self.identity.iter().flat_map(|identity| [&identity.cert_file, &identity.key_file]);
        self.ca_file.iter().chain(own).map(PathBuf::as_path)
    }

    /// What the files are now; `None` for one that cannot be looked at.
    fn versions(&self) -> Vec<Option<Version>> {
        self.paths().map(|path| fs::metadata(path).ok().as_ref().map(Version::of)).collect()
    }
}

/// How a place is talked to.
#[derive(Debug, Clone, Copy)]
pub struct HttpSettings {
    /// How long to wait for a connection.
    pub connect_timeout: Duration,
    /// How long a request may take in all, with its answer.
    pub total_timeout: Duration,
    /// Whether it is an `https` place.
    pub is_tls: bool,
}

/// The HTTP client of one place: made anew when its certificates change. It follows no redirect and uses no proxy.
#[derive(Debug)]
pub struct HttpClient {
    files: TlsFiles,
    settings: HttpSettings,
    held: Mutex<Held>,
}

#[derive(Debug)]
struct Held {
    client: Client,
    /// What the files were that this client was made of.
    versions: Vec<Option<Version>>,
    /// What the files were when they were found to be of no use.
    useless: Option<Vec<Option<Version>>>,
    looked: Instant,
    /// Somebody looks just now.
    looking: bool,
}

impl HttpClient {
    /// Reads the files, and waits for them.
    ///
    /// # Errors
    /// When a file cannot be read or does not hold what it should.
    pub fn new(files: TlsFiles, settings: HttpSettings) -> Result<Arc<Self>, ConfigError> {
        // Looked at before they are read: a change in between is seen at the next look.
        let versions = files.versions();
        let client = build(&files, settings)?;
        let held = Held { client, versions, useless: None, looked: Instant::now(), looking: false };
        Ok(Arc::new(HttpClient { files, settings, held: Mutex::new(held) }))
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The client that is in use, whatever the files are.
    pub(super) fn in_use(&self) -> Client {
        self.held().client.clone()
    }

    /// The client with the certificates of now; the former one while those of now are of no use, or slow to come.
    pub async fn current(self: &Arc<Self>) -> Client {
        if self.begins_to_look() {
            let client = Arc::clone(self);
            let looking = tokio::task::spawn_blocking(move || client.look());
            // A disk that hangs must not hold up the request. What comes later is for the next one.
            _ = tokio::time::timeout(self.settings.connect_timeout, looking).await;
        }
        self.in_use()
    }

    fn begins_to_look(&self) -> bool {
        let mut held = self.held();
        let is_due = !held.looking
            && self.files.paths().next().is_some()
            && held.looked.elapsed() >= self.files.check_interval;
        held.looking |= is_due;
        is_due
    }

    /// Looks at the files, and makes a new client of those that have changed.
    fn look(&self) {
        let versions = self.files.versions();
        let is_new = self.held().versions != versions;
        let built = is_new.then(|| build(&self.files, self.settings));
        let mut held = self.held();
        held.looking = false;
        held.looked = Instant::now();
        match built {
            None => held.useless = None,
            Some(Ok(client)) => {
                tracing::info!(files = ?self.files, "certificates or keys have changed, and are used from now on");
                *held = Held { client, versions, useless: None, looked: held.looked, looking: false };
            }
            Some(Err(error)) => {
                if held.useless.as_ref() != Some(&versions) {
                    tracing::warn!(%error, "certificates or keys have changed and cannot be used; the former ones still are");
                }
                held.useless = Some(versions);
            }
        }
    }
}

fn build(files: &TlsFiles, settings: HttpSettings) -> Result<Client, ConfigError> {
    let mut client = Client::builder()
        .connect_timeout(settings.connect_timeout)
        .timeout(settings.total_timeout)
        .redirect(reqwest::redirect::Policy::none())
        .pool_idle_timeout(IDLE_CONNECTION)
        .no_proxy();
    if let Some(path) = &files.ca_file {
        let useless = |why: String| ConfigError::Ca { path: path.clone(), why };
        let pem = fs::read(path).map_err(|error| useless(error.kind().to_string()))?;
        let certificates = Certificate::from_pem_bundle(&pem).map_err(|error| useless(innermost(&error)))?;
        if certificates.is_empty() {
            return Err(useless("there is no PEM certificate in it".to_owned()));
        }
        client = client.tls_certs_only(certificates);
    } else if !settings.is_tls {
        // The system's CAs would be loaded for nothing, and must be there.
        client = client.tls_certs_only([]);
    }
    if let Some(identity) = &files.identity {
        client = client.identity(read_identity(identity)?);
    }
    client.build().map_err(|error| {
        let why = innermost(&error);
        match &files.identity {
            Some(identity) if why.contains("KeyMismatch") => {
                identity.useless("the key is that of another certificate")
            }
            _ => ConfigError::Client(why),
        }
    })
}

fn read_identity(files: &IdentityFiles) -> Result<Identity, ConfigError> {
    let read = |path: &Path| {
        let failed = |error: io::Error| files.useless(&format!("{}: {}", path.display(), error.kind()));
        fs::read(path).map_err(failed)
    };
    let mut pem = read(&files.cert_file)?;
    pem.push(b'\n');
    pem.extend(read(&files.key_file)?);
    // What exactly is wrong is not told: that would show parts of what may be the key.
    Identity::from_pem(&pem).map_err(|_| {
        files.useless("the one must hold a PEM certificate, and the other its PEM key, without a password")
    })
}

impl IdentityFiles {
    fn useless(&self, why: &str) -> ConfigError {
        let (cert, key) = (self.cert_file.clone(), self.key_file.clone());
        ConfigError::Identity { cert, key, why: why.to_owned() }
    }
}
