//! Public events, off the critical path: batches in order, from an owned task. The stream is memory and may vanish with its server;
//! it is then filled again from the events kept here.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use amphi_ports::{EventStream, StoreError};
use amphi_protocol::event::Event;
use amphi_protocol::ids::ShardId;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use crate::manager::boot::EVENTS_KEPT;

/// Events of one publish.
const BATCH: usize = 500;

/// The way to the publishing task. Dropping it ends the task.
pub(super) struct Publisher {
    batches: mpsc::UnboundedSender<Vec<Event>>,
    _task: AbortOnDropHandle<()>,
}

impl Publisher {
    pub fn start(shard: ShardId, stream: Arc<dyn EventStream>) -> Self {
        // Unbounded, but fed by commits, which admission bounds; what is not published is bounded below.
        let (batches, receiver) = mpsc::unbounded_channel();
        Self { batches, _task: AbortOnDropHandle::new(tokio::spawn(run(shard, stream, receiver))) }
    }

    pub fn publish(&self, events: Vec<Event>) {
        // The task ends only with this value.
        let _ended = self.batches.send(events);
    }
}

struct Kept {
    shard: ShardId,
    stream: Arc<dyn EventStream>,
    events: VecDeque<Event>,
    /// Number of the last event that is known to be in the stream.
    published: u64,
}

async fn run(shard: ShardId, stream: Arc<dyn EventStream>, mut batches: mpsc::UnboundedReceiver<Vec<Event>>) {
    let mut kept = Kept { shard, stream, events: VecDeque::new(), published: 0 };
    let mut sure = false;
    let mut check = tokio::time::interval(Duration::from_secs(2));
    check.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            batch = batches.recv() => match batch {
                Some(batch) => kept.keep(batch),
                None => return,
            },
            // A stream that vanished while nothing happens is filled again all the same.
            _ = check.tick() => sure = false,
        }
        while let Ok(batch) = batches.try_recv() {
            kept.keep(batch);
        }
        while !sure || kept.behind() {
            match kept.catch_up(sure).await {
                Ok(()) => sure = true,
                Err(error) => {
                    tracing::debug!(%error, "events are published later");
                    sure = false;
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
            while let Ok(batch) = batches.try_recv() {
                kept.keep(batch);
            }
        }
    }
}

impl Kept {
    fn keep(&mut self, batch: Vec<Event>) {
        self.events.extend(batch);
        let surplus = self.events.len().saturating_sub(EVENTS_KEPT);
        self.events.drain(..surplus);
    }

    fn behind(&self) -> bool {
        self.events.back().is_some_and(|last| last.seq.0 > self.published)
    }

    async fn catch_up(&mut self, sure: bool) -> Result<(), StoreError> {
        if !sure {
            self.published = self.stream.last_seq(self.shard).await?;
        }
        while self.behind() {
            let first = self.events.partition_point(|event| event.seq.0 <= self.published);
            let batch: Vec<Event> = self.events.range(first..).take(BATCH).cloned().collect();
            self.stream.publish(&batch).await?;
            self.published = batch.last().map_or(self.published, |last| last.seq.0);
        }
        Ok(())
    }
}
