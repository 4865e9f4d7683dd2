//! Tasks that are epics themselves: a run opens one epic (S4, S13) when its needs are satisfied (S6), ends after it (S6), as it did (S5),
//! and neither is left without the other (L2).

use amphi_protocol::document::{Plan, RetryCause};
use amphi_protocol::ids::EpicId;
use amphi_protocol::journal::{CancelCause, ChildEnd, EpicEnd};

use crate::checker::{Checker, VerifyError};
use crate::cluster::InstanceKey;
use crate::model::{EpicModel, How, Nested, Stage};
use crate::spec::{flaw, is_acyclic};
use crate::verdict::Law;

/// The run of a task that opened an epic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Opener {
    pub key: InstanceKey,
    pub run: u32,
}

impl Checker {
    /// A run opens its epic: the one that its task holds, once, and nobody else's.
    pub(crate) fn start_child(&mut self, key: InstanceKey, run: u32, child: &EpicId) -> Result<(), VerifyError> {
        let epic = &self.epics[key.0];
        let (id, task, unsure) = (epic.id.clone(), epic.position_of(key.1), epic.unsure);
        let instance = &epic.instances[key.1 as usize];
        let free = matches!(instance.stage, Stage::Idle) && instance.run == run && !instance.undo;
        let may = epic.may_start(task) || unsure;
        let spec = epic.plan.child(&epic.spec, key.1).cloned();
        self.findings.check(Law::S6, &[&id, child], may && spec.is_some());
        let alone = self.findings.check(Law::S4, &[&id, child], free);
        let fresh = self.findings.check(Law::S13, &[&id, child], !self.positions.contains_key(child));
        let (Some(spec), true, true) = (spec, alone, fresh) else { return Ok(()) };
        if let Some(what) = flaw(&spec) {
            return Err(VerifyError::Specification { line: self.line, what });
        }
        let plan = Plan::expand(&spec);
        self.epics[key.0].instances[key.1 as usize].stage = Stage::Nested(Nested { child: child.clone(), cancelling: None });
        if !self.findings.check(Law::S18, &[child], is_acyclic(&plan)) {
            self.positions.insert(child.clone(), None);
            return Ok(());
        }
        let position = self.epics.len();
        self.positions.insert(child.clone(), Some(position));
        let mut model = EpicModel::new(child.clone(), spec, plan);
        model.opener = Some(Opener { key, run });
        model.paused = self.epics[key.0].paused;
        self.epics.push(model);
        let ready = self.epics[position].roots();
        self.join_queues(position, &ready);
        Ok(())
    }

    /// The epic of a run is to end because of the run.
    pub(crate) fn cancel_child(&mut self, key: InstanceKey, run: u32, cause: CancelCause) {
        let epic = &mut self.epics[key.0];
        let instance = &mut epic.instances[key.1 as usize];
        let right = instance.run == run && matches!(instance.stage, Stage::Nested(_));
        if let Stage::Nested(nested) = &mut instance.stage {
            nested.cancelling = Some(cause);
        }
        self.findings.check(Law::S5, &[&epic.id], right);
    }

    /// A task that opened an epic is undone: that epic is open again, to take back what it did.
    pub(crate) fn undo_child(&mut self, key: InstanceKey, run: u32, child: &EpicId) {
        let epic = &self.epics[key.0];
        let id = epic.id.clone();
        let instance = &epic.instances[key.1 as usize];
        let free = matches!(instance.stage, Stage::Idle) && instance.run == run && instance.undo;
        let known = self.positions.get(child).copied().flatten();
        let own = known.is_some_and(|position| {
            let child = &self.epics[position];
            child.opener.is_some_and(|opener| opener.key == key) && child.ended == Some(EpicEnd::Succeeded)
        });
        let right = self.findings.check(Law::S5, &[&id, child], free && own);
        let (Some(position), true) = (known, right) else { return };
        self.epics[key.0].instances[key.1 as usize].stage = Stage::Nested(Nested { child: child.clone(), cancelling: None });
        let model = &mut self.epics[position];
        (model.ended, model.cancelling, model.undo_wanted) = (None, true, true);
        model.opener = Some(Opener { key, run });
    }

    /// A run ends after its epic and as that did.
    pub(crate) fn end_child(&mut self, key: InstanceKey, run: u32, child: &EpicId, end: &ChildEnd) {
        let epic = &self.epics[key.0];
        let id = epic.id.clone();
        let instance = &epic.instances[key.1 as usize];
        let undo = instance.undo;
        let nested = match &instance.stage {
            Stage::Nested(nested) if instance.run == run && nested.child == *child => Some(nested),
            _ => None,
        };
        let cancelling = nested.and_then(|nested| nested.cancelling);
        let open = nested.is_some();
        if !self.findings.check(Law::S5, &[&id, child], open) {
            return;
        }
        let ended = self.positions.get(child).copied().flatten().and_then(|position| self.epics[position].ended);
        self.findings.check(Law::S6, &[&id, child], ended.is_some());
        let (fits, how) = match end {
            ChildEnd::Succeeded if undo => (true, How::Undone),
            ChildEnd::Succeeded => (ended == Some(EpicEnd::Succeeded) && cancelling.is_none(), How::Succeeded),
            ChildEnd::Failed { .. } if undo => (true, How::Succeeded),
            ChildEnd::Failed { cause: RetryCause::Timeout, .. } => (cancelling == Some(CancelCause::Timeout), How::Failed),
            ChildEnd::Failed { .. } => (ended == Some(EpicEnd::Failed), How::Failed),
            ChildEnd::Cancelled => (ended == Some(EpicEnd::Cancelled) || cancelling.is_some(), How::Cancelled),
        };
        self.findings.check(Law::S5, &[&id, child], fits || ended.is_none());
        self.epics[key.0].instances[key.1 as usize].stage = Stage::Idle;
        match undo {
            true => self.end_undo(key, how, false),
            false => self.settle(key, how),
        }
    }

    /// L2: with the commit in which an epic ended, the run that opened it has ended too.
    pub(crate) fn judge_heirs(&mut self) {
        for position in std::mem::take(&mut self.heirs) {
            let child = &self.epics[position];
            let Some(Opener { key, .. }) = child.opener.filter(|_| child.ended.is_some()) else { continue };
            let around = &self.epics[key.0];
            let waits = matches!(&around.instances[key.1 as usize].stage, Stage::Nested(nested) if nested.child == child.id);
            self.findings.check(Law::L2, &[&around.id, &child.id], !waits);
        }
    }

    /// S5: an epic that a run opened goes on only as long as that run does.
    pub(crate) fn judge_reopened(&mut self, position: usize) {
        let child = &self.epics[position];
        let Some(Opener { key, run }) = child.opener else { return };
        let around = &self.epics[key.0];
        let instance = &around.instances[key.1 as usize];
        let open = instance.run == run && matches!(&instance.stage, Stage::Nested(nested) if nested.child == child.id);
        self.findings.check(Law::S5, &[&around.id, &child.id], open);
    }
}
