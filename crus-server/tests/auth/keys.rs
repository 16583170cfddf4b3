//! The keys of the issuer: they change, they are taken away, and the issuer is not always there.

use std::sync::Arc;
use std::time::Duration;

use crus_api::access::Refused;
use crus_server::auth::{AuthOptions, JwksPlace};
use serde_json::json;

use super::{ask, known, start};
use crate::support::issuer::{Issuer, Key, claims, in_s};
use crate::support::until;

#[tokio::test]
async fn a_new_key_is_known_with_the_first_token_that_names_it() {
    let (issuer, old, new) = (Issuer::start().await, Key::p256("old"), Key::rsa("new"));
    issuer.publish(&[&old]);
    let auth = start(&AuthOptions { jwks_pause_ms: 0, ..issuer.options() }).await;
    assert_eq!(known(&auth, &old.token(&claims("ada", &["crus-read"]))).await, "ada read");
    issuer.publish(&[&old, &new]);
    assert_eq!(known(&auth, &new.token(&claims("ada", &["crus-read"]))).await, "ada read");
    assert_eq!(known(&auth, &old.token(&claims("bob", &["crus-read"]))).await, "bob read");
    assert_eq!(issuer.fetches(), 2);
}

#[tokio::test]
async fn however_many_unknown_keys_are_named_the_issuer_is_asked_no_more_often_than_allowed() {
    let (issuer, key) = (Issuer::start().await, Key::p256("one"));
    issuer.publish(&[&key]);
    let auth = Arc::new(start(&AuthOptions { jwks_pause_ms: 3_600_000, ..issuer.options() }).await);
    assert_eq!(known(&auth, &key.token(&claims("ada", &["crus-read"]))).await, "ada read");
    let flood: Vec<_> = (0..500)
        .map(|n| {
            let auth = Arc::clone(&auth);
            let header = json!({ "alg": "ES256", "kid": format!("unknown-{n}") }).to_string();
            let token = key.token_of(&header, &claims("eve", &["crus-operate"]).to_string());
            tokio::spawn(async move { ask(&auth, &token).await })
        })
        .collect();
    for refused in flood {
        let unknown = Refused::BadToken("is signed by a key that its issuer does not have");
        assert_eq!(refused.await.unwrap().unwrap_err(), unknown);
    }
    assert_eq!(issuer.fetches(), 1, "within the pause after the first fetch there is no other");
    // Who has a good token does not notice.
    assert_eq!(known(&auth, &key.token(&claims("bob", &["crus-read"]))).await, "bob read");
}

/// Who sends a token and closes the connection has the request dropped in the midst of the fetch.
#[tokio::test]
async fn requests_that_are_given_up_do_not_have_the_issuer_asked_more_often() {
    let (issuer, old, new) = (Issuer::start().await, Key::p256("old"), Key::p256("new"));
    issuer.publish(&[&old]);
    let options = AuthOptions { jwks_timeout_ms: 60_000, jwks_pause_ms: 0, ..issuer.options() };
    let auth = Arc::new(start(&options).await);
    assert_eq!(known(&auth, &old.token(&claims("ada", &["crus-read"]))).await, "ada read");
    assert_eq!(issuer.fetches(), 1);
    let held = issuer.hold();
    issuer.publish(&[&old, &new]);
    let token = new.token(&claims("bob", &["crus-read"]));
    let first = tokio::spawn({
        let (auth, token) = (Arc::clone(&auth), token.clone());
        async move { ask(&auth, &token).await }
    });
    until("the issuer is asked", async || issuer.fetches() == 2).await;
    first.abort();
    for n in 0..20 {
        let header = json!({ "alg": "ES256", "kid": format!("unknown-{n}") }).to_string();
        let unknown = old.token_of(&header, &claims("eve", &["crus-operate"]).to_string());
        let given_up = tokio::time::timeout(Duration::from_millis(20), ask(&auth, &unknown)).await;
        assert!(given_up.is_err(), "there is no answer yet");
    }
    assert_eq!(issuer.fetches(), 2, "there is one fetch at a time, whoever waits for it");
    // What was fetched for the one who gave up is there for the next.
    held.close();
    assert_eq!(known(&auth, &token).await, "bob read");
    assert_eq!(issuer.fetches(), 2);
}

#[tokio::test]
async fn a_token_of_a_key_that_was_taken_away_is_not_good_any_more() {
    let (issuer, key) = (Issuer::start().await, Key::p256("one"));
    issuer.publish(&[&key]);
    let auth = start(&AuthOptions { jwks_refresh_ms: 20, ..issuer.options() }).await;
    let token = key.token(&claims("ada", &["crus-operate"]));
    assert_eq!(known(&auth, &token).await, "ada operate");
    issuer.publish(&[&Key::p256("other")]);
    let gone = Refused::BadToken("is signed by a key that its issuer does not have");
    until("the key is gone", async || ask(&auth, &token).await == Err(gone)).await;
    // A key of the same name is another.
    issuer.publish(&[&Key::p256("one")]);
    let forged = Refused::BadToken("is not signed by the key that it names");
    until("another key", async || ask(&auth, &token).await == Err(forged)).await;
    issuer.publish_text(json!({ "keys": [] }).to_string());
    until("no key at all", async || ask(&auth, &token).await == Err(gone)).await;
}

