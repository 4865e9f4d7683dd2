//! The typed epic: defaults applied, inputs resolved, every name checked. This is what the journal keeps.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ids::{EpicName, PhaseName, ProjectId, Resource, RoleName, TaskName};

/// A complete, valid epic.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EpicSpec {
    /// The author's name for it.
    pub name: EpicName,
    /// A line for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// The space of its locks and keys.
    pub project: ProjectId,
    /// 0 is highest, 4 lowest.
    pub priority: u8,
    /// Resolved inputs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub inputs: BTreeMap<String, Value>,
    /// Where its tasks work.
    #[serde(default)]
    pub workspace: Workspace,
    /// Ordered phases; empty if the epic has none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub phases: Vec<PhaseName>,
    /// What is declared about resources.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub resources: BTreeMap<Resource, ResourceSpec>,
    /// What happens when a task has failed for good.
    #[serde(default)]
    pub on_failure: OnFailure,
    /// A reference into the outside world, for instance `bd:ved-9d0`.
    #[serde(default, rename = "ref", skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// The tasks, in the document's order; positions are used as ids by [`crate::document::Plan`].
    pub tasks: Vec<TaskSpec>,
}

/// Where the tasks of an epic work.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Workspace {
    /// An empty private folder per attempt.
    #[default]
    None,
    /// A folder on the node's machine that all tasks share, absolute.
    Path(String),
    /// A worktree of its own per run.
    Git {
        /// Where the repository is: a URL without login, `user@host:path`, or an absolute path.
        url: String,
        /// A branch, a tag or a commit; without it what the repository has as its head.
        #[serde(default, rename = "ref", skip_serializing_if = "Option::is_none")]
        reference: Option<String>,
    },
}

impl Workspace {
    /// The space in which names `file/…` count, where it is smaller than the project: tasks in the same folder, or in worktrees of the
    /// same repository and ref, mean the same file.
    pub fn file_space(&self) -> Option<String> {
        match self {
            Self::None => None,
            Self::Path(path) => Some(path.clone()),
            Self::Git { url, reference } => Some(format!("git {url} {}", reference.as_deref().unwrap_or_default())),
        }
    }
}

/// What follows when a task has failed for good.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// Running tasks end, nothing new starts except by `always()` or `failure()`.
    #[default]
    Stop,
    /// The same, and when everything has ended, what succeeded and has an `undo` is undone, the last first.
    Undo,
}

/// What an epic declares about a resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceSpec {
    /// How long a holder may be silent before its lease ends.
    pub lease_ms: u64,
    /// Tasks that get a new run after a successful write; positions in [`EpicSpec::tasks`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub on_change: Vec<u32>,
}

/// The lease of a resource of which nothing is declared: 5 minutes.
pub const LEASE_MS_DEFAULT: u64 = 5 * 60 * 1000;
/// Silence after which a task counts as stuck, unless it says otherwise: 5 minutes.
pub const STUCK_AFTER_MS_DEFAULT: u64 = 5 * 60 * 1000;

