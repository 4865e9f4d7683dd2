//! What is remembered: one [`Record`] per commit, in the order of the shard's journal.
//!
//! A record holds the inputs that were taken in and, for each of them, the decisions that followed. Decisions are recorded, never
//! recomputed: a newer build with a better scheduler replays an old journal to the same state. Records are JSON with a schema
//! number; a newer schema is refused, older ones stay readable.

mod admission;
mod attempt;
mod decision;
pub mod duty;
pub mod effect;
pub mod held;
pub mod outside;
pub mod upkeep;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

pub use admission::Admission;
pub use attempt::{Artifact, AttemptEnd, AttemptNews, AttemptReport, CancelCause, Next, Outcome};
pub use decision::{Decision, EpicEnd, IncidentKind};
pub use duty::{Duty, Hold, Post};
pub use effect::{EffectEnd, EffectIntent, KnownEffect};
pub use held::{ChildEnd, WaitEnd};
pub use outside::{AskEnd, LockName, OutsideLock};
pub use upkeep::{Retiring, SegmentRef, SnapshotRef, Upkeep};

use crate::document::EpicSpec;
use crate::ids::{
    AgentId, AttemptRef, CommitIndex, EpicId, Epoch, EventSeq, Incarnation, IncidentId, NodeId, OwnerName, ProjectId, RoleName, ShardId,
    SubmitKey, Timestamp, Token,
};

/// The schema number that this build writes.
pub const SCHEMA: u32 = 1;
/// Largest encoded record.
pub const RECORD_BYTES_MAX: usize = 768 * 1024;
/// A larger specification goes to the object store; the journal keeps its hash.
pub const SPEC_BYTES_INLINE_MAX: usize = 512 * 1024;

/// One commit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// [`SCHEMA`] of the writer.
    pub schema: u32,
    /// The shard.
    pub shard: ShardId,
    /// Dense, from 1.
    pub index: CommitIndex,
    /// The leader's term.
    pub epoch: Epoch,
    /// The leader's time; never goes back.
    pub now_ms: Timestamp,
    /// Unique per commit; tells our own write from another's after a doubt.
    pub commit_id: String,
    /// SHA-256 of the record before, in hex; empty for the first.
    pub prev_hash: String,
    /// Number of the last public event before this commit.
    pub seq: EventSeq,
    /// The newest record that holds a `snapshot_taken`, up to and including this one: where a start looks first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<CommitIndex>,
    /// What was taken in.
    pub inputs: Vec<Input>,
    /// What followed, one list per input.
    pub decisions: Vec<Vec<Decision>>,
}

/// Why bytes are no record of this build.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Not JSON of the wanted shape.
    #[error("the journal record cannot be read")]
    Malformed(#[from] serde_json::Error),
    /// Written by a newer build.
    #[error("the journal record has schema {found}, this build reads up to {SCHEMA}")]
    NewerSchema {
        /// The schema found.
        found: u32,
    },
}

impl Record {
    /// The bytes that are stored and hashed.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a record has only string keys and finite numbers")
    }

    /// The bytes of a record from its head and its already encoded lists, so that nothing is encoded twice.
    ///
    /// `inputs` and `decisions` are the elements of the two JSON arrays, separated by commas. The record's own lists are not read.
    pub fn splice(head: &Self, inputs: &[u8], decisions: &[u8]) -> Vec<u8> {
        let mut bytes = Self { inputs: Vec::new(), decisions: Vec::new(), ..head.clone() }.encode();
        let end = b"\"inputs\":[],\"decisions\":[]}";
        bytes.truncate(bytes.len() - end.len());
        bytes.extend_from_slice(b"\"inputs\":[");
        bytes.extend_from_slice(inputs);
        bytes.extend_from_slice(b"],\"decisions\":[");
        bytes.extend_from_slice(decisions);
        bytes.extend_from_slice(b"]}");
        bytes
    }

    /// Reads a stored record.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        #[derive(Deserialize)]
        struct Head {
            schema: u32,
        }
        let head: Head = serde_json::from_slice(bytes)?;
        if head.schema > SCHEMA {
            return Err(RecordError::NewerSchema { found: head.schema });
        }
        Ok(serde_json::from_slice(bytes)?)
    }

    /// What the next record carries as `prev_hash`.
    pub fn hash(bytes: &[u8]) -> String {
        hex::encode(Sha256::digest(bytes))
    }
}

/// SHA-256, piece by piece, in hex at the end.
#[derive(Debug, Clone, Default)]
pub struct Hasher(Sha256);

impl Hasher {
    /// Of nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a piece.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest in hex.
    pub fn finish(self) -> String {
        hex::encode(self.0.finalize())
    }
}

