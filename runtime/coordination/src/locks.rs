//! The lock table: readers and writers, strictly first come, first served, a whole set at once.
//!
//! A name may be a glob (`file/src/*.rs`): it conflicts with every name of its folder that shares a path
//! with it, holders and waiters alike.
//! A request stands in the queue of each of its resources under one order number. It may be granted when, on every resource, no
//! holder and no earlier waiter conflicts with it. Because all queues share one order, no two requests can wait for each other.
//! Requests that no living agent could serve are parked: they keep their number but hold nobody up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use amphi_protocol::document::LockMode;
use amphi_protocol::ids::{EpicId, OwnerName, ProjectId, Resource, Timestamp, Token};
use amphi_protocol::journal::LockName;
use amphi_protocol::overlap;
use serde::{Deserialize, Serialize};

use crate::globs::Globs;
use crate::mutants::{Mutant, planted};

/// A resource as the table knows it: `file/…` belongs to the folder of its workspace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ResourceKey {
    /// The project.
    pub project: ProjectId,
    /// The workspace, for files of a `path` or `git` workspace.
    pub folder: Option<Arc<str>>,
    /// The name that users wrote.
    pub resource: Resource,
}

impl From<&LockName> for ResourceKey {
    fn from(name: &LockName) -> Self {
        Self { project: name.project.clone(), folder: name.folder.as_deref().map(Into::into), resource: name.resource.clone() }
    }
}

/// One resource.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Lock {
    /// Who holds it; several only if all read.
    pub holders: Vec<Holder>,
    /// Who waits, by order.
    pub waiting: BTreeMap<u64, Waiter>,
    writers_waiting: BTreeSet<u64>,
}

/// Who holds a lock or waits for it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Party {
    /// An instance of an epic.
    Task {
        /// Its epic.
        epic: EpicId,
        /// Its instance.
        i: u32,
    },
    /// Somebody outside of all epics.
    Outside {
        /// The owner.
        owner: OwnerName,
    },
}

impl Party {
    /// The instance, unless it is somebody outside.
    pub fn task(&self) -> Option<(&EpicId, u32)> {
        match self {
            Self::Task { epic, i } => Some((epic, *i)),
            Self::Outside { .. } => None,
        }
    }
}

/// A holder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Who.
    #[serde(flatten)]
    pub who: Party,
    /// How.
    pub mode: LockMode,
    /// Under which token.
    pub token: Token,
}

/// A waiter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiter {
    /// Who.
    #[serde(flatten)]
    pub who: Party,
    /// How.
    pub mode: LockMode,
    /// Since when.
    pub since: Timestamp,
}

/// All locks of a shard.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LockTable {
    #[serde(with = "crate::snapshot::pairs")]
    locks: BTreeMap<ResourceKey, Lock>,
    /// The names among them that are globs.
    globs: Globs,
    /// The resources of each request that waits or is parked.
    requests: BTreeMap<u64, Request>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Request {
    #[serde(flatten)]
    who: Party,
    since: Timestamp,
    set: Arc<[(ResourceKey, LockMode)]>,
    parked: bool,
}

/// Requests that may now be granted, or may not any more; the caller keeps its queue in step.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub grantable: Vec<u64>,
    pub blocked: Vec<u64>,
    /// How many locks were looked at to find out.
    pub visited: u64,
}

/// Somebody in front of a request: under which name, who, the token of a holder, the order of a waiter.
pub(crate) type InTheWay<'t> = (&'t ResourceKey, &'t Party, Option<Token>, Option<u64>);

impl Lock {
    fn in_front(&self, order: u64, mode: LockMode) -> bool {
        if planted(Mutant::Fifo) {
            return self.waiting.last_key_value().is_some_and(|(last, _)| *last == order);
        }
        match mode {
            LockMode::Write => self.waiting.first_key_value().is_some_and(|(first, _)| *first == order),
            LockMode::Read => self.writers_waiting.first().is_none_or(|first| *first > order),
        }
    }

