//! The agents as the desk sees them: who is there, who is busy, who does not answer.
//!
//! The desk kills an actor that hangs; starting it again is its supervisor's work, and the desk hears of it.

use std::time::Duration;

use amphi_protocol::ids::{AgentId, AttemptRef, RoleName};
use amphi_protocol::journal::{AgentInfo, AgentLife, AgentReport, Input, Outcome};
use ractor::ActorId;
use tokio::time::Instant;

use super::attempts::Phase;
use super::staff::Leaving;
use super::{AgentSnapshot, DeskArguments, DeskMessage, DeskState};
use crate::outbox::Outbox;
use crate::specialist::SpecialistMessage;

/// One agent.
pub(super) struct AgentSlot {
    info: AgentInfo,
    life: AgentLife,
    restarts: u32,
    attempt: Option<AttemptRef>,
    /// It is up, but the leader hears of it only when the attempt of its former actor is over: otherwise it would be given work that
    /// it cannot take.
    up_withheld: bool,
    /// It is to leave.
    pub(super) leaving: Option<Leaving>,
    /// Since it had something to do, or came.
    idle_since: Instant,
}

impl AgentSlot {
    pub(super) fn new(info: AgentInfo) -> Self {
        Self { info, life: AgentLife::Up, restarts: 0, attempt: None, up_withheld: false, leaving: None, idle_since: Instant::now() }
    }

    pub(super) fn info(&self) -> AgentInfo {
        self.info.clone()
    }

    pub(super) fn life(&self) -> AgentLife {
        self.life
    }

    pub(super) fn attempt(&self) -> Option<&AttemptRef> {
        self.attempt.as_ref()
    }

    fn leaves_for_sure(&self) -> bool {
        self.leaving.is_some_and(|leaving| leaving.for_sure)
    }
}

impl DeskState {
    /// Whether an agent can take an attempt, and if not, why.
    pub(super) fn free(&self, agent: &AgentId) -> Result<(), String> {
        if self.drain.is_some() {
            return Err("the node drains".to_owned());
        }
        let Some(slot) = self.agents.get(agent) else { return Err(format!("the node has no agent {agent}")) };
        match (&slot.attempt, slot.life) {
            (Some(attempt), _) => Err(format!("its agent has {attempt}")),
            (None, _) if slot.leaves_for_sure() => Err("its agent leaves".to_owned()),
            (None, AgentLife::Down) => Err("its agent is down".to_owned()),
            (None, AgentLife::Quarantined) => Err("its agent is in quarantine".to_owned()),
            (None, AgentLife::Up) if !self.arguments.registry.is_alive(agent) => Err("its agent is dead".to_owned()),
            (None, AgentLife::Up) => Ok(()),
        }
    }

    /// The role of an agent of this node.
    pub(super) fn role_of(&self, agent: &AgentId) -> Option<RoleName> {
        self.agents.get(agent).map(|slot| slot.info.role.clone())
    }

    pub(super) fn occupy(&mut self, agent: &AgentId, attempt: &AttemptRef) {
        let Some(slot) = self.agents.get_mut(agent) else { return };
        slot.attempt = Some(attempt.clone());
        metrics::gauge!("amphi_agent_busy", "role" => slot.info.role.to_string()).increment(1.0);
    }

    pub(super) fn release(&mut self, agent: &AgentId, attempt: &AttemptRef) {
        let Some(slot) = self.agents.get_mut(agent) else { return };
        if slot.attempt.as_ref() != Some(attempt) {
            return;
        }
        slot.attempt = None;
        metrics::gauge!("amphi_agent_busy", "role" => slot.info.role.to_string()).decrement(1.0);
        slot.idle_since = Instant::now();
        let leaves = slot.leaves_for_sure();
        if std::mem::take(&mut slot.up_withheld) && !leaves {
            self.report_agent(agent, "started again");
        }
        self.leave_if_idle(agent);
    }

    pub(super) fn count(&self, agent: &AgentId, outcome: Outcome) {
        let role = self.agents.get(agent).map_or_else(String::new, |slot| slot.info.role.to_string());
        metrics::counter!("amphi_agent_tasks_total", "role" => role, "outcome" => outcome_label(outcome)).increment(1);
    }