/// What the Manager takes in. Only inputs that led to a decision are journalled; refused ones are answered and forgotten.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Input {
    /// A new leader begins its term.
    Lead {
        /// The node of the leader.
        node: NodeId,
    },
    /// A client sends an epic.
    Submit(Submission),
    /// A client cancels an epic.
    CancelEpic {
        /// The epic.
        epic: EpicId,
        /// Who asked.
        by: String,
        /// What succeeded and has an `undo` is undone before it ends.
        #[serde(default, skip_serializing_if = "is_false")]
        undo: bool,
    },
    /// A client wants nothing new of an epic to start.
    PauseEpic {
        /// The epic.
        epic: EpicId,
        /// Who asked.
        by: String,
    },
    /// A client wants a paused epic to go on.
    ResumeEpic {
        /// The epic.
        epic: EpicId,
        /// Who asked.
        by: String,
    },
    /// A client wants new runs of an epic that has ended or stops.
    RetryEpic {
        /// The epic.
        epic: EpicId,
        /// Instances that run again with everything that comes after them; empty: whatever did not end well.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        from: Vec<u32>,
        /// Who asked.
        by: String,
    },
    /// A client wants one task (all its instances, or one) left out.
    SkipTask {
        /// The epic.
        epic: EpicId,
        /// Its instances.
        instances: Vec<u32>,
        /// Who asked.
        by: String,
    },
    /// A client cancels one task (all its instances, or one).
    CancelTask {
        /// The epic.
        epic: EpicId,
        /// Its instances.
        instances: Vec<u32>,
        /// Who asked.
        by: String,
    },
    /// An operator says who has the next attempt of one task (all its instances, or one).
    AssignTask {
        /// The epic.
        epic: EpicId,
        /// Its instances.
        instances: Vec<u32>,
        /// Who is to have it.
        agent: AgentId,
        /// Who asked.
        by: String,
    },
    /// A client wants a new run of ended instances and of what was cancelled because of them.
    RetryTask {
        /// The epic.
        epic: EpicId,
        /// Its instances.
        instances: Vec<u32>,
        /// Who asked.
        by: String,
    },
    /// A person has seen an incident and looks after it.
    AckIncident {
        /// The incident.
        incident: IncidentId,
        /// What they say, for people.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        note: String,
        /// Who.
        by: String,
    },
    /// A person says how an unknown outcome is to be read.
    ResolveIncident {
        /// The incident.
        incident: IncidentId,
        /// The reading.
        resolution: Resolution,
        /// Who said so.
        by: String,
    },
    /// A node process presents itself. Its former life, if there was one, is proven dead with everything that it had started.
    Join(NodeInfo),
    /// A node is gone.
    LoseNode {
        /// The node.
        node: NodeId,
        /// Its life.
        incarnation: Incarnation,
        /// Why it counts as gone.
        cause: String,
    },
    /// An agent changed: died, was restarted, was quarantined, came or went.
    Agent(AgentReport),
    /// A node has more agents, or fewer.
    Staff(StaffReport),
    /// A node reports about an attempt.
    Attempt(AttemptReport),
    /// An attempt made no progress for its time; measured by the leader, outside the state.
    Silent {
        /// The attempt.
        attempt: AttemptRef,
        /// `stuck` or `lease`.
        cause: CancelCause,
    },
    /// Time has passed; what is due is decided.
    Tick,
    /// The journal's own keeping.
    Upkeep(Upkeep),
    /// An operator says whether an agent or a node may be given work.
    Hold {
        /// Who.
        post: Post,
        /// What is wanted.
        hold: Hold,
        /// Who asked.
        by: String,
    },
    /// A message came in on a subject that tasks wait for.
    Signal {
        /// Its subject.
        subject: String,
        /// Its body: JSON, or the text as a JSON string.
        data: Value,
        /// Only for those who waited before this instant. One message may end more waits than a commit can hold; it is then taken again,
        /// and what began to wait since then must hear the next one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        before: Option<Timestamp>,
    },
    /// Somebody outside of all epics wants a lock. Asking again while it is held renews it, while it is awaited keeps the place.
    AcquireLock {
        /// Which, how, and for whom.
        lock: OutsideLock,
        /// Milliseconds for which it is given.
        ttl_ms: u64,
        /// Milliseconds for which the request keeps its place in the queue; 0: it is taken only if the lock is free.
        wait_ms: u64,
        /// Who asked.
        by: String,
    },
    /// An owner outside goes on holding a lock.
    RenewLock {
        /// On what.
        name: LockName,
        /// The token under which it is held; without one the owner tells.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        token: Option<Token>,
        /// The owner; without one the token tells.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        owner: Option<OwnerName>,
        /// Milliseconds from now on; as long as before without it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ttl_ms: Option<u64>,
        /// Who asked.
        by: String,
    },
    /// An owner outside gives a lock back, or does not want it any more.
    ReleaseLock {
        /// On what.
        name: LockName,
        /// The token under which it is held; without one the owner tells.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        token: Option<Token>,
        /// The owner; without one the token tells.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        owner: Option<OwnerName>,
        /// Who asked.
        by: String,
    },
}

