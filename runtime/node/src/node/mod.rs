//! A node process: one life from its proof that the former one is dead to its orderly end. Wiring only; no decisions.
//!
//! Start at [`run`]; what the node is made of stands in [`tree`], the small bus tasks in [`service`].

mod memory;
mod pools;
mod pressure;
mod service;
pub(crate) mod staff;
mod tree;
mod world;

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use amphi_adapters::nats::leave_lonely_server;
use amphi_adapters::nats::managed::{DataLock, LockError};
use amphi_adapters::process::{become_subreaper, confirm_dead};
use amphi_config::{Environment, RoleBase, Sources, TeamConfig, load};
use amphi_protocol::api::ErrorCode;
use amphi_protocol::ids::{Incarnation, NodeId};
use amphi_supervisors::SupervisorMessage;
use anyhow::{Context as _, bail};
use async_nats::client::FlushErrorKind;
use ractor::ActorRef;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::up::child::{announce_ready, read_spec};
use crate::up::{INCARNATION_FILE, NodeSpec};
use tree::{Life, Tree};
use world::World;

/// How long the former life may take to be dead with everything that it started: a guard gives up after 5 s of silence.
const FORMER_LIFE: Duration = Duration::from_secs(20);
/// Running tasks may go on for so long after SIGTERM.
const DRAIN: Duration = Duration::from_secs(25);
/// How often the node looks whether its connection still is one.
const CONNECTION_CHECK: Duration = Duration::from_secs(1);

/// Runs a node until it is told to end or `up` is gone. Returns the exit code.
pub async fn run() -> u8 {
    let (spec, gone) = match tokio::task::spawn_blocking(read_spec).await {
        Ok(Ok(read)) => read,
        Ok(Err(error)) => return refuse(&error.into()),
        Err(error) => return refuse(&error.into()),
    };
    match live(spec, gone).await {
        Ok(()) => 0,
        Err(error) if error.is::<IdTaken>() => {
            refuse(&error);
            EXIT_CONFLICT
        }
        Err(error) => refuse(&error),
    }
}

/// The id belongs to somebody who lives.
#[derive(Debug)]
struct IdTaken(NodeId);

impl std::fmt::Display for IdTaken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the cluster has a living node {} in another data folder\ngive this one an id of its own: --node-prefix P", self.0)
    }
}

impl std::error::Error for IdTaken {}

/// Another node has the id; `up` does not try again.
const EXIT_CONFLICT: u8 = 5;

fn refuse(error: &anyhow::Error) -> u8 {
    tracing::error!("the node ends: {error:#}");
    1
}

