//! The ready queue: requests that only wait for an agent, by demand class, and the choice of the next assignment.
//!
//! A class is what a task asks of an agent (role, skills). Few classes exist, so a choice looks at each class's best request only:
//! its cost does not depend on how many tasks wait. Whose request is the best is said by [`Backlog`]: priority, then the epics of that
//! priority in turn, then age. An epic has one place in the ring of all classes, so that what it asks for does not decide how much it gets.

use std::collections::{BTreeMap, BTreeSet};

use amphi_protocol::ids::{AgentId, EpicId, NodeId, RoleName};
use serde::{Deserialize, Serialize};

use crate::backlog::{Backlog, Claim, Turn};
use crate::fleet::{Demand, Fleet};

/// Everything that asks the same of an agent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Class {
    pub demand: Demand,
    /// Profiles that serve it.
    pub profiles: Vec<usize>,
    /// Requests that wait for an agent only.
    pub runnable: Backlog,
    /// Requests that hold a place in lock queues (waiting or parked).
    pub locking: BTreeSet<u64>,
    /// An agent that could serve it lives.
    pub servable: bool,
}

/// All classes.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ReadyQueue {
    pub classes: Vec<Class>,
    /// The last turn that was given.
    pub turn: Turn,
}

/// What is assigned next.
pub(crate) struct Pick {
    pub epic: EpicId,
    pub i: u32,
    pub agent: AgentId,
    pub node: NodeId,
}

impl ReadyQueue {
    /// The class of a demand, made if it is new.
    pub fn class(&mut self, demand: Demand, fleet: &Fleet) -> usize {
        if let Some(known) = self.classes.iter().position(|class| class.demand == demand) {
            return known;
        }
        let profiles: Vec<usize> = (0..fleet.profiles.len()).filter(|&profile| fleet.profiles[profile].serves(&demand)).collect();
        let servable = fleet.can_serve(&demand, &profiles);
        self.classes.push(Class { demand, profiles, runnable: Backlog::default(), locking: BTreeSet::new(), servable });
        self.classes.len() - 1
    }

    /// The class of a demand, if anything ever asked for it.
    pub fn find(&self, demand: &Demand) -> Option<usize> {
        self.classes.iter().position(|class| class.demand == *demand)
    }

    /// Nothing is pinned to the agent any more, so that its classes are empty.
    pub fn forget(&mut self, agent: &AgentId) {
        self.classes.retain(|class| class.demand.agent.as_ref() != Some(agent));
    }

    /// Profiles appeared.
    pub fn add_profiles(&mut self, new: &[usize], fleet: &Fleet) {
        for class in &mut self.classes {
            class.profiles.extend(new.iter().copied().filter(|&profile| fleet.profiles[profile].serves(&class.demand)));
        }
    }

    /// How many requests for each role wait for nothing but an agent.
    pub fn waiting(&self) -> BTreeMap<RoleName, u32> {
        let mut waiting = BTreeMap::new();
        // What is pinned to one agent is not helped by more of them.
        for class in self.classes.iter().filter(|class| class.demand.agent.is_none()) {
            // Where nobody lives who could serve them, those that need locks are not in the lock queues either.
            let count = class.runnable.len() + if class.servable { 0 } else { class.locking.len() };
            if let Some(role) = class.demand.role.as_ref().filter(|_| count > 0) {
                let of_role: &mut u32 = waiting.entry(role.clone()).or_default();
                *of_role = of_role.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
            }
        }
        waiting
    }

    /// Classes whose last able agent went, or whose first one came, since the last call.
    pub fn update_servable(&mut self, fleet: &Fleet) -> Vec<usize> {
        let mut changed = Vec::new();
        for (position, class) in self.classes.iter_mut().enumerate() {
            let servable = fleet.can_serve(&class.demand, &class.profiles);
            if servable != class.servable {
                class.servable = servable;
                changed.push(position);
            }
        }
        changed
    }

    /// A place at the end of the ring.
    pub fn next_turn(&mut self) -> Turn {
        self.turn = Turn(self.turn.0 + 1);
        self.turn
    }

    /// The epic was served: it goes to the end of the ring, in every class. Returns its new place.
    pub fn advance(&mut self, epic: &EpicId, from: Turn) -> Turn {
        let to = self.next_turn();
        for class in &mut self.classes {
            class.runnable.advance(epic, from, to);
        }
        to
    }

    /// The next assignment: the best request that an idle agent with room can take.
    pub fn pick(&self, fleet: &Fleet, last_agent: impl Fn(&EpicId, u32) -> Option<AgentId>, visited: &mut u64) -> Option<Pick> {
        let mut best: Option<(Claim, Pick)> = None;
        for class in &self.classes {
            *visited += 1;
            let Some((claim, epic, i)) = class.runnable.first() else { continue };
            if best.as_ref().is_some_and(|(best, _)| *best <= claim) {
                continue;
            }
            let chosen = match &class.demand.agent {
                Some(only) => fleet.choose_only(only),
                None => fleet.choose(&class.profiles, last_agent(epic, i).as_ref(), visited),
            };
            if let Some((agent, node)) = chosen {
                best = Some((claim, Pick { epic: epic.clone(), i, agent, node }));
            }
        }
        best.map(|(_, pick)| pick)
    }
}
