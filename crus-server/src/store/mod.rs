//! Where sessions live between two starts of the service.

mod redb;

pub use redb::{OpenError, RedbStore};
