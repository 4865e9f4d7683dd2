//! What comes in over the bus for the leader: inputs from nodes (JSON, because they hold open-ended values) and heartbeats.
//!
//! Who speaks is what the subject says, because the server lets a node speak on its own subjects only. Never believes a body that names
//! another node (law S15).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use amphi_coordination::Refusal;
use amphi_coordination::seat::Answer;
use amphi_ports::{BusMessage, MessageBus};
use amphi_protocol::api::{ApiError, ErrorBody, ErrorCode};
use amphi_protocol::ids::{NodeId, ShardId};
use amphi_protocol::journal::Input;
use amphi_protocol::node::{Heartbeat, NodeDeath};
use amphi_protocol::{codec, subjects};
use bytes::Bytes;
use futures::StreamExt as _;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::{Semaphore, oneshot};

use crate::manager::{Leadership, ManagerHandle, ManagerMessage};

/// Requests that are answered at once; the rest waits in the subscription.
const REQUESTS_AT_ONCE: usize = 256;
const RESUBSCRIBE_AFTER: Duration = Duration::from_millis(200);

#[derive(Deserialize)]
struct Request {
    inputs: Vec<Input>,
}

/// Serves the leader's subject while this node leads, and only then: nodes elsewhere get "no responders" at once, and whoever was deposed
/// takes nothing more in.
pub async fn serve_inputs(bus: Arc<dyn MessageBus>, shard: ShardId, manager: ManagerHandle) {
    let requests = Arc::new(Semaphore::new(REQUESTS_AT_ONCE));
    while_leading(&manager, || {
        let (bus, manager, requests) = (bus.clone(), manager.clone(), requests.clone());
        async move {
            let mut messages = match bus.subscribe(subjects::leader(shard)).await {
                Ok(messages) => messages,
                Err(error) => return tracing::debug!(%error, "the leader's subject is subscribed later"),
            };
            while let Some(message) = messages.next().await {
                let Ok(permit) = requests.clone().acquire_owned().await else { return };
                let (bus, manager) = (bus.clone(), manager.clone());
                tokio::spawn(async move {
                    answer(&*bus, &manager, message).await;
                    drop(permit);
                });
            }
        }
    })
    .await;
}

/// Does `work` whenever this node leads, again if it ends, and drops it when the node leads no more.
pub async fn while_leading<F: Future<Output = ()>>(manager: &ManagerHandle, work: impl Fn() -> F) {
    let leads = |leadership: &Leadership| matches!(leadership, Leadership::Leads(_));
    let mut leadership = manager.leadership();
    loop {
        // The handle outlives everybody who waits on it.
        if leadership.wait_for(leads).await.is_err() {
            return;
        }
        let over = async { leadership.wait_for(|now| !leads(now)).await.is_err() };
        tokio::select! {
            _ = over => {}
            () = work() => tokio::time::sleep(RESUBSCRIBE_AFTER).await,
        }
    }
}

async fn answer(bus: &dyn MessageBus, manager: &ManagerHandle, message: BusMessage) {
    let body = match serde_json::from_slice::<Request>(&message.body) {
        Ok(request) => match subjects::sender(&message.subject) {
            Some(sender) => take(manager, &sender, request.inputs).await,
            None => Err(ApiError::new(ErrorCode::RequestInvalid, "the subject names no node")),
        }
        .unwrap_or_else(|error| json!(ErrorBody { error })),
        Err(error) => json!(ErrorBody { error: ApiError::new(ErrorCode::RequestInvalid, error.to_string()) }),
    };
    if let Some(reply) = message.reply {
        // Whoever gets no answer sends again.
        let _unanswered = bus.publish(reply, BTreeMap::new(), Bytes::from(body.to_string())).await;
    }
}

/// The node that alone may say this. Nobody: what the Manager tells itself (who leads, that time passes, who is silent or lost), and what
/// people ask for, which comes through a gateway, where they are known.
fn speaker(input: &Input) -> Option<&NodeId> {
    match input {
        Input::Join(join) => Some(&join.node),
        Input::Agent(report) => Some(&report.node),
        Input::Staff(report) => Some(&report.node),
        Input::Attempt(report) => Some(&report.node),
        Input::Lead { .. }
        | Input::LoseNode { .. }
        | Input::Silent { .. }
        | Input::Tick
        | Input::Signal { .. }
        | Input::Submit(_)
        | Input::Upkeep(_)
        | Input::CancelEpic { .. }
        | Input::PauseEpic { .. }
        | Input::ResumeEpic { .. }
        | Input::RetryEpic { .. }
        | Input::SkipTask { .. }
        | Input::CancelTask { .. }
        | Input::AssignTask { .. }
        | Input::RetryTask { .. }
        | Input::AckIncident { .. }
        | Input::ResolveIncident { .. }
        | Input::Hold { .. }
        | Input::AcquireLock { .. }
        | Input::RenewLock { .. }
        | Input::ReleaseLock { .. } => None,
    }
}

async fn take(manager: &ManagerHandle, sender: &NodeId, inputs: Vec<Input>) -> Result<serde_json::Value, ApiError> {
    for input in &inputs {
        match speaker(input) {
            Some(node) if node == sender => {}
            Some(node) => return Err(foreign(sender, node, "an input")),
            None => return Err(ApiError::new(ErrorCode::RequestInvalid, "an input that no node may give")),
        }
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

/// Somebody speaks as another node: refused, counted, and said once to whoever reads the log.
fn foreign(sender: &NodeId, named: &NodeId, what: &str) -> ApiError {
    metrics::counter!("amphi_foreign_senders_total").increment(1);
    tracing::warn!(%sender, %named, "{what} names another node than its sender; it is refused");
    ApiError::new(ErrorCode::PolicyDenied, format!("{what} of {named} came from {sender}"))
}

/// True if the message comes from the node that it is about.
fn is_own(message: &BusMessage, node: &NodeId, what: &str) -> bool {
    let sender = subjects::sender(&message.subject);
    if let Some(sender) = sender.as_ref().filter(|sender| *sender != node) {
        let _refused = foreign(sender, node, what);
    }
    sender.as_ref() == Some(node)
}

/// Hands heartbeats on to the Manager, and its acknowledgements back.
pub async fn serve_heartbeats(bus: Arc<dyn MessageBus>, shard: ShardId, manager: ManagerHandle) {
    loop {
        match bus.subscribe(subjects::heartbeats(shard)).await {
            Ok(mut messages) => {
                while let Some(message) = messages.next().await {
                    match codec::decode::<Heartbeat>(&message.body) {
                        Ok(heartbeat) if !is_own(&message, &heartbeat.node, "a heartbeat") => {}
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
                        Ok(death) if !is_own(&message, &death.node, "a death") => {}
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
