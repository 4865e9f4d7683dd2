//! Nodes with their agents, by the contract of `amphi_protocol::node`: other lives and older terms are refused, an attempt is
//! recognised when it comes again, a claim stands before the start, reports are held until they are acknowledged.

mod agents;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use amphi_coordination::mutants::{Mutant, planted};
use amphi_protocol::ids::{AgentId, AttemptRef, Epoch, Incarnation, NodeId, RoleName, Token};
use amphi_protocol::journal::{AgentInfo, AgentLife, AgentReport, AttemptEnd, AttemptNews, AttemptReport, Input, NodeInfo, Outcome};
use amphi_protocol::node::{Assignment, Heartbeat, NodeCommand, Order};

use super::effects::Outward;
use super::epics::ROLES;
use super::process::KILL_MS_MAX;
use super::rng::Rng;
use super::world::{Cause, Event, Reply, Sender, Verdict, World};

/// Time since the sending of the last acknowledged heartbeat after which a node ends what must not overlap.
pub(super) const FENCE_MS: u64 = 3_000;
/// From there to the death of the last process.
pub(super) const FENCE_TO_DEATH_MS: u64 = TICK_MS + KILL_MS_MAX + 250;
const TICK_MS: u64 = 250;
const CLAIM_MS: u64 = 1_500;
const REQUEST_TIMEOUT_MS: u64 = 700;
const JOIN_SETTLING_MS: u64 = 800;
const QUARANTINE_AFTER: u32 = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Membership {
    Joining,
    Joined {
        since: u64,
    },
    /// The leader forgot the node: what runs is ended, then it joins again.
    Leaving,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Claiming { since: u64 },
    Given,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Cancelled,
    Lost,
}

#[derive(Debug)]
struct Held {
    agent: usize,
    token: Token,
    fenced: bool,
    phase: Phase,
    started: bool,
    ending: Option<Ending>,
    effect: Option<Outward>,
}

#[derive(Debug)]
struct Slot {
    info: AgentInfo,
    life: AgentLife,
    restarts: u32,
    attempt: Option<AttemptRef>,
    up_withheld: bool,
    /// It came later, so it may leave again.
    hired: bool,
    /// It has left.
    gone: bool,
}

impl Slot {
    fn new(info: AgentInfo) -> Self {
        Self { info, life: AgentLife::Up, restarts: 0, attempt: None, up_withheld: false, hired: false, gone: false }
    }
}

/// Agents of a node at most, also those that have left.
const SLOTS_MAX: usize = 16;

#[derive(Debug)]
struct Item {
    input: Input,
    doubtful: bool,
}

/// A node. Its memory is lost with each life, its id stays.
#[derive(Debug)]
pub(super) struct FakeNode {
    pub id: NodeId,
    /// Its life, also as incarnation; grows.
    pub life: u64,
    pub up: bool,
    /// Until when it is stopped; what comes meanwhile waits.
    pub frozen_until: u64,
    capacity: u32,
    slots: Vec<Slot>,
    epoch: Epoch,
    held: BTreeMap<AttemptRef, Held>,
    ended: BTreeSet<AttemptRef>,
    ended_unassigned: BTreeSet<AttemptRef>,
    outbox: VecDeque<Item>,
    in_flight: Option<(u64, usize)>,
    membership: Membership,
    /// When the last acknowledged heartbeat was sent.
    acked: u64,
    ticks: u64,
}

impl FakeNode {
    /// One to four nodes; together they have every role.
    pub fn layout(rng: &mut Rng) -> Vec<Self> {
        let count = rng.between(1, 4) as usize;
        let mut nodes: Vec<Self> = (1..=count).map(|number| Self::new(number, rng)).collect();
        for (role, skills) in ROLES {
            let copies = if rng.chance(40) { 1 } else { rng.between(1, 3) };
            for _ in 0..copies {
                let node = &mut nodes[rng.below(count as u64) as usize];
                let agent = AgentId::parse(&format!("{}-{role}-{}", node.id, node.slots.len() + 1)).expect("the id is valid");
                let role = RoleName::parse(role).expect("the role is valid");
                let info = AgentInfo { agent, role, skills: skills.iter().map(|skill| (*skill).to_owned()).collect() };
                node.slots.push(Slot::new(info));
            }
        }
        nodes
    }

