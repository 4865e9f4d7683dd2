//! Programs that tools run: under a guard like commands, as an argument array, never through a shell.
//!
//! When [`Context::child`] returns, no process of the child's tree lives. If the node dies, the guard ends the tree.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use amphi_protocol::journal::Outcome;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::{Context, ToolError};
use crate::process::{Basics, GuardCommand, ProcessConfig, Tree, TreeOrder, Trees, Verdict, is_shortage};

/// Most bytes that are kept of each of a child's streams.
const KEPT_BYTES_MAX: usize = 64 * 1024;
/// Most bytes of standard error that an error shows.
const SHOWN_BYTES_MAX: usize = 2 * 1024;
const PIPE_PATIENCE: Duration = Duration::from_secs(2);
const NEWS_EVERY: Duration = Duration::from_secs(1);

/// Starts children. Nothing is touched before the first.
pub(crate) struct Launcher {
    data_dir: PathBuf,
    guard: GuardCommand,
    basics: Basics,
    trees: Mutex<Option<Arc<Trees>>>,
}

impl Launcher {
    /// Guards' records stand under `data_dir`, as those of commands.
    pub fn new(data_dir: PathBuf) -> Self {
        let config = ProcessConfig::new(data_dir.clone(), "/".to_owned());
        Self::with(data_dir, config.guard, config.basics)
    }

    /// The same with another guard and other basics.
    pub fn with(data_dir: PathBuf, guard: GuardCommand, basics: Basics) -> Self {
        Self { data_dir, guard, basics, trees: Mutex::new(None) }
    }

    /// Where a program is, if this node has it.
    pub fn program(&self, name: &str) -> Option<PathBuf> {
        let is_program = |path: &PathBuf| path.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0);
        self.basics.path.split(':').filter(|folder| folder.starts_with('/')).map(|folder| Path::new(folder).join(name)).find(is_program)
    }

    fn trees(&self) -> std::io::Result<Arc<Trees>> {
        let mut trees = self.trees.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(trees) = &*trees {
            return Ok(Arc::clone(trees));
        }
        std::fs::create_dir_all(&self.data_dir)?;
        let opened = Arc::new(Trees::open(&self.data_dir.canonicalize()?, self.guard.clone(), true)?);
        *trees = Some(Arc::clone(&opened));
        Ok(opened)
    }
}

/// A program to run.
#[derive(Debug)]
pub(crate) struct Child {
    pub program: PathBuf,
    pub arguments: Vec<OsString>,
    pub folder: PathBuf,
    /// Besides `PATH`, `HOME` and `LANG`.
    pub environment: Vec<(String, String)>,
}

/// How a child ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub code: i32,
    /// At most 64 KiB.
    pub stdout: String,
    /// The last lines, for people.
    pub stderr: String,
}

impl Context {
    /// Runs a child to its end; a cancel ends it. The error says that it could not be run, not that it failed.
    pub async fn child(&self, child: Child) -> Result<Ended, ToolError> {
        self.check_cancel()?;
        let basics = &self.launcher.basics;
        let mut environment = vec![
            ("PATH".to_owned(), basics.path.clone()),
            ("HOME".to_owned(), basics.home.clone()),
            ("LANG".to_owned(), basics.lang.clone()),
        ];
        environment.extend(child.environment);
        let mut command = vec![child.program.into_os_string()];
        command.extend(child.arguments);
        let name = format!("{}-{}", self.attempt, uuid::Uuid::now_v7().simple());
        let order = TreeOrder { name, folder: child.folder, command, environment };
        let launcher = Arc::clone(&self.launcher);
        let started = tokio::task::spawn_blocking(move || launcher.trees()?.start(order)).await;
        let mut tree = started.map_err(|error| ToolError::failed(format!("the start of a program broke: {error}")))??;
        self.watch(&mut tree).await
    }

    async fn watch(&self, tree: &mut Tree) -> Result<Ended, ToolError> {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let (out, err, mut meter) = (tree.stdout.take(), tree.stderr.take(), tree.cpu_meter());
        let verdict = {
            let mut readers = std::pin::pin!(async {
                tokio::join!(read(out, &mut stdout), read(err, &mut stderr));
            });
            let mut end = std::pin::pin!(tree.end(&self.cancel, &self.hurry));
            let mut ticks = interval(NEWS_EVERY);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut is_read = false;
            let verdict = loop {
                tokio::select! {
                    verdict = &mut end => break verdict,
                    () = &mut readers, if !is_read => is_read = true,
                    _ = ticks.tick() => if meter.has_worked() {
                        self.is_active();
                    }
                }
            };
            if !is_read {
                let _ = timeout(PIPE_PATIENCE, readers).await;
            }
            verdict
        };
        self.check_cancel()?;
        match verdict {
            Verdict::Exit(code) => Ok(Ended {
                code,
                stdout: String::from_utf8_lossy(&stdout).into_owned(),
                stderr: last_lines(&String::from_utf8_lossy(&stderr)),
            }),
            Verdict::Failed { errno, what } if is_shortage(errno) => Err(ToolError { outcome: Outcome::Resource, text: what }),
            Verdict::Failed { what, .. } => Err(ToolError::failed(what)),
            Verdict::Silence | Verdict::GuardDied => Err(ToolError {
                outcome: Outcome::AgentLost,
                text: "the guard of the program was lost, and its processes were ended".to_owned(),
            }),
        }
    }

    /// An error once the tool was asked to end.
    pub fn check_cancel(&self) -> Result<(), ToolError> {
        if self.cancel.is_cancelled() { Err(ToolError::cancelled()) } else { Ok(()) }
    }
}

/// Reads to the end and keeps the beginning.
async fn read(pipe: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>) {
    let Some(mut pipe) = pipe else { return };
    let mut buffer = vec![0u8; 16 * 1024];
    while let Ok(count @ 1..) = pipe.read(&mut buffer).await {
        kept.extend_from_slice(&buffer[..count.min(KEPT_BYTES_MAX - kept.len())]);
    }
}

/// Whole lines only: half a secret would not be recognised as one.
fn last_lines(text: &str) -> String {
    let mut shown = text.trim();
    while shown.len() > SHOWN_BYTES_MAX {
        match shown.split_once('\n') {
            Some((_, rest)) => shown = rest,
            None => return "(one very long line)".to_owned(),
        }
    }
    shown.chars().filter(|c| *c == '\n' || !c.is_control()).collect()
}
