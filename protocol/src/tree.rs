//! The supervision tree as users see it (`amphi tree`, `amphi.api.tree.get`).
//!
//! Only the shape; who fills it in is the supervisors' affair. Absent values are `null`, so that every node has the same keys.

use serde::{Deserialize, Serialize};

/// One actor of a supervision tree with everything below it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeNode {
    /// The child's id below its supervisor.
    pub name: String,
    /// The actor's name in its process.
    pub actor: String,
    /// What it is.
    pub kind: TreeKind,
    /// How a supervisor treats the siblings of a child that failed: `one_for_one`, `one_for_all`, `rest_for_one`. Null for a worker.
    pub strategy: Option<String>,
    /// `permanent`, `transient` or `temporary`; null for a root.
    pub restart: Option<String>,
    /// How often it was started again.
    pub restarts: u64,
    /// How many restarts are allowed within `within_ms`, where there is a limit of its own.
    pub max: Option<u32>,
    /// The period of `max`, in milliseconds.
    pub within_ms: Option<u64>,
    /// What it does now.
    pub state: TreeState,
    /// Messages that wait in its mailbox, where they are counted.
    pub mailbox: Option<u64>,
    /// Why it ended the last time.
    pub last_exit: Option<String>,
    /// What it supervises, in the order of the start.
    pub children: Vec<TreeNode>,
}

/// What an actor of the tree is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TreeKind {
    /// It decides who lives.
    Supervisor,
    /// It works.
    Worker,
}

/// What an actor of the tree does now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TreeState {
    /// It waits for its first start, or is about to run.
    Starting,
    /// It runs.
    Running,
    /// It ended and will be started again.
    Restarting,
    /// It ended too often and stays down until somebody says otherwise.
    Quarantined,
    /// It was told to end.
    Stopping,
    /// It ended and nobody will start it by itself.
    Stopped,
}

impl TreeState {
    /// `quarantined`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Restarting => "restarting",
            Self::Quarantined => "quarantined",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
        }
    }
}
