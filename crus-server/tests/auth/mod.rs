//! Who may use the service: whose tokens are good, and whose are not.

mod command;
mod jwt;
mod keys;
mod service;
mod tokens;

use std::sync::Arc;

use crus_api::access::{Caller, Refused};
use crus_server::auth::{Auth, AuthOptions};

/// What the service answers to a token.
async fn ask(auth: &Auth, token: &str) -> Result<Arc<Caller>, Refused> {
    let header = format!("Bearer {token}").parse().unwrap();
    auth.access.caller(Some(&header)).await.map(Option::unwrap)
}

/// Who has the token, and what they may do.
async fn known(auth: &Auth, token: &str) -> String {
    match ask(auth, token).await {
        Ok(caller) => format!("{} {}", caller.name, caller.role.map_or("-", |role| role.name())),
        Err(refused) => refused.to_string(),
    }
}

async fn start(options: &AuthOptions) -> Auth {
    Auth::start(options).await.unwrap()
}
