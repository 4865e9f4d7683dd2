//! `wait`: a duration, or the first message on a NATS subject.

use crate::api::ErrorCode;
use crate::document::check::{Check, References, Scope};
use crate::document::report::shown;
use crate::document::texts::{Part, parts};
use crate::document::yaml::{Entry, Kind, Node};
use crate::document::{Reference, WaitFor, Work, keys, read};
use crate::subjects;

impl Check<'_> {
    /// Reads what a task waits for.
    pub(super) fn wait(&mut self, entry: &Entry, refs: &mut References<'_>) -> Option<Work> {
        let node = &entry.value;
        if !matches!(node.kind, Kind::Map(_)) {
            let ms = read::duration(&mut self.report, node, "wait", 1)?;
            return Some(Work::Wait(WaitFor::Duration { ms }));
        }
        let fields = read::fields(&mut self.report, node, "wait", &[keys::WAIT])?;
        let Some(event) = fields.first() else {
            self.report.error_hint(
                node.place,
                ErrorCode::EpicType,
                "`wait` names no event",
                "write `wait: 10m` or `wait: {event: SUBJECT}`",
            );
            return None;
        };
        let text = read::text(&mut self.report, &event.value, "event")?;
        let before = self.report.count();
        self.references(&event.value, text, Scope::Planned, refs);
        if self.report.count() != before {
            return None;
        }
        let subject = self.with_inputs(text);
        self.subject(&event.value, &subject, refs).then_some(Work::Wait(WaitFor::Event { subject }))
    }

    /// True if the subject may be awaited, whatever the matrix puts in: values have no wildcards and no blanks, so one stands for all.
    fn subject(&mut self, node: &Node, subject: &str, refs: &References<'_>) -> bool {
        let mut filled = Vec::from([String::new()]);
        for (_, part) in parts(subject) {
            let choices: Vec<&str> = match &part {
                Part::Text(text) => vec![text],
                Part::Reference(Ok(Reference::Matrix(axis))) => {
                    let values = refs.axes.iter().filter(|known| known.axis == *axis).flat_map(|known| &known.values);
                    // What can go wrong: a dot at an edge, and the length.
                    let (mut dotted, mut longest) = (None, "x");
                    for value in values {
                        dotted =
                            dotted
                                .or(Some(value.as_str())
                                    .filter(|value| value.starts_with('.') || value.ends_with('.') || value.contains("..")));
                        longest = if value.len() > longest.len() { value } else { longest };
                    }
                    [Some(longest), dotted].into_iter().flatten().collect()
                }
                // An input without a value; only `validate` and `plan` come this far with it.
                Part::Reference(_) | Part::Open => vec!["x"],
            };
            filled = filled.iter().take(64).flat_map(|start| choices.iter().map(move |choice| format!("{start}{choice}"))).collect();
        }
        let wrong = filled.iter().find_map(|subject| subjects::awaitable(subject).err());
        match wrong {
            None => true,
            Some(why) => {
                let message = format!("`{}` cannot be awaited: {why}", shown(subject));
                let hint = "for instance deploy.approved.${{ inputs.env }}, or deploy.> for everything below";
                self.report.error_hint(node.place, ErrorCode::EpicType, message, hint);
                false
            }
        }
    }
}
