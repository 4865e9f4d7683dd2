//! Ends what a dead guard left, and proves that nothing is left.
//!
//! The tree of a dead guard is found by its cgroup, by the marker in its environment, and, on the node that started it, by its session
//! among the children that the node adopted and by what was last seen below the guard. Without cgroup2 this has a limit: a process that
//! cleared its environment and left its session is not found when guard and node were both killed with SIGKILL, or when the guard was
//! killed before the node saw the process.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use super::cgroup;
use super::procfs::{self, ProcessStat};
use super::record::{self, Record};

/// Silence plus a margin: a guard that lives longer than this after its node died is stopped or broken.
const GUARD_PATIENCE: Duration = Duration::from_secs(7);
const PASS_EVERY: Duration = Duration::from_millis(20);

/// Makes the calling process adopt what its dead guards leave behind. Call it once, early in the life of a node.
pub fn become_subreaper() -> io::Result<()> {
    Ok(prctl::set_child_subreaper(true)?)
}

/// An attempt of an earlier life whose processes could not be proven dead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    /// Its record.
    pub record: PathBuf,
    /// Processes of it that still live, as far as they could be found; its guard may be among them.
    pub pids: Vec<i32>,
    /// What stands in the way.
    pub reason: String,
}

/// Proves that no process of an earlier life of this node lives, ending what does. Blocks, at most for about `deadline`. Must not run
/// while an engine of this process uses the same folder.
///
/// The previous life must be over (its lock on the data folder free): then its guards kill by themselves, and this only waits. What a
/// dead guard left is killed here.
pub fn confirm_dead(state_dir: &Path, deadline: Duration) -> Result<(), Vec<Leftover>> {
    let began = Instant::now();
    loop {
        let mut left = Vec::new();
        for path in records(state_dir) {
            if let Err(leftover) = settle_record(&path, began.elapsed() >= GUARD_PATIENCE.min(deadline / 2)) {
                left.push(leftover);
            }
        }
        if left.is_empty() {
            return Ok(());
        }
        if began.elapsed() >= deadline {
            return Err(left);
        }
        std::thread::sleep(PASS_EVERY);
    }
}

fn records(state_dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(record::folder(state_dir)) else { return Vec::new() };
    entries.flatten().map(|entry| entry.path()).collect()
}

/// One pass over one record: removed if nothing is left of its tree.
fn settle_record(path: &Path, end_guard: bool) -> Result<(), Leftover> {
    let leftover = |pids: Vec<i32>, reason: String| Leftover { record: path.to_owned(), pids, reason };
    let lock = match record::try_lock(path) {
        Ok(Some(lock)) => lock,
        Ok(None) => {
            let guard = File::open(path).and_then(|mut file| Record::read(&mut file)).ok().and_then(|record| record.guard);
            if let (true, Some((pid, start))) = (end_guard, guard)
                && procfs::read(pid).is_some_and(|stat| stat.start_time == start)
            {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            return Err(leftover(guard.map(|(pid, _)| pid).into_iter().collect(), "its guard still runs".to_owned()));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(leftover(Vec::new(), format!("its record cannot be locked: {error}"))),
    };
    let record = Record::read(&mut &*lock).map_err(|error| leftover(Vec::new(), format!("its record cannot be read: {error}")))?;
    let tree = Remains { marker: record.marker, cgroup: record.cgroup, ..Remains::default() };
    let pids = tree.kill_pass(&mut BTreeSet::new());
    if !pids.is_empty() {
        return Err(leftover(pids, "its processes do not die".to_owned()));
    }
    tree.remove_cgroup();
    let _ = fs::remove_file(path);
    Ok(())
}

/// Kills everything below a living guard that does not do it itself: stopped, or too slow. Returns when nothing below it lives. Blocks.
///
/// The guard must not be killed before: while it is there, even stopped, whatever loses its parent comes to it, so nothing escapes.
pub fn kill_below(guard: i32, cgroup: Option<&Path>) {
    let mut empty_looks = 0;
    // One look is no proof: a child may be born behind the reader's back while its parent dies ahead of it.
    while empty_looks < 2 {
        if let Some(cgroup) = cgroup {
            cgroup::kill(cgroup);
        }
        let living: Vec<ProcessStat> = procfs::descendants(&procfs::all(), &[guard]).into_iter().filter(ProcessStat::is_alive).collect();
        if living.is_empty() {
            empty_looks += 1;
            continue;
        }
        empty_looks = 0;
        for process in living {
            let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
        }
        std::thread::sleep(PASS_EVERY);
    }
}

/// Kills what a dead guard of this very process left, adopted children included, and returns when nothing of it lives. Blocks.
pub fn kill_orphans(remains: &Remains) {
    let mut adopted = BTreeSet::new();
    while !remains.kill_pass(&mut adopted).is_empty() {
        std::thread::sleep(PASS_EVERY);
        collect(&adopted);
    }
    collect(&adopted);
    remains.remove_cgroup();
}

/// Zombies that this process adopted: nobody else collects them.
fn collect(adopted: &BTreeSet<i32>) {
    for pid in adopted {
        let _ = waitpid(Pid::from_raw(*pid), Some(WaitPidFlag::WNOHANG));
    }
}

/// What tells the processes of one attempt from all others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Remains {
    /// The value of their marker variable.
    pub marker: String,
    /// Their cgroup.
    pub cgroup: Option<PathBuf>,
    /// Their guard's pid if it was a child of this process: also their session.
    pub guard: Option<i32>,
    /// Pids and start times of processes that were seen below the guard while it lived.
    pub seen: Vec<(i32, u64)>,
}

impl Remains {
    /// Kills what lives of it and returns that. `adopted` gathers the children that this process got from the dead guard.
    fn kill_pass(&self, adopted: &mut BTreeSet<i32>) -> Vec<i32> {
        let living = self.find(adopted);
        if let Some(cgroup) = &self.cgroup {
            cgroup::kill(cgroup);
        }
        for pid in &living {
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        living
    }

    fn find(&self, adopted: &mut BTreeSet<i32>) -> Vec<i32> {
        let own = std::process::id() as i32;
        let all = procfs::all();
        let in_cgroup: BTreeSet<i32> = self.cgroup.as_deref().map(cgroup::members).unwrap_or_default().into_iter().collect();
        let is_member = |process: &ProcessStat| {
            in_cgroup.contains(&process.pid)
                || self.seen.contains(&(process.pid, process.start_time))
                || (process.parent == own && self.guard.is_some_and(|guard| guard == process.session && guard != process.pid))
                || (!self.marker.is_empty() && procfs::marker_of(process.pid).as_deref() == Some(&self.marker))
        };
        let roots: Vec<ProcessStat> = all.iter().filter(|process| process.pid != own && is_member(process)).copied().collect();
        let root_pids: Vec<i32> = roots.iter().map(|process| process.pid).collect();
        let mut living = BTreeSet::new();
        for process in roots.iter().copied().chain(procfs::descendants(&all, &root_pids)) {
            if process.parent == own {
                adopted.insert(process.pid);
            }
            if process.is_alive() {
                living.insert(process.pid);
            }
        }
        living.extend(in_cgroup.iter().filter(|pid| procfs::read(**pid).is_some_and(|process| process.is_alive())));
        living.into_iter().collect()
    }

    fn remove_cgroup(&self) {
        if let Some(cgroup) = &self.cgroup {
            cgroup::remove(cgroup);
        }
    }
}