    pub(super) fn agent_exited(&mut self, agent: &AgentId, reason: &str) {
        self.mark(agent, AgentLife::Down, reason);
        self.orphan_of(agent, reason);
    }

    pub(super) fn agent_quarantined(&mut self, agent: &AgentId, reason: &str) {
        self.mark(agent, AgentLife::Quarantined, reason);
        self.orphan_of(agent, reason);
    }

    pub(super) fn agent_up(&mut self, agent: &AgentId, restarts: u32) {
        let Some(slot) = self.agents.get_mut(agent) else { return };
        if (slot.life, slot.restarts) == (AgentLife::Up, restarts) {
            return;
        }
        // The count only grows in a life of the node, also where the supervisor itself was started again and counts anew.
        let restarts = if slot.life == AgentLife::Up { restarts } else { restarts.max(slot.restarts + 1) };
        (slot.life, slot.restarts) = (AgentLife::Up, restarts);
        if self.drain.is_some() || slot.leaves_for_sure() {
            return;
        }
        if slot.attempt.is_some() {
            slot.up_withheld = true;
        } else {
            self.report_agent(agent, "started again");
        }
    }

    /// An actor that the desk killed is dead. Its supervisor says so too, before or after; whichever comes first counts.
    pub(super) fn actor_dead(&mut self, agent: &AgentId, actor: ActorId, reason: &str) {
        let successor = self.arguments.registry.get(agent).is_some_and(|entry| entry.actor.get_id() != actor);
        if !successor {
            self.mark(agent, AgentLife::Down, reason);
        }
        self.orphan_of(agent, reason);
    }

    fn mark(&mut self, agent: &AgentId, life: AgentLife, reason: &str) {
        let Some(slot) = self.agents.get_mut(agent) else { return };
        slot.up_withheld = false;
        if std::mem::replace(&mut slot.life, life) != life && self.drain.is_none() {
            self.report_agent(agent, reason);
        }
    }

    /// Ends the attempt of an agent whose actor died, unless a later actor has it.
    fn orphan_of(&mut self, agent: &AgentId, reason: &str) {
        let Some(attempt) = self.agents.get(agent).and_then(|slot| slot.attempt.clone()) else { return };
        match self.held.get(&attempt).map(|held| &held.phase) {
            Some(Phase::Claiming { .. }) => self.end_unbegun(&attempt, reason),
            Some(Phase::Given { entry, .. }) if entry.is_dead() => self.orphan(&attempt, reason),
            Some(Phase::Given { .. }) | None => {}
        }
    }

    /// Pings every busy agent. One that did not answer several in a row is hung: counted in pings, not in time, so that a node that was
    /// frozen as a whole kills nobody when it goes on.
    pub(super) fn ping(&mut self) {
        let settings = &self.arguments.settings;
        let unanswered_max = periods(settings.hung_after, settings.ping);
        let mut hung = Vec::new();
        for (attempt, held) in &mut self.held {
            let Phase::Given { entry, unanswered, .. } = &mut held.phase else { continue };
            if *unanswered >= unanswered_max {
                hung.push(attempt.clone());
            } else if entry.send(SpecialistMessage::Ping) {
                *unanswered += 1;
            }
        }
        for attempt in hung {
            self.kill(&attempt, "it did not answer");
        }
    }

    pub(super) fn pong(&mut self, agent: &AgentId, actor: ActorId) {
        let attempt = self.agents.get(agent).and_then(|slot| slot.attempt.as_ref());
        let held = attempt.and_then(|attempt| self.held.get_mut(attempt));
        if let Some(Phase::Given { entry, unanswered, .. }) = held.map(|held| &mut held.phase)
            && entry.actor.get_id() == actor
        {
            *unanswered = 0;
        }
    }

