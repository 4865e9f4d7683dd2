//! Sees what really happens, believes nobody, and helps nobody: the ledger of real starts, compared with the journal.
//!
//! It knows nothing of the core's state. What it demands is what users were promised.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use amphi_coordination::laws::Violation;
use amphi_protocol::document::{EpicSpec, LockMode, Plan, TaskSpec, Work, Workspace};
use amphi_protocol::event::Event;
use amphi_protocol::ids::{AttemptRef, EpicId, Epoch, EventSeq, Incarnation, IncidentId, NodeId, OwnerName, Token};
use amphi_protocol::journal::effect::is_ledger_tool;
use amphi_protocol::journal::{AttemptNews, Decision, EffectEnd, Input, LockName, Outcome, OutsideLock, Record, Resolution};

/// An attempt as the journal has it.
#[derive(Debug)]
struct Assigned {
    node: NodeId,
    incarnation: Incarnation,
    token: Token,
    claimed: bool,
    open: bool,
}

/// A process that lives.
#[derive(Debug)]
struct Running {
    attempt: AttemptRef,
    locks: Vec<(String, LockMode)>,
}

#[derive(Debug, Default)]
pub(super) struct Observer {
    pub violation: Option<Violation>,
    epics: BTreeMap<EpicId, (Arc<EpicSpec>, Plan)>,
    /// Runs that take one back: epic, instance, run.
    undos: BTreeSet<(EpicId, u32, u32)>,
    incidents: BTreeMap<IncidentId, AttemptRef>,
    assigned: BTreeMap<AttemptRef, Assigned>,
    /// Real starts, and how many of each run.
    started: BTreeSet<AttemptRef>,
    runs: BTreeMap<(EpicId, u32, u32), u32>,
    running: BTreeMap<u32, Running>,
    /// What was brought about outside, by the key of its run: how often, and whether it was intended before by the journal.
    effects: BTreeMap<(EpicId, u32, u32), u32>,
    intended: BTreeSet<AttemptRef>,
    /// What owners outside hold by the journal, by name and owner, and how.
    outside: BTreeMap<(String, OwnerName), LockMode>,
    epoch: Epoch,
    leaders: BTreeMap<Epoch, u64>,
    newest: BTreeMap<(NodeId, Incarnation), Epoch>,
    events: BTreeMap<EventSeq, Event>,
}

impl Observer {
    fn hold(&mut self, law: &'static str, holds: bool, words: impl FnOnce() -> String) {
        if !holds && self.violation.is_none() {
            self.violation = Some(Violation { law, words: words() });
        }
    }

    /// A record was stored.
    pub fn commit(&mut self, record: &Record, now: u64) {
        let before = self.epoch;
        self.hold("S2", record.epoch >= before, || format!("commit {} of epoch {} follows epoch {before}", record.index, record.epoch));
        self.epoch = self.epoch.max(record.epoch);
        for (input, decisions) in record.inputs.iter().zip(&record.decisions) {
            for decision in decisions {
                self.decision(input, decision, now);
            }
        }
    }

