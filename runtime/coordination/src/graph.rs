//! How the end of one instance reaches the rest of the graph: tasks end, phases open, dependents become ready or are cut off.
//!
//! Work is proportional to the edges touched, never to the size of the epic, and a long chain is a loop, not a recursion.

use std::collections::BTreeSet;

use amphi_protocol::document::Work;
use amphi_protocol::event::EventType;
use amphi_protocol::ids::EpicId;
use amphi_protocol::journal::CancelCause;
use serde_json::Map;

use crate::epic::{EpicStatus, InstanceEnd, InstanceState, TaskEnd};
use crate::locks::{Changes, Party};
use crate::sink::{EventSink, data};
use crate::state::{State, Timer, TimerKind};
use crate::undo::UndoEnd;

/// What is left to look at in one epic.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// All needs of the task have ended, or can no longer be satisfied.
    Check(u32),
    /// The last instance of the task has ended.
    Finish(u32),
}

impl State {
    /// Looks at every task once: at the start of an epic and after it was reopened.
    pub(crate) fn check_all(&mut self, id: &EpicId, sink: &mut EventSink) {
        let count = self.epics[id].tasks.len() as u32;
        for task in 0..count {
            self.run(id, vec![Step::Check(task)], sink);
        }
    }

    /// An instance is over. Its locks and its agent have been given back already.
    pub(crate) fn end_instance(&mut self, id: &EpicId, i: u32, end: InstanceEnd, sink: &mut EventSink) {
        if self.epics[id].instances[i as usize].undo {
            let end = match end {
                InstanceEnd::Succeeded | InstanceEnd::Undone => UndoEnd::Undone,
                InstanceEnd::Failed => UndoEnd::Failed,
                InstanceEnd::Cancelled | InstanceEnd::CutOff | InstanceEnd::Skipped => UndoEnd::Cancelled,
            };
            return self.end_undo(id, i, end, sink);
        }
        let mut steps = Vec::new();
        self.close(id, i, end, sink, &mut steps);
        self.run(id, steps, sink);
    }

    /// Its condition is false: all of the task's instances are skipped.
    pub(crate) fn skip_task(&mut self, id: &EpicId, task: u32, sink: &mut EventSink) {
        let mut steps = Vec::new();
        self.close_pending(id, task, InstanceEnd::Skipped, sink, &mut steps);
        self.run(id, steps, sink);
    }

    /// Nobody can say whether it runs: all of the task's instances fail.
    pub(crate) fn fail_task(&mut self, id: &EpicId, task: u32, error: &str, sink: &mut EventSink) {
        let planned = &self.epics[id].plan.tasks[task as usize];
        for i in planned.first..planned.first + planned.count {
            let instance = &mut self.epic_mut(id).instances[i as usize];
            if matches!(instance.state, InstanceState::Blocked) {
                instance.record.get_or_insert_default().error = Some(error.to_owned());
                self.instance_event(sink, EventType::TaskFailed, (id, i), data! { "cause": "condition", "error": error });
            }
        }
        let mut steps = Vec::new();
        self.close_pending(id, task, InstanceEnd::Failed, sink, &mut steps);
        self.run(id, steps, sink);
    }

    /// Looks at one task that begins anew.
    pub(crate) fn check_one(&mut self, id: &EpicId, task: u32, sink: &mut EventSink) {
        self.run(id, vec![Step::Check(task)], sink);
    }

    /// Lets the instances of a task start, as many as `max_parallel` allows.
    pub(crate) fn release_task(&mut self, id: &EpicId, task: u32, sink: &mut EventSink) {
        let epic = self.epics.get_mut(id).expect("the epic of a decision exists");
        epic.tasks[task as usize].released = true;
        self.let_go(id, task, sink);
    }

    /// Cuts off everything of an epic that has not started: all of it, or all without a condition.
    pub(crate) fn cut_off(&mut self, id: &EpicId, all: bool, sink: &mut EventSink) {
        let count = self.epics[id].tasks.len() as u32;
        let mut steps = Vec::new();
        for task in 0..count {
            let epic = &self.epics[id];
            self.visited += 1;
            let conditional = epic.spec.tasks[task as usize].condition.outlives_failure();
            if (all || !conditional) && epic.tasks[task as usize].end.is_none() {
                let end = if all { InstanceEnd::Cancelled } else { InstanceEnd::CutOff };
                self.close_pending(id, task, end, sink, &mut steps);
            }
        }
        self.run(id, steps, sink);
    }

