//! The Manager: a thin actor around the pure [`Seat`]. It feeds inputs in, performs the seat's actions in order, and never waits in a
//! handler: the journal, the bus and the event stream are served by owned tasks that report back as messages.
//!
//! It decides nothing itself. Start at [`Manager`], then [`boot`] (how a seat is rebuilt from the journal), `standby` (how it follows),
//! [`campaign`] (how it comes to lead), [`handle`] (how others reach it) and [`wiring`] (what comes in over the bus).

pub mod archive;
pub mod boot;
pub mod campaign;
mod courier;
pub mod handle;
mod post;
mod publisher;
mod signals;
mod standby;
mod upkeep;
pub mod wiring;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use amphi_coordination::Refusal;
use amphi_coordination::liveness::{Liveness, Periods};
use amphi_coordination::seat::{Action, Answer, Appended, Seat, Ticket};
use amphi_ports::{AgentMail, AppendError, Clock, EventStream, Journal, MessageBus, ObjectStore, StoreError, TailMemory};
use amphi_protocol::api::{ApiError, ErrorCode};
use amphi_protocol::ids::{Epoch, NodeId, ShardId, Timestamp};
use amphi_protocol::journal::{AttemptNews, Duty, Input};
use amphi_protocol::node::{Heartbeat, HeartbeatAnswer, Standing, WAITING_MAX};
use bytes::Bytes;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;

use crate::failpoint::{self, Place};
use boot::{BootError, Booted};
use campaign::{Candidacy, Term};
use courier::Couriers;
pub use handle::{Leadership, ManagerHandle, Read, Snapshot};
use post::Post;
use publisher::Publisher;
use signals::Signals;
pub use standby::Followed;
use standby::Unpublished;
pub use upkeep::UpkeepLimits;
use upkeep::{ChoreError, Done, Keeper};

/// The actor.
#[derive(Debug, Clone, Copy, Default)]
pub struct Manager;

/// What a Manager needs to start.
#[derive(Clone)]
pub struct ManagerArguments {
    /// Its node.
    pub node: NodeId,
    /// Its shard.
    pub shard: ShardId,
    /// The record.
    pub journal: Arc<dyn Journal>,
    /// Large specifications.
    pub objects: Arc<dyn ObjectStore>,
    /// Public events.
    pub events: Arc<dyn EventStream>,
    /// Messages between agents.
    pub mail: Arc<dyn AgentMail>,
    /// For commands to nodes.
    pub bus: Arc<dyn MessageBus>,
    /// What the node remembers of the journal.
    pub memory: Arc<dyn TailMemory>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// How others reach this Manager; it attaches itself when it starts.
    pub handle: ManagerHandle,
    /// When silence means death.
    pub periods: Periods,
    /// When the journal is snapshotted, archived and trimmed.
    pub upkeep: UpkeepLimits,
    /// How it comes to lead.
    pub candidacy: Candidacy,
}

/// What a Manager hears.
pub enum ManagerMessage {
    /// The seat has been rebuilt, or could not be.
    Booted(Box<Result<Booted, BootError>>),
    /// A record of the journal, while this Manager does not lead; or why there are no more.
    Followed(Box<Result<Followed, BootError>>),
    /// The lease is ours.
    Elected,
    /// Everything that the journal holds was followed.
    CaughtUp,
    /// The lease is not ours any more, and why.
    Deposed(String),
    /// Take an input in; the answer comes after its commit.
    Take(Box<Input>, oneshot::Sender<Answer>),
    /// Look at the state, once it is exactly what the journal holds.
    Read(Read),
    /// A node's heartbeat; answered only if this Manager leads.
    Heartbeat(Heartbeat, Option<oneshot::Sender<HeartbeatAnswer>>),
    /// What came of the append under way.
    Appended(Appended),
    /// The journal's last record.
    LastRead(Result<Option<(u64, Bytes)>, StoreError>),
    /// Something was done for the journal, or failed.
    Kept(Box<Result<Done, ChoreError>>),
    /// Time passes.
    Tick,
}

impl std::fmt::Debug for ManagerMessage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Booted(_) => "Booted",
            Self::Followed(_) => "Followed",
            Self::Elected => "Elected",
            Self::CaughtUp => "CaughtUp",
            Self::Deposed(_) => "Deposed",
            Self::Take(..) => "Take",
            Self::Read(_) => "Read",
            Self::Heartbeat(..) => "Heartbeat",
            Self::Appended(_) => "Appended",
            Self::LastRead(_) => "LastRead",
            Self::Kept(_) => "Kept",
            Self::Tick => "Tick",
        })
    }
}

