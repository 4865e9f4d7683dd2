//! Processes as `/proc` shows them. Reads only; a process that goes away while it is read is simply not there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

/// The name of the variable by which the processes of a task are found again when their guard is gone.
pub const MARKER_VARIABLE: &str = "AMPHI_GUARD";

/// What the kernel says about one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessStat {
    /// Its id.
    pub pid: i32,
    /// Its parent, or the reaper that adopted it.
    pub parent: i32,
    /// Its session.
    pub session: i32,
    /// One letter, `Z` for a zombie.
    pub state: u8,
    /// Ticks since boot at its start: with the pid it names a process for good.
    pub start_time: u64,
    /// Ticks of CPU that it and its reaped children used.
    pub cpu_ticks: u64,
}

impl ProcessStat {
    /// It can still do something.
    pub fn is_alive(&self) -> bool {
        self.state != b'Z' && self.state != b'X'
    }
}

/// One process, if it is there.
pub fn read(pid: i32) -> Option<ProcessStat> {
    let text = fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The command name stands in parentheses and may hold anything, parentheses and spaces too: fields begin after the last one.
    let end = text.iter().rposition(|b| *b == b')')?;
    let rest = std::str::from_utf8(text.get(end + 2..)?).ok()?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |position: usize| fields.get(position - 3).and_then(|f| f.parse::<u64>().ok());
    Some(ProcessStat {
        pid,
        parent: i32::try_from(number(4)?).ok()?,
        session: i32::try_from(number(6)?).unwrap_or(0),
        state: *fields.first()?.as_bytes().first()?,
        start_time: number(22)?,
        cpu_ticks: number(14)? + number(15)? + number(16).unwrap_or(0) + number(17).unwrap_or(0),
    })
}

/// All processes.
pub fn all() -> Vec<ProcessStat> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok()).filter_map(read).collect()
}

/// Everything below `roots`, without the roots.
pub fn descendants(processes: &[ProcessStat], roots: &[i32]) -> Vec<ProcessStat> {
    let mut children: BTreeMap<i32, Vec<&ProcessStat>> = BTreeMap::new();
    for process in processes {
        children.entry(process.parent).or_default().push(process);
    }
    let mut seen: BTreeSet<i32> = roots.iter().copied().collect();
    let mut open: Vec<i32> = roots.to_vec();
    let mut found = Vec::new();
    while let Some(pid) = open.pop() {
        for child in children.get(&pid).into_iter().flatten() {
            if seen.insert(child.pid) {
                found.push(**child);
                open.push(child.pid);
            }
        }
    }
    found
}

/// The marker in a process's environment, if it has one and we may look.
pub fn marker_of(pid: i32) -> Option<String> {
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    environment.split(|b| *b == 0).find_map(|entry| {
        let value = entry.strip_prefix(MARKER_VARIABLE.as_bytes())?.strip_prefix(b"=")?;
        String::from_utf8(value.to_vec()).ok()
    })
}
