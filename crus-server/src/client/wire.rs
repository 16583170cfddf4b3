//! Requests to the service, and what its answers mean to people.
//!
//! Every request ends in bounded time and no answer is read beyond its limit. Redirects are not followed and proxies not
//! used: a token goes to the host that it was meant for, or nowhere.

use std::fmt;
use std::time::Duration;

use crus_api::Problem;
use crus_core::TenantName;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderName, LOCATION, RETRY_AFTER};
use reqwest::{Certificate, Client, Method, RequestBuilder, Response, StatusCode, Url};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::error::ClientError;
use super::output::clean;
use super::profile::{Profile, TokenSource};
use super::sse::{Parser, SentEvent};
use super::strategy_args::{flag, in_options};

const JSON: &str = "application/json";
const EVENTS: &str = "text/event-stream";
/// How long to wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an answer may be, in bytes: a page of nodes or all sessions take far less.
const BODY_MAX: usize = 256 << 20;
/// Problems are small; what is beyond this is some page of a gateway.
const PROBLEM_MAX: usize = 64 << 10;
/// A stream that is silent for so long is taken for dead: the service sends something more often.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Why a request was not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CallError {
    /// The code of the answer, when there was one.
    pub(crate) status: Option<StatusCode>,
    /// It may work when it is tried again: the service is away, or says so.
    pub(crate) passing: bool,
    /// It was answered when to come again: who says so did not do it.
    put_off: bool,
    text: String,
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl CallError {
    pub(crate) fn lasting(text: impl Into<String>) -> Self {
        CallError { status: None, passing: false, put_off: false, text: text.into() }
    }

    pub(crate) fn passing(text: impl Into<String>) -> Self {
        CallError { status: None, passing: true, put_off: false, text: text.into() }
    }

    /// Whether the service answered that it cannot do so now.
    pub(crate) fn is_unavailable(&self) -> bool {
        self.status == Some(StatusCode::SERVICE_UNAVAILABLE)
    }

    /// Whether it is not known if the service did it.
    pub(crate) fn is_in_doubt(&self) -> bool {
        match self.status {
            None => self.passing,
            Some(status) => status.is_server_error() && !(self.is_unavailable() && self.put_off),
        }
    }

    /// Whether there is no such thing.
    pub(crate) fn is_missing(&self) -> bool {
        self.status == Some(StatusCode::NOT_FOUND)
    }
}

impl From<CallError> for ClientError {
    fn from(error: CallError) -> Self {
        match error.status {
            Some(StatusCode::UNPROCESSABLE_ENTITY | StatusCode::BAD_REQUEST) => {
                ClientError::usage(error.text)
            }
            _ => ClientError::failed(error.text),
        }
    }
}

/// The service.
#[derive(Debug)]
pub(crate) struct Api {
    client: Client,
    profile: Profile,
    timeout: Duration,
}

