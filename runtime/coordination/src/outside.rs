//! Locks of owners outside of all epics: scripts, people, other programs. They stand in the same queues as tasks, under the same order
//! and the same tokens; they have no process that the cluster could end, so they hold a lock for a time and must renew it.
//!
//! A lock whose time is over is taken back by a [`Decision::LockExpired`](amphi_protocol::journal::Decision): time runs in the journal, so
//! a new leader goes on with what was promised. Whether the owner has noticed is not known, which is what the fencing token is for.

use std::collections::{BTreeMap, BTreeSet};

use amphi_protocol::document::LockMode;
use amphi_protocol::event::EventType;
use amphi_protocol::ids::{OwnerName, Timestamp, Token};
use amphi_protocol::journal::{LockName, OutsideLock};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::locks::{Party, ResourceKey};
use crate::sink::{EventSink, Subject};
use crate::state::State;

/// What owners outside hold and wait for, by resource and owner.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Outside {
    #[serde(with = "crate::snapshot::pairs")]
    asks: BTreeMap<ResourceKey, BTreeMap<OwnerName, Ask>>,
    /// When each of them is over.
    deadlines: BTreeSet<(Timestamp, ResourceKey, OwnerName)>,
    /// How many there are.
    count: usize,
}

/// A lock that an owner outside holds or waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// How.
    pub mode: LockMode,
    /// Its place among all requests.
    pub order: u64,
    /// Milliseconds for which it is given.
    pub ttl_ms: u64,
    /// Until when it is held, or waits.
    pub until: Timestamp,
    /// The token, once it is held.
    pub token: Option<Token>,
}

/// Where an owner stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutsideStanding {
    /// It has the lock.
    Held {
        /// Under this token.
        token: Token,
        /// Milliseconds until it is lost.
        left_ms: u64,
        /// How.
        mode: LockMode,
    },
    /// It waits for it.
    Waiting {
        /// How many are in front that exclude it, holders included.
        behind: usize,
    },
    /// Neither.
    Gone,
}

impl Outside {
    pub fn get(&self, key: &ResourceKey, owner: &OwnerName) -> Option<&Ask> {
        self.asks.get(key)?.get(owner)
    }

    /// The owner who holds a resource under a token.
    pub fn holder(&self, key: &ResourceKey, token: Token) -> Option<&OwnerName> {
        self.asks.get(key)?.iter().find(|(_, ask)| ask.token == Some(token)).map(|(owner, _)| owner)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&ResourceKey, &OwnerName, &Ask)> {
        self.asks.iter().flat_map(|(key, owners)| owners.iter().map(move |(owner, ask)| (key, owner, ask)))
    }

    pub fn count(&self) -> usize {
        self.count
    }

    pub fn deadlines(&self) -> &BTreeSet<(Timestamp, ResourceKey, OwnerName)> {
        &self.deadlines
    }

    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.deadlines.first().map(|(at, ..)| *at)
    }

    fn put(&mut self, key: &ResourceKey, owner: &OwnerName, ask: Ask) {
        self.deadlines.insert((ask.until, key.clone(), owner.clone()));
        let former = self.asks.entry(key.clone()).or_default().insert(owner.clone(), ask.clone());
        match former {
            Some(former) if former.until != ask.until => _ = self.deadlines.remove(&(former.until, key.clone(), owner.clone())),
            Some(_) => {}
            None => self.count += 1,
        }
    }

    fn remove(&mut self, key: &ResourceKey, owner: &OwnerName) -> Option<Ask> {
        let owners = self.asks.get_mut(key)?;
        let ask = owners.remove(owner)?;
        if owners.is_empty() {
            self.asks.remove(key);
        }
        self.deadlines.remove(&(ask.until, key.clone(), owner.clone()));
        self.count -= 1;
        Some(ask)
    }
}

/// The lock that an entry is about, as decisions name it.
pub(crate) fn named(key: &ResourceKey, owner: &OwnerName, mode: LockMode) -> OutsideLock {
    let folder = key.folder.as_deref().map(str::to_owned);
    let name = LockName { project: key.project.clone(), folder, resource: key.resource.clone() };
    OutsideLock { name, mode, owner: owner.clone() }
}

