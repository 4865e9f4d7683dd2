//! Decisions, one by one in their order: each is judged against the model and then changes it.

use amphi_protocol::document::{Condition, OnFailure, Plan};
use amphi_protocol::ids::{AttemptRef, EpicId, Token};
use amphi_protocol::journal::{
    AttemptEnd, AttemptNews, CancelCause, Decision, Duty, EpicEnd, IncidentKind, Input, Next, Outcome, Resolution, SpecRef,
};

use crate::checker::{Checker, VerifyError};
use crate::cluster::InstanceKey;
use crate::grants::Grant;
use crate::locks::Party;
use crate::model::{EpicModel, How, Open, Shift, Stage};
use crate::spec::{flaw, is_acyclic};
use crate::verdict::Law;

impl Checker {
    /// Judges a decision and applies it. `excused`: its input had a fault that has been reported.
    pub(crate) fn judge_decision(&mut self, input: &Input, decision: &Decision, excused: bool) -> Result<(), VerifyError> {
        match decision {
            // Judged with the chain.
            Decision::EpochStarted { .. } => {}
            Decision::EpicAccepted { .. } => self.accept(input, decision)?,
            Decision::EpicStopping { epic, .. } => self.with_epic(epic, |checker, position| {
                let epic = &mut checker.epics[position];
                epic.stopping = true;
                epic.undo_wanted |= epic.spec.on_failure == OnFailure::Undo;
                let shift = checker.epics[position].cancel_unstarted(false);
                checker.take_shift(position, shift);
            }),
            Decision::EpicCancelling { epic, undo, .. } => self.with_epic(epic, |checker, position| {
                checker.epics[position].cancelling = true;
                checker.epics[position].paused = false;
                checker.epics[position].undo_wanted |= undo;
                let shift = checker.epics[position].cancel_unstarted(true);
                checker.take_shift(position, shift);
            }),
            Decision::EpicPaused { epic, .. } => self.with_epic(epic, |checker, position| checker.epics[position].paused = true),
            Decision::EpicResumed { epic, .. } => self.with_epic(epic, |checker, position| checker.epics[position].paused = false),
            Decision::InstancesSkipped { epic, instances, .. } => {
                for i in instances {
                    self.on_instance(epic, *i, Self::skip_instance)?;
                }
            }
            Decision::UndoStarted { epic, i, run } => self.on_instance(epic, *i, |checker, key| checker.start_undo(key, *run))?,
            Decision::EpicEnded { epic, state } => self.with_epic(epic, |checker, position| checker.end_epic(position, *state)),
            Decision::ConditionDecided { epic, task, runs, error } => self.decide_condition(epic, *task, *runs, error.is_some())?,
            Decision::ResourceChanged { epic, i, run, resource, opened, later } => {
                self.change(epic, (*i, *run, resource), opened, later)?;
            }
            Decision::RunsOpened { epic, task } => self.begin_anew(epic, *task)?,
            Decision::Assigned { attempt, agent, node, incarnation, token } => {
                let grant = Grant { attempt, agent, node, incarnation: *incarnation, token: *token };
                if let Some(key) = self.instance(attempt)? {
                    self.grant(key, &grant);
                }
            }
            Decision::Claimed { attempt } => self.on_open(attempt, excused, |checker, key| checker.claim(key, excused))?,
            Decision::Started { attempt, .. } => self.on_open(attempt, excused, |checker, key| checker.start(key, excused))?,
            Decision::Progressed { attempt, .. } => self.on_open(attempt, excused, |_, _| {})?,
            Decision::EffectIntended { attempt, token, intent } => {
                self.on_open(attempt, excused, |checker, key| checker.intend(key, *token, intent))?;
            }
            Decision::EffectEnded { attempt, token, effect, end } => {
                self.on_open(attempt, excused, |checker, key| checker.end_effect(key, *token, effect, end))?;
            }
            Decision::AttemptCancelling { attempt, cause } => self.on_open(attempt, excused, |checker, key| checker.cancel(key, *cause))?,
            Decision::AttemptEnded { attempt, token, end, next } => {
                let reported =
                    matches!(input, Input::Attempt(report) if report.attempt == *attempt && matches!(report.what, AttemptNews::Ended(_)));
                self.on_open(attempt, excused, |checker, key| checker.end_attempt(key, (*token, end, *next), excused || reported))?;
            }
            Decision::WaitEnded { epic, i, run, end } => {
                let (run, signalled) = (*run, matches!(input, Input::Signal { .. }));
                self.on_instance(epic, *i, |checker, key| checker.end_wait(key, run, end, signalled))?;
            }
            Decision::ChildStarted { epic, i, run, child } => {
                let mut key = None;
                self.on_instance(epic, *i, |_, found| key = Some(found))?;
                if let Some(key) = key {
                    self.start_child(key, *run, child)?;
                }
            }
            Decision::ChildCancelling { epic, i, run, cause } => {
                self.on_instance(epic, *i, |checker, key| checker.cancel_child(key, *run, *cause))?;
            }
            Decision::ChildUndoing { epic, i, run, child } => {
                self.on_instance(epic, *i, |checker, key| checker.undo_child(key, *run, child))?;
            }
            Decision::ChildEnded { epic, i, run, child, end } => {
                self.on_instance(epic, *i, |checker, key| checker.end_child(key, *run, child, end))?;
            }
            Decision::BackoffEnded { epic, i } => self.on_instance(epic, *i, Self::end_backoff)?,
            Decision::InstancesCancelled { epic, instances, .. } => {
                for i in instances {
                    self.on_instance(epic, *i, Self::cancel_instance)?;
                }
            }
            Decision::Reopened { epic, instances, .. } => self.reopen(epic, instances)?,
            Decision::IncidentOpened { incident, attempt, kind, .. } => {
                if let Some(key) = self.instance(attempt)? {
                    self.incidents.insert(incident.clone(), (key, *kind));
                    self.untold.retain(|untold| *untold != key || *kind != IncidentKind::UndoFailed);
                }
            }
            Decision::IncidentAcked { incident, .. } => {
                let is_open = self.incidents.contains_key(incident);
                self.findings.check(Law::S13, &[], is_open);
            }
            Decision::IncidentResolved { incident, resolution, .. } => match self.incidents.remove(incident) {
                Some((key, IncidentKind::UnknownOutcome)) => self.resolve(key, *resolution),
                Some((_, IncidentKind::UndoFailed)) => {}
                None => {
                    self.findings.check(Law::S13, &[], false);
                }
            },
            Decision::NodeJoined(info) => {
                let former = self.cluster.join(info);
                self.mourn(former);
            }
            Decision::NodeLost { node, incarnation, .. } => {
                if self.cluster.life(node) == Some(*incarnation) {
                    let former = self.cluster.lose(node);
                    self.mourn(former);
                }
            }
            Decision::AgentChanged { agent, state, .. } => self.cluster.change(agent, *state),
            Decision::SnapshotTaken { snapshot, older } => self.judge_snapshot(snapshot, older.as_ref()),
            Decision::SegmentArchived { segment } => self.judge_segment(segment),
            Decision::EpicRetired { epic, .. } => self.retire(epic),
            Decision::HistoryOver { from } => self.judge_history_over(*from),
            Decision::StaffChanged { node, added, removed, .. } => {
                self.cluster.hire(node, added);
                for agent in removed {
                    // Who works is not let go: its attempt would be with nobody.
                    let epic = self.cluster.work_of(agent).map(|(position, _)| self.epics[position].id.clone());
                    let right = self.cluster.dismiss(node, agent);
                    self.findings.check(Law::S14, &epic.iter().collect::<Vec<_>>(), right);
                }
            }
            Decision::LockAsked { lock, ttl_ms, until, .. } => self.ask(input, lock, *ttl_ms, *until),
            Decision::LockGranted { lock, token, until } => self.grant_outside(lock, *token, *until),
            Decision::LockRenewed { lock, token, ttl_ms, until } => self.renew(input, lock, *token, (*ttl_ms, *until)),
            Decision::LockReleased { lock, token, .. } => self.release_outside(input, lock, *token),
            Decision::LockExpired { lock, token } => self.expire_outside(lock, *token),
            Decision::LockAskEnded { lock, cause } => self.end_ask(input, lock, *cause),
            Decision::TaskPinned { epic, instances, agent, .. } => {
                for i in instances {
                    self.on_instance(epic, *i, |checker, key| checker.pin(key, agent))?;
                }
            }
            Decision::PinsDropped { agent, .. } => self.unpin(agent),
            Decision::Held { post, duty, .. } => self.cluster.hold(post, *duty != Duty::Active),
            // What is handed over has decisions of its own.
            Decision::GraceEnded { .. } => {}
        }
        Ok(())
    }

