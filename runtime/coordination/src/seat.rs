//! The commit loop of a Manager, without I/O: inputs come in, at most one commit is under way, and answers, orders and events leave
//! only after the journal has acknowledged it.
//!
//! What arrives while a commit is under way goes into the next one (group commit). After a doubt the identical bytes are published
//! again until they are acknowledged or refused; refused, the last record decides whether they are ours. A foreign record there
//! deposes the seat: it then appends nothing, orders nothing and answers only that it does not lead.
//!
//! The shell around it (an actor, or the simulation) performs the [`Action`]s in order and reports what came of them.

mod orders;

use std::collections::VecDeque;

use amphi_protocol::event::Event;
use amphi_protocol::ids::{CommitIndex, EpicId, Epoch, Incarnation, NodeId, Timestamp};
use amphi_protocol::journal::{Decision, Input, Record, SCHEMA};
use amphi_protocol::message::Letter;
use amphi_protocol::node::Order;

use crate::decide::Refusal;
use crate::messages::Messages;
use crate::sink::EventSink;
use crate::state::{ReplayError, State};

/// Inputs that one commit takes at most.
const INPUTS_PER_COMMIT: usize = 512;
/// Encoded size after which a commit takes no further input; one more input may go past it, up to the record limit.
const BYTES_PER_COMMIT: usize = 192 * 1024;
/// Inputs that may wait; more are refused as `cluster.busy`. Admission is ours: mailboxes are unbounded.
pub const WAITING_MAX: usize = 20_000;
/// Messages of followed records that are kept for sending again.
const UNTOLD_MAX: usize = 10_000;

/// Names an input towards the shell.
pub type Ticket = u64;

/// What the shell must do, in order.
#[derive(Debug)]
pub enum Action {
    /// Publish these bytes if the journal ends at `expected`; report with [`Seat::appended`].
    Append {
        /// Sequence of the last record.
        expected: u64,
        /// The record.
        bytes: Vec<u8>,
    },
    /// Read the journal's last record; report with [`Seat::last_read`].
    ReadLast,
    /// Tell the sender of an input.
    Answer {
        /// Which input.
        ticket: Ticket,
        /// What to say.
        answer: Answer,
    },
    /// Tell a node, in this term.
    Order {
        /// The node.
        node: NodeId,
        /// Its life.
        incarnation: Incarnation,
        /// What.
        order: Order,
    },
    /// Publish events, off the critical path.
    Publish(Vec<Event>),
    /// Send messages in the name of agents, off the critical path.
    Tell(Vec<Letter>),
    /// The seat leads from here on.
    Leads(Epoch),
    /// The seat leads no more and must be thrown away.
    StepDown(String),
}

/// The answer to an input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It is in the journal.
    Committed {
        /// In which commit.
        index: CommitIndex,
        /// In which term.
        epoch: Epoch,
        /// The time of the commit.
        now: Timestamp,
        /// The epic, if it was a submission.
        epic: Option<EpicId>,
    },
    /// It was not taken; nothing changed.
    Refused(Refusal),
    /// This seat does not lead; whether the input was taken is unknown. Sending it again is safe.
    NotLeading,
    /// Too much waits; sending it again later is safe.
    Busy,
}

/// What came of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// Stored at this sequence.
    Acknowledged(u64),
    /// The journal ends elsewhere.
    Conflict,
    /// Nobody knows.
    Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Following,
    Leading,
    Deposed,
}

#[derive(Debug)]
struct Flight {
    expected: u64,
    bytes: Vec<u8>,
    commit_id: String,
    leads: bool,
    answers: Vec<(Ticket, Answer)>,
    decisions: Vec<Decision>,
    events: Vec<Event>,
}

