//! Locks and the ready queue. S7, S10, S11, L3.

use std::collections::{BTreeMap, BTreeSet};

use amphi_protocol::document::LockMode;
use amphi_protocol::ids::{AgentId, EpicId, Token};
use amphi_protocol::journal::Duty;

use super::{Violation, hold};
use crate::backlog::Turn;
use crate::epic::InstanceState;
use crate::fleet::AgentState;
use crate::locks::{Party, ResourceKey};
use crate::queue::Class;
use crate::state::State;

type Instance = (EpicId, u32);
/// The requests of an epic of one priority, by age.
type Waiting = (EpicId, BTreeMap<u64, u32>);

/// A ready instance.
struct Request {
    order: u64,
    priority: u8,
    who: Instance,
    class: usize,
    locks: Vec<(ResourceKey, LockMode)>,
}

/// What the lock table should hold.
#[derive(Default)]
struct Expected {
    holders: BTreeMap<ResourceKey, BTreeMap<Party, (LockMode, Token)>>,
    waiting: BTreeMap<ResourceKey, BTreeMap<u64, LockMode>>,
}

pub(super) fn check(state: &State) -> Result<(), Violation> {
    for class in &state.queue.classes {
        check_class(state, class)?;
    }
    check_turns(state)?;
    let (requests, expected) = collect(state)?;
    check_table(state, &expected)?;
    let front = front(&expected);
    let classes = state.queue.classes.len();
    let mut runnable = vec![BTreeMap::<(u8, Turn), Waiting>::new(); classes];
    let mut locking = vec![BTreeSet::<u64>::new(); classes];
    for request in requests {
        let parked = !state.queue.classes[request.class].servable;
        let first = request.locks.iter().all(|(key, mode)| {
            front.get(key).is_some_and(|front| front.contains(&request.order)) && !is_behind(&expected, &request, key, *mode)
        });
        if !request.locks.is_empty() {
            locking[request.class].insert(request.order);
        }
        // Nothing new of a paused epic starts.
        let paused = state.epics[&request.who.0].paused;
        if !paused && (request.locks.is_empty() || (!parked && first)) {
            let (id, i) = request.who;
            let place = (request.priority, state.epics[&id].turn);
            runnable[request.class].entry(place).or_insert_with(|| (id, BTreeMap::new())).1.insert(request.order, i);
        }
    }
    for (position, class) in state.queue.classes.iter().enumerate() {
        let kept: BTreeMap<(u8, Turn), Waiting> =
            class.runnable.iter().map(|(priority, turn, epic, requests)| ((priority, turn), (epic.clone(), requests.clone()))).collect();
        hold("S11", kept == runnable[position], || {
            format!("class {:?} may run {:?}, and should {:?}", class.demand, class.runnable, runnable[position])
        })?;
        hold("kept", class.locking == locking[position], || {
            format!("class {:?} locks as {:?}, and should {:?}", class.demand, class.locking, locking[position])
        })?;
        check_served(state, class)?;
    }
    Ok(())
}

/// Each epic has a place of its own in the ring, one that was given.
fn check_turns(state: &State) -> Result<(), Violation> {
    let mut turns = BTreeSet::new();
    let wrong = state.epics.values().find(|epic| epic.turn > state.queue.turn || !turns.insert(epic.turn));
    hold("kept", wrong.is_none(), || format!("{:?} has no place of its own among the epics", wrong.map(|epic| &epic.id)))
}

/// Its profiles, and whether anybody lives who could serve it.
fn check_class(state: &State, class: &Class) -> Result<(), Violation> {
    let named = |id: &AgentId| class.demand.agent.as_ref().is_none_or(|only| only == id);
    let able = state.fleet.agents.iter().filter(|(_, agent)| class.demand.accepts(&agent.role, &agent.skills));
    let serving = able.filter(|(id, _)| named(id)).map(|(_, agent)| agent);
    let free = |agent: &crate::fleet::Agent| agent.duty == Duty::Active && state.fleet.nodes[&agent.node].duty == Duty::Active;
    let servable = serving.clone().any(|agent| free(agent) && matches!(agent.state, AgentState::Idle | AgentState::Busy(_)));
    hold("kept", class.servable == servable, || format!("class {:?} is kept as servable: {}", class.demand, class.servable))?;
    let missing = serving.map(|agent| agent.profile).find(|profile| !class.profiles.contains(profile));
    hold("kept", missing.is_none(), || format!("class {:?} does not know profile {missing:?}", class.demand))
}

fn collect(state: &State) -> Result<(Vec<Request>, Expected), Violation> {
    let (mut requests, mut expected) = (Vec::new(), Expected::default());
    for (key, owner, ask) in state.outside.iter() {
        match ask.token {
            Some(token) => {
                let who = Party::Outside { owner: owner.clone() };
                expected.holders.entry(key.clone()).or_default().insert(who, (ask.mode, token));
            }
            None => _ = expected.waiting.entry(key.clone()).or_default().insert(ask.order, ask.mode),
        }
    }
    for epic in state.epics.values() {
        for (i, instance) in (0u32..).zip(&epic.instances) {
            match &instance.state {
                InstanceState::Open(open) => {
                    for (key, mode) in epic.locks(i) {
                        let who = Party::Task { epic: epic.id.clone(), i };
                        expected.holders.entry(key).or_default().insert(who, (mode, open.token));
                    }
                }
                InstanceState::Ready { order, .. } => {
                    let demand = epic.demand(i);
                    let class = state.queue.classes.iter().position(|class| class.demand == demand);
                    let Some(class) = class else {
                        return Err(Violation { law: "kept", words: format!("{} is ready and in no class", epic.attempt_ref(i)) });
                    };
                    let locks = epic.locks(i);
                    if state.queue.classes[class].servable && !epic.paused {
                        for (key, mode) in &locks {
                            expected.waiting.entry(key.clone()).or_default().insert(*order, *mode);
                        }
                    }
                    let who = (epic.id.clone(), i);
                    requests.push(Request { order: *order, priority: epic.spec_of(i).priority, who, class, locks });
                }
                InstanceState::Blocked
                | InstanceState::Backoff { .. }
                | InstanceState::Waiting { .. }
                | InstanceState::Nested(_)
                | InstanceState::Unknown { .. }
                | InstanceState::Ended(_) => {}
            }
        }
    }
    Ok((requests, expected))
}

