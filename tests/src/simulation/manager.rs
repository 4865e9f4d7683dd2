//! The shell around a seat: performs its actions in order, reports what came of them, and can die between any two.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use amphi_coordination::Refusal;
use amphi_coordination::laws::{self, Marks};
use amphi_coordination::liveness::{Liveness, Periods};
use amphi_coordination::seat::{Action, Answer, Appended, Seat, Ticket};
use amphi_coordination::snapshot;
use amphi_protocol::ids::{NodeId, Timestamp};
use amphi_protocol::journal::{AttemptNews, Input};
use amphi_protocol::node::{Heartbeat, NodeCommand, Order};

use super::node::{FENCE_MS, FENCE_TO_DEATH_MS};
use super::upkeep::{self, Chore};
use super::world::{Event, Reply, Sender, Verdict, WALL, World};

const TICK_MS: u64 = 150;
const REMINDER_MS: u64 = 600;
const PERIODS: Periods = Periods { node_dead_ms: 2_500, fence_ms: FENCE_MS + FENCE_TO_DEATH_MS };

/// A request and what is known of its inputs.
#[derive(Debug)]
struct Group {
    from: Sender,
    verdicts: Vec<Option<Verdict>>,
    left: usize,
    unsure: bool,
}

/// One life of a Manager.
#[derive(Debug)]
pub(super) struct Manager {
    pub id: u64,
    pub seat: Seat,
    /// Until when it is stopped; what comes meanwhile waits.
    pub paused_until: u64,
    liveness: Liveness,
    actions: VecDeque<Action>,
    acting: bool,
    pumping: bool,
    append: Option<u64>,
    reading: bool,
    /// Its clock at birth; goes on monotonically.
    clock: u64,
    born: u64,
    commits: u64,
    tickets: BTreeMap<Ticket, (u64, usize)>,
    groups: BTreeMap<u64, Group>,
    reminded: u64,
    marks: Marks,
    /// Something is being done for the journal.
    pub chore: bool,
}

impl Manager {
    pub fn is_idle(&self) -> bool {
        self.actions.is_empty() && self.append.is_none() && self.groups.is_empty()
    }

    /// Where it is, as a name for a crash there.
    pub fn moment(&self) -> &'static str {
        match self {
            _ if !self.actions.is_empty() => "manager.crash_between_actions",
            _ if self.append.is_some() || self.reading => "manager.crash_in_doubt",
            _ => "manager.crash",
        }
    }
}

/// What a seat is after its state went through a snapshot.
fn resumed(seat: Seat) -> Result<Seat, String> {
    let (sequence, hash) = seat.tail();
    let bytes = snapshot::encode(seat.state(), hash, &seat.state().digest());
    let loaded = snapshot::decode(&bytes).map_err(|error| format!("a snapshot cannot be read: {error}"))?;
    if !loaded.is_exact {
        return Err(format!("a snapshot at {sequence} gives another state than was written"));
    }
    Ok(Seat::resume(seat.node().clone(), loaded.state, sequence, loaded.hash))
}

impl World {
    /// A new Manager: replays the journal, takes the lease, asks for the term.
    pub fn manager_starts(&mut self) {
        self.starting = false;
        if self.managers.len() > 1 {
            return;
        }
        if !self.managers.is_empty() {
            self.tally.fault("manager.two_at_once");
        }
        let id = self.id();
        let node = NodeId::parse(&format!("manager-{id}")).expect("the id is valid");
        let warm = if self.rng.chance(60) { self.standby_stands_up() } else { None };
        let mut seat = match warm.map_or_else(|| self.restored(node), Ok) {
            Ok(seat) => seat,
            Err(violation) => return self.violated(&violation),
        };
        let snapshot_at = if self.rng.chance(60) { self.rng.below(self.journal.len() + 1) } else { 0 };
        let begins = seat.tail().0;
        for (position, (bytes, record)) in self.journal.records.iter().enumerate().skip(begins as usize) {
            if position as u64 == snapshot_at && position > 0 {
                self.tally.seen("snapshot.resumed");
                match resumed(seat) {
                    Ok(again) => seat = again,
                    Err(words) => return self.fail("S3", words),
                }
            }
            match seat.follow(position as u64 + 1, bytes, record) {
                Ok(events) => self.observer.events(&events),
                Err(error) => return self.fail("S3", format!("a new Manager cannot follow: {error}")),
            }
        }
        if self.journal.len() > 0 {
            self.tally.seen("journal.replayed");
        }
        if let Err(violation) = laws::check(seat.state()) {
            return self.violated(&violation);
        }
        let skew = if self.faults && self.rng.chance(20) {
            self.tally.fault("clock.forward");
            self.rng.between(0, 5_000)
        } else {
            0
        };
        // The wall clock, or where the last leader's clock stood.
        let clock = (WALL + self.time + skew).max(seat.state().now.0);
        seat.lead();
        let marks = Marks::of(seat.state());
        let manager = Manager {
            id,
            seat,
            paused_until: 0,
            liveness: Liveness::default(),
            actions: VecDeque::new(),
            acting: false,
            pumping: true,
            append: None,
            reading: false,
            clock,
            born: self.time,
            commits: 0,
            tickets: BTreeMap::new(),
            groups: BTreeMap::new(),
            reminded: self.time,
            marks,
            chore: false,
        };
        self.managers.insert(id, manager);
        self.lease = id;
        self.after(1, Event::Pumps { manager: id });
        self.after(TICK_MS, Event::Ticks { manager: id });
        self.noticed();
    }

