//! The way of an attempt through the node: claimed where it must be, given to its agent, ended, reported once.
//!
//! An end is reported only when nothing of the attempt lives any more. `NotStarted` is said only of what certainly never began.

use std::sync::Arc;

use amphi_ports::JobOrder;
use amphi_protocol::ids::{AgentId, AttemptRef, Token};
use amphi_protocol::journal::{AttemptEnd, AttemptNews, AttemptReport, Input, Outcome};
use amphi_protocol::node::{Assignment, Job, NodeAnswer, NodeCommand, Order};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::effects::Intending;
use super::{DeskMessage, DeskState};
use crate::jobs::JobReport;
use crate::registry::AgentEntry;
use crate::specialist::SpecialistMessage;

/// Longest error text of an end.
const ERROR_BYTES_MAX: usize = 4096;

/// An attempt that the node has.
pub(super) struct Held {
    pub(super) agent: AgentId,
    pub(super) token: Token,
    task: String,
    job: Arc<Job>,
    pub(super) phase: Phase,
    /// It has a write lock or is `retry: 0`: see [`super::fence`].
    pub(super) fenced: bool,
    /// Ends the patience with its processes.
    pub(super) hurry: CancellationToken,
    /// Its start was reported.
    started: bool,
    /// Somebody ends it.
    pub(super) ending: Option<Ending>,
    /// Its tool waits for the word that its intent is on record.
    pub(super) intending: Option<Intending>,
}

/// How far an attempt is.
pub(super) enum Phase {
    /// The start is not on record yet.
    Claiming {
        /// When the claim was made.
        since: Instant,
    },
    /// An actor has it.
    Given {
        /// The actor.
        entry: AgentEntry,
        /// Pings without an answer.
        unanswered: u32,
        /// It heard the cancel.
        cancel_heard: bool,
        /// It was killed.
        killed: bool,
    },
}

/// Why an attempt is being ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ending {
    /// The leader wants it.
    Cancelled,
    /// Its agent died, or its node leaves.
    Lost(String),
}

impl DeskState {
    /// Takes a command; the answer says nothing about how the orders end.
    pub(super) fn command(&mut self, command: NodeCommand) -> NodeAnswer {
        let incarnation = self.arguments.incarnation;
        if command.incarnation != incarnation || command.node != self.arguments.node {
            return NodeAnswer::OtherIncarnation { incarnation };
        }
        if command.epoch < self.epoch {
            return NodeAnswer::OldEpoch { epoch: self.epoch };
        }
        self.heard_of(command.epoch);
        for order in command.orders {
            match order {
                Order::Assign(assignment) => self.assign(assignment),
                Order::Go { attempt } => self.go(&attempt),
                Order::Cancel { attempt } => self.cancel(attempt),
                Order::RestartAgent { agent } => (self.arguments.restart_agent)(&agent),
                Order::JoinAgain => self.join_again(),
            }
        }
        NodeAnswer::Confirmed
    }

    fn assign(&mut self, assignment: Assignment) {
        let Assignment { attempt, task, agent, token, needs_claim, job_json } = assignment;
        if self.held.contains_key(&attempt) {
            return;
        }
        if self.ended.is_ahead(&attempt) {
            return self.refuse(attempt, token, "it was cancelled before it reached its node");
        }
        if self.ended.contains(&attempt) {
            return;
        }
        let job = match serde_json::from_str::<Job>(&job_json) {
            Ok(job) => Arc::new(job),
            Err(error) => return self.refuse(attempt, token, &format!("the node cannot read the job: {error}")),
        };
        if needs_claim && self.fence_is_over() {
            return self.refuse(attempt, token, "no Manager acknowledges this node");
        }
        if let Err(why) = self.free(&agent) {
            return self.refuse(attempt, token, &why);
        }
        let since = Instant::now();
        let held = Held {
            agent: agent.clone(),
            token,
            task,
            job,
            phase: Phase::Claiming { since },
            fenced: needs_claim,
            hurry: CancellationToken::new(),
            started: false,
            ending: None,
            intending: None,
        };
        self.held.insert(attempt.clone(), held);
        self.occupy(&agent, &attempt);
        if needs_claim {
            self.report(&attempt, token, AttemptNews::Claim);
            self.later(self.arguments.settings.claim, DeskMessage::ClaimOverdue { attempt });
        } else {
            self.give(&attempt);
        }
    }