fn is_false(value: &bool) -> bool {
    !value
}

/// An epic as it reaches the Manager. The specification itself is journalled with the decision, not twice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Submission {
    /// The id that it gets unless its key is known already.
    pub epic: EpicId,
    /// Idempotency key, per project.
    pub key: SubmitKey,
    /// SHA-256 of the body, in hex: the same key with another body is a conflict.
    pub body_hash: String,
    /// The submitter.
    pub by: String,
    /// The project (also in the specification).
    pub project: ProjectId,
    /// What was asked for.
    #[serde(skip)]
    pub spec: SpecRef,
    /// How much may be open; without it everything is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admission: Option<Admission>,
}

/// A specification, in the record or beside it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SpecRef {
    /// SHA-256 of the specification's JSON, in hex.
    pub hash: String,
    /// In the record, unless it is larger than [`SPEC_BYTES_INLINE_MAX`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inline: Option<Arc<EpicSpec>>,
    /// Filled from the object store before the record is replayed, when it is not inline.
    #[serde(skip)]
    pub resolved: Option<Arc<EpicSpec>>,
}

impl SpecRef {
    /// A reference to `spec`, inline if it is small, and its JSON.
    pub fn new(spec: Arc<EpicSpec>) -> (Self, Vec<u8>) {
        let bytes = serde_json::to_vec(&*spec).expect("a specification has only string keys and finite numbers");
        let hash = hex::encode(Sha256::digest(&bytes));
        let small = bytes.len() <= SPEC_BYTES_INLINE_MAX;
        let (inline, resolved) = if small { (Some(spec), None) } else { (None, Some(spec)) };
        (Self { hash, inline, resolved }, bytes)
    }

    /// The specification, if it is at hand.
    pub fn get(&self) -> Option<&Arc<EpicSpec>> {
        self.inline.as_ref().or(self.resolved.as_ref())
    }
}

/// How a person reads an unknown outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resolution {
    /// It did its work.
    Succeeded,
    /// It did not.
    Failed,
    /// It never began, so it may start.
    NotStarted,
}

/// A node and what runs on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// The node.
    pub node: NodeId,
    /// Its life.
    pub incarnation: Incarnation,
    /// Its process.
    pub pid: u32,
    /// How many tasks it runs at once.
    pub capacity: u32,
    /// Labels, `key` to `value`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Its agents.
    pub agents: Vec<AgentInfo>,
    /// Names the data folder that the node lives in, over all its lives: two machines that use one node id are told apart by it. Empty
    /// in records of earlier builds.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub home: String,
}

/// One agent of a node; it runs one task at a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentInfo {
    /// The agent.
    pub agent: AgentId,
    /// Its role.
    pub role: RoleName,
    /// Its skills, sorted.
    pub skills: Vec<String>,
}

/// A change of one agent, reported by its node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentReport {
    /// The node.
    pub node: NodeId,
    /// Its life.
    pub incarnation: Incarnation,
    /// The agent.
    pub agent: AgentId,
    /// What it is now.
    pub state: AgentLife,
    /// How often it was restarted in this life of the node.
    pub restarts: u32,
    /// Why, for people.
    pub cause: String,
}

/// Agents that came to a node or are to leave it, in one life of the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StaffReport {
    /// The node.
    pub node: NodeId,
    /// Its life.
    pub incarnation: Incarnation,
    /// Agents that are there now; their ids are new in this life of the node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub added: Vec<AgentInfo>,
    /// Agents that want to leave. Refused as long as one of them has an open attempt.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removed: Vec<AgentId>,
    /// Why.
    pub cause: StaffCause,
}

/// Why agents come or leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StaffCause {
    /// Tasks wait for their role.
    Queue,
    /// They had nothing to do.
    Idle,
    /// The node is short of memory.
    Memory,
    /// The node is short of processor time.
    Cpu,
    /// Their role came, changed or went.
    Role,
}

impl StaffCause {
    /// The word in events and journals.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Idle => "idle",
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Role => "role",
        }
    }
}

/// Whether an agent can be given work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentLife {
    /// Ready for work (again).
    Up,
    /// Dead, and its supervisor is at work.
    Down,
    /// Dead too often; it stays down until a person says otherwise.
    Quarantined,
}
