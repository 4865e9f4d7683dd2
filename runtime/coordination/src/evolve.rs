//! Decisions change the state. The same on the leader, on standbys and in every replay; nothing here may refuse.
//!
//! A decision that contradicts the state is a broken law: it panics with the law in words, and the shell around it treats the
//! record as poison.

use std::sync::Arc;

use amphi_protocol::document::OnFailure;
use amphi_protocol::event::EventType;
use amphi_protocol::ids::{AgentId, AttemptRef, EpicId, Incarnation, NodeId, Token};
use amphi_protocol::journal::{
    AgentInfo, AgentLife, AttemptEnd, CancelCause, Decision, Duty, EpicEnd, IncidentKind, Next, NodeInfo, Outcome, Post, StaffCause,
};
use serde_json::Map;

use crate::epic::{Attempt, AttemptPhase, Epic, EpicStatus, InstanceEnd, InstanceState};
use crate::graph::cancel_word;
use crate::locks::Party;
use crate::retry;
use crate::sink::{EventSink, Subject, data};
use crate::state::{State, Timer, TimerKind};

impl State {
    /// Applies one decision.
    pub fn evolve(&mut self, decision: &Decision, sink: &mut EventSink) {
        match decision {
            Decision::EpochStarted { node, epoch } => {
                self.epoch = *epoch;
                self.leader = Some(node.clone());
                let subject = || Subject { node: Some(node.clone()), ..Subject::default() };
                self.event(sink, EventType::ManagerElected, subject, data! { "epoch": epoch });
            }
            Decision::EpicAccepted { epic, key, body_hash, by, spec } => {
                let hash = spec.hash.clone();
                let spec = Arc::clone(spec.get().expect("records are resolved before they are applied"));
                self.keys.insert((spec.project.clone(), key.clone()), (epic.clone(), body_hash.clone()));
                let about = data! { "name": spec.name.as_str(), "by": by, "tasks": spec.tasks.len() };
                let turn = self.queue.next_turn();
                let accepted = (self.index.next(), self.now, turn);
                self.epics.insert(epic.clone(), Epic::new(epic.clone(), (spec, hash), by.clone(), accepted));
                self.epic_event(sink, EventType::EpicSubmitted, epic, about);
                self.check_all(epic, sink);
            }
            Decision::EpicStopping { epic, .. } => {
                let known = self.epic_mut(epic);
                known.stopping = true;
                known.undo_wanted |= known.spec.on_failure == OnFailure::Undo;
                self.cut_off(epic, false, sink);
            }
            Decision::EpicCancelling { epic, undo, .. } => {
                let known = self.epic_mut(epic);
                known.status = EpicStatus::Cancelling;
                // What is left of it is to end, and an undo has to run for that.
                known.paused = false;
                known.undo_wanted |= *undo;
                self.cut_off(epic, true, sink);
                self.due.touched.insert(epic.clone());
            }
            Decision::EpicPaused { epic, by } => self.epic_paused(epic, by, sink),
            Decision::EpicResumed { epic, by } => self.epic_resumed(epic, by, sink),
            Decision::InstancesSkipped { epic, instances, .. } => {
                for &i in instances {
                    self.end_instance(epic, i, InstanceEnd::Skipped, sink);
                }
            }
            Decision::UndoStarted { epic, i, run } => self.undo_started(epic, *i, *run, sink),
            Decision::EpicEnded { epic, state } => self.epic_ended(epic, *state, sink),
            Decision::ConditionDecided { epic, task, error: Some(error), .. } => self.fail_task(epic, *task, error, sink),
            Decision::ConditionDecided { epic, task, runs: true, error: None } => self.release_task(epic, *task, sink),
            Decision::ConditionDecided { epic, task, runs: false, error: None } => self.skip_task(epic, *task, sink),
            Decision::ResourceChanged { epic, i, resource, opened, later, .. } => {
                self.resource_changed(epic, *i, (resource, opened, later), sink);
            }
            Decision::RunsOpened { epic, task } => self.open_again(epic, *task, sink),
            Decision::Assigned { attempt, agent, node, incarnation, token } => {
                self.assigned(attempt, (agent, node, *incarnation), *token, sink);
            }
            Decision::Claimed { attempt } => self.attempt_mut(attempt).phase = AttemptPhase::Claimed,
            Decision::Started { attempt, pid } => self.attempt_started(attempt, *pid, sink),
            Decision::Progressed { attempt, percent, message } => {
                self.attempt_mut(attempt).percent = *percent;
                let about = data! { "percent": percent, "message": message };
                self.instance_event(sink, EventType::TaskProgress, (&attempt.epic, attempt.i), about);
            }
            Decision::AttemptCancelling { attempt, cause } => self.attempt_cancelling(attempt, *cause, sink),
            Decision::AttemptEnded { attempt, token, end, next } => self.attempt_ended(attempt, *token, end, *next, sink),
            Decision::WaitEnded { epic, i, end, .. } => self.wait_ended(epic, *i, end, sink),
            Decision::ChildStarted { epic, i, child, .. } => self.child_started(epic, *i, child, sink),
            Decision::ChildCancelling { epic, i, cause, .. } => self.child_cancelling(epic, *i, *cause),
            Decision::ChildUndoing { epic, i, child, .. } => self.child_undoing(epic, *i, child, sink),
            Decision::ChildEnded { epic, i, child, end, .. } => self.child_over(epic, *i, child, end, sink),
            Decision::BackoffEnded { epic, i } => {
                self.withdraw(epic, *i);
                self.make_ready(epic, *i, sink);
            }
            Decision::InstancesCancelled { epic, instances, .. } => {
                for &i in instances {
                    self.end_instance(epic, i, InstanceEnd::Cancelled, sink);
                }
            }
            Decision::Reopened { epic, instances, .. } => {
                self.reopen(epic, instances, sink);
                self.epic_event(sink, EventType::EpicResumed, epic, data! { "reopened": instances.len() });
            }
            Decision::IncidentOpened { incident, attempt, summary, kind } => {
                self.incident_opened(incident, attempt, (summary, *kind), sink);
            }
            Decision::IncidentAcked { incident, note, by } => self.incident_acked(incident, note, by, sink),
            Decision::EffectIntended { attempt, token, intent } => self.effect_intended(attempt, *token, intent, sink),
            Decision::EffectEnded { attempt, effect, end, .. } => self.effect_ended(attempt, effect, end, sink),
            Decision::IncidentResolved { incident, resolution, by } => self.incident_resolved(incident, *resolution, by, sink),
            Decision::NodeJoined(info) => self.node_joined(info, sink),
            Decision::NodeLost { node, incarnation, cause } => {
                self.fleet.lose(node, cause);
                let subject = || Subject { node: Some(node.clone()), ..Subject::default() };
                self.event(sink, EventType::NodeLost, subject, data! { "incarnation": incarnation, "cause": cause });
                self.update_servable();
            }
            Decision::AgentChanged { node, agent, state, restarts, cause } => {
                self.agent_changed((node, agent), *state, *restarts, cause, sink)
            }
            Decision::SnapshotTaken { snapshot, .. } => self.snapshot_recorded(snapshot),
            Decision::SegmentArchived { segment } => self.segment_recorded(segment),
            Decision::EpicRetired { epic, view } => self.epic_retired(epic, view),
            Decision::HistoryOver { from } => self.history_ends_before(*from),
            Decision::StaffChanged { node, added, removed, cause } => self.staff_changed(node, added, removed, *cause, sink),
            Decision::TaskPinned { epic, instances, agent, by } => self.task_pinned(epic, instances, agent, by, sink),
            Decision::PinsDropped { agent, cause } => self.pins_dropped(agent, cause, sink),
            Decision::Held { post, duty, by } => self.held(post, *duty, by, sink),
            Decision::LockAsked { lock, ttl_ms, until, .. } => self.lock_asked(lock, *ttl_ms, *until),
            Decision::LockGranted { lock, token, until } => self.lock_granted(lock, *token, *until, sink),
            Decision::LockRenewed { lock, ttl_ms, until, .. } => self.lock_renewed(lock, *ttl_ms, *until),
            Decision::LockReleased { lock, token, by } => {
                self.outside_event(sink, EventType::LockReleased, lock, data! { "token": token, "by": by });
                self.lock_given_back(lock);
            }
            Decision::LockExpired { lock, token } => {
                self.outside_event(sink, EventType::LockExpired, lock, data! { "token": token });
                self.lock_given_back(lock);
            }
            Decision::LockAskEnded { lock, .. } => self.lock_given_back(lock),
            Decision::GraceEnded { post } => self.fleet.graces.retain(|(_, drained)| drained != post),
        }
    }

