//! The stage: the time, the events to come, and who takes which of them.

use std::collections::BTreeMap;
use std::rc::Rc;

use amphi_coordination::laws::Violation;
use amphi_coordination::seat::Appended;
use amphi_coordination::seat::Seat;
use amphi_protocol::ids::{AttemptRef, EpicId, Epoch, Timestamp};
use amphi_protocol::journal::{EffectEnd, Input, Outcome as AttemptOutcome};
use amphi_protocol::node::{Heartbeat, NodeCommand};

use super::client::Clients;
use super::journal::FakeJournal;
use super::manager::Manager;
use super::node::FakeNode;
use super::observer::Observer;
use super::process::Processes;
use super::rng::Rng;
use super::tally::Tally;
use super::upkeep::{Chore, Store};
use super::{Options, finish};

/// Steps after the last fault within which everything must have come to its end.
const QUIET_STEPS_MAX: u64 = 30_000;
/// 2026-01-01, where simulated time begins.
pub(super) const WALL: u64 = 1_767_225_600_000;

/// How a history ended.
#[derive(Debug)]
pub struct Outcome {
    /// Its seed.
    pub seed: u64,
    /// Steps with faults that were asked for: they are part of the history.
    pub steps_asked: u64,
    /// Events taken.
    pub steps: u64,
    /// Records in the journal.
    pub commits: u64,
    /// What it reached.
    pub tally: Tally,
    /// The law that it broke.
    pub violation: Option<String>,
}

/// Who sent a request and wants the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sender {
    Node { node: usize, life: u64, request: u64 },
    Client { request: u64 },
}

/// What became of one input of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Accepted(Option<EpicId>),
    Duplicate(EpicId),
    Refused(&'static str),
}

/// The answer to a request.
#[derive(Debug, Clone)]
pub(super) enum Reply {
    Verdicts {
        epoch: Epoch,
        verdicts: Vec<Verdict>,
    },
    /// Certainly not taken.
    NoLeader,
    /// Perhaps taken.
    Unsure,
}

/// Why a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    Itself(AttemptOutcome),
    Killed,
}

#[derive(Debug, Clone)]
pub(super) enum Event {
    AppendArrives {
        manager: u64,
        request: u64,
        expected: u64,
        bytes: Rc<Vec<u8>>,
        answered: bool,
        late: bool,
    },
    Appended {
        manager: u64,
        request: u64,
        result: Appended,
    },
    AppendTimedOut {
        manager: u64,
        request: u64,
    },
    ReadArrives {
        manager: u64,
    },
    LastRead {
        manager: u64,
        last: Option<(u64, Rc<Vec<u8>>)>,
    },
    ManagerStarts,
    ChoreDone {
        manager: u64,
        chore: Chore,
    },
    Acts {
        manager: u64,
    },
    Pumps {
        manager: u64,
    },
    Ticks {
        manager: u64,
    },
    Request {
        from: Sender,
        inputs: Rc<Vec<Input>>,
    },
    Handles {
        manager: u64,
        from: Sender,
        inputs: Rc<Vec<Input>>,
    },
    Replied {
        to: Sender,
        reply: Reply,
    },
    RequestTimedOut {
        node: usize,
        life: u64,
        request: u64,
    },
    Command {
        node: usize,
        command: Rc<NodeCommand>,
    },
    Heartbeat {
        node: usize,
        sent_at: u64,
        heartbeat: Rc<Heartbeat>,
    },
    HeartbeatAcked {
        node: usize,
        life: u64,
        sent_at: u64,
        epoch: Epoch,
    },
    NodeStarts {
        node: usize,
    },
    NodeTicks {
        node: usize,
        life: u64,
    },
    Sends {
        node: usize,
        life: u64,
    },
    JobStarts {
        node: usize,
        life: u64,
        attempt: AttemptRef,
    },
    ClaimOverdue {
        node: usize,
        life: u64,
        attempt: AttemptRef,
    },
    ProcessEnds {
        pid: u32,
        cause: Cause,
    },
    ProcessSpeaks {
        pid: u32,
    },
    /// It asks whoever is concerned whether its effect has happened.
    ProcessAsks {
        pid: u32,
    },
    /// It brings its effect about.
    ProcessActs {
        pid: u32,
    },
    /// It says what became of it.
    ProcessTells {
        pid: u32,
        end: EffectEnd,
    },
    Hears {
        node: usize,
        life: u64,
        attempt: AttemptRef,
        cause: Cause,
    },
    AgentUp {
        node: usize,
        life: u64,
        agent: usize,
    },
    JoinDue {
        node: usize,
        life: u64,
    },
    ClientActs,
    Fault,
}

