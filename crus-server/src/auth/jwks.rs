//! The keys of the issuer: fetched, kept up to date, and what was checked by them.
//!
//! # Guarantees
//!
//! - A token that names a key that is not known has the keys fetched anew, so that an issuer may change its keys at any
//!   time. However many do, there is one fetch at a time, and none within `auth_jwks_pause_s` of the one before.
//! - A key that the issuer does not have any more is good for nothing once that was seen, `auth_jwks_refresh_s` later at the
//!   latest, and neither is what was checked by it.
//! - A fetch that was begun is done to its end, even if the request that needed it is given up: who gives up many has
//!   the issuer asked no more often.
//! - While the issuer is away, the keys known before stay.
//! - What is fetched and kept is bounded: bytes, keys, and tokens remembered as good.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use crus_api::access::{Caller, Refused};
use crus_clients::http::{HttpClient, HttpSettings, TlsFiles};
use jsonwebtoken::DecodingKey;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse};
use reqwest::Url;
use serde::Deserialize;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{info, warn};

use super::jwt::{Algorithm, Flaw, Good, Header, Policy};
use super::{AuthOptions, JwksPlace, TokenHash};
use crate::config::Misconfigured;

/// The longest set of keys, in bytes.
const SET_MAX: usize = 1 << 20;

/// The most keys of a set.
const KEYS_MAX: usize = 100;

/// The most tokens remembered as good.
const GOOD_MAX: usize = 8192;

/// How often a file of keys is looked at.
const LOOK: Duration = Duration::from_secs(1);

// ---- the keys ---------------------------------------------------------------------------------------------

/// A key that a token may be signed by.
#[derive(Debug)]
struct Key {
    id: Option<String>,
    kind: Kind,
    /// The only algorithm that it may be used for, when it says so.
    algorithm: Option<KeyAlgorithm>,
    key: DecodingKey,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Rsa,
    P256,
    P384,
    Ed25519,
}

impl Key {
    /// The key, unless it is of no use here: secret, of a kind that is not known, or for something else than signatures.
    fn of(jwk: &Jwk) -> Option<Self> {
        let common = &jwk.common;
        let kind = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => Kind::Rsa,
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => Kind::P256,
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P384 => Kind::P384,
            AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => Kind::Ed25519,
            _ => return None,
        };
        let is_for_signatures = match &common.public_key_use {
            None | Some(PublicKeyUse::Signature) => true,
            Some(_) => false,
        };
        let may_verify = common
            .key_operations
            .as_ref()
            .is_none_or(|operations| operations.contains(&KeyOperations::Verify));
        if !is_for_signatures || !may_verify {
            return None;
        }
        let key = DecodingKey::from_jwk(jwk).ok()?;
        Some(Key { id: common.key_id.clone(), kind, algorithm: common.key_algorithm, key })
    }

    fn fits(&self, algorithm: Algorithm) -> bool {
        use jsonwebtoken::Algorithm as A;
        let kind = match algorithm.0 {
            A::RS256 | A::RS384 | A::RS512 | A::PS256 | A::PS384 | A::PS512 => Kind::Rsa,
            A::ES256 => Kind::P256,
            A::ES384 => Kind::P384,
            A::EdDSA => Kind::Ed25519,
            _ => return false,
        };
        self.kind == kind && self.algorithm.is_none_or(|only| only == KeyAlgorithm::from(algorithm.0))
    }
}

/// The keys as the issuer has them at some time, and the tokens that were found good by them: these go when the keys do.
#[derive(Debug)]
struct KeySet {
    text: Vec<u8>,
    keys: Vec<Key>,
    good: Mutex<Remembered>,
}

impl KeySet {
    /// Reads a set of keys (RFC 7517). Those of no use here are passed over.
    fn read(text: Vec<u8>) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<serde_json::Value>,
        }
        let set: Set =
            serde_json::from_slice(&text).map_err(|_| "it is no JWKS: it must be {\"keys\": […]}")?;
        if set.keys.len() > KEYS_MAX {
            return Err(format!("it holds more than {KEYS_MAX} keys"));
        }
        let keys =
            set.keys.into_iter().filter_map(|key| Key::of(&serde_json::from_value(key).ok()?)).collect();
        Ok(KeySet { text, keys, good: Mutex::default() })
    }

    /// The keys that a token of this header may be signed by.
    fn candidates(&self, header: &Header) -> Vec<&Key> {
        let fitting = self.keys.iter().filter(|key| key.fits(header.algorithm));
        match &header.key {
            Some(id) => fitting.filter(|key| key.id.as_ref() == Some(id)).collect(),
            // Which one is meant must be clear.
            None => {
                let all: Vec<&Key> = fitting.collect();
                if all.len() == 1 { all } else { Vec::new() }
            }
        }
    }

    fn good(&self) -> std::sync::MutexGuard<'_, Remembered> {
        self.good.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tokens that were found good. Half of them are forgotten when there are too many: those not seen for longest.
#[derive(Debug, Default)]
struct Remembered {
    recent: HashMap<TokenHash, Good>,
    older: HashMap<TokenHash, Good>,
}

