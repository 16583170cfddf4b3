//! Decorators that make a port fail as real ones do.
