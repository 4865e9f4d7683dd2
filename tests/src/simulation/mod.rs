//! A whole cluster in one thread and without a clock: Managers on the real core, a journal, a network, nodes with agents, clients.
//!
//! Everything that happens is an event at a simulated moment, taken in order; everything random comes from the seed. So a seed is a
//! history, and the same seed is the same bug twice. Faults are injected for a number of steps; then they stop, and everything must
//! come to its end. Around it stands the [`observer::Observer`], which believes nobody: it sees what really ran.
//!
//! The parts that are not the core (journal, network, nodes) follow the contracts in `amphi_protocol` and never help the core.
//!
//! Start at [`run`].

mod client;
mod effects;
mod epics;
mod fault;
mod finish;
mod journal;
mod manager;
mod node;
mod observer;
mod process;
mod rng;
mod standby;
pub mod sweep;
mod tally;
mod upkeep;
mod world;

pub use tally::Tally;
pub use world::Outcome;

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use world::World;

thread_local! {
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// How a run is made.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Steps during which faults are injected.
    pub steps: u64,
    /// Tells every step on stderr.
    pub trace: bool,
}

/// Plays the history of `seed` to its end. A panic of the core is an outcome like any other violation.
pub fn run(seed: u64, options: Options) -> Outcome {
    let played = catch_unwind(AssertUnwindSafe(|| World::new(seed, options).play()));
    played.unwrap_or_else(|_| Outcome {
        seed,
        steps_asked: options.steps,
        steps: 0,
        commits: 0,
        tally: Tally::default(),
        violation: Some(format!("panic: {}", PANIC.with_borrow(String::clone))),
    })
}

/// Keeps the text of a panic for the outcome instead of printing it. For the whole process.
pub fn catch_panics() {
    std::panic::set_hook(Box::new(|info| PANIC.set(info.to_string())));
}
