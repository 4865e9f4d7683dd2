//! One epic as its records tell it: which instance stands where, and what follows from that without a record of its own.
//!
//! Two things are derived, as in the core but by other means: an instance is ready when its needs are satisfied, and it is cancelled
//! when they no longer can be, or when the epic stops or is cancelled before it has started. Nothing else is ever derived.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use amphi_protocol::document::{Condition, EpicSpec, LockMode, Plan, TaskSpec, Work};
use amphi_protocol::ids::{AgentId, EpicId, Incarnation, NodeId, Token};
use amphi_protocol::journal::{CancelCause, EpicEnd};

use crate::children::Opener;
use crate::spec::{LockKey, lock_set};

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    Succeeded,
    Failed,
    Cancelled,
    Skipped,
    /// It had succeeded and was taken back; for those that needed it nothing changes.
    Undone,
}

/// Where an instance stands.
#[derive(Debug)]
pub(crate) enum Stage {
    /// Not started, or between two attempts.
    Idle,
    /// Between two attempts, before the pause is over.
    Backoff,
    /// An attempt is with an agent.
    Open(Box<Open>),
    /// The epic that it opened is open.
    Nested(Nested),
    /// A person has to say how it ended.
    Unknown,
    /// The run is over.
    Ended(How),
}

/// An epic that an instance opened.
#[derive(Debug)]
pub(crate) struct Nested {
    pub child: EpicId,
    pub cancelling: Option<CancelCause>,
}

/// An attempt that is with an agent.
#[derive(Debug)]
pub(crate) struct Open {
    pub run: u32,
    pub attempt: u32,
    pub agent: AgentId,
    pub node: NodeId,
    pub incarnation: Incarnation,
    pub token: Token,
    pub locks: Vec<(LockKey, LockMode)>,
    pub claimed: bool,
    pub started: bool,
    /// Counted as a try: it began, or was allowed to.
    pub began: bool,
    /// It is being taken from its agent because that is drained.
    pub draining: bool,
}

/// One instance.
#[derive(Debug)]
pub(crate) struct Instance {
    pub stage: Stage,
    /// The run does what takes the task back.
    pub undo: bool,
    pub run: u32,
    /// Number of the last attempt of the run.
    pub attempts: u32,
    /// How many attempts of the run began.
    pub began: u32,
    pub last_agent: Option<AgentId>,
    /// Since which record its locks are asked for.
    pub joined: Option<u64>,
    /// The last report of an end that was taken in, to know it again: run, attempt, digest.
    pub end_seen: Option<(u32, u32, u64)>,
    /// A person said that the run never began: it goes on, or a new run takes its place. Both can be read.
    pub voided: bool,
    /// An attempt that was lost without an end and has been reported as such.
    pub written_off: Option<(u32, u32)>,
    /// Its run was opened by a change, so it opens none itself.
    pub triggered: bool,
    /// Who has the next attempt of a run, on an operator's word.
    pub pin: Option<(u32, AgentId)>,
}

impl Instance {
    /// Who has the next attempt, if somebody said so of this run.
    pub fn pinned_to(&self) -> Option<&AgentId> {
        let unstarted = matches!(self.stage, Stage::Idle | Stage::Backoff);
        self.pin.as_ref().filter(|(run, _)| unstarted && *run == self.run).map(|(_, agent)| agent)
    }
}

/// One task: its instances together.
#[derive(Debug, Default, Clone)]
pub(crate) struct TaskModel {
    /// Needs that are not satisfied yet; the phase before counts as one.
    pub unsatisfied: u32,
    /// Needs that have not ended yet; the phase before counts as one.
    pub unended: u32,
    /// What was decided about its condition.
    pub runs: Option<bool>,
    /// It was given a new run, perhaps on the strength of an older decision.
    pub reopened: bool,
    /// Something changed while it was under way: it begins anew instead of ending.
    pub again: bool,
    /// It was ready once: a need that is given a new run later may, by some readings, not hold it back again.
    released: bool,
    ended: u32,
    /// Failed or cancelled instances.
    pub troubled: u32,
    /// It will satisfy nobody once it is done.
    broken: bool,
}

