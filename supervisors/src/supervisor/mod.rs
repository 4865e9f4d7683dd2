//! The supervisor actor: hears exits and orders, and lets [`children::Children`] act on them.
//!
//! Its handlers never wait: starts and ends run in tasks that report back. Only `post_stop` waits, because nothing may be left when a
//! supervisor is gone. Where to start reading: the message enum, then `handle_supervisor_evt`.

mod child;
mod children;

use std::sync::Arc;
use std::time::Duration;

use ractor::rpc::CallResult;
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, RpcReplyPort, SpawnErr, SupervisionEvent};

use self::children::Children;
use crate::ending::SHUTDOWN;
use crate::policy::ExitKind;
use crate::spec::{ChildError, ChildSpec, SupervisorArguments};

/// Longest text of a failure that is kept.
const REASON_LENGTH_MAX: usize = 512;

/// The actor. Its name is the one in its specification.
#[derive(Debug, Clone, Copy, Default)]
pub struct Supervisor;

impl Supervisor {
    /// Starts a root. It returns when the supervisor runs; [`settled`] waits for its children.
    pub async fn spawn(arguments: SupervisorArguments) -> Result<(ActorRef<SupervisorMessage>, tokio::task::JoinHandle<()>), SpawnErr> {
        Actor::spawn(Some(arguments.spec.name.clone()), Self, arguments).await
    }

    /// Starts a supervisor below another; see [`crate::nested`].
    pub async fn spawn_linked(
        arguments: SupervisorArguments,
        parent: ActorCell,
    ) -> Result<(ActorRef<SupervisorMessage>, tokio::task::JoinHandle<()>), SpawnErr> {
        Actor::spawn_linked(Some(arguments.spec.name.clone()), Self, arguments, parent).await
    }
}

/// Orders. What a supervisor knows is not asked here: it stands on the [`crate::TreeBoard`].
#[derive(Debug)]
pub enum SupervisorMessage {
    /// Starts one more child, and answers when it runs. If its first start fails it is not kept, whatever its restart type.
    StartChild {
        /// What to start.
        spec: Box<ChildSpec>,
        /// Gets the actor.
        reply: RpcReplyPort<Result<ActorCell, ChildError>>,
    },
    /// Ends a child and forgets it, also one that waits for a restart. Answers when it is dead.
    TerminateChild {
        /// Its id.
        id: String,
        /// Gets the outcome.
        reply: RpcReplyPort<Result<(), ChildError>>,
    },
    /// Starts a child anew, also out of quarantine; its restarts so far no longer count against it. Answers when it runs.
    RestartChild {
        /// Its id.
        id: String,
        /// Gets the new actor.
        reply: RpcReplyPort<Result<ActorCell, ChildError>>,
    },
    /// Answers when each of the first children runs, is quarantined or has ended as it should.
    WhenSettled(RpcReplyPort<()>),
    /// News from the supervisor's own tasks.
    Internal(Internal),
}

/// News from a supervisor's own tasks and timers; nobody else can make one. Each carries the generation of the order that caused it,
/// so late ones are recognised.
#[derive(Debug)]
pub struct Internal(News);

#[derive(Debug)]
enum News {
    /// A start is over.
    Started { id: String, generation: u64, result: Result<ActorCell, String> },
    /// A nested supervisor has settled.
    Settled { id: String, generation: u64 },
    /// What was told to end is dead.
    Ended { id: String, generation: u64 },
    /// A backoff is over, and what had to die before is dead.
    Resume { generation: u64 },
}

impl News {
    fn message(self) -> SupervisorMessage {
        SupervisorMessage::Internal(Internal(self))
    }
}

/// A supervisor ended because a child failed too often.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("gave up: child `{child}` failed too often, last with: {reason}")]
pub struct GaveUp {
    /// The child.
    pub child: String,
    /// Its last failure in words.
    pub reason: String,
}

impl Actor for Supervisor {
    type Msg = SupervisorMessage;
    type State = Children;
    type Arguments = SupervisorArguments;

    async fn pre_start(&self, myself: ActorRef<Self::Msg>, arguments: Self::Arguments) -> Result<Self::State, ActorProcessingErr> {
        Ok(Children::new(myself, arguments)?)
    }

    async fn post_start(&self, _myself: ActorRef<Self::Msg>, children: &mut Self::State) -> Result<(), ActorProcessingErr> {
        children.advance();
        Ok(())
    }

