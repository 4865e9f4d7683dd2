//! One epic: its graph, where each task stands, its counters; questions and timers. S5, S6, S18, L2.

use std::collections::{BTreeMap, BTreeSet};

use amphi_protocol::document::Plan;
use amphi_protocol::journal::IncidentKind;

use super::{Violation, hold};
use crate::epic::{Epic, EpicStatus, InstanceEnd, InstanceState, TaskEnd};
use crate::state::{State, Timer, TimerKind};

/// Ends of a task's instances.
#[derive(Default)]
struct Tally {
    open: u32,
    running: u32,
    blocked: u32,
    succeeded: u32,
    failed: u32,
    cancelled: u32,
    begun: u32,
}

impl Tally {
    fn of(epic: &Epic, task: usize) -> Self {
        let mut tally = Self::default();
        for (instance, planned) in epic.instances.iter().zip(&epic.plan.instances).skip(epic.plan.tasks[task].first as usize) {
            if planned.task as usize != task {
                break;
            }
            // Whatever becomes of its undo, the run that the graph knows succeeded.
            if instance.undo {
                tally.succeeded += 1;
                continue;
            }
            tally.begun += u32::from(instance.attempt > 0);
            match instance.state {
                InstanceState::Ended(InstanceEnd::Succeeded | InstanceEnd::Undone) => tally.succeeded += 1,
                InstanceState::Ended(InstanceEnd::Failed) => tally.failed += 1,
                InstanceState::Ended(InstanceEnd::Cancelled | InstanceEnd::CutOff) => tally.cancelled += 1,
                InstanceState::Ended(InstanceEnd::Skipped) => {}
                InstanceState::Blocked => tally.blocked += 1,
                InstanceState::Ready { .. }
                | InstanceState::Open(_)
                | InstanceState::Backoff { .. }
                | InstanceState::Waiting { .. }
                | InstanceState::Nested(_)
                | InstanceState::Unknown { .. } => {
                    tally.running += 1;
                }
            }
        }
        tally.open = tally.blocked + tally.running;
        tally
    }

    fn end(&self) -> Option<TaskEnd> {
        match self {
            _ if self.open > 0 => None,
            _ if self.failed > 0 => Some(TaskEnd::Failed),
            _ if self.cancelled > 0 => Some(TaskEnd::Cancelled),
            _ if self.succeeded > 0 => Some(TaskEnd::Succeeded),
            _ => Some(TaskEnd::Skipped),
        }
    }
}

fn satisfies(end: TaskEnd, optional: bool) -> bool {
    matches!(end, TaskEnd::Succeeded | TaskEnd::Skipped) || (end == TaskEnd::Failed && optional)
}

pub(super) fn check_epic(epic: &Epic) -> Result<(), Violation> {
    hold("S18", is_acyclic(&epic.plan), || format!("the graph of {} has a cycle", epic.id))?;
    let tallies: Vec<Tally> = (0..epic.tasks.len()).map(|task| Tally::of(epic, task)).collect();
    let ends: Vec<Option<TaskEnd>> = tallies.iter().map(Tally::end).collect();
    check_counters(epic, &tallies, &ends)?;
    let (phase_open, phase_bad) = phases(epic, &ends);
    hold("kept", phase_open == epic.phase_open && phase_bad == epic.phase_bad, || {
        let kept = (&epic.phase_open, &epic.phase_bad);
        format!("phases of {} are kept as {kept:?}, and are {:?}", epic.id, (&phase_open, &phase_bad))
    })?;
    for (task, tally) in tallies.iter().enumerate() {
        check_task(epic, task, tally, &ends, (&phase_open, &phase_bad))?;
    }
    for (i, instance) in (0u32..).zip(&epic.instances) {
        if let InstanceState::Open(_) | InstanceState::Waiting { .. } | InstanceState::Nested(_) = instance.state {
            let waits = !matches!(instance.state, InstanceState::Open(_));
            hold("S14", waits != epic.spec_of(i).work.needs_agent(), || format!("{} is held by the wrong one", epic.attempt_ref(i)))?;
            hold("S4", instance.attempt > 0, || format!("{} is open without an attempt", epic.attempt_ref(i)))?;
        }
        if let (InstanceState::Open(_) | InstanceState::Waiting { .. } | InstanceState::Nested(_), false) = (&instance.state, instance.undo)
        {
            check_needs(epic, i, &ends)?;
        }
    }
    Ok(())
}