#[derive(Debug, Default, Clone)]
struct PhaseModel {
    unsatisfied: u32,
    unended: u32,
    troubled: bool,
}

/// What a step changed beside the instance that it was about.
#[derive(Debug, Default)]
pub(crate) struct Shift {
    /// Instances that are ready now.
    pub ready: Vec<u32>,
    /// Instances that were cancelled while they waited for locks since some record.
    pub withdrawn: Vec<(u32, u64)>,
}

/// One epic.
#[derive(Debug)]
pub(crate) struct EpicModel {
    pub id: EpicId,
    pub spec: Arc<EpicSpec>,
    pub plan: Plan,
    pub instances: Vec<Instance>,
    pub tasks: Vec<TaskModel>,
    phases: Vec<PhaseModel>,
    pub stopping: bool,
    pub cancelling: bool,
    pub paused: bool,
    pub ended: Option<EpicEnd>,
    /// The run that opened it, if one did.
    pub opener: Option<Opener>,
    /// For each task whether it can be taken back.
    undoable: Vec<bool>,
    /// What succeeded and is to be taken back before the epic ends, in the order in which it ended.
    pub completed: Vec<u32>,
    pub undo_wanted: bool,
    /// The one whose undo is under way.
    pub undoing: Option<u32>,
    /// Everything else was seen to have ended when the first undo began.
    pub all_over: bool,
    /// The interface leaves open how this epic goes on, so that nothing may be concluded from what does not happen.
    pub unsure: bool,
}

/// A task that is an epic can be taken back if something in it, however deep, can.
fn can_undo(task: &TaskSpec) -> bool {
    match &task.work {
        Work::Epic(epic) => epic.specs.iter().any(|spec| spec.tasks.iter().any(can_undo)),
        Work::Run(_) | Work::Tool { .. } | Work::Wait(_) => task.undo.is_some(),
    }
}

impl EpicModel {
    /// A fresh epic; its specification has been examined.
    pub fn new(id: EpicId, spec: Arc<EpicSpec>, plan: Plan) -> Self {
        let instance = |_| Instance {
            stage: Stage::Idle,
            undo: false,
            run: 1,
            attempts: 0,
            began: 0,
            last_agent: None,
            joined: None,
            end_seen: None,
            voided: false,
            written_off: None,
            triggered: false,
            pin: None,
        };
        let mut epic = Self {
            instances: plan.instances.iter().map(instance).collect(),
            tasks: vec![TaskModel::default(); plan.tasks.len()],
            undoable: spec.tasks.iter().map(can_undo).collect(),
            opener: None,
            phases: vec![PhaseModel::default(); plan.phase_sizes.len()],
            id,
            spec,
            plan,
            stopping: false,
            cancelling: false,
            paused: false,
            ended: None,
            completed: Vec::new(),
            undo_wanted: false,
            undoing: None,
            all_over: false,
            unsure: false,
        };
        epic.recount();
        epic
    }

    /// What the present run of an instance does: its task, or what takes that back.
    pub fn task_of(&self, i: u32) -> &TaskSpec {
        let task = &self.spec.tasks[self.position_of(i)];
        task.undo.as_deref().filter(|_| self.instances[i as usize].undo).unwrap_or(task)
    }

    /// The position of an instance's task.
    pub fn position_of(&self, i: u32) -> usize {
        self.plan.instances[i as usize].task as usize
    }

    /// True if the task can be taken back.
    pub fn can_undo(&self, task: usize) -> bool {
        self.undoable[task]
    }

    /// The instances of a task.
    pub fn instances_of(&self, task: usize) -> std::ops::Range<u32> {
        let planned = &self.plan.tasks[task];
        planned.first..planned.first + planned.count
    }

    /// What an instance locks.
    pub fn locks(&self, i: u32) -> Vec<(LockKey, LockMode)> {
        lock_set(&self.spec, &self.plan, i)
    }

    /// True if the task waits for anything.
    pub fn has_needs(&self, task: usize) -> bool {
        !self.plan.tasks[task].needs.is_empty() || self.plan.tasks[task].waits_for_phase.is_some()
    }

