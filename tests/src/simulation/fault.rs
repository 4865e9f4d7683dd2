//! Faults that come by themselves: crashes, freezes, pauses. What happens to messages and writes stands where they are sent.

use super::process::KILL_MS_MAX;
use super::world::{Event, World};

impl World {
    pub fn inject(&mut self) {
        if !self.faults {
            return;
        }
        let pause = self.rng.between(100, 900);
        self.after(pause, Event::Fault);
        // In some worlds it hardly ever gets to it, and falls behind.
        let pace = if self.seed.is_multiple_of(3) { 2 } else { 20 };
        if self.rng.chance(pace) {
            self.standby_follows();
        }
        let node = self.rng.below(self.nodes.len() as u64) as usize;
        match self.rng.below(100) {
            0..30 => {
                let agents = self.nodes[node].agents() as u64;
                if agents > 0 && self.nodes[node].up && self.nodes[node].frozen_until <= self.time {
                    let agent = self.rng.below(agents) as usize;
                    self.agent_crashes(node, agent);
                }
            }
            30..45 => self.node_crashes(node),
            45..57 => self.node_freezes(node),
            57..82 => self.manager_crashes(),
            _ => self.manager_pauses(),
        }
    }

    fn node_crashes(&mut self, node: usize) {
        if !self.nodes[node].up {
            return;
        }
        self.tally.fault("node.crash");
        self.nodes[node].die();
        for pid in self.processes.on(node) {
            self.kill(pid);
        }
        // The next life begins when its predecessor's processes are proven dead.
        let longest = if self.rng.chance(70) { 2_000 } else { 6_000 };
        let delay = self.rng.between(KILL_MS_MAX + 1, longest);
        self.after(delay, Event::NodeStarts { node });
    }

    fn node_freezes(&mut self, node: usize) {
        if !self.nodes[node].up || self.nodes[node].frozen_until > self.time {
            return;
        }
        self.tally.fault("node.freeze");
        let duration = self.rng.between(50, 6_000);
        self.nodes[node].frozen_until = self.time + duration;
        // Its guards do not hear of it any more; they wait a little, then they kill.
        if duration > KILL_MS_MAX {
            for pid in self.processes.on(node) {
                self.kill(pid);
            }
        }
    }

    fn manager_crashes(&mut self) {
        let ids: Vec<u64> = self.managers.keys().copied().collect();
        if ids.is_empty() {
            return;
        }
        let id = *self.rng.pick(&ids);
        let manager = self.managers.remove(&id).expect("it was just listed");
        self.tally.fault(manager.moment());
        if id == self.lease {
            self.succeed_manager();
        }
    }

    /// The leader stops, somebody takes over, and the old one goes on without knowing.
    fn manager_pauses(&mut self) {
        let duration = if self.rng.chance(30) { 0 } else { self.rng.between(100, 4_000) };
        let until = self.time + duration;
        if let Some(manager) = self.managers.get_mut(&self.lease) {
            manager.paused_until = until;
            self.tally.fault("manager.pause");
            self.succeed_manager();
        }
    }

    /// From here on nothing goes wrong any more.
    pub fn calm_down(&mut self) {
        self.faults = false;
        self.store.calm_at = Some(self.time);
        self.clients.stop();
        if self.managers.is_empty() {
            self.succeed_manager();
        }
    }
}
