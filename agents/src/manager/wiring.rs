//! What comes in over the bus for the leader: inputs from nodes (JSON, because they hold open-ended values) and heartbeats.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use amphi_coordination::Refusal;
use amphi_coordination::seat::Answer;
use amphi_ports::{BusMessage, MessageBus};
use amphi_protocol::api::{ApiError, ErrorBody, ErrorCode};
use amphi_protocol::ids::ShardId;
use amphi_protocol::journal::Input;
use amphi_protocol::node::{Heartbeat, NodeDeath};
use amphi_protocol::{codec, subjects};
use bytes::Bytes;
use futures::StreamExt as _;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::{Semaphore, oneshot};

use crate::manager::{ManagerHandle, ManagerMessage};

/// Requests that are answered at once; the rest waits in the subscription.
const REQUESTS_AT_ONCE: usize = 256;
const RESUBSCRIBE_AFTER: Duration = Duration::from_millis(200);

#[derive(Deserialize)]
struct Request {
    inputs: Vec<Input>,
}

/// Serves the leader's subject while this node leads; nodes elsewhere then get "no responders" at once.
pub async fn serve_inputs(bus: Arc<dyn MessageBus>, shard: ShardId, manager: ManagerHandle) {
    let requests = Arc::new(Semaphore::new(REQUESTS_AT_ONCE));
    loop {
        match bus.subscribe(subjects::leader(shard)).await {
            Ok(mut messages) => {
                while let Some(message) = messages.next().await {
                    let Ok(permit) = requests.clone().acquire_owned().await else { return };
                    let (bus, manager) = (bus.clone(), manager.clone());
                    tokio::spawn(async move {
                        answer(&*bus, &manager, message).await;
                        drop(permit);
                    });
                }
            }
            Err(error) => tracing::debug!(%error, "the leader's subject is subscribed later"),
        }
        tokio::time::sleep(RESUBSCRIBE_AFTER).await;
    }
}

async fn answer(bus: &dyn MessageBus, manager: &ManagerHandle, message: BusMessage) {
    let body = match serde_json::from_slice::<Request>(&message.body) {
        Ok(request) => take(manager, request.inputs).await.unwrap_or_else(|error| json!(ErrorBody { error })),
        Err(error) => json!(ErrorBody { error: ApiError::new(ErrorCode::RequestInvalid, error.to_string()) }),
    };
    if let Some(reply) = message.reply {
        // Whoever gets no answer sends again.
        let _unanswered = bus.publish(reply, BTreeMap::new(), Bytes::from(body.to_string())).await;
    }
}

/// What the Manager tells itself is not for others to say: who leads, that time passes, who is silent or lost. A submission comes
/// through its own gateway only, because its specification does not travel with it.
fn may_come_from_outside(input: &Input) -> bool {
    match input {
        Input::Lead { .. }
        | Input::LoseNode { .. }
        | Input::Silent { .. }
        | Input::Tick
        | Input::Signal { .. }
        | Input::Submit(_)
        | Input::Upkeep(_) => false,
        Input::CancelEpic { .. }
        | Input::PauseEpic { .. }
        | Input::ResumeEpic { .. }
        | Input::RetryEpic { .. }
        | Input::SkipTask { .. }
        | Input::CancelTask { .. }
        | Input::AssignTask { .. }
        | Input::RetryTask { .. }
        | Input::ResolveIncident { .. }
        | Input::Hold { .. }
        | Input::Join(_)
        | Input::Agent(_)
        | Input::Staff(_)
        | Input::Attempt(_) => true,
    }
}

