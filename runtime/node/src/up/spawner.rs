//! The thread that starts all node processes, and those of `amphi demo`.
//!
//! `PR_SET_PDEATHSIG` follows the *thread* that spawned a child, so all children come from this one, which lives as long as they
//! may. Never ends before its owner is done with the children.

use std::io;
use std::sync::mpsc;
use std::thread;

use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// Starts processes.
pub(crate) struct Spawner {
    requests: mpsc::Sender<(Command, oneshot::Sender<io::Result<Child>>)>,
}

impl Spawner {
    /// Must be called inside the runtime that will wait for the children.
    pub(crate) fn start() -> io::Result<Self> {
        let (requests, inbox) = mpsc::channel::<(Command, oneshot::Sender<io::Result<Child>>)>();
        let runtime = Handle::current();
        thread::Builder::new().name("node spawner".to_owned()).spawn(move || {
            let _inside = runtime.enter();
            while let Ok((mut command, answer)) = inbox.recv() {
                // Nobody waits any more: the child is killed with the handle that comes back.
                drop(answer.send(command.spawn()));
            }
        })?;
        Ok(Self { requests })
    }

    /// Starts `command` so that it is killed when this process or the spawner ends.
    pub(crate) async fn spawn(&self, mut command: Command) -> io::Result<Child> {
        let parent = nix::unistd::Pid::this();
        command.kill_on_drop(true);
        // SAFETY: only async-signal-safe calls (prctl, getppid) between fork and exec, and no allocation.
        unsafe {
            command.pre_exec(move || {
                nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
                // The parent may have died before the line above.
                if nix::unistd::getppid() == parent { Ok(()) } else { Err(io::Error::from_raw_os_error(nix::libc::ESRCH)) }
            });
        }
        let (answer, child) = oneshot::channel();
        let ended = || io::Error::other("the thread that starts node processes has ended");
        self.requests.send((command, answer)).map_err(|_| ended())?;
        child.await.map_err(|_| ended())?
    }
}
