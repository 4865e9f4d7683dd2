//! What reads answer: the same shapes from NATS and from `--json`. Times are RFC 3339 in UTC; absent values are `null`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// An epic, with its tasks where one is asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EpicView {
    /// Its id.
    pub epic: String,
    /// The author's name for it.
    pub name: String,
    /// A line for people.
    pub title: Option<String>,
    /// The project.
    pub project: String,
    /// 0 to 4.
    pub priority: u8,
    /// `running`, `waiting`, `paused`, `cancelling`, `succeeded`, `failed`, `cancelled`.
    pub state: String,
    /// It is to be undone, or being undone, before it ends.
    #[serde(default, skip_serializing_if = "is_false")]
    pub undoing: bool,
    /// The task that it is the work of, if it is a sub-epic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<ParentView>,
    /// Resolved inputs.
    pub inputs: BTreeMap<String, Value>,
    /// Who sent it.
    pub submitted_by: String,
    /// When.
    pub submitted_at: String,
    /// When it ended.
    pub ended_at: Option<String>,
    /// Instances by state.
    pub counts: BTreeMap<String, u64>,
    /// Its task instances; missing in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tasks: Option<Vec<TaskView>>,
    /// Where the next page of `tasks` begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// The task that a sub-epic is the work of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParentView {
    /// Its epic.
    pub epic: String,
    /// `t` or `t[i]`.
    pub task: String,
    /// The run that opened the sub-epic.
    pub run: u32,
}

/// A task instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskView {
    /// Its epic.
    pub epic: String,
    /// `t` or `t[i]`.
    pub task: String,
    /// `run`, `tool` …
    pub kind: String,
    /// `blocked`, `waiting`, `ready`, `assigned`, `running`, `retrying`, `succeeded`, `failed`, `cancelled`, `skipped`, `unknown`, `undone`.
    pub state: String,
    /// From 1.
    pub run: u32,
    /// From 1; 0 before the first.
    pub attempt: u32,
    /// Who has it, or had it last.
    pub agent: Option<String>,
    /// Where.
    pub node: Option<String>,
    /// What it waits for.
    pub reason: Option<String>,
    /// Tasks that it needs.
    pub needs: Vec<String>,
    /// Its outputs.
    pub outputs: BTreeMap<String, Value>,
    /// Fencing token of the last attempt.
    pub token: Option<u64>,
    /// When the last attempt began.
    pub started_at: Option<String>,
    /// When it ended.
    pub ended_at: Option<String>,
    /// Its exit code.
    pub exit_code: Option<i32>,
    /// For people.
    pub error: Option<String>,
    /// Process of the running attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// How far it says it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<u8>,
    /// The phase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// 0 to 4.
    pub priority: u8,
    /// The agent that has its next attempt, on an operator's word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pinned_to: Option<String>,
    /// The sub-epic that its run opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub child: Option<String>,
    /// The run that is shown is that of its `undo`.
    #[serde(default, skip_serializing_if = "is_false")]
    pub undo: bool,
}

/// A page of epics.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EpicList {
    /// The epics.
    pub epics: Vec<EpicView>,
    /// `after` of the next page.
    pub next: Option<String>,
}

/// A page of tasks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskList {
    /// The tasks.
    pub tasks: Vec<TaskView>,
    /// `after` of the next page.
    pub next: Option<String>,
}

/// Why a task does not run, the innermost cause last.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WhyView {
    /// Its epic.
    pub epic: String,
    /// `t` or `t[i]`.
    pub task: String,
    /// Its state.
    pub state: String,
    /// The causes.
    pub waits: Vec<WaitView>,
}

/// One cause.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WaitView {
    /// `needs`, `lock`, `person`, `no_agent`, `capacity`, `backoff` …
    pub reason: String,
    /// The task, resource, role or moment that it waits for.
    pub on: String,
    /// Who holds it.
    pub holder: Option<HolderView>,
    /// How long the holder's lease lasts without progress.
    pub lease_left_ms: Option<u64>,
    /// Place in the queue, from 1.
    pub place: Option<u64>,
}

