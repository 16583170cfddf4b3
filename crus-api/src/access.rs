//! Who may do what, and who is told of it.
//!
//! Each operation on sessions needs a [`Role`]; [`routes`](crate::routes) says which. Before anything of a request but
//! its head is read, whoever implements [`Access`] is asked who sent it. Of one who follows a session they are asked again
//! whenever there is something to tell, if only that nothing happened; the answer ends when the token is not good any more.
//! What changes something, and what was refused, is
//! told to an [`Audit`].
//!
//! No token is needed for paths that tell nothing of sessions (`/healthz`, `/readyz`, `/metrics`, `/openapi.json` and the like), for `OPTIONS`, and
//! to learn that there is no such path (404) or method (405). `/readyz` shows more to who has one.

use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;

use async_trait::async_trait;
use axum::extract::{FromRequestParts, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use crus_core::{Actor, UpgradeId};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use percent_encoding::percent_decode_str;
use tracing::Span;

use crate::problem::Problem;
use crate::routes::id_of;
use crate::service::Sessions;

/// What a caller may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Look at everything, and ask for plans.
    Read,
    /// Change sessions, and look at everything.
    Operate,
}

impl Role {
    /// All roles, the one that may least first.
    pub const ALL: [Role; 2] = [Role::Read, Role::Operate];

    /// The role's name: `read` or `operate`.
    pub fn name(self) -> &'static str {
        match self {
            Role::Read => "read",
            Role::Operate => "operate",
        }
    }

    /// Whether who has this role may do what needs that one.
    pub fn allows(self, needed: Role) -> bool {
        self >= needed
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The text is not the name of a role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the role must be read or operate")]
pub struct NoRole;

impl FromStr for Role {
    type Err = NoRole;
    fn from_str(text: &str) -> Result<Self, NoRole> {
        Role::ALL.into_iter().find(|role| role.name() == text).ok_or(NoRole)
    }
}

/// Who sent a request. A part of the request's extensions, as `Arc<Caller>`, once access was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Who.
    pub name: Actor,
    /// What they may do; `None`: known, but nothing.
    pub role: Option<Role>,
    /// Who says so: a file of tokens, or the issuer of theirs.
    pub source: Arc<str>,
}

/// Who sent a request, to be kept with what they ordered: an extractor. Nobody where nobody is asked.
pub(crate) struct By(pub(crate) Option<Actor>);

impl<S: Sync> FromRequestParts<S> for By {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(By(parts.extensions.get::<Arc<Caller>>().map(|caller| caller.name.clone())))
    }
}

/// The address of whoever holds the connection of a request, which may be a gateway: an extension of the request, put
/// there by the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remote(pub SocketAddr);

/// Why nobody knows who sent a request. No text of these holds anything of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There is no token.
    #[error("there is no token")]
    NoToken,
    /// There is one, and it is not good. The reason is a clause about it, such as "is expired", without `"` and `\`.
    #[error("the token {0}")]
    BadToken(&'static str),
    /// Whether it is good cannot be told now. The reason is a clause.
    #[error("the token cannot be checked now: {0}")]
    CannotTell(&'static str),
}

/// Tells who sent a request.
///
/// # Guarantees asked of an implementation
///
/// - Every call ends in bounded time.
/// - Nothing of the token gets into a log, or into what is answered.
#[async_trait]
pub trait Access: Send + Sync + 'static {
    /// Who sent a request with this `Authorization` header; `None` when nobody is asked, and everybody may do everything.
    ///
    /// # Errors
    /// See [`Refused`].
    async fn caller(&self, authorization: Option<&HeaderValue>) -> Result<Option<Arc<Caller>>, Refused>;
}

/// Nobody is asked who they are.
#[derive(Debug, Clone, Copy, Default)]
pub struct Open;

#[async_trait]
impl Access for Open {
    async fn caller(&self, _: Option<&HeaderValue>) -> Result<Option<Arc<Caller>>, Refused> {
        Ok(None)
    }
}

/// Is told what changes something, and what was refused.
pub trait Audit: Send + Sync + 'static {
    /// Notes it, within the [span](Sessions::span) of the session that it is about. Whoever sent the request waits for that,
    /// so it must not take long.
    fn note(&self, deed: &Deed<'_>);
}