    /// Sees to it that somebody takes over.
    pub fn succeed_manager(&mut self) {
        if !self.starting {
            self.starting = true;
            let delay = self.rng.between(20, 800);
            self.after(delay, Event::ManagerStarts);
        }
    }

    pub fn manager_event(&mut self, id: u64, event: Event) {
        let Some(mut manager) = self.managers.remove(&id) else {
            if let Event::ChoreDone { chore, .. } = event {
                self.chore_orphaned(chore);
            }
            return;
        };
        if manager.paused_until > self.time {
            let delay = manager.paused_until - self.time;
            self.managers.insert(id, manager);
            return self.after(delay, event);
        }
        let stays = match event {
            Event::Appended { request, result, .. } => self.appended(&mut manager, request, result),
            Event::AppendTimedOut { request, .. } => self.appended(&mut manager, request, Appended::Unknown),
            Event::LastRead { last, .. } => self.last_read(&mut manager, last),
            Event::Acts { .. } => self.act(&mut manager),
            Event::Pumps { .. } => self.pump(&mut manager),
            Event::Ticks { .. } => self.tick(&mut manager),
            Event::Handles { from, inputs, .. } => self.handle(&mut manager, from, &inputs),
            Event::ChoreDone { chore, .. } => self.chore_ends(&mut manager, chore),
            other => unreachable!("{other:?} is no event of a Manager"),
        };
        if stays {
            self.managers.insert(id, manager);
        } else {
            self.tally.seen("manager.steps_down");
            if self.lease == id {
                self.succeed_manager();
            }
        }
    }

    fn appended(&mut self, manager: &mut Manager, request: u64, result: Appended) -> bool {
        if manager.append == Some(request) {
            manager.append = None;
            let actions = manager.seat.appended(result);
            self.put(manager, actions);
        }
        true
    }

    fn last_read(&mut self, manager: &mut Manager, last: Option<(u64, Rc<Vec<u8>>)>) -> bool {
        if std::mem::take(&mut manager.reading) {
            let actions = manager.seat.last_read(last.as_ref().map(|(sequence, bytes)| (*sequence, bytes.as_slice())));
            self.put(manager, actions);
        }
        true
    }

    /// Takes actions over, and the next commit if there is none under way.
    fn put(&mut self, manager: &mut Manager, actions: Vec<Action>) {
        manager.actions.extend(actions);
        if !manager.actions.is_empty() && !std::mem::replace(&mut manager.acting, true) {
            let delay = self.rng.below(3);
            self.after(delay, Event::Acts { manager: manager.id });
        }
        if manager.seat.is_settled() && !std::mem::replace(&mut manager.pumping, true) {
            let delay = self.rng.below(6);
            self.after(delay, Event::Pumps { manager: manager.id });
        }
    }

    fn pump(&mut self, manager: &mut Manager) -> bool {
        manager.pumping = false;
        let mut now = manager.clock + (self.time - manager.born);
        if self.faults && self.rng.chance(4) {
            self.tally.fault("clock.back");
            now -= self.rng.between(1, 3_600_000);
        }
        manager.commits += 1;
        let actions = manager.seat.pump(Timestamp(now), &format!("{}-{}", manager.id, manager.commits));
        let state = manager.seat.state();
        let marks = Marks::of(state);
        if let Err(violation) = laws::check(state).and_then(|()| laws::check_growth(&manager.marks, &marks)) {
            self.violated(&violation);
        }
        self.tally.state(state);
        manager.marks = marks;
        if actions.is_empty() {
            return true;
        }
        self.put(manager, actions);
        true
    }