/// S10: who holds is who has an open attempt, all of its set. S7: a writer alone, readers without one.
fn check_table(state: &State, expected: &Expected) -> Result<(), Violation> {
    hold("kept", state.locks.knows_its_globs(), || "the globs among the locks are others than the kept ones".to_owned())?;
    for (key, lock) in state.locks.iter() {
        let resource = &key.resource;
        let held = lock.holders.iter().map(|holder| (holder.who.clone(), (holder.mode, holder.token))).collect::<BTreeMap<_, _>>();
        let alone = lock.holders.len() <= 1 || lock.holders.iter().all(|holder| holder.mode == LockMode::Read);
        hold("S7", alone, || format!("{resource} is held by {:?}", lock.holders))?;
        let should = expected.holders.get(key).cloned().unwrap_or_default();
        hold("S10", held == should && held.len() == lock.holders.len(), || {
            format!("{resource} is held by {held:?}, and should be by {should:?}")
        })?;
        let waiting: BTreeMap<u64, LockMode> = lock.waiting.iter().map(|(order, waiter)| (*order, waiter.mode)).collect();
        let should = expected.waiting.get(key).cloned().unwrap_or_default();
        hold("S11", waiting == should, || format!("{resource} is awaited by {waiting:?}, and should be by {should:?}"))?;
        hold("kept", !(held.is_empty() && waiting.is_empty()), || format!("{resource} is remembered although nobody wants it"))?;
    }
    for (key, held) in &expected.holders {
        for (other, others) in expected.holders.iter().filter(|(other, _)| overlap(key, other)) {
            let both = held
                .iter()
                .flat_map(|mine| others.iter().map(move |its| (mine, its)))
                .find(|((who, (mode, _)), (whose, (its, _)))| who != whose && (*mode == LockMode::Write || *its == LockMode::Write));
            hold("S7", both.is_none(), || format!("{} and {} overlap and are held by {both:?}", key.resource, other.resource))?;
        }
    }
    let missing = expected.holders.keys().chain(expected.waiting.keys()).find(|key| state.locks.get(key).is_none());
    hold("S10", missing.is_none(), || format!("nobody holds or awaits {missing:?} in the table"))
}

/// True for two names of a folder of which one is a glob that shares a path with the other.
fn overlap(one: &ResourceKey, other: &ResourceKey) -> bool {
    let same_folder = (&one.project, &one.folder) == (&other.project, &other.folder);
    one != other && same_folder && amphi_protocol::overlap::overlaps(one.resource.as_str(), other.resource.as_str())
}

/// True if somebody under an overlapping name holds, or asked before, what excludes the request.
fn is_behind(expected: &Expected, request: &Request, key: &ResourceKey, mode: LockMode) -> bool {
    let excludes = |other: LockMode| mode == LockMode::Write || other == LockMode::Write;
    let held = expected.holders.iter().filter(|(other, _)| overlap(key, other)).flat_map(|(_, holders)| holders.values());
    let asked = expected.waiting.iter().filter(|(other, _)| overlap(key, other)).flat_map(|(_, waiting)| waiting.range(..request.order));
    held.into_iter().any(|(other, _)| excludes(*other)) || asked.into_iter().any(|(_, other)| excludes(*other))
}

/// For each resource the waiters that are first: behind no conflicting holder and no earlier conflicting waiter.
fn front(expected: &Expected) -> BTreeMap<&ResourceKey, BTreeSet<u64>> {
    let first = |(key, waiting): (&'_ ResourceKey, &BTreeMap<u64, LockMode>)| {
        let holders = expected.holders.get(key);
        let (mut reader, mut writer) = (false, false);
        for (mode, _) in holders.into_iter().flat_map(BTreeMap::values) {
            reader |= *mode == LockMode::Read;
            writer |= *mode == LockMode::Write;
        }
        let mut front = BTreeSet::new();
        for (order, mode) in waiting {
            let free = match mode {
                LockMode::Read => !writer,
                LockMode::Write => !writer && !reader,
            };
            if free {
                front.insert(*order);
            }
            reader |= *mode == LockMode::Read;
            writer |= *mode == LockMode::Write;
        }
        front
    };
    expected.waiting.iter().map(|entry| (entry.0, first(entry))).collect()
}

/// L3: nothing may wait that an idle agent with room could run.
fn check_served(state: &State, class: &Class) -> Result<(), Violation> {
    if class.runnable.is_empty() {
        return Ok(());
    }
    let fits = |agent: &&crate::fleet::Agent| {
        let node = &state.fleet.nodes[&agent.node];
        let room =
            node.alive && node.duty == Duty::Active && agent.duty == Duty::Active && (node.running.len() as u64) < u64::from(node.capacity);
        agent.state == AgentState::Idle && room && class.demand.accepts(&agent.role, &agent.skills)
    };
    let named = |id: &AgentId| class.demand.agent.as_ref().is_none_or(|only| only == id);
    let idle = state.fleet.agents.iter().find(|(id, agent)| named(id) && fits(agent)).map(|(id, _)| id);
    hold("L3", idle.is_none(), || format!("{:?} can run and {idle:?} is idle", class.runnable.first()))
}
