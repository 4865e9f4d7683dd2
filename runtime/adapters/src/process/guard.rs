//! The guard: the process on which the process tree of one attempt hangs.
//!
//! It starts the tree, listens to its node and kills the whole tree when the node says so, dies, or is silent. It runs in a process of
//! its own with one thread, so that nothing that happens to the node keeps it from killing. It must never report an end before the
//! tree is empty, and never end itself while something of the tree lives.
//!
//! Why "empty" is certain: the guard is the tree's reaper (`PR_SET_CHILD_SUBREAPER`), so a process whose parent died becomes the
//! guard's child whatever session it is in, and a dead one stays its child until the guard has collected it. No children at all means
//! no descendants.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::fcntl::Flock;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{Pid, dup2_stderr, dup2_stdin, dup2_stdout, getppid, setpgid, setsid};

use super::launch::{GRACE, GuardWord, KILL, Launch, SILENCE_MAX, TERMINATE};
use super::{cgroup, procfs, record};

/// Runs a guard; the `amphi` binary calls this, before anything else, when its first argument is `guard`. `args` are for people who
/// look at process lists. Standard input is the socket to the node; standard output and error are those of the task.
pub fn guard_main(args: impl Iterator<Item = OsString>) -> ! {
    drop(args);
    let code = match guard() {
        Ok(()) => 0,
        Err(_) => 1, // nobody is left to be told: the node sees the end of the socket
    };
    std::process::exit(code)
}

fn guard() -> io::Result<()> {
    let (mut node, signals) = settle_in()?;
    node.set_read_timeout(Some(SILENCE_MAX))?;
    let launch = Launch::decode(&mut node)?;
    let lock = match take_record(&launch.record) {
        Ok(lock) => lock,
        Err(error) => return say_failed(&mut node, "the guard's record cannot be locked", &error),
    };
    let main = match start(&launch) {
        Ok(pid) => pid,
        Err(error) => {
            clear(&launch, lock);
            return say_failed(&mut node, "the command cannot be started", &error);
        }
    };
    leave_output()?;
    // A node that is gone already shows as end of file in the watch.
    let _ = node.write_all(GuardWord::Started { pid: main.as_raw() as u32 }.to_line().as_bytes());
    node.set_nonblocking(true)?;
    let mut watch =
        Watch { node, signals, main, code: None, mode: Mode::Running, heard: now(), cgroup: launch.cgroup.clone(), silent: false };
    watch.until_empty();
    clear(&launch, lock);
    let code = watch.code.unwrap_or(128 + libc::SIGKILL);
    let word = if watch.silent { GuardWord::Silence } else { GuardWord::Exit { code } };
    let _ = watch.node.write_all(word.to_line().as_bytes());
    Ok(())
}

/// Makes this process fit to be a guard: alone in its session, reaper of its tree, deaf to signals, holding no foreign descriptors.
fn settle_in() -> io::Result<(UnixStream, SignalFd)> {
    // SAFETY: closes descriptors that nothing in this young single-threaded process owns.
    unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, 0u32) };
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&SigSet::all()), None)?;
    // Fails only for a group leader, and then only costs the session of its own.
    let _ = setsid();
    prctl::set_child_subreaper(true)?;
    let _ = prctl::set_name(c"amphi-guard");
    let node = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    dup2_stdin(File::open("/dev/null")?)?;
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGCHLD);
    let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    Ok((node, signals))
}

/// The node holds the lock until this process runs, so a short wait is normal.
fn take_record(path: &Path) -> io::Result<Flock<File>> {
    let deadline = now() + SILENCE_MAX;
    loop {
        if let Some(mut lock) = record::try_lock(path)? {
            record::add_guard(&mut lock)?;
            return Ok(lock);
        }
        if now() > deadline {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn say_failed(node: &mut UnixStream, what: &str, error: &io::Error) -> io::Result<()> {
    let word = GuardWord::Failed { errno: error.raw_os_error().unwrap_or(0), what: format!("{what}: {error}") };
    node.write_all(word.to_line().as_bytes())
}

fn start(launch: &Launch) -> io::Result<Pid> {
    let (program, arguments) = launch.command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let mut command = Command::new(program);
    command.args(arguments).current_dir(&launch.folder).env_clear().stdin(Stdio::null());
    for variable in &launch.environment {
        let bytes = variable.as_bytes();
        let split = bytes.iter().position(|b| *b == b'=').ok_or(io::ErrorKind::InvalidInput)?;
        command.env(OsString::from_vec(bytes[..split].to_vec()), OsString::from_vec(bytes[split + 1..].to_vec()));
    }
    let guard = Pid::this();
    let procs_file = launch.cgroup.as_ref().and_then(|path| CString::new(path.join("cgroup.procs").as_os_str().as_bytes()).ok());
    // SAFETY: the closure makes system calls only and allocates nothing.
    unsafe {
        command.pre_exec(move || {
            if let Some(procs_file) = &procs_file {
                cgroup::join_self(procs_file)?;
            }
            setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
            for signal in 1..=libc::SIGRTMAX() {
                libc::signal(signal, libc::SIG_DFL);
            }
            sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
            prctl::set_pdeathsig(Signal::SIGKILL)?;
            if getppid() != guard { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) }
        });
    }
    let child = command.spawn()?;
    // Collected by `Watch::reap` along with everything else that becomes a child of this process.
    Ok(Pid::from_raw(child.id() as i32))
}

/// Lets go of the task's output, so that its readers see the end when the tree is dead.
fn leave_output() -> io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)?;
    Ok(())
}