    /// S1, S13 and S18: the epic was asked for in this very input, once, and its graph can be executed.
    fn accept(&mut self, input: &Input, decision: &Decision) -> Result<(), VerifyError> {
        let Decision::EpicAccepted { epic: id, key, body_hash, by, spec } = decision else { return Ok(()) };
        let spec = self.resolve_spec(spec)?;
        if let Some(what) = flaw(&spec) {
            return Err(VerifyError::Specification { line: self.line, what });
        }
        let asked = matches!(input, Input::Submit(submission)
            if (&submission.epic, &submission.key, &submission.body_hash, &submission.by, &submission.project)
                == (id, key, body_hash, by, &spec.project));
        self.findings.check(Law::S1, &[id], asked);
        let known = self.positions.contains_key(id);
        let fresh = self.keys.insert((spec.project.clone(), key.clone())) && !known;
        self.findings.check(Law::S13, &[id], fresh);
        if known {
            return Ok(());
        }
        let plan = Plan::expand(&spec);
        if !self.findings.check(Law::S18, &[id], is_acyclic(&plan)) {
            self.positions.insert(id.clone(), None);
            return Ok(());
        }
        let position = self.epics.len();
        self.positions.insert(id.clone(), Some(position));
        self.epics.push(EpicModel::new(id.clone(), spec, plan));
        let ready = self.epics[position].roots();
        self.join_queues(position, &ready);
        Ok(())
    }

