//! What all checks of one document share: the report, the names that exist, and the rules for references in texts.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::Value;

use crate::api::ErrorCode;
use crate::document::graph::Links;
use crate::document::inputs::Inputs;
use crate::document::options::CompileOptions;
use crate::document::report::{Report, shown};
use crate::document::sub_epic::Within;
use crate::document::texts::{self, Part};
use crate::document::yaml::{Kind, Node, Place};
use crate::document::{MatrixAxis, Reference, TaskSpec, input_value, shell, value_text};
use crate::ids::{PhaseName, ProjectId, Resource};

/// The state of a compilation.
pub(super) struct Check<'d> {
    pub options: &'d CompileOptions,
    /// The task whose epic this is, if it is one.
    pub within: Option<&'d Within>,
    pub report: Report,
    pub inputs: Inputs,
    /// Inputs that have a value.
    pub known: BTreeMap<String, Value>,
    pub phases: Vec<PhaseName>,
    pub phase_places: Vec<Place>,
    pub phase_index: HashMap<String, u32>,
    /// Names of tasks in the document's order, valid or not.
    pub task_names: Vec<&'d str>,
    pub task_index: HashMap<&'d str, u32>,
    pub priority: u8,
    /// The task that is being read.
    pub task: String,
    pub project: Option<ProjectId>,
    /// The tasks of each `on_change`, until the tasks are known.
    pub on_change: Vec<(Resource, Vec<(&'d str, Place)>)>,
}

/// A task that was read, before the graph is looked at.
pub(super) struct Draft {
    pub spec: TaskSpec,
    pub place: Place,
    pub links: Links,
    /// References to outputs, each with its place.
    pub outputs_read: Vec<(Reference, Place)>,
    /// The same of its `undo`, which may read the task's own outputs too.
    pub undo_reads: Vec<(Reference, Place)>,
    /// Tasks whose state a condition reads, each with its place.
    pub states_read: Vec<(String, Place)>,
}

/// Which references a text may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// Known when the document is compiled: inputs.
    Document,
    /// Known when the task is planned: inputs and the matrix.
    Planned,
    /// Known when the task runs: everything.
    Running,
}

/// The references of one task, collected while its texts are read.
pub(super) struct References<'a> {
    pub axes: &'a [MatrixAxis],
    pub all: BTreeSet<Reference>,
    pub outputs: Vec<(Reference, Place)>,
    pub states: Vec<(String, Place)>,
}

impl<'a> References<'a> {
    /// None yet, of a task with these axes.
    pub(super) fn of(axes: &'a [MatrixAxis]) -> Self {
        Self { axes, all: BTreeSet::new(), outputs: Vec::new(), states: Vec::new() }
    }
}

/// The place of a byte of a scalar; exact lines only in literal blocks.
pub(super) fn place_in(node: &Node, offset: usize) -> Place {
    match &node.kind {
        Kind::Scalar(scalar) if scalar.literal => {
            let lines = scalar.text.get(..offset).map_or(0, |text| text.bytes().filter(|b| *b == b'\n').count());
            Place { line: node.place.line.saturating_add(lines as u32), column: 1 }
        }
        Kind::Scalar(_) | Kind::List(_) | Kind::Map(_) => node.place,
    }
}