impl Remembered {
    fn get(&mut self, hash: &TokenHash, now: u64) -> Option<Arc<Caller>> {
        if let Some(good) = self.recent.get(hash) {
            return (now <= good.until).then(|| Arc::clone(&good.caller));
        }
        let good = self.older.remove(hash).filter(|good| now <= good.until)?;
        let caller = Arc::clone(&good.caller);
        self.insert(*hash, good);
        Some(caller)
    }

    fn insert(&mut self, hash: TokenHash, good: Good) {
        if self.recent.len() >= GOOD_MAX / 2 {
            self.older = std::mem::take(&mut self.recent);
        }
        self.recent.insert(hash, good);
    }
}

// ---- fetching them ----------------------------------------------------------------------------------------

/// Where the keys come from.
#[derive(Debug)]
enum Place {
    Url { url: Url, client: Arc<HttpClient> },
    File(std::path::PathBuf),
}

impl Place {
    /// The set as it is now, and why not, in words that are no secret.
    async fn get(&self) -> Result<Vec<u8>, String> {
        match self {
            Place::File(path) => {
                let path = path.clone();
                let read = tokio::task::spawn_blocking(move || read_file(&path)).await;
                read.unwrap_or_else(|error| Err(error.to_string()))
            }
            Place::Url { url, client } => {
                let request = client
                    .current()
                    .await
                    .get(url.clone())
                    .header(reqwest::header::ACCEPT, "application/json");
                let mut answer = request.send().await.map_err(why)?;
                if !answer.status().is_success() {
                    return Err(format!("it answered {}", answer.status()));
                }
                let mut text = Vec::new();
                while let Some(chunk) = answer.chunk().await.map_err(why)? {
                    if text.len() + chunk.len() > SET_MAX {
                        return Err(too_long());
                    }
                    text.extend_from_slice(&chunk);
                }
                Ok(text)
            }
        }
    }
}

fn too_long() -> String {
    format!("it is longer than {SET_MAX} bytes")
}

fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    use std::io::Read as _;
    let mut text = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    file.take(SET_MAX as u64 + 1).read_to_end(&mut text).map_err(|error| error.to_string())?;
    if text.len() > SET_MAX { Err(too_long()) } else { Ok(text) }
}

/// With what lies below.
fn why(error: reqwest::Error) -> String {
    format!("{:#}", anyhow::Error::from(error.without_url()))
}

/// What came of the fetch before.
#[derive(Debug)]
struct Fetched {
    at: Instant,
    /// Why not; `None` when it was done.
    failed: Option<String>,
}

/// What is shared with the task that fetches the keys again and again.
#[derive(Debug)]
struct Shared {
    place: Place,
    /// None: so far there was no answer.
    keys: RwLock<Option<Arc<KeySet>>>,
    /// Held while they are fetched.
    fetched: Arc<tokio::sync::Mutex<Option<Fetched>>>,
    pause: Duration,
}

impl Shared {
    fn keys(&self) -> Option<Arc<KeySet>> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Fetches the keys, unless that was done just now. Whether they are those that the issuer has.
    async fn fetch(self: &Arc<Self>) -> bool {
        let asked = Instant::now();
        let mut fetched = Arc::clone(&self.fetched).lock_owned().await;
        // Who waited while they were fetched has what came of that.
        if let Some(before) = &*fetched
            && (before.at >= asked || before.at.elapsed() < self.pause)
        {
            return before.failed.is_none();
        }
        // The request that asked may be given up, as often as its sender likes: the fetch, and what is known of it, must
        // not go with it. It ends by its time-out.
        let shared = Arc::clone(self);
        let fetching = tokio::spawn(async move { shared.fetch_now(&mut fetched).await });
        fetching.await.unwrap_or(false)
    }

    /// Fetches the keys, and notes what came of it. Whether they are those that the issuer has.
    async fn fetch_now(&self, fetched: &mut Option<Fetched>) -> bool {
        let before = fetched.as_ref().and_then(|before| before.failed.clone());
        let failed = self.place.get().await.and_then(|text| self.take(text)).err();
        match &failed {
            None if before.is_some() => info!("the keys of the issuer of tokens can be read again"),
            // Said once, however long it lasts.
            Some(why) if before.as_ref() != Some(why) => {
                let then = match self.keys() {
                    Some(_) => "those known before stay in use",
                    None => "no JWT can be checked until they are there",
                };
                warn!(why, "failed to read the keys of the issuer of tokens (auth_jwks): {then}");
            }
            _ => {}
        }
        let done = failed.is_none();
        *fetched = Some(Fetched { at: Instant::now(), failed });
        done
    }

    /// Takes a set for the one in force. One that has not changed stays, with what is remembered.
    fn take(&self, text: Vec<u8>) -> Result<(), String> {
        if self.keys().is_some_and(|now| now.text == text) {
            return Ok(());
        }
        let set = KeySet::read(text)?;
        let ids: Vec<&str> = set.keys.iter().map(|key| key.id.as_deref().unwrap_or("-")).collect();
        match ids.is_empty() {
            true => warn!("the issuer of tokens has no key that is of use here (auth_jwks): no JWT is good"),
            false => info!(keys = ?ids, "the keys of the issuer of tokens have changed"),
        }
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(set));
        Ok(())
    }
}

