//! Who is to lead a shard: waits until the lease is free, takes it by compare-and-set, renews it, and says when it is lost.
//!
//! The lease is a hint. It keeps two Managers from deposing each other for ever and tells a leader how long it may speak without
//! asking; that two never lead the same position is the journal's affair. Only deltas of one's own monotonic clock are used: a claim
//! has lapsed when it has stood unchanged for its time since *we* first saw it, while we could read all along.
//!
//! A holder whose process or connection is gone is noticed before that: nobody answers on the holder's subject, twice, while our own
//! connection has been there for a while (else a restart of NATS would make everybody run).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use amphi_ports::{BusError, Claim, Holder, Lease, MessageBus};
use amphi_protocol::ids::ShardId;
use amphi_protocol::subjects;
use bytes::Bytes;
use futures::StreamExt as _;
use ractor::ActorRef;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::manager::ManagerMessage;

/// Time between two probes for the holder.
const PROBE_EVERY: Duration = Duration::from_millis(200);
/// How long a probe waits: who is there but slow is no business of the probe.
const PROBE_WITHIN: Duration = Duration::from_millis(500);
/// Probes in a row that found nobody after which the holder counts as gone.
const PROBES: u32 = 2;
/// The connection, and the holder, must be as they are for so long before silence means anything.
const SETTLED: Duration = Duration::from_secs(1);
/// A process waits so long for each lease that it holds already, so that others take theirs first and shards spread over nodes.
const MODESTY: Duration = Duration::from_millis(250);
/// The same for a lease that nobody ever held: the other nodes of a new cluster may still be starting.
const FIRST_MODESTY: Duration = Duration::from_secs(1);
/// Standbys that see the same thing at the same time do not run at the same time.
const JITTER_MS: u64 = 60;
/// Pause after the lease could not be asked for.
const PAUSE: Duration = Duration::from_millis(100);
/// How long the lease may take to be given back at the end.
const RELEASE_WITHIN: Duration = Duration::from_secs(1);

/// What a Manager needs to stand for election.
#[derive(Clone)]
pub struct Candidacy {
    /// The lease of its shard.
    pub lease: Arc<dyn Lease>,
    /// Who it is; its `life` is made anew for each life of the Manager.
    pub home: String,
    /// How long a claim counts without a renewal.
    pub ttl: Duration,
    /// How many leases this process holds, over all shards.
    pub held: Arc<AtomicUsize>,
}

/// What is known of our own lease; shared between the Manager and its campaign.
#[derive(Debug)]
pub struct Term {
    origin: Instant,
    /// Milliseconds after `origin` until which a renewal is confirmed.
    until_ms: AtomicU64,
    /// Sequence of our claim; 0 without one.
    sequence: AtomicU64,
}

impl Default for Term {
    fn default() -> Self {
        Self { origin: Instant::now(), until_ms: AtomicU64::new(0), sequence: AtomicU64::new(0) }
    }
}

impl Term {
    /// True as long as nobody else can have taken the lease by its time: two thirds of it after the sending of the last renewal that
    /// was stored. What is said then is the newest that anybody could say.
    pub fn is_confirmed(&self) -> bool {
        self.origin.elapsed() < Duration::from_millis(self.until_ms.load(Ordering::Relaxed))
    }

