//! The children of one supervisor and what happens to them: start, exit, restart, group restart, end.
//!
//! Nothing here waits except [`Children::end_all`]. Every start and every wait has a generation; news with another one is late and
//! changes nothing (an actor that it brings is ended). Decisions come from [`crate::policy`].

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use amphi_protocol::tree::{TreeKind, TreeNode, TreeState};
use futures::FutureExt;
use ractor::{ActorCell, ActorId, ActorRef, RpcReplyPort};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::child::{After, Child, EndReply, Phase, StartReply, millis, start_when_free};
use super::{GaveUp, News, SupervisorMessage, cut, error_words, tell};
use crate::board::{SupervisorRow, TreeBoard};
use crate::ending::{Alive, StartUnderWay, end};
use crate::policy::{ExitKind, Restart, Rules, Strategy, Verdict, Window, judge};
use crate::spec::{ChildError, ChildEvent, ChildEventHook, ChildEventKind, ChildSpec, SupervisorArguments, SupervisorSpec};

/// Most exits that are remembered while the starts they may belong to are under way.
const EARLY_EXITS_MAX: usize = 1024;

/// State of the supervisor actor.
#[derive(Debug)]
pub struct Children {
    myself: ActorRef<SupervisorMessage>,
    name: String,
    spec: SupervisorSpec,
    board: Arc<TreeBoard>,
    hook: Hook,
    list: Vec<Child>,
    /// The child whose first start the next ones wait for.
    current: Option<String>,
    /// Restarts of all children without a count of their own.
    window: Window,
    /// Exits that overtook the news of their actor's start: events go before messages.
    early_exits: HashMap<ActorId, (ExitKind, String)>,
    settle_replies: Vec<RpcReplyPort<()>>,
    generation: u64,
    origin: Instant,
    /// Owned, so that a killed supervisor leaves none behind.
    tasks: JoinSet<()>,
    gave_up: Option<GaveUp>,
}

struct Hook(ChildEventHook);

impl std::fmt::Debug for Hook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hook")
    }
}

impl Children {
    pub(super) fn new(myself: ActorRef<SupervisorMessage>, arguments: SupervisorArguments) -> Result<Self, ChildError> {
        let SupervisorArguments { mut spec, board, on_child_event } = arguments;
        let list: Vec<Child> = std::mem::take(&mut spec.children).into_iter().map(|spec| Child::new(spec, false)).collect();
        let mut ids = std::collections::HashSet::new();
        if let Some(child) = list.iter().find(|child| !ids.insert(child.spec.id.as_str())) {
            return Err(ChildError::Duplicate { id: child.spec.id.clone() });
        }
        if list.len() > spec.children_max {
            let id = list[spec.children_max].spec.id.clone();
            return Err(ChildError::Full { id, max: spec.children_max });
        }
        let row = SupervisorRow {
            strategy: spec.strategy.as_str(),
            max: spec.intensity.max,
            within_ms: millis(spec.intensity.within),
            state: TreeState::Running,
            last_exit: None,
            children: list.iter().map(|child| child.row(spec.intensity)).collect(),
        };
        board.put_supervisor(&spec.name, row);
        Ok(Self {
            myself,
            name: spec.name.clone(),
            spec,
            board,
            hook: Hook(on_child_event),
            list,
            current: None,
            window: Window::default(),
            early_exits: HashMap::new(),
            settle_replies: Vec::new(),
            generation: 0,
            origin: Instant::now(),
            tasks: JoinSet::new(),
            gave_up: None,
        })
    }

    /// Starts the next child whose turn has come; called after every message and event.
    pub(super) fn advance(&mut self) {
        while self.tasks.try_join_next().is_some() {}
        if self.gave_up.is_some() {
            return;
        }
        if !self.list.iter().any(|child| matches!(child.phase, Phase::Starting(_))) {
            self.early_exits.clear();
        }
        if !self.is_blocked() {
            match self.list.iter().position(|child| matches!(child.phase, Phase::Pending)) {
                Some(position) => {
                    self.current = Some(self.list[position].spec.id.clone());
                    self.begin_start(position);
                }
                None => {
                    self.current = None;
                    for reply in self.settle_replies.drain(..) {
                        let _ = reply.send(());
                    }
                }
            }
        }
        let running = self.list.iter().filter(|child| matches!(child.phase, Phase::Running { .. })).count();
        metrics::gauge!("amphi_supervisor_children", "supervisor" => self.name.clone()).set(running as f64);
    }

