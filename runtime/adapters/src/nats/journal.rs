//! The journal of a shard on JetStream: one stream, one literal subject, file storage, no limits.
//!
//! Exactly one of several writers wins a position, because every append names the last record it follows (compare-and-set on a
//! literal subject is exact, on one server and on three). Never creates a journal unless it is told to, never reads from a replica
//! that may be behind (no direct get), never changes the bytes it is given.
//!
//! **Doubt.** [`Journal::append`] answers [`AppendError::Unknown`] after two seconds without an ack. The client library keeps what
//! was published during an outage and sends it after the reconnect, so the record may land later. Publishing the identical bytes with
//! the identical expectation again is right: at most one lands, and a [`AppendError::Conflict`] then has our own record as the last.

use std::time::Duration;

use amphi_ports::{AppendError, Journal, StoreError};
use amphi_protocol::ids::ShardId;
use amphi_protocol::subjects;
use async_nats::Client;
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{Config, DiscardPolicy, LastRawMessageErrorKind, RetentionPolicy, StorageType, Stream};
use async_nats::jetstream::{Context, ErrorCode};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};

use super::reader::{FollowReader, Range, RangeReader};
use super::{REQUEST_TIMEOUT, damaged, find_stream, jetstream_context, store_error};

/// How long an append waits for its ack before it is in doubt.
const ACK_TIMEOUT: Duration = Duration::from_secs(2);
/// "wrong last sequence" while another write to the subject is under way (replicated streams).
const WRITE_UNDER_WAY: u64 = 10164;

/// The journal of one shard. Cheap to clone.
#[derive(Clone)]
pub struct JetStreamJournal {
    context: Context,
    stream_name: String,
    subject: String,
    stream: Stream<()>,
}

impl JetStreamJournal {
    /// True if the journal of `shard` exists on that server.
    pub async fn exists(client: &Client, shard: ShardId) -> Result<bool, StoreError> {
        let context = jetstream_context(client, REQUEST_TIMEOUT);
        Ok(find_stream(&context, &subjects::journal_stream(shard)).await?.is_some())
    }

    /// Opens the journal of `shard`. If it is missing, it is created when `create` says so (no node remembers one), and is an error
    /// with `damaged` otherwise: an empty disk must not look like a new cluster. An existing journal with limits that could drop
    /// records is refused.
    pub async fn open(client: &Client, shard: ShardId, replicas: usize, create: bool) -> Result<Self, StoreError> {
        let context = jetstream_context(client, REQUEST_TIMEOUT);
        let stream_name = subjects::journal_stream(shard);
        let stream = match find_stream(&context, &stream_name).await? {
            Some(stream) => stream,
            None if create => {
                tracing::info!(stream = stream_name, replicas, "creating the journal");
                let created = context.create_stream(config(shard, replicas)).await;
                created.map_err(|e| store_error(format!("creating the journal {stream_name}"), e))?
            }
            None => return Err(damaged(format!("opening the journal {stream_name}: it is missing, but was there before"))),
        };
        check_config(&stream.cached_info().config, shard)?;
        let stream =
            context.get_stream_no_info(&stream_name).await.map_err(|e| store_error(format!("opening the journal {stream_name}"), e))?;
        Ok(Self { context, stream_name, subject: subjects::journal_subject(shard), stream })
    }

    async fn append_record(&self, expected: u64, record: Bytes) -> Result<u64, AppendError> {
        let message = PublishMessage::build().payload(record).expected_last_subject_sequence(expected).expected_stream(&self.stream_name);
        let published = tokio::time::timeout(ACK_TIMEOUT, async {
            let ack = self.context.send_publish(self.subject.clone(), message).await?;
            ack.await
        })
        .await;
        match published {
            Ok(Ok(ack)) => Ok(ack.sequence),
            Ok(Err(error)) => Err(match error.kind() {
                PublishErrorKind::WrongLastSequence => AppendError::Conflict,
                _ if error_code(&error) == Some(WRITE_UNDER_WAY) => AppendError::Busy,
                // Nobody takes writes to it. Mostly that passes; but if the server says that there is no such stream, waiting is in
                // vain, and who reads the last record is told so.
                PublishErrorKind::StreamNotFound if self.is_gone().await => AppendError::Conflict,
                _ => AppendError::Unknown(Box::new(error)),
            }),
            Err(elapsed) => Err(AppendError::Unknown(Box::new(elapsed))),
        }
    }

