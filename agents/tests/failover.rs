//! Several Managers of one shard, in virtual time: exactly one leads, the others follow, and whoever is gone, silent or cut off is
//! replaced; what a deposed one still believes changes nothing.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "manager/fakes.rs"]
mod fakes;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use amphi_agents::manager::campaign::Candidacy;
use amphi_agents::manager::{Leadership, Manager, ManagerArguments, ManagerHandle, UpkeepLimits};
use amphi_coordination::liveness::Periods;
use amphi_coordination::seat::Answer;
use amphi_ports::{AppendError, BusError, BusMessage, Claim, Clock, Holder, Journal, Lease, MessageBus, StoreError};
use amphi_protocol::ids::{NodeId, ShardId, Timestamp};
use amphi_protocol::journal::Record;
use amphi_protocol::subjects;
use bytes::Bytes;
use fakes::{Memory, MemoryJournal, MemoryLease, NoWorld, Objects, submission};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _};
use ractor::{Actor, ActorCell};
use tokio::time::Instant;

const TTL: Duration = Duration::from_secs(3);

/// What a cut link keeps and lets through when it heals, as a client's buffer does.
type Late = Arc<Mutex<Vec<Box<dyn FnOnce() + Send>>>>;

/// One node's view of the world, over a link that can be cut.
#[derive(Clone)]
struct Link {
    journal: MemoryJournal,
    lease: Arc<MemoryLease>,
    /// Listeners on the holder's subject, of all nodes.
    present: Arc<AtomicUsize>,
    connections: Arc<AtomicU64>,
    cut: Arc<AtomicBool>,
    late: Late,
}

fn no_answer() -> StoreError {
    StoreError { what: "asking over a cut link".to_owned(), source: None, damaged: false }
}

impl Link {
    fn is_cut(&self) -> bool {
        self.cut.load(Ordering::SeqCst)
    }

    /// What was written meanwhile arrives now.
    fn heal(&self) {
        self.cut.store(false, Ordering::SeqCst);
        self.connections.fetch_add(1, Ordering::SeqCst);
        let late = std::mem::take(&mut *self.late.lock().unwrap());
        late.into_iter().for_each(|write| write());
    }
}

impl Lease for Link {
    fn look(&self) -> BoxFuture<'_, Result<Option<Claim>, StoreError>> {
        if self.is_cut() { futures::future::ready(Err(no_answer())).boxed() } else { self.lease.look() }
    }

    fn claim(&self, expected: u64, holder: Option<Holder>) -> BoxFuture<'_, Result<Option<u64>, StoreError>> {
        if !self.is_cut() {
            return self.lease.claim(expected, holder);
        }
        let lease = self.lease.clone();
        self.late.lock().unwrap().push(Box::new(move || drop(lease.claim(expected, holder).now_or_never())));
        futures::future::ready(Err(no_answer())).boxed()
    }
}

impl Journal for Link {
    fn append(&self, expected: u64, record: Bytes) -> BoxFuture<'_, Result<u64, AppendError>> {
        if !self.is_cut() {
            return self.journal.append(expected, record);
        }
        let journal = self.journal.clone();
        self.late.lock().unwrap().push(Box::new(move || drop(journal.append(expected, record).now_or_never())));
        futures::future::ready(Err(AppendError::Unknown("the link is cut".into()))).boxed()
    }

    fn last(&self) -> BoxFuture<'_, Result<Option<(u64, Bytes)>, StoreError>> {
        if self.is_cut() { futures::future::ready(Err(no_answer())).boxed() } else { self.journal.last() }
    }

    fn first(&self) -> BoxFuture<'_, Result<u64, StoreError>> {
        self.journal.first()
    }

    fn trim(&self, first: u64) -> BoxFuture<'_, Result<(), StoreError>> {
        self.journal.trim(first)
    }

    fn read(&self, after: u64) -> BoxStream<'_, Result<(u64, Bytes), StoreError>> {
        self.journal.read(after)
    }

    fn follow(&self, after: u64) -> BoxStream<'static, Result<(u64, Bytes), StoreError>> {
        let cut = self.cut.clone();
        self.journal.follow(after).filter(move |_| futures::future::ready(!cut.load(Ordering::SeqCst))).boxed()
    }
}

