//! A Manager without NATS: journal, stores, bus and memory in memory, and the smallest supervisor that restarts.

#![allow(dead_code, reason = "each test uses its part")]

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use amphi_agents::manager::campaign::Candidacy;
use amphi_agents::manager::{Leadership, Manager, ManagerArguments, ManagerHandle, UpkeepLimits};
use amphi_coordination::liveness::Periods;
use amphi_coordination::{EventSink, State};
use amphi_ports::{
    AgentMail, AppendError, BusError, BusMessage, Claim, Clock, Delivery, EventStream, Holder, Journal, Lease, MessageBus, ObjectStore,
    Posted, StoreError, TailMemory,
};
use amphi_protocol::document::EpicSpec;
use amphi_protocol::event::Event;
use amphi_protocol::ids::{EpicId, Epoch, NodeId, ProjectId, RoleName, ShardId, SubmitKey, Timestamp};
use amphi_protocol::journal::{Decision, Input, Record, SpecRef, Submission};
use amphi_protocol::message::{AgentMessage, Letter};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _};
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};

/// What becomes of an append.
#[derive(Debug, Clone, Copy)]
pub enum Doubt {
    /// Stored, but nobody hears of it.
    LostAck,
    /// Not stored, and nobody knows.
    NotStored,
    /// Another write was under way.
    Busy,
}

/// How much of a step is done when the Manager that began it is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    Nothing,
    /// Nothing yet: it is done when others are long at work.
    Late,
    All,
}

/// What a step does to the stores.
type Effect = Box<dyn FnOnce() + Send>;

/// Stops a Manager for good at one step of its keeping.
#[derive(Default)]
pub struct Cutter {
    armed: Mutex<Option<(&'static str, Done)>>,
    late: Mutex<Option<Effect>>,
    pub cut: AtomicBool,
}

impl Cutter {
    /// The next step whose name begins with `step` never comes back.
    pub fn arm(&self, step: &'static str, done: Done) {
        self.cut.store(false, Ordering::SeqCst);
        *self.armed.lock().unwrap() = Some((step, done));
    }

    /// Does what was under way when its Manager went; false if nothing was.
    pub fn late(&self) -> bool {
        self.late.lock().unwrap().take().map(|effect| effect()).is_some()
    }

    /// The step as it goes: done, or cut off.
    async fn step<T: Send>(&self, name: &str, effect: impl FnOnce() -> T + Send + 'static) -> T {
        let done = self.armed.lock().unwrap().take_if(|(step, _)| name.starts_with(*step)).map(|(_, done)| done);
        match done {
            None => return effect(),
            Some(Done::Nothing) => {}
            Some(Done::All) => drop(effect()),
            Some(Done::Late) => *self.late.lock().unwrap() = Some(Box::new(move || drop(effect()))),
        }
        self.cut.store(true, Ordering::SeqCst);
        futures::future::pending().await
    }
}

/// The name of the step that a record puts on record.
fn step_of(bytes: &[u8]) -> &'static str {
    let record = Record::decode(bytes).unwrap();
    let name = |decision: &Decision| match decision {
        Decision::SnapshotTaken { .. } => Some("record snapshot"),
        Decision::SegmentArchived { .. } => Some("record segment"),
        Decision::EpicRetired { .. } => Some("record epic"),
        Decision::HistoryOver { .. } => Some("record history"),
        _ => None,
    };
    record.decisions.iter().flatten().find_map(name).unwrap_or("record")
}

#[derive(Clone, Default)]
pub struct MemoryJournal(Arc<Kept>);

impl std::ops::Deref for MemoryJournal {
    type Target = Kept;

    fn deref(&self) -> &Kept {
        &self.0
    }
}

#[derive(Default)]
pub struct Kept {
    /// May stop its Manager at an append or a trim.
    pub cutter: Arc<Cutter>,
    /// A trim that would have taken what is not archived on record, or what recovery needs.
    pub wrong: Mutex<Option<String>>,
    records: Mutex<Vec<Bytes>>,
    doubts: Mutex<VecDeque<Doubt>>,
    /// Records before this position are trimmed; here they are kept for the judges.
    trimmed: Mutex<usize>,
    /// The next trim fails half-way.
    pub trims_half: AtomicBool,
    /// Records handed out.
    pub read: AtomicU64,
}

