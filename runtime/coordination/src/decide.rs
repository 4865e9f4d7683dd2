//! An input becomes decisions. The leader only; deterministic, without I/O.
//!
//! Each decision is applied as soon as it is made, so that the next one sees it: the state is ahead of the journal by the commit
//! that is under way. A leader whose commit is refused throws the state away and replays. A refused input leaves no trace.

mod admission;
mod assign;
mod effects;
mod hold;
mod inputs;
mod outside;
mod retries;

use amphi_protocol::api::{ApiError, ErrorCode};
use amphi_protocol::ids::{AttemptRef, EpicId, IncidentId, Timestamp, Token};
use amphi_protocol::journal::{CancelCause, Decision, EpicEnd, IncidentKind, Input, Next};

use crate::epic::{EpicStatus, InstanceState, TaskEnd};
use crate::graph::is_bad;
use crate::sink::EventSink;
use crate::state::State;

/// Why an input was not taken. Nothing changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The user's request cannot be done.
    Error(ApiError),
    /// The submission is known already under this id.
    Duplicate(EpicId),
    /// A report about something that is over, of a former life, or known already.
    Stale(&'static str),
}

impl Refusal {
    pub(crate) fn error(code: ErrorCode, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Error(ApiError::new(code, message).hint(hint))
    }
}

/// The decisions of one input, made one after the other.
pub(crate) struct Deciding<'a> {
    pub state: &'a mut State,
    pub sink: &'a mut EventSink,
    pub decisions: Vec<Decision>,
}