/// The ticket of what the journal's keeping puts on record.
const UPKEEP: Ticket = Ticket::MAX;
/// How often time is looked at.
const TICK: Duration = Duration::from_millis(100);
/// How often silence is judged and nodes are reminded.
const ROUND: Duration = Duration::from_secs(1);
/// A pause of the Manager itself after which nobody's silence counts.
const PAUSE: Duration = Duration::from_secs(2);
/// An assignment that a node should have confirmed by its start after this time is sent again.
const REMIND_AFTER_MS: u64 = 1000;

/// A Manager at work, or on the way to it.
pub struct ManagerState {
    arguments: ManagerArguments,
    seat: Option<Seat>,
    liveness: Liveness,
    time: Time,
    replies: BTreeMap<Ticket, oneshot::Sender<Answer>>,
    next_ticket: Ticket,
    reads: Vec<Read>,
    couriers: Couriers,
    /// Only a leader publishes.
    publisher: Option<Publisher>,
    unpublished: Unpublished,
    keeper: Keeper,
    post: Post,
    signals: Signals,
    term: Arc<Term>,
    last_tick: Instant,
    last_round: Instant,
    tick_waits: bool,
    /// What reads the journal: the boot, then what follows it.
    reading: Option<AbortOnDropHandle<()>>,
    campaign: Option<AbortOnDropHandle<()>>,
    append: Option<AbortOnDropHandle<()>>,
    _ticker: AbortOnDropHandle<()>,
}

/// The journal's time: it goes on from the last record and never back, whatever the wall clock does meanwhile.
struct Time {
    base: Timestamp,
    since: Instant,
}

impl Time {
    fn from(base: Timestamp) -> Self {
        Self { base, since: Instant::now() }
    }

    fn now(&self) -> Timestamp {
        self.base.after_ms(u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX))
    }
}

impl Actor for Manager {
    type Msg = ManagerMessage;
    type State = ManagerState;
    type Arguments = ManagerArguments;

    async fn pre_start(&self, myself: ActorRef<Self::Msg>, arguments: Self::Arguments) -> Result<Self::State, ActorProcessingErr> {
        arguments.handle.attach(myself.clone());
        let ticker = myself.clone();
        let ticker = tokio::spawn(async move {
            let mut interval = tokio::time::interval(TICK);
            interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
            loop {
                interval.tick().await;
                if ticker.cast(ManagerMessage::Tick).is_err() {
                    return;
                }
            }
        });
        let boot = tokio::spawn(boot::run(arguments.clone(), myself.clone()));
        let now = Instant::now();
        Ok(ManagerState {
            time: Time::from(arguments.clock.now()),
            couriers: Couriers::new(arguments.bus.clone(), arguments.shard),
            signals: Signals::new(arguments.bus.clone()),
            publisher: None,
            unpublished: Unpublished::default(),
            term: Arc::default(),
            keeper: Keeper::new(arguments.upkeep),
            post: Post::start(arguments.mail.clone()),
            arguments,
            seat: None,
            liveness: Liveness::default(),
            replies: BTreeMap::new(),
            next_ticket: 1,
            reads: Vec::new(),
            last_tick: now,
            last_round: now,
            tick_waits: false,
            reading: Some(AbortOnDropHandle::new(boot)),
            campaign: None,
            append: None,
            _ticker: AbortOnDropHandle::new(ticker),
        })
    }

    async fn handle(&self, myself: ActorRef<Self::Msg>, message: Self::Msg, state: &mut Self::State) -> Result<(), ActorProcessingErr> {
        match message {
            ManagerMessage::Booted(booted) => state.booted(&myself, *booted)?,
            ManagerMessage::Followed(followed) => state.followed(*followed)?,
            ManagerMessage::Elected => state.elected(&myself),
            ManagerMessage::CaughtUp => state.caught_up(),
            ManagerMessage::Deposed(reason) => state.deposed(&myself, reason)?,
            ManagerMessage::Take(input, reply) => state.take(*input, Some(reply)),
            ManagerMessage::Read(read) => state.reads.push(read),
            ManagerMessage::Heartbeat(heartbeat, reply) => state.heartbeat(&heartbeat, reply),
            ManagerMessage::Appended(result) => state.appended(&myself, result)?,
            ManagerMessage::LastRead(result) => state.last_read(&myself, result)?,
            ManagerMessage::Kept(done) => state.kept(*done),
            ManagerMessage::Tick => state.tick(&myself)?,
        }
        state.pump(&myself)?;
        if let Some(seat) = state.seat.as_ref().filter(|seat| seat.is_leading()) {
            // Before the commit is acknowledged: whoever hears that a task waits can be heard by it.
            state.signals.follow(seat.state(), &myself);
        }
        state.keep(&myself);
        state.answer_reads();
        Ok(())
    }

