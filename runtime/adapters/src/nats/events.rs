//! The stream of public events: in the server's memory, bounded, rebuildable from the journal.
//!
//! Publishing is pipelined, so after an error any of the events may be stored. [`NatsEventStream::last_seq`] therefore never
//! answers beyond the first event that is not known to be stored: who goes on from there leaves no hole. A restart of the server
//! empties the stream; that shows as an error of `publish`, and `last_seq` creates it again and answers 0.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use amphi_ports::{EventStream, StoreError};
use amphi_protocol::event::Event;
use amphi_protocol::ids::ShardId;
use amphi_protocol::subjects;
use async_nats::jetstream::context::PublishAckFuture;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType};
use async_nats::jetstream::{Context, ErrorCode};
use async_nats::{Client, HeaderMap};
use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::{Map, Value};

use super::reader::{Range, RangeReader};
use super::{REQUEST_TIMEOUT, find_or_create, jetstream_context, store_error};

/// Events that the stream holds at most; older ones go.
const EVENTS_MAX: i64 = 500_000;
/// Bytes that the stream holds at most.
const BYTES_MAX: i64 = 256 * 1024 * 1024;
/// Within this window the same event published again is recognised.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);
/// Events under way at once.
const PIPELINE: usize = 256;
/// Largest body; beyond it the event's data is left out (the journal has it).
const BODY_BYTES_MAX: usize = 900 * 1024;

/// The stream of public events of one publisher. Not to be shared by several shards' publishers.
pub struct NatsEventStream {
    context: Context,
    replicas: usize,
    state: Mutex<Position>,
}

/// What this publisher knows.
#[derive(Default)]
struct Position {
    /// After a failure: events above this are not known to be stored.
    trusted: Option<u64>,
    /// Highest stream sequence acknowledged; a lower one means that the stream was made anew.
    acknowledged: u64,
}

impl NatsEventStream {
    /// A publisher on `client`. The stream itself is created by the first [`EventStream::last_seq`], with `replicas` copies.
    pub fn new(client: &Client, replicas: usize) -> Self {
        Self { context: jetstream_context(client, REQUEST_TIMEOUT), replicas, state: Mutex::default() }
    }

