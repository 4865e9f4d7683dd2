//! How others in the process reach the Manager, over its restarts.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use amphi_coordination::State;
use amphi_coordination::seat::Answer;
use amphi_coordination::views::LeaseLeft;
use amphi_protocol::api::{ApiError, ErrorCode};
use amphi_protocol::ids::{Epoch, Timestamp};
use amphi_protocol::journal::{Input, Record};
use ractor::ActorRef;
use tokio::sync::{oneshot, watch};

use crate::manager::ManagerMessage;

/// A question to the committed state. It runs inside the Manager, so it must be quick and must not wait.
pub type Read = Box<dyn FnOnce(&Snapshot<'_>) + Send>;

/// The committed state, and what the leader knows beside it.
pub struct Snapshot<'a> {
    /// The state.
    pub state: &'a State,
    /// The leader's time.
    pub now: Timestamp,
    /// Sequence of the journal's last record.
    pub sequence: u64,
    /// Leases by attempt.
    pub lease_left: LeaseLeft<'a>,
}

/// Whether the seat of this node leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leadership {
    /// It does not.
    None,
    /// It does, in this term.
    Leads(Epoch),
}

/// The way to the Manager of this node.
#[derive(Clone)]
pub struct ManagerHandle {
    actor: Arc<Mutex<Option<ActorRef<ManagerMessage>>>>,
    leadership: Arc<watch::Sender<Leadership>>,
    /// Inputs that made the core panic in this life of the node.
    dead_letters: Arc<Mutex<BTreeSet<String>>>,
}

impl Default for ManagerHandle {
    fn default() -> Self {
        Self { actor: Arc::default(), leadership: Arc::new(watch::channel(Leadership::None).0), dead_letters: Arc::default() }
    }
}

impl ManagerHandle {
    /// Follows whether the seat leads.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.subscribe()
    }

    /// True if the Manager of this node leads, as far as it knows.
    pub fn leads(&self) -> bool {
        matches!(*self.leadership.borrow(), Leadership::Leads(_))
    }

    /// Takes an input in and waits for its commit.
    ///
    /// # Errors
    /// `cluster.no_leader` if nobody leads here (the input may have been taken; sending it again is safe), `cluster.busy`.
    pub async fn take(&self, input: Input) -> Result<Answer, ApiError> {
        let (reply, answer) = oneshot::channel();
        self.cast(ManagerMessage::Take(Box::new(input), reply))?;
        match answer.await {
            Ok(Answer::NotLeading) | Err(_) => Err(no_leader()),
            Ok(Answer::Busy) => {
                Err(ApiError::new(ErrorCode::ClusterBusy, "too many requests wait for the Manager").hint("send it again later"))
            }
            Ok(answer) => Ok(answer),
        }
    }

    /// Looks at the committed state.
    ///
    /// # Errors
    /// `cluster.no_leader` if nobody leads here.
    pub async fn read<T: Send + 'static>(&self, look: impl FnOnce(&Snapshot<'_>) -> T + Send + 'static) -> Result<T, ApiError> {
        let (reply, answer) = oneshot::channel();
        let read: Read = Box::new(move |snapshot| drop(reply.send(look(snapshot))));
        self.cast(ManagerMessage::Read(read))?;
        answer.await.map_err(|_| no_leader())
    }

    /// Hands a message on, if there is a Manager.
    pub(crate) fn cast(&self, message: ManagerMessage) -> Result<(), ApiError> {
        let actor = self.actor.lock().unwrap_or_else(PoisonError::into_inner).clone();
        actor.ok_or_else(no_leader)?.cast(message).map_err(|_| no_leader())
    }

    /// Refuses an input from now on; returns the name of its dead letter.
    pub(crate) fn bury(&self, input: &Input) -> String {
        let name = fingerprint(input);
        self.dead_letters.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone());
        name
    }

    /// The name of the dead letter that `input` is, if it is one.
    pub(crate) fn buried(&self, input: &Input) -> Option<String> {
        let dead_letters = self.dead_letters.lock().unwrap_or_else(PoisonError::into_inner);
        // Nothing is hashed as long as nothing ever failed.
        if dead_letters.is_empty() {
            return None;
        }
        Some(fingerprint(input)).filter(|name| dead_letters.contains(name))
    }

    pub(crate) fn attach(&self, actor: ActorRef<ManagerMessage>) {
        *self.actor.lock().unwrap_or_else(PoisonError::into_inner) = Some(actor);
        self.lost();
    }

    pub(crate) fn began(&self, epoch: Epoch) {
        self.leadership.send_replace(Leadership::Leads(epoch));
    }

    pub(crate) fn lost(&self) {
        self.leadership.send_replace(Leadership::None);
    }
}

/// The refusal of everybody who does not lead.
pub fn no_leader() -> ApiError {
    ApiError::new(ErrorCode::ClusterNoLeader, "no Manager leads at present")
        .hint("send it again in a moment; a second submission with the same id is the same epic")
}

/// The same for the same input sent again; a submission gets another epic id each time, so its key counts.
fn fingerprint(input: &Input) -> String {
    let text = match input {
        Input::Submit(submission) => format!("{} {} {}", submission.project, submission.key, submission.body_hash),
        other => serde_json::to_string(other).unwrap_or_default(),
    };
    format!("dead-letter-{}", Record::hash(text.as_bytes()))
}
