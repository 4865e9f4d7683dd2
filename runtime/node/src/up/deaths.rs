//! What `up` does when one of its node processes dies: it proves that nothing of the node lives any more, and says so to the Manager,
//! which then needs not wait for the node's silence.
//!
//! `up` has seen the process end; what the node started hangs on guards, which are looked for here. Without that proof nothing is said.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use amphi_adapters::nats::managed::DataLock;
use amphi_adapters::nats::{NatsBus, connect_node};
use amphi_adapters::process::confirm_dead;
use amphi_ports::MessageBus as _;
use amphi_protocol::ids::{Incarnation, NodeId, ShardId};
use amphi_protocol::node::NodeDeath;
use amphi_protocol::{codec, subjects};
use tokio::time::Instant;

/// How long the guards of a dead node may take to end everything.
const PROOF_WITHIN: Duration = Duration::from_secs(15);
/// How long a Manager is looked for; after that the node's silence tells it.
const TOLD_WITHIN: Duration = Duration::from_secs(20);
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(200);

/// Proves that nothing of the dead node lives; its next life may begin then. `None`: it could not be proven, or the node never had a
/// life of its own.
pub(super) async fn prove(node: &NodeId, data: &Path, pid: u32, status: ExitStatus) -> Option<NodeDeath> {
    let folder = data.to_owned();
    let incarnation = tokio::task::spawn_blocking(move || {
        // Whoever holds it is alive: a next life, started by somebody else.
        let _lock = DataLock::acquire(&folder).ok()?;
        let incarnation = std::fs::read_to_string(folder.join(super::INCARNATION_FILE)).ok()?.trim().parse().ok()?;
        confirm_dead(&folder, PROOF_WITHIN).ok()?;
        Some(Incarnation(incarnation))
    });
    let incarnation = incarnation.await.ok()??;
    Some(NodeDeath { node: node.clone(), pid, incarnation, how: words(status) })
}

/// `killed by signal 9`, `ended with exit code 1`.
fn words(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("killed by signal {signal}"),
        (None, Some(code)) => format!("ended with exit code {code}"),
        (None, None) => status.to_string(),
    }
}

/// Tells a shard's Manager in the node's name and with its credentials, again until it has heard or the node's silence has told it
/// anyway.
pub(super) async fn tell(nats: String, shard: ShardId, death: NodeDeath) {
    let client = match connect_node(&nats, "amphi-up", death.node.as_str()).await {
        Ok(client) => client,
        Err(error) => return tracing::warn!(%error, node = %death.node, "the node's death cannot be told"),
    };
    let (bus, began) = (NatsBus::new(client), Instant::now());
    let body = bytes::Bytes::from(codec::encode(&death));
    while began.elapsed() < TOLD_WITHIN {
        if bus.request(subjects::node_death(&death.node, shard), BTreeMap::new(), body.clone(), ANSWER_WITHIN).await.is_ok() {
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
    tracing::debug!(node = %death.node, "no Manager has heard of the node's death");
}
