//! One agent: a generic actor that runs one attempt at a time through the node's engine. What makes it a BuildMaster is data.
//!
//! A handler never waits for the world: the job runs as an owned task in [`Jobs`] and its news goes to the desk. The two fault tools
//! are the exception, on purpose and only where faults are enabled: they harm the actor itself so that supervision can be tried.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use amphi_ports::JobOrder;
use amphi_protocol::document::Work;
use amphi_protocol::ids::{AgentId, AttemptRef};
use amphi_protocol::journal::{AttemptEnd, Outcome};
use amphi_protocol::message::{AgentMessage, MessageType, Recipient};
use futures::future::BoxFuture;
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SpawnErr};
use serde_json::json;
use tokio::sync::oneshot;

use crate::desk::DeskHandle;
use crate::desk::DeskMessage;
use crate::inboxes::{Inboxes, KeptMessage};
use crate::jobs::{JobReport, Jobs};
use crate::registry::{AgentEntry, AgentRegistry, taken};
use crate::role::RoleProfile;

/// The tool that panics in its actor's handler.
pub const PANIC_TOOL: &str = "panic";
/// The tool that blocks its actor's handler for ever.
pub const HANG_TOOL: &str = "hang";

/// The one kind of agent.
#[derive(Debug, Clone, Copy, Default)]
pub struct Specialist;

/// What an agent needs to start; the same at every restart.
#[derive(Clone)]
pub struct SpecialistArguments {
    /// Who it is.
    pub agent: AgentId,
    /// What it can do.
    pub profile: Arc<RoleProfile>,
    /// Where its jobs run.
    pub jobs: Arc<Jobs>,
    /// Whom it answers.
    pub desk: DeskHandle,
    /// Where it makes itself known.
    pub registry: AgentRegistry,
    /// Counts its waiting messages.
    pub mailbox: Arc<AtomicU64>,
    /// What it was told.
    pub inboxes: Inboxes,
    /// The fault tools work.
    pub faults: bool,
}

/// What an agent hears.
#[derive(Debug)]
pub enum SpecialistMessage {
    /// Run this attempt.
    Begin(JobOrder),
    /// End this attempt.
    Cancel {
        /// The attempt.
        attempt: AttemptRef,
    },
    /// Are you there?
    Ping,
    /// The job is over.
    JobFinished {
        /// Its attempt.
        attempt: AttemptRef,
    },
    /// Another agent says something.
    Told {
        /// What.
        letter: KeptMessage,
        /// Hears that the agent has it; dropped with the mailbox if it died.
        taken: oneshot::Sender<()>,
    },
    /// Another agent asks, and waits for the answer.
    Asked {
        /// What.
        letter: KeptMessage,
        /// Gets the answer.
        reply: oneshot::Sender<AgentMessage>,
    },
}

/// An agent's memory.
pub struct SpecialistState {
    arguments: SpecialistArguments,
    current: Option<AttemptRef>,
}

impl Specialist {
    /// Starts an agent below `parent`, under its own id as actor name.
    pub fn start(arguments: SpecialistArguments, parent: ActorCell) -> BoxFuture<'static, Result<ActorCell, SpawnErr>> {
        Box::pin(async move {
            let name = arguments.agent.to_string();
            let (actor, _) = Actor::spawn_linked(Some(name), Self, arguments, parent).await?;
            Ok(actor.get_cell())
        })
    }

    async fn begin(&self, myself: ActorRef<SpecialistMessage>, state: &mut SpecialistState, order: JobOrder) {
        let SpecialistArguments { agent, profile, jobs, desk, mailbox, faults, .. } = &state.arguments;
        if state.current.as_ref().is_some_and(|current| *current != order.attempt) {
            desk.tell(DeskMessage::Declined { attempt: order.attempt });
            return;
        }
        tracing::debug!(%agent, role = %profile.role, attempt = %order.attempt, task = %order.task, "begins");
        if let (true, Work::Tool { tool, .. }) = (*faults, &order.job.work)
            && (tool == PANIC_TOOL || tool == HANG_TOOL)
        {
            desk.tell(DeskMessage::Job { attempt: order.attempt.clone(), report: JobReport::Started { pid: None } });
            if tool == PANIC_TOOL {
                panic!("the fault tool `{PANIC_TOOL}` was asked for by {}", order.attempt);
            }
            // Only the actor is blocked, no thread of the runtime.
            std::future::pending::<()>().await;
        }
        // The submission looked already; this holds whatever the submission knew of this node's roles.
        if let Work::Tool { tool, .. } = &order.job.work
            && !profile.allows(tool)
        {
            let error = format!("role {} may not use the tool `{tool}`", profile.role);
            let end = AttemptEnd {
                outcome: Outcome::NotStarted,
                exit_code: None,
                error: Some(error),
                outputs: Default::default(),
                artifacts: Vec::new(),
            };
            desk.tell(DeskMessage::Job { attempt: order.attempt, report: JobReport::Ended(end) });
            return;
        }
        state.current = Some(order.attempt.clone());
        jobs.start(order, AgentEntry { actor: myself, mailbox: mailbox.clone() });
    }
}

