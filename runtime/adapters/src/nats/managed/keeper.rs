//! The thread that keeps the server running: it starts it, waits for its end, starts it again.
//!
//! A thread of its own because of `PR_SET_PDEATHSIG`: the kernel sends the signal when the *thread* that spawned the child ends, so
//! this thread lives as long as the server may, and both end with the process. Never blocks the async runtime.

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{io, thread};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::{Pid, getppid};
use tokio::sync::watch;

use super::ServerState;
use super::files::{Folder, PidFile};
use super::leftover::process_start_time;

/// A life shorter than this counts towards a crash loop.
const SHORT_LIFE: Duration = Duration::from_secs(3);
/// Short lives in a row after which a server that was ready once is given up.
const SHORT_LIVES_MAX: u32 = 40;
/// The same for a server that was never ready.
const FIRST_LIVES_MAX: u32 = 3;
/// Pause before a restart, times the short lives so far.
const RESTART_DELAY: Duration = Duration::from_millis(50);
/// Longest pause: "again within 1 s".
const RESTART_DELAY_MAX: Duration = Duration::from_millis(700);
/// How long an orderly stop may take.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// Owns the thread.
#[derive(Debug)]
pub(super) struct Keeper {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

/// What the thread and its owners share.
#[derive(Debug, Clone)]
pub(super) struct Handle {
    shared: Arc<Shared>,
    states: watch::Receiver<ServerState>,
}

#[derive(Debug)]
struct Shared {
    control: Mutex<Control>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Control {
    /// Set exactly while the child exists and is not reaped, so that a signal cannot hit a stranger.
    pid: Option<u32>,
    stopping: bool,
    was_ready: bool,
}

impl Shared {
    fn control(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Handle {
    /// Sends a signal to the server if it lives.
    pub(super) fn signal(&self, signal: Signal) {
        let control = self.shared.control();
        if let Some(pid) = control.pid.and_then(|pid| i32::try_from(pid).ok()) {
            kill(Pid::from_raw(pid), signal).ok();
        }
    }

    pub(super) fn states(&self) -> watch::Receiver<ServerState> {
        self.states.clone()
    }
}

impl Keeper {
    pub(super) fn start(program: PathBuf, folder: Arc<Folder>) -> io::Result<Self> {
        let shared = Arc::new(Shared { control: Mutex::default(), changed: Condvar::new() });
        let (state, states) = watch::channel(ServerState::Down);
        let keep = Keep { program, folder, shared: Arc::clone(&shared), state };
        let thread = thread::Builder::new().name("nats-server keeper".to_owned()).spawn(move || keep.run())?;
        Ok(Self { handle: Handle { shared, states }, thread: Some(thread) })
    }

    pub(super) fn handle(&self) -> Handle {
        self.handle.clone()
    }

    pub(super) fn states(&self) -> watch::Receiver<ServerState> {
        self.handle.states()
    }

    /// From now on its death is an accident, not a wrong configuration.
    pub(super) fn was_ready(&self) {
        self.handle.shared.control().was_ready = true;
    }

    fn ask_to_stop(&self, signal: Signal) {
        self.handle.shared.control().stopping = true;
        self.handle.shared.changed.notify_all();
        self.handle.signal(signal);
    }

    pub(super) async fn stop(mut self) {
        self.ask_to_stop(Signal::SIGTERM);
        let mut states = self.handle.states();
        let ended = states.wait_for(|s| matches!(s, ServerState::Stopped | ServerState::Failed { .. }));
        if tokio::time::timeout(STOP_PATIENCE, ended).await.is_err() {
            self.handle.signal(Signal::SIGKILL);
        }
        let Some(thread) = self.thread.take() else { return };
        if let Ok(Err(_)) = tokio::task::spawn_blocking(move || thread.join()).await {
            tracing::error!("the thread that keeps nats-server had panicked");
        }
    }
}

impl Drop for Keeper {
    /// Does not wait: kill is enough for safety, and the thread reaps.
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.ask_to_stop(Signal::SIGKILL);
        }
    }
}

/// The thread's own part.
struct Keep {
    program: PathBuf,
    folder: Arc<Folder>,
    shared: Arc<Shared>,
    state: watch::Sender<ServerState>,
}

impl Keep {
    fn run(self) {
        let mut short_lives = 0;
        loop {
            let started = Instant::now();
            let end = match self.live() {
                Ok(end) => end,
                Err(error) => format!("it could not be started: {error}"),
            };
            let control = self.shared.control();
            if control.stopping {
                drop(control);
                self.folder.remove_pid();
                self.state.send_replace(ServerState::Stopped);
                return;
            }
            short_lives = if started.elapsed() < SHORT_LIFE { short_lives + 1 } else { 0 };
            let lives_max = if control.was_ready { SHORT_LIVES_MAX } else { FIRST_LIVES_MAX };
            if short_lives >= lives_max {
                tracing::error!(end, short_lives, "nats-server died too often in a row and is not started again");
                self.state.send_replace(ServerState::Failed { why: end });
                return;
            }
            tracing::warn!(end, "nats-server ended; starting it again");
            self.state.send_replace(ServerState::Down);
            let pause = (RESTART_DELAY * short_lives).min(RESTART_DELAY_MAX);
            drop(self.shared.changed.wait_timeout_while(control, pause, |c| !c.stopping));
        }
    }

    /// One life of the server; returns how it ended.
    fn live(&self) -> io::Result<String> {
        let mut child = {
            let mut control = self.shared.control();
            if control.stopping {
                return Ok("stopped".to_owned());
            }
            let child = self.spawn()?;
            control.pid = Some(child.id());
            child
        };
        let pid = child.id();
        if let Some(start_time) = process_start_time(pid)
            && let Err(error) = self.folder.write_pid(PidFile { pid, start_time })
        {
            // A left-over is found without it, too, only more slowly.
            tracing::warn!(%error, "could not write the pid file of nats-server");
        }
        tracing::debug!(pid, "nats-server started");
        self.state.send_replace(ServerState::Running { pid });
        wait_without_reaping(pid);
        let mut control = self.shared.control();
        control.pid = None;
        child.wait().map(|status| status.to_string())
    }

    fn spawn(&self) -> io::Result<Child> {
        let console = self.folder.console()?;
        let parent = Pid::this();
        let mut command = Command::new(&self.program);
        command
            .arg("-c")
            .arg(self.folder.config())
            .stdin(Stdio::null())
            .stdout(console.try_clone()?)
            .stderr(console)
            // A Ctrl-C at the terminal is for `up`, which ends the server last.
            .process_group(0);
        // SAFETY: only async-signal-safe calls (prctl, getppid) between fork and exec, and no allocation.
        unsafe {
            command.pre_exec(move || {
                nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
                // The parent may have died before the line above.
                if getppid() == parent { Ok(()) } else { Err(io::Error::from_raw_os_error(nix::libc::ESRCH)) }
            });
        }
        command.spawn()
    }
}

/// Returns when the child is dead but still has its pid.
fn wait_without_reaping(pid: u32) {
    let Ok(number) = i32::try_from(pid) else { return };
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
    while let Err(nix::errno::Errno::EINTR) = waitid(Id::Pid(Pid::from_raw(number)), flags) {}
}