/// A Manager's seat on one shard.
#[derive(Debug)]
pub struct Seat {
    node: NodeId,
    state: State,
    sink: EventSink,
    role: Role,
    /// Sequence of the journal's last record, and its hash.
    sequence: u64,
    hash: String,
    waiting: VecDeque<(Ticket, Input)>,
    /// The input that is being decided; still here after a panic.
    deciding: Option<(Ticket, Input)>,
    flight: Option<Flight>,
    messages: Messages,
    /// Messages of followed records, from [`Seat::tell_since`] on.
    untold: VecDeque<Letter>,
    tell_since: Option<Timestamp>,
    /// Reports that were dropped because they were about something over.
    pub stale: u64,
    grown: Grown,
}

/// What the journal has grown by since its newest snapshot was put on record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Grown {
    /// Decisions.
    pub decisions: u64,
    /// Bytes of records.
    pub bytes: u64,
}

impl Grown {
    fn by(&mut self, bytes: usize, decisions: &[Decision]) {
        if decisions.iter().any(|decision| matches!(decision, Decision::SnapshotTaken { .. })) {
            *self = Self::default();
        }
        self.decisions += decisions.len() as u64;
        self.bytes += bytes as u64;
    }
}

/// Why a record of the journal cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// The chain of hashes is broken: the journal is not what was written.
    #[error("journal record {index} does not continue the hash chain: the journal was damaged or replaced")]
    BrokenChain {
        /// Its index.
        index: CommitIndex,
    },
    /// It does not continue the state.
    #[error(transparent)]
    Replay(#[from] ReplayError),
}

impl Seat {
    /// An empty seat for `node` that has followed nothing yet.
    pub fn new(node: NodeId, state: State) -> Self {
        Self {
            node,
            state,
            sink: EventSink::collecting(),
            role: Role::Following,
            sequence: 0,
            hash: String::new(),
            waiting: VecDeque::new(),
            deciding: None,
            flight: None,
            messages: Messages::default(),
            untold: VecDeque::new(),
            tell_since: None,
            stale: 0,
            grown: Grown::default(),
        }
    }

    /// A seat that goes on from a state whose last record stands at `sequence` and has the hash `hash`: a snapshot's.
    pub fn resume(node: NodeId, state: State, sequence: u64, hash: String) -> Self {
        Self { sequence, hash, ..Self::new(node, state) }
    }

    /// The state as of the last commit, plus what is under way if [`Seat::is_settled`] is false.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// True if the state is exactly what the journal holds: reads may be answered.
    pub fn is_settled(&self) -> bool {
        self.flight.is_none()
    }

    /// Its node.
    pub fn node(&self) -> &NodeId {
        &self.node
    }

    /// True if this seat leads.
    pub fn is_leading(&self) -> bool {
        self.role == Role::Leading
    }

    /// Sequence and hash of the journal's last record.
    pub fn tail(&self) -> (u64, &str) {
        (self.sequence, &self.hash)
    }

    /// How much a start would have to replay beyond the newest snapshot.
    pub fn grown(&self) -> Grown {
        self.grown
    }

    /// Takes a committed record, its stored bytes and sequence. Returns the events that it holds.
    pub fn follow(&mut self, sequence: u64, bytes: &[u8], record: &Record) -> Result<Vec<Event>, FollowError> {
        if record.prev_hash != self.hash {
            return Err(FollowError::BrokenChain { index: record.index });
        }
        self.state.apply(record, &mut self.sink)?;
        for decisions in &record.decisions {
            self.grown.by(0, decisions);
        }
        self.grown.bytes += bytes.len() as u64;
        self.sequence = sequence;
        self.hash = Record::hash(bytes);
        if self.tell_since.is_some_and(|since| record.now_ms >= since) {
            for decisions in &record.decisions {
                self.untold.extend(self.messages.after(&self.state, decisions));
            }
            let surplus = self.untold.len().saturating_sub(UNTOLD_MAX);
            self.untold.drain(..surplus);
        }
        Ok(self.sink.take())
    }

    /// From now on keeps the messages of followed records that are not older than `since`: their writer may have died before it sent
    /// them. Sent twice, they have the same id.
    pub fn tell_since(&mut self, since: Timestamp) {
        self.tell_since = Some(since);
    }