    fn resolve_spec(&self, spec: &SpecRef) -> Result<std::sync::Arc<amphi_protocol::document::EpicSpec>, VerifyError> {
        let found = spec.inline.as_ref().or_else(|| self.documents.get(&spec.hash)).cloned();
        found.ok_or_else(|| VerifyError::MissingDocument { line: self.line, hash: spec.hash.clone() })
    }

    /// An ended epic has nothing unfinished (L2), and ends once (S5).
    fn end_epic(&mut self, position: usize, state: EpicEnd) {
        let epic = &mut self.epics[position];
        self.findings.check(Law::S5, &[&epic.id], epic.ended.is_none());
        let lied = state == EpicEnd::Succeeded && epic.has_failure();
        if epic.has_unfinished() || lied || epic.owes_undo() {
            self.findings.check(Law::L2, &[&epic.id], false);
        }
        (epic.ended, epic.paused) = (Some(state), false);
        if epic.opener.is_some() {
            self.heirs.push(position);
        }
    }

    /// S6: a condition is decided when everything before has ended, and `failure()` runs only if something failed.
    fn decide_condition(&mut self, id: &EpicId, task: u32, runs: bool, failed: bool) -> Result<(), VerifyError> {
        let Some(position) = self.position(id) else { return Ok(()) };
        let epic = &mut self.epics[position];
        let task = task as usize;
        let Some(spec) = epic.spec.tasks.get(task) else {
            return Err(self.inconsistent("a decision is about a task that does not exist"));
        };
        let implied = spec.condition.outlives_failure() || epic.tasks[task].unsatisfied == 0;
        let due = (epic.tasks[task].unended == 0 && implied) || epic.unsure;
        let rightly = !runs || spec.condition != Condition::Failure || epic.has_trouble_before(task) || epic.unsure;
        self.findings.check(Law::S6, &[id], due && rightly && !(runs && failed));
        epic.tasks[task].runs = Some(runs);
        let idle = epic.idle_of(task);
        if runs {
            self.join_queues(position, &idle);
        } else {
            let how = if failed { How::Failed } else { How::Skipped };
            idle.into_iter().for_each(|i| self.settle((position, i), how));
        }
        Ok(())
    }

    fn claim(&mut self, key: InstanceKey, excused: bool) {
        let id = self.epics[key.0].id.clone();
        let Some(open) = self.open_mut(key) else { return };
        let again = std::mem::replace(&mut open.claimed, true);
        if !excused {
            self.findings.check(Law::S13, &[&id], !again);
        }
        self.count_begin(key);
    }

    /// A start that must not be repeated was claimed before (S9, or S7 for a writer), and each start is recorded once.
    fn start(&mut self, key: InstanceKey, excused: bool) {
        let epic = &self.epics[key.0];
        let (id, once) = (epic.id.clone(), epic.task_of(key.1).retry.is_once());
        let writes = !epic.task_of(key.1).locks.write.is_empty();
        let Some(open) = self.open_mut(key) else { return };
        let claimed = open.claimed;
        let again = std::mem::replace(&mut open.started, true);
        if !excused {
            self.findings.check(if once { Law::S9 } else { Law::S13 }, &[&id], !again);
            if once {
                self.findings.check(Law::S9, &[&id], claimed);
            } else if writes {
                self.findings.check(Law::S7, &[&id], claimed);
            }
        }
        self.count_begin(key);
    }

