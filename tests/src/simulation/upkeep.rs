//! How the journal is kept: snapshots, archive, trimming, epics put away, history that is over. Each is several steps, and a Manager
//! can die, pause or be deposed between any two. Starts rely on nothing but what trimming has left.

use std::collections::BTreeMap;
use std::rc::Rc;

use amphi_coordination::State;
use amphi_coordination::laws::Violation;
use amphi_coordination::seat::Seat;
use amphi_coordination::snapshot::{self, relied_on};
use amphi_protocol::ids::{CommitIndex, NodeId, ShardId};
use amphi_protocol::journal::{Decision, Input, Record, Retiring, SegmentRef, SnapshotRef, Upkeep};

use super::manager::Manager;
use super::rng::Rng;
use super::world::{Event, World};

/// After the last fault, messages may still be under way for so long; only then may a key be forgotten.
const LAST_MESSAGE_MS: u64 = 7_000;

/// What is in the object store, and how eagerly it is used in this history.
#[derive(Debug, Default)]
pub(super) struct Store {
    objects: BTreeMap<String, Rc<Vec<u8>>>,
    /// Decisions after which a snapshot is taken.
    pub every: u64,
    /// Ended epics are put away.
    pub retires: bool,
    /// In the end, history is cut.
    pub cuts: bool,
    pub calm_at: Option<u64>,
    cut: bool,
}

/// A step that takes time.
#[derive(Debug, Clone)]
pub(super) enum Chore {
    /// These bytes are stored; then this is put on record.
    Store { name: String, bytes: Rc<Vec<u8>>, then: Upkeep },
    /// The journal before this record goes.
    Trim { from: u64 },
    /// Nothing needs to be stored first.
    Record(Upkeep),
}

impl Store {
    /// How eager a history is.
    pub fn new(rng: &mut Rng) -> Self {
        Self { every: rng.between(2, 60), retires: rng.chance(60), cuts: rng.chance(25), ..Self::default() }
    }

    /// True if nothing is left to wait for.
    pub fn is_quiet(&self, time: u64) -> bool {
        !self.cuts || self.cut || self.calm_at.is_some_and(|at| time > at + 2 * LAST_MESSAGE_MS)
    }
}

impl World {
    /// The next chore of a leader that has none under way.
    pub fn next_chore(&mut self, manager: &Manager) -> Option<Chore> {
        let (state, grown) = (manager.seat.state(), manager.seat.grown());
        let history = state.history();
        let archives = history.older().filter(|older| older.index > history.archived_to);
        if grown.decisions >= self.store.every {
            return Some(image(&manager.seat));
        }
        if let Some(older) = archives {
            return Some(self.segment(history.archived_to.next(), older.index));
        }
        if history.trimmable().0 >= self.journal.first {
            // A purge can be interrupted half-way.
            let all = history.trimmable().0 + 1;
            let from = if self.faults && self.rng.chance(30) { self.rng.between(self.journal.first, all) } else { all };
            return Some(Chore::Trim { from });
        }
        if self.store.retires
            && self.rng.chance(20)
            && let Some(epic) = state.epics().find(|epic| state.may_retire(epic))
        {
            let ended_at = epic.ended_at.expect("an ended epic ended at some time");
            let view = format!("epic-{}", epic.id);
            let then = Upkeep::Retire(vec![Retiring { epic: epic.id.clone(), ended_at, view: view.clone() }]);
            return Some(Chore::Store { name: view, bytes: Rc::default(), then });
        }
        let forgets = self.store.cuts && self.store.calm_at.is_some_and(|at| self.time > at + LAST_MESSAGE_MS);
        let from = history.segments.last().map(|segment| segment.to.next());
        from.filter(|from| forgets && history.from < *from).map(|from| Chore::Record(Upkeep::HistoryOver { from }))
    }

