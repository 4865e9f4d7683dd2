//! `if`: the three cheap words, or an expression whose syntax and names are checked here.

use crate::api::ErrorCode;
use crate::document::check::{Check, References, place_in};
use crate::document::report::shown;
use crate::document::yaml::{Kind, Node, Place};
use crate::document::{Condition, Reference};
use crate::expression::{Expression, Fault};
use crate::ids::TaskName;

impl Check<'_> {
    /// Reads a condition. Which tasks it names is collected in `refs`; whether they come before is found with the graph.
    pub(super) fn condition(&mut self, node: &Node, refs: &mut References<'_>) -> Condition {
        let text = match &node.kind {
            Kind::Scalar(scalar) if !node.is_null() => scalar.text.trim(),
            Kind::Scalar(_) | Kind::List(_) | Kind::Map(_) => {
                self.report.wrong(node.place, format!("`if` must be a condition, not {}", node.class()));
                return Condition::Success;
            }
        };
        match text {
            "always()" => return Condition::Always,
            "failure()" => return Condition::Failure,
            "success()" => return Condition::Success,
            "" => {
                self.report.wrong(node.place, "`if` is empty");
                return Condition::Success;
            }
            _ => {}
        }
        match Expression::parse(text) {
            Ok(expression) => {
                self.names(node, text, &expression, refs);
                Condition::Expression { text: text.to_owned(), after_failure: expression.names().after_failure }
            }
            Err(faults) => {
                for Fault { at, message, hint } in faults {
                    let message = format!("{message} (at character {} of the condition)", characters(text, at));
                    self.report.error_hint(place_of(node, text, at), ErrorCode::EpicType, message, hint);
                }
                Condition::Success
            }
        }
    }

    fn names(&mut self, node: &Node, text: &str, expression: &Expression, refs: &mut References<'_>) {
        let names = expression.names();
        for (path, at) in &names.inputs {
            // What is inside a value is looked at when the condition is evaluated: `has()` may ask for it.
            self.input(place_of(node, text, *at), &path[..1]);
        }
        for (task, output, at) in &names.outputs {
            let place = place_of(node, text, *at);
            match TaskName::parse(task) {
                Ok(task) => refs.outputs.push((Reference::Output { task, output: output.clone() }, place)),
                Err(_) => self.unknown_task(place, task),
            }
        }
        for (task, at) in &names.states {
            refs.states.push((task.clone(), place_of(node, text, *at)));
        }
    }

    fn unknown_task(&mut self, place: Place, task: &str) {
        self.report.error(place, ErrorCode::EpicUnknownTask, format!("there is no task `{}`", shown(task)));
    }
}

/// The place of a byte of the trimmed text of a scalar: exact where the text stands in the document as it is.
fn place_of(node: &Node, text: &str, at: usize) -> Place {
    let Kind::Scalar(scalar) = &node.kind else { return node.place };
    let skipped = scalar.text.len() - scalar.text.trim_start().len();
    let place = place_in(node, skipped + at);
    let is_one_line = !text.contains('\n') && !scalar.literal;
    if is_one_line { Place { column: place.column.saturating_add(characters(text, at) as u32 - 1), ..place } } else { place }
}

/// The character at a byte, counted from 1.
fn characters(text: &str, at: usize) -> usize {
    text.get(..at).map_or(0, |before| before.chars().count()) + 1
}