impl Kept {
    pub fn records(&self) -> Vec<Bytes> {
        self.records.lock().unwrap().clone()
    }

    /// Records that are gone for readers.
    pub fn trimmed(&self) -> usize {
        *self.trimmed.lock().unwrap()
    }

    pub fn next_append(&self, doubt: Doubt) {
        self.doubts.lock().unwrap().push_back(doubt);
    }

    /// Another node began a term meanwhile.
    pub fn foreign_term(&self, node: NodeId) {
        let mut records = self.records.lock().unwrap();
        let last_bytes = records.last().unwrap().clone();
        let last = Record::decode(&last_bytes).unwrap();
        let epoch = Epoch(last.epoch.0 + 1);
        let mut state = State::new(ShardId(0));
        for bytes in records.iter() {
            state.apply(&Record::decode(bytes).unwrap(), &mut EventSink::counting()).unwrap();
        }
        let record = Record {
            index: last.index.next(),
            epoch,
            commit_id: "foreign".to_owned(),
            prev_hash: Record::hash(&last_bytes),
            seq: state.seq,
            inputs: vec![Input::Lead { node: node.clone() }],
            decisions: vec![vec![Decision::EpochStarted { node, epoch }]],
            ..last
        };
        records.push(record.encode().into());
    }
}

impl Kept {
    fn appended(&self, expected: u64, record: Bytes) -> Result<u64, AppendError> {
        let doubt = self.doubts.lock().unwrap().pop_front();
        let mut records = self.records.lock().unwrap();
        let unknown = || Err(AppendError::Unknown("no answer".into()));
        match doubt {
            Some(Doubt::Busy) => return Err(AppendError::Busy),
            Some(Doubt::NotStored) => return unknown(),
            Some(Doubt::LostAck) | None => {}
        }
        if records.len() as u64 != expected {
            return Err(AppendError::Conflict);
        }
        records.push(record);
        if doubt.is_some() { unknown() } else { Ok(records.len() as u64) }
    }

    fn trim_to(&self, first: u64) -> Result<(), StoreError> {
        let decided = self.records().iter().flat_map(|bytes| Record::decode(bytes).unwrap().decisions).flatten().collect::<Vec<_>>();
        let archived = decided.iter().rev().find_map(|decision| match decision {
            Decision::SegmentArchived { segment } => Some(segment.to.0),
            _ => None,
        });
        let needed = decided.iter().rev().find_map(|decision| match decision {
            Decision::SnapshotTaken { older, .. } => Some(older.as_ref().map_or(0, |older| older.index.0)),
            _ => None,
        });
        if archived.is_none_or(|archived| first > archived + 1) || needed.is_none_or(|needed| first > needed + 1) {
            *self.wrong.lock().unwrap() = Some(format!("trimmed below {first}; archived to {archived:?}, needed after {needed:?}"));
        }
        let mut trimmed = self.trimmed.lock().unwrap();
        let half = self.trims_half.swap(false, Ordering::Relaxed);
        let wanted = (first as usize - 1).max(*trimmed);
        *trimmed = if half { (*trimmed + wanted) / 2 } else { wanted };
        if half { Err(failed("the purge was interrupted", false)) } else { Ok(()) }
    }
}