    /// S9: a drain never ends what must not be tried again and may have begun.
    fn cancel(&mut self, key: InstanceKey, cause: CancelCause) {
        let epic = &self.epics[key.0];
        let (id, once) = (epic.id.clone(), epic.task_of(key.1).retry.is_once());
        let Some(open) = self.open_mut(key) else { return };
        open.draining = cause == CancelCause::Drain;
        let begun = open.claimed || open.started;
        if once && cause == CancelCause::Drain {
            self.findings.check(Law::S9, &[&id], !begun);
        }
    }

    /// A run begins no more often than its policy says: S9 for `retry: 0`, L7 otherwise.
    fn count_begin(&mut self, key: InstanceKey) {
        let epic = &mut self.epics[key.0];
        let policy = epic.task_of(key.1).retry.clone();
        let instance = &mut epic.instances[key.1 as usize];
        let Stage::Open(open) = &mut instance.stage else { return };
        if std::mem::replace(&mut open.began, true) {
            return;
        }
        instance.began = instance.began.saturating_add(1);
        let bounded = instance.began <= policy.attempts.max(1);
        if policy.is_once() {
            self.findings.check(Law::S9, &[&epic.id], bounded);
        } else if instance.began > 1 {
            self.findings.check(Law::L7, &[&epic.id], bounded);
        }
    }

    /// S5, S8, S10, S13: the end is under the attempt's token, comes from a report, and gives everything back.
    fn end_attempt(&mut self, key: InstanceKey, (token, end, next): (Token, &AttemptEnd, Next), reported: bool) {
        let id = self.epics[key.0].id.clone();
        let Some(open) = self.open(key.0, key.1) else { return };
        let (expected, had_locks, started, began) = (open.token, !open.locks.is_empty(), open.started, open.began);
        let (draining, run) = (open.draining, open.run);
        self.findings.check(Law::S8, &[&id], token == expected);
        let of_itself = matches!(end.outcome, Outcome::Succeeded | Outcome::Exit | Outcome::Output | Outcome::Resource);
        self.findings.check(Law::S13, &[&id], reported || !of_itself);
        self.findings.check(Law::S5, &[&id], true);
        if had_locks {
            self.findings.check(Law::S10, &[&id], true);
        }
        if of_itself {
            self.count_begin(key);
        }
        self.give_back(key);
        self.leave_effects(key, run, (matches!(next, Next::Retry { .. }), matches!(next, Next::Succeeded | Next::Failed)));
        let epic = &mut self.epics[key.0];
        let undo = epic.instances[key.1 as usize].undo;
        let over = !undo && (epic.cancelling || (epic.stopping && !epic.task_of(key.1).condition.outlives_failure()));
        let once = epic.task_of(key.1).retry.is_once();
        let instance = &mut epic.instances[key.1 as usize];
        // What a drain took from its agent does not count, except where nothing may be tried twice.
        let moved = draining && !of_itself && !once;
        if began && (moved || (end.outcome == Outcome::NotStarted && !started)) {
            instance.began = instance.began.saturating_sub(1);
        }
        instance.stage = Stage::Idle;
        match next {
            Next::Succeeded if undo => self.end_undo(key, How::Undone, false),
            Next::Failed | Next::Cancelled if undo => self.end_undo(key, How::Succeeded, true),
            Next::Succeeded => self.settle(key, How::Succeeded),
            Next::Failed => self.settle(key, How::Failed),
            Next::Cancelled => self.settle(key, How::Cancelled),
            Next::Unknown => {
                instance.stage = Stage::Unknown;
                self.unasked.push(key);
            }
            // Whether a retry outlives the end of its epic's hopes can be read both ways.
            Next::Retry { .. } if over => epic.unsure = true,
            Next::Retry { at } if at > self.now => instance.stage = Stage::Backoff,
            Next::Retry { .. } => self.join_queues(key.0, &[key.1]),
        }
    }

    fn end_backoff(&mut self, key: InstanceKey) {
        let epic = &mut self.epics[key.0];
        let instance = &mut epic.instances[key.1 as usize];
        match instance.stage {
            Stage::Backoff => {
                instance.stage = Stage::Idle;
                self.join_queues(key.0, &[key.1]);
            }
            Stage::Ended(_) => {
                let unsure = epic.unsure;
                self.findings.check(Law::S5, &[&epic.id], unsure);
            }
            Stage::Idle | Stage::Open(_) | Stage::Nested(_) | Stage::Unknown => {}
        }
    }

