//! Ends the server that a killed `up` left behind on a data folder.
//!
//! Never ends anything else: a process counts only if it runs a nats-server with the configuration file of this very folder.
//! Blocking, all of it.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::files::Folder;
use super::{ManagedError, file_error};

/// How long the server has to end by itself.
const TERM_PATIENCE: Duration = Duration::from_secs(5);
/// How long the kernel has to remove a killed one.
const KILL_PATIENCE: Duration = Duration::from_secs(10);
/// Time between two looks.
const POLL: Duration = Duration::from_millis(10);

/// Ends every nats-server that runs on the data folder `data`, and returns when they are gone; true if there was one. Call it only
/// while holding the folder's lock.
pub fn end_leftover(data: &Path) -> Result<bool, ManagedError> {
    if !data.join("nats").is_dir() {
        return Ok(false);
    }
    let folder = Folder::open(data)?;
    let config = folder.config();
    let mut found = false;
    // The pid file is the quick way; the list of processes finds one whose pid was not written any more.
    let noted = folder.read_pid().filter(|noted| process_start_time(noted.pid) == Some(noted.start_time)).map(|noted| noted.pid);
    let listed = processes().map_err(|e| file_error("listing the processes", e))?;
    for pid in noted.into_iter().chain(listed) {
        let Some(start_time) = process_start_time(pid).filter(|_| runs_on(pid, &config)) else { continue };
        tracing::warn!(pid, "ending a nats-server that was left behind");
        found = true;
        end_process(pid, start_time)?;
    }
    folder.remove_pid();
    Ok(found)
}

/// When the process started (clock ticks since boot); `None` if there is none, or only a zombie.
pub fn process_start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything; after it come the state (field 3) and numbers.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

fn processes() -> std::io::Result<Vec<u32>> {
    let entries = fs::read_dir("/proc")?;
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect())
}

/// True if the command line is that of a nats-server with this configuration file.
fn runs_on(pid: u32, config: &Path) -> bool {
    let Ok(line) = fs::read(format!("/proc/{pid}/cmdline")) else { return false };
    let mut words = line.split(|&byte| byte == 0);
    let program = words.next().unwrap_or_default();
    program.ends_with(b"nats-server") && words.any(|word| word == config.as_os_str().as_encoded_bytes())
}

/// Ends the process that has this pid and start time: TERM, then KILL, and returns when it is gone. Blocking, up to 15 s.
pub fn end_process(pid: u32, start_time: u64) -> Result<(), ManagedError> {
    let alive = || process_start_time(pid) == Some(start_time);
    for (signal, patience) in [(Signal::SIGTERM, TERM_PATIENCE), (Signal::SIGKILL, KILL_PATIENCE)] {
        if let Ok(number) = i32::try_from(pid) {
            // It may just have ended; the loop below sees that.
            kill(Pid::from_raw(number), signal).ok();
        }
        let deadline = Instant::now() + patience;
        while alive() {
            if Instant::now() >= deadline {
                break;
            }
            std::thread::sleep(POLL);
        }
        if !alive() {
            return Ok(());
        }
    }
    Err(ManagedError::LeftoverLives { pid })
}