    async fn post_stop(&self, _myself: ActorRef<Self::Msg>, state: &mut Self::State) -> Result<(), ActorProcessingErr> {
        state.arguments.handle.lost();
        state.campaign = None;
        campaign::release(&state.arguments.candidacy, &state.term).await;
        Ok(())
    }
}

impl ManagerState {
    /// Another Manager has the lease, and perhaps a term: whatever this one believes, it starts anew as a standby.
    fn deposed(&mut self, myself: &ActorRef<ManagerMessage>, reason: String) -> Result<(), ActorProcessingErr> {
        self.arguments.handle.lost();
        let actions = self.seat.as_mut().map(|seat| seat.step_down(reason)).unwrap_or_default();
        self.perform(myself, actions)
    }

    fn take(&mut self, input: Input, reply: Option<oneshot::Sender<Answer>>) {
        if let Some(name) = self.arguments.handle.buried(&input) {
            reply.into_iter().for_each(|reply| drop(reply.send(Answer::Refused(Refusal::Error(poison(&name))))));
            return;
        }
        let Some(seat) = &mut self.seat else {
            reply.into_iter().for_each(|reply| drop(reply.send(Answer::NotLeading)));
            return;
        };
        if let Input::Attempt(report) = &input
            && matches!(report.what, AttemptNews::Started { .. } | AttemptNews::Progress { .. })
        {
            self.liveness.progressed(self.time.now(), &report.attempt);
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        match (seat.take(ticket, input), reply) {
            (None, Some(reply)) => drop(self.replies.insert(ticket, reply)),
            (Some(Action::Answer { answer, .. }), Some(reply)) => drop(reply.send(answer)),
            (None | Some(_), _) => {}
        }
    }

    /// Notes that a node lives, then acknowledges it: the silence of whoever was acknowledged is counted from later than its sending.
    /// A Manager that does not lead says nothing; what it has heard counts all the same when it leads.
    fn heartbeat(&mut self, heartbeat: &Heartbeat, reply: Option<oneshot::Sender<HeartbeatAnswer>>) {
        self.liveness.heard(self.time.now(), heartbeat);
        let leading = self.seat.as_ref().filter(|seat| seat.is_leading() && self.term.is_confirmed());
        let Some((seat, reply)) = leading.zip(reply) else { return };
        let state = seat.state();
        let standing = match state.node(&heartbeat.node) {
            Some(known) if known.incarnation > heartbeat.incarnation => Standing::Outlived,
            Some(known) if known.alive && known.incarnation == heartbeat.incarnation => Standing::Member,
            Some(_) | None => Standing::Stranger,
        };
        // A node that may not be given work has no use for more agents.
        let may_hire = standing == Standing::Member && state.node(&heartbeat.node).is_some_and(|known| known.duty == Duty::Active);
        let waiting = if may_hire { state.waiting().into_iter().take(WAITING_MAX).collect() } else { BTreeMap::new() };
        // Who does not wait any more has sent another.
        let _late = reply.send(HeartbeatAnswer { epoch: state.epoch, standing, waiting });
    }

    fn pump(&mut self, myself: &ActorRef<ManagerMessage>) -> Result<(), ActorProcessingErr> {
        let Some(seat) = &mut self.seat else { return Ok(()) };
        let commit_id = uuid::Uuid::now_v7().simple().to_string();
        let now = self.time.now();
        // The half-changed state is not looked at again: the seat is thrown away.
        let Ok(actions) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| seat.pump(now, &commit_id))) else {
            return Err(self.poisoned());
        };
        self.perform(myself, actions)
    }

    /// An input made the core panic: it is refused, kept as a dead letter, and the seat is rebuilt from the journal without it.
    fn poisoned(&mut self) -> ActorProcessingErr {
        // Before anybody hears of it: whoever waits for the next leader must not see this one.
        self.arguments.handle.lost();
        let Some((ticket, input)) = self.seat.take().as_mut().and_then(Seat::poison) else {
            return "the core failed outside of an input".into();
        };
        let name = self.arguments.handle.bury(&input);
        metrics::counter!("amphi_dead_letters_total").increment(1);
        tracing::error!(dead_letter = %name, "an input made the core fail; it is refused from now on, the Manager starts again");
        if let Some(reply) = self.replies.remove(&ticket) {
            let _gone = reply.send(Answer::Refused(Refusal::Error(poison(&name))));
        }
        let (objects, body) = (self.arguments.objects.clone(), serde_json::to_vec(&input).unwrap_or_default());
        let letter = name.clone();
        // Outlives this Manager on purpose: the letter is for people.
        tokio::spawn(async move {
            if let Err(error) = objects.put(&letter, body.into()).await {
                tracing::error!(%error, dead_letter = %letter, "a dead letter could not be kept");
            }
        });
        format!("input {name} made the core fail").into()
    }

    fn appended(&mut self, myself: &ActorRef<ManagerMessage>, result: Appended) -> Result<(), ActorProcessingErr> {
        let Some(seat) = &mut self.seat else { return Ok(()) };
        let actions = seat.appended(result);
        if matches!(result, Appended::Acknowledged(_)) {
            failpoint::pass(Place::AfterCommit);
            let index = seat.state().index.0;
            self.arguments.memory.remember(self.arguments.shard, index, seat.tail().1);
            metrics::counter!("amphi_commits_total").increment(1);
        }
        self.perform(myself, actions)
    }

    fn last_read(
        &mut self,
        myself: &ActorRef<ManagerMessage>,
        read: Result<Option<(u64, Bytes)>, StoreError>,
    ) -> Result<(), ActorProcessingErr> {
        let Some(seat) = &mut self.seat else { return Ok(()) };
        let actions = match read {
            Ok(last) => seat.last_read(last.as_ref().map(|(sequence, bytes)| (*sequence, &**bytes))),
            // Waiting mends nothing, and nothing may be decided on what is left.
            Err(error) if error.damaged => {
                tracing::error!(%error, "the journal is damaged or gone; this Manager halts");
                seat.step_down(error.to_string())
            }
            // Still in doubt: ask again.
            Err(_) => vec![Action::ReadLast],
        };
        self.perform(myself, actions)
    }

    fn tick(&mut self, myself: &ActorRef<ManagerMessage>) -> Result<(), ActorProcessingErr> {
        let now = self.time.now();
        let paused = self.last_tick.elapsed() > PAUSE;
        self.last_tick = Instant::now();
        if paused || !self.arguments.bus.is_connected() {
            self.liveness.grace(now);
        }
        let Some(seat) = &mut self.seat else { return Ok(()) };
        if !seat.is_leading() {
            return Ok(());
        }
        if seat.state().next_deadline().is_some_and(|deadline| deadline <= now) && !self.tick_waits {
            self.tick_waits = true;
            let _queued = seat.take(0, Input::Tick);
        }
        if self.last_round.elapsed() < ROUND || !seat.is_settled() {
            return Ok(());
        }
        self.last_round = Instant::now();
        for input in self.liveness.due(now, seat.state(), self.arguments.periods) {
            let _queued = seat.take(0, input);
        }
        let reminders = seat.reminders(Timestamp(now.0.saturating_sub(REMIND_AFTER_MS)));
        self.perform(myself, reminders)
    }

    fn perform(&mut self, myself: &ActorRef<ManagerMessage>, actions: Vec<Action>) -> Result<(), ActorProcessingErr> {
        for (done, action) in actions.into_iter().enumerate() {
            if done == 1 {
                failpoint::pass(Place::HalfEffects);
            }
            match action {
                Action::Append { expected, bytes } => self.append(myself, expected, bytes.into()),
                Action::ReadLast => self.read_last(myself),
                Action::Answer { ticket: 0, .. } => self.tick_waits = false,
                Action::Answer { ticket: UPKEEP, .. } => self.keeper.recorded(),
                Action::Answer { ticket, answer } => {
                    // A refusal is not on record, so only the lease says that it follows from the newest state.
                    let is_stale = matches!(answer, Answer::Refused(_)) && !self.term.is_confirmed();
                    let answer = if is_stale { Answer::NotLeading } else { answer };
                    if let Some(reply) = self.replies.remove(&ticket) {
                        // The asker may have gone; its input stands all the same.
                        let _gone = reply.send(answer);
                    }
                }
                Action::Order { node, incarnation, order } => {
                    let epoch = self.epoch();
                    self.couriers.send(epoch, (node, incarnation), order);
                }
                Action::Publish(events) => {
                    if let Some(publisher) = &self.publisher {
                        publisher.publish(events);
                    }
                }
                Action::Tell(letters) => self.post.send(letters),
                Action::Leads(epoch) => {
                    let now = self.time.now();
                    self.liveness.grace(now);
                    let publisher = Publisher::start(self.arguments.shard, self.arguments.events.clone());
                    publisher.publish(self.unpublished.take());
                    self.publisher = Some(publisher);
                    self.post.send(self.seat.as_mut().map(Seat::take_untold).unwrap_or_default());
                    tracing::info!(shard = %self.arguments.shard, epoch = epoch.0, "this node leads");
                    self.arguments.handle.began(epoch);
                }
                Action::StepDown(reason) => {
                    self.arguments.handle.lost();
                    return Err(format!("the Manager of shard {} was deposed: {reason}", self.arguments.shard).into());
                }
            }
        }
        Ok(())
    }

    /// Begins what is to be done for the journal, if anything is.
    fn keep(&mut self, myself: &ActorRef<ManagerMessage>) {
        let now = self.time.now();
        if let Some(seat) = self.seat.as_ref().filter(|seat| seat.is_leading() && seat.is_settled()) {
            self.keeper.look((seat, self.post.is_idle()), now, &self.arguments, myself);
        }
    }

    /// What was done for the journal goes on record like any other input.
    fn kept(&mut self, done: Result<Done, ChoreError>) {
        let Some(upkeep) = self.keeper.done(done) else { return };
        let refused = self.seat.as_mut().and_then(|seat| seat.take(UPKEEP, Input::Upkeep(upkeep)));
        if refused.is_some() {
            self.keeper.recorded();
        }
    }

    fn epoch(&self) -> Epoch {
        self.seat.as_ref().map(|seat| seat.state().epoch).unwrap_or_default()
    }

    fn append(&mut self, myself: &ActorRef<ManagerMessage>, expected: u64, bytes: Bytes) {
        failpoint::pass(Place::BeforeCommit);
        let (journal, myself) = (self.arguments.journal.clone(), myself.clone());
        let task = tokio::spawn(async move {
            let result = loop {
                match journal.append(expected, bytes.clone()).await {
                    Ok(sequence) => break Appended::Acknowledged(sequence),
                    Err(AppendError::Conflict) => break Appended::Conflict,
                    Err(AppendError::Busy) => tokio::time::sleep(Duration::from_millis(5)).await,
                    Err(AppendError::Unknown(error)) => {
                        tracing::warn!(error = %error, "whether a commit was stored is unknown; publishing the same bytes again");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        break Appended::Unknown;
                    }
                }
            };
            // If the Manager is gone, the journal decides at the next boot.
            let _gone = myself.cast(ManagerMessage::Appended(result));
        });
        self.append = Some(AbortOnDropHandle::new(task));
    }

    fn read_last(&mut self, myself: &ActorRef<ManagerMessage>) {
        let (journal, myself) = (self.arguments.journal.clone(), myself.clone());
        let task = tokio::spawn(async move {
            let last = journal.last().await;
            if last.is_err() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            let _gone = myself.cast(ManagerMessage::LastRead(last));
        });
        self.append = Some(AbortOnDropHandle::new(task));
    }

    /// Reads see committed state only; while a commit is under way they wait for it.
    fn answer_reads(&mut self) {
        let Some(seat) = self.seat.as_ref().filter(|seat| seat.is_leading() && seat.is_settled()) else {
            if self.seat.as_ref().is_none_or(|seat| !seat.is_leading()) {
                // Dropping a read tells its asker that nobody leads here.
                self.reads.clear();
            }
            return;
        };
        // Somebody else may lead by now: what is asked waits until that is known.
        if !self.term.is_confirmed() {
            return;
        }
        let (now, state) = (self.time.now(), seat.state());
        let lease_left = |attempt: &_| self.liveness.lease_left_ms(now, state, attempt);
        let (tail, _) = seat.tail();
        for read in self.reads.drain(..) {
            read(&Snapshot { state, now, sequence: tail, lease_left: &lease_left });
        }
    }
}

fn poison(name: &str) -> ApiError {
    ApiError::new(ErrorCode::Internal, "the request made the Manager fail and is refused")
        .hint(format!("it is kept as {name}; please report it"))
}
