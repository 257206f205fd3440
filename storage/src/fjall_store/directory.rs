//! The directory of a store, and who may use it.
//!
//! ```text
//!   DIR/LOCK        locked while the store is open; holds the process id
//!   DIR/FORMAT      "stepwell store format 1"; the first thing written, and what tells a store from anything else
//!   DIR/watermark   see `watermark`
//!   DIR/db/         fjall's; it is there if and only if the store was created to its end
//!   DIR/db.new/     a creation that was interrupted; nothing was ever acknowledged in it
//! ```

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use super::fault::file_open_refusal;
use crate::refusal::OpenRefusal;

/// The format that this build writes and reads.
pub(super) const FORMAT: u32 = 1;

const FORMAT_TEXT: &str = "stepwell store format ";

/// What may lie in a directory in which a store is created: what an interrupted creation left, what
/// the engine puts beside the store, and what a fresh file system comes with.
const HARMLESS: [&str; 4] = ["LOCK", "FORMAT.tmp", "stepwell.sock", "lost+found"];

/// A directory that is ours, locked.
pub(super) struct Directory {
    path: PathBuf,
    /// Closing it unlocks.
    _lock: File,
}

impl Directory {
    /// Locks the directory of a store, or makes one if `create`.
    ///
    /// Nothing is written into a directory that is something else.
    pub(super) fn claim(path: &Path, create: bool) -> Result<Directory, OpenRefusal> {
        require_directory(path, create)?;
        if read_format(path)?.is_none() {
            require_creatable(path, create)?;
        }
        let lock = lock(&path.join("LOCK"))?;
        let directory = Directory { path: path.to_owned(), _lock: lock };
        match read_format(path)? {
            None => directory.write_format()?,
            Some(FORMAT) => {}
            Some(found) => {
                return Err(OpenRefusal::Format { found, supported: FORMAT });
            }
        }
        Ok(directory)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn database(&self) -> PathBuf {
        self.path.join("db")
    }

    pub(super) fn database_new(&self) -> PathBuf {
        self.path.join("db.new")
    }

    pub(super) fn watermark(&self) -> PathBuf {
        self.path.join("watermark")
    }

    pub(super) fn sync(&self) -> Result<(), OpenRefusal> {
        sync_directory(&self.path).map_err(|error| file_open_refusal(&error, &self.path))
    }

    /// Bytes that the files take up on the disk; holes are not counted.
    pub(super) fn bytes(&self) -> u64 {
        bytes_below(&self.path)
    }

    fn write_format(&self) -> Result<(), OpenRefusal> {
        let path = self.path.join("FORMAT");
        let new = self.path.join("FORMAT.tmp");
        let write = || -> io::Result<()> {
            let mut file = File::create(&new)?;
            file.write_all(format_text(FORMAT).as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&new, &path)?;
            sync_directory(&self.path)
        };
        write().map_err(|error| file_open_refusal(&error, &path))
    }
}

fn format_text(format: u32) -> String {
    format!("{FORMAT_TEXT}{format}\n")
}

fn require_directory(path: &Path, create: bool) -> Result<(), OpenRefusal> {
    match std::fs::metadata(path) {
        Ok(meta) if meta.is_dir() => Ok(()),
        Ok(_) => Err(not_a_store(path, "it is not a directory")),
        Err(error) if error.kind() == ErrorKind::NotFound && create => {
            std::fs::create_dir_all(path).map_err(|error| file_open_refusal(&error, path))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Err(not_a_store(path, "there is nothing"))
        }
        Err(error) => Err(file_open_refusal(&error, path)),
    }
}

fn require_creatable(path: &Path, create: bool) -> Result<(), OpenRefusal> {
    if !create {
        return Err(not_a_store(path, "it has no file FORMAT"));
    }
    let refuse = |error: io::Error| file_open_refusal(&error, path);
    for entry in std::fs::read_dir(path).map_err(refuse)? {
        let name = entry.map_err(refuse)?.file_name();
        if !HARMLESS.iter().any(|harmless| name == *harmless) {
            let why =
                format!("it has no file FORMAT, and is not empty: it holds {}", name.display());
            return Err(not_a_store(path, why));
        }
    }
    Ok(())
}

fn read_format(path: &Path) -> Result<Option<u32>, OpenRefusal> {
    let path = path.join("FORMAT");
    let text = match std::fs::read(&path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(file_open_refusal(&error, &path)),
    };
    let number =
        text.strip_prefix(FORMAT_TEXT).and_then(|rest| rest.strip_suffix('\n')?.parse().ok());
    match number {
        Some(number) => Ok(Some(number)),
        None => Err(OpenRefusal::Damaged {
            what: format!("{} does not hold a format number", path.display()),
        }),
    }
}

fn lock(path: &Path) -> Result<File, OpenRefusal> {
    let refuse = |error: io::Error| file_open_refusal(&error, path);
    let mut options = OpenOptions::new();
    let mut file =
        options.create(true).truncate(false).read(true).write(true).open(path).map_err(refuse)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            // Only the holder writes into it, and only after it has the lock: what is there may be
            // of the holder before.
            let holder =
                std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok());
            return Err(OpenRefusal::Locked { lock: path.to_owned(), holder });
        }
        Err(TryLockError::Error(error)) => return Err(refuse(error)),
    }
    file.set_len(0).map_err(refuse)?;
    writeln!(file, "{}", std::process::id()).map_err(refuse)?;
    Ok(file)
}

