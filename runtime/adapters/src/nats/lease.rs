//! The Manager's lease of a shard: one message on one literal subject, replaced only by compare-and-set.
//!
//! A hint and no more: it says who should lead and lets others wait; the journal decides who does. It never expires here: whoever
//! wants it judges by its own clock how long the claim has stood without a renewal, so no clocks of two machines are compared.

use std::time::Duration;

use amphi_ports::{Claim, Holder, Lease, StoreError};
use amphi_protocol::ids::ShardId;
use amphi_protocol::subjects;
use async_nats::Client;
use async_nats::jetstream::Context;
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{Config, DiscardPolicy, LastRawMessageErrorKind, RetentionPolicy, StorageType, Stream};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::{JetStreamJournal, find_or_create, jetstream_context, store_error};

/// How long an answer may take: a renewal that takes longer is of no use.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// "wrong last sequence" while another write to the subject is under way (replicated streams).
const WRITE_UNDER_WAY: u64 = 10164;

/// The lease of one shard. Cheap to clone.
#[derive(Clone)]
pub struct NatsLease {
    context: Context,
    stream: Stream,
    subject: String,
}

/// A claim as it is stored; without a holder it was given back.
#[derive(Serialize, Deserialize)]
struct Stored {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    holder: Option<StoredHolder>,
}

#[derive(Serialize, Deserialize)]
struct StoredHolder {
    node: String,
    home: String,
    life: String,
    ttl_ms: u64,
}

impl NatsLease {
    /// Opens the stream of leases, creating it with `replicas` copies if it is missing.
    pub async fn open(client: &Client, shard: ShardId, replicas: usize) -> Result<Self, StoreError> {
        let (context, stream) = Self::stream(client, replicas).await?;
        Ok(Self { context, stream, subject: subjects::seat(shard) })
    }

    /// How many shards the cluster has: what was written there first. `wanted` by somebody who may write it.
    ///
    /// # Errors
    /// The stream cannot be read, or nothing was written yet and this is nobody who may.
    pub async fn shards(client: &Client, replicas: usize, wanted: Option<u32>) -> Result<u32, StoreError> {
        let (context, stream) = match wanted {
            Some(_) => Self::stream(client, replicas).await?,
            None => {
                let context = jetstream_context(client, ANSWER_WITHIN);
                let found = context.get_stream(subjects::SEATS_STREAM).await;
                let stream = found.map_err(|e| store_error("looking for how many shards the cluster has", e))?;
                (context, stream)
            }
        };
        let what = "reading how many shards the cluster has";
        let malformed = || StoreError { what: format!("{what}: it is no number"), source: None, damaged: true };
        loop {
            match stream.get_last_raw_message_by_subject(subjects::SHARDS_SUBJECT).await {
                Ok(message) => return std::str::from_utf8(&message.payload).ok().and_then(|text| text.parse().ok()).ok_or_else(malformed),
                Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => {}
                Err(error) => return Err(store_error(what, error)),
            }
            let Some(wanted) = wanted else { return Err(store_error(what, "nobody has decided it yet")) };
            // A cluster of a build that knew only one shard has one.
            let count = if JetStreamJournal::exists(client, ShardId(0)).await? { 1 } else { wanted };
            let message = PublishMessage::build().payload(count.to_string().into()).expected_last_subject_sequence(0);
            let failed = |error| store_error("writing how many shards the cluster has", error);
            match context.send_publish(subjects::SHARDS_SUBJECT, message).await.map_err(failed)?.await {
                // Read again, whoever was first.
                Ok(_) => {}
                Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => {}
                Err(error) => return Err(failed(error)),
            }
        }
    }

    async fn stream(client: &Client, replicas: usize) -> Result<(Context, Stream), StoreError> {
        let context = jetstream_context(client, ANSWER_WITHIN);
        let config = Config {
            name: subjects::SEATS_STREAM.to_owned(),
            description: Some("Amphitheatre: who runs the Manager".to_owned()),
            subjects: vec![subjects::SEATS_SUBJECTS.to_owned()],
            retention: RetentionPolicy::Limits,
            storage: StorageType::File,
            discard: DiscardPolicy::Old,
            max_messages_per_subject: 1,
            num_replicas: replicas,
            ..Default::default()
        };
        let stream = find_or_create(&context, config).await?;
        Ok((context, stream))
    }

    async fn newest(&self) -> Result<Option<Claim>, StoreError> {
        match self.stream.get_last_raw_message_by_subject(&self.subject).await {
            Ok(message) => Ok(Some(Claim { sequence: message.sequence, holder: read(&message.payload) })),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(store_error("reading who holds the Manager's lease", error)),
        }
    }

    async fn replace(&self, expected: u64, holder: Option<Holder>) -> Result<Option<u64>, StoreError> {
        let holder = holder.map(|Holder { node, home, life, ttl_ms }| StoredHolder { node, home, life, ttl_ms });
        let body = serde_json::to_vec(&Stored { holder }).map_err(|e| store_error("writing the Manager's lease", e))?;
        let message = PublishMessage::build().payload(body.into()).expected_last_subject_sequence(expected);
        let failed = |error| store_error("claiming the Manager's lease", error);
        let ack = self.context.send_publish(self.subject.clone(), message).await.map_err(failed)?;
        match ack.await {
            Ok(ack) => Ok(Some(ack.sequence)),
            Err(error) if super::journal::error_code(&error) == Some(WRITE_UNDER_WAY) => Err(failed(error)),
            Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }
}

/// What an earlier build left there, or somebody else's text, counts as a holder that does not renew.
fn read(body: &[u8]) -> Option<Holder> {
    match serde_json::from_slice::<Stored>(body) {
        Ok(stored) => stored.holder.map(|StoredHolder { node, home, life, ttl_ms }| Holder { node, home, life, ttl_ms }),
        Err(_) => Some(Holder { node: String::new(), home: String::new(), life: String::new(), ttl_ms: 0 }),
    }
}

impl Lease for NatsLease {
    fn look(&self) -> BoxFuture<'_, Result<Option<Claim>, StoreError>> {
        self.newest().boxed()
    }

    fn claim(&self, expected: u64, holder: Option<Holder>) -> BoxFuture<'_, Result<Option<u64>, StoreError>> {
        self.replace(expected, holder).boxed()
    }
}