    /// The next ones in the order wait for a child that has not run yet.
    fn is_blocked(&self) -> bool {
        let current = self.current.as_deref().and_then(|id| self.position(id));
        current.is_some_and(|position| match &self.list[position].phase {
            Phase::Starting(_) | Phase::Waiting(_) | Phase::Stopping(_, After::Restart) => true,
            Phase::Running { settled, .. } => !settled,
            Phase::Stopping(_, After::Remove(_)) | Phase::Pending | Phase::Quarantined | Phase::Down => false,
        })
    }

    // Orders.

    pub(super) fn add(&mut self, spec: ChildSpec, reply: StartReply) {
        let id = spec.id.clone();
        let refusal = if self.position(&id).is_some() {
            Some(ChildError::Duplicate { id })
        } else if self.list.len() >= self.spec.children_max {
            Some(ChildError::Full { id, max: self.spec.children_max })
        } else {
            None
        };
        if let Some(refusal) = refusal {
            let _ = reply.send(Err(refusal));
            return;
        }
        let mut child = Child::new(spec, true);
        child.replies.push(reply);
        self.board.add_child(&self.name, child.row(self.spec.intensity));
        self.list.push(child);
        self.begin_start(self.list.len() - 1);
    }

    pub(super) fn terminate(&mut self, id: &str, reply: EndReply) {
        let Some(position) = self.position(id) else {
            let _ = reply.send(Err(ChildError::Unknown { id: id.to_owned() }));
            return;
        };
        let child = &mut self.list[position];
        if let Phase::Stopping(_, After::Remove(replies)) = &mut child.phase {
            replies.push(reply);
            return;
        }
        let id = child.spec.id.clone();
        child.answer(|| Err(ChildError::Terminating { id: id.clone() }));
        match child.take_alive() {
            Some(alive) => self.begin_end(position, alive, After::Remove(vec![reply])),
            None => {
                self.remove(position);
                let _ = reply.send(Ok(()));
            }
        }
    }

    pub(super) fn restart(&mut self, id: &str, reply: StartReply) {
        let Some(position) = self.position(id) else {
            let _ = reply.send(Err(ChildError::Unknown { id: id.to_owned() }));
            return;
        };
        let child = &mut self.list[position];
        if matches!(child.phase, Phase::Stopping(_, After::Remove(_))) {
            let _ = reply.send(Err(ChildError::Terminating { id: id.to_owned() }));
            return;
        }
        child.replies.push(reply);
        child.window.reset();
        child.pace.reset();
        match &child.phase {
            // It is being started anew already.
            Phase::Pending | Phase::Waiting(Some(_)) | Phase::Stopping(_, After::Restart) => {}
            Phase::Waiting(None) | Phase::Quarantined | Phase::Down => self.begin_start(position),
            Phase::Starting(_) | Phase::Running { .. } => {
                if let Some(alive) = child.take_alive() {
                    self.begin_end(position, alive, After::Restart);
                }
            }
            Phase::Stopping(_, After::Remove(_)) => {}
        }
    }

    pub(super) fn when_settled(&mut self, reply: RpcReplyPort<()>) {
        self.settle_replies.push(reply);
    }

    // News.

    pub(super) fn started(&mut self, id: &str, generation: u64, result: Result<ActorCell, String>) {
        let position = self.position_of(id, generation).filter(|&p| matches!(self.list[p].phase, Phase::Starting(_)));
        let Some(position) = position else {
            // Called off: whoever called it off ends the actor; this only makes sure.
            if let Ok(actor) = result {
                self.tasks.spawn(end(Alive::Actor(actor), Duration::from_secs(5)));
            }
            return;
        };
        match result {
            Ok(actor) => self.runs(position, actor),
            Err(reason) => {
                let child = &mut self.list[position];
                child.phase = Phase::Down;
                let (on_trial, replies) = (child.on_trial, std::mem::take(&mut child.replies));
                if on_trial {
                    self.remove(position);
                } else {
                    self.failed(position, ExitKind::Failed, format!("start failed: {reason}"));
                }
                for reply in replies {
                    let _ = reply.send(Err(ChildError::StartFailed { id: id.to_owned(), reason: reason.clone() }));
                }
            }
        }
    }

