//! Reads a stream in order: a stretch from one sequence to another in bounded batches ([`RangeReader`]), or without an end
//! ([`FollowReader`]).
//!
//! A restart of the server in the middle is survived by going on after the last message seen. A range never waits for messages that
//! do not exist yet. Never skips one silently: who needs density checks the sequences.

use std::collections::VecDeque;
use std::time::Duration;

use amphi_ports::StoreError;
use async_nats::jetstream::consumer::{AckPolicy, Consumer, DeliverPolicy, pull};
use async_nats::jetstream::{Context, Message};
use futures::StreamExt;
use tokio::time::Instant;

use super::store_error;

/// Messages asked for at once.
const BATCH_MESSAGES: usize = 256;
/// Bytes asked for at once; well below the server's `max_pending`, or it would cut us off as too slow. Above the largest message.
const BATCH_BYTES: usize = 12 * 1024 * 1024;
/// How long one batch may take to answer.
const BATCH_TIMEOUT: Duration = Duration::from_secs(10);
/// How long reading goes on without any progress (a restart of the server takes less).
const PATIENCE: Duration = Duration::from_secs(30);
/// Pause after a failure.
const RETRY_DELAY: Duration = Duration::from_millis(100);

/// What to read.
pub(super) struct Range {
    pub(super) stream: String,
    /// Only this subject; empty for all.
    pub(super) filter: String,
    /// First sequence wanted.
    pub(super) from: u64,
    /// Last sequence wanted; reading ends with it or with the last matching message before it.
    pub(super) to: u64,
    pub(super) headers_only: bool,
}

/// A message of a stream.
pub(super) struct Stored {
    pub(super) sequence: u64,
    pub(super) message: Message,
}

/// Reads a [`Range`].
pub(super) struct RangeReader {
    context: Context,
    range: Range,
    next: u64,
    buffer: VecDeque<Stored>,
    consumer: Option<Consumer<pull::Config>>,
    ended: bool,
}

impl RangeReader {
    pub(super) fn new(context: Context, range: Range) -> Self {
        let next = range.from;
        Self { context, range, next, buffer: VecDeque::new(), consumer: None, ended: false }
    }

    /// The next message; `None` at the end of the range.
    pub(super) async fn next(&mut self) -> Result<Option<Stored>, StoreError> {
        if self.buffer.is_empty() {
            self.fill().await?;
        }
        let Some(stored) = self.buffer.pop_front() else {
            self.drop_consumer().await;
            return Ok(None);
        };
        Ok(Some(stored))
    }

    async fn fill(&mut self) -> Result<(), StoreError> {
        let mut deadline = Instant::now() + PATIENCE;
        while !self.ended && self.buffer.is_empty() {
            if self.next > self.range.to {
                self.ended = true;
                break;
            }
            let before = self.next;
            match self.fetch().await {
                Ok(()) if self.next > before => deadline = Instant::now() + PATIENCE,
                Ok(()) => {}
                Err(error) => {
                    // The consumer lives in the server's memory: after a restart it is gone.
                    self.consumer = None;
                    if Instant::now() >= deadline {
                        return Err(error);
                    }
                    tokio::time::sleep(RETRY_DELAY).await;
                }
            }
        }
        Ok(())
    }

    async fn fetch(&mut self) -> Result<(), StoreError> {
        let what = || format!("reading stream {}", self.range.stream);
        let consumer = match self.consumer.take() {
            Some(consumer) => consumer,
            None => self.create_consumer().await?,
        };
        let fetched = tokio::time::timeout(BATCH_TIMEOUT, async {
            let mut batch = consumer
                .fetch()
                .max_messages(BATCH_MESSAGES)
                .max_bytes(BATCH_BYTES)
                .messages()
                .await
                .map_err(|e| store_error(what(), e))?;
            let mut messages = Vec::new();
            // Nothing left at or before the end: known from the count that each message carries, or from an empty batch.
            let mut pending = 0;
            while let Some(message) = batch.next().await {
                let message = message.map_err(|e| store_error(what(), e))?;
                let (sequence, left) = message.info().map(|i| (i.stream_sequence, i.pending)).map_err(|e| store_error(what(), e))?;
                pending = left;
                messages.push(Stored { sequence, message });
            }
            Ok((messages, pending))
        })
        .await
        .map_err(|_| store_error(what(), "no answer in time"))?;
        let (messages, pending) = fetched?;
        if messages.is_empty() && !self.confirm_end(&consumer).await? {
            self.consumer = Some(consumer);
            return Err(store_error(what(), "the server delivered nothing though there is more"));
        }
        self.ended = messages.is_empty() || pending == 0;
        for stored in messages {
            if stored.sequence > self.range.to {
                self.ended = true;
                break;
            }
            // A batch that was delivered twice over a reconnect repeats what we have.
            if stored.sequence >= self.next {
                self.next = stored.sequence + 1;
                self.buffer.push_back(stored);
            }
        }
        self.consumer = Some(consumer);
        Ok(())
    }