    /// The start is on record: begin, if the claim is not too old. A node that was frozen in between must not begin.
    pub(super) fn go(&mut self, attempt: &AttemptRef) {
        let Some(Phase::Claiming { since }) = self.held.get(attempt).map(|held| &held.phase) else { return };
        if since.elapsed() <= self.arguments.settings.claim {
            self.give(attempt);
        } else {
            self.claim_overdue(attempt);
        }
    }

    pub(super) fn claim_overdue(&mut self, attempt: &AttemptRef) {
        self.end_unbegun(attempt, "its claim was not on record in time");
    }

    /// Ends an attempt that no actor has been given.
    pub(super) fn end_unbegun(&mut self, attempt: &AttemptRef, why: &str) {
        if matches!(self.held.get(attempt).map(|held| &held.phase), Some(Phase::Claiming { .. })) {
            self.finish(attempt, end_of(Outcome::NotStarted, why));
        }
    }

    fn give(&mut self, attempt: &AttemptRef) {
        let Some(role) = self.held.get(attempt).and_then(|held| self.role_of(&held.agent)) else { return };
        let Some(held) = self.held.get_mut(attempt) else { return };
        let hurry = held.hurry.clone();
        let (attempt_ref, task, token, job) = (attempt.clone(), held.task.clone(), held.token, held.job.clone());
        let order = JobOrder { attempt: attempt_ref, task, token, job, hurry, role };
        let entry = self.arguments.registry.get(&held.agent);
        match entry {
            Some(entry) if entry.send(SpecialistMessage::Begin(order)) => {
                held.phase = Phase::Given { entry, unanswered: 0, cancel_heard: false, killed: false };
            }
            _ => self.finish(attempt, end_of(Outcome::NotStarted, "its agent is dead")),
        }
    }

    pub(super) fn declined(&mut self, attempt: &AttemptRef) {
        if self.held.contains_key(attempt) && !self.arguments.jobs.is_running(attempt) {
            self.finish(attempt, end_of(Outcome::NotStarted, "its agent has another attempt"));
        }
    }

    pub(super) fn job(&mut self, attempt: &AttemptRef, report: JobReport) {
        if let JobReport::Ended(_) = report {
            self.arguments.jobs.forget(attempt);
        }
        let Some(held) = self.held.get_mut(attempt) else { return };
        let token = held.token;
        match report {
            JobReport::Started { pid } => {
                if !std::mem::replace(&mut held.started, true) {
                    self.report(attempt, token, AttemptNews::Started { pid });
                }
            }
            JobReport::Progress { percent, message } => self.report(attempt, token, AttemptNews::Progress { percent, message }),
            JobReport::Ended(mut end) => {
                if let (Some(Ending::Lost(reason)), Outcome::Cancelled) = (&held.ending, end.outcome) {
                    end.outcome = Outcome::AgentLost;
                    end.error = Some(reason.clone());
                }
                self.finish(attempt, end);
            }
        }
    }

    fn cancel(&mut self, attempt: AttemptRef) {
        match self.held.get(&attempt).map(|held| &held.phase) {
            Some(Phase::Claiming { .. }) => self.end_unbegun(&attempt, "it was cancelled before it began"),
            Some(Phase::Given { .. }) => self.end(&attempt, Ending::Cancelled),
            None if self.ended.contains(&attempt) => {}
            // The cancel overtook the assignment. Without its token nothing can be reported yet.
            None => self.ended.insert_ahead(attempt),
        }
    }

    /// Ends an attempt that an actor has. The end is reported when it is confirmed.
    pub(super) fn end(&mut self, attempt: &AttemptRef, ending: Ending) {
        let Some(held) = self.held.get_mut(attempt) else { return };
        let Phase::Given { entry, .. } = &held.phase else { return };
        if held.ending.is_some() {
            return;
        }
        held.ending = Some(ending);
        held.intending = None;
        self.arguments.jobs.cancel(attempt);
        entry.send(SpecialistMessage::Cancel { attempt: attempt.clone() });
        self.later(self.arguments.settings.cancel_heard, DeskMessage::CancelOverdue { attempt: attempt.clone() });
    }

