//! What nodes say about attempts, and how attempts end. Never decides what follows.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::effect::{EffectEnd, EffectIntent};
use crate::ids::{AttemptRef, Incarnation, NodeId, Timestamp, Token};

/// A node's word about an attempt. Reports of former lives and of ended attempts are dropped and counted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AttemptReport {
    /// The node.
    pub node: NodeId,
    /// Its life.
    pub incarnation: Incarnation,
    /// The attempt.
    pub attempt: AttemptRef,
    /// Its fencing token.
    pub token: Token,
    /// What happened.
    pub what: AttemptNews,
}

/// What a node says about an attempt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttemptNews {
    /// The node has it and asks for the go; only where a start must never be repeated.
    Claim,
    /// It began; a process has a pid, a tool none.
    Started {
        /// The process.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pid: Option<u32>,
    },
    /// Said by the task itself.
    Progress {
        /// 0 to 100.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        percent: Option<u8>,
        /// A line for people.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        message: Option<String>,
    },
    /// It is about to bring something about outside, and does so only when this is on record.
    Intend(EffectIntent),
    /// What became of that.
    Effect {
        /// The effect's name in the run.
        effect: String,
        /// What became of it.
        end: EffectEnd,
    },
    /// It is over, and every process of it is dead.
    Ended(AttemptEnd),
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AttemptEnd {
    /// The verdict.
    pub outcome: Outcome,
    /// Exit code of the process, `128 + n` for signal n.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// For people, at most 4 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Its outputs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub outputs: BTreeMap<String, Value>,
    /// Files that it left, in the object store under their hash.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub artifacts: Vec<Artifact>,
}

/// The verdict on an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It did its work.
    Succeeded,
    /// It failed by itself.
    Exit,
    /// Its outputs do not have the declared types.
    Output,
    /// The node ran out of something.
    Resource,
    /// Ended on the Manager's word; the cause stands in the cancel decision.
    Cancelled,
    /// The agent, its guard or its node died.
    AgentLost,
    /// The node never began it.
    NotStarted,
}

/// A file that an attempt left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// Path under `$AMPHI_ARTIFACTS`.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// SHA-256 in hex, its name in the object store.
    pub sha256: String,
}

/// Why the Manager ends an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CancelCause {
    /// Its epic or task was cancelled by somebody.
    Request,
    /// It took longer than `timeout`.
    Timeout,
    /// No progress for `stuck_after`.
    Stuck,
    /// Its lease ended.
    Lease,
    /// Another instance of its matrix failed, with `fail_fast`.
    FailFast,
    /// Its agent or node is drained: the next attempt is another's, and this one does not count.
    Drain,
}

/// What follows an ended attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Next {
    /// The run succeeded.
    Succeeded,
    /// The run failed.
    Failed,
    /// The run was cancelled.
    Cancelled,
    /// Another attempt, not before this moment.
    Retry {
        /// When.
        at: Timestamp,
    },
    /// Nobody knows whether it did its work, and it must not be repeated: a person decides.
    Unknown,
}
