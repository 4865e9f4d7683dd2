//! The state of a shard and what is common to deciding, evolving and replaying.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use amphi_protocol::event::EventType;
use amphi_protocol::ids::{
    AgentId, AttemptRef, CommitIndex, EpicId, Epoch, EventSeq, IncidentId, NodeId, ProjectId, RoleName, ShardId, SubmitKey, Timestamp,
    Token,
};
use amphi_protocol::journal::{Decision, IncidentKind, Record, Resolution};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::epic::Epic;
use crate::fleet::Fleet;
use crate::history::History;
use crate::locks::LockTable;
use crate::mutants::{Mutant, planted};
use crate::outside::Outside;
use crate::queue::ReadyQueue;
use crate::sink::{EventSink, Subject, event};

/// Everything that the Manager of a shard knows for certain. The same records give the same state, everywhere.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// The shard.
    pub shard: ShardId,
    /// Number of the last commit.
    pub index: CommitIndex,
    /// The present term.
    pub epoch: Epoch,
    /// Who leads in it.
    pub leader: Option<NodeId>,
    /// The time of the last commit; never goes back.
    pub now: Timestamp,
    /// Number of the last public event.
    pub seq: EventSeq,
    pub(crate) token: Token,
    pub(crate) order: u64,
    pub(crate) epics: BTreeMap<EpicId, Epic>,
    #[serde(with = "crate::snapshot::pairs")]
    pub(crate) keys: BTreeMap<(ProjectId, SubmitKey), (EpicId, String)>,
    pub(crate) fleet: Fleet,
    pub(crate) locks: LockTable,
    pub(crate) queue: ReadyQueue,
    pub(crate) timers: BTreeSet<Timer>,
    pub(crate) incidents: BTreeMap<IncidentId, Incident>,
    /// Incidents opened so far: their numbers.
    pub(crate) incidents_opened: u64,
    pub(crate) history: History,
    /// Who waits for messages, by the subject with its wildcards.
    #[serde(default)]
    pub(crate) awaited: BTreeMap<String, BTreeSet<(EpicId, u32)>>,
    /// What operators pinned, by agent; the instances say the same.
    #[serde(default)]
    pub(crate) pins: BTreeMap<AgentId, BTreeSet<(EpicId, u32)>>,
    /// Locks that owners outside of all epics hold or wait for.
    #[serde(default)]
    pub(crate) outside: Outside,
    /// Grows whenever `awaited` gets or loses a subject: a measurement for the shell, not state.
    #[serde(skip)]
    pub(crate) awaited_revision: u64,
    #[serde(skip)]
    pub(crate) due: Due,
    #[serde(skip)]
    pub(crate) visited: u64,
}

/// Something that happens at a moment.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Timer {
    pub at: Timestamp,
    pub epic: EpicId,
    pub i: u32,
    pub kind: TimerKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TimerKind {
    Timeout,
    Backoff,
    Wait,
    Child,
}

/// A question for a person.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Incident {
    /// What it is about.
    pub attempt: AttemptRef,
    /// A line for people.
    pub summary: String,
    /// Since when.
    pub opened_at: Timestamp,
    /// What is asked.
    #[serde(default)]
    pub kind: IncidentKind,
    /// The answer.
    pub resolved: Option<(Resolution, String)>,
    /// Who looks after it.
    #[serde(default)]
    pub acked: Option<Acked>,
}

/// A person's word that they look after an incident.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Acked {
    /// Who.
    pub by: String,
    /// When.
    pub at: Timestamp,
    /// What they said.
    pub note: String,
}

/// What follows from the last decisions and has not been decided yet. Empty between inputs.
#[derive(Debug, Clone, Default)]
pub(crate) struct Due {
    /// Tasks that begin anew instead of ending, after a change.
    pub again: VecDeque<(EpicId, u32)>,
    pub conditions: VecDeque<(EpicId, u32)>,
    pub stopping: VecDeque<(EpicId, u32)>,
    pub fail_fast: VecDeque<(EpicId, u32)>,
    pub ended: VecDeque<EpicId>,
    /// Instances that are to open an epic.
    pub children: VecDeque<(EpicId, u32)>,
    /// Epics that have ended and that a task waits for.
    pub children_ended: VecDeque<EpicId>,
    pub incidents: VecDeque<(AttemptRef, IncidentKind)>,
    /// Requests from outside that may be granted now.
    pub outside: VecDeque<u64>,
    /// The fleet changed, so that pins may be in vain.
    pub fleet: bool,
    /// Became ready during this input; who is not assigned at its end waits, and says so.
    pub fresh: Vec<(EpicId, u32)>,
    /// Epics whose need of a person may have changed.
    pub touched: BTreeSet<EpicId>,
}