    fn new(number: usize, rng: &mut Rng) -> Self {
        Self {
            id: NodeId::parse(&format!("node-{number}")).expect("the id is valid"),
            life: 0,
            up: false,
            frozen_until: 0,
            capacity: rng.between(1, 4) as u32,
            slots: Vec::new(),
            epoch: Epoch(0),
            held: BTreeMap::new(),
            ended: BTreeSet::new(),
            ended_unassigned: BTreeSet::new(),
            outbox: VecDeque::new(),
            in_flight: None,
            membership: Membership::Joining,
            acked: 0,
            ticks: 0,
        }
    }

    pub fn is_up_in(&self, life: u64) -> bool {
        self.up && self.life == life
    }

    pub fn is_quiet(&self) -> bool {
        let joined = matches!(self.membership, Membership::Joined { .. });
        self.up
            && joined
            && self.held.is_empty()
            && self.outbox.is_empty()
            && self.slots.iter().all(|slot| slot.gone || slot.life == AgentLife::Up)
    }

    /// What an attempt that it holds brings about outside.
    pub fn effect_of(&self, attempt: &AttemptRef) -> Option<Outward> {
        self.held.get(attempt)?.effect.clone()
    }

    pub fn agents(&self) -> usize {
        self.slots.len()
    }

    /// It forgets everything; its processes are their guards' affair.
    pub fn die(&mut self) {
        self.up = false;
        self.frozen_until = 0;
        self.held.clear();
        self.ended.clear();
        self.ended_unassigned.clear();
        self.outbox.clear();
        self.in_flight = None;
        self.epoch = Epoch(0);
        for slot in &mut self.slots {
            let life = if slot.gone { AgentLife::Down } else { AgentLife::Up };
            (slot.life, slot.restarts, slot.attempt, slot.up_withheld) = (life, 0, None, false);
        }
    }

    fn fence_is_over(&self, now: u64) -> bool {
        now > self.acked + FENCE_MS
    }
}

impl World {
    pub fn node_starts(&mut self, node: usize) {
        let now = self.time;
        let it = &mut self.nodes[node];
        if it.up {
            return;
        }
        it.life += 1;
        it.up = true;
        it.acked = now;
        let life = it.life;
        self.join(node);
        self.after(TICK_MS, Event::NodeTicks { node, life });
    }

    fn join(&mut self, node: usize) {
        let it = &mut self.nodes[node];
        it.membership = Membership::Joining;
        let info = NodeInfo {
            node: it.id.clone(),
            incarnation: Incarnation(it.life),
            pid: it.life as u32,
            capacity: it.capacity,
            labels: BTreeMap::new(),
            agents: it.slots.iter().filter(|slot| !slot.gone).map(|slot| slot.info.clone()).collect(),
            home: format!("home of {}", it.id),
        };
        self.push(node, Input::Join(info));
        // A join presents every agent as ready.
        for agent in 0..self.nodes[node].slots.len() {
            let slot = &self.nodes[node].slots[agent];
            if !slot.gone && (slot.life != AgentLife::Up || slot.restarts > 0) {
                self.report_agent(node, agent);
            }
        }
    }

    pub fn node_event(&mut self, node: usize, event: Event) {
        if let Event::Command { command, .. } = event {
            return self.command_arrives(node, command);
        }
        let life = match &event {
            Event::Replied { to: Sender::Node { life, .. }, .. }
            | Event::RequestTimedOut { life, .. }
            | Event::HeartbeatAcked { life, .. }
            | Event::NodeTicks { life, .. }
            | Event::Sends { life, .. }
            | Event::JobStarts { life, .. }
            | Event::ClaimOverdue { life, .. }
            | Event::Hears { life, .. }
            | Event::AgentUp { life, .. }
            | Event::JoinDue { life, .. } => *life,
            other => unreachable!("{other:?} is no event of a node"),
        };
        if !self.nodes[node].is_up_in(life) {
            return;
        }
        if self.nodes[node].frozen_until > self.time {
            let delay = self.nodes[node].frozen_until - self.time;
            return self.after(delay, event);
        }
        self.fence(node);
        match event {
            Event::Replied { to: Sender::Node { request, .. }, reply } => self.node_hears(node, request, reply),
            Event::RequestTimedOut { request, .. } => self.node_hears(node, request, Reply::Unsure),
            Event::HeartbeatAcked { sent_at, epoch, .. } => {
                let it = &mut self.nodes[node];
                it.epoch = it.epoch.max(epoch);
                it.acked = it.acked.max(sent_at);
            }
            Event::NodeTicks { .. } => self.node_ticks(node),
            Event::Sends { .. } => self.send_reports(node),
            Event::JobStarts { attempt, .. } => self.job_starts(node, &attempt),
            Event::ClaimOverdue { attempt, .. } => {
                if matches!(self.nodes[node].held.get(&attempt).map(|held| held.phase), Some(Phase::Claiming { .. })) {
                    self.tally.seen("claim.overdue");
                    self.end_unbegun(node, &attempt);
                }
            }
            Event::Hears { attempt, cause, .. } => self.job_ended(node, &attempt, cause),
            Event::AgentUp { agent, .. } => self.agent_up(node, agent),
            Event::JoinDue { .. } if self.nodes[node].membership == Membership::Joining => self.join(node),
            _ => {}
        }
        self.rejoin_when_empty(node);
    }

