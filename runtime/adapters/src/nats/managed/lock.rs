//! The exclusive lock on a data folder. It ends with the process that holds it, whatever happens, and no child inherits it.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Held as long as this value lives.
#[derive(Debug)]
pub struct DataLock {
    _file: File,
    path: PathBuf,
}

/// Why the lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody else holds it.
    #[error("the data folder {} is in use by process {}", data.display(), holder.map_or_else(|| "?".to_owned(), |p| p.to_string()))]
    Held {
        /// The folder.
        data: PathBuf,
        /// Who holds it, if they have said so.
        holder: Option<u32>,
    },
    /// It could not be tried.
    #[error("locking the data folder {} failed", data.display())]
    Failed {
        /// The folder.
        data: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl DataLock {
    /// Takes `<data>/lock` without waiting, creating the folder (mode 0700) if it is missing.
    pub fn acquire(data: &Path) -> Result<Self, LockError> {
        let failed = |source| LockError::Failed { data: data.to_owned(), source };
        create_private_folder(data).map_err(failed)?;
        let path = data.join("lock");
        // Files of the standard library are close-on-exec: children do not hold the lock on.
        let mut file =
            fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                file.take(32).read_to_string(&mut text).ok();
                return Err(LockError::Held { data: data.to_owned(), holder: text.trim().parse().ok() });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        // For people and for the message above; the lock itself is what counts.
        file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(failed)?;
        Ok(Self { _file: file, path })
    }

    /// The lock file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Creates a folder that only its owner may enter; an existing one stays as it is.
pub(super) fn create_private_folder(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}
