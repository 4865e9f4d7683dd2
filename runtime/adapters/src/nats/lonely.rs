//! A server that is cut off from its cluster still takes connections and answers pings, and knows nothing of the streams any more.
//! Whoever is connected to it has to go elsewhere: only the majority's side accepts anything.
//!
//! Never judges by one silence: a new leader of the cluster takes some seconds on every server.

use std::time::Duration;

use async_nats::Client;
use async_nats::connection::State;

use super::{connect_options, jetstream_context};

/// Time between two questions.
const PERIOD: Duration = Duration::from_secs(1);
/// How long an answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Silences in a row after which another server is tried.
const SILENCES_MAX: u32 = 3;

/// Runs until it is dropped: where `url` names several servers and JetStream does not answer at the present one, connects to another
/// one of them. With one server it does nothing, as there is nowhere else to go.
pub async fn leave_lonely_server(client: &Client, url: &str) {
    if connect_options(url, "lonely").map_or(1, |(servers, _)| servers.len()) < 2 {
        return std::future::pending().await;
    }
    let context = jetstream_context(client, ANSWER_WITHIN);
    let mut silences = 0;
    loop {
        tokio::time::sleep(PERIOD).await;
        let answered = tokio::time::timeout(ANSWER_WITHIN, context.query_account()).await.is_ok_and(|answer| answer.is_ok());
        // A lost connection is the library's affair.
        silences = if answered || client.connection_state() != State::Connected { 0 } else { silences + 1 };
        if silences >= SILENCES_MAX {
            silences = 0;
            let server = client.server_info().server_name;
            tracing::warn!(server, "JetStream does not answer at this server, which may be cut off from the others; trying another one");
            if let Err(error) = client.force_reconnect().await {
                tracing::warn!(%error, "could not leave the server");
            }
        }
    }
}
