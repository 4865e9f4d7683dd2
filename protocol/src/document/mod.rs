//! The epic document: what a user asks for, checked, resolved and expanded.
//!
//! [`compile`] turns YAML or JSON into an [`EpicSpec`] or into all its problems at once; [`Plan`] expands a spec into task instances
//! and edges. Both are pure, and both the core and the checker use them, so they never see two different graphs.

mod allowed;
mod check;
mod compile;
mod condition;
mod graph;
mod inputs;
mod keys;
mod kinds;
mod locks;
mod matrix;
mod options;
mod outputs;
mod plan;
mod read;
mod reference;
mod report;
mod shell;
mod spec;
mod sub_epic;
mod summary;
mod tasks;
#[cfg(test)]
mod tests;
mod texts;
mod undo;
mod wait;
mod workspace;
mod yaml;

pub use compile::{compile, compile_bytes};
pub use options::{Catalog, CompileOptions, Compiled, Included, Limits};
pub use outputs::{OUTPUT_BYTES_MAX, check_outputs, parse_output_type};
pub use plan::{Plan, PlannedInstance, PlannedTask, combination_count};
pub use read::parse_duration;
pub use reference::InvalidReference;
pub use spec::*;
pub use sub_epic::{SUB_EPIC_LEVELS_MAX, SUB_EPICS_MAX, beside, named_files};
pub use summary::{PLAN_EDGES_MAX, PlanLock, PlanView, plan_summary};
pub use texts::{input_value, substitute, substitute_text};

pub use crate::node::value_text;