impl Deciding<'_> {
    pub fn put(&mut self, decision: Decision) {
        self.state.evolve(&decision, self.sink);
        self.decisions.push(decision);
    }

    /// Decides everything that follows, until nothing does.
    fn drain(&mut self) {
        if std::mem::take(&mut self.state.due.fleet) {
            self.drop_vain_pins();
        }
        loop {
            if let Some((epic, task)) = self.state.due.again.pop_front() {
                self.put(Decision::RunsOpened { epic, task });
            } else if let Some((epic, task)) = self.state.due.conditions.pop_front() {
                self.condition(epic, task);
            } else if let Some((epic, i)) = self.state.due.stopping.pop_front() {
                let known = &self.state.epics[&epic];
                if !known.stopping && known.status == EpicStatus::Running {
                    self.put(Decision::EpicStopping { epic, i });
                }
            } else if let Some((epic, task)) = self.state.due.fail_fast.pop_front() {
                self.fail_fast(epic, task);
            } else if let Some(order) = self.state.due.outside.pop_front() {
                self.grant_outside(order);
            } else if let Some((attempt, kind)) = self.state.due.incidents.pop_front() {
                self.incident(attempt, kind);
            } else if let Some(child) = self.state.due.children_ended.pop_front() {
                self.child_ended(child);
            } else if let Some((epic, i)) = self.state.due.children.pop_front() {
                self.open_child(epic, i);
            } else if let Some(epic) = self.state.due.ended.pop_front() {
                self.end_epic(epic);
            } else if !self.assign_next() {
                return;
            }
        }
    }

    fn fail_fast(&mut self, epic: EpicId, task: u32) {
        let known = &self.state.epics[&epic];
        let planned = &known.plan.tasks[task as usize];
        let (mut open, mut pending, mut nested) = (Vec::new(), Vec::new(), Vec::new());
        for i in planned.first..planned.first + planned.count {
            match &known.instances[i as usize].state {
                InstanceState::Open(attempt) if attempt.cancelling.is_none() => open.push(known.attempt_ref(i)),
                InstanceState::Nested(child) if child.child.is_some() && child.cancelling.is_none() => nested.push(i),
                state if state.is_pending() => pending.push(i),
                _ => {}
            }
        }
        let by = format!("{epic}/{}", known.spec.tasks[task as usize].name);
        for i in nested {
            self.end_child(&epic, i, CancelCause::FailFast, &by);
        }
        for attempt in open {
            self.put(Decision::AttemptCancelling { attempt, cause: CancelCause::FailFast });
        }
        if !pending.is_empty() {
            self.put(Decision::InstancesCancelled { epic, instances: pending, cause: CancelCause::FailFast });
        }
    }

    fn incident(&mut self, attempt: AttemptRef, kind: IncidentKind) {
        let epic = &self.state.epics[&attempt.epic];
        let instance = &epic.instances[attempt.i as usize];
        let what = if instance.undo { format!("the undo of {}", epic.key(attempt.i)) } else { epic.key(attempt.i) };
        let number = self.state.incidents_opened + 1;
        let incident = IncidentId::parse(&format!("inc-{}-{number}", self.state.shard)).expect("digits and dashes are an incident id");
        let summary = match kind {
            IncidentKind::UnknownOutcome if instance.has_open_effect() => {
                let open = instance.effects.iter().filter(|(_, effect)| effect.is_open()).map(|(name, _)| name.as_str());
                let (names, key) = (open.collect::<Vec<_>>().join(", "), epic.key_of_run(attempt.i));
                format!(
                    "{what} of {} was bringing something about ({names}, key {key}), and nobody knows whether it happened",
                    attempt.epic
                )
            }
            IncidentKind::UnknownOutcome => {
                format!("{what} of {} may have run before its agent was lost, and must not be started twice", attempt.epic)
            }
            IncidentKind::UndoFailed => {
                let why = instance.record.as_ref().and_then(|record| record.error.as_deref()).unwrap_or("it failed");
                format!("{what} of {} was not done, so what the task did is still there, at least in part: {why}", attempt.epic)
            }
        };
        self.put(Decision::IncidentOpened { incident, attempt, summary, kind });
    }

    fn end_epic(&mut self, epic: EpicId) {
        let known = &self.state.epics[&epic];
        if known.is_ended() || known.open_tasks > 0 || known.undoing.is_some() {
            return;
        }
        if let Some(i) = known.next_undo() {
            let run = known.instances[i as usize].run + 1;
            return self.put(Decision::UndoStarted { epic, i, run });
        }
        let all_good = known
            .tasks
            .iter()
            .zip(&known.spec.tasks)
            .all(|(task, spec)| !is_bad(task.end.unwrap_or(TaskEnd::Skipped), spec.optional) || spec.optional);
        let state = match (known.status, all_good) {
            (EpicStatus::Cancelling, _) => EpicEnd::Cancelled,
            (_, true) => EpicEnd::Succeeded,
            (_, false) => EpicEnd::Failed,
        };
        self.put(Decision::EpicEnded { epic, state });
    }

    fn assign_next(&mut self) -> bool {
        let state = &mut *self.state;
        let mut visited = 0;
        let epics = &state.epics;
        let last = |epic: &EpicId, i: u32| epics[epic].instances[i as usize].last_agent.clone();
        let pick = state.queue.pick(&state.fleet, last, &mut visited);
        state.visited += visited;
        let Some(pick) = pick else { return false };
        let instance = &state.epics[&pick.epic].instances[pick.i as usize];
        let attempt = AttemptRef { epic: pick.epic.clone(), i: pick.i, run: instance.run, attempt: instance.attempt + 1 };
        let incarnation = state.fleet.nodes[&pick.node].incarnation;
        let token = Token(state.token.0 + 1);
        self.put(Decision::Assigned { attempt, agent: pick.agent, node: pick.node, incarnation, token });
        true
    }

    /// Ends an open attempt, with what follows by the retry policy.
    fn end_attempt(&mut self, attempt: AttemptRef, end: amphi_protocol::journal::AttemptEnd) {
        let next: Next = self.state.next_after(&attempt, &end);
        if next == Next::Succeeded {
            // Before the end: whoever needs the tasks that run again has to wait for them too.
            self.changes(&attempt.epic, attempt.i);
        }
        let token = self.state.epics[&attempt.epic].open(attempt.i).expect("only open attempts are ended").token;
        self.put(Decision::AttemptEnded { attempt, token, end, next });
    }
}

impl State {
    /// Takes an input in. On success the decisions have been applied already; on refusal nothing has changed.
    ///
    /// `now` must not be earlier than that of the call before (it is raised to it otherwise).
    pub fn decide(&mut self, now: Timestamp, input: &Input, sink: &mut EventSink) -> Result<Vec<Decision>, Refusal> {
        let before = self.now;
        self.begin(now);
        let mut deciding = Deciding { state: self, sink, decisions: Vec::new() };
        if let Err(refusal) = deciding.input(input) {
            // Not even its time is remembered: no record tells of it, so no replay would know.
            self.now = before;
            return Err(refusal);
        }
        deciding.drain();
        let decisions = deciding.decisions;
        self.settle(sink);
        Ok(decisions)
    }
}
