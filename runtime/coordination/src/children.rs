//! Tasks that are epics themselves. The run of such a task opens an epic, waits for its end, and ends with it in the same commit.
//!
//! The epic that it opens (its child) is an epic like any other, with a turn of its own among the epics; what ties the two together is
//! the link that both hold. A cancel, a pause and a timeout go down this link, an end comes up. A child is never submitted, so it has no
//! idempotency key, and it stays in memory as long as the epic around it, which may have to undo it.

use amphi_protocol::document::RetryCause;
use amphi_protocol::event::EventType;
use amphi_protocol::ids::{EpicId, ID_LENGTH_MAX};
use amphi_protocol::journal::{CancelCause, ChildEnd, Decision, EpicEnd, Hasher};
use serde_json::{Map, Value};

use crate::decide::Deciding;
use crate::epic::{Epic, EpicStatus, InstanceEnd, InstanceState, Nested, Parent};
use crate::sink::{EventSink, data};
use crate::state::{State, Timer, TimerKind};
use crate::undo::UndoEnd;

/// Failed tasks of a child that are named.
const FAILED_SHOWN: usize = 5;
/// Digits of the hash in a child's id.
const HASH_DIGITS: usize = 12;

impl Deciding<'_> {
    /// An instance is ready to open its child, unless something has ended it since.
    pub(super) fn open_child(&mut self, epic: EpicId, i: u32) {
        let known = &self.state.epics[&epic];
        let instance = &known.instances[i as usize];
        if !matches!(&instance.state, InstanceState::Nested(nested) if nested.child.is_none()) {
            return;
        }
        let run = instance.run;
        if !instance.undo {
            let child = self.state.child_id(known, i);
            return self.put(Decision::ChildStarted { epic, i, run, child });
        }
        let child = instance.record.as_ref().and_then(|record| record.child.clone()).expect("a task that succeeded remembers its epic");
        self.put(Decision::ChildUndoing { epic, i, run, child });
    }

    /// A child has ended: the run that opened it ends with it.
    pub(super) fn child_ended(&mut self, child: EpicId) {
        let known = &self.state.epics[&child];
        let (Some(Parent { epic, i, run, .. }), EpicStatus::Ended(state)) = (known.parent.clone(), known.status) else { return };
        let instance = &self.state.epics[&epic].instances[i as usize];
        let InstanceState::Nested(nested) = &instance.state else { return };
        let failed = |cause, error| ChildEnd::Failed { cause, error };
        let end = match (instance.undo, nested.cancelling, state) {
            (true, _, _) => {
                match named(known, |instance| instance.undo && instance.state == InstanceState::Ended(InstanceEnd::Succeeded)) {
                    None => ChildEnd::Succeeded,
                    Some(left) => failed(RetryCause::Exit, format!("in epic {child} this could not be taken back: {left}")),
                }
            }
            (false, Some(CancelCause::Timeout), _) => {
                failed(RetryCause::Timeout, format!("epic {child} took longer than `timeout` and was cancelled"))
            }
            (false, Some(_), _) | (false, None, EpicEnd::Cancelled) => ChildEnd::Cancelled,
            (false, None, EpicEnd::Succeeded) => ChildEnd::Succeeded,
            (false, None, EpicEnd::Failed) => {
                let not_well = |instance: &crate::epic::Instance| {
                    matches!(instance.state, InstanceState::Ended(InstanceEnd::Failed | InstanceEnd::Cancelled))
                };
                let what = named(known, not_well).map(|tasks| format!(": {tasks}")).unwrap_or_default();
                failed(RetryCause::Exit, format!("epic {child} failed{what}"))
            }
        };
        self.put(Decision::ChildEnded { epic, i, run, child, end });
    }

    /// Ends the child of an instance, for a reason of the instance's own.
    pub(super) fn end_child(&mut self, epic: &EpicId, i: u32, cause: CancelCause, by: &str) {
        let known = &self.state.epics[epic];
        let InstanceState::Nested(nested) = &known.instances[i as usize].state else { return };
        let Some(child) = nested.child.clone() else { return };
        let run = known.instances[i as usize].run;
        self.put(Decision::ChildCancelling { epic: epic.clone(), i, run, cause });
        self.cancel_whole(&child, by, false);
    }

    /// The time that an instance had for its child is over.
    pub(super) fn child_is_late(&mut self, epic: &EpicId, i: u32) {
        let by = format!("{epic}/{}", self.state.epics[epic].key(i));
        self.end_child(epic, i, CancelCause::Timeout, &by);
    }
}

/// The instances of an epic that are meant, in words; nothing if there are none.
fn named(epic: &Epic, meant: impl Fn(&crate::epic::Instance) -> bool) -> Option<String> {
    let mut found = (0u32..).zip(&epic.instances).filter(|(_, instance)| meant(instance)).map(|(i, _)| i);
    let shown: Vec<String> = found.by_ref().take(FAILED_SHOWN).map(|i| epic.key(i)).collect();
    let more = found.count();
    match (shown.is_empty(), more) {
        (true, _) => None,
        (false, 0) => Some(shown.join(", ")),
        (false, more) => Some(format!("{} and {more} more", shown.join(", "))),
    }
}

