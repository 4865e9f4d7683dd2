//! Pins: an operator's word on who has the next attempt of a task.
//!
//! A pinned request is in a class of its own ([`Demand`] names the agent), so it keeps its place in all lock queues and its epic's turn,
//! and nobody else is asked. A pin is used up by the attempt that it leads to, goes with the end of its run, and is dropped as soon as
//! its agent can never answer it (gone, quarantined, drained). Never decides on its own: whoever drops a pin says so in the journal.

use std::collections::BTreeSet;

use amphi_protocol::event::EventType;
use amphi_protocol::ids::{AgentId, EpicId};
use amphi_protocol::journal::Duty;

use crate::epic::Pin;
use crate::fleet::{AgentState, Demand};
use crate::sink::{EventSink, data};
use crate::state::State;

impl State {
    /// The instances get their pin, or another one.
    pub(crate) fn task_pinned(&mut self, id: &EpicId, instances: &[u32], agent: &AgentId, by: &str, sink: &mut EventSink) {
        for &i in instances {
            self.set_pin(id, i, Some(Pin { agent: agent.clone(), by: by.to_owned() }));
            self.instance_event(sink, EventType::TaskPinned, (id, i), data! { "agent": agent, "by": by });
        }
    }

    /// Nothing waits for the agent any more.
    pub(crate) fn pins_dropped(&mut self, agent: &AgentId, cause: &str, sink: &mut EventSink) {
        for (id, i) in self.pins.get(agent).cloned().unwrap_or_default() {
            self.set_pin(&id, i, None);
            self.instance_event(sink, EventType::TaskUnpinned, (&id, i), data! { "agent": agent, "cause": cause });
        }
    }

    /// The pin of an instance is used up, or its run is over. The instance must not be in a queue.
    pub(crate) fn forget_pin(&mut self, id: &EpicId, i: u32) {
        let Some(pin) = self.epic_mut(id).instances[i as usize].pin.take() else { return };
        if let Some(pinned) = self.pins.get_mut(&pin.agent) {
            pinned.remove(&(id.clone(), i));
            if pinned.is_empty() {
                self.pins.remove(&pin.agent);
                self.queue.forget(&pin.agent);
            }
        }
    }

    fn set_pin(&mut self, id: &EpicId, i: u32, pin: Option<Pin>) {
        let ready = self.epics[id].instances[i as usize].state.order();
        // By the demand that it had until now.
        let ready = ready.map(|order| (order, self.leave_class(id, i, order)));
        self.forget_pin(id, i);
        if let Some(pin) = pin {
            self.pins.entry(pin.agent.clone()).or_default().insert((id.clone(), i));
            self.epic_mut(id).instances[i as usize].pin = Some(Box::new(pin));
        }
        if let Some((order, locks)) = ready {
            self.join_class(id, i, order, locks);
        }
    }

    /// A request leaves its class; its place in the lock queues stays. True if it asks for locks.
    pub(crate) fn leave_class(&mut self, id: &EpicId, i: u32, order: u64) -> bool {
        let epic = &self.epics[id];
        let class = self.queue.find(&epic.demand(i)).expect("a ready instance has a class");
        let class = &mut self.queue.classes[class];
        class.runnable.remove(epic.rank(i, order), epic.turn, id);
        class.locking.remove(&order)
    }

    /// A request that is in no class enters that of its demand; its place in the lock queues stays.
    pub(crate) fn join_class(&mut self, id: &EpicId, i: u32, order: u64, locks: bool) {
        let epic = &self.epics[id];
        let (rank, turn, paused) = (epic.rank(i, order), epic.turn, epic.paused);
        let class = self.queue.class(epic.demand(i), &self.fleet);
        if !locks {
            if !paused {
                self.queue.classes[class].runnable.insert(rank, turn, id, i);
            }
        } else {
            self.queue.classes[class].locking.insert(order);
            let parked = paused || !self.queue.classes[class].servable;
            let changes = if parked { self.locks.park(order) } else { self.locks.unpark(order) };
            self.follow(changes);
        }
        self.due.fresh.push((id.clone(), i));
    }

    /// Agents with pins that they will never answer, and why. Costs the pins; only asked after a change of the fleet.
    pub(crate) fn vain_pins(&self) -> Vec<(AgentId, &'static str)> {
        let able = |agent: &AgentId, pinned: &BTreeSet<(EpicId, u32)>| {
            let known = &self.fleet.agents[agent];
            pinned.iter().all(|(id, i)| Demand::of(self.epics[id].spec_of(*i)).accepts(&known.role, &known.skills))
        };
        let vain = self.pins.iter().filter_map(|(agent, pinned)| {
            let why = self.unfit(agent).or_else(|| (!able(agent, pinned)).then_some("it has another role now"))?;
            Some((agent.clone(), why))
        });
        vain.collect()
    }

    /// Why nothing may be kept waiting for an agent; `None` if it can take work, now or later.
    pub(crate) fn unfit(&self, id: &AgentId) -> Option<&'static str> {
        let Some(agent) = self.fleet.agents.get(id) else { return Some("it has left") };
        let node = self.fleet.nodes.get(&agent.node).filter(|node| node.alive);
        match (agent.state.clone(), agent.duty, node.map(|node| node.duty)) {
            (AgentState::Gone, ..) | (_, _, None) => Some("its node is lost"),
            (AgentState::Quarantined, ..) => Some("it died too often"),
            (_, Duty::Draining { .. }, _) => Some("it is drained"),
            (_, _, Some(Duty::Draining { .. } | Duty::Paused)) => Some("its node is drained"),
            (AgentState::Idle | AgentState::Busy(_) | AgentState::Down, Duty::Active | Duty::Paused, Some(Duty::Active)) => None,
        }
    }
}
