//! Whether an agent or a node may be given work, and what an operator says about it.

use serde::{Deserialize, Serialize};

use crate::ids::{AgentId, NodeId, Timestamp};

/// Somebody who is given work: an agent, or a node with all its agents.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Post {
    /// An agent.
    Agent(AgentId),
    /// A node.
    Node(NodeId),
}

/// What an operator wants of an agent or a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hold {
    /// It takes work again.
    Resume,
    /// It takes nothing new; what it runs goes on. Agents only.
    Pause,
    /// It takes nothing new, and what still runs after a while is handed over to others.
    Drain {
        /// Milliseconds that running attempts may go on.
        grace_ms: u64,
    },
}

/// Whether an agent or a node may be given work.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Duty {
    /// It may.
    #[default]
    Active,
    /// It may not, by an operator's word.
    Paused,
    /// It may not, and gives away what it has.
    Draining {
        /// Until then running attempts may finish.
        until: Timestamp,
    },
}