    pub(super) fn settled(&mut self, id: &str, generation: u64) {
        if let Some(position) = self.position_of(id, generation)
            && let Phase::Running { settled, .. } = &mut self.list[position].phase
        {
            *settled = true;
        }
    }

    pub(super) fn ended(&mut self, id: &str, generation: u64) {
        let Some(position) = self.position_of(id, generation) else { return };
        match std::mem::replace(&mut self.list[position].phase, Phase::Down) {
            Phase::Stopping(_, After::Remove(replies)) => {
                self.remove(position);
                for reply in replies {
                    let _ = reply.send(Ok(()));
                }
            }
            Phase::Stopping(_, After::Restart) => self.begin_start(position),
            other => self.list[position].phase = other,
        }
    }

    pub(super) fn resume(&mut self, generation: u64) {
        let waiting: Vec<usize> = (0..self.list.len())
            .filter(|&p| self.list[p].generation == generation && matches!(self.list[p].phase, Phase::Waiting(_)))
            .collect();
        match waiting[..] {
            [position] => self.begin_start(position),
            // A group is started in its order, one after the other.
            _ => waiting.into_iter().for_each(|position| self.list[position].phase = Phase::Pending),
        }
    }

    /// An actor that is linked to this supervisor ended.
    pub(super) fn exited(&mut self, actor: &ActorCell, exit: ExitKind, reason: String) {
        let actor_id = actor.get_id();
        let Some(position) = self.list.iter().position(|child| child.actor == Some(actor_id)) else {
            let starting = self.list.iter().any(|child| matches!(child.phase, Phase::Starting(_)));
            if starting && self.early_exits.len() < EARLY_EXITS_MAX {
                self.early_exits.insert(actor_id, (exit, reason));
            } else {
                tracing::debug!(supervisor = self.name, actor = ?actor.get_name(), reason, "an actor that is no child ended");
            }
            return;
        };
        let child = &mut self.list[position];
        if let Some(mailbox) = &child.spec.mailbox {
            mailbox.emptied();
        }
        if child.spec.kind == TreeKind::Supervisor
            && let Some(name) = actor.get_name()
        {
            self.board.mark_dead(&name);
        }
        if matches!(child.phase, Phase::Running { .. }) {
            child.phase = Phase::Down;
            child.actor = None;
            self.failed(position, exit, reason);
        } else {
            // Ordered: the task that ends it reports when it is dead.
            self.show(position, |node| node.last_exit = Some(reason.clone()));
            let id = self.list[position].spec.id.clone();
            self.tell(&id, ChildEventKind::Exited { reason, abnormal: false });
        }
    }

    // Acts.

    fn begin_start(&mut self, position: usize) {
        let generation = self.next_generation();
        let (cancel, cancelled) = oneshot::channel();
        let (over_sender, over) = watch::channel(None);
        let child = &mut self.list[position];
        child.generation = generation;
        child.phase = Phase::Starting(StartUnderWay { cancel, over });
        child.actor = None;
        child.starts += 1;
        let (id, start, myself) = (child.spec.id.clone(), child.spec.start.clone(), self.myself.clone());
        self.tasks.spawn(async move {
            let supervisor = myself.get_cell();
            let start = AssertUnwindSafe(start_when_free(start, supervisor)).catch_unwind();
            let result = tokio::select! {
                biased; // A start that is over counts, even if it is called off at the same moment.
                result = start => match result {
                    Ok(Ok(actor)) => Ok(actor),
                    Ok(Err(error)) => Err(error_words(&error)),
                    Err(_) => Err("the start panicked".to_owned()),
                },
                _ = cancelled => Err("called off".to_owned()),
            };
            over_sender.send_replace(Some(result.as_ref().ok().cloned()));
            let _ = myself.cast(News::Started { id, generation, result }.message());
        });
        let restarts = self.list[position].restarts();
        if restarts > 0 {
            metrics::counter!("amphi_supervisor_restarts_total", "supervisor" => self.name.clone()).increment(1);
        }
        self.show(position, |node| {
            node.restarts = restarts;
            node.state = if restarts == 0 { TreeState::Starting } else { TreeState::Restarting };
        });
    }

