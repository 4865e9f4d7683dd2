//! An accepted epic: its specification, its expanded plan and where each task and instance stands.

use std::collections::BTreeMap;
use std::sync::Arc;

use amphi_protocol::document::{EpicSpec, LockMode, Plan, TaskSpec, Work};
use amphi_protocol::ids::{AgentId, AttemptRef, CommitIndex, EpicId, Incarnation, IncidentId, NodeId, Timestamp, Token};
use amphi_protocol::journal::{Artifact, CancelCause, EpicEnd};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::backlog::{Rank, Turn};
use crate::effects::Effect;
use crate::fleet::Demand;
use crate::locks::ResourceKey;

/// An accepted epic.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Epic {
    /// Its id.
    pub id: EpicId,
    /// What it asks for. Snapshots hold each specification once.
    #[serde(skip, default = "crate::snapshot::no_spec")]
    pub spec: Arc<EpicSpec>,
    /// Hash of the specification, as the journal names it.
    pub spec_hash: String,
    /// Its graph; follows from the specification.
    #[serde(skip, default = "crate::snapshot::no_plan")]
    pub plan: Arc<Plan>,
    /// The record that accepted it.
    pub accepted_in: CommitIndex,
    /// Who sent it.
    pub submitted_by: String,
    /// When it was accepted.
    pub submitted_at: Timestamp,
    /// When it ended (last).
    pub ended_at: Option<Timestamp>,
    /// How it stands.
    pub status: EpicStatus,
    /// A task failed for good: only `always()` and `failure()` start anything.
    pub stopping: bool,
    /// Its first task was assigned.
    pub started: bool,
    /// It was last seen waiting for a person with nothing running.
    pub waiting: bool,
    /// One per task.
    pub tasks: Vec<TaskProgress>,
    /// One per instance.
    pub instances: Vec<Instance>,
    /// For each phase: tasks not ended.
    pub phase_open: Vec<u32>,
    /// For each phase: tasks that ended without satisfying anybody.
    pub phase_bad: Vec<u32>,
    /// Tasks not ended.
    pub open_tasks: u32,
    /// Attempts open.
    pub active: u32,
    /// Instances that are ready, wait for locks, or pause before a retry.
    pub pending: u32,
    /// Instances whose outcome is unknown.
    pub unknown: u32,
    /// Its place among the epics that wait for agents.
    pub turn: Turn,
    /// Nothing new of it starts.
    #[serde(default)]
    pub paused: bool,
    /// Once everything has ended, what succeeded is undone before the epic ends.
    #[serde(default)]
    pub undo_wanted: bool,
    /// The instance whose `undo` is under way; at most one at a time.
    #[serde(default)]
    pub undoing: Option<u32>,
    /// Instances that succeeded, have an `undo` and were not undone, in the order of their ends.
    #[serde(default)]
    pub undo_order: Vec<u32>,
    /// Instances that wait for time or an event.
    #[serde(default)]
    pub holding: u32,
    /// The run that opened it, if one did.
    #[serde(default)]
    pub parent: Option<Parent>,
    /// Instances that have opened an epic, or are about to.
    #[serde(default)]
    pub nested: u32,
    /// Of these, those whose epic waits for a person.
    #[serde(default)]
    pub nested_waiting: u32,
}

/// The run of a task that opened an epic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Parent {
    /// The epic of the task.
    pub epic: EpicId,
    /// The instance.
    pub i: u32,
    /// Its run.
    pub run: u32,
    /// `t` or `t[i]`, also when the epic of the task was put away.
    pub task: String,
}

/// How an epic stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EpicStatus {
    /// Open.
    Running,
    /// What runs is being ended.
    Cancelling,
    /// Over.
    Ended(EpicEnd),
}

/// Where a task stands.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TaskProgress {
    /// Needs (and phase barriers) that have not ended.
    pub waits: u32,
    /// Needs that ended without satisfying it.
    pub bad: u32,
    /// Instances not ended.
    pub open: u32,
    /// Instances that were let go and have not ended, for `max_parallel`.
    pub running: u32,
    /// Next instance that has not been let go.
    pub cursor: u32,
    /// Its instances may start.
    pub released: bool,
    /// Ended instances by kind.
    pub succeeded: u32,
    /// Ended instances by kind.
    pub failed: u32,
    /// Ended instances by kind.
    pub cancelled: u32,
    /// How it ended.
    pub end: Option<TaskEnd>,
    /// Instances whose present run has had an attempt.
    pub begun: u32,
    /// A resource changed while it was under way: it gets a new run before it counts as ended.
    pub again: bool,
}

/// How a task ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskEnd {
    /// All instances succeeded.
    Succeeded,
    /// An instance failed.
    Failed,
    /// An instance was cancelled, none failed.
    Cancelled,
    /// Its condition was false.
    Skipped,
}