    // --- commands ---

    fn command_arrives(&mut self, node: usize, command: Rc<NodeCommand>) {
        let it = &self.nodes[node];
        if !it.up {
            return;
        }
        if it.frozen_until > self.time {
            let delay = it.frozen_until - self.time;
            return self.after(delay, Event::Command { node, command });
        }
        if command.incarnation != Incarnation(it.life) {
            return self.tally.seen("order.other_incarnation");
        }
        let old = command.epoch < it.epoch;
        if old {
            self.tally.seen("order.old_epoch");
            if !planted(Mutant::EpochCheck) {
                return;
            }
        }
        self.observer.command(&self.nodes[node].id.clone(), Incarnation(self.nodes[node].life), command.epoch);
        self.noticed();
        self.nodes[node].epoch = self.nodes[node].epoch.max(command.epoch);
        self.fence(node);
        for order in &command.orders {
            match order {
                Order::Assign(assignment) => self.assign(node, assignment),
                Order::Go { attempt } => self.go(node, attempt),
                Order::Cancel { attempt } => self.cancel(node, attempt),
                Order::RestartAgent { .. } => {}
                Order::JoinAgain => self.join_again(node),
            }
        }
        self.rejoin_when_empty(node);
    }

    fn assign(&mut self, node: usize, assignment: &Assignment) {
        let Assignment { attempt, agent, token, needs_claim, .. } = assignment;
        let effect = Outward::of(assignment);
        let (now, life) = (self.time, self.nodes[node].life);
        let it = &mut self.nodes[node];
        if it.held.contains_key(attempt) {
            return self.tally.seen("order.again");
        }
        if it.ended.contains(attempt) {
            self.tally.seen("order.again");
            if self.nodes[node].ended_unassigned.remove(attempt) {
                self.refuse(node, attempt, *token);
            }
            return;
        }
        let position = it.slots.iter().position(|slot| slot.info.agent == *agent);
        let free = position.filter(|position| it.slots[*position].attempt.is_none() && it.slots[*position].life == AgentLife::Up);
        let Some(agent) = free else { return self.refuse(node, attempt, *token) };
        it.slots[agent].attempt = Some(attempt.clone());
        let phase = if *needs_claim { Phase::Claiming { since: now } } else { Phase::Given };
        it.held.insert(attempt.clone(), Held { agent, token: *token, fenced: *needs_claim, phase, started: false, ending: None, effect });
        if *needs_claim {
            self.report(node, attempt, *token, AttemptNews::Claim);
            self.after(CLAIM_MS, Event::ClaimOverdue { node, life, attempt: attempt.clone() });
        } else {
            self.give(node, attempt);
        }
    }

    /// The start is on record: begin, if the claim is not too old.
    fn go(&mut self, node: usize, attempt: &AttemptRef) {
        let Some(Phase::Claiming { since }) = self.nodes[node].held.get(attempt).map(|held| held.phase) else { return };
        if self.time - since <= CLAIM_MS {
            self.give(node, attempt);
        } else {
            self.end_unbegun(node, attempt);
        }
    }

    fn give(&mut self, node: usize, attempt: &AttemptRef) {
        let life = self.nodes[node].life;
        self.nodes[node].held.get_mut(attempt).expect("only held attempts are given").phase = Phase::Given;
        let delay = self.rng.between(1, 30);
        self.after(delay, Event::JobStarts { node, life, attempt: attempt.clone() });
    }

    fn cancel(&mut self, node: usize, attempt: &AttemptRef) {
        let it = &mut self.nodes[node];
        match it.held.get(attempt).map(|held| held.phase) {
            Some(Phase::Claiming { .. }) => self.end_unbegun(node, attempt),
            Some(Phase::Given) => self.stop(node, attempt, Ending::Cancelled),
            None if it.ended.contains(attempt) => {}
            // It overtook the assignment. Without a token nothing can be reported yet.
            None => {
                it.ended.insert(attempt.clone());
                it.ended_unassigned.insert(attempt.clone());
            }
        }
    }