    fn cancel_instance(&mut self, key: InstanceKey) {
        let epic = &mut self.epics[key.0];
        let instance = &mut epic.instances[key.1 as usize];
        match &instance.stage {
            Stage::Idle | Stage::Backoff | Stage::Unknown if instance.undo => self.end_undo(key, How::Succeeded, true),
            Stage::Idle | Stage::Backoff | Stage::Unknown => self.settle(key, How::Cancelled),
            Stage::Ended(How::Cancelled) => {}
            Stage::Ended(_) => {
                self.findings.check(Law::S5, &[&epic.id], false);
            }
            // The epic that it opened would go on without it.
            Stage::Nested(_) => {
                self.findings.check(Law::L2, &[&epic.id], false);
                self.settle(key, How::Cancelled);
            }
            // Its run ends here, but what it holds does not come back with this commit.
            Stage::Open(open) => {
                instance.written_off = Some((open.run, open.attempt));
                self.findings.check(Law::S10, &[&epic.id], false);
                self.give_back(key);
                self.settle(key, How::Cancelled);
            }
        }
    }

    /// S5: only what has not started can be left out.
    fn skip_instance(&mut self, key: InstanceKey) {
        let epic = &self.epics[key.0];
        let instance = &epic.instances[key.1 as usize];
        let waits = matches!(instance.stage, Stage::Idle | Stage::Backoff) && !instance.undo;
        if self.findings.check(Law::S5, &[&epic.id], waits || epic.unsure) && waits {
            self.settle(key, How::Skipped);
        }
    }

    fn reopen(&mut self, id: &EpicId, instances: &[u32]) -> Result<(), VerifyError> {
        let Some(position) = self.position(id) else { return Ok(()) };
        let epic = &mut self.epics[position];
        if instances.iter().any(|&i| i as usize >= epic.instances.len()) {
            return Err(self.inconsistent("a decision is about an instance that does not exist"));
        }
        let is_ended = |i: &u32| match epic.instances[*i as usize].stage {
            Stage::Ended(_) => true,
            Stage::Idle | Stage::Backoff => epic.unsure,
            Stage::Open(_) | Stage::Nested(_) | Stage::Unknown => false,
        };
        let (ended, others): (Vec<u32>, Vec<u32>) = instances.iter().copied().partition(is_ended);
        let by_right = others.is_empty() || epic.unsure;
        self.findings.check(Law::S5, &[id], by_right);
        self.judge_reopened(position);
        self.withdraw(position, &ended);
        let ready = self.epics[position].reopen(&ended);
        self.join_queues(position, &ready);
        Ok(())
    }

    fn resolve(&mut self, key: InstanceKey, resolution: Resolution) {
        let epic = &mut self.epics[key.0];
        let instance = &mut epic.instances[key.1 as usize];
        if !matches!(instance.stage, Stage::Unknown) {
            let unsure = epic.unsure || epic.cancelling;
            self.findings.check(Law::S5, &[&epic.id], unsure);
            return;
        }
        let undo = instance.undo;
        self.resolve_effects(key, resolution);
        let instance = &mut self.epics[key.0].instances[key.1 as usize];
        match resolution {
            Resolution::Succeeded if undo => self.end_undo(key, How::Undone, false),
            Resolution::Failed if undo => self.end_undo(key, How::Succeeded, false),
            Resolution::Succeeded => self.settle(key, How::Succeeded),
            Resolution::Failed => self.settle(key, How::Failed),
            // A person's word that it never began outweighs the record of its start.
            Resolution::NotStarted => {
                instance.stage = Stage::Idle;
                (instance.began, instance.voided, instance.triggered) = (0, true, false);
                self.join_queues(key.0, &[key.1]);
            }
        }
    }

    /// The node's attempts have to end with this commit.
    fn mourn(&mut self, former: Vec<InstanceKey>) {
        for key in former {
            if let Some(open) = self.open(key.0, key.1) {
                let entry = (key, open.run, open.attempt);
                self.lost.push(entry);
            }
        }
    }

    // --- finding what a decision is about ---

    /// The epic's position; S1 is violated if it was never accepted.
    pub(crate) fn position(&mut self, id: &EpicId) -> Option<usize> {
        match self.positions.get(id) {
            Some(position) => *position,
            None => {
                self.findings.check(Law::S1, &[id], false);
                None
            }
        }
    }

