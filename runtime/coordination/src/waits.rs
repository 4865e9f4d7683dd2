//! Tasks that only wait: for a duration, or for the first message on a subject. The core holds them; no agent, no capacity, no locks.
//!
//! When a wait began and when it is over follow from the journalled time, so a restart of the Manager changes neither.

use amphi_protocol::document::{WaitFor, Work};
use amphi_protocol::event::EventType;
use amphi_protocol::ids::{EpicId, Timestamp};
use amphi_protocol::journal::{Decision, RECORD_BYTES_MAX, WaitEnd};
use amphi_protocol::subjects;
use serde_json::{Map, Value};

use crate::decide::{Deciding, Refusal};
use crate::epic::{InstanceEnd, InstanceState};
use crate::sink::{EventSink, data};
use crate::state::{State, Timer, TimerKind};

/// Waits that one input ends at most. Bounds the size of a commit; the Manager gives a message again while it ends any.
const SIGNALLED_MAX: usize = 500;
/// Bytes of outputs that one input becomes at most: each wait that it ends keeps a copy.
const SIGNALLED_BYTES_MAX: usize = RECORD_BYTES_MAX / 2;

impl Deciding<'_> {
    /// A message came in: everybody who waits for its subject goes on.
    pub(super) fn signal(&mut self, subject: &str, data: &Value, before: Option<Timestamp>) -> Result<(), Refusal> {
        let most = (SIGNALLED_BYTES_MAX / data.to_string().len().max(1)).clamp(1, SIGNALLED_MAX);
        let patterns = self.state.awaited.iter().filter(|(pattern, _)| subjects::matches(pattern, subject));
        let in_time = |(epic, i): &&(EpicId, u32)| {
            let InstanceState::Waiting { since, .. } = self.state.epics[epic].instances[*i as usize].state else { return false };
            before.is_none_or(|before| since < before)
        };
        let waiting: Vec<(EpicId, u32)> = patterns.flat_map(|(_, waiting)| waiting).filter(in_time).take(most).cloned().collect();
        if waiting.is_empty() {
            return Err(Refusal::Stale("nobody waits for this subject"));
        }
        for (epic, i) in waiting {
            // What went on before may have ended it.
            if !matches!(self.state.epics[&epic].instances[i as usize].state, InstanceState::Waiting { .. }) {
                continue;
            }
            let run = self.state.epics[&epic].instances[i as usize].run;
            let end = WaitEnd::Signalled { subject: subject.to_owned(), data: data.clone() };
            self.put(Decision::WaitEnded { epic, i, run, end });
        }
        Ok(())
    }

    /// The time of a wait is over.
    pub(super) fn wait_is_over(&mut self, epic: EpicId, i: u32) {
        let known = &self.state.epics[&epic];
        let run = known.instances[i as usize].run;
        let end = match known.spec_of(i).work {
            Work::Wait(WaitFor::Event { .. }) => WaitEnd::TimedOut,
            Work::Wait(WaitFor::Duration { .. }) | Work::Run(_) | Work::Tool { .. } | Work::Epic(_) => WaitEnd::Elapsed,
        };
        self.put(Decision::WaitEnded { epic, i, run, end });
    }
}

impl State {
    /// An instance of a task that only waits begins to.
    pub(crate) fn hold(&mut self, id: &EpicId, i: u32, wait: &WaitFor, sink: &mut EventSink) {
        let now = self.now;
        let epic = self.epic_mut(id);
        let until = match wait {
            WaitFor::Duration { ms } => Some(now.after_ms(*ms)),
            WaitFor::Event { .. } => epic.spec_of(i).timeout_ms.map(|ms| now.after_ms(ms)),
        };
        let subject = epic.plan.awaited(&epic.spec, i);
        let task = epic.task_of(i);
        let instance = &mut epic.instances[i as usize];
        instance.state = InstanceState::Waiting { since: now, until };
        instance.attempt = 1;
        epic.holding += 1;
        epic.tasks[task as usize].begun += 1;
        let first = !std::mem::replace(&mut epic.started, true);
        self.due.touched.insert(id.clone());
        if let Some(at) = until {
            self.timers.insert(Timer { at, epic: id.clone(), i, kind: TimerKind::Wait });
        }
        if let Some(subject) = &subject {
            self.awaited_revision += u64::from(!self.awaited.contains_key(subject));
            self.awaited.entry(subject.clone()).or_default().insert((id.clone(), i));
        }
        if first {
            self.epic_event(sink, EventType::EpicStarted, id, Map::new());
        }
        let about = data! { "reason": "event", "subject": subject, "until": until.map(Timestamp::to_rfc3339) };
        self.instance_event(sink, EventType::TaskWaiting, (id, i), about);
    }

    /// An instance that waits does so no longer; its state is set by the caller, which reaches this through [`State::withdraw`].
    pub(crate) fn let_off(&mut self, id: &EpicId, i: u32) {
        let epic = self.epic_mut(id);
        let InstanceState::Waiting { since, until } = epic.instances[i as usize].state else { return };
        epic.holding -= 1;
        let subject = epic.plan.awaited(&epic.spec, i);
        epic.instances[i as usize].record.get_or_insert_default().started_at = Some(since);
        self.due.touched.insert(id.clone());
        if let Some(at) = until {
            self.timers.remove(&Timer { at, epic: id.clone(), i, kind: TimerKind::Wait });
        }
        if let Some(subject) = subject
            && let Some(waiting) = self.awaited.get_mut(&subject)
        {
            waiting.remove(&(id.clone(), i));
            if waiting.is_empty() {
                self.awaited.remove(&subject);
                self.awaited_revision += 1;
            }
        }
    }

    pub(crate) fn wait_ended(&mut self, id: &EpicId, i: u32, end: &WaitEnd, sink: &mut EventSink) {
        if !matches!(self.epics[id].instances[i as usize].state, InstanceState::Waiting { .. }) {
            panic!("S5: a wait of {id} ends at instance {i}, which does not wait");
        }
        let record = self.epic_mut(id).instances[i as usize].record.get_or_insert_default();
        let end = match end {
            WaitEnd::Elapsed => {
                record.error = None;
                self.instance_event(sink, EventType::TaskSucceeded, (id, i), data! { "outputs": {} });
                InstanceEnd::Succeeded
            }
            WaitEnd::Signalled { subject, data: body } => {
                record.error = None;
                record.outputs = [("subject".to_owned(), Value::from(subject.clone())), ("data".to_owned(), body.clone())].into();
                let about = data! { "outputs": record.outputs };
                self.instance_event(sink, EventType::TaskSucceeded, (id, i), about);
                InstanceEnd::Succeeded
            }
            WaitEnd::TimedOut => {
                let error = "no message came within `timeout`";
                record.error = Some(error.to_owned());
                record.outputs.clear();
                self.instance_event(sink, EventType::TaskFailed, (id, i), data! { "cause": "timeout", "error": error });
                InstanceEnd::Failed
            }
        };
        self.end_instance(id, i, end, sink);
    }
}