    /// Performs the next few actions. Between two steps the Manager can die.
    fn act(&mut self, manager: &mut Manager) -> bool {
        manager.acting = false;
        for _ in 0..self.rng.between(1, 3) {
            let Some(action) = manager.actions.pop_front() else { break };
            if !self.perform(manager, action) {
                return false;
            }
        }
        self.put(manager, Vec::new());
        true
    }

    fn perform(&mut self, manager: &mut Manager, action: Action) -> bool {
        match action {
            Action::Append { expected, bytes } => manager.append = Some(self.append(manager.id, expected, Rc::new(bytes))),
            Action::ReadLast => {
                manager.reading = true;
                let delay = self.rng.between(1, 30);
                self.after(delay, Event::ReadArrives { manager: manager.id });
            }
            Action::Answer { ticket, answer } => self.answer(manager, ticket, answer),
            Action::Order { node, incarnation, order } => self.order(manager, node, incarnation, order),
            Action::Publish(events) => {
                for event in &events {
                    if event.kind == amphi_protocol::event::EventType::TaskWaiting {
                        match event.data.get("reason").and_then(serde_json::Value::as_str) {
                            Some("lock") => self.tally.seen("lock.waited"),
                            Some("no_agent") => self.tally.seen("agent.nobody"),
                            _ => {}
                        }
                    }
                }
                self.observer.events(&events);
            }
            Action::Tell(letters) => {
                for letter in &letters {
                    self.tally.message(letter.message.kind);
                }
            }
            Action::Leads(epoch) => {
                self.tally.seen("manager.leads");
                self.observer.leads(epoch, manager.id);
            }
            Action::StepDown(_) => return false,
        }
        self.noticed();
        true
    }

    fn order(&mut self, manager: &Manager, node: NodeId, incarnation: amphi_protocol::ids::Incarnation, order: Order) {
        let Some(position) = self.nodes.iter().position(|known| known.id == node) else { return };
        let command = NodeCommand { epoch: manager.seat.state().epoch, node, incarnation, orders: vec![order] };
        self.send(Event::Command { node: position, command: Rc::new(command) });
    }

    fn answer(&mut self, manager: &mut Manager, ticket: Ticket, answer: Answer) {
        if let Answer::Refused(refusal) = &answer {
            self.tally.refusal(refusal);
        }
        let Some((group_id, position)) = manager.tickets.remove(&ticket) else { return };
        let group = manager.groups.get_mut(&group_id).expect("a group lives as long as its tickets");
        group.left -= 1;
        // A refusal is not on record, so only the lease says that it follows from the newest state.
        let confirmed = self.lease == manager.id || matches!(answer, Answer::Committed { .. });
        match answer {
            _ if !confirmed => group.unsure = true,
            Answer::Committed { epic, .. } => group.verdicts[position] = Some(Verdict::Accepted(epic)),
            Answer::Refused(Refusal::Duplicate(epic)) => group.verdicts[position] = Some(Verdict::Duplicate(epic)),
            Answer::Refused(Refusal::Error(error)) => group.verdicts[position] = Some(Verdict::Refused(error.code.as_str())),
            Answer::Refused(Refusal::Stale(_)) => group.verdicts[position] = Some(Verdict::Refused("stale")),
            Answer::NotLeading | Answer::Busy => group.unsure = true,
        }
        if group.left > 0 {
            return;
        }
        let group = manager.groups.remove(&group_id).expect("it was just there");
        let reply = if group.unsure {
            self.tally.seen("seat.not_leading");
            Reply::Unsure
        } else {
            let verdicts = group.verdicts.into_iter().flatten().collect();
            Reply::Verdicts { epoch: manager.seat.state().epoch, verdicts }
        };
        self.send(Event::Replied { to: group.from, reply });
    }

