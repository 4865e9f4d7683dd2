//! The journal as JetStream is one: compare-and-set on the last sequence, and every way in which a write can go wrong.

use std::rc::Rc;

use amphi_coordination::mutants::{Mutant, planted};
use amphi_coordination::seat::Appended;
use amphi_protocol::journal::Record;

use super::world::{Event, World};

/// When the writer gives up waiting.
const APPEND_TIMEOUT_MS: u64 = 400;

/// What was stored. Sequences count from 1.
#[derive(Debug)]
pub(super) struct FakeJournal {
    /// Everything that was ever stored; trimmed records are here for the judges only.
    pub records: Vec<(Rc<Vec<u8>>, Rc<Record>)>,
    /// The first record that has not been trimmed.
    pub first: u64,
}

impl Default for FakeJournal {
    fn default() -> Self {
        Self { records: Vec::new(), first: 1 }
    }
}

impl FakeJournal {
    pub fn len(&self) -> u64 {
        self.records.len() as u64
    }
}

impl World {
    /// A Manager publishes a record; what becomes of it is the journal's affair.
    pub fn append(&mut self, manager: u64, expected: u64, bytes: Rc<Vec<u8>>) -> u64 {
        let request = self.id();
        let arrival = self.rng.between(1, 15);
        self.after(APPEND_TIMEOUT_MS, Event::AppendTimedOut { manager, request });
        let arrives = |answered, late| Event::AppendArrives { manager, request, expected, bytes: bytes.clone(), answered, late };
        let fate = if self.faults { self.rng.below(100) } else { 99 };
        match fate {
            0..3 => self.tally.fault("journal.write_lost"),
            3..7 => {
                self.tally.fault("journal.ack_lost");
                self.after(arrival, arrives(false, false));
            }
            7..11 => {
                self.tally.fault("journal.write_late");
                let late = self.rng.between(APPEND_TIMEOUT_MS + 1, 3_000);
                self.after(late, arrives(false, true));
            }
            11..14 => {
                self.tally.fault("journal.write_twice");
                self.after(arrival, arrives(true, false));
                let again = self.rng.between(1, 1_500);
                self.after(again, arrives(false, true));
            }
            14..17 => {
                self.tally.fault("journal.busy");
                // Busy is no refusal: the same bytes again are right.
                self.after(arrival, Event::Appended { manager, request, result: Appended::Unknown });
            }
            _ => self.after(arrival, arrives(true, false)),
        }
        request
    }

    pub fn append_arrives(&mut self, (manager, request): (u64, u64), expected: u64, bytes: &Rc<Vec<u8>>, answered: bool, late: bool) {
        let fits = expected == self.journal.len() || planted(Mutant::CompareAndSet);
        let result = if fits {
            if late {
                self.tally.fault("journal.write_late_stored");
            }
            self.store(bytes);
            Appended::Acknowledged(self.journal.len())
        } else {
            self.tally.fault("journal.conflict");
            Appended::Conflict
        };
        if answered {
            let delay = self.rng.between(1, 15);
            self.after(delay, Event::Appended { manager, request, result });
        }
    }

    fn store(&mut self, bytes: &Rc<Vec<u8>>) {
        match Record::decode(bytes) {
            Ok(record) => {
                for input in &record.inputs {
                    self.tally.input(input);
                }
                for decision in record.decisions.iter().flatten() {
                    self.tally.decision(decision);
                }
                if record.inputs.len() > 1 {
                    self.tally.seen("group.commit");
                }
                self.observer.commit(&record, self.time);
                self.journal.records.push((bytes.clone(), Rc::new(record)));
                self.noticed();
            }
            Err(error) => self.fail("S3", format!("a record cannot be read: {error}")),
        }
    }

    pub fn read_arrives(&mut self, manager: u64) {
        let mut sequence = self.journal.len();
        if self.faults && sequence > 1 && self.rng.chance(10) {
            self.tally.fault("journal.stale_read");
            sequence -= 1;
        }
        let last = sequence.checked_sub(1).map(|position| (sequence, self.journal.records[position as usize].0.clone()));
        let delay = self.rng.between(1, 10);
        self.after(delay, Event::LastRead { manager, last });
    }
}