    fn join_again(&mut self, node: usize) {
        match self.nodes[node].membership {
            Membership::Joined { since } if self.time - since >= JOIN_SETTLING_MS => {}
            _ => return,
        }
        self.tally.seen("order.join_again");
        self.nodes[node].membership = Membership::Leaving;
        self.end_all(node, false);
    }

    fn rejoin_when_empty(&mut self, node: usize) {
        let it = &self.nodes[node];
        if it.membership == Membership::Leaving && it.held.is_empty() {
            self.join(node);
        }
    }

    // --- attempts ---

    fn job_starts(&mut self, node: usize, attempt: &AttemptRef) {
        let Some(held) = self.nodes[node].held.get_mut(attempt) else { return };
        match held.ending {
            Some(Ending::Cancelled) => return self.finish(node, attempt, Outcome::Cancelled),
            Some(Ending::Lost) => return self.finish(node, attempt, Outcome::NotStarted),
            None => {}
        }
        held.started = true;
        let token = held.token;
        let pid = self.process_starts(node, attempt, token);
        self.report(node, attempt, token, AttemptNews::Started { pid: Some(pid) });
    }

    fn job_ended(&mut self, node: usize, attempt: &AttemptRef, cause: Cause) {
        let Some(held) = self.nodes[node].held.get(attempt) else { return };
        let outcome = match (cause, held.ending) {
            (Cause::Itself(outcome), _) => outcome,
            (Cause::Killed, Some(Ending::Cancelled)) => Outcome::Cancelled,
            (Cause::Killed, Some(Ending::Lost) | None) => Outcome::AgentLost,
        };
        self.finish(node, attempt, outcome);
    }

    fn end_unbegun(&mut self, node: usize, attempt: &AttemptRef) {
        if matches!(self.nodes[node].held.get(attempt).map(|held| held.phase), Some(Phase::Claiming { .. })) {
            self.finish(node, attempt, Outcome::NotStarted);
        }
    }

    /// Ends what an agent has been given.
    fn stop(&mut self, node: usize, attempt: &AttemptRef, ending: Ending) {
        let life = self.nodes[node].life;
        let Some(held) = self.nodes[node].held.get_mut(attempt) else { return };
        if held.phase != Phase::Given || held.ending.is_some() {
            return;
        }
        held.ending = Some(ending);
        // What has no process yet ends where it would begin.
        if let Some(pid) = self.processes.of(attempt, life) {
            self.kill(pid);
        }
    }

    fn end_all(&mut self, node: usize, only_fenced: bool) {
        let wanted = self.nodes[node].held.iter().filter(|(_, held)| held.fenced || !only_fenced);
        for attempt in wanted.map(|(attempt, _)| attempt.clone()).collect::<Vec<_>>() {
            self.end_unbegun(node, &attempt);
            self.stop(node, &attempt, Ending::Lost);
        }
    }

    /// A node that no leader has heard for so long ends what somebody else may be given.
    fn fence(&mut self, node: usize) {
        let it = &self.nodes[node];
        if it.fence_is_over(self.time) && it.held.values().any(|held| held.fenced && held.ending.is_none()) {
            self.tally.seen("node.fenced");
            self.end_all(node, true);
        }
    }

    fn finish(&mut self, node: usize, attempt: &AttemptRef, outcome: Outcome) {
        let it = &mut self.nodes[node];
        let Some(held) = it.held.remove(attempt) else { return };
        it.ended.insert(attempt.clone());
        let exit_code = match outcome {
            Outcome::Succeeded => Some(0),
            Outcome::Exit => Some(1),
            _ => None,
        };
        let end = AttemptEnd { outcome, exit_code, error: None, outputs: BTreeMap::new(), artifacts: Vec::new() };
        self.report(node, attempt, held.token, AttemptNews::Ended(end));
        let slot = &mut self.nodes[node].slots[held.agent];
        slot.attempt = None;
        if std::mem::take(&mut slot.up_withheld) {
            self.report_agent(node, held.agent);
        }
    }

    /// Never began, never held.
    fn refuse(&mut self, node: usize, attempt: &AttemptRef, token: Token) {
        self.nodes[node].ended.insert(attempt.clone());
        let end =
            AttemptEnd { outcome: Outcome::NotStarted, exit_code: None, error: None, outputs: BTreeMap::new(), artifacts: Vec::new() };
        self.report(node, attempt, token, AttemptNews::Ended(end));
    }

    // --- reports ---

    fn report_agent(&mut self, node: usize, agent: usize) {
        let it = &self.nodes[node];
        let slot = &it.slots[agent];
        let report = AgentReport {
            node: it.id.clone(),
            incarnation: Incarnation(it.life),
            agent: slot.info.agent.clone(),
            state: slot.life,
            restarts: slot.restarts,
            cause: String::new(),
        };
        self.push(node, Input::Agent(report));
    }