    /// True only if the server says so.
    async fn is_gone(&self) -> bool {
        matches!(find_stream(&self.context, &self.stream_name).await, Ok(None))
    }

    async fn last_record(&self) -> Result<Option<(u64, Bytes)>, StoreError> {
        match self.stream.get_last_raw_message_by_subject(&self.subject).await {
            Ok(message) => Ok(Some((message.sequence, message.payload))),
            Err(error) => {
                let code = match error.kind() {
                    LastRawMessageErrorKind::NoMessageFound => Some(ErrorCode::NO_MESSAGE_FOUND),
                    LastRawMessageErrorKind::JetStream(inner) => Some(inner.error_code()),
                    _ => None,
                };
                match code {
                    Some(ErrorCode::NO_MESSAGE_FOUND) => self.confirm_empty().await.map(|()| None),
                    Some(ErrorCode::STREAM_NOT_FOUND) => Err(damaged(format!("reading the journal {}: it is gone", self.stream_name))),
                    _ => Err(store_error(format!("reading the end of the journal {}", self.stream_name), error)),
                }
            }
        }
    }

    async fn first_sequence(&self) -> Result<u64, StoreError> {
        let info = self.stream.get_info().await.map_err(|e| store_error(format!("reading the journal {}", self.stream_name), e))?;
        Ok(info.state.first_sequence.max(1))
    }

    /// The server removes what lies before `first`, and nothing else: never the last record, whatever is asked for.
    async fn trim_before(&self, first: u64) -> Result<(), StoreError> {
        let last = self.last_record().await?.map_or(0, |(sequence, _)| sequence);
        if first > last {
            return Err(damaged(format!("trimming the journal {}: record {first} is to stay and it ends at {last}", self.stream_name)));
        }
        let purged = self.stream.purge().sequence(first).await;
        purged.map(|_| ()).map_err(|e| store_error(format!("trimming the journal {}", self.stream_name), e))
    }

    /// No last record: either nothing was ever written, or somebody removed it.
    async fn confirm_empty(&self) -> Result<(), StoreError> {
        let info = self.stream.get_info().await.map_err(|e| store_error(format!("reading the journal {}", self.stream_name), e))?;
        match info.state.last_sequence {
            0 => Ok(()),
            last => Err(damaged(format!("reading the journal {}: it held {last} records and holds none now", self.stream_name))),
        }
    }
}

impl Journal for JetStreamJournal {
    fn append(&self, expected: u64, record: Bytes) -> BoxFuture<'_, Result<u64, AppendError>> {
        self.append_record(expected, record).boxed()
    }

    fn last(&self) -> BoxFuture<'_, Result<Option<(u64, Bytes)>, StoreError>> {
        self.last_record().boxed()
    }

    fn first(&self) -> BoxFuture<'_, Result<u64, StoreError>> {
        self.first_sequence().boxed()
    }

    fn trim(&self, first: u64) -> BoxFuture<'_, Result<(), StoreError>> {
        self.trim_before(first).boxed()
    }

    fn read(&self, after: u64) -> BoxStream<'_, Result<(u64, Bytes), StoreError>> {
        let reading = Reading { journal: self, next: after + 1, to: None, reader: None, over: false };
        futures::stream::unfold(reading, |mut reading| async move {
            let item = reading.step().await?;
            Some((item, reading))
        })
        .boxed()
    }

    fn follow(&self, after: u64) -> BoxStream<'static, Result<(u64, Bytes), StoreError>> {
        let following = Following { context: self.context.clone(), stream_name: self.stream_name.clone(), next: after + 1, reader: None };
        futures::stream::try_unfold(following, |mut following| async move { Ok(Some((following.record().await?, following))) }).boxed()
    }
}

/// A reader that stays at the end.
struct Following {
    context: Context,
    stream_name: String,
    next: u64,
    reader: Option<FollowReader>,
}

