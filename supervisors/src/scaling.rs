//! How many agents a pool should have: up with the queue, down when there is nothing to do or the machine is short of something. Pure.
//!
//! It says how many and why, never who works on what; whoever works is not counted as someone who can go.

/// A pool as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool {
    /// It never has fewer.
    pub min: u32,
    /// It never has more.
    pub max: u32,
    /// Agents that are there and stay.
    pub agents: u32,
    /// Those of them with nothing to do.
    pub idle: u32,
    /// Those of them with nothing to do for so long that they may go.
    pub long_idle: u32,
}

/// What the pool is up against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Demand {
    /// Tasks that wait for nothing but an agent of this role, in the whole cluster.
    pub waiting: u32,
    /// Tasks that the node could run beside those that it runs.
    pub room: u32,
    /// What the machine is short of.
    pub shortage: Option<Shortage>,
}

/// What a machine is short of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shortage {
    /// Memory.
    Memory,
    /// Processor time.
    Cpu,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Nothing.
    Stay,
    /// So many more agents.
    Up(u32),
    /// So many fewer, because of this.
    Down(u32, Why),
}

/// Why agents go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// They had nothing to do for long.
    Idle,
    /// The machine is short of something.
    Short(Shortage),
    /// There are more than the pool may have.
    TooMany,
}

/// Decides once; to be asked again and again.
#[must_use]
pub fn scale(pool: Pool, demand: Demand) -> Scale {
    let above_min = pool.agents.saturating_sub(pool.min);
    if pool.agents > pool.max {
        return Scale::Down(pool.agents - pool.max, Why::TooMany);
    }
    // What the pool must have it gets whatever happens.
    if pool.agents < pool.min {
        return Scale::Up(pool.min - pool.agents);
    }
    if let Some(shortage) = demand.shortage {
        return if above_min > 0 { Scale::Down(above_min, Why::Short(shortage)) } else { Scale::Stay };
    }
    if demand.waiting > 0 {
        // Whoever is idle takes what waits; only what is left needs more.
        let wanted = demand.waiting.saturating_sub(pool.idle).min(demand.room.saturating_sub(pool.idle)).min(pool.max - pool.agents);
        return if wanted > 0 { Scale::Up(wanted) } else { Scale::Stay };
    }
    match above_min.min(pool.long_idle) {
        0 => Scale::Stay,
        surplus => Scale::Down(surplus, Why::Idle),
    }
}