    fn runs(&mut self, position: usize, actor: ActorCell) {
        let early_exit = self.early_exits.remove(&actor.get_id());
        let child = &mut self.list[position];
        child.on_trial = false;
        child.actor = Some(actor.get_id());
        let nested = child.spec.kind == TreeKind::Supervisor && actor.is_message_type_of::<SupervisorMessage>() == Some(true);
        child.phase = Phase::Running { actor: actor.clone(), settled: !nested };
        let (id, generation, restarts) = (child.spec.id.clone(), child.generation, child.restarts());
        self.show(position, |node| {
            node.state = TreeState::Running;
            if let Some(name) = actor.get_name() {
                node.actor = name;
            }
        });
        let kind = match restarts {
            0 => ChildEventKind::Started { actor: actor.clone() },
            count => ChildEventKind::Restarted { actor: actor.clone(), count },
        };
        self.tell(&id, kind);
        self.list[position].answer(|| Ok(actor.clone()));
        if let Some((exit, reason)) = early_exit {
            self.exited(&actor, exit, reason);
        } else if nested {
            let (myself, supervisor) = (self.myself.clone(), ActorRef::<SupervisorMessage>::from(actor));
            self.tasks.spawn(async move {
                // No timeout: its own policy ends a supervisor that cannot start its children, and then this call.
                if super::settled(&supervisor, None).await.is_ok() {
                    let _ = myself.cast(News::Settled { id, generation }.message());
                }
            });
        }
    }

    /// A child is down and nobody ordered it.
    fn failed(&mut self, position: usize, exit: ExitKind, reason: String) {
        let now = self.origin.elapsed();
        let child = &mut self.list[position];
        let rules = Rules {
            restart: child.spec.restart,
            intensity: child.spec.intensity.unwrap_or(self.spec.intensity),
            backoff: self.spec.backoff,
            on_exhausted: child.spec.on_exhausted,
        };
        let alone = child.counts_alone();
        let window = if alone { &mut child.window } else { &mut self.window };
        let verdict = judge(&rules, exit, window, &mut child.pace, now);
        tracing::info!(supervisor = self.name, child = child.spec.id, ?exit, reason, ?verdict, "a child ended");
        self.show(position, |node| node.last_exit = Some(reason.clone()));
        let id = self.list[position].spec.id.clone();
        match verdict {
            Verdict::Restart { after } => self.begin_wait(position, after),
            Verdict::Quarantine => {
                self.list[position].phase = Phase::Quarantined;
                self.show(position, |node| node.state = TreeState::Quarantined);
            }
            Verdict::Forget if rules.restart == Restart::Temporary => self.remove(position),
            Verdict::Forget => self.show(position, |node| node.state = TreeState::Stopped),
            Verdict::GiveUp => {
                let gave_up = GaveUp { child: id.clone(), reason: reason.clone() };
                tracing::error!(supervisor = self.name, %gave_up, "a supervisor ends");
                self.show(position, |node| node.state = TreeState::Stopped);
                self.board.set_supervisor(&self.name, TreeState::Stopping, Some(cut(gave_up.to_string())));
                self.myself.stop(Some(cut(gave_up.to_string())));
                self.gave_up = Some(gave_up);
            }
        }
        // Told after it is published: who hears of it finds it on the board.
        self.tell(&id, ChildEventKind::Exited { reason: reason.clone(), abnormal: exit.is_abnormal() });
        if verdict == Verdict::Quarantine {
            self.tell(&id, ChildEventKind::Quarantined { reason });
        }
    }

    /// The child, and with it its group, is started again after a wait and after all of the group are dead.
    fn begin_wait(&mut self, position: usize, after: Duration) {
        let generation = self.next_generation();
        self.list[position].phase = Phase::Waiting(None);
        self.list[position].generation = generation;
        self.show(position, |node| node.state = TreeState::Restarting);
        let dying = if self.spec.strategy == Strategy::OneForOne { Vec::new() } else { self.gather_group(position, generation) };
        let myself = self.myself.clone();
        self.tasks.spawn(async move {
            for (alive, grace) in dying {
                end(alive, grace).await;
            }
            tokio::time::sleep(after).await;
            let _ = myself.cast(News::Resume { generation }.message());
        });
    }