    pub(super) fn cancel_heard(&mut self, attempt: &AttemptRef) {
        if let Some(Phase::Given { cancel_heard, .. }) = self.held.get_mut(attempt).map(|held| &mut held.phase) {
            *cancel_heard = true;
        }
    }

    pub(super) fn cancel_overdue(&mut self, attempt: &AttemptRef) {
        if let Some(Phase::Given { cancel_heard: false, .. }) = self.held.get(attempt).map(|held| &held.phase) {
            self.kill(attempt, "it did not hear a cancel");
        }
    }

    /// The actor that had the attempt is dead.
    pub(super) fn orphan(&mut self, attempt: &AttemptRef, reason: &str) {
        let Some(held) = self.held.get_mut(attempt) else { return };
        if self.arguments.jobs.cancel(attempt) {
            held.ending.get_or_insert_with(|| Ending::Lost(reason.to_owned()));
            return;
        }
        let end = match (held.started, &held.ending) {
            (false, _) => end_of(Outcome::NotStarted, reason),
            (true, Some(Ending::Cancelled)) => end_of(Outcome::Cancelled, reason),
            (true, Some(Ending::Lost(first))) => end_of(Outcome::AgentLost, &first.clone()),
            (true, None) => end_of(Outcome::AgentLost, reason),
        };
        self.finish(attempt, end);
    }

    /// It is over: the agent is free, and the end goes to the leader.
    fn finish(&mut self, attempt: &AttemptRef, mut end: AttemptEnd) {
        let Some(held) = self.held.remove(attempt) else { return };
        let begun = !matches!(end.outcome, Outcome::NotStarted | Outcome::AgentLost | Outcome::Cancelled);
        if begun && !held.started {
            self.report(attempt, held.token, AttemptNews::Started { pid: None });
        }
        cut(&mut end.error);
        tracing::debug!(%attempt, task = %held.task, agent = %held.agent, outcome = ?end.outcome, error = end.error, "attempt ended");
        self.count(&held.agent, end.outcome);
        self.ended.insert(attempt.clone());
        self.report(attempt, held.token, AttemptNews::Ended(end));
        self.release(&held.agent, attempt);
    }

    /// Never began, never held.
    fn refuse(&mut self, attempt: AttemptRef, token: Token, why: &str) {
        tracing::debug!(%attempt, why, "attempt refused");
        self.ended.insert(attempt.clone());
        self.report(&attempt, token, AttemptNews::Ended(end_of(Outcome::NotStarted, why)));
    }

    pub(super) fn report(&self, attempt: &AttemptRef, token: Token, what: AttemptNews) {
        let (node, incarnation) = (self.arguments.node.clone(), self.arguments.incarnation);
        self.outbox.push(Input::Attempt(AttemptReport { node, incarnation, attempt: attempt.clone(), token, what }));
    }
}

fn end_of(outcome: Outcome, error: &str) -> AttemptEnd {
    let mut error = Some(error.to_owned());
    cut(&mut error);
    AttemptEnd { outcome, exit_code: None, error, outputs: Default::default(), artifacts: Vec::new() }
}

fn cut(error: &mut Option<String>) {
    if let Some(text) = error
        && text.len() > ERROR_BYTES_MAX
    {
        text.truncate(text.floor_char_boundary(ERROR_BYTES_MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_text_is_cut_at_4_kib_and_never_inside_a_character() {
        let end = end_of(Outcome::Exit, &"ä".repeat(ERROR_BYTES_MAX));
        assert_eq!(end.error.map(|text| text.len()), Some(ERROR_BYTES_MAX));
        let end = end_of(Outcome::Exit, &format!("x{}", "ä".repeat(ERROR_BYTES_MAX)));
        assert_eq!(end.error.map(|text| text.len()), Some(ERROR_BYTES_MAX - 1));
    }
}
