//! `file.write {path, text}`: writes one file inside the workspace, all of it or nothing.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use futures::FutureExt;
use futures::future::BoxFuture;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::Mode;

use super::arguments::Kind;
use super::inside::Spot;
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
    let spot = Spot::find(workspace, path, true)?;
    let temporary = spot.temporary()?;
    let written = write_new(&temporary, text)
        .and_then(|()| Ok(renameat(&spot.folder, temporary.name.as_os_str(), &spot.folder, spot.name.as_os_str())?));
    if written.is_err() {
        // Not there if it could not even be made.
        let _ = temporary.remove();
    }
    Ok(written?)
}

fn write_new(spot: &Spot, text: &str) -> io::Result<()> {
    let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut file = File::from(openat(&spot.folder, spot.name.as_os_str(), flags, Mode::from_bits_truncate(0o666))?);
    file.write_all(text.as_bytes())?;
    file.sync_all()
}