impl Journal for MemoryJournal {
    fn append(&self, expected: u64, record: Bytes) -> BoxFuture<'_, Result<u64, AppendError>> {
        let (kept, step) = (self.0.clone(), step_of(&record));
        self.cutter.step(step, move || kept.appended(expected, record)).boxed()
    }

    fn last(&self) -> BoxFuture<'_, Result<Option<(u64, Bytes)>, StoreError>> {
        let records = self.records();
        futures::future::ready(Ok(records.last().map(|last| (records.len() as u64, last.clone())))).boxed()
    }

    fn first(&self) -> BoxFuture<'_, Result<u64, StoreError>> {
        futures::future::ready(Ok(*self.trimmed.lock().unwrap() as u64 + 1)).boxed()
    }

    fn trim(&self, first: u64) -> BoxFuture<'_, Result<(), StoreError>> {
        let kept = self.0.clone();
        self.cutter.step("trim", move || kept.trim_to(first)).boxed()
    }

    fn read(&self, after: u64) -> BoxStream<'_, Result<(u64, Bytes), StoreError>> {
        let trimmed = *self.trimmed.lock().unwrap() as u64;
        if after < trimmed {
            return futures::stream::iter([Err(failed("the record is not there any more", true))]).boxed();
        }
        let records = (1u64..).zip(self.records()).filter(move |(sequence, _)| *sequence > after);
        let records: Vec<_> = records.map(Ok).collect();
        futures::stream::iter(records)
            .inspect(|_| {
                self.read.fetch_add(1, Ordering::Relaxed);
            })
            .boxed()
    }

    fn follow(&self, after: u64) -> BoxStream<'static, Result<(u64, Bytes), StoreError>> {
        let journal = self.clone();
        futures::stream::unfold(after + 1, move |next| {
            let journal = journal.clone();
            async move {
                loop {
                    if next <= journal.trimmed() as u64 {
                        return Some((Err(failed("the record is not there any more", true)), next));
                    }
                    if let Some(record) = journal.records().get(next as usize - 1) {
                        return Some((Ok((next, record.clone())), next + 1));
                    }
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        })
        .boxed()
    }
}

/// A lease in memory.
#[derive(Default)]
pub struct MemoryLease(Mutex<Option<Claim>>);

impl MemoryLease {
    /// Who holds it.
    pub fn holder(&self) -> Option<Holder> {
        self.0.lock().unwrap().as_ref()?.holder.clone()
    }
}

impl Lease for MemoryLease {
    fn look(&self) -> BoxFuture<'_, Result<Option<Claim>, StoreError>> {
        futures::future::ready(Ok(self.0.lock().unwrap().clone())).boxed()
    }

    fn claim(&self, expected: u64, holder: Option<Holder>) -> BoxFuture<'_, Result<Option<u64>, StoreError>> {
        let mut claim = self.0.lock().unwrap();
        let stands = claim.as_ref().map_or(0, |claim| claim.sequence);
        let taken = (stands == expected).then_some(stands + 1);
        if let Some(sequence) = taken {
            *claim = Some(Claim { sequence, holder });
        }
        futures::future::ready(Ok(taken)).boxed()
    }
}

/// A candidacy for `lease` of the node in the data folder `home`.
pub fn candidacy(lease: &Arc<MemoryLease>, home: &str) -> Candidacy {
    Candidacy { lease: lease.clone(), home: home.to_owned(), ttl: Duration::from_secs(3), held: Arc::default() }
}

#[derive(Default)]
pub struct Objects {
    pub kept: Arc<Mutex<BTreeMap<String, Bytes>>>,
    /// May stop its Manager at an upload or a removal.
    pub cutter: Arc<Cutter>,
    /// Snapshots are acknowledged and not kept.
    pub forgets: AtomicBool,
    pub forgotten: AtomicU64,
}

fn failed(what: &str, damaged: bool) -> StoreError {
    StoreError { what: what.to_owned(), source: None, damaged }
}

impl ObjectStore for Objects {
    fn put<'a>(&'a self, name: &'a str, bytes: Bytes) -> BoxFuture<'a, Result<(), StoreError>> {
        if self.forgets.load(Ordering::Relaxed) && name.starts_with("snapshot-") {
            self.forgotten.fetch_add(1, Ordering::Relaxed);
            return futures::future::ready(Ok(())).boxed();
        }
        let (kept, key) = (self.kept.clone(), name.to_owned());
        let stores = move || drop(kept.lock().unwrap().insert(key, bytes));
        async move {
            self.cutter.step(name, stores).await;
            Ok(())
        }
        .boxed()
    }

    fn delete<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        let (kept, key) = (self.kept.clone(), name.to_owned());
        let removes = move || drop(kept.lock().unwrap().remove(&key));
        async move {
            self.cutter.step("remove", removes).await;
            Ok(())
        }
        .boxed()
    }

    fn get<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Bytes>, StoreError>> {
        futures::future::ready(Ok(self.kept.lock().unwrap().get(name).cloned())).boxed()
    }
}

pub struct NoWorld;

