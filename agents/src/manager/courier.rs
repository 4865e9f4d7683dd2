//! Orders to nodes: one owned task per node, so that a slow node delays nobody else. Lost orders are not kept here: the Manager
//! reminds nodes from the state.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use amphi_ports::{BusError, MessageBus};
use amphi_protocol::ids::{Epoch, Incarnation, NodeId, ShardId};
use amphi_protocol::node::{NodeAnswer, NodeCommand, Order};
use amphi_protocol::{codec, subjects};
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

/// Orders that may wait for one node; more are dropped, and the reminders bring them again.
const ORDERS_WAITING_MAX: usize = 4096;
/// Orders of one command.
const ORDERS_PER_COMMAND: usize = 64;
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

type Letter = (Epoch, Incarnation, Order);

/// The couriers of one Manager.
pub(super) struct Couriers {
    bus: Arc<dyn MessageBus>,
    shard: ShardId,
    nodes: BTreeMap<NodeId, (mpsc::Sender<Letter>, AbortOnDropHandle<()>)>,
}

impl Couriers {
    pub fn new(bus: Arc<dyn MessageBus>, shard: ShardId) -> Self {
        Self { bus, shard, nodes: BTreeMap::new() }
    }

    /// Sends an order on its way.
    pub fn send(&mut self, epoch: Epoch, (node, incarnation): (NodeId, Incarnation), order: Order) {
        let (bus, shard) = (&self.bus, self.shard);
        let (letters, _) = self.nodes.entry(node.clone()).or_insert_with(|| {
            let (sender, receiver) = mpsc::channel(ORDERS_WAITING_MAX);
            (sender, AbortOnDropHandle::new(tokio::spawn(deliver(bus.clone(), (node, shard), receiver))))
        });
        if letters.try_send((epoch, incarnation, order)).is_err() {
            metrics::counter!("amphi_orders_dropped_total").increment(1);
        }
    }
}

async fn deliver(bus: Arc<dyn MessageBus>, (node, shard): (NodeId, ShardId), mut letters: mpsc::Receiver<Letter>) {
    let headers: BTreeMap<String, String> = [(subjects::CODEC_HEADER.to_owned(), codec::BINCODE.to_owned())].into();
    let mut next: Option<Letter> = None;
    loop {
        let Some((epoch, incarnation, first)) = (match next.take() {
            Some(letter) => Some(letter),
            None => letters.recv().await,
        }) else {
            return;
        };
        let mut orders = vec![first];
        while orders.len() < ORDERS_PER_COMMAND {
            match letters.try_recv() {
                Ok((later, same, order)) if later == epoch && same == incarnation => orders.push(order),
                Ok(other) => {
                    next = Some(other);
                    break;
                }
                Err(_) => break,
            }
        }
        let command = NodeCommand { epoch, node: node.clone(), incarnation, orders };
        let body = Bytes::from(codec::encode(&command));
        match bus.request(subjects::node_commands(&node, shard), headers.clone(), body, ANSWER_WITHIN).await {
            Ok(answer) => match codec::decode::<NodeAnswer>(&answer.body) {
                Ok(NodeAnswer::Confirmed) => {}
                // The new life joins by itself; what was meant for the old one is void.
                Ok(NodeAnswer::OtherIncarnation { .. } | NodeAnswer::OldEpoch { .. }) => {
                    metrics::counter!("amphi_orders_refused_total").increment(1)
                }
                Err(error) => tracing::warn!(%node, %error, "a node's answer cannot be read"),
            },
            Err(BusError::NoResponders { .. } | BusError::Timeout { .. } | BusError::Failed { .. }) => {
                metrics::counter!("amphi_orders_unanswered_total").increment(1);
            }
        }
    }
}
