//! One arm per input: what is refused, and which decision comes first.

use std::collections::BTreeSet;

use amphi_protocol::api::{ApiError, ErrorCode};
use amphi_protocol::ids::{AgentId, AttemptRef, EpicId, IncidentId, NodeId};
use amphi_protocol::journal::{
    AgentInfo, AgentReport, AttemptNews, AttemptReport, CancelCause, Decision, IncidentKind, Input, NodeInfo, Resolution, StaffReport,
    Submission,
};

use crate::decide::{Deciding, Refusal};
use crate::epic::{AttemptPhase, EpicStatus, InstanceState};
use crate::fleet::Fleet;
use crate::history::put_away;
use crate::mutants::{Mutant, planted};
use crate::state::{State, TimerKind};

/// Timers that one tick decides at most; the rest is due at once again. Bounds the size of a commit.
const TIMERS_PER_TICK: usize = 500;

impl Deciding<'_> {
    pub(super) fn input(&mut self, input: &Input) -> Result<(), Refusal> {
        match input {
            Input::Lead { node } => {
                let epoch = self.state.epoch.next();
                self.put(Decision::EpochStarted { node: node.clone(), epoch });
                Ok(())
            }
            Input::Submit(submission) => self.submit(submission),
            Input::CancelEpic { epic, by, undo } => self.cancel_epic(epic, by, *undo),
            Input::PauseEpic { epic, by } => self.pause_epic(epic, by),
            Input::ResumeEpic { epic, by } => self.resume_epic(epic, by),
            Input::RetryEpic { epic, from, by } => self.retry_epic(epic, from, by),
            Input::SkipTask { epic, instances, by } => self.skip_instances(epic, instances, by),
            Input::CancelTask { epic, instances, by } => self.cancel_task(epic, instances, by),
            Input::AssignTask { epic, instances, agent, by } => self.assign_task(epic, instances, agent, by),
            Input::RetryTask { epic, instances, by } => self.retry_task(epic, instances, by),
            Input::AckIncident { incident, note, by } => self.ack(incident, note, by),
            Input::ResolveIncident { incident, resolution, by } => self.resolve(incident, *resolution, by),
            Input::Join(info) => self.join(info),
            Input::LoseNode { node, incarnation, cause } => {
                let known = self.state.fleet.nodes.get(node).is_some_and(|known| known.alive && known.incarnation == *incarnation);
                if !known {
                    return Err(Refusal::Stale("the node is not alive in this life"));
                }
                self.lose_node(node, cause);
                Ok(())
            }
            Input::Agent(report) => self.agent(report),
            Input::Staff(report) => self.staff(report),
            Input::Attempt(report) => self.attempt(report),
            Input::Silent { attempt, cause } => self.silent(attempt, *cause),
            Input::Tick => self.tick(),
            Input::Upkeep(upkeep) => self.upkeep(upkeep),
            Input::Hold { post, hold, by } => self.hold(post, *hold, by),
            Input::Signal { subject, data, before } => self.signal(subject, data, *before),
            Input::AcquireLock { lock, ttl_ms, wait_ms, by } => self.acquire_lock(lock, *ttl_ms, *wait_ms, by),
            Input::RenewLock { name, token, owner, ttl_ms, .. } => self.renew_lock((name, *token, owner.as_ref()), *ttl_ms),
            Input::ReleaseLock { name, token, owner, by } => self.release_lock((name, *token, owner.as_ref()), by),
        }
    }

    fn submit(&mut self, submission: &Submission) -> Result<(), Refusal> {
        let key = (submission.project.clone(), submission.key.clone());
        if let Some((epic, body_hash)) = self.state.keys.get(&key) {
            if *body_hash == submission.body_hash {
                return Err(Refusal::Duplicate(epic.clone()));
            }
            let message = format!("the id {:?} was used for another document (epic {epic})", submission.key);
            return Err(Refusal::error(ErrorCode::SubmitConflict, message, "use a new id for a new document"));
        }
        if self.state.epics.contains_key(&submission.epic) || self.state.history.retired.contains_key(&submission.epic) {
            return Err(Refusal::Error(ApiError::new(ErrorCode::Internal, format!("epic id {} is taken", submission.epic))));
        }
        if submission.spec.get().is_none() {
            return Err(Refusal::Error(ApiError::new(ErrorCode::Internal, "the submission came without its specification")));
        }
        self.state.admit(submission)?;
        self.put(Decision::EpicAccepted {
            epic: submission.epic.clone(),
            key: submission.key.clone(),
            body_hash: submission.body_hash.clone(),
            by: submission.by.clone(),
            spec: submission.spec.clone(),
        });
        Ok(())
    }

    fn cancel_epic(&mut self, id: &EpicId, by: &str, undo: bool) -> Result<(), Refusal> {
        let epic = self.state.known(id)?;
        match epic.status {
            _ if epic.undoing.is_some() => {
                let hint = "it ends when the last undo has; `amphi task cancel` ends an undo that hangs, and the next one follows";
                return Err(Refusal::error(ErrorCode::StateConflict, format!("epic {id} is being undone"), hint));
            }
            EpicStatus::Running => {}
            // A cancel under way can still be asked to undo, but not to leave that out again.
            EpicStatus::Cancelling if undo && !epic.undo_wanted => {}
            EpicStatus::Cancelling => return Err(conflict(format!("epic {id} is being cancelled already"))),
            EpicStatus::Ended(_) if undo => {
                let hint = "only a cancel undoes, and what has ended cannot be cancelled; run an epic that takes its effects back";
                return Err(Refusal::error(ErrorCode::StateConflict, format!("epic {id} has ended and cannot be undone"), hint));
            }
            EpicStatus::Ended(_) => return Err(conflict(format!("epic {id} has ended"))),
        }
        self.cancel_whole(id, by, undo);
        Ok(())
    }

    /// Ends an epic, if it is not being ended already, and all that it has opened.
    pub(crate) fn cancel_whole(&mut self, id: &EpicId, by: &str, undo: bool) {
        let mut left = vec![id.clone()];
        while let Some(id) = left.pop() {
            let epic = &self.state.epics[&id];
            let more = match epic.status {
                EpicStatus::Running => true,
                EpicStatus::Cancelling => undo && !epic.undo_wanted,
                EpicStatus::Ended(_) => false,
            };
            if !more || epic.undoing.is_some() {
                continue;
            }
            let (mut open, mut unknown, mut nested) = (Vec::new(), Vec::new(), Vec::new());
            for (i, instance) in (0u32..).zip(&epic.instances) {
                match &instance.state {
                    InstanceState::Open(attempt) if attempt.cancelling != Some(CancelCause::Request) => open.push(epic.attempt_ref(i)),
                    InstanceState::Unknown { incident } => unknown.push(incident.clone()),
                    InstanceState::Nested(child) => {
                        nested.extend(child.child.clone().map(|epic| (i, instance.run, epic, child.cancelling)))
                    }
                    _ => {}
                }
            }
            self.put(Decision::EpicCancelling { epic: id.clone(), by: by.to_owned(), undo });
            for attempt in open {
                self.put(Decision::AttemptCancelling { attempt, cause: CancelCause::Request });
            }
            // Nobody needs to know any more; the run is on record as failed, not as never started.
            for incident in unknown {
                self.put(Decision::IncidentResolved { incident, resolution: Resolution::Failed, by: by.to_owned() });
            }
            for (i, run, child, cancelling) in nested {
                if cancelling != Some(CancelCause::Request) {
                    self.put(Decision::ChildCancelling { epic: id.clone(), i, run, cause: CancelCause::Request });
                }
                left.push(child);
            }
        }
    }

    /// An epic and all that it has opened, the outermost first.
    fn with_children(&self, id: &EpicId) -> Vec<EpicId> {
        let mut all = vec![id.clone()];
        let mut next = 0;
        while let Some(id) = all.get(next) {
            let children = self.state.epics[id].open_children();
            all.extend(children.into_iter().map(|(_, child)| child));
            next += 1;
        }
        all
    }

    fn pause_epic(&mut self, id: &EpicId, by: &str) -> Result<(), Refusal> {
        let epic = self.state.known(id)?;
        match epic.status {
            EpicStatus::Running if epic.paused => return Err(conflict(format!("epic {id} is paused already"))),
            EpicStatus::Running => {}
            EpicStatus::Cancelling => return Err(conflict(format!("epic {id} is being cancelled"))),
            EpicStatus::Ended(_) => return Err(conflict(format!("epic {id} has ended"))),
        }
        for epic in self.with_children(id) {
            let known = &self.state.epics[&epic];
            if known.status == EpicStatus::Running && !known.paused {
                self.put(Decision::EpicPaused { epic, by: by.to_owned() });
            }
        }
        Ok(())
    }

    fn resume_epic(&mut self, id: &EpicId, by: &str) -> Result<(), Refusal> {
        let epic = self.state.known(id)?;
        if epic.is_ended() {
            let hint = "`amphi epic retry` opens new runs of what did not end well";
            return Err(Refusal::error(ErrorCode::StateConflict, format!("epic {id} has ended"), hint));
        }
        if !epic.paused {
            return Err(conflict(format!("epic {id} is not paused")));
        }
        for epic in self.with_children(id) {
            if self.state.epics[&epic].paused {
                self.put(Decision::EpicResumed { epic, by: by.to_owned() });
            }
        }
        Ok(())
    }

    fn cancel_task(&mut self, id: &EpicId, instances: &[u32], by: &str) -> Result<(), Refusal> {
        let epic = self.state.known(id)?;
        let (mut open, mut pending, mut nested) = (Vec::new(), Vec::new(), Vec::new());
        for &i in instances {
            let Some(instance) = epic.instances.get(i as usize) else {
                return Err(Refusal::Error(ApiError::new(ErrorCode::TaskNotFound, format!("epic {id} has no such task"))));
            };
            match &instance.state {
                InstanceState::Open(attempt) if attempt.cancelling != Some(CancelCause::Request) => open.push(epic.attempt_ref(i)),
                InstanceState::Nested(child) if instance.undo => {
                    let hint = child
                        .child
                        .as_ref()
                        .map_or_else(String::new, |child| format!("cancel the undo that hangs: `amphi epic show {child}`"));
                    return Err(Refusal::error(ErrorCode::StateConflict, format!("the epic of {} is being undone", epic.key(i)), hint));
                }
                InstanceState::Nested(child) if child.child.is_some() && child.cancelling != Some(CancelCause::Request) => nested.push(i),
                state if state.is_pending() => pending.push(i),
                _ => {}
            }
        }
        for i in &nested {
            self.end_child(id, *i, CancelCause::Request, by);
        }
        if open.is_empty() && pending.is_empty() && nested.is_empty() {
            return Err(conflict("the task has ended, or is being cancelled already"));
        }
        for attempt in open {
            self.put(Decision::AttemptCancelling { attempt, cause: CancelCause::Request });
        }
        if !pending.is_empty() {
            self.put(Decision::InstancesCancelled { epic: id.clone(), instances: pending, cause: CancelCause::Request });
        }
        Ok(())
    }

    fn ack(&mut self, incident: &IncidentId, note: &str, by: &str) -> Result<(), Refusal> {
        let Some(known) = self.state.incidents.get(incident) else {
            return Err(Refusal::Error(ApiError::new(ErrorCode::IncidentNotFound, format!("there is no incident {incident}"))));
        };
        match (&known.resolved, &known.acked) {
            (Some(_), _) => return Err(conflict(format!("incident {incident} is resolved already"))),
            (None, Some(acked)) => return Err(conflict(format!("{} looks after incident {incident} already", acked.by))),
            (None, None) => {}
        }
        let note = note.chars().take(500).collect();
        self.put(Decision::IncidentAcked { incident: incident.clone(), note, by: by.to_owned() });
        Ok(())
    }

    fn resolve(&mut self, incident: &IncidentId, resolution: Resolution, by: &str) -> Result<(), Refusal> {
        let Some(known) = self.state.incidents.get(incident) else {
            return Err(Refusal::Error(ApiError::new(ErrorCode::IncidentNotFound, format!("there is no incident {incident}"))));
        };
        if known.resolved.is_some() {
            return Err(conflict(format!("incident {incident} is resolved already")));
        }
        let epic = &self.state.epics[&known.attempt.epic];
        if resolution == Resolution::NotStarted && known.kind == IncidentKind::UndoFailed {
            return Err(conflict("an undo that failed is not started again; resolve as succeeded or failed"));
        }
        let starts = epic.undoing.is_some() || (!epic.stopping && epic.status == EpicStatus::Running);
        if resolution == Resolution::NotStarted && !starts {
            return Err(conflict(format!("epic {} starts nothing any more; resolve as succeeded or failed", epic.id)));
        }
        if resolution == Resolution::Succeeded {
            let (epic, i) = (known.attempt.epic.clone(), known.attempt.i);
            self.changes(&epic, i);
        }
        self.put(Decision::IncidentResolved { incident: incident.clone(), resolution, by: by.to_owned() });
        Ok(())
    }

    fn join(&mut self, info: &NodeInfo) -> Result<(), Refusal> {
        if let Some(known) = self.state.fleet.nodes.get(&info.node) {
            if known.incarnation > info.incarnation {
                return Err(Refusal::Stale("a later life of the node has joined"));
            }
            if known.alive && known.incarnation == info.incarnation {
                return Err(Refusal::Stale("the node has joined already"));
            }
            if known.alive && !known.home.is_empty() && !info.home.is_empty() && known.home != info.home {
                let message = format!("a node {} lives already (pid {}), in another data folder", info.node, known.pid);
                return Err(Refusal::error(ErrorCode::StateConflict, message, "give this one an id of its own: --node-prefix P"));
            }
            if known.alive {
                self.lose_node(&info.node, "restarted");
            }
        }
        self.put(Decision::NodeJoined(info.clone()));
        Ok(())
    }

    fn lose_node(&mut self, node: &NodeId, cause: &str) {
        let open = self.state.open_on(node);
        let incarnation = self.state.fleet.nodes[node].incarnation;
        self.put(Decision::NodeLost { node: node.clone(), incarnation, cause: cause.to_owned() });
        for attempt in open {
            self.end_attempt(attempt, State::lost(&format!("{node} was lost: {cause}")));
        }
    }

    fn agent(&mut self, report: &AgentReport) -> Result<(), Refusal> {
        let alive = self.state.fleet.nodes.get(&report.node).is_some_and(|node| node.alive && node.incarnation == report.incarnation);
        let known = self.state.fleet.agents.get(&report.agent).is_some_and(|agent| agent.node == report.node);
        if !alive || !known {
            return Err(Refusal::Stale("the agent's node is not alive in this life"));
        }
        let agent = &self.state.fleet.agents[&report.agent];
        if Fleet::is_old_news(agent, report.state, report.restarts) {
            return Err(Refusal::Stale("more is known of the agent already"));
        }
        self.put(Decision::AgentChanged {
            node: report.node.clone(),
            agent: report.agent.clone(),
            state: report.state,
            restarts: report.restarts,
            cause: report.cause.chars().take(500).collect(),
        });
        Ok(())
    }

    fn staff(&mut self, report: &StaffReport) -> Result<(), Refusal> {
        let fleet = &self.state.fleet;
        if !fleet.nodes.get(&report.node).is_some_and(|node| node.alive && node.incarnation == report.incarnation) {
            return Err(Refusal::Stale("the agents' node is not alive in this life"));
        }
        let own = |agent: &&AgentId| fleet.agents.get(*agent).is_some_and(|known| known.node == report.node);
        let mut added: Vec<AgentInfo> = report.added.iter().filter(|info| !fleet.agents.contains_key(&info.agent)).cloned().collect();
        added.sort_by(|a, b| a.agent.cmp(&b.agent));
        added.dedup_by(|a, b| a.agent == b.agent);
        let removed: BTreeSet<AgentId> = report.removed.iter().filter(own).cloned().collect();
        if let Some(busy) = removed.iter().find(|agent| fleet.agents[*agent].attempt.is_some()) {
            return Err(conflict(format!("{busy} has an open attempt")));
        }
        if added.is_empty() && removed.is_empty() {
            return Err(Refusal::Stale("this is known of the agents already"));
        }
        let removed = removed.into_iter().collect();
        self.put(Decision::StaffChanged { node: report.node.clone(), added, removed, cause: report.cause });
        Ok(())
    }

    fn attempt(&mut self, report: &AttemptReport) -> Result<(), Refusal> {
        let at = &report.attempt;
        let open = self.state.epics.get(&at.epic).filter(|epic| (at.i as usize) < epic.instances.len()).and_then(|epic| {
            let current = epic.attempt_ref(at.i);
            epic.open(at.i).filter(|_| current == *at || planted(Mutant::TokenCheck))
        });
        let Some(open) = open else { return Err(Refusal::Stale("the attempt is over")) };
        let same_holder = open.node == report.node && open.incarnation == report.incarnation && open.token == report.token;
        if !same_holder && !planted(Mutant::TokenCheck) {
            return Err(Refusal::Stale("the attempt belongs to another holder"));
        }
        let at = self.state.epics[&at.epic].attempt_ref(at.i);
        let phase = open.phase;
        match &report.what {
            AttemptNews::Claim if phase != AttemptPhase::Assigned => return Err(Refusal::Stale("claimed already")),
            AttemptNews::Claim if open.cancelling.is_some() => return Err(Refusal::Stale("the attempt is being cancelled")),
            AttemptNews::Claim => self.put(Decision::Claimed { attempt: at }),
            AttemptNews::Started { .. } if phase == AttemptPhase::Started => return Err(Refusal::Stale("started already")),
            AttemptNews::Started { pid } => self.put(Decision::Started { attempt: at, pid: *pid }),
            AttemptNews::Progress { percent, message } => {
                let message = message.as_ref().map(|text| text.chars().take(500).collect());
                self.put(Decision::Progressed { attempt: at, percent: percent.map(|value| value.min(100)), message });
            }
            AttemptNews::Intend(intent) => return self.intend_effect(at, report.token, intent),
            AttemptNews::Effect { effect, end } => return self.effect_over(at, report.token, effect, end),
            AttemptNews::Ended(end) => self.end_attempt(at, end.clone()),
        }
        Ok(())
    }

    fn silent(&mut self, attempt: &AttemptRef, cause: CancelCause) -> Result<(), Refusal> {
        let epic = self.state.epics.get(&attempt.epic).filter(|epic| epic.attempt_ref(attempt.i) == *attempt);
        let open = epic.and_then(|epic| epic.open(attempt.i)).filter(|open| open.cancelling.is_none());
        if open.is_none() {
            return Err(Refusal::Stale("the attempt is over or being cancelled"));
        }
        self.put(Decision::AttemptCancelling { attempt: attempt.clone(), cause });
        Ok(())
    }

    fn tick(&mut self) -> Result<(), Refusal> {
        self.hand_over_what_is_due();
        self.outside_is_due(TIMERS_PER_TICK);
        for _ in 0..TIMERS_PER_TICK {
            let Some(timer) = self.state.timers.first().filter(|timer| timer.at <= self.state.now).cloned() else { break };
            match timer.kind {
                TimerKind::Timeout => {
                    let attempt = self.state.epics[&timer.epic].attempt_ref(timer.i);
                    self.put(Decision::AttemptCancelling { attempt, cause: CancelCause::Timeout });
                }
                TimerKind::Wait => self.wait_is_over(timer.epic, timer.i),
                TimerKind::Child => self.child_is_late(&timer.epic, timer.i),
                TimerKind::Backoff => self.put(Decision::BackoffEnded { epic: timer.epic, i: timer.i }),
            }
        }
        if self.decisions.is_empty() { Err(Refusal::Stale("nothing is due")) } else { Ok(()) }
    }
}

pub(super) fn conflict(message: impl Into<String>) -> Refusal {
    Refusal::Error(ApiError::new(ErrorCode::StateConflict, message))
}

impl State {
    pub(super) fn known(&self, id: &EpicId) -> Result<&crate::epic::Epic, Refusal> {
        self.epics.get(id).ok_or_else(|| {
            if self.history.retired.contains_key(id) {
                return Refusal::Error(put_away(id));
            }
            Refusal::Error(ApiError::new(ErrorCode::EpicNotFound, format!("there is no epic {id}")))
        })
    }
}