    fn confirm(&self, sequence: u64, sent: Instant, ttl: Duration) {
        let until = sent.saturating_duration_since(self.origin) + ttl * 2 / 3;
        self.sequence.store(sequence, Ordering::Relaxed);
        self.until_ms.store(u64::try_from(until.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn end(&self) {
        self.until_ms.store(0, Ordering::Relaxed);
        self.sequence.store(0, Ordering::Relaxed);
    }
}

/// One Manager's way to the lease and with it.
pub(super) struct Campaign {
    candidacy: Candidacy,
    bus: Arc<dyn MessageBus>,
    shard: ShardId,
    me: Holder,
    term: Arc<Term>,
}

/// Counts a lease that is held, or about to be taken, as long as it lives.
struct Held(Arc<AtomicUsize>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a standby has seen so far.
struct Watch {
    /// The claim, and since when it has stood unchanged before our eyes.
    claim: Option<(Claim, Instant)>,
    /// Since when the same life holds it.
    holder_since: Instant,
    /// Connections made, and since when the present one stands.
    connection: (u64, Instant),
    misses: u32,
    next_look: Instant,
}

impl Campaign {
    pub fn new(candidacy: Candidacy, bus: Arc<dyn MessageBus>, shard: ShardId, node: &str, term: Arc<Term>) -> Self {
        let ttl_ms = u64::try_from(candidacy.ttl.as_millis()).unwrap_or(u64::MAX);
        let life = uuid::Uuid::now_v7().simple().to_string();
        let me = Holder { node: node.to_owned(), home: candidacy.home.clone(), life, ttl_ms };
        Self { candidacy, bus, shard, me, term }
    }

    /// Ends when the lease was held and is lost, or when the Manager is gone.
    pub async fn run(self, manager: ActorRef<ManagerMessage>) {
        loop {
            let (expected, held) = self.stand_by().await;
            let sent = Instant::now();
            match self.candidacy.lease.claim(expected, Some(self.me.clone())).await {
                Ok(Some(sequence)) => {
                    let reason = self.hold(sequence, sent, &manager).await;
                    drop(held);
                    self.term.end();
                    let _gone = manager.cast(ManagerMessage::Deposed(reason));
                    return;
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(%error, "the lease is asked for again");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Waits until the lease may be taken; returns the sequence of the claim to replace, and the count of it among those that this process
    /// holds.
    async fn stand_by(&self) -> (u64, Held) {
        let now = Instant::now();
        let mut watch = Watch { claim: None, holder_since: now, connection: (self.bus.connections(), now), misses: 0, next_look: now };
        loop {
            if self.is_cut_off(&mut watch) {
                tokio::time::sleep(PROBE_EVERY).await;
                continue;
            }
            if (watch.misses >= PROBES || Instant::now() >= watch.next_look)
                && let Some(turn) = self.may_take(&mut watch).await
            {
                return turn;
            }
            let next = Instant::now() + PROBE_EVERY;
            self.probe(&mut watch).await;
            tokio::time::sleep_until(next).await;
        }
    }

    /// A connection that is down, or another than before: whatever was seen over it begins anew.
    fn is_cut_off(&self, watch: &mut Watch) -> bool {
        let (connected, made) = (self.bus.is_connected(), self.bus.connections());
        if !connected || made != watch.connection.0 {
            watch.connection = (made, Instant::now());
            watch.claim = None;
            watch.misses = 0;
        }
        !connected
    }

    async fn probe(&self, watch: &mut Watch) {
        let asked = self.bus.request(subjects::lease_holder(self.shard), BTreeMap::new(), Bytes::new(), PROBE_WITHIN).await;
        watch.misses = match asked {
            Err(BusError::NoResponders { .. }) => watch.misses.saturating_add(1),
            Ok(_) | Err(BusError::Timeout { .. } | BusError::Failed { .. }) => 0,
        };
    }

    /// The sequence to replace, if the lease is free as far as can be seen from here, and it is our turn.
    async fn may_take(&self, watch: &mut Watch) -> Option<(u64, Held)> {
        let sequence = self.look(watch).await.ok()??;
        let jitter = Duration::from_millis(u64::from(uuid::Uuid::now_v7().as_bytes()[15]) % JITTER_MS);
        let modesty = if sequence == 0 { FIRST_MODESTY } else { MODESTY };
        let (began, count) = (Instant::now(), &self.candidacy.held);
        let held = loop {
            let burden = count.load(Ordering::Relaxed);
            let turn = jitter + modesty * u32::try_from(burden).unwrap_or(u32::MAX);
            if began.elapsed() < turn {
                tokio::time::sleep(turn.saturating_sub(began.elapsed())).await;
            } else if count.compare_exchange(burden, burden + 1, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                // Another seat of this process that looks now counts this one already.
                break Held(count.clone());
            }
        };
        // Somebody else's turn may have come first.
        (self.look(watch).await.ok()?? == sequence).then_some((sequence, held))
    }

    /// Reads the claim. `Some` if it may be replaced: it is nobody's, it was our own process's former life's, it was not renewed for its
    /// time, or its holder is gone.
    async fn look(&self, watch: &mut Watch) -> Result<Option<u64>, amphi_ports::StoreError> {
        watch.next_look = Instant::now() + self.candidacy.ttl / 8;
        let claim = match self.candidacy.lease.look().await {
            Ok(claim) => claim.unwrap_or(Claim { sequence: 0, holder: None }),
            Err(error) => {
                // Nothing was seen, so nothing was silent.
                watch.claim = None;
                return Err(error);
            }
        };
        let now = Instant::now();
        let life = |claim: &Claim| claim.holder.as_ref().map(|holder| holder.life.clone());
        let since = match &watch.claim {
            Some((known, since)) if *known == claim => *since,
            Some((known, _)) if life(known) == life(&claim) => now,
            Some(_) | None => {
                (watch.holder_since, watch.misses) = (now, 0);
                now
            }
        };
        watch.claim = Some((claim.clone(), since));
        let Some(holder) = &claim.holder else { return Ok(Some(claim.sequence)) };
        let lapsed = since.elapsed() >= self.candidacy.ttl.max(Duration::from_millis(holder.ttl_ms));
        let settled = watch.connection.1.elapsed() >= SETTLED && watch.holder_since.elapsed() >= SETTLED;
        let gone = watch.misses >= PROBES && settled;
        // Only one process lives in a data folder, and it is ours.
        let former_life = holder.home == self.me.home;
        Ok((former_life || lapsed || gone).then_some(claim.sequence))
    }

    /// Holds the lease as long as it can be renewed. Returns why it is lost.
    async fn hold(&self, mut sequence: u64, sent: Instant, manager: &ActorRef<ManagerMessage>) -> String {
        let ttl = self.candidacy.ttl;
        let (bus, shard) = (self.bus.clone(), self.shard);
        let _presence = AbortOnDropHandle::new(tokio::spawn(be_present(bus, shard)));
        self.term.confirm(sequence, sent, ttl);
        if manager.cast(ManagerMessage::Elected).is_err() {
            return "its Manager is gone".to_owned();
        }
        loop {
            tokio::time::sleep(ttl / 8).await;
            let sent = Instant::now();
            match self.candidacy.lease.claim(sequence, Some(self.me.clone())).await {
                Ok(Some(renewed)) => {
                    sequence = renewed;
                    self.term.confirm(sequence, sent, ttl);
                    continue;
                }
                Ok(None) => {}
                // It may be stored all the same, or later.
                Err(error) => tracing::debug!(%error, "the lease is not renewed"),
            }
            match self.candidacy.lease.look().await {
                Ok(Some(Claim { sequence: newest, holder: Some(holder) })) if holder.life == self.me.life => sequence = newest,
                Ok(Some(Claim { holder: Some(holder), .. })) => return format!("{} has taken the lease", holder.node),
                Ok(_) => return "the lease is gone".to_owned(),
                Err(error) => tracing::debug!(%error, "whether the lease is ours is not known"),
            }
        }
    }
}

/// Gives the lease back, so that nobody waits for it to lapse. A Manager that was deposed holds none.
pub(super) async fn release(candidacy: &Candidacy, term: &Term) {
    let sequence = term.sequence.load(Ordering::Relaxed);
    if sequence > 0 {
        term.end();
        // Without an answer the others wait a little longer.
        let _lapses = tokio::time::timeout(RELEASE_WITHIN, candidacy.lease.claim(sequence, None)).await;
    }
}

/// Answers probes for as long as the lease is held.
async fn be_present(bus: Arc<dyn MessageBus>, shard: ShardId) {
    loop {
        match bus.subscribe(subjects::lease_holder(shard)).await {
            Ok(mut probes) => {
                while let Some(probe) = probes.next().await {
                    if let Some(reply) = probe.reply {
                        // Whoever gets no answer asks again.
                        let _lost = bus.publish(reply, BTreeMap::new(), Bytes::new()).await;
                    }
                }
            }
            Err(error) => tracing::debug!(%error, "the holder's subject is subscribed later"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}