impl Api {
    pub(crate) fn new(profile: Profile, timeout: Duration) -> Result<Self, ClientError> {
        let mut client = Client::builder()
            .user_agent(concat!("crus/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT.min(timeout))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy();
        if let Some(path) = &profile.ca_file {
            let wrong = |why: &dyn fmt::Display| {
                ClientError::usage(format!(
                    "failed to read the certificate authorities in {}: {why}; give a PEM file with --ca-file",
                    path.display()
                ))
            };
            let pem = std::fs::read(path).map_err(|error| wrong(&error))?;
            let certificates =
                Certificate::from_pem_bundle(&pem).map_err(|error| wrong(&innermost(&error)))?;
            if certificates.is_empty() {
                return Err(wrong(&"there is no PEM certificate in it"));
            }
            client = client.tls_certs_only(certificates);
        } else if profile.url.scheme() == "http" {
            // The system's authorities would be loaded for nothing, and must be there.
            client = client.tls_certs_only([]);
        }
        let client = client.build().map_err(|error| {
            ClientError::failed(format!(
                "failed to set up the connection: {}; if this system has no certificate authorities, give some with \
                 --ca-file",
                innermost(&error)
            ))
        })?;
        Ok(Api { client, profile, timeout })
    }

    /// Where the service is, for people.
    pub(crate) fn url(&self) -> &str {
        self.profile.url.as_str().trim_end_matches('/')
    }

    pub(crate) async fn get(&self, path: &[&str], query: &[(&str, String)]) -> Result<Value, CallError> {
        self.call(self.request(Method::GET, path, JSON)?.query(query)).await
    }

    /// Asks what an upgrade would come to.
    pub(crate) async fn plan(&self, body: &Value, tenant: Option<&TenantName>) -> Result<Value, CallError> {
        let request = self.for_tenant(self.request(Method::POST, &["plan"], JSON)?, tenant);
        self.call(request.json(body)).await
    }

    /// A request in the name of this tenant, or of the profile's.
    fn for_tenant(&self, request: RequestBuilder, tenant: Option<&TenantName>) -> RequestBuilder {
        match tenant.or(self.profile.tenant.as_ref()) {
            Some(tenant) => request.header("Cray-Tenant-Name", tenant.as_str()),
            None => request,
        }
    }

    /// Asks for a new session; returns it.
    pub(crate) async fn create(&self, body: &Value, tenant: Option<&TenantName>) -> Result<Value, CallError> {
        let request = self.for_tenant(self.request(Method::POST, &["session"], JSON)?, tenant).json(body);
        let (status, answer) = self.answered(request).await?;
        self.session(status, answer, status == StatusCode::CREATED)
    }

    /// Orders something of a session; returns it as it is then.
    pub(crate) async fn order(&self, method: Method, path: &[&str]) -> Result<Value, CallError> {
        let (status, answer) = self.answered(self.request(method, path, JSON)?).await?;
        self.session(status, answer, true)
    }

    /// Any server may answer with some JSON: that an order was taken is believed of CRUS alone.
    fn session(&self, status: StatusCode, answer: Value, is_so: bool) -> Result<Value, CallError> {
        match answer["upgrade_id"].as_str() {
            Some(id) if is_so && !id.is_empty() => Ok(answer),
            _ => Err(self.foreign(status, JSON)),
        }
    }

    /// The events of a session that come after the one of this number, as they happen.
    pub(crate) async fn events(&self, id: &str, after: u64) -> Result<Events, CallError> {
        let mut request = self.request(Method::GET, &["session", id, "events"], EVENTS)?;
        if after > 0 {
            request = request.header(HeaderName::from_static("last-event-id"), after.to_string());
        }
        // The stream itself has no end; its head must come in time.
        let response = tokio::time::timeout(self.timeout, request.send()).await;
        let response = response.map_err(|_| self.slow())?.map_err(|error| self.failed(&error))?;
        let kind = content_type(&response);
        if response.status().is_success() && kind != EVENTS {
            return Err(self.foreign(response.status(), &kind));
        }
        if !response.status().is_success() {
            return Err(self.refused(response).await);
        }
        Ok(Events { response, parser: Parser::default(), ready: Vec::new().into_iter() })
    }

    /// A request for what is at these segments below the root.
    fn request(&self, method: Method, path: &[&str], accept: &str) -> Result<RequestBuilder, CallError> {
        if path.iter().any(|segment| matches!(*segment, "" | "." | "..")) {
            // An id of a session that the service told us: as a path it would mean something else.
            return Err(CallError::lasting(format!(
                "{} tells of a session with an id that is none",
                self.url()
            )));
        }
        let mut url = self.profile.url.clone();
        // Fails only for URLs that are no base, and http ones always are.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        let request = self.client.request(method, url).header(ACCEPT, accept);
        let token = self.profile.token.header().map_err(|error| CallError::lasting(error.to_string()))?;
        Ok(match token {
            Some(token) => request.header(AUTHORIZATION, token),
            None => request,
        })
    }

    async fn call(&self, request: RequestBuilder) -> Result<Value, CallError> {
        Ok(self.answered(request).await?.1)
    }

    async fn answered(&self, request: RequestBuilder) -> Result<(StatusCode, Value), CallError> {
        let request = request.timeout(self.timeout);
        let response = request.send().await.map_err(|error| self.failed(&error))?;
        let (status, kind) = (response.status(), content_type(&response));
        if !status.is_success() {
            return Err(self.refused(response).await);
        }
        let body = read(response, BODY_MAX).await.map_err(|error| match error {
            Some(error) => self.failed(&error),
            None => CallError::lasting(format!("{} answers with more than {BODY_MAX} bytes", self.url())),
        })?;
        let answer = serde_json::from_slice(&body).map_err(|_| self.foreign(status, &kind))?;
        Ok((status, answer))
    }

    /// No answer came.
    fn failed(&self, error: &reqwest::Error) -> CallError {
        let (url, from) = (self.url(), &self.profile.url_from);
        let host = self.profile.url.host_str().unwrap_or_default();
        let why = innermost(error);
        if error.is_timeout() && error.is_connect() {
            return CallError::passing(format!(
                "{url} does not answer: no connection within {} s; is that the right URL (from {from}), and is there \
                 a firewall between?",
                CONNECT_TIMEOUT.min(self.timeout).as_secs()
            ));
        }
        if error.is_timeout() {
            return self.slow();
        }
        if error.is_dns() {
            return CallError::passing(format!(
                "the host {host} is not known; is {url} the right URL (from {from})? Give another with --url"
            ));
        }
        if let Some(text) = self.distrust(&why) {
            return CallError::lasting(text);
        }
        if error.is_connect() {
            let refused = why.to_lowercase().contains("refused");
            let why = if refused { "nobody listens there".to_owned() } else { why };
            return CallError::passing(format!(
                "failed to connect to {url}: {why}; start the service (crus serve), or give its URL (this one is from \
                 {from}) with --url"
            ));
        }
        CallError::passing(format!("the connection to {url} broke before the answer was complete; try again"))
    }

    /// What is wrong about the certificate that was shown.
    fn distrust(&self, why: &str) -> Option<String> {
        let url = self.url();
        let says = |words: &str| why.contains(words);
        if says("UnknownIssuer") || says("unknown issuer") || says("self-signed") || says("SelfSigned") {
            return Some(format!(
                "the certificate of {url} is of an authority that is not trusted here; if it is your system's own, give \
                 its certificate with --ca-file"
            ));
        }
        if says("NotValidForName") || says("not valid for name") {
            return Some(format!(
                "the certificate of {url} is for another name; give the URL with the name that is in it"
            ));
        }
        if says("Expired") || says("expired") {
            return Some(format!("the certificate of {url} has expired; have it renewed"));
        }
        if says("InvalidContentType") || says("corrupt message") {
            return Some(format!("{url} does not speak TLS; is http:// meant?"));
        }
        says("certificate").then(|| format!("the certificate of {url} is not accepted: {}", clean(why)))
    }

    fn slow(&self) -> CallError {
        CallError::passing(format!(
            "{} did not answer within {} s; try again, or wait longer with --timeout-s",
            self.url(),
            self.timeout.as_secs()
        ))
    }

    /// An answer that is not CRUS's.
    fn foreign(&self, status: StatusCode, kind: &str) -> CallError {
        let kind = if kind.is_empty() { "nothing" } else { kind };
        let text = format!(
            "{} answers, but not as CRUS does ({}, {}): is it the right URL (from {})? It is the root of the API, such as \
             https://api-gw-service-nmn.local/apis/crus",
            self.url(),
            status.as_u16(),
            clean(kind),
            self.profile.url_from
        );
        // A gateway answers so while the service is away.
        CallError { status: None, passing: is_passing(status), put_off: false, text }
    }

    /// The service did not do it.
    async fn refused(&self, response: Response) -> CallError {
        let (status, kind) = (response.status(), content_type(&response));
        let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let put_off = response.headers().contains_key(RETRY_AFTER);
        let target = location.and_then(|location| self.profile.url.join(location).ok());
        // Whoever got our token may repeat it.
        let secret = self.profile.token.secret();
        let body = secret.hidden_in_body(read(response, PROBLEM_MAX).await.unwrap_or_default());
        let problem = serde_json::from_slice::<Problem>(&body).ok();
        let detail = problem.as_ref().map(|problem| clean(&problem.detail));
        let url = self.url();
        let said = detail.as_ref().map(|detail| format!(": {detail}")).unwrap_or_default();
        let code = status.as_u16();
        let text = match status {
            StatusCode::UNAUTHORIZED => self.unknown_here(said.trim_end_matches('.')),
            StatusCode::FORBIDDEN => {
                let from = self.profile.token.from();
                let who =
                    from.map_or("without a token".to_owned(), |from| format!("with the token from {from}"));
                let said = said.trim_end_matches('.');
                format!(
                    "{url} does not allow this {who} (403){said}; ask for the right, or give another --token-file"
                )
            }
            StatusCode::UNPROCESSABLE_ENTITY | StatusCode::BAD_REQUEST if problem.is_some() => {
                let errors = problem.and_then(|problem| problem.errors).unwrap_or_default();
                let each: Vec<String> = errors
                    .iter()
                    .flat_map(|(name, reasons)| reasons.iter().map(move |reason| (name, reason)))
                    .map(|(name, reason)| {
                        format!("\n  {}", clean(&format!("{} {}", flag(name), in_options(reason))))
                    })
                    .collect();
                if each.is_empty() {
                    format!("{url} finds the request wrong ({code}){said}")
                } else {
                    format!("{url} finds the request wrong ({code}):{}", each.join(""))
                }
            }
            status if status.is_redirection() => {
                let to = target.map(|target| clean(&shown(&target))).unwrap_or_default();
                format!("{url} points elsewhere ({code}), to {to}; give the service's own root with --url")
            }
            _ if problem.is_none() => return self.foreign(status, &kind),
            StatusCode::NOT_FOUND => format!(
                "{url} does not have it (404){said}; is it the right URL (from {})?",
                self.profile.url_from
            ),
            StatusCode::CONFLICT => format!("refused (409){said}"),
            _ => format!("{url} failed to do it ({code}){said}"),
        };
        // What an HTML page of a gateway says is not here is no session.
        let status_told = if problem_is_ours(&body) { Some(status) } else { None };
        CallError {
            status: status_told,
            passing: is_passing(status),
            put_off,
            text: secret.hidden_in(&text).into_owned(),
        }
    }

    /// `said`: what the service says about it, if it does.
    fn unknown_here(&self, said: &str) -> String {
        let url = self.url();
        match (&self.profile.token, self.profile.token.from()) {
            (TokenSource::None(Some(why)), _) => {
                format!("{url} wants a token (401); {why}. Give one with --token-file")
            }
            (_, None) => format!(
                "{url} wants a token (401); give one with --token-file, CRUS_CLIENT_TOKEN_FILE, CRUS_CLIENT_TOKEN, or in \
                 client.toml"
            ),
            (_, Some(from)) => {
                let may = if said.is_empty() { "; it may have expired" } else { said };
                format!("{url} does not accept the token from {from} (401){may}: get a new one")
            }
        }
    }
}

/// Whether this is an answer of the service, not of something before it.
fn problem_is_ours(body: &[u8]) -> bool {
    serde_json::from_slice::<Problem>(body).is_ok()
}

fn is_passing(status: StatusCode) -> bool {
    status.is_server_error() || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT)
}

/// A URL without what may be secret in it.
fn shown(url: &Url) -> String {
    format!("{}{}", url.origin().ascii_serialization(), url.path())
}

fn content_type(response: &Response) -> String {
    let value = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    value.and_then(|value| value.split(';').next()).unwrap_or_default().trim().to_ascii_lowercase()
}

/// Reads a body of no more than `limit` bytes. `Err(None)` when it is longer.
async fn read(mut response: Response, limit: usize) -> Result<Vec<u8>, Option<reqwest::Error>> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(Some)? {
        body.extend_from_slice(&chunk);
        if body.len() > limit {
            return Err(None);
        }
    }
    Ok(body)
}

