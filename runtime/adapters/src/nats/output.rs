//! Output of attempts in a bounded stream: each chunk one message under the attempt's own subject.
//!
//! The task's key travels in a header, because its subject token is not always unique. Never blocks the work for ever: an append
//! that gets no answer is an error, and the caller decides.

use std::str::FromStr;
use std::time::Duration;

use amphi_ports::{OutputChunk, OutputLog, OutputSource, StoreError};
use amphi_protocol::ids::{AttemptRef, EpicId};
use amphi_protocol::subjects;
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType};
use async_nats::jetstream::{Context, Message};
use async_nats::{Client, HeaderMap, HeaderValue};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};

use super::reader::{FollowReader, Range, RangeReader};
use super::{REQUEST_TIMEOUT, find_or_create, jetstream_context, store_error};

/// Bytes that the stream holds at most; the oldest go first.
const BYTES_MAX: i64 = 1024 * 1024 * 1024;
/// How long output is kept.
const AGE_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// Largest message; a larger chunk is split.
const MESSAGE_BYTES_MAX: usize = 256 * 1024;
/// Bytes that one read returns at most.
const READ_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The task's key.
const TASK_HEADER: &str = "Amphi-Task";
/// `out` or `err`.
const SOURCE_HEADER: &str = "Amphi-Source";

/// The log of all attempts' output. Cheap to clone.
#[derive(Clone)]
pub struct NatsOutputLog {
    context: Context,
}

impl NatsOutputLog {
    /// Opens the log, creating its stream with `replicas` copies if it is missing.
    pub async fn open(client: &Client, replicas: usize) -> Result<Self, StoreError> {
        let context = jetstream_context(client, REQUEST_TIMEOUT);
        find_or_create(&context, config(replicas)).await?;
        Ok(Self { context })
    }

    /// What one attempt wrote so far, both sources in the order of writing, up to 64 MiB.
    pub async fn read_output(&self, epic: &EpicId, task: &str, run: u32, attempt: u32) -> Result<Vec<OutputChunk>, StoreError> {
        let stream = find_or_create(&self.context, config(1)).await?;
        let state = &stream.cached_info().state;
        let range = Range {
            stream: subjects::OUTPUT_STREAM.to_owned(),
            filter: attempt_filter(epic, task, run, attempt),
            from: state.first_sequence,
            to: state.last_sequence,
            headers_only: false,
        };
        let mut reader = RangeReader::new(self.context.clone(), range);
        let mut chunks = Vec::new();
        let mut size = 0;
        while let Some(stored) = reader.next().await? {
            if let Some(chunk) = chunk_of(&stored.message, task) {
                size += chunk.bytes.len();
                chunks.push(chunk);
            }
            if size >= READ_BYTES_MAX {
                break;
            }
        }
        Ok(chunks)
    }

    /// What one attempt wrote and will write, without an end. Survives restarts of the server; an error comes, as the last item, when
    /// the stream could not be read for half a minute. Messages that are gone are skipped.
    pub fn follow_output(&self, epic: &EpicId, task: &str, run: u32, attempt: u32) -> BoxStream<'static, Result<OutputChunk, StoreError>> {
        let follow = FollowReader::new(self.context.clone(), subjects::OUTPUT_STREAM, attempt_filter(epic, task, run, attempt));
        let state = Some((follow, task.to_owned()));
        futures::stream::unfold(state, |state| async move {
            let (mut follow, task) = state?;
            loop {
                match follow.next().await {
                    Ok(message) => {
                        if let Some(chunk) = chunk_of(&message, &task) {
                            return Some((Ok(chunk), Some((follow, task))));
                        }
                    }
                    Err(error) => return Some((Err(error), None)),
                }
            }
        })
        .boxed()
    }

    async fn append_chunk(&self, attempt: &AttemptRef, task: &str, chunk: OutputChunk) -> Result<(), StoreError> {
        let what = || format!("storing output of {attempt}");
        let source = source_name(chunk.source);
        let subject = subjects::output(&attempt.epic, &subjects::key_token(task), attempt.run, attempt.attempt, source);
        let mut headers = HeaderMap::new();
        headers.insert(TASK_HEADER, HeaderValue::from_str(task).map_err(|e| store_error(what(), e))?);
        headers.insert(SOURCE_HEADER, source);
        let mut rest = chunk.bytes;
        while !rest.is_empty() {
            let part = rest.split_to(rest.len().min(MESSAGE_BYTES_MAX));
            self.store(&subject, &headers, part).await.map_err(|e| store_error(what(), e))?;
        }
        Ok(())
    }

    async fn store(&self, subject: &str, headers: &HeaderMap, part: Bytes) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let publish = || async {
            let message = PublishMessage::build().payload(part.clone()).headers(headers.clone());
            self.context.send_publish(subject.to_owned(), message).await?.await
        };
        match publish().await {
            Ok(_) => Ok(()),
            // Somebody removed the stream: output goes on in a new one.
            Err(error) if error.kind() == PublishErrorKind::StreamNotFound => {
                find_or_create(&self.context, config(1)).await?;
                publish().await?;
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }
}

impl OutputLog for NatsOutputLog {
    fn append<'a>(&'a self, attempt: &'a AttemptRef, task: &'a str, chunk: OutputChunk) -> BoxFuture<'a, Result<(), StoreError>> {
        self.append_chunk(attempt, task, chunk).boxed()
    }
}

fn source_name(source: OutputSource) -> &'static str {
    match source {
        OutputSource::Out => "out",
        OutputSource::Err => "err",
    }
}

fn attempt_filter(epic: &EpicId, task: &str, run: u32, attempt: u32) -> String {
    subjects::output(epic, &subjects::key_token(task), run, attempt, "*")
}

/// The chunk in a message, if it is one of `task`.
fn chunk_of(message: &Message, task: &str) -> Option<OutputChunk> {
    let headers = message.message.headers.as_ref()?;
    if headers.get(TASK_HEADER)?.as_str() != task {
        return None;
    }
    let source = if headers.get(SOURCE_HEADER)?.as_str() == "err" { OutputSource::Err } else { OutputSource::Out };
    Some(OutputChunk { source, bytes: message.message.payload.clone() })
}

fn config(replicas: usize) -> Config {
    Config {
        name: subjects::OUTPUT_STREAM.to_owned(),
        description: Some("Amphitheatre: output of attempts".to_owned()),
        subjects: vec![subjects::OUTPUT_SUBJECTS.to_owned()],
        retention: RetentionPolicy::Limits,
        storage: StorageType::File,
        discard: DiscardPolicy::Old,
        max_bytes: BYTES_MAX,
        max_age: AGE_MAX,
        num_replicas: replicas,
        duplicate_window: Duration::from_millis(100),
        ..Default::default()
    }
}