    fn decision(&mut self, input: &Input, decision: &Decision, now: u64) {
        match decision {
            Decision::EpicAccepted { epic, spec, .. } => {
                let spec = spec.get().cloned().expect("small specifications are inline");
                let plan = Plan::expand(&spec);
                let again = self.epics.insert(epic.clone(), (spec, plan)).is_some();
                self.hold("S13", !again, || format!("{epic} was accepted twice"));
            }
            Decision::ChildStarted { epic, i, child, .. } => {
                let spec = self.epics.get(epic).and_then(|(spec, plan)| plan.child(spec, *i).cloned());
                self.hold("S6", spec.is_some(), || format!("{epic} instance {i} opens {child} and is no epic"));
                let Some(spec) = spec else { return };
                let plan = Plan::expand(&spec);
                let again = self.epics.insert(child.clone(), (spec, plan)).is_some();
                self.hold("S13", !again, || format!("{child} was opened twice"));
            }
            Decision::UndoStarted { epic, i, run } => {
                let again = !self.undos.insert((epic.clone(), *i, *run));
                self.hold("S5", !again, || format!("{epic} instance {i} is undone twice in run {run}"));
            }
            Decision::IncidentResolved { resolution: Resolution::NotStarted, .. } => self.follow_new_run(input),
            Decision::IncidentOpened { incident, attempt, .. } => _ = self.incidents.insert(incident.clone(), attempt.clone()),
            Decision::Assigned { attempt, node, incarnation, token, .. } => {
                let assigned = Assigned { node: node.clone(), incarnation: *incarnation, token: *token, claimed: false, open: true };
                let again = self.assigned.insert(attempt.clone(), assigned).is_some();
                self.hold("S4", !again, || format!("{attempt} was assigned twice"));
            }
            Decision::Claimed { attempt } => {
                if let Some(assigned) = self.assigned.get_mut(attempt) {
                    assigned.claimed = true;
                }
            }
            Decision::Started { attempt, .. } => {
                let real = self.started.contains(attempt);
                self.hold("S8", real, || format!("{attempt} is on record as started and never was"));
            }
            Decision::AttemptEnded { attempt, end, .. } => {
                if let Some(assigned) = self.assigned.get_mut(attempt) {
                    assigned.open = false;
                }
                let by_itself = matches!(end.outcome, Outcome::Succeeded | Outcome::Exit | Outcome::Output | Outcome::Resource);
                let real = self.started.contains(attempt) || !by_itself;
                self.hold("S8", real, || format!("{attempt} is on record as {:?} and never began", end.outcome));
                let began = self.started.contains(attempt) && end.outcome == Outcome::NotStarted;
                self.hold("S9", !began, || format!("{attempt} is on record as not started and began"));
                // A report of an end means that nothing lives any more; so does the loss of a node for what must not overlap.
                let lives = self.running.values().any(|running| running.attempt == *attempt);
                let reported = matches!(input, Input::Attempt(report) if matches!(report.what, AttemptNews::Ended(_)));
                let fenced = self.needs_claim(attempt);
                self.hold("S7", !(lives && (reported || fenced)), || format!("{attempt} ended at {now} ms and its process lives"));
            }
            Decision::EffectIntended { attempt, .. } => _ = self.intended.insert(attempt.clone()),
            Decision::EffectEnded { attempt, end, .. } => {
                let times = self.times(attempt);
                let right = match end {
                    EffectEnd::Done { .. } => times == 1,
                    EffectEnd::NotDone { .. } => times == 0,
                    EffectEnd::Unknown { .. } => true,
                };
                self.hold("S9", right, || format!("{attempt} is on record as {end:?} outside, which happened {times} times"));
            }
            Decision::LockGranted { lock, .. } => self.outside_begins(lock, now),
            Decision::LockReleased { lock, .. } | Decision::LockExpired { lock, .. } => {
                let held = self.outside.remove(&(name_of(&lock.name), lock.owner.clone())).is_some();
                self.hold("S8", held, || format!("{lock:?} is given back and was not held"));
            }
            _ => {}
        }
    }

    fn times(&self, attempt: &AttemptRef) -> u32 {
        self.effects.get(&(attempt.epic.clone(), attempt.i, attempt.run)).copied().unwrap_or_default()
    }

    /// Something is really brought about outside.
    pub fn acts(&mut self, attempt: &AttemptRef, now: u64) {
        let intended = self.intended.contains(attempt);
        self.hold("S9", intended, || format!("{attempt} acts outside at {now} ms, and that it was about to is not on record"));
        let times = self.effects.entry((attempt.epic.clone(), attempt.i, attempt.run)).or_default();
        *times += 1;
        let times = *times;
        self.hold("S9", times == 1, || format!("{attempt} brings its effect about for the {times}. time, at {now} ms"));
    }

