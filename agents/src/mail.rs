//! Agent messages on a node: what is stored comes to the agents of its role and is acknowledged when they have it; live requests go to
//! one of them and are answered.
//!
//! Whatever outsiders publish, nothing stops the rest: what is malformed or too large is counted, logged and never comes again, and an
//! agent that hangs delays only its own copy.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use amphi_ports::{AgentMail, BusMessage, Clock, Delivery, MessageBus, Settled, StoreError};
use amphi_protocol::ids::{AgentId, NodeId, RoleName, Timestamp};
use amphi_protocol::message::{About, AgentMessage, ReceivedMessage, Recipient};
use amphi_protocol::{codec, subjects};
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::SelectAll;
use tokio::sync::oneshot;

use crate::inboxes::{Inboxes, KeptMessage};
use crate::registry::AgentRegistry;
use crate::specialist::SpecialistMessage;

/// An agent takes a message in this time, or it hangs and the message comes again: its handlers never wait for the world.
const TAKEN_WITHIN: Duration = Duration::from_secs(5);
/// When a message comes again that an agent did not take.
const AGAIN_AFTER: Duration = Duration::from_secs(10);
/// A live request is answered in this time or not at all.
const ANSWERED_WITHIN: Duration = Duration::from_secs(2);
/// How often a node looks whether it has new roles to answer for.
const ROLES_PERIOD: Duration = Duration::from_secs(1);
/// Ids of messages that were taken; what comes again under one of them is settled at once.
const IDS_MAX: usize = 4096;

/// Where messages go.
#[derive(Clone)]
pub struct MailRoom {
    /// The node.
    pub node: NodeId,
    /// The agents' actors.
    pub registry: AgentRegistry,
    /// What they were told.
    pub inboxes: Inboxes,
    clock: Arc<dyn Clock>,
    taken: Arc<Mutex<Taken>>,
    turn: Arc<AtomicUsize>,
}

#[derive(Default)]
struct Taken {
    ids: HashSet<String>,
    order: VecDeque<String>,
}

/// Why a stored message is of no use.
#[derive(Debug, thiserror::Error)]
enum Malformed {
    #[error(transparent)]
    Message(#[from] amphi_protocol::message::MessageError),
    #[error("it says that it goes to {says}, but was published to {subject}")]
    OtherRecipient { says: RoleName, subject: String },
}

impl MailRoom {
    /// A room for the agents of `registry`.
    pub fn new(node: NodeId, registry: AgentRegistry, inboxes: Inboxes, clock: Arc<dyn Clock>) -> Self {
        Self { node, registry, inboxes, clock, taken: Arc::default(), turn: Arc::default() }
    }

    /// Hands stored messages to the agents, in the order of the stream, until it cannot be read any more.
    ///
    /// # Errors
    /// The node's consumer could not be made.
    pub async fn deliver(&self, mail: &dyn AgentMail) -> Result<(), StoreError> {
        let mut deliveries = mail.receive(&self.node).await?;
        while let Some(Delivery { sequence, stored_at, message, settle }) = deliveries.next().await {
            match read(sequence, stored_at, &message) {
                Ok(letter) => self.hand_over(letter, settle),
                Err(error) => {
                    metrics::counter!("amphi_messages_malformed_total").increment(1);
                    tracing::error!(sequence, subject = %message.subject, bytes = message.body.len(), %error, "no agent message; it is dropped");
                    let _gone = settle.send(Settled::Refused);
                }
            }
        }
        Ok(())
    }

    /// The agents get it at once, in order; who waits until they have it is a task of its own.
    fn hand_over(&self, letter: KeptMessage, settle: oneshot::Sender<Settled>) {
        let id = letter.received.id.clone();
        if self.taken().ids.contains(&id) {
            let _gone = settle.send(Settled::Taken);
            return;
        }
        let role = match &letter.received.message.to {
            Recipient::Broadcast => None,
            Recipient::Role(role) => Some(role.clone()),
        };
        let mut waited_for = Vec::new();
        for (agent, entry) in self.registry.of_role(role.as_ref()) {
            let (taken, has_it) = oneshot::channel();
            if entry.send(SpecialistMessage::Told { letter: letter.clone(), taken }) {
                waited_for.push((agent, has_it));
            } else {
                // Its successor has it.
                self.inboxes.put(&agent, letter.clone());
            }
        }
        let room = self.clone();
        tokio::spawn(async move {
            let deadline = tokio::time::Instant::now() + TAKEN_WITHIN;
            let mut late = 0;
            for (agent, has_it) in waited_for {
                match tokio::time::timeout_at(deadline, has_it).await {
                    Ok(Ok(())) => {}
                    // It died with the message in its mailbox.
                    Ok(Err(_)) => room.inboxes.put(&agent, letter.clone()),
                    Err(_) => late += 1,
                }
            }
            let settled = if late == 0 { Settled::Taken } else { Settled::Later(AGAIN_AFTER) };
            if late == 0 {
                room.taken().insert(id);
            } else {
                tracing::warn!(message = %id, agents = late, "agents did not take a message; it comes again");
            }
            let _gone = settle.send(settled);
        });
    }

