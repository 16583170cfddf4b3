//! JSON Web Tokens of the site's issuer: when one is good, whose it is, and what that one may do.
//!
//! # Guarantees
//!
//! - The signature is checked by a key of the issuer alone. Keys and addresses of keys that a token itself names (`jwk`, `jku`,
//!   `x5c`, `x5u`) are never looked at, and a token with a critical extension (`crit`) is refused, for none is known here.
//! - The algorithm is one of those that are allowed, all of them of public keys, and fits the key: `none` and those of
//!   shared secrets cannot be allowed.
//! - `exp` must be there. Issuer and audience must be as configured.
//! - Nothing in header or claims stands twice, so that nobody before or behind can read something else in it.

use std::collections::HashSet;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use crus_api::access::{Caller, Role};
use crus_core::Actor;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{DecodingKey, Validation};
use serde_json::Value;

use super::claims::{Strict, words};
use super::{Audience, AuthOptions};
use crate::config::Misconfigured;

pub use super::claims::ClaimPath;

/// Why a token is not good, as a clause about it that holds nothing of it.
pub(super) type Flaw = &'static str;

/// How a token may be signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Algorithm(pub(super) jsonwebtoken::Algorithm);

impl Algorithm {
    /// All that there are here: those of public keys.
    pub const ALL: [Algorithm; 9] = {
        use jsonwebtoken::Algorithm as A;
        [
            Algorithm(A::RS256),
            Algorithm(A::RS384),
            Algorithm(A::RS512),
            Algorithm(A::PS256),
            Algorithm(A::PS384),
            Algorithm(A::PS512),
            Algorithm(A::ES256),
            Algorithm(A::ES384),
            Algorithm(A::EdDSA),
        ]
    };

    /// Its name in a token.
    pub fn name(self) -> &'static str {
        use jsonwebtoken::Algorithm as A;
        match self.0 {
            A::RS256 => "RS256",
            A::RS384 => "RS384",
            A::RS512 => "RS512",
            A::PS256 => "PS256",
            A::PS384 => "PS384",
            A::PS512 => "PS512",
            A::ES256 => "ES256",
            A::ES384 => "ES384",
            A::EdDSA => "EdDSA",
            // None of these can be made: the field is private, and all values come from ALL.
            _ => "none of ours",
        }
    }
}

impl std::str::FromStr for Algorithm {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        Algorithm::ALL.into_iter().find(|algorithm| algorithm.name() == text).ok_or(())
    }
}

/// What the header of a token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) algorithm: Algorithm,
    pub(super) key: Option<String>,
}

/// A good token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Good {
    pub(super) caller: Arc<Caller>,
    /// Until when, in seconds since 1970, the leeway included.
    pub(super) until: u64,
}

/// When a token is good.
#[derive(Debug)]
pub(super) struct Policy {
    algorithms: Vec<Algorithm>,
    issuer: String,
    audience: Audience,
    leeway_s: u64,
    role_claim: ClaimPath,
    read_roles: Vec<String>,
    operate_roles: Vec<String>,
    name_claim: ClaimPath,
    source: Arc<str>,
}

impl Policy {
    /// # Errors
    /// When options are missing.
    pub(super) fn of(options: &AuthOptions) -> anyhow::Result<Self> {
        let Some(issuer) = options.issuer.clone() else {
            return Err(Misconfigured::error(
                "auth_jwks needs auth_issuer: who must have issued a token, as it stands in the tokens (the claim `iss`)",
            ));
        };
        if options.audience == Audience::Unset {
            return Err(Misconfigured::error(
                "auth_jwks needs auth_audience: whom a token must be for (the claim `aud`), such as crus. If the tokens of \
                 this site name nobody, say so with auth_audience = \"any\": every token of the issuer is good then, also those \
                 made for other services",
            ));
        }
        Ok(Policy {
            algorithms: options.algorithms.clone(),
            source: format!("issuer {issuer}").into(),
            issuer,
            audience: options.audience.clone(),
            leeway_s: options.leeway_s,
            role_claim: options.role_claim.clone(),
            read_roles: options.read_roles.clone(),
            operate_roles: options.operate_roles.clone(),
            name_claim: options.name_claim.clone(),
        })
    }

