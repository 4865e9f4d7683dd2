//! A guard's record: a file that is locked for as long as the guard's tree may live.
//!
//! The node writes and locks it, then the guard takes the lock over and adds itself. Whoever finds a record that is not locked may
//! kill what is left of its tree and remove it: its marker and cgroup tell where to look, its guard's pid with start time whom to
//! end. Between node and guard the lock is free for an instant; the guard then already carries the marker in its environment.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use amphi_protocol::ids::AttemptRef;
use nix::fcntl::{Flock, FlockArg};

use super::procfs;

/// The folder of all records under a node's data folder.
pub fn folder(state_dir: &Path) -> PathBuf {
    state_dir.join("guards")
}

/// True while processes of any attempt of this run may live on this node.
pub fn is_guarded(state_dir: &Path, attempt: &AttemptRef) -> bool {
    let prefix = format!("{}-{}.{}.", attempt.epic, attempt.i, attempt.run);
    fs::read_dir(folder(state_dir)).into_iter().flatten().flatten().any(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
}

/// What a record says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// The value of [`procfs::MARKER_VARIABLE`] in the tree's environment.
    pub marker: String,
    /// The tree's cgroup.
    pub cgroup: Option<PathBuf>,
    /// The guard's pid and start time, once it runs.
    pub guard: Option<(i32, u64)>,
}

impl Record {
    /// Writes a new record and locks it. Fails if there is one: the attempt is running already, or what was left was never cleared.
    pub fn create(&self, path: &Path) -> io::Result<Flock<File>> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        writeln!(file, "marker {}", self.marker)?;
        if let Some(cgroup) = &self.cgroup {
            writeln!(file, "cgroup {}", cgroup.display())?;
        }
        Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno.into())
    }

    /// What the file says now; lines that do not parse are left out.
    pub fn read(file: &mut impl Read) -> io::Result<Self> {
        let mut text = String::new();
        file.take(64 * 1024).read_to_string(&mut text)?;
        let mut record = Self::default();
        for line in text.lines() {
            match line.split_once(' ') {
                Some(("marker", marker)) => record.marker = marker.to_owned(),
                Some(("cgroup", path)) => record.cgroup = Some(path.into()),
                Some(("guard", guard)) => {
                    record.guard = guard.split_once(' ').and_then(|(pid, start)| Some((pid.parse().ok()?, start.parse().ok()?)));
                }
                _ => {}
            }
        }
        Ok(record)
    }
}

/// Takes the lock if it is free and the file is still the one at `path`.
pub fn try_lock(path: &Path) -> io::Result<Option<Flock<File>>> {
    let file = OpenOptions::new().read(true).append(true).open(path)?;
    let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => lock,
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => return Ok(None),
        Err((_, errno)) => return Err(errno.into()),
    };
    let (held, named) = (lock.metadata()?, fs::metadata(path)?);
    if held.ino() == named.ino() { Ok(Some(lock)) } else { Err(io::ErrorKind::NotFound.into()) }
}

/// Adds the calling guard to its record.
pub fn add_guard(file: &mut File) -> io::Result<()> {
    let pid = std::process::id() as i32;
    let start = procfs::read(pid).map_or(0, |stat| stat.start_time);
    writeln!(file, "guard {pid} {start}")
}