    /// An empty batch can also be a lost answer: the consumer's own count decides.
    async fn confirm_end(&self, consumer: &Consumer<pull::Config>) -> Result<bool, StoreError> {
        let info = consumer.get_info().await.map_err(|e| store_error(format!("reading stream {}", self.range.stream), e))?;
        Ok(info.num_pending == 0 && info.delivered.stream_sequence < self.next.max(1))
    }

    async fn create_consumer(&self) -> Result<Consumer<pull::Config>, StoreError> {
        create_consumer(&self.context, &self.range.stream, &self.range.filter, self.next, self.range.headers_only).await
    }

    /// Tidies up at the end; a consumer that is left behind goes by itself after 30 s.
    async fn drop_consumer(&mut self) {
        if let Some(consumer) = self.consumer.take() {
            let name = consumer.cached_info().name.clone();
            if let Err(error) = self.context.delete_consumer_from_stream(&name, &self.range.stream).await {
                tracing::debug!(%error, consumer = name, "could not delete a finished consumer");
            }
        }
    }
}

/// Reads what is there and what will come.
pub(super) struct FollowReader {
    context: Context,
    stream: String,
    filter: String,
    next: u64,
    messages: Option<pull::Stream>,
}

impl FollowReader {
    /// All messages of `stream` that match `filter`, from the first.
    pub(super) fn new(context: Context, stream: &str, filter: String) -> Self {
        Self { context, stream: stream.to_owned(), filter, next: 1, messages: None }
    }

    /// The same from sequence `next` on.
    pub(super) fn from(mut self, next: u64) -> Self {
        self.next = next;
        self
    }

    /// The next message, however long it takes to come; an error after half a minute in which reading did not work.
    pub(super) async fn next(&mut self) -> Result<Message, StoreError> {
        let mut deadline = None;
        loop {
            match self.receive(&mut deadline).await {
                Ok(message) => return Ok(message),
                Err(error) => {
                    self.messages = None;
                    if Instant::now() >= *deadline.get_or_insert_with(|| Instant::now() + PATIENCE) {
                        return Err(error);
                    }
                    tokio::time::sleep(RETRY_DELAY).await;
                }
            }
        }
    }

    async fn receive(&mut self, deadline: &mut Option<Instant>) -> Result<Message, StoreError> {
        let failed = |error: Box<dyn std::error::Error + Send + Sync>| store_error(format!("following stream {}", self.stream), error);
        let messages = match &mut self.messages {
            Some(messages) => messages,
            None => {
                let consumer = create_consumer(&self.context, &self.stream, &self.filter, self.next, false).await?;
                // A missing heartbeat is an error, so that a restart of the server is noticed without a message.
                let opened = consumer.stream().heartbeat(Duration::from_secs(2)).expires(Duration::from_secs(30)).messages().await;
                *deadline = None;
                self.messages.insert(opened.map_err(|e| failed(e.into()))?)
            }
        };
        let message = messages.next().await.ok_or_else(|| failed("it ended".into()))?.map_err(|e| failed(e.into()))?;
        self.next = message.info().map_err(failed)?.stream_sequence + 1;
        Ok(message)
    }
}

/// A consumer in the server's memory that begins at sequence `from` and needs no acks.
async fn create_consumer(
    context: &Context,
    stream: &str,
    filter: &str,
    from: u64,
    headers_only: bool,
) -> Result<Consumer<pull::Config>, StoreError> {
    let config = pull::Config {
        deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: from.max(1) },
        ack_policy: AckPolicy::None,
        filter_subject: filter.to_owned(),
        headers_only,
        inactive_threshold: Duration::from_secs(30),
        memory_storage: true,
        num_replicas: 1,
        ..Default::default()
    };
    let created = context.create_consumer_on_stream(config, stream).await;
    created.map_err(|e| store_error(format!("reading stream {stream}"), e))
}
