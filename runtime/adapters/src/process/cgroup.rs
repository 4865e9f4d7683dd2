//! A cgroup2 folder per process tree, where one can be made: `cgroup.kill` ends a tree at once, forks under way included.
//!
//! Found, never required: without one the guard walks the tree. No controller is used or enabled.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The folder under which this process may make cgroups, if there is one.
pub fn find_parent() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = own.lines().find_map(|line| line.strip_prefix("0::"))?.trim_start_matches('/');
    if own.split('/').any(|part| part == "..") {
        return None;
    }
    let mount = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (_, folder, kind) = (fields.next()?, fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(folder))
    })?;
    let parent = mount.join(own);
    parent.join("cgroup.procs").exists().then_some(parent)
}

/// Makes a cgroup; true if it can be killed.
pub fn create(folder: &Path) -> bool {
    if fs::create_dir(folder).is_err() {
        return false;
    }
    let can_kill = folder.join("cgroup.kill").exists();
    if !can_kill {
        remove(folder);
    }
    can_kill
}

/// Kills everything in it and below it.
pub fn kill(folder: &Path) {
    // Gone already is as good as killed; any other failure shows when the cgroup does not become empty.
    let _ = fs::write(folder.join("cgroup.kill"), "1");
}

/// The processes in it and below it.
pub fn members(folder: &Path) -> Vec<i32> {
    let mut pids: Vec<i32> =
        fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default().lines().filter_map(|line| line.parse().ok()).collect();
    for sub in subfolders(folder) {
        pids.extend(members(&sub));
    }
    pids
}

/// CPU time used in it so far, in microseconds.
pub fn cpu_us(folder: &Path) -> Option<u64> {
    let text = fs::read_to_string(folder.join("cpu.stat")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("usage_usec ")?.parse().ok())
}

/// Removes it with what a task may have made below it; fails silently while something lives there.
pub fn remove(folder: &Path) {
    for sub in subfolders(folder) {
        remove(&sub);
    }
    let _ = fs::remove_dir(folder);
}

/// Puts the calling process into it. Async-signal-safe: called between fork and exec with a path made before.
pub fn join_self(procs_file: &std::ffi::CStr) -> io::Result<()> {
    use nix::libc;
    // SAFETY: plain system calls on a valid C string and a local buffer.
    unsafe {
        let fd = libc::open(procs_file.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let written = libc::write(fd, b"0".as_ptr().cast(), 1);
        let result = if written == 1 { Ok(()) } else { Err(io::Error::last_os_error()) };
        libc::close(fd);
        result
    }
}

fn subfolders(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}
