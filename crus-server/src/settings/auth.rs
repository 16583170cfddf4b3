//! Who may use the service.

use reqwest::Url;
use toml::Value;

use super::read::{integer, must_be, optional, parsed, path, put, seconds, text};
use super::{LONGEST_S, NONE, Setting};
use crate::auth::jwt::Algorithm;
use crate::auth::{Audience, JwksPlace};

const HEADING: &str = "Who may use the service";

/// Clocks further apart than this are to be mended.
const LEEWAY_MOST_S: u64 = 300;

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        key: "auth",
        value: "MODE",
        default: "on",
        heading: HEADING,
        help: "on: callers must send a bearer token with a role, read or operate; auth_token_file, auth_jwks or both say which \
               are good. off: whoever reaches the service may do everything; the log warns of it",
        set: |c, v| put(&mut c.auth.mode, parsed(v, "on or off")),
    },
    Setting {
        key: "auth_token_file",
        value: "PATH",
        default: NONE,
        heading: HEADING,
        help: "File with tokens of the service's own, a line for each: a name, a role, and the hash of the token; `crus token \
               new` makes them. Read again when it changes",
        set: |c, v| put(&mut c.auth.token_file, optional(v, path)),
    },
    Setting {
        key: "auth_jwks",
        value: "PLACE",
        default: NONE,
        heading: HEADING,
        help: "Keys by which JWTs are signed (a JWKS): a URL, such as that of your Keycloak realm, \
               https://HOST/keycloak/realms/REALM/protocol/openid-connect/certs, or the path of a file. Needs auth_issuer \
               and auth_audience",
        set: |c, v| put(&mut c.auth.jwks, optional(v, jwks)),
    },
    Setting {
        key: "auth_jwks_http",
        value: "FROM",
        default: "loopback",
        heading: HEADING,
        help: "Whence the keys may be fetched by http, without TLS: loopback (this machine alone) or anywhere",
        set: |c, v| {
            put(
                &mut c.auth.jwks_http_anywhere,
                match text(v) {
                    Some("loopback") => Ok(false),
                    Some("anywhere") => Ok(true),
                    _ => Err(must_be("loopback or anywhere")),
                },
            )
        },
    },
    Setting {
        key: "auth_jwks_ca_file",
        value: "PATH",
        default: NONE,
        heading: HEADING,
        help: "PEM file with the certificate authorities to trust for the keys, instead of the system's",
        set: |c, v| put(&mut c.auth.jwks_ca_file, optional(v, path)),
    },
    Setting {
        key: "auth_jwks_refresh_s",
        value: "SECONDS",
        default: "300",
        heading: HEADING,
        help: "How often the keys are fetched anew: so long a key that was taken away may stay good",
        set: |c, v| put(&mut c.auth.jwks_refresh_ms, seconds(v, 1.0..=LONGEST_S)),
    },
    Setting {
        key: "auth_jwks_pause_s",
        value: "SECONDS",
        default: "10",
        heading: HEADING,
        help: "The shortest time between two fetches. A token that names a key that is not known has the keys fetched; however \
               many do, it is not done more often",
        set: |c, v| put(&mut c.auth.jwks_pause_ms, seconds(v, 0.1..=3600.0)),
    },
    Setting {
        key: "auth_jwks_timeout_s",
        value: "SECONDS",
        default: "5",
        heading: HEADING,
        help: "How long one fetch may take",
        set: |c, v| put(&mut c.auth.jwks_timeout_ms, seconds(v, 0.1..=60.0)),
    },
    Setting {
        key: "auth_issuer",
        value: "ISSUER",
        default: NONE,
        heading: HEADING,
        help: "Who must have issued a JWT (the claim iss), to the letter, such as https://HOST/keycloak/realms/REALM",
        set: |c, v| put(&mut c.auth.issuer, optional(v, word)),
    },
    Setting {
        key: "auth_audience",
        value: "AUDIENCES",
        default: NONE,
        heading: HEADING,
        help: "Whom a JWT must be for (the claim aud): one of these, divided by commas or as an array. any: whoever, for sites \
               whose tokens name nobody; tokens made for other services are good here, then",
        set: |c, v| put(&mut c.auth.audience, audience(v)),
    },
    Setting {
        key: "auth_algorithms",
        value: "ALGORITHMS",
        default: "RS256,RS384,RS512,PS256,PS384,PS512,ES256,ES384,EdDSA",
        heading: HEADING,
        help: "How a JWT may be signed: any of these, divided by commas or as an array",
        set: |c, v| put(&mut c.auth.algorithms, algorithms(v)),
    },
    Setting {
        key: "auth_leeway_s",
        value: "SECONDS",
        default: "60",
        heading: HEADING,
        help: "By how much the clocks of the issuer and of this machine may differ",
        set: |c, v| put(&mut c.auth.leeway_s, integer(v, 0..=LEEWAY_MOST_S)),
    },
    Setting {
        key: "auth_role_claim",
        value: "CLAIM",
        default: "realm_access.roles",
        heading: HEADING,
        help: "Where the roles of a caller are in a JWT: names of claims with dots between, or a JSON pointer when a name holds \
               a dot itself. There is a list of texts, or one text of words, such as the claim scope",
        set: |c, v| put(&mut c.auth.role_claim, parsed(v, CLAIM)),
    },
    Setting {
        key: "auth_read_roles",
        value: "ROLES",
        default: "crus-read",
        heading: HEADING,
        help: "Who has one of these roles may read (role read), divided by commas or as an array",
        set: |c, v| put(&mut c.auth.read_roles, optional(v, words).map(Option::unwrap_or_default)),
    },
    Setting {
        key: "auth_operate_roles",
        value: "ROLES",
        default: "crus-operate",
        heading: HEADING,
        help: "Who has one of these roles may create, pause, resume, retry and delete sessions, and read (role operate)",
        set: |c, v| put(&mut c.auth.operate_roles, optional(v, words).map(Option::unwrap_or_default)),
    },
    Setting {
        key: "auth_name_claim",
        value: "CLAIM",
        default: "preferred_username",
        heading: HEADING,
        help: "Where the name of a caller is in a JWT, to be kept with what they do; sub when a token does not have it",
        set: |c, v| put(&mut c.auth.name_claim, parsed(v, CLAIM)),
    },
    Setting {
        key: "audit_file",
        value: "PATH",
        default: NONE,
        heading: HEADING,
        help: "File that the audit log is appended to, as lines of JSON: who changed what, and who was refused. The log has the \
               same as events with the target audit. May be moved away at any time",
        set: |c, v| put(&mut c.auth.audit_file, optional(v, path)),
    },
];

