//! Messages between processes over core NATS: fast, and lost when nobody listens. What matters is sent again until it is answered.
//!
//! Never lets text from outside panic the client or become a wildcard: subjects and headers are checked here.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::str::FromStr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use amphi_ports::{BusError, BusMessage, MessageBus};
use amphi_protocol::subjects;
use async_nats::client::RequestErrorKind;
use async_nats::connection::State;
use async_nats::{Client, HeaderMap, HeaderName, HeaderValue, Message, Request};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};

/// How long a new subscription waits for the server to know it.
const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(2);

/// The bus of a node's connections. Cheap to clone. A connection whose last handle is dropped ends at once, without sending what is
/// queued.
#[derive(Clone)]
pub struct NatsBus {
    core: Client,
    edge: Client,
}

impl NatsBus {
    /// A bus on `client`, where nodes and clients are in one account.
    pub fn new(client: Client) -> Self {
        Self { core: client.clone(), edge: client }
    }

    /// A bus over two accounts: what nodes and Managers say to each other goes over `core`, everything else (signals of clients, and
    /// the answers to them) over `edge`.
    pub fn across(core: Client, edge: Client) -> Self {
        Self { core, edge }
    }

    fn client(&self, subject: &str) -> &Client {
        if subjects::is_internal(subject) { &self.core } else { &self.edge }
    }

    async fn send(&self, subject: String, headers: BTreeMap<String, String>, body: Bytes) -> Result<(), BusError> {
        let headers = checked(&subject, &headers)?;
        let sent = match headers {
            Some(headers) => self.client(&subject).publish_with_headers(subject.clone(), headers, body).await,
            None => self.client(&subject).publish(subject.clone(), body).await,
        };
        sent.map_err(|e| failed(&subject, e))
    }

    async fn ask(
        &self,
        subject: String,
        headers: BTreeMap<String, String>,
        body: Bytes,
        timeout: Duration,
    ) -> Result<BusMessage, BusError> {
        let headers = checked(&subject, &headers)?;
        let mut request = Request::new().payload(body).timeout(Some(timeout));
        if let Some(headers) = headers {
            request = request.headers(headers);
        }
        // The client's own timeout starts when the request is queued; the outer one covers a full queue as well.
        match tokio::time::timeout(timeout, self.client(&subject).send_request(subject.clone(), request)).await {
            Ok(Ok(answer)) => Ok(bus_message(answer)),
            Ok(Err(error)) => Err(match error.kind() {
                RequestErrorKind::NoResponders => BusError::NoResponders { subject },
                RequestErrorKind::TimedOut => BusError::Timeout { subject },
                _ => failed(&subject, error),
            }),
            Err(_) => Err(BusError::Timeout { subject }),
        }
    }

    async fn listen(&self, subject: String) -> Result<BoxStream<'static, BusMessage>, BusError> {
        let client = self.client(&subject);
        let subscriber = client.subscribe(subject.clone()).await.map_err(|e| failed(&subject, e))?;
        // The client's `flush` only empties its buffer. A request on the same connection, to a subject that nobody has, is answered
        // after the server knows the subscription. While disconnected it is made at the reconnect; that is no failure.
        let nobody = client.new_inbox();
        if tokio::time::timeout(SUBSCRIBE_TIMEOUT, client.request(nobody, Bytes::new())).await.is_err() {
            tracing::debug!(subject, "subscribed during an outage");
        }
        Ok(subscriber.map(bus_message).filter_map(move |message| futures::future::ready(honest(&subject, message))).boxed())
    }
}

impl MessageBus for NatsBus {
    fn publish(&self, subject: String, headers: BTreeMap<String, String>, body: Bytes) -> BoxFuture<'_, Result<(), BusError>> {
        self.send(subject, headers, body).boxed()
    }

    fn request(
        &self,
        subject: String,
        headers: BTreeMap<String, String>,
        body: Bytes,
        timeout: Duration,
    ) -> BoxFuture<'_, Result<BusMessage, BusError>> {
        self.ask(subject, headers, body, timeout).boxed()
    }

    fn subscribe(&self, subject: String) -> BoxFuture<'_, Result<BoxStream<'static, BusMessage>, BusError>> {
        self.listen(subject).boxed()
    }

    fn is_connected(&self) -> bool {
        self.core.connection_state() == State::Connected
    }

    fn connections(&self) -> u64 {
        self.core.statistics().connects.load(Ordering::Relaxed)
    }
}

/// The message as it may be acted on. `None` for one that a consumer of a stream delivered here, which keeps the subject under which it
/// was stored: whoever makes a consumer chooses where it delivers, so it proves nothing about its sender. A reply subject that is
/// nobody's inbox is taken off: the answer would be said in our own name, to a journal for instance.
fn honest(subscribed: &str, mut message: BusMessage) -> Option<BusMessage> {
    if !subjects::matches(subscribed, &message.subject) {
        tracing::warn!(subscribed, subject = message.subject, "a message of another subject was delivered here; it is dropped");
        return None;
    }
    let inbox = |reply: &String| match subjects::is_internal(subscribed) {
        true => subjects::is_inbox(reply),
        false => !reply.starts_with('$') && !reply.starts_with("amphi."),
    };
    message.reply = message.reply.filter(inbox);
    Some(message)
}

fn failed(subject: &str, source: impl Into<Box<dyn StdError + Send + Sync>>) -> BusError {
    BusError::Failed { subject: subject.to_owned(), source: source.into() }
}

/// The headers, or why they (or the subject of a message to be sent) cannot go out.
fn checked(subject: &str, headers: &BTreeMap<String, String>) -> Result<Option<HeaderMap>, BusError> {
    // The server takes `a.*` as a literal subject on publish; nobody here means that.
    let literal =
        !subject.is_empty() && subject.split('.').all(|t| !t.is_empty() && !t.contains(['*', '>']) && !t.contains(char::is_whitespace));
    if !literal {
        return Err(failed(subject, "the subject is not a literal one"));
    }
    if headers.is_empty() {
        return Ok(None);
    }
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        if name.is_empty() {
            return Err(failed(subject, "a header has no name"));
        }
        let name = HeaderName::from_str(name).map_err(|e| failed(subject, e))?;
        let value = HeaderValue::from_str(value).map_err(|e| failed(subject, e))?;
        map.insert(name, value);
    }
    Ok(Some(map))
}

pub(super) fn bus_message(message: Message) -> BusMessage {
    let mut headers = BTreeMap::new();
    for (name, values) in message.headers.iter().flat_map(HeaderMap::iter) {
        if let Some(value) = values.first() {
            headers.insert(name.to_string(), value.as_str().to_owned());
        }
    }
    BusMessage { subject: message.subject.to_string(), reply: message.reply.map(|reply| reply.to_string()), headers, body: message.payload }
}