    pub(crate) fn epic_mut(&mut self, id: &EpicId) -> &mut Epic {
        self.epics.get_mut(id).expect("a decision names an accepted epic")
    }

    fn attempt_mut(&mut self, attempt: &AttemptRef) -> &mut Attempt {
        match &mut self.epic_mut(&attempt.epic).instances[attempt.i as usize].state {
            InstanceState::Open(open) => open,
            InstanceState::Blocked
            | InstanceState::Ready { .. }
            | InstanceState::Backoff { .. }
            | InstanceState::Waiting { .. }
            | InstanceState::Nested(_)
            | InstanceState::Unknown { .. }
            | InstanceState::Ended(_) => panic!("S5: a decision about attempt {attempt}, which is not open"),
        }
    }

    fn epic_ended(&mut self, id: &EpicId, end: EpicEnd, sink: &mut EventSink) {
        let now = self.now;
        let epic = self.epic_mut(id);
        epic.status = EpicStatus::Ended(end);
        epic.paused = false;
        epic.ended_at = Some(now);
        let kind = match end {
            EpicEnd::Succeeded => EventType::EpicSucceeded,
            EpicEnd::Failed => EventType::EpicFailed,
            EpicEnd::Cancelled => EventType::EpicCancelled,
        };
        let duration = now.since_ms(epic.submitted_at);
        let has_parent = epic.parent.is_some();
        self.epic_event(sink, kind, id, data! { "duration_ms": duration });
        if has_parent {
            self.due.children_ended.push_back(id.clone());
        }
    }