    fn admits(&self, order: u64, mode: LockMode) -> bool {
        let free = match mode {
            LockMode::Write => self.holders.is_empty(),
            LockMode::Read => self.holders.iter().all(|holder| holder.mode == LockMode::Read),
        };
        free && self.in_front(order, mode)
    }

    /// True if nobody here, under a name that overlaps, is in the way of request `order`.
    fn lets_pass(&self, order: u64, mode: LockMode) -> bool {
        let (free, earliest) = match mode {
            LockMode::Write => (self.holders.is_empty(), self.waiting.keys().next()),
            LockMode::Read => (self.holders.iter().all(|holder| holder.mode == LockMode::Read), self.writers_waiting.first()),
        };
        free && (planted(Mutant::Fifo) || earliest.is_none_or(|earliest| *earliest >= order))
    }

    fn add(&mut self, order: u64, waiter: Waiter) {
        if waiter.mode == LockMode::Write {
            self.writers_waiting.insert(order);
        }
        self.waiting.insert(order, waiter);
    }

    fn remove(&mut self, order: u64) {
        self.writers_waiting.remove(&order);
        self.waiting.remove(&order);
    }

    /// The waiters that could be in front: the leading readers or the first writer.
    fn front(&self) -> impl Iterator<Item = u64> + '_ {
        let newest = planted(Mutant::Fifo).then(|| self.waiting.last_key_value().map(|(order, _)| *order)).flatten();
        let first_writer = self.writers_waiting.first().copied().unwrap_or(u64::MAX);
        let readers = self.waiting.range(..first_writer).map(|(order, _)| *order);
        let head_writer = self.waiting.first_key_value().filter(|(order, _)| **order == first_writer).map(|(order, _)| *order);
        readers.chain(head_writer).chain(newest)
    }

    fn is_idle(&self) -> bool {
        self.holders.is_empty() && self.waiting.is_empty()
    }
}

impl LockTable {
    /// All locks that are held or waited for.
    pub fn iter(&self) -> impl Iterator<Item = (&ResourceKey, &Lock)> {
        self.locks.iter()
    }

    /// One lock, if anybody holds it or waits for it.
    pub fn get(&self, key: &ResourceKey) -> Option<&Lock> {
        self.locks.get(key)
    }

    /// The resources of a waiting request.
    pub(crate) fn set(&self, order: u64) -> Option<&Arc<[(ResourceKey, LockMode)]>> {
        self.requests.get(&order).map(|request| &request.set)
    }

    /// True if request `order` may be granted now. Adds the locks that it looks at.
    pub(crate) fn is_grantable(&self, order: u64, visited: &mut u64) -> bool {
        let mut passes = |key: &ResourceKey, mode: LockMode| {
            *visited += 1;
            self.locks.get(key).is_some_and(|lock| lock.admits(order, mode))
                && self.all_overlapping(key, |_, other| {
                    *visited += 1;
                    other.lets_pass(order, mode)
                })
        };
        let request = self.requests.get(&order).filter(|request| !request.parked);
        request.is_some_and(|request| request.set.iter().all(|(key, mode)| passes(key, *mode)))
    }

