//! The report of an epic: how long it took, what determined that, and how much of it was coordination. Computed from its public
//! events alone, so that everybody who has the output of `epic events` gets the same numbers.
//!
//! Nothing here reads a clock or asks anybody. Times are those of the journal, in milliseconds since the submission. An event is
//! stamped with the time of its commit, so every number is as exact as a commit is long.
//!
//! **Coordination overhead** (S4.44) is the time that runnable work waits before an agent starts it, over the makespan. An attempt is
//! runnable from the latest of these: its `task.ready`; the last `lock.released` of this epic that conflicts with a lock it was granted;
//! the last end of an attempt of this epic on the same agent, or, if it was told to wait for `capacity`, on the same node.
//! It waits until its `task.started`, or until its end if it never started. `overhead` counts each moment in which any attempt waits,
//! once: with many agents and short tasks somebody nearly always waits for a moment, and it comes near 1 although most agents work.
//! It is the number of S4.44, and stands beside its goal. `critical_path_share` counts only the waits on the critical path: the part of
//! the makespan that coordination cost. `summed_ms` counts the waits of all attempts.
//! What the events of one epic cannot show is not counted: if a task was told to wait and nothing in this epic explains the wait (a lock
//! or an agent that another epic had, an agent that joined later), it counts as runnable from its assignment on. Locks are compared by
//! name, not as globs.
//!
//! **The critical path** is walked back from the attempt that ended last. Before it comes whatever ended last of what it waited for: the
//! end that made it ready (a need, the phase before, with `max_parallel` a sibling, before a retry its own last attempt), the holder of
//! its lock, or the attempt that had its agent.

mod collect;
mod path;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::event::{Event, EventType};
use crate::ids::EpicId;

/// Most steps of a critical path and most agents that are listed; the rest is counted.
pub const REPORT_LIST_MAX: usize = 1000;

/// What the coordination overhead is to stay under (S4.44).
pub const OVERHEAD_GOAL: f64 = 0.05;

/// The report of one epic. Shares and rates lie between 0 and 1 and have four digits after the point.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EpicReport {
    /// The epic.
    pub epic: EpicId,
    /// `running`, `waiting`, `paused`, `succeeded`, `failed`, `cancelled`, as its last event says.
    pub state: String,
    /// When it was submitted, RFC 3339.
    pub submitted_at: String,
    /// When it ended; `null` while it runs, and all numbers are as of its last event.
    pub ended_at: Option<String>,
    /// From the submission to the end.
    pub makespan_ms: u64,
    /// Run times of the attempts that succeeded, one after the other.
    pub sequential_ms: u64,
    /// `sequential_ms / makespan_ms`; `null` if the makespan is 0.
    pub speedup: Option<f64>,
    /// What determined the end, first to last; the last [`REPORT_LIST_MAX`] steps.
    pub critical_path: Vec<PathStep>,
    /// How many steps it has in all.
    pub critical_path_steps: usize,
    /// Time on it in which an attempt ran.
    pub critical_path_ran_ms: u64,
    /// Time on it in which nothing ran: backoff, coordination, waits for others.
    pub critical_path_waited_ms: u64,
    /// S4.44.
    pub coordination: Coordination,
    /// Mean of the agents' utilisation; `null` if none worked.
    pub utilisation: Option<f64>,
    /// Agents that this epic used, the busiest first, at most [`REPORT_LIST_MAX`]. Idle agents leave no events in an epic.
    pub agents: Vec<AgentShare>,
    /// How many agents it used in all.
    pub agents_used: usize,
    /// Task instances by how they ended, `undone` and `undo_failed` among them; `open` have not. What was never ready nor ended has left no event and is not counted.
    pub tasks: BTreeMap<String, u64>,
    /// Succeeded instances of those that ended and were not skipped; `null` if there are none.
    pub completion_rate: Option<f64>,
    /// Attempts that were assigned.
    pub attempts: u64,
    /// Attempts that failed and were tried again.
    pub retries: u64,
    /// The same by cause.
    pub retry_causes: BTreeMap<String, u64>,
    /// How often a person was asked.
    pub escalations: u64,
    /// What it cost.
    pub cost: Cost,
}