    async fn handle(&self, _myself: ActorRef<Self::Msg>, message: Self::Msg, children: &mut Self::State) -> Result<(), ActorProcessingErr> {
        match message {
            SupervisorMessage::StartChild { spec, reply } => children.add(*spec, reply),
            SupervisorMessage::TerminateChild { id, reply } => children.terminate(&id, reply),
            SupervisorMessage::RestartChild { id, reply } => children.restart(&id, reply),
            SupervisorMessage::WhenSettled(reply) => children.when_settled(reply),
            SupervisorMessage::Internal(Internal(news)) => match news {
                News::Started { id, generation, result } => children.started(&id, generation, result),
                News::Settled { id, generation } => children.settled(&id, generation),
                News::Ended { id, generation } => children.ended(&id, generation),
                News::Resume { generation } => children.resume(generation),
            },
        }
        children.advance();
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _myself: ActorRef<Self::Msg>,
        event: SupervisionEvent,
        children: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorTerminated(actor, _, reason) => {
                let (exit, words) = exit_of(reason);
                children.exited(&actor, exit, words);
            }
            SupervisionEvent::ActorFailed(actor, error) => children.exited(&actor, ExitKind::Failed, error_words(error.as_ref())),
            _ => return Ok(()),
        }
        children.advance();
        Ok(())
    }

    async fn post_stop(&self, _myself: ActorRef<Self::Msg>, children: &mut Self::State) -> Result<(), ActorProcessingErr> {
        match children.end_all().await {
            None => Ok(()),
            Some(gave_up) => Err(gave_up.into()),
        }
    }
}

/// ractor's words for an end: nothing or a text of its own choice for a stop, `killed` and `actor_task_cancelled` for violence.
fn exit_of(reason: Option<String>) -> (ExitKind, String) {
    match reason {
        None => (ExitKind::Normal, "normal".to_owned()),
        Some(text) => {
            let exit = match text.as_str() {
                "killed" | "actor_task_cancelled" => ExitKind::Killed,
                SHUTDOWN => ExitKind::Shutdown,
                _ => ExitKind::Normal,
            };
            (exit, cut(text))
        }
    }
}

/// The whole chain of an error, cut to a length that can be shown.
fn error_words(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(error) = source
        && words.len() < REASON_LENGTH_MAX
    {
        words.push_str(": ");
        words.push_str(&error.to_string());
        source = error.source();
    }
    cut(words)
}

fn cut(text: String) -> String {
    if text.len() <= REASON_LENGTH_MAX { text } else { text.chars().take(REASON_LENGTH_MAX).collect() }
}

/// Starts one more child; see [`SupervisorMessage::StartChild`].
pub async fn start_child(
    supervisor: &ActorRef<SupervisorMessage>,
    spec: ChildSpec,
    timeout: Option<Duration>,
) -> Result<ActorCell, ChildError> {
    let spec = Box::new(spec);
    answer(supervisor.call(|reply| SupervisorMessage::StartChild { spec, reply }, timeout).await)?
}

/// Ends a child and forgets it; see [`SupervisorMessage::TerminateChild`].
pub async fn terminate_child(supervisor: &ActorRef<SupervisorMessage>, id: &str, timeout: Option<Duration>) -> Result<(), ChildError> {
    let id = id.to_owned();
    answer(supervisor.call(|reply| SupervisorMessage::TerminateChild { id, reply }, timeout).await)?
}

/// Starts a child anew; see [`SupervisorMessage::RestartChild`].
pub async fn restart_child(supervisor: &ActorRef<SupervisorMessage>, id: &str, timeout: Option<Duration>) -> Result<ActorCell, ChildError> {
    let id = id.to_owned();
    answer(supervisor.call(|reply| SupervisorMessage::RestartChild { id, reply }, timeout).await)?
}

/// Waits for the first children; see [`SupervisorMessage::WhenSettled`].
pub async fn settled(supervisor: &ActorRef<SupervisorMessage>, timeout: Option<Duration>) -> Result<(), ChildError> {
    answer(supervisor.call(SupervisorMessage::WhenSettled, timeout).await)
}

fn answer<T>(result: Result<CallResult<T>, ractor::MessagingErr<SupervisorMessage>>) -> Result<T, ChildError> {
    match result {
        Ok(CallResult::Success(answer)) => Ok(answer),
        Ok(CallResult::Timeout | CallResult::SenderError) | Err(_) => Err(ChildError::NoAnswer),
    }
}

/// Tells the hook; a hook that panics is a bug elsewhere and must not end the children.
fn tell(hook: &crate::ChildEventHook, event: crate::ChildEvent) {
    let hook = Arc::clone(hook);
    let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || hook(event)));
    if told.is_err() {
        tracing::error!("a child event hook panicked");
    }
}
