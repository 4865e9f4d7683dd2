//! The node's end of a guard: starts one, waits for its verdict, and does the guard's work itself where the guard died.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::Flock;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio_util::sync::CancellationToken;

use super::cgroup;
use super::keeper::{Keeper, Kept};
use super::launch::{GRACE, GuardWord, Launch};
use super::leftovers::{Remains, kill_below, kill_orphans};
use super::procfs::MARKER_VARIABLE;
use super::record::{self, Record};

/// How long a guard that was asked for an orderly end may take before the node kills by itself.
const GUARD_PATIENCE: Duration = Duration::from_secs(3);

/// The same for one that was told to kill at once.
const HURRY_PATIENCE: Duration = Duration::from_secs(1);

/// How to run a guard: the `amphi` binary itself, or another program that calls [`super::guard_main`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuardCommand {
    /// The program.
    pub program: PathBuf,
    /// Its first arguments; a name for people follows.
    pub arguments: Vec<OsString>,
}

impl Default for GuardCommand {
    /// This very binary, also when its file was replaced meanwhile.
    fn default() -> Self {
        Self { program: "/proc/self/exe".into(), arguments: vec!["guard".into()] }
    }
}

/// What to start under a guard.
#[derive(Debug, Clone)]
pub struct TreeOrder {
    /// A file name, unique among the attempts that this node holds.
    pub name: String,
    /// Working folder.
    pub folder: PathBuf,
    /// Program and arguments.
    pub command: Vec<OsString>,
    /// The environment; the marker is added.
    pub environment: Vec<(String, String)>,
}

/// How a tree ended. Whatever it says, no process of the tree lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The main process ended with this code, `128 + n` for signal n.
    Exit(i32),
    /// The guard took this node for dead.
    Silence,
    /// The guard died; the node killed what it left.
    GuardDied,
    /// Nothing was started.
    Failed {
        /// The system's error number.
        errno: i32,
        /// What went wrong.
        what: String,
    },
}

/// A process tree under its guard. Dropped, the guard kills the tree.
#[derive(Debug)]
pub struct Tree {
    /// Standard output of all processes of the tree.
    pub stdout: Option<ChildStdout>,
    /// Standard error.
    pub stderr: Option<ChildStderr>,
    words: BufReader<tokio::net::UnixStream>,
    kept: Kept,
    guard: Child,
    remains: Remains,
    below: Arc<Mutex<Vec<(i32, u64)>>>,
    record: PathBuf,
}

/// Starts guards.
#[derive(Debug)]
pub struct Trees {
    state_dir: PathBuf,
    guard: GuardCommand,
    cgroups: Option<PathBuf>,
    keeper: Arc<Keeper>,
}

impl Trees {
    /// Prepares `state_dir` for records.
    pub fn open(state_dir: &Path, guard: GuardCommand, use_cgroups: bool) -> io::Result<Self> {
        std::fs::create_dir_all(record::folder(state_dir))?;
        let cgroups = if use_cgroups { cgroup::find_parent() } else { None };
        Ok(Self { state_dir: state_dir.to_owned(), guard, cgroups, keeper: Keeper::start()? })
    }

    /// Starts a guard and hands it `order`. Blocks for some milliseconds; call it on a blocking thread of a tokio runtime.
    pub fn start(&self, order: TreeOrder) -> io::Result<Tree> {
        let marker = uuid::Uuid::now_v7().simple().to_string();
        let cgroup = self.cgroups.as_ref().map(|parent| parent.join(format!("amphi-{marker}")));
        let path = record::folder(&self.state_dir).join(&order.name);
        // The record first: whatever is made from here on, a next life of this node finds it.
        let lock = Record { marker: marker.clone(), cgroup: cgroup.clone(), guard: None }.create(&path)?;
        let cgroup = cgroup.filter(|folder| cgroup::create(folder));
        let started = self.start_guard(order, &path, lock, Remains { marker, cgroup: cgroup.clone(), ..Remains::default() });
        if started.is_err() {
            // A guard that had begun finds its socket closed and starts nothing.
            if let Some(cgroup) = &cgroup {
                cgroup::remove(cgroup);
            }
            let _ = std::fs::remove_file(&path);
        }
        started
    }

    fn start_guard(&self, order: TreeOrder, record: &Path, lock: Flock<File>, mut remains: Remains) -> io::Result<Tree> {
        let (mut own, other) = UnixStream::pair()?;
        let mut command = Command::new(&self.guard.program);
        command.args(&self.guard.arguments).arg(&order.name).env_clear().env(MARKER_VARIABLE, &remains.marker).current_dir("/");
        command.stdin(OwnedFd::from(other)).stdout(Stdio::piped()).stderr(Stdio::piped());
        let spawned = command.spawn();
        drop(command); // holds the guard's end of the socket
        drop(lock);
        let mut guard = spawned?;
        remains.guard = guard.id().map(|pid| pid as i32);
        let mut environment: Vec<OsString> = order.environment.into_iter().map(|(name, value)| format!("{name}={value}").into()).collect();
        environment.push(format!("{MARKER_VARIABLE}={}", remains.marker).into());
        let launch =
            Launch { record: record.to_owned(), cgroup: remains.cgroup.clone(), folder: order.folder, command: order.command, environment };
        own.set_write_timeout(Some(Duration::from_secs(10)))?;
        // A guard that died already shows as the end of its words.
        let _ = own.write_all(&launch.encode());
        own.set_nonblocking(true)?;
        let kept = self.keeper.keep(own.try_clone()?);
        let words = BufReader::new(tokio::net::UnixStream::from_std(own)?);
        let (stdout, stderr) = (guard.stdout.take(), guard.stderr.take());
        Ok(Tree { stdout, stderr, words, kept, guard, remains, below: Arc::default(), record: record.to_owned() })
    }
}

