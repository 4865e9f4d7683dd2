//! The desk on the bus: commands come in, heartbeats go out. Two small tasks that translate; they decide nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use amphi_ports::{BusError, BusMessage, MessageBus};
use amphi_protocol::codec;
use amphi_protocol::ids::{NodeId, ShardId};
use amphi_protocol::node::{Heartbeat, HeartbeatAnswer, NodeAnswer, NodeCommand};
use amphi_protocol::subjects;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use ractor::ActorRef;
use tokio::sync::mpsc;

use super::{DeskHandle, DeskMessage};

/// A heartbeat that is not acknowledged after so long is given up; the ones after it count more.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Heartbeats without an answer that are waited for at once.
const UNANSWERED_MAX: usize = 64;

/// Takes the commands of `shard` for `node` from the bus, in order, and answers them. Ends with the desk or the subscription; an error means that
/// the subscription could not be made.
pub async fn serve_commands(bus: Arc<dyn MessageBus>, (node, shard): (NodeId, ShardId), desk: DeskHandle) -> Result<(), BusError> {
    let mut commands = bus.subscribe(subjects::node_commands(&node, shard)).await?;
    while let Some(message) = commands.next().await {
        let Some(command) = read_command(&message) else { continue };
        let Some(answer) = desk.command(command).await else { break };
        if let Some(reply) = message.reply {
            answer_to(&*bus, reply, &answer).await;
        }
    }
    Ok(())
}

/// A message that is no command is counted and gets no answer: whoever sent it is no Manager.
fn read_command(message: &BusMessage) -> Option<NodeCommand> {
    let codec_fits = message.headers.get(subjects::CODEC_HEADER).is_none_or(|name| name == codec::BINCODE);
    let command = if codec_fits { codec::decode::<NodeCommand>(&message.body).ok() } else { None };
    if command.is_none() {
        metrics::counter!("amphi_commands_unreadable_total").increment(1);
        tracing::warn!(subject = %message.subject, bytes = message.body.len(), "a message on the node's subject is no command");
    }
    command
}

async fn answer_to(bus: &dyn MessageBus, reply: String, answer: &NodeAnswer) {
    if let Err(error) = bus.publish(reply, headers(), Bytes::from(codec::encode(answer))).await {
        tracing::debug!(%error, "an answer is lost; the command comes again");
    }
}

/// A heartbeat on its way.
pub(super) struct Beat {
    /// When the desk gave it away, by its own clock: not later than the sending.
    pub(super) sent_at: Duration,
    pub(super) heartbeat: Heartbeat,
}

/// Sends heartbeats as they come, and hands their answers to the desk. While the connection is down they are dropped: old ones help
/// nobody. One that is not answered delays no other.
pub(super) async fn send_heartbeats(
    bus: Arc<dyn MessageBus>,
    shard: ShardId,
    mut heartbeats: mpsc::Receiver<Beat>,
    desk: ActorRef<DeskMessage>,
) {
    let mut asked = FuturesUnordered::new();
    loop {
        tokio::select! {
            next = heartbeats.recv(), if asked.len() < UNANSWERED_MAX => match next {
                Some(beat) if bus.is_connected() => asked.push(ask(&*bus, shard, beat)),
                Some(_) => {}
                None => return,
            },
            Some(answered) = asked.next() => {
                if let Some((sent_at, answer)) = answered
                    && desk.cast(DeskMessage::HeartbeatAnswered { sent_at, answer }).is_err()
                {
                    return;
                }
            }
        }
    }
}

async fn ask(bus: &dyn MessageBus, shard: ShardId, Beat { sent_at, heartbeat }: Beat) -> Option<(Duration, HeartbeatAnswer)> {
    let body = Bytes::from(codec::encode(&heartbeat));
    match bus.request(subjects::heartbeat(&heartbeat.node, shard), headers(), body, ANSWER_WITHIN).await {
        Ok(answer) => codec::decode(&answer.body).ok().map(|answer| (sent_at, answer)),
        Err(error) => {
            tracing::debug!(%error, "a heartbeat is not acknowledged");
            None
        }
    }
}

fn headers() -> BTreeMap<String, String> {
    BTreeMap::from([(subjects::CODEC_HEADER.to_owned(), codec::BINCODE.to_owned())])
}
