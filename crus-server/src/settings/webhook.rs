//! Who is told what happens.

use std::collections::BTreeSet;

use toml::Value;

use super::read::{must_be, optional, parsed, path, put, seconds, text};
use super::{LONGEST_S, NONE, Setting};
use crate::webhook::Class;

const HEADING: &str = "Webhook";

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        key: "webhook_url",
        value: "URL",
        default: NONE,
        heading: HEADING,
        help: "Where to post what happens in sessions, as JSON, signed as the Standard Webhooks specification has it. Its \
               path and query are not shown anywhere",
        set: |c, v| {
            put(
                &mut c.webhook.url,
                optional(v, |v| parsed(v, "a URL with http:// or https://, without a user")),
            )
        },
    },
    Setting {
        key: "webhook_secret_file",
        value: "PATH",
        default: NONE,
        heading: HEADING,
        help: "File with the secret to sign by, as it is or as whsec_ and Base64; needed with webhook_url. Keep it readable \
               by the service alone",
        set: |c, v| put(&mut c.webhook.secret_file, optional(v, path)),
    },
    Setting {
        key: "webhook_ca_file",
        value: "PATH",
        default: NONE,
        heading: HEADING,
        help: "PEM file with the certificate authorities to trust for it, instead of the system's",
        set: |c, v| put(&mut c.webhook.ca_file, optional(v, path)),
    },
    Setting {
        key: "webhook_events",
        value: "CLASSES",
        default: "started,paused,resumed,retried,step_done,node_failed,finished,deleted",
        heading: HEADING,
        help: "What to post, divided by commas or as an array: any of these",
        set: |c, v| put(&mut c.webhook.events, classes(v)),
    },
    Setting {
        key: "webhook_timeout_s",
        value: "SECONDS",
        default: "10",
        heading: HEADING,
        help: "How long one attempt may take. A session that is to be deleted waits no longer than that until all was posted",
        set: |c, v| put(&mut c.webhook.timeout_ms, seconds(v, 0.1..=600.0)),
    },
    Setting {
        key: "webhook_retry_max_s",
        value: "SECONDS",
        default: "60",
        heading: HEADING,
        help: "The longest pause between two attempts. An entry is tried until it is taken, as long as its session is kept; one \
               that is refused again and again (a status of 400 to 499 but 408, 425 and 429) is given up",
        set: |c, v| put(&mut c.webhook.retry_max_ms, seconds(v, 0.01..=LONGEST_S)),
    },
];

fn classes(value: &Value) -> Result<BTreeSet<Class>, String> {
    let names: Option<Vec<String>> = match value {
        Value::Array(names) => names.iter().map(|name| text(name).map(str::to_owned)).collect(),
        other => text(other).map(|text| text.split(',').map(|name| name.trim().to_owned()).collect()),
    };
    let classes =
        names.and_then(|names| names.iter().map(|name| name.parse().ok()).collect::<Option<BTreeSet<_>>>());
    let all = || Class::ALL.map(Class::name).join(", ");
    classes.filter(|classes| !classes.is_empty()).ok_or_else(|| must_be(&format!("some of {}", all())))
}
