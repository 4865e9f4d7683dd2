//! NATS: the connection, the journal and the other streams on JetStream, and the server that `amphi up` runs itself.
//!
//! Never decides anything, and never takes silence for a refusal: a write whose answer did not come is *unknown*. Text from outside
//! never reaches a header unchecked (`HeaderMap::insert` panics on line breaks), and no error text holds a URL (it has the password).
//!
//! Start at [`connect`], [`JetStreamJournal`] and [`managed::ManagedServer`].

use std::error::Error as StdError;
use std::str::FromStr as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use amphi_ports::StoreError;
use async_nats::jetstream;
use async_nats::{Client, ConnectOptions, Event, ServerAddr};

mod bus;
pub mod copies;
mod durability;
mod events;
mod journal;
mod lease;
mod lonely;
pub mod managed;
mod messages;
mod objects;
mod output;
mod pins;
mod reader;
pub mod remembered;
mod replicas;

pub use bus::NatsBus;
pub use durability::{Synced, synced};
pub use events::NatsEventStream;
pub use journal::JetStreamJournal;
pub use lease::NatsLease;
pub use lonely::leave_lonely_server;
pub use messages::NatsAgentMail;
pub use objects::{NatsObjectStore, OBJECT_BYTES_MAX};
pub use output::NatsOutputLog;
pub use pins::NatsPins;
pub use remembered::{Remembered, RememberedWriter};
pub use replicas::replicas;

#[cfg(test)]
mod tests;

/// How long a request waits for its answer if nothing else is said.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Messages that a subscription holds before the client drops some (and says so once).
const SUBSCRIPTION_CAPACITY: usize = 65_536;
/// Time between two pings; two missed ones end the connection, so a stopped server is noticed in a quarter of a minute.
const PING_INTERVAL: Duration = Duration::from_secs(5);

/// Why a connection could not be made or used.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The address is malformed.
    #[error("that is no NATS URL (nats://user:password@host:port): {0}")]
    Url(String),
    /// Nobody answered there, or the login was refused.
    #[error("could not connect to NATS")]
    Unreachable(#[source] async_nats::ConnectError),
    /// The connection is still being made.
    #[error("no NATS server has answered yet")]
    NotYet,
    /// The server is too old.
    #[error("the NATS server has version {found}; 2.11 or newer is needed")]
    Version {
        /// What it says it is.
        found: String,
    },
    /// The server has no JetStream, or this user may not use it.
    #[error("JetStream is not enabled on the NATS server; start it with `-js`, or use `amphi up` without `--nats`")]
    NoJetStream(#[source] Option<Box<dyn StdError + Send + Sync>>),
}

/// Connects to `url` under the client name `name`. Fails if nobody answers now; later outages heal by themselves, with attempts every
/// 50 to 250 ms for ever. What is published during an outage is kept and sent afterwards: a write that timed out may still land.
pub async fn connect(url: &str, name: &str) -> Result<Client, ConnectError> {
    let (servers, options) = connect_options(url, name)?;
    options.connect(servers).await.map_err(ConnectError::Unreachable)
}

/// As [`connect_later`], for what nodes and Managers say to each other: answers come to the inbox of `node`, where no client may send
/// anything and no other node may listen.
pub async fn connect_node(url: &str, name: &str, node: &str) -> Result<Client, ConnectError> {
    let (servers, options) = connect_options(url, name)?;
    let options = options.custom_inbox_prefix(amphi_protocol::subjects::inbox_of(node));
    options.retry_on_initial_connect().connect(servers).await.map_err(ConnectError::Unreachable)
}

/// As [`connect_node`], but fails if nobody answers now.
pub async fn connect_node_now(url: &str, name: &str, node: &str) -> Result<Client, ConnectError> {
    let (servers, options) = connect_options(url, name)?;
    let options = options.custom_inbox_prefix(amphi_protocol::subjects::inbox_of(node));
    options.connect(servers).await.map_err(ConnectError::Unreachable)
}

/// As [`connect`], but returns at once and goes on trying if nobody answers yet.
pub async fn connect_later(url: &str, name: &str) -> Result<Client, ConnectError> {
    let (servers, options) = connect_options(url, name)?;
    options.retry_on_initial_connect().connect(servers).await.map_err(ConnectError::Unreachable)
}

/// The servers of a URL (or of several, with commas between), and our options with the credentials in it: the client library does
/// not take them from there by itself. A user without password is a token.
pub fn connect_options(url: &str, name: &str) -> Result<(Vec<ServerAddr>, ConnectOptions), ConnectError> {
    let options = options(name);
    let parse = |part: &str| ServerAddr::from_str(part.trim()).map_err(|e| ConnectError::Url(e.to_string()));
    let servers = url.split(',').map(parse).collect::<Result<Vec<_>, _>>()?;
    let credentials = servers.iter().find_map(|server| Some((server.username()?, server.password())));
    let options = match credentials {
        None => options,
        Some((user, Some(password))) => options.user_and_password(percent_decoded(user)?, percent_decoded(password)?),
        Some((token, None)) => options.token(percent_decoded(token)?),
    };
    Ok((servers, options))
}

/// `url` with other credentials, for each of its servers. They must need no percent-encoding.
pub fn with_credentials(url: &str, user: &str, password: &str) -> String {
    let one = |part: &str| {
        let part = part.trim();
        let (scheme, rest) = part.split_once("://").unwrap_or(("nats", part));
        let address = rest.rsplit_once('@').map_or(rest, |(_, address)| address);
        format!("{scheme}://{user}:{password}@{address}")
    };
    url.split(',').map(one).collect::<Vec<_>>().join(",")
}

/// `url` without credentials, for each of its servers.
pub fn without_credentials(url: &str) -> String {
    let one = |part: &str| {
        let part = part.trim();
        let (scheme, rest) = part.split_once("://").unwrap_or(("nats", part));
        format!("{scheme}://{}", rest.rsplit_once('@').map_or(rest, |(_, address)| address))
    };
    url.split(',').map(one).collect::<Vec<_>>().join(",")
}

fn percent_decoded(text: &str) -> Result<String, ConnectError> {
    let malformed = || ConnectError::Url("its credentials are not percent-encoded UTF-8".to_owned());
    let mut bytes = Vec::with_capacity(text.len());
    let mut parts = text.split('%');
    bytes.extend(parts.next().unwrap_or_default().bytes());
    for part in parts {
        let digits = part.get(..2).ok_or_else(malformed)?;
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| malformed())?);
        bytes.extend(part[2..].bytes());
    }
    String::from_utf8(bytes).map_err(|_| malformed())
}

