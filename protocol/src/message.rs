//! Messages between agents: one type, in JSON for everybody and in bincode between nodes.
//!
//! In bincode the payload is JSON text, because bincode cannot carry what has no fixed shape. Both forms hold the same message.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::codec::{self, CodecError};
use crate::ids::RoleName;

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

/// Why bytes are no message.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
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
