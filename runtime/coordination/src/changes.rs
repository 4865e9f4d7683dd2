//! `on_change`: a successful write of a resource gives other tasks a new run, once per change.
//!
//! The decision says which tasks had ended (they begin anew with it) and which are under way (they begin anew when their present run
//! ends, and only then count as ended). A task that has not begun sees the change anyhow.

use amphi_protocol::document::LockMode;
use amphi_protocol::event::EventType;
use amphi_protocol::ids::{EpicId, Resource};
use amphi_protocol::journal::Decision;
use amphi_protocol::overlap;
use serde_json::json;

use crate::decide::Deciding;
use crate::epic::{Epic, EpicStatus, Instance, TaskEnd, TaskProgress};
use crate::graph::is_bad;
use crate::sink::{EventSink, data};
use crate::state::State;

impl Deciding<'_> {
    /// Decides what follows from the write locks of an instance that is about to succeed.
    pub(super) fn changes(&mut self, id: &EpicId, i: u32) {
        for resource in self.state.epics[id].changed_by(i) {
            let epic = &self.state.epics[id];
            let (mut opened, mut later) = (Vec::new(), Vec::new());
            for &task in &epic.spec.resources[&resource].on_change {
                match epic.after_change(task) {
                    AfterChange::Open => opened.push(task),
                    AfterChange::Later => later.push(task),
                    AfterChange::Nothing => {}
                }
            }
            let run = epic.instances[i as usize].run;
            self.put(Decision::ResourceChanged { epic: id.clone(), i, run, resource, opened, later });
        }
    }
}

/// What a change means to a task that wants to hear of it.
enum AfterChange {
    Open,
    Later,
    Nothing,
}

impl Epic {
    /// The declared resources that instance `i` writes, all or a part of, and that somebody wants to hear of.
    fn changed_by(&self, i: u32) -> Vec<Resource> {
        let instance = &self.instances[i as usize];
        let quiet = instance.triggered || instance.undo || self.spec_of(i).locks.write.is_empty();
        if quiet || self.spec.resources.values().all(|declared| declared.on_change.is_empty()) {
            return Vec::new();
        }
        let locks = self.plan.locks(&self.spec, i);
        let is_written = |declared: &Resource| {
            let mut written = locks.iter().filter(|(_, mode)| *mode == LockMode::Write);
            written.any(|(resource, _)| overlap::overlaps(declared.as_str(), resource.as_str()))
        };
        let heard = self.spec.resources.iter().filter(|(_, declared)| !declared.on_change.is_empty());
        heard.filter(|(resource, _)| is_written(resource)).map(|(resource, _)| resource.clone()).collect()
    }

    fn after_change(&self, task: u32) -> AfterChange {
        let progress = &self.tasks[task as usize];
        let stops = self.stopping && !self.spec.tasks[task as usize].condition.outlives_failure();
        if stops || self.status != EpicStatus::Running {
            return AfterChange::Nothing;
        }
        match progress.end {
            Some(TaskEnd::Succeeded | TaskEnd::Failed) => AfterChange::Open,
            // It was cancelled on purpose, or its condition was false: neither depends on a resource.
            Some(TaskEnd::Cancelled | TaskEnd::Skipped) => AfterChange::Nothing,
            None if progress.begun > 0 && !progress.again => AfterChange::Later,
            None => AfterChange::Nothing,
        }
    }

    /// True if the task, whose instances have all ended, begins anew instead of counting as ended.
    pub(crate) fn begins_anew(&self, task: u32, end: TaskEnd) -> bool {
        let spec = &self.spec.tasks[task as usize];
        let goes_on = self.status == EpicStatus::Running && (!self.stopping || spec.condition.outlives_failure());
        let well = match end {
            TaskEnd::Succeeded => true,
            TaskEnd::Failed => spec.optional,
            TaskEnd::Cancelled | TaskEnd::Skipped => false,
        };
        self.tasks[task as usize].again && goes_on && well
    }
}

impl State {
    pub(crate) fn resource_changed(
        &mut self,
        id: &EpicId,
        i: u32,
        (resource, opened, later): (&Resource, &[u32], &[u32]),
        sink: &mut EventSink,
    ) {
        let epic = self.epic_mut(id);
        let name = |task: &u32| epic.spec.tasks[*task as usize].name.to_string();
        let run = |task: &u32| epic.instances[epic.plan.tasks[*task as usize].first as usize].run + 1;
        let runs: Vec<_> = opened.iter().map(|task| json!({ "task": name(task), "run": run(task) })).collect();
        let about = data! { "resource": resource, "task": epic.key(i), "runs": runs, "later": later.iter().map(name).collect::<Vec<_>>() };
        for task in later {
            epic.tasks[*task as usize].again = true;
        }
        self.instance_event(sink, EventType::ResourceChanged, (id, i), about);
        for task in opened {
            self.open_again(id, *task, sink);
        }
    }

    /// Gives all instances of a task that has ended a new run. Those that need it and have not been let go wait for it again; the
    /// outputs of the former run stay readable until the new one has ended.
    pub(crate) fn open_again(&mut self, id: &EpicId, task: u32, sink: &mut EventSink) {
        let epic = self.epic_mut(id);
        let position = task as usize;
        let plan = epic.plan.clone();
        let planned = &plan.tasks[position];
        let mut visited = 0;
        if let Some(end) = epic.tasks[position].end {
            let bad = u32::from(is_bad(end, epic.spec.tasks[position].optional));
            epic.open_tasks += 1;
            for &dependent in &planned.dependents {
                visited += 1;
                let waiting = &mut epic.tasks[dependent as usize];
                waiting.waits += 1;
                waiting.bad -= bad;
            }
            if let Some(phase) = planned.phase.map(|phase| phase as usize) {
                if epic.phase_open[phase] == 0 {
                    let broken = u32::from(epic.phase_bad[phase] > 0);
                    for &waiter in &plan.phase_waiters[phase] {
                        visited += 1;
                        let waiting = &mut epic.tasks[waiter as usize];
                        waiting.waits += 1;
                        waiting.bad -= broken;
                    }
                }
                epic.phase_open[phase] += 1;
                epic.phase_bad[phase] -= bad;
            }
        }
        let progress = &mut epic.tasks[position];
        let (waits, bad) = (progress.waits, progress.bad);
        *progress = TaskProgress { waits, bad, open: planned.count, cursor: planned.first, ..TaskProgress::default() };
        // What is done again is taken back once, as it was done last.
        epic.undo_order.retain(|i| !(planned.first..planned.first + planned.count).contains(i));
        for i in planned.first..planned.first + planned.count {
            let instance = &mut epic.instances[i as usize];
            let record = instance.record.take();
            *instance = Instance { run: instance.run + 1, triggered: true, record, ..Instance::default() };
        }
        self.visited += visited;
        self.check_one(id, task, sink);
    }
}
