//! Messages of a JetStream stream, from its start, in order and without gaps, for as long as somebody listens.
//!
//! The streams behind it live in memory: they vanish with their server and are filled again. A consumer that goes on at a sequence
//! would then leave things out, so on any doubt (error, gap, deleted consumer) the feed begins again at the start and says so; the
//! reader skips what it has seen.

use std::time::Duration;

use async_nats::jetstream::{self, consumer};
use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// Messages that wait for the reader.
const AHEAD_MAX: usize = 1024;
/// Pause before the stream is opened again.
const REOPEN_PAUSE: Duration = Duration::from_millis(300);
/// How long the server keeps a consumer that nobody reads.
const CONSUMER_LIFE: Duration = Duration::from_secs(60);

/// Header that names the task of a piece of output.
const TASK_HEADER: &str = "Amphi-Task";

/// What a feed delivers.
#[derive(Debug)]
pub enum FeedItem {
    /// It begins at the start of the stream, which has this many messages for us at the moment.
    Opened {
        /// Messages that were there when it began.
        pending: u64,
    },
    /// The next message.
    Message {
        /// Its subject.
        subject: String,
        /// The task's key, where the message names one.
        task: Option<String>,
        /// Its body.
        body: Bytes,
    },
    /// The stream cannot be read now; the feed tries again.
    Closed {
        /// Why.
        cause: String,
    },
}

/// A running feed. It ends when it is dropped.
#[derive(Debug)]
pub struct Feed {
    items: mpsc::Receiver<FeedItem>,
    _reader: JoinSet<()>,
}

impl Feed {
    /// Follows `filter` in `stream`, all of it or only what is new.
    pub fn open(nats: &async_nats::Client, stream: &str, filter: String, from_start: bool) -> Self {
        let (sender, items) = mpsc::channel(AHEAD_MAX);
        let mut reader = JoinSet::new();
        reader.spawn(follow(jetstream::new(nats.clone()), stream.to_owned(), filter, from_start, sender));
        Self { items, _reader: reader }
    }

    /// The next item. Cancel safe.
    pub async fn next(&mut self) -> FeedItem {
        match self.items.recv().await {
            Some(item) => item,
            // The reader only ends with its feed; if it panicked, the caller's own checks go on.
            None => std::future::pending().await,
        }
    }
}

async fn follow(js: jetstream::Context, stream: String, filter: String, from_start: bool, sender: mpsc::Sender<FeedItem>) {
    let mut policy = if from_start { consumer::DeliverPolicy::All } else { consumer::DeliverPolicy::New };
    loop {
        let cause = match read(&js, &stream, &filter, policy, &sender).await {
            Ok(()) => return,
            Err(cause) => cause,
        };
        tracing::debug!(stream, filter, cause, "the feed begins again");
        if sender.send(FeedItem::Closed { cause }).await.is_err() {
            return;
        }
        // Whatever was missed meanwhile is somewhere in the stream.
        policy = consumer::DeliverPolicy::All;
        sleep(REOPEN_PAUSE).await;
    }
}

/// Reads until the reader is gone (`Ok`) or the consumer is in doubt.
async fn read(
    js: &jetstream::Context,
    stream: &str,
    filter: &str,
    deliver_policy: consumer::DeliverPolicy,
    sender: &mpsc::Sender<FeedItem>,
) -> Result<(), String> {
    let config = consumer::pull::Config {
        deliver_policy,
        ack_policy: consumer::AckPolicy::None,
        filter_subject: filter.to_owned(),
        inactive_threshold: CONSUMER_LIFE,
        memory_storage: true,
        num_replicas: 1,
        ..Default::default()
    };
    let consumer: consumer::PullConsumer = js.create_consumer_on_stream(config, stream).await.map_err(|error| error.to_string())?;
    let pending = consumer.cached_info().num_pending;
    if sender.send(FeedItem::Opened { pending }).await.is_err() {
        return Ok(());
    }
    let stream = consumer.stream().max_messages_per_batch(500).expires(Duration::from_secs(10)).heartbeat(Duration::from_secs(2));
    let mut messages = stream.messages().await.map_err(|error| error.to_string())?;
    let mut expected = 1;
    loop {
        let message = tokio::select! {
            message = messages.next() => message,
            () = sender.closed() => return Ok(()),
        };
        let message = message.ok_or("the consumer ended")?.map_err(|error| error.to_string())?;
        let position = message.info().map_err(|error| error.to_string())?.consumer_sequence;
        if position != expected {
            return Err(format!("expected delivery {expected}, got {position}"));
        }
        expected += 1;
        let task = message.headers.as_ref().and_then(|headers| headers.get(TASK_HEADER)).map(|task| task.as_str().to_owned());
        let item = FeedItem::Message { subject: message.subject.to_string(), task, body: message.payload.clone() };
        if sender.send(item).await.is_err() {
            return Ok(());
        }
    }
}