impl SpecialistState {
    fn keep(&self, letter: KeptMessage) {
        let SpecialistArguments { agent, profile, inboxes, .. } = &self.arguments;
        metrics::counter!("amphi_agent_messages_total", "role" => profile.role.to_string()).increment(1);
        inboxes.put(agent, letter);
    }

    /// Who is here, what it can do and whether it has time: all that an agent without a model knows to say.
    fn answer(&self, question: &AgentMessage) -> AgentMessage {
        let SpecialistArguments { agent, profile, .. } = &self.arguments;
        let working_on =
            self.current.as_ref().map(|attempt| json!({ "epic": attempt.epic, "run": attempt.run, "attempt": attempt.attempt }));
        AgentMessage {
            from: profile.role.clone(),
            to: Recipient::from(question.from.clone()),
            kind: MessageType::StatusUpdate,
            payload: json!({
                "agent": agent,
                "state": if working_on.is_some() { "busy" } else { "idle" },
                "working_on": working_on,
                "skills": profile.skills,
                "responsibilities": profile.responsibilities,
            }),
            beads_task_id: question.beads_task_id.clone(),
        }
    }
}

impl Actor for Specialist {
    type Msg = SpecialistMessage;
    type State = SpecialistState;
    type Arguments = SpecialistArguments;

    async fn pre_start(&self, myself: ActorRef<Self::Msg>, arguments: Self::Arguments) -> Result<Self::State, ActorProcessingErr> {
        let entry = AgentEntry { actor: myself, mailbox: arguments.mailbox.clone() };
        arguments.registry.put(arguments.agent.clone(), arguments.profile.role.clone(), entry);
        Ok(SpecialistState { arguments, current: None })
    }

    async fn handle(&self, myself: ActorRef<Self::Msg>, message: Self::Msg, state: &mut Self::State) -> Result<(), ActorProcessingErr> {
        taken(&state.arguments.mailbox);
        match message {
            SpecialistMessage::Begin(order) => self.begin(myself, state, order).await,
            SpecialistMessage::Cancel { attempt } => {
                state.arguments.jobs.cancel(&attempt);
                state.arguments.desk.tell(DeskMessage::CancelHeard { attempt });
            }
            SpecialistMessage::Ping => {
                state.arguments.desk.tell(DeskMessage::Pong { agent: state.arguments.agent.clone(), actor: myself.get_id() });
            }
            SpecialistMessage::Told { letter, taken } => {
                state.keep(letter);
                // Who waited for it may have given up; the message then comes again and is recognised.
                let _gone = taken.send(());
            }
            SpecialistMessage::Asked { letter, reply } => {
                let answer = state.answer(&letter.received.message);
                state.keep(letter);
                let _gone = reply.send(answer);
            }
            SpecialistMessage::JobFinished { attempt } => {
                if state.current.as_ref() == Some(&attempt) {
                    state.current = None;
                }
            }
        }
        Ok(())
    }
}
