//! Scripts and people outside of all epics that take locks: they ask, wait, ask again, renew, forget to, and speak under old tokens.

use amphi_protocol::document::LockMode;
use amphi_protocol::ids::{OwnerName, ProjectId, Resource, Token};
use amphi_protocol::journal::{Input, LockName, OutsideLock};

use super::Purpose;
use crate::simulation::world::World;

/// What they lock: the same as tasks do.
const RESOURCES: &[&str] = &["db", "port", "file/a.txt", "file/*.txt", "file/[b-d]**"];
const OWNERS: &[&str] = &["ann", "bob", "deploy script"];

impl World {
    pub(super) fn somebody_locks(&mut self) {
        if !self.faults || !self.rng.chance(35) {
            return;
        }
        let by = "outside".to_owned();
        let known: Vec<(OutsideLock, Option<Token>)> = self.leader().map_or_else(Vec::new, |leader| {
            let named = |(key, owner, ask): (&amphi_coordination::ResourceKey, &OwnerName, &amphi_coordination::Ask)| {
                let folder = key.folder.as_deref().map(str::to_owned);
                let name = LockName { project: key.project.clone(), folder, resource: key.resource.clone() };
                (OutsideLock { name, mode: ask.mode, owner: owner.clone() }, ask.token)
            };
            leader.seat.state().outside_asks().map(named).collect()
        });
        let ttl_ms = self.rng.between(1_000, 4_000);
        if known.is_empty() || self.rng.chance(45) {
            let lock = self.some_lock();
            let wait_ms = if self.rng.chance(60) { self.rng.between(50, 3_000) } else { 0 };
            return self.request(Purpose::Lock, Input::AcquireLock { lock, ttl_ms, wait_ms, by });
        }
        let (lock, held) = self.rng.pick(&known).clone();
        let name = lock.name.clone();
        // Now and then a token that is over, or never was.
        let token = if self.rng.chance(25) { Some(Token(held.map_or(3, |token| token.0.saturating_sub(1)))) } else { held };
        let owner = (token.is_none() || self.rng.chance(30)).then(|| lock.owner.clone());
        let input = match self.rng.below(10) {
            0..4 => Input::RenewLock { name, token, owner, ttl_ms: self.rng.chance(50).then_some(ttl_ms), by },
            4..8 => Input::ReleaseLock { name, token, owner, by },
            _ => Input::AcquireLock { lock, ttl_ms, wait_ms: 500, by },
        };
        self.request(Purpose::Lock, input);
    }

    fn some_lock(&mut self) -> OutsideLock {
        let resource = Resource::parse(self.rng.pick::<&str>(RESOURCES)).expect("the resource is valid");
        let folder = match self.rng.below(4) {
            _ if !resource.as_str().starts_with("file/") => None,
            0 => Some("/w/a".to_owned()),
            1 => Some("git /w/b v1".to_owned()),
            _ => None,
        };
        let project = ProjectId::parse(if self.rng.chance(80) { "one" } else { "two" }).expect("the project is valid");
        let mode = if self.rng.chance(60) { LockMode::Write } else { LockMode::Read };
        let owner = OwnerName::parse(self.rng.pick::<&str>(OWNERS)).expect("the owner is valid");
        OutsideLock { name: LockName { project, folder, resource }, mode, owner }
    }
}