    fn run(&mut self, id: &EpicId, mut steps: Vec<Step>, sink: &mut EventSink) {
        while let Some(step) = steps.pop() {
            self.visited += 1;
            match step {
                Step::Check(task) => self.check_task(id, task, sink, &mut steps),
                Step::Finish(task) => self.finish(id, task, &mut steps),
            }
        }
    }

    fn check_task(&mut self, id: &EpicId, task: u32, sink: &mut EventSink, steps: &mut Vec<Step>) {
        let epic = &self.epics[id];
        let progress = &epic.tasks[task as usize];
        if progress.end.is_some() || progress.released {
            return;
        }
        let condition = &epic.spec.tasks[task as usize].condition;
        let stops = epic.stopping || epic.status != EpicStatus::Running;
        if !condition.outlives_failure() && (progress.bad > 0 || stops) {
            self.close_pending(id, task, InstanceEnd::CutOff, sink, steps);
        } else if progress.waits == 0 {
            if condition.is_success() {
                self.release_task(id, task, sink);
            } else {
                self.due.conditions.push_back((id.clone(), task));
            }
        }
    }

    fn finish(&mut self, id: &EpicId, task: u32, steps: &mut Vec<Step>) {
        let epic = self.epics.get_mut(id).expect("the epic of a step exists");
        let progress = &mut epic.tasks[task as usize];
        let planned = &epic.plan.tasks[task as usize];
        let end = match progress {
            _ if progress.failed > 0 => TaskEnd::Failed,
            _ if progress.cancelled > 0 => TaskEnd::Cancelled,
            _ if progress.succeeded > 0 => TaskEnd::Succeeded,
            _ => TaskEnd::Skipped,
        };
        if epic.begins_anew(task, end) {
            self.due.again.push_back((id.clone(), task));
            return;
        }
        let progress = &mut epic.tasks[task as usize];
        progress.end = Some(end);
        progress.again = false;
        let optional = epic.spec.tasks[task as usize].optional;
        let bad = is_bad(end, optional);
        if end == TaskEnd::Failed && !optional && !epic.stopping && epic.status == EpicStatus::Running {
            let failed = (planned.first..planned.first + planned.count)
                .find(|&i| matches!(epic.instances[i as usize].state, InstanceState::Ended(InstanceEnd::Failed)))
                .expect("a failed task has a failed instance");
            self.due.stopping.push_back((id.clone(), failed));
        }
        for &dependent in &planned.dependents {
            self.visited += 1;
            let waiting = &mut epic.tasks[dependent as usize];
            waiting.waits -= 1;
            waiting.bad += u32::from(bad);
            if waiting.waits == 0 || bad {
                steps.push(Step::Check(dependent));
            }
        }
        if let Some(phase) = planned.phase {
            let phase = phase as usize;
            epic.phase_open[phase] -= 1;
            epic.phase_bad[phase] += u32::from(bad);
            if epic.phase_open[phase] == 0 {
                let broken = epic.phase_bad[phase] > 0;
                for &waiter in &epic.plan.phase_waiters[phase] {
                    self.visited += 1;
                    let waiting = &mut epic.tasks[waiter as usize];
                    waiting.waits -= 1;
                    waiting.bad += u32::from(broken);
                    steps.push(Step::Check(waiter));
                }
            }
        }
        epic.open_tasks -= 1;
        if epic.open_tasks == 0 {
            self.due.ended.push_back(id.clone());
        }
    }

    /// Ends the instances of a task that have not started or pause before a retry.
    fn close_pending(&mut self, id: &EpicId, task: u32, end: InstanceEnd, sink: &mut EventSink, steps: &mut Vec<Step>) {
        let planned = &self.epics[id].plan.tasks[task as usize];
        for i in planned.first..planned.first + planned.count {
            self.visited += 1;
            if self.epics[id].instances[i as usize].state.is_pending() {
                self.close(id, i, end, sink, steps);
            }
        }
    }