    pub(crate) fn with_epic(&mut self, id: &EpicId, act: impl FnOnce(&mut Self, usize)) {
        if let Some(position) = self.position(id) {
            act(self, position);
        }
    }

    fn on_instance(&mut self, id: &EpicId, i: u32, act: impl FnOnce(&mut Self, InstanceKey)) -> Result<(), VerifyError> {
        let Some(position) = self.position(id) else { return Ok(()) };
        if i as usize >= self.epics[position].instances.len() {
            return Err(self.inconsistent("a decision is about an instance that does not exist"));
        }
        act(self, (position, i));
        Ok(())
    }

    fn instance(&mut self, attempt: &AttemptRef) -> Result<Option<InstanceKey>, VerifyError> {
        let mut found = None;
        self.on_instance(&attempt.epic, attempt.i, |_, key| found = Some(key))?;
        Ok(found)
    }

    /// The same without judging; for inputs.
    pub(crate) fn find(&self, attempt: &AttemptRef) -> Option<InstanceKey> {
        let position = (*self.positions.get(&attempt.epic)?)?;
        ((attempt.i as usize) < self.epics[position].instances.len()).then_some((position, attempt.i))
    }

    pub(crate) fn open(&self, position: usize, i: u32) -> Option<&Open> {
        match &self.epics[position].instances[i as usize].stage {
            Stage::Open(open) => Some(open),
            Stage::Idle | Stage::Backoff | Stage::Nested(_) | Stage::Unknown | Stage::Ended(_) => None,
        }
    }

    fn open_mut(&mut self, (position, i): InstanceKey) -> Option<&mut Open> {
        match &mut self.epics[position].instances[i as usize].stage {
            Stage::Open(open) => Some(open),
            Stage::Idle | Stage::Backoff | Stage::Nested(_) | Stage::Unknown | Stage::Ended(_) => None,
        }
    }

    /// Runs `act` if the attempt is the open one; otherwise says which law forbids to decide anything about it.
    fn on_open(&mut self, attempt: &AttemptRef, excused: bool, act: impl FnOnce(&mut Self, InstanceKey)) -> Result<(), VerifyError> {
        let Some(key) = self.instance(attempt)? else { return Ok(()) };
        let named = (attempt.run, attempt.attempt);
        if self.open(key.0, key.1).is_some_and(|open| (open.run, open.attempt) == named) {
            act(self, key);
            return Ok(());
        }
        let instance = &mut self.epics[key.0].instances[key.1 as usize];
        if instance.written_off == Some(named) || excused {
            return Ok(());
        }
        // Nobody holds a token for what was never assigned; what was, has ended.
        let assigned_once = attempt.run < instance.run || (attempt.run == instance.run && attempt.attempt <= instance.attempts);
        let law = if assigned_once { Law::S5 } else { Law::S8 };
        self.findings.check(law, &[&attempt.epic], false);
        Ok(())
    }

    // --- what follows ---

    pub(crate) fn settle(&mut self, key: InstanceKey, how: How) {
        let shift = self.epics[key.0].settle(key.1, how);
        self.take_shift(key.0, shift);
    }

    /// Takes instances out of the lock queues; the caller says where they stand instead.
    pub(crate) fn withdraw(&mut self, position: usize, instances: &[u32]) {
        for &i in instances {
            if let Some(since) = self.epics[position].instances[i as usize].joined.take() {
                let locks = self.epics[position].locks(i);
                self.locks.leave(Party::Task((position, i)), since, &locks);
            }
        }
    }

    fn take_shift(&mut self, position: usize, shift: Shift) {
        for (i, since) in shift.withdrawn {
            let locks = self.epics[position].locks(i);
            self.locks.leave(Party::Task((position, i)), since, &locks);
        }
        self.join_queues(position, &shift.ready);
    }

    /// Ready instances ask for their locks as of this commit.
    pub(crate) fn join_queues(&mut self, position: usize, ready: &[u32]) {
        let at = self.findings.at.0;
        for &i in ready {
            let epic = &mut self.epics[position];
            let idle = matches!(epic.instances[i as usize].stage, Stage::Idle);
            let fresh = epic.instances[i as usize].joined.is_none();
            if idle && fresh && !epic.task_of(i).locks.is_empty() {
                let locks = epic.locks(i);
                epic.instances[i as usize].joined = Some(at);
                self.locks.join(Party::Task((position, i)), at, &locks);
            }
        }
    }
}