    fn tick(&mut self, manager: &mut Manager) -> bool {
        // Sooner or later it hears that its lease is over, if nothing else tells it.
        if self.lease != manager.id && (!self.faults || self.rng.chance(4)) {
            return false;
        }
        self.after(TICK_MS, Event::Ticks { manager: manager.id });
        if !manager.seat.is_leading() || !manager.seat.is_settled() {
            return true;
        }
        let now = Timestamp(manager.clock + (self.time - manager.born));
        let mut inputs = manager.liveness.due(Timestamp(self.time), manager.seat.state(), PERIODS);
        if manager.seat.state().next_deadline().is_some_and(|deadline| deadline <= now) {
            inputs.push(Input::Tick);
        }
        let mut actions: Vec<Action> = inputs.into_iter().filter_map(|input| manager.seat.take(0, input)).collect();
        if self.time - manager.reminded >= REMINDER_MS {
            manager.reminded = self.time;
            actions.extend(manager.seat.reminders(Timestamp(now.0.saturating_sub(REMINDER_MS / 2))));
        }
        self.put(manager, actions);
        if !manager.chore
            && manager.seat.is_settled()
            && let Some(chore) = self.next_chore(manager)
        {
            manager.chore = true;
            let delay = upkeep::duration(self);
            self.after(delay, upkeep::event(manager.id, chore));
        }
        true
    }

    fn chore_ends(&mut self, manager: &mut Manager, chore: Chore) -> bool {
        let input = self.chore_done(manager, chore);
        let actions = input.and_then(|input| manager.seat.take(0, input)).into_iter().collect();
        self.put(manager, actions);
        true
    }

    fn handle(&mut self, manager: &mut Manager, from: Sender, inputs: &[Input]) -> bool {
        let group = self.id();
        let count = inputs.len();
        manager.groups.insert(group, Group { from, verdicts: vec![None; count], left: count, unsure: false });
        let mut actions = Vec::new();
        for (position, input) in inputs.iter().enumerate() {
            if let Input::Attempt(report) = input
                && matches!(report.what, AttemptNews::Started { .. } | AttemptNews::Progress { .. })
            {
                manager.liveness.progressed(Timestamp(self.time), &report.attempt);
            }
            let ticket = self.id();
            manager.tickets.insert(ticket, (group, position));
            actions.extend(manager.seat.take(ticket, input.clone()));
        }
        self.put(manager, actions);
        true
    }

    /// A request reaches whoever believes to lead; now and then that is a Manager that does not any more.
    pub fn request_arrives(&mut self, from: Sender, inputs: Rc<Vec<Input>>) {
        let believers: Vec<u64> = self.managers.values().filter(|manager| manager.seat.is_leading()).map(|manager| manager.id).collect();
        let receiver = match believers.as_slice() {
            [] => None,
            [only] => Some(*only),
            several => Some(if self.rng.chance(60) && several.contains(&self.lease) { self.lease } else { several[0] }),
        };
        match receiver {
            Some(manager) => self.manager_event(manager, Event::Handles { manager, from, inputs }),
            None => self.send(Event::Replied { to: from, reply: Reply::NoLeader }),
        }
    }

    /// Heartbeats reach every Manager; only the holder of the lease acknowledges them.
    pub fn heartbeat_arrives(&mut self, node: usize, sent_at: u64, heartbeat: &Heartbeat) {
        let (now, time) = (self.now(), self.time);
        for manager in self.managers.values_mut().filter(|manager| manager.paused_until <= time) {
            manager.liveness.heard(now, heartbeat);
        }
        let Some(manager) = self.managers.get(&self.lease) else { return };
        if manager.paused_until > self.time || !manager.seat.is_leading() || !manager.seat.is_settled() {
            return;
        }
        let state = manager.seat.state();
        let (epoch, known) = (state.epoch, state.nodes().find(|(id, _)| **id == heartbeat.node).map(|(_, node)| node));
        if known.is_some_and(|known| known.alive && known.incarnation == heartbeat.incarnation) {
            let life = heartbeat.incarnation.0;
            self.send(Event::HeartbeatAcked { node, life, sent_at, epoch });
        } else if known.is_none_or(|known| known.incarnation <= heartbeat.incarnation) {
            let (node, incarnation) = (heartbeat.node.clone(), heartbeat.incarnation);
            let command = NodeCommand { epoch, node, incarnation, orders: vec![Order::JoinAgain] };
            let position = self.nodes.iter().position(|known| known.id == heartbeat.node).expect("heartbeats come from nodes");
            self.send(Event::Command { node: position, command: Rc::new(command) });
        }
    }
}