impl EventStream for NoWorld {
    fn last_seq(&self, _shard: ShardId) -> BoxFuture<'_, Result<u64, StoreError>> {
        futures::future::ready(Ok(0)).boxed()
    }

    fn publish<'a>(&'a self, _events: &'a [Event]) -> BoxFuture<'a, Result<(), StoreError>> {
        futures::future::ready(Ok(())).boxed()
    }
}

impl AgentMail for NoWorld {
    fn send<'a>(&'a self, _letter: &'a Letter) -> BoxFuture<'a, Result<Posted, StoreError>> {
        futures::future::ready(Ok(Posted { sequence: 1, duplicate: false })).boxed()
    }

    fn receive<'a>(&'a self, _node: &'a NodeId) -> BoxFuture<'a, Result<BoxStream<'static, Delivery>, StoreError>> {
        futures::future::ready(Ok(futures::stream::empty().boxed())).boxed()
    }

    fn ask<'a>(&'a self, role: &'a RoleName, _: &'a AgentMessage, _: Duration) -> BoxFuture<'a, Result<AgentMessage, BusError>> {
        futures::future::ready(Err(BusError::NoResponders { subject: role.to_string() })).boxed()
    }

    fn asked<'a>(&'a self, _role: &'a RoleName) -> BoxFuture<'a, Result<BoxStream<'static, BusMessage>, BusError>> {
        futures::future::ready(Ok(futures::stream::empty().boxed())).boxed()
    }
}

impl MessageBus for NoWorld {
    fn publish(&self, _subject: String, _headers: BTreeMap<String, String>, _body: Bytes) -> BoxFuture<'_, Result<(), BusError>> {
        futures::future::ready(Ok(())).boxed()
    }

    fn request(
        &self,
        subject: String,
        _headers: BTreeMap<String, String>,
        _body: Bytes,
        _timeout: Duration,
    ) -> BoxFuture<'_, Result<BusMessage, BusError>> {
        futures::future::ready(Err(BusError::NoResponders { subject })).boxed()
    }

    fn subscribe(&self, _subject: String) -> BoxFuture<'_, Result<BoxStream<'static, BusMessage>, BusError>> {
        futures::future::ready(Ok(futures::stream::pending().boxed())).boxed()
    }

    fn is_connected(&self) -> bool {
        true
    }

    fn connections(&self) -> u64 {
        1
    }
}

impl Clock for NoWorld {
    fn now(&self) -> Timestamp {
        Timestamp(1_000)
    }
}

#[derive(Default)]
pub struct Memory(Mutex<Option<(u64, String)>>);

impl Memory {
    /// As if this had been remembered last.
    pub fn set(&self, index: u64, hash: String) {
        *self.0.lock().unwrap() = Some((index, hash));
    }

    /// What is remembered.
    pub fn newest(&self) -> Option<(u64, String)> {
        self.0.lock().unwrap().clone()
    }

    /// As if the journal had been longer once.
    pub fn remember_more(&self) {
        *self.0.lock().unwrap() = Some((1_000, "beyond the end".to_owned()));
    }
}

impl TailMemory for Memory {
    fn recall(&self, _shard: ShardId) -> Result<Option<(u64, String)>, StoreError> {
        Ok(self.0.lock().unwrap().clone())
    }

    fn remember(&self, _shard: ShardId, index: u64, hash: &str) {
        *self.0.lock().unwrap() = Some((index, hash.to_owned()));
    }
}

/// Starts the Manager again whenever it falls.
struct Keeper;

impl Actor for Keeper {
    type Msg = ();
    type State = ManagerArguments;
    type Arguments = ManagerArguments;

    async fn pre_start(&self, myself: ActorRef<()>, arguments: ManagerArguments) -> Result<ManagerArguments, ActorProcessingErr> {
        Actor::spawn_linked(None, Manager, arguments.clone(), myself.get_cell()).await?;
        Ok(arguments)
    }

    async fn handle(&self, myself: ActorRef<()>, _restart: (), arguments: &mut ManagerArguments) -> Result<(), ActorProcessingErr> {
        myself.get_cell().stop_children(None);
        Actor::spawn_linked(None, Manager, arguments.clone(), myself.get_cell()).await?;
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<()>,
        event: SupervisionEvent,
        arguments: &mut ManagerArguments,
    ) -> Result<(), ActorProcessingErr> {
        if matches!(event, SupervisionEvent::ActorFailed(..)) {
            Actor::spawn_linked(None, Manager, arguments.clone(), myself.get_cell()).await?;
        }
        Ok(())
    }
}