    /// Puts the living siblings of a failed child to wait too. Returns what has to end first, last started first.
    fn gather_group(&mut self, failed: usize, generation: u64) -> Vec<(Alive, Duration)> {
        let mut dying = Vec::new();
        for position in self.spec.strategy.group(failed, self.list.len()).rev() {
            let child = &mut self.list[position];
            let joins = match &child.phase {
                Phase::Starting(_) | Phase::Running { .. } | Phase::Waiting(_) => position != failed,
                Phase::Stopping(..) | Phase::Pending | Phase::Quarantined | Phase::Down => false,
            };
            if !joins {
                continue;
            }
            let alive = child.take_alive();
            if let Some(alive) = &alive {
                dying.push((alive.clone(), child.spec.shutdown));
            }
            child.phase = Phase::Waiting(alive);
            child.generation = generation;
            self.show(position, |node| node.state = TreeState::Restarting);
        }
        // Temporary siblings end with the group and do not come back.
        for position in (0..self.list.len()).rev() {
            let child = &self.list[position];
            if position != failed && child.generation == generation && child.spec.restart == Restart::Temporary {
                self.remove(position);
            }
        }
        dying
    }

    fn begin_end(&mut self, position: usize, alive: Alive, after: After) {
        let generation = self.next_generation();
        let child = &mut self.list[position];
        child.generation = generation;
        child.phase = Phase::Stopping(alive.clone(), after);
        let (id, grace, myself) = (child.spec.id.clone(), child.spec.shutdown, self.myself.clone());
        self.show(position, |node| node.state = TreeState::Stopping);
        self.tasks.spawn(async move {
            end(alive, grace).await;
            let _ = myself.cast(News::Ended { id, generation }.message());
        });
    }

    /// Ends all children, last started first, each one dead before the next is told. Says why the supervisor ends, if it gave up.
    pub(super) async fn end_all(&mut self) -> Option<GaveUp> {
        self.board.set_supervisor(&self.name, TreeState::Stopping, None);
        for position in (0..self.list.len()).rev() {
            let quarantined = matches!(self.list[position].phase, Phase::Quarantined);
            let replies = match &mut self.list[position].phase {
                Phase::Stopping(_, After::Remove(replies)) => std::mem::take(replies),
                _ => Vec::new(),
            };
            let alive = self.list[position].take_alive();
            if let Some(alive) = alive {
                self.show(position, |node| node.state = TreeState::Stopping);
                end(alive, self.list[position].spec.shutdown).await;
            }
            if let Some(mailbox) = &self.list[position].spec.mailbox {
                mailbox.emptied();
            }
            if !quarantined {
                self.show(position, |node| node.state = TreeState::Stopped);
            }
            for reply in replies {
                let _ = reply.send(Ok(()));
            }
        }
        // Actors that others linked to this supervisor.
        for actor in self.myself.get_children() {
            end(Alive::Actor(actor), Duration::from_secs(1)).await;
        }
        self.tasks.shutdown().await;
        self.board.set_supervisor(&self.name, TreeState::Stopped, None);
        metrics::gauge!("amphi_supervisor_children", "supervisor" => self.name.clone()).set(0.0);
        self.gave_up.take()
    }

    fn remove(&mut self, position: usize) {
        let child = self.list.remove(position);
        self.board.remove_child(&self.name, &child.spec.id);
    }

    fn position(&self, id: &str) -> Option<usize> {
        self.list.iter().position(|child| child.spec.id == id)
    }

    fn position_of(&self, id: &str, generation: u64) -> Option<usize> {
        self.position(id).filter(|&position| self.list[position].generation == generation)
    }

    fn next_generation(&mut self) -> u64 {
        self.generation += 1;
        self.generation
    }

    fn show(&self, position: usize, change: impl FnOnce(&mut TreeNode)) {
        self.board.set_child(&self.name, &self.list[position].spec.id, change);
    }

    fn tell(&self, id: &str, kind: ChildEventKind) {
        let event = ChildEvent { supervisor: self.name.clone(), child: id.to_owned(), kind };
        tell(&self.hook.0, event);
    }
}