/// One instance of a task.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Instance {
    /// The run, from 1.
    pub run: u32,
    /// The last attempt of the run; 0 before the first.
    pub attempt: u32,
    /// Attempts of the run that never began; they do not count against the retry policy.
    pub unstarted: u32,
    /// The run does the task's `undo`. In the graph the instance counts as succeeded, as it did before.
    pub undo: bool,
    /// Attempts of the run that were handed over because their agent or node was drained; they do not count either.
    #[serde(default)]
    pub moved: u32,
    /// Where it stands.
    pub state: InstanceState,
    /// Who had the last attempt of this run.
    pub last_agent: Option<AgentId>,
    /// Who has the next attempt, on an operator's word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pin: Option<Box<Pin>>,
    /// The run was opened by `on_change`, so it triggers no other.
    pub triggered: bool,
    /// What is remembered of the last end.
    pub record: Option<Box<InstanceRecord>>,
    /// What the run brings about outside, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub effects: BTreeMap<String, Effect>,
}

/// Who has the next attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// The agent.
    pub agent: AgentId,
    /// Who said so.
    pub by: String,
}

/// What is remembered of an instance after an attempt ended.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct InstanceRecord {
    /// When the last attempt began.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// Its node.
    pub node: Option<NodeId>,
    /// Its token.
    pub token: Option<Token>,
    /// Its exit code.
    pub exit_code: Option<i32>,
    /// For people.
    pub error: Option<String>,
    /// Outputs of a succeeded run.
    pub outputs: BTreeMap<String, Value>,
    /// Artifacts of a succeeded run.
    pub artifacts: Vec<Artifact>,
    /// The epic that its run opened.
    pub child: Option<EpicId>,
}

/// Where an instance stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InstanceState {
    /// Its needs have not ended, or `max_parallel` holds it back.
    #[default]
    Blocked,
    /// It can start as soon as its locks and an agent are free; its place in all queues.
    Ready {
        /// Grows with every request of the shard.
        order: u64,
        /// Since when.
        since: Timestamp,
    },
    /// An agent has it.
    Open(Box<Attempt>),
    /// It pauses before the next attempt.
    Backoff {
        /// Until when.
        until: Timestamp,
    },
    /// A task that only waits, and does.
    Waiting {
        /// Since when.
        since: Timestamp,
        /// When its time is over: that of the wait itself, or its patience with an event.
        until: Option<Timestamp>,
    },
    /// A task that is an epic itself, and that epic is open.
    Nested(Box<Nested>),
    /// Only a person can say how it ended.
    Unknown {
        /// The question.
        incident: IncidentId,
    },
    /// Over.
    Ended(InstanceEnd),
}

/// What an instance knows of the epic that it opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nested {
    /// That epic; missing only until the input under way has opened it.
    pub child: Option<EpicId>,
    /// Since when.
    pub since: Timestamp,
    /// When it has taken too long.
    pub until: Option<Timestamp>,
    /// It is being cancelled on the task's account, and why.
    pub cancelling: Option<CancelCause>,
}

impl InstanceState {
    /// Its place in all queues, while it is ready.
    pub(crate) fn order(&self) -> Option<u64> {
        match self {
            Self::Ready { order, .. } => Some(*order),
            Self::Blocked
            | Self::Open(_)
            | Self::Backoff { .. }
            | Self::Waiting { .. }
            | Self::Nested(_)
            | Self::Unknown { .. }
            | Self::Ended(_) => None,
        }
    }
}

/// How an instance's run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InstanceEnd {
    /// It did its work.
    Succeeded,
    /// It failed.
    Failed,
    /// It was cancelled on somebody's word.
    Cancelled,
    /// It could not start any more: its needs failed, or the epic stops.
    CutOff,
    /// Its condition was false.
    Skipped,
    /// It had succeeded, and its `undo` took that back.
    Undone,
}

/// An open attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Who has it.
    pub agent: AgentId,
    /// Where.
    pub node: NodeId,
    /// In which life of the node.
    pub incarnation: Incarnation,
    /// Its fencing token.
    pub token: Token,
    /// How far it is.
    pub phase: AttemptPhase,
    /// It is to be ended, and why.
    pub cancelling: Option<CancelCause>,
    /// When it was assigned.
    pub assigned_at: Timestamp,
    /// When it began.
    pub started_at: Option<Timestamp>,
    /// Its process.
    pub pid: Option<u32>,
    /// Its own word on how far it is.
    pub percent: Option<u8>,
    /// When it is cancelled for `timeout`.
    pub deadline: Option<Timestamp>,
}

/// How far an attempt is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttemptPhase {
    /// Given to the agent.
    Assigned,
    /// The start is on record, the process may or may not run.
    Claimed,
    /// It runs.
    Started,
}

