//! Reads: what the state looks like from outside. Nothing here changes anything.

mod why;

use std::collections::BTreeMap;
use std::ops::Bound;

use amphi_protocol::document::{LockMode, TOOL_SKILL_PREFIX};
use amphi_protocol::ids::{AttemptRef, EpicId, IncidentId, Timestamp};
use amphi_protocol::journal::{Duty, EpicEnd};
use amphi_protocol::view::{
    AgentList, AgentView, DrainView, DrainWait, EpicView, HolderView, IncidentList, IncidentView, LockList, LockView, NodeList, NodeView,
    ParentView, TaskList, TaskView, WaiterView,
};

use crate::backlog::Turn;
use crate::epic::{AttemptPhase, Epic, EpicStatus, InstanceEnd, InstanceState, Parent};
use crate::fleet::AgentState;
use crate::graph::WaitReason;
use crate::locks::{Holder, Party, ResourceKey, Waiter};
use crate::state::State;

/// Milliseconds that the lease of an attempt lasts without progress; known to the leader only.
pub type LeaseLeft<'a> = &'a dyn Fn(&AttemptRef) -> Option<u64>;
/// The leader's time, and what it knows of leases.
pub type Leases<'a> = (Timestamp, LeaseLeft<'a>);

/// An epic of a list.
#[derive(Debug, Clone)]
pub enum ListedEpic {
    /// It is in memory.
    Known(Box<EpicView>),
    /// It was put away; the name of the object with its final view.
    PutAway(String),
}

impl State {
    /// An epic with a page of its tasks: at most `limit` after the task `after`.
    pub fn epic_view(&self, id: &EpicId, after: Option<&str>, limit: usize) -> Option<EpicView> {
        let epic = self.epics.get(id)?;
        let first = after.and_then(|key| epic.plan.find(&epic.spec, key)).map_or(0, |i| i + 1);
        let count = epic.instances.len() as u32;
        let last = count.min(first.saturating_add(u32::try_from(limit).unwrap_or(u32::MAX)));
        let mut view = self.epic_head(epic);
        view.tasks = Some((first..last).map(|i| self.task_view(epic, i)).collect());
        view.next = (last < count && last > first).then(|| epic.key(last - 1));
        Some(view)
    }