impl Tree {
    /// Where its CPU time can be read: its cgroup, and the pid of its guard.
    pub fn cpu_meter(&self) -> super::activity::CpuMeter {
        super::activity::CpuMeter::new(self.remains.cgroup.clone(), self.remains.guard, Arc::clone(&self.below))
    }

    /// Waits until the main process runs. `None` if it never will; [`Tree::end`] then says why.
    pub async fn started(&mut self) -> Option<u32> {
        let buffered = self.words.fill_buf().await.ok()?;
        let line = buffered.split(|b| *b == b'\n').next().and_then(|line| std::str::from_utf8(line).ok())?;
        match GuardWord::parse(line) {
            Some(GuardWord::Started { pid }) => Some(pid),
            _ => None,
        }
    }

    /// Waits for the end of the tree, in order once `cancel` fires, at once when `hurry` does. When this returns, no process of the tree
    /// lives.
    pub async fn end(&mut self, cancel: &CancellationToken, hurry: &CancellationToken) -> Verdict {
        let (mut asked, mut hurried) = (false, false);
        let mut patience = std::pin::pin!(tokio::time::sleep(Duration::MAX / 4));
        let verdict = loop {
            tokio::select! {
                word = next_word(&mut self.words) => match word {
                    Some(GuardWord::Started { .. }) => {}
                    Some(GuardWord::Exit { code }) => break Some(Verdict::Exit(code)),
                    Some(GuardWord::Silence) => break Some(Verdict::Silence),
                    Some(GuardWord::Failed { errno, what }) => break Some(Verdict::Failed { errno, what }),
                    None => break None,
                },
                () = cancel.cancelled(), if !asked => {
                    asked = true;
                    let _ = self.kept.terminate();
                    patience.as_mut().reset(tokio::time::Instant::now() + GRACE + GUARD_PATIENCE);
                }
                () = hurry.cancelled(), if !hurried => {
                    (asked, hurried) = (true, true);
                    let _ = self.kept.kill();
                    patience.as_mut().reset(tokio::time::Instant::now() + HURRY_PATIENCE);
                }
                () = patience.as_mut() => break None,
            }
        };
        if let Some(verdict) = verdict {
            let _ = self.guard.wait().await;
            return verdict;
        }
        self.take_over().await;
        Verdict::GuardDied
    }

    /// The guard is dead or does not answer: ends it and all that hung on it.
    async fn take_over(&mut self) {
        let mut remains = self.remains.clone();
        remains.seen = std::mem::take(&mut *self.below.lock().unwrap_or_else(PoisonError::into_inner));
        // Not yet collected means that the pid is still the guard's own.
        let living_guard = matches!(self.guard.try_wait(), Ok(None)).then_some(remains.guard).flatten();
        let cgroup = remains.cgroup.clone();
        if let Some(guard) = living_guard {
            self.blocking(move || kill_below(guard, cgroup.as_deref())).await;
        }
        let _ = self.guard.kill().await;
        let record = self.record.clone();
        self.blocking(move || {
            kill_orphans(&remains);
            let _ = std::fs::remove_file(record);
        })
        .await;
    }

    /// Nobody aborts blocking work: it goes on to its end even if the waiting stops here.
    async fn blocking(&self, work: impl FnOnce() + Send + 'static) {
        if let Err(error) = tokio::task::spawn_blocking(work).await {
            tracing::error!(%error, record = %self.record.display(), "the processes of a lost guard could not be ended");
        }
    }
}

async fn next_word(words: &mut BufReader<tokio::net::UnixStream>) -> Option<GuardWord> {
    let mut line = String::new();
    // Cancellation loses nothing: what `read_line` took without reaching the end of the line can only be the start of the last word
    // of a guard, and those are written in one piece.
    match words.read_line(&mut line).await {
        Ok(count) if count > 0 && line.ends_with('\n') => GuardWord::parse(line.trim_end()),
        _ => None,
    }
}

/// The node ran out of something that it may have again later.
pub fn is_shortage(errno: i32) -> bool {
    matches!(Errno::from_raw(errno), Errno::ENOSPC | Errno::EDQUOT | Errno::EMFILE | Errno::ENFILE | Errno::EAGAIN | Errno::ENOMEM)
}
