//! The requests of one class that only wait for an agent, and whose turn it is: deficit round robin between epics.
//!
//! Priority comes first. Among the epics of one priority the turn goes round: a request costs one and an epic's quantum is one, so its
//! deficit is just the turn that it has not used, and that is its place in the ring. Who is served goes to the end; who has nothing to
//! run keeps its place and gathers no further turns. Inside an epic the oldest request goes first.
//!
//! Nothing here knows about agents or locks, and nothing but an assignment moves the ring. Every step costs a search tree's depth.

use std::collections::BTreeMap;

use amphi_protocol::ids::EpicId;
use serde::{Deserialize, Serialize};

use crate::snapshot::pairs;

/// A request in the queue: priority first, then age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    pub priority: u8,
    pub order: u64,
}

/// An epic's place in the ring: smaller goes first. It grows with every assignment of the shard, so no two epics have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Turn(pub u64);

/// When a request comes up, compared over classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Claim {
    pub priority: u8,
    pub turn: Turn,
    pub order: u64,
}

/// The requests of a class that may run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Backlog {
    /// Who comes next, by priority and turn; exactly the keys of `requests`.
    #[serde(with = "pairs")]
    ring: BTreeMap<(u8, Turn), EpicId>,
    #[serde(with = "pairs")]
    requests: BTreeMap<(EpicId, u8), BTreeMap<u64, u32>>,
}

impl Backlog {
    /// A request may run. Harmless if it is there already.
    pub fn insert(&mut self, rank: Rank, turn: Turn, epic: &EpicId, i: u32) {
        self.ring.entry((rank.priority, turn)).or_insert_with(|| epic.clone());
        self.requests.entry((epic.clone(), rank.priority)).or_default().insert(rank.order, i);
    }

    /// A request may not run (any more). Harmless if it is not there.
    pub fn remove(&mut self, rank: Rank, turn: Turn, epic: &EpicId) {
        let key = (epic.clone(), rank.priority);
        let Some(requests) = self.requests.get_mut(&key) else { return };
        requests.remove(&rank.order);
        if requests.is_empty() {
            self.requests.remove(&key);
            self.ring.remove(&(rank.priority, turn));
        }
    }

    /// True if the request may run.
    pub fn contains(&self, rank: Rank, epic: &EpicId) -> bool {
        self.requests.get(&(epic.clone(), rank.priority)).is_some_and(|requests| requests.contains_key(&rank.order))
    }

    /// Who comes next.
    pub fn first(&self) -> Option<(Claim, &EpicId, u32)> {
        let ((priority, turn), epic) = self.ring.first_key_value()?;
        let requests = self.requests.get(&(epic.clone(), *priority)).expect("who stands in the ring has a request");
        let (order, i) = requests.first_key_value().expect("an epic without requests is not in the ring");
        Some((Claim { priority: *priority, turn: *turn, order: *order }, epic, *i))
    }

    /// The epic was served: it goes to the end of the ring.
    pub fn advance(&mut self, epic: &EpicId, from: Turn, to: Turn) {
        let priorities: Vec<u8> =
            self.requests.range((epic.clone(), 0)..=(epic.clone(), u8::MAX)).map(|((_, priority), _)| *priority).collect();
        for priority in priorities {
            let epic = self.ring.remove(&(priority, from)).expect("an epic with requests stands in the ring");
            self.ring.insert((priority, to), epic);
        }
    }

    /// How many requests come up before this one, and one more, if nothing changes; for people.
    pub fn place(&self, rank: Rank, turn: Turn, epic: &EpicId) -> Option<u64> {
        let own = self.requests.get(&(epic.clone(), rank.priority))?;
        let before = own.keys().position(|order| *order == rank.order)?;
        let mut place = before + 1;
        for ((priority, other), name) in self.ring.range(..=(rank.priority, Turn(u64::MAX))) {
            if name == epic && *priority == rank.priority {
                continue;
            }
            let backlog = self.requests[&(name.clone(), *priority)].len();
            let rounds = if *priority < rank.priority { backlog } else { before + usize::from(*other < turn) };
            place += backlog.min(rounds);
        }
        Some(place as u64)
    }

    /// How many requests may run. Costs the number of epics that have one.
    pub fn len(&self) -> usize {
        self.requests.values().map(BTreeMap::len).sum()
    }

    /// True if nothing may run.
    pub fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }

    /// Everything, as the laws look at it: for each epic in the ring its priority, its turn and its requests by age.
    pub fn iter(&self) -> impl Iterator<Item = (u8, Turn, &EpicId, &BTreeMap<u64, u32>)> {
        self.ring.iter().map(|((priority, turn), epic)| {
            let requests = self.requests.get(&(epic.clone(), *priority)).expect("who stands in the ring has a request");
            (*priority, *turn, epic, requests)
        })
    }
}