fn check_counters(epic: &Epic, tallies: &[Tally], ends: &[Option<TaskEnd>]) -> Result<(), Violation> {
    let count = |wanted: fn(&InstanceState) -> bool| epic.instances.iter().filter(|instance| wanted(&instance.state)).count() as u32;
    let found = [
        count(|state| matches!(state, InstanceState::Open(_))),
        count(|state| matches!(state, InstanceState::Ready { .. } | InstanceState::Backoff { .. })),
        count(|state| matches!(state, InstanceState::Unknown { .. })),
        ends.iter().filter(|end| end.is_none()).count() as u32,
        count(|state| matches!(state, InstanceState::Waiting { .. })),
        count(|state| matches!(state, InstanceState::Nested(_))),
    ];
    let kept = [epic.active, epic.pending, epic.unknown, epic.open_tasks, epic.holding, epic.nested];
    hold("kept", found == kept, || {
        format!("{}: active, pending, unknown, open, holding, nested are kept as {kept:?}, and are {found:?}", epic.id)
    })?;
    hold("L2", epic.is_ended() == (epic.open_tasks == 0 && epic.undoing.is_none()), || {
        format!("{} has {} open tasks and is {:?}", epic.id, epic.open_tasks, epic.status)
    })?;
    let waits = epic.needs_person();
    hold("L2", epic.waiting == waits, || format!("{} waits for a person: {waits}, and says {}", epic.id, epic.waiting))?;
    for (task, (tally, progress)) in tallies.iter().zip(&epic.tasks).enumerate() {
        let found = [tally.open, tally.running, tally.succeeded, tally.failed, tally.cancelled, tally.begun];
        let kept = [progress.open, progress.running, progress.succeeded, progress.failed, progress.cancelled, progress.begun];
        let right = found == kept && progress.end == ends[task];
        hold("kept", right, || format!("{} task {task}: kept {kept:?} {:?}, and is {found:?} {:?}", epic.id, progress.end, ends[task]))?;
        let limit = epic.spec.tasks[task].max_parallel.unwrap_or(u32::MAX);
        hold("S6", tally.running <= limit, || format!("{} task {task} has {} instances under way of {limit}", epic.id, tally.running))?;
    }
    Ok(())
}

fn phases(epic: &Epic, ends: &[Option<TaskEnd>]) -> (Vec<u32>, Vec<u32>) {
    let mut open = vec![0; epic.plan.phase_sizes.len()];
    let mut bad = open.clone();
    for (task, planned) in epic.plan.tasks.iter().enumerate() {
        let Some(phase) = planned.phase else { continue };
        match ends[task] {
            None => open[phase as usize] += 1,
            Some(end) => bad[phase as usize] += u32::from(!satisfies(end, epic.spec.tasks[task].optional)),
        }
    }
    (open, bad)
}

fn check_task(epic: &Epic, task: usize, tally: &Tally, ends: &[Option<TaskEnd>], phases: (&[u32], &[u32])) -> Result<(), Violation> {
    let (planned, spec, progress) = (&epic.plan.tasks[task], &epic.spec.tasks[task], &epic.tasks[task]);
    let mut waits = planned.needs.iter().filter(|need| ends[**need as usize].is_none()).count() as u32;
    let broken = |need: &&u32| ends[**need as usize].is_some_and(|end| !satisfies(end, epic.spec.tasks[**need as usize].optional));
    let mut bad = planned.needs.iter().filter(broken).count() as u32;
    if let Some(phase) = planned.waits_for_phase {
        let open = phases.0[phase as usize] > 0;
        waits += u32::from(open);
        bad += u32::from(!open && phases.1[phase as usize] > 0);
    }
    hold("kept", (waits, bad) == (progress.waits, progress.bad), || {
        format!("{} task {task}: waits, bad are kept as {:?}, and are {:?}", epic.id, (progress.waits, progress.bad), (waits, bad))
    })?;
    if ends[task].is_some() {
        return Ok(());
    }
    let forgotten = |words: &str| Violation { law: "L2", words: format!("{} task {task} {words}", epic.id) };
    if tally.running > 0 && !progress.released {
        return Err(forgotten("is under way but was not released"));
    }
    if tally.blocked == 0 {
        return Ok(());
    }
    let stops = epic.status != EpicStatus::Running || (epic.stopping && !spec.condition.outlives_failure());
    if stops {
        return Err(forgotten("has instances that can never start, in an epic that stops"));
    }
    if progress.released && tally.running < spec.max_parallel.unwrap_or(u32::MAX) {
        return Err(forgotten("was released and holds instances back"));
    }
    if !progress.released && (waits == 0 || (!spec.condition.outlives_failure() && bad > 0)) {
        return Err(forgotten("has no needs left to wait for, and is not released"));
    }
    Ok(())
}

