//! Signs of life of a running tree: CPU time, and what the task says about its progress.
//!
//! Both are polled once a second on a blocking thread; a task can at most make its own news late.

use std::fs::OpenOptions;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use amphi_ports::JobNews;
use nix::libc;
use serde::Deserialize;

use super::{cgroup, procfs};

/// CPU time that counts as work: less is what an idle program uses for its timers.
const CPU_US_MIN: u64 = 10_000;
/// Most bytes of the progress file that one look reads.
const LOOK_BYTES_MAX: u64 = 64 * 1024;
/// Longest message for people.
const MESSAGE_CHARS_MAX: usize = 500;

/// Tells whether a tree used CPU time since it last did.
#[derive(Debug, Clone)]
pub struct CpuMeter {
    cgroup: Option<PathBuf>,
    guard: Option<i32>,
    used_us: u64,
    below: Arc<Mutex<Vec<(i32, u64)>>>,
}

impl CpuMeter {
    /// Measures by cgroup if there is one, else by walking the tree of `guard`, whose pids and start times it leaves in `below`.
    pub fn new(cgroup: Option<PathBuf>, guard: Option<i32>, below: Arc<Mutex<Vec<(i32, u64)>>>) -> Self {
        Self { cgroup, guard, used_us: 0, below }
    }

    /// True if the tree has worked since the last time that this was true.
    pub fn has_worked(&mut self) -> bool {
        let used = match &self.cgroup {
            Some(cgroup) => cgroup::cpu_us(cgroup).unwrap_or(self.used_us),
            None => self.walk(),
        };
        // In a walk the time of a process leaves the sum when the process does: any change is work.
        let worked = used.abs_diff(self.used_us) >= CPU_US_MIN;
        if worked {
            self.used_us = used;
        }
        worked
    }

    fn walk(&self) -> u64 {
        let Some(guard) = self.guard else { return 0 };
        let tree = procfs::descendants(&procfs::all(), &[guard]);
        let ticks: u64 = tree.iter().map(|process| process.cpu_ticks).sum();
        let below = tree.iter().map(|process| (process.pid, process.start_time)).collect();
        *self.below.lock().unwrap_or_else(PoisonError::into_inner) = below;
        ticks * 10_000 // USER_HZ is 100 on every Linux
    }
}

/// Reads what `amphi progress` appended to `$AMPHI_PROGRESS`.
#[derive(Debug, Clone)]
pub struct ProgressFile {
    path: PathBuf,
    offset: u64,
}

#[derive(Debug, Deserialize)]
struct ProgressLine {
    percent: Option<f64>,
    message: Option<String>,
}

impl ProgressFile {
    /// Begins at the start of `path`.
    pub fn new(path: PathBuf) -> Self {
        Self { path, offset: 0 }
    }

    /// The newest complete line since the last look; lines that are no progress are passed over.
    pub fn look(&mut self) -> Option<JobNews> {
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let mut file = OpenOptions::new().read(true).custom_flags(flags).open(&self.path).ok()?;
        let length = file.metadata().ok().filter(std::fs::Metadata::is_file)?.len();
        if length <= self.offset {
            return None;
        }
        // Only the newest counts: of a long text its tail is read.
        let tail = length.saturating_sub(LOOK_BYTES_MAX).max(self.offset);
        file.seek(SeekFrom::Start(tail)).ok()?;
        let mut bytes = Vec::new();
        file.take(LOOK_BYTES_MAX).read_to_end(&mut bytes).ok()?;
        let Some(end) = bytes.iter().rposition(|b| *b == b'\n') else {
            if bytes.len() as u64 >= LOOK_BYTES_MAX {
                self.offset = tail + bytes.len() as u64;
            }
            return None;
        };
        self.offset = tail + end as u64 + 1;
        bytes[..end].rsplit(|b| *b == b'\n').find_map(parse_line)
    }
}

fn parse_line(line: &[u8]) -> Option<JobNews> {
    let line: ProgressLine = serde_json::from_slice(line).ok()?;
    let percent = line.percent.filter(|p| p.is_finite()).map(|p| p.clamp(0.0, 100.0) as u8);
    let message = line.message.map(|m| m.chars().filter(|c| !c.is_control()).take(MESSAGE_CHARS_MAX).collect::<String>());
    (percent.is_some() || message.is_some()).then_some(JobNews::Progress { percent, message })
}