impl State {
    /// The owner outside who holds a resource under a token.
    pub fn outside_holder(&self, name: &LockName, token: Token) -> Option<&OwnerName> {
        self.outside.holder(&ResourceKey::from(name), token)
    }

    /// Where an owner outside stands with a lock, by the leader's time.
    pub fn outside_standing(&self, name: &LockName, owner: &OwnerName, now: Timestamp) -> OutsideStanding {
        let key = ResourceKey::from(name);
        match self.outside.get(&key, owner) {
            None => OutsideStanding::Gone,
            Some(Ask { token: Some(token), until, mode, .. }) => {
                OutsideStanding::Held { token: *token, left_ms: until.since_ms(now), mode: *mode }
            }
            Some(ask) => OutsideStanding::Waiting { behind: self.locks.in_the_way(&key, ask.mode, ask.order).len() },
        }
    }

    /// Everything that owners outside hold or wait for.
    pub fn outside_asks(&self) -> impl Iterator<Item = (&ResourceKey, &OwnerName, &Ask)> {
        self.outside.iter()
    }

    pub(crate) fn lock_asked(&mut self, lock: &OutsideLock, ttl_ms: u64, until: Timestamp) {
        let key = ResourceKey::from(&lock.name);
        let known = self.outside.get(&key, &lock.owner).map(|ask| ask.order);
        let order = known.unwrap_or(self.order + 1);
        self.outside.put(&key, &lock.owner, Ask { mode: lock.mode, order, ttl_ms, until, token: None });
        if known.is_some() {
            return;
        }
        self.order = order;
        let who = Party::Outside { owner: lock.owner.clone() };
        self.locks.join(order, who, self.now, vec![(key, lock.mode)], false);
        if self.locks.is_grantable(order, &mut self.visited) {
            self.due.outside.push_back(order);
        }
    }

    pub(crate) fn lock_granted(&mut self, lock: &OutsideLock, token: Token, until: Timestamp, sink: &mut EventSink) {
        let key = ResourceKey::from(&lock.name);
        let Some(ask) = self.outside.get(&key, &lock.owner).filter(|ask| ask.token.is_none()).cloned() else {
            panic!("S7: {lock:?} is granted and was not asked for");
        };
        self.token = token;
        self.locks.grant(ask.order, token);
        self.outside.put(&key, &lock.owner, Ask { token: Some(token), until, ..ask });
        let mut data = Map::new();
        data.insert("token".to_owned(), json!(token));
        self.outside_event(sink, EventType::LockGranted, lock, data);
    }

    pub(crate) fn lock_renewed(&mut self, lock: &OutsideLock, ttl_ms: u64, until: Timestamp) {
        let key = ResourceKey::from(&lock.name);
        let ask = self.outside.get(&key, &lock.owner).cloned().expect("only a lock that is held is renewed");
        self.outside.put(&key, &lock.owner, Ask { ttl_ms, until, ..ask });
    }

    /// The owner neither holds nor awaits it any more.
    pub(crate) fn lock_given_back(&mut self, lock: &OutsideLock) {
        let key = ResourceKey::from(&lock.name);
        let ask = self.outside.remove(&key, &lock.owner).expect("only what is held or awaited is given back");
        let changes = match ask.token {
            Some(_) => self.locks.release(&Party::Outside { owner: lock.owner.clone() }, &[(key, ask.mode)]),
            None => self.locks.leave(ask.order),
        };
        self.follow(changes);
    }

    pub(crate) fn outside_event(&mut self, sink: &mut EventSink, kind: EventType, lock: &OutsideLock, mut data: Map<String, Value>) {
        data.insert("resource".to_owned(), json!(lock.name.resource));
        data.insert("mode".to_owned(), json!(lock.mode));
        data.insert("owner".to_owned(), json!(lock.owner));
        data.insert("project".to_owned(), json!(lock.name.project));
        self.event(sink, kind, Subject::default, data);
    }
}
