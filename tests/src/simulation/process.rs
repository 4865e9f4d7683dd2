//! What really runs: processes hang on guards, not on the node, and the world sees them start and end.

use std::collections::BTreeMap;

use amphi_protocol::ids::{AttemptRef, Incarnation, Token};
use amphi_protocol::journal::{AttemptNews, KnownEffect, Outcome};

use super::effects::Outward;
use super::world::{Cause, Event, World};

/// Longest time from the order to die to the last process's death.
pub(super) const KILL_MS_MAX: u64 = 500;

#[derive(Debug)]
pub(super) struct Process {
    pub attempt: AttemptRef,
    pub node: usize,
    pub life: u64,
    pub token: Token,
    /// It does something, or is stuck.
    pub moves: bool,
    /// What it brings about outside, if anything.
    pub effect: Option<Outward>,
}

#[derive(Debug, Default)]
pub(super) struct Processes(BTreeMap<u32, Process>);

impl Processes {
    pub fn get(&self, pid: u32) -> Option<&Process> {
        self.0.get(&pid)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn of(&self, attempt: &AttemptRef, life: u64) -> Option<u32> {
        self.0.iter().find(|(_, process)| process.attempt == *attempt && process.life == life).map(|(pid, _)| *pid)
    }

    pub fn on(&self, node: usize) -> Vec<u32> {
        self.0.iter().filter(|(_, process)| process.node == node).map(|(pid, _)| *pid).collect()
    }

    pub fn moving(&self, node: usize, life: u64) -> Vec<AttemptRef> {
        let moving = self.0.values().filter(|process| process.node == node && process.life == life && process.moves);
        moving.map(|process| process.attempt.clone()).collect()
    }
}

impl World {
    /// A process begins; returns its pid.
    pub fn process_starts(&mut self, node: usize, attempt: &AttemptRef, token: Token) -> u32 {
        let pid = self.id() as u32;
        let (life, incarnation) = (self.nodes[node].life, Incarnation(self.nodes[node].life));
        self.observer.start(pid, attempt, (&self.nodes[node].id, incarnation), token, self.time);
        self.noticed();
        let effect = self.nodes[node].effect_of(attempt);
        let mut intends = false;
        let hangs = self.faults && self.rng.chance(6);
        if hangs {
            self.tally.fault("agent.hang");
        } else {
            let outcome = match self.rng.below(100) {
                0..70 => Outcome::Succeeded,
                70..88 => Outcome::Exit,
                88..94 => Outcome::Output,
                94..98 => Outcome::Resource,
                _ => Outcome::AgentLost,
            };
            let outcome = if effect.is_some() { Outcome::Succeeded } else { outcome };
            let longest = if self.rng.chance(80) { 400 } else { 2_000 };
            let duration = self.rng.between(5, longest);
            match effect.as_ref().map(|effect| &effect.known) {
                // What an earlier attempt brought about is not brought about again.
                Some(Some(KnownEffect::Done { .. })) => {
                    self.tally.seen("effect.known");
                    self.after(duration, Event::ProcessEnds { pid, cause: Cause::Itself(outcome) });
                }
                Some(Some(KnownEffect::Unknown)) => self.after(duration, Event::ProcessAsks { pid }),
                Some(None) => intends = true,
                None => self.after(duration, Event::ProcessEnds { pid, cause: Cause::Itself(outcome) }),
            }
            if self.rng.chance(20) {
                self.after(duration / 2, Event::ProcessSpeaks { pid });
            }
        }
        self.processes.0.insert(pid, Process { attempt: attempt.clone(), node, life, token, moves: !hangs, effect });
        if intends {
            self.process_intends(pid);
        }
        pid
    }

    /// Everything of `pid` dies within [`KILL_MS_MAX`].
    pub fn kill(&mut self, pid: u32) {
        let delay = self.rng.between(0, KILL_MS_MAX);
        self.after(delay, Event::ProcessEnds { pid, cause: Cause::Killed });
    }

    pub fn process_ends(&mut self, pid: u32, cause: Cause) {
        let Some(process) = self.processes.0.remove(&pid) else { return };
        self.observer.end(pid);
        self.node_event(process.node, Event::Hears { node: process.node, life: process.life, attempt: process.attempt, cause });
    }

    pub fn process_speaks(&mut self, pid: u32) {
        let Some(process) = self.processes.0.get(&pid) else { return };
        let (node, life, attempt, token) = (process.node, process.life, process.attempt.clone(), process.token);
        if self.nodes[node].is_up_in(life) && self.nodes[node].frozen_until <= self.time {
            let percent = self.rng.below(120) as u8;
            self.report(node, &attempt, token, AttemptNews::Progress { percent: Some(percent), message: None });
        }
    }
}