/// Counts a listener until it is dropped.
struct Listening(Arc<AtomicUsize>);

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl MessageBus for Link {
    fn publish(&self, _: String, _: BTreeMap<String, String>, _: Bytes) -> BoxFuture<'_, Result<(), BusError>> {
        futures::future::ready(Ok(())).boxed()
    }

    fn request(
        &self,
        subject: String,
        _: BTreeMap<String, String>,
        _: Bytes,
        timeout: Duration,
    ) -> BoxFuture<'_, Result<BusMessage, BusError>> {
        let is_there = subject == subjects::lease_holder(ShardId(0)) && self.present.load(Ordering::SeqCst) > 0;
        let cut = self.is_cut();
        async move {
            if cut {
                tokio::time::sleep(timeout).await;
                return Err(BusError::Timeout { subject });
            }
            if !is_there {
                return Err(BusError::NoResponders { subject });
            }
            Ok(BusMessage { subject, reply: None, headers: BTreeMap::new(), body: Bytes::new() })
        }
        .boxed()
    }

    fn subscribe(&self, subject: String) -> BoxFuture<'_, Result<BoxStream<'static, BusMessage>, BusError>> {
        let listening = (subject == subjects::lease_holder(ShardId(0))).then(|| {
            self.present.fetch_add(1, Ordering::SeqCst);
            Listening(self.present.clone())
        });
        let never = futures::stream::pending().inspect(move |_: &BusMessage| assert!(listening.is_some(), "nobody sends"));
        futures::future::ready(Ok(never.boxed())).boxed()
    }

    fn is_connected(&self) -> bool {
        !self.is_cut()
    }

    fn connections(&self) -> u64 {
        self.connections.load(Ordering::SeqCst)
    }
}

const YEAR_MS: u64 = 365 * 86_400_000;

/// Says always the same.
struct WallClock(Timestamp);

impl Clock for WallClock {
    fn now(&self) -> Timestamp {
        self.0
    }
}

/// One node of the troupe.
struct Member {
    link: Link,
    handle: ManagerHandle,
    memory: Arc<Memory>,
    arguments: ManagerArguments,
    actor: ActorCell,
}

impl Member {
    /// Each has another idea of what year it is.
    async fn start(number: usize, journal: &MemoryJournal, lease: &Arc<MemoryLease>, present: &Arc<AtomicUsize>) -> Self {
        let link = Link {
            journal: journal.clone(),
            lease: lease.clone(),
            present: present.clone(),
            connections: Arc::new(AtomicU64::new(1)),
            cut: Arc::default(),
            late: Arc::default(),
        };
        let (handle, memory, world) = (ManagerHandle::default(), Arc::<Memory>::default(), Arc::new(NoWorld));
        let candidacy = Candidacy { lease: Arc::new(link.clone()), home: format!("home-{number}"), ttl: TTL, held: Arc::default() };
        let arguments = ManagerArguments {
            node: NodeId::parse(&format!("node-{number}")).unwrap(),
            shard: ShardId(0),
            journal: Arc::new(link.clone()),
            objects: Arc::new(Objects::default()),
            events: world.clone(),
            mail: world.clone(),
            bus: Arc::new(link.clone()),
            memory: memory.clone(),
            clock: Arc::new(WallClock(Timestamp(YEAR_MS * number as u64 + 1_000))),
            handle: handle.clone(),
            upkeep: UpkeepLimits::default(),
            periods: Periods { node_dead_ms: 15_000, fence_ms: 18_000 },
            candidacy,
        };
        let actor = Actor::spawn(None, Manager, arguments.clone()).await.unwrap().0.get_cell();
        Self { link, handle, memory, arguments, actor }
    }

    /// As a supervisor does.
    async fn start_again(&mut self) {
        self.actor = Actor::spawn(None, Manager, self.arguments.clone()).await.unwrap().0.get_cell();
    }

    fn leads(&self) -> bool {
        self.handle.leads()
    }
}

struct Troupe {
    journal: MemoryJournal,
    lease: Arc<MemoryLease>,
    members: Vec<Member>,
}

impl Troupe {
    async fn of(count: usize) -> Self {
        let (journal, lease, present) = (MemoryJournal::default(), Arc::<MemoryLease>::default(), Arc::default());
        let mut members = Vec::new();
        for number in 0..count {
            members.push(Member::start(number, &journal, &lease, &present).await);
        }
        Self { journal, lease, members }
    }

    /// Waits until a member that `fits` leads, and gives its place.
    async fn leader(&self, fits: impl Fn(usize) -> bool) -> usize {
        let leads = self.members.iter().enumerate().filter(|(place, _)| fits(*place)).map(|(place, member)| {
            let mut leadership = member.handle.leadership();
            async move {
                leadership.wait_for(|now| matches!(now, Leadership::Leads(_))).await.unwrap();
                place
            }
            .boxed()
        });
        fakes::soon(futures::future::select_all(leads)).await.0
    }

    async fn submits(&self, place: usize, number: usize) {
        let answer = fakes::soon(self.members[place].handle.take(submission(number))).await.unwrap();
        assert!(matches!(answer, Answer::Committed { .. }), "{answer:?}");
    }

    /// The journal's time, between its first record and its last.
    fn elapsed(&self) -> Duration {
        let times: Vec<u64> = self.journal.records().iter().map(|bytes| Record::decode(bytes).unwrap().now_ms.0).collect();
        Duration::from_millis(times.last().unwrap() - times.first().unwrap())
    }

    /// Terms follow each other, and the chain holds.
    fn holds_together(&self) -> u64 {
        let (mut hash, mut epoch) = (String::new(), 0);
        for bytes in self.journal.records() {
            let record = Record::decode(&bytes).unwrap();
            assert_eq!(record.prev_hash, hash, "record {}", record.index);
            assert!(record.epoch.0 == epoch || record.epoch.0 == epoch + 1, "record {}", record.index);
            (hash, epoch) = (Record::hash(&bytes), record.epoch.0);
        }
        epoch
    }

