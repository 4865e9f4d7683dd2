//! Reads typed values out of the merged tree and collects all problems on the way.
//!
//! A wrong value gives a problem and a stand-in, so that the rest is checked too; with problems nothing is used.

use std::time::Duration;

use amphi_protocol::api::{ErrorCode, Problem};

use crate::duration::parse_duration;
use crate::layers::Origin;
use crate::yaml::{Entry, Kind, Node};

/// Most problems that are reported.
const PROBLEMS_MAX: usize = 200;

#[derive(Debug, Default)]
pub(crate) struct Reader {
    pub problems: Vec<Problem>,
    pub warnings: Vec<Problem>,
}

impl Reader {
    pub fn problem(&mut self, origin: &Origin, message: impl Into<String>, hint: Option<String>) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(note(origin, message.into(), hint));
        }
    }

    pub fn warn(&mut self, origin: &Origin, message: impl Into<String>, hint: Option<String>) {
        if self.warnings.len() < PROBLEMS_MAX {
            self.warnings.push(note(origin, message.into(), hint));
        }
    }

    fn expected(&mut self, node: &Node, path: &str, what: &str) {
        self.problem(&node.origin, format!("`{path}` must be {what}, not {}", node.class()), None);
    }

    /// The entries of a mapping; unknown keys are problems. `x-…` is ignored; nothing at all is an empty mapping.
    pub fn map<'n>(&mut self, node: &'n Node, path: &str, known: &[&str]) -> Vec<&'n Entry> {
        let entries = self.open_map(node, path);
        let mut kept = Vec::with_capacity(entries.len());
        for entry in entries {
            if known.contains(&entry.key.as_str()) {
                kept.push(entry);
            } else {
                let place = if path.is_empty() { "the team file".to_owned() } else { format!("`{path}`") };
                let hint = nearest(&entry.key, known).map(|near| format!("did you mean `{near}`?"));
                let hint = hint.or_else(|| Some(format!("known keys: {}", known.join(", "))));
                self.problem(&entry.origin, format!("{place} has no key `{}`", shown(&entry.key)), hint);
            }
        }
        kept
    }

    /// The entries of a mapping whose keys the user chooses.
    pub fn open_map<'n>(&mut self, node: &'n Node, path: &str) -> Vec<&'n Entry> {
        match &node.kind {
            Kind::Map(entries) => entries.iter().filter(|entry| !entry.key.starts_with("x-")).collect(),
            Kind::Null => Vec::new(),
            _ => {
                self.expected(node, if path.is_empty() { "the team file" } else { path }, "a mapping");
                Vec::new()
            }
        }
    }

    pub fn text(&mut self, node: &Node, path: &str) -> Option<String> {
        match &node.kind {
            Kind::Text(text) => Some(text.clone()),
            _ => {
                self.expected(node, path, "a text");
                None
            }
        }
    }

    /// A list of texts that are not empty.
    pub fn texts(&mut self, node: &Node, path: &str) -> Vec<String> {
        let Kind::List(items) = &node.kind else {
            self.expected(node, path, "a list of texts");
            return Vec::new();
        };
        let mut texts = Vec::with_capacity(items.len());
        for item in items {
            match &item.kind {
                Kind::Text(text) if !text.trim().is_empty() => texts.push(text.clone()),
                _ => self.expected(item, path, "a list of texts"),
            }
        }
        texts
    }

    pub fn boolean(&mut self, node: &Node, path: &str) -> Option<bool> {
        match &node.kind {
            Kind::Boolean(value) => Some(*value),
            // Flags and variables are texts.
            Kind::Text(text) if is_typed_elsewhere(node) && text == "true" => Some(true),
            Kind::Text(text) if is_typed_elsewhere(node) && text == "false" => Some(false),
            _ => {
                self.expected(node, path, "true or false");
                None
            }
        }
    }

    pub fn whole(&mut self, node: &Node, path: &str, range: std::ops::RangeInclusive<u64>) -> Option<u64> {
        let value = match &node.kind {
            Kind::Integer(value) => u64::try_from(*value).ok(),
            Kind::Text(text) if is_typed_elsewhere(node) => text.parse().ok(),
            _ => None,
        };
        let fitting = value.filter(|value| range.contains(value));
        if fitting.is_none() {
            self.problem(&node.origin, format!("`{path}` must be a whole number from {} to {}", range.start(), range.end()), None);
        }
        fitting
    }

    pub fn duration(&mut self, node: &Node, path: &str) -> Option<Duration> {
        let hint = || Some("write it as 500ms, 30s, 5m, 1h30m or 90d".to_owned());
        match &node.kind {
            Kind::Text(text) => match parse_duration(text) {
                Ok(duration) if !duration.is_zero() => Some(duration),
                Ok(_) => {
                    self.problem(&node.origin, format!("`{path}` must be longer than nothing"), None);
                    None
                }
                Err(error) => {
                    self.problem(&node.origin, format!("`{path}`: {error}"), hint());
                    None
                }
            },
            _ => {
                self.problem(&node.origin, format!("`{path}` must be a duration, not {}", node.class()), hint());
                None
            }
        }
    }

    pub fn choice<T: Copy>(&mut self, node: &Node, path: &str, choices: &[(&str, T)]) -> Option<T> {
        let text = self.text(node, path)?;
        let found = choices.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
        if found.is_none() {
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            let hint = nearest(&text, &names).map(|near| format!("did you mean `{near}`?"));
            self.problem(&node.origin, format!("`{path}` must be one of {}, not `{}`", names.join(", "), shown(&text)), hint);
        }
        found
    }
}

/// Values of flags and variables are texts whatever they mean.
fn is_typed_elsewhere(node: &Node) -> bool {
    matches!(node.origin, Origin::Flag { .. } | Origin::Environment { .. })
}

fn note(origin: &Origin, message: String, hint: Option<String>) -> Problem {
    let (file, line, column, message) = match origin {
        Origin::File { path, line, column } => (Some(path.display().to_string()), *line, *column, message),
        Origin::Flag { flag } => (None, 0, 0, format!("{flag}: {message}")),
        Origin::Environment { variable } => (None, 0, 0, format!("{variable}: {message}")),
        Origin::Default => (None, 0, 0, message),
    };
    Problem { file, line, column, code: ErrorCode::ConfigInvalid, message, hint }
}

/// The known word that a word most probably was meant to be.
pub(crate) fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    let near = known.iter().map(|name| (strsim::damerau_levenshtein(word, name), *name)).min()?;
    let limit = (near.1.len().max(word.len()) / 3).max(1);
    (near.0 <= limit).then_some(near.1)
}

pub(crate) fn shown(text: &str) -> String {
    text.chars().take(64).flat_map(char::escape_default).collect()
}
