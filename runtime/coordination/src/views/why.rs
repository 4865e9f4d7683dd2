//! Why a task does not run: the chain of causes from the task itself to the one that everything else waits for.

use std::collections::BTreeSet;

use amphi_protocol::document::LockMode;
use amphi_protocol::ids::EpicId;
use amphi_protocol::journal::Duty;
use amphi_protocol::view::{WaitView, WhyView};

use crate::epic::{Epic, InstanceState};
use crate::graph::WaitReason;
use crate::locks::Party;
use crate::state::State;
use crate::views::Leases;

/// Longest chain that is shown.
const CHAIN_MAX: usize = 32;
/// Held agents and nodes that are named.
const HELD_SHOWN: usize = 5;

impl State {
    /// The chain of causes; empty if the task runs or has ended.
    pub fn why(&self, id: &EpicId, key: &str, leases: Leases<'_>) -> Option<WhyView> {
        let epic = self.epics.get(id)?;
        let first = *self.instances(id, key).first()?;
        let mut waits = Vec::new();
        let mut seen = BTreeSet::new();
        let mut at = Some((epic, first));
        while let Some((epic, i)) = at {
            if waits.len() >= CHAIN_MAX || !seen.insert((epic.id.clone(), i)) {
                break;
            }
            at = self.step(epic, i, leases, &mut waits);
        }
        let view = self.task(id, &epic.key(first))?;
        Some(WhyView { epic: view.epic, task: view.task, state: view.state, waits })
    }

