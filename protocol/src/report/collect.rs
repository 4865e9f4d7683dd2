//! Attempts and their times, put together from events.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;

use super::ReportError;
use crate::event::{Event, EventType};
use crate::ids::EpicId;

/// A place in the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Mark {
    pub seq: u64,
    pub ms: u64,
}

/// An attempt, or an end without one (skipped, cancelled before it began).
#[derive(Debug, Default)]
pub(super) struct Span {
    pub task: String,
    pub run: u32,
    pub attempt: u32,
    pub agent: Option<String>,
    pub node: Option<String>,
    pub ready: Option<Mark>,
    pub assigned: Option<Mark>,
    pub started: Option<u64>,
    pub ended: Option<Mark>,
    pub outcome: Option<EventType>,
    /// From when on nothing but coordination kept it from starting.
    pub runnable: u64,
    pub waited_for: &'static str,
    /// The span whose end it waited for; always an earlier one.
    pub before: Option<usize>,
    /// Nobody worked on it: the Manager held the task until a time, a message, or the end of another epic.
    pub held: bool,
}

impl Span {
    /// True if it took time of its own, as an attempt or as a wait; the others only hand on.
    pub fn took_time(&self) -> bool {
        self.assigned.is_some() || self.held
    }

    /// How long it ran, up to `now` if it still does.
    pub fn ran(&self, now: u64) -> u64 {
        self.started.map_or(0, |started| self.ended.map_or(now, |end| end.ms).saturating_sub(started))
    }

    /// From when to when it was runnable and not started.
    pub fn coordination_wait(&self, now: u64) -> Option<(u64, u64)> {
        self.assigned?;
        let to = self.started.or(self.ended.map(|end| end.ms)).unwrap_or(now);
        Some((self.runnable.min(to), to))
    }
}

/// A task that became ready and was not assigned yet.
#[derive(Debug)]
struct Ready {
    at: Mark,
    waited_for: &'static str,
    before: Option<usize>,
    reason: Option<String>,
    locks: Vec<(String, bool)>,
}

#[derive(Debug, Default)]
pub(super) struct Task {
    ready: Option<Ready>,
    /// Its last span.
    span: Option<usize>,
    /// How it ended; `None` while it has not.
    pub end: Option<&'static str>,
}

type Freed = (Mark, usize);

/// A task that a change of a resource gave a new run.
#[derive(Debug)]
struct Change {
    /// Who changed it.
    by: Option<usize>,
    /// The new run, known when its first instance is ready.
    run: Option<u32>,
}

/// What the events said.
#[derive(Debug, Default)]
pub(super) struct History {
    pub epic: Option<EpicId>,
    pub submitted: Option<u64>,
    /// Time of the last event that is about the epic's course.
    pub last: u64,
    pub state: &'static str,
    pub ended: bool,
    pub spans: Vec<Span>,
    pub tasks: BTreeMap<String, Task>,
    pub retry_causes: BTreeMap<String, u64>,
    pub escalations: u64,
    pub cost_usd: f64,
    last_seq: u64,
    /// The last end of a run.
    last_end: Option<Freed>,
    /// By resource: the last release by a writer and by a reader.
    released: HashMap<String, [Option<Freed>; 2]>,
    agents: HashMap<String, Freed>,
    nodes: HashMap<String, Freed>,
    /// By task, without its matrix values.
    changed: HashMap<String, Change>,
}

impl History {
    /// Instances that ended as `word`.
    pub fn count(&self, word: &str) -> u64 {
        self.tasks.values().filter(|task| task.end == Some(word)).count() as u64
    }

