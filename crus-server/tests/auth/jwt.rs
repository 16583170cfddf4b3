//! JWTs: when one is good, and what its holder may do.

use aws_lc_rs::hmac;
use crus_api::access::Refused;
use crus_server::auth::{Audience, AuthOptions};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{ask, known, start};
use crate::support::issuer::{AUDIENCE, ISSUER, Issuer, Key, claims, encoded, in_s};

/// An issuer with a key of each kind.
async fn all_keys() -> (Issuer, [Key; 4]) {
    let keys = [Key::rsa("rsa"), Key::p256("p256"), Key::p384("p384"), Key::ed25519("ed25519")];
    let issuer = Issuer::start().await;
    issuer.publish(&keys.each_ref());
    (issuer, keys)
}

async fn one_key() -> (Issuer, Key) {
    let (issuer, key) = (Issuer::start().await, Key::p256("one"));
    issuer.publish(&[&key]);
    (issuer, key)
}

/// Some claims changed, or taken away where they are null.
fn with(changes: &Value) -> Value {
    let mut claims = claims("ada", &["crus-operate"]);
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => claims.as_object_mut().unwrap().remove(name),
            value => claims.as_object_mut().unwrap().insert(name.clone(), value.clone()),
        };
    }
    claims
}

#[tokio::test]
async fn a_token_of_the_issuer_is_good_however_it_is_signed() {
    let (issuer, keys) = all_keys().await;
    let auth = start(&issuer.options()).await;
    for key in &keys {
        assert_eq!(known(&auth, &key.token(&claims("ada", &["crus-operate"]))).await, "ada operate");
    }
    for algorithm in ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"] {
        let header = json!({ "alg": algorithm, "kid": "rsa" }).to_string();
        let token = keys[0].token_of(&header, &claims("bob", &["crus-read"]).to_string());
        assert_eq!(known(&auth, &token).await, "bob read", "{algorithm}");
        // As remembered, likewise.
        assert_eq!(known(&auth, &token).await, "bob read", "{algorithm}");
    }
    assert_eq!(issuer.fetches(), 1);
}

#[tokio::test]
async fn each_claim_must_be_right() {
    let (issuer, key) = one_key().await;
    let auth = start(&issuer.options()).await;
    let good = [
        json!({}),
        json!({ "exp": in_s(-30) }),
        json!({ "nbf": in_s(30) }),
        json!({ "aud": AUDIENCE }),
        json!({ "iat": null, "sub": null }),
    ];
    for changes in good {
        assert_eq!(known(&auth, &key.token(&with(&changes))).await, "ada operate", "{changes}");
    }
    let bad = [
        (json!({ "exp": in_s(-90) }), "is expired"),
        (json!({ "exp": 0 }), "is expired"),
        (json!({ "exp": null }), "does not say when it expires"),
        (json!({ "exp": "never" }), "does not say when it expires"),
        (json!({ "exp": [in_s(300)] }), "is broken"),
        (json!({ "exp": -1 }), "does not say when it expires"),
        (json!({ "nbf": in_s(90) }), "is not valid yet"),
        (json!({ "nbf": "later" }), "is broken"),
        (json!({ "iss": null }), "is of another issuer"),
        (json!({ "iss": format!("{ISSUER}/") }), "is of another issuer"),
        (json!({ "iss": ISSUER.to_uppercase() }), "is of another issuer"),
        (json!({ "iss": [ISSUER] }), "is of another issuer"),
        (json!({ "iss": [ISSUER, "https://other"] }), "is of another issuer"),
        (json!({ "aud": null }), "does not say whom it is for"),
        (json!({ "aud": "account" }), "is for another audience"),
        (json!({ "aud": ["account"] }), "is for another audience"),
        (json!({ "aud": [] }), "is for another audience"),
        (json!({ "aud": { "crus": true } }), "does not say whom it is for"),
        (json!({ "preferred_username": null, "sub": null }), "does not say whose it is (auth_name_claim)"),
        (json!({ "preferred_username": "\n \u{202e}", "sub": " " }), "-"),
    ];
    for (changes, flaw) in bad {
        let told = known(&auth, &key.token(&with(&changes))).await;
        if flaw != "-" {
            assert_eq!(told, format!("the token {flaw}"), "{changes}");
        }
        assert!(!told.chars().any(char::is_control), "{told:?}");
    }
}

#[tokio::test]
async fn a_name_is_made_harmless() {
    let (issuer, key) = one_key().await;
    let auth = start(&issuer.options()).await;
    let name = format!("ada\n\u{1b}[2J{}", "x".repeat(1000));
    let caller = ask(&auth, &key.token(&claims(&name, &[]))).await.unwrap();
    assert!(caller.name.as_str().starts_with("ada??[2Jxxx"), "{}", caller.name);
    assert_eq!(caller.name.as_str().chars().count(), 128);
    let named = with(&json!({ "preferred_username": 7 }));
    assert_eq!(ask(&auth, &key.token(&named)).await.unwrap().name.as_str(), named["sub"]);
}