fn options(name: &str) -> ConnectOptions {
    let outage = Arc::new(AtomicBool::new(false));
    let client_name = name.to_owned();
    ConnectOptions::new()
        .name(name)
        .request_timeout(Some(REQUEST_TIMEOUT))
        .ping_interval(PING_INTERVAL)
        .subscription_capacity(SUBSCRIPTION_CAPACITY)
        .ignore_discovered_servers()
        .reconnect_delay_callback(|attempts| {
            let doublings = u32::try_from(attempts.min(3)).unwrap_or(3);
            Duration::from_millis((50 << doublings).min(250))
        })
        .event_callback(move |event| {
            let outage = Arc::clone(&outage);
            let client = client_name.clone();
            async move { log_event(&client, &outage, event) }
        })
}

/// One line when an outage begins, one when it ends; the errors of each attempt in between are noise.
fn log_event(client: &str, outage: &AtomicBool, event: Event) {
    match event {
        Event::Connected => {
            if outage.swap(false, Ordering::Relaxed) {
                tracing::info!(client, "connected to NATS again");
            }
        }
        Event::Disconnected => {
            if !outage.swap(true, Ordering::Relaxed) {
                tracing::warn!(client, "connection to NATS lost; trying again until it is back");
            }
        }
        Event::SlowConsumer(subscription) => {
            tracing::warn!(client, subscription, "messages dropped: a subscription is not read fast enough")
        }
        Event::ServerError(error) => tracing::warn!(client, %error, "the NATS server reports an error"),
        Event::LameDuckMode => tracing::info!(client, "the NATS server is about to stop"),
        Event::ClientError(error) => tracing::debug!(client, %error, "NATS client error"),
        Event::Draining | Event::Closed => tracing::debug!(client, "connection to NATS closed"),
    }
}

/// Checks that the connected server is one that this system can run on: 2.11 or newer, with JetStream for this user.
pub async fn check_server(client: &Client) -> Result<(), ConnectError> {
    let found = client.server_info().version;
    if found.is_empty() {
        return Err(ConnectError::NotYet);
    }
    if !client.is_server_compatible(2, 11, 0) {
        return Err(ConnectError::Version { found });
    }
    jetstream_context(client, REQUEST_TIMEOUT).query_account().await.map_err(|e| ConnectError::NoJetStream(Some(Box::new(e))))?;
    Ok(())
}

/// A JetStream context whose requests and acks wait at most `timeout`.
fn jetstream_context(client: &Client, timeout: Duration) -> jetstream::Context {
    jetstream::ContextBuilder::new().timeout(timeout).ack_timeout(timeout).build(client.clone())
}

/// A store failure that may pass.
fn store_error(what: impl Into<String>, source: impl Into<Box<dyn StdError + Send + Sync>>) -> StoreError {
    StoreError { what: what.into(), source: Some(source.into()), damaged: false }
}

/// A store failure that will not pass by itself.
fn damaged(what: impl Into<String>) -> StoreError {
    StoreError { what: what.into(), source: None, damaged: true }
}

/// `None` only if the server says that there is no such stream.
async fn find_stream(context: &jetstream::Context, name: &str) -> Result<Option<jetstream::stream::Stream>, StoreError> {
    use jetstream::context::GetStreamErrorKind;
    match context.get_stream(name).await {
        Ok(stream) => Ok(Some(stream)),
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(inner) if inner.error_code() == jetstream::ErrorCode::STREAM_NOT_FOUND => Ok(None),
            _ => Err(store_error(format!("looking for stream {name}"), error)),
        },
    }
}

/// The stream, created if it is missing. An existing one keeps its configuration: an operator may have changed its limits.
async fn find_or_create(context: &jetstream::Context, config: jetstream::stream::Config) -> Result<jetstream::stream::Stream, StoreError> {
    if let Some(stream) = find_stream(context, &config.name).await? {
        return Ok(stream);
    }
    let name = config.name.clone();
    match context.create_stream(config).await {
        Ok(stream) => Ok(stream),
        // Somebody else was faster, with another configuration: theirs stands.
        Err(error) => match find_stream(context, &name).await? {
            Some(stream) => Ok(stream),
            None => Err(store_error(format!("creating stream {name}"), error)),
        },
    }
}
