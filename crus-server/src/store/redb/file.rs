//! The file while it is open, and opened again after an error of the disk.

use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use crus_core::ports::StoreError;
use redb::Database;

use super::opening::reopen;
use super::tables::Trouble;

pub(super) struct StoreFile {
    path: PathBuf,
    /// Whoever works with it reads this; it is opened again once all of them are done.
    held: RwLock<Held>,
}

struct Held {
    /// `None` after an error of the disk: redb refuses everything from then on, until opened again.
    database: Option<Database>,
    /// How often it was opened again.
    times: u64,
}

impl StoreFile {
    pub(super) fn new(path: &Path, database: Database) -> Self {
        let held = RwLock::new(Held { database: Some(database), times: 0 });
        StoreFile { path: path.to_owned(), held }
    }

    pub(super) fn run<T>(&self, work: impl FnOnce(&Database) -> Result<T, Trouble>) -> Result<T, StoreError> {
        loop {
            let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
            let Some(database) = &held.database else {
                drop(held);
                self.open_again()?;
                continue;
            };
            let (result, times) = (work(database), held.times);
            drop(held);
            return result.map_err(|trouble| self.told(trouble, times));
        }
    }

    fn open_again(&self) -> Result<(), StoreError> {
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        if held.database.is_none() {
            held.database = Some(reopen(&self.path).map_err(StoreError::Failed)?);
            held.times += 1;
        }
        Ok(())
    }

    /// What to tell of it. When the disk failed, the database that was opened so many `times` is closed.
    fn told(&self, trouble: Trouble, times: u64) -> StoreError {
        let error = match trouble {
            Trouble::Told(error) => return error,
            Trouble::Redb(error) => error,
        };
        if matches!(
            *error,
            redb::Error::Io(_)
                | redb::Error::PreviousIo
                | redb::Error::Backend(_)
                | redb::Error::LockPoisoned(_)
                | redb::Error::DatabaseClosed
        ) {
            let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
            if held.times == times {
                held.database = None;
            }
        }
        StoreError::Failed(format!("{}: {error}", self.path.display()))
    }
}
