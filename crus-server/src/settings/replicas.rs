//! The etcd that several replicas share.

use toml::Value;

use super::read::{integer, must_be, optional, parsed, path, put, text, url};
use super::{NONE, Setting};

const HEADING: &str = "Several replicas";

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        key: "etcd_endpoints",
        value: "URLS",
        default: NONE,
        heading: HEADING,
        help: "Members of the etcd (3.4 or newer) that holds the sessions instead of the file, divided by commas or \
               as an array: then several replicas may run, and one takes over from another. Needs a crus built with \
               etcd",
        set: |c, v| put(&mut c.etcd.endpoints, optional(v, urls).map(Option::unwrap_or_default)),
    },
    Setting {
        key: "etcd_prefix",
        value: "KEY",
        default: "/crus/",
        heading: HEADING,
        help: "What all our keys in etcd begin with, up to a '/'. Replicas that share sessions share it; nobody else may",
        set: |c, v| put(&mut c.etcd.prefix, prefix(v)),
    },
    Setting {
        key: "etcd_lease_s",
        value: "SECONDS",
        default: "10",
        heading: HEADING,
        help: "Within what time, in whole seconds, another replica takes over from one that is not heard of any more; \
               the same for all replicas. A replica that cannot reach etcd for almost as long stops what it does",
        set: |c, v| put(&mut c.etcd.lease_s, integer(v, 3..=600)),
    },
    Setting {
        key: "etcd_user",
        value: "NAME",
        default: NONE,
        heading: HEADING,
        help: "User of etcd to act as, where it asks for one",
        set: |c, v| put(&mut c.etcd.user, optional(v, |v| parsed(v, "the name of a user of etcd"))),
    },
    Setting {
        key: "etcd_password_file",
        value: "PATH",
        default: NONE,
        heading: HEADING,
        help: "File with the password of that user. Keep it readable by the service alone",
        set: |c, v| put(&mut c.etcd.password_file, optional(v, path)),
    },
    Setting {
        key: "etcd_ca_file",
        value: "PATH",
        default: NONE,
        heading: HEADING,
        help: "PEM file with the certificate authorities to trust for etcd, instead of the system's",
        set: |c, v| put(&mut c.etcd.ca_file, optional(v, path)),
    },
    Setting {
        key: "etcd_cert_file",
        value: "PATH",
        default: NONE,
        heading: HEADING,
        help: "PEM file with the certificate to show to etcd",
        set: |c, v| put(&mut c.etcd.cert_file, optional(v, path)),
    },
    Setting {
        key: "etcd_key_file",
        value: "PATH",
        default: NONE,
        heading: HEADING,
        help: "PEM file with the key of that certificate. Keep it readable by the service alone",
        set: |c, v| put(&mut c.etcd.key_file, optional(v, path)),
    },
];

/// The members of a cluster: all of one scheme, each a host and a port.
fn urls(value: &Value) -> Result<Vec<String>, String> {
    let words: Option<Vec<&str>> = match value {
        Value::Array(words) => words.iter().map(Value::as_str).collect(),
        other => text(other).map(|text| text.split(',').collect()),
    };
    let good = |text: &&str| url(&Value::String((*text).to_owned())).ok();
    let urls: Option<Vec<String>> = words.and_then(|words| words.iter().map(good).collect());
    let is_https = |url: &String| url.starts_with("https://");
    urls.filter(|urls| !urls.is_empty() && urls.iter().all(|url| is_https(url) == is_https(&urls[0]))).ok_or_else(
        || {
            must_be(
                "URLs of hosts and ports, all of http:// or all of https://, divided by commas or as an array, \
                 without users, passwords, '?' and '#'",
            )
        },
    )
}

fn prefix(value: &Value) -> Result<String, String> {
    let stem = text(value).map(|text| text.trim_end_matches('/')).filter(|stem| !stem.is_empty());
    stem.map(|stem| format!("{stem}/")).ok_or_else(|| must_be("what keys begin with, such as /crus/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_of_etcd_are_urls_of_one_kind_without_secrets() {
        let read = |text: &str| urls(&Value::String(text.into()));
        assert_eq!(read("http://a:2379, http://b:2379/").unwrap(), ["http://a:2379", "http://b:2379"]);
        let array = Value::Array(vec![Value::String("https://a:2379".into())]);
        assert_eq!(urls(&array).unwrap(), ["https://a:2379"]);
        for bad in ["", ",", "a:2379", "http://a:2379,https://b:2379", "http://me:secret@a:2379"] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert!(urls(&Value::Array(Vec::new())).is_err());
    }

    #[test]
    fn a_prefix_ends_with_a_slash() {
        let read = |text: &str| prefix(&Value::String(text.into()));
        assert_eq!(read("/crus").unwrap(), "/crus/");
        assert_eq!(read("blue/crus//").unwrap(), "blue/crus/");
        assert!(read("/").is_err(), "that would be all of etcd");
    }
}
