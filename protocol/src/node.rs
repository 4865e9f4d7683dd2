//! Live traffic between Managers and nodes. It travels as bincode behind [`crate::codec`]; what is open-ended inside it is JSON text,
//! because bincode is not self-describing.
//!
//! Direction and promise: commands are sent again until they are confirmed, reports are held by the node until the commit that
//! contains them is acknowledged. Both sides recognise what they have already seen.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::document::{OutputType, Work, Workspace};
use crate::ids::{AgentId, AttemptRef, Epoch, Incarnation, NodeId, RoleName, Token};
use crate::journal::{Artifact, KnownEffect};

/// Manager to node. A node refuses what is not for its present life or comes from an older epoch than it has seen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeCommand {
    /// The sender's term.
    pub epoch: Epoch,
    /// For whom.
    pub node: NodeId,
    /// For which life.
    pub incarnation: Incarnation,
    /// What to do.
    pub orders: Vec<Order>,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Order {
    /// Begin an attempt (or claim it, where [`Assignment::needs_claim`]).
    Assign(Assignment),
    /// The claim is on record: begin.
    Go {
        /// The attempt.
        attempt: AttemptRef,
    },
    /// End an attempt, all its processes, and report.
    Cancel {
        /// The attempt.
        attempt: AttemptRef,
    },
    /// Replace an agent on a person's word, also out of quarantine.
    RestartAgent {
        /// The agent.
        agent: AgentId,
    },
    /// The node is not known (any more) in this life: it must join again.
    JoinAgain,
}

/// An attempt for an agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Assignment {
    /// The attempt.
    pub attempt: AttemptRef,
    /// `t` or `t[i]`.
    pub task: String,
    /// Who runs it.
    pub agent: AgentId,
    /// Fencing token.
    pub token: Token,
    /// The start must be committed before it happens: `retry: 0` or a write lock.
    pub needs_claim: bool,
    /// [`Job`] as JSON.
    pub job_json: String,
}

/// Most files that a task may get from those that it needs.
pub const INPUTS_MAX: usize = 10_000;

/// Everything that an engine needs to run an attempt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// What runs.
    pub work: Work,
    /// Where.
    pub workspace: Workspace,
    /// Folder under the workspace.
    pub workdir: Option<String>,
    /// Declared environment; values may hold `${{ … }}`.
    pub env: BTreeMap<String, String>,
    /// Values of all references, by their text (`inputs.x`); secrets are missing, the node has them.
    pub values: BTreeMap<String, String>,
    /// Declared outputs.
    pub outputs: BTreeMap<String, OutputType>,
    /// The same over the attempts of one run.
    pub idempotency_key: String,
    /// What the instances that it needs left (`t` or `t[i]`); appears under `$AMPHI_INPUTS/<instance>/`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub inputs: BTreeMap<String, Vec<Artifact>>,
    /// What the effect ledger knows of this run: what earlier attempts brought about, or may have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub effects: BTreeMap<String, KnownEffect>,
    /// The task outside that it is about, as the document has it (`bd:ved-9d0`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
}

/// A node's answer to a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeAnswer {
    /// Taken, or known already.
    Confirmed,
    /// Another life of the node answers; the sender must take the new one.
    OtherIncarnation {
        /// The present life.
        incarnation: Incarnation,
    },
    /// The node has seen a newer leader.
    OldEpoch {
        /// The newest seen.
        epoch: Epoch,
    },
}

/// Node to Manager, every heartbeat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// The node.
    pub node: NodeId,
    /// Its life.
    pub incarnation: Incarnation,
    /// Attempts that made progress since the last heartbeat.
    pub progressed: Vec<AttemptRef>,
    /// Attempts that it holds.
    pub held: Vec<AttemptRef>,
}

/// Roles in [`HeartbeatAnswer::waiting`] at most.
pub const WAITING_MAX: usize = 256;

/// Manager to node: the answer to a [`Heartbeat`], which it acknowledges. Only the Manager that leads and knows what the journal holds
/// answers, so an answer proves that the heartbeat was heard by whoever would give the node's locks on. Shape: bincode; fields are only
/// added at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeartbeatAnswer {
    /// The Manager's term.
    pub epoch: Epoch,
    /// What the node is to the Manager.
    pub standing: Standing,
    /// For members: how many tasks wait for an agent of each role with everything else at hand. A hint, at most [`WAITING_MAX`] roles.
    pub waiting: BTreeMap<RoleName, u32>,
}

/// What a node is to its Manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// Alive, in this life: the heartbeat counts.
    Member,
    /// Not known, or lost: it must end what it runs and join again. An order says so too; the heartbeat does not count.
    Stranger,
    /// A later life of the node has joined: this one is over.
    Outlived,
}

/// A neighbour to the Manager: a node process is dead and nothing that it started lives. Whoever says so has seen the process end and
/// looked for its guards; it saves the wait for the node's silence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeDeath {
    /// The node.
    pub node: NodeId,
    /// Its process, as it was told at the join.
    pub pid: u32,
    /// The life that is over.
    pub incarnation: Incarnation,
    /// How it ended, for people: `killed by signal 9`.
    pub how: String,
}

/// Substitution values are text: strings as they are, everything else as compact JSON.
pub fn value_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
