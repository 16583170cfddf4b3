//! The token that goes with a request, wherever it comes from.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;

use super::config::ConfigError;
use super::files::Version;
use super::issuer::TokenIssuer;
use super::secret::Secret;

/// How we prove who we are.
#[derive(Debug, Clone, Default)]
pub enum Credentials {
    /// Not at all.
    #[default]
    None,
    /// By a bearer token that does not change.
    Token(Secret),
    /// By a bearer token in a file, which is read again when it has changed.
    TokenFile(PathBuf),
    /// By a bearer token that is fetched. Peers that share an issuer share its token.
    Issued(Arc<TokenIssuer>),
}

/// The tokens for one peer.
#[derive(Debug)]
pub(super) struct Tokens {
    credentials: Credentials,
    /// How long a file may take to be read.
    timeout: Duration,
    /// The token of the file as it was last read.
    read: Mutex<Option<(Version, Secret)>>,
}

impl Tokens {
    pub(super) fn new(credentials: Credentials, timeout: Duration) -> Result<Self, ConfigError> {
        if let Credentials::Token(token) = &credentials {
            token.bearer().ok_or(ConfigError::Token)?;
        }
        Ok(Tokens { credentials, timeout, read: Mutex::new(None) })
    }

    /// The token to send, if one is to be sent; or why there is none.
    pub(super) async fn current(&self) -> Result<Option<Secret>, String> {
        match &self.credentials {
            Credentials::None => Ok(None),
            Credentials::Token(token) => Ok(Some(token.clone())),
            Credentials::TokenFile(path) => self.of_file(path).await.map(Some),
            Credentials::Issued(issuer) => issuer.token().await.map(Some),
        }
    }

    /// Another token in place of one that the peer did not take, if there is one: whatever the file's date says, and
    /// whenever the issued one would have expired.
    pub(super) async fn instead_of(&self, refused: &Secret) -> Option<Secret> {
        let other = match &self.credentials {
            Credentials::None | Credentials::Token(_) => return None,
            Credentials::TokenFile(path) => {
                *self.read.lock().await = None;
                self.of_file(path).await
            }
            Credentials::Issued(issuer) => issuer.instead_of(refused).await,
        };
        other.ok().filter(|other| other != refused)
    }

    async fn of_file(&self, path: &Path) -> Result<Secret, String> {
        let failed = |error: io::Error| format!("failed to read the token file: {}", error.kind());
        let reading = async {
            let version = Version::of(&tokio::fs::metadata(path).await.map_err(failed)?);
            let mut read = self.read.lock().await;
            if let Some((_, token)) = read.as_ref().filter(|(known, _)| *known == version) {
                return Ok(token.clone());
            }
            let token = Secret::new(&tokio::fs::read_to_string(path).await.map_err(failed)?);
            if token.is_empty() {
                return Err("failed to read the token file: it is empty".to_owned());
            }
            *read = Some((version, token.clone()));
            Ok(token)
        };
        match tokio::time::timeout(self.timeout, reading).await {
            Ok(token) => token,
            Err(_) => Err("failed to read the token file in time".to_owned()),
        }
    }
}
