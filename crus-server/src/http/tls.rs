//! Certificates of the listener: read at the start, and again when their files change.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{self, SHA256};
use tokio::sync::watch;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject as _};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use tokio_rustls::rustls::{self, RootCertStore, ServerConfig};
use tracing::{info, warn};

/// How often it is looked whether the files have changed. They are small, and whoever renews a certificate may want to see
/// that it is in use.
const LOOK: Duration = Duration::from_secs(1);

/// All that is spoken over TLS here.
const ALPN: &[u8] = b"http/1.1";

/// Files with what TLS needs, all in PEM.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, and after it those that lead to one that clients know.
    pub cert: Option<PathBuf>,
    /// Its key; its content is a secret.
    pub key: Option<PathBuf>,
    /// The authorities of clients, who must then show a certificate of one of them.
    pub client_ca: Option<PathBuf>,
}

/// Why the listener cannot speak TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is missing.
    #[error("{given} is set, and {missing} is not: TLS needs both a certificate and its key")]
    Half {
        /// The option that is there.
        given: &'static str,
        /// The one that is not.
        missing: &'static str,
    },
    /// A file cannot be read.
    #[error("failed to read {} (set by {option})", path.display())]
    Read {
        /// What names it.
        option: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        error: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("failed to find {what}, as PEM, in {} (set by {option})", path.display())]
    Nothing {
        /// What it should hold.
        what: &'static str,
        /// What names it.
        option: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        error: pem::Error,
    },
    /// Certificate and key are no pair.
    #[error("the key in tls_key_file is not that of the certificate in tls_cert_file: they must be a pair")]
    NoPair,
    /// They cannot be used.
    #[error("failed to use the certificate in tls_cert_file with the key in tls_key_file")]
    Unusable(#[source] rustls::Error),
    /// The authorities cannot be used.
    #[error("failed to use the certificate authorities in tls_client_ca_file")]
    Authorities(#[source] VerifierBuilderError),
}

/// What was in the files: a digest, since one of them is a secret.
type Seen = [u8; 32];

impl TlsFiles {
    /// What is to be used; `None` when nothing is set.
    ///
    /// # Errors
    /// See [`TlsError`].
    fn load(&self) -> Result<Option<(Arc<ServerConfig>, Seen)>, TlsError> {
        let half = |given, missing| Err(TlsError::Half { given, missing });
        let (cert, key) = match (&self.cert, &self.key, &self.client_ca) {
            (Some(cert), Some(key), _) => (cert, key),
            (None, None, None) => return Ok(None),
            (Some(_), None, _) => return half("tls_cert_file", "tls_key_file"),
            (None, Some(_), _) => return half("tls_key_file", "tls_cert_file"),
            (None, None, Some(_)) => return half("tls_client_ca_file", "tls_cert_file"),
        };
        let texts = [
            read("tls_cert_file", cert)?,
            read("tls_key_file", key)?,
            self.client_ca.as_ref().map_or(Ok(Vec::new()), |path| read("tls_client_ca_file", path))?,
        ];
        let chain = certificates("tls_cert_file", cert, &texts[0])?;
        let private = PrivateKeyDer::from_pem_slice(&texts[1]).map_err(|error| TlsError::Nothing {
            what: "a private key",
            option: "tls_key_file",
            path: key.clone(),
            error,
        })?;
        let provider = Arc::new(default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Unusable)?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for authority in certificates("tls_client_ca_file", path, &texts[2])? {
                    roots.add(authority).map_err(TlsError::Unusable)?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().map_err(TlsError::Authorities)?)
            }
        };
        let mut config = builder.with_single_cert(chain, private).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => TlsError::NoPair,
            error => TlsError::Unusable(error),
        })?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Some((Arc::new(config), digest_of(&texts))))
    }

    /// What is in the files now; one that cannot be read holds nothing.
    fn look(&self) -> Seen {
        let text =
            |path: &Option<PathBuf>| path.as_ref().and_then(|path| fs::read(path).ok()).unwrap_or_default();
        digest_of(&[&self.cert, &self.key, &self.client_ca].map(text))
    }
}

fn digest_of(texts: &[Vec<u8>]) -> Seen {
    let mut context = digest::Context::new(&SHA256);
    for text in texts {
        context.update(&(text.len() as u64).to_le_bytes());
        context.update(text);
    }
    let mut seen = Seen::default();
    seen.copy_from_slice(context.finish().as_ref());
    seen
}

fn read(option: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|error| TlsError::Read { option, path: path.to_owned(), error })
}

fn certificates(
    option: &'static str,
    path: &Path,
    text: &[u8],
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let nothing = |error| TlsError::Nothing { what: "a certificate", option, path: path.to_owned(), error };
    let found: Vec<_> = CertificateDer::pem_slice_iter(text).collect::<Result<_, _>>().map_err(nothing)?;
    if found.is_empty() {
        return Err(nothing(pem::Error::NoItemsFound));
    }
    Ok(found)
}

/// The certificate in use, which changes when its files do.
#[derive(Debug)]
pub struct Tls {
    current: watch::Receiver<Arc<ServerConfig>>,
}

impl Tls {
    /// Reads the files, and keeps looking at them until this is dropped; `None` when none is set.
    ///
    /// They are looked at anew as a whole and by their names, so that it is all one how they are replaced: in place, by
    /// renaming, or by changing a link to their folder. When they cannot be used, what is in use stays, and the log tells why
    /// once for each change.
    ///
    /// # Errors
    /// See [`TlsError`].
    pub fn start(files: &TlsFiles) -> Result<Option<Self>, TlsError> {
        let Some((config, seen)) = files.load()? else { return Ok(None) };
        let (replace, current) = watch::channel(config);
        tokio::spawn(keep_looking(files.clone(), seen, replace));
        Ok(Some(Tls { current }))
    }

    /// What a connection that begins now is to use.
    pub(super) fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.borrow())
    }
}

async fn keep_looking(files: TlsFiles, mut settled: Seen, replace: watch::Sender<Arc<ServerConfig>>) {
    let files = Arc::new(files);
    let mut last = settled;
    loop {
        tokio::select! {
            () = replace.closed() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        let looking = Arc::clone(&files);
        let Ok(seen) = tokio::task::spawn_blocking(move || looking.look()).await else { continue };
        // Several files are not replaced at once: they are taken when they stay the same.
        let stays = std::mem::replace(&mut last, seen) == seen;
        if !stays || seen == settled {
            continue;
        }
        let loading = Arc::clone(&files);
        match tokio::task::spawn_blocking(move || loading.load()).await {
            Ok(Ok(Some((config, loaded)))) => {
                settled = loaded;
                replace.send_replace(config);
                info!("the certificate has changed: new connections use the new one");
            }
            Ok(Err(error)) => {
                settled = seen;
                let error = anyhow::Error::from(error);
                warn!("the files of the certificate have changed, and the old one is used on: {error:#}");
            }
            Ok(Ok(None)) | Err(_) => {}
        }
    }
}
