//! Actors that misbehave on demand, and a record of what happened to them.
#![allow(dead_code, clippy::unwrap_used, reason = "each test file uses its part; this is test code without #[test]")]

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use amphi_protocol::tree::{TreeNode, TreeState};
use amphi_supervisors::*;
use futures::FutureExt;
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::sync::mpsc;

pub const DEADLINE: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub enum Do {
    Panic,
    Fail,
    Stop(Option<String>),
    /// Blocks the thread: a kill has to wait.
    Spin(Duration),
    /// Never returns, but can be killed.
    Hang,
    Ping(RpcReplyPort<u32>),
}

/// Says `start X` and `stop X` (from `post_stop`) in the order in which it happens.
#[derive(Clone, Default)]
pub struct Diary(Arc<Mutex<Vec<String>>>);

impl Diary {
    pub fn write(&self, line: String) {
        self.0.lock().unwrap().push(line);
    }
    pub fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

#[derive(Clone)]
pub struct Player {
    pub id: String,
    pub diary: Diary,
    /// How many of the next starts fail.
    pub failing_starts: Arc<AtomicU32>,
    pub start_takes: Duration,
    pub life: Arc<AtomicU32>,
}

impl Actor for Player {
    type Msg = Do;
    type State = u32;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Do>, (): ()) -> Result<u32, ActorProcessingErr> {
        tokio::time::sleep(self.start_takes).await;
        let failing = self.failing_starts.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok();
        if failing {
            return Err("the world is broken".into());
        }
        self.diary.write(format!("start {}", self.id));
        Ok(self.life.fetch_add(1, Ordering::SeqCst) + 1)
    }

    async fn handle(&self, myself: ActorRef<Do>, message: Do, life: &mut u32) -> Result<(), ActorProcessingErr> {
        match message {
            Do::Panic => panic!("on demand"),
            Do::Fail => return Err("failed on demand".into()),
            Do::Stop(reason) => myself.stop(reason),
            Do::Spin(time) => {
                self.diary.write(format!("spin {}", self.id));
                std::thread::sleep(time);
            }
            Do::Hang => std::future::pending().await,
            Do::Ping(reply) => reply.send(*life)?,
        }
        Ok(())
    }

    async fn post_stop(&self, _: ActorRef<Do>, _: &mut u32) -> Result<(), ActorProcessingErr> {
        self.diary.write(format!("stop {}", self.id));
        Ok(())
    }
}

static STAGES: AtomicU64 = AtomicU64::new(1);

/// One test's tree. Names are global in a process, so each stage has its own prefix.
pub struct Stage {
    pub prefix: String,
    pub board: Arc<TreeBoard>,
    pub diary: Diary,
    pub events: mpsc::UnboundedReceiver<ChildEvent>,
    hook: ChildEventHook,
}

impl Stage {
    pub fn new() -> Self {
        let (sender, events) = mpsc::unbounded_channel();
        let hook: ChildEventHook = Arc::new(move |event| {
            let _ = sender.send(event);
        });
        let prefix = format!("stage-{}", STAGES.fetch_add(1, Ordering::SeqCst));
        Self { prefix, board: TreeBoard::new(), diary: Diary::default(), events, hook }
    }

    pub fn name(&self, id: &str) -> String {
        format!("{}/{id}", self.prefix)
    }

    pub fn player(&self, id: &str) -> Player {
        Player {
            id: id.to_owned(),
            diary: self.diary.clone(),
            failing_starts: Arc::default(),
            start_takes: Duration::ZERO,
            life: Arc::default(),
        }
    }

    pub fn child(&self, id: &str) -> ChildSpec {
        self.child_of(self.player(id))
    }

    pub fn child_of(&self, player: Player) -> ChildSpec {
        let name = self.name(&player.id);
        ChildSpec::worker(player.id.clone(), move |supervisor: ActorCell| {
            let (name, player) = (name.clone(), player.clone());
            async move { supervisor.spawn_linked(Some(name), player, ()).await.map(|(actor, _)| actor.get_cell()) }.boxed()
        })
    }