    /// The messages kept so far.
    pub fn take_untold(&mut self) -> Vec<Letter> {
        std::mem::take(&mut self.untold).into()
    }

    /// Asks for leadership: the first commit of a new term. Call when everything has been followed.
    pub fn lead(&mut self) {
        assert!(self.role == Role::Following && self.flight.is_none(), "only a following seat asks for leadership");
        self.waiting.clear();
        self.waiting.push_back((0, Input::Lead { node: self.node.clone() }));
    }

    /// Takes an input in. The answer comes as an [`Action::Answer`], now or later.
    pub fn take(&mut self, ticket: Ticket, input: Input) -> Option<Action> {
        if self.role != Role::Leading {
            return Some(Action::Answer { ticket, answer: Answer::NotLeading });
        }
        if self.waiting.len() >= WAITING_MAX {
            return Some(Action::Answer { ticket, answer: Answer::Busy });
        }
        self.waiting.push_back((ticket, input));
        None
    }

    /// Begins the next commit if none is under way and something waits. `commit_id` must be new for every call.
    pub fn pump(&mut self, now: Timestamp, commit_id: &str) -> Vec<Action> {
        if self.flight.is_some() || self.waiting.is_empty() || self.role == Role::Deposed {
            return Vec::new();
        }
        let mut batch = Batch::default();
        let seq = self.state.seq;
        while batch.count < INPUTS_PER_COMMIT && batch.bytes() < BYTES_PER_COMMIT {
            let Some(next) = self.waiting.pop_front() else { break };
            let (ticket, input) = self.deciding.insert(next);
            let (ticket, is_report) = (*ticket, matches!(input, Input::Attempt(_) | Input::Agent(_) | Input::Staff(_) | Input::Join(_)));
            match self.state.decide(now, input, &mut self.sink) {
                Ok(decisions) => batch.add(ticket, input, decisions),
                Err(refusal) => {
                    self.stale += u64::from(is_report);
                    batch.answers.push((ticket, Answer::Refused(refusal)));
                }
            }
            self.deciding = None;
        }
        if batch.count == 0 {
            return batch.answers.into_iter().map(|(ticket, answer)| Action::Answer { ticket, answer }).collect();
        }
        let leads = self.role == Role::Following;
        self.state.index = self.state.index.next();
        let head = Record {
            schema: SCHEMA,
            shard: self.state.shard,
            index: self.state.index,
            epoch: self.state.epoch,
            now_ms: self.state.now,
            commit_id: commit_id.to_owned(),
            prev_hash: self.hash.clone(),
            seq,
            snapshot: self.state.history.marker,
            inputs: Vec::new(),
            decisions: Vec::new(),
        };
        let bytes = Record::splice(&head, &batch.inputs_json, &batch.decisions_json);
        let committed = |epic| Answer::Committed { index: head.index, epoch: head.epoch, now: head.now_ms, epic };
        let taken = batch.taken.into_iter().map(|(ticket, epic)| (ticket, committed(epic)));
        let flight = Flight {
            expected: self.sequence,
            bytes,
            commit_id: head.commit_id,
            leads,
            answers: batch.answers.into_iter().chain(taken).collect(),
            decisions: batch.decisions,
            events: self.sink.take(),
        };
        let action = Action::Append { expected: flight.expected, bytes: flight.bytes.clone() };
        self.flight = Some(flight);
        vec![action]
    }

    /// The input on which [`Seat::pump`] panicked. The seat is then of no use any more: its state is half changed.
    pub fn poison(&mut self) -> Option<(Ticket, Input)> {
        self.deciding.take()
    }

    /// What came of the append under way.
    pub fn appended(&mut self, result: Appended) -> Vec<Action> {
        let Some(flight) = &self.flight else { return Vec::new() };
        match result {
            Appended::Acknowledged(sequence) => self.commit(sequence),
            Appended::Conflict => vec![Action::ReadLast],
            // Never another commit at this position: the same bytes again, until they are acknowledged or refused.
            Appended::Unknown => vec![Action::Append { expected: flight.expected, bytes: flight.bytes.clone() }],
        }
    }

