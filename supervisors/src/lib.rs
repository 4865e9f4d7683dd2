//! Supervision trees: who lives, in which order, how often again, and when to give up.
//!
//! A supervisor decides who lives and nothing else: what is done is the Manager's affair, and no model has a say here. No handler
//! waits for a child, so a supervisor hears every exit and every order at once. What it knows is published on a [`TreeBoard`];
//! nobody asks actors how they are.
//!
//! Start at [`policy`] (the decisions, pure), then [`SupervisorSpec`] (what is supervised) and [`Supervisor`] (the actor).

mod board;
mod ending;
pub mod policy;
pub mod scaling;
mod spec;
mod supervisor;

pub use board::{Mailbox, TreeBoard};
pub use policy::{Backoff, ExitKind, Intensity, OnExhausted, Restart, Strategy};
pub use spec::{
    ChildError, ChildEvent, ChildEventHook, ChildEventKind, ChildSpec, StartFn, SupervisorArguments, SupervisorSpec, nested, no_hook,
};
pub use supervisor::{GaveUp, Internal, Supervisor, SupervisorMessage, restart_child, settled, start_child, terminate_child};
