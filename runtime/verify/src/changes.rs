//! `on_change`: a new run follows a write, and nothing else opens one (S6); an ended task begins anew as a whole (S5). And `wait`: it
//! ends once (S5), when its needs are satisfied (S6), by a message only if one came in (S13).

use amphi_protocol::document::{LockMode, WaitFor, Work};
use amphi_protocol::ids::{EpicId, Resource};
use amphi_protocol::journal::WaitEnd;
use amphi_protocol::overlap;

use crate::checker::{Checker, VerifyError};
use crate::cluster::InstanceKey;
use crate::model::{How, Stage};
use crate::verdict::Law;

impl Checker {
    /// A change is made by a run that holds the resource for writing and was not opened by a change itself.
    pub(crate) fn change(
        &mut self,
        id: &EpicId,
        (i, run, resource): (u32, u32, &Resource),
        opened: &[u32],
        later: &[u32],
    ) -> Result<(), VerifyError> {
        let Some(position) = self.position(id) else { return Ok(()) };
        let epic = &self.epics[position];
        let exists = |task: &u32| (*task as usize) < epic.tasks.len();
        if i as usize >= epic.instances.len() || !opened.iter().chain(later).all(exists) {
            return Err(self.inconsistent("a change is about what does not exist"));
        }
        let instance = &epic.instances[i as usize];
        let under_way = matches!(instance.stage, Stage::Open(_) | Stage::Unknown) && instance.run == run;
        let touched = |held: &Resource| overlap::overlaps(held.as_str(), resource.as_str());
        let writes = epic.plan.locks(&epic.spec, i).iter().any(|(held, mode)| *mode == LockMode::Write && touched(held));
        let wanted = |task: &u32| epic.spec.resources.get(resource).is_some_and(|declared| declared.on_change.contains(task));
        let listed = opened.iter().chain(later).all(wanted);
        let right = (under_way && writes && !instance.triggered && listed) || epic.unsure;
        self.findings.check(Law::S6, &[id], right);
        for task in later {
            let epic = &mut self.epics[position];
            let ended = epic.has_ended(*task as usize);
            epic.tasks[*task as usize].again = !ended;
            let unsure = epic.unsure;
            self.findings.check(Law::S5, &[id], !ended || unsure);
        }
        for task in opened {
            self.open_again(position, *task as usize);
        }
        Ok(())
    }

    /// A task that was under way during a change begins anew when it has ended, and only then.
    pub(crate) fn begin_anew(&mut self, id: &EpicId, task: u32) -> Result<(), VerifyError> {
        let Some(position) = self.position(id) else { return Ok(()) };
        let epic = &self.epics[position];
        if task as usize >= epic.tasks.len() {
            return Err(self.inconsistent("a decision is about a task that does not exist"));
        }
        let right = epic.begins_anew(task as usize) || epic.unsure;
        self.findings.check(Law::S6, &[id], right);
        self.open_again(position, task as usize);
        Ok(())
    }

    fn open_again(&mut self, position: usize, task: usize) {
        let epic = &self.epics[position];
        let (id, ended, unsure) = (epic.id.clone(), epic.has_ended(task), epic.unsure);
        self.findings.check(Law::S5, &[&id], ended || unsure);
        let instances: Vec<u32> = epic.instances_of(task).collect();
        if !ended {
            // What stands open cannot be counted anew; the finding says so.
            return;
        }
        self.withdraw(position, &instances);
        let ready = self.epics[position].open_again(task);
        self.join_queues(position, &ready);
    }

    /// A wait is over. Only tasks that wait have one, and it began when their needs were satisfied.
    pub(crate) fn end_wait(&mut self, key: InstanceKey, run: u32, end: &WaitEnd, signalled: bool) {
        let epic = &self.epics[key.0];
        let (id, task, unsure) = (epic.id.clone(), epic.position_of(key.1), epic.unsure);
        let instance = &epic.instances[key.1 as usize];
        let open = matches!(instance.stage, Stage::Idle) && instance.run == run;
        if !self.findings.check(Law::S5, &[&id], open || unsure) {
            return;
        }
        let epic = &self.epics[key.0];
        let wait = match &epic.spec.tasks[task].work {
            Work::Wait(wait) => Some(wait),
            Work::Run(_) | Work::Tool { .. } | Work::Epic(_) => None,
        };
        let (fits, how) = match (end, wait) {
            (WaitEnd::Elapsed, Some(WaitFor::Duration { .. })) => (true, How::Succeeded),
            (WaitEnd::Signalled { .. }, Some(WaitFor::Event { .. })) => (signalled, How::Succeeded),
            (WaitEnd::TimedOut, Some(WaitFor::Event { .. })) => (true, How::Failed),
            (WaitEnd::Elapsed | WaitEnd::Signalled { .. }, _) => (false, How::Succeeded),
            (WaitEnd::TimedOut, _) => (false, How::Failed),
        };
        let may = epic.may_start(task) || unsure;
        self.findings.check(Law::S13, &[&id], fits);
        self.findings.check(Law::S6, &[&id], may);
        self.settle(key, how);
    }
}