/// Why a record does not continue the state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// The index is not the next one.
    #[error("journal record {found} does not follow {last}")]
    Gap {
        /// Index of the last record.
        last: CommitIndex,
        /// Index found.
        found: CommitIndex,
    },
    /// The record belongs to an older term.
    #[error("journal record {index} has epoch {found} after epoch {last}")]
    OldEpoch {
        /// Its index.
        index: CommitIndex,
        /// The present term.
        last: Epoch,
        /// Its term.
        found: Epoch,
    },
    /// The specification of an epic is not at hand.
    #[error("the specification of epic {epic} (sha256 {hash}) is missing from the object store")]
    SpecMissing {
        /// The epic.
        epic: EpicId,
        /// Its hash.
        hash: String,
    },
    /// The record is of another shard.
    #[error("journal record {index} belongs to shard {found}")]
    OtherShard {
        /// Its index.
        index: CommitIndex,
        /// Its shard.
        found: ShardId,
    },
}

impl State {
    /// An empty shard.
    pub fn new(shard: ShardId) -> Self {
        Self { shard, ..Self::default() }
    }

    /// Applies a committed record: on standbys, in replays, in checks. Decides nothing anew.
    pub fn apply(&mut self, record: &Record, sink: &mut EventSink) -> Result<(), ReplayError> {
        self.check(record)?;
        self.begin(record.now_ms);
        // The writer's numbering wins: another build may derive more or fewer events from the same decisions.
        self.seq = record.seq;
        for decisions in &record.decisions {
            for decision in decisions {
                self.evolve(decision, sink);
            }
            self.settle(sink);
        }
        self.index = record.index;
        Ok(())
    }

    fn check(&self, record: &Record) -> Result<(), ReplayError> {
        if record.shard != self.shard {
            return Err(ReplayError::OtherShard { index: record.index, found: record.shard });
        }
        if record.index != self.index.next() {
            return Err(ReplayError::Gap { last: self.index, found: record.index });
        }
        if record.epoch < self.epoch && !planted(Mutant::EpochCheck) {
            return Err(ReplayError::OldEpoch { index: record.index, last: self.epoch, found: record.epoch });
        }
        for decision in record.decisions.iter().flatten() {
            if let Decision::EpicAccepted { epic, spec, .. } = decision
                && spec.get().is_none()
            {
                return Err(ReplayError::SpecMissing { epic: epic.clone(), hash: spec.hash.clone() });
            }
        }
        Ok(())
    }

    /// Time goes on, never back.
    pub(crate) fn begin(&mut self, now: Timestamp) {
        self.now = self.now.max(now);
    }

    /// Closes an input: says what became ready and waits all the same. The dues have been decided on, here or by the writer.
    pub(crate) fn settle(&mut self, sink: &mut EventSink) {
        let due = std::mem::take(&mut self.due);
        for (epic, i) in due.fresh {
            if let Some(reason) = self.reason_of(&epic, i) {
                self.instance_event(sink, EventType::TaskWaiting, (&epic, i), crate::sink::data! { "reason": reason.as_str() });
            }
        }
        let mut touched = due.touched;
        while let Some(id) = touched.pop_first() {
            let Some(epic) = self.epics.get_mut(&id) else { continue };
            let waits = epic.needs_person();
            if waits == epic.waiting {
                continue;
            }
            epic.waiting = waits;
            let ended = epic.is_ended();
            // Who waits for it waits for the same person.
            if let Some((parent, _)) = self.opener(&id) {
                let count = &mut self.epic_mut(&parent).nested_waiting;
                *count = if waits { *count + 1 } else { *count - 1 };
                touched.insert(parent);
            }
            match (waits, ended) {
                (true, _) => self.epic_event(sink, EventType::EpicWaiting, &id, crate::sink::data! { "reason": "person" }),
                (false, false) => self.epic_event(sink, EventType::EpicResumed, &id, Map::new()),
                (false, true) => {}
            }
        }
    }

