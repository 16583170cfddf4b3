//! Which version this is, and what it was made of.

/// The version of the service, as the changelog counts them. That of its API is another.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The first 12 digits of the commit that this was built from, or `unknown`.
pub const COMMIT: &str = env!("CRUS_BUILT_COMMIT");

/// Whether it was built from that commit with changes.
pub const IS_MODIFIED: bool = !env!("CRUS_BUILT_MODIFIED").is_empty();

/// All of it, for people: `1.0.0 (commit 0123456789ab, modified)`.
pub const LONG_VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (commit ",
    env!("CRUS_BUILT_COMMIT"),
    env!("CRUS_BUILT_MODIFIED"),
    ")"
);
