//! On how many servers each stream is kept.
//!
//! Decided once, when the first stream of a cluster is made; from then on what is there counts, whatever a node's configuration says,
//! so that all nodes reckon with the same lease. Never changes a stream: that is the operator's (`nats stream edit --replicas`).

use amphi_ports::StoreError;
use amphi_protocol::subjects;
use async_nats::Client;

use super::{REQUEST_TIMEOUT, find_stream, jetstream_context};

/// Copies that survive the loss of one server.
const REPLICAS_CLUSTERED: usize = 3;

/// How many copies the streams of this cluster have, or get: those of the object store if it is there; else what is `configured`; else
/// three on a server that belongs to a cluster, and one on a server that stands alone (which refuses more).
///
/// # Errors
/// The server did not answer.
pub async fn replicas(client: &Client, configured: Option<usize>) -> Result<usize, StoreError> {
    let context = jetstream_context(client, REQUEST_TIMEOUT);
    if let Some(stream) = find_stream(&context, &format!("OBJ_{}", subjects::OBJECTS_BUCKET)).await? {
        let kept = stream.cached_info().config.num_replicas.max(1);
        if configured.is_some_and(|configured| configured != kept) {
            tracing::warn!(kept, configured, "the streams have another number of replicas than `cluster.replicas` says");
        }
        return Ok(kept);
    }
    let clustered = client.server_info().cluster.is_some_and(|name| !name.is_empty());
    Ok(configured.unwrap_or(if clustered { REPLICAS_CLUSTERED } else { 1 }))
}
