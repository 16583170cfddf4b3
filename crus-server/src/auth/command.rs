//! `crus token …`: tokens for the service's file of tokens.

use std::io::{IsTerminal as _, Read as _};

use aws_lc_rs::rand;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use clap::{Args, Subcommand};
use crus_api::access::Role;
use crus_core::Actor;
use jiff::{SignedDuration, Timestamp};

use super::TokenHash;
use crate::client::error::ClientError;
use crate::client::exit;
use crate::client::output::{note, print_all};

/// What a token begins with, so that scanners for secrets know it.
const PREFIX: &str = "crus_";

/// The random bytes of a token.
const RANDOM: usize = 32;

/// A token of others' making must be at least so long, and have so many different characters: its hash is a quick one, and
/// no protection for a word that can be guessed.
const SHORTEST: usize = 32;
const DIFFERENT: usize = 12;

/// Options of `crus token`.
#[derive(Debug, Clone, Args)]
pub(crate) struct TokenArgs {
    #[command(subcommand)]
    verb: TokenVerb,
}

#[derive(Debug, Clone, Subcommand)]
enum TokenVerb {
    /// Make a token: prints the token, which is shown this once, and then the line for the file of auth_token_file.
    ///
    /// The file holds the hash of the token, not the token itself. A running service sees a change of the file within a second.
    #[command(after_help = "Example:\n  crus token new --name ada --role operate > ada\n  sed -n 2p ada >> \
                            /etc/crus/tokens; sed -n 1p ada    # the token is for ada alone: remove the file then")]
    New(LineArgs),
    /// Read a token from standard input, and print its line for the file of auth_token_file.
    Hash(LineArgs),
}

#[derive(Debug, Clone, Args)]
struct LineArgs {
    /// Whose it is: this is noted with what is done by it.
    #[arg(long, value_name = "NAME", value_parser = name)]
    name: Actor,
    /// What it may be used for: read, or operate, which may read as well.
    #[arg(long, value_name = "ROLE", value_parser = role)]
    role: Role,
    /// In so many days it is good no more; without, it is good until its line is removed.
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: Option<u32>,
}

fn name(text: &str) -> Result<Actor, String> {
    let name = Actor::new(text).map_err(|error| error.to_string())?;
    match text.contains(char::is_whitespace) || text.starts_with('#') {
        true => Err("the name must be one word, and not begin with #".to_owned()),
        false => Ok(name),
    }
}

fn role(text: &str) -> Result<Role, String> {
    text.parse().map_err(|error: crus_api::access::NoRole| error.to_string())
}

/// Runs `crus token`; returns what the process ends with.
///
/// # Errors
/// When there are no random bytes, the token read is too simple, or the result cannot be printed.
pub(crate) fn run(args: &TokenArgs) -> Result<u8, ClientError> {
    match &args.verb {
        TokenVerb::New(args) => {
            let token = fresh()?;
            print_all(&format!("{token}\n{}\n", line(args, &token)?))?;
        }
        TokenVerb::Hash(args) => {
            let token = read()?;
            print_all(&format!("{}\n", line(args, &token)?))?;
        }
    }
    Ok(exit::OK)
}

fn fresh() -> Result<String, ClientError> {
    let mut bytes = [0; RANDOM];
    rand::fill(&mut bytes).map_err(|_| ClientError::failed("failed to get random bytes of the system"))?;
    Ok(format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(bytes)))
}

fn read() -> Result<String, ClientError> {
    let mut input = std::io::stdin();
    if input.is_terminal() {
        note("the token, and then Ctrl-D:");
    }
    let mut token = String::new();
    let read = input.by_ref().take(super::TOKEN_MAX as u64 + 2).read_to_string(&mut token);
    read.map_err(|error| {
        ClientError::failed(format!("failed to read the token from standard input: {error}"))
    })?;
    let token = token.trim();
    let different: std::collections::BTreeSet<u8> = token.bytes().collect();
    if token.len() < SHORTEST || different.len() < DIFFERENT {
        return Err(ClientError::usage(format!(
            "the token is too simple: it must be random, with at least {SHORTEST} characters. `crus token new` makes one"
        )));
    }
    let is_sendable = |b: u8| b.is_ascii_alphanumeric() || b"-._~+/=".contains(&b);
    if token.len() > super::TOKEN_MAX || !token.bytes().all(is_sendable) {
        let most = super::TOKEN_MAX;
        return Err(ClientError::usage(format!(
            "the token cannot be sent: it must be letters, digits, and any of - . _ ~ + /, and at most {most} of them"
        )));
    }
    Ok(token.to_owned())
}

/// The line for the file.
fn line(args: &LineArgs, token: &str) -> Result<String, ClientError> {
    let until =
        args.days.map(|days| Timestamp::now().checked_add(SignedDuration::from_hours(24 * i64::from(days))));
    let until = until.transpose().map_err(|error| ClientError::failed(error.to_string()))?;
    let until = until.and_then(|until| until.round(jiff::Unit::Second).ok());
    let until = until.map(|until| format!(" {until}")).unwrap_or_default();
    Ok(format!("{} {} {}{until}", args.name, args.role, TokenHash::of(token.as_bytes()).to_text()))
}