/// One task, all defaults applied.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskSpec {
    /// Its name in the epic.
    pub name: TaskName,
    /// Position in [`EpicSpec::phases`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<u32>,
    /// Positions in [`EpicSpec::tasks`]; `None` waits for the whole phase before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub needs: Option<Vec<u32>>,
    /// What runs.
    pub work: Work,
    /// The role that must run it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<RoleName>,
    /// Skills that the agent must have, sorted, all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skills: Vec<String>,
    /// Axes of the matrix in the document's order; empty without one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub matrix: Vec<MatrixAxis>,
    /// Combinations left out: axis to value.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<BTreeMap<String, String>>,
    /// How many instances may be open at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_parallel: Option<u32>,
    /// One failed instance cancels the others.
    #[serde(default, skip_serializing_if = "is_false")]
    pub fail_fast: bool,
    /// When it runs at all.
    #[serde(default, skip_serializing_if = "Condition::is_success")]
    pub condition: Condition,
    /// Resources it takes, all together.
    #[serde(default, skip_serializing_if = "LockSpec::is_empty")]
    pub locks: LockSpec,
    /// How often and after what it is tried again.
    pub retry: RetryPolicy,
    /// Longest time of one attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Longest silence of one attempt.
    pub stuck_after_ms: u64,
    /// Its failure satisfies its dependents and does not fail the epic.
    #[serde(default, skip_serializing_if = "is_false")]
    pub optional: bool,
    /// Declared outputs: name to type.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub outputs: BTreeMap<String, OutputType>,
    /// Environment it declares; values may hold `${{ … }}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Folder under the workspace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// Free words, used by policies and views.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// 0 is highest, 4 lowest.
    pub priority: u8,
    /// A reference into the outside world.
    #[serde(default, rename = "ref", skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// Everything that its texts refer to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub references: Vec<Reference>,
    /// What takes it back after it succeeded: complete, with the demand, the locks and the priority that the undo's run has. Where it
    /// stands in the graph (phase, needs, matrix) is the task's own affair; these are empty here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo: Option<Box<TaskSpec>>,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// What a task runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// A shell command.
    Run(Script),
    /// A built-in tool; strings in `with` may hold `${{ … }}`.
    Tool {
        /// Its name in the registry.
        tool: String,
        /// Its arguments.
        with: Value,
    },
    /// Nothing: the Manager waits. Needs no agent.
    Wait(WaitFor),
    /// Another epic: the Manager opens it and waits for its end. Needs no agent.
    Epic(SubEpic),
}

/// A task that is an epic itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SubEpic {
    /// What is opened, complete: one for all instances of the task, or one for each combination of the full matrix, where `with` names
    /// the matrix.
    pub specs: Vec<Arc<EpicSpec>>,
    /// Something in it, or below it, has an `undo`: once it has succeeded, taking the task back takes that back.
    #[serde(default, skip_serializing_if = "is_false")]
    pub undo: bool,
}

impl SubEpic {
    /// What the instance with this place in the full matrix opens.
    pub fn of(&self, combination: u32) -> &Arc<EpicSpec> {
        self.specs.get(combination as usize).unwrap_or(&self.specs[0])
    }
}

/// What a `wait` waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitFor {
    /// Time, from the moment when its needs are met.
    Duration {
        /// How long.
        ms: u64,
    },
    /// The first message on a NATS subject; `*` and `>` are wildcards. May hold `${{ matrix.i }}`.
    Event {
        /// The subject.
        subject: String,
    },
}

impl Work {
    /// The key under which users write it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Run(_) => "run",
            Self::Tool { .. } => "tool",
            Self::Wait(_) => "wait",
            Self::Epic(_) => "epic",
        }
    }

    /// True if an agent has to run it; otherwise the Manager itself holds it.
    pub fn needs_agent(&self) -> bool {
        match self {
            Self::Run(_) | Self::Tool { .. } => true,
            Self::Wait(_) | Self::Epic(_) => false,
        }
    }

    /// The outputs that it has, where these do not depend on what runs.
    pub fn fixed_outputs(&self) -> Option<&'static [&'static str]> {
        match self {
            Self::Run(_) | Self::Tool { .. } => None,
            Self::Wait(WaitFor::Duration { .. }) => Some(&[]),
            Self::Wait(WaitFor::Event { .. }) => Some(&["subject", "data"]),
            Self::Epic(_) => Some(&["epic"]),
        }
    }
}

/// What stands before a tool's name in the skill of agents that may use it. A task has such a skill only if its tool is not for all roles.
pub const TOOL_SKILL_PREFIX: &str = "tool:";

/// The skill of agents that may use `tool`.
pub fn tool_skill(tool: &str) -> String {
    format!("{TOOL_SKILL_PREFIX}{tool}")
}

/// A shell text whose references have become environment variables, so that no value is ever read as shell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Script {
    /// The text for `/bin/sh -c`.
    pub text: String,
    /// Variable name to what it holds.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub variables: BTreeMap<String, Reference>,
}

/// What `${{ … }}` may name. As text (and as JSON) it is what stands between the braces.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reference {
    /// `inputs.x`, possibly deeper: `inputs.x.y`.
    Input(Vec<String>),
    /// `tasks.t.outputs.y`.
    Output {
        /// The task.
        task: TaskName,
        /// The output.
        output: String,
    },
    /// `matrix.i`.
    Matrix(String),
    /// `secrets.X`; resolved on the node only.
    Secret(String),
}

