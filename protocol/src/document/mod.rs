//! The epic document: what a user asks for, checked, resolved and expanded.
//!
//! `compile` turns YAML or JSON into an [`EpicSpec`] or into all its problems at once; [`Plan`] expands a spec into task instances
//! and edges. Both are pure, and both the core and the checker use them, so they never see two different graphs.

mod plan;
mod reference;
mod spec;

pub use reference::InvalidReference;
pub use plan::{Plan, PlannedInstance, PlannedTask};
pub use spec::*;