const CLAIM: &str = "names of claims with dots between, such as realm_access.roles, or a JSON pointer";

fn word(value: &Value) -> Result<String, String> {
    text(value).map(str::to_owned).ok_or_else(|| must_be("a text"))
}

/// Words divided by commas, or an array of them.
fn words(value: &Value) -> Result<Vec<String>, String> {
    let words: Option<Vec<String>> = match value {
        Value::Array(words) => words.iter().map(|word| text(word).map(str::to_owned)).collect(),
        other => text(other).map(|text| text.split(',').map(|word| word.trim().to_owned()).collect()),
    };
    let words = words.filter(|words| !words.is_empty() && words.iter().all(|word| !word.is_empty()));
    words.ok_or_else(|| must_be("one or more words, divided by commas or as an array"))
}

fn audience(value: &Value) -> Result<Audience, String> {
    Ok(match optional(value, words)? {
        None => Audience::Unset,
        Some(words) if words == ["any"] => Audience::Any,
        Some(words) => Audience::OneOf(words),
    })
}

fn algorithms(value: &Value) -> Result<Vec<Algorithm>, String> {
    let known = || Algorithm::ALL.map(Algorithm::name).join(", ");
    let read = words(value).ok().and_then(|words| words.iter().map(|word| word.parse().ok()).collect());
    read.ok_or_else(|| must_be(&format!("some of {}: shared secrets, and none, are not for this", known())))
}

fn jwks(value: &Value) -> Result<JwksPlace, String> {
    let right = || must_be("a URL with https:// or http://, without a user and '#', or the path of a file");
    let place = text(value).ok_or_else(right)?;
    if !place.contains("://") {
        return Ok(JwksPlace::File(place.into()));
    }
    let url: Url = place.parse().map_err(|_| right())?;
    let good = matches!(url.scheme(), "http" | "https")
        && url.host_str().is_some()
        && url.username().is_empty()
        && url.password().is_none()
        && url.fragment().is_none();
    if good { Ok(JwksPlace::Url(url)) } else { Err(right()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Value {
        Value::String(text.into())
    }

    #[test]
    fn shared_secrets_and_none_are_no_algorithms() {
        assert_eq!(algorithms(&of("RS256, EdDSA")).unwrap().len(), 2);
        for bad in ["", "none", "NONE", "HS256", "RS256,HS512", "RS256,", "rs256", "ES512"] {
            assert!(algorithms(&of(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_audience_is_unset_anybody_or_one_of_some() {
        assert_eq!(audience(&of("none")), Ok(Audience::Unset));
        assert_eq!(audience(&of("any")), Ok(Audience::Any));
        assert_eq!(audience(&of("crus, api")), Ok(Audience::OneOf(vec!["crus".into(), "api".into()])));
        assert!(audience(&of("crus,,api")).is_err());
    }

    #[test]
    fn keys_are_at_a_url_without_secrets_or_in_a_file() {
        assert!(matches!(jwks(&of("https://a/certs?p=x")), Ok(JwksPlace::Url(_))));
        assert_eq!(jwks(&of("/etc/crus/jwks.json")), Ok(JwksPlace::File("/etc/crus/jwks.json".into())));
        for bad in ["", "ftp://a/b", "https://me:secret@a/", "https://", "https://a/#x", "file:///etc/jwks"] {
            assert!(jwks(&of(bad)).is_err(), "{bad}");
        }
    }
}
