//! Who has the Manager's seat of a shard: one message on one literal subject, replaced only by compare-and-set.
//!
//! While there are no standbys, exactly one `amphi up` of a cluster may run a Manager. The journal keeps two from doing harm, but they
//! would depose each other for ever; this keeps the second from starting. It is a claim, not a lease: who has it keeps it until
//! somebody who found no Manager takes it.

use amphi_ports::StoreError;
use amphi_protocol::ids::ShardId;
use amphi_protocol::subjects;
use async_nats::Client;
use async_nats::jetstream::Context;
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{Config, DiscardPolicy, LastRawMessageErrorKind, RetentionPolicy, StorageType, Stream};

use super::{REQUEST_TIMEOUT, find_or_create, jetstream_context, store_error};

/// The seat of one shard, as the claimant `me` sees it.
#[derive(Clone)]
pub struct SeatClaim {
    context: Context,
    stream: Stream,
    subject: String,
    me: String,
}

/// Who has the seat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeatHolder {
    /// Nobody ever had it.
    Nobody,
    /// The asker.
    Me,
    /// Somebody else, by the claim at this sequence.
    Other(u64),
}

impl SeatClaim {
    /// Opens the stream of claims, creating it with `replicas` copies if it is missing. `me` names the claimant over all its lives.
    pub async fn open(client: &Client, shard: ShardId, replicas: usize, me: &str) -> Result<Self, StoreError> {
        let context = jetstream_context(client, REQUEST_TIMEOUT);
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
        Ok(Self { context, stream, subject: subjects::seat(shard), me: me.to_owned() })
    }

    /// Who has it now.
    pub async fn holder(&self) -> Result<SeatHolder, StoreError> {
        match self.stream.get_last_raw_message_by_subject(&self.subject).await {
            Ok(message) if *message.payload == *self.me.as_bytes() => Ok(SeatHolder::Me),
            Ok(message) => Ok(SeatHolder::Other(message.sequence)),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(SeatHolder::Nobody),
            Err(error) => Err(store_error("reading who has the Manager's seat", error)),
        }
    }

    /// Takes the seat from whoever had it at `sequence` (0: nobody). False if somebody was faster.
    pub async fn take(&self, sequence: u64) -> Result<bool, StoreError> {
        let message = PublishMessage::build().payload(self.me.clone().into()).expected_last_subject_sequence(sequence);
        let failed = |error| store_error("claiming the Manager's seat", error);
        let ack = self.context.send_publish(self.subject.clone(), message).await.map_err(failed)?;
        match ack.await {
            Ok(_) => Ok(true),
            // Perhaps by ourselves, if an earlier answer was lost.
            Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => Ok(self.holder().await? == SeatHolder::Me),
            Err(error) => Err(failed(error)),
        }
    }
}
