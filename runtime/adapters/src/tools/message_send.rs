//! `message.send {to, type, payload, beadsTaskId}`: says something to a role or to all, in the name of the agent that runs the task.
//!
//! The message is stored before the tool ends, once per run however often it is tried. `request_help` to a role is asked live as well:
//! one agent of the role answers, and its answer is the output.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use amphi_ports::{AgentMail, BusError, JobOrder};
use amphi_protocol::ids::RoleName;
use amphi_protocol::message::{About, AgentMessage, Letter, MESSAGE_BYTES_MAX, MessageType, Recipient, tracker_id};
use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::Value;

use super::arguments::Kind;
use super::{Arguments, Context, Parameter, Tool, ToolError};

/// How long one agent of the role has to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// The stream is asked so often; a server that is being restarted is back before.
const SENDS_MAX: u32 = 20;
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// In whose name messages go out.
pub(super) struct Voice {
    mail: Arc<dyn AgentMail>,
    from: RoleName,
    about: About,
    /// The same over the attempts of a run.
    key: String,
    reference: Option<String>,
}

impl Voice {
    pub fn new(mail: Arc<dyn AgentMail>, order: &JobOrder) -> Self {
        let about =
            About { epic: order.attempt.epic.clone(), task: order.task.clone(), run: order.attempt.run, attempt: order.attempt.attempt };
        let (key, reference) = (order.job.idempotency_key.clone(), order.job.reference.clone());
        Self { mail, from: order.role.clone(), about, key, reference }
    }
}

pub(super) struct MessageSend;

impl Tool for MessageSend {
    fn name(&self) -> &'static str {
        "message.send"
    }

    fn parameters(&self) -> &'static [Parameter] {
        &[
            Parameter { name: "to", kind: Kind::Text, is_required: true },
            Parameter { name: "type", kind: Kind::Text, is_required: true },
            Parameter { name: "payload", kind: Kind::Anything, is_required: false },
            Parameter { name: "beadsTaskId", kind: Kind::Text, is_required: false },
        ]
    }

    fn check(&self, arguments: &Arguments) -> Result<(), String> {
        if let Some(to) = arguments.text("to") {
            RoleName::parse(to).map_err(|error| format!("the argument `to` is neither a role nor `broadcast`: {error}"))?;
        }
        arguments.text("type").map_or(Ok(()), |kind| kind_of(kind).map(|_| ()))
    }

    fn run<'a>(&'a self, context: &'a Context, arguments: Arguments) -> BoxFuture<'a, Result<BTreeMap<String, String>, ToolError>> {
        async move {
            let Some(voice) = &context.voice else { return Err(ToolError::failed("messages cannot be sent here")) };
            let letter = letter(voice, &arguments)?;
            let stored = store(context, voice, &letter).await?;
            let mut outputs = BTreeMap::from([("message".to_owned(), letter.id.clone()), ("sequence".to_owned(), stored.to_string())]);
            if let (MessageType::RequestHelp, Recipient::Role(role)) = (letter.message.kind, &letter.message.to) {
                let answer = voice.mail.ask(role, &letter.message, ANSWER_WITHIN).await.map_err(|error| unanswered(role, &error))?;
                let by = answer.payload.get("agent").and_then(Value::as_str).unwrap_or(answer.from.as_str());
                outputs.insert("answered_by".to_owned(), by.to_owned());
                outputs.insert("answer".to_owned(), answer.payload.to_string());
            }
            Ok(outputs)
        }
        .boxed()
    }
}

fn kind_of(text: &str) -> Result<MessageType, String> {
    serde_json::from_value(Value::from(text)).map_err(|_| {
        let known = MessageType::ALL.map(|kind| serde_json::to_value(kind).unwrap_or_default().as_str().unwrap_or_default().to_owned());
        format!("the argument `type` must be one of {}", known.join(", "))
    })
}

fn letter(voice: &Voice, arguments: &Arguments) -> Result<Letter, ToolError> {
    let to = RoleName::parse(arguments.text("to").unwrap_or_default()).map_err(|error| ToolError::failed(error.to_string()))?;
    let given = arguments.text("beadsTaskId").map(str::to_owned);
    let message = AgentMessage {
        from: voice.from.clone(),
        to: Recipient::from(to.clone()),
        kind: kind_of(arguments.text("type").unwrap_or_default()).map_err(ToolError::failed)?,
        payload: arguments.value("payload").cloned().unwrap_or(Value::Null),
        beads_task_id: given.or_else(|| voice.reference.as_deref().map(|reference| tracker_id(reference).to_owned())),
    };
    let bytes = message.to_json().len();
    if bytes > MESSAGE_BYTES_MAX {
        return Err(ToolError::failed(format!("the message has {bytes} bytes, at most {MESSAGE_BYTES_MAX} are taken")));
    }
    Ok(Letter { id: format!("{}/send/{to}", voice.key), about: Some(voice.about.clone()), message })
}

async fn store(context: &Context, voice: &Voice, letter: &Letter) -> Result<u64, ToolError> {
    let mut tries = 0;
    loop {
        match voice.mail.send(letter).await {
            Ok(posted) => return Ok(posted.sequence),
            Err(error) if tries >= SENDS_MAX => return Err(ToolError::failed(error.to_string())),
            Err(_) => {
                tries += 1;
                context.is_active();
                tokio::time::sleep(AGAIN_AFTER).await;
            }
        }
    }
}

fn unanswered(role: &RoleName, error: &BusError) -> ToolError {
    match error {
        BusError::NoResponders { .. } => ToolError::failed(format!("no agent of role {role} is there to answer")),
        BusError::Timeout { .. } => ToolError::failed(format!("no agent of role {role} answered within {} s", ANSWER_WITHIN.as_secs())),
        BusError::Failed { .. } => ToolError::failed(error.to_string()),
    }
}