    /// Kills the hung actor that has the attempt. The attempt ends when the actor is dead.
    pub(super) fn kill(&mut self, attempt: &AttemptRef, why: &str) {
        let Some(held) = self.held.get_mut(attempt) else { return };
        let Phase::Given { entry, killed, .. } = &mut held.phase else { return };
        if std::mem::replace(killed, true) || entry.is_dead() {
            return;
        }
        let agent = held.agent.clone();
        tracing::warn!(%agent, %attempt, why, "agent is hung, its actor is killed");
        metrics::counter!("amphi_agent_hung_total").increment(1);
        entry.actor.kill();
        let (actor, reason, desk) = (entry.actor.clone(), format!("hung: {why}"), self.myself.clone());
        tokio::spawn(async move {
            // Without a deadline: as long as the actor lives, its attempt is not over.
            let _ = actor.wait(None).await;
            let _ = desk.cast(DeskMessage::ActorDead { agent, actor: actor.get_id(), reason });
        });
    }

    /// Tells the leader what the agent is now.
    pub(super) fn report_agent(&self, agent: &AgentId, cause: &str) {
        let Some(slot) = self.agents.get(agent) else { return };
        push_agent(&self.arguments, &self.outbox, slot, slot.life, cause);
    }

    /// Tells the leader that the agent is this, whatever it is.
    pub(super) fn report_agent_as(&self, agent: &AgentId, life: AgentLife, cause: &str) {
        let Some(slot) = self.agents.get(agent) else { return };
        push_agent(&self.arguments, &self.outbox, slot, life, cause);
    }

    /// The leader gives no more work to agents that are down.
    pub(super) fn withdraw_agents(&mut self, cause: &str) {
        for slot in self.agents.values_mut() {
            // Of an agent whose return is withheld the leader knows that it is down, and so it stays.
            if !std::mem::take(&mut slot.up_withheld) && slot.life == AgentLife::Up {
                push_agent(&self.arguments, &self.outbox, slot, AgentLife::Down, cause);
            }
        }
    }

    /// Corrects what a join says: it presents every agent as ready.
    pub(super) fn report_absent(&mut self) {
        for slot in self.agents.values_mut() {
            if slot.life == AgentLife::Up && !self.arguments.registry.is_alive(&slot.info.agent) {
                slot.life = AgentLife::Down;
            }
        }
        for slot in self.agents.values().filter(|slot| slot.life != AgentLife::Up || slot.restarts > 0) {
            push_agent(&self.arguments, &self.outbox, slot, slot.life, "as of joining");
        }
    }

    /// True when nobody is still to be waited for.
    pub(super) fn is_staffed(&self) -> bool {
        let there = |slot: &AgentSlot| slot.life == AgentLife::Quarantined || self.arguments.registry.is_alive(&slot.info.agent);
        self.agents.values().all(there)
    }

    pub(super) fn agent_snapshots(&self) -> Vec<AgentSnapshot> {
        let shown = |slot: &AgentSlot| AgentSnapshot {
            info: slot.info.clone(),
            life: slot.life,
            restarts: slot.restarts,
            attempt: slot.attempt.clone(),
            idle: if slot.attempt.is_some() { Duration::ZERO } else { slot.idle_since.elapsed() },
            leaving: slot.leaving.is_some(),
        };
        self.agents.values().map(shown).collect()
    }
}

fn push_agent(arguments: &DeskArguments, outbox: &Outbox, slot: &AgentSlot, state: AgentLife, cause: &str) {
    let (node, incarnation) = (arguments.node.clone(), arguments.incarnation);
    let (agent, restarts, cause) = (slot.info.agent.clone(), slot.restarts, cause.to_owned());
    outbox.push(Input::Agent(AgentReport { node, incarnation, agent, state, restarts, cause }));
}

/// How many whole periods cover `time`, at least one.
fn periods(time: Duration, period: Duration) -> u32 {
    let count = time.as_millis().div_ceil(period.as_millis().max(1)).max(1);
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn outcome_label(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Succeeded => "succeeded",
        Outcome::Exit => "exit",
        Outcome::Output => "output",
        Outcome::Resource => "resource",
        Outcome::Cancelled => "cancelled",
        Outcome::AgentLost => "agent_lost",
        Outcome::NotStarted => "not_started",
    }
}