    fn assigned(
        &mut self,
        at: &AttemptRef,
        (agent, node, incarnation): (&AgentId, &NodeId, Incarnation),
        token: Token,
        sink: &mut EventSink,
    ) {
        let now = self.now;
        self.token = token;
        let epic = self.epics.get(&at.epic).expect("a decision names an accepted epic");
        let InstanceState::Ready { order, .. } = epic.instances[at.i as usize].state else {
            panic!("S6: {at} is assigned but was not ready");
        };
        let class = self.queue.find(&epic.demand(at.i)).expect("a ready instance has a class");
        self.queue.classes[class].runnable.remove(epic.rank(at.i, order), epic.turn, &at.epic);
        let turn = self.queue.advance(&at.epic, epic.turn);
        let granted = if self.queue.classes[class].locking.remove(&order) { Some(self.locks.grant(order, token)) } else { None };
        self.fleet.begin(agent, node, at);
        self.forget_pin(&at.epic, at.i);
        let epic = self.epics.get_mut(&at.epic).expect("a decision names an accepted epic");
        epic.turn = turn;
        let task = epic.task_of(at.i);
        let instance = &mut epic.instances[at.i as usize];
        let from = instance.last_agent.replace(agent.clone()).filter(|last| last != agent);
        let begins = instance.attempt == 0 && !instance.undo;
        instance.attempt = at.attempt;
        let attempt = Attempt {
            agent: agent.clone(),
            node: node.clone(),
            incarnation,
            token,
            phase: AttemptPhase::Assigned,
            cancelling: None,
            assigned_at: now,
            started_at: None,
            pid: None,
            percent: None,
            deadline: None,
        };
        instance.state = InstanceState::Open(Box::new(attempt));
        epic.pending -= 1;
        epic.active += 1;
        epic.tasks[task as usize].begun += u32::from(begins);
        let first = !std::mem::replace(&mut epic.started, true);
        self.due.touched.insert(at.epic.clone());
        if first {
            self.epic_event(sink, EventType::EpicStarted, &at.epic, Map::new());
        }
        let who = (&at.epic, at.i);
        for (key, mode) in granted.iter().flat_map(|set| set.iter()) {
            self.instance_event(sink, EventType::LockGranted, who, data! { "resource": key.resource, "mode": mode, "token": token });
        }
        self.instance_event(sink, EventType::TaskAssigned, who, data! { "token": token });
        if let Some(from) = from {
            self.instance_event(sink, EventType::TaskReassigned, who, data! { "from": from });
        }
    }