impl Epic {
    /// The children that are open now, each with its instance.
    pub(crate) fn open_children(&self) -> Vec<(u32, EpicId)> {
        if self.nested == 0 {
            return Vec::new();
        }
        let children = (0u32..).zip(&self.instances).filter_map(|(i, instance)| match &instance.state {
            InstanceState::Nested(nested) => nested.child.clone().map(|child| (i, child)),
            InstanceState::Blocked
            | InstanceState::Ready { .. }
            | InstanceState::Open(_)
            | InstanceState::Backoff { .. }
            | InstanceState::Waiting { .. }
            | InstanceState::Unknown { .. }
            | InstanceState::Ended(_) => None,
        });
        children.collect()
    }
}

impl State {
    /// An id that nobody has: the name of what is opened, and a hash of who opens it.
    fn child_id(&self, parent: &Epic, i: u32) -> EpicId {
        let spec = parent.plan.child(&parent.spec, i).expect("only a task that is an epic opens one");
        let mut name = spec.name.to_string();
        name.truncate(ID_LENGTH_MAX - HASH_DIGITS - 1);
        for salt in 0u32.. {
            let mut hasher = Hasher::new();
            hasher.update(format!("{}/{i}/{}/{salt}", parent.id, parent.instances[i as usize].run).as_bytes());
            let id = EpicId::parse(&format!("{name}-{}", &hasher.finish()[..HASH_DIGITS])).expect("a name and hex digits are an epic id");
            if !self.epics.contains_key(&id) && !self.history.retired.contains_key(&id) {
                return id;
            }
        }
        unreachable!("there are fewer epics than numbers")
    }

    /// An instance of a task that is an epic becomes ready: its child is opened with this input.
    pub(crate) fn nest(&mut self, id: &EpicId, i: u32) {
        let nested = Nested { child: None, since: self.now, until: None, cancelling: None };
        let epic = self.epic_mut(id);
        epic.instances[i as usize].state = InstanceState::Nested(Box::new(nested));
        epic.nested += 1;
        self.due.children.push_back((id.clone(), i));
    }

    pub(crate) fn child_started(&mut self, id: &EpicId, i: u32, child: &EpicId, sink: &mut EventSink) {
        let (accepted_in, now, turn) = (self.epics[id].accepted_in, self.now, self.queue.next_turn());
        let epic = self.epic_mut(id);
        let planned = epic.plan.instances[i as usize];
        let spec = epic.plan.child(&epic.spec, i).expect("S6: only a task that is an epic opens one").clone();
        let hash = format!("{}/{}.{}", epic.spec_hash, planned.task, planned.combination);
        let mut opened = Epic::new(child.clone(), (spec, hash), epic.submitted_by.clone(), (accepted_in, now, turn));
        let instance = &mut epic.instances[i as usize];
        let run = instance.run;
        instance.attempt = 1;
        opened.parent = Some(Parent { epic: id.clone(), i, run, task: epic.key(i) });
        opened.paused = epic.paused;
        epic.tasks[planned.task as usize].begun += 1;
        let first = !std::mem::replace(&mut epic.started, true);
        let until = epic.spec.tasks[planned.task as usize].timeout_ms.map(|ms| now.after_ms(ms));
        let about = data! {
            "name": opened.spec.name.as_str(), "by": opened.submitted_by, "tasks": opened.spec.tasks.len(), "parent": id,
            "task": epic.key(i), "run": run
        };
        let paused = opened.paused;
        self.link(id, i, child, until);
        let known = self.epics.insert(child.clone(), opened);
        assert!(known.is_none(), "S13: {child} is opened by {id} and is there already");
        if first {
            self.epic_event(sink, EventType::EpicStarted, id, Map::new());
        }
        self.instance_event(sink, EventType::TaskWaiting, (id, i), data! { "reason": "epic", "epic": child });
        self.epic_event(sink, EventType::EpicSubmitted, child, about);
        if paused {
            self.epic_event(sink, EventType::EpicPaused, child, data! { "by": id });
        }
        self.check_all(child, sink);
    }

    fn link(&mut self, id: &EpicId, i: u32, child: &EpicId, until: Option<amphi_protocol::ids::Timestamp>) {
        let InstanceState::Nested(nested) = &mut self.epic_mut(id).instances[i as usize].state else {
            panic!("S4: instance {i} of {id} takes on {child} and is not ready for it");
        };
        assert!(nested.child.is_none(), "S4: instance {i} of {id} takes on {child} beside {:?}", nested.child);
        nested.child = Some(child.clone());
        nested.until = until;
        // One that is taken back in the input in which it ended may still count as waiting.
        let waits = self.epics.get(child).is_some_and(|child| child.waiting);
        self.epic_mut(id).nested_waiting += u32::from(waits);
        self.epic_mut(id).instances[i as usize].record.get_or_insert_default().child = Some(child.clone());
        if let Some(at) = until {
            self.timers.insert(Timer { at, epic: id.clone(), i, kind: TimerKind::Child });
        }
        self.due.touched.insert(id.clone());
    }

