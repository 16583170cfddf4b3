//! Who we say we are, and whom we believe: certificates of a private CA on either side, and tokens that are fetched,
//! against real TLS servers.

mod certificates;
mod tokens;

use std::path::Path;
use std::time::Duration;

use crus_clients::http::{PeerConfig, TlsFiles};
use crus_core::GroupLabel;

use crus_sim::testing::pki::{self, Ca};
use crus_sim::testing::server::{Answer, json};
use crus_sim::testing::until;

/// What HSM answers about an empty group.
fn empty_group() -> Answer {
    json("200 OK", r#"{"label":"upgrading","members":{"ids":[]}}"#)
}

fn label() -> GroupLabel {
    GroupLabel::new("upgrading").unwrap()
}

/// Trusts this CA alone; looks at the files before each request.
fn trusting(folder: &Path, ca: &Ca) -> TlsFiles {
    let ca_file = Some(pki::put(folder, "ca.pem", &ca.pem));
    TlsFiles { ca_file, check_interval: Duration::ZERO, ..TlsFiles::default() }
}

fn config(url: &str, tls: TlsFiles) -> PeerConfig {
    PeerConfig {
        connect_timeout: Duration::from_secs(20),
        total_timeout: Duration::from_secs(20),
        tls,
        ..PeerConfig::new(url.parse().unwrap())
    }
}
