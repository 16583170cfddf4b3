//! Which version of its API a BOS speaks, to be told when it is not the one that was expected.

use crus_core::ports::{Peer, PortError};
use reqwest::Method;
use serde::Deserialize;

use crate::http::{Access, Http, Reply};

/// What the root of each version answers.
#[derive(Deserialize)]
struct Version {
    major: Major,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Major {
    Number(u64),
    Text(String),
}

/// Whether BOS says that it has no such thing. A 404 of something in front of it, or for a path that BOS does not
/// serve, says nothing about the thing.
pub(super) fn is_missing(reply: &Reply) -> bool {
    reply.status() == 404
        && !reply.detail().is_empty()
        && !reply.says(404, "requested URL was not found")
        && !reply.detail().eq_ignore_ascii_case("not found")
}

/// Why a path that each BOS of this version serves is not served: most likely it is of another version.
pub(super) async fn explain(http: &Http, version: u64, reply: &Reply) -> PortError {
    if reply.status() != 404 {
        return reply.unexpected();
    }
    let root = http.send(Access::Read, http.request(Method::GET, &[])).await;
    let major = root.and_then(|root| root.json::<Version>()).ok().and_then(|root| match root.major {
        Major::Number(major) => Some(major),
        Major::Text(major) => major.parse().ok(),
    });
    match major {
        Some(major) if major != version => {
            let detail = format!(
                "version {major} of its API answers there, not version {version}: set bos_api to v{major}, or have \
                 bos_url end in /v{version}"
            );
            PortError::Refused { peer: Peer::Bos, detail }
        }
        _ => reply.unexpected(),
    }
}