    /// Ends one instance and counts it.
    fn close(&mut self, id: &EpicId, i: u32, end: InstanceEnd, sink: &mut EventSink, steps: &mut Vec<Step>) {
        self.withdraw(id, i);
        self.forget_pin(id, i);
        let now = self.now;
        let epic = self.epics.get_mut(id).expect("the epic of an instance exists");
        let task = epic.task_of(i);
        let instance = &mut epic.instances[i as usize];
        let was_let_go = !matches!(instance.state, InstanceState::Blocked);
        if matches!(instance.state, InstanceState::Unknown { .. }) {
            epic.unknown -= 1;
        }
        instance.state = InstanceState::Ended(end);
        instance.record.get_or_insert_default().ended_at = Some(now);
        let progress = &mut epic.tasks[task as usize];
        progress.open -= 1;
        progress.running -= u32::from(was_let_go);
        match end {
            InstanceEnd::Succeeded | InstanceEnd::Undone => progress.succeeded += 1,
            InstanceEnd::Failed => progress.failed += 1,
            InstanceEnd::Cancelled | InstanceEnd::CutOff => progress.cancelled += 1,
            InstanceEnd::Skipped => {}
        }
        let open = progress.open;
        let released = progress.released;
        if end == InstanceEnd::Succeeded && epic.has_undo(i) {
            epic.undo_order.push(i);
        }
        let fail_fast = end == InstanceEnd::Failed && open > 0 && epic.spec.tasks[task as usize].fail_fast;
        self.due.touched.insert(id.clone());
        match end {
            InstanceEnd::Cancelled => self.instance_event(sink, EventType::TaskCancelled, (id, i), data! { "cause": "request" }),
            InstanceEnd::CutOff => self.instance_event(sink, EventType::TaskCancelled, (id, i), data! { "cause": "needs" }),
            InstanceEnd::Skipped => self.instance_event(sink, EventType::TaskSkipped, (id, i), Map::new()),
            // Told by whoever ended it, with the outcome.
            InstanceEnd::Succeeded | InstanceEnd::Failed | InstanceEnd::Undone => {}
        }
        if fail_fast {
            self.due.fail_fast.push_back((id.clone(), task));
        }
        if open == 0 {
            steps.push(Step::Finish(task));
        } else if released {
            self.let_go(id, task, sink);
        }
    }

    /// Makes blocked instances of a released task ready, as many as `max_parallel` allows.
    fn let_go(&mut self, id: &EpicId, task: u32, sink: &mut EventSink) {
        loop {
            self.visited += 1;
            let epic = self.epics.get_mut(id).expect("the epic of a task exists");
            let stops =
                epic.status != EpicStatus::Running || (epic.stopping && !epic.spec.tasks[task as usize].condition.outlives_failure());
            let limit = epic.spec.tasks[task as usize].max_parallel.unwrap_or(u32::MAX);
            let planned = &epic.plan.tasks[task as usize];
            let progress = &mut epic.tasks[task as usize];
            if stops || progress.running >= limit || progress.cursor >= planned.first + planned.count {
                return;
            }
            let i = progress.cursor;
            progress.cursor += 1;
            if matches!(epic.instances[i as usize].state, InstanceState::Blocked) {
                progress.running += 1;
                self.make_ready(id, i, sink);
            }
        }
    }

    /// An instance joins the queues: at the tail of each of its locks, or directly among those that wait for an agent.
    pub(crate) fn make_ready(&mut self, id: &EpicId, i: u32, sink: &mut EventSink) {
        let spec = self.epics[id].spec.clone();
        match &spec.tasks[self.epics[id].task_of(i) as usize].work {
            Work::Wait(wait) => return self.hold(id, i, wait, sink),
            Work::Epic(_) => return self.nest(id, i),
            Work::Run(_) | Work::Tool { .. } => {}
        }
        self.order += 1;
        let (order, since) = (self.order, self.now);
        let epic = self.epics.get_mut(id).expect("the epic of an instance exists");
        epic.instances[i as usize].state = InstanceState::Ready { order, since };
        epic.pending += 1;
        let locks = epic.locks(i);
        let (rank, turn, paused) = (epic.rank(i, order), epic.turn, epic.paused);
        let demand = epic.demand(i);
        self.instance_event(sink, EventType::TaskReady, (id, i), Map::new());
        let class = self.queue.class(demand, &self.fleet);
        if locks.is_empty() {
            if !paused {
                self.queue.classes[class].runnable.insert(rank, turn, id, i);
            }
        } else {
            let parked = paused || !self.queue.classes[class].servable;
            self.queue.classes[class].locking.insert(order);
            self.locks.join(order, Party::Task { epic: id.clone(), i }, since, locks, parked);
            if self.locks.is_grantable(order, &mut self.visited) {
                self.queue.classes[class].runnable.insert(rank, turn, id, i);
            }
        }
        self.due.fresh.push((id.clone(), i));
    }