/// A request that changes something, or that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deed<'a> {
    /// Who sent it, when that is known.
    pub caller: Option<&'a Caller>,
    /// From where, when the server told.
    pub remote: Option<SocketAddr>,
    /// Its method.
    pub method: &'a Method,
    /// The path that it goes to, such as `/session/{upgrade_id}`.
    pub path: &'static str,
    /// Which session it is about; of a request to create one that which it created.
    pub upgrade_id: Option<UpgradeId>,
    /// What was answered; `None` when the request was given up before there was an answer: what was ordered may have
    /// been done.
    pub status: Option<StatusCode>,
    /// Why it was refused, when it was, as a clause.
    pub refused: Option<Refusal>,
}

/// Why a request was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nobody knows who sent it.
    #[error(transparent)]
    Unknown(Refused),
    /// Who sent it does not have the role.
    #[error("it needs the role {0}")]
    Role(Role),
}

/// What lets somebody follow something for as long as they may: they are asked about again and again. It holds their token,
/// hence it is not shown.
pub(crate) struct Pass {
    access: Arc<dyn Access>,
    sent: Option<HeaderValue>,
    needed: Role,
}

impl Pass {
    /// The pass of who sent these headers, and was let through: hence there are no two tokens among them.
    pub(crate) fn of(access: &Arc<dyn Access>, headers: &HeaderMap, needed: Role) -> Self {
        let mut sent = headers.get(header::AUTHORIZATION).cloned();
        if let Some(sent) = &mut sent {
            sent.set_sensitive(true);
        }
        Pass { access: Arc::clone(access), sent, needed }
    }

    /// Whether it is still good. One of which that cannot be told now is: an issuer that is away for a moment cuts nobody off.
    pub(crate) async fn is_good(&self) -> bool {
        match self.access.caller(self.sent.as_ref()).await {
            Ok(None) | Err(Refused::CannotTell(_)) => true,
            Ok(Some(caller)) => caller.role.is_some_and(|role| role.allows(self.needed)),
            Err(Refused::NoToken | Refused::BadToken(_)) => false,
        }
    }
}

/// Which session an answer is about: an extension of answers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct About(pub(crate) UpgradeId);

/// What all gates have in common.
pub(crate) struct Gates {
    pub(crate) access: Arc<dyn Access>,
    pub(crate) audit: Option<Arc<dyn Audit>>,
    pub(crate) sessions: Arc<dyn Sessions>,
}

/// What stands before the methods of a path.
#[derive(Clone)]
pub(crate) struct Gate {
    pub(crate) all: Arc<Gates>,
    pub(crate) path: &'static str,
    pub(crate) needed: Role,
}

/// Lets a request through when its sender may do that.
pub(crate) async fn check(State(gate): State<Gate>, mut request: Request, next: Next) -> Response {
    let caller = match authorization(request.headers()) {
        Ok(sent) => gate.all.access.caller(sent).await,
        Err(refused) => Err(refused),
    };
    let caller = match caller {
        Ok(caller) => caller,
        Err(refused) => {
            let answer = unknown(refused);
            Note::of(&gate, &request, None).end(&answer, Some(Refusal::Unknown(refused)));
            return answer;
        }
    };
    if let Some(caller) = &caller
        && !caller.role.is_some_and(|role| role.allows(gate.needed))
    {
        let answer = not_allowed(caller, gate.needed);
        Note::of(&gate, &request, Some(Arc::clone(caller))).end(&answer, Some(Refusal::Role(gate.needed)));
        return answer;
    }
    let note = (gate.needed == Role::Operate).then(|| Note::of(&gate, &request, caller.clone()));
    if let Some(caller) = caller {
        request.extensions_mut().insert(caller);
    }
    let answer = next.run(request).await;
    if let Some(note) = note {
        note.end(&answer, None);
    }
    answer
}

/// Whether who sent these headers may do what needs this role: for what some are shown and others are not, without being
/// refused.
pub(crate) async fn may(access: &dyn Access, headers: &HeaderMap, needed: Role) -> bool {
    let Ok(sent) = authorization(headers) else { return false };
    match access.caller(sent).await {
        Ok(None) => true,
        Ok(Some(caller)) => caller.role.is_some_and(|role| role.allows(needed)),
        Err(_) => false,
    }
}

