//! Undo: what succeeded is taken back, the last first, one after the other.
//!
//! It begins when everything else of the epic has ended, and the epic ends after it. Each undo is a run of its own of the instance that
//! it takes back; for the graph that instance stays what it was, so nothing that had ended moves. An undo that fails for good is told
//! to a person and does not keep the others from theirs.

use amphi_protocol::event::EventType;
use amphi_protocol::ids::EpicId;
use amphi_protocol::journal::IncidentKind;

use crate::epic::{Epic, Instance, InstanceEnd, InstanceRecord, InstanceState};
use crate::sink::{EventSink, data};
use crate::state::State;

/// How an undo ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UndoEnd {
    /// It did its work.
    Undone,
    /// It failed for good.
    Failed,
    /// Somebody cancelled it.
    Cancelled,
    /// A person said that it had failed, so nobody has to be told.
    SaidToHaveFailed,
    /// Something in its epic could not be taken back, and somebody was told of that.
    Told,
}

impl Epic {
    /// The instance that is undone next, if one is to be and none is.
    pub(crate) fn next_undo(&self) -> Option<u32> {
        if self.undo_wanted && self.undoing.is_none() { self.undo_order.last().copied() } else { None }
    }
}

impl State {
    pub(crate) fn undo_started(&mut self, id: &EpicId, i: u32, run: u32, sink: &mut EventSink) {
        let epic = self.epic_mut(id);
        if epic.undo_order.last() == Some(&i) {
            epic.undo_order.pop();
        } else {
            epic.undo_order.retain(|other| *other != i);
        }
        epic.undoing = Some(i);
        let instance = &mut epic.instances[i as usize];
        let begun = u32::from(instance.attempt > 0 && !instance.undo);
        assert!(instance.state.is_ended(), "S4: the undo of instance {i} of {id} begins while a run of it is open");
        // What the run gave stays readable, for this undo and for those after it.
        let InstanceRecord { outputs, artifacts, child, .. } = instance.record.take().map(|record| *record).unwrap_or_default();
        let record = Some(Box::new(InstanceRecord { outputs, artifacts, child, ..InstanceRecord::default() }));
        *instance = Instance { run, undo: true, record, ..Instance::default() };
        let task = epic.task_of(i);
        epic.tasks[task as usize].begun -= begun;
        self.make_ready(id, i, sink);
    }

    /// The run of an undo is over. Its locks and its agent have been given back already.
    pub(crate) fn end_undo(&mut self, id: &EpicId, i: u32, end: UndoEnd, sink: &mut EventSink) {
        self.withdraw(id, i);
        let now = self.now;
        if end == UndoEnd::Cancelled {
            self.instance_event(sink, EventType::TaskCancelled, (id, i), data! { "cause": "request" });
        }
        self.forget_pin(id, i);
        let epic = self.epic_mut(id);
        epic.undoing = None;
        epic.unknown -= u32::from(matches!(epic.instances[i as usize].state, InstanceState::Unknown { .. }));
        let instance = &mut epic.instances[i as usize];
        let record = instance.record.get_or_insert_default();
        record.ended_at = Some(now);
        let why = match (record.error.take(), record.exit_code) {
            (Some(error), _) => error,
            (None, Some(code)) => format!("exit {code}"),
            (None, None) => "it gave no reason".to_owned(),
        };
        record.error = match end {
            UndoEnd::Undone => None,
            UndoEnd::Failed | UndoEnd::Told => Some(format!("its undo failed: {why}")),
            UndoEnd::Cancelled => Some("its undo failed: it was cancelled".to_owned()),
            UndoEnd::SaidToHaveFailed => Some("its undo failed: a person said so".to_owned()),
        };
        // What could not be taken back is still there.
        instance.state = InstanceState::Ended(if end == UndoEnd::Undone { InstanceEnd::Undone } else { InstanceEnd::Succeeded });
        if matches!(end, UndoEnd::Failed | UndoEnd::Cancelled) {
            let attempt = epic.attempt_ref(i);
            self.due.incidents.push_back((attempt, IncidentKind::UndoFailed));
        }
        self.due.touched.insert(id.clone());
        self.due.ended.push_back(id.clone());
    }
}