/// One step of the critical path: one attempt. Times are milliseconds since the submission.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathStep {
    /// `t` or `t[i]`.
    pub task: String,
    /// From 1.
    pub run: u32,
    /// From 1.
    pub attempt: u32,
    /// Who had it.
    pub agent: Option<String>,
    /// `succeeded`, `failed`, `retrying`, `cancelled`, `undone`, `unknown`, or `open`.
    pub outcome: String,
    /// What it waited for last: `submission`, `needs`, `retry`, `undo`, `lock`, `agent`, `change` (of a resource),
    /// `person`, or `other` (nothing in this epic).
    pub waited_for: String,
    /// The step before, if that is what it waited for.
    pub after: Option<String>,
    /// When its needs were met.
    pub ready_ms: u64,
    /// When it began; `null` if it never did.
    pub started_ms: Option<u64>,
    /// When it ended.
    pub ended_ms: u64,
}

/// Time that runnable work waits; the module says how it is measured.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Coordination {
    /// The number that S4.44 is about: `waited_ms / makespan_ms`; `null` if the makespan is 0.
    pub overhead: Option<f64>,
    /// What S4.44 wants it to stay under.
    #[serde(default)]
    pub goal: f64,
    /// `overhead < goal`; `null` without an overhead.
    #[serde(default)]
    pub met: Option<bool>,
    /// Time in which at least one attempt was runnable and not started.
    pub waited_ms: u64,
    /// Such waits on the critical path.
    pub critical_path_ms: u64,
    /// `critical_path_ms / makespan_ms`; `null` if the makespan is 0.
    pub critical_path_share: Option<f64>,
    /// The waits of all attempts together.
    pub summed_ms: u64,
    /// The longest wait of one attempt.
    pub longest_ms: u64,
}

/// What an agent did for the epic.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AgentShare {
    /// The agent.
    pub agent: String,
    /// Its node.
    pub node: Option<String>,
    /// Attempts that it was given.
    pub attempts: u64,
    /// Time in which it ran one.
    pub busy_ms: u64,
    /// `busy_ms / makespan_ms`, 0 if the makespan is 0.
    pub utilisation: f64,
}

/// What the models cost; nothing without models.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Sum of `data.cost_usd` over the events.
    pub usd: f64,
}

/// Why events give no report.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    /// There are none.
    #[error("there are no events of an epic")]
    Empty,
    /// The first one is not `epic.submitted`.
    #[error("the history does not begin with epic.submitted (its first event is number {seq})")]
    NoBeginning {
        /// The first event.
        seq: u64,
    },
    /// Events of two epics.
    #[error("event {seq} belongs to {found}, the events before it to {wanted}")]
    OtherEpic {
        /// The event.
        seq: u64,
        /// Its epic.
        found: String,
        /// The epic of the events before.
        wanted: String,
    },
    /// Not a time.
    #[error("event {seq} has no valid time: {ts}")]
    Time {
        /// The event.
        seq: u64,
        /// What stands there.
        ts: String,
    },
    /// The history contradicts itself.
    #[error("event {seq} ({kind}) does not follow from the events before it")]
    Broken {
        /// The event.
        seq: u64,
        /// Its type.
        kind: &'static str,
    },
}

/// Takes the events of one epic in order and gives its report.
///
/// Events without an epic and events that were seen before (the stream delivers at least once) are passed over.
#[derive(Debug, Default)]
pub struct Reporter(collect::History);

impl Reporter {
    /// Knows nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next event.
    ///
    /// # Errors
    /// The events are not the history of one epic from its beginning.
    pub fn event(&mut self, event: &Event) -> Result<(), ReportError> {
        self.0.take(event)
    }

