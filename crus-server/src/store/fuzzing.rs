//! What must hold of a store's file that was damaged.
#![expect(clippy::unwrap_used, reason = "a panic is how a property fails")]

use std::fs;
use std::path::PathBuf;

use super::redb::FileView;
use crate::settings::Config;

/// A store of the format before the newest, with sessions in it.
const GOOD: &[u8] = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/stored/format-2.redb"));

/// A file of its own for each process and thread, in memory where the system has such a place.
fn place() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    let folder = if memory.is_dir() { memory } else { std::env::temp_dir() };
    folder.join(format!("crus-damaged-{}-{:?}.redb", std::process::id(), std::thread::current().id()))
}

/// A file in which some bytes are others is opened and read as far as it can be, or refused in words; it is never changed by
/// being looked into. Three bytes are a change: where, in the first 64 KiB or at its end, and to what.
pub(crate) fn file(data: &[u8]) {
    let (how, changes) = data.split_first().unwrap_or((&0, &[]));
    let mut bytes = GOOD.to_vec();
    match how % 4 {
        // A file that is something else.
        0 => bytes = changes.to_vec(),
        1 => bytes.truncate(changes.iter().map(|byte| usize::from(*byte)).sum::<usize>() * 64),
        _ => {
            for change in changes.chunks_exact(3).take(32) {
                let at = usize::from(u16::from_be_bytes([change[0], change[1]]));
                // Most of what can be wrong with a file is wrong with its head.
                let at = if how % 4 == 2 { at % 512 } else { at };
                bytes[at] ^= change[2];
            }
        }
    }
    let path = place();
    fs::write(&path, &bytes).unwrap();
    look(&path);
    assert!(fs::read(&path).unwrap() == bytes, "looking into a store changed it");
    fs::remove_file(&path).unwrap();
}

fn look(path: &std::path::Path) {
    let view = match FileView::open(path) {
        Ok(view) => view,
        Err(error) => {
            let told = error.to_string();
            assert!(told.contains(&*path.to_string_lossy()) && !told.contains('\n'), "{told}");
            return;
        }
    };
    for id in view.ids().into_iter().flatten() {
        _ = view.read(id);
    }
    drop(view);
    let config = Config { store: path.to_owned(), ..Config::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    _ = runtime.block_on(super::inspect::check(&config));
}
