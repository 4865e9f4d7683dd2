//! The words that a document may use as keys. The schema in `protocol/schema/epic-v1.json` lists the same ones; a test compares.

/// Keys of the document.
pub(super) const TOP: &[&str] = &[
    "version",
    "name",
    "title",
    "project",
    "priority",
    "inputs",
    "budget",
    "defaults",
    "resources",
    "workspace",
    "phases",
    "tasks",
    "on_failure",
    "ref",
];
/// Keys that say what a task does; each task has exactly one.
pub(super) const KINDS: &[&str] = &["run", "tool", "prompt", "approve", "ask", "epic", "wait"];
/// The other keys of a task.
pub(super) const TASK: &[&str] = &[
    "with",
    "phase",
    "needs",
    "agent",
    "skills",
    "matrix",
    "exclude",
    "max_parallel",
    "fail_fast",
    "if",
    "locks",
    "retry",
    "timeout",
    "stuck_after",
    "optional",
    "undo",
    "outputs",
    "budget",
    "tools",
    "model",
    "plan",
    "env",
    "workdir",
    "tags",
    "priority",
    "ref",
];
/// Task keys that make sense for all tasks of an epic, and `escalate_after`.
pub(super) const DEFAULTS: &[&str] = &[
    "agent",
    "skills",
    "max_parallel",
    "fail_fast",
    "locks",
    "retry",
    "timeout",
    "stuck_after",
    "optional",
    "budget",
    "tools",
    "model",
    "env",
    "workdir",
    "tags",
    "priority",
    "escalate_after",
];
/// Task keys that only mean something to an agent with a model.
pub(super) const PROMPT_ONLY: &[&str] = &["tools", "model", "plan"];
/// Task keys that only mean something where an agent runs the task.
pub(super) const OF_AGENTS: &[&str] = &["agent", "skills", "locks", "retry", "stuck_after", "outputs", "env", "workdir", "undo"];
/// What a task that the Manager itself holds takes from `defaults`.
pub(super) const HELD_DEFAULTS: &[&str] = &["max_parallel", "fail_fast", "optional", "tags", "priority"];
/// Keys of `undo`.
pub(super) const UNDO: &[&str] = &["with", "timeout", "env", "workdir", "agent", "skills", "retry", "stuck_after"];
pub(super) const INPUT: &[&str] = &["type", "default", "pattern", "required", "description"];
pub(super) const BUDGET: &[&str] = &["usd", "tokens", "wall", "turns", "on_exceed"];
pub(super) const RESOURCE: &[&str] = &["lease", "on_change"];
pub(super) const WORKSPACE: &[&str] = &["path", "git", "ref"];
pub(super) const LOCKS: &[&str] = &["read", "write"];
pub(super) const RETRY: &[&str] = &["attempts", "backoff", "max", "on"];
pub(super) const APPROVE: &[&str] = &["by", "count", "raise", "ask", "timeout", "on_timeout"];
pub(super) const RAISE: &[&str] = &["to", "if"];
pub(super) const QUESTION: &[&str] = &["id", "text", "type"];
pub(super) const WAIT: &[&str] = &["event"];

/// Every table with its name, for the test that compares them with the schema.
#[cfg(test)]
pub(crate) const TABLES: &[(&str, &[&[&str]])] = &[
    ("epic", &[TOP]),
    ("task", &[KINDS, TASK]),
    ("defaults", &[DEFAULTS]),
    ("undo", &[KINDS, UNDO]),
    ("input", &[INPUT]),
    ("budget", &[BUDGET]),
    ("resource", &[RESOURCE]),
    ("workspace", &[WORKSPACE]),
    ("locks", &[LOCKS]),
    ("retry", &[RETRY]),
    ("approve", &[APPROVE]),
    ("raise", &[RAISE]),
    ("question", &[QUESTION]),
    ("wait", &[WAIT]),
];