impl Following {
    /// What was on its way when a connection broke is lost to the reader, so a gap is read again; one that stays was trimmed.
    async fn record(&mut self) -> Result<(u64, Bytes), StoreError> {
        let mut was_read_again = false;
        loop {
            let fresh = || FollowReader::new(self.context.clone(), &self.stream_name, String::new()).from(self.next);
            let message = self.reader.get_or_insert_with(fresh).next().await?;
            let sequence =
                message.info().map_err(|e| store_error(format!("following the journal {}", self.stream_name), e))?.stream_sequence;
            if sequence == self.next {
                self.next += 1;
                return Ok((sequence, message.message.payload));
            }
            if sequence > self.next {
                if std::mem::replace(&mut was_read_again, true) {
                    let (name, next) = (&self.stream_name, self.next);
                    return Err(damaged(format!("following the journal {name}: record {sequence} follows where {next} must stand")));
                }
                self.reader = None;
            }
        }
    }
}

/// A read in progress.
struct Reading<'a> {
    journal: &'a JetStreamJournal,
    next: u64,
    /// The end as of the call.
    to: Option<u64>,
    reader: Option<RangeReader>,
    over: bool,
}

impl Reading<'_> {
    async fn step(&mut self) -> Option<Result<(u64, Bytes), StoreError>> {
        if self.over {
            return None;
        }
        let item = self.record().await.transpose();
        self.over = !matches!(item, Some(Ok(_)));
        item
    }

    async fn record(&mut self) -> Result<Option<(u64, Bytes)>, StoreError> {
        let name = &self.journal.stream_name;
        let to = match self.to {
            Some(to) => to,
            None => {
                let to = self.journal.last_record().await?.map_or(0, |(sequence, _)| sequence);
                if to + 1 < self.next {
                    return Err(damaged(format!("reading the journal {name}: it ends at {to}, before record {}", self.next - 1)));
                }
                *self.to.insert(to)
            }
        };
        if self.next > to {
            return Ok(None);
        }
        let reader = self.reader.get_or_insert_with(|| {
            let range = Range { stream: name.clone(), filter: String::new(), from: self.next, to, headers_only: false };
            RangeReader::new(self.journal.context.clone(), range)
        });
        match reader.next().await? {
            Some(stored) if stored.sequence == self.next => {
                self.next += 1;
                if self.next > to {
                    self.reader = None;
                }
                Ok(Some((stored.sequence, stored.message.message.payload)))
            }
            Some(stored) => {
                Err(damaged(format!("reading the journal {name}: record {} follows where {} must stand", stored.sequence, self.next)))
            }
            None => Err(damaged(format!("reading the journal {name}: records {} to {to} are missing", self.next))),
        }
    }
}

fn config(shard: ShardId, replicas: usize) -> Config {
    Config {
        name: subjects::journal_stream(shard),
        description: Some(format!("Amphitheatre: journal of shard {shard}. Do not delete or edit.")),
        subjects: vec![subjects::journal_subject(shard)],
        retention: RetentionPolicy::Limits,
        discard: DiscardPolicy::New,
        storage: StorageType::File,
        num_replicas: replicas,
        // Records are recognised by their position, not by a message id.
        duplicate_window: Duration::from_millis(100),
        allow_direct: false,
        // Single records cannot be removed. Purging stays possible: the log below an archived snapshot is trimmed by it, and this
        // flag can never be taken back. A purge by somebody else is noticed by `last` and `read`.
        deny_delete: true,
        ..Default::default()
    }
}

fn check_config(config: &Config, shard: ShardId) -> Result<(), StoreError> {
    let unlimited = config.max_messages <= 0 && config.max_bytes <= 0 && config.max_age.is_zero() && config.max_messages_per_subject <= 0;
    let right = unlimited
        && config.storage == StorageType::File
        && config.subjects == [subjects::journal_subject(shard)]
        && config.retention == RetentionPolicy::Limits
        && !config.sealed
        && !config.allow_rollup;
    if right {
        return Ok(());
    }
    Err(damaged(format!(
        "opening the journal {}: its configuration is not that of a journal (limits, storage, subjects or rollup)",
        config.name
    )))
}

/// The JetStream error number behind a publish error.
pub(super) fn error_code(error: &async_nats::jetstream::context::PublishError) -> Option<u64> {
    use std::error::Error as _;
    let inner = error.source()?.downcast_ref::<async_nats::jetstream::Error>()?;
    Some(inner.error_code().0)
}
