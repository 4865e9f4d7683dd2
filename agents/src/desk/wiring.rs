//! The desk on the bus: commands come in, heartbeats go out. Two small tasks that translate; they decide nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use amphi_ports::{BusError, BusMessage, MessageBus};
use amphi_protocol::codec;
use amphi_protocol::ids::{NodeId, ShardId};
use amphi_protocol::node::{Heartbeat, NodeAnswer, NodeCommand};
use amphi_protocol::subjects;
use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::mpsc;

use super::DeskHandle;

/// Takes the commands for `node` from the bus, in order, and answers them. Ends with the desk or the subscription; an error means that
/// the subscription could not be made.
pub async fn serve_commands(bus: Arc<dyn MessageBus>, node: NodeId, desk: DeskHandle) -> Result<(), BusError> {
    let mut commands = bus.subscribe(subjects::node_commands(&node)).await?;
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

/// Publishes heartbeats as they come. While the connection is down they are dropped: old ones help nobody.
pub(super) async fn publish_heartbeats(bus: Arc<dyn MessageBus>, shard: ShardId, mut heartbeats: mpsc::Receiver<Heartbeat>) {
    while let Some(heartbeat) = heartbeats.recv().await {
        if !bus.is_connected() {
            continue;
        }
        if let Err(error) = bus.publish(subjects::heartbeats(shard), headers(), Bytes::from(codec::encode(&heartbeat))).await {
            tracing::debug!(%error, "a heartbeat is lost");
        }
    }
}

fn headers() -> BTreeMap<String, String> {
    BTreeMap::from([(subjects::CODEC_HEADER.to_owned(), codec::BINCODE.to_owned())])
}
