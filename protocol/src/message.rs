//! Messages between agents: one type, in JSON for everybody and in bincode between nodes.
//!
//! In bincode the payload is JSON text, because bincode cannot carry what has no fixed shape. Both forms hold the same message.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::codec::{self, CodecError};
use crate::ids::{EpicId, RoleName};
use crate::subjects;

/// Largest message, encoded. A larger one is refused at every door.
pub const MESSAGE_BYTES_MAX: usize = 256 * 1024;

/// What one agent says to a role or to all.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AgentMessage {
    /// The role that speaks.
    pub from: RoleName,
    /// To whom.
    pub to: Recipient,
    /// What kind of message it is.
    #[serde(rename = "type")]
    pub kind: MessageType,
    /// The rest, as the sender means it.
    pub payload: Value,
    /// The task outside that it is about, for instance `ved-9d0`.
    #[serde(rename = "beadsTaskId", default, skip_serializing_if = "Option::is_none")]
    pub beads_task_id: Option<String>,
}

/// To whom a message goes; as text a role, or `broadcast`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "RoleName", into = "RoleName")]
pub enum Recipient {
    /// All roles.
    Broadcast,
    /// One role.
    Role(RoleName),
}

/// The word for all roles.
const BROADCAST: &str = "broadcast";

impl From<RoleName> for Recipient {
    fn from(role: RoleName) -> Self {
        if role.as_str() == BROADCAST { Self::Broadcast } else { Self::Role(role) }
    }
}

impl From<Recipient> for RoleName {
    fn from(recipient: Recipient) -> Self {
        match recipient {
            Recipient::Broadcast => Self::parse(BROADCAST).expect("it has the shape of a role"),
            Recipient::Role(role) => role,
        }
    }
}

/// The kinds of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MessageType {
    /// A task is done.
    TaskComplete,
    /// Something went wrong.
    Error,
    /// The sender cannot go on alone.
    RequestHelp,
    /// How things are.
    StatusUpdate,
    /// Everybody must know now.
    Emergency,
}

impl MessageType {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::TaskComplete, Self::Error, Self::RequestHelp, Self::StatusUpdate, Self::Emergency];
}

/// A message on its way to the stream: what is said, and what tells it from others.
#[derive(Debug, Clone, PartialEq)]
pub struct Letter {
    /// The same for the same message sent again; unique otherwise. At most 512 characters without spaces.
    pub id: String,
    /// The attempt that it comes from; travels in headers, beside the message.
    pub about: Option<About>,
    /// What is said.
    pub message: AgentMessage,
}

/// The attempt that a message comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// The epic.
    pub epic: EpicId,
    /// `t` or `t[i]`.
    pub task: String,
    /// Its run.
    pub run: u32,
    /// Its attempt.
    pub attempt: u32,
}

impl Letter {
    /// The headers that it is published with: its id, and what it is about.
    pub fn headers(&self) -> BTreeMap<String, String> {
        let mut headers = BTreeMap::from([(subjects::MESSAGE_ID_HEADER.to_owned(), self.id.clone())]);
        if let Some(About { epic, task, run, attempt }) = &self.about {
            headers.insert(subjects::EPIC_HEADER.to_owned(), epic.to_string());
            headers.insert(subjects::TASK_HEADER.to_owned(), task.clone());
            headers.insert(subjects::RUN_HEADER.to_owned(), run.to_string());
            headers.insert(subjects::ATTEMPT_HEADER.to_owned(), attempt.to_string());
        }
        headers
    }
}

impl About {
    /// What the headers of a stored message say; `None` if they do not say it all.
    pub fn of(headers: &BTreeMap<String, String>) -> Option<Self> {
        let number = |name: &str| headers.get(name)?.parse().ok();
        Some(Self {
            epic: EpicId::parse(headers.get(subjects::EPIC_HEADER)?).ok()?,
            task: headers.get(subjects::TASK_HEADER)?.chars().take(1024).collect(),
            run: number(subjects::RUN_HEADER)?,
            attempt: number(subjects::ATTEMPT_HEADER)?,
        })
    }
}

/// A message as an agent has it, for people.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReceivedMessage {
    /// Its id.
    pub id: String,
    /// When it was stored, or asked; RFC 3339.
    pub at: String,
    /// It was a live request, which was answered.
    pub live: bool,
    /// What was said.
    #[serde(flatten)]
    pub message: AgentMessage,
    /// The attempt that it comes from, if a task sent it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<About>,
}

/// The reference of a task without its tracker (`bd:ved-9d0` is `ved-9d0`).
pub fn tracker_id(reference: &str) -> &str {
    reference.split_once(':').map_or(reference, |(_, id)| id)
}

/// Why bytes are no message.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// Too long.
    #[error("the agent message has {0} bytes, at most {MESSAGE_BYTES_MAX} are read")]
    TooLarge(usize),
    /// The header names a codec that nobody here knows.
    #[error("the agent message has the unknown codec `{0}`")]
    UnknownCodec(String),
    /// The JSON, or the JSON inside, does not have the shape of a message.
    #[error("the agent message has the wrong shape")]
    Json(#[from] serde_json::Error),
    /// The envelope or the binary form is not ours.
    #[error("the agent message cannot be decoded")]
    Codec(#[from] CodecError),
}

/// The binary form: bincode knows neither optional fields nor open values.
#[derive(Serialize, Deserialize)]
struct Wire {
    from: RoleName,
    to: RoleName,
    kind: MessageType,
    payload_json: String,
    beads_task_id: Option<String>,
}

impl AgentMessage {
    /// As JSON.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a message has only string keys and finite numbers")
    }

    /// From JSON.
    ///
    /// # Errors
    /// The bytes are no message.
    pub fn from_json(bytes: &[u8]) -> Result<Self, MessageError> {
        Ok(serde_json::from_slice(bytes)?)
    }

    /// From either form, as the codec header says; without one it is JSON.
    ///
    /// # Errors
    /// The bytes are no message, or too many.
    pub fn read(codec: Option<&str>, bytes: &[u8]) -> Result<Self, MessageError> {
        if bytes.len() > MESSAGE_BYTES_MAX {
            return Err(MessageError::TooLarge(bytes.len()));
        }
        match codec {
            None => Self::from_json(bytes),
            Some(codec::BINCODE) => Self::from_bincode(bytes),
            Some(other) => Err(MessageError::UnknownCodec(other.chars().take(64).collect())),
        }
    }

    /// As bincode behind the envelope of [`crate::codec`]; it travels with the header [`codec::BINCODE`].
    pub fn to_bincode(&self) -> Vec<u8> {
        codec::encode(&Wire {
            from: self.from.clone(),
            to: self.to.clone().into(),
            kind: self.kind,
            payload_json: self.payload.to_string(),
            beads_task_id: self.beads_task_id.clone(),
        })
    }

    /// From bincode.
    ///
    /// # Errors
    /// The bytes are no message of this protocol.
    pub fn from_bincode(bytes: &[u8]) -> Result<Self, MessageError> {
        let wire: Wire = codec::decode(bytes)?;
        Ok(Self {
            from: wire.from,
            to: wire.to.into(),
            kind: wire.kind,
            payload: serde_json::from_str(&wire.payload_json)?,
            beads_task_id: wire.beads_task_id,
        })
    }
}
