//! What the Manager decided: the second half of a [`super::Record`].

use serde::{Deserialize, Serialize};

use crate::ids::{AgentId, AttemptRef, CommitIndex, EpicId, Epoch, Incarnation, IncidentId, NodeId, Resource, SubmitKey, Timestamp, Token};
use crate::journal::{
    AgentInfo, AgentLife, AskEnd, AttemptEnd, CancelCause, ChildEnd, Duty, EffectEnd, EffectIntent, Next, NodeInfo, OutsideLock, Post,
    Resolution, SegmentRef, SnapshotRef, SpecRef, StaffCause, WaitEnd,
};

/// What the Manager decided. Each decision changes the state by itself; some have effects after their commit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// A new term. Everything of older terms is void from here.
    EpochStarted {
        /// The leader's node.
        node: NodeId,
        /// The term.
        epoch: Epoch,
    },
    /// An epic was accepted.
    EpicAccepted {
        /// Its id.
        epic: EpicId,
        /// Its key.
        key: SubmitKey,
        /// Hash of the body behind the key.
        body_hash: String,
        /// Who sent it.
        by: String,
        /// What it asks for.
        spec: SpecRef,
    },
    /// Nothing of the epic starts any more except by `always()` or `failure()`: a task failed for good.
    EpicStopping {
        /// The epic.
        epic: EpicId,
        /// The instance whose failure it was.
        i: u32,
    },
    /// The epic is being cancelled: nothing starts, what runs is ended.
    EpicCancelling {
        /// The epic.
        epic: EpicId,
        /// Who asked.
        by: String,
        /// What succeeded and has an `undo` is undone before it ends.
        #[serde(default, skip_serializing_if = "is_false")]
        undo: bool,
    },
    /// Nothing new of the epic starts; what runs goes on.
    EpicPaused {
        /// The epic.
        epic: EpicId,
        /// Who asked.
        by: String,
    },
    /// A paused epic goes on.
    EpicResumed {
        /// The epic.
        epic: EpicId,
        /// Who asked.
        by: String,
    },
    /// Instances that had not started are left out, on somebody's word.
    InstancesSkipped {
        /// The epic.
        epic: EpicId,
        /// The instances.
        instances: Vec<u32>,
        /// Who asked.
        by: String,
    },
    /// Everything of the epic has ended, and an instance that succeeded is taken back: a new run of it does its `undo`.
    UndoStarted {
        /// The epic.
        epic: EpicId,
        /// The instance; of those that succeeded and are not undone yet, the one that ended last.
        i: u32,
        /// The new run.
        run: u32,
    },
    /// The epic is over.
    EpicEnded {
        /// The epic.
        epic: EpicId,
        /// How.
        state: EpicEnd,
    },
    /// Whether a task runs whose needs have all ended and that has a condition.
    ConditionDecided {
        /// The epic.
        epic: EpicId,
        /// The task's position.
        task: u32,
        /// It runs.
        runs: bool,
        /// Why nobody can say; the task has failed then.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
    /// A run that holds a resource for writing is about to end well, and other tasks asked to hear of it.
    ResourceChanged {
        /// The epic.
        epic: EpicId,
        /// The instance that wrote.
        i: u32,
        /// Its run.
        run: u32,
        /// What it wrote.
        resource: Resource,
        /// Tasks that had ended: all their instances have a new run with this decision.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        opened: Vec<u32>,
        /// Tasks that are under way: they get a new run when the present one has ended.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        later: Vec<u32>,
    },
    /// A task that was under way during a change has ended: all its instances have a new run.
    RunsOpened {
        /// The epic.
        epic: EpicId,
        /// The task's position.
        task: u32,
    },
    /// An attempt was given to an agent, together with all its locks.
    Assigned {
        /// The attempt.
        attempt: AttemptRef,
        /// The agent.
        agent: AgentId,
        /// Its node.
        node: NodeId,
        /// The node's life.
        incarnation: Incarnation,
        /// Fencing token of the whole set.
        token: Token,
    },
    /// The node may begin: the start is on record before it happens.
    Claimed {
        /// The attempt.
        attempt: AttemptRef,
    },
    /// The attempt began.
    Started {
        /// The attempt.
        attempt: AttemptRef,
        /// Its process.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pid: Option<u32>,
    },
    /// The task said how far it is.
    Progressed {
        /// The attempt.
        attempt: AttemptRef,
        /// 0 to 100.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        percent: Option<u8>,
        /// A line for people.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        message: Option<String>,
    },
    /// An effect outside is about to be brought about: on record before it happens.
    EffectIntended {
        /// The attempt that does it.
        attempt: AttemptRef,
        /// Its token.
        token: Token,
        /// What.
        intent: EffectIntent,
    },
    /// What became of an effect, said by the attempt that did it, or by a later one that asked.
    EffectEnded {
        /// The attempt that says so.
        attempt: AttemptRef,
        /// Its token.
        token: Token,
        /// The effect's name in the run.
        effect: String,
        /// What became of it.
        end: EffectEnd,
    },
    /// The attempt is to be ended by its node.
    AttemptCancelling {
        /// The attempt.
        attempt: AttemptRef,
        /// Why.
        cause: CancelCause,
    },
    /// The attempt is over; its locks are free with this decision.
    AttemptEnded {
        /// The attempt.
        attempt: AttemptRef,
        /// Its token.
        token: Token,
        /// How it ended.
        end: AttemptEnd,
        /// What follows.
        next: Next,
    },
    /// A task that only waits has ended.
    WaitEnded {
        /// The epic.
        epic: EpicId,
        /// The instance.
        i: u32,
        /// Its run.
        run: u32,
        /// How.
        end: WaitEnd,
    },
    /// The run of a task that is an epic itself opens that epic.
    ChildStarted {
        /// The epic of the task.
        epic: EpicId,
        /// The instance.
        i: u32,
        /// Its run.
        run: u32,
        /// The epic that is opened; its specification stands in that of the task.
        child: EpicId,
    },
    /// The epic that a task opened is to end, and the task as this says; the cancel of that epic follows.
    ChildCancelling {
        /// The epic of the task.
        epic: EpicId,
        /// The instance.
        i: u32,
        /// Its run.
        run: u32,
        /// Why.
        cause: CancelCause,
    },
    /// A task that opened an epic is undone: what succeeded in that epic is taken back.
    ChildUndoing {
        /// The epic of the task.
        epic: EpicId,
        /// The instance.
        i: u32,
        /// The run that undoes.
        run: u32,
        /// The epic that is taken back.
        child: EpicId,
    },
    /// The epic that a task opened has ended, and with it the task's run.
    ChildEnded {
        /// The epic of the task.
        epic: EpicId,
        /// The instance.
        i: u32,
        /// Its run.
        run: u32,
        /// The epic that has ended.
        child: EpicId,
        /// How the task's run ends.
        end: ChildEnd,
    },
    /// The pause before the next attempt is over.
    BackoffEnded {
        /// The epic.
        epic: EpicId,
        /// The instance.
        i: u32,
    },
    /// Instances that had not started end as `cancelled`.
    InstancesCancelled {
        /// The epic.
        epic: EpicId,
        /// The instances.
        instances: Vec<u32>,
        /// Why.
        cause: CancelCause,
    },
    /// Ended instances get a new run, and an ended epic goes on.
    Reopened {
        /// The epic.
        epic: EpicId,
        /// The instances.
        instances: Vec<u32>,
        /// Who asked.
        by: String,
    },
    /// A question for a person.
    IncidentOpened {
        /// Its id.
        incident: IncidentId,
        /// The attempt that it is about.
        attempt: AttemptRef,
        /// A line for people.
        summary: String,
        /// What is asked.
        #[serde(default, skip_serializing_if = "IncidentKind::is_unknown_outcome")]
        kind: IncidentKind,
    },
    /// A person has seen it and looks after it.
    IncidentAcked {
        /// Its id.
        incident: IncidentId,
        /// What they say.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        note: String,
        /// Who.
        by: String,
    },
    /// The answer.
    IncidentResolved {
        /// Its id.
        incident: IncidentId,
        /// The answer.
        resolution: Resolution,
        /// Who gave it.
        by: String,
    },
    /// A node is there.
    NodeJoined(NodeInfo),
    /// A node is gone.
    NodeLost {
        /// The node.
        node: NodeId,
        /// Its life.
        incarnation: Incarnation,
        /// Why.
        cause: String,
    },
    /// A node has more agents, or fewer.
    StaffChanged {
        /// The node.
        node: NodeId,
        /// Who is there now.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        added: Vec<AgentInfo>,
        /// Who has left; none of them has an open attempt.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        removed: Vec<AgentId>,
        /// Why.
        cause: StaffCause,
    },
    /// An agent changed.
    AgentChanged {
        /// Its node.
        node: NodeId,
        /// The agent.
        agent: AgentId,
        /// What it is now.
        state: AgentLife,
        /// How often it was restarted.
        restarts: u32,
        /// Why.
        cause: String,
    },
    /// A snapshot is there. Recovery relies on it and on the one before.
    SnapshotTaken {
        /// The snapshot.
        snapshot: SnapshotRef,
        /// The one before, still kept.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        older: Option<SnapshotRef>,
    },
    /// A stretch of the journal is archived and may be trimmed.
    SegmentArchived {
        /// The stretch.
        segment: SegmentRef,
    },
    /// An ended epic left the memory; its history stays.
    EpicRetired {
        /// The epic.
        epic: EpicId,
        /// Name of the object with its final view.
        view: String,
    },
    /// History before a record is over: its segments, snapshots, and the epics that were retired in it.
    HistoryOver {
        /// The first record that stays.
        from: CommitIndex,
    },
    /// An operator's word on whether an agent or a node may be given work.
    Held {
        /// Who.
        post: Post,
        /// Whether.
        duty: Duty,
        /// Who said so.
        by: String,
    },
    /// The next attempts of instances that have not started go to one agent only, on an operator's word.
    TaskPinned {
        /// The epic.
        epic: EpicId,
        /// The instances.
        instances: Vec<u32>,
        /// Who has them next.
        agent: AgentId,
        /// Who said so.
        by: String,
    },
    /// The agent cannot answer what is pinned to it; anybody may have that now.
    PinsDropped {
        /// The agent.
        agent: AgentId,
        /// Why.
        cause: String,
    },
    /// What still runs there is handed over now.
    GraceEnded {
        /// Who is drained.
        post: Post,
    },
    /// Somebody outside of all epics waits for a lock; if the owner waited for it already, the place stays.
    LockAsked {
        /// Which, how, and whose.
        lock: OutsideLock,
        /// Milliseconds for which it will be given.
        ttl_ms: u64,
        /// Until when the request waits.
        until: Timestamp,
        /// Who asked.
        by: String,
    },
    /// An owner outside has a lock.
    LockGranted {
        /// Which, how, and whose.
        lock: OutsideLock,
        /// Its fencing token.
        token: Token,
        /// Until when, unless it is renewed.
        until: Timestamp,
    },
    /// An owner outside goes on holding a lock.
    LockRenewed {
        /// Which, how, and whose.
        lock: OutsideLock,
        /// Its fencing token, the same as before.
        token: Token,
        /// Milliseconds for which it is given.
        ttl_ms: u64,
        /// Until when, unless it is renewed again.
        until: Timestamp,
    },
    /// An owner outside gave a lock back.
    LockReleased {
        /// Which, how, and whose.
        lock: OutsideLock,
        /// Its fencing token.
        token: Token,
        /// Who said so.
        by: String,
    },
    /// An owner outside did not renew a lock in time, and has it no more.
    LockExpired {
        /// Which, how, and whose.
        lock: OutsideLock,
        /// Its fencing token.
        token: Token,
    },
    /// A request from outside left the queue without the lock.
    LockAskEnded {
        /// Which, how, and whose.
        lock: OutsideLock,
        /// Why.
        cause: AskEnd,
    },
}

/// How an epic ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EpicEnd {
    /// Everything that had to succeed did.
    Succeeded,
    /// A task failed for good.
    Failed,
    /// Somebody cancelled it.
    Cancelled,
}

/// What a person is asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IncidentKind {
    /// Whether an attempt did its work that must not be repeated; its task waits for the answer.
    #[default]
    UnknownOutcome,
    /// An `undo` failed for good, so that somebody has to look at what it left; nothing waits for the answer.
    UndoFailed,
}

impl IncidentKind {
    /// The word that users read.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UnknownOutcome => "unknown_outcome",
            Self::UndoFailed => "undo_failed",
        }
    }

    fn is_unknown_outcome(&self) -> bool {
        *self == Self::UnknownOutcome
    }
}

fn is_false(value: &bool) -> bool {
    !value
}
