//! `locks`: the resources of a task. Inputs are put in here; the matrix is put in when the task is planned.

use crate::api::ErrorCode;
use crate::document::check::{Check, References, Scope};
use crate::document::report::shown;
use crate::document::texts::{Part, parts};
use crate::document::yaml::Node;
use crate::document::{LockSpec, MatrixAxis, Reference, input_value, keys, read};
use crate::ids::Resource;
use crate::overlap;

/// Most resources of one task.
const LOCKS_MAX: usize = 256;

impl Check<'_> {
    /// Reads a task's locks.
    pub(super) fn locks(&mut self, node: &Node, refs: &mut References<'_>) -> LockSpec {
        let mut locks = LockSpec::default();
        for field in read::fields(&mut self.report, node, "locks", &[keys::LOCKS]).unwrap_or_default() {
            let list = if field.key == "read" { &mut locks.read } else { &mut locks.write };
            for (text, item) in read::texts(&mut self.report, &field.value, &field.key).unwrap_or_default() {
                if let Some(lock) = self.lock(item, text, refs) {
                    list.push(lock);
                }
            }
        }
        if locks.read.len() + locks.write.len() > LOCKS_MAX {
            self.report.error(node.place, ErrorCode::EpicLimit, format!("a task may lock at most {LOCKS_MAX} resources"));
        }
        locks
    }

    fn lock(&mut self, node: &Node, text: &str, refs: &mut References<'_>) -> Option<String> {
        let before = self.report.count();
        self.references(node, text, Scope::Planned, refs);
        if self.report.count() != before {
            return None;
        }
        // A value that looks like a reference would be read as one when the task is planned.
        let lock = self.with_inputs(text);
        let left = parts(text).iter().filter(|(_, part)| self.stays(part)).count();
        if parts(&lock).iter().filter(|(_, part)| !matches!(part, Part::Text(_))).count() != left {
            self.report.wrong(node.place, "the value of an input in a lock looks like a reference itself");
            return None;
        }
        self.resource(node, &lock, refs.axes).then_some(lock)
    }

    /// True for a reference that inputs do not resolve.
    fn stays(&self, part: &Part<'_>) -> bool {
        match part {
            Part::Text(_) => false,
            Part::Reference(Ok(Reference::Input(path))) => input_value(&self.known, path).is_none(),
            Part::Reference(_) | Part::Open => true,
        }
    }

    /// Checks a resource that may hold references to the matrix. All values of an axis are harmless in a resource, only their
    /// length matters, so the longest of each axis stands for all instances.
    pub(super) fn resource(&mut self, node: &Node, text: &str, axes: &[MatrixAxis]) -> bool {
        let mut longest = String::new();
        let parts = parts(text);
        for (index, (start, part)) in parts.iter().enumerate() {
            match part {
                Part::Text(text) => longest.push_str(text),
                Part::Reference(Ok(Reference::Matrix(axis))) => {
                    let values = axes.iter().filter(|known| known.axis == *axis).flat_map(|known| &known.values);
                    longest.push_str(values.max_by_key(|value| value.len()).map_or("", String::as_str));
                }
                // A value that is missing; only `validate` and `plan` come this far with it.
                Part::Reference(_) | Part::Open => {
                    let end = parts.get(index + 1).map_or(text.len(), |(next, _)| *next);
                    longest.push_str(&text[*start..end]);
                }
            }
        }
        if let Some(problem) = overlap::has_marks(&longest).then(|| overlap::problem(&longest)).flatten() {
            let message = format!("`{}` is no resource: {problem}", shown(text));
            self.report.error_hint(node.place, ErrorCode::EpicType, message, "for instance file/src/*.rs or file/docs/**");
            return false;
        }
        let segments_fit = !longest.starts_with("file/") || longest.split('/').all(|segment| !matches!(segment, "" | "." | ".."));
        if !segments_fit || longest.trim() != longest {
            let message = format!("`{}` is no resource", shown(text));
            self.report.error_hint(node.place, ErrorCode::EpicType, message, "a path below `file/` has no empty, `.` or `..` parts");
            return false;
        }
        if let Err(error) = Resource::parse(&longest) {
            self.report.wrong(node.place, error.to_string());
            return false;
        }
        true
    }
}