#[tokio::test]
async fn what_was_checked_once_is_good_until_it_expires_and_no_longer() {
    let (issuer, key) = (Issuer::start().await, Key::p256("one"));
    issuer.publish(&[&key]);
    let auth = start(&AuthOptions { leeway_s: 0, ..issuer.options() }).await;
    // The keys are there before the token is: its life is short.
    assert_eq!(known(&auth, &key.token(&claims("bob", &["crus-read"]))).await, "bob read");
    let mut claims = claims("ada", &["crus-operate"]);
    claims["exp"] = in_s(4).into();
    let token = key.token(&claims);
    assert_eq!(known(&auth, &token).await, "ada operate");
    let expired = Refused::BadToken("is expired");
    until("it expires", async || ask(&auth, &token).await == Err(expired)).await;
}

#[tokio::test]
async fn while_the_issuer_is_away_its_keys_stay() {
    let (issuer, key) = (Issuer::start().await, Key::p256("one"));
    issuer.publish(&[&key]);
    let auth = start(&AuthOptions { jwks_refresh_ms: 10, ..issuer.options() }).await;
    assert_eq!(known(&auth, &key.token(&claims("ada", &["crus-read"]))).await, "ada read");
    for nonsense in [None, Some("<html>welcome</html>"), Some("{}"), Some("{\"keys\": 7}"), Some("")] {
        match nonsense {
            None => issuer.fail(),
            Some(text) => issuer.publish_text(text.to_owned()),
        }
        let asked = issuer.fetches();
        until("it was asked", async || issuer.fetches() > asked + 2).await;
        assert_eq!(known(&auth, &key.token(&claims("bob", &["crus-read"]))).await, "bob read");
        let other = Key::p256("other").token(&claims("eve", &[]));
        let told = known(&auth, &other).await;
        assert!(told.starts_with("the token cannot be checked now"), "{told}");
    }
}

#[tokio::test]
async fn a_service_starts_before_its_issuer_and_says_that_it_cannot_tell() {
    let (issuer, key) = (Issuer::start().await, Key::p256("one"));
    let auth = start(&issuer.options()).await;
    let token = key.token(&claims("ada", &["crus-read"]));
    assert_eq!(ask(&auth, &token).await, Err(Refused::CannotTell("the keys of its issuer cannot be had")));
    issuer.publish(&[&key]);
    until("it is there", async || ask(&auth, &token).await.is_ok()).await;
    // What is no token is bad whether or not the issuer is there.
    issuer.fail();
    assert_eq!(known(&auth, "rubbish").await, "the token is not known, and is no JWT");
}

#[tokio::test]
async fn keys_may_be_in_a_file_that_changes() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("jwks.json");
    let set = |key: &Key| json!({ "keys": [{ "kty": "oct", "k": "c2VjcmV0" }, key.public()] }).to_string();
    let (old, new) = (Key::p256("old"), Key::ed25519("new"));
    std::fs::write(&file, set(&old)).unwrap();
    let options = Issuer::start().await.options();
    let auth = start(&AuthOptions { jwks: Some(JwksPlace::File(file.clone())), ..options.clone() }).await;
    assert_eq!(known(&auth, &old.token(&claims("ada", &["crus-read"]))).await, "ada read");
    std::fs::write(&file, set(&new)).unwrap();
    let token = new.token(&claims("ada", &["crus-read"]));
    until("the new key", async || ask(&auth, &token).await.is_ok()).await;
    assert!(ask(&auth, &old.token(&claims("ada", &["crus-read"]))).await.is_err());

    std::fs::write(&file, "rubbish").unwrap();
    let error =
        crus_server::auth::Auth::start(&AuthOptions { jwks: Some(JwksPlace::File(file)), ..options }).await;
    let error = format!("{:#}", error.err().unwrap());
    assert!(error.contains("set by auth_jwks") && error.contains("it is no JWKS"), "{error}");
}

/// An issuer that does not answer holds up no request for longer than configured, and one that sends without end is cut off.
#[tokio::test]
async fn an_issuer_that_hangs_holds_nobody_up() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let issuer = Issuer::start().await;
    let options = AuthOptions {
        jwks: Some(JwksPlace::Url(url.parse().unwrap())),
        jwks_timeout_ms: 50,
        jwks_pause_ms: 3_600_000,
        ..issuer.options()
    };
    let auth = start(&options).await;
    let token = Key::p256("one").token(&claims("ada", &[]));
    let patience = Duration::from_secs(30);
    for _ in 0..3 {
        let told = tokio::time::timeout(patience, ask(&auth, &token)).await.unwrap();
        assert_eq!(told, Err(Refused::CannotTell("the keys of its issuer cannot be had")));
    }
    issuer.publish_text(format!("{{\"keys\": [{}]}}", " ".repeat(2 << 20)));
    let auth = start(&issuer.options()).await;
    assert!(matches!(ask(&auth, &token).await, Err(Refused::CannotTell(_))));
}

#[tokio::test]
async fn options_that_are_missing_are_told_with_what_to_do() {
    let issuer = Issuer::start().await;
    let refused = async |change: &dyn Fn(&mut AuthOptions)| {
        let mut options = issuer.options();
        change(&mut options);
        crus_server::auth::Auth::start(&options).await.err().map(|error| format!("{error:#}")).unwrap()
    };
    assert!(refused(&|o| o.jwks = None).await.contains("crus token new"));
    assert!(refused(&|o| o.issuer = None).await.contains("auth_jwks needs auth_issuer"));
    assert!(
        refused(&|o| o.audience = crus_server::auth::Audience::Unset)
            .await
            .contains("auth_audience = \"any\"")
    );
    let far =
        |o: &mut AuthOptions| o.jwks = Some(JwksPlace::Url("http://issuer.example/certs".parse().unwrap()));
    assert!(refused(&far).await.contains("Use https"));
    assert!(refused(&|o| o.jwks_ca_file = Some("/nowhere".into())).await.contains("auth_jwks_ca_file"));
}
