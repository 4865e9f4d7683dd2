//! `on_change`: a new run follows a write, and nothing else opens one (S6); an ended task begins anew as a whole (S5).

use amphi_protocol::document::LockMode;
use amphi_protocol::ids::{EpicId, Resource};

use crate::checker::{Checker, VerifyError};
use crate::model::Stage;
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
        let writes = epic.plan.locks(&epic.spec, i).iter().any(|(held, mode)| held == resource && *mode == LockMode::Write);
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
}