async fn take(manager: &ManagerHandle, inputs: Vec<Input>) -> Result<serde_json::Value, ApiError> {
    if !inputs.iter().all(may_come_from_outside) {
        return Err(ApiError::new(ErrorCode::RequestInvalid, "an input that only the Manager itself may give"));
    }
    let answers = futures::future::join_all(inputs.into_iter().map(|input| manager.take(input))).await;
    let (mut last_epoch, mut last_index) = (0, 0);
    let mut results = Vec::with_capacity(answers.len());
    for answer in answers {
        results.push(match answer? {
            Answer::Committed { index, epoch, .. } => {
                (last_epoch, last_index) = (epoch.0, index.0);
                json!({ "ok": true })
            }
            Answer::Refused(Refusal::Stale(_) | Refusal::Duplicate(_)) => json!({ "refused": "stale" }),
            Answer::Refused(Refusal::Error(error)) => json!({ "refused": error.code }),
            Answer::NotLeading | Answer::Busy => unreachable!("these answers are errors of the handle"),
        });
    }
    if last_epoch == 0 {
        (last_epoch, last_index) = manager.read(|snapshot| (snapshot.state.epoch.0, snapshot.state.index.0)).await?;
    }
    Ok(json!({ "results": results, "epoch": last_epoch, "index": last_index }))
}

/// Hands heartbeats on to the Manager, and its acknowledgements back.
pub async fn serve_heartbeats(bus: Arc<dyn MessageBus>, shard: ShardId, manager: ManagerHandle) {
    loop {
        match bus.subscribe(subjects::heartbeats(shard)).await {
            Ok(mut messages) => {
                while let Some(message) = messages.next().await {
                    match codec::decode::<Heartbeat>(&message.body) {
                        Ok(heartbeat) => hear(&bus, &manager, heartbeat, message.reply),
                        Err(error) => tracing::warn!(%error, "a heartbeat cannot be read"),
                    }
                }
            }
            Err(error) => tracing::debug!(%error, "heartbeats are subscribed later"),
        }
        tokio::time::sleep(RESUBSCRIBE_AFTER).await;
    }
}

/// Without a Manager that leads nobody answers, and the node counts itself unheard.
fn hear(bus: &Arc<dyn MessageBus>, manager: &ManagerHandle, heartbeat: Heartbeat, reply: Option<String>) {
    let (sender, answer) = oneshot::channel();
    let told = manager.cast(ManagerMessage::Heartbeat(heartbeat, reply.is_some().then_some(sender)));
    let (Ok(()), Some(reply)) = (told, reply) else { return };
    let bus = bus.clone();
    // Ends with the Manager's answer, or with the Manager.
    tokio::spawn(async move {
        let Ok(answer) = answer.await else { return };
        let headers = BTreeMap::from([(subjects::CODEC_HEADER.to_owned(), codec::BINCODE.to_owned())]);
        let _lost = bus.publish(reply, headers, Bytes::from(codec::encode(&answer))).await;
    });
}

/// What neighbours say of dead nodes becomes the Manager's own knowledge, if it is about the life that it knows.
pub async fn serve_deaths(bus: Arc<dyn MessageBus>, shard: ShardId, manager: ManagerHandle) {
    loop {
        match bus.subscribe(subjects::node_deaths(shard)).await {
            Ok(mut messages) => {
                while let Some(message) = messages.next().await {
                    match codec::decode::<NodeDeath>(&message.body) {
                        Ok(death) => bury(&bus, &manager, death, message.reply).await,
                        Err(error) => tracing::warn!(%error, "news of a node's death cannot be read"),
                    }
                }
            }
            Err(error) => tracing::debug!(%error, "news of deaths is subscribed later"),
        }
        tokio::time::sleep(RESUBSCRIBE_AFTER).await;
    }
}

/// Answers when the loss is on record, or is none; a neighbour without an answer says it again.
async fn bury(bus: &Arc<dyn MessageBus>, manager: &ManagerHandle, death: NodeDeath, reply: Option<String>) {
    let NodeDeath { node, pid, incarnation, how } = death;
    let asked = node.clone();
    let known = manager.read(move |at| at.state.node(&asked).map(|known| (known.pid, known.incarnation))).await;
    let settled = match known {
        Ok(Some(known)) if known == (pid, incarnation) => {
            let cause = how.chars().take(200).collect();
            manager.take(Input::LoseNode { node, incarnation, cause }).await.is_ok()
        }
        Ok(Some(_) | None) => true,
        Err(_) => false,
    };
    if let Some(reply) = reply.filter(|_| settled) {
        let _lost = bus.publish(reply, BTreeMap::new(), Bytes::new()).await;
    }
}
