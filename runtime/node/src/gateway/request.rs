//! A request as it came in, and the fields that verbs take from it. Every refusal says which field and what it should be.

use amphi_ports::BusMessage;
use amphi_protocol::api::{ApiError, ErrorCode};
use amphi_protocol::ids::{EpicId, InvalidId};
use amphi_protocol::subjects;
use async_nats::Message;
use bytes::Bytes;
use serde_json::{Map, Value};

/// Largest body of anything but a document.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// Entries of a page, unless the request says less.
pub const PAGE_DEFAULT: usize = 1000;
/// Entries of a page at most.
pub const PAGE_MAX: usize = 10_000;

/// A request.
#[derive(Debug, Clone)]
pub struct Request {
    /// Its body.
    pub body: Bytes,
    /// The idempotency key in its headers.
    pub message_id: Option<String>,
    /// Who asks. Without accounts everybody is `local`.
    pub by: String,
}

impl Request {
    pub(super) fn new(message: &Message, by: String) -> Self {
        let header = message.headers.as_ref().and_then(|headers| headers.get(subjects::MESSAGE_ID_HEADER));
        Self { message_id: header.map(|value| value.as_str().to_owned()), body: message.payload.clone(), by }
    }

    /// As another node's gateway passes it on; only nodes speak on that subject.
    pub(super) fn passed_on(message: &BusMessage) -> Self {
        let header = |name: &str| message.headers.get(name).cloned();
        let by = header(subjects::BY_HEADER).unwrap_or_default();
        Self { message_id: header(subjects::MESSAGE_ID_HEADER), body: message.body.clone(), by }
    }

    /// The body as a JSON object; an empty body is an empty object.
    pub fn fields(&self) -> Result<Fields, ApiError> {
        if self.body.len() > BODY_BYTES_MAX {
            let message = format!("the body has {} bytes, at most {BODY_BYTES_MAX} are read", self.body.len());
            return Err(ApiError::new(ErrorCode::RequestTooLarge, message));
        }
        if self.body.iter().all(u8::is_ascii_whitespace) {
            return Ok(Fields(Map::new()));
        }
        match serde_json::from_slice(&self.body) {
            Ok(Value::Object(fields)) => Ok(Fields(fields)),
            Ok(_) => Err(invalid("the body is no JSON object").hint("send for instance {\"epic\": \"…\"}")),
            Err(error) => Err(invalid(format!("the body is no JSON: {error}")).hint("send for instance {\"epic\": \"…\"}")),
        }
    }
}

/// The fields of a body.
pub struct Fields(Map<String, Value>);

impl Fields {
    /// The required epic.
    pub fn epic(&self) -> Result<EpicId, ApiError> {
        EpicId::parse(self.text("epic")?).map_err(bad_id)
    }

    /// The epic, if one is named.
    pub fn epic_if_any(&self) -> Result<Option<EpicId>, ApiError> {
        self.text_if_any("epic")?.map(|epic| EpicId::parse(epic).map_err(bad_id)).transpose()
    }

    /// The required task: `t` or `t[i]`.
    pub fn task(&self) -> Result<&str, ApiError> {
        let task = self.text("task")?;
        if task.len() > 1024 || task.chars().any(char::is_control) {
            return Err(invalid("`task` is no task: expected t or t[i]"));
        }
        Ok(task)
    }

    /// A required text.
    pub fn text(&self, key: &str) -> Result<&str, ApiError> {
        self.text_if_any(key)?.ok_or_else(|| invalid(format!("the body has no `{key}`")))
    }

    /// A text.
    pub fn text_if_any(&self, key: &str) -> Result<Option<&str>, ApiError> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(invalid(format!("`{key}` is no text"))),
        }
    }

    /// A whole number, not negative.
    pub fn number_if_any(&self, key: &str) -> Result<Option<u64>, ApiError> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => value.as_u64().map(Some).ok_or_else(|| invalid(format!("`{key}` is no whole number from 0"))),
        }
    }

    /// How many entries a page may have.
    pub fn limit(&self) -> Result<usize, ApiError> {
        let limit = self.number_if_any("limit")?.map_or(PAGE_DEFAULT, |limit| usize::try_from(limit).unwrap_or(PAGE_MAX));
        if limit == 0 { Err(invalid("`limit` is 0: no page would ever end")) } else { Ok(limit.min(PAGE_MAX)) }
    }

    /// A flag, false unless given.
    pub fn flag(&self, key: &str) -> Result<bool, ApiError> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(false),
            Some(value) => value.as_bool().ok_or_else(|| invalid(format!("`{key}` is neither true nor false"))),
        }
    }
}

/// `request.invalid`.
pub fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::RequestInvalid, message)
}

/// `request.invalid` for a text that is no id.
pub fn bad_id(error: InvalidId) -> ApiError {
    invalid(error.to_string())
}
