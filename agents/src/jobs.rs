//! The running jobs of a node, each an owned task. They belong to the node and not to the actor that began them, so that the death of
//! an agent leaves nobody's processes behind: its desk ends the job and waits until it is confirmed dead.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use amphi_ports::{Engine, JobNews, JobOrder};
use amphi_protocol::ids::AttemptRef;
use amphi_protocol::journal::{AttemptEnd, Outcome};
use futures::FutureExt;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::desk::{DeskHandle, DeskMessage};
use crate::registry::AgentEntry;
use crate::specialist::SpecialistMessage;

/// Progress of one attempt is told at most once in this time; in between the latest replaces the others.
const PROGRESS_PERIOD: Duration = Duration::from_secs(1);

/// All running jobs of a node.
pub struct Jobs {
    engine: Arc<dyn Engine>,
    desk: DeskHandle,
    running: Mutex<HashMap<AttemptRef, Running>>,
}

struct Running {
    cancel: CancellationToken,
    /// It did something since somebody last looked.
    active: Arc<AtomicBool>,
    /// Dropping the table ends the task, and with it the tree.
    _task: AbortOnDropHandle<()>,
}

/// What a job lets its desk know.
#[derive(Debug, Clone, PartialEq)]
pub enum JobReport {
    /// It began.
    Started {
        /// Its process, if it has one.
        pid: Option<u32>,
    },
    /// It said how far it is.
    Progress {
        /// 0 to 100.
        percent: Option<u8>,
        /// A line for people.
        message: Option<String>,
    },
    /// It is over, and everything of it is dead.
    Ended(AttemptEnd),
}

impl Jobs {
    /// An empty table; news goes to `desk`.
    pub fn new(engine: Arc<dyn Engine>, desk: DeskHandle) -> Arc<Self> {
        Arc::new(Self { engine, desk, running: Mutex::default() })
    }

    fn running(&self) -> MutexGuard<'_, HashMap<AttemptRef, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a job; `agent` hears when it has ended, before the desk does. Does nothing if the attempt runs already.
    pub fn start(&self, order: JobOrder, agent: AgentEntry) {
        let mut running = self.running();
        if running.contains_key(&order.attempt) {
            return;
        }
        let (cancel, active) = (CancellationToken::new(), Arc::new(AtomicBool::new(true)));
        let attempt = order.attempt.clone();
        let job = run(self.engine.clone(), self.desk.clone(), order, agent, cancel.clone(), active.clone());
        running.insert(attempt, Running { cancel, active, _task: AbortOnDropHandle::new(tokio::spawn(job)) });
    }

    /// Asks a job to end; false if there is none.
    pub fn cancel(&self, attempt: &AttemptRef) -> bool {
        self.running().get(attempt).map(|running| running.cancel.cancel()).is_some()
    }

    /// True from the start until its desk has taken note of the end.
    pub fn is_running(&self, attempt: &AttemptRef) -> bool {
        self.running().contains_key(attempt)
    }

    /// The end was taken note of.
    pub(crate) fn forget(&self, attempt: &AttemptRef) {
        let ended = self.running().remove(attempt);
        drop(ended);
    }

    /// Attempts that were active since the last call.
    pub(crate) fn take_active(&self) -> Vec<AttemptRef> {
        let running = self.running();
        let active = running.iter().filter(|(_, running)| running.active.swap(false, Ordering::Relaxed));
        active.map(|(attempt, _)| attempt.clone()).collect()
    }
}

async fn run(
    engine: Arc<dyn Engine>,
    desk: DeskHandle,
    order: JobOrder,
    agent: AgentEntry,
    cancel: CancellationToken,
    active: Arc<AtomicBool>,
) {
    let attempt = order.attempt.clone();
    let (sender, mut news) = mpsc::unbounded_channel();
    // The call itself is inside, so that an engine that panics at once is caught too.
    let work = AssertUnwindSafe(async move { engine.run(order, sender, cancel).await }).catch_unwind();
    tokio::pin!(work);
    let mut teller = Teller { attempt: attempt.clone(), desk: desk.clone(), active, waiting: None, next: Instant::now() };
    let end = loop {
        let due = teller.next;
        tokio::select! {
            biased;
            Some(one) = news.recv() => teller.hear(one),
            () = tokio::time::sleep_until(due), if teller.waiting.is_some() => teller.tell_progress(),
            end = &mut work => break end,
        }
    };
    while let Ok(one) = news.try_recv() {
        teller.hear(one);
    }
    teller.tell_progress();
    let end = end.unwrap_or_else(|_| AttemptEnd {
        outcome: Outcome::AgentLost,
        exit_code: None,
        error: Some("the engine panicked".to_owned()),
        outputs: Default::default(),
        artifacts: Vec::new(),
    });
    // The agent first: when the desk gives it the next attempt, it knows that it is free.
    agent.send(SpecialistMessage::JobFinished { attempt: attempt.clone() });
    desk.tell(DeskMessage::Job { attempt, report: JobReport::Ended(end) });
}

/// Passes a job's news on, thinned out.
struct Teller {
    attempt: AttemptRef,
    desk: DeskHandle,
    active: Arc<AtomicBool>,
    waiting: Option<JobReport>,
    next: Instant,
}

impl Teller {
    fn hear(&mut self, news: JobNews) {
        self.active.store(true, Ordering::Relaxed);
        match news {
            JobNews::Active => {}
            JobNews::Started { pid } => self.tell(JobReport::Started { pid }),
            JobNews::Progress { percent, message } => {
                self.waiting = Some(JobReport::Progress { percent, message });
                if Instant::now() >= self.next {
                    self.tell_progress();
                }
            }
        }
    }

    fn tell_progress(&mut self) {
        if let Some(report) = self.waiting.take() {
            self.next = Instant::now() + PROGRESS_PERIOD;
            self.tell(report);
        }
    }

    fn tell(&self, report: JobReport) {
        self.desk.tell(DeskMessage::Job { attempt: self.attempt.clone(), report });
    }
}
