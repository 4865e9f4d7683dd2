//! Who holds what and who waits for it. Grants and releases are the journal's; this only remembers and compares.

use std::collections::{BTreeMap, BTreeSet};

use amphi_protocol::document::LockMode;

use crate::cluster::InstanceKey;
use crate::spec::LockKey;

/// A set of locks, as one attempt asks for it.
pub(crate) type LockSet = [(LockKey, LockMode)];

/// Who holds or waits: an instance of an epic, or an owner outside of all epics by a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Party {
    Task(InstanceKey),
    Outside(u32),
}

impl Party {
    /// Less than everybody.
    const FIRST: Self = Self::Task((0, 0));

    /// The instance, unless it is somebody outside.
    pub fn task(self) -> Option<InstanceKey> {
        match self {
            Self::Task(key) => Some(key),
            Self::Outside(_) => None,
        }
    }
}

/// All locks of the shard.
#[derive(Debug, Default)]
pub(crate) struct LockTable {
    held: BTreeMap<LockKey, BTreeMap<Party, LockMode>>,
    /// Per resource, who asked for it since which record.
    waiting: BTreeMap<LockKey, BTreeMap<(u64, Party), LockMode>>,
    /// Every name seen that is a glob.
    globs: BTreeSet<LockKey>,
}

/// What stands under the name itself and under all names that overlap it.
fn near<'t, V>(table: &'t BTreeMap<LockKey, V>, globs: &BTreeSet<LockKey>, key: &LockKey) -> Vec<&'t V> {
    if globs.is_empty() {
        return table.get(key).into_iter().collect();
    }
    if key.is_glob() {
        return table.iter().filter(|(other, _)| key.meets(other)).map(|(_, there)| there).collect();
    }
    table.get(key).into_iter().chain(globs.iter().filter(|glob| glob.meets(key)).filter_map(|glob| table.get(glob))).collect()
}

fn conflict(one: LockMode, other: LockMode) -> bool {
    one == LockMode::Write || other == LockMode::Write
}

impl LockTable {
    /// Another party that holds something in a way that excludes `set`.
    pub fn excluded_by(&self, party: Party, set: &LockSet) -> Option<Party> {
        set.iter().find_map(|(key, mode)| {
            let mut holders = near(&self.held, &self.globs, key).into_iter().flatten();
            holders.find(|(holder, held)| **holder != party && conflict(*mode, **held)).map(|(holder, _)| *holder)
        })
    }

    /// The party has the set.
    pub fn hold(&mut self, party: Party, set: &LockSet) {
        for (key, mode) in set {
            if key.is_glob() {
                self.globs.insert(key.clone());
            }
            self.held.entry(key.clone()).or_default().insert(party, *mode);
        }
    }

    /// The party gives the set back.
    pub fn release(&mut self, party: Party, set: &LockSet) {
        for (key, _) in set {
            if let Some(holders) = self.held.get_mut(key) {
                holders.remove(&party);
                if holders.is_empty() {
                    self.held.remove(key);
                }
            }
        }
    }

    /// The party asks for the set since record `since`.
    pub fn join(&mut self, party: Party, since: u64, set: &LockSet) {
        for (key, mode) in set {
            if key.is_glob() {
                self.globs.insert(key.clone());
            }
            self.waiting.entry(key.clone()).or_default().insert((since, party), *mode);
        }
    }

    /// The request is served or withdrawn.
    pub fn leave(&mut self, party: Party, since: u64, set: &LockSet) {
        for (key, _) in set {
            if let Some(queue) = self.waiting.get_mut(key) {
                queue.remove(&(since, party));
                if queue.is_empty() {
                    self.waiting.remove(key);
                }
            }
        }
    }

    /// True if somebody else waits for what excludes `set`.
    pub fn has_rival(&self, party: Party, set: &LockSet) -> bool {
        set.iter().any(|(key, mode)| {
            let mut queue = near(&self.waiting, &self.globs, key).into_iter().flatten();
            queue.any(|((_, rival), wanted)| *rival != party && conflict(*mode, *wanted))
        })
    }

    /// Who asked before record `since` for what excludes `set`.
    pub fn earlier_rivals<'t>(&'t self, party: Party, since: u64, set: &'t LockSet) -> impl Iterator<Item = Party> + 't {
        set.iter().flat_map(move |(key, mode)| {
            let queues = near(&self.waiting, &self.globs, key);
            let queue = queues.into_iter().flat_map(move |queue| queue.range(..(since, Party::FIRST)));
            queue.filter(move |((_, rival), wanted)| *rival != party && conflict(*mode, **wanted)).map(|((_, rival), _)| *rival)
        })
    }
}
