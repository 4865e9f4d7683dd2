//! What only tests need: the deterministic simulation of a whole cluster.
//!
//! Nothing here is part of the product. Start at [`simulation`].

pub mod simulation;
