//! Locks that somebody outside of all epics holds: a script, a person, another program. Never decides who gets one.

use serde::{Deserialize, Serialize};

use crate::document::LockMode;
use crate::ids::{OwnerName, ProjectId, Resource};

/// What a lock is held on, and in which space the name means something.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LockName {
    /// The project.
    pub project: ProjectId,
    /// The workspace, for `file/…` of a `path` or `git` workspace, as `lock.list` shows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder: Option<String>,
    /// The resource; below `file/` it may be a glob.
    pub resource: Resource,
}

/// A lock that an owner outside holds or waits for. Its owner has at most one on a name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct OutsideLock {
    /// On what.
    pub name: LockName,
    /// How.
    pub mode: LockMode,
    /// Whose.
    pub owner: OwnerName,
}

/// Why a request for a lock left its queue without the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AskEnd {
    /// Nobody waits for the answer any more.
    WaitOver,
    /// Its owner took it back.
    Withdrawn,
}

/// Shortest time for which a lock is given to somebody outside: a second.
pub const TTL_MS_MIN: u64 = 1_000;
/// Longest: a day.
pub const TTL_MS_MAX: u64 = 86_400_000;
/// Longest time for which one request keeps its place in the queue: an hour. Whoever asks again keeps it longer.
pub const WAIT_MS_MAX: u64 = 3_600_000;
/// Locks that owners outside hold and wait for at once, in a shard.
pub const OUTSIDE_MAX: usize = 10_000;
