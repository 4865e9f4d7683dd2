//! Copies a file or a folder, or only reads it, and says what its content is as one hash.
//!
//! Never follows a link and never leaves the folder it was given: folders are opened one from the other. Links are copied as links,
//! modes are kept, owners and times are not. A source that changes under the copy is an error, not half a copy.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::time::{Duration, Instant};

use amphi_ports::JobNews;
use nix::libc;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::inside::{Spot, fd_path};
use super::{Context, ToolError};

const ENTRIES_MAX: u64 = 1_000_000;
const DEPTH_MAX: usize = 64;
const PIECE_BYTES: usize = 256 * 1024;

/// What was copied or read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Content {
    /// SHA-256 in hex: of a file's bytes; of a folder's list of names, kinds, modes and hashes.
    pub hash: String,
    /// Bytes in files.
    pub bytes: u64,
    /// Files, folders and links.
    pub entries: u64,
}

/// Ends long work on request, and tells meanwhile that it is alive.
pub(super) struct Pulse {
    cancel: CancellationToken,
    news: mpsc::UnboundedSender<JobNews>,
    told: Instant,
}

impl Pulse {
    pub fn new(context: &Context) -> Self {
        Self { cancel: context.cancel.clone(), news: context.news.clone(), told: Instant::now() }
    }

    /// An error once the tool was asked to end.
    pub fn beat(&mut self) -> Result<(), ToolError> {
        if self.cancel.is_cancelled() {
            return Err(ToolError::cancelled());
        }
        if self.told.elapsed() >= Duration::from_secs(1) {
            self.told = Instant::now();
            let _ = self.news.send(JobNews::Active);
        }
        Ok(())
    }
}

/// Reads `from`, and copies it to `to` if there is one; nothing may have that name. Blocks.
pub(super) fn read_through(from: &Spot, to: Option<&Spot>, pulse: &mut Pulse) -> Result<Content, ToolError> {
    let name = from.name.to_string_lossy().into_owned();
    let found = from.look()?.ok_or_else(|| ToolError::failed(format!("`{name}` is not there")))?;
    let mut reading = Reading { pulse, bytes: 0, entries: 1 };
    let hash = if found.is_dir() {
        let mut list = Sha256::new();
        reading.folder(from, to, &mut Walked { list: &mut list, path: OsString::new(), depth: 0 })?;
        hex::encode(list.finalize())
    } else if found.is_file() {
        reading.file(from, to)?.0
    } else {
        return Err(ToolError::failed(format!("`{name}` is neither a file nor a folder")));
    };
    Ok(Content { hash, bytes: reading.bytes, entries: reading.entries })
}

struct Reading<'a> {
    pulse: &'a mut Pulse,
    bytes: u64,
    entries: u64,
}

/// Where in the folder it is, and what is listed of it so far.
struct Walked<'a> {
    list: &'a mut Sha256,
    path: OsString,
    depth: usize,
}

impl Walked<'_> {
    /// Lengths keep one entry from looking like two.
    fn add(&mut self, kind: &str, mode: u32, name: &OsStr, content: &[u8]) {
        let mut path = self.path.clone();
        path.push(name);
        self.list.update(format!("{kind} {mode:o} {} {}\n", path.len(), content.len()));
        self.list.update(path.as_bytes());
        self.list.update(content);
    }
}

impl Reading<'_> {
    fn folder(&mut self, from: &Spot, to: Option<&Spot>, walked: &mut Walked<'_>) -> Result<(), ToolError> {
        if walked.depth > DEPTH_MAX {
            return Err(ToolError::failed(format!("folders are nested deeper than {DEPTH_MAX}")));
        }
        let source = from.open_folder()?;
        let mode = mode_of(&fd_path(&source).metadata()?);
        let target: Option<OwnedFd> = match to {
            Some(to) => {
                std::fs::create_dir(to.path())?;
                Some(to.open_folder()?)
            }
            None => None,
        };
        let mut names = Vec::new();
        for entry in std::fs::read_dir(fd_path(&source))? {
            names.push(entry?.file_name());
            self.entries += 1;
            if self.entries > ENTRIES_MAX {
                return Err(ToolError::failed(format!("there are more than {ENTRIES_MAX} files")));
            }
        }
        names.sort();
        for name in names {
            self.pulse.beat()?;
            let from = Spot { folder: source.try_clone()?, name: name.clone() };
            let to = match &target {
                Some(target) => Some(Spot { folder: target.try_clone()?, name }),
                None => None,
            };
            self.entry(&from, to.as_ref(), walked)?;
        }
        // Last: it may take the right to write away.
        if let Some(target) = &target {
            std::fs::set_permissions(fd_path(target), Permissions::from_mode(mode))?;
        }
        Ok(())
    }

    fn entry(&mut self, from: &Spot, to: Option<&Spot>, walked: &mut Walked<'_>) -> Result<(), ToolError> {
        let found = from.look()?.ok_or_else(|| changed(from))?;
        if found.is_dir() {
            walked.add("d", mode_of(&found), &from.name, &[]);
            let length = walked.path.len();
            walked.path.push(&from.name);
            walked.path.push("/");
            walked.depth += 1;
            self.folder(from, to, walked)?;
            walked.depth -= 1;
            walked.path = OsStr::from_bytes(&walked.path.as_bytes()[..length]).to_owned();
        } else if found.is_file() {
            let (hash, mode) = self.file(from, to)?;
            walked.add("f", mode, &from.name, hash.as_bytes());
        } else if found.is_symlink() {
            let target = std::fs::read_link(from.path())?;
            if let Some(to) = to {
                std::os::unix::fs::symlink(&target, to.path())?;
            }
            walked.add("l", 0, &from.name, target.as_os_str().as_bytes());
        } else {
            let name = from.name.to_string_lossy();
            return Err(ToolError::failed(format!("`{name}` is no file, folder or link and cannot be kept")));
        }
        Ok(())
    }

    /// Returns the hash and the mode.
    fn file(&mut self, from: &Spot, to: Option<&Spot>) -> Result<(String, u32), ToolError> {
        // Not waiting for the other end if it has become a pipe meanwhile.
        let mut source = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(from.path())?;
        let before = source.metadata()?;
        if !before.is_file() {
            return Err(changed(from));
        }
        let mut target = match to {
            Some(to) => Some(new_file(to)?),
            None => None,
        };
        let (mut hash, mut buffer) = (Sha256::new(), vec![0u8; PIECE_BYTES]);
        loop {
            self.pulse.beat()?;
            let count = match source.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            hash.update(&buffer[..count]);
            self.bytes += count as u64;
            if let Some(target) = &mut target {
                target.write_all(&buffer[..count])?;
            }
        }
        let after = source.metadata()?;
        let is_same = |this: &std::fs::Metadata| (this.len(), this.mtime(), this.mtime_nsec());
        if is_same(&before) != is_same(&after) {
            return Err(changed(from));
        }
        let mode = mode_of(&before);
        if let Some(target) = &target {
            target.set_permissions(Permissions::from_mode(mode))?;
        }
        Ok((hex::encode(hash.finalize()), mode))
    }
}

/// A file that was not there.
pub(super) fn new_file(spot: &Spot) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).custom_flags(libc::O_NOFOLLOW).open(spot.path())
}

fn mode_of(found: &std::fs::Metadata) -> u32 {
    found.mode() & 0o777
}

fn changed(spot: &Spot) -> ToolError {
    ToolError::failed(format!("`{}` changed while it was being read", spot.name.to_string_lossy()))
}