    fn segment(&mut self, from: CommitIndex, to: CommitIndex) -> Chore {
        let untrimmed = from.0 >= self.journal.first;
        if !untrimmed {
            self.fail("S3", format!("record {from} is to be archived and was trimmed, the journal begins at {}", self.journal.first));
        }
        let records = &self.journal.records[from.0 as usize - 1..to.0 as usize];
        let bytes: Vec<u8> = records.iter().flat_map(|(bytes, _)| bytes.iter().copied().chain([b'\n'])).collect();
        let until = records.last().map(|(_, record)| record.now_ms).unwrap_or_default();
        let name = format!("segment-{}", Record::hash(&bytes));
        let then = Upkeep::SegmentArchived(SegmentRef { from, to, until, object: name.clone(), bytes: bytes.len() as u64 });
        Chore::Store { name, bytes: Rc::new(bytes), then }
    }

    /// A chore has come to its end, if its Manager is still there.
    pub fn chore_done(&mut self, manager: &mut Manager, chore: Chore) -> Option<Input> {
        manager.chore = false;
        match chore {
            Chore::Store { name, bytes, then } => {
                self.store.objects.insert(name, bytes);
                Some(Input::Upkeep(then))
            }
            Chore::Trim { from } => {
                self.journal.first = self.journal.first.max(from);
                self.tally.seen("journal.trimmed");
                None
            }
            Chore::Record(upkeep) => {
                self.store.cut = true;
                Some(Input::Upkeep(upkeep))
            }
        }
    }

    /// Stored, and its Manager died before it could say so.
    pub fn chore_orphaned(&mut self, chore: Chore) {
        if let Chore::Store { name, bytes, .. } = chore {
            self.tally.fault("upkeep.orphan");
            self.store.objects.insert(name, bytes);
        }
    }

    /// A seat as a start finds it: from a snapshot and what follows, or from the archive, or from an untrimmed journal.
    pub fn restored(&mut self, node: NodeId) -> Result<Seat, Violation> {
        let whole = |node| Seat::new(node, State::new(ShardId(0)));
        let Some(marker) = self.journal.records.last().and_then(|(_, last)| last.snapshot) else {
            return Ok(whole(node));
        };
        let lost = |words: String| Violation { law: "S3", words };
        if marker.0 < self.journal.first {
            return Err(lost(format!("record {marker} names the snapshots and was trimmed")));
        }
        let relied = relied_on(&self.journal.records[marker.0 as usize - 1].1);
        let damaged = if self.faults { self.rng.below(6) } else { 5 };
        match (damaged, relied.as_slice()) {
            (0, _) => {
                self.tally.fault("snapshot.all_damaged");
                self.restored_from_archive(node).map_err(lost)
            }
            (1..3, [_, older]) => {
                self.tally.fault("snapshot.newest_damaged");
                self.load(node, older).map_err(lost)
            }
            (_, [newest, ..]) => {
                self.tally.seen("recovery.snapshot");
                self.load(node, newest).map_err(lost)
            }
            (_, []) => Err(lost(format!("record {marker} names no snapshot"))),
        }
    }

    /// Every way in which a start can find its state gives the live one.
    pub fn check_recoveries(&mut self, live: &str) -> Result<(), Violation> {
        let Some(marker) = self.journal.records.last().and_then(|(_, last)| last.snapshot) else { return Ok(()) };
        let relied = relied_on(&self.journal.records[marker.0 as usize - 1].1);
        let node = || NodeId::parse("judge").expect("the id is valid");
        let mut seats = Vec::new();
        for snapshot in &relied {
            seats.push(self.load(node(), snapshot));
        }
        if self.leader().is_some_and(|leader| leader.seat.state().history().from.0 <= 1) {
            seats.push(self.restored_from_archive(node()));
        }
        for seat in seats {
            let mut seat = seat.map_err(|words| Violation { law: "S3", words })?;
            for (bytes, record) in &self.journal.records[seat.tail().0 as usize..] {
                let followed = seat.follow(record.index.0, bytes, record);
                followed.map_err(|error| Violation { law: "S3", words: format!("after a recovery: {error}") })?;
            }
            if seat.state().digest() != live {
                return Err(Violation { law: "S3", words: "a recovery gives another state than the live one".to_owned() });
            }
        }
        Ok(())
    }