    /// Whether the effect of a run happened; `None` if it was never about to.
    pub fn happened(&self, attempt: &AttemptRef) -> Option<bool> {
        let same = |other: &&AttemptRef| (&other.epic, other.i, other.run) == (&attempt.epic, attempt.i, attempt.run);
        self.intended.iter().find(same)?;
        Some(self.times(attempt) > 0)
    }

    /// S7: nobody runs beside an owner outside who excludes it, and no other owner holds it.
    fn outside_begins(&mut self, lock: &OutsideLock, now: u64) {
        let name = name_of(&lock.name);
        let excludes = |other: LockMode| lock.mode == LockMode::Write || other == LockMode::Write;
        let other = self.outside.iter().find(|((held, _), mode)| *held == name && excludes(**mode)).map(|((_, owner), _)| owner.clone());
        self.hold("S7", other.is_none(), || format!("{lock:?} is granted at {now} ms beside {other:?}"));
        // A writer is never given up while it lives; a reader that was given up as lost is not fenced.
        let in_the_way = |running: &Running| {
            let counts = self.assigned.get(&running.attempt).is_some_and(|assigned| assigned.open);
            running.locks.iter().any(|(held, mode)| *held == name && excludes(*mode) && (counts || *mode == LockMode::Write))
        };
        let rival = self.running.values().find(|running| in_the_way(running)).map(|running| running.attempt.clone());
        self.hold("S7", rival.is_none(), || format!("{lock:?} is granted at {now} ms while {rival:?} runs"));
        self.outside.insert((name, lock.owner.clone()), lock.mode);
    }

    /// An undo that never began, by a person's word, goes on in a new run.
    fn follow_new_run(&mut self, input: &Input) {
        let Input::ResolveIncident { incident, .. } = input else { return };
        let Some(at) = self.incidents.get(incident) else { return };
        if self.undos.contains(&(at.epic.clone(), at.i, at.run)) {
            self.undos.insert((at.epic.clone(), at.i, at.run + 1));
        }
    }

    /// What the run of an attempt does: its task, or the `undo` of it.
    fn task(&self, attempt: &AttemptRef) -> Option<&TaskSpec> {
        let (spec, plan) = self.epics.get(&attempt.epic)?;
        let task = &spec.tasks[plan.instances[attempt.i as usize].task as usize];
        let undo = self.undos.contains(&(attempt.epic.clone(), attempt.i, attempt.run));
        if undo { task.undo.as_deref() } else { Some(task) }
    }

    fn needs_claim(&self, attempt: &AttemptRef) -> bool {
        let outside = |task: &TaskSpec| matches!(&task.work, Work::Tool { tool, .. } if is_ledger_tool(tool));
        self.task(attempt).is_some_and(|task| task.retry.is_once() || !task.locks.write.is_empty() || outside(task))
    }