    /// Adds what instance `i` waits for, and returns the instance to look at next.
    fn step<'s>(&'s self, epic: &'s Epic, i: u32, leases: Leases<'_>, waits: &mut Vec<WaitView>) -> Option<(&'s Epic, u32)> {
        let plain = |reason: &str, on: String| WaitView { reason: reason.to_owned(), on, holder: None, lease_left_ms: None, place: None };
        match &epic.instances[i as usize].state {
            InstanceState::Blocked => {
                let blocker = self.blocker(epic, i)?;
                waits.push(plain("needs", format!("{}/{}", epic.id, epic.key(blocker))));
                Some((epic, blocker))
            }
            InstanceState::Ready { order, .. } => match self.reason_of(&epic.id, i)? {
                WaitReason::Paused => {
                    waits.push(plain("paused", epic.id.to_string()));
                    None
                }
                WaitReason::Lock => self.lock_wait(*order, leases, waits),
                WaitReason::NoAgent => {
                    waits.push(plain("no_agent", demand_text(epic, i) + &self.held_text(epic, i)));
                    None
                }
                WaitReason::Capacity => {
                    let class = &self.queue.classes[self.queue.find(&epic.demand(i))?];
                    let place = class.runnable.place(epic.rank(i, *order), epic.turn, &epic.id);
                    waits.push(WaitView { place, ..plain("capacity", demand_text(epic, i)) });
                    None
                }
            },
            InstanceState::Waiting { until, .. } => {
                let on = match (epic.plan.awaited(&epic.spec, i), until) {
                    (Some(subject), Some(until)) => format!("a message on {subject}, until {}", until.to_rfc3339()),
                    (Some(subject), None) => format!("a message on {subject}"),
                    (None, until) => until.map(|until| until.to_rfc3339()).unwrap_or_default(),
                };
                waits.push(plain("event", on));
                None
            }
            InstanceState::Nested(nested) => {
                let child = nested.child.as_ref().and_then(|child| self.epics.get(child))?;
                waits.push(plain("epic", child.id.to_string()));
                let open = (0u32..).zip(&child.instances).filter(|(_, instance)| !instance.state.is_ended()).map(|(i, _)| i);
                // What runs in it says more than what waits for that.
                let (blocked, begun): (Vec<u32>, Vec<u32>) =
                    open.partition(|i| matches!(child.instances[*i as usize].state, InstanceState::Blocked));
                begun.first().or(blocked.first()).map(|i| (child, *i))
            }
            InstanceState::Backoff { until } => {
                waits.push(plain("backoff", until.to_rfc3339()));
                None
            }
            InstanceState::Unknown { incident } => {
                waits.push(plain("person", format!("incident {incident}")));
                None
            }
            InstanceState::Ended(_) => self.undo_wait(epic, i, waits),
            InstanceState::Open(_) => None,
        }
    }

    /// What has to end before an instance that succeeded is undone: what still runs, or the undo of what ended after it.
    fn undo_wait<'s>(&self, epic: &'s Epic, i: u32, waits: &mut Vec<WaitView>) -> Option<(&'s Epic, u32)> {
        if !epic.undo_wanted || epic.is_ended() {
            return None;
        }
        let place = epic.undo_order.iter().rev().position(|other| *other == i)? as u64 + 1;
        let is_open = |other: &u32| !epic.instances[*other as usize].state.is_ended();
        let before = epic.undoing.or_else(|| (0..epic.instances.len() as u32).find(is_open))?;
        let on = format!("{}/{}", epic.id, epic.key(before));
        waits.push(WaitView { reason: "undo".to_owned(), on, holder: None, lease_left_ms: None, place: Some(place) });
        Some((epic, before))
    }

    /// Who could do it and is held by an operator; empty if nobody.
    fn held_text(&self, epic: &Epic, i: u32) -> String {
        let demand = epic.demand(i);
        let mut held = BTreeSet::new();
        for (id, agent) in self
            .fleet
            .agents
            .iter()
            .filter(|(id, agent)| demand.accepts(&agent.role, &agent.skills) && demand.agent.as_ref().is_none_or(|only| only == *id))
        {
            let node = self.fleet.nodes.get(&agent.node).filter(|node| node.alive);
            match (node.map(|node| node.duty), agent.duty) {
                (Some(Duty::Draining { .. } | Duty::Paused), _) => held.insert(format!("{} is drained", agent.node)),
                (Some(Duty::Active), Duty::Draining { .. }) => held.insert(format!("{id} is drained")),
                (Some(Duty::Active), Duty::Paused) => held.insert(format!("{id} is paused")),
                (Some(Duty::Active), Duty::Active) | (None, _) => false,
            };
        }
        let shown: Vec<String> = held.iter().take(HELD_SHOWN).cloned().collect();
        let more = if held.len() > shown.len() { format!(" and {} more", held.len() - shown.len()) } else { String::new() };
        if shown.is_empty() { String::new() } else { format!("; {}{more}", shown.join(", ")) }
    }

    /// An instance that must end before instance `i` can be let go.
    fn blocker(&self, epic: &Epic, i: u32) -> Option<u32> {
        let task = epic.task_of(i);
        let planned = &epic.plan.tasks[task as usize];
        let open_of = |task: u32| {
            let planned = &epic.plan.tasks[task as usize];
            (planned.first..planned.first + planned.count).find(|&i| !epic.instances[i as usize].state.is_ended())
        };
        if epic.tasks[task as usize].released {
            // Held back by `max_parallel`: one of its own siblings.
            return (planned.first..planned.first + planned.count).find(|&other| {
                other != i && !matches!(epic.instances[other as usize].state, InstanceState::Blocked | InstanceState::Ended(_))
            });
        }
        let needs = planned.needs.iter().copied().find_map(open_of);
        needs.or_else(|| {
            let phase = planned.waits_for_phase?;
            (0..epic.tasks.len() as u32).filter(|task| epic.plan.tasks[*task as usize].phase == Some(phase)).find_map(open_of)
        })
    }

    fn lock_wait(&self, order: u64, leases: Leases<'_>, waits: &mut Vec<WaitView>) -> Option<(&Epic, u32)> {
        let set = self.locks.set(order)?;
        for (key, mode) in set.iter() {
            let place = self.locks.get(key)?.waiting.keys().position(|waiter| *waiter == order).map(|place| place as u64 + 1);
            let conflicts = |other| *mode == LockMode::Write || other == LockMode::Write;
            let names = std::iter::once(key).chain(self.locks.overlapping(key));
            let locks: Vec<_> = names.filter_map(|name| Some((name, self.locks.get(name)?))).collect();
            let holder = locks.iter().find_map(|(name, lock)| Some((*name, lock.holders.iter().find(|holder| conflicts(holder.mode))?)));
            let ahead = locks.iter().find_map(|(name, lock)| {
                let (_, waiter) = lock.waiting.range(..order).find(|(_, waiter)| conflicts(waiter.mode))?;
                Some((*name, waiter))
            });
            let (name, next, view) = match (holder, ahead) {
                (Some((name, holder)), _) => (name, &holder.who, Some(self.holder_view(name, holder, leases))),
                (None, Some((name, ahead))) => (name, &ahead.who, None),
                (None, None) => continue,
            };
            let mut on = if name == key { key.resource.to_string() } else { format!("{} (overlaps {})", key.resource, name.resource) };
            if let (Party::Outside { owner }, None) = (next, &view) {
                on = format!("{on}, which {owner} asked for before");
            }
            let lease_left_ms = view.as_ref().and_then(|view| view.lease_left_ms);
            waits.push(WaitView { reason: "lock".to_owned(), on, holder: view, lease_left_ms, place });
            return match next {
                Party::Task { epic, i } => self.epics.get(epic).map(|epic| (epic, *i)),
                // What an owner outside is about nobody here knows.
                Party::Outside { .. } => None,
            };
        }
        None
    }
}

fn demand_text(epic: &Epic, i: u32) -> String {
    if let Some(pin) = &epic.instances[i as usize].pin {
        return format!("agent {}: assigned by operator", pin.agent);
    }
    let task = epic.spec_of(i);
    match (&task.agent, task.skills.as_slice()) {
        (Some(role), []) => format!("role {role}"),
        (Some(role), skills) => format!("role {role} with {}", skills.join(", ")),
        (None, []) => "any agent".to_owned(),
        (None, skills) => format!("an agent with {}", skills.join(", ")),
    }
}
