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
use amphi_protocol::node::Heartbeat;
use amphi_protocol::{codec, subjects};
use bytes::Bytes;
use futures::StreamExt as _;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::Semaphore;

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
        Input::Lead { .. } | Input::LoseNode { .. } | Input::Silent { .. } | Input::Tick | Input::Submit(_) => false,
        Input::CancelEpic { .. }
        | Input::CancelTask { .. }
        | Input::RetryTask { .. }
        | Input::ResolveIncident { .. }
        | Input::Join(_)
        | Input::Agent(_)
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

/// Hands heartbeats on to the Manager.
pub async fn serve_heartbeats(bus: Arc<dyn MessageBus>, shard: ShardId, manager: ManagerHandle) {
    loop {
        match bus.subscribe(subjects::heartbeats(shard)).await {
            Ok(mut messages) => {
                while let Some(message) = messages.next().await {
                    match codec::decode::<Heartbeat>(&message.body) {
                        // Without a Manager nobody needs it.
                        Ok(heartbeat) => drop(manager.cast(ManagerMessage::Heartbeat(heartbeat))),
                        Err(error) => tracing::warn!(%error, "a heartbeat cannot be read"),
                    }
                }
            }
            Err(error) => tracing::debug!(%error, "heartbeats are subscribed later"),
        }
        tokio::time::sleep(RESUBSCRIBE_AFTER).await;
    }
}
