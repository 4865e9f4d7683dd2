//! What the backup tools share: the record beside a snapshot, and putting something new in the place of something old.
//!
//! A snapshot is a plain copy under the name that the user gave (a folder, a file, a database that any `sqlite3` opens), and beside it
//! `<name>.amphi-snapshot`, which says what it must contain.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Instant;

use nix::errno::Errno;
use nix::fcntl::{RenameFlags, renameat2};
use nix::libc;
use nix::unistd::syncfs;
use serde::{Deserialize, Serialize};

use super::ToolError;
use super::copy::{Content, new_file};
use super::inside::Spot;
use super::sqlite::is_database;

const RECORD_SUFFIX: &str = ".amphi-snapshot";
const RECORD_BYTES_MAX: u64 = 64 * 1024;

/// What a thing is, for backups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Shape {
    Folder,
    File,
    Sqlite,
}

impl Shape {
    /// What is there; `None` if nothing is. A link is refused.
    pub fn of(spot: &Spot) -> Result<Option<Self>, ToolError> {
        let name = spot.name.to_string_lossy();
        Ok(match spot.look()? {
            None => None,
            Some(found) if found.is_dir() => Some(Self::Folder),
            Some(found) if found.is_file() => Some(if is_database(spot)? { Self::Sqlite } else { Self::File }),
            Some(found) if found.is_symlink() => return Err(ToolError::failed(format!("`{name}` is a symbolic link"))),
            Some(_) => return Err(ToolError::failed(format!("`{name}` is neither a file nor a folder"))),
        })
    }

    pub fn word(self) -> &'static str {
        match self {
            Self::Folder => "folder",
            Self::File => "file",
            Self::Sqlite => "sqlite",
        }
    }
}

/// What a snapshot must contain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// 1.
    pub version: u32,
    pub kind: Shape,
    pub sha256: String,
    pub bytes: u64,
    pub entries: u64,
}

impl Record {
    pub fn new(kind: Shape, content: &Content) -> Self {
        Self { version: 1, kind, sha256: content.hash.clone(), bytes: content.bytes, entries: content.entries }
    }

    /// The record of the snapshot at `spot`, if it is one.
    pub fn read(spot: &Spot) -> Result<Option<Self>, ToolError> {
        let place = spot.with_suffix(RECORD_SUFFIX)?;
        let file = match OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(place.path()) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut bytes = Vec::new();
        file.take(RECORD_BYTES_MAX).read_to_end(&mut bytes)?;
        let broken = |why: String| ToolError::failed(format!("the record of the snapshot cannot be read: {why}"));
        let record: Self = serde_json::from_slice(&bytes).map_err(|error| broken(error.to_string()))?;
        if record.version == 1 { Ok(Some(record)) } else { Err(broken(format!("its version is {}", record.version))) }
    }

    /// The record of what must be a snapshot.
    pub fn demand(spot: &Spot) -> Result<Self, ToolError> {
        let name = spot.name.to_string_lossy();
        Self::read(spot)?.ok_or_else(|| ToolError::failed(format!("`{name}` is no snapshot: there is no `{name}{RECORD_SUFFIX}`")))
    }

    /// Writes it, all or nothing.
    pub fn write(&self, spot: &Spot) -> Result<(), ToolError> {
        let (place, temporary) = (spot.with_suffix(RECORD_SUFFIX)?, spot.temporary()?);
        let mut text = serde_json::to_vec_pretty(self).expect("a record is JSON");
        text.push(b'\n');
        let written = new_file(&temporary).and_then(|mut file| {
            file.write_all(&text)?;
            file.sync_all()?;
            std::fs::rename(temporary.path(), place.path())
        });
        if written.is_err() {
            let _ = temporary.remove();
        }
        Ok(written?)
    }

    /// An error unless this is what the snapshot must contain.
    pub fn compare(&self, content: &Content) -> Result<(), ToolError> {
        if self.sha256 == content.hash {
            return Ok(());
        }
        let seen = format!("{} with {} bytes in {} entries", content.hash, content.bytes, content.entries);
        let recorded = format!("{} with {} bytes in {} entries", self.sha256, self.bytes, self.entries);
        Err(ToolError::failed(format!("the snapshot is damaged: it is {seen}, recorded was {recorded}")))
    }

    /// Outputs that all three tools give.
    pub fn outputs(&self, began: Instant) -> BTreeMap<String, String> {
        BTreeMap::from([
            ("kind".to_owned(), self.kind.word().to_owned()),
            ("hash".to_owned(), self.sha256.clone()),
            ("bytes".to_owned(), self.bytes.to_string()),
            ("entries".to_owned(), self.entries.to_string()),
            ("ms".to_owned(), began.elapsed().as_millis().to_string()),
        ])
    }
}

/// Puts `new`, which is complete, in the place of `spot` in one step, with everything on disk before and after. Returns what was
/// there, now under the name `new`, if anything was. Blocks.
pub(super) fn put_in_place(new: &Spot, spot: &Spot) -> Result<bool, ToolError> {
    let failed = |errno: Errno| ToolError::from(io::Error::from(errno));
    syncfs(&new.folder).map_err(failed)?;
    let exchange = |flags| renameat2(&new.folder, new.name.as_os_str(), &spot.folder, spot.name.as_os_str(), flags);
    let is_replaced = match exchange(RenameFlags::RENAME_EXCHANGE) {
        Ok(()) => true,
        Err(Errno::ENOENT) => {
            exchange(RenameFlags::RENAME_NOREPLACE).map_err(failed)?;
            false
        }
        Err(errno) => return Err(failed(errno)),
    };
    syncfs(&spot.folder).map_err(failed)?;
    Ok(is_replaced)
}

/// Removes what is in the way or half done; what cannot be removed stays and is told.
pub(super) fn clear(spot: &Spot) {
    if let Err(error) = spot.remove() {
        tracing::warn!(name = %spot.name.display(), %error, "what a backup tool left could not be removed");
    }
}

/// Runs blocking work.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, ToolError> + Send + 'static) -> Result<T, ToolError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| ToolError::failed(format!("the work broke: {error}")))?
}