    fn attempt_started(&mut self, at: &AttemptRef, pid: Option<u32>, sink: &mut EventSink) {
        let now = self.now;
        let timeout = self.epics[&at.epic].spec_of(at.i).timeout_ms;
        let attempt = self.attempt_mut(at);
        attempt.phase = AttemptPhase::Started;
        attempt.started_at = Some(now);
        attempt.pid = pid;
        attempt.deadline = timeout.map(|ms| now.after_ms(ms));
        if let (Some(deadline), None) = (attempt.deadline, attempt.cancelling) {
            self.timers.insert(Timer { at: deadline, epic: at.epic.clone(), i: at.i, kind: TimerKind::Timeout });
        }
        self.instance_event(sink, EventType::TaskStarted, (&at.epic, at.i), data! { "pid": pid });
    }

    fn attempt_cancelling(&mut self, at: &AttemptRef, cause: CancelCause, sink: &mut EventSink) {
        let attempt = self.attempt_mut(at);
        attempt.cancelling = Some(cause);
        let (deadline, token) = (attempt.deadline.take(), attempt.token);
        if let Some(deadline) = deadline {
            self.timers.remove(&Timer { at: deadline, epic: at.epic.clone(), i: at.i, kind: TimerKind::Timeout });
        }
        let who = (&at.epic, at.i);
        match cause {
            CancelCause::Stuck => self.instance_event(sink, EventType::TaskStuck, who, data! { "cause": cancel_word(cause) }),
            CancelCause::Lease => {
                for (key, _) in self.epics[&at.epic].locks(at.i) {
                    self.instance_event(sink, EventType::LockExpired, who, data! { "resource": key.resource, "token": token });
                }
            }
            CancelCause::Request | CancelCause::Timeout | CancelCause::FailFast | CancelCause::Drain => {}
        }
    }

    fn attempt_ended(&mut self, at: &AttemptRef, token: Token, end: &AttemptEnd, next: Next, sink: &mut EventSink) {
        let now = self.now;
        let InstanceState::Open(attempt) = self.epics[&at.epic].instances[at.i as usize].state.clone() else {
            panic!("S5: {at} ends but is not open");
        };
        let who = (&at.epic, at.i);
        self.fleet.end(&attempt.agent, &attempt.node, at);
        let node = self.fleet.nodes.get(&attempt.node);
        let drained = node.is_some_and(|node| node.alive && node.running.is_empty() && node.duty != Duty::Active);
        if let Some(deadline) = attempt.deadline {
            self.timers.remove(&Timer { at: deadline, epic: at.epic.clone(), i: at.i, kind: TimerKind::Timeout });
        }
        let locks = self.epics[&at.epic].locks(at.i);
        match next {
            Next::Succeeded => self.effects_succeeded(at, sink),
            Next::Retry { .. } | Next::Failed | Next::Unknown | Next::Cancelled => self.effects_cut_off(at, sink),
        }
        // The outcome is told while the instance still shows its agent, the locks after it.
        self.outcome_event(at, &attempt, end, next, sink);
        for (key, mode) in &locks {
            self.instance_event(sink, EventType::LockReleased, who, data! { "resource": key.resource, "mode": mode, "token": token });
        }
        if drained {
            self.node_event(sink, EventType::NodeDrained, &attempt.node, Map::new());
        }
        let changes = self.locks.release(&Party::Task { epic: at.epic.clone(), i: at.i }, &locks);
        self.follow(changes);
        let epic = self.epic_mut(&at.epic);
        epic.active -= 1;
        let moved = retry::is_handed_over(end.outcome, attempt.cancelling);
        let uncounted = !moved && retry::is_uncounted(end.outcome, attempt.phase, &epic.spec_of(at.i).retry);
        let instance = &mut epic.instances[at.i as usize];
        instance.unstarted += u32::from(uncounted);
        instance.moved += u32::from(moved);
        let record = instance.record.get_or_insert_default();
        record.started_at = attempt.started_at;
        record.ended_at = Some(now);
        record.node = Some(attempt.node);
        record.token = Some(token);
        // What was handed over did not fail.
        record.exit_code = end.exit_code.filter(|_| !moved);
        record.error = end.error.clone().filter(|_| !moved);
        // An undo leaves nothing of its own: what the task gave is what other undos may still read.
        if next == Next::Succeeded && !instance.undo {
            record.outputs.clone_from(&end.outputs);
            record.artifacts.clone_from(&end.artifacts);
        } else if next == Next::Failed && !instance.undo {
            // A run after a change keeps what the one before left, but not when it fails.
            record.outputs.clear();
            record.artifacts.clear();
        }
        self.due.touched.insert(at.epic.clone());
        match next {
            Next::Succeeded => self.end_instance(&at.epic, at.i, InstanceEnd::Succeeded, sink),
            Next::Failed => self.end_instance(&at.epic, at.i, InstanceEnd::Failed, sink),
            Next::Cancelled => self.end_instance(&at.epic, at.i, InstanceEnd::Cancelled, sink),
            Next::Retry { at: until } if until <= now => self.make_ready(&at.epic, at.i, sink),
            Next::Retry { at: until } => {
                let epic = self.epic_mut(&at.epic);
                epic.instances[at.i as usize].state = InstanceState::Backoff { until };
                epic.pending += 1;
                self.timers.insert(Timer { at: until, epic: at.epic.clone(), i: at.i, kind: TimerKind::Backoff });
            }
            Next::Unknown => self.due.incidents.push_back((at.clone(), IncidentKind::UnknownOutcome)),
        }
    }

