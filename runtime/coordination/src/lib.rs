//! The pure coordination core: one deterministic machine over the task graph, locks, the fleet and the queue.
//!
//! It never reads a clock, draws a random number, logs, awaits or touches the world: time and ids are arguments, and what must
//! happen outside leaves as [`seat::Action`]s after the commit. Derived facts (what is ready) are kept, not journalled.
//!
//! Start at [`State::decide`] (an input becomes decisions), [`State::evolve`] (a decision changes the state, on the leader and in
//! every replay alike) and [`seat::Seat`] (the commit loop around them). The laws that must hold after each step are in [`laws`].

mod backlog;
mod changes;
mod children;
mod conditions;
mod decide;
mod effects;
mod epic;
mod evolve;
mod fleet;
mod globs;
mod graph;
mod history;
mod incidents;
pub mod laws;
pub mod liveness;
mod locks;
mod messages;
pub mod mutants;
mod outside;
mod pause;
mod pins;
mod queue;
mod retry;
pub mod seat;
mod sink;
pub mod snapshot;
mod state;
mod undo;
pub mod views;
mod waits;

pub use backlog::Turn;
pub use decide::Refusal;
pub use effects::Effect;
pub use epic::{Attempt, AttemptPhase, Epic, EpicStatus, Instance, InstanceEnd, InstanceState, Nested, Parent, TaskEnd, TaskProgress};
pub use fleet::{Agent, AgentState, Node};
pub use history::{History, Retired, put_away};
pub use locks::{Holder, Lock, Party, ResourceKey, Waiter};
pub use outside::{Ask, OutsideStanding};
pub use sink::EventSink;
pub use state::{ReplayError, State};