fn not_a_store(path: &Path, why: impl Into<String>) -> OpenRefusal {
    OpenRefusal::NotAStore { path: path.to_owned(), why: why.into() }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn bytes_below(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = std::fs::read_dir(path) else {
        return 0;
    };
    let bytes = |entry: io::Result<std::fs::DirEntry>| {
        let entry = entry.ok()?;
        // A file that a compaction removes meanwhile takes up nothing.
        let meta = entry.metadata().ok()?;
        Some(if meta.is_dir() { bytes_below(&entry.path()) } else { meta.blocks() * 512 })
    };
    entries.filter_map(bytes).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_file_keeps_its_bytes() {
        let directory = tempfile::tempdir().unwrap();
        Directory::claim(directory.path(), true).unwrap();
        assert_eq!(
            std::fs::read(directory.path().join("FORMAT")).unwrap(),
            b"stepwell store format 1\n"
        );
    }

    #[test]
    fn another_format_is_refused_by_its_number() {
        let directory = tempfile::tempdir().unwrap();
        for found in [0, 2, 77] {
            std::fs::write(directory.path().join("FORMAT"), format_text(found)).unwrap();
            let refused = Directory::claim(directory.path(), true).err();
            assert_eq!(refused, Some(OpenRefusal::Format { found, supported: 1 }));
        }
        std::fs::write(directory.path().join("FORMAT"), "stepwell store format x\n").unwrap();
        assert!(matches!(
            Directory::claim(directory.path(), true).err(),
            Some(OpenRefusal::Damaged { .. })
        ));
    }

    // Somebody's photographs are worth more than a store.
    #[test]
    fn a_directory_that_is_something_else_is_refused_and_left_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("holiday.jpg"), "sea").unwrap();
        let refused = Directory::claim(directory.path(), true).err();
        assert!(matches!(refused, Some(OpenRefusal::NotAStore { .. })), "{refused:?}");
        let left: Vec<_> = std::fs::read_dir(directory.path()).unwrap().collect();
        assert_eq!(left.len(), 1);
        let file = directory.path().join("holiday.jpg");
        assert!(matches!(Directory::claim(&file, true).err(), Some(OpenRefusal::NotAStore { .. })));
    }

    #[test]
    fn nothing_is_created_unless_asked() {
        let directory = tempfile::tempdir().unwrap();
        let absent = directory.path().join("absent");
        assert!(matches!(
            Directory::claim(&absent, false).err(),
            Some(OpenRefusal::NotAStore { .. })
        ));
        assert!(!absent.exists());
        assert!(matches!(
            Directory::claim(directory.path(), false).err(),
            Some(OpenRefusal::NotAStore { .. })
        ));
        assert!(!directory.path().join("LOCK").exists());
        assert!(Directory::claim(&absent, true).is_ok());
    }

    #[test]
    fn a_second_holder_is_refused_with_the_lock_and_the_process() {
        let directory = tempfile::tempdir().unwrap();
        let held = Directory::claim(directory.path(), true).unwrap();
        let refused = Directory::claim(directory.path(), true).err().unwrap();
        let lock = directory.path().join("LOCK");
        assert_eq!(
            refused,
            OpenRefusal::Locked { lock: lock.clone(), holder: Some(std::process::id()) }
        );
        let told = refused.to_string();
        assert!(told.contains(&std::process::id().to_string()) && told.contains("LOCK"), "{told}");
        drop(held);
        assert!(Directory::claim(directory.path(), true).is_ok());
    }
}