    /// The journal's last record, read after a conflict: sequence and bytes, or nothing if the journal is empty.
    pub fn last_read(&mut self, last: Option<(u64, &[u8])>) -> Vec<Action> {
        let Some(flight) = &self.flight else { return Vec::new() };
        match last {
            Some((sequence, bytes)) if bytes == flight.bytes.as_slice() => self.commit(sequence),
            // The conflict was with a write that has since been taken back: not possible in a journal; ask again.
            Some((sequence, _)) if sequence == flight.expected => {
                vec![Action::Append { expected: flight.expected, bytes: flight.bytes.clone() }]
            }
            Some((sequence, bytes)) => {
                let whose = Record::decode(bytes).map_or_else(|error| error.to_string(), |record| format!("epoch {}", record.epoch));
                self.step_down(format!("the journal goes on at {sequence} with a record of {whose}, not with commit {}", flight.commit_id))
            }
            None => self.step_down("the journal is empty though records had been acknowledged".to_owned()),
        }
    }

    /// Leaves the role; everybody who waits hears that this seat does not lead.
    pub fn step_down(&mut self, reason: String) -> Vec<Action> {
        self.role = Role::Deposed;
        let under_way = self.flight.take().map(|flight| flight.answers).unwrap_or_default();
        let tickets: Vec<Ticket> =
            under_way.into_iter().map(|(ticket, _)| ticket).chain(self.waiting.drain(..).map(|(ticket, _)| ticket)).collect();
        let answers = tickets.into_iter().map(|ticket| Action::Answer { ticket, answer: Answer::NotLeading });
        answers.chain([Action::StepDown(reason)]).collect()
    }

    fn commit(&mut self, sequence: u64) -> Vec<Action> {
        let flight = self.flight.take().expect("a commit that is acknowledged is under way");
        self.sequence = sequence;
        self.hash = Record::hash(&flight.bytes);
        self.grown.by(flight.bytes.len(), &flight.decisions);
        let mut actions = Vec::with_capacity(flight.answers.len() + flight.decisions.len() + 2);
        if flight.leads {
            self.role = Role::Leading;
            actions.push(Action::Leads(self.state.epoch));
            actions.extend(self.reminders(Timestamp(u64::MAX)));
        }
        actions.extend(flight.answers.into_iter().map(|(ticket, answer)| Action::Answer { ticket, answer }));
        actions.extend(flight.decisions.iter().filter_map(|decision| self.order_of(decision)));
        let letters = self.messages.after(&self.state, &flight.decisions);
        if !letters.is_empty() {
            actions.push(Action::Tell(letters));
        }
        if !flight.events.is_empty() {
            actions.push(Action::Publish(flight.events));
        }
        actions
    }
}

/// A commit being filled. Each element is encoded once.
#[derive(Default)]
struct Batch {
    count: usize,
    inputs_json: Vec<u8>,
    decisions_json: Vec<u8>,
    decisions: Vec<Decision>,
    answers: Vec<(Ticket, Answer)>,
    taken: Vec<(Ticket, Option<EpicId>)>,
}

impl Batch {
    fn bytes(&self) -> usize {
        self.inputs_json.len() + self.decisions_json.len()
    }

    fn add(&mut self, ticket: Ticket, input: &Input, decisions: Vec<Decision>) {
        if self.count > 0 {
            self.inputs_json.push(b',');
            self.decisions_json.push(b',');
        }
        serde_json::to_writer(&mut self.inputs_json, input).expect("an input has only string keys and finite numbers");
        serde_json::to_writer(&mut self.decisions_json, &decisions).expect("a decision has only string keys and finite numbers");
        let epic = match input {
            Input::Submit(submission) => Some(submission.epic.clone()),
            _ => None,
        };
        self.taken.push((ticket, epic));
        self.decisions.extend(decisions);
        self.count += 1;
    }
}
