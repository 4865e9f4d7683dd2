//! What is seen: public events, derived from the journal in order.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::ids::{AgentId, EpicId, EventSeq, NodeId, ShardId};

/// One public event. Absent parts are `null`, never missing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// The shard.
    pub shard: ShardId,
    /// Dense per shard, from 1.
    pub seq: EventSeq,
    /// RFC 3339, UTC, milliseconds.
    pub ts: String,
    /// The epic, if it is about one.
    pub epic: Option<EpicId>,
    /// `t` or `t[i]`.
    pub task: Option<String>,
    /// From 1.
    pub run: Option<u32>,
    /// From 1.
    pub attempt: Option<u32>,
    /// The agent.
    pub agent: Option<AgentId>,
    /// The node.
    pub node: Option<NodeId>,
    /// What happened.
    #[serde(rename = "type")]
    pub kind: EventType,
    /// The rest.
    pub data: Map<String, Value>,
    /// The task as a subject token; not part of the body.
    #[serde(skip)]
    pub task_token: Option<String>,
}

impl Event {
    /// `amphi.evt.<epic or _>.<task or _>.<type with dashes>`.
    pub fn subject(&self) -> String {
        let epic = self.epic.as_ref().map_or("_", |epic| epic.as_str());
        let task = self.task_token.as_deref().or(self.task.as_deref()).unwrap_or("_");
        format!("amphi.evt.{epic}.{task}.{}", self.kind.subject_token())
    }

    /// The id under which JetStream recognises it: `<shard>-<seq>`.
    pub fn message_id(&self) -> String {
        format!("{}-{}", self.shard, self.seq)
    }
}

macro_rules! event_types {
    ($($(#[$doc:meta])* $variant:ident = $text:literal,)*) => {
        /// The kinds of events.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum EventType {
            $($(#[$doc])* #[serde(rename = $text)] $variant,)*
        }

        impl EventType {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// `task.started`.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}

event_types! {
    /// An epic was accepted.
    EpicSubmitted = "epic.submitted",
    /// Its first task was assigned.
    EpicStarted = "epic.started",
    /// A person is needed; data: `reason`.
    EpicWaiting = "epic.waiting",
    /// Nothing new of it starts; data: `by`.
    EpicPaused = "epic.paused",
    /// It goes on after it had ended, waited or been paused.
    EpicResumed = "epic.resumed",
    /// It is over and succeeded.
    EpicSucceeded = "epic.succeeded",
    /// It is over and failed.
    EpicFailed = "epic.failed",
    /// It is over and was cancelled.
    EpicCancelled = "epic.cancelled",
    /// Needs are met.
    TaskReady = "task.ready",
    /// It waits; data: `reason`.
    TaskWaiting = "task.waiting",
    /// An operator said who has its next attempt; data: `agent`, `by`.
    TaskPinned = "task.pinned",
    /// Anybody may have it again; data: `agent`, `cause`.
    TaskUnpinned = "task.unpinned",
    /// It was given to an agent; data: `token`.
    TaskAssigned = "task.assigned",
    /// It began; data: `pid`.
    TaskStarted = "task.started",
    /// It said how far it is; data: `percent`, `message`.
    TaskProgress = "task.progress",
    /// An attempt failed and is tried again; data: `cause`, `next_at`.
    TaskRetrying = "task.retrying",
    /// The run succeeded; data: `exit_code`, `outputs`, `artifacts`.
    TaskSucceeded = "task.succeeded",
    /// The run failed; data: `cause`, `exit_code`, `error`.
    TaskFailed = "task.failed",
    /// An attempt made no progress; data: `cause`.
    TaskStuck = "task.stuck",
    /// The next attempt went to another agent; data: `from`.
    TaskReassigned = "task.reassigned",
    /// The run was cancelled; data: `cause`.
    TaskCancelled = "task.cancelled",
    /// Its condition was false, or somebody left it out; data then: `by`.
    TaskSkipped = "task.skipped",
    /// Its `undo` took it back; data: `exit_code`. All events of such a run have `undo: true` in their data.
    TaskUndone = "task.undone",
    /// Nobody knows whether it did its work.
    TaskUnknown = "task.unknown",
    /// A lock was granted; data: `resource`, `mode`, `token`, and for an owner outside of all epics `owner`, `project`.
    LockGranted = "lock.granted",
    /// A lock is free again; data: as when it was granted.
    LockReleased = "lock.released",
    /// A lease ended; data: `resource`, `token`, and for an owner outside `owner`, `project`, `mode`.
    LockExpired = "lock.expired",
    /// A resource was written and tasks listed under its `on_change` run again; data: `resource`, `task` that wrote, `runs` opened now
    /// (`task`, `run`), `later` (tasks that are under way).
    ResourceChanged = "resource.changed",
    /// A tool is about to bring something about outside; data: `effect`, `key`, `tool`, `token`, `about`.
    EffectIntended = "effect.intended",
    /// It happened; data: `effect`, `key`, `outputs`, or `resolved_by` if a person said so.
    EffectDone = "effect.done",
    /// It certainly did not happen; data: `effect`, `key`, `why` or `resolved_by`.
    EffectNotDone = "effect.not_done",
    /// Nobody knows whether it happened; data: `effect`, `key`, `why`.
    EffectUnknown = "effect.unknown",
    /// A question for a person; data: `incident`, `kind`, `summary`.
    IncidentOpened = "incident.opened",
    /// Somebody has seen it and looks after it; data: `incident`, `note`, `by`.
    IncidentAcked = "incident.acked",
    /// The answer; data: `incident`, `resolution`, `by`.
    IncidentResolved = "incident.resolved",
    /// An agent is there; data: `role`.
    AgentJoined = "agent.joined",
    /// An agent died or went; data: `cause`.
    AgentLost = "agent.lost",
    /// Its supervisor started it again; data: `restarts`, `cause`.
    AgentRestarted = "agent.restarted",
    /// It died too often; data: `restarts`, `cause`.
    AgentQuarantined = "agent.quarantined",
    /// A node is there; data: `incarnation`, `pid`, `capacity`.
    NodeJoined = "node.joined",
    /// A node is gone; data: `incarnation`, `cause`.
    NodeLost = "node.lost",
    /// It takes nothing new, by an operator's word; data: `by`.
    AgentPaused = "agent.paused",
    /// It takes nothing new and gives away what it has; data: `by`, `until`.
    AgentDraining = "agent.draining",
    /// It takes work again; data: `by`.
    AgentResumed = "agent.resumed",
    /// It takes nothing new and gives away what it has; data: `by`, `until`.
    NodeDraining = "node.draining",
    /// It has given everything away.
    NodeDrained = "node.drained",
    /// It takes work again; data: `by`.
    NodeResumed = "node.resumed",
    /// A Manager leads; data: `epoch`.
    ManagerElected = "manager.elected",
}

impl EventType {
    /// `task-started`.
    pub fn subject_token(self) -> String {
        self.as_str().replace('.', "-")
    }

    /// True for the last event of an epic (until it is reopened).
    pub fn ends_epic(self) -> bool {
        matches!(self, Self::EpicSucceeded | Self::EpicFailed | Self::EpicCancelled)
    }
}
