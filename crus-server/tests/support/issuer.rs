//! An issuer of tokens: keys made for the test, and a server that publishes them.

use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384,
    RSA_PSS_SHA512, RsaEncoding, RsaKeyPair, RsaPublicKeyComponents,
};
use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use crus_server::auth::{Audience, AuthOptions, JwksPlace};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

pub(crate) const ISSUER: &str = "https://issuer.example/realms/site";
pub(crate) const AUDIENCE: &str = "crus";

pub(crate) fn encoded(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// A key pair, and its name.
pub(crate) struct Key {
    pub(crate) id: String,
    pair: Pair,
}

enum Pair {
    Rsa(RsaKeyPair),
    P256(EcdsaKeyPair),
    P384(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl Key {
    pub(crate) fn rsa(id: &str) -> Self {
        Key { id: id.into(), pair: Pair::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap()) }
    }

    pub(crate) fn p256(id: &str) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        Key { id: id.into(), pair: Pair::P256(pair) }
    }

    pub(crate) fn p384(id: &str) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
        Key { id: id.into(), pair: Pair::P384(pair) }
    }

    pub(crate) fn ed25519(id: &str) -> Self {
        Key { id: id.into(), pair: Pair::Ed25519(Ed25519KeyPair::generate().unwrap()) }
    }

    /// The public key as the issuer shows it.
    pub(crate) fn public(&self) -> Value {
        let id = &self.id;
        let curve = |curve: &str, pair: &EcdsaKeyPair| {
            let (x, y) = pair.public_key().as_ref()[1..].split_at((pair.public_key().as_ref().len() - 1) / 2);
            json!({ "kty": "EC", "crv": curve, "kid": id, "use": "sig", "x": encoded(x), "y": encoded(y) })
        };
        match &self.pair {
            Pair::Rsa(pair) => {
                let RsaPublicKeyComponents { n, e } =
                    RsaPublicKeyComponents::<Vec<u8>>::from(pair.public_key());
                json!({ "kty": "RSA", "kid": id, "use": "sig", "n": encoded(n), "e": encoded(e) })
            }
            Pair::P256(pair) => curve("P-256", pair),
            Pair::P384(pair) => curve("P-384", pair),
            Pair::Ed25519(pair) => {
                json!({ "kty": "OKP", "crv": "Ed25519", "kid": id, "use": "sig", "x": encoded(pair.public_key()) })
            }
        }
    }

    /// The algorithm that it is used for, unless said otherwise.
    pub(crate) fn algorithm(&self) -> &'static str {
        match &self.pair {
            Pair::Rsa(_) => "RS256",
            Pair::P256(_) => "ES256",
            Pair::P384(_) => "ES384",
            Pair::Ed25519(_) => "EdDSA",
        }
    }

    fn sign(&self, algorithm: &str, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.pair {
            Pair::Rsa(pair) => {
                let encoding: &'static dyn RsaEncoding = match algorithm {
                    "RS384" => &RSA_PKCS1_SHA384,
                    "RS512" => &RSA_PKCS1_SHA512,
                    "PS256" => &RSA_PSS_SHA256,
                    "PS384" => &RSA_PSS_SHA384,
                    "PS512" => &RSA_PSS_SHA512,
                    _ => &RSA_PKCS1_SHA256,
                };
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(encoding, &random, message, &mut signature).unwrap();
                signature
            }
            Pair::P256(pair) | Pair::P384(pair) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            Pair::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
        }
    }

    /// A token of these claims.
    pub(crate) fn token(&self, claims: &Value) -> String {
        self.token_of(
            &json!({ "alg": self.algorithm(), "kid": self.id, "typ": "JWT" }).to_string(),
            &claims.to_string(),
        )
    }

    /// A token of these texts, signed as the header has it.
    pub(crate) fn token_of(&self, header: &str, claims: &str) -> String {
        let message = format!("{}.{}", encoded(header), encoded(claims));
        let header: Value = serde_json::from_str(header).unwrap();
        let signature = self.sign(header["alg"].as_str().unwrap_or_default(), message.as_bytes());
        format!("{message}.{}", encoded(signature))
    }
}

/// So many seconds from now, since 1970.
pub(crate) fn in_s(seconds: i64) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    now.checked_add_signed(seconds).unwrap()
}

/// Claims of somebody with these roles: all is well with them.
pub(crate) fn claims(name: &str, roles: &[&str]) -> Value {
    json!({
        "iss": ISSUER,
        "aud": ["account", AUDIENCE],
        "sub": "f3a2b6c8-0000-4000-8000-000000000000",
        "preferred_username": name,
        "iat": in_s(-5),
        "exp": in_s(300),
        "realm_access": { "roles": roles },
    })
}

/// What the server does.
#[derive(Default)]
struct Published {
    keys: Option<String>,
    fetches: usize,
    /// When there is one, answers wait for it.
    held: Option<Arc<Semaphore>>,
}

/// A server that publishes keys. Ends with the test's runtime.
#[derive(Clone)]
pub(crate) struct Issuer {
    published: Arc<Mutex<Published>>,
    pub(crate) url: String,
}

impl Issuer {
    pub(crate) async fn start() -> Self {
        let published = Arc::<Mutex<Published>>::default();
        let answer = {
            let published = Arc::clone(&published);
            async move || {
                let held = {
                    let mut published = published.lock().unwrap();
                    published.fetches += 1;
                    published.held.clone()
                };
                if let Some(held) = held {
                    _ = held.acquire().await;
                }
                match &published.lock().unwrap().keys {
                    Some(keys) => (StatusCode::OK, keys.clone()),
                    None => (StatusCode::SERVICE_UNAVAILABLE, "down".to_owned()),
                }
            }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/certs", listener.local_addr().unwrap());
        let router = Router::new().route("/certs", get(answer));
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Issuer { published, url }
    }

    /// From now on it has these keys.
    pub(crate) fn publish(&self, keys: &[&Key]) {
        let keys: Vec<Value> = keys.iter().map(|key| key.public()).collect();
        self.publish_text(json!({ "keys": keys }).to_string());
    }

    pub(crate) fn publish_text(&self, text: String) {
        self.published.lock().unwrap().keys = Some(text);
    }

    /// From now on it answers 503.
    pub(crate) fn fail(&self) {
        self.published.lock().unwrap().keys = None;
    }

    /// From now on it does not answer, until what is returned is [closed](Semaphore::close).
    pub(crate) fn hold(&self) -> Arc<Semaphore> {
        let held = Arc::new(Semaphore::new(0));
        self.published.lock().unwrap().held = Some(Arc::clone(&held));
        held
    }

    pub(crate) fn fetches(&self) -> usize {
        self.published.lock().unwrap().fetches
    }

    /// What a service is told of it: it fetches keys once, unless a token has it do so.
    pub(crate) fn options(&self) -> AuthOptions {
        AuthOptions {
            jwks: Some(JwksPlace::Url(self.url.parse().unwrap())),
            issuer: Some(ISSUER.to_owned()),
            audience: Audience::OneOf(vec![AUDIENCE.to_owned()]),
            jwks_refresh_ms: 3_600_000,
            jwks_pause_ms: 1,
            ..AuthOptions::default()
        }
    }

    /// The options of a service that is a process.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let pairs = [
            ("--auth-jwks", self.url.as_str()),
            ("--auth-issuer", ISSUER),
            ("--auth-audience", AUDIENCE),
            ("--auth-jwks-pause-s", "0.1"),
        ];
        pairs.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value.to_owned()]).collect()
    }
}