    pub fn spec(&self, id: &str, children: Vec<ChildSpec>) -> SupervisorSpec {
        let mut spec = SupervisorSpec::new(self.name(id), children);
        spec.intensity = Intensity { max: 3, within: Duration::from_secs(600) };
        spec.backoff = Backoff { first: Duration::from_millis(1), cap: Duration::from_millis(20), quiet: Duration::from_secs(600) };
        spec
    }

    pub fn arguments(&self, spec: SupervisorSpec) -> SupervisorArguments {
        SupervisorArguments { spec, board: self.board.clone(), on_child_event: self.hook.clone() }
    }

    /// Starts a root and waits for its children.
    pub async fn open(&self, spec: SupervisorSpec) -> Root {
        let name = spec.name.clone();
        let (supervisor, task) = Supervisor::spawn(self.arguments(spec)).await.expect("the root starts");
        settled(&supervisor, Some(DEADLINE)).await.expect("the root settles");
        Root { name, supervisor, task }
    }

    /// The player's actor as it is now.
    pub fn actor(&self, id: &str) -> ActorRef<Do> {
        ractor::registry::where_is(self.name(id)).unwrap_or_else(|| panic!("{id} does not live")).into()
    }

    pub async fn life(&self, id: &str) -> u32 {
        ping(&self.actor(id)).await
    }

    /// The next event about `child` that satisfies `wanted`; others are skipped.
    pub async fn event(&mut self, child: &str, wanted: impl Fn(&ChildEventKind) -> bool) -> ChildEventKind {
        let next = async {
            loop {
                let event = self.events.recv().await.expect("the hook lives");
                if event.child == child && wanted(&event.kind) {
                    return event.kind;
                }
            }
        };
        tokio::time::timeout(DEADLINE, next).await.unwrap_or_else(|_| panic!("no such event about {child}"))
    }

    /// Makes a player block its thread, and returns when it does.
    pub async fn spin(&self, id: &str, time: Duration) {
        self.actor(id).cast(Do::Spin(time)).unwrap();
        self.written(&format!("spin {id}"), 1).await;
    }

    /// Waits until the diary has a line so many times.
    pub async fn written(&self, line: &str, times: usize) {
        let wait = async {
            while self.diary.lines().iter().filter(|l| *l == line).count() < times {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(DEADLINE, wait).await.unwrap_or_else(|_| panic!("no `{line}` in the diary"));
    }

    /// Waits until a child stands on the board.
    pub async fn shown(&self, supervisor: &str, id: &str) {
        let wait = async {
            while self.board.child(&self.name(supervisor), id).is_none() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(DEADLINE, wait).await.unwrap_or_else(|_| panic!("{id} does not come onto the board"));
    }

    pub async fn restarted(&mut self, child: &str) -> u64 {
        match self.event(child, |kind| matches!(kind, ChildEventKind::Restarted { .. })).await {
            ChildEventKind::Restarted { count, .. } => count,
            _ => unreachable!(),
        }
    }

    pub async fn exited(&mut self, child: &str) -> (String, bool) {
        match self.event(child, |kind| matches!(kind, ChildEventKind::Exited { .. })).await {
            ChildEventKind::Exited { reason, abnormal } => (reason, abnormal),
            _ => unreachable!(),
        }
    }

    pub fn node(&self, supervisor: &str, id: &str) -> TreeNode {
        self.board.child(&self.name(supervisor), id).unwrap_or_else(|| panic!("{id} is not on the board"))
    }

    pub fn state(&self, supervisor: &str, id: &str) -> TreeState {
        self.node(supervisor, id).state
    }
}

pub struct Root {
    pub name: String,
    pub supervisor: ActorRef<SupervisorMessage>,
    pub task: tokio::task::JoinHandle<()>,
}

impl Root {
    pub async fn close(self) {
        self.supervisor.stop(None);
        self.gone().await;
    }

    pub async fn gone(self) {
        tokio::time::timeout(DEADLINE, self.task).await.expect("the root ends in time").expect("the root's task ends");
    }
}

pub async fn ping(actor: &ActorRef<Do>) -> u32 {
    actor.call(Do::Ping, Some(DEADLINE)).await.expect("it accepts messages").expect("it answers")
}
