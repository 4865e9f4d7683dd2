//! Undo: what may be taken back, when, and in which order (S5, S6, L2).
//!
//! An undo is a run of its own of an instance that succeeded. Nothing in the graph moves with it: those that needed the task had
//! ended before.

use crate::checker::Checker;
use crate::cluster::InstanceKey;
use crate::model::{EpicModel, How, Stage};
use crate::verdict::Law;

impl EpicModel {
    /// True if it could not have ended yet: something is still to be taken back.
    pub fn owes_undo(&self) -> bool {
        self.undoing.is_some() || (self.undo_wanted && !self.completed.is_empty() && !self.unsure)
    }
}

impl Checker {
    /// S5: only what succeeded is undone, once, in a new run. S6: when it is wanted, after everything has ended, the last first, alone.
    pub(crate) fn start_undo(&mut self, key: InstanceKey, run: u32) {
        let (position, i) = key;
        let epic = &mut self.epics[position];
        let id = epic.id.clone();
        let instance = &epic.instances[i as usize];
        let succeeded = matches!(instance.stage, Stage::Ended(How::Succeeded)) && !instance.undo;
        let has_one = epic.can_undo(epic.position_of(i));
        if !self.findings.check(Law::S5, &[&id], succeeded && has_one && instance.run.checked_add(1) == Some(run)) {
            return;
        }
        // Costs the epic's size once: after it nothing but undos can begin.
        epic.all_over = epic.all_over || epic.all_ended();
        let in_turn = epic.undo_wanted && epic.undoing.is_none() && epic.all_over && epic.completed.last() == Some(&i);
        self.findings.check(Law::S6, &[&id], in_turn || epic.unsure);
        match epic.completed.last() == Some(&i) {
            true => _ = epic.completed.pop(),
            false => epic.completed.retain(|other| *other != i),
        }
        epic.undoing = Some(i);
        let instance = &mut epic.instances[i as usize];
        (instance.run, instance.attempts, instance.began, instance.last_agent) = (run, 0, 0, None);
        (instance.undo, instance.stage) = (true, Stage::Idle);
        self.join_queues(position, &[i]);
    }

    /// The run of an undo is over; `told`: somebody has to hear of it.
    pub(crate) fn end_undo(&mut self, key: InstanceKey, how: How, told: bool) {
        self.withdraw(key.0, &[key.1]);
        let epic = &mut self.epics[key.0];
        epic.undoing = epic.undoing.filter(|other| *other != key.1);
        epic.instances[key.1 as usize].stage = Stage::Ended(how);
        if told {
            self.untold.push(key);
        }
    }
}