pub(super) struct World {
    pub seed: u64,
    pub options: Options,
    pub rng: Rng,
    /// Real time of the simulation, in milliseconds; the same for everybody, known to nobody.
    pub time: u64,
    pub step: u64,
    pub faults: bool,
    pub persons_answer: bool,
    pub store: Store,
    events: BTreeMap<(u64, u64), Event>,
    scheduled: u64,
    last_arrival: u64,
    pub journal: FakeJournal,
    pub managers: BTreeMap<u64, Manager>,
    /// Who holds the lease: the newest Manager.
    pub lease: u64,
    pub starting: bool,
    pub standby: Option<Seat>,
    pub nodes: Vec<FakeNode>,
    pub processes: Processes,
    pub clients: Clients,
    pub observer: Observer,
    pub tally: Tally,
    pub violation: Option<String>,
    ids: u64,
}

impl World {
    pub fn new(seed: u64, options: Options) -> Self {
        let mut rng = Rng::new(seed);
        let nodes = FakeNode::layout(&mut rng);
        let persons_answer = rng.chance(70);
        let store = Store::new(&mut rng);
        let mut world = Self {
            seed,
            options,
            rng,
            time: 0,
            step: 0,
            faults: true,
            persons_answer,
            store,
            events: BTreeMap::new(),
            scheduled: 0,
            last_arrival: 0,
            journal: FakeJournal::default(),
            standby: None,
            managers: BTreeMap::new(),
            lease: 0,
            starting: true,
            nodes,
            processes: Processes::default(),
            clients: Clients::default(),
            observer: Observer::default(),
            tally: Tally::default(),
            violation: None,
            ids: 0,
        };
        world.after(1, Event::ManagerStarts);
        for node in 0..world.nodes.len() {
            let delay = world.rng.between(1, 200);
            world.after(delay, Event::NodeStarts { node });
        }
        world.after(50, Event::ClientActs);
        world.after(300, Event::Fault);
        world
    }

    pub fn play(mut self) -> Outcome {
        while self.violation.is_none() && self.step < self.options.steps {
            self.take_next();
        }
        if self.violation.is_none() {
            self.calm_down();
        }
        let last_fault = self.step;
        while self.violation.is_none() && !self.is_quiet() {
            if self.step - last_fault > QUIET_STEPS_MAX {
                let words = self.unfinished();
                self.fail("L2", words);
                break;
            }
            self.take_next();
        }
        if self.violation.is_none()
            && let Err(violation) = finish::check(&mut self)
        {
            self.violated(&violation);
        }
        Outcome {
            seed: self.seed,
            steps_asked: self.options.steps,
            steps: self.step,
            commits: self.journal.len(),
            tally: self.tally,
            violation: self.violation,
        }
    }