/// The cause that all others are there for: theirs only repeat the URL.
fn innermost(error: &reqwest::Error) -> String {
    clean(&anyhow::Chain::new(error).last().unwrap_or(error).to_string())
}

/// Takes an answer as what it is known to hold.
pub(crate) fn view<T: DeserializeOwned>(answer: &Value) -> Result<T, ClientError> {
    T::deserialize(answer).map_err(|error| {
        ClientError::failed(format!(
            "the answer of the service is not understood ({error}); is this crus ({}) older than the service?",
            env!("CARGO_PKG_VERSION")
        ))
    })
}

/// A stream of events.
pub(crate) struct Events {
    response: Response,
    parser: Parser,
    ready: std::vec::IntoIter<SentEvent>,
}

impl Events {
    /// The next event; `None` once the service has ended the stream. When it broke: why, to be read after the word, if
    /// there is more to say.
    pub(crate) async fn next(&mut self) -> Result<Option<SentEvent>, String> {
        loop {
            if let Some(event) = self.ready.next() {
                return Ok(Some(event));
            }
            let chunk = tokio::time::timeout(SILENCE_MAX, self.response.chunk()).await;
            let chunk = chunk.map_err(|_| format!(": it was silent for {} s", SILENCE_MAX.as_secs()))?;
            let Some(chunk) = chunk.map_err(|_| String::new())? else { return Ok(None) };
            self.ready = self.parser.take(&chunk).map_err(|error| format!(": {error}"))?.into_iter();
        }
    }
}