    /// The earliest moment at which time alone changes something.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        let grace = self.fleet.graces.first().map(|(at, _)| *at);
        self.timers.first().map(|timer| timer.at).into_iter().chain(grace).chain(self.outside.next_deadline()).min()
    }

    /// Nodes, edges, agents and classes looked at since the start: the measure of work per transition.
    pub fn visited(&self) -> u64 {
        self.visited
    }

    /// The subjects that tasks wait for, with their wildcards.
    pub fn awaited(&self) -> impl Iterator<Item = &str> {
        self.awaited.keys().map(String::as_str)
    }

    /// Another number whenever [`State::awaited`] may have changed.
    pub fn awaited_revision(&self) -> u64 {
        self.awaited_revision
    }

    /// An epic.
    pub fn epic(&self, id: &EpicId) -> Option<&Epic> {
        self.epics.get(id)
    }

    /// All epics, by id.
    pub fn epics(&self) -> impl Iterator<Item = &Epic> {
        self.epics.values()
    }

    /// A node.
    pub fn node(&self, id: &NodeId) -> Option<&crate::fleet::Node> {
        self.fleet.nodes.get(id)
    }

    /// All nodes.
    pub fn nodes(&self) -> impl Iterator<Item = (&NodeId, &crate::fleet::Node)> {
        self.fleet.nodes.iter()
    }

    /// All agents.
    pub fn agents(&self) -> impl Iterator<Item = (&amphi_protocol::ids::AgentId, &crate::fleet::Agent)> {
        self.fleet.agents.iter()
    }

    /// How many tasks of each role wait for nothing but an agent.
    pub fn waiting(&self) -> BTreeMap<RoleName, u32> {
        self.queue.waiting()
    }

    /// The lock table.
    pub fn locks(&self) -> &LockTable {
        &self.locks
    }

    /// A digest of everything in the state: two states are the same if and only if their digests are.
    pub fn digest(&self) -> String {
        use std::fmt::Write as _;
        struct Hasher(amphi_protocol::journal::Hasher);
        impl std::fmt::Write for Hasher {
            fn write_str(&mut self, text: &str) -> std::fmt::Result {
                self.0.update(text.as_bytes());
                Ok(())
            }
        }
        let mut hasher = Hasher(amphi_protocol::journal::Hasher::new());
        // The counter of looked-at nodes is a measurement, not state: a leader looks at more than a replay.
        let measured = (self.shard, self.index, self.epoch, &self.leader, self.now, self.seq, self.token, self.order);
        let kept = (&self.epics, &self.keys, &self.fleet, &self.locks, &self.queue, &self.timers, &self.incidents);
        let told = (self.incidents_opened, &self.history, &self.awaited, &self.pins, &self.outside);
        write!(hasher, "{measured:?}{kept:?}{told:?}").expect("hashing does not fail");
        hasher.0.finish()
    }

    pub(crate) fn event(&mut self, sink: &mut EventSink, kind: EventType, subject: impl FnOnce() -> Subject, data: Map<String, Value>) {
        self.seq = self.seq.next();
        if sink.is_collecting() {
            sink.push(event(self.shard, self.seq, self.now, kind, subject(), data));
        }
    }

    pub(crate) fn epic_event(&mut self, sink: &mut EventSink, kind: EventType, epic: &EpicId, data: Map<String, Value>) {
        self.event(sink, kind, || Subject { epic: Some(epic.clone()), ..Subject::default() }, data);
    }

    pub(crate) fn instance_event(&mut self, sink: &mut EventSink, kind: EventType, (id, i): (&EpicId, u32), data: Map<String, Value>) {
        self.seq = self.seq.next();
        let Some(epic) = self.epics.get(id).filter(|_| sink.is_collecting()) else { return };
        let instance = &epic.instances[i as usize];
        let open = epic.open(i);
        let mut data = data;
        if instance.undo {
            data.insert("undo".to_owned(), Value::Bool(true));
        }
        let subject = Subject {
            epic: Some(id.clone()),
            task: Some(epic.key(i)),
            task_token: Some(epic.plan.subject_token(&epic.spec, i)),
            run: Some(instance.run),
            attempt: (instance.attempt > 0).then_some(instance.attempt),
            agent: open.map(|attempt| attempt.agent.clone()),
            node: open.map(|attempt| attempt.node.clone()),
        };
        sink.push(event(self.shard, self.seq, self.now, kind, subject, data));
    }
}