    /// A page of epics, by id, optionally in one state; and where the next page begins.
    pub fn epic_page(&self, after: Option<&str>, limit: usize, state: Option<&str>) -> (Vec<ListedEpic>, Option<String>) {
        let from = after.and_then(|after| EpicId::parse(after).ok());
        let range = (from.as_ref().map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        let mut known =
            self.epics.range::<EpicId, _>(range).filter(|(_, epic)| state.is_none_or(|wanted| epic_state(epic) == wanted)).peekable();
        let put_away = self.history.retired.range::<EpicId, _>(range);
        let mut put_away = put_away.filter(|(_, retired)| state.is_none_or(|wanted| end_word(retired.end) == wanted)).peekable();
        let (mut page, mut last) = (Vec::new(), None);
        while page.len() < limit {
            let first_known = match (known.peek(), put_away.peek()) {
                (Some((one, _)), Some((other, _))) => one < other,
                (Some(_), None) => true,
                (None, _) => false,
            };
            if first_known && let Some((id, epic)) = known.next() {
                last = Some(id);
                page.push(ListedEpic::Known(Box::new(self.epic_head(epic))));
            } else if let Some((id, retired)) = put_away.next() {
                last = Some(id);
                page.push(ListedEpic::PutAway(retired.view.clone()));
            } else {
                break;
            }
        }
        let more = known.peek().is_some() || put_away.peek().is_some();
        (page, last.filter(|_| more).map(ToString::to_string))
    }

    /// One task instance.
    pub fn task(&self, id: &EpicId, key: &str) -> Option<TaskView> {
        let epic = self.epics.get(id)?;
        Some(self.task_view(epic, epic.plan.find(&epic.spec, key)?))
    }

    /// The instances that users mean by `key`: one, or all of a task.
    pub fn instances(&self, id: &EpicId, key: &str) -> Vec<u32> {
        let Some(epic) = self.epics.get(id) else { return Vec::new() };
        if let Some(position) = epic.spec.tasks.iter().position(|task| task.name.as_str() == key) {
            let planned = &epic.plan.tasks[position];
            return (planned.first..planned.first + planned.count).collect();
        }
        epic.plan.find(&epic.spec, key).into_iter().collect()
    }

    /// Everything that is ready and waits, in the order of the queue: priority, then the epics in turn, then age.
    pub fn queue_list(&self, limit: usize) -> TaskList {
        let mut waiting: Vec<((u8, usize, Turn), &Epic, u32)> = Vec::new();
        for epic in self.epics.values().filter(|epic| epic.pending > 0) {
            let mut own: Vec<(u8, u64, u32)> = Vec::new();
            for i in 0..epic.instances.len() as u32 {
                if let InstanceState::Ready { order, .. } = epic.instances[i as usize].state {
                    own.push((epic.spec_of(i).priority, order, i));
                }
            }
            own.sort_unstable();
            for same in own.chunk_by(|one, other| one.0 == other.0) {
                waiting.extend(same.iter().enumerate().map(|(round, (priority, _, i))| ((*priority, round, epic.turn), epic, *i)));
            }
        }
        waiting.sort_by_key(|(claim, _, _)| *claim);
        let next = waiting.get(limit).map(|(_, epic, i)| format!("{}/{}", epic.id, epic.key(*i)));
        let tasks = waiting.into_iter().take(limit).map(|(_, epic, i)| self.task_view(epic, i)).collect();
        TaskList { tasks, next }
    }

    /// All locks.
    pub fn lock_list(&self, leases: Leases<'_>) -> LockList {
        let locks = self.locks.iter().map(|(key, lock)| LockView {
            resource: key.resource.to_string(),
            project: key.project.to_string(),
            folder: key.folder.as_ref().map(|folder| folder.to_string()),
            mode: word(lock.holders.first().map(|holder| holder.mode).or(lock.waiting.values().next().map(|waiter| waiter.mode))),
            holders: lock.holders.iter().map(|holder| self.holder_view(key, holder, leases)).collect(),
            overlaps: self.locks.overlapping(key).iter().map(|other| other.resource.to_string()).collect(),
            queue: lock.waiting.values().map(|waiter| self.waiter_view(waiter)).collect(),
        });
        LockList { locks: locks.collect() }
    }

    fn holder_view(&self, key: &ResourceKey, holder: &Holder, (now, lease_left): Leases<'_>) -> HolderView {
        let token = Some(holder.token.0);
        match &holder.who {
            Party::Task { epic: id, i } => {
                let epic = &self.epics[id];
                let attempt = epic.attempt_ref(*i);
                HolderView {
                    epic: Some(id.to_string()),
                    task: Some(epic.key(*i)),
                    attempt: Some(attempt.attempt),
                    owner: None,
                    token,
                    lease_left_ms: lease_left(&attempt),
                }
            }
            Party::Outside { owner } => {
                let left = self.outside.get(key, owner).map(|ask| ask.until.since_ms(now));
                HolderView { epic: None, task: None, attempt: None, owner: Some(owner.to_string()), token, lease_left_ms: left }
            }
        }
    }

    fn waiter_view(&self, waiter: &Waiter) -> WaiterView {
        let (epic, task, owner) = match &waiter.who {
            Party::Task { epic, i } => (Some(epic.to_string()), Some(self.epics[epic].key(*i)), None),
            Party::Outside { owner } => (None, None, Some(owner.to_string())),
        };
        WaiterView { epic, task, owner, mode: word(Some(waiter.mode)), since: waiter.since.to_rfc3339() }
    }

    /// All agents.
    pub fn agent_list(&self) -> AgentList {
        let agents = self.fleet.agents.iter().map(|(id, agent)| {
            let attempt = match &agent.state {
                AgentState::Busy(attempt) => Some(attempt),
                AgentState::Idle | AgentState::Down | AgentState::Quarantined | AgentState::Gone => None,
            };
            AgentView {
                agent: id.to_string(),
                role: agent.role.to_string(),
                skills: agent.skills.iter().filter(|skill| !skill.starts_with(TOOL_SKILL_PREFIX)).cloned().collect(),
                node: agent.node.to_string(),
                state: match agent.state {
                    AgentState::Idle if self.fleet.is_held(agent) => idle_word(agent.duty),
                    AgentState::Idle => "idle",
                    AgentState::Busy(_) => "busy",
                    AgentState::Down => "down",
                    AgentState::Quarantined => "quarantined",
                    AgentState::Gone => "gone",
                }
                .to_owned(),
                epic: attempt.map(|attempt| attempt.epic.to_string()),
                task: attempt.map(|attempt| self.epics[&attempt.epic].key(attempt.i)),
                restarts: agent.restarts,
                duty: match agent.duty {
                    Duty::Active if self.fleet.is_held(agent) => "draining",
                    Duty::Active => "active",
                    Duty::Paused => "paused",
                    Duty::Draining { .. } => "draining",
                }
                .to_owned(),
            }
        });
        AgentList { agents: agents.collect() }
    }

    /// All nodes.
    pub fn node_list(&self) -> NodeList {
        let nodes = self.fleet.nodes.iter().map(|(id, node)| NodeView {
            id: id.to_string(),
            pid: node.pid,
            incarnation: node.incarnation.0,
            state: match (node.alive, node.duty) {
                (false, _) => "lost",
                (true, Duty::Active) => "alive",
                (true, _) if node.running.is_empty() => "drained",
                (true, _) => "draining",
            }
            .to_owned(),
            drain: self.drain_view(node),
            leads: if self.leader.as_ref() == Some(id) { vec![self.shard.0] } else { Vec::new() },
            running: node.running.len() as u64,
            capacity: node.capacity,
            labels: node.labels.clone(),
            restarts: node.restarts,
            last_exit: node.last_exit.clone(),
        });
        NodeList { nodes: nodes.collect() }
    }

    fn drain_view(&self, node: &crate::fleet::Node) -> Option<DrainView> {
        let Duty::Draining { until } = node.duty else { return None };
        let waits_for = node.running.iter().filter_map(|at| {
            let epic = self.epics.get(&at.epic)?;
            let why = match epic.open(at.i)? {
                open if open.cancelling.is_some() => "handing_over",
                _ if epic.spec_of(at.i).retry.is_once() => "retry_0",
                _ => "grace",
            };
            Some(DrainWait { epic: at.epic.to_string(), task: epic.key(at.i), attempt: at.attempt, why: why.to_owned() })
        });
        Some(DrainView { until: until.to_rfc3339(), waits_for: waits_for.collect() })
    }

    /// What an incident is about.
    pub fn incident_attempt(&self, id: &IncidentId) -> Option<&AttemptRef> {
        self.incidents.get(id).map(|incident| &incident.attempt)
    }

    /// All incidents, open ones first.
    pub fn incident_list(&self) -> IncidentList {
        let mut incidents: Vec<IncidentView> = self
            .incidents
            .iter()
            .map(|(id, incident)| IncidentView {
                incident: id.to_string(),
                state: match (&incident.resolved, &incident.acked) {
                    (Some(_), _) => "resolved",
                    (None, Some(_)) => "acked",
                    (None, None) => "open",
                }
                .to_owned(),
                kind: incident.kind.as_str().to_owned(),
                epic: incident.attempt.epic.to_string(),
                task: self.epics[&incident.attempt.epic].key(incident.attempt.i),
                opened_at: incident.opened_at.to_rfc3339(),
                summary: incident.summary.clone(),
                acked_by: incident.acked.as_ref().map(|acked| acked.by.clone()),
                acked_at: incident.acked.as_ref().map(|acked| acked.at.to_rfc3339()),
                note: incident.acked.as_ref().map(|acked| acked.note.clone()).filter(|note| !note.is_empty()),
                resolution: incident
                    .resolved
                    .as_ref()
                    .and_then(|(resolution, _)| serde_json::to_value(resolution).ok()?.as_str().map(str::to_owned)),
                resolved_by: incident.resolved.as_ref().map(|(_, by)| by.clone()),
            })
            .collect();
        let place = |incident: &IncidentView| ["open", "acked", "resolved"].iter().position(|state| *state == incident.state);
        incidents.sort_by(|a, b| place(a).cmp(&place(b)).then(a.opened_at.cmp(&b.opened_at)));
        IncidentList { incidents }
    }

    fn epic_head(&self, epic: &Epic) -> EpicView {
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        for i in 0..epic.instances.len() as u32 {
            *counts.entry(self.task_state(epic, i).to_owned()).or_default() += 1;
        }
        EpicView {
            epic: epic.id.to_string(),
            name: epic.spec.name.to_string(),
            title: epic.spec.title.clone(),
            project: epic.spec.project.to_string(),
            priority: epic.spec.priority,
            state: epic_state(epic).to_owned(),
            undoing: epic.undo_wanted && !epic.is_ended(),
            parent: epic.parent.as_ref().map(parent_view),
            inputs: epic.spec.inputs.clone(),
            submitted_by: epic.submitted_by.clone(),
            submitted_at: epic.submitted_at.to_rfc3339(),
            ended_at: epic.ended_at.map(Timestamp::to_rfc3339),
            counts,
            tasks: None,
            next: None,
        }
    }

    /// How much of an open child has ended.
    fn child_percent(&self, state: &InstanceState) -> Option<u8> {
        let InstanceState::Nested(nested) = state else { return None };
        let child = self.epics.get(nested.child.as_ref()?)?;
        let ended = child.instances.iter().filter(|instance| instance.state.is_ended()).count();
        u8::try_from(ended * 100 / child.instances.len().max(1)).ok()
    }

    fn task_state(&self, epic: &Epic, i: u32) -> &'static str {
        match &epic.instances[i as usize].state {
            InstanceState::Blocked => "blocked",
            InstanceState::Ready { .. } => match self.reason_of(&epic.id, i) {
                Some(WaitReason::Paused | WaitReason::Lock | WaitReason::NoAgent) => "waiting",
                Some(WaitReason::Capacity) | None => "ready",
            },
            InstanceState::Open(attempt) if attempt.phase == AttemptPhase::Started => "running",
            InstanceState::Open(_) => "assigned",
            InstanceState::Waiting { .. } | InstanceState::Nested(_) => "waiting",
            InstanceState::Backoff { .. } => "retrying",
            InstanceState::Unknown { .. } => "unknown",
            InstanceState::Ended(InstanceEnd::Succeeded) => "succeeded",
            InstanceState::Ended(InstanceEnd::Failed) => "failed",
            InstanceState::Ended(InstanceEnd::Cancelled | InstanceEnd::CutOff) => "cancelled",
            InstanceState::Ended(InstanceEnd::Skipped) => "skipped",
            InstanceState::Ended(InstanceEnd::Undone) => "undone",
        }
    }

