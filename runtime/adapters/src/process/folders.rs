//! The folders of an attempt: where it works, and where it leaves what is kept.
//!
//! Everything private stands under `<data>/attempts/<attempt>` and goes away with the attempt. A working folder is never outside its
//! workspace.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use amphi_ports::JobOrder;
use amphi_protocol::document::Workspace;
use amphi_protocol::ids::AttemptRef;

use super::record;
use crate::worktree::WITHOUT_WORKTREE;

/// Why an attempt has no place to work.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The node could not make a folder.
    #[error("the folders of the attempt cannot be made")]
    Io(#[from] io::Error),
    /// The workspace is not there.
    #[error("the workspace {0} cannot be used: it must be an absolute path of a folder on this node")]
    NoWorkspace(String),
    /// The working folder is outside of its workspace or not there.
    #[error("the workdir `{workdir}` cannot be used: {reason}")]
    Workdir {
        /// As declared, resolved.
        workdir: String,
        /// What is wrong.
        reason: String,
    },
}

/// One attempt's folders. Dropped, the private ones are removed once the attempt's processes are dead.
#[derive(Debug)]
pub struct Folders {
    /// All private ones are below it.
    root: PathBuf,
    /// The attempt's record: while it is there, its processes may live.
    record: PathBuf,
    /// The workspace itself.
    workspace: PathBuf,
    /// Workspace plus `workdir`.
    pub work: PathBuf,
}

/// A file name for an attempt, unique in its node.
pub fn attempt_name(attempt: &AttemptRef) -> String {
    format!("{}-{}.{}.{}", attempt.epic, attempt.i, attempt.run, attempt.attempt)
}

impl Folders {
    /// Makes them. `workdir` is resolved already. Blocks.
    pub fn make(data_dir: &Path, order: &JobOrder, workdir: Option<&str>) -> Result<Self, FolderError> {
        let name = attempt_name(&order.attempt);
        let root = data_dir.join("attempts").join(&name);
        let record = record::folder(data_dir).join(name);
        if record.exists() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "this attempt is running already").into());
        }
        // What is there belongs to a dead attempt of the same name.
        if root.exists() {
            fs::remove_dir_all(&root)?;
        }
        let mut folders = Self { record, workspace: root.join("work"), work: PathBuf::new(), root };
        for folder in [&folders.workspace, &folders.temporary(), &folders.artifacts(), &folders.inputs()] {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        for file in [folders.output(), folders.progress()] {
            fs::write(file, "")?;
        }
        match &order.job.workspace {
            Workspace::Path(path) => folders.workspace = path.into(),
            Workspace::Git { .. } => return Err(FolderError::NoWorkspace(WITHOUT_WORKTREE.to_owned())),
            Workspace::None => {}
        }
        folders.work = work_folder(&folders.workspace, workdir, order.job.workspace == Workspace::None)?;
        Ok(folders)
    }

    /// `TMPDIR`.
    pub fn temporary(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// `AMPHI_ARTIFACTS`.
    pub fn artifacts(&self) -> PathBuf {
        self.root.join("artifacts")
    }

    /// `AMPHI_INPUTS`.
    pub fn inputs(&self) -> PathBuf {
        self.root.join("inputs")
    }

    /// `AMPHI_OUTPUT`.
    pub fn output(&self) -> PathBuf {
        self.root.join("output")
    }

    /// `AMPHI_PROGRESS`.
    pub fn progress(&self) -> PathBuf {
        self.root.join("progress")
    }

    /// A file for a command that is too long for an argument.
    pub fn script(&self) -> PathBuf {
        self.root.join("script")
    }
}

/// Workspace plus `workdir`, resolved; never outside of the workspace. A private one is made.
pub fn work_folder(workspace: &Path, workdir: Option<&str>, is_private: bool) -> Result<PathBuf, FolderError> {
    let root = workspace.canonicalize().ok().filter(|root| workspace.is_absolute() && root.is_dir());
    let root = root.ok_or_else(|| FolderError::NoWorkspace(workspace.display().to_string()))?;
    let Some(workdir) = workdir else { return Ok(root) };
    let refused = |reason: &str| FolderError::Workdir { workdir: workdir.to_owned(), reason: reason.to_owned() };
    let relative = Path::new(workdir);
    if !relative.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
        return Err(refused("it must stay under the workspace: relative, without `..`"));
    }
    let folder = root.join(relative);
    if is_private {
        fs::create_dir_all(&folder)?;
    }
    let real = folder.canonicalize().map_err(|_| refused("it is not there"))?;
    if !real.starts_with(&root) {
        return Err(refused("a symbolic link leads out of the workspace"));
    }
    if !real.is_dir() {
        return Err(refused("it is no folder"));
    }
    Ok(real)
}

impl Drop for Folders {
    fn drop(&mut self) {
        let (root, record) = (std::mem::take(&mut self.root), std::mem::take(&mut self.record));
        // A thread: folders can be large, and a job that was dropped still has processes in them for a moment.
        let removal = move || {
            let deadline = Instant::now() + Duration::from_secs(15);
            while record.exists() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(50));
            }
            if let Err(error) = fs::remove_dir_all(&root)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(folder = %root.display(), %error, "the folder of an ended attempt stays until the next start");
            }
        };
        if let Err(error) = std::thread::Builder::new().name("folder-removal".to_owned()).spawn(removal) {
            tracing::warn!(%error, "the folder of an ended attempt stays until the next start");
        }
    }
}

/// Removes what attempts of earlier lives left. Only after [`super::confirm_dead`].
pub fn sweep(data_dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(data_dir.join("attempts")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