    /// Reads the header of a token, which nobody has vouched for so far.
    pub(super) fn header(&self, token: &str) -> Result<Header, Flaw> {
        const NONE: Flaw = "is not known, and is no JWT";
        let parts: Vec<&str> = token.split('.').collect();
        let [header, _, _] = parts.as_slice() else { return Err(NONE) };
        let header = BASE64_URL_SAFE_NO_PAD.decode(header).map_err(|_| NONE)?;
        let Strict(header) = serde_json::from_slice(&header).map_err(|_| NONE)?;
        let header = header.as_object().ok_or(NONE)?;
        let text = |name: &str| match header.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str())),
            Some(_) => Err(NONE),
        };
        if header.contains_key("crit") {
            return Err("has a critical extension, and none is known here");
        }
        // RFC 7519 and RFC 9068. Other kinds of tokens of the same issuer are not meant for us.
        let is_access_token =
            |typ: &str| ["jwt", "at+jwt", "application/at+jwt"].contains(&&*typ.to_ascii_lowercase());
        if text("typ")?.is_some_and(|typ| !is_access_token(typ)) {
            return Err("is not of the type JWT");
        }
        let algorithm = text("alg")?.ok_or(NONE)?;
        let allowed = self.algorithms.iter().copied().find(|known| known.name() == algorithm);
        let algorithm = allowed.ok_or("is signed in a way that is not allowed here (auth_algorithms)")?;
        Ok(Header { algorithm, key: text("kid")?.map(str::to_owned) })
    }

    /// Checks a token by one key, which fits the algorithm of its header.
    pub(super) fn check(&self, token: &str, algorithm: Algorithm, key: &DecodingKey) -> Result<Good, Flaw> {
        let mut rules = Validation::new(algorithm.0);
        rules.leeway = self.leeway_s;
        rules.validate_nbf = true;
        rules.iss = Some(HashSet::from([self.issuer.clone()]));
        let mut required = vec!["exp", "iss"];
        match &self.audience {
            Audience::OneOf(those) => {
                rules.set_audience(those);
                required.push("aud");
            }
            Audience::Any => rules.validate_aud = false,
            Audience::Unset => return Err("cannot be checked: no audience is configured"),
        }
        rules.set_required_spec_claims(&required);
        let decoded = jsonwebtoken::decode::<Strict>(token, key, &rules);
        let Strict(claims) = decoded.map_err(|error| flaw(error.kind()))?.claims;
        // A list of issuers would do for the library.
        if claims.get("iss").and_then(Value::as_str) != Some(&self.issuer) {
            return Err(OTHER_ISSUER);
        }
        let expires = claims.get("exp").and_then(Value::as_f64).filter(|at| *at >= 0.0).ok_or(NO_EXPIRY)?;
        let until = std::time::Duration::try_from_secs_f64(expires).map_or(u64::MAX, |at| at.as_secs());
        let named = |claim: Option<&Value>| claim.and_then(Value::as_str).and_then(Actor::cleaned);
        let name = named(self.name_claim.find(&claims)).or_else(|| named(claims.get("sub")));
        let name = name.ok_or("does not say whose it is (auth_name_claim)")?;
        let caller = Caller { name, role: self.role(&claims), source: Arc::clone(&self.source) };
        Ok(Good { caller: Arc::new(caller), until: until.saturating_add(self.leeway_s) })
    }

    /// The role that may most of those that the claims name.
    fn role(&self, claims: &Value) -> Option<Role> {
        let has = self.role_claim.find(claims).map(words).unwrap_or_default();
        let any = |wanted: &[String]| wanted.iter().any(|role| has.contains(&role.as_str()));
        if any(&self.operate_roles) {
            Some(Role::Operate)
        } else {
            any(&self.read_roles).then_some(Role::Read)
        }
    }
}

const OTHER_ISSUER: Flaw = "is of another issuer";
const NO_EXPIRY: Flaw = "does not say when it expires";

/// What the library found, in our words: its own may hold parts of the token.
fn flaw(kind: &ErrorKind) -> Flaw {
    match kind {
        ErrorKind::ExpiredSignature => "is expired",
        ErrorKind::ImmatureSignature => "is not valid yet",
        ErrorKind::InvalidIssuer => OTHER_ISSUER,
        ErrorKind::InvalidAudience => "is for another audience",
        ErrorKind::InvalidSignature => "is not signed by the key that it names",
        ErrorKind::MissingRequiredClaim(claim) => match claim.as_str() {
            "exp" => NO_EXPIRY,
            "aud" => "does not say whom it is for",
            _ => OTHER_ISSUER,
        },
        _ => "is broken",
    }
}
