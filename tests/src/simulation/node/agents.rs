//! The agents of a simulated node: they die and come back, some come later and leave again.

use amphi_protocol::ids::{AgentId, Incarnation};
use amphi_protocol::journal::{AgentInfo, AgentLife, Input, StaffCause, StaffReport};

use super::{Ending, Event, QUARANTINE_AFTER, SLOTS_MAX, Slot, World};

impl World {
    /// The actor of an agent dies; its supervisor starts it again, or gives it up until a person does.
    pub fn agent_crashes(&mut self, node: usize, agent: usize) {
        let quarantine = self.nodes[node].slots[agent].restarts >= QUARANTINE_AFTER || self.rng.chance(10);
        let slot = &mut self.nodes[node].slots[agent];
        if slot.life != AgentLife::Up {
            return;
        }
        slot.up_withheld = false;
        slot.life = if quarantine { AgentLife::Quarantined } else { AgentLife::Down };
        let attempt = slot.attempt.clone();
        self.tally.fault(if quarantine { "agent.quarantine" } else { "agent.crash" });
        self.report_agent(node, agent);
        let life = self.nodes[node].life;
        let delay = if quarantine { self.rng.between(500, 4_000) } else { self.rng.between(5, 600) };
        self.after(delay, Event::AgentUp { node, life, agent });
        if let Some(attempt) = attempt {
            self.end_unbegun(node, &attempt);
            self.stop(node, &attempt, Ending::Lost);
        }
    }

    pub(super) fn agent_up(&mut self, node: usize, agent: usize) {
        let slot = &mut self.nodes[node].slots[agent];
        if slot.gone {
            return;
        }
        slot.life = AgentLife::Up;
        slot.restarts += 1;
        if slot.attempt.is_some() {
            slot.up_withheld = true;
        } else {
            self.report_agent(node, agent);
        }
    }

    /// A pool grows or shrinks.
    pub(super) fn staff_changes(&mut self, node: usize) {
        let it = &mut self.nodes[node];
        let leaver = it.slots.iter().position(|slot| slot.hired && !slot.gone && slot.attempt.is_none() && slot.life == AgentLife::Up);
        let (mut added, mut removed) = (Vec::new(), Vec::new());
        if let Some(leaver) = leaver {
            removed.push(it.slots[leaver].info.agent.clone());
        } else if let Some(like) = it.slots.first().map(|slot| slot.info.clone()).filter(|_| it.slots.len() < SLOTS_MAX) {
            let agent = AgentId::parse(&format!("{}-{}-{}", it.id, like.role, it.slots.len() + 1)).expect("the id is valid");
            let info = AgentInfo { agent, ..like };
            it.slots.push(Slot { hired: true, ..Slot::new(info.clone()) });
            added.push(info);
        } else {
            return;
        }
        let cause = if removed.is_empty() { StaffCause::Queue } else { StaffCause::Idle };
        let report = StaffReport { node: it.id.clone(), incarnation: Incarnation(it.life), added, removed, cause };
        self.push(node, Input::Staff(report));
    }
}
