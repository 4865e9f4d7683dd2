//! One child: its specification, its phase, and what has to be dead before it can be started again.
//!
//! No decision here: phases change in [`super::children`] only.

use std::time::Duration;

use amphi_protocol::tree::{TreeNode, TreeState};
use ractor::{ActorCell, ActorId, RpcReplyPort, SpawnErr};

use crate::board::ChildRow;
use crate::ending::{Alive, KILL_WAIT_MAX, StartUnderWay};
use crate::policy::{OnExhausted, Pace, Window};
use crate::spec::{ChildError, ChildSpec, StartFn};

pub(super) type StartReply = RpcReplyPort<Result<ActorCell, ChildError>>;
pub(super) type EndReply = RpcReplyPort<Result<(), ChildError>>;

#[derive(Debug)]
pub(super) struct Child {
    pub spec: ChildSpec,
    pub phase: Phase,
    pub generation: u64,
    /// The last actor, for exits that come while it ends.
    pub actor: Option<ActorId>,
    pub starts: u64,
    /// Added by `start_child`, and its first start is not over.
    pub on_trial: bool,
    pub window: Window,
    pub pace: Pace,
    /// Wait until it runs.
    pub replies: Vec<StartReply>,
}

#[derive(Debug)]
pub(super) enum Phase {
    /// Its turn in the order has not come.
    Pending,
    Starting(StartUnderWay),
    /// `settled` is false while a nested supervisor starts its own children.
    Running {
        actor: ActorCell,
        settled: bool,
    },
    /// In backoff, or a sibling's failure ends it first.
    Waiting(Option<Alive>),
    /// It was told to end.
    Stopping(Alive, After),
    Quarantined,
    /// It ended as it should.
    Down,
}

#[derive(Debug)]
pub(super) enum After {
    Remove(Vec<EndReply>),
    Restart,
}

impl Child {
    pub fn new(spec: ChildSpec, on_trial: bool) -> Self {
        Self {
            spec,
            phase: Phase::Pending,
            generation: 0,
            actor: None,
            starts: 0,
            on_trial,
            window: Window::default(),
            pace: Pace::default(),
            replies: Vec::new(),
        }
    }

    pub fn restarts(&self) -> u64 {
        self.starts.saturating_sub(1)
    }

    pub fn counts_alone(&self) -> bool {
        self.spec.intensity.is_some() || self.spec.on_exhausted == OnExhausted::Quarantine
    }

    /// Takes what has to be dead before the child's name is free.
    pub fn take_alive(&mut self) -> Option<Alive> {
        match std::mem::replace(&mut self.phase, Phase::Down) {
            Phase::Starting(start) => Some(start.call_off()),
            Phase::Running { actor, .. } => Some(Alive::Actor(actor)),
            Phase::Waiting(alive) => alive,
            Phase::Stopping(alive, _) => Some(alive),
            Phase::Pending | Phase::Quarantined | Phase::Down => None,
        }
    }

    pub fn answer(&mut self, answer: impl Fn() -> Result<ActorCell, ChildError>) {
        for reply in self.replies.drain(..) {
            let _ = reply.send(answer());
        }
    }

    pub fn row(&self, intensity: crate::Intensity) -> ChildRow {
        let own = self.counts_alone().then(|| self.spec.intensity.unwrap_or(intensity));
        ChildRow {
            node: TreeNode {
                name: self.spec.id.clone(),
                actor: self.spec.id.clone(),
                kind: self.spec.kind,
                strategy: None,
                restart: Some(self.spec.restart.as_str().to_owned()),
                restarts: 0,
                max: own.map(|own| own.max),
                within_ms: own.map(|own| millis(own.within)),
                state: TreeState::Starting,
                mailbox: None,
                last_exit: None,
                children: Vec::new(),
            },
            mailbox: self.spec.mailbox.clone(),
        }
    }
}

/// Starts a child, after an orphan of the same name is dead: a killed supervisor is reported before its children have left their
/// synchronous sections, and until then they hold their names.
pub(super) async fn start_when_free(start: StartFn, supervisor: ActorCell) -> Result<ActorCell, SpawnErr> {
    match start(supervisor.clone()).await {
        Err(SpawnErr::ActorAlreadyRegistered(name)) => {
            if let Some(orphan) = ractor::registry::where_is(name.clone()).filter(|actor| actor.try_get_supervisor().is_none()) {
                tracing::info!(actor = name, "a start waits for the end of an orphan of the same name");
                let _ = orphan.wait(Some(KILL_WAIT_MAX)).await;
            }
            // Also if it ended between the two looks.
            start(supervisor).await
        }
        other => other,
    }
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
