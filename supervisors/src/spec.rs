//! What is supervised: child specifications, supervisor specifications, and what a supervisor tells others.
//!
//! Data only. A specification can be started any number of times.

use std::sync::Arc;
use std::time::Duration;

use amphi_protocol::tree::TreeKind;
use futures::future::BoxFuture;
use ractor::{ActorCell, SpawnErr};

use crate::board::{Mailbox, TreeBoard};
use crate::policy::{Backoff, Intensity, OnExhausted, Restart, Strategy};

/// Starts a child linked to the given supervisor (`spawn_linked`) and returns it.
///
/// It runs in a task of its own, so it may be slow. It must not await anything after `spawn_linked` returned, and it is dropped
/// when the start is called off. Names are global in a process: they carry the node id.
pub type StartFn = Arc<dyn Fn(ActorCell) -> BoxFuture<'static, Result<ActorCell, SpawnErr>> + Send + Sync>;

/// One child.
#[derive(Clone)]
pub struct ChildSpec {
    /// Unique below its supervisor.
    pub id: String,
    /// What it is.
    pub kind: TreeKind,
    /// Which ends are followed by a restart.
    pub restart: Restart,
    /// Starts it.
    pub start: StartFn,
    /// How long it may take to stop before it is killed.
    pub shutdown: Duration,
    /// What happens when it fails too often.
    pub on_exhausted: OnExhausted,
    /// Its own limit. Without one it shares the supervisor's count, or has a count of its own with the supervisor's numbers if it is
    /// quarantined: a sibling's crashes must not put it there.
    pub intensity: Option<Intensity>,
    /// Where its waiting messages are counted.
    pub mailbox: Option<Mailbox>,
}

impl ChildSpec {
    /// A permanent worker that escalates, with 5 s to stop.
    pub fn worker<F>(id: impl Into<String>, start: F) -> Self
    where
        F: Fn(ActorCell) -> BoxFuture<'static, Result<ActorCell, SpawnErr>> + Send + Sync + 'static,
    {
        Self {
            id: id.into(),
            kind: TreeKind::Worker,
            restart: Restart::Permanent,
            start: Arc::new(start),
            shutdown: Duration::from_secs(5),
            on_exhausted: OnExhausted::Escalate,
            intensity: None,
            mailbox: None,
        }
    }

    /// Changes the restart type.
    #[must_use]
    pub fn restart(mut self, restart: Restart) -> Self {
        self.restart = restart;
        self
    }

    /// Changes the time to stop.
    #[must_use]
    pub fn shutdown(mut self, shutdown: Duration) -> Self {
        self.shutdown = shutdown;
        self
    }

    /// Gives it a limit of its own, and says what happens beyond it.
    #[must_use]
    pub fn limited(mut self, intensity: Intensity, on_exhausted: OnExhausted) -> Self {
        self.intensity = Some(intensity);
        self.on_exhausted = on_exhausted;
        self
    }

    /// Shows the depth of its mailbox.
    #[must_use]
    pub fn mailbox(mut self, mailbox: Mailbox) -> Self {
        self.mailbox = Some(mailbox);
        self
    }
}

impl std::fmt::Debug for ChildSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChildSpec").field("id", &self.id).field("kind", &self.kind).field("restart", &self.restart).finish_non_exhaustive()
    }
}

/// One supervisor.
#[derive(Debug, Clone)]
pub struct SupervisorSpec {
    /// Its actor's name, with the node id in it: `node-1/agents`.
    pub name: String,
    /// Who is restarted together.
    pub strategy: Strategy,
    /// How often, over all children without a limit of their own.
    pub intensity: Intensity,
    /// How fast.
    pub backoff: Backoff,
    /// In dependency order: started in this order, one after the other, and stopped in reverse.
    pub children: Vec<ChildSpec>,
    /// Most children it accepts.
    pub children_max: usize,
}

impl SupervisorSpec {
    /// One for one, with default limits.
    pub fn new(name: impl Into<String>, children: Vec<ChildSpec>) -> Self {
        Self {
            name: name.into(),
            strategy: Strategy::default(),
            intensity: Intensity::default(),
            backoff: Backoff::default(),
            children,
            children_max: 10_000,
        }
    }
}

/// What a supervisor needs to start.
#[derive(Clone)]
pub struct SupervisorArguments {
    /// What it supervises.
    pub spec: SupervisorSpec,
    /// Where it publishes.
    pub board: Arc<TreeBoard>,
    /// Whom it tells.
    pub on_child_event: ChildEventHook,
}

impl std::fmt::Debug for SupervisorArguments {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SupervisorArguments").field("spec", &self.spec).finish_non_exhaustive()
    }
}

/// A supervisor as a child of another: permanent, escalating, with 60 s to stop. It counts as started when its own children are.
pub fn nested(id: impl Into<String>, arguments: SupervisorArguments) -> ChildSpec {
    let start = move |parent: ActorCell| -> BoxFuture<'static, Result<ActorCell, SpawnErr>> {
        let arguments = arguments.clone();
        Box::pin(async move { crate::Supervisor::spawn_linked(arguments, parent).await.map(|(actor, _)| actor.get_cell()) })
    };
    let mut spec = ChildSpec::worker(id, start).shutdown(Duration::from_secs(60));
    spec.kind = TreeKind::Supervisor;
    spec
}

/// Called in the supervisor's handler: it must return at once.
pub type ChildEventHook = Arc<dyn Fn(ChildEvent) + Send + Sync>;

/// A hook that does nothing.
pub fn no_hook() -> ChildEventHook {
    Arc::new(|_| {})
}

/// Something that happened to a child.
#[derive(Debug, Clone)]
pub struct ChildEvent {
    /// The supervisor's actor name.
    pub supervisor: String,
    /// The child's id.
    pub child: String,
    /// What happened.
    pub kind: ChildEventKind,
}

/// What happened to a child.
#[derive(Debug, Clone)]
pub enum ChildEventKind {
    /// It runs for the first time.
    Started {
        /// The actor.
        actor: ActorCell,
    },
    /// It ended, or could not start. Reported also for ends that were ordered.
    Exited {
        /// In words.
        reason: String,
        /// A failure or a kill that nobody ordered.
        abnormal: bool,
    },
    /// It runs again.
    Restarted {
        /// The new actor.
        actor: ActorCell,
        /// How many restarts that makes.
        count: u64,
    },
    /// It failed too often and stays down.
    Quarantined {
        /// Its last failure in words.
        reason: String,
    },
}

/// Why an order about a child was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChildError {
    /// There is a child with this id; it and its siblings live on.
    #[error("there is already a child `{id}`")]
    Duplicate {
        /// The id.
        id: String,
    },
    /// There is no such child.
    #[error("there is no child `{id}`")]
    Unknown {
        /// The id.
        id: String,
    },
    /// Its start failed; nothing runs.
    #[error("child `{id}` did not start: {reason}")]
    StartFailed {
        /// The id.
        id: String,
        /// In words.
        reason: String,
    },
    /// It was terminated meanwhile.
    #[error("child `{id}` is being terminated")]
    Terminating {
        /// The id.
        id: String,
    },
    /// The supervisor has as many children as it may have.
    #[error("no room for child `{id}`: {max} is the limit")]
    Full {
        /// The id.
        id: String,
        /// The limit.
        max: usize,
    },
    /// The supervisor is gone or did not answer in time; the order may have been carried out.
    #[error("supervisor did not answer")]
    NoAnswer,
}
