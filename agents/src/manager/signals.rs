//! Messages that tasks wait for: one subscription per awaited subject, only while somebody waits for it.
//!
//! A subscription takes one message at a time and waits until the Manager has committed or refused it, so that a flood of messages
//! queues at the client, which drops what is too much, and never in the Manager. A message with a reply subject is answered after the
//! commit. Core NATS keeps nothing: what comes while nobody leads is lost, and its sender gets no answer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use amphi_coordination::Refusal;
use amphi_coordination::State;
use amphi_coordination::seat::Answer;
use amphi_ports::{BusMessage, MessageBus};
use amphi_protocol::api::{ApiError, ErrorBody, ErrorCode};
use amphi_protocol::ids::Timestamp;
use amphi_protocol::journal::Input;
use bytes::Bytes;
use futures::StreamExt as _;
use ractor::ActorRef;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;

use crate::manager::ManagerMessage;

/// Largest body of a message that a task takes as its output.
const BODY_BYTES_MAX: usize = 64 * 1024;
const RESUBSCRIBE_AFTER: Duration = Duration::from_millis(200);

/// The subscriptions of one Manager.
pub(super) struct Signals {
    bus: Arc<dyn MessageBus>,
    revision: Option<u64>,
    listening: BTreeMap<String, AbortOnDropHandle<()>>,
}

impl Signals {
    pub fn new(bus: Arc<dyn MessageBus>) -> Self {
        Self { bus, revision: None, listening: BTreeMap::new() }
    }

    /// Brings the subscriptions in step with what is awaited; costs nothing while that is the same.
    pub fn follow(&mut self, state: &State, manager: &ActorRef<ManagerMessage>) {
        if self.revision == Some(state.awaited_revision()) {
            return;
        }
        self.revision = Some(state.awaited_revision());
        let mut before = std::mem::take(&mut self.listening);
        for subject in state.awaited() {
            let listener = before.remove(subject).unwrap_or_else(|| {
                let (bus, manager) = (self.bus.clone(), manager.clone());
                AbortOnDropHandle::new(tokio::spawn(listen(bus, subject.to_owned(), manager)))
            });
            self.listening.insert(subject.to_owned(), listener);
        }
    }
}

async fn listen(bus: Arc<dyn MessageBus>, subject: String, manager: ActorRef<ManagerMessage>) {
    loop {
        match bus.subscribe(subject.clone()).await {
            Ok(mut messages) => {
                while let Some(message) = messages.next().await {
                    // Outlives this subscription on purpose: what takes the message usually ends the subscription before the commit.
                    let handled = tokio::spawn(handle(bus.clone(), message, manager.clone()));
                    let _failed = handled.await;
                }
            }
            Err(error) => tracing::debug!(%error, subject, "an awaited subject is subscribed later"),
        }
        tokio::time::sleep(RESUBSCRIBE_AFTER).await;
    }
}

/// Gives the message to the Manager; answers when that has committed or refused it.
async fn handle(bus: Arc<dyn MessageBus>, message: BusMessage, manager: ActorRef<ManagerMessage>) {
    let taken = match signal(&message) {
        Ok(input) => take_by_all(&manager, input).await,
        Err(error) => Err(error),
    };
    if let Some(reply) = message.reply {
        answer(&*bus, reply, taken).await;
    }
}

/// The message as an input: JSON, or a text.
fn signal(message: &BusMessage) -> Result<Input, ApiError> {
    if message.body.len() > BODY_BYTES_MAX {
        let text = format!("the message has {} bytes; at most {BODY_BYTES_MAX} become an output", message.body.len());
        return Err(ApiError::new(ErrorCode::EpicLimit, text).hint("send a reference to it"));
    }
    let Ok(text) = std::str::from_utf8(&message.body) else {
        return Err(ApiError::new(ErrorCode::RequestInvalid, "the message is not UTF-8").hint("send JSON or text"));
    };
    let data = serde_json::from_str::<Value>(text).unwrap_or_else(|_| Value::String(text.to_owned()));
    Ok(Input::Signal { subject: message.subject.clone(), data, before: None })
}

/// Gives it again while it ends waits: one commit holds only so many. Answers when all who waited have heard it.
async fn take_by_all(manager: &ActorRef<ManagerMessage>, mut input: Input) -> Result<Value, ApiError> {
    let (mut answer, now) = take(manager, input.clone()).await?;
    let Some(now) = now else { return Ok(answer) };
    if let Input::Signal { before, .. } = &mut input {
        *before = Some(now);
    }
    while let (next, Some(_)) = take(manager, input.clone()).await? {
        answer = next;
    }
    Ok(answer)
}

/// What to answer, and the time of the commit if there was one.
async fn take(manager: &ActorRef<ManagerMessage>, input: Input) -> Result<(Value, Option<Timestamp>), ApiError> {
    let (reply, answer) = oneshot::channel();
    manager.cast(ManagerMessage::Take(Box::new(input), reply)).map_err(|_| super::handle::no_leader())?;
    match answer.await {
        Ok(Answer::Committed { index, epoch, now, .. }) => Ok((json!({ "taken": true, "epoch": epoch, "index": index }), Some(now))),
        Ok(Answer::Refused(Refusal::Stale(why))) => Ok((json!({ "taken": false, "why": why }), None)),
        Ok(Answer::Refused(Refusal::Error(error))) => Err(error),
        Ok(Answer::Refused(Refusal::Duplicate(_)) | Answer::NotLeading) | Err(_) => Err(super::handle::no_leader()),
        Ok(Answer::Busy) => {
            Err(ApiError::new(ErrorCode::ClusterBusy, "too many requests wait for the Manager").hint("send it again later"))
        }
    }
}

async fn answer(bus: &dyn MessageBus, reply: String, taken: Result<Value, ApiError>) {
    let body = taken.unwrap_or_else(|error| json!(ErrorBody { error }));
    // Whoever gets no answer sends again.
    let _unanswered = bus.publish(reply, BTreeMap::new(), Bytes::from(body.to_string())).await;
}