    fn taken(&self) -> std::sync::MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers live requests for all roles that have agents here, also those that come later.
    pub async fn answer(&self, mail: &dyn AgentMail, bus: Arc<dyn MessageBus>) {
        let mut roles = BTreeSet::new();
        let mut asked = SelectAll::new();
        let mut look = tokio::time::interval(ROLES_PERIOD);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = look.tick() => {
                    for role in self.registry.roles().difference(&roles.clone()) {
                        match mail.asked(role).await {
                            Ok(stream) => {
                                let of = role.clone();
                                asked.push(stream.map(move |message| (of.clone(), message)).boxed());
                                roles.insert(role.clone());
                            }
                            Err(error) => tracing::debug!(%role, %error, "requests to a role are taken later"),
                        }
                    }
                }
                Some((role, message)) = asked.next() => {
                    let (room, bus) = (self.clone(), bus.clone());
                    tokio::spawn(async move { room.answer_one(&role, message, &*bus).await });
                }
            }
        }
    }

    /// Tells people what an agent of this node was told: the request's body is the agent's id, the answer `{"messages":[…]}`.
    pub async fn show(&self, bus: &dyn MessageBus) {
        let mut asked = match bus.subscribe(subjects::node_inbox(&self.node)).await {
            Ok(asked) => asked,
            Err(error) => return tracing::debug!(%error, "inboxes are shown later"),
        };
        while let Some(message) = asked.next().await {
            let Some(reply) = message.reply else { continue };
            let agent = std::str::from_utf8(&message.body).ok().and_then(|text| AgentId::parse(text).ok());
            let messages: Vec<_> = agent.map(|agent| self.inboxes.of(&agent)).unwrap_or_default();
            let messages: Vec<&ReceivedMessage> = messages.iter().map(|received| &**received).collect();
            let body = serde_json::json!({ "messages": messages }).to_string();
            // Who gets no answer asks again.
            let _lost = bus.publish(reply, BTreeMap::new(), body.into()).await;
        }
    }

    async fn answer_one(&self, role: &RoleName, message: BusMessage, bus: &dyn MessageBus) {
        let codec = message.headers.get(subjects::CODEC_HEADER).map(String::as_str);
        let question = match AgentMessage::read(codec, &message.body) {
            Ok(question) => question,
            Err(error) => {
                metrics::counter!("amphi_messages_malformed_total").increment(1);
                tracing::error!(subject = %message.subject, bytes = message.body.len(), %error, "no agent message; it gets no answer");
                return;
            }
        };
        let Some(reply_to) = message.reply else { return };
        let id = format!("live-{}", uuid::Uuid::now_v7().simple());
        let received = ReceivedMessage { id, at: self.clock.now().to_rfc3339(), live: true, message: question, about: None };
        let letter = KeptMessage { bytes: message.body.len(), received: Arc::new(received) };
        let agents = self.registry.of_role(Some(role));
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        // One after the other until one answers: the first may be dead or hang.
        for offset in 0..agents.len() {
            let (_, entry) = &agents[(first + offset) % agents.len()];
            let (reply, answer) = oneshot::channel();
            if !entry.send(SpecialistMessage::Asked { letter: letter.clone(), reply }) {
                continue;
            }
            if let Ok(Ok(answer)) = tokio::time::timeout(ANSWERED_WITHIN, answer).await {
                let headers = BTreeMap::from([(subjects::CODEC_HEADER.to_owned(), codec::BINCODE.to_owned())]);
                // Who gets no answer asks again.
                let _lost = bus.publish(reply_to, headers, Bytes::from(answer.to_bincode())).await;
                return;
            }
        }
    }
}

impl Taken {
    fn insert(&mut self, id: String) {
        if self.ids.insert(id.clone()) {
            self.order.push_back(id);
            if self.order.len() > IDS_MAX
                && let Some(oldest) = self.order.pop_front()
            {
                self.ids.remove(&oldest);
            }
        }
    }
}

fn read(sequence: u64, stored_at: Timestamp, message: &BusMessage) -> Result<KeptMessage, Malformed> {
    let codec = message.headers.get(subjects::CODEC_HEADER).map(String::as_str);
    let said = AgentMessage::read(codec, &message.body)?;
    let to: RoleName = said.to.clone().into();
    if subjects::messages_to(&to) != message.subject {
        return Err(Malformed::OtherRecipient { says: to, subject: message.subject.chars().take(256).collect() });
    }
    let id = message.headers.get(subjects::MESSAGE_ID_HEADER).map(|id| id.chars().take(512).collect());
    let received = ReceivedMessage {
        id: id.unwrap_or_else(|| format!("stored-{sequence}")),
        at: stored_at.to_rfc3339(),
        live: false,
        about: About::of(&message.headers),
        message: said,
    };
    Ok(KeptMessage { bytes: message.body.len(), received: Arc::new(received) })
}