    /// True if nothing that it waits for stands in the way of a start.
    pub fn may_start(&self, task: usize) -> bool {
        let model = &self.tasks[task];
        match &self.spec.tasks[task].condition {
            Condition::Success => model.unsatisfied == 0 || model.released,
            Condition::Expression { .. } => model.runs == Some(true),
            Condition::Always | Condition::Failure => {
                let undecided = model.runs.is_none() && (model.reopened || !self.has_needs(task));
                model.runs == Some(true) || (undecided && model.unended == 0)
            }
        }
    }

    /// True if the task's instances stand in their lock queues once they are idle.
    pub fn is_ready(&self, task: usize) -> bool {
        match &self.spec.tasks[task].condition {
            Condition::Success => self.tasks[task].unsatisfied == 0,
            Condition::Always | Condition::Failure | Condition::Expression { .. } => self.tasks[task].runs == Some(true),
        }
    }

    /// True if something that the task waits for failed or was cancelled.
    pub fn has_trouble_before(&self, task: usize) -> bool {
        let planned = &self.plan.tasks[task];
        planned.needs.iter().any(|&need| self.tasks[need as usize].troubled > 0)
            || planned.waits_for_phase.is_some_and(|phase| self.phases[phase as usize].troubled)
    }

    /// The idle instances of a ready task; for a start or after a condition was decided.
    pub fn idle_of(&self, task: usize) -> Vec<u32> {
        self.instances_of(task).filter(|&i| matches!(self.instances[i as usize].stage, Stage::Idle)).collect()
    }

    /// Ready instances of a fresh epic.
    pub fn roots(&self) -> Vec<u32> {
        (0..self.tasks.len()).filter(|&task| self.is_ready(task)).flat_map(|task| self.idle_of(task)).collect()
    }

    /// Ends the run of an instance, and of all that can no longer be satisfied because of it.
    pub fn settle(&mut self, i: u32, how: How) -> Shift {
        let mut shift = Shift::default();
        self.settle_all(VecDeque::from([(i, how)]), &mut shift);
        shift
    }

    /// Ends as cancelled what has not started: all of it, or (when the epic stops) what has no condition.
    pub fn cancel_unstarted(&mut self, conditional_too: bool) -> Shift {
        let doomed = |&i: &u32| conditional_too || !self.task_of(i).condition.outlives_failure();
        let queue =
            (0..self.instances.len() as u32).filter(doomed).filter(|&i| self.is_unstarted(i)).map(|i| (i, How::Cancelled)).collect();
        let mut shift = Shift::default();
        self.settle_all(queue, &mut shift);
        shift
    }

    fn is_unstarted(&self, i: u32) -> bool {
        let instance = &self.instances[i as usize];
        matches!(instance.stage, Stage::Idle | Stage::Backoff) && !instance.undo
    }

    fn settle_all(&mut self, mut queue: VecDeque<(u32, How)>, shift: &mut Shift) {
        while let Some((i, how)) = queue.pop_front() {
            let instance = &mut self.instances[i as usize];
            if matches!(instance.stage, Stage::Ended(_)) {
                continue;
            }
            instance.stage = Stage::Ended(how);
            if let Some(since) = instance.joined.take() {
                shift.withdrawn.push((i, since));
            }
            let task = self.position_of(i);
            if how == How::Succeeded && self.undoable[task] {
                self.completed.push(i);
            }
            self.count_end(task, how);
            if self.is_done(task) {
                self.finish_task(task, shift, &mut queue);
            }
        }
    }

    /// A task is done when all its instances are.
    fn is_done(&self, task: usize) -> bool {
        self.tasks[task].ended == self.plan.tasks[task].count
    }

    fn count_end(&mut self, task: usize, how: How) {
        self.tasks[task].ended += 1;
        if matches!(how, How::Failed | How::Cancelled) {
            self.tasks[task].troubled += 1;
            self.tasks[task].broken |= !self.spec.tasks[task].optional;
            if let Some(phase) = self.plan.tasks[task].phase {
                self.phases[phase as usize].troubled = true;
            }
        }
        if how == How::Cancelled && self.spec.tasks[task].optional {
            // "Cancelled satisfies nothing" against "an optional failure satisfies": both can be read.
            self.unsure = true;
        }
    }