    pub(crate) fn child_cancelling(&mut self, id: &EpicId, i: u32, cause: CancelCause) {
        let InstanceState::Nested(nested) = &mut self.epic_mut(id).instances[i as usize].state else {
            panic!("S5: the epic of instance {i} of {id} is ended, which has none");
        };
        nested.cancelling = Some(cause);
        if let Some(at) = nested.until.take() {
            self.timers.remove(&Timer { at, epic: id.clone(), i, kind: TimerKind::Child });
        }
    }

    /// What the child did is taken back: it is open again, and ends when its undos have.
    pub(crate) fn child_undoing(&mut self, id: &EpicId, i: u32, child: &EpicId, sink: &mut EventSink) {
        let run = self.epics[id].instances[i as usize].run;
        self.link(id, i, child, None);
        let epic = self.epic_mut(child);
        assert!(epic.is_ended(), "S4: {child} is taken back and has not ended");
        if let Some(parent) = &mut epic.parent {
            parent.run = run;
        }
        epic.status = EpicStatus::Cancelling;
        epic.ended_at = None;
        epic.undo_wanted = true;
        let instance = &mut self.epic_mut(id).instances[i as usize];
        instance.attempt = 1;
        self.instance_event(sink, EventType::TaskWaiting, (id, i), data! { "reason": "epic", "epic": child });
        self.epic_event(sink, EventType::EpicResumed, child, data! { "undo": true });
        self.due.touched.insert(child.clone());
        self.due.ended.push_back(child.clone());
    }

    /// An instance has no child any more; its state is set by the caller, which reaches this through [`State::withdraw`].
    pub(crate) fn unlink(&mut self, id: &EpicId, i: u32) {
        let epic = self.epic_mut(id);
        let InstanceState::Nested(nested) = &epic.instances[i as usize].state else { return };
        let (child, since, until) = (nested.child.clone(), nested.since, nested.until);
        epic.nested -= 1;
        epic.instances[i as usize].record.get_or_insert_default().started_at = Some(since);
        if let Some(at) = until {
            self.timers.remove(&Timer { at, epic: id.clone(), i, kind: TimerKind::Child });
        }
        let waits = child.and_then(|child| self.epics.get(&child)).is_some_and(|child| child.waiting);
        self.epic_mut(id).nested_waiting -= u32::from(waits);
        self.due.touched.insert(id.clone());
    }

    pub(crate) fn child_over(&mut self, id: &EpicId, i: u32, child: &EpicId, end: &ChildEnd, sink: &mut EventSink) {
        let epic = self.epic_mut(id);
        let instance = &mut epic.instances[i as usize];
        if !matches!(&instance.state, InstanceState::Nested(nested) if nested.child.as_ref() == Some(child)) {
            panic!("S5: {child} ends instance {i} of {id}, which has not opened it");
        }
        let undo = instance.undo;
        let record = instance.record.get_or_insert_default();
        record.error = match end {
            ChildEnd::Failed { error, .. } => Some(error.clone()),
            ChildEnd::Succeeded | ChildEnd::Cancelled => None,
        };
        if !undo {
            record.outputs = [("epic".to_owned(), Value::from(child.as_str()))].into();
        }
        let outputs = record.outputs.clone();
        let who = (id, i);
        match end {
            ChildEnd::Succeeded if undo => self.instance_event(sink, EventType::TaskUndone, who, data! { "epic": child }),
            ChildEnd::Succeeded => self.instance_event(sink, EventType::TaskSucceeded, who, data! { "outputs": outputs }),
            ChildEnd::Failed { cause, error } => {
                let about = data! { "cause": cause.as_str(), "error": error, "epic": child };
                self.instance_event(sink, EventType::TaskFailed, who, about);
            }
            // Told when the instance is closed.
            ChildEnd::Cancelled => {}
        }
        match end {
            ChildEnd::Succeeded => self.end_instance(id, i, InstanceEnd::Succeeded, sink),
            // Its own undos that failed have been told to somebody.
            ChildEnd::Failed { .. } if undo => self.end_undo(id, i, UndoEnd::Told, sink),
            ChildEnd::Failed { .. } => self.end_instance(id, i, InstanceEnd::Failed, sink),
            ChildEnd::Cancelled => self.end_instance(id, i, InstanceEnd::Cancelled, sink),
        }
    }

    /// The open instance that an epic is the child of.
    pub(crate) fn opener(&self, id: &EpicId) -> Option<(EpicId, u32)> {
        let parent = self.epics.get(id)?.parent.as_ref()?;
        let instance = &self.epics.get(&parent.epic)?.instances[parent.i as usize];
        let open = matches!(&instance.state, InstanceState::Nested(nested) if nested.child.as_ref() == Some(id));
        (open && instance.run == parent.run).then(|| (parent.epic.clone(), parent.i))
    }
}