/// One axis of a matrix.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MatrixAxis {
    /// Its name.
    pub axis: String,
    /// Its values, `[A-Za-z0-9_.:-]{1,64}`.
    pub values: Vec<String>,
}

/// When a task runs, once its needs have ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// All needs are satisfied (the default).
    #[default]
    Success,
    /// In any case.
    Always,
    /// One of the needs failed or was cancelled.
    Failure,
    /// What an expression says; decided once by the leader, and on record.
    Expression {
        /// The expression, as [`crate::expression::Expression::parse`] reads it.
        text: String,
        /// It names `always()` or `failure()`: it is asked whatever became of the needs. Otherwise it implies `success()`.
        #[serde(default, skip_serializing_if = "is_false")]
        after_failure: bool,
    },
}

impl Condition {
    /// The default: nothing is decided, satisfied needs are enough.
    pub fn is_success(&self) -> bool {
        *self == Self::Success
    }

    /// True if the task may still run when something before it failed, or when the epic stops.
    pub fn outlives_failure(&self) -> bool {
        match self {
            Self::Success => false,
            Self::Always | Self::Failure => true,
            Self::Expression { after_failure, .. } => *after_failure,
        }
    }
}

/// The resources of a task; entries may hold `${{ inputs.x }}` (resolved already) and `${{ matrix.i }}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockSpec {
    /// Shared with readers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub read: Vec<String>,
    /// Held alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub write: Vec<String>,
}

impl LockSpec {
    /// True if nothing is locked.
    pub fn is_empty(&self) -> bool {
        self.read.is_empty() && self.write.is_empty()
    }
}

/// How a resource is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LockMode {
    /// Shared with other readers.
    Read,
    /// Alone.
    Write,
}

/// How often a run is tried and after what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryPolicy {
    /// All tries of a run together, at least 1.
    pub attempts: u32,
    /// Pause before the second try; doubles from there.
    pub backoff_ms: u64,
    /// Longest pause.
    pub max_ms: u64,
    /// Causes after which it is tried again.
    pub on: Vec<RetryCause>,
}

/// Longest pause between tries, unless the task says otherwise.
pub const BACKOFF_MS_MAX_DEFAULT: u64 = 5 * 60 * 1000;

impl Default for RetryPolicy {
    /// A lost or stuck agent is no fault of the command: 3 tries for these, none for the rest.
    fn default() -> Self {
        Self { attempts: 3, backoff_ms: 0, max_ms: BACKOFF_MS_MAX_DEFAULT, on: vec![RetryCause::AgentLost, RetryCause::Stuck] }
    }
}

impl RetryPolicy {
    /// `retry: 0`: started at most once.
    pub fn is_once(&self) -> bool {
        self.attempts <= 1
    }
}

/// Why an attempt ended without a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetryCause {
    /// The command or tool failed.
    Exit,
    /// It took longer than `timeout`.
    Timeout,
    /// No progress for `stuck_after`, or its lease ended.
    Stuck,
    /// The agent, its node or its guard died.
    AgentLost,
    /// The outputs did not have the declared types.
    Output,
    /// Disk, memory or processes of the node ran out.
    Resource,
}

impl RetryCause {
    /// All of them, in the order of the interface.
    pub const ALL: [Self; 6] = [Self::Exit, Self::Timeout, Self::Stuck, Self::AgentLost, Self::Output, Self::Resource];

    /// The word that users write.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exit => "exit",
            Self::Timeout => "timeout",
            Self::Stuck => "stuck",
            Self::AgentLost => "agent_lost",
            Self::Output => "output",
            Self::Resource => "resource",
        }
    }
}

/// The type of a declared output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputType {
    /// Any text.
    String,
    /// A finite number.
    Number,
    /// A whole number.
    Integer,
    /// `true` or `false`.
    Boolean,
    /// Any JSON object.
    Object,
    /// A list of one type, written `string[]`.
    List(Box<OutputType>),
    /// One of these words, written `enum(a, b)`.
    Enum(Vec<String>),
}
