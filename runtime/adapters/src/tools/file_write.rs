//! `file.write {path, text}`: writes one file inside the workspace, all of it or nothing.
//!
//! Each folder on the way is opened from the one before without following links, so no name and no race leads out of the workspace.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Component, Path};

use futures::FutureExt;
use futures::future::BoxFuture;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat, renameat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::arguments::Kind;
use super::{Arguments, Context, Parameter, Tool, ToolError};

pub(super) struct FileWrite;

impl Tool for FileWrite {
    fn name(&self) -> &'static str {
        "file.write"
    }

    fn parameters(&self) -> &'static [Parameter] {
        &[Parameter { name: "path", kind: Kind::Text, is_required: true }, Parameter { name: "text", kind: Kind::Text, is_required: true }]
    }

    fn must_finish(&self) -> bool {
        true
    }

    fn run<'a>(&'a self, context: &'a Context, arguments: Arguments) -> BoxFuture<'a, Result<BTreeMap<String, String>, ToolError>> {
        let workspace = context.workspace.clone();
        async move {
            let work = move || {
                let (path, text) = (arguments.text("path").unwrap_or_default(), arguments.text("text").unwrap_or_default());
                write_inside(&workspace, path, text)?;
                Ok(BTreeMap::from([("bytes".to_owned(), text.len().to_string())]))
            };
            tokio::task::spawn_blocking(work).await.map_err(|error| ToolError::failed(format!("the write broke: {error}")))?
        }
        .boxed()
    }
}

fn write_inside(workspace: &Path, path: &str, text: &str) -> Result<(), ToolError> {
    let refused = |reason: &str| ToolError::failed(format!("`{path}` cannot be written: {reason}"));
    let mut names = Vec::new();
    for part in Path::new(path).components() {
        match part {
            Component::Normal(name) => names.push(name),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                return Err(refused("it must stay under the workspace: relative, without `..`"));
            }
        }
    }
    let Some((name, folders)) = names.split_last() else { return Err(refused("it names no file")) };
    if path.ends_with('/') || path.contains('\0') {
        return Err(refused("it names no file"));
    }
    let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_RDONLY;
    let mut folder: OwnedFd = open(workspace, flags, Mode::empty()).map_err(io::Error::from)?;
    for name in folders {
        match mkdirat(&folder, *name, Mode::from_bits_truncate(0o777)) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(io::Error::from(errno).into()),
        }
        folder = openat(&folder, *name, flags | OFlag::O_NOFOLLOW, Mode::empty()).map_err(|errno| match errno {
            Errno::ELOOP | Errno::ENOTDIR => refused("a part of it is a symbolic link or no folder"),
            errno => io::Error::from(errno).into(),
        })?;
    }
    let temporary = format!(".amphi-{}", uuid::Uuid::now_v7().simple());
    let written = write_new(&folder, &temporary, text).and_then(|()| Ok(renameat(&folder, temporary.as_str(), &folder, *name)?));
    if written.is_err() {
        // Not there if it could not even be made.
        let _ = unlinkat(&folder, temporary.as_str(), UnlinkatFlags::NoRemoveDir);
    }
    Ok(written?)
}

fn write_new(folder: &OwnedFd, name: &str, text: &str) -> io::Result<()> {
    let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut file = File::from(openat(folder, name, flags, Mode::from_bits_truncate(0o666))?);
    file.write_all(text.as_bytes())?;
    file.sync_all()
}