    fn outcome_event(&mut self, at: &AttemptRef, attempt: &Attempt, end: &AttemptEnd, next: Next, sink: &mut EventSink) {
        let who = (&at.epic, at.i);
        let cause = retry::cause(end.outcome, attempt.cancelling).as_str();
        match next {
            Next::Succeeded if self.epics[&at.epic].instances[at.i as usize].undo => {
                self.instance_event(sink, EventType::TaskUndone, who, data! { "exit_code": end.exit_code });
            }
            Next::Retry { at } if retry::is_handed_over(end.outcome, attempt.cancelling) => {
                let about = data! { "cause": cancel_word(CancelCause::Drain), "next_at": at.to_rfc3339() };
                self.instance_event(sink, EventType::TaskRetrying, who, about);
            }
            Next::Succeeded => {
                let about = data! { "exit_code": end.exit_code, "outputs": end.outputs, "artifacts": end.artifacts };
                self.instance_event(sink, EventType::TaskSucceeded, who, about);
            }
            Next::Failed => {
                let about = data! { "cause": cause, "exit_code": end.exit_code, "error": end.error };
                self.instance_event(sink, EventType::TaskFailed, who, about);
            }
            Next::Retry { at } => {
                let about = data! { "cause": cause, "next_at": at.to_rfc3339(), "exit_code": end.exit_code, "error": end.error };
                self.instance_event(sink, EventType::TaskRetrying, who, about);
            }
            Next::Unknown => self.instance_event(sink, EventType::TaskUnknown, who, data! { "cause": cause, "error": end.error }),
            // Told when the instance is closed.
            Next::Cancelled => {}
        }
    }

    fn node_joined(&mut self, info: &NodeInfo, sink: &mut EventSink) {
        let new = self.fleet.join(info);
        self.queue.add_profiles(&new, &self.fleet);
        let about = data! { "incarnation": info.incarnation, "pid": info.pid, "capacity": info.capacity };
        let node = || Subject { node: Some(info.node.clone()), ..Subject::default() };
        self.event(sink, EventType::NodeJoined, node, about);
        for agent in &info.agents {
            let subject = || Subject { node: Some(info.node.clone()), agent: Some(agent.agent.clone()), ..Subject::default() };
            self.event(sink, EventType::AgentJoined, subject, data! { "role": agent.role });
        }
        self.update_servable();
    }

    fn agent_changed(&mut self, (node, agent): (&NodeId, &AgentId), life: AgentLife, restarts: u32, cause: &str, sink: &mut EventSink) {
        self.fleet.report(agent, life, restarts);
        let kind = match life {
            AgentLife::Up => EventType::AgentRestarted,
            AgentLife::Down => EventType::AgentLost,
            AgentLife::Quarantined => EventType::AgentQuarantined,
        };
        let subject = || Subject { node: Some(node.clone()), agent: Some(agent.clone()), ..Subject::default() };
        self.event(sink, kind, subject, data! { "restarts": restarts, "cause": cause });
        self.update_servable();
    }