/// The tree is dead, or was never there: nothing needs to be found again.
fn clear(launch: &Launch, lock: Flock<File>) {
    if let Some(cgroup) = &launch.cgroup {
        cgroup::remove(cgroup);
    }
    let _ = std::fs::remove_file(&launch.record);
    drop(lock);
}

/// Time since boot that goes on while the machine sleeps: a node that slept was silent.
pub fn now() -> Duration {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).or_else(|_| clock_gettime(ClockId::CLOCK_MONOTONIC));
    time.map_or(Duration::ZERO, Duration::from)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Running,
    /// TERM was sent; KILL follows at this time.
    Terminating(Duration),
    Killing,
}

struct Watch {
    node: UnixStream,
    signals: SignalFd,
    main: Pid,
    code: Option<i32>,
    mode: Mode,
    heard: Duration,
    cgroup: Option<std::path::PathBuf>,
    silent: bool,
}

impl Watch {
    /// Returns when no process of the tree is left.
    fn until_empty(&mut self) {
        let mut passes = 0u64;
        loop {
            if self.reap() {
                return;
            }
            self.listen();
            let time = now();
            if self.mode != Mode::Killing && time.saturating_sub(self.heard) >= SILENCE_MAX {
                self.silent = true;
                self.mode = Mode::Killing;
            }
            match self.mode {
                // A command that has ended has no right to leave processes behind.
                Mode::Running if self.code.is_some() => self.mode = Mode::Killing,
                Mode::Terminating(until) if time >= until => self.mode = Mode::Killing,
                _ => {}
            }
            let wait = if self.mode == Mode::Killing {
                self.kill_pass();
                passes += 1;
                Duration::from_millis(passes.clamp(1, 50))
            } else {
                SILENCE_MAX.saturating_sub(time.saturating_sub(self.heard)).clamp(Duration::from_millis(5), Duration::from_millis(500))
            };
            self.wait(wait);
        }
    }

    /// Collects what has died; true when there is no child left, which means no descendant.
    fn reap(&mut self) -> bool {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL)) {
                Ok(WaitStatus::Exited(pid, code)) if pid == self.main => self.code = Some(code),
                Ok(WaitStatus::Signaled(pid, signal, _)) if pid == self.main => self.code = Some(128 + signal as i32),
                Ok(WaitStatus::StillAlive) => return false,
                Err(nix::errno::Errno::ECHILD) => return true,
                // A signal without a name in nix ends as EINVAL, the process is collected all the same.
                Err(nix::errno::Errno::EINVAL) | Ok(_) | Err(_) => {}
            }
        }
    }

    fn listen(&mut self) {
        let mut bytes = [0u8; 256];
        loop {
            match self.node.read(&mut bytes) {
                Ok(0) => return self.mode = Mode::Killing,
                Ok(count) => {
                    self.heard = now();
                    if bytes[..count].contains(&KILL) {
                        self.mode = Mode::Killing;
                    } else if self.mode == Mode::Running && bytes[..count].contains(&TERMINATE) {
                        self.mode = Mode::Terminating(now() + GRACE);
                        self.terminate();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return self.mode = Mode::Killing,
            }
        }
    }

    /// TERM to all that are there now; not to what they start to clean up.
    fn terminate(&self) {
        for process in self.tree() {
            let _ = kill(process, Signal::SIGTERM);
            let _ = kill(process, Signal::SIGCONT); // a stopped process would not see the TERM
        }
    }

    fn kill_pass(&self) {
        if let Some(cgroup) = &self.cgroup {
            cgroup::kill(cgroup);
        }
        for process in self.tree() {
            let _ = kill(process, Signal::SIGKILL);
        }
    }

    fn tree(&self) -> Vec<Pid> {
        let all = procfs::all();
        procfs::descendants(&all, &[std::process::id() as i32])
            .into_iter()
            .filter(procfs::ProcessStat::is_alive)
            .map(|process| Pid::from_raw(process.pid))
            .collect()
    }

    fn wait(&mut self, time: Duration) {
        let mut ready = [PollFd::new(self.node.as_fd(), PollFlags::POLLIN), PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        // While killing only deaths matter: a closed socket is always readable and would make this spin.
        let ready = if self.mode == Mode::Killing { &mut ready[1..] } else { &mut ready[..] };
        let timeout = PollTimeout::try_from(time).unwrap_or(PollTimeout::from(10u8));
        let _ = poll(ready, timeout);
        while let Ok(Some(_)) = self.signals.read_signal() {}
    }
}