    fn task_view(&self, epic: &Epic, i: u32) -> TaskView {
        let instance = &epic.instances[i as usize];
        let task = &epic.spec.tasks[epic.task_of(i) as usize];
        let open = epic.open(i);
        let record = instance.record.as_deref();
        let reason = match &instance.state {
            InstanceState::Blocked => Some(if epic.tasks[epic.task_of(i) as usize].released { "capacity" } else { "needs" }),
            InstanceState::Ready { .. } => self.reason_of(&epic.id, i).map(WaitReason::as_str),
            InstanceState::Waiting { .. } => Some("event"),
            InstanceState::Nested(_) => Some("epic"),
            InstanceState::Backoff { .. } => Some("backoff"),
            InstanceState::Unknown { .. } => Some("person"),
            InstanceState::Open(_) | InstanceState::Ended(_) => None,
        };
        let started_at = match &instance.state {
            InstanceState::Open(open) => open.started_at,
            InstanceState::Waiting { since, .. } => Some(*since),
            InstanceState::Nested(nested) => Some(nested.since),
            _ => record.and_then(|record| record.started_at),
        };
        let needs = epic.plan.tasks[epic.task_of(i) as usize].needs.iter();
        TaskView {
            epic: epic.id.to_string(),
            task: epic.key(i),
            kind: task.work.kind().to_owned(),
            state: self.task_state(epic, i).to_owned(),
            run: instance.run,
            attempt: instance.attempt,
            agent: open.map(|open| open.agent.to_string()).or(instance.last_agent.as_ref().map(|agent| agent.to_string())),
            node: open.map(|open| open.node.to_string()).or(record.and_then(|record| record.node.as_ref().map(|node| node.to_string()))),
            reason: reason.map(str::to_owned),
            needs: needs.map(|need| epic.spec.tasks[*need as usize].name.to_string()).collect(),
            outputs: record.map(|record| record.outputs.clone()).unwrap_or_default(),
            token: open.map(|open| open.token.0).or(record.and_then(|record| record.token).map(|token| token.0)),
            started_at: started_at.map(Timestamp::to_rfc3339),
            ended_at: if instance.state.is_ended() { record.and_then(|record| record.ended_at).map(Timestamp::to_rfc3339) } else { None },
            // Of the last attempt that ended; a running one has none yet.
            exit_code: record.filter(|_| open.is_none()).and_then(|record| record.exit_code),
            error: record.filter(|_| open.is_none()).and_then(|record| record.error.clone()),
            pid: open.and_then(|open| open.pid),
            percent: open.and_then(|open| open.percent).or_else(|| self.child_percent(&instance.state)),
            child: record.and_then(|record| record.child.as_ref().map(ToString::to_string)),
            phase: task.phase.map(|phase| epic.spec.phases[phase as usize].to_string()),
            priority: task.priority,
            pinned_to: instance.pin.as_ref().map(|pin| pin.agent.to_string()),
            undo: instance.undo,
        }
    }
}

fn parent_view(parent: &Parent) -> ParentView {
    ParentView { epic: parent.epic.to_string(), task: parent.task.clone(), run: parent.run }
}

/// What an agent is called that does nothing because it may not.
fn idle_word(duty: Duty) -> &'static str {
    match duty {
        Duty::Paused => "paused",
        Duty::Active | Duty::Draining { .. } => "drained",
    }
}

/// The public word for an epic's state.
pub fn epic_state(epic: &Epic) -> &'static str {
    match epic.status {
        EpicStatus::Running if epic.paused => "paused",
        EpicStatus::Running if epic.needs_person() => "waiting",
        EpicStatus::Running => "running",
        EpicStatus::Cancelling if epic.needs_person() => "waiting",
        EpicStatus::Cancelling => "cancelling",
        EpicStatus::Ended(end) => end_word(end),
    }
}

fn end_word(end: EpicEnd) -> &'static str {
    match end {
        EpicEnd::Succeeded => "succeeded",
        EpicEnd::Failed => "failed",
        EpicEnd::Cancelled => "cancelled",
    }
}

fn word(mode: Option<LockMode>) -> String {
    match mode {
        Some(LockMode::Write) => "write",
        Some(LockMode::Read) | None => "read",
    }
    .to_owned()
}
