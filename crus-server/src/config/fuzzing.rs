//! What must hold of configuration files and of single options.
#![expect(clippy::expect_used, clippy::unwrap_used, reason = "a panic is how a property fails")]

use std::ffi::OsString;
use std::path::PathBuf;

use super::{Flags, Loaded, parse};
use crate::settings;

const PATH: &str = "/etc/crus/crus.toml";

/// What may be part of a secret, and must not be shown.
const SECRET: &str = "s3cret-Of-A-Receiver";

fn load(text: &str, environment: impl Fn(&str) -> Option<OsString>) -> Result<Loaded, String> {
    let path = PathBuf::from(PATH);
    let table = parse(&path, text).map_err(|error| error.to_string())?;
    let loaded = Loaded::of(&Flags::default(), environment, &[], table, Some(&path));
    loaded.map_err(|error| error.to_string())
}

/// What is printed of a configuration is one that means the same, but for the path of the webhook, which is not shown.
fn check_printed(loaded: &Loaded) {
    let printed = loaded.to_toml();
    let of_webhook = |line: &&str| line.trim_start_matches("# ").starts_with("webhook_url ");
    assert!(!printed.lines().filter(of_webhook).any(|line| line.contains(SECRET)), "{printed}");
    let again = load(&printed, |_| None).expect("what is printed can be loaded");
    let mut expected = loaded.config.clone();
    expected.webhook.url = again.config.webhook.url.clone();
    assert_eq!(again.config, expected);
    assert_eq!(
        again.config.webhook.url.map(|url| url.to_string()),
        loaded.config.webhook.url.as_ref().map(ToString::to_string)
    );
}

/// A file is a configuration that can be printed and loaded again, or is refused.
pub(crate) fn file(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match load(&text, |_| None) {
        Ok(loaded) => check_printed(&loaded),
        Err(told) => {
            assert!(!told.is_empty() && told.len() <= 4_000 + 8 * text.len());
            let of_webhook = told.starts_with("webhook_url ");
            assert!(!of_webhook || !told.contains(SECRET), "{told}");
        }
    }
}

/// Options as text, each on a line: `poll_interval_s=5`.
pub(crate) fn options(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let given: Vec<(&str, &str)> = text.lines().filter_map(|line| line.split_once('=')).collect();
    let variable = |name: &str| {
        let setting = settings::all().find(|setting| setting.variable() == name)?;
        let (_, value) = given.iter().find(|(key, _)| *key == setting.key)?;
        Some(OsString::from(value))
    };
    match load("", variable) {
        Ok(loaded) => {
            for setting in settings::all().filter(|setting| variable(&setting.variable()).is_some()) {
                let value = variable(&setting.variable()).unwrap();
                assert_eq!(loaded.is_set(setting.key), !value.is_empty(), "{}", setting.key);
            }
            check_printed(&loaded);
        }
        Err(told) => {
            assert!(told.starts_with("CRUS_") && told.contains("the environment"), "{told}");
            assert!(!told.starts_with("CRUS_WEBHOOK_URL") || !told.contains(SECRET), "{told}");
        }
    }
}