    /// Instances by how they ended.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        for task in self.tasks.values() {
            *counts.entry(task.end.unwrap_or("open").to_owned()).or_default() += 1;
        }
        counts
    }

    pub fn take(&mut self, event: &Event) -> Result<(), ReportError> {
        let seq = event.seq.0;
        let Some(epic) = &event.epic else { return Ok(()) };
        match &self.epic {
            Some(known) if known != epic => {
                return Err(ReportError::OtherEpic { seq, found: epic.to_string(), wanted: known.to_string() });
            }
            Some(_) => {}
            None if event.kind == EventType::EpicSubmitted => self.epic = Some(epic.clone()),
            None => return Err(ReportError::NoBeginning { seq }),
        }
        if seq <= self.last_seq {
            return Ok(());
        }
        self.last_seq = seq;
        let ms = event.ts.parse::<jiff::Timestamp>().ok().and_then(|time| u64::try_from(time.as_millisecond()).ok());
        let at = Mark { seq, ms: ms.ok_or_else(|| ReportError::Time { seq, ts: event.ts.clone() })? };
        // What is told about a task after the end of its epic does not make the epic longer, unless the task runs again.
        if !self.ended || event.task.is_none() || event.kind == EventType::TaskReady {
            self.last = self.last.max(at.ms);
        }
        self.cost_usd += event.data.get("cost_usd").and_then(Value::as_f64).unwrap_or(0.0);
        match &event.task {
            None => self.epic_event(event.kind, at),
            Some(task) => self.task_event(event, task, at)?,
        }
        Ok(())
    }

    fn epic_event(&mut self, kind: EventType, at: Mark) {
        self.ended = kind.ends_epic();
        match kind {
            EventType::EpicSubmitted => {
                self.submitted = Some(at.ms);
                self.state = "running";
            }
            EventType::EpicSucceeded => self.state = "succeeded",
            EventType::EpicFailed => self.state = "failed",
            EventType::EpicCancelled => self.state = "cancelled",
            EventType::EpicWaiting => self.state = "waiting",
            EventType::EpicPaused => self.state = "paused",
            _ => self.state = "running",
        }
    }

    fn task_event(&mut self, event: &Event, name: &str, at: Mark) -> Result<(), ReportError> {
        let broken = || ReportError::Broken { seq: at.seq, kind: event.kind.as_str() };
        match event.kind {
            EventType::TaskReady => self.became_ready(event, name, at),
            EventType::TaskWaiting => {
                let reason = event.data.get("reason").and_then(Value::as_str).map(str::to_owned);
                match &mut self.task(name).ready {
                    Some(ready) => ready.reason = reason,
                    None if matches!(reason.as_deref(), Some("event" | "epic")) => self.held(event, name, at),
                    None => {}
                }
            }
            EventType::LockGranted => {
                let (resource, writes) = lock_of(event).ok_or_else(broken)?;
                // Locks taken without a task in this epic are none of its coordination.
                if let Some(ready) = &mut self.task(name).ready {
                    ready.locks.push((resource, writes));
                }
            }
            EventType::LockReleased => {
                let (resource, writes) = lock_of(event).ok_or_else(broken)?;
                let span = self.task(name).span.ok_or_else(broken)?;
                self.released.entry(resource).or_default()[usize::from(!writes)] = Some((at, span));
            }
            EventType::TaskAssigned => self.assigned(event, name, at).ok_or_else(broken)?,
            EventType::TaskStarted => {
                let span = self.task(name).span.ok_or_else(broken)?;
                self.spans[span].started = Some(at.ms);
            }
            EventType::TaskRetrying => {
                let cause = event.data.get("cause").and_then(Value::as_str).unwrap_or("other");
                *self.retry_causes.entry(cause.to_owned()).or_default() += 1;
                self.attempt_ended(event, name, at);
            }
            EventType::TaskUnknown => {
                self.attempt_ended(event, name, at);
            }
            EventType::TaskSucceeded => self.run_ended(event, name, at, "succeeded"),
            EventType::TaskUndone => self.run_ended(event, name, at, "undone"),
            // What an undo could not take back is still there.
            EventType::TaskFailed | EventType::TaskCancelled if is_undo(event) => self.run_ended(event, name, at, "undo_failed"),
            EventType::TaskFailed => self.run_ended(event, name, at, "failed"),
            EventType::TaskCancelled => self.run_ended(event, name, at, "cancelled"),
            EventType::TaskSkipped => self.run_ended(event, name, at, "skipped"),
            EventType::IncidentOpened => self.escalations += 1,
            EventType::ResourceChanged => self.resource_changed(event, name),
            _ => {}
        }
        Ok(())
    }

    fn task(&mut self, name: &str) -> &mut Task {
        if !self.tasks.contains_key(name) {
            self.tasks.insert(name.to_owned(), Task::default());
        }
        self.tasks.get_mut(name).expect("it was put in")
    }

    fn became_ready(&mut self, event: &Event, name: &str, at: Mark) {
        let (waited_for, before) = self.reason_of_beginning(event, name, at);
        self.task(name).ready = Some(Ready { at, waited_for, before, reason: None, locks: Vec::new() });
    }

    /// A task that only waits begins to.
    fn held(&mut self, event: &Event, name: &str, at: Mark) {
        let open = self.task(name).span.is_some_and(|span| self.spans[span].ended.is_none());
        if open {
            return;
        }
        let (waited_for, before) = self.reason_of_beginning(event, name, at);
        self.spans.push(Span {
            task: name.to_owned(),
            run: event.run.unwrap_or(1),
            attempt: 1,
            ready: Some(at),
            runnable: at.ms,
            waited_for,
            before,
            held: true,
            ..Span::default()
        });
        self.task(name).span = Some(self.spans.len() - 1);
    }

    /// What a task that begins now has waited for, and the span that ended that.
    fn reason_of_beginning(&mut self, event: &Event, name: &str, at: Mark) -> (&'static str, Option<usize>) {
        let own = self.task(name).span;
        let ended = self.task(name).end.take().is_some();
        let outcome = own.and_then(|span| self.spans[span].outcome);
        match (outcome, self.last_end) {
            (Some(EventType::TaskRetrying), _) => ("retry", own),
            // A person said that it never began, or wants a new run.
            (Some(EventType::TaskUnknown), _) => ("person", own),
            // An undo begins with the end of what came before it.
            (_, Some((end, span))) if is_undo(event) && end.ms == at.ms => ("undo", Some(span)),
            (_, last) if ended => match self.change_behind(event, name) {
                Some(by) => ("change", by),
                None => ("person", last.map(|(_, span)| span)),
            },
            // What an end lets go stands behind it in the same commit.
            (_, Some((end, span))) if end.ms == at.ms => ("needs", Some(span)),
            (_, None) => ("submission", None),
            (_, Some((_, span))) => ("person", Some(span)),
        }
    }

    /// Tasks that run anew now, or as soon as their present run is over.
    fn resource_changed(&mut self, event: &Event, name: &str) {
        let by = self.task(name).span;
        let list = |key: &str| event.data.get(key).and_then(Value::as_array).into_iter().flatten();
        let now = list("runs").filter_map(|run| run.get("task")?.as_str());
        for task in now.chain(list("later").filter_map(Value::as_str)) {
            self.changed.insert(task.to_owned(), Change { by, run: None });
        }
    }

    /// Who made the change that this run was opened by, if one did.
    fn change_behind(&mut self, event: &Event, name: &str) -> Option<Option<usize>> {
        let task = name.split_once('[').map_or(name, |(task, _)| task);
        let change = self.changed.get_mut(task)?;
        (*change.run.get_or_insert(event.run?) == event.run?).then_some(change.by)
    }

    fn assigned(&mut self, event: &Event, name: &str, at: Mark) -> Option<()> {
        let ready = self.task(name).ready.take()?;
        let (agent, node) = (event.agent.as_ref().map(ToString::to_string), event.node.as_ref().map(ToString::to_string));
        let mut span = Span {
            task: name.to_owned(),
            run: event.run.unwrap_or(1),
            attempt: event.attempt.unwrap_or(1),
            ready: Some(ready.at),
            assigned: Some(at),
            runnable: ready.at.ms,
            waited_for: ready.waited_for,
            before: ready.before,
            ..Span::default()
        };
        let lock = ready.locks.iter().filter_map(|(resource, writes)| self.freed_lock(resource, *writes)).max();
        let on_agent = agent.as_ref().and_then(|agent| self.agents.get(agent)).copied();
        let for_capacity = ready.reason.as_deref() == Some("capacity");
        let on_node = node.as_ref().filter(|_| for_capacity).and_then(|node| self.nodes.get(node)).copied();
        let since_ready = |freed: Option<Freed>| freed.filter(|(end, _)| *end > ready.at);
        let (lock, worker) = (since_ready(lock), since_ready(on_agent.max(on_node)));
        let kept = [lock.map(|(end, by)| (end, by, "lock")), worker.map(|(end, by)| (end, by, "agent"))];
        if let Some((end, by, what)) = kept.into_iter().flatten().max() {
            (span.runnable, span.waited_for, span.before) = (end.ms, what, Some(by));
        }
        let explained = match ready.reason.as_deref() {
            None => true,
            Some("lock") => lock.is_some(),
            Some("capacity") => worker.is_some(),
            // `no_agent`: an agent joined or came back, which no event of this epic tells.
            Some(_) => false,
        };
        if !explained {
            span.runnable = at.ms;
            if span.before.is_none() {
                span.waited_for = "other";
            }
        }
        (span.agent, span.node) = (agent, node);
        let position = self.spans.len();
        self.spans.push(span);
        self.task(name).span = Some(position);
        Some(())
    }

    /// The last release that a request had to wait for.
    fn freed_lock(&self, resource: &str, writes: bool) -> Option<Freed> {
        let [by_writer, by_reader] = *self.released.get(resource)?;
        if writes { by_writer.max(by_reader) } else { by_writer }
    }

    /// Ends the open attempt of a task; gives its span.
    fn attempt_ended(&mut self, event: &Event, name: &str, at: Mark) -> Option<usize> {
        let position = self.task(name).span?;
        let span = &mut self.spans[position];
        if span.ended.is_some() {
            return None;
        }
        (span.ended, span.outcome) = (Some(at), Some(event.kind));
        let (agent, node) = (span.agent.clone(), span.node.clone());
        self.agents.extend(agent.map(|agent| (agent, (at, position))));
        self.nodes.extend(node.map(|node| (node, (at, position))));
        Some(position)
    }

    fn run_ended(&mut self, event: &Event, name: &str, at: Mark, word: &'static str) {
        let position = self.attempt_ended(event, name, at).unwrap_or_else(|| {
            let cause = self.last_end.filter(|(end, _)| end.ms == at.ms).map(|(_, span)| span);
            let own = self.tasks[name].span;
            let (before, waited_for) = if cause.is_some() { (cause, "needs") } else { (own, "person") };
            self.spans.push(Span {
                task: name.to_owned(),
                run: event.run.unwrap_or(1),
                ended: Some(at),
                runnable: at.ms,
                waited_for,
                before,
                ..Span::default()
            });
            self.spans.len() - 1
        });
        self.last_end = Some((at, position));
        let task = self.task(name);
        (task.end, task.ready) = (Some(word), None);
    }
}

/// The run takes its task back.
fn is_undo(event: &Event) -> bool {
    event.data.get("undo").and_then(Value::as_bool).unwrap_or(false)
}

fn lock_of(event: &Event) -> Option<(String, bool)> {
    let resource = event.data.get("resource")?.as_str()?;
    Some((resource.to_owned(), event.data.get("mode")?.as_str()? == "write"))
}
