//! Messages in the name of agents, off the critical path: stored in order by an owned task, again and again until the stream has them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use amphi_ports::AgentMail;
use amphi_protocol::message::Letter;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

/// Messages that wait for the stream; of more the oldest are given up.
const WAITING_MAX: usize = 20_000;
/// Messages that are on their way at once.
const BATCH: usize = 32;
const AGAIN_AFTER: Duration = Duration::from_millis(200);

/// The way to the sending task. Dropping it ends the task; the next leader sends again what it may not have sent.
pub(super) struct Post {
    letters: mpsc::UnboundedSender<Vec<Letter>>,
    /// Letters that are not stored yet.
    open: Arc<AtomicUsize>,
    _task: AbortOnDropHandle<()>,
}

impl Post {
    pub fn start(mail: Arc<dyn AgentMail>) -> Self {
        // Unbounded, but fed by commits, which admission bounds; what waits is bounded below.
        let (letters, receiver) = mpsc::unbounded_channel();
        let open = Arc::new(AtomicUsize::new(0));
        Self { letters, open: open.clone(), _task: AbortOnDropHandle::new(tokio::spawn(run(mail, receiver, open))) }
    }

    /// True if everything that was sent is stored.
    pub fn is_idle(&self) -> bool {
        self.open.load(Ordering::Relaxed) == 0
    }

    pub fn send(&self, letters: Vec<Letter>) {
        self.open.fetch_add(letters.len(), Ordering::Relaxed);
        // The task ends only with this value.
        let _ended = self.letters.send(letters);
    }
}

async fn run(mail: Arc<dyn AgentMail>, mut letters: mpsc::UnboundedReceiver<Vec<Letter>>, open: Arc<AtomicUsize>) {
    let mut waiting: VecDeque<Letter> = VecDeque::new();
    loop {
        if waiting.is_empty() {
            match letters.recv().await {
                Some(more) => waiting.extend(more),
                None => return,
            }
        }
        while let Ok(more) = letters.try_recv() {
            waiting.extend(more);
        }
        let surplus = waiting.len().saturating_sub(WAITING_MAX);
        if surplus > 0 {
            metrics::counter!("amphi_messages_given_up_total").increment(surplus as u64);
            tracing::error!(messages = surplus, "the stream of messages takes too little; the oldest are given up");
            waiting.drain(..surplus);
            open.fetch_sub(surplus, Ordering::Relaxed);
        }
        let sent = futures::future::join_all(waiting.iter().take(BATCH).map(|letter| mail.send(letter))).await;
        let stored = sent.iter().take_while(|result| result.is_ok()).count();
        waiting.drain(..stored);
        open.fetch_sub(stored, Ordering::Relaxed);
        metrics::counter!("amphi_messages_sent_total").increment(stored as u64);
        // What came after a failure and was stored is recognised by its id.
        if let Some(Err(error)) = sent.into_iter().find(Result::is_err) {
            tracing::debug!(%error, "messages are sent again");
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }
}