pub struct Stage {
    pub manager: ManagerHandle,
    pub journal: Arc<MemoryJournal>,
    pub memory: Arc<Memory>,
    pub objects: Arc<Objects>,
    keeper: ActorRef<()>,
}

/// Generous; a test that waits for it has failed.
pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), future).await.expect("within the deadline")
}

impl Stage {
    pub async fn open() -> Self {
        Self::open_with(UpkeepLimits::default()).await
    }

    pub async fn open_with(upkeep: UpkeepLimits) -> Self {
        let (journal, memory) = (Arc::<MemoryJournal>::default(), Arc::<Memory>::default());
        let objects = Arc::new(Objects { cutter: journal.cutter.clone(), ..Objects::default() });
        let manager = ManagerHandle::default();
        let world = Arc::new(NoWorld);
        let arguments = ManagerArguments {
            node: NodeId::parse("node-1").unwrap(),
            shard: ShardId(0),
            journal: journal.clone(),
            objects: objects.clone(),
            events: world.clone(),
            mail: world.clone(),
            bus: world.clone(),
            memory: memory.clone(),
            clock: world,
            handle: manager.clone(),
            upkeep,
            periods: Periods { node_dead_ms: 15_000, fence_ms: 18_000 },
            candidacy: candidacy(&Arc::default(), "home-1"),
        };
        let (keeper, _) = Actor::spawn(None, Keeper, arguments).await.unwrap();
        let stage = Self { manager, journal, memory, objects, keeper };
        stage.leads_again().await;
        stage
    }

    pub async fn leads_again(&self) {
        soon(self.manager.leadership().wait_for(|now| matches!(now, Leadership::Leads(_)))).await.unwrap();
    }

    pub fn restart(&self) {
        self.keeper.cast(()).unwrap();
    }

    /// It never leads again: every boot fails.
    pub async fn stays_down(&self) {
        soon(self.manager.leadership().wait_for(|now| *now == Leadership::None)).await.unwrap();
        let records = self.journal.records().len();
        let mut leadership = self.manager.leadership();
        let led = tokio::time::timeout(Duration::from_millis(500), leadership.wait_for(|now| matches!(now, Leadership::Leads(_)))).await;
        assert!(led.is_err(), "it leads on a journal that is not the one it knows");
        assert_eq!(self.journal.records().len(), records);
    }

    /// Replay accepts every record, and the chain of hashes is whole.
    pub fn holds_together(&self) {
        let mut state = State::new(ShardId(0));
        let mut hash = String::new();
        for bytes in self.journal.records() {
            let record = Record::decode(&bytes).unwrap();
            assert_eq!(record.prev_hash, hash, "record {}", record.index);
            state.apply(&record, &mut EventSink::counting()).unwrap();
            hash = Record::hash(&bytes);
        }
    }

    pub async fn kept_object(&self, prefix: &str) {
        soon(async {
            while !self.objects.kept.lock().unwrap().keys().any(|name| name.starts_with(prefix)) {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

/// An epic of one task that nobody is there to do.
pub fn submission(number: usize) -> Input {
    let spec: EpicSpec = serde_json::from_value(serde_json::json!({
        "name": "e", "project": "default", "priority": 2,
        "tasks": [{
            "name": "a", "work": { "tool": { "tool": "noop", "with": {} } }, "priority": 2, "stuck_after_ms": 1000,
            "retry": { "attempts": 1, "backoff_ms": 0, "max_ms": 0, "on": [] },
        }],
    }))
    .unwrap();
    Input::Submit(Submission {
        admission: None,
        epic: id(number),
        key: SubmitKey::parse(&format!("key {number}")).unwrap(),
        body_hash: "b".to_owned(),
        by: "local".to_owned(),
        project: ProjectId::parse("default").unwrap(),
        spec: SpecRef::new(Arc::new(spec)).0,
    })
}

/// The id of the epic of [`submission`].
pub fn id(number: usize) -> EpicId {
    EpicId::parse(&format!("e-{number}")).unwrap()
}