    /// Tells those that wait for a task, and for its phase, that it is done.
    fn finish_task(&mut self, task: usize, shift: &mut Shift, doomed: &mut VecDeque<(u32, How)>) {
        if self.begins_anew(task) {
            return;
        }
        self.tasks[task].again = false;
        let satisfies = !self.tasks[task].broken;
        for position in 0..self.plan.tasks[task].dependents.len() {
            self.relieve(self.plan.tasks[task].dependents[position], satisfies, shift, doomed);
        }
        let Some(phase) = self.plan.tasks[task].phase.map(|phase| phase as usize) else { return };
        self.phases[phase].unended = self.phases[phase].unended.saturating_sub(1);
        self.phases[phase].unsatisfied = self.phases[phase].unsatisfied.saturating_sub(u32::from(satisfies));
        if self.phases[phase].unended == 0 {
            let satisfies = self.phases[phase].unsatisfied == 0;
            for position in 0..self.plan.phase_waiters[phase].len() {
                self.relieve(self.plan.phase_waiters[phase][position], satisfies, shift, doomed);
            }
        }
    }

    /// One thing that a task waits for is done, and satisfies it or never will.
    fn relieve(&mut self, task: u32, satisfies: bool, shift: &mut Shift, doomed: &mut VecDeque<(u32, How)>) {
        let task = task as usize;
        // An epic that can be read in several ways may end a task more than once.
        self.tasks[task].unended = self.tasks[task].unended.saturating_sub(1);
        self.tasks[task].unsatisfied = self.tasks[task].unsatisfied.saturating_sub(u32::from(satisfies));
        let condition = &self.spec.tasks[task].condition;
        if condition.outlives_failure() {
            return;
        }
        if !satisfies {
            doomed.extend(self.instances_of(task).filter(|&i| self.is_unstarted(i)).map(|i| (i, How::Cancelled)));
        } else if self.tasks[task].unsatisfied == 0 && condition.is_success() {
            self.tasks[task].released = true;
            shift.ready.extend(self.idle_of(task));
        }
    }

    /// Gives ended instances a new run and returns which of them are ready at once.
    pub fn reopen(&mut self, instances: &[u32]) -> Vec<u32> {
        // A task with a failed instance may be given up at once, or when its last instance has ended; a retry in between tells.
        let given_up = |(i, instance): (u32, &Instance)| matches!(instance.stage, Stage::Ended(How::Cancelled)) && !instances.contains(&i);
        self.unsure |= self.ended.is_none() && (0u32..).zip(&self.instances).any(given_up);
        (self.ended, self.stopping, self.cancelling) = (None, false, false);
        (self.undo_wanted, self.undoing, self.all_over) = (false, None, false);
        let again: BTreeSet<u32> = instances.iter().copied().collect();
        self.completed.retain(|i| !again.contains(i));
        // A task with instances under way goes on as it was let go; one that had ended as a whole begins anew.
        let anew: Vec<usize> = (0..self.tasks.len()).filter(|&task| self.is_done(task)).collect();
        for task in anew {
            let model = &mut self.tasks[task];
            (model.reopened, model.released, model.runs) = (true, false, None);
        }
        for &i in instances {
            let instance = &mut self.instances[i as usize];
            (instance.stage, instance.undo) = (Stage::Idle, false);
            instance.run = instance.run.saturating_add(1);
            (instance.attempts, instance.began, instance.last_agent) = (0, 0, None);
            instance.triggered = false;
        }
        self.recount();
        let stuck = |&i: &u32| self.waits_in_vain(self.position_of(i));
        self.unsure |= instances.iter().any(stuck);
        instances.iter().copied().filter(|&i| self.is_ready(self.position_of(i))).collect()
    }

    /// True if a task whose instances have all ended begins anew after a change, and so does not count as ended.
    pub fn begins_anew(&self, task: usize) -> bool {
        let spec = &self.spec.tasks[task];
        let stops = self.cancelling || (self.stopping && !spec.condition.outlives_failure());
        let ended = |how| self.instances_of(task).any(|i| matches!(self.instances[i as usize].stage, Stage::Ended(found) if found == how));
        let well = if ended(How::Failed) { spec.optional } else { !ended(How::Cancelled) };
        self.tasks[task].again && !stops && well
    }

