//! Whether a journal is whole: its records follow each other, and what recovery relies on is in the object store.

use amphi_adapters::nats::{JetStreamJournal, NatsObjectStore};
use amphi_coordination::snapshot::{self, relied_on};
use amphi_ports::{Journal as _, ObjectStore as _};
use amphi_protocol::ids::ShardId;
use amphi_protocol::journal::Record;
use amphi_protocol::journal::upkeep::{SEGMENT_PREFIX, SNAPSHOT_PREFIX};
use anyhow::{Context as _, bail};
use async_nats::Client;
use futures::StreamExt as _;

use super::ShardTail;

/// Reads the journal of a shard to its end.
pub(super) async fn of_shard(client: &Client, shard: ShardId) -> anyhow::Result<ShardTail> {
    let journal = JetStreamJournal::open(client, shard, 1, false).await.with_context(|| format!("opening the journal of shard {shard}"))?;
    let objects = NatsObjectStore::open(client, 1).await.context("opening the object store")?;
    let first = journal.first().await?;
    let mut records = journal.read(first - 1);
    let (mut tail, mut marker): (Option<ShardTail>, Option<Record>) = (None, None);
    while let Some(read) = records.next().await {
        let (sequence, bytes) = read?;
        let record = Record::decode(&bytes).with_context(|| format!("record {sequence} of shard {shard} cannot be read"))?;
        if record.shard != shard {
            bail!("record {sequence} belongs to shard {}, not to {shard}", record.shard);
        }
        if let Some(before) = &tail
            && (record.prev_hash != before.hash || record.index != before.index.next() || record.epoch < before.epoch)
        {
            bail!("record {} of shard {shard} does not continue the one before: the journal is damaged", record.index);
        }
        tail = Some(ShardTail { shard, index: record.index, hash: Record::hash(&bytes), epoch: record.epoch });
        if record.snapshot == Some(record.index) {
            marker = Some(record);
        }
    }
    drop(records);
    let Some(tail) = tail else { bail!("the journal of shard {shard} is empty") };
    match marker {
        Some(marker) => snapshots_hold(&objects, &marker).await?,
        // Without a snapshot recovery needs every record.
        None if first > 1 => bail!("the journal of shard {shard} begins at {first}, and no snapshot is on record in it"),
        None => {}
    }
    Ok(tail)
}

async fn snapshots_hold(objects: &NatsObjectStore, marker: &Record) -> anyhow::Result<()> {
    for taken in relied_on(marker) {
        let bytes = whole(objects, &taken.object, SNAPSHOT_PREFIX).await?;
        let loaded = snapshot::decode(&bytes).with_context(|| format!("{} cannot be read", taken.object))?;
        for segment in &loaded.state.history().segments {
            whole(objects, &segment.object, SEGMENT_PREFIX).await?;
        }
    }
    Ok(())
}

/// An object whose name holds the hash of its bytes.
async fn whole(objects: &NatsObjectStore, name: &str, prefix: &str) -> anyhow::Result<bytes::Bytes> {
    let Some(bytes) = objects.get(name).await? else { bail!("the object {name} is missing") };
    if name.strip_prefix(prefix) != Some(Record::hash(&bytes).as_str()) {
        bail!("the object {name} has other bytes than its name says");
    }
    Ok(bytes)
}
