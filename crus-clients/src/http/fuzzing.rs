//! What must hold of errors that a peer tells, and of the URLs that it is asked by.
#![expect(clippy::unwrap_used, reason = "a panic is how a property fails")]

use std::sync::LazyLock;

use crus_core::fuzzing::check_told;
use crus_core::names::{BootSessionName, GroupLabel, TemplateName, Xname};
use crus_core::ports::{Peer, PortError};
use reqwest::{Method, StatusCode};

use super::{Access, BaseUrl, DETAIL_MAX_CHARS, Http, PeerConfig, Reply, clean, problem};

pub(crate) use super::issuer::fuzzing::answers as token_answers;

/// Whatever a peer answers, its error is a line of bounded length.
pub(crate) fn problems(data: &[u8]) {
    let cleaned = clean(&String::from_utf8_lossy(data));
    assert!(cleaned.chars().count() <= DETAIL_MAX_CHARS + 1);
    assert_eq!(clean(&cleaned), cleaned);
    check_told(&cleaned);
    let (code, body) =
        data.split_first_chunk().map_or((500, data), |(code, body)| (u16::from_be_bytes(*code), body));
    let status = StatusCode::from_u16(100 + code % 500).unwrap();
    for access in [Access::Read, Access::Write] {
        let detail = problem(body).map(|text| clean(&text));
        let reply = Reply { peer: Peer::Bos, access, status, body: body.to_vec(), detail };
        _ = reply.says(404, "no such group");
        let errors = [reply.done().err(), reply.json::<Vec<String>>().err(), Some(reply.unexpected())];
        for error in errors.into_iter().flatten() {
            check_told(&error.to_string());
            assert!(access == Access::Write || !error.may_have_acted(), "a read changes nothing: {error}");
            if status.is_server_error() {
                assert!(!matches!(error, PortError::Refused { .. }), "{status}: {error}");
            }
        }
        assert!(reply.done().is_err() || status.is_success());
    }
}

static PEER: LazyLock<Http> = LazyLock::new(|| {
    let base = "http://peer.example/apis/it/v2".parse().unwrap();
    Http::new(Peer::Hsm, PeerConfig::new(base)).unwrap()
});

/// A base URL holds no password and is read as it was written; a name in a path is one part of it, and means no other
/// resource.
pub(crate) fn urls(data: &[u8]) {
    let text = &*String::from_utf8_lossy(data);
    match text.parse::<BaseUrl>() {
        Ok(base) => {
            let shown = base.to_string();
            assert!(shown.starts_with("http://") || shown.starts_with("https://"), "{shown}");
            assert!(!shown.contains(['@', '?', '#']) || base.0.path().contains('@'), "{shown}");
            assert_eq!(shown.parse::<BaseUrl>(), Ok(base));
        }
        Err(error) => check_told(&error.to_string()),
    }
    let names = [
        text.parse::<GroupLabel>().ok().map(String::from),
        text.parse::<TemplateName>().ok().map(String::from),
        text.parse::<BootSessionName>().ok().map(String::from),
        text.parse::<Xname>().ok().map(String::from),
    ];
    for name in names.into_iter().flatten() {
        let request = PEER.request(Method::GET, &["groups", &name, "members"]).build().unwrap();
        assert_eq!(request.url().host_str(), Some("peer.example"));
        assert_eq!(request.url().path(), format!("/apis/it/v2/groups/{name}/members"));
        assert_eq!((request.url().query(), request.url().fragment()), (None, None));
    }
}
