//! What must hold of the URL of a webhook.

use super::{Class, HookUrl};

/// Of a URL the origin alone is shown: the rest may be a secret.
pub(crate) fn url(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(url) = text.parse::<HookUrl>() {
        let shown = url.to_string();
        assert_eq!(format!("{url:?}"), shown);
        let host = shown.strip_prefix("http://").or_else(|| shown.strip_prefix("https://"));
        assert!(host.is_some_and(|host| !host.is_empty() && !host.contains(['/', '?', '#', '@'])), "{shown}");
        assert_eq!(shown.parse::<HookUrl>().map(|again| again.to_string()), Ok(shown));
    }
    if let Ok(class) = text.parse::<Class>() {
        assert_eq!(class.name(), text);
    }
}