    /// Gives all instances of a task a new run because of a change, and returns which of them are ready at once.
    pub fn open_again(&mut self, task: usize) -> Vec<u32> {
        let model = &mut self.tasks[task];
        (model.reopened, model.released, model.runs, model.again) = (true, false, None, false);
        let again = self.instances_of(task);
        self.completed.retain(|i| !again.contains(i));
        for i in again {
            let instance = &mut self.instances[i as usize];
            instance.stage = Stage::Idle;
            instance.run = instance.run.saturating_add(1);
            instance.triggered = true;
            (instance.attempts, instance.began, instance.last_agent) = (0, 0, None);
        }
        self.recount();
        // What can no longer start ends with it, as it would have the first time.
        let stuck = self.waits_in_vain(task);
        self.unsure |= stuck;
        if self.is_ready(task) { self.idle_of(task) } else { Vec::new() }
    }

    /// True if all runs of the task are over.
    pub fn has_ended(&self, task: usize) -> bool {
        self.is_done(task)
    }

    fn waits_in_vain(&self, task: usize) -> bool {
        let planned = &self.plan.tasks[task];
        let phase_is_lost = |phase: u32| self.phases[phase as usize].unended == 0 && self.phases[phase as usize].unsatisfied > 0;
        planned.needs.iter().any(|&need| self.is_done(need as usize) && self.tasks[need as usize].broken)
            || planned.waits_for_phase.is_some_and(phase_is_lost)
    }

    /// Counts everything anew from the stages; only for a fresh or reopened epic.
    fn recount(&mut self) {
        for (model, size) in self.phases.iter_mut().zip(&self.plan.phase_sizes) {
            *model = PhaseModel { unsatisfied: *size, unended: *size, ..PhaseModel::default() };
        }
        for task in 0..self.tasks.len() {
            let planned = &self.plan.tasks[task];
            let waits = planned.needs.len() as u32 + u32::from(planned.waits_for_phase.is_some());
            let model = &mut self.tasks[task];
            (model.unsatisfied, model.unended, model.ended, model.troubled, model.broken) = (waits, waits, 0, 0, false);
        }
        let ended: Vec<(u32, How)> = (0u32..)
            .zip(&self.instances)
            .filter_map(|(i, instance)| match instance.stage {
                Stage::Ended(how) => Some((i, how)),
                Stage::Idle | Stage::Backoff | Stage::Open(_) | Stage::Nested(_) | Stage::Unknown => None,
            })
            .collect();
        for (i, how) in ended {
            let task = self.position_of(i);
            self.count_end(task, how);
        }
        // What follows stands in the stages already, or is decided anew.
        let (mut unused, mut undoomed) = (Shift::default(), VecDeque::new());
        for task in 0..self.tasks.len() {
            if self.is_done(task) {
                self.finish_task(task, &mut unused, &mut undoomed);
            }
        }
        for task in &mut self.tasks {
            task.released |= task.unsatisfied == 0;
        }
    }

    /// True if an instance stands where the epic could not have ended.
    pub fn has_unfinished(&self) -> bool {
        let unfinished = |i: u32| match self.instances[i as usize].stage {
            Stage::Ended(_) => false,
            Stage::Open(_) | Stage::Nested(_) => true,
            Stage::Unknown => !self.cancelling || self.instances[i as usize].undo,
            Stage::Idle | Stage::Backoff if self.instances[i as usize].undo => true,
            Stage::Idle | Stage::Backoff => {
                let excused = self.unsure || self.cancelling || (self.stopping && !self.task_of(i).condition.outlives_failure());
                !excused
            }
        };
        (0..self.instances.len() as u32).any(unfinished)
    }

    /// True if the runs of all instances are over.
    pub fn all_ended(&self) -> bool {
        self.instances.iter().all(|instance| matches!(instance.stage, Stage::Ended(_)))
    }

    /// True if a task that had to succeed failed.
    pub fn has_failure(&self) -> bool {
        let failed = |i: u32| matches!(self.instances[i as usize].stage, Stage::Ended(How::Failed)) && !self.task_of(i).optional;
        (0..self.instances.len() as u32).any(failed)
    }
}
