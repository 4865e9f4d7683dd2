//! Places inside a workspace. Each folder on the way is opened from the one before without following links, so no name and no race
//! leads out of the workspace.

use std::ffi::{OsStr, OsString};
use std::fs::Metadata;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{Mode, mkdirat};

use super::ToolError;

const FOLDER: OFlag = OFlag::O_DIRECTORY.union(OFlag::O_CLOEXEC).union(OFlag::O_RDONLY);

/// A name in an open folder that is inside the workspace. Whether something has that name is another question.
#[derive(Debug)]
pub(super) struct Spot {
    pub folder: OwnedFd,
    pub name: OsString,
}

impl Spot {
    /// Finds `path`; `make` makes the folders on the way.
    pub fn find(workspace: &Path, path: &str, make: bool) -> Result<Self, ToolError> {
        let refused = |reason: &str| ToolError::failed(format!("`{path}` cannot be used: {reason}"));
        let mut names = names_of(path).map_err(ToolError::failed)?;
        let Some(name) = names.pop().filter(|_| !path.ends_with('/')) else { return Err(refused("it names no file")) };
        Ok(Self { folder: walk(workspace, &names, make, &refused)?, name: name.to_owned() })
    }

    /// Another name in the same folder.
    pub fn beside(&self, name: impl Into<OsString>) -> Result<Self, ToolError> {
        Ok(Self { folder: self.folder.try_clone()?, name: name.into() })
    }

    /// A new hidden name in the same folder.
    pub fn temporary(&self) -> Result<Self, ToolError> {
        self.beside(format!(".amphi-{}", uuid::Uuid::now_v7().simple()))
    }

    /// The name with something appended.
    pub fn with_suffix(&self, suffix: &str) -> Result<Self, ToolError> {
        let mut name = self.name.clone();
        name.push(suffix);
        self.beside(name)
    }

    /// A path that leads through the open folder, for this process only. The name itself may be a link: use `O_NOFOLLOW`.
    pub fn path(&self) -> PathBuf {
        fd_path(&self.folder).join(&self.name)
    }

    /// The path as other processes see it now.
    pub fn real(&self) -> io::Result<PathBuf> {
        Ok(real(&self.folder)?.join(&self.name))
    }

    /// What is there; a link is a link.
    pub fn look(&self) -> io::Result<Option<Metadata>> {
        match self.path().symlink_metadata() {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Opens the folder of that name.
    pub fn open_folder(&self) -> io::Result<OwnedFd> {
        Ok(openat(&self.folder, self.name.as_os_str(), FOLDER | OFlag::O_NOFOLLOW, Mode::empty())?)
    }

    /// Removes whatever is there, if anything is.
    pub fn remove(&self) -> io::Result<()> {
        match self.look()? {
            None => Ok(()),
            Some(found) if found.is_dir() => std::fs::remove_dir_all(self.path()),
            Some(_) => std::fs::remove_file(self.path()),
        }
    }
}

/// Opens a folder inside the workspace; `.` is the workspace itself.
pub(super) fn open_folder(workspace: &Path, path: &str) -> Result<OwnedFd, ToolError> {
    let refused = |reason: &str| ToolError::failed(format!("`{path}` cannot be used: {reason}"));
    walk(workspace, &names_of(path).map_err(ToolError::failed)?, false, &refused)
}

/// The path of an open folder as other processes see it now.
pub(super) fn real(folder: &OwnedFd) -> io::Result<PathBuf> {
    std::fs::read_link(fd_path(folder))
}

/// A path to an open folder for this process only.
pub(super) fn fd_path(folder: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", folder.as_raw_fd()).into()
}

/// The names on the way; the error is for people.
pub(super) fn names_of(path: &str) -> Result<Vec<&OsStr>, String> {
    if path.is_empty() || path.contains('\0') {
        return Err(format!("`{}` cannot be used: it names no file", path.replace('\0', "\\0")));
    }
    let mut names = Vec::new();
    for part in Path::new(path).components() {
        match part {
            Component::Normal(name) => names.push(name),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                return Err(format!("`{path}` cannot be used: it must stay under the workspace: relative, without `..`"));
            }
        }
    }
    Ok(names)
}

fn walk(workspace: &Path, names: &[&OsStr], make: bool, refused: &dyn Fn(&str) -> ToolError) -> Result<OwnedFd, ToolError> {
    let mut folder: OwnedFd = open(workspace, FOLDER, Mode::empty()).map_err(io::Error::from)?;
    for name in names {
        if make {
            match mkdirat(&folder, *name, Mode::from_bits_truncate(0o777)) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(errno) => return Err(io::Error::from(errno).into()),
            }
        }
        folder = openat(&folder, *name, FOLDER | OFlag::O_NOFOLLOW, Mode::empty()).map_err(|errno| match errno {
            Errno::ELOOP | Errno::ENOTDIR => refused("a part of it is a symbolic link or no folder"),
            Errno::ENOENT => refused("it is not there"),
            errno => io::Error::from(errno).into(),
        })?;
    }
    Ok(folder)
}
