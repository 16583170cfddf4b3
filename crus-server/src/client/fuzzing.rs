//! What must hold of what the client reads: its file, and what a service answers.
#![expect(clippy::unwrap_used, reason = "a panic is how a property fails")]

use std::path::{Path, PathBuf};

use super::args::Connection;
use super::profile::{Profile, Stored, parse};
use super::sse::Parser;
use super::views;

const SECRET: &str = "hunter2-0f-The-File";

/// No token is shown, whatever else is in the file or wrong with it; and it goes to the service of the file alone.
pub(crate) fn profile(data: &[u8]) {
    let given = |url: Option<&str>| Connection {
        url: url.map(str::to_owned),
        token_file: None,
        ca_file: None,
        client_config: None,
        timeout_s: 30,
        format: None,
    };
    let rest = String::from_utf8_lossy(data);
    if rest.contains(SECRET) {
        return;
    }
    // Before the tables, or as the only line.
    let text = format!("token = '{SECRET}'\n{rest}");
    let path = PathBuf::from("/home/ada/.config/crus/client.toml");
    let read = |given: &Connection| -> Result<Profile, String> {
        let stored: Stored = parse(&path.display().to_string(), &text).map_err(|error| error.to_string())?;
        let profile = Profile::of(given, &|_| None, Some(Path::new(&path)), stored);
        profile.map_err(|error| error.to_string())
    };
    match read(&given(None)) {
        Err(told) => assert!(!told.contains(SECRET), "{told}"),
        Ok(profile) => {
            assert!(!format!("{profile:?}").contains(SECRET), "{profile:?}");
            let header = profile.token.header().unwrap().unwrap();
            assert_eq!(header.to_str().unwrap(), format!("Bearer {SECRET}"));
            let is_local = ["localhost", "127.", "[::1]"]
                .iter()
                .any(|host| profile.url.host_str().unwrap_or_default().starts_with(host));
            assert!(profile.url.scheme() == "https" || is_local, "{}", profile.url);
        }
    }
    if let Ok(profile) = read(&given(Some("https://other.example/apis/crus"))) {
        let own = read(&given(None)).ok().map(|own| own.url.origin());
        let is_own = own == Some(profile.url.origin());
        assert!(is_own || profile.token.header().unwrap().is_none(), "{rest}");
    }
}

/// Whatever is answered is shown in words of bounded length, or refused.
pub(crate) fn answers(data: &[u8]) {
    _ = serde_json::from_slice::<views::Session>(data);
    _ = serde_json::from_slice::<views::Progress>(data);
    _ = serde_json::from_slice::<views::Nodes>(data);
    if let Ok(event) = serde_json::from_slice::<views::Event>(data) {
        assert!(event.words().len() <= 200 + 8 * data.len());
    }
    if let Ok(value) = serde_json::from_slice::<serde_json::Value>(data) {
        _ = super::output::to_toml(&value);
        _ = views::strategy_words(&value);
    }
}

/// It does not matter how the bytes of a stream are cut, and events hold no more than came.
pub(crate) fn stream(data: &[u8]) {
    // The first bytes say where to cut.
    let (cuts, bytes) = data.split_at(data.len().min(4));
    let whole = Parser::default().take(bytes).unwrap();
    let mut parser = Parser::default();
    let mut events = Vec::new();
    let mut rest = bytes;
    for &cut in cuts {
        let (part, after) = rest.split_at(rest.len().min(usize::from(cut)));
        events.extend(parser.take(part).unwrap());
        rest = after;
    }
    for byte in rest {
        events.extend(parser.take(&[*byte]).unwrap());
    }
    assert_eq!(events, whole);
    // What is no UTF-8 is replaced by what is longer.
    assert!(whole.iter().map(|event| event.data.len() + event.event.len()).sum::<usize>() <= 3 * bytes.len());
    for event in &whole {
        assert!(!event.id.contains(['\0', '\n', '\r']) && !event.event.contains(['\n', '\r']));
        assert!(!event.data.contains('\r'));
        // What the service would send of it is read as the same.
        if event.data.is_empty() {
            continue;
        }
        let data = event.data.replace('\n', "\ndata: ");
        let sent = format!("id: {}\nevent: {}\ndata: {data}\n\n", event.id, event.event);
        assert_eq!(Parser::default().take(sent.as_bytes()).unwrap().as_slice(), std::slice::from_ref(event));
    }
}
