//! How we prove to HSM and BOS who we are, and whom we trust. All files are read again when they change.

use crus_clients::http::ClientAuth;
use toml::Value;

use super::read::{must_be, optional, parsed, path, put, text, url};
use super::{NONE, Setting};

const HEADING: &str = "Access to HSM and BOS";

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        key: "token_file",
        value: "PATH",
        default: NONE,
        heading: HEADING,
        help: "File with the bearer token to send to both, read again when it changes, as are all files of this section. Keep it \
               readable by the service alone",
        set: |c, v| put(&mut c.access.token_file, optional(v, path)),
    },
    Setting {
        key: "hsm_token_file",
        value: "PATH",
        default: NONE,
        heading: HEADING,
        help: "File with the bearer token for HSM alone, instead of what both are sent",
        set: |c, v| put(&mut c.access.hsm.token_file, optional(v, path)),
    },
    Setting {
        key: "bos_token_file",
        value: "PATH",
        default: NONE,
        heading: HEADING,
        help: "File with the bearer token for BOS alone, likewise",
        set: |c, v| put(&mut c.access.bos.token_file, optional(v, path)),
    },
    Setting {
        key: "ca_file",
        value: "PATH",
        default: NONE,
        heading: HEADING,
        help: "PEM file with the certificate authorities to trust for both, and for the issuer of tokens, instead of the \
               system's",
        set: |c, v| put(&mut c.access.ca_file, optional(v, path)),
    },
    Setting {
        key: "hsm_ca_file",
        value: "PATH",
        default: NONE,
        heading: HEADING,
        help: "PEM file with the certificate authorities to trust for HSM, instead of those of ca_file",
        set: |c, v| put(&mut c.access.hsm.ca_file, optional(v, path)),
    },
    Setting {
        key: "hsm_cert_file",
        value: "PATH",
        default: NONE,
        heading: HEADING,
        help: "PEM file with the certificate to show to HSM, where it asks for one, with those between it and its authority",
        set: |c, v| put(&mut c.access.hsm.cert_file, optional(v, path)),
    },
    Setting {
        key: "hsm_key_file",
        value: "PATH",
        default: NONE,
        heading: HEADING,
        help: "PEM file with the key of that certificate, without a password. Keep it readable by the service alone",
        set: |c, v| put(&mut c.access.hsm.key_file, optional(v, path)),
    },
    Setting {
        key: "bos_ca_file",
        value: "PATH",
        default: NONE,
        heading: HEADING,
        help: "PEM file with the certificate authorities to trust for BOS, instead of those of ca_file",
        set: |c, v| put(&mut c.access.bos.ca_file, optional(v, path)),
    },
    Setting {
        key: "bos_cert_file",
        value: "PATH",
        default: NONE,
        heading: HEADING,
        help: "PEM file with the certificate to show to BOS, where it asks for one, with those between it and its authority",
        set: |c, v| put(&mut c.access.bos.cert_file, optional(v, path)),
    },
    Setting {
        key: "bos_key_file",
        value: "PATH",
        default: NONE,
        heading: HEADING,
        help: "PEM file with the key of that certificate, without a password. Keep it readable by the service alone",
        set: |c, v| put(&mut c.access.bos.key_file, optional(v, path)),
    },
    Setting {
        key: "oauth_token_url",
        value: "URL",
        default: NONE,
        heading: HEADING,
        help: "Token endpoint to fetch bearer tokens from by OAuth 2.0 client credentials, instead of token_file; for Keycloak \
               https://HOST/keycloak/realms/REALM/protocol/openid-connect/token. HSM and BOS share a token, which is renewed \
               before it expires",
        set: |c, v| put(&mut c.access.oauth.token_url, optional(v, url)),
    },
    Setting {
        key: "oauth_client_id",
        value: "NAME",
        default: NONE,
        heading: HEADING,
        help: "Client to fetch tokens as, such as admin-client; needed with oauth_token_url",
        set: |c, v| put(&mut c.access.oauth.client_id, optional(v, |v| parsed(v, "the id of a client"))),
    },
    Setting {
        key: "oauth_client_secret_file",
        value: "PATH",
        default: NONE,
        heading: HEADING,
        help: "File with the secret of that client, read for each token; needed with oauth_token_url. Keep it readable by the \
               service alone",
        set: |c, v| put(&mut c.access.oauth.client_secret_file, optional(v, path)),
    },
    Setting {
        key: "oauth_client_auth",
        value: "METHOD",
        default: "client_secret_post",
        heading: HEADING,
        help: "How that client proves itself: client_secret_post (id and secret in the form) or client_secret_basic (in a header)",
        set: |c, v| put(&mut c.access.oauth.client_auth, client_auth(v)),
    },
    Setting {
        key: "oauth_scope",
        value: "SCOPES",
        default: NONE,
        heading: HEADING,
        help: "Scopes to ask for, divided by spaces; without, those that the issuer gives the client anyway",
        set: |c, v| put(&mut c.access.oauth.scope, optional(v, |v| parsed(v, "scopes, divided by spaces"))),
    },
    Setting {
        key: "oauth_ca_file",
        value: "PATH",
        default: NONE,
        heading: HEADING,
        help: "PEM file with the certificate authorities to trust for the issuer of tokens, instead of those of ca_file",
        set: |c, v| put(&mut c.access.oauth.ca_file, optional(v, path)),
    },
    Setting {
        key: "oauth_cert_file",
        value: "PATH",
        default: NONE,
        heading: HEADING,
        help: "PEM file with the certificate to show to the issuer of tokens, where it asks for one, with those between it and its \
               authority",
        set: |c, v| put(&mut c.access.oauth.cert_file, optional(v, path)),
    },
    Setting {
        key: "oauth_key_file",
        value: "PATH",
        default: NONE,
        heading: HEADING,
        help: "PEM file with the key of that certificate, without a password. Keep it readable by the service alone",
        set: |c, v| put(&mut c.access.oauth.key_file, optional(v, path)),
    },
];

fn client_auth(value: &Value) -> Result<ClientAuth, String> {
    match text(value) {
        Some("client_secret_post") => Ok(ClientAuth::SecretPost),
        Some("client_secret_basic") => Ok(ClientAuth::SecretBasic),
        _ => Err(must_be("client_secret_post or client_secret_basic")),
    }
}
