//! Who is silent: heartbeats and progress, measured by the leader alone and never journalled. Silence becomes an input, and only
//! that input's decision is on record.
//!
//! Silence counts only while the leader itself can hear: after an outage of the bus or a pause of the leader, everybody gets one
//! full period of grace.

use std::collections::BTreeMap;

use amphi_protocol::document::LEASE_MS_DEFAULT;
use amphi_protocol::ids::{AttemptRef, Incarnation, NodeId, Resource, Timestamp};
use amphi_protocol::journal::{CancelCause, Input};
use amphi_protocol::node::Heartbeat;
use amphi_protocol::overlap;

use crate::epic::AttemptPhase;
use crate::state::State;

/// Periods, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct Periods {
    /// Silence after which a node counts as dead.
    pub node_dead_ms: u64,
    /// Silence after which a node's attempts with a write lock or `retry: 0` have certainly been ended by the node itself.
    pub fence_ms: u64,
}

/// What the leader has heard.
#[derive(Debug, Default)]
pub struct Liveness {
    nodes: BTreeMap<NodeId, (Incarnation, Timestamp)>,
    progress: BTreeMap<AttemptRef, Timestamp>,
}

impl Liveness {
    /// A heartbeat came in. One of a former life keeps nobody alive.
    pub fn heard(&mut self, now: Timestamp, heartbeat: &Heartbeat) {
        if self.nodes.get(&heartbeat.node).is_some_and(|(incarnation, _)| *incarnation > heartbeat.incarnation) {
            return;
        }
        self.nodes.insert(heartbeat.node.clone(), (heartbeat.incarnation, now));
        for attempt in &heartbeat.progressed {
            self.progress.insert(attempt.clone(), now);
        }
    }

    /// An attempt was heard of otherwise (it was started, it reported progress).
    pub fn progressed(&mut self, now: Timestamp, attempt: &AttemptRef) {
        self.progress.insert(attempt.clone(), now);
    }

    /// The leader could not hear for a while: nobody's silence counts.
    pub fn grace(&mut self, now: Timestamp) {
        for (_, heard) in self.nodes.values_mut() {
            *heard = now;
        }
        for heard in self.progress.values_mut() {
            *heard = now;
        }
    }

    /// Milliseconds that the lease of an attempt lasts without progress.
    pub fn lease_left_ms(&self, now: Timestamp, state: &State, attempt: &AttemptRef) -> Option<u64> {
        let lease = lease_ms(state, attempt)?;
        let heard = self.progress.get(attempt).copied().unwrap_or(now);
        Some(lease.saturating_sub(now.since_ms(heard)))
    }

    /// Inputs that follow from silence. Costs the open attempts, which the fleet's capacity bounds.
    pub fn due(&mut self, now: Timestamp, state: &State, periods: Periods) -> Vec<Input> {
        let mut inputs = Vec::new();
        let mut open: BTreeMap<AttemptRef, Timestamp> = BTreeMap::new();
        for (id, node) in state.nodes().filter(|(_, node)| node.alive) {
            let heard = self.nodes.entry(id.clone()).or_insert((node.incarnation, now));
            if heard.0 != node.incarnation {
                *heard = (node.incarnation, now);
            }
            let silence = now.since_ms(heard.1);
            let fenced = node.running.iter().any(|attempt| state.epic(&attempt.epic).is_some_and(|epic| epic.needs_claim(attempt.i)));
            let limit = if fenced { periods.node_dead_ms.max(periods.fence_ms) } else { periods.node_dead_ms };
            if silence >= limit {
                let cause = format!("silent for {} s", silence / 1000);
                inputs.push(Input::LoseNode { node: id.clone(), incarnation: node.incarnation, cause });
                continue;
            }
            for attempt in &node.running {
                let heard = self.progress.get(attempt).copied().unwrap_or(now);
                open.insert(attempt.clone(), heard);
                if let Some(cause) = silent(state, attempt, now.since_ms(heard)) {
                    inputs.push(Input::Silent { attempt: attempt.clone(), cause });
                }
            }
        }
        self.progress = open;
        inputs
    }
}

/// What the silence of an attempt means, if it has lasted long enough.
fn silent(state: &State, attempt: &AttemptRef, silence_ms: u64) -> Option<CancelCause> {
    let epic = state.epic(&attempt.epic)?;
    let open = epic.open(attempt.i).filter(|open| open.phase == AttemptPhase::Started && open.cancelling.is_none());
    open?;
    let stuck = silence_ms >= epic.spec_of(attempt.i).stuck_after_ms;
    let lapsed = lease_ms(state, attempt).is_some_and(|lease| silence_ms >= lease);
    match (lapsed, stuck) {
        (true, _) => Some(CancelCause::Lease),
        (false, true) => Some(CancelCause::Stuck),
        (false, false) => None,
    }
}

/// The shortest lease among the resources that an attempt holds. What is not declared by its own name has the lease of what is declared
/// and overlaps it.
fn lease_ms(state: &State, attempt: &AttemptRef) -> Option<u64> {
    let epic = state.epic(&attempt.epic)?;
    let declared = &epic.spec.resources;
    let overlapping = |held: &Resource| {
        let met = declared.iter().filter(|(name, _)| overlap::overlaps(name.as_str(), held.as_str()));
        met.map(|(_, declared)| declared.lease_ms).min()
    };
    let lease = |held: &Resource| declared.get(held).map(|declared| declared.lease_ms).or_else(|| overlapping(held));
    epic.locks(attempt.i).iter().map(|(key, _)| lease(&key.resource).unwrap_or(LEASE_MS_DEFAULT)).min()
}
