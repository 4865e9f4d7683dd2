//! Questions for persons: how they are opened, and what their answers change.

use amphi_protocol::event::EventType;
use amphi_protocol::ids::{AttemptRef, IncidentId};
use amphi_protocol::journal::{IncidentKind, Resolution};

use crate::epic::{Instance, InstanceEnd, InstanceState};
use crate::sink::{EventSink, data};
use crate::state::{Acked, Incident, State};
use crate::undo::UndoEnd;

impl State {
    pub(crate) fn incident_opened(
        &mut self,
        incident: &IncidentId,
        at: &AttemptRef,
        (summary, kind): (&str, IncidentKind),
        sink: &mut EventSink,
    ) {
        let opened = Incident { attempt: at.clone(), summary: summary.to_owned(), opened_at: self.now, kind, resolved: None, acked: None };
        self.incidents.insert(incident.clone(), opened);
        self.incidents_opened += 1;
        if kind == IncidentKind::UnknownOutcome {
            let epic = self.epic_mut(&at.epic);
            epic.instances[at.i as usize].state = InstanceState::Unknown { incident: incident.clone() };
            epic.unknown += 1;
            self.due.touched.insert(at.epic.clone());
        }
        let about = data! { "incident": incident, "kind": kind.as_str(), "summary": summary };
        self.instance_event(sink, EventType::IncidentOpened, (&at.epic, at.i), about);
    }

    pub(crate) fn incident_acked(&mut self, incident: &IncidentId, note: &str, by: &str, sink: &mut EventSink) {
        let now = self.now;
        let entry = self.incidents.get_mut(incident).expect("a decision names an open incident");
        entry.acked = Some(Acked { by: by.to_owned(), at: now, note: note.to_owned() });
        let at = entry.attempt.clone();
        let about = data! { "incident": incident, "note": note, "by": by };
        self.instance_event(sink, EventType::IncidentAcked, (&at.epic, at.i), about);
    }

    pub(crate) fn incident_resolved(&mut self, incident: &IncidentId, resolution: Resolution, by: &str, sink: &mut EventSink) {
        let entry = self.incidents.get_mut(incident).expect("a decision names an open incident");
        entry.resolved = Some((resolution, by.to_owned()));
        let (at, kind) = (entry.attempt.clone(), entry.kind);
        let who = (&at.epic, at.i);
        self.instance_event(sink, EventType::IncidentResolved, who, data! { "incident": incident, "resolution": resolution, "by": by });
        match kind {
            IncidentKind::UnknownOutcome => self.outcome_said(&at, resolution, by, sink),
            // The run is over and stays so; the question is answered.
            IncidentKind::UndoFailed => {}
        }
    }

    fn outcome_said(&mut self, at: &AttemptRef, resolution: Resolution, by: &str, sink: &mut EventSink) {
        let who = (&at.epic, at.i);
        let undo = self.epics[&at.epic].instances[at.i as usize].undo;
        self.effects_resolved(who, resolution, by, sink);
        match resolution {
            Resolution::Succeeded if undo => {
                self.instance_event(sink, EventType::TaskUndone, who, data! { "resolved_by": by });
                self.end_undo(&at.epic, at.i, UndoEnd::Undone, sink);
            }
            Resolution::Succeeded => {
                self.instance_event(sink, EventType::TaskSucceeded, who, data! { "resolved_by": by });
                self.end_instance(&at.epic, at.i, InstanceEnd::Succeeded, sink);
            }
            Resolution::Failed => {
                self.instance_event(sink, EventType::TaskFailed, who, data! { "cause": "agent_lost", "resolved_by": by });
                if undo {
                    self.end_undo(&at.epic, at.i, UndoEnd::SaidToHaveFailed, sink);
                } else {
                    self.end_instance(&at.epic, at.i, InstanceEnd::Failed, sink);
                }
            }
            Resolution::NotStarted => {
                let epic = self.epic_mut(&at.epic);
                epic.unknown -= 1;
                // A person's word makes it a new run: the run whose start is on record stays as it is, started once.
                let instance = &mut epic.instances[at.i as usize];
                let record = instance.record.take().filter(|_| undo);
                let begun = u32::from(instance.attempt > 0 && !undo);
                *instance = Instance { run: instance.run + 1, undo, record, ..Instance::default() };
                let task = epic.task_of(at.i);
                epic.tasks[task as usize].begun -= begun;
                self.make_ready(&at.epic, at.i, sink);
            }
        }
        self.due.touched.insert(at.epic.clone());
    }
}