    /// A process really begins.
    pub fn start(&mut self, pid: u32, attempt: &AttemptRef, (node, life): (&NodeId, Incarnation), token: Token, now: u64) {
        let known = self.assigned.get(attempt);
        let right = known.is_some_and(|known| known.node == *node && known.incarnation == life && known.token == token);
        let claimed = known.is_some_and(|known| known.claimed);
        self.hold("S13", right, || format!("{attempt} starts on {node} and is not there by the journal"));
        let fresh = self.started.insert(attempt.clone());
        self.hold("S13", fresh, || format!("{attempt} starts twice"));
        let Some(task) = self.task(attempt) else { return };
        let (once, writes) = (task.retry.is_once(), !task.locks.write.is_empty());
        let Some((spec, plan)) = self.epics.get(&attempt.epic) else { return };
        let folder = match &spec.workspace {
            Workspace::Path(path) => path.clone(),
            Workspace::Git { url, reference } => format!("git {url} {}", reference.as_deref().unwrap_or_default()),
            Workspace::None => String::new(),
        };
        let project = &spec.project;
        let name = |resource: &str| {
            if resource.starts_with("file/") { format!("{project} {folder} {resource}") } else { format!("{project} {resource}") }
        };
        let locks: Vec<(String, LockMode)> =
            plan.locks(spec, attempt.i).iter().map(|(resource, mode)| (name(resource.as_str()), *mode)).collect();
        self.hold("S9", claimed || !(once || writes), || format!("{attempt} starts before its claim is on record"));
        let starts = self.runs.entry((attempt.epic.clone(), attempt.i, attempt.run)).or_default();
        *starts += 1;
        let starts = *starts;
        self.hold("S9", starts == 1 || !once, || format!("{attempt} is `retry: 0` and starts for the {starts}. time"));
        let begins = |held: &str, mode: LockMode| {
            locks.iter().any(|(name, how)| name == held && (*how == LockMode::Write || mode == LockMode::Write))
        };
        let owner = self.outside.iter().find(|((held, _), mode)| begins(held, **mode)).map(|((_, owner), _)| owner.clone());
        let counts = self.assigned.get(attempt).is_some_and(|assigned| assigned.open) || writes;
        self.hold("S7", owner.is_none() || !counts, || format!("{attempt} starts at {now} ms while {owner:?} holds its lock"));
        let rival = self.running.values().find(|other| self.excludes((attempt, &locks), other)).map(|other| other.attempt.clone());
        self.hold("S7", rival.is_none(), || format!("{attempt} and {rival:?} run side by side at {now} ms under an exclusive lock"));
        self.running.insert(pid, Running { attempt: attempt.clone(), locks });
    }

    /// Two writers never; a reader that was given up as lost is not fenced and may still run, or even begin, beside a writer.
    fn excludes(&self, (attempt, locks): (&AttemptRef, &[(String, LockMode)]), other: &Running) -> bool {
        let counts = |attempt: &AttemptRef| self.assigned.get(attempt).is_some_and(|assigned| assigned.open);
        let both_count = counts(attempt) && counts(&other.attempt);
        locks.iter().any(|(resource, mode)| {
            other.locks.iter().any(|(held, how)| {
                let both_write = (*mode, *how) == (LockMode::Write, LockMode::Write);
                let one_writes = *mode == LockMode::Write || *how == LockMode::Write;
                held == resource && (both_write || (one_writes && both_count))
            })
        })
    }

    /// A process is dead.
    pub fn end(&mut self, pid: u32) {
        self.running.remove(&pid);
    }

    /// A node took a command.
    pub fn command(&mut self, node: &NodeId, life: Incarnation, epoch: Epoch) {
        let newest = self.newest.entry((node.clone(), life)).or_default();
        let before = *newest;
        *newest = before.max(epoch);
        self.hold("S2", epoch >= before, || format!("{node} took a command of epoch {epoch} after one of {before}"));
    }

    /// A Manager believes that it leads.
    pub fn leads(&mut self, epoch: Epoch, manager: u64) {
        let leader = *self.leaders.entry(epoch).or_insert(manager);
        self.hold("S2", leader == manager, || format!("Managers {leader} and {manager} both lead in epoch {epoch}"));
    }

    /// Events were published, or derived from the journal; the same number is the same event.
    pub fn events(&mut self, events: &[Event]) {
        for event in events {
            let same = match self.events.get(&event.seq) {
                Some(known) => known == event,
                None => {
                    self.events.insert(event.seq, event.clone());
                    true
                }
            };
            self.hold("S3", same, || format!("event {} was told in two ways: {event:?}", event.seq));
        }
    }

    /// Numbers of the events that were never published: gaps.
    pub fn is_dense(&self) -> bool {
        self.events.keys().zip(1..).all(|(seq, expected)| seq.0 == expected)
    }
}

/// A lock's name as the locks of tasks are named here.
fn name_of(name: &LockName) -> String {
    let (project, resource) = (&name.project, &name.resource);
    let folder = name.folder.as_deref().unwrap_or_default();
    if resource.as_str().starts_with("file/") { format!("{project} {folder} {resource}") } else { format!("{project} {resource}") }
}