    fn take_next(&mut self) {
        let Some(((at, _), event)) = self.events.pop_first() else {
            self.fail("L2", "nothing is left to happen".to_owned());
            return;
        };
        self.time = self.time.max(at);
        self.step += 1;
        if self.options.trace {
            eprintln!("{:>6} {:>8} {event:?}", self.step, self.time);
        }
        self.take(event);
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::AppendArrives { manager, request, expected, bytes, answered, late } => {
                self.append_arrives((manager, request), expected, &bytes, answered, late);
            }
            Event::ReadArrives { manager } => self.read_arrives(manager),
            Event::ManagerStarts => self.manager_starts(),
            Event::Appended { manager, .. }
            | Event::AppendTimedOut { manager, .. }
            | Event::LastRead { manager, .. }
            | Event::Acts { manager }
            | Event::Pumps { manager }
            | Event::Ticks { manager }
            | Event::ChoreDone { manager, .. }
            | Event::Handles { manager, .. } => self.manager_event(manager, event),
            Event::Request { from, inputs } => self.request_arrives(from, inputs),
            Event::Heartbeat { node, sent_at, heartbeat } => self.heartbeat_arrives(node, sent_at, &heartbeat),
            Event::Replied { to: Sender::Client { request }, reply } => self.client_hears(request, &reply),
            Event::Replied { to: Sender::Node { node, .. }, .. }
            | Event::RequestTimedOut { node, .. }
            | Event::Command { node, .. }
            | Event::HeartbeatAcked { node, .. }
            | Event::NodeTicks { node, .. }
            | Event::Sends { node, .. }
            | Event::JobStarts { node, .. }
            | Event::ClaimOverdue { node, .. }
            | Event::Hears { node, .. }
            | Event::AgentUp { node, .. }
            | Event::JoinDue { node, .. } => self.node_event(node, event),
            Event::NodeStarts { node } => self.node_starts(node),
            Event::ProcessEnds { pid, cause } => self.process_ends(pid, cause),
            Event::ProcessSpeaks { pid } => self.process_speaks(pid),
            Event::ProcessAsks { pid } => self.process_asks(pid),
            Event::ProcessActs { pid } => self.process_acts(pid),
            Event::ProcessTells { pid, end } => self.process_tells(pid, &end),
            Event::ClientActs => self.client_acts(),
            Event::Fault => self.inject(),
        }
    }

    /// Something that happens for certain, `delay` from now.
    pub fn after(&mut self, delay: u64, event: Event) {
        self.scheduled += 1;
        self.events.insert((self.time + delay, self.scheduled), event);
    }

    /// A message: lost, doubled, delayed or overtaken while there are faults.
    pub fn send(&mut self, event: Event) {
        let mut delay = self.rng.between(1, 25);
        if self.faults {
            match self.rng.below(100) {
                0..4 => return self.tally.fault("message.drop"),
                4..8 => {
                    self.tally.fault("message.duplicate");
                    let again = self.rng.between(1, 2_500);
                    self.after(again, event.clone());
                }
                8..13 => {
                    self.tally.fault("message.delay");
                    delay = self.rng.between(100, 4_000);
                }
                _ => {}
            }
        }
        let arrival = self.time + delay;
        if arrival < self.last_arrival && self.faults {
            self.tally.fault("message.reorder");
        }
        self.last_arrival = self.last_arrival.max(arrival);
        self.after(delay, event);
    }

    /// A number that was never given before.
    pub fn id(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }

    pub fn now(&self) -> Timestamp {
        Timestamp(self.time)
    }

    pub fn fail(&mut self, law: &str, words: String) {
        if self.violation.is_none() {
            self.violation = Some(format!("{law}: {words} (step {}, {} ms)", self.step, self.time));
        }
    }

    pub fn violated(&mut self, violation: &Violation) {
        self.fail(violation.law, violation.words.clone());
    }

    /// Passes on what the observer has noticed.
    pub fn noticed(&mut self) {
        if let Some(violation) = self.observer.violation.take() {
            self.violated(&violation);
        }
    }

    /// The leader's state, if it says what the journal says.
    pub fn leader(&self) -> Option<&Manager> {
        self.managers.get(&self.lease).filter(|manager| manager.seat.is_leading() && manager.seat.is_settled())
    }

    fn is_quiet(&self) -> bool {
        let Some(leader) = self.leader() else { return false };
        // What owners outside do not renew is over some time.
        let free = leader.seat.state().outside_asks().next().is_none();
        let ended = leader.seat.state().epics().all(|epic| epic.is_ended() || (!self.persons_answer && epic.needs_person()));
        ended
            && free
            && self.managers.len() == 1
            && leader.is_idle()
            && self.processes.is_empty()
            && self.clients.is_settled()
            && self.store.is_quiet(self.time)
            && self.nodes.iter().all(FakeNode::is_quiet)
    }

    fn unfinished(&self) -> String {
        let Some(leader) = self.leader() else { return "nobody leads".to_owned() };
        let open = leader.seat.state().epics().filter(|epic| !epic.is_ended());
        let epics: Vec<String> = open.map(|epic| format!("{} {:?} {:?}", epic.id, epic.status, epic.instances)).collect();
        let nodes: Vec<String> = self.nodes.iter().filter(|node| !node.is_quiet()).map(|node| format!("{node:?}")).collect();
        format!("after {QUIET_STEPS_MAX} steps without a fault there are still: {epics:?} {nodes:?} {:?}", self.processes)
    }
}