    fn position(&self) -> std::sync::MutexGuard<'_, Position> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn last_seq_of(&self, shard: ShardId) -> Result<u64, StoreError> {
        let stream = find_or_create(&self.context, config(self.replicas)).await?;
        let state = stream.cached_info().state.clone();
        let stored = if state.messages == 0 {
            0
        } else {
            // Usually the last message is ours; with several shards the headers of all tell.
            match stream.get_raw_message(state.last_sequence).await {
                Ok(last) => match seq_of(&last.headers, shard) {
                    Some(seq) => seq,
                    None => self.scan(shard, state.first_sequence, state.last_sequence).await?,
                },
                Err(error) if is_missing(&error) => self.scan(shard, state.first_sequence, state.last_sequence).await?,
                Err(error) => return Err(store_error("reading the last event", error)),
            }
        };
        let mut position = self.position();
        position.acknowledged = state.last_sequence;
        Ok(position.trusted.map_or(stored, |trusted| stored.min(trusted)))
    }

    async fn scan(&self, shard: ShardId, from: u64, to: u64) -> Result<u64, StoreError> {
        let range = Range { stream: subjects::EVENTS_STREAM.to_owned(), filter: String::new(), from, to, headers_only: true };
        let mut reader = RangeReader::new(self.context.clone(), range);
        let mut last = 0;
        while let Some(stored) = reader.next().await? {
            let seq = stored.message.message.headers.as_ref().and_then(|headers| seq_of(headers, shard));
            last = last.max(seq.unwrap_or(0));
        }
        Ok(last)
    }

    async fn publish_all(&self, events: &[Event]) -> Result<(), StoreError> {
        let Some(first) = events.first() else { return Ok(()) };
        let mut stored = first.seq.0.saturating_sub(1);
        for chunk in events.chunks(PIPELINE) {
            if let Err(error) = self.publish_chunk(chunk, &mut stored).await {
                let mut position = self.position();
                position.trusted = Some(position.trusted.map_or(stored, |trusted| trusted.min(stored)));
                return Err(error);
            }
        }
        // A publisher that goes on after the untrusted stretch without filling it has asked for the hole.
        let mut position = self.position();
        if position.trusted.is_some_and(|trusted| first.seq.0 <= trusted + 1) {
            position.trusted = None;
        }
        Ok(())
    }

    /// `stored` becomes the number of the last event that is known to be stored with all before it.
    async fn publish_chunk(&self, events: &[Event], stored: &mut u64) -> Result<(), StoreError> {
        let mut acks: Vec<PublishAckFuture> = Vec::with_capacity(events.len());
        let mut failure = None;
        for event in events {
            match self.send(event).await {
                Ok(ack) => acks.push(ack),
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            }
        }
        for (event, ack) in events.iter().zip(acks) {
            let ack = ack.await.map_err(|e| store_error(format!("publishing event {}", event.message_id()), e))?;
            if !ack.duplicate {
                let mut position = self.position();
                if ack.sequence <= position.acknowledged {
                    *stored = 0;
                    return Err(store_error("publishing events", "the stream was emptied and made anew"));
                }
                position.acknowledged = ack.sequence;
            }
            *stored = event.seq.0;
        }
        failure.map_or(Ok(()), Err)
    }

    async fn send(&self, event: &Event) -> Result<PublishAckFuture, StoreError> {
        let what = || format!("publishing event {}", event.message_id());
        let message =
            PublishMessage::build().payload(body(event).map_err(|e| store_error(what(), e))?.into()).message_id(event.message_id());
        self.context.send_publish(event.subject(), message).await.map_err(|e| store_error(what(), e))
    }
}

impl EventStream for NatsEventStream {
    fn last_seq(&self, shard: ShardId) -> BoxFuture<'_, Result<u64, StoreError>> {
        self.last_seq_of(shard).boxed()
    }

    fn publish<'a>(&'a self, events: &'a [Event]) -> BoxFuture<'a, Result<(), StoreError>> {
        self.publish_all(events).boxed()
    }
}

fn body(event: &Event) -> Result<Vec<u8>, serde_json::Error> {
    let bytes = serde_json::to_vec(event)?;
    if bytes.len() <= BODY_BYTES_MAX {
        return Ok(bytes);
    }
    let data = Map::from_iter([("omitted_bytes".to_owned(), Value::from(bytes.len()))]);
    serde_json::to_vec(&Event { data, ..event.clone() })
}

/// The event number in a message id `<shard>-<seq>` of that shard.
fn seq_of(headers: &HeaderMap, shard: ShardId) -> Option<u64> {
    let (of, seq) = headers.get(subjects::MESSAGE_ID_HEADER)?.as_str().split_once('-')?;
    (of == shard.to_string()).then(|| seq.parse().ok())?
}

fn is_missing(error: &async_nats::jetstream::stream::RawMessageError) -> bool {
    use async_nats::jetstream::stream::LastRawMessageErrorKind as Kind;
    match error.kind() {
        Kind::NoMessageFound => true,
        Kind::JetStream(inner) => inner.error_code() == ErrorCode::NO_MESSAGE_FOUND,
        _ => false,
    }
}

fn config(replicas: usize) -> Config {
    Config {
        name: subjects::EVENTS_STREAM.to_owned(),
        description: Some("Amphitheatre: public events, a view of the journal".to_owned()),
        subjects: vec![subjects::EVENTS_SUBJECTS.to_owned()],
        retention: RetentionPolicy::Limits,
        storage: StorageType::Memory,
        discard: DiscardPolicy::Old,
        max_messages: EVENTS_MAX,
        max_bytes: BYTES_MAX,
        duplicate_window: DUPLICATE_WINDOW,
        num_replicas: replicas,
        allow_direct: true,
        ..Default::default()
    }
}