    fn staff_changed(&mut self, node: &NodeId, added: &[AgentInfo], removed: &[AgentId], cause: StaffCause, sink: &mut EventSink) {
        let new = self.fleet.hire(node, added);
        self.queue.add_profiles(&new, &self.fleet);
        for agent in removed {
            let role = self.fleet.agents.get(agent).map(|agent| agent.role.clone());
            self.fleet.dismiss(agent);
            let subject = || Subject { node: Some(node.clone()), agent: Some(agent.clone()), ..Subject::default() };
            self.event(sink, EventType::AgentLost, subject, data! { "role": role, "cause": cause.as_str() });
        }
        for info in added {
            let subject = || Subject { node: Some(node.clone()), agent: Some(info.agent.clone()), ..Subject::default() };
            self.event(sink, EventType::AgentJoined, subject, data! { "role": info.role, "cause": cause.as_str() });
        }
        self.update_servable();
    }

    fn held(&mut self, post: &Post, duty: Duty, by: &str, sink: &mut EventSink) {
        self.fleet.set_duty(post, duty);
        let about = match duty {
            Duty::Active | Duty::Paused => data! { "by": by },
            Duty::Draining { until } => data! { "by": by, "until": until.to_rfc3339() },
        };
        match post {
            Post::Node(node) => {
                let kind = if duty == Duty::Active { EventType::NodeResumed } else { EventType::NodeDraining };
                self.node_event(sink, kind, node, about);
                if duty != Duty::Active && self.fleet.running(post).is_empty() {
                    self.node_event(sink, EventType::NodeDrained, node, Map::new());
                }
            }
            Post::Agent(agent) => {
                let kind = match duty {
                    Duty::Active => EventType::AgentResumed,
                    Duty::Paused => EventType::AgentPaused,
                    Duty::Draining { .. } => EventType::AgentDraining,
                };
                let node = self.fleet.agents.get(agent).map(|agent| agent.node.clone());
                self.event(sink, kind, || Subject { node, agent: Some(agent.clone()), ..Subject::default() }, about);
            }
        }
        self.update_servable();
    }

    fn node_event(&mut self, sink: &mut EventSink, kind: EventType, node: &NodeId, data: Map<String, serde_json::Value>) {
        self.event(sink, kind, || Subject { node: Some(node.clone()), ..Subject::default() }, data);
    }

    /// What follows an end that is reported for an open attempt.
    pub(crate) fn next_after(&self, at: &AttemptRef, end: &AttemptEnd) -> Next {
        let epic = &self.epics[&at.epic];
        let task = epic.spec_of(at.i);
        let attempt = epic.open(at.i).expect("ends are decided for open attempts");
        let instance = &epic.instances[at.i as usize];
        let moved = retry::is_handed_over(end.outcome, attempt.cancelling);
        let uncounted = !moved && retry::is_uncounted(end.outcome, attempt.phase, &task.retry);
        let unstarted = instance.unstarted + u32::from(uncounted);
        // An undo belongs to the stop or the cancel: neither cuts it short.
        let stopping = !instance.undo && epic.stopping && !task.condition.outlives_failure();
        let is_cancelled = !instance.undo && epic.status == EpicStatus::Cancelling;
        let next = retry::next(&retry::Ended {
            policy: &task.retry,
            outcome: end.outcome,
            phase: attempt.phase,
            cancelling: if is_cancelled { Some(CancelCause::Request) } else { attempt.cancelling },
            stopping,
            begun: instance.attempt - unstarted - instance.moved - u32::from(moved),
            unstarted,
            now: self.now,
            seed: attempt.token.0,
        });
        self.with_effects(at, next)
    }

    /// The attempts of a node that are open.
    pub(crate) fn open_on(&self, node: &NodeId) -> Vec<AttemptRef> {
        self.fleet.nodes.get(node).map(|node| node.running.iter().cloned().collect()).unwrap_or_default()
    }

    /// An end made by the Manager itself: the agent or its node is gone.
    pub(crate) fn lost(cause: &str) -> AttemptEnd {
        AttemptEnd {
            outcome: Outcome::AgentLost,
            exit_code: None,
            error: Some(cause.to_owned()),
            outputs: Default::default(),
            artifacts: Vec::new(),
        }
    }
}
