//! Agent messages on NATS: a stream that keeps them, a durable consumer for each node, and live requests beside it.
//!
//! Nothing is dropped here: a message that nobody settles comes again. What is said is not looked at.

use std::collections::BTreeMap;
use std::str::FromStr as _;
use std::time::Duration;

use amphi_ports::{AgentMail, BusError, BusMessage, Delivery, Posted, Settled, StoreError};
use amphi_protocol::codec;
use amphi_protocol::ids::{NodeId, RoleName, Timestamp};
use amphi_protocol::message::{AgentMessage, Letter};
use amphi_protocol::subjects;
use async_nats::client::RequestErrorKind;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType};
use async_nats::jetstream::{self, AckKind, Context};
use async_nats::{Client, HeaderMap, HeaderName, HeaderValue};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use tokio::sync::oneshot;

use super::bus::bus_message;
use super::{REQUEST_TIMEOUT, find_or_create, jetstream_context, store_error};

/// How long messages are kept.
const AGE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// Bytes that the stream holds at most.
const BYTES_MAX: i64 = 256 * 1024 * 1024;
/// Longer than a new leader looks back for messages that its predecessor may not have sent.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(20 * 60);
/// A node that says nothing of a message for so long gets it again.
const ACK_WAIT: Duration = Duration::from_secs(30);
/// Messages of one node that wait for their settlement; more wait in the stream.
const ACK_PENDING_MAX: i64 = 256;
/// A message that cannot be settled, for instance because it ends every connection that reads it, is given up after so many times.
const DELIVERIES_MAX: i64 = 20;
/// Nodes that answer live requests share them.
const ASKED_GROUP: &str = "amphi";

/// Agent messages of a node's connections. Cheap to clone.
#[derive(Clone)]
pub struct NatsAgentMail {
    /// For live requests, which are between nodes.
    client: Client,
    context: Context,
}

impl NatsAgentMail {
    /// Opens the stream, created with `replicas` copies if it is missing. It is where clients are (`edge`); nodes ask each other over
    /// `core`.
    pub async fn open(core: &Client, edge: &Client, replicas: usize) -> Result<Self, StoreError> {
        let context = jetstream_context(edge, REQUEST_TIMEOUT);
        find_or_create(&context, config(replicas)).await?;
        Ok(Self { client: core.clone(), context })
    }

    async fn store(&self, letter: &Letter) -> Result<Posted, StoreError> {
        let what = || format!("storing message {}", letter.id);
        let to: RoleName = letter.message.to.clone().into();
        let headers = headers(&letter.headers()).map_err(|error| store_error(what(), error))?;
        let body = letter.message.to_json();
        let ack = self.context.publish_with_headers(subjects::messages_to(&to), headers, body.into()).await;
        let ack = ack.map_err(|error| store_error(what(), error))?.await.map_err(|error| store_error(what(), error))?;
        Ok(Posted { sequence: ack.sequence, duplicate: ack.duplicate })
    }

    async fn consume(&self, node: &NodeId) -> Result<BoxStream<'static, Delivery>, StoreError> {
        let what = || format!("consuming messages for {node}");
        let stream = self.context.get_stream(subjects::MESSAGES_STREAM).await.map_err(|error| store_error(what(), error))?;
        let name = format!("node-{node}");
        let wanted = pull::Config {
            durable_name: Some(name.clone()),
            description: Some(format!("Amphitheatre: messages for the agents of {node}")),
            deliver_policy: DeliverPolicy::New,
            ack_policy: AckPolicy::Explicit,
            ack_wait: ACK_WAIT,
            max_ack_pending: ACK_PENDING_MAX,
            max_deliver: DELIVERIES_MAX,
            filter_subject: subjects::MESSAGES_SUBJECTS.to_owned(),
            // That of a node which never comes back goes with the messages that it missed.
            inactive_threshold: AGE_MAX,
            ..pull::Config::default()
        };
        let consumer = stream.get_or_create_consumer(&name, wanted).await.map_err(|error| store_error(what(), error))?;
        // One by one: a message that ends the connection takes no other with it.
        let messages = consumer.stream().max_messages_per_batch(1).messages().await.map_err(|error| store_error(what(), error))?;
        let deliveries = messages.filter_map(|message| async move {
            match message {
                Ok(message) => delivery(message),
                Err(error) => {
                    tracing::debug!(%error, "messages are waited for again");
                    None
                }
            }
        });
        Ok(deliveries.boxed())
    }

    async fn request(&self, role: &RoleName, message: &AgentMessage, timeout: Duration) -> Result<AgentMessage, BusError> {
        let subject = subjects::role_requests(role);
        let mut headers = HeaderMap::new();
        headers.insert(subjects::CODEC_HEADER, codec::BINCODE);
        let request = async_nats::Request::new().payload(message.to_bincode().into()).headers(headers).timeout(Some(timeout));
        match tokio::time::timeout(timeout, self.client.send_request(subject.clone(), request)).await {
            Ok(Ok(answer)) => {
                let answer = bus_message(answer);
                let codec = answer.headers.get(subjects::CODEC_HEADER).map(String::as_str);
                AgentMessage::read(codec, &answer.body).map_err(|error| BusError::Failed { subject, source: Box::new(error) })
            }
            Ok(Err(error)) => Err(match error.kind() {
                RequestErrorKind::NoResponders => BusError::NoResponders { subject },
                RequestErrorKind::TimedOut => BusError::Timeout { subject },
                _ => BusError::Failed { subject, source: Box::new(error) },
            }),
            Err(_) => Err(BusError::Timeout { subject }),
        }
    }
}