// ---- forged tokens ----------------------------------------------------------------------------------------

#[tokio::test]
async fn only_a_key_of_the_issuer_signs() {
    let (issuer, keys) = all_keys().await;
    let auth = start(&issuer.options()).await;
    let wrong = "the token is not signed by the key that it names";
    for (real, forged) in
        keys.iter().zip([Key::rsa("rsa"), Key::p256("p256"), Key::p384("p384"), Key::ed25519("ed25519")])
    {
        assert_eq!(known(&auth, &forged.token(&claims("eve", &["crus-operate"]))).await, wrong);
        let token = real.token(&claims("ada", &["crus-read"]));
        let parts: Vec<&str> = token.split('.').collect();
        let other = encoded(claims("ada", &["crus-operate"]).to_string());
        assert_eq!(known(&auth, &format!("{}.{other}.{}", parts[0], parts[2])).await, wrong, "other claims");
        assert_eq!(known(&auth, &format!("{}.{}.", parts[0], parts[1])).await, wrong, "no signature");
    }
}

#[tokio::test]
async fn none_and_shared_secrets_are_no_signatures() {
    let (issuer, keys) = all_keys().await;
    let auth = start(&issuer.options()).await;
    let claims = encoded(claims("eve", &["crus-operate"]).to_string());
    let not_allowed = "the token is signed in a way that is not allowed here (auth_algorithms)";
    for algorithm in ["none", "None", "NONE", "nOnE", "", "HS256", "rs256", "RS256 ", "RS1", "ES512"] {
        for kid in [json!({ "alg": algorithm, "kid": "rsa" }), json!({ "alg": algorithm })] {
            let message = format!("{}.{claims}", encoded(kid.to_string()));
            for signature in ["", "AAAA"] {
                assert_eq!(known(&auth, &format!("{message}.{signature}")).await, not_allowed, "{algorithm}");
            }
        }
    }
    // The public key, in each form that somebody may take for the secret.
    for key in &keys {
        let public = key.public();
        let texts = [public.to_string(), public["n"].to_string(), public["x"].to_string()];
        for text in texts {
            for algorithm in ["HS256", "HS384", "HS512"] {
                let message =
                    format!("{}.{claims}", encoded(json!({ "alg": algorithm, "kid": key.id }).to_string()));
                let secret = hmac::Key::new(hmac::HMAC_SHA256, text.as_bytes());
                let signature = encoded(hmac::sign(&secret, message.as_bytes()));
                assert_eq!(known(&auth, &format!("{message}.{signature}")).await, not_allowed);
            }
        }
    }
}

/// A token says itself by which key it is to be checked: nobody listens.
#[tokio::test]
async fn a_key_that_comes_with_the_token_is_not_looked_at() {
    let (issuer, key) = one_key().await;
    let auth = start(&issuer.options()).await;
    let eve = Key::p256("one");
    let trap = Issuer::start().await;
    trap.publish(&[&eve]);
    let claims = claims("eve", &["crus-operate"]).to_string();
    let mut tricks = vec![
        json!({ "jwk": eve.public() }),
        json!({ "jku": trap.url }),
        json!({ "x5u": trap.url }),
        json!({ "x5c": [encoded("certificate")] }),
        json!({ "kid": trap.url }),
        json!({ "kid": "../../../../dev/null" }),
        json!({ "kid": "one' UNION SELECT 'x" }),
    ];
    tricks.push(json!({ "jwk": eve.public(), "kid": "other" }));
    for trick in tricks {
        let mut header = json!({ "alg": "ES256", "kid": "one" });
        header.as_object_mut().unwrap().extend(trick.as_object().unwrap().clone());
        let told = known(&auth, &eve.token_of(&header.to_string(), &claims)).await;
        assert!(told.starts_with("the token is "), "{trick}: {told}");
    }
    assert_eq!(trap.fetches(), 0, "nobody asked it");
    let header = json!({ "alg": "ES256", "kid": "one", "jku": trap.url }).to_string();
    assert_eq!(
        known(&auth, &key.token_of(&header, &claims)).await,
        "eve operate",
        "a real one may say what it likes"
    );
}