    /// The report as of the last event.
    ///
    /// # Errors
    /// There was no event of an epic.
    pub fn finish(self) -> Result<EpicReport, ReportError> {
        let history = self.0;
        let (Some(epic), Some(submitted)) = (history.epic.clone(), history.submitted) else { return Err(ReportError::Empty) };
        let end = history.last.max(submitted);
        let makespan = end - submitted;
        let path = path::critical_path(&history, submitted, end);
        let agents = agent_shares(&history, end, makespan);
        let sequential = history.spans.iter().filter(|span| span.outcome == Some(EventType::TaskSucceeded)).map(|s| s.ran(end)).sum();
        let used = agents.len();
        let ended = history.tasks.values().filter(|task| task.end.is_some_and(|end| end != "skipped")).count() as u64;
        let mut report = EpicReport {
            epic,
            state: history.state.to_owned(),
            submitted_at: crate::ids::Timestamp(submitted).to_rfc3339(),
            ended_at: history.ended.then(|| crate::ids::Timestamp(end).to_rfc3339()),
            makespan_ms: makespan,
            sequential_ms: sequential,
            speedup: ratio(sequential, makespan),
            critical_path: path.steps,
            critical_path_steps: path.count,
            critical_path_ran_ms: path.ran_ms,
            critical_path_waited_ms: path.waited_ms,
            coordination: coordination(&history, path.coordination_ms, end, makespan),
            utilisation: ratio(agents.iter().map(|agent| agent.busy_ms).sum(), makespan.saturating_mul(used as u64)),
            agents,
            agents_used: used,
            tasks: history.counts(),
            completion_rate: ratio(history.count("succeeded"), ended),
            attempts: history.spans.iter().filter(|span| span.assigned.is_some()).count() as u64,
            retries: history.retry_causes.values().sum(),
            retry_causes: history.retry_causes,
            escalations: history.escalations,
            cost: Cost { usd: history.cost_usd },
        };
        report.agents.truncate(REPORT_LIST_MAX);
        Ok(report)
    }
}

/// The report of a history.
///
/// # Errors
/// The events are not the history of one epic from its beginning.
pub fn report<'e>(events: impl IntoIterator<Item = &'e Event>) -> Result<EpicReport, ReportError> {
    let mut reporter = Reporter::new();
    for event in events {
        reporter.event(event)?;
    }
    reporter.finish()
}

/// Four digits after the point; `None` over nothing.
fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| (part as f64 / whole as f64 * 10_000.0).round() / 10_000.0)
}

fn agent_shares(history: &collect::History, end: u64, makespan: u64) -> Vec<AgentShare> {
    let mut shares: BTreeMap<&str, AgentShare> = BTreeMap::new();
    for span in &history.spans {
        let Some(agent) = &span.agent else { continue };
        let share = shares.entry(agent).or_insert_with(|| AgentShare {
            agent: agent.clone(),
            node: span.node.clone(),
            attempts: 0,
            busy_ms: 0,
            utilisation: 0.0,
        });
        share.attempts += 1;
        share.busy_ms += span.ran(end);
    }
    let mut shares: Vec<AgentShare> = shares.into_values().collect();
    for share in &mut shares {
        share.utilisation = ratio(share.busy_ms, makespan).unwrap_or(0.0);
    }
    shares.sort_by(|a, b| b.busy_ms.cmp(&a.busy_ms).then_with(|| a.agent.cmp(&b.agent)));
    shares
}

fn coordination(history: &collect::History, on_path: u64, end: u64, makespan: u64) -> Coordination {
    let mut waits: Vec<(u64, u64)> = history.spans.iter().filter_map(|span| span.coordination_wait(end)).collect();
    waits.sort_unstable();
    let (mut waited, mut summed, mut longest, mut covered) = (0, 0, 0, 0);
    for (from, to) in waits {
        summed += to - from;
        longest = longest.max(to - from);
        waited += to.saturating_sub(from.max(covered));
        covered = covered.max(to);
    }
    let overhead = ratio(waited, makespan);
    Coordination {
        overhead,
        goal: OVERHEAD_GOAL,
        met: overhead.map(|overhead| overhead < OVERHEAD_GOAL),
        waited_ms: waited,
        critical_path_ms: on_path,
        critical_path_share: ratio(on_path, makespan),
        summed_ms: summed,
        longest_ms: longest,
    }
}