/// S6, as far as a state can tell: a need that has been reopened since says nothing about the time of the assignment.
fn check_needs(epic: &Epic, i: u32, ends: &[Option<TaskEnd>]) -> Result<(), Violation> {
    let task = epic.task_of(i) as usize;
    let planned = &epic.plan.tasks[task];
    let conditional = epic.spec.tasks[task].condition.outlives_failure();
    let in_phase = |other: &usize| planned.waits_for_phase.is_some() && epic.plan.tasks[*other].phase == planned.waits_for_phase;
    let needs = planned.needs.iter().map(|need| *need as usize).chain((0..epic.tasks.len()).filter(in_phase));
    for need in needs {
        let wanted = &epic.plan.tasks[need];
        let again = (wanted.first..wanted.first + wanted.count).any(|i| epic.instances[i as usize].run > 1);
        let met = ends[need].is_some_and(|end| conditional || satisfies(end, epic.spec.tasks[need].optional));
        hold("S6", met || again, || format!("{} is open although task {need} is {:?}", epic.attempt_ref(i), ends[need]))?;
    }
    Ok(())
}

fn is_acyclic(plan: &Plan) -> bool {
    let mut waits: Vec<usize> = plan.tasks.iter().map(|task| task.needs.len()).collect();
    let mut free: Vec<u32> = (0u32..).zip(&waits).filter(|(_, waits)| **waits == 0).map(|(task, _)| task).collect();
    let mut seen = 0;
    while let Some(task) = free.pop() {
        seen += 1;
        for &dependent in &plan.tasks[task as usize].dependents {
            waits[dependent as usize] -= 1;
            if waits[dependent as usize] == 0 {
                free.push(dependent);
            }
        }
    }
    let backwards = |task: &&amphi_protocol::document::PlannedTask| task.waits_for_phase.is_some_and(|before| task.phase <= Some(before));
    seen == plan.tasks.len() && plan.tasks.iter().find(backwards).is_none()
}

/// Whoever's outcome is unknown has exactly one open question, and the other way round.
pub(super) fn check_questions(state: &State) -> Result<(), Violation> {
    let mut asked = 0;
    let asks = |incident: &&crate::state::Incident| incident.resolved.is_none() && incident.kind == IncidentKind::UnknownOutcome;
    for (id, incident) in state.incidents.iter().filter(|(_, incident)| asks(incident)) {
        asked += 1;
        let at = &incident.attempt;
        let epic = state.epics.get(&at.epic);
        let instance = epic.and_then(|epic| epic.instances.get(at.i as usize));
        let about = instance.is_some_and(|instance| matches!(&instance.state, InstanceState::Unknown { incident } if incident == id));
        hold("L2", about, || format!("incident {id} is about {at}, which does not wait for it"))?;
    }
    let unknown: u32 = state.epics.values().map(|epic| epic.unknown).sum();
    hold("L2", asked == unknown, || format!("{unknown} outcomes are unknown and {asked} questions are open"))
}

pub(super) fn check_timers(state: &State) -> Result<(), Violation> {
    let mut expected = BTreeSet::new();
    let mut awaited = BTreeMap::<String, BTreeSet<_>>::new();
    for epic in state.epics.values() {
        for (i, instance) in (0u32..).zip(&epic.instances) {
            let waits = matches!(instance.state, InstanceState::Waiting { .. });
            if let Some(subject) = epic.plan.awaited(&epic.spec, i).filter(|_| waits) {
                awaited.entry(subject).or_default().insert((epic.id.clone(), i));
            }
            let (at, kind) = match &instance.state {
                InstanceState::Waiting { until: Some(until), .. } => (*until, TimerKind::Wait),
                InstanceState::Backoff { until } => (*until, TimerKind::Backoff),
                InstanceState::Nested(nested) => match nested.until {
                    Some(until) => (until, TimerKind::Child),
                    None => continue,
                },
                InstanceState::Open(attempt) if attempt.cancelling.is_none() => match attempt.deadline {
                    Some(deadline) => (deadline, TimerKind::Timeout),
                    None => continue,
                },
                _ => continue,
            };
            expected.insert(Timer { at, epic: epic.id.clone(), i, kind });
        }
    }
    hold("kept", awaited == state.awaited, || format!("awaited is kept as {:?}, and is {awaited:?}", state.awaited))?;
    hold("kept", expected == state.timers, || format!("timers are kept as {:?}, and are {expected:?}", state.timers))
}
