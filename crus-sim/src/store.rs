//! Sessions in memory, as serialised parts.