    /// Takes a ready or pausing instance out of all queues; its state is set by the caller.
    pub(crate) fn withdraw(&mut self, id: &EpicId, i: u32) {
        let epic = self.epics.get_mut(id).expect("the epic of an instance exists");
        match epic.instances[i as usize].state {
            InstanceState::Ready { order, .. } => {
                epic.pending -= 1;
                let class = self.queue.find(&epic.demand(i)).expect("a ready instance has a class");
                self.queue.classes[class].runnable.remove(epic.rank(i, order), epic.turn, id);
                if self.queue.classes[class].locking.remove(&order) {
                    let changes = self.locks.leave(order);
                    self.follow(changes);
                }
            }
            InstanceState::Backoff { until } => {
                epic.pending -= 1;
                self.timers.remove(&Timer { at: until, epic: id.clone(), i, kind: TimerKind::Backoff });
            }
            InstanceState::Waiting { .. } => self.let_off(id, i),
            InstanceState::Nested(_) => self.unlink(id, i),
            InstanceState::Blocked | InstanceState::Open(_) | InstanceState::Unknown { .. } | InstanceState::Ended(_) => {}
        }
    }

    /// Keeps the queue in step with the lock table.
    pub(crate) fn follow(&mut self, changes: Changes) {
        self.visited += changes.visited;
        for (orders, enters) in [(changes.blocked, false), (changes.grantable, true)] {
            for order in orders {
                self.visited += 1;
                let (id, i) = match self.locks.owner(order) {
                    Some(Party::Task { epic, i }) => (epic.clone(), *i),
                    Some(Party::Outside { .. }) => {
                        // Granted with this input, if nothing of it comes between.
                        self.due.outside.extend(enters.then_some(order));
                        continue;
                    }
                    None => continue,
                };
                let epic = &self.epics[&id];
                let class = self.queue.find(&epic.demand(i)).expect("a waiting request has a class");
                if enters {
                    self.queue.classes[class].runnable.insert(epic.rank(i, order), epic.turn, &id, i);
                } else {
                    self.queue.classes[class].runnable.remove(epic.rank(i, order), epic.turn, &id);
                }
            }
        }
    }

    /// Parks the requests of classes that nobody can serve any more, and puts back those that somebody can.
    pub(crate) fn update_servable(&mut self) {
        self.due.fleet |= !self.pins.is_empty();
        for class in self.queue.update_servable(&self.fleet) {
            let servable = self.queue.classes[class].servable;
            for order in self.queue.classes[class].locking.clone() {
                self.visited += 1;
                let paused = self.locks.owner(order).and_then(Party::task).is_some_and(|(id, _)| self.epics[id].paused);
                let changes = if servable && !paused { self.locks.unpark(order) } else { self.locks.park(order) };
                self.follow(changes);
                if !servable && let Some((id, i)) = self.locks.owner(order).and_then(Party::task) {
                    let epic = &self.epics[id];
                    self.queue.classes[class].runnable.remove(epic.rank(i, order), epic.turn, id);
                }
            }
        }
    }

    /// Gives ended instances a new run and counts the epic anew. Rare, so it may cost the size of the epic.
    pub(crate) fn reopen(&mut self, id: &EpicId, instances: &[u32], sink: &mut EventSink) {
        let epic = self.epics.get_mut(id).expect("the epic of a decision exists");
        epic.status = EpicStatus::Running;
        epic.stopping = false;
        epic.ended_at = None;
        epic.undo_wanted = false;
        let again: BTreeSet<u32> = instances.iter().copied().collect();
        epic.undo_order.retain(|i| !again.contains(i));
        for &i in instances {
            let instance = &mut epic.instances[i as usize];
            *instance = crate::epic::Instance { run: instance.run + 1, last_agent: None, ..crate::epic::Instance::default() };
        }
        epic.recount();
        let under_way: Vec<u32> = (0u32..).zip(&epic.tasks).filter(|(_, task)| task.released).map(|(task, _)| task).collect();
        for task in under_way {
            self.let_go(id, task, sink);
        }
        self.check_all(id, sink);
    }
}

/// True if a task that ended like this satisfies nobody.
pub(crate) fn is_bad(end: TaskEnd, optional: bool) -> bool {
    match end {
        TaskEnd::Succeeded | TaskEnd::Skipped => false,
        TaskEnd::Failed => !optional,
        TaskEnd::Cancelled => true,
    }
}

