//! The published tree: supervisors write what they know, observers read it without sending a message to any actor.
//!
//! Nothing is decided from what stands here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use amphi_protocol::tree::{TreeKind, TreeNode, TreeState};
use dashmap::DashMap;
use ractor::{ActorRef, Message, MessagingErr};

/// Deepest tree that is shown; a deeper one would be a loop of names.
const DEPTH_MAX: usize = 32;

/// Counts the messages that wait for one actor. ractor 0.16.5 does not expose the depth of a mailbox (its channel is private), so the
/// sender counts up and the actor counts down.
#[derive(Debug, Clone, Default)]
pub struct Mailbox(Arc<AtomicU64>);

impl Mailbox {
    /// A mailbox over a counter that the actor knows.
    pub fn over(counter: Arc<AtomicU64>) -> Self {
        Self(counter)
    }

    /// The counter, for code that does not know this crate.
    pub fn counter(&self) -> Arc<AtomicU64> {
        self.0.clone()
    }

    /// Sends and counts; what was not accepted is not counted.
    pub fn send<M: Message>(&self, actor: &ActorRef<M>, message: M) -> Result<(), MessagingErr<M>> {
        self.0.fetch_add(1, Ordering::Relaxed);
        actor.cast(message).inspect_err(|_| self.taken())
    }

    /// The actor takes one message. Never goes below zero, because a restart empties the mailbox in between.
    pub fn taken(&self) {
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |depth| depth.checked_sub(1));
    }

    /// Messages that wait.
    pub fn depth(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// The actor is gone, and its messages with it.
    pub(crate) fn emptied(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// What a supervisor publishes about a child.
#[derive(Debug, Clone)]
pub(crate) struct ChildRow {
    /// `children` stays empty here.
    pub node: TreeNode,
    /// Where the waiting messages are counted.
    pub mailbox: Option<Mailbox>,
}

/// What a supervisor publishes about itself.
#[derive(Debug, Clone)]
pub(crate) struct SupervisorRow {
    pub strategy: &'static str,
    pub max: u32,
    pub within_ms: u64,
    pub state: TreeState,
    pub last_exit: Option<String>,
    pub children: Vec<ChildRow>,
}

/// All supervisors of a process, by actor name.
#[derive(Debug, Default)]
pub struct TreeBoard {
    supervisors: DashMap<String, SupervisorRow>,
}

impl TreeBoard {
    /// An empty board.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// The tree below the supervisor whose actor has this name; `None` if it was never started.
    pub fn render(&self, root: &str) -> Option<TreeNode> {
        let row = self.supervisors.get(root)?.clone();
        let mut node = TreeNode {
            name: root.to_owned(),
            actor: root.to_owned(),
            kind: TreeKind::Supervisor,
            strategy: None,
            restart: None,
            restarts: 0,
            max: None,
            within_ms: None,
            state: row.state,
            mailbox: None,
            last_exit: row.last_exit.clone(),
            children: Vec::new(),
        };
        self.fill(&mut node, row, 0);
        Some(node)
    }

    /// One child of a supervisor, with everything below it.
    pub fn child(&self, supervisor: &str, id: &str) -> Option<TreeNode> {
        let row = self.supervisors.get(supervisor)?.children.iter().find(|row| row.node.name == id)?.clone();
        Some(self.shown(row, 0))
    }

    fn fill(&self, node: &mut TreeNode, row: SupervisorRow, depth: usize) {
        node.strategy = Some(row.strategy.to_owned());
        node.max = Some(row.max);
        node.within_ms = Some(row.within_ms);
        if depth < DEPTH_MAX {
            node.children = row.children.into_iter().map(|child| self.shown(child, depth + 1)).collect();
        }
    }

    fn shown(&self, child: ChildRow, depth: usize) -> TreeNode {
        let ChildRow { mut node, mailbox } = child;
        node.mailbox = mailbox.map(|mailbox| mailbox.depth());
        if node.kind == TreeKind::Supervisor {
            // Cloned out first: no guard is held while the next row is looked up.
            let row = self.supervisors.get(&node.actor).map(|row| row.clone());
            if let Some(row) = row {
                self.fill(&mut node, row, depth);
            }
        }
        node
    }

    pub(crate) fn put_supervisor(&self, name: &str, row: SupervisorRow) {
        self.supervisors.insert(name.to_owned(), row);
    }

    pub(crate) fn set_supervisor(&self, name: &str, state: TreeState, last_exit: Option<String>) {
        if let Some(mut row) = self.supervisors.get_mut(name) {
            row.state = state;
            row.last_exit = last_exit.or_else(|| row.last_exit.take());
        }
    }

    pub(crate) fn add_child(&self, supervisor: &str, child: ChildRow) {
        if let Some(mut row) = self.supervisors.get_mut(supervisor) {
            row.children.push(child);
        }
    }

    pub(crate) fn remove_child(&self, supervisor: &str, id: &str) {
        if let Some(mut row) = self.supervisors.get_mut(supervisor) {
            row.children.retain(|child| child.node.name != id);
        }
    }

    pub(crate) fn set_child(&self, supervisor: &str, id: &str, change: impl FnOnce(&mut TreeNode)) {
        if let Some(mut row) = self.supervisors.get_mut(supervisor)
            && let Some(child) = row.children.iter_mut().find(|child| child.node.name == id)
        {
            change(&mut child.node);
        }
    }

    /// A supervisor died without an orderly end: everything below it is down too.
    pub(crate) fn mark_dead(&self, supervisor: &str) {
        let mut pending = vec![supervisor.to_owned()];
        let mut visits = 0;
        while let Some(name) = pending.pop() {
            let Some(mut row) = self.supervisors.get_mut(&name) else { continue };
            row.state = TreeState::Stopped;
            for child in &mut row.children {
                if child.node.state != TreeState::Quarantined {
                    child.node.state = TreeState::Stopped;
                }
                if child.node.kind == TreeKind::Supervisor && visits < 10_000 {
                    visits += 1;
                    pending.push(child.node.actor.clone());
                }
            }
        }
    }
}
