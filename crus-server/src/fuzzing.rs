//! What must hold of files, options and answers, for fuzz targets and for tests: see [`crus_core::fuzzing`].

use crus_core::fuzzing::Property;

/// Those of this crate.
const OWN: &[Property] = &[
    ("token", crate::auth::fuzzing::token),
    ("token_file", crate::auth::fuzzing::token_file),
    ("configuration", crate::config::fuzzing::file),
    ("options", crate::config::fuzzing::options),
    ("client_profile", crate::client::fuzzing::profile),
    ("client_answers", crate::client::fuzzing::answers),
    ("event_stream", crate::client::fuzzing::stream),
    ("check_output", crate::checks::fuzzing::output),
    ("webhook_url", crate::webhook::fuzzing::url),
    ("store_file", crate::store::fuzzing::file),
];

/// Those of all crates.
pub fn properties() -> impl Iterator<Item = Property> {
    let parts = [
        crus_core::fuzzing::PROPERTIES,
        crus_clients::fuzzing::PROPERTIES,
        crus_api::fuzzing::PROPERTIES,
        OWN,
    ];
    parts.into_iter().flatten().copied()
}
