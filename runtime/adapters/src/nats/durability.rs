//! Whether a NATS server that is not ours syncs every write before it acknowledges it.
//!
//! Asked where an operator may have opened it: the system account's `$SYS.REQ.SERVER.PING.VARZ`, imported for our user, and the
//! monitoring port 8222 of each address. Never guesses: a server that cannot be asked is unknown, and it is the operator's word that
//! counts then (`cluster.durability_confirmed`).

use std::time::Duration;

use async_nats::Client;
use futures::StreamExt as _;
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::connect_options;
use super::managed::has_managed_name;

const VARZ: &str = "$SYS.REQ.SERVER.PING.VARZ";
/// How long answers are waited for; several servers may answer one question.
const ANSWER_WITHIN: Duration = Duration::from_millis(800);
/// Where a server's monitoring usually listens.
const MONITOR_PORT: u16 = 8222;
/// Longest answer that is read.
const ANSWER_BYTES_MAX: u64 = 1024 * 1024;

/// What is known of a server's writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Synced {
    /// Each write is synced before its ack, on every server that answered.
    Always,
    /// At least one server syncs later: a loss of power may lose what it acknowledged.
    Later,
    /// Nobody could be asked.
    Unknown,
    /// It is the managed server of another `amphi up`, which has seen to it.
    Managed,
}

#[derive(Deserialize)]
struct Varz {
    jetstream: JetStream,
}

#[derive(Deserialize)]
struct JetStream {
    config: Option<JetStreamConfig>,
}

#[derive(Deserialize)]
struct JetStreamConfig {
    #[serde(default)]
    sync_always: bool,
}

/// An answer on the system subject.
#[derive(Deserialize)]
struct SystemAnswer {
    data: Varz,
}

/// Asks the servers behind `url`, to one of which `client` is connected. Takes about a second where nobody answers.
pub async fn synced(client: &Client, url: &str) -> Synced {
    if has_managed_name(&client.server_info().server_name) {
        return Synced::Managed;
    }
    let mut told = by_system_account(client).await;
    if told.is_empty() {
        let Ok((servers, _)) = connect_options(url, "durability") else { return Synced::Unknown };
        let all = servers.len();
        let asked = servers.iter().map(|server| by_monitor(server.host().to_owned()));
        told = futures::future::join_all(asked).await.into_iter().flatten().collect();
        // All of them, or the one that was not asked may be the one that loses something.
        if told.len() < all && !told.contains(&false) {
            return Synced::Unknown;
        }
    }
    match (told.is_empty(), told.contains(&false)) {
        (true, _) => Synced::Unknown,
        (false, true) => Synced::Later,
        (false, false) => Synced::Always,
    }
}

/// One entry per server with JetStream that answered.
async fn by_system_account(client: &Client) -> Vec<bool> {
    let inbox = client.new_inbox();
    let mut told = Vec::new();
    let Ok(mut answers) = client.subscribe(inbox.clone()).await else { return told };
    if client.publish_with_reply(VARZ, inbox, "".into()).await.is_err() {
        return told;
    }
    let end = tokio::time::Instant::now() + ANSWER_WITHIN;
    while let Ok(Some(message)) = tokio::time::timeout_at(end, answers.next()).await {
        // "No responders" has no body.
        match serde_json::from_slice::<SystemAnswer>(&message.payload) {
            Ok(SystemAnswer { data }) => told.extend(data.jetstream.config.map(|config| config.sync_always)),
            Err(_) => break,
        }
    }
    told
}

async fn by_monitor(host: String) -> Option<bool> {
    let asked = tokio::time::timeout(ANSWER_WITHIN, async {
        let mut stream = TcpStream::connect((host.as_str(), MONITOR_PORT)).await.ok()?;
        stream.write_all(b"GET /varz HTTP/1.0\r\nConnection: close\r\n\r\n").await.ok()?;
        let mut answer = String::new();
        stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer).await.ok()?;
        let (_, body) = answer.split_once("\r\n\r\n")?;
        serde_json::from_str::<Varz>(body).ok()?.jetstream.config.map(|config| config.sync_always)
    });
    asked.await.ok().flatten()
}