    fn load(&self, node: NodeId, snapshot: &SnapshotRef) -> Result<Seat, String> {
        let bytes = self.store.objects.get(&snapshot.object).ok_or_else(|| format!("{} is not in the store", snapshot.object))?;
        let loaded = snapshot::decode(bytes).map_err(|error| error.to_string())?;
        if !loaded.is_exact || loaded.state.digest() != snapshot.digest || loaded.hash != snapshot.hash {
            return Err(format!("the snapshot of commit {} is not what was written", snapshot.index));
        }
        if snapshot.index.0 + 1 < self.journal.first {
            return Err(format!("records after the snapshot of {} were trimmed", snapshot.index));
        }
        Ok(Seat::resume(node, loaded.state, snapshot.index.0, loaded.hash))
    }

    /// Without a snapshot, from the first record: archived stretches are found by what the journal still says of them. Where history
    /// is over this cannot be done, and must not be tried.
    fn restored_from_archive(&mut self, node: NodeId) -> Result<Seat, String> {
        let mut seat = Seat::new(node, State::new(ShardId(0)));
        let mut records: Vec<Rc<Record>> = self.journal.records[self.journal.first as usize - 1..].iter().map(|(_, r)| r.clone()).collect();
        let mut stretches: Vec<Vec<(Vec<u8>, Record)>> = Vec::new();
        let mut begins = self.journal.first;
        while begins > 1 {
            let segment = records.iter().flat_map(|record| record.decisions.iter().flatten()).find_map(|decision| match decision {
                Decision::SegmentArchived { segment } if segment.from.0 < begins && begins <= segment.to.0 + 1 => Some(segment.clone()),
                _ => None,
            });
            let Some(segment) = segment else { return Err(format!("no record tells where the records before {begins} are")) };
            let bytes = self.store.objects.get(&segment.object).ok_or_else(|| format!("{} is not in the store", segment.object))?;
            let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
            let stretch: Vec<(Vec<u8>, Record)> =
                lines.map(|line| (line.to_vec(), Record::decode(line).expect("it was stored so"))).collect();
            records = stretch.iter().map(|(_, record)| Rc::new(record.clone())).chain(records).collect();
            begins = segment.from.0;
            stretches.push(stretch);
        }
        for (bytes, record) in stretches.into_iter().rev().flatten().filter(|(_, record)| record.index.0 < self.journal.first) {
            seat.follow(record.index.0, &bytes, &record).map_err(|error| error.to_string())?;
        }
        self.tally.seen("recovery.archive");
        Ok(seat)
    }

    /// Archive and journal together are the whole history, from where it begins.
    pub fn check_archive(&mut self) -> Result<(), Violation> {
        let Some(leader) = self.leader() else { return Ok(()) };
        let history = leader.seat.state().history().clone();
        for segment in &history.segments {
            let wanted = &self.journal.records[segment.from.0 as usize - 1..segment.to.0 as usize];
            let stored = self.store.objects.get(&segment.object);
            let lines = stored.iter().flat_map(|bytes| bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()));
            if !lines.eq(wanted.iter().map(|(bytes, _)| bytes.as_slice())) {
                let words = format!("the archive of {} to {} is not what was in the journal", segment.from, segment.to);
                return Err(Violation { law: "S3", words });
            }
        }
        if self.journal.first > history.archived_to.0 + 1 {
            let words = format!("the journal begins at {} and the archive ends at {}", self.journal.first, history.archived_to);
            return Err(Violation { law: "S3", words });
        }
        let missing = history.retired.values().find(|retired| !self.store.objects.contains_key(&retired.view));
        missing.map_or(Ok(()), |retired| Err(Violation { law: "S3", words: format!("{} is not in the store", retired.view) }))
    }
}

fn image(seat: &Seat) -> Chore {
    let (digest, (_, hash)) = (seat.state().digest(), seat.tail());
    let bytes = snapshot::encode(seat.state(), hash, &digest);
    let name = format!("snapshot-{}", Record::hash(&bytes));
    let (index, hash) = (seat.state().index, hash.to_owned());
    let snapshot = SnapshotRef { index, hash, object: name.clone(), bytes: bytes.len() as u64, digest };
    Chore::Store { name, bytes: Rc::new(bytes), then: Upkeep::SnapshotTaken(snapshot) }
}

/// How long a chore takes.
pub(super) fn duration(world: &mut World) -> u64 {
    world.rng.between(1, 500)
}

/// The event that ends it.
pub(super) fn event(manager: u64, chore: Chore) -> Event {
    Event::ChoreDone { manager, chore }
}
