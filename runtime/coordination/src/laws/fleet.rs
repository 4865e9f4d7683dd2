//! Nodes and agents against the open attempts. S4, S8, S14, and what the fleet keeps as an index.

use std::collections::{BTreeMap, BTreeSet};

use amphi_protocol::ids::{AgentId, AttemptRef, NodeId, Token};
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
    check_profiles(state)
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