impl crate::epic::Epic {
    /// Derives all counters from the instances.
    fn recount(&mut self) {
        let plan = self.plan.clone();
        self.phase_open.fill(0);
        self.phase_bad.fill(0);
        self.open_tasks = 0;
        for (position, planned) in plan.tasks.iter().enumerate() {
            let progress = &mut self.tasks[position];
            let (had_started, again) = (progress.released, progress.again);
            *progress = crate::epic::TaskProgress { cursor: planned.first, ..Default::default() };
            let mut blocked = 0;
            for i in planned.first..planned.first + planned.count {
                match self.instances[i as usize].state {
                    InstanceState::Ended(InstanceEnd::Succeeded | InstanceEnd::Undone) => progress.succeeded += 1,
                    InstanceState::Ended(InstanceEnd::Failed) => progress.failed += 1,
                    InstanceState::Ended(InstanceEnd::Cancelled | InstanceEnd::CutOff) => progress.cancelled += 1,
                    InstanceState::Ended(InstanceEnd::Skipped) => {}
                    InstanceState::Blocked => {
                        progress.open += 1;
                        blocked += 1;
                    }
                    InstanceState::Ready { .. }
                    | InstanceState::Open(_)
                    | InstanceState::Backoff { .. }
                    | InstanceState::Waiting { .. }
                    | InstanceState::Nested(_)
                    | InstanceState::Unknown { .. } => {
                        progress.open += 1;
                        progress.running += 1;
                    }
                }
            }
            let instances = &self.instances[planned.first as usize..(planned.first + planned.count) as usize];
            progress.begun = instances.iter().filter(|instance| instance.attempt > 0 && !instance.undo).count() as u32;
            progress.again = again && progress.open > 0;
            // A task that already had instances under way goes on; one that begins anew is checked like at the start.
            progress.released = had_started && blocked < progress.open;
            if progress.open > 0 {
                self.open_tasks += 1;
                if let Some(phase) = planned.phase {
                    self.phase_open[phase as usize] += 1;
                }
            } else {
                let end = match progress {
                    _ if progress.failed > 0 => TaskEnd::Failed,
                    _ if progress.cancelled > 0 => TaskEnd::Cancelled,
                    _ if progress.succeeded > 0 => TaskEnd::Succeeded,
                    _ => TaskEnd::Skipped,
                };
                progress.end = Some(end);
                if let Some(phase) = planned.phase {
                    self.phase_bad[phase as usize] += u32::from(is_bad(end, self.spec.tasks[position].optional));
                }
            }
        }
        for (position, planned) in plan.tasks.iter().enumerate() {
            let ends = planned.needs.iter().map(|need| (self.tasks[*need as usize].end, self.spec.tasks[*need as usize].optional));
            let (mut waits, mut bad) = (0, 0);
            for (end, optional) in ends {
                match end {
                    None => waits += 1,
                    Some(end) => bad += u32::from(is_bad(end, optional)),
                }
            }
            if let Some(phase) = planned.waits_for_phase {
                if self.phase_open[phase as usize] > 0 {
                    waits += 1;
                } else {
                    bad += u32::from(self.phase_bad[phase as usize] > 0);
                }
            }
            self.tasks[position].waits = waits;
            self.tasks[position].bad = bad;
        }
    }
}

/// What an instance that is ready waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WaitReason {
    Paused,
    Lock,
    NoAgent,
    Capacity,
}

impl WaitReason {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Paused => "paused",
            Self::Lock => "lock",
            Self::NoAgent => "no_agent",
            Self::Capacity => "capacity",
        }
    }
}

impl State {
    /// Why a ready instance has no agent yet; `None` if it is not ready (any more).
    pub(crate) fn reason_of(&self, id: &EpicId, i: u32) -> Option<WaitReason> {
        let epic = self.epics.get(id)?;
        let InstanceState::Ready { order, .. } = epic.instances[i as usize].state else { return None };
        if epic.paused {
            return Some(WaitReason::Paused);
        }
        let class = &self.queue.classes[self.queue.find(&epic.demand(i))?];
        if !class.servable {
            return Some(WaitReason::NoAgent);
        }
        let runnable = class.runnable.contains(epic.rank(i, order), id);
        Some(if runnable { WaitReason::Capacity } else { WaitReason::Lock })
    }
}

/// The word for a cancel in events and errors.
pub(crate) fn cancel_word(cause: CancelCause) -> &'static str {
    match cause {
        CancelCause::Request => "request",
        CancelCause::Timeout => "timeout",
        CancelCause::Stuck => "stuck",
        CancelCause::Lease => "lease",
        CancelCause::FailFast => "fail_fast",
        CancelCause::Drain => "drain",
    }
}