impl AgentMail for NatsAgentMail {
    fn send<'a>(&'a self, letter: &'a Letter) -> BoxFuture<'a, Result<Posted, StoreError>> {
        self.store(letter).boxed()
    }

    fn receive<'a>(&'a self, node: &'a NodeId) -> BoxFuture<'a, Result<BoxStream<'static, Delivery>, StoreError>> {
        self.consume(node).boxed()
    }

    fn ask<'a>(
        &'a self,
        role: &'a RoleName,
        message: &'a AgentMessage,
        timeout: Duration,
    ) -> BoxFuture<'a, Result<AgentMessage, BusError>> {
        self.request(role, message, timeout).boxed()
    }

    fn asked<'a>(&'a self, role: &'a RoleName) -> BoxFuture<'a, Result<BoxStream<'static, BusMessage>, BusError>> {
        async move {
            let subject = subjects::role_requests(role);
            let subscriber = self.client.queue_subscribe(subject.clone(), ASKED_GROUP.to_owned()).await;
            let subscriber = subscriber.map_err(|error| BusError::Failed { subject, source: Box::new(error) })?;
            Ok(subscriber.map(bus_message).boxed())
        }
        .boxed()
    }
}

/// A message of a consumer; its settlement is sent by a task of its own.
fn delivery(message: jetstream::Message) -> Option<Delivery> {
    let info = match message.info() {
        Ok(info) => info,
        Err(error) => {
            tracing::warn!(%error, "a message of the consumer has no place in its stream");
            return None;
        }
    };
    let stored_at = u64::try_from(info.published.unix_timestamp_nanos() / 1_000_000).unwrap_or(0);
    let sequence = info.stream_sequence;
    let (message, acker) = message.split();
    let (settle, settled) = oneshot::channel();
    tokio::spawn(async move {
        let kind = match settled.await {
            Ok(Settled::Taken) => AckKind::Ack,
            Ok(Settled::Later(after)) => AckKind::Nak(Some(after)),
            Ok(Settled::Refused) => AckKind::Term,
            Err(_) => AckKind::Nak(None),
        };
        if let Err(error) = acker.ack_with(kind).await {
            tracing::debug!(sequence, %error, "a message comes again: what became of it could not be said");
        }
    });
    Some(Delivery { sequence, stored_at: Timestamp(stored_at), message: bus_message(message), settle })
}

fn headers(named: &BTreeMap<String, String>) -> Result<HeaderMap, Box<dyn std::error::Error + Send + Sync>> {
    let mut headers = HeaderMap::new();
    for (name, value) in named {
        headers.insert(HeaderName::from_str(name)?, HeaderValue::from_str(value)?);
    }
    Ok(headers)
}

fn config(replicas: usize) -> Config {
    Config {
        name: subjects::MESSAGES_STREAM.to_owned(),
        description: Some("Amphitheatre: agent messages".to_owned()),
        subjects: vec![subjects::MESSAGES_SUBJECTS.to_owned()],
        retention: RetentionPolicy::Limits,
        storage: StorageType::File,
        discard: DiscardPolicy::Old,
        max_age: AGE_MAX,
        max_bytes: BYTES_MAX,
        num_replicas: replicas,
        duplicate_window: DUPLICATE_WINDOW,
        ..Default::default()
    }
}
