//! What this node has to tell the leader, kept until the commit with it is acknowledged.
//!
//! One queue in the order of the pushes, one request in flight; what accumulates meanwhile goes with the next one. Nothing is dropped
//! except what the leader refused for good. It is bounded by the attempts that the node holds: a few reports for each, and of
//! progress only the latest.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use amphi_protocol::ids::{AttemptRef, Epoch};
use amphi_protocol::journal::{AttemptNews, Input};
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

use crate::desk::Uptime;
use crate::link::{LeaderLink, LinkError, Verdict, is_retryable};

/// Most inputs of one request.
pub const BATCH_INPUTS_MAX: usize = 256;
/// Most bytes of inputs in one request; a single larger one goes alone.
pub const BATCH_BYTES_MAX: usize = 512 * 1024;
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// An input that will not be sent again.
#[derive(Debug, Clone, PartialEq)]
pub struct Settled {
    /// The input.
    pub input: Input,
    /// Whether it is on record.
    pub verdict: Verdict,
    /// It was sent before without an answer, so a refusal may only mean that it is on record since then.
    pub doubtful: bool,
}

/// The verdicts of one request.
#[derive(Debug, Clone, PartialEq)]
pub struct Settlement {
    /// The term of the leader that answered.
    pub epoch: Epoch,
    /// When the request was sent, by the node's [`Uptime`]: the leader decided later than that.
    pub sent_at: Duration,
    /// What is settled, in the order of the pushes.
    pub settled: Vec<Settled>,
}

/// The queue and the task that empties it. Dropping it ends the task.
pub struct Outbox {
    shared: Arc<Shared>,
    _sender: AbortOnDropHandle<()>,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// Something was pushed.
    pushed: Notify,
    /// The queue became empty.
    emptied: Notify,
    /// The newest term that the node knows of.
    epoch: AtomicU64,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outbox {
    /// Starts sending through `link`; `on_settled` hears of every verdict, in order, and must return at once.
    pub fn start(link: Arc<dyn LeaderLink>, uptime: Uptime, on_settled: impl Fn(Settlement) + Send + 'static) -> Self {
        let shared = Arc::new(Shared::default());
        let sender = tokio::spawn(deliver(shared.clone(), link, uptime, on_settled));
        Self { shared, _sender: AbortOnDropHandle::new(sender) }
    }

    /// Takes `input` to be delivered.
    pub fn push(&self, input: Input) {
        self.shared.queue().push(input);
        self.shared.pushed.notify_one();
    }

    /// The node has heard of a term: the verdicts of older ones count no more.
    pub fn heard_of(&self, epoch: Epoch) {
        self.shared.epoch.fetch_max(epoch.0, Ordering::Relaxed);
    }

    /// Inputs without a verdict.
    pub fn len(&self) -> usize {
        self.shared.queue().items.len()
    }

    /// True if every input has its verdict.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Attempts of which something is still to be told.
    pub fn attempts(&self) -> BTreeSet<AttemptRef> {
        self.shared.queue().items.iter().filter_map(|item| attempt(&item.input).cloned()).collect()
    }

    /// Ends when every input has its verdict.
    pub fn emptied(&self) -> impl Future<Output = ()> + Send + 'static {
        let shared = self.shared.clone();
        async move {
            loop {
                let emptied = shared.emptied.notified();
                tokio::pin!(emptied);
                emptied.as_mut().enable();
                if shared.queue().items.is_empty() {
                    return;
                }
                emptied.await;
            }
        }
    }
}

async fn deliver(shared: Arc<Shared>, link: Arc<dyn LeaderLink>, uptime: Uptime, on_settled: impl Fn(Settlement) + Send) {
    let mut inputs_max = BATCH_INPUTS_MAX;
    let mut backoff = BACKOFF_MIN;
    loop {
        let batch = shared.queue().take_batch(inputs_max);
        if batch.is_empty() {
            shared.emptied.notify_waiters();
            shared.pushed.notified().await;
            continue;
        }
        let (sent, sent_at) = (batch.len(), uptime());
        let reply = match link.send(batch).await {
            Ok(reply) if reply.results.len() != sent => Err(LinkError::Malformed(format!("{} of {sent} verdicts", reply.results.len()))),
            // A Manager that was deposed and has not noticed: what it refuses may stand in the journal, or be wanted by its successor.
            Ok(reply) if reply.epoch.0 < shared.epoch.load(Ordering::Relaxed) => Err(LinkError::Deposed { epoch: reply.epoch }),
            other => other,
        };
        let held_back = match reply {
            Ok(reply) => {
                inputs_max = BATCH_INPUTS_MAX;
                let settled = shared.queue().settle(reply.results);
                let some = settled.len() < sent;
                on_settled(Settlement { epoch: reply.epoch, sent_at, settled });
                some
            }
            // Refused as a whole: one at a time shows which input it is, and only that one is given up.
            Err(LinkError::Rejected { code, retryable: false }) => {
                let settled = shared.queue().give_up(&code);
                inputs_max = 1;
                if let Some(settled) = settled {
                    tracing::error!(%code, input = ?settled.input, "the leader refuses a report as such; it is dropped");
                    on_settled(Settlement { epoch: Epoch(0), sent_at, settled: vec![settled] });
                }
                false
            }
            Err(error) => {
                metrics::counter!("amphi_outbox_resends_total").increment(1);
                tracing::debug!(%error, inputs = sent, "reports wait for a leader");
                shared.queue().returned(matches!(error, LinkError::Unknown(_) | LinkError::Malformed(_) | LinkError::Deposed { .. }));
                true
            }
        };
        metrics::gauge!("amphi_outbox_inputs").set(shared.queue().items.len() as f64);
        if held_back {
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        } else {
            backoff = BACKOFF_MIN;
        }
    }
}

