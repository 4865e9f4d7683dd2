//! Nodes and agents against the open attempts. S4, S8, S14, and what the fleet keeps as an index.

use std::collections::{BTreeMap, BTreeSet};

use amphi_protocol::ids::{AgentId, AttemptRef, EpicId, NodeId, Token};
use amphi_protocol::journal::{Duty, Post};

use super::{Violation, hold};
use crate::epic::{Attempt, Epic, InstanceState};
use crate::fleet::{Agent, AgentState, Demand};
use crate::state::State;

pub(super) fn check(state: &State) -> Result<(), Violation> {
    let mut running: BTreeMap<&NodeId, BTreeSet<AttemptRef>> = BTreeMap::new();
    let mut holders: BTreeMap<&AgentId, AttemptRef> = BTreeMap::new();
    let mut tokens: BTreeSet<Token> = BTreeSet::new();
    for epic in state.epics.values() {
        for (i, instance) in (0u32..).zip(&epic.instances) {
            let InstanceState::Open(open) = &instance.state else { continue };
            let at = epic.attempt_ref(i);
            check_attempt(state, epic, &at, open)?;
            hold("S8", open.token <= state.token && tokens.insert(open.token), || format!("{at} has token {}, not its own", open.token))?;
            let other = holders.insert(&open.agent, at.clone());
            hold("S4", other.is_none(), || format!("{} has both {at} and {other:?}", open.agent))?;
            running.entry(&open.node).or_default().insert(at);
        }
    }
    for (id, node) in &state.fleet.nodes {
        let found = running.remove(id).unwrap_or_default();
        hold("kept", node.running == found, || format!("{id} is kept as running {:?}, and runs {found:?}", node.running))?;
        let within = found.len() as u64 <= u64::from(node.capacity);
        hold("L3", within, || format!("{id} runs {} attempts and has room for {}", found.len(), node.capacity))?;
        hold("kept", node.alive || found.is_empty(), || format!("{id} is gone and runs {found:?}"))?;
    }
    for (id, agent) in &state.fleet.agents {
        check_agent(state, id, agent, holders.get(id))?;
    }
    check_graces(state)?;
    check_pins(state)?;
    check_profiles(state)
}

/// L2: nothing waits for an agent that cannot come. S14: a pin names somebody who can do it. What has started or ended has no pin.
fn check_pins(state: &State) -> Result<(), Violation> {
    let mut pins = BTreeMap::<AgentId, BTreeSet<(EpicId, u32)>>::new();
    for epic in state.epics.values() {
        let pinned = (0u32..).zip(&epic.instances).filter_map(|(i, instance)| Some((i, instance.pin.as_ref()?)));
        for (i, pin) in pinned {
            let at = epic.attempt_ref(i);
            let unstarted = match epic.instances[i as usize].state {
                InstanceState::Blocked | InstanceState::Ready { .. } | InstanceState::Backoff { .. } => true,
                InstanceState::Waiting { .. }
                | InstanceState::Nested(_)
                | InstanceState::Open(_)
                | InstanceState::Unknown { .. }
                | InstanceState::Ended(_) => false,
            };
            hold("kept", unstarted, || format!("{at} has started or ended and is pinned to {}", pin.agent))?;
            let agent = state.fleet.agents.get(&pin.agent);
            let task = epic.spec_of(i);
            let fits = agent.is_some_and(|agent| {
                task.agent.as_ref().is_none_or(|role| *role == agent.role) && task.skills.iter().all(|skill| agent.skills.contains(skill))
            });
            hold("S14", fits, || format!("{at} is pinned to {}, which cannot do it", pin.agent))?;
            let comes = agent.is_some_and(|agent| {
                let node = state.fleet.nodes.get(&agent.node);
                let lives = !matches!(agent.state, AgentState::Gone | AgentState::Quarantined) && node.is_some_and(|node| node.alive);
                lives && !matches!(agent.duty, Duty::Draining { .. }) && node.is_some_and(|node| node.duty == Duty::Active)
            });
            hold("L2", comes, || format!("{at} waits for {}, which is gone for good or drained", pin.agent))?;
            pins.entry(pin.agent.clone()).or_default().insert((epic.id.clone(), i));
        }
    }
    hold("kept", pins == state.pins, || format!("{:?} are kept as pinned, and {pins:?} are", state.pins))
}

/// A drain is remembered as long as somebody may still be ended for it, and no drain is forgotten by its clock.
fn check_graces(state: &State) -> Result<(), Violation> {
    for (until, post) in &state.fleet.graces {
        let duty = match post {
            Post::Agent(id) => state.fleet.agents.get(id).map(|agent| agent.duty),
            Post::Node(id) => state.fleet.nodes.get(id).filter(|node| node.alive).map(|node| node.duty),
        };
        hold("kept", duty == Some(Duty::Draining { until: *until }), || format!("{post:?} has a grace until {until:?} and is {duty:?}"))?;
    }
    Ok(())
}

fn check_attempt(state: &State, epic: &Epic, at: &AttemptRef, open: &Attempt) -> Result<(), Violation> {
    let node = state.fleet.nodes.get(&open.node);
    let same_life = node.is_some_and(|node| node.alive && node.incarnation == open.incarnation);
    hold("S4", same_life, || format!("{at} is open on {} in a life that is over", open.node))?;
    let agent = state.fleet.agents.get(&open.agent).filter(|agent| agent.node == open.node);
    let fits = agent.is_some_and(|agent| Demand::of(epic.spec_of(at.i)).accepts(&agent.role, &agent.skills));
    hold("S14", fits, || format!("{at} is with {}, which does not have its role and skills", open.agent))
}

fn check_agent(state: &State, id: &AgentId, agent: &Agent, has: Option<&AttemptRef>) -> Result<(), Violation> {
    let right = match &agent.state {
        AgentState::Idle => has.is_none(),
        AgentState::Busy(attempt) => has == Some(attempt),
        // Its attempt ends when its node says so.
        AgentState::Down | AgentState::Quarantined => true,
        AgentState::Gone => has.is_none() && !state.fleet.nodes[&agent.node].alive,
    };
    hold("S4", right, || format!("{id} is {:?} and has {has:?}", agent.state))?;
    let gone = agent.state == AgentState::Gone;
    hold("kept", state.fleet.nodes.get(&agent.node).is_some_and(|node| node.alive != gone), || {
        format!("{id} does not share the fate of its node")
    })
}

fn check_profiles(state: &State) -> Result<(), Violation> {
    let agents = &state.fleet.agents;
    for (position, profile) in state.fleet.profiles.iter().enumerate() {
        let members = agents.iter().filter(|(_, agent)| agent.profile == position);
        let (mut living, mut idle) = (0, BTreeMap::<NodeId, BTreeSet<AgentId>>::new());
        for (id, agent) in members {
            let node = state.fleet.nodes.get(&agent.node);
            if agent.duty != Duty::Active || node.is_some_and(|node| node.duty != Duty::Active) {
                continue;
            }
            living += u32::from(matches!(agent.state, AgentState::Idle | AgentState::Busy(_)));
            if agent.state == AgentState::Idle {
                idle.entry(agent.node.clone()).or_default().insert(id.clone());
            }
        }
        hold("kept", living == profile.living && idle == profile.idle, || {
            format!("profile {position} is kept as {} living, {:?}, and is {living}, {idle:?}", profile.living, profile.idle)
        })?;
    }
    Ok(())
}
