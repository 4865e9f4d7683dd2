//! Traits through which the actors reach the world. No implementation, no decision, no I/O here.
//!
//! Every remote write has three results: done, refused, or unknown; the error types keep these apart, and nobody may treat unknown
//! as refused.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use amphi_protocol::event::Event;
use amphi_protocol::ids::{AttemptRef, NodeId, RoleName, ShardId, Timestamp, Token};
use amphi_protocol::journal::{AttemptEnd, EffectEnd, EffectIntent};
use amphi_protocol::message::{AgentMessage, Letter};
use amphi_protocol::node::Job;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// The journal of one shard.
pub trait Journal: Send + Sync + 'static {
    /// Appends `record` if `expected` is the sequence of the last record (0 for an empty journal). Returns the new sequence.
    fn append(&self, expected: u64, record: Bytes) -> BoxFuture<'_, Result<u64, AppendError>>;

    /// The last record and its sequence.
    fn last(&self) -> BoxFuture<'_, Result<Option<(u64, Bytes)>, StoreError>>;

    /// Sequence of the first record that has not been trimmed; 1 for an empty journal.
    fn first(&self) -> BoxFuture<'_, Result<u64, StoreError>>;

    /// Removes all records before sequence `first`, which must exist. After an error any part of them may be gone; doing it again is
    /// right. Only for records that are kept elsewhere.
    fn trim(&self, first: u64) -> BoxFuture<'_, Result<(), StoreError>>;

    /// All records after sequence `after` up to the end as of this call, in order, without gaps.
    fn read(&self, after: u64) -> BoxStream<'_, Result<(u64, Bytes), StoreError>>;

    /// All records after sequence `after` and every later one soon after it was stored, in order, without gaps. Ends only with an
    /// error; a record that was trimmed meanwhile is one.
    fn follow(&self, after: u64) -> BoxStream<'static, Result<(u64, Bytes), StoreError>>;
}

/// The lease of a shard's Manager: a hint who leads, replaced only by compare-and-set. The journal is the judge.
pub trait Lease: Send + Sync + 'static {
    /// The newest claim; `None` if there never was one.
    fn look(&self) -> BoxFuture<'_, Result<Option<Claim>, StoreError>>;

    /// Replaces the claim at sequence `expected` (0: there never was one). Returns the sequence of the new one, or `None` if another
    /// stands there, which may be our own after an answer was lost. After an error it may have been stored, or be stored later.
    fn claim(&self, expected: u64, holder: Option<Holder>) -> BoxFuture<'_, Result<Option<u64>, StoreError>>;
}

/// A claim to a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Grows with every claim and renewal.
    pub sequence: u64,
    /// Who holds it; `None` if it was given back.
    pub holder: Option<Holder>,
}

/// Who holds a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its node, for people.
    pub node: String,
    /// Names its data folder; only one process at a time lives there.
    pub home: String,
    /// Names its Manager's life.
    pub life: String,
    /// How long the claim counts without a renewal, in milliseconds.
    pub ttl_ms: u64,
}

/// Why a record was not appended.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The journal has another last record: compare-and-set failed.
    #[error("the journal ends elsewhere than expected")]
    Conflict,
    /// Another write was under way (error 10164); trying the same again is right.
    #[error("another write to the journal was under way")]
    Busy,
    /// Nobody knows; it may have landed or land later.
    #[error("whether the record was written is unknown")]
    Unknown(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// A store could not be read or written; trying again may help.
#[derive(Debug, thiserror::Error)]
#[error("{what} failed")]
pub struct StoreError {
    /// What was tried.
    pub what: String,
    /// Why it failed.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
    /// The store says that something is missing or damaged that must be there; trying again does not help.
    pub damaged: bool,
}

/// What this node remembers of a journal outside the store that holds it: an old backup or an empty disk is noticed by it.
pub trait TailMemory: Send + Sync + 'static {
    /// The last remembered commit: index and hash of its record; `None` if no journal was ever seen here.
    fn recall(&self, shard: ShardId) -> Result<Option<(u64, String)>, StoreError>;

    /// Remembers a commit. May be written a little later; never goes back.
    fn remember(&self, shard: ShardId, index: u64, hash: &str);
}