impl Epic {
    pub(crate) fn new(
        id: EpicId,
        (spec, spec_hash): (Arc<EpicSpec>, String),
        by: String,
        (accepted_in, now, turn): (CommitIndex, Timestamp, Turn),
    ) -> Self {
        let plan = Arc::new(Plan::expand(&spec));
        let instance = Instance { run: 1, ..Instance::default() };
        let mut epic = Self {
            id,
            accepted_in,
            submitted_by: by,
            submitted_at: now,
            ended_at: None,
            status: EpicStatus::Running,
            stopping: false,
            started: false,
            waiting: false,
            tasks: vec![TaskProgress::default(); plan.tasks.len()],
            instances: vec![instance; plan.instances.len()],
            phase_open: plan.phase_sizes.clone(),
            phase_bad: vec![0; plan.phase_sizes.len()],
            open_tasks: plan.tasks.len() as u32,
            active: 0,
            pending: 0,
            unknown: 0,
            turn,
            paused: false,
            undo_wanted: false,
            undoing: None,
            undo_order: Vec::new(),
            holding: 0,
            parent: None,
            nested: 0,
            nested_waiting: 0,
            spec,
            spec_hash,
            plan,
        };
        for (task, planned) in epic.tasks.iter_mut().zip(&epic.plan.tasks) {
            task.waits = planned.needs.len() as u32 + u32::from(planned.waits_for_phase.is_some());
            task.open = planned.count;
            task.cursor = planned.first;
        }
        epic
    }

    /// The task of an instance.
    pub fn task_of(&self, i: u32) -> u32 {
        self.plan.instances[i as usize].task
    }

    /// What the present run of an instance is to do: its task, or the `undo` of it.
    pub fn spec_of(&self, i: u32) -> &TaskSpec {
        let task = &self.spec.tasks[self.task_of(i) as usize];
        match &task.undo {
            Some(undo) if self.instances[i as usize].undo => undo,
            Some(_) | None => task,
        }
    }

    /// True if the task of an instance can be undone.
    pub fn has_undo(&self, i: u32) -> bool {
        let task = &self.spec.tasks[self.task_of(i) as usize];
        match &task.work {
            Work::Epic(epic) => epic.undo,
            Work::Run(_) | Work::Tool { .. } | Work::Wait(_) => task.undo.is_some(),
        }
    }

    /// Where a request of instance `i` stands.
    pub(crate) fn rank(&self, i: u32, order: u64) -> Rank {
        Rank { priority: self.spec_of(i).priority, order }
    }

    /// `t` or `t[i]`.
    pub fn key(&self, i: u32) -> String {
        self.plan.key(&self.spec, i)
    }

    /// The attempt that instance `i` has or had last.
    pub fn attempt_ref(&self, i: u32) -> AttemptRef {
        let instance = &self.instances[i as usize];
        AttemptRef { epic: self.id.clone(), i, run: instance.run, attempt: instance.attempt }
    }

    /// The open attempt of instance `i`.
    pub fn open(&self, i: u32) -> Option<&Attempt> {
        match &self.instances[i as usize].state {
            InstanceState::Open(attempt) => Some(attempt),
            _ => None,
        }
    }

    /// What the next attempt of an instance asks of an agent.
    pub(crate) fn demand(&self, i: u32) -> Demand {
        Demand { agent: self.instances[i as usize].pin.as_ref().map(|pin| pin.agent.clone()), ..Demand::of(self.spec_of(i)) }
    }

    /// The resources of an instance as they stand in the lock table, sorted.
    pub fn locks(&self, i: u32) -> Vec<(ResourceKey, LockMode)> {
        if self.spec_of(i).locks.is_empty() {
            return Vec::new();
        }
        let locks = self.plan.locks(&self.spec, i);
        let mut keys: Vec<_> = locks.into_iter().map(|(resource, mode)| (self.resource_key(resource), mode)).collect();
        keys.sort();
        keys
    }

    fn resource_key(&self, resource: amphi_protocol::ids::Resource) -> ResourceKey {
        let is_file = resource.as_str().starts_with("file/");
        let folder = self.spec.workspace.file_space().filter(|_| is_file).map(Into::into);
        ResourceKey { project: self.spec.project.clone(), folder, resource }
    }

    /// True if the start of instance `i` must be on record before it happens.
    pub fn needs_claim(&self, i: u32) -> bool {
        let task = self.spec_of(i);
        task.retry.is_once() || !task.locks.write.is_empty() || self.is_ledger_work(i)
    }

    /// True if nothing runs, nothing can run, and a person must say something.
    pub fn needs_person(&self) -> bool {
        let asks = self.status == EpicStatus::Running || self.undoing.is_some();
        let idle = self.active == 0 && self.pending == 0 && self.holding == 0 && self.nested == self.nested_waiting;
        asks && idle && (self.unknown > 0 || self.nested_waiting > 0)
    }

    /// True if it is over.
    pub fn is_ended(&self) -> bool {
        matches!(self.status, EpicStatus::Ended(_))
    }
}

impl InstanceState {
    /// True if nobody runs it: it can be ended on the spot.
    pub fn is_pending(&self) -> bool {
        match self {
            Self::Blocked | Self::Ready { .. } | Self::Backoff { .. } | Self::Waiting { .. } => true,
            Self::Nested(nested) => nested.child.is_none(),
            Self::Open(_) | Self::Unknown { .. } | Self::Ended(_) => false,
        }
    }

    /// True if the run is over.
    pub fn is_ended(&self) -> bool {
        matches!(self, Self::Ended(_))
    }
}