/// Who holds a resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HolderView {
    /// Its epic; null for an owner outside.
    pub epic: Option<String>,
    /// Its task.
    pub task: Option<String>,
    /// Its attempt.
    pub attempt: Option<u32>,
    /// Who holds it from outside of all epics.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Its token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<u64>,
    /// How long its lease lasts without progress, or without being renewed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_left_ms: Option<u64>,
}

/// All locks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LockList {
    /// The locks that are held or waited for.
    pub locks: Vec<LockView>,
}

/// A lock.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LockView {
    /// The resource.
    pub resource: String,
    /// Its project.
    pub project: String,
    /// The workspace folder that a `file/…` resource belongs to.
    pub folder: Option<String>,
    /// `read` or `write`; of the holders, or of the first waiter.
    pub mode: String,
    /// Who holds it.
    pub holders: Vec<HolderView>,
    /// Other names in use that share paths with this one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overlaps: Vec<String>,
    /// Who waits, in order.
    pub queue: Vec<WaiterView>,
}

/// A waiter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaiterView {
    /// Its epic; null for an owner outside.
    pub epic: Option<String>,
    /// Its task.
    pub task: Option<String>,
    /// Who waits from outside of all epics.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// `read` or `write`.
    pub mode: String,
    /// Since when.
    pub since: String,
}

/// All agents.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AgentList {
    /// The agents.
    pub agents: Vec<AgentView>,
}

/// An agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentView {
    /// Its id.
    pub agent: String,
    /// Its role.
    pub role: String,
    /// Its skills.
    pub skills: Vec<String>,
    /// Its node.
    pub node: String,
    /// `idle`, `busy`, `down`, `quarantined`, `gone`; `paused` or `drained` if it does nothing because it may not.
    pub state: String,
    /// Of its attempt.
    pub epic: Option<String>,
    /// Of its attempt.
    pub task: Option<String>,
    /// In this life of its node.
    pub restarts: u32,
    /// `active`, `paused` or `draining`: whether it may be given work.
    #[serde(default)]
    pub duty: String,
}

/// All nodes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeList {
    /// The nodes.
    pub nodes: Vec<NodeView>,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeView {
    /// Its id.
    pub id: String,
    /// Its process.
    pub pid: u32,
    /// Its life.
    pub incarnation: u64,
    /// `alive`, `draining`, `drained` or `lost`.
    pub state: String,
    /// Shards that it leads.
    pub leads: Vec<u32>,
    /// Attempts that it runs.
    pub running: u64,
    /// Attempts that it can run at once.
    pub capacity: u32,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// How often it joined again.
    #[serde(default)]
    pub restarts: u64,
    /// Why it was lost the last time; null if it never was.
    #[serde(default)]
    pub last_exit: Option<String>,
    /// While it is drained, what it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<DrainView>,
}

/// What keeps a node from being drained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainView {
    /// Until then running attempts may finish.
    pub until: String,
    /// What it still runs.
    pub waits_for: Vec<DrainWait>,
}

/// An attempt that a drain waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainWait {
    /// Its epic.
    pub epic: String,
    /// Its task.
    pub task: String,
    /// Its number.
    pub attempt: u32,
    /// `grace`: it may finish until then; `handing_over`: its processes are being ended; `retry_0`: it must not be tried again, so it
    /// finishes.
    pub why: String,
}

/// All incidents.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IncidentList {
    /// The incidents.
    pub incidents: Vec<IncidentView>,
}

/// An incident.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IncidentView {
    /// Its id.
    pub incident: String,
    /// `open`, `acked` or `resolved`.
    pub state: String,
    /// `unknown_outcome`, `undo_failed`.
    pub kind: String,
    /// Its epic.
    pub epic: String,
    /// Its task.
    pub task: String,
    /// When it was opened.
    pub opened_at: String,
    /// A line for people.
    pub summary: String,
    /// Who has seen it and looks after it.
    #[serde(default)]
    pub acked_by: Option<String>,
    /// When they said so.
    #[serde(default)]
    pub acked_at: Option<String>,
    /// What they said.
    #[serde(default)]
    pub note: Option<String>,
    /// `succeeded`, `failed`, `not_started`.
    pub resolution: Option<String>,
    /// Who said so.
    pub resolved_by: Option<String>,
}