#[tokio::test]
async fn what_must_be_understood_and_is_not_makes_a_token_bad() {
    let (issuer, key) = one_key().await;
    let auth = start(&issuer.options()).await;
    let claims = claims("ada", &["crus-operate"]).to_string();
    let critical = "the token has a critical extension, and none is known here";
    let headers = [
        (r#"{"alg":"ES256","kid":"one","crit":["exp"],"exp":1}"#, critical),
        (r#"{"alg":"ES256","kid":"one","crit":["b64"],"b64":false}"#, critical),
        (r#"{"alg":"ES256","kid":"one","crit":[]}"#, critical),
        (r#"{"alg":"ES256","kid":"one","crit":null}"#, critical),
        (r#"{"alg":"ES256","kid":"one","typ":"logout+jwt"}"#, "the token is not of the type JWT"),
        (r#"{"alg":"ES256","kid":"one","typ":7}"#, "the token is not known, and is no JWT"),
        (r#"{"alg":"ES256","kid":1}"#, "the token is not known, and is no JWT"),
        (r#"{"alg":"ES256","alg":"ES256","kid":"one"}"#, "the token is not known, and is no JWT"),
        (r#"{"alg":["ES256"],"kid":"one"}"#, "the token is not known, and is no JWT"),
        (r#"{"kid":"one"}"#, "the token is not known, and is no JWT"),
    ];
    for (header, told) in headers {
        assert_eq!(known(&auth, &key.token_of(header, &claims)).await, told, "{header}");
    }
    for typ in ["JWT", "jwt", "at+jwt"] {
        let header = json!({ "alg": "ES256", "kid": "one", "typ": typ }).to_string();
        assert_eq!(known(&auth, &key.token_of(&header, &claims)).await, "ada operate", "{typ}");
    }
}

#[tokio::test]
async fn a_key_is_used_for_what_it_is_meant_for() {
    let (issuer, key) = (Issuer::start().await, Key::rsa("one"));
    let token = key.token(&claims("ada", &["crus-read"]));
    let known_with = async |change: Value| {
        let mut public = key.public();
        public.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        issuer.publish_text(json!({ "keys": [public] }).to_string());
        known(&start(&issuer.options()).await, &token).await
    };
    for bad in [
        json!({ "use": "enc" }),
        json!({ "use": "other" }),
        json!({ "key_ops": ["encrypt"] }),
        json!({ "alg": "RS512" }),
        json!({ "alg": "RSA-OAEP" }),
        json!({ "alg": "HS256" }),
        json!({ "kty": "EC" }),
        json!({ "kid": "two" }),
        json!({ "n": "AQAB" }),
        json!({ "n": "" }),
    ] {
        let told = known_with(bad.clone()).await;
        assert!(told.starts_with("the token is "), "{bad}: {told}");
    }
    for good in [json!({}), json!({ "alg": "RS256" }), json!({ "key_ops": ["verify"], "x5c": ["x"] })] {
        assert_eq!(known_with(good.clone()).await, "ada read", "{good}");
    }
}

#[tokio::test]
async fn an_algorithm_that_is_not_allowed_does_not_count() {
    let (issuer, keys) = all_keys().await;
    let options = AuthOptions { algorithms: vec!["ES256".parse().unwrap()], ..issuer.options() };
    let auth = start(&options).await;
    for key in &keys {
        let is_good = ask(&auth, &key.token(&claims("ada", &[]))).await.is_ok();
        assert_eq!(is_good, key.id == "p256", "{}", key.id);
    }
}

// ---- roles ------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_role_counts_where_it_belongs_and_nowhere_else() {
    let (issuer, key) = one_key().await;
    let auth = start(&issuer.options()).await;
    let role_of = async |changes: Value| known(&auth, &key.token(&with(&changes))).await;
    assert_eq!(
        role_of(json!({ "realm_access": { "roles": ["crus-read", "crus-operate"] } })).await,
        "ada operate"
    );
    assert_eq!(role_of(json!({ "realm_access": { "roles": "offline crus-read" } })).await, "ada read");
    let stolen = [
        json!(null),
        json!({ "roles": [] }),
        json!({ "roles": ["Crus-Operate", "crus-operate ", "crus-operator", "*", "operate"] }),
        json!({ "roles": [["crus-operate"]] }),
        json!({ "roles": [{ "crus-operate": true }] }),
        json!({ "roles": { "crus-operate": true } }),
        json!({ "roles": ["x crus-operate"] }),
        json!({ "roles": "crus-operate,crus-read" }),
        json!({ "roles": true }),
        json!([{ "roles": ["crus-operate"] }]),
        json!({ "x": { "roles": ["crus-operate"] } }),
        json!("crus-operate"),
    ];
    for access in stolen {
        let claims = json!({
            "realm_access": access,
            "realm_access.roles": ["crus-operate"],
            "resource_access": { "crus": { "roles": ["crus-operate"] } },
            "roles": ["crus-operate"],
            "groups": ["crus-operate"],
            "scope": "crus-operate",
            "role": "operate",
        });
        assert_eq!(role_of(claims.clone()).await, "ada -", "{claims}");
    }
}

#[tokio::test]
async fn a_claim_that_stands_twice_makes_a_token_bad() {
    let (issuer, key) = one_key().await;
    let auth = start(&issuer.options()).await;
    let header = json!({ "alg": "ES256", "kid": "one" }).to_string();
    let one = claims("ada", &["crus-read"]).to_string();
    let rest = one.strip_prefix('{').unwrap();
    for twice in [
        r#""realm_access":{"roles":["crus-operate"]}"#,
        r#""realm_\u0061ccess":{"roles":["crus-operate"]}"#,
        r#""preferred_username":"root""#,
        r#""exp":99999999999"#,
        r#""x":{"a":1,"a":2}"#,
    ] {
        let claims = format!("{{{twice},{rest}");
        assert_eq!(known(&auth, &key.token_of(&header, &claims)).await, "the token is broken", "{twice}");
    }
}

#[tokio::test]
async fn roles_and_names_are_where_the_site_says() {
    let (issuer, key) = one_key().await;
    let options = AuthOptions {
        role_claim: "scope".parse().unwrap(),
        read_roles: vec!["crus:look".into(), "crus:see".into()],
        operate_roles: Vec::new(),
        name_claim: "/https:~1~1site~1user".parse().unwrap(),
        audience: Audience::Any,
        ..issuer.options()
    };
    let auth = start(&options).await;
    let claims = with(&json!({ "scope": "openid crus:see", "https://site/user": "grace", "aud": null }));
    assert_eq!(known(&auth, &key.token(&claims)).await, "grace read");
    assert_eq!(
        known(&auth, &key.token(&with(&json!({ "scope": "", "aud": "other" })))).await,
        with(&json!({}))["sub"].as_str().unwrap().to_owned() + " -"
    );
}

// ---- anything ---------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_token_is_not_longer_than_it_may_be() {
    let (issuer, key) = one_key().await;
    let auth = start(&issuer.options()).await;
    let long = key.token(&with(&json!({ "x": "x".repeat(20_000) })));
    assert_eq!(known(&auth, &long).await, "the token is too long");
    let claims = with(&json!({ "x": "x".repeat(8_000) }));
    assert_eq!(known(&auth, &key.token(&claims)).await, "ada operate");
}

/// Damages a good token, or makes one up: it is good, or bad, and never that the service failed.
#[test]
fn any_header_is_good_or_bad() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (issuer, key) = runtime.block_on(one_key());
    let auth = runtime.block_on(start(&AuthOptions { jwks_pause_ms: 3_600_000, ..issuer.options() }));
    let token = key.token(&claims("ada", &["crus-read"]));
    assert_eq!(runtime.block_on(known(&auth, &token)), "ada read");
    let part = "([A-Za-z0-9_-]{0,40}|eyJhbGciOiJFUzI1NiIsImtpZCI6Im9uZSJ9|e30|bnVsbA|W10)";
    let damaged = (0..token.len(), any::<u8>()).prop_map(move |(at, with)| {
        let mut bytes = token.clone().into_bytes();
        bytes[at] = with;
        [b"Bearer ", bytes.as_slice()].concat()
    });
    let made_up = prop_oneof![
        damaged,
        prop::collection::vec(any::<u8>(), 0..200),
        prop::collection::vec(any::<u8>(), 0..200).prop_map(|bytes| [b"Bearer ", bytes.as_slice()].concat()),
        prop::string::string_regex(&format!("Bearer {part}[.]{part}[.]{part}"))
            .unwrap()
            .prop_map(String::into_bytes),
        (any::<String>(), any::<String>()).prop_map(|(a, b)| format!(
            "Bearer {}.{}.{}",
            encoded(a),
            encoded(b),
            encoded("x")
        )
        .into_bytes()),
        (any_json(), any_json()).prop_map(|(a, b)| format!(
            "Bearer {}.{}.AA",
            encoded(a.to_string()),
            encoded(b.to_string())
        )
        .into_bytes()),
    ];
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(2000));
    let tried = runner.run(&made_up, |header| {
        let Ok(header) = axum::http::HeaderValue::from_bytes(&header) else { return Ok(()) };
        match runtime.block_on(auth.access.caller(Some(&header))) {
            Ok(_) | Err(Refused::NoToken | Refused::BadToken(_)) => Ok(()),
            Err(other) => Err(TestCaseError::fail(other.to_string())),
        }
    });
    tried.unwrap();
}

/// JSON that may be the header or the claims of a token.
fn any_json() -> impl Strategy<Value = Value> {
    let text = prop_oneof!["alg", "kid", "ES256", "one", "RS256", "exp", "iss", "aud", "crit", ".{0,8}"];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 20, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(text.clone(), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}
