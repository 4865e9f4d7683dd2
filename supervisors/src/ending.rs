//! How a child is ended: asked first, killed when it does not answer in time.
//!
//! These functions wait, so they run in tasks and in `post_stop`, never in a handler.

use std::time::Duration;

use ractor::ActorCell;
use tokio::sync::{oneshot, watch};

/// The text with which an orderly stop reaches a child.
pub(crate) const SHUTDOWN: &str = "shutdown";

/// How long a killed actor may stay in a synchronous section before the end of the tree goes on without it.
pub(crate) const KILL_WAIT_MAX: Duration = Duration::from_secs(30);

/// A start that is under way.
#[derive(Debug)]
pub(crate) struct StartUnderWay {
    /// Dropped to call it off.
    pub cancel: oneshot::Sender<()>,
    /// `Some(…)` once it is over: the actor, or `None` if there is none.
    pub over: watch::Receiver<Option<Option<ActorCell>>>,
}

impl StartUnderWay {
    /// Calls the start off. It may have been faster.
    pub fn call_off(self) -> Alive {
        drop(self.cancel);
        Alive::Start(self.over)
    }
}

/// Something that has to be dead before its name can be used again.
#[derive(Debug, Clone)]
pub(crate) enum Alive {
    /// An actor.
    Actor(ActorCell),
    /// A start that was called off and may still give one.
    Start(watch::Receiver<Option<Option<ActorCell>>>),
}

/// Ends an actor, or a start with what comes of it. The same may be ended twice.
pub(crate) async fn end(alive: Alive, grace: Duration) {
    let actor = match alive {
        Alive::Actor(actor) => Some(actor),
        // An error means that the task of the start is gone, and its actor with it.
        Alive::Start(mut over) => over.wait_for(Option::is_some).await.ok().and_then(|over| over.clone().flatten()),
    };
    let Some(actor) = actor else { return };
    actor.stop(Some(SHUTDOWN.to_owned()));
    if actor.wait(Some(grace)).await.is_ok() {
        return;
    }
    actor.kill();
    if actor.wait(Some(KILL_WAIT_MAX)).await.is_err() {
        tracing::error!(actor = ?actor.get_name(), "a killed actor does not leave its synchronous section; a person must look");
    }
}
