//! The decision that carries most laws: an attempt is given to an agent, with all its locks (S4 to S8, S11, S12, S14).

use amphi_protocol::ids::{AgentId, AttemptRef, Incarnation, NodeId, Token};

use crate::checker::Checker;
use crate::cluster::InstanceKey;
use crate::locks::{LockSet, Party};
use crate::model::{Open, Stage};
use crate::verdict::Law;

/// An `Assigned` decision.
pub(crate) struct Grant<'d> {
    pub attempt: &'d AttemptRef,
    pub agent: &'d AgentId,
    pub node: &'d NodeId,
    pub incarnation: Incarnation,
    pub token: Token,
}

impl Checker {
    /// Judges an assignment and applies it.
    pub(crate) fn grant(&mut self, key: InstanceKey, grant: &Grant<'_>) {
        let (position, i) = key;
        let id = self.epics[position].id.clone();
        let grows = self.last_token.is_none_or(|last| grant.token > last);
        self.findings.check(Law::S8, &[&id], grows);
        self.last_token = self.last_token.max(Some(grant.token));
        if !self.is_next_attempt(key, grant) {
            return;
        }
        let epic = &self.epics[position];
        let task = epic.position_of(i);
        // Whether an undo may start was judged when it was decided on.
        let undo = epic.instances[i as usize].undo;
        if !undo && (epic.has_needs(task) || !epic.may_start(task)) {
            self.findings.check(Law::S6, &[&id], epic.may_start(task) || epic.unsure);
        }
        // Nothing new of a paused epic starts.
        if epic.paused {
            self.findings.check(Law::S6, &[&id], false);
        }
        let wanted = epic.task_of(i);
        let fits = self.cluster.may_run(grant.agent, grant.node, grant.incarnation, wanted);
        let pin = epic.instances[i as usize].pinned_to();
        self.findings.check(Law::S14, &[&id], fits && pin.is_none_or(|only| only == grant.agent));
        if let Some(last) = epic.instances[i as usize].last_agent.as_ref().filter(|_| pin.is_none()) {
            let same_by_choice = last == grant.agent && self.cluster.another_could(grant.agent, wanted);
            self.findings.check(Law::S12, &[&id], !same_by_choice);
        }
        let locks = epic.locks(i);
        if !locks.is_empty() {
            self.judge_locks(key, &locks);
        }
        self.begin_attempt(key, grant, locks);
    }

    /// S4 and S5: the run is open, no other attempt of it is, and the number follows. False if there is nothing to apply.
    fn is_next_attempt(&mut self, (position, i): InstanceKey, grant: &Grant<'_>) -> bool {
        let epic = &mut self.epics[position];
        let (id, instance) = (epic.id.clone(), &mut epic.instances[i as usize]);
        if std::mem::take(&mut instance.voided) && instance.run.checked_add(1) == Some(grant.attempt.run) {
            (instance.run, instance.attempts, instance.last_agent) = (grant.attempt.run, 0, None);
        }
        let ended = matches!(instance.stage, Stage::Ended(_)) && !epic.unsure;
        if ended || instance.run != grant.attempt.run {
            return self.findings.check(Law::S5, &[&id], false);
        }
        if matches!(instance.stage, Stage::Unknown) {
            return self.findings.check(Law::S9, &[&id], false);
        }
        let superseded = matches!(instance.stage, Stage::Open(_));
        let follows = instance.attempts.checked_add(1) == Some(grant.attempt.attempt);
        self.findings.check(Law::S4, &[&id], !superseded && follows);
        if superseded {
            self.give_back((position, i));
        }
        true
    }

    fn judge_locks(&mut self, key: InstanceKey, locks: &LockSet) {
        let epic = &self.epics[key.0];
        let party = Party::Task(key);
        let with = |other: Party| {
            let others = other.task().map(|(position, _)| &self.epics[position].id);
            std::iter::once(&epic.id).chain(others).collect::<Vec<_>>()
        };
        match self.locks.excluded_by(party, locks) {
            Some(holder) => self.findings.check(Law::S7, &with(holder), false),
            None => self.findings.check(Law::S7, &[&epic.id], true),
        };
        let Some(since) = epic.instances[key.1 as usize].joined else { return };
        let overtaken = self.locks.earlier_rivals(party, since, locks).find(|rival| self.could_have_been_served(*rival));
        match overtaken {
            Some(rival) => {
                self.findings.check(Law::S11, &with(rival), false);
            }
            None if self.locks.has_rival(party, locks) => {
                self.findings.check(Law::S11, &[&epic.id], true);
            }
            None => {}
        }
    }

    /// False where the interface lets others pass: no living agent, or a bound of its own that holds it back.
    pub(crate) fn could_have_been_served(&self, party: Party) -> bool {
        // An owner outside needs nobody's time.
        let Party::Task((position, i)) = party else { return true };
        let epic = &self.epics[position];
        let task = epic.task_of(i);
        let held_back = task.max_parallel.is_some() || epic.stopping || epic.cancelling || epic.paused || epic.unsure;
        let pin = epic.instances[i as usize].pinned_to();
        !held_back && self.cluster.somebody_lives_for(task, pin)
    }

    fn begin_attempt(
        &mut self,
        key: InstanceKey,
        grant: &Grant<'_>,
        locks: Vec<(crate::spec::LockKey, amphi_protocol::document::LockMode)>,
    ) {
        let instance = &mut self.epics[key.0].instances[key.1 as usize];
        if let Some(since) = instance.joined.take() {
            self.locks.leave(Party::Task(key), since, &locks);
        }
        self.locks.hold(Party::Task(key), &locks);
        self.cluster.occupy(grant.agent, grant.node, key);
        instance.attempts = grant.attempt.attempt;
        instance.last_agent = Some(grant.agent.clone());
        instance.pin = None;
        instance.stage = Stage::Open(Box::new(Open {
            run: grant.attempt.run,
            attempt: grant.attempt.attempt,
            agent: grant.agent.clone(),
            node: grant.node.clone(),
            incarnation: grant.incarnation,
            token: grant.token,
            locks,
            claimed: false,
            started: false,
            began: false,
            draining: false,
        }));
    }

    /// Takes locks and agent back from the open attempt of an instance, which the caller then ends.
    pub(crate) fn give_back(&mut self, key: InstanceKey) {
        if let Stage::Open(open) = &self.epics[key.0].instances[key.1 as usize].stage {
            self.locks.release(Party::Task(key), &open.locks);
            self.cluster.vacate(&open.agent, &open.node, key);
        }
    }
}
