//! The service under measurement.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::load::{self, Load, Peer};
use crate::support::simulated::Simulated;
use crate::support::{Service, path_of, until};
use crate::trivial::Trivial;
use crate::{LONG, PAIRS, SESSIONS, TIME, report};

/// A running service, and the means to measure it.
pub(crate) struct Subject<'a> {
    site: &'a Simulated,
    service: Service,
    client: reqwest::Client,
    peer: Peer,
    /// The paths of all sessions.
    pub(crate) sessions: Vec<String>,
}

impl Subject<'_> {
    pub(crate) async fn start(
        site: &Simulated,
        mut command: Command,
        token: Option<String>,
        is_tls: bool,
    ) -> Subject<'_> {
        // A connection of its own for each request: the service closes what is idle for as long as a load lasts.
        let mut builder = reqwest::Client::builder().pool_max_idle_per_host(0);
        if is_tls {
            let (file, key) = (certificate("first.pem"), certificate("first.key"));
            command.args(["--tls-cert-file", &file, "--tls-key-file", &key]);
            let trusted = std::fs::read(file).unwrap();
            builder = builder.tls_certs_only([reqwest::Certificate::from_pem(&trusted).unwrap()]);
        }
        let client = builder.build().unwrap();
        let service = Service::start(command);
        let address: SocketAddr = service.url.rsplit('/').next().unwrap().parse().unwrap();
        let peer = Peer { address, pid: service.pid(), tls: is_tls.then(tls), token };
        let mut subject = Subject { site, service, client, peer, sessions: Vec::new() };
        let list: Vec<Value> = serde_json::from_slice(&subject.body("/session").await).unwrap();
        assert_eq!(list.len() as u64, SESSIONS + 1);
        subject.sessions = list.iter().map(path_of).collect();
        until("nodes drained", async || site.changes() > 0).await;
        subject
    }

    async fn body(&self, path: &str) -> Vec<u8> {
        let mut request = self.client.get(format!("{}{path}", self.service.url));
        if let Some(token) = &self.peer.token {
            request = request.bearer_auth(token);
        }
        request.send().await.unwrap().error_for_status().unwrap().bytes().await.unwrap().to_vec()
    }

    /// Reports the running session's polls while there is no load.
    pub(crate) async fn idle(&self) {
        let before = lag(&self.service, &self.client).await;
        let intervals = polls(self.site, TIME).await;
        report_polls("without load: ", &intervals, before, lag(&self.service, &self.client).await);
    }

    /// Sends requests for a second, so that what the service keeps from its first requests does not count as growth.
    pub(crate) async fn warm(&self, paths: &[String]) {
        load::run(&self.peer, paths, Duration::from_secs(1), None).await;
    }

    /// Runs a load on the service, and watches the running session meanwhile.
    pub(crate) async fn load(&self, name: &str, paths: &[String], rate: Option<u32>) -> Load {
        let before = lag(&self.service, &self.client).await;
        let (load, intervals) =
            tokio::join!(load::run(&self.peer, paths, TIME, rate), polls(self.site, TIME));
        report::row(name, &load);
        report_polls(" meanwhile: ", &intervals, before, lag(&self.service, &self.client).await);
        load
    }

    /// Runs loads on the service and on a trivial server in turn. Returns the ratio of each pair.
    pub(crate) async fn compare(&self, paths: &[String], rate: u32) -> Vec<f64> {
        // Of a finished session: the running one is the first or the last.
        let body = self.body(&paths[paths.len() / 2]).await;
        let server = Trivial::start(body.len());
        let trivial = Peer { address: server.address, pid: server.pid(), ..self.peer.clone() };
        let run = async |name: &str, peer: &Peer| {
            let load = load::run(peer, paths, TIME, Some(rate)).await;
            report::row(name, &load);
            load
        };
        let mut ratios = Vec::new();
        for pair in 1..=PAIRS {
            let (service_row, trivial_row) =
                (format!(" {pair}: service"), format!(" {pair}: trivial server"));
            // Neither is always the first.
            let (service, trivial) = if pair % 2 == 0 {
                let service = run(&service_row, &self.peer).await;
                (service, run(&trivial_row, &trivial).await)
            } else {
                let trivial = run(&trivial_row, &trivial).await;
                (run(&service_row, &self.peer).await, trivial)
            };
            ratios.push(report::ratio(&service, &trivial));
        }
        ratios
    }

    /// Runs a long load, and reports the service's memory before and after it.
    pub(crate) async fn grow(&self, paths: &[String]) {
        let before = resident_mib(&self.service);
        let load = load::run(&self.peer, paths, LONG, None).await;
        let after = resident_mib(&self.service);
        println!("resident: {before:.1} MiB before, {after:.1} MiB after {} more answers\n", load.answers);
    }
}

fn certificate(name: &str) -> String {
    format!("{}/tests/http/certificates/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn tls() -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certificate("first.pem")).unwrap()).unwrap();
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

fn resident_mib(service: &Service) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", service.pid())).unwrap();
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    kib.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
}

/// Watches for `time` when the running session polls Slurm. Returns the intervals between the polls, sorted, in milliseconds.
async fn polls(site: &Simulated, time: Duration) -> Vec<u128> {
    let count = || site.live.calls().get("scontrol show").copied().unwrap_or_default();
    let begun = Instant::now();
    let (mut seen, mut last, mut apart) = (count(), None, Vec::new());
    while begun.elapsed() < time {
        tokio::time::sleep(Duration::from_millis(2)).await;
        let now = count();
        if now != seen {
            seen = now;
            if let Some(last) = last.replace(Instant::now()) {
                apart.push(last.elapsed().as_millis());
            }
        }
    }
    apart.sort_unstable();
    apart
}

/// The service's own count of polls, and the sum of their delays, in seconds.
async fn lag(service: &Service, client: &reqwest::Client) -> (f64, f64) {
    let answer = client.get(format!("{}/metrics", service.url)).send().await.unwrap();
    let text = answer.text().await.unwrap();
    let value = |name: &str| {
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok()).unwrap_or_default()
    };
    (value("crus_poll_lag_seconds_count "), value("crus_poll_lag_seconds_sum "))
}

fn report_polls(name: &str, intervals: &[u128], before: (f64, f64), after: (f64, f64)) {
    assert!(!intervals.is_empty(), "the running session does not poll Slurm");
    let (median, worst) = (intervals[intervals.len() / 2], intervals[intervals.len() - 1]);
    let count = after.0 - before.0;
    let late_ms = (after.1 - before.1) / count * 1000.0;
    println!(
        "{name}{} polls, median interval {median} ms, longest {worst} ms; the service's own metrics: {count} polls, {late_ms:.1} ms \
         late on average",
        intervals.len() + 1
    );
}