    pub fn report(&mut self, node: usize, attempt: &AttemptRef, token: Token, what: AttemptNews) {
        let it = &self.nodes[node];
        let (id, incarnation) = (it.id.clone(), Incarnation(it.life));
        self.push(node, Input::Attempt(AttemptReport { node: id, incarnation, attempt: attempt.clone(), token, what }));
    }

    fn push(&mut self, node: usize, input: Input) {
        let life = self.nodes[node].life;
        self.nodes[node].outbox.push_back(Item { input, doubtful: false });
        if self.nodes[node].in_flight.is_none() {
            self.after(1, Event::Sends { node, life });
        }
    }

    fn send_reports(&mut self, node: usize) {
        let it = &self.nodes[node];
        if it.in_flight.is_some() || it.outbox.is_empty() {
            return;
        }
        let (life, request) = (it.life, self.id());
        let inputs: Vec<Input> = self.nodes[node].outbox.iter().map(|item| item.input.clone()).collect();
        self.nodes[node].in_flight = Some((request, inputs.len()));
        self.send(Event::Request { from: Sender::Node { node, life, request }, inputs: Rc::new(inputs) });
        self.after(REQUEST_TIMEOUT_MS, Event::RequestTimedOut { node, life, request });
    }

    fn node_hears(&mut self, node: usize, request: u64, reply: Reply) {
        let it = &mut self.nodes[node];
        let Some((waiting, count)) = it.in_flight.filter(|(waiting, _)| *waiting == request) else { return };
        debug_assert_eq!(waiting, request);
        it.in_flight = None;
        let life = it.life;
        match reply {
            Reply::Verdicts { epoch, verdicts } => {
                it.epoch = it.epoch.max(epoch);
                let items: Vec<Item> = it.outbox.drain(..count).collect();
                for (item, verdict) in items.into_iter().zip(verdicts) {
                    self.settled(node, item, verdict);
                }
                self.after(1, Event::Sends { node, life });
            }
            Reply::NoLeader => self.after(100, Event::Sends { node, life }),
            Reply::Unsure => {
                it.outbox.iter_mut().take(count).for_each(|item| item.doubtful = true);
                self.after(60, Event::Sends { node, life });
            }
        }
    }

    fn settled(&mut self, node: usize, item: Item, verdict: Verdict) {
        let refused = matches!(verdict, Verdict::Refused(_));
        match item.input {
            Input::Join(_) if refused && !item.doubtful => {
                let life = self.nodes[node].life;
                self.after(500, Event::JoinDue { node, life });
            }
            Input::Join(_) => {
                let since = self.time;
                if self.nodes[node].membership == Membership::Joining {
                    self.nodes[node].membership = Membership::Joined { since };
                }
            }
            Input::Attempt(report) if report.what == AttemptNews::Claim && !refused => self.go(node, &report.attempt),
            Input::Attempt(report) if matches!(report.what, AttemptNews::Intend(_)) && !refused => self.may_act(node, &report.attempt),
            // Refused because it is busy, it stays; taken, or known already, it has left.
            Input::Staff(report) if verdict != Verdict::Refused("state.conflict") => {
                for slot in self.nodes[node].slots.iter_mut().filter(|slot| report.removed.contains(&slot.info.agent)) {
                    slot.gone = true;
                    slot.life = AgentLife::Down;
                }
            }
            // The attempt is not open for the leader, so it must not run here.
            Input::Attempt(report) if refused && !item.doubtful => {
                self.end_unbegun(node, &report.attempt);
                self.stop(node, &report.attempt, Ending::Lost);
            }
            _ => {}
        }
    }

    fn node_ticks(&mut self, node: usize) {
        let life = self.nodes[node].life;
        self.after(TICK_MS, Event::NodeTicks { node, life });
        self.nodes[node].ticks += 1;
        let it = &self.nodes[node];
        if !it.ticks.is_multiple_of(3) || !matches!(it.membership, Membership::Joined { .. }) {
            return;
        }
        if self.rng.chance(4) {
            self.staff_changes(node);
        }
        let it = &self.nodes[node];
        let progressed = self.processes.moving(node, life);
        let held = it.held.keys().cloned().collect();
        let heartbeat = Heartbeat { node: it.id.clone(), incarnation: Incarnation(life), progressed, held };
        let sent_at = self.time;
        self.send(Event::Heartbeat { node, sent_at, heartbeat: Rc::new(heartbeat) });
    }
}
