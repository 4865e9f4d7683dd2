//! Where the living actor of each agent of this node is found. It is a way to reach them, not the truth about them: an entry may
//! already be dead, and sending to it then fails.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use amphi_protocol::ids::{AgentId, RoleName};
use dashmap::DashMap;
use ractor::{ActorRef, ActorStatus};

use crate::specialist::SpecialistMessage;

/// Agents and their actors. Clones share the same entries.
#[derive(Debug, Clone, Default)]
pub struct AgentRegistry(Arc<DashMap<AgentId, (RoleName, AgentEntry)>>);

impl AgentRegistry {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// The agent's actor is now this one. [`crate::Specialist`] calls it at every start.
    pub fn put(&self, agent: AgentId, role: RoleName, entry: AgentEntry) {
        self.0.insert(agent, (role, entry));
    }

    /// The agent has left for good.
    pub fn remove(&self, agent: &AgentId) {
        self.0.remove(agent);
    }

    /// All agents of `role`, or of all roles, in the order of their ids.
    pub fn of_role(&self, role: Option<&RoleName>) -> Vec<(AgentId, AgentEntry)> {
        let of_role = self.0.iter().filter(|entry| role.is_none_or(|role| entry.value().0 == *role));
        let mut agents: Vec<_> = of_role.map(|entry| (entry.key().clone(), entry.value().1.clone())).collect();
        agents.sort_by(|(a, _), (b, _)| a.cmp(b));
        agents
    }

    /// The roles of all agents.
    pub fn roles(&self) -> BTreeSet<RoleName> {
        self.0.iter().map(|entry| entry.value().0.clone()).collect()
    }

    /// The last known actor of an agent.
    pub fn get(&self, agent: &AgentId) -> Option<AgentEntry> {
        self.0.get(agent).map(|entry| entry.1.clone())
    }

    /// True if the agent has an actor that has not ended.
    pub fn is_alive(&self, agent: &AgentId) -> bool {
        self.0.get(agent).is_some_and(|entry| !entry.1.is_dead())
    }
}

/// The actor of an agent, and the count of its waiting messages.
#[derive(Debug, Clone)]
pub struct AgentEntry {
    /// The actor.
    pub actor: ActorRef<SpecialistMessage>,
    /// The sender counts up, the actor counts down.
    pub mailbox: Arc<AtomicU64>,
}

impl AgentEntry {
    /// Sends without waiting; false if the actor is dead.
    pub fn send(&self, message: SpecialistMessage) -> bool {
        self.mailbox.fetch_add(1, Ordering::Relaxed);
        let sent = self.actor.cast(message).is_ok();
        if !sent {
            taken(&self.mailbox);
        }
        sent
    }

    /// True once the actor can handle nothing any more.
    pub fn is_dead(&self) -> bool {
        self.actor.get_status() >= ActorStatus::Stopping
    }
}

/// One message less. Never below zero: a restart empties the mailbox in between.
pub(crate) fn taken(mailbox: &AtomicU64) {
    let _ = mailbox.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |depth| depth.checked_sub(1));
}