/// Knows the callers that an issuer knows.
#[derive(Debug)]
pub(super) struct Jwks {
    shared: Arc<Shared>,
    policy: Policy,
    refreshing: JoinHandle<()>,
}

impl Drop for Jwks {
    fn drop(&mut self) {
        self.refreshing.abort();
    }
}

impl Jwks {
    /// Fetches the keys, now and again and again.
    ///
    /// # Errors
    /// When they are in a file that cannot be read, or options do not go together. An issuer that is away is no error.
    pub(super) async fn start(
        place: &JwksPlace,
        policy: Policy,
        options: &AuthOptions,
    ) -> anyhow::Result<Self> {
        let refresh = Duration::from_millis(options.jwks_refresh_ms);
        let (place, every, pause) = match place {
            JwksPlace::File(path) => (Place::File(path.clone()), LOOK, LOOK),
            JwksPlace::Url(url) => {
                let client = client(url, options)?;
                (
                    Place::Url { url: url.clone(), client },
                    refresh,
                    Duration::from_millis(options.jwks_pause_ms),
                )
            }
        };
        let shared = Arc::new(Shared { place, keys: RwLock::default(), fetched: Arc::default(), pause });
        if let Place::File(path) = &shared.place {
            let what = || format!("failed to read the keys in {} (set by auth_jwks)", path.display());
            let text = shared.place.get().await;
            text.and_then(|text| shared.take(text)).map_err(anyhow::Error::msg).with_context(what)?;
        }
        let refreshing = tokio::spawn({
            let shared = Arc::clone(&shared);
            async move {
                loop {
                    let next = if shared.fetch().await { every } else { every.min(pause.max(LOOK)) };
                    tokio::time::sleep(next).await;
                }
            }
        });
        Ok(Jwks { shared, policy, refreshing })
    }

    /// Whose token this is.
    pub(super) async fn caller(&self, token: &str, hash: &TokenHash) -> Result<Arc<Caller>, Refused> {
        if let Some(keys) = self.shared.keys()
            && let Some(caller) = keys.good().get(hash, now())
        {
            return Ok(caller);
        }
        let header = self.policy.header(token).map_err(Refused::BadToken)?;
        if let Some(result) = self.by_known_keys(token, hash, &header) {
            return result;
        }
        let done = self.shared.fetch().await;
        self.by_known_keys(token, hash, &header).unwrap_or(Err(match done {
            true => Refused::BadToken("is signed by a key that its issuer does not have"),
            false => Refused::CannotTell("the keys of its issuer cannot be had"),
        }))
    }

    /// What the keys known now say; `None` when the one that a token names is not among them.
    fn by_known_keys(
        &self,
        token: &str,
        hash: &TokenHash,
        header: &Header,
    ) -> Option<Result<Arc<Caller>, Refused>> {
        let keys = self.shared.keys()?;
        let mut last: Option<Flaw> = None;
        for key in keys.candidates(header) {
            match self.policy.check(token, header.algorithm, &key.key) {
                Ok(good) => {
                    let caller = Arc::clone(&good.caller);
                    keys.good().insert(*hash, good);
                    return Some(Ok(caller));
                }
                Err(flaw) => last = Some(flaw),
            }
        }
        last.map(|flaw| Err(Refused::BadToken(flaw)))
    }
}

fn client(url: &Url, options: &AuthOptions) -> anyhow::Result<Arc<HttpClient>> {
    let is_plain = url.scheme() == "http";
    if is_plain && !options.jwks_http_anywhere && !is_loopback(url) {
        return Err(Misconfigured::error(
            "auth_jwks is fetched by http from another machine: whoever sits between can hand out keys, and so become \
             anybody. Use https, with auth_jwks_ca_file for an authority of your own; or set auth_jwks_http to anywhere, if \
             nobody can sit there",
        ));
    }
    let timeout = Duration::from_millis(options.jwks_timeout_ms);
    let settings = HttpSettings { connect_timeout: timeout, total_timeout: timeout, is_tls: !is_plain };
    let files = TlsFiles { ca_file: options.jwks_ca_file.clone(), ..TlsFiles::default() };
    HttpClient::new(files, settings).context(match options.jwks_ca_file {
        Some(_) => "failed to use auth_jwks_ca_file",
        None => "failed to set up the client for the keys of auth_jwks",
    })
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// What fuzz targets reach.
#[cfg(feature = "fuzzing")]
pub(super) mod fuzzing {
    use super::{KEYS_MAX, KeySet, Policy};

    /// Whether a token is good by one of these keys.
    pub(in crate::auth) fn checked(keys: &[u8], token: &str, policy: &Policy) -> bool {
        let Ok(set) = KeySet::read(keys.to_vec()) else { return false };
        assert!(set.keys.len() <= KEYS_MAX);
        let Ok(header) = policy.header(token) else { return false };
        set.candidates(&header).into_iter().any(|key| policy.check(token, header.algorithm, &key.key).is_ok())
    }
}