async fn live(spec: NodeSpec, gone: CancellationToken) -> anyhow::Result<()> {
    become_subreaper().context("cannot adopt orphans")?;
    let _lock = take_over(&spec.data).await?;
    let life = begin_life(&spec.data)?;
    let (team, roles, environment) = configuration(&spec)?;
    if let (Some("1"), Some(place)) = (environment.get("AMPHI_FAULTS"), environment.get("AMPHI_KILL_AT")) {
        amphi_agents::failpoint::arm(place).map_err(anyhow::Error::msg)?;
    }
    let world = World::open(&spec, &team, roles, &environment).await?;
    let (memory, clients, has_seat) = (world.memory.clone(), [world.client.clone(), world.edge.clone()], world.seats.is_some());
    let _sweep = AbortOnDropHandle::new(tokio::spawn(world.worktrees.sweep()));
    let _wander = clients.clone().map(|client| {
        let url = spec.nats.clone();
        AbortOnDropHandle::new(tokio::spawn(async move { leave_lonely_server(&client, &url).await }))
    });
    let tree = Tree::plant(&spec, life, &team, world).await?;
    let mut signals = [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?];
    let [terminate, interrupt] = &mut signals;
    let root = tree.root.clone();
    tokio::select! {
        () = gone.cancelled() => bail!("`up` is gone"),
        () = died(root) => bail!("the root supervisor gave up"),
        () = any_given_up(&clients) => bail!("the connection to NATS is given up"),
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        ready = tell_when_ready(&spec, &tree, has_seat) => {
            ready?;
            tokio::select! {
                () = gone.cancelled() => bail!("`up` is gone"),
                () = died(tree.root.clone()) => bail!("the root supervisor gave up"),
                () = any_given_up(&clients) => bail!("the connection to NATS is given up"),
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        }
    }
    tracing::info!(node = %spec.node, "draining");
    tokio::select! {
        () = gone.cancelled() => bail!("`up` is gone"),
        _ = terminate.recv() => bail!("ended at once by a second signal"),
        _ = interrupt.recv() => bail!("ended at once by a second signal"),
        drained = futures::future::join_all(tree.desks.iter().map(|desk| desk.drain(DRAIN))) => {
            if drained.iter().any(|drained| drained.is_none_or(|drained| !drained.reported)) {
                tracing::warn!("some reports were not acknowledged; the next life of the node makes up for them");
            }
        }
    }
    // In reverse order of the start; bounded by each child's own time.
    let _stopped = tree.root.stop_and_wait(Some("the node ends".to_owned()), Some(Duration::from_secs(15))).await;
    memory.flush().await;
    Ok(())
}

/// Waits until the former life of this node is over, and proves that nothing of it runs.
async fn take_over(data: &Path) -> anyhow::Result<DataLock> {
    let began = Instant::now();
    let lock = loop {
        match DataLock::acquire(data) {
            Ok(lock) => break lock,
            Err(LockError::Held { .. }) if began.elapsed() < FORMER_LIFE => tokio::time::sleep(Duration::from_millis(20)).await,
            Err(error) => return Err(error).context("the former life of this node does not end"),
        }
    };
    let folder = data.to_owned();
    let proof = tokio::task::spawn_blocking(move || confirm_dead(&folder, FORMER_LIFE)).await?;
    if let Err(left) = proof {
        bail!("processes of the former life still run and cannot be ended: {left:?}");
    }
    Ok(lock)
}

/// The number of this life: the time in milliseconds, and in any case more than the one before.
fn begin_life(data: &Path) -> anyhow::Result<Life> {
    let home = crate::up::kept(&data.join("home"), || uuid::Uuid::now_v7().simple().to_string()).context("cannot name the data folder")?;
    let path = data.join(INCARNATION_FILE);
    let former: u64 = std::fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    let now = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0);
    let present = now.max(former + 1);
    amphi_adapters::nats::remembered::write_durably(&path, present.to_string().as_bytes()).context("cannot write the incarnation")?;
    Ok(Life { incarnation: Incarnation(present), home })
}

fn configuration(spec: &NodeSpec) -> anyhow::Result<(TeamConfig, RoleBase, Environment)> {
    let environment = Environment::capture();
    let folder = std::env::current_dir().unwrap_or_default();
    let sources = Sources { environment: environment.clone(), flags: Vec::new(), file: spec.config.clone(), folder };
    let loaded = load(&sources).map_err(|error| anyhow::anyhow!("{}", error.to_api().message))?;
    Ok((loaded.team, loaded.role_base, environment))
}

/// Ready is who is registered with every shard, which takes Managers that lead, and, with a seat, serves.
async fn tell_when_ready(spec: &NodeSpec, tree: &Tree, has_seat: bool) -> anyhow::Result<()> {
    for desk in &tree.desks {
        loop {
            match desk.snapshot().await {
                Some(desk) if desk.joined && (!has_seat || tree.serving.load(Ordering::Relaxed)) => break,
                Some(desk) if desk.refused.as_deref() == Some(ErrorCode::StateConflict.as_str()) => {
                    return Err(IdTaken(spec.node.clone()).into());
                }
                Some(_) | None => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }
    announce_ready(None, tree.desks.len()).context("`up` does not listen")?;
    Ok(())
}

/// As [`given_up`], for whichever is first.
async fn any_given_up([core, edge]: &[async_nats::Client; 2]) {
    tokio::select! {
        () = given_up(core) => {}
        () = given_up(edge) => {}
    }
}

/// Waits until the library has given the node's connection up, which no reconnecting mends: its task has died, for instance of a message
/// with a malformed header. Without it the node hears nothing any more, so its next life takes over.
async fn given_up(client: &async_nats::Client) {
    loop {
        tokio::time::sleep(CONNECTION_CHECK).await;
        if client.flush().await.is_err_and(|error| error.kind() == FlushErrorKind::SendError) {
            return;
        }
    }
}

async fn died(root: ActorRef<SupervisorMessage>) {
    // A supervisor that gives up stops; nobody else stops the root but the end of this function's caller.
    let _ended = root.wait(None).await;
}