impl Check<'_> {
    /// Checks the references of `text`, which stands in `node`, and collects them.
    pub(super) fn references(&mut self, node: &Node, text: &str, scope: Scope, into: &mut References<'_>) {
        for (offset, part) in texts::parts(text) {
            let place = place_in(node, offset);
            match part {
                Part::Text(_) => {}
                Part::Open => self.report.wrong(place, "`${{` is never closed with `}}`"),
                Part::Reference(Err(text)) => {
                    let message = format!("`{}` is no reference", shown(&text));
                    let hint = "expected inputs.x, tasks.t.outputs.y, matrix.i or secrets.X";
                    self.report.error_hint(place, ErrorCode::EpicType, message, hint);
                }
                Part::Reference(Ok(reference)) => {
                    let is_new = self.reference(place, &reference, scope, into) && into.all.insert(reference.clone());
                    if is_new && matches!(reference, Reference::Output { .. }) {
                        into.outputs.push((reference, place));
                    }
                }
            }
        }
    }

    fn reference(&mut self, place: Place, reference: &Reference, scope: Scope, into: &References<'_>) -> bool {
        match reference {
            Reference::Input(path) => self.input(place, path),
            Reference::Matrix(axis) if scope != Scope::Document => {
                let exists = into.axes.iter().any(|known| known.axis == *axis);
                if !exists {
                    let hint = self.report.suggest(axis, into.axes.iter().map(|axis| axis.axis.as_str()));
                    let hint = hint.unwrap_or_else(|| format!("declare `matrix: {{{axis}: 1..4}}` at the task"));
                    self.report.error_hint(place, ErrorCode::EpicType, format!("the task's matrix has no axis `{axis}`"), hint);
                }
                exists
            }
            Reference::Output { .. } | Reference::Secret(_) if scope == Scope::Running => true,
            Reference::Matrix(_) | Reference::Output { .. } | Reference::Secret(_) => {
                let may = if scope == Scope::Document { "inputs" } else { "inputs and the matrix" };
                self.report.wrong(place, format!("`{reference}` is not known here yet: only {may} may be used in this text"));
                false
            }
        }
    }

    pub(super) fn input(&mut self, place: Place, path: &[String]) -> bool {
        let name = &path[0];
        match self.inputs.values.get(name) {
            None => {
                let hint = self.report.suggest(name, self.inputs.values.keys().map(String::as_str));
                let hint = hint.unwrap_or_else(|| format!("declare it: `inputs: {{{name}: …}}`"));
                self.report.error_hint(place, ErrorCode::EpicType, format!("the epic has no input `{name}`"), hint);
                false
            }
            Some(Some(_)) if input_value(&self.known, path).is_none() => {
                self.report.wrong(place, format!("input `{name}` has no `{}`", path[1..].join(".")));
                false
            }
            Some(_) => true,
        }
    }

    /// A text with the values of inputs in it. Values that are not known stay references.
    pub(super) fn with_inputs(&self, text: &str) -> String {
        texts::replace(text, |reference| match reference {
            Reference::Input(path) => input_value(&self.known, path).map(value_text),
            Reference::Output { .. } | Reference::Matrix(_) | Reference::Secret(_) => None,
        })
    }

    /// A run text as a script; what cannot be made safe is reported.
    pub(super) fn script(&mut self, node: &Node, text: &str) -> Option<crate::document::Script> {
        match shell::script(text) {
            Ok(script) => {
                if !script.variables.is_empty() && shell::reads_text_again(text) {
                    self.report.warn(
                        node.place,
                        ErrorCode::RunUnsafeSubstitution,
                        "this script hands text to another shell, which reads substituted values once more",
                        Some("pass values to it in the environment or as arguments, never inside its text".to_owned()),
                    );
                }
                Some(script)
            }
            Err(found) => {
                for unsafe_reference in found {
                    self.report.error_hint(
                        place_in(node, unsafe_reference.at),
                        ErrorCode::RunUnsafeSubstitution,
                        format!("a value cannot be put in safely {}", unsafe_reference.why),
                        "declare it in `env`, for instance `env: {TAG: '${{ inputs.tag }}'}`, and write \"$TAG\" there",
                    );
                }
                None
            }
        }
    }

    /// A name that nobody knows: a problem when it is about to run, otherwise a warning.
    pub(super) fn unknown_name(&mut self, place: Place, code: ErrorCode, message: String, hint: Option<String>) {
        match (self.options.unknown_names_are_errors, hint) {
            (true, Some(hint)) => self.report.error_hint(place, code, message, hint),
            (true, None) => self.report.error(place, code, message),
            (false, hint) => self.report.warn(place, code, message, hint),
        }
    }

    /// Something that a later release runs.
    pub(super) fn unsupported(&mut self, place: Place, what: &str, hint: &str) {
        self.report.error_hint(place, ErrorCode::EpicKindUnsupported, format!("this release cannot run {what} yet"), hint);
    }
}
