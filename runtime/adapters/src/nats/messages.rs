//! The stream that keeps agent messages. Live requests between agents do not wait for it.

use std::time::Duration;

use amphi_ports::StoreError;
use amphi_protocol::subjects;
use async_nats::Client;
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType};

use super::{REQUEST_TIMEOUT, find_or_create, jetstream_context};

/// How long messages are kept.
const AGE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// Bytes that the stream holds at most.
const BYTES_MAX: i64 = 256 * 1024 * 1024;

/// Creates the stream of agent messages with `replicas` copies if it is missing.
pub async fn ensure_messages_stream(client: &Client, replicas: usize) -> Result<(), StoreError> {
    let config = Config {
        name: subjects::MESSAGES_STREAM.to_owned(),
        description: Some("Amphitheatre: agent messages".to_owned()),
        subjects: vec![subjects::MESSAGES_SUBJECTS.to_owned()],
        retention: RetentionPolicy::Limits,
        storage: StorageType::File,
        discard: DiscardPolicy::Old,
        max_age: AGE_MAX,
        max_bytes: BYTES_MAX,
        num_replicas: replicas,
        duplicate_window: Duration::from_secs(120),
        ..Default::default()
    };
    find_or_create(&jetstream_context(client, REQUEST_TIMEOUT), config).await.map(|_| ())
}
