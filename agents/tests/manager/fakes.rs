//! A Manager without NATS: journal, stores, bus and memory in memory, and the smallest supervisor that restarts.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use amphi_agents::manager::{Leadership, Manager, ManagerArguments, ManagerHandle};
use amphi_coordination::liveness::Periods;
use amphi_coordination::{EventSink, State};
use amphi_ports::{
    AgentMail, AppendError, BusError, BusMessage, Clock, Delivery, EventStream, Journal, MessageBus, ObjectStore, Posted, StoreError,
    TailMemory,
};
use amphi_protocol::event::Event;
use amphi_protocol::ids::{Epoch, NodeId, RoleName, ShardId, Timestamp};
use amphi_protocol::journal::{Decision, Input, Record};
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

#[derive(Default)]
pub struct MemoryJournal {
    records: Mutex<Vec<Bytes>>,
    doubts: Mutex<VecDeque<Doubt>>,
}

impl MemoryJournal {
    pub fn records(&self) -> Vec<Bytes> {
        self.records.lock().unwrap().clone()
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

impl Journal for MemoryJournal {
    fn append(&self, expected: u64, record: Bytes) -> BoxFuture<'_, Result<u64, AppendError>> {
        let result = (|| {
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
        })();
        futures::future::ready(result).boxed()
    }

    fn last(&self) -> BoxFuture<'_, Result<Option<(u64, Bytes)>, StoreError>> {
        let records = self.records();
        futures::future::ready(Ok(records.last().map(|last| (records.len() as u64, last.clone())))).boxed()
    }

    fn read(&self, after: u64) -> BoxStream<'_, Result<(u64, Bytes), StoreError>> {
        let records = (1u64..).zip(self.records()).filter(move |(sequence, _)| *sequence > after).map(Ok);
        futures::stream::iter(records).boxed()
    }
}

#[derive(Default)]
pub struct Objects(Mutex<BTreeMap<String, Bytes>>);

impl ObjectStore for Objects {
    fn put<'a>(&'a self, name: &'a str, bytes: Bytes) -> BoxFuture<'a, Result<(), StoreError>> {
        self.0.lock().unwrap().insert(name.to_owned(), bytes);
        futures::future::ready(Ok(())).boxed()
    }

    fn get<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Bytes>, StoreError>> {
        futures::future::ready(Ok(self.0.lock().unwrap().get(name).cloned())).boxed()
    }
}

struct NoWorld;

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
}

impl Clock for NoWorld {
    fn now(&self) -> Timestamp {
        Timestamp(1_000)
    }
}

#[derive(Default)]
pub struct Memory(Mutex<Option<(u64, String)>>);

impl Memory {
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
    objects: Arc<Objects>,
    keeper: ActorRef<()>,
}

/// Generous; a test that waits for it has failed.
pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), future).await.expect("within the deadline")
}

impl Stage {
    pub async fn open() -> Self {
        let (journal, memory, objects) = (Arc::<MemoryJournal>::default(), Arc::<Memory>::default(), Arc::<Objects>::default());
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
            periods: Periods { node_dead_ms: 15_000, fence_ms: 18_000 },
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
            while !self.objects.0.lock().unwrap().keys().any(|name| name.starts_with(prefix)) {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}