    /// True if all other names in use that share a path with `key` pass. A plain name costs the globs that begin as it does; a glob
    /// also the names below its literal start.
    fn all_overlapping<'t>(&'t self, key: &ResourceKey, mut passes: impl FnMut(&'t ResourceKey, &'t Lock) -> bool) -> bool {
        if self.globs.is_empty() || planted(Mutant::Overlap) {
            return true;
        }
        let name = key.resource.as_str();
        for glob in self.globs.above(key) {
            if *glob == key.resource || !overlap::overlaps(glob.as_str(), name) {
                continue;
            }
            let named = ResourceKey { resource: glob.clone(), ..key.clone() };
            let (known, lock) = self.locks.get_key_value(&named).expect("a glob in use is in the table");
            if !passes(known, lock) {
                return false;
            }
        }
        if !overlap::is_glob(name) {
            return true;
        }
        let (start, text) = (overlap::literal_prefix(name), overlap::literal_text(name));
        let named = |text: &str| ResourceKey { resource: Resource::parse(text).expect("a start of a path is a name"), ..key.clone() };
        // `a/**` matches `a`, and beside that only what begins with `a/`.
        let itself = Some(named(start)).filter(|_| start.len() < text.len()).and_then(|key| self.locks.get_key_value(&key));
        let below = self.locks.range(named(text)..).take_while(|(other, _)| {
            (&other.project, &other.folder) == (&key.project, &key.folder) && other.resource.as_str().starts_with(text)
        });
        // Globs of the same or a shorter start were met above.
        let is_new = |other: &str| !overlap::is_glob(other) || overlap::literal_prefix(other).len() > start.len();
        let mut others = itself.into_iter().chain(below).filter(|(other, _)| {
            let other = other.resource.as_str();
            is_new(other) && overlap::overlaps(name, other)
        });
        others.all(|(other, lock)| passes(other, lock))
    }

    /// Other names in use that share a path with `key`.
    pub fn overlapping(&self, key: &ResourceKey) -> Vec<&ResourceKey> {
        let mut found = Vec::new();
        self.all_overlapping(key, |other, _| {
            found.push(other);
            true
        });
        found
    }

    /// A request joins at the tail, or parked.
    pub(crate) fn join(&mut self, order: u64, who: Party, since: Timestamp, set: Vec<(ResourceKey, LockMode)>, parked: bool) {
        let request = Request { who, since, set: set.into(), parked };
        if !parked {
            self.enqueue(order, &request);
        }
        self.requests.insert(order, request);
    }

    fn enqueue(&mut self, order: u64, request: &Request) {
        for (key, mode) in request.set.iter() {
            let waiter = Waiter { who: request.who.clone(), mode: *mode, since: request.since };
            self.locks.entry(key.clone()).or_default().add(order, waiter);
            self.globs.insert(key);
        }
    }

    /// A request leaves without having been granted.
    pub(crate) fn leave(&mut self, order: u64) -> Changes {
        let mut changes = Changes::default();
        if let Some(request) = self.requests.remove(&order) {
            self.dequeue(order, &request, &mut changes);
        }
        changes
    }

    fn dequeue(&mut self, order: u64, request: &Request, changes: &mut Changes) {
        for (key, _) in request.set.iter() {
            if let Some(lock) = self.locks.get_mut(key) {
                lock.remove(order);
            }
        }
        for (key, mode) in request.set.iter() {
            // A reader that leaves can only have been ahead of a writer, a writer of anybody.
            self.collect_front(key, *mode == LockMode::Write, changes);
            self.forget_if_idle(key);
        }
    }

    /// Holds up nobody from now on, and keeps its number.
    pub(crate) fn park(&mut self, order: u64) -> Changes {
        let mut changes = Changes::default();
        if let Some(mut request) = self.requests.remove(&order) {
            if !request.parked {
                self.dequeue(order, &request, &mut changes);
                request.parked = true;
            }
            self.requests.insert(order, request);
        }
        changes
    }

    /// Takes its old place again; later requests that conflict with it must wait for it.
    pub(crate) fn unpark(&mut self, order: u64) -> Changes {
        let mut changes = Changes::default();
        let Some(mut request) = self.requests.remove(&order) else { return changes };
        if request.parked {
            request.parked = false;
            self.enqueue(order, &request);
        }
        let set = request.set.clone();
        self.requests.insert(order, request);
        for (key, _) in set.iter() {
            let mut hold_up = |lock: &Lock| changes.blocked.extend(lock.waiting.range(order + 1..).map(|(later, _)| *later));
            self.locks.get(key).into_iter().for_each(&mut hold_up);
            self.all_overlapping(key, |_, lock| {
                hold_up(lock);
                true
            });
        }
        let Changes { blocked, visited, .. } = &mut changes;
        blocked.retain(|later| !self.is_grantable(*later, visited));
        if self.is_grantable(order, &mut changes.visited) {
            changes.grantable.push(order);
        }
        changes
    }

    /// Grants a whole set. The request must be grantable; nobody else's standing changes for the better.
    pub(crate) fn grant(&mut self, order: u64, token: Token) -> Arc<[(ResourceKey, LockMode)]> {
        let request = self.requests.remove(&order).expect("only a waiting request is granted");
        for (key, mode) in request.set.iter() {
            let lock = self.locks.get_mut(key).expect("a waiting request stands in each of its locks");
            lock.remove(order);
            lock.holders.push(Holder { who: request.who.clone(), mode: *mode, token });
        }
        request.set
    }

    /// True if a request that came now could be granted at once.
    pub(crate) fn would_grant(&self, key: &ResourceKey, mode: LockMode, visited: &mut u64) -> bool {
        let last = u64::MAX;
        *visited += 1;
        let same = self.locks.get(key).is_none_or(|lock| lock.lets_pass(last, mode));
        same && self.all_overlapping(key, |_, other| {
            *visited += 1;
            other.lets_pass(last, mode)
        })
    }

    /// Who keeps a request from being granted, the holders first.
    pub(crate) fn in_the_way(&self, key: &ResourceKey, mode: LockMode, order: u64) -> Vec<InTheWay<'_>> {
        let excludes = |other: LockMode| mode == LockMode::Write || other == LockMode::Write;
        let (mut found, mut waiting) = (Vec::new(), Vec::new());
        for name in std::iter::once(key).chain(self.overlapping(key)) {
            let Some((name, lock)) = self.locks.get_key_value(name) else { continue };
            let holders = lock.holders.iter().filter(|holder| excludes(holder.mode));
            found.extend(holders.map(|holder| (name, &holder.who, Some(holder.token), None)));
            let ahead = lock.waiting.range(..order).filter(|(_, waiter)| excludes(waiter.mode));
            waiting.extend(ahead.map(|(order, waiter)| (name, &waiter.who, None, Some(*order))));
        }
        found.extend(waiting);
        found
    }

    /// Frees what an attempt, or an owner outside, held.
    pub(crate) fn release(&mut self, who: &Party, set: &[(ResourceKey, LockMode)]) -> Changes {
        let mut changes = Changes::default();
        if planted(Mutant::ReleaseWithEnd) {
            return changes;
        }
        for (key, mode) in set {
            let Some(lock) = self.locks.get_mut(key) else { continue };
            lock.holders.retain(|holder| holder.who != *who);
            self.collect_front(key, *mode == LockMode::Write, &mut changes);
            self.forget_if_idle(key);
        }
        changes
    }

    /// Adds the waiters of `key`, and of what overlaps it, that may be granted now. After a reader went, only a writer at the head can
    /// have gained.
    fn collect_front(&self, key: &ResourceKey, everybody: bool, changes: &mut Changes) {
        let Changes { grantable, visited, .. } = changes;
        let mut collect = |lock: &Lock| {
            *visited += 1;
            let head = lock.waiting.first_key_value().filter(|(_, head)| head.mode == LockMode::Write);
            let all = everybody || planted(Mutant::Fifo);
            let front = all.then(|| lock.front()).into_iter().flatten();
            let gained = front.chain(head.filter(|_| !all).map(|(order, _)| *order));
            grantable.extend(gained.filter(|order| self.is_grantable(*order, visited)));
        };
        self.locks.get(key).into_iter().for_each(&mut collect);
        self.all_overlapping(key, |_, lock| {
            collect(lock);
            true
        });
    }

    fn forget_if_idle(&mut self, key: &ResourceKey) {
        if self.locks.get(key).is_some_and(Lock::is_idle) {
            self.locks.remove(key);
            self.globs.remove(key);
        }
    }

    /// True if the globs among the names in use are the ones that are kept.
    pub(crate) fn knows_its_globs(&self) -> bool {
        let mut globs = Globs::default();
        self.locks.keys().for_each(|key| globs.insert(key));
        globs == self.globs
    }

    /// Whose request it is.
    pub(crate) fn owner(&self, order: u64) -> Option<&Party> {
        self.requests.get(&order).map(|request| &request.who)
    }
}
