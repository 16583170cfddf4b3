//! A file that is looked into and never changed: what is written stays in memory.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};

/// How much is copied to change a part of it.
const PAGE: u64 = 4096;

/// A backend over a file that was opened for reading. A store that was not closed, since its service was killed, is put
/// in order here alone.
#[derive(Debug)]
pub(super) struct Overlay {
    file: FileBackend,
    written: Mutex<Written>,
}

#[derive(Debug)]
struct Written {
    /// How long the whole is, and how much of the file counts.
    length: u64,
    of_file: u64,
    pages: BTreeMap<u64, Vec<u8>>,
}

impl Overlay {
    pub(super) fn over(file: File) -> Result<Self, redb::DatabaseError> {
        let length = file.metadata()?.len();
        let written = Written { length, of_file: length, pages: BTreeMap::new() };
        Ok(Overlay { file: FileBackend::new(file)?, written: Mutex::new(written) })
    }

    fn written(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file's part of a page, and zeroes behind its end.
    fn page_of_file(&self, number: u64, of_file: u64) -> io::Result<Vec<u8>> {
        let mut page = vec![0; size(PAGE)];
        let there = of_file.saturating_sub(number * PAGE).min(PAGE);
        if let Some(there) = page.get_mut(..size(there)).filter(|there| !there.is_empty()) {
            self.file.read(number * PAGE, there)?;
        }
        Ok(page)
    }
}

/// A number of bytes that is at most that of a page or a buffer.
fn size(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// The pages of so many bytes from an offset on, each with the part of it and the part of the bytes that are the same.
fn parts(
    offset: u64,
    bytes: usize,
) -> impl Iterator<Item = (u64, std::ops::Range<usize>, std::ops::Range<usize>)> {
    let end = offset.saturating_add(bytes as u64);
    let mut at = offset;
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let (number, begin) = (at / PAGE, at % PAGE);
        let count = (PAGE - begin).min(end - at);
        let (in_page, in_bytes) =
            (size(begin)..size(begin + count), size(at - offset)..size(at - offset + count));
        at += count;
        Some((number, in_page, in_bytes))
    })
}

impl StorageBackend for Overlay {
    fn len(&self) -> io::Result<u64> {
        Ok(self.written().length)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let written = self.written();
        if offset.saturating_add(out.len() as u64) > written.length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for (number, in_page, in_bytes) in parts(offset, out.len()) {
            match written.pages.get(&number) {
                Some(page) => out[in_bytes].copy_from_slice(&page[in_page]),
                None => out[in_bytes].copy_from_slice(&self.page_of_file(number, written.of_file)?[in_page]),
            }
        }
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut written = self.written();
        if length < written.length {
            // What comes back later comes back as zeroes.
            written.pages.retain(|number, _| number * PAGE < length);
            written.of_file = written.of_file.min(length);
            if let Some(page) = written.pages.get_mut(&(length / PAGE)) {
                page[size(length % PAGE)..].fill(0);
            }
        }
        written.length = length;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut written = self.written();
        for (number, in_page, in_bytes) in parts(offset, data.len()) {
            let of_file = written.of_file;
            let page = match written.pages.entry(number) {
                std::collections::btree_map::Entry::Occupied(page) => page.into_mut(),
                std::collections::btree_map::Entry::Vacant(page) => {
                    page.insert(self.page_of_file(number, of_file)?)
                }
            };
            page[in_page].copy_from_slice(&data[in_bytes]);
        }
        written.length = written.length.max(offset.saturating_add(data.len() as u64));
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    /// Whoever works with the file has it for itself; several may look.
    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_is_written_is_read_again_and_the_file_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let bytes: Vec<u8> = (0..10_000u32).map(|i| (i % 251) as u8).collect();
        fs::write(&path, &bytes).unwrap();
        let overlay = Overlay::over(File::open(&path).unwrap()).unwrap();
        let mut expected = bytes.clone();
        let same = |overlay: &Overlay, expected: &[u8], what: &str| {
            assert_eq!(overlay.len().unwrap(), expected.len() as u64, "{what}");
            for (from, count) in [(0, expected.len()), (4090, 20), (8192, expected.len() - 8192)] {
                let mut read = vec![9; count];
                overlay.read(from as u64, &mut read).unwrap();
                assert!(read == expected[from..from + count], "{what}: {count} from {from}");
            }
            assert!(overlay.read(expected.len() as u64, &mut [0]).is_err());
        };
        same(&overlay, &expected, "untouched");
        for (from, data) in [(10, vec![1; 3]), (4094, vec![2; 5000]), (9_999, vec![3; 1])] {
            overlay.write(from, &data).unwrap();
            expected[from as usize..from as usize + data.len()].copy_from_slice(&data);
            same(&overlay, &expected, "written");
        }
        for length in [20_000, 9_000, 9_500, 8_193, 30_000] {
            overlay.set_len(length).unwrap();
            expected.resize(length as usize, 0);
            same(&overlay, &expected, "another length");
        }
        assert!(fs::read(&path).unwrap() == bytes);
    }
}