/// The queue itself; the first `in_flight` items are with the leader.
#[derive(Debug, Default)]
struct Queue {
    items: VecDeque<Item>,
    in_flight: usize,
}

#[derive(Debug)]
struct Item {
    input: Input,
    bytes: usize,
    doubtful: bool,
}

impl Queue {
    fn push(&mut self, input: Input) {
        if self.replaces_progress(&input) {
            return;
        }
        let bytes = serde_json::to_vec(&input).map_or(0, |json| json.len());
        self.items.push_back(Item { input, bytes, doubtful: false });
    }

    /// Of the progress that waits only the latest counts: it takes the place of the one before.
    fn replaces_progress(&mut self, input: &Input) -> bool {
        let Input::Attempt(report) = input else { return false };
        let AttemptNews::Progress { .. } = report.what else { return false };
        let waiting = self.items.iter_mut().skip(self.in_flight).rev();
        let last = waiting.map(|item| &mut item.input).find(|waiting| attempt(waiting) == Some(&report.attempt));
        match last {
            Some(Input::Attempt(last)) if matches!(last.what, AttemptNews::Progress { .. }) => {
                *last = report.clone();
                true
            }
            _ => false,
        }
    }

    fn take_batch(&mut self, inputs_max: usize) -> Vec<Input> {
        let mut bytes = 0;
        let fitting = self.items.iter().take(inputs_max).take_while(|item| {
            bytes += item.bytes;
            bytes <= BATCH_BYTES_MAX
        });
        self.in_flight = fitting.count().max(usize::from(!self.items.is_empty()));
        self.items.iter().take(self.in_flight).map(|item| item.input.clone()).collect()
    }

    /// Removes what has a final verdict; what may succeed later stays, in order.
    fn settle(&mut self, verdicts: Vec<Verdict>) -> Vec<Settled> {
        let mut settled = Vec::with_capacity(verdicts.len());
        let mut kept = Vec::new();
        for verdict in verdicts {
            let Some(item) = self.items.pop_front() else { break };
            match &verdict {
                Verdict::Refused(code) if is_retryable(code) => kept.push(item),
                Verdict::Accepted | Verdict::Refused(_) => settled.push(Settled { input: item.input, verdict, doubtful: item.doubtful }),
            }
        }
        for item in kept.into_iter().rev() {
            self.items.push_front(item);
        }
        self.in_flight = 0;
        settled
    }

    /// The request brought no verdicts; `doubtful` if it may have been taken all the same.
    fn returned(&mut self, doubtful: bool) {
        let in_flight = std::mem::take(&mut self.in_flight);
        for item in self.items.iter_mut().take(in_flight) {
            item.doubtful |= doubtful;
        }
    }

    /// The request was refused as a whole: an input that was alone in it is given up.
    fn give_up(&mut self, code: &str) -> Option<Settled> {
        let alone = std::mem::take(&mut self.in_flight) == 1;
        let item = if alone { self.items.pop_front() } else { None }?;
        Some(Settled { input: item.input, verdict: Verdict::Refused(code.to_owned()), doubtful: item.doubtful })
    }
}

/// The attempt that an input is about.
pub(crate) fn attempt(input: &Input) -> Option<&AttemptRef> {
    match input {
        Input::Attempt(report) => Some(&report.attempt),
        Input::Silent { attempt, .. } => Some(attempt),
        Input::Lead { .. }
        | Input::Submit(_)
        | Input::CancelEpic { .. }
        | Input::PauseEpic { .. }
        | Input::ResumeEpic { .. }
        | Input::RetryEpic { .. }
        | Input::SkipTask { .. }
        | Input::CancelTask { .. }
        | Input::AssignTask { .. }
        | Input::RetryTask { .. }
        | Input::AckIncident { .. }
        | Input::ResolveIncident { .. }
        | Input::Hold { .. }
        | Input::AcquireLock { .. }
        | Input::RenewLock { .. }
        | Input::ReleaseLock { .. }
        | Input::Join(_)
        | Input::LoseNode { .. }
        | Input::Agent(_)
        | Input::Staff(_)
        | Input::Tick
        | Input::Signal { .. }
        | Input::Upkeep(_) => None,
    }
}

#[cfg(test)]
mod tests;