    async fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let waits = async {
            while !holds() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        assert!(tokio::time::timeout(Duration::from_secs(30), waits).await.is_ok(), "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn exactly_one_leads_and_the_others_have_what_it_has() {
    let troupe = Troupe::of(3).await;
    let leader = troupe.leader(|_| true).await;
    for number in 0..20 {
        troupe.submits(leader, number).await;
    }
    let records = troupe.journal.records();
    let newest = (records.len() as u64, Record::hash(records.last().unwrap()));
    for member in &troupe.members {
        troupe.until("a standby follows", || member.memory.newest().as_ref() == Some(&newest)).await;
    }
    tokio::time::sleep(TTL * 5).await;
    assert_eq!(troupe.members.iter().filter(|member| member.leads()).count(), 1);
    assert_eq!(troupe.holds_together(), 1, "nobody runs for a lease that is held");
    for member in troupe.members.iter().filter(|member| !member.leads()) {
        assert!(member.handle.take(submission(99)).await.is_err(), "a standby takes nothing in");
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_ends_in_order_hands_over_at_once() {
    let troupe = Troupe::of(3).await;
    let leader = troupe.leader(|_| true).await;
    troupe.submits(leader, 1).await;
    tokio::time::sleep(TTL).await;
    let began = Instant::now();
    troupe.members[leader].actor.stop_and_wait(None, None).await.unwrap();
    let next = troupe.leader(|place| place != leader).await;
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    troupe.submits(next, 2).await;
    assert_eq!(troupe.holds_together(), 2);
}

#[tokio::test(start_paused = true)]
async fn whoever_is_gone_is_replaced_before_its_lease_is_over() {
    let troupe = Troupe::of(3).await;
    let leader = troupe.leader(|_| true).await;
    tokio::time::sleep(TTL).await;
    let began = Instant::now();
    troupe.members[leader].actor.kill();
    let next = troupe.leader(|place| place != leader).await;
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    troupe.submits(next, 1).await;
    assert_eq!(troupe.holds_together(), 2);
    assert!(troupe.elapsed() < Duration::from_secs(10), "the wall clock of who follows does not count: {:?}", troupe.elapsed());
}

#[tokio::test(start_paused = true)]
async fn whoever_is_cut_off_is_deposed_and_its_late_writes_land_nowhere() {
    let mut troupe = Troupe::of(2).await;
    let leader = troupe.leader(|_| true).await;
    troupe.submits(leader, 1).await;
    tokio::time::sleep(TTL).await;
    let cut = troupe.members[leader].link.clone();
    cut.cut.store(true, Ordering::SeqCst);
    let began = Instant::now();
    // In doubt: it is published again and again, into a buffer.
    let handle = troupe.members[leader].handle.clone();
    let doubtful = tokio::spawn(async move { handle.take(submission(2)).await });
    let next = troupe.leader(|place| place != leader).await;
    let within = TTL + Duration::from_secs(2);
    assert!(began.elapsed() >= TTL * 2 / 3 && began.elapsed() < within, "{:?}", began.elapsed());
    // The old one still believes that it leads, and does not speak for the cluster any more.
    assert!(troupe.members[leader].leads());
    let asked = troupe.members[leader].handle.read(|at| at.state.epoch);
    assert!(tokio::time::timeout(TTL, asked).await.is_err(), "it answers from a state that may be old");
    troupe.submits(next, 3).await;
    let before = troupe.journal.records();
    cut.heal();
    assert_eq!(troupe.journal.records(), before, "nothing of an older term is stored");
    assert!(fakes::soon(doubtful).await.unwrap().is_err(), "what was in doubt is not acknowledged");
    let old = &troupe.members[leader];
    troupe.until("it steps down", || !old.leads()).await;
    troupe.members[leader].start_again().await;
    troupe.submits(next, 4).await;
    let records = troupe.journal.records();
    let newest = Record::hash(records.last().unwrap());
    let old = &troupe.members[leader];
    troupe.until("it follows", || old.memory.newest().is_some_and(|(_, hash)| hash == newest)).await;
    assert_eq!(troupe.holds_together(), 2);
    assert_eq!(troupe.lease.holder().map(|holder| holder.node), Some(format!("node-{next}")));
}

#[tokio::test(start_paused = true)]
async fn after_an_outage_of_the_bus_nobody_runs_for_election() {
    let troupe = Troupe::of(3).await;
    let leader = troupe.leader(|_| true).await;
    tokio::time::sleep(TTL).await;
    for _ in 0..5 {
        for member in &troupe.members {
            member.link.cut.store(true, Ordering::SeqCst);
        }
        tokio::time::sleep(TTL * 2).await;
        for member in &troupe.members {
            member.link.heal();
        }
        // Its subscriptions come back a little later than its connection.
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
    tokio::time::sleep(TTL * 2).await;
    assert!(troupe.members[leader].leads());
    assert_eq!(troupe.holds_together(), 1);
}