/// Documents and artifacts, by content hash.
pub trait ObjectStore: Send + Sync + 'static {
    /// Stores `bytes` under `name`; storing the same again is no error.
    fn put<'a>(&'a self, name: &'a str, bytes: Bytes) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Reads `name`; `None` if it is not there.
    fn get<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Bytes>, StoreError>>;

    /// Removes `name`; what is not there is no error. Only for what nobody refers to any more.
    fn delete<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), StoreError>>;
}

/// Small texts that are decided once and then hold for all nodes.
pub trait Pins: Send + Sync + 'static {
    /// What was decided about `name`, if anything was.
    fn get<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<String>, StoreError>>;

    /// Decides `name`, unless it is decided. Returns what holds from now on.
    fn decide<'a>(&'a self, name: &'a str, value: &'a str) -> BoxFuture<'a, Result<String, StoreError>>;
}

/// The stream of public events.
pub trait EventStream: Send + Sync + 'static {
    /// Number of the last event of `shard` that the stream holds; 0 if it is empty. Creates the stream if it is missing.
    fn last_seq(&self, shard: ShardId) -> BoxFuture<'_, Result<u64, StoreError>>;

    /// Publishes in order, each event under its message id. After an error any prefix may have been stored.
    fn publish<'a>(&'a self, events: &'a [Event]) -> BoxFuture<'a, Result<(), StoreError>>;
}

/// Output of attempts.
pub trait OutputLog: Send + Sync + 'static {
    /// Appends a chunk of one attempt's output; returns when it is stored.
    fn append<'a>(&'a self, attempt: &'a AttemptRef, task: &'a str, chunk: OutputChunk) -> BoxFuture<'a, Result<(), StoreError>>;
}

/// A piece of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputChunk {
    /// Where it was written.
    pub source: OutputSource,
    /// What was written.
    pub bytes: Bytes,
}

/// Where output was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputSource {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// Core messaging between processes.
pub trait MessageBus: Send + Sync + 'static {
    /// Sends without waiting for anybody.
    fn publish(&self, subject: String, headers: BTreeMap<String, String>, body: Bytes) -> BoxFuture<'_, Result<(), BusError>>;

    /// Asks one receiver and waits for the answer.
    fn request(
        &self,
        subject: String,
        headers: BTreeMap<String, String>,
        body: Bytes,
        timeout: Duration,
    ) -> BoxFuture<'_, Result<BusMessage, BusError>>;

    /// Messages to `subject` from now on; the subscription survives reconnects.
    fn subscribe(&self, subject: String) -> BoxFuture<'_, Result<BoxStream<'static, BusMessage>, BusError>>;

    /// False while the connection is down: silence then means nothing.
    fn is_connected(&self) -> bool;

    /// How often a connection was made so far. Whoever sees the same number twice while connected was not cut off between.
    fn connections(&self) -> u64;
}

/// A message that came in.
#[derive(Debug, Clone)]
pub struct BusMessage {
    /// Its subject.
    pub subject: String,
    /// Where the sender waits for an answer.
    pub reply: Option<String>,
    /// Its headers (the first value of each).
    pub headers: BTreeMap<String, String>,
    /// Its body.
    pub body: Bytes,
}

/// Why a message did not get through.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// Nobody listens there: it certainly was not taken.
    #[error("nobody listens on {subject}")]
    NoResponders {
        /// The subject.
        subject: String,
    },
    /// No answer in time: it may have been taken.
    #[error("no answer from {subject} in time")]
    Timeout {
        /// The subject.
        subject: String,
    },
    /// The connection failed: it may have been taken.
    #[error("the message to {subject} failed")]
    Failed {
        /// The subject.
        subject: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Time, so that tests can hold it.
pub trait Clock: Send + Sync + 'static {
    /// Wall time.
    fn now(&self) -> Timestamp;
}

