//! Who sends spans to a collector, beside everything else.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, StatusCode, Url};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::{info, warn};

use super::OtlpOptions;
use super::span::{Span, request};
use crate::config::Misconfigured;

/// So many spans may wait to be sent; more are dropped.
const WAITING: usize = 8192;

/// So many are sent at a time.
const BATCH: usize = 512;

/// How long is waited for more of them.
const PAUSE: Duration = Duration::from_secs(1);

/// How long a request may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How often a request is made that fails for the moment.
const TRIES: u32 = 3;

/// How often it is said that spans are lost.
const TELL_AGAIN: Duration = Duration::from_secs(600);

/// Takes spans, and sends them when it can.
#[derive(Debug, Clone)]
pub struct Tracer {
    to: mpsc::Sender<Message>,
    dropped: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Message {
    Span(Span),
    /// Nothing more is coming: to be told once all of it was sent.
    End(oneshot::Sender<()>),
}

impl Tracer {
    /// Sends to the collector that is configured, if one is. Must be called on a runtime of tokio.
    ///
    /// # Errors
    /// When the URL or the file of headers is of no use.
    pub fn start(options: &OtlpOptions) -> anyhow::Result<Option<Self>> {
        let Some(endpoint) = &options.endpoint else {
            if options.headers_file.is_some() {
                return Err(Misconfigured::error(
                    "otlp_headers_file is set, and otlp_endpoint is not: set both, or none",
                ));
            }
            return Ok(None);
        };
        let url: Url = format!("{}/v1/traces", endpoint.trim_end_matches('/'))
            .parse()
            .context("otlp_endpoint is of no use")?;
        let mut client = Client::builder()
            .timeout(TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .default_headers(headers(options)?)
            .no_proxy();
        if url.scheme() == "http" {
            // The system's CAs would be loaded for nothing, and must be there.
            client = client.tls_certs_only([]);
        }
        let client =
            client.build().context("failed to set up the client of the collector (otlp_endpoint)")?;
        let (to, waiting) = mpsc::channel(WAITING);
        let dropped = Arc::<AtomicU64>::default();
        let sender = Sender { client, url, waiting, dropped: Arc::clone(&dropped), told: None };
        tokio::spawn(sender.run());
        Ok(Some(Tracer { to, dropped }))
    }

    /// Has a span sent, unless too many wait.
    pub fn send(&self, span: Span) {
        if self.to.try_send(Message::Span(span)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Sends what there is, as far as there is time for it.
    pub async fn close(&self, patience: Duration) {
        let (tell, sent) = oneshot::channel();
        let end = async {
            if self.to.send(Message::End(tell)).await.is_ok() {
                // An error: the sender is gone, and nothing will be sent any more.
                drop(sent.await);
            }
        };
        if tokio::time::timeout(patience, end).await.is_err() {
            warn!("the collector of traces did not take the last of them in time");
        }
    }
}

/// The headers in the file, hidden where they are shown.
fn headers(options: &OtlpOptions) -> anyhow::Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    let Some(path) = &options.headers_file else { return Ok(headers) };
    let what = || format!("{} (set by otlp_headers_file)", path.display());
    let text = fs::read_to_string(path).with_context(|| format!("failed to read {}", what()))?;
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let parsed = line.split_once(':').and_then(|(name, value)| {
            let name: HeaderName = name.trim().parse().ok()?;
            let mut value: HeaderValue = value.trim().parse().ok()?;
            value.set_sensitive(true);
            Some((name, value))
        });
        // The line is not shown: it may be a secret.
        let (name, value) = parsed
            .with_context(|| format!("line {number} of {} is no header: it must be 'Name: value'", what()))?;
        headers.append(name, value);
    }
    Ok(headers)
}

struct Sender {
    client: Client,
    url: Url,
    waiting: mpsc::Receiver<Message>,
    dropped: Arc<AtomicU64>,
    /// When it was last said that spans are lost; `None` while none are.
    told: Option<Instant>,
}

impl Sender {
    async fn run(mut self) {
        let mut messages = Vec::with_capacity(BATCH);
        while self.waiting.recv_many(&mut messages, BATCH).await > 0 {
            if messages.len() < BATCH && !messages.iter().any(|message| matches!(message, Message::End(_))) {
                tokio::time::sleep(PAUSE).await;
                while messages.len() < BATCH
                    && let Ok(message) = self.waiting.try_recv()
                {
                    messages.push(message);
                }
            }
            let (mut spans, mut ends) = (Vec::new(), Vec::new());
            for message in messages.drain(..) {
                match message {
                    Message::Span(span) => spans.push(span),
                    Message::End(tell) => ends.push(tell),
                }
            }
            if !spans.is_empty() {
                self.send(&spans).await;
            }
            for tell in ends {
                // Who asked may not wait any longer.
                _ = tell.send(());
            }
        }
    }

    async fn send(&mut self, spans: &[Span]) {
        let body = request(spans).to_string();
        let mut pause = PAUSE;
        for tried in 1..=TRIES {
            let request = self.client.post(self.url.clone()).header(CONTENT_TYPE, "application/json");
            let why = match request.body(body.clone()).send().await {
                Ok(answer) if answer.status().is_success() => {
                    if self.told.take().is_some() {
                        info!("the collector of traces takes spans again");
                    }
                    return;
                }
                Ok(answer) => {
                    let status = answer.status();
                    if !is_for_the_moment(status) {
                        return self.lost(spans.len(), &format!("it answered {status}"));
                    }
                    format!("it answered {status}")
                }
                Err(error) => error.without_url().to_string(),
            };
            if tried == TRIES {
                return self.lost(spans.len(), &why);
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }

    fn lost(&mut self, count: usize, why: &str) {
        let count = self.dropped.fetch_add(count as u64, Ordering::Relaxed) + count as u64;
        if self.told.is_none_or(|told| told.elapsed() >= TELL_AGAIN) {
            self.told = Some(Instant::now());
            let lost = self.dropped.swap(0, Ordering::Relaxed).max(count);
            warn!(lost, "the collector of traces (otlp_endpoint) does not take spans, which are lost: {why}");
        }
    }
}

/// Whether the same request may be taken later, as the protocol has it.
fn is_for_the_moment(status: StatusCode) -> bool {
    use StatusCode as S;
    [S::TOO_MANY_REQUESTS, S::BAD_GATEWAY, S::SERVICE_UNAVAILABLE, S::GATEWAY_TIMEOUT].contains(&status)
}
