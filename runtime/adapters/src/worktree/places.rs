//! Where worktrees and repositories stand under a node's data folder, and the locks on them.
//!
//! ```text
//! worktrees/<epic>.<task>.<run>     a worktree: what tasks and people see
//! git/runs/<the same>.json, .lock   whose it is; held while an attempt has it
//! git/mirrors/<hash of the URL>/    repository.git, and the lock on it
//! ```

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest, Sha256};

/// How often a lock that is held is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The folders of all of them.
#[derive(Debug, Clone)]
pub(super) struct Places {
    pub trees: PathBuf,
    pub runs: PathBuf,
    pub mirrors: PathBuf,
}

/// The places of one run.
#[derive(Debug, Clone)]
pub(super) struct RunPlace {
    pub tree: PathBuf,
    pub about: PathBuf,
    pub lock: PathBuf,
}

/// The places of one repository.
#[derive(Debug, Clone)]
pub(super) struct MirrorPlace {
    pub folder: PathBuf,
    pub repository: PathBuf,
    pub lock: PathBuf,
}

impl Places {
    /// Makes nothing.
    pub fn new(data_dir: &Path) -> Self {
        let git = data_dir.join("git");
        Self { trees: data_dir.join("worktrees"), runs: git.join("runs"), mirrors: git.join("mirrors") }
    }

    /// Makes the folders.
    pub fn make(&self) -> io::Result<()> {
        for folder in [&self.trees, &self.runs, &self.mirrors] {
            make_folder(folder)?;
        }
        Ok(())
    }

    pub fn run(&self, name: &str) -> RunPlace {
        let beside = |ending: &str| self.runs.join(format!("{name}.{ending}"));
        RunPlace { tree: self.trees.join(name), about: beside("json"), lock: beside("lock") }
    }

    pub fn mirror(&self, url: &str) -> MirrorPlace {
        let hash = hex::encode(Sha256::digest(url));
        let folder = self.mirrors.join(&hash[..24]);
        MirrorPlace { repository: folder.join("repository.git"), lock: folder.join("lock"), folder }
    }

    /// The names of all runs that have a worktree, or something written down about one.
    pub fn names(&self) -> io::Result<Vec<String>> {
        let mut names = names_in(&self.trees)?;
        names.extend(names_in(&self.runs)?.iter().filter_map(|name| name.strip_suffix(".json")).map(str::to_owned));
        names.sort();
        names.dedup();
        Ok(names)
    }

    /// How many worktrees there are.
    pub fn count(&self) -> io::Result<usize> {
        Ok(names_in(&self.trees)?.len())
    }

    /// Removes the locks that a killed git left. Only while nothing of this node runs.
    pub fn break_locks(&self) {
        for mirror in names_in(&self.mirrors).unwrap_or_default() {
            break_locks_below(&self.mirrors.join(mirror).join("repository.git"));
        }
    }
}

/// For this user only.
pub(super) fn make_folder(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

fn names_in(folder: &Path) -> io::Result<Vec<String>> {
    match fs::read_dir(folder) {
        Ok(entries) => Ok(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Removes `*.lock` in a repository's folder; the objects have none that stand in the way.
pub(super) fn break_locks_below(folder: &Path) {
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let (path, Ok(kind)) = (entry.path(), entry.file_type()) else { continue };
            if kind.is_dir() && entry.file_name() != "objects" {
                open.push(path);
            } else if kind.is_file() && path.extension().is_some_and(|ending| ending == "lock") {
                tracing::info!(file = %path.display(), "removing a lock that a killed git left");
                let _ = fs::remove_file(&path);
            }
        }
    }
}

fn is_at(held: &File, path: &Path) -> bool {
    matches!((held.metadata(), fs::metadata(path)), (Ok(held), Ok(named)) if held.ino() == named.ino())
}

/// Takes a lock between processes; `None` if somebody else had it all the time. It ends with the holder, however that dies.
pub(super) async fn lock(path: &Path, patience: Duration) -> io::Result<Option<Flock<File>>> {
    let began = Instant::now();
    loop {
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            // Removed since it was opened: whoever comes next would open another file.
            Ok(lock) if !is_at(&lock, path) => {}
            Ok(lock) => return Ok(Some(lock)),
            Err((_, Errno::EWOULDBLOCK)) if began.elapsed() < patience => tokio::time::sleep(LOOK_EVERY).await,
            Err((_, Errno::EWOULDBLOCK)) => return Ok(None),
            Err((_, errno)) => return Err(errno.into()),
        }
    }
}