/// What tools bring about outside, on record before and after.
pub trait EffectLedger: Send + Sync + 'static {
    /// Puts an intent on record. True: it is there under this attempt, just now, and the effect may be brought about. False: the attempt
    /// is over, or the effect is not open.
    fn intend<'a>(&'a self, attempt: &'a AttemptRef, intent: EffectIntent) -> BoxFuture<'a, bool>;

    /// Says what became of it. Kept by the node until it is on record, before the end of the attempt.
    fn ended(&self, attempt: &AttemptRef, effect: &str, end: EffectEnd);
}

/// Runs jobs of one kind. One engine serves all agents of a node.
pub trait Engine: Send + Sync + 'static {
    /// Runs `job` to its end and returns how it ended. When the future returns, every process of the job is dead.
    ///
    /// `cancel` asks for an orderly end: TERM, 5 s, KILL. The outcome is then [`amphi_protocol::journal::Outcome::Cancelled`].
    /// [`JobOrder::hurry`] ends the patience: KILL at once. Dropping the future kills the tree too, without a confirmation.
    fn run(&self, job: JobOrder, news: mpsc::UnboundedSender<JobNews>, cancel: CancellationToken) -> BoxFuture<'static, AttemptEnd>;
}

/// A job with the identity of its attempt.
#[derive(Debug, Clone)]
pub struct JobOrder {
    /// The attempt.
    pub attempt: AttemptRef,
    /// `t` or `t[i]`.
    pub task: String,
    /// Fencing token.
    pub token: Token,
    /// What to run.
    pub job: Arc<Job>,
    /// Fires when somebody else may soon be given what this attempt holds: whatever lives of it must die now. `cancel` fires too.
    pub hurry: CancellationToken,
    /// The role of the agent that runs it.
    pub role: RoleName,
}

/// What a running job lets its agent know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobNews {
    /// It began; a process has a pid.
    Started {
        /// The process whose exit ends the job, not its guard.
        pid: Option<u32>,
    },
    /// It wrote output, or used CPU time: it is not stuck.
    Active,
    /// It said how far it is.
    Progress {
        /// 0 to 100.
        percent: Option<u8>,
        /// A line for people.
        message: Option<String>,
    },
}

/// Messages between agents: kept in a stream, and live requests beside it.
pub trait AgentMail: Send + Sync + 'static {
    /// Stores a message; returns when it is durable.
    fn send<'a>(&'a self, letter: &'a Letter) -> BoxFuture<'a, Result<Posted, StoreError>>;

    /// Everything that is stored, for one node: from its first call on, also what came while the node was away. What is not settled comes
    /// again. The stream ends when it cannot be read any more.
    fn receive<'a>(&'a self, node: &'a NodeId) -> BoxFuture<'a, Result<BoxStream<'static, Delivery>, StoreError>>;

    /// Asks one agent of a role, live, and waits for the answer.
    fn ask<'a>(&'a self, role: &'a RoleName, message: &'a AgentMessage, timeout: Duration)
    -> BoxFuture<'a, Result<AgentMessage, BusError>>;

    /// Live requests to agents of `role`, each to one of the nodes that take them.
    fn asked<'a>(&'a self, role: &'a RoleName) -> BoxFuture<'a, Result<BoxStream<'static, BusMessage>, BusError>>;
}

/// A stored message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Posted {
    /// Its place in the stream.
    pub sequence: u64,
    /// It was there already under this id.
    pub duplicate: bool,
}

/// A stored message for a node.
#[derive(Debug)]
pub struct Delivery {
    /// Its place in the stream.
    pub sequence: u64,
    /// When it was stored, in milliseconds since 1970.
    pub stored_at: Timestamp,
    /// The message as it was published.
    pub message: BusMessage,
    /// Says what became of it; dropped, it comes again.
    pub settle: oneshot::Sender<Settled>,
}

/// What became of a delivered message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// Those that it is for have it.
    Taken,
    /// Not yet: it comes again after this time.
    Later(Duration),
    /// It is of no use to anybody and never comes again.
    Refused,
}
