//! amphi-adapters.

pub mod nats;
pub mod process;
pub mod tools;
pub mod worktree;
