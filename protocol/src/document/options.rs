//! What `compile` needs to know besides the document, and what it gives back.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::api::Problem;
use crate::document::EpicSpec;
use crate::ids::RoleName;

/// How a document is compiled. The default knows no roles and no tools, and warns about each.
#[derive(Debug, Clone, Default)]
pub struct CompileOptions {
    /// The file as the user named it; it stands in every problem.
    pub file: Option<String>,
    /// Values for the document's inputs. A text is read as the declared type, so `-i n=3` works for an integer.
    pub inputs: BTreeMap<String, Value>,
    /// Which roles and tools exist.
    pub catalog: Catalog,
    /// Warnings are problems.
    pub strict: bool,
    /// How large things may be.
    pub limits: Limits,
    /// The folder that a relative `workspace.path` starts from, absolute. `None`: a relative one is a problem, as over NATS.
    pub workspace_base: Option<PathBuf>,
    /// The files that it names as sub-epics, and those that these name, by [`beside`]. A name that is not here cannot be read.
    pub files: Arc<BTreeMap<String, Included>>,
    /// Unknown roles, unknown tools and missing inputs are problems (submit) and not only warnings (validate).
    pub unknown_names_are_errors: bool,
}

/// A file that a document names as a sub-epic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Included {
    /// What stands in it.
    Text {
        /// Its text.
        text: String,
        /// The folder that a relative `workspace.path` in it starts from, absolute.
        base: PathBuf,
    },
    /// It is named and cannot be read.
    Unreadable {
        /// Why, for people.
        why: String,
    },
}

/// The roles and tools of a cluster.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    /// Role to its skills.
    pub roles: BTreeMap<RoleName, Vec<String>>,
    /// Names of tools.
    pub tools: BTreeSet<String>,
    /// Role to the tools that it may use; a role that is not here may use all.
    pub role_tools: BTreeMap<RoleName, Vec<String>>,
}

/// How large a document and its parts may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the document.
    pub document_bytes: usize,
    /// Levels of nesting.
    pub depth: usize,
    /// Runs, all matrices expanded.
    pub runs: usize,
    /// Bytes of one value that is substituted.
    pub value_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { document_bytes: 4 * 1024 * 1024, depth: 64, runs: 100_000, value_bytes: 64 * 1024 }
    }
}

/// A compiled document: the specification, or what is wrong with it.
#[derive(Debug, Clone)]
pub struct Compiled {
    /// Only if there are no problems.
    pub spec: Option<EpicSpec>,
    /// Everything that is wrong, in the order of the text; at most 200, then their number.
    pub problems: Vec<Problem>,
    /// Allowed, but probably not meant.
    pub warnings: Vec<Problem>,
}