/// The header that holds the token. Of two nobody knows which is meant.
fn authorization(headers: &HeaderMap) -> Result<Option<&HeaderValue>, Refused> {
    let mut sent = headers.get_all(header::AUTHORIZATION).iter();
    match (sent.next(), sent.next()) {
        (_, Some(_)) => Err(Refused::BadToken("is one of several: there must be one Authorization header")),
        (first, None) => Ok(first),
    }
}

fn unknown(refused: Refused) -> Response {
    match refused {
        Refused::NoToken => {
            let detail =
                "This needs a token, sent with the header 'Authorization: Bearer TOKEN'; there was none.";
            challenge(Problem::new(StatusCode::UNAUTHORIZED, detail), "")
        }
        Refused::BadToken(reason) => {
            let problem =
                Problem::new(StatusCode::UNAUTHORIZED, format!("The token {reason}. Send another."));
            challenge(
                problem,
                &format!(", error=\"invalid_token\", error_description=\"The token {reason}\""),
            )
        }
        Refused::CannotTell(reason) => Problem::cannot_tell(reason).into_response(),
    }
}

fn not_allowed(caller: &Caller, needed: Role) -> Response {
    let has = caller.role.map_or("no role", Role::name);
    let detail = format!("This needs the role {needed}; the token of {} has {has}.", caller.name);
    let problem = Problem::new(StatusCode::FORBIDDEN, detail);
    challenge(problem, &format!(", error=\"insufficient_scope\", scope=\"{needed}\""))
}

/// RFC 6750, section 3.
fn challenge(problem: Problem, more: &str) -> Response {
    let mut answer = problem.into_response();
    // The names of roles and the reasons are our own, and without anything that a header may not hold.
    if let Ok(value) = HeaderValue::try_from(format!("Bearer realm=\"crus\"{more}")) {
        answer.headers_mut().insert(header::WWW_AUTHENTICATE, value);
    }
    answer
}

/// What is going to be told of a request: at its end, or when it is given up before that.
struct Note {
    /// Taken when it was told.
    to: Option<Arc<Gates>>,
    caller: Option<Arc<Caller>>,
    remote: Option<SocketAddr>,
    method: Method,
    path: &'static str,
    id: Option<UpgradeId>,
}

impl Note {
    fn of(gate: &Gate, request: &Request, caller: Option<Arc<Caller>>) -> Self {
        Note {
            to: Some(Arc::clone(&gate.all)),
            caller,
            remote: request.extensions().get::<Remote>().map(|remote| remote.0),
            method: request.method().clone(),
            path: gate.path,
            id: id_in(gate.path, request.uri().path()),
        }
    }

    fn end(mut self, answer: &Response, refused: Option<Refusal>) {
        if let Some(about) = answer.extensions().get::<About>() {
            self.id = Some(about.0);
        }
        self.tell(Some(answer.status()), refused);
    }

    fn tell(&mut self, status: Option<StatusCode>, refused: Option<Refusal>) {
        let Some(to) = self.to.take() else { return };
        let Some(audit) = &to.audit else { return };
        let deed = Deed {
            caller: self.caller.as_deref(),
            remote: self.remote,
            method: &self.method,
            path: self.path,
            upgrade_id: self.id,
            status,
            refused,
        };
        let span = self.id.map_or_else(Span::none, |id| to.sessions.span(id));
        span.in_scope(|| audit.note(&deed));
    }
}

impl Drop for Note {
    /// A client that went away, or a time-out: what it ordered may be done all the same.
    fn drop(&mut self) {
        self.tell(None, None);
    }
}

/// The id in a path of this form, whatever the path is under; read as the routes read it.
fn id_in(form: &'static str, path: &str) -> Option<UpgradeId> {
    let from_end = form.rsplit('/').position(|part| part == "{upgrade_id}")?;
    let part = percent_decode_str(path.rsplit('/').nth(from_end)?);
    id_of(&part.decode_utf8().ok()?)
}
